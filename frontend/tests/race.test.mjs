// The race, through the official client, with transports that do what the test says, in virtual time.
import assert from "node:assert/strict";
import { beforeEach, describe, test } from "node:test";
import { io } from "socket.io-client";
import { Memory } from "../node_modules/.test/connect/memory.js";
import { raced } from "../node_modules/.test/connect.js";
import { count, Fake, latest, memoryStore, settled } from "./fakes.mjs";

const ORDER = ["webtransport", "websocket", "polling"];

describe("race", () => {
  let store;
  let events;

  beforeEach(() => {
    Fake.all = [];
    store = memoryStore();
    events = [];
  });

  const memory = ({ hostname, port } = { hostname: "h", port: "1" }) =>
    new Memory(`${hostname}:${port}`, 600_000, store);

  function start(t, options = {}) {
    // The client's own timers included; `setImmediate` stays, the tests wait by it.
    t.mock.timers.enable({ apis: ["setTimeout", "Date"], now: Date.now() });
    const create = Object.fromEntries(ORDER.map((name) => [name, (opts) => new Fake(name, opts)]));
    const config = {
      order: ORDER,
      create,
      headStart: { webtransport: 250, websocket: 500, polling: 1_500 },
      memory,
      watch: (event) => events.push(event),
      ...options.race,
    };
    const socket = io("http://h:1", {
      forceNew: true,
      transports: raced(config),
      randomizationFactor: 0,
      ...options.client,
    });
    t.after(() => socket.disconnect());
    return socket;
  }

  const names = () => Fake.all.map(({ name }) => name);

  test("WebTransport alone has the head start", async (t) => {
    const socket = start(t);
    assert.deepEqual(names(), ["webtransport"]);
    t.mock.timers.tick(249);
    assert.deepEqual(names(), ["webtransport"]);
    latest("webtransport").handshake();
    t.mock.timers.tick(60_000 / 2);
    assert.deepEqual(names(), ["webtransport"], "nothing else is started later");
    assert.equal(socket.io.engine.transport.name, "webtransport");
    assert.equal(socket.io.engine.id, "sid of webtransport");
    assert.equal(socket.io.engine.transport.query.sid, latest("webtransport").query.sid);
  });

  test("WebSocket starts when the head start is over, long-polling when WebSocket's is", (t) => {
    start(t);
    t.mock.timers.tick(250);
    assert.deepEqual(names(), ["webtransport", "websocket"]);
    t.mock.timers.tick(499);
    assert.deepEqual(names(), ["webtransport", "websocket"]);
    t.mock.timers.tick(1);
    assert.deepEqual(names(), ORDER);
  });

  test("a failure starts the next at once", (t) => {
    start(t);
    latest("webtransport").fail();
    assert.deepEqual(names(), ["webtransport", "websocket"]);
    latest("websocket").fail();
    assert.deepEqual(names(), ORDER);
  });

  test("a failure of the newest starts the next even while an older one is silent", (t) => {
    start(t);
    t.mock.timers.tick(250);
    latest("websocket").fail();
    assert.deepEqual(names(), ORDER);
  });

  test("a failure of an older one does not hurry those that are left", (t) => {
    start(t);
    t.mock.timers.tick(250);
    latest("webtransport").fail();
    assert.deepEqual(names(), ["webtransport", "websocket"]);
  });

  test("progress of WebTransport lengthens its head start, to a bound", (t) => {
    start(t);
    const transport = latest("webtransport");
    t.mock.timers.tick(240);
    transport.onstep("dial");
    t.mock.timers.tick(240);
    assert.deepEqual(names(), ["webtransport"]);
    transport.onstep("ready");
    t.mock.timers.tick(249);
    assert.deepEqual(names(), ["webtransport"]);
    t.mock.timers.tick(1);
    assert.deepEqual(names(), ["webtransport", "websocket"]);
    transport.onstep("ready");
    t.mock.timers.tick(500);
    assert.deepEqual(names(), ORDER, "the newest runner's timer is its own");
  });

  test("the loser is closed, and nothing of it is heard again", async (t) => {
    const socket = start(t);
    const seen = [];
    socket.onAny((...args) => seen.push(args));
    t.mock.timers.tick(250);
    const [webtransport, websocket] = [latest("webtransport"), latest("websocket")];
    websocket.handshake();
    assert.equal(webtransport.state, "closed");
    // It was under way.
    webtransport.onPacket({ type: "open", data: '{"sid":"second","upgrades":[]}' });
    webtransport.receive('0{"sid":"x"}');
    webtransport.receive('2["event"]');
    webtransport.fail();
    webtransport.end();
    await settled();
    assert.equal(socket.io.engine.id, "sid of websocket");
    assert.equal(socket.connected, false);
    assert.deepEqual(seen, []);
    assert.deepEqual(webtransport.sent, []);
    websocket.receive('0{"sid":"real"}');
    websocket.receive('2["event",1]');
    await settled();
    assert.equal(socket.id, "real");
    assert.deepEqual(seen, [["event", 1]]);
  });

  test("auth is asked once for each connection that reaches the server, on the winner", async (t) => {
    let calls = 0;
    start(t, { client: { auth: (done) => done({ call: ++calls }) } });
    t.mock.timers.tick(250);
    t.mock.timers.tick(500);
    assert.equal(calls, 0);
    latest("polling").fail();
    latest("websocket").handshake();
    await settled();
    assert.equal(calls, 1);
    assert.deepEqual(Fake.all.filter(({ auth }) => auth).map(({ name }) => name), ["websocket"]);
    assert.deepEqual(latest("websocket").auth, { call: 1 });
  });

  test("a reconnection brings pid and offset on whichever transport wins", async (t) => {
    const socket = start(t);
    latest("webtransport").handshake();
    latest("webtransport").receive('0{"sid":"a","pid":"secret"}');
    latest("webtransport").receive('2["event","offset-7"]');
    await settled();
    for (const [index, name] of ["websocket", "polling", "webtransport"].entries()) {
      Fake.all.at(-1).end();
      const open = Fake.all.findLast(({ state }) => state === "open");
      open?.end();
      assert.equal(socket.connected, false);
      Fake.all = [];
      t.mock.timers.tick(1_000);
      // Whatever is known of the network: walk until the wanted one runs.
      while (!latest(name)) t.mock.timers.tick(50);
      latest(name).handshake();
      await settled();
      assert.deepEqual(latest(name).auth, { pid: "secret", offset: `offset-${7 + index}` });
      assert.equal(Fake.all.filter(({ auth }) => auth).length, 1);
      latest(name).receive('0{"sid":"a","pid":"secret"}');
      latest(name).receive(`2["event","offset-${8 + index}"]`);
      await settled();
      assert.equal(socket.recovered, true);
    }
  });

  test("when all fail there is one connect_error, and the official back-off", async (t) => {
    const errors = [];
    const socket = start(t);
    socket.on("connect_error", (error) => errors.push(error.message));
    const failAll = async () => {
      for (const name of ORDER) latest(name).fail();
      await settled();
    };
    await failAll();
    assert.deepEqual(errors, ["polling error"]);
    assert.equal(count("webtransport"), 1);
    t.mock.timers.tick(999);
    assert.equal(count("webtransport"), 1);
    t.mock.timers.tick(1);
    assert.equal(count("webtransport"), 2);
    await failAll();
    assert.deepEqual(errors, ["polling error", "polling error"]);
    t.mock.timers.tick(1_999);
    assert.equal(count("webtransport"), 2);
    t.mock.timers.tick(1);
    assert.equal(count("webtransport"), 3);
    assert.equal(memory().recall("webtransport"), undefined, "it says nothing about the network");
    assert.equal(socket.active, true);
  });

  test("transports that fail while they open are failures like others", async (t) => {
    const errors = [];
    class Broken extends Fake {
      doOpen() {
        this.fail();
      }
    }
    const create = Object.fromEntries(ORDER.map((name) => [name, (opts) => new Broken(name, opts)]));
    const socket = start(t, { race: { create } });
    socket.on("connect_error", (error) => errors.push(error.message));
    await settled();
    assert.deepEqual(errors, ["polling error"]);
  });

  test("nothing to race with is an error, not a hang", async (t) => {
    const errors = [];
    const socket = start(t, { race: { order: [] } });
    socket.on("connect_error", (error) => errors.push(error.message));
    await settled();
    assert.deepEqual(errors, ["no transport"]);
  });

  test("closed during a race: all are closed, none is started, none is heard", async (t) => {
    const socket = start(t);
    const heard = [];
    for (const event of ["connect", "connect_error"]) socket.on(event, () => heard.push(event));
    t.mock.timers.tick(250);
    socket.disconnect();
    assert.deepEqual(Fake.all.map(({ state }) => state), ["closed", "closed"]);
    latest("websocket").handshake();
    latest("webtransport").handshake();
    t.mock.timers.tick(60_000);
    await settled();
    assert.deepEqual(names(), ["webtransport", "websocket"]);
    assert.deepEqual(heard, []);
    assert.deepEqual(Fake.all.flatMap(({ sent }) => sent), []);
  });

  test("the manager's timeout ends a race without answers, and is tried again", async (t) => {
    const errors = [];
    const socket = start(t, { client: { timeout: 5_000 } });
    socket.on("connect_error", (error) => errors.push(error.message));
    t.mock.timers.tick(5_000);
    assert.deepEqual(errors, ["timeout"]);
    assert.deepEqual(Fake.all.slice(0, 2).map(({ state }) => state), ["closed", "closed"]);
    t.mock.timers.tick(1_000);
    assert.equal(count("webtransport"), 2);
  });

  test("long-polling that loses tells the server, once it knows its session", async (t) => {
    start(t);
    t.mock.timers.tick(250);
    t.mock.timers.tick(500);
    const polling = latest("polling");
    latest("websocket").handshake();
    assert.equal(polling.closed, 0, "its request is under way");
    polling.handshake("orphan");
    await settled();
    assert.equal(polling.closed, 1);
    assert.equal(polling.state, "closed");
  });

  test("what failed while another connected is tried last for a while, then first again", (t) => {
    const socket = start(t);
    latest("webtransport").fail();
    latest("websocket").handshake();
    assert.equal(memory().recall("webtransport").ok, false);
    const reconnect = () => {
      Fake.all.findLast(({ state }) => state === "open").end();
      Fake.all = [];
      t.mock.timers.tick(1_000);
    };
    reconnect();
    assert.deepEqual(names(), ["websocket"]);
    latest("websocket").handshake();
    t.mock.timers.tick(30_000);
    // Pings would come from a server; nothing was lost meanwhile.
    assert.equal(socket.io.engine.readyState, "open");
    t.mock.timers.setTime(Date.now() + 600_000);
    reconnect();
    assert.deepEqual(names(), ["webtransport"]);
  });

  test("a failure that says nothing about the transport is not remembered", (t) => {
    start(t);
    latest("webtransport").isTelling = false;
    latest("webtransport").fail();
    latest("websocket").handshake();
    assert.equal(memory().recall("webtransport"), undefined);
  });

  test("WebTransport that cannot be asked for gives way, and still wins if it comes first", async (t) => {
    const errors = [];
    const socket = start(t);
    socket.on("connect_error", (error) => errors.push(error.message));
    const webtransport = latest("webtransport");
    webtransport.onstall(new Error("down"));
    assert.deepEqual(names(), ["webtransport", "websocket"]);
    webtransport.onstall(new Error("down"));
    assert.deepEqual(names(), ["webtransport", "websocket"], "only the first time");
    webtransport.onstep("dial");
    webtransport.handshake();
    assert.equal(socket.io.engine.transport.name, "webtransport");
    assert.equal(latest("websocket").state, "closed");
    await settled();
    assert.deepEqual(errors, []);
  });

  test("a server that comes back is asked for WebTransport before another one wins", async (t) => {
    const outcomes = {
      "it is there in time": (webtransport) => {
        t.mock.timers.tick(200);
        webtransport.onstep("dial");
        t.mock.timers.tick(200);
        webtransport.handshake();
        return "webtransport";
      },
      "it is not": () => {
        t.mock.timers.tick(249);
        assert.equal(socket.io.engine.transport.name, "race");
        t.mock.timers.tick(1);
        return "websocket";
      },
      "it fails": (webtransport) => {
        webtransport.fail();
        return "websocket";
      },
      "the other one is lost meanwhile": (webtransport) => {
        latest("websocket").end();
        latest("polling").fail();
        webtransport.onstep("dial");
        webtransport.handshake();
        return "webtransport";
      },
    };
    let socket;
    for (const [what, happen] of Object.entries(outcomes)) {
      Fake.all = [];
      t.mock.timers.reset();
      socket = start(t, { race: { memory: () => new Memory("h:1", 0, store) } });
      const webtransport = latest("webtransport");
      let hurried = 0;
      webtransport.hurry = () => (hurried += 1);
      webtransport.onstall(new Error("down"));
      latest("websocket").handshake();
      assert.equal(hurried, 1, what);
      assert.equal(socket.io.engine.readyState, "opening", what);
      const winner = happen(webtransport);
      assert.equal(socket.io.engine.transport.name, winner, what);
      assert.equal(socket.io.engine.id, `sid of ${winner}`, what);
      await settled();
      assert.deepEqual(Fake.all.filter(({ auth }) => auth).map(({ name }) => name), [winner], what);
      socket.disconnect();
    }
  });

  test("WebTransport that cannot be asked for does not keep a lost race going", async (t) => {
    const errors = [];
    const socket = start(t);
    socket.on("connect_error", (error) => errors.push(error.message));
    latest("webtransport").onstall(new Error("down"));
    latest("websocket").fail();
    latest("polling").fail();
    await settled();
    assert.deepEqual(errors, ["polling error"]);
    assert.deepEqual(Fake.all.map(({ state }) => state).slice(0, 2), ["closed", "closed"]);
    t.mock.timers.tick(1_000);
    assert.equal(count("webtransport"), 2);
  });

  test("a failure that is remembered does not keep a transport from being tried at all", (t) => {
    for (const name of ["webtransport", "websocket"]) memory().note(name, false, 10);
    start(t);
    assert.deepEqual(names(), ["polling"]);
    latest("polling").fail();
    assert.deepEqual(names(), ["polling", "webtransport"]);
  });

  test("a slow success is given twice its time, to a bound, at the next race", (t) => {
    memory().note("webtransport", true, 200);
    start(t);
    t.mock.timers.tick(399);
    assert.deepEqual(names(), ["webtransport"]);
    t.mock.timers.tick(1);
    assert.deepEqual(names(), ["webtransport", "websocket"]);
  });

  for (const works of [true, false]) {
    test(`a loser that can be watched is: ${works ? "works" : "does not work"}`, (t) => {
      let learn;
      class Watched extends Fake {
        abandon(callback) {
          learn = callback;
        }
      }
      const create = Object.fromEntries(ORDER.map((name) => [name, (opts) => new Fake(name, opts)]));
      create.webtransport = (opts) => new Watched("webtransport", opts);
      start(t, { race: { create } });
      t.mock.timers.tick(250);
      latest("websocket").handshake();
      assert.equal(memory().recall("webtransport"), undefined);
      learn(works);
      assert.equal(memory().recall("webtransport").ok, works);
      assert.equal(events.at(-1).type, "learn");
    });
  }

  test("long-polling upgrades by the official client's own way, and that is remembered", async (t) => {
    const socket = start(t);
    latest("webtransport").fail();
    t.mock.timers.tick(500);
    latest("polling").handshake("p", ["websocket", "webtransport"]);
    assert.equal(memory().recall("websocket").ok, false);
    assert.equal(socket.io.engine.transport.name, "polling");
    // Engine.IO makes it from the second class of the list.
    const probed = [];
    socket.io.engine.on("upgradeError", (error) => probed.push(error.transport));
    socket.io.engine.emitReserved("upgrade", { name: "websocket" });
    assert.equal(memory().recall("websocket").ok, true);
  });

  test("options of one transport are its own", (t) => {
    start(t, {
      client: {
        query: { token: "t" },
        transportOptions: { websocket: { port: "8080" }, webtransport: { hostname: "quic.h" } },
      },
    });
    t.mock.timers.tick(250);
    const [webtransport, websocket] = Fake.all;
    assert.equal(webtransport.opts.hostname, "quic.h");
    assert.equal(websocket.opts.hostname, "h");
    assert.equal(websocket.opts.port, "8080");
    assert.equal(websocket.query.transport, "websocket");
    assert.equal(websocket.query.token, "t");
    assert.notEqual(websocket.query, webtransport.query);
  });

  test("who watches sees the whole race", (t) => {
    start(t);
    latest("webtransport").fail();
    latest("websocket").handshake();
    assert.deepEqual(
      events.map(({ type, transport, reason }) => [type, transport, reason].filter(Boolean).join(" ")),
      [
        "race",
        "start webtransport",
        "fail webtransport webtransport error: as the test wants",
        "start websocket",
        "win websocket",
      ],
    );
  });
});
