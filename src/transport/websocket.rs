//! A WebSocket as a link: an upgraded byte stream <-> whole Engine.IO frames (RFC 6455, RFC 7692).
//!
//! [`negotiate`] answers the request, [`WebSocket`] carries the frames. We own the I/O, and take
//! from soketto only its codec of frame headers, for two reasons: a broadcast is framed once
//! ([`put_websocket`](crate::engine::framing::put_websocket)) and its bytes are shared by all who
//! get it, and a connection with nothing to read or to write owns no buffer: bytes are read into
//! scratch space on the stack and only what is not yet a whole message is kept.
//!
//! Every function named `poll_*` keeps its state in the link: dropping the future around it loses
//! nothing. They take work in bounded portions.

mod deflate;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod handshake;
mod reader;

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use soketto::base::{Codec, Header, OpCode};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

pub(crate) use self::handshake::{Deflate, negotiate};
use self::reader::{Event, MAX_PARTIAL_HEADER, Reader};
use crate::engine::packet::Frame;
use crate::error::{LinkError, PeerMisbehaved};

/// Scratch space for one read: the most that a TLS record carries.
const READ_BYTES: usize = 16 * 1024;

/// Reads in one call of `poll_read`, after which others get their turn.
const MAX_READS_PER_POLL: usize = 4;

/// Buffers in one vectored write. More than a full socket buffer's worth of small frames gains
/// nothing.
const MAX_SLICES: usize = 32;

/// Pings that may come while a pong waits to be written. Only the latest is answered (RFC 6455
/// 5.5.3), so the limit is not on memory: a peer that reaches it does not read what it asks for.
const MAX_UNANSWERED_PINGS: u8 = 64;

/// Slots of the write queue that an idle connection keeps, so that a lone frame allocates nothing.
const KEPT_SLOTS: usize = 4;

/// RFC 6455 7.4.1: protocol error; the answer to a close code that must not be sent.
const PROTOCOL_ERROR: u16 = 1002;

const _: () = assert!(READ_BYTES > MAX_PARTIAL_HEADER, "each read must have room for new bytes");

/// Limits of a [`WebSocket`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct WebSocketConfig {
    /// Bytes of a whole message, as it arrives and after inflating.
    pub(crate) max_payload: usize,
}

