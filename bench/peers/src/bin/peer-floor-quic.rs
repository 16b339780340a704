//! The floor under a WebTransport fan-out, of the kind that `peer-floor` is for WebSocket: one thread, one
//! socket, frames built once, one `send` for each delivery, and between them nothing but QUIC itself
//! (`quinn-proto`, the protocol without tasks, locks or timers of its own). No limits, no heartbeat, no
//! answer to a wrong peer; HTTP/3 is answered without being read. A yardstick only.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io::{ErrorKind, IoSliceMut};
use std::net::UdpSocket;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use mio::{Events, Interest, Poll, Token};
use quicket_bench_peers::{frame, framed};
use quinn_proto::crypto::rustls::QuicServerConfig;
use quinn_proto::{
    Connection, ConnectionHandle, DatagramEvent, Dir, Endpoint, EndpointConfig, Incoming,
    ServerConfig, StreamId, TransportConfig,
};
use quinn_udp::{BATCH_SIZE, EcnCodepoint, RecvMeta, UdpSockRef, UdpSocketState};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

/// Our control stream: its type, and SETTINGS with what WebTransport asks for (extended CONNECT, datagrams,
/// WebTransport of draft 02, one session).
const CONTROL: &[u8] = &[
    0x00, 0x04, 0x12, 0x08, 0x01, 0x33, 0x01, 0xab, 0x60, 0x37, 0x42, 0x01, 0xc0, 0x00, 0x00, 0x00,
    0xc6, 0x71, 0x70, 0x6a, 0x01,
];
/// A HEADERS frame with `:status: 200` of QPACK's static table.
const ACCEPTED: &[u8] = &[0x01, 0x03, 0x00, 0x00, 0xd9];
/// What a client's stream of a session begins with: its kind, and the id of the session, which is the first.
const STREAM_HEADER: usize = 3;

const OPEN: &[u8] =
    b"0{\"sid\":\"floor\",\"upgrades\":[],\"pingInterval\":3000000,\"pingTimeout\":3000000,\
    \"maxPayload\":4000000}";

struct Peer {
    connection: Connection,
    /// The stream that carries Engine.IO.
    stream: Option<StreamId>,
    /// Its header has been taken off.
    begun: bool,
    partial: Vec<u8>,
    /// What the stream did not take.
    unsent: Vec<u8>,
    joined: bool,
    /// The earliest that `Floor::timers` has for this connection.
    timer: Option<Instant>,
}

struct Floor {
    socket: mio::net::UdpSocket,
    state: UdpSocketState,
    endpoint: Endpoint,
    /// At the places that quinn gives its connections.
    peers: Vec<Option<Peer>>,
    timers: BinaryHeap<Reverse<(Instant, usize)>>,
    out: Vec<u8>,
}

fn main() -> anyhow::Result<()> {
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    println!("listening on {}", socket.local_addr()?);
    let state = UdpSocketState::new(UdpSockRef::from(&socket))?;
    let mut socket = mio::net::UdpSocket::from_std(socket);
    let mut poll = Poll::new()?;
    poll.registry().register(&mut socket, Token(0), Interest::READABLE)?;
    let endpoint =
        Endpoint::new(Arc::new(EndpointConfig::default()), Some(Arc::new(config()?)), true, None);
    let (peers, timers, out) = (Vec::new(), BinaryHeap::new(), Vec::new());
    let mut floor = Floor { socket, state, endpoint, peers, timers, out };
    let mut events = Events::with_capacity(1);
    // as many packets at once, and as large, as quinn asks for
    let mut buffers = vec![vec![0; 64 * 1500]; BATCH_SIZE];
    loop {
        let timeout = floor
            .timers
            .peek()
            .map(|Reverse((at, _))| at.saturating_duration_since(Instant::now()));
        match poll.poll(&mut events, timeout.map(|timeout| timeout + Duration::from_micros(1))) {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            other => other?,
        }
        floor.receive(&mut buffers)?;
        floor.expire();
    }
}

