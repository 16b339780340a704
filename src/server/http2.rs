//! HTTP/2, for which hyper has no deadline: a peer that answers pings may ask for nothing for ever.

use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use http::{Request, Response};
use hyper::body::{Body as _, Incoming};
use hyper::server::conn::http2;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Notify, watch};
use tokio::time::timeout;

use super::accept::LastAnswer;
use super::http2_answer::{Answer, Patience};
use super::http2_heads::{Heads, Outlet};
use super::listen::{HEADER_TIMEOUT, last_answers};

/// A peer that answers no ping within this time is gone.
const PING: Duration = Duration::from_secs(20);

/// Requests that a connection may have under way: each is a task, and may hold an answer that waits.
const MAX_REQUESTS: u32 = 100;

/// What one peer may cost.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// Longest head of a request, in bytes as RFC 9113 6.5.2 counts them; who sends a longer one gets 431.
    pub(super) head: usize,
    /// How long an answer may wait for the peer to open its window.
    pub(super) stall: Duration,
}

/// Serves one connection until `closed`, until nothing was asked on it for [`HEADER_TIMEOUT`], or until what is under
/// way behind a [`LastAnswer`] has been answered. `too_large` is called for each head that is.
pub(super) async fn serve<S, T>(
    stream: S,
    service: T,
    bounds: Bounds,
    too_large: impl Fn() + Send + Sync + 'static,
    closed: impl Future<Output = ()>,
) -> hyper::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    T: Service<Request<Incoming>, Response = Response<Body>, Error = Infallible>,
    T::Future: Send + 'static,
{
    let (requests, mut under_way) = watch::channel(0);
    let requests = Arc::new(requests);
    let heads = Arc::new(Heads::new(too_large));
    let answered = heads.clone();
    let last = Arc::new(Notify::new());
    let leave = last.clone();
    let counted = service_fn(move |request| {
        let request_under_way = UnderWay::begin(&requests);
        let (answer, heads, last) = (service.call(request), answered.clone(), last.clone());
        async move {
            let Ok(answer) = answer.await;
            if answer.extensions().get::<LastAnswer>().is_some() {
                last.notify_one();
            }
            if answer.body().is_end_stream() {
                heads.expect_last();
            }
            Ok::<_, Infallible>(
                answer.map(|body| Body::new(Answer::new(body, heads, request_under_way))),
            )
        }
    });
    let mut builder = http2::Builder::new(Patience(bounds.stall));
    builder
        .timer(TokioTimer::new())
        .keep_alive_interval(PING)
        .keep_alive_timeout(PING)
        .max_concurrent_streams(MAX_REQUESTS)
        .max_header_list_size(u32::try_from(bounds.head).unwrap_or(u32::MAX));
    let connection = builder.serve_connection(TokioIo::new(Outlet::new(stream, heads)), counted);
    tokio::pin!(connection, closed);
    let mut is_told = false;
    loop {
        tokio::select! {
            result = &mut connection => return result,
            () = &mut closed => {
                connection.as_mut().graceful_shutdown();
                return last_answers(connection).await;
            }
            () = leave.notified(), if !is_told => {
                is_told = true;
                connection.as_mut().graceful_shutdown();
            }
            // whoever does not go then is let go of
            () = is_unused(&mut under_way) => match std::mem::replace(&mut is_told, true) {
                false => connection.as_mut().graceful_shutdown(),
                true => return Ok(()),
            },
        }
    }
}

/// Ready when no request has been under way for [`HEADER_TIMEOUT`].
async fn is_unused(under_way: &mut watch::Receiver<usize>) {
    loop {
        let is_idle = *under_way.borrow_and_update() == 0;
        let limit = if is_idle { HEADER_TIMEOUT } else { Duration::MAX };
        if timeout(limit, under_way.changed()).await.is_err() {
            return;
        }
    }
}

/// A request that is counted until its answer has gone.
struct UnderWay(Arc<watch::Sender<usize>>);

