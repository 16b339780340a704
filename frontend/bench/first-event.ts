/**
 * The page of `make fallback`: connects as it is told to, and notes when the first event arrived, over
 * which transport, and what came after that. Times are ms since the page's navigation began.
 */
import { io, type ManagerOptions, type Socket, type SocketOptions } from "socket.io-client";
import { connect, type Offer } from "../src/connect.js";

interface Arrival {
  at: number;
  /** The same on the clock of the wall. */
  date: number;
  transport: string;
  recovered: boolean;
}

declare global {
  interface Window {
    /** What the harness puts there: the server's offer, which costs the official client nothing. */
    offer: Offer;
    result: { arrivals: Arrival[]; numbers: number[]; upgraded?: { at: number; to: string } };
  }
}

const query = new URLSearchParams(location.search);
const auth = { board: query.get("board") };

function official(options: Partial<ManagerOptions & SocketOptions>): Socket {
  const { port, certificateHashes = [] } = window.offer;
  const serverCertificateHashes = certificateHashes.map((hash) => ({
    algorithm: "sha-256",
    value: Uint8Array.from(atob(hash), (char) => char.charCodeAt(0)),
  }));
  const transportOptions = { webtransport: { port, secure: true, serverCertificateHashes } };
  return io({ auth, transportOptions, ...options });
}

const clients: Record<string, () => Socket> = {
  // With the whiteboard's own back-off.
  raced: () =>
    connect(undefined, { auth, reconnectionDelay: 250, reconnectionDelayMax: 1_000, timeout: 10_000 }),
  official: () => official({}),
  ordered: () =>
    official({ transports: ["webtransport", "websocket", "polling"], tryAllTransports: true }),
};

const socket = clients[query.get("client") ?? ""]?.();
if (!socket) throw new Error("no such client");
window.result = { arrivals: [], numbers: [] };
const { arrivals, numbers } = window.result;
let isNew = true;
socket.on("disconnect", () => (isNew = true));
socket.onAny((event: string, data: { i?: number; p?: number[]; strokes?: { p: number[] }[] }) => {
  if (isNew) {
    const transport = socket.io.engine.transport.name;
    const recovered = socket.recovered === true;
    arrivals.push({ at: performance.now(), date: Date.now(), transport, recovered });
    isNew = false;
  }
  // What a publisher counts arrives as points of a stroke, or in the picture after a new connection.
  if (event === "draw") numbers.push(...(data.p ?? []).filter((_, at) => at % 2 === 0));
  if (event === "board") for (const { p } of data.strokes ?? []) numbers.push(...p.filter((_, at) => at % 2 === 0));
});
socket.io.on("open", () => {
  socket.io.engine.on("upgrade", ({ name }: { name: string }) => {
    window.result.upgraded = { at: performance.now(), to: name };
  });
});
