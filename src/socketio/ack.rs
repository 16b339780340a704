//! Answers that we wait for.
//!
//! An answer goes to whoever waits at once, past the inbox, so that a handler may await it. It still comes
//! behind the events that the client sent before it; while an answer is awaited the inbox takes more of
//! those than usual, and a session that cannot be read from for a whole heartbeat is ended.

use std::collections::HashMap;

use tokio::sync::{mpsc, oneshot};

use crate::socketio::packet::Args;

/// Where an answer goes.
#[derive(Debug)]
pub(crate) enum Waiter {
    /// One event to one socket.
    One(oneshot::Sender<Args>),
    /// A broadcast: all answers go to one place, under one id.
    Many(mpsc::UnboundedSender<Args>),
}

/// The answers that one socket owes us. Dropping it tells everyone who waits.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    waiters: HashMap<u64, Waiter>,
    /// Nothing will be answered any more.
    closed: bool,
}

/// Why nothing can be waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotPending {
    Closed,
    /// More unanswered events than allowed.
    Full,
}

impl Pending {
    pub(crate) fn insert(&mut self, id: u64, waiter: Waiter, max: usize) -> Result<(), NotPending> {
        if self.closed {
            return Err(NotPending::Closed);
        }
        if self.waiters.len() >= max {
            return Err(NotPending::Full);
        }
        self.waiters.insert(id, waiter);
        Ok(())
    }

    /// An answer came. One that nobody waits for (late, twice, invented) is ignored, as in Node.
    pub(crate) fn resolve(&mut self, id: u64, args: Args) {
        match self.remove(id) {
            Some(Waiter::One(waiter)) => drop(waiter.send(args)),
            Some(Waiter::Many(waiter)) => drop(waiter.send(args)),
            None => {}
        }
    }

    /// Nobody waits any more.
    pub(crate) fn remove(&mut self, id: u64) -> Option<Waiter> {
        let waiter = self.waiters.remove(&id);
        if self.waiters.is_empty() {
            self.waiters = HashMap::new();
        }
        waiter
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.waiters.is_empty()
    }

    pub(crate) fn close(&mut self) {
        self.closed = true;
        self.waiters = HashMap::new();
    }
}
