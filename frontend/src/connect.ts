/**
 * How the page reaches its server: WebTransport first, then WebSocket, then HTTP long-polling.
 *
 * The official client does all of it. Two things are added to its WebTransport, in a subclass:
 *
 * 1. *What the server offers is asked anew for every attempt*, from `/webtransport.json`. A server
 *    without a certificate of its own makes one for QUIC, and a restarted one makes another, so
 *    hashes that were right at page load would fail each later reconnection. (The manager's
 *    `reconnect_attempt` would be too late: it fires in the same tick as the attempt.)
 * 2. *A deadline.* Where UDP is dropped, Chromium gives up after 10 s and Firefox after 30 s.
 */
import {
  io,
  type Socket,
  WebSocket as WebSocketTransport,
  WebTransport as WebTransportTransport,
  XHR as PollingTransport,
} from "socket.io-client";

/** The answer of `/webtransport.json`. */
interface Offer {
  /** Where UDP has an address of its own; without it, the page's own host. */
  host?: string;
  /** The UDP port of the QUIC endpoint. */
  port: number;
  /** SHA-256 of each acceptable certificate, in base64; empty when a public CA signed it. */
  certificateHashes: string[];
}

const OFFER_URL = "/webtransport.json";
/** For the answer about WebTransport, in ms. A server slower than this has other worries. */
const OFFER_DEADLINE = 3_000;
/**
 * From dialling to the server's first packet, in ms. That takes four round trips, so a network
 * with 300 ms of delay still gets WebTransport, and a network without UDP costs 1.5 s once.
 */
const HANDSHAKE_DEADLINE = 1_500;

class OfferedWebTransport extends WebTransportTransport {
  #deadline: ReturnType<typeof setTimeout> | undefined;

  protected override doOpen(): this {
    fetchOffer().then(
      (offer) => this.#dial(offer),
      (error: unknown) => this.#fail("webtransport not offered", error),
    );
    return this;
  }

  protected override doClose(): void {
    clearTimeout(this.#deadline);
    super.doClose();
  }

  #dial(offer: Offer): void {
    // Closed while the question was under way.
    if (this.readyState !== "opening") return;
    this.opts = {
      ...this.opts,
      secure: true,
      ...(offer.host === undefined ? {} : { hostname: offer.host }),
      port: offer.port,
      // What `new WebTransport()` gets as its options.
      transportOptions: { webtransport: sessionOptions(offer) },
    };
    this.#deadline = setTimeout(
      () => this.#fail("webtransport timeout", `no answer within ${HANDSHAKE_DEADLINE} ms`),
      HANDSHAKE_DEADLINE,
    );
    this.once("packet", () => clearTimeout(this.#deadline));
    super.doOpen();
  }

  #fail(reason: string, description: unknown): void {
    if (this.readyState !== "opening" && this.readyState !== "open") return;
    // First the error, which makes the client go on to the next transport and stop listening here.
    this.onError(reason, description);
    this.close();
  }
}

/** Rejects when the server offers no WebTransport (404), or cannot be asked. */
async function fetchOffer(): Promise<Offer> {
  if (!("WebTransport" in globalThis)) throw new Error("this browser has no WebTransport");
  const signal = AbortSignal.timeout(OFFER_DEADLINE);
  const response = await fetch(OFFER_URL, { cache: "no-store", signal });
  if (!response.ok) throw new Error(`${OFFER_URL}: HTTP ${response.status}`);
  return (await response.json()) as Offer;
}

function sessionOptions(offer: Offer): object {
  // Browsers take hashes only for short-lived certificates, so none are named for a CA's.
  if (offer.certificateHashes.length === 0) return {};
  return {
    serverCertificateHashes: offer.certificateHashes.map((hash) => ({
      algorithm: "sha-256",
      value: Uint8Array.from(atob(hash), (char) => char.charCodeAt(0)),
    })),
  };
}

/** In the order in which they are tried. */
const TRANSPORTS = {
  webtransport: OfferedWebTransport,
  websocket: WebSocketTransport,
  polling: PollingTransport,
};

/**
 * Connects to the page's own server.
 *
 * @param forced - only this transport (`?transport=`), for tests and comparisons. An unknown name
 *   forces nothing.
 */
export function connect(forced: string | null): Socket {
  const one = Object.entries(TRANSPORTS).find(([name]) => name === forced);
  return io({
    transports: one ? [one[1]] : Object.values(TRANSPORTS),
    tryAllTransports: true,
  });
}
