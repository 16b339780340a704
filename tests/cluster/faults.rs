//! Redis fails, the service does not (G6): under load, every event counted.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use quicket::Config;
use serde_json::json;

use crate::load::{Load, POLL, is_back, is_degraded, local_deliveries, more_published};
use crate::nodes::{Nodes, at, expect, joined};
use crate::redis::{Redis, Reply};
use crate::servers::{Cluster, Proxy};
use crate::support::socketio::TestServer;
use crate::support::{eventually, within};

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
        is_back(nodes.here()).await;
        is_back(nodes.there()).await;
    }
    more_published(nodes.here(), 50).await;
    let outcome = load.finish(&nodes).await;
    outcome.own_events_arrived();
    outcome.foreign_events_arrived();
    for node in [nodes.here(), nodes.there()] {
        assert!(node.metric("bus_reconnects_total") >= 2);
        assert_eq!(node.metric("bus_gaps_total"), 0);
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
    is_back(nodes.here()).await;
    is_back(nodes.there()).await;
    more_published(nodes.here(), 50).await;
    more_published(nodes.there(), 50).await;
    let outcome = load.finish(&nodes).await;
    outcome.own_events_arrived();
    outcome.foreign_events_are_in_order();
    for node in [nodes.here(), nodes.there()] {
        assert_eq!(node.metric("bus_gaps_total"), 1);
    }
}

/// How long it lasts when Redis is there and does not answer.
const HANG: Duration = Duration::from_secs(10);

