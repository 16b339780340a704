/**
 * The board without a pointer: arrows move a cross, Enter puts the pen down and up, Ctrl+Z takes back.
 * Arrows and Enter count while the board has the focus, so that they go on doing in the bars what they do.
 */
import type { Stroke, Style } from "./strokes.js";
import type { Sync } from "./sync.js";
import { UNITS, type View } from "./view.js";

/** How far an arrow goes, in CSS pixels; with Shift it is one. */
const STEP = 12;

const ARROWS: Readonly<Record<string, [number, number]>> = {
  ArrowLeft: [-1, 0],
  ArrowRight: [1, 0],
  ArrowUp: [0, -1],
  ArrowDown: [0, 1],
};

export interface Commands {
  style(): { c: string; w: number };
  undo(): void;
  redo(): void;
  color(index: number): void;
  width(step: 1 | -1): void;
  point(at: [number, number] | undefined): void;
}

/** Follows the keyboard; `cross` is the mark that shows where the pen is. */
export function followKeys(
  board: HTMLElement,
  cross: HTMLElement,
  sync: Sync,
  view: View,
  commands: Commands,
): { place(): void } {
  let at: [number, number] | undefined;
  let stroke: Stroke | undefined;

  const place = () => {
    cross.hidden = !at;
    if (!at) return;
    const [x, y] = view.toWindow(...at);
    cross.style.transform = `translate(${x}px, ${y}px)`;
    cross.classList.toggle("down", stroke !== undefined);
  };
  const lift = () => {
    if (stroke) sync.end(stroke);
    stroke = undefined;
  };
  const step = ([dx, dy]: [number, number], isFine: boolean) => {
    at ??= [Math.round(view.x * UNITS), Math.round(view.y * UNITS)];
    const far = ((isFine ? 1 : STEP) * UNITS) / view.zoom;
    at = [Math.round(at[0] + dx * far), Math.round(at[1] + dy * far)];
    const [x, y] = view.toWindow(...at);
    const isOut = x < 0 || y < 0 || x > view.width || y > view.height;
    if (isOut) view.pan((-dx * view.width) / 3, (-dy * view.height) / 3);
    if (stroke && !sync.grow(stroke, at)) lift();
    commands.point(at);
  };
  const toggle = () => {
    if (stroke) return lift();
    at ??= [Math.round(view.x * UNITS), Math.round(view.y * UNITS)];
    const style: Style = { ...commands.style(), k: 2 };
    stroke = sync.begin(style);
    sync.grow(stroke, at);
  };

  board.addEventListener("keydown", (event) => {
    const arrow = ARROWS[event.key];
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (arrow) step(arrow, event.shiftKey);
    else if (event.key === "Enter") toggle();
    else if (event.key === "Escape") {
      lift();
      at = undefined;
    } else return;
    event.preventDefault();
    place();
  });
  board.addEventListener("blur", () => {
    lift();
    at = undefined;
    place();
  });
  board.addEventListener("pointerdown", () => {
    lift();
    at = undefined;
    place();
  });
  addEventListener("keydown", (event) => {
    const key = event.key.toLowerCase();
    const isTyping = event.target instanceof HTMLInputElement && event.target.type === "text";
    if (isTyping || event.altKey) return;
    if (event.ctrlKey || event.metaKey) {
      if (key === "z") (event.shiftKey ? commands.redo : commands.undo)();
      else if (key === "y") commands.redo();
      else return;
    } else if (key === "+" || key === "=") view.scale(1.25);
    else if (key === "-") view.scale(0.8);
    else if (key === "0") view.reset();
    else if (/^[1-9]$/.test(key)) commands.color(Number(key) - 1);
    else if (key === "[") commands.width(-1);
    else if (key === "]") commands.width(1);
    else return;
    event.preventDefault();
  });
  return { place };
}
