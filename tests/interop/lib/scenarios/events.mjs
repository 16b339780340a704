// What events carry, and their order.
import { only } from "../differential.mjs";

const TYPES = [
  [],
  [undefined],
  [null],
  [true, false],
  [0, 1, -1, 2 ** 31, -(2 ** 31), 2 ** 53 - 1, -(2 ** 53 - 1), 1e21, 5e-324, 1.7976931348623157e308],
  [0.1, -2.5, 1 / 3, Math.PI],
  ["", " ", "text", 'quotes " and \\ and /', "\u0000\b\f\n\r\t\u001f", "\u2028\u2029\u007f\ufeff"],
  ["é€", "🎨👩‍👩‍👧", "\u202eabc", "𝔘𝔫𝔦"],
  [[], {}, [[]], [{}], { a: [] }, { a: { b: { c: { d: [1, [2, [3]]] } } } }],
  [{ "": 1, " ": 2, "1": 3, "ключ": 4, 'a"b': 5, constructor: 6, hasOwnProperty: 7 }],
  [{ _placeholder: false, num: 0 }, { num: 0 }, { _placeholder: "true" }],
  [1, "two", [3], { four: 4 }, null, 5.5, true, "eight", 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20],
  [[undefined, null], { gone: undefined, stays: null }],
  [NaN, Infinity, -Infinity],
  [new Date(0), { at: new Date("2026-11-22T08:47:23.042Z") }],
];

const BINARY = [
  [Buffer.from([0])],
  [Buffer.from("text in bytes"), "and text"],
  [new Uint8Array([1, 2, 3]), new Uint8Array([9, 8, 7]).buffer],
  [{ a: { b: [{ c: Buffer.from([1, 2]) }, "between", Buffer.from([3])] } }, [[[Buffer.from([4, 5, 6])]]]],
  [Buffer.alloc(0), Buffer.alloc(1), Buffer.alloc(2), Buffer.alloc(3), Buffer.alloc(4)],
  Array.from({ length: 10 }, (_, n) => Buffer.alloc(n, n)),
  [Buffer.from(Array.from({ length: 256 }, (_, n) => n))],
  [Buffer.alloc(70_000, 0xab), "after", { more: Buffer.alloc(130, 1) }],
];

/** Sends and awaits the echo of each. */
async function echoes(lab, socket, table) {
  for (const args of table) socket.emit("echo", ...args);
  return lab.events(socket, "echo", table.length);
}

const withCallback = (socket, ...args) => new Promise((resolve) => socket.emit(...args, (...answer) => resolve(answer)));

/** Numbered events of mixed sizes, every fifth with binary. */
function numbered(count) {
  return Array.from({ length: count }, (_, n) => {
    const text = "x".repeat((n * 7919) % (n % 50 === 0 ? 20_000 : 300));
    return n % 5 === 0 ? [n, text, { blob: Buffer.alloc((n * 31) % 700, n) }] : [n, text];
  });
}

