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
use std::time::Duration;

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
