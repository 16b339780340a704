//! Socket.IO in bytes: a server on a free port, and a client that says what it is told to over any
//! transport and shows every packet that comes back.

use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::stream::SplitStream;
use futures_util::{SinkExt as _, StreamExt as _};
use quicket::config::{Config, EngineConfig, Listen, OriginPolicy};
use quicket::{Builder, ForSocketIo, Server, Socket, TransportKind};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::http::{HeaderName, HeaderValue};
use tokio_tungstenite::tungstenite::{Error as WsError, Message as WsMessage};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};
use wtransport::error::{ConnectingError, ConnectionError};

use super::{Frame, eventually, within};

/// A configuration for tests: the loopback, a free port, every origin.
pub(crate) fn config() -> Config {
    Config {
        listen: Listen { address: Ipv4Addr::LOCALHOST.into(), port: 0, ..Listen::default() },
        engine: EngineConfig { origins: OriginPolicy::Any, ..EngineConfig::default() },
        ..Config::default()
    }
}

/// A server that runs until it is dropped.
pub(crate) struct TestServer {
    pub(crate) server: Server,
    pub(crate) address: SocketAddr,
    running: JoinHandle<()>,
}

impl Drop for TestServer {
    fn drop(&mut self) {
        self.running.abort();
    }
}

impl TestServer {
    /// `install` registers the application before the first client can come.
    pub(crate) async fn start(config: Config, install: impl FnOnce(&Server)) -> Self {
        Self::of(Server::builder().config(config), install).await
    }

    pub(crate) async fn of(builder: Builder<ForSocketIo>, install: impl FnOnce(&Server)) -> Self {
        let server = builder.build().await.unwrap();
        install(&server);
        let address = server.bind().await.unwrap();
        let serving = server.clone();
        let running = tokio::spawn(async move {
            serving.serve().await.unwrap();
        });
        Self { server, address, running }
    }

    /// The value of a line of the metrics, `name{label="value"}` without `quicket_`.
    pub(crate) fn metric(&self, name: &str) -> i64 {
        let text = self.server.metrics().render();
        let prefix = format!("quicket_{name} ");
        let line = text.lines().find_map(|line| line.strip_prefix(&prefix));
        line.unwrap_or_else(|| panic!("no {name} in\n{text}")).parse().unwrap()
    }

    pub(crate) async fn until_metric(&self, name: &str, value: i64) {
        let what = format!("{name} to be {value}");
        eventually(&what, || self.metric(name) == value).await;
    }

    pub(crate) async fn client(&self, kind: TransportKind) -> Client {
        Client::open(self.address, kind).await
    }

    /// A client that has joined the main namespace, and its socket.
    pub(crate) async fn joined(&self, kind: TransportKind) -> (Client, Socket) {
        let mut client = self.client(kind).await;
        let socket = self.join(&mut client, "/").await;
        (client, socket)
    }

    /// Lets a client join a namespace and gives its socket.
    pub(crate) async fn join(&self, client: &mut Client, nsp: &str) -> Socket {
        let id = client.join(nsp).await;
        self.socket(nsp, &id).await
    }

    /// The socket of a client that may have seen the answer before the socket takes part.
    pub(crate) async fn socket(&self, nsp: &str, id: &str) -> Socket {
        let namespace = self.server.of(nsp);
        eventually("the socket", || namespace.local_socket(id).is_some()).await;
        namespace.local_socket(id).unwrap()
    }
}

/// What a client gets to see.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Received {
    Text(String),
    Binary(Vec<u8>),
    End(End),
}

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum End {
    /// A WebSocket close frame or the end of a WebTransport session, with its code.
    Code(u64),
    /// Engine.IO's CLOSE packet.
    Packet,
    /// The HTTP status of a poll.
    Status(u16),
    /// Nobody said a word.
    Lost,
}

enum Link {
    WebSocket(SplitStream<WebSocketStream<MaybeTlsStream<TcpStream>>>),
    WebTransport(Box<WtReader>),
    Polling { url: String, http: reqwest::Client },
}

struct WtReader {
    connection: wtransport::Connection,
    stream: wtransport::RecvStream,
    bytes: Vec<u8>,
}

/// One Engine.IO session.
pub(crate) struct Client {
    pub(crate) kind: TransportKind,
    /// The OPEN packet's data.
    pub(crate) open: Value,
    /// Pings that were answered so far.
    pub(crate) pings: usize,
    link: Link,
    /// Frames for the task that writes; polling has none.
    writer: mpsc::UnboundedSender<Received>,
    received: VecDeque<Received>,
}

