//! WebTransport sessions: from a QUIC packet to a link with its first Engine.IO packet read.

use std::collections::HashMap;
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use http::StatusCode;
use parking_lot::Mutex;
use quinn::crypto::rustls::QuicServerConfig;
use quinn::{EndpointConfig, Incoming, VarInt};

use super::core::{Core, webtransport_handshake};
use super::limits::{Connected, Place};
use super::quic_keys::SharedKeys;
use super::quic_lb::RoutableIds;
use super::quic_runtime::{QuicRuntime, keeping};
use super::registry::Command;
use crate::config::ServerId;
use crate::engine::door::Limit;
use crate::engine::handshake::{FirstPacket, Handshake, HandshakeError, Refusal};
use crate::engine::packet::Packet;
use crate::error::{LinkError, ServeError};
use crate::metrics::Incident;
use crate::transport::http as wire;
use crate::transport::webtransport::carrier::Carrier;
use crate::transport::webtransport::session::Request;
use crate::transport::{Link, WebTransport};

/// Streams that a peer may hold open. Engine.IO needs one of its own beside HTTP/3's, which are the request and
/// "at least three" (RFC 9114 6.2); one more of each can be refused. quinn reserves memory for each that is
/// allowed (DESIGN D9), in a table that is twice as large from the eighth on.
const BIDIRECTIONAL_STREAMS: u32 = 3;
const UNIDIRECTIONAL_STREAMS: u32 = 4;
/// Bytes that a peer may have under way to us on one stream.
const STREAM_WINDOW: u32 = 256 * 1024;
/// Bytes that we keep for a peer that has not acknowledged them.
const SEND_WINDOW: u64 = 512 * 1024;

/// Bytes that may wait for a handshake that nobody has looked at yet, and for all of them: a ClientHello has a
/// few packets, and there is no early data. quinn would keep 10 MiB for each.
const UNSEEN_WINDOW: u64 = 16 * 1024;
const UNSEEN_WINDOW_OF_ALL: u64 = 16 * 1024 * 1024;
/// Bytes of datagrams that are kept, the newest, until they are counted: QUIC must offer them for browsers to speak
/// WebTransport, and nobody wants them.
const DATAGRAM_BUFFER: usize = 64 * 1024;
/// Newcomers are refused at so many times the number of handshakes above which they must prove their address.
const REFUSED_ABOVE: usize = 16;
/// Bytes of a session's first packet, for which nobody is charged yet. It names a session, or nothing.
const FIRST_PACKET: usize = 1024;
/// H3_NO_ERROR (RFC 9114 8.1).
const NO_ERROR: VarInt = VarInt::from_u32(0x100);

/// The UDP side of a server.
#[derive(Debug)]
pub(crate) struct Quic {
    endpoint: quinn::Endpoint,
    pending: Arc<Pending>,
}

impl Quic {
    /// Takes a bound socket.
    pub(crate) fn new(core: &Core, socket: UdpSocket) -> Result<Self, ServeError> {
        let mut config = server_config(core)?;
        let mut endpoint_config = EndpointConfig::default();
        let mut server_id = core.config.webtransport.server_id;
        if let Some(secret) = &core.config.webtransport.reset_key {
            let keys = SharedKeys::new(secret);
            keys.set_server(&mut config);
            keys.set_endpoint(&mut endpoint_config);
            // quinn's own ids are of another length and carry a check that only their process knows: nobody
            // else would take a packet for a lost connection's
            server_id = server_id.or_else(|| Some(ServerId(rand::random())));
        }
        if let Some(server_id) = server_id {
            endpoint_config.cid_generator(move || Box::new(RoutableIds(server_id)));
        }
        let endpoint =
            quinn::Endpoint::new(endpoint_config, Some(config), socket, Arc::new(QuicRuntime));
        let endpoint = endpoint.map_err(|error| ServeError::Certificate(error.to_string()))?;
        Ok(Self { endpoint, pending: Arc::default() })
    }

    pub(crate) fn local_addr(&self) -> io::Result<SocketAddr> {
        self.endpoint.local_addr()
    }

    /// Accepts sessions until the server stops, and then says no to newcomers until it is closed: who hears nothing
    /// asks this node again and again, for as long as it drains.
    pub(crate) async fn run(&self, core: Arc<Core>) {
        let closed = core.closed();
        tokio::pin!(closed);
        loop {
            let incoming = tokio::select! {
                incoming = self.endpoint.accept() => incoming,
                () = &mut closed => return,
            };
            let Some(incoming) = incoming else { return };
            if core.is_stopping() {
                incoming.refuse();
                continue;
            }
            if let Some((slot, incoming)) = Slot::take(&core, &self.pending, incoming) {
                tokio::spawn(serve(core.clone(), slot, incoming));
                // a burst of handshakes, each of which is a third of a millisecond of cryptography, takes turns with
                // sessions, and does not stand before them
                tokio::task::yield_now().await;
            }
        }
    }

