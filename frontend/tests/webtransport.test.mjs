// The WebTransport transport, over a `WebTransport` whose promises the test holds.
import assert from "node:assert/strict";
import { afterEach, beforeEach, describe, test } from "node:test";
import { OfferedWebTransport } from "../node_modules/.test/connect/webtransport.js";
import { settled } from "./fakes.mjs";

class FakeSession {
  static made = [];
  closes = 0;

  constructor(url, options) {
    Object.assign(this, { url, options });
    this.ready = new Promise((accept, refuse) => Object.assign(this, { accept, refuse }));
    this.closed = new Promise((end, lose) => Object.assign(this, { end, lose }));
    FakeSession.made.push(this);
  }

  close() {
    this.closes += 1;
    // As browsers do: what is pending is rejected.
    this.refuse(new Error("closed while connecting"));
    this.end({});
  }

  async createBidirectionalStream() {
    const up = new TransformStream();
    const down = new TransformStream();
    this.fromClient = up.readable.getReader();
    this.toClient = down.writable.getWriter();
    return { readable: down.readable, writable: up.writable };
  }

  /** A frame of the server: below 126 bytes of text. */
  send(text) {
    const bytes = new TextEncoder().encode(text);
    return this.toClient.write(Uint8Array.from([bytes.length, ...bytes]));
  }
}

