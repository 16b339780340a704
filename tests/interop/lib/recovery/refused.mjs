// Where a recovery is refused although it could succeed: rows R1 to R14. Each case runs on the
// topologies that it names, against ours or against Node's server.
import assert from "node:assert/strict";
import { setTimeout as sleep } from "node:timers/promises";
import { until } from "./lab.mjs";

const ALL = ["memory", "same", "other"];
const ONE = ["memory"];
const REDIS = ["same", "other"];

/** Came back as the same, having got these events and no others, in this order. */
export async function exactly(lab, client, expected) {
  assert.deepEqual(client.sessions.at(-1), { id: client.sessions[0].id, recovered: true });
  await lab.settled(client);
  assert.deepEqual(client.got(), expected);
}

/** Came back as somebody new, and was told nothing of what came before. */
export async function anew(lab, client, session, expected) {
  assert.equal(session.recovered, false);
  assert.notEqual(session.id, client.sessions[0].id);
  await lab.settled(client);
  assert.deepEqual(client.got(), expected);
  const state = await client.do("state");
  assert.deepEqual(state, { ...state, id: session.id, rooms: [], recovered: false });
}

const range = (from, to) => Array.from({ length: to - from }, (_, i) => from + i);
export { range, ALL, ONE, REDIS };

/** The usual: two events before, three while away. */
async function usual(lab, { before = () => {}, ...options } = {}) {
  const client = await lab.client(options);
  await lab.emitMany(0, 2);
  await lab.settled(client);
  await before(client);
  await client.away();
  await lab.emitMany(2, 5);
  await client.back();
  await exactly(lab, client, range(0, 5));
}

/** Comes back while Redis does not answer. */
async function withoutRedis(lab, stop) {
  const client = await lab.client();
  await lab.emit(0);
  await lab.settled(client);
  await client.away();
  await stop();
  const session = await client.back();
  const took = performance.now() - client.opened;
  assert.equal(session.recovered, false);
  assert.notEqual(session.id, client.sessions[0].id);
  // a second, and what a busy machine adds
  assert.ok(took < 2000, `it took ${Math.round(took)} ms to be let in`);
  assert.equal((await client.do("state")).id, session.id);
}

