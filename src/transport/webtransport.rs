//! WebTransport as a link: one bidirectional stream of length-prefixed frames.
//!
//! engine.io-client opens exactly one bidirectional stream and says everything on it. The end of the
//! stream, of the session or of the QUIC connection is the end of the link, at once.

use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use wtransport::{Connection, RecvStream, SendStream, VarInt};

use crate::engine::framing::{LengthPrefixed, put_length_prefixed};
use crate::engine::packet::Frame;
use crate::error::LinkError;

/// Bytes read at a time, on the stack: an idle link keeps no read buffer.
const READ_CHUNK: usize = 8 * 1024;

type Ending = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The link of a WebTransport session.
pub(crate) struct WebTransport {
    connection: Connection,
    receive: RecvStream,
    send: SendState,
    decoder: LengthPrefixed,
    queue: VecDeque<Bytes>,
    queued: usize,
    /// Resolves when the session ends without the stream saying so (its CONNECT stream closed, QUIC lost).
    lost: Ending,
}

enum SendState {
    Open(SendStream),
    /// Close with this code when the queue is empty.
    Closing(SendStream, u16),
    /// The peer is being waited for to have read everything: closing QUIC discards what it has not.
    Ending(Ending),
    Done,
}

impl fmt::Debug for WebTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WebTransport").field("queued", &self.queued).finish_non_exhaustive()
    }
}

impl WebTransport {
    /// `max_payload`: longest frame that is accepted, in bytes.
    pub(crate) fn new(
        connection: Connection,
        (send, receive): (SendStream, RecvStream),
        max_payload: usize,
    ) -> Self {
        let watched = connection.clone();
        Self {
            connection,
            receive,
            send: SendState::Open(send),
            decoder: LengthPrefixed::new(max_payload),
            queue: VecDeque::new(),
            queued: 0,
            lost: Box::pin(async move {
                watched.closed().await;
            }),
        }
    }

    pub(crate) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<Frame>, LinkError>> {
        loop {
            if let Some(frame) = self.decoder.next_frame()? {
                return Poll::Ready(Ok(Some(frame)));
            }
            let mut chunk = [0; READ_CHUNK];
            let mut buffer = ReadBuf::new(&mut chunk);
            match Pin::new(&mut self.receive).poll_read(cx, &mut buffer) {
                Poll::Ready(Ok(())) if buffer.filled().is_empty() => {
                    return Poll::Ready(if self.decoder.is_partial() {
                        Err(io::Error::from(io::ErrorKind::UnexpectedEof).into())
                    } else {
                        Ok(None)
                    });
                }
                Poll::Ready(Ok(())) => self.decoder.push(buffer.filled()),
                Poll::Ready(Err(error)) => {
                    // A session that the peer closed ends its stream with an error, too.
                    let closed = self.lost.as_mut().poll(cx).is_ready();
                    return Poll::Ready(if closed { Ok(None) } else { Err(error.into()) });
                }
                Poll::Pending => {
                    ready!(self.lost.as_mut().poll(cx));
                    return Poll::Ready(Ok(None));
                }
            }
        }
    }

    pub(crate) fn queue(&mut self, frame: &Frame) {
        let mut out = BytesMut::new();
        put_length_prefixed(frame, &mut out);
        self.queue_framed(out.freeze());
    }

    /// Queues frames that are framed already; their bytes are shared, not copied.
    pub(crate) fn queue_framed(&mut self, frames: Bytes) {
        if matches!(self.send, SendState::Open(_)) {
            self.queued += frames.len();
            self.queue.push_back(frames);
        }
    }

    pub(crate) fn queued_bytes(&self) -> usize {
        self.queued
    }

    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), LinkError>> {
        let (SendState::Open(stream) | SendState::Closing(stream, _)) = &mut self.send else {
            return Poll::Ready(Ok(()));
        };
        while let Some(front) = self.queue.front_mut() {
            let written = ready!(Pin::new(&mut *stream).poll_write(cx, front))?;
            self.queued -= written;
            front.advance(written);
            if front.is_empty() {
                self.queue.pop_front();
            }
        }
        if self.queue.capacity() > KEEP_SLOTS {
            self.queue = VecDeque::new();
        }
        Poll::Ready(Ok(()))
    }

    /// Ends the session with this code after what is queued.
    pub(crate) fn close(&mut self, code: u16) {
        self.send = match std::mem::replace(&mut self.send, SendState::Done) {
            SendState::Open(stream) => SendState::Closing(stream, code),
            other => other,
        };
    }

    pub(crate) fn poll_closed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let SendState::Closing(..) = self.send {
            // an error means that there is nobody to tell any more
            let _ = ready!(self.poll_flush(cx));
            if let SendState::Closing(stream, code) =
                std::mem::replace(&mut self.send, SendState::Done)
            {
                let connection = self.connection.clone();
                self.send = SendState::Ending(Box::pin(end(connection, stream, code)));
            }
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

async fn end(connection: Connection, mut stream: SendStream, code: u16) {
    if stream.finish().await.is_ok() {
        // until the peer has acknowledged the end of the stream (or is gone)
        let _ = stream.quic_stream_mut().stopped().await;
    }
    connection.close(VarInt::from_u32(u32::from(code)), b"");
}
