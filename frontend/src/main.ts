/** The whiteboard: the board, the bars and the connection, tied together. */
import { Canvas } from "./board/canvas.js";
import { followKeys } from "./board/keys.js";
import { followPointers } from "./board/pen.js";
import { type Stroke, Strokes } from "./board/strokes.js";
import { Sync } from "./board/sync.js";
import { View } from "./board/view.js";
import { Comeback } from "./connect/comeback.js";
import { connectWhereTold } from "./connect/path.js";
import { connect, type TransportName } from "./connect.js";
import { Cursors } from "./cursors.js";
import { Developer } from "./developer.js";
import { soon } from "./frame.js";
import { COLORS, DEFAULT_COLOR, ink, label, onPaperChange, WIDTHS } from "./palette.js";
import { element, followConnection, hurryWhenBack, notice, showUnsent } from "./status.js";

const LOBBY = "lobby";
/** The distance of the paper's dots, in points. */
const GRID = 24;

/** The board of the address; `/` is the lobby's. */
function boardName(): string {
  const [, name] = /^\/b\/([\w-]{1,64})\/?$/.exec(location.pathname) ?? [];
  if (name) return name;
  history.replaceState(null, "", `/b/${LOBBY}${location.search}${location.hash}`);
  return LOBBY;
}

/** What proves to the server that strokes are this tab's own, after a reload too. */
function secretKey(): string {
  const name = "whiteboard.key";
  try {
    const known = sessionStorage.getItem(name);
    if (known) return known;
    const key = randomKey();
    sessionStorage.setItem(name, key);
    return key;
  } catch {
    return randomKey();
  }
}

function randomKey(): string {
  const bytes = crypto.getRandomValues(new Uint8Array(18));
  return btoa(String.fromCharCode(...bytes));
}

const name = boardName();
const forced = new URLSearchParams(location.search).get("transport");
const isTransport = (text: string | null): text is TransportName =>
  text === "webtransport" || text === "websocket" || text === "polling";

const developer = new Developer();
const socket = connect(undefined, {
  autoConnect: false,
  auth: { board: name, key: secretKey() },
  // Somebody stands there with the pen in hand: sooner than the official 1 s to 5 s, still spread out.
  reconnectionDelay: 250,
  reconnectionDelayMax: 1_000,
  // A server that vanished answers nothing; another one may be there by now.
  timeout: 10_000,
  race: {
    ...(isTransport(forced) ? { order: [forced] } : {}),
    watch: (event) => developer.watch(event),
  },
});

const board = element<HTMLCanvasElement>("board");
const strokes = new Strokes();
const view = new View();
let isShown = false;
let isScheduled = false;

const sync = new Sync(socket, strokes, {
  paint: (stroke, from) => canvas.paint(stroke, from),
  repaint: () => canvas.repaint(),
  repaintSoon: () => canvas.repaintSoon(),
  unsent: showUnsent,
  refused: (why) => notice(`The server refused a stroke: ${why}`),
  ready: () => {
    document.documentElement.dataset["board"] = "ready";
    if (!isShown) showDrawing();
    isShown = true;
    showCounts();
  },
  schedule: () => {
    if (isScheduled) return;
    isScheduled = true;
    soon(() => {
      isScheduled = false;
      sync.flush();
      showCounts();
    });
  },
});
const canvas = new Canvas(board, element<HTMLCanvasElement>("unsent-layer"), strokes, view, (stroke) =>
  sync.isUnsent(stroke),
);
const cursors = new Cursors(socket, view, element("cursors"), element<HTMLTemplateElement>("cursor"));

/** Who comes to a drawing that is elsewhere, or larger than the window, sees it. */
function showDrawing(): void {
  const box = strokes.extent();
  const seen = view.seen();
  const isInside =
    !box ||
    (box.left >= seen.left && box.right <= seen.right && box.top >= seen.top && box.bottom <= seen.bottom);
  if (box && !isInside) view.show(box);
}

const pen = { c: DEFAULT_COLOR, w: WIDTHS[1].points as number };
let takenBack: Stroke[][] = [];

function undo(): void {
  const stroke = sync.undo();
  if (stroke) takenBack.push([stroke]);
  showCounts();
}

function redo(): void {
  const back = takenBack.pop();
  if (back) sync.restore(back);
  showCounts();
}

