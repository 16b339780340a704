// Where a recovery is granted but wrong: rows S1 to S13. As in refused.mjs.
import assert from "node:assert/strict";
import { setTimeout as sleep } from "node:timers/promises";
import { fuzz } from "./fuzz.mjs";
import { until } from "./lab.mjs";
import { ALL, anew, exactly, range, REDIS } from "./refused.mjs";

/**
 * Events under cuts: what came of it must be none, none, none. A client whose WebSocket is cut between the
 * probe and the upgrade learns of it by the heartbeat only, so that one is fast here.
 */
const cutting = (name, how = {}) => ({
  name: `S1, S2: ${name}`,
  on: ALL,
  options: () => ({ flags: ["--ping-interval", "1000", "--ping-timeout", "1000"], patient: true }),
  run: (lab) => cuts(lab, how),
});

async function cuts(lab, options) {
  const load = { listeners: 4, seconds: 3, every: 200, perSecond: 500 };
  const { lost, twice, disorder, refused, deaf, returns } = await fuzz(lab, { ...load, ...options });
  assert.ok(returns >= 2, `${returns} returns are too few to show anything`);
  const wrong = { lost, twice, disorder, refused, deaf };
  assert.deepEqual(wrong, { lost: 0, twice: 0, disorder: 0, refused: 0, deaf: 0 });
}

/** Somebody changes the rooms of a client that is away, from `by`. */
async function changed(lab, { by = lab.home, leave = (client) => client.away() } = {}) {
  const client = await lab.client();
  await client.do("join", { rooms: ["kept", "left"] });
  await lab.emit(0, { to: ["kept"] });
  await lab.settled(client);
  await leave(client);
  const { id } = client.sessions[0];
  await lab.do("sockets-join", { to: [id], rooms: ["joined"] }, by);
  await lab.do("sockets-leave", { to: [id], rooms: ["left"] }, by);
  await lab.emit(1, { to: ["kept"], node: by });
  await lab.emit(2, { to: ["joined"], node: by });
  await lab.emit(-1, { to: ["left"], node: by });
  await client.back();
  await exactly(lab, client, [0, 1, 2]);
  await lab.emit(3, { to: ["joined"], node: by });
  await lab.emit(-2, { to: ["left"], node: by });
  await exactly(lab, client, [0, 1, 2, 3]);
  assert.deepEqual((await client.do("state")).rooms, ["joined", "kept"]);
}

/** Somebody disconnects a client that is away. */
async function kicked(lab, { by = lab.home, leave = (client) => client.away() } = {}) {
  const client = await lab.client();
  await client.do("join", { rooms: ["kept"] });
  await lab.emit(0);
  await lab.settled(client);
  await leave(client);
  await lab.do("disconnect-sockets", { to: [client.sessions[0].id] }, by);
  await lab.emit(-1, { node: by });
  await anew(lab, client, await client.back(), [0]);
}

const killed = (lab, room) => async (client) => {
  client.wire.refusing = true;
  // changes are stored behind the event that made them: a node that is killed in between takes them along
  if (room) await lab.storedWith(client, room);
  await lab.home.kill();
  await client.disconnected();
};

