// A Redis of the test's own and nodes of both kinds in one cluster.
import { spawn } from "node:child_process";
import { once } from "node:events";
import { rm } from "node:fs/promises";
import { connect, createServer } from "node:net";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { createClient, createCluster } from "redis";
import { io } from "socket.io-client";
import { dataDirectory } from "./directory.mjs";

const path = (relative) => fileURLToPath(new URL(relative, import.meta.url));
const BINARY = "/usr/bin/redis-server";
const PEER = process.env.QUICKET_CLUSTER_PEER ?? path("../../../target/release/examples/cluster_peer");
/** By these a node of ours and one of Node's ask each other, and count whom they wait for. */
const CHANNELS = ["socket.io#/#", "socket.io#/notifications#"];
/** For nodes to be counted; ends early when all is well. */
const PATIENCE = 20_000;

async function freePort() {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address();
  server.close();
  await once(server, "close");
  return port;
}

/** A process of `redis-server`, once it accepts connections. */
async function spawnServer(port, directory, flags) {
  const args = ["--port", `${port}`, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", ...flags];
  const child = spawn(BINARY, args, { cwd: directory, stdio: "ignore" });
  let failed;
  child.once("error", (error) => {
    failed = new Error(`${BINARY}: ${error.message}; this test needs Debian's package redis-server`);
  });
  child.once("exit", (code) => (failed ??= new Error(`redis-server ended with ${code}`)));
  const accepts = () =>
    new Promise((resolve) => {
      const socket = connect(port, "127.0.0.1", () => resolve(true));
      socket.once("error", () => resolve(false)).once("connect", () => socket.destroy());
    });
  while (!(await accepts())) {
    if (failed) throw failed;
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
  return child;
}

async function kill(child) {
  const exited = once(child, "exit");
  if (child.exitCode !== null || child.signalCode !== null || !child.kill("SIGKILL")) return;
  await exited;
}

async function startServer(flags = []) {
  const directory = await dataDirectory();
  const port = await freePort();
  let child = await spawnServer(port, directory, flags);
  return {
    port,
    signal: (signal) => child.kill(signal),
    kill: () => kill(child),
    /** After a kill: on the same port, with its data if it keeps any. */
    async restart() {
      child = await spawnServer(port, directory, flags);
    },
    async stop() {
      await kill(child);
      await rm(directory, { recursive: true, force: true });
    },
  };
}

/** With `keepsData` every write is in a file before it is answered. */
async function startRedis(keepsData) {
  const server = await startServer(keepsData ? ["--appendonly", "yes", "--appendfsync", "always"] : []);
  const url = `redis://127.0.0.1:${server.port}`;
  const client = createClient({ url });
  client.on("error", () => {}); // it connects again
  await client.connect();
  return {
    ...server,
    url,
    client,
    onEach: async (command) => [await client.sendCommand(command)],
    async stop() {
      client.destroy();
      await server.stop();
    },
  };
}

/** Three masters that share the slots. */
async function startRedisCluster() {
  const buses = await Promise.all([freePort(), freePort(), freePort()]);
  const flags = (bus) => ["--cluster-enabled", "yes", "--cluster-port", `${bus}`];
  const servers = await Promise.all(buses.map((bus) => startServer(flags(bus))));
  const clients = servers.map(({ port }) => createClient({ url: `redis://127.0.0.1:${port}` }));
  await Promise.all(clients.map((client) => client.connect()));
  const bounds = [0, 5461, 10923, 16384];
  for (const [at, client] of clients.entries()) {
    await client.sendCommand(["CLUSTER", "SET-CONFIG-EPOCH", `${at + 1}`]);
    await client.sendCommand(["CLUSTER", "ADDSLOTSRANGE", `${bounds[at]}`, `${bounds[at + 1] - 1}`]);
  }
  for (const at of [1, 2]) {
    await clients[0].sendCommand(["CLUSTER", "MEET", "127.0.0.1", `${servers[at].port}`, `${buses[at]}`]);
  }
  const isWhole = async (client) => {
    const info = await client.sendCommand(["CLUSTER", "INFO"]);
    return info.includes("cluster_state:ok") && info.includes("cluster_known_nodes:3");
  };
  for (const client of clients) {
    while (!(await isWhole(client))) await new Promise((resolve) => setTimeout(resolve, 20));
    client.destroy();
  }
  const [{ port }] = servers;
  const client = createCluster({ rootNodes: [{ url: `redis://127.0.0.1:${port}` }] });
  await client.connect();
  return {
    url: `redis-cluster://127.0.0.1:${port}`,
    client,
    onEach: (command) =>
      Promise.all(client.masters.map(async (master) => (await client.nodeClient(master)).sendCommand(command))),
    async stop() {
      client.destroy();
      await Promise.all(servers.map((server) => server.stop()));
    },
  };
}

async function startNode(kind, name, flags) {
  const [command, program] = kind === "rust" ? [PEER, []] : [process.execPath, [path("cluster-node.mjs")]];
  const common = ["--listen-address", "127.0.0.1", "--allowed-origins", "*"];
  const child = spawn(command, [...program, ...common, ...flags], {
    env: { ...process.env, PORT: "0" },
    stdio: ["ignore", "pipe", "inherit"],
  });
  const exited = new Promise((resolve) => child.once("exit", resolve));
  const address = await new Promise((resolve, reject) => {
    child.once("error", reject);
    child.once("exit", (code) => reject(new Error(`${command} ended with ${code} before it listened`)));
    createInterface({ input: child.stdout }).on("line", (line) => {
      const found = /^listening on (.*)$/.exec(line);
      if (found) resolve(found[1]);
    });
  });
  return {
    kind,
    name,
    url: `http://${address}`,
    signal: (signal) => child.kill(signal),
    exited,
    async stop() {
      child.kill("SIGTERM");
      child.kill("SIGCONT"); // a test may have stopped it
      await exited;
    },
  };
}

/** Waits until so many nodes have subscribed in each namespace. Node's says that it listens before it has. */
async function untilCounted(redis, sharded, count) {
  const command = ["PUBSUB", sharded ? "SHARDNUMSUB" : "NUMSUB", ...CHANNELS];
  const end = performance.now() + PATIENCE;
  for (;;) {
    const answers = await redis.onEach(command);
    const counts = CHANNELS.map((_, at) => answers.reduce((sum, answer) => sum + Number(answer[2 * at + 1]), 0));
    if (counts.every((found) => found === count)) return;
    if (performance.now() > end) throw new Error(`Redis counts ${counts} nodes, not ${count}`);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

/**
 * Two nodes of ours and one of Node's over one Redis, or a Redis Cluster. `patient`: for orders of events. A node of
 * ours delivers its own events without Redis, in no common order, when that takes longer than the local deadline.
 */
export async function startCluster(flags = [], { sharedOut = false, keepsData = false, patient = false } = {}) {
  const redis = await (sharedOut ? startRedisCluster() : startRedis(keepsData));
  const all = ["--redis-url", redis.url, ...flags];
  // Node's adapter has no such deadline
  const own = { rust: patient ? ["--redis-local-deadline", "30s"] : [], node: [] };
  const kinds = [["rust", "a"], ["rust", "b"], ["node", "n"]];
  const starting = kinds.map(([kind, name]) => startNode(kind, name, [...all, ...own[kind]]));
  const started = await Promise.allSettled(starting);
  const nodes = started.flatMap(({ value }) => value ?? []);
  const stop = async () => {
    await Promise.all(nodes.map((node) => node.stop()));
    await redis.stop();
  };
  const counted = (count) => untilCounted(redis, flags.includes("--redis-sharded-pubsub"), count);
  try {
    const failed = started.find(({ reason }) => reason);
    if (failed) throw failed.reason;
    await counted(nodes.length);
  } catch (error) {
    // or what did start would keep this process for ever
    await stop();
    throw error;
  }
  const [a, b, n] = nodes;
  return {
    redis,
    nodes: { a, b, n },
    /** Waits until Redis counts so many nodes. */
    counted,
    directions: {
      "Rust → Rust": [a, b],
      "Rust → Node": [a, n],
      "Node → Rust": [n, b],
    },
    stop,
  };
}

/** A client of a node. `next()` gives its next event; `ask(spec)` calls the API there. */
export async function open(node, { nsp = "/", ...options } = {}) {
  const socket = io(node.url + nsp, {
    transports: ["websocket"],
    forceNew: true,
    reconnection: false,
    ...options,
  });
  const events = [];
  let wake = () => {};
  socket.onAny((...event) => {
    events.push(event);
    wake();
  });
  const disconnected = new Promise((resolve) => socket.once("disconnect", resolve));
  await new Promise((resolve, reject) => {
    socket.once("connect", resolve);
    socket.once("connect_error", reject);
  });
  return {
    id: socket.id,
    disconnected,
    /** Is there a next one already? */
    hasNext: () => events.length > 0,
    async next() {
      while (events.length === 0) await new Promise((resolve) => (wake = resolve));
      return events.shift();
    },
    ask: (spec) => socket.timeout(15_000).emitWithAck("do", spec),
    close: () => socket.disconnect(),
  };
}
