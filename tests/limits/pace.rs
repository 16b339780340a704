//! How fast one client may talk: above its rates it is read from more slowly, on each transport, and
//! loses nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use quicket::config::{Config, EngineConfig, LimitsConfig};
use quicket::{EngineSocket, Message, TransportKind};
use tokio::io::AsyncWriteExt as _;

use super::support::client::{Client, Link, websocket_frame};
use super::support::server::{config, echo};
use super::support::{Frame, TestServer, engine, eventually, on_every_transport, within};

on_every_transport!(
    packets_above_the_rate_are_read_later,
    bytes_above_the_rate_are_read_later,
    a_client_within_its_rates_is_not_held_up,
    a_client_that_is_held_up_holds_up_nobody_else,
    a_pong_behind_what_is_read_slowly_is_waited_for,
);

const MAX_PAYLOAD: usize = 100_000;

fn limited(packet_rate: Option<usize>, byte_rate: Option<usize>) -> Config {
    let limits = LimitsConfig { packet_rate, byte_rate, ..LimitsConfig::default() };
    Config { limits, ..config(small()) }
}

fn small() -> EngineConfig {
    EngineConfig { max_payload: MAX_PAYLOAD, ..engine() }
}

async fn echoing(packet_rate: usize) -> TestServer {
    let config = limited(Some(packet_rate), None);
    TestServer::start(small(), echo, |builder| builder.config(config)).await
}

fn hit(server: &TestServer, limit: &str) -> u64 {
    server.metric(&format!("quicket_limits_hit_total{{limit=\"{limit}\"}}"))
}

async fn packets_above_the_rate_are_read_later(kind: TransportKind) {
    let server = echoing(200).await;
    let mut client = server.connect(kind).await;
    let begun = Instant::now();
    let messages: Vec<_> = (0..600).map(|n| Frame::from(format!("4{n}"))).collect();
    client.send_all(&messages).await;
    for expected in &messages {
        assert_eq!(client.recv().await, *expected, "in order, and nothing is missing");
    }
    // a second's worth came at once; never earlier, however fast the machine
    assert!(begun.elapsed() >= Duration::from_millis(1_990), "{:?}", begun.elapsed());
    assert!(hit(&server, "packet_rate") > 0);
    client.echoes("the session lives").await;
    client.send("1").await;
    server.end().await;
}

async fn bytes_above_the_rate_are_read_later(kind: TransportKind) {
    let heard = Arc::new(AtomicUsize::new(0));
    let count = heard.clone();
    let app = move |mut session: EngineSocket| {
        let count = count.clone();
        async move {
            loop {
                match session.recv().await {
                    Ok(Message::Text(text)) => count.fetch_add(text.len(), Ordering::Relaxed),
                    Ok(Message::Binary(_)) => panic!("binary"),
                    Err(reason) => return Some(reason),
                };
            }
        }
    };
    let config = limited(None, Some(MAX_PAYLOAD));
    let server = TestServer::start(small(), app, |builder| builder.config(config)).await;
    let mut client = server.connect(kind).await;
    let begun = Instant::now();
    let large = Frame::from(format!("4{}", "x".repeat(MAX_PAYLOAD - 1)));
    for _ in 0..4 {
        client.send(large.clone()).await;
    }
    let all = 4 * (MAX_PAYLOAD - 1);
    eventually("all to be heard", || heard.load(Ordering::Relaxed) == all).await;
    // the fourth is read when all but a quarter of a second has paid for the three before it
    assert!(begun.elapsed() >= Duration::from_millis(2_740), "{:?}", begun.elapsed());
    assert!(hit(&server, "byte_rate") > 0);
    client.send("1").await;
    server.end().await;
}

async fn a_client_within_its_rates_is_not_held_up(kind: TransportKind) {
    let server = echoing(200).await;
    let mut client = server.connect(kind).await;
    for n in 0..2 {
        // fewer than 200 in all, so at any speed
        let messages: Vec<_> = (0..98).map(|n| Frame::from(format!("4{n}"))).collect();
        client.send_all(&messages).await;
        for expected in &messages {
            assert_eq!(client.recv().await, *expected, "round {n}");
        }
    }
    assert_eq!(hit(&server, "packet_rate"), 0);
    client.send("1").await;
    server.end().await;
}

