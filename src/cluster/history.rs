//! What a log has delivered lately, and where a receiver stands in it. Values without I/O.
//!
//! # Positions
//!
//! An entry of a log has an id, and ids rise in the order of the log. A client that was sent the entry
//! `X` holds `X` as its *offset*: it has all that was for it up to `X`. What is not in the log (events
//! for this node only, volatile ones to one client) carries the offset of what came before it, so that
//! the last offset of a client is right whatever came last.
//!
//! A node that is cut off from Redis delivers its own events ahead of the log ("early", guarantee G6).
//! They have no id yet, so their offset is the last id and their number on that node: `5-0~17`. Offsets
//! keep that number until the log has shown the message (`6-0~17`, `9-0~17`, then `10-0`): who reads one
//! knows whether there is anything ahead of the log that the client has got, even if the node that
//! delivered it cannot be asked. Node would not take such an offset back, and it need not.

use std::collections::VecDeque;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use super::message::{Message, Target};
use super::wire::{Entry, Malformed, StreamId};
use crate::engine::packet::Str;
use crate::socketio::packet::Codec;

/// Where a receiver stands: behind the entry `id`, and behind the message `early` that its node delivered
/// ahead of the log and that the log has not shown until `id` (0: there is none).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Offset {
    pub(crate) id: StreamId,
    pub(crate) early: u64,
}

impl From<StreamId> for Offset {
    fn from(id: StreamId) -> Self {
        Self { id, early: 0 }
    }
}

impl fmt::Display for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.early {
            0 => write!(f, "{}", self.id),
            early => write!(f, "{}~{early}", self.id),
        }
    }
}

impl FromStr for Offset {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        let Some((id, early)) = text.split_once('~') else {
            return Ok(text.parse::<StreamId>()?.into());
        };
        let digits = early.bytes().all(|byte| byte.is_ascii_digit());
        let early = early.parse().ok().filter(|early| digits && *early > 0);
        Ok(Self { id: id.parse()?, early: early.ok_or(Malformed::OFFSET)? })
    }
}

/// Who appended an entry, and the how-manieth of its own that was. Tells a message again that was delivered
/// early. Entries of Node have none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Origin {
    pub(crate) node: Str,
    pub(crate) number: u64,
}

/// How a message comes to a replica.
#[derive(Clone, Debug)]
pub(crate) struct At {
    /// What receivers hold when they have it.
    pub(crate) offset: Offset,
    pub(crate) origin: Option<Origin>,
    pub(crate) way: Way,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// Another node's, from the log.
    Foreign,
    /// This node's own, from the log.
    Own,
    /// This node's own, ahead of the log.
    Early,
    /// This node's own, from the log, after it was delivered early: for sockets that entered since.
    Echo,
}

/// Where a node may have missed something of a log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Gap {
    /// What was up to here.
    pub(crate) up_to: StreamId,
    /// Up to here ids mean nothing any more: the log went back.
    pub(crate) void: StreamId,
}

/// Own messages that a node delivered ahead of the log: those numbered `from..=to`, behind the entry `after`, the
/// first of them behind `since`. These are one entry, unless the range was made of several ([`note_early`]).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Early {
    pub(crate) node: Str,
    pub(crate) since: StreamId,
    pub(crate) after: StreamId,
    pub(crate) from: u64,
    pub(crate) to: u64,
}

impl Early {
    pub(crate) fn contains(&self, origin: &Origin) -> bool {
        self.node == origin.node && (self.from..=self.to).contains(&origin.number)
    }

    /// The part that a client with this offset has received.
    pub(crate) fn received(&self, offset: Offset) -> Received {
        let to = match offset.id {
            id if self.after < id => self.to,
            id if id < self.since => return Received::Nothing,
            // Somewhere within a range that was made of several: the number says where. Without one the log had
            // shown all that the client was sent ahead of it, or it was none of this node's.
            id if self.since < id && offset.early < self.from => return Received::InDoubt,
            _ => self.to.min(offset.early),
        };
        if to < self.from {
            return Received::Nothing;
        }
        // once received it stays so, whatever offset the client shows later
        let (since, after) = Default::default();
        Received::Part(Self { to, since, after, ..self.clone() })
    }

    /// What came from the same node afterwards becomes part of it.
    pub(crate) fn join(&mut self, next: &Self) {
        // a log that went back may have later ones behind earlier entries
        self.since = self.since.min(next.since);
        self.after = self.after.max(next.after);
        self.to = next.to;
    }

    /// Was it received, whatever the offset?
    pub(crate) fn is_settled(&self) -> bool {
        self.after == StreamId::default()
    }

    /// Was this range made of several, whose borders are not known?
    pub(crate) fn is_coarse(&self) -> bool {
        self.since < self.after
    }
}

/// See [`Early::received`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Received {
    Nothing,
    Part(Early),
    InDoubt,
}

/// Ranges of early messages that are remembered. Redis away makes one, Redis slow one for each entry that
/// comes back meanwhile.
const MAX_EARLY: usize = 256;

