//! The TCP side: HTTP or HTTPS on one port, and the admin endpoints.

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener as StdListener, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use futures_util::FutureExt as _;
use futures_util::future::Either;
use http::{Method, Request, Response, Version};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tower::{Service, ServiceExt as _};

use super::accept::{self, Peer};
use super::core::Core;
use super::descriptors::{Gate, Pass};
use super::driver::Driver;
use super::handover::{Handover, Life, Wire};
use super::http2;
use super::limits::Connected;
use super::quic::to_canonical;
use crate::engine::door::Limit;
use crate::error::ServeError;
use crate::metrics::Incident;
use crate::transport::http::Stream;

/// Connections that wait to be accepted; a deploy brings thousands at once.
const BACKLOG: i32 = 4096;
/// A connection without a request for so long is closed. Above one heartbeat (25 s + 20 s) and the usual
/// 60 s of proxies, so that these close first.
pub(super) const HEADER_TIMEOUT: Duration = Duration::from_secs(65);
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
    /// Answers when there are too many connections, or file descriptors run out. None: whoever comes is served from
    /// the reserve, and not counted.
    pub(super) full: Option<Router>,
}

/// Newcomers taken in one piece. Before the next ones everybody else has a turn, or sessions would wait behind a whole
/// burst: each of these is a tenth of a millisecond of work. A yield after each of them costs half as much again as
/// what becomes a session by WebSocket, and next to nothing beside a handshake of TLS.
const NEWCOMERS: u32 = 8;

/// Serves until the server is closed, and then until what is under way has been answered, for a moment.
pub(super) async fn run(core: Arc<Core>, Served { listener, tls, app, full }: Served) {
    let gate = Gate::new();
    let app = App { engine: full.as_ref().map(|_| core.clone()), routes: app };
    let engine = &core.config.engine;
    let stall = engine.ping_interval + engine.ping_timeout;
    prepare(&listener, stall);
    let at_once = if tls.is_some() { 1 } else { NEWCOMERS };
    let closed = core.closed();
    tokio::pin!(closed);
    // every connection holds a sender: the channel ends with the last one
    let (alive, mut all_gone) = mpsc::channel::<()>(1);
    let mut taken = 0;
    loop {
        if taken == at_once {
            taken = 0;
            tokio::task::yield_now().await;
        }
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
        taken += 1;
        configure(&stream, stall);
        let peer = Peer { address: to_canonical(address), secure: tls.is_some() };
        // the admin port is for those who run the server
        let (connected, pass) = match full {
            Some(_) => let_in(&core, &gate, &stream, peer.address.ip()),
            None => (None, Pass::Serve),
        };
        let handover = Handover::new(connected);
        let guest = Guest { peer, handover, head_max: core.config.limits.max_header_bytes, stall };
        let (tls, closed, alive) = (tls.clone(), core.closed(), alive.clone());
        match (pass, &full) {
            (Pass::Refuse(permit), Some(full)) => {
                let app = App { engine: None, routes: full.clone() };
                tokio::spawn(Life::Http(Box::pin(async move {
                    let refused = serve(tls, stream, guest, app, closed);
                    let _ = tokio::time::timeout(REFUSAL, refused).await;
                    drop((permit, alive));
                    None
                })));
            }
            (Pass::Drop, _) => {}
            _ => {
                let app = app.clone();
                tokio::spawn(Life::Http(Box::pin(async move {
                    let session = serve(tls, stream, guest, app, closed).await;
                    drop(alive);
                    session
                })));
            }
        }
    }
    drop((listener, alive));
    let _ = tokio::time::timeout(LAST_ANSWERS, all_gone.recv()).await;
}