/// As `quicket` has it: no discovery of the MTU, and quinn's defaults.
fn config() -> anyhow::Result<ServerConfig> {
    let made =
        rcgen::generate_simple_self_signed(["localhost".to_owned(), "127.0.0.1".to_owned()])?;
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)?;
    tls.alpn_protocols = vec![b"h3".to_vec()];
    tls.max_early_data_size = u32::MAX;
    let mut transport = TransportConfig::default();
    transport.mtu_discovery_config(None).max_idle_timeout(None);
    let mut config = ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls)?));
    config.transport_config(Arc::new(transport));
    Ok(config)
}

impl Floor {
    /// Takes all packets that have come, batch after batch.
    fn receive(&mut self, buffers: &mut [Vec<u8>]) -> anyhow::Result<()> {
        let mut metas = [RecvMeta::default(); BATCH_SIZE];
        loop {
            let mut slices: Vec<_> =
                buffers.iter_mut().map(|buffer| IoSliceMut::new(buffer)).collect();
            let received = self.state.recv(UdpSockRef::from(&self.socket), &mut slices, &mut metas);
            let count = match received {
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                other => other?,
            };
            for (meta, buffer) in metas[..count].iter().zip(buffers.iter()) {
                for packet in buffer[..meta.len].chunks(meta.stride) {
                    self.packet(meta, packet);
                }
            }
        }
    }

    fn packet(&mut self, meta: &RecvMeta, packet: &[u8]) {
        let now = Instant::now();
        let ecn = meta.ecn.and_then(|ecn| quinn_proto::EcnCodepoint::from_bits(ecn as u8));
        let mut answer = std::mem::take(&mut self.out);
        answer.clear();
        let event =
            self.endpoint.handle(now, meta.addr, meta.dst_ip, ecn, packet.into(), &mut answer);
        self.out = answer;
        match event {
            Some(DatagramEvent::ConnectionEvent(handle, event)) => {
                let Some(peer) = self.peer(handle) else { return };
                peer.connection.handle_event(event);
                self.serve(handle);
            }
            Some(DatagramEvent::NewConnection(incoming)) => self.accept(incoming, now),
            Some(DatagramEvent::Response(transmit)) => self.send(&transmit),
            None => {}
        }
    }

    fn accept(&mut self, incoming: Incoming, now: Instant) {
        let mut answer = Vec::new();
        let Ok((handle, mut connection)) = self.endpoint.accept(incoming, now, &mut answer, None)
        else {
            return;
        };
        if let Some(control) = connection.streams().open(Dir::Uni) {
            connection.send_stream(control).write(CONTROL).ok();
        }
        let (partial, unsent) = (Vec::new(), Vec::new());
        let (stream, begun, joined, timer) = (None, false, false, None);
        if self.peers.len() <= handle.0 {
            self.peers.resize_with(handle.0 + 1, || None);
        }
        self.peers[handle.0] =
            Some(Peer { connection, stream, begun, partial, unsent, joined, timer });
        self.serve(handle);
    }

    /// Does what a packet, or its time, has brought to a connection.
    fn serve(&mut self, handle: ConnectionHandle) {
        let Some(peer) = self.peer(handle) else { return };
        while peer.connection.poll().is_some() {}
        while let Some(stream) = peer.connection.streams().accept(Dir::Bi) {
            if stream.index() == 0 {
                peer.connection.send_stream(stream).write(ACCEPTED).ok();
            } else {
                peer.stream = Some(stream);
            }
        }
        for payload in peer.read() {
            match &payload[..] {
                b"0" => self.write(handle, framed(OPEN)),
                [b'4', b'0', ..] => {
                    if let Some(peer) = self.peer(handle) {
                        peer.joined = true;
                    }
                    self.write(
                        handle,
                        framed(format!("40{{\"sid\":\"{}\"}}", handle.0).as_bytes()),
                    );
                }
                [b'4', b'2', ..] => {
                    let (out, all) = (framed(&payload), self.joined(handle));
                    for other in all {
                        self.write(other, out.clone());
                        self.drive(other);
                    }
                }
                _ => {}
            }
        }
        self.drive(handle);
    }

    fn joined(&self, but: ConnectionHandle) -> Vec<ConnectionHandle> {
        let joined = |peer: &Option<Peer>| peer.as_ref().is_some_and(|peer| peer.joined);
        let all = self.peers.iter().enumerate().filter(|(at, peer)| *at != but.0 && joined(peer));
        all.map(|(at, _)| ConnectionHandle(at)).collect()
    }

