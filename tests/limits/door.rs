//! How many may come in, and how fast: at each limit and one above it, on each transport.

use std::any::Any;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use quicket::TransportKind::{self, Polling, WebSocket, WebTransport};
use quicket::config::{Config, EngineConfig, LimitsConfig};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio_tungstenite::tungstenite::Error as WsError;
use wtransport::error::ConnectingError;

use super::support::client::{WebSocketLink, WebTransportLink};
use super::support::http::Request;
use super::support::server::{config, echo, endpoint, endpoint_at};
use super::support::{
    Client, TestServer, engine, eventually, on_every_transport, socketio, within,
};

on_every_transport!(
    sessions_in_all_are_limited,
    sessions_of_one_address_are_limited,
    handshakes_of_one_address_are_limited,
    a_burst_of_handshakes_waits_its_turn,
    handshakes_beyond_the_wait_are_sent_away,
    sessions_that_are_being_opened_are_limited,
    sessions_without_a_namespace_are_limited,
    the_application_sees_the_clients_address,
);

/// The tests come through a proxy of their own, which says that they are anybody. Nobody may say that over QUIC: there
/// they come from [`loopback`].
fn behind_a_proxy() -> LimitsConfig {
    LimitsConfig {
        trusted_proxies: vec!["127.0.0.0/8".parse().unwrap()],
        per_ip_exempt: ["10.0.0.0/8", "127.10.0.0/16"].map(|net| net.parse().unwrap()).to_vec(),
        ..LimitsConfig::default()
    }
}

/// An address of this machine for each that a proxy may name last.
fn loopback(forwarded: &str) -> Ipv4Addr {
    match forwarded.rsplit(", ").next().unwrap().parse::<Ipv4Addr>() {
        Ok(address) => Ipv4Addr::new(127, address.octets()[0], 0, address.octets()[3]),
        Err(_) => Ipv4Addr::LOCALHOST,
    }
}

async fn limited(limits: LimitsConfig) -> TestServer {
    let upgrade_timeout = limits.handshake_wait.max(engine().upgrade_timeout);
    let engine = EngineConfig { upgrade_timeout, ..engine() };
    let config = Config { limits, ..config(engine.clone()) };
    TestServer::start(engine, echo, |builder| builder.config(config)).await
}

