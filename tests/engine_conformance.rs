//! Engine.IO v4 as clients see it: the official suite's cases and more, each on every transport that it
//! is about. What is HTTP's alone is in `http`, who may come in at all in `door`.

#![allow(clippy::unwrap_used, reason = "in a test that is how to fail")]

#[path = "engine_conformance/deflate.rs"]
mod deflate;
#[path = "engine_conformance/door.rs"]
mod door;
#[path = "engine_conformance/http.rs"]
mod http;
#[path = "engine_conformance/stopping.rs"]
mod stopping;
mod support;

use std::time::{Duration, Instant};

use quicket::config::EngineConfig;
use quicket::{CloseReason, TransportKind};

use support::client::Link;
use support::http::Request;
use support::{Client, Frame, TestServer, engine, on_every_transport, within};

on_every_transport!(
    opens_with_the_parameters_of_the_session,
    a_text_message_comes_back,
    a_binary_message_comes_back,
    several_packets_keep_their_order,
    messages_of_every_framing_width_pass,
    an_invalid_packet_closes_the_session,
    the_server_pings_and_a_pong_keeps_the_session,
    a_missing_pong_closes_the_session,
    a_ping_from_the_client_closes_the_session,
    open_upgrade_and_noop_packets_are_ignored,
    the_client_closes_with_a_close_packet,
    the_server_closes_after_what_is_queued,
    a_connection_that_breaks_ends_the_session,
    shutdown_closes_the_session,
);

async fn opens_with_the_parameters_of_the_session(kind: TransportKind) {
    let config = EngineConfig {
        ping_interval: Duration::from_millis(25_100),
        ping_timeout: Duration::from_millis(20_200),
        max_payload: 12_345,
        ..engine()
    };
    let server = TestServer::echo(config).await;
    let mut client = server.connect(kind).await;
    let upgrades = match kind {
        TransportKind::Polling => r#""websocket","webtransport""#,
        _ => "",
    };
    let sid = &client.sid;
    let open = format!(
        r#"0{{"sid":"{sid}","upgrades":[{upgrades}],"pingInterval":25100,"pingTimeout":20200,"maxPayload":12345}}"#
    );
    assert_eq!(client.open, open);
    assert_eq!(sid.len(), 20);
    let url_safe = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    assert!(sid.chars().all(url_safe), "{sid}");
    assert_eq!(server.server.session_count(), 1);
    client.send("1").await;
    server.no_sessions_left().await;
    server.end().await;
}

async fn a_text_message_comes_back(kind: TransportKind) {
    let server = TestServer::echo(engine()).await;
    let mut client = server.connect(kind).await;
    for text in ["4hello", "4", "4utf-8 éà€😀 \u{0} \n \\n \" \u{2028}", "40"] {
        client.send(text).await;
        assert_eq!(client.recv().await, text.into());
    }
    client.send("1").await;
    server.end().await;
}

async fn a_binary_message_comes_back(kind: TransportKind) {
    let server = TestServer::echo(engine()).await;
    let mut client = server.connect(kind).await;
    let all: Vec<u8> = (0..=255).collect();
    // the length decides about the padding of base64
    for length in [1, 2, 3, 4, 256] {
        client.send(all[..length].to_vec()).await;
        assert_eq!(client.recv().await, all[..length].to_vec().into());
    }
    client.send("1").await;
    server.end().await;
}

async fn several_packets_keep_their_order(kind: TransportKind) {
    let server = TestServer::echo(engine()).await;
    let mut client = server.connect(kind).await;
    let frames: Vec<Frame> = (0..100u8)
        .map(|n| match n % 3 {
            0 => vec![n, 1, 2, 3].into(),
            _ => format!("4test{n}").into(),
        })
        .collect();
    client.send_all(&frames).await;
    for frame in frames {
        assert_eq!(client.recv().await, frame);
    }
    client.send("1").await;
    server.end().await;
}

async fn messages_of_every_framing_width_pass(kind: TransportKind) {
    let server = TestServer::echo(engine()).await;
    let mut client = server.connect(kind).await;
    for length in [124, 125, 126, 127, 65_534, 65_535, 65_536, 300_000] {
        let text = Frame::from(format!("4{}", "x".repeat(length - 1)));
        client.send(text.clone()).await;
        assert!(client.recv().await == text, "text of {length}");
        let binary = Frame::from(vec![7; length]);
        client.send(binary.clone()).await;
        assert!(client.recv().await == binary, "binary of {length}");
    }
    client.send("1").await;
    server.end().await;
}

