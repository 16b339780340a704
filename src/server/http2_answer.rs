//! An answer of HTTP/2 on its way to a peer whose window may stay shut.
//!
//! Such a peer can answer pings and take every segment of TCP, so that nothing else ends it. Hyper hands h2 an
//! answer piece by piece, and asks for the next one when the window has opened for the one before; what is
//! given here as pieces shows by that how far the peer is, and what it does not ask for is not kept for it.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use hyper::rt::Executor;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::http2_heads::Heads;

/// Longest piece: a frame of HTTP/2 (RFC 9113 6.5.2).
const PIECE: usize = 16 * 1024;

tokio::task_local! {
    /// Of the request that the task is for.
    static PROGRESS: Arc<Progress>;
}

/// Since when the peer has been waited for, if it is.
struct Progress(watch::Sender<Option<Instant>>);

impl Progress {
    fn waits(&self, since: Option<Instant>) {
        // an application may take its time with many pieces
        self.0.send_if_modified(|known| std::mem::replace(known, since) != since);
    }

    /// Ready when the peer has been waited for so long.
    async fn stalls(&self, limit: Duration) {
        let mut waits = self.0.subscribe();
        loop {
            let since = *waits.borrow_and_update();
            let over = async {
                match since {
                    Some(since) => sleep_until(since + limit).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = over => return,
                _ = waits.changed() => {}
            }
        }
    }
}

/// Runs what hyper does for a request. Once the peer has not opened its window for the next piece of the answer
/// for so long, that is dropped, which resets the stream (CANCEL) and frees what waits for it. Others on the
/// same connection, which may be a proxy's with many clients behind, go on.
#[derive(Clone)]
pub(super) struct Patience(pub(super) Duration);

impl<F> Executor<F> for Patience
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, request: F) {
        let (limit, progress) = (self.0, Arc::new(Progress(watch::Sender::new(None))));
        let watched = progress.clone();
        let request = async move {
            tokio::select! {
                () = request => {}
                () = watched.stalls(limit) => tracing::debug!("an answer was not taken"),
            }
        };
        tokio::spawn(PROGRESS.scope(progress, request));
    }
}

/// An answer in pieces. Keeps `kept` until all of it has been asked for.
pub(super) struct Answer<T> {
    body: Body,
    heads: Arc<Heads>,
    /// What is left of what the application gave last.
    rest: Bytes,
    progress: Option<Arc<Progress>>,
    _kept: T,
}

impl<T> Answer<T> {
    /// To be made in the task of [`Patience`].
    pub(super) fn new(body: Body, heads: Arc<Heads>, kept: T) -> Self {
        let progress = PROGRESS.try_with(Clone::clone).ok();
        Self { body, heads, rest: Bytes::new(), progress, _kept: kept }
    }

    fn waits(&self, since: Option<Instant>) {
        if let Some(progress) = &self.progress {
            progress.waits(since);
        }
    }

    /// The last byte goes by itself: when it is asked for, there was a window for all before it, and nothing
    /// of the answer stays behind in h2, where it would be out of reach.
    fn next_piece(&mut self) -> Bytes {
        let length = match self.rest.len() {
            1 => 1,
            length => (length - 1).min(PIECE),
        };
        self.waits(Some(Instant::now()));
        self.rest.split_to(length)
    }
}

impl<T: Unpin> HttpBody for Answer<T> {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if self.rest.is_empty() {
            self.waits(None);
            match ready!(Pin::new(&mut self.body).poll_frame(cx)).transpose()? {
                None => return Poll::Ready(None),
                Some(frame) => match frame.into_data() {
                    Ok(data) if !data.is_empty() => self.rest = data,
                    Ok(nothing) => return Poll::Ready(Some(Ok(Frame::data(nothing)))),
                    Err(trailers) => {
                        self.heads.expect_last();
                        return Poll::Ready(Some(Ok(trailers)));
                    }
                },
            }
        }
        Poll::Ready(Some(Ok(Frame::data(self.next_piece()))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (hint, rest) = (self.body.size_hint(), self.rest.len() as u64);
        let mut all = SizeHint::new();
        all.set_lower(hint.lower() + rest);
        if let Some(upper) = hint.upper() {
            all.set_upper(upper + rest);
        }
        all
    }
}
