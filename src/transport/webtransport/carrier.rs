//! A QUIC connection's work, done by its task, or at once by whoever gives it something to send.
//!
//! QUIC's data waits in the connection until its task is scheduled, which encrypts and sends it. In a fan-out
//! that is a task woken for each of a thousand peers, so whoever writes polls the connection's future
//! itself, with the connection's own waker. Likewise the task that receives for all connections
//! ([`Gathering`]) goes on with those that it has given something. A connection's own task then hears only of
//! its timers, and of what comes from elsewhere.

use std::cell::RefCell;
use std::fmt;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use futures_util::task::AtomicWaker;
use parking_lot::Mutex;
use tokio::task::coop::has_budget_remaining;

/// A future that may be polled from elsewhere than its task.
pub(crate) struct Carrier {
    /// `None` when it has ended.
    work: Mutex<Option<BoxFuture<'static, ()>>>,
    task: AtomicWaker,
    state: AtomicU8,
}

/// How long [`Gathering`] goes on with what it has woken, but for the last of them; the rest is for the tasks, and so
/// for other cores.
const SLICE: Duration = Duration::from_micros(100);
/// Woken connections that mean that there is more to receive: as many as packets are read at once.
const MANY: usize = 32;

thread_local! {
    /// What is woken by a [`Gathering`] that is at it on this thread.
    static GATHERED: RefCell<Option<Vec<Arc<Carrier>>>> = const { RefCell::new(None) };
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
        if self.state.fetch_or(WOKEN, Ordering::AcqRel) & HELD == 0 && !self.gather() {
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

    /// Is somebody on this thread going to do it at once?
    fn gather(self: &Arc<Self>) -> bool {
        let push = |gathered: &RefCell<Option<Vec<_>>>| {
            gathered.borrow_mut().as_mut().map(|gathered| gathered.push(self.clone()))
        };
        // none on a thread that ends
        GATHERED.try_with(push).ok().flatten().is_some()
    }

    /// Does what there is to do. Where somebody else is at it, he or the task looks again. A panic is the task's,
    /// who meets it again.
    fn go_on(self: &Arc<Self>) {
        let go_on = || self.with(|| self.wake_by_ref());
        drop(catch_unwind(AssertUnwindSafe(go_on)));
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

/// A task that gives many connections something to do, and goes on with them itself, for a moment: none of them
/// has to be scheduled, and what it gave them is in this core's cache.
pub(crate) struct Gathering<F> {
    task: F,
    slice: Duration,
    /// Are there other cores than this and one more?
    is_wide: bool,
    /// Empty; kept for its capacity.
    list: Vec<Arc<Carrier>>,
}

impl<F> Gathering<F> {
    /// `workers`: the threads of the runtime.
    pub(crate) fn new(task: F, workers: usize) -> Self {
        Self { task, slice: SLICE, is_wide: workers > 2, list: Vec::new() }
    }
}

impl<F: Future + Unpin> Future for Gathering<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = &mut *self;
        let outer = GATHERED.replace(Some(std::mem::take(&mut this.list)));
        debug_assert!(outer.is_none(), "one within the other");
        let mut gathered = Gathered::default();
        let done = Pin::new(&mut this.task).poll(cx);
        gathered.take();
        if !gathered.0.is_empty() {
            // where others can do it, who always has more to receive does nothing else
            let is_busy = this.is_wide && gathered.0.len() >= MANY;
            let begun = Instant::now();
            let mut woken = gathered.0.drain(..);
            // without budget tokio answers that there is nothing to do
            while !is_busy && begun.elapsed() < this.slice && has_budget_remaining() {
                let Some(carrier) = woken.next() else { break };
                carrier.go_on();
            }
            woken.for_each(|carrier| carrier.wake());
        }
        this.list = std::mem::take(&mut gathered.0);
        done
    }
}

/// Also when the task panics, nobody who was woken is forgotten.
#[derive(Default)]
struct Gathered(Vec<Arc<Carrier>>);

impl Gathered {
    fn take(&mut self) {
        if let Some(gathered) = GATHERED.take() {
            self.0 = gathered;
        }
    }
}

impl Drop for Gathered {
    fn drop(&mut self) {
        self.take();
        self.0.drain(..).for_each(|carrier| carrier.wake());
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
