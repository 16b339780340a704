//! Every form of connection that the documentation names, each with real servers, and what is refused.

use std::num::NonZeroU32;
use std::path::Path;
use std::time::{Duration, Instant};

use quicket::config::{Command, Config};
use quicket::{Answers, ServeError, Server, ServerAck};
use serde_json::json;

use crate::nodes::{Nodes, at, expect, joined};
use crate::redis::{Redis, Reply, Setup};
use crate::servers::{Authority, Cluster, Sentinel, valkey};
use crate::support::socketio::{Client, TestServer};
use crate::support::{eventually, within};

/// Events that each node publishes at once.
const EVENTS: u64 = 50;

fn install(server: &Server) {
    for name in ["/", "/chat", "/admin", "/notifications"] {
        let namespace = server.of(name);
        namespace
            .on_server_side("double", |n: u64, ack: ServerAck| async move { ack.send(&(2 * n)) });
    }
    server.of_dynamic(|name, _| async move { name.starts_with("/room-") });
}

/// Two nodes, started and found to be one: everything that travels between nodes does.
async fn one_cluster(mut config: Config) -> Nodes {
    // one order is looked at, and this machine may be slow
    config.redis.local_deadline = Duration::from_secs(600);
    let nodes = Nodes::alike(config, install).await;
    act_as_one(&nodes).await;
    for node in [nodes.here(), nodes.there()] {
        for name in ["gaps", "malformed", "reconnects", "requests_lost", "local_deliveries"] {
            assert_eq!(node.metric(&format!("bus_{name}_total")), 0, "{name}");
        }
    }
    nodes
}

