//! The world of one run: its plan, its nodes, what happens to them, and what was seen.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde_json::Value;
use tokio::time::{Instant, sleep};

use super::client::{Client, Life, Refused};
use super::node::Node;
use super::publisher;
use crate::cluster::StreamId;
use crate::cluster::redis::simulated::{Loss, Redis, Watched};
use crate::error::CloseReason;
use crate::socketio::connection::Connection;

/// What kinds of faults a run has.
#[derive(Clone, Debug, Default)]
pub(super) struct Plan {
    pub(super) nodes: usize,
    pub(super) clients: usize,
    /// How long the faults last.
    pub(super) busy: Duration,
    pub(super) window: Duration,
    pub(super) history: usize,
    pub(super) max_events: usize,
    /// Of a client's connection, in milliseconds at most.
    pub(super) delay: u64,
    pub(super) cut_every: u64,
    pub(super) half_open: f64,
    pub(super) long_absence: f64,
    pub(super) other_user: f64,
    /// Milliseconds between the events of one node, at most.
    pub(super) publish_every: u64,
    pub(super) faults: Vec<Fault>,
    /// Does somebody look at it?
    pub(super) is_traced: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    Crash,
    SilentCrash,
    Freeze,
    Drain,
    /// One node and Redis.
    Partition,
    Reset,
    SlowRedis,
    PauseRedis,
    RestartRedis,
    LoseSome,
    LoseAll,
}

impl Fault {
    /// Does the cluster work on as if nothing were, but for what is at this node?
    fn spares_redis(self) -> bool {
        matches!(self, Self::Crash | Self::SilentCrash | Self::Freeze | Self::Drain)
    }
}

impl Plan {
    pub(super) fn of(seed: u64) -> Self {
        use Fault::{
            Crash, Drain, Freeze, LoseAll, LoseSome, Partition, PauseRedis, Reset, RestartRedis,
            SilentCrash, SlowRedis,
        };
        let mut random = StdRng::seed_from_u64(seed ^ 0x0507_1234);
        let faults: &[Fault] = match seed % 10 {
            0 => &[],
            1 => &[Crash, SilentCrash],
            2 => &[Drain, Drain, Crash],
            3 => &[Freeze, Crash],
            4 => &[Partition, Reset],
            5 => &[SlowRedis, PauseRedis],
            6 => &[RestartRedis, Reset],
            7 => &[LoseSome, LoseAll, Crash],
            8 => &[Crash, Freeze, Drain, Partition, SlowRedis, PauseRedis, RestartRedis, Reset],
            _ => &[Crash, Freeze, Drain, SilentCrash, Reset],
        };
        let small = random.random_bool(0.1);
        Self {
            nodes: random.random_range(2..=4),
            clients: random.random_range(3..=6),
            busy: Duration::from_millis(random.random_range(4_000..9_000)),
            window: Duration::from_secs(if random.random_bool(0.1) { 3 } else { 60 }),
            history: if small { 60 } else { 50_000 },
            max_events: if random.random_bool(0.1) { 30 } else { 10_000 },
            delay: random.random_range(2..40),
            cut_every: random.random_range(500..5_000),
            half_open: random.random_range(0.0..0.8),
            long_absence: if random.random_bool(0.2) { 0.1 } else { 0.0 },
            other_user: if random.random_bool(0.3) { 0.1 } else { 0.0 },
            publish_every: random.random_range(60..300),
            faults: faults.to_vec(),
            is_traced: std::env::var("TRACE").is_ok(),
        }
    }

    /// Is a recovery never refused for want of memory?
    pub(super) fn is_roomy(&self) -> bool {
        self.history > 1_000 && self.max_events > 1_000
    }
}

/// A client's socket came into being on a node.
#[derive(Clone, Debug)]
pub(super) struct Entered {
    pub(super) at: Instant,
    pub(super) node: usize,
    pub(super) sid: String,
    pub(super) pid: String,
    pub(super) recovered: bool,
    pub(super) rooms: Vec<String>,
    pub(super) data: Value,
    /// Where the node was then.
    pub(super) mark: StreamId,
    pub(super) start: StreamId,
    pub(super) connected: bool,
}

/// A handler has changed something of a socket.
#[derive(Clone, Debug)]
pub(super) struct Op {
    pub(super) at: Instant,
    pub(super) node: usize,
    pub(super) sid: String,
    pub(super) what: String,
    pub(super) value: String,
    pub(super) mark: StreamId,
}

/// A time in which not all was well.
#[derive(Clone, Debug)]
pub(super) struct Trouble {
    pub(super) from: Instant,
    pub(super) to: Option<Instant>,
    /// `None`: all nodes.
    pub(super) node: Option<usize>,
    pub(super) fault: Fault,
}

impl Trouble {
    pub(super) fn overlaps(&self, from: Instant, to: Instant) -> bool {
        self.from <= to && self.to.is_none_or(|end| end >= from)
    }

    pub(super) fn spares_redis(&self) -> bool {
        self.fault.spares_redis()
    }
}

