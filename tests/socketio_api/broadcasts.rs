//! Broadcasts: who gets what, in which order, and at whose cost.

use std::sync::{Arc, Barrier};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt as _;
use quicket::TransportKind::{self, WebSocket};
use quicket::config::{Config, RecoveryConfig, SocketIoConfig};
use quicket::{CloseReason, EmitError, Event, Socket};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::support::socketio::{Client, TestServer, config};
use crate::support::{eventually, on_every_transport, within};

on_every_transport!(
    an_event_is_passed_on_with_its_attachments,
    rooms_choose_who_gets_an_event,
    a_prepared_event_goes_to_each_at_its_time,
);

/// G2: one order for all.
#[tokio::test(flavor = "multi_thread")]
async fn all_clients_see_two_publishers_in_one_order_without_loss() {
    const EVENTS: u64 = 1_000;
    let server = TestServer::start(config(), |_| {}).await;
    let mut readers = Vec::new();
    for n in 0..20 {
        let (mut client, _) = server.joined(TransportKind::ALL[n % 3]).await;
        readers.push(tokio::spawn(async move {
            let mut seen = Vec::new();
            while seen.len() < 2 * EVENTS as usize {
                let event = client.event().await;
                seen.push((event[1].as_u64().unwrap(), event[2].as_u64().unwrap()));
            }
            (client, seen)
        }));
    }
    // threads of their own, so that they really publish at the same time
    let start = Arc::new(Barrier::new(2));
    let publishers = [0, 1].map(|publisher: u64| {
        let (namespace, start) = (server.server.of("/"), start.clone());
        std::thread::spawn(move || {
            start.wait();
            for n in 0..EVENTS {
                // the memory bus delivers at once
                namespace.emit("n", &(publisher, n)).now_or_never().unwrap().unwrap();
            }
        })
    });
    let joined = publishers.map(|publisher| tokio::task::spawn_blocking(|| publisher.join()));
    for publisher in joined {
        publisher.await.unwrap().unwrap();
    }
    server.server.of("/").emit("end", &()).await.unwrap();
    let mut orders = Vec::new();
    for reader in readers {
        let (mut client, seen) = within("all events", reader).await.unwrap();
        // nothing doubled either
        assert_eq!(client.event().await, json!(["end"]));
        orders.push(seen);
    }
    for publisher in [0, 1] {
        let own: Vec<_> = orders[0].iter().filter(|(from, _)| *from == publisher).collect();
        assert!(own.iter().enumerate().all(|(at, (_, n))| *n == at as u64), "each in its order");
        assert_eq!(own.len() as u64, EVENTS);
    }
    for order in &orders[1..] {
        assert!(*order == orders[0], "another order");
    }
}

async fn rooms_choose_who_gets_an_event(kind: TransportKind) {
    let server = TestServer::start(config(), |_| {}).await;
    let (mut one, a) = server.joined(kind).await;
    let (mut two, b) = server.joined(kind).await;
    let (mut three, c) = server.joined(kind).await;
    a.join(["x", "y"]);
    b.join("x");
    c.join(vec!["y".to_owned()]);
    let all = server.server.of("/");
    all.to("x").emit("to x", &()).await.unwrap();
    // in two rooms, but once
    all.to(["x", "y"]).emit("to x and y", &()).await.unwrap();
    all.to("x").except("y").emit("to x but not y", &()).await.unwrap();
    a.broadcast().emit("all but a", &()).await.unwrap();
    a.to("x").emit("x but a", &()).await.unwrap();
    all.to(c.id()).emit("to c", &()).await.unwrap();
    all.local().except("x").emit("not x", &()).await.unwrap();
    a.leave("y");
    all.to("y").emit("y without a", &()).await.unwrap();
    all.to("nobody").emit("to nobody", &()).await.unwrap();
    all.emit("end", &()).await.unwrap();
    expect(&mut one, &["to x", "to x and y", "end"]).await;
    let to_two = ["to x", "to x and y", "to x but not y", "all but a", "x but a", "end"];
    expect(&mut two, &to_two).await;
    let to_three = ["to x and y", "all but a", "to c", "not x", "y without a", "end"];
    expect(&mut three, &to_three).await;
}

