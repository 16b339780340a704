// A table of scenarios, each run against our server and against Node's: the observations must be equal.
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { Lab, MODES } from "./lab.mjs";
import { startOurs, startTwin } from "./server.mjs";

/** A scenario that hangs says where, before the runner's own patience ends. */
const PATIENCE = 10_000;

/**
 * @param {string} title
 * @param {Record<string, (lab: Lab) => Promise<unknown>>} scenarios by the promise that they check
 * @param {{flags?: string[], parser?: "json"|"msgpack", modes?: (keyof MODES)[]}} options
 */
export function compare(title, scenarios, { flags = [], parser = "json", modes = Object.keys(MODES) } = {}) {
  describe(`${title} (${parser})`, () => {
    const servers = [];
    before(async () => {
      const all = ["--parser", parser, ...flags];
      // one by one, so that the first is stopped even if the second cannot start
      servers.push(await startOurs(all));
      servers.push(await startTwin(all));
    });
    after(() => Promise.all(servers.map((server) => server.stop())));
    let count = 0;
    for (const [name, scenario] of Object.entries(scenarios)) {
      for (const mode of scenario.modes ?? modes) {
        const label = String(++count);
        test(`${name}, ${mode}`, { timeout: PATIENCE }, async () => {
          const runs = servers.map((server) => run(server, scenario, { mode, parser, label }));
          const [ours, node] = await Promise.all(runs);
          assert.deepEqual(ours, node);
          assert.ok(!isEmpty(node), "the scenario has observed nothing");
        });
      }
    }
  });
}

async function run(server, scenario, options) {
  const lab = new Lab(server, options);
  try {
    return lab.plain(await scenario(lab));
  } catch (error) {
    throw new Error(`${server.kind}: ${error.message}`, { cause: error });
  } finally {
    lab.close();
  }
}

const isEmpty = (value) =>
  value === undefined || (typeof value === "object" && value !== null && Object.keys(value).length === 0);

/** Marks a scenario that has a meaning on these transports only. */
export const only = (modes, scenario) => Object.assign(scenario, { modes });
