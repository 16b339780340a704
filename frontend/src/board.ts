import { ink, onPaperChange } from "./palette.js";

/** One straight piece of a stroke, as sent: fractions of the board's width and height, 0 to 1. */
export interface Line {
  x0: number;
  y0: number;
  x1: number;
  y1: number;
  color: string;
}

/** Lines kept for redrawing; the oldest go first. About 5 MB when full. */
const MAX_LINES = 50_000;
/** A pointer reports up to 1000 times a second; others are told at most this often, in ms. */
const SEND_INTERVAL = 16;
const LINE_WIDTH = 3;

interface Point {
  x: number;
  y: number;
}

/** A pointer that is down: where it was drawn to, and where it was last sent to. */
interface Stroke {
  drawn: Point;
  sent: Point;
  sentAt: number;
  isDot: boolean;
}

/** A canvas that remembers what was drawn on it, so that it survives resizes and theme changes. */
export class Board {
  color: string;
  readonly #canvas: HTMLCanvasElement;
  readonly #context: CanvasRenderingContext2D;
  readonly #send: (line: Line) => void;
  readonly #strokes = new Map<number, Stroke>();
  #lines: Line[] = [];

  /** `send` gets what the user draws here, already thinned out. */
  constructor(canvas: HTMLCanvasElement, color: string, send: (line: Line) => void) {
    const context = canvas.getContext("2d");
    if (!context) throw new Error("this browser has no 2D canvas");
    this.#canvas = canvas;
    this.#context = context;
    this.color = color;
    this.#send = send;
    this.#followSize();
    this.#followPointers();
    onPaperChange(() => this.#redraw());
    canvas.addEventListener("contextrestored", () => this.#redraw());
  }

  /** Draws a line and remembers it. */
  add(line: Line): void {
    this.#lines.push(line);
    // Dropping a tenth at a time keeps the cost per line constant.
    if (this.#lines.length > MAX_LINES) this.#lines.splice(0, MAX_LINES / 10);
    this.#paint([line]);
  }

  /** Forgets everything drawn so far, in this page only. */
  clear(): void {
    this.#lines = [];
    this.#redraw();
  }

  #redraw(): void {
    this.#context.clearRect(0, 0, this.#canvas.width, this.#canvas.height);
    this.#paint(this.#lines);
  }

  #paint(lines: readonly Line[]): void {
    const { width, height, clientWidth } = this.#canvas;
    const context = this.#context;
    context.lineCap = "round";
    context.lineJoin = "round";
    context.lineWidth = LINE_WIDTH * (width / (clientWidth || width));
    // One path per run of a colour: a full board is redrawn within a frame or two.
    let color: string | undefined;
    for (const line of lines) {
      if (line.color !== color) {
        if (color !== undefined) context.stroke();
        color = line.color;
        context.strokeStyle = ink(color);
        context.beginPath();
      }
      context.moveTo(line.x0 * width, line.y0 * height);
      context.lineTo(line.x1 * width, line.y1 * height);
    }
    if (color !== undefined) context.stroke();
  }

  /** One canvas pixel per device pixel, whatever the zoom, and nothing lost when that changes. */
  #followSize(): void {
    const fit = () => {
      const box = this.#canvas.getBoundingClientRect();
      const width = Math.round(box.width * devicePixelRatio);
      const height = Math.round(box.height * devicePixelRatio);
      if (width === this.#canvas.width && height === this.#canvas.height) return;
      this.#canvas.width = width;
      this.#canvas.height = height;
      this.#redraw();
    };
    new ResizeObserver(fit).observe(this.#canvas);
    // A window can move to a denser screen and keep its size; the query names the ratio it leaves.
    const followRatio = () => {
      const query = matchMedia(`(resolution: ${devicePixelRatio}dppx)`);
      query.addEventListener("change", () => (fit(), followRatio()), { once: true });
    };
    followRatio();
  }

  #followPointers(): void {
    const canvas = this.#canvas;
    canvas.addEventListener("pointerdown", (event) => {
      if (event.button !== 0) return;
      event.preventDefault();
      // Moves outside of the window still belong to the stroke.
      canvas.setPointerCapture(event.pointerId);
      const at = this.#point(event);
      this.#strokes.set(event.pointerId, { drawn: at, sent: at, sentAt: 0, isDot: true });
    });
    canvas.addEventListener("pointermove", (event) => {
      const stroke = this.#strokes.get(event.pointerId);
      if (stroke) this.#extend(stroke, event);
    });
    const end = (event: PointerEvent) => {
      const stroke = this.#strokes.get(event.pointerId);
      if (!stroke) return;
      this.#strokes.delete(event.pointerId);
      if (stroke.isDot) this.add(this.#line(stroke.drawn, stroke.drawn));
      if (stroke.isDot || stroke.sent !== stroke.drawn) this.#tell(stroke);
    };
    canvas.addEventListener("pointerup", end);
    canvas.addEventListener("pointercancel", end);
  }

  #extend(stroke: Stroke, event: PointerEvent): void {
    const between = event.getCoalescedEvents?.() ?? [];
    for (const step of between.length > 0 ? between : [event]) {
      const at = this.#point(step);
      this.add(this.#line(stroke.drawn, at));
      stroke.drawn = at;
    }
    stroke.isDot = false;
    if (event.timeStamp - stroke.sentAt >= SEND_INTERVAL) {
      stroke.sentAt = event.timeStamp;
      this.#tell(stroke);
    }
  }

  #tell(stroke: Stroke): void {
    this.#send(this.#line(stroke.sent, stroke.drawn));
    stroke.sent = stroke.drawn;
  }

  #line(from: Point, to: Point): Line {
    return { x0: from.x, y0: from.y, x1: to.x, y1: to.y, color: this.color };
  }

  #point(event: PointerEvent): Point {
    const box = this.#canvas.getBoundingClientRect();
    return {
      x: fraction((event.clientX - box.left) / box.width),
      y: fraction((event.clientY - box.top) / box.height),
    };
  }
}

/** Held to the board, and to 5 digits: finer than any screen, and a third of the bytes. */
function fraction(value: number): number {
  return Math.round(Math.min(Math.max(value, 0), 1) * 1e5) / 1e5;
}
