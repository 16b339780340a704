// The page's strokes and a server that answers as the test says.
import assert from "node:assert/strict";
import { beforeEach, describe, test } from "node:test";
import { Strokes } from "../node_modules/.test/board/strokes.js";
import { Sync } from "../node_modules/.test/board/sync.js";
import { FakeSocket } from "./fakes.mjs";

const STYLE = { c: "red", w: 4, k: 2 };

describe("sync", () => {
  let socket;
  let strokes;
  let sync;
  let unsent;
  let refused;
  let scheduled;

  beforeEach(() => {
    socket = new FakeSocket();
    strokes = new Strokes();
    [unsent, refused] = [0, []];
    sync = new Sync(socket, strokes, {
      paint() {},
      repaint() {},
      repaintSoon() {},
      unsent: (count) => (unsent = count),
      ready() {},
      refused: (why) => refused.push(why),
      schedule: () => (scheduled = true),
    });
  });

  function draw(...numbers) {
    const stroke = sync.begin(STYLE);
    sync.grow(stroke, numbers);
    sync.end(stroke);
    return stroke;
  }

  test("what is drawn in one frame is one event, with the style first only", () => {
    socket.welcome();
    const stroke = sync.begin(STYLE);
    sync.grow(stroke, [1, 2]);
    sync.grow(stroke, [3, 4]);
    sync.flush();
    sync.grow(stroke, [5, 6]);
    sync.flush();
    assert.deepEqual(socket.drawn(), [["1", 0, [1, 2, 3, 4]], ["1", 4, [5, 6]]]);
    assert.deepEqual(socket.sent.map(({ style }) => style), [STYLE, undefined]);
  });

  test("what is drawn without a connection is unsent, and sent when there is one", () => {
    draw(1, 2, 3, 4);
    sync.flush();
    assert.deepEqual(socket.sent, []);
    assert.equal(unsent, 1);
    socket.welcome();
    assert.deepEqual(socket.drawn(), [["1", 0, [1, 2, 3, 4]]]);
    socket.confirm();
    sync.flush();
    assert.equal(unsent, 0);
  });

  test("after a loss it goes on from what was acknowledged", () => {
    socket.welcome();
    const stroke = sync.begin(STYLE);
    sync.grow(stroke, [1, 2]);
    sync.flush();
    socket.confirm();
    sync.grow(stroke, [3, 4]);
    sync.flush();
    socket.lose();
    assert.equal(unsent, 1);
    sync.grow(stroke, [5, 6]);
    const { id } = stroke;
    socket.welcome([{ a: "me", s: id, style: STYLE, p: [1, 2] }]);
    assert.deepEqual(socket.drawn(), [["1", 2, [3, 4, 5, 6]]]);
    assert.equal(strokes.size, 1, "it is the same stroke");
  });

  test("a server that has more than it acknowledged is believed", () => {
    socket.welcome();
    const stroke = draw(1, 2, 3, 4);
    sync.flush();
    socket.lose();
    socket.welcome([{ a: "me", s: stroke.id, style: STYLE, p: [1, 2, 3, 4] }]);
    assert.deepEqual(socket.drawn(), []);
    assert.equal(unsent, 0);
  });

  test("a server that knows less gets it again from there", () => {
    socket.welcome();
    const stroke = sync.begin(STYLE);
    sync.grow(stroke, [1, 2, 3, 4]);
    sync.flush();
    socket.confirm();
    socket.sent = [];
    sync.grow(stroke, [5, 6]);
    sync.end(stroke);
    sync.flush();
    socket.sent.at(-1).answer(null, { have: 2 });
    socket.sent = [];
    sync.flush();
    assert.deepEqual(socket.drawn(), [["1", 2, [3, 4, 5, 6]]]);
  });

  test("an answer that does not come is asked for again", () => {
    socket.welcome();
    draw(1, 2);
    sync.flush();
    socket.sent[0].answer(new Error("operation has timed out"));
    socket.sent = [];
    sync.flush();
    assert.deepEqual(socket.drawn(), [["1", 0, [1, 2]]]);
  });

  test("the end of a stroke is asked for even if its last piece was not", () => {
    socket.welcome();
    const stroke = sync.begin(STYLE);
    sync.grow(stroke, [1, 2]);
    sync.flush();
    socket.confirm();
    sync.grow(stroke, [3, 4]);
    sync.flush();
    assert.equal(socket.sent.at(-1).answer, undefined);
    sync.end(stroke);
    sync.flush();
    const { i, p, answer } = socket.sent.at(-1);
    assert.deepEqual([i, p], [2, [3, 4]]);
    answer(null, { have: 4 });
    socket.sent = [];
    sync.flush();
    assert.deepEqual(socket.sent, []);
  });

  test("what others do while the picture is made is done upon it, though it comes first", () => {
    socket.receive("author", "me");
    socket.receive("draw", { a: "ben", s: "1", i: 0, p: [1, 2], style: STYLE });
    socket.receive("draw", { a: "ben", s: "2", i: 0, p: [3, 4], style: STYLE });
    socket.receive("erase", { a: "ben", s: ["2", "3"] });
    assert.equal(strokes.size, 0);
    socket.welcome([{ a: "ben", s: "3", style: STYLE, p: [9, 9] }]);
    assert.equal(strokes.size, 1);
    socket.receive("draw", { a: "ben", s: "1", i: 2, p: [5, 6] });
    assert.deepEqual(strokes.get("ben/1").p, [1, 2, 5, 6]);
    // and it is done once, if its picture comes at all
    socket.lose();
    socket.receive("draw", { a: "ben", s: "4", i: 0, p: [1, 2], style: STYLE });
    socket.lose();
    socket.welcome();
    assert.equal(strokes.size, 0);
  });

  test("a server that lost the board gets all of this page's strokes, and no others", (t) => {
    t.mock.timers.enable({ apis: ["Date"] });
    socket.welcome([{ a: "ben", s: "x", style: STYLE, p: [9, 9] }]);
    draw(1, 2);
    sync.flush();
    socket.confirm();
    t.mock.timers.setTime(60_000);
    socket.lose();
    socket.welcome([], "e2");
    assert.deepEqual(socket.drawn(), [["1", 0, [1, 2]]]);
    assert.equal(strokes.size, 1);
  });

  test("a stroke that the same board has dropped is not brought again", (t) => {
    t.mock.timers.enable({ apis: ["Date"] });
    socket.welcome();
    draw(1, 2);
    sync.flush();
    socket.confirm();
    t.mock.timers.setTime(60_000);
    socket.lose();
    socket.welcome([]);
    assert.deepEqual(socket.drawn(), []);
    assert.equal(strokes.size, 0);
  });

  test("but one that was acknowledged just before the loss is: it may have died with its node", () => {
    socket.welcome();
    draw(1, 2);
    sync.flush();
    socket.confirm();
    socket.lose();
    socket.welcome([]);
    assert.deepEqual(socket.drawn(), [["1", 0, [1, 2]]]);
  });

  test("taking back reaches the server, whenever there is one", () => {
    socket.welcome();
    const stroke = draw(1, 2);
    sync.flush();
    socket.confirm();
    socket.lose();
    assert.equal(sync.undo(), stroke);
    socket.welcome([{ a: "me", s: stroke.id, style: STYLE, p: [1, 2] }]);
    assert.equal(strokes.size, 0, "it does not come back");
    assert.deepEqual(socket.sent.map(({ event, s }) => [event, s]), [["erase", [stroke.id]]]);
    socket.confirm();
    socket.welcome();
    assert.deepEqual(socket.sent, []);
  });

  test("what never left need not be taken back", () => {
    draw(1, 2);
    sync.clear();
    socket.welcome();
    assert.deepEqual(socket.sent, []);
    assert.equal(unsent, 0);
  });

  test("strokes of an earlier load of the page are one's own, others' are not", () => {
    socket.welcome([
      { a: "me", s: "old", style: STYLE, p: [1, 2] },
      { a: "ben", s: "x", style: STYLE, p: [9, 9] },
    ]);
    assert.deepEqual(sync.clear().map(({ id }) => id), ["old"]);
    assert.equal(strokes.size, 1);
    assert.equal(sync.undo(), undefined);
  });

  test("a refused stroke goes, and is said to", () => {
    socket.welcome();
    draw(1, 2);
    sync.flush();
    socket.sent[0].answer(null, { refused: "not a colour" });
    assert.equal(strokes.size, 0);
    assert.deepEqual(refused, ["not a colour"]);
    sync.flush();
    assert.equal(unsent, 0);
  });

  test("a server that wants it later gets it later: until then it is unsent, not lost", (t) => {
    t.mock.timers.enable({ apis: ["Date", "setTimeout"] });
    socket.welcome();
    const old = draw(1, 2);
    sync.flush();
    socket.confirm();
    draw(3, 4);
    sync.flush();
    socket.sent.at(-1).answer(null, { later: 700 });
    socket.sent = [];
    t.mock.timers.tick(699);
    scheduled = false;
    sync.flush();
    assert.deepEqual(socket.sent, []);
    assert.equal(unsent, 1);
    assert.ok(scheduled, "there is a next frame");
    t.mock.timers.tick(1);
    sync.flush();
    assert.deepEqual(socket.drawn(), [["2", 0, [3, 4]]]);
    socket.confirm();
    sync.flush();
    assert.equal(unsent, 0);
    // What is taken back waits, too.
    sync.undo();
    sync.undo();
    socket.sent = socket.sent.filter(({ event }) => event === "erase");
    for (const { answer } of socket.sent.splice(0)) answer(null, { later: 50 });
    t.mock.timers.tick(50);
    assert.ok(socket.sent.at(-1).s.includes(old.id));
    socket.confirm();
    socket.welcome();
    assert.deepEqual(socket.sent, []);
  });

  test("another server is not waited for", (t) => {
    t.mock.timers.enable({ apis: ["Date"] });
    socket.welcome();
    draw(1, 2);
    sync.flush();
    socket.sent[0].answer(null, { later: 60_000 });
    socket.lose();
    socket.welcome();
    assert.deepEqual(socket.drawn(), [["1", 0, [1, 2]]]);
  });

  test("a long stroke ends where the server's bound is, and much is sent over several frames", () => {
    let stroke = sync.begin(STYLE);
    let isOpen = true;
    while (isOpen) isOpen = sync.grow(stroke, [1, 2]);
    assert.ok(stroke.p.length <= 6_000);
    socket.welcome();
    const sizes = () => socket.sent.map(({ p }) => p.length);
    assert.deepEqual(sizes(), [600, 600, 600, 600, 600]);
    sync.flush();
    assert.equal(sizes().reduce((sum, size) => sum + size, 0), stroke.p.length);
  });

  test("the others' strokes come as the server tells, and nonsense does not", () => {
    socket.welcome();
    socket.receive("draw", { a: "ben", s: "1", i: 0, p: [1, 2], style: STYLE });
    socket.receive("draw", { a: "ben", s: "1", i: 0, p: [1, 2, 3, 4] });
    socket.receive("draw", { a: "ben", s: "1", i: 6, p: [7, 8] });
    for (const nonsense of [null, 7, {}, { a: "x", s: "1", i: 0, p: ["<"], style: STYLE }]) {
      socket.receive("draw", nonsense);
    }
    assert.deepEqual([...strokes.values()].map(({ key, p }) => [key, p]), [["ben/1", [1, 2, 3, 4]]]);
    socket.receive("erase", { a: "ben", s: ["1", "2"] });
    assert.equal(strokes.size, 0);
  });
});
