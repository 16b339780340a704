//! Tests of the link over in-memory streams: promises about order, limits, memory and closing.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::task::Wake;

use futures_util::{SinkExt, StreamExt};
use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio_tungstenite::tungstenite::{self, protocol::Role};

use super::*;

const CONFIG: WebSocketConfig = WebSocketConfig { max_payload: 100_000 };

/// A frame as a client sends it: the first byte as given, then length, mask and masked payload.
pub(super) fn client_frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mask = [0x37, 0xfa, 0x21, 0x3d];
    let mut frame = vec![first];
    match payload.len() {
        len @ 0..=125 => frame.push(0x80 | len as u8),
        len @ 126..=0xffff => {
            frame.push(0x80 | 126);
            frame.extend_from_slice(&(len as u16).to_be_bytes());
        }
        len => {
            frame.push(0x80 | 127);
            frame.extend_from_slice(&(len as u64).to_be_bytes());
        }
    }
    frame.extend_from_slice(&mask);
    frame.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, key)| byte ^ key));
    frame
}

/// As broadcasts are framed.
fn encode_frame(frame: &Frame) -> Bytes {
    let mut out = bytes::BytesMut::new();
    crate::engine::framing::put_websocket(frame, &mut out);
    out.freeze()
}

fn text(text: &str) -> Frame {
    Frame::Text(text.to_owned().into())
}

fn pair(capacity: usize) -> (WebSocket<DuplexStream>, DuplexStream) {
    let (ours, theirs) = duplex(capacity);
    (WebSocket::new(ours, None, CONFIG), theirs)
}

async fn read<S: AsyncRead + AsyncWrite + Unpin>(
    link: &mut WebSocket<S>,
) -> Result<Option<Frame>, LinkError> {
    poll_fn(|cx| link.poll_read(cx)).await
}

async fn flush<S: AsyncRead + AsyncWrite + Unpin>(link: &mut WebSocket<S>) {
    poll_fn(|cx| link.poll_flush(cx)).await.expect("the stream takes everything");
}

fn rule(outcome: Result<Option<Frame>, LinkError>) -> PeerMisbehaved {
    match outcome {
        Err(LinkError::Peer(rule)) => rule,
        other => panic!("not a broken rule: {other:?}"),
    }
}

