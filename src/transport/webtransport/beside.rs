//! What a peer sends beside its session's stream: streams that nobody wants, frames that say nothing here, and what
//! is read over on streams that have to be open.
//!
//! It costs as much to read as packets do, so it is charged like them, and a peer that sends much of it is read
//! from more slowly. There is no number of such things above which a peer is thrown out: how many a browser
//! sends ("grease", flow control of later drafts) is not ours to say.

use std::future::poll_fn;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;

/// Streams and frames that are read before somebody has asked for their number, and bytes.
const MOST: u64 = 64;
/// What a stream counts, which is what it costs: it is refused and reset, and there is credit for another one, each in
/// packets of its own, some 24 µs where a packet of Engine.IO takes 3.
const STREAM: u64 = 8;
const MOST_BYTES: u64 = 64 * 1024;

/// Counts until it is asked.
#[derive(Debug, Default)]
pub(super) struct Beside {
    /// Streams (each as [`STREAM`]) and frames in the upper half, bytes in the lower.
    counted: AtomicU64,
}

fn halves(counted: u64) -> (u64, u64) {
    (counted >> 32, counted & u64::from(u32::MAX))
}

fn is_full(counted: u64) -> bool {
    let (things, bytes) = halves(counted);
    things >= MOST || bytes >= MOST_BYTES
}

impl Beside {
    /// A stream has come. Ready when more may be read.
    pub(super) async fn stream(&self) {
        self.count(STREAM << 32).await;
    }

    /// The head of a frame has come, likewise.
    pub(super) async fn thing(&self) {
        self.count(1 << 32).await;
    }

    /// Bytes likewise, a chunk at most.
    pub(super) async fn bytes(&self, bytes: usize) {
        self.count(bytes as u64).await;
    }

    /// Keeps no waker: who takes the numbers has all polled who count.
    async fn count(&self, more: u64) {
        self.counted.fetch_add(more, Ordering::Relaxed);
        poll_fn(|_| match is_full(self.counted.load(Ordering::Relaxed)) {
            true => Poll::Pending,
            false => Poll::Ready(()),
        })
        .await;
    }

    /// Streams and frames, and bytes, since the last call; calls `go_on` if somebody may wait for that.
    pub(super) fn take(&self, go_on: impl FnOnce()) -> (usize, usize) {
        if self.counted.load(Ordering::Relaxed) == 0 {
            return (0, 0);
        }
        let counted = self.counted.swap(0, Ordering::Relaxed);
        if is_full(counted) {
            go_on();
        }
        let (things, bytes) = halves(counted);
        (things as usize, bytes as usize)
    }
}
