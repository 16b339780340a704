// Peers that speak the protocol by hand: what no official client would say, and ends that none would make.
import { once } from "node:events";
import { WebSocket } from "ws";

/** Engine.IO over a WebSocket, frame by frame. */
export class RawWebSocket {
  #frames = [];
  #wake = () => {};

  static async connect(server, query = "EIO=4&transport=websocket") {
    const raw = new RawWebSocket();
    raw.ws = new WebSocket(`${server.url.replace("http", "ws")}/socket.io/?${query}`, { perMessageDeflate: false });
    raw.ws.on("message", (data, isBinary) => {
      raw.#frames.push(isBinary ? data : data.toString());
      raw.#wake();
    });
    raw.closed = once(raw.ws, "close").then(([code]) => code);
    raw.closed.then(() => raw.#wake());
    await once(raw.ws, "open");
    return raw;
  }

  /** The next frame, or `undefined` at the end of the connection. */
  async next() {
    while (this.#frames.length === 0) {
      if (this.ws.readyState === WebSocket.CLOSED) return undefined;
      await new Promise((resolve) => (this.#wake = resolve));
    }
    return this.#frames.shift();
  }

  send(...frames) {
    for (const frame of frames) this.ws.send(frame);
  }

  /** What comes until the connection ends, pings answered on request. */
  async rest({ pong = false } = {}) {
    const all = [];
    for (let frame; (frame = await this.next()) !== undefined; ) {
      if (pong && frame === "2") this.send("3");
      else all.push(frame);
    }
    return all;
  }

  /** Joins the main namespace under a tag. What comes before the answer, as pings may, is still to come. */
  async join(tag) {
    await this.next(); // OPEN
    this.send(`40${JSON.stringify({ tag })}`);
    const others = [];
    for (;;) {
      const frame = await this.next();
      if (frame === undefined) throw new Error(`closed without an answer to CONNECT, after ${others}`);
      if (frame.startsWith("40")) break;
      others.push(frame);
    }
    this.#frames.unshift(...others);
    return this;
  }
}

/** Engine.IO over polling, request by request. */
export class RawPolling {
  static async connect(server, query = "EIO=4&transport=polling") {
    const raw = new RawPolling();
    raw.url = `${server.url}/socket.io/?${query}`;
    const open = await raw.get();
    raw.url += `&sid=${JSON.parse(open.body.slice(1)).sid}`;
    return raw;
  }

  get(options = {}) {
    return this.request("GET", undefined, options);
  }

  post(body, options = {}) {
    return this.request("POST", body, options);
  }

  async request(method, body, options) {
    const response = await fetch(this.url, { method, body, ...options });
    return { status: response.status, body: await response.text() };
  }

  async join(tag) {
    await this.post(`40${JSON.stringify({ tag })}`);
    await this.get();
    return this;
  }
}