/// Appends one early message to a list of ranges. When there are too many of them, old ones become one: a client
/// whose offset is within it and does not say a number may then not be recovered.
pub(crate) fn note_early(list: &mut Vec<Early>, node: &Str, mark: Offset) {
    if let Some(last) = list.last_mut()
        && last.node == *node
        && last.after == mark.id
        && last.to + 1 == mark.early
    {
        last.to = mark.early;
        return;
    }
    let (from, to) = (mark.early, mark.early);
    list.push(Early { node: node.clone(), since: mark.id, after: mark.id, from, to });
    bound(list, MAX_EARLY);
}

/// Makes the oldest ranges of a name one, so that there are `most`. What is between the numbers of two ranges the log
/// had shown before the second: it is before every offset behind that.
pub(crate) fn bound(list: &mut Vec<Early>, most: usize) {
    let mut surplus = list.len().saturating_sub(most);
    list.dedup_by(|next, last| {
        let joins = surplus > 0 && next.node == last.node;
        if joins {
            surplus -= 1;
            last.join(next);
        }
        joins
    });
    // of so many names nobody can have the first
    list.drain(..surplus);
}

/// An entry that was delivered.
#[derive(Debug)]
pub(crate) struct Past {
    pub(crate) id: StreamId,
    pub(crate) nsp: Str,
    pub(crate) origin: Option<Origin>,
    what: What,
    bytes: usize,
}

#[derive(Debug)]
enum What {
    Message(Message),
    /// Not decoded before somebody wants it.
    Entry(Entry),
}

impl Past {
    pub(crate) fn message(
        id: StreamId,
        nsp: Str,
        origin: Option<Origin>,
        message: Message,
        bytes: usize,
    ) -> Self {
        Self { id, nsp, origin, what: What::Message(message), bytes }
    }

    /// `bytes`: what it took in the stream.
    pub(crate) fn entry(id: StreamId, origin: Option<Origin>, entry: Entry, bytes: usize) -> Self {
        Self { id, nsp: entry.nsp.clone(), origin, what: What::Entry(entry), bytes }
    }

    /// Whom it is for, if it is for sockets.
    pub(crate) fn target(&self) -> Option<&Target> {
        match &self.what {
            What::Message(message) => message.target(),
            What::Entry(entry) => entry.target(),
        }
    }

    /// The message, decoded if need be; `None` if it cannot be, and was not delivered either.
    pub(crate) fn decode(&self, codec: Codec) -> Option<Message> {
        match &self.what {
            What::Message(message) => Some(message.clone()),
            What::Entry(entry) => entry.clone().into_message(codec).ok(),
        }
    }
}

/// How much of a log is remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TailLimits {
    pub(crate) entries: usize,
    pub(crate) bytes: usize,
}

/// The end of a log, complete behind `start`.
#[derive(Debug)]
pub(crate) struct Tail {
    start: StreamId,
    items: VecDeque<Arc<Past>>,
    bytes: usize,
    limits: TailLimits,
}

impl Tail {
    pub(crate) fn new(limits: TailLimits) -> Self {
        Self { start: StreamId::default(), items: VecDeque::new(), bytes: 0, limits }
    }

    /// Everything before was lost or is unknown: begins anew behind `start`.
    pub(crate) fn restart(&mut self, start: StreamId) {
        self.items = VecDeque::new();
        self.bytes = 0;
        self.start = start;
    }

    /// Appends an entry. Entries that are not kept (nobody is recovered over them) need not be told.
    pub(crate) fn push(&mut self, past: Past) {
        self.bytes += past.bytes;
        self.items.push_back(Arc::new(past));
        while self.items.len() > self.limits.entries || self.bytes > self.limits.bytes {
            let Some(first) = self.items.pop_front() else { break };
            self.bytes -= first.bytes;
            self.start = first.id;
        }
    }

    /// What was up to `start` may not be complete.
    pub(crate) fn forget(&mut self, start: StreamId) {
        while let Some(first) = self.items.front()
            && first.id <= start
        {
            self.bytes -= first.bytes;
            self.items.pop_front();
        }
        self.start = self.start.max(start);
    }

    /// Everything behind this is there.
    pub(crate) fn start(&self) -> StreamId {
        self.start
    }

    /// All entries of a namespace behind `after`; `None` if some of them may be gone.
    pub(crate) fn behind(&self, after: StreamId, nsp: &str) -> Option<Vec<Arc<Past>>> {
        if after < self.start {
            return None;
        }
        let first = self.items.partition_point(|past| past.id <= after);
        let range = self.items.range(first..);
        Some(range.filter(|past| past.nsp.as_str() == nsp).cloned().collect())
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.items.len()
    }

    #[cfg(test)]
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(ms: u64) -> StreamId {
        StreamId { ms, seq: 0 }
    }

    fn past(ms: u64, nsp: &'static str) -> Past {
        let message = Message::Join { target: Target::default(), rooms: Vec::new() };
        Past::message(id(ms), nsp.into(), None, message, 10)
    }

