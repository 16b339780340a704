//! Another server takes over (G6), under load. Redis replicates behind its clients' backs: what a master had
//! confirmed may be gone with it. Nothing is lost silently, and where nothing is lost, nothing comes twice.

use std::time::{Duration, Instant};

use crate::load::{Load, POLL, is_back, local_deliveries, more_published};
use crate::nodes::{Nodes, at};
use crate::redis::{Redis, Reply};
use crate::servers::{Cluster, Sentinel};
use crate::support::within;

const STREAM: &str = "socket.io";

async fn both_ready(nodes: &Nodes) {
    for node in [nodes.here(), nodes.there()] {
        is_back(node).await;
        more_published(node, 100).await;
    }
}

/// The connections of nodes, and not the test's or those of replication.
async fn has_clients(redis: &Redis) -> bool {
    let Reply::Bytes(list) = redis.call(&["CLIENT", "LIST", "TYPE", "normal"]).await else {
        panic!("no list")
    };
    String::from_utf8(list).unwrap().lines().any(|line| line.contains("cmd=xread"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_master_that_is_killed_under_sentinel_loses_nothing_silently() {
    let mut sentinel = Sentinel::start().await;
    let nodes = Nodes::alike(at(sentinel.url()), |_| {}).await;
    let load = Load::start(&nodes).await;
    more_published(nodes.here(), 100).await;
    let old = sentinel.master().await;
    sentinel.data[old].kill();
    local_deliveries(nodes.here(), 50).await;
    local_deliveries(nodes.there(), 50).await;
    sentinel.until_master(1 - old).await;
    both_ready(&nodes).await;
    let outcome = load.finish(&nodes).await;
    outcome.own_events_arrived();
    outcome.no_foreign_event_is_lost_silently(&nodes);
}

/// The old master lives on and takes writes for some seconds, all of which are lost: nodes must leave it.
#[tokio::test(flavor = "multi_thread")]
async fn a_master_that_is_replaced_under_sentinel_is_left_at_once() {
    let sentinel = Sentinel::start().await;
    let nodes = Nodes::alike(at(sentinel.url()), |_| {}).await;
    let load = Load::start(&nodes).await;
    more_published(nodes.here(), 100).await;
    let old = sentinel.master().await;
    let failover = sentinel.sentinel.call(&["SENTINEL", "FAILOVER", "main"]).await;
    assert_eq!(failover, Reply::text("OK"));
    sentinel.until_master(1 - old).await;
    let role = async || match sentinel.data[old].call(&["ROLE"]).await {
        Reply::List(parts) => parts[0].clone(),
        other => panic!("{other:?}"),
    };
    within("the nodes to leave the old master", async {
        while has_clients(&sentinel.data[old]).await {
            tokio::time::sleep(POLL).await;
        }
    })
    .await;
    assert_eq!(
        role().await,
        Reply::text("master"),
        "Sentinel ended the connections, not the nodes"
    );
    both_ready(&nodes).await;
    let outcome = load.finish(&nodes).await;
    outcome.own_events_arrived();
    outcome.no_foreign_event_is_lost_silently(&nodes);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_of_a_cluster_that_hands_over_costs_no_event() {
    let cluster = Cluster::start(Some(STREAM)).await;
    let nodes = Nodes::alike(at(cluster.url()), |_| {}).await;
    let load = Load::start(&nodes).await;
    more_published(nodes.here(), 100).await;
    let replica = cluster.replica.as_ref().unwrap();
    let old = &cluster.servers[cluster.owner(STREAM).await];
    for (from, to) in [(old, replica), (replica, old)] {
        assert_eq!(to.call(&["CLUSTER", "FAILOVER"]).await, Reply::text("OK"));
        within("the nodes to move over", async {
            while !has_clients(to).await || has_clients(from).await {
                tokio::time::sleep(POLL).await;
            }
        })
        .await;
        both_ready(&nodes).await;
    }
    let outcome = load.finish(&nodes).await;
    outcome.own_events_arrived();
    outcome.foreign_events_arrived();
    for node in [nodes.here(), nodes.there()] {
        assert_eq!(node.metric("bus_gaps_total"), 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_of_a_cluster_that_is_killed_loses_nothing_silently() {
    let mut cluster = Cluster::start(Some(STREAM)).await;
    let nodes = Nodes::alike(at(cluster.url()), |_| {}).await;
    let load = Load::start(&nodes).await;
    more_published(nodes.here(), 100).await;
    let old = cluster.owner(STREAM).await;
    cluster.servers[old].kill();
    local_deliveries(nodes.here(), 50).await;
    local_deliveries(nodes.there(), 50).await;
    both_ready(&nodes).await;
    let outcome = load.finish(&nodes).await;
    outcome.own_events_arrived();
    outcome.no_foreign_event_is_lost_silently(&nodes);
}

/// The old writer has to be ended on the server that it wrote to, or what it had sent would be stored twice.
#[tokio::test(flavor = "multi_thread")]
async fn connections_to_a_cluster_cut_every_few_milliseconds_cost_no_event() {
    let cluster = Cluster::start(None).await;
    for sharded in [false, true] {
        let mut config = at(cluster.url());
        config.redis.sharded_pubsub = sharded;
        config.redis.stream_name = format!("stream-{sharded}");
        let nodes = Nodes::alike(config, |_| {}).await;
        let load = Load::start(&nodes).await;
        more_published(nodes.here(), 50).await;
        let end = Instant::now() + Duration::from_secs(2);
        while Instant::now() < end {
            for server in &cluster.servers {
                for kind in ["normal", "pubsub"] {
                    server.call(&["CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes"]).await;
                }
            }
            tokio::time::sleep(Duration::from_millis(7)).await;
        }
        both_ready(&nodes).await;
        let outcome = load.finish(&nodes).await;
        outcome.own_events_arrived();
        outcome.foreign_events_arrived();
        for node in [nodes.here(), nodes.there()] {
            assert!(node.metric("bus_reconnects_total") >= 1);
            assert_eq!(node.metric("bus_gaps_total"), 0);
        }
        // (the nodes of the first round linger in the second one)
        if !sharded {
            nothing_is_left_over(&cluster).await;
        }
    }
}

/// Of each node: two for the stream (one writes, one reads), commands and a subscriber, one to each of the other
/// servers, and one that asks who serves.
async fn nothing_is_left_over(cluster: &Cluster) {
    within("the connections that are needed", async {
        loop {
            let mut connections = 0;
            for server in &cluster.servers {
                connections += server.connections().await;
            }
            if connections == 2 * 7 {
                return;
            }
            tokio::time::sleep(POLL).await;
        }
    })
    .await;
}
