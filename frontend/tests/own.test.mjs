// This page's own strokes, when it is the server that speaks of them.
import assert from "node:assert/strict";
import { beforeEach, describe, test } from "node:test";
import { openPage, STYLE } from "./page.mjs";

describe("own strokes that the server speaks of", () => {
  let page;

  beforeEach(() => {
    page = openPage();
    page.socket.welcome();
  });

  test("what a copy of this tab clears is gone here, for good", () => {
    const { socket, strokes, seen, drawn } = page;
    const [first, second] = [drawn(1, 2), drawn(3, 4)];
    const before = [seen.repainted, seen.soon];
    socket.receive("erase", { a: "me", s: [first.id, "other.1"] });
    assert.deepEqual([...strokes.values()], [second]);
    assert.deepEqual([seen.repainted, seen.soon], [before[0], before[1] + 1], "with all that the next frame brings");
    socket.lose();
    socket.welcome([], "another");
    assert.deepEqual(socket.drawn(), [["2", 0, [3, 4]]], "a server that lost the board does not get it again");
  });

  test("what is still to be sent of it is not", () => {
    const { socket, strokes, seen, sync } = page;
    const stroke = sync.begin(STYLE);
    sync.grow(stroke, [1, 2]);
    sync.flush();
    socket.sent[0].answer(null, { later: 60_000 });
    sync.flush();
    assert.equal(seen.unsent, 1);
    socket.receive("erase", { a: "me", s: [stroke.id] });
    assert.equal(seen.unsent, 0);
    sync.grow(stroke, [3, 4]);
    socket.lose();
    socket.welcome();
    sync.flush();
    assert.deepEqual(socket.sent, []);
    assert.equal(strokes.size, 0);
  });

  test("others' strokes of the same name are others'", () => {
    const { socket, strokes, drawn } = page;
    const stroke = drawn(1, 2);
    socket.receive("erase", { a: "ben", s: [stroke.id] });
    socket.receive("draw", { a: "ben", s: stroke.id, i: 0, p: [5, 6], style: STYLE });
    assert.deepEqual([...strokes.values()].map(({ p }) => p), [[1, 2], [5, 6]]);
  });

  test("what the server finds in its store is not here twice, and taken back at once", () => {
    const { socket, strokes, seen, sync, drawn } = page;
    const stroke = drawn(1, 2, 3, 4);
    const before = seen.painted;
    socket.receive("draw", { a: "me", s: stroke.id, i: 0, p: [1, 2], style: STYLE });
    socket.receive("draw", { a: "me", s: stroke.id, i: 0, p: [1, 2, 3, 4], style: STYLE });
    assert.equal(strokes.size, 1);
    assert.equal(seen.painted, before);
    assert.equal(sync.undo(), stroke);
    assert.equal(strokes.size, 0);
    socket.receive("draw", { a: "me", s: stroke.id, i: 0, p: [1, 2, 3, 4], style: STYLE });
    assert.equal(strokes.size, 0, "nor does it come back while it is being taken back");
  });

  test("what a copy of this tab draws is shown, and can be taken back here", () => {
    const { socket, strokes, sync, drawn } = page;
    drawn(1, 2);
    socket.receive("draw", { a: "me", s: "copy.1", i: 0, p: [5, 6], style: STYLE });
    assert.equal(strokes.size, 2);
    assert.equal(sync.undo().id, "copy.1");
    assert.deepEqual(socket.sent.at(-1).s, ["copy.1"]);
  });

  test("what has been erased need not be taken back any more", () => {
    const { socket, sync, drawn } = page;
    const stroke = drawn(1, 2);
    sync.undo();
    socket.receive("erase", { a: "me", s: [stroke.id] });
    socket.lose();
    socket.welcome();
    assert.deepEqual(socket.sent, []);
  });

  test("what was sent is taken back, though no answer came", () => {
    const { socket, sync, draw } = page;
    const stroke = draw(1, 2);
    sync.flush();
    socket.sent[0].answer(new Error("operation has timed out"));
    sync.undo();
    assert.deepEqual(socket.sent.slice(1).map(({ event, s }) => [event, s]), [["erase", [stroke.id]]]);
  });

  test("what is refused half way goes for all others, too", () => {
    const { socket, strokes, seen, sync } = page;
    const stroke = sync.begin(STYLE);
    sync.grow(stroke, [1, 2]);
    sync.flush();
    socket.confirm();
    sync.grow(stroke, [3, 4]);
    sync.end(stroke);
    sync.flush();
    socket.sent.at(-1).answer(null, { refused: "the stroke is too long" });
    assert.deepEqual(seen.refused, ["the stroke is too long"]);
    assert.equal(strokes.size, 0);
    assert.deepEqual(socket.sent.filter(({ event }) => event === "erase").map(({ s }) => s), [[stroke.id]]);
    assert.equal(seen.unsent, 0);
  });

  test("what is refused when it has been taken back is not taken back twice", () => {
    const { socket, sync, draw } = page;
    draw(1, 2);
    sync.flush();
    const [{ answer }] = socket.sent;
    sync.undo();
    socket.sent.at(-1).answer(null);
    answer(null, { refused: "not a colour" });
    assert.equal(socket.sent.filter(({ event }) => event === "erase").length, 1);
  });
});
