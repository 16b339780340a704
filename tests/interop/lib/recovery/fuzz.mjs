// Listeners whose connections are cut again and again while nodes and an emitter publish numbered events.
import { setTimeout as sleep } from "node:timers/promises";
import { until } from "./lab.mjs";

/** Counts what a listener got against what was published: `published` is publisher → how many. */
export class Tally {
  #seen = new Map();
  received = 0;
  twice = 0;
  disorder = 0;

  constructor() {
    this.silence = 0;
  }

  add(publisher, n, now = performance.now()) {
    this.received += 1;
    if (this.last !== undefined) this.silence = Math.max(this.silence, now - this.last);
    this.last = now;
    let seen = this.#seen.get(publisher);
    if (seen === undefined) this.#seen.set(publisher, (seen = { numbers: new Set(), last: -1 }));
    if (seen.numbers.has(n)) this.twice += 1;
    if (n < seen.last) this.disorder += 1;
    seen.numbers.add(n);
    seen.last = n;
  }

  /** Of these numbers, how many never came. */
  lost(published) {
    let lost = 0;
    for (const [publisher, numbers] of published) {
      const seen = this.#seen.get(publisher)?.numbers ?? new Set();
      for (const n of numbers) if (!seen.has(n)) lost += 1;
    }
    return lost;
  }

  has(publisher, n) {
    return this.#seen.get(publisher)?.numbers.has(n) ?? false;
  }
}

/** Follows the stream as a reader of its own: what is in it is what was published. */
export class Witness {
  published = new Map();
  /** Where in the stream each event is. */
  ids = new Map();
  #reading = true;

  static async start(redis, stream = "socket.io") {
    const witness = new Witness();
    witness.reader = redis.client.duplicate();
    witness.reader.on("error", () => {});
    await witness.reader.connect();
    witness.done = witness.#read(stream);
    return witness;
  }

  async #read(stream) {
    let id = "0";
    while (this.#reading) {
      const from = [{ key: stream, id }];
      // Redis may be away
      const found = await this.reader.xRead(from, { COUNT: 5000, BLOCK: 50 }).catch(() => sleep(20));
      for (const { id: at, message } of found?.[0]?.messages ?? []) {
        id = at;
        if (message.type === "3" && message.nsp === "/") this.#note(at, JSON.parse(message.data).packet.data);
      }
    }
  }

  #note(id, [event, publisher, n]) {
    if (event !== "p") return;
    this.ids.set(`${publisher} ${n}`, id);
    const numbers = this.published.get(publisher) ?? new Set();
    this.published.set(publisher, numbers.add(n));
  }

  async stop() {
    this.#reading = false;
    await this.done;
    this.reader.destroy();
    return this.published;
  }
}

/** Publishes `count` events as the emitter does, evenly over `seconds`. */
export async function emitAll(redis, { name, count, seconds, batch = 10, rooms = [] }) {
  const begin = performance.now();
  const answers = [];
  for (let n = 0; n < count; ) {
    await sleep(Math.max(0, begin + (n / count) * seconds * 1000 - performance.now()));
    for (let i = 0; i < batch && n < count; i++) answers.push(redis.emit(rooms, "p", name, n++));
  }
  await Promise.allSettled(answers);
}

/** The sum over listeners, each against what was published. */
export function total(clients, published) {
  const expected = [...published.values()].reduce((sum, numbers) => sum + numbers.size, 0);
  const sum = (each) => clients.reduce((all, client) => all + each(client.tally), 0);
  const lost = clients.map(({ tally }) => tally.lost(published));
  const told = ({ returns, recovered }) => returns > recovered;
  return {
    expected: expected * clients.length,
    lost: lost.reduce((all, each) => all + each, 0),
    // by clients that were told, every time, that nothing is lost
    hidden: lost.reduce((all, each, i) => (told(clients[i]) ? all : all + each), 0),
    twice: sum(({ twice }) => twice),
    disorder: sum(({ disorder }) => disorder),
    silence: Math.max(...clients.map(({ tally }) => tally.silence)),
  };
}

/** What a few clients lost, and what became of their connections: for whoever looks for a reason. */
export function stories(clients, { published, ids }) {
  const told = [];
  for (const { tally, history } of clients) {
    for (const [publisher, numbers] of published) {
      for (const n of numbers) {
        if (tally.has(publisher, n) || told.length >= 3) continue;
        told.push({ lost: `${publisher} ${n} at ${ids.get(`${publisher} ${n}`)}`, history });
      }
    }
  }
  return told;
}

/** Counts the client's numbered events `p` and its returns from now on. */
export function count(client) {
  client.tally = new Tally();
  client.returns = 0;
  client.recovered = 0;
  client.socket.on("p", (publisher, n) => client.tally.add(publisher, n));
  client.history = [];
  const note = (what) => client.history.push(`${Date.now()} ${what} at ${client.socket._lastOffset}`);
  client.socket.on("disconnect", (reason) => note(`lost its connection (${reason})`));
  client.socket.on("connect", () => {
    note(client.socket.recovered ? "recovered" : "came back anew");
    client.returns += 1;
    if (client.socket.recovered) client.recovered += 1;
  });
  return client;
}

/**
 * Cuts every client's connection every `every` ms; each comes back to the node `lab` says. Gives the sums.
 */
export async function fuzz(lab, { listeners, seconds, every, perSecond, halfOpen, ...options }) {
  const clients = [];
  for (let i = 0; i < listeners; i++) {
    clients.push(count(await lab.client({ node: lab.nodes[i % lab.nodes.length], ...options })));
  }
  const witness = lab.redis && (await Witness.start(lab.redis));
  const publishers = lab.nodes.map((node) => {
    const spec = { event: "p", name: node.name, count: perSecond * seconds, every: 10 };
    return lab.do("publish", { ...spec, batch: Math.ceil(perSecond / 100) }, node);
  });
  const emitter = lab.redis && emitAll(lab.redis, { name: "emitter", count: perSecond * seconds, seconds });
  let cutting = true;
  const cutter = (async () => {
    for (let turn = 1; cutting; turn++) {
      await sleep(every);
      clients.forEach((client, i) => {
        // every second cut may come in the middle of a return, or none would succeed on a slow machine
        if (turn % 2 === 0 && !client.socket.connected) return;
        if (lab.topology === "other") client.wire.target = lab.nodes[(i + turn) % lab.nodes.length];
        if (halfOpen) client.wire.halfOpen();
        else client.wire.cut();
      });
    }
  })();
  const answers = await Promise.all(publishers);
  await emitter;
  cutting = false;
  await cutter;
  await until("all are back", () => clients.every(({ socket }) => socket.connected));
  await lab.do("emit", { event: "end" });
  const ended = () => clients.filter((client) => client.got("end").length > 0).length;
  // whom nothing reaches any more is what this is to find out
  await until("all get the end", () => ended() === clients.length).catch(() => {});
  let published;
  if (witness) published = await witness.stop();
  else published = new Map(answers.map(({ published }, i) => [lab.nodes[i].name, numbers(published)]));
  const returns = clients.reduce((sum, client) => sum + client.returns, 0);
  const recovered = clients.reduce((sum, client) => sum + client.recovered, 0);
  const refused = returns - recovered;
  const deaf = clients.length - ended();
  const notes = witness ? stories(clients, witness) : [];
  return { ...total(clients, published), returns, recovered, refused, deaf, notes };
}

const numbers = (count) => new Set(Array.from({ length: count }, (_, n) => n));
