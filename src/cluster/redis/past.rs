//! What one stream has delivered on this node: where it stands, and what it remembers of it.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;

use super::watched::Watched;
use crate::cluster::history::{Early, Gap, Offset, Origin, Past, Tail, TailLimits, note_early};
use crate::cluster::message::Message;
use crate::cluster::wire::{Entry, StreamId};
use crate::engine::packet::Str;

/// What begins a uid of ours: the node. (The rest is the namespace.)
pub(super) const NODE_CHARS: usize = 16;
const UID_CHARS: usize = 32;

/// Written under the stream's delivery lock only; read by anyone.
pub(super) struct Delivered {
    mark: Arc<Watched<Offset>>,
    tail: Mutex<Option<Tail>>,
    early: Mutex<Vec<Early>>,
    gap: Mutex<Gap>,
    /// The number of the last own message.
    own: Arc<Watched<u64>>,
}

impl Delivered {
    /// `history`: what to remember for recovery.
    pub(super) fn new(history: Option<TailLimits>) -> Self {
        Self {
            mark: Arc::new(Watched::new(Offset::default())),
            tail: Mutex::new(history.map(Tail::new)),
            early: Mutex::default(),
            gap: Mutex::default(),
            own: Arc::new(Watched::new(0)),
        }
    }

    pub(super) fn mark(&self) -> Offset {
        self.mark.value()
    }

    /// What was up to here may have been missed.
    pub(super) fn gap(&self) -> Gap {
        *self.gap.lock()
    }

    /// See [`crate::cluster::Log::delivered`].
    pub(super) fn own(&self, number: u64) -> Option<BoxFuture<'static, ()>> {
        let own = self.own.clone();
        let is_on_its_way = own.value() < number;
        let wait = async move {
            own.wait_for(|own| *own >= number).await;
        };
        is_on_its_way.then(|| wait.boxed())
    }

    /// An own message was delivered.
    pub(super) fn note_own(&self, number: u64) {
        self.own.set(number.max(self.own.value()));
    }

    pub(super) fn remembers(&self) -> bool {
        self.tail.lock().is_some()
    }

    pub(super) fn oldest(&self) -> StreamId {
        self.tail.lock().as_ref().map_or_else(StreamId::default, Tail::start)
    }

    pub(super) fn past(&self, after: StreamId, nsp: &str) -> Option<Vec<Arc<Past>>> {
        self.tail.lock().as_ref()?.behind(after, nsp)
    }

    pub(super) fn early(&self) -> Vec<Early> {
        self.early.lock().clone()
    }

    pub(super) fn reached(&self, id: StreamId) -> impl Future<Output = ()> + Send + 'static {
        let mark = self.mark.clone();
        async move {
            mark.wait_for(|mark| mark.id >= id).await;
        }
    }

    /// An entry was delivered. One that goes back (a failover) is not remembered: see [`Self::restart`].
    pub(super) fn entry(&self, offset: Offset, past: Option<Past>) {
        if offset.id <= self.mark().id {
            return;
        }
        if let (Some(tail), Some(past)) = (&mut *self.tail.lock(), past) {
            tail.push(past);
        }
        self.mark.set(offset);
    }

    /// An own message is delivered ahead of the stream. Gives the offset that it is sent with.
    pub(super) fn ahead(&self, node: &Str, number: u64) -> Offset {
        let offset = Offset { id: self.mark().id, early: number };
        note_early(&mut self.early.lock(), node, offset);
        offset
    }

    /// It was delivered.
    pub(super) fn went_ahead(&self, offset: Offset) {
        self.mark.set(offset);
    }

    /// Delivering begins behind `id`.
    pub(super) fn begin(&self, id: StreamId) {
        self.mark.set(id.into());
    }

    /// What was before `id` is lost or in doubt: nobody is recovered over it. `early`: the last message that was
    /// delivered ahead of the stream and is not in it yet.
    pub(super) fn restart(&self, id: StreamId, early: u64) {
        // What was delivered behind `id` is gone, and its ids mean nothing any more: who holds one of them would
        // seem to have got what is delivered ahead of the log now.
        let last = self.mark().id;
        let start = if id < last { last.after() } else { id };
        if let Some(tail) = &mut *self.tail.lock() {
            tail.restart(start);
        }
        // before the mark: who has seen that knows of this
        {
            let mut gap = self.gap.lock();
            let void = if id < last { start } else { gap.void };
            *gap = Gap { up_to: start, void };
        }
        self.mark.set(Offset { id, early });
    }

    /// What was in the stream when the node started is to be told. `start`: nothing is missing behind it.
    pub(super) fn fill(&self, start: StreamId) -> Filling<'_> {
        if let Some(tail) = &mut *self.tail.lock() {
            tail.restart(start);
        }
        Filling { delivered: self, numbers: HashMap::new() }
    }
}

