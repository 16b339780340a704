//! HTTP requests of Engine.IO: to the right session, or turned away as Node does it.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use axum::body::Body;
use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, Version, header};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::upgrade::OnUpgrade;
use tokio::sync::oneshot;

use super::core::Core;
use super::driver::Driver;
use super::handover::Handover;
use super::registry::{Command, SessionHandle};
use crate::engine::door::client_address;
use crate::engine::handshake::{Handshake, HandshakeError, Refusal, is_secret, parse_query};
use crate::engine::packet::Str;
use crate::engine::{Sid, TransportKind};
use crate::error::PeerMisbehaved;
use crate::transport::Link;
use crate::transport::http::{self as wire, RequestFacts, Upgraded};
use crate::transport::polling::{PollAnswer, PollRequest, Polling, PostRequest};
use crate::transport::websocket::{self, Deflate, WebSocket, WebSocketConfig};

/// Where a request came from, as the listener knows it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Peer {
    pub(crate) address: SocketAddr,
    pub(crate) secure: bool,
}

/// A request that passed the checks.
enum Verified {
    /// A new session.
    Open(TransportKind),
    /// A session that exists.
    Known(Arc<SessionHandle>),
}

/// Is put on an answer behind which its connection is to end.
#[derive(Clone, Copy, Debug)]
pub(super) struct LastAnswer;

/// A client that is sent away tries again on the connection that it has, and would find the same process for as long
/// as that drains: with a new one it may find another.
fn end_connection(response: &mut Response<Body>, version: Version) {
    response.extensions_mut().insert(LastAnswer);
    if version < Version::HTTP_2 {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
}

/// Answers any request to the Engine.IO path.
///
/// `handover` is the connection's, if our own listener serves it.
pub(crate) async fn handle(
    core: Arc<Core>,
    peer: Peer,
    handover: Option<Arc<Handover>>,
    request: Request<Body>,
) -> Response<Body> {
    let query = parse_query(request.uri().query().unwrap_or_default());
    let parameter =
        |name: &str| query.iter().flatten().find(|(key, _)| key == name).map(|(_, value)| &**value);
    let facts = RequestFacts::new(request.headers(), parameter("j"));
    let config = &core.config.engine;
    let (upgrade, version) = (is_websocket_upgrade(&request), request.version());
    let allowed = core.may_come(request.headers(), request_authority(&request), false);
    if allowed && let Some(response) = wire::preflight(config, request.method(), &facts) {
        return response;
    }
    let verified = match &query {
        Err(error) => Err((*error).into()),
        Ok(_) if !allowed => Err(HandshakeError::Forbidden.into()),
        Ok(_) => verify(&core, &request, upgrade, &facts, &parameter),
    };
    let query = query.unwrap_or_default();
    let mut response = match verified {
        Ok(Verified::Open(TransportKind::WebSocket)) => {
            open_websocket(&core, peer, handover, request, query).await
        }
        Ok(Verified::Open(_)) => open_polling(&core, peer, request, query, &facts).await,
        Ok(Verified::Known(session)) if upgrade => {
            Ok(upgrade_session(&core, handover, request, session))
        }
        Ok(Verified::Known(session)) => Ok(polling(&core, peer, request, session, &facts).await),
        Err(refusal) => Err(refusal),
    }
    .unwrap_or_else(|refusal| {
        core.refused(&refusal, peer.address);
        let mut response = match upgrade {
            true => wire::refuse_upgrade(&refusal),
            false => wire::refuse_request(&refusal),
        };
        if refusal.error == HandshakeError::Unavailable && core.is_stopping() {
            end_connection(&mut response, version);
        }
        response
    });
    match allowed {
        true => wire::add_cors(config, &facts, response.headers_mut()),
        false => wire::add_vary(config, response.headers_mut()),
    }
    response
}

/// engine.io server.ts `verify`: the checks and their order.
fn verify<'a>(
    core: &Core,
    request: &Request<Body>,
    upgrade: bool,
    facts: &RequestFacts,
    parameter: &dyn Fn(&str) -> Option<&'a str>,
) -> Result<Verified, Refusal> {
    let kind = parameter("transport").and_then(TransportKind::parse);
    let kind = kind.filter(|kind| *kind != TransportKind::WebTransport && core.is_enabled(*kind));
    let kind = kind.ok_or(HandshakeError::TransportUnknown)?;
    // A foreign page's script tag carries no Origin, so JSONP would slip past the origin policy.
    if facts.is_jsonp() && core.config.engine.origins != crate::config::OriginPolicy::Any {
        return Err(HandshakeError::BadRequest.into());
    }
    let version = parameter("EIO");
    if let Some(sid) = parameter("sid") {
        let session = Sid::parse(sid).and_then(|sid| core.registry.find(&sid));
        let session = session.ok_or(HandshakeError::SessionUnknown)?;
        let fits = match upgrade {
            true => kind == TransportKind::WebSocket,
            false => kind == TransportKind::Polling && session.kind() == kind,
        };
        if !fits || version != Some("4") {
            return Err(HandshakeError::BadRequest.into());
        }
        return Ok(Verified::Known(session));
    }
    if request.method() != Method::GET {
        return Err(HandshakeError::BadHandshakeMethod.into());
    }
    if upgrade != (kind == TransportKind::WebSocket) {
        return Err(HandshakeError::BadRequest.into());
    }
    if version != Some("4") {
        return Err(HandshakeError::UnsupportedProtocolVersion.into());
    }
    Ok(Verified::Open(kind))
}

