/**
 * The strokes as pixels: one canvas pixel for each pixel of the screen, whatever its density and zoom.
 *
 * Two canvases: what has reached the server, and above it what has not, which the style sheet makes pale.
 */
import { soon } from "../frame.js";
import { ink } from "../palette.js";
import { UNITS, type View } from "./view.js";
import type { Stroke, Strokes } from "./strokes.js";

/** A pen pressed lightly, and hard, compared with the width that was chosen. */
const LIGHT = 0.35;
const HARD = 1.65;

interface Layer {
  canvas: HTMLCanvasElement;
  context: CanvasRenderingContext2D;
}

export class Canvas {
  readonly #sent: Layer;
  readonly #unsent: Layer;
  readonly #strokes: Strokes;
  readonly #view: View;
  readonly #isUnsent: (stroke: Stroke) => boolean;
  #ratio = 1;
  #isScheduled = false;

  constructor(
    sent: HTMLCanvasElement,
    unsent: HTMLCanvasElement,
    strokes: Strokes,
    view: View,
    isUnsent: (stroke: Stroke) => boolean,
  ) {
    this.#sent = layer(sent);
    this.#unsent = layer(unsent);
    this.#strokes = strokes;
    this.#view = view;
    this.#isUnsent = isUnsent;
    this.#followSize();
    for (const canvas of [sent, unsent]) {
      canvas.addEventListener("contextrestored", () => this.repaint());
    }
  }

  /** More of a stroke, from this point on. At once: it costs little and is what the hand waits for. */
  paint(stroke: Stroke, from: number): void {
    if (this.#isScheduled) return;
    const { context } = this.#isUnsent(stroke) ? this.#unsent : this.#sent;
    this.#aim(context);
    trace(context, stroke, from);
  }

  /** Everything, at the next frame. */
  repaintSoon(): void {
    if (this.#isScheduled) return;
    this.#isScheduled = true;
    soon(() => this.#isScheduled && this.repaint());
  }

  /** Everything, now. */
  repaint(): void {
    this.#isScheduled = false;
    const seen = this.#view.seen();
    for (const { canvas, context } of [this.#sent, this.#unsent]) {
      context.setTransform(1, 0, 0, 1, 0, 0);
      context.clearRect(0, 0, canvas.width, canvas.height);
      this.#aim(context);
    }
    for (const stroke of this.#strokes.values()) {
      const { box, style } = stroke;
      const reach = style.w * UNITS;
      const isSeen =
        box.left - reach < seen.right &&
        box.right + reach > seen.left &&
        box.top - reach < seen.bottom &&
        box.bottom + reach > seen.top;
      if (!isSeen) continue;
      trace((this.#isUnsent(stroke) ? this.#unsent : this.#sent).context, stroke, 0);
    }
  }

  #aim(context: CanvasRenderingContext2D): void {
    const { zoom, x, y, width, height } = this.#view;
    const scale = (zoom * this.#ratio) / UNITS;
    const left = (width / 2 - x * zoom) * this.#ratio;
    const top = (height / 2 - y * zoom) * this.#ratio;
    context.setTransform(scale, 0, 0, scale, left, top);
  }

  #followSize(): void {
    const { canvas } = this.#sent;
    const fit = (width: number, height: number) => {
      const { width: cssWidth, height: cssHeight } = canvas.getBoundingClientRect();
      if (cssWidth === 0 || width === 0) return;
      const view = this.#view;
      this.#ratio = width / cssWidth;
      for (const { canvas } of [this.#sent, this.#unsent]) {
        if (canvas.width !== width) canvas.width = width;
        if (canvas.height !== height) canvas.height = height;
      }
      [view.width, view.height] = [cssWidth, cssHeight];
      view.onchange();
      this.repaint();
    };
    const byRatio = () => {
      const { width, height } = canvas.getBoundingClientRect();
      fit(Math.round(width * devicePixelRatio), Math.round(height * devicePixelRatio));
    };
    const observer = new ResizeObserver(([entry]) => {
      const [size] = entry?.devicePixelContentBoxSize ?? [];
      // Exact where it is known: a zoomed page has fractions of pixels. (An emulated density it is not.)
      const { width } = canvas.getBoundingClientRect();
      const isExact = size && Math.abs(size.inlineSize - width * devicePixelRatio) < 2;
      if (isExact) fit(size.inlineSize, size.blockSize);
      else byRatio();
    });
    try {
      observer.observe(canvas, { box: "device-pixel-content-box" });
    } catch {
      observer.observe(canvas);
    }
    // A window can move to a denser screen and keep its size; the query names the ratio it leaves.
    const followRatio = () => {
      const query = matchMedia(`(resolution: ${devicePixelRatio}dppx)`);
      query.addEventListener("change", () => (byRatio(), followRatio()), { once: true });
    };
    followRatio();
    byRatio();
  }
}

function layer(canvas: HTMLCanvasElement): Layer {
  const context = canvas.getContext("2d");
  if (!context) throw new Error("this browser has no 2D canvas");
  return { canvas, context };
}

/** A stroke as a curve through the middles between its points, from one point on. */
function trace(context: CanvasRenderingContext2D, stroke: Stroke, from: number): void {
  const { p, style, count } = stroke;
  const { k } = style;
  const last = count - 1;
  if (last < 0) return;
  const x = (at: number) => p[at * k] ?? 0;
  const y = (at: number) => p[at * k + 1] ?? 0;
  const width = (at: number) =>
    style.w * UNITS * (k === 2 ? 1 : LIGHT + ((HARD - LIGHT) * (p[at * k + 2] ?? 0)) / 255);
  context.lineCap = "round";
  context.lineJoin = "round";
  context.strokeStyle = ink(style.c);
  context.lineWidth = width(0);
  context.beginPath();
  if (last === 0) {
    context.fillStyle = context.strokeStyle;
    context.arc(x(0), y(0), width(0) / 2, 0, 2 * Math.PI);
    context.fill();
    return;
  }
  const start = Math.max(from - 1, 0);
  if (start === 0) context.moveTo(x(0), y(0));
  else context.moveTo((x(start - 1) + x(start)) / 2, (y(start - 1) + y(start)) / 2);
  for (let at = Math.max(start, 1); at < last; at += 1) {
    const [middleX, middleY] = [(x(at) + x(at + 1)) / 2, (y(at) + y(at + 1)) / 2];
    context.quadraticCurveTo(x(at), y(at), middleX, middleY);
    if (k === 3) {
      // Each piece has its own width.
      context.lineWidth = width(at);
      context.stroke();
      context.beginPath();
      context.moveTo(middleX, middleY);
    }
  }
  context.lineWidth = width(last);
  context.lineTo(x(last), y(last));
  context.stroke();
}
