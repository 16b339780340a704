//! Redis fails, the service does not (G6): under load, every event counted.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::task::JoinHandle;

use crate::nodes::{Nodes, expect, joined};
use crate::redis::{Redis, Reply};
use crate::support::http::Request;
use crate::support::socketio::TestServer;
use crate::support::within;

/// How long an event may take to a client of its own node, whatever Redis does.
const LOCAL: Duration = Duration::from_secs(1);

/// How often something is asked that nobody announces.
const POLL: Duration = Duration::from_millis(20);

/// Two nodes that publish numbered events all the time, and two clients on each that note all.
struct Load {
    stop: Arc<AtomicBool>,
    publishers: Vec<JoinHandle<Vec<Instant>>>,
    readers: Vec<(usize, JoinHandle<Seen>)>,
}

/// What a client saw: of each publisher the numbers and the time.
type Seen = HashMap<usize, Vec<(usize, Instant)>>;

/// What came of it.
struct Outcome {
    /// When each event was published, by node.
    sent: Vec<Vec<Instant>>,
    seen: Vec<(usize, Seen)>,
}

impl Load {
    async fn start(nodes: &Nodes) -> Self {
        let servers = [nodes.here(), nodes.there()];
        let mut readers = Vec::new();
        for (at, server) in servers.iter().enumerate() {
            for _ in 0..2 {
                readers.push((at, tokio::spawn(note(joined(server).await))));
            }
        }
        let stop = Arc::new(AtomicBool::new(false));
        let publishers = servers.iter().enumerate();
        let publishers = publishers.map(|(at, server)| publish(server, at, stop.clone())).collect();
        Self { stop, publishers, readers }
    }

    /// Every client has seen what there was; the ends come behind all events.
    async fn finish(self) -> Outcome {
        self.stop.store(true, Ordering::Relaxed);
        let mut sent = Vec::new();
        for publisher in self.publishers {
            sent.push(within("a publisher", publisher).await.unwrap());
        }
        let mut seen = Vec::new();
        for (at, reader) in self.readers {
            seen.push((at, within("all events", reader).await.unwrap()));
        }
        Outcome { sent, seen }
    }
}

fn publish(server: &TestServer, at: usize, stop: Arc<AtomicBool>) -> JoinHandle<Vec<Instant>> {
    let namespace = server.server.of("/");
    tokio::spawn(async move {
        let mut sent = Vec::new();
        let mut pace = tokio::time::interval(Duration::from_millis(2));
        while !stop.load(Ordering::Relaxed) {
            pace.tick().await;
            let now = Instant::now();
            namespace.emit("n", &(at, sent.len())).await.unwrap();
            sent.push(now);
        }
        namespace.emit("end", &()).await.unwrap();
        sent
    })
}

async fn note(client: (crate::support::socketio::Client, quicket::Socket)) -> Seen {
    let (mut client, _socket) = client;
    let (mut seen, mut ends) = (Seen::new(), 0);
    while ends < 2 {
        let event = client.event().await;
        if event[0] == "n" {
            let number = |at: usize| event[at].as_u64().unwrap() as usize;
            seen.entry(number(1)).or_default().push((number(2), Instant::now()));
        } else {
            ends += 1;
        }
    }
    seen
}

impl Outcome {
    /// Own events: each exactly once, in order, in time.
    fn own_events_arrived(&self) {
        for (at, seen) in &self.seen {
            let own = &seen[at];
            let numbers: Vec<_> = own.iter().map(|(number, _)| *number).collect();
            complete(&numbers, self.sent[*at].len(), "own");
            let delay = |(number, when): &(usize, Instant)| *when - self.sent[*at][*number];
            let slowest = own.iter().map(delay).max().unwrap();
            assert!(slowest < LOCAL, "an own event took {slowest:?}");
        }
    }

    /// The other node's events: each exactly once, in order.
    fn foreign_events_arrived(&self) {
        for (at, seen) in &self.seen {
            let numbers: Vec<_> = seen[&(1 - at)].iter().map(|(number, _)| *number).collect();
            complete(&numbers, self.sent[1 - at].len(), "foreign");
        }
    }

    /// What did arrive of them is in order and not doubled.
    fn foreign_events_are_in_order(&self) {
        for (at, seen) in &self.seen {
            let numbers = &seen[&(1 - at)];
            assert!(numbers.is_sorted_by(|a, b| a.0 < b.0), "out of order or doubled");
        }
    }
}

