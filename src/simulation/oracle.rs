//! What every client should have got, from the log itself and from what was done to the sockets. It shares
//! nothing with the code that it judges but the format of the log's entries.
//!
//! Where two answers are right (a node died before it could write down what a handler had changed; a message
//! was delivered ahead of the log) rooms are in doubt for just that time, and either answer is taken.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use tokio::time::Instant;

use super::client::{Life, Refused};
use super::rooms::{Is, Rooms};
use super::world::{Entered, Fault, Op, Outcome, Trouble};
use crate::cluster::StreamId;
use crate::cluster::history::{Early, Offset};
use crate::cluster::message::Message;
use crate::cluster::wire::{Entry, decode_session, session_keys};
use crate::socketio::packet::Codec;

/// How long a node may take until what it has taken is written: a pass of the keeper.
const UNWRITTEN: Duration = Duration::from_millis(1_500);

/// How long a node may wait until it connects to Redis again.
const AGAIN: Duration = Duration::from_secs(3);

/// An entry of the log.
pub(super) struct Logged {
    pub(super) id: StreamId,
    pub(super) message: Message,
    /// The event's number.
    number: Option<u64>,
    /// A node, and where that was, delivered it ahead of the log.
    pub(super) early: Option<(usize, StreamId)>,
    /// Redis has lost it, or had to be given it again.
    pub(super) shaky: bool,
}

impl Logged {
    fn is_recoverable(&self) -> bool {
        let Message::Broadcast { flags, .. } = &self.message else { return false };
        !flags.volatile && flags.ack.is_none()
    }
}

pub(super) struct Oracle<'a> {
    pub(super) outcome: &'a Outcome,
    pub(super) log: Vec<Logged>,
    /// Where an event is in the log.
    places: HashMap<u64, Vec<StreamId>>,
    /// Redis has lost data.
    pub(super) lossy: bool,
    violations: Vec<String>,
}

/// All that is wrong.
pub(super) fn judge(outcome: &Outcome) -> Vec<String> {
    let mut oracle = Oracle::new(outcome);
    oracle.log_is_whole();
    for life in &outcome.lives {
        oracle.life(life);
    }
    for refused in &outcome.trace.refused {
        oracle.refused(refused);
    }
    for client in &outcome.outside {
        oracle.violations.push(format!("client {client} is not connected at the end"));
    }
    oracle.violations
}

impl<'a> Oracle<'a> {
    fn new(outcome: &'a Outcome) -> Self {
        let mut early: Vec<(usize, Early)> = Vec::new();
        for node in &outcome.nodes {
            let all = node.early();
            early.extend(all.into_iter().map(|early| (node.index, early)));
        }
        let history = outcome.world.redis.history();
        let mut seen: BTreeMap<(String, u64), bool> = BTreeMap::new();
        let mut log = Vec::new();
        for stored in &history {
            let text = |name: &str| {
                let value = stored.fields.get(name).map(|value| value.to_vec());
                value.and_then(|value| String::from_utf8(value).ok()).unwrap_or_default()
            };
            let (uid, number) = (text("uid"), text("q").parse::<u64>().ok());
            let Ok(Some(entry)) = Entry::parse(stored.fields.clone()) else { continue };
            let message = entry.into_message(Codec::Json).expect("an entry of ours");
            let node = uid[..16.min(uid.len())].to_owned();
            let number = number.expect("entries of ours are numbered");
            let lost = seen.get(&(node.clone(), number)).copied();
            seen.insert((node.clone(), number), stored.lost || lost.unwrap_or(false));
            let ahead = early.iter().find(|(_, early)| {
                early.node.as_str() == node && (early.from..=early.to).contains(&number)
            });
            log.push(Logged {
                id: stored.id,
                number: event_number(&message),
                message,
                early: ahead.map(|(index, early)| (*index, early.after)),
                shaky: stored.lost || lost.is_some(),
            });
        }
        let mut places: HashMap<u64, Vec<StreamId>> = HashMap::new();
        for logged in &log {
            if let Some(number) = logged.number {
                places.entry(number).or_default().push(logged.id);
            }
        }
        let losses = [Fault::LoseSome, Fault::LoseAll];
        let lossy = outcome.trace.troubles.iter().any(|one| losses.contains(&one.fault));
        Self { outcome, log, places, lossy, violations: Vec::new() }
    }

