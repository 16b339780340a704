// The same scenarios on our server and on Node's, with the msgpack parser.
import { compare } from "./lib/differential.mjs";
import { acks } from "./lib/scenarios/acks.mjs";
import { connecting } from "./lib/scenarios/connecting.mjs";
import { events } from "./lib/scenarios/events.mjs";
import { leaving } from "./lib/scenarios/leaving.mjs";
import { rooms } from "./lib/scenarios/rooms.mjs";

const RAW = /Raw(WebSocket|Polling)/;
const parser = "msgpack";
compare("getting in", connecting, { parser });
compare("events", events, { parser });
compare("rooms", rooms, { parser });
compare("acknowledgements", acks, { parser });
// raw peers speak JSON
const official = Object.entries(leaving).filter(([, scenario]) => !RAW.test(scenario.toString()));
compare("leaving", Object.fromEntries(official), { parser });
