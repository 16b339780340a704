//! A process of QUIC that is gone, and the one that gets its clients' packets from then on: with a key that
//! both have, those clients hear at once that their connection is lost; without it they wait for their idle
//! timeout. Addresses that one process has seen proven count for the other likewise.
//!
//! The processes are the real binary, killed with SIGKILL. What a balancer does is a task of the test.

#![allow(clippy::unwrap_used, reason = "in a test that is how to fail")]

mod support;

use std::net::{Ipv4Addr, SocketAddr};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use support::within;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::net::UdpSocket;
use tokio::process::{Child, Command};
use tokio::sync::watch;
use wtransport::error::ConnectionError;
use wtransport::tls::Sha256Digest;
use wtransport::tls::client::NoServerVerification;

const KEY: &str = "0123456789abcdef0123456789abcdef";
const OTHER_KEY: &str = "fedcba9876543210fedcba9876543210";

/// A process that serves on a free port.
struct Process {
    child: Child,
    address: SocketAddr,
}

impl Process {
    async fn start(environment: &[(&str, &str)]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_quicket"));
        command.env_clear().env("LISTEN_ADDRESS", "127.0.0.1").env("PORT", "0");
        command.env("LOG_FILTER", "info").envs(environment.iter().copied());
        command.stdin(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap()).lines();
        let port = within("the port", async {
            loop {
                let line = log.next_line().await.unwrap().expect("it says its port");
                if let Some((_, port)) = line.split_once("WebTransport is on UDP ") {
                    let end = port.find(|c: char| !c.is_ascii_digit()).unwrap_or(port.len());
                    return port[..end].parse().unwrap();
                }
            }
        })
        .await;
        // nobody reads it, but a pipe that nobody holds would end the process
        tokio::spawn(async move { while let Ok(Some(_)) = log.next_line().await {} });
        Self { child, address: (Ipv4Addr::LOCALHOST, port).into() }
    }

    async fn certificate_hash(&self) -> Sha256Digest {
        let about = reqwest::get(format!("http://{}/webtransport.json", self.address));
        let about: serde_json::Value =
            serde_json::from_str(&about.await.unwrap().text().await.unwrap()).unwrap();
        let hash = about["certificateHashes"][0].as_str().unwrap();
        Sha256Digest::new(STANDARD.decode(hash).unwrap().try_into().unwrap())
    }
}

/// A balancer of UDP that sends everything to one process, and to another once it is told to.
struct Balancer {
    address: SocketAddr,
    to: watch::Sender<SocketAddr>,
}

impl Balancer {
    /// `retries_to`: who gets the packets behind a RETRY.
    async fn start(to: SocketAddr, retries_to: Option<SocketAddr>) -> Self {
        let inside = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let outside = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = inside.local_addr().unwrap();
        let to = watch::Sender::new(to);
        let sender = to.clone();
        tokio::spawn(async move {
            let mut client = None;
            let (mut in_buffer, mut out_buffer) = ([0; 2048], [0; 2048]);
            loop {
                tokio::select! {
                    received = inside.recv_from(&mut in_buffer) => {
                        let (len, from) = received.unwrap();
                        client = Some(from);
                        let to = *sender.borrow();
                        outside.send_to(&in_buffer[..len], to).await.unwrap();
                    }
                    received = outside.recv_from(&mut out_buffer) => {
                        // a port that nobody listens on may answer with an error
                        let Ok((len, _)) = received else { continue };
                        if let Some(next) = retries_to && is_retry(&out_buffer[..len]) {
                            sender.send_replace(next);
                        }
                        if let Some(client) = client {
                            inside.send_to(&out_buffer[..len], client).await.unwrap();
                        }
                    }
                }
            }
        });
        Self { address, to }
    }
}

/// RFC 9000 17.2.5: a long header of type 3.
fn is_retry(packet: &[u8]) -> bool {
    packet[0] & 0xf0 == 0xf0
}

async fn endpoint(
    processes: [&Process; 2],
    idle: Duration,
) -> wtransport::Endpoint<wtransport::endpoint::endpoint_side::Client> {
    let mut hashes = Vec::new();
    for process in processes {
        hashes.push(process.certificate_hash().await);
    }
    let config = wtransport::ClientConfig::builder()
        .with_bind_address((Ipv4Addr::LOCALHOST, 0).into())
        .with_server_certificate_hashes(hashes)
        .max_idle_timeout(Some(idle))
        .unwrap()
        .build();
    wtransport::Endpoint::client(config).unwrap()
}

