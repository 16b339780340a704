//! From one broadcast to many links: encode once, share the bytes, push into bounded queues.
//!
//! A [`Mailbox`] is the only way by which other tasks reach a session: they push messages and ask it
//! to close. Its own task takes the messages out, or, where there is nothing to it but a `write` (see
//! [`Line`]), whoever has pushed them writes them at the end of its [`turn()`].

pub(crate) mod encoded;
mod line;
pub(crate) mod outbox;
mod turn;

use std::sync::Arc;
use std::task::{Context, Waker};

use bytes::Bytes;
use parking_lot::Mutex;

pub(crate) use self::encoded::Encoded;
pub(crate) use self::line::{Line, MAX_MESSAGES};
pub use self::outbox::SlowReader;
pub(crate) use self::outbox::{Outbox, Verdict};
pub(crate) use self::turn::turn;
use crate::error::CloseReason;

/// Bytes in an outbox at which the end of the turn is not waited for.
const EARLY_FLUSH: usize = 64 * 1024;

/// What was asked of a session's task since it last looked.
#[derive(Debug, Default)]
pub(crate) struct Asked {
    /// Close in order, sending what is queued first.
    pub(crate) close: Option<CloseReason>,
    /// End at once.
    pub(crate) abort: Option<CloseReason>,
    /// The line takes no more,
    pub(crate) blocked: bool,
    /// and took a message only in part: this comes before anything else that is written.
    pub(crate) rest: Bytes,
}

#[derive(Debug)]
struct Inner {
    outbox: Outbox,
    asked: Asked,
    /// The session's task,
    waker: Option<Waker>,
    /// which nobody has woken since it went to sleep.
    asleep: bool,
    /// Something is to be looked at by the task, which was not asleep,
    missed: bool,
    /// or to be taken out.
    pushed: bool,
    line: Option<Arc<dyn Line>>,
    /// May others write to the line? Only while the task sleeps and has nothing to write itself.
    armed: bool,
    /// Does somebody write at the end of a turn what is queued?
    listed: bool,
}

impl Inner {
    /// Whom to wake; for the task that is awake a note is left.
    fn call(&mut self) -> Option<Waker> {
        self.missed |= !self.asleep;
        self.rouse()
    }

    fn rouse(&mut self) -> Option<Waker> {
        if std::mem::take(&mut self.asleep) { self.waker.take() } else { None }
    }

    /// Writes what is queued, as far as the line takes it; the rest is the task's, who is to be woken.
    fn flush(&mut self) -> Option<Waker> {
        self.listed = false;
        if !self.armed {
            return None; // the task is awake, and takes it itself
        }
        let rest = line::write(self.line.as_deref()?, &mut self.outbox);
        let Err(rest) = rest else { return None };
        self.armed = false;
        (self.asked.blocked, self.asked.rest) = (true, rest);
        self.outbox.set_stalled(true);
        self.call()
    }
}

/// The shared end of a session: written by anyone, emptied by the session's task.
///
/// The lock is held for a push, a take, or a `write` that does not block, never across an await or a call
/// into user code. In the lock order it comes last.
#[derive(Debug)]
pub(crate) struct Mailbox {
    inner: Mutex<Inner>,
}

