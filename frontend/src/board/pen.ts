/**
 * Hands: mouse, fingers and pens draw; two fingers, the wheel, the middle button, or the space bar held
 * down move the board. Once a pen has been seen, fingers only move: the hand rests on the screen.
 */
import type { Stroke, Style } from "./strokes.js";
import type { Sync } from "./sync.js";
import type { View } from "./view.js";

/** A finger that draws becomes one of two within this time, in ms; then what it drew was none. */
const SECOND_FINGER = 400;
/** Points closer than this add nothing, in CSS pixels. */
const STEP = 0.75;
/** Wheels that count lines, in CSS pixels for each. */
const LINE = 32;

interface Point {
  x: number;
  y: number;
}

interface Drawing {
  stroke: Stroke;
  style: Style;
  at: Point;
  since: number;
}

export interface Pen {
  /** The colour and the width of the moment. */
  style(): { c: string; w: number };
  /** The pointer is here, in units of the board; `undefined`: it has left. */
  point(at: [number, number] | undefined): void;
  /** A stroke has begun: what was taken back cannot come again. */
  began(): void;
}

/** Follows the pointers on an element. */
export function followPointers(target: HTMLElement, sync: Sync, view: View, pen: Pen): void {
  const drawings = new Map<number, Drawing>();
  const movers = new Map<number, Point>();
  let [isSpaceDown, hasPen] = [false, false];

  const numbers = (event: PointerEvent, { k }: Style) => {
    const [x, y] = view.toBoard(event.clientX, event.clientY);
    return k === 3 ? [x, y, Math.round(event.pressure * 255)] : [x, y];
  };

  const begin = (event: PointerEvent) => {
    const k = event.pointerType === "pen" && event.pressure > 0 ? 3 : 2;
    const style: Style = { ...pen.style(), k };
    const stroke = sync.begin(style);
    const at = { x: event.clientX, y: event.clientY };
    drawings.set(event.pointerId, { stroke, style, at, since: event.timeStamp });
    sync.grow(stroke, numbers(event, style));
    pen.began();
  };

  const extend = (drawing: Drawing, event: PointerEvent) => {
    const steps = event.getCoalescedEvents?.() ?? [];
    const points: number[] = [];
    for (const step of steps.length > 0 ? steps : [event]) {
      const { clientX: x, clientY: y } = step;
      if (Math.hypot(x - drawing.at.x, y - drawing.at.y) < STEP) continue;
      drawing.at = { x, y };
      points.push(...numbers(step, drawing.style));
    }
    drawing.stroke = sync.extend(drawing.stroke, points);
  };

  const move = (pointer: number, event: PointerEvent) => {
    const before = movers.get(pointer);
    if (!before) return;
    const after = { x: event.clientX, y: event.clientY };
    const other = [...movers].find(([id]) => id !== pointer)?.[1];
    movers.set(pointer, after);
    if (!other) return view.pan(after.x - before.x, after.y - before.y);
    // Two fingers: half of the way each, and what is between them grows with their distance.
    view.pan((after.x - before.x) / 2, (after.y - before.y) / 2);
    const distance = (a: Point) => Math.max(Math.hypot(a.x - other.x, a.y - other.y), 1);
    const factor = distance(after) / distance(before);
    view.scale(factor, (after.x + other.x) / 2, (after.y + other.y) / 2);
  };

  /** A second finger: the first one did not mean to draw. */
  const joinFingers = (event: PointerEvent) => {
    for (const [pointer, { stroke, at, since }] of drawings) {
      if (event.timeStamp - since > SECOND_FINGER) return false;
      sync.cancel(stroke);
      drawings.delete(pointer);
      movers.set(pointer, at);
    }
    return movers.size > 0;
  };

  target.addEventListener("pointerdown", (event) => {
    const isTouch = event.pointerType === "touch";
    hasPen ||= event.pointerType === "pen";
    const isMiddle = event.button === 1;
    if (event.button !== 0 && !isMiddle) return;
    event.preventDefault();
    target.focus({ preventScroll: true });
    // Moves outside of the window still belong to it.
    target.setPointerCapture(event.pointerId);
    if (isMiddle || isSpaceDown || (isTouch && (hasPen || joinFingers(event)))) {
      movers.set(event.pointerId, { x: event.clientX, y: event.clientY });
      target.dataset["moving"] = "";
    } else {
      begin(event);
    }
  });
  target.addEventListener("pointermove", (event) => {
    const drawing = drawings.get(event.pointerId);
    if (drawing) extend(drawing, event);
    else move(event.pointerId, event);
    if (event.isPrimary) pen.point(view.toBoard(event.clientX, event.clientY));
  });
  const end = (event: PointerEvent) => {
    const drawing = drawings.get(event.pointerId);
    drawings.delete(event.pointerId);
    movers.delete(event.pointerId);
    if (movers.size === 0) delete target.dataset["moving"];
    if (drawing) sync.end(drawing.stroke);
    if (event.pointerType === "touch") pen.point(undefined);
  };
  target.addEventListener("pointerup", end);
  target.addEventListener("pointercancel", end);
  target.addEventListener("pointerleave", () => pen.point(undefined));
  target.addEventListener("contextmenu", (event) => event.preventDefault());
  target.addEventListener(
    "wheel",
    (event) => {
      event.preventDefault();
      const unit = event.deltaMode === WheelEvent.DOM_DELTA_LINE ? LINE : 1;
      const [dx, dy] = [event.deltaX * unit, event.deltaY * unit];
      // Browsers report a pinch on a touch pad as a wheel with Ctrl.
      if (event.ctrlKey || event.metaKey) {
        view.scale(Math.exp(-dy / 300), event.clientX, event.clientY);
      } else {
        view.pan(-dx, -dy);
      }
    },
    { passive: false },
  );
  addEventListener("keydown", ({ code, target: on }) => {
    if (code === "Space" && (on === document.body || on === target)) isSpaceDown = true;
  });
  addEventListener("keyup", ({ code }) => {
    if (code === "Space") isSpaceDown = false;
  });
  addEventListener("blur", () => (isSpaceDown = false));
}
