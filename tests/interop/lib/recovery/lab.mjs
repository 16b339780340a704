// One run of one case: a node with its memory, or two over Redis, and official clients whose network the
// case rules.
import assert from "node:assert/strict";
import { setTimeout as sleep } from "node:timers/promises";
import { io } from "socket.io-client";
import { flagsFor, Redis, ServerNode, Wire } from "./parts.mjs";

/** Where a client is at first, and where it comes back to. */
export const TOPOLOGIES = {
  memory: { title: "one node", nodes: 1, back: 0 },
  same: { title: "two nodes, back on the same", nodes: 2, back: 0 },
  other: { title: "two nodes, back on the other", nodes: 2, back: 1 },
};

/** For waits that end early when all is well. */
const PATIENCE = 10_000;

/** Waits until `condition` holds; says what did not happen. */
export async function until(what, condition, patience = PATIENCE) {
  const end = performance.now() + patience;
  while (!(await condition())) {
    assert.ok(performance.now() < end, `${what}: not within ${patience} ms`);
    await sleep(5);
  }
}

export class Lab {
  #clients = [];
  #controls = new Map();
  #marks = 0;

  /**
   * @param {{kind?: "ours"|"node", kinds?: string[], topology: keyof TOPOLOGIES}} options and those of
   * flagsFor
   */
  static async start({ kind = "ours", topology, kinds, ...options }) {
    const lab = new Lab();
    const { nodes, back } = TOPOLOGIES[topology];
    kinds ??= Array(nodes).fill(kind);
    Object.assign(lab, { kind, topology, options });
    if (nodes > 1) lab.redis = await Redis.start();
    const start = (kind, index) => ServerNode.start(kind, "ab"[index], lab.flags(kind));
    const started = await Promise.allSettled(kinds.map(start));
    lab.nodes = started.map(({ value }) => value).filter(Boolean);
    const failed = started.find(({ status }) => status === "rejected");
    if (failed) {
      await lab.stop();
      throw failed.reason;
    }
    [lab.home, lab.back] = [lab.nodes[0], lab.nodes[back]];
    return lab;
  }

  flags(kind) {
    const redis = this.redis === undefined ? [] : ["--redis-url", this.redis.url];
    return [...redis, ...flagsFor(kind, this.options)];
  }

  /** A client over a wire of its own. It has connected, unless `autoConnect` is false. */
  async client({ node = this.home, ...options } = {}) {
    const client = new Client(this, await Wire.to(node), options);
    this.#clients.push(client);
    if (options.autoConnect !== false) await client.connected();
    return client;
  }

  /** One that stays, beside the wire, and speaks for the test on a node. */
  async on(node) {
    let control = this.#controls.get(node);
    if (control === undefined) {
      control = io(node.url, { transports: ["websocket"], forceNew: true, reconnection: false });
      await new Promise((resolve, reject) => {
        control.once("connect", resolve).once("connect_error", reject);
      });
      this.#controls.set(node, control);
    }
    return control;
  }

  /** One call of the API on a node, on behalf of nobody. */
  do(op, spec = {}, node = this.home) {
    const answer = this.on(node).then((control) => control.timeout(60_000).emitWithAck("do", { op, ...spec }));
    // nobody may wait for it any more when the run ends
    answer.catch(() => {});
    return answer;
  }

