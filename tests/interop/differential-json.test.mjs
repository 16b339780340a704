// The same scenarios on our server and on Node's, with the default parser.
import { compare } from "./lib/differential.mjs";
import { acks } from "./lib/scenarios/acks.mjs";
import { connecting } from "./lib/scenarios/connecting.mjs";
import { DEADLINES, deadlines, PINGS, pings } from "./lib/scenarios/deadlines.mjs";
import { events } from "./lib/scenarios/events.mjs";
import { leaving } from "./lib/scenarios/leaving.mjs";
import { rooms } from "./lib/scenarios/rooms.mjs";

compare("getting in", connecting);
compare("events", events);
compare("rooms", rooms);
compare("acknowledgements", acks);
compare("leaving", leaving);
compare("deadlines", deadlines, { flags: DEADLINES });
compare("pings", pings, { flags: PINGS });
