// A network that is not kind to us: a TCP-only reverse proxy in front of the server.
import { createSocket } from "node:dgram";
import { once } from "node:events";
import { createServer, request } from "node:http";
import { connect } from "node:net";
import { freePort } from "./server.mjs";

/**
 * Proxies HTTP to `upstream` (a port) from a port of its own, which `/webtransport.json` then names.
 *
 * - `udp: "dropped"` swallows QUIC like a firewall does (no answer at all); `"refused"` leaves
 *   nobody on the port, so that the kernel answers with "port unreachable".
 * - `udp: "open"` leaves it out of the way: `/webtransport.json` goes on naming the server's own port. The
 *   page is of another origin then, so the server has to allow that.
 * - `upgrades: false` refuses WebSocket, like some corporate proxies.
 * - `files` (path to type and text) are answered by the proxy.
 *
 * `follow(port)` sends what comes from then on to another server.
 */
export async function startProxy(upstream, { udp = "dropped", upgrades = true, files = {} } = {}) {
  const port = await freePort();
  const sockets = new Set();
  const seen = { datagrams: 0, upgrades: 0 };

  const server = createServer((incoming, outgoing) => {
    const file = files[incoming.url.split("?")[0]];
    if (file) {
      outgoing.writeHead(200, { "content-type": file.type, "cache-control": "no-store" });
      outgoing.end(file.text);
      return;
    }
    const onward = request(
      { port: upstream, host: "localhost", method: incoming.method, path: incoming.url, headers: incoming.headers },
      (answer) => {
        if (incoming.url === "/webtransport.json" && udp !== "open") return renamePort(answer, outgoing, port);
        outgoing.writeHead(answer.statusCode, answer.headers);
        answer.pipe(outgoing);
      },
    );
    onward.on("error", () => outgoing.destroy());
    outgoing.on("close", () => onward.destroy());
    incoming.pipe(onward);
  });
  server.on("connection", (socket) => {
    sockets.add(socket);
    socket.on("close", () => sockets.delete(socket));
  });
  server.on("upgrade", (incoming, socket, head) => {
    seen.upgrades += 1;
    if (!upgrades) {
      socket.end("HTTP/1.1 403 Forbidden\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
      return;
    }
    const onward = connect(upstream, "localhost", () => {
      const lines = [`${incoming.method} ${incoming.url} HTTP/1.1`];
      for (let i = 0; i < incoming.rawHeaders.length; i += 2) {
        lines.push(`${incoming.rawHeaders[i]}: ${incoming.rawHeaders[i + 1]}`);
      }
      onward.write(`${lines.join("\r\n")}\r\n\r\n`);
      onward.write(head);
      onward.pipe(socket).pipe(onward);
    });
    for (const [one, other] of [[socket, onward], [onward, socket]]) {
      one.on("error", () => other.destroy());
      one.on("close", () => other.destroy());
    }
  });
  server.listen(port);
  await once(server, "listening");

  let hole;
  if (udp === "dropped") {
    hole = createSocket("udp6").bind(port);
    hole.on("message", () => {
      seen.datagrams += 1;
    });
    await once(hole, "listening");
  }

  const stop = async () => {
    hole?.close();
    for (const socket of sockets) socket.destroy();
    server.close();
    await once(server, "close");
  };
  const follow = (port) => {
    upstream = port;
  };
  return { port, url: `http://localhost:${port}`, seen, files, stop, follow };
}

async function renamePort(answer, outgoing, port) {
  let text = "";
  for await (const piece of answer.setEncoding("utf8")) text += piece;
  if (answer.statusCode === 200) text = JSON.stringify({ ...JSON.parse(text), port });
  outgoing.writeHead(answer.statusCode, { "content-type": "application/json" });
  outgoing.end(text);
}
