//! A TCP connection that stops being HTTP: its task goes on as the session's, and the answer that says so
//! leaves with the session's first packet, in one write.
//!
//! hyper's own upgrade wants a second task that waits for it, and has written its answer by then. This is for
//! connections of our own listener; where the application brought its own, that is how it goes.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::FutureExt as _;
use hyper::upgrade::{OnUpgrade, Upgraded as Taken};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::task::unconstrained;

use super::driver::Driver;
use super::limits::Connected;
use crate::transport::Upgraded;
use crate::transport::http::Stream;

/// What becomes of the stream. With it comes the answer, if that was kept: it is to be written first.
pub(super) type Take = dyn FnOnce(Upgraded, Bytes) -> Option<Driver> + Send;

/// What one connection's task and the request that ends its HTTP have in common.
pub(crate) struct Handover {
    /// Counts the connection; the admin port has none.
    connected: Option<Connected>,
    agreed: Mutex<Option<(OnUpgrade, Box<Take>)>>,
    /// Is what hyper writes from now on kept back?
    keeps: AtomicBool,
}

impl Handover {
    pub(super) fn new(connected: Option<Connected>) -> Arc<Self> {
        Arc::new(Self { connected, agreed: Mutex::new(None), keeps: AtomicBool::new(false) })
    }

    pub(super) fn connected(&self) -> Option<&Connected> {
        self.connected.as_ref()
    }

    /// The request is about to be answered with 101: `take` gets the stream. With `keep` the answer waits for
    /// what `take` writes.
    pub(super) fn agree(&self, upgrade: OnUpgrade, keep: bool, take: Box<Take>) {
        *self.agreed.lock() = Some((upgrade, take));
        self.keeps.store(keep, Ordering::Relaxed);
    }

    /// The session that the connection goes on as, when hyper is done with it. `S` is what it was given.
    pub(super) fn complete<S: Stream>(self: Arc<Self>) -> Option<Driver> {
        let (upgrade, take) = self.agreed.lock().take()?;
        // It is there, if it will be. Without a budget: what the admission hook has used up says nothing of it.
        let taken: Option<Taken> = unconstrained(upgrade).now_or_never().and_then(Result::ok);
        let parts = taken.and_then(|taken| taken.downcast::<TokioIo<Wire<S>>>().ok());
        let Some(parts) = parts else {
            tracing::debug!("a WebSocket upgrade broke off");
            return None;
        };
        let Wire { io, kept, .. } = parts.io.into_inner();
        take(Upgraded::over(io.into(), parts.read_buf).keeping(Some(self as _)), kept.into())
    }
}

/// The stream that hyper is given. What it writes is kept back once that has been agreed.
pub(super) struct Wire<S> {
    io: S,
    handover: Arc<Handover>,
    kept: Vec<u8>,
}

impl<S> Wire<S> {
    pub(super) fn new(io: S, handover: Arc<Handover>) -> Self {
        Self { io, handover, kept: Vec::new() }
    }

    /// Only what is written after the request, which is its answer, is kept: as long as a head.
    fn keeps(&self) -> bool {
        self.handover.keeps.load(Ordering::Relaxed)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Wire<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Wire<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.keeps() {
            self.kept.extend_from_slice(data);
            return Poll::Ready(Ok(data.len()));
        }
        Pin::new(&mut self.io).poll_write(cx, data)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.keeps() {
            let before = self.kept.len();
            data.iter().for_each(|slice| self.kept.extend_from_slice(slice));
            return Poll::Ready(Ok(self.kept.len() - before));
        }
        Pin::new(&mut self.io).poll_write_vectored(cx, data)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// A connection's task: HTTP, and then perhaps a session. HTTP's part is given back before that begins, and
/// is behind a pointer, since tokio copies a task's future several times.
#[expect(clippy::large_enum_variant, reason = "most become sessions, and stay so for long")]
pub(super) enum Life {
    Http(Pin<Box<dyn Future<Output = Option<Driver>> + Send>>),
    Session(Driver),
}

impl Future for Life {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            match &mut *self {
                Self::Http(http) => match std::task::ready!(http.as_mut().poll(cx)) {
                    Some(driver) => *self = Self::Session(driver),
                    None => return Poll::Ready(()),
                },
                Self::Session(driver) => return Pin::new(driver).poll(cx),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    fn no_upgrade() -> OnUpgrade {
        hyper::upgrade::on(http::Request::new(()))
    }

    #[tokio::test]
    async fn what_is_written_after_the_agreement_waits_unless_it_may_go() {
        for keep in [true, false] {
            let (ours, mut peer) = tokio::io::duplex(64);
            let handover = Handover::new(None);
            let mut wire = Wire::new(ours, handover.clone());
            wire.write_all(b"before ").await.unwrap();
            handover.agree(no_upgrade(), keep, Box::new(|_, _| None));
            wire.write_all(b"one ").await.unwrap();
            let two = [IoSlice::new(b"tw"), IoSlice::new(b"o")];
            assert_eq!(wire.write_vectored(&two).await.unwrap(), 3);
            wire.flush().await.unwrap();
            let kept = std::mem::take(&mut wire.kept);
            drop(wire);
            let mut got = Vec::new();
            peer.read_to_end(&mut got).await.unwrap();
            let (went, waited): (&[u8], &[u8]) =
                if keep { (b"before ", b"one two") } else { (b"before one two", b"") };
            assert_eq!((&got[..], &kept[..]), (went, waited));
        }
    }

    #[tokio::test]
    async fn without_an_upgrade_there_is_no_session() {
        let handover = Handover::new(None);
        assert!(handover.clone().complete::<tokio::net::TcpStream>().is_none(), "nothing agreed");
        handover.agree(no_upgrade(), true, Box::new(|_, _| panic!("hyper gave no stream")));
        assert!(handover.complete::<tokio::net::TcpStream>().is_none());
    }
}
