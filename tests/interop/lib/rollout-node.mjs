// The application of examples/rollout.rs on Node's server and its Redis Streams adapter. Takes the flags
// of ours that the tests use, and prints the same line. Without --redis-url: the adapter in memory.
import { createServer } from "node:http";
import { parseArgs } from "node:util";
import { setTimeout as sleep } from "node:timers/promises";
import { createAdapter } from "@socket.io/redis-streams-adapter";
import { createClient } from "redis";
import { Server } from "socket.io";

const { values: flags } = parseArgs({
  options: {
    "listen-address": { type: "string", default: "127.0.0.1" },
    "allowed-origins": { type: "string", default: "*" },
    "redis-url": { type: "string" },
    "redis-max-len": { type: "string", default: "10000" },
    "ping-interval": { type: "string", default: "25000" },
    "ping-timeout": { type: "string", default: "20000" },
    "recovery-window": { type: "string" },
    "skip-middlewares": { type: "boolean", default: false },
  },
});

let accepting = true;
const http = createServer((request, response) => {
  // what balancers ask
  const known = ["/acceptz", "/readyz", "/healthz"].includes(request.url);
  response.writeHead(known ? (accepting ? 200 : 503) : 404).end();
});
const options = {
  cors: { origin: flags["allowed-origins"] },
  pingInterval: Number(flags["ping-interval"]),
  pingTimeout: Number(flags["ping-timeout"]),
};
if (flags["recovery-window"] !== undefined) {
  options.connectionStateRecovery = {
    maxDisconnectionDuration: Number(flags["recovery-window"]),
    skipMiddlewares: flags["skip-middlewares"],
  };
}
let redis;
if (flags["redis-url"] !== undefined) {
  redis = createClient({ url: flags["redis-url"] });
  // its loss is what some tests are about; the client reconnects by itself
  redis.on("error", () => {});
  await redis.connect();
  options.adapter = createAdapter(redis, { maxLen: Number(flags["redis-max-len"]) });
}
const io = new Server(http, options);

io.use(async (socket, next) => {
  const { delay, refuse } = socket.handshake.auth;
  if (delay !== undefined) await sleep(delay);
  // there is nothing that a `user` could be bound to
  next(refuse === undefined ? undefined : new Error(refuse));
});
io.on("connection", (socket) => socket.on("do", async (spec, ack) => ack(await perform(socket, spec))));

async function perform(socket, spec) {
  const { op, to = [], except = [], rooms = [], event, args = [], data, close = false } = spec;
  const broadcast = () => {
    let broadcast = socket.nsp.to(to).except(except);
    if (spec.volatile) broadcast = broadcast.volatile;
    if (spec.local) broadcast = broadcast.local;
    return broadcast;
  };
  const peers = to.length === 0 ? [socket] : to.map((id) => socket.nsp.sockets.get(id)).filter(Boolean);
  switch (op) {
    case "emit":
      broadcast().emit(event, ...args);
      break;
    case "send":
      for (const peer of peers) (spec.volatile ? peer.volatile : peer).emit(event, ...args);
      break;
    case "ask":
      return new Promise((resolve) =>
        broadcast()
          .timeout(1000)
          .emit(event, ...args, (_, answers) => resolve(answers ?? [])),
      );
    case "ask-one":
      // nobody may be there to answer
      for (const peer of peers) await peer.timeout(1000).emitWithAck(event, ...args).catch(() => {});
      break;
    case "publish":
      return publish(socket.nsp.to(to), spec);
    case "hush":
      hushed = true;
      break;
    case "sockets-join":
      broadcast().socketsJoin(rooms);
      break;
    case "sockets-leave":
      broadcast().socketsLeave(rooms);
      break;
    case "disconnect-sockets":
      broadcast().disconnectSockets(close);
      break;
    case "join":
      await socket.join(rooms);
      break;
    case "leave":
      for (const room of rooms) await socket.leave(room);
      break;
    case "set-data":
      socket.data = data;
      break;
    case "disconnect":
      socket.disconnect(close);
      break;
    case "state":
      return {
        id: socket.id,
        rooms: [...socket.rooms].filter((room) => room !== socket.id).sort(),
        data: socket.data,
        recovered: socket.recovered,
        transport: socket.conn.transport.name,
      };
    case "here":
      return [...socket.nsp.sockets.keys()];
    default:
      throw new Error(`no such op: ${op}`);
  }
  return "done";
}

let hushed = false;

async function publish(broadcast, { event, name, count, batch = 1, every }) {
  const begin = performance.now();
  let published = 0;
  for (let tick = 0; published < count && !hushed; tick++) {
    await sleep(Math.max(0, begin + tick * every - performance.now()));
    for (let i = 0; i < batch && published < count; i++) broadcast.emit(event, name, published++);
  }
  return { published };
}

http.listen(Number(process.env.PORT ?? 0), flags["listen-address"], () => {
  const { address, port } = http.address();
  console.log(`listening on ${address}:${port}`);
});

process.on("SIGTERM", async () => {
  accepting = false;
  // the Redis client throws if it loses its connection while it closes: that must not end it early
  process.on("uncaughtException", () => {});
  await io.close();
  // what it still has to write to Redis, which it does not wait for itself
  await Promise.race([redis?.close(), sleep(2000)]);
  process.exit(0);
});
