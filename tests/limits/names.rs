//! How many rooms, and how long a name may be, on each transport.

use quicket::config::Config;
use quicket::{ConnectError, Socket, TransportKind};

use super::support::socketio::{TestServer, config};
use super::support::{eventually, on_every_transport};

on_every_transport!(
    names_of_events_and_namespaces_have_a_longest_length,
    payloads_have_a_depth,
    rooms_are_limited,
);

const MAX_NAME: usize = 100;

fn limited() -> Config {
    let mut config = config();
    config.socketio.max_name_bytes = MAX_NAME;
    config.socketio.max_rooms = 3;
    config
}

async fn names_of_events_and_namespaces_have_a_longest_length(kind: TransportKind) {
    let server = TestServer::start(limited(), |server| {
        server.of_dynamic(|_, _| async { true });
        server.of("/").on_connect(|socket| async move {
            socket.on_any(|socket: Socket, event| async move {
                socket.emit("length", &event.name().len()).await
            });
        });
    })
    .await;
    let name = |length: usize| "x".repeat(length);
    for (fits, answer, too_long) in [
        (
            format!(r#"42["{}"]"#, name(MAX_NAME)),
            format!(r#"42["length",{MAX_NAME}]"#),
            format!(r#"42["{}"]"#, name(MAX_NAME + 1)),
        ),
        (
            format!("40/{},", name(MAX_NAME - 1)),
            format!("40/{},", name(MAX_NAME - 1)),
            format!("40/{},", name(MAX_NAME)),
        ),
    ] {
        let broken = server.metric(r#"peer_misbehaved_total{rule="name_too_long"}"#);
        let (mut client, _) = server.joined(kind).await;
        client.send(&fits).await;
        let received = client.recv_text().await;
        assert!(received.starts_with(&answer), "{received}");
        client.send(&too_long).await;
        client.ends_properly(1000).await;
        server.until_metric(r#"peer_misbehaved_total{rule="name_too_long"}"#, broken + 1).await;
    }
}

/// Brackets within brackets cost their reader stack, wherever he parses them.
async fn payloads_have_a_depth(kind: TransportKind) {
    let mut config = limited();
    config.socketio.max_depth = 4;
    let server = TestServer::start(config, |server| {
        server.of("/").on_connect(|socket| async move {
            socket.on_any(|socket: Socket, _| async move { socket.emit("seen", &()).await });
        });
    })
    .await;
    // the packet's own array is the first of them
    let nested = |depth: usize| format!(r#"42["e",{}{}]"#, "[".repeat(depth), "]".repeat(depth));
    let (mut client, _) = server.joined(kind).await;
    client.send(&nested(3)).await;
    assert!(client.recv_text().await.starts_with(r#"42["seen""#));
    client.send(&nested(4)).await;
    client.ends_properly(1000).await;
    server.until_metric(r#"peer_misbehaved_total{rule="invalid_payload"}"#, 1).await;
}

fn rooms(socket: &Socket) -> Vec<String> {
    let mut rooms: Vec<_> = socket.rooms().iter().skip(1).map(ToString::to_string).collect();
    rooms.sort();
    rooms
}

async fn rooms_are_limited(kind: TransportKind) {
    let server = TestServer::start(limited(), |server| {
        server.of("/early").middleware(|socket: Socket, _| async move {
            socket.join(["a", "b", "a", "c", "d"]);
            Ok::<(), ConnectError>(())
        });
        server.of("/").on_connect(|_| async {});
    })
    .await;
    let (mut client, socket) = server.joined(kind).await;
    let hit = || server.metric(r#"limits_hit_total{limit="rooms"}"#);
    socket.join(["a", "b", "a", "c"]);
    socket.join("b");
    assert_eq!((rooms(&socket), hit()), (vec!["a".into(), "b".into(), "c".into()], 0));
    socket.join(["d", "b"]);
    assert_eq!((rooms(&socket).len(), hit()), (3, 1));
    server.server.of("/").sockets_join("d").unwrap();
    eventually("a wish that may come from another node", || hit() == 2).await;
    socket.leave("a");
    socket.join("x".repeat(MAX_NAME + 1));
    assert_eq!((rooms(&socket).len(), hit()), (2, 3));
    socket.join("x".repeat(MAX_NAME));
    assert_eq!((rooms(&socket).len(), hit()), (3, 3));
    let early = server.join(&mut client, "/early").await;
    assert_eq!((rooms(&early), hit()), (vec!["a".into(), "b".into(), "c".into()], 4));
}
