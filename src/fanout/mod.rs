//! From one broadcast to many links: encode once, share the bytes, push into bounded queues.
//!
//! A [`Mailbox`] is the only way by which other tasks reach a session: they push messages and ask it
//! to close; its own task takes them out.

pub(crate) mod encoded;
pub(crate) mod outbox;

use std::sync::Arc;
use std::task::{Context, Waker};

use parking_lot::Mutex;

pub(crate) use self::encoded::Encoded;
pub use self::outbox::SlowReader;
pub(crate) use self::outbox::{Outbox, Verdict};
use crate::error::CloseReason;

/// What was asked of a session's task since it last looked.
#[derive(Debug, Default)]
pub(crate) struct Asked {
    /// Close in order, sending what is queued first.
    pub(crate) close: Option<CloseReason>,
    /// End at once.
    pub(crate) abort: Option<CloseReason>,
}

#[derive(Debug)]
struct Inner {
    outbox: Outbox,
    asked: Asked,
    waker: Option<Waker>,
}

/// The shared end of a session: written by anyone, emptied by the session's task.
///
/// The lock is held for a push or a take only, never across an await or a call into user code. In the
/// lock order it comes last.
#[derive(Debug)]
pub(crate) struct Mailbox {
    inner: Mutex<Inner>,
}

impl Mailbox {
    /// `limit`: bytes that may wait for a peer that does not read.
    pub(crate) fn new(limit: usize) -> Self {
        let outbox = Outbox::new(limit);
        Self { inner: Mutex::new(Inner { outbox, asked: Asked::default(), waker: None }) }
    }

    /// Queues one message. [`Verdict::Overflow`] has ended the session as a slow consumer.
    pub(crate) fn push(&self, message: Arc<Encoded>, volatile: bool, slow: SlowReader) -> Verdict {
        let mut inner = self.inner.lock();
        let verdict = inner.outbox.push(message, volatile, slow);
        let waker = match verdict {
            Verdict::Queued | Verdict::QueuedFor(_) => inner.waker.take(),
            Verdict::Overflow => {
                inner.asked.abort.get_or_insert(CloseReason::SlowConsumer);
                inner.waker.take()
            }
            Verdict::DroppedVolatile | Verdict::Closed => None,
        };
        drop(inner);
        if let Some(waker) = waker {
            waker.wake();
        }
        verdict
    }

    /// Asks the session to close in order; what is queued before this still goes out.
    pub(crate) fn close(&self, reason: CloseReason) {
        let mut inner = self.inner.lock();
        inner.asked.close.get_or_insert(reason);
        inner.outbox.close();
        let waker = inner.waker.take();
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
        let waker = inner.waker.take();
        drop(inner);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Makes the session's task look around.
    pub(crate) fn wake(&self) {
        let waker = self.inner.lock().waker.take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Bytes that wait.
    pub(crate) fn outbox_bytes(&self) -> usize {
        self.inner.lock().outbox.bytes()
    }

    // --- the session's task only

    /// Registers the task for the next push, close or wake, and takes what was asked.
    pub(crate) fn watch(&self, cx: &Context<'_>) -> Asked {
        let mut inner = self.inner.lock();
        match &mut inner.waker {
            Some(waker) => waker.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
        std::mem::take(&mut inner.asked)
    }

    /// Takes messages up to about `max_bytes` (at least one, if there is one) into `batch`; `true`: there
    /// are more.
    pub(crate) fn take(&self, max_bytes: usize, batch: &mut Vec<Arc<Encoded>>) -> bool {
        self.inner.lock().outbox.take(max_bytes, batch)
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
        inner.waker = None;
    }
}
