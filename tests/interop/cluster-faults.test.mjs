// Redis fails, and nodes do, in a cluster of both kinds. Node's adapter knows nothing of the numbers by which nodes
// of ours drop repetitions: what it reads twice, its clients get twice.
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { open, startCluster } from "./lib/cluster.mjs";

const LIMIT = { timeout: 90_000 };
/** Between two events of a node: enough of them to have some on every way at any moment. */
const PACE_MS = 4;
/** How long Redis hangs. */
const HANG_MS = 10_000;

/** Both nodes of ours publish numbered events all the time; clients of all three nodes note them. */
class Load {
  #going = true;
  #publishing;
  #readers;
  /** How many a node has published, by its name. */
  published = { a: 0, b: 0 };

  static async start({ nodes }) {
    const load = new Load();
    const [a, b] = await Promise.all([open(nodes.a), open(nodes.b)]);
    load.#readers = await Promise.all(Object.values(nodes).map((node) => open(node)));
    await load.#everyoneReads(a);
    load.#publishing = [load.#publish(a, "a"), load.#publish(b, "b")];
    return load;
  }

  /** Node's reader starts when it is ready, and nobody is told: what was published before is lost for it. */
  async #everyoneReads(client) {
    const quiet = () => this.#readers.some((reader) => !reader.hasNext());
    for (let i = 0; quiet(); i++) {
      await client.ask({ op: "emit", event: "begin", args: [i] });
      await sleep(20);
    }
  }

  async #publish(client, name) {
    while (this.#going) {
      // accepted whatever Redis does
      await client.ask({ op: "emit", event: name, args: [this.published[name]] });
      this.published[name]++;
      await sleep(PACE_MS);
    }
    await client.ask({ op: "emit", event: "end" });
    client.close();
  }

  /** Until each node has published so many more. */
  async more(count) {
    const before = { ...this.published };
    const behind = (name) => this.published[name] < before[name] + count;
    while (Object.keys(before).some(behind)) await sleep(PACE_MS);
  }

  /** Every client has got every event once, in the order of who published it. */
  async finish() {
    this.#going = false;
    await Promise.all(this.#publishing);
    for (const [at, reader] of this.#readers.entries()) {
      const seen = { a: [], b: [] };
      for (let ends = 0; ends < 2; ) {
        const [event, number] = await reader.next();
        if (event === "end") ends++;
        else seen[event]?.push(number);
      }
      for (const [name, numbers] of Object.entries(seen)) {
        const wrong = numbers.findIndex((number, place) => number !== place);
        const around = numbers.slice(Math.max(0, wrong - 3), wrong + 3);
        assert.equal(wrong, -1, `reader ${at}: events of ${name} around ${wrong}: ${around}`);
        assert.equal(numbers.length, this.published[name], `reader ${at}: events of ${name}`);
      }
      reader.close();
    }
  }
}

describe("Redis fails under a cluster of both kinds, and costs nobody an event", { concurrency: false }, () => {
  let cluster;
  before(async () => {
    cluster = await startCluster([], { keepsData: true });
  }, LIMIT);
  after(() => cluster?.stop(), LIMIT);

  const under = (name, fault) =>
    test(name, LIMIT, async () => {
      const load = await Load.start(cluster);
      await load.more(50);
      await fault(cluster.redis, load);
      await load.more(50);
      await load.finish();
    });

  under("killed and restarted with its data", async (redis, load) => {
    for (let round = 0; round < 3; round++) {
      await redis.kill();
      await load.more(100);
      await redis.restart();
      await load.more(200);
    }
  });

  under("hanging for ten seconds", async (redis) => {
    redis.signal("SIGSTOP");
    await sleep(HANG_MS);
    redis.signal("SIGCONT");
  });

  under("cutting connections again and again", async (redis, load) => {
    for (let cut = 0; cut < 20; cut++) {
      await redis.client.sendCommand(["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
      await load.more(10);
    }
  });
});

describe("a node fails in a cluster of both kinds", { concurrency: false }, () => {
  const withCluster = (name, body) =>
    test(name, LIMIT, async () => {
      const cluster = await startCluster();
      try {
        await body(cluster.nodes, await open(cluster.nodes.a), cluster);
      } finally {
        await cluster.stop();
      }
    });
  const count = (client) => client.ask({ op: "server-count" });
  const fetchesAll = (client, timeout) => client.ask({ op: "fetches-all", timeout });
  const gone = async (node, signal) => {
    node.signal(signal);
    await node.exited;
  };

  const hangs = "one of Node's that hangs makes our answer partial, and one that goes on does not";
  withCluster(hangs, async ({ n }, client) => {
    assert.equal(await fetchesAll(client), true);
    n.signal("SIGSTOP");
    assert.equal(await fetchesAll(client), false);
    const { error, answers } = await client.ask({ op: "server-side-ask", args: [1] });
    assert.notEqual(error, null);
    assert.deepEqual(answers, [{ asked: 1, by: "rust" }]);
    n.signal("SIGCONT");
    assert.equal(await fetchesAll(client), true);
  });

  const dies = "one of Node's that is asked and dies is not waited for, and not asked again";
  withCluster(dies, async ({ n }, client, { redis }) => {
    n.signal("SIGSTOP");
    // whoever listens to a pattern does not count as a node
    const spy = await redis.client.duplicate().connect();
    let tell;
    const published = new Promise((resolve) => (tell = resolve));
    await spy.pSubscribe("*", tell);
    // our node would wait for longer than this test does
    const asked = fetchesAll(client, 600);
    await published;
    spy.destroy();
    await gone(n, "SIGKILL");
    assert.equal(await asked, false);
    assert.equal(await count(client), 2);
    assert.equal(await fetchesAll(client), true);
  });

  for (const [how, signal] of [["leaves", "SIGTERM"], ["crashes", "SIGKILL"]]) {
    const name = `one of ours that ${how} is not counted and not waited for by one of Node's`;
    withCluster(name, async ({ b, n }, _, { counted }) => {
      const client = await open(n);
      assert.equal(await count(client), 3);
      await gone(b, signal);
      // its connections end with it, and Redis hears of that a moment later
      await counted(2);
      assert.equal(await count(client), 2);
      const { error, answers } = await client.ask({ op: "server-side-ask", args: [1] });
      assert.equal(error, null);
      assert.deepEqual(answers, [{ asked: 1, by: "rust" }]);
      client.close();
    });
  }
});
