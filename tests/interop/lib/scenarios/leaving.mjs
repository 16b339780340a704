// Every way in which a socket may end: what the server's listeners hear, and what the client does.
import { once } from "node:events";
import { only } from "../differential.mjs";
import { RawPolling, RawWebSocket } from "../raw.mjs";

/** What the client hears when it ends. */
const end = (socket) => once(socket, "disconnect").then(([reason]) => reason);

/** The last two entries of the log: what `disconnecting` and `disconnect` listeners heard. */
const ending = async (lab, name) => (await lab.log(name, 3)).slice(1);

/** A client that is in a room, and has no upgrade under way. */
async function settled(lab, name, options) {
  const socket = await lab.join(name, options);
  await lab.upgraded(socket);
  await lab.do(socket, "join", { rooms: ["room"] });
  return socket;
}

/** What a server does with each of these, said by hand over a WebSocket in a joined namespace. */
const FRAMES = {
  "an unknown Engine.IO packet": ["9"],
  "text that is no packet": ["hello"],
  "a ping, which is the server's to send": ["2"],
  "a pong out of turn": ["3"],
  "a noop": ["6"],
  "an unknown Socket.IO packet": ["49"],
  "an event without a payload that is JSON": ["42{"],
  "an event that is no array": ['42{"a":1}'],
  "an event without a name": ["42[]"],
  "an event whose name is no text": ["42[{}]"],
  "a reserved event name": ['42["connect"]'],
  "another reserved event name": ['42["disconnecting",1]'],
  "a second CONNECT": ["40"],
  "a CONNECT with an auth that is no object": ["40/custom,[1]"],
  "a CONNECT_ERROR": ['44{"message":"no"}'],
  "an event in a namespace that was not joined": ['42/custom,["echo"]'],
  "an answer that nobody asked for": ['4312["a"]'],
  "binary that was not announced": [Buffer.from([1, 2])],
  "text where an attachment was announced": ['451-["echo",{"_placeholder":true,"num":0}]'],
  "more attachments than allowed": [`4511-["echo",${Array(11).fill('{"_placeholder":true,"num":0}').join()}]`],
  "a placeholder out of range": ['451-["echo",{"_placeholder":true,"num":1}]', Buffer.from([1])],
  "an ack id that is no number": ['421x["echo"]'],
};

