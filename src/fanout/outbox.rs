//! What waits for one peer, bounded in bytes. Every push has a verdict.

use std::collections::VecDeque;
use std::sync::Arc;

use super::Encoded;

/// What became of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(crate) enum Verdict {
    /// It will be sent if the peer lives.
    Queued,
    /// It was volatile, and the link takes nothing right now.
    DroppedVolatile,
    /// It did not fit: the peer reads too slowly and is given up. The queue was dropped.
    Overflow,
    /// The session is closing.
    Closed,
}

#[derive(Debug, PartialEq, Eq)]
enum Gate {
    Open,
    /// Nothing new, but what is queued goes out.
    Closing,
    Shut,
}

#[derive(Debug)]
pub(crate) struct Outbox {
    queue: VecDeque<Arc<Encoded>>,
    bytes: usize,
    limit: usize,
    /// Did the link refuse to take more when it was last asked?
    stalled: bool,
    gate: Gate,
}

impl Outbox {
    /// `limit`: bytes that may wait. One message is taken into an empty queue whatever its size.
    pub(crate) fn new(limit: usize) -> Self {
        Self { queue: VecDeque::new(), bytes: 0, limit, stalled: false, gate: Gate::Open }
    }

    pub(crate) fn push(&mut self, message: Arc<Encoded>, volatile: bool) -> Verdict {
        if self.gate != Gate::Open {
            return Verdict::Closed;
        }
        // Socket.IO "volatile": not sent "if the underlying connection is not ready"
        if volatile && self.stalled {
            return Verdict::DroppedVolatile;
        }
        if !self.queue.is_empty() && self.bytes + message.bytes() > self.limit {
            if volatile {
                return Verdict::DroppedVolatile;
            }
            self.shut();
            return Verdict::Overflow;
        }
        self.bytes += message.bytes();
        self.queue.push_back(message);
        Verdict::Queued
    }

    /// `true`: there is more.
    pub(crate) fn take(&mut self, max_bytes: usize, batch: &mut Vec<Arc<Encoded>>) -> bool {
        let mut taken = 0;
        while taken < max_bytes {
            let Some(message) = self.queue.pop_front() else {
                break;
            };
            taken += message.bytes();
            self.bytes -= message.bytes();
            batch.push(message);
        }
        if self.queue.is_empty() && self.queue.capacity() > KEEP_SLOTS {
            self.queue = VecDeque::new(); // a burst must not cost an idle session memory
        }
        !self.queue.is_empty()
    }

    pub(crate) fn set_stalled(&mut self, stalled: bool) {
        self.stalled = stalled;
    }

    /// Bytes that wait.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Takes nothing new; what is queued can still be taken out.
    pub(crate) fn close(&mut self) {
        if self.gate == Gate::Open {
            self.gate = Gate::Closing;
        }
    }

    /// Forgets everything.
    pub(crate) fn shut(&mut self) {
        self.gate = Gate::Shut;
        self.queue = VecDeque::new();
        self.bytes = 0;
    }
}

/// Slots that an empty queue may keep.
const KEEP_SLOTS: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::packet::Frame;

    fn message(bytes: usize) -> Arc<Encoded> {
        let overhead = size_of::<Encoded>();
        let message = Encoded::new(vec![Frame::Binary(vec![0; bytes - overhead].into())], true);
        assert_eq!(message.bytes(), bytes);
        Arc::new(message)
    }

    fn take_all(outbox: &mut Outbox) -> usize {
        let mut batch = Vec::new();
        outbox.take(usize::MAX, &mut batch);
        batch.len()
    }

    #[test]
    fn the_bound_holds_to_the_byte() {
        let mut outbox = Outbox::new(1_000);
        assert_eq!(outbox.push(message(500), false), Verdict::Queued);
        assert_eq!(outbox.push(message(500), false), Verdict::Queued);
        assert_eq!(outbox.push(message(200), true), Verdict::DroppedVolatile);
        assert_eq!(outbox.push(message(200), false), Verdict::Overflow);
        assert_eq!(outbox.push(message(200), false), Verdict::Closed);
        assert_eq!(take_all(&mut outbox), 0);
    }

    #[test]
    fn one_large_message_fits_into_an_empty_queue() {
        let mut outbox = Outbox::new(1_000);
        assert_eq!(outbox.push(message(5_000), false), Verdict::Queued);
        assert_eq!(take_all(&mut outbox), 1);
        assert_eq!(outbox.push(message(5_000), false), Verdict::Queued);
    }

    #[test]
    fn volatile_messages_are_dropped_while_the_link_is_stalled() {
        let mut outbox = Outbox::new(1_000);
        assert_eq!(outbox.push(message(300), true), Verdict::Queued);
        outbox.set_stalled(true);
        assert_eq!(outbox.push(message(300), true), Verdict::DroppedVolatile);
        assert_eq!(outbox.push(message(300), false), Verdict::Queued);
        outbox.set_stalled(false);
        assert_eq!(outbox.push(message(300), true), Verdict::Queued);
    }

    #[test]
    fn a_closing_outbox_gives_out_what_it_has() {
        let mut outbox = Outbox::new(1_000);
        assert_eq!(outbox.push(message(300), false), Verdict::Queued);
        outbox.close();
        assert_eq!(outbox.push(message(300), false), Verdict::Closed);
        assert_eq!(take_all(&mut outbox), 1);
    }
}