impl UnderWay {
    fn begin(requests: &Arc<watch::Sender<usize>>) -> Self {
        requests.send_modify(|requests| *requests += 1);
        Self(requests.clone())
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.send_modify(|requests| *requests -= 1);
    }
}

#[cfg(test)]
mod tests {
    use hyper::client::conn::http2::{SendRequest, handshake};
    use parking_lot::Mutex;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use tokio::io::DuplexStream;
    use tokio::sync::oneshot;
    use tokio::task::JoinHandle;
    use tokio::time::{Instant, sleep};

    use bytes::Bytes;
    use http_body_util::BodyExt as _;
    use hyper::client::conn::http2::Builder;
    use hyper_util::rt::TokioExecutor;

    use super::*;

    const BOUNDS: Bounds = Bounds { head: 16_384, stall: Duration::from_secs(45) };

    /// A connection on which every answer takes as many seconds as its path says. Its end is the client's.
    fn slow(peer: DuplexStream) {
        let service = service_fn(|request: Request<Incoming>| async move {
            let seconds = request.uri().path()[1..].parse().unwrap();
            sleep(Duration::from_secs(seconds)).await;
            Ok(Response::new(Body::from("late")))
        });
        tokio::spawn(serve(peer, service, BOUNDS, || (), std::future::pending()));
    }

    async fn connect() -> (SendRequest<Body>, JoinHandle<()>) {
        let (ours, peer) = tokio::io::duplex(64 * 1024);
        slow(peer);
        // it answers pings
        let client = handshake(TokioExecutor::new(), TokioIo::new(ours)).await.unwrap();
        let (requests, connection) = client;
        (requests, tokio::spawn(async move { drop(connection.await) }))
    }

