// `make siege`: each attack of bench/siege against the release binary, under the traffic of official clients.
// Names of attacks as arguments run only those; SIEGE=quick makes each short, and one round; ROUNDS=5 are so many (three else);
// UPDATE_DOCS=1 writes the table
// and docs/siege.json, also when an attack could not be run: its row says why. SIEGE_AT=another aims at a second
// server, whose work has the lowest priority as well: what the normal clients see then, the machine has done.
import { execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { readFile, writeFile } from "node:fs/promises";
import { cpus, loadavg } from "node:os";
import { fileURLToPath } from "node:url";
import { Page, startBrowser } from "./lib/siege/browser.mjs";
import { Newcomers, visits } from "./lib/siege/newcomers.mjs";
import { startServer } from "./lib/siege/server.mjs";
import { BACK, misses, quiets, row, table, together, told } from "./lib/siege/table.mjs";
import { Traffic } from "./lib/siege/traffic.mjs";

const path = (relative) => fileURLToPath(new URL(relative, import.meta.url));
const BINARY = process.env.QUICKET ?? path("../../target/release/quicket");
const ATTACKER = process.env.SIEGE_ATTACK ?? path("../../bench/target/release/siege-attack");
const quick = process.env.SIEGE === "quick";
const aside = process.env.SIEGE_AT === "another";
/** How often each attack is made, one after the other: an odd number, for the median. */
const ROUNDS = Number(process.env.ROUNDS || (quick ? 1 : 3));
if (!(Number.isInteger(ROUNDS) && ROUNDS % 2 === 1)) throw new Error(`ROUNDS has to be an odd number, not ${process.env.ROUNDS}`);
/** Seconds of quiet that are measured, and of the attack. */
const [QUIET, ATTACK] = quick ? [2, 3] : [5, 16];
/** Where no other attack has normal clients that do the same, so that there are no other quiet seconds. */
const ALONE = 4 * QUIET;
/** Seconds that visitors come before an attack, and for which the server rests after them: it looks every 10 s for what
 * can be given back. */
const [VISIT, REST] = quick ? [1, 12] : [3, 12];
/** Memory is back when it is within this of what it was. */
const WITHIN = 1.1;
/** Seconds that attackers may take to begin and to end. */
const PATIENCE = 20;

/** A board of 40,000 numbers, and enough that is drawn for a client that does not read to be given up. */
const SLOW = { draws: 40, points: 200, strokes: 200, flags: ["--outbox-bytes", "256Ki"] };
const GIVEN_UP = 'quicket_sessions_closed_total{reason="slow_consumer"}';

/**
 * Limits for one address hold, and the attackers have so many addresses that they take nine tenths of the places that there
 * are for sessions without a namespace: with all of them taken, newcomers would rightly be sent away.
 */
const LIMITED = { flags: ["--per-ip-exempt", "off"], addresses: 9 };

/** What an attack needs of the server, of the attackers, or of the normal clients, beyond the usual. */
const SPECIAL = {
  "handshake-flood": LIMITED,
  "half-open-tls": { tls: true, quiet: ALONE },
  "no-window": { tls: true, quiet: ALONE },
  "compression-bombs": { flags: ["--per-message-deflate", "1024"] },
  calm: SLOW,
  "slow-readers-websocket": SLOW,
  "slow-readers-polling": SLOW,
  "slow-readers-webtransport": SLOW,
};

/** What the machine and the normal clients do by themselves. */
const CALM = { name: "calm", title: "Nobody attacks", unit: "attacks" };

const sleep = (seconds) => new Promise((resolve) => setTimeout(resolve, seconds * 1000));

/** Takes the most that is seen until it is asked. */
function watch(server) {
  const peak = { resident: 0, descriptors: 0 };
  const look = () => {
    const now = server.usage();
    for (const name of Object.keys(peak)) peak[name] = Math.max(peak[name], now[name]);
  };
  const timer = setInterval(look, 100);
  return () => {
    clearInterval(timer);
    return peak;
  };
}

async function attack(name, server, special) {
  if (name === CALM.name) {
    await sleep(ATTACK);
    return { done: 0, refused: 0 };
  }
  return attackers(name, server, ATTACK, special);
}

/** The same on a server that none of the normal clients uses. */
async function elsewhere(name, special) {
  const server = await startServer(BINARY, special);
  try {
    execFileSync("chrt", ["--all-tasks", "--idle", "--pid", "0", String(server.pid)]);
    return await attack(name, server, special);
  } finally {
    await server.stop();
  }
}

async function attackers(name, server, duration, special) {
  // In the field attackers bring processors of their own. Here they have one that they share, of the lowest priority:
  // others that wake up wait for one with `nice 19` to the end of its slice, and for this one until it leaves the kernel,
  // which on the other processor nobody has to.
  const { addresses = 1 } = special;
  const args = ["--server", `127.0.0.1:${server.port}`, "--seconds", String(duration), "--addresses", String(addresses)];
  const theirs = ["chrt", "--idle", "0", "taskset", "--cpu-list", String(cpus().length - 1), ATTACKER, name];
  const [command, ...rest] = [...theirs, ...args];
  const child = spawn(command, rest, { stdio: ["ignore", "pipe", "inherit"] });
  let output = "";
  child.stdout.on("data", (data) => (output += data));
  const late = setTimeout(() => child.kill("SIGKILL"), (duration + PATIENCE) * 1000);
  const [code, signal] = await once(child, "close");
  clearTimeout(late);
  if (code !== 0) throw new Error(`${name}: the attackers ended with ${code ?? signal}`);
  return JSON.parse(output);
}

/** Seconds until memory, descriptors and sessions are as they were; undefined if they were not in time. */
async function untilBack(server, before, clients) {
  const begin = performance.now();
  const seconds = () => (performance.now() - begin) / 1000;
  let memory, descriptors, sessions;
  do {
    const now = server.usage();
    const { quicket_sessions } = await server.metrics("quicket_sessions");
    if (now.resident <= before.resident * WITHIN) memory ??= seconds();
    else memory = undefined;
    // polls come and go, so the number of descriptors of the normal clients is not the same at all times
    if (now.descriptors <= before.descriptors + clients) descriptors ??= seconds();
    if (quicket_sessions <= clients) sessions ??= seconds();
    if (memory !== undefined && descriptors !== undefined && sessions !== undefined) break;
    await sleep(0.25);
  } while (seconds() < BACK);
  return { memory, descriptors, sessions, after: server.usage() };
}

/** Waits until only the normal clients are left. */
async function untilGone(server, clients) {
  for (const begin = performance.now(); performance.now() - begin < BACK * 1000; await sleep(0.25)) {
    const { quicket_sessions } = await server.metrics("quicket_sessions");
    if (quicket_sessions <= clients) return;
  }
  throw new Error("visitors have not left");
}

/**
 * A server that has been in use on every transport, by a hundred at once: the first of them make it read in code, and of
 * each size of object one page stays.
 */
async function warmUp(server, special) {
  // visitors speak no TLS over TCP
  if (special.tls) return visits(server.url, 100, VISIT);
  const { done, refused } = await attackers("visitors", server, VISIT, special);
  if (done < 100 || refused > 0) throw new Error(`of the visitors ${done} were let in, ${refused} were not`);
}

/** The normal clients and what they have seen. */
class Normal {
  #traffic = new Traffic();
  #page = new Page();
  #newcomers = [];

  async start(browser, server, special) {
    await this.#traffic.start(server.url, special);
    await this.#page.start(browser, server);
  }

  /** What is seen of the server and its clients, and of newcomers who come meanwhile. */
  async during(server, seconds, work) {
    await this.take();
    const watched = watch(server);
    const { cpu } = server.usage();
    const newcomers = new Newcomers(server.url, this.#page);
    this.#newcomers.push(newcomers);
    const done = await work();
    const seen = { ...watched(), cpu: (server.usage().cpu - cpu) / seconds, ...(await this.take()) };
    if (seen.webtransport.seen === 0) this.#page.errors.push("webtransport: not one stroke was seen");
    await newcomers.stop();
    return [{ ...seen, newcomers: newcomers.take() }, done];
  }

  /** Since the last call. */
  async take() {
    return { ...this.#traffic.take(), webtransport: await this.#page.take() };
  }

  async stop() {
    this.#traffic.stop();
    await this.#page.stop();
  }

  get errors() {
    return [this.#traffic, this.#page, ...this.#newcomers].flatMap(({ errors }) => errors);
  }

  get clients() {
    return this.#traffic.clients + this.#page.clients;
  }
}

/** What the normal clients do, in words: those that do the same are compared with each other. */
function kindOf({ draws, tls }) {
  if (tls) return "TLS";
  return draws === undefined ? "usual" : "full fan-out";
}

/** A server that has been in use and has rested, and its normal clients. */
async function prepare({ name }, browser) {
  const special = SPECIAL[name] ?? {};
  const server = await startServer(BINARY, special);
  const normal = new Normal();
  try {
    await normal.start(browser, server, special);
    await warmUp(server, special);
    await untilGone(server, normal.clients);
    await sleep(REST);
  } catch (error) {
    await normal.stop();
    await server.stop();
    throw error;
  }
  return { special, server, normal };
}

/** One attack; if it cannot be made or measured, why. `over` is called when it is, and before all is back. */
async function siege(one, preparing, over) {
  try {
    return await measured(one, await preparing, over);
  } catch (error) {
    over();
    return { ...one, failed: String(error.message ?? error), errors: [] };
  }
}

async function measured({ name, title, unit }, { special, server, normal }, over) {
  const errors = [];
  let result;
  try {
    const { quiet = QUIET } = special;
    const [before] = await normal.during(server, quiet, () => sleep(quiet));
    const met = await server.met();
    const [during, { done, refused }] = await normal.during(server, ATTACK, () =>
      aside ? elsewhere(name, special) : attack(name, server, special),
    );
    during.met = await server.met(met);
    // as late as an attack may look back
    if (name === CALM.name) await sleep(BACK);
    over();
    const back = await untilBack(server, before, normal.clients);
    const after = { ...back, ...(await normal.take()) };
    const { [GIVEN_UP]: givenUp } = await server.metrics(GIVEN_UP);
    if (!aside && name.startsWith("slow-readers") && givenUp < done) {
      errors.push(`only ${givenUp} of ${done} slow readers were given up`);
    }
    result = { name, title, unit, kind: kindOf(special), done, refused, givenUp, before, during, after };
  } finally {
    await normal.stop();
    const { code } = await server.stop();
    if (code !== 0) errors.push(`the server ended with ${code}: ${server.log.slice(-5).join(" / ")}`);
  }
  return { ...result, errors: [...normal.errors, ...errors] };
}

const all = [CALM, ...JSON.parse(execFileSync(ATTACKER, ["list"], { encoding: "utf8" }))];
const wanted = process.argv.slice(2);
const unknown = wanted.filter((name) => !all.some((attack) => attack.name === name));
if (unknown.length > 0) throw new Error(`no such attack: ${unknown}; there are ${all.map(({ name }) => name).join(", ")}`);
const begin = performance.now();
const browser = await startBrowser();
const chosen = all.filter(({ name }) => wanted.length === 0 || wanted.includes(name));
const turns = Array.from({ length: ROUNDS }, () => chosen).flat();
/** Each at most once, and while the server before it gives back what it has. */
const prepared = new Map();
const prepareNext = (at) => {
  if (at === turns.length || prepared.has(at)) return;
  const preparing = prepare(turns[at], browser);
  preparing.catch(() => {}); // who waits for it hears of it
  prepared.set(at, preparing);
};
prepareNext(0);
const seen = [];
for (const [at, one] of turns.entries()) {
  const result = await siege(one, prepared.get(at), () => prepareNext(at + 1));
  seen.push(result);
  const round = quiets(seen.slice(at - (at % chosen.length)));
  console.log(`${one.name}: ${row(together([result], [round])).slice(1).join(" | ")}`);
  if (result.during !== undefined) console.log(`    met: ${JSON.stringify(result.during.met)}`);
  for (const error of new Set(result.errors.slice(0, 5))) console.log(`    ${error}`);
}
await browser.close();
const rounds = Array.from({ length: ROUNDS }, (_, round) => seen.slice(round * chosen.length, (round + 1) * chosen.length));
const quiet = rounds.map(quiets);
const results = chosen.map((_, at) => together(rounds.map((round) => round[at]), quiet));
const lines = table(results, ATTACK);
const minutes = (performance.now() - begin) / 60_000;
const machine = `${cpus().length} cores (${cpus()[0].model}), load ${loadavg()[0].toFixed(1)} at the end`;
const calm = told(quiet);
/** Single times are too many to keep. */
const shown = (key, value) => (key === "times" ? undefined : value);
console.log(`\n${lines}\n\n${calm}\n${minutes.toFixed(1)} minutes on ${machine}`);
if (process.env.UPDATE_DOCS && wanted.length === 0 && !quick && !aside) {
  const docs = new URL("../../docs/siege.md", import.meta.url);
  const took = `in ${ROUNDS} ${ROUNDS === 1 ? "round" : "rounds"} and ${minutes.toFixed(0)} minutes`;
  const when = `Measured ${new Date().toISOString().slice(0, 10)} on ${machine}, ${took}. ${calm}`;
  const text = await readFile(docs, "utf8");
  const pattern = /(<!-- siege table -->\n)[^]*?(<!-- end -->)/;
  if (!pattern.test(text)) throw new Error("docs/siege.md has no place for the table");
  await writeFile(docs, text.replace(pattern, (_, first, last) => `${first}${when}\n\n${lines}\n${last}`));
  const json = JSON.stringify({ machine, results, rounds: rounds.map((results, at) => ({ quiet: quiet[at], results })) }, shown, 1);
  await writeFile(new URL("../../docs/siege.json", import.meta.url), `${json}\n`);
}
process.exitCode = results.some((result) => misses(result).length > 0) ? 1 : 0;
