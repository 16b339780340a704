//! The rooms of one socket along the log, as the oracle knows them.

use std::collections::{BTreeMap, BTreeSet};

use tokio::time::Instant;

use super::client::Life;
use super::oracle::{Logged, Oracle};
use super::world::{Entered, Op, World};
use crate::cluster::StreamId;
use crate::cluster::message::{Message, Target};
use crate::engine::packet::Str;

/// Is a socket in a room? Is an event for it?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Is {
    Yes,
    No,
    Maybe,
}

impl Is {
    fn or(self, other: Self) -> Self {
        match (self, other) {
            (Self::Yes, _) | (_, Self::Yes) => Self::Yes,
            (Self::No, Self::No) => Self::No,
            _ => Self::Maybe,
        }
    }

    fn and_not(self, other: Self) -> Self {
        match (self, other) {
            (Self::No, _) | (_, Self::Yes) => Self::No,
            (Self::Yes, Self::No) => Self::Yes,
            _ => Self::Maybe,
        }
    }
}

/// What happens to a socket apart from the log: behind the entry `mark`.
enum Happening<'a> {
    Entered(&'a Entered),
    Op(&'a Op, bool),
    /// From here on a node may be ahead of the log with a change of these rooms.
    Ahead(&'a [Str]),
}

impl Happening<'_> {
    fn at(&self) -> Option<Instant> {
        match self {
            Self::Entered(entered) => Some(entered.at),
            Self::Op(op, _) => Some(op.at),
            Self::Ahead(_) => None,
        }
    }

    fn mark(&self) -> StreamId {
        match self {
            Self::Entered(entered) => entered.mark,
            Self::Op(op, _) => op.mark,
            Self::Ahead(_) => StreamId::default(),
        }
    }
}

/// The rooms of one socket along the log.
pub(super) struct Rooms<'a> {
    world: &'a World,
    sid: &'a str,
    happenings: std::vec::IntoIter<(StreamId, Happening<'a>)>,
    next: Option<(StreamId, Happening<'a>)>,
    /// Redis has lost data since the session began: rooms and data may be older than they were.
    in_doubt: bool,
    nodes: BTreeSet<usize>,
    pub(super) states: BTreeMap<String, Is>,
    /// Rooms that a node may have changed ahead of the log, and how often.
    ahead: BTreeMap<String, usize>,
    data: Option<serde_json::Value>,
    /// As it was behind an entry: for what was delivered ahead of the log.
    before: Vec<(StreamId, BTreeMap<String, Is>)>,
    seen: usize,
    pub(super) wrong: Vec<String>,
}

impl<'a> Rooms<'a> {
    pub(super) fn new(life: &'a Life, entered: &[&'a Entered], oracle: &'a Oracle<'_>) -> Self {
        let mut happenings: Vec<Happening<'a>> =
            entered.iter().map(|entered| Happening::Entered(entered)).collect();
        for op in oracle.outcome.trace.ops.iter().filter(|op| op.sid == life.sid) {
            let now = entered.iter().rev().find(|one| one.at <= op.at);
            if now.is_none_or(|now| now.node != op.node) {
                continue; // the session is elsewhere already, and this socket nobody's
            }
            let next = entered.iter().find(|one| one.at > op.at);
            let sure = next.is_none_or(|next| oracle.is_kept(life, op, next));
            happenings.push(Happening::Op(op, sure));
        }
        // A loss takes nodes back: what happened later stands later.
        happenings.sort_by_key(Happening::at);
        let mut last = StreamId::default();
        let mut placed: Vec<_> = Vec::with_capacity(happenings.len());
        for happening in happenings {
            last = last.max(happening.mark());
            placed.push((last, happening));
        }
        let nodes: BTreeSet<usize> = entered.iter().map(|one| one.node).collect();
        for logged in &oracle.log {
            if let Some((node, after)) = logged.early
                && let Message::Join { rooms, .. } | Message::Leave { rooms, .. } = &logged.message
                && nodes.contains(&node)
            {
                placed.push((after, Happening::Ahead(rooms)));
            }
        }
        let is_ahead = |happening: &Happening<'_>| matches!(happening, Happening::Ahead(_));
        placed.sort_by_key(|(mark, happening)| (*mark, !is_ahead(happening)));
        let mut happenings = placed.into_iter();
        let next = happenings.next();
        let user = format!("user-{}", life.user);
        Self {
            world: &oracle.outcome.world,
            sid: &life.sid,
            happenings,
            next,
            in_doubt: oracle.lossy,
            nodes,
            ahead: BTreeMap::new(),
            states: BTreeMap::from([(user, Is::Maybe)]),
            data: Some(serde_json::json!({})),
            before: Vec::new(),
            seen: 0,
            wrong: Vec::new(),
        }
    }

    pub(super) fn was_on(&self, node: usize) -> bool {
        self.nodes.contains(&node)
    }

    /// Applies what was before the entry `id`.
    pub(super) fn advance(&mut self, id: StreamId) {
        while let Some((mark, next)) = self.next.take_if(|(mark, _)| *mark < id) {
            self.happen(next);
            self.before.push((mark, self.states.clone()));
            self.next = self.happenings.next();
        }
    }

    pub(super) fn finish(&mut self) {
        self.advance(StreamId { ms: u64::MAX, seq: u64::MAX });
    }

    fn happen(&mut self, happening: Happening<'_>) {
        match happening {
            Happening::Entered(entered) => self.enter(entered),
            Happening::Op(op, sure) if op.what == "data" => {
                let data = serde_json::json!({ "value": op.value });
                self.data = sure.then_some(data);
            }
            Happening::Ahead(rooms) => {
                for room in rooms {
                    *self.ahead.entry(room.to_string()).or_default() += 1;
                    self.states.insert(room.to_string(), Is::Maybe);
                }
            }
            Happening::Op(op, sure) => {
                let to = if op.what == "join" { Is::Yes } else { Is::No };
                self.set(&op.value, to, sure);
            }
        }
    }

    fn set(&mut self, room: &str, to: Is, sure: bool) {
        let sure = sure && !self.ahead.contains_key(room);
        let state = self.states.entry(room.to_owned()).or_insert(Is::No);
        if *state != to {
            *state = if sure { to } else { Is::Maybe };
        }
    }

    /// Are rooms and data as they were?
    fn enter(&mut self, entered: &Entered) {
        let user = self.states.keys().find(|room| room.starts_with("user-")).cloned();
        if let Some(user) = user {
            self.states.insert(user, Is::Yes);
        }
        self.seen += 1;
        if !entered.connected {
            return; // it was put out again already
        }
        let names: BTreeSet<String> = self.states.keys().chain(&entered.rooms).cloned().collect();
        for room in names {
            let there = entered.rooms.contains(&room);
            let state = self.states.get(&room).copied().unwrap_or(Is::No);
            if self.ahead.contains_key(&room) || self.in_doubt {
                continue;
            }
            if state == Is::Maybe || (state == Is::Yes) == there {
                self.states.insert(room, if there { Is::Yes } else { Is::No });
                continue;
            }
            let word = if there { "in" } else { "not in" };
            let (node, mark, seen) = (entered.node, entered.mark, self.seen);
            self.wrong.push(format!("it is {word} {room} on node {node} at {mark} (entry {seen})"));
            self.states.insert(room, if there { Is::Yes } else { Is::No });
        }
        match &self.data {
            Some(data) if *data != entered.data && !self.in_doubt => {
                self.wrong.push(format!("its data is {} and was {data}", entered.data));
            }
            _ => {}
        }
        self.data = Some(entered.data.clone());
    }

    /// What was done ahead of the log is in the log now.
    pub(super) fn caught_up(&mut self, logged: &Logged) {
        let (Message::Join { rooms, .. } | Message::Leave { rooms, .. }) = &logged.message else {
            return;
        };
        if logged.early.is_none_or(|(node, _)| !self.was_on(node)) {
            return;
        }
        for room in rooms {
            self.states.insert(room.to_string(), Is::Maybe);
            let left = self.ahead.entry(room.to_string()).or_default();
            *left = left.saturating_sub(1);
            if *left == 0 {
                self.ahead.remove(room.as_str());
            }
        }
    }

    /// A change that is in the log.
    pub(super) fn change(&mut self, logged: &Logged, is: Is) {
        let (rooms, to) = match &logged.message {
            Message::Join { rooms, .. } => (rooms, Is::Yes),
            Message::Leave { rooms, .. } => (rooms, Is::No),
            _ => return,
        };
        // a node that had it ahead of the log applied it before some others
        let early = logged.early.filter(|(node, _)| self.was_on(*node));
        self.world.say(|| {
            let (sid, id, early) = (self.sid, logged.id, logged.early);
            format!("{sid} at {id}: {rooms:?} {to:?} ({is:?}), early {early:?}")
        });
        for room in rooms {
            let sure = is == Is::Yes && !logged.shaky && early.is_none();
            self.set(room, to, sure);
        }
        self.before.push((logged.id, self.states.clone()));
    }

    pub(super) fn is_meant(&self, target: &Target) -> Is {
        match is_meant(&self.states, self.sid, target) {
            _ if self.in_doubt && target.rooms.iter().any(|room| room.as_str() != self.sid) => {
                Is::Maybe
            }
            Is::Yes if self.in_doubt && !target.except.is_empty() => Is::Maybe,
            Is::No if self.in_doubt => Is::Maybe,
            is => is,
        }
    }

    /// As [`Self::is_meant`], for a message that may have been delivered at any time since `after`.
    pub(super) fn is_meant_since(&self, after: StreamId, target: &Target) -> Is {
        let now = self.is_meant(target);
        let first = self.before.partition_point(|(id, _)| *id < after).saturating_sub(1);
        let then = self.before[first..].iter();
        let same = |(_, states): &(_, _)| is_meant(states, self.sid, target) == now;
        if then.clone().all(same) { now } else { Is::Maybe }
    }
}

fn is_meant(states: &BTreeMap<String, Is>, sid: &str, target: &Target) -> Is {
    let is_in = |room: &str| match room == sid {
        true => Is::Yes,
        false => states.get(room).copied().unwrap_or(Is::No),
    };
    let any = |rooms: &[Str]| rooms.iter().fold(Is::No, |is, room| is.or(is_in(room)));
    let to = if target.rooms.is_empty() { Is::Yes } else { any(&target.rooms) };
    to.and_not(any(&target.except))
}
