//! The fuzz target of this layer; see `crate::fuzzing`.

use std::fmt::Debug;
use std::future::Future;
use std::pin::pin;

use futures_util::FutureExt as _;
use tokio::io::{AsyncRead, AsyncReadExt as _};

use super::beside::Beside;
use super::h3;

/// Reads the same bytes whole and cut in two; both end, and alike.
fn alike<T: Debug + PartialEq>(whole: Option<T>, cut: Option<T>) -> T {
    assert_eq!(whole, cut);
    whole.expect("a stream that has ended is read to its end")
}

macro_rules! read {
    ($read:expr, $bytes:expr, $cut:expr) => {{
        let (head, tail) = $bytes.split_at($cut);
        let whole = $read(&mut &$bytes[..]).now_or_never();
        alike(whole, $read(&mut head.chain(tail)).now_or_never())
    }};
}

/// Lets a reader go on whenever it waits for what it has counted to be taken.
pub(super) fn paid<T>(beside: &Beside, read: impl Future<Output = T>) -> Option<T> {
    let mut read = pin!(read);
    let mut waits = true;
    while waits {
        if let Some(output) = read.as_mut().now_or_never() {
            return Some(output);
        }
        waits = false;
        beside.take(|| waits = true);
    }
    None
}

async fn request<R: AsyncRead + Unpin>(stream: &mut R) -> Result<Vec<u8>, h3::H3Error> {
    h3::request(stream, 16 * 1024).await
}

/// What a peer sends on a stream of HTTP/3, behind a byte that says where it is cut: read alike as each kind
/// of stream, and the header section neither panics nor grows.
pub(crate) fn streams(input: &[u8]) {
    let Some((cut, stream)) = input.split_first() else { return };
    let cut = usize::from(*cut).min(stream.len());
    let _ = read!(h3::stream_kind, stream, cut);
    let _ = read!(h3::opening, stream, cut);
    let (head, tail) = stream.split_at(cut);
    let beside = &Beside::default();
    let whole = paid(beside, h3::connect(&mut &*stream, beside));
    let _ = alike(whole, paid(beside, h3::connect(&mut head.chain(tail), beside)));
    let whole = paid(beside, h3::control(&mut &*stream, beside, || {}));
    alike(whole, paid(beside, h3::control(&mut head.chain(tail), beside, || {})));
    if let Ok(section) = read!(request, stream, cut) {
        assert!(section.len() <= stream.len());
        let _ = h3::parse_request(&section);
    }
    let _ = h3::parse_request(stream);
}
