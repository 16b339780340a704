//! Connection state recovery as values: what is remembered of a socket while it lives ([`Track`]), and what
//! a client has missed when it comes back ([`Replay`]). No I/O.
//!
//! # Contract
//!
//! A client that comes back is sent every entry of the log that was for it and that it has not got, once,
//! in the order of the log; or it is told that it was not recovered ([`NotRecovered`]). For this
//!
//! - positions are compared by order. Whether the entry of a client's offset still exists does not matter;
//! - a client's offset says what it *got*; [`Sent`] says what it was *sent*. A client that has got the last
//!   entry that it was sent has everything up to where its node was, however long ago that entry was;
//! - rooms are spans of the log. What was for a room before the socket joined it, or after it left, is not
//!   for the socket; joins, leaves and disconnects in the log hold for a socket that is away.

use std::collections::VecDeque;
use std::sync::Arc;

use super::live::Place;
use crate::cluster::StreamId;
use crate::cluster::history::{Early, Offset, Origin, Past, Received, bound};
use crate::cluster::message::{Message, Target};
use crate::cluster::session::{Record, Sent, Span};
use crate::engine::packet::Str;
use crate::error::NotRecovered;
use crate::socketio::packet::{Args, Codec};

/// Entries that are remembered as sent.
const SENT: usize = 8;

/// Ranges of early messages of its node in a record, which is written with each change: the more of them, the fewer
/// clients are in doubt.
const EARLY: usize = 16;

/// The same of nodes that it was on before: who moves more often while Redis is slow is not recovered.
const INHERITED: usize = 256;

/// Stays in rooms that are over, and remembered in case events for them were lost on the way.
const ENDED_SPANS: usize = 32;

/// What is remembered of a socket that is connected.
#[derive(Debug)]
pub(super) struct Track {
    start: StreamId,
    rooms: Vec<Span>,
    /// See [`Record::forgotten`].
    forgotten: StreamId,
    sent: Sent,
    /// Early messages of this node up to this number were delivered before the socket entered.
    entered: u64,
    /// Where the session went on here, unless it began here.
    since: Option<Offset>,
    /// Early messages that it has got elsewhere, before.
    inherited: Vec<Early>,
    /// See [`Record::leftover`].
    leftover: Option<Offset>,
    /// See [`Record::unsent`].
    unsent: Option<Offset>,
}

impl Track {
    /// A session that begins at `start`.
    pub(super) fn new(start: StreamId) -> Self {
        let sent = Sent { behind: start, ids: VecDeque::new() };
        Self {
            start,
            rooms: Vec::new(),
            forgotten: StreamId::default(),
            sent,
            entered: 0,
            since: None,
            inherited: Vec::new(),
            leftover: None,
            unsent: None,
        }
    }

    /// From now on it is among those that early messages are delivered to; the last one was `early`.
    pub(super) fn enter(&mut self, early: u64) {
        self.entered = early;
    }

    /// The session goes on, from where the node is.
    pub(super) fn goes_on(&mut self, at: Offset) {
        self.since = Some(at);
    }

    pub(super) fn start(&self) -> StreamId {
        self.start
    }

    /// What the client of a new session has got last, in an earlier one.
    pub(super) fn left_over(&mut self, offset: Option<Offset>) {
        // what is before all that this session can give it says nothing
        self.leftover = offset.filter(|offset| *offset > self.start.into());
    }

    pub(super) fn leftover(&self) -> Option<Offset> {
        self.leftover
    }

    /// The same, of an offset that nothing in the session will have.
    pub(super) fn unsent(&mut self, offset: Option<Offset>) {
        self.unsent = offset;
    }

    pub(super) fn join(&mut self, rooms: &[Str], at: StreamId) {
        for room in rooms {
            if !self.rooms.iter().any(|span| span.room == *room && span.until.is_none()) {
                self.rooms.push(Span { room: room.clone(), since: at, until: None });
            }
        }
    }

