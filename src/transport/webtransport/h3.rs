//! The parts of HTTP/3 that a WebTransport session needs (RFC 9114, RFC 9297, RFC 9204 without its
//! dynamic table, draft-ietf-webtrans-http3), read from any byte stream.
//!
//! Each of these futures reads one stream from its beginning and holds what it has read so far: it is
//! kept until it ends or the connection does, and never dropped in between, so no half-read frame is lost.

use std::borrow::Cow;
use std::collections::HashMap;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Poll, ready};

use http::StatusCode;
use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf};
use wtransport_proto::bytes::BytesWriter;
use wtransport_proto::error::ErrorCode;
use wtransport_proto::frame::Frame;
use wtransport_proto::qpack::{Decoder, Encoder};
use wtransport_proto::settings::Settings;
use wtransport_proto::varint::VarInt;

use super::beside::Beside;

/// Longest SETTINGS frame. A browser's has some 50 bytes.
const MAX_SETTINGS: u64 = 4 * 1024;
/// Fields of a request. A browser's has some 10; the table that they are kept in would panic at 24,577.
const MAX_FIELDS: usize = 1_024;
/// Bytes read at a time where nobody wants them, on the stack.
const SKIP_CHUNK: usize = 512;

/// Types of frames (RFC 9114 7.2).
mod frame {
    pub(super) const DATA: u64 = 0x00;
    pub(super) const HEADERS: u64 = 0x01;
    pub(super) const CANCEL_PUSH: u64 = 0x03;
    pub(super) const SETTINGS: u64 = 0x04;
    pub(super) const PUSH_PROMISE: u64 = 0x05;
    pub(super) const GOAWAY: u64 = 0x07;
    pub(super) const MAX_PUSH_ID: u64 = 0x0d;
    /// Begins a bidirectional stream of a WebTransport session; the session's id is in the length's place.
    pub(super) const WEBTRANSPORT: u64 = 0x41;
}

/// Types of unidirectional streams (RFC 9114 6.2).
mod stream {
    pub(super) const CONTROL: u64 = 0x00;
    pub(super) const PUSH: u64 = 0x01;
    pub(super) const QPACK_ENCODER: u64 = 0x02;
    pub(super) const QPACK_DECODER: u64 = 0x03;
    pub(super) const WEBTRANSPORT: u64 = 0x54;
}

/// CLOSE_WEBTRANSPORT_SESSION (draft-ietf-webtrans-http3 section 6).
const CLOSE_SESSION: u64 = 0x2843;

/// Why a stream could not be read on.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum H3Error {
    /// The peer broke a rule of HTTP/3: the connection ends with this code.
    Broken(ErrorCode),
    /// The stream or the connection ended where it may or may not have been allowed to.
    Ended,
}

impl From<ErrorCode> for H3Error {
    fn from(code: ErrorCode) -> Self {
        Self::Broken(code)
    }
}

impl From<io::Error> for H3Error {
    fn from(_: io::Error) -> Self {
        Self::Ended
    }
}

/// What a unidirectional stream of the peer's is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StreamKind {
    Control,
    QpackEncoder,
    QpackDecoder,
    /// One of the session's, which Engine.IO has no use for.
    WebTransport,
    /// Reserved ("grease") or unknown: to be ignored.
    Unknown,
}

/// What a bidirectional stream of the peer's begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Opening {
    /// A stream of the WebTransport session with this id.
    WebTransport(u64),
    /// A request, presumably.
    Other,
}

/// A request for a WebTransport session.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct RequestFields {
    pub(super) authority: String,
    pub(super) path: String,
    pub(super) headers: HashMap<String, String>,
}

// --- reading

