// Who gets what: rooms, broadcasts, and what can be done to many sockets at once.

/** Alice in a and b, Bob in b, Carol in c; Dave in none. */
async function four(lab) {
  const rooms = { alice: ["a", "b"], bob: ["b"], carol: ["c"], dave: [] };
  const join = async ([name, rooms]) => {
    const socket = await lab.join(name, { query: { who: name } });
    await lab.do(socket, "join", { rooms });
    return [name, socket];
  };
  return Object.fromEntries(await Promise.all(Object.entries(rooms).map(join)));
}

const BROADCASTS = [
  {},
  { to: ["a"] },
  { to: ["b"] },
  { to: ["a", "b"] },
  { to: ["a", "c"] },
  { to: ["nobody"] },
  { to: ["nobody", "c"] },
  { except: ["b"] },
  { except: ["a", "c"] },
  { except: ["nobody"] },
  { to: ["b"], except: ["a"] },
  { to: ["a", "b", "c"], except: ["b"] },
  { to: ["b"], except: ["b"] },
  { local: true },
  { local: true, to: ["b"] },
  { compress: false, to: ["b", "c"] },
  { compress: true, except: ["c"] },
];

const byId = (one, other) => (one.id < other.id ? -1 : 1);

async function fetched(lab, socket, spec) {
  return lab.plain(await lab.do(socket, "fetch", { by: "namespace", ...spec })).sort(byId);
}

