// Polling through proxies: every request of a session reaches the node that has it. The official client, three nodes,
// and the proxies of Debian and PyPI, configured as the overlays in manifests/ have their controllers do it.
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { randomUUID } from "node:crypto";
import { io } from "socket.io-client";
import * as proxies from "./lib/proxies.mjs";
import { startOurs } from "./lib/server.mjs";

/** So many that a hash, which knows no turns, hardly ever sends all of them to one node. */
const CLIENTS = 16;
const CALLS = 8;

describe("polling through a proxy", () => {
  let nodes;
  before(async () => {
    const flags = ["--sid-header", "x-quicket-sid", "--shutdown-grace", "1s"];
    nodes = await Promise.all([1, 2, 3].map(() => startOurs(flags)));
  });
  after(() => Promise.all(nodes.map((node) => node.stop())));

  /** Of all nodes together, and how many of them had sessions. */
  async function counted() {
    const texts = await Promise.all(nodes.map(async (node) => (await fetch(`${node.url}/metrics`)).text()));
    const sum = (text, pattern) =>
      [...text.matchAll(pattern)].reduce((total, found) => total + Number(found[1]), 0);
    const opened = texts.map((text) => sum(text, /^quicket_sessions_opened_total\{.*\} (\d+)$/gm));
    const unknown = texts.map((text) => sum(text, /refused_total\{error="session_unknown"\} (\d+)$/gm));
    return { opened, unknown: unknown.reduce((a, b) => a + b, 0) };
  }

  /** Each client opens a session and asks something a few times, then moves to WebSocket if it may. */
  async function talk(url, options) {
    const before = await counted();
    const clients = await Promise.all(
      Array.from({ length: CLIENTS }, async () => {
        const query = { route: randomUUID() };
        const socket = io(url, { reconnection: false, forceNew: true, timeout: 10_000, query, ...options });
        const faults = [];
        for (const event of ["connect_error", "disconnect"]) {
          socket.on(event, (reason) => faults.push(`${event}: ${reason.message ?? reason}`));
        }
        const upgraded = new Promise((resolve) => socket.io.engine?.once("upgrade", resolve));
        try {
          await new Promise((resolve, reject) => {
            socket.once("connect", resolve);
            socket.once("connect_error", reject);
          });
          for (let call = 0; call < CALLS; call += 1) {
            const answer = await socket.timeout(10_000).emitWithAck("echo-ack", call);
            assert.deepEqual(answer, call);
          }
          if (options.transports.includes("websocket")) await upgraded;
        } catch (error) {
          faults.push(`${error}`);
        }
        const { name } = socket.io.engine.transport;
        socket.removeAllListeners("disconnect");
        socket.disconnect();
        return { faults, transport: name };
      }),
    );
    const after = await counted();
    return {
      faults: clients.flatMap((client) => client.faults),
      transports: new Set(clients.map((client) => client.transport)),
      unknown: after.unknown - before.unknown,
      nodes: after.opened.filter((opened, at) => opened > before.opened[at]).length,
    };
  }

  /** Without a single "Session ID unknown", on more than one node. */
  function isSticky(name, start, options) {
    test(name, async () => {
      const proxy = await start(nodes);
      try {
        const polling = await talk(proxy.url, { transports: ["polling"], ...options });
        assert.deepEqual(polling.faults, []);
        assert.equal(polling.unknown, 0);
        assert.ok(polling.nodes > 1, "the proxy spreads sessions");
        const all = await talk(proxy.url, { transports: ["polling", "websocket"], ...options });
        assert.deepEqual({ faults: all.faults, unknown: all.unknown }, { faults: [], unknown: 0 });
        assert.deepEqual([...all.transports], ["websocket"]);
      } finally {
        await proxy.stop();
      }
    });
  }

  // Node's client keeps cookies if it is told to use credentials; browsers do for the page's own host.
  const cookies = { withCredentials: true };

  isSticky("HAProxy with the cookie of overlays/haproxy-ingress", proxies.haproxyCookie, cookies);
  isSticky("HAProxy with docker/haproxy.cfg", proxies.haproxyOfCompose, cookies);
  isSticky("HAProxy learns the sid (overlays/haproxy-ingress-sid), clients keep no cookies", proxies.haproxyLearnsSid);
  isSticky("nginx with a hash of its cookie", proxies.nginxCookie, cookies);
  isSticky("nginx with a key of the client's, which keeps no cookies", proxies.nginxClientKey);
  isSticky("Envoy with a hash of its cookie (Istio, Contour, Envoy Gateway)", proxies.envoyCookie, cookies);

  test("without stickiness sessions are not found: the tests above can fail", async () => {
    const proxy = await proxies.nginxRoundRobin(nodes);
    try {
      const { faults, unknown } = await talk(proxy.url, { transports: ["polling"] });
      assert.ok(faults.length > 0 && unknown > 0);
    } finally {
      await proxy.stop();
    }
  });

  test("cookies that the client throws away keep it nowhere", async () => {
    const proxy = await proxies.haproxyCookie(nodes);
    try {
      const { unknown } = await talk(proxy.url, { transports: ["polling"] });
      assert.ok(unknown > 0);
    } finally {
      await proxy.stop();
    }
  });
});

test("the frontend image's nginx serves the page as the server does", async () => {
  const proxy = await proxies.frontend();
  try {
    const get = async (path) => {
      const answer = await fetch(proxy.url + path);
      return { status: answer.status, headers: Object.fromEntries(answer.headers), text: await answer.text() };
    };
    const page = await get("/");
    assert.equal(page.status, 200);
    assert.match(page.headers["content-type"], /^text\/html; charset=utf-8$/i);
    assert.match(page.headers["content-security-policy"], /^default-src 'self'; /);
    assert.equal(page.headers["x-content-type-options"], "nosniff");
    assert.equal(page.headers["cache-control"], "public, max-age=0");
    const asset = await get(/assets\/[^"]+\.js/.exec(page.text)[0].replace(/^/, "/"));
    assert.equal(asset.headers["cache-control"], "public, max-age=31536000, immutable");
    assert.match(asset.headers["content-type"], /javascript/);
    assert.equal((await get("/healthz")).text, "ok\n");
    assert.equal((await get("/nothing")).status, 404);
    assert.equal((await get("/b/some-board")).text, page.text);
    const bundle = await get("/socket.io/socket.io.min.js");
    assert.equal(bundle.status, 200);
  } finally {
    await proxy.stop();
  }
});
