//! Upgrades: a session moves from polling to WebSocket or WebTransport, or stays where it is, and loses
//! nothing either way.

#![allow(clippy::unwrap_used, reason = "in a test that is how to fail")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use quicket::TransportKind::{self, Polling, WebSocket, WebTransport};
use quicket::config::EngineConfig;
use quicket::{CloseReason, EngineSocket, Message};

use support::client::{Link, WebSocketLink, WebTransportLink};
use support::http::Request;
use support::server::{PATH, Sessions};
use support::{Client, Frame, TestServer, engine, on_every_transport, within};

/// Makes a test of each function, for each transport that a session can move to.
macro_rules! to_both {
    ($($promise:ident),+ $(,)?) => {
        on_every_transport!(@ to_websocket WebSocket $($promise)+);
        on_every_transport!(@ to_webtransport WebTransport $($promise)+);
    };
}

to_both!(
    a_session_moves,
    messages_right_behind_the_upgrade_packet_are_read,
    a_waiting_poll_is_let_go_once_the_probe_was_answered,
    http_requests_are_refused_after_the_upgrade,
    a_second_link_is_refused_after_the_upgrade,
    a_second_link_is_refused_during_the_upgrade,
    no_message_is_lost_doubled_or_reordered,
    the_heartbeat_goes_on_over_the_new_link,
    an_upgrade_that_takes_too_long_leaves_the_session,
    a_probe_that_breaks_leaves_the_session,
    wrong_packets_on_the_probe_leave_the_session,
    the_end_of_the_session_ends_its_probe,
    shutdown_during_an_upgrade_leaves_nothing,
    a_session_that_did_not_begin_with_polling_stays_where_it_is,
    upgrades_can_be_switched_off,
);

async fn answer_probe(link: &mut Link) {
    assert!(link.send("2probe").await);
    assert_eq!(within("3probe", link.next()).await, Some("3probe".into()));
}

/// The whole upgrade of a client that has no poll under way.
async fn upgrade(server: &TestServer, client: &mut Client, kind: TransportKind) {
    let mut link = Link::attach(server, kind, &client.sid).await;
    answer_probe(&mut link).await;
    assert_eq!(server.poll(&client.sid).await.summary(), (200, "6"));
    assert!(link.send("5").await);
    client.link = link;
}

async fn is_closed(link: &mut Link) {
    assert_eq!(within("the end of a link", link.next()).await, None);
}

async fn a_session_moves(kind: TransportKind) {
    let sessions = Sessions::default();
    let keep = sessions.clone();
    let server = TestServer::start(
        engine(),
        move |session| {
            keep.keep(session);
            async { None }
        },
        |builder| builder,
    )
    .await;
    let mut client = server.connect(Polling).await;
    let mut session = sessions.take().await;
    assert_eq!(session.transport(), Polling);
    upgrade(&server, &mut client, kind).await;
    client.send("4hello").await;
    assert_eq!(session.recv().await, Ok("hello".into()));
    assert_eq!(session.transport(), kind);
    // the handshake stays the one that opened the session
    assert_eq!(session.handshake().transport, "polling");
    assert_eq!(session.sid().as_str(), client.sid);
    session.send("hi").unwrap();
    assert_eq!(client.recv().await, "4hi".into());
    assert_eq!(server.upgrades(kind, "completed"), 1);
    let open = |kind| server.metric(&format!("quicket_sessions{{transport=\"{kind}\"}}"));
    assert_eq!((open(Polling), open(kind)), (0, 1));
    client.send("1").await;
    assert_eq!(session.recv().await, Err(CloseReason::TransportClose));
    server.end().await;
}