export const events = {
  "arguments of every type and number come back unchanged": async (lab) => {
    const socket = await lab.join("a");
    return echoes(lab, socket, TYPES);
  },

  "arguments that the server encodes itself are what Node's would be": async (lab) => {
    const socket = await lab.join("a");
    // what JavaScript's encoders themselves lose or change is no matter of the server's
    const table = TYPES.slice(2, 12);
    for (const args of table) await lab.do(socket, "emit", { by: "self", event: "made", args });
    return lab.events(socket, "made", table.length);
  },

  "binary at any depth comes back unchanged": async (lab) => {
    const socket = await lab.join("a");
    return echoes(lab, socket, BINARY);
  },

  "binary at any depth that the server encodes itself": async (lab) => {
    const socket = await lab.join("a");
    // msgpack knows ArrayBuffer and Buffer apart, a server in another language need not
    const table = BINARY.filter((args) => args.every((arg) => !(arg instanceof Uint8Array) || Buffer.isBuffer(arg)));
    for (const args of table) await lab.do(socket, "emit", { by: "self", event: "made", args });
    return lab.events(socket, "made", table.length);
  },

  "acknowledgements carry any arguments, both kinds of encoding": async (lab) => {
    const socket = await lab.join("a");
    const table = [...TYPES, ...BINARY].filter((args) => args.length !== 1 || args[0] !== undefined);
    return Promise.all(table.map((args) => withCallback(socket, "echo-ack", ...args)));
  },

  "event names may be anything but the reserved ones": async (lab) => {
    const auth = { tag: lab.tag("a"), watch: true };
    const socket = await lab.join("a", { auth });
    const names = ["", " ", "ünï🎨", 'quo"te', "back\\slash", "new\nline", "1", "toString", "message", "error", "a/b,c"];
    for (const name of names) socket.emit(name, 1);
    for (const event of names) await lab.do(socket, "emit", { by: "self", event, args: [2] });
    await lab.settle(socket);
    const log = await lab.log("a", 1 + names.length * 3 + 1);
    return [socket.received, log.filter((entry) => "in" in entry), log.filter((entry) => "out" in entry)];
  },

  "a thousand numbered events keep their order in both directions": async (lab) => {
    const socket = lab.open("a");
    const sent = numbered(1000);
    for (const args of sent) socket.emit("echo", ...args);
    const received = await lab.events(socket, "echo", sent.length);
    await lab.upgraded(socket);
    return received;
  },

  "a thousand events that the server starts keep their order": async (lab) => {
    const [sender, receiver] = await Promise.all([lab.join("sender"), lab.join("receiver")]);
    const sent = numbered(1000);
    const spec = { by: "socket", event: "line" };
    const done = sent.map((args) => lab.do(sender, "emit", { ...spec, args }));
    const received = await lab.events(receiver, "line", sent.length);
    await Promise.all(done);
    return received;
  },

  "large messages arrive, also more at once than one payload may have": async (lab) => {
    const socket = await lab.join("a");
    const large = [["x".repeat(700_000)], [Buffer.alloc(600_000, 7)], ["y".repeat(600_000)], ["é".repeat(300_000)]];
    return echoes(lab, socket, large);
  },

  "catch-all listeners see what comes and goes, per-packet middlewares stop events": async (lab) => {
    const socket = await lab.join("a", { auth: { tag: lab.tag("a"), watch: true } });
    const other = await lab.join("other");
    socket.emit("echo", 1, "two");
    await lab.settle(socket);
    socket.emit("nobody listens", {});
    socket.emit("blocked", 1);
    await lab.settle(socket);
    await lab.do(other, "emit", { by: "namespace", event: "to all", args: [1, 2, 3] });
    await lab.settle(socket);
    const log = await lab.log("a", 9);
    // the two kinds may interleave differently: ours hear of an event sent when it is their turn
    return [socket.received, log.filter((entry) => "in" in entry), log.filter((entry) => "out" in entry)];
  },

  "of two handlers of one event both run, and the first may answer": async (lab) => {
    const socket = await lab.join("a");
    const answer = await socket.timeout(5_000).emitWithAck("twice");
    return [answer, await lab.log("a", 2)];
  },

  "sender flags change nothing that a ready client sees": only(["websocket"], async (lab) => {
    const socket = await lab.join("a");
    for (const flags of [{ volatile: true }, { compress: true }, { compress: false }, { local: true }]) {
      for (const by of flags.local ? ["namespace"] : ["self", "namespace"]) {
        await lab.settle(socket);
        await lab.do(socket, "emit", { by, event: JSON.stringify(flags), args: [by], ...flags });
      }
    }
    return lab.received(socket);
  }),

  "a client's retries reach the server once each when it answers": async (lab) => {
    const socket = await lab.join("a", {
      retries: 3,
      ackTimeout: 5_000,
      auth: { tag: lab.tag("a"), watch: true },
    });
    const answers = await Promise.all([1, 2, 3].map((n) => withCallback(socket, "echo-ack", n)));
    return [answers, await lab.log("a", 4)];
  },
};
