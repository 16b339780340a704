//! The end of a socket: in which order what happens, and that nothing is left.

use std::sync::Arc;

use quicket::TransportKind::{self, WebSocket};
use quicket::{Ack, AckError, CloseReason, ConnectError, EmitError, Server, Socket};
use serde_json::json;
use tokio::sync::{Semaphore, mpsc};

use crate::support::socketio::{TestServer, config};
use crate::support::{eventually, on_every_transport, within};

on_every_transport!(the_handlers_of_the_end_come_last_and_see_the_rooms);

type Log = mpsc::UnboundedSender<String>;

/// Logs everything that happens to the socket.
fn log_all(socket: &Socket, log: &Log) {
    let sender = log.clone();
    socket.on_any(move |_, event| {
        sender.send(event.name().to_owned()).unwrap();
        async { tokio::task::yield_now().await }
    });
    let sender = log.clone();
    socket.on_disconnecting(move |socket, reason| {
        let rooms = socket.rooms();
        let rooms = rooms.iter().map(|room| room.as_str()).filter(|room| *room != socket.id());
        let rooms: Vec<_> = rooms.collect();
        sender.send(format!("disconnecting, {reason}, in {rooms:?}")).unwrap();
        async { tokio::task::yield_now().await }
    });
    let sender = log.clone();
    socket.on_disconnect(move |socket, reason| {
        sender.send(format!("disconnect, {reason}, in {:?}", socket.rooms())).unwrap();
        async {}
    });
}

fn make_custom(server: &Server) {
    server.of("/custom");
}

async fn expect(log: &mut mpsc::UnboundedReceiver<String>, expected: &[&str]) {
    for expected in expected {
        assert_eq!(within(expected, log.recv()).await.as_deref(), Some(*expected));
    }
}

async fn the_handlers_of_the_end_come_last_and_see_the_rooms(kind: TransportKind) {
    let server = TestServer::start(config(), |_| {}).await;
    let (mut client, socket) = server.joined(kind).await;
    let (sender, mut log) = mpsc::unbounded_channel();
    socket.join("a");
    log_all(&socket, &sender);
    for n in 0..5 {
        client.emit(json!([format!("event {n}")])).await;
    }
    client.send("1").await;
    expect(&mut log, &["event 0", "event 1", "event 2", "event 3", "event 4"]).await;
    expect(&mut log, &["disconnecting, transport close, in [\"a\"]"]).await;
    expect(&mut log, &["disconnect, transport close, in []"]).await;
    assert!(server.server.of("/").to("a").fetch_sockets().await.sockets.is_empty());
    eventually("the end of the session", || server.server.session_count() == 0).await;
    assert_eq!(server.metric("sockets"), 0);
}

#[tokio::test]
async fn nothing_can_be_sent_to_a_socket_that_is_gone() {
    let server = TestServer::start(config(), |_| {}).await;
    let (mut client, socket) = server.joined(WebSocket).await;
    client.send("41").await;
    eventually("the disconnect", || !socket.is_connected()).await;
    let sent = socket.emit("late", &()).await;
    assert!(matches!(sent, Err(EmitError::Disconnected)), "{sent:?}");
    let asked = socket.emit_with_ack::<_, ()>("late", &()).await;
    let gone =
        matches!(asked, Err(AckError::Disconnected | AckError::Emit(EmitError::Disconnected)));
    assert!(gone, "{asked:?}");
    let sent = socket.volatile().emit("late", &()).await;
    assert!(matches!(sent, Err(EmitError::Disconnected)), "{sent:?}");
    // it can still talk to others, and joining does not bring it back
    socket.join("a");
    assert!(server.server.of("/").to("a").fetch_sockets().await.sockets.is_empty());
    let (mut other, _socket) = server.joined(WebSocket).await;
    socket.broadcast().emit("hello", &()).await.unwrap();
    assert_eq!(other.event().await, json!(["hello"]));
}

#[tokio::test]
async fn a_socket_can_be_put_out_of_one_namespace() {
    let server = TestServer::start(config(), make_custom).await;
    let (mut client, main) = server.joined(WebSocket).await;
    let custom = server.join(&mut client, "/custom").await;
    let (sender, mut log) = mpsc::unbounded_channel();
    log_all(&custom, &sender);
    custom.emit("before", &()).await.unwrap();
    custom.disconnect(false);
    client.expect(r#"42/custom,["before"]"#).await;
    client.expect("41/custom,").await;
    expect(&mut log, &["disconnecting, server namespace disconnect, in []"]).await;
    expect(&mut log, &["disconnect, server namespace disconnect, in []"]).await;
    main.emit("still here", &()).await.unwrap();
    assert_eq!(client.event().await, json!(["still here"]));
}

#[tokio::test]
async fn closing_the_connection_ends_all_its_namespaces() {
    let server = TestServer::start(config(), make_custom).await;
    for kind in TransportKind::ALL {
        let (mut client, main) = server.joined(kind).await;
        let custom = server.join(&mut client, "/custom").await;
        let (sender, mut log) = mpsc::unbounded_channel();
        log_all(&main, &sender);
        log_all(&custom, &sender);
        main.emit("before", &()).await.unwrap();
        custom.disconnect(true);
        // Node: a DISCONNECT for each namespace, then the end
        assert_eq!(client.event().await, json!(["before"]));
        let mut both = [client.recv_text().await, client.recv_text().await];
        both.sort();
        assert_eq!(both, ["41", "41/custom,"]);
        client.ends_properly(1000).await;
        let mut ends = Vec::new();
        for _ in 0..4 {
            ends.push(within("an end", log.recv()).await.unwrap());
        }
        ends.sort();
        assert_eq!(ends[0], "disconnect, server namespace disconnect, in []");
        assert_eq!(ends[1], ends[0]);
        assert_eq!(ends[2], "disconnecting, server namespace disconnect, in []");
        assert_eq!(ends[3], ends[2]);
    }
    let closed = r#"sessions_closed_total{reason="forced_server_close"}"#;
    server.until_metric(closed, 3).await;
}

/// Tells when it is dropped.
struct Guard(Arc<Semaphore>);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.add_permits(1);
    }
}

