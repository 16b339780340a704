/**
 * Several transports raced as one Engine.IO transport.
 *
 * They start one after the other: the next one when the last started has failed or has used up its head
 * start. The first to get a packet of the server wins. From then on this transport *is* the winner: its
 * name, its packets, its errors. Before that nothing leaves the race, so that:
 *
 * - Engine.IO opens once, hence one Socket.IO CONNECT, with one call of an `auth` function, and
 *   recovery's pid and offset go where the winner goes;
 * - losers lose their listeners before anything else happens, then are closed: no event of theirs can
 *   arrive. At most the server sees a transport that ends before it connected to any namespace;
 * - there is one error, when all have failed: the manager's back-off and `connect_error` are the official
 *   client's.
 */
import { type SocketOptions, Transport, type TransportError } from "engine.io-client";
import type { Packet } from "engine.io-parser";
import type { Memory } from "./memory.js";
import type { OfferedWebTransport, Step } from "./webtransport.js";

export type TransportName = "webtransport" | "websocket" | "polling";

/** What happens in a race, for those who want to watch. Times are ms since the race began. */
export type RaceEvent =
  /** The race begins; `order` may have been changed by what is remembered of the network. */
  | { type: "race"; order: TransportName[] }
  | { type: "start"; transport: TransportName; at: number }
  /** WebTransport: the offer is here, and the session dialled; or the session is accepted. */
  | { type: Step; transport: TransportName; at: number }
  | { type: "fail"; transport: TransportName; at: number; reason: string }
  | { type: "win"; transport: TransportName; at: number }
  /** It was slower than the winner, and is closed. */
  | { type: "lose"; transport: TransportName; at: number }
  /** A loser was watched a little longer: would it have worked? Remembered for the next race. */
  | { type: "learn"; transport: TransportName; at: number; works: boolean };

export interface RaceConfig {
  /** What may be tried, in this order if nothing is remembered. */
  order: TransportName[];
  create: Record<TransportName, (options: SocketOptions) => Transport>;
  /** How long each transport may take before the next one starts, in ms. */
  headStart: Record<TransportName, number>;
  memory: (options: SocketOptions) => Memory;
  watch: ((event: RaceEvent) => void) | undefined;
}

/** A slow network gets at most this many times the head start. */
const STRETCH = 3;
/** Round trips from dialling WebTransport to its first packet, with one to spare. */
const ROUND_TRIPS = 4;

interface Runner {
  name: TransportName;
  transport: Transport & Partial<Pick<OfferedWebTransport, "abandon" | "hurry" | "isTelling" | "onstall" | "onstep">>;
  /** Or when the server could be reached at last. */
  startedAt: number;
  error?: TransportError | undefined;
  /** It waits for the server to be reachable: as good as failed, unless another one waits too. */
  stall?: TransportError | undefined;
  /** It has waited so, and is still to have its head start. */
  isOwed?: boolean;
}

type Options = SocketOptions & { transportOptions?: Record<string, object> };

export class Race extends Transport {
  readonly #config: RaceConfig;
  readonly #memory: Memory;
  readonly #runners: Runner[] = [];
  #waiting: TransportName[] = [];
  #timer: ReturnType<typeof setTimeout> | undefined;
  /** Who would have won, had the server not been away when a better one asked for it. */
  #held: { runner: Runner; packet: Packet } | undefined;
  #begun = 0;
  // Not a #private: Engine.IO reads the name of the prototype, which has none of those.
  private winner?: Transport;

  constructor(options: SocketOptions, config: RaceConfig) {
    super(options);
    this.#config = config;
    this.#memory = config.memory(options);
  }

  /** The winner's name; "race" while there is none. */
  override get name(): string {
    return this.winner?.name ?? "race";
  }

  override pause(onPause: () => void): void {
    this.winner?.pause(onPause);
  }

  protected override doOpen(): void {
    this.#begun = performance.now();
    const { order } = this.#config;
    const failed = (name: TransportName) => this.#memory.recall(name)?.ok === false;
    // What failed here lately is still tried, but last.
    this.#waiting = [...order.filter((name) => !failed(name)), ...order.filter(failed)];
    this.#config.watch?.({ type: "race", order: [...this.#waiting] });
    this.#startNext();
  }