export const REFUSED = [
  {
    name: "R1: no event received yet",
    on: ALL,
    async run(lab) {
      const client = await lab.client();
      await client.away();
      await lab.emitMany(0, 3);
      await client.back();
      await exactly(lab, client, range(0, 3));
    },
  },
  {
    name: "R1: no event received yet, and none missed",
    on: ALL,
    async run(lab) {
      const client = await lab.client();
      await client.away();
      await client.back();
      await exactly(lab, client, []);
    },
  },
  {
    name: "R2: a quiet client, with the adapter in memory",
    on: ONE,
    options: () => ({ window: 1500 }),
    async run(lab) {
      const client = await lab.client();
      await lab.emit(0);
      await lab.settled(client);
      // longer than the window; Node forgets once a minute
      await sleep(lab.kind === "node" ? 62_000 : 2500);
      for (let i = 0; i < 20; i++) await lab.emit(i, { to: ["somebody else's"] });
      await client.away();
      await lab.emit(1);
      await client.back();
      await exactly(lab, client, [0, 1]);
    },
  },
  {
    name: "R3: a quiet client on a busy cluster",
    on: REDIS,
    options: () => ({ flags: ["--redis-max-len", "1000"] }),
    async run(lab) {
      const client = await lab.client();
      await lab.emit(0);
      await lab.settled(client);
      const busy = { event: "n", name: "busy", count: 500, batch: 100, every: 1 };
      // A node that is slower than the stream forgets has a gap, and rightly recovers nobody: all have read one
      // burst, of half a stream, before the next comes.
      const readers = [await lab.client(), await lab.client({ node: lab.back })];
      for (let burst = 0; burst < 6; burst++) {
        await lab.do("publish", { ...busy, to: ["somebody else's"] });
        for (const reader of readers) await lab.settled(reader);
      }
      await lab.do("emit", { event: "tick", to: [client.id], volatile: true });
      await until("the client ticks", () => client.got("tick").length === 1);
      await client.away();
      await lab.emit(1);
      await client.back();
      await exactly(lab, client, [0, 1]);
    },
  },
  {
    name: "R4: the old connection is still half-open",
    on: ALL,
    async run(lab) {
      const client = await lab.client();
      await lab.emit(0);
      await lab.settled(client);
      await client.do("join", { rooms: ["kept"] });
      await client.away({ halfOpen: true });
      await lab.emitMany(1, 4);
      await client.back();
      await exactly(lab, client, range(0, 4));
      await lab.emitMany(4, 8, { to: ["kept"] });
      await exactly(lab, client, range(0, 8));
      const here = await Promise.all(lab.nodes.map((node) => lab.do("here", {}, node)));
      const alive = here.flat().filter((id) => id === client.id);
      assert.deepEqual(alive, [client.id], "one socket of that id in the cluster");
      assert.ok((await lab.do("here", {}, lab.back)).includes(client.id), "where the client is");
    },
  },
  {
    name: "R5: the node was killed",
    on: ["other"],
    async run(lab) {
      const client = await lab.client();
      await client.do("join", { rooms: ["kept", "kept too"] });
      await client.do("set-data", { data: { name: "Zoë", n: [1.5, null] } });
      await lab.emitMany(0, 2);
      await lab.settled(client);
      // changes are stored behind the answer: a node that is killed in between takes them along
      for (const text of ["kept too", "Zoë"]) await lab.storedWith(client, text);
      client.wire.refusing = true;
      await lab.home.kill();
      await client.disconnected();
      await lab.emitMany(2, 5, { to: ["kept"] });
      await client.back();
      await exactly(lab, client, range(0, 5));
      const state = await client.do("state");
      assert.deepEqual(state.rooms, ["kept", "kept too"]);
      assert.deepEqual(state.data, { name: "Zoë", n: [1.5, null] });
      assert.equal(state.recovered, true);
    },
  },
  {
    name: "R5: the node was killed right after the client had connected",
    on: ["other"],
    async run(lab) {
      const client = await lab.client();
      client.wire.refusing = true;
      await lab.home.kill();
      await client.disconnected();
      await lab.emitMany(0, 3);
      await client.back();
      await exactly(lab, client, range(0, 3));
    },
  },
  {
    name: "R5: the node was told to stop",
    on: ["other"],
    async run(lab) {
      const client = await lab.client();
      await client.do("join", { rooms: ["kept"] });
      await lab.emitMany(0, 2);
      await lab.settled(client);
      const ended = lab.home.term();
      await client.disconnected();
      client.wire.refusing = true;
      await lab.emitMany(2, 4, { node: lab.back });
      await lab.emit(4, { to: ["kept"], node: lab.back });
      await client.back();
      await exactly(lab, client, range(0, 5));
      assert.deepEqual(await ended, { code: 0, signal: null });
    },
  },
  {
    name: "R5: a node with its memory was killed, and the client is told so",
    on: ONE,
    async run(lab) {
      const client = await lab.client();
      await lab.emit(0);
      await lab.settled(client);
      client.wire.refusing = true;
      await lab.home.kill();
      await client.disconnected();
      await lab.restartHome();
      await anew(lab, client, await client.back(), [0]);
    },
  },
  {
    name: "R6: a volatile event that ends in a string",
    on: ALL,
    run: (lab) =>
      usual(lab, {
        async before(client) {
          await lab.do("emit", { event: "status", args: ["connected"], volatile: true });
          await until("status comes", () => client.got("status").length === 1);
        },
      }),
  },
  {
    name: "R6: a volatile event without arguments, to one client",
    on: ALL,
    run: (lab) =>
      usual(lab, {
        async before(client) {
          await client.do("send", { event: "tick", volatile: true });
          await until("tick comes", () => client.got("tick").length === 1);
        },
      }),
  },
  {
    name: "R7: a local event that ends in a string",
    on: ALL,
    run: (lab) =>
      usual(lab, {
        async before(client) {
          await lab.do("emit", { event: "status", args: ["connected"], local: true });
          await until("status comes", () => client.got("status").length === 1);
        },
      }),
  },
  {
    name: "R7: an event of the time without Redis",
    on: REDIS,
    async run(lab) {
      const client = await lab.client();
      await lab.emit(0);
      await lab.settled(client);
      await lab.redis.process.kill();
      await lab.do("emit", { event: "status", args: ["degraded"] });
      await until("status comes", () => client.got("status").length === 1);
      await lab.redis.run();
      await lab.settled(client);
      await lab.emit(1);
      await lab.settled(client);
      await client.away();
      await lab.emit(2);
      await client.back();
      await exactly(lab, client, [0, 1, 2]);
    },
  },
  {
    name: "R8: the user's own auth has a key `offset`",
    on: ALL,
    async run(lab) {
      const client = await lab.client({ auth: { offset: "42" } });
      await lab.emit(0);
      await lab.settled(client);
      await client.away();
      await lab.emit(1);
      // what it has seen cannot be known: then it must be said, and nothing guessed
      await anew(lab, client, await client.back(), [0]);
      // but it costs nobody the session
      await client.away();
      await lab.emit(2);
      client.auth = {};
      const session = await client.back();
      assert.deepEqual(session, { id: client.sessions.at(-2).id, recovered: true });
      await lab.settled(client);
      assert.deepEqual(client.got(), [0, 2]);
    },
  },
  {
    name: "R8: the user's own auth has a key `pid`",
    on: ALL,
    async run(lab) {
      const client = await lab.client({ auth: { pid: 7, offset: { deep: true } } });
      await lab.emit(0);
      await lab.settled(client);
      await client.away();
      await lab.emit(1);
      await anew(lab, client, await client.back(), [0]);
    },
  },
  {
    name: "R9: one bad attempt does not burn the session",
    on: ALL,
    async run(lab) {
      const client = await lab.client();
      await lab.emit(0);
      await lab.settled(client);
      await client.away();
      await lab.emit(1);
      const { pid } = client.position;
      for (const offset of ["9999999999999-0", "nonsense", "1-2-3", "18446744073709551616-0"]) {
        const bad = await lab.client({ node: lab.back, resume: { pid, offset } });
        assert.equal(bad.sessions[0].recovered, false, offset);
        assert.notEqual(bad.id, client.sessions[0].id);
        bad.close();
      }
      await client.back();
      await exactly(lab, client, [0, 1]);
    },
  },
  {
    name: "R10: an attempt dies while a middleware thinks",
    on: ALL,
    async run(lab) {
      const client = await lab.client();
      await lab.emit(0);
      await lab.settled(client);
      await client.away();
      await lab.emit(1);
      client.auth = { delay: 300 };
      client.opened = undefined;
      client.wire.target = lab.back;
      client.wire.refusing = false;
      await until("the attempt begins", () => client.opened !== undefined);
      // the middleware has it now
      await sleep(100);
      client.wire.refusing = true;
      client.wire.cut();
      await sleep(400);
      client.auth = {};
      await client.back();
      await exactly(lab, client, [0, 1]);
    },
  },
  {
    name: "R11: Redis is gone",
    on: REDIS,
    run: (lab) => withoutRedis(lab, () => lab.redis.process.kill()),
  },
  {
    name: "R11: Redis hangs",
    on: REDIS,
    run: (lab) => withoutRedis(lab, () => lab.redis.process.freeze()),
  },
  {
    name: "R12: back at once, again and again",
    on: ALL,
    async run(lab) {
      const client = await lab.client();
      let n = 0;
      for (; n < 20; n++) {
        await lab.emit(n);
        const before = client.sessions.length;
        client.wire.target = lab.nodes[n % lab.nodes.length];
        client.wire.cut();
        await until("it is back", () => client.sessions.length > before && client.socket.connected);
      }
      const recovered = client.sessions.filter(({ recovered }) => recovered).length;
      assert.equal(recovered, n, "each time recovered");
      await exactly(lab, client, range(0, n));
    },
  },
  {
    name: "R13: the client left of its own accord",
    on: ALL,
    async run(lab) {
      const client = await lab.client();
      await client.do("join", { rooms: ["left"] });
      await lab.emit(0);
      await lab.settled(client);
      const { pid } = client.position;
      client.socket.disconnect();
      await lab.forgotten(client.sessions[0].id);
      await lab.over(pid);
      await lab.emit(1);
      client.wire.target = lab.back;
      client.socket.connect();
      await client.connected();
      await anew(lab, client, client.sessions.at(-1), [0]);
    },
  },
  {
    name: "R13: the client left of its own accord right after a change, and is back at once",
    on: ALL,
    async run(lab) {
      for (let i = 0; i < 20; i++) {
        const client = await lab.client();
        await client.do("join", { rooms: ["left"] });
        const { pid } = client.position;
        const { id } = client;
        // while the change is being written, or before or after that
        await sleep(i);
        client.socket.disconnect();
        await lab.forgotten(id);
        await lab.over(pid);
        client.wire.target = lab.back;
        client.socket.connect();
        await client.connected();
        assert.deepEqual(client.sessions.at(-1).recovered, false, `after ${i} ms`);
        client.close();
      }
    },
  },
  {
    name: "R13: the server disconnected it",
    on: ALL,
    async run(lab) {
      const client = await lab.client();
      await lab.emit(0);
      await lab.settled(client);
      const { pid } = client.position;
      client.socket.emit("do", { op: "disconnect" }, () => {});
      await client.disconnected();
      await lab.forgotten(client.sessions[0].id);
      await lab.over(pid);
      await lab.emit(1);
      client.wire.target = lab.back;
      client.socket.connect();
      await client.connected();
      await anew(lab, client, client.sessions.at(-1), [0]);
    },
  },
  {
    name: "R14: a client that knows nothing of it gets fresh sessions",
    on: ALL,
    async run(lab) {
      const client = await lab.client();
      await lab.emit(0);
      await lab.settled(client);
      await client.away();
      await lab.emit(1);
      [client.socket._pid, client.socket._lastOffset] = [undefined, undefined];
      await anew(lab, client, await client.back(), [0]);
    },
  },
];
