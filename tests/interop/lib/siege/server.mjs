// The release binary under siege, and what the kernel and its own metrics say of it.
import { execFileSync, spawn } from "node:child_process";
import { createHash, X509Certificate } from "node:crypto";
import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { createInterface } from "node:readline";
import { once } from "node:events";
import { createServer } from "node:net";

/** Series of what the server refuses, and whom it lets go. */
const MET =
  /^quicket_((?:limits_hit|peer_misbehaved|outbox_overflows|upgrades|sessions_closed|connections_refused)_total\S*) (\d+)$/gm;

/** Starts it on a free port; `tls` with a certificate that openssl makes. */
export async function startServer(binary, { flags = [], tls = false }) {
  const folder = mkdtempSync(`${tmpdir()}/quicket-siege-`);
  const { flags: certificate, hashes } = tls ? makeCertificate(folder) : { flags: [] };
  const admin = await freePort();
  // IPv4 alone: the attackers have addresses of 127.0.0.0/8
  const args = ["--listen-address", "0.0.0.0", "--port", String(await freePort()), "--admin-port", String(admin)];
  const env = { PATH: process.env.PATH };
  const child = spawn(binary, [...args, ...certificate, ...flags], { env, stdio: ["ignore", "inherit", "pipe"] });
  const exited = once(child, "exit");
  const log = [];
  const port = await new Promise((resolve, reject) => {
    child.once("error", reject);
    child.once("exit", (code) => reject(new Error(`the server ended with ${code}:\n${log.join("\n")}`)));
    createInterface({ input: child.stderr }).on("line", (line) => {
      log.push(line);
      if (log.length > 200) log.shift();
      const found = /https?:\/\/localhost:(\d+)/.exec(line);
      if (found) resolve(Number(found[1]));
    });
  });
  return {
    pid: child.pid,
    port,
    url: `${tls ? "https" : "http"}://127.0.0.1:${port}`,
    log,
    /** Of its certificate, if that comes from files: then the server says nothing of it. */
    hashes,
    /** Resident bytes and open descriptors by the kernel, CPU seconds used. */
    usage() {
      const status = readFileSync(`/proc/${child.pid}/status`, "utf8");
      const stat = readFileSync(`/proc/${child.pid}/stat`, "utf8");
      const fields = stat.slice(stat.lastIndexOf(")")).split(" ");
      return {
        resident: Number(/VmRSS:\s+(\d+)/.exec(status)[1]) * 1024,
        descriptors: readdirSync(`/proc/${child.pid}/fd`).length,
        cpu: (Number(fields[12]) + Number(fields[13])) / 100,
      };
    },
    /** The sum of each series of these names. */
    async metrics(...names) {
      const text = await (await fetch(`http://127.0.0.1:${admin}/metrics`, { signal: AbortSignal.timeout(10_000) })).text();
      const sum = (name) => {
        const lines = text.split("\n").filter((line) => line.startsWith(`${name}{`) || line.startsWith(`${name} `));
        return lines.reduce((all, line) => all + Number(line.slice(line.lastIndexOf(" ") + 1)), 0);
      };
      return Object.fromEntries(names.map((name) => [name, sum(name)]));
    },
    /** What clients met and did wrong, of each kind how often; what `before` has is left out. */
    async met(before = {}) {
      const text = await (await fetch(`http://127.0.0.1:${admin}/metrics`, { signal: AbortSignal.timeout(10_000) })).text();
      const met = {};
      for (const [, series, count] of text.matchAll(MET)) {
        const more = Number(count) - (before[series] ?? 0);
        if (more > 0) met[series] = more;
      }
      return met;
    },
    async stop() {
      child.kill("SIGTERM");
      const timer = setTimeout(() => child.kill("SIGKILL"), 20_000);
      const [code, signal] = await exited;
      clearTimeout(timer);
      rmSync(folder, { recursive: true });
      return { code, signal };
    },
  };
}

function makeCertificate(folder) {
  const [key, cert] = [`${folder}/key.pem`, `${folder}/cert.pem`];
  const what = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"];
  execFileSync("openssl", [...what, "-keyout", key, "-out", cert, "-subj", "/CN=localhost"], { stdio: "ignore" });
  const hash = createHash("sha256").update(new X509Certificate(readFileSync(cert)).raw);
  return { flags: ["--tls-cert", cert, "--tls-key", key], hashes: [hash.digest("base64")] };
}

/** Below those that the system gives to connections: thousands of these have just ended and block theirs. */
async function freePort() {
  for (;;) {
    const port = 10_000 + Math.floor(Math.random() * 20_000);
    const server = createServer().listen(port, "0.0.0.0");
    // `once` rejects with the error that there may be
    const free = await once(server, "listening").then(
      () => true,
      () => false,
    );
    server.close();
    if (free) return port;
  }
}
