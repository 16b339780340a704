//! As much of a client as an attacker needs.

use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use wtransport::endpoint::endpoint_side::Client;
use wtransport::quinn::TransportConfig;
use wtransport::{ClientConfig, Connection, Endpoint, RecvStream, SendStream};

use crate::Field;

pub(crate) const PATH: &str = "/socket.io/?EIO=4&transport=";

/// A connection from the attackers' address. `window`: bytes that the kernel takes before it tells the server
/// to wait.
pub(crate) async fn tcp(field: &Field, window: Option<u32>) -> Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(field.source())?;
    if let Some(window) = window {
        socket.set_recv_buffer_size(window)?;
    }
    let stream = socket.connect(field.server).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Reads an answer of HTTP with a Content-Length (or none); gives status and body.
pub(crate) async fn answer(stream: &mut TcpStream) -> Result<(u16, Vec<u8>)> {
    let mut bytes = Vec::new();
    let end = loop {
        if let Some(at) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break at;
        }
        if bytes.len() > 64 * 1024 || stream.read_buf(&mut bytes).await? == 0 {
            bail!("no answer");
        }
    };
    let head = std::str::from_utf8(&bytes[..end])?.to_ascii_lowercase();
    let status = head.split(' ').nth(1).context("no status")?.parse()?;
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
    let length: usize = length.map_or(Ok(0), |length| length.trim().parse())?;
    let mut body = bytes.split_off(end + 4);
    while body.len() < length {
        if stream.read_buf(&mut body).await? == 0 {
            bail!("half an answer");
        }
    }
    Ok((status, body))
}

pub(crate) fn get(target: &str) -> String {
    format!("GET {PATH}{target} HTTP/1.1\r\nHost: localhost\r\n\r\n")
}

pub(crate) fn post(sid: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "POST {PATH}polling&sid={sid} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n{body}"
    )
}

/// Opens a session by polling; gives its sid.
pub(crate) async fn open_polling(stream: &mut TcpStream) -> Result<String> {
    stream.write_all(get("polling").as_bytes()).await?;
    let (status, body) = answer(stream).await?;
    if status != 200 {
        bail!("refused with {status}");
    }
    let text = std::str::from_utf8(&body)?;
    let sid = text.split("\"sid\":\"").nth(1).and_then(|rest| rest.split('"').next());
    Ok(sid.context("no sid")?.to_owned())
}

/// Asks for a WebSocket, of a session or for a new one, and reads the answer's head.
pub(crate) async fn websocket(
    field: &Field,
    sid: Option<&str>,
    window: Option<u32>,
    extension: &str,
) -> Result<TcpStream> {
    let mut stream = tcp(field, window).await?;
    let sid = sid.map_or_else(String::new, |sid| format!("&sid={sid}"));
    let request = format!(
        "GET {PATH}websocket{sid} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{extension}\r\n"
    );
    stream.write_all(request.as_bytes()).await?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        // byte by byte, so that nothing behind the head is taken
        head.push(stream.read_u8().await?);
    }
    if !head.starts_with(b"HTTP/1.1 101") {
        bail!("refused");
    }
    Ok(stream)
}

/// A WebSocket frame of a client, with the mask 0.
pub(crate) fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![first];
    match payload.len() {
        length @ 0..126 => frame.push(0x80 | length as u8),
        length @ 126..0x1_0000 => {
            frame.push(0x80 | 126);
            frame.extend((length as u16).to_be_bytes());
        }
        length => {
            frame.push(0x80 | 127);
            frame.extend((length as u64).to_be_bytes());
        }
    }
    frame.extend([0; 4]);
    frame.extend_from_slice(payload);
    frame
}

pub(crate) fn text(payload: &str) -> Vec<u8> {
    frame(0x81, payload.as_bytes())
}

/// A WebSocket in the main namespace; the answers wait to be read.
pub(crate) async fn joined(field: &Field, window: Option<u32>) -> Result<TcpStream> {
    let mut stream = websocket(field, None, window, "").await?;
    stream.write_all(&text("40")).await?;
    Ok(stream)
}

/// Reads what comes and forgets it, until the connection ends.
pub(crate) async fn read_away(stream: &mut (impl tokio::io::AsyncRead + Unpin)) -> Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        if stream.read(&mut buffer).await? == 0 {
            bail!("the server closed");
        }
    }
}

/// An endpoint of QUIC that believes any certificate. `window`: bytes of a stream that it takes before somebody reads
/// them.
pub(crate) fn endpoint(field: &Field, window: Option<u32>) -> Result<Endpoint<Client>> {
    let mut config =
        ClientConfig::builder().with_bind_address(field.source()).with_no_cert_validation().build();
    if let Some(window) = window {
        let mut transport = TransportConfig::default();
        transport.stream_receive_window(window.into());
        config.quic_config_mut().transport_config(Arc::new(transport));
    }
    Ok(Endpoint::client(config)?)
}

pub(crate) fn url(field: &Field) -> String {
    format!("https://{}{PATH}webtransport", field.server)
}

/// A WebTransport session with its stream, on which nothing has been said yet.
pub(crate) struct Session {
    pub(crate) send: SendStream,
    pub(crate) recv: RecvStream,
    /// Lives as long as these.
    pub(crate) connection: Connection,
    pub(crate) endpoint: Endpoint<Client>,
}

pub(crate) async fn webtransport(field: &Field, window: Option<u32>) -> Result<Session> {
    let endpoint = endpoint(field, window)?;
    let connection = endpoint.connect(url(field)).await?;
    let (send, recv) = connection.open_bi().await?.await?;
    Ok(Session { send, recv, connection, endpoint })
}

/// A frame of a WebTransport stream with text of fewer than 126 bytes.
pub(crate) fn short(text: &str) -> Vec<u8> {
    [&[text.len() as u8], text.as_bytes()].concat()
}

/// The first thing that a client of TLS says.
pub(crate) fn client_hello() -> Result<Vec<u8>> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    let mut client = rustls::ClientConnection::new(Arc::new(config), "localhost".try_into()?)?;
    let mut hello = Vec::new();
    client.write_tls(&mut hello)?;
    Ok(hello)
}
