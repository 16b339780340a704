// A board, its strokes and a server that answers as the test says.
import { Strokes } from "../node_modules/.test/board/strokes.js";
import { Sync } from "../node_modules/.test/board/sync.js";
import { FakeSocket } from "./fakes.mjs";

export const STYLE = { c: "red", w: 4, k: 2 };

export function openPage() {
  const socket = new FakeSocket();
  const strokes = new Strokes();
  const seen = { painted: 0, repainted: 0, soon: 0, unsent: 0, refused: [] };
  const sync = new Sync(socket, strokes, {
    paint: () => (seen.painted += 1),
    repaint: () => (seen.repainted += 1),
    repaintSoon: () => (seen.soon += 1),
    unsent: (count) => (seen.unsent = count),
    ready() {},
    refused: (why) => seen.refused.push(why),
    schedule() {},
  });
  /** A whole stroke of this page. */
  const draw = (...numbers) => {
    const stroke = sync.begin(STYLE);
    sync.grow(stroke, numbers);
    sync.end(stroke);
    return stroke;
  };
  /** One that the server has. */
  const drawn = (...numbers) => {
    const stroke = draw(...numbers);
    sync.flush();
    socket.confirm();
    sync.flush();
    return stroke;
  };
  return { socket, strokes, seen, sync, draw, drawn };
}