  /** Emits on a node; `n` is what the cases count. What is emitted after this is behind it in the order. */
  async emit(n, { to = [], node, event = "n", ...spec } = {}) {
    const appended = await this.#appended();
    await this.do("emit", { event, args: [n], to, ...spec }, node);
    // a node says that it has taken an event, not that all others know it
    if (appended !== undefined && !spec.volatile) {
      await until("the event is in the stream", async () => (await this.#appended()) > appended);
    }
  }

  /** How many entries the stream ever had. */
  async #appended() {
    if (this.redis === undefined || (await this.redis.client.exists("socket.io")) === 0) {
      return this.redis && 0;
    }
    return (await this.redis.client.xInfoStream("socket.io"))["entries-added"];
  }

  /** Emits some in order, on the nodes in turn that live. */
  async emitMany(from, to, spec) {
    const living = this.nodes.filter((node) => !node.ended && !node.stopping);
    for (let n = from; n < to; n++) await this.emit(n, { node: living[n % living.length], ...spec });
  }

  /** Starts the first node again, where it was. */
  async restartHome() {
    const { port, kind, name } = this.home;
    this.#controls.delete(this.home);
    const fresh = await ServerNode.start(kind, name, this.flags(kind), port);
    if (this.back === this.home) this.back = fresh;
    this.home = this.nodes[0] = fresh;
  }

  /** Waits until the node has no socket of that id. */
  forgotten(id, node = this.home) {
    return until(`node ${node.name} notices`, async () => !(await this.do("here", {}, node)).includes(id));
  }

  /** Waits until a session that was ended on purpose is over where the client comes back to. */
  async over(pid) {
    // its own node knows at once; others as soon as it is told to Redis
    if (this.back === this.home) return;
    const stored = () => this.redis.client.exists(`sio:session:${pid}`);
    await until("Redis forgets the session", async () => (await stored()) === 0);
  }

  /** Waits until the client has got everything that was emitted to it so far. */
  async settled(client, node = this.nodes.find((node) => !node.ended && !node.stopping)) {
    const mark = `mark-${++this.#marks}`;
    await this.do("emit", { event: mark, to: [client.id] }, node);
    await until(`the client gets ${mark}`, () => client.events.some(([event]) => event === mark));
  }

  /** Waits until the client's session is stored with this text in it. */
  async storedWith(client, text) {
    const key = `sio:session:${client.socket._pid}`;
    const stored = async () => Buffer.from((await this.redis.client.get(key)) ?? "", "base64");
    await until(`${text} is stored`, async () => (await stored()).includes(text));
  }

  async stop() {
    for (const client of this.#clients) client.close();
    for (const control of this.#controls.values()) control.disconnect();
    await Promise.all(this.nodes.map((node) => node.stop()));
    await this.redis?.stop();
  }
}

/** An official client, and all that it sees. */
export class Client {
  events = [];
  /** One for each CONNECT: the id, and whether it was recovered. */
  sessions = [];
  refusals = [];
  /** What came in on the present connection, packet by packet. */
  frames = [];
  /** Has a connection of its ever ended? */
  closed = false;

  constructor(lab, wire, { transports = ["websocket"], auth = {}, resume, ...options }) {
    this.lab = lab;
    this.wire = wire;
    this.auth = auth;
    const quick = { reconnectionDelay: 20, reconnectionDelayMax: 100, timeout: 5000 };
    const authenticate = (callback) => callback(this.auth);
    const all = { transports, forceNew: true, auth: authenticate, ...quick, ...options };
    this.socket = io(wire.url, { ...all, autoConnect: false });
    const { socket } = this;
    if (resume) [socket._pid, socket._lastOffset] = [resume.pid, resume.offset];
    socket.onAny((...event) => this.events.push(event));
    socket.on("connect", () => this.sessions.push(this.#session()));
    socket.on("connect_error", (error) => this.refusals.push(error.message));
    socket.io.on("close", () => (this.closed = true));
    socket.io.on("open", () => {
      this.frames = [];
      this.opened = performance.now();
      socket.io.engine.on("packet", ({ type, data }) => type === "message" && this.frames.push(data));
    });
    if (options.autoConnect !== false) socket.connect();
  }

  #session() {
    // a client without a pid leaves it undefined
    return { id: this.socket.id, recovered: Boolean(this.socket.recovered) };
  }

  get id() {
    return this.socket.id;
  }

  /** What the client would say to come back. */
  get position() {
    return { pid: this.socket._pid, offset: this.socket._lastOffset };
  }

  /** The first argument of each event of that name, in the order of arrival. */
  got(event = "n") {
    return this.events.filter(([name]) => name === event).map(([, first]) => first);
  }

  do(op, spec = {}) {
    return this.socket.timeout(PATIENCE).emitWithAck("do", { op, ...spec });
  }

  connected(patience) {
    return until("the client connects", () => this.socket.connected, patience);
  }

  disconnected() {
    return until("the client is disconnected", () => !this.socket.connected);
  }

  /** Loses its connection and finds no other. The node knows it, too, unless it is half-open. */
  async away({ halfOpen = false } = {}) {
    const { id } = this;
    const polling = this.socket.io.engine.transport.name === "polling";
    this.wire.refusing = true;
    if (halfOpen) this.wire.halfOpen();
    else this.wire.cut();
    await this.disconnected();
    const node = this.wire.target;
    // between two polls there is nothing whose end a node could notice
    if (!halfOpen && !polling && !node.ended) await this.lab.forgotten(id, node);
  }

  /** Finds its way to a node again. */
  async back(node = this.lab.back) {
    const before = this.sessions.length;
    this.wire.target = node;
    this.wire.refusing = false;
    await until("the client is back", () => this.sessions.length > before);
    return this.sessions.at(-1);
  }

  close() {
    this.socket.disconnect();
    this.wire.close();
  }
}
