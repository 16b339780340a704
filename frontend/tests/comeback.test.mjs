// A server that sends the page away: the official client, transports of the test, in virtual time.
import assert from "node:assert/strict";
import { beforeEach, describe, test } from "node:test";
import { io } from "socket.io-client";
import { Comeback } from "../node_modules/.test/connect/comeback.js";
import { raced } from "../node_modules/.test/connect.js";
import { followConnection, hurryWhenBack } from "../node_modules/.test/status.js";
import { count, Fake, latest, settled } from "./fakes.mjs";

/** As much of a document as a status needs. */
class FakeDocument extends EventTarget {
  visibilityState = "visible";
  documentElement = { dataset: {} };
  #elements = new Map();

  getElementById(id) {
    const made = { textContent: "", classList: { add() {}, remove() {} } };
    if (!this.#elements.has(id)) this.#elements.set(id, made);
    return this.#elements.get(id);
  }
}

describe("sent away by the server", () => {
  let socket;
  let comeback;
  let window;
  let page;

  /** `random` is what `Math.random` gives. */
  function start(t, random = 0.5) {
    t.after(() => socket.disconnect());
    t.mock.timers.enable({ apis: ["setTimeout", "setInterval", "Date"], now: Date.now() });
    t.mock.method(Math, "random", () => random);
    [page, window] = [new FakeDocument(), new EventTarget()];
    const globals = { document: page, addEventListener: window.addEventListener.bind(window) };
    for (const [name, value] of Object.entries(globals)) {
      const before = Object.getOwnPropertyDescriptor(globalThis, name);
      Object.defineProperty(globalThis, name, { value, configurable: true });
      t.after(() => {
        delete globalThis[name];
        if (before) Object.defineProperty(globalThis, name, before);
      });
    }
    const note = { recall() {}, note() {} };
    const config = {
      order: ["websocket"],
      create: { websocket: (options) => new Fake("websocket", options) },
      headStart: { websocket: 500 },
      memory: () => note,
      watch: undefined,
    };
    socket = io("http://h:1", { forceNew: true, randomizationFactor: 0, transports: raced(config) });
    comeback = new Comeback(socket, "board");
    followConnection(socket, comeback);
    hurryWhenBack(socket, comeback);
  }

  beforeEach(() => (Fake.all = []));

  const status = () => page.getElementById("status").textContent;

  async function letIn() {
    latest("websocket").handshake();
    latest("websocket").receive('0{"sid":"s"}');
    await settled();
    assert.equal(socket.connected, true);
  }

  async function show() {
    latest("websocket").receive('2["board",{}]');
    await settled();
  }

  async function sendAway() {
    latest("websocket").receive("1");
    await settled();
    assert.equal(socket.connected, false);
  }

  test("it comes back by itself, after pauses that grow until it gets a board", async (t) => {
    start(t);
    let tries = 1;
    const pauses = async (...expected) => {
      for (const seconds of expected) {
        await letIn();
        await sendAway();
        assert.equal(comeback.pause, seconds * 1_000);
        t.mock.timers.tick(seconds * 1_000 - 1);
        assert.equal(count("websocket"), tries);
        t.mock.timers.tick(1);
        tries += 1;
        assert.equal(count("websocket"), tries);
        assert.equal(comeback.pause, undefined);
      }
    };
    await pauses(5, 10, 20, 40, 60, 60);
    await letIn();
    await show();
    assert.equal(socket.connected, true);
    t.mock.timers.tick(40_000);
    assert.equal(count("websocket"), tries, "who is in stays in");
    await sendAway();
    assert.equal(comeback.pause, 5_000);
  });

  for (const [random, milliseconds] of [[0, 3_750], [0.5, 5_000], [1 - 2 ** -52, 6_250]]) {
    test(`no two pages at once: ${random.toFixed(1)} makes ${milliseconds} ms`, async (t) => {
      start(t, random);
      await letIn();
      await sendAway();
      assert.equal(Math.round(comeback.pause), milliseconds);
    });
  }

  test("the page says that it will try again, and not that it is there when it is not", async (t) => {
    start(t);
    await letIn();
    await show();
    assert.equal(status(), "WebSocket");
    for (const seconds of [5, 10]) {
      await sendAway();
      assert.equal(status(), `Sent away, retrying in ${seconds} s`);
      assert.equal(page.documentElement.dataset.state, "disconnected");
      t.mock.timers.tick(seconds * 1_000);
      await letIn();
      assert.equal(page.getElementById("notice").textContent, "");
    }
    await show();
    assert.equal(status(), "WebSocket");
    // A connection that is lost otherwise is the official client's business, and news.
    latest("websocket").end();
    assert.equal(comeback.pause, undefined);
    assert.equal(status(), "Reconnecting…");
    t.mock.timers.tick(1_000);
    await letIn();
    assert.match(page.getElementById("notice").textContent, /^Connected again/);
  });

  const signals = {
    online: () => window.dispatchEvent(new Event("online")),
    "somebody looks again": () => page.dispatchEvent(new Event("visibilitychange")),
  };
  for (const [name, signal] of Object.entries(signals)) {
    test(`it does not wait when there is a reason not to: ${name}`, async (t) => {
      start(t);
      await letIn();
      await sendAway();
      page.visibilityState = "hidden";
      signal();
      assert.equal(count("websocket"), 1, "nobody would see it");
      page.visibilityState = "visible";
      signal();
      assert.equal(count("websocket"), 2);
      signal();
      t.mock.timers.tick(5_000);
      assert.equal(count("websocket"), 2, "what is under way is left alone");
      await letIn();
      await sendAway();
      assert.equal(comeback.pause, 10_000, "the server has not changed its mind");
    });
  }

  test("between two attempts of the official client it hurries as before", async (t) => {
    start(t);
    latest("websocket").fail();
    await settled();
    signals.online();
    assert.equal(count("websocket"), 2);
  });

  test("when the page closes the socket there is no other try, whenever it does", async (t) => {
    start(t);
    await letIn();
    await sendAway();
    socket.disconnect();
    assert.equal(comeback.pause, undefined);
    t.mock.timers.tick(600_000);
    assert.equal(count("websocket"), 1);
    socket.connect();
    await letIn();
    await show();
    socket.disconnect();
    assert.equal(status(), "Closed");
    t.mock.timers.tick(600_000);
    assert.equal(count("websocket"), 2);
  });

  test("a page that connects by itself is not connected again", async (t) => {
    start(t);
    await letIn();
    await sendAway();
    socket.connect();
    await letIn();
    assert.equal(comeback.pause, undefined);
  });
});
