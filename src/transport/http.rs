//! HTTP as Engine.IO uses it: requests, responses, CORS, and the byte stream behind an upgrade.

use std::any::Any;
use std::io::{self, Write as _};
use std::net::Shutdown;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use axum::body::Body;
use bytes::{Buf, Bytes};
use flate2::Compression as Level;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Response, StatusCode};
use hyper_util::rt::TokioIo;
use hyper_util::server::conn::auto::upgrade;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio_rustls::server::TlsStream;

use crate::config::{Compression, Cookie, EngineConfig, OriginPolicy, SameSite};
use crate::engine::Sid;
use crate::engine::handshake::{HandshakeError, Refusal};
use crate::transport::polling::Untaken;

/// The byte stream behind a WebSocket upgrade, without hyper around it where we know what it is.
#[derive(Debug)]
pub(crate) struct Upgraded {
    /// Bytes that hyper had read past the request.
    head: Bytes,
    io: Io,
    /// What is to live as long as the connection.
    _kept: Option<Arc<dyn Any + Send + Sync>>,
}

/// A stream that may be below a WebSocket.
#[derive(Debug)]
pub(crate) enum Io {
    Tcp(Tcp),
    Tls(Box<TlsStream<TcpStream>>),
    /// The application brought its own listener.
    Other(Box<TokioIo<hyper::upgrade::Upgraded>>),
}

/// A stream that our own listener serves.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Into<Io> + Unpin + Send + 'static {}

impl<S: AsyncRead + AsyncWrite + Into<Io> + Unpin + Send + 'static> Stream for S {}

impl From<TcpStream> for Io {
    fn from(stream: TcpStream) -> Self {
        Self::Tcp(Tcp::new(stream))
    }
}

impl From<TlsStream<TcpStream>> for Io {
    fn from(stream: TlsStream<TcpStream>) -> Self {
        Self::Tls(Box::new(stream))
    }
}

impl Upgraded {
    /// What hyper gives to those who wait for an upgrade.
    pub(crate) fn new(upgraded: hyper::upgrade::Upgraded) -> Self {
        let upgraded = match unwrap::<TcpStream>(upgraded) {
            Ok((head, io)) => return Self::over(io.into(), head),
            Err(upgraded) => upgraded,
        };
        match unwrap::<TlsStream<TcpStream>>(upgraded) {
            Ok((head, io)) => Self::over(io.into(), head),
            Err(other) => Self::over(Io::Other(Box::new(TokioIo::new(other))), Bytes::new()),
        }
    }

    /// `head` are bytes that were read past the request.
    pub(crate) fn over(io: Io, head: Bytes) -> Self {
        Self { head: kept(head), io, _kept: None }
    }

    /// The stream for others to write to as well, if a write to it is one to the system.
    pub(crate) fn shared(&self) -> Option<&Arc<OwnedWriteHalf>> {
        match &self.io {
            Io::Tcp(io) => Some(io.write()),
            Io::Tls(_) | Io::Other(_) => None,
        }
    }

    /// Drops this when the connection is dropped.
    pub(crate) fn keeping(self, what: Option<Arc<dyn Any + Send + Sync>>) -> Self {
        Self { _kept: what, ..self }
    }
}

/// A TCP stream to which not only its owner may write. Nothing is ever left over between two writes.
#[derive(Debug)]
pub(crate) struct Tcp {
    read: OwnedReadHalf,
    /// Always there, but while this is dropped.
    write: Option<Arc<OwnedWriteHalf>>,
    /// The peer has ended its side.
    is_ended: bool,
}

impl Tcp {
    fn new(stream: TcpStream) -> Self {
        let (read, write) = stream.into_split();
        Self { read, write: Some(Arc::new(write)), is_ended: false }
    }

