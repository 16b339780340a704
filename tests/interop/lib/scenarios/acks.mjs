// Answers, in both directions, and answers that do not come.

const SILENT = 150; // ms; the time that is waited for somebody who never answers

/** Clients that answer `question`; those named silent do not. */
async function crowd(lab, names, silent = []) {
  const join = async (name) => {
    const socket = await lab.join(name);
    await lab.do(socket, "join", { rooms: ["crowd", name] });
    socket.on("question", (number, ack) => {
      if (!silent.includes(name)) ack(`${name} says ${number}`, "and more");
    });
    return [name, socket];
  };
  return Object.fromEntries(await Promise.all(names.map(join)));
}

const failure = (promise) => promise.then(
  (value) => ({ value }),
  (error) => ({ error: error.message }),
);

/** Whose answer is first is chance. */
const sorted = ({ error, answers }) => ({ error, answers: answers.map((answer) => answer ?? "nothing").sort() });

export const acks = {
  "the client gets its answers, and an error when none comes in time": async (lab) => {
    const socket = await lab.join("a");
    const many = await Promise.all(Array.from({ length: 50 }, (_, n) => socket.emitWithAck("echo-ack", n)));
    const timely = await socket.timeout(5_000).emitWithAck("echo-ack", { in: "time" });
    const late = await failure(socket.timeout(SILENT).emitWithAck("nobody listens"));
    return [many, timely, late, await socket.emitWithAck("echo-ack", "goes on")];
  },

  "the server gets the client's answer": async (lab) => {
    const socket = await lab.join("a");
    const binary = Buffer.from([1, 2, 3]);
    socket.on("add", (one, two, ack) => ack(one + two));
    socket.on("bytes", (bytes, ack) => ack({ back: [bytes, binary] }));
    socket.on("nothing", (ack) => ack());
    socket.on("twice", (ack) => [ack("first"), ack("second")]);
    const ask = (event, args, timeout) => lab.do(socket, "ask", { by: "self", event, args, timeout });
    return [
      await ask("add", [1, 2], 5_000),
      await ask("add", ["a", "b"]),
      await ask("bytes", [binary], 5_000),
      await ask("nothing", [], 5_000),
      await ask("twice", [], 5_000),
    ];
  },

  "the server's patience with the client ends": async (lab) => {
    const socket = await lab.join("a");
    let late;
    socket.on("silent", (ack) => (late = ack));
    const silent = await lab.do(socket, "ask", { by: "self", event: "silent", timeout: SILENT });
    late("too late");
    socket.on("answers", (ack) => ack("in time"));
    const next = await lab.do(socket, "ask", { by: "self", event: "answers", timeout: 5_000 });
    return [silent, next];
  },

  "questions cross each other": async (lab) => {
    const socket = await lab.join("a");
    const held = [];
    socket.on("question", (number, ack) => {
      held.push(() => ack(number));
      if (held.length === 10) held.reverse().forEach((answer) => answer());
    });
    const ask = (_, n) => lab.do(socket, "ask", { by: "self", event: "question", args: [n], timeout: 10_000 });
    return Promise.all(Array.from({ length: 10 }, ask));
  },

  "a broadcast collects everyone's answer": async (lab) => {
    const { ann } = await crowd(lab, ["ann", "ben", "cid"]);
    const ask = async (spec) => {
      const all = { event: "question", args: [7], timeout: 10_000, ...spec };
      return sorted(await lab.do(ann, "ask", all));
    };
    return [
      await ask({ by: "namespace" }),
      await ask({ by: "socket" }),
      await ask({ by: "namespace", to: ["crowd"], except: ["cid"] }),
      await ask({ by: "namespace", to: ["ben"], local: true }),
      await ask({ by: "namespace", to: ["nobody"] }),
    ];
  },

  "of a broadcast with a silent client there are partial answers and an error": async (lab) => {
    const { ann } = await crowd(lab, ["ann", "ben", "cid"], ["ben"]);
    // long enough for the other two, whatever else the machine does
    const spec = { by: "namespace", event: "question", args: [1], timeout: SILENT * 10 };
    const partial = sorted(await lab.do(ann, "ask", spec));
    const none = sorted(await lab.do(ann, "ask", { ...spec, to: ["ben"], timeout: SILENT }));
    return [partial, none, await ann.emitWithAck("echo-ack", "goes on")];
  },

  "answers carry binary": async (lab) => {
    const [one, two] = await Promise.all([lab.join("one"), lab.join("two")]);
    for (const socket of [one, two]) socket.on("mirror", (value, ack) => ack({ value, more: [Buffer.from("more")] }));
    const spec = { event: "mirror", args: [Buffer.from([5, 6])], timeout: 10_000 };
    return [
      await lab.do(one, "ask", { ...spec, by: "self" }),
      await lab.do(one, "ask", { ...spec, by: "namespace" }),
    ];
  },
};