/// `None` at the end of the stream. Nothing behind the integer is read.
async fn varint<R: AsyncRead + Unpin>(stream: &mut R) -> io::Result<Option<u64>> {
    let mut bytes = [0; 8];
    if stream.read(&mut bytes[..1]).await? == 0 {
        return Ok(None);
    }
    let length = 1 << (bytes[0] >> 6);
    stream.read_exact(&mut bytes[1..length]).await?;
    Ok(split_varint(&bytes[..length]).map(|(value, _)| value))
}

/// A variable-length integer (RFC 9000 16) and what is behind it.
fn split_varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let first = *bytes.first()?;
    let length = 1 << (first >> 6);
    let (head, rest) = bytes.split_at_checked(length)?;
    let value =
        head[1..].iter().fold(u64::from(first & 0x3f), |value, byte| value << 8 | u64::from(*byte));
    Some((value, rest))
}

/// Type and length of the next frame.
async fn frame_header<R: AsyncRead + Unpin>(stream: &mut R) -> io::Result<Option<(u64, u64)>> {
    let Some(kind) = varint(stream).await? else {
        return Ok(None);
    };
    let length = varint(stream).await?.ok_or(io::ErrorKind::UnexpectedEof)?;
    Ok(Some((kind, length)))
}

async fn payload<R: AsyncRead + Unpin>(stream: &mut R, length: u64) -> io::Result<Vec<u8>> {
    let mut payload = vec![0; length as usize];
    stream.read_exact(&mut payload).await?;
    Ok(payload)
}

/// Reads over `length` bytes.
async fn skip<R: AsyncRead + Unpin>(
    stream: &mut R,
    length: u64,
    beside: &Beside,
) -> io::Result<()> {
    find(stream, length, beside, |_| false).await.map(|_| ())
}

/// Reads `length` bytes, or until `found`, which gets them as they come, says so. Was it found?
async fn find<R: AsyncRead + Unpin>(
    stream: &mut R,
    mut length: u64,
    beside: &Beside,
    mut found: impl FnMut(&[u8]) -> bool,
) -> io::Result<bool> {
    while length > 0 {
        // the chunk is on the stack, and not in the future
        let read = poll_fn(|cx| {
            let mut chunk = [0; SKIP_CHUNK];
            let wanted = length.min(SKIP_CHUNK as u64) as usize;
            let mut buffer = ReadBuf::new(&mut chunk[..wanted]);
            ready!(Pin::new(&mut *stream).poll_read(cx, &mut buffer))?;
            Poll::Ready(io::Result::Ok((buffer.filled().len(), found(buffer.filled()))))
        });
        match read.await? {
            (0, _) => return Err(io::ErrorKind::UnexpectedEof.into()),
            (_, true) => return Ok(true),
            (read, false) => {
                length -= read as u64;
                beside.bytes(read).await;
            }
        }
    }
    Ok(false)
}

/// Reads to the end of the stream.
pub(super) async fn drain<R: AsyncRead + Unpin>(stream: &mut R, beside: &Beside) {
    // an error is an end, too
    let _ = skip(stream, u64::MAX, beside).await;
}

/// Types that HTTP/2 had and HTTP/3 must not see (RFC 9114 7.2.8).
fn is_http2(kind: u64) -> bool {
    matches!(kind, 0x02 | 0x06 | 0x08 | 0x09)
}

/// Reads what a unidirectional stream is for.
pub(super) async fn stream_kind<R: AsyncRead + Unpin>(
    stream: &mut R,
) -> Result<StreamKind, H3Error> {
    match varint(stream).await?.ok_or(H3Error::Ended)? {
        stream::CONTROL => Ok(StreamKind::Control),
        stream::QPACK_ENCODER => Ok(StreamKind::QpackEncoder),
        stream::QPACK_DECODER => Ok(StreamKind::QpackDecoder),
        stream::WEBTRANSPORT => Ok(StreamKind::WebTransport),
        // "only servers can push" (RFC 9114 6.2.2)
        stream::PUSH => Err(ErrorCode::StreamCreation.into()),
        _ => Ok(StreamKind::Unknown),
    }
}

