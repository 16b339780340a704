//! No slow death: whoever begins something and does not go on with it is let go of at a deadline.
//!
//! Deadlines of a minute are waited for in the clock's time, not in ours: on a runtime whose clock is paused
//! the next timer is due as soon as there is nothing else to do.

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use quicket::config::{Config, EngineConfig, RecoveryConfig, SocketIoConfig, TlsFiles};
use quicket::{EngineServer, EngineSocket};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::Instant;

use crate::support::client::websocket_frame;
use crate::support::http::Request;
use crate::support::server::Sessions;
use crate::support::{Client, TestServer, engine, eventually, socketio, within};
use quicket::CloseReason;
use quicket::TransportKind::{Polling, WebSocket, WebTransport};

/// Heartbeats so short that a test can miss one.
fn hasty() -> EngineConfig {
    EngineConfig {
        ping_interval: Duration::from_millis(500),
        ping_timeout: Duration::from_millis(500),
        ..engine()
    }
}

/// A server on a paused clock, where the helpers' deadlines would be due at once.
async fn timeless(tls: Option<TlsFiles>) -> SocketAddr {
    let mut config = Config { tls, engine: engine(), ..Config::default() };
    (config.listen.address, config.listen.port) = ([127, 0, 0, 1].into(), 0);
    let server = EngineServer::builder(|_: EngineSocket| async {}).config(config);
    let server = server.build().await.unwrap();
    let address = server.bind().await.unwrap();
    tokio::spawn(async move { server.serve().await });
    address
}

/// How long a connection lives on which these bytes come and no more.
async fn life_of(address: SocketAddr, bytes: &[u8]) -> Duration {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let begin = Instant::now();
    let mut answer = Vec::new();
    // a reset is an end, too
    let _ = stream.read_to_end(&mut answer).await;
    begin.elapsed()
}

#[tokio::test(start_paused = true)]
async fn half_a_head_and_no_request_at_all_are_waited_for_65_seconds() {
    let address = timeless(None).await;
    for begun in [&b""[..], b"G", b"GET /engine.io/?EIO=4 HTTP/1.1\r\nHost: x\r\nX-Slow: y"] {
        let life = life_of(address, begun).await;
        assert!((65..=66).contains(&life.as_secs()), "{life:?} after {} bytes", begun.len());
    }
}

/// The deadline is for the whole head, not for the next byte of it.
#[tokio::test(start_paused = true)]
async fn a_head_that_comes_a_byte_at_a_time_is_cut_off_all_the_same() {
    let address = timeless(None).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    let begin = Instant::now();
    stream.write_all(b"GET / HTTP/1.1\r\nX-Slow: ").await.unwrap();
    while stream.write_all(b"x").await.is_ok() {
        assert!(begin.elapsed() < Duration::from_secs(90), "still open");
        let mut byte = [0; 1];
        if tokio::time::timeout(Duration::from_secs(5), stream.read(&mut byte)).await.is_ok() {
            break;
        }
    }
    assert!(begin.elapsed() >= Duration::from_secs(65));
}

#[tokio::test(start_paused = true)]
async fn half_a_tls_handshake_is_waited_for_10_seconds() {
    let files = Certificate::make();
    let address = timeless(Some(files.tls())).await;
    for begun in [&b""[..], &[22], &[22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3, 7, 7]] {
        let life = life_of(address, begun).await;
        assert!((10..=11).contains(&life.as_secs()), "{life:?} after {} bytes", begun.len());
    }
}

/// A certificate for localhost, as files that are gone at the end.
struct Certificate(PathBuf);

