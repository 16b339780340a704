//! The TCP side: HTTP or HTTPS on one port, and the admin endpoints.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener as StdListener, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use http::Request;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt as _;

use super::accept::Peer;
use super::core::Core;
use super::quic::to_canonical;
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

/// Serves until the server stops. With `tls`, HTTPS.
pub(crate) async fn run(
    core: Arc<Core>,
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    app: Router,
) {
    let stopped = core.stopped();
    tokio::pin!(stopped);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = &mut stopped => return,
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
        let peer = Peer { address: to_canonical(address), secure: tls.is_some() };
        let stopped = core.stopped();
        let (tls, app) = (tls.clone(), app.clone());
        tokio::spawn(async move {
            match tls {
                None => serve(stream, peer, app, stopped).await,
                Some(tls) => serve_tls(&tls, stream, peer, app, stopped).await,
            }
        });
    }
}

async fn serve_tls(
    tls: &TlsAcceptor,
    stream: TcpStream,
    peer: Peer,
    app: Router,
    stopped: impl Future<Output = ()>,
) {
    match tokio::time::timeout(TLS_TIMEOUT, tls.accept(stream)).await {
        Ok(Ok(stream)) => serve(stream, peer, app, stopped).await,
        Ok(Err(error)) => tracing::debug!(peer = %peer.address, %error, "a TLS handshake failed"),
        Err(_) => tracing::debug!(peer = %peer.address, "a TLS handshake took too long"),
    }
}

async fn serve<S>(stream: S, peer: Peer, app: Router, stopped: impl Future<Output = ()>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = tower::service_fn(move |mut request: Request<hyper::body::Incoming>| {
        request.extensions_mut().insert(peer);
        app.clone().oneshot(request.map(Body::new))
    });
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
    builder.http2().timer(TokioTimer::new());
    let service = TowerToHyperService::new(service);
    let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
    tokio::pin!(connection, stopped);
    let mut stopping = false;
    loop {
        tokio::select! {
            result = &mut connection => {
                if let Err(error) = result {
                    tracing::debug!(peer = %peer.address, error, "a connection broke");
                }
                return;
            }
            // answers what is under way, then closes
            () = &mut stopped, if !stopping => {
                stopping = true;
                connection.as_mut().graceful_shutdown();
            }
        }
    }
}
