//! Questions to other nodes: who answers, and what is said when somebody does not.

use std::time::{Duration, Instant};

use quicket::{AckError, Answers, ServerAck};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::nodes::{Nodes, at, joined};
use crate::redis::{Redis, Reply, Setup};
use crate::servers::Proxy;
use crate::support::socketio::TestServer;
use crate::support::within;

#[tokio::test(flavor = "multi_thread")]
async fn a_server_side_event_reaches_the_other_nodes_only() {
    let nodes = Nodes::two().await;
    let mut heard = Vec::new();
    for node in [nodes.here(), nodes.there()] {
        let (sender, receiver) = mpsc::unbounded_channel();
        node.server.of("/").on_server_side("hello", move |data: (u8, Value), ack: ServerAck| {
            let sender = sender.clone();
            async move { sender.send((data, ack.is_wanted())).unwrap() }
        });
        heard.push(receiver);
    }
    let data = (1, json!({ "two": [3, null] }));
    nodes.here().server.of("/").server_side_emit("hello", &data).await.unwrap();
    assert_eq!(within("the event", heard[1].recv()).await, Some((data, false)));
    nodes.there().server.of("/").server_side_emit("hello", &(2, "back")).await.unwrap();
    // the first one that comes here is the other's
    assert_eq!(within("the event", heard[0].recv()).await, Some(((2, json!("back")), false)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_side_event_is_answered_by_every_other_node() {
    let nodes = Nodes::two().await;
    for node in [nodes.here(), nodes.there()] {
        let name = node.address.port();
        let add = move |(a, b): (u16, u16), ack: ServerAck| async move {
            ack.send(&json!({ "sum": a + b, "by": name }))
        };
        node.server.of("/").on_server_side("add", add);
    }
    let all = nodes.here().server.of("/");
    let answers: Answers<Value> = all.server_side_emit_with_ack("add", &(1, 2)).await;
    let expected = json!({ "sum": 3, "by": nodes.there().address.port() });
    assert_eq!(answers.into_complete().unwrap(), [expected]);
}

/// Something that counts as a node and never answers.
async fn mute_node(redis: &Redis) -> crate::redis::Connection {
    let mut mute = redis.connect().await;
    let Reply::List(_) = mute.call(&["SUBSCRIBE", "socket.io#/#"]).await else { panic!() };
    mute
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_hangs_makes_the_answer_partial_and_in_time() {
    let nodes = Nodes::two().await;
    let (_client, socket) = joined(nodes.there()).await;
    let _mute = mute_node(nodes.redis.as_ref().unwrap()).await;
    let all = nodes.here().server.of("/");
    let begun = Instant::now();
    let fetched = all.timeout(Duration::from_millis(1_500)).fetch_sockets().await;
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    assert!(!fetched.complete);
    assert_eq!(fetched.sockets.len(), 1);
    assert_eq!(fetched.sockets[0].id(), socket.id());
    let answers: Answers<Value> =
        all.timeout(Duration::from_millis(300)).emit_with_ack("who", &()).await;
    assert!(matches!(answers.error, Some(AckError::Timeout)), "{:?}", answers.error);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_crashes_is_not_waited_for_and_is_missing() {
    let nodes = Nodes::two().await;
    let (_client, _socket) = joined(nodes.there()).await;
    let mut mute = mute_node(nodes.redis.as_ref().unwrap()).await;
    let all = nodes.here().server.of("/");
    let asking = tokio::spawn({
        // not the request's own end is what ends it, although another node has answered and is still there
        let patient = all.timeout(Duration::from_secs(600));
        async move { patient.fetch_sockets().await }
    });
    mute.next().await; // the request has come: now it dies
    drop(mute);
    let fetched = within("the answer", asking).await.unwrap();
    assert!(!fetched.complete);
    assert_eq!(fetched.sockets.len(), 1);
    // from now on it is known to be gone
    assert!(all.fetch_sockets().await.complete);
}

/// Redis may refuse to count the nodes for a while, and still nobody waits for one that is gone.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_crashes_is_noticed_although_it_could_not_be_counted_before() {
    let nodes = Nodes::two().await;
    let redis = nodes.redis.as_ref().unwrap();
    let mut mute = mute_node(redis).await;
    let patient = nodes.here().server.of("/").timeout(Duration::from_secs(600));
    let asking = tokio::spawn(async move { patient.fetch_sockets().await });
    mute.next().await; // the request has come: from now on nodes are counted to see who is gone
    let mut admin = redis.connect().await;
    admin.call(&["ACL", "SETUSER", "default", "-pubsub"]).await;
    within("a count that is refused", async {
        while admin.call(&["ACL", "LOG"]).await == Reply::List(Vec::new()) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    admin.call(&["ACL", "SETUSER", "default", "+pubsub"]).await;
    drop(mute);
    let fetched = within("the answer", asking).await.unwrap();
    assert!(!fetched.complete);
}

/// Acknowledgements that were announced are not waited for either, although nobody set a time.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_crashes_between_its_acknowledgements_is_not_waited_for() {
    let nodes = Nodes::two().await;
    let redis = nodes.redis.as_ref().unwrap();
    let mut mute = mute_node(redis).await;
    mute.call(&["SUBSCRIBE", "socket.io#/#mute#"]).await;
    let all = nodes.here().server.of("/");
    let asking = tokio::spawn(async move { all.emit_with_ack::<_, Value>("who", &()).await });
    let Reply::List(message) = mute.next().await else { panic!() };
    let Reply::Bytes(request) = &message[2] else { panic!() };
    let request: Value = rmp_serde::from_slice(request).unwrap();
    let uid = request["uid"].as_str().unwrap();
    let reply = json!({
        "type": 11,
        "data": { "requestId": request["data"]["requestId"], "clientCount": 2 },
        "uid": "mute",
        "nsp": "/",
    });
    let reply = rmp_serde::to_vec_named(&reply).unwrap();
    let channel = format!("socket.io#/#{uid}#");
    let mut publisher = redis.connect().await;
    publisher.call_bytes(&[b"PUBLISH", channel.as_bytes(), &reply]).await;
    drop(mute);
    let error = within("the answers", asking).await.unwrap().unwrap_err();
    assert!(matches!(error, AckError::Incomplete), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_redis_a_request_is_answered_by_this_node_at_once_and_says_so() {
    let mut nodes = Nodes::two().await;
    let (_one, _a) = joined(nodes.here()).await;
    let (_two, _b) = joined(nodes.there()).await;
    nodes.redis().kill();
    nodes.here().until_metric("bus_connected", 0).await;
    // or the connection that is awaited below could be the old one
    nodes.there().until_metric("bus_connected", 0).await;
    let all = nodes.here().server.of("/");
    let fetched = within("the answer", all.fetch_sockets()).await;
    assert!(!fetched.complete);
    assert_eq!(fetched.sockets.len(), 1);
    let answers: Answers<Value> = all.server_side_emit_with_ack("x", &()).await;
    assert!(matches!(answers.error, Some(AckError::Incomplete)), "{:?}", answers.error);
    assert_eq!(all.server_count().await, None);
    nodes.redis().restart().await;
    nodes.here().until_metric("bus_connected", 1).await;
    nodes.there().until_metric("bus_connected", 1).await;
    let fetched = all.fetch_sockets().await;
    assert!(fetched.complete);
    assert_eq!(fetched.sockets.len(), 2);
}

/// A request that lies in the queue of a Redis that hangs, and then dies, is not forgotten.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_to_a_redis_that_hangs_and_dies_is_partial() {
    let mut nodes = Nodes::two().await;
    nodes.redis().signal("STOP");
    let asking: Vec<_> = (0..3)
        .map(|_| {
            let all = nodes.here().server.of("/");
            tokio::spawn(async move { all.server_side_emit_with_ack::<_, Value>("x", &()).await })
        })
        .collect();
    nodes.redis().kill();
    let counted = within("the count", nodes.here().server.of("/").server_count()).await;
    assert_eq!(counted, None);
    for asking in asking {
        let answers = within("the answer", asking).await.unwrap();
        assert!(matches!(answers.error, Some(AckError::Incomplete)), "{:?}", answers.error);
    }
}

/// Until so many have subscribed.
pub(crate) async fn subscribers(redis: &Redis, channel: &str, count: i64) {
    let mut connection = redis.connect().await;
    let expected = Reply::List(vec![Reply::text(channel), Reply::Integer(count)]);
    within("the subscriptions", async {
        while connection.call(&["PUBSUB", "NUMSUB", channel]).await != expected {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_stops_says_goodbye() {
    let nodes = Nodes::two().await;
    let redis = nodes.redis.as_ref().unwrap();
    // of each: two for the stream, one that writes and one that reads; commands and subscriber
    assert_eq!(redis.connections().await, 8);
    let (mut client, _socket) = joined(nodes.here()).await;
    nodes.there().server.of("/").emit("last words", &()).await.unwrap();
    nodes.there().server.shutdown();
    assert_eq!(client.event().await, json!(["last words"]));
    subscribers(redis, "socket.io#/#", 1).await;
    assert_eq!(nodes.here().server.of("/").server_count().await, Some(1));
    assert!(nodes.here().server.of("/").fetch_sockets().await.complete);
}

/// `PUBLISH` counts who listens to a pattern (somebody who looks what goes on); that is no node.
#[tokio::test(flavor = "multi_thread")]
async fn who_listens_to_a_pattern_is_not_waited_for() {
    let nodes = Nodes::two().await;
    let (_client, socket) = joined(nodes.there()).await;
    let mut watcher = nodes.redis.as_ref().unwrap().connect().await;
    watcher.call(&["PSUBSCRIBE", "socket.io*"]).await;
    let all = nodes.here().server.of("/").timeout(Duration::from_secs(600));
    let fetched = within("the answer", all.fetch_sockets()).await;
    assert!(fetched.complete);
    assert_eq!(fetched.sockets[0].id(), socket.id());
}

/// Redis has a new namespace's subscription later than the question how many there are.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_counts_itself_from_the_first_moment() {
    let redis = Redis::start().await;
    let proxy = Proxy::start(redis.port).await;
    proxy.hold_subscriptions(Duration::from_millis(500));
    let node = TestServer::start(at(proxy.url()), |_| {}).await;
    assert_eq!(node.server.of("/").server_count().await, Some(1));
    assert_eq!(node.server.of("/new").server_count().await, Some(1));
    // it is not the other node that it takes for itself
    let mut mute = redis.connect().await;
    mute.call(&["SUBSCRIBE", "socket.io#/newer#"]).await;
    let newer = node.server.of("/newer").timeout(Duration::from_millis(800));
    assert!(!newer.fetch_sockets().await.complete);
}

/// Namespaces that come and go.
fn with_rooms(server: &quicket::Server) {
    server.of_dynamic(|name, _| async move { name.starts_with("/room-") });
}

/// The node hears of a question after it has left, and before Redis knows that.
#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_that_has_ended_answers_for_nobody_while_its_node_is_still_counted() {
    const LATE: Duration = Duration::from_secs(2);
    let redis = Redis::start().await;
    let proxy = Proxy::start(redis.port).await;
    let node = TestServer::start(at(proxy.url()), with_rooms).await;
    let mut client = node.client(quicket::TransportKind::WebSocket).await;
    client.join("/room-1").await;
    subscribers(&redis, "socket.io#/room-1#", 1).await;
    let mut asker = redis.connect().await;
    asker.call(&["SUBSCRIBE", "socket.io#/room-1#asker#"]).await;
    proxy.hold(LATE);
    client.send("41/room-1,").await;
    client.join("/room-2").await;
    let question = json!({
        "type": 7,
        "data": { "requestId": "r", "opts": { "rooms": [], "except": [], "flags": {} } },
        "uid": "asker",
        "nsp": "/room-1",
    });
    let question = rmp_serde::to_vec_named(&question).unwrap();
    let mut publisher = redis.connect().await;
    let received = publisher.call_bytes(&[b"PUBLISH", b"socket.io#/room-1#", &question]).await;
    assert_eq!(received, Reply::Integer(1), "the node is still counted");
    let Reply::List(message) = asker.next().await else { panic!() };
    let Reply::Bytes(answer) = &message[2] else { panic!() };
    let answer: Value = rmp_serde::from_slice(answer).unwrap();
    assert_eq!(answer["data"], json!({ "requestId": "r", "sockets": [] }));
}

/// The node is counted, and then it leaves before the question is asked.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_leaves_between_the_count_and_the_question_is_not_missing() {
    const SLOW: Duration = Duration::from_millis(800);
    let redis = Redis::start().await;
    let proxy = Proxy::start(redis.port).await;
    let node = TestServer::start(at(proxy.url()), |_| {}).await;
    let mut leaving = mute_node(&redis).await;
    let mut monitor = redis.connect().await;
    monitor.call(&["MONITOR"]).await;
    proxy.delay(SLOW);
    let patient = node.server.of("/").timeout(Duration::from_secs(600));
    let asking = tokio::spawn(async move { patient.fetch_sockets().await });
    let is_count = |reply: &Reply| {
        let Reply::Bytes(line) = reply else { return false };
        String::from_utf8_lossy(line).to_uppercase().contains("NUMSUB")
    };
    while !is_count(&monitor.next().await) {}
    leaving.call(&["UNSUBSCRIBE"]).await;
    let fetched = within("the answer", asking).await.unwrap();
    assert!(fetched.complete);
}

/// A namespace that is gone answers for nobody, and does not keep others waiting.
#[tokio::test(flavor = "multi_thread")]
async fn a_dynamic_namespace_that_has_ended_keeps_nobody_waiting() {
    let nodes = Nodes::with(Redis::start().await, |_| {}, with_rooms).await;
    let mut here = nodes.here().client(quicket::TransportKind::WebSocket).await;
    here.join("/room-1").await;
    let mut there = nodes.there().client(quicket::TransportKind::WebSocket).await;
    there.join("/room-1").await;
    // a node is asked from when Redis has its subscription
    subscribers(nodes.redis.as_ref().unwrap(), "socket.io#/room-1#", 2).await;
    let room = nodes.here().server.of("/room-1");
    assert_eq!(room.fetch_sockets().await.sockets.len(), 2);
    there.send("41/room-1,").await;
    there.join("/room-2").await;
    let begun = Instant::now();
    let fetched = room.fetch_sockets().await;
    assert!(fetched.complete);
    assert_eq!(fetched.sockets.len(), 1);
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
}

/// Also while nothing else happens on the node that it was on.
#[tokio::test(flavor = "multi_thread")]
async fn a_dynamic_namespace_that_has_ended_is_not_counted() {
    let nodes = Nodes::with(Redis::start().await, |_| {}, with_rooms).await;
    let redis = nodes.redis.as_ref().unwrap();
    let mut here = nodes.here().client(quicket::TransportKind::WebSocket).await;
    here.join("/room-1").await;
    let mut there = nodes.there().client(quicket::TransportKind::WebSocket).await;
    there.join("/room-1").await;
    subscribers(redis, "socket.io#/room-1#", 2).await;
    there.send("41/room-1,").await;
    subscribers(redis, "socket.io#/room-1#", 1).await;
    assert_eq!(nodes.here().server.of("/room-1").server_count().await, Some(1));
}

/// The disk is full: Redis stores nothing, and refuses even PING.
#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_stores_nothing_is_asked_all_the_same() {
    let flags = ["--enable-protected-configs", "yes", "--save", "3600 1"];
    let redis = Redis::start_as(|| Setup::flags(&flags)).await;
    let node = TestServer::start(at(redis.url()), |_| {}).await;
    assert_eq!(redis.call(&["CONFIG", "SET", "dir", "/proc"]).await, Reply::text("OK"));
    redis.call(&["BGSAVE"]).await;
    let refuses = async || match redis.call(&["PING"]).await {
        Reply::Error(error) => error.starts_with("MISCONF"),
        _ => false,
    };
    within("Redis to refuse", async {
        while !refuses().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    let epochs = node.metric("bus_reconnects_total");
    assert_eq!(node.server.of("/new").server_count().await, Some(1));
    assert_eq!(node.metric("bus_reconnects_total"), epochs, "the connections are good");
    let late = TestServer::start(at(redis.url()), |_| {}).await;
    assert_eq!(late.server.of("/new").server_count().await, Some(2));
}
