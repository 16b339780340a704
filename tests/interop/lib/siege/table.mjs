// What `make siege` has seen, as a table.

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

/** What a result misses of what issue 8 wants. */
export function misses({ failed, before, during, after, errors }) {
  if (failed !== undefined) return [failed];
  const missed = [];
  if (errors.length > 0) missed.push(`${errors.length} errors`);
  const doubled = (what, was, is) => {
    // no round trip at all is no number
    if (!(is.p99 <= 2 * was.p99)) missed.push(`p99${what} ${(is.p99 / was.p99).toFixed(1)} times`);
  };
  doubled("", before, during);
  doubled(" over WebTransport", before.webtransport, during.webtransport);
  if (!(before.newcomers.samples > 0 && during.newcomers.samples > 0)) missed.push("no newcomers");
  for (const what of ["memory", "descriptors", "sessions"]) {
    if (after[what] === undefined) missed.push(`${what} not back`);
  }
  return missed;
}

export function row(result) {
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
    misses(result).join(", ") || "none",
  ];
}

/** All of them; `seconds` is how long each attack went on. */
export function table(results, seconds) {
  const head = HEAD.with(1, `in ${seconds} s`);
  return [head, head.map(() => "---"), ...results.map(row)].map((cells) => `| ${cells.join(" | ")} |`).join("\n");
}
