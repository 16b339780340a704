//! A client whose address changes, behind a balancer of UDP: one that reads the server id in QUIC connection
//! ids (QUIC-LB, AWS's Network Load Balancer) keeps it on its server, one that looks at addresses does not.
//!
//! Twice: with a balancer and a NAT that are tasks of this test, which needs no privilege; and in the kernel
//! (`kernel.rs`), with network namespaces, nftables and conntrack, which are what kube-proxy works with.

#![allow(clippy::unwrap_used, reason = "in a test that is how to fail")]

#[path = "migration/kernel.rs"]
mod kernel;
mod support;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use quicket::EngineServer;
use quicket::config::{Config, Listen, ServerId, WebTransportConfig};
use support::within;
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use wtransport::tls::Sha256Digest;

/// How long a QUIC connection lives without a packet from its peer.
const IDLE: Duration = Duration::from_secs(2);

/// A server that sends every message back.
struct Pod {
    server: EngineServer,
    address: SocketAddr,
    id: ServerId,
}

impl Pod {
    async fn start(id: ServerId) -> Self {
        Self::listen(id, Ipv4Addr::LOCALHOST, 0).await
    }

    async fn listen(id: ServerId, address: Ipv4Addr, port: u16) -> Self {
        let config = Config {
            listen: Listen { address: address.into(), port, ..Listen::default() },
            webtransport: WebTransportConfig {
                server_id: Some(id),
                idle_timeout: IDLE,
                keep_alive: IDLE / 4,
                ..WebTransportConfig::default()
            },
            shutdown_grace: Duration::from_secs(1),
            ..Config::default()
        };
        let server = EngineServer::builder(|mut session| async move {
            while let Ok(message) = session.recv().await {
                if session.send(message).is_err() {
                    break;
                }
            }
        });
        let server = server.config(config).build().await.unwrap();
        let address = server.bind().await.unwrap();
        let serving = server.clone();
        tokio::spawn(async move { serving.serve().await.unwrap() });
        Self { server, address, id }
    }

    async fn certificate_hash(&self) -> Sha256Digest {
        let about = reqwest::get(format!("http://{}/webtransport.json", self.address));
        let about: serde_json::Value =
            serde_json::from_str(&about.await.unwrap().text().await.unwrap()).unwrap();
        let hash = about["certificateHashes"][0].as_str().unwrap();
        Sha256Digest::new(STANDARD.decode(hash).unwrap().try_into().unwrap())
    }
}

#[derive(Clone, Copy)]
enum Routing {
    /// A new address is a new flow, and goes to the next pod.
    ByAddress,
    /// Packets with a short header go where their connection id says; others as above.
    ByServerId,
}

/// The way from the client to the pods: a NAT and a balancer.
struct Network {
    /// What the client dials.
    address: SocketAddr,
    rebind: mpsc::Sender<()>,
}

impl Network {
    async fn start(routing: Routing, pods: &[Pod]) -> Self {
        let inside = Arc::new(UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap());
        let address = inside.local_addr().unwrap();
        let pods: Vec<_> = pods.iter().map(|pod| (pod.address, pod.id)).collect();
        let (rebind, mut asked) = mpsc::channel(1);
        tokio::spawn(async move {
            for flow in 0.. {
                // the address that the pods see
                let outside = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
                tokio::select! {
                    () = forward(&inside, &outside, routing, &pods, flow) => {}
                    next = asked.recv() => if next.is_none() { return },
                }
            }
        });
        Self { address, rebind }
    }
}

async fn forward(
    inside: &UdpSocket,
    outside: &UdpSocket,
    routing: Routing,
    pods: &[(SocketAddr, ServerId)],
    flow: usize,
) {
    let mut client = None;
    let (mut to_pod, mut to_client) = ([0; 2048], [0; 2048]);
    loop {
        tokio::select! {
            received = inside.recv_from(&mut to_pod) => {
                let (len, from) = received.unwrap();
                client = Some(from);
                let packet = &to_pod[..len];
                let by_id = pods.iter().find(|(_, id)| packet.get(2..10) == Some(&id.0[..]));
                let pod = match (routing, packet[0] & 0x80) {
                    (Routing::ByServerId, 0) => by_id.expect("every id is one of ours"),
                    _ => &pods[flow % pods.len()],
                };
                outside.send_to(packet, pod.0).await.unwrap();
            }
            received = outside.recv_from(&mut to_client) => {
                let (len, _) = received.unwrap();
                // before its first packet on this flow, nothing of it can be answered
                if let Some(client) = client {
                    inside.send_to(&to_client[..len], client).await.unwrap();
                }
            }
        }
    }
}

