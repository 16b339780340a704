use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::sync::{Barrier, Weak};
use std::time::{Duration, Instant};

use super::*;

/// Work that counts how often it is polled and keeps the waker, as a connection does.
#[derive(Default)]
struct Work {
    polls: AtomicUsize,
    waker: Mutex<Option<Waker>>,
    /// What the next poll does.
    is_over: AtomicBool,
    wakes_itself: AtomicBool,
    panics: AtomicBool,
}

impl Work {
    fn carrier(self: &Arc<Self>) -> Arc<Carrier> {
        let work = self.clone();
        Carrier::new(Box::pin(poll_fn(move |cx| {
            work.polls.fetch_add(1, Ordering::Relaxed);
            assert!(!work.panics.load(Ordering::Relaxed), "it was told to");
            *work.waker.lock() = Some(cx.waker().clone());
            if work.wakes_itself.swap(false, Ordering::Relaxed) {
                cx.waker().wake_by_ref();
            }
            match work.is_over.load(Ordering::Relaxed) {
                true => Poll::Ready(()),
                false => Poll::Pending,
            }
        })))
    }

    fn polls(&self) -> usize {
        self.polls.load(Ordering::Relaxed)
    }

    /// As a write to the connection does.
    fn wake(&self) {
        let waker = self.waker.lock().take();
        waker.expect("it was polled").wake();
    }
}

/// The connection's task.
#[derive(Default)]
struct Woken(AtomicUsize);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

struct Bench {
    work: Arc<Work>,
    carrier: Arc<Carrier>,
    task: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    woken: Arc<Woken>,
}

impl Bench {
    /// A task that has been polled once.
    fn new() -> Self {
        let work = Arc::new(Work::default());
        let carrier = work.carrier();
        let task = Some(Box::pin(carrier.task()) as _);
        let mut bench = Self { work, carrier, task, woken: Arc::default() };
        assert!(bench.poll().is_pending());
        bench
    }

    fn poll(&mut self) -> Poll<()> {
        let waker = Waker::from(self.woken.clone());
        let task = self.task.as_mut().expect("not dropped yet");
        task.as_mut().poll(&mut Context::from_waker(&waker))
    }

    fn woken(&self) -> usize {
        self.woken.0.load(Ordering::Relaxed)
    }
}

#[test]
fn whoever_writes_does_the_work_and_the_task_sleeps_on() {
    let bench = Bench::new();
    assert_eq!(
        bench.carrier.with(|| {
            bench.work.wake();
            7
        }),
        7
    );
    assert_eq!((bench.work.polls(), bench.woken()), (2, 0));
}

#[test]
fn what_comes_from_elsewhere_is_the_tasks() {
    let mut bench = Bench::new();
    bench.work.wake();
    assert_eq!((bench.work.polls(), bench.woken()), (1, 1));
    assert!(bench.poll().is_pending());
    bench.carrier.with(|| bench.work.wake());
    bench.work.wake();
    assert_eq!((bench.work.polls(), bench.woken()), (3, 2));
}

#[test]
fn work_that_is_not_done_in_one_go_is_left_to_the_task() {
    let bench = Bench::new();
    bench.work.wakes_itself.store(true, Ordering::Relaxed);
    bench.carrier.with(|| ());
    assert_eq!((bench.work.polls(), bench.woken()), (2, 1));
}

#[test]
fn work_that_ends_elsewhere_ends_the_task() {
    let mut bench = Bench::new();
    bench.work.is_over.store(true, Ordering::Relaxed);
    bench.carrier.with(|| ());
    assert_eq!((bench.work.polls(), bench.woken()), (2, 1));
    assert!(bench.poll().is_ready());
    assert_eq!(bench.carrier.with(|| 7), 7);
    assert_eq!(bench.work.polls(), 2, "a future that has ended is not polled again");
}

#[test]
fn work_that_panics_elsewhere_panics_in_its_task_too_which_hears_of_it() {
    let mut bench = Bench::new();
    bench.work.panics.store(true, Ordering::Relaxed);
    let outcome = catch_unwind(AssertUnwindSafe(|| bench.carrier.with(|| bench.work.wake())));
    assert!(outcome.is_err());
    assert_eq!(bench.woken(), 1);
    assert!(catch_unwind(AssertUnwindSafe(|| bench.poll())).is_err());
}

#[test]
fn the_work_goes_with_its_task_though_it_holds_its_own_waker() {
    let mut bench = Bench::new();
    let (work, carrier): (Weak<Work>, Weak<Carrier>) =
        (Arc::downgrade(&bench.work), Arc::downgrade(&bench.carrier));
    bench.task = None;
    assert_eq!(bench.carrier.with(|| 7), 7);
    bench.work.waker.lock().take();
    drop(bench);
    assert_eq!((work.strong_count(), carrier.strong_count()), (0, 0));
}

/// One turn of a task that does `act`, with all the time that it wants.
fn gather(act: impl FnOnce() + Unpin) {
    gather_as(Duration::MAX, 2, act);
}

fn gather_as(slice: Duration, workers: usize, act: impl FnOnce() + Unpin) {
    let mut act = Some(act);
    let task = poll_fn(move |_| {
        act.take().expect("it is polled once")();
        Poll::Ready(())
    });
    let mut gathering = Gathering { slice, ..Gathering::new(task, workers) };
    let done = Pin::new(&mut gathering).poll(&mut Context::from_waker(Waker::noop()));
    assert!(done.is_ready());
}

