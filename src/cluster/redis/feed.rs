//! What one stream of Redis owes this node, and this node the stream. A value without I/O.
//!
//! # Contract
//!
//! Own messages go in by [`Feed::push`] and to Redis in batches ([`Feed::take_batch`], then
//! [`Feed::stored`] or [`Feed::refused`]). Whatever is read from the stream goes through
//! [`Feed::read`], which says what to do with it: own messages are delivered *when they come back*, so
//! that every node sees the stream's order (G2).
//!
//! When Redis does not give them back in time, [`Feed::overdue`] gives them out for delivery on this node
//! (G6); they are still published, and skipped when they come back.
//!
//! After a lost connection nobody knows which part of the last batch was stored. The owner reads the
//! stream to its end first and then calls [`Feed::caught_up`]: what has not been seen by then was not
//! stored and is sent again. (The owner has made sure that the old connection can store nothing more.) What
//! Redis had confirmed and has lost since is sent again, too.
//!
//! Every own entry carries a number (field `q`); numbers of one node only rise, so that a receiver can
//! tell a repetition, whatever caused it.

use std::collections::VecDeque;
use std::time::Instant;

use super::position::{Position, Standing};

use crate::cluster::BusFull;
use crate::cluster::message::Message;
use crate::cluster::wire::StreamId;
use crate::engine::packet::Str;

/// What goes to Redis at once, so that a transaction does not hold up everyone else there.
const BATCH_BYTES: usize = 1 << 20;