/// See [`Delivered::fill`].
pub(super) struct Filling<'a> {
    delivered: &'a Delivered,
    /// What a node has stored twice counts once, as for those who read it at the time.
    numbers: HashMap<Str, u64>,
}

impl Filling<'_> {
    /// All was told but what the stream has lost meanwhile, which was up to `lost`.
    pub(super) fn end(self, lost: StreamId) {
        if let Some(tail) = &mut *self.delivered.tail.lock() {
            tail.forget(lost);
        }
    }

    /// The next entry.
    pub(super) fn add(&mut self, id: StreamId, fields: RawFields) {
        let origin = fields.origin();
        if let Some(Origin { node, number }) = &origin {
            let last = self.numbers.entry(node.clone()).or_default();
            if *number <= *last {
                return;
            }
            *last = *number;
        }
        let bytes = fields.footprint();
        if let Some(tail) = &mut *self.delivered.tail.lock()
            && let Ok(Some(entry)) = Entry::parse(fields.0)
            && let Some(past) = remembered(id, origin, &entry, bytes)
        {
            tail.push(past);
        }
    }
}

/// An entry as it stands in a stream.
#[derive(Clone)]
pub(super) struct RawFields(pub(super) Vec<(Bytes, Bytes)>);

impl RawFields {
    /// The last field of this name, if it is text.
    pub(super) fn text(&self, name: &str) -> Option<&str> {
        let mut fields = self.0.iter().rev();
        let (_, value) = fields.find(|(field, _)| field == name)?;
        std::str::from_utf8(value).ok()
    }

    pub(super) fn bytes(&self) -> usize {
        self.0.iter().map(|(_, value)| value.len()).sum()
    }

    /// Who has appended it, if that is a node of ours.
    pub(super) fn origin(&self) -> Option<Origin> {
        let uid = self.text("uid").filter(|uid| uid.len() == UID_CHARS)?;
        let number = self.text("q")?.parse().ok()?;
        Some(Origin { node: Str::copy_from_slice(uid.get(..NODE_CHARS)?), number })
    }

    /// What it takes to remember it.
    pub(super) fn footprint(&self) -> usize {
        const OVERHEAD: usize = 300; // of an entry that was read
        OVERHEAD + self.bytes()
    }
}

/// What is worth being remembered of an entry.
pub(super) fn remembered(
    id: StreamId,
    origin: Option<Origin>,
    entry: &Entry,
    bytes: usize,
) -> Option<Past> {
    entry.is_recoverable().then(|| Past::entry(id, origin, entry.clone(), bytes))
}

/// The same of a message.
pub(super) fn remembered_message(
    id: StreamId,
    origin: Option<Origin>,
    nsp: &Str,
    message: &Message,
) -> Option<Past> {
    message
        .is_recoverable()
        .then(|| Past::message(id, nsp.clone(), origin, message.clone(), message.bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> StreamId {
        StreamId { ms, seq: 0 }
    }

    #[test]
    fn nobody_is_recovered_over_a_stream_that_went_back() {
        let limits = TailLimits { entries: 10, bytes: 10_000 };
        let delivered = Delivered::new(Some(limits));
        delivered.begin(at(5));
        delivered.entry(at(9).into(), None);
        assert!(delivered.past(at(9), "/").is_some());
        delivered.restart(at(9), 0);
        assert_eq!(delivered.gap(), Gap { up_to: at(9), void: at(0) });
        assert!(delivered.past(at(9), "/").is_some(), "who has all until now");
        delivered.restart(at(7), 3);
        // what was delivered ahead of the stream, clients have: with an offset that says so
        assert_eq!(delivered.mark(), Offset { id: at(7), early: 3 });
        let void = at(9).after();
        assert_eq!(
            delivered.gap(),
            Gap { up_to: void, void },
            "not even who has all until then knows"
        );
        // a client that has got 9 does not have the 17th message, though it has "more than 7"
        delivered.ahead(&"n".into(), 17);
        delivered.entry(at(12).into(), None);
        assert!(delivered.past(at(9), "/").is_none());
        assert!(delivered.past(at(12), "/").is_some());
        delivered.restart(at(12), 0);
        assert_eq!(delivered.gap(), Gap { up_to: at(12), void });
    }
}
