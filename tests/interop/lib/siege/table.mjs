// What `make siege` has seen, as a table.
import { summary } from "./traffic.mjs";

const MIB = 2 ** 20;
/** Seconds within which resources have to be back. */
export const BACK = 60;
/** Those that the normal clients use, each with round trips of its own: over polling they take several times as long. */
const TRANSPORTS = { websocket: "WebSocket", polling: "polling", webtransport: "WebTransport" };

const HEAD = [
  "attack",
  "how often",
  "MiB before / peak / after",
  ...Object.values(TRANSPORTS).map((name) => `p99 over ${name}, ms before / during`),
  "newcomers' connecting in ms before / during",
  "server's CPU",
  "errors",
  "memory, descriptors, sessions back after",
  "misses",
];

/**
 * What was seen while all was quiet, of all results together whose normal clients did the same (`kind`). One result's own
 * before is of 5 seconds: its p99 is what three or five of the slowest round trips took, and of the same server with
 * nobody attacking it is 3 ms once and 6 ms the next time.
 */
export function quiets(results) {
  const seen = results.filter(({ before }) => before !== undefined);
  const together = (all) =>
    Object.fromEntries(Object.keys(TRANSPORTS).map((name) => [name, summary(all.flatMap(({ before }) => before[name].times))]));
  const kinds = [...new Set(seen.map(({ kind }) => kind))];
  return Object.fromEntries(kinds.map((kind) => [kind, together(seen.filter((result) => result.kind === kind))]));
}

/** The 99th percentiles of what `quiets` gives, in words. */
export function told(quiet) {
  const p99 = (seen) => Object.entries(TRANSPORTS).map(([name, title]) => `${title} ${seen[name].p99.toFixed(1)}`);
  const kinds = Object.entries(quiet).map(([kind, seen]) => `${kind}: ${p99(seen).join(", ")}`);
  return `p99 of all quiet seconds in ms: ${kinds.join("; ")}.`;
}

/** What a result misses of what issue 8 wants. */
export function misses({ failed, kind, before, during, after, errors }, quiet) {
  if (failed !== undefined) return [failed];
  const missed = [];
  if (errors.length > 0) missed.push(`${errors.length} errors`);
  for (const [name, title] of Object.entries(TRANSPORTS)) {
    const [was, is] = [quiet[kind][name].p99, during[name].p99];
    // no round trip at all is no number
    if (!(is <= 2 * was)) missed.push(`p99 over ${title} ${(is / was).toFixed(1)} times`);
  }
  if (!(before.newcomers.samples > 0 && during.newcomers.samples > 0)) missed.push("no newcomers");
  for (const what of ["memory", "descriptors", "sessions"]) {
    if (after[what] === undefined) missed.push(`${what} not back`);
  }
  return missed;
}

export function row(result, quiet) {
  const { title, unit, done, refused, before, during, after, errors } = result;
  if (result.failed !== undefined) return [title, ...Array(HEAD.length - 2).fill("-"), result.failed.split("\n")[0]];
  const mib = (bytes) => (bytes / MIB).toFixed(1);
  const ms = (value) => value.toFixed(1);
  const connecting = ({ newcomers: { p50, max } }) => `${ms(p50)} (${ms(max)})`;
  const seconds = (value) => (value === undefined ? `> ${BACK} s` : `${value.toFixed(0)} s`);
  const count = done.toLocaleString("en") + (refused > 0 ? ` (${refused.toLocaleString("en")} refused)` : "");
  return [
    title,
    `${count} ${unit}`,
    `${mib(before.resident)} / ${mib(during.resident)} / ${mib(after.after.resident)}`,
    ...Object.keys(TRANSPORTS).map((name) => `${ms(before[name].p99)} / ${ms(during[name].p99)}`),
    [before, during].map(connecting).join(" / "),
    `${(during.cpu * 100).toFixed(0)} %`,
    errors.length,
    [after.memory, after.descriptors, after.sessions].map(seconds).join(", "),
    misses(result, quiet).join(", ") || "none",
  ];
}

/** All of them; `seconds` is how long each attack went on. */
export function table(results, seconds) {
  const quiet = quiets(results);
  const head = HEAD.with(1, `in ${seconds} s`);
  return [head, head.map(() => "---"), ...results.map((result) => row(result, quiet))].map((cells) => `| ${cells.join(" | ")} |`).join("\n");
}
