//! HTTP long-polling as a link: one waiting GET carries what the server has to say, one POST at a time
//! what the client has.
//!
//! The HTTP side (`server::accept`) reads requests and writes responses; it hands a [`PollRequest`] or a
//! [`PostRequest`] to the session's task and waits for the answer.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use tokio::sync::oneshot;

use crate::engine::framing::{Records, put_record};
use crate::engine::packet::{Frame, Packet, Str};
use crate::error::{LinkError, PeerMisbehaved};

/// Bytes that one answer takes before the rest waits for the next poll. Also the most that may be in answers
/// which no peer has taken yet, but for a message that begins below it.
const ANSWER_BYTES: usize = 1024 * 1024;

/// A GET that waits.
#[derive(Debug)]
pub(crate) struct PollRequest {
    pub(crate) answer: oneshot::Sender<PollAnswer>,
}

/// What a GET is answered with. (If the sender is dropped instead, the session is gone.)
#[derive(Debug)]
pub(crate) enum PollAnswer {
    /// Packets.
    Payload {
        /// The encoded payload.
        body: String,
        /// Does any message in it want compression?
        compress: bool,
        /// Counts it, wherever it is.
        untaken: Untaken,
    },
    /// Another GET was waiting already: status 400, and the session is over.
    Overlap,
}

/// What a session's answers hold that were given to the HTTP side and not yet written.
#[derive(Debug, Default)]
struct UntakenBytes {
    bytes: AtomicUsize,
    /// The session's task, which waits for room.
    waker: AtomicWaker,
}

/// An answer on its way. With HTTP/2 a peer can ask for many and leave its windows shut: they would be out of
/// the outbox, and wait all the same.
#[derive(Debug)]
pub(crate) struct Untaken {
    all: Arc<UntakenBytes>,
    bytes: usize,
}

impl Untaken {
    fn new(all: &Arc<UntakenBytes>, bytes: usize) -> Self {
        all.bytes.fetch_add(bytes, Ordering::Relaxed);
        Self { all: all.clone(), bytes }
    }

    /// The body, which counts until the last slice of it is gone.
    pub(crate) fn keep(self, body: impl AsRef<[u8]> + Send + 'static) -> Bytes {
        Bytes::from_owner(Counted { body, _untaken: self })
    }
}

impl Drop for Untaken {
    fn drop(&mut self) {
        self.all.bytes.fetch_sub(self.bytes, Ordering::Release);
        self.all.waker.wake();
    }
}

struct Counted<T> {
    // goes before it is counted as gone
    body: T,
    _untaken: Untaken,
}

impl<T: AsRef<[u8]>> AsRef<[u8]> for Counted<T> {
    fn as_ref(&self) -> &[u8] {
        self.body.as_ref()
    }
}

/// A POST whose body was read.
#[derive(Debug)]
pub(crate) struct PostRequest {
    /// Or how many bytes of it were read before it was refused: they are paid for like others.
    pub(crate) body: Result<Str, usize>,
    /// Told when every packet in the body was taken. (Dropped instead: the session broke over it.)
    pub(crate) done: oneshot::Sender<()>,
}

#[derive(Debug)]
struct Post {
    records: Records,
    done: oneshot::Sender<()>,
}

/// The link of a polling session.
#[derive(Debug, Default)]
pub(crate) struct Polling {
    poll: Option<oneshot::Sender<PollAnswer>>,
    payload: String,
    compress: bool,
    untaken: Arc<UntakenBytes>,
    post: Option<Post>,
    /// Is nobody interested in what the client says any more?
    deaf: bool,
    closing: bool,
}

impl Polling {
    /// A GET came.
    ///
    /// # Errors
    /// [`PeerMisbehaved::OverlappingPoll`]: the new one is answered with 400, the waiting one stays for
    /// the end of the session to answer (engine.io polling.ts "overlap from client").
    pub(crate) fn attach_poll(&mut self, request: PollRequest) -> Result<(), PeerMisbehaved> {
        if self.poll.as_ref().is_some_and(|waiting| !waiting.is_closed()) {
            let _ = request.answer.send(PollAnswer::Overlap);
            return Err(PeerMisbehaved::OverlappingPoll);
        }
        self.poll = Some(request.answer);
        Ok(())
    }

    /// A POST came.
    ///
    /// # Errors
    /// [`PeerMisbehaved::OverlappingPost`]; the new one is dropped.
    pub(crate) fn attach_post(&mut self, request: PostRequest) -> Result<(), PeerMisbehaved> {
        if self.deaf {
            let _ = request.done.send(());
            return Ok(());
        }
        if self.post.is_some() {
            return Err(PeerMisbehaved::OverlappingPost);
        }
        let records = request.body.map(Records::new).unwrap_or_default();
        self.post = Some(Post { records, done: request.done });
        Ok(())
    }

