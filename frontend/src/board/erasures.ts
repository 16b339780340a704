/**
 * Strokes of this author that are to go, for everybody, until the server has confirmed that they have.
 *
 * Each of them is under way at most once: what is neither confirmed nor known to have failed is not sent
 * again, and nothing is sent while the server has asked for a pause. So tries do not add up, however many
 * there are to be erased.
 */
import type { Socket } from "socket.io-client";

/** The server's bound on the strokes of one event. */
const AT_ONCE = 500;
/** For the answer, in ms. */
const DEADLINE = 5_000;

export class Erasures {
  readonly #socket: Socket;
  readonly #isReady: () => boolean;
  /** Is it under way, on the connection of the moment? */
  readonly #strokes = new Map<string, boolean>();
  #timer: ReturnType<typeof setTimeout> | undefined;

  /** `isReady`: may anything be sent? */
  constructor(socket: Socket, isReady: () => boolean) {
    this.#socket = socket;
    this.#isReady = isReady;
  }

  has(id: string): boolean {
    return this.#strokes.has(id);
  }

  /** It is to go; `send` says so to the server. */
  add(id: string): void {
    if (!this.has(id)) this.#strokes.set(id, false);
  }

  /** It is gone. */
  delete(id: string): void {
    this.#strokes.delete(id);
  }

  /** Sends what is not under way. */
  send(): void {
    if (!this.#isReady() || this.#timer !== undefined) return;
    const waiting = [...this.#strokes].filter(([, isSent]) => !isSent).map(([id]) => id);
    for (let start = 0; start < waiting.length; start += AT_ONCE) {
      this.#ask(waiting.slice(start, start + AT_ONCE));
    }
  }

  /** The connection is lost: what it owed is asked for on the next one. */
  lost(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    this.#mark([...this.#strokes.keys()], false);
  }

  #ask(s: string[]): void {
    this.#mark(s, true);
    const { id: connection } = this.#socket;
    const deadline = this.#socket.timeout(DEADLINE);
    deadline.emit("erase", { s }, (error: unknown, answer: { later?: number } | undefined) => {
      if (this.#socket.id !== connection) return;
      const isDone = !error && answer?.later === undefined;
      if (isDone) return s.forEach((id) => this.delete(id));
      this.#mark(s, false);
      if (answer?.later === undefined) this.send();
      else this.#sendAfter(answer.later);
    });
  }

  /** The server's last word counts, if it has told several events to wait. */
  #sendAfter(milliseconds: number): void {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => {
      this.#timer = undefined;
      this.send();
    }, milliseconds);
  }

  #mark(strokes: readonly string[], isSent: boolean): void {
    for (const id of strokes) if (this.has(id)) this.#strokes.set(id, isSent);
  }
}
