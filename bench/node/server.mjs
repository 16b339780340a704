// The benchmark's application (../peers/src/bin/peer-quicket.rs) on Node's socket.io, on the same events.
import { createServer } from "node:http";
import { parseArgs } from "node:util";
import { Server } from "socket.io";

const { values: flags } = parseArgs({
  options: {
    "redis-url": { type: "string" },
    recovery: { type: "boolean", default: false },
  },
});

const options = { maxHttpBufferSize: 4_000_000, serveClient: false };
if (flags.recovery) {
  options.connectionStateRecovery = { maxDisconnectionDuration: 120_000 };
}
if (flags["redis-url"]) {
  const { createAdapter } = await import("@socket.io/redis-streams-adapter");
  const { createClient } = await import("redis");
  const redis = createClient({ url: flags["redis-url"] });
  await redis.connect();
  options.adapter = createAdapter(redis);
}

const http = createServer();
const io = new Server(http, options);
io.on("connection", (socket) => {
  socket.on("drawing", (line) => socket.broadcast.emit("drawing", line));
  socket.on("join", async (room, ack) => {
    socket.data.room = room;
    await socket.join(room);
    ack();
  });
  socket.on("aim", (room, ack) => {
    socket.data.room = room;
    ack();
  });
  socket.on("say", (words) => socket.to(socket.data.room).emit("said", words));
  socket.on("echo", (value, ack) => ack(value));
});
http.listen(0, "127.0.0.1", () => {
  const { address, port } = http.address();
  console.log(`listening on ${address}:${port}`);
});
