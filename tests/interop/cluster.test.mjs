// Nodes of ours and of Node's in one cluster: every operation in every direction, and the emitter. What
// comes of it is the table in docs/cluster.md; UPDATE_DOCS=1 writes it, otherwise it is compared.
import assert from "node:assert/strict";
import { readFile, writeFile } from "node:fs/promises";
import { after, before, describe, test } from "node:test";
import { open, startCluster } from "./lib/cluster.mjs";
import { Emitter, IS_OFFICIAL } from "./lib/emitter.mjs";
import { ANYTHING, bytes, end, expect, OPERATIONS, people } from "./lib/operations.mjs";

const DOCS = new URL("../../docs/cluster.md", import.meta.url);
const LIMIT = { timeout: 30_000 };

let cluster;
before(async () => {
  // the order of events is looked at, too
  cluster = await startCluster([], { patient: true });
}, LIMIT);
after(() => cluster?.stop(), LIMIT);

/** The emitter's calls do not wait, but come in their order: when this has come, the others have. */
const settled = async (all, emitter) => {
  for (const client of [all.inside, all.outside]) {
    emitter.to(client.id).emit("settled");
    await expect(client, ["settled"]);
  }
};

/** What the emitter can do; see lib/emitter.mjs. */
const EMITTED = {
  "emit to all": async (all, emitter) => {
    emitter.emit("emitted", "to all");
    for (const client of [all.inside, all.outside]) await expect(client, ["emitted", "to all"]);
  },
  "emit to a room": async (all, emitter) => {
    emitter.to(all.room).emit("emitted", ...ANYTHING);
    await expect(all.inside, ["emitted", ...ANYTHING]);
    await settled(all, emitter);
  },
  "emit to all except a room": async (all, emitter) => {
    emitter.except(all.room).emit("emitted", 7);
    await expect(all.outside, ["emitted", 7]);
    await settled(all, emitter);
  },
  "emit binary": async (all, emitter) => {
    emitter.to(all.room).emit("emitted", bytes(9, 8));
    await expect(all.inside, ["emitted", bytes(9, 8)]);
  },
  "emit in another namespace": async (all, emitter) => {
    const guest = await open(all.node, { nsp: "/notifications" });
    try {
      emitter.of("/notifications").emit("emitted", "there");
      await expect(guest, ["emitted", "there"]);
      await settled(all, emitter);
    } finally {
      guest.close();
    }
  },
  socketsJoin: async (all, emitter) => {
    emitter.to(all.room).socketsJoin(`${all.room}-3`);
    await settled(all, emitter);
    await all.caller.ask({ op: "emit", event: "joined", to: [`${all.room}-3`] });
    await end(all);
    await expect(all.inside, ["joined"], ["end"]);
    await expect(all.outside, ["end"]);
  },
  socketsLeave: async (all, emitter) => {
    emitter.to(all.inside.id).socketsLeave(all.room);
    await settled(all, emitter);
    await all.caller.ask({ op: "emit", event: "left", to: [all.room] });
    await end(all);
    await expect(all.inside, ["end"]);
  },
  disconnectSockets: async (all, emitter) => {
    emitter.to(all.room).disconnectSockets(false);
    assert.equal(await all.inside.disconnected, "io server disconnect");
  },
  "disconnectSockets(true)": async (all, emitter) => {
    emitter.to(all.room).disconnectSockets(true);
    assert.match(await all.inside.disconnected, /^(io server disconnect|transport close)$/);
  },
  serverSideEmit: async (all, emitter) => {
    emitter.serverSideEmit("tell", "from afar");
    await expect(all.inside, ["server-side", "from afar"]);
  },
  "serverSideEmit binary": async (all, emitter) => {
    emitter.serverSideEmit("tell", bytes(0, 255));
    await expect(all.inside, ["server-side", bytes(0, 255)]);
  },
};

const DIRECTIONS = ["Rust → Rust", "Rust → Node", "Node → Rust"];
const results = new Map();
const note = (operation, direction) => {
  const row = results.get(operation) ?? new Map();
  results.set(operation, row.set(direction, true));
};

describe("every operation arrives in every direction", { concurrency: false }, () => {
  for (const [operation, body] of Object.entries(OPERATIONS)) {
    results.set(operation, new Map());
    for (const direction of DIRECTIONS) {
      test(`${operation}: ${direction}`, LIMIT, async () => {
        const pair = cluster.directions[direction];
        await people(pair, (all) => body(all, pair));
        note(operation, direction);
      });
    }
  }
});

const EMITTER = IS_OFFICIAL ? "the official streams emitter" : "the streams emitter's entries, by XADD";
describe(`what comes of ${EMITTER}`, { concurrency: false }, () => {
  for (const [operation, body] of Object.entries(EMITTED)) {
    const name = `emitter: ${operation}`;
    results.set(name, new Map());
    for (const [direction, at] of [["emitter → Rust", "b"], ["emitter → Node", "n"]]) {
      test(`${operation}: ${direction}`, LIMIT, async () => {
        const { redis, nodes } = cluster;
        const emitter = new Emitter(redis.client);
        await people([nodes.a, nodes[at]], (all) => body({ ...all, node: nodes[at] }, emitter));
        note(name, direction);
      });
    }
  }
});

test("both kinds of nodes see one order of what both publish", LIMIT, async () => {
  const { a, b, n } = cluster.nodes;
  const readers = await Promise.all([a, b, n].map((node) => open(node)));
  const publish = async (client, name) => {
    const asked = [];
    for (let i = 0; i < 100; i++) asked.push(client.ask({ op: "emit", event: name, args: [i] }));
    await Promise.all(asked);
  };
  await Promise.all([publish(readers[0], "a"), publish(readers[1], "b")]);
  const orders = [];
  for (const reader of readers) {
    const order = [];
    while (order.length < 200) order.push((await reader.next()).join(" "));
    orders.push(order);
    reader.close();
  }
  assert.deepEqual(orders[1], orders[0]);
  // Node delivers what other nodes publish in the stream's order, too
  assert.deepEqual(orders[2], orders[0]);
});

test("the table in docs/cluster.md is what came of it", async () => {
  const mark = (row, direction) => (row.get(direction) ? "✓" : "–");
  const lines = ["| operation | Rust → Rust | Rust → Node | Node → Rust |", "|---|---|---|---|"];
  const emitter = ["| entry of the emitter | → Rust | → Node |", "|---|---|---|"];
  for (const [operation, row] of results) {
    if (operation.startsWith("emitter: ")) {
      const marks = ["emitter → Rust", "emitter → Node"].map((direction) => mark(row, direction));
      emitter.push(`| ${operation.slice("emitter: ".length)} | ${marks.join(" | ")} |`);
    } else {
      const marks = DIRECTIONS.map((direction) => mark(row, direction));
      lines.push(`| ${operation} | ${marks.join(" | ")} |`);
    }
  }
  const table = [...lines, "", ...emitter].join("\n");
  const docs = await readFile(DOCS, "utf8");
  const pattern = /(<!-- interop matrix -->\n)[^]*?(\n<!-- end -->)/;
  assert.match(docs, pattern);
  const updated = docs.replace(pattern, (_, begin, close) => begin + table + close);
  if (process.env.UPDATE_DOCS) await writeFile(DOCS, updated);
  else assert.equal(docs, updated, "UPDATE_DOCS=1 node --test cluster.test.mjs writes it");
});