impl Client {
    pub(crate) async fn open(address: SocketAddr, kind: TransportKind) -> Self {
        Self::knock(address, kind, "", &[]).await.unwrap()
    }

    /// With more in the query (`&a=b`) and more header fields. Who is refused gets a status and a text; a
    /// WebTransport client is told neither by its library.
    pub(crate) async fn knock(
        address: SocketAddr,
        kind: TransportKind,
        query: &str,
        headers: &[(&str, &str)],
    ) -> Result<Self, (u16, String)> {
        let (writer, frames) = mpsc::unbounded_channel();
        let mut received = VecDeque::new();
        let target = format!("{address}/socket.io/?EIO=4&transport={kind}{query}");
        let link = match kind {
            TransportKind::WebSocket => open_websocket(&target, headers, frames).await?,
            TransportKind::WebTransport => {
                open_webtransport(address, &target, headers, frames).await?
            }
            TransportKind::Polling => {
                let http = reqwest::Client::new();
                received.push_back(open_polling(&http, &target, headers).await?);
                let url = format!("http://{address}/socket.io/?EIO=4&transport=polling");
                Link::Polling { url, http }
            }
        };
        let mut client = Self { kind, open: Value::Null, pings: 0, link, writer, received };
        let open = client.recv_raw().await;
        let Received::Text(open) = &open else { panic!("no OPEN but {open:?}") };
        let open = open.strip_prefix('0').expect("an OPEN packet");
        client.open = serde_json::from_str(open).unwrap();
        if let Link::Polling { url, .. } = &mut client.link {
            url.push_str("&sid=");
            url.push_str(client.open["sid"].as_str().unwrap());
        }
        Ok(client)
    }

    /// Sends an Engine.IO packet of text.
    pub(crate) async fn send(&mut self, packet: &str) {
        self.send_frame(Received::Text(packet.to_owned())).await;
    }

    pub(crate) async fn send_binary(&mut self, bytes: &[u8]) {
        self.send_frame(Received::Binary(bytes.to_owned())).await;
    }

    async fn send_frame(&mut self, frame: Received) {
        if let Link::Polling { url, http } = &self.link {
            let body = match frame {
                Received::Text(text) => text,
                Received::Binary(bytes) => format!("b{}", STANDARD.encode(bytes)),
                Received::End(_) => return,
            };
            // a session that is over says so to the next poll
            let _ = within("a POST", http.post(url).body(body).send()).await;
        } else {
            let _ = self.writer.send(frame);
        }
    }

    /// The next packet, whatever it is.
    pub(crate) async fn recv_raw(&mut self) -> Received {
        if let Some(received) = self.received.pop_front() {
            return received;
        }
        let kind = self.kind;
        let next = async {
            match &mut self.link {
                Link::WebSocket(stream) => next_of_websocket(stream).await,
                Link::WebTransport(reader) => reader.next().await,
                Link::Polling { url, http } => {
                    poll(http, url, &mut self.received).await;
                    self.received.pop_front().expect("a poll brings something")
                }
            }
        };
        within(&format!("a packet by {kind}"), next).await
    }

    /// The next packet that is the application's; answers pings.
    pub(crate) async fn recv(&mut self) -> Received {
        // pings alone could go on for ever
        within("a packet of the application", self.recv_patiently()).await
    }

    async fn recv_patiently(&mut self) -> Received {
        loop {
            match self.recv_raw().await {
                Received::Text(packet) if packet == "2" => {
                    self.pings += 1;
                    self.send("3").await;
                }
                Received::Text(packet) if packet == "6" => {}
                Received::Text(packet) if packet == "1" => return Received::End(End::Packet),
                received => return received,
            }
        }
    }

    pub(crate) async fn recv_text(&mut self) -> String {
        match self.recv().await {
            Received::Text(packet) => packet,
            other => panic!("no text but {other:?}"),
        }
    }

    pub(crate) async fn expect(&mut self, packet: &str) {
        assert_eq!(self.recv().await, Received::Text(packet.to_owned()));
    }

    pub(crate) async fn expect_binary(&mut self, bytes: &[u8]) {
        assert_eq!(self.recv().await, Received::Binary(bytes.to_owned()));
    }