export const WRONG = [
  cutting("cut again and again under load"),
  cutting("cut again and again under load, over polling", { transports: ["polling"] }),
  cutting("cut again and again under load, in upgrades", { transports: ["polling", "websocket"] }),
  cutting("half-open again and again under load", { halfOpen: true }),
  {
    name: "S3: events of the time in which a middleware thinks",
    on: ALL,
    async run(lab) {
      const client = await lab.client();
      await lab.emit(0);
      await lab.settled(client);
      client.auth = { delay: 300 };
      await client.away();
      const publisher = lab.do("publish", { event: "p", name: "p", count: 50, batch: 1, every: 15 });
      await client.back();
      await publisher;
      await exactly(lab, client, [0]);
      const numbers = client.events.filter(([event]) => event === "p").map(([, , n]) => n);
      assert.deepEqual(numbers, range(0, 50));
    },
  },
  {
    name: "S4: nothing leaves before the middlewares agree",
    on: ALL,
    async run(lab) {
      const client = await lab.client();
      await client.do("join", { rooms: ["secret"] });
      await lab.emit(0);
      await lab.settled(client);
      client.auth = { refuse: "banned", delay: 50 };
      await client.away();
      await lab.emit(42, { to: ["secret"] });
      client.wire.target = lab.back;
      client.wire.refusing = false;
      await until("it is refused", () => client.refusals.includes("banned"));
      assert.deepEqual(client.frames, ['4{"message":"banned"}'], "the packets that came");
      assert.deepEqual(client.got(), [0]);
      // the refusal took nothing from whom the session belongs to
      client.auth = {};
      const before = client.sessions.length;
      client.socket.connect();
      await until("it is let in", () => client.sessions.length > before);
      await exactly(lab, client, [0, 42]);
    },
  },
  {
    name: "S5: volatile events are not replayed",
    on: ALL,
    async run(lab) {
      const client = await lab.client();
      await lab.emit(0);
      await lab.settled(client);
      await client.away();
      await lab.emit(-1, { volatile: true });
      await lab.emit(1);
      await lab.emit(-2, { volatile: true, node: lab.back });
      await client.back();
      await exactly(lab, client, [0, 1]);
    },
  },
  {
    name: "S6: events that expected an acknowledgement are not replayed without it",
    on: ALL,
    async run(lab) {
      const client = await lab.client();
      await lab.emit(0);
      await lab.settled(client);
      await client.away({ halfOpen: true });
      const asked = lab.do("ask-one", { to: [client.sessions[0].id], event: "ask", args: ["one"] });
      const all = lab.do("ask", { event: "ask", args: ["all"] });
      await lab.emit(1);
      client.wire.cutFar();
      await lab.forgotten(client.sessions[0].id);
      await client.back();
      await exactly(lab, client, [0, 1]);
      // whoever is asked later has a way to answer
      for (const [, , answer] of client.events.filter(([event]) => event === "ask")) {
        assert.equal(typeof answer, "function");
      }
      await Promise.all([asked, all]);
    },
  },
  {
    name: "S7: a new login on the same socket object",
    on: ALL,
    async run(lab) {
      const client = await lab.client({ auth: { user: "alice" } });
      await lab.emit(0);
      await lab.settled(client);
      client.socket.disconnect();
      await lab.emit(-1, { to: ["bob's"] });
      client.auth = { user: "bob" };
      client.socket.connect();
      await client.connected();
      assert.equal(client.sessions.at(-1).recovered, false);
      await client.do("join", { rooms: ["bob's"] });
      // alice's offset is what the client still has
      await client.away();
      await lab.emit(1, { to: ["bob's"] });
      const session = await client.back();
      assert.deepEqual(session, { id: client.sessions[1].id, recovered: true });
      await lab.settled(client);
      assert.deepEqual(client.got(), [0, 1]);
    },
  },
  {
    name: "S8: the same session is wanted many times at once",
    on: ALL,
    async run(lab) {
      const client = await lab.client();
      await lab.emit(0);
      await lab.settled(client);
      await client.away();
      await lab.emit(1);
      const resume = client.position;
      const { id } = client.sessions[0];
      const common = { resume, reconnection: false, autoConnect: false };
      const want = (i) => lab.client({ node: lab.nodes[i % lab.nodes.length], ...common });
      const wanted = await Promise.all([0, 1, 2, 3].map(want));
      for (const { socket } of wanted) socket.connect();
      // who is overtaken may be closed before it was ever connected
      const settled = ({ sessions, closed }) => sessions.length > 0 || closed;
      const owners = () => wanted.filter(({ socket }) => socket.connected && socket.id === id);
      await until("one is left", () => wanted.every(settled) && owners().length === 1);
      await lab.emit(2);
      const [owner] = owners();
      await lab.settled(owner);
      assert.deepEqual(owner.got(), [1, 2]);
      assert.equal(owners().length, 1);
      const here = await Promise.all(lab.nodes.map((node) => lab.do("here", {}, node)));
      assert.deepEqual(here.flat().filter((each) => each === id), [id]);
      for (const other of wanted.filter((other) => other !== owner && other.socket.connected)) {
        assert.deepEqual(other.sessions.map(({ recovered }) => recovered), [false]);
      }
    },
  },
  {
    name: "S9: away again before anything new",
    on: ALL,
    async run(lab) {
      const client = await lab.client();
      await lab.emit(0);
      await lab.settled(client);
      await client.away();
      await lab.emitMany(1, 4);
      for (let i = 0; i < 5; i++) {
        await client.back(lab.nodes[(i + 1) % lab.nodes.length]);
        await client.away();
      }
      await client.back();
      await exactly(lab, client, range(0, 4));
    },
  },
  { name: "S10: rooms joined and left while away", on: ALL, run: (lab) => changed(lab) },
  {
    name: "S10: rooms joined and left while away, by another node",
    on: REDIS,
    run: (lab) => changed(lab, { by: lab.nodes[1] }),
  },
  {
    name: "S10: rooms joined and left while the connection is half-open",
    on: ALL,
    run: (lab) => changed(lab, { leave: (client) => client.away({ halfOpen: true }) }),
  },
  {
    name: "S10: rooms joined and left after the node was killed",
    on: ["other"],
    run: (lab) => changed(lab, { by: lab.back, leave: killed(lab, "kept") }),
  },
  { name: "S10: disconnected while away", on: ALL, run: (lab) => kicked(lab) },
  {
    name: "S10: disconnected while away, by another node",
    on: REDIS,
    run: (lab) => kicked(lab, { by: lab.nodes[1] }),
  },
  {
    name: "S10: disconnected after the node was killed",
    on: ["other"],
    run: (lab) => kicked(lab, { by: lab.back, leave: killed(lab) }),
  },
  {
    name: "S11: many events missed, and more come all the time",
    on: ALL,
    options: () => ({ maxEvents: 20_000, maxBytes: 4_000_000 }),
    async run(lab) {
      const client = await lab.client();
      await lab.emit(0);
      await lab.settled(client);
      await client.away();
      const spec = { event: "p", name: "p", count: 6000, batch: 20, every: 2 };
      const publisher = lab.do("publish", spec);
      await sleep(300);
      await client.back();
      await publisher;
      await exactly(lab, client, [0]);
      const numbers = client.events.filter(([event]) => event === "p").map(([, , n]) => n);
      assert.deepEqual(numbers, range(0, 6000));
    },
  },
  {
    name: "S12: broadcasts with acknowledgements are of their moment",
    on: ALL,
    async run(lab) {
      const client = await lab.client();
      await lab.emit(0);
      await lab.settled(client);
      await client.away();
      // nobody is there who would answer
      const asked = lab.do("ask", { event: "ask", to: [client.sessions[0].id], args: ["?"] });
      assert.deepEqual(await asked, []);
      await client.back();
      await exactly(lab, client, [0]);
      assert.deepEqual(client.got("ask"), []);
    },
  },
  {
    name: "S13: what the client sends meanwhile is its own affair, and its buffer's",
    on: ALL,
    async run(lab) {
      const client = await lab.client({ retries: 5, ackTimeout: 1000 });
      await lab.emit(0);
      await lab.settled(client);
      await client.away();
      const answer = new Promise((resolve) => {
        client.socket.emit("do", { op: "state" }, (error, state) => resolve(state));
      });
      await client.back();
      assert.equal((await answer).id, client.sessions[0].id);
      await exactly(lab, client, [0]);
    },
  },
];
