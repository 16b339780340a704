//! An Engine.IO client, the same to a test on every transport.

use std::collections::VecDeque;
use std::net::SocketAddr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::{SinkExt as _, StreamExt as _};
use quicket::TransportKind;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{WebSocketStream, client_async};
use wtransport::endpoint::ConnectOptions;
use wtransport::endpoint::endpoint_side;
use wtransport::error::ConnectingError;
use wtransport::{Connection, Endpoint, RecvStream, SendStream};

use super::http::{Request, Response};
use super::server::{PATH, TestServer};
use super::within;

/// One Engine.IO packet on the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Frame {
    Text(String),
    Binary(Vec<u8>),
}

impl From<&str> for Frame {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Frame {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<Vec<u8>> for Frame {
    fn from(data: Vec<u8>) -> Self {
        Self::Binary(data)
    }
}

impl Frame {
    /// One record of a polling payload.
    fn to_record(&self) -> String {
        match self {
            Self::Text(text) => text.clone(),
            Self::Binary(data) => format!("b{}", STANDARD.encode(data)),
        }
    }

    fn from_record(record: &str) -> Self {
        match record.strip_prefix('b') {
            Some(data) => Self::Binary(STANDARD.decode(data).unwrap()),
            None => record.into(),
        }
    }

    /// A frame of a WebSocket.
    pub(crate) fn masked(&self) -> Vec<u8> {
        match self {
            Self::Text(text) => websocket_frame(0x81, text.as_bytes()),
            Self::Binary(data) => websocket_frame(0x82, data),
        }
    }

    /// A frame of a WebTransport stream.
    pub(crate) fn length_prefixed(&self) -> Vec<u8> {
        let (flag, data) = match self {
            Self::Text(text) => (0, text.as_bytes()),
            Self::Binary(data) => (0x80, data.as_slice()),
        };
        let mut out = match data.len() {
            length @ 0..126 => vec![flag | length as u8],
            length @ 126..0x1_0000 => [&[flag | 126][..], &(length as u16).to_be_bytes()].concat(),
            length => [&[flag | 127][..], &(length as u64).to_be_bytes()].concat(),
        };
        out.extend_from_slice(data);
        out
    }
}

/// A client's WebSocket frame, with the mask 0.
pub(crate) fn websocket_frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![first];
    match payload.len() {
        length @ 0..126 => frame.push(0x80 | length as u8),
        length => {
            frame.push(0x80 | 126);
            frame.extend((length as u16).to_be_bytes());
        }
    }
    frame.extend([0; 4]);
    frame.extend_from_slice(payload);
    frame
}

/// A session, from the client's side.
pub(crate) struct Client {
    pub(crate) sid: String,
    /// The OPEN packet as it came.
    pub(crate) open: String,
    pub(crate) link: Link,
}

impl Client {
    pub(crate) async fn connect(server: &TestServer, kind: TransportKind) -> Self {
        let mut link = match kind {
            TransportKind::Polling => Link::Polling(PollingLink::new(server.address)),
            TransportKind::WebSocket => {
                let target = TestServer::target(kind, None);
                let link = WebSocketLink::connect(server.address, &target, &[]).await;
                Link::WebSocket(link.unwrap())
            }
            TransportKind::WebTransport => {
                let mut link = WebTransportLink::connect(server).await.unwrap();
                link.send(&"0".into()).await.unwrap();
                Link::WebTransport(link)
            }
        };
        let Some(Frame::Text(open)) = link.next().await else {
            panic!("no OPEN packet over {kind}");
        };
        let json = open.strip_prefix('0').expect("the first packet is OPEN");
        let json: serde_json::Value = serde_json::from_str(json).unwrap();
        let sid = json["sid"].as_str().unwrap().to_owned();
        if let Link::Polling(polling) = &mut link {
            polling.target = TestServer::target(kind, Some(&sid));
        }
        Self { sid, open, link }
    }

    pub(crate) async fn send(&mut self, frame: impl Into<Frame>) {
        let frame = frame.into();
        let sent = self.try_send(&frame).await;
        assert!(sent, "the session is gone");
    }

    /// `false`: it did not go, or was not taken.
    pub(crate) async fn try_send(&mut self, frame: &Frame) -> bool {
        within("a frame to be sent", async {
            match &mut self.link {
                Link::Polling(link) => link.post(&[frame]).await.summary() == (200, "ok"),
                Link::WebSocket(link) => link.send(frame).await.is_ok(),
                Link::WebTransport(link) => link.send(frame).await.is_ok(),
            }
        })
        .await
    }

