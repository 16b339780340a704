/**
 * Engine.IO over WebTransport: the official client's transport with what a first choice needs.
 *
 * - The server's *offer* is asked for anew at every attempt. A server without a certificate of a public
 *   CA makes short-lived ones and names their hashes; a restarted one makes others, so hashes from the
 *   page's load would fail each later reconnection.
 * - A *deadline*: where UDP is dropped, Chromium gives up after 10 s and Firefox after 30 s.
 * - Every failure is reported once, as the transport's error. (The official class leaves `ready` and
 *   failed writes as unhandled rejections, one for every user behind a firewall.)
 * - It can be *abandoned* before the server has a session of it, and then still tells whether UDP works.
 */
import { type SocketOptions, Transport } from "engine.io-client";
import { createPacketDecoderStream, createPacketEncoderStream, type Packet } from "engine.io-parser";

/** Where the server's QUIC endpoint is, and which certificates it may show. */
export interface Offer {
  /** Where UDP has an address of its own; the server's host if left out. */
  host?: string;
  /** UDP port; the TCP port if left out. */
  port?: number;
  /** SHA-256 of each acceptable certificate, in base64; none when a public CA signed it. */
  certificateHashes?: string[];
}

/**
 * How to get the offer: a URL (relative to the server) that answers with its JSON, a function, or
 * `false` when there is nothing to ask: WebTransport is on the server's own port, with a CA's certificate.
 */
export type OfferSource = string | (() => Promise<Offer>) | false;

/**
 * The first question of a page may be answered by a preload of it,
 * `<link rel="preload" href="/webtransport.json" as="fetch" crossorigin>`: one round trip less.
 */
let isFirst = true;
/** A question that was asked before there was an attempt; the first attempt uses up its answer. */
let early: { href: string; at: number; answer: Promise<Response> } | undefined;

/** How far an attempt has come: it is dialled, or the server has accepted the session. */
export type Step = "dial" | "ready";

/** For the answer about the offer, in ms. */
const OFFER_DEADLINE = 3_000;
/** What was asked early counts for so long, in ms: hashes change when the server starts again. */
const OFFER_FRESH = 5_000;
/** A server that cannot be reached is asked again after this, in ms, and so often. */
const OFFER_AGAIN = 250;
const OFFER_TRIES = 12;

/** What Engine.IO hands to a transport: its options, the ones of this transport mixed in. */
type Options = SocketOptions & { transportOptions?: Record<string, WebTransportOptions> };

/** Asks for the offer before the first attempt does, for what else is in it. */
export async function askEarly(url: URL): Promise<Response> {
  const answer = ask(url);
  early = { href: url.href, at: Date.now(), answer };
  return (await answer).clone();
}

/** The answer that is here already, once, or else a new one. */
function takeEarlyOrAsk(url: URL): Promise<Response> {
  const known = early;
  early = undefined;
  const isFresh = known?.href === url.href && Date.now() - known.at < OFFER_FRESH;
  return isFresh ? known.answer : ask(url);
}

function ask(url: URL): Promise<Response> {
  const cache = isFirst ? "default" : "no-store";
  isFirst = false;
  return fetch(url, { cache, signal: AbortSignal.timeout(OFFER_DEADLINE) });
}

export class OfferedWebTransport extends Transport {
  /** Does a failure say something about WebTransport? Not if the server could not even be asked. */
  isTelling = false;
  /** Told how far the attempt has come. */
  onstep: ((step: Step) => void) | undefined;
  /**
   * Told that the server cannot be asked now. It goes on asking: other transports' attempts may outlast
   * a restart (Firefox holds WebSocket back for seconds), and must not win for that alone.
   */
  onstall: ((error: Error) => void) | undefined;
  readonly #source: OfferSource;
  readonly #patience: number;
  #deadline: ReturnType<typeof setTimeout> | undefined;
  #session: WebTransport | undefined;
  #writer: WritableStreamDefaultWriter<Packet> | undefined;
  #learn: ((works: boolean) => void) | undefined;
  #isReady = false;
  #wake: (() => void) | undefined;

  /** `patience` is the time from dialling to the server's first packet, in ms. */
  constructor(options: SocketOptions, source: OfferSource, patience: number) {
    super(options);
    this.#source = source;
    this.#patience = patience;
  }

  override get name(): string {
    return "webtransport";
  }