async fn an_invalid_packet_closes_the_session(kind: TransportKind) {
    for packet in ["abc", "7", "9", " 4"] {
        let mut server = TestServer::echo(engine()).await;
        let mut client = server.connect(kind).await;
        client.echoes("before").await;
        let taken = client.try_send(&packet.into()).await;
        assert!(kind != TransportKind::Polling || !taken, "POST of {packet:?}");
        assert_eq!(client.until_end().await, []);
        assert_eq!(server.session_end().await, CloseReason::ParseError);
        assert_eq!(server.misbehaved("unknown_engine_packet"), 1);
        server.no_sessions_left().await;
        server.end().await;
    }
}

fn fast_heartbeat() -> EngineConfig {
    EngineConfig {
        ping_interval: Duration::from_millis(100),
        ping_timeout: Duration::from_secs(1),
        ..engine()
    }
}

async fn the_server_pings_and_a_pong_keeps_the_session(kind: TransportKind) {
    let server = TestServer::echo(fast_heartbeat()).await;
    let opened = Instant::now();
    let mut client = server.connect(kind).await;
    // longer than one interval and one timeout together
    for _ in 0..12 {
        assert_eq!(client.recv().await, "2".into());
        client.send("3").await;
    }
    assert!(opened.elapsed() >= Duration::from_millis(1_200));
    client.send("4still there").await;
    assert_eq!(client.recv_behind_pings().await.0, "4still there".into());
    client.send("1").await;
    server.end().await;
}

async fn a_missing_pong_closes_the_session(kind: TransportKind) {
    let before = Instant::now();
    let mut server = TestServer::echo(fast_heartbeat()).await;
    let mut client = server.connect(kind).await;
    assert_eq!(client.until_end().await, ["2".into()]);
    assert!(before.elapsed() >= Duration::from_millis(1_100));
    assert_eq!(server.session_end().await, CloseReason::PingTimeout);
    assert_eq!(server.metric("quicket_pings_unanswered_total"), 1);
    assert_eq!(server.ended(CloseReason::PingTimeout), 1);
    server.end().await;
}

/// engine.io 6.6.12: a packet shows life as well as a pong, but only the first one after each ping. (That takes
/// its time, so all transports at once.)
#[tokio::test]
async fn another_packet_refreshes_the_ping_timeout_once() {
    futures_util::future::join_all(TransportKind::ALL.map(refreshes_once)).await;
}

async fn refreshes_once(kind: TransportKind) {
    let timeout = Duration::from_secs(3);
    let mut server = TestServer::echo(EngineConfig {
        ping_interval: Duration::from_millis(100),
        ping_timeout: timeout,
        ..engine()
    })
    .await;
    let mut client = server.connect(kind).await;
    assert_eq!(client.recv().await, "2".into());
    let mut said = Vec::new();
    for _ in 0..2 {
        // time itself is what this is about
        tokio::time::sleep(timeout * 6 / 10).await;
        said.push(Instant::now());
        client.echoes("alive").await;
    }
    assert_eq!(client.until_end().await, []);
    let ended = Instant::now();
    assert!(ended >= said[0] + timeout, "{kind}: the first packet did not count");
    assert!(ended < said[1] + timeout, "{kind}: the second packet counted");
    assert_eq!(server.session_end().await, CloseReason::PingTimeout);
    server.end().await;
}

async fn a_ping_from_the_client_closes_the_session(kind: TransportKind) {
    let mut server = TestServer::echo(engine()).await;
    let mut client = server.connect(kind).await;
    client.try_send(&"2".into()).await;
    assert_eq!(client.until_end().await, []);
    assert_eq!(server.session_end().await, CloseReason::TransportError);
    assert_eq!(server.misbehaved("heartbeat_direction"), 1);
    server.end().await;
}

async fn open_upgrade_and_noop_packets_are_ignored(kind: TransportKind) {
    let server = TestServer::echo(engine()).await;
    let mut client = server.connect(kind).await;
    for packet in ["0", "5", "6", "3", "3probe"] {
        client.send(packet).await;
    }
    client.echoes("still there").await;
    client.send("1").await;
    server.end().await;
}

async fn the_client_closes_with_a_close_packet(kind: TransportKind) {
    let mut server = TestServer::echo(engine()).await;
    let mut client = server.connect(kind).await;
    client.echoes("before").await;
    client.send("1").await;
    // engine.io polling.ts: a waiting poll is let go with a NOOP
    let last: &[Frame] = match kind {
        TransportKind::Polling => &["6".into()],
        _ => &[],
    };
    assert_eq!(client.until_end().await, last);
    assert_eq!(server.session_end().await, CloseReason::TransportClose);
    server.no_sessions_left().await;
    assert_eq!(server.ended(CloseReason::TransportClose), 1);
    server.end().await;
}

