//! One order on every node, and the streams that carry it.

use std::num::NonZeroU32;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD as BASE64;
use quicket::TransportKind;
use quicket::config::Parser;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::nodes::{Nodes, expect, joined};
use crate::redis::{Redis, Reply};
use crate::support::socketio::{Client, Received, TestServer};
use crate::support::within;

/// Of each node, a thousand a second.
const EVENTS: u64 = 3_000;
const PACE: Duration = Duration::from_millis(1);

/// Reads numbered events up to `end`, and what comes with it.
async fn numbered(node: &TestServer, kind: TransportKind) -> JoinHandle<Vec<(u64, u64)>> {
    let (mut client, socket) = node.joined(kind).await;
    tokio::spawn(async move {
        let _socket = socket;
        let mut seen = Vec::new();
        let mut ends = 0;
        while ends < 2 {
            let event = client.event().await;
            match event[0].as_str() {
                Some("n") => seen.push((event[1].as_u64().unwrap(), event[2].as_u64().unwrap())),
                _ => ends += 1,
            }
        }
        seen
    })
}

/// However busy this machine is: without a deadline nobody delivers without Redis.
fn patient(config: &mut quicket::Config) {
    config.redis.local_deadline = Duration::from_secs(600);
}

/// G2, on every transport.
#[tokio::test(flavor = "multi_thread")]
async fn all_clients_of_two_nodes_see_two_publishers_in_one_order_without_loss() {
    let nodes = Nodes::on(Redis::start().await, patient).await;
    let mut readers = Vec::new();
    for node in [nodes.here(), nodes.there()] {
        for kind in TransportKind::ALL {
            readers.push(numbered(node, kind).await);
        }
    }
    let mut publishers = Vec::new();
    for (publisher, node) in [(0_u64, nodes.here()), (1, nodes.there())] {
        let namespace = node.server.of("/");
        publishers.push(tokio::spawn(async move {
            let mut pace = tokio::time::interval(PACE);
            for n in 0..EVENTS {
                pace.tick().await; // at once where it is late
                namespace.emit("n", &(publisher, n)).await.unwrap();
            }
            namespace.emit("end", &()).await.unwrap();
        }));
    }
    for publisher in publishers {
        within("the publishers", publisher).await.unwrap();
    }
    let mut orders = Vec::new();
    for reader in readers {
        orders.push(within("all events", reader).await.unwrap());
    }
    for publisher in [0, 1] {
        let own: Vec<_> = orders[0].iter().filter(|(from, _)| *from == publisher).collect();
        assert!(own.iter().enumerate().all(|(at, (_, n))| *n == at as u64), "each in its order");
        assert_eq!(own.len() as u64, EVENTS);
    }
    for order in &orders[1..] {
        assert!(*order == orders[0], "another order");
    }
    for node in [nodes.here(), nodes.there()] {
        // who stores them counts them then, and others may have read them before
        node.until_metric("bus_published_total", EVENTS as i64 + 1).await;
        assert_eq!(node.metric("bus_received_total"), EVENTS as i64 + 1);
        assert_eq!(node.metric("bus_gaps_total"), 0);
        assert_eq!(node.metric("bus_local_deliveries_total"), 0);
    }
}

/// Redis gets what waits in few transactions, and is asked for many entries at a time.
#[tokio::test(flavor = "multi_thread")]
async fn what_waits_is_stored_and_read_in_batches() {
    let nodes = Nodes::on(Redis::start().await, patient).await;
    let (mut client, _socket) = joined(nodes.there()).await;
    let redis = nodes.redis.as_ref().unwrap();
    redis.call(&["CONFIG", "RESETSTAT"]).await;
    redis.signal("STOP");
    for n in 0..EVENTS {
        nodes.here().server.of("/").emit("n", &n).await.unwrap();
    }
    redis.signal("CONT");
    for n in 0..EVENTS {
        expect(&mut client, &[json!(["n", n])]).await;
    }
    let Reply::Bytes(stats) = redis.call(&["INFO", "commandstats"]).await else { panic!() };
    let stats = String::from_utf8(stats).unwrap();
    let calls = |name: &str| -> u64 {
        let prefix = format!("cmdstat_{name}:calls=");
        let line = stats.lines().find_map(|line| line.strip_prefix(&prefix)).unwrap();
        line.split(',').next().unwrap().parse().unwrap()
    };
    assert_eq!(calls("xadd"), EVENTS);
    assert!(calls("exec") <= 5, "{stats}");
    assert!(calls("xread") <= EVENTS / 20, "{stats}"); // of both nodes
}

/// That a socket is meant is found out before the payload is decoded: what is broken shows only then.
#[tokio::test(flavor = "multi_thread")]
async fn an_entry_for_nobody_here_is_not_decoded() {
    let nodes = Nodes::two().await;
    let (mut client, socket) = joined(nodes.there()).await;
    socket.join("somebody");
    let redis = nodes.redis.as_ref().unwrap();
    // an event by a name that no client may be sent
    let text = r#"{"packet":{"type":2,"data":["disconnect"]},"opts":{"rooms":["ROOM"],"except":[],"flags":{}}}"#;
    for (room, malformed) in [("nobody", 0), ("somebody", 2)] {
        let text = text.replace("ROOM", room);
        let value: Value = serde_json::from_str(&text).unwrap();
        let binary = BASE64.encode(rmp_serde::to_vec_named(&value).unwrap());
        for data in [&text, &binary] {
            let entry =
                ["XADD", "socket.io", "*", "uid", "x", "nsp", "/", "type", "3", "data", data];
            assert!(matches!(redis.call(&entry).await, Reply::Bytes(_)));
        }
        nodes.here().server.of("/").emit("seen", &room).await.unwrap();
        expect(&mut client, &[json!(["seen", room])]).await;
        assert_eq!(nodes.there().metric("bus_skipped_total"), 2);
        assert_eq!(nodes.there().metric("bus_malformed_total"), malformed);
    }
}