/// All of it may come in one piece, and then nothing else that would wake anyone.
async fn messages_right_behind_the_upgrade_packet_are_read(kind: TransportKind) {
    let server = TestServer::echo(engine()).await;
    let mut client = server.connect(Polling).await;
    let mut link = Link::attach(&server, kind, &client.sid).await;
    answer_probe(&mut link).await;
    assert_eq!(server.poll(&client.sid).await.summary(), (200, "6"));
    let frames = ["5", "4one", "4two"].map(Frame::from);
    client.link = link;
    let bytes: Vec<u8> = frames
        .iter()
        .flat_map(|frame| match kind {
            WebSocket => frame.masked(),
            _ => frame.length_prefixed(),
        })
        .collect();
    client.send_bytes(&bytes).await;
    assert_eq!(client.recv().await, "4one".into());
    assert_eq!(client.recv().await, "4two".into());
    server.end().await;
}

async fn a_waiting_poll_is_let_go_once_the_probe_was_answered(kind: TransportKind) {
    let server = TestServer::echo(engine()).await;
    let mut client = server.connect(Polling).await;
    let mut link = Link::attach(&server, kind, &client.sid).await;
    let (poll, ()) = tokio::join!(server.poll(&client.sid), answer_probe(&mut link));
    assert_eq!(poll.summary(), (200, "6"));
    assert!(link.send("5").await);
    client.link = link;
    client.echoes("moved").await;
    server.end().await;
}