/// Registers handlers that hold a clone of their own socket, which is a circle, and a guard.
fn make_circle(socket: &Socket, freed: &Arc<Semaphore>) {
    let (own, guard) = (socket.clone(), Guard(freed.clone()));
    socket.on("event", move |_: Socket| {
        let _ = (own.id(), &guard);
        async {}
    });
    let (own, guard) = (socket.clone(), Guard(freed.clone()));
    socket.on_disconnect(move |_, _| {
        let _ = (own.id(), &guard);
        async {}
    });
}

async fn all_freed(freed: &Semaphore, how: &str) {
    within(how, freed.acquire_many(2)).await.unwrap().forget();
}

#[tokio::test]
async fn handlers_that_hold_their_own_socket_are_freed_at_the_end() {
    let freed = Arc::new(Semaphore::new(0));
    let server = TestServer::start(config(), |server| {
        for namespace in ["/", "/other"] {
            let freed = freed.clone();
            server.of(namespace).on_connect(move |socket| {
                make_circle(&socket, &freed);
                async {}
            });
        }
    })
    .await;
    for packet in ["1", "41", "42{}"] {
        let (mut client, socket) = server.joined(WebSocket).await;
        drop(socket);
        client.send(packet).await;
        all_freed(&freed, packet).await;
    }
    for close in [false, true] {
        let (_client, socket) = server.joined(WebSocket).await;
        socket.disconnect(close);
        drop(socket);
        all_freed(&freed, "disconnect").await;
    }
    let (client, socket) = server.joined(WebSocket).await;
    drop((client, socket));
    all_freed(&freed, "a lost connection").await;
    assert_eq!(freed.available_permits(), 0);
}

#[tokio::test]
async fn handlers_of_sockets_that_never_came_in_are_freed() {
    let freed = Arc::new(Semaphore::new(0));
    let door = Arc::new(Semaphore::new(0));
    let server = TestServer::start(config(), |server| {
        let circle = freed.clone();
        server.of("/refused").middleware(move |socket, _| {
            make_circle(&socket, &circle);
            async { Err::<(), _>(ConnectError::new("no")) }
        });
        let (circle, door) = (freed.clone(), door.clone());
        server.of("/slow").middleware(move |socket, _| {
            make_circle(&socket, &circle);
            let door = door.clone();
            async move {
                door.acquire().await.unwrap().forget();
                Ok::<_, ConnectError>(())
            }
        });
    })
    .await;
    let (mut client, socket) = server.joined(WebSocket).await;
    socket.on("ask", |_: Socket, (): (), ack: Ack| async move { ack.send(&()) });
    client.send("40/refused,").await;
    client.expect(r#"44/refused,{"message":"no"}"#).await;
    all_freed(&freed, "a refused socket").await;
    client.send("40/slow,").await;
    client.send("40/slow,").await;
    client.send(r#"421["ask"]"#).await;
    client.expect("431[]").await;
    door.add_permits(2);
    client.joined("/slow").await;
    all_freed(&freed, "an overtaken attempt").await;
    client.send("1").await;
    all_freed(&freed, "the end").await;
}

#[tokio::test]
async fn every_transport_names_the_reason_of_a_lost_connection() {
    let server = TestServer::start(config(), |_| {}).await;
    for kind in [WebSocket, TransportKind::WebTransport] {
        let (client, socket) = server.joined(kind).await;
        let (sender, mut reasons) = mpsc::unbounded_channel();
        socket.on_disconnect(move |_, reason| {
            sender.send(reason).unwrap();
            async {}
        });
        drop(client);
        let reason = within("the end", reasons.recv()).await.unwrap();
        let known = [CloseReason::TransportClose, CloseReason::TransportError];
        assert!(known.contains(&reason), "{kind}: {reason}");
    }
}

/// Whoever puts sockets out holds the lock that orders deliveries, and a handler's values may want it.
#[tokio::test]
async fn what_a_handler_holds_may_speak_to_the_namespace_when_it_is_dropped() {
    struct Presence(Socket, mpsc::UnboundedSender<()>);
    impl Drop for Presence {
        fn drop(&mut self) {
            self.0.namespace().sockets_join("somebody has left").unwrap();
            self.1.send(()).unwrap();
        }
    }
    let (dropped, mut drops) = mpsc::unbounded_channel();
    let server = TestServer::start(config(), |_| {}).await;
    let (_client, socket) = server.joined(WebSocket).await;
    let presence = Presence(socket.clone(), dropped);
    socket.on("never", move |_: Socket, (): ()| {
        let _ = &presence;
        async {}
    });
    let all = server.server.of("/");
    let (out, is_out) = tokio::sync::oneshot::channel();
    let runtime = tokio::runtime::Handle::current();
    // a thread that nobody waits for, should it stay there for ever
    std::thread::spawn(move || {
        let _inside = runtime.enter();
        all.disconnect_sockets(false).unwrap();
        out.send(()).unwrap();
    });
    within("the socket to be out", is_out).await.unwrap();
    within("the handler to be dropped", drops.recv()).await.unwrap();
}
