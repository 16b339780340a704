//! One Engine.IO session as a value.
//!
//! # Contract
//!
//! Input: `handle_*` and `close`, each with the current time. Output: after every input call, in this
//! order, [`Session::poll_transmit`] until `None`, [`Session::poll_event`] until `None`, and arm one real
//! timer for [`Session::poll_timeout`]. [`Event::Closed`] comes exactly once and is the last event.
//!
//! The session decides; it holds no links and no application data. The owner sends messages on the
//! current link whenever that is writable, and follows the events.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::packet::{Message, Packet};
use super::{Sid, TransportKind};
use crate::error::{CloseReason, PeerMisbehaved};
use crate::time::{TimerName, Timers};

/// The times of a session, from [`crate::config::EngineConfig`].
#[derive(Clone, Debug)]
pub(crate) struct SessionTimes {
    pub(crate) ping_interval: Duration,
    pub(crate) ping_timeout: Duration,
    pub(crate) upgrade_timeout: Duration,
    /// How long an orderly close may take, flushing included (engine.io polling.ts `closeTimeout`).
    pub(crate) close_timeout: Duration,
}

/// Which of a session's links is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Slot {
    /// The link that carries the session.
    Current,
    /// The link of an upgrade that is under way.
    Probe,
}

/// What happened, for the owner to act on.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// The client sent a message.
    Message(Message),
    /// The probe is the current link now; the old one is to be let go of.
    Switched { from: TransportKind, to: TransportKind },
    /// The upgrade came to nothing; the probe link is to be closed, the session lives.
    ProbeDropped(ProbeFailure),
    /// An orderly close: send what is queued, then close the link and call [`Session::finished`].
    Closing,
    /// The session is over.
    Closed(CloseReason),
}

/// Why an upgrade came to nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ProbeFailure {
    /// It was not finished within `upgrade_timeout`.
    Timeout,
    /// The client sent what does not belong there.
    Misbehaved,
    /// The link ended.
    Lost,
    /// The session closed under it.
    SessionClosed,
}

/// Why a link cannot become a session's probe. (Node closes such links without a word.)
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum UpgradeRefused {
    /// Another upgrade is under way.
    Upgrading,
    /// Only polling can be upgraded, and upgrades may be switched off.
    NotUpgradable,
    /// The session is closing.
    Closing,
}

#[derive(Debug, PartialEq, Eq)]
enum State {
    Open,
    Closing(CloseReason),
    Closed,
}

#[derive(Debug)]
struct Probe {
    kind: TransportKind,
    /// Did `2probe` come? From then on polls are answered at once, so that the client can pause them.
    answered: bool,
}

/// Is a pong due, and did another packet already buy it more time?
#[derive(Debug, PartialEq, Eq)]
enum Heartbeat {
    Idle,
    AwaitingPong { refreshed: bool },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Timer {
    /// The next ping is due.
    Ping,
    /// The pong did not come.
    Pong,
    /// The upgrade took too long.
    Upgrade,
    /// The orderly close took too long.
    Close,
    /// The owner has not been reading for too long.
    Deaf,
}

impl TimerName for Timer {
    const ALL: &'static [Self] = &[Self::Ping, Self::Pong, Self::Upgrade, Self::Close, Self::Deaf];

    fn slot(self) -> usize {
        self as usize
    }
}

/// How late a timer may fire without meaning anything.
const TIMER_LATENESS: Duration = Duration::from_millis(50);

#[derive(Debug)]
pub(crate) struct Session {
    sid: Sid,
    times: Arc<SessionTimes>,
    state: State,
    kind: TransportKind,
    probe: Option<Probe>,
    upgradable: bool,
    heartbeat: Heartbeat,
    /// Is the owner refusing to read, so that a pong could not be seen?
    deaf: bool,
    timers: Timers<5>,
    transmits: VecDeque<(Slot, Packet)>,
    events: VecDeque<Event>,
}

impl Session {
    /// A session that was just opened by a link of `kind`. The caller sends the OPEN packet itself, before
    /// anything else. `upgradable`: are upgrades from polling allowed?
    pub(crate) fn open(
        now: Instant,
        sid: Sid,
        kind: TransportKind,
        upgradable: bool,
        times: Arc<SessionTimes>,
    ) -> Self {
        let mut timers = Timers::new();
        timers.set(Timer::Ping, now + times.ping_interval);
        Self {
            sid,
            times,
            state: State::Open,
            kind,
            probe: None,
            upgradable,
            heartbeat: Heartbeat::Idle,
            deaf: false,
            timers,
            transmits: VecDeque::new(),
            // rarely more than one before the owner looks
            events: VecDeque::with_capacity(1),
        }
    }

    pub(crate) fn sid(&self) -> Sid {
        self.sid
    }

