/**
 * The colours of the bar. Their names travel; what is painted for a name depends on the paper, so that
 * every colour can be told from it.
 */

interface Color {
  name: string;
  /** What to call it on dark paper, where it is another. */
  dark?: string;
  onLight: string;
  onDark: string;
}

/** The first is the default. */
export const COLORS: readonly Color[] = [
  { name: "black", dark: "white", onLight: "#1e1e24", onDark: "#f1f3f5" },
  { name: "red", onLight: "#e03131", onDark: "#ff6b6b" },
  { name: "orange", onLight: "#e8590c", onDark: "#ff922b" },
  { name: "yellow", onLight: "#f2b600", onDark: "#ffd43b" },
  { name: "green", onLight: "#2f9e44", onDark: "#51cf66" },
  { name: "blue", onLight: "#1971c2", onDark: "#4dabf7" },
  { name: "purple", onLight: "#7048e8", onDark: "#9775fa" },
  { name: "pink", onLight: "#d6336c", onDark: "#f783ac" },
  { name: "brown", onLight: "#846358", onDark: "#c2a08f" },
];

export const DEFAULT_COLOR = "black";

/** Widths of the pen, in points. */
export const WIDTHS = [
  { name: "thin", points: 3 },
  { name: "medium", points: 6 },
  { name: "thick", points: 14 },
] as const;

const scheme = matchMedia("(prefers-color-scheme: dark)");
const byName = new Map(COLORS.map((color) => [color.name, color]));

/** The colour to paint for a colour named on the wire, on the paper of the moment. */
export function ink(name: string): string {
  const color = byName.get(name);
  if (!color) return name;
  return scheme.matches ? color.onDark : color.onLight;
}

/** What to call a colour: by what is seen, so the black that is shown as white is "white". */
export function label(name: string): string {
  return (scheme.matches && byName.get(name)?.dark) || name;
}

/** Calls back when the paper turns dark or light. */
export function onPaperChange(callback: () => void): void {
  scheme.addEventListener("change", callback);
}
