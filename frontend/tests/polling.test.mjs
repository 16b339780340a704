// Long-polling that loses a race: the official client's own classes, and a server that notes what it is asked.
import assert from "node:assert/strict";
import { once } from "node:events";
import { createServer } from "node:http";
import { describe, test } from "node:test";
import { Fetch, io, NodeXHR } from "socket.io-client";
import { Memory } from "../node_modules/.test/connect/memory.js";
import { raced } from "../node_modules/.test/connect.js";
import { Fake, latest, memoryStore, settled } from "./fakes.mjs";

const HANDSHAKE = '0{"sid":"orphan","upgrades":[],"pingInterval":25000,"pingTimeout":20000,"maxPayload":1000000}';

/** Every request waits until the test answers it. */
class Server {
  #requests = [];
  #wanted = [];

  async start(t) {
    const server = createServer(async (request, response) => {
      let body = "";
      for await (const piece of request) body += piece;
      const { searchParams } = new URL(request.url, "http://h");
      const answer = (text) => response.end(text);
      const one = { what: `${request.method} ${searchParams.get("sid")} ${body}`.trim(), answer };
      const wanted = this.#wanted.shift();
      if (wanted) wanted(one);
      else this.#requests.push(one);
    });
    server.listen(0, "127.0.0.1");
    await once(server, "listening");
    t.after(() => server.close());
    t.after(() => server.closeAllConnections());
    return server.address().port;
  }

  /** The next request. */
  next() {
    const one = this.#requests.shift();
    return one ?? new Promise((resolve) => this.#wanted.push(resolve));
  }

  get isQuiet() {
    return this.#requests.length === 0;
  }
}

describe("long-polling that loses", () => {
  async function start(t, Polling, order) {
    Fake.all = [];
    const server = new Server();
    const port = await server.start(t);
    const store = memoryStore();
    const made = { server };
    const config = {
      order,
      create: {
        webtransport: (options) => new Fake("webtransport", options),
        websocket: (options) => new Fake("websocket", options),
        polling: (options) => (made.polling = new Polling(options)),
      },
      // WebSocket is overtaken at once, WebTransport never.
      headStart: { webtransport: 60_000, websocket: 0, polling: 60_000 },
      memory: () => new Memory("h:1", 0, store),
      watch: undefined,
    };
    const socket = io(`http://127.0.0.1:${port}`, { forceNew: true, transports: raced(config) });
    t.after(() => socket.disconnect());
    return Object.assign(made, { socket });
  }

  for (const [name, Polling] of Object.entries({ fetch: Fetch, XMLHttpRequest: NodeXHR })) {
    test(`it closes the session that the server made of it (${name})`, async (t) => {
      const { server } = await start(t, Polling, ["websocket", "polling"]);
      const asked = await server.next();
      assert.equal(asked.what, "GET null");
      latest("websocket").handshake();
      asked.answer(HANDSHAKE);
      const closed = await server.next();
      assert.equal(closed.what, "POST orphan 1");
      closed.answer("ok");
      await settled();
      assert.ok(server.isQuiet, "it is asked nothing more");
    });

    test(`also if the page leaves in the middle of the race (${name})`, async (t) => {
      const { server, socket } = await start(t, Polling, ["websocket", "polling"]);
      const asked = await server.next();
      socket.disconnect();
      asked.answer(HANDSHAKE);
      const closed = await server.next();
      assert.equal(closed.what, "POST orphan 1");
      closed.answer("ok");
    });

    test(`also if it was held back for a better one, and polls on till then (${name})`, async (t) => {
      const { server } = await start(t, Polling, ["webtransport", "polling"]);
      latest("webtransport").onstall(new Error("down"));
      const asked = await server.next();
      asked.answer(HANDSHAKE);
      const polled = await server.next();
      assert.equal(polled.what, "GET orphan", "not one more session");
      latest("webtransport").handshake();
      const closed = await server.next();
      assert.equal(closed.what, "POST orphan 1");
      closed.answer("ok");
      polled.answer("6");
    });
  }

  test("an answer that is no handshake closes nothing, and breaks nothing", async (t) => {
    const junk = ["<html>", "0{"];
    for (const text of junk) {
      const made = await start(t, Fetch, ["websocket", "polling"]);
      const { server, socket } = made;
      const asked = await server.next();
      latest("websocket").handshake();
      latest("websocket").receive('0{"sid":"real"}');
      const { polling } = made;
      const ended = new Promise((resolve) => polling.once("close", resolve));
      asked.answer(text);
      await ended;
      await settled();
      assert.equal(socket.connected, true);
      assert.equal(polling.query.sid, undefined);
    }
  });
});
