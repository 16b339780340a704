//! Following the log: an application that keeps what its namespace says.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::RwLock;

use super::namespace::Namespace;
use crate::cluster::StreamId;
use crate::cluster::history::{At, Way};
use crate::cluster::message::Target;
use crate::engine::packet::Str;
use crate::socketio::packet::Args;

/// One broadcast, at the moment at which it reaches this node.
pub struct Delivery<'a> {
    at: &'a At,
    target: &'a Target,
    args: &'a Args,
}

impl Delivery<'_> {
    /// The rooms that it is for; none: the whole namespace.
    pub fn rooms(&self) -> &[Str] {
        &self.target.rooms
    }

    /// The event's name.
    pub fn event(&self) -> &str {
        self.args.event().unwrap_or_default()
    }

    /// Its arguments.
    pub fn args(&self) -> &Args {
        self.args
    }

    /// Was it broadcast by this node? Of all nodes that see it, one says yes: the one to act on it where
    /// that is to happen once.
    pub fn is_own(&self) -> bool {
        self.at.way != Way::Foreign
    }

    /// Where it stands in the log, the same on every node: what comes later stands behind it. What a node
    /// delivers ahead of the log, while Redis does not answer, stands where the log was then.
    pub fn position(&self) -> (u64, u64) {
        (self.at.offset.id.ms, self.at.offset.id.seq)
    }
}

impl fmt::Debug for Delivery<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Delivery")
            .field("event", &self.event())
            .field("rooms", &self.rooms())
            .finish()
    }
}

type Listener = dyn Fn(&Delivery<'_>) + Send + Sync;

/// Who follows one namespace.
#[derive(Default)]
pub(super) struct Tap {
    listeners: RwLock<Vec<Arc<Listener>>>,
    /// So that a broadcast need not take the lock to find nobody.
    used: AtomicBool,
}

impl Tap {
    pub(super) fn is_used(&self) -> bool {
        self.used.load(Ordering::Acquire)
    }

    pub(super) fn tell(&self, at: &At, args: &Args, target: &Target) {
        if self.is_used() {
            // a copy, so that no lock is held in the application's code
            let listeners = self.listeners.read().clone();
            for listener in listeners {
                listener(&Delivery { at, target, args });
            }
        }
    }
}

impl Namespace {
    /// Follows everything that is broadcast in the namespace: the events of all nodes, this one's own
    /// among them, in the one order of the cluster's log, just before the sockets of this node get them.
    ///
    /// That is what it takes to keep a copy of a shared state on every node: fold the events into it; who
    /// joins a room and reads the copy *then* has missed nothing. (What comes in between is in both.)
    ///
    /// Not seen are emits to one socket of this node, `local` broadcasts, broadcasts with
    /// acknowledgements, and what was broadcast before this node came.
    ///
    /// The listener holds everybody up: it must be quick, must not panic, and must not emit. A node
    /// that is followed reads broadcasts of other nodes that none of its own sockets wants.
    pub fn on_broadcast<F>(&self, listener: F)
    where
        F: Fn(&Delivery<'_>) + Send + Sync + 'static,
    {
        let tap = &self.0.tap;
        tap.listeners.write().push(Arc::new(listener));
        tap.used.store(true, Ordering::Release);
    }

    /// Where this node is in the log: what stands up to there has been delivered here, and will not be again.
    pub fn position(&self) -> (u64, u64) {
        let id = self.0.log.mark().id;
        (id.ms, id.seq)
    }

    /// Waits until this node is there, for what another node has seen already. That may never be: after a failover
    /// that lost the end of the log positions begin anew.
    pub async fn reached(&self, (ms, seq): (u64, u64)) {
        self.0.log.reached(StreamId { ms, seq }).await;
    }
}