/// Polls once, with a waker that nobody listens to.
fn now<T>(poll: impl FnOnce(&mut Context<'_>) -> Poll<T>) -> Poll<T> {
    poll(&mut Context::from_waker(std::task::Waker::noop()))
}

/// What the peer can read without waiting.
fn received(peer: &mut DuplexStream) -> Vec<u8> {
    let mut bytes = vec![0; 1 << 16];
    let mut buffer = ReadBuf::new(&mut bytes);
    let _ = now(|cx| Pin::new(peer).poll_read(cx, &mut buffer));
    buffer.filled().to_vec()
}

#[test]
fn an_idle_link_is_small() {
    let size = size_of::<WebSocket<()>>();
    assert!(size <= 320, "{size} bytes");
}

#[test]
fn frames_look_as_the_rfc_says() {
    assert_eq!(encode_frame(&text("Hello"))[..], *b"\x81\x05Hello");
    assert_eq!(encode_frame(&Frame::Binary(Bytes::new()))[..], *b"\x82\x00");
    for (len, header) in [
        (125, &[0x82, 125][..]),
        (126, &[0x82, 126, 0, 126]),
        (65_535, &[0x82, 126, 0xff, 0xff]),
        (65_536, &[0x82, 127, 0, 0, 0, 0, 0, 1, 0, 0]),
    ] {
        let frame = encode_frame(&Frame::Binary(vec![5; len].into()));
        assert_eq!(frame.len(), header.len() + len);
        assert!(frame.starts_with(header), "{len}");
    }
}

#[tokio::test]
async fn messages_come_and_go_byte_by_byte() {
    let (mut link, mut peer) = pair(1);
    let client = tokio::spawn(async move {
        let bytes = [
            client_frame(0x81, b"4one"),
            client_frame(0x02, b"two"),
            client_frame(0x89, b"!"),
            client_frame(0x80, b"three"),
        ];
        peer.write_all(&bytes.concat()).await.unwrap();
        let mut answer = [0; 3 + 6 + 2];
        peer.read_exact(&mut answer).await.unwrap();
        answer
    });
    assert_eq!(read(&mut link).await.unwrap(), Some(text("4one")));
    assert_eq!(read(&mut link).await.unwrap(), Some(Frame::Binary("twothree".into())));
    link.queue(&text("4yes"), false).unwrap();
    link.queue_framed(encode_frame(&Frame::Binary(Bytes::new())));
    assert_eq!(link.queued_bytes(), 2 + 6 + 2, "the rest of the pong, and both frames");
    flush(&mut link).await;
    assert_eq!(link.queued_bytes(), 0);
    assert_eq!(client.await.unwrap(), *b"\x8a\x01!\x81\x044yes\x82\x00");
    assert_eq!(read(&mut link).await.unwrap(), None, "the client hung up");
    assert_eq!(read(&mut link).await.unwrap(), None);
}

#[tokio::test]
async fn one_read_may_bring_many_messages_and_each_is_given_once() {
    let (mut link, mut peer) = pair(1 << 16);
    for index in 0..100 {
        peer.write_all(&client_frame(0x81, format!("4{index}").as_bytes())).await.unwrap();
    }
    peer.write_all(&client_frame(0x81, b"4cut")[..4]).await.unwrap();
    for index in 0..100 {
        assert_eq!(read(&mut link).await.unwrap(), Some(text(&format!("4{index}"))));
    }
    assert!(now(|cx| link.poll_read(cx)).is_pending());
    assert_eq!(link.reader.held().len(), 4);
    drop(peer);
    assert_eq!(read(&mut link).await.unwrap(), None, "an end inside a frame is an end");
}

#[tokio::test]
async fn pings_are_answered_without_the_drivers_help_and_the_latest_wins() {
    let (mut link, mut peer) = pair(1 << 16);
    peer.write_all(&client_frame(0x89, b"a")).await.unwrap();
    peer.write_all(&client_frame(0x89, b"b")).await.unwrap();
    assert!(now(|cx| link.poll_read(cx)).is_pending());
    assert_eq!(received(&mut peer), b"\x8a\x01b");
}

#[tokio::test]
async fn a_pong_overtakes_frames_but_never_cuts_one() {
    let (mut link, mut peer) = pair(3);
    link.queue(&text("4first"), false).unwrap();
    link.queue(&text("4next"), false).unwrap();
    assert!(now(|cx| link.poll_flush(cx)).is_pending());
    for byte in client_frame(0x89, b"?") {
        peer.write_all(&[byte]).await.unwrap();
        assert!(now(|cx| link.poll_read(cx)).is_pending());
    }
    let written = b"\x81\x064first\x8a\x01?\x81\x054next";
    let (_, bytes) = tokio::join!(flush(&mut link), async {
        let mut bytes = vec![0; written.len()];
        peer.read_exact(&mut bytes).await.unwrap();
        bytes
    });
    assert_eq!(bytes, written);
}

#[tokio::test]
async fn unanswered_pings_are_limited() {
    let (mut link, mut peer) = pair(2000);
    link.queue(&Frame::Binary(vec![0; 3000].into()), false).unwrap();
    assert!(now(|cx| link.poll_flush(cx)).is_pending(), "the peer does not read");
    let ping = client_frame(0x89, b"");
    peer.write_all(&ping.repeat(MAX_UNANSWERED_PINGS.into())).await.unwrap();
    assert!(now(|cx| link.poll_read(cx)).is_pending());
    assert_eq!(link.writer.unanswered_pings, MAX_UNANSWERED_PINGS);
    assert_eq!(link.writer.queue.len(), 0, "one pong at most is kept");
    peer.write_all(&ping).await.unwrap();
    assert_eq!(rule(read(&mut link).await), PeerMisbehaved::ControlFrameFlood);
}

#[tokio::test]
async fn answered_pings_are_not() {
    let (mut link, mut peer) = pair(1 << 16);
    for _ in 0..4 * u32::from(MAX_UNANSWERED_PINGS) {
        peer.write_all(&client_frame(0x89, b"")).await.unwrap();
        assert!(now(|cx| link.poll_read(cx)).is_pending());
        assert_eq!(received(&mut peer), b"\x8a\x00");
    }
}

/// A stream that always has the same bytes to read, and counts how it is written to.
#[derive(Default)]
struct Endless {
    bytes: Vec<u8>,
    error: Option<io::ErrorKind>,
    reads: usize,
    writes: Vec<usize>,
    is_flushed: bool,
}

impl AsyncRead for Endless {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.reads += 1;
        buffer.put_slice(&self.bytes);
        Poll::Ready(self.error.map_or(Ok(()), |kind| Err(kind.into())))
    }
}

