// make fallback: how long until a page has its first event, on networks that are not kind.
//
// Real browsers, the real server; the same page with three clients, one after the other, in turns:
//   raced     frontend/src/connect.ts
//   official  socket.io-client as it is (long-polling, then an upgrade)
//   ordered   socket.io-client with WebTransport first and `tryAllTransports`
// Every page is a stranger: nothing is remembered of the network. RUNS (5), BROWSERS and NETWORKS choose.
// UPDATE_DOCS=1 writes docs/fallback.md. It fails if the raced client does not recover where it should, or loses
// an event; times are measured, not judged.
import { execFileSync } from "node:child_process";
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { launch } from "./lib/browsers.mjs";
import { startProxy } from "./lib/proxy.mjs";
import { startRedis } from "./lib/redis.mjs";
import { startServer } from "./lib/server.mjs";

const RUNS = Number(process.env.RUNS ?? 5);
const BROWSERS = (process.env.BROWSERS ?? "chromium,firefox").split(",");
const WAIT = { polling: 20, timeout: 60_000 };
/** Who has not connected by then is said not to have. */
const PATIENCE = 45_000;
const frontend = fileURLToPath(new URL("../../frontend", import.meta.url));

/** What the raced client is to do; issue 7. */
const AIMS = {
  "all open": "as the official",
  "UDP dropped": "1 s",
  "UDP refused": "0.5 s",
  "UDP dropped, WebSocket refused": "1.5 s",
  "server restarted": "1.5 s, recovered, 0 lost",
  "server drained, a second one there": "recovered, 0 lost",
};
const NETWORKS = {
  "all open": { udp: "open" },
  "UDP dropped": { udp: "dropped" },
  "UDP refused": { udp: "refused" },
  "UDP dropped, WebSocket refused": { udp: "dropped", upgrades: false },
};
const CLIENTS = ["raced", "official", "ordered"];
// Nobody is compared with a page's own origin here: the proxy stands between the two.
const SETTINGS = { ALLOWED_ORIGINS: "*", RECOVERY_WINDOW: "120s" };

async function bundle() {
  const { build } = await import(pathToFileURL(join(frontend, "node_modules/vite/dist/node/index.js")).href);
  const { output } = await build({
    root: frontend,
    configFile: false,
    logLevel: "error",
    build: { write: false, modulePreload: { polyfill: false }, rollupOptions: { input: join(frontend, "bench/first-event.ts") } },
  });
  return output[0].code;
}

const code = await bundle();

/** As in frontend/index.html. */
const PRELOAD = '<link rel="preload" href="/webtransport.json" as="fetch" crossorigin>';

/** The page; the offer stands in it, so that the official client need not ask. */
function files(offer) {
  const page = (client) => `<!doctype html><title>fallback</title>${client === "raced" ? PRELOAD : ""}<script>window.offer = ${JSON.stringify(offer)}</script><script type="module" src="/measure.js"></script>`;
  return {
    ...Object.fromEntries(CLIENTS.map((client) => [`/${client}`, { type: "text/html", text: page(client) }])),
    "/measure.js": { type: "text/javascript", text: code },
  };
}

const offerOf = (server) => fetch(`${server.url}/webtransport.json`).then((answer) => answer.json());

async function open(browser, url, client) {
  const context = await browser.createBrowserContext();
  const page = await context.newPage();
  const board = Math.random().toString(36).slice(2);
  await page.goto(`${url}/${client}?client=${client}&board=${board}`, { timeout: 60_000 });
  return { page, board, close: () => context.close() };
}

const arrived = (page, count, timeout = WAIT.timeout) =>
  page.waitForFunction((count) => window.result.arrivals.length >= count, { ...WAIT, timeout }, count);
const NEVER = { ms: Infinity, how: "still trying" };

/** The official clients may hang on some network; ours may not. */
async function neverArrived(page, client, count) {
  const isAllowed = (error) => client !== "raced" && error.name === "TimeoutError";
  return arrived(page, count, PATIENCE).then(
    () => false,
    (error) => isAllowed(error) || Promise.reject(error),
  );
}

const result = (page) => page.evaluate(() => window.result);

/** One page until its first event, and a moment longer for the official client's upgrade. */
async function firstEvent(browser, url, client) {
  const { page, close } = await open(browser, url, client);
  try {
    if (await neverArrived(page, client, 1)) return NEVER;
    const [{ at, transport }] = (await result(page)).arrivals;
    if (client === "official") {
      const upgraded = () => window.result.upgraded !== undefined;
      await page.waitForFunction(upgraded, { polling: 20, timeout: 2_000 }).catch(() => {});
    }
    const { upgraded } = await result(page);
    return { ms: at, how: upgraded ? `${transport}, then ${upgraded.to}` : transport };
  } finally {
    await close();
  }
}