    fn write(&self) -> &Arc<OwnedWriteHalf> {
        self.write.as_ref().expect("only `drop` takes it")
    }

    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let outcome = ready!(Pin::new(&mut self.read).poll_read(cx, buffer));
        self.is_ended |=
            outcome.is_ok() && buffer.filled().len() == before && buffer.remaining() > 0;
        Poll::Ready(outcome)
    }

    fn poll_write(
        &self,
        cx: &mut Context<'_>,
        write: impl Fn(&OwnedWriteHalf) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            let stream: &TcpStream = self.write().as_ref().as_ref();
            ready!(stream.poll_write_ready(cx))?;
            match write(self.write()) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                outcome => return Poll::Ready(outcome),
            }
        }
    }

    fn shutdown(&self) -> io::Result<()> {
        let stream: &TcpStream = self.write().as_ref().as_ref();
        match SockRef::from(stream).shutdown(Shutdown::Write) {
            // the peer was faster
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(()),
            outcome => outcome,
        }
    }
}

impl Drop for Tcp {
    /// Tokio's half shuts the write side down. After the peer's end that is a call to the system for nothing:
    /// the connection is closed next.
    fn drop(&mut self) {
        if let Some(write) = self.write.take().filter(|_| self.is_ended)
            && let Ok(write) = Arc::try_unwrap(write)
        {
            write.forget();
        }
    }
}

/// hyper's read buffer (8 KiB) lives as long as a slice of it, even one with nothing in it.
fn kept(head: Bytes) -> Bytes {
    if head.is_empty() { Bytes::new() } else { head }
}

/// The stream below hyper, as our own listener serves it, or axum's.
fn unwrap<S>(upgraded: hyper::upgrade::Upgraded) -> Result<(Bytes, S), hyper::upgrade::Upgraded>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    match upgraded.downcast::<TokioIo<S>>() {
        Ok(parts) => Ok((parts.read_buf, parts.io.into_inner())),
        Err(upgraded) => upgrade::downcast::<TokioIo<S>>(upgraded)
            .map(|parts| (parts.read_buf, parts.io.into_inner())),
    }
}

