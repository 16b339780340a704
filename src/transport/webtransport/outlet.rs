//! The stream on which a session sends, for its task and for whoever fans out.

use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use parking_lot::Mutex;
use quinn::{SendStream, Written};

use super::carrier::Carrier;

/// A stream that several may write to, one at a time. Who does so while it is somebody else's turn breaks its
/// frames: the mailbox sees to that.
#[derive(Debug)]
pub(crate) struct Outlet {
    stream: Mutex<Option<SendStream>>,
    carrier: Option<Arc<Carrier>>,
}

impl Outlet {
    pub(super) fn new(stream: SendStream, carrier: Option<Arc<Carrier>>) -> Self {
        Self { stream: Mutex::new(Some(stream)), carrier }
    }

    /// The stream itself; there is nothing to write to any more.
    pub(super) fn take(&self) -> Option<SendStream> {
        self.stream.lock().take()
    }

    /// Writes what the stream takes, and sends it. The bytes are shared, not copied.
    pub(super) fn poll_write(
        &self,
        cx: &mut Context<'_>,
        chunks: &mut [Bytes],
    ) -> Poll<io::Result<Written>> {
        let mut stream = self.stream.lock();
        let Some(stream) = stream.as_mut() else {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        };
        // this future keeps nothing between polls
        let mut write = || pin!(stream.write_chunks(chunks)).poll(cx).map_err(io::Error::from);
        match &self.carrier {
            Some(carrier) => carrier.with(write),
            None => write(),
        }
    }

    /// As above, for one who does not wait; gives bytes.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`], and what the stream says.
    pub(crate) fn try_write(&self, chunks: &mut [Bytes]) -> io::Result<usize> {
        match self.poll_write(&mut Context::from_waker(Waker::noop()), chunks) {
            Poll::Ready(written) => Ok(written?.bytes),
            // the task asks again, with its own waker
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        }
    }
}
