//! Writing to a peer past its session's task.

use std::io::{self, IoSlice};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use bytes::Bytes;
use tokio::net::tcp::OwnedWriteHalf;

use crate::engine::TransportKind;
use crate::fanout::{Encoded, Line, MAX_MESSAGES};
use crate::metrics::Metrics;
use crate::transport::webtransport::Outlet;
use crate::transport::{Link, Shared};

/// What others may write to while nothing is queued in the link; `None`: its frames are the session's task's
/// to write.
pub(super) fn line(link: &Link, metrics: &Arc<Metrics>) -> Option<Arc<dyn Line>> {
    let metrics = metrics.clone();
    Some(match link.shared()? {
        Shared::Tcp(io) => Arc::new(Tcp { io: io.clone(), metrics }),
        Shared::Quic(outlet) => Arc::new(Quic { outlet: outlet.clone(), metrics }),
    })
}

/// The TCP connection of a WebSocket without TLS and deflate.
#[derive(Debug)]
struct Tcp {
    io: Arc<OwnedWriteHalf>,
    metrics: Arc<Metrics>,
}

impl Line for Tcp {
    fn framed<'a>(&self, message: &'a Encoded) -> &'a Bytes {
        message.websocket()
    }

    fn try_write(&self, messages: &[&Bytes]) -> io::Result<usize> {
        // the system takes one buffer for less than a list of one
        if let [one] = messages {
            return self.io.try_write(one);
        }
        let mut slices = [IoSlice::new(&[]); MAX_MESSAGES];
        for (slice, message) in slices.iter_mut().zip(messages) {
            *slice = IoSlice::new(message);
        }
        self.io.try_write_vectored(&slices[..messages.len().min(MAX_MESSAGES)])
    }

    fn sent(&self, packets: usize, bytes: usize) {
        self.metrics.sent(TransportKind::WebSocket, packets, bytes);
    }
}

/// The stream of a WebTransport session.
#[derive(Debug)]
struct Quic {
    outlet: Arc<Outlet>,
    metrics: Arc<Metrics>,
}

impl Line for Quic {
    fn framed<'a>(&self, message: &'a Encoded) -> &'a Bytes {
        message.length_prefixed()
    }

    fn try_write(&self, messages: &[&Bytes]) -> io::Result<usize> {
        let write = || match messages {
            [one] => self.outlet.try_write(&mut [(*one).clone()]),
            several => {
                let mut several: Vec<Bytes> = several.iter().map(|one| (*one).clone()).collect();
                self.outlet.try_write(&mut several)
            }
        };
        // A panic in QUIC's own code is its session's, whose task meets it again, and not that of somebody who
        // has written to a hundred others, too. (QUIC's lock is poisoned then, which its destructors do not forgive.)
        catch_unwind(AssertUnwindSafe(write))
            .unwrap_or_else(|_| Err(io::ErrorKind::WouldBlock.into()))
    }

    fn sent(&self, packets: usize, bytes: usize) {
        self.metrics.sent(TransportKind::WebTransport, packets, bytes);
    }
}
