// The whiteboard page as a person sees and uses it.
import { randomUUID } from "node:crypto";

/** The bar's colours as pixels, on light paper. */
export const RGB = {
  black: [0x1e, 0x1e, 0x24],
  red: [0xe0, 0x31, 0x31],
  green: [0x2f, 0x9e, 0x44],
  blue: [0x19, 0x71, 0xc2],
};

/** Polls by time, in ms: no animation frames are promised to a page that nobody looks at. */
const WAIT = { polling: 50, timeout: 30_000 };

/** The address of a board that nobody has used. */
export function freshBoard(url, query = "") {
  return `${url}/b/${randomUUID()}${query}`;
}

/**
 * Opens the page and waits until its board is there. Every uncaught error of the page is kept;
 * `elapsed` is the time from the start of loading, in ms. `browser` may be a browser's context.
 */
export async function openBoard(browser, url, options = {}) {
  const { width = 800, height = 600, scale = 1, touch = false } = options;
  // A window each, so that neither page is in the background: Chromium paints no frames there,
  // and input waits for frames.
  const page = await browser.newPage({ type: "window" });
  await page.setViewport({ width, height, deviceScaleFactor: scale, hasTouch: touch });
  const errors = [];
  page.on("pageerror", (error) => errors.push(error));
  const started = performance.now();
  await page.goto(url, { waitUntil: "load", timeout: 30_000 });
  await untilConnected(page);
  return { page, errors, elapsed: performance.now() - started };
}

/** Waits for a connection, and for the picture of the board that comes with it. */
export async function untilConnected(page, transport) {
  await page.waitForFunction(
    (wanted) => {
      const { state, transport, board } = document.documentElement.dataset;
      return state === "connected" && board === "ready" && (!wanted || transport === wanted);
    },
    WAIT,
    transport,
  ).catch(async (error) => {
    const log = await connectionLog(page);
    throw new Error(`not connected${transport ? ` over ${transport}` : ""}: ${error.message}\n${log.join("\n")}`);
  });
}

/** Waits for a `data-` attribute of the page to have a value, `undefined` for none. */
export async function untilData(page, name, value) {
  const is = (name, value) => document.documentElement.dataset[name] === value;
  await page.waitForFunction(is, WAIT, name, value).catch(async (error) => {
    const found = await page.evaluate((name) => document.documentElement.dataset[name], name);
    throw new Error(`data-${name} is ${found}, not ${value}: ${error.message}`);
  });
}

/** Waits until the page says that strokes wait: the last one, and others if their answers were under way. */
export async function untilUnsent(page) {
  await page.waitForFunction(() => Number(document.documentElement.dataset.unsent) > 0, WAIT);
}

/** How many strokes the page says are waiting. */
export function unsentOf(page) {
  return page.evaluate(() => Number(document.documentElement.dataset.unsent));
}

export async function untilNotConnected(page) {
  await page.waitForFunction(() => document.documentElement.dataset.state !== "connected", WAIT);
}

export function transportOf(page) {
  return page.evaluate(() => document.documentElement.dataset.transport);
}

/** The lines of the developer view, without their times. */
export function connectionLog(page) {
  const lines = () => [...document.querySelectorAll("#log li")].map((line) => line.lastChild.textContent);
  return page.evaluate(lines);
}

/** Waits for a line of the developer view that begins so. */
export async function untilLogged(page, start) {
  await page.waitForFunction(
    (start) => [...document.querySelectorAll("#log li")].some((li) => li.lastChild.textContent.startsWith(start)),
    WAIT,
    start,
  );
}

export async function pickColor(page, color) {
  await page.click(`#colors input[value="${color}"]`);
}

/** Where points of the board are in the window, as long as nobody has moved it. */
export function places(page, points) {
  return page.evaluate(
    (points) => points.map(([x, y]) => [innerWidth / 2 + x, innerHeight / 2 + y]),
    points,
  );
}

/** A stroke by mouse through points of the board, counted from its middle. */
export async function draw(page, ...points) {
  await press(page, ...points);
  await page.mouse.up();
}

/** The same, and the button stays down. */
export async function press(page, ...points) {
  const [first, ...rest] = await places(page, points);
  await page.mouse.move(...first);
  await page.mouse.down();
  const steps = rest.length > 1 ? 1 : 8;
  for (const point of rest) await page.mouse.move(...point, { steps });
}

/** Goes on with a stroke. */
export async function drag(page, point) {
  const [place] = await places(page, [point]);
  await page.mouse.move(...place, { steps: 8 });
}

/** Waits until the board shows exactly this colour within 3 pixels of a point. */
export async function untilInked(page, [x, y], color, layer = "board") {
  await page.waitForFunction(hasInk, WAIT, x, y, RGB[color], layer).catch((error) => {
    throw new Error(`no ${color} at ${x}, ${y}: ${error.message}`);
  });
}

/** Waits until it is gone. */
export async function untilBlank(page, [x, y], color) {
  const gone = new Function("x", "y", "rgb", `return !(${hasInk})(x, y, rgb, "board")`);
  await page.waitForFunction(gone, WAIT, x, y, RGB[color]).catch((error) => {
    throw new Error(`still ${color} at ${x}, ${y}: ${error.message}`);
  });
}

export function isInked(page, [x, y], color, layer = "board") {
  return page.evaluate(hasInk, x, y, RGB[color], layer);
}

/** Runs in the page. */
function hasInk(x, y, [red, green, blue], layer) {
  const board = document.getElementById(layer);
  const ratio = board.width / innerWidth;
  const left = Math.round(board.width / 2 + x * ratio) - 3;
  const top = Math.round(board.height / 2 + y * ratio) - 3;
  const { data } = board.getContext("2d").getImageData(left, top, 7, 7);
  for (let i = 0; i < data.length; i += 4) {
    if (data[i] === red && data[i + 1] === green && data[i + 2] === blue && data[i + 3] === 255) {
      return true;
    }
  }
  return false;
}
