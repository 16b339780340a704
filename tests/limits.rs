//! Bad input and bounds on the wire: what a peer may cost, and that it costs only itself (guarantee G5).
//! What the server keeps for peers and applications that lag is in `backpressure`, random bytes in
//! `noise`, peers that take their time in `slow`, who comes in at all in `door`, how fast one may talk in
//! `pace`, rooms and names in `names`, what HTTP/2 has beside that in `http2`.

#![allow(clippy::unwrap_used, reason = "in a test that is how to fail")]

#[path = "limits/backpressure.rs"]
mod backpressure;
#[path = "limits/door.rs"]
mod door;
#[allow(dead_code, reason = "others renew them")]
#[path = "certificates/files.rs"]
mod files;
#[path = "limits/http2.rs"]
mod http2;
#[path = "limits/names.rs"]
mod names;
#[path = "limits/noise.rs"]
mod noise;
#[path = "limits/pace.rs"]
mod pace;
#[path = "limits/slow.rs"]
mod slow;
mod support;
#[path = "limits/table.rs"]
mod table;

use std::time::Duration;

use quicket::TransportKind::{self, Polling, WebSocket, WebTransport};
use quicket::config::EngineConfig;
use quicket::{CloseReason, TransportKind as Kind};
use tokio::io::AsyncWriteExt as _;

use support::client::{Link, WebTransportLink, websocket_frame};
use support::http::Request;
use support::server::echo;
use support::{Client, Frame, TestServer, engine, eventually, on_every_transport, within};

on_every_transport!(
    a_message_of_max_payload_passes,
    a_message_above_max_payload_does_not,
    hundreds_of_sessions_leave_nothing_behind,
);

const MAX_PAYLOAD: usize = 1_000;

fn small() -> EngineConfig {
    EngineConfig { max_payload: MAX_PAYLOAD, ..engine() }
}

/// A frame that is a body, message or frame of that length on the wire.
fn sized(length: usize) -> Frame {
    format!("4{}", "x".repeat(length - 1)).into()
}

async fn a_message_of_max_payload_passes(kind: TransportKind) {
    let server = TestServer::echo(small()).await;
    let mut client = server.connect(kind).await;
    client.send(sized(MAX_PAYLOAD)).await;
    assert_eq!(client.recv().await, sized(MAX_PAYLOAD));
    if kind != Polling {
        let binary = Frame::from(vec![1; MAX_PAYLOAD]);
        client.send(binary.clone()).await;
        assert_eq!(client.recv().await, binary);
    }
    client.send("1").await;
    server.end().await;
}

async fn a_message_above_max_payload_does_not(kind: TransportKind) {
    let mut server = TestServer::echo(small()).await;
    let mut client = server.connect(kind).await;
    if let Link::Polling(link) = &client.link {
        let Frame::Text(body) = sized(MAX_PAYLOAD + 1) else { unreachable!() };
        let post = Request::post(&link.target, body.as_str());
        assert_eq!(post.send(server.address).await.status, 413);
        let chunked = format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len());
        let post = Request::new("POST", &link.target).header("Transfer-Encoding", "chunked");
        let mut post = post.start(server.address).await;
        post.stream.write_all(chunked.as_bytes()).await.unwrap();
        let answer = within("an answer", post.response()).await.unwrap();
        assert_eq!(answer.status, 413);
        assert_eq!(server.misbehaved("payload_too_large"), 2);
        client.echoes("Node leaves the session alone, too").await;
        client.send("1").await;
    } else {
        client.try_send(&sized(MAX_PAYLOAD + 1)).await;
        assert_eq!(client.until_end().await, []);
        let (reason, rule) = match kind {
            WebTransport => (CloseReason::ParseError, "frame_too_large"),
            _ => (CloseReason::TransportError, "payload_too_large"),
        };
        assert_eq!(server.session_end().await, reason);
        assert_eq!(server.misbehaved(rule), 1);
    }
    server.end().await;
}

