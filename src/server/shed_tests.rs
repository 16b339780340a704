//! Shedding, alone and in clusters of virtual time whose clients come back to any node.

use super::*;
use crate::cluster::load::Loads;
use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

fn load(sessions: u64) -> Load {
    Load { sessions, leaving: false }
}

fn leaving(sessions: u64) -> Load {
    Load { sessions, leaving: true }
}

/// Asks every second of `seconds` and gives what was closed; nothing comes back, and others stay as they are.
fn close_for(percent: u8, seconds: u64, mut own: u64, others: &[Load]) -> u64 {
    let start = Instant::now();
    let (mut shedding, before) = (Shedding::new(start, percent), own);
    for second in 0..seconds {
        own -= shedding.step(start + second as u32 * TICK, own, others).close;
    }
    before - own
}

#[test]
fn a_node_that_is_alone_or_balanced_closes_nothing() {
    let hour = 3600;
    assert_eq!(close_for(100, hour, 1000, &[]), 0, "alone");
    assert_eq!(close_for(100, hour, 1000, &[load(1000)]), 0);
    assert_eq!(close_for(100, hour, 109, &[load(91)]), 0, "within the tolerance");
    assert_eq!(close_for(100, hour, 100, &[load(900)]), 0, "the other one has more");
    assert_eq!(close_for(100, hour, 1, &[load(0), load(0)]), 0, "one session is no overload");
    assert_eq!(close_for(100, hour, 1000, &[leaving(0)]), 0, "nobody takes them");
}

#[test]
fn the_sessions_of_a_node_that_leaves_are_reckoned_with() {
    // 500 each once they have come
    assert_eq!(close_for(100, 60, 520, &[load(80), leaving(400)]), 0);
    assert!(close_for(100, 60, 600, &[load(80), leaving(320)]) > 0);
}

#[test]
fn a_share_is_closed_in_a_minute_one_after_the_other() {
    // 5 % of 10,000 to 9,500 sessions: the first tick looks only
    let closed = close_for(5, 61, 10_000, &[load(0)]);
    assert!((480..=500).contains(&closed), "{closed}");
    let start = Instant::now();
    let mut shedding = Shedding::new(start, 6);
    shedding.step(start, 1000, &[load(0)]);
    for second in 1..=10 {
        assert_eq!(shedding.step(start + second * TICK, 1000, &[load(0)]).close, 1, "{second}");
    }
}

#[test]
fn a_process_that_stood_still_does_not_make_up_for_it() {
    let start = Instant::now();
    let mut shedding = Shedding::new(start, 60);
    for at in [0, 1] {
        shedding.step(start + at * TICK, 1000, &[load(0)]);
    }
    let late = shedding.step(start + Duration::from_secs(3600), 1000, &[load(0)]);
    assert_eq!(late.close, 20, "two ticks' worth");
}

#[test]
fn closing_that_makes_no_difference_is_given_up_for_a_while() {
    let start = Instant::now();
    let mut shedding = Shedding::new(start, 100);
    let (mut closed, mut gave_up) = (0, Vec::new());
    for second in 0..900 {
        // every client comes back at once
        let step = shedding.step(start + second * TICK, 1000, &[load(0)]);
        closed += step.close;
        if step.gave_up {
            gave_up.push(second);
        }
    }
    assert_eq!(gave_up.len(), 2, "{gave_up:?}");
    assert!(u64::from(gave_up[1] - gave_up[0]) >= PAUSE.as_secs(), "{gave_up:?}");
    // twice what it takes to judge, and what was under way then: 10 s of 1000 sessions a minute
    assert!(closed < 2 * (2 * JUDGED + 180), "{closed}");
}

/// How a balancer chooses a node for a new connection.
#[derive(Clone, Copy, Debug)]
enum Balancer {
    Random,
    RoundRobin,
    LeastConnections,
}

struct Node {
    sessions: u64,
    shedding: Shedding,
    loads: Loads,
    /// What it had and closed each second.
    history: Vec<(u64, u64)>,
}

struct Cluster {
    start: Instant,
    nodes: Vec<Node>,
    balancer: Balancer,
    /// When each client without a node comes back.
    under_way: Vec<u64>,
    connects: usize,
    random: StdRng,
}

impl Cluster {
    fn new(percent: u8, sessions: &[u64], balancer: Balancer, seed: u64) -> Self {
        let start = Instant::now();
        let node = |&sessions| Node {
            sessions,
            shedding: Shedding::new(start, percent),
            loads: Loads::default(),
            history: Vec::new(),
        };
        let (nodes, random) = (sessions.iter().map(node).collect(), StdRng::seed_from_u64(seed));
        Self { start, nodes, balancer, under_way: Vec::new(), connects: 0, random }
    }

