// The next frame, with a browser that gives one or does not.
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { soon } from "../node_modules/.test/frame.js";

describe("soon", () => {
  for (const isSeen of [true, false]) {
    test(`once, ${isSeen ? "with the next frame" : "though nobody looks at the page"}`, (t) => {
      t.mock.timers.enable({ apis: ["setTimeout"] });
      const frames = [];
      globalThis.requestAnimationFrame = (frame) => frames.push(frame);
      t.after(() => delete globalThis.requestAnimationFrame);
      let runs = 0;
      soon(() => (runs += 1));
      assert.equal(runs, 0);
      if (isSeen) {
        frames[0]();
        assert.equal(runs, 1);
      }
      t.mock.timers.tick(100);
      assert.equal(runs, 1);
      frames[0]();
      assert.equal(runs, 1);
    });
  }
});
