//! What waits for one peer, bounded in bytes. Every push has a verdict.

use std::collections::VecDeque;
use std::sync::Arc;

use super::Encoded;

/// What becomes of a client that reads more slowly than it is sent to.
///
/// Whatever is chosen, no client has more than `outbox_bytes` waiting: events that are not volatile end it
/// there as a slow consumer, and connection state recovery, if it is on, gives it what it has missed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum SlowReader {
    /// Volatile events are dropped while its connection takes nothing, as Socket.IO has it.
    #[default]
    DropVolatile,
    /// Up to so many volatile events of this namespace wait for it; the newest take the places of the oldest.
    /// For what only the last state of matters: positions, prices, presence.
    KeepNewestVolatile(usize),
    /// It is closed (`slow_consumer`) as soon as more than so many bytes of this namespace's events would wait
    /// for it, volatile ones among them. What recovery sends again does not count. For clients that had
    /// better know that they are behind.
    Disconnect(usize),
}

/// What became of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(crate) enum Verdict {
    /// It will be sent if the peer lives.
    Queued,
    /// The same, in the place of so many older ones that were volatile.
    QueuedFor(usize),
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
    /// `None`: dropped for a newer one.
    queue: VecDeque<Option<Arc<Encoded>>>,
    /// The number of the first one in the queue; they are counted from the beginning of the session.
    first: u64,
    /// The numbers of those that are volatile.
    volatile: VecDeque<u64>,
    /// Places in the queue with nothing in them.
    holes: usize,
    bytes: usize,
    /// Those of them that no [`SlowReader::Disconnect`] counts.
    exempt: usize,
    limit: usize,
    /// Did the link refuse to take more when it was last asked?
    stalled: bool,
    gate: Gate,
}