/// Counts a newcomer, and says what becomes of it.
fn let_in(core: &Core, gate: &Gate, stream: &TcpStream, peer: IpAddr) -> (Option<Connected>, Pass) {
    let connected = match core.limits.connect(peer) {
        Ok(connected) => connected,
        Err(Limit::Connections) => return (None, gate.refuse()),
        // without the work of saying why
        Err(_) => return (None, Pass::Drop),
    };
    let pass = gate.pass(stream);
    if !matches!(pass, Pass::Serve) {
        core.metrics.descriptors.refused.inc();
        core.limits.note(Incident::Descriptors, peer);
    }
    (Some(connected), pass)
}

/// Sets the options of all connections on the listener, from which Linux copies them: two calls less for each.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn prepare(listener: &TcpListener, stall: Duration) {
    set_options(SockRef::from(listener), stall);
}

#[cfg(any(target_os = "linux", target_os = "android"))]
fn configure(_: &TcpStream, _: Duration) {}

/// Other systems may copy them or not.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn prepare(_: &TcpListener, _: Duration) {}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn configure(stream: &TcpStream, stall: Duration) {
    set_options(SockRef::from(stream), stall);
}

/// No failure matters: they are no more than better.
fn set_options(socket: SockRef<'_>, stall: Duration) {
    // small packets are what this server sends
    let _ = socket.set_tcp_nodelay(true);
    limit_stall(&socket, stall);
    limit_unsent(&socket);
}

/// Bytes that the system takes of us before a peer has room for them. It would be megabytes, for each
/// peer that does not read: what waits is to be in the outbox, where its bound, and what may be dropped, are known.
#[cfg(any(target_os = "linux", target_os = "android"))]
const MAX_UNSENT: u32 = 128 * 1024;

#[cfg(any(target_os = "linux", target_os = "android"))]
fn limit_unsent(socket: &SockRef<'_>) {
    let _ = socket.set_tcp_notsent_lowat(MAX_UNSENT);
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn limit_unsent(_: &SockRef<'_>) {}

/// Lets the system cut off a peer that has taken nothing of what waits for it for so long. A session has its
/// heartbeat; for an answer of HTTP, whose reader may hold megabytes of ours, there is nothing else.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn limit_stall(socket: &SockRef<'_>, after: Duration) {
    let _ = socket.set_tcp_user_timeout(Some(after));
}

/// Other systems have no such limit.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn limit_stall(_: &SockRef<'_>, _: Duration) {}

/// Who is at the other end of a connection.
#[derive(Clone)]
struct Guest {
    peer: Peer,
    handover: Arc<Handover>,
    /// The bytes that a request's head may have.
    head_max: usize,
    /// How long it may take nothing of what waits for it.
    stall: Duration,
}

impl Guest {
    fn head_too_large(&self) {
        if let Some(connected) = self.handover.connected() {
            connected.hit(Limit::HeadBytes, self.peer.address.ip());
        }
    }
}

/// What a connection is served.
#[derive(Clone)]
struct App {
    /// Takes requests to the protocol's path past the routes, which know it as well: they cost a tenth of what
    /// a client costs that comes and goes.
    engine: Option<Arc<Core>>,
    routes: Router,
}

/// The session that the connection is to go on as, if any.
async fn serve(
    tls: Option<TlsAcceptor>,
    stream: TcpStream,
    guest: Guest,
    app: App,
    closed: impl Future<Output = ()> + Send,
) -> Option<Driver> {
    match tls {
        None => serve_plain(stream, guest, app, closed).await,
        // large, and not to be paid for by those without
        Some(tls) => Box::pin(serve_tls(&tls, stream, guest, app, closed)).await,
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
    app: App,
    closed: impl Future<Output = ()> + Send,
) -> Option<Driver> {
    let stream = match tokio::time::timeout(TLS_TIMEOUT, tls.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            tracing::debug!(peer = %guest.peer.address, %error, "a TLS handshake failed");
            return None;
        }
        Err(_) => {
            tracing::debug!(peer = %guest.peer.address, "a TLS handshake took too long");
            return None;
        }
    };
    if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
        let (service, noticed) = (service(guest.clone(), app), guest.clone());
        let bounds = http2::Bounds { head: guest.head_max, stall: guest.stall };
        let too_large = move || noticed.head_too_large();
        let result = http2::serve(stream, service, bounds, too_large, closed).await;
        log_end(&guest, result);
        None
    } else {
        serve_plain(stream, guest, app, closed).await
    }
}

