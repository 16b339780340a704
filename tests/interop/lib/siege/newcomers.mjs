// Official clients that come one after the other, over each transport in turn: each connects, has an answer and leaves.
import { io } from "socket.io-client";
import { summary } from "./traffic.mjs";

/** So often one comes, in milliseconds. */
const PACE = 250;
/** Who has not connected by then, or has no answer, has an error. */
const PATIENCE = 10_000;

/** Over a transport that Node speaks; how long it took to connect, in milliseconds. */
async function visit(url, transport) {
  const begin = performance.now();
  const options = { transports: [transport], forceNew: true, reconnection: false, timeout: PATIENCE };
  const socket = io(url, { ...options, auth: { board: "newcomers" }, rejectUnauthorized: false });
  try {
    await new Promise((resolve, reject) => {
      socket.once("connect", resolve);
      socket.once("connect_error", reject);
    });
    const took = performance.now() - begin;
    await socket.timeout(PATIENCE).emitWithAck("rtt");
    return took;
  } finally {
    socket.disconnect();
  }
}

/** So many at once over each of Node's transports, again and again. How many there were. */
export async function visits(url, many, seconds) {
  let count = 0;
  for (const begin = performance.now(); performance.now() - begin < seconds * 1000; ) {
    const group = Array.from({ length: many }, (_, index) => visit(url, index % 2 ? "polling" : "websocket"));
    count += (await Promise.all(group)).length;
  }
  return count;
}

export class Newcomers {
  #timer;
  #turn = 0;
  #samples = [];
  #visiting = new Set();
  errors = [];

  /** They come until `stop`. `page`: who lets them in over WebTransport. */
  constructor(url, page) {
    const ways = ["polling", "websocket", "webtransport"];
    const come = (way) => (way === "webtransport" ? page.visit() : visit(url, way));
    this.#timer = setInterval(() => {
      const way = ways[this.#turn++ % ways.length];
      const visiting = come(way).then(
        (took) => this.#samples.push(took),
        (error) => this.errors.push(`newcomer, ${way}: ${error.description?.message ?? error.message}`),
      );
      this.#visiting.add(visiting);
      visiting.then(() => this.#visiting.delete(visiting));
    }, PACE);
  }

  /** How long they took to connect since the last call. */
  take() {
    const samples = this.#samples;
    this.#samples = [];
    return summary(samples);
  }

  /** Nobody comes any more; ready when the last of them has left. */
  async stop() {
    clearInterval(this.#timer);
    await Promise.all(this.#visiting);
  }
}
