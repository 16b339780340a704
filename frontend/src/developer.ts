/** The connection's life for those who want to see it: what was tried, what came of it, how much flows. */
import type { Socket } from "socket.io-client";
import type { RaceEvent } from "./connect.js";
import { element, nameOf } from "./status.js";

const LINES = 300;
/** Seconds of the graph. */
const SECONDS = 60;
const OPEN_KEY = "whiteboard.developer";

type Kind = "plain" | "good" | "bad" | "start";

export class Developer {
  readonly #panel = element("developer");
  readonly #log = element<HTMLOListElement>("log");
  readonly #rates: { received: number; sent: number }[] = [];
  #received = 0;
  #sent = 0;

  /** What the race says, from the very first one on. */
  watch(event: RaceEvent): void {
    const name = "transport" in event ? nameOf(event.transport) : "";
    switch (event.type) {
      case "race":
        return this.#say(`Connecting: ${event.order.map(nameOf).join(", ")}`, "start");
      case "start":
        return this.#say(`${name} started`, "plain", event.at);
      case "dial":
        return this.#say(`${name}: offer received, dialling`, "plain", event.at);
      case "ready":
        return this.#say(`${name}: session accepted`, "plain", event.at);
      case "fail":
        return this.#say(`${name} failed: ${event.reason}`, "bad", event.at);
      case "win":
        return this.#say(`${name} connected`, "good", event.at);
      case "lose":
        return this.#say(`${name} was slower, closed`, "plain", event.at);
      case "learn":
        return this.#say(
          event.works ? `${name} works here too, first next time` : `${name} does not work here`,
          event.works ? "good" : "bad",
          event.at,
        );
    }
  }

  /** Follows a socket for good. */
  follow(socket: Socket): void {
    socket.on("connect", () => {
      this.#fact("session", socket.id ?? "");
      this.#fact("recovered", socket.recovered ? "yes" : "no");
      this.#fact("carrier", nameOf(socket.io.engine.transport.name));
      this.#say(socket.recovered ? "Recovered" : "New session", "good");
    });
    socket.on("disconnect", (reason, details) => {
      const description = details && "description" in details ? String(details.description) : "";
      const isTold = description !== "" && description !== reason;
      this.#say(`Disconnected: ${reason}${isTold ? ` (${description})` : ""}`, "bad");
    });
    socket.on("connect_error", (error) => this.#say(`No connection: ${error.message}`, "bad"));
    socket.io.on("reconnect_attempt", (attempt) => this.#say(`Attempt ${attempt}`));
    socket.io.on("ping", () => this.#say("Ping of the server answered"));
    socket.io.on("open", () => {
      const { engine } = socket.io;
      engine.on("upgrade", ({ name }: { name: string }) => {
        this.#say(`Upgraded to ${nameOf(name)}`, "good");
        this.#fact("carrier", nameOf(name));
      });
      engine.on("upgradeError", (error: Error) => this.#say(`No upgrade: ${error.message}`, "bad"));
    });
    socket.onAny(() => (this.#received += 1));
    socket.onAnyOutgoing(() => (this.#sent += 1));
    setInterval(() => this.#tick(), 1_000);
    element("drop").addEventListener("click", () => socket.io.engine?.close());
    this.#chooseTransport();
    this.#followToggle();
  }

  #followToggle(): void {
    const button = element("developer-toggle");
    const show = (isOpen: boolean) => {
      this.#panel.hidden = !isOpen;
      button.setAttribute("aria-expanded", String(isOpen));
      if (isOpen) this.#log.scrollTop = this.#log.scrollHeight;
      try {
        localStorage.setItem(OPEN_KEY, String(isOpen));
      } catch {
        // Then it is closed next time.
      }
    };
    button.addEventListener("click", () => show(this.#panel.hidden !== false));
    this.#panel.addEventListener("keydown", (event) => {
      if (event.key !== "Escape") return;
      show(false);
      button.focus();
    });
    try {
      show(localStorage.getItem(OPEN_KEY) === "true");
    } catch {
      show(false);
    }
  }

  /** Another transport is a matter of the address, so that it can be shared and reloaded. */
  #chooseTransport(): void {
    const select = element<HTMLSelectElement>("force");
    const query = new URLSearchParams(location.search);
    select.value = query.get("transport") ?? "";
    select.addEventListener("change", () => {
      if (select.value) query.set("transport", select.value);
      else query.delete("transport");
      location.search = query.toString();
    });
  }

  #fact(id: string, text: string): void {
    element(id).textContent = text;
  }

  #say(text: string, kind: Kind = "plain", at?: number): void {
    const line = document.createElement("li");
    line.className = kind;
    const time = document.createElement("time");
    time.textContent = at === undefined ? new Date().toTimeString().slice(0, 8) : `+${at} ms`;
    line.append(time, text);
    const isAtEnd = this.#log.scrollHeight - this.#log.scrollTop - this.#log.clientHeight < 40;
    this.#log.append(line);
    if (this.#log.childElementCount > LINES) this.#log.firstElementChild?.remove();
    if (isAtEnd) this.#log.scrollTop = this.#log.scrollHeight;
  }

  #tick(): void {
    this.#rates.push({ received: this.#received, sent: this.#sent });
    if (this.#rates.length > SECONDS) this.#rates.shift();
    this.#fact("rates", `${this.#received} in, ${this.#sent} out`);
    [this.#received, this.#sent] = [0, 0];
    if (!this.#panel.hidden) this.#draw();
  }

  #draw(): void {
    const most = Math.max(10, ...this.#rates.map(({ received, sent }) => Math.max(received, sent)));
    const line = (value: (rate: { received: number; sent: number }) => number) =>
      this.#rates
        .map((rate, at) => `${SECONDS - this.#rates.length + at},${30 - (28 * value(rate)) / most}`)
        .join(" ");
    element("graph-received").setAttribute("points", line(({ received }) => received));
    element("graph-sent").setAttribute("points", line(({ sent }) => sent));
  }
}