impl Mailbox {
    /// `limit`: bytes that may wait for a peer that does not read.
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            inner: Mutex::new(Inner {
                outbox: Outbox::new(limit),
                asked: Asked::default(),
                waker: None,
                asleep: false,
                missed: false,
                pushed: false,
                line: None,
                armed: false,
                listed: false,
            }),
        }
    }

    /// Queues one message. [`Verdict::Overflow`] has ended the session as a slow consumer.
    pub(crate) fn push(
        self: &Arc<Self>,
        message: Arc<Encoded>,
        volatile: bool,
        slow: SlowReader,
    ) -> Verdict {
        let mut inner = self.inner.lock();
        let verdict = inner.outbox.push(message, volatile, slow);
        let waker = match verdict {
            Verdict::Queued | Verdict::QueuedFor(_) if !inner.armed => {
                inner.pushed |= !inner.asleep;
                inner.rouse()
            }
            Verdict::Queued | Verdict::QueuedFor(_) => {
                if inner.outbox.bytes() >= EARLY_FLUSH {
                    inner.flush()
                } else if inner.listed || turn::list(self) {
                    inner.listed = true;
                    None
                } else {
                    inner.call()
                }
            }
            Verdict::Overflow => {
                inner.asked.abort.get_or_insert(CloseReason::SlowConsumer);
                inner.call()
            }
            Verdict::DroppedVolatile | Verdict::Closed => None,
        };
        drop(inner);
        if let Some(waker) = waker {
            waker.wake();
        }
        verdict
    }

    /// Writes what was pushed in a turn that is over.
    fn flush(&self) {
        let waker = self.inner.lock().flush();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Asks the session to close in order; what is queued before this still goes out.
    pub(crate) fn close(&self, reason: CloseReason) {
        let mut inner = self.inner.lock();
        inner.asked.close.get_or_insert(reason);
        inner.outbox.close();
        let waker = inner.call();
        drop(inner);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Ends the session at once; what is queued is dropped.
    pub(crate) fn abort(&self, reason: CloseReason) {
        let mut inner = self.inner.lock();
        inner.asked.abort.get_or_insert(reason);
        inner.outbox.shut();
        let waker = inner.call();
        drop(inner);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Makes the session's task look around.
    pub(crate) fn wake(&self) {
        let waker = self.inner.lock().call();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Bytes that wait.
    pub(crate) fn outbox_bytes(&self) -> usize {
        self.inner.lock().outbox.bytes()
    }

    /// Bytes that fit.
    pub(crate) fn room(&self) -> usize {
        self.inner.lock().outbox.room()
    }

    // --- the session's task only

    /// Takes what was asked. Nobody else writes until [`Mailbox::sleep`], which is to come.
    pub(crate) fn attend(&self) -> Asked {
        let mut inner = self.inner.lock();
        inner.armed = false;
        inner.asleep = false;
        inner.missed = false;
        std::mem::take(&mut inner.asked)
    }

    /// Registers the task for the next push, close or wake; `false`: there was one since it looked. `arm`: the
    /// link is that of the line, and nothing is queued in it, so that others may write.
    pub(crate) fn sleep(&self, cx: &Context<'_>, arm: bool) -> bool {
        let mut inner = self.inner.lock();
        if std::mem::take(&mut inner.missed) | std::mem::take(&mut inner.pushed) {
            return false;
        }
        match &mut inner.waker {
            Some(waker) => waker.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
        inner.asleep = true;
        inner.armed = arm && inner.line.is_some() && inner.outbox.is_empty();
        true
    }

    /// What others may write to while the task sleeps.
    pub(crate) fn set_line(&self, line: Option<Arc<dyn Line>>) {
        self.inner.lock().line = line;
    }

    /// As [`Mailbox::attend`] and [`Mailbox::sleep`] in one, for a task that has no line.
    #[cfg(test)]
    pub(crate) fn watch(&self, cx: &Context<'_>) -> Asked {
        let asked = self.attend();
        self.sleep(cx, false);
        asked
    }

    /// Takes messages up to about `max_bytes` (at least one, if there is one) into `batch`; `true`: there
    /// are more.
    pub(crate) fn take(&self, max_bytes: usize, batch: &mut Vec<Arc<Encoded>>) -> bool {
        let mut inner = self.inner.lock();
        let more = inner.outbox.take(max_bytes, batch);
        inner.pushed = false;
        more
    }

    /// Tells whether the link takes more right now; volatile messages are dropped while it does not.
    pub(crate) fn set_stalled(&self, stalled: bool) {
        self.inner.lock().outbox.set_stalled(stalled);
    }

    /// Are all messages taken?
    pub(crate) fn is_empty(&self) -> bool {
        self.inner.lock().outbox.is_empty()
    }

    /// Refuses and forgets everything from now on.
    pub(crate) fn shut(&self) {
        let mut inner = self.inner.lock();
        inner.outbox.shut();
        (inner.waker, inner.line, inner.armed) = (None, None, false);
        inner.asleep = false;
    }
}

#[cfg(test)]
mod tests;
