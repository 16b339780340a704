//! permessage-deflate (RFC 7692), off unless configured, with frames written and read by hand.

use std::io::Cursor;

use flate2::{Compress, Compression as Level, Decompress, FlushCompress, FlushDecompress};
use quicket::TransportKind::WebSocket;
use quicket::config::{Compression, EngineConfig};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, Chain};
use tokio::net::TcpStream;

use super::support::http::Request;
use super::support::{TestServer, engine, within};

const OFFER: &str = "permessage-deflate; client_max_window_bits";
const FIN_TEXT: u8 = 0x81;
/// RFC 7692 6: "RSV1 ... indicates whether the message is compressed".
const RSV1: u8 = 0x40;

/// What came behind the answer, and the rest of the connection.
type Stream = Chain<Cursor<Vec<u8>>, TcpStream>;

/// A WebSocket, what the server answered to the offer, and its OPEN packet read.
async fn connect(server: &TestServer, offer: Option<&str>) -> (Option<String>, Stream) {
    let mut request = Request::websocket(TestServer::target(WebSocket, None));
    if let Some(offer) = offer {
        request = request.header("Sec-WebSocket-Extensions", offer);
    }
    let exchange = request.start(server.address).await;
    let (answer, stream) = within("an upgrade", exchange.upgrade()).await.unwrap();
    assert_eq!(answer.status, 101);
    assert_eq!(
        answer.header("sec-websocket-accept").as_deref(),
        Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=") // RFC 6455 1.3
    );
    let extensions = answer.header("sec-websocket-extensions");
    let mut stream = Cursor::new(answer.body).chain(stream);
    let (_, open) = read_frame(&mut stream).await;
    assert!(open.starts_with(b"0{"));
    (extensions, stream)
}

async fn read_frame(stream: &mut Stream) -> (u8, Vec<u8>) {
    within("a frame", async {
        let first = stream.read_u8().await.unwrap();
        let length = match stream.read_u8().await.unwrap() {
            126 => usize::from(stream.read_u16().await.unwrap()),
            length => usize::from(length),
        };
        let mut payload = vec![0; length];
        stream.read_exact(&mut payload).await.unwrap();
        (first, payload)
    })
    .await
}

async fn write_frame(stream: &mut Stream, first: u8, payload: &[u8]) {
    let mut frame = vec![first, 0x80 | 126];
    frame.extend((payload.len() as u16).to_be_bytes());
    frame.extend([0; 4]); // the mask
    frame.extend_from_slice(payload);
    stream.get_mut().1.write_all(&frame).await.unwrap();
}

/// RFC 7692 7.2.1: deflate, flush, and take the last four bytes away.
fn deflate(payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(payload.len() + 64);
    let mut encoder = Compress::new(Level::default(), false);
    encoder.compress_vec(payload, &mut out, FlushCompress::Sync).unwrap();
    assert!(out.ends_with(&[0, 0, 0xff, 0xff]));
    out.truncate(out.len() - 4);
    out
}

fn inflate(payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(100_000);
    let payload = [payload, &[0, 0, 0xff, 0xff]].concat();
    let mut decoder = Decompress::new(false);
    decoder.decompress_vec(&payload, &mut out, FlushDecompress::Sync).unwrap();
    out
}

fn deflating() -> EngineConfig {
    EngineConfig {
        per_message_deflate: Some(Compression { threshold: 100 }),
        max_payload: 50_000,
        ..engine()
    }
}

#[tokio::test]
async fn messages_are_deflated_both_ways_when_both_sides_want_it() {
    let server = TestServer::echo(deflating()).await;
    let (answer, mut stream) = connect(&server, Some(OFFER)).await;
    assert!(answer.unwrap().starts_with("permessage-deflate"));
    let large = format!("4{}", "repeat ".repeat(1_000));
    for _ in 0..2 {
        write_frame(&mut stream, FIN_TEXT | RSV1, &deflate(large.as_bytes())).await;
        let (first, payload) = read_frame(&mut stream).await;
        assert_eq!(first, FIN_TEXT | RSV1);
        assert!(payload.len() < large.len() / 10);
        assert_eq!(inflate(&payload), large.as_bytes());
    }
    // under the threshold, and not deflated by the client either
    write_frame(&mut stream, FIN_TEXT, b"4small").await;
    assert_eq!(read_frame(&mut stream).await, (FIN_TEXT, b"4small".to_vec()));
    drop(stream);
    server.no_sessions_left().await;
    server.end().await;
}

#[tokio::test]
async fn nothing_is_deflated_unless_both_sides_want_it() {
    for (config, offer) in [(engine(), Some(OFFER)), (deflating(), None)] {
        let server = TestServer::echo(config).await;
        let (answer, mut stream) = connect(&server, offer).await;
        assert_eq!(answer, None);
        let large = format!("4{}", "repeat ".repeat(1_000));
        write_frame(&mut stream, FIN_TEXT, large.as_bytes()).await;
        let echo = read_frame(&mut stream).await;
        assert!(echo == (FIN_TEXT, large.into_bytes()));
        server.end().await;
    }
}

/// The limit is on what comes out, or a kilobyte could cost a gigabyte.
#[tokio::test]
async fn a_message_that_inflates_above_max_payload_ends_the_session() {
    let server = TestServer::echo(deflating()).await;
    for (length, passes) in [(50_000, true), (50_001, false)] {
        let (_, mut stream) = connect(&server, Some(OFFER)).await;
        let message = format!("4{}", "x".repeat(length - 1));
        write_frame(&mut stream, FIN_TEXT | RSV1, &deflate(message.as_bytes())).await;
        let (first, payload) = read_frame(&mut stream).await;
        if passes {
            assert!(inflate(&payload) == message.as_bytes());
        } else {
            assert_eq!((first, &payload[..]), (0x88, &1002u16.to_be_bytes()[..]));
            assert_eq!(server.misbehaved("payload_too_large"), 1);
        }
    }
    server.end().await;
}