/// Reads the peer's control stream behind its type, for as long as the connection lives. `settings` is called
/// when its SETTINGS have come. Gives the code that the connection ends with.
pub(super) async fn control<R: AsyncRead + Unpin>(
    stream: &mut R,
    beside: &Beside,
    settings: impl FnOnce(),
) -> ErrorCode {
    match read_control(stream, beside, settings).await {
        Err(H3Error::Broken(code)) => code,
        Ok(()) | Err(H3Error::Ended) => ErrorCode::ClosedCriticalStream,
    }
}

async fn read_control<R: AsyncRead + Unpin>(
    stream: &mut R,
    beside: &Beside,
    settings: impl FnOnce(),
) -> Result<(), H3Error> {
    let (kind, length) = frame_header(stream).await?.ok_or(H3Error::Ended)?;
    if kind != frame::SETTINGS {
        return Err(ErrorCode::MissingSettings.into());
    }
    if length > MAX_SETTINGS {
        return Err(ErrorCode::ExcessiveLoad.into());
    }
    let payload = payload(stream, length).await?;
    // Only their form is checked: what they allow us is more than we use.
    Settings::with_frame(&Frame::new_settings(Cow::Borrowed(&payload)))?;
    drop(payload);
    settings();
    while let Some((kind, length)) = frame_header(stream).await? {
        beside.thing().await;
        match kind {
            frame::DATA | frame::HEADERS | frame::SETTINGS | frame::PUSH_PROMISE => {
                return Err(ErrorCode::FrameUnexpected.into());
            }
            frame::WEBTRANSPORT => return Err(ErrorCode::Frame.into()),
            kind if is_http2(kind) => return Err(ErrorCode::FrameUnexpected.into()),
            // They speak of pushes, which we never send; each is one integer.
            frame::GOAWAY | frame::MAX_PUSH_ID | frame::CANCEL_PUSH => {
                if !(1..=8).contains(&length) {
                    return Err(ErrorCode::Frame.into());
                }
                let payload = self::payload(stream, length).await?;
                if !matches!(split_varint(&payload), Some((_, []))) {
                    return Err(ErrorCode::Frame.into());
                }
            }
            _ => skip(stream, length, beside).await?,
        }
    }
    Ok(())
}

/// Reads a request stream as far as its header section, which it gives. `max`: its length in bytes, as encoded;
/// also the most that may come before it.
pub(super) async fn request<R: AsyncRead + Unpin>(
    stream: &mut R,
    max: u64,
) -> Result<Vec<u8>, H3Error> {
    let mut before = 0;
    loop {
        let (kind, length) = frame_header(stream).await?.ok_or(H3Error::Ended)?;
        check_on_request(kind)?;
        match kind {
            frame::DATA => return Err(ErrorCode::FrameUnexpected.into()),
            // no session can be meant before there is one
            frame::WEBTRANSPORT => return Err(ErrorCode::Id.into()),
            _ if length > max => return Err(ErrorCode::ExcessiveLoad.into()),
            frame::HEADERS => return Ok(payload(stream, length).await?),
            _ => {
                // an empty frame is none for free
                before += length + 1;
                if before > max {
                    return Err(ErrorCode::ExcessiveLoad.into());
                }
                payload(stream, length).await?;
            }
        }
    }
}

fn check_on_request(kind: u64) -> Result<(), ErrorCode> {
    match kind {
        frame::CANCEL_PUSH
        | frame::SETTINGS
        | frame::PUSH_PROMISE
        | frame::GOAWAY
        | frame::MAX_PUSH_ID => Err(ErrorCode::FrameUnexpected),
        kind if is_http2(kind) => Err(ErrorCode::FrameUnexpected),
        _ => Ok(()),
    }
}