    fn ids(tail: &Tail, after: u64, nsp: &str) -> Option<Vec<u64>> {
        Some(tail.behind(id(after), nsp)?.iter().map(|past| past.id.ms).collect())
    }

    #[test]
    fn offsets_are_read_as_they_are_written() {
        for (text, ms, early) in [("5-0", 5, 0), ("7-0~3", 7, 3)] {
            let offset: Offset = text.parse().unwrap();
            assert_eq!(offset, Offset { id: id(ms), early });
            assert_eq!(offset.to_string(), text);
        }
        for text in ["", "5", "5-0~", "5-0~0", "5-0~x", "5-0~+1", "~1", "5-0~1~1", "hello"] {
            assert!(text.parse::<Offset>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_tail_says_when_something_is_gone() {
        let mut tail = Tail::new(TailLimits { entries: 3, bytes: 1_000 });
        tail.restart(id(5));
        assert_eq!(ids(&tail, 4, "/"), None);
        assert_eq!(ids(&tail, 5, "/"), Some(vec![]));
        for ms in 6..=8 {
            tail.push(past(ms, if ms == 7 { "/a" } else { "/" }));
        }
        assert_eq!(ids(&tail, 5, "/"), Some(vec![6, 8]));
        assert_eq!(ids(&tail, 6, "/a"), Some(vec![7]));
        tail.push(past(9, "/"));
        assert_eq!(ids(&tail, 5, "/"), None, "6 went over the bound");
        assert_eq!(ids(&tail, 6, "/"), Some(vec![8, 9]));
        tail.forget(id(8));
        assert_eq!((ids(&tail, 7, "/"), ids(&tail, 8, "/")), (None, Some(vec![9])));
        tail.forget(id(6));
        assert_eq!((tail.start(), tail.len(), tail.bytes()), (id(8), 1, 10));
        tail.restart(id(20));
        assert_eq!(ids(&tail, 9, "/"), None);
    }

    #[test]
    fn a_tail_is_bounded_in_bytes() {
        let mut tail = Tail::new(TailLimits { entries: 100, bytes: 25 });
        for ms in 1..=5 {
            tail.push(past(ms, "/"));
        }
        assert_eq!((tail.len(), tail.bytes()), (2, 20));
        assert_eq!(ids(&tail, 3, "/"), Some(vec![4, 5]));
    }

    #[test]
    fn which_early_messages_a_client_has() {
        let node: Str = "a".into();
        let mut list = Vec::new();
        for (after, number) in [(5, 1), (5, 2), (5, 3), (6, 4)] {
            note_early(&mut list, &node, Offset { id: id(after), early: number });
        }
        assert_eq!(list.len(), 2);
        let has = |offset: &str, number| {
            let origin = Origin { node: node.clone(), number };
            let offset = offset.parse().unwrap();
            list.iter().any(|early| match early.received(offset) {
                Received::Part(part) => part.contains(&origin),
                Received::Nothing | Received::InDoubt => false,
            })
        };
        assert!(!has("5-0", 1), "sent behind 5 and not seen");
        assert!(has("5-0~2", 2) && !has("5-0~2", 3));
        assert!(has("6-0", 3) && !has("6-0", 4));
        assert!(has("7-0", 4));
        let other = Origin { node: "b".into(), number: 1 };
        assert!(!list[0].contains(&other));
    }

    #[test]
    fn ranges_that_became_one_say_what_they_still_know() {
        let node: Str = "a".into();
        let mut list = Vec::new();
        for at in 1..=300 {
            note_early(&mut list, &node, Offset { id: id(at), early: 2 * at });
        }
        assert_eq!(list.len(), MAX_EARLY);
        let oldest = list[0].clone();
        assert_eq!((oldest.since, oldest.after, oldest.from, oldest.to), (id(1), id(45), 2, 90));
        let part = |offset: &str| match oldest.received(offset.parse().unwrap()) {
            Received::Nothing => Ok(0),
            Received::Part(part) => Ok(part.to),
            Received::InDoubt => Err(()),
        };
        assert_eq!([part("1-0"), part("1-0~2")], [Ok(0), Ok(2)]);
        assert_eq!([part("20-0~38"), part("45-0~88"), part("46-0")], [Ok(38), Ok(88), Ok(90)]);
        assert_eq!([part("20-0"), part("45-0"), part("20-0~1")], [Err(()); 3]);
        assert_eq!((list[1].since, list[1].after, list[1].from), (id(46), id(46), 92));
        // those of another name do not become one with them
        note_early(&mut list, &"b".into(), Offset { id: id(400), early: 1 });
        assert_eq!((list.len(), list[0].to, list[255].from), (MAX_EARLY, 92, 1));
        bound(&mut list, 2);
        assert_eq!((list.len(), list[0].to, list[1].from), (2, 600, 1));
        // the log went back: what came later is behind an earlier entry
        note_early(&mut list, &"b".into(), Offset { id: id(7), early: 2 });
        bound(&mut list, 2);
        assert_eq!((list[1].since, list[1].after, list[1].to), (id(7), id(400), 2));
    }
}