    fn peer(&mut self, handle: ConnectionHandle) -> Option<&mut Peer> {
        self.peers.get_mut(handle.0)?.as_mut()
    }

    fn write(&mut self, to: ConnectionHandle, bytes: Bytes) {
        let Some(peer) = self.peer(to) else { return };
        let Some(stream) = peer.stream else { return };
        let mut stream = peer.connection.send_stream(stream);
        if peer.unsent.is_empty() {
            let written = stream.write(&bytes).unwrap_or(0);
            peer.unsent.extend_from_slice(&bytes[written..]);
        } else {
            peer.unsent.extend_from_slice(&bytes);
            let written = stream.write(&peer.unsent).unwrap_or(0);
            peer.unsent.drain(..written);
        }
    }

    /// Sends what a connection has to send, and sets its timer.
    fn drive(&mut self, handle: ConnectionHandle) {
        let Some(peer) = self.peers.get_mut(handle.0).and_then(Option::as_mut) else { return };
        while let Some(event) = peer.connection.poll_endpoint_events() {
            if event.is_drained() {
                self.endpoint.handle_event(handle, event);
                self.peers[handle.0] = None;
                return;
            }
            if let Some(event) = self.endpoint.handle_event(handle, event) {
                peer.connection.handle_event(event);
            }
        }
        let mut out = std::mem::take(&mut self.out);
        let now = Instant::now();
        loop {
            out.clear();
            let Some(peer) = self.peer(handle) else { return };
            let Some(transmit) = peer.connection.poll_transmit(now, 1, &mut out) else { break };
            self.out = out;
            self.send(&transmit);
            out = std::mem::take(&mut self.out);
        }
        self.out = out;
        let Some(peer) = self.peers.get_mut(handle.0).and_then(Option::as_mut) else { return };
        if let Some(at) = peer.connection.poll_timeout()
            && peer.timer.is_none_or(|timer| at < timer)
        {
            peer.timer = Some(at);
            self.timers.push(Reverse((at, handle.0)));
        }
    }

    fn send(&self, transmit: &quinn_proto::Transmit) {
        let sent = self.state.try_send(
            UdpSockRef::from(&self.socket),
            &quinn_udp::Transmit {
                destination: transmit.destination,
                ecn: transmit.ecn.and_then(|ecn| EcnCodepoint::from_bits(ecn as u8)),
                contents: &self.out[..transmit.size],
                segment_size: transmit.segment_size,
                src_ip: transmit.src_ip,
            },
        );
        // what the socket does not take is lost, and QUIC repeats it
        sent.ok();
    }

    fn expire(&mut self) {
        let now = Instant::now();
        while let Some(Reverse((at, handle))) = self.timers.peek().copied()
            && at <= now
        {
            self.timers.pop();
            let handle = ConnectionHandle(handle);
            let Some(peer) = self.peer(handle) else { continue };
            if peer.timer.is_some_and(|timer| timer != at) {
                continue; // an earlier one was set since, and has come
            }
            peer.timer = None;
            if peer.connection.poll_timeout().is_some_and(|due| due <= now) {
                peer.connection.handle_timeout(now);
            }
            self.drive(handle);
        }
    }
}

impl Peer {
    /// The whole frames that have come.
    fn read(&mut self) -> Vec<Vec<u8>> {
        let Some(stream) = self.stream else { return Vec::new() };
        let mut recv = self.connection.recv_stream(stream);
        let Ok(mut chunks) = recv.read(true) else { return Vec::new() };
        while let Ok(Some(chunk)) = chunks.next(usize::MAX) {
            self.partial.extend_from_slice(&chunk.bytes);
        }
        let _ = chunks.finalize();
        if !self.begun && self.partial.len() >= STREAM_HEADER {
            self.partial.drain(..STREAM_HEADER);
            self.begun = true;
        }
        let mut all = Vec::new();
        let mut done = 0;
        while self.begun
            && let Some((payload, len)) = frame(&self.partial[done..])
        {
            all.push(payload.to_vec());
            done += len;
        }
        self.partial.drain(..done);
        all
    }
}
