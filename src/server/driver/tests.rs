//! The task without a network, in virtual time.

use std::future::poll_fn;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::SystemTime;

use super::*;
use crate::config::LimitsConfig;
use crate::engine::handshake::Handshake;
use crate::engine::session::SessionTimes;
use crate::engine::{NodeTag, Sid, TransportKind};
use crate::server::raw::EngineSocket;
use crate::transport::Polling;

const HOUR: Duration = Duration::from_secs(3_600);

/// A session by polling of which no timer of its own comes into the way.
fn session() -> (Driver, EngineSocket) {
    let times = SessionTimes {
        ping_interval: HOUR,
        ping_timeout: HOUR,
        upgrade_timeout: HOUR,
        close_timeout: HOUR,
    };
    let kind = TransportKind::Polling;
    let sid = Sid::new([1; 16], NodeTag::new([2; 4]));
    let session = Session::open(now(), sid, kind, true, Arc::new(times));
    let handle = Arc::new(SessionHandle::new(sid, kind, 1_000));
    let peer = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
    let handshake = Handshake {
        transport: kind.name(),
        url: "/".to_owned(),
        query: Vec::new(),
        headers: http::HeaderMap::new(),
        peer,
        address: peer.ip(),
        secure: false,
        issued: SystemTime::now(),
        shown: OnceLock::new(),
    };
    let (socket, raw) = EngineSocket::new(handle.clone(), Arc::new(handshake));
    let link = Link::Polling(Box::<Polling>::default());
    let open = Packet::Open("{}".into());
    let (registry, metrics) = (Arc::default(), Arc::new(Metrics::new("0")));
    let driver = Driver::new(session, link, &open, Upper::Raw(raw), handle, registry, metrics);
    (driver, socket)
}

/// Runs it; gives how often it was polled.
fn run(mut driver: Driver) -> Arc<AtomicUsize> {
    let polls = Arc::new(AtomicUsize::new(0));
    let count = polls.clone();
    tokio::spawn(poll_fn(move |cx| {
        count.fetch_add(1, Relaxed);
        Pin::new(&mut driver).poll(cx)
    }));
    polls
}

/// Gives the task a hundred turns, if it wants them.
async fn turns() {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}

/// Its client is read too fast for its rate, and then `not_read` for another reason.
async fn sleeps_after_a_pause(not_read: fn(&mut Driver)) {
    let (mut driver, socket) = session();
    let limits =
        LimitsConfig { packet_rate: None, byte_rate: Some(1_000), ..LimitsConfig::default() };
    driver.allowance = Allowance::new(&limits, now());
    driver.pay(now(), 1, 1_000);
    let pause = driver.allowance.poll_timeout().unwrap() - now();
    not_read(&mut driver);
    let polls = run(driver);
    turns().await;
    let before = polls.load(Relaxed);
    assert!(before <= 5, "polled {before} times during the pause");
    tokio::time::advance(2 * pause).await;
    turns().await;
    let after = polls.load(Relaxed) - before;
    assert!((1..=5).contains(&after), "polled {after} times when the pause was over");
    drop(socket);
}

#[tokio::test(start_paused = true)]
async fn a_pause_that_ends_while_the_session_closes_is_over() {
    sleeps_after_a_pause(|driver| driver.session.close(now(), CloseReason::ForcedClose)).await;
}

#[tokio::test(start_paused = true)]
async fn a_pause_that_ends_while_the_inbox_is_full_is_over() {
    sleeps_after_a_pause(|driver| {
        while driver.upper.may_read() {
            driver.upper.handle_message(now(), "x".into()).unwrap();
        }
    })
    .await;
}