fn is_websocket_upgrade(request: &Request<Body>) -> bool {
    let upgrade = request.headers().get(header::UPGRADE);
    upgrade.is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"))
}

fn request_authority(request: &Request<Body>) -> Option<&str> {
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
    // HTTP/2 has it in the URI
    host.or_else(|| request.uri().authority().map(|authority| authority.as_str()))
}

/// What the session keeps of the request that opens it. Takes its header fields.
fn handshake_of(
    core: &Core,
    peer: Peer,
    kind: TransportKind,
    request: &mut Request<Body>,
    query: Vec<(String, String)>,
) -> Arc<Handshake> {
    let mut headers = std::mem::take(request.headers_mut());
    // Copied, since hyper's values are slices of its read buffer, which they would keep alive.
    for (name, value) in &mut headers {
        let copy = HeaderValue::from_bytes(value.as_bytes());
        *value = copy.unwrap_or_else(|_| HeaderValue::from_static(""));
        value.set_sensitive(is_secret(name));
    }
    if let Some(authority) = request.uri().authority()
        && let Ok(host) = HeaderValue::try_from(authority.as_str())
    {
        headers.entry(header::HOST).or_insert(host);
    }
    let url = request.uri().path_and_query().map_or("/", |target| target.as_str()).to_owned();
    let trusted = &core.config.limits.trusted_proxies;
    Arc::new(Handshake {
        transport: kind.name(),
        address: client_address(trusted, peer.address.ip(), &headers),
        url,
        query,
        headers,
        peer: peer.address,
        secure: peer.secure,
        issued: SystemTime::now(),
        shown: OnceLock::new(),
    })
}

/// Opens a session by WebSocket.
async fn open_websocket(
    core: &Arc<Core>,
    peer: Peer,
    handover: Option<Arc<Handover>>,
    mut request: Request<Body>,
    query: Vec<(String, String)>,
) -> Result<Response<Body>, Refusal> {
    let handshake = handshake_of(core, peer, TransportKind::WebSocket, &mut request, query);
    let place = core.admit(&handshake).await?;
    let headers = handshake.clone();
    Ok(accept_websocket(core, handover, request, &headers.headers, true, move |core, link| {
        Some(core.begin(link, handshake, place).1)
    }))
}

