// What clients live through when the server stops, dies or comes back; differential with Node where it can be.
import assert from "node:assert/strict";
import { once } from "node:events";
import { describe, test } from "node:test";
import { io } from "socket.io-client";
import { MODES } from "./lib/lab.mjs";
import { startOurs, startTwin } from "./lib/server.mjs";

const STARTS = { ours: startOurs, node: startTwin };

/** The same observation on both servers, equal. */
async function same(observe) {
  const [ours, node] = [await observe(startOurs), await observe(startTwin)];
  assert.deepEqual(ours, node);
  return ours;
}

function open(url, options) {
  return io(url, { forceNew: true, reconnection: false, ...options });
}

async function connected(socket, wanted = socket.io.opts.transports.at(-1)) {
  if (!socket.connected) await once(socket, "connect");
  const { engine } = socket.io;
  if (engine.transport.name !== wanted) await once(engine, "upgrade");
  return socket;
}

describe("the server stops", () => {
  for (const [mode, options] of Object.entries(MODES)) {
    test(`a stop is a "server shutting down", and no DISCONNECT is sent, ${mode}`, async () => {
      const seen = await same(async (start) => {
        const server = await start();
        const socket = await connected(open(server.url, { ...options, auth: { tag: "a" } }));
        const reason = once(socket, "disconnect").then(([reason]) => reason);
        const log = await server.stop();
        // after an "io server disconnect" it would not come back; Node's polling gives either of these
        assert.match(await reason, /^transport (close|error)$/);
        return log;
      });
      assert.equal(seen.a.at(-1).disconnect, "server shutting down");
    });

    test(`clients come back to a restarted server by themselves, ${mode}`, async () => {
      const reconnect = { reconnection: true, reconnectionDelay: 50, reconnectionDelayMax: 100 };
      await same(async (start) => {
        const first = await start();
        const socket = await connected(open(first.url, { ...options, ...reconnect }));
        const before = socket.id;
        await socket.emitWithAck("do", { op: "join", rooms: ["a"] });
        const down = once(socket, "disconnect");
        await first.kill();
        const [reason] = await down;
        socket.emit("echo", "said while nobody was there");
        const echo = once(socket, "echo");
        const second = await start(["--port", String(first.port)]);
        await once(socket, "connect");
        const seen = {
          reason,
          isNew: socket.id !== before,
          buffered: await echo,
          rooms: await socket.emitWithAck("do", { op: "rooms" }),
        };
        socket.disconnect();
        await second.stop();
        return seen;
      });
    });
  }
});

describe("options of the server", () => {
  test("the cookie is set by the first polling answer only", async () => {
    await same(async (start) => {
      const server = await start(["--cookie", "io"]);
      const open = await fetch(`${server.url}/socket.io/?EIO=4&transport=polling`);
      const { sid } = JSON.parse((await open.text()).slice(1));
      const join = { method: "POST", body: "40" };
      const post = await fetch(`${server.url}/socket.io/?EIO=4&transport=polling&sid=${sid}`, join);
      const cookie = open.headers.get("set-cookie");
      await server.stop();
      return [cookie.replace(sid, "<sid>").split("; ").sort(), post.headers.get("set-cookie")];
    });
  });

  test("an upgrade that is not offered is not made", async () => {
    await same(async (start) => {
      const server = await start(["--transports", "polling"]);
      const socket = await connected(open(server.url, MODES.upgrading), "polling");
      const refused = open(server.url, MODES.websocket);
      const [error] = await once(refused, "connect_error");
      const seen = [socket.io.engine.upgrade, await socket.emitWithAck("echo-ack", 1), error.message];
      socket.disconnect();
      await server.stop();
      return seen;
    });
  });

  test("a client with the other parser is closed", async () => {
    for (const start of Object.values(STARTS)) {
      const server = await start(["--parser", "msgpack"]);
      const socket = open(server.url, MODES.websocket);
      socket.io.engine.once("open", () => {});
      await once(socket.io, "close");
      assert.equal(socket.connected, false);
      await server.stop();
    }
  });

  test("too large a message ends its connection, and no other", async () => {
    await same(async (start) => {
      const server = await start(["--max-payload", "10000"]);
      const seen = [];
      for (const options of [MODES.websocket, MODES.polling]) {
        const [socket, other] = [open(server.url, options), open(server.url, options)];
        await Promise.all([connected(socket), connected(other)]);
        const [reason] = await Promise.all([
          once(socket, "disconnect").then(([reason]) => reason),
          socket.emit("echo", "x".repeat(20_000)),
        ]);
        seen.push(reason, await other.emitWithAck("echo-ack", "x".repeat(5_000)));
        other.disconnect();
      }
      await server.stop();
      return seen;
    });
  });
});
