//! Heads of requests that are too large for HTTP/2.
//!
//! h2 answers them with 431 by itself, and ends the connection for those that it does not even want to read on; it
//! tells nobody. It is to be seen by what it writes: its answer is a HEADERS frame that ends the stream, and how
//! many of those are the application's is known; its GOAWAY says why.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Tells answers of h2's own from the application's.
pub(super) struct Heads {
    /// HEADERS frames with END_STREAM that the application brings about. One whose stream was reset before it
    /// was written hides one of h2's from us: who does that is counted less often than he comes.
    expected: AtomicUsize,
    too_large: Box<dyn Fn() + Send + Sync>,
}

impl Heads {
    pub(super) fn new(too_large: impl Fn() + Send + Sync + 'static) -> Self {
        Self { expected: AtomicUsize::new(0), too_large: Box::new(too_large) }
    }

    /// The application is about to end a stream with a HEADERS frame: an answer without a body, or trailers.
    pub(super) fn expect_last(&self) {
        self.expected.fetch_add(1, Ordering::Relaxed);
    }

    fn last_written(&self) {
        let one_less = |expected: usize| expected.checked_sub(1);
        let was_expected =
            self.expected.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less);
        if was_expected.is_err() {
            (self.too_large)();
        }
    }
}

/// Length, type, flags and stream of a frame (RFC 9113 4.1).
const FRAME_HEAD: usize = 9;
const HEADERS: u8 = 1;
const END_STREAM: u8 = 1;
const GOAWAY: u8 = 7;
/// What h2 says in a GOAWAY, behind the last stream and the error.
const WHY: [&[u8]; 2] = [b"header_list_way_too_large", b"too_many_continuations"];
const GOAWAY_HEAD: usize = 8;
/// Longer ones are none of these.
const LONGEST: usize = 64;

/// Where the next byte belongs.
#[derive(Default)]
struct Frames {
    head: [u8; FRAME_HEAD],
    /// How much of it there is.
    known: usize,
    /// Bytes of the frame that are still to come.
    payload: usize,
    /// What has come of a GOAWAY.
    goaway: Vec<u8>,
}

/// What h2 has said about heads of requests.
#[derive(Debug, Default, PartialEq, Eq)]
struct Said {
    /// HEADERS frames with END_STREAM.
    last: usize,
    /// A GOAWAY for a head.
    away: bool,
}

impl Frames {
    /// Follows what is written.
    fn follow(&mut self, mut bytes: &[u8], said: &mut Said) {
        while !bytes.is_empty() {
            let (payload, rest) = bytes.split_at(self.payload.min(bytes.len()));
            (self.payload, bytes) = (self.payload - payload.len(), rest);
            if self.head[3] == GOAWAY && self.goaway.len() + payload.len() <= LONGEST {
                self.goaway.extend_from_slice(payload);
                let why = self.goaway.get(GOAWAY_HEAD..).filter(|_| self.payload == 0);
                said.away |= !payload.is_empty() && why.is_some_and(|why| WHY.contains(&why));
            }
            let taken = (FRAME_HEAD - self.known).min(bytes.len());
            self.head[self.known..self.known + taken].copy_from_slice(&bytes[..taken]);
            (self.known, bytes) = (self.known + taken, &bytes[taken..]);
            if self.known == FRAME_HEAD {
                let [a, b, c, kind, flags, ..] = self.head;
                (self.known, self.payload) = (0, u32::from_be_bytes([0, a, b, c]) as usize);
                said.last += usize::from(kind == HEADERS && flags & END_STREAM != 0);
                self.goaway.clear();
            }
        }
    }
}

/// The stream that hyper is given.
pub(super) struct Outlet<S> {
    io: S,
    frames: Frames,
    heads: Arc<Heads>,
}

impl<S> Outlet<S> {
    pub(super) fn new(io: S, heads: Arc<Heads>) -> Self {
        Self { io, frames: Frames::default(), heads }
    }

    fn wrote(&mut self, bytes: &[u8]) {
        let mut said = Said::default();
        self.frames.follow(bytes, &mut said);
        for _ in 0..said.last {
            self.heads.last_written();
        }
        if said.away {
            (self.heads.too_large)();
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Outlet<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Outlet<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.io).poll_write(cx, data))?;
        self.wrote(&data[..written]);
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.io).poll_write_vectored(cx, data))?;
        let mut left = written;
        for slice in data {
            let of_it = left.min(slice.len());
            self.wrote(&slice[..of_it]);
            left -= of_it;
        }
        Poll::Ready(Ok(written))
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

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let [_, a, b, c] = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&[a, b, c, kind, flags, 0, 0, 0, 1], payload].concat()
    }

    #[test]
    fn frames_are_followed_however_they_are_cut() {
        let bytes = [
            frame(4, 0, &[1; 12]),
            frame(1, 4, &[1; 30]),
            frame(0, 1, &[1; 300]),
            frame(1, 5, &[1; 3]),
            frame(4, 1, &[]),
            frame(1, 5, &[]),
        ]
        .concat();
        let goaway = |why: &[u8]| [&bytes, &frame(7, 0, &[&[0; 8], why].concat())[..]].concat();
        for (why, away) in [(WHY[0], true), (WHY[1], true), (b"", false), (&[1; 70], false)] {
            // and what may come behind it
            let bytes = [goaway(why), frame(8, 0, &[0; 4])].concat();
            for length in 1..=bytes.len() {
                let (mut frames, mut said) = (Frames::default(), Said::default());
                bytes.chunks(length).for_each(|piece| frames.follow(piece, &mut said));
                assert_eq!(said, Said { last: 2, away }, "in pieces of {length}");
            }
        }
    }
}
