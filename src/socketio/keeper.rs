//! Writes the sessions of this node's sockets, so that they can go on elsewhere.
//!
//! A record is written when the socket enters (before its client hears of the session), soon after its rooms
//! or data change, again and again while it lives (the record expires otherwise, and its position moves on
//! with the node), and when it loses its connection. What a store does not take is tried again.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_util::{FutureExt as _, StreamExt as _, stream};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::namespace::Inner as NamespaceInner;
use super::socket::{Inner as SocketInner, Socket};
use crate::cluster::session::{LetGo, Record, Written};
use crate::engine::packet::Str;
use crate::metrics::Metrics;

/// Changes that follow one that was just written are written together.
const DEBOUNCE: Duration = Duration::from_millis(10);
/// Pause after a record that the store did not take. If it takes none at all, each is twice as long as the one before.
const PAUSE: Duration = Duration::from_millis(200);
/// (A node that leaves has two seconds to write what is left.)
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// So many refusals, and nothing else, say that it takes none: the others are kept for later, so that a store that is
/// full, or read-only for now, is not asked by all sockets of all nodes again and again.
const REFUSALS: usize = 16;
/// Records that are written at a time.
const CONCURRENT: usize = 256;
/// Last states that are written in one go; there may be as many as a node had clients.
const MAX_LAST: usize = 4_096;
/// The sockets of a node are refreshed in so many turns.
const TURNS: usize = 16;

/// See the module's documentation. One for each server.
pub(crate) struct Keeper {
    window: Duration,
    /// A record of a socket that lives is written so often.
    lease: Duration,
    metrics: Arc<Metrics>,
    queue: Mutex<Queue>,
    wake: Notify,
    /// Writes that are under way or wait.
    busy: AtomicUsize,
    /// Did the store refuse something the last time?
    was_refused: AtomicBool,
}

#[derive(Default)]
struct Queue {
    /// Sockets whose state has changed.
    dirty: Vec<Weak<SocketInner>>,
    /// The last states of sockets that are gone, by their private ids.
    last: HashMap<Str, Last>,
}

#[derive(Clone)]
struct Last {
    record: Record,
    namespace: Arc<NamespaceInner>,
    /// `false`: the session ended for good.
    keep: bool,
    /// Is it being written right now?
    writing: bool,
    /// Has the store refused it?
    refused: bool,
    /// After that it is of no use, should the store not have come back by then.
    until: Instant,
}

impl Keeper {
    pub(super) fn new(window: Duration, metrics: Arc<Metrics>) -> Self {
        let lease = (window / 4).clamp(Duration::from_millis(250), Duration::from_secs(30));
        Self {
            window,
            lease,
            metrics,
            queue: Mutex::default(),
            wake: Notify::new(),
            busy: AtomicUsize::new(0),
            was_refused: AtomicBool::new(false),
        }
    }

    /// How long a record of a socket that lives is kept: its client has the whole window even when the node
    /// dies right before the next write.
    pub(super) fn live_ttl(&self) -> Duration {
        self.window + self.lease
    }

    /// A socket's state has changed.
    pub(super) fn changed(&self, socket: &Socket) {
        let Some(session) = &socket.0.session else { return };
        if session.dirty.swap(true, Ordering::AcqRel) {
            return; // it waits already
        }
        self.queue.lock().dirty.push(Arc::downgrade(&socket.0));
        self.wake.notify_one();
    }

    /// A socket has lost its connection, or (without `keep`) its session.
    pub(super) fn ended(&self, namespace: &Arc<NamespaceInner>, record: Record, keep: bool) {
        let sessions = namespace.log.sessions();
        if !sessions.outlive_the_node() {
            // in memory; at once, so that who comes back at once finds it
            match keep {
                true => drop(sessions.store(record, self.window).now_or_never()),
                false => drop(sessions.remove(record, self.window).now_or_never()),
            }
            return;
        }
        let pid = record.pid.clone();
        let until = Instant::now() + self.window;
        let namespace = namespace.clone();
        let last = Last { record, namespace, keep, writing: false, refused: false, until };
        self.queue.lock().last.insert(pid, last);
        self.wake.notify_one();
    }

    /// Somebody goes on with the session of this generation: its last state here is of no use any more.
    pub(super) fn taken(&self, pid: &str, generation: u64) {
        let mut queue = self.queue.lock();
        if queue.last.get(pid).is_some_and(|last| last.record.generation <= generation) {
            queue.last.remove(pid);
        }
    }