describe("WebTransport", () => {
  const rejections = [];
  const onRejection = (error) => rejections.push(error);

  beforeEach(() => {
    FakeSession.made = [];
    globalThis.WebTransport = FakeSession;
    rejections.length = 0;
    process.on("unhandledRejection", onRejection);
  });

  afterEach(async () => {
    await settled();
    process.off("unhandledRejection", onRejection);
    delete globalThis.WebTransport;
    assert.deepEqual(rejections, [], "every failure is handled");
  });

  function open(source = async () => ({ port: 4433 }), options = {}) {
    const transport = new OfferedWebTransport(
      { hostname: "h", port: "80", path: "/socket.io/", query: {}, socket: {}, ...options },
      source,
      1_000,
    );
    const heard = [];
    transport.on("open", () => heard.push("open"));
    transport.on("packet", ({ type, data }) => heard.push(`${type} ${data}`));
    transport.on("error", ({ message, description }) => heard.push(`${message}: ${description?.message}`));
    transport.on("close", () => heard.push("close"));
    transport.open();
    return { transport, heard, session: () => FakeSession.made.at(-1) };
  }

  test("the offer says where and which certificates", async () => {
    const hash = Buffer.from([1, 2, 3]).toString("base64");
    const { session } = open(async () => ({ port: 4433, certificateHashes: [hash] }), {
      transportOptions: { webtransport: { congestionControl: "low-latency" } },
    });
    await settled();
    assert.equal(session().url, "https://h:4433/socket.io/");
    assert.equal(session().options.congestionControl, "low-latency");
    const [{ algorithm, value }] = session().options.serverCertificateHashes;
    assert.equal(algorithm, "sha-256");
    assert.deepEqual([...value], [1, 2, 3]);
  });

  test("a certificate of a CA is not pinned", async () => {
    const { session } = open(async () => ({ port: 443, certificateHashes: [] }));
    await settled();
    assert.equal(session().url, "https://h/socket.io/");
    assert.deepEqual(session().options, {});
  });

  test("with nothing to ask, it is the server's own port", async () => {
    const { session } = open(false, { port: "8443" });
    await settled();
    assert.equal(session().url, "https://h:8443/socket.io/");
  });

  test("handshake, packets both ways, orderly end", async () => {
    const { transport, heard, session } = open();
    await settled();
    session().accept();
    await settled();
    assert.deepEqual(heard, ["open"]);
    const read = async () => new TextDecoder().decode((await session().fromClient.read()).value);
    assert.equal(await read(), "\u0001");
    assert.equal(await read(), "0");
    await session().send('0{"sid":"s"}');
    await settled();
    transport.send([{ type: "message", data: "hi" }]);
    assert.equal(transport.writable, false);
    assert.equal(await read(), "\u0003");
    assert.equal(await read(), "4hi");
    await settled();
    assert.equal(transport.writable, true);
    session().end({});
    await settled();
    assert.deepEqual(heard, ["open", 'open {"sid":"s"}', "close"]);
  });

  test("a refused session is one error", async () => {
    const { heard, session } = open();
    await settled();
    session().refuse(new Error("certificate"));
    session().lose(new Error("certificate"));
    await settled();
    assert.deepEqual(heard.filter((line) => line !== "close"), ["webtransport error: certificate"]);
  });

  test("a server that cannot be reached is asked again, and says nothing about WebTransport", async (t) => {
    t.mock.timers.enable({ apis: ["setTimeout"] });
    const answers = [
      () => {
        throw new TypeError("Failed to fetch");
      },
      () => new Response("", { status: 502 }),
      () => new Response('{"port":4433}'),
    ];
    t.mock.method(globalThis, "fetch", async () => answers.shift()());
    const { transport, heard, session } = open("/webtransport.json");
    const stalls = [];
    transport.onstall = ({ message }) => stalls.push(message);
    await settled();
    assert.deepEqual(stalls, ["Failed to fetch"]);
    assert.equal(transport.isTelling, false);
    t.mock.timers.tick(250);
    await settled();
    assert.deepEqual(stalls, ["Failed to fetch", "/webtransport.json: HTTP 502"]);
    assert.equal(transport.isTelling, false);
    t.mock.timers.tick(250);
    await settled();
    assert.equal(transport.isTelling, true);
    assert.equal(session().url, "https://h:4433/socket.io/");
    assert.deepEqual(heard, []);
    assert.equal(fetch.mock.calls[0].arguments[0].href, "http://h/webtransport.json");
    transport.close();
  });

  test("a server that offers no WebTransport is asked once", async (t) => {
    t.mock.method(globalThis, "fetch", async () => new Response("", { status: 404 }));
    const { transport, heard } = open("/webtransport.json");
    await settled();
    assert.equal(heard[0], "webtransport error: /webtransport.json: HTTP 404");
    assert.equal(transport.isTelling, true);
    assert.equal(fetch.mock.callCount(), 1);
  });

  test("abandoned while the server cannot be asked, it has nothing to tell", async (t) => {
    t.mock.timers.enable({ apis: ["setTimeout"] });
    t.mock.method(globalThis, "fetch", async () => {
      throw new TypeError("Failed to fetch");
    });
    const { transport } = open("/webtransport.json");
    await settled();
    transport.abandon(() => assert.fail("it knows nothing"));
    t.mock.timers.tick(250);
    await settled();
    assert.equal(fetch.mock.callCount(), 1);
  });

  test("an offer that does not come is an error in the end", async (t) => {
    t.mock.timers.enable({ apis: ["setTimeout"] });
    const { heard } = open(async () => {
      throw new Error("no");
    });
    for (let tries = 1; tries < 12; tries += 1) {
      await settled();
      assert.deepEqual(heard, []);
      t.mock.timers.tick(250);
    }
    await settled();
    assert.equal(heard[0], "webtransport error: no");
    assert.equal(FakeSession.made.length, 0);
  });

  test("silence ends at the deadline", async (t) => {
    t.mock.timers.enable({ apis: ["setTimeout"] });
    const { heard, session } = open();
    await settled();
    t.mock.timers.tick(1_000);
    await settled();
    assert.equal(heard[0], "webtransport timeout: no answer within 1000 ms");
    assert.equal(session().closes, 1);
  });

  test("so does a session that is accepted but says nothing", async (t) => {
    t.mock.timers.enable({ apis: ["setTimeout"] });
    const { heard, session } = open();
    await settled();
    session().accept();
    await settled();
    t.mock.timers.tick(1_000);
    await settled();
    assert.deepEqual(heard.slice(0, 2), ["open", "webtransport timeout: no answer within 1000 ms"]);
  });

  test("closed before the offer came, it never dials", async () => {
    let offer;
    const { transport } = open(() => new Promise((resolve) => (offer = resolve)));
    transport.close();
    offer({ port: 1 });
    await settled();
    assert.equal(FakeSession.made.length, 0);
  });

  test("closed while connecting, it is closed, without an error", async () => {
    const { transport, heard, session } = open();
    await settled();
    transport.close();
    await settled();
    assert.equal(session().closes, 1);
    assert.deepEqual(heard, ["close"]);
  });

  test("abandoned, it learns that it works without opening a stream", async () => {
    const { transport, heard, session } = open();
    const learned = [];
    await settled();
    transport.abandon((works) => learned.push(works));
    session().accept();
    await settled();
    assert.deepEqual(learned, [true]);
    assert.equal(session().closes, 1);
    assert.equal(session().fromClient, undefined, "the server has no session of it");
    assert.deepEqual(heard, ["close"]);
  });

  test("abandoned, it learns that it does not work", async () => {
    const { transport, heard, session } = open();
    const learned = [];
    await settled();
    transport.abandon((works) => learned.push(works));
    session().refuse(new Error("no"));
    await settled();
    assert.deepEqual(learned, [false]);
    assert.deepEqual(heard, ["close"]);
  });

  test("abandoned after the session was accepted, it is closed at once", async () => {
    const { transport, session } = open();
    const learned = [];
    await settled();
    session().accept();
    await settled();
    transport.abandon((works) => learned.push(works));
    assert.deepEqual(learned, [true]);
    assert.equal(session().closes, 1);
  });

  test("a lost connection is an error", async () => {
    const { heard, session } = open();
    await settled();
    session().accept();
    await settled();
    session().lose(new Error("Connection lost."));
    await settled();
    assert.deepEqual(heard.slice(0, 2), ["open", "webtransport error: Connection lost."]);
  });
});