    pub(super) fn leave(&mut self, rooms: &[Str], at: StreamId) {
        end_spans(&mut self.rooms, &mut self.forgotten, rooms, at);
    }

    /// Was sent an entry.
    pub(super) fn sent(&mut self, id: StreamId) {
        if self.sent.ids.len() == SENT {
            self.sent.behind = self.sent.ids.pop_front().unwrap_or_default();
        }
        self.sent.ids.push_back(id);
    }

    /// Is this own message, which others had early, new to the socket? (It comes back from the log.)
    pub(super) fn is_echo_new(&self, origin: &Origin) -> bool {
        origin.number <= self.entered && !self.has(origin)
    }

    /// Has it got this message elsewhere, ahead of the log?
    pub(super) fn has(&self, origin: &Origin) -> bool {
        self.inherited.iter().any(|early| early.contains(origin))
    }

    /// Fills the part of a record that this knows. `place`: where the node is; it must have been asked before.
    pub(super) fn record(&self, record: &mut Record, Place { at, early, gap }: Place) {
        record.start = self.start;
        record.at = Some(at);
        record.rooms.clone_from(&self.rooms);
        record.forgotten = self.forgotten;
        let mut sent = self.sent.clone();
        let begun = self.since.map_or(self.start, |since| since.id);
        if gap.up_to > begun {
            // The node has missed something since, which it cannot have sent: to have got the last that it sent says
            // nothing of what was before.
            sent.behind = sent.behind.max(gap.up_to);
            sent.ids.retain(|id| *id > gap.up_to);
        }
        if gap.void > begun {
            // elsewhere offsets of before must not be taken for what is in the log now
            record.forgotten = record.forgotten.max(gap.void);
        }
        record.sent = Some(sent);
        (record.leftover, record.unsent) = (self.leftover, self.unsent);
        let mut own = early;
        own.retain_mut(|early| {
            early.from = early.from.max(self.entered + 1);
            early.from <= early.to
        });
        bound(&mut own, EARLY);
        record.early = [&self.inherited[..], &own].concat();
        record.early.extend(self.since.map(went_on));
    }
}

/// How a record says where its session went on last: no node, and no first number.
fn went_on(at: Offset) -> Early {
    Early { node: Str::default(), since: at.id, after: at.id, from: 0, to: at.early }
}

/// What [`went_on`] says.
fn goes_on_from(record: &Record) -> Option<Offset> {
    let early = record.early.iter().find(|early| early.node.is_empty() && early.from == 0)?;
    Some(Offset { id: early.after, early: early.to })
}

/// `forgotten` takes the end of those that are not remembered any more: the ones that ended first.
fn end_spans(spans: &mut Vec<Span>, forgotten: &mut StreamId, rooms: &[Str], at: StreamId) {
    for span in spans.iter_mut() {
        if span.until.is_none() && rooms.contains(&span.room) {
            span.until = Some(at);
        }
    }
    let mut ends: Vec<StreamId> = spans.iter().filter_map(|span| span.until).collect();
    let Some(surplus) = ends.len().checked_sub(ENDED_SPANS + 1) else { return };
    let (_, last, _) = ends.select_nth_unstable(surplus);
    *forgotten = (*last).max(*forgotten);
    spans.retain(|span| span.until.is_none_or(|until| until > *last));
}

/// What the client says it has got last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Claim {
    /// Nothing.
    Nothing,
    Offset(Offset),
    /// Something that is no offset (an application may overwrite it with its own `auth`).
    Unreadable,
}

impl Claim {
    pub(super) fn offset(self) -> Option<Offset> {
        match self {
            Self::Offset(offset) => Some(offset),
            Self::Nothing | Self::Unreadable => None,
        }
    }

    /// See [`Record::taken`].
    pub(super) fn text(self) -> Str {
        self.offset().map_or_else(String::new, |offset| offset.to_string()).into()
    }
}

