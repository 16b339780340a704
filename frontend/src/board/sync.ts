/**
 * This page's strokes on their way to the server, and everybody else's on their way here.
 *
 * The server acknowledges how much of a stroke it has. Whatever was not acknowledged is sent again after
 * a reconnection, from there on; the server and the viewers skip what they know. So a connection, or a
 * server, that is lost in the middle of a stroke costs nothing: the pen draws on, and the stroke is
 * whole everywhere once there is a connection again. Until then it is *unsent*, and shown as such.
 *
 * A server that has lost the board (its `epoch` is another) gets this page's strokes once more.
 */
import type { Socket } from "socket.io-client";
import { Erasures } from "./erasures.js";
import {
  type Chunk,
  isChunk,
  isStrokeData,
  Stroke,
  type StrokeData,
  type Strokes,
  type Style,
} from "./strokes.js";

/** Numbers sent in one frame, over all strokes. */
const FRAME_NUMBERS = 3_000;
/** Numbers in one event. */
const CHUNK_NUMBERS = 600;
/** Below the server's bound on one stroke, whole points of either kind. */
const STROKE_NUMBERS = 6_000 - CHUNK_NUMBERS;
/** While a stroke grows, an answer is asked for this often, in ms. */
const ASK_INTERVAL = 200;
/** For the answer, in ms. */
const ANSWER_DEADLINE = 5_000;
/** A stroke that waits longer than this is shown as unsent even with a connection, in ms. */
const PATIENCE = 1_500;
/** What a server acknowledged in its last seconds may have died with it, in ms. */
const FRESH = 10_000;

/** How far a stroke of this page has come. All are counts of its numbers. */
interface Progress {
  stroke: Stroke;
  sent: number;
  have: number;
  /** The server may know something of it, whatever it has confirmed. */
  isOut: boolean;
  isDone: boolean;
  /** An answer is on its way. */
  isAsking: boolean;
  askedAt: number;
  /** When the server last confirmed some of it. */
  confirmedAt: number;
  /** Since when something of it has been waiting. */
  waitingSince: number;
  isShownUnsent: boolean;
}

/** What the page does with what comes. */
export interface Hooks {
  /** More of one stroke is to be painted. */
  paint(stroke: Stroke, from: number): void;
  /** Everything is to be painted. */
  repaint(): void;
  /** The same, once for all that others do until the next frame. */
  repaintSoon(): void;
  /** The number of this page's strokes that have not reached the server. */
  unsent(count: number): void;
  /** A first picture of the board is here. */
  ready(): void;
  /** The server does not want a stroke. */
  refused(why: string): void;
  /** There is something to send at the next frame. */
  schedule(): void;
}

interface Picture {
  epoch: string;
  strokes: unknown[];
}

/** `later`: nothing was done, and is to be tried again after so many ms, for this page does too much. */
type Answer = { have?: number; refused?: string; later?: number } | undefined;

export class Sync {
  readonly #socket: Socket;
  readonly #strokes: Strokes;
  readonly #hooks: Hooks;
  /** The strokes of this page that are on the board. No other page's have the same ids. */
  readonly #mine = new Map<string, Progress>();
  /** Those that are still drawn, or not confirmed: no others cost anything while the pen is down. */
  readonly #open = new Set<Progress>();
  readonly #erasures: Erasures;
  readonly #tab = Math.random().toString(36).slice(2, 8);
  #count = 0;
  #author: string | undefined;
  #epoch: string | undefined;
  #isReady = false;
  /** What comes before the picture of the board, which may be older: to be done after it. */
  #early: (() => void)[] = [];
  #unsent = 0;
  /** The server wants nothing before this time, in ms. */
  #notBefore = 0;