/// Opens a session by polling.
async fn open_polling(
    core: &Arc<Core>,
    peer: Peer,
    mut request: Request<Body>,
    query: Vec<(String, String)>,
    facts: &RequestFacts,
) -> Result<Response<Body>, Refusal> {
    let handshake = handshake_of(core, peer, TransportKind::Polling, &mut request, query);
    let place = core.admit(&handshake).await?;
    let mut link = Polling::default();
    let (answer, receiver) = oneshot::channel();
    // a fresh link has no poll that this could overlap
    let _ = link.attach_poll(PollRequest { answer });
    let session = core.open(Link::Polling(Box::new(link)), handshake, place);
    let mut response = poll_response(core, facts, receiver).await;
    if let Some(cookie) = &core.config.engine.cookie {
        let (name, value) = wire::set_cookie(cookie, session.sid);
        response.headers_mut().append(name, value);
    }
    if let Some(name) = &core.config.engine.sid_header {
        let value = HeaderValue::from_str(session.sid.as_str());
        let value = value.expect("a sid is made of ASCII only");
        response.headers_mut().insert(name.clone(), value);
    }
    Ok(response)
}

/// A request of a polling session.
async fn polling(
    core: &Arc<Core>,
    peer: Peer,
    request: Request<Body>,
    session: Arc<SessionHandle>,
    facts: &RequestFacts,
) -> Response<Body> {
    match *request.method() {
        Method::GET => {
            let (answer, receiver) = oneshot::channel();
            session.send(Command::Poll(PollRequest { answer }));
            poll_response(core, facts, receiver).await
        }
        Method::POST => post(core, peer, request, session, facts).await,
        // engine.io polling.ts `onRequest`
        _ => wire::empty(StatusCode::INTERNAL_SERVER_ERROR),
    }
}

async fn poll_response(
    core: &Core,
    facts: &RequestFacts,
    receiver: oneshot::Receiver<PollAnswer>,
) -> Response<Body> {
    let (body, compress, untaken) = match receiver.await {
        Ok(PollAnswer::Payload { body, compress, untaken }) => (body, compress, untaken),
        Ok(PollAnswer::Overlap) => return wire::empty(StatusCode::BAD_REQUEST),
        Err(_) => return wire::refuse_request(&HandshakeError::SessionUnknown.into()),
    };
    let may = compress && facts.takes_compression();
    let compression = core.config.engine.http_compression.filter(|_| may);
    if compression.is_none() || body.len() < wire::COMPRESS_INLINE_MAX {
        return wire::poll_response(facts, compression.as_ref(), body, untaken);
    }
    let facts = facts.clone();
    let work = move || wire::poll_response(&facts, compression.as_ref(), body, untaken);
    match tokio::task::spawn_blocking(work).await {
        Ok(response) => response,
        Err(_) => wire::empty(StatusCode::INTERNAL_SERVER_ERROR),
    }
}

async fn post(
    core: &Core,
    peer: Peer,
    request: Request<Body>,
    session: Arc<SessionHandle>,
    facts: &RequestFacts,
) -> Response<Body> {
    let broke = |rule| {
        session.send(Command::Misbehaved(rule));
        wire::empty(StatusCode::BAD_REQUEST)
    };
    let Some(mut posting) = session.begin_post() else {
        return broke(PeerMisbehaved::OverlappingPost);
    };
    let content_type = request.headers().get(header::CONTENT_TYPE);
    if content_type.is_some_and(|value| value.as_bytes() == b"application/octet-stream") {
        return broke(PeerMisbehaved::BinaryPost);
    }
    let engine = &core.config.engine;
    let trusted = &core.config.limits.trusted_proxies;
    let client = client_address(trusted, peer.address.ip(), request.headers());
    let body = Limited::new(request.into_body(), engine.max_payload).collect();
    // a pong could not come for longer than this either, since POSTs do not overlap
    let body = tokio::time::timeout(engine.ping_interval + engine.ping_timeout, body);
    let body = match body.await {
        Err(_) => {
            core.metrics.http_requests_refused.inc();
            return wire::empty(StatusCode::REQUEST_TIMEOUT);
        }
        Ok(Ok(body)) => {
            posting.arrived();
            body.to_bytes()
        }
        // Node answers and leaves the session alone
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            posting.arrived();
            core.limits.misbehaved(PeerMisbehaved::PayloadTooLarge, client);
            let (done, receiver) = oneshot::channel();
            session.send(Command::Post(PostRequest { body: Err(engine.max_payload), done }));
            // its next one would be read for nothing if this one were not waited for
            let _ = receiver.await;
            return wire::empty(StatusCode::PAYLOAD_TOO_LARGE);
        }
        Ok(Err(_)) => {
            core.metrics.http_requests_refused.inc();
            return wire::empty(StatusCode::BAD_REQUEST);
        }
    };
    let body = if facts.is_jsonp() {
        wire::jsonp_body(&body)
    } else {
        String::from_utf8(body.into()).ok()
    };
    let Some(body) = body else {
        return broke(PeerMisbehaved::InvalidUtf8);
    };
    let (done, receiver) = oneshot::channel();
    session.send(Command::Post(PostRequest { body: Ok(Str::from(body)), done }));
    match receiver.await {
        Ok(()) => wire::post_response(facts),
        // the session ended over it, or before it
        Err(_) => wire::refuse_request(&HandshakeError::BadRequest.into()),
    }
}

