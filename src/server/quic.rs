//! WebTransport sessions: from a QUIC packet to a link with its first Engine.IO packet read.

use std::future::poll_fn;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use quinn::crypto::rustls::QuicServerConfig;
use quinn::{EndpointConfig, Incoming, TokioRuntime, VarInt};
use wtransport::endpoint::{IncomingSessionFuture, SessionRequest};

use super::core::{Core, webtransport_handshake};
use super::registry::Command;
use crate::engine::handshake::{FirstPacket, HandshakeError};
use crate::engine::packet::Packet;
use crate::error::{LinkError, ServeError};
use crate::transport::{Link, WebTransport};

/// Streams that a peer may hold open. Engine.IO needs one of its own beside HTTP/3's; quinn reserves
/// memory for each that is allowed (DESIGN D9).
const BIDIRECTIONAL_STREAMS: u32 = 4;
const UNIDIRECTIONAL_STREAMS: u32 = 8;
/// Bytes that a peer may have under way to us on one stream.
const STREAM_WINDOW: u32 = 256 * 1024;
/// Bytes that we keep for a peer that has not acknowledged them.
const SEND_WINDOW: u64 = 512 * 1024;

/// The UDP side of a server.
#[derive(Debug)]
pub(crate) struct Quic {
    endpoint: quinn::Endpoint,
}

impl Quic {
    /// Takes a bound socket.
    pub(crate) fn new(core: &Core, socket: UdpSocket) -> Result<Self, ServeError> {
        let config = server_config(core)?;
        let endpoint = quinn::Endpoint::new(
            EndpointConfig::default(),
            Some(config),
            socket,
            Arc::new(TokioRuntime),
        );
        let endpoint = endpoint.map_err(|error| ServeError::Certificate(error.to_string()))?;
        Ok(Self { endpoint })
    }

    pub(crate) fn local_addr(&self) -> io::Result<SocketAddr> {
        self.endpoint.local_addr()
    }

    /// Accepts sessions until the server stops.
    pub(crate) async fn run(&self, core: Arc<Core>) {
        let pending = Arc::new(AtomicUsize::new(0));
        let stopped = core.stopped();
        tokio::pin!(stopped);
        loop {
            let incoming = tokio::select! {
                incoming = self.endpoint.accept() => incoming,
                () = &mut stopped => return,
            };
            let Some(incoming) = incoming else { return };
            if let Some(slot) = Slot::take(&core, &pending, incoming) {
                tokio::spawn(slot.serve(core.clone()));
            }
        }
    }

    /// Tells all peers that are left, and waits until they know.
    pub(crate) async fn close(&self) {
        self.endpoint.close(VarInt::from_u32(0), b"");
        self.endpoint.wait_idle().await;
    }
}

fn server_config(core: &Core) -> Result<quinn::ServerConfig, ServeError> {
    let settings = &core.config.webtransport;
    let tls = QuicServerConfig::try_from(core.certificates.quic_config())
        .map_err(|error| ServeError::Certificate(error.to_string()))?;
    let mut transport = quinn::TransportConfig::default();
    transport
        .max_concurrent_bidi_streams(BIDIRECTIONAL_STREAMS.into())
        .max_concurrent_uni_streams(UNIDIRECTIONAL_STREAMS.into())
        .stream_receive_window(STREAM_WINDOW.into())
        .receive_window((STREAM_WINDOW * 2).into())
        .send_window(SEND_WINDOW)
        .keep_alive_interval(Some(settings.keep_alive))
        .max_idle_timeout(settings.idle_timeout.try_into().ok())
        .enable_segmentation_offload(settings.segmentation_offload);
    let mut config = quinn::ServerConfig::with_crypto(Arc::new(tls));
    config.transport_config(Arc::new(transport));
    Ok(config)
}

/// A handshake under way; their number decides how trusting the server is.
struct Slot {
    incoming: Incoming,
    pending: Arc<AtomicUsize>,
}