    /// The transport that carries the session.
    pub(crate) fn kind(&self) -> TransportKind {
        self.kind
    }

    /// Why an orderly close is under way.
    pub(crate) fn closing_reason(&self) -> CloseReason {
        match self.state {
            State::Closing(reason) => reason,
            State::Open | State::Closed => CloseReason::ForcedClose,
        }
    }

    /// May the application still send?
    pub(crate) fn is_open(&self) -> bool {
        self.state == State::Open
    }

    /// Engine.IO v4, "Upgrade": while the probe is answered, a waiting poll that has nothing to carry is
    /// answered with a NOOP at once, so that the client can pause polling. (Node does it every 100 ms.)
    pub(crate) fn ends_idle_polls(&self) -> bool {
        self.probe.as_ref().is_some_and(|probe| probe.answered)
    }

    // --- input

    /// A packet came on a link.
    ///
    /// # Errors
    /// The rule that it broke. On the current link that has already closed the session; on the probe it
    /// has dropped the probe only.
    pub(crate) fn handle_packet(
        &mut self,
        now: Instant,
        slot: Slot,
        packet: Packet,
    ) -> Result<(), PeerMisbehaved> {
        match slot {
            Slot::Current => self.handle_current(now, packet),
            Slot::Probe => self.handle_probe(now, packet),
        }
    }

    fn handle_current(&mut self, now: Instant, packet: Packet) -> Result<(), PeerMisbehaved> {
        if self.state != State::Open {
            return Ok(()); // late packets of a closing session mean nothing any more
        }
        // engine.io 6.6.12: "got packet while waiting for pong - refreshing ping timeout", once per ping
        if self.heartbeat == (Heartbeat::AwaitingPong { refreshed: false })
            && !matches!(packet, Packet::Pong(_))
        {
            self.heartbeat = Heartbeat::AwaitingPong { refreshed: true };
            self.arm_pong(now);
        }
        match packet {
            Packet::Message(message) => self.events.push_back(Event::Message(message)),
            Packet::Pong(_) => {
                self.heartbeat = Heartbeat::Idle;
                self.timers.stop(Timer::Pong);
                self.timers.set(Timer::Ping, now + self.times.ping_interval);
            }
            // Engine.IO v4: "the server sends a ping packet and the client answers with a pong"
            Packet::Ping(_) => return Err(self.misbehaved(PeerMisbehaved::HeartbeatDirection)),
            Packet::Close => self.end(CloseReason::TransportClose),
            Packet::Open(_) | Packet::Upgrade | Packet::Noop => {} // Node ignores them here
        }
        Ok(())
    }

    fn handle_probe(&mut self, now: Instant, packet: Packet) -> Result<(), PeerMisbehaved> {
        let Some(probe) = &mut self.probe else {
            return Ok(());
        };
        match packet {
            Packet::Ping(data) if data.as_str() == "probe" && !probe.answered => {
                probe.answered = true;
                self.transmits.push_back((Slot::Probe, Packet::Pong(data)));
                Ok(())
            }
            Packet::Upgrade if probe.answered => {
                let from = std::mem::replace(&mut self.kind, probe.kind);
                let to = self.kind;
                self.probe = None;
                self.timers.stop(Timer::Upgrade);
                if matches!(self.heartbeat, Heartbeat::AwaitingPong { .. }) {
                    // the ping may have gone out on the old link: its pong gets a full turn on the new one
                    self.arm_pong(now);
                }
                self.events.push_back(Event::Switched { from, to });
                Ok(())
            }
            _ => {
                self.drop_probe(ProbeFailure::Misbehaved);
                Err(PeerMisbehaved::UpgradeOutOfOrder)
            }
        }
    }

    /// A link came that wants to take the session over.
    pub(crate) fn handle_probe_attached(
        &mut self,
        now: Instant,
        kind: TransportKind,
    ) -> Result<(), UpgradeRefused> {
        if self.state != State::Open {
            return Err(UpgradeRefused::Closing);
        }
        if self.probe.is_some() {
            return Err(UpgradeRefused::Upgrading);
        }
        if !self.upgradable || self.kind != TransportKind::Polling {
            return Err(UpgradeRefused::NotUpgradable);
        }
        self.probe = Some(Probe { kind, answered: false });
        self.timers.set(Timer::Upgrade, now + self.times.upgrade_timeout);
        Ok(())
    }

    /// A link ended: by the peer's close (`reason` [`CloseReason::TransportClose`]), or by an error.
    pub(crate) fn handle_link_lost(&mut self, slot: Slot, reason: CloseReason) {
        match slot {
            Slot::Current => self.end(reason),
            Slot::Probe => self.drop_probe(ProbeFailure::Lost),
        }
    }

