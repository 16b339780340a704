//! Writing to a WebSocket past its session's task.

use std::io::{self, IoSlice};
use std::sync::Arc;

use tokio::net::tcp::OwnedWriteHalf;

use crate::engine::TransportKind;
use crate::fanout::Line;
use crate::metrics::Metrics;

/// The TCP connection of a WebSocket without TLS and deflate.
#[derive(Debug)]
pub(super) struct Direct {
    pub(super) io: Arc<OwnedWriteHalf>,
    pub(super) metrics: Arc<Metrics>,
}

impl Line for Direct {
    fn try_write(&self, frames: &[IoSlice<'_>]) -> io::Result<usize> {
        match frames {
            // the system takes one buffer for less than a list of one
            [one] => self.io.try_write(one),
            several => self.io.try_write_vectored(several),
        }
    }

    fn sent(&self, packets: usize, bytes: usize) {
        let kind = TransportKind::WebSocket;
        self.metrics.packets_sent[kind].inc_by(packets as u64);
        self.metrics.bytes_sent[kind].inc_by(bytes as u64);
    }
}