    /// Together as far as the transport has a way for that.
    pub(crate) async fn send_all(&mut self, frames: &[Frame]) {
        if let Link::Polling(link) = &mut self.link {
            let frames: Vec<_> = frames.iter().collect();
            assert_eq!(link.post(&frames).await.summary(), (200, "ok"));
            return;
        }
        for frame in frames {
            self.send(frame.clone()).await;
        }
    }

    /// The next packet, which has to come.
    pub(crate) async fn recv(&mut self) -> Frame {
        self.next().await.expect("the session is gone")
    }

    /// The next packet; `None` when the session is over.
    pub(crate) async fn next(&mut self) -> Option<Frame> {
        within("a packet", self.link.next()).await
    }

    /// Sends a message and awaits it back.
    pub(crate) async fn echoes(&mut self, text: &str) {
        let frame = Frame::from(format!("4{text}"));
        self.send(frame.clone()).await;
        assert_eq!(self.recv().await, frame);
    }

    /// The next packet that is no ping, and how many pings came before it; answers them.
    pub(crate) async fn recv_behind_pings(&mut self) -> (Frame, usize) {
        let mut pings = 0;
        loop {
            let frame = self.recv().await;
            if frame != "2".into() {
                return (frame, pings);
            }
            pings += 1;
            self.send("3").await;
        }
    }

    /// Reads on to the end of the session and gives what came before.
    pub(crate) async fn until_end(&mut self) -> Vec<Frame> {
        let mut frames = Vec::new();
        while let Some(frame) = self.next().await {
            frames.push(frame);
        }
        frames
    }

    /// Bytes below the framing. Polling has them as the body of a POST.
    pub(crate) async fn send_bytes(&mut self, bytes: &[u8]) {
        // an answer in the midst of it may end the connection
        match &mut self.link {
            Link::Polling(link) => {
                let post = Request::post(&link.target, bytes);
                let _ = post.start(link.address).await.response().await;
            }
            Link::WebSocket(link) => {
                let _ = link.stream.get_mut().write_all(bytes).await;
            }
            Link::WebTransport(link) => {
                let _ = link.send.write_all(bytes).await;
            }
        }
    }
}

/// One connection of one transport.
pub(crate) enum Link {
    Polling(PollingLink),
    WebSocket(WebSocketLink),
    WebTransport(WebTransportLink),
}

impl Link {
    pub(crate) async fn next(&mut self) -> Option<Frame> {
        match self {
            Self::Polling(link) => link.next().await,
            Self::WebSocket(link) => link.next().await,
            Self::WebTransport(link) => link.next().await,
        }
    }

    /// A second connection for a session that exists, with nothing said on it yet.
    pub(crate) async fn attach(server: &TestServer, kind: TransportKind, sid: &str) -> Self {
        if kind == TransportKind::WebSocket {
            let target = TestServer::target(kind, Some(sid));
            let link = WebSocketLink::connect(server.address, &target, &[]).await;
            return Self::WebSocket(link.unwrap());
        }
        let mut link = WebTransportLink::connect(server).await.unwrap();
        let first = format!("0{{\"sid\":\"{sid}\"}}");
        link.send(&first.into()).await.unwrap();
        Self::WebTransport(link)
    }

    /// `false`: the connection is gone.
    pub(crate) async fn send(&mut self, frame: impl Into<Frame>) -> bool {
        let frame = frame.into();
        match self {
            Self::Polling(link) => link.post(&[&frame]).await.status == 200,
            Self::WebSocket(link) => link.send(&frame).await.is_ok(),
            Self::WebTransport(link) => link.send(&frame).await.is_ok(),
        }
    }
}

/// HTTP long-polling.
pub(crate) struct PollingLink {
    address: SocketAddr,
    pub(crate) target: String,
    frames: VecDeque<Frame>,
    /// A poll that the server has answered with a close packet is the last.
    over: bool,
}

impl PollingLink {
    fn new(address: SocketAddr) -> Self {
        Self {
            address,
            target: TestServer::target(TransportKind::Polling, None),
            frames: VecDeque::new(),
            over: false,
        }
    }

    /// What came and was not taken yet.
    pub(crate) fn buffered(&mut self) -> impl Iterator<Item = Frame> {
        self.frames.drain(..)
    }

    async fn post(&self, frames: &[&Frame]) -> Response {
        let records: Vec<_> = frames.iter().map(|frame| frame.to_record()).collect();
        let post = Request::post(&self.target, records.join("\u{1e}"));
        post.send(self.address).await
    }

