/** The whiteboard: the board, the colours and the connection, tied together. */
import { Board, type Line } from "./board.js";
import { connect } from "./connect.js";
import { COLORS, ink, label, onPaperChange } from "./palette.js";

/** What is drawn without a connection is kept for later, up to this many lines. */
const MAX_UNSENT = 2_000;

const TRANSPORT_NAMES: Readonly<Record<string, string>> = {
  webtransport: "WebTransport",
  websocket: "WebSocket",
  polling: "HTTP long-polling",
};

type State = "connecting" | "connected" | "disconnected";

function element<T extends HTMLElement>(id: string): T {
  return document.getElementById(id) as T;
}

const socket = connect(new URLSearchParams(location.search).get("transport"));

const board = new Board(element<HTMLCanvasElement>("board"), COLORS[0], (line) => {
  const keep = socket.connected || socket.sendBuffer.length < MAX_UNSENT;
  (keep ? socket : socket.volatile).emit("drawing", line);
});

/** What a peer sent is drawn only if it is a line. */
function isLine(value: unknown): value is Line {
  const line = value as Line | null;
  return (
    typeof line === "object" &&
    line !== null &&
    [line.x0, line.y0, line.x1, line.y1].every(Number.isFinite) &&
    typeof line.color === "string" &&
    CSS.supports("color", line.color)
  );
}

socket.on("drawing", (line: unknown) => {
  if (isLine(line)) board.add(line);
});

function buildColors(): void {
  for (const color of COLORS) {
    const input = document.createElement("input");
    input.type = "radio";
    input.name = "color";
    input.value = color;
    input.defaultChecked = color === board.color;
    const paint = () => {
      input.style.setProperty("--ink", ink(color));
      input.title = label(color);
      input.setAttribute("aria-label", label(color));
    };
    paint();
    onPaperChange(paint);
    input.addEventListener("change", () => {
      board.color = color;
      // Without a connection it is sent below, once there is one.
      if (socket.connected) socket.emit("colorUpdate", { color });
    });
    element("colors").append(input);
  }
}

/** Shown to people, and left in data attributes for the styles and the tests. */
function show(state: State, text: string): void {
  const { dataset } = document.documentElement;
  dataset.state = state;
  if (state === "connected") {
    dataset.transport = socket.io.engine.transport.name;
  } else {
    delete dataset.transport;
  }
  element("status").textContent = text;
}

function showConnected(): void {
  const { name } = socket.io.engine.transport;
  show("connected", TRANSPORT_NAMES[name] ?? name);
}

function followConnection(): void {
  show("connecting", "Connecting…");
  socket.on("connect", () => {
    showConnected();
    // A new session on the server knows nothing of the colour; a recovered one does.
    if (!socket.recovered && board.color !== COLORS[0]) {
      socket.emit("colorUpdate", { color: board.color });
    }
  });
  socket.io.on("open", () => socket.io.engine.on("upgrade", showConnected));
  socket.io.on("reconnect_attempt", () => show("connecting", "Reconnecting…"));
  socket.on("disconnect", () => {
    // When the server ended it on purpose, the client does not try again.
    const text = socket.active ? "Connection lost, reconnecting…" : "Disconnected by the server";
    show("disconnected", text);
  });
  socket.on("connect_error", (error) => {
    show("disconnected", socket.active ? "No connection, retrying…" : `Refused: ${error.message}`);
  });
}

buildColors();
element("clear").addEventListener("click", () => board.clear());
followConnection();