export const rooms = {
  "broadcasts reach those who are meant, once": async (lab) => {
    const all = await four(lab);
    let number = 0;
    for (const spec of BROADCASTS) {
      for (const by of ["socket", "namespace"]) {
        const event = `${++number}`;
        await lab.do(all.alice, "emit", { ...spec, by, event, args: [spec, by, Buffer.from([number])] });
      }
    }
    return lab.received(...Object.values(all));
  },

  "a socket's id is a room": async (lab) => {
    const { alice, bob, carol } = await four(lab);
    const spec = { event: "hello", args: ["in private"] };
    await lab.do(alice, "emit", { ...spec, by: "namespace", to: [bob.id] });
    await lab.do(alice, "emit", { ...spec, by: "socket", to: [bob.id, carol.id] });
    await lab.do(alice, "emit", { ...spec, by: "socket", to: [alice.id] });
    await lab.do(alice, "emit", { ...spec, by: "namespace", to: [alice.id], except: [bob.id] });
    await lab.do(alice, "emit", { ...spec, by: "namespace", except: [bob.id, carol.id] });
    return lab.received(alice, bob, carol);
  },

  "a broadcast stays in its namespace": async (lab) => {
    const inside = await lab.join("inside");
    const custom = await lab.join("custom", { nsp: "/custom" });
    const outside = await lab.connected(lab.share(inside, "outside", { nsp: `${lab.nsp}-other` }));
    await lab.do(inside, "join", { rooms: ["same"] });
    await lab.do(outside, "join", { rooms: ["same"] });
    await lab.do(inside, "emit", { by: "namespace", event: "all", args: [1] });
    await lab.do(outside, "emit", { by: "namespace", to: ["same"], event: "room", args: [2] });
    return lab.received(inside, outside, custom);
  },

  "rooms are joined and left as often as one likes": async (lab) => {
    const socket = await lab.join("a");
    const seen = [];
    for (const [op, rooms] of [
      ["join", ["x"]],
      ["join", ["x", "y", "y"]],
      ["leave", ["nobody"]],
      ["leave", ["x", "x"]],
      ["join", ["", "ünï🎨", "x".repeat(500)]],
      ["leave", [""]],
    ]) {
      await lab.do(socket, op, { rooms });
      seen.push(await lab.do(socket, "rooms"));
    }
    return seen;
  },

  "fetched sockets tell id, rooms, data and handshake": async (lab) => {
    const { alice, bob } = await four(lab);
    await lab.do(bob, "set-data", { data: { name: "Bob", list: [1, { x: null }] } });
    return [
      await fetched(lab, alice, {}),
      await fetched(lab, alice, { to: ["b"] }),
      await fetched(lab, alice, { except: ["b"] }),
      await fetched(lab, alice, { to: ["a", "c"], except: [alice.id] }),
      await fetched(lab, alice, { to: ["nobody"] }),
      await fetched(lab, alice, { by: "socket" }),
      await fetched(lab, alice, { local: true, to: ["c"] }),
    ];
  },

  "data stays with its socket": async (lab) => {
    const { alice, bob } = await four(lab);
    const fresh = await lab.do(alice, "data");
    await lab.do(alice, "set-data", { data: { a: { b: [1, "2", null] } } });
    return [fresh, await lab.do(alice, "data"), await lab.do(bob, "data")];
  },

  "many sockets are put into rooms and taken out at once": async (lab) => {
    const all = await four(lab);
    const { alice } = all;
    const rooms = () => Promise.all(Object.values(all).map((socket) => lab.do(socket, "rooms")));
    const seen = [];
    for (const [op, spec] of [
      ["sockets-join", { by: "namespace", rooms: ["all"] }],
      ["sockets-join", { by: "namespace", to: ["b"], rooms: ["b2", "b3"] }],
      ["sockets-join", { by: "socket", rooms: ["others"] }],
      ["sockets-join", { by: "namespace", except: ["b"], rooms: ["c"] }],
      ["sockets-leave", { by: "namespace", to: ["b2"], rooms: ["b", "nobody"] }],
      ["sockets-leave", { by: "namespace", except: ["c"], rooms: ["all", "others"] }],
      ["sockets-leave", { by: "socket", to: ["c"], rooms: ["c"] }],
    ]) {
      await lab.do(alice, op, spec);
      seen.push(await rooms());
    }
    return seen;
  },

  "fetched sockets can be written to, moved and disconnected": async (lab) => {
    const { alice, bob, carol, dave } = await four(lab);
    const spec = { by: "namespace", event: "remote", args: [1, Buffer.from("two")] };
    await lab.do(alice, "remote", { ...spec, to: ["b"] });
    const rooms = [await lab.do(alice, "rooms"), await lab.do(bob, "rooms")];
    const gone = new Promise((resolve) => carol.once("disconnect", resolve));
    await lab.do(alice, "remote", { ...spec, to: ["c"], close: true });
    const reason = await gone;
    return [rooms, reason, carol.received, await lab.received(alice, bob, dave), await fetched(lab, alice, {})];
  },

  "many sockets are disconnected at once": async (lab) => {
    const { alice, bob, carol, dave } = await four(lab);
    const end = (socket) => new Promise((resolve) => socket.once("disconnect", resolve));
    const bobs = end(bob);
    await lab.do(dave, "disconnect-sockets", { by: "namespace", to: ["b"], except: [alice.id] });
    const first = [await bobs, await lab.log("bob", 3)];
    const others = Promise.all([end(alice), end(carol)]);
    await lab.do(dave, "disconnect-sockets", { by: "socket", close: true });
    return [first, await others, await lab.log("alice", 3), await fetched(lab, dave, {})];
  },

  "who disconnects has left its rooms": async (lab) => {
    const { alice, bob } = await four(lab);
    bob.disconnect();
    await lab.log("bob", 3);
    await lab.do(alice, "emit", { by: "namespace", event: "after", args: [] });
    return [await lab.received(alice), bob.received, await fetched(lab, alice, { to: ["b"] })];
  },

  "while disconnecting, a socket can still say goodbye to its rooms": async (lab) => {
    const { alice, bob, carol } = await four(lab);
    const leaver = await lab.join("leaver", { auth: { tag: lab.tag("leaver"), farewell: "bye" } });
    await lab.do(leaver, "join", { rooms: ["b", "other"] });
    leaver.disconnect();
    const log = await lab.log("leaver", 3);
    return [await lab.received(alice, bob, carol), log];
  },
};
