//! Where a node stands in a stream, and whether something of it went by unseen.
//!
//! Three things show that entries of other nodes were lost:
//!
//! * Redis counts what was ever added (`entries-added`, Redis 7): when as many were added as we have not read,
//!   they are gone, trimmed by `MAXLEN` or with Redis' data;
//! * an older Redis shows its oldest entry, which may be newer than the last that we have read;
//! * every node numbers its entries for each stream (field `q`). A failover loses what the new master had not
//!   got yet, and only the numbers show it.
//!
//! One loss may show in several ways. It is counted once: after a gap, a node's next number is believed.

use std::collections::HashMap;

use super::feed::Read;
use super::past::NODE_CHARS;
use crate::cluster::wire::StreamId;

/// How far back a stream is read again on another server. Both servers may have taken entries until the old
/// one learnt of its successor; there the identifiers of what we have read and have not read are mixed.
const READ_AGAIN_MS: u64 = 30_000;

/// Other nodes that are remembered; past it all are forgotten, which only weakens a second line of defence.
const MAX_NODES: usize = 4096;

/// What Redis says of a stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Standing {
    /// The identifier that was given out last.
    pub(super) last: StreamId,
    /// The oldest entry that is there.
    pub(super) first: Option<StreamId>,
    /// Entries that were ever added. `None` before Redis 7.
    pub(super) added: Option<u64>,
}

/// The last number of another node.
#[derive(Clone, Copy, Debug)]
struct Number {
    last: u64,
    /// Must the next one follow it?
    followed: bool,
}

#[derive(Debug)]
pub(super) struct Position {
    cursor: StreamId,
    /// Nothing before it was ever meant for this node.
    origin: StreamId,
    /// Up to here entries may be read again.
    again: StreamId,
    /// How many entries were ever added up to the cursor, if that is known.
    index: Option<u64>,
    /// When the cursor is there, so many must have been added.
    expected: Option<(StreamId, u64)>,
    /// The other nodes of ours.
    numbers: HashMap<String, Number>,
    gap: Option<&'static str>,
}

impl Position {
    pub(super) fn new(cursor: StreamId) -> Self {
        Self {
            cursor,
            origin: cursor,
            again: StreamId::default(),
            index: None,
            expected: None,
            numbers: HashMap::new(),
            gap: None,
        }
    }

    /// The last entry that was read.
    pub(super) fn cursor(&self) -> StreamId {
        self.cursor
    }

    /// Reading begins behind what is there.
    pub(super) fn begin(&mut self, standing: Standing) {
        self.cursor = standing.last;
        self.origin = standing.last;
        self.index = standing.added;
    }

    /// Reading goes on, on a new connection; `elsewhere`: to another server.
    pub(super) fn resume(&mut self, standing: Standing, elsewhere: bool) {
        let read = self.cursor;
        if standing.last < read {
            // Its clock may be behind, too: what it stores next would be hidden from us.
            self.lost("the stream is older than what was read of it");
            self.index = None;
            self.cursor = standing.last;
        }
        if elsewhere {
            self.again = self.cursor;
            self.index = None;
            let back = StreamId { ms: self.cursor.ms.saturating_sub(READ_AGAIN_MS), seq: 0 };
            self.cursor = back.max(self.origin.min(self.cursor));
        }
        let trimmed = standing.first.is_some_and(|first| first > read);
        // nothing was read of a stream that was empty
        if (standing.added.is_none() || elsewhere) && trimmed && read != StreamId::default() {
            self.lost("the stream was trimmed past what was read of it");
        }
        self.expect(standing);
    }

    /// Takes what Redis says. The cursor is not past it.
    pub(super) fn expect(&mut self, standing: Standing) {
        self.expected = standing.added.map(|added| (standing.last, added));
        if standing.last <= self.cursor {
            self.settle();
        }
    }

    /// There is nothing behind the cursor.
    pub(super) fn at_end(&mut self) {
        self.settle();
    }

    fn settle(&mut self) {
        let Some((last, added)) = self.expected.take() else { return };
        // one more was read than Redis spoke of when its last entry was deleted
        let beyond = u64::from(self.cursor > last);
        if self.index.is_some_and(|index| index != added + beyond) {
            self.lost("entries were gone before they were read");
        }
        self.index = Some(added + beyond);
    }

    /// An entry was read. `true`: perhaps not for the first time.
    pub(super) fn advance(&mut self, id: StreamId) -> bool {
        self.cursor = id;
        self.index = self.index.map(|index| index + 1);
        if self.expected.is_some_and(|(last, _)| last <= id) {
            self.settle();
        }
        id <= self.again
    }

    /// What to do with an entry of another node; after [`Position::advance`].
    pub(super) fn read_foreign(&mut self, uid: &str, number: Option<u64>, again: bool) -> Read {
        // a Node peer has no numbers: nobody can tell whether it is new
        let Some(number) = number else { return if again { Read::Known } else { Read::Foreign } };
        let node = uid.get(..NODE_CHARS).unwrap_or(uid);
        let known = self.numbers.get(node).copied();
        if known.is_some_and(|known| number <= known.last) {
            return Read::Known;
        }
        if known.is_some_and(|known| known.followed && number > known.last + 1) {
            self.lost("entries of a node are missing");
        }
        if known.is_none() && self.numbers.len() >= MAX_NODES {
            self.numbers.clear();
        }
        self.numbers.insert(node.to_owned(), Number { last: number, followed: true });
        Read::Foreign
    }

    fn lost(&mut self, what: &'static str) {
        self.gap.get_or_insert(what);
        self.numbers.values_mut().for_each(|number| number.followed = false);
    }

