/** What the page says about its connection, and leaves in data attributes for styles and tests. */
import type { Socket } from "socket.io-client";
import type { Comeback } from "./connect/comeback.js";

/** Between two measurements of the round trip, in ms. */
const PING_INTERVAL = 5_000;
/** How long a notice stays, in ms. */
const NOTICE = 4_500;

const NAMES: Readonly<Record<string, string>> = {
  webtransport: "WebTransport",
  websocket: "WebSocket",
  polling: "Long-polling",
};

/** A transport's name for people. */
export function nameOf(transport: string): string {
  return NAMES[transport] ?? transport;
}

export function element<T extends HTMLElement>(id: string): T {
  return document.getElementById(id) as T;
}

let noticeTimer: ReturnType<typeof setTimeout> | undefined;

/** Says what has happened, for a moment. Screen readers read it out. */
export function notice(text: string): void {
  const box = element("notice");
  box.textContent = text;
  box.classList.add("shown");
  clearTimeout(noticeTimer);
  noticeTimer = setTimeout(() => box.classList.remove("shown"), NOTICE);
}

/** The strokes that wait are named as long as they wait. */
export function showUnsent(count: number): void {
  document.documentElement.dataset["unsent"] = String(count);
  const box = element("unsent");
  box.hidden = count === 0;
  box.textContent = count === 1 ? "1 stroke not sent yet" : `${count} strokes not sent yet`;
}

type State = "connecting" | "connected" | "disconnected";

function show(state: State, text: string): void {
  document.documentElement.dataset["state"] = state;
  element("status").textContent = text;
}

/** Follows a socket for good. */
export function followConnection(socket: Socket, comeback: Comeback): void {
  const { dataset } = document.documentElement;
  let last: { transport: string; lostAt: number } | undefined;
  let timer: ReturnType<typeof setInterval> | undefined;

  const transport = () => socket.io.engine.transport.name;
  const showTransport = () => {
    dataset["transport"] = transport();
    show("connected", nameOf(transport()));
  };
  const measure = () => {
    const start = performance.now();
    socket.timeout(PING_INTERVAL).emit("rtt", (error: unknown) => {
      if (error || !socket.connected) return;
      const elapsed = performance.now() - start;
      const text = elapsed < 10 ? elapsed.toFixed(1) : String(Math.round(elapsed));
      element("rtt").textContent = `${text} ms`;
    });
  };

  show("connecting", "Connecting…");
  socket.on("connect", () => {
    showTransport();
    dataset["recovered"] = String(socket.recovered === true);
    if (last) {
      const seconds = ((performance.now() - last.lostAt) / 1_000).toFixed(1);
      const what = socket.recovered ? "Recovered, nothing missed" : "Connected again";
      const over = transport() === last.transport ? "" : `, now over ${nameOf(transport())}`;
      notice(`${what}, after ${seconds} s${over}`);
    }
    clearInterval(timer);
    timer = setInterval(measure, PING_INTERVAL);
    measure();
  });
  socket.io.on("open", () => {
    socket.io.engine.on("upgrade", ({ name }: { name: string }) => {
      showTransport();
      notice(`Switched to ${nameOf(name)}`);
    });
  });
  socket.on("disconnect", () => {
    clearInterval(timer);
    const { pause } = comeback;
    // Who was sent away is connected before it is sent away again: that is no news.
    const isNews = pause === undefined;
    last = isNews ? { transport: dataset["transport"] ?? "", lostAt: performance.now() } : undefined;
    delete dataset["transport"];
    element("rtt").textContent = "";
    element("people").textContent = "";
    if (socket.active) show("connecting", "Reconnecting…");
    else if (pause === undefined) show("disconnected", "Closed");
    else show("disconnected", `Sent away, retrying in ${Math.round(pause / 1_000)} s`);
  });
  socket.on("connect_error", (error) => {
    if (socket.active) show("disconnected", last ? "No connection, retrying…" : "Retrying…");
    else show("disconnected", `Refused: ${error.message}`);
  });
  socket.on("people", (count: unknown) => {
    dataset["people"] = String(count);
    element("people").textContent = count === 1 ? "only you" : `${count} here`;
  });
}

/** After sleep, or back on a network, nobody wants to wait for the next try. */
export function hurryWhenBack(socket: Socket, comeback: Comeback): void {
  const hurry = () => {
    if (document.visibilityState !== "visible" || comeback.hurry()) return;
    // Only between two attempts; one that is under way is left alone.
    const isWaiting = socket.active && socket.io.engine?.readyState === "closed";
    if (isWaiting) socket.disconnect().connect();
  };
  addEventListener("online", hurry);
  document.addEventListener("visibilitychange", hurry);
}