/// How much may be sent again to one client.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    pub(crate) events: usize,
    pub(crate) bytes: usize,
}

/// An event to be sent again.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Missed {
    pub(super) id: StreamId,
    pub(super) args: Args,
    pub(super) compress: bool,
}

/// Goes through the log from where the client stands.
#[derive(Debug)]
pub(super) struct Replay {
    sid: Str,
    start: StreamId,
    /// The record holds up to here: changes of rooms in the log until here are in it.
    at: StreamId,
    rooms: Vec<Span>,
    forgotten: StreamId,
    sent: Sent,
    /// Early messages that took effect on the socket when it was connected.
    applied: Vec<Early>,
    /// Those of them that the client has got.
    received: Vec<Early>,
    /// Events behind this are sent again.
    from: StreamId,
    /// Where the way through the log stands.
    passed: StreamId,
    bounds: Bounds,
    events: usize,
    bytes: usize,
}

impl Replay {
    /// `oldest`: what was before is forgotten. `head`: where this node is.
    ///
    /// # Errors
    /// [`NotRecovered::Offset`], [`NotRecovered::History`].
    pub(super) fn new(
        record: &Record,
        claim: Claim,
        (oldest, head): (StreamId, Offset),
        bounds: Bounds,
    ) -> Result<Self, NotRecovered> {
        let (from, offset) = begin(record, claim, head)?;
        let at = record.at.map(|at| at.id);
        // What was done to the socket behind the record may be before what the client got last. Records of sockets
        // that live are written soon after such a change: one that is forgotten is in the record. A last one is not
        // written again.
        let is_past = record.is_last && at.is_some_and(|at| at < oldest);
        if from < oldest.max(record.forgotten) || is_past {
            return Err(NotRecovered::History);
        }
        let passed = at.map_or(from, |at| at.min(from).max(oldest));
        let received = match offset {
            Some(offset) => received(record, offset, from)?,
            None => Vec::new(),
        };
        Ok(Self {
            sid: record.sid.clone(),
            start: record.start,
            at: at.unwrap_or(from),
            rooms: record.rooms.clone(),
            forgotten: record.forgotten,
            sent: record.sent.clone().unwrap_or(Sent { behind: from, ids: VecDeque::new() }),
            applied: record.early.clone(),
            received,
            from,
            passed,
            bounds,
            events: 0,
            bytes: 0,
        })
    }

    /// Entries behind this are to be [`Self::step`]ped through.
    pub(super) fn passed(&self) -> StreamId {
        self.passed
    }

    /// The next entry of the namespace. Gives the event if it is to be sent again.
    ///
    /// # Errors
    /// [`NotRecovered::Disconnected`], [`NotRecovered::TooMuch`].
    pub(super) fn step(
        &mut self,
        past: &Past,
        codec: Codec,
    ) -> Result<Option<Missed>, NotRecovered> {
        self.passed = past.id;
        if !past.target().is_some_and(|target| self.is_meant(target, past.id)) {
            return Ok(None);
        }
        let known = |list: &[Early]| {
            past.origin
                .as_ref()
                .is_some_and(|origin| list.iter().any(|early| early.contains(origin)))
        };
        // decoding costs: not before it is known to be for this client
        match past.decode(codec) {
            Some(Message::Broadcast { args, flags, .. }) => {
                let again = past.id > self.from
                    && !flags.volatile
                    && flags.ack.is_none()
                    && !known(&self.received);
                if !again {
                    return Ok(None);
                }
                self.events += 1;
                self.bytes += args.len_bytes();
                if self.events > self.bounds.events || self.bytes > self.bounds.bytes {
                    return Err(NotRecovered::TooMuch);
                }
                Ok(Some(Missed { id: past.id, args, compress: flags.compress }))
            }
            Some(message) if past.id > self.at && !known(&self.applied) => {
                self.change(&message, past.id)
            }
            _ => Ok(None),
        }
    }