  /**
   * Another transport was faster. The attempt goes on only to learn whether WebTransport works here, and
   * is closed before the server could make a session of it.
   */
  abandon(learn: (works: boolean) => void): void {
    if (this.readyState === "opening" && this.isTelling && !this.#isReady) {
      this.#learn = learn;
      return;
    }
    this.close();
    if (this.isTelling) learn(this.#isReady);
  }

  /** The server can be reached, another transport has: no need to wait before it is asked again. */
  hurry(): void {
    this.#wake?.();
  }

  protected override doOpen(): void {
    this.#open().catch((error: unknown) => this.#fail("webtransport error", error));
  }

  async #open(): Promise<void> {
    const options = this.opts as Options;
    const offer = await this.#askUntilTold(options);
    // Closed while the question was under way.
    if (this.readyState !== "opening") return;
    const { host: hostname = options.hostname, port = options.port } = offer;
    this.opts = { ...options, secure: true, hostname, port };
    this.#deadline = setTimeout(
      () => this.#fail("webtransport timeout", new Error(`no answer within ${this.#patience} ms`)),
      this.#patience,
    );
    this.once("packet", () => clearTimeout(this.#deadline));
    this.onstep?.("dial");
    const session = new WebTransport(this.createUri("https"), {
      ...options.transportOptions?.["webtransport"],
      ...pinned(offer),
    });
    this.#session = session;
    session.closed.then(
      (info) => this.#end({ description: "webtransport session closed", context: info }),
      (error: unknown) => this.#fail("webtransport error", error),
    );
    await session.ready;
    this.#isReady = true;
    if (this.#learn) return this.#conclude(true);
    this.onstep?.("ready");
    const stream = await session.createBidirectionalStream();
    if (this.readyState === "opening") this.#start(stream);
  }

  async #askUntilTold(options: Options): Promise<Offer> {
    for (let tries = 1; ; tries += 1) {
      try {
        return await this.#ask(options);
      } catch (error) {
        if (this.isTelling || tries === OFFER_TRIES || this.readyState !== "opening") throw error;
        this.onstall?.(error as Error);
      }
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
        setTimeout(resolve, OFFER_AGAIN);
      });
      if (this.readyState !== "opening") throw new Error("closed");
    }
  }

  async #ask(options: Options): Promise<Offer> {
    const source = this.#source;
    if (typeof source !== "string") {
      const offer = source === false ? {} : await source();
      this.isTelling = true;
      return offer;
    }
    const { hostname = "localhost", port, secure } = options;
    const host = hostname.includes(":") && !hostname.startsWith("[") ? `[${hostname}]` : hostname;
    const url = new URL(source, `${secure ? "https" : "http"}://${host}:${port}`);
    const response = await takeEarlyOrAsk(url);
    // A gateway's 502 is not the server's answer.
    this.isTelling = response.status < 500;
    if (!response.ok) throw new Error(`${url.pathname}: HTTP ${response.status}`);
    return (await response.json()) as Offer;
  }

  #start(stream: WebTransportBidirectionalStream): void {
    const decoder = createPacketDecoderStream(Number.MAX_SAFE_INTEGER, this.socket.binaryType);
    const encoder = createPacketEncoderStream();
    // `closed` above tells of a broken stream, here and in `write`.
    encoder.readable.pipeTo(stream.writable).catch(() => {});
    this.#writer = encoder.writable.getWriter() as WritableStreamDefaultWriter<Packet>;
    const { sid } = this.query;
    const open: Packet = sid ? { type: "open", data: JSON.stringify({ sid }) } : { type: "open" };
    this.#writer.write(open).catch(() => {});
    this.onOpen();
    const packets = stream.readable.pipeThrough(decoder) as ReadableStream<Packet>;
    void this.#read(packets.getReader());
  }

  async #read(reader: ReadableStreamDefaultReader<Packet>): Promise<void> {
    for (;;) {
      let result: ReadableStreamReadResult<Packet>;
      try {
        result = await reader.read();
      } catch {
        return;
      }
      if (result.done) return this.#end({ description: "webtransport stream ended" });
      this.onPacket(result.value);
    }
  }

  protected override write(packets: Packet[]): void {
    this.writable = false;
    const writes = packets.map((packet) => this.#writer?.write(packet));
    Promise.all(writes).then(
      () => {
        this.writable = true;
        this.emitReserved("drain");
      },
      () => {},
    );
  }

  protected override doClose(): void {
    clearTimeout(this.#deadline);
    try {
      this.#session?.close();
    } catch {
      // It has failed already.
    }
  }

  #end(details: { description: string; context?: unknown }): void {
    if (this.readyState === "opening") return this.#fail(details.description, details.context);
    if (this.readyState !== "open") return;
    this.doClose();
    this.onClose(details);
  }

  #fail(reason: string, description: unknown): void {
    if (this.readyState !== "opening" && this.readyState !== "open") return;
    if (this.#learn) return this.#conclude(false);
    // First the error, which makes everybody stop listening here.
    this.onError(reason, description);
    this.close();
  }

  #conclude(works: boolean): void {
    const learn = this.#learn;
    this.#learn = undefined;
    this.close();
    learn?.(works);
  }
}

function pinned({ certificateHashes = [] }: Offer): WebTransportOptions {
  // Browsers take hashes only for short-lived certificates, so none are named for a CA's.
  if (certificateHashes.length === 0) return {};
  return {
    serverCertificateHashes: certificateHashes.map((hash) => ({
      algorithm: "sha-256",
      value: Uint8Array.from(atob(hash), (char) => char.charCodeAt(0)),
    })),
  };
}
