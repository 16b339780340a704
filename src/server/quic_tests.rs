use std::net::Ipv4Addr;
use std::time::{Duration, SystemTime};

use quinn::{RecvStream, SendStream};
use tokio::sync::{Semaphore, mpsc};
use wtransport::tls::Sha256Digest;

use super::*;
use crate::config::{Config, LimitsConfig};
use crate::engine::NodeTag;
use crate::engine::packet::Message;
use crate::error::CloseReason;
use crate::metrics::Metrics;
use crate::server::core::{AdmitFn, Phase, Protocol};
use crate::server::listen::bind_udp;
use crate::server::raw::EngineSocket;
use crate::transport::tls::{Certificates, Source};

/// Long enough for anything that is not waited for.
const SOON: Duration = Duration::from_secs(5);
/// Handshake deadline where it is to pass.
const SHORT: Duration = Duration::from_millis(300);

/// An echo server, which tells why its sessions ended.
struct Echo {
    core: Arc<Core>,
    quic: Arc<Quic>,
    ends: tokio::sync::Mutex<mpsc::UnboundedReceiver<CloseReason>>,
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.core.advance(Phase::Closed);
    }
}

impl Echo {
    fn start(upgrade_timeout: Duration) -> Self {
        Self::with(upgrade_timeout, None)
    }

    fn with(upgrade_timeout: Duration, admit: Option<Box<AdmitFn>>) -> Self {
        let mut config = Config::default();
        config.engine.upgrade_timeout = upgrade_timeout;
        Self::on(config, admit)
    }