    /// Will [`Position::take_gap`] tell of one?
    pub(super) fn has_gap(&self) -> bool {
        self.gap.is_some()
    }

    /// Were entries of other nodes lost since the last time that this was asked?
    pub(super) fn take_gap(&mut self) -> Option<&'static str> {
        self.gap.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(ms: u64) -> StreamId {
        StreamId { ms, seq: 0 }
    }

    fn standing(last: u64, first: u64, added: Option<u64>) -> Standing {
        Standing { last: id(last), first: Some(id(first)), added }
    }

    /// Has begun behind 100, the tenth entry.
    fn position() -> Position {
        let mut position = Position::new(StreamId::default());
        position.begin(standing(100, 50, Some(10)));
        position
    }

    fn read(position: &mut Position, ids: &[u64]) {
        for ms in ids {
            assert!(!position.advance(id(*ms)));
        }
    }

    fn is_new(position: &mut Position, ms: u64, node: &str, number: Option<u64>) -> bool {
        let again = position.advance(id(ms));
        matches!(position.read_foreign(node, number, again), Read::Foreign)
    }

    #[test]
    fn trimming_what_was_read_is_no_gap_and_what_was_not_is_one() {
        let mut position = position();
        read(&mut position, &[101, 102]);
        position.resume(standing(104, 103, Some(14)), false);
        read(&mut position, &[103, 104]);
        assert_eq!(position.take_gap(), None, "102 was read");
        position.resume(standing(110, 108, Some(20)), false);
        read(&mut position, &[108, 109, 110]);
        assert!(position.take_gap().is_some(), "105 to 107 were not");
        position.resume(standing(111, 108, Some(21)), false);
        read(&mut position, &[111]);
        assert_eq!(position.take_gap(), None, "it is counted once");
    }

    #[test]
    fn what_goes_while_we_read_shows_at_the_next_look() {
        let mut position = position();
        read(&mut position, &[101, 105]);
        position.expect(standing(105, 104, Some(15)));
        assert!(position.take_gap().is_some());
        // all of it is gone, the last entry too
        position.expect(standing(120, 0, Some(20)));
        position.at_end();
        assert!(position.take_gap().is_some());
        position.expect(standing(121, 0, Some(21)));
        read(&mut position, &[122]);
        assert!(position.take_gap().is_some(), "121 was deleted");
        position.expect(standing(122, 0, Some(22)));
        assert_eq!(position.take_gap(), None);
    }

    #[test]
    fn a_stream_that_is_older_than_what_was_read_is_a_gap_and_read_from_its_end() {
        let mut position = position();
        read(&mut position, &[101]);
        position.resume(Standing::default(), false);
        assert_eq!(position.cursor(), StreamId::default());
        assert!(position.take_gap().is_some());
        position.at_end();
        position.expect(standing(5, 5, Some(1)));
        read(&mut position, &[5]);
        assert_eq!(position.take_gap(), None);
    }

    #[test]
    fn an_old_redis_shows_gaps_by_its_oldest_entry() {
        let mut position = Position::new(StreamId::default());
        position.begin(Standing::default());
        position.resume(standing(3, 3, None), false);
        assert_eq!(position.take_gap(), None, "nothing had been there");
        read(&mut position, &[3]);
        position.resume(standing(4, 3, None), false);
        assert_eq!(position.take_gap(), None);
        position.resume(standing(9, 8, None), false);
        assert!(position.take_gap().is_some());
    }

    #[test]
    fn numbers_that_are_missing_are_a_gap_whichever_namespace_they_had() {
        let mut position = position();
        let (one, two) = ("0123456789abcdef-one", "0123456789abcdef-two");
        assert!(is_new(&mut position, 101, one, Some(7)));
        assert!(is_new(&mut position, 102, two, Some(8)));
        assert!(!is_new(&mut position, 103, one, Some(8)), "a repetition");
        assert!(is_new(&mut position, 104, "x", Some(1)));
        assert!(is_new(&mut position, 105, "node peer", None));
        assert!(is_new(&mut position, 106, "node peer", None));
        assert_eq!(position.take_gap(), None);
        assert!(is_new(&mut position, 107, one, Some(10)));
        assert!(position.take_gap().is_some());
        assert!(is_new(&mut position, 108, "x", Some(5)));
        assert_eq!(position.take_gap(), None, "the same loss");
        assert!(is_new(&mut position, 109, "x", Some(7)));
        assert!(position.take_gap().is_some(), "another one");
    }

    /// The old and the new server had different entries between 100100 and 100300.
    #[test]
    fn on_another_server_what_was_not_read_is_found_among_what_was() {
        let mut position = Position::new(StreamId::default());
        position.begin(standing(100_000, 1, Some(10)));
        assert!(is_new(&mut position, 100_100, "x", Some(1)));
        assert!(is_new(&mut position, 100_200, "node peer", None));
        assert!(is_new(&mut position, 100_300, "y", Some(1)));
        position.resume(standing(100_350, 1, Some(14)), true);
        assert_eq!(position.cursor(), id(100_000), "what came before was never ours");
        assert!(!is_new(&mut position, 100_100, "x", Some(1)));
        assert!(!is_new(&mut position, 100_200, "node peer", None));
        assert!(is_new(&mut position, 100_250, "x", Some(2)), "new, and in the middle");
        assert!(is_new(&mut position, 100_350, "node peer", None));
        assert_eq!(position.take_gap(), None);
        assert!(is_new(&mut position, 100_400, "y", Some(3)), "2 was on the old one only");
        assert!(position.take_gap().is_some());
        position.resume(standing(200_000, 1, None), true);
        assert_eq!(position.cursor(), id(70_400).max(id(100_000)));
    }
}