/// Reads the CONNECT stream behind the request, until the session is over.
pub(super) async fn connect<R: AsyncRead + Unpin>(
    stream: &mut R,
    beside: &Beside,
) -> Result<(), ErrorCode> {
    match read_connect(stream, beside).await {
        Err(H3Error::Broken(code)) => Err(code),
        // "cleanly terminating a CONNECT stream [...] SHALL be semantically equivalent" to the capsule;
        // a reset ends it no less
        Ok(()) | Err(H3Error::Ended) => Ok(()),
    }
}

async fn read_connect<R: AsyncRead + Unpin>(
    stream: &mut R,
    beside: &Beside,
) -> Result<(), H3Error> {
    let mut capsules = Capsules::default();
    while let Some((kind, length)) = frame_header(stream).await? {
        beside.thing().await;
        check_on_request(kind)?;
        match kind {
            // trailers are not for CONNECT (RFC 9114 4.4)
            frame::HEADERS => return Err(ErrorCode::FrameUnexpected.into()),
            frame::WEBTRANSPORT => return Err(ErrorCode::Frame.into()),
            frame::DATA => {
                if find(stream, length, beside, |data| capsules.is_close(data)).await? {
                    return Ok(());
                }
            }
            _ => skip(stream, length, beside).await?,
        }
    }
    Ok(())
}

/// Finds the capsule that closes the session (RFC 9297 3.2), however it is cut. Others are skipped.
#[derive(Debug, Default)]
struct Capsules {
    /// Type and length, as far as they have come.
    header: [u8; 16],
    filled: usize,
    skip: u64,
}

impl Capsules {
    fn is_close(&mut self, mut data: &[u8]) -> bool {
        loop {
            let skipped = self.skip.min(data.len() as u64);
            self.skip -= skipped;
            data = &data[skipped as usize..];
            let Some((first, rest)) = data.split_first() else {
                return false;
            };
            self.header[self.filled] = *first;
            self.filled += 1;
            data = rest;
            let Some((kind, length)) = split_varint(&self.header[..self.filled]) else {
                continue;
            };
            if kind == CLOSE_SESSION {
                return true;
            }
            if let Some((length, _)) = split_varint(length) {
                self.skip = length;
                self.filled = 0;
            }
        }
    }
}

/// Reads what a bidirectional stream begins with; behind [`Opening::WebTransport`] comes the application's
/// data.
pub(super) async fn opening<R: AsyncRead + Unpin>(stream: &mut R) -> Result<Opening, H3Error> {
    match varint(stream).await?.ok_or(H3Error::Ended)? {
        frame::WEBTRANSPORT => {
            Ok(Opening::WebTransport(varint(stream).await?.ok_or(H3Error::Ended)?))
        }
        _ => Ok(Opening::Other),
    }
}

// --- header sections

/// The fields of a request, or the status to refuse it with.
///
/// # Errors
/// A section that is no QPACK, or of more than [`MAX_FIELDS`]: the connection ends.
pub(super) fn parse_request(
    section: &[u8],
) -> Result<Result<RequestFields, StatusCode>, ErrorCode> {
    if check_section(section).ok_or(ErrorCode::Decompression)? > MAX_FIELDS {
        return Err(ErrorCode::ExcessiveLoad);
    }
    let mut headers = Decoder::decode(section).map_err(|_| ErrorCode::Decompression)?;
    let mut field = |name| headers.remove(name);
    let is_session = field(":method").as_deref() == Some("CONNECT")
        && field(":scheme").as_deref() == Some("https")
        // the second is the name from draft 14 on
        && matches!(field(":protocol").as_deref(), Some("webtransport" | "webtransport-h3"));
    let request = match (is_session, field(":authority"), field(":path")) {
        (true, Some(authority), Some(path)) if path.starts_with('/') => {
            Ok(RequestFields { authority, path, headers })
        }
        _ => Err(StatusCode::BAD_REQUEST),
    };
    Ok(request)
}