    async fn next(&mut self) -> Option<Frame> {
        while self.frames.is_empty() && !self.over {
            let answer = Request::get(&self.target).send(self.address).await;
            if answer.status != 200 {
                return None;
            }
            self.frames = answer.text().split('\u{1e}').map(Frame::from_record).collect();
        }
        let frame = self.frames.pop_front()?;
        if frame == "1".into() {
            self.over = true;
            return None;
        }
        Some(frame)
    }
}

/// A WebSocket.
pub(crate) struct WebSocketLink {
    pub(crate) stream: Box<WebSocketStream<TcpStream>>,
    /// The code of the close frame that came.
    pub(crate) close_code: Option<u16>,
}

impl WebSocketLink {
    /// With more header fields.
    pub(crate) async fn connect(
        address: SocketAddr,
        target: &str,
        headers: &[(&str, &str)],
    ) -> Result<Self, tokio_tungstenite::tungstenite::Error> {
        use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
        use tokio_tungstenite::tungstenite::http::{HeaderName, HeaderValue};
        let url = format!("ws://{address}{target}");
        let mut request = url.into_client_request()?;
        for (name, value) in headers {
            let name: HeaderName = name.parse().unwrap();
            request.headers_mut().insert(name, HeaderValue::from_str(value).unwrap());
        }
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let (stream, _) = within("a WebSocket", client_async(request, stream)).await?;
        Ok(Self { stream: Box::new(stream), close_code: None })
    }

    async fn send(&mut self, frame: &Frame) -> Result<(), tokio_tungstenite::tungstenite::Error> {
        let message = match frame {
            Frame::Text(text) => Message::text(text.as_str()),
            Frame::Binary(data) => Message::binary(data.clone()),
        };
        self.stream.send(message).await
    }

    pub(crate) async fn next(&mut self) -> Option<Frame> {
        loop {
            match self.stream.next().await?.ok()? {
                Message::Text(text) => return Some(text.as_str().into()),
                Message::Binary(data) => return Some(data.to_vec().into()),
                Message::Close(frame) => {
                    self.close_code = frame.map(|frame| frame.code.into());
                }
                _ => {}
            }
        }
    }
}

/// A WebTransport session with its one stream.
pub(crate) struct WebTransportLink {
    pub(crate) connection: Connection,
    pub(crate) send: SendStream,
    pub(crate) receive: RecvStream,
    buffer: Vec<u8>,
}

impl WebTransportLink {
    /// A session on the usual path, and a stream on which nothing was said yet.
    pub(crate) async fn connect(server: &TestServer) -> Result<Self, ConnectingError> {
        let target = format!("{PATH}?EIO=4&transport=webtransport");
        let connection = Self::session(server, &target, &[]).await?;
        Ok(Self::on(connection).await)
    }

    /// A stream on a session, on which nothing was said yet.
    pub(crate) async fn on(connection: Connection) -> Self {
        let (send, receive) =
            within("a stream", async { connection.open_bi().await.unwrap().await.unwrap() }).await;
        Self { connection, send, receive, buffer: Vec::new() }
    }

    /// A session without a stream, with more header fields.
    pub(crate) async fn session(
        server: &TestServer,
        target: &str,
        headers: &[(&str, &str)],
    ) -> Result<Connection, ConnectingError> {
        Self::session_from(&server.endpoint, server, target, headers).await
    }

    /// The same from another endpoint than the server's own.
    pub(crate) async fn session_from(
        endpoint: &Endpoint<endpoint_side::Client>,
        server: &TestServer,
        target: &str,
        headers: &[(&str, &str)],
    ) -> Result<Connection, ConnectingError> {
        let mut options = ConnectOptions::builder(format!("https://{}{target}", server.address));
        for (name, value) in headers {
            options = options.add_header(name, value);
        }
        let connect = endpoint.connect(options.build());
        within("a WebTransport session", connect).await
    }

    pub(crate) async fn send(&mut self, frame: &Frame) -> Result<(), String> {
        let sent = self.send.write_all(&frame.length_prefixed()).await;
        sent.map_err(|error| error.to_string())
    }

    pub(crate) async fn next(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = self.take_frame() {
                return Some(frame);
            }
            let mut chunk = vec![0; 64 * 1024];
            let read = self.receive.read(&mut chunk).await.ok()??;
            self.buffer.extend_from_slice(&chunk[..read]);
        }
    }

    fn take_frame(&mut self) -> Option<Frame> {
        let first = *self.buffer.first()?;
        let (header, length) = match first & 0x7f {
            126 => {
                let length = self.buffer.get(1..3)?.try_into().unwrap();
                (3, usize::from(u16::from_be_bytes(length)))
            }
            127 => {
                let length = self.buffer.get(1..9)?.try_into().unwrap();
                (9, u64::from_be_bytes(length) as usize)
            }
            length => (1, usize::from(length)),
        };
        if self.buffer.len() < header + length {
            return None;
        }
        let data = self.buffer[header..header + length].to_vec();
        self.buffer.drain(..header + length);
        Some(if first & 0x80 == 0 {
            Frame::Text(String::from_utf8(data).unwrap())
        } else {
            Frame::Binary(data)
        })
    }
}
