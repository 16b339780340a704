// What a client must not take too long for. Run with short times, see `DEADLINES` and `PINGS`.
import { once } from "node:events";
import { only } from "../differential.mjs";
import { RawPolling, RawWebSocket } from "../raw.mjs";

/** The flags that these scenarios expect. */
export const DEADLINES = ["--ping-interval", "200", "--ping-timeout", "150", "--connect-timeout", "300"];
/** No client is too slow for these: the next ping comes only after an answer, so a third one says enough. */
export const PINGS = ["--ping-interval", "200", "--ping-timeout", "20000"];

export const pings = {
  "a client that answers pings stays": async (lab) => {
    const socket = await lab.join("a");
    await lab.upgraded(socket);
    for (let count = 0; count < 3; count++) await once(socket.io.engine, "ping");
    return [socket.connected, await socket.emitWithAck("echo-ack", "alive"), socket.io.engine.pingInterval];
  },
};

export const deadlines = {
  "a client that does not answer a ping is given up": only(["websocket"], async (lab) => {
    const raw = await (await RawWebSocket.connect(lab.server)).join(lab.tag("a"));
    const rest = await raw.rest();
    return [rest, await lab.log("a", 3)];
  }),

  "a polling client that does not come back is given up": only(["polling"], async (lab) => {
    const raw = await (await RawPolling.connect(lab.server)).join(lab.tag("a"));
    return [await lab.log("a", 3), await raw.get()];
  }),

  "a client that joins no namespace is put out": only(["websocket"], async (lab) => {
    const raw = await RawWebSocket.connect(lab.server);
    return (await raw.rest({ pong: true })).map((frame) => frame[0]);
  }),

  "a client whose only namespace is refused is put out, too": only(["websocket"], async (lab) => {
    const raw = await RawWebSocket.connect(lab.server);
    raw.send("40/nobody,");
    return (await raw.rest({ pong: true })).map((frame) => (frame[0] === "0" ? "0" : frame));
  }),
};
