//! Handlers: their order, their failures, and what goes on meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use quicket::TransportKind::{self, WebSocket};
use quicket::config::Config;
use quicket::{Ack, Auth, CloseReason, ConnectError, Event, Socket};
use serde_json::{Value, json};
use tokio::sync::{Semaphore, mpsc};

use crate::support::socketio::{Received, TestServer, config};
use crate::support::{on_every_transport, within};

on_every_transport!(heartbeats_go_on_during_a_handler);

fn with_short_heartbeat() -> Config {
    let mut config = config();
    config.engine.ping_interval = Duration::from_millis(100);
    config.engine.ping_timeout = Duration::from_secs(1);
    config
}

#[tokio::test(flavor = "multi_thread")]
async fn handlers_of_one_socket_run_one_after_the_other_in_order() {
    let server = TestServer::start(config(), |_| {}).await;
    let (mut client, socket) = server.joined(WebSocket).await;
    let inside = Arc::new(AtomicUsize::new(0));
    let (sender, mut done) = mpsc::unbounded_channel();
    for event in ["a", "b"] {
        let (inside, sender) = (inside.clone(), sender.clone());
        socket.on(event, move |_: Socket, n: usize| {
            let (inside, sender) = (inside.clone(), sender.clone());
            async move {
                let others = inside.fetch_add(1, Ordering::SeqCst);
                tokio::task::yield_now().await;
                sender.send((n, others)).unwrap();
                tokio::task::yield_now().await;
                inside.fetch_sub(1, Ordering::SeqCst);
            }
        });
    }
    for n in 0..200 {
        let event = ["a", "b"][n % 2];
        client.emit(json!([event, n])).await;
    }
    for n in 0..200 {
        let next = within("a handler", done.recv()).await;
        assert_eq!(next, Some((n, 0)), "(event, handlers that ran at the same time)");
    }
}