/// Before it there is nobody whom the bytes are charged to.
#[tokio::test]
async fn the_first_packet_of_a_webtransport_stream_is_limited() {
    const MOST: usize = 1024;
    let server = TestServer::echo(engine()).await;
    let mut client = server.connect(Polling).await;
    let attach = |length: usize| {
        let rest = format!("0{{\"sid\":\"{}\",\"x\":\"\"}}", client.sid).len();
        let x = "x".repeat(length - rest);
        format!("0{{\"sid\":\"{}\",\"x\":\"{x}\"}}", client.sid)
    };
    let (longest, too_long) = (attach(MOST), attach(MOST + 1));
    assert_eq!((longest.len(), too_long.len()), (MOST, MOST + 1));
    let mut link = WebTransportLink::connect(&server).await.unwrap();
    link.send(&too_long.into()).await.unwrap();
    assert_eq!(within("its end", link.next()).await, None);
    eventually("it to be counted", || server.misbehaved("frame_too_large") == 1).await;
    let mut link = WebTransportLink::connect(&server).await.unwrap();
    link.send(&longest.into()).await.unwrap();
    link.send(&"2probe".into()).await.unwrap();
    assert_eq!(within("an answer", link.next()).await, Some("3probe".into()));
    assert_eq!(server.misbehaved("frame_too_large"), 1);
    client.send("1").await;
    server.end().await;
}

async fn hundreds_of_sessions_leave_nothing_behind(kind: TransportKind) {
    const SESSIONS: usize = 150;
    let server = TestServer::echo(EngineConfig {
        // polling clients that vanish without a poll are noticed by this alone
        ping_interval: Duration::from_millis(500),
        ping_timeout: Duration::from_millis(500),
        ..engine()
    })
    .await;
    for _ in 0..2 {
        let mut clients = Vec::new();
        for n in 0..SESSIONS {
            let mut client = server.connect(kind).await;
            if n % 3 == 0 {
                client.send("4x").await;
                assert_eq!(client.recv_behind_pings().await.0, "4x".into());
            }
            clients.push(client);
        }
        drop(clients);
        server.no_sessions_left().await;
    }
    server.end().await;
}

/// One session, these bytes, and the rule that they must be found to break.
async fn breaks(kind: TransportKind, bytes: &[u8], rule: &str, reason: CloseReason) {
    let mut server = TestServer::echo(small()).await;
    let mut client = server.connect(kind).await;
    client.echoes("before").await;
    client.send_bytes(bytes).await;
    assert_eq!(client.until_end().await, [], "{kind} {bytes:02x?}");
    assert_eq!(server.session_end().await, reason, "{kind} {bytes:02x?}");
    assert_eq!(server.misbehaved(rule), 1, "{kind} {bytes:02x?} is {rule}");
    assert_eq!(server.ended(reason), 1);
    server.no_sessions_left().await;
    server.end().await;
}

#[tokio::test]
async fn bad_polling_payloads_are_named() {
    for (body, rule) in [
        (&b""[..], "unknown_engine_packet"),
        (b"\x1e", "unknown_engine_packet"),
        (b"\x1e4a", "unknown_engine_packet"),
        (b"x4:hello", "unknown_engine_packet"),
        (b"b!", "invalid_base64"),
        (b"bA", "invalid_base64"),
        (b"bAQIDBA==AQ==", "invalid_base64"),
        (b"4\xff\xfe", "invalid_utf8"),
        (b"4\xed\xa0\x80", "invalid_utf8"),
    ] {
        breaks(Polling, body, rule, CloseReason::ParseError).await;
    }
}

#[tokio::test]
async fn bad_websocket_frames_are_named() {
    let illegal = "illegal_websocket_frame";
    let error = CloseReason::TransportError;
    let endless = [&[0x82, 0xff][..], &(1u64 << 62).to_be_bytes(), &[0; 4]].concat();
    let too_long = [&[0x82, 0xff][..], &1_001u64.to_be_bytes(), &[0; 4]].concat();
    let negative = [&[0x82, 0xff][..], &u64::MAX.to_be_bytes(), &[0; 4]].concat();
    let pieces =
        [websocket_frame(0x01, &[b'4'; 600]), websocket_frame(0x80, &[b'4'; 401])].concat();
    let text_in_text = [websocket_frame(0x01, b"4a"), websocket_frame(0x81, b"4b")].concat();
    for (bytes, rule, reason) in [
        (vec![0x81, 0x02, b'4', b'x'], illegal, error), // no mask
        (websocket_frame(0x83, b"4x"), illegal, error), // opcode
        (websocket_frame(0x8b, b""), illegal, error),   // opcode of a control frame
        (websocket_frame(0xc1, b"4x"), illegal, error), // deflated, though that was not agreed on
        (websocket_frame(0x91, b"4x"), illegal, error), // reserved bit
        (websocket_frame(0x80, b"4x"), illegal, error), // nothing to continue
        (text_in_text, illegal, error),
        (websocket_frame(0x09, b"x"), illegal, error), // a ping in pieces
        (websocket_frame(0x89, &[0; 126]), illegal, error), // a long ping
        (websocket_frame(0x88, &[3]), illegal, error), // half a close code
        (too_long, "payload_too_large", error),
        (endless, "payload_too_large", error),
        (negative, "payload_too_large", error),
        (pieces, "payload_too_large", error),
        (websocket_frame(0x81, b"4\xff"), "invalid_utf8", CloseReason::ParseError),
        (websocket_frame(0x81, b""), "unknown_engine_packet", CloseReason::ParseError),
    ] {
        breaks(WebSocket, &bytes, rule, reason).await;
    }
}