async fn act_as_one(nodes: &Nodes) {
    let (mut one, a) = joined(nodes.here()).await;
    let (mut two, b) = joined(nodes.there()).await;
    one_order(nodes, &mut one, &mut two).await;
    let all = nodes.here().server.of("/");
    all.to(b.id()).sockets_join("room").unwrap();
    all.to("room").emit("to room", &()).await.unwrap();
    expect(&mut two, &[json!(["to room"])]).await;
    all.to("room").sockets_leave("room").unwrap();
    let fetched = all.fetch_sockets().await;
    assert!(fetched.complete);
    let mut ids: Vec<_> = fetched.sockets.iter().map(|socket| socket.id().to_owned()).collect();
    let mut expected = vec![a.id().to_owned(), b.id().to_owned()];
    ids.sort();
    expected.sort();
    assert_eq!(ids, expected);
    for name in ["/", "/chat", "/notifications"] {
        // a node is asked from when Redis has its subscription
        let namespace = nodes.here().server.of(name);
        within(name, async {
            while namespace.server_count().await != Some(2) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
    }
    for node in [nodes.here(), nodes.there()] {
        for name in ["/", "/chat", "/notifications"] {
            let asked = node.server.of(name).server_side_emit_with_ack("double", &21).await;
            let answers: Answers<u64> = asked;
            assert_eq!(answers.into_complete().unwrap(), [42], "{name}");
        }
    }
    let asking = tokio::spawn(async move { all.emit_with_ack::<_, u8>("who", &()).await });
    for (client, answer) in [(&mut one, 1), (&mut two, 2)] {
        let packet = client.recv_text().await;
        let id = packet.strip_prefix("42").unwrap().split('[').next().unwrap();
        client.send(&format!("43{id}[{answer}]")).await;
    }
    let mut answers = within("the answers", asking).await.unwrap().unwrap();
    answers.sort_unstable();
    assert_eq!(answers, [1, 2]);
    nodes.there().server.of("/").to(a.id()).disconnect_sockets(false).unwrap();
    one.expect("41").await;
    // a namespace that comes and goes
    two.join("/room-1").await;
    two.send("41/room-1,").await;
    two.join("/room-2").await; // now the first one is let go of
    let other = nodes.here().server.of("/notifications");
    let mut guest = nodes.there().client(quicket::TransportKind::WebSocket).await;
    guest.join("/notifications").await;
    other.emit("notify", &1).await.unwrap();
    guest.expect(r#"42/notifications,["notify",1]"#).await;
}

/// Both publish at once, and both clients see the same.
async fn one_order(nodes: &Nodes, one: &mut Client, two: &mut Client) {
    let publish = |node: &TestServer, name: &'static str| {
        let namespace = node.server.of("/");
        async move {
            for n in 0..EVENTS {
                namespace.emit(name, &n).await.unwrap();
            }
        }
    };
    tokio::join!(publish(nodes.here(), "here"), publish(nodes.there(), "there"));
    let mut orders = [Vec::new(), Vec::new()];
    for (client, order) in [one, two].into_iter().zip(&mut orders) {
        for _ in 0..2 * EVENTS {
            order.push(client.event().await);
        }
    }
    assert_eq!(orders[0], orders[1]);
    for name in ["here", "there"] {
        let own = orders[0].iter().filter(|event| event[0] == name);
        assert!(own.map(|event| event[1].as_u64().unwrap()).eq(0..EVENTS));
    }
}

/// Why a node does not start, which it has to say soon.
async fn refusal(config: Config) -> String {
    let begun = Instant::now();
    let refused = within("the refusal", Server::builder().config(config).build()).await;
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    match refused {
        Err(error @ ServeError::Bus(_)) => error.to_string(),
        other => panic!("{other:?}"),
    }
}

// --- TLS

async fn tls_redis(authority: &Authority, name: &str, asks_clients: &str) -> (Redis, String) {
    let setup = || {
        let (flags, port) = authority.flags(name, asks_clients);
        Setup { flags, tls_port: Some(port), ..Setup::default() }
    };
    let redis = Redis::start_as(setup).await;
    let url = format!("rediss://127.0.0.1:{}", redis.public_port());
    (redis, url)
}

fn trusting(url: &str, ca: &Path) -> Config {
    let mut config = at(url);
    config.redis.ca = Some(ca.to_owned());
    config
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_with_a_private_authority() {
    let authority = Authority::new();
    let (_redis, url) = tls_redis(&authority, "127.0.0.1", "no").await;
    one_cluster(trusting(&url, &authority.ca())).await;
    let error = refusal(trusting(&url, &Authority::new().ca())).await;
    assert!(error.contains("the certificate of Redis is refused: "), "{error}");
    assert!(error.contains("UnknownIssuer") || error.contains("BadSignature"), "{error}");
    let error = refusal(at(&url)).await; // the system's authorities do not know it either
    assert!(error.contains("the certificate of Redis is refused: "), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_with_another_name_is_refused() {
    let authority = Authority::new();
    let (_redis, url) = tls_redis(&authority, "redis.example", "no").await;
    let error = refusal(trusting(&url, &authority.ca())).await;
    assert!(error.contains("the certificate of Redis is refused: "), "{error}");
    assert!(error.contains("NotValidForName") && error.contains("redis.example"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_goes_on_when_the_authority_and_all_certificates_are_replaced() {
    let authority = Authority::new();
    let (mut redis, url) = tls_redis(&authority, "127.0.0.1", "no").await;
    let node = TestServer::start(trusting(&url, &authority.ca()), install).await;
    redis.kill();
    node.until_metric("bus_connected", 0).await;
    let next = Authority::new();
    let (cert, key) = next.sign("127.0.0.1");
    let (old_cert, old_key) = authority.paths("127.0.0.1");
    for (from, to) in [(cert, old_cert), (key, old_key), (next.ca(), authority.ca())] {
        std::fs::copy(from, to).unwrap();
    }
    redis.restart().await;
    node.until_metric("bus_connected", 1).await;
}

/// Redis does so by default.
#[tokio::test(flavor = "multi_thread")]
async fn tls_where_redis_asks_for_a_certificate() {
    let authority = Authority::new();
    let (_redis, url) = tls_redis(&authority, "127.0.0.1", "yes").await;
    let (cert, key) = authority.sign("quicket");
    let mut config = trusting(&url, &authority.ca());
    (config.redis.cert, config.redis.key) = (Some(cert), Some(key));
    one_cluster(config).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sentinel_over_tls() {
    let authority = Authority::new();
    let sentinel = Sentinel::start_with(Some(&authority)).await;
    let url = sentinel.url().replace("redis-sentinel:", "rediss-sentinel:");
    one_cluster(trusting(&url, &authority.ca())).await;
    let error = refusal(trusting(&url, &Authority::new().ca())).await;
    assert!(error.contains("the certificate of Redis is refused: "), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn cluster_over_tls() {
    let authority = Authority::new();
    let cluster = Cluster::start_with(None, Some(&authority)).await;
    let url = cluster.url().replace("redis-cluster:", "rediss-cluster:");
    let mut config = trusting(&url, &authority.ca());
    config.redis.stream_count = NonZeroU32::new(8).unwrap();
    one_cluster(config).await;
    let error = refusal(trusting(&url, &Authority::new().ca())).await;
    assert!(error.contains("the certificate of Redis is refused: "), "{error}");
}

// --- who we are

#[tokio::test(flavor = "multi_thread")]
async fn a_password_in_the_url_or_in_the_environment() {
    let setup = Setup { password: Some("p@ss:w"), ..Setup::flags(&["--requirepass", "p@ss:w"]) };
    let redis = Redis::start_as(|| setup.clone()).await;
    let url = |password: &str| format!("redis://:{password}@127.0.0.1:{}", redis.port);
    one_cluster(at(url("p%40ss%3Aw"))).await;
    let url_without = redis.url();
    let environment = |name: &str| match name {
        "REDIS_URL" => Some(url_without.clone().into()),
        "REDIS_PASSWORD" => Some("p@ss:w".into()),
        _ => None,
    };
    let Command::Run(parsed) = Config::parse(["quicket".into()].into_iter(), &environment).unwrap()
    else {
        panic!()
    };
    let mut config = at(redis.url());
    config.redis = parsed.redis;
    config.redis.channel_prefix = "another-cluster".to_owned();
    one_cluster(config).await;
    let error = refusal(at(url("wrong"))).await;
    assert!(error.contains("WRONGPASS") || error.contains("invalid"), "{error}");
    let error = refusal(at(redis.url())).await;
    assert!(error.contains("NOAUTH"), "{error}");
}

/// What docs/cluster.md says to grant, word by word.
fn documented_rules(user: &str) -> Vec<Vec<String>> {
    let docs = include_str!("../../docs/cluster.md");
    let prefix = format!("ACL SETUSER {user} ");
    let lines = docs.lines().filter_map(|line| line.trim().strip_prefix(&prefix));
    lines.map(|line| line.split_whitespace().map(str::to_owned).collect()).collect()
}

async fn grant(redis: &Redis, user: &str, rules: &[String]) {
    let command = ["ACL", "SETUSER", user].into_iter();
    let command: Vec<_> = command.chain(rules.iter().map(String::as_str)).collect();
    assert_eq!(redis.call(&command).await, Reply::text("OK"));
}

async fn nothing_was_refused(redis: &Redis) {
    assert_eq!(redis.call(&["ACL", "LOG"]).await, Reply::List(Vec::new()));
}

/// Commands that were granted and not used.
async fn unused(servers: &[&Redis], rules: &[String]) -> Vec<String> {
    let mut stats = String::new();
    for redis in servers {
        let Reply::Bytes(more) = redis.call(&["INFO", "commandstats"]).await else { panic!() };
        stats.push_str(&String::from_utf8(more).unwrap());
    }
    let granted = rules.iter().filter_map(|rule| rule.strip_prefix('+'));
    let unused = granted.filter(|name| !stats.contains(&format!("cmdstat_{name}:")));
    unused.map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_acl_user_with_what_the_docs_say_and_no_more() {
    let redis = Redis::start().await;
    let rules = &documented_rules("quicket")[0];
    grant(&redis, "quicket", rules).await;
    redis.call(&["CONFIG", "RESETSTAT"]).await;
    let nodes = one_cluster(at(format!("redis://quicket:password@127.0.0.1:{}", redis.port))).await;
    // and when a connection was lost
    redis.call(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]).await;
    nodes.here().until_metric("bus_reconnects_total", 1).await;
    nodes.here().until_metric("bus_connected", 1).await;
    nothing_was_refused(&redis).await;
    assert!(unused(&[&redis], rules).await.is_empty());
}

/// Who may not ask is answered in turn, too, and that is all that it is asked for.
#[tokio::test(flavor = "multi_thread")]
async fn an_acl_user_without_ping() {
    let redis = Redis::start().await;
    grant(&redis, "quicket", &documented_rules("quicket")[0]).await;
    redis.call(&["ACL", "SETUSER", "quicket", "-ping"]).await;
    let nodes = one_cluster(at(format!("redis://quicket:password@127.0.0.1:{}", redis.port))).await;
    assert_eq!(nodes.here().server.of("/new").server_count().await, Some(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_acl_user_of_a_cluster_with_sharded_pubsub() {
    let cluster = Cluster::start(None).await;
    let rules = documented_rules("quicket");
    for server in &cluster.servers {
        for rules in &rules[..3] {
            grant(server, "quicket", rules).await;
        }
        server.call(&["CONFIG", "RESETSTAT"]).await;
    }
    let mut config = at(cluster.url().replace("://", "://quicket:password@"));
    config.redis.sharded_pubsub = true;
    let _nodes = one_cluster(config).await;
    let servers: Vec<_> = cluster.servers.iter().collect();
    for server in &servers {
        nothing_was_refused(server).await;
    }
    assert!(unused(&servers, &rules[1..3].concat()).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn acl_users_of_sentinel_and_its_data() {
    let sentinel = Sentinel::start().await;
    let rules = documented_rules("quicket");
    for redis in &sentinel.data {
        grant(redis, "quicket", &rules[0]).await;
        grant(redis, "quicket", &rules[3]).await;
    }
    grant(&sentinel.sentinel, "watcher", &documented_rules("watcher")[0]).await;
    let url = sentinel
        .url()
        .replace(&format!("://:{}@", Sentinel::PASSWORD), "://quicket:password@")
        .replace(Sentinel::SENTINEL_PASSWORD, "password&sentinelUsername=watcher");
    let _nodes = one_cluster(at(url)).await;
    for redis in &sentinel.data {
        nothing_was_refused(redis).await;
    }
    nothing_was_refused(&sentinel.sentinel).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_acl_user_with_recovery() {
    let redis = Redis::start().await;
    let rules = documented_rules("quicket");
    grant(&redis, "quicket", &rules[0]).await;
    grant(&redis, "quicket", &rules[4]).await;
    let mut config = at(format!("redis://quicket:password@127.0.0.1:{}", redis.port));
    config.socketio.recovery.window = Duration::from_secs(60);
    let nodes = Nodes::alike(config, install).await;
    let mut client = nodes.here().client(quicket::TransportKind::WebSocket).await;
    client.send("40").await;
    let answer = client.recv_text().await;
    let session: serde_json::Value = serde_json::from_str(&answer[2..]).unwrap();
    nodes.here().server.of("/").emit("first", &()).await.unwrap();
    let event = client.event().await;
    drop(client);
    // it comes back on the other node
    let mut client = nodes.there().client(quicket::TransportKind::WebSocket).await;
    let known = json!({ "pid": session["pid"], "offset": event[1] });
    client.send(&format!("40{known}")).await;
    let answer = client.recv_text().await;
    assert!(answer.contains(session["sid"].as_str().unwrap()), "{answer} does not go on");
    // and leaves for good
    client.send("41").await;
    let key = format!("sio:session:{}", session["pid"].as_str().unwrap());
    let removed = async {
        while redis.call(&["EXISTS", &key]).await != Reply::Integer(0) {
            tokio::task::yield_now().await;
        }
    };
    within("the session to be removed", removed).await;
    nothing_was_refused(&redis).await;
    let unused = unused(&[&redis], &rules[4]).await;
    assert!(unused.is_empty(), "{unused:?}");
}

// --- other servers

#[tokio::test(flavor = "multi_thread")]
async fn valkey_is_as_good_as_redis() {
    let valkey = Redis::start_as(valkey).await;
    one_cluster(at(valkey.url())).await;
    let Reply::Bytes(info) = valkey.call(&["INFO", "server"]).await else { panic!() };
    assert!(String::from_utf8(info).unwrap().contains("server_name:valkey"));
}

#[tokio::test(flavor = "multi_thread")]
async fn sharded_pubsub_on_a_single_server() {
    for setup in [Setup::default(), valkey()] {
        let redis = Redis::start_as(|| setup.clone()).await;
        let mut config = at(redis.url());
        config.redis.sharded_pubsub = true;
        one_cluster(config).await;
        let Reply::Bytes(stats) = redis.call(&["INFO", "commandstats"]).await else { panic!() };
        let stats = String::from_utf8(stats).unwrap();
        for (name, used) in [("ssubscribe", true), ("spublish", true), ("subscribe", false)] {
            assert_eq!(stats.contains(&format!("cmdstat_{name}:")), used, "{name}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sentinel_with_passwords_of_its_own() {
    let sentinel = Sentinel::start().await;
    one_cluster(at(sentinel.url())).await;
    let wrong = sentinel.url().replace(Sentinel::SENTINEL_PASSWORD, "wrong");
    let mut config = at(&wrong);
    config.redis.sentinel_password = Some(Sentinel::SENTINEL_PASSWORD.to_owned());
    drop(Nodes::alike(config, install).await);
    let error = refusal(at(wrong)).await;
    assert!(error.contains("WRONGPASS"), "{error}");
}

/// Who has subscribed there would not be counted, and sessions that are kept there not be found.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_of_a_cluster_that_the_bus_does_not_need_is_connected_to_again() {
    let cluster = Cluster::start(None).await;
    let nodes = one_cluster(at(cluster.url())).await;
    let node = nodes.here();
    for server in &cluster.servers {
        if server.call(&["EXISTS", "socket.io"]).await == Reply::Integer(1) {
            continue; // the stream is here: without that there is no epoch anyway
        }
        let before = node.metric("bus_reconnects_total");
        let killed = server.call(&["CLIENT", "KILL", "TYPE", "normal"]).await;
        assert!(matches!(killed, Reply::Integer(1..)), "{killed:?}");
        eventually("a new epoch", || node.metric("bus_reconnects_total") > before).await;
        node.until_metric("bus_connected", 1).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn cluster_with_streams_on_all_of_its_servers() {
    let cluster = Cluster::start(None).await;
    for sharded in [false, true] {
        let mut config = at(cluster.url());
        config.redis.stream_count = NonZeroU32::new(8).unwrap();
        config.redis.sharded_pubsub = sharded;
        // each round has streams and channels of its own
        config.redis.stream_name = format!("stream-{sharded}");
        config.redis.channel_prefix = format!("channel-{sharded}");
        let nodes = one_cluster(config).await;
        let mut used = [0; 3];
        for name in ["/", "/chat", "/admin", "/notifications"] {
            nodes.here().server.of(name).emit("spread", &()).await.unwrap();
        }
        for (at, server) in cluster.servers.iter().enumerate() {
            let Reply::List(keys) = server.call(&["KEYS", &format!("stream-{sharded}*")]).await
            else {
                panic!("no keys")
            };
            used[at] = keys.len();
        }
        assert!(used.iter().filter(|count| **count > 0).count() > 1, "{used:?}");
        let Reply::List(channels) = cluster.servers[0].call(&["PUBSUB", "SHARDCHANNELS"]).await
        else {
            panic!("no channels")
        };
        assert!(sharded || channels.is_empty());
    }
}

/// A subscriber at any server counts (wire.md 4.3): without the sum nobody would wait for its answer.
#[tokio::test(flavor = "multi_thread")]
async fn nodes_are_counted_at_every_server_of_a_cluster() {
    let cluster = Cluster::start(None).await;
    let nodes = Nodes::alike(at(cluster.url()), install).await;
    let all = nodes.here().server.of("/");
    for server in &cluster.servers {
        let mut mute = server.connect().await;
        mute.call(&["SUBSCRIBE", "socket.io#/#"]).await;
        let fetched = all.timeout(Duration::from_millis(300)).fetch_sockets().await;
        assert!(!fetched.complete, "the mute one was not counted");
    }
}
