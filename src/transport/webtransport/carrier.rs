//! A QUIC connection's work, done by its task, or at once by whoever gives it something to send.
//!
//! QUIC's data waits in the connection until its task is scheduled, which encrypts and sends it. In a fan-out
//! that is a task woken for each of a thousand peers, so whoever writes polls the connection's future
//! itself, with the connection's own waker. The task then hears only of what comes from elsewhere.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use futures_util::future::BoxFuture;
use futures_util::task::AtomicWaker;
use parking_lot::Mutex;

/// A future that may be polled from elsewhere than its task.
pub(crate) struct Carrier {
    /// `None` when it has ended.
    work: Mutex<Option<BoxFuture<'static, ()>>>,
    task: AtomicWaker,
    state: AtomicU8,
}

/// Somebody does the work who is not the task, and looks at [`WOKEN`] when he is done.
const HELD: u8 = 1;
/// There is more to do since.
const WOKEN: u8 = 2;

impl fmt::Debug for Carrier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Carrier").finish_non_exhaustive()
    }
}

impl Wake for Carrier {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.state.fetch_or(WOKEN, Ordering::AcqRel) & HELD == 0 {
            self.task.wake();
        }
    }
}

impl Carrier {
    pub(crate) fn new(work: BoxFuture<'static, ()>) -> Arc<Self> {
        Arc::new(Self {
            work: Mutex::new(Some(work)),
            task: AtomicWaker::new(),
            state: AtomicU8::new(0),
        })
    }

    /// What the task does: all that nobody else has done. Dropping it drops the work.
    pub(crate) fn task(self: &Arc<Self>) -> impl Future<Output = ()> + Send + use<> {
        Task(self.clone())
    }

    /// Does `act`, which gives the connection something to do, and then that. Where the task is at it just
    /// now, it is left to the task.
    pub(crate) fn with<T>(self: &Arc<Self>, act: impl FnOnce() -> T) -> T {
        let Some(mut work) = self.work.try_lock() else {
            return act();
        };
        let held = Held::new(self);
        let done = act();
        held.again();
        if self.poll(&mut work).is_ready() {
            self.wake_by_ref(); // the task ends, too
        }
        done
    }

    fn poll(self: &Arc<Self>, work: &mut Option<BoxFuture<'static, ()>>) -> Poll<()> {
        if let Some(future) = work {
            let waker = Waker::from(self.clone());
            if future.as_mut().poll(&mut Context::from_waker(&waker)).is_pending() {
                return Poll::Pending;
            }
        }
        *work = None;
        Poll::Ready(())
    }
}

/// From here on somebody else than the task looks at what wakes the work. Also when he panics, the task hears
/// of it, and meets the panic itself.
struct Held<'a>(&'a Carrier);

impl<'a> Held<'a> {
    fn new(carrier: &'a Carrier) -> Self {
        let held = Self(carrier);
        held.again();
        held
    }

    /// What has woken the work up to now is seen by the poll that follows.
    fn again(&self) {
        self.0.state.swap(HELD, Ordering::AcqRel);
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        let woken = self.0.state.swap(0, Ordering::AcqRel) & WOKEN != 0;
        if woken || std::thread::panicking() {
            self.0.task.wake();
        }
    }
}

struct Task(Arc<Carrier>);

impl Future for Task {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.0.task.register(cx.waker());
        self.0.poll(&mut self.0.work.lock())
    }
}

impl Drop for Task {
    /// The work holds its waker, which holds the work.
    fn drop(&mut self) {
        *self.0.work.lock() = None;
    }
}

#[cfg(test)]
#[path = "carrier_tests.rs"]
mod tests;