#[derive(Debug, Default)]
pub(super) struct Trace {
    pub(super) entered: Vec<Entered>,
    pub(super) ops: Vec<Op>,
    pub(super) refused: Vec<Refused>,
    pub(super) troubles: Vec<Trouble>,
    /// Events that everyone is to answer.
    pub(super) asked: BTreeSet<u64>,
    /// Events that a node has accepted for the log: the node, and when.
    pub(super) accepted: BTreeMap<u64, (usize, Instant)>,
}

/// What is left of a run.
pub(super) struct Outcome {
    pub(super) world: Arc<World>,
    pub(super) nodes: Vec<Arc<Node>>,
    pub(super) lives: Vec<Life>,
    pub(super) trace: Trace,
    /// Clients that were not connected at the end.
    pub(super) outside: Vec<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd)]
enum Phase {
    Busy,
    /// Faults are over.
    Calm,
    Over,
}

pub(super) struct World {
    pub(super) seed: u64,
    pub(super) plan: Plan,
    pub(super) redis: Arc<Redis>,
    pub(super) born: Instant,
    phase: Watched<Phase>,
    nodes: Mutex<Vec<Arc<Node>>>,
    trace: Mutex<Trace>,
    numbers: AtomicU64,
    started: AtomicUsize,
    sids: Mutex<BTreeMap<usize, String>>,
    /// All there ever were: those of a node that died are not ended before the run is over.
    connections: Mutex<Vec<Arc<Connection>>>,
}

fn node_of(nodes: &[Arc<Node>], index: Option<usize>) -> Option<Arc<Node>> {
    nodes.iter().find(|node| Some(node.index) == index).cloned()
}

impl World {
    pub(super) fn new(seed: u64, plan: Plan) -> Arc<Self> {
        Arc::new(Self {
            seed,
            plan,
            redis: Redis::new(),
            born: Instant::now(),
            phase: Watched::new(Phase::Busy),
            nodes: Mutex::default(),
            trace: Mutex::default(),
            numbers: AtomicU64::new(1),
            started: AtomicUsize::new(0),
            sids: Mutex::default(),
            connections: Mutex::default(),
        })
    }

    pub(super) fn keep(&self, connection: Arc<Connection>) {
        self.connections.lock().push(connection);
    }

    /// Lets go of everything.
    pub(super) async fn dismantle(&self) {
        for connection in std::mem::take(&mut *self.connections.lock()) {
            connection.close(CloseReason::TransportClose);
        }
        // nodes keep what they could not write for as long as anybody may want it
        sleep(self.plan.window + Duration::from_secs(2)).await;
        self.redis.dismantle();
        self.nodes.lock().clear();
    }

    /// For who looks at one run.
    pub(super) fn say(&self, what: impl FnOnce() -> String) {
        if self.plan.is_traced {
            let at = (Instant::now() - self.born).as_secs_f64();
            eprintln!("{at:8.3} {}", what());
        }
    }

    pub(super) fn trace(&self, note: impl FnOnce(&mut Trace)) {
        note(&mut self.trace.lock());
    }