/** Nobody is always first. */
const inTurn = (run) => CLIENTS.map((_, at) => CLIENTS[(at + run) % CLIENTS.length]);

async function onNetwork(browser, options, add) {
  const server = await startServer(undefined, SETTINGS);
  const offer = await offerOf(server);
  const proxy = await startProxy(server.port, options);
  // The proxy's own port is what its network lets through, or does not.
  const seen = options.udp === "open" ? offer : { ...offer, port: proxy.port };
  Object.assign(proxy.files, files(seen));
  const hopeless = new Set();
  try {
    // A browser's first page pays for the browser.
    await firstEvent(browser, proxy.url, "official");
    for (let run = 0; run < RUNS; run += 1) {
      for (const client of inTurn(run)) {
        // Once is enough to wait in vain.
        if (!hopeless.has(client)) {
          const one = await firstEvent(browser, proxy.url, client);
          if (one.ms === Infinity) hopeless.add(client);
          add(client, one);
        }
      }
    }
  } finally {
    await proxy.stop();
    await server.stop();
  }
}

/**
 * A publisher: counts, 50 times a second, as points of a stroke. What it has counted arrives: it repeats what was
 * not acknowledged, in order, over a loss of its connection too.
 */
async function publish(url, board) {
  const { io } = await import(pathToFileURL(join(frontend, "node_modules/socket.io-client/build/esm-debug/index.js")).href);
  const options = { transports: ["websocket"], retries: Infinity, ackTimeout: 2_000 };
  const pace = { reconnectionDelay: 100, reconnectionDelayMax: 200 };
  const socket = io(url, { ...options, ...pace, auth: { board, key: "publisher" } });
  await new Promise((resolve) => socket.once("board", resolve));
  let count = 0;
  const timer = setInterval(() => {
    const style = count === 0 ? { c: "red", w: 3, k: 2 } : undefined;
    socket.emit("draw", { s: "n", i: 2 * count, p: [count, 0], ...(style && { style }) });
    count += 1;
  }, 20);
  return {
    get count() {
      return count;
    },
    stop() {
      clearInterval(timer);
      socket.disconnect();
    },
  };
}

/** What the raced client did not do as it should. */
const failures = [];

/** Waits for everything that was counted until now, and says how the page came back. */
async function cameBack(page, client, publisher, what) {
  const until = publisher.count;
  await page.waitForFunction((until) => window.result.numbers.includes(until), WAIT, until);
  const { arrivals, numbers } = await result(page);
  const seen = new Set(numbers);
  const lost = Array.from({ length: until }, (_, n) => n).filter((n) => n > 0 && !seen.has(n));
  const { date, transport, recovered } = arrivals[1];
  const how = `${transport}, ${recovered ? "recovered" : "new session"}, ${lost.length} lost`;
  if (client === "raced" && !(recovered && lost.length === 0)) failures.push(`${what}: ${how}`);
  return { date, how };
}

/** One server with Redis. From the moment at which its successor is ready to the first event of the page. */
async function restarted(browser, add) {
  const redis = await startRedis();
  const settings = { ...SETTINGS, REDIS_URL: redis.url };
  try {
    for (let run = 0; run < RUNS; run += 1) {
      for (const client of inTurn(run)) {
        let server = await startServer(undefined, settings);
        const proxy = await startProxy(server.port, { udp: "open", files: files(await offerOf(server)) });
        const { page, board, close } = await open(browser, proxy.url, client);
        await arrived(page, 1);
        const publisher = await publish(server.url, board);
        try {
          await page.waitForFunction(() => window.result.numbers.length > 5, WAIT);
          const { port } = server;
          await server.stop();
          server = await startServer(port, settings);
          const ready = Date.now();
          await arrived(page, 2);
          const { date, how } = await cameBack(page, client, publisher, "server restarted");
          add(client, { ms: Math.max(date - ready, 0), how });
        } finally {
          publisher.stop();
          await close();
          await proxy.stop();
          await server.stop();
        }
      }
    }
  } finally {
    await redis.stop();
  }
}