/// HTTP/1.1. Chosen outright, since guessing the version would wait for its first byte without a deadline,
/// and no browser speaks HTTP/2 without TLS.
async fn serve_plain<S: Stream>(
    stream: S,
    guest: Guest,
    app: App,
    closed: impl Future<Output = ()>,
) -> Option<Driver> {
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(guest.head_max);
    let stream = TokioIo::new(Wire::new(stream, guest.handover.clone()));
    let connection = builder.serve_connection(stream, service(guest.clone(), app));
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
    guest.handover.complete::<S>()
}

/// Answers what is under way, then closes. A connection on which half a request has come, or nothing yet,
/// would wait for the rest of it.
pub(super) async fn last_answers(
    connection: impl Future<Output = hyper::Result<()>>,
) -> hyper::Result<()> {
    tokio::time::timeout(LAST_ANSWERS, connection).await.unwrap_or(Ok(()))
}

fn log_end(guest: &Guest, result: hyper::Result<()>) {
    if let Err(error) = result {
        if error.is_parse_too_large() {
            guest.head_too_large();
        }
        tracing::debug!(peer = %guest.peer.address, %error, "a connection broke");
    }
}

/// The application, with the peer's address in every request, and what the connection is.
fn service(
    guest: Guest,
    app: App,
) -> TowerToHyperService<
    impl Service<
        Request<Incoming>,
        Response = Response<Body>,
        Error = Infallible,
        Future: Send + 'static,
    > + Clone,
> {
    TowerToHyperService::new(tower::service_fn(move |request: Request<Incoming>| {
        let mut request = request.map(Body::new);
        let peer = guest.peer;
        // a connection of HTTP/2 stays one
        let is_own = request.version() < Version::HTTP_2;
        let handover = is_own.then(|| guest.handover.clone());
        if let Some(core) = &app.engine
            && request.uri().path() == core.config.engine.path
            && [Method::GET, Method::POST].contains(request.method())
        {
            let answer = accept::handle(core.clone(), peer, handover, request);
            return Either::Left(answer.map(Ok));
        }
        request.extensions_mut().insert(peer);
        handover.map(|handover| request.extensions_mut().insert(handover));
        Either::Right(app.routes.clone().oneshot(request))
    }))
}

#[cfg(target_os = "linux")]
#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn connections_have_the_options_of_their_listener() {
        let (listener, _) = bind("127.0.0.1:0".parse().unwrap(), false).unwrap();
        let listener = TcpListener::from_std(listener).unwrap();
        prepare(&listener, Duration::from_secs(45));
        let _client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        configure(&stream, Duration::from_secs(45));
        let socket = SockRef::from(&stream);
        assert!(socket.tcp_nodelay().unwrap());
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(Duration::from_secs(45)));
        assert_eq!(socket.tcp_notsent_lowat().unwrap(), MAX_UNSENT);
    }

    /// What the system keeps of a peer that does not read is bounded, however much it would.
    #[tokio::test]
    async fn what_a_peer_does_not_take_waits_here_and_not_in_the_system() {
        let (listener, _) = bind("127.0.0.1:0".parse().unwrap(), false).unwrap();
        let listener = TcpListener::from_std(listener).unwrap();
        prepare(&listener, Duration::from_secs(45));
        let client = tokio::net::TcpSocket::new_v4().unwrap();
        let window = 16 * 1024;
        client.set_recv_buffer_size(window).unwrap();
        let _client = client.connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        stream.writable().await.unwrap();
        let (mut taken, piece) = (0, [0; 1024]);
        while let Ok(bytes) = stream.try_write(&piece) {
            taken += bytes;
        }
        assert!(taken <= (MAX_UNSENT + 4 * window) as usize, "{taken} bytes");
    }
}
