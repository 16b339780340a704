// Deploys, crashes and freezes of real servers behind a real balancer, under load: every event is numbered
// by its publisher and counted by every client, and each client's rooms and data are looked at in the end.
import { setTimeout as sleep } from "node:timers/promises";
import { io } from "socket.io-client";
import { Balancer } from "./balancer.mjs";
import { count, stories, total, Witness } from "./fuzz.mjs";
import { until } from "./lab.mjs";
import { flagsFor, freePort, Redis, ServerNode } from "./parts.mjs";

/** Between two events of the emitter (unless the row says otherwise), and of each server: 10 a second. */
const EMITTER_MS = 167;
const SERVER_MS = 500;
/** For everybody to be back; who is not by then is counted as gone. */
const RETURN = 60_000;
/** For what was published to be written, and to arrive. */
const PATIENCE = 15_000;

const ROOMS = 10;

class Rollout {
  #publishing = true;
  clients = [];
  nodes = [];
  /** How servers that were told to stop ended. */
  exits = [];
  notes = [];
  #generation = 0;

  constructor(kind, options) {
    Object.assign(this, { kind, options });
  }

  async start() {
    const { sticky = true, cutDead = false } = this.options;
    this.redis = await Redis.start();
    this.witness = await Witness.start(this.redis);
    this.ports = [await freePort(), await freePort()];
    await Promise.all([this.boot(0), this.boot(1)]);
    this.balancer = await Balancer.start({ ports: this.ports, sticky, cutDead });
  }

  /** Starts the node of that place, where it was. */
  async boot(index) {
    const quiet = this.kind === "ours" ? ["--log-filter", "error"] : [];
    const flags = ["--redis-url", this.redis.url, ...quiet, ...flagsFor(this.kind, { patient: true })];
    const node = await ServerNode.start(this.kind, "ab"[index], flags, this.ports[index]);
    this.nodes[index] = node;
    node.control = io(node.url, { transports: ["websocket"], forceNew: true, reconnection: false });
    await until("the control connects", () => node.control.connected);
    if (this.emitting) this.#publishOn(node);
  }

