//! Peers that do not read, applications that do not listen.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use quicket::TransportKind::{self, Polling};
use quicket::config::{Config, EngineConfig, LimitsConfig};
use quicket::{CloseReason, EmitError, EngineServer, EngineSocket, Message};
use tokio::sync::Semaphore;

use super::support::client::Link;
use super::support::http::Request;
use super::support::server::config as server_config;
use super::support::{Frame, TestServer, engine, eventually, on_every_transport, within};

on_every_transport!(
    a_peer_that_does_not_read_is_given_up_at_the_bound,
    a_peer_that_reads_slowly_gets_everything,
    an_application_that_does_not_listen_makes_the_server_stop_reading,
    an_application_that_never_listens_loses_the_session,
);

const OUTBOX: usize = 256 * 1024;
/// What sockets and streams may hold beyond our own queue: the system's send buffer (4 MiB at most), the
/// peer's receive buffer, QUIC's windows, what links write ahead.
const IN_FLIGHT: usize = 48 << 20;

/// Sends until it is told that the peer is too slow.
async fn flood(mut session: EngineSocket, taken: Arc<AtomicUsize>) -> Option<CloseReason> {
    let message = "x".repeat(10_000);
    loop {
        match session.send(message.as_str()) {
            Ok(()) => taken.fetch_add(message.len(), Ordering::Relaxed),
            Err(EmitError::OutboxFull) => break,
            Err(error) => panic!("{error}"),
        };
        // the session's task gets its turn to write
        tokio::task::yield_now().await;
    }
    assert!(matches!(session.send("more"), Err(EmitError::Disconnected)));
    session.recv().await.err()
}

const WAITING: &str = "quicket_outbox_bytes";

/// Remembers the most that has waited.
async fn look(server: EngineServer, most: Arc<AtomicU64>) {
    loop {
        let metrics = server.metrics().render();
        let waiting =
            metrics.lines().find_map(|line| line.strip_prefix(WAITING)?.strip_prefix(' '));
        most.fetch_max(waiting.unwrap().parse().unwrap(), Ordering::Relaxed);
        // it is not to hold up the flood
        for _ in 0..8 {
            tokio::task::yield_now().await;
        }
    }
}

async fn a_peer_that_does_not_read_is_given_up_at_the_bound(kind: TransportKind) {
    let taken = Arc::new(AtomicUsize::new(0));
    let count = taken.clone();
    let config = EngineConfig { outbox_bytes: OUTBOX, ..engine() };
    let app = move |session| flood(session, count.clone());
    let mut server = TestServer::start(config, app, |builder| builder).await;
    let most_waiting = Arc::new(AtomicU64::new(0));
    let looking = tokio::spawn(look(server.server.clone(), most_waiting.clone()));
    let client = server.connect(kind).await;
    assert_eq!(server.session_end().await, CloseReason::SlowConsumer);
    looking.abort();
    let taken = taken.load(Ordering::Relaxed);
    // a poll carries what is there when it comes, and the first one may have taken something along
    let bound = match kind {
        Polling => OUTBOX,
        _ => OUTBOX + IN_FLIGHT,
    };
    assert!(taken <= bound, "{taken} bytes were taken");
    assert!(taken >= OUTBOX / 2, "{taken} bytes are no flood");
    assert_eq!(server.ended(CloseReason::SlowConsumer), 1);
    assert_eq!(server.metric("quicket_outbox_overflows_total"), 1);
    // the peer that does not read is still connected
    server.no_sessions_left().await;
    let most_waiting = most_waiting.load(Ordering::Relaxed);
    assert!((1..=OUTBOX as u64).contains(&most_waiting), "{most_waiting} bytes waited");
    assert_eq!(server.metric(WAITING), 0, "nothing waits for who is gone");
    drop(client);
    server.end().await;
}

