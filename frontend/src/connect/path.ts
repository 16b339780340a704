/**
 * Where on its server Socket.IO is: the `path` of `/webtransport.json`, for servers that have it elsewhere
 * than the official client looks. The file is what the race asks for first anyway, so the answer is handed
 * on to it, and what it costs a page is the rest of a preload.
 */
import type { Socket } from "socket.io-client";
import { askEarly } from "./webtransport.js";

/** An answer that takes longer counts for the next connection, in ms. */
const PATIENCE = 300;

/** Connects a socket that was made with `autoConnect: false`, at the path that its server tells. */
export async function connectWhereTold(socket: Socket, source: URL): Promise<void> {
  const told = pathOf(source).then((path) => {
    // The manager reads it for every connection.
    if (path !== undefined) socket.io.opts.path = path;
  });
  let timer: ReturnType<typeof setTimeout> | undefined;
  const patience = new Promise<void>((resolve) => (timer = setTimeout(resolve, PATIENCE)));
  await Promise.race([told, patience]);
  clearTimeout(timer);
  socket.connect();
}

/** Nothing if the server does not tell, or cannot be asked: then it is where it usually is. */
async function pathOf(source: URL): Promise<string | undefined> {
  try {
    const response = await askEarly(source);
    // Whatever its status: a server without WebTransport has a path as well.
    const { path } = (await response.json()) as { path?: unknown };
    const isPath = typeof path === "string" && /^\/[^?#]*$/.test(path);
    return isPath ? path : undefined;
  } catch {
    return undefined;
  }
}
