// Transports without a network, and the few lines of a server behind them.
import { Transport } from "engine.io-client";

/** A transport that does nothing until the test says so. */
export class Fake extends Transport {
  static all = [];
  sent = [];
  closed = 0;

  constructor(name, options) {
    super(options);
    this.fakeName = name;
    Fake.all.push(this);
  }

  get name() {
    return this.fakeName;
  }

  get state() {
    return this.readyState;
  }

  doOpen() {}

  doClose() {
    this.closed += 1;
  }

  write(packets) {
    this.writable = false;
    this.sent.push(...packets.map(({ type, data }) => (data === undefined ? type : `${type}:${data}`)));
    for (const { type, data } of packets) {
      // A Socket.IO CONNECT to the main namespace.
      if (type === "message" && data.startsWith("0")) this.auth = JSON.parse(data.slice(1) || "{}");
    }
    queueMicrotask(() => {
      this.writable = true;
      this.emitReserved("drain");
    });
  }

  /** The server's Engine.IO handshake arrives. */
  handshake(sid = `sid of ${this.fakeName}`, upgrades = []) {
    this.onOpen();
    const data = { sid, upgrades, pingInterval: 25_000, pingTimeout: 20_000, maxPayload: 1e6 };
    this.onPacket({ type: "open", data: JSON.stringify(data) });
  }

  /** A Socket.IO packet arrives. */
  receive(data) {
    this.onPacket({ type: "message", data });
  }

  fail(reason = `${this.fakeName} error`) {
    this.onError(reason, new Error("as the test wants"));
  }

  /** The server, or the network, ends it. */
  end() {
    this.onClose({ description: "gone" });
  }
}

/** The newest fake of a name. */
export function latest(name) {
  return Fake.all.findLast((fake) => fake.name === name);
}

/** How many of a name there have been. */
export function count(name) {
  return Fake.all.filter((fake) => fake.name === name).length;
}

/** `localStorage` for one test. */
export function memoryStore() {
  const items = new Map();
  return {
    getItem: (key) => items.get(key) ?? null,
    setItem: (key, value) => void items.set(key, value),
    removeItem: (key) => void items.delete(key),
    key: (index) => [...items.keys()][index] ?? null,
    get length() {
      return items.size;
    },
  };
}

/** What was promised has run: a few turns of the microtask queue and of what Node puts behind it. */
export async function settled() {
  for (let turn = 0; turn < 5; turn += 1) await new Promise((resolve) => setImmediate(resolve));
}

/** The part of a client socket that `Sync` uses. */
export class FakeSocket {
  connected = false;
  id = undefined;
  sent = [];
  #handlers = new Map();
  #count = 0;

  on(event, handler) {
    this.#handlers.set(event, handler);
  }

  timeout() {
    return this;
  }

  emit(event, data, answer) {
    this.sent.push({ event, ...structuredClone(data), answer });
  }

  receive(event, data) {
    this.#handlers.get(event)(data);
  }

  /** Connects, and gets the picture of a board. */
  welcome(strokes = [], epoch = "e1", author = "me") {
    this.#count += 1;
    Object.assign(this, { connected: true, id: `id${this.#count}`, sent: [] });
    this.receive("author", author);
    this.receive("board", { epoch, strokes });
  }

  lose() {
    const { sent } = this;
    Object.assign(this, { connected: false, id: undefined, sent: [] });
    this.receive("disconnect");
    for (const { answer } of sent) answer?.(new Error("socket has been disconnected"));
  }

  /** Acknowledges what was asked, as the server does when it has everything. */
  confirm() {
    for (const one of this.sent.filter(({ answer }) => answer)) {
      one.answer(null, one.event === "draw" ? { have: one.i + one.p.length } : undefined);
      one.answer = undefined;
    }
  }

  drawn() {
    return this.sent.filter(({ event }) => event === "draw").map(({ s, i, p }) => [s.split(".")[1], i, p]);
  }
}
