// Connection state recovery with unmodified official clients: each way in which the reference refuses or
// corrupts one, on one node and on two over Redis. `RECOVERY_KIND=node node --test recovery.test.mjs` asks
// Node's server the same: what fails there is what this is about. `make rollout` makes a table of both.
import { describe, test } from "node:test";
import { GROUPS, runCase } from "./lib/recovery/cases.mjs";
import { TOPOLOGIES } from "./lib/recovery/lab.mjs";

const KIND = process.env.RECOVERY_KIND ?? "ours";

for (const [group, cases] of Object.entries(GROUPS)) {
  describe(group, { concurrency: false }, () => {
    for (const each of cases) {
      // what Node has no means for says nothing about it
      if (each.ours && KIND === "node") continue;
      for (const topology of each.on) {
        const name = `${each.name}: ${TOPOLOGIES[topology].title}`;
        test(name, { timeout: 90_000 }, () => runCase(KIND, each, topology));
      }
    }
  });
}