/// Where Node's adapter is wrong: it writes such a namespace to a stream that nobody reads.
#[tokio::test(flavor = "multi_thread")]
async fn every_namespace_arrives_with_several_streams_also_one_of_a_negative_hash() {
    const NAMES: [&str; 4] = ["/", "/chat", "/admin", "/notifications"];
    let four = |config: &mut quicket::Config| {
        config.redis.stream_count = NonZeroU32::new(4).unwrap();
    };
    let install = |server: &quicket::Server| {
        for name in NAMES {
            server.of(name);
        }
    };
    let nodes = Nodes::with(Redis::start().await, four, install).await;
    let mut client = nodes.there().client(TransportKind::WebSocket).await;
    for name in NAMES {
        nodes.there().join(&mut client, name).await;
    }
    for name in NAMES {
        nodes.here().server.of(name).emit("hello", &name).await.unwrap();
        let prefix = if name == "/" { String::new() } else { format!("{name},") };
        client.expect(&format!(r#"42{prefix}["hello","{name}"]"#)).await;
    }
    // the official emitter knows the one stream without a number only
    let redis = nodes.redis.as_ref().unwrap();
    let packet = r#"{"type":2,"data":["emitted",1],"nsp":"/admin"}"#;
    let data = &format!(r#"{{"packet":{packet},"opts":{{"rooms":[],"flags":{{}},"except":[]}}}}"#);
    let entry =
        ["XADD", "socket.io", "*", "uid", "emitter", "nsp", "/admin", "type", "3", "data", data];
    redis.call(&entry).await;
    client.expect(r#"42/admin,["emitted",1]"#).await;
    // as Node's adapter names it: -1014064871 % 4
    assert_eq!(redis.call(&["XLEN", "socket.io--3"]).await, Reply::Integer(1));
}

/// The parser changes what clients get, not what travels between nodes.
#[tokio::test(flavor = "multi_thread")]
async fn nodes_of_the_msgpack_parser_pass_events_on() {
    #[derive(Deserialize)]
    struct Sid {
        sid: String,
    }
    #[derive(Serialize)]
    struct Connect {
        r#type: u8,
        nsp: &'static str,
    }
    let msgpack = |config: &mut quicket::Config| config.socketio.parser = Parser::MsgPack;
    let nodes = Nodes::on(Redis::start().await, msgpack).await;
    let mut client = nodes.there().client(TransportKind::WebSocket).await;
    let connect = rmp_serde::to_vec_named(&Connect { r#type: 0, nsp: "/" }).unwrap();
    client.send_binary(&connect).await;
    let Sid { sid } = data_of_next(&mut client).await;
    nodes.there().socket("/", &sid).await;
    nodes.here().server.of("/").emit("hello", &(1, "two", [3.5])).await.unwrap();
    let data: Value = data_of_next(&mut client).await;
    assert_eq!(data, json!(["hello", 1, "two", [3.5]]));
}

/// The data of the next packet of the msgpack parser.
async fn data_of_next<T: DeserializeOwned>(client: &mut Client) -> T {
    #[derive(Deserialize)]
    struct Packet<T> {
        data: T,
    }
    match client.recv().await {
        Received::Binary(bytes) => rmp_serde::from_slice::<Packet<T>>(&bytes).unwrap().data,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_that_makes_no_sense_is_counted_and_harms_nobody() {
    let nodes = Nodes::two().await;
    let (mut client, _socket) = joined(nodes.there()).await;
    let redis = nodes.redis.as_ref().unwrap();
    let bad: [&[&str]; 4] = [
        &["nsp", "/", "type", "3", "uid", "x", "data", "{"],
        &["nsp", "/", "type", "3", "uid", "x", "data", "!!"],
        &["nsp", "/", "type", "3", "uid", "x"],
        &["nonsense", "x"],
    ];
    for fields in bad {
        let entry = [&["XADD", "socket.io", "*"], fields].concat();
        assert!(matches!(redis.call(&entry).await, Reply::Bytes(_)));
    }
    // no text: nothing of ours, and no reason to stop reading
    let entry: [&[u8]; 5] = [b"XADD", b"socket.io", b"*", b"\xff\xfe", b"\xff"];
    assert!(matches!(redis.connect().await.call_bytes(&entry).await, Reply::Bytes(_)));
    nodes.here().server.of("/").emit("end", &()).await.unwrap();
    expect(&mut client, &[json!(["end"])]).await;
    assert_eq!(nodes.there().metric("bus_malformed_total"), 3);
    assert_eq!(nodes.there().metric("bus_reconnects_total"), 0);
}
