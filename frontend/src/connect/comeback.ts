/**
 * Back to a server that has sent a client away.
 *
 * A server that cannot have a client for the moment ends its socket on purpose. From that official clients
 * never come back by themselves, so without this a page would stay away for ever. It comes back after a
 * pause, which grows from time to time, and is never quite the same for two pages.
 */
import type { Socket } from "socket.io-client";

/** The first pause, and the longest, in ms; each is twice the one before it. */
const FIRST = 5_000;
const LONGEST = 60_000;
/** How much shorter or longer a pause may be. */
const JITTER = 0.25;

export class Comeback {
  readonly #socket: Socket;
  #next = FIRST;
  #pause: number | undefined;
  #timer: ReturnType<typeof setTimeout> | undefined;

  /** Follows a socket for good; `welcome` is the event that shows that the server will have it. */
  constructor(socket: Socket, welcome: string) {
    this.#socket = socket;
    socket.on("disconnect", (reason) => {
      if (reason === "io server disconnect") this.#wait();
    });
    socket.on("connect", () => this.#stop());
    // To be connected is not enough: that is how far those come who are sent away again.
    socket.on(welcome, () => (this.#next = FIRST));
    // Who is sent away has had this event before. In the pause it comes only if the page closes the socket.
    socket.io.on("close", () => this.#stop());
  }

  /** How long the pause is that is under way, in ms; `undefined` when there is none. */
  get pause(): number | undefined {
    return this.#pause;
  }

  /** Waits no longer. `false`: it did not wait. */
  hurry(): boolean {
    if (this.#pause === undefined) return false;
    this.#stop();
    this.#socket.connect();
    return true;
  }

  #wait(): void {
    this.#stop();
    this.#pause = this.#next * (1 + JITTER * (2 * Math.random() - 1));
    this.#next = Math.min(2 * this.#next, LONGEST);
    this.#timer = setTimeout(() => this.hurry(), this.#pause);
  }

  #stop(): void {
    clearTimeout(this.#timer);
    this.#pause = undefined;
  }
}
