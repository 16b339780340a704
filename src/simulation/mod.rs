//! Connection state recovery, simulated: many nodes and clients in one thread and in virtual time, a network
//! and a Redis that fail in every way, and an oracle that knows what each client should have got.
//!
//! The nodes are the product's, from [`crate::socketio`] down to [`crate::cluster::redis`], but for the
//! transports and for Redis itself.
//!
//! ```text
//! client ── pipe ── node (Connection, SocketIo, RedisBus) ── wire ── Redis
//!    └───────────── world: faults, what was done ── oracle: what should have come
//! ```
//!
//! All chance comes from the seed, and a run that fails says which: `SEEDS=5 cargo test --lib simulation`
//! runs it again, with `TRACE=1 ... -- --nocapture` it tells what happens. `MINUTES=10` goes on with new
//! seeds for as long (`make soak`).

mod client;
mod node;
mod oracle;
mod pipe;
mod publisher;
mod rooms;
mod world;

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use self::world::{Plan, World};

/// Seeds of every test run.
const SEEDS: Range<u64> = 0..200;

/// What was seen in some runs, so that nobody takes a simulation in which nothing happens for a good one.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    recovered: usize,
    refused: usize,
    received: usize,
    replayed: u64,
    /// Received ahead of the log.
    early: usize,
    fenced: u64,
}

impl Seen {
    fn of(outcome: &world::Outcome) -> Self {
        let received = || outcome.lives.iter().flat_map(|life| &life.received);
        let early = |offset: &String| offset.contains('~');
        let count = |of: fn(&node::Node) -> u64| outcome.nodes.iter().map(|node| of(node)).sum();
        Self {
            recovered: outcome.lives.iter().map(|life| life.connected.len() - 1).sum(),
            refused: outcome.trace.refused.len(),
            received: received().count(),
            replayed: count(|node| node.metrics.replayed.get()),
            early: received().filter(|one| one.offset.as_ref().is_some_and(early)).count(),
            fenced: count(|node| node.metrics.sessions_fenced.get()),
        }
    }

    fn add(&mut self, other: Self) {
        self.recovered += other.recovered;
        self.refused += other.refused;
        self.received += other.received;
        self.replayed += other.replayed;
        self.early += other.early;
        self.fenced += other.fenced;
    }
}

/// Runs one world and says what was wrong in it.
fn simulate(seed: u64) -> (Vec<String>, Seen) {
    crate::random::repeatable::begin(seed);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    let outcome = runtime.block_on(async { World::new(seed, Plan::of(seed)).run().await });
    let judged = (oracle::judge(&outcome), Seen::of(&outcome));
    runtime.block_on(outcome.world.dismantle());
    let redis = Arc::downgrade(&outcome.world.redis);
    drop((outcome, runtime));
    assert_eq!(
        redis.strong_count(),
        0,
        "thousands of worlds fit into memory one after the other only"
    );
    judged
}

/// Seeds that may fail before it is enough.
const FAILURES: usize = 8;

/// Runs seeds on all processors, until some have shown faults or `enough` says so.
fn run(seeds: Range<u64>, enough: impl Fn() -> bool + Sync) -> Seen {
    let next = AtomicU64::new(seeds.start);
    let (wrong, all) = (Mutex::new(Vec::new()), Mutex::new(Seen::default()));
    let work = || {
        while !enough() && wrong.lock().len() < FAILURES {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end {
                return;
            }
            let (faults, seen) = catch_unwind(AssertUnwindSafe(|| simulate(seed)))
                .unwrap_or_else(|_| (vec!["a panic, see above".to_owned()], Seen::default()));
            all.lock().add(seen);
            if !faults.is_empty() {
                wrong.lock().push(format!("SEED {seed}:\n    {}", faults.join("\n    ")));
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(work);
        }
    });
    let (wrong, seen) = (wrong.into_inner(), all.into_inner());
    eprintln!("seeds {}..{}: {seen:?}", seeds.start, next.into_inner().min(seeds.end));
    assert!(wrong.is_empty(), "{} seeds failed:\n{}", wrong.len(), wrong.join("\n"));
    seen
}

#[test]
fn recovery_is_exact_whatever_happens() {
    let number = |text: &str| {
        text.parse::<u64>().expect("SEEDS=<one>, <from>..<to> or <from>.., MINUTES=<number>")
    };
    let asked = std::env::var("SEEDS").ok();
    let asked = asked.as_deref().filter(|asked| !asked.is_empty());
    let asked = asked.map(|asked| match asked.split_once("..") {
        None => number(asked)..number(asked) + 1,
        Some((from, "")) => number(from)..u64::MAX,
        Some((from, to)) => number(from)..number(to),
    });
    let minutes = std::env::var("MINUTES").ok().filter(|minutes| !minutes.is_empty());
    if let Some(minutes) = minutes {
        let end = Instant::now() + Duration::from_secs(60 * number(&minutes));
        let seeds = asked.unwrap_or_else(|| u64::from(rand::random::<u32>())..u64::MAX);
        run(seeds, || Instant::now() > end);
        return;
    }
    let seen = run(asked.clone().unwrap_or(SEEDS), || false);
    if asked.is_none() {
        let Seen { recovered, refused, received, replayed, early, fenced } = seen;
        assert!(recovered > 1_000 && replayed > 10_000 && received > 50_000, "{seen:?}");
        assert!(refused > 100 && early > 1_000 && fenced > 10, "{seen:?}");
    }
}

#[test]
fn a_seed_gives_the_same_run_each_time() {
    for seed in [3, 8] {
        let (first, again) = (simulate(seed), simulate(seed));
        assert_eq!(first.0, again.0, "SEED {seed}");
        assert_eq!(format!("{:?}", first.1), format!("{:?}", again.1), "SEED {seed}");
    }
}

/// Faults that seeds have shown, and what they were.
#[test]
fn what_was_found_stays_mended() {
    for (seed, what) in FOUND {
        let (wrong, _) = simulate(*seed);
        assert!(wrong.is_empty(), "SEED {seed}, again: {what}\n{}", wrong.join("\n"));
    }
}

const FOUND: &[(u64, &str)] = &[
    (
        57,
        "a client from before a loss seemed to have got what was delivered ahead of the log after it",
    ),
    (268, "an offset from an earlier session was taken for one of a session that began behind it"),
    (305, "an event that wants an answer was sent ahead of the log, and again to who came back"),
    (976, "an offset from before the place where a new session began was worth nothing"),
    (
        1035,
        "an attempt that its client had given up took the session, and what was sent early came again",
    ),
    (1325, "the same with Redis slow and three nodes"),
];