    /// Tells all peers that are left, and waits until they know.
    pub(crate) async fn close(&self) {
        self.endpoint.close(NO_ERROR, b"");
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
        .datagram_receive_buffer_size(Some(DATAGRAM_BUFFER))
        // Four probes for each newcomer, and the larger packet doubles a buffer that each connection keeps:
        // not worth it where most packets carry one small event.
        .mtu_discovery_config(None)
        .keep_alive_interval(Some(settings.keep_alive))
        .max_idle_timeout(settings.idle_timeout.try_into().ok())
        .enable_segmentation_offload(settings.segmentation_offload);
    let mut config = quinn::ServerConfig::with_crypto(Arc::new(tls));
    config
        .transport_config(Arc::new(transport))
        .max_incoming(settings.max_pending_handshakes.saturating_mul(REFUSED_ABOVE))
        .incoming_buffer_size(UNSEEN_WINDOW)
        .incoming_buffer_size_total(UNSEEN_WINDOW_OF_ALL);
    Ok(config)
}

/// Handshakes under way; their number decides how trusting the server is.
#[derive(Debug, Default)]
struct Pending(Mutex<Counts>);

#[derive(Debug, Default)]
struct Counts {
    all: usize,
    /// Those of each address: unproven, proven.
    of: HashMap<IpAddr, [usize; 2]>,
}

/// See `webtransport.max_pending_handshakes` and `webtransport.max_pending_handshakes_per_ip`.
#[derive(Clone, Copy)]
struct Most {
    all: usize,
    of_address: usize,
}

/// What to do with a newcomer.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Accept,
    /// The address must be proven first (RFC 9000 8.1.2).
    Retry,
    Refuse(Limit),
}

impl Pending {
    /// Counts a newcomer that is accepted. `address` is a [`crate::config::LimitsConfig::subscriber`]: none of those
    /// of whom many clients may share one.
    fn enter(&self, most: Most, address: Option<IpAddr>, proven: bool) -> Verdict {
        let mut counts = self.0.lock();
        let of = address.and_then(|address| counts.of.get(&address));
        let crowd = of.is_some_and(|of| of[usize::from(proven)] >= most.of_address);
        if counts.all >= most.all.saturating_mul(REFUSED_ABOVE) {
            return Verdict::Refuse(Limit::QuicHandshakes);
        }
        if crowd && proven {
            return Verdict::Refuse(Limit::QuicHandshakesPerIp);
        }
        if !proven && (counts.all >= most.all || crowd) {
            return Verdict::Retry;
        }
        counts.all += 1;
        if let Some(address) = address {
            counts.of.entry(address).or_default()[usize::from(proven)] += 1;
        }
        Verdict::Accept
    }

    fn leave(&self, address: Option<IpAddr>, proven: bool) {
        let mut counts = self.0.lock();
        counts.all -= 1;
        if let Some(address) = address
            && let Some(of) = counts.of.get_mut(&address)
        {
            of[usize::from(proven)] -= 1;
            if *of == [0, 0] {
                counts.of.remove(&address);
            }
        }
    }
}

/// A handshake that is counted until it has become a session, or until nothing is left of it: quinn keeps a
/// connection that has failed for three probe timeouts, which are seconds where nothing was measured, and it
/// is as large as one that lives.
struct Slot {
    pending: Arc<Pending>,
    address: Option<IpAddr>,
    proven: bool,
    counts: AtomicBool,
    /// What is left of the connection counts as one of its address, a session or not: its peer says for how long
    /// quinn remembers it, up to a minute.
    connected: Option<Connected>,
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.release();
    }
}

impl Slot {
    /// Under load, an address must be proven first; far above it, newcomers are refused.
    fn take(core: &Core, pending: &Arc<Pending>, incoming: Incoming) -> Option<(Self, Incoming)> {
        let peer = to_canonical(incoming.remote_address()).ip();
        let address = core.config.limits.subscriber(peer);
        let proven = incoming.remote_address_validated();
        let settings = &core.config.webtransport;
        let most = Most {
            all: settings.max_pending_handshakes,
            of_address: settings.max_pending_handshakes_per_ip,
        };
        match pending.enter(most, address, proven) {
            Verdict::Accept => {
                let (pending, counts) = (pending.clone(), AtomicBool::new(true));
                let mut slot = Self { pending, address, proven, counts, connected: None };
                slot.connected = core.limits.connect(peer).ok();
                if slot.connected.is_some() {
                    return Some((slot, incoming));
                }
                incoming.refuse();
            }
            Verdict::Retry => {
                core.metrics.quic_retries.inc();
                core.limits.note(Incident::Unproven, peer);
                // an error gives it back, and dropping it refuses it
                let _ = incoming.retry();
            }
            Verdict::Refuse(limit) => {
                core.limits.hit(limit, peer);
                incoming.refuse();
            }
        }
        None
    }