fn complete(numbers: &[usize], sent: usize, whose: &str) {
    let wrong = numbers.iter().enumerate().find(|(at, number)| at != *number);
    if let Some((at, _)) = wrong {
        let around = &numbers[at.saturating_sub(3)..(at + 5).min(numbers.len())];
        panic!("{whose} events: at {at} of {sent} {around:?}");
    }
    assert_eq!(numbers.len(), sent, "{whose} events at the end");
}

async fn probe(server: &TestServer, path: &str) -> (u16, String) {
    let answer = Request::get(path).send(server.address).await;
    (answer.status, answer.text().to_owned())
}

/// Until so many more events were delivered without Redis.
async fn local_deliveries(server: &TestServer, more: i64) {
    let wanted = server.metric("bus_local_deliveries_total") + more;
    crate::support::eventually("deliveries without Redis", || {
        server.metric("bus_local_deliveries_total") >= wanted
    })
    .await;
}

async fn more_published(server: &TestServer, more: i64) {
    let wanted = server.metric("bus_published_total") + more;
    crate::support::eventually("events to be stored", || {
        server.metric("bus_published_total") >= wanted
    })
    .await;
}

async fn is_degraded(server: &TestServer) {
    let degraded = (200, "degraded: no connection to Redis\n".to_owned());
    within("to be degraded", async {
        while probe(server, "/readyz").await != degraded {
            tokio::time::sleep(POLL).await;
        }
    })
    .await;
    assert_eq!(probe(server, "/healthz").await, (200, "ok\n".to_owned()));
}

