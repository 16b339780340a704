/**
 * Socket.IO over the best transport that this network lets through, without a wait for those it does not.
 *
 * On top of the official client, for any Socket.IO application:
 *
 * ```ts
 * import { connect } from "./connect.js";
 * const socket = connect("https://example.org", { auth: { token } });
 * ```
 *
 * or, with a call of `io()` that is there already, `io(url, { transports: transports() })`.
 *
 * 1. WebTransport starts. It has a head start of 250 ms (more on a slow network, where the time of the
 *    offer's answer tells what a round trip takes) and a deadline.
 * 2. WebSocket starts when WebTransport has failed or its head start is over, HTTP long-polling
 *    likewise 500 ms after WebSocket. The first whose handshake comes back is used; the others are closed.
 * 3. What failed is remembered, for a minute at first, then for ten, and tried last meanwhile; see
 *    `connect/memory.ts` for what a browser can know about its network.
 * 4. A connection stays on its transport. If WebSocket won and WebTransport would have worked, the next
 *    *reconnection* starts there. Only long-polling upgrades to WebSocket under way, by the official
 *    client's own upgrade.
 *
 * Everything above the transport is the official client's: reconnection and its back-off, `auth`,
 * connection state recovery, acknowledgements, `connect_error`.
 */
import {
  io,
  type ManagerOptions,
  type Socket,
  type SocketOptions,
  WebSocket as WebSocketTransport,
  XHR as PollingTransport,
} from "socket.io-client";
import { Memory } from "./connect/memory.js";
import { Race, type RaceConfig, type RaceEvent, type TransportName } from "./connect/race.js";
import { OfferedWebTransport, type OfferSource } from "./connect/webtransport.js";

export { forgetNetworks } from "./connect/memory.js";
export type { RaceEvent, TransportName } from "./connect/race.js";
export type { Offer, OfferSource } from "./connect/webtransport.js";

/** All of it may be left out. Times are in ms. */
export interface RaceOptions {
  /** What may be tried, best first. Default: WebTransport, WebSocket, long-polling. */
  order?: readonly TransportName[];
  /** How long each may take before the next one starts. Default: 250, 500, 1500. */
  headStart?: Partial<Record<TransportName, number>>;
  /** How long WebTransport may take in all, from dialling to the first packet. Default: 5000. */
  deadline?: number;
  /** How long a network's behaviour is remembered; 0: not at all. Default: 10 minutes. */
  remember?: number;
  /** Where to ask about WebTransport. Default: `/webtransport.json` of the server. */
  offer?: OfferSource;
  /** Is told what happens in each race. */
  watch?: (event: RaceEvent) => void;
}

const ORDER: readonly TransportName[] = ["webtransport", "websocket", "polling"];
const HEAD_START = { webtransport: 250, websocket: 500, polling: 1_500 };
const DEADLINE = 5_000;
const REMEMBER = 10 * 60_000;
const OFFER = "/webtransport.json";

/** For the `transports` option of the official client. */
export function transports(options: RaceOptions = {}): (typeof WebSocketTransport)[] {
  const { deadline = DEADLINE, remember = REMEMBER, offer = OFFER, watch } = options;
  const order = options.order ?? ORDER;
  const config: RaceConfig = {
    // Browsers offer WebTransport to secure pages only.
    order: order.filter((name) => name !== "webtransport" || "WebTransport" in globalThis),
    create: {
      webtransport: (opts) => new OfferedWebTransport(opts, offer, deadline),
      websocket: (opts) => new WebSocketTransport(opts),
      polling: (opts) => new PollingTransport(opts),
    },
    headStart: { ...HEAD_START, ...options.headStart },
    memory: ({ hostname, port }) => new Memory(`${hostname}:${port}`, remember),
    watch,
  };
  return raced(config);
}

/** The transports of a configuration, in the form in which Engine.IO takes them. */
export function raced(config: RaceConfig): (typeof WebSocketTransport)[] {
  const race = class extends Race {
    constructor(options: ConstructorParameters<typeof Race>[0]) {
      super(options, config);
    }
  };
  // The second is not for opening, but for upgrading: long-polling finds it by its name.
  const upgrade = config.order.includes("polling") && config.order.includes("websocket");
  const classes = upgrade ? [race, WebSocketTransport] : [race];
  // Engine.IO makes no difference between its own classes and others; its types do.
  return classes as unknown as (typeof WebSocketTransport)[];
}

/** `io()` of the official client, with the transports raced. `options.race` says how. */
export function connect(
  url?: string,
  options: Partial<ManagerOptions & SocketOptions> & { race?: RaceOptions } = {},
): Socket {
  const { race, ...rest } = options;
  const opts = { ...rest, transports: transports(race) };
  return url === undefined ? io(opts) : io(url, opts);
}
