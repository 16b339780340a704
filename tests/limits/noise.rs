//! Random bytes at every door. The seed is printed: `QUICKET_NOISE_SEED` repeats a run.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use quicket::TransportKind::{self, Polling, WebSocket, WebTransport};
use quicket::config::EngineConfig;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};

use super::support::client::{Link, WebTransportLink};
use super::support::http::Request;
use super::support::{Frame, TestServer, engine, on_every_transport, within};

on_every_transport!(noise_in_a_session_harms_nobody_else, noise_on_a_probe_harms_nobody_else);

fn random() -> StdRng {
    let seed = std::env::var("QUICKET_NOISE_SEED").ok();
    let seed = seed.map_or_else(rand::random, |seed| seed.parse().unwrap());
    println!("QUICKET_NOISE_SEED={seed}");
    StdRng::seed_from_u64(seed)
}

/// Bytes that are nearly right now and then, so that they get past the first check.
fn noise(random: &mut StdRng, kind: TransportKind) -> Vec<u8> {
    let length = random.random_range(0..200);
    let mut bytes: Vec<u8> = (0..length).map(|_| random.random()).collect();
    match random.random_range(0..4) {
        0 => {}
        1 => bytes
            .iter_mut()
            .for_each(|byte| *byte = b"0123456789b\x1e\x00\x7e\x7f\x80"[usize::from(*byte % 16)]),
        _ => {
            let text: String = bytes.iter().map(|byte| char::from(byte % 128)).collect();
            let frames = [Frame::from(format!("4{text}")), bytes.into(), "2".into()];
            bytes = match kind {
                Polling => format!("4{text}\u{1e}bAQ==\u{1e}{text}").into_bytes(),
                WebSocket => frames.iter().flat_map(Frame::masked).collect(),
                WebTransport => frames.iter().flat_map(Frame::length_prefixed).collect(),
            };
            for _ in 0..random.random_range(0..3) {
                let at = random.random_range(0..bytes.len());
                bytes[at] = random.random();
            }
        }
    }
    bytes
}

fn config() -> EngineConfig {
    EngineConfig {
        ping_interval: Duration::from_secs(2),
        ping_timeout: Duration::from_secs(2),
        upgrade_timeout: Duration::from_secs(1),
        max_payload: 10_000,
        ..engine()
    }
}

/// Makes noise with `round` while three clients, one on each transport, keep talking.
async fn with_company<F>(mut round: impl FnMut(std::sync::Arc<TestServer>, StdRng) -> F)
where
    F: Future<Output = ()>,
{
    let mut random = random();
    let config = EngineConfig { ping_interval: Duration::from_secs(60), ..config() };
    // noise may open sessions that wait; only the company is left alone by the heartbeat
    let server = std::sync::Arc::new(TestServer::echo(config).await);
    let mut company = Vec::new();
    for kind in TransportKind::ALL {
        company.push(server.connect(kind).await);
    }
    let begun = Instant::now();
    for n in 0..60 {
        let own = StdRng::seed_from_u64(random.random());
        within("a round of noise", round(server.clone(), own)).await;
        for friend in &mut company {
            friend.echoes(&format!("round {n}")).await;
        }
        if begun.elapsed() > Duration::from_secs(15) {
            break; // enough on a slow machine
        }
    }
    for friend in &mut company {
        friend.send("1").await;
    }
    let server = std::sync::Arc::into_inner(server).unwrap();
    server.end().await;
}

async fn noise_in_a_session_harms_nobody_else(kind: TransportKind) {
    with_company(|server, mut random| async move {
        let mut client = server.connect(kind).await;
        for _ in 0..random.random_range(1..4) {
            let noise = noise(&mut random, kind);
            // a session may well survive some
            let sent = tokio::time::timeout(Duration::from_secs(5), client.send_bytes(&noise));
            let _ = sent.await;
        }
    })
    .await;
}

async fn noise_on_a_probe_harms_nobody_else(kind: TransportKind) {
    let kind = if kind == Polling { WebSocket } else { kind };
    with_company(|server, mut random| async move {
        let mut client = server.connect(Polling).await;
        let link = Link::attach(&server, kind, &client.sid).await;
        let noise = noise(&mut random, kind);
        match link {
            Link::WebSocket(mut link) => {
                let _ = link.stream.get_mut().write_all(&noise).await;
            }
            Link::WebTransport(mut link) => {
                let _ = link.send.write_all(&noise).await;
            }
            Link::Polling(_) => unreachable!(),
        }
        // the session itself has done nothing wrong
        client.echoes("still polling").await;
        client.send("1").await;
    })
    .await;
}

#[tokio::test]
async fn noise_on_the_tcp_port_harms_nobody() {
    with_company(|server, mut random| async move {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        let mut bytes = noise(&mut random, Polling);
        if random.random() {
            let head = Request::websocket(TestServer::target(WebSocket, None)).head(server.address);
            let cut = random.random_range(0..head.len());
            bytes.splice(0..0, head.bytes().take(cut));
        }
        let _ = stream.write_all(&bytes).await;
        let _ = stream.shutdown().await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
    })
    .await;
}

#[tokio::test]
async fn noise_on_the_udp_port_harms_nobody() {
    with_company(|server, mut random| async move {
        let local = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let socket = UdpSocket::bind(local).await.unwrap();
        for _ in 0..20 {
            let mut bytes: Vec<u8> = (0..1_200).map(|_| random.random()).collect();
            if random.random() {
                bytes[0] |= 0xc0; // an Initial packet of QUIC version 1
                bytes[1..5].copy_from_slice(&[0, 0, 0, 1]);
            }
            let length = random.random_range(1..bytes.len());
            socket.send_to(&bytes[..length], server.address).await.unwrap();
        }
    })
    .await;
}

#[tokio::test]
async fn noise_as_the_first_bytes_of_a_stream_harms_nobody() {
    with_company(|server, mut random| async move {
        let mut link = WebTransportLink::connect(&server).await.unwrap();
        // streams and datagrams that Engine.IO has no use for
        if let Ok(opening) = link.connection.open_uni().await
            && let Ok(mut stream) = opening.await
        {
            let _ = stream.write_all(&noise(&mut random, WebTransport)).await;
        }
        let _ = link.connection.send_datagram(noise(&mut random, WebTransport));
        let _ = link.send.write_all(&noise(&mut random, WebTransport)).await;
    })
    .await;
}
