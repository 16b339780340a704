// The whiteboard page as a person sees and uses it.

/** The board's colours as pixels, on light paper. */
export const RGB = { black: [0, 0, 0], red: [255, 0, 0], green: [0, 128, 0], blue: [0, 0, 255] };

/** Polls by time, in ms: no animation frames are promised to a page that nobody looks at. */
const WAIT = { polling: 50, timeout: 30_000 };

/**
 * Opens the page and waits until it is connected. Every uncaught error of the page is kept;
 * `elapsed` is the time from the start of loading, in ms.
 */
export async function openBoard(browser, url, { width = 800, height = 600, scale = 1 } = {}) {
  // A window each, so that neither page is in the background: Chromium paints no frames there,
  // and input waits for frames.
  const page = await browser.newPage({ type: "window" });
  await page.setViewport({ width, height, deviceScaleFactor: scale });
  const errors = [];
  page.on("pageerror", (error) => errors.push(error));
  const started = performance.now();
  await page.goto(url, { waitUntil: "load", timeout: 30_000 });
  await untilConnected(page);
  return { page, errors, elapsed: performance.now() - started };
}

export async function untilConnected(page, transport) {
  await page.waitForFunction(
    (wanted) => {
      const { state, transport } = document.documentElement.dataset;
      return state === "connected" && (!wanted || transport === wanted);
    },
    WAIT,
    transport,
  );
}

export async function untilNotConnected(page) {
  await page.waitForFunction(() => document.documentElement.dataset.state !== "connected", WAIT);
}

export function transportOf(page) {
  return page.evaluate(() => document.documentElement.dataset.transport);
}

export async function pickColor(page, color) {
  await page.click(`#colors input[value="${color}"]`);
}

/** A stroke by mouse through points given as fractions of the board. */
export async function draw(page, ...points) {
  const [first, ...rest] = await page.evaluate((fractions) => {
    const { left, top, width, height } = document.getElementById("board").getBoundingClientRect();
    return fractions.map(([x, y]) => [left + x * width, top + y * height]);
  }, points);
  await page.mouse.move(...first);
  await page.mouse.down();
  const steps = rest.length > 1 ? 1 : 8;
  for (const point of rest) await page.mouse.move(...point, { steps });
  await page.mouse.up();
}

/** Waits until the board shows exactly this colour within 3 pixels of a point. */
export async function untilInked(page, [x, y], color) {
  await page.waitForFunction(hasInk, WAIT, x, y, RGB[color]).catch((error) => {
    throw new Error(`no ${color} at ${x}, ${y}: ${error.message}`);
  });
}

export function isInked(page, [x, y], color) {
  return page.evaluate(hasInk, x, y, RGB[color]);
}

/** Runs in the page. */
function hasInk(x, y, [red, green, blue]) {
  const board = document.getElementById("board");
  const left = Math.round(x * board.width) - 3;
  const top = Math.round(y * board.height) - 3;
  const { data } = board.getContext("2d").getImageData(left, top, 7, 7);
  for (let i = 0; i < data.length; i += 4) {
    if (data[i] === red && data[i + 1] === green && data[i + 2] === blue && data[i + 3] === 255) {
      return true;
    }
  }
  return false;
}