  protected override write(packets: Packet[]): void {
    this.writable = false;
    this.winner?.send(packets);
  }

  protected override doClose(): void {
    clearTimeout(this.#timer);
    this.#waiting = [];
    if (this.winner) {
      this.winner.close();
    } else {
      for (const runner of this.#runners) dismiss(runner.transport);
    }
  }

  #startNext(): void {
    clearTimeout(this.#timer);
    const name = this.#waiting.shift();
    if (name === undefined) return this.#lose();
    const options = this.opts as Options;
    const transport: Runner["transport"] = this.#config.create[name]({
      ...options,
      ...options.transportOptions?.[name],
      // Each has its own: Engine.IO and the transports write into it.
      query: { ...this.query, transport: name },
    } as SocketOptions);
    const runner: Runner = { name, transport, startedAt: performance.now() };
    this.#runners.push(runner);
    this.#tell({ type: "start", transport: name, at: this.#now() });
    transport.on("packet", (packet: Packet) => {
      if (this.winner) this.onPacket(packet);
      else this.#arrived(runner, packet);
    });
    transport.on("error", (error: TransportError) => this.#failed(runner, error));
    transport.on("close", (details) => {
      if (this.winner) return this.onClose(details);
      this.#failed(runner, new Error(details?.description ?? "closed") as TransportError);
    });
    transport.on("drain", () => {
      this.writable = transport.writable;
      this.emitReserved("drain");
    });
    transport.onstep = (step) => this.#advanced(runner, step);
    transport.onstall = (error) => this.#stalled(runner, error);
    this.#waitFor(this.#headStart(name));
    transport.open();
  }

  /** The first packet of a runner: it wins, unless a better one is owed its head start. */
  #arrived(runner: Runner, packet: Packet): void {
    // Engine.IO does this for the winner only. Who is held back meanwhile, or closed in the end, needs it too:
    // long-polling without it would poll, and close, a session that is not its own.
    adopt(runner.transport, packet);
    const owed = this.#runners.find((other) => other.isOwed && !other.error && other !== runner);
    if (!owed || this.#held) return this.#win(runner, packet);
    owed.isOwed = false;
    owed.startedAt = performance.now();
    this.#held = { runner, packet };
    this.#waitFor(this.#headStart(owed.name));
    owed.transport.hurry?.();
  }

  /** How long this one may be alone; more where it is known to work and to take longer. */
  #headStart(name: TransportName): number {
    const usual = this.#config.headStart[name];
    const note = this.#memory.recall(name);
    return note?.ok ? clamp(2 * note.ms, usual) : usual;
  }

  #waitFor(milliseconds: number): void {
    clearTimeout(this.#timer);
    const { runner, packet } = this.#held ?? {};
    if (runner && packet) {
      this.#timer = setTimeout(() => this.#win(runner, packet), milliseconds);
    } else if (this.#waiting.length > 0) {
      this.#timer = setTimeout(() => this.#startNext(), milliseconds);
    }
  }

  /** WebTransport gets on: the others wait a little longer, if none of them has started. */
  #advanced(runner: Runner, step: Step): void {
    if (this.winner || runner.error) return;
    runner.stall = undefined;
    this.#tell({ type: step, transport: runner.name, at: this.#now() });
    if (runner !== this.#runners.at(-1) && !this.#held) return;
    const usual = this.#headStart(runner.name);
    // The offer took about one round trip of this network.
    const roundTrip = performance.now() - runner.startedAt;
    this.#waitFor(step === "dial" ? clamp(ROUND_TRIPS * roundTrip, usual) : usual);
  }