impl AsyncWrite for Endless {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.writes.push(1);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.writes.push(slices.len());
        Poll::Ready(Ok(slices.iter().map(|slice| slice.len()).sum()))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.is_flushed = true;
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[test]
fn a_peer_that_never_pauses_does_not_keep_the_others_waiting() {
    let io = Endless { bytes: client_frame(0x8a, b"pong"), ..Endless::default() };
    let mut link = WebSocket::new(io, None, CONFIG);
    let woken = Arc::new(Woken::default());
    let waker = Arc::clone(&woken).into();
    let cx = &mut Context::from_waker(&waker);
    for polls in 1..3 {
        assert!(link.poll_read(cx).is_pending());
        assert_eq!(link.io.reads, polls * MAX_READS_PER_POLL);
        assert_eq!(woken.0.load(Relaxed), polls, "its turn comes again");
    }
    link.close(1000);
    assert!(link.poll_closed(cx).is_pending());
    assert_eq!(link.io.reads, 3 * MAX_READS_PER_POLL);
    assert_eq!(woken.0.load(Relaxed), 3);
}

/// Counts how often it is woken.
#[derive(Default)]
struct Woken(AtomicUsize);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Relaxed);
    }
}

#[tokio::test]
async fn a_tls_stream_that_just_stops_is_an_end_and_other_errors_are_errors() {
    for (kind, is_end) in
        [(io::ErrorKind::UnexpectedEof, true), (io::ErrorKind::ConnectionReset, false)]
    {
        let io = Endless { error: Some(kind), ..Endless::default() };
        let mut link = WebSocket::new(io, None, CONFIG);
        assert_eq!(matches!(read(&mut link).await, Ok(None)), is_end);
        assert!(now(|cx| link.poll_closed(cx)).is_ready());
        assert!(link.reader.is_ended());
    }
}

#[test]
fn many_frames_go_in_one_write_and_the_queue_gives_its_memory_back() {
    let mut link = WebSocket::new(Endless::default(), None, CONFIG);
    for _ in 0..MAX_SLICES + 1 {
        link.queue(&text("4x"), false).unwrap();
    }
    assert!(now(|cx| link.poll_flush(cx)).is_ready());
    assert_eq!(link.io.writes, [MAX_SLICES, 1]);
    assert!(link.io.is_flushed);
    assert!(link.writer.queue.capacity() <= KEPT_SLOTS);
    link.io.is_flushed = false;
    assert!(now(|cx| link.poll_flush(cx)).is_ready());
    assert_eq!((link.io.writes.len(), link.io.is_flushed), (2, false), "nothing to do");
}

#[test]
fn shared_frames_are_not_copied() {
    let (mut link, _peer) = pair(1);
    let shared = encode_frame(&text("4everyone"));
    link.queue_framed(shared.clone());
    assert_eq!(link.writer.queue[0].as_ptr(), shared.as_ptr());
}

#[tokio::test]
async fn a_close_frame_is_sent_once_and_last() {
    let (mut link, mut peer) = pair(1 << 16);
    link.queue(&text("41"), false).unwrap();
    link.close(1001);
    link.close(1002);
    link.queue(&text("42"), false).unwrap();
    link.queue_framed(encode_frame(&text("43")));
    peer.write_all(&client_frame(0x89, b"late")).await.unwrap();
    assert!(now(|cx| link.poll_read(cx)).is_pending());
    flush(&mut link).await;
    assert_eq!(received(&mut peer), b"\x81\x0241\x88\x02\x03\xe9");
}

#[tokio::test]
async fn a_close_frame_is_answered_and_ends_the_link() {
    for (body, answer) in [
        (&b""[..], &b"\x88\x00"[..]),
        (b"\x03\xe8", b"\x88\x02\x03\xe8"),
        (b"\x03\xe9going", b"\x88\x02\x03\xe9"),
        (b"\x0f\xa0", b"\x88\x02\x0f\xa0"),
        (b"\x03\xed", b"\x88\x02\x03\xea"),
        (b"\x00\x00", b"\x88\x02\x03\xea"),
    ] {
        let (mut link, mut peer) = pair(1 << 16);
        peer.write_all(&client_frame(0x88, body)).await.unwrap();
        peer.write_all(&client_frame(0x81, b"4late")).await.unwrap();
        assert_eq!(read(&mut link).await.unwrap(), None);
        assert_eq!(read(&mut link).await.unwrap(), None);
        poll_fn(|cx| link.poll_closed(cx)).await;
        let mut bytes = Vec::new();
        peer.read_to_end(&mut bytes).await.unwrap();
        assert_eq!(bytes, answer, "{body:?}");
    }
}

