//! The fuzz target of this layer; see `crate::fuzzing`.

use std::fmt::Debug;

use futures_util::FutureExt as _;
use tokio::io::{AsyncRead, AsyncReadExt as _};

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
    let _ = read!(h3::connect, stream, cut);
    let (head, tail) = stream.split_at(cut);
    let whole = h3::control(&mut &*stream, || {}).now_or_never();
    alike(whole, h3::control(&mut head.chain(tail), || {}).now_or_never());
    if let Ok(section) = read!(request, stream, cut) {
        assert!(section.len() <= stream.len());
        let _ = h3::parse_request(&section);
    }
    let _ = h3::parse_request(stream);
}
