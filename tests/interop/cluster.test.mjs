// Nodes of ours and of Node's in one cluster: every operation in every direction, and the emitter. What
// comes of it is the table in docs/cluster.md; UPDATE_DOCS=1 writes it, otherwise it is compared.
import assert from "node:assert/strict";
import { readFile, writeFile } from "node:fs/promises";
import { after, before, describe, test } from "node:test";
import { encode } from "@msgpack/msgpack";
import { open, startCluster } from "./lib/cluster.mjs";
import { ANYTHING, bytes, end, expect, OPERATIONS, people } from "./lib/operations.mjs";

const DOCS = new URL("../../docs/cluster.md", import.meta.url);
const LIMIT = { timeout: 30_000 };

let cluster;
before(async () => {
  cluster = await startCluster();
}, LIMIT);
after(() => cluster?.stop(), LIMIT);

/** Entries in the stream, as the official emitter writes them. (It is not on npm.) */
const base64 = (value) => Buffer.from(encode(value)).toString("base64");
const EMITTED = {
  "emit to a room": async (all, add) => {
    const packet = { type: 2, data: ["emitted", ...ANYTHING], nsp: "/" };
    await add("3", JSON.stringify({ packet, opts: { rooms: [all.room], flags: {}, except: [] } }));
    await end(all);
    await expect(all.inside, ["emitted", ...ANYTHING], ["end"]);
    await expect(all.outside, ["end"]);
  },
  "emit binary": async (all, add) => {
    const packet = { type: 2, data: ["emitted", bytes(9, 8)], nsp: "/" };
    await add("3", base64({ packet, opts: { rooms: [all.room], flags: {}, except: [] } }));
    await end(all);
    await expect(all.inside, ["emitted", bytes(9, 8)], ["end"]);
  },
  socketsJoin: async (all, add) => {
    const opts = { rooms: [all.room], except: [], flags: {} };
    await add("4", JSON.stringify({ opts, rooms: [`${all.room}-3`] }));
    await all.caller.ask({ op: "emit", event: "joined", to: [`${all.room}-3`] });
    await expect(all.inside, ["joined"]);
  },
  socketsLeave: async (all, add) => {
    const opts = { rooms: [all.inside.id], except: [], flags: {} };
    await add("5", JSON.stringify({ opts, rooms: [all.room] }));
    await all.caller.ask({ op: "emit", event: "left", to: [all.room] });
    await end(all);
    await expect(all.inside, ["end"]);
  },
  disconnectSockets: async (all, add) => {
    const opts = { rooms: [all.room], except: [], flags: {} };
    await add("6", JSON.stringify({ opts, close: false }));
    assert.equal(await all.inside.disconnected, "io server disconnect");
  },
  serverSideEmit: async (all, add) => {
    await add("9", JSON.stringify({ packet: ["tell", "from afar"] }));
    await expect(all.inside, ["server-side", "from afar"]);
  },
};

const DIRECTIONS = ["Rust → Rust", "Rust → Node", "Node → Rust"];
const results = new Map();
const note = (operation, direction) => {
  const row = results.get(operation) ?? new Map();
  results.set(operation, row.set(direction, true));
};

describe("every operation arrives in every direction", { concurrency: false }, () => {
  for (const [operation, body] of Object.entries(OPERATIONS)) {
    results.set(operation, new Map());
    for (const direction of DIRECTIONS) {
      test(`${operation}: ${direction}`, LIMIT, async () => {
        const pair = cluster.directions[direction];
        await people(pair, (all) => body(all, pair));
        note(operation, direction);
      });
    }
  }
});

describe("entries as the streams emitter writes them arrive", { concurrency: false }, () => {
  for (const [operation, body] of Object.entries(EMITTED)) {
    const name = `emitter: ${operation}`;
    results.set(name, new Map());
    for (const [direction, node] of [["emitter → Rust", "b"], ["emitter → Node", "n"]]) {
      test(`${operation}: ${direction}`, LIMIT, async () => {
        const { redis, nodes } = cluster;
        const add = (type, data) =>
          redis.client.xAdd("socket.io", "*", { uid: "emitter", nsp: "/", type, data });
        await people([nodes.a, nodes[node]], (all) => body(all, add));
        note(name, direction);
      });
    }
  }
});

test("both kinds of nodes see one order of what both publish", LIMIT, async () => {
  const { a, b, n } = cluster.nodes;
  const readers = await Promise.all([a, b, n].map((node) => open(node)));
  const publish = async (client, name) => {
    const asked = [];
    for (let i = 0; i < 100; i++) asked.push(client.ask({ op: "emit", event: name, args: [i] }));
    await Promise.all(asked);
  };
  await Promise.all([publish(readers[0], "a"), publish(readers[1], "b")]);
  const orders = [];
  for (const reader of readers) {
    const order = [];
    while (order.length < 200) order.push((await reader.next()).join(" "));
    orders.push(order);
    reader.close();
  }
  assert.deepEqual(orders[1], orders[0]);
  // Node delivers what other nodes publish in the stream's order, too
  assert.deepEqual(orders[2], orders[0]);
});

test("the table in docs/cluster.md is what came of it", async () => {
  const mark = (row, direction) => (row.get(direction) ? "✓" : "–");
  const lines = ["| operation | Rust → Rust | Rust → Node | Node → Rust |", "|---|---|---|---|"];
  const emitter = ["| entry of the emitter | → Rust | → Node |", "|---|---|---|"];
  for (const [operation, row] of results) {
    if (operation.startsWith("emitter: ")) {
      const marks = ["emitter → Rust", "emitter → Node"].map((direction) => mark(row, direction));
      emitter.push(`| ${operation.slice("emitter: ".length)} | ${marks.join(" | ")} |`);
    } else {
      const marks = DIRECTIONS.map((direction) => mark(row, direction));
      lines.push(`| ${operation} | ${marks.join(" | ")} |`);
    }
  }
  const table = [...lines, "", ...emitter].join("\n");
  const docs = await readFile(DOCS, "utf8");
  const pattern = /(<!-- interop matrix -->\n)[^]*?(\n<!-- end -->)/;
  assert.match(docs, pattern);
  const updated = docs.replace(pattern, (_, begin, close) => begin + table + close);
  if (process.env.UPDATE_DOCS) await writeFile(DOCS, updated);
  else assert.equal(docs, updated, "UPDATE_DOCS=1 node --test cluster.test.mjs writes it");
});
