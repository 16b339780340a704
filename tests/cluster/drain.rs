//! A node that leaves a cluster.

use std::time::Duration;

use quicket::TransportKind;
use quicket::config::Config;

use crate::nodes::node;
use crate::redis::Redis;
use crate::support::http::{Request, Response};
use crate::support::socketio::TestServer;
use crate::support::within;

const OPEN: &str = "/socket.io/?EIO=4&transport=polling";

async fn get(node: &TestServer, target: &str) -> Response {
    Request::get(target).send(node.address).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leaving_node_is_unwelcoming_first_then_takes_nobody_and_closes_what_it_has() {
    let redis = Redis::start().await;
    let config = Config {
        shutdown_grace: Duration::from_secs(60),
        drain_delay: Duration::from_secs(5),
        drain: Duration::from_millis(100),
        ..node(&redis)
    };
    let leaving = TestServer::start(config, |_| {}).await;
    let mut clients = Vec::new();
    for kind in TransportKind::ALL {
        clients.push(leaving.joined(kind).await);
    }
    assert_eq!(get(&leaving, "/acceptz").await.status, 200);
    leaving.server.shutdown();
    leaving.until_metric("phase", 1).await;
    assert_eq!(get(&leaving, "/acceptz").await.status, 503);
    assert_eq!(get(&leaving, "/readyz").await.status, 200);
    // whom the balancer still sends here is served, on every transport
    for kind in TransportKind::ALL {
        clients.push(leaving.joined(kind).await);
    }
    assert_eq!(leaving.metric("phase"), 1, "the machine took too long for this test");
    assert_eq!(leaving.metric("sessions_drained_total"), 0);

    leaving.until_metric("phase", 2).await;
    // clients that poll and do not come for their last packet hold the node
    let refused = get(&leaving, OPEN).await;
    assert_eq!(refused.status, 503);
    assert_eq!(refused.header("retry-after").as_deref(), Some("1"));
    let upgrade = "/socket.io/?EIO=4&transport=websocket";
    let refused = Request::websocket(upgrade).send(leaving.address).await;
    assert_eq!(refused.status, 503);
    assert_eq!(refused.header("retry-after").as_deref(), Some("1"));
    assert_eq!(get(&leaving, "/readyz").await.status, 200);
    leaving.until_metric("sessions_drained_total", 6).await;
    for (mut client, _socket) in clients {
        client.ends_properly(1001).await;
    }
    within("the node to be gone", leaving.until_metric("phase", 3)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_without_others_waits_for_no_balancer() {
    let config = Config {
        drain_delay: Duration::from_secs(60),
        shutdown_grace: Duration::from_secs(240),
        ..crate::support::socketio::config()
    };
    let alone = TestServer::start(config, |_| {}).await;
    alone.server.shutdown();
    within("the node to be gone", alone.until_metric("phase", 3)).await;
}