    fn change(&mut self, message: &Message, id: StreamId) -> Result<Option<Missed>, NotRecovered> {
        match message {
            Message::Join { rooms, .. } => {
                for room in rooms.iter().filter(|room| **room != self.sid) {
                    let later = self.rooms.iter().any(|span| {
                        span.room == *room && span.until.is_none_or(|until| until >= id)
                    });
                    if !later {
                        self.rooms.push(Span { room: room.clone(), since: id, until: None });
                    }
                }
            }
            Message::Leave { rooms, .. } => {
                // what was joined after this entry stays joined
                let before = |room: &&Str| {
                    self.rooms.iter().any(|span| span.room == **room && span.since < id)
                };
                let rooms: Vec<Str> = rooms.iter().filter(before).cloned().collect();
                end_spans(&mut self.rooms, &mut self.forgotten, &rooms, id);
            }
            Message::Disconnect { .. } => return Err(NotRecovered::Disconnected),
            Message::Broadcast { .. } | Message::ServerSideEmit { .. } => {}
        }
        Ok(None)
    }

    fn is_meant(&self, target: &Target, id: StreamId) -> bool {
        let is_in = |room: &Str| {
            *room == self.sid
                || self.rooms.iter().any(|span| {
                    span.room == *room
                        && span.since < id
                        && span.until.is_none_or(|until| id <= until)
                })
        };
        (target.rooms.is_empty() || target.rooms.iter().any(is_in))
            && !target.except.iter().any(is_in)
    }

    /// Begins a session at `start`.
    pub(super) fn fresh(sid: Str, start: StreamId, bounds: Bounds) -> Self {
        Self {
            sid,
            start,
            at: start,
            rooms: Vec::new(),
            forgotten: StreamId::default(),
            sent: Sent { behind: start, ids: VecDeque::new() },
            applied: Vec::new(),
            received: Vec::new(),
            from: start,
            passed: start,
            bounds,
            events: 0,
            bytes: 0,
        }
    }

    /// What is remembered from now on, and the rooms that the socket is in.
    pub(super) fn into_track(self) -> (Track, Vec<Str>) {
        let joined = self.rooms.iter().filter(|span| span.until.is_none());
        let rooms = joined.map(|span| span.room.clone()).collect();
        let track = Track {
            start: self.start,
            rooms: self.rooms,
            forgotten: self.forgotten,
            sent: self.sent,
            entered: 0,
            since: None,
            inherited: self.received,
            leftover: None,
            unsent: None,
        };
        (track, rooms)
    }
}