  #publishOn(node) {
    this.#generation += 1;
    const name = `${node.name}${this.#generation}`;
    const spec = { op: "publish", event: "p", name, count: 1_000_000, batch: 1, every: SERVER_MS };
    // answered when it is hushed
    node.control.emit("do", spec, ({ published }) => (node.took = { name, published }));
  }

  /** All clients, most over WebSocket; without stickiness polling cannot work. */
  async connect() {
    const { clients, sticky = true } = this.options;
    const transports = (i) => (sticky ? [["polling"], ["polling", "websocket"]][i % 10] : undefined);
    for (let i = 0; i < clients; i++) {
      const options = { transports: transports(i) ?? ["websocket"], forceNew: true, withCredentials: true };
      const socket = io(this.balancer.url, options);
      const client = { socket, i, ended: false };
      socket.on("end", () => (client.ended = true));
      this.clients.push(client);
      // as many at a time as a server can take
      if (i % 50 === 49) await sleep(50);
    }
    await until("all connect", () => this.clients.every(({ socket }) => socket.connected), RETURN);
    const ask = (client, spec) => client.socket.timeout(RETURN).emitWithAck("do", spec);
    await Promise.all(
      this.clients.flatMap((client) => [
        ask(client, { op: "join", rooms: [`room ${client.i % ROOMS}`] }),
        ask(client, { op: "set-data", data: { number: client.i } }),
      ]),
    );
    for (const client of this.clients) {
      count(client);
      client.id = client.socket.id;
    }
  }

  publish() {
    for (const node of this.nodes) this.#publishOn(node);
    this.emitting = (async () => {
      for (let n = 0; this.#publishing; n++) {
        // Redis may be away; what is in the stream counts
        this.redis.emit([], "p", "emitter", n).catch(() => {});
        await sleep(this.options.emitterMs ?? EMITTER_MS);
      }
    })();
  }

  allBack() {
    return until("all are back", () => this.clients.every(({ socket }) => socket.connected), RETURN);
  }

  /** The balancer cuts the connections of a frozen node; waits until everybody has another. */
  async allCut() {
    await until("the balancer cuts", () => this.clients.some(({ socket }) => !socket.connected), RETURN);
    await this.allBack();
  }

  /** Ends the publishers, waits for what is under way, and counts. */
  async count() {
    await this.allBack().catch(() => {});
    this.#publishing = false;
    await this.emitting;
    for (const { control } of this.nodes) await control.timeout(5000).emitWithAck("do", { op: "hush" });
    await this.#written();
    await this.redis.emit([], "end");
    await until("all get the end", () => this.clients.every(({ ended }) => ended), PATIENCE).catch(() => {});
    const states = await Promise.all(this.clients.map((client) => this.#keeps(client)));
    const published = await this.witness.stop();
    await this.#note();
    this.notes.push(...stories(this.clients, this.witness));
    const sum = (key) => this.clients.reduce((all, client) => all + client[key], 0);
    return {
      clients: this.clients.length,
      ...total(this.clients, published),
      returns: sum("returns"),
      recovered: sum("recovered"),
      stateless: states.filter((kept) => !kept).length,
      deaf: this.clients.filter(({ ended }) => !ended).length,
      exits: this.exits,
      notes: this.notes,
    };
  }

  /** Waits until all that the servers took is in the stream: the end has to be behind it. */
  async #written() {
    const isWritten = ({ took }) => took && (this.witness.published.get(took.name)?.size ?? 0) >= took.published;
    const written = until("what the servers took is in the stream", () => this.nodes.every(isWritten), PATIENCE);
    // what never gets there is no event; the counts say what else is wrong
    await written.catch(({ message }) => this.notes.push(message));
  }

  /** What our servers say about it themselves, of those that live; for whoever looks for a reason. */
  async #note() {
    const commands = await this.redis.client.info("commandstats");
    this.notes.push(...commands.match(/cmdstat_(xrange|evalsha|getdel|get|set):calls=\d+/g));
    if (this.kind !== "ours") return;
    for (const { name, url } of this.nodes) {
      const page = await (await fetch(`${url}/metrics`)).text();
      const lines = page.split("\n").filter((line) => /^quicket_(recover|bus|redis|takeover)/.test(line));
      this.notes.push(...lines.filter((line) => !line.endsWith(" 0")).map((line) => `${name} ${line}`));
    }
  }

  /** Does its server still know the client's id, rooms and data? */
  async #keeps({ socket, i, id }) {
    const state = await socket.timeout(10_000).emitWithAck("do", { op: "state" }).catch(() => ({}));
    const rooms = state.rooms?.join() === `room ${i % ROOMS}`;
    return state.id === id && rooms && state.data?.number === i;
  }

  async stop() {
    for (const { socket } of this.clients) socket.disconnect();
    for (const { control } of this.nodes) control.disconnect();
    await Promise.all(this.nodes.map((node) => node.kill()));
    await this.balancer?.stop();
    await this.redis?.stop();
  }
}

/** What is done to a node in its turn; in the end it has to be there again. */
export const DISRUPTIONS = {
  async SIGTERM(rollout, index) {
    rollout.exits.push(await rollout.nodes[index].term());
    await rollout.boot(index);
  },
  async SIGKILL(rollout, index) {
    await rollout.nodes[index].kill();
    await sleep(1000);
    await rollout.boot(index);
  },
  async SIGSTOP(rollout, index) {
    rollout.nodes[index].freeze();
    await rollout.allCut();
    await sleep(2000);
    rollout.nodes[index].thaw();
    await sleep(1000);
  },
  async redis(rollout, index) {
    const ended = rollout.nodes[index].term();
    if (index === 0) await rollout.redis.restart({ away: 0 });
    rollout.exits.push(await ended);
    await rollout.boot(index);
  },
};

/** One row: `how` is a key of DISRUPTIONS. */
export async function rollout(kind, { how, ...options }) {
  const rollout = new Rollout(kind, { cutDead: how === "SIGSTOP", ...options });
  try {
    await rollout.start();
    await rollout.connect();
    rollout.publish();
    await sleep(1500);
    for (const index of [0, 1]) {
      await DISRUPTIONS[how](rollout, index);
      // the balancer looks every 200 ms
      await sleep(1000);
      await rollout.allBack().catch(() => {});
      await sleep(500);
    }
    return await rollout.count();
  } finally {
    await rollout.stop();
  }
}
