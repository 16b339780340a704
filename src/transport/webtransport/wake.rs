//! Whether there is something to read, so that a task that was woken to write does not ask QUIC.
//!
//! Asking means to take the connection's lock, to look for the stream in two tables and to leave a waker in a
//! third, which is for nothing in a fan-out, where nearly all sessions only receive.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Wake, Waker};

use futures_util::task::AtomicWaker;

/// Is there news from a source that wakes?
#[derive(Debug)]
pub(super) struct News(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    is_there: AtomicBool,
    task: AtomicWaker,
}

impl Wake for Shared {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.is_there.store(true, Ordering::Release);
        self.task.wake();
    }
}

impl Default for News {
    /// Nobody has looked yet, so there may be some.
    fn default() -> Self {
        Self(Arc::new(Shared { is_there: true.into(), task: AtomicWaker::new() }))
    }
}

impl News {
    /// The waker to ask the sources with, or `None` if they have not woken since they were asked. `cx` is of the
    /// task that is woken by the next news; it may be another each time.
    pub(super) fn take(&self, cx: &Context<'_>) -> Option<Waker> {
        // first: what comes in between wakes the task
        self.0.task.register(cx.waker());
        self.0.is_there.swap(false, Ordering::Acquire).then(|| self.0.clone().into())
    }

    /// A source was ready: it has to be asked again, since it has not kept the waker.
    pub(super) fn more(&self) {
        self.0.is_there.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    /// A task that counts how often it is woken.
    #[derive(Default)]
    struct Counted(AtomicUsize);

    impl Wake for Counted {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn news_wake_the_task_that_asked_last_and_are_told_once() {
        let news = News::default();
        let [one, other] = [(); 2].map(|()| Arc::new(Counted::default()));
        let [first, second] = [&one, &other].map(|task| Waker::from(task.clone()));
        let source = news.take(&Context::from_waker(&first)).expect("nobody has looked yet");
        assert!(news.take(&Context::from_waker(&first)).is_none(), "nothing has come");
        source.wake_by_ref();
        assert_eq!(one.0.load(Ordering::Relaxed), 1);
        assert!(news.take(&Context::from_waker(&second)).is_some());
        assert!(news.take(&Context::from_waker(&second)).is_none());
        source.wake_by_ref();
        assert_eq!((one.0.load(Ordering::Relaxed), other.0.load(Ordering::Relaxed)), (1, 1));
        assert!(news.take(&Context::from_waker(&second)).is_some());
        news.more();
        assert!(news.take(&Context::from_waker(&second)).is_some(), "a source had more");
    }
}
