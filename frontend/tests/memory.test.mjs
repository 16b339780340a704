import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { forgetNetworks, Memory } from "../node_modules/.test/connect/memory.js";
import { memoryStore } from "./fakes.mjs";

describe("memory", () => {
  test("a note counts until it expires, a first failure sooner", (t) => {
    t.mock.timers.enable({ apis: ["Date"], now: 1_000 });
    const memory = new Memory("h:1", 500, memoryStore());
    memory.note("webtransport", false, 12.7);
    assert.deepEqual(memory.recall("webtransport"), { ok: false, fails: 1, ms: 13, until: 1_050 });
    assert.equal(memory.recall("websocket"), undefined);
    t.mock.timers.setTime(1_050);
    assert.equal(memory.recall("webtransport"), undefined);
    memory.note("webtransport", false, 1);
    assert.deepEqual(memory.recall("webtransport"), { ok: false, fails: 2, ms: 1, until: 1_550 });
    memory.note("webtransport", true, 1);
    assert.deepEqual(memory.recall("webtransport"), { ok: true, fails: 0, ms: 1, until: 1_550 });
    memory.note("webtransport", false, 1);
    assert.equal(memory.recall("webtransport").until, 1_100);
  });

  test("notes are of one server and one kind of network", (t) => {
    const store = memoryStore();
    const memory = new Memory("h:1", 500, store);
    memory.note("websocket", true, 1);
    assert.equal(new Memory("h:2", 500, store).recall("websocket"), undefined);
    // Node 20 has none, later ones have one that cannot be assigned to.
    const before = Object.getOwnPropertyDescriptor(globalThis, "navigator");
    t.after(() => {
      delete globalThis.navigator;
      if (before) Object.defineProperty(globalThis, "navigator", before);
    });
    const value = { connection: { type: "cellular" } };
    Object.defineProperty(globalThis, "navigator", { value, configurable: true });
    assert.equal(memory.recall("websocket"), undefined);
  });

  test("nothing is kept when nothing shall be", () => {
    const store = memoryStore();
    new Memory("h:1", 0, store).note("websocket", true, 1);
    assert.equal(store.length, 0);
  });

  test("damaged or refused storage is as none", () => {
    for (const text of ["{", "null", "[]", '"x"', "7"]) {
      const memory = new Memory("h:1", 500, { ...memoryStore(), getItem: () => text });
      assert.equal(memory.recall("websocket"), undefined, text);
    }
    const full = {
      ...memoryStore(),
      setItem: () => {
        throw new Error("QuotaExceededError");
      },
    };
    new Memory("h:1", 500, full).note("websocket", true, 1);
  });

  test("a new network forgets everything, and nothing of others", () => {
    const store = memoryStore();
    store.setItem("theme", "dark");
    for (const server of ["a:1", "b:2"]) new Memory(server, 500, store).note("polling", true, 1);
    assert.equal(store.length, 3);
    forgetNetworks(store);
    assert.equal(store.length, 1);
    assert.equal(store.getItem("theme"), "dark");
  });
});
