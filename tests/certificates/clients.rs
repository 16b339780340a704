//! Clients that verify the server's certificate and remember which one they were shown.

use std::net::SocketAddr;

use futures_util::{SinkExt as _, StreamExt as _};
use quicket::TransportKind;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{WebSocketStream, client_async};

use crate::files::Authority;
use crate::support::within;

const RECORD_SEPARATOR: char = '\u{1e}';

/// A Socket.IO client in the main namespace.
pub(crate) struct Session {
    /// The certificate that its connection began with.
    pub(crate) shown: Option<Vec<u8>>,
    link: Link,
}

enum Link {
    Polling(Box<Polling>),
    WebSocket(Box<WebSocketStream<TlsStream<TcpStream>>>),
    WebTransport(Box<WebTransport>),
}

/// A poll is always open, on a connection of its own; POSTs have another.
struct Polling {
    target: String,
    posts: Http,
    packets: mpsc::UnboundedReceiver<String>,
    polls: JoinHandle<()>,
}

struct WebTransport {
    connection: wtransport::Connection,
    send: wtransport::SendStream,
    receive: wtransport::RecvStream,
}

impl Session {
    pub(crate) async fn open(
        address: SocketAddr,
        authority: &Authority,
        kind: TransportKind,
    ) -> Self {
        let open = async {
            match kind {
                TransportKind::Polling => Self::polling(address, authority).await,
                TransportKind::WebSocket => Self::websocket(address, authority).await,
                TransportKind::WebTransport => Self::webtransport(address, authority).await,
            }
        };
        let mut session = within("a session", open).await;
        session.send("40").await;
        let connected = session.packet().await;
        assert!(connected.starts_with("40{\"sid\":"), "{connected}");
        session
    }

    async fn polling(address: SocketAddr, authority: &Authority) -> Self {
        let target = "/socket.io/?EIO=4&transport=polling";
        let mut posts = Http::connect(address, authority).await;
        let open = posts.request("GET", target, "").await;
        let open: serde_json::Value = serde_json::from_str(&open[1..]).unwrap();
        let target = format!("{target}&sid={}", open["sid"].as_str().unwrap());
        let shown = Some(shown(&posts.stream));
        let (polls, packets) = poll(address, authority, &target).await;
        let link = Polling { target, posts, packets, polls };
        Self { shown, link: Link::Polling(Box::new(link)) }
    }

    async fn websocket(address: SocketAddr, authority: &Authority) -> Self {
        let stream = connect_tls(address, authority).await;
        let shown = Some(shown(&stream));
        let url = format!("wss://{address}/socket.io/?EIO=4&transport=websocket");
        let (socket, _) = client_async(url, stream).await.unwrap();
        let mut session = Self { shown, link: Link::WebSocket(Box::new(socket)) };
        assert!(session.packet().await.starts_with("0{"));
        session
    }

    async fn webtransport(address: SocketAddr, authority: &Authority) -> Self {
        let connection = connect_quic(address, authority).await;
        let (send, receive) = connection.open_bi().await.unwrap().await.unwrap();
        let shown = identity(&connection);
        let link = Link::WebTransport(Box::new(WebTransport { connection, send, receive }));
        let mut session = Self { shown, link };
        session.send("0").await;
        assert!(session.packet().await.starts_with("0{"));
        session
    }

    /// Sends a packet of less than 126 bytes.
    pub(crate) async fn send(&mut self, packet: &str) {
        match &mut self.link {
            Link::Polling(link) => {
                let answer = link.posts.request("POST", &link.target, packet).await;
                assert_eq!(answer, "ok");
            }
            Link::WebSocket(socket) => socket.send(Message::text(packet)).await.unwrap(),
            Link::WebTransport(link) => {
                let length = u8::try_from(packet.len()).unwrap();
                assert!(length < 126);
                link.send.write_all(&[&[length], packet.as_bytes()].concat()).await.unwrap();
            }
        }
    }

    /// The next packet that is no ping is this one.
    pub(crate) async fn expect(&mut self, packet: &str) {
        assert_eq!(self.packet().await, packet);
    }

    /// The next packet; pings are answered.
    async fn packet(&mut self) -> String {
        loop {
            let packet = within("a packet", self.next()).await.expect("the session is gone");
            if packet != "2" {
                return packet;
            }
            self.send("3").await;
        }
    }

    async fn next(&mut self) -> Option<String> {
        match &mut self.link {
            Link::Polling(link) => link.packets.recv().await,
            Link::WebSocket(socket) => match socket.next().await?.unwrap() {
                Message::Text(text) => Some(text.to_string()),
                other => panic!("{other:?}"),
            },
            Link::WebTransport(link) => link.next().await,
        }
    }

    /// What was opened at first is what is still in use.
    pub(crate) async fn still_on_its_connection(&mut self) {
        match &mut self.link {
            Link::Polling(link) => assert!(!link.polls.is_finished()),
            Link::WebSocket(socket) => assert_eq!(Some(shown(socket.get_ref())), self.shown),
            Link::WebTransport(link) => assert_eq!(identity(&link.connection), self.shown),
        }
    }

