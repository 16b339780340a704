/**
 * What is on the board: the same fold as the server's (src/app/whiteboard/board.rs), so that a snapshot
 * and the events after it make the same picture everywhere.
 */

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
    this.#strokes.set(stroke.key, stroke);
  }

  delete(key: string): boolean {
    return this.#strokes.delete(key);
  }

  /** Everything anew. */
  replace(strokes: Iterable<Stroke>): void {
    this.#strokes = new Map();
    for (const stroke of strokes) this.put(stroke);
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
    known.add(p.slice(have - i));
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
