// The real server, as a process of its own.
import { spawn } from "node:child_process";
import { createSocket } from "node:dgram";
import { once } from "node:events";
import { existsSync } from "node:fs";
import { createServer } from "node:net";
import { fileURLToPath } from "node:url";

const BINARY =
  process.env.QUICKET_BIN ??
  fileURLToPath(new URL("../../../target/release/quicket", import.meta.url));
const READY_DEADLINE = 20_000;
/** Longer than the server's own drain. */
const EXIT_DEADLINE = 60_000;

/** A port that is free on TCP and on UDP at this moment. */
export async function freePort() {
  for (;;) {
    const tcp = createServer().listen(0);
    await once(tcp, "listening");
    const { port } = tcp.address();
    const udp = createSocket("udp6").bind(port);
    const free = await once(udp, "listening").then(
      () => true,
      () => false,
    );
    if (free) udp.close();
    tcp.close();
    await once(tcp, "close");
    if (free) return port;
  }
}

/**
 * Starts the server and waits until it is ready. `stop()` asks for a clean exit and checks it, `kill()` asks
 * for nothing. `settings` are environment variables; only they make a cluster of it.
 */
export async function startServer(port, settings = {}) {
  if (!existsSync(BINARY)) {
    throw new Error(`${BINARY} is missing: cargo build --release, or set QUICKET_BIN`);
  }
  port ??= await freePort();
  const env = { ...process.env, PORT: String(port) };
  delete env.REDIS_URL;
  Object.assign(env, settings);
  const child = spawn(BINARY, [], { env, stdio: ["ignore", "pipe", "pipe"] });
  let log = "";
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding("utf8").on("data", (text) => {
      log = (log + text).slice(-20_000);
    });
  }
  const exited = new Promise((resolve, reject) => {
    child.once("error", reject);
    child.once("exit", (code, signal) => resolve(signal ?? code));
  });
  exited.catch(() => {});

  const stop = async () => {
    child.kill("SIGTERM");
    const status = await withDeadline(exited, EXIT_DEADLINE, "no exit after SIGTERM").catch(
      (error) => {
        child.kill("SIGKILL");
        throw new Error(`${error.message}\n${log}`);
      },
    );
    if (status !== 0) throw new Error(`the server ended with ${status}\n${log}`);
  };

  const url = `http://localhost:${port}`;
  try {
    await withDeadline(
      Promise.race([
        ready(url, child),
        exited.then((status) => {
          throw new Error(`the server ended with ${status} before it was ready`);
        }),
      ]),
      READY_DEADLINE,
      "the server is not ready",
    );
  } catch (error) {
    child.kill("SIGKILL");
    throw new Error(`${error.message}\n${log}`);
  }
  const kill = async () => {
    child.kill("SIGKILL");
    await exited;
  };
  return { port, url, stop, kill };
}

async function ready(url, child) {
  while (child.exitCode === null && child.signalCode === null) {
    const ok = await fetch(`${url}/readyz`).then(
      (response) => response.status === 200,
      () => false,
    );
    if (ok) return;
    // The only thing to await from a process that does not listen yet.
    await new Promise((resolve) => setTimeout(resolve, 25));
  }
}

export async function withDeadline(promise, milliseconds, what) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`${what} after ${milliseconds} ms`)), milliseconds);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}