    /// Joins a namespace and gives the socket's id.
    pub(crate) async fn join(&mut self, nsp: &str) -> String {
        let prefix = prefix(nsp);
        self.send(&format!("40{prefix}")).await;
        self.joined(nsp).await
    }

    /// Takes the answer to a CONNECT and gives the socket's id.
    pub(crate) async fn joined(&mut self, nsp: &str) -> String {
        let answer = self.recv_text().await;
        let prefix = prefix(nsp);
        let Some(data) = answer.strip_prefix(&format!("40{prefix}")) else {
            panic!("no CONNECT of {nsp} but {answer}")
        };
        let data: Value = serde_json::from_str(data).unwrap();
        let keys: Vec<_> = data.as_object().unwrap().keys().collect();
        assert_eq!(keys, ["sid"]);
        data["sid"].as_str().unwrap().to_owned()
    }

    /// Sends an event of the main namespace: a JSON array, its name first.
    pub(crate) async fn emit(&mut self, event: Value) {
        self.send(&format!("42{event}")).await;
    }

    /// The next event of the main namespace.
    pub(crate) async fn event(&mut self) -> Value {
        let packet = self.recv_text().await;
        let Some(event) = packet.strip_prefix("42") else { panic!("no event but {packet}") };
        serde_json::from_str(event).unwrap()
    }

    /// Reads to the end, and tells how it ended and what came before.
    pub(crate) async fn end(&mut self) -> (Vec<Received>, End) {
        let mut before = Vec::new();
        loop {
            match self.recv().await {
                Received::End(end) => return (before, end),
                received => before.push(received),
            }
        }
    }

    /// Is the session over in the way that a transport has for it?
    pub(crate) async fn ends_properly(&mut self, code: u64) {
        let (before, end) = self.end().await;
        let proper = match self.kind {
            TransportKind::Polling => End::Packet,
            TransportKind::WebSocket | TransportKind::WebTransport => End::Code(code),
        };
        assert_eq!(end, proper, "after {before:?}");
    }
}

fn prefix(nsp: &str) -> String {
    match nsp {
        "/" => String::new(),
        nsp => format!("{nsp},"),
    }
}

// --- WebSocket

async fn open_websocket(
    target: &str,
    headers: &[(&str, &str)],
    mut frames: mpsc::UnboundedReceiver<Received>,
) -> Result<Link, (u16, String)> {
    let mut request = format!("ws://{target}").into_client_request().unwrap();
    for (name, value) in headers {
        let name: HeaderName = name.parse().unwrap();
        request.headers_mut().insert(name, HeaderValue::from_str(value).unwrap());
    }
    let connecting = tokio_tungstenite::connect_async(request);
    let (socket, _) = match within("a WebSocket", connecting).await {
        Ok(connected) => connected,
        Err(WsError::Http(answer)) => {
            let body = answer.body().clone().unwrap_or_default();
            return Err((answer.status().as_u16(), String::from_utf8(body).unwrap()));
        }
        Err(error) => panic!("{error}"),
    };
    let (mut sink, stream) = socket.split();
    tokio::spawn(async move {
        while let Some(frame) = frames.recv().await {
            let frame = match frame {
                Received::Text(text) => WsMessage::text(text),
                Received::Binary(bytes) => WsMessage::binary(bytes),
                Received::End(_) => WsMessage::Close(None),
            };
            if sink.send(frame).await.is_err() {
                break;
            }
        }
    });
    Ok(Link::WebSocket(stream))
}

async fn next_of_websocket(
    stream: &mut SplitStream<WebSocketStream<MaybeTlsStream<TcpStream>>>,
) -> Received {
    loop {
        return match stream.next().await {
            Some(Ok(WsMessage::Text(text))) => Received::Text(text.to_string()),
            Some(Ok(WsMessage::Binary(bytes))) => Received::Binary(bytes.into()),
            Some(Ok(WsMessage::Close(frame))) => {
                let code = frame.map_or(1005, |frame| u16::from(frame.code));
                // reading on answers it
                while let Some(Ok(_)) = stream.next().await {}
                Received::End(End::Code(code.into()))
            }
            Some(Ok(_)) => continue,
            Some(Err(_)) | None => Received::End(End::Lost),
        };
    }
}

// --- polling

