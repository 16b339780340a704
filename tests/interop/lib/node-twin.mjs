// The application of examples/interop.rs on Node's own server: what one does, the other has to do.
// Takes the flags of ours that the tests use, and prints the same lines.
import { createServer } from "node:http";
import { parseArgs } from "node:util";
import { Server } from "socket.io";
import msgpack from "socket.io-msgpack-parser";

const text = (def) => ({ type: "string", default: def });
const { values: flags } = parseArgs({
  options: {
    port: text("0"),
    "listen-address": text("127.0.0.1"),
    parser: text("json"),
    cookie: text("off"),
    "ping-interval": text("25000"),
    "ping-timeout": text("20000"),
    "connect-timeout": text("45000"),
    "upgrade-timeout": text("10000"),
    "max-payload": text("1000000"),
    "allowed-origins": text("*"),
    transports: text("polling,websocket"),
    "log-filter": text(""),
    "cleanup-empty-child-namespaces": text("false"),
  },
});

const http = createServer((_, response) => response.writeHead(404).end());
const io = new Server(http, {
  parser: flags.parser === "msgpack" ? msgpack : undefined,
  cookie: flags.cookie === "off" ? false : { name: flags.cookie, httpOnly: true, path: "/", sameSite: "lax" },
  pingInterval: Number(flags["ping-interval"]),
  pingTimeout: Number(flags["ping-timeout"]),
  connectTimeout: Number(flags["connect-timeout"]),
  upgradeTimeout: Number(flags["upgrade-timeout"]),
  maxHttpBufferSize: Number(flags["max-payload"]),
  transports: flags.transports.split(","),
  cleanupEmptyChildNamespaces: flags["cleanup-empty-child-namespaces"] === "true",
  cors: { origin: flags["allowed-origins"] },
});

// --- the log

const log = new Map();
let readers = [];

function write(socket, entry) {
  const tag = socket.handshake.auth.tag;
  if (typeof tag !== "string") return;
  log.set(tag, [...(log.get(tag) ?? []), entry]);
  readers = readers.filter((reader) => !reader());
}

// --- namespaces

for (const name of ["/", "/custom"]) io.of(name).on("connection", connected);
io.of(/^\/lab-/).on("connection", connected);
const invited = io.of((name, auth, next) => next(null, name.startsWith("/invited-") && auth.invited === true));
invited.use((socket, next) => {
  socket.join("guests");
  next();
});
invited.on("connection", connected);

const guarded = io.of("/guarded");
guarded.use((socket, next) => {
  const { token } = socket.handshake.auth;
  if (token === "secret") return next();
  if (typeof token === "string") return next(new Error("wrong token"));
  const error = new Error("no token");
  error.data = { code: 401, accepts: ["token", { deep: [1.5, null] }] };
  next(error);
});
guarded.use((socket, next) => {
  socket.data.user = socket.handshake.auth.user ?? null;
  socket.join(["members", "first"]);
  next();
});
guarded.on("connection", connected);

const slow = io.of("/slow");
slow.use((_, next) => setTimeout(next, 100));
slow.on("connection", connected);

io.of("/control").on("connection", (socket) => {
  socket.on("log", (tag, count, ack) => {
    const reader = () => {
      const entries = log.get(tag) ?? [];
      if (entries.length < count) return false;
      ack(entries);
      return true;
    };
    if (!reader()) readers.push(reader);
  });
});

// --- a socket

function connected(socket) {
  write(socket, { connection: socket.nsp.name, rooms: rooms(socket) });
  socket.on("echo", (...args) => socket.emit("echo", ...args));
  socket.on("echo-ack", (...args) => args.pop()(...args));
  socket.on("twice", (ack) => ack("first"));
  socket.on("twice", () => write(socket, "second"));
  socket.on("do", async (spec, ack) => {
    const result = await perform(socket, spec);
    ack?.(result);
  });
  socket.use(([event], next) => next(event === "blocked" ? new Error("not this one") : undefined));
  socket.on("error", () => {});
  socket.on("blocked", () => write(socket, "the handler of blocked"));
  const { watch, farewell, greeting } = socket.handshake.auth;
  if (watch === true) {
    const count = (args) => args.filter((arg) => typeof arg !== "function").length;
    socket.onAny((event, ...args) => write(socket, { in: event, args: count(args) }));
    socket.onAnyOutgoing((event, ...args) => write(socket, { out: event, args: count(args) }));
  }
  socket.on("disconnecting", (reason) => {
    write(socket, { disconnecting: reason, rooms: rooms(socket) });
    if (typeof farewell === "string") socket.to([...socket.rooms]).emit("farewell", farewell);
  });
  socket.on("disconnect", (reason) => write(socket, { disconnect: reason, rooms: rooms(socket) }));
  if (greeting !== undefined) socket.emit("greeting", greeting);
}