  constructor(socket: Socket, strokes: Strokes, hooks: Hooks) {
    this.#socket = socket;
    this.#strokes = strokes;
    this.#hooks = hooks;
    this.#erasures = new Erasures(socket, () => this.#isReady && socket.connected);
    socket.on("author", (author: string) => (this.#author = author));
    socket.on("board", (picture: Picture) => this.#show(picture));
    socket.on("draw", (chunk: unknown) => this.#inOrder(() => this.#draw(chunk)));
    socket.on("erase", (erasure: { a: string; s: string[] }) => this.#inOrder(() => this.#erased(erasure)));
    socket.on("disconnect", () => this.#disconnected());
  }

  /** Begins a stroke of this page. */
  begin(style: Style): Stroke {
    this.#count += 1;
    const stroke = new Stroke("", `${this.#tab}.${this.#count}`, style);
    const progress: Progress = {
      stroke,
      sent: 0,
      have: 0,
      isOut: false,
      isDone: false,
      isAsking: false,
      askedAt: 0,
      confirmedAt: 0,
      waitingSince: 0,
      isShownUnsent: !this.#socket.connected,
    };
    this.#strokes.put(stroke);
    this.#mine.set(stroke.id, progress);
    this.#open.add(progress);
    return stroke;
  }

  /** The pen has moved. `false`: the stroke is full, go on with another. */
  grow(stroke: Stroke, numbers: readonly number[]): boolean {
    const progress = this.#mine.get(stroke.id);
    if (!progress) return true;
    const from = stroke.count;
    this.#strokes.grow(stroke, numbers);
    progress.waitingSince ||= Date.now();
    this.#hooks.paint(stroke, from);
    this.#trim();
    this.#hooks.schedule();
    return stroke.p.length < STROKE_NUMBERS;
  }

  /**
   * The pen has moved, perhaps far: after a stall all that it did meanwhile comes at once. A stroke that is
   * full is ended, and the next begins where it ends. Gives the one that goes on.
   */
  extend(stroke: Stroke, numbers: readonly number[]): Stroke {
    const { k } = stroke.style;
    for (let at = 0; at < numbers.length; ) {
      const room = STROKE_NUMBERS - stroke.p.length;
      if (room > 0) {
        this.grow(stroke, numbers.slice(at, at + room));
        at += room;
        continue;
      }
      const last = stroke.p.slice(-k);
      this.end(stroke);
      stroke = this.begin(stroke.style);
      this.grow(stroke, last);
    }
    return stroke;
  }

  /** The pen is up. */
  end(stroke: Stroke): void {
    const progress = this.#mine.get(stroke.id);
    if (!progress) return;
    progress.isDone = true;
    this.#hooks.schedule();
  }

  /** It was none: a second finger came down. */
  cancel(stroke: Stroke): void {
    this.#remove([stroke]);
  }

  /** Takes back the last stroke; tells which. */
  undo(): Stroke | undefined {
    const last = this.own().at(-1);
    if (last) this.#remove([last]);
    return last;
  }

  /** Takes back all of one's own strokes; tells which. */
  clear(): Stroke[] {
    const own = this.own();
    this.#remove(own);
    return own;
  }

  /** Draws strokes again that were taken back. */
  restore(strokes: readonly Stroke[]): void {
    for (const { style, p } of strokes) {
      this.end(this.extend(this.begin({ ...style }), p));
    }
  }

  /** The strokes of this author, of earlier loads of the page too, oldest first. */
  own(): Stroke[] {
    const isOwn = ({ author }: Stroke) => author === "" || author === this.#author;
    return [...this.#strokes.values()].filter(isOwn);
  }

  /** Is a stroke of this page to be shown as unsent? */
  isUnsent(stroke: Stroke): boolean {
    return this.#mine.get(stroke.id)?.isShownUnsent === true && stroke.author === "";
  }

  /** Sends what there is to send; called once for each frame. */
  flush(): void {
    if (this.#isReady && this.#socket.connected && !this.#isTooEarly()) {
      let budget = FRAME_NUMBERS;
      for (const progress of this.#open) {
        while (budget > 0 && progress.sent < progress.stroke.p.length) {
          budget -= this.#send(progress);
        }
        this.#askAgain(progress);
      }
      if (budget <= 0) this.#hooks.schedule();
    }
    this.#judge();
  }

  #send(progress: Progress): number {
    const { stroke, sent } = progress;
    const p = stroke.p.slice(sent, sent + CHUNK_NUMBERS);
    const chunk: Chunk = { s: stroke.id, i: sent, p };
    if (sent === 0) chunk.style = stroke.style;
    progress.sent += p.length;
    progress.isOut = true;
    if (this.#mayAsk(progress)) this.#sendAndAsk(progress, chunk);
    else this.#socket.emit("draw", chunk);
    return p.length;
  }

  #sendAndAsk(progress: Progress, chunk: Chunk): void {
    progress.askedAt = Date.now();
    progress.isAsking = true;
    const { id } = this.#socket;
    this.#socket.timeout(ANSWER_DEADLINE).emit("draw", chunk, (error: unknown, answer: Answer) => {
      // What an earlier connection owed is settled by the next one's welcome.
      if (this.#socket.id !== id) return;
      progress.isAsking = false;
      if (error || !answer) progress.sent = progress.have;
      else this.#answered(progress, chunk, answer);
      this.#hooks.schedule();
    });
  }

  #answered(progress: Progress, chunk: Chunk, { have, refused, later }: NonNullable<Answer>): void {
    if (later !== undefined) {
      progress.sent = progress.have;
      this.#wait(later);
      return;
    }
    if (refused !== undefined) {
      // What came before this piece may be there, for all others.
      this.#remove([progress.stroke]);
      this.#hooks.refused(refused);
      return;
    }
    if (have === undefined) return;
    if (have < chunk.i) {
      // The server knows less than we thought.
      progress.have = have;
      progress.sent = have;
      return;
    }
    progress.have = Math.max(progress.have, have);
    progress.confirmedAt = Date.now();
    progress.waitingSince = progress.have < progress.stroke.p.length ? Date.now() : 0;
  }

  #wait(time: number): void {
    this.#notBefore = Math.max(this.#notBefore, Date.now() + time);
  }

  #isTooEarly(): boolean {
    return Date.now() < this.#notBefore;
  }

  #mayAsk({ isAsking, isDone, askedAt }: Progress): boolean {
    return !isAsking && (isDone || Date.now() - askedAt > ASK_INTERVAL);
  }

  /** All is sent, but the last question came before that: the last point is sent again, with a question. */
  #askAgain(progress: Progress): void {
    const { stroke, sent, have } = progress;
    if (sent < stroke.p.length || have >= sent || !this.#mayAsk(progress)) return;
    const i = sent - stroke.style.k;
    const chunk: Chunk = { s: stroke.id, i, p: stroke.p.slice(i, sent) };
    if (i === 0) chunk.style = stroke.style;
    this.#sendAndAsk(progress, chunk);
  }

  #remove(strokes: readonly Stroke[]): void {
    for (const stroke of strokes) {
      const progress = this.#mine.get(stroke.id);
      // What was never sent need not be taken back.
      if (stroke.author !== "" || progress?.isOut) this.#erasures.add(stroke.id);
      this.#forget(stroke);
    }
    this.#hooks.repaint();
    this.#erasures.send();
    this.#judge();
  }

