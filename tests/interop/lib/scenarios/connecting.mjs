// Getting in: namespaces, authentication, middlewares, the handshake.
import { once } from "node:events";

export const connecting = {
  "main, static and dynamic namespaces can be joined": async (lab) => {
    const seen = [];
    for (const nsp of ["/", "/custom", lab.nsp]) {
      const socket = await lab.join(`in ${nsp}`, { nsp });
      const { transport, ...who } = await lab.do(socket, "who");
      seen.push(who);
      seen.push(await lab.log(`in ${nsp}`, 1));
    }
    return seen;
  },

  "a namespace that nobody serves is refused": async (lab) => {
    const nobody = await lab.refusal(lab.open("a", { nsp: "/nobody" }));
    const long = await lab.refusal(lab.open("b", { nsp: `/${"x".repeat(300)}` }));
    const query = await lab.refusal(lab.open("c", { nsp: "/nobody/at/all" }));
    return [nobody, long, query];
  },

  "a dynamic namespace may look at the auth payload": async (lab) => {
    const nsp = `/invited-${lab.label}`;
    const refused = await lab.refusal(lab.open("stranger", { nsp, auth: { invited: "yes" } }));
    const guest = await lab.join("guest", { nsp, auth: { invited: true } });
    return [refused, await lab.do(guest, "rooms")];
  },

  "middlewares refuse with a message and data, or let in with data and rooms": async (lab) => {
    const nsp = "/guarded";
    const none = await lab.refusal(lab.open("none", { nsp }));
    const wrong = await lab.refusal(lab.open("wrong", { nsp, auth: { token: "guess" } }));
    const auth = { token: "secret", user: "ada", tag: lab.tag("right") };
    const right = await lab.join("right", { nsp, auth });
    return [none, wrong, await lab.do(right, "data"), await lab.log("right", 1)];
  },

  "who was refused may try again with better papers": async (lab) => {
    const socket = lab.open("a", { nsp: "/guarded", auth: {} });
    const refused = await lab.refusal(socket);
    socket.auth = { token: "secret", user: 1 };
    socket.connect();
    await lab.connected(socket);
    return [refused, await lab.do(socket, "data")];
  },

  "one refused namespace does not harm the others of the connection": async (lab) => {
    const main = await lab.join("main", { nsp: "/" });
    const refused = await lab.refusal(lab.share(main, "guarded", { nsp: "/guarded" }));
    return [refused, await main.emitWithAck("echo-ack", "alive")];
  },

  "each namespace's socket has an id of its own, the connection is one": async (lab) => {
    const main = await lab.join("main", { nsp: "/" });
    const custom = await lab.connected(lab.share(main, "custom", { nsp: "/custom" }));
    const dynamic = await lab.connected(lab.share(main, "dynamic", { nsp: lab.nsp }));
    const all = [main, custom, dynamic];
    const ids = new Set([main.io.engine.id, ...all.map((socket) => socket.id)]);
    const who = await Promise.all(all.map((socket) => lab.do(socket, "who")));
    return {
      different: ids.size,
      shape: [...ids].every((id) => /^[A-Za-z0-9_-]{20}$/.test(id)),
      who: who.map(({ id, nsp }) => [id, nsp]),
    };
  },

  "the auth payload comes as it is": async (lab) => {
    const payloads = [
      undefined,
      {},
      { token: "€ü🎨 \u2028", deep: { list: [1, 2.5, -3, null, true, { x: [] }] }, "": 0 },
      (callback) => callback({ from: "a function" }),
    ];
    const seen = [];
    for (const [at, auth] of payloads.entries()) {
      const socket = await lab.connected(lab.open(`client ${at}`, { auth: auth ?? {} }));
      seen.push((await lab.do(socket, "who")).auth);
    }
    return seen;
  },

  "the handshake is complete": async (lab) => {
    const socket = await lab.join("a", {
      query: { who: "a b&c=d", empty: "", "ünï": "€" },
      extraHeaders: { "X-Custom": "one", origin: "http://page.example" },
      auth: { some: "auth" },
    });
    const handshake = await lab.do(socket, "handshake");
    const { headers, issued, time, url, query, ...rest } = handshake;
    const { host, "sec-websocket-key": _, ...others } = headers;
    const { t, ...parameters } = query;
    return {
      ...rest,
      parameters,
      hasTime: t !== undefined,
      headers: others,
      host: host === new URL(lab.server.url).host,
      url: url.replace(/([?&])t=[^&]*/, "$1t=T"),
      issued: Math.abs(Date.now() - issued) < 60_000,
      time: Math.abs(Date.parse(time) - issued) < 1_000,
      timeShape: time.replace(/[A-Z][a-z]{2} [A-Z][a-z]{2} \d\d \d{4} \d\d:\d\d:\d\d/, "Day Mon 00 0000 00:00:00"),
    };
  },

  "what is sent before the middlewares have decided arrives afterwards, in order": async (lab) => {
    const socket = lab.open("eager", { nsp: "/slow" });
    for (let n = 0; n < 20; n++) socket.emit("echo", n);
    await lab.connected(socket);
    return lab.events(socket, "echo", 20);
  },

  "a namespace can be left and joined again, with a new id": async (lab) => {
    const socket = await lab.join("first", { nsp: "/custom" });
    const other = await lab.connected(lab.share(socket, "other", { nsp: lab.nsp }));
    const before = socket.id;
    await lab.do(socket, "join", { rooms: ["a"] });
    socket.disconnect();
    const without = socket.id;
    await lab.log("first", 3); // Node closes the connection over a CONNECT that comes at once
    socket.connect();
    await lab.connected(socket);
    return {
      without,
      isNew: before !== socket.id,
      rooms: await lab.do(socket, "rooms"),
      other: await other.emitWithAck("echo-ack", "undisturbed"),
      log: await lab.log("first", 4),
    };
  },

  "an event of the connect handler comes after the connection": async (lab) => {
    const auth = { greeting: { words: ["wel", "come"] } };
    const socket = lab.open("a", { auth });
    const order = [];
    socket.once("connect", () => order.push("connect"));
    socket.once("greeting", (greeting) => order.push(greeting));
    await once(socket, "greeting");
    return order;
  },
};
