//! The TCP side: HTTP or HTTPS on one port, and the admin endpoints.

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener as StdListener, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
#[cfg(any(target_os = "linux", target_os = "android"))]
use socket2::SockRef;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tower::{Service, ServiceExt as _};

use super::accept::Peer;
use super::core::Core;
use super::descriptors::{Gate, Pass};
use super::limits::Connected;
use super::quic::to_canonical;
use crate::engine::door::Limit;
use crate::error::ServeError;

/// Connections that wait to be accepted; a deploy brings thousands at once.
const BACKLOG: i32 = 4096;
/// A connection without a request for so long is closed. Above one heartbeat (25 s + 20 s) and the usual
/// 60 s of proxies, so that these close first.
const HEADER_TIMEOUT: Duration = Duration::from_secs(65);
const TLS_TIMEOUT: Duration = Duration::from_secs(10);
/// Pause after the system refused to accept (no file descriptors left), instead of a hot loop.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Binds TCP, and UDP on the same port where QUIC is wanted. Port 0 takes a port that is free on both.
pub(crate) fn bind(
    address: SocketAddr,
    udp: bool,
) -> Result<(StdListener, Option<UdpSocket>), ServeError> {
    const TRIES: usize = 20;
    let mut tries = if address.port() == 0 { TRIES } else { 1 };
    loop {
        let tcp = bind_one(address, Type::STREAM, Protocol::TCP)
            .and_then(|socket| socket.listen(BACKLOG).map(|()| StdListener::from(socket)))
            .map_err(|source| ServeError::Bind { address, protocol: "tcp", source })?;
        if !udp {
            return Ok((tcp, None));
        }
        let bound = tcp.local_addr();
        let bound =
            bound.map_err(|source| ServeError::Bind { address, protocol: "tcp", source })?;
        match bind_one(bound, Type::DGRAM, Protocol::UDP) {
            Ok(socket) => return Ok((tcp, Some(socket.into()))),
            Err(source) => {
                tries -= 1;
                if tries == 0 {
                    return Err(ServeError::Bind { address: bound, protocol: "udp", source });
                }
            }
        }
    }
}

/// Binds UDP only.
pub(crate) fn bind_udp(address: SocketAddr) -> Result<UdpSocket, ServeError> {
    bind_one(address, Type::DGRAM, Protocol::UDP)
        .map(UdpSocket::from)
        .map_err(|source| ServeError::Bind { address, protocol: "udp", source })
}

fn bind_one(address: SocketAddr, kind: Type, protocol: Protocol) -> io::Result<Socket> {
    match bind_exactly(address, kind, protocol) {
        // a machine without IPv6 still serves IPv4
        Err(error)
            if address.ip() == IpAddr::from([0u16; 8])
                && matches!(
                    error.kind(),
                    io::ErrorKind::Unsupported | io::ErrorKind::AddrNotAvailable
                ) =>
        {
            let address = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), address.port());
            bind_exactly(address, kind, protocol)
        }
        result => result,
    }
}

fn bind_exactly(address: SocketAddr, kind: Type, protocol: Protocol) -> io::Result<Socket> {
    let socket =
        Socket::new(Domain::for_address(address), kind, Some(protocol)).map_err(|error| {
            // EAFNOSUPPORT has no kind of its own
            match error.raw_os_error() {
                Some(97) => io::Error::new(io::ErrorKind::Unsupported, error),
                _ => error,
            }
        })?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    if kind == Type::STREAM {
        socket.set_reuse_address(true)?;
    } else {
        // a burst of handshakes or acknowledgements must not be lost; the system may grant less
        let _ = socket.set_recv_buffer_size(UDP_BUFFER);
        let _ = socket.set_send_buffer_size(UDP_BUFFER);
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

/// quic-go and quinn both advise about this much.
const UDP_BUFFER: usize = 4 * 1024 * 1024;

/// What a listener serves.
pub(super) struct Served {
    pub(super) listener: TcpListener,
    /// With it, HTTPS.
    pub(super) tls: Option<TlsAcceptor>,
    pub(super) app: Router,
    /// Answers when file descriptors run out. None: whoever comes is served from the reserve.
    pub(super) full: Option<Router>,
}

/// Serves until the server is closed, and then until what is under way has been answered, for a moment.
pub(super) async fn run(core: Arc<Core>, Served { listener, tls, app, full }: Served) {
    let gate = Gate::new();
    let closed = core.closed();
    tokio::pin!(closed);
    // every connection holds a sender: the channel ends with the last one
    let (alive, mut all_gone) = mpsc::channel::<()>(1);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = &mut closed => break,
        };
        let (stream, address) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        // small packets are what this server sends
        let _ = stream.set_nodelay(true);
        let engine = &core.config.engine;
        limit_stall(&stream, engine.ping_interval + engine.ping_timeout);
        let peer = Peer { address: to_canonical(address), secure: tls.is_some() };
        // the admin port is for those who run the server
        let counted = full.as_ref().map(|_| core.limits.connect(peer.address.ip()));
        let connected = match counted {
            Some(None) => continue, // closed, without the work of saying why
            Some(connected) => connected.map(Arc::new),
            None => None,
        };
        let guest = Guest { peer, connected, head_max: core.config.limits.max_header_bytes };
        let (tls, closed, alive) = (tls.clone(), core.closed(), alive.clone());
        let pass = full.as_ref().map_or(Pass::Serve, |_| gate.pass(&stream));
        if !matches!(pass, Pass::Serve) {
            core.metrics.descriptors.refused.inc();
        }
        match (pass, &full) {
            (Pass::Refuse(permit), Some(full)) => {
                let full = full.clone();
                tokio::spawn(async move {
                    let refused = serve(tls, stream, guest, full, closed);
                    let _ = tokio::time::timeout(REFUSAL, refused).await;
                    drop((permit, alive));
                });
            }
            (Pass::Drop, _) => {}
            _ => {
                let app = app.clone();
                tokio::spawn(async move {
                    serve(tls, stream, guest, app, closed).await;
                    drop(alive);
                });
            }
        }
    }
    drop((listener, alive));
    let _ = tokio::time::timeout(LAST_ANSWERS, all_gone.recv()).await;
}

