// What a run is made of: a Redis that keeps its data, nodes of ours and of Node's, and a network whose
// connections can be cut, left half-open or refused. All on free ports, all ended by `stop`.
import { spawn } from "node:child_process";
import { once } from "node:events";
import { rm } from "node:fs/promises";
import { connect, createServer } from "node:net";
import { createInterface } from "node:readline";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { createClient } from "redis";
import { dataDirectory } from "../directory.mjs";

const path = (relative) => fileURLToPath(new URL(relative, import.meta.url));
const REDIS = "/usr/bin/redis-server";
const OURS = process.env.QUICKET_ROLLOUT ?? path("../../../../target/release/examples/rollout");
const NODE = path("../rollout-node.mjs");

/** How each kind of server is told about recovery. */
const RECOVERY_FLAGS = {
  ours: {
    window: (ms) => ["--recovery-window", `${ms}ms`],
    skipMiddlewares: ["--recovery-skip-middlewares", "true"],
    maxEvents: (count) => ["--recovery-max-events", `${count}`],
    maxBytes: (count) => ["--recovery-max-bytes", `${count}`],
  },
  node: {
    window: (ms) => ["--recovery-window", `${ms}`],
    skipMiddlewares: ["--skip-middlewares"],
    // it has no bound
    maxEvents: () => [],
    maxBytes: () => [],
  },
};

/** The flags of a kind of server for these options. `flags` are the ones that both have. */
export function flagsFor(kind, options = {}) {
  const { window = 120_000, skipMiddlewares, maxEvents, maxBytes, patient, flags = [] } = options;
  const names = RECOVERY_FLAGS[kind];
  const all = [...flags];
  // On a busy machine Redis may take longer than the half second after which a node of ours delivers its own
  // events without it, and then in no common order: what is promised for a Redis that is there is tested here.
  if (patient && kind === "ours") all.push("--redis-local-deadline", "30s");
  if (window) all.push(...names.window(window));
  if (skipMiddlewares) all.push(...names.skipMiddlewares);
  if (maxEvents) all.push(...names.maxEvents(maxEvents));
  if (maxBytes) all.push(...names.maxBytes(maxBytes));
  return all;
}

export async function freePort() {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address();
  server.close();
  await once(server, "close");
  return port;
}

export const accepts = (port) =>
  new Promise((resolve) => {
    const socket = connect(port, "127.0.0.1", () => resolve(true));
    socket.once("error", () => resolve(false)).once("connect", () => socket.destroy());
  });

/** A child process, and signals for it. */
export class Process {
  constructor(command, args, options = {}) {
    this.command = command;
    this.child = spawn(command, args, { stdio: ["ignore", "pipe", "inherit"], ...options });
    this.exited = new Promise((resolve) => {
      this.child.once("exit", (code, signal) => resolve({ code, signal }));
      this.child.once("error", (error) => resolve({ error }));
    });
    this.ended = false;
    /** Was it asked to end? Then it takes no orders any more. */
    this.stopping = false;
    this.exited.then(() => (this.ended = true));
  }

  signal(name) {
    this.child.kill(name);
  }

  /** Stops it in the middle of whatever it does; its connections stay open. */
  freeze() {
    this.signal("SIGSTOP");
  }

  thaw() {
    this.signal("SIGCONT");
  }

  async kill() {
    this.signal("SIGKILL");
    return this.exited;
  }

  /** Waits until `ready` says so. */
  async until(ready) {
    while (!(await ready())) {
      if (this.ended) throw new Error(`${this.command} ended early: ${JSON.stringify(await this.exited)}`);
      await sleep(10);
    }
  }
}

/** A Redis that writes everything down before it answers. */
export class Redis {
  static async start() {
    const redis = new Redis();
    redis.directory = await dataDirectory();
    redis.port = await freePort();
    redis.url = `redis://127.0.0.1:${redis.port}`;
    await redis.run();
    // a second of its own to come back after a restart
    const socket = { reconnectStrategy: 20 };
    redis.client = createClient({ url: redis.url, socket });
    redis.client.on("error", () => {});
    await redis.client.connect();
    return redis;
  }