    async fn ask(requests: &mut SendRequest<Body>, seconds: u64) -> Response<Incoming> {
        let uri = format!("https://localhost/{seconds}");
        let request = Request::get(uri).body(Body::empty()).unwrap();
        requests.send_request(request).await.unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_without_a_request_lives_for_65_seconds() {
        let begun = Instant::now();
        let (_requests, ended) = connect().await;
        ended.await.unwrap();
        assert!((65..=66).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_does_not_go_when_told_is_let_go_of() {
        let (mut ours, peer) = tokio::io::duplex(64 * 1024);
        let begun = Instant::now();
        slow(peer);
        let mut heard = Vec::new();
        // it does not even begin, so hyper waits
        let _ = tokio::io::AsyncReadExt::read_to_end(&mut ours, &mut heard).await;
        assert!((130..=131).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn the_65_seconds_begin_with_the_end_of_the_last_answer() {
        let begun = Instant::now();
        let (mut requests, ended) = connect().await;
        // longer than without a request
        let answer = ask(&mut requests, 200).await;
        assert_eq!(answer.headers()["content-length"], "4");
        sleep(Duration::from_secs(50)).await;
        ask(&mut requests, 0).await;
        assert_eq!(begun.elapsed().as_secs(), 250);
        ended.await.unwrap();
        assert!((315..=316).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
    }

    /// Says when the last of it has gone.
    struct Kept(Vec<u8>, Option<oneshot::Sender<()>>);

    impl AsRef<[u8]> for Kept {
        fn as_ref(&self) -> &[u8] {
            &self.0
        }
    }

    impl Drop for Kept {
        fn drop(&mut self) {
            let _ = self.1.take().unwrap().send(());
        }
    }

    /// A client whose window is this, and an answer of that many bytes that it has the head of.
    async fn answered(
        window: u32,
        bytes: usize,
    ) -> (SendRequest<Body>, Response<Incoming>, oneshot::Receiver<()>) {
        let (ours, peer) = tokio::io::duplex(64 * 1024);
        let (gone, is_gone) = oneshot::channel();
        let body = Mutex::new(Some(Bytes::from_owner(Kept(vec![b'x'; bytes], Some(gone)))));
        let service = service_fn(move |_: Request<Incoming>| {
            let body = body.lock().take().map_or_else(|| Body::from("small"), Body::from);
            async move { Ok(Response::new(body)) }
        });
        tokio::spawn(serve(peer, service, BOUNDS, || (), std::future::pending()));
        let mut builder = Builder::new(TokioExecutor::new());
        builder.initial_stream_window_size(window);
        let client = builder.handshake(TokioIo::new(ours)).await.unwrap();
        let (mut requests, connection) = client;
        tokio::spawn(connection);
        let answer = ask(&mut requests, 0).await;
        assert_eq!(answer.headers()["content-length"], bytes.to_string());
        (requests, answer, is_gone)
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_is_not_taken_is_given_up_and_others_go_on() {
        // nothing of it fits, a piece, all but its last byte
        for (window, bytes) in [(0, 1), (1, 300), (20_000, 300_000), (299_999, 300_000)] {
            let begun = Instant::now();
            let (mut requests, mut answer, is_gone) = answered(window, bytes).await;
            is_gone.await.unwrap();
            let seconds = begun.elapsed().as_secs();
            assert!((45..=46).contains(&seconds), "{window} of {bytes}: {seconds} s");
            let other = ask(&mut requests, 0).await;
            assert_eq!(other.status(), 200);
            let end = async { while answer.frame().await.unwrap().is_ok() {} };
            timeout(Duration::from_secs(1), end).await.expect("it is told so");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_is_taken_slowly_comes_whole() {
        let begun = Instant::now();
        let (_requests, mut answer, _) = answered(20_000, 300_000).await;
        let mut taken = 0;
        while let Some(frame) = answer.frame().await {
            taken += frame.unwrap().into_data().unwrap().len();
            sleep(Duration::from_secs(2)).await;
        }
        assert_eq!(taken, 300_000);
        assert!(begun.elapsed() > BOUNDS.stall * 3, "{:?} is not slow", begun.elapsed());
    }

    /// What a head of that many bytes gets, behind answers with and without a body, and how many were too large.
    async fn with_head(bytes: usize) -> (Option<u16>, usize) {
        let (ours, peer) = tokio::io::duplex(64 * 1024);
        let count = Arc::new(AtomicUsize::new(0));
        let counter = count.clone();
        let service = service_fn(|request: Request<Incoming>| async move {
            let body = if request.uri().path() == "/" { Body::empty() } else { Body::from("a") };
            Ok(Response::new(body))
        });
        let too_large = move || {
            counter.fetch_add(1, Ordering::Relaxed);
        };
        let serving = tokio::spawn(serve(peer, service, BOUNDS, too_large, std::future::pending()));
        let (mut requests, connection) =
            handshake(TokioExecutor::new(), TokioIo::new(ours)).await.unwrap();
        tokio::spawn(connection);
        for path in ["", "a", "", "a"] {
            let request = Request::get(format!("https://localhost/{path}")).body(Body::empty());
            let answer = requests.send_request(request.unwrap()).await.unwrap();
            answer.into_body().collect().await.unwrap();
        }
        // ":method" GET, ":scheme" https, ":authority" localhost, ":path" / and "x", each with 32 more (RFC 9113 6.5.2)
        let others = 7 + 3 + 7 + 5 + 10 + 9 + 5 + 1 + 1 + 5 * 32;
        let request = Request::get("https://localhost/").header("x", "x".repeat(bytes - others));
        let answer = requests.send_request(request.body(Body::empty()).unwrap()).await;
        let status = answer.ok().map(|answer| answer.status().as_u16());
        drop(requests);
        let _ = serving.await.unwrap();
        (status, count.load(Ordering::Relaxed))
    }

    #[tokio::test]
    async fn a_head_that_is_too_large_is_counted_once_however_large_it_is() {
        assert_eq!(with_head(BOUNDS.head - 1).await, (Some(200), 0));
        assert_eq!(with_head(BOUNDS.head).await, (Some(431), 1));
        assert_eq!(with_head(BOUNDS.head * 3).await, (Some(431), 1));
        assert_eq!(with_head(BOUNDS.head * 5).await, (None, 1));
    }
}