#[tokio::test]
async fn bad_webtransport_frames_are_named() {
    let length = "illegal_frame_length";
    let large = "frame_too_large";
    let parse = CloseReason::ParseError;
    for (bytes, rule, reason) in [
        (vec![0x00], length, parse),
        (vec![0x80], length, parse),
        (vec![126, 0, 0], length, parse),
        (vec![127, 0, 0, 0, 0, 0, 0, 0, 0], length, parse),
        (vec![126, 0x03, 0xe9], large, parse), // 1001, before any of it came
        ([&[127][..], &1_001u64.to_be_bytes()].concat(), large, parse),
        (vec![0xff; 9], large, parse),
        (vec![2, b'4', 0xff], "invalid_utf8", parse),
        (vec![1, b'7'], "unknown_engine_packet", parse),
    ] {
        breaks(WebTransport, &bytes, rule, reason).await;
    }
}

#[tokio::test]
async fn a_stream_that_ends_within_a_frame_ends_the_session() {
    for (bytes, reason) in [
        (&[0x05, b'4', b'a'][..], CloseReason::TransportError),
        (&[0x7e, 0x00], CloseReason::TransportError),
        (&[], CloseReason::TransportClose),
    ] {
        let mut server = TestServer::echo(small()).await;
        let client = server.connect(WebTransport).await;
        let Link::WebTransport(mut link) = client.link else { unreachable!() };
        link.send.write_all(bytes).await.unwrap();
        link.send.finish().await.unwrap();
        assert_eq!(server.session_end().await, reason, "{bytes:02x?}");
        server.end().await;
    }
    let mut server = TestServer::echo(small()).await;
    let mut client = server.connect(WebSocket).await;
    client.send_bytes(&websocket_frame(0x81, b"4hello")[..5]).await;
    drop(client);
    assert_eq!(server.session_end().await, CloseReason::TransportClose);
    server.end().await;
}

/// The first packet on a stream is read before there is a session; its mistakes count all the same.
#[tokio::test]
async fn bad_first_bytes_of_a_webtransport_stream_are_named() {
    for (bytes, rule) in [
        (&[0x00][..], "illegal_frame_length"),
        (&[0xff; 9], "frame_too_large"),
        (&[2, b'0', 0xff], "invalid_utf8"),
        (&[1, b'x'], "unknown_engine_packet"),
    ] {
        let server = TestServer::echo(small()).await;
        let mut link = WebTransportLink::connect(&server).await.unwrap();
        link.send.write_all(bytes).await.unwrap();
        assert_eq!(within("the end", link.next()).await, None);
        within("the session's end", link.connection.closed()).await;
        eventually(rule, || server.misbehaved(rule) == 1).await;
        server.end().await;
    }
}

/// A POST whose body is not all there yet.
async fn half_a_post(server: &TestServer, client: &Client) -> support::http::Exchange {
    let target = TestServer::target(Polling, Some(&client.sid));
    let post = Request::post(target, "4first").header("Content-Length", "100");
    post.start(server.address).await
}

#[tokio::test]
async fn a_second_post_during_the_first_one_ends_the_session() {
    let mut server = TestServer::echo(small()).await;
    let mut client = server.connect(Polling).await;
    client.echoes("before").await;
    let first = half_a_post(&server, &client).await;
    // nothing shows that the first one has been begun with, so ask until it has
    let second = loop {
        let second = server.post(&client.sid, "6").await;
        if second.status != 200 {
            break second;
        }
    };
    assert_eq!(second.summary(), (400, ""));
    assert_eq!(server.session_end().await, CloseReason::TransportError);
    assert_eq!(server.misbehaved("overlapping_post"), 1);
    drop(first);
    server.end().await;
}

