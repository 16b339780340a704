import assert from "node:assert/strict";
import { test } from "node:test";
import { whiteboardIn } from "./lib/cases.mjs";
import { freshBoard, isInked, places, untilInked } from "./lib/whiteboard.mjs";

// Fingers and pens: only Chromium's driver can make them.
whiteboardIn("chromium", ({ open, server }) => {
  test("a finger draws, two fingers move the board", async (t) => {
    const url = freshBoard(server().url);
    const { page: phone } = await open(t, url, { width: 390, height: 700, touch: true });
    const { page: desk } = await open(t, url);
    const [from, to] = await places(phone, [[-120, -60], [120, -60]]);
    const finger = await phone.touchscreen.touchStart(...from);
    for (let step = 1; step <= 8; step += 1) {
      await finger.move(from[0] + ((to[0] - from[0]) * step) / 8, from[1]);
    }
    await finger.end();
    await untilInked(desk, [0, -60], "black");
    const [left, right] = await places(phone, [[-60, 60], [60, 60]]);
    // Of one time: a finger that comes 400 ms after the other draws.
    const session = await phone.createCDPSession();
    const touch = (type, touchPoints) => session.send("Input.dispatchTouchEvent", { type, touchPoints });
    const both = (down) => [left, right].map(([x, y], id) => ({ x, y: y + down, id }));
    await touch("touchStart", both(0));
    for (let step = 1; step <= 5; step += 1) await touch("touchMove", both(10 * step));
    await touch("touchEnd", []);
    // The drawing went down by 50, and nothing was drawn.
    await untilInked(phone, [0, -10], "black");
    assert.equal(await phone.evaluate(() => document.getElementById("undo").disabled), false);
    await phone.click("#undo");
    assert.equal(await phone.evaluate(() => document.getElementById("undo").disabled), true);
  });

  test("a pen draws thin when light and thick when pressed", async (t) => {
    const url = freshBoard(server().url);
    const { page } = await open(t, url);
    const { page: other } = await open(t, url);
    const session = await page.createCDPSession();
    const stroke = async (y, force) => {
      const points = Array.from({ length: 9 }, (_, step) => [-160 + 40 * step, y]);
      for (const [at, [x, y]] of (await places(page, points)).entries()) {
        const type = at === 0 ? "mousePressed" : "mouseMoved";
        const pen = { pointerType: "pen", button: "left", buttons: 1, clickCount: 1, force };
        await session.send("Input.dispatchMouseEvent", { type, x, y, ...pen });
      }
      const [[x, end]] = await places(page, [points.at(-1)]);
      await session.send("Input.dispatchMouseEvent", {
        type: "mouseReleased", x, y: end, pointerType: "pen", button: "left", clickCount: 1,
      });
    };
    await stroke(-60, 0.1);
    await stroke(60, 1);
    await untilInked(other, [0, -60], "black");
    await untilInked(other, [0, 60], "black");
    // A thick stroke still has ink where a thin one has none: 6 points wide, times 0.48 and 1.65.
    assert.equal(await isInked(other, [0, -60 + 7], "black"), false);
    assert.equal(await isInked(other, [0, 60 + 7], "black"), true);
  });
});