    /// Does a poll wait that has nothing to carry yet?
    pub(crate) fn is_idle(&self) -> bool {
        self.poll.is_some() && self.payload.is_empty()
    }

    pub(crate) fn poll_read(&mut self) -> Poll<Result<Option<Frame>, LinkError>> {
        let Some(post) = &mut self.post else {
            return Poll::Pending;
        };
        let frame = match post.records.next_frame() {
            Ok(Some(frame)) => frame,
            Ok(None) => {
                self.finish_post();
                return Poll::Pending;
            }
            Err(rule) => return Poll::Ready(Err(rule.into())),
        };
        // engine.io-parser decodes a bad record to its error packet; a close packet ends the link
        if frame == Packet::Close.encode() {
            self.finish_post();
            return Poll::Ready(Ok(None));
        }
        Poll::Ready(Ok(Some(frame)))
    }

    /// The session is closing. What the client says from now on is taken and thrown away: a client that
    /// polls only when its POST was answered would never hear of the close otherwise.
    pub(crate) fn stop_reading(&mut self) {
        self.deaf = true;
        self.finish_post();
    }

    pub(crate) fn is_writable(&self) -> bool {
        self.poll.is_some() && self.has_room() && !self.closing
    }

    /// Always, if there is no other answer.
    fn has_room(&self) -> bool {
        self.payload.len() + self.untaken.bytes.load(Ordering::Acquire) < ANSWER_BYTES
    }

    pub(crate) fn queue(&mut self, frame: &Frame, compress: bool) {
        put_record(frame, &mut self.payload);
        self.compress |= compress;
    }

    /// Also wakes the task when answers were taken that there is no room beside: it looks at
    /// [`Polling::is_writable`] once more behind this.
    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), LinkError>> {
        if !self.has_room() {
            self.untaken.waker.register(cx.waker());
        }
        if self.payload.is_empty() {
            let Some(poll) = &mut self.poll else {
                return Poll::Ready(Ok(()));
            };
            if poll.poll_closed(cx).is_ready() {
                self.poll = None;
                return Poll::Ready(Err(aborted()));
            }
            return Poll::Ready(Ok(()));
        }
        let Some(poll) = self.poll.take() else {
            return Poll::Pending;
        };
        let compress = std::mem::take(&mut self.compress);
        Poll::Ready(poll.send(self.answer(compress)).map_err(|_| aborted()))
    }

    fn answer(&mut self, compress: bool) -> PollAnswer {
        let body = std::mem::take(&mut self.payload);
        let untaken = Untaken::new(&self.untaken, body.len());
        PollAnswer::Payload { body, compress, untaken }
    }

    pub(crate) fn close(&mut self) {
        self.closing = true;
    }

    /// Engine.IO's polling closes with a `1` packet, which has to wait for a poll to carry it.
    pub(crate) fn poll_closed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.payload.is_empty() {
            let _ = self.poll_flush(cx);
        }
        if self.poll.is_none() {
            return Poll::Pending;
        }
        self.release(&Packet::Close);
        Poll::Ready(())
    }

    /// Answers the waiting poll with one packet, for the link is no longer the session's. `false`: none
    /// waits.
    pub(crate) fn release(&mut self, packet: &Packet) -> bool {
        let Some(poll) = self.poll.take() else {
            return false;
        };
        self.queue(&packet.encode(), false);
        let _ = poll.send(self.answer(false));
        true
    }

    fn finish_post(&mut self) {
        if let Some(post) = self.post.take() {
            let _ = post.done.send(());
        }
    }
}