  #failed(runner: Runner, error: TransportError): void {
    if (this.winner) {
      this.emitReserved("error", error);
      return;
    }
    if (runner.error || this.readyState !== "opening") return;
    runner.error = error;
    dismiss(runner.transport);
    this.#tell({ type: "fail", transport: runner.name, at: this.#now(), reason: explain(error) });
    this.#goOn(runner);
  }

  #stalled(runner: Runner, error: Error): void {
    if (this.winner || runner.error || this.readyState !== "opening") return;
    const reason = `cannot ask the server: ${error.message}`;
    if (!runner.stall) {
      this.#tell({ type: "fail", transport: runner.name, at: this.#now(), reason });
      runner.isOwed = true;
      runner.stall = new Error(reason) as TransportError;
      this.#goOn(runner);
    }
  }

  #goOn(runner: Runner): void {
    const { runner: held, packet } = this.#held ?? {};
    // There is nothing to hold it back for any more; or it is lost itself.
    if (held === runner) this.#held = undefined;
    else if (held && packet) return this.#win(held, packet);
    const isNewest = runner === this.#runners.at(-1);
    if (isNewest || this.#runners.every(isOut)) this.#startNext();
  }

  /** Nothing is left to start; when nothing is left to wait for either, the race has no winner. */
  #lose(): void {
    if (!this.#runners.every(isOut)) return;
    const last = this.#runners.at(-1);
    const error = last?.error ?? last?.stall ?? (new Error("no transport") as TransportError);
    // Engine.IO listens only when `open()` has returned. What was learned counts for nothing: it may
    // be the server that is down.
    queueMicrotask(() => {
      if (this.readyState === "opening") this.emitReserved("error", error);
    });
  }

  #win(runner: Runner, packet: Packet): void {
    clearTimeout(this.#timer);
    this.#waiting = [];
    this.winner = runner.transport;
    for (const other of this.#runners) if (other !== runner) this.#settle(other, runner);
    this.#memory.note(runner.name, true, performance.now() - runner.startedAt);
    if (runner.name === "polling") this.#followUpgrade();
    this.#tell({ type: "win", transport: runner.name, at: this.#now() });
    // Engine.IO writes the session's id into its transport's query, where the winner looks for it.
    this.query = runner.transport.query;
    this.onOpen();
    this.onPacket(packet);
  }

  /** Ends a loser, and writes down what it showed about the network. */
  #settle({ name, transport, startedAt, error }: Runner, winner: Runner): void {
    const took = performance.now() - startedAt;
    if (error) {
      if (transport.isTelling !== false) this.#memory.note(name, false, took);
      return;
    }
    this.#tell({ type: "lose", transport: name, at: this.#now() });
    transport.removeAllListeners();
    if (transport.abandon) {
      transport.abandon((works) => {
        this.#memory.note(name, works, performance.now() - startedAt);
        this.#tell({ type: "learn", transport: name, at: this.#now(), works });
      });
      return;
    }
    dismiss(transport);
    // Polling upgrades to it if it works after all, see below.
    if (winner.name === "polling") this.#memory.note(name, false, took);
  }

  #followUpgrade(): void {
    const since = performance.now();
    this.socket.once("upgrade", ({ name }) => {
      if (name === "websocket") this.#memory.note(name, true, performance.now() - since);
    });
  }

  #now(): number {
    return Math.round(performance.now() - this.#begun);
  }

  #tell(event: RaceEvent): void {
    this.#config.watch?.(event);
  }
}

function isOut({ error, stall }: Runner): boolean {
  return error !== undefined || stall !== undefined;
}

/** Writes the session's id where a transport looks for it. */
function adopt(transport: Transport, { type, data }: Packet): void {
  if (type !== "open") return;
  try {
    transport.query["sid"] = (JSON.parse(data as string) as { sid: string }).sid;
  } catch {
    // No server of ours says that; whoever reads it next says what is wrong.
  }
}

/** Closes a transport without hearing of it again. */
function dismiss(transport: Transport): void {
  transport.removeAllListeners();
  const opening = "opening";
  if (transport.name === "polling" && transport["readyState"] === opening) {
    // The request is under way. Closed now, the session that the server makes of it would stay there
    // until its ping timeout; so the answer is awaited, and the session that it names is closed.
    transport.once("packet", (packet: Packet) => {
      adopt(transport, packet);
      transport.close();
    });
    return;
  }
  transport.close();
}

function clamp(value: number, least: number): number {
  return Math.min(Math.max(value, least), STRETCH * least);
}

/** A line for people: the transport's error with its cause. */
function explain(error: TransportError): string {
  const { message, description } = error;
  const cause: unknown = description;
  if (cause instanceof Error && cause.message) return `${message}: ${cause.message}`;
  return typeof cause === "number" ? `${message}: HTTP ${cause}` : message;
}
