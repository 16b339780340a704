//! HTTP/1.1 by hand: one request for each connection, every byte in sight.

use std::io;
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::within;

/// A request. `Host`, `Connection: close` (unless there is another `Connection`) and `Content-Length` are
/// added when it is sent.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    method: String,
    target: String,
    headers: Vec<(String, String)>,
    body: Option<Vec<u8>>,
}

impl Request {
    pub(crate) fn new(method: &str, target: impl Into<String>) -> Self {
        Self { method: method.to_owned(), target: target.into(), headers: Vec::new(), body: None }
    }

    pub(crate) fn get(target: impl Into<String>) -> Self {
        Self::new("GET", target)
    }

    pub(crate) fn post(target: impl Into<String>, body: impl Into<Vec<u8>>) -> Self {
        Self { body: Some(body.into()), ..Self::new("POST", target) }
    }

    /// A request to become a WebSocket, with the key of RFC 6455 1.3.
    pub(crate) fn websocket(target: impl Into<String>) -> Self {
        Self::get(target)
            .header("Connection", "Upgrade")
            .header("Upgrade", "websocket")
            .header("Sec-WebSocket-Version", "13")
            .header("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")
    }

    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    fn has(&self, name: &str) -> bool {
        self.headers.iter().any(|(key, _)| key.eq_ignore_ascii_case(name))
    }

    /// The head, up to and with the empty line.
    pub(crate) fn head(&self, address: SocketAddr) -> String {
        let mut head = format!("{} {} HTTP/1.1\r\n", self.method, self.target);
        if !self.has("host") {
            head.push_str(&format!("Host: {address}\r\n"));
        }
        if !self.has("connection") {
            head.push_str("Connection: close\r\n");
        }
        if let Some(body) = self.body.as_ref().filter(|_| !self.has("content-length")) {
            head.push_str(&format!("Content-Length: {}\r\n", body.len()));
        }
        for (name, value) in &self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head + "\r\n"
    }

    /// Sends the request and does not wait for the answer. Dropping the exchange abandons it.
    pub(crate) async fn start(&self, address: SocketAddr) -> Exchange {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let mut bytes = self.head(address).into_bytes();
        bytes.extend_from_slice(self.body.as_deref().unwrap_or_default());
        // a server may answer before it has read all, and close
        let _ = stream.write_all(&bytes).await;
        Exchange { stream }
    }

    /// Sends the request and reads the whole answer.
    pub(crate) async fn send(&self, address: SocketAddr) -> Response {
        let what = format!("the answer to {} {}", self.method, self.target);
        within(&what, async {
            let answer = self.start(address).await.response().await;
            answer.unwrap_or_else(|error| panic!("{what}: {error}"))
        })
        .await
    }
}

/// A request under way.
#[derive(Debug)]
pub(crate) struct Exchange {
    pub(crate) stream: TcpStream,
}

impl Exchange {
    /// The whole answer.
    pub(crate) async fn response(self) -> io::Result<Response> {
        let (mut response, mut stream) = self.upgrade().await?;
        let length =
            response.header("content-length").map(|length| length.parse::<usize>().unwrap());
        match length {
            Some(length) if response.body.len() >= length => {}
            Some(length) => {
                let mut rest = vec![0; length - response.body.len()];
                stream.read_exact(&mut rest).await?;
                response.body.extend(rest);
            }
            None => {
                stream.read_to_end(&mut response.body).await?;
            }
        }
        Ok(response)
    }

    /// The head of the answer, what came behind it as its body, and the connection.
    pub(crate) async fn upgrade(mut self) -> io::Result<(Response, TcpStream)> {
        let mut bytes = Vec::new();
        let end = loop {
            if let Some(at) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
                break at;
            }
            if self.stream.read_buf(&mut bytes).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        };
        let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
        let mut lines = head.split("\r\n");
        let status = lines.next().unwrap().split(' ').nth(1).unwrap();
        let headers = lines.map(|line| {
            let (name, value) = line.split_once(':').unwrap();
            (name.to_ascii_lowercase(), value.trim().to_owned())
        });
        let response = Response {
            status: status.parse().unwrap(),
            headers: headers.collect(),
            body: bytes[end + 4..].to_vec(),
        };
        Ok((response, self.stream))
    }
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    /// Names in lower case.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Response {
    /// All fields of that name, joined as HTTP allows.
    pub(crate) fn header(&self, name: &str) -> Option<String> {
        let values: Vec<_> = self
            .headers
            .iter()
            .filter(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
            .collect();
        (!values.is_empty()).then(|| values.join(", "))
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    /// Status and body: what most tests look at.
    pub(crate) fn summary(&self) -> (u16, &str) {
        (self.status, self.text())
    }
}