fn aborted() -> LinkError {
    io::Error::new(io::ErrorKind::ConnectionAborted, "poll connection closed prematurely").into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::task::noop_waker_ref;

    fn cx() -> Context<'static> {
        Context::from_waker(noop_waker_ref())
    }

    fn poll(link: &mut Polling) -> oneshot::Receiver<PollAnswer> {
        let (answer, receiver) = oneshot::channel();
        link.attach_poll(PollRequest { answer }).unwrap();
        receiver
    }

    fn payload(receiver: &mut oneshot::Receiver<PollAnswer>) -> String {
        match receiver.try_recv().unwrap() {
            PollAnswer::Payload { body, .. } => body,
            PollAnswer::Overlap => panic!("overlap"),
        }
    }

    #[test]
    fn a_poll_waits_until_there_is_something_and_carries_it_all() {
        let mut link = Polling::default();
        assert!(!link.is_writable());
        let mut receiver = poll(&mut link);
        assert!(link.is_idle() && link.is_writable());
        assert!(matches!(link.poll_flush(&mut cx()), Poll::Ready(Ok(()))));
        assert!(receiver.try_recv().is_err());
        link.queue(&Frame::Text("4a".into()), true);
        link.queue(&Frame::Binary("b".into()), true);
        assert!(matches!(link.poll_flush(&mut cx()), Poll::Ready(Ok(()))));
        assert_eq!(payload(&mut receiver), "4a\u{1e}bYg==");
        assert!(!link.is_writable());
    }

    #[test]
    fn an_overlapping_poll_is_refused_and_the_first_one_kept() {
        let mut link = Polling::default();
        let mut first = poll(&mut link);
        let (answer, mut second) = oneshot::channel();
        let result = link.attach_poll(PollRequest { answer });
        assert_eq!(result, Err(PeerMisbehaved::OverlappingPoll));
        assert!(matches!(second.try_recv(), Ok(PollAnswer::Overlap)));
        link.release(&Packet::Close);
        assert_eq!(payload(&mut first), "1");
    }

    /// Is woken when there is room.
    #[derive(Default)]
    struct Task(AtomicUsize);

    impl std::task::Wake for Task {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// An answer of so many bytes, as a response has it.
    fn answered(link: &mut Polling, bytes: usize) -> Bytes {
        let mut receiver = poll(link);
        assert!(link.is_writable());
        link.queue(&Frame::Text("x".repeat(bytes).into()), false);
        assert!(matches!(link.poll_flush(&mut cx()), Poll::Ready(Ok(()))));
        match receiver.try_recv() {
            Ok(PollAnswer::Payload { body, untaken, .. }) => untaken.keep(body),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn answers_that_are_not_taken_leave_no_room_until_the_last_piece_of_one_is() {
        let (mut link, task) = (Polling::default(), Arc::new(Task::default()));
        let waker = std::task::Waker::from(task.clone());
        let cx = &mut Context::from_waker(&waker);
        let small = answered(&mut link, ANSWER_BYTES - 1);
        // the one that goes over the bound
        let mut large = answered(&mut link, ANSWER_BYTES);
        let waiting = poll(&mut link);
        assert!(!link.is_writable());
        assert!(matches!(link.poll_flush(cx), Poll::Ready(Ok(()))));
        drop(small);
        assert_eq!(task.0.load(Ordering::Relaxed), 1);
        assert!(!link.is_writable(), "it looks, and finds no room");
        assert!(matches!(link.poll_flush(cx), Poll::Ready(Ok(()))));
        let last = large.split_off(ANSWER_BYTES - 1);
        drop(large);
        assert!(!link.is_writable() && task.0.load(Ordering::Relaxed) == 1, "a piece is there");
        drop(last);
        assert_eq!(task.0.load(Ordering::Relaxed), 2);
        assert!(link.is_writable());
        drop(waiting);
    }

    #[test]
    fn one_answer_is_allowed_however_long_and_one_that_nobody_waits_for_is_not_counted() {
        let mut link = Polling::default();
        let long = answered(&mut link, ANSWER_BYTES * 3);
        drop(long);
        let gone = poll(&mut link);
        assert!(link.is_writable());
        link.queue(&Frame::Text("x".repeat(ANSWER_BYTES).into()), false);
        drop(gone);
        assert!(matches!(link.poll_flush(&mut cx()), Poll::Ready(Err(LinkError::Io(_)))));
        assert!(link.has_room());
    }

    #[test]
    fn a_poll_that_went_away_is_an_error_at_once() {
        let mut link = Polling::default();
        drop(poll(&mut link));
        assert!(matches!(link.poll_flush(&mut cx()), Poll::Ready(Err(LinkError::Io(_)))));
    }

    #[test]
    fn a_post_is_answered_when_its_last_packet_was_taken() {
        let mut link = Polling::default();
        let (done, mut receiver) = oneshot::channel();
        link.attach_post(PostRequest { body: Ok("4a\u{1e}4b".into()), done }).unwrap();
        for expected in ["4a", "4b"] {
            assert!(receiver.try_recv().is_err());
            let Poll::Ready(Ok(Some(Frame::Text(text)))) = link.poll_read() else {
                panic!("no text")
            };
            assert_eq!(text.as_str(), expected);
        }
        assert!(link.poll_read().is_pending());
        assert_eq!(receiver.try_recv(), Ok(()));
    }

    #[test]
    fn a_close_packet_ends_the_link_and_hides_what_follows() {
        let mut link = Polling::default();
        let (done, mut receiver) = oneshot::channel();
        link.attach_post(PostRequest { body: Ok("1\u{1e}4b".into()), done }).unwrap();
        assert!(matches!(link.poll_read(), Poll::Ready(Ok(None))));
        assert_eq!(receiver.try_recv(), Ok(()));
        assert!(link.poll_read().is_pending());
    }

    #[test]
    fn closing_waits_for_a_poll_to_say_so() {
        let mut link = Polling::default();
        link.close();
        assert!(link.poll_closed(&mut cx()).is_pending());
        let mut receiver = poll(&mut link);
        assert!(link.poll_closed(&mut cx()).is_ready());
        assert_eq!(payload(&mut receiver), "1");
    }
}
