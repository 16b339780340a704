// Many strokes taken back at once, and a server that does not want them all, or says nothing.
import assert from "node:assert/strict";
import { beforeEach, describe, test } from "node:test";
import { openPage, STYLE } from "./page.mjs";

/** More than three events' worth. */
const STROKES = 1_600;
const GROUPS = 4;

describe("erasures", () => {
  let page;

  beforeEach(() => {
    page = openPage();
    const strokes = Array.from({ length: STROKES }, (_, at) => ({ a: "me", s: `${at}`, style: STYLE, p: [at, at] }));
    page.socket.welcome(strokes);
  });

  /** What was sent since it was asked last. */
  const sent = () => page.socket.sent.splice(0).filter(({ event }) => event === "erase");
  const count = (events) => new Set(events.flatMap(({ s }) => s)).size;

  test("a server that wants them later gets each once for each time that it says so", (t) => {
    t.mock.timers.enable({ apis: ["setTimeout"] });
    page.sync.clear();
    for (let round = 0; round < 5; round += 1) {
      const events = sent();
      assert.equal(events.length, GROUPS, `round ${round}`);
      assert.equal(count(events), STROKES);
      for (const { answer } of events) answer(null, { later: 500 });
      t.mock.timers.tick(499);
      assert.deepEqual(sent(), []);
      t.mock.timers.tick(1);
    }
  });

  test("it is the server's last word that counts", (t) => {
    t.mock.timers.enable({ apis: ["setTimeout"] });
    page.sync.clear();
    const [first, second] = sent();
    first.answer(null, { later: 500 });
    second.answer(null, { later: 900 });
    t.mock.timers.tick(899);
    assert.deepEqual(sent(), []);
    t.mock.timers.tick(1);
    assert.equal(count(sent()), 1_000);
  });

  test("without an answer each is sent once more, and no oftener", () => {
    page.sync.clear();
    for (let round = 0; round < 5; round += 1) {
      const events = sent();
      assert.equal(events.length, GROUPS, `round ${round}`);
      assert.equal(count(events), STROKES);
      for (const { answer } of events) answer(new Error("operation has timed out"));
    }
  });

  test("what is confirmed is not sent again, nor what is under way", (t) => {
    t.mock.timers.enable({ apis: ["setTimeout"] });
    page.sync.clear();
    const [first, second, third, fourth] = sent();
    first.answer(null);
    second.answer(null, { later: 500 });
    third.answer(new Error("operation has timed out"));
    assert.deepEqual(sent(), [], "the server wants nothing before that");
    t.mock.timers.tick(500);
    const again = sent();
    assert.deepEqual(new Set(again.flatMap(({ s }) => s)), new Set([...second.s, ...third.s]));
    fourth.answer(null);
    for (const { answer } of again) answer(null);
    page.socket.lose();
    page.socket.welcome();
    assert.deepEqual(sent(), []);
  });

  test("one more does not send the others again, and waits if all wait", (t) => {
    t.mock.timers.enable({ apis: ["setTimeout"] });
    const last = page.sync.undo();
    const [before] = sent();
    const next = page.sync.undo();
    const [after] = sent();
    assert.deepEqual([before.s, after.s], [[last.id], [next.id]]);
    after.answer(null, { later: 500 });
    const third = page.sync.undo();
    assert.deepEqual(sent(), []);
    t.mock.timers.tick(500);
    assert.deepEqual(sent().map(({ s }) => s), [[next.id, third.id]]);
  });

  test("another connection gets all of them, once, and old timers and answers count for nothing", (t) => {
    t.mock.timers.enable({ apis: ["setTimeout"] });
    page.sync.clear();
    const events = sent();
    events[0].answer(null, { later: 500 });
    page.socket.lose();
    for (const { answer } of events.slice(1)) answer(new Error("socket has been disconnected"));
    assert.deepEqual(sent(), []);
    page.socket.welcome();
    assert.equal(count(sent()), STROKES, "another server is not waited for");
    for (const { answer } of events) answer(null);
    t.mock.timers.tick(500);
    assert.deepEqual(sent(), []);
    page.socket.lose();
    page.socket.welcome();
    assert.equal(count(sent()), STROKES, "none has been confirmed yet");
  });
});