async fn the_server_closes_after_what_is_queued(kind: TransportKind) {
    let mut server = TestServer::echo(engine()).await;
    let mut client = server.connect(kind).await;
    let large = Frame::from(vec![1; 500_000]);
    client.send_all(&["4first".into(), large.clone(), "4bye".into()]).await;
    let frames = client.until_end().await;
    assert!(frames == ["4first".into(), large, "4bye".into()]);
    match &client.link {
        Link::WebSocket(link) => assert_eq!(link.close_code, Some(1000)),
        Link::Polling(_) => {
            let after = server.poll(&client.sid).await;
            assert_eq!(after.summary(), (400, r#"{"code":1,"message":"Session ID unknown"}"#));
        }
        Link::WebTransport(link) => {
            within("the session's end", link.connection.closed()).await;
        }
    }
    assert_eq!(server.session_end().await, CloseReason::ForcedClose);
    server.end().await;
}

async fn a_connection_that_breaks_ends_the_session(kind: TransportKind) {
    let mut server = TestServer::echo(engine()).await;
    let mut client = server.connect(kind).await;
    client.echoes("before").await;
    let reason = match &client.link {
        // Node: "poll connection closed prematurely"
        Link::Polling(link) => {
            let poll = Request::get(&link.target).start(server.address).await;
            // the POST is on another connection; its echo would end the poll, so this is ignored
            client.send("6").await;
            drop(poll);
            CloseReason::TransportError
        }
        Link::WebSocket(_) | Link::WebTransport(_) => CloseReason::TransportClose,
    };
    drop(client);
    assert_eq!(server.session_end().await, reason);
    server.no_sessions_left().await;
    server.end().await;
}

async fn shutdown_closes_the_session(kind: TransportKind) {
    let mut server = TestServer::echo(engine()).await;
    let mut client = server.connect(kind).await;
    client.echoes("before").await;
    server.server.shutdown();
    assert_eq!(client.until_end().await, []);
    if let Link::WebSocket(link) = &client.link {
        assert_eq!(link.close_code, Some(1001));
    }
    assert_eq!(server.session_end().await, CloseReason::ServerShuttingDown);
    server.end().await;
}

/// The official suite's "closes the session upon duplicate poll requests".
#[tokio::test]
async fn a_second_poll_ends_the_session_and_the_first_one_learns_it() {
    let mut server = TestServer::echo(engine()).await;
    let client = server.connect(TransportKind::Polling).await;
    let target = TestServer::target(TransportKind::Polling, Some(&client.sid));
    let exchanges = [
        Request::get(&target).start(server.address).await,
        Request::get(&target).start(server.address).await,
    ];
    let [one, two] = exchanges.map(|exchange| exchange.response());
    let (one, two) = within("both polls", async { tokio::join!(one, two) }).await;
    // which of them came first is not ours to say
    let mut answers = [one.unwrap(), two.unwrap()].map(|a| (a.status, a.text().to_owned()));
    answers.sort();
    assert_eq!(answers, [(200, "1".to_owned()), (400, String::new())]);
    assert_eq!(server.session_end().await, CloseReason::TransportError);
    assert_eq!(server.misbehaved("overlapping_poll"), 1);
    server.end().await;
}

/// The official suite's "forcefully closes the session", where the poll is there before the close packet.
#[tokio::test]
async fn a_waiting_poll_is_let_go_when_the_client_closes() {
    let server = TestServer::echo(engine()).await;
    let client = server.connect(TransportKind::Polling).await;
    let (poll, post) = tokio::join!(server.poll(&client.sid), server.post(&client.sid, "1"));
    assert_eq!(poll.summary(), (200, "6"));
    assert_eq!(post.summary(), (200, "ok"));
    server.no_sessions_left().await;
    assert_eq!(server.poll(&client.sid).await.status, 400);
    server.end().await;
}

#[tokio::test]
async fn two_clients_do_not_hear_each_other() {
    let server = TestServer::echo(engine()).await;
    let mut clients: Vec<Client> = Vec::new();
    for kind in TransportKind::ALL {
        clients.push(server.connect(kind).await);
        clients.push(server.connect(kind).await);
    }
    for (n, client) in clients.iter_mut().enumerate() {
        client.send(format!("4{n}")).await;
    }
    for (n, client) in clients.iter_mut().enumerate() {
        assert_eq!(client.recv().await, format!("4{n}").into());
        client.send("1").await;
    }
    server.end().await;
}