async fn a_prepared_event_goes_to_each_at_its_time(kind: TransportKind) {
    let server = TestServer::start(config(), |server| drop(server.of("/other"))).await;
    let picture = server.server.of("/").prepare("picture", &(1.5, Bytes::from("x"))).unwrap();
    for _ in 0..2 {
        let (mut client, socket) = server.joined(kind).await;
        socket.emit("before", &()).await.unwrap();
        socket.emit_prepared(&picture).await.unwrap();
        socket.compress(false).emit_prepared(&picture).await.unwrap();
        client.expect(r#"42["before"]"#).await;
        for _ in 0..2 {
            client.expect(r#"451-["picture",1.5,{"_placeholder":true,"num":0}]"#).await;
            client.expect_binary(b"x").await;
        }
        // what it was not prepared for
        let other = server.join(&mut client, "/other").await;
        other.emit_prepared(&picture).await.unwrap();
        client.expect(r#"451-/other,["picture",1.5,{"_placeholder":true,"num":0}]"#).await;
        client.expect_binary(b"x").await;
        socket.disconnect(true);
        let gone =
            async || matches!(socket.emit_prepared(&picture).await, Err(EmitError::Disconnected));
        assert!(gone().await);
    }
}

/// With recovery each copy has an offset of its own.
#[tokio::test]
async fn a_prepared_event_can_be_recovered() {
    let window = Duration::from_secs(60);
    let recovery = RecoveryConfig { window, ..RecoveryConfig::default() };
    let socketio = SocketIoConfig { recovery, ..SocketIoConfig::default() };
    let server = TestServer::start(Config { socketio, ..config() }, |server| {
        let namespace = server.of("/");
        let picture = Arc::new(namespace.prepare("picture", &1).unwrap());
        namespace.on_connect(move |socket| {
            let picture = picture.clone();
            async move {
                socket.emit_prepared(&picture).await?;
                socket.volatile().emit_prepared(&picture).await?;
                // only where a client would take it for an offset it has to have one
                socket.transient().emit_prepared(&picture).await?;
                socket.transient().emit("word", &"x").await?;
                socket.transient().emit("nothing", &()).await
            }
        });
    })
    .await;
    let mut offsets = Vec::new();
    for _ in 0..2 {
        let mut client = server.client(WebSocket).await;
        client.send("40").await;
        client.recv_text().await;
        for _ in 0..2 {
            let event = client.event().await;
            assert_eq!((&event[0], &event[1]), (&json!("picture"), &json!(1)));
            offsets.push(event[2].as_str().unwrap().to_owned());
        }
        client.expect(r#"42["picture",1]"#).await;
        for name in [json!(["word", "x"]), json!(["nothing"])] {
            let mut event = client.event().await;
            let offset = event.as_array_mut().unwrap().pop().unwrap();
            assert_eq!((event, &offset), (name, &json!(offsets.last().unwrap())));
        }
    }
    assert_ne!(offsets[0], offsets[2]);
}

async fn expect(client: &mut Client, events: &[&str]) {
    for event in events {
        assert_eq!(client.event().await, json!([event]));
    }
}

async fn an_event_is_passed_on_with_its_attachments(kind: TransportKind) {
    let server = TestServer::start(config(), |_| {}).await;
    let (mut sender, socket) = server.joined(kind).await;
    let (mut receiver, _socket) = server.joined(kind).await;
    socket.on("say", |socket: Socket, event: Event| async move {
        let args = event.args().renamed(Some("said"))?;
        socket.broadcast().emit_args(&args).await
    });
    sender.send(r#"451-["say",{"_placeholder":true,"num":0},1.50,"x"]"#).await;
    sender.send_binary(b"bytes").await;
    receiver.expect(r#"451-["said",{"_placeholder":true,"num":0},1.50,"x"]"#).await;
    receiver.expect_binary(b"bytes").await;
    // without an event's name there is nothing to send
    let (asked, mut answers) = mpsc::unbounded_channel();
    socket.on("rename", move |socket: Socket, event: Event| {
        let asked = asked.clone();
        async move {
            let nameless = event.args().renamed(None)?;
            asked.send(socket.broadcast().emit_args(&nameless).await.is_err()).unwrap();
            asked.send(event.args().renamed(Some("disconnect")).is_err()).unwrap();
            Ok::<_, EmitError>(())
        }
    });
    sender.emit(json!(["rename"])).await;
    for _ in 0..2 {
        assert_eq!(within("an error", answers.recv()).await, Some(true));
    }
}

/// Enough for every buffer of the system on the way to a peer that does not read.
const MORE_THAN_BUFFERS: usize = 24;

fn megabyte() -> String {
    "x".repeat(1_000_000)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_does_not_read_costs_only_itself() {
    for kind in [WebSocket, TransportKind::WebTransport] {
        let mut config = config();
        config.engine.outbox_bytes = 3_000_000;
        let server = TestServer::start(config, |_| {}).await;
        let (slow, socket) = server.joined(kind).await;
        let (sender, mut reasons) = mpsc::unbounded_channel();
        socket.on_disconnect(move |_, reason| {
            sender.send(reason).unwrap();
            async {}
        });
        let (mut quick, _socket) = server.joined(kind).await;
        let namespace = server.server.of("/");
        for n in 0..MORE_THAN_BUFFERS {
            namespace.emit("n", &(n, megabyte())).await.unwrap();
            assert_eq!(quick.event().await[1], n);
        }
        let reason = within("the end of the slow peer", reasons.recv()).await;
        assert_eq!(reason, Some(CloseReason::SlowConsumer));
        let closed = r#"sessions_closed_total{reason="slow_consumer"}"#;
        server.until_metric(closed, 1).await;
        server.until_metric("outbox_overflows_total", 1).await;
        assert_eq!(server.metric("sockets"), 1);
        assert!(socket.emit("late", &()).await.is_err());
        drop(slow);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn volatile_events_are_dropped_while_the_peer_does_not_read() {
    for kind in [WebSocket, TransportKind::WebTransport] {
        let mut config = config();
        config.engine.outbox_bytes = 100_000_000;
        let server = TestServer::start(config, |_| {}).await;
        let (mut client, socket) = server.joined(kind).await;
        socket.volatile().emit("volatile", &0).await.unwrap();
        for n in 0..MORE_THAN_BUFFERS {
            socket.emit("n", &(n, megabyte())).await.unwrap();
        }
        // the link is full soon
        let mut sent = 1;
        while server.metric("volatile_dropped_total") == 0 {
            socket.volatile().emit("volatile", &sent).await.unwrap();
            sent += 1;
            tokio::task::yield_now().await;
        }
        server.server.of("/").volatile().emit("volatile", &sent).await.unwrap();
        sent += 1;
        assert_eq!(server.metric("volatile_dropped_total"), 2);
        socket.emit("end", &()).await.unwrap();
        let (mut volatile, mut next) = (0, 0);
        loop {
            let event = client.event().await;
            match event[0].as_str().unwrap() {
                "volatile" => volatile += 1,
                "n" => {
                    assert_eq!(event[1], next);
                    next += 1;
                }
                _ => break,
            }
        }
        assert_eq!(next, MORE_THAN_BUFFERS, "nothing else is dropped");
        assert_eq!(volatile, sent - 2, "what was not dropped arrives");
        // when all was read, they go through again
        socket.volatile().emit("volatile", &sent).await.unwrap();
        assert_eq!(client.event().await, json!(["volatile", sent]));
    }
}

#[tokio::test]
async fn sockets_are_moved_fetched_and_ended_in_groups() {
    let server = TestServer::start(config(), |_| {}).await;
    let all = server.server.of("/");
    let (mut one, a) = server.joined(WebSocket).await;
    let (mut two, b) = server.joined(WebSocket).await;
    a.set_data(json!({ "name": "a" })).unwrap();
    all.sockets_join(["x", "y"]).unwrap();
    all.to(b.id()).sockets_leave("y").unwrap();
    all.except("y").sockets_join("only b").unwrap();
    let sorted = |socket: &Socket| {
        let rooms = socket.rooms();
        let rooms = rooms.iter().skip(1).map(|room| room.as_str().to_owned());
        let mut rooms: Vec<String> = rooms.collect();
        rooms.sort();
        rooms
    };
    assert_eq!(sorted(&a), ["x", "y"]);
    assert_eq!(sorted(&b), ["only b", "x"]);
    assert_eq!(all.fetch_sockets().await.sockets.len(), 2);
    let fetched = all.to("y").fetch_sockets().await.sockets;
    assert_eq!(fetched.len(), 1);
    assert_eq!(fetched[0].id(), a.id());
    assert_eq!(fetched[0].data::<Value>().unwrap(), json!({ "name": "a" }));
    assert_eq!(fetched[0].handshake()["query"]["EIO"], "4");
    assert_eq!(fetched[0].handshake()["address"], "127.0.0.1");
    fetched[0].emit("hello", &1).await.unwrap();
    assert_eq!(one.event().await, json!(["hello", 1]));
    fetched[0].join("z").unwrap();
    fetched[0].leave("x").unwrap();
    assert_eq!(sorted(&a), ["y", "z"]);
    all.to("only b").disconnect_sockets(false).unwrap();
    two.expect("41").await;
    eventually("the disconnect", || !b.is_connected()).await;
    two.join("/").await;
    all.disconnect_sockets(true).unwrap();
    for client in [&mut one, &mut two] {
        client.expect("41").await;
        client.ends_properly(1000).await;
    }
    assert!(all.fetch_sockets().await.sockets.is_empty());
}

#[tokio::test]
async fn emits_are_sent_in_the_order_of_the_calls() {
    let server = TestServer::start(config(), |_| {}).await;
    let (mut client, socket) = server.joined(WebSocket).await;
    let all = server.server.of("/");
    for n in 0..300 {
        match n % 3 {
            0 => socket.emit("n", &n).await.unwrap(),
            1 => all.emit("n", &n).await.unwrap(),
            _ => all.local().emit("n", &n).await.unwrap(),
        }
    }
    for n in 0..300 {
        assert_eq!(client.event().await, json!(["n", n]));
    }
    // what cannot be sent is an error for the caller
    assert!(socket.emit("connect", &()).await.is_err());
    assert!(all.emit("disconnect", &()).await.is_err());
    let unordered = std::collections::HashMap::from([((1, 2), 3)]);
    let soon_error = tokio::time::timeout(Duration::from_secs(5), socket.emit("n", &unordered));
    assert!(soon_error.await.unwrap().is_err());
}