  async run() {
    const args = ["--port", `${this.port}`, "--bind", "127.0.0.1", "--save", "", "--dir", this.directory];
    const durable = ["--appendonly", "yes", "--appendfsync", "always"];
    this.process = new Process(REDIS, [...args, ...durable], { stdio: "ignore" });
    await this.process.until(() => accepts(this.port));
    // it accepts before it has loaded its data
    const probe = createClient({ url: this.url });
    probe.on("error", () => {});
    await probe.connect();
    const loaded = () => probe.ping().then(() => true, () => false);
    await this.process.until(loaded);
    probe.destroy();
  }

  /** Ends it, waits, and starts it with the data it had. */
  async restart({ away = 500 } = {}) {
    await this.process.kill();
    await sleep(away);
    await this.run();
  }

  /** As Redis' streams emitter writes it. (That is not on npm.) */
  emit(rooms, event, ...args) {
    const packet = { type: 2, data: [event, ...args], nsp: "/" };
    const data = JSON.stringify({ packet, opts: { rooms, flags: {}, except: [] } });
    const entry = { uid: "emitter", nsp: "/", type: "3", data };
    const TRIM = { strategy: "MAXLEN", strategyModifier: "~", threshold: 10_000 };
    return this.client.xAdd("socket.io", "*", entry, { TRIM });
  }

  async stop() {
    this.client.destroy();
    await this.process.kill();
    await rm(this.directory, { recursive: true, force: true });
  }
}

/** A server process of one of the two kinds. */
export class ServerNode extends Process {
  static async start(kind, name, flags, port = 0) {
    const [command, program] = kind === "ours" ? [OURS, []] : [process.execPath, [NODE]];
    const common = ["--listen-address", "127.0.0.1", "--allowed-origins", "*"];
    const env = { ...process.env, PORT: `${port}` };
    const node = new ServerNode(command, [...program, ...common, ...flags], { env });
    Object.assign(node, { kind, name });
    const address = new Promise((resolve) => {
      createInterface({ input: node.child.stdout }).on("line", (line) => {
        const found = /^listening on (.*)$/.exec(line);
        if (found) resolve(found[1]);
      });
    });
    const early = node.exited.then((how) => {
      throw new Error(`${command} ended before it listened: ${JSON.stringify(how)}`);
    });
    early.catch(() => {});
    node.port = Number(/\d+$/.exec(await Promise.race([address, early]))[0]);
    node.url = `http://127.0.0.1:${node.port}`;
    return node;
  }

  /** Asks it to stop, and waits until it has. */
  async term() {
    this.stopping = true;
    this.signal("SIGTERM");
    return this.exited;
  }

  async stop() {
    if (this.ended) return;
    this.thaw();
    this.signal("SIGTERM");
    // the test is over, and its clients may be gone without a word
    const late = setTimeout(() => this.signal("SIGKILL"), 3000);
    await this.exited;
    clearTimeout(late);
  }
}

/** The network between one client and the servers. */
export class Wire {
  #pairs = new Set();

  static async to(target) {
    const wire = new Wire();
    wire.target = target;
    wire.refusing = false;
    wire.server = createServer((near) => wire.#join(near)).listen(0, "127.0.0.1");
    await once(wire.server, "listening");
    wire.url = `http://127.0.0.1:${wire.server.address().port}`;
    return wire;
  }

  #join(near) {
    near.on("error", () => {});
    if (this.refusing) return near.resetAndDestroy();
    const far = connect(this.target.port, "127.0.0.1");
    const pair = { near, far };
    this.#pairs.add(pair);
    near.setNoDelay();
    far.setNoDelay();
    near.pipe(far);
    far.pipe(near);
    const end = () => {
      near.destroy();
      far.destroy();
      this.#pairs.delete(pair);
    };
    far.on("error", end).on("close", end);
    near.on("close", () => pair.halfOpen || end());
  }

  /** Both ends learn at once that the connection is gone. */
  cut() {
    for (const { near, far } of this.#pairs) {
      near.resetAndDestroy();
      far.resetAndDestroy();
    }
  }

  /** The server learns it, too. */
  cutFar() {
    for (const { far } of this.#pairs) far.resetAndDestroy();
  }

  /** Only the client learns it: what the server sends goes nowhere, and nothing comes. */
  halfOpen() {
    for (const pair of this.#pairs) {
      pair.halfOpen = true;
      pair.far.unpipe(pair.near);
      pair.far.resume();
      pair.near.resetAndDestroy();
    }
  }

  close() {
    this.cut();
    this.server.close();
  }
}