/// Walks over a section without decoding it, and counts its fields. The decoder behind does not bound its integers
/// (an overlong one makes it panic where overflow is checked), so only a section with plain ones gets there. The
/// dynamic table, which we do not offer, is refused on the way.
fn check_section(section: &[u8]) -> Option<usize> {
    // Required Insert Count and Delta Base refer to the dynamic table: both are 0
    let mut rest = section.strip_prefix(&[0, 0])?;
    let mut fields = 0;
    while let Some(first) = rest.first() {
        rest = match first {
            // indexed, static
            0b1100_0000.. => prefixed::<6>(rest)?.1,
            // literal with a name from the static table
            0b0101_0000..=0b0101_1111 | 0b0111_0000..=0b0111_1111 => {
                string::<7>(prefixed::<4>(rest)?.1)?
            }
            // literal with a literal name
            0b0010_0000..=0b0011_1111 => string::<7>(string::<3>(rest)?)?,
            _ => return None,
        };
        fields += 1;
    }
    Some(fields)
}

/// An integer with a prefix of `BITS` (RFC 7541 5.1) below the longest header section, and what is behind.
fn prefixed<const BITS: u32>(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let (first, mut rest) = bytes.split_first()?;
    let mask = (1 << BITS) - 1;
    let mut value = usize::from(first & mask);
    if value < usize::from(mask) {
        return Some((value, rest));
    }
    for shift in [0, 7, 14] {
        let (byte, behind) = rest.split_first()?;
        rest = behind;
        value += usize::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some((value, rest));
        }
    }
    None
}

/// What is behind a string.
fn string<const BITS: u32>(bytes: &[u8]) -> Option<&[u8]> {
    let (length, rest) = prefixed::<BITS>(bytes)?;
    rest.get(length..)
}

// --- writing

fn put(out: &mut Vec<u8>, value: u64) {
    let value = VarInt::try_from_u64(value).expect("our integers are below 2^62");
    out.put_varint(value).expect("a Vec takes more");
}

fn put_frame(out: &mut Vec<u8>, kind: u64, payload: &[u8]) {
    put(out, kind);
    put(out, payload.len() as u64);
    out.extend_from_slice(payload);
}

/// What our control stream begins with: its type and our SETTINGS.
pub(super) fn control_preface(max_header_section: u64) -> Vec<u8> {
    let settings = [
        (0x01, 0),                  // QPACK_MAX_TABLE_CAPACITY
        (0x06, max_header_section), // MAX_FIELD_SECTION_SIZE
        (0x07, 0),                  // QPACK_BLOCKED_STREAMS
        (0x08, 1),                  // ENABLE_CONNECT_PROTOCOL (RFC 9220)
        (0x33, 1),                  // H3_DATAGRAM (RFC 9297)
        (0x2b60_3742, 1),           // ENABLE_WEBTRANSPORT (draft 02)
        (0xc671_706a, 1),           // WEBTRANSPORT_MAX_SESSIONS (draft 07)
    ];
    let mut payload = Vec::new();
    for (name, value) in settings {
        put(&mut payload, name);
        put(&mut payload, value);
    }
    let mut out = Vec::new();
    put(&mut out, stream::CONTROL);
    put_frame(&mut out, frame::SETTINGS, &payload);
    out
}

/// The header section of a response, as a frame.
pub(super) fn response(status: StatusCode, extra: Option<(&str, &str)>) -> Vec<u8> {
    let fields = [(":status", status.as_str())].into_iter().chain(extra);
    let mut out = Vec::new();
    put_frame(&mut out, frame::HEADERS, &Encoder::encode(fields));
    out
}

/// The end of a session with a code and no text: a capsule, in a DATA frame.
pub(super) fn close_session(code: u32) -> Vec<u8> {
    let mut capsule = Vec::new();
    put_frame(&mut capsule, CLOSE_SESSION, &code.to_be_bytes());
    let mut out = Vec::new();
    put_frame(&mut out, frame::DATA, &capsule);
    out
}

#[cfg(test)]
#[path = "h3_tests.rs"]
mod tests;