async fn http_requests_are_refused_after_the_upgrade(kind: TransportKind) {
    let server = TestServer::echo(engine()).await;
    let mut client = server.connect(Polling).await;
    upgrade(&server, &mut client, kind).await;
    client.echoes("moved").await;
    let refused = (400, r#"{"code":3,"message":"Bad request"}"#);
    assert_eq!(server.poll(&client.sid).await.summary(), refused);
    assert_eq!(server.post(&client.sid, "4x").await.summary(), refused);
    client.echoes("unmoved").await;
    server.end().await;
}

async fn a_second_link_is_refused_after_the_upgrade(kind: TransportKind) {
    let server = TestServer::echo(engine()).await;
    let mut client = server.connect(Polling).await;
    upgrade(&server, &mut client, kind).await;
    client.echoes("moved").await;
    for second in [WebSocket, WebTransport] {
        let mut link = Link::attach(&server, second, &client.sid).await;
        is_closed(&mut link).await;
        client.echoes("unmoved").await;
    }
    server.end().await;
}

async fn a_second_link_is_refused_during_the_upgrade(kind: TransportKind) {
    let server = TestServer::echo(engine()).await;
    let mut client = server.connect(Polling).await;
    let mut first = Link::attach(&server, kind, &client.sid).await;
    answer_probe(&mut first).await;
    for second in [WebSocket, WebTransport] {
        let mut link = Link::attach(&server, second, &client.sid).await;
        is_closed(&mut link).await;
    }
    assert!(first.send("5").await);
    client.link = first;
    client.echoes("moved").await;
    assert_eq!(server.upgrades(kind, "completed"), 1);
    server.end().await;
}

/// Sends numbers without end, each tenth a large one; answers `done` with how many messages came and
/// whether all of them in order.
async fn chatter(mut session: EngineSocket) -> Option<CloseReason> {
    let mut ticks = tokio::time::interval(Duration::from_micros(700));
    let (mut said, mut heard, mut in_order) = (0u32, 0u32, true);
    loop {
        tokio::select! {
            message = session.recv() => match message {
                Err(reason) => return Some(reason),
                Ok(message) if message == "done".into() => {
                    session.send(format!("heard {heard} {in_order}")).ok()?;
                    session.close();
                }
                Ok(message) => {
                    in_order &= message == Message::from(format!("c{heard}"));
                    heard += 1;
                }
            },
            _ = ticks.tick() => {
                for _ in 0..3 {
                    let padding = if said % 10 == 9 { 20_000 } else { said as usize % 300 };
                    // fails while closing only
                    let _ = session.send(format!("{said}:{}", "x".repeat(padding)));
                    said += 1;
                }
            }
        }
    }
}

async fn no_message_is_lost_doubled_or_reordered(kind: TransportKind) {
    const UPGRADES: u64 = 50;
    let server = TestServer::start(engine(), chatter, |builder| builder).await;
    for round in 0..UPGRADES {
        let mut client = server.connect(Polling).await;
        let sid = client.sid.clone();
        let paused = AtomicBool::new(false);
        // as stock clients do it: poll on, and pause when the probe was answered
        let polling = async {
            let mut frames = Vec::new();
            while !paused.load(Ordering::Relaxed) {
                frames.push(client.next().await.unwrap());
            }
            // what the last answer carried, too
            if let Link::Polling(link) = &mut client.link {
                frames.extend(link.buffered());
            }
            frames
        };
        let probing = async {
            for n in 0..3 {
                assert_eq!(server.post(&sid, &format!("4c{n}")).await.text(), "ok");
            }
            let mut link = Link::attach(&server, kind, &sid).await;
            assert_eq!(server.post(&sid, "4c3\u{1e}4c4").await.text(), "ok");
            answer_probe(&mut link).await;
            assert_eq!(server.post(&sid, "4c5").await.text(), "ok");
            paused.store(true, Ordering::Relaxed);
            link
        };
        let (mut frames, mut link) = tokio::join!(polling, probing);
        // right behind each other: the old link must be read before the new one, and the new one at once
        assert!(link.send("5").await);
        for n in 6..9 {
            assert!(link.send(format!("4c{n}")).await);
        }
        client.link = link;
        let moved_at = frames.len();
        while frames.len() < moved_at + 20 {
            frames.push(client.recv().await);
        }
        client.send("4done").await;
        frames.extend(client.until_end().await);
        let heard = frames.pop();
        assert_eq!(heard, Some("4heard 9 true".into()), "round {round}");
        frames.retain(|frame| *frame != "6".into());
        for (n, frame) in frames.iter().enumerate() {
            let Frame::Text(text) = frame else {
                panic!("binary");
            };
            let number = text[1..].split(':').next().unwrap();
            assert_eq!(number, n.to_string(), "round {round}, moved at {moved_at}");
        }
    }
    assert_eq!(server.upgrades(kind, "completed"), UPGRADES);
    server.no_sessions_left().await;
    server.end().await;
}

async fn the_heartbeat_goes_on_over_the_new_link(kind: TransportKind) {
    let mut server = TestServer::echo(EngineConfig {
        ping_interval: Duration::from_millis(150),
        // the upgrade has to fit in, and at the end it is waited for
        ping_timeout: Duration::from_millis(1_500),
        ..engine()
    })
    .await;
    let mut client = server.connect(Polling).await;
    // one ping is waiting for its pong while the session moves
    assert_eq!(client.recv().await, "2".into());
    upgrade(&server, &mut client, kind).await;
    client.send("3").await;
    for _ in 0..3 {
        assert_eq!(client.recv().await, "2".into());
        client.send("3").await;
    }
    assert_eq!(client.until_end().await, ["2".into()]);
    assert_eq!(server.session_end().await, CloseReason::PingTimeout);
    server.end().await;
}

/// Time for a whole upgrade, and to be waited for.
const HASTY: Duration = Duration::from_secs(2);

fn hasty() -> EngineConfig {
    EngineConfig { upgrade_timeout: HASTY, ..engine() }
}

async fn an_upgrade_that_takes_too_long_leaves_the_session(kind: TransportKind) {
    let server = TestServer::echo(hasty()).await;
    let mut client = server.connect(Polling).await;
    for answered in [false, true] {
        let mut link = Link::attach(&server, kind, &client.sid).await;
        if answered {
            answer_probe(&mut link).await;
        }
        is_closed(&mut link).await;
        client.echoes("still polling").await;
    }
    assert_eq!(server.upgrades(kind, "timeout"), 2);
    // a poll waits again instead of being let go with a NOOP
    let (poll, post) = tokio::join!(server.poll(&client.sid), server.post(&client.sid, "4x"));
    assert_eq!((poll.text(), post.text()), ("4x", "ok"));
    upgrade(&server, &mut client, kind).await;
    client.echoes("moved in the end").await;
    server.end().await;
}

async fn a_probe_that_breaks_leaves_the_session(kind: TransportKind) {
    let server = TestServer::echo(engine()).await;
    let mut client = server.connect(Polling).await;
    for count in 1..=3 {
        let mut link = Link::attach(&server, kind, &client.sid).await;
        answer_probe(&mut link).await;
        drop(link);
        let lost = || server.upgrades(kind, "lost") == count;
        support::eventually("the probe to be given up", lost).await;
        client.echoes("still polling").await;
    }
    upgrade(&server, &mut client, kind).await;
    client.echoes("moved in the end").await;
    server.end().await;
}

async fn wrong_packets_on_the_probe_leave_the_session(kind: TransportKind) {
    let server = TestServer::echo(engine()).await;
    let mut client = server.connect(Polling).await;
    let order = "upgrade_out_of_order";
    let mut broken = 0;
    for (answered, packet, rule) in [
        (false, Frame::from("5"), order),
        (false, "4hello".into(), order),
        (false, "2".into(), order),
        (false, "2probes".into(), order),
        (false, "3probe".into(), order),
        (false, "1".into(), order),
        (false, vec![1, 2, 3].into(), order),
        (false, "abc".into(), "unknown_engine_packet"),
        (true, "4hello".into(), order),
        (true, "6".into(), order),
    ] {
        let before = server.misbehaved(rule);
        let mut link = Link::attach(&server, kind, &client.sid).await;
        if answered {
            answer_probe(&mut link).await;
        }
        assert!(link.send(packet.clone()).await);
        is_closed(&mut link).await;
        broken += 1;
        assert_eq!(server.misbehaved(rule), before + 1, "{packet:?}");
        assert_eq!(server.upgrades(kind, "misbehaved"), broken, "{packet:?}");
        client.echoes("still polling").await;
    }
    server.end().await;
}

async fn the_end_of_the_session_ends_its_probe(kind: TransportKind) {
    let mut server = TestServer::echo(engine()).await;
    let mut client = server.connect(Polling).await;
    let mut link = Link::attach(&server, kind, &client.sid).await;
    answer_probe(&mut link).await;
    client.send("1").await;
    is_closed(&mut link).await;
    assert_eq!(server.session_end().await, CloseReason::TransportClose);
    assert_eq!(server.upgrades(kind, "session_closed"), 1);
    server.end().await;
}

async fn shutdown_during_an_upgrade_leaves_nothing(kind: TransportKind) {
    let server = TestServer::echo(engine()).await;
    let client = server.connect(Polling).await;
    let mut link = Link::attach(&server, kind, &client.sid).await;
    answer_probe(&mut link).await;
    server.server.shutdown();
    is_closed(&mut link).await;
    server.end().await;
}

async fn a_session_that_did_not_begin_with_polling_stays_where_it_is(kind: TransportKind) {
    let server = TestServer::echo(engine()).await;
    for first in [WebSocket, WebTransport] {
        let mut client = server.connect(first).await;
        let mut link = Link::attach(&server, kind, &client.sid).await;
        is_closed(&mut link).await;
        client.echoes("unmoved").await;
    }
    server.end().await;
}

async fn upgrades_can_be_switched_off(kind: TransportKind) {
    let server = TestServer::echo(EngineConfig { allow_upgrades: false, ..engine() }).await;
    let mut client = server.connect(Polling).await;
    let mut link = Link::attach(&server, kind, &client.sid).await;
    is_closed(&mut link).await;
    client.echoes("unmoved").await;
    server.end().await;
}

/// engine.io server.ts `onWebTransportSession`: "invalid WebTransport handshake".
#[tokio::test]
async fn a_webtransport_stream_must_begin_with_open_or_a_known_sid() {
    let server = TestServer::echo(engine()).await;
    let unknown = "AAAAAAAAAAAAAAAAAAAA";
    for first in [
        r#"0{"sid":"__proto__"}"#.to_owned(),
        r#"0{"sid":"constructor"}"#.into(),
        format!(r#"0{{"sid":"{unknown}"}}"#),
        r#"0{"sid":1}"#.into(),
        "0{}".into(),
        "0null".into(),
        "0[".into(),
        "2probe".into(),
        "4hello".into(),
        "5".into(),
        "1".into(),
        "x".into(),
    ] {
        let mut link = WebTransportLink::connect(&server).await.unwrap();
        link.send(&first.as_str().into()).await.unwrap();
        let next = within("the end", link.next()).await;
        assert_eq!(next, None, "{first}");
        within("the session's end", link.connection.closed()).await;
    }
    let mut binary = WebTransportLink::connect(&server).await.unwrap();
    binary.send(&vec![b'0'].into()).await.unwrap();
    assert_eq!(within("the end", binary.next()).await, None);
    assert_eq!(server.server.session_count(), 0);
    server.end().await;
}

#[tokio::test]
async fn a_websocket_for_an_unknown_sid_is_refused() {
    let server = TestServer::echo(engine()).await;
    for sid in ["AAAAAAAAAAAAAAAAAAAA", "__proto__", "x"] {
        let target = TestServer::target(WebSocket, Some(sid));
        let answer = Request::websocket(target).send(server.address).await;
        assert_eq!(answer.summary(), (400, "Session ID unknown"));
    }
    server.end().await;
}

/// Node: "the client failed to establish a bidirectional stream in the given period".
#[tokio::test]
async fn a_silent_webtransport_session_is_closed_at_the_upgrade_timeout() {
    let server = TestServer::echo(hasty()).await;
    let target = format!("{PATH}?EIO=4&transport=webtransport");
    let begun = Instant::now();
    let without = WebTransportLink::session(&server, &target, &[]).await.unwrap();
    let with_silent_stream = WebTransportLink::connect(&server).await.unwrap();
    let mut with_half_a_packet = WebTransportLink::connect(&server).await.unwrap();
    with_half_a_packet.send.write_all(&[0x05, b'0']).await.unwrap();
    for connection in [&without, &with_silent_stream.connection, &with_half_a_packet.connection] {
        within("the session's end", connection.closed()).await;
    }
    let took = begun.elapsed();
    assert!(took >= HASTY - Duration::from_millis(10), "{took:?}");
    assert!(took < Duration::from_secs(5), "{took:?}");
    assert_eq!(server.server.session_count(), 0);
    server.end().await;
}

/// The link that a stock client tries first is one of several; the others must not cost the session.
#[tokio::test]
async fn the_session_moves_to_the_second_transport_when_the_first_one_fails() {
    let server = TestServer::echo(hasty()).await;
    let mut client = server.connect(Polling).await;
    let mut silent = Link::attach(&server, WebTransport, &client.sid).await;
    is_closed(&mut silent).await;
    upgrade(&server, &mut client, WebSocket).await;
    client.echoes("moved").await;
    drop(silent);
    server.end().await;
}

/// Upgrades of several sessions at once do not meet.
#[tokio::test]
async fn many_sessions_move_at_the_same_time() {
    let server = Arc::new(TestServer::echo(engine()).await);
    let moves = (0..40).map(|n| {
        let server = server.clone();
        async move {
            let kind = [WebSocket, WebTransport][n % 2];
            let mut client = server.connect(Polling).await;
            upgrade(&server, &mut client, kind).await;
            client.echoes(&format!("session {n}")).await;
            client.send("1").await;
        }
    });
    futures_util::future::join_all(moves).await;
    server.no_sessions_left().await;
    let server = Arc::into_inner(server).unwrap();
    assert_eq!(server.upgrades(WebSocket, "completed"), 20);
    assert_eq!(server.upgrades(WebTransport, "completed"), 20);
    server.end().await;
}

/// A WebSocket that asks for a session under the wrong name or version is turned away at the door.
#[tokio::test]
async fn an_upgrade_request_has_to_fit_its_session() {
    let server = TestServer::echo(engine()).await;
    let mut client = server.connect(Polling).await;
    for query in ["EIO=3&transport=websocket", "EIO=4&transport=polling"] {
        let target = format!("{PATH}?{query}&sid={}", client.sid);
        let refused = WebSocketLink::connect(server.address, &target, &[]).await;
        assert!(refused.is_err(), "{query}");
    }
    client.echoes("still polling").await;
    server.end().await;
}
