//! Two nodes under load, and what their clients saw of it.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;

use crate::nodes::{Nodes, joined};
use crate::support::http::Request;
use crate::support::socketio::TestServer;
use crate::support::within;

/// How long an event may take to a client of its own node, whatever Redis does.
const LOCAL: Duration = Duration::from_secs(1);

/// A node publishes that often: enough to have some on every way at any moment, and little enough for a machine
/// that runs other tests, too.
const PACE: Duration = Duration::from_millis(8);

/// How long a test waits before it says that it does not come.
const PATIENCE: Duration = Duration::from_secs(60);

/// How often something is asked that nobody announces.
pub(crate) const POLL: Duration = Duration::from_millis(20);

/// Two nodes that publish numbered events all the time, and two clients on each that note all.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    machine: JoinHandle<Duration>,
    publishers: Vec<JoinHandle<Vec<Instant>>>,
    readers: Vec<(usize, JoinHandle<Seen>)>,
}

/// What a client saw: of each publisher the numbers and the time.
type Seen = HashMap<usize, Vec<(usize, Instant)>>;

/// What came of it.
pub(crate) struct Outcome {
    /// When each event was published, by node.
    sent: Vec<Vec<Instant>>,
    seen: Vec<(usize, Seen)>,
    /// How long this machine let a task wait that had only to wake up: nobody can be faster.
    machine: Duration,
}

impl Load {
    pub(crate) async fn start(nodes: &Nodes) -> Self {
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
        let machine = tokio::spawn(lateness(stop.clone()));
        Self { stop, machine, publishers, readers }
    }

    /// Every client has seen what there was; the ends come behind all events. Then all is well again.
    pub(crate) async fn finish(self, nodes: &Nodes) -> Outcome {
        self.stop.store(true, Ordering::Relaxed);
        let machine = self.machine.await.unwrap();
        let mut sent = Vec::new();
        for publisher in self.publishers {
            sent.push(within("a publisher", publisher).await.unwrap());
        }
        let mut seen = Vec::new();
        for (at, reader) in self.readers {
            seen.push((at, within("all events", reader).await.unwrap()));
        }
        for node in [nodes.here(), nodes.there()] {
            is_ready(node).await;
            node.until_metric("bus_queue_messages", 0).await;
            node.until_metric("bus_queue_bytes", 0).await;
        }
        Outcome { sent, seen, machine }
    }
}

async fn lateness(stop: Arc<AtomicBool>) -> Duration {
    let mut worst = Duration::ZERO;
    while !stop.load(Ordering::Relaxed) {
        let due = Instant::now() + Duration::from_millis(5);
        tokio::time::sleep_until(due.into()).await;
        worst = worst.max(due.elapsed());
    }
    worst
}

fn publish(server: &TestServer, at: usize, stop: Arc<AtomicBool>) -> JoinHandle<Vec<Instant>> {
    let namespace = server.server.of("/");
    tokio::spawn(async move {
        let mut sent = Vec::new();
        let mut pace = tokio::time::interval(PACE);
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
    pub(crate) fn own_events_arrived(&self) {
        for (at, seen) in &self.seen {
            let own = &seen[at];
            let numbers: Vec<_> = own.iter().map(|(number, _)| *number).collect();
            complete(&numbers, self.sent[*at].len(), "own");
            let delay = |(number, when): &(usize, Instant)| *when - self.sent[*at][*number];
            let slowest = own.iter().map(delay).max().unwrap();
            let machine = self.machine;
            // it has to wake up for the deadline, to write to the client, and to read there
            assert!(slowest < LOCAL + 3 * machine, "an own event took {slowest:?} ({machine:?})");
        }
    }

    /// The other node's events: each exactly once, in order.
    pub(crate) fn foreign_events_arrived(&self) {
        for (at, seen) in &self.seen {
            let numbers: Vec<_> = seen[&(1 - at)].iter().map(|(number, _)| *number).collect();
            complete(&numbers, self.sent[1 - at].len(), "foreign");
        }
    }

    /// The other node's events: each exactly once, in order, or else the node that lacks some says so.
    pub(crate) fn no_foreign_event_is_lost_silently(&self, nodes: &Nodes) {
        self.foreign_events_are_in_order();
        for (at, seen) in &self.seen {
            let node = [nodes.here(), nodes.there()][*at];
            let lost = self.sent[1 - at].len() - seen[&(1 - at)].len();
            let gaps = node.metric("bus_gaps_total");
            assert!(lost == 0 || gaps > 0, "{lost} events are missing, and nobody noticed");
        }
    }

    /// What did arrive of them is in order and not doubled.
    pub(crate) fn foreign_events_are_in_order(&self) {
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

/// Waits for what a machine that does other things may take long for.
async fn until(what: &str, is_so: impl AsyncFn() -> bool) {
    let waiting = async {
        while !is_so().await {
            tokio::time::sleep(POLL).await;
        }
    };
    let waited = tokio::time::timeout(PATIENCE, waiting).await;
    waited.unwrap_or_else(|_| panic!("waited too long for {what}"));
}

async fn more(server: &TestServer, name: &str, more: i64) {
    let wanted = server.metric(name) + more;
    until(&format!("{more} more of {name}"), async || server.metric(name) >= wanted).await;
}

/// Until so many more events were delivered without Redis.
pub(crate) async fn local_deliveries(server: &TestServer, count: i64) {
    more(server, "bus_local_deliveries_total", count).await;
}

/// Until Redis has stored so many more events.
pub(crate) async fn more_published(server: &TestServer, count: i64) {
    more(server, "bus_published_total", count).await;
}

pub(crate) async fn is_degraded(server: &TestServer) {
    let degraded = (200, "degraded: Redis is away, slow, or refuses\n".to_owned());
    until("to be degraded", async || probe(server, "/readyz").await == degraded).await;
    assert_eq!(probe(server, "/healthz").await, (200, "ok\n".to_owned()));
}

/// Until Redis is in use again. (`/readyz` says so when it also keeps the time, which is a question of this
/// machine while there is load; see [`Load::finish`].)
pub(crate) async fn is_back(server: &TestServer) {
    until("the connection", async || server.metric("bus_connected") == 1).await;
    more_published(server, 20).await;
}

async fn is_ready(server: &TestServer) {
    let ready = (200, "ok\n".to_owned());
    until("to be ready", async || probe(server, "/readyz").await == ready).await;
}
