// The short form of `make rollout`: servers stopped, killed and frozen under load behind HAProxy, Redis
// restarted, connections cut. Each event is counted, and exact means exact.
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { rollout } from "./lib/recovery/rollout.mjs";
import { assertExact, cut } from "./lib/recovery/rows.mjs";

const LIMIT = { timeout: 180_000 };

/** A row in which hardly anything happened has shown nothing. */
function exact(result, { returns, expected }) {
  const told = JSON.stringify(result);
  assert.ok(result.returns >= returns, `too few came back: ${told}`);
  assert.ok(result.expected >= expected, `too few events: ${told}`);
  assertExact(result);
  for (const exit of result.exits ?? []) assert.deepEqual(exit, { code: 0, signal: null });
}

describe("nothing is lost, twice or out of order", { concurrency: false }, () => {
  test("listeners cut every 0.4 s come back on the other server", LIMIT, async () => {
    const load = { seconds: 8, perSecond: 200 };
    exact(await cut("ours", "other", load), { returns: 12, expected: 28_000 });
  });
  test("servers are told to stop in turn, sticky clients of all transports", LIMIT, async () => {
    exact(await rollout("ours", { how: "SIGTERM", clients: 100 }), { returns: 100, expected: 4000 });
  });
  test("servers are killed in turn, no stickiness", LIMIT, async () => {
    const result = await rollout("ours", { how: "SIGKILL", clients: 100, sticky: false });
    exact(result, { returns: 100, expected: 4000 });
  });
  test("servers are frozen in turn, and thaw when their clients are elsewhere", LIMIT, async () => {
    exact(await rollout("ours", { how: "SIGSTOP", clients: 50 }), { returns: 50, expected: 2000 });
  });
  test("Redis is restarted with its data while servers are told to stop", LIMIT, async () => {
    exact(await rollout("ours", { how: "redis", clients: 50 }), { returns: 50, expected: 2000 });
  });
});
