// The same cluster of both kinds of nodes over other forms of Redis: every operation in every direction. What
// comes of it is a table in docs/cluster.md; UPDATE_DOCS=1 writes it, otherwise it is compared.
import assert from "node:assert/strict";
import { readFile, writeFile } from "node:fs/promises";
import { after, before, describe, test } from "node:test";
import { open, startCluster } from "./lib/cluster.mjs";
import { Emitter } from "./lib/emitter.mjs";
import { expect, OPERATIONS, people } from "./lib/operations.mjs";

const DOCS = new URL("../../docs/cluster.md", import.meta.url);
const LIMIT = { timeout: 30_000 };
const SHARDED = ["--redis-sharded-pubsub", "true"];
const STREAMS = ["--redis-stream-count", "4"];
const DIRECTIONS = ["Rust → Rust", "Rust → Node", "Node → Rust"];

/** `nsp`: where the operations are tried; `unread`: a direction that Node does not take part in there. */
const FORMS = {
  "sharded pub/sub": { flags: SHARDED },
  "4 streams": { flags: STREAMS },
  // Node writes such namespaces to a stream that none of its own nodes reads
  "4 streams, a namespace of a negative hash": {
    flags: STREAMS,
    nsp: "/notifications",
    unread: "Rust → Node",
  },
  "Redis Cluster, 4 streams": { flags: STREAMS, sharedOut: true },
  "Redis Cluster, 4 streams, sharded pub/sub": { flags: [...SHARDED, ...STREAMS], sharedOut: true },
};

const results = new Map();

for (const [form, { flags, nsp = "/", unread, sharedOut }] of Object.entries(FORMS)) {
  describe(form, { concurrency: false }, () => {
    let cluster;
    before(async () => {
      cluster = await startCluster(flags, { sharedOut });
    }, LIMIT);
    after(() => cluster?.stop(), LIMIT);
    results.set(form, new Map(DIRECTIONS.map((direction) => [direction, 0])));
    for (const direction of DIRECTIONS) {
      if (direction === unread) {
        results.get(form).set(direction, null);
        continue;
      }
      test(direction, LIMIT, async (context) => {
        const pair = cluster.directions[direction];
        for (const [operation, body] of Object.entries(OPERATIONS)) {
          await context.test(operation, () => people(pair, (all) => body(all, pair), nsp));
          const row = results.get(form);
          row.set(direction, row.get(direction) + 1);
        }
      });
    }
    if (flags.includes(STREAMS[0])) {
      test("an emitter that knows one stream only is read", LIMIT, async () => {
        const emitter = new Emitter(cluster.redis.client);
        const guest = await open(cluster.nodes.b, { nsp });
        emitter.of(nsp).emit("emitted", 1);
        await expect(guest, ["emitted", 1]);
        guest.close();
      });
    }
  });
}

test("the table in docs/cluster.md is what came of it", async () => {
  const all = Object.keys(OPERATIONS).length;
  const lines = [`| form | ${DIRECTIONS.join(" | ")} |`, "|---|---|---|---|"];
  for (const [form, row] of results) {
    const cell = (passed) => (passed === null ? "Node does not read it" : `${passed} of ${all}`);
    const cells = DIRECTIONS.map((direction) => cell(row.get(direction)));
    lines.push(`| ${form} | ${cells.join(" | ")} |`);
  }
  const docs = await readFile(DOCS, "utf8");
  const pattern = /(<!-- interop forms -->\n)[^]*?(\n<!-- end -->)/;
  assert.match(docs, pattern);
  const updated = docs.replace(pattern, (_, begin, close) => begin + lines.join("\n") + close);
  if (process.env.UPDATE_DOCS) await writeFile(DOCS, updated);
  else assert.equal(docs, updated, "UPDATE_DOCS=1 node --test cluster-forms.test.mjs writes it");
});