async fn open_polling(
    http: &reqwest::Client,
    target: &str,
    headers: &[(&str, &str)],
) -> Result<Received, (u16, String)> {
    let mut request = http.get(format!("http://{target}"));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let answer = within("a session by polling", request.send()).await.unwrap();
    let (status, text) = (answer.status().as_u16(), answer.text().await.unwrap());
    if status == 200 { Ok(Received::Text(text)) } else { Err((status, text)) }
}

async fn poll(http: &reqwest::Client, url: &str, received: &mut VecDeque<Received>) {
    let Ok(answer) = http.get(url).send().await else {
        received.push_back(Received::End(End::Lost));
        return;
    };
    if !answer.status().is_success() {
        received.push_back(Received::End(End::Status(answer.status().as_u16())));
        return;
    }
    let Ok(body) = answer.text().await else {
        received.push_back(Received::End(End::Lost));
        return;
    };
    received.extend(body.split('\x1e').map(|packet| match packet.strip_prefix('b') {
        Some(binary) => Received::Binary(STANDARD.decode(binary).unwrap()),
        None => Received::Text(packet.to_owned()),
    }));
}

// --- WebTransport

async fn open_webtransport(
    address: SocketAddr,
    target: &str,
    headers: &[(&str, &str)],
    mut frames: mpsc::UnboundedReceiver<Received>,
) -> Result<Link, (u16, String)> {
    let about = format!("http://{address}/webtransport.json");
    let about = reqwest::get(about).await.unwrap().text().await.unwrap();
    let about: Value = serde_json::from_str(&about).unwrap();
    let hashes = about["certificateHashes"].as_array().unwrap().iter();
    let hashes = hashes.map(|hash| {
        let hash = STANDARD.decode(hash.as_str().unwrap()).unwrap();
        wtransport::tls::Sha256Digest::new(hash.try_into().unwrap())
    });
    let config = wtransport::ClientConfig::builder()
        .with_bind_default()
        .with_server_certificate_hashes(hashes)
        .build();
    let endpoint = wtransport::Endpoint::client(config).unwrap();
    let mut options = wtransport::endpoint::ConnectOptions::builder(format!("https://{target}"));
    for (name, value) in headers {
        options = options.add_header(name, value);
    }
    let connecting = endpoint.connect(options.build());
    let connection = match within("a WebTransport session", connecting).await {
        Ok(connection) => connection,
        Err(ConnectingError::SessionRejected) => return Err((403, String::new())),
        Err(error) => panic!("{error}"),
    };
    let (mut send, stream) = connection.open_bi().await.unwrap().await.unwrap();
    send.write_all(b"\x010").await.unwrap();
    tokio::spawn(async move {
        while let Some(frame) = frames.recv().await {
            let bytes = match frame {
                Received::Text(text) => Frame::Text(text).length_prefixed(),
                Received::Binary(bytes) => Frame::Binary(bytes).length_prefixed(),
                Received::End(_) => break,
            };
            if send.write_all(&bytes).await.is_err() {
                break;
            }
        }
    });
    Ok(Link::WebTransport(Box::new(WtReader { connection, stream, bytes: Vec::new() })))
}

impl WtReader {
    async fn next(&mut self) -> Received {
        loop {
            if let Some(frame) = self.take_frame() {
                return frame;
            }
            let mut chunk = [0; 4096];
            match self.stream.read(&mut chunk).await {
                Ok(Some(len)) => self.bytes.extend(&chunk[..len]),
                Ok(None) | Err(_) => {
                    let ended = self.connection.accept_uni().await;
                    let end = match ended.expect_err("the server opens none") {
                        ConnectionError::ApplicationClosed(close) => {
                            End::Code(close.code().into_inner())
                        }
                        _ => End::Lost,
                    };
                    return Received::End(end);
                }
            }
        }
    }

    fn take_frame(&mut self) -> Option<Received> {
        let first = *self.bytes.first()?;
        let (header, len) = match first & 0x7f {
            126 => {
                let len = self.bytes.get(1..3)?.try_into().unwrap();
                (3, u16::from_be_bytes(len).into())
            }
            127 => {
                let len = self.bytes.get(1..9)?.try_into().unwrap();
                (9, u64::from_be_bytes(len) as usize)
            }
            len => (1, len.into()),
        };
        let payload = self.bytes.get(header..header + len)?.to_vec();
        self.bytes.drain(..header + len);
        Some(match first & 0x80 {
            0 => Received::Text(String::from_utf8(payload).unwrap()),
            _ => Received::Binary(payload),
        })
    }
}