#[test]
fn who_receives_for_a_connection_goes_on_with_it() {
    let mut bench = Bench::new();
    let polls = || bench.work.polls();
    gather(|| {
        bench.work.wake();
        assert_eq!(polls(), 1, "not while it holds what it holds");
    });
    assert_eq!((polls(), bench.woken()), (2, 0));
    bench.work.wakes_itself.store(true, Ordering::Relaxed);
    gather(|| bench.work.wake());
    assert_eq!((polls(), bench.woken()), (3, 1));
    // afterwards all is as before
    assert!(bench.poll().is_pending());
    bench.work.wake();
    assert_eq!((bench.work.polls(), bench.woken()), (4, 2));
}

#[test]
fn a_connection_that_somebody_else_is_at_is_left_to_its_task() {
    let bench = Bench::new();
    let somebody = bench.carrier.work.lock();
    gather(|| bench.work.wake());
    assert_eq!((bench.work.polls(), bench.woken()), (1, 1));
    drop(somebody);
}

#[test]
fn who_receives_leaves_to_tasks_what_would_take_long() {
    let mut bench = Bench::new();
    gather_as(Duration::ZERO, 2, || bench.work.wake());
    assert_eq!((bench.work.polls(), bench.woken()), (1, 1));
    assert!(bench.poll().is_pending());
}

#[test]
fn who_has_more_to_receive_does_nothing_else_where_others_can() {
    for (workers, count, seen) in [(3, MANY - 1, (2, 0)), (3, MANY, (1, 1)), (2, MANY, (2, 0))] {
        let benches: Vec<_> = (0..count).map(|_| Bench::new()).collect();
        gather_as(Duration::MAX, workers, || benches.iter().for_each(|bench| bench.work.wake()));
        let all = benches.iter().all(|bench| (bench.work.polls(), bench.woken()) == seen);
        assert!(all, "{workers} workers, {count} connections");
    }
}

/// Tokio gives a task so much at a time, and all that it asks for then is not there yet.
#[tokio::test]
async fn who_has_no_budget_left_leaves_the_rest_to_tasks() {
    let bench = Bench::new();
    tokio::spawn(poll_fn(move |cx| {
        gather(|| {
            while has_budget_remaining() {
                let proceed = tokio::task::coop::poll_proceed(cx);
                if let Poll::Ready(proceed) = proceed {
                    proceed.made_progress();
                }
            }
            bench.work.wake();
        });
        assert_eq!((bench.work.polls(), bench.woken()), (1, 1));
        Poll::Ready(())
    }))
    .await
    .expect("it is left");
}

#[test]
fn a_panic_of_one_connection_is_its_own_and_one_of_who_receives_forgets_nobody() {
    let benches = [Bench::new(), Bench::new()];
    benches[0].work.panics.store(true, Ordering::Relaxed);
    gather(|| benches.iter().for_each(|bench| bench.work.wake()));
    let seen = benches.each_ref().map(|bench| (bench.work.polls(), bench.woken()));
    assert_eq!(seen, [(2, 1), (2, 0)]);
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        gather(|| {
            benches[1].work.wake();
            panic!("it was told to");
        });
    }));
    assert!(outcome.is_err());
    assert_eq!((benches[1].work.polls(), benches[1].woken()), (2, 1));
}

/// In each round one thing to do comes with somebody who does it, and one from elsewhere at the same time.
#[test]
fn no_wake_up_is_lost_between_the_task_and_others() {
    const ROUNDS: usize = 2_000;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build();
    let runtime = runtime.expect("a runtime");
    let (to_do, mut things) = tokio::sync::mpsc::unbounded_channel::<()>();
    let done = AtomicUsize::new(0);
    let done: &'static AtomicUsize = Box::leak(Box::new(done));
    let carrier = Carrier::new(Box::pin(poll_fn(move |cx| {
        while let Poll::Ready(thing) = things.poll_recv(cx) {
            if thing.is_none() {
                return Poll::Ready(());
            }
            done.fetch_add(1, Ordering::Relaxed);
        }
        // it has looked, and what comes until it has ended is seen by nobody else
        (0..2_000).for_each(|_| std::hint::spin_loop());
        Poll::Pending
    })));
    let task = runtime.spawn(carrier.task());
    let together = Barrier::new(2);
    std::thread::scope(|scope| {
        let elsewhere = to_do.clone();
        scope.spawn(|| {
            let to_do = elsewhere;
            for _ in 0..ROUNDS {
                together.wait();
                to_do.send(()).expect("the task lives");
                together.wait();
            }
        });
        let mut lost = None;
        for round in 0..ROUNDS {
            together.wait();
            carrier.with(|| to_do.send(()).expect("the task lives"));
            together.wait();
            let begun = Instant::now();
            while done.load(Ordering::Relaxed) < 2 * (round + 1) && lost.is_none() {
                if begun.elapsed() > Duration::from_secs(20) {
                    lost = Some(round);
                }
                std::thread::yield_now();
            }
        }
        assert_eq!(lost, None, "the round in which something stayed undone");
    });
    drop(to_do);
    runtime.block_on(task).expect("it ends when nobody sends any more");
}
