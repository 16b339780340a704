// The official streams emitter is not on npm. This one writes its entries by XADD. QUICKET_STREAMS_EMITTER names a
// module with the official one, which is used instead; docs/cluster.md says how to build it.
import { encode } from "@msgpack/msgpack";

/** Of the events of the tests: bytes stand in the arguments themselves. */
const hasBinary = (args) => args.some((value) => ArrayBuffer.isView(value));

/** JSON, or msgpack where there are bytes in the arguments. */
const written = (data, args) =>
  hasBinary(args) ? Buffer.from(encode(data)).toString("base64") : JSON.stringify(data);

class StandIn {
  #client;
  #nsp;
  #rooms;
  #except;

  constructor(client, { nsp = "/", rooms = [], except = [] } = {}) {
    this.#client = client;
    this.#nsp = nsp;
    this.#rooms = rooms;
    this.#except = except;
  }

  #with(change) {
    return new StandIn(this.#client, { nsp: this.#nsp, rooms: this.#rooms, except: this.#except, ...change });
  }

  of = (nsp) => this.#with({ nsp });
  to = (room) => this.#with({ rooms: [...this.#rooms, room] });
  except = (room) => this.#with({ except: [...this.#except, room] });

  #add(type, data) {
    this.#client.xAdd("socket.io", "*", { uid: "emitter", nsp: this.#nsp, type, data });
  }

  emit(...args) {
    const packet = { type: 2, data: args, nsp: this.#nsp };
    const data = { packet, opts: { rooms: this.#rooms, flags: {}, except: this.#except } };
    this.#add("3", written(data, args));
  }

  #act(type, more) {
    const opts = { rooms: this.#rooms, except: this.#except, flags: {} };
    this.#add(type, JSON.stringify({ opts, ...more }));
  }

  socketsJoin = (room) => this.#act("4", { rooms: [room] });
  socketsLeave = (room) => this.#act("5", { rooms: [room] });
  disconnectSockets = (close = false) => this.#act("6", { close });
  serverSideEmit = (...packet) => this.#add("9", written({ packet }, packet));
}

export const IS_OFFICIAL = Boolean(process.env.QUICKET_STREAMS_EMITTER);
export const { Emitter } = IS_OFFICIAL
  ? await import(process.env.QUICKET_STREAMS_EMITTER)
  : { Emitter: StandIn };
