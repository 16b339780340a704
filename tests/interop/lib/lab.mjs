// One run of one scenario against one server: named clients, what they see, and nothing that differs
// between two runs by chance (ids, times).
import { once } from "node:events";
import { io } from "socket.io-client";
import msgpack from "socket.io-msgpack-parser";

/** How a client may reach the server. `upgrading` goes to work at once, while the upgrade is under way. */
export const MODES = {
  polling: { transports: ["polling"] },
  websocket: { transports: ["websocket"] },
  upgrading: { transports: ["polling", "websocket"] },
};

export class Lab {
  #names = new Map();
  #sockets = [];
  #control;

  /**
   * @param {{url: string, kind: string}} server
   * @param {{mode?: keyof MODES, parser?: "json"|"msgpack", label: string}} options
   */
  constructor(server, { mode = "websocket", parser = "json", label }) {
    this.server = server;
    this.mode = mode;
    this.parser = parser;
    this.label = label;
    /** A namespace that only this run uses. */
    this.nsp = `/lab-${label}`;
    this.options = { ...MODES[mode], forceNew: true, reconnection: false };
    if (parser === "msgpack") this.options.parser = msgpack;
  }

  /** A tag for the server's log that only this run uses. */
  tag(name) {
    return `${this.label}/${name}`;
  }

  /** A client that begins to connect. It is called `name` in all observations. */
  open(name, { nsp = this.nsp, auth, ...options } = {}) {
    const authenticate = auth ?? { tag: this.tag(name) };
    const socket = io(this.server.url + nsp, { ...this.options, auth: authenticate, ...options });
    return this.#adopt(name, socket);
  }

  /** Another namespace over the connection of `other`. */
  share(other, name, { nsp, auth } = {}) {
    return this.#adopt(name, other.io.socket(nsp, { auth: auth ?? { tag: this.tag(name) } }));
  }

  #adopt(name, socket) {
    this.#sockets.push(socket);
    socket.received = [];
    socket.onAny((event, ...args) => {
      const plain = args.filter((arg) => typeof arg !== "function");
      socket.received.push([event, ...plain]);
    });
    socket.on("connect", () => this.#names.set(socket.id, `<${name}>`));
    return socket;
  }

  /** A client that has connected. */
  async join(name, options) {
    return this.connected(this.open(name, options));
  }

  async connected(socket) {
    if (socket.connected) return socket;
    const failed = new AbortController();
    const refused = once(socket, "connect_error", failed).then(([error]) => {
      throw error;
    });
    await Promise.race([once(socket, "connect", failed), refused]).finally(() => {
      refused.catch(() => {});
      failed.abort();
    });
    return socket;
  }

  /** What a client that is not let in gets to see. */
  async refusal(socket) {
    const [error] = await once(socket, "connect_error");
    return { message: error.message, data: error.data };
  }

  /** Moves a client to the last of its transports. */
  async upgraded(socket) {
    const { engine } = socket.io;
    const wanted = this.options.transports.at(-1);
    if (engine.transport.name !== wanted) await once(engine, "upgrade");
    return socket;
  }

  /** One call of the API on the server, on behalf of a client. */
  do(socket, op, spec = {}) {
    return socket.emitWithAck("do", { op, ...spec });
  }

  /** Waits until everything that the server has sent to these clients so far is there. */
  async settle(...sockets) {
    await Promise.all(sockets.map((socket) => socket.emitWithAck("echo-ack")));
  }

  /** What these clients received, beside the answers. */
  async received(...sockets) {
    await this.settle(...sockets);
    return sockets.map((socket) => socket.received);
  }

  /** Waits for the `count`th event of that name. Gives the arguments of all. */
  async events(socket, event, count = 1) {
    const found = () => socket.received.filter(([name]) => name === event);
    while (found().length < count) await new Promise((resolve) => socket.prependAnyOnce(resolve));
    return found().map(([, ...args]) => args);
  }

  /** The server's log of a tag, as soon as it has `count` entries. */
  async log(name, count) {
    if (this.#control === undefined) {
      this.#control = io(`${this.server.url}/control`, { ...this.options, transports: ["websocket"] });
    }
    return this.#control.emitWithAck("log", this.tag(name), count);
  }

  /** Takes out what differs by chance: ids become names. */
  plain(value) {
    if (typeof value === "string") return this.#names.get(value) ?? value;
    if (Array.isArray(value)) return value.map((each) => this.plain(each));
    if (value !== null && typeof value === "object" && Object.getPrototypeOf(value) === Object.prototype) {
      return Object.fromEntries(Object.entries(value).map(([key, each]) => [key, this.plain(each)]));
    }
    return value;
  }

  close() {
    for (const socket of [...this.#sockets, this.#control]) socket?.io._close();
  }
}

/** socket.io's emitter lacks it: calls back once, for the next event of any name. */
const { Socket } = await import("socket.io-client");
Socket.prototype.prependAnyOnce = function (callback) {
  const listener = () => {
    this.offAny(listener);
    callback();
  };
  this.onAny(listener);
};