/// Lets the system cut off a peer that has taken nothing of what waits for it for so long. A session has its
/// heartbeat; for an answer of HTTP, whose reader may hold megabytes of ours, there is nothing else.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn limit_stall(stream: &TcpStream, after: Duration) {
    // it fails for a connection that has ended already
    let _ = SockRef::from(stream).set_tcp_user_timeout(Some(after));
}

/// Other systems have no such limit.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn limit_stall(_: &TcpStream, _: Duration) {}

/// Who is at the other end of a connection.
#[derive(Clone)]
struct Guest {
    peer: Peer,
    /// Counts the connection; the admin port has none.
    connected: Option<Arc<Connected>>,
    /// The bytes that a request's head may have.
    head_max: usize,
}

async fn serve(
    tls: Option<TlsAcceptor>,
    stream: TcpStream,
    guest: Guest,
    app: Router,
    closed: impl Future<Output = ()>,
) {
    match tls {
        None => serve_plain(stream, guest, app, closed).await,
        Some(tls) => serve_tls(&tls, stream, guest, app, closed).await,
    }
}

/// How long a connection may take that is refused.
const REFUSAL: Duration = Duration::from_secs(2);
/// How long responses that are under way may take at the end.
const LAST_ANSWERS: Duration = Duration::from_secs(1);

async fn serve_tls(
    tls: &TlsAcceptor,
    stream: TcpStream,
    guest: Guest,
    app: Router,
    closed: impl Future<Output = ()>,
) {
    let stream = match tokio::time::timeout(TLS_TIMEOUT, tls.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            tracing::debug!(peer = %guest.peer.address, %error, "a TLS handshake failed");
            return;
        }
        Err(_) => {
            tracing::debug!(peer = %guest.peer.address, "a TLS handshake took too long");
            return;
        }
    };
    if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
        serve_http2(stream, guest, app, closed).await;
    } else {
        serve_plain(stream, guest, app, closed).await;
    }
}

/// HTTP/1.1. Chosen outright, since guessing the version would wait for its first byte without a deadline,
/// and no browser speaks HTTP/2 without TLS.
async fn serve_plain<S>(stream: S, guest: Guest, app: Router, closed: impl Future<Output = ()>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(guest.head_max);
    let connection = builder.serve_connection(TokioIo::new(stream), service(guest.clone(), app));
    let connection = connection.with_upgrades();
    tokio::pin!(connection, closed);
    let result = tokio::select! {
        result = &mut connection => result,
        () = &mut closed => {
            connection.as_mut().graceful_shutdown();
            last_answers(connection).await
        }
    };
    log_end(&guest, result);
}

async fn serve_http2<S>(stream: S, guest: Guest, app: Router, closed: impl Future<Output = ()>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .keep_alive_interval(HTTP2_PING)
        .keep_alive_timeout(HTTP2_PING)
        .max_header_list_size(u32::try_from(guest.head_max).unwrap_or(u32::MAX));
    let connection = builder.serve_connection(TokioIo::new(stream), service(guest.clone(), app));
    tokio::pin!(connection, closed);
    let result = tokio::select! {
        result = &mut connection => result,
        () = &mut closed => {
            connection.as_mut().graceful_shutdown();
            last_answers(connection).await
        }
    };
    log_end(&guest, result);
}

/// Answers what is under way, then closes. A connection on which half a request has come, or nothing yet,
/// would wait for the rest of it.
async fn last_answers(connection: impl Future<Output = hyper::Result<()>>) -> hyper::Result<()> {
    tokio::time::timeout(LAST_ANSWERS, connection).await.unwrap_or(Ok(()))
}

/// A peer that answers no ping within this time is gone.
const HTTP2_PING: Duration = Duration::from_secs(20);

fn log_end(guest: &Guest, result: hyper::Result<()>) {
    if let Err(error) = result {
        if let Some(connected) = guest.connected.as_ref().filter(|_| error.is_parse_too_large()) {
            connected.hit(Limit::HeadBytes, guest.peer.address.ip());
        }
        tracing::debug!(peer = %guest.peer.address, %error, "a connection broke");
    }
}

/// The application, with the peer's address in every request, and what counts the connection.
fn service(
    guest: Guest,
    app: Router,
) -> TowerToHyperService<
    impl Service<
        Request<Incoming>,
        Response = Response<Body>,
        Error = Infallible,
        Future: Send + 'static,
    > + Clone,
> {
    TowerToHyperService::new(tower::service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(guest.peer);
        if let Some(connected) = &guest.connected {
            request.extensions_mut().insert(connected.clone());
        }
        app.clone().oneshot(request.map(Body::new))
    }))
}