/// engine.io polling.ts: "data request connection closed prematurely". What was in it is lost.
#[tokio::test]
async fn a_post_that_is_abandoned_half_way_ends_the_session() {
    let mut server = TestServer::echo(small()).await;
    let mut client = server.connect(Polling).await;
    client.echoes("before").await;
    drop(half_a_post(&server, &client).await);
    assert_eq!(server.session_end().await, CloseReason::TransportError);
    assert_eq!(server.poll(&client.sid).await.status, 400);
    server.end().await;
}

/// engine.io polling.ts: "poll connection closed prematurely".
#[tokio::test]
async fn a_poll_that_is_abandoned_ends_the_session() {
    let mut server = TestServer::echo(small()).await;
    let mut client = server.connect(Polling).await;
    client.echoes("before").await;
    let target = TestServer::target(Polling, Some(&client.sid));
    let poll = Request::get(target).start(server.address).await;
    drop(poll);
    assert_eq!(server.session_end().await, CloseReason::TransportError);
    assert_eq!(server.poll(&client.sid).await.status, 400);
    server.end().await;
}

#[tokio::test]
async fn a_binary_post_ends_the_session() {
    let mut server = TestServer::echo(small()).await;
    let client = server.connect(Polling).await;
    let target = TestServer::target(Polling, Some(&client.sid));
    let post = Request::post(target, vec![1, 2, 3])
        .header("Content-Type", "application/octet-stream")
        .send(server.address)
        .await;
    assert_eq!(post.summary(), (400, ""));
    assert_eq!(server.session_end().await, CloseReason::TransportError);
    assert_eq!(server.misbehaved("binary_post"), 1);
    server.end().await;
}

/// RFC 6455 allows pings; what it costs to answer them is bounded for a peer that does not read.
#[tokio::test]
async fn websocket_pings_are_answered() {
    let server = TestServer::echo(small()).await;
    let mut client = server.connect(WebSocket).await;
    for _ in 0..500 {
        client.send_bytes(&websocket_frame(0x89, b"are you there")).await;
    }
    client.echoes("yes").await;
    assert_eq!(server.misbehaved("control_frame_flood"), 0);
    server.end().await;
}

/// One session's mistake is none of its neighbour's.
#[tokio::test]
async fn neighbours_do_not_notice() {
    let mut server = TestServer::echo(small()).await;
    let mut neighbours = Vec::new();
    for kind in Kind::ALL {
        neighbours.push(server.connect(kind).await);
    }
    for kind in Kind::ALL {
        let mut bad = server.connect(kind).await;
        bad.try_send(&"abc".into()).await;
        assert_eq!(server.session_end().await, CloseReason::ParseError);
        for neighbour in &mut neighbours {
            neighbour.echoes("undisturbed").await;
        }
    }
    assert_eq!(server.server.session_count(), 3);
    server.end().await;
}

/// Whatever its peers are up to, a server that has ended has left its runtime.
#[tokio::test]
async fn a_server_that_ended_leaves_no_task_behind() {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let config = EngineConfig { poll_close_timeout: Duration::from_millis(100), ..engine() };
    let server = TestServer::start_on(runtime.handle(), config, echo, |builder| builder).await;
    let mut peers = Vec::new();
    for kind in Kind::ALL {
        let mut client = server.connect(kind).await;
        client.echoes("here").await;
        peers.push(client);
    }
    let polling = server.connect(Polling).await;
    let target = TestServer::target(Polling, Some(&polling.sid));
    let waiting = Request::get(&target).start(server.address).await;
    let half = half_a_post(&server, &polling).await;
    let probed = server.connect(Polling).await;
    let probes = [
        Link::attach(&server, WebSocket, &probed.sid).await,
        Link::attach(&server, WebTransport, &probed.sid).await,
    ];
    let silent_tcp = tokio::net::TcpStream::connect(server.address).await.unwrap();
    let silent_stream = WebTransportLink::connect(&server).await.unwrap();
    let metrics = runtime.handle().metrics();
    assert!(metrics.num_alive_tasks() > 5, "the tasks are not where this looks for them");
    server.end().await;
    eventually("all tasks to end", || metrics.num_alive_tasks() == 0).await;
    drop((peers, waiting, half, probes, silent_tcp, silent_stream));
    runtime.shutdown_background();
}
