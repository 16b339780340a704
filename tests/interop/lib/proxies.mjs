// Proxies that exist as packages, in front of three nodes, configured as the overlays in manifests/ would have it.
import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { connect, createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

const root = fileURLToPath(new URL("../../..", import.meta.url));
const COOKIE = "quicket-route";

export async function freePort() {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address();
  server.close();
  await once(server, "close");
  return port;
}

const accepts = (port) =>
  new Promise((resolve) => {
    const socket = connect(port, "127.0.0.1", () => {
      socket.destroy();
      resolve(true);
    });
    socket.once("error", () => resolve(false));
  });

/** Runs a proxy that takes its configuration from a file and listens on `port`. */
async function run(command, args, config, env = () => ({})) {
  const directory = await mkdtemp(join(tmpdir(), "quicket-proxy-"));
  const port = await freePort();
  const file = join(directory, "config");
  await writeFile(file, config(port, directory));
  const child = spawn(command, args(file, directory), { env: { ...process.env, ...env(port) }, stdio: "pipe" });
  let said = "";
  for (const stream of [child.stdout, child.stderr]) stream.on("data", (data) => (said += data));
  let ended;
  const exited = new Promise((resolve) => {
    child.once("error", (error) => resolve((ended = `${command}: ${error.message}`)));
    child.once("exit", (code) => resolve((ended = `${command} ended with ${code}: ${said}`)));
  });
  while (!(await accepts(port))) {
    if (ended) throw new Error(ended);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  return {
    url: `http://127.0.0.1:${port}`,
    async stop() {
      child.kill("SIGTERM");
      const late = setTimeout(() => child.kill("SIGKILL"), 2_000);
      await exited;
      clearTimeout(late);
      await rm(directory, { recursive: true, force: true });
    },
  };
}

const address = (node) => `127.0.0.1:${node.port}`;

const haproxy = (config, env) => run("haproxy", (file) => ["-W", "-db", "-f", file], config, env);

/** `backend` is what an overlay makes HAProxy Ingress write into the backend's section. */
const haproxyIngress = (nodes, backend, server) =>
  haproxy(
    (port) => `
global
    maxconn 1000
defaults
    mode http
    timeout connect 5s
    timeout client 50s
    timeout server 60s
    timeout tunnel 1h
frontend web
    bind 127.0.0.1:${port}
    default_backend quicket
backend quicket
    balance roundrobin
${backend.map((line) => `    ${line}`).join("\n")}
${nodes.map((node, at) => `    server srv00${at} ${address(node)} ${server(at)}`).join("\n")}
`,
  );

/** manifests/overlays/haproxy-ingress */
export const haproxyCookie = (nodes) =>
  haproxyIngress(nodes, [`cookie ${COOKIE} insert attr SameSite=Lax indirect nocache httponly`], (at) => `cookie uid-${at}`);

/** manifests/overlays/haproxy-ingress-sid, with the very lines that it gives the controller. */
export async function haproxyLearnsSid(nodes) {
  const overlay = await readFile(join(root, "manifests/overlays/haproxy-ingress-sid/kustomization.yaml"), "utf8");
  const lines = [...overlay.matchAll(/^ +(stick.*)$/gm)].map((found) => found[1]);
  if (lines.length !== 3) throw new Error("the overlay has other lines");
  return haproxyIngress(nodes, lines, () => "");
}

/** docker/haproxy.cfg as it stands. */
export async function haproxyOfCompose([one, two]) {
  const config = await readFile(join(root, "docker/haproxy.cfg"), "utf8");
  const env = (port) => ({
    PROXY_BIND: `127.0.0.1:${port}`,
    NODE_1: address(one),
    NODE_2: address(two),
    FRONTEND: address(one),
  });
  return haproxy(() => config, env);
}

/** `upstream`: how it is chosen. */
const nginx = (nodes, upstream, more = "") =>
  run(
    "/usr/sbin/nginx",
    (file, directory) => ["-c", file, "-p", directory, "-e", "stderr"],
    (port, directory) => `
daemon off;
pid ${directory}/pid;
error_log stderr warn;
events {}
http {
    access_log off;
    client_body_temp_path ${directory}/body;
    proxy_temp_path ${directory}/proxy;
    fastcgi_temp_path ${directory}/fastcgi;
    uwsgi_temp_path ${directory}/uwsgi;
    scgi_temp_path ${directory}/scgi;
    map $http_upgrade $connection_upgrade { default upgrade; '' ''; }
    upstream quicket {
        ${upstream};
${nodes.map((node) => `        server ${address(node)};`).join("\n")}
    }
    server {
        listen 127.0.0.1:${port};
        ${more}
        location / {
            proxy_pass http://quicket;
            proxy_http_version 1.1;
            proxy_set_header Host $http_host;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection $connection_upgrade;
            proxy_read_timeout 3600s;
            proxy_send_timeout 3600s;
        }
    }
}
`,
  );

/** Debian's nginx has no `sticky cookie` (1.29.6 and newer); a hash of a cookie of its own routes as well. */
export const nginxCookie = (nodes) =>
  nginx(
    nodes,
    "hash $uid_got$uid_set consistent",
    `userid on; userid_name ${COOKIE}; userid_path /socket.io/; userid_expires 1h;`,
  );

/** For clients without cookies that add a key of their own to every address (`query: { route }`). */
export const nginxClientKey = (nodes) => nginx(nodes, "hash $arg_route consistent");

/** No stickiness at all: what the others are compared with. */
export const nginxRoundRobin = (nodes) => nginx(nodes, "zone quicket 64k");

/** As Istio, Contour and Envoy Gateway configure Envoy for their overlays: a ring hash of a cookie. */
export function envoyCookie(nodes) {
  const envoy = spawnSync(join(root, "scripts/python-tools"), { encoding: "utf8" });
  if (envoy.status !== 0) throw new Error(envoy.stderr);
  const endpoint = (node) => ({
    endpoint: { address: { socket_address: { address: "127.0.0.1", port_value: node.port } } },
  });
  const type = (name) => `type.googleapis.com/envoy.extensions.filters.${name}`;
  const config = (port) => ({
    static_resources: {
      listeners: [
        {
          address: { socket_address: { address: "127.0.0.1", port_value: port } },
          filter_chains: [
            {
              filters: [
                {
                  name: "http",
                  typed_config: {
                    "@type": type("network.http_connection_manager.v3.HttpConnectionManager"),
                    stat_prefix: "quicket",
                    upgrade_configs: [{ upgrade_type: "websocket" }],
                    stream_idle_timeout: "3600s",
                    route_config: {
                      virtual_hosts: [
                        {
                          name: "quicket",
                          domains: ["*"],
                          routes: [
                            {
                              match: { prefix: "/" },
                              route: {
                                cluster: "quicket",
                                timeout: "0s",
                                hash_policy: [{ cookie: { name: COOKIE, path: "/socket.io/", ttl: "0s" } }],
                              },
                            },
                          ],
                        },
                      ],
                    },
                    http_filters: [
                      { name: "router", typed_config: { "@type": type("http.router.v3.Router") } },
                    ],
                  },
                },
              ],
            },
          ],
        },
      ],
      clusters: [
        {
          name: "quicket",
          type: "STATIC",
          lb_policy: "RING_HASH",
          load_assignment: { cluster_name: "quicket", endpoints: [{ lb_endpoints: nodes.map(endpoint) }] },
        },
      ],
    },
  });
  return run(
    join(envoy.stdout.trim(), "envoy"),
    (file) => ["-c", file, "--concurrency", "1", "--use-dynamic-base-id", "-l", "warn"],
    (port) => JSON.stringify(config(port)),
  );
}

/** docker/frontend.conf with another port, and the page where `make frontend` puts it. */
export async function frontend() {
  const config = await readFile(join(root, "docker/frontend.conf"), "utf8");
  return run(
    "/usr/sbin/nginx",
    (file, directory) => ["-c", file, "-p", directory, "-e", "stderr", "-g", "daemon off;"],
    (port, directory) =>
      config
        .replaceAll("/tmp/", `${directory}/`) // before the project's own path, which may be there
        .replace("listen 8080;", `listen 127.0.0.1:${port};`)
        .replace("/usr/share/nginx/html", join(root, "frontend/dist")),
  );
}