#[tokio::test]
async fn who_hung_up_without_a_close_frame_is_sent_what_waits_and_none() {
    let (mut link, mut peer) = pair(1024);
    link.queue(&text("last"), false).unwrap();
    peer.shutdown().await.unwrap();
    assert_eq!(read(&mut link).await.unwrap(), None);
    link.close(1000);
    link.queue(&text("behind it"), false).unwrap();
    poll_fn(|cx| link.poll_closed(cx)).await;
    assert_eq!(received(&mut peer), b"\x81\x04last");
}

#[tokio::test]
async fn closing_waits_for_the_peers_close_frame_and_drops_messages() {
    let (mut link, mut peer) = pair(1 << 16);
    link.close(1000);
    assert!(now(|cx| link.poll_closed(cx)).is_pending());
    let mut bytes = Vec::new();
    peer.read_to_end(&mut bytes).await.unwrap();
    assert_eq!(bytes, b"\x88\x02\x03\xe8", "our side is shut down");
    let over_the_limit = vec![b'x'; CONFIG.max_payload / 2 + 1];
    for (first, late) in [
        (0x81, &b"4late"[..]),
        (0x81, b"not UTF-8: \xff"),
        (0x02, &over_the_limit),
        (0x80, &over_the_limit),
    ] {
        peer.write_all(&client_frame(first, late)).await.unwrap();
        assert!(now(|cx| link.poll_closed(cx)).is_pending());
    }
    peer.write_all(&client_frame(0x88, b"")).await.unwrap();
    assert!(now(|cx| link.poll_closed(cx)).is_ready());
}

/// It would be read for nothing, at the speed of the line, until the deadline.
#[tokio::test]
async fn closing_does_not_wait_for_a_peer_that_talks_on() {
    let (mut link, mut peer) = pair(1 << 16);
    link.close(1000);
    let pongs = client_frame(0x8a, b"").repeat(1 << 13);
    let mut sent = 0;
    while now(|cx| link.poll_closed(cx)).is_pending() {
        assert!(sent < 2 * CONFIG.max_payload, "{sent} bytes, and it reads on");
        peer.write_all(&pongs).await.unwrap();
        sent += pongs.len();
    }
    assert!(sent > CONFIG.max_payload, "a whole message may be under way");
}

#[tokio::test]
async fn closing_after_a_broken_rule_waits_for_the_end_of_the_stream() {
    let (mut link, mut peer) = pair(1 << 16);
    peer.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
    assert_eq!(rule(read(&mut link).await), PeerMisbehaved::IllegalWebSocketFrame);
    link.close(1002);
    peer.write_all(&client_frame(0x88, b"")).await.unwrap();
    assert!(now(|cx| link.poll_closed(cx)).is_pending());
    drop(peer);
    poll_fn(|cx| link.poll_closed(cx)).await;
}

#[tokio::test]
async fn a_stream_that_breaks_is_an_error_for_writing_and_ends_closing() {
    let (mut link, peer) = pair(1);
    drop(peer);
    link.queue(&text("4x"), false).unwrap();
    let outcome = poll_fn(|cx| link.poll_flush(cx)).await;
    assert!(matches!(outcome, Err(LinkError::Io(_))), "{outcome:?}");
    poll_fn(|cx| link.poll_closed(cx)).await;
}

