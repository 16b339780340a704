//! Whether there is something to read, so that a task that was woken to write does not ask QUIC.
//!
//! Asking means to take the connection's lock, to look for the stream in two tables and to leave a waker in a
//! third, which is for nothing in a fan-out, where nearly all sessions only receive.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
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

    /// There is some, though no source has said so.
    pub(super) fn tell(&self) {
        self.0.wake_by_ref();
    }

    /// A source was ready: it has to be asked again, since it has not kept the waker.
    pub(super) fn more(&self) {
        self.0.is_there.store(true, Ordering::Relaxed);
    }
}

/// A few futures that wake once in a session's life, if at all. Whichever does, all are polled: a set that
/// knows which one it was (`FuturesUnordered`) keeps a node for each, one spare as large as the largest, and
/// a queue, which idle sessions would pay for.
pub(super) struct Watched<T> {
    futures: Vec<BoxFuture<'static, T>>,
    news: News,
}

impl<T> Default for Watched<T> {
    fn default() -> Self {
        Self { futures: Vec::new(), news: News::default() }
    }
}

impl<T> Watched<T> {
    pub(super) fn push(&mut self, future: impl Future<Output = T> + Send + 'static) {
        watch(&mut self.futures, future);
        self.news.more();
    }

    pub(super) fn is_empty(&self) -> bool {
        self.futures.is_empty()
    }

    pub(super) fn clear(&mut self) {
        self.futures = Vec::new();
    }

    /// Has all of them polled.
    pub(super) fn tell(&self) {
        self.news.tell();
    }

    /// Ready when one of them is, which is then forgotten.
    pub(super) fn poll_next(&mut self, cx: &Context<'_>) -> Poll<T> {
        let Some(waker) = self.news.take(cx) else {
            return Poll::Pending;
        };
        let next = poll_any(&mut self.futures, &mut Context::from_waker(&waker));
        if next.is_ready() {
            self.news.more(); // the others have not been asked
        }
        next
    }
}

/// Adds one, with room for no more: the list lives as long as the session.
pub(super) fn watch<T>(
    futures: &mut Vec<BoxFuture<'static, T>>,
    future: impl Future<Output = T> + Send + 'static,
) {
    futures.reserve_exact(1);
    futures.push(Box::pin(future));
}

/// Ready when one of them is, which is then forgotten; never if there are none.
pub(super) fn poll_any<T>(
    futures: &mut Vec<BoxFuture<'static, T>>,
    cx: &mut Context<'_>,
) -> Poll<T> {
    for index in 0..futures.len() {
        if let Poll::Ready(output) = futures[index].poll_unpin(cx) {
            drop(futures.swap_remove(index));
            return Poll::Ready(output);
        }
    }
    Poll::Pending
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

    #[test]
    fn all_that_is_watched_is_asked_again_after_one_was_ready() {
        let task = Arc::new(Counted::default());
        let waker = Waker::from(task.clone());
        let cx = Context::from_waker(&waker);
        let mut watched = Watched::default();
        let (mut senders, mut receivers) = (Vec::new(), Vec::new());
        for _ in 0..3 {
            let (sender, receiver) = tokio::sync::oneshot::channel();
            senders.push(sender);
            receivers.push(receiver);
        }
        let last = receivers.pop().expect("three of them");
        for receiver in receivers {
            watched.push(receiver.map(Result::unwrap));
        }
        assert!(watched.poll_next(&cx).is_pending());
        watched.push(last.map(Result::unwrap));
        // what was pushed since is asked, too, and is woken for
        assert!(watched.poll_next(&cx).is_pending());
        for (index, sender) in senders.into_iter().enumerate() {
            sender.send(index).unwrap();
        }
        assert_eq!(task.0.load(Ordering::Relaxed), 1, "once is enough until it looks");
        let mut outputs: Vec<_> = (0..3).map(|_| watched.poll_next(&cx)).collect();
        outputs.sort_by_key(|output| format!("{output:?}"));
        assert_eq!(outputs, [0, 1, 2].map(Poll::Ready));
        assert!(watched.poll_next(&cx).is_pending());
    }
}
