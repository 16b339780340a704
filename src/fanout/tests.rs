//! Who writes when: the turn that pushed, or the session's task.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Wake;

use super::*;
use crate::engine::packet::Frame;

/// A connection that takes so many bytes.
#[derive(Debug)]
struct Pipe {
    room: AtomicUsize,
    got: Mutex<Vec<u8>>,
    writes: AtomicUsize,
    packets: AtomicUsize,
}

impl Line for Pipe {
    fn framed<'a>(&self, message: &'a Encoded) -> &'a Bytes {
        message.websocket()
    }

    fn try_write(&self, messages: &[&Bytes]) -> io::Result<usize> {
        self.writes.fetch_add(1, Ordering::Relaxed);
        let bytes: Vec<u8> = messages.iter().flat_map(|message| message.to_vec()).collect();
        let taken = bytes.len().min(self.room.load(Ordering::Relaxed));
        if taken == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.room.fetch_sub(taken, Ordering::Relaxed);
        self.got.lock().extend_from_slice(&bytes[..taken]);
        Ok(taken)
    }

    fn sent(&self, packets: usize, _: usize) {
        self.packets.fetch_add(packets, Ordering::Relaxed);
    }
}

#[derive(Default)]
struct Task(AtomicUsize);

impl Wake for Task {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

struct Bench {
    mailbox: Arc<Mailbox>,
    pipe: Arc<Pipe>,
    task: Arc<Task>,
}

impl Bench {
    /// A session whose task sleeps.
    fn new(room: usize) -> Self {
        let pipe = Arc::new(Pipe {
            room: room.into(),
            got: Mutex::default(),
            writes: 0.into(),
            packets: 0.into(),
        });
        let bench =
            Self { mailbox: Arc::new(Mailbox::new(128 * 1024)), pipe, task: Arc::default() };
        bench.mailbox.set_line(Some(bench.pipe.clone()));
        let _ = bench.mailbox.attend();
        assert!(bench.sleep());
        bench
    }

    fn sleep(&self) -> bool {
        let waker = Waker::from(self.task.clone());
        self.mailbox.sleep(&Context::from_waker(&waker), true)
    }

    fn push(&self, text: &str) {
        let frame = Frame::Text(text.to_owned().into());
        let message = Arc::new(Encoded::new(vec![frame], true));
        let verdict = self.mailbox.push(message, false, SlowReader::default());
        assert_eq!(verdict, Verdict::Queued);
    }

    fn woken(&self) -> usize {
        self.task.0.load(Ordering::Relaxed)
    }

    fn writes(&self) -> usize {
        self.pipe.writes.load(Ordering::Relaxed)
    }

    fn got(&self) -> Vec<u8> {
        self.pipe.got.lock().clone()
    }

