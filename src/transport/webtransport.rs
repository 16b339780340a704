//! WebTransport as a link: one bidirectional stream of length-prefixed frames.
//!
//! engine.io-client opens exactly one bidirectional stream and says everything on it. The end of the
//! stream, of the session or of the QUIC connection is the end of the link, at once.

mod beside;
pub(crate) mod carrier;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod h3;
mod outlet;
mod received;
pub(crate) mod session;
mod wake;

use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use futures_util::future::BoxFuture;
use quinn::{ReadError, RecvStream, SendStream};

use self::carrier::Carrier;
pub(crate) use self::outlet::Outlet;
use self::session::{Session, SessionError, is_session_gone};
use self::wake::News;
use crate::engine::framing::{LengthPrefixed, put_length_prefixed};
use crate::engine::packet::Frame;
use crate::error::{LinkError, PeerMisbehaved};

/// Bytes read at a time. They come in buffers of QUIC's own.
const READ_CHUNK: usize = 64 * 1024;

/// The link of a WebTransport session. Dropping it closes the QUIC connection.
pub(crate) struct WebTransport {
    session: Session,
    receive: RecvStream,
    outlet: Arc<Outlet>,
    send: SendState,
    decoder: LengthPrefixed,
    /// From the stream or the session. Who only writes asks neither.
    news: News,
    queue: VecDeque<Bytes>,
    queued: usize,
}

enum SendState {
    Open,
    /// Close with this code when the queue is empty.
    Closing(u16),
    /// The peer is being waited for to have read everything: closing QUIC discards what it has not.
    Ending(BoxFuture<'static, ()>),
    Done,
}

impl fmt::Debug for WebTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WebTransport").field("queued", &self.queued).finish_non_exhaustive()
    }
}

impl WebTransport {
    /// `max_payload`: longest frame that is accepted, in bytes. `carrier`: the connection's.
    pub(crate) fn new(
        session: Session,
        (send, receive): (SendStream, RecvStream),
        carrier: Option<Arc<Carrier>>,
        max_payload: usize,
    ) -> Self {
        Self {
            session,
            receive,
            outlet: Arc::new(Outlet::new(send, carrier)),
            send: SendState::Open,
            decoder: LengthPrefixed::new(max_payload),
            news: News::default(),
            queue: VecDeque::with_capacity(1),
            queued: 0,
        }
    }

    /// Longest frame that is accepted from the next one on.
    pub(crate) fn set_max_payload(&mut self, max_payload: usize) {
        self.decoder.set_max_payload(max_payload);
    }

    pub(crate) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<Frame>, LinkError>> {
        let mut read_bytes = 0;
        loop {
            if let Some(frame) = self.decoder.next_frame()? {
                return Poll::Ready(Ok(Some(frame)));
            }
            if read_bytes >= READ_CHUNK {
                // what has come of a large frame is charged before more of it is read
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            let Some(waker) = self.news.take(cx) else {
                return Poll::Pending;
            };
            let cx = &mut Context::from_waker(&waker);
            // this future keeps nothing between polls
            let read = pin!(self.receive.read_chunk(READ_CHUNK, true)).poll(cx);
            if read.is_ready() {
                self.news.more();
            }
            match read {
                Poll::Ready(Ok(Some(chunk))) => {
                    read_bytes += chunk.bytes.len();
                    self.decoder.push(&chunk.bytes);
                }
                Poll::Ready(Ok(None)) if self.decoder.is_partial() => {
                    return Poll::Ready(Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()));
                }
                Poll::Ready(Ok(None)) => return Poll::Ready(Ok(None)),
                Poll::Ready(Err(error)) => return Poll::Ready(self.read_failed(cx, error)),
                Poll::Pending => {
                    let over = ready!(self.session.poll_over(cx));
                    self.news.more();
                    return Poll::Ready(match over {
                        SessionError::Flood => Err(PeerMisbehaved::DatagramFlood.into()),
                        error @ SessionError::Broken(_) => Err(io::Error::other(error).into()),
                        _ => Ok(None),
                    });
                }
            }
        }
    }

    /// A session that the peer closed ends its stream with an error, too.
    fn read_failed(
        &mut self,
        cx: &mut Context<'_>,
        error: ReadError,
    ) -> Result<Option<Frame>, LinkError> {
        let closed = match error {
            ReadError::ConnectionLost(_) => true,
            ReadError::Reset(code) if is_session_gone(code) => true,
            _ => self.session.poll_over(cx).is_ready(),
        };
        if closed { Ok(None) } else { Err(io::Error::from(error).into()) }
    }

    /// What was read beside the session's stream since the last call: frames and streams, and bytes.
    pub(crate) fn take_beside(&self) -> (usize, usize) {
        self.session.take_beside()
    }

    /// Has the peer sent more than so many UDP packets a second, whatever is in them? Looks once a second at most.
    pub(crate) fn is_flooded(&self, now: Instant, most_a_second: u64) -> bool {
        self.session.is_flooded(now, most_a_second)
    }

    /// Bytes that have come of a frame that is not whole yet.
    pub(crate) fn partial_bytes(&self) -> usize {
        self.decoder.partial_bytes()
    }

    pub(crate) fn queue(&mut self, frame: &Frame) {
        let mut out = BytesMut::new();
        put_length_prefixed(frame, &mut out);
        self.queue_framed(out.freeze());
    }

    /// Queues frames that are framed already; their bytes are shared, not copied.
    pub(crate) fn queue_framed(&mut self, frames: Bytes) {
        if matches!(self.send, SendState::Open) && !frames.is_empty() {
            self.queued += frames.len();
            self.queue.push_back(frames);
        }
    }

    pub(crate) fn queued_bytes(&self) -> usize {
        self.queued
    }

    /// What else may be written to while nothing is queued.
    pub(crate) fn outlet(&self) -> &Arc<Outlet> {
        &self.outlet
    }

    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), LinkError>> {
        if !matches!(self.send, SendState::Open | SendState::Closing(_)) {
            return Poll::Ready(Ok(()));
        }
        while !self.queue.is_empty() {
            let written = ready!(self.outlet.poll_write(cx, self.queue.make_contiguous()))?;
            self.queued -= written.bytes;
            self.queue.drain(..written.chunks);
        }
        if self.queue.capacity() > KEEP_SLOTS {
            self.queue = VecDeque::new();
        }
        Poll::Ready(Ok(()))
    }

    /// Ends the session with this code after what is queued.
    pub(crate) fn close(&mut self, code: u16) {
        self.send = match std::mem::replace(&mut self.send, SendState::Done) {
            SendState::Open => SendState::Closing(code),
            other => other,
        };
    }

    pub(crate) fn poll_closed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let SendState::Closing(code) = self.send {
            // an error means that there is nobody to tell any more
            let _ = ready!(self.poll_flush(cx));
            self.send = match self.outlet.take() {
                Some(stream) => SendState::Ending(self.session.end(stream, code)),
                None => SendState::Done,
            };
        }
        if let SendState::Ending(ending) = &mut self.send {
            ready!(ending.as_mut().poll(cx));
            self.send = SendState::Done;
        }
        Poll::Ready(())
    }
}

/// Slots that an empty queue may keep.
const KEEP_SLOTS: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_link_is_small() {
        assert!(size_of::<WebTransport>() <= 256, "{}", size_of::<WebTransport>());
    }
}
