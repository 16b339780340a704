//! Peers that want more than their share: half-open handshakes, answers to somebody else's address, streams
//! and datagrams without end.

use futures_util::FutureExt as _;

use super::*;
use crate::error::PeerMisbehaved;

fn pressed(max_pending_handshakes: usize, upgrade_timeout: Duration) -> Echo {
    let mut config = Config::default();
    config.engine.upgrade_timeout = upgrade_timeout;
    config.webtransport.max_pending_handshakes = max_pending_handshakes;
    Echo::on(config, None)
}

/// A client that says something, and hears nothing.
struct Lonely {
    _endpoint: quinn::Endpoint,
    _connecting: quinn::Connecting,
    /// Towards the server: what the client says first comes through here, and nothing else in either direction.
    server: tokio::net::UdpSocket,
    first: Vec<u8>,
}

impl Lonely {
    async fn begin(echo: &Echo) -> Self {
        let relay = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let server = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
        server.connect(echo.quic.local_addr().unwrap()).await.unwrap();
        let mut endpoint = quinn::Endpoint::client((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        endpoint.set_default_client_config(client_config(echo).quic_config().clone());
        let connecting = endpoint.connect(relay.local_addr().unwrap(), "localhost").unwrap();
        let mut first = vec![0; 4096];
        let sent = tokio::time::timeout(SOON, relay.recv(&mut first)).await.unwrap().unwrap();
        first.truncate(sent);
        Self { _endpoint: endpoint, _connecting: connecting, server, first }
    }
}

#[tokio::test]
async fn above_the_threshold_a_client_proves_its_address_and_far_above_it_is_refused() {
    let echo = pressed(1, SOON * 4);
    let retries = || echo.core.metrics.quic_retries.get();
    let half_open = Bare::connect(&echo).await;
    assert_eq!(retries(), 0, "below the threshold nobody pays the round trip");
    // it is let in for all that
    let mut session = Session::open(&echo).await;
    session.say(b"4hello").await;
    assert_eq!(session.frame().await.unwrap(), b"4hello");
    assert_eq!(retries(), 1);
    let mut more = Vec::new();
    for _ in 1..REFUSED_ABOVE {
        more.push(Bare::connect(&echo).await);
    }
    assert_eq!(retries(), REFUSED_ABOVE as u64, "each of them pays it, and is let in");
    let refused = client(&echo).connect(echo.url("/socket.io/")).await;
    assert!(refused.is_err(), "as many as there may be are under way");
    assert_eq!(echo.core.metrics.limits.hit[Limit::QuicHandshakes].get(), 1);
    let forbidden = &echo.core.metrics.handshakes_refused[HandshakeError::Forbidden];
    assert_eq!(forbidden.get(), 0, "that is a wrong origin");
    drop((half_open, more));
}

/// As at the door: `per-ip-exempt` says who is many clients.
#[tokio::test]
async fn the_limit_of_handshakes_of_one_address_exempts_whom_the_door_exempts() {
    for exempt in [true, false] {
        let mut config = Config::default();
        config.engine.upgrade_timeout = SOON * 4;
        config.webtransport.max_pending_handshakes_per_ip = 1;
        if !exempt {
            config.limits.per_ip_exempt = Vec::new();
        }
        let echo = Echo::on(config, None);
        let (first, second) = (Bare::connect(&echo).await, Bare::connect(&echo).await);
        // one that is not proven, and one that is
        assert_eq!(echo.core.metrics.quic_retries.get(), u64::from(!exempt));
        let third = client(&echo).connect(echo.url("/socket.io/")).await;
        let hit = echo.core.metrics.limits.hit[Limit::QuicHandshakesPerIp].get();
        assert_eq!((third.is_ok(), hit), (exempt, u64::from(!exempt)));
        drop((first, second));
    }
}

/// `max-connections`: until nothing is left of one.
#[tokio::test]
async fn quic_connections_count_among_all() {
    let limits = LimitsConfig { max_connections: Some(2), ..LimitsConfig::default() };
    two_connections_and_no_more(limits, Limit::Connections).await;
}

/// `max-connections-per-ip` likewise: to close one costs its peer nothing, and it decides for how long that is kept.
#[tokio::test]
async fn quic_connections_count_among_those_of_their_address() {
    let of_address = LimitsConfig { max_connections_per_ip: Some(2), ..LimitsConfig::default() };
    let echo = Echo::on(Config { limits: of_address.clone(), ..Config::default() }, None);
    let _exempt =
        (Bare::connect(&echo).await, Bare::connect(&echo).await, Bare::connect(&echo).await);
    let limits = LimitsConfig { per_ip_exempt: Vec::new(), ..of_address };
    two_connections_and_no_more(limits, Limit::ConnectionsPerIp).await;
}

async fn two_connections_and_no_more(limits: LimitsConfig, limit: Limit) {
    let echo = Echo::on(Config { limits, ..Config::default() }, None);
    let hit = || echo.core.metrics.limits.hit[limit].get();
    let mut session = Session::open(&echo).await;
    let silent = Bare::connect(&echo).await;
    assert_eq!(hit(), 0);
    for _ in 0..3 {
        let before = hit();
        assert!(client(&echo).connect(echo.url("/socket.io/")).await.is_err(), "one above");
        assert!(hit() > before, "once, or for each time that a slow client has asked");
    }
    let pending = echo.quic.pending.0.lock().all;
    assert!(pending <= 1, "who is refused is no handshake under way: {pending}");
    session.say(b"4others go on").await;
    assert_eq!(session.frame().await.unwrap(), b"4others go on");
    silent.connection.close(NO_ERROR, b"");
    let again = async {
        loop {
            if let Ok(connection) = client(&echo).connect(echo.url("/socket.io/")).await {
                break connection;
            }
        }
    };
    let again = tokio::time::timeout(SOON * 4, again).await.expect("there is room again");
    drop(Session::on(again).await);
}

/// What bounds pending handshakes has to bound their memory: one that was given up is in quinn for seconds.
#[tokio::test]
async fn a_handshake_counts_until_nothing_is_left_of_it() {
    let echo = pressed(1000, SHORT);
    let pending = |echo: &Echo| echo.quic.pending.0.lock().all;
    let Lonely { server, first, .. } = Lonely::begin(&echo).await;
    let mut buffer = [0; 4096];
    let begun = std::time::Instant::now();
    server.send(&first).await.unwrap();
    // what comes behind the deadline says that the server has given up
    while begun.elapsed() < SHORT {
        tokio::time::timeout(SOON, server.recv(&mut buffer)).await.unwrap().unwrap();
    }
    let counted = pending(&echo);
    assert!(counted == 1 || echo.quic.endpoint.open_connections() == 0, "it is not counted");
    let done = async {
        while pending(&echo) > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(SOON * 6, done).await.expect("it is counted for ever");
    echo.is_empty().await;

    let echo = pressed(1000, SOON * 4); // a deadline that is not to pass
    let _session = Session::open(&echo).await;
    let opened = async {
        while pending(&echo) > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(SOON, opened).await.expect("a session is no handshake");
}

#[tokio::test]
async fn a_connect_request_with_a_long_head_is_counted() {
    let mut config = Config::default();
    config.limits.max_header_bytes = 8 * 1024;
    let echo = Echo::on(config, None);
    let hit = || echo.core.metrics.limits.hit[Limit::HeadBytes].get();
    for (length, counted) in [(4_000, 0), (20_000, 1)] {
        let url = echo.url(&format!("/socket.io/?x={}", "x".repeat(length)));
        let connection = client(&echo).connect(url).await;
        assert_eq!((connection.is_ok(), hit()), (counted == 0, counted), "{length} bytes");
    }
}

/// RFC 9000 8.1: who has not shown that it is where it says gets three times what it has sent, or the server
/// would be a weapon against that address.
#[tokio::test]
async fn an_address_that_is_not_proven_gets_three_times_its_bytes_at_most() {
    let echo = pressed(1000, Duration::from_secs(3));
    let Lonely { server, first, .. } = Lonely::begin(&echo).await;
    let (sent, mut buffer) = (first.len(), [0; 4096]);
    server.send(&first).await.unwrap();
    let (mut received, mut datagrams) = (0, 0);
    let until = async {
        // the handshake's deadline ends it
        while echo.quic.endpoint.open_connections() > 0 || datagrams == 0 {
            let next = server.recv(&mut buffer);
            if let Ok(length) = tokio::time::timeout(SHORT, next).await {
                received += length.unwrap();
                datagrams += 1;
            }
        }
    };
    tokio::time::timeout(SOON * 4, until).await.expect("it is given up");
    assert!(datagrams > 2, "{datagrams} datagrams: it was repeated");
    // quinn always fills the last datagram (its issue 1082)
    assert!(received < sent * 3 + 1_200, "{received} bytes for {sent}");
}

#[tokio::test]
async fn a_flood_of_streams_is_bounded_and_does_not_disturb_the_session_nor_do_some_datagrams() {
    let echo = Echo::start(SOON);
    let mut session = Session::open(&echo).await;
    let mut rounds = 0;
    let streams = async {
        for round in 0..200 {
            rounds = round;
            let mut send = session.connection.open_uni().await.unwrap().await.unwrap();
            let _ = send.reset(0u32.into());
            let (mut send, _) = session.connection.open_bi().await.unwrap().await.unwrap();
            let _ = send.reset(0u32.into());
        }
    };
    let done = tokio::time::timeout(SOON * 4, streams).await;
    assert!(done.is_ok(), "no place came back in round {rounds}");
    for _ in 0..50 {
        let _ = session.connection.send_datagram(vec![7; 1_000]);
        tokio::task::yield_now().await;
    }
    session.say(b"4still here").await;
    assert_eq!(session.frame().await.unwrap(), b"4still here");
}

/// A session that floods with `one` until that is counted, and goes on.
async fn flooded(name: &str, one: impl AsyncFn(&wtransport::Connection)) {
    let mut config = Config::default();
    config.limits = LimitsConfig { packet_rate: Some(10), ..config.limits };
    let echo = Echo::on(config, None);
    let mut session = Session::open(&echo).await;
    let hit = || echo.core.metrics.limits.hit[Limit::PacketRate].get();
    assert_eq!(hit(), 0, "{name}");
    let flood = async {
        while hit() == 0 {
            one(&session.connection).await;
        }
    };
    let counted = tokio::time::timeout(SOON * 4, flood).await;
    assert!(counted.is_ok(), "{name} are not counted");
    session.say(b"4still here").await;
    let frame = tokio::time::timeout(SOON * 4, session.frame()).await.expect("it is read on");
    assert_eq!(frame.unwrap(), b"4still here", "{name}");
}

#[tokio::test]
async fn floods_beside_a_session_are_counted_and_it_survives() {
    let uni = flooded("unidirectional streams", async |connection| {
        let mut send = connection.open_uni().await.unwrap().await.unwrap();
        let _ = send.reset(0u32.into());
    });
    let bidi = flooded("bidirectional streams", async |connection| {
        let (mut send, _) = connection.open_bi().await.unwrap().await.unwrap();
        let _ = send.reset(0u32.into());
    });
    tokio::join!(uni, bidi);
}

/// No client of Engine.IO sends any, and QUIC has no window for them.
#[tokio::test]
async fn a_flood_of_datagrams_ends_the_session() {
    let echo = Echo::start(SOON);
    let session = Session::open(&echo).await;
    let quic = session.connection.quic_connection();
    let flood = async {
        while quic.close_reason().is_none() {
            let _ = session.connection.send_datagram([7; 1_000]);
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(SOON * 4, flood).await.expect("it ends");
    match quic.close_reason() {
        Some(quinn::ConnectionError::ApplicationClosed(close)) => {
            assert_eq!(close.error_code.into_inner(), 0x107, "H3_EXCESSIVE_LOAD");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(echo.core.metrics.peer_misbehaved[PeerMisbehaved::DatagramFlood].get(), 1);
}

/// Stands between a client and a server, and says what the client has said last again and again once it is told to:
/// nothing of that is new, and no window holds it back.
async fn repeating_relay(server: SocketAddr, repeats: Arc<AtomicBool>) -> SocketAddr {
    let bind = || tokio::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0));
    let (front, back) = (Arc::new(bind().await.unwrap()), Arc::new(bind().await.unwrap()));
    back.connect(server).await.unwrap();
    let address = front.local_addr().unwrap();
    let client = Arc::new(Mutex::new(None));
    let (ours, its, heard) = (front.clone(), back.clone(), client.clone());
    tokio::spawn(async move {
        let mut packet = [0; 2048];
        loop {
            let length = its.recv(&mut packet).await.unwrap();
            let client: Option<SocketAddr> = *heard.lock();
            ours.send_to(&packet[..length], client.unwrap()).await.unwrap();
        }
    });
    tokio::spawn(async move {
        let mut packet = [0; 2048];
        loop {
            let (length, from) = front.recv_from(&mut packet).await.unwrap();
            *client.lock() = Some(from);
            back.send(&packet[..length]).await.unwrap();
            let times = if repeats.load(Ordering::Relaxed) { 10_000 } else { 0 };
            for time in 0..times {
                let _ = back.try_send(&packet[..length]);
                if time % 32 == 0 {
                    tokio::task::yield_now().await;
                }
            }
        }
    });
    address
}

/// As of datagrams, for what reaches nobody.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_udp_packets_that_say_nothing_ends_the_session() {
    let mut config = Config::default();
    config.limits.packet_rate = Some(10);
    config.limits.byte_rate = Some(125_000);
    let echo = Echo::on(config, None);
    let repeats = Arc::new(AtomicBool::new(false));
    let address = repeating_relay(echo.quic.local_addr().unwrap(), repeats.clone()).await;
    let connection = client(&echo).connect(format!("https://{address}/socket.io/")).await.unwrap();
    let mut session = Session::on(connection).await;
    session.say(b"4as any other").await;
    assert_eq!(session.frame().await.unwrap(), b"4as any other");
    repeats.store(true, Ordering::Relaxed);
    let mut ends = echo.ends.lock().await;
    // what it says beside that is what wakes the session's task; the heartbeat would, too
    let talk = async {
        while session.send.write_all(b"\x024x").await.is_ok() {
            if session.frame().await.is_none() {
                break;
            }
        }
        ends.recv().await
    };
    let end = tokio::time::timeout(SOON * 4, talk).await.expect("it ends");
    assert_eq!(end, Some(CloseReason::TransportError));
    assert_eq!(echo.core.metrics.peer_misbehaved[PeerMisbehaved::DatagramFlood].get(), 1);
}

/// A server with this configuration that reads nothing at all, and a peer of it.
async fn unread(
    echo: &Echo,
) -> (quinn::Endpoint, quinn::Connection, quinn::Endpoint, quinn::Connection) {
    let config = server_config(&echo.core).unwrap();
    let server = quinn::Endpoint::server(config, (Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let mut endpoint = quinn::Endpoint::client((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    endpoint.set_default_client_config(client_config(echo).quic_config().clone());
    let connecting = endpoint.connect(server.local_addr().unwrap(), "localhost").unwrap();
    let accepted = async { server.accept().await.unwrap().await.unwrap() };
    let (peer, ours) = tokio::join!(connecting, accepted);
    (endpoint, peer.unwrap(), server, ours)
}

/// Whatever our side reads or not: so much waits for it at most (docs/limits.md).
#[tokio::test]
async fn what_streams_keep_is_bounded() {
    let echo = Echo::start(SOON);
    let (_endpoint, peer, _server, _ours) = unread(&echo).await;
    let (mut sends, mut granted) = (Vec::new(), [0, 0]);
    while let Ok(stream) = tokio::time::timeout(SHORT, peer.open_bi()).await {
        granted[0] += 1;
        sends.push(stream.unwrap().0);
    }
    while let Ok(stream) = tokio::time::timeout(SHORT, peer.open_uni()).await {
        granted[1] += 1;
        sends.push(stream.unwrap());
    }
    assert_eq!(granted, [3, 4]);
    let mut all = 0;
    for send in &mut sends {
        let mut of_one = 0;
        while let Ok(taken) = tokio::time::timeout(SHORT, send.write(&[7; 16 * 1024])).await {
            of_one += taken.unwrap();
        }
        assert!(of_one <= 256 * 1024, "{of_one} bytes of one");
        all += of_one;
    }
    assert_eq!(all, 512 * 1024, "of all: two are full, others get nothing");
}

#[tokio::test]
async fn what_datagrams_keep_is_bounded() {
    let echo = Echo::start(SOON);
    let (_endpoint, peer, _server, ours) = unread(&echo).await;
    let received = || ours.stats().frame_rx.datagram as usize * 1_000;
    let flood = async {
        while received() < DATAGRAM_BUFFER * 4 {
            peer.send_datagram(vec![7; 1_000].into()).unwrap();
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(SOON * 4, flood).await.expect("they come");
    peer.close(0u32.into(), b"");
    tokio::time::timeout(SOON, ours.closed()).await.expect("behind all of them");
    let mut kept = 0;
    while let Some(Ok(datagram)) = ours.read_datagram().now_or_never() {
        kept += datagram.len();
    }
    assert!((1..=64 * 1024).contains(&kept), "{kept} bytes");
}

#[tokio::test]
async fn a_peer_is_granted_few_streams() {
    let echo = Echo::start(SOON);
    let bare = Bare::connect(&echo).await;
    let mut open = Vec::new();
    for _ in 0..BIDIRECTIONAL_STREAMS {
        // half a header, so that nobody can tell what it is, and refuse it
        open.push(bare.bi(&[0x40]).await);
    }
    let another = tokio::time::timeout(SHORT, bare.connection.open_bi()).await;
    assert!(another.is_err(), "stream {} is granted", open.len() + 1);
}

/// What is said beside the session's stream, of which 60 things come or more (a stream is 8), or 300,000 bytes, and
/// then something that ends the connection with this code. How long it lived until then, at 20 packets and 100,000
/// bytes a second.
async fn lived_through(
    flood: impl AsyncFnOnce(&Bare, &mut SendStream, &mut SendStream),
    code: u64,
) -> Duration {
    let mut config = Config::default();
    config.limits =
        LimitsConfig { packet_rate: Some(20), byte_rate: Some(100_000), ..config.limits };
    let echo = Echo::on(config, None);
    let (bare, mut control, (mut connect, _answer), _stream) = bare_session(&echo).await;
    let begun = std::time::Instant::now();
    flood(&bare, &mut control, &mut connect).await;
    let closed = tokio::time::timeout(SOON * 4, bare.connection.closed()).await;
    let life = begun.elapsed();
    match closed.expect("it is read on") {
        quinn::ConnectionError::ApplicationClosed(close) => {
            assert_eq!(close.error_code.into_inner(), code);
        }
        other => panic!("{other}"),
    }
    life
}

/// Grease is legal, so it ends nothing, but it costs as much to read as packets do.
#[tokio::test]
async fn what_is_sent_beside_a_session_is_charged() {
    let grease = [[0x21, 0]; 100].concat();
    let control = lived_through(
        async |_, control, _| {
            control.write_all(&[&grease[..], &[4, 0]].concat()).await.unwrap();
        },
        0x105,
    );
    let connect = lived_through(
        async |_, _, connect| {
            let (data, headers) = ([[0, 0]; 100].concat(), [1, 0]);
            connect.write_all(&[&data[..], &headers].concat()).await.unwrap();
        },
        0x105,
    );
    let qpack = lived_through(
        async |bare, _, _| {
            let mut encoder = bare.uni(&[2]).await;
            encoder.write_all(&vec![0x21; 300_000]).await.unwrap();
            encoder.finish().unwrap();
        },
        0x104,
    );
    let streams = lived_through(
        async |bare, control, _| {
            for _ in 0..4 {
                bare.uni(&[0x21]).await.reset(0u32.into()).unwrap();
                bare.bi(&[0x21]).await.0.reset(0u32.into()).unwrap();
            }
            control.finish().unwrap();
        },
        0x104,
    );
    let lives = tokio::join!(control, connect, qpack, streams);
    // but for a second's worth, and what was read ahead
    for life in [lives.0, lives.1, lives.2, lives.3] {
        assert!(life >= Duration::from_millis(1_600), "{lives:?}");
    }
}