    /// The number of the next event.
    pub(super) fn number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed)
    }

    pub(super) fn is_calm(&self) -> bool {
        self.phase.value() >= Phase::Calm
    }

    pub(super) fn set_sid(&self, client: usize, sid: String) {
        self.sids.lock().insert(client, sid);
    }

    pub(super) fn sids(&self) -> Vec<String> {
        self.sids.lock().values().cloned().collect()
    }

    pub(super) async fn over(&self) {
        self.phase.wait_for(|phase| *phase == Phase::Over).await;
    }

    /// As a balancer chooses, which does not know who is frozen.
    pub(super) fn some_node(&self, random: &mut StdRng) -> Option<Arc<Node>> {
        let nodes = self.nodes.lock();
        let able: Vec<_> = nodes.iter().filter(|node| node.takes_clients()).collect();
        match able.len() {
            0 => None,
            count => Some(able[random.random_range(0..count)].clone()),
        }
    }

    fn living(&self) -> Vec<Arc<Node>> {
        let nodes = self.nodes.lock();
        nodes.iter().filter(|node| node.takes_clients()).cloned().collect()
    }

    async fn add_node(self: &Arc<Self>) {
        let index = self.started.fetch_add(1, Ordering::Relaxed);
        let node = Node::start(self, index).await;
        self.nodes.lock().push(node.clone());
        tokio::spawn(publisher::run(self.clone(), node));
    }

    pub(super) async fn run(self: Arc<Self>) -> Outcome {
        for _ in 0..self.plan.nodes {
            self.add_node().await;
        }
        let clients: Vec<_> = (0..self.plan.clients)
            .map(|index| tokio::spawn(Client::new(&self, index).run()))
            .collect();
        self.clone().trouble().await;
        self.phase.set(Phase::Calm);
        // longer than anything may take: a half-open connection, a lease, a pause between attempts
        sleep(Duration::from_secs(15)).await;
        publisher::last_word(&self.living()).await;
        sleep(Duration::from_secs(5)).await;
        self.phase.set(Phase::Over);
        let (mut lives, mut outside) = (Vec::new(), Vec::new());
        for (index, client) in clients.into_iter().enumerate() {
            let (of_one, connected) = client.await.expect("a client does not panic");
            lives.extend(of_one);
            if !connected {
                outside.push(index);
            }
        }
        let trace = std::mem::take(&mut *self.trace.lock());
        let nodes = self.nodes.lock().clone();
        Outcome { world: self, nodes, lives, trace, outside }
    }

    async fn trouble(self: Arc<Self>) {
        let mut random = StdRng::seed_from_u64(self.seed ^ 0xfa17);
        let end = self.born + self.plan.busy;
        sleep(Duration::from_millis(random.random_range(500..2_000))).await;
        while Instant::now() < end {
            if self.plan.faults.is_empty() {
                sleep(Duration::from_millis(500)).await;
                continue;
            }
            let fault = self.plan.faults[random.random_range(0..self.plan.faults.len())];
            self.happens(fault, &mut random).await;
            sleep(Duration::from_millis(random.random_range(100..2_500))).await;
        }
    }

    async fn happens(self: &Arc<Self>, fault: Fault, random: &mut StdRng) {
        let living = self.living();
        let node = living.get(random.random_range(0..living.len().max(1))).cloned();
        let lasts = Duration::from_millis(match random.random_range(0..3) {
            0 => random.random_range(20..600),
            1 => random.random_range(600..2_500),
            _ => random.random_range(2_500..7_000),
        });
        let concerned = match fault {
            Fault::SlowRedis | Fault::PauseRedis | Fault::RestartRedis => None,
            Fault::LoseSome | Fault::LoseAll => None,
            _ => node.as_ref().map(|node| node.index),
        };
        let mine = {
            let mut trace = self.trace.lock();
            let from = Instant::now();
            trace.troubles.push(Trouble { from, to: None, node: concerned, fault });
            trace.troubles.len() - 1
        };
        self.say(|| format!("{fault:?} {concerned:?} {lasts:?} begins"));
        self.carry_out(fault, node, lasts, random).await;
        self.say(|| format!("{fault:?} {concerned:?} ends"));
        let forever = matches!(fault, Fault::Crash | Fault::SilentCrash | Fault::Drain);
        if !forever {
            let (world, node) = (self.clone(), node_of(&living, concerned));
            tokio::spawn(async move { world.heal(mine, node).await });
        }
    }

    /// Trouble is over when nobody feels it any more.
    async fn heal(self: Arc<Self>, mine: usize, node: Option<Arc<Node>>) {
        loop {
            let fine = |node: &Arc<Node>| !node.is_degraded();
            let all = match &node {
                Some(node) => fine(node),
                None => self.living().iter().all(fine),
            };
            if all {
                break;
            }
            sleep(Duration::from_millis(50)).await;
        }
        // what waited is written
        sleep(Duration::from_millis(1_500)).await;
        self.trace(|trace| trace.troubles[mine].to = Some(Instant::now()));
    }

    async fn carry_out(
        self: &Arc<Self>,
        fault: Fault,
        node: Option<Arc<Node>>,
        lasts: Duration,
        random: &mut StdRng,
    ) {
        match (fault, node) {
            (Fault::Crash | Fault::SilentCrash, Some(node)) => {
                node.crash(fault == Fault::SilentCrash);
                sleep(Duration::from_millis(random.random_range(0..1_500))).await;
                self.add_node().await;
            }
            (Fault::Drain, Some(node)) => {
                if random.random_bool(0.5) {
                    self.add_node().await;
                    node.drain().await;
                } else {
                    node.drain().await;
                    self.add_node().await;
                }
            }
            (Fault::Freeze, Some(node)) => {
                node.freeze(true);
                sleep(lasts).await;
                node.freeze(false);
            }
            (Fault::Partition, Some(node)) => {
                node.wire.hold(true);
                sleep(lasts).await;
                if random.random_bool(0.3) {
                    node.wire.reset();
                }
                node.wire.hold(false);
            }
            (Fault::Reset, Some(node)) => node.wire.reset(),
            (Fault::SlowRedis, _) => self.slow(lasts, random).await,
            (Fault::PauseRedis, _) => {
                self.redis.pause(true);
                sleep(lasts).await;
                self.redis.pause(false);
            }
            (Fault::RestartRedis | Fault::LoseSome | Fault::LoseAll, _) => {
                self.redis.save();
                if fault == Fault::LoseSome {
                    sleep(Duration::from_millis(random.random_range(0..1_000))).await;
                }
                self.redis.stop();
                sleep(lasts / 2).await;
                self.redis.start(match fault {
                    Fault::LoseSome => Loss::Unsaved,
                    Fault::LoseAll => Loss::Everything,
                    _ => Loss::Nothing,
                });
            }
            (_, None) => {}
        }
    }

    async fn slow(&self, lasts: Duration, random: &mut StdRng) {
        let most = random.random_range(50..900);
        for node in self.living() {
            node.wire.set_delay(Duration::from_millis(most / 4), Duration::from_millis(most));
        }
        sleep(lasts).await;
        for node in self.living() {
            node.wire.set_delay(Duration::from_micros(200), Duration::from_millis(3));
        }
    }
}