    /// It is a handshake no more.
    fn release(&self) {
        if self.counts.swap(false, Ordering::Relaxed) {
            self.pending.leave(self.address, self.proven);
        }
    }
}

/// Has one peer, from its first packet until its session runs.
async fn serve(core: Arc<Core>, slot: Slot, incoming: Incoming) {
    let peer = incoming.remote_address();
    // One deadline for all of it (engine.io server.ts `onWebTransportSession`): the QUIC handshake, the
    // CONNECT request, the stream and its first packet. Whatever is dropped half-way closes the connection.
    let deadline = tokio::time::Instant::now() + core.config.engine.upgrade_timeout;
    let slot = Arc::new(slot);
    let session = async {
        let (connecting, carrier) = keeping(slot.clone(), || incoming.accept());
        let connection = connecting.map_err(|error| error.to_string())?;
        let connection = connection.await.map_err(|error| error.to_string())?;
        accept(&core, connection, carrier).await
    };
    match tokio::time::timeout_at(deadline, session).await {
        Ok(Ok(())) => slot.release(),
        Ok(Err(error)) => tracing::debug!(%peer, error, "no WebTransport session"),
        Err(_) => tracing::debug!(%peer, "a WebTransport handshake took too long"),
    }
}

async fn accept(
    core: &Core,
    connection: quinn::Connection,
    carrier: Option<Arc<Carrier>>,
) -> Result<(), String> {
    let peer = to_canonical(connection.remote_address());
    let max_head = core.config.limits.max_header_bytes;
    let request = Request::read(connection, max_head).await.map_err(|error| {
        if error.is_excess() {
            core.limits.hit(Limit::HeadBytes, peer.ip());
        }
        error.to_string()
    })?;
    if !request.path().starts_with(&core.config.engine.path) {
        request.refuse(StatusCode::NOT_FOUND, None).await;
        return Err("unknown path".into());
    }
    let (path, authority) = (request.path(), request.authority());
    let handshake = webtransport_handshake(path, authority, request.headers(), peer);
    let (handshake, place) = match admit(core, handshake).await {
        Ok(admitted) => admitted,
        Err(refusal) => {
            core.refused(&refusal, peer);
            request.refuse(wire::status_of(&refusal), wire::retry_after(&refusal)).await;
            return Err(refusal.message().to_owned());
        }
    };
    // Some clients of draft 02 wait for this echo; it harms nobody.
    let draft = handshake.header("sec-webtransport-http3-draft02").is_some();
    let echo = draft.then_some(("sec-webtransport-http3-draft", "draft02"));
    let (session, stream) = request.accept(echo).await.map_err(|error| error.to_string())?;
    let max_payload = core.config.engine.max_payload;
    let mut link = WebTransport::new(session, stream, carrier, max_payload.min(FIRST_PACKET));
    let first =
        poll_fn(|cx| link.poll_read(cx)).await.map_err(|error| broken(core, peer, error))?;
    let first = first.ok_or("closed before its first packet")?;
    link.set_max_payload(max_payload);
    let link = Link::WebTransport(Box::new(link));
    match Packet::decode(first) {
        Ok(Packet::Open(data)) => match FirstPacket::read(&data) {
            FirstPacket::Open => {
                core.open(link, handshake, place);
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
        Err(rule) => Err(broken(core, peer, rule.into())),
    }
}

async fn admit(
    core: &Core,
    handshake: Result<Handshake, HandshakeError>,
) -> Result<(Arc<Handshake>, Place), Refusal> {
    let handshake = Arc::new(handshake?);
    let place = core.admit(&handshake).await?;
    Ok((handshake, place))
}

/// There is no session yet that would count the rule.
fn broken(core: &Core, peer: SocketAddr, error: LinkError) -> String {
    if let LinkError::Peer(rule) = error {
        core.limits.misbehaved(rule, peer.ip());
    }
    error.to_string()
}

/// `::ffff:1.2.3.4` as `1.2.3.4`: applications see the same address on every transport.
pub(crate) fn to_canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

#[cfg(test)]
#[path = "quic_tests.rs"]
mod tests;
