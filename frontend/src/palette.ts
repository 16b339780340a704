/** The colours of the bar: CSS names, as they travel on the wire. The first is the default. */
export const COLORS = [
  "black",
  "red",
  "green",
  "blue",
  "yellow",
  "darkorange",
  "deeppink",
  "purple",
  "saddlebrown",
] as const;

/** Names for people, where the CSS name is not a word. */
const SPOKEN: Readonly<Record<string, string>> = {
  darkorange: "orange",
  deeppink: "pink",
  saddlebrown: "brown",
};

const scheme = matchMedia("(prefers-color-scheme: dark)");

/** Colours that would vanish on dark paper, and what is shown instead. The wire keeps the name. */
const ON_DARK: Readonly<Record<string, string>> = {
  black: "#f1f3f5",
  blue: "#4d7dff",
  purple: "#b266ff",
  saddlebrown: "#c0743a",
};

/** The colour to paint for a colour named on the wire, on the paper of the moment. */
export function ink(color: string): string {
  return (scheme.matches && ON_DARK[color]) || color;
}

/** What to call a colour: by what is seen, so the black that is shown as white is "white". */
export function label(color: string): string {
  return scheme.matches && color === "black" ? "white" : (SPOKEN[color] ?? color);
}

/** Calls back when the paper turns dark or light. */
export function onPaperChange(callback: () => void): void {
  scheme.addEventListener("change", callback);
}
