//! What the tests of Engine.IO share: a server on a free port, and clients that speak byte by byte.
//!
//! `server` starts and ends the server, `client` is one Engine.IO client over any transport, `http` is
//! HTTP/1.1 by hand. Whatever is awaited here has a deadline, and a test that meets it says what it
//! waited for.

#![allow(
    dead_code,
    unused_imports,
    unused_macros,
    reason = "each test binary uses its own part of this"
)]
#![allow(clippy::unwrap_used, reason = "in a test that is how to fail")]

pub(crate) mod client;
pub(crate) mod http;
pub(crate) mod server;
pub(crate) mod socketio;

use std::future::Future;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;

pub(crate) use self::client::{Client, Frame};
pub(crate) use self::server::{TestServer, engine};

/// Far above what anything here takes: only a hang meets it.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

/// Awaits, but not for ever.
pub(crate) async fn within<F: Future>(what: &str, future: F) -> F::Output {
    match tokio::time::timeout(DEADLINE, future).await {
        Ok(output) => output,
        Err(_) => panic!("waited too long for {what}"),
    }
}

/// For what nobody announces: asks until it is so.
pub(crate) async fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    within(what, async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
}

/// An admission that takes its time, until it is let go.
#[derive(Clone)]
pub(crate) struct Gate {
    open: Arc<Semaphore>,
    asked: Arc<Semaphore>,
}

impl Gate {
    pub(crate) fn new() -> Self {
        Self { open: Arc::new(Semaphore::new(0)), asked: Arc::new(Semaphore::new(0)) }
    }

    /// For the hook.
    pub(crate) async fn pass(self) {
        self.asked.add_permits(1);
        drop(self.open.acquire().await.unwrap());
    }

    /// Somebody waits at it.
    pub(crate) async fn asked(&self) {
        drop(within("the hook to be asked", self.asked.acquire()).await.unwrap());
    }

    pub(crate) fn open(&self) {
        self.open.add_permits(1);
    }
}

/// Below those that the system gives to connections: else one of them could have it a moment later.
pub(crate) fn free_port() -> u16 {
    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap();
    let end: u16 = range.split_whitespace().next().unwrap().parse().unwrap();
    loop {
        // the hasher's keys are random
        let random = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), 0_u8);
        let port = 10_000 + (random % u64::from(end - 10_000)) as u16;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
}

/// Makes a test of each function, for each transport.
macro_rules! on_every_transport {
    ($($promise:ident),+ $(,)?) => {
        on_every_transport!(@ over_polling Polling $($promise)+);
        on_every_transport!(@ over_websocket WebSocket $($promise)+);
        on_every_transport!(@ over_webtransport WebTransport $($promise)+);
    };
    (@ $module:ident $kind:ident $($promise:ident)+) => {
        mod $module {
            $(
                #[tokio::test]
                async fn $promise() {
                    super::$promise(quicket::TransportKind::$kind).await;
                }
            )+
        }
    };
}
pub(crate) use on_every_transport;