/// What the client has got ahead of the log. What is behind `from` is sent again.
///
/// # Errors
/// [`NotRecovered::Offset`]: something, and the record is older than that. (Its node was cut off from the
/// store, and cannot be asked.) Nobody knows then what it was.
fn received(record: &Record, offset: Offset, from: StreamId) -> Result<Vec<Early>, NotRecovered> {
    // without a node: an offset that the client came with, which was looked into then
    let Offset { id, early } = offset;
    let claim = Early { node: Str::default(), since: id, after: id, from: early, to: early };
    let came_with_it = offset.early > 0 && record.early.contains(&claim);
    // the node that has taken the session since has not said what the client got there
    let is_old = record.is_old(offset);
    // (what a node sends beside the log has the offset of what came before it)
    if is_old && record.at.is_some_and(|at| at.id <= id) {
        return Err(NotRecovered::Offset);
    }
    // the log had shown all of them, and nothing of before is sent again
    let is_shown = record.at.is_some_and(|at| at.early == 0 && at.id <= from);
    let mut received: Vec<Early> = Vec::new();
    let mut own = false;
    for early in record.early.iter().filter(|early| !early.node.is_empty()) {
        let is_settled = early.is_settled();
        if is_old && !is_settled && early.since <= id {
            return Err(NotRecovered::Offset);
        }
        if is_shown && !is_settled {
            continue;
        }
        // the number is one of another node's, from before; or else it would be in doubt whose it is
        if came_with_it && (early.since..=early.after).contains(&id) {
            if early.is_coarse() || (early.from..=early.to).contains(&offset.early) {
                return Err(NotRecovered::Offset);
            }
            continue;
        }
        let part = match early.received(offset) {
            Received::Nothing => continue,
            Received::InDoubt => return Err(NotRecovered::Offset),
            Received::Part(part) => part,
        };
        // What is between the numbers of one stay the log had shown. Between two stays it may be to come.
        match received.last_mut().filter(|last| last.node == part.node) {
            Some(last) if !is_settled && own || last.to + 1 == part.from => last.join(&part),
            _ => received.push(part),
        }
        own = !is_settled;
    }
    if offset.early > 0 {
        let is_later = record.at.is_some_and(|at| at >= offset) && !is_old;
        // An offset from before the session went on here, and not the one that it went on with: an attempt of
        // this client that it had given up took the session from a connection that it had, and what that
        // one was sent ahead of the log is forgotten.
        let is_foreign = goes_on_from(record).is_some_and(|at| offset <= at);
        if !came_with_it && (!is_later || is_foreign) {
            return Err(NotRecovered::Offset);
        }
        // it may come with this one again, to a node that knows nothing of it
        received.push(claim);
    }
    if received.len() > INHERITED {
        return Err(NotRecovered::History);
    }
    Ok(received)
}

/// Where to begin: everything for this client up to there it has got, or was never for it.
fn begin(
    record: &Record,
    claim: Claim,
    head: Offset,
) -> Result<(StreamId, Option<Offset>), NotRecovered> {
    let offset = match claim {
        Claim::Offset(offset) if offset.id > head.id => return Err(NotRecovered::Offset),
        // The client got nothing in this session: the offset is left over from an earlier one.
        Claim::Offset(offset) if offset.id < record.start => None,
        Claim::Offset(offset) if record.unsent == Some(offset) => None,
        // It may be left over, and what the client got in this session may be up to there as well.
        Claim::Offset(offset) if record.leftover == Some(offset) => {
            return Err(NotRecovered::Offset);
        }
        Claim::Offset(offset) => Some(offset),
        Claim::Nothing => None,
        Claim::Unreadable => {
            // Nobody knows what it has got, unless it cannot have got anything. (What it was sent is not written each
            // time.)
            let says_all = record.is_last && !record.is_taken();
            let untouched = |sent: &Sent| sent.ids.is_empty() && sent.behind == record.start;
            let early = record.early.iter().any(|early| early.from > 0);
            if !says_all || early || !record.sent.as_ref().is_some_and(untouched) {
                return Err(NotRecovered::Offset);
            }
            None
        }
    };
    // a session of Node's says nothing about where it stood
    let Some(at) = record.at else {
        return offset.map(|offset| (offset.id, Some(offset))).ok_or(NotRecovered::Offset);
    };
    let (got, at) = (offset.map_or(record.start, |offset| offset.id), at.id);
    let from = match &record.sent {
        Some(sent) if got < at && got >= sent.behind => {
            let next = sent.ids.iter().find(|id| **id > got);
            next.map_or(at, |next| next.before().max(got))
        }
        _ => got,
    };
    Ok((from, offset))
}

/// Everything behind `replay` that is in `past`, and what of it is to be sent again.
pub(super) fn step_all(
    replay: &mut Replay,
    past: Option<Vec<Arc<Past>>>,
    codec: Codec,
) -> Result<Vec<Missed>, NotRecovered> {
    let mut missed = Vec::new();
    for past in past.ok_or(NotRecovered::History)? {
        missed.extend(replay.step(&past, codec)?);
    }
    Ok(missed)
}

#[cfg(test)]
mod tests;
