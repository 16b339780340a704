/**
 * What is on the board: the same fold as the server's (src/app/whiteboard/board.rs), so that a snapshot
 * and the events after it make the same picture everywhere; up to the server's bounds, see `MAX_STROKES`.
 */

/**
 * Strokes that the page keeps, and numbers of theirs: twice what the server does. It is a cap and not the
 * server's rule, which depends on whose the strokes are and on the order of its log: a page that applied it
 * to what it happens to know would drop others than the server, and would have to be changed with it. The
 * cap is for pages that look on for long and for senders that never stop; the next picture of the board
 * puts right what it took away too early.
 */
const MAX_STROKES = 2 * 2_000;
const MAX_NUMBERS = 2 * 150_000;
/** What is above the cap is dropped down to this part of it, as each time everything has to be painted anew. */
const AFTER_TRIM = 0.9;

/** How a stroke is drawn. The short names travel. */
export interface Style {
  /** Colour: a name of the palette, or any CSS colour. */
  c: string;
  /** Width, in points of the board. */
  w: number;
  /** Numbers for each point: `x, y`, or with a pen `x, y, pressure` (0 to 255). */
  k: 2 | 3;
}

/** A piece of a stroke, as sent. `i` numbers come before it. The first brings the style. */
export interface Chunk {
  /** The author; the server fills it in. */
  a?: string;
  s: string;
  i: number;
  p: number[];
  style?: Style;
}

/** A whole stroke, as the server tells a latecomer. */
export interface StrokeData {
  a: string;
  s: string;
  style: Style;
  p: number[];
}

/** The extent of something, in tenths of a point. */
export interface Box {
  left: number;
  top: number;
  right: number;
  bottom: number;
}

/** One stroke. Coordinates are tenths of a point from the middle of the board. */
export class Stroke {
  readonly box: Box = { left: Infinity, top: Infinity, right: -Infinity, bottom: -Infinity };
  readonly p: number[] = [];

  /** `author` is empty for what was drawn in this page. */
  constructor(
    readonly author: string,
    readonly id: string,
    readonly style: Style,
    p: readonly number[] = [],
  ) {
    this.add(p);
  }

  get key(): string {
    return `${this.author}/${this.id}`;
  }

  /** How many points there are. */
  get count(): number {
    return this.p.length / this.style.k;
  }

  add(numbers: readonly number[]): void {
    const { box } = this;
    for (const number of numbers) {
      const axis = this.p.length % this.style.k;
      if (axis === 0) {
        box.left = Math.min(box.left, number);
        box.right = Math.max(box.right, number);
      } else if (axis === 1) {
        box.top = Math.min(box.top, number);
        box.bottom = Math.max(box.bottom, number);
      }
      this.p.push(number);
    }
  }
}

/** What a change means for the canvas: more of one stroke from this point on, or everything anew. */
export type Repaint = { stroke: Stroke; from: number } | "all" | "none";

/** The strokes of one board, oldest first. */
export class Strokes {
  #strokes = new Map<string, Stroke>();
  /** Of all of them. */
  #numbers = 0;

  values(): IterableIterator<Stroke> {
    return this.#strokes.values();
  }

  get size(): number {
    return this.#strokes.size;
  }

  get(key: string): Stroke | undefined {
    return this.#strokes.get(key);
  }

  put(stroke: Stroke): void {
    this.delete(stroke.key);
    this.#strokes.set(stroke.key, stroke);
    this.#numbers += stroke.p.length;
  }

  /** More of a stroke that is on the board. */
  grow(stroke: Stroke, numbers: readonly number[]): void {
    stroke.add(numbers);
    this.#numbers += numbers.length;
  }

  delete(key: string): boolean {
    this.#numbers -= this.#strokes.get(key)?.p.length ?? 0;
    return this.#strokes.delete(key);
  }

  /** Everything anew. */
  replace(strokes: Iterable<Stroke>): void {
    this.#strokes = new Map();
    this.#numbers = 0;
    for (const stroke of strokes) this.put(stroke);
  }

  /** Drops the oldest if there are too many, except for those that are to be kept; tells which. */
  trim(isKept: (stroke: Stroke) => boolean): Stroke[] {
    const gone: Stroke[] = [];
    if (!this.#isAbove(1)) return gone;
    for (const stroke of this.#strokes.values()) {
      if (!this.#isAbove(AFTER_TRIM)) break;
      if (isKept(stroke)) continue;
      this.delete(stroke.key);
      gone.push(stroke);
    }
    return gone;
  }

  #isAbove(part: number): boolean {
    return this.size > part * MAX_STROKES || this.#numbers > part * MAX_NUMBERS;
  }

  /** Somebody draws. What is known already is skipped; what leaves a gap comes with the next snapshot. */
  draw({ a = "", s, i, p, style }: Chunk): Repaint {
    const known = this.#strokes.get(`${a}/${s}`);
    if (!known) {
      if (i !== 0 || !style) return "none";
      const stroke = new Stroke(a, s, style, p);
      this.put(stroke);
      return { stroke, from: 0 };
    }
    const have = known.p.length;
    if (i > have || i + p.length <= have) return "none";
    const from = known.count;
    this.grow(known, p.slice(have - i));
    return { stroke: known, from: Math.floor(from) };
  }

  /** The extent of all of it, `undefined` when there is nothing. */
  extent(): Box | undefined {
    const all: Box = { left: Infinity, top: Infinity, right: -Infinity, bottom: -Infinity };
    for (const { box } of this.#strokes.values()) {
      all.left = Math.min(all.left, box.left);
      all.top = Math.min(all.top, box.top);
      all.right = Math.max(all.right, box.right);
      all.bottom = Math.max(all.bottom, box.bottom);
    }
    return all.left <= all.right ? all : undefined;
  }
}

/** Is it a style, whoever sent it? */
function isStyle(value: unknown): value is Style {
  const style = value as Style | null;
  return (
    typeof style === "object" &&
    style !== null &&
    typeof style.c === "string" &&
    Number.isFinite(style.w) &&
    (style.k === 2 || style.k === 3)
  );
}

const isNumbers = (value: unknown): value is number[] =>
  Array.isArray(value) && value.every(Number.isFinite);

/** Is it a piece of a stroke? Servers and peers of other versions are not trusted with the canvas. */
export function isChunk(value: unknown): value is Chunk {
  const chunk = value as Chunk | null;
  return (
    typeof chunk === "object" &&
    chunk !== null &&
    typeof chunk.s === "string" &&
    Number.isInteger(chunk.i) &&
    isNumbers(chunk.p) &&
    (chunk.style === undefined || isStyle(chunk.style))
  );
}

/** Is it a whole stroke? */
export function isStrokeData(value: unknown): value is StrokeData {
  const data = value as StrokeData | null;
  return (
    typeof data === "object" &&
    data !== null &&
    typeof data.a === "string" &&
    typeof data.s === "string" &&
    isStyle(data.style) &&
    isNumbers(data.p)
  );
}
