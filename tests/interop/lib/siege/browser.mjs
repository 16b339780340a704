// The normal clients over WebTransport, which Node does not speak: official ones in a page of Chromium.
import { fileURLToPath } from "node:url";
import { BROWSERS, launch } from "../../../browser/lib/browsers.mjs";
import { summary } from "./traffic.mjs";

/** Fewer than of the others, since a browser is heavier than they are. */
const CLIENTS = 8;
/** Each asks so often, in milliseconds. */
const PACE = 200;
/** An answer that takes longer is an error. */
const PATIENCE = 10_000;
/** The official client as its package has it for pages. */
const CLIENT = fileURLToPath(new URL("../../node_modules/socket.io-client/dist/socket.io.min.js", import.meta.url));

/** Chromium for all attacks; its servers may have made their certificates themselves. */
export function startBrowser() {
  // else it gives a page that nobody looks at little of the processor (`nice 5`), and fewer timers
  const wake = ["background-timer-throttling", "backgrounding-occluded-windows", "renderer-backgrounding"];
  const args = [...BROWSERS.chromium.options.args, ...wake.map((what) => `--disable-${what}`)];
  return launch("chromium", { args, acceptInsecureCerts: true });
}

/** A page on which they are; its times are the page's own. */
export class Page {
  #page;
  #ended = false;
  errors = [];

  /** Lets them in; they talk until `stop`. */
  async start(browser, { url, hashes }) {
    this.#page = await browser.newPage();
    this.#page.on("pageerror", ({ message }) => {
      // the official client does not catch that what it writes to has ended, also when it has closed that itself; those who
      // are not to end say `disconnect`
      if (message !== "The session is closed.") this.#failed(`page: ${message}`);
    });
    this.#page.on("error", (error) => this.#failed(`page: ${error.message}`));
    // any page of the server's own origin that has no clients yet
    await this.#page.goto(`${url}/webtransport.json`);
    await this.#page.addScriptTag({ path: CLIENT });
    await this.#page.evaluate(inPage, { hashes, clients: CLIENTS, pace: PACE, patience: PATIENCE });
  }

  /** One more client that connects, has an answer, and leaves: how long it took to connect, in milliseconds. */
  async visit() {
    const { error, took } = await this.#page.evaluate(() => siege.visit().catch(({ message }) => ({ error: message })));
    if (error !== undefined) throw new Error(error);
    return took;
  }

  /** Round trips since the last call, and how many strokes they have seen. */
  async take() {
    const { samples, errors, seen } = await this.#page.evaluate(() => siege.take());
    errors.forEach((error) => this.#failed(error));
    return { ...summary(samples), seen };
  }

  async stop() {
    this.#ended = true;
    await this.#page?.close();
  }

  #failed(what) {
    if (!this.#ended) this.errors.push(what);
  }

  get clients() {
    return CLIENTS;
  }
}

/** Runs in the page; leaves `siege` there. */
async function inPage({ hashes, clients, pace, patience }) {
  const { port, certificateHashes } = await (await fetch("/webtransport.json")).json();
  const serverCertificateHashes = (hashes ?? certificateHashes).map((hash) => ({
    algorithm: "sha-256",
    value: Uint8Array.from(atob(hash), (char) => char.charCodeAt(0)),
  }));
  const webtransport = { port, secure: true, serverCertificateHashes };
  const options = { transports: ["webtransport"], transportOptions: { webtransport }, forceNew: true };
  const found = { samples: [], errors: [], seen: 0 };
  const failed = (what) => found.errors.push(`webtransport ${what}`);
  const sleep = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));
  const connected = (socket) =>
    new Promise((resolve, reject) => {
      socket.once("connect", resolve);
      socket.once("connect_error", reject);
    });
  const ask = (socket) => {
    const begin = performance.now();
    socket.timeout(patience).emit("rtt", (error) => {
      if (error) failed(`rtt: ${error.message}`);
      else found.samples.push(performance.now() - begin);
    });
  };
  for (let index = 0; index < clients; index++) {
    const socket = io({ ...options, auth: { board: "lobby" } });
    await connected(socket);
    for (const event of ["connect_error", "disconnect"]) {
      socket.on(event, (why) => failed(`${event}: ${why.message ?? why}`));
    }
    socket.on("draw", () => found.seen++);
    await sleep(pace / clients);
    setInterval(() => ask(socket), pace);
  }
  window.siege = {
    take() {
      const taken = { ...found };
      Object.assign(found, { samples: [], errors: [], seen: 0 });
      return taken;
    },
    async visit() {
      const begin = performance.now();
      const socket = io({ ...options, auth: { board: "newcomers" }, timeout: patience, reconnection: false });
      try {
        await connected(socket);
        const took = performance.now() - begin;
        await socket.timeout(patience).emitWithAck("rtt");
        return { took };
      } finally {
        socket.disconnect();
      }
    },
  };
}