    /// Goes on with a polling session on new connections.
    pub(crate) async fn reconnect_polls(&mut self, address: SocketAddr, authority: &Authority) {
        let Link::Polling(link) = &mut self.link else { panic!("this session is no polling") };
        link.posts = Http::connect(address, authority).await;
        self.shown = Some(shown(&link.posts.stream));
    }
}

impl Drop for Polling {
    fn drop(&mut self) {
        self.polls.abort();
    }
}

impl WebTransport {
    async fn next(&mut self) -> Option<String> {
        let mut first = [0; 1];
        self.receive.read_exact(&mut first).await.ok()?;
        let length = match first[0] {
            126 => {
                let mut long = [0; 2];
                self.receive.read_exact(&mut long).await.ok()?;
                u16::from_be_bytes(long).into()
            }
            length => usize::from(length),
        };
        let mut packet = vec![0; length];
        self.receive.read_exact(&mut packet).await.ok()?;
        Some(String::from_utf8(packet).unwrap())
    }
}

/// Polls on one connection until the session ends.
async fn poll(
    address: SocketAddr,
    authority: &Authority,
    target: &str,
) -> (JoinHandle<()>, mpsc::UnboundedReceiver<String>) {
    let (sender, packets) = mpsc::unbounded_channel();
    let mut http = Http::connect(address, authority).await;
    let target = target.to_owned();
    let polls = tokio::spawn(async move {
        loop {
            let payload = http.request("GET", &target, "").await;
            for packet in payload.split(RECORD_SEPARATOR) {
                let _ = sender.send(packet.to_owned()); // the test may be over
            }
        }
    });
    (polls, packets)
}

/// HTTP/1.1 on one connection, one request after the other.
struct Http {
    stream: TlsStream<TcpStream>,
    address: SocketAddr,
}

impl Http {
    async fn connect(address: SocketAddr, authority: &Authority) -> Self {
        Self { stream: connect_tls(address, authority).await, address }
    }

    /// The body of the answer, which has to be 200.
    async fn request(&mut self, method: &str, target: &str, body: &str) -> String {
        let (host, length) = (self.address, body.len());
        let head =
            format!("{method} {target} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {length}");
        self.stream.write_all(format!("{head}\r\n\r\n{body}").as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let (head, mut body) = loop {
            assert_ne!(self.stream.read_buf(&mut answer).await.unwrap(), 0, "cut off");
            if let Some(at) = answer.windows(4).position(|window| window == b"\r\n\r\n") {
                let head = String::from_utf8(answer[..at].to_vec()).unwrap();
                break (head.to_ascii_lowercase(), answer[at + 4..].to_vec());
            }
        };
        assert!(head.starts_with("http/1.1 200 "), "{head}");
        let length = head.split("\r\n").find_map(|line| line.strip_prefix("content-length: "));
        let length: usize = length.expect("a length").parse().unwrap();
        let mut rest = vec![0; length - body.len()];
        self.stream.read_exact(&mut rest).await.unwrap();
        body.extend(rest);
        String::from_utf8(body).unwrap()
    }
}

// --- connections

async fn connect_tls(address: SocketAddr, authority: &Authority) -> TlsStream<TcpStream> {
    let stream = TcpStream::connect(address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let connector = TlsConnector::from(authority.client(b"http/1.1"));
    connector.connect(ServerName::from(address.ip()), stream).await.unwrap()
}

async fn connect_quic(address: SocketAddr, authority: &Authority) -> wtransport::Connection {
    let tls = authority.client(b"h3").as_ref().clone();
    let bind = (std::net::Ipv4Addr::LOCALHOST, 0).into();
    let config = wtransport::ClientConfig::builder().with_bind_address(bind).with_custom_tls(tls);
    let endpoint = wtransport::Endpoint::client(config.build()).unwrap();
    let url = format!("https://{address}/socket.io/?EIO=4&transport=webtransport");
    endpoint.connect(url).await.unwrap()
}

fn shown(stream: &TlsStream<TcpStream>) -> Vec<u8> {
    stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
}

fn identity(connection: &wtransport::Connection) -> Option<Vec<u8>> {
    Some(connection.peer_identity()?.as_slice()[0].der().to_vec())
}

/// The certificate that who connects now is shown on TCP.
pub(crate) async fn shown_on_tcp(address: SocketAddr, authority: &Authority) -> Vec<u8> {
    shown(&within("a TLS handshake", connect_tls(address, authority)).await)
}

/// The certificate that who connects now is shown on QUIC.
pub(crate) async fn shown_on_quic(address: SocketAddr, authority: &Authority) -> Vec<u8> {
    let connection = within("a QUIC handshake", connect_quic(address, authority)).await;
    identity(&connection).unwrap()
}
