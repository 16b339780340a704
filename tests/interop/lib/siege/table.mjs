// What `make siege` has seen, as a table.
import { summary } from "./traffic.mjs";

const MIB = 2 ** 20;
/** Seconds within which resources have to be back. */
export const BACK = 60;
/** Those that the normal clients use, each with round trips of its own: over polling they take several times as long. */
const TRANSPORTS = { websocket: "WebSocket", polling: "polling", webtransport: "WebTransport" };

/** What has to be back. */
const RESOURCES = ["memory", "descriptors", "sessions"];

const HEAD = [
  "attack",
  "how often",
  "MiB before / peak / after",
  ...Object.values(TRANSPORTS).map((name) => `p99 over ${name}, ms before / during (times quiet)`),
  "newcomers' connecting in ms before / during",
  "server's CPU",
  "errors",
  "memory, descriptors, sessions back after",
  "misses",
];

/**
 * What was seen while all was quiet, of all results of one round together whose normal clients did the same (`kind`). One
 * result's own before is of 5 seconds: its p99 is what three or five of the slowest round trips took, and of the same
 * server with nobody attacking it is 3 ms once and 6 ms the next time.
 */
export function quiets(results) {
  const seen = results.filter(({ before }) => before !== undefined);
  const together = (all) =>
    Object.fromEntries(Object.keys(TRANSPORTS).map((name) => [name, summary(all.flatMap(({ before }) => before[name].times)).p99]));
  const kinds = [...new Set(seen.map(({ kind }) => kind))];
  return Object.fromEntries(kinds.map((kind) => [kind, together(seen.filter((result) => result.kind === kind))]));
}

/** What `quiets` gives of each round, in words. */
export function told(rounds) {
  const kinds = Object.keys(Object.assign({}, ...rounds));
  const p99 = (kind) =>
    Object.entries(TRANSPORTS).map(([name, title]) => {
      const times = rounds.filter((quiet) => kind in quiet).map((quiet) => quiet[kind][name].toFixed(1));
      return `${title} ${times.join(" / ")}`;
    });
  const words = kinds.map((kind) => `${kind}: ${p99(kind).join(", ")}`);
  return `p99 of all quiet seconds${rounds.length > 1 ? ", of each round," : ""} in ms: ${words.join("; ")}.`;
}

function median(values) {
  const sorted = values.toSorted((a, b) => a - b);
  return sorted[Math.floor(sorted.length / 2)];
}

/**
 * What the rounds have seen of one attack. Of times, counts and the processor it is the median, since an odd number of rounds
 * does not let the machine's one bad minute speak; each time is held against the quiet seconds of its own round. Of memory and
 * of what has to come back it is the worst, and errors are those of all.
 */
export function together(results, rounds) {
  const failed = results.find(({ failed }) => failed !== undefined);
  if (failed !== undefined) return failed;
  const [{ title, unit, kind }] = results;
  const of = (get, choose = median) => choose(results.map(get));
  const worst = (values) => values.reduce((worst, value) => (value === undefined || value > worst ? value : worst), -Infinity);
  const newcomers = (when) => ({
    samples: of((result) => result[when].newcomers.samples, (all) => Math.min(...all)),
    p50: of((result) => result[when].newcomers.p50),
    max: of((result) => result[when].newcomers.max, worst),
  });
  const transports = Object.keys(TRANSPORTS).map((name) => {
    const ratio = ({ during }, round) => during[name].p99 / rounds[round][kind][name];
    return [name, { before: of(({ before }) => before[name].p99), during: of(({ during }) => during[name].p99), ratio: median(results.map(ratio)), silent: results.some(({ before, during }) => !(before[name].samples > 0 && during[name].samples > 0)) }];
  });
  return {
    title,
    unit,
    done: of(({ done }) => done),
    refused: of(({ refused }) => refused),
    transports: Object.fromEntries(transports),
    before: { resident: of(({ before }) => before.resident), newcomers: newcomers("before") },
    during: { resident: of(({ during }) => during.resident, worst), newcomers: newcomers("during"), cpu: of(({ during }) => during.cpu) },
    after: {
      resident: of(({ after }) => after.after.resident, worst),
      ...Object.fromEntries(RESOURCES.map((what) => [what, of(({ after }) => after[what], worst)])),
    },
    errors: results.flatMap(({ errors }) => errors),
  };
}

/** What an attack misses of what issue 8 wants. */
export function misses({ failed, transports, before, during, after, errors }) {
  if (failed !== undefined) return [failed];
  const missed = [];
  if (errors.length > 0) missed.push(`${errors.length} errors`);
  for (const [name, { ratio, silent }] of Object.entries(transports)) {
    if (silent) missed.push(`no round trip over ${TRANSPORTS[name]} in some round`);
    else if (!(ratio <= 2)) missed.push(`p99 over ${TRANSPORTS[name]} ${ratio.toFixed(1)} times`);
  }
  if (!(before.newcomers.samples > 0 && during.newcomers.samples > 0)) missed.push("no newcomers");
  for (const what of RESOURCES) {
    if (after[what] === undefined) missed.push(`${what} not back`);
  }
  return missed;
}

export function row(result) {
  const { title, unit, done, refused, transports, before, during, after, errors } = result;
  if (result.failed !== undefined) return [title, ...Array(HEAD.length - 2).fill("-"), result.failed.split("\n")[0]];
  const mib = (bytes) => (bytes / MIB).toFixed(1);
  const ms = (value) => value.toFixed(1);
  const connecting = ({ newcomers: { p50, max } }) => `${ms(p50)} (${ms(max)})`;
  const seconds = (value) => (value === undefined ? `> ${BACK} s` : `${value.toFixed(0)} s`);
  const count = done.toLocaleString("en") + (refused > 0 ? ` (${refused.toLocaleString("en")} refused)` : "");
  return [
    title,
    `${count} ${unit}`,
    `${mib(before.resident)} / ${mib(during.resident)} / ${mib(after.resident)}`,
    ...Object.values(transports).map(({ before, during, ratio }) => `${ms(before)} / ${ms(during)} (${ratio.toFixed(1)})`),
    [before, during].map(connecting).join(" / "),
    `${(during.cpu * 100).toFixed(0)} %`,
    errors.length,
    RESOURCES.map((what) => seconds(after[what])).join(", "),
    misses(result).join(", ") || "none",
  ];
}

/** All of them; `seconds` is how long each attack went on. */
export function table(results, seconds) {
  const head = HEAD.with(1, `in ${seconds} s`);
  return [head, head.map(() => "---"), ...results.map(row)].map((cells) => `| ${cells.join(" | ")} |`).join("\n");
}