    /// The peer broke a rule below packets (framing, overlapping polls).
    pub(crate) fn handle_misbehaved(&mut self, slot: Slot, rule: PeerMisbehaved) {
        match slot {
            Slot::Current => self.end(rule.close_reason()),
            Slot::Probe => self.drop_probe(ProbeFailure::Misbehaved),
        }
    }

    /// The owner stops reading from the peer (`true`), for its inbox is full, or goes on (`false`).
    ///
    /// A pong that cannot be read must not count as missing: its deadline waits, and starts anew. But nor
    /// can the peer's end be seen, so this lasts for one heartbeat at most.
    pub(crate) fn handle_deaf(&mut self, now: Instant, deaf: bool) {
        if deaf == self.deaf || self.state != State::Open {
            return;
        }
        self.deaf = deaf;
        if deaf {
            self.timers.set(Timer::Deaf, now + self.times.ping_interval + self.times.ping_timeout);
        } else {
            self.timers.stop(Timer::Deaf);
        }
        if matches!(self.heartbeat, Heartbeat::AwaitingPong { .. }) {
            self.arm_pong(now);
        }
    }

    /// The owner reads from the peer more slowly than it sends. A pong may be stuck behind what waits to be read,
    /// so its deadline starts anew. (Whoever is gone sends nothing, and is not read slowly for long.)
    pub(crate) fn handle_slowed(&mut self, now: Instant) {
        if self.state == State::Open && matches!(self.heartbeat, Heartbeat::AwaitingPong { .. }) {
            self.arm_pong(now);
        }
    }

    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        while let Some((timer, due)) = self.timers.expired(now) {
            match timer {
                Timer::Ping => {
                    self.heartbeat = Heartbeat::AwaitingPong { refreshed: false };
                    self.transmits.push_back((Slot::Current, Packet::Ping("".into())));
                    // A timer's usual lateness is not added to every heartbeat; real lateness (an
                    // overloaded process) is not the peer's to pay for.
                    let late = now.saturating_duration_since(due);
                    self.arm_pong(if late <= TIMER_LATENESS { due } else { now });
                }
                Timer::Pong => self.end(CloseReason::PingTimeout),
                Timer::Upgrade => self.drop_probe(ProbeFailure::Timeout),
                Timer::Close => self.finished(),
                Timer::Deaf => self.end(CloseReason::HandlersStuck),
            }
        }
    }

    /// Closes in order: what is queued goes out first.
    pub(crate) fn close(&mut self, now: Instant, reason: CloseReason) {
        if self.state != State::Open {
            return;
        }
        self.state = State::Closing(reason);
        self.timers = Timers::new();
        self.timers.set(Timer::Close, now + self.times.close_timeout);
        self.drop_probe(ProbeFailure::SessionClosed);
        self.events.push_back(Event::Closing);
    }

    /// Ends at once, whatever is queued.
    pub(crate) fn abort(&mut self, reason: CloseReason) {
        self.end(reason);
    }

    /// The orderly close is done: all is sent and the link closed.
    pub(crate) fn finished(&mut self) {
        if let State::Closing(reason) = self.state {
            self.end(reason);
        }
    }

    // --- output

    /// The next packet for that link. On the current link these go before application data.
    pub(crate) fn poll_transmit(&mut self, slot: Slot) -> Option<Packet> {
        let at = self.transmits.iter().position(|(to, _)| *to == slot)?;
        self.transmits.remove(at).map(|(_, packet)| packet)
    }

    pub(crate) fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.timers.next()
    }

    // --- inside

    fn arm_pong(&mut self, now: Instant) {
        if self.deaf {
            self.timers.stop(Timer::Pong);
        } else {
            self.timers.set(Timer::Pong, now + self.times.ping_timeout);
        }
    }

    fn misbehaved(&mut self, rule: PeerMisbehaved) -> PeerMisbehaved {
        self.end(rule.close_reason());
        rule
    }

    fn drop_probe(&mut self, why: ProbeFailure) {
        if self.probe.take().is_some() {
            self.timers.stop(Timer::Upgrade);
            self.transmits.retain(|(slot, _)| *slot == Slot::Current);
            self.events.push_back(Event::ProbeDropped(why));
        }
    }

    fn end(&mut self, reason: CloseReason) {
        if self.state == State::Closed {
            return;
        }
        // the reason of an orderly close that was cut short stays the one that it began with
        let reason = if let State::Closing(first) = self.state { first } else { reason };
        self.drop_probe(ProbeFailure::SessionClosed);
        self.state = State::Closed;
        self.timers = Timers::new();
        self.transmits.clear();
        self.events.push_back(Event::Closed(reason));
    }
}

#[cfg(test)]
#[path = "session_tests.rs"]
mod tests;