  #forget(stroke: Stroke): void {
    this.#strokes.delete(stroke.key);
    if (stroke.author === "") this.#drop(stroke.id);
  }

  #drop(id: string): void {
    const progress = this.#mine.get(id);
    if (progress) this.#open.delete(progress);
    this.#mine.delete(id);
  }

  /** Too many strokes: the oldest go, but not what the server has yet to get. */
  #trim(): void {
    const isKept = ({ author, id }: Stroke) => {
      const progress = author === "" ? this.#mine.get(id) : undefined;
      return progress !== undefined && this.#open.has(progress);
    };
    const gone = this.#strokes.trim(isKept);
    for (const { author, id } of gone) if (author === "") this.#drop(id);
    if (gone.length > 0) this.#hooks.repaintSoon();
  }

  #draw(chunk: unknown): void {
    if (!isChunk(chunk) || chunk.a === undefined || this.#isKnownHere(chunk.a, chunk.s)) return;
    const repaint = this.#strokes.draw(chunk);
    if (typeof repaint === "object") this.#hooks.paint(repaint.stroke, repaint.from);
    this.#trim();
  }

  /**
   * The server may tell a page of its own strokes: what it finds in its store it tells everybody. Nobody
   * knows more of them than the page that draws them, and what it has taken back is not to come again.
   */
  #isKnownHere(author: string, id: string): boolean {
    return author === this.#author && (this.#mine.has(id) || this.#erasures.has(id));
  }

  /** The picture was taken while others drew on: what they have done since may come before it. */
  #inOrder(change: () => void): void {
    if (this.#isReady) change();
    else this.#early.push(change);
  }

  #erased({ a, s }: { a: string; s: string[] }): void {
    const isOwn = a === this.#author;
    let isSeen = false;
    for (const id of s) {
      // A copy of this tab has its key, hence may erase what was drawn here.
      const mine = isOwn ? this.#mine.get(id)?.stroke : undefined;
      isSeen = this.#strokes.delete(mine?.key ?? `${a}/${id}`) || isSeen;
      if (isOwn) {
        this.#drop(id);
        this.#erasures.delete(id);
      }
    }
    if (isSeen) this.#hooks.repaintSoon();
    if (isOwn) this.#judge();
  }

  /** The server's picture of the board; ours follows, except for what it cannot know yet. */
  #show({ epoch, strokes }: Picture): void {
    const isAnother = epoch !== this.#epoch;
    this.#epoch = epoch;
    const picture: Stroke[] = [];
    const known = new Map<string, number>();
    for (const data of strokes.filter(isStrokeData)) {
      const isOwn = data.a === this.#author;
      if (isOwn && this.#erasures.has(data.s)) continue;
      const mine = isOwn ? this.#mine.get(data.s) : undefined;
      if (mine) known.set(data.s, data.p.length);
      picture.push(mine ? mine.stroke : revive(data));
    }
    // In the order in which they were drawn: so they are sent, and lie upon each other.
    this.#open.clear();
    for (const [id, progress] of this.#mine) {
      const have = known.get(id);
      if (have === undefined && !this.#isWanted(progress, isAnother)) {
        this.#drop(id);
        continue;
      }
      this.#open.add(progress);
      progress.isAsking = false;
      progress.have = Math.min(have ?? 0, progress.stroke.p.length);
      progress.sent = progress.have;
      if (have === undefined) picture.push(progress.stroke);
    }
    this.#strokes.replace(picture);
    this.#isReady = true;
    for (const change of this.#early.splice(0)) change();
    this.#notBefore = 0;
    this.#erasures.send();
    this.flush();
    this.#trim();
    this.#hooks.repaint();
    this.#hooks.ready();
  }

  /** A stroke that the server does not have: is it to be brought again, or was it erased or dropped there? */
  #isWanted({ stroke, have, confirmedAt }: Progress, isAnother: boolean): boolean {
    return isAnother || have < stroke.p.length || Date.now() - confirmedAt < FRESH;
  }

  #disconnected(): void {
    this.#isReady = false;
    this.#early = [];
    this.#erasures.lost();
    this.#judge();
  }

  /** Which strokes are unsent? Looked at whenever that may have changed. */
  #judge(): void {
    const isOnline = this.#isReady && this.#socket.connected;
    let [unsent, isChanged] = [0, false];
    for (const progress of this.#open) {
      const isWaiting = progress.have < progress.stroke.p.length;
      const isLate = isWaiting && Date.now() - progress.waitingSince > PATIENCE;
      const isUnsent = isWaiting && (!isOnline || isLate || this.#isTooEarly());
      isChanged ||= isUnsent !== progress.isShownUnsent;
      progress.isShownUnsent = isUnsent;
      if (isUnsent) unsent += 1;
      if (isWaiting && isOnline) this.#hooks.schedule();
      if (!isWaiting && progress.isDone) this.#open.delete(progress);
    }
    if (isChanged) this.#hooks.repaint();
    if (unsent !== this.#unsent) this.#hooks.unsent(unsent);
    this.#unsent = unsent;
  }
}

function revive({ a, s, style, p }: StrokeData): Stroke {
  return new Stroke(a, s, style, p);
}