async fn is_ready(server: &TestServer) {
    within("to be ready", async {
        while probe(server, "/readyz").await != (200, "ok\n".to_owned()) {
            tokio::time::sleep(POLL).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_killed_and_restarted_with_its_data_costs_no_event() {
    let mut nodes = Nodes::on(Redis::start_with_data().await, |_| {}).await;
    let load = Load::start(&nodes).await;
    for _ in 0..2 {
        more_published(nodes.here(), 50).await;
        nodes.redis().kill();
        is_degraded(nodes.here()).await;
        is_degraded(nodes.there()).await;
        local_deliveries(nodes.here(), 50).await;
        nodes.redis().restart().await;
        is_ready(nodes.here()).await;
        is_ready(nodes.there()).await;
    }
    more_published(nodes.here(), 50).await;
    let outcome = load.finish().await;
    outcome.own_events_arrived();
    outcome.foreign_events_arrived();
    for node in [nodes.here(), nodes.there()] {
        assert!(node.metric("bus_reconnects_total") >= 2);
        assert_eq!(node.metric("bus_gaps_total"), 0);
        node.until_metric("bus_queue_messages", 0).await;
        node.until_metric("bus_queue_bytes", 0).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_restarted_empty_costs_no_local_event_and_the_gap_is_counted() {
    let mut nodes = Nodes::two().await;
    let load = Load::start(&nodes).await;
    more_published(nodes.here(), 50).await;
    nodes.redis().kill();
    local_deliveries(nodes.here(), 50).await;
    nodes.redis().restart().await;
    is_ready(nodes.here()).await;
    is_ready(nodes.there()).await;
    more_published(nodes.here(), 50).await;
    more_published(nodes.there(), 50).await;
    let outcome = load.finish().await;
    outcome.own_events_arrived();
    outcome.foreign_events_are_in_order();
    for node in [nodes.here(), nodes.there()] {
        assert_eq!(node.metric("bus_gaps_total"), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_that_hangs_for_three_seconds_costs_no_event() {
    let nodes = Nodes::two().await;
    let redis = nodes.redis.as_ref().unwrap();
    let load = Load::start(&nodes).await;
    more_published(nodes.here(), 50).await;
    redis.signal("STOP");
    let hang = tokio::time::sleep(Duration::from_secs(3));
    is_degraded(nodes.here()).await;
    local_deliveries(nodes.here(), 100).await;
    local_deliveries(nodes.there(), 100).await;
    hang.await;
    redis.signal("CONT");
    is_ready(nodes.here()).await;
    more_published(nodes.here(), 50).await;
    let outcome = load.finish().await;
    outcome.own_events_arrived();
    outcome.foreign_events_arrived();
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_cut_every_few_milliseconds_cost_no_event() {
    let nodes = Nodes::two().await;
    let redis = nodes.redis.as_ref().unwrap();
    let load = Load::start(&nodes).await;
    more_published(nodes.here(), 50).await;
    let mut killer = redis.connect().await;
    let end = Instant::now() + Duration::from_secs(2);
    while Instant::now() < end {
        for kind in ["normal", "pubsub"] {
            killer.call(&["CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes"]).await;
        }
        tokio::time::sleep(Duration::from_millis(7)).await;
    }
    is_ready(nodes.here()).await;
    is_ready(nodes.there()).await;
    more_published(nodes.here(), 50).await;
    let outcome = load.finish().await;
    outcome.own_events_arrived();
    outcome.foreign_events_arrived();
    for node in [nodes.here(), nodes.there()] {
        // most of the new connections did not live long enough to be counted
        assert!(node.metric("bus_reconnects_total") >= 1);
        assert_eq!(node.metric("bus_gaps_total"), 0);
    }
    // nothing of the many attempts is left over
    within("the connections that are needed", async {
        while redis.connections().await != 7 {
            tokio::time::sleep(POLL).await;
        }
    })
    .await;
    let channel = "socket.io#/#";
    let subscribed = Reply::List(vec![Reply::text(channel), Reply::Integer(2)]);
    assert_eq!(killer.call(&["PUBSUB", "NUMSUB", channel]).await, subscribed);
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_without_memory_costs_no_event() {
    let nodes = Nodes::two().await;
    let redis = nodes.redis.as_ref().unwrap();
    let load = Load::start(&nodes).await;
    more_published(nodes.here(), 50).await;
    redis.call(&["CONFIG", "SET", "maxmemory-policy", "noeviction"]).await;
    assert_eq!(redis.call(&["CONFIG", "SET", "maxmemory", "1"]).await, Reply::text("OK"));
    is_degraded(nodes.here()).await;
    local_deliveries(nodes.here(), 50).await;
    local_deliveries(nodes.there(), 50).await;
    assert_eq!(redis.call(&["CONFIG", "SET", "maxmemory", "0"]).await, Reply::text("OK"));
    is_ready(nodes.here()).await;
    more_published(nodes.here(), 50).await;
    let outcome = load.finish().await;
    outcome.own_events_arrived();
    outcome.foreign_events_arrived();
    for node in [nodes.here(), nodes.there()] {
        assert!(node.metric("bus_refusals_total") >= 1);
        assert_eq!(node.metric("bus_reconnects_total"), 0, "a refusal is no lost connection");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_for_redis_is_bounded_and_the_emit_says_so() {
    let mut nodes = Nodes::on(Redis::start_with_data().await, |config| {
        config.redis.queue_bytes = 100_000;
    })
    .await;
    let (mut one, _a) = joined(nodes.here()).await;
    let (mut two, _b) = joined(nodes.there()).await;
    nodes.redis().kill();
    nodes.here().until_metric("bus_connected", 0).await;
    let namespace = nodes.here().server.of("/");
    let text = "x".repeat(1_000);
    let mut accepted = 0;
    let error = loop {
        match namespace.emit("n", &(accepted, &text)).await {
            Ok(()) => accepted += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(error, quicket::EmitError::BusFull), "{error:?}");
    assert!((50..100).contains(&accepted), "{accepted}");
    nodes.redis().restart().await;
    for n in 0..accepted {
        for client in [&mut one, &mut two] {
            expect(client, &[json!(["n", n, text])]).await;
        }
    }
    namespace.emit("room again", &()).await.unwrap();
    expect(&mut two, &[json!(["room again"])]).await;
}

/// The time that this process has computed for.
fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<_> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    let ticks = |at: usize| fields[at].parse::<u64>().unwrap();
    Duration::from_millis((ticks(11) + ticks(12)) * 10)
}

/// The other tests of this process compute too, so it runs in a process of its own.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_without_redis_does_not_spin() {
    const ALONE: &str = "QUICKET_TEST_ALONE";
    const WATCHED: Duration = Duration::from_secs(2);
    if std::env::var_os(ALONE).is_none() {
        let name = "faults::a_node_without_redis_does_not_spin";
        let test = tokio::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", name, "--nocapture"])
            .env(ALONE, "1")
            .output();
        let output = within("the test by itself", test).await.unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        return;
    }
    let mut nodes = Nodes::two().await;
    nodes.redis().kill();
    nodes.here().until_metric("bus_connected", 0).await;
    nodes.there().until_metric("bus_connected", 0).await;
    // some messages wait
    for n in 0..1_000 {
        nodes.here().server.of("/").emit("n", &n).await.unwrap();
    }
    let before = cpu();
    tokio::time::sleep(WATCHED).await;
    let used = cpu() - before;
    assert!(used < WATCHED / 10, "{used:?} in {WATCHED:?}");
}