    /// What the task would write now.
    fn taken(&self, asked: &Asked) -> Vec<u8> {
        let mut batch = Vec::new();
        assert!(!self.mailbox.take(usize::MAX, &mut batch));
        let frames = batch.iter().flat_map(|message| message.websocket().to_vec());
        asked.rest.iter().copied().chain(frames).collect()
    }
}

const ONE_TWO_THREE: &[u8] = b"\x81\x03one\x81\x03two\x81\x05three";

#[test]
fn what_a_turn_pushes_is_written_at_its_end_in_one_piece_and_wakes_nobody() {
    let bench = Bench::new(1_000);
    turn(|| {
        bench.push("one");
        turn(|| bench.push("two"));
        bench.push("three");
        assert_eq!(bench.got(), b"", "not before the end");
    });
    assert_eq!(bench.got(), ONE_TWO_THREE);
    assert_eq!((bench.writes(), bench.woken()), (1, 0));
    assert_eq!(bench.pipe.packets.load(Ordering::Relaxed), 3);
    turn(|| bench.push("one"));
    assert_eq!((bench.writes(), bench.woken()), (2, 0));
}

#[test]
fn a_line_that_fills_up_in_the_middle_of_a_frame_is_gone_on_with_by_the_task() {
    for room in 0..ONE_TWO_THREE.len() {
        let bench = Bench::new(room);
        turn(|| ["one", "two", "three"].into_iter().for_each(|text| bench.push(text)));
        assert_eq!(bench.woken(), 1, "{room}");
        bench.pipe.room.store(1_000, Ordering::Relaxed);
        turn(|| bench.push("4"));
        assert_eq!(bench.got().len(), room, "nobody writes between the parts of a frame");
        let asked = bench.mailbox.attend();
        assert!(asked.blocked);
        let all = [bench.got(), bench.taken(&asked)].concat();
        assert_eq!(all, [ONE_TWO_THREE, b"\x81\x014"].concat(), "{room}");
    }
}

#[test]
fn a_line_that_takes_no_more_counts_as_stalled_at_once() {
    let bench = Bench::new(7);
    turn(|| ["one", "two"].into_iter().for_each(|text| bench.push(text)));
    let message = Arc::new(Encoded::new(vec![Frame::Text("4".into())], true));
    let verdict = bench.mailbox.push(message, true, SlowReader::default());
    assert_eq!(verdict, Verdict::DroppedVolatile);
}

#[test]
fn while_the_task_is_awake_nobody_else_writes() {
    let bench = Bench::new(1_000);
    let asked = bench.mailbox.attend();
    turn(|| bench.push("one"));
    assert_eq!((bench.writes(), bench.woken()), (0, 0));
    assert!(!bench.sleep(), "it has to look again");
    assert_eq!(bench.taken(&asked), b"\x81\x03one");
    assert!(bench.sleep());
    turn(|| bench.push("two"));
    assert_eq!((bench.writes(), bench.woken()), (1, 0));
}

#[test]
fn a_session_whose_task_wakes_on_the_ready_list_is_its_tasks() {
    let bench = Bench::new(1_000);
    let mut asked = Asked::default();
    turn(|| {
        bench.push("one");
        asked = bench.mailbox.attend();
    });
    assert_eq!(bench.writes(), 0, "the task may be in the middle of something of its own");
    assert_eq!(bench.taken(&asked), b"\x81\x03one");
}

#[test]
fn what_comes_while_the_task_is_awake_is_not_slept_over() {
    let bench = Bench::new(1_000);
    let asks: [fn(&Mailbox); 3] = [
        |mailbox| mailbox.wake(),
        |mailbox| mailbox.close(CloseReason::ForcedClose),
        |mailbox| mailbox.abort(CloseReason::ForcedClose),
    ];
    for ask in asks {
        let asked = bench.mailbox.attend();
        ask(&bench.mailbox);
        bench.taken(&asked);
        assert!(!bench.sleep());
        assert!(bench.sleep());
    }
}

#[test]
fn a_session_that_closes_on_the_ready_list_sends_what_it_has_once() {
    let bench = Bench::new(1_000);
    turn(|| {
        bench.push("one");
        bench.mailbox.close(CloseReason::ForcedClose);
        assert_eq!(bench.woken(), 1);
        let asked = bench.mailbox.attend();
        assert_eq!(asked.close, Some(CloseReason::ForcedClose));
        assert_eq!(bench.taken(&asked), b"\x81\x03one");
    });
    assert_eq!(bench.writes(), 0);
    assert!(bench.mailbox.is_empty());
}

#[test]
fn a_session_that_ends_on_the_ready_list_lets_go_of_its_connection() {
    let bench = Bench::new(1_000);
    turn(|| {
        bench.push("one");
        bench.mailbox.shut();
    });
    assert_eq!((bench.writes(), Arc::strong_count(&bench.pipe)), (0, 1));
}

#[test]
fn a_link_with_something_of_its_own_to_write_is_left_to_the_task() {
    let bench = Bench::new(1_000);
    let _ = bench.mailbox.attend();
    let waker = Waker::from(bench.task.clone());
    assert!(bench.mailbox.sleep(&Context::from_waker(&waker), false));
    turn(|| bench.push("one"));
    assert_eq!((bench.writes(), bench.woken()), (0, 1));
}

#[test]
fn a_long_turn_does_not_fill_the_outbox_of_a_peer_that_reads() {
    let bench = Bench::new(usize::MAX);
    let text = "x".repeat(10_000);
    turn(|| (0..100).for_each(|_| bench.push(&text)));
    assert_eq!(bench.got().len(), 100 * (10_000 + 4));
    assert_eq!(bench.woken(), 0);
}

#[test]
fn without_a_turn_the_task_is_woken() {
    let bench = Bench::new(1_000);
    bench.push("one");
    assert_eq!((bench.writes(), bench.woken()), (0, 1));
}

#[tokio::test]
async fn many_peers_are_written_to_by_tasks() {
    let all: Vec<Bench> = (0..300).map(|_| Bench::new(1_000)).collect();
    turn(|| all.iter().for_each(|bench| bench.push("one")));
    let written = || all.iter().filter(|bench| bench.got() == b"\x81\x03one").count();
    assert!(written() < all.len(), "the turn does not write to all of them itself");
    while written() < all.len() {
        tokio::task::yield_now().await;
    }
}