/// One session, with a stream of whole packets.
struct Session {
    connection: wtransport::Connection,
    send: wtransport::SendStream,
    receive: wtransport::RecvStream,
}

impl Session {
    async fn open(address: SocketAddr, hashes: Vec<Sha256Digest>) -> Self {
        let config = wtransport::ClientConfig::builder()
            .with_bind_default()
            .with_server_certificate_hashes(hashes)
            .keep_alive_interval(Some(IDLE / 4))
            .max_idle_timeout(Some(IDLE))
            .unwrap()
            .build();
        let url = format!("https://{address}/socket.io/?EIO=4&transport=webtransport");
        let endpoint = wtransport::Endpoint::client(config).unwrap();
        let connection = within("a session", endpoint.connect(url)).await.unwrap();
        let (send, receive) = connection.open_bi().await.unwrap().await.unwrap();
        let mut session = Self { connection, send, receive };
        let open = session.ask("0").await.unwrap();
        assert!(open.starts_with("0{"), "{open}");
        session
    }

    /// What is answered before and after each of two changes of the client's address.
    async fn across_rebinds(mut self, rebind: impl AsyncFn()) -> [Option<String>; 3] {
        let before = self.ask("4before").await;
        rebind().await;
        let after = within("an answer, or the end", self.ask("4after")).await;
        rebind().await;
        let again = within("an answer, or the end", self.ask("4again")).await;
        self.connection.close(0u8.into(), b"");
        [before, after, again]
    }

    /// Sends a packet and gives the next that comes; `None` when the connection is dead.
    async fn ask(&mut self, packet: &str) -> Option<String> {
        let length = u8::try_from(packet.len()).unwrap();
        let bytes = [&[length], packet.as_bytes()].concat();
        self.send.write_all(&bytes).await.ok()?;
        let mut length = [0; 1];
        self.receive.read_exact(&mut length).await.ok()?;
        let mut long = [0; 2];
        let length = match length[0] {
            126 => {
                self.receive.read_exact(&mut long).await.ok()?;
                u16::from_be_bytes(long).into()
            }
            length => usize::from(length),
        };
        let mut packet = vec![0; length];
        self.receive.read_exact(&mut packet).await.ok()?;
        String::from_utf8(packet).ok()
    }
}

/// What a client with a session gets that asks something before and after its address changes.
async fn across_a_rebind(routing: Routing) -> [Option<String>; 3] {
    let pods = [Pod::start(ServerId([0xaa; 8])).await, Pod::start(ServerId([0xbb; 8])).await];
    let network = Network::start(routing, &pods).await;
    let mut hashes = Vec::new();
    for pod in &pods {
        hashes.push(pod.certificate_hash().await);
    }
    let session = Session::open(network.address, hashes).await;
    let found = session.across_rebinds(async || network.rebind.send(()).await.unwrap()).await;
    for pod in &pods {
        pod.server.shutdown();
    }
    found
}

fn answers(texts: [&str; 3]) -> [Option<String>; 3] {
    texts.map(|text| Some(text.to_owned()))
}

#[tokio::test]
async fn a_balancer_that_reads_server_ids_keeps_a_client_whose_address_changes() {
    let found = across_a_rebind(Routing::ByServerId).await;
    assert_eq!(found, answers(["4before", "4after", "4again"]));
}

#[tokio::test]
async fn one_that_looks_at_addresses_loses_it() {
    let found = across_a_rebind(Routing::ByAddress).await;
    assert_eq!(found, [Some("4before".to_owned()), None, None]);
}