/// A WebSocket of which this is the server's side.
///
/// Whoever drives it calls [`WebSocket::poll_read`] for messages, and [`WebSocket::poll_flush`]
/// while [`WebSocket::queued_bytes`] is not zero. After `poll_read` gave `Ok(None)` or an error, or
/// after [`WebSocket::close`], [`WebSocket::poll_closed`] ends it.
#[derive(Debug)]
pub(crate) struct WebSocket<S> {
    io: S,
    reader: Reader,
    writer: Writer,
    deflate: Option<Deflate>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> WebSocket<S> {
    /// Starts behind the 101 answer; `deflate` is what [`negotiate`] agreed on.
    pub(crate) fn new(io: S, deflate: Option<Deflate>, config: WebSocketConfig) -> Self {
        let reader = Reader::new(deflate.is_some(), config.max_payload);
        Self { io, reader, writer: Writer::default(), deflate }
    }

    /// The next whole message; `None` when the peer closed, with a close frame or without.
    ///
    /// Pings and the close frame are answered by what is queued: see [`WebSocket::queued_bytes`].
    /// Before it is `Pending` a pong that is due is tried to be written.
    ///
    /// # Errors
    /// [`LinkError::Peer`] names the rule that was broken; nothing can be read after that, but a
    /// close frame may be sent. [`LinkError::Io`] is what the stream said.
    pub(crate) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<Frame>, LinkError>> {
        for _ in 0..MAX_READS_PER_POLL {
            while let Some(event) = self.reader.next_held()? {
                if let Some(outcome) = self.on_event(cx, event)? {
                    return Poll::Ready(Ok(outcome));
                }
            }
            if self.reader.is_over() {
                return Poll::Ready(Ok(None));
            }
            let Poll::Ready(event) = self.poll_fill(cx)? else {
                if self.writer.is_pong_due()
                    && let Poll::Ready(Err(error)) = self.poll_flush(cx)
                {
                    return Poll::Ready(Err(error));
                }
                return Poll::Pending;
            };
            if let Some(event) = event
                && let Some(outcome) = self.on_event(cx, event)?
            {
                return Poll::Ready(Ok(outcome));
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Reads once, and gives the first event of what came.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Event>, LinkError>> {
        let mut scratch = [const { MaybeUninit::uninit() }; READ_BYTES];
        let mut buffer = ReadBuf::uninit(&mut scratch);
        buffer.put_slice(self.reader.held());
        let before = buffer.filled().len();
        match ready!(Pin::new(&mut self.io).poll_read(cx, &mut buffer)) {
            // TLS says so when the peer hangs up without a close_notify, as browsers do.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {}
            outcome => outcome?,
        }
        if buffer.filled().len() == before {
            self.reader.end();
            return Poll::Ready(Ok(None));
        }
        Poll::Ready(Ok(self.reader.take_in(buffer.filled())?))
    }

    /// What `poll_read` gives for this event, if anything.
    fn on_event(
        &mut self,
        cx: &mut Context<'_>,
        event: Event,
    ) -> Result<Option<Option<Frame>>, LinkError> {
        match event {
            Event::Message(frame) => Ok(Some(Some(frame))),
            Event::Ping(payload) => {
                // Many may come in one piece; only a peer that then takes no pong is at fault.
                if self.writer.unanswered_pings == MAX_UNANSWERED_PINGS
                    && let Poll::Ready(Err(error)) = self.poll_flush(cx)
                {
                    return Err(error);
                }
                self.writer.answer_ping(&payload)?;
                Ok(None)
            }
            Event::Close(code) => {
                self.writer.close(code.map(sendable));
                Ok(Some(None))
            }
        }
    }

    /// Frames since the last call that were not the first of a message.
    pub(crate) fn take_other_frames(&mut self) -> usize {
        self.reader.take_other_frames()
    }

    /// Bytes that have come of a message that is not whole yet.
    pub(crate) fn partial_bytes(&self) -> usize {
        self.reader.partial_bytes()
    }

    /// Queues frames that are framed already without copying it. After a close frame it is dropped.
    pub(crate) fn queue_framed(&mut self, frame: Bytes) {
        self.writer.push(frame);
    }

    /// Goes on with what somebody else has begun to write to the stream, be it a frame or the answer to the
    /// handshake: nothing may come before the rest of it. Nothing else is queued.
    pub(crate) fn go_on(&mut self, rest: Bytes) {
        debug_assert_eq!(self.writer.bytes, 0, "who has something to write lets nobody else write");
        self.writer.bytes += rest.len();
        self.writer.current = rest;
    }

    pub(crate) fn stream(&self) -> &S {
        &self.io
    }

    /// Queues one Engine.IO frame, deflated if that was negotiated, `compress` is set, the frame is
    /// not under the threshold and gets shorter by it. After a close frame it is dropped.
    ///
    /// # Errors
    /// [`LinkError::Io`] when zlib fails, which it does only when out of memory.
    pub(crate) fn queue(&mut self, frame: &Frame, compress: bool) -> Result<(), LinkError> {
        let (opcode, payload) = parts(frame);
        let is_worth_it = |deflate: Deflate| payload.len() >= deflate.threshold.max(1);
        if compress && self.deflate.is_some_and(is_worth_it) {
            let deflated = deflate::deflate(payload)?;
            if deflated.len() < payload.len() {
                self.writer.push(encode(opcode, true, &deflated));
                return Ok(());
            }
        }
        self.writer.push(encode(opcode, false, payload));
        Ok(())
    }

    /// Was permessage-deflate negotiated?
    pub(crate) fn is_deflate(&self) -> bool {
        self.deflate.is_some()
    }

    /// Bytes that are queued and not written yet, framing included.
    pub(crate) fn queued_bytes(&self) -> usize {
        self.writer.bytes
    }

    /// Writes what is queued, several frames in one call to the system; what the stream does not
    /// take stays queued. `Ready` when all is written and flushed.
    ///
    /// # Errors
    /// [`LinkError::Io`]; the stream is of no use after that.
    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), LinkError>> {
        while self.writer.bytes > 0 {
            let mut slices = [IoSlice::new(&[]); MAX_SLICES];
            let count = self.writer.slices(&mut slices);
            let io = Pin::new(&mut self.io);
            // the system takes one buffer for less than a list of one
            let written = ready!(match &slices[..count] {
                [one] => io.poll_write(cx, one),
                several => io.poll_write_vectored(cx, several),
            })?;
            if written == 0 {
                return Poll::Ready(Err(io::Error::from(io::ErrorKind::WriteZero).into()));
            }
            self.writer.advance(written);
        }
        if self.writer.is_unflushed {
            ready!(Pin::new(&mut self.io).poll_flush(cx))?;
            self.writer.is_unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Queues a close frame with this code, behind what is queued. Only the first one counts, be it
    /// this or the answer to the peer's; nothing can be queued behind it.
    ///
    /// A peer whose stream has ended gets none, as from Node's `ws`: as a rule nobody is there any more, and
    /// what the system makes of such bytes (a segment, a reset) is a tenth of what a client costs that comes
    /// and goes.
    pub(crate) fn close(&mut self, code: u16) {
        if self.reader.is_cut() {
            self.writer.is_closed = true;
        } else {
            self.writer.close(Some(code));
        }
    }

    /// Writes what is queued, shuts the write side down, and waits for the peer's close frame or
    /// the end of the stream, dropping messages. Errors end it too, and so does a peer that talks on: nobody
    /// counts what it says any more.
    ///
    /// A peer that is silent can make this last as long as it likes: it needs a deadline.
    pub(crate) fn poll_closed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let shut = self.poll_shut_down(cx);
        if let Poll::Ready(Err(_)) = shut {
            return Poll::Ready(());
        }
        // Even while the peer does not read: its end of the stream may be what frees us.
        let ended = self.poll_drained(cx);
        if shut.is_ready() && ended.is_ready() { Poll::Ready(()) } else { Poll::Pending }
    }

    fn poll_shut_down(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), LinkError>> {
        if !self.writer.is_shut {
            ready!(self.poll_flush(cx))?;
            ready!(Pin::new(&mut self.io).poll_shutdown(cx))?;
            self.writer.is_shut = true;
        }
        Poll::Ready(Ok(()))
    }

    /// Reads and drops everything up to the close frame, the end of the stream, or what is too much.
    fn poll_drained(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.reader.skip_messages();
        for _ in 0..MAX_READS_PER_POLL {
            // Events are dropped: a close frame shows in `is_ended`, broken framing does not
            // matter.
            while let Ok(Some(_)) = self.reader.next_held() {}
            if self.reader.is_ended() || self.reader.talks_on() {
                return Poll::Ready(());
            }
            if let Err(LinkError::Io(_)) = ready!(self.poll_fill(cx)) {
                self.reader.end();
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

/// What is to be written.
#[derive(Debug, Default)]
struct Writer {
    /// The rest of a frame that is partly written: nothing may come before it.
    current: Bytes,
    /// The pong that is due, framed. It overtakes what is queued; a newer one replaces it.
    pong: Bytes,
    queue: VecDeque<Bytes>,
    /// Bytes in all three.
    bytes: usize,
    /// Pings since a pong was last begun to be written.
    unanswered_pings: u8,
    /// A close frame is queued or sent: RFC 6455 5.5.1 allows nothing behind it.
    is_closed: bool,
    /// Written, but not flushed through what is between us and the network (TLS).
    is_unflushed: bool,
    /// The write side is shut down.
    is_shut: bool,
}

impl Writer {
    fn push(&mut self, frame: Bytes) {
        if !self.is_closed && !frame.is_empty() {
            self.bytes += frame.len();
            self.queue.push_back(frame);
        }
    }

    fn close(&mut self, code: Option<u16>) {
        let body = code.map(u16::to_be_bytes);
        self.push(encode(OpCode::Close, false, body.as_ref().map_or(&[], |body| &body[..])));
        self.is_closed = true;
    }

    fn answer_ping(&mut self, payload: &[u8]) -> Result<(), PeerMisbehaved> {
        if self.is_closed {
            return Ok(());
        }
        if self.unanswered_pings == MAX_UNANSWERED_PINGS {
            return Err(PeerMisbehaved::ControlFrameFlood);
        }
        self.unanswered_pings += 1;
        self.bytes -= self.pong.len();
        self.pong = encode(OpCode::Pong, false, payload);
        self.bytes += self.pong.len();
        Ok(())
    }

    fn is_pong_due(&self) -> bool {
        !self.pong.is_empty()
    }

    /// Fills in the first frames in their order; gives how many.
    fn slices<'a>(&'a self, slices: &mut [IoSlice<'a>; MAX_SLICES]) -> usize {
        let frames = [&self.current, &self.pong].into_iter().chain(&self.queue);
        let frames = frames.filter(|frame| !frame.is_empty());
        slices.iter_mut().zip(frames).map(|(slice, frame)| *slice = IoSlice::new(frame)).count()
    }

    /// This many bytes of the frames were written.
    fn advance(&mut self, mut written: usize) {
        assert!(written <= self.bytes, "a stream cannot write more than it was given");
        self.bytes -= written;
        self.is_unflushed = true;
        while written >= self.current.len() {
            written -= self.current.len();
            self.current = Bytes::new();
            if written == 0 {
                break;
            }
            self.current = if self.is_pong_due() {
                self.unanswered_pings = 0;
                std::mem::take(&mut self.pong)
            } else {
                self.queue.pop_front().expect("`bytes` counts what is queued")
            };
        }
        self.current.advance(written);
        if self.queue.is_empty() && self.queue.capacity() > KEPT_SLOTS {
            self.queue = VecDeque::new();
        }
    }
}

fn parts(frame: &Frame) -> (OpCode, &[u8]) {
    match frame {
        Frame::Text(text) => (OpCode::Text, text.as_bytes()),
        Frame::Binary(data) => (OpCode::Binary, data),
    }
}

fn encode(opcode: OpCode, is_deflated: bool, payload: &[u8]) -> Bytes {
    let mut header = Header::new(opcode);
    header.set_payload_len(payload.len()).set_rsv1(is_deflated);
    let mut codec = Codec::new();
    let head = codec.encode_header(&header);
    // The exact size, so that the bytes need no second allocation to be shared.
    let mut frame = Vec::with_capacity(head.len() + payload.len());
    frame.extend_from_slice(head);
    frame.extend_from_slice(payload);
    frame.into()
}

/// RFC 6455 7.4: the code to answer a close frame with, which is its own if it may stand in a
/// frame.
fn sendable(code: u16) -> u16 {
    match code {
        1000..=1003 | 1007..=1014 | 3000..=4999 => code,
        _ => PROTOCOL_ERROR,
    }
}

#[cfg(test)]
mod tests;