async fn a_pong_behind_what_is_read_slowly_is_waited_for(kind: TransportKind) {
    let soon = Duration::from_millis(300);
    let engine = EngineConfig { ping_interval: soon, ping_timeout: soon, ..small() };
    let limits = LimitsConfig { packet_rate: Some(100), ..LimitsConfig::default() };
    let config = Config { limits, ..config(engine.clone()) };
    let server = TestServer::start(engine, echo, |builder| builder.config(config)).await;
    let mut client = server.connect(kind).await;
    // all that is beyond the first second's worth takes two seconds, several deadlines of a pong
    let messages: Vec<_> = (0..300).map(|n| Frame::from(format!("4{n}"))).collect();
    client.send_all(&messages).await;
    let mut pings = 0;
    for expected in &messages {
        let (received, before) = client.recv_behind_pings().await;
        assert_eq!(received, *expected);
        pings += before;
    }
    assert!(pings > 0);
    client.send("1").await;
    server.end().await;
}

async fn a_client_that_is_held_up_holds_up_nobody_else(kind: TransportKind) {
    let server = echoing(200).await;
    let (mut flood, mut other) = (server.connect(kind).await, server.connect(kind).await);
    let messages: Vec<_> = (0..1_000).map(|n| Frame::from(format!("4{n}"))).collect();
    let flooding = async {
        flood.send_all(&messages).await;
        for expected in &messages {
            assert_eq!(flood.recv().await, *expected);
        }
    };
    let talking = async {
        eventually("the flood to be held up", || hit(&server, "packet_rate") > 0).await;
        while hit(&server, "packet_rate") < 5 {
            other.echoes("meanwhile").await;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::join!(flooding, talking);
    for mut client in [flood, other] {
        client.send("1").await;
    }
    server.end().await;
}

/// At 200 a second, of which a second's worth comes at once.
async fn six_hundred_are_not_read_in_two_seconds(say: impl AsyncFnOnce(&mut Client)) {
    let server = echoing(200).await;
    let mut client = server.connect(TransportKind::WebSocket).await;
    client.echoes("before").await;
    let begun = Instant::now();
    say(&mut client).await;
    client.echoes("behind them").await;
    assert!(begun.elapsed() >= Duration::from_millis(1_990), "{:?}", begun.elapsed());
    assert!(hit(&server, "packet_rate") > 0);
    client.send("1").await;
    server.end().await;
}

/// Pings are answered below Engine.IO, and cost as much as packets.
#[tokio::test]
async fn pings_of_a_websocket_count_as_packets() {
    six_hundred_are_not_read_in_two_seconds(async |client| {
        for _ in 0..600 {
            client.send_bytes(&websocket_frame(0x89, b"")).await;
        }
        client.send("4along with them").await;
        client.recv().await;
    })
    .await;
}

/// Pieces of a message cost as much as packets: else a message of empty ones would be free.
#[tokio::test]
async fn fragments_of_a_websocket_count_as_packets() {
    six_hundred_are_not_read_in_two_seconds(async |client| {
        client.send_bytes(&websocket_frame(0x01, b"4")).await;
        for _ in 0..600 {
            client.send_bytes(&websocket_frame(0x00, b"x")).await;
        }
        client.send_bytes(&websocket_frame(0x80, b"")).await;
        assert_eq!(client.recv().await, Frame::from(format!("4{}", "x".repeat(600))));
    })
    .await;
}

/// A session by polling, a WebSocket that is about to take it over, and these bytes on that.
async fn probed(server: &TestServer, bytes: &[u8]) -> (Client, Link) {
    let client = server.connect(TransportKind::Polling).await;
    let mut link = Link::attach(server, TransportKind::WebSocket, &client.sid).await;
    assert!(link.send("2probe").await);
    assert_eq!(within("3probe", link.next()).await, Some("3probe".into()));
    let Link::WebSocket(probe) = &mut link else { unreachable!() };
    // it may be closed in the midst of them
    let _ = probe.stream.get_mut().write_all(bytes).await;
    (client, link)
}

/// It has two packets to say, and no rate that would slow it down.
#[tokio::test]
async fn a_probe_that_says_too_much_is_dropped() {
    for too_much in [
        websocket_frame(0x8a, b"").repeat(65),
        websocket_frame(0x89, b"there?").repeat(65),
        [websocket_frame(0x01, b"5"), websocket_frame(0x00, b"").repeat(65)].concat(),
        websocket_frame(0x01, &[b'x'; 1_025]),
    ] {
        let server = TestServer::echo(small()).await;
        let (mut client, link) = probed(&server, &too_much).await;
        let dropped = || server.upgrades(TransportKind::WebSocket, "misbehaved") == 1;
        eventually("the probe to be dropped", dropped).await;
        assert_eq!(server.misbehaved("upgrade_out_of_order"), 1);
        client.echoes("still polling").await;
        client.send("1").await;
        drop(link);
        server.end().await;
    }
}

#[tokio::test]
async fn a_probe_may_say_some_more_and_messages_behind_it_are_the_sessions() {
    let server = TestServer::echo(small()).await;
    let pongs = websocket_frame(0x8a, b"").repeat(64);
    let (mut client, mut link) = probed(&server, &pongs).await;
    assert_eq!(server.poll(&client.sid).await.summary(), (200, "6"));
    let large = Frame::from(format!("4{}", "x".repeat(20_000)));
    let behind = [Frame::from("5").masked(), pongs, large.masked()].concat();
    let Link::WebSocket(probe) = &mut link else { unreachable!() };
    probe.stream.get_mut().write_all(&behind).await.unwrap();
    client.link = link;
    assert_eq!(client.recv().await, large);
    assert_eq!(server.upgrades(TransportKind::WebSocket, "completed"), 1);
    client.send("1").await;
    server.end().await;
}

/// At its end it would be too late to read a large message more slowly.
async fn is_charged_as_it_comes(kind: TransportKind, framed: impl Fn(String) -> Vec<u8>) {
    let config = limited(None, Some(MAX_PAYLOAD));
    let server = TestServer::start(small(), echo, |builder| builder.config(config)).await;
    let mut client = server.connect(kind).await;
    let message = |len| framed(format!("4{}", "x".repeat(len)));
    client.send_bytes(&message(4_000)).await;
    client.recv().await;
    assert_eq!(hit(&server, "byte_rate"), 0, "a newcomer's worth is not used up");
    // more than what may come at once, however long it has earned that
    let large = message(60_000);
    let (most, rest) = large.split_at(large.len() - 1);
    client.send_bytes(most).await;
    eventually("a message to be charged", || hit(&server, "byte_rate") > 0).await;
    client.send_bytes(rest).await;
    client.recv().await;
    client.send("1").await;
    server.end().await;
}

#[tokio::test]
async fn a_message_is_charged_as_it_comes() {
    let framed = |text: String| websocket_frame(0x81, text.as_bytes());
    is_charged_as_it_comes(TransportKind::WebSocket, framed).await;
    let framed = |text: String| Frame::from(text).length_prefixed();
    is_charged_as_it_comes(TransportKind::WebTransport, framed).await;
}

/// Its bytes were read, though for nothing, and the session lives to send the next.
#[tokio::test]
async fn a_body_that_is_too_large_is_charged() {
    let config = limited(None, Some(MAX_PAYLOAD));
    let server = TestServer::start(small(), echo, |builder| builder.config(config)).await;
    let mut client = server.connect(TransportKind::Polling).await;
    let begun = Instant::now();
    let large = format!("4{}", "x".repeat(MAX_PAYLOAD));
    for _ in 0..3 {
        assert_eq!(server.post(&client.sid, &large).await.status, 413);
    }
    // a second each, but for what may come at once
    assert!(begun.elapsed() >= Duration::from_millis(2_740), "{:?}", begun.elapsed());
    assert!(hit(&server, "byte_rate") > 0);
    client.echoes("the session lives").await;
    client.send("1").await;
    server.end().await;
}