export const leaving = {
  "the client leaves its namespace": async (lab) => {
    const socket = await settled(lab, "a");
    const reason = end(socket);
    socket.disconnect();
    return [await reason, await ending(lab, "a")];
  },

  "the client leaves one namespace of two": async (lab) => {
    const one = await settled(lab, "one");
    const two = await lab.connected(lab.share(one, "two", { nsp: "/custom" }));
    const reason = end(one);
    one.disconnect();
    const seen = [await reason, await ending(lab, "one"), two.connected];
    const last = end(two);
    two.disconnect();
    return [...seen, await last, await ending(lab, "two")];
  },

  "the client closes its connection": async (lab) => {
    const one = await settled(lab, "one");
    const two = await lab.connected(lab.share(one, "two", { nsp: "/custom" }));
    const reasons = Promise.all([end(one), end(two)]);
    one.io.engine.close();
    return [await reasons, await ending(lab, "one"), await ending(lab, "two")];
  },

  "the client's manager closes": async (lab) => {
    const socket = await settled(lab, "a");
    const reason = end(socket);
    socket.io._close();
    return [await reason, await ending(lab, "a")];
  },

  "the server puts the client out of one namespace": async (lab) => {
    const one = await settled(lab, "one");
    const two = await lab.connected(lab.share(one, "two", { nsp: "/custom" }));
    const reason = end(one);
    one.emit("do", { op: "disconnect" }, () => {});
    return [
      await reason,
      await ending(lab, "one"),
      await two.emitWithAck("echo-ack", "still here"),
      two.io.engine.readyState,
    ];
  },

  "the server closes the client's connection": async (lab) => {
    const one = await settled(lab, "one");
    const two = await lab.connected(lab.share(one, "two", { nsp: "/custom" }));
    const reasons = Promise.all([end(one), end(two)]);
    one.emit("do", { op: "disconnect", close: true }, () => {});
    return [await reasons, await ending(lab, "one"), await ending(lab, "two")];
  },

  "what was sent before the end arrives before it": async (lab) => {
    const socket = await settled(lab, "a");
    const reason = end(socket);
    for (let n = 0; n < 10; n++) socket.emit("echo", n);
    socket.emit("do", { op: "disconnect", close: true }, () => {});
    return [await reason, socket.received];
  },

  "what the client sent before it left is handled": async (lab) => {
    const socket = await settled(lab, "a", { auth: { tag: lab.tag("a"), watch: true } });
    for (let n = 0; n < 5; n++) socket.emit(`last words ${n}`);
    socket.disconnect();
    const log = await lab.log("a", 9);
    return log.filter((entry) => !("out" in entry));
  },

  "the connection breaks": only(["websocket", "upgrading"], async (lab) => {
    const socket = await settled(lab, "a");
    const reason = end(socket);
    socket.io.engine.transport.ws.terminate();
    return [await reason, await ending(lab, "a")];
  }),

  "a poll is broken off": only(["polling"], async (lab) => {
    const raw = await (await RawPolling.connect(lab.server)).join(lab.tag("a"));
    const abort = new AbortController();
    const poll = raw.get({ signal: abort.signal }).catch((error) => error.name);
    // the answer to this POST tells that the server is there; the poll was sent before it
    await raw.post('42["echo"]');
    await poll;
    const next = raw.get({ signal: abort.signal }).catch((error) => error.name);
    await raw.post("3");
    abort.abort();
    return [await next, await ending(lab, "a")];
  }),

  "a second poll while one waits": only(["polling"], async (lab) => {
    const raw = await (await RawPolling.connect(lab.server)).join(lab.tag("a"));
    const polls = await Promise.all([raw.get(), raw.get()]);
    const statuses = polls.map(({ status }) => status).sort();
    return [statuses, await ending(lab, "a"), await raw.get()];
  }),

  "a polling client says goodbye": only(["polling"], async (lab) => {
    const raw = await (await RawPolling.connect(lab.server)).join(lab.tag("a"));
    return [await raw.post("1"), await ending(lab, "a")];
  }),

  "volatile events wait for nobody, others do": only(["polling"], async (lab) => {
    const raw = await (await RawPolling.connect(lab.server)).join(lab.tag("a"));
    const emit = (spec) => `42["do",${JSON.stringify({ op: "emit", by: "self", args: [], ...spec })}]`;
    // no poll is waiting, so nothing can be written
    await raw.post(emit({ event: "dropped", volatile: true }));
    await raw.post(emit({ event: "kept" }));
    await raw.post(emit({ by: "namespace", event: "dropped, too", volatile: true, to: ["nobody"] }));
    const seen = [];
    while (!seen.some((body) => body.includes("kept"))) seen.push((await raw.get()).body);
    return seen;
  }),

  "an event before any namespace": only(["websocket"], async (lab) => {
    const raw = await RawWebSocket.connect(lab.server);
    raw.send('42["echo",1]');
    return (await raw.rest()).map((frame) => frame.slice(0, 2));
  }),
};

for (const [name, frames] of Object.entries(FRAMES)) {
  leaving[`by hand: ${name}`] = only(["websocket"], async (lab) => {
    const raw = await (await RawWebSocket.connect(lab.server)).join(lab.tag("a"));
    raw.send(...frames, '42["echo",1]');
    const echo = await raw.next();
    // the server does not mind: the client leaves in peace
    if (echo !== undefined) raw.send("41");
    const log = await lab.log("a", 3);
    raw.ws.close();
    return [echo, await raw.rest(), log.map(forced)];
  });
}

/** Node's reason for a packet in the wrong state depends on the transport and its moment; ours does not. */
const forced = (entry) => JSON.parse(JSON.stringify(entry).replace("forced server close", "forced close"));
