/** Where the others point. Volatile: what is lost is replaced by the next one. */
import type { Socket } from "socket.io-client";
import { ink, onPaperChange } from "./palette.js";
import type { View } from "./board/view.js";

/** One's own is told this often, in ms. */
const INTERVAL = 50;
/** A cursor that was not heard of for so long is taken away, in ms. */
const LIFE = 15_000;
const MOST = 100;

interface Cursor {
  mark: HTMLElement;
  x: number;
  y: number;
  color: string;
  timer?: ReturnType<typeof setTimeout>;
}

export class Cursors {
  readonly #socket: Socket;
  readonly #view: View;
  readonly #parent: HTMLElement;
  readonly #shape: HTMLTemplateElement;
  readonly #cursors = new Map<string, Cursor>();
  #next: [number, number, string] | null | undefined;
  #timer: ReturnType<typeof setTimeout> | undefined;

  constructor(socket: Socket, view: View, parent: HTMLElement, shape: HTMLTemplateElement) {
    this.#socket = socket;
    this.#view = view;
    this.#parent = parent;
    this.#shape = shape;
    socket.on("cursors", (moves: Record<string, [number, number, string] | null>) => {
      for (const [id, move] of Object.entries(moves)) this.#move(id, move);
    });
    socket.on("disconnect", () => {
      for (const id of this.#cursors.keys()) this.#move(id, null);
    });
    onPaperChange(() => {
      for (const { mark, color } of this.#cursors.values()) mark.style.color = ink(color);
    });
  }

  /** Tells the others where this one points. */
  tell(at: [number, number] | undefined, color: string): void {
    this.#next = at ? [...at, color] : null;
    if (this.#timer !== undefined) return;
    this.#send();
    this.#timer = setTimeout(() => {
      this.#timer = undefined;
      if (this.#next !== undefined) this.#send();
    }, INTERVAL);
  }

  /** The view has changed. */
  place(): void {
    for (const cursor of this.#cursors.values()) this.#put(cursor);
  }

  #send(): void {
    // Without a connection the client would keep it and send it later.
    if (this.#socket.connected) this.#socket.volatile.emit("cursor", this.#next);
    this.#next = undefined;
  }

  #move(id: string, move: [number, number, string] | null): void {
    if (id === this.#socket.id) return;
    let cursor = this.#cursors.get(id);
    clearTimeout(cursor?.timer);
    if (!move) {
      cursor?.mark.remove();
      this.#cursors.delete(id);
      return;
    }
    const [x, y, color] = move;
    if (!cursor) {
      if (this.#cursors.size >= MOST) return;
      const mark = this.#shape.content.firstElementChild?.cloneNode(true) as HTMLElement;
      cursor = { mark, x, y, color };
      this.#cursors.set(id, cursor);
      this.#parent.append(mark);
    }
    Object.assign(cursor, { x, y, color, timer: setTimeout(() => this.#move(id, null), LIFE) });
    cursor.mark.style.color = ink(color);
    this.#put(cursor);
  }

  #put({ mark, x, y }: Cursor): void {
    const [left, top] = this.#view.toWindow(x, y);
    mark.style.transform = `translate(${left}px, ${top}px)`;
  }
}
