// The examples that the README shows do what it says.
import assert from "node:assert/strict";
import { once } from "node:events";
import { describe, test } from "node:test";
import { io } from "socket.io-client";
import { MODES } from "./lib/lab.mjs";
import { startExample } from "./lib/server.mjs";

const open = (server, options) => io(server.url, { forceNew: true, reconnection: false, ...options });

describe("examples/chat", () => {
  for (const [mode, options] of Object.entries(MODES)) {
    test(`what is said in a room is heard in it, by the others, under the right name, ${mode}`, async () => {
      const server = await startExample("chat");
      const names = ["Ada", "Bob", "Cy"];
      const [ada, bob, cy] = names.map((name) => open(server, { ...options, auth: { name } }));
      await Promise.all([ada, bob, cy].map((socket) => once(socket, "connect")));
      const heard = { bob: [], cy: [] };
      bob.on("said", (...said) => heard.bob.push(said));
      cy.on("said", (...said) => heard.cy.push(said));
      // the server handles each one's events in order: once Bob is heard, he has joined
      const bobIsIn = once(ada, "said");
      ada.emit("join", "tea");
      bob.emit("join", "tea");
      bob.emit("say", ada.id, "I am in");
      assert.deepEqual(await bobIsIn, ["Bob", "I am in"]);
      const last = Promise.all([bob, cy].map((socket) => once(socket, "said")));
      ada.emit("say", "tea", "Hello!");
      ada.emit("say", cy.id, "come in, Cy");
      await last;
      assert.deepEqual(heard, { bob: [["Ada", "Hello!"]], cy: [["Ada", "come in, Cy"]] });
      for (const socket of [ada, bob, cy]) socket.disconnect();
      await server.kill(); // twenty lines know no signals
    });
  }

  test("who gives no name does not come in", async () => {
    const server = await startExample("chat");
    const [error] = await once(open(server, MODES.websocket), "connect_error");
    assert.equal(error.message, "who are you?");
    await server.kill(); // twenty lines know no signals
  });
});

describe("examples/embed", () => {
  for (const [mode, options] of Object.entries(MODES)) {
    test(`Socket.IO works inside the application's own listener, ${mode}`, async () => {
      const server = await startExample("embed");
      const socket = open(server, options);
      await once(socket, "connect");
      const wanted = options.transports.at(-1);
      if (socket.io.engine.transport.name !== wanted) await once(socket.io.engine, "upgrade");
      const answer = new Promise((resolve) => socket.emit("ask", (...args) => resolve(args)));
      assert.deepEqual(await answer, ["127.0.0.1", wanted]);
      const announced = once(socket, "announcement");
      await fetch(`${server.url}/announce`, { method: "POST", body: "tea is ready" });
      assert.deepEqual(await announced, ["tea is ready"]);
      const left = once(socket, "disconnect");
      await server.stop();
      await left;
    });
  }

  test("its own routes, ours, and WebTransport's whereabouts stand side by side", async () => {
    const server = await startExample("embed");
    const text = async (path) => (await fetch(server.url + path)).text();
    assert.equal(await text("/hello"), "the application's own route\n");
    for (const probe of ["healthz", "readyz", "acceptz"]) assert.equal(await text(`/internal/${probe}`), "ok\n", probe);
    assert.match(await text("/internal/metrics"), /^# /);
    const { port, certificateHashes } = JSON.parse(await text("/webtransport.json"));
    assert.equal(port, server.port);
    assert.ok(certificateHashes.length > 0);
    assert.equal((await fetch(`${server.url}/nowhere`)).status, 404);
    await server.stop();
  });
});
