// HAProxy from Debian before the nodes, with stickiness by a cookie or without.
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { accepts, freePort, Process } from "./parts.mjs";

const BINARY = "/usr/sbin/haproxy";

const configuration = ({ port, ports, sticky, cutDead }) => `
global
  maxconn 8000
defaults
  mode http
  timeout connect 1s
  timeout client 60s
  timeout server 60s
  timeout tunnel 1h
  timeout check 500ms
  retries 3
  option redispatch 1
frontend front
  bind 127.0.0.1:${port}
  default_backend nodes
backend nodes
  balance leastconn
  ${sticky ? "cookie NODE insert indirect nocache" : ""}
  # a node that takes nobody new still serves those that it has, and who begins anew goes elsewhere
  force-persist if { urlp(sid) -m found }
  option httpchk GET ${cutDead ? "/healthz" : "/acceptz"}
  default-server check inter 200ms fall 2 rise 1 ${cutDead ? "on-marked-down shutdown-sessions" : ""}
${ports.map((port, i) => `  server n${i} 127.0.0.1:${port} cookie n${i}`).join("\n")}
`;

export class Balancer {
  /** `cutDead`: closes the connections of a node that does not answer any more. */
  static async start(options) {
    const balancer = new Balancer();
    balancer.directory = await mkdtemp(join(tmpdir(), "quicket-haproxy-"));
    const port = await freePort();
    const file = join(balancer.directory, "haproxy.cfg");
    await writeFile(file, configuration({ port, ...options }));
    balancer.process = new Process(BINARY, ["-db", "-q", "-f", file], { stdio: ["ignore", "ignore", "inherit"] });
    await balancer.process.until(() => accepts(port));
    balancer.url = `http://127.0.0.1:${port}`;
    return balancer;
  }

  async stop() {
    await this.process.kill();
    await rm(this.directory, { recursive: true, force: true });
  }
}
