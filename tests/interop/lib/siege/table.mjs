// What `make siege` has seen, as a table.
import { summary } from "./traffic.mjs";

const MIB = 2 ** 20;
/** Seconds within which resources have to be back. */
export const BACK = 60;

const HEAD = [
  "attack",
  "how often",
  "MiB before / peak / after",
  "p99 in ms before / during",
  "over WebTransport",
  "newcomers' connecting in ms before / during",
  "server's CPU",
  "errors",
  "memory, descriptors, sessions back after",
  "misses",
];

/**
 * What was seen while all was quiet, of all results together whose normal clients did the same (`kind`). One result's own
 * before is of 8 seconds: its p99 is what three or twelve of the slowest round trips took, and of the same server with
 * nobody attacking it is 3 ms once and 6 ms the next time.
 */
export function quiets(results) {
  const seen = results.filter(({ before }) => before !== undefined);
  const together = (all) => ({
    ...summary(all.flatMap(({ before }) => before.times)),
    webtransport: summary(all.flatMap(({ before }) => before.webtransport.times)),
  });
  const kinds = [...new Set(seen.map(({ kind }) => kind))];
  return Object.fromEntries(kinds.map((kind) => [kind, together(seen.filter((result) => result.kind === kind))]));
}

/** What a result misses of what issue 8 wants. */
export function misses({ failed, kind, before, during, after, errors }, quiet) {
  if (failed !== undefined) return [failed];
  const missed = [];
  if (errors.length > 0) missed.push(`${errors.length} errors`);
  const doubled = (what, was, is) => {
    // no round trip at all is no number
    if (!(is.p99 <= 2 * was.p99)) missed.push(`p99${what} ${(is.p99 / was.p99).toFixed(1)} times`);
  };
  doubled("", quiet[kind], during);
  doubled(" over WebTransport", quiet[kind].webtransport, during.webtransport);
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
  const p99 = (was, is) => `${ms(was.p99)} / ${ms(is.p99)}`;
  const connecting = ({ newcomers: { p50, max } }) => `${ms(p50)} (${ms(max)})`;
  const seconds = (value) => (value === undefined ? `> ${BACK} s` : `${value.toFixed(0)} s`);
  const count = done.toLocaleString("en") + (refused > 0 ? ` (${refused.toLocaleString("en")} refused)` : "");
  return [
    title,
    `${count} ${unit}`,
    `${mib(before.resident)} / ${mib(during.resident)} / ${mib(after.after.resident)}`,
    p99(before, during),
    p99(before.webtransport, during.webtransport),
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
