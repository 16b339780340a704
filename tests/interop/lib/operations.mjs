// What travels between nodes, and how it is seen to have arrived.
import assert from "node:assert/strict";
import { open } from "./cluster.mjs";

export const bytes = (...values) => Buffer.from(values);
export const ANYTHING = [1, "two", { three: [true, null, 1.5], "ключ": "ü🦀" }];

let rooms = 0;

/** A client on `from` that calls, two on `to`, the first in a room of its own. */
export async function people([from, to], body, nsp = "/") {
  const caller = await open(from, { nsp });
  const inside = await open(to, { nsp, query: { who: "inside" }, auth: { token: "t" } });
  const outside = await open(to, { nsp });
  const room = `room-${++rooms}`;
  await inside.ask({ op: "join", rooms: [room] });
  try {
    await body({ caller, inside, outside, room });
  } finally {
    for (const client of [caller, inside, outside]) client.close();
  }
}

/** Everyone gets this last: what came before it is all. */
export const end = async ({ caller, inside, outside }) => {
  await caller.ask({ op: "emit", event: "end", to: [caller.id, inside.id, outside.id] });
};
export const expect = async (client, ...events) => {
  for (const event of events) assert.deepEqual(await client.next(), event);
};

const answering = async (client, answer) => {
  const event = await client.next();
  event.pop()(answer(event[1]));
};

/** Each operation and how it is tried. */
export const OPERATIONS = {
  "emit to all": async (all) => {
    const { caller, inside, outside } = all;
    await caller.ask({ op: "emit", event: "all", args: ANYTHING });
    await end(all);
    for (const client of [caller, inside, outside]) await expect(client, ["all", ...ANYTHING], ["end"]);
  },
  "emit to a room": async (all) => {
    await all.caller.ask({ op: "emit", event: "room", to: [all.room] });
    await end(all);
    await expect(all.inside, ["room"], ["end"]);
    await expect(all.outside, ["end"]);
  },
  "emit to all except a room": async (all) => {
    await all.caller.ask({ op: "emit", event: "not", args: [7], except: [all.room] });
    await end(all);
    await expect(all.inside, ["end"]);
    await expect(all.outside, ["not", 7], ["end"]);
  },
  "emit binary": async (all) => {
    const args = [bytes(0, 255, 1), { deep: [bytes(), "text"] }];
    await all.caller.ask({ op: "emit", event: "bin", args, to: [all.room] });
    await end(all);
    await expect(all.inside, ["bin", ...args], ["end"]);
  },
  "emit with acknowledgements": async ({ caller, inside, outside, room }) => {
    const asked = caller.ask({ op: "ask", event: "who", args: ["?"], to: [room, outside.id] });
    await Promise.all([
      answering(inside, (value) => ({ inside: value })),
      answering(outside, (value) => ({ outside: value })),
    ]);
    const { error, answers } = await asked;
    assert.equal(error, null);
    const sorted = answers.sort((a, b) => JSON.stringify(a).localeCompare(JSON.stringify(b)));
    assert.deepEqual(sorted, [{ inside: "?" }, { outside: "?" }]);
  },
  "emit binary with acknowledgements": async ({ caller, inside, room }) => {
    const asked = caller.ask({ op: "ask", event: "who", args: [bytes(1, 2)], to: [room] });
    await answering(inside, (value) => Buffer.concat([value, bytes(3)]));
    assert.deepEqual(await asked, { error: null, answers: [bytes(1, 2, 3)] });
  },
  fetchSockets: async ({ caller, inside, room }) => {
    const data = { name: "inside", n: [1.5, null] };
    await inside.ask({ op: "set-data", data });
    const found = await caller.ask({ op: "fetch", to: [room] });
    const expected = { id: inside.id, rooms: [room], data, query: "inside", auth: { token: "t" } };
    assert.deepEqual(found, [expected]);
  },
  socketsJoin: async (all) => {
    await all.caller.ask({ op: "sockets-join", to: [all.room], rooms: ["joined", `${all.room}-2`] });
    await all.caller.ask({ op: "emit", event: "joined", to: [`${all.room}-2`] });
    await end(all);
    await expect(all.inside, ["joined"], ["end"]);
    await expect(all.outside, ["end"]);
  },
  socketsLeave: async (all) => {
    await all.caller.ask({ op: "sockets-leave", to: [all.inside.id], rooms: [all.room] });
    await all.caller.ask({ op: "emit", event: "left", to: [all.room] });
    await end(all);
    await expect(all.inside, ["end"]);
  },
  disconnectSockets: async (all) => {
    await all.caller.ask({ op: "disconnect-sockets", to: [all.room], close: false });
    assert.equal(await all.inside.disconnected, "io server disconnect");
    await end(all);
    await expect(all.outside, ["end"]);
  },
  "disconnectSockets(true)": async (all) => {
    await all.caller.ask({ op: "disconnect-sockets", to: [all.room], close: true });
    assert.match(await all.inside.disconnected, /^(io server disconnect|transport close)$/);
    await end(all);
    await expect(all.outside, ["end"]);
  },
  serverSideEmit: async ({ caller, inside }) => {
    const value = { told: [1, "two"] };
    await caller.ask({ op: "server-side-emit", args: [value] });
    await expect(inside, ["server-side", value]);
  },
  "serverSideEmit binary": async ({ caller, inside }) => {
    const value = { told: [bytes(0, 255), { deep: bytes() }] };
    await caller.ask({ op: "server-side-emit", args: [value] });
    await expect(inside, ["server-side", value]);
  },
  "serverSideEmit with acknowledgements": async ({ caller, inside }, [from]) => {
    const { error, answers } = await caller.ask({ op: "server-side-ask", args: ["?"] });
    assert.equal(error, null);
    const kinds = answers.map(({ asked, by }) => `${by} ${asked}`).sort();
    // the other two of the three nodes
    assert.deepEqual(kinds, from.kind === "rust" ? ["node ?", "rust ?"] : ["rust ?", "rust ?"]);
    assert.ok(inside);
  },
  "serverSideEmit binary with acknowledgements": async ({ caller }) => {
    const { error, answers } = await caller.ask({ op: "server-side-ask", args: [bytes(1, 255)] });
    assert.equal(error, null);
    assert.deepEqual(answers.map(({ asked }) => asked), [bytes(1, 255), bytes(1, 255)]);
  },
  serverCount: async ({ caller }) => {
    assert.equal(await caller.ask({ op: "server-count" }), 3);
  },
};