/// Handlers that never wait for anything, and a client that has filled their inbox at once: with one thread,
/// somebody else gets it in between.
#[tokio::test]
async fn handlers_that_never_wait_leave_the_thread_to_others() {
    let server = TestServer::start(config(), |_| {}).await;
    let (mut client, socket) = server.joined(TransportKind::Polling).await;
    let (at_once, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (count, longest) = (at_once.clone(), most.clone());
    socket.on("n", move |_: Socket, n: u64, ack: Ack| {
        longest.fetch_max(count.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        async move { if n == 199 { ack.send(&()) } else { Ok(()) } }
    });
    let other = tokio::spawn(async move {
        loop {
            tokio::task::yield_now().await;
            at_once.store(0, Ordering::SeqCst);
        }
    });
    let events: Vec<_> = (0..200).map(|n| format!("42{n}[\"n\",{n}]")).collect();
    client.send(&events.join("\u{1e}")).await;
    assert_eq!(client.recv_raw().await, Received::Text("43199[]".into()));
    assert!((1..=64).contains(&most.load(Ordering::SeqCst)), "{most:?} events without a pause");
    other.abort();
}

#[tokio::test]
async fn handlers_of_one_socket_do_not_hold_up_another() {
    let server = TestServer::start(config(), |_| {}).await;
    let (mut busy, socket) = server.joined(WebSocket).await;
    let door = hold(&socket);
    let (mut other, socket) = server.joined(WebSocket).await;
    socket.on("ask", |_: Socket, n: u64, ack: Ack| async move { ack.send(&n) });
    busy.emit(json!(["hold"])).await;
    other.send(r#"421["ask",5]"#).await;
    other.expect("431[5]").await;
    door.add_permits(1);
    assert_eq!(busy.event().await, json!(["held"]));
}

/// Makes the event `hold` take until it gets a permit; `held` tells that it went on.
fn hold(socket: &Socket) -> Arc<Semaphore> {
    let door = Arc::new(Semaphore::new(0));
    let waiting = door.clone();
    socket.on("hold", move |socket: Socket| {
        let waiting = waiting.clone();
        async move {
            waiting.acquire().await.unwrap().forget();
            socket.emit("held", &()).await
        }
    });
    door
}

async fn heartbeats_go_on_during_a_handler(kind: TransportKind) {
    let server = TestServer::start(with_short_heartbeat(), |_| {}).await;
    let (mut client, socket) = server.joined(kind).await;
    let door = hold(&socket);
    client.emit(json!(["hold"])).await;
    // an event behind it does not stop them either
    client.emit(json!(["hold"])).await;
    // so many intervals are more than interval and timeout together
    for _ in 0..12 {
        assert_eq!(client.recv_raw().await, Received::Text("2".into()));
        client.send("3").await;
    }
    door.add_permits(2);
    assert_eq!(client.event().await, json!(["held"]));
    assert_eq!(client.event().await, json!(["held"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_inbox_stops_the_reading_and_loses_nothing() {
    // that takes its time, so all at once
    tokio::join!(
        fills_the_inbox(WebSocket, 16, 1 << 20),
        fills_the_inbox(WebSocket, 1_000_000, 4_096),
        fills_the_inbox(TransportKind::WebTransport, 16, 1 << 20),
        fills_the_inbox(TransportKind::WebTransport, 1_000_000, 4_096),
    );
}

async fn fills_the_inbox(kind: TransportKind, events: usize, bytes: usize) {
    let mut config = config();
    config.engine.max_payload = 2_048;
    config.socketio.inbox_bytes = bytes;
    config.engine.ping_interval = Duration::from_secs(1);
    config.engine.ping_timeout = Duration::from_secs(1);
    config.socketio.inbox_events = events;
    // it is the inbox that is to be met
    config.limits.packet_rate = None;
    let server = TestServer::start(config, |_| {}).await;
    let (mut client, socket) = server.joined(kind).await;
    let (sender, mut seen) = mpsc::unbounded_channel();
    socket.on("n", move |socket: Socket, n: u64| {
        let sender = sender.clone();
        async move {
            sender.send(n).unwrap();
            // the ping comes during the first of them at the latest
            if [1_000, 2_000].contains(&n) {
                // longer than a ping may stay without pong, which is not read either
                tokio::time::sleep(Duration::from_millis(1_200)).await;
            }
            if n == 9_999 { socket.emit("all", &()).await } else { Ok(()) }
        }
    });
    for n in 0..10_000 {
        client.emit(json!(["n", n])).await;
    }
    assert_eq!(client.event().await, json!(["all"]));
    for n in 0..10_000 {
        assert_eq!(seen.try_recv(), Ok(n));
    }
    assert!(seen.try_recv().is_err());
    assert!(server.metric("inbox_pauses_total") > 0);
    // the pong of the ping that came meanwhile waited behind the events, which was no timeout
    assert!(client.pings >= 1);
    for _ in 0..2 {
        assert_eq!(client.recv_raw().await, Received::Text("2".into()));
        client.send("3").await;
    }
}

#[tokio::test]
async fn a_handler_that_is_stuck_ends_its_session_only_when_its_inbox_is_full() {
    let mut config = with_short_heartbeat();
    config.socketio.inbox_events = 4;
    let server = TestServer::start(config, |_| {}).await;
    let (mut client, socket) = server.joined(WebSocket).await;
    let door = hold(&socket);
    let (sender, mut reasons) = mpsc::unbounded_channel();
    socket.on_disconnect(move |_, reason| {
        sender.send(reason).unwrap();
        async {}
    });
    for _ in 0..8 {
        client.emit(json!(["hold"])).await;
    }
    // nobody can know whether the client is still there: it is given up after one heartbeat
    let (before, _) = client.end().await;
    assert_eq!(before, []);
    server.until_metric(r#"sessions_closed_total{reason="handlers_stuck"}"#, 1).await;
    // on_disconnect comes when the handlers before it have ended
    door.add_permits(8);
    let reason = within("on_disconnect", reasons.recv()).await;
    assert_eq!(reason, Some(CloseReason::HandlersStuck));
}

#[tokio::test]
async fn a_panic_in_a_handler_ends_nothing_but_the_handler() {
    let server = TestServer::start(config(), |server| {
        server.of("/bad").on_connect(|socket| async move {
            socket.on("ask", |_: Socket, _: Event, ack: Ack| async move { ack.send(&1) });
            assert!(!socket.is_connected(), "in on_connect");
        });
    })
    .await;
    let (mut client, socket) = server.joined(WebSocket).await;
    socket.on("later", |socket: Socket| async move {
        assert!(!socket.is_connected(), "in the future");
    });
    socket.on("now", |socket: Socket| {
        assert!(!socket.is_connected(), "before the future");
        async {}
    });
    // the next handler of the same event still runs
    socket.on("now", |socket: Socket| async move { socket.emit("next", &()).await });
    client.emit(json!(["later"])).await;
    client.emit(json!(["now"])).await;
    assert_eq!(client.event().await, json!(["next"]));
    assert_eq!(server.metric("handler_panics_total"), 2);
    client.join("/bad").await;
    client.send(r#"42/bad,1["ask"]"#).await;
    client.expect("43/bad,1[1]").await;
    assert_eq!(server.metric("handler_panics_total"), 3);
    assert_eq!(server.metric("handler_errors_total"), 0);
}

#[tokio::test]
async fn errors_of_handlers_are_counted_and_not_told() {
    let server = TestServer::start(config(), |_| {}).await;
    let (mut client, socket) = server.joined(WebSocket).await;
    socket.on("number", |_: Socket, _: u64, ack: Ack| async move { ack.send("a number") });
    socket.on("fail", |_: Socket| async { Err("on purpose") });
    client.send(r#"421["number","none"]"#).await;
    client.send(r#"42["fail"]"#).await;
    client.send(r#"422["number",3]"#).await;
    client.expect(r#"432["a number"]"#).await;
    assert_eq!(server.metric("handler_errors_total"), 2);
    assert_eq!(server.metric("handler_panics_total"), 0);
}

#[tokio::test]
async fn an_event_passes_catch_alls_then_middlewares_then_its_handlers() {
    let server = TestServer::start(config(), |_| {}).await;
    let (mut client, socket) = server.joined(WebSocket).await;
    let (sender, mut log) = mpsc::unbounded_channel();
    for name in ["first", "second"] {
        let sender = sender.clone();
        socket.on("e", move |_: Socket| {
            sender.send(name.to_owned()).unwrap();
            async {}
        });
    }
    let any = sender.clone();
    socket.on_any(move |_, event| {
        any.send(format!("any {}", event.name())).unwrap();
        async {}
    });
    socket.middleware(move |_, event| {
        sender.send(format!("middleware {}", event.name())).unwrap();
        async move { if event.name() == "forbidden" { Err("no") } else { Ok(()) } }
    });
    socket.on("forbidden", |socket: Socket| async move {
        assert!(!socket.is_connected(), "it was refused");
    });
    client.emit(json!(["forbidden"])).await;
    client.emit(json!(["e"])).await;
    // Node: `onAny` sees what a middleware refuses, too
    let expected =
        ["any forbidden", "middleware forbidden", "any e", "middleware e", "first", "second"];
    for expected in expected {
        assert_eq!(within(expected, log.recv()).await.as_deref(), Some(expected));
    }
    socket.off("e");
    client.emit(json!(["e"])).await;
    client.emit(json!(["end"])).await;
    for expected in ["any e", "middleware e", "any end", "middleware end"] {
        assert_eq!(within(expected, log.recv()).await.as_deref(), Some(expected));
    }
    assert_eq!(server.metric("handler_panics_total"), 0);
}

#[tokio::test]
async fn sent_events_are_shown_to_those_who_ask() {
    let server = TestServer::start(config(), |_| {}).await;
    let (_client, socket) = server.joined(WebSocket).await;
    let (sender, mut log) = mpsc::unbounded_channel();
    socket.on_any_outgoing(move |_, event| {
        sender.send(event.name().to_owned()).unwrap();
        async {}
    });
    socket.emit("direct", &1).await.unwrap();
    server.server.of("/").emit("to-all", &2).await.unwrap();
    assert_eq!(within("an event", log.recv()).await.as_deref(), Some("direct"));
    assert_eq!(within("an event", log.recv()).await.as_deref(), Some("to-all"));
}

#[tokio::test]
async fn the_middlewares_of_a_namespace_are_asked_in_order_until_one_refuses() {
    let (sender, mut log) = mpsc::unbounded_channel();
    let server = TestServer::start(config(), |server| {
        let namespace = server.of("/");
        for name in ["one", "two", "three"] {
            let sender = sender.clone();
            namespace.middleware(move |socket, auth: Auth| {
                sender.send(name).unwrap();
                async move {
                    assert!(!socket.is_connected());
                    let auth: Value = auth.decode().unwrap();
                    if auth["panic_in"] == name {
                        panic!("in a middleware");
                    }
                    if auth["refuse_in"] == name {
                        return Err(ConnectError::new(name).with_data(json!({ "why": [1, 2] })));
                    }
                    socket.join(name);
                    socket.set_data(json!({ "last": name })).unwrap();
                    Ok(())
                }
            });
        }
    })
    .await;
    let mut client = server.client(WebSocket).await;
    client.send(r#"40{"refuse_in":"two"}"#).await;
    client.expect(r#"44{"message":"two","data":{"why":[1,2]}}"#).await;
    client.send(r#"40{"panic_in":"two"}"#).await;
    client.expect(r#"44{"message":"Internal error"}"#).await;
    assert_eq!(server.metric("handler_panics_total"), 1);
    let socket = server.join(&mut client, "/").await;
    let mut asked = Vec::new();
    while let Ok(name) = log.try_recv() {
        asked.push(name);
    }
    assert_eq!(asked, ["one", "two", "one", "two", "one", "two", "three"]);
    // what they gave to the socket stays
    assert_eq!(socket.data::<Value>().unwrap(), json!({ "last": "three" }));
    assert_eq!(socket.rooms()[0].as_str(), socket.id());
    assert_eq!(socket.rooms().len(), 4);
    // and what they gave to the ones that were refused is gone
    assert_eq!(server.server.of("/").fetch_sockets().await.sockets.len(), 1);
}
