// node screenshot.mjs URL out.png [width height]
//
// Opens a running whiteboard in Chromium, draws on it with the mouse and saves a picture of it.
// DARK=1 takes it with the dark theme. It made docs/whiteboard.png.
import { launch } from "./lib/browsers.mjs";
import { draw, openBoard, pickColor } from "./lib/whiteboard.mjs";

const [url, file, width = "1200", height = "720"] = process.argv.slice(2);
if (!file) {
  console.error("usage: node screenshot.mjs URL out.png [width height]");
  process.exit(2);
}

/** A curve as points: `shape` gives x and y for t from 0 to 1. */
function curve(shape, steps = 48) {
  return Array.from({ length: steps + 1 }, (_, i) => shape(i / steps));
}

const TURN = 2 * Math.PI;
const ratio = Number(width) / Number(height);

const ellipse = (x, y, radius) => (t) => [
  x + (radius / ratio) * Math.cos(t * TURN),
  y + radius * Math.sin(t * TURN),
];

/** Three clients around a server, and what travels between them. */
const STROKES = [
  ["black", curve(ellipse(0.5, 0.46, 0.11))],
  ["blue", curve(ellipse(0.2, 0.3, 0.07))],
  ["green", curve(ellipse(0.8, 0.28, 0.07))],
  ["deeppink", curve(ellipse(0.76, 0.7, 0.07))],
  ["blue", curve((t) => [0.25 + 0.175 * t, 0.32 + 0.12 * t + 0.025 * Math.sin(t * TURN * 2)])],
  ["green", curve((t) => [0.75 - 0.175 * t, 0.31 + 0.12 * t + 0.025 * Math.sin(t * TURN * 2)])],
  ["deeppink", curve((t) => [0.72 - 0.15 * t, 0.66 - 0.13 * t + 0.025 * Math.sin(t * TURN * 2)])],
  ["black", curve((t) => [0.472 + 0.056 * t, 0.46 - 0.045 * Math.sin(t * TURN * 1.5)])],
  ["darkorange", curve((t) => [0.14 + 0.26 * t, 0.72 + 0.05 * Math.cos(t * TURN * 3)])],
  ["red", curve((t) => [0.14 + 0.26 * t, 0.78 + 0.05 * Math.cos(t * TURN * 3)])],
  ["purple", curve((t) => [0.14 + 0.26 * t, 0.66 + 0.05 * Math.cos(t * TURN * 3)])],
];

const browser = await launch("chromium");
try {
  const { page } = await openBoard(browser, url, {
    width: Number(width),
    height: Number(height),
    scale: 2,
  });
  if (process.env.DARK) {
    await page.emulateMediaFeatures([{ name: "prefers-color-scheme", value: "dark" }]);
  }
  for (const [color, points] of STROKES) {
    await pickColor(page, color);
    await draw(page, ...points);
  }
  // Away from the colours, so that none is shown as pointed at.
  await page.mouse.move(2, 2);
  await page.screenshot({ path: file });
} finally {
  await browser.close();
}
