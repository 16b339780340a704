// The same cluster of both kinds of nodes over other forms of Redis: every operation in every direction. What
// comes of it is a table in docs/cluster.md; UPDATE_DOCS=1 writes it, otherwise it is compared.
import assert from "node:assert/strict";
import { readFile, writeFile } from "node:fs/promises";
import { after, before, describe, test } from "node:test";
import { startCluster } from "./lib/cluster.mjs";
import { OPERATIONS, people } from "./lib/operations.mjs";

const DOCS = new URL("../../docs/cluster.md", import.meta.url);
const LIMIT = { timeout: 30_000 };
const SHARDED = ["--redis-sharded-pubsub", "true"];
const STREAMS = ["--redis-stream-count", "4"];
const DIRECTIONS = ["Rust → Rust", "Rust → Node", "Node → Rust"];

const FORMS = {
  "sharded pub/sub": () => startCluster(SHARDED),
  "Redis Cluster, 4 streams": () => startCluster(STREAMS, { sharedOut: true }),
  "Redis Cluster, 4 streams, sharded pub/sub": () =>
    startCluster([...SHARDED, ...STREAMS], { sharedOut: true }),
};

const results = new Map();

for (const [form, start] of Object.entries(FORMS)) {
  describe(form, { concurrency: false }, () => {
    let cluster;
    before(async () => {
      cluster = await start();
    }, LIMIT);
    after(() => cluster?.stop(), LIMIT);
    results.set(form, new Map(DIRECTIONS.map((direction) => [direction, 0])));
    for (const direction of DIRECTIONS) {
      test(direction, LIMIT, async (context) => {
        const pair = cluster.directions[direction];
        for (const [operation, body] of Object.entries(OPERATIONS)) {
          await context.test(operation, () => people(pair, (all) => body(all, pair)));
          const row = results.get(form);
          row.set(direction, row.get(direction) + 1);
        }
      });
    }
  });
}

test("the table in docs/cluster.md is what came of it", async () => {
  const all = Object.keys(OPERATIONS).length;
  const lines = [`| form | ${DIRECTIONS.join(" | ")} |`, "|---|---|---|---|"];
  for (const [form, row] of results) {
    const cells = DIRECTIONS.map((direction) => `${row.get(direction)} of ${all}`);
    lines.push(`| ${form} | ${cells.join(" | ")} |`);
  }
  const docs = await readFile(DOCS, "utf8");
  const pattern = /(<!-- interop forms -->\n)[^]*?(\n<!-- end -->)/;
  assert.match(docs, pattern);
  const updated = docs.replace(pattern, (_, begin, close) => begin + lines.join("\n") + close);
  if (process.env.UPDATE_DOCS) await writeFile(DOCS, updated);
  else assert.equal(docs, updated, "UPDATE_DOCS=1 node --test cluster-forms.test.mjs writes it");
});
