// A server that says where its Socket.IO is, asked once for that and for WebTransport.
import assert from "node:assert/strict";
import { beforeEach, describe, test } from "node:test";
import { io } from "socket.io-client";
import { connectWhereTold } from "../node_modules/.test/connect/path.js";
import { OfferedWebTransport } from "../node_modules/.test/connect/webtransport.js";
import { raced } from "../node_modules/.test/connect.js";
import { Fake, latest, settled } from "./fakes.mjs";

const SOURCE = new URL("http://h:1/webtransport.json");
const json = (body, status = 200) => new Response(JSON.stringify(body), { status });

describe("the path that the server tells", () => {
  let asked;

  beforeEach(() => {
    Fake.all = [];
    asked = [];
  });

  /** `answers` are called for one question after the other. */
  function start(t, answers, create = (options) => new Fake("websocket", options)) {
    t.mock.method(globalThis, "fetch", async (url) => {
      asked.push(String(url));
      return answers.shift()();
    });
    const config = {
      order: ["websocket"],
      create: { websocket: create },
      headStart: { websocket: 500 },
      memory: () => ({ recall() {}, note() {} }),
      watch: undefined,
    };
    const transports = raced(config);
    const socket = io("http://h:1", { forceNew: true, autoConnect: false, randomizationFactor: 0, transports });
    t.after(() => socket.disconnect());
    return socket;
  }

  test("is used for this connection and the next ones", async (t) => {
    t.mock.timers.enable({ apis: ["setTimeout"] });
    const socket = start(t, [() => json({ port: 1, certificateHashes: [], path: "/x/" })]);
    await connectWhereTold(socket, SOURCE);
    assert.equal(latest("websocket").opts.path, "/x/");
    latest("websocket").handshake();
    latest("websocket").end();
    t.mock.timers.tick(1_000);
    assert.equal(Fake.all.length, 2);
    assert.equal(latest("websocket").opts.path, "/x/");
    assert.deepEqual(asked, [SOURCE.href]);
  });

  const none = "/socket.io/";
  const answers = {
    "a server without WebTransport has one, too": [() => json({ path: "/y" }, 404), "/y/"],
    "a server that does not tell": [() => json({ port: 1 }), none],
    "a server that cannot be reached": [() => Promise.reject(new Error("down")), none],
    "a server without the file": [() => new Response("not found\n", { status: 404 }), none],
    "nothing": [() => json(null), none],
    "no text": [() => json({ path: 7 }), none],
    "the end of another host's name": [() => json({ path: ".example.org/" }), none],
    "more than a path": [() => json({ path: "/x?y=" }), none],
  };
  for (const [name, [answer, path]] of Object.entries(answers)) {
    test(`${name}: ${path}`, async (t) => {
      await connectWhereTold(start(t, [answer]), SOURCE);
      assert.equal(latest("websocket").opts.path, path);
    });
  }

  test("an answer that is late is not waited for, and used the next time", async (t) => {
    t.mock.timers.enable({ apis: ["setTimeout"] });
    let answer;
    const socket = start(t, [() => new Promise((resolve) => (answer = resolve))]);
    const connected = connectWhereTold(socket, SOURCE);
    await settled();
    t.mock.timers.tick(299);
    await settled();
    assert.equal(latest("websocket"), undefined);
    t.mock.timers.tick(1);
    await connected;
    assert.equal(latest("websocket").opts.path, none);
    answer(json({ path: "/x/" }));
    await settled();
    latest("websocket").fail();
    await settled();
    t.mock.timers.tick(1_000);
    assert.equal(latest("websocket").opts.path, "/x/");
  });

  test("WebTransport gets the same answer, and asks by itself from then on", async (t) => {
    const dialled = [];
    globalThis.WebTransport = class {
      ready = new Promise(() => {});
      closed = new Promise(() => {});
      constructor(url) {
        dialled.push(url);
      }
      close() {}
    };
    t.after(() => delete globalThis.WebTransport);
    const answers = [() => json({ port: 4433, path: "/x/" }), () => json({ port: 4434, path: "/x/" })];
    const made = [];
    const create = (options) => {
      made.push(new OfferedWebTransport({ ...options, hostname: "h", port: "1" }, "/webtransport.json", 1_000));
      return made.at(-1);
    };
    const socket = start(t, answers, create);
    await connectWhereTold(socket, SOURCE);
    await settled();
    assert.deepEqual(dialled.map((url) => url.split("?")[0]), ["https://h:4433/x/"]);
    assert.equal(asked.length, 1);
    socket.disconnect().connect();
    await settled();
    assert.deepEqual(dialled.map((url) => url.split("?")[0]), ["https://h:4433/x/", "https://h:4434/x/"]);
    assert.equal(asked.length, 2);
    for (const transport of made) transport.close();
  });

  test("an answer that nobody has used for a while is not used any more", async (t) => {
    t.mock.timers.enable({ apis: ["Date"], now: 1_000 });
    const socket = start(t, [() => json({ port: 4433 }), () => json({ port: 4434 })]);
    await connectWhereTold(socket, SOURCE);
    t.mock.timers.setTime(1_000 + 5_000);
    const steps = [];
    const options = { hostname: "h", port: "1", path: "/", query: {}, socket: {} };
    const transport = new OfferedWebTransport(options, "/webtransport.json", 1_000);
    transport.onstep = (step) => steps.push(step);
    transport.on("error", () => steps.push("error"));
    transport.open();
    await settled();
    assert.deepEqual(steps, ["dial", "error"], "there is no WebTransport here");
    assert.equal(asked.length, 2);
  });
});
