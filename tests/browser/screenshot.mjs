// node screenshot.mjs URL out.png [width height]
//
// Opens a running whiteboard in Chromium, draws on it and saves a picture of it.
// DARK=1 takes it with the dark theme, SCALE=2 at two pixels per point, PANEL=1 with the developer view.
// It made docs/whiteboard.png (SCALE=1 1200 720).
import { launch } from "./lib/browsers.mjs";
import { draw, freshBoard, openBoard, pickColor } from "./lib/whiteboard.mjs";

const [url, file, width = "1200", height = "720"] = process.argv.slice(2);
if (!file) {
  console.error("usage: node screenshot.mjs URL out.png [width height]");
  process.exit(2);
}

/** A curve as points of the board: `shape` gives x and y for t from 0 to 1. */
function curve(shape, steps = 48) {
  return Array.from({ length: steps + 1 }, (_, i) => shape(i / steps).map((n) => n * size));
}

const TURN = 2 * Math.PI;
/** The drawing is 3.4 by 2.6 units. */
const size = Math.min(Number(width) / 3.4, Number(height) / 3.4);
const circle = (x, y, radius) => (t) => [x + radius * Math.cos(t * TURN), y + radius * Math.sin(t * TURN)];
const wave = (x0, y0, x1, y1, turns = 2) => (t) => [
  x0 + (x1 - x0) * t,
  y0 + (y1 - y0) * t + 0.05 * Math.sin(t * TURN * turns),
];

/** Three clients around a server, and what travels between them. */
const STROKES = [
  ["black", 6, curve(circle(0, -0.1, 0.34))],
  ["blue", 6, curve(circle(-1.05, -0.55, 0.2))],
  ["green", 6, curve(circle(1.05, -0.6, 0.2))],
  ["pink", 6, curve(circle(0.95, 0.65, 0.2))],
  ["blue", 3, curve(wave(-0.82, -0.5, -0.38, -0.2))],
  ["green", 3, curve(wave(0.82, -0.55, 0.36, -0.25))],
  ["pink", 3, curve(wave(0.76, 0.52, 0.3, 0.12))],
  ["black", 6, curve((t) => [-0.17 + 0.34 * t, -0.1 - 0.15 * Math.sin(t * TURN * 1.5)])],
  ["purple", 14, curve(wave(-1.35, 0.5, -0.45, 0.5, 3))],
  ["orange", 14, curve(wave(-1.35, 0.68, -0.45, 0.68, 3))],
  ["red", 14, curve(wave(-1.35, 0.86, -0.45, 0.86, 3))],
];

const browser = await launch("chromium");
try {
  const board = freshBoard(url).replace(/[^/]+$/, `sketch-${Date.now() % 1000}`);
  const scale = Number(process.env.SCALE ?? 1);
  const open = () => openBoard(browser, board, { width: Number(width), height: Number(height), scale });
  const { page } = await open();
  const { page: other } = await open();
  for (const one of [page, other]) {
    if (process.env.DARK) {
      await one.emulateMediaFeatures([{ name: "prefers-color-scheme", value: "dark" }]);
    }
  }
  for (const [color, points, stroke] of STROKES) {
    await pickColor(other, color);
    await other.click(`#widths input[value="${points}"]`);
    await draw(other, ...stroke);
  }
  if (process.env.PANEL) await page.click("#developer-toggle");
  await pickColor(page, "blue");
  // The other one points somewhere; this one does not, so that no colour is shown as pointed at.
  await page.mouse.move(2, 2);
  const [x, y] = [Number(width) * 0.62, Number(height) * 0.66];
  await other.mouse.move(x - 2, y);
  await page.waitForSelector(".pointer");
  await other.mouse.move(x, y);
  await page.waitForFunction(() => /ms/.test(document.getElementById("rtt").textContent), { polling: 50 });
  await page.screenshot({ path: file });
} finally {
  await browser.close();
}
