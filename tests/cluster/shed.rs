//! A node that is full when another one joins gives it half of its sessions, and no client misses anything.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use quicket::config::{Config, RecoveryConfig};
use quicket::{Server, TransportKind};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::nodes::node;
use crate::redis::Redis;
use crate::support::eventually;
use crate::support::socketio::{Received, TestServer};

const CLIENTS: usize = 200;

/// The server's events stop here.
const LAST: &str = "last";

/// As fast as it goes: all of its sessions in a minute.
fn shedding(redis: &Redis) -> Config {
    let mut config = Config { shed: Some(100), ..node(redis) };
    config.socketio.recovery =
        RecoveryConfig { window: Duration::from_secs(60), ..RecoveryConfig::default() };
    config
}

/// A node, and one that joins it.
struct Nodes {
    one: TestServer,
    other: OnceLock<TestServer>,
    /// Connections that ended, as clients have seen it.
    ends: AtomicUsize,
    /// Clients that have the last event.
    done: AtomicUsize,
}

impl Nodes {
    /// A balancer that chooses the node with the fewest connections, such as HAProxy's `leastconn`.
    fn choose(&self) -> &TestServer {
        let nodes = [Some(&self.one), self.other.get()];
        nodes.into_iter().flatten().min_by_key(|node| node.server.session_count()).unwrap()
    }
}

/// A client that comes back as official ones do. It stays when it has the last event: it may still be shed.
async fn follow(nodes: Arc<Nodes>, kind: TransportKind) {
    let mut client = nodes.choose().client(kind).await;
    client.send("40").await;
    let mut answer = connected(&client.recv_text().await);
    let (sid, pid) = (answer["sid"].take(), answer["pid"].take());
    let (mut offset, mut seen, mut is_done) = (Value::Null, 0, false);
    loop {
        match client.recv().await {
            Received::Text(packet) => {
                assert!(!is_done, "{packet} behind the last event");
                let event: Value =
                    serde_json::from_str(packet.strip_prefix("42").unwrap()).unwrap();
                offset = event[2].clone();
                if event[0] == LAST {
                    assert_eq!(event[1], seen, "none is missing at the end");
                    is_done = true;
                    nodes.done.fetch_add(1, Ordering::Relaxed);
                } else {
                    assert_eq!(event[1], seen + 1, "each once, in order");
                    seen += 1;
                }
            }
            Received::End(_) => {
                nodes.ends.fetch_add(1, Ordering::Relaxed);
                client = nodes.choose().client(kind).await;
                client.send(&format!("40{}", json!({ "pid": pid, "offset": offset }))).await;
                let answer = connected(&client.recv_text().await);
                assert_eq!((&answer["sid"], &answer["pid"]), (&sid, &pid), "the session goes on");
            }
            Received::Binary(_) => panic!("nobody sends such"),
        }
    }
}

fn connected(answer: &str) -> Value {
    let data = answer.strip_prefix("40").unwrap_or_else(|| panic!("not connected but {answer}"));
    serde_json::from_str(data).unwrap()
}

/// Emits numbers while `going` is so, and the last event then.
async fn emit(server: Server, going: impl Fn() -> bool) {
    let namespace = server.of("/");
    let mut n = 0;
    while going() {
        n += 1;
        namespace.emit("n", &n).await.unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    namespace.emit(LAST, &n).await.unwrap();
}

fn shed_by(node: &TestServer) -> i64 {
    node.metric(r#"sessions_closed_total{reason="shed"}"#)
}

/// Series of sessions that ended for another reason.
fn ended_otherwise(node: &TestServer) -> Vec<String> {
    let metrics = node.server.metrics().render();
    let closed = metrics.lines().filter(|line| line.starts_with("quicket_sessions_closed_total{"));
    let others = closed.filter(|line| !line.contains(r#""shed""#) && !line.ends_with(" 0"));
    others.map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_joins_gets_its_share_of_the_sessions_and_nobody_misses_an_event() {
    let redis = Redis::start().await;
    let one = TestServer::start(shedding(&redis), |_| {}).await;
    let (ends, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let nodes = Arc::new(Nodes { one, other: OnceLock::new(), ends, done });
    let mut clients = JoinSet::new();
    for n in 0..CLIENTS {
        // mostly as in the field: few poll
        let kind = match n % 10 {
            0 => TransportKind::Polling,
            1..4 => TransportKind::WebTransport,
            _ => TransportKind::WebSocket,
        };
        clients.spawn(follow(nodes.clone(), kind));
    }
    let one = &nodes.one;
    one.until_metric("sockets", CLIENTS as i64).await;
    let joining = TestServer::start(shedding(&redis), |_| {}).await;
    let other = nodes.other.get_or_init(|| joining);
    let balanced = || {
        let sessions = [one, other].map(|node| node.server.session_count());
        sessions[0] <= CLIENTS * 11 / 20 && sessions.iter().sum::<usize>() >= CLIENTS
    };
    let emitting = emit(one.server.clone(), || !balanced());
    let long = Duration::from_secs(240);
    tokio::time::timeout(long, emitting).await.expect("balance within a few minutes");
    let done = || nodes.done.load(Ordering::Relaxed) == CLIENTS;
    eventually("everybody to have the last event", done).await;

    // a session is counted later than its client hears of it, and more may be shed meanwhile
    eventually("all ends to be those of sessions that were shed and went on", || {
        let otherwise = [one, other].map(ended_otherwise).concat();
        assert!(otherwise.is_empty(), "{otherwise:?}");
        let ends = nodes.ends.load(Ordering::Relaxed) as i64;
        let recovered = one.metric("recoveries_total") + other.metric("recoveries_total");
        (shed_by(one), recovered) == (ends, ends)
    })
    .await;
    assert_eq!(shed_by(other), 0, "nothing goes back");
    let returns = nodes.ends.load(Ordering::Relaxed);
    assert!((CLIENTS * 9 / 20..=CLIENTS / 2).contains(&returns), "{returns} were shed");
    clients.abort_all();
    while let Some(client) = clients.join_next().await {
        assert!(client.unwrap_err().is_cancelled(), "it missed nothing to the end");
    }
}