    fn wrong(&mut self, life: &Life, what: String) {
        let (client, sid) = (life.client, &life.sid);
        self.violations.push(format!("client {client}, socket {sid}: {what}"));
    }

    /// What a node has taken is in the log, once.
    fn log_is_whole(&mut self) {
        if self.lossy {
            return;
        }
        for (number, places) in &self.places {
            if places.len() > 1 {
                let what = format!("event {number} is in the log {} times", places.len());
                self.violations.push(what);
            }
        }
        let dead = |index: usize| {
            let forever = [Fault::Crash, Fault::SilentCrash, Fault::Drain];
            self.outcome
                .trace
                .troubles
                .iter()
                .any(|trouble| trouble.node == Some(index) && forever.contains(&trouble.fault))
        };
        for (number, (node, _)) in &self.outcome.trace.accepted {
            if !dead(*node) && !self.places.contains_key(number) {
                let what =
                    format!("event {number} of node {node} was accepted and is not in the log");
                self.violations.push(what);
            }
        }
    }

    fn troubles(&self, from: Instant, to: Instant) -> impl Iterator<Item = &'a Trouble> {
        let troubles = &self.outcome.trace.troubles;
        troubles.iter().filter(move |trouble| trouble.overlaps(from, to))
    }

    /// Was a refusal right?
    fn refused(&mut self, refused: &Refused) {
        let Some(life) = self.outcome.lives.iter().find(|life| life.pid == refused.pid) else {
            return;
        };
        let plan = &self.outcome.world.plan;
        // what was lost is lost; of what was late nothing is felt any more
        let mut begun = life.connected.first().copied().unwrap_or(refused.lost);
        if !self.lossy {
            begun = begun.max(refused.lost - Duration::from_secs(3));
        }
        let redis = self.troubles(begun, refused.at).any(|trouble| !trouble.spares_redis());
        let put_out = life.put_out
            || self.log.iter().any(|logged| {
                matches!(logged.message, Message::Disconnect { .. })
                    && logged
                        .message
                        .target()
                        .is_some_and(|target| target.rooms.iter().any(|room| **room == *life.sid))
            });
        // one that hangs itself cannot ask the store
        let hung =
            self.troubles(refused.lost, refused.at).any(|one| one.node == Some(refused.node));
        // One that goes moments after it has taken a session has not written what it knows of it, nor has one that was
        // only waiting to be connected again.
        let entered = self.outcome.trace.entered.iter().filter(|one| one.pid == life.pid);
        let unwritten = entered.into_iter().any(|one| {
            let until = (one.at + UNWRITTEN).min(refused.at);
            self.troubles(one.at - AGAIN, until).any(|trouble| trouble.node == Some(one.node))
        });
        let away = refused.at - refused.lost;
        let explained = redis
            || hung
            || unwritten
            || put_out
            || refused.other_user
            || !plan.is_roomy()
            || away >= plan.window;
        if !explained {
            let what = format!("was not recovered after {away:?}, and nothing explains that");
            self.wrong(life, what);
        }
    }

    fn life(&mut self, life: &Life) {
        let entered: Vec<&Entered> =
            self.outcome.trace.entered.iter().filter(|one| one.pid == life.pid).collect();
        let mut counts: BTreeMap<u64, usize> = BTreeMap::new();
        for received in &life.received {
            *counts.entry(received.number).or_default() += 1;
        }
        for (number, count) in &counts {
            // (a broadcast that wants answers goes by another way than the log, and a client may meet it twice)
            if *count > 1 && !self.outcome.trace.asked.contains(number) {
                self.wrong(life, format!("event {number} came {count} times"));
            }
        }
        if life.came_back && !self.lossy {
            self.wrong(life, "it was put out, and went on".to_owned());
        }
        self.order(life);
        let Some(first) = entered.first() else { return };
        if let Some(other) = entered.iter().find(|one| one.sid != life.sid) {
            self.wrong(life, format!("its session had another id, {}", other.sid));
        }
        if let Some(twice) = entered[1..].iter().find(|one| !one.recovered) {
            self.wrong(life, format!("its session was new twice, on node {}", twice.node));
        }
        let start = first.start;
        self.walk(life, &entered, start, &counts);
    }

    /// Events of the log's order come in it.
    fn order(&mut self, life: &Life) {
        let mut last: Option<(StreamId, u64)> = None;
        let mut wrong = Vec::new();
        for received in &life.received {
            let places = self.places.get(&received.number);
            let offset: Option<Offset> =
                received.offset.as_ref().and_then(|offset| offset.parse().ok());
            let Some(offset) = offset else {
                if received.offset.is_some() {
                    wrong.push(format!("event {} has no offset", received.number));
                }
                continue;
            };
            let Some(places) = places.filter(|_| offset.early == 0) else { continue };
            if !places.contains(&offset.id) {
                wrong.push(format!("event {} has the offset {offset}", received.number));
            }
            if let Some((before, number)) = last.filter(|(before, _)| *before >= offset.id) {
                let what =
                    format!("event {number} ({before}) before {} ({offset})", received.number);
                wrong.push(what);
            }
            last = Some((offset.id, received.number));
        }
        for what in wrong {
            self.wrong(life, what);
        }
    }

    fn walk(
        &mut self,
        life: &Life,
        entered: &[&Entered],
        start: StreamId,
        counts: &BTreeMap<u64, usize>,
    ) {
        let oracle = &*self;
        let mut rooms = Rooms::new(life, entered, oracle);
        let last_got = life.received.iter().rev().find_map(|received| {
            let offset: Offset = received.offset.as_ref()?.parse().ok()?;
            (offset.early == 0).then_some(offset.id)
        });
        let alive = self.outcome.lives.iter().rev().find(|other| other.client == life.client);
        let alive = alive.is_some_and(|last| last.pid == life.pid) && !life.put_out;
        let mut wrong = Vec::new();
        for logged in &self.log {
            rooms.advance(logged.id);
            let Some(target) = logged.message.target() else { continue };
            let is = match logged.early {
                Some((node, after)) if rooms.was_on(node) => rooms.is_meant_since(after, target),
                _ => rooms.is_meant(target),
            };
            let Some(number) = logged.number else {
                if logged.id > start && is != Is::No {
                    rooms.change(logged, is);
                }
                rooms.caught_up(logged);
                continue;
            };
            let got = counts.get(&number).copied().unwrap_or(0);
            let place = format!("event {number} ({})", logged.id);
            if got > 0 && logged.id <= start && !logged.shaky {
                wrong.push(format!("{place} was before its session, which began at {start}"));
            } else if got > 0 && is == Is::No && !logged.shaky {
                wrong.push(format!("{place} was not for it: {target:?}"));
            }
            let due = logged.id > start && (alive || last_got.is_some_and(|last| logged.id < last));
            if got == 0 && is == Is::Yes && due && logged.is_recoverable() && !logged.shaky {
                wrong.push(format!("{place} did not come: {target:?}, rooms {:?}", rooms.states));
            }
        }
        rooms.finish();
        wrong.append(&mut rooms.wrong);
        for what in wrong {
            self.wrong(life, what);
        }
    }
}

fn event_number(message: &Message) -> Option<u64> {
    let Message::Broadcast { args, .. } = message else { return None };
    args.decode::<u64>().ok()
}

impl Oracle<'_> {
    /// Did a handler's change outlive the socket's node, or could its next node ask for it?
    pub(super) fn is_kept(&self, life: &Life, op: &Op, next: &Entered) -> bool {
        let mut troubles = self.troubles(op.at, next.at);
        let apart = troubles.any(|trouble| match trouble.fault {
            Fault::Drain => false,
            _ => trouble.node.is_none_or(|node| node == op.node || node == next.node),
        });
        if !apart {
            return true;
        }
        let (key, _) = session_keys("sio:session:", &life.pid);
        !self.lossy
            && self.outcome.world.redis.writes(&key).iter().any(|(at, value)| {
                let record = decode_session(value).expect("a record of ours");
                let is_in =
                    record.rooms.iter().any(|span| *span.room == *op.value && span.until.is_none());
                let shows = match op.what.as_str() {
                    "join" => is_in,
                    "leave" => !is_in,
                    _ => record.data == serde_json::json!({ "value": op.value }),
                };
                *at > op.at && *at < next.at && shows
            })
    }
}
