// Starts the two servers that a test compares, on free ports, and ends them in order.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";

const path = (relative) => fileURLToPath(new URL(relative, import.meta.url));

/** An example of ours: the release build that `make test` makes, or what the environment names. */
function example(name) {
  const named = process.env[`QUICKET_${name.toUpperCase()}`];
  return named ?? path(`../../../target/release/examples/${name}`);
}

// any port, this machine only, pages from everywhere: the same for both
const COMMON = ["--listen-address", "127.0.0.1", "--allowed-origins", "*"];

/** The server under test. It offers the transports of Node's server unless the flags say otherwise. */
export const startOurs = (flags = []) => {
  const transports = flags.includes("--transports") ? [] : ["--transports", "polling,websocket"];
  return start("ours", example("interop"), [...COMMON, ...transports, ...flags]);
};

/** Node's server with the same application. */
export const startTwin = (flags = []) =>
  start("node", process.execPath, [path("node-twin.mjs"), ...COMMON, ...flags]);

/** Another example of ours. */
export const startExample = (name) => start(name, example(name), []);

async function start(kind, command, args) {
  const child = spawn(command, args, {
    env: { ...process.env, PORT: "0" },
    stdio: ["ignore", "pipe", "inherit"],
  });
  const lines = [];
  const exited = once(child, "exit");
  const output = createInterface({ input: child.stdout });
  const closed = once(output, "close");
  const address = await new Promise((resolve, reject) => {
    child.once("error", reject);
    child.once("exit", (code) => reject(new Error(`${command} ended with ${code} before it listened`)));
    output.on("line", (line) => {
      lines.push(line);
      const found = /^listening on (.*)$/.exec(line);
      if (found) resolve(found[1]);
    });
  });
  const port = Number(address.slice(address.lastIndexOf(":") + 1));
  return {
    kind,
    port,
    url: `http://127.0.0.1:${port}`,
    /** Asks it to stop, and expects a clean end. Gives the log that it leaves behind. */
    async stop() {
      child.kill("SIGTERM");
      const [code, signal] = await exited;
      await closed;
      assert.deepEqual({ code, signal }, { code: 0, signal: null }, `${kind} did not end cleanly`);
      const log = lines.find((line) => line.startsWith("log "));
      return log === undefined ? {} : JSON.parse(log.slice("log ".length));
    },
    /** Ends it as a power cut would. */
    async kill() {
      child.kill("SIGKILL");
      await exited;
    },
  };
}