impl AsyncRead for Upgraded {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.head.is_empty() {
            let length = self.head.len().min(buffer.remaining());
            buffer.put_slice(&self.head[..length]);
            self.head.advance(length);
            if self.head.is_empty() {
                self.head = Bytes::new(); // gives hyper's read buffer back
            }
            return Poll::Ready(Ok(()));
        }
        match &mut self.io {
            Io::Tcp(io) => io.poll_read(cx, buffer),
            Io::Tls(io) => Pin::new(io).poll_read(cx, buffer),
            Io::Other(io) => Pin::new(io).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Upgraded {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.io {
            Io::Tcp(io) => io.poll_write(cx, |io| io.try_write(data)),
            Io::Tls(io) => Pin::new(io).poll_write(cx, data),
            Io::Other(io) => Pin::new(io).poll_write(cx, data),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.io {
            Io::Tcp(io) => io.poll_write(cx, |io| io.try_write_vectored(data)),
            Io::Tls(io) => Pin::new(io).poll_write_vectored(cx, data),
            Io::Other(io) => Pin::new(io).poll_write_vectored(cx, data),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.io {
            Io::Tcp(_) => true,
            Io::Tls(io) => io.is_write_vectored(),
            Io::Other(io) => io.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.io {
            Io::Tcp(_) => Poll::Ready(Ok(())),
            Io::Tls(io) => Pin::new(io).poll_flush(cx),
            Io::Other(io) => Pin::new(io).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.io {
            Io::Tcp(io) => Poll::Ready(io.shutdown()),
            Io::Tls(io) => Pin::new(io).poll_shutdown(cx),
            Io::Other(io) => Pin::new(io).poll_shutdown(cx),
        }
    }
}

/// What a response owes to the request it answers.
#[derive(Debug, Clone)]
pub(crate) struct RequestFacts {
    origin: Option<HeaderValue>,
    accept_encoding: Option<HeaderValue>,
    request_headers: Option<HeaderValue>,
    /// IE warns of XSS when a response looks like its request (engine.io polling.ts `headers`).
    is_internet_explorer: bool,
    /// The `j` parameter of JSONP polling, digits only.
    jsonp: Option<String>,
}

impl RequestFacts {
    pub(crate) fn new(headers: &HeaderMap, jsonp: Option<&str>) -> Self {
        let agent = headers.get(header::USER_AGENT).and_then(|value| value.to_str().ok());
        Self {
            origin: headers.get(header::ORIGIN).cloned(),
            accept_encoding: headers.get(header::ACCEPT_ENCODING).cloned(),
            request_headers: headers.get(header::ACCESS_CONTROL_REQUEST_HEADERS).cloned(),
            is_internet_explorer: agent
                .is_some_and(|agent| agent.contains(";MSIE") || agent.contains("Trident/")),
            // engine.io polling-jsonp.ts: (req._query.j || "").replace(/[^0-9]/g, "")
            jsonp: jsonp.map(|index| index.chars().filter(char::is_ascii_digit).collect()),
        }
    }

    /// Does the client understand a compression that we have?
    pub(crate) fn takes_compression(&self) -> bool {
        choose_encoding(self.accept_encoding.as_ref()).is_some()
    }

    pub(crate) fn is_jsonp(&self) -> bool {
        self.jsonp.is_some()
    }
}

/// Adds the CORS headers that let a page of an allowed foreign origin read the response.
pub(crate) fn add_cors(config: &EngineConfig, facts: &RequestFacts, headers: &mut HeaderMap) {
    add_vary(config, headers);
    let Some(origin) = &facts.origin else { return };
    match &config.origins {
        OriginPolicy::SameOrigin => {}
        // never with credentials: every page could act with its visitors' cookies (`Config::check`)
        OriginPolicy::Any => {
            headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
        }
        OriginPolicy::List(_) => {
            headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
            if config.cors_credentials {
                let yes = HeaderValue::from_static("true");
                headers.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, yes);
            }
        }
    }
}

/// Tells caches that the answer is another for another page, also if none has asked.
pub(crate) fn add_vary(config: &EngineConfig, headers: &mut HeaderMap) {
    if let OriginPolicy::List(_) = config.origins {
        headers.append(header::VARY, HeaderValue::from_static("Origin"));
    }
}

/// The answer to a CORS preflight, if the request is one that we answer.
pub(crate) fn preflight(
    config: &EngineConfig,
    method: &Method,
    facts: &RequestFacts,
) -> Option<Response<Body>> {
    if method != Method::OPTIONS
        || config.origins == OriginPolicy::SameOrigin
        || facts.origin.is_none()
    {
        return None;
    }
    let mut response = empty(StatusCode::NO_CONTENT);
    let headers = response.headers_mut();
    add_cors(config, facts, headers);
    let methods = HeaderValue::from_static("GET,POST");
    headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, methods);
    if let Some(wanted) = &facts.request_headers {
        headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, wanted.clone());
        headers.append(header::VARY, HeaderValue::from_static("Access-Control-Request-Headers"));
    }
    if let Some(age) = config.cors_max_age {
        headers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from(age.as_secs()));
    }
    Some(response)
}

pub(crate) fn empty(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response
}

/// A refused HTTP request, as Node answers it (engine.io server.ts `abortRequest`): 403 for a forbidden
/// one, else 400, and the error as JSON; 503 from a process that ends or is full, 429 over a limit.
pub(crate) fn refuse_request(refusal: &Refusal) -> Response<Body> {
    let body = serde_json::json!({ "code": refusal.error.code(), "message": refusal.message() });
    let mut response = Response::new(Body::from(body.to_string()));
    *response.status_mut() = status_of(refusal);
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    add_retry_after(refusal, response.headers_mut());
    response
}

/// When to come back, in whole seconds: never earlier than we said, and never at once (RFC 9110 10.2.3).
/// (Official clients go by a clock of their own, balancers and others by this.)
pub(crate) fn retry_after(refusal: &Refusal) -> Option<u64> {
    let after = refusal.retry_after.map(|after| after.as_millis().div_ceil(1000).max(1) as u64);
    let default = (refusal.error == HandshakeError::Unavailable).then_some(1);
    after.or(default)
}

fn add_retry_after(refusal: &Refusal, headers: &mut HeaderMap) {
    if let Some(seconds) = retry_after(refusal) {
        headers.insert(header::RETRY_AFTER, seconds.into());
    }
}

/// The status of a refused request, or session.
pub(crate) fn status_of(refusal: &Refusal) -> StatusCode {
    match refusal.error {
        HandshakeError::Forbidden => StatusCode::FORBIDDEN,
        HandshakeError::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        HandshakeError::TooManyRequests => StatusCode::TOO_MANY_REQUESTS,
        _ => StatusCode::BAD_REQUEST,
    }
}

/// A refused WebSocket upgrade (engine.io server.ts `abortUpgrade`): always 400, the text as the body; but
/// 503 and 429, which Node does not have.
pub(crate) fn refuse_upgrade(refusal: &Refusal) -> Response<Body> {
    let mut response = Response::new(Body::from(refusal.message().to_owned()));
    *response.status_mut() = match status_of(refusal) {
        StatusCode::FORBIDDEN => StatusCode::BAD_REQUEST,
        status => status,
    };
    let headers = response.headers_mut();
    add_retry_after(refusal, headers);
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html"));
    headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}

/// The answer to a POST that was taken.
pub(crate) fn post_response(facts: &RequestFacts) -> Response<Body> {
    let mut response = Response::new(Body::from("ok"));
    // text/html, so that old browsers show no download dialog (engine.io polling.ts)
    let html = HeaderValue::from_static("text/html");
    response.headers_mut().insert(header::CONTENT_TYPE, html);
    add_polling_headers(facts, response.headers_mut());
    response
}

/// The answer to a poll. Compresses on the spot; the caller keeps large bodies off the event loop.
pub(crate) fn poll_response(
    facts: &RequestFacts,
    compression: Option<&Compression>,
    body: String,
    untaken: Untaken,
) -> Response<Body> {
    let (body, content_type) = match &facts.jsonp {
        Some(index) => (jsonp(index, &body), "text/javascript; charset=UTF-8"),
        None => (body, "text/plain; charset=UTF-8"),
    };
    let encoding = compression
        .filter(|compression| body.len() >= compression.threshold)
        .and_then(|_| choose_encoding(facts.accept_encoding.as_ref()));
    let compressed = encoding.and_then(|encoding| Some((encoding, encoding.compress(&body)?)));
    let mut response = match compressed {
        Some((encoding, body)) => {
            let mut response = Response::new(Body::from(untaken.keep(body)));
            let name = HeaderValue::from_static(encoding.name());
            response.headers_mut().insert(header::CONTENT_ENCODING, name);
            response
        }
        None => Response::new(Body::from(untaken.keep(body))),
    };
    let content_type = HeaderValue::from_static(content_type);
    response.headers_mut().insert(header::CONTENT_TYPE, content_type);
    add_polling_headers(facts, response.headers_mut());
    response
}

fn add_polling_headers(facts: &RequestFacts, headers: &mut HeaderMap) {
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if facts.is_internet_explorer {
        headers.insert(header::X_XSS_PROTECTION, HeaderValue::from_static("0"));
    }
}

/// Compressing a body of this size or more is work for a thread of its own.
pub(crate) const COMPRESS_INLINE_MAX: usize = 64 * 1024;

/// engine.io polling-jsonp.ts `doWrite`: `___eio[j](<JSON string>);`, with the two line separators escaped
/// that JSON allows and JavaScript did not.
fn jsonp(index: &str, body: &str) -> String {
    let json = serde_json::to_string(body).expect("a string always serializes");
    let json = json.replace('\u{2028}', "\\u2028").replace('\u{2029}', "\\u2029");
    format!("___eio[{index}]({json});")
}

/// The body of a JSONP POST: the form field `d`, in which browsers turned line feeds into `\r\n` and
/// the client escaped its own (engine.io polling-jsonp.ts `onData`).
pub(crate) fn jsonp_body(form: &[u8]) -> Option<String> {
    let (_, data) = form_urlencoded::parse(form).find(|(name, _)| name == "d")?;
    // (\\)?\\n: an escaped backslash in front means a literal "\n"
    let mut out = String::with_capacity(data.len());
    let mut rest = data.as_ref();
    while let Some(at) = rest.find("\\n") {
        let (before, after) = rest.split_at(at);
        match before.strip_suffix('\\') {
            Some(before) => {
                out.push_str(before);
                out.push_str("\\n");
            }
            None => {
                out.push_str(before);
                out.push('\n');
            }
        }
        rest = &after[2..];
    }
    out.push_str(rest);
    Some(out)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Encoding {
    Gzip,
    Deflate,
}

impl Encoding {
    fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Deflate => "deflate",
        }
    }

