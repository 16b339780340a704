// A Redis of one test.
import { execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { freePort, withDeadline } from "./server.mjs";

/** Starts a Redis that keeps nothing, on a free port. */
export async function startRedis() {
  const port = await freePort();
  const folder = await mkdtemp(join(tmpdir(), "quicket-redis-"));
  const options = ["--port", String(port), "--bind", "127.0.0.1", "--save", "", "--dir", folder];
  const child = spawn("redis-server", options, { stdio: "ignore" });
  const exited = once(child, "exit");
  await withDeadline(reachable(port), 10_000, "Redis is not reachable");
  const stop = async () => {
    child.kill();
    await exited;
    await rm(folder, { recursive: true });
  };
  /** Until the largest hash, which is a board's, has so many fields: its epoch and its strokes. */
  const untilFields = async (count) => {
    const run = promisify(execFile);
    const reached = async () => {
      while ((await run("redis-cli", ["-p", String(port), "EVAL", FIELDS, "0"])).stdout.trim() !== String(count)) {
        await new Promise((resolve) => setTimeout(resolve, 25));
      }
    };
    await withDeadline(reached(), 10_000, `Redis has no board of ${count} fields`);
  };
  return { url: `redis://127.0.0.1:${port}`, stop, untilFields };
}

const FIELDS = `local most = 0
for _, key in ipairs(redis.call("KEYS", "*")) do
  if redis.call("TYPE", key).ok == "hash" then most = math.max(most, redis.call("HLEN", key)) end
end
return most`;

async function reachable(port) {
  for (;;) {
    const socket = connect(port, "127.0.0.1");
    const ok = await Promise.race([
      once(socket, "connect").then(() => true),
      once(socket, "error").then(() => false),
    ]).catch(() => false);
    socket.destroy();
    if (ok) return;
    await new Promise((resolve) => setTimeout(resolve, 25));
  }
}
