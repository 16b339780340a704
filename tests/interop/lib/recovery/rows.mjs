// The rows of the table in docs/recovery.md: what is done, and how its result reads.
import assert from "node:assert/strict";
import { setTimeout as sleep } from "node:timers/promises";
import { fuzz } from "./fuzz.mjs";
import { Lab } from "./lab.mjs";
import { rollout } from "./rollout.mjs";

const number = (n) => n.toLocaleString("en");

function counts({ expected, lost, hidden, twice, disorder, returns, recovered, deaf }) {
  const silently = hidden === 0 ? "" : ` (${number(hidden)} by clients that were always called recovered)`;
  const wrong = `${number(lost)} lost${silently}, ${number(twice)} twice, ${number(disorder)} out of order`;
  const heard = deaf === 0 ? "" : `; ${number(deaf)} clients hear nothing any more`;
  const back = `${number(recovered)} of ${number(returns)} returns recovered`;
  return `${wrong} of ${number(expected)}; ${back}${heard}`;
}

const deployed = (result) => {
  const state = result.stateless === 0 ? "state of all kept" : `state of ${number(result.stateless)} gone`;
  const silence = `silent for up to ${(result.silence / 1000).toFixed(1)} s`;
  return `${counts(result)}; ${state}; ${silence}`;
};

/** Nothing lost, twice or out of order, everybody back, recovered and with its state: exactly. */
export function assertExact({ lost, twice, disorder, deaf, returns, recovered, stateless = 0 }) {
  const wrong = { lost, twice, disorder, deaf, stateless, refused: returns - recovered };
  const none = { lost: 0, twice: 0, disorder: 0, deaf: 0, stateless: 0, refused: 0 };
  assert.deepEqual(wrong, none);
}

/** About 132,000 events: 6 listeners, 3 publishers with 611 a second each, 12 s. */
export async function cut(kind, topology, { seconds = 12, perSecond = 611 } = {}) {
  const lab = await Lab.start({ kind, topology, patient: true });
  try {
    // as long as a node needs to know that the connection is gone: what it does then is the question
    const reconnectionDelay = 100;
    return await fuzz(lab, { listeners: 6, seconds, every: 400, perSecond, reconnectionDelay });
  } finally {
    await lab.stop();
  }
}

/** Clients that have got nothing when they are cut, and miss one event. */
async function unheard(kind) {
  const lab = await Lab.start({ kind, topology: "other" });
  try {
    const clients = await Promise.all(Array.from({ length: 50 }, () => lab.client()));
    await Promise.all(clients.map((client) => client.away()));
    await lab.emit(0);
    const sessions = await Promise.all(clients.map((client) => client.back()));
    await sleep(500);
    const lost = clients.filter((client) => client.got().length === 0).length;
    const recovered = sessions.filter(({ recovered }) => recovered).length;
    return { recovered, clients: clients.length, lost };
  } finally {
    await lab.stop();
  }
}

/** How long a client that returns waits while Redis is gone. */
async function withoutRedis(kind) {
  const lab = await Lab.start({ kind, topology: "other" });
  try {
    const clients = await Promise.all(Array.from({ length: 20 }, () => lab.client()));
    await lab.emit(0);
    for (const client of clients) await lab.settled(client);
    await Promise.all(clients.map((client) => client.away()));
    await lab.redis.process.kill();
    const waits = clients.map(async (client) => {
      await client.back();
      return performance.now() - client.opened;
    });
    const ended = await Promise.allSettled(waits);
    const times = ended.filter(({ status }) => status === "fulfilled").map(({ value }) => value);
    return { clients: clients.length, connected: times.length, longest: Math.max(...times) };
  } finally {
    await lab.stop();
  }
}

export const ROWS = [
  {
    name: "cut",
    title: "6 listeners, each cut every 0.4 s for 12 s; two servers and an emitter publish",
    run: (kind) => cut(kind, "same"),
    show: counts,
  },
  {
    name: "cut-other",
    title: "the same, the listeners coming back on the other server",
    run: (kind) => cut(kind, "other"),
    show: counts,
  },
  {
    name: "sigterm",
    title: "SIGTERM of both servers in turn, 1,000 clients of all transports, cookie stickiness",
    run: (kind) => rollout(kind, { how: "SIGTERM", clients: 1000 }),
    show: deployed,
  },
  {
    name: "sigterm-free",
    title: "the same, all over WebSocket, no stickiness",
    run: (kind) => rollout(kind, { how: "SIGTERM", clients: 1000, sticky: false }),
    show: deployed,
  },
  {
    name: "sigkill",
    title: "SIGKILL of both servers in turn, 100 clients",
    run: (kind) => rollout(kind, { how: "SIGKILL", clients: 100 }),
    show: deployed,
  },
  {
    name: "sigkill-1000",
    title: "SIGKILL of both servers in turn, 1,000 clients",
    run: (kind) => rollout(kind, { how: "SIGKILL", clients: 1000 }),
    show: deployed,
  },
  {
    name: "sigstop",
    title: "both servers frozen in turn until the balancer cuts them off, then thawed, 100 clients",
    run: (kind) => rollout(kind, { how: "SIGSTOP", clients: 100 }),
    show: deployed,
  },
  {
    name: "redis",
    title: "Redis restarted with its data during a rollout, 100 clients",
    run: (kind) => rollout(kind, { how: "redis", clients: 100 }),
    show: deployed,
  },
  {
    name: "unheard",
    title: "no event received before the cut",
    run: unheard,
    show: ({ recovered, clients, lost }) => `${recovered} of ${clients} recovered, ${lost} events lost`,
  },
  {
    name: "without-redis",
    title: "Redis gone, 20 clients come back",
    run: withoutRedis,
    show: ({ clients, connected, longest }) =>
      connected === 0
        ? `none of ${clients} connected within 10 s`
        : `${connected} of ${clients} connected, the last after ${Math.round(longest)} ms`,
  },
];
