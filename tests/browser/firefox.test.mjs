import { whiteboardIn } from "./lib/cases.mjs";

whiteboardIn("firefox");
