// Hands, as the browser tells of them.
import assert from "node:assert/strict";
import { beforeEach, describe, test } from "node:test";
import { followPointers } from "../node_modules/.test/board/pen.js";
import { View } from "../node_modules/.test/board/view.js";
import { openPage } from "./page.mjs";

/** The server's bound on one stroke. */
const MOST = 6_000;

class Target extends EventTarget {
  dataset = {};
  focus() {}
  setPointerCapture() {}
}

/** A pointer event; `steps` are the places that the browser has gathered in it. */
function pointer(type, steps, fields = {}) {
  const event = new Event(type, { cancelable: true });
  const [x, y] = steps.at(-1);
  const all = steps.map(([clientX, clientY]) => ({ clientX, clientY, pressure: 0.5 }));
  return Object.assign(event, {
    pointerId: 1,
    pointerType: "mouse",
    button: 0,
    clientX: x,
    clientY: y,
    pressure: 0.5,
    isPrimary: true,
    getCoalescedEvents: () => all,
    ...fields,
  });
}

describe("the pen", () => {
  let page;
  let target;

  beforeEach((t) => {
    page = openPage();
    page.socket.welcome();
    target = new Target();
    const before = Object.getOwnPropertyDescriptor(globalThis, "addEventListener");
    globalThis.addEventListener = () => {};
    const pen = { style: () => ({ c: "red", w: 4 }), point() {}, began() {} };
    followPointers(target, page.sync, new View(), pen);
    delete globalThis.addEventListener;
    if (before) Object.defineProperty(globalThis, "addEventListener", before);
  });

  let at = 0;
  const steps = (count) => Array.from({ length: count }, () => [(at += 1), at % 100]);
  const points = ({ p, style: { k } }) =>
    Array.from({ length: p.length / k }, (_, index) => p.slice(index * k, index * k + k));

  for (const [fields, k] of [[{}, 2], [{ pointerType: "pen" }, 3]]) {
    test(`a burst after a stall goes on in as many strokes as it needs (${k} numbers a point)`, () => {
      const { strokes, sync, socket, seen } = page;
      target.dispatchEvent(pointer("pointerdown", steps(1), fields));
      // One point below where a stroke is full, and then all that came while the page was busy.
      const first = 5_400 / k - 2;
      target.dispatchEvent(pointer("pointermove", steps(first), fields));
      target.dispatchEvent(pointer("pointermove", steps(400), fields));
      target.dispatchEvent(pointer("pointermove", steps(6_000), fields));
      target.dispatchEvent(pointer("pointermove", steps(1), fields));
      target.dispatchEvent(pointer("pointerup", [[at, at % 100]], fields));
      const drawn = [...strokes.values()];
      assert.ok(drawn.length > 2);
      for (const { p, style } of drawn) {
        assert.equal(style.k, k);
        assert.ok(p.length <= MOST, `${p.length} numbers`);
      }
      const ends = drawn.slice(1).map((stroke, index) => [points(drawn[index]).at(-1), points(stroke)[0]]);
      for (const [end, begin] of ends) assert.deepEqual(begin, end, "it goes on where the last one ends");
      const all = drawn.flatMap((stroke, index) => points(stroke).slice(index === 0 ? 0 : 1));
      assert.equal(all.length, 1 + first + 400 + 6_000 + 1, "no point is lost");
      // All of them are ended, so that the server is asked about the last piece of each.
      for (let frame = 0; frame < 20; frame += 1) {
        sync.flush();
        socket.confirm();
      }
      sync.flush();
      assert.equal(seen.unsent, 0);
      assert.ok(socket.sent.every(({ i, p }) => i + p.length <= MOST));
      socket.sent = [];
      sync.flush();
      assert.deepEqual(socket.sent, []);
    });
  }

  test("a stroke that is exactly full comes again as one", () => {
    const { strokes, sync } = page;
    target.dispatchEvent(pointer("pointerdown", steps(1)));
    target.dispatchEvent(pointer("pointermove", steps(5_400 / 2 - 1)));
    target.dispatchEvent(pointer("pointerup", [[at, at % 100]]));
    assert.deepEqual([...strokes.values()].map(({ p }) => p.length), [5_400]);
    sync.restore(sync.clear());
    assert.deepEqual([...strokes.values()].map(({ p }) => p.length), [5_400]);
  });
});
