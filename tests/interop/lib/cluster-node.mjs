// The application of examples/cluster_peer.rs on Node's server and its Redis Streams adapter. Takes the
// flags of ours that the test uses, and prints the same line.
import { createServer } from "node:http";
import { parseArgs } from "node:util";
import { createAdapter } from "@socket.io/redis-streams-adapter";
import { createClient, createCluster } from "redis";
import { Server } from "socket.io";

const { values: flags } = parseArgs({
  options: {
    "listen-address": { type: "string", default: "127.0.0.1" },
    "allowed-origins": { type: "string", default: "*" },
    "redis-url": { type: "string" },
    "redis-stream-count": { type: "string", default: "1" },
    "redis-sharded-pubsub": { type: "string", default: "false" },
  },
});

const url = flags["redis-url"];
const redis = url.startsWith("redis-cluster:")
  ? createCluster({ rootNodes: [{ url: url.replace("redis-cluster:", "redis:") }] })
  : createClient({ url });
redis.on("error", () => {}); // it connects again
await redis.connect();
const http = createServer();
const io = new Server(http, {
  cors: { origin: flags["allowed-origins"] },
  adapter: createAdapter(redis, {
    streamCount: Number(flags["redis-stream-count"]),
    useShardedPubSub: flags["redis-sharded-pubsub"] === "true",
  }),
});

for (const name of ["/", "/notifications"]) {
  const namespace = io.of(name);
  namespace.on("connection", (socket) =>
    socket.on("do", async (spec, ack) => ack(await perform(socket, spec))),
  );
  namespace.on("tell", (value) => namespace.local.emit("server-side", value));
  namespace.on("ask", (value, ack) => ack({ asked: value, by: "node" }));
}

async function perform(socket, { op, to = [], except = [], rooms = [], event, args = [], data, close = false }) {
  const broadcast = () => socket.nsp.to(to).except(except).timeout(5000);
  const answered = (ask) =>
    new Promise((resolve) =>
      ask((error, answers) => resolve({ error: error?.message ?? null, answers: answers ?? [] })),
    );
  switch (op) {
    case "emit":
      socket.nsp.to(to).except(except).emit(event, ...args);
      break;
    case "ask":
      return answered((done) => broadcast().emit(event, ...args, done));
    case "fetch":
      return (await broadcast().fetchSockets()).map(remote);
    case "sockets-join":
      broadcast().socketsJoin(rooms);
      break;
    case "sockets-leave":
      broadcast().socketsLeave(rooms);
      break;
    case "disconnect-sockets":
      broadcast().disconnectSockets(close);
      break;
    case "server-side-emit":
      socket.nsp.serverSideEmit("tell", args[0]);
      break;
    case "server-side-ask":
      return answered((done) => socket.nsp.serverSideEmit("ask", args[0], done));
    case "server-count":
      return socket.nsp.adapter.serverCount();
    case "join":
      await socket.join(rooms);
      break;
    case "set-data":
      socket.data = data;
      break;
    default:
      throw new Error(`no such op: ${op}`);
  }
  return "done";
}

const remote = (socket) => ({
  id: socket.id,
  rooms: [...socket.rooms].filter((room) => room !== socket.id).sort(),
  data: socket.data,
  query: socket.handshake.query.who ?? null,
  auth: socket.handshake.auth,
});

http.listen(Number(process.env.PORT ?? 0), flags["listen-address"], () => {
  const { address, port } = http.address();
  console.log(`listening on ${address}:${port}`);
});

process.on("SIGTERM", async () => {
  await io.close();
  redis.destroy();
  process.exit(0);
});
