// What has to hold beside the rows of the field: transports, bounds, identity, freezes, mixed clusters.
import assert from "node:assert/strict";
import { setTimeout as sleep } from "node:timers/promises";
import { until } from "./lab.mjs";
import { ALL, anew, exactly, ONE, range } from "./refused.mjs";

const TRANSPORTS = { polling: ["polling"], websocket: ["websocket"], upgrade: ["polling", "websocket"] };

async function upgraded(client) {
  const wanted = client.socket.io.opts.transports.at(-1);
  await until(`it speaks ${wanted}`, () => client.socket.io.engine.transport.name === wanted);
}

/** Leaves over one transport, comes back over another. */
async function over(lab, from, to, options) {
  const client = await lab.client({ transports: TRANSPORTS[from] });
  await upgraded(client);
  await client.do("join", { rooms: ["kept"] });
  await lab.emitMany(0, 2);
  await lab.settled(client);
  // for connections from now on, of which there may be one as soon as this one is lost
  client.socket.io.opts.transports = TRANSPORTS[to];
  await client.away(options);
  await lab.emitMany(2, 4);
  await lab.emit(4, { to: ["kept"] });
  await client.back();
  await exactly(lab, client, range(0, 5));
  await upgraded(client);
  await lab.emitMany(5, 7);
  await exactly(lab, client, range(0, 7));
}

const overTransports = Object.keys(TRANSPORTS).flatMap((from) =>
  Object.keys(TRANSPORTS).map((to) => ({
    name: `from ${from} to ${to}`,
    on: ALL,
    run: (lab) => over(lab, from, to),
  })),
);

/** Both kinds of nodes in one cluster. */
const mixed = (name, kinds) => ({
  name,
  on: ["other"],
  options: () => ({ kinds }),
  async run(lab) {
    const client = await lab.client();
    await client.do("join", { rooms: ["kept"] });
    await client.do("set-data", { data: { name: "Zoë", deep: [1.5, null, { "ключ": "ü🦀" }] } });
    await lab.emitMany(0, 4);
    await lab.settled(client);
    await client.away();
    await lab.emitMany(4, 6);
    await lab.emit(6, { to: ["kept"], node: lab.nodes[0] });
    await lab.emit(7, { to: ["kept"], node: lab.nodes[1] });
    await client.back();
    await exactly(lab, client, range(0, 8));
    const state = await client.do("state");
    assert.deepEqual(state.rooms, ["kept"]);
    assert.deepEqual(state.data, { name: "Zoë", deep: [1.5, null, { "ключ": "ü🦀" }] });
    // and back again
    await client.away();
    await lab.emitMany(8, 10);
    await client.back(lab.home);
    await exactly(lab, client, range(0, 10));
    assert.deepEqual((await client.do("state")).rooms, ["kept"]);
  },
});

