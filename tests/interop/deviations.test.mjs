// Where we differ from Node on purpose, and official clients are better off for it.
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { Lab, MODES } from "./lib/lab.mjs";
import { RawWebSocket } from "./lib/raw.mjs";
import { startOurs } from "./lib/server.mjs";

describe("on purpose unlike Node", () => {
  let server;
  before(async () => (server = await startOurs()));
  after(() => server.stop());

  let count = 0;
  const lab = async (mode, run) => {
    const lab = new Lab(server, { mode, label: `deviation-${++count}` });
    try {
      await run(lab);
    } finally {
      lab.close();
    }
  };

  for (const mode of Object.keys(MODES)) {
    test(`leaving a namespace and joining it again at once always works, ${mode}`, () =>
      lab(mode, async (lab) => {
        const one = await lab.join("one");
        const other = await lab.connected(lab.share(one, "other", { nsp: "/custom" }));
        for (let round = 0; round < 20; round++) {
          one.disconnect().connect();
          await lab.connected(one);
        }
        assert.equal(await other.emitWithAck("echo-ack", "undisturbed"), "undisturbed");
        assert.equal((await lab.log("one", 61)).filter((entry) => "disconnect" in entry).length, 20);
      }));
  }

  test("half of a surrogate pair becomes U+FFFD, and reaches others as text", () =>
    lab("websocket", async (lab) => {
      const [one, two] = [await lab.join("one"), await lab.join("two")];
      assert.equal(await one.emitWithAck("echo-ack", "a\ud83db"), "a\ufffdb");
      await lab.do(one, "emit", { by: "socket", event: "text", args: ["\udc00!"] });
      assert.deepEqual(await lab.received(two), [[["text", "\ufffd!"]]]);
    }));

  test("a client that leaves owes a broadcast no answer any more", () =>
    lab("websocket", async (lab) => {
      const [asker, leaver] = [await lab.join("asker"), await lab.join("leaver")];
      asker.on("question", (ack) => ack("mine"));
      leaver.on("question", () => leaver.disconnect());
      const spec = { by: "namespace", event: "question", timeout: 60_000 };
      assert.deepEqual(await lab.do(asker, "ask", spec), { error: null, answers: ["mine"] });
    }));

  test("a question to a client that leaves fails at once, without a timeout", () =>
    lab("websocket", async (lab) => {
      const socket = await lab.join("a");
      const custom = await lab.connected(lab.share(socket, "custom", { nsp: "/custom" }));
      socket.on("question", () => socket.disconnect());
      const answer = lab.do(socket, "ask", { by: "self", event: "question" }).catch((error) => error.message);
      assert.equal(await answer, "socket has been disconnected");
      assert.equal(await custom.emitWithAck("echo-ack", 1), 1);
    }));

  test("what the client sent before a close packet is handled, then the transport is closed", () =>
    lab("websocket", async (lab) => {
      const raw = await (await RawWebSocket.connect(server)).join(lab.tag("a"));
      raw.send('42["echo",1]', "1");
      assert.deepEqual((await lab.log("a", 3)).at(-1), { disconnect: "transport close", rooms: [] });
      await raw.closed;
    }));

  test("nobody can be put out of its own room", () =>
    lab("websocket", async (lab) => {
      const socket = await lab.join("a");
      await lab.do(socket, "leave", { rooms: [socket.id] });
      await lab.do(socket, "emit", { by: "namespace", to: [socket.id], event: "still", args: [] });
      assert.deepEqual(await lab.received(socket), [[["still"]]]);
    }));

  test("a failing handler costs nothing but its own event", () =>
    lab("websocket", async (lab) => {
      const socket = await lab.join("a");
      socket.emit("do", "no spec at all", () => assert.fail("there is nothing to answer"));
      socket.emit("do", { op: "no such op" }, () => assert.fail("the handler panicked"));
      assert.equal(await socket.emitWithAck("echo-ack", "goes on"), "goes on");
    }));
});