    /// The last state of a socket that is gone, if it is not written yet.
    pub(super) fn last(&self, pid: &str) -> Option<LetGo> {
        let queue = self.queue.lock();
        let last = queue.last.get(pid)?;
        Some(match last.keep {
            true => LetGo::Record(Box::new(last.record.clone())),
            false => LetGo::Ended,
        })
    }

    /// Is nothing to be written?
    pub(super) fn is_idle(&self) -> bool {
        let queue = self.queue.lock();
        queue.last.is_empty() && queue.dirty.is_empty() && self.busy.load(Ordering::Acquire) == 0
    }

    /// Writes, as long as anybody holds the keeper.
    pub(super) async fn run(weak: Weak<Self>) {
        let mut pause = PAUSE;
        loop {
            let Some(keeper) = weak.upgrade() else { return };
            if keeper.is_idle() {
                // now and then it looks whether it is still wanted
                let notified = tokio::time::timeout(Duration::from_secs(1), keeper.wake.notified());
                let _ = notified.await;
            }
            // The first change is written at once, since the node may die the next moment; those that follow
            // it are written together.
            let pass = keeper.flush().await;
            drop(keeper);
            pause = pass.pause(pause);
            tokio::time::sleep(pause).await;
        }
    }

    /// Writes what has changed.
    async fn flush(&self) -> Pass {
        let (sockets, last) = {
            let mut queue = self.queue.lock();
            let mut sockets: Vec<_> =
                queue.dirty.drain(..).filter_map(|socket| socket.upgrade()).collect();
            // What was refused comes last: of a cluster one part may be away. (Else by what does not change from run
            // to run.)
            let refused = |socket: &SocketInner| {
                socket
                    .session
                    .as_ref()
                    .is_some_and(|session| session.refused.load(Ordering::Acquire))
            };
            sockets.sort_by(|a, b| (refused(a), a.id.as_str()).cmp(&(refused(b), b.id.as_str())));
            sockets.dedup_by(|a, b| Arc::ptr_eq(a, b));
            let now = Instant::now();
            queue.last.retain(|_, last| last.until > now);
            let mut last: Vec<Last> = queue
                .last
                .values_mut()
                .take(MAX_LAST)
                .map(|last| {
                    last.writing = true;
                    last.clone()
                })
                .collect();
            last.sort_by(|a, b| {
                (a.refused, a.record.pid.as_str()).cmp(&(b.refused, b.record.pid.as_str()))
            });
            (sockets, last)
        };
        self.busy.store(sockets.len() + last.len(), Ordering::Release);
        let pass = Pass::default();
        let careful = self.was_refused.load(Ordering::Acquire);
        // who is left out stays where it is
        pass.go(last, careful, |last| self.write_last(last, &pass)).await;
        let sockets = sockets.into_iter().map(Socket).collect();
        let later = pass.go(sockets, careful, |socket| self.write_live(socket, &pass)).await;
        for socket in later {
            if let Some(session) = &socket.0.session {
                session.dirty.store(false, Ordering::Release);
            }
            self.changed(&socket);
        }
        self.was_refused.store(pass.refused.load(Ordering::Relaxed) > 0, Ordering::Release);
        self.busy.store(0, Ordering::Release);
        pass
    }

    async fn write_live(&self, socket: Socket, pass: &Pass) {
        let Some(session) = &socket.0.session else { return };
        session.dirty.store(false, Ordering::Release);
        let Some(record) = socket.record().filter(|_| socket.is_connected()) else { return };
        let sessions = socket.0.namespace.log.sessions();
        let written = sessions.store(record, self.live_ttl()).await;
        pass.note(written.is_ok());
        session.refused.store(written.is_err(), Ordering::Release);
        match written {
            Ok(Written::Done) => {}
            Ok(Written::Fenced) => {
                self.metrics.sessions_fenced.inc();
                socket.supersede();
            }
            Err(_) => self.changed(&socket),
        }
    }

    async fn write_last(&self, last: Last, pass: &Pass) {
        let sessions = last.namespace.log.sessions();
        let done = match last.keep {
            true => sessions.store(last.record.clone(), self.window).await.is_ok(),
            false => sessions.remove(last.record.clone(), self.live_ttl()).await.is_ok(),
        };
        pass.note(done);
        let mut queue = self.queue.lock();
        let pid = &last.record.pid;
        if let Some(now) = queue.last.get_mut(pid).filter(|now| now.writing) {
            now.refused = !done;
            if done {
                queue.last.remove(pid);
            }
        }
    }

