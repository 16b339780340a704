// The normal clients: official ones, who draw on one board and ask for the time of a round trip.
import { io } from "socket.io-client";

const WEBSOCKETS = 20;
const POLLERS = 10;
/** Each asks so often, in milliseconds. */
const PACE = 200;
/** An answer that takes longer is an error. */
const PATIENCE = 10_000;

/** Of some times: how many, and their median and 99th percentile; of none at all these are no numbers. `times`: all. */
export function summary(samples) {
  const times = samples.toSorted((a, b) => a - b);
  const at = (share) => times[Math.min(times.length - 1, Math.floor(times.length * share))] ?? NaN;
  return { samples: times.length, p50: at(0.5), p99: at(0.99), max: at(1), times };
}

export class Traffic {
  #sockets = [];
  #timers = [];
  #samples = { websocket: [], polling: [] };
  #ended = false;
  errors = [];
  /** Strokes drawn, and how many of the others have seen one. */
  drawn = 0;
  seen = 0;

  /**
   * Lets them in; they talk until `stop`. `draws`: strokes a second, `points`: numbers in each, `strokes`: how many there are
   * on the board from the beginning (a multiple of the WebSockets: who draws one erases one of his own).
   */
  async start(url, { draws = 10, points = 8, strokes = 60 }) {
    for (let index = 0; index < WEBSOCKETS + POLLERS; index++) {
      const transports = [index < WEBSOCKETS ? "websocket" : "polling"];
      const socket = io(url, { transports, auth: { board: "lobby" }, forceNew: true, rejectUnauthorized: false });
      this.#sockets.push(socket);
      await new Promise((resolve, reject) => {
        socket.once("connect", resolve);
        socket.once("connect_error", reject);
      });
      for (const event of ["connect_error", "disconnect"]) {
        socket.on(event, (why) => this.#failed(`${transports[0]} ${event}: ${why.message ?? why}`));
      }
      socket.on("draw", () => this.seen++);
      // spread over the pace, so that they do not ask in step
      await new Promise((resolve) => setTimeout(resolve, PACE / (WEBSOCKETS + POLLERS)));
      this.#timers.push(setInterval(() => this.#ask(socket, transports[0]), PACE));
    }
    for (let stroke = 0; stroke < strokes; stroke++) await this.#draw(stroke, points);
    let stroke = strokes;
    this.#timers.push(
      setInterval(() => {
        this.#draw(stroke, points);
        // so that the server's memory does not grow by what is drawn
        this.#emit(stroke, "erase", { s: [`s${stroke - strokes}`] }, undefined);
        stroke++;
      }, 1000 / draws),
    );
  }

  #draw(stroke, points) {
    const p = Array.from({ length: points }, (_, at) => (stroke * 7 + at * 13) % 1000);
    this.drawn++;
    return this.#emit(stroke, "draw", { s: `s${stroke}`, i: 0, p, style: { c: "red", w: 2, k: 2 } }, points);
  }

  async #emit(stroke, event, change, have) {
    const author = this.#sockets[stroke % WEBSOCKETS].timeout(PATIENCE);
    try {
      const answer = await author.emitWithAck(event, change);
      if (answer?.have !== have) this.#failed(`${event}: ${JSON.stringify(answer)}`);
    } catch (error) {
      this.#failed(`${event}: ${error.message}`);
    }
  }

  #failed(what) {
    if (!this.#ended) this.errors.push(what);
  }

  #ask(socket, transport) {
    const begin = performance.now();
    socket.timeout(PATIENCE).emit("rtt", (error) => {
      if (error) this.#failed(`rtt: ${error.message}`);
      else this.#samples[transport].push(performance.now() - begin);
    });
  }

  /** Round trips since the last call, over each transport: how many, their median and 99th percentile in milliseconds. */
  take() {
    const { websocket, polling } = this.#samples;
    this.#samples = { websocket: [], polling: [] };
    return { websocket: summary(websocket), polling: summary(polling) };
  }

  stop() {
    this.#ended = true;
    this.#timers.forEach(clearInterval);
    this.#sockets.forEach((socket) => socket.disconnect());
  }

  get clients() {
    return WEBSOCKETS + POLLERS;
  }
}
