//! A node that has more sessions than its share gives some to the others.
//!
//! Connections stay where they are: nodes that are new stay empty, and those that were there stay full. So a
//! node that has clearly more sessions than the average closes some of them, in the way a shutdown does, and
//! their clients come back to any node and go on. How many it may close, [`Shedding`] says:
//!
//! - not more in a minute than a share of what it has, one after the other;
//! - only above the average, and it begins only [`TOLERANCE`] above it, so that two nodes never pass sessions
//!   to and fro;
//! - what was closed counts as still here for [`SETTLE`], until it must have shown up in somebody's report;
//! - where closing makes no difference, because a balancer brings every client back, it gives up for a while.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::seq::IteratorRandom as _;

use super::core::{Core, Protocol};
use crate::cluster::load::{Load, REPORT_EVERY};
use crate::error::CloseReason;

/// How far above the average a node may be. Balancers that choose at random spread no better.
const TOLERANCE: f64 = 0.1;

/// How long a session that was closed counts as if it were here: the client's pause before it connects again
/// (up to 5 s in official clients), and the next report of the node that it comes to.
const SETTLE: Duration = Duration::from_secs(10);

/// How often a few sessions are closed.
const TICK: Duration = Duration::from_secs(1);

/// Sessions that have to be gone, for each node, before it is judged whether that made a difference: of those
/// that a balancer spreads at random, one in as many as there are nodes comes back, and others' come as well.
const JUDGED: u64 = 100;

/// How long a node leaves its sessions alone after closing made no difference.
const PAUSE: Duration = Duration::from_secs(600);

/// How many sessions to close, and when.
#[derive(Debug)]
pub(super) struct Shedding {
    /// The share of the sessions that may be closed in a second.
    per_second: f64,
    looked: Instant,
    /// What may be closed and was not, in sessions; at most one when a look ends.
    allowance: f64,
    /// Closed lately.
    under_way: VecDeque<(Instant, u64)>,
    state: State,
}

#[derive(Debug)]
enum State {
    Balanced,
    /// Until the average is reached. Since the last judgement: the sessions then, and how many were closed.
    Shedding {
        had: u64,
        closed: u64,
    },
    Paused {
        until: Instant,
    },
}

/// What to do now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Step {
    /// So many sessions are to be closed.
    pub(super) close: u64,
    /// It makes no difference: nothing is closed for [`PAUSE`].
    pub(super) gave_up: bool,
}

impl Shedding {
    /// `percent`: of the sessions, in a minute.
    pub(super) fn new(now: Instant, percent: u8) -> Self {
        Self {
            per_second: f64::from(percent) / 100.0 / 60.0,
            looked: now,
            allowance: 0.0,
            under_way: VecDeque::new(),
            state: State::Balanced,
        }
    }

    /// What the others are to be told: those that are here, and those that may come back.
    pub(super) fn load(&self, own: u64, leaving: bool) -> Load {
        Load { sessions: own + self.unsettled(), leaving }
    }

    /// To be asked every [`TICK`]. `own`: the sessions of this node; `others`: what is known of the others.
    pub(super) fn step(&mut self, now: Instant, own: u64, others: &[Load]) -> Step {
        let elapsed = now.saturating_duration_since(self.looked);
        self.looked = now;
        self.under_way.retain(|(closed, _)| now.saturating_duration_since(*closed) < SETTLE);
        let Some(average) = self.average(own, others) else {
            self.rest();
            return Step::default();
        };
        let excess = own.saturating_sub(average);
        match self.state {
            State::Paused { until } if now < until => return Step::default(),
            State::Balanced | State::Paused { .. } => {
                let begin = own as f64 > average as f64 * (1.0 + TOLERANCE) && excess > 1;
                self.rest();
                if begin {
                    self.state = State::Shedding { had: own + self.unsettled(), closed: 0 };
                }
                return Step::default();
            }
            State::Shedding { .. } if excess == 0 => {
                self.rest();
                return Step::default();
            }
            State::Shedding { had, closed } => {
                let unsettled = self.unsettled();
                let gone = closed.saturating_sub(unsettled);
                let nodes = others.len() as u64 + 1;
                if gone >= JUDGED * nodes {
                    let here = own + unsettled;
                    if had.saturating_sub(here) * 2 * nodes < gone {
                        self.state = State::Paused { until: now + PAUSE };
                        return Step { close: 0, gave_up: true };
                    }
                    self.state = State::Shedding { had: here, closed: unsettled };
                }
            }
        }
        // a process that stood still must not make up for it
        self.allowance += own as f64 * self.per_second * elapsed.min(2 * TICK).as_secs_f64();
        let close = (self.allowance as u64).min(excess);
        self.allowance = (self.allowance - close as f64).min(1.0);
        if let State::Shedding { closed, .. } = &mut self.state {
            *closed += close;
        }
        if close > 0 {
            self.under_way.push_back((now, close));
        }
        Step { close, gave_up: false }
    }

    fn rest(&mut self) {
        self.state = State::Balanced;
        self.allowance = 0.0;
    }

    fn unsettled(&self) -> u64 {
        self.under_way.iter().map(|(_, count)| count).sum()
    }

    /// Sessions for each node that takes any, rounded up; `None` if no other one does.
    fn average(&self, own: u64, others: &[Load]) -> Option<u64> {
        let takers = others.iter().filter(|load| !load.leaving).count() as u64;
        // those of a node that leaves are about to come to the rest
        let all: u64 = others.iter().map(|load| load.sessions).sum();
        (takers > 0).then(|| (all + own + self.unsettled()).div_ceil(takers + 1))
    }
}

/// Tells the others how many sessions there are, and closes some when they are too many, until the server stops.
pub(super) async fn run(core: Arc<Core>, percent: u8) {
    let Protocol::SocketIo(socketio) = &core.protocol else { return };
    let now = || tokio::time::Instant::now().into_std();
    let mut shedding = Shedding::new(now(), percent);
    let mut report_at = now();
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = core.stopped() => break,
        }
        let (now, own) = (now(), core.registry.len() as u64);
        if now >= report_at {
            socketio.report(shedding.load(own, false));
            report_at = now + REPORT_EVERY;
        }
        // without Redis nobody could go on with his session, and what is known of the others gets old
        if socketio.is_degraded() {
            continue;
        }
        let step = shedding.step(now, own, &socketio.loads());
        if step.close > 0 {
            close_some(&core, step.close);
        }
        if step.gave_up {
            tracing::warn!(
                sessions = own,
                "shedding makes no difference: clients come back to this node (a balancer that keeps them \
                 there?), or more come than go; not again for {PAUSE:?}"
            );
        }
    }
    socketio.report(shedding.load(core.registry.len() as u64, true));
}

/// Closes sessions chosen at random. The transport, never the namespace: official clients stay away after a
/// DISCONNECT.
fn close_some(core: &Core, count: u64) {
    let sessions = core.registry.all();
    let count = usize::try_from(count).unwrap_or(usize::MAX);
    for session in sessions.into_iter().choose_multiple(&mut rand::rng(), count) {
        session.mailbox.close(CloseReason::Shed);
    }
    tracing::debug!(count, "sessions were shed");
}

#[cfg(test)]
#[path = "shed_tests.rs"]
mod tests;