    fn compress(self, body: &str) -> Option<Vec<u8>> {
        let level = Level::fast();
        match self {
            Self::Gzip => {
                let mut encoder = flate2::write::GzEncoder::new(Vec::new(), level);
                encoder.write_all(body.as_bytes()).ok()?;
                encoder.finish().ok()
            }
            // HTTP's "deflate" is the zlib format (RFC 9110 8.4.1.2)
            Self::Deflate => {
                let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), level);
                encoder.write_all(body.as_bytes()).ok()?;
                encoder.finish().ok()
            }
        }
    }
}

/// RFC 9110 12.5.3, for the two codings that Node offers; gzip wins a tie.
fn choose_encoding(accept: Option<&HeaderValue>) -> Option<Encoding> {
    let accept = accept?.to_str().ok()?;
    let quality = |coding: &str| {
        let mut any = 0.0;
        for part in accept.split(',') {
            let mut fields = part.split(';').map(str::trim);
            let name = fields.next().unwrap_or_default();
            let q = fields
                .find_map(|field| field.strip_prefix("q="))
                .map_or(1.0, |q| q.parse::<f32>().unwrap_or(0.0));
            if name.eq_ignore_ascii_case(coding) {
                return q;
            }
            if name == "*" {
                any = q;
            }
        }
        any
    };
    let (gzip, deflate) = (quality("gzip"), quality("deflate"));
    if gzip > 0.0 && gzip >= deflate {
        Some(Encoding::Gzip)
    } else {
        (deflate > 0.0).then_some(Encoding::Deflate)
    }
}

