//! A node that is full when another one joins gives it half of its sessions, and no client misses anything.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use quicket::config::{Config, RecoveryConfig};
use quicket::{Server, TransportKind};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::nodes::node;
use crate::redis::Redis;
use crate::support::socketio::{End, Received, TestServer};

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
}

impl Nodes {
    /// A balancer that chooses the node with the fewest connections, such as HAProxy's `leastconn`.
    fn choose(&self) -> &TestServer {
        let nodes = [Some(&self.one), self.other.get()];
        nodes.into_iter().flatten().min_by_key(|node| node.server.session_count()).unwrap()
    }
}

/// A client that comes back as official ones do, until it gets the last event. Gives what it came back after.
async fn follow(nodes: Arc<Nodes>, kind: TransportKind) -> Vec<(TransportKind, End)> {
    let mut client = nodes.choose().client(kind).await;
    client.send("40").await;
    let mut answer = connected(&client.recv_text().await);
    let (sid, pid) = (answer["sid"].take(), answer["pid"].take());
    let (mut offset, mut seen, mut returns) = (Value::Null, 0, Vec::new());
    loop {
        match client.recv().await {
            Received::Text(packet) => {
                let event: Value =
                    serde_json::from_str(packet.strip_prefix("42").unwrap()).unwrap();
                if event[0] == LAST {
                    assert_eq!(event[1], seen, "none is missing at the end");
                    return returns;
                }
                assert_eq!(event[1], seen + 1, "each once, in order");
                (seen, offset) = (seen + 1, event[2].clone());
            }
            Received::End(end) => {
                returns.push((kind, end));
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

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_joins_gets_its_share_of_the_sessions_and_nobody_misses_an_event() {
    let redis = Redis::start().await;
    let one = TestServer::start(shedding(&redis), |_| {}).await;
    let nodes = Arc::new(Nodes { one, other: OnceLock::new() });
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
    let ends = clients.join_all().await.concat();
    let returns = ends.len();

    let metrics = one.server.metrics().render();
    assert_eq!(i64::try_from(returns).unwrap(), shed_by(one), "{ends:?}\n{metrics}");
    assert_eq!(shed_by(other), 0, "nothing goes back");
    assert!((CLIENTS * 9 / 20..=CLIENTS / 2).contains(&returns), "{returns} were shed");
    let recovered = one.metric("recoveries_total") + other.metric("recoveries_total");
    assert_eq!(i64::try_from(returns).unwrap(), recovered);
}