/** Two nodes; the page's one drains. From SIGTERM to the page's first event from the other. */
async function drained(browser, add) {
  const redis = await startRedis();
  const settings = { ...SETTINGS, REDIS_URL: redis.url };
  try {
    const hopeless = new Set();
    const other = await startServer(undefined, settings);
    for (let run = 0; run < RUNS; run += 1) {
      for (const client of inTurn(run).filter((client) => !hopeless.has(client))) {
        const leaving = await startServer(undefined, settings);
        const proxy = await startProxy(leaving.port, { udp: "open", files: files(await offerOf(leaving)) });
        const { page, board, close } = await open(browser, proxy.url, client);
        await arrived(page, 1);
        const publisher = await publish(other.url, board);
        try {
          await page.waitForFunction(() => window.result.numbers.length > 5, WAIT);
          proxy.follow(other.port);
          const told = Date.now();
          const stopped = leaving.stop();
          if (await neverArrived(page, client, 2)) {
            hopeless.add(client);
            add(client, NEVER);
            await stopped;
            continue;
          }
          const { date, how } = await cameBack(page, client, publisher, "server drained");
          await stopped;
          add(client, { ms: date - told, how });
        } finally {
          publisher.stop();
          await close();
          await proxy.stop();
        }
      }
    }
    await other.stop();
  } finally {
    await redis.stop();
  }
}

const rows = [];
async function row(network, browserName, measure) {
  if (process.env.NETWORKS && !network.includes(process.env.NETWORKS)) return;
  const found = new Map(CLIENTS.map((client) => [client, []]));
  const browser = await launch(browserName);
  try {
    await measure(browser, (client, one) => found.get(client).push(one));
  } finally {
    await browser.close();
  }
  const cells = CLIENTS.map((client) => summary(found.get(client)));
  rows.push(`| ${network} | ${AIMS[network]} | ${browserName} | ${cells.join(" | ")} |`);
  console.log(rows.at(-1));
}

/** The median, the worst, and how. */
function summary(runs) {
  const sorted = runs.map(({ ms }) => Math.round(ms)).sort((a, b) => a - b);
  const how = [...new Set(runs.map(({ how }) => how))].join(" / ");
  if (sorted.at(-1) === Infinity) return `**none** within ${PATIENCE / 1_000} s, ${how}`;
  return `**${sorted[Math.floor(sorted.length / 2)]} ms** (worst ${sorted.at(-1)}), ${how}`;
}

for (const browser of BROWSERS) {
  for (const [network, options] of Object.entries(NETWORKS)) {
    await row(network, browser, (page, add) => onNetwork(page, options, add));
  }
  await row("server restarted", browser, restarted);
  await row("server drained, a second one there", browser, drained);
}

const version = (command) => execFileSync(command, ["--version"], { encoding: "utf8", stdio: ["ignore", "pipe", "ignore"] }).trim();
const text = `# Fallback: time to the first event

Made by \`UPDATE_DOCS=1 make fallback\`; do not edit. ${RUNS} runs each, median and worst.

From the start of the page's navigation to its first Socket.IO event; after a restart, from the moment at which
the new server is ready; when draining, from SIGTERM. Both with Redis. Every page is a new browser context, so nothing is
remembered of the network. All on one machine, without delay: the figures are waits, not round trips.

- **raced**: \`frontend/src/connect.ts\`, with the whiteboard's back-off (250 ms to 1 s).
- **official**: \`socket.io-client\` with its defaults: long-polling first, then an upgrade. Its own back-off.
- **ordered**: \`socket.io-client\` with \`transports: ["webtransport", "websocket", "polling"]\` and
  \`tryAllTransports\`. Both official clients are handed the certificate's hashes with the page; the raced one
  asks for them, which is in its time. After a restart theirs are those of the server before, after a drain their UDP port is that of the node that left.

| network | aim | browser | raced | official | ordered |
|---|---|---|---|---|---|
${rows.join("\n")}

UDP is dropped by a socket that never answers, refused by a port that nobody listens on; WebSocket is refused
with 403 by a proxy. *lost*: of events counted by a publisher meanwhile (on the same server, or on the one that stays),
those that never came, neither as events nor in the board's picture.

The ordered client never connects in Firefox where UDP does not get through: Firefox gives up after some 30 s, the client's
manager after 20 s, and the next attempt begins with WebTransport again.

${version(process.env.CHROMIUM ?? "chromium")}, ${version(process.env.FIREFOX ?? "firefox-esr")}.
`;
if (process.env.UPDATE_DOCS) {
  await writeFile(fileURLToPath(new URL("../../docs/fallback.md", import.meta.url)), text);
}
if (failures.length > 0) {
  console.error(`the raced client:\n${failures.join("\n")}`);
  process.exitCode = 1;
}
