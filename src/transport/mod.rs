//! Bytes to whole Engine.IO frames and back. Knows nothing of sessions.
//!
//! A [`Link`] is one connection of one transport. The set is closed, so it is an enum: a new transport
//! has to say in every `match` how it frames, when it takes more, and how it ends.

pub(crate) mod http;
pub(crate) mod polling;
pub(crate) mod tls;
pub(crate) mod websocket;
pub(crate) mod webtransport;

use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::net::tcp::OwnedWriteHalf;

pub(crate) use crate::engine::TransportKind;
use crate::engine::packet::Frame;
use crate::error::{CloseReason, LinkError};
use crate::fanout::Encoded;

pub(crate) use self::http::Upgraded;
pub(crate) use self::polling::Polling;
pub(crate) use self::websocket::WebSocket;
use self::webtransport::Outlet;
pub(crate) use self::webtransport::WebTransport;

/// Bytes that a streaming link takes before the rest waits in the outbox, where it is counted.
const WRITE_AHEAD: usize = 64 * 1024;

/// Where a link's bytes go out.
#[derive(Debug)]
pub(crate) enum Shared<'a> {
    Tcp(&'a Arc<OwnedWriteHalf>),
    Quic(&'a Arc<Outlet>),
}

/// One connection of one transport.
///
/// Every `poll_*` keeps all its state in the link, so a caller may drop out between calls at will.
#[derive(Debug)]
pub(crate) enum Link {
    Polling(Box<Polling>),
    WebSocket(Box<WebSocket<Upgraded>>),
    WebTransport(Box<WebTransport>),
}

impl Link {
    pub(crate) fn kind(&self) -> TransportKind {
        match self {
            Self::Polling(_) => TransportKind::Polling,
            Self::WebSocket(_) => TransportKind::WebSocket,
            Self::WebTransport(_) => TransportKind::WebTransport,
        }
    }

    /// The next whole frame; `None` when the peer closed the link.
    pub(crate) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<Frame>, LinkError>> {
        match self {
            Self::Polling(link) => link.poll_read(),
            Self::WebSocket(link) => link.poll_read(cx),
            Self::WebTransport(link) => link.poll_read(cx),
        }
    }

    /// Frames that were read since the last call and begin no frame of Engine.IO, and their bytes where they
    /// count: a WebSocket's control frames, and all but the first of a fragmented message; frames of HTTP/3
    /// and streams beside the session's.
    pub(crate) fn take_others(&mut self) -> (usize, usize) {
        match self {
            Self::WebSocket(link) => (link.take_other_frames(), 0),
            Self::WebTransport(link) => link.take_beside(),
            Self::Polling(_) => (0, 0),
        }
    }

    /// Bytes that have come of a frame that is not whole yet. (Of a POST only whole ones are seen here.)
    pub(crate) fn partial_bytes(&self) -> usize {
        match self {
            Self::WebSocket(link) => link.partial_bytes(),
            Self::WebTransport(link) => link.partial_bytes(),
            Self::Polling(_) => 0,
        }
    }

    /// May more be queued now?
    pub(crate) fn is_writable(&self) -> bool {
        match self {
            Self::Polling(link) => link.is_writable(),
            Self::WebSocket(link) => link.queued_bytes() < WRITE_AHEAD,
            Self::WebTransport(link) => link.queued_bytes() < WRITE_AHEAD,
        }
    }

    /// Queues a packet of the session's own.
    pub(crate) fn queue_frame(&mut self, frame: &Frame) -> Result<(), LinkError> {
        match self {
            Self::Polling(link) => link.queue(frame, false),
            Self::WebSocket(link) => link.queue(frame, false)?,
            Self::WebTransport(link) => link.queue(frame),
        }
        Ok(())
    }

    /// Queues a message, sharing its bytes where the framing allows.
    pub(crate) fn queue(&mut self, message: &Encoded) -> Result<(), LinkError> {
        match self {
            Self::Polling(link) => {
                for frame in message.frames() {
                    link.queue(frame, message.compress());
                }
            }
            Self::WebSocket(link) if link.is_deflate() => {
                for frame in message.frames() {
                    link.queue(frame, message.compress())?;
                }
            }
            Self::WebSocket(link) => link.queue_framed(message.websocket().clone()),
            Self::WebTransport(link) => link.queue_framed(message.length_prefixed().clone()),
        }
        Ok(())
    }

    /// What frames may be written to past this link, while nothing is queued in it.
    pub(crate) fn shared(&self) -> Option<Shared<'_>> {
        match self {
            Self::WebSocket(link) if !link.is_deflate() => link.stream().shared().map(Shared::Tcp),
            Self::WebTransport(link) => Some(Shared::Quic(link.outlet())),
            _ => None,
        }
    }

    /// Is nothing queued in the link itself?
    pub(crate) fn is_drained(&self) -> bool {
        match self {
            Self::Polling(_) => false,
            Self::WebSocket(link) => link.queued_bytes() == 0,
            Self::WebTransport(link) => link.queued_bytes() == 0,
        }
    }

    /// The rest of what was written past the link in part.
    pub(crate) fn go_on(&mut self, rest: Bytes) {
        match self {
            Self::Polling(_) => {}
            Self::WebSocket(link) => link.go_on(rest),
            Self::WebTransport(link) => link.queue_framed(rest),
        }
    }

    /// Sends what is queued. Ready when nothing is left.
    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), LinkError>> {
        match self {
            Self::Polling(link) => link.poll_flush(cx),
            Self::WebSocket(link) => link.poll_flush(cx),
            Self::WebTransport(link) => link.poll_flush(cx),
        }
    }

    /// Ends the link in order, after what is queued. Then [`Link::poll_closed`].
    pub(crate) fn close(&mut self, reason: CloseReason) {
        match self {
            Self::Polling(link) => link.close(),
            Self::WebSocket(link) => link.close(reason.close_code()),
            Self::WebTransport(link) => link.close(reason.close_code()),
        }
    }

    /// Ready when the peer knows that the link is closed. Has no deadline of its own.
    pub(crate) fn poll_closed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self {
            Self::Polling(link) => link.poll_closed(cx),
            Self::WebSocket(link) => link.poll_closed(cx),
            Self::WebTransport(link) => link.poll_closed(cx),
        }
    }
}
