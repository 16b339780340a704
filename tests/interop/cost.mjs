// `make cost`: what the release binary takes of the processor, counted in instructions by callgrind, so that it is
// the same on a busy machine as on an idle one. Compared with cost.json; UPDATE_DOCS=1 writes that anew.
//
// Each work is done twice, by a server of its own each time, once more often than the other time: the difference
// is the work's, and what starting and ending take is not in it.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { after, test } from "node:test";
import { fileURLToPath } from "node:url";
import { io } from "socket.io-client";

const path = (relative) => fileURLToPath(new URL(relative, import.meta.url));
const RECORD = path("cost.json");
const BINARY = process.env.QUICKET ?? path("../../target/release/quicket");
/** What processors and the order in which things meet make of the same work. */
const MARGIN = 0.1;
const CLIENTS = 100;
const LIMIT = { timeout: 120_000 };

/** Instructions of a server's whole life, in which `live` is done with it. */
async function count(live) {
  const directory = await mkdtemp(join(tmpdir(), "quicket-cost-"));
  const file = `${directory}/callgrind.out`;
  const args = ["--tool=callgrind", `--callgrind-out-file=${file}`, BINARY, "--listen-address", "127.0.0.1"];
  // one thread: how several share the work is chance
  const env = { PATH: process.env.PATH, PORT: "0", DRAIN_DELAY: "0s", TOKIO_WORKER_THREADS: "1", NO_COLOR: "1" };
  const child = spawn("valgrind", args, { env, stdio: ["ignore", "inherit", "pipe"] });
  const exited = once(child, "exit");
  const log = [];
  try {
    const url = await new Promise((resolve, reject) => {
      child.once("error", reject);
      child.once("exit", (code) => reject(new Error(`valgrind ended with ${code}:\n${log.join("\n")}`)));
      createInterface({ input: child.stderr }).on("line", (line) => {
        log.push(line);
        const found = /http:\/\/localhost:(\d+)/.exec(line);
        if (found) resolve(`http://127.0.0.1:${found[1]}`);
      });
    });
    await live(url);
    child.kill("SIGTERM");
    const [code] = await exited;
    assert.equal(code, 0, log.join("\n"));
    return Number(/^(?:totals|summary): (\d+)/m.exec(await readFile(file, "utf8"))[1]);
  } finally {
    child.kill("SIGKILL");
    await rm(directory, { recursive: true, force: true });
  }
}

async function connect(url, transport, count, board = () => "one") {
  const sockets = [];
  for (let at = 0; at < count; at++) {
    const socket = io(url, { transports: [transport], forceNew: true, auth: { board: board(at) } });
    // the client is at the board
    await once(socket, "board");
    sockets.push(socket);
  }
  return sockets;
}

const leave = (sockets) => sockets.forEach((socket) => socket.disconnect());

/** One of a hundred draws so many strokes, `atOnce` at a time; all the others see each of them. */
async function draw(url, transport, strokes, atOnce) {
  const sockets = await connect(url, transport, CLIENTS);
  const [painter, ...others] = sockets;
  const seen = others.map(() => 0);
  let wanted = 0;
  let wake = () => {};
  others.forEach((socket, index) =>
    socket.on("draw", () => {
      seen[index]++;
      if (seen.every((count) => count >= wanted)) wake();
    }),
  );
  for (let stroke = 0; stroke < strokes; ) {
    wanted = stroke + atOnce;
    const all = new Promise((resolve) => (wake = resolve));
    const answers = [];
    for (; stroke < wanted; stroke++) {
      const chunk = { s: `s${stroke}`, i: 0, p: [1, 2, 3, 4, 5, 6, 7, 8], style: { c: "red", w: 2, k: 2 } };
      answers.push(painter.emitWithAck("draw", chunk));
    }
    await all;
    for (const answer of await Promise.all(answers)) assert.deepEqual(answer, { have: 8 });
  }
  assert.ok(seen.every((count) => count === strokes), `seen: ${seen}`);
  leave(sockets);
}

/** One after the other: how many of their requests fall together is chance. */
async function come(url, transport, count) {
  for (let at = 0; at < count; at++) {
    const [socket] = await connect(url, transport, 1);
    const { engine } = socket.io;
    const closed = new Promise((resolve) => engine.once("close", resolve));
    socket.disconnect();
    await closed;
  }
}

/** What is done how often, and how much of it that is. */
const WORKS = {
  "a delivery over WebSocket": { few: 20, many: 80, each: CLIENTS - 1, act: (url, n) => draw(url, "websocket", n, 1) },
  "a delivery over WebSocket, 20 events at once": {
    few: 40,
    many: 240,
    each: CLIENTS - 1,
    act: (url, n) => draw(url, "websocket", n, 20),
  },
  "a delivery over polling": { few: 5, many: 125, each: CLIENTS - 1, act: (url, n) => draw(url, "polling", n, 1) },
  "a client that comes and goes over WebSocket": {
    few: 20,
    many: 120,
    each: 1,
    act: (url, n) => come(url, "websocket", n),
  },
  "a client that comes and goes over polling": { few: 20, many: 80, each: 1, act: (url, n) => come(url, "polling", n) },
};

const known = JSON.parse(await readFile(RECORD, "utf8").catch(() => "{}"));
const counted = {};

for (const [name, { few, many, each, act }] of Object.entries(WORKS)) {
  test(name, LIMIT, async () => {
    const less = await count((url) => act(url, few));
    const more = await count((url) => act(url, many));
    counted[name] = Math.round((more - less) / ((many - few) * each));
    console.log(`${name}: ${counted[name]} instructions (${known[name]} on record)`);
    if (process.env.UPDATE_DOCS) return;
    assert.ok(name in known, "UPDATE_DOCS=1 make cost writes it");
    const bound = known[name] * (1 + MARGIN);
    assert.ok(counted[name] <= bound, `dearer than before (${known[name]}); if it is worth that: UPDATE_DOCS=1 make cost`);
  });
}

after(async () => {
  const all = Object.keys(WORKS).map((name) => [name, counted[name] ?? known[name]]);
  if (process.env.UPDATE_DOCS) await writeFile(RECORD, `${JSON.stringify(Object.fromEntries(all), null, 2)}\n`);
});