/** The rooms but its own, in alphabetical order. */
const rooms = (socket) => [...socket.rooms].filter((room) => room !== socket.id).sort();

// --- calls of the API

function broadcast(socket, { by, to = [], except = [], volatile, local, compress, timeout }) {
  let sender = by === "socket" ? socket.to(to) : socket.nsp.to(to);
  sender = sender.except(except);
  if (volatile) sender = sender.volatile;
  if (local) sender = sender.local;
  if (compress !== undefined) sender = sender.compress(compress);
  if (timeout !== undefined) sender = sender.timeout(timeout);
  return sender;
}

async function perform(socket, spec) {
  const { by, event, args = [], rooms: named = [], close = false } = spec;
  switch (spec.op) {
    case "join":
      await socket.join(named);
      break;
    case "leave":
      for (const room of named) await socket.leave(room);
      break;
    case "rooms":
      return rooms(socket);
    case "emit":
      if (by === "self") sender(socket, spec).emit(event, ...args);
      else broadcast(socket, spec).emit(event, ...args);
      break;
    case "ask":
      return by === "self" ? askItself(socket, spec) : askOthers(socket, spec);
    case "fetch":
      return (await broadcast(socket, spec).fetchSockets()).map(remote);
    case "sockets-join":
      broadcast(socket, spec).socketsJoin(named);
      break;
    case "sockets-leave":
      broadcast(socket, spec).socketsLeave(named);
      break;
    case "disconnect-sockets":
      broadcast(socket, spec).disconnectSockets(close);
      break;
    case "remote":
      for (const remote of await broadcast(socket, spec).fetchSockets()) {
        remote.join("remotely");
        remote.emit(event, ...args);
        remote.leave("left");
        if (close) remote.disconnect(false);
      }
      break;
    case "set-data":
      socket.data = spec.data;
      break;
    case "data":
      return socket.data;
    case "handshake":
      return socket.handshake;
    case "who":
      return {
        id: socket.id,
        nsp: socket.nsp.name,
        transport: socket.conn.transport.name,
        auth: socket.handshake.auth,
        connected: socket.connected,
      };
    case "disconnect":
      socket.disconnect(close);
      break;
    default:
      throw new Error(`no such op: ${spec.op}`);
  }
  return "done";
}

function sender(socket, { volatile, compress }) {
  let sender = socket;
  if (volatile) sender = sender.volatile;
  if (compress !== undefined) sender = sender.compress(compress);
  return sender;
}

async function askItself(socket, { event, args = [], timeout }) {
  const sender = timeout === undefined ? socket : socket.timeout(timeout);
  try {
    return { error: null, answer: (await sender.emitWithAck(event, ...args)) ?? null };
  } catch (error) {
    return { error: error.message };
  }
}

function askOthers(socket, spec) {
  return new Promise((resolve) => {
    broadcast(socket, spec).emit(spec.event, ...(spec.args ?? []), (error, answers) =>
      resolve({ error: error?.message ?? null, answers: answers.map((answer) => answer ?? null) }),
    );
  });
}

function remote(socket) {
  return {
    id: socket.id,
    rooms: rooms(socket),
    data: socket.data,
    query: socket.handshake.query.who ?? null,
    auth: socket.handshake.auth,
  };
}

http.listen(Number(flags.port), flags["listen-address"], () => {
  const { address, port } = http.address();
  console.log(`listening on ${address}:${port}`);
});

process.on("SIGTERM", async () => {
  await io.close();
  console.log(`log ${JSON.stringify(Object.fromEntries(log))}`);
  process.exit(0);
});