    fn on(config: Config, admit: Option<Box<AdmitFn>>) -> Self {
        let certificates = Certificates::load(Source::SelfSigned, SystemTime::now()).unwrap();
        let (tell, ends) = mpsc::unbounded_channel();
        let run = move |mut socket: EngineSocket| {
            let tell = tell.clone();
            let echo = async move {
                let reason = loop {
                    match socket.recv().await {
                        Ok(Message::Text(text)) if &*text == "close" => socket.close(),
                        Ok(message) => drop(socket.send(message)),
                        Err(reason) => break reason,
                    }
                };
                let _ = tell.send(reason);
            };
            Box::pin(echo) as std::pin::Pin<Box<dyn Future<Output = ()> + Send>>
        };
        let protocol = Protocol::Raw(Box::new(run));
        let metrics = Arc::new(Metrics::new("test"));
        let node = NodeTag::new(rand::random());
        let core = Core::new(config, metrics, certificates, protocol, admit, node);
        let core = Arc::new(core);
        let socket = bind_udp((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let quic = Arc::new(Quic::new(&core, socket).unwrap());
        let (running, cores) = (quic.clone(), core.clone());
        tokio::spawn(async move { running.run(cores).await });
        Self { core, quic, ends: tokio::sync::Mutex::new(ends) }
    }

    fn url(&self, path: &str) -> String {
        format!("https://127.0.0.1:{}{path}", self.quic.local_addr().unwrap().port())
    }

    /// Waits until no connection is left. QUIC keeps a closed one for three probe timeouts, which are long
    /// where the machine was busy.
    async fn is_empty(&self) {
        let empty = async {
            while self.quic.endpoint.open_connections() > 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(SOON * 6, empty).await.expect("a connection has leaked");
    }

    async fn next_end(&self) -> CloseReason {
        let mut ends = self.ends.lock().await;
        tokio::time::timeout(SOON, ends.recv()).await.expect("it is noticed at once").unwrap()
    }
}

/// Accepts the server's own certificate, as browsers do.
fn client_config(echo: &Echo) -> wtransport::ClientConfig {
    let hashes = echo.core.certificates.hashes().into_iter().map(Sha256Digest::from);
    wtransport::ClientConfig::builder()
        .with_bind_address((Ipv4Addr::LOCALHOST, 0).into())
        .with_server_certificate_hashes(hashes)
        .build()
}

fn client(echo: &Echo) -> wtransport::Endpoint<wtransport::endpoint::endpoint_side::Client> {
    wtransport::Endpoint::client(client_config(echo)).unwrap()
}

/// A client's side of a session.
struct Session {
    connection: wtransport::Connection,
    send: wtransport::SendStream,
    receive: wtransport::RecvStream,
}

impl Session {
    async fn open(echo: &Echo) -> Self {
        let client = client(echo);
        let connection = client.connect(echo.url("/socket.io/")).await.unwrap();
        Self::on(connection).await
    }

    async fn on(connection: wtransport::Connection) -> Self {
        let (send, receive) = connection.open_bi().await.unwrap().await.unwrap();
        let mut session = Self { connection, send, receive };
        session.send.write_all(b"\x010").await.unwrap();
        let open = session.frame().await.unwrap();
        assert!(open.starts_with(b"0{\"sid\""), "{open:?}");
        session
    }

    /// The next frame; `None` at the end of the stream.
    async fn frame(&mut self) -> Option<Vec<u8>> {
        let mut first = [0];
        self.receive.read_exact(&mut first).await.ok()?;
        let mut length = u64::from(first[0] & 0x7f);
        if length >= 126 {
            let mut bytes = [0; 8];
            let from = if length == 126 { 6 } else { 0 };
            self.receive.read_exact(&mut bytes[from..]).await.unwrap();
            length = u64::from_be_bytes(bytes);
        }
        let mut payload = vec![0; length as usize];
        self.receive.read_exact(&mut payload).await.unwrap();
        Some(payload)
    }

    async fn say(&mut self, frame: &[u8]) {
        let header = match frame.len() {
            length @ ..126 => vec![length as u8],
            length => [&[127][..], &(length as u64).to_be_bytes()].concat(),
        };
        self.send.write_all(&header).await.unwrap();
        self.send.write_all(frame).await.unwrap();
    }
}

#[tokio::test]
async fn messages_come_back_small_and_big() {
    let echo = Echo::start(SOON);
    let mut session = Session::open(&echo).await;
    for size in [1, 125, 126, 70_000, 900_000] {
        let text = format!("4{}", "x".repeat(size));
        session.say(text.as_bytes()).await;
        assert_eq!(session.frame().await.unwrap(), text.as_bytes(), "{size}");
    }
    drop(session);
    assert_eq!(echo.next_end().await, CloseReason::TransportClose);
    echo.is_empty().await;
}

#[tokio::test]
async fn packets_keep_the_size_that_every_path_takes() {
    let echo = Echo::start(SOON);
    let mut session = Session::open(&echo).await;
    session.say(&[b'4'; 500_000]).await;
    session.frame().await.unwrap();
    let udp = session.connection.quic_connection().stats().udp_rx;
    assert!(udp.bytes <= udp.datagrams * 1_200, "{udp:?}");
}

#[tokio::test]
async fn every_way_in_which_a_peer_ends_is_noticed_at_once() {
    let echo = Echo::start(SOON);
    let mut session = Session::open(&echo).await;
    session.send.finish().await.unwrap();
    assert_eq!(echo.next_end().await, CloseReason::TransportClose, "end of the stream");

    let session = Session::open(&echo).await;
    session.connection.close(0u32.into(), b"");
    assert_eq!(echo.next_end().await, CloseReason::TransportClose, "end of the connection");

    let mut session = Session::open(&echo).await;
    session.send.reset(7u32.into()).unwrap();
    assert_eq!(echo.next_end().await, CloseReason::TransportError, "reset of the stream");
    echo.is_empty().await;
}

#[tokio::test]
async fn wrong_paths_and_unwanted_clients_are_refused() {
    let echo = Echo::with(
        SOON,
        Some(Box::new(|handshake| {
            let wanted = handshake.query("token") == Some("good");
            Box::pin(async move { if wanted { Ok(()) } else { Err(Refusal::forbidden("no")) } })
        })),
    );
    for path in ["/other/", "/socket.io/", "/socket.io/?token=bad"] {
        let refused = client(&echo).connect(echo.url(path)).await;
        assert!(
            matches!(refused, Err(wtransport::error::ConnectingError::SessionRejected)),
            "{path}: {refused:?}"
        );
    }
    let connection = client(&echo).connect(echo.url("/socket.io/?token=good")).await.unwrap();
    drop(Session::on(connection).await);
    echo.is_empty().await;
}

#[tokio::test]
async fn streams_that_nobody_wants_are_refused_and_do_not_disturb() {
    let echo = Echo::start(SOON);
    let mut session = Session::open(&echo).await;
    for round in 0..20 {
        let (mut send, _receive) = session.connection.open_bi().await.unwrap().await.unwrap();
        let stopped = tokio::time::timeout(SOON, send.quic_stream_mut().stopped()).await.unwrap();
        assert_eq!(stopped.unwrap().unwrap(), VarInt::from_u32(0x10b), "round {round}");
        let mut send = session.connection.open_uni().await.unwrap().await.unwrap();
        let stopped = tokio::time::timeout(SOON, send.quic_stream_mut().stopped()).await.unwrap();
        assert_eq!(stopped.unwrap().unwrap(), VarInt::from_u32(0x3994_bd84), "round {round}");
        let _ = session.connection.send_datagram(b"nobody reads this");
    }
    session.say(b"4still here").await;
    assert_eq!(session.frame().await.unwrap(), b"4still here");
}

// --- peers that say what they want, byte by byte

/// A peer on bare QUIC.
struct Bare {
    connection: quinn::Connection,
    _endpoint: quinn::Endpoint,
}

impl Bare {
    async fn connect(echo: &Echo) -> Self {
        Self::with(echo, |_| {}).await
    }

    async fn with(echo: &Echo, tune: impl FnOnce(&mut quinn::TransportConfig)) -> Self {
        let mut config = client_config(echo).quic_config().clone();
        let mut transport = quinn::TransportConfig::default();
        tune(&mut transport);
        config.transport_config(Arc::new(transport));
        let mut endpoint = quinn::Endpoint::client((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        endpoint.set_default_client_config(config);
        let address = echo.quic.local_addr().unwrap();
        let connection = endpoint.connect(address, "localhost").unwrap().await.unwrap();
        Self { connection, _endpoint: endpoint }
    }

    async fn uni(&self, bytes: &[u8]) -> SendStream {
        let mut stream = self.connection.open_uni().await.unwrap();
        stream.write_all(bytes).await.unwrap();
        stream
    }

    async fn bi(&self, bytes: &[u8]) -> (SendStream, RecvStream) {
        let (mut send, receive) = self.connection.open_bi().await.unwrap();
        send.write_all(bytes).await.unwrap();
        (send, receive)
    }

    /// The code that the server closes the connection with.
    async fn closed_with(&self) -> u64 {
        let closed = tokio::time::timeout(SOON, self.connection.closed()).await;
        match closed.expect("it is closed at once") {
            quinn::ConnectionError::ApplicationClosed(close) => close.error_code.into_inner(),
            other => panic!("{other}"),
        }
    }
}

/// A control stream with empty SETTINGS.
const CONTROL: &[u8] = &[0, 4, 0];

fn request(fields: &[(&str, &str)]) -> Vec<u8> {
    let section = wtransport_proto::qpack::Encoder::encode(fields.iter().copied());
    assert!(section.len() > 63 && section.len() < 16_384);
    let length = section.len() as u16 | 0x4000;
    [&[1][..], &length.to_be_bytes(), &section].concat()
}

fn connect_request() -> Vec<u8> {
    request(&[
        (":method", "CONNECT"),
        (":scheme", "https"),
        (":protocol", "webtransport"),
        (":authority", "localhost"),
        (":path", "/socket.io/?EIO=4&transport=webtransport"),
        ("origin", "https://localhost"),
    ])
}

#[tokio::test]
async fn peers_that_stop_half_way_are_gone_after_the_deadline() {
    let echo = Echo::start(Duration::from_secs(2)); // in which each has to say what it says
    let silent = Bare::connect(&echo).await;
    let settings_only = Bare::connect(&echo).await;
    let _control = settings_only.uni(CONTROL).await;
    let half_type = Bare::connect(&echo).await;
    let _half = half_type.uni(&[0x40]).await;
    let half_settings = Bare::connect(&echo).await;
    let _half_settings = half_settings.uni(&[0, 4, 10, 1]).await;
    let half_request = Bare::connect(&echo).await;
    let _kept = (half_request.uni(CONTROL).await, half_request.bi(&connect_request()[..20]).await);
    let no_stream = Bare::connect(&echo).await;
    let _kept = (_kept, no_stream.uni(CONTROL).await, no_stream.bi(&connect_request()).await);
    let half_stream = Bare::connect(&echo).await;
    let _kept = (_kept, half_stream.uni(CONTROL).await, half_stream.bi(&connect_request()).await);
    let _half_header = half_stream.bi(&[0x40]).await;
    let no_packet = Bare::connect(&echo).await;
    let _kept = (_kept, no_packet.uni(CONTROL).await, no_packet.bi(&connect_request()).await);
    let _first = no_packet.bi(&[0x40, 0x41, 0]).await;
    let no_credit = Bare::with(&echo, |transport| {
        transport.max_concurrent_uni_streams(0u32.into());
    });
    let no_credit = no_credit.await;
    let _control = no_credit.uni(CONTROL).await;
    assert!(echo.quic.endpoint.open_connections() > 0);
    let peers = [
        silent,
        settings_only,
        half_type,
        half_settings,
        half_request,
        no_stream,
        half_stream,
        no_packet,
        no_credit,
    ];
    for (index, peer) in peers.iter().enumerate() {
        assert_eq!(peer.closed_with().await, 0x100, "peer {index}");
    }
    echo.is_empty().await;
    assert_eq!(echo.core.registry.len(), 0);
}

#[tokio::test]
async fn a_quic_handshake_that_never_ends_is_given_up() {
    let echo = Echo::start(SHORT);
    let server = echo.quic.local_addr().unwrap();
    // a relay that carries what the client says and nothing back, so that QUIC has no end of its own so soon
    let relay = tokio::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = relay.local_addr().unwrap();
    tokio::spawn(async move {
        let mut packet = [0; 2048];
        loop {
            let (length, from) = relay.recv_from(&mut packet).await.unwrap();
            if from != server {
                relay.send_to(&packet[..length], server).await.unwrap();
            }
        }
    });
    let endpoint = quinn::Endpoint::client((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let config = client_config(&echo).quic_config().clone();
    let connecting = endpoint.connect_with(config, address, "localhost").unwrap();
    tokio::spawn(connecting);
    let seen = async {
        while echo.quic.endpoint.open_connections() == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(SOON, seen).await.expect("the first packet has come");
    // what was given up tells the peer for three probe timeouts, of a second each as nothing was measured
    echo.is_empty().await;
}

#[tokio::test]
async fn requests_for_something_else_are_answered_and_the_connection_ends() {
    let echo = Echo::start(SOON);
    for (name, value) in [(":method", "GET"), (":protocol", "websocket"), (":scheme", "http")] {
        let fields = [
            (":method", "CONNECT"),
            (":scheme", "https"),
            (":protocol", "webtransport"),
            (":authority", "localhost"),
            (":path", "/socket.io/?EIO=4&transport=webtransport"),
            ("user-agent", "a text that makes the section long enough for two bytes"),
        ];
        let fields = fields.map(|field| if field.0 == name { (name, value) } else { field });
        let bare = Bare::connect(&echo).await;
        let _control = bare.uni(CONTROL).await;
        let (_send, receive) = bare.bi(&request(&fields)).await;
        assert_eq!(answer(receive).await[":status"], "400", "{name} {value}");
        assert_eq!(bare.closed_with().await, 0x100);
    }
    echo.is_empty().await;
}

/// The fields of an answer behind which nothing comes.
async fn answer(mut receive: RecvStream) -> HashMap<String, String> {
    let answer = receive.read_to_end(1000).await.unwrap();
    wtransport_proto::qpack::Decoder::decode(&answer[2..]).unwrap()
}

/// Stock clients look at neither; whoever reads a packet capture does, and proxies will.
#[tokio::test]
async fn a_full_server_says_so_and_when_to_come_back() {
    let limits = LimitsConfig { max_sessions: Some(1), ..LimitsConfig::default() };
    let echo = Echo::on(Config { limits, ..Config::default() }, None);
    let session = Session::open(&echo).await;
    let bare = Bare::connect(&echo).await;
    let _control = bare.uni(CONTROL).await;
    let (_send, receive) = bare.bi(&connect_request()).await;
    let fields = answer(receive).await;
    assert_eq!((fields[":status"].as_str(), fields["retry-after"].as_str()), ("503", "5"));
    drop(session);
    assert_eq!(echo.next_end().await, CloseReason::TransportClose);
    let _next = Session::open(&echo).await;
}

#[tokio::test]
async fn a_peer_that_breaks_http3_gets_its_code() {
    let echo = Echo::start(SOON);
    for (bytes, code) in [
        (&[0, 7, 1, 0][..], 0x10a), // GOAWAY before SETTINGS
        (&[0, 4, 0, 4, 0], 0x105),  // SETTINGS twice
        (&[1], 0x103),              // a push stream from a client
    ] {
        let bare = Bare::connect(&echo).await;
        let _stream = bare.uni(bytes).await;
        assert_eq!(bare.closed_with().await, code);
    }
    let two = Bare::connect(&echo).await;
    let _kept = (two.uni(CONTROL).await, two.uni(CONTROL).await);
    assert_eq!(two.closed_with().await, 0x103, "two control streams");
    let ended = Bare::connect(&echo).await;
    ended.uni(CONTROL).await.finish().unwrap();
    assert_eq!(ended.closed_with().await, 0x104, "a control stream that ends");
    echo.is_empty().await;
}

/// A session on bare QUIC: control stream, CONNECT stream, the session's stream.
async fn bare_session(
    echo: &Echo,
) -> (Bare, SendStream, (SendStream, RecvStream), (SendStream, RecvStream)) {
    let bare = Bare::connect(echo).await;
    // grease and QPACK streams, as Chromium has them
    let _ = bare.uni(&[0x21, 1, 2, 3]).await.finish();
    let control = bare.uni(CONTROL).await;
    let (connect, mut answer) = bare.bi(&connect_request()).await;
    let mut frame = [0; 2];
    answer.read_exact(&mut frame).await.unwrap();
    let mut section = vec![0; usize::from(frame[1])];
    answer.read_exact(&mut section).await.unwrap();
    assert_eq!(wtransport_proto::qpack::Decoder::decode(section).unwrap()[":status"], "200");
    let mut stream = bare.bi(b"\x40\x41\x00\x010").await;
    let mut first = [0; 3];
    stream.1.read_exact(&mut first).await.unwrap();
    (bare, control, (connect, answer), stream)
}

#[tokio::test]
async fn our_close_comes_in_order_with_its_code() {
    let echo = Echo::start(SOON);
    let (bare, _control, (_connect, mut answer), (mut send, mut receive)) =
        bare_session(&echo).await;
    send.write_all(b"\x054last\x064close").await.unwrap();
    // all of the stream and its end, then the session's end with the code and its end, then QUIC's
    let rest = receive.read_to_end(1000).await.unwrap();
    assert!(rest.ends_with(b"\x054last"), "{rest:?}");
    let capsule = answer.read_to_end(1000).await.unwrap();
    assert_eq!(capsule, [&b"\x00\x07\x68\x43\x04"[..], &1000u32.to_be_bytes()].concat());
    assert_eq!(bare.closed_with().await, 0x100);
    assert_eq!(echo.next_end().await, CloseReason::ForcedClose);
    echo.is_empty().await;
}

#[tokio::test]
async fn a_client_sees_our_close_at_once() {
    let echo = Echo::start(SOON);
    let mut session = Session::open(&echo).await;
    session.say(b"4close").await;
    assert_eq!(session.frame().await, None);
    tokio::time::timeout(SOON, session.connection.closed()).await.expect("it is told");
}

#[tokio::test]
async fn the_end_of_a_session_beside_its_stream_is_noticed_at_once() {
    let echo = Echo::start(SOON);
    let (_bare, _control, (mut connect, _answer), _stream) = bare_session(&echo).await;
    connect.write_all(b"\x00\x07\x68\x43\x04\0\0\0\0").await.unwrap();
    assert_eq!(echo.next_end().await, CloseReason::TransportClose, "the closing capsule");

    let (_bare, _control, (mut connect, _answer), _stream) = bare_session(&echo).await;
    connect.finish().unwrap();
    assert_eq!(echo.next_end().await, CloseReason::TransportClose, "end of the CONNECT stream");

    let (_bare, _control, (mut connect, _answer), _stream) = bare_session(&echo).await;
    connect.reset(0u32.into()).unwrap();
    assert_eq!(echo.next_end().await, CloseReason::TransportClose, "reset of the CONNECT stream");

    let (_bare, _control, _connect, mut stream) = bare_session(&echo).await;
    stream.0.reset(VarInt::from_u32(0x170d_7b68)).unwrap();
    assert_eq!(echo.next_end().await, CloseReason::TransportClose, "WEBTRANSPORT_SESSION_GONE");

    let (bare, mut control, _connect, _stream) = bare_session(&echo).await;
    control.finish().unwrap();
    assert_eq!(echo.next_end().await, CloseReason::TransportError, "end of the control stream");
    assert_eq!(bare.closed_with().await, 0x104);
    drop(bare);
    echo.is_empty().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_hundred_sessions_at_once_open_and_close_without_a_failure() {
    let echo = Echo::start(Duration::from_secs(30));
    let url = echo.url("/socket.io/");
    // one UDP socket for all; a crowd of handshakes makes QUIC measure round trips of seconds
    let (client, crowd) = (Arc::new(client(&echo)), Arc::new(Semaphore::new(30)));
    let mut opening = tokio::task::JoinSet::new();
    for _ in 0..300 {
        let (client, url, crowd) = (client.clone(), url.clone(), crowd.clone());
        opening.spawn(async move {
            let _place = crowd.acquire().await.unwrap();
            let connection = client.connect(url).await.expect("no handshake fails");
            let mut session = Session::on(connection).await;
            session.say(b"4hello").await;
            assert_eq!(session.frame().await.unwrap(), b"4hello");
            session
        });
    }
    let sessions = opening.join_all().await;
    assert_eq!((sessions.len(), echo.core.registry.len()), (300, 300));
    // QUIC says goodbye once; a busy system may lose a crowd of those
    for some in sessions.chunks(30) {
        for session in some {
            session.connection.close(0u32.into(), b"");
        }
        for _ in some {
            assert_eq!(echo.next_end().await, CloseReason::TransportClose);
        }
    }
    echo.is_empty().await;
    assert_eq!(echo.core.registry.len(), 0);
}

#[path = "quic_flood_tests.rs"]
mod floods;

// --- places

#[test]
fn one_address_cannot_take_all_places() {
    let pending = Pending::default();
    let most = Most { all: 1000, of_address: 64 };
    let [one, other] = [1, 2].map(|last| Some(IpAddr::from([192, 0, 2, last])));
    for _ in 0..most.of_address {
        assert_eq!(pending.enter(most, one, false), Verdict::Accept);
    }
    // somebody may lie about his address, which must not lock its owner out
    assert_eq!(pending.enter(most, one, false), Verdict::Retry);
    for _ in 0..most.of_address {
        assert_eq!(pending.enter(most, one, true), Verdict::Accept);
    }
    let refused = Verdict::Refuse(Limit::QuicHandshakesPerIp);
    assert_eq!(pending.enter(most, one, true), refused);
    assert_eq!(pending.enter(most, other, false), Verdict::Accept);
    pending.leave(one, true);
    assert_eq!(pending.enter(most, one, true), Verdict::Accept);
    for _ in 0..500 {
        assert_eq!(pending.enter(most, None, false), Verdict::Accept, "it is exempt");
    }
}

#[test]
fn under_load_addresses_are_proven_and_far_above_newcomers_refused() {
    let pending = Pending::default();
    let address = |number: usize| Some(IpAddr::from([192, 0, 2, number as u8]));
    let (limits, most) = (Most { all: 2, of_address: 64 }, 2 * REFUSED_ABOVE);
    for number in 0..2 {
        assert_eq!(pending.enter(limits, address(number), false), Verdict::Accept);
    }
    assert_eq!(pending.enter(limits, address(2), false), Verdict::Retry);
    for number in 2..most {
        assert_eq!(pending.enter(limits, address(number), true), Verdict::Accept);
    }
    let refused = Verdict::Refuse(Limit::QuicHandshakes);
    assert_eq!(pending.enter(limits, address(most), true), refused);
    for number in 0..most {
        pending.leave(address(number), number >= 2);
    }
    assert!(pending.0.lock().of.is_empty());
    assert_eq!(pending.enter(limits, address(most), false), Verdict::Accept);
}
