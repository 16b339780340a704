// All cases, in groups, and a run of all of them that gives what held.
import { BEYOND } from "./beyond.mjs";
import { Lab, TOPOLOGIES } from "./lab.mjs";
import { REFUSED } from "./refused.mjs";
import { WRONG } from "./wrong.mjs";

export const GROUPS = {
  "not refused where it can be granted": REFUSED,
  "never granted with anything lost, twice or in another order": WRONG,
  "beside that": BEYOND,
};

/** One case on one topology. */
export async function runCase(kind, { options = () => ({}), run }, topology) {
  const lab = await Lab.start({ kind, topology, ...options(kind) });
  try {
    await run(lab);
  } finally {
    await lab.stop();
  }
}

/** The table of all cases: a mark for each topology on which a kind holds it. */
export async function caseTable(kinds) {
  const head = ["case", ...kinds.map((kind) => (kind === "node" ? "Node" : "here"))];
  const lines = [`| ${head.join(" | ")} |`, `|${"---|".repeat(head.length)}`];
  for (const each of Object.values(GROUPS).flat()) {
    const cells = [];
    for (const kind of kinds) {
      const marks = [];
      for (const topology of Object.keys(TOPOLOGIES)) marks.push(await mark(kind, each, topology));
      cells.push(marks.join(" "));
    }
    lines.push(`| ${each.name} | ${cells.join(" | ")} |`);
    console.log(lines.at(-1));
  }
  return lines.join("\n");
}

async function mark(kind, each, topology) {
  if (!each.on.includes(topology) || (each.ours && kind === "node")) return "–";
  try {
    await runCase(kind, each, topology);
    return "✓";
  } catch {
    return "✗";
  }
}