    fn total(&self) -> u64 {
        self.nodes.iter().map(|node| node.sessions).sum::<u64>() + self.under_way.len() as u64
    }

    fn run(&mut self, seconds: std::ops::Range<u64>) {
        for second in seconds {
            self.second(second);
        }
    }

    fn second(&mut self, second: u64) {
        let now = self.start + second as u32 * TICK;
        let back = self.under_way.extract_if(.., |at| *at <= second).count();
        for _ in 0..back {
            let node = self.choose();
            self.nodes[node].sessions += 1;
        }
        let average = self.total() / self.nodes.len() as u64;
        let nodes = self.nodes.len();
        for at in 0..nodes {
            // nodes did not start at the same time
            if (second + at as u64).is_multiple_of(REPORT_EVERY.as_secs()) {
                let node = &self.nodes[at];
                let load = node.shedding.load(node.sessions, false);
                for other in (0..nodes).filter(|other| *other != at) {
                    self.nodes[other].loads.heard(now, at.to_string().into(), load);
                }
            }
            let node = &mut self.nodes[at];
            let others = node.loads.of_others(now);
            // as long as it has not heard of all, the average of some is all it knows
            let knows_all = others.len() + 1 == nodes;
            let step = node.shedding.step(now, node.sessions, &others);
            let closed = step.close;
            node.history.push((node.sessions, closed));
            node.sessions -= closed;
            let left = node.sessions;
            assert!(closed == 0 || !knows_all || left >= average, "{left} of {average}");
            for _ in 0..closed {
                self.under_way.push(second + self.random.random_range(1..=4));
            }
        }
    }

    fn choose(&mut self) -> usize {
        self.connects += 1;
        match self.balancer {
            Balancer::Random => self.random.random_range(0..self.nodes.len()),
            Balancer::RoundRobin => self.connects % self.nodes.len(),
            Balancer::LeastConnections => {
                let nodes = self.nodes.iter().enumerate();
                nodes.min_by_key(|(_, node)| node.sessions).expect("there are nodes").0
            }
        }
    }

    fn closed_by(&self, node: usize) -> u64 {
        self.nodes[node].history.iter().map(|(_, closed)| closed).sum()
    }
}

#[test]
fn after_a_scale_up_two_nodes_come_to_balance_and_only_the_full_one_closes_any() {
    for balancer in [Balancer::Random, Balancer::RoundRobin, Balancer::LeastConnections] {
        let mut cluster = Cluster::new(20, &[1000, 0], balancer, 1);
        cluster.run(0..1200);
        let [one, other] = [cluster.nodes[0].sessions, cluster.nodes[1].sessions];
        assert!(one <= 550 && one + other == 1000, "{balancer:?}: {one} and {other}");
        assert_eq!(cluster.closed_by(1), 0, "{balancer:?}");
        let moved = cluster.closed_by(0);
        cluster.run(1200..3000);
        assert_eq!(cluster.closed_by(0), moved, "{balancer:?}: then it is quiet");
    }
}

proptest! {
    // each is some nodes for an hour and a half
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn any_cluster_comes_to_balance_within_its_share_and_stays_there(
        sessions in prop::collection::vec(0_u64..800, 2..6),
        percent in 10_u8..=100,
        balancer in prop::sample::select(vec![
            Balancer::Random, Balancer::RoundRobin, Balancer::LeastConnections,
        ]),
        seed: u64,
    ) {
        let mut cluster = Cluster::new(percent, &sessions, balancer, seed);
        let total = cluster.total();
        cluster.run(0..6000);
        prop_assert_eq!(cluster.total(), total, "nobody is lost");
        let average = total.div_ceil(cluster.nodes.len() as u64);
        for (at, node) in cluster.nodes.iter().enumerate() {
            let most = (average as f64 * (1.0 + TOLERANCE)).ceil() as u64 + 2;
            prop_assert!(node.sessions <= most, "node {} has {} of {}", at, node.sessions, average);
            for minute in node.history.windows(60) {
                let had = minute.iter().map(|(had, _)| *had).max().unwrap_or(0);
                let closed: u64 = minute.iter().map(|(_, closed)| closed).sum();
                let share = had as f64 * f64::from(percent) / 100.0;
                prop_assert!(closed as f64 <= share + 1.0, "{} of {} in a minute", closed, had);
            }
            let late: u64 = node.history[5400..].iter().map(|(_, closed)| closed).sum();
            prop_assert_eq!(late, 0, "node {} goes on closing", at);
        }
    }
}