/// A session that stays open while this is kept.
enum Guest {
    Polling(String),
    WebSocket(#[expect(dead_code, reason = "kept open")] WebSocketLink),
    WebTransport(#[expect(dead_code, reason = "kept open")] WebTransportLink),
}

/// Status, and the seconds after which to come back; a WebTransport client is not told by its library.
type SentAway = Option<(u16, u64)>;

async fn come(server: &TestServer, kind: TransportKind, address: &str) -> Result<Guest, SentAway> {
    let target = TestServer::target(kind, None);
    let headers = [("x-forwarded-for", address)];
    match kind {
        Polling => {
            let request = Request::get(target).header("x-forwarded-for", address);
            let answer = request.send(server.address).await;
            if answer.status != 200 {
                let seconds = answer.header("retry-after").expect("when to come back");
                return Err(Some((answer.status, seconds.parse().unwrap())));
            }
            let open: serde_json::Value = serde_json::from_str(&answer.text()[1..]).unwrap();
            Ok(Guest::Polling(open["sid"].as_str().unwrap().to_owned()))
        }
        WebSocket => match WebSocketLink::connect(server.address, &target, &headers).await {
            Ok(mut link) => {
                assert!(within("OPEN", link.next()).await.is_some());
                Ok(Guest::WebSocket(link))
            }
            Err(WsError::Http(answer)) => {
                let seconds = answer.headers()["retry-after"].to_str().unwrap().parse().unwrap();
                Err(Some((answer.status().as_u16(), seconds)))
            }
            Err(error) => panic!("{error}"),
        },
        WebTransport => {
            let from = endpoint_at(loopback(address), server.address).await;
            match WebTransportLink::session_from(&from, server, &target, &headers).await {
                Ok(connection) => {
                    let mut link = WebTransportLink::on(connection).await;
                    link.send(&"0".into()).await.unwrap();
                    assert!(within("OPEN", link.next()).await.is_some());
                    Ok(Guest::WebTransport(link))
                }
                Err(ConnectingError::SessionRejected) => Err(None),
                Err(error) => panic!("{error}"),
            }
        }
    }
}

/// Takes leave, and waits until the server knows.
async fn go(server: &TestServer, guest: Guest) {
    let before = server.server.session_count();
    if let Guest::Polling(sid) = &guest {
        server.post(sid, "1").await;
    }
    drop(guest);
    eventually("a session to end", || server.server.session_count() < before).await;
}

async fn all_go(server: &TestServer, guests: impl IntoIterator<Item = Guest>) {
    let guests: Vec<_> = guests.into_iter().collect();
    let leaving = guests.iter().map(|guest| async move {
        if let Guest::Polling(sid) = guest {
            server.post(sid, "1").await;
        }
    });
    futures_util::future::join_all(leaving).await;
    drop(guests);
    server.no_sessions_left().await;
}

fn hit(server: &TestServer, limit: &str) -> u64 {
    server.metric(&format!("quicket_limits_hit_total{{limit=\"{limit}\"}}"))
}

/// The newcomer was sent away with this status, over this limit, for the first time.
fn sent_away(
    server: &TestServer,
    result: Result<Guest, SentAway>,
    status: u16,
    limit: &str,
) -> Option<u64> {
    let Err(answer) = result else { panic!("one too many came in") };
    assert_eq!(hit(server, limit), 1);
    let error = if status == 429 { "too_many_requests" } else { "unavailable" };
    let refused = format!("quicket_handshakes_refused_total{{error=\"{error}\"}}");
    assert_eq!(server.metric(&refused), 1);
    answer.map(|(answered, seconds)| {
        assert_eq!(answered, status);
        seconds
    })
}

async fn sessions_in_all_are_limited(kind: TransportKind) {
    let server = limited(LimitsConfig { max_sessions: Some(3), ..behind_a_proxy() }).await;
    let mut guests = Vec::new();
    for n in 0..3 {
        guests.push(come(&server, kind, &format!("203.0.113.{n}")).await.unwrap());
    }
    let fourth = come(&server, kind, "203.0.113.9").await;
    let seconds = sent_away(&server, fourth, 503, "sessions");
    assert!(seconds.is_none_or(|seconds| seconds == 5));
    go(&server, guests.pop().unwrap()).await;
    guests.push(come(&server, kind, "203.0.113.9").await.expect("there is room again"));
    all_go(&server, guests).await;
    server.end().await;
}

async fn sessions_of_one_address_are_limited(kind: TransportKind) {
    let server = limited(LimitsConfig { max_sessions_per_ip: Some(2), ..behind_a_proxy() }).await;
    let mut guests = Vec::new();
    for address in ["203.0.113.1", "6.6.6.6, 203.0.113.1"] {
        guests.push(come(&server, kind, address).await.unwrap());
    }
    let third = come(&server, kind, "203.0.113.1").await;
    sent_away(&server, third, 429, "sessions_per_ip");
    for address in ["203.0.113.2", "10.0.0.1", "10.0.0.1", "10.0.0.1"] {
        let other = come(&server, kind, address).await;
        guests.push(other.expect("others are not concerned, nor is who is exempt"));
    }
    go(&server, guests.remove(0)).await;
    guests.push(come(&server, kind, "203.0.113.1").await.expect("there is room again"));
    all_go(&server, guests).await;
    server.end().await;
}

/// All at once, so that the machine may be slow: who came in, and how many were sent away.
async fn crowd(
    server: &TestServer,
    kind: TransportKind,
    address: &str,
    many: usize,
) -> (Vec<Guest>, Vec<SentAway>) {
    let all = (0..many).map(|_| come(server, kind, address));
    let (mut guests, mut away) = (Vec::new(), Vec::new());
    for result in futures_util::future::join_all(all).await {
        match result {
            Ok(guest) => guests.push(guest),
            Err(answer) => away.push(answer),
        }
    }
    (guests, away)
}

async fn handshakes_of_one_address_are_limited(kind: TransportKind) {
    let limits = LimitsConfig { handshake_rate_per_ip: Some(1), ..behind_a_proxy() };
    let server = limited(limits).await;
    let (guests, away) = crowd(&server, kind, "203.0.113.1", 30).await;
    assert!(guests.len() >= 5 && !away.is_empty(), "five seconds' worth at once");
    for answer in away.iter().flatten() {
        assert_eq!(*answer, (429, 1));
    }
    assert_eq!(hit(&server, "handshake_rate_per_ip"), away.len() as u64);
    let other = come(&server, kind, "203.0.113.2").await;
    let other = other.expect("others are not concerned");
    all_go(&server, guests.into_iter().chain([other])).await;
    server.end().await;
}

async fn a_burst_of_handshakes_waits_its_turn(kind: TransportKind) {
    let limits = LimitsConfig {
        handshake_rate: Some(5),
        handshake_wait: Duration::from_secs(20),
        ..behind_a_proxy()
    };
    let server = limited(limits).await;
    let begun = Instant::now();
    let waiting = async {
        let waits = || server.metric("quicket_handshakes_waiting") > 0;
        eventually("somebody to wait", waits).await;
    };
    let ((guests, away), ()) = tokio::join!(crowd(&server, kind, "203.0.113.1", 12), waiting);
    assert!(away.is_empty() && guests.len() == 12, "nobody is sent away");
    // five came in at once, the others one by one; never earlier, however fast the machine
    assert!(begun.elapsed() >= Duration::from_millis(7 * 200), "{:?}", begun.elapsed());
    assert_eq!(server.metric("quicket_handshakes_waiting"), 0);
    assert_eq!(hit(&server, "handshake_rate"), 0);
    all_go(&server, guests).await;
    server.end().await;
}

async fn handshakes_beyond_the_wait_are_sent_away(kind: TransportKind) {
    let limits = LimitsConfig {
        handshake_rate: Some(1),
        handshake_wait: Duration::from_millis(1500),
        ..behind_a_proxy()
    };
    let server = limited(limits).await;
    let (guests, away) = crowd(&server, kind, "203.0.113.1", 30).await;
    assert!(guests.len() >= 2 && !away.is_empty(), "{} came in", guests.len());
    let mut seconds: Vec<_> = away.iter().flatten().map(|(_, seconds)| *seconds).collect();
    assert!(away.iter().flatten().all(|(status, _)| *status == 503));
    seconds.sort_unstable();
    if kind != WebTransport {
        assert!(seconds[0] >= 2, "not before there is a turn: {seconds:?}");
        let count = seconds.len();
        seconds.dedup();
        assert!(seconds.len() > count / 2, "not all at the same time: {seconds:?}");
    }
    assert_eq!(hit(&server, "handshake_rate"), away.len() as u64);
    all_go(&server, guests).await;
    server.end().await;
}

async fn sessions_that_are_being_opened_are_limited(kind: TransportKind) {
    let (gate, asked) = (Arc::new(Semaphore::new(0)), Arc::new(Mutex::new(0)));
    let (wait, count) = (gate.clone(), asked.clone());
    let limits = LimitsConfig { max_half_open_sessions: Some(2), ..behind_a_proxy() };
    let config = Config { limits, ..config(engine()) };
    let server = TestServer::start(engine(), echo, |builder| {
        builder.config(config).admit(move |_| {
            *count.lock().unwrap() += 1;
            let wait = wait.clone();
            async move {
                wait.acquire().await.unwrap().forget();
                Ok(())
            }
        })
    })
    .await;
    let two = crowd(&server, kind, "203.0.113.1", 2);
    let third = async {
        eventually("two to be asked", || *asked.lock().unwrap() == 2).await;
        let third = come(&server, kind, "203.0.113.1").await;
        gate.add_permits(3);
        third
    };
    let ((mut guests, away), third) = tokio::join!(two, third);
    assert!(away.is_empty());
    sent_away(&server, third, 503, "half_open_sessions");
    let third = come(&server, kind, "203.0.113.1").await;
    guests.push(third.expect("an open session is not half-open"));
    all_go(&server, guests).await;
    server.end().await;
}

/// Somebody new, who may be told that there is no place: on WebTransport by a refusal, its status unseen.
async fn knock(address: SocketAddr, kind: TransportKind) -> Result<(), ()> {
    let target = format!("/socket.io/?EIO=4&transport={kind}");
    if kind == WebTransport {
        let url = format!("https://{address}{target}");
        let connect = endpoint(address).await.connect(url).await;
        return match connect {
            Ok(_) => Ok(()),
            Err(ConnectingError::SessionRejected) => Err(()),
            Err(error) => panic!("{error}"),
        };
    }
    let request = if kind == Polling { Request::get(target) } else { Request::websocket(target) };
    let (answer, _stream) = request.start(address).await.upgrade().await.unwrap();
    match answer.status {
        200 | 101 => Ok(()),
        503 => Err(()),
        other => panic!("{other}"),
    }
}

async fn sessions_without_a_namespace_are_limited(kind: TransportKind) {
    let mut config = socketio::config();
    config.limits.max_half_open_sessions = Some(2);
    let server = socketio::TestServer::start(config, |server| {
        server.of("/").on_connect(|_| async {});
    })
    .await;
    let mut clients = [server.client(kind).await, server.client(kind).await];
    let poll = || async {
        let target = "/socket.io/?EIO=4&transport=polling";
        Request::get(target).send(server.address).await.status
    };
    let hit = || server.metric("limits_hit_total{limit=\"half_open_sessions\"}");
    assert_eq!(knock(server.address, kind).await, Err(()));
    assert_eq!(hit(), 1, "{kind}");
    clients[0].join("/").await;
    // the place is free as soon as the session's task has seen that it has joined
    within("a place", async { while poll().await != 200 {} }).await;
    let before = hit();
    assert_eq!(knock(server.address, kind).await, Err(()), "one place was free");
    assert_eq!(hit(), before + 1, "{kind}");
}

async fn the_application_sees_the_clients_address(kind: TransportKind) {
    for (trusted, told, address) in [
        (true, "203.0.113.7", "203.0.113.7"),
        (true, "6.6.6.6, 203.0.113.7", "203.0.113.7"),
        (true, "203.0.113.7, 127.0.0.1", "203.0.113.7"),
        (true, "2001:db8::7", "2001:db8::7"),
        (true, "nobody", "127.0.0.1"),
        (false, "203.0.113.7", "127.0.0.1"),
    ] {
        let seen: Arc<Mutex<Vec<(IpAddr, SocketAddr)>>> = Arc::default();
        let sink = seen.clone();
        let limits = if trusted { behind_a_proxy() } else { LimitsConfig::default() };
        let config = Config { limits, ..config(engine()) };
        let server = TestServer::start(engine(), echo, |builder| {
            builder.config(config).admit(move |handshake| {
                sink.lock().unwrap().push((handshake.address, handshake.peer));
                async { Ok(()) }
            })
        })
        .await;
        let guest = come(&server, kind, told).await.unwrap();
        let [(client, peer)] = seen.lock().unwrap()[..] else { panic!("asked once") };
        if kind == WebTransport {
            assert_eq!(peer.ip(), loopback(told), "{told}");
            assert_eq!(client, peer.ip(), "no proxy forwards it, so nobody says who it is");
        } else {
            assert_eq!(client, address.parse::<IpAddr>().unwrap(), "{told}");
            assert_eq!(peer.ip(), server.address.ip(), "the peer is the proxy all the same");
        }
        go(&server, guest).await;
        server.end().await;
    }
}

/// A connection on which requests are answered; `None` if it is closed at once.
async fn connection(address: SocketAddr) -> Option<TcpStream> {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n";
    stream.write_all(request).await.ok()?;
    let mut answer = [0; 15];
    within("an answer", stream.read_exact(&mut answer)).await.ok()?;
    assert_eq!(&answer, b"HTTP/1.1 200 OK");
    Some(stream)
}

async fn until_connected(address: SocketAddr) -> TcpStream {
    within("room for a connection", async {
        loop {
            if let Some(stream) = connection(address).await {
                break stream;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await
}

#[tokio::test]
async fn tcp_connections_of_one_address_are_limited_and_a_websocket_is_one() {
    let limits = LimitsConfig {
        max_connections_per_ip: Some(2),
        per_ip_exempt: Vec::new(),
        ..LimitsConfig::default()
    };
    let server = limited(limits).await;
    let address = server.address;
    // the first request of every test may be counted still
    let (_first, second) = (until_connected(address).await, until_connected(address).await);
    let before = hit(&server, "connections_per_ip");
    assert!(connection(address).await.is_none(), "the third is closed");
    assert_eq!(hit(&server, "connections_per_ip"), before + 1);
    drop(second);
    drop(until_connected(address).await);
    let target = TestServer::target(WebSocket, None);
    let websocket = within("a WebSocket", async {
        loop {
            if let Ok(link) = WebSocketLink::connect(address, &target, &[]).await {
                break link;
            }
        }
    })
    .await;
    assert!(connection(address).await.is_none(), "a WebSocket is a connection still");
    drop(websocket);
    until_connected(address).await;
    server.end().await;
}

#[tokio::test]
async fn connections_of_those_who_are_exempt_or_trusted_are_not_limited() {
    for limits in [
        LimitsConfig { max_connections_per_ip: Some(1), ..LimitsConfig::default() },
        LimitsConfig {
            max_connections_per_ip: Some(1),
            per_ip_exempt: Vec::new(),
            ..behind_a_proxy()
        },
    ] {
        let server = limited(limits).await;
        let mut connections = Vec::new();
        for _ in 0..5 {
            connections.push(connection(server.address).await.expect("no limit"));
        }
        assert_eq!(hit(&server, "connections_per_ip"), 0);
        server.end().await;
    }
}

/// A connection that is kept, or what it is told instead. Not asked for its health, which is told to all.
async fn place(address: SocketAddr) -> Result<TcpStream, u16> {
    let exchange = Request::get("/").header("Connection", "keep-alive").start(address).await;
    let (answer, stream) = within("an answer", exchange.upgrade()).await.unwrap();
    match answer.status {
        404 => Ok(stream),
        status => Err(status),
    }
}

/// What succeeds as soon as there is room.
async fn until_room<T, E>(mut come: impl AsyncFnMut() -> Result<T, E>) -> T {
    within("room for a connection", async {
        loop {
            if let Ok(guest) = come().await {
                break guest;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await
}

/// Whoever has them, exempt or not, and of whatever protocol; health is told even so.
#[tokio::test]
async fn connections_in_all_are_limited() {
    let server =
        limited(LimitsConfig { max_connections: Some(3), ..LimitsConfig::default() }).await;
    let address = server.address;
    let target = TestServer::target(WebSocket, None);
    // the first request of every test may be counted still
    let first = until_room(async || place(address).await).await;
    let quic = until_room(async || WebTransportLink::connect(&server).await).await;
    let websocket = until_room(async || WebSocketLink::connect(address, &target, &[]).await).await;
    let before = hit(&server, "connections");
    let answer = Request::get(&target).send(address).await;
    assert_eq!(answer.status, 503, "one above");
    assert_eq!(answer.header("connection").as_deref(), Some("close"));
    assert_eq!(answer.header("retry-after").as_deref(), Some("1"));
    assert_eq!(hit(&server, "connections"), before + 1);
    let health = Request::get("/healthz").send(address).await;
    assert_eq!(health.status, 200, "a full process is not to be restarted");
    let refused = WebTransportLink::connect(&server).await;
    assert!(refused.is_err(), "it counts for QUIC, too");
    assert!(hit(&server, "connections") >= before + 3, "whoever is slow asks more than once");
    // each that leaves makes room for one
    let mut held = Vec::new();
    let leave: [Box<dyn Any>; 3] = [Box::new(websocket), Box::new(first), Box::new(quic)];
    for one in leave {
        assert_eq!(place(address).await.err(), Some(503));
        drop(one);
        held.push(until_room(async || place(address).await).await);
    }
    assert_eq!(place(address).await.err(), Some(503), "exactly one each");
    assert_eq!(server.metric("quicket_connections_refused_total"), 0, "that is for descriptors");
    server.end().await;
}

/// Bytes of an HTTP/1 request's head: refused when so many have come without its end.
const HEAD_MAX: usize = 9 * 1024;

#[tokio::test]
async fn the_head_of_a_request_is_limited() {
    let server =
        limited(LimitsConfig { max_header_bytes: HEAD_MAX, ..LimitsConfig::default() }).await;
    for (bytes, status) in [(HEAD_MAX - 1, "200"), (HEAD_MAX, "431")] {
        let mut head = b"GET /healthz HTTP/1.1\r\nHost: x\r\nx: ".to_vec();
        head.resize(bytes, b'x');
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(&head).await.unwrap();
        if status == "200" {
            stream.write_all(b"\r\n\r\n").await.unwrap();
        }
        let mut answer = [0; 12];
        within("an answer", stream.read_exact(&mut answer)).await.unwrap();
        let answer = String::from_utf8_lossy(&answer);
        assert_eq!(answer, format!("HTTP/1.1 {status}"), "{bytes} bytes");
    }
    eventually("it to be counted", || hit(&server, "head_bytes") == 1).await;
    let mut client = Client::connect(&server, WebSocket).await;
    client.echoes("others go on").await;
    server.end().await;
}

/// A burst is not taken in one piece, with everybody else behind it: after a few newcomers all others have their turn.
#[tokio::test]
async fn newcomers_take_turns_with_everybody_else() {
    // so that each newcomer but the first counts
    let server =
        limited(LimitsConfig { max_connections: Some(1), ..LimitsConfig::default() }).await;
    let burst = || std::net::TcpStream::connect(server.address).unwrap();
    // the thread is the server's as well, so that it meets all of them at once
    let newcomers: Vec<_> = (0..40).map(|_| burst()).collect();
    let (mut before, mut most) = (hit(&server, "connections"), 0);
    while before < newcomers.len() as u64 - 1 {
        tokio::task::yield_now().await;
        let now = hit(&server, "connections");
        most = most.max(now - before);
        before = now;
    }
    assert!(most <= 8, "{most} were let in between two turns of this task");
    drop(newcomers);
    server.end().await;
}