/// The cookie of a new session (npm `cookie` writes the attributes in this order).
pub(crate) fn set_cookie(cookie: &Cookie, sid: Sid) -> (HeaderName, HeaderValue) {
    let mut text = format!("{}={sid}", cookie.name);
    if let Some(age) = cookie.max_age {
        text.push_str(&format!("; Max-Age={}", age.as_secs()));
    }
    text.push_str(&format!("; Path={}", cookie.path));
    if cookie.http_only {
        text.push_str("; HttpOnly");
    }
    if cookie.secure {
        text.push_str("; Secure");
    }
    text.push_str(match cookie.same_site {
        SameSite::Lax => "; SameSite=Lax",
        SameSite::Strict => "; SameSite=Strict",
        SameSite::None => "; SameSite=None",
    });
    let value = HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static(""));
    (header::SET_COOKIE, value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upgraded_stream_gives_back_the_buffer_that_its_request_was_read_into() {
        let mut buffer = bytes::BytesMut::with_capacity(8192);
        buffer.extend_from_slice(b"GET / HTTP/1.1");
        let request = buffer.split().freeze();
        let past_it = buffer.freeze();
        assert!(past_it.is_empty() && !request.is_unique());
        let kept = kept(past_it);
        assert!(request.is_unique());
        assert!(kept.is_empty());
    }
}
