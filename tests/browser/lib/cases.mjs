// What must hold in every browser.
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { launch } from "./browsers.mjs";
import { startProxy } from "./proxy.mjs";
import { startRedis } from "./redis.mjs";
import { startServer } from "./server.mjs";
import {
  connectionLog,
  drag,
  draw,
  freshBoard,
  isInked,
  openBoard,
  pickColor,
  press,
  transportOf,
  unsentOf,
  untilBlank,
  untilConnected,
  untilData,
  untilInked,
  untilLogged,
  untilNotConnected,
  untilUnsent,
} from "./whiteboard.mjs";

/** Where each test draws: strokes across the middle, clear of the page's own controls. */
const FIRST = [[-160, -60], [160, -60]];
const SECOND = [[-160, 60], [160, 60]];
const middle = ([[x0, y0], [x1, y1]]) => [(x0 + x1) / 2, (y0 + y1) / 2];

export function whiteboardIn(browserName, more = () => {}) {
  describe(`whiteboard in ${browserName}`, { timeout: 300_000 }, () => {
    let server;
    let browser;

    before(async () => {
      server = await startServer();
      browser = await launch(browserName);
      // A browser's first page pays for the browser, and WebTransport's head start is not for that.
      const { page } = await openBoard(browser, server.url);
      await page.close();
    });

    after(async () => {
      await browser?.close();
      await server?.stop();
    });

    /** A page that the test closes. */
    async function open(t, url, options, where = browser) {
      const opened = await openBoard(where, url, options);
      t.after(() => opened.page.isClosed() || opened.page.close());
      return opened;
    }

    /** Two pages of different sizes: what is in the middle of one is in the middle of the other. */
    async function openTwo(t, url) {
      return [await open(t, url), await open(t, url, { width: 1100, height: 500 })];
    }

    /** As if nothing had ever been tried: what is remembered of a network is the browser's, not a page's. */
    async function stranger(t) {
      const context = await browser.createBrowserContext();
      t.after(() => context.close());
      return context;
    }

    async function drawTogether(one, two) {
      assert.equal(await isInked(two, middle(FIRST), "black"), false, "the board starts empty");
      await draw(one, ...FIRST);
      await untilInked(two, middle(FIRST), "black");
      await pickColor(two, "red");
      await draw(two, ...SECOND);
      await untilInked(one, middle(SECOND), "red");
    }

    test("two pages draw together over WebTransport by default", async (t) => {
      const [one, two] = await openTwo(t, freshBoard(server.url));
      assert.equal(await transportOf(one.page), "webtransport");
      assert.equal(await transportOf(two.page), "webtransport");
      await drawTogether(one.page, two.page);
      await pickColor(one.page, "blue");
      await draw(one.page, [0, -100], [0, 100]);
      await untilInked(two.page, [0, 0], "blue");
      assert.deepEqual([...one.errors, ...two.errors], []);
    });

    for (const transport of ["webtransport", "websocket", "polling"]) {
      test(`?transport=${transport} is what is used`, async (t) => {
        const [one, two] = await openTwo(t, freshBoard(server.url, `?transport=${transport}`));
        assert.equal(await transportOf(one.page), transport);
        assert.equal(await transportOf(two.page), transport);
        await drawTogether(one.page, two.page);
        assert.deepEqual([...one.errors, ...two.errors], []);
      });
    }

    test("with UDP dropped the page is on WebSocket without waiting for it, and remembers", async (t) => {
      const proxy = await startProxy(server.port, { udp: "dropped" });
      t.after(() => proxy.stop());
      const url = freshBoard(proxy.url);
      const context = await stranger(t);
      const one = await open(t, url, {}, context);
      assert.equal(await transportOf(one.page), "websocket");
      const log = await connectionLog(one.page);
      assert.ok(log.includes("WebTransport was slower, closed"), log.join("\n"));
      await untilLogged(one.page, "WebTransport does not work here");
      assert.ok(proxy.seen.datagrams > 0, "WebTransport was tried");
      // The next connection does not wait for it at all.
      const two = await open(t, url, {}, context);
      assert.equal(await transportOf(two.page), "websocket");
      const [first] = await connectionLog(two.page);
      assert.equal(first, "Connecting: WebSocket, Long-polling, WebTransport");
      await drawTogether(one.page, two.page);
      // Everybody behind a firewall goes through this: there is no error that nobody handles.
      assert.deepEqual([...one.errors, ...two.errors], []);
    });

    test("with UDP refused the page is on WebSocket", async (t) => {
      const proxy = await startProxy(server.port, { udp: "refused" });
      t.after(() => proxy.stop());
      const [one, two] = await openTwo(t, freshBoard(proxy.url));
      assert.equal(await transportOf(one.page), "websocket");
      assert.equal(await transportOf(two.page), "websocket");
      await drawTogether(one.page, two.page);
      assert.deepEqual([...one.errors, ...two.errors], []);
    });

    test("with WebSocket refused too the page is on HTTP long-polling", async (t) => {
      const proxy = await startProxy(server.port, { upgrades: false });
      t.after(() => proxy.stop());
      const [one, two] = await openTwo(t, freshBoard(proxy.url));
      assert.equal(await transportOf(one.page), "polling");
      assert.equal(await transportOf(two.page), "polling");
      await drawTogether(one.page, two.page);
      assert.ok(proxy.seen.upgrades > 0, "WebSocket was tried");
    });

    test("transports mix on one board", async (t) => {
      const board = freshBoard(server.url);
      const pages = [];
      for (const transport of ["webtransport", "websocket", "polling"]) {
        const { page } = await open(t, `${board}?transport=${transport}`);
        pages.push(page);
      }
      for (const [index, color] of ["red", "green", "blue"].entries()) {
        const y = -80 + index * 80;
        await pickColor(pages[index], color);
        await draw(pages[index], [-160, y], [160, y]);
        for (const page of pages) await untilInked(page, [0, y], color);
      }
    });

    test("boards are apart, and / leads to one", async (t) => {
      const one = await open(t, freshBoard(server.url));
      const other = await open(t, freshBoard(server.url));
      const lobby = await open(t, `${server.url}/`);
      assert.equal(new URL(lobby.page.url()).pathname, "/b/lobby");
      await draw(one.page, ...FIRST);
      // Behind it on the same connection: what comes by then would have come.
      await draw(other.page, ...SECOND);
      await draw(one.page, ...SECOND);
      const late = await open(t, one.page.url());
      await untilInked(late.page, middle(SECOND), "black");
      assert.equal(await isInked(other.page, middle(FIRST), "black"), false);
    });

    test("who comes late sees what has been drawn, and everyone that there are two", async (t) => {
      const url = freshBoard(server.url);
      const one = await open(t, url);
      await untilData(one.page, "people", "1");
      await draw(one.page, ...FIRST);
      const two = await open(t, url);
      await untilInked(two.page, middle(FIRST), "black");
      for (const { page } of [one, two]) await untilData(page, "people", "2");
      await one.page.close();
      await untilData(two.page, "people", "1");
      await two.page.reload();
      await untilInked(two.page, middle(FIRST), "black");
    });

    test("undo, redo and clear are for one's own strokes", async (t) => {
      const [one, two] = await openTwo(t, freshBoard(server.url));
      await draw(one.page, ...FIRST);
      await untilInked(two.page, middle(FIRST), "black");
      await pickColor(two.page, "red");
      await draw(two.page, ...SECOND);
      await untilInked(one.page, middle(SECOND), "red");
      await two.page.keyboard.down("Control");
      await two.page.keyboard.press("z");
      await two.page.keyboard.up("Control");
      for (const { page } of [one, two]) await untilBlank(page, middle(SECOND), "red");
      assert.ok(await two.page.$("#undo:disabled"), "the other's stroke is not one's own");
      await two.page.click("#redo");
      for (const { page } of [one, two]) await untilInked(page, middle(SECOND), "red");
      await draw(one.page, [0, -100], [0, -80]);
      await one.page.click("#clear");
      for (const { page } of [one, two]) await untilBlank(page, middle(FIRST), "black");
      const late = await open(t, one.page.url());
      await untilInked(late.page, middle(SECOND), "red");
      assert.equal(await isInked(late.page, middle(FIRST), "black"), false);
    });

    test("strokes stay one's own over a reload", async (t) => {
      const [one, two] = await openTwo(t, freshBoard(server.url));
      await draw(one.page, ...FIRST);
      await untilInked(two.page, middle(FIRST), "black");
      await one.page.reload();
      await untilInked(one.page, middle(FIRST), "black");
      await one.page.click("#undo");
      await untilBlank(two.page, middle(FIRST), "black");
    });

    test("the others' cursors are shown, in their colours", async (t) => {
      const [one, two] = await openTwo(t, freshBoard(server.url));
      await pickColor(one.page, "red");
      // What is told of a cursor may get lost: the next move replaces it.
      const point = async () => {
        for (const x of [49, 50]) await one.page.mouse.move(400 + x, 300 + 20);
      };
      let cursor;
      do await point();
      while (!(cursor = await two.page.$(".pointer")));
      const at = async () => {
        const { x, y } = await cursor.boundingBox();
        return [Math.round(x), Math.round(y)].join();
      };
      // Two pixels off, so that the arrow's tip is where the other one points.
      const wanted = [1100 / 2 + 50 - 2, 500 / 2 + 20 - 2].join();
      while ((await at()) !== wanted) await point();
      assert.equal(await cursor.evaluate((mark) => mark.style.color), "rgb(224, 49, 49)");
      await one.page.close();
      await two.page.waitForFunction(() => !document.querySelector(".pointer"), { polling: 50 });
    });

    test("a page that leaves disturbs nobody", async (t) => {
      const [one, two] = await openTwo(t, freshBoard(server.url));
      const { page: three } = await open(t, one.page.url());
      await draw(one.page, ...FIRST);
      await untilInked(two.page, middle(FIRST), "black");
      // Any loss of the connection from here on leaves a mark.
      await two.page.evaluate(() => {
        new MutationObserver(() => {
          document.documentElement.dataset.disturbed = "yes";
        }).observe(document.documentElement, { attributeFilter: ["data-state"] });
      });
      await one.page.close();
      await three.reload();
      await untilConnected(three);
      await pickColor(three, "red");
      await draw(three, ...SECOND);
      await untilInked(two.page, middle(SECOND), "red");
      assert.ok(await isInked(two.page, middle(FIRST), "black"), "the earlier stroke is still there");
      assert.equal(await two.page.evaluate(() => document.documentElement.dataset.disturbed), undefined);
    });

    test("the drawing survives a resize, sharp at two pixels per point", async (t) => {
      const { page } = await open(t, freshBoard(server.url));
      await draw(page, ...FIRST);
      await page.setViewport({ width: 1000, height: 700, deviceScaleFactor: 2 });
      await page.waitForFunction(() => document.getElementById("board").width === 2000, { polling: 50 });
      await untilInked(page, middle(FIRST), "black");
    });

    test("everything goes by keyboard: colour, drawing, taking back", async (t) => {
      const [one, two] = await openTwo(t, freshBoard(server.url));
      await one.page.focus("#colors input:checked");
      await one.page.keyboard.press("ArrowRight");
      await one.page.focus("#board");
      await one.page.keyboard.press("Enter");
      for (let step = 0; step < 5; step += 1) await one.page.keyboard.press("ArrowRight");
      await one.page.keyboard.press("Enter");
      await untilInked(two.page, [30, 0], "red");
      await one.page.keyboard.down("Control");
      await one.page.keyboard.press("z");
      await one.page.keyboard.up("Control");
      await untilBlank(two.page, [30, 0], "red");
    });

    test("who draws faster than the server lets him sees what waits, and it arrives", async (t) => {
      const [one, two] = await openTwo(t, freshBoard(server.url));
      // Dots, faster than any hand, until the server has had enough: 3,000 at once and 400 a second.
      const dots = (count, x, y) => {
        Element.prototype.setPointerCapture = () => {};
        const board = document.getElementById("board");
        for (let at = 0; at < count; at += 1) {
          for (const type of ["pointerdown", "pointerup"]) {
            const place = { clientX: innerWidth / 2 + x, clientY: innerHeight / 2 + y };
            const pointer = { pointerId: 7, pointerType: "mouse", isPrimary: true };
            board.dispatchEvent(new PointerEvent(type, { ...pointer, ...place }));
          }
        }
      };
      const refused = async () => {
        const text = await (await fetch(`${server.url}/metrics`)).text();
        return Number(/quicket_whiteboard_draws_refused_total (\d+)/.exec(text)[1]);
      };
      const before = await refused();
      // What waits is shown for half a second only, until it is sent again: it leaves a mark.
      await one.page.evaluate(() => {
        const page = document.documentElement;
        new MutationObserver(() => {
          if (Number(page.dataset.unsent) > 0) page.dataset.waited = "yes";
        }).observe(page, { attributeFilter: ["data-unsent"] });
      });
      while ((await refused()) === before) {
        await one.page.evaluate(dots, 3_300, -100, 20);
        // All of it is taken, or some is not.
        while ((await refused()) === before && (await unsentOf(one.page)) > 0);
      }
      await untilData(one.page, "waited", "yes");
      await one.page.evaluate(dots, 1, 100, 20);
      await untilData(one.page, "unsent", "0");
      await untilInked(two.page, [100, 20], "black");
      await draw(two.page, [-160, 100], [160, 100]);
      await untilInked(one.page, [0, 100], "black");
    });

    test("when every node was killed the board is there again, with Redis", async (t) => {
      const redis = await startRedis();
      t.after(() => redis.stop());
      const settings = { REDIS_URL: redis.url };
      const first = await startServer(undefined, settings);
      let current = first;
      t.after(() => current?.stop());
      const one = await open(t, freshBoard(first.url));
      await pickColor(one.page, "red");
      await draw(one.page, ...FIRST);
      await draw(one.page, ...SECOND);
      // A page shows what is late, and not what is under way: whether it is stored is asked of Redis.
      await redis.untilFields(3);
      await one.page.click("#undo");
      await redis.untilFields(2);
      const url = one.page.url();
      // Nobody is left who could bring it.
      await one.page.close();
      current = undefined;
      await first.kill();
      current = await startServer(first.port, settings);
      const late = await open(t, url);
      await untilInked(late.page, middle(FIRST), "red");
      assert.equal(await isInked(late.page, middle(SECOND), "red"), false);
    });

    test("a server that is replaced in the middle of a stroke costs nothing", async (t) => {
      const first = await startServer();
      let current = first;
      t.after(() => current?.stop());
      const [one, two] = await openTwo(t, freshBoard(first.url));
      await pickColor(one.page, "red");
      await draw(one.page, ...FIRST);
      await press(one.page, [-160, 60], [0, 60]);
      await untilInked(two.page, [-80, 60], "red");
      current = undefined;
      await first.stop();
      for (const { page } of [one, two]) await untilNotConnected(page);
      // The pen is still down. What it draws is unsent, not lost.
      await drag(one.page, [160, 60]);
      await untilUnsent(one.page);
      await untilInked(one.page, [80, 60], "red", "unsent-layer");
      current = await startServer(first.port);
      for (const { page } of [one, two]) await untilConnected(page, "webtransport");
      await drag(one.page, [160, 120]);
      await one.page.mouse.up();
      await untilData(one.page, "unsent", "0");
      for (const place of [middle(FIRST), [-80, 60], [80, 60], [160, 90]]) {
        for (const { page } of [one, two]) await untilInked(page, place, "red");
      }
      // The colour too, and a server that knew nothing knows it all again.
      const late = await open(t, one.page.url());
      for (const place of [middle(FIRST), [80, 60]]) await untilInked(late.page, place, "red");
      await drawTogetherAgain(one.page, two.page);
    });

    test("nodes share their boards, and one that is killed in the middle of a stroke costs nothing", async (t) => {
      const redis = await startRedis();
      t.after(() => redis.stop());
      const settings = { REDIS_URL: redis.url };
      const first = await startServer(undefined, settings);
      let isKilled = false;
      t.after(() => isKilled || first.stop());
      const second = await startServer(undefined, settings);
      t.after(() => second.stop());
      const proxy = await startProxy(first.port);
      t.after(() => proxy.stop());
      const board = new URL(freshBoard(proxy.url)).pathname;
      const one = await open(t, `${proxy.url}${board}?transport=websocket`);
      await pickColor(one.page, "red");
      await draw(one.page, ...FIRST);
      // The second node hears of this board now, and asks the first.
      const two = await open(t, `${second.url}${board}`);
      await untilInked(two.page, middle(FIRST), "red");
      for (const { page } of [one, two]) await untilData(page, "people", "2");
      await draw(two.page, [0, -100], [0, -80]);
      await untilInked(one.page, [0, -90], "black");
      await press(one.page, [-160, 60], [0, 60]);
      await untilInked(two.page, [-80, 60], "red");
      isKilled = true;
      proxy.follow(second.port);
      await first.kill();
      await drag(one.page, [160, 60]);
      await one.page.mouse.up();
      await untilConnected(one.page);
      await untilData(one.page, "unsent", "0");
      await untilInked(two.page, [80, 60], "red");
      const late = await open(t, two.page.url());
      for (const place of [middle(FIRST), [-80, 60], [80, 60]]) await untilInked(late.page, place, "red");
      await untilInked(late.page, [0, -90], "black");
      // It is still one's own, on a node that never saw it drawn.
      await one.page.click("#clear");
      await untilBlank(late.page, [80, 60], "red");
      await untilBlank(late.page, middle(FIRST), "red");
    });

    async function drawTogetherAgain(one, two) {
      await draw(one, [-100, 0], [100, 0]);
      await untilInked(two, [0, 0], "red");
    }

    more({ open, openTwo, stranger, server: () => server, browser: () => browser });
  });
}