impl Certificate {
    fn make() -> Self {
        let folder = std::env::temp_dir().join(format!("quicket-slow-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        std::fs::write(folder.join("cert.pem"), made.cert.pem()).unwrap();
        std::fs::write(folder.join("key.pem"), made.signing_key.serialize_pem()).unwrap();
        Self(folder)
    }

    fn tls(&self) -> TlsFiles {
        TlsFiles { cert: self.0.join("cert.pem"), key: self.0.join("key.pem") }
    }
}

impl Drop for Certificate {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Whatever trickles in meanwhile.
#[tokio::test]
async fn a_body_that_does_not_come_is_waited_for_one_heartbeat() {
    let mut server = TestServer::echo(hasty()).await;
    let client = server.connect(Polling).await;
    let target = TestServer::target(Polling, Some(&client.sid));
    let post = Request::post(target, "4").header("Content-Length", "100000");
    let exchange = post.start(server.address).await;
    let (mut read, mut write) = exchange.stream.into_split();
    let trickle = async {
        // until the server has closed
        while write.write_all(b"x").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let mut answer = Vec::new();
    let reading = within("an answer", read.read_to_end(&mut answer));
    tokio::select! {
        _ = reading => {}
        () = trickle => {}
    }
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 408 "), "{answer}");
    // the pong was due at the same time
    let reason = server.session_end().await;
    assert!(matches!(reason, CloseReason::PingTimeout | CloseReason::TransportError), "{reason:?}");
    assert_eq!(server.metric("quicket_http_requests_refused_total"), 1);
    server.end().await;
}

/// An answer that nobody reads is kept by the system and by us, so there has to be an end to it. The
/// session's end is not one: its answer is HTTP's by then.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn an_answer_that_is_not_read_is_cut_off() {
    let sessions = Sessions::default();
    let keep = sessions.clone();
    // the poll has to come while the session lives, which is as long as the answer may wait
    let config = EngineConfig {
        ping_interval: Duration::from_secs(3),
        ping_timeout: Duration::from_secs(2),
        outbox_bytes: 64 << 20,
        http_compression: None,
        ..engine()
    };
    let app = move |socket| {
        keep.keep(socket);
        async { None }
    };
    let server = TestServer::start(config, app, |builder| builder).await;
    let client = server.connect(Polling).await;
    let session = sessions.take().await;
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let mut stream = socket.connect(server.address).await.unwrap();
    let poll = Request::get(TestServer::target(Polling, Some(&client.sid)));
    stream.write_all(poll.head(server.address).as_bytes()).await.unwrap();
    // more than the buffers of both sides take
    session.send("x".repeat(32 << 20)).unwrap();
    // nobody tells the reader, who would have to read for that: the system's table shows it
    let client = stream.local_addr().unwrap();
    let is_open = || {
        let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
        let ends = format!(":{:04X} 0100007F:{:04X} ", server.address.port(), client.port());
        table.contains(&ends)
    };
    assert!(is_open());
    eventually("the server to cut the connection", || !is_open()).await;
    let mut answer = Vec::new();
    assert!(stream.read_to_end(&mut answer).await.is_err(), "ended in order");
    assert!(answer.len() < 32 << 20);
    drop(session);
    server.end().await;
}

/// Nothing but fragments: the pong cannot come between them, so the heartbeat is the deadline. Pings of the
/// WebSocket, which may stand between, change nothing about that.
#[tokio::test]
async fn a_message_in_fragments_without_end_ends_with_the_heartbeat() {
    let mut server = TestServer::echo(hasty()).await;
    let mut client = server.connect(WebSocket).await;
    client.send_bytes(&websocket_frame(0x01, b"4")).await;
    let more = [websocket_frame(0x00, b"x"), websocket_frame(0x89, b"")].concat();
    let endless = async {
        loop {
            client.send_bytes(&more).await;
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::select! {
        reason = server.session_end() => assert_eq!(reason, CloseReason::PingTimeout),
        () = endless => unreachable!(),
    }
    server.end().await;
}

/// No coding of a request's body is understood, so none can be larger than it came.
#[tokio::test]
async fn a_gzip_body_is_not_inflated() {
    let mut server = TestServer::echo(engine()).await;
    let client = server.connect(Polling).await;
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(&vec![b'4'; 20 << 20]).unwrap();
    let bomb = encoder.finish().unwrap();
    let target = TestServer::target(Polling, Some(&client.sid));
    let post = Request::post(target, bomb).header("Content-Encoding", "gzip");
    assert_eq!(post.send(server.address).await.status, 400);
    assert_eq!(server.session_end().await, CloseReason::ParseError);
    assert_eq!(server.misbehaved("invalid_utf8"), 1);
    server.end().await;
}

/// A session that is opened and never polled again has nobody to send its pings to.
#[tokio::test]
async fn a_session_that_is_opened_and_left_ends_with_the_heartbeat() {
    let mut server = TestServer::echo(hasty()).await;
    let answer = Request::get(TestServer::target(Polling, None)).send(server.address).await;
    assert_eq!(answer.status, 200);
    assert_eq!(server.session_end().await, CloseReason::PingTimeout);
    let silent: Client = server.connect(WebSocket).await;
    assert_eq!(server.session_end().await, CloseReason::PingTimeout);
    drop(silent);
    server.end().await;
}

/// Knowing a sid is to be the session, so nobody may guess one: 16 of its characters are random, and each of
/// their 96 bits is as often 1 as 0.
#[tokio::test]
async fn a_sid_has_96_random_bits() {
    /// The generator that `rand::random` draws from, which makes the sids, is one for keys.
    fn is_for_keys(_: impl rand::CryptoRng) {}
    is_for_keys(rand::rng());
    let server = TestServer::echo(engine()).await;
    let mut sids = Vec::new();
    for _ in 0..SIDS {
        let answer = Request::get(TestServer::target(Polling, None)).send(server.address).await;
        let open: serde_json::Value = serde_json::from_str(&answer.text()[1..]).unwrap();
        let sid = open["sid"].as_str().unwrap().to_owned();
        assert_eq!(server.post(&sid, "1").await.status, 200);
        sids.push(sid);
    }
    are_random(&sids);
    server.end().await;
}

/// The socket's id, and the secret by which its session is resumed.
#[tokio::test]
async fn ids_of_sockets_and_of_sessions_have_96_random_bits() {
    let window = Duration::from_secs(60);
    let recovery = RecoveryConfig { window, ..RecoveryConfig::default() };
    let socketio = SocketIoConfig { recovery, ..SocketIoConfig::default() };
    let config = Config { socketio, ..socketio::config() };
    let server = socketio::TestServer::start(config, |_| {}).await;
    let mut client = server.client(WebTransport).await;
    let (mut ids, mut secrets) = (Vec::new(), Vec::new());
    for _ in 0..SIDS {
        client.send("40").await;
        let answer = client.recv_text().await;
        let answer: serde_json::Value = serde_json::from_str(&answer[2..]).unwrap();
        ids.push(answer["sid"].as_str().unwrap().to_owned());
        secrets.push(answer["pid"].as_str().unwrap().to_owned());
        client.send("41").await;
    }
    are_random(&ids);
    are_random(&secrets);
}

const SIDS: usize = 500;

/// Is each of the 96 bits as often set as not?
fn are_random(sids: &[String]) {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut ones = [0; 96];
    for sid in sids {
        assert_eq!(sid.len(), 20);
        for (at, letter) in sid.bytes().take(16).enumerate() {
            let bits = ALPHABET.iter().position(|known| *known == letter).unwrap();
            for bit in 0..6 {
                ones[at * 6 + bit] += bits >> bit & 1;
            }
        }
    }
    // 6 standard deviations: once in 10 million runs by chance
    let most = 6.0 * (SIDS as f64).sqrt() / 2.0;
    for (bit, ones) in ones.into_iter().enumerate() {
        let off = (ones as f64 - SIDS as f64 / 2.0).abs();
        assert!(off <= most, "bit {bit} is set in {ones} of {SIDS}");
    }
}
