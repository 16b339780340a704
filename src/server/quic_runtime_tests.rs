use std::sync::atomic::AtomicUsize;
use std::task::Waker;

use super::*;

/// A socket that is full when it is told so.
#[derive(Debug, Default)]
struct Narrow {
    is_full: AtomicBool,
    asked: AtomicUsize,
}

#[derive(Debug)]
struct Asks(Arc<Narrow>);

impl UdpPoller for Asks {
    fn poll_writable(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.asked.fetch_add(1, Ordering::Relaxed);
        match self.0.is_full.load(Ordering::Relaxed) {
            true => Poll::Pending,
            false => Poll::Ready(Ok(())),
        }
    }
}

impl AsyncUdpSocket for Narrow {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(Asks(self))
    }

    fn try_send(&self, _: &Transmit<'_>) -> io::Result<()> {
        match self.is_full.load(Ordering::Relaxed) {
            true => Err(io::ErrorKind::WouldBlock.into()),
            false => Ok(()),
        }
    }

    fn poll_recv(
        &self,
        _: &mut Context<'_>,
        _: &mut [IoSliceMut<'_>],
        _: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        Poll::Pending
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(([127, 0, 0, 1], 1).into())
    }
}

fn transmit() -> Transmit<'static> {
    let destination = ([127, 0, 0, 1], 2).into();
    Transmit { destination, ecn: None, contents: b"x", segment_size: None, src_ip: None }
}

#[test]
fn connections_wait_for_a_socket_that_is_full_and_only_for_that() {
    let narrow = Arc::new(Narrow::default());
    let socket = Arc::new(Socket { io: narrow.clone(), is_full: AtomicBool::new(false) });
    let mut pollers = [socket.clone().create_io_poller(), socket.clone().create_io_poller()];
    let cx = &mut Context::from_waker(Waker::noop());
    let mut ask = |who: usize| pollers[who].as_mut().poll_writable(cx).is_ready();
    assert!(ask(0) && ask(1) && socket.try_send(&transmit()).is_ok());
    assert_eq!(narrow.asked.load(Ordering::Relaxed), 0, "nobody waits for a socket that takes all");

    narrow.is_full.store(true, Ordering::Relaxed);
    let refused = socket.try_send(&transmit()).unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::WouldBlock);
    assert!(!ask(0) && !ask(1), "both wait");
    assert_eq!(narrow.asked.load(Ordering::Relaxed), 2, "the system knows whom to wake");

    narrow.is_full.store(false, Ordering::Relaxed);
    assert!(ask(0) && ask(1));
    assert_eq!(narrow.asked.load(Ordering::Relaxed), 3, "what one found out counts for all");
}

/// Says when it is dropped.
struct Told(Arc<AtomicBool>);

impl Drop for Told {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[tokio::test]
async fn a_task_keeps_what_it_was_given_until_it_ends() {
    let gone = Arc::new(AtomicBool::new(false));
    let (end, ended) = tokio::sync::oneshot::channel::<()>();
    let task = async move { drop(ended.await) };
    keeping(Told(gone.clone()), || {
        QuicRuntime.spawn(Box::pin(task));
        QuicRuntime.spawn(Box::pin(async {})); // another gets nothing
    });
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
    assert!(!gone.load(Ordering::Relaxed), "the task goes on");
    end.send(()).unwrap();
    while !gone.load(Ordering::Relaxed) {
        tokio::task::yield_now().await;
    }

    gone.store(false, Ordering::Relaxed);
    keeping(Told(gone.clone()), || {});
    assert!(gone.load(Ordering::Relaxed), "without a task there is nothing to wait for");
}