    /// Keeps the records of the sockets that live from expiring.
    pub(super) async fn refresh(weak: Weak<Self>, all: impl Fn() -> Option<Vec<Socket>>) {
        let mut turn = 0;
        loop {
            let Some(lease) = weak.upgrade().map(|keeper| keeper.lease) else { return };
            tokio::time::sleep(lease / TURNS as u32).await;
            let Some(keeper) = weak.upgrade() else { return };
            let Some(sockets) = all() else { return };
            let mine = |socket: &&Socket| {
                let pid = socket.0.session.as_ref().map(|session| session.pid.as_bytes());
                // its end names the node, and is the same for all
                let first = pid.and_then(|pid| pid.first().copied()).unwrap_or_default();
                usize::from(first) % TURNS == turn
            };
            for socket in sockets.iter().filter(mine) {
                keeper.changed(socket);
            }
            turn = (turn + 1) % TURNS;
        }
    }
}

/// How a flush goes.
#[derive(Debug, Default)]
struct Pass {
    done: AtomicUsize,
    refused: AtomicUsize,
}

impl Pass {
    /// Writes all of them; `careful`, after refusals, some of them first. Gives those that nobody need ask for.
    async fn go<T, F: Future<Output = ()>>(
        &self,
        all: Vec<T>,
        careful: bool,
        write: impl Fn(T) -> F,
    ) -> Vec<T> {
        let mut all = all.into_iter();
        if careful {
            let first: Vec<T> = all.by_ref().take(REFUSALS).collect();
            let first = stream::iter(first).map(&write).buffer_unordered(CONCURRENT);
            first.collect::<()>().await;
            if self.is_hopeless() {
                return all.collect();
            }
        }
        stream::iter(all).map(write).buffer_unordered(CONCURRENT).collect::<()>().await;
        Vec::new()
    }

    fn note(&self, done: bool) {
        let count = if done { &self.done } else { &self.refused };
        count.fetch_add(1, Ordering::Relaxed);
    }

    /// Need nobody else ask?
    fn is_hopeless(&self) -> bool {
        self.done.load(Ordering::Relaxed) == 0 && self.refused.load(Ordering::Relaxed) >= REFUSALS
    }

    /// How long to wait after this one; `before`: after the one before.
    fn pause(&self, before: Duration) -> Duration {
        match (self.done.load(Ordering::Relaxed), self.refused.load(Ordering::Relaxed)) {
            (_, 0) => DEBOUNCE,
            (0, _) => (2 * before).clamp(PAUSE, LONGEST_PAUSE),
            _ => PAUSE,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pass(done: usize, refused: usize) -> Pass {
        Pass { done: done.into(), refused: refused.into() }
    }

    #[test]
    fn a_store_that_takes_nothing_is_asked_more_and_more_seldom() {
        let mut pause = DEBOUNCE;
        let pauses = [0; 7].map(|_| {
            pause = pass(0, 3).pause(pause);
            pause.as_millis()
        });
        assert_eq!(pauses, [200, 400, 800, 1_000, 1_000, 1_000, 1_000]);
        assert_eq!(pass(0, 0).pause(pause), DEBOUNCE);
        // one that never goes through does not hold up the others
        assert_eq!(pass(1, 1_000).pause(pause), PAUSE);
        assert!(!pass(1, 1_000).is_hopeless());
        assert!(!pass(0, REFUSALS - 1).is_hopeless());
        assert!(pass(0, REFUSALS).is_hopeless());
    }

    /// One pass over these. Gives how many were asked for, and how many were left out.
    async fn go(careful: bool, all: Vec<bool>) -> (usize, usize) {
        let pass = Pass::default();
        let later = pass.go(all, careful, async |is_good| {
            // who is refused hears of it at once
            if is_good {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            pass.note(is_good);
        });
        let later = later.await.len();
        (pass.done.load(Ordering::Relaxed) + pass.refused.load(Ordering::Relaxed), later)
    }

    #[tokio::test(start_paused = true)]
    async fn a_part_of_the_store_that_is_away_keeps_nobody_else_from_it() {
        let good_first = [vec![true; 600], vec![false; 300]].concat();
        assert_eq!(go(false, good_first.clone()).await, (900, 0));
        assert_eq!(go(true, good_first).await, (900, 0));
        // (only who was refused before comes last, so this is a store that has just become well)
        assert_eq!(go(false, [vec![false; 300], vec![true; 600]].concat()).await, (900, 0));
        assert_eq!(go(true, vec![false; 900]).await, (REFUSALS, 900 - REFUSALS));
        assert_eq!(go(true, vec![false; 3]).await, (3, 0));
    }
}