/// A WebSocket for a session that exists: the session decides whether it takes it as an upgrade.
fn upgrade_session(
    core: &Arc<Core>,
    handover: Option<Arc<Handover>>,
    mut request: Request<Body>,
    session: Arc<SessionHandle>,
) -> Response<Body> {
    let headers = std::mem::take(request.headers_mut());
    // the session may be gone before it writes: the answer does not wait for it
    accept_websocket(core, handover, request, &headers, false, move |_, link| {
        session.send(Command::Attach(link));
        None
    })
}

/// Answers with 101 and hands the link over when the connection has been upgraded. A session that begins
/// with it goes on as the connection's task, or as the one that waited for it. With `keep` the link has the
/// answer to write, where that can be.
fn accept_websocket(
    core: &Arc<Core>,
    handover: Option<Arc<Handover>>,
    mut request: Request<Body>,
    headers: &http::HeaderMap,
    keep: bool,
    take: impl FnOnce(&Core, Link) -> Option<Driver> + Send + 'static,
) -> Response<Body> {
    let engine = &core.config.engine;
    let deflate =
        engine.per_message_deflate.as_ref().map(|option| Deflate { threshold: option.threshold });
    let handshake = match websocket::negotiate(request.method(), headers, deflate) {
        Ok(handshake) => handshake,
        Err(error) => {
            tracing::debug!(%error, "a WebSocket handshake was refused");
            return wire::refuse_upgrade(&HandshakeError::BadRequest.into());
        }
    };
    let upgrade = hyper::upgrade::on(&mut request);
    let mut response = wire::empty(StatusCode::SWITCHING_PROTOCOLS);
    *response.headers_mut() = handshake.headers();
    let config = WebSocketConfig { max_payload: engine.max_payload };
    let (core, deadline) = (core.clone(), engine.upgrade_timeout);
    let take = move |stream: Upgraded, answer: Bytes| {
        let mut link = WebSocket::new(stream, handshake.deflate, config);
        link.go_on(answer);
        take(&core, Link::WebSocket(Box::new(link)))
    };
    match handover {
        Some(handover) => handover.agree(upgrade, keep, Box::new(take)),
        None => drop(tokio::spawn(take_upgraded(upgrade, deadline, take))),
    }
    response
}

/// For connections that are not our own listener's.
async fn take_upgraded(
    upgrade: OnUpgrade,
    deadline: Duration,
    take: impl FnOnce(Upgraded, Bytes) -> Option<Driver>,
) {
    let driver = match tokio::time::timeout(deadline, upgrade).await {
        Ok(Ok(upgraded)) => take(Upgraded::new(upgraded), Bytes::new()),
        Ok(Err(error)) => {
            tracing::debug!(%error, "a WebSocket upgrade broke off");
            None
        }
        Err(_) => {
            tracing::debug!("a WebSocket upgrade took too long");
            None
        }
    };
    if let Some(driver) = driver {
        driver.await;
    }
}