impl Outbox {
    /// `limit`: bytes that may wait. One message is taken into an empty queue whatever its size.
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            queue: VecDeque::new(),
            first: 0,
            volatile: VecDeque::new(),
            holes: 0,
            bytes: 0,
            exempt: 0,
            limit,
            stalled: false,
            gate: Gate::Open,
        }
    }

    pub(crate) fn push(
        &mut self,
        message: Arc<Encoded>,
        volatile: bool,
        slow: SlowReader,
    ) -> Verdict {
        if self.gate != Gate::Open {
            return Verdict::Closed;
        }
        let strict = match slow {
            SlowReader::Disconnect(bytes) => Some(bytes),
            SlowReader::DropVolatile | SlowReader::KeepNewestVolatile(_) => None,
        };
        let fits = |this: &Self| {
            let counted = this.bytes - this.exempt;
            let is_late =
                strict.is_some_and(|most| counted > 0 && counted + message.bytes() > most);
            this.is_empty() || !is_late && this.bytes + message.bytes() <= this.limit
        };
        let mut dropped = 0;
        match slow {
            // Socket.IO "volatile": not sent "if the underlying connection is not ready"
            SlowReader::DropVolatile | SlowReader::KeepNewestVolatile(0)
                if volatile && self.stalled =>
            {
                return Verdict::DroppedVolatile;
            }
            SlowReader::KeepNewestVolatile(most) if volatile && self.stalled => {
                while self.volatile.len() >= most || !fits(self) && !self.volatile.is_empty() {
                    self.drop_oldest_volatile();
                    dropped += 1;
                }
            }
            _ => {}
        }
        // what would be lost anyway makes room first
        while !volatile && strict.is_none() && !fits(self) && !self.volatile.is_empty() {
            self.drop_oldest_volatile();
            dropped += 1;
        }
        if !fits(self) {
            if volatile && strict.is_none() {
                return Verdict::DroppedVolatile;
            }
            self.shut();
            return Verdict::Overflow;
        }
        if volatile {
            self.volatile.push_back(self.first + self.queue.len() as u64);
        }
        self.bytes += message.bytes();
        if strict.is_none() {
            self.exempt += message.bytes();
        }
        self.queue.push_back(Some(message));
        if dropped == 0 { Verdict::Queued } else { Verdict::QueuedFor(dropped) }
    }

    fn drop_oldest_volatile(&mut self) {
        let Some(number) = self.volatile.pop_front() else { return };
        // a place of this queue, which is shorter than memory is large
        let place = (number - self.first) as usize;
        if let Some(message) = self.queue.get_mut(place).and_then(Option::take) {
            self.bytes -= message.bytes();
            self.exempt = self.exempt.min(self.bytes);
            self.holes += 1;
        }
        if self.holes > KEEP_SLOTS && self.holes > self.queue.len() / 2 {
            self.close_holes();
        }
    }

    /// Each hole is closed once, so that the work for one message is bounded on average.
    fn close_holes(&mut self) {
        let mut volatile = std::mem::take(&mut self.volatile).into_iter().peekable();
        let old = std::mem::take(&mut self.queue);
        for (number, message) in (self.first..).zip(old) {
            let was_volatile = volatile.next_if_eq(&number).is_some();
            if message.is_some() {
                if was_volatile {
                    self.volatile.push_back(self.first + self.queue.len() as u64);
                }
                self.queue.push_back(message);
            }
        }
        self.holes = 0;
    }

    /// `true`: there is more.
    pub(crate) fn take(&mut self, max_bytes: usize, batch: &mut Vec<Arc<Encoded>>) -> bool {
        let mut taken = 0;
        while taken < max_bytes {
            let Some(message) = self.pop() else {
                break;
            };
            taken += message.bytes();
            batch.push(message);
        }
        !self.is_empty()
    }

    /// Takes the first message out.
    pub(crate) fn pop(&mut self) -> Option<Arc<Encoded>> {
        let message = loop {
            let message = self.queue.pop_front()?;
            if self.volatile.front() == Some(&self.first) {
                self.volatile.pop_front();
            }
            self.first += 1;
            match message {
                Some(message) => break message,
                None => self.holes -= 1,
            }
        };
        self.bytes -= message.bytes();
        self.exempt = self.exempt.min(self.bytes);
        if self.queue.is_empty() && self.queue.capacity() > KEEP_SLOTS {
            self.queue = VecDeque::new(); // a burst must not cost an idle session memory
        }
        if self.volatile.is_empty() && self.volatile.capacity() > KEEP_SLOTS {
            self.volatile = VecDeque::new();
        }
        Some(message)
    }

    /// The messages in their order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<Encoded>> {
        self.queue.iter().flatten()
    }

    pub(crate) fn set_stalled(&mut self, stalled: bool) {
        self.stalled = stalled;
    }

    /// Bytes that wait.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Bytes that fit.
    pub(crate) fn room(&self) -> usize {
        self.limit.saturating_sub(self.bytes)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.queue.len() == self.holes
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
        self.volatile = VecDeque::new();
        self.holes = 0;
        (self.bytes, self.exempt) = (0, 0);
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
        assert_eq!(outbox.push(message(500), false, SlowReader::DropVolatile), Verdict::Queued);
        assert_eq!(outbox.push(message(500), false, SlowReader::DropVolatile), Verdict::Queued);
        assert_eq!(
            outbox.push(message(200), true, SlowReader::DropVolatile),
            Verdict::DroppedVolatile
        );
        assert_eq!(outbox.push(message(200), false, SlowReader::DropVolatile), Verdict::Overflow);
        assert_eq!(outbox.push(message(200), false, SlowReader::DropVolatile), Verdict::Closed);
        assert_eq!(take_all(&mut outbox), 0);
    }

    #[test]
    fn one_large_message_fits_into_an_empty_queue() {
        let mut outbox = Outbox::new(1_000);
        assert_eq!(outbox.push(message(5_000), false, SlowReader::DropVolatile), Verdict::Queued);
        assert_eq!(take_all(&mut outbox), 1);
        assert_eq!(outbox.push(message(5_000), false, SlowReader::DropVolatile), Verdict::Queued);
    }

    #[test]
    fn volatile_messages_are_dropped_while_the_link_is_stalled() {
        let mut outbox = Outbox::new(1_000);
        assert_eq!(outbox.push(message(300), true, SlowReader::DropVolatile), Verdict::Queued);
        outbox.set_stalled(true);
        assert_eq!(
            outbox.push(message(300), true, SlowReader::DropVolatile),
            Verdict::DroppedVolatile
        );
        assert_eq!(outbox.push(message(300), false, SlowReader::DropVolatile), Verdict::Queued);
        outbox.set_stalled(false);
        assert_eq!(outbox.push(message(300), true, SlowReader::DropVolatile), Verdict::Queued);
    }

    #[test]
    fn a_closing_outbox_gives_out_what_it_has() {
        let mut outbox = Outbox::new(1_000);
        assert_eq!(outbox.push(message(300), false, SlowReader::DropVolatile), Verdict::Queued);
        outbox.close();
        assert_eq!(outbox.push(message(300), false, SlowReader::DropVolatile), Verdict::Closed);
        assert_eq!(take_all(&mut outbox), 1);
    }

    /// Sizes of what is taken out.
    fn sizes(outbox: &mut Outbox) -> Vec<usize> {
        let mut batch = Vec::new();
        assert!(!outbox.take(usize::MAX, &mut batch));
        assert_eq!(outbox.bytes(), 0);
        batch.iter().map(|message| message.bytes()).collect()
    }

    #[test]
    fn the_newest_volatile_messages_take_the_places_of_the_oldest() {
        let slow = SlowReader::KeepNewestVolatile(2);
        let mut outbox = Outbox::new(10_000);
        assert_eq!(outbox.push(message(300), true, slow), Verdict::Queued);
        outbox.set_stalled(true);
        assert_eq!(outbox.push(message(301), false, slow), Verdict::Queued);
        assert_eq!(outbox.push(message(302), true, slow), Verdict::Queued);
        assert_eq!(outbox.push(message(303), true, slow), Verdict::QueuedFor(1));
        assert_eq!(outbox.push(message(304), true, slow), Verdict::QueuedFor(1));
        assert_eq!(outbox.bytes(), 301 + 303 + 304);
        assert_eq!(sizes(&mut outbox), [301, 303, 304], "in order");
        for round in 0..10_000 {
            let verdict = outbox.push(message(300 + round % 7), true, slow);
            assert_ne!(verdict, Verdict::DroppedVolatile);
            assert!(outbox.queue.len() <= 2 * KEEP_SLOTS + 2, "{} places", outbox.queue.len());
        }
        assert_eq!(sizes(&mut outbox), [300 + 9_998 % 7, 300 + 9_999 % 7]);
        assert!(outbox.is_empty());
    }

    #[test]
    fn what_may_be_lost_makes_room_for_what_may_not() {
        let slow = SlowReader::KeepNewestVolatile(9);
        let mut outbox = Outbox::new(1_000);
        assert_eq!(outbox.push(message(300), true, slow), Verdict::Queued);
        assert_eq!(outbox.push(message(301), false, slow), Verdict::Queued);
        assert_eq!(outbox.push(message(302), true, slow), Verdict::Queued);
        assert_eq!(outbox.push(message(400), false, slow), Verdict::QueuedFor(2));
        assert_eq!(outbox.push(message(300), false, slow), Verdict::Overflow);
        assert_eq!(outbox.bytes(), 0);
    }

    #[test]
    fn a_strict_namespace_gives_a_client_up_earlier_and_drops_nothing_before() {
        let slow = SlowReader::Disconnect(700);
        let mut outbox = Outbox::new(10_000);
        outbox.set_stalled(true);
        assert_eq!(outbox.push(message(300), true, slow), Verdict::Queued);
        assert_eq!(outbox.push(message(400), false, slow), Verdict::Queued);
        let mut other = Outbox::new(10_000);
        assert_eq!(other.push(message(701), false, slow), Verdict::Queued, "one is always taken");
        assert_eq!(other.push(message(200), true, slow), Verdict::Overflow);
        // what recovery sends again is no sign of slowness
        let mut back = Outbox::new(10_000);
        assert_eq!(back.push(message(5_000), false, SlowReader::default()), Verdict::Queued);
        assert_eq!(back.push(message(600), false, slow), Verdict::Queued);
        assert_eq!(back.push(message(200), false, slow), Verdict::Overflow);
    }
}