export const BEYOND = [
  ...overTransports,
  {
    name: "half-open over polling, back over WebSocket",
    on: ALL,
    run: (lab) => over(lab, "polling", "websocket", { halfOpen: true }),
  },
  {
    name: "the node is frozen, and thaws when its client is elsewhere",
    on: ["other"],
    async run(lab) {
      const client = await lab.client();
      await client.do("join", { rooms: ["kept"] });
      await lab.emitMany(0, 2);
      await lab.settled(client);
      await lab.on(lab.back);
      // or the room is known only where nobody answers
      await lab.storedWith(client, "kept");
      lab.home.freeze();
      await client.away({ halfOpen: true });
      await lab.emit(2, { node: lab.back });
      await lab.emit(3, { node: lab.back, to: ["kept"] });
      await client.back();
      assert.deepEqual(client.sessions.at(-1), { id: client.sessions[0].id, recovered: true });
      await lab.emit(4, { node: lab.back });
      lab.home.thaw();
      // it learns that the socket is its no longer, and writes nothing over what the other one wrote
      await lab.forgotten(client.id, lab.home);
      await client.do("join", { rooms: ["later"] });
      await lab.emitMany(5, 9);
      await lab.settled(client);
      await client.away();
      await lab.emit(9, { to: ["later"] });
      await client.back(lab.home);
      await exactly(lab, client, range(0, 10));
      assert.deepEqual((await client.do("state")).rooms, ["kept", "later"]);
    },
  },
  {
    name: "another user gets nothing of the session, and does not take it away",
    on: ALL,
    ours: true,
    async run(lab) {
      const client = await lab.client({ auth: { user: "alice" } });
      await client.do("join", { rooms: ["alice's"] });
      await lab.emit(0);
      await lab.settled(client);
      await client.away();
      await lab.emit(1, { to: ["alice's"] });
      const resume = client.position;
      for (const auth of [{ user: "mallory" }, {}]) {
        const thief = await lab.client({ node: lab.back, resume, auth });
        assert.equal(thief.sessions[0].recovered, false);
        assert.notEqual(thief.id, client.sessions[0].id);
        await lab.settled(thief);
        assert.deepEqual(thief.got(), []);
        assert.deepEqual((await thief.do("state")).rooms, []);
        thief.close();
      }
      await client.back();
      await exactly(lab, client, [0, 1]);
    },
  },
  {
    name: "another user gets nothing of the session while its owner is connected",
    on: ALL,
    ours: true,
    async run(lab) {
      const client = await lab.client({ auth: { user: "alice" } });
      await lab.emit(0);
      await lab.settled(client);
      const thief = await lab.client({ node: lab.back, resume: client.position, auth: { user: "mallory" } });
      assert.equal(thief.sessions[0].recovered, false);
      await lab.emit(1);
      await lab.settled(client);
      assert.deepEqual(client.got(), [0, 1]);
      assert.deepEqual(client.sessions.length, 1, "it was not disturbed");
      assert.ok(client.socket.connected);
    },
  },
  {
    name: "a session whose user signs in the other way round is not recovered",
    on: ALL,
    ours: true,
    async run(lab) {
      const client = await lab.client();
      await lab.emit(0);
      await lab.settled(client);
      await client.away();
      await lab.emit(1);
      client.auth = { user: "bob" };
      await anew(lab, client, await client.back(), [0]);
    },
  },
  {
    name: "more events missed than are replayed",
    on: ALL,
    ours: true,
    options: () => ({ maxEvents: 10 }),
    async run(lab) {
      const client = await lab.client();
      await lab.emit(0);
      await lab.settled(client);
      await client.away();
      await lab.emitMany(1, 11);
      await client.back();
      await exactly(lab, client, range(0, 11));
      await client.away();
      await lab.emitMany(11, 22);
      await anew(lab, client, await client.back(), range(0, 11));
    },
  },
  {
    name: "events for others do not count against the bound",
    on: ALL,
    ours: true,
    options: () => ({ maxEvents: 10 }),
    async run(lab) {
      const client = await lab.client();
      await client.away();
      await lab.emitMany(1000, 1040, { to: ["somebody else's"] });
      await lab.emitMany(0, 5);
      await client.back();
      await exactly(lab, client, range(0, 5));
    },
  },
  {
    name: "more bytes missed than are replayed",
    on: ALL,
    ours: true,
    options: () => ({ maxBytes: 10_000 }),
    async run(lab) {
      const client = await lab.client();
      await lab.emit(0);
      await lab.settled(client);
      await client.away();
      for (let i = 0; i < 3; i++) await lab.emit("x".repeat(5000));
      await anew(lab, client, await client.back(), [0]);
    },
  },
  {
    name: "away for longer than the window",
    on: ALL,
    options: () => ({ window: 500 }),
    async run(lab) {
      const client = await lab.client();
      await lab.emit(0);
      await lab.settled(client);
      await client.away();
      await lab.emit(1);
      // what the window is about
      await sleep(1500);
      await anew(lab, client, await client.back(), [0]);
    },
  },
  {
    name: "with skipMiddlewares a recovery asks no middleware",
    on: ALL,
    options: () => ({ skipMiddlewares: true }),
    async run(lab) {
      const client = await lab.client();
      await lab.emit(0);
      await lab.settled(client);
      await client.away();
      await lab.emit(1);
      client.auth = { refuse: "asked" };
      await client.back();
      await exactly(lab, client, [0, 1]);
      assert.ok(!client.refusals.includes("asked"));
    },
  },
  {
    name: "every event carries its id last, and binary is replayed as it was",
    on: ALL,
    async run(lab) {
      const client = await lab.client();
      const blob = { event: "blob", args: [Buffer.from([0, 255, 1]), { deep: Buffer.from("x") }] };
      await lab.do("emit", blob);
      await lab.settled(client);
      await client.away();
      await lab.do("emit", blob);
      await client.back();
      await exactly(lab, client, []);
      const blobs = client.events.filter(([event]) => event === "blob");
      assert.equal(blobs.length, 2);
      for (const [, ...args] of blobs) {
        assert.equal(typeof args.pop(), "string");
        assert.deepEqual(args, blob.args);
      }
    },
  },
  {
    name: "without recovery nothing is recovered, and no id is added",
    on: ONE,
    options: () => ({ window: 0 }),
    async run(lab) {
      const client = await lab.client();
      await lab.emit(0);
      await lab.settled(client);
      assert.equal(client.position.pid, undefined);
      assert.deepEqual(client.events[0], ["n", 0]);
      await client.away();
      await lab.emit(1);
      await anew(lab, client, await client.back(), [0]);
    },
  },
  mixed("a session of Node's is restored by ours, and the other way round", ["node", "ours"]),
  mixed("a session of ours is restored by Node, and the other way round", ["ours", "node"]),
];