fn url(address: SocketAddr) -> String {
    format!("https://{address}/socket.io/?EIO=4&transport=webtransport")
}

/// How the connection of a client ends whose process is killed, and whose packets reach another then.
async fn end_of_a_connection(
    one: &[(&str, &str)],
    other: &[(&str, &str)],
    idle: Duration,
) -> ConnectionError {
    let mut gone = Process::start(one).await;
    let left = Process::start(other).await;
    let balancer = Balancer::start(gone.address, None).await;
    let endpoint = endpoint([&gone, &left], idle).await;
    let connection = within("a session", endpoint.connect(url(balancer.address))).await.unwrap();
    let (mut send, mut receive) = connection.open_bi().await.unwrap().await.unwrap();
    send.write_all(b"\x010").await.unwrap();
    within("the OPEN packet", receive.read_exact(&mut [0; 32])).await.unwrap();
    gone.child.kill().await.unwrap();
    balancer.to.send_replace(left.address);
    // whatever a client sends: an event, an answer to a ping, a keep-alive
    send.write_all(b"\x0240").await.unwrap();
    within("the end of the connection", connection.closed()).await
}

fn was_reset(end: &ConnectionError) -> bool {
    matches!(end, ConnectionError::QuicProto(error) if error.to_string().contains("has been reset"))
}

const LONG: Duration = Duration::from_secs(600);

#[tokio::test]
async fn a_client_of_a_process_that_is_gone_is_told_by_one_with_the_same_key() {
    let key = ("WEBTRANSPORT_RESET_KEY", KEY);
    let end = end_of_a_connection(&[key], &[key], LONG).await;
    assert!(was_reset(&end), "{end:?}");
}

#[tokio::test]
async fn one_whose_connection_ids_name_their_process_is_told_likewise() {
    let key = ("WEBTRANSPORT_RESET_KEY", KEY);
    let [one, other] =
        ["0101010101010101", "0202020202020202"].map(|id| ("WEBTRANSPORT_SERVER_ID", id));
    let end = end_of_a_connection(&[key, one], &[key, other], LONG).await;
    assert!(was_reset(&end), "{end:?}");
}

#[tokio::test]
async fn a_client_believes_no_process_with_another_key() {
    let [one, other] = [KEY, OTHER_KEY].map(|key| ("WEBTRANSPORT_RESET_KEY", key));
    let end = end_of_a_connection(&[one], &[other], Duration::from_secs(3)).await;
    assert!(matches!(end, ConnectionError::TimedOut), "{end:?}");
}

/// Does a client connect whose address one process wants proven, and whose proof reaches another?
async fn connects_after_a_retry(keys: [&str; 2]) -> bool {
    let [one, other] = keys.map(|key| ("WEBTRANSPORT_RESET_KEY", key));
    let busy = Process::start(&[one, ("WEBTRANSPORT_MAX_PENDING_HANDSHAKES", "1")]).await;
    let idle = Process::start(&[other]).await;
    let balancer = Balancer::start(busy.address, Some(idle.address)).await;
    let endpoint = endpoint([&busy, &idle], Duration::from_secs(2)).await;
    let _pending = pending_handshake(busy.address).await;
    let connected = within("a session, or none", endpoint.connect(url(balancer.address))).await;
    assert_eq!(*balancer.to.borrow(), idle.address, "there was no RETRY");
    connected.is_ok()
}

/// A QUIC connection that never asks for a session, and counts as a handshake for as long.
async fn pending_handshake(address: SocketAddr) -> (quinn::Endpoint, quinn::Connection) {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(NoServerVerification::new()))
        .with_no_client_auth();
    tls.alpn_protocols = vec![b"h3".to_vec()];
    let tls = quinn::crypto::rustls::QuicClientConfig::try_from(tls).unwrap();
    let config = quinn::ClientConfig::new(Arc::new(tls));
    let endpoint = quinn::Endpoint::client((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let connecting = endpoint.connect_with(config, address, "localhost").unwrap();
    let connection = within("a QUIC connection", connecting).await.unwrap();
    (endpoint, connection)
}

#[tokio::test]
async fn an_address_that_was_proven_to_one_process_is_proven_to_another_with_the_same_key() {
    assert!(connects_after_a_retry([KEY, KEY]).await);
}

#[tokio::test]
async fn it_is_not_to_one_with_another_key() {
    assert!(!connects_after_a_retry([KEY, OTHER_KEY]).await);
}