/// Field and value pairs of one entry.
pub(super) type Fields = Vec<(&'static str, Str)>;

/// An own message on its way.
#[derive(Debug)]
struct Item {
    number: u64,
    nsp: Str,
    message: Message,
    fields: Fields,
    bytes: usize,
    due: Instant,
    state: State,
    delivered: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Waiting,
    /// Given to Redis; no answer yet.
    Sent,
    Stored(StreamId),
}

/// What to do with an entry that was read.
#[derive(Debug)]
pub(super) enum Read {
    /// Another node's: decode and deliver it.
    Foreign,
    /// Ours, and due for delivery here.
    Own(Late),
    /// Ours, and delivered before by [`Feed::overdue`].
    Echo(Late),
    /// A repetition: nothing.
    Known,
}

/// An own message that is to be delivered here.
#[derive(Debug)]
pub(super) struct Late {
    pub(super) number: u64,
    pub(super) nsp: Str,
    pub(super) message: Message,
}

impl From<Item> for Late {
    fn from(item: Item) -> Self {
        Self { number: item.number, nsp: item.nsp, message: item.message }
    }
}

#[derive(Debug)]
pub(super) struct Feed {
    items: VecDeque<Item>,
    bytes: usize,
    max_bytes: usize,
    next_number: u64,
    position: Position,
    /// Is the stream read to its end on a new connection?
    catching_up: bool,
    /// Own messages that Redis had confirmed and dropped before they were read; see [`Feed::take_lost`].
    lost: Vec<Late>,
    /// When somebody comes and asks for what is overdue.
    watched: Option<Instant>,
}

impl Feed {
    /// `max_bytes`: of own messages that may be under way.
    pub(super) fn new(cursor: StreamId, max_bytes: usize) -> Self {
        Self {
            items: VecDeque::new(),
            bytes: 0,
            max_bytes,
            next_number: 0,
            position: Position::new(cursor),
            catching_up: false,
            lost: Vec::new(),
            watched: None,
        }
    }

    /// The last entry that was read.
    pub(super) fn cursor(&self) -> StreamId {
        self.position.cursor()
    }

    /// Where this node stands in the stream.
    pub(super) fn position(&mut self) -> &mut Position {
        &mut self.position
    }

    /// Reading goes on, on a new connection, until [`Feed::caught_up`]; `elsewhere`: to another server.
    pub(super) fn resume(&mut self, standing: Standing, elsewhere: bool) {
        self.catching_up = true;
        self.position.resume(standing, elsewhere);
    }

    /// Own messages that are under way.
    pub(super) fn len(&self) -> usize {
        self.items.len()
    }

    /// Bytes of them.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Takes an own message, and gives its number. When Redis has not given it back at `due`, it is delivered here all
    /// the same.
    ///
    /// # Errors
    /// [`BusFull`] when too much is under way already; a single message of any size fits.
    pub(super) fn push(
        &mut self,
        due: Instant,
        nsp: Str,
        message: Message,
        mut fields: Fields,
    ) -> Result<u64, BusFull> {
        let bytes = fields.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>();
        if !self.items.is_empty() && self.bytes + bytes > self.max_bytes {
            return Err(BusFull);
        }
        self.next_number += 1;
        fields.push(("q", self.next_number.to_string().into()));
        self.bytes += bytes;
        self.items.push_back(Item {
            number: self.next_number,
            nsp,
            message,
            fields,
            bytes,
            due,
            state: State::Waiting,
            delivered: false,
        });
        Ok(self.next_number)
    }

    /// The next messages to store, in order, up to `max` and, but for the first, [`BATCH_BYTES`]; they count as
    /// sent from now on.
    pub(super) fn take_batch(&mut self, max: usize) -> Vec<(u64, Fields)> {
        // they are stored in order, so those that wait are the last ones
        let first = self.items.partition_point(|item| item.state != State::Waiting);
        let mut bytes = 0;
        let fits = |item: &&mut Item| {
            bytes += item.bytes;
            bytes <= BATCH_BYTES || bytes == item.bytes
        };
        let waiting = self.items.range_mut(first..).take(max).take_while(fits);
        waiting
            .map(|item| {
                item.state = State::Sent;
                (item.number, item.fields.clone())
            })
            .collect()
    }

    #[cfg(test)]
    fn has_waiting(&self) -> bool {
        self.items.iter().any(|item| item.state == State::Waiting)
    }

    /// Redis has stored it. (It may have been read already.)
    pub(super) fn stored(&mut self, number: u64, id: StreamId) {
        if let Some(item) = self.find(number) {
            item.state = State::Stored(id);
        }
    }

    /// Redis has refused the whole batch, storing none of it: it waits again.
    pub(super) fn refused(&mut self, numbers: &[u64]) {
        for number in numbers {
            if let Some(item) = self.find(*number) {
                item.state = State::Waiting;
            }
        }
    }

    /// An entry of the stream, in the stream's order. `own`: its uid is one of this node's.
    pub(super) fn read(&mut self, id: StreamId, uid: &str, own: bool, number: Option<u64>) -> Read {
        let again = self.position.advance(id);
        if !self.catching_up {
            self.drop_passed(id);
        }
        if !own {
            return self.position.read_foreign(uid, number, again);
        }
        let Some(at) = number.and_then(|number| self.position_of(number)) else {
            return Read::Known;
        };
        let item = self.items.remove(at).expect("the position is an item's");
        self.bytes -= item.bytes;
        match item.delivered {
            true => Read::Echo(item.into()),
            false => Read::Own(item.into()),
        }
    }

    /// Messages that the stream has passed without showing them: it was trimmed, or lost data.
    fn drop_passed(&mut self, id: StreamId) {
        while let Some(front) = self.items.front() {
            if !matches!(front.state, State::Stored(stored) if stored < id) {
                return;
            }
            let item = self.items.pop_front().expect("there is a front");
            self.bytes -= item.bytes;
            if !item.delivered {
                self.lost.push(item.into());
            }
        }
    }

    /// Own messages that Redis had confirmed and has lost since, to be delivered on this node at least.
    pub(super) fn take_lost(&mut self) -> Vec<Late> {
        std::mem::take(&mut self.lost)
    }

    /// The stream was read to its end on a new connection. What was sent and not seen was not stored, and waits
    /// again. What was confirmed and not seen is lost, and waits again, too, unless it was only trimmed: then
    /// the others have had it.
    pub(super) fn caught_up(&mut self, standing: Standing) {
        self.catching_up = false;
        let trimmed =
            |id: StreamId| id <= standing.last && standing.first.is_none_or(|first| id < first);
        let mut kept = VecDeque::with_capacity(self.items.len());
        for mut item in self.items.drain(..) {
            match item.state {
                State::Stored(id) if trimmed(id) => {
                    self.bytes -= item.bytes;
                    if !item.delivered {
                        self.lost.push(item.into());
                    }
                }
                State::Stored(_) | State::Sent | State::Waiting => {
                    item.state = State::Waiting;
                    kept.push_back(item);
                }
            }
        }
        self.items = kept;
    }

    /// Redis is known to be away: everything is due now.
    pub(super) fn hurry(&mut self, now: Instant) {
        for item in &mut self.items {
            item.due = item.due.min(now);
        }
    }

    /// Where the messages begin that were not delivered. What is due rises with the number, but for messages
    /// of a moment in which the connection broke: those are delivered with the ones before them.
    fn first_undelivered(&self) -> usize {
        self.items.partition_point(|item| item.delivered)
    }

    /// Messages that Redis has not given back in time, for delivery on this node.
    pub(super) fn overdue(&mut self, now: Instant) -> Vec<Late> {
        let first = self.first_undelivered();
        let late = self.items.range_mut(first..).take_while(|item| item.due <= now);
        late.map(|item| {
            item.delivered = true;
            Late { number: item.number, nsp: item.nsp.clone(), message: item.message.clone() }
        })
        .collect()
    }

    /// When [`Feed::overdue`] has something to say next; who asks comes back then.
    pub(super) fn next_due(&mut self) -> Option<Instant> {
        self.watched = self.items.get(self.first_undelivered()).map(|item| item.due);
        self.watched
    }

    /// Must who waits for [`Feed::next_due`] ask again, because of the last message? Messages come back long before
    /// they are due, and waking somebody for each of them is a good part of what it costs.
    pub(super) fn is_unwatched(&self) -> bool {
        let last = self.items.back().filter(|item| !item.delivered);
        last.is_some_and(|last| self.watched.is_none_or(|watched| last.due < watched))
    }

    /// The last message that was delivered without Redis, while the stream has not shown it; otherwise 0.
    pub(super) fn ahead(&self) -> u64 {
        let last = self.first_undelivered().checked_sub(1);
        last.and_then(|last| self.items.get(last)).map_or(0, |item| item.number)
    }

    /// Is there a message that had to be delivered without Redis, and is not published yet?
    pub(super) fn is_late(&self) -> bool {
        self.items.front().is_some_and(|item| item.delivered)
    }

    fn position_of(&self, number: u64) -> Option<usize> {
        self.items.binary_search_by_key(&number, |item| item.number).ok()
    }

    fn find(&mut self, number: u64) -> Option<&mut Item> {
        let at = self.position_of(number)?;
        self.items.get_mut(at)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::cluster::message::Target;

    const MAX_BYTES: usize = 1_000;
    const DEADLINE: Duration = Duration::from_millis(500);

    fn id(ms: u64) -> StreamId {
        StreamId { ms, seq: 0 }
    }

    fn standing(last: u64, first: u64) -> Standing {
        Standing { last: id(last), first: Some(id(first)), added: None }
    }

    fn message(name: &str) -> Message {
        let rooms = vec![Str::copy_from_slice(name)];
        Message::Join { target: Target::default(), rooms }
    }

    fn name(message: &Message) -> String {
        match message {
            Message::Join { rooms, .. } => rooms[0].to_string(),
            other => panic!("{other:?}"),
        }
    }

    fn feed(names: &[&str]) -> (Feed, Instant) {
        let mut feed = Feed::new(id(0), MAX_BYTES);
        let now = Instant::now();
        for name in names {
            feed.push(
                now + DEADLINE,
                "/".into(),
                message(name),
                vec![("data", Str::copy_from_slice(name))],
            )
            .unwrap();
        }
        (feed, now)
    }

    fn numbers(batch: &[(u64, Fields)]) -> Vec<u64> {
        batch.iter().map(|(number, _)| *number).collect()
    }

    fn own(feed: &mut Feed, ms: u64, number: u64) -> Option<String> {
        match feed.read(id(ms), "me", true, Some(number)) {
            Read::Own(late) => Some(name(&late.message)),
            Read::Known | Read::Echo(_) => None,
            Read::Foreign => panic!("foreign"),
        }
    }

    fn names(messages: Vec<Late>) -> Vec<String> {
        messages.iter().map(|late| name(&late.message)).collect()
    }

    #[test]
    fn own_messages_are_delivered_when_they_come_back_also_before_the_answer() {
        let (mut feed, _) = feed(&["a", "b"]);
        assert_eq!(numbers(&feed.take_batch(10)), [1, 2]);
        assert!(feed.take_batch(10).is_empty());
        assert_eq!(own(&mut feed, 1, 1), Some("a".into()));
        feed.stored(1, id(1));
        feed.stored(2, id(2));
        assert_eq!(own(&mut feed, 2, 2), Some("b".into()));
        assert_eq!((feed.len(), feed.bytes()), (0, 0));
        assert_eq!(own(&mut feed, 3, 2), None, "a repetition");
    }

    #[test]
    fn after_a_lost_connection_only_what_was_not_stored_is_sent_again() {
        let (mut feed, _) = feed(&["a", "b", "c", "d"]);
        feed.take_batch(3);
        feed.stored(1, id(1));
        // the connection breaks; on the next one the stream shows a and b
        feed.resume(standing(2, 1), false);
        assert_eq!(own(&mut feed, 1, 1), Some("a".into()));
        assert_eq!(own(&mut feed, 2, 2), Some("b".into()));
        feed.caught_up(standing(2, 1));
        assert_eq!(numbers(&feed.take_batch(10)), [3, 4]);
        assert!(feed.take_lost().is_empty());
    }

    #[test]
    fn a_refused_batch_waits_again_in_its_place() {
        let (mut feed, _) = feed(&["a", "b", "c"]);
        let batch = feed.take_batch(2);
        feed.refused(&numbers(&batch));
        assert_eq!(numbers(&feed.take_batch(10)), [1, 2, 3]);
    }

    #[test]
    fn a_batch_has_a_bound_and_one_large_message_fits() {
        let mut feed = Feed::new(id(0), 100 * BATCH_BYTES);
        for part in [2, 1, 3, 2] {
            let data = "x".repeat(part * BATCH_BYTES / 3);
            feed.push(Instant::now(), "/".into(), message("x"), vec![("d", data.into())]).unwrap();
        }
        let large = "x".repeat(2 * BATCH_BYTES);
        feed.push(Instant::now(), "/".into(), message("x"), vec![("d", large.into())]).unwrap();
        let mut next = || numbers(&feed.take_batch(10));
        assert_eq!([next(), next(), next(), next()], [vec![1], vec![2], vec![3], vec![4]]);
        assert_eq!((next(), next()), (vec![5], vec![]));
    }

    #[test]
    fn late_messages_are_delivered_here_in_order_and_not_twice() {
        let (mut feed, now) = feed(&["a", "b"]);
        feed.take_batch(10);
        assert!(feed.overdue(now + Duration::from_millis(499)).is_empty());
        assert_eq!(names(feed.overdue(now + Duration::from_millis(500))), ["a", "b"]);
        assert!(feed.overdue(now + Duration::from_secs(9)).is_empty());
        assert_eq!(feed.next_due(), None);
        assert!(feed.is_late());
        assert_eq!(own(&mut feed, 1, 1), None);
        assert_eq!(own(&mut feed, 2, 2), None);
        assert_eq!((feed.len(), feed.is_late()), (0, false));
    }

    /// Behind messages that still wait to be published, too.
    #[test]
    fn who_delivers_what_is_late_is_told_when_he_would_come_too_late_and_not_for_each_message() {
        let (mut feed, now) = feed(&["a", "b"]);
        assert!(feed.is_unwatched());
        assert_eq!(feed.next_due(), Some(now + DEADLINE));
        assert!(!feed.is_unwatched());
        let push = |feed: &mut Feed, name: &'static str, due: Instant| {
            feed.push(due, "/".into(), message(name), Vec::new()).unwrap();
            feed.is_unwatched()
        };
        assert!(!push(&mut feed, "c", now + 2 * DEADLINE), "it is not the next");
        assert!(push(&mut feed, "d", now), "the connection broke");
        feed.take_batch(10);
        (1..=4).for_each(|number| drop(own(&mut feed, number, number)));
        // a was waited for and is back: who comes for it finds e
        assert!(!push(&mut feed, "e", now + 3 * DEADLINE));
        assert!(feed.overdue(now + DEADLINE).is_empty());
        assert_eq!(feed.next_due(), Some(now + 3 * DEADLINE));
        assert_eq!(names(feed.overdue(now + 3 * DEADLINE)), ["e"]);
        assert_eq!(feed.next_due(), None);
        assert!(push(&mut feed, "f", now + 9 * DEADLINE), "behind e, which waits to be published");
        assert!(feed.is_late(), "of e, whatever is new");
        feed.take_batch(10);
        own(&mut feed, 5, 5);
        assert!(!feed.is_late());
    }

    #[test]
    fn when_redis_is_away_nothing_waits_for_it() {
        let (mut feed, now) = feed(&["a"]);
        feed.hurry(now);
        assert_eq!(names(feed.overdue(now)), ["a"]);
        assert!(feed.has_waiting(), "it is still to be published");
    }

    #[test]
    fn what_was_trimmed_before_it_came_back_is_delivered_here() {
        let (mut feed, _) = feed(&["a", "b", "c"]);
        feed.take_batch(10);
        for number in 1..=3 {
            feed.stored(number, id(number));
        }
        assert_eq!(own(&mut feed, 2, 2), Some("b".into()), "the stream starts behind a");
        assert_eq!(names(feed.take_lost()), ["a"]);
        feed.resume(standing(9, 9), false); // trimmed past c
        assert!(matches!(feed.read(id(9), "x", false, None), Read::Foreign));
        feed.caught_up(standing(9, 9));
        assert_eq!(names(feed.take_lost()), ["c"]);
        assert_eq!((feed.has_waiting(), feed.len(), feed.bytes()), (false, 0, 0));
        // and again while it is read on
        let now = Instant::now();
        for name in ["d", "e"] {
            feed.push(now, "/".into(), message(name), Vec::new()).unwrap();
        }
        feed.take_batch(1);
        feed.stored(4, id(10));
        assert_eq!(names(feed.overdue(now)), ["d", "e"]);
        feed.take_batch(1);
        feed.stored(5, id(11));
        assert!(matches!(feed.read(id(12), "x", false, None), Read::Foreign));
        assert!(feed.take_lost().is_empty(), "they were delivered before");
        assert_eq!(feed.len(), 0);
    }

    #[test]
    fn what_redis_confirmed_and_lost_is_sent_again_in_its_order() {
        let (mut feed, now) = feed(&["a", "b", "c"]);
        feed.take_batch(2);
        feed.stored(1, id(1));
        feed.stored(2, id(2));
        let empty = Standing::default();
        feed.resume(empty, false); // restarted without its data
        feed.caught_up(empty);
        assert_eq!(numbers(&feed.take_batch(2)), [1, 2]);
        feed.stored(1, id(3));
        feed.stored(2, id(4));
        // a failover: the new master has neither of them, but others' entries before and after
        feed.resume(standing(9, 2), true);
        assert!(matches!(feed.read(id(9), "x", false, None), Read::Foreign));
        feed.caught_up(standing(9, 2));
        assert_eq!(numbers(&feed.take_batch(10)), [1, 2, 3]);
        assert_eq!(names(feed.overdue(now + DEADLINE)), ["a", "b", "c"], "once");
        assert!(feed.take_lost().is_empty());
    }

    #[test]
    fn repetitions_of_other_nodes_are_dropped_and_node_peers_are_not_numbered() {
        let (mut feed, _) = feed(&[]);
        let mut read = |ms, uid, number| {
            let read = feed.read(id(ms), uid, false, number);
            matches!(read, Read::Foreign)
        };
        assert!(read(1, "x", Some(1)));
        assert!(!read(2, "x", Some(1)));
        assert!(read(3, "y", Some(1)));
        assert!(read(4, "x", Some(2)));
        assert!(read(5, "node", None));
        assert!(read(6, "node", None));
        assert_eq!(feed.cursor(), id(6));
    }

    #[test]
    fn the_bound_holds_and_one_large_message_fits() {
        let mut feed = Feed::new(id(0), MAX_BYTES);
        let mut push = |bytes: usize| {
            feed.push(
                Instant::now(),
                "/".into(),
                message("x"),
                vec![("d", "x".repeat(bytes - 1).into())],
            )
        };
        assert!(push(5_000).is_ok());
        assert_eq!(push(1), Err(BusFull));
        let mut feed = Feed::new(id(0), MAX_BYTES);
        let mut push = |bytes: usize| {
            feed.push(
                Instant::now(),
                "/".into(),
                message("x"),
                vec![("d", "x".repeat(bytes - 1).into())],
            )
        };
        assert_eq!((push(500), push(500), push(1)), (Ok(1), Ok(2), Err(BusFull)));
    }
}
