// Boards that grow for long: what a page keeps, and what it looks at while the pen is down.
import assert from "node:assert/strict";
import { beforeEach, describe, test } from "node:test";
import { Strokes } from "../node_modules/.test/board/strokes.js";
import { openPage, STYLE } from "./page.mjs";

const MOST_STROKES = 4_000;
const MOST_NUMBERS = 300_000;

describe("the bounds of a page", () => {
  let page;

  beforeEach(() => {
    page = openPage();
    page.socket.welcome();
  });

  const numbers = () => [...page.strokes.values()].reduce((sum, { p }) => sum + p.length, 0);
  const others = (name, p = [1, 2], i = 0) =>
    page.socket.receive("draw", { a: "ben", s: `${name}`, i, p, style: STYLE });

  test("strokes that never end leave the oldest behind, and are painted anew now and then only", () => {
    const { strokes, seen } = page;
    const before = seen.repainted;
    for (let at = 0; at < 10_000; at += 1) {
      others(at);
      assert.ok(strokes.size <= MOST_STROKES);
    }
    assert.ok(strokes.size > MOST_STROKES / 2, "more than a server has");
    const kept = [...strokes.values()].map(({ id }) => Number(id));
    assert.deepEqual(kept, Array.from(kept, (_, at) => 10_000 - kept.length + at));
    assert.equal(seen.repainted, before);
    assert.ok(seen.soon > 0 && seen.soon < 20, `${seen.soon} times`);
  });

  test("so do strokes that are long, and strokes that grow", () => {
    const piece = Array.from({ length: 600 }, (_, at) => at);
    for (let at = 0; at < 100; at += 1) {
      for (let i = 0; i < 6_000; i += 600) {
        others(at, piece, i);
        assert.ok(numbers() <= MOST_NUMBERS);
      }
    }
    assert.ok(numbers() > MOST_NUMBERS / 2);
    assert.ok(page.strokes.get("ben/99"));
    assert.equal(page.strokes.get("ben/0"), undefined);
  });

  test("what is erased, or painted over by another picture, counts no more", () => {
    const piece = Array.from({ length: 6_000 }, (_, at) => at);
    for (let at = 0; at < 100; at += 1) {
      others(at, piece);
      if (at % 3 > 0) page.socket.receive("erase", { a: "ben", s: [`${at}`] });
    }
    assert.equal(page.strokes.size, 34, "none was dropped");
    page.socket.lose();
    page.socket.welcome();
    for (let at = 0; at < 50; at += 1) others(at, piece);
    assert.equal(page.strokes.size, 50);
  });

  test("a picture that is too large is cut as well", () => {
    const picture = Array.from({ length: 5_000 }, (_, at) => ({ a: "ben", s: `${at}`, style: STYLE, p: [1, 2] }));
    page.socket.lose();
    page.socket.welcome(picture);
    assert.ok(page.strokes.size <= MOST_STROKES);
    assert.ok(page.strokes.get("ben/4999"));
  });

  test("one's own go like others' when the server has them, and are not kept elsewhere", () => {
    const { socket, strokes, sync, draw, drawn } = page;
    const confirmed = drawn(1, 2);
    const unsent = draw(3, 4);
    const growing = sync.begin(STYLE);
    sync.grow(growing, [5, 6]);
    for (let at = 0; at < 10_000; at += 1) others(at);
    const own = () => [...strokes.values()].filter(({ author }) => author === "");
    assert.deepEqual(own(), [unsent, growing]);
    assert.equal(sync.isUnsent(confirmed), false);
    socket.lose();
    socket.welcome([], "another");
    assert.deepEqual(socket.drawn().map(([name]) => name), ["2", "3"]);
  });

  test("one's own bring the others down to the bound, too", () => {
    for (let at = 0; at < MOST_STROKES; at += 1) others(at);
    page.draw(1, 2);
    assert.ok(page.strokes.size <= MOST_STROKES);
    assert.equal(page.strokes.get("ben/0"), undefined);
  });

  test("while the pen is down nobody looks at strokes that the server has", () => {
    const { socket, sync, drawn } = page;
    let looks = 0;
    for (let at = 0; at < 50; at += 1) {
      const stroke = drawn(at, at);
      const { p } = stroke;
      Object.defineProperty(stroke, "p", { get: () => ((looks += 1), p) });
    }
    const stroke = sync.begin(STYLE);
    for (let at = 0; at < 10; at += 1) {
      sync.grow(stroke, [at, at]);
      sync.flush();
    }
    assert.equal(looks, 0);
    sync.end(stroke);
    sync.flush();
    // Another server may know less of them, and then they are looked at again.
    socket.lose();
    socket.welcome([], "another");
    assert.ok(looks > 0);
    const names = [...new Set(socket.drawn().map(([name]) => Number(name)))];
    assert.deepEqual(names, Array.from({ length: 51 }, (_, at) => at + 1), "they lie upon each other as before");
    socket.confirm();
    sync.flush();
    looks = 0;
    sync.flush();
    assert.equal(looks, 0);
  });

  test("a pen that rests goes on being looked at", () => {
    const { socket, sync } = page;
    const stroke = sync.begin(STYLE);
    sync.grow(stroke, [1, 2]);
    sync.flush();
    socket.confirm();
    sync.flush();
    sync.grow(stroke, [3, 4]);
    sync.flush();
    assert.deepEqual(socket.drawn(), [["1", 0, [1, 2]], ["1", 2, [3, 4]]]);
  });

  test("nothing is dropped below the bound", () => {
    const strokes = new Strokes();
    assert.deepEqual(strokes.trim(() => false), []);
  });
});