impl Slot {
    /// Under load, an address must be proven first (RFC 9000 8.1.2); far above it, newcomers are refused.
    fn take(core: &Core, pending: &Arc<AtomicUsize>, incoming: Incoming) -> Option<Self> {
        let limit = core.config.webtransport.max_pending_handshakes;
        let now = pending.load(Ordering::Relaxed);
        if now >= limit.saturating_mul(4) {
            core.metrics.handshakes_refused[HandshakeError::Forbidden].inc();
            incoming.refuse();
            return None;
        }
        if now >= limit && !incoming.remote_address_validated() {
            let _ = incoming.retry();
            return None;
        }
        pending.fetch_add(1, Ordering::Relaxed);
        Some(Self { incoming, pending: pending.clone() })
    }

    async fn serve(self, core: Arc<Core>) {
        let Self { incoming, pending } = self;
        let _pending = Pending(pending);
        let peer = incoming.remote_address();
        // One deadline for all of it (engine.io server.ts `onWebTransportSession`): the QUIC handshake, the
        // CONNECT request, the stream and its first packet.
        let deadline = tokio::time::Instant::now() + core.config.engine.upgrade_timeout;
        let session = async {
            let request = IncomingSessionFuture::with_quic_incoming(incoming).await;
            let request = request.map_err(|error| error.to_string())?;
            accept(&core, request).await
        };
        match tokio::time::timeout_at(deadline, session).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%peer, error, "no WebTransport session"),
            Err(_) => tracing::debug!(%peer, "a WebTransport handshake took too long"),
        }
    }
}

struct Pending(Arc<AtomicUsize>);

impl Drop for Pending {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn accept(core: &Core, request: SessionRequest) -> Result<(), String> {
    let peer = to_canonical(request.remote_address());
    let handshake =
        webtransport_handshake(request.path(), request.authority(), request.headers(), peer);
    if !handshake.path().starts_with(&core.config.engine.path) {
        request.not_found().await;
        return Err("unknown path".into());
    }
    let handshake = Arc::new(handshake);
    if let Err(refusal) = core.admit(&handshake).await {
        core.refused(&refusal, peer);
        request.forbidden().await;
        return Err(refusal.message().to_owned());
    }
    // Some clients of draft 02 wait for this echo; it harms nobody.
    let draft = handshake.header("sec-webtransport-http3-draft02").is_some();
    let echo = draft.then_some(("sec-webtransport-http3-draft", "draft02"));
    let connection = request.accept_with_headers(echo).await.map_err(|error| error.to_string())?;
    let stream = connection.accept_bi().await.map_err(|error| error.to_string())?;
    let mut link = WebTransport::new(connection, stream, core.config.engine.max_payload);
    let first = poll_fn(|cx| link.poll_read(cx)).await.map_err(|error| broken(core, error))?;
    let first = first.ok_or("closed before its first packet")?;
    let link = Link::WebTransport(Box::new(link));
    match Packet::decode(first) {
        Ok(Packet::Open(data)) => match FirstPacket::read(&data) {
            FirstPacket::Open => {
                core.open(link, handshake);
                Ok(())
            }
            FirstPacket::Attach(sid) => {
                let session = core.registry.find(&sid).ok_or("unknown sid")?;
                session.send(Command::Attach(link));
                Ok(())
            }
            FirstPacket::Illegal => Err("illegal first packet".into()),
        },
        Ok(_) => Err("the first packet is no OPEN".into()),
        Err(rule) => Err(broken(core, rule.into())),
    }
}

/// There is no session yet that would count the rule.
fn broken(core: &Core, error: LinkError) -> String {
    if let LinkError::Peer(rule) = error {
        core.metrics.peer_misbehaved[rule].inc();
    }
    error.to_string()
}

/// `::ffff:1.2.3.4` as `1.2.3.4`: applications see the same address on every transport.
pub(crate) fn to_canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
