//! What quinn asks of its surroundings: tokio's, with three differences.
//!
//! - A connection's task can be given something to keep ([`keeping`]). quinn remembers a connection that has
//!   failed, or that we have closed, for three probe timeouts more (RFC 9000 10.2), and this is the only way
//!   to learn when it has let go.
//! - What that task does can be done by others, too ([`Carrier`]), and is by the one that receives.
//! - Whether the socket can be written to is one flag for all connections, and not a boxed future for each,
//!   made anew for each packet.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::fmt;
use std::future::Future;
use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Instant;

use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncTimer, AsyncUdpSocket, Runtime, TokioRuntime, UdpPoller};
use tokio::runtime::Handle;

use crate::transport::webtransport::carrier::{Carrier, Gathering};

tokio::task_local! {
    /// What the next task that quinn starts is to keep.
    static KEPT: Cell<Option<Box<dyn Any + Send>>>;
    /// That task's work.
    static STARTED: RefCell<Option<Arc<Carrier>>>;
}

/// Runs `start`, which makes quinn start one task; that keeps `kept` until it ends. Gives that task's work, too.
/// If none is started, `kept` is dropped at once.
pub(super) fn keeping<T>(
    kept: impl Any + Send,
    start: impl FnOnce() -> T,
) -> (T, Option<Arc<Carrier>>) {
    STARTED.sync_scope(RefCell::default(), || {
        let started = KEPT.sync_scope(Cell::new(Some(Box::new(kept))), start);
        (started, STARTED.with(RefCell::take))
    })
}

/// Tokio, for an endpoint.
#[derive(Debug)]
pub(super) struct QuicRuntime;

impl Runtime for QuicRuntime {
    fn new_timer(&self, deadline: Instant) -> Pin<Box<dyn AsyncTimer>> {
        TokioRuntime.new_timer(deadline)
    }

    fn spawn(&self, future: Pin<Box<dyn Future<Output = ()> + Send>>) {
        let kept = KEPT.try_with(Cell::take).ok().flatten();
        match kept {
            None => {
                let workers = Handle::current().metrics().num_workers();
                tokio::spawn(Gathering::new(future, workers))
            }
            Some(kept) => {
                let carrier = Carrier::new(future);
                let task = carrier.task();
                STARTED.with(|started| started.replace(Some(carrier)));
                tokio::spawn(Keeping { task, _kept: kept })
            }
        };
    }

    fn wrap_udp_socket(&self, socket: std::net::UdpSocket) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        let io = TokioRuntime.wrap_udp_socket(socket)?;
        Ok(Arc::new(Socket { io, is_full: AtomicBool::new(false) }))
    }

    fn now(&self) -> Instant {
        TokioRuntime.now()
    }
}

/// A connection's task and what it keeps, dropped in this order. Three words, for which a task of tokio's takes
/// 128 bytes; it would take 256 for one more.
struct Keeping<F> {
    task: F,
    _kept: Box<dyn Any + Send>,
}

impl<F: Future<Output = ()> + Unpin> Future for Keeping<F> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        Pin::new(&mut self.task).poll(cx)
    }
}

/// A UDP socket that remembers when it took no more.
#[derive(Debug)]
struct Socket {
    io: Arc<dyn AsyncUdpSocket>,
    /// Set by whoever it refused last, cleared by whoever finds it writable again. A connection that reads
    /// an old value tries in vain, sets it, and asks again.
    is_full: AtomicBool,
}

impl AsyncUdpSocket for Socket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(Poller { socket: self, waiting: None })
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let sent = self.io.try_send(transmit);
        if let Err(error) = &sent
            && error.kind() == io::ErrorKind::WouldBlock
        {
            self.is_full.store(true, Ordering::Release);
        }
        sent
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        self.io.poll_recv(cx, buffers, meta)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.io.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.io.max_transmit_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.io.max_receive_segments()
    }

    fn may_fragment(&self) -> bool {
        self.io.may_fragment()
    }
}

/// Waits for the socket on behalf of one connection.
struct Poller {
    socket: Arc<Socket>,
    /// Tokio's, while this connection waits.
    waiting: Option<Pin<Box<dyn UdpPoller>>>,
}

impl fmt::Debug for Poller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Poller").field("waits", &self.waiting.is_some()).finish_non_exhaustive()
    }
}

impl UdpPoller for Poller {
    fn poll_writable(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if !this.socket.is_full.load(Ordering::Acquire) {
            this.waiting = None;
            return Poll::Ready(Ok(()));
        }
        let io = &this.socket.io;
        let waiting = this.waiting.get_or_insert_with(|| io.clone().create_io_poller());
        let writable = waiting.as_mut().poll_writable(cx);
        if writable.is_ready() {
            this.waiting = None;
            this.socket.is_full.store(false, Ordering::Release);
        }
        writable
    }
}

#[cfg(test)]
#[path = "quic_runtime_tests.rs"]
mod tests;