/// `begin` makes Redis hang, `end` lets it go on.
async fn hanging(nodes: Nodes, begin: impl AsyncFnOnce(), end: impl AsyncFnOnce()) {
    let load = Load::start(&nodes).await;
    more_published(nodes.here(), 50).await;
    let until = tokio::time::Instant::now() + HANG;
    begin().await;
    for node in [nodes.here(), nodes.there()] {
        is_degraded(node).await;
        local_deliveries(node, 50).await;
    }
    tokio::time::sleep_until(until).await;
    end().await;
    for node in [nodes.here(), nodes.there()] {
        is_back(node).await;
    }
    let outcome = load.finish(&nodes).await;
    outcome.own_events_arrived();
    outcome.foreign_events_arrived();
    for node in [nodes.here(), nodes.there()] {
        assert_eq!(node.metric("bus_gaps_total"), 0);
        // a hang of four seconds is taken for a broken connection, one attempt for eight
        assert!((1..=8).contains(&node.metric("bus_reconnects_total")));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_that_hangs_for_ten_seconds_costs_no_event() {
    let redis = Redis::start().await;
    let nodes = Nodes::alike(at(redis.url()), |_| {}).await;
    hanging(nodes, async || redis.signal("STOP"), async || redis.signal("CONT")).await;
}

/// As during a failover of a managed Redis.
#[tokio::test(flavor = "multi_thread")]
async fn redis_that_pauses_writes_for_ten_seconds_costs_no_event() {
    pausing("WRITE").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_that_pauses_all_commands_for_ten_seconds_costs_no_event() {
    pausing("ALL").await;
}

async fn pausing(what: &str) {
    let redis = Redis::start().await;
    let nodes = Nodes::alike(at(redis.url()), |_| {}).await;
    let millis = HANG.as_millis().to_string();
    let pause = async || {
        let paused = redis.call(&["CLIENT", "PAUSE", &millis, what]).await;
        assert_eq!(paused, Reply::text("OK"));
    };
    hanging(nodes, pause, async || {}).await;
}

/// Redis at the end of a slow line: own events come by the deadline, the others' come late and all.
async fn slow(delay: Duration, cuts: usize) {
    let redis = Redis::start().await;
    let proxy = Proxy::start(redis.port).await;
    let nodes = Nodes::alike(at(proxy.url()), |_| {}).await;
    let load = Load::start(&nodes).await;
    more_published(nodes.here(), 50).await;
    proxy.delay(delay);
    for _ in 0..cuts {
        for node in [nodes.here(), nodes.there()] {
            more_published(node, 150).await;
        }
        let broke = || nodes.here().metric("bus_reconnects_total");
        let before = broke();
        proxy.cut(); // the way back is slow, too
        eventually("the cut to be noticed", || broke() > before).await;
    }
    for node in [nodes.here(), nodes.there()] {
        node.until_metric("bus_connected", 1).await;
        more_published(node, 150).await;
        let least = delay.as_millis() as i64 - 1; // both clocks are cut to milliseconds
        eventually("the lag to be seen", || node.metric("bus_lag_ms") >= least).await;
    }
    let outcome = load.finish(&nodes).await;
    outcome.own_events_arrived();
    outcome.foreign_events_arrived();
    for node in [nodes.here(), nodes.there()] {
        assert!(node.metric("bus_local_deliveries_total") > 0);
        assert_eq!(node.metric("bus_gaps_total"), 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_behind_a_slow_line_costs_no_event() {
    slow(Duration::from_millis(200), 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_behind_a_very_slow_line_costs_no_event() {
    slow(Duration::from_millis(700), 1).await;
}

/// What an old connection had sent comes to Redis when a new one has stored it already: then it must not be
/// stored once more. Nodes of ours would drop the repetition, Node peers could not.
#[tokio::test(flavor = "multi_thread")]
async fn what_an_old_connection_still_sends_is_not_stored_twice() {
    let redis = Redis::start().await;
    let proxy = Proxy::start(redis.port).await;
    nothing_is_stored_twice(at(proxy.url()), &redis, &proxy).await;
}

/// There the old connection has to be ended on the server that has the stream.
#[tokio::test(flavor = "multi_thread")]
async fn what_an_old_connection_to_a_cluster_still_sends_is_not_stored_twice() {
    let cluster = Cluster::start(None).await;
    let proxies = cluster.behind_proxies().await;
    let owner = cluster.owner("socket.io").await;
    nothing_is_stored_twice(at(cluster.url()), &cluster.servers[owner], &proxies[owner]).await;
}

async fn nothing_is_stored_twice(config: Config, redis: &Redis, proxy: &Proxy) {
    let nodes = Nodes::alike(config, |_| {}).await;
    let load = Load::start(&nodes).await;
    more_published(nodes.here(), 50).await;
    proxy.hold(Duration::from_secs(2));
    local_deliveries(nodes.here(), 10).await; // these are on their way
    local_deliveries(nodes.there(), 10).await;
    redis.call(&["CLIENT", "KILL", "TYPE", "pubsub"]).await;
    is_back(nodes.here()).await;
    is_back(nodes.there()).await;
    proxy.until_released().await;
    let outcome = load.finish(&nodes).await;
    outcome.own_events_arrived();
    outcome.foreign_events_arrived();
    let Reply::List(entries) = redis.call(&["XRANGE", "socket.io", "-", "+"]).await else {
        panic!("no stream")
    };
    let mut seen = HashSet::new();
    for entry in &entries {
        let Reply::List(entry) = entry else { panic!("{entry:?}") };
        let Reply::List(fields) = &entry[1] else { panic!("{entry:?}") };
        let field = |name: &str| {
            let at = fields.iter().step_by(2).position(|field| *field == Reply::text(name));
            format!("{:?}", fields[2 * at.unwrap() + 1])
        };
        assert!(seen.insert((field("uid"), field("q"))), "stored twice: {entry:?}");
    }
}

/// What was sent is gone, and nobody says so: the worst of a firewall.
#[tokio::test(flavor = "multi_thread")]
async fn a_line_that_swallows_everything_costs_no_event() {
    let redis = Redis::start().await;
    let proxy = Proxy::start(redis.port).await;
    let nodes = Nodes::alike(at(proxy.url()), |_| {}).await;
    let load = Load::start(&nodes).await;
    for _ in 0..2 {
        more_published(nodes.here(), 50).await;
        more_published(nodes.there(), 50).await;
        proxy.stall(true);
        local_deliveries(nodes.here(), 50).await;
        local_deliveries(nodes.there(), 50).await;
        proxy.stall(false);
        proxy.cut();
        is_back(nodes.here()).await;
        is_back(nodes.there()).await;
    }
    let outcome = load.finish(&nodes).await;
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
    is_back(nodes.here()).await;
    is_back(nodes.there()).await;
    more_published(nodes.here(), 50).await;
    let outcome = load.finish(&nodes).await;
    outcome.own_events_arrived();
    outcome.foreign_events_arrived();
    for node in [nodes.here(), nodes.there()] {
        // most of the new connections did not live long enough to be counted
        assert!(node.metric("bus_reconnects_total") >= 1);
        assert_eq!(node.metric("bus_gaps_total"), 0);
    }
    // nothing of the many attempts is left over
    within("the connections that are needed", async {
        while redis.connections().await != 9 {
            tokio::time::sleep(POLL).await;
        }
    })
    .await;
    let channel = "socket.io#/#";
    let subscribed = Reply::List(vec![Reply::text(channel), Reply::Integer(2)]);
    assert_eq!(killer.call(&["PUBSUB", "NUMSUB", channel]).await, subscribed);
}

/// Without memory, without replicas where some are wanted, and without the right to.
#[tokio::test(flavor = "multi_thread")]
async fn redis_that_refuses_to_store_costs_no_event() {
    const WAYS: [(&[&str], &[&str]); 3] = [
        (&["CONFIG", "SET", "maxmemory", "1"], &["CONFIG", "SET", "maxmemory", "0"]),
        (
            &["CONFIG", "SET", "min-replicas-to-write", "1"],
            &["CONFIG", "SET", "min-replicas-to-write", "0"],
        ),
        (&["ACL", "SETUSER", "default", "-xadd"], &["ACL", "SETUSER", "default", "+xadd"]),
    ];
    let nodes = Nodes::two().await;
    let redis = nodes.redis.as_ref().unwrap();
    let load = Load::start(&nodes).await;
    more_published(nodes.here(), 50).await;
    redis.call(&["CONFIG", "SET", "maxmemory-policy", "noeviction"]).await;
    for (refuse, accept) in WAYS {
        assert_eq!(redis.call(refuse).await, Reply::text("OK"));
        is_degraded(nodes.here()).await;
        local_deliveries(nodes.here(), 50).await;
        local_deliveries(nodes.there(), 50).await;
        assert_eq!(redis.call(accept).await, Reply::text("OK"));
        is_back(nodes.here()).await;
        is_back(nodes.there()).await;
    }
    more_published(nodes.here(), 50).await;
    let outcome = load.finish(&nodes).await;
    outcome.own_events_arrived();
    outcome.foreign_events_arrived();
    for node in [nodes.here(), nodes.there()] {
        assert!(node.metric("bus_refusals_total") >= 3);
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
    nodes.here().until_metric("bus_queue_messages", accepted).await;
    assert!((50_000..=100_000).contains(&nodes.here().metric("bus_queue_bytes")));
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

/// 50 ms, 100 ms, 200 ms and so on up to 2 s, each more or less: nine attempts take 5 s to 10 s.
#[tokio::test(flavor = "multi_thread")]
async fn attempts_to_connect_become_rare() {
    let mut redis = Redis::start().await;
    let proxy = Proxy::start(redis.port).await;
    let node = TestServer::start(at(proxy.url()), |_| {}).await;
    redis.kill();
    node.until_metric("bus_connected", 0).await;
    let before = proxy.accepted();
    tokio::time::sleep(Duration::from_secs(5)).await;
    let attempts = proxy.accepted() - before;
    assert!((3..=12).contains(&attempts), "{attempts} attempts in 5 s");
    redis.restart().await;
    node.until_metric("bus_connected", 1).await;
}
