/**
 * What worked on this network, kept for a while.
 *
 * A browser does not say which network it is on. What it does say goes into the key: the server, and
 * `navigator.connection.type` (wifi, cellular, ...; Chromium on Android and ChromeOS only). On a desktop all
 * networks look the same, so notes expire, and all are dropped when the browser reports that it is
 * back online, which is when a laptop or a phone may have changed its network. A network that changes
 * without that (a VPN, a new Wi-Fi without a gap) is found out by the next note or the next expiry:
 * every transport stays in the plan, a note changes only the order.
 *
 * Nothing about the network itself is stored, only "WebTransport: failed, until ...".
 */
import type { TransportName } from "./race.js";

/** What is known of one transport. */
export interface Note {
  /** Did it connect? */
  ok: boolean;
  /** How long it took, in ms. */
  ms: number;
  /** How often in a row it did not. */
  fails: number;
  /** When the note stops counting, in ms since 1970. */
  until: number;
}

/** Where notes are kept: `localStorage`, or anything like it. */
export type Store = Pick<Storage, "getItem" | "setItem" | "removeItem" | "key" | "length">;

const PREFIX = "socket.io-network ";

/** Where the browser denies storage, notes live as long as the page. */
function pageStore(): Store {
  const items = new Map<string, string>();
  return {
    getItem: (key) => items.get(key) ?? null,
    setItem: (key, value) => void items.set(key, value),
    removeItem: (key) => void items.delete(key),
    key: (index) => [...items.keys()][index] ?? null,
    get length() {
      return items.size;
    },
  };
}

function defaultStore(): Store {
  try {
    // Denied storage throws at the first touch, or is null.
    if (globalThis.localStorage) return globalThis.localStorage;
  } catch {
    // as if there were none
  }
  return pageStore();
}

/** The notes about one server on the network of the moment. */
export class Memory {
  readonly #server: string;
  readonly #keep: number;
  readonly #store: Store;

  /**
   * @param server - host and port.
   * @param keep - for how long a note counts, in ms; 0 keeps none.
   */
  constructor(server: string, keep: number, store: Store = sharedStore) {
    this.#server = server;
    this.#keep = keep;
    this.#store = store;
  }

  /** What is known of a transport and still counts. */
  recall(name: TransportName): Note | undefined {
    const note = this.#notes()[name];
    return note && note.until > Date.now() ? note : undefined;
  }

  /**
   * Writes down how an attempt ended. A first failure is kept for a tenth of the time only: it may have
   * been a lost packet, or a server on its way out.
   */
  note(name: TransportName, ok: boolean, ms: number): void {
    if (this.#keep <= 0) return;
    const notes = this.#notes();
    const fails = ok ? 0 : (notes[name]?.fails ?? 0) + 1;
    const keep = fails === 1 ? this.#keep / 10 : this.#keep;
    const note: Note = { ok, fails, ms: Math.round(ms), until: Date.now() + keep };
    try {
      this.#store.setItem(this.#key(), JSON.stringify({ ...notes, [name]: note }));
    } catch {
      // A full storage costs a head start at the next connection, no more.
    }
  }

  #key(): string {
    const { connection } = (globalThis.navigator ?? {}) as { connection?: { type?: string } };
    return `${PREFIX}${this.#server} ${connection?.type ?? "any"}`;
  }

  #notes(): Partial<Record<TransportName, Note>> {
    try {
      const notes: unknown = JSON.parse(this.#store.getItem(this.#key()) ?? "{}");
      return typeof notes === "object" && notes !== null ? notes : {};
    } catch {
      return {};
    }
  }
}

/** Drops all notes, of all servers. */
export function forgetNetworks(store: Store = sharedStore): void {
  for (let index = store.length - 1; index >= 0; index -= 1) {
    const key = store.key(index);
    if (key?.startsWith(PREFIX)) store.removeItem(key);
  }
}

const sharedStore = defaultStore();
globalThis.addEventListener?.("online", () => forgetNetworks());