function clear(): void {
  const cleared = sync.clear();
  if (cleared.length > 0) {
    takenBack.push(cleared);
    notice(cleared.length === 1 ? "Your stroke is gone" : `Your ${cleared.length} strokes are gone`);
  }
  showCounts();
}

/** Buttons that would do nothing cannot be pressed. */
function showCounts(): void {
  const own = sync.own().length;
  element<HTMLButtonElement>("undo").disabled = own === 0;
  element<HTMLButtonElement>("clear").disabled = own === 0;
  element<HTMLButtonElement>("redo").disabled = takenBack.length === 0;
}

function radio(group: string, value: string, isChecked: boolean): HTMLInputElement {
  const input = document.createElement("input");
  Object.assign(input, { type: "radio", name: group, value, defaultChecked: isChecked });
  element(`${group}s`).append(input);
  return input;
}

function buildBar(): void {
  for (const { name } of COLORS) {
    const input = radio("color", name, name === pen.c);
    const paint = () => {
      input.style.setProperty("--ink", ink(name));
      input.title = label(name);
      input.setAttribute("aria-label", label(name));
    };
    paint();
    onPaperChange(paint);
    input.addEventListener("change", () => choose(name, pen.w));
  }
  for (const { name, points } of WIDTHS) {
    const input = radio("width", String(points), points === pen.w);
    input.title = name;
    input.setAttribute("aria-label", name);
    input.style.setProperty("--size", `${4 + points}px`);
    input.addEventListener("change", () => choose(pen.c, points));
  }
  choose(pen.c, pen.w);
}

function choose(color: string, width: number): void {
  Object.assign(pen, { c: color, w: width });
  for (const [group, value] of [["color", color], ["width", String(width)]] as const) {
    const input = document.querySelector<HTMLInputElement>(`input[name=${group}][value="${value}"]`);
    if (input) input.checked = true;
  }
  const bar = element("widths");
  bar.style.setProperty("--ink", ink(color));
}

function followView(): void {
  const { style } = document.documentElement;
  const keys = followKeys(board, element("cross"), sync, view, {
    style: () => ({ ...pen }),
    undo,
    redo,
    color: (index) => choose(COLORS[index]?.name ?? pen.c, pen.w),
    width: (step) => {
      const at = WIDTHS.findIndex(({ points }) => points === pen.w) + step;
      choose(pen.c, WIDTHS[at]?.points ?? pen.w);
    },
    point: (at) => cursors.tell(at, pen.c),
  });
  view.onchange = () => {
    // Dots that are too close together become a grey mist.
    const grid = GRID * view.zoom * (view.zoom < 0.5 ? 4 : 1);
    style.setProperty("--grid", `${grid}px`);
    style.setProperty("--grid-x", `${view.width / 2 - view.x * view.zoom}px`);
    style.setProperty("--grid-y", `${view.height / 2 - view.y * view.zoom}px`);
    element("zoom-reset").textContent = `${Math.round(view.zoom * 100)} %`;
    cursors.place();
    keys.place();
    canvas.repaintSoon();
  };
  view.onchange();
}

async function share(): Promise<void> {
  const url = `${location.origin}/b/${name}`;
  try {
    await navigator.clipboard.writeText(url);
    notice("The link is in your clipboard");
  } catch {
    notice(url);
  }
}

function followButtons(): void {
  const actions: Record<string, () => void> = {
    undo,
    redo,
    clear,
    share: () => void share(),
    "zoom-in": () => view.scale(1.25),
    "zoom-out": () => view.scale(0.8),
    "zoom-reset": () => {
      const box = strokes.extent();
      // The drawing first; who sees it already gets the middle of the board.
      if (view.zoom === 1 && view.x === 0 && view.y === 0 && box) view.show(box);
      else view.reset();
    },
  };
  for (const [id, action] of Object.entries(actions)) element(id).addEventListener("click", action);
}

document.title = `${name} · Quicket`;
element("board-name").textContent = name;
buildBar();
followView();
followButtons();
followPointers(board, sync, view, {
  style: () => ({ ...pen }),
  point: (at) => cursors.tell(at, pen.c),
  began: () => {
    takenBack = [];
    showCounts();
  },
});
onPaperChange(() => {
  choose(pen.c, pen.w);
  canvas.repaint();
});
const comeback = new Comeback(socket, "board");
followConnection(socket, comeback);
hurryWhenBack(socket, comeback);
developer.follow(socket);
void connectWhereTold(socket, new URL("/webtransport.json", location.href));
showUnsent(0);
showCounts();
