//! HTTP/2, for which hyper has no deadline: a peer that answers pings may ask for nothing for ever.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http::{Request, Response};
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};
use hyper::server::conn::http2;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio::time::timeout;

use super::listen::{HEADER_TIMEOUT, last_answers};

/// A peer that answers no ping within this time is gone.
const PING: Duration = Duration::from_secs(20);

/// Serves one connection until `closed`, or until nothing was asked on it for [`HEADER_TIMEOUT`].
/// `head_max`: longest head of a request, in bytes.
pub(super) async fn serve<S, T>(
    stream: S,
    service: T,
    head_max: usize,
    closed: impl Future<Output = ()>,
) -> hyper::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    T: Service<Request<Incoming>, Response = Response<Body>, Error = Infallible>,
    T::Future: Send + 'static,
{
    let (requests, mut under_way) = watch::channel(0);
    let requests = Arc::new(requests);
    let counted = service_fn(move |request| {
        let request_under_way = UnderWay::begin(&requests);
        let answer = service.call(request);
        async move { answer.await.map(|answer| answer.map(|body| request_under_way.until(body))) }
    });
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .keep_alive_interval(PING)
        .keep_alive_timeout(PING)
        .max_header_list_size(u32::try_from(head_max).unwrap_or(u32::MAX));
    let connection = builder.serve_connection(TokioIo::new(stream), counted);
    tokio::pin!(connection, closed);
    let mut is_told = false;
    loop {
        tokio::select! {
            result = &mut connection => return result,
            () = &mut closed => {
                connection.as_mut().graceful_shutdown();
                return last_answers(connection).await;
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

    fn until(self, body: Body) -> Body {
        Body::new(Answer { body, _request: self })
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.send_modify(|requests| *requests -= 1);
    }
}

struct Answer {
    body: Body,
    _request: UnderWay,
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use hyper::client::conn::http2::{SendRequest, handshake};
    use tokio::io::DuplexStream;
    use tokio::task::JoinHandle;
    use tokio::time::{Instant, sleep};

    use super::*;

    /// A connection on which every answer takes as many seconds as its path says. Its end is the client's.
    fn slow(peer: DuplexStream) {
        let service = service_fn(|request: Request<Incoming>| async move {
            let seconds = request.uri().path()[1..].parse().unwrap();
            sleep(Duration::from_secs(seconds)).await;
            Ok(Response::new(Body::from("late")))
        });
        tokio::spawn(serve(peer, service, 16_384, std::future::pending()));
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
}
