//! One node or two: what holds on one has to hold on both.

use quicket::config::{Config, RedisConfig};
use quicket::{Server, Socket, TransportKind};
use serde_json::Value;

use crate::redis::Redis;
use crate::support::socketio::{Client, TestServer, config};

/// A cluster, or what stands in for one.
pub(crate) struct Nodes {
    servers: Vec<TestServer>,
    pub(crate) redis: Option<Redis>,
}

/// A node's configuration.
pub(crate) fn node(redis: &Redis) -> Config {
    at(redis.url())
}

/// A node's configuration.
pub(crate) fn at(url: impl Into<String>) -> Config {
    Config { redis: RedisConfig { url: Some(url.into()), ..RedisConfig::default() }, ..config() }
}

impl Nodes {
    /// A single node without Redis.
    pub(crate) async fn one() -> Self {
        Self::of(TestServer::start(config(), |_| {}).await)
    }

    pub(crate) fn of(server: TestServer) -> Self {
        Self { servers: vec![server], redis: None }
    }

    /// Two nodes in one cluster.
    pub(crate) async fn two() -> Self {
        Self::on(Redis::start().await, |_| {}).await
    }

    pub(crate) async fn on(redis: Redis, change: impl Fn(&mut Config)) -> Self {
        Self::with(redis, change, |_| {}).await
    }

    pub(crate) async fn with(
        redis: Redis,
        change: impl Fn(&mut Config),
        install: impl Fn(&Server),
    ) -> Self {
        let mut config = node(&redis);
        change(&mut config);
        let nodes = Self::alike(config, install).await;
        Self { redis: Some(redis), ..nodes }
    }

    /// Two nodes; who starts it keeps Redis.
    pub(crate) async fn alike(config: Config, install: impl Fn(&Server)) -> Self {
        let one = TestServer::start(config.clone(), &install);
        let (one, two) = tokio::join!(one, TestServer::start(config, &install));
        Self { servers: vec![one, two], redis: None }
    }

    /// Where the application calls.
    pub(crate) fn here(&self) -> &TestServer {
        &self.servers[0]
    }

    /// Where the clients are: another node, if there is one.
    pub(crate) fn there(&self) -> &TestServer {
        self.servers.last().unwrap()
    }

    pub(crate) fn redis(&mut self) -> &mut Redis {
        self.redis.as_mut().expect("a cluster of several nodes")
    }
}

/// A client on that node.
pub(crate) async fn joined(node: &TestServer) -> (Client, Socket) {
    node.joined(TransportKind::WebSocket).await
}

/// The next events are these.
pub(crate) async fn expect(client: &mut Client, events: &[Value]) {
    for event in events {
        assert_eq!(client.event().await, *event);
    }
}

/// Makes two tests of each function: on a node without Redis, and across two nodes.
macro_rules! on_one_and_two_nodes {
    ($($promise:ident),+ $(,)?) => {
        on_one_and_two_nodes!(@ on_one_node ($crate::nodes::Nodes::one()) $($promise)+);
        on_one_and_two_nodes!(@ on_two_nodes ($crate::nodes::Nodes::two()) $($promise)+);
    };
    // `$start` gives so many nodes
    (with $start:ident: $($promise:ident),+ $(,)?) => {
        on_one_and_two_nodes!(@ on_one_node (super::$start(1)) $($promise)+);
        on_one_and_two_nodes!(@ on_two_nodes (super::$start(2)) $($promise)+);
    };
    (@ $module:ident ($nodes:expr) $($promise:ident)+) => {
        mod $module {
            $(
                #[tokio::test(flavor = "multi_thread")]
                async fn $promise() {
                    super::$promise($nodes.await).await;
                }
            )+
        }
    };
}
pub(crate) use on_one_and_two_nodes;