#[test]
fn compression_is_for_what_is_long_enough_and_gets_shorter() {
    let threshold = 100;
    let mut link = WebSocket::new(Endless::default(), Some(Deflate { threshold }), CONFIG);
    assert!(link.is_deflate());
    let mut is_compressed = |frame: &Frame, compress| {
        link.queue(frame, compress).unwrap();
        let framed = link.writer.queue.pop_back().unwrap();
        let is_compressed = framed[0] & 0x40 != 0;
        assert_eq!(framed.len() < frame.len(), is_compressed);
        is_compressed
    };
    assert!(is_compressed(&text(&"4".repeat(threshold)), true));
    assert!(!is_compressed(&text(&"4".repeat(threshold - 1)), true));
    assert!(!is_compressed(&text(&"4".repeat(threshold)), false));
    let noise: Vec<u8> = (0..=255).collect();
    assert!(!is_compressed(&Frame::Binary(noise.into()), true));
    let (mut plain, _peer) = pair(1);
    plain.queue(&text(&"4".repeat(threshold)), true).unwrap();
    assert_eq!(plain.writer.queue[0][0], 0x81);
    let mut at_zero = WebSocket::new(Endless::default(), Some(Deflate { threshold: 0 }), CONFIG);
    at_zero.queue(&text(""), true).unwrap();
    assert_eq!(at_zero.writer.queue[0][..], *b"\x81\x00");
}

#[tokio::test]
async fn a_bomb_over_the_wire_is_refused() {
    let (ours, mut peer) = duplex(1 << 16);
    let mut link = WebSocket::new(ours, Some(Deflate { threshold: 0 }), CONFIG);
    let bomb = deflate::deflate(&vec![0; 10_000_000]).unwrap();
    peer.write_all(&client_frame(0xc2, &bomb)).await.unwrap();
    assert_eq!(rule(read(&mut link).await), PeerMisbehaved::PayloadTooLarge);
}

#[tokio::test]
async fn tungstenite_understands_us_and_we_it() {
    let (ours, theirs) = duplex(1000);
    let mut link = WebSocket::new(ours, None, CONFIG);
    let server = tokio::spawn(async move {
        while let Some(frame) = read(&mut link).await.unwrap() {
            link.queue(&frame, true).unwrap();
            link.queue_framed(encode_frame(&frame));
            flush(&mut link).await;
        }
        poll_fn(|cx| link.poll_closed(cx)).await;
    });
    let mut client =
        tokio_tungstenite::WebSocketStream::from_raw_socket(theirs, Role::Client, None).await;
    for len in [0, 1, 125, 126, 65_535, 65_536, CONFIG.max_payload] {
        for message in [
            tungstenite::Message::text("x".repeat(len)),
            tungstenite::Message::binary(vec![200; len]),
        ] {
            client.send(tungstenite::Message::Ping("?".into())).await.unwrap();
            client.send(message.clone()).await.unwrap();
            let pong = client.next().await.unwrap().unwrap();
            assert_eq!(pong, tungstenite::Message::Pong("?".into()));
            for _ in 0..2 {
                assert_eq!(client.next().await.unwrap().unwrap(), message);
            }
        }
    }
    client.close(None).await.unwrap();
    while let Some(message) = client.next().await {
        assert!(message.unwrap().is_close());
    }
    server.await.unwrap();
}

proptest! {
    #[test]
    fn partial_writes_lose_repeat_and_reorder_nothing(
        steps in proptest::collection::vec((0usize..40, 0usize..120, 0u8..8), 1..60),
    ) {
        let mut writer = Writer::default();
        let mut expected = Vec::new();
        let mut written = Vec::new();
        for (index, (len, portion, pings)) in steps.into_iter().enumerate() {
            let frame = encode(OpCode::Binary, false, &vec![index as u8; len]);
            expected.extend_from_slice(&frame);
            writer.push(frame);
            if pings == 0 {
                writer.answer_ping(&[]).unwrap();
            }
            let mut slices = [IoSlice::new(&[]); MAX_SLICES];
            let count = writer.slices(&mut slices);
            let bytes = slices[..count].iter().flat_map(|slice| slice.iter().copied());
            let taken: Vec<u8> = bytes.take(portion).collect();
            writer.advance(taken.len());
            written.extend(taken);
        }
        let rest = [&writer.current, &writer.pong].into_iter().chain(&writer.queue);
        let rest: Vec<u8> = rest.flatten().copied().collect();
        prop_assert_eq!(rest.len(), writer.bytes);
        written.extend(rest);
        prop_assert_eq!(without_pongs(&written), expected);
    }
}

/// Walks over whole frames of less than 126 bytes and leaves the pongs out.
fn without_pongs(mut bytes: &[u8]) -> Vec<u8> {
    let mut rest = Vec::new();
    while !bytes.is_empty() {
        let (frame, tail) = bytes.split_at(2 + usize::from(bytes[1]));
        if frame[0] != 0x8a {
            rest.extend_from_slice(frame);
        }
        bytes = tail;
    }
    rest
}