/// Sends so much that it does not fit anywhere at once, as the client asks for it.
async fn a_peer_that_reads_slowly_gets_everything(kind: TransportKind) {
    const MESSAGES: usize = 300;
    let config = EngineConfig { outbox_bytes: 4 << 20, ..engine() };
    let app = |mut session: EngineSocket| async move {
        while session.recv().await.is_ok() {
            for n in 0..MESSAGES {
                session.send(format!("{n}:{}", "x".repeat(10_000))).unwrap();
            }
        }
        None
    };
    let server = TestServer::start(config, app, |builder| builder).await;
    let mut client = server.connect(kind).await;
    client.send("4go").await;
    for n in 0..MESSAGES {
        let Frame::Text(text) = client.recv().await else {
            panic!("binary");
        };
        let (number, padding) = text[1..].split_once(':').unwrap();
        assert_eq!((number, padding.len()), (n.to_string().as_str(), 10_000));
        if n % 100 == 0 {
            // slow enough for the server to run into what the network takes
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
    }
    client.send("1").await;
    server.end().await;
}

/// Messages of 10 kB, so many that they fit neither into the inbox (1 MiB) nor between the two ends.
fn many(kind: TransportKind) -> usize {
    if kind == Polling { 150 } else { 1_000 }
}

/// Sends them all, as far as the server takes them; counts what it took.
async fn pour(mut link: Link, messages: usize, taken: Arc<AtomicUsize>) -> Link {
    for n in 0..messages {
        let frame = Frame::from(format!("4{n}:{}", "x".repeat(10_000)));
        assert!(link.send(frame).await, "the session is gone at {n}");
        taken.store(n + 1, Ordering::Relaxed);
    }
    link
}

async fn an_application_that_does_not_listen_makes_the_server_stop_reading(kind: TransportKind) {
    let (gate, heard) = (Arc::new(Semaphore::new(0)), Arc::new(AtomicUsize::new(0)));
    let (opened, count) = (gate.clone(), heard.clone());
    let app = move |mut session: EngineSocket| {
        let (gate, heard) = (opened.clone(), count.clone());
        async move {
            gate.acquire().await.unwrap().forget();
            loop {
                match session.recv().await {
                    Ok(Message::Text(text)) => {
                        let n = heard.fetch_add(1, Ordering::Relaxed);
                        assert!(text.starts_with(&format!("{n}:")), "out of order at {n}");
                    }
                    Ok(Message::Binary(_)) => panic!("binary"),
                    Err(reason) => return Some(reason),
                }
            }
        }
    };
    let (interval, timeout) = (Duration::from_secs(3), Duration::from_secs(2));
    let config = EngineConfig { ping_interval: interval, ping_timeout: timeout, ..engine() };
    // it is the application that is to hold up the client
    let limits = LimitsConfig { byte_rate: None, ..LimitsConfig::default() };
    let unpaced = Config { limits, ..server_config(config.clone()) };
    let mut server = TestServer::start(config, app, |builder| builder.config(unpaced)).await;
    let mut client = server.connect(kind).await;
    let sid = client.sid.clone();
    assert_eq!(client.recv().await, "2".into());
    let taken = Arc::new(AtomicUsize::new(0));
    let pouring = tokio::spawn(pour(client.link, many(kind), taken.clone()));
    // longer than a pong may take: it could not be seen, and that is not the peer's fault
    tokio::time::sleep(timeout * 3 / 2).await;
    let stuck = taken.load(Ordering::Relaxed);
    assert!(stuck < many(kind), "the server goes on reading");
    assert_eq!(server.server.session_count(), 1, "the session was killed");
    assert_eq!(heard.load(Ordering::Relaxed), 0);
    gate.add_permits(1);
    let mut link = within("all messages to be taken", pouring).await.unwrap();
    eventually("all messages to be heard", || heard.load(Ordering::Relaxed) == many(kind)).await;
    // the pong comes late, and in time
    match kind {
        Polling => {
            let target = TestServer::target(kind, Some(&sid));
            let pong = Request::post(target, "3").send(server.address).await;
            assert_eq!(pong.text(), "ok");
        }
        _ => assert!(link.send("3").await),
    }
    assert_eq!(within("the next ping", link.next()).await, Some("2".into()));
    assert!(link.send("1").await);
    assert_eq!(server.session_end().await, CloseReason::TransportClose);
    server.end().await;
}

/// While nobody reads, not even the peer's end can be seen: that must not last for ever.
async fn an_application_that_never_listens_loses_the_session(kind: TransportKind) {
    let app = |session: EngineSocket| async move {
        std::future::pending::<()>().await;
        drop(session);
        None
    };
    let config = EngineConfig {
        ping_interval: Duration::from_millis(800),
        ping_timeout: Duration::from_millis(800),
        ..engine()
    };
    let server = TestServer::start(config, app, |builder| builder).await;
    let mut client = server.connect(kind).await;
    let pouring = tokio::spawn(async move {
        let large = Frame::from(format!("4{}", "x".repeat(300_000)));
        while client.try_send(&large).await {}
    });
    let ended = || server.ended(CloseReason::HandlersStuck) == 1;
    eventually("the session to be given up", ended).await;
    within("the client to notice", pouring).await.unwrap();
    server.no_sessions_left().await;
    server.end().await;
}
