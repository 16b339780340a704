/** Which part of the board is seen, and how large. The board has no edges, only a middle. */
import type { Box } from "./strokes.js";

/** Tenths of a point, the unit of coordinates, in a point. */
export const UNITS = 10;
const LEAST = 0.1;
const MOST = 8;
/** Room around the drawing when all of it is shown, in CSS pixels: the bars cover the edges. */
const MARGIN = 90;

export class View {
  zoom = 1;
  /** The board's point in the middle of the window, in points. */
  x = 0;
  y = 0;
  width = 1;
  height = 1;
  onchange: () => void = () => {};

  /** From a place in the window, in CSS pixels, to units of the board. */
  toBoard(clientX: number, clientY: number): [number, number] {
    return [
      Math.round(((clientX - this.width / 2) / this.zoom + this.x) * UNITS),
      Math.round(((clientY - this.height / 2) / this.zoom + this.y) * UNITS),
    ];
  }

  /** And back. */
  toWindow(x: number, y: number): [number, number] {
    return [
      (x / UNITS - this.x) * this.zoom + this.width / 2,
      (y / UNITS - this.y) * this.zoom + this.height / 2,
    ];
  }

  /** What is seen, in units of the board. */
  seen(): Box {
    const [left, top] = this.toBoard(0, 0);
    const [right, bottom] = this.toBoard(this.width, this.height);
    return { left, top, right, bottom };
  }

  /** Moves by CSS pixels. */
  pan(dx: number, dy: number): void {
    this.x -= dx / this.zoom;
    this.y -= dy / this.zoom;
    this.onchange();
  }

  /** Enlarges by a factor; what is at this place of the window stays there. */
  scale(factor: number, clientX = this.width / 2, clientY = this.height / 2): void {
    const zoom = Math.min(Math.max(this.zoom * factor, LEAST), MOST);
    const [dx, dy] = [clientX - this.width / 2, clientY - this.height / 2];
    this.x += dx / this.zoom - dx / zoom;
    this.y += dy / this.zoom - dy / zoom;
    this.zoom = zoom;
    this.onchange();
  }

  /** The middle of the board, in its own size. */
  reset(): void {
    [this.x, this.y, this.zoom] = [0, 0, 1];
    this.onchange();
  }

  /** Shows all of this, not enlarged. */
  show({ left, top, right, bottom }: Box): void {
    const [width, height] = [(right - left) / UNITS, (bottom - top) / UNITS];
    this.x = (left + right) / 2 / UNITS;
    this.y = (top + bottom) / 2 / UNITS;
    const fit = Math.min(
      Math.max(this.width - MARGIN, MARGIN) / Math.max(width, 1),
      Math.max(this.height - 2 * MARGIN, MARGIN) / Math.max(height, 1),
    );
    this.zoom = Math.min(Math.max(fit, LEAST), 1);
    this.onchange();
  }
}
