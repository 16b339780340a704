//! How frames lie in a byte stream (WebTransport) and in an HTTP body (polling).
//!
//! WebSocket has frames of its own, see `transport::websocket`.

use base64::Engine as _;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig, STANDARD};
use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::packet::{Frame, Str};
use crate::error::PeerMisbehaved;

/// Splits packets of a polling payload (Engine.IO v4: "separated by the record separator character").
const RECORD_SEPARATOR: char = '\x1e';

/// The client may leave the padding out; Node's Buffer does not mind either.
const BASE64_LENIENT: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// Writes one frame of a WebTransport stream: *"the first bit indicates whether the payload is plain
/// text (0) or binary (1), the next 7 bits the length; 126: the next 2 bytes, 127: the next 8 bytes"*
/// (engine.io-parser `createPacketEncoderStream`).
pub(crate) fn put_length_prefixed(frame: &Frame, out: &mut BytesMut) {
    let (binary, data): (u8, &[u8]) = match frame {
        Frame::Text(text) => (0, text.as_bytes()),
        Frame::Binary(data) => (0x80, data),
    };
    out.reserve(9 + data.len());
    match data.len() {
        len @ 0..126 => out.put_u8(binary | len as u8),
        len @ 126..0x1_0000 => {
            out.put_u8(binary | 126);
            out.put_u16(len as u16);
        }
        len => {
            out.put_u8(binary | 127);
            out.put_u64(len as u64);
        }
    }
    out.put_slice(data);
}

/// Writes one unmasked WebSocket frame (RFC 6455 5.2), as a server sends it. One frame a message.
pub(crate) fn put_websocket(frame: &Frame, out: &mut BytesMut) {
    let (opcode, data): (u8, &[u8]) = match frame {
        Frame::Text(text) => (1, text.as_bytes()),
        Frame::Binary(data) => (2, data),
    };
    const FIN: u8 = 0x80;
    out.reserve(10 + data.len());
    out.put_u8(FIN | opcode);
    match data.len() {
        len @ 0..126 => out.put_u8(len as u8),
        len @ 126..0x1_0000 => {
            out.put_u8(126);
            out.put_u16(len as u16);
        }
        len => {
            out.put_u8(127);
            out.put_u64(len as u64);
        }
    }
    out.put_slice(data);
}

/// Cuts a WebTransport stream into frames.
///
/// Call [`LengthPrefixed::push`] with what arrived, then [`LengthPrefixed::next_frame`] until it gives `None`.
/// After an error the stream is out of step and must be closed. The buffer holds at most one frame and
/// what arrived behind it, and gives its memory back whenever it is empty.
#[derive(Debug)]
pub(crate) struct LengthPrefixed {
    buffer: BytesMut,
    max_payload: usize,
}

impl LengthPrefixed {
    /// `max_payload`: longest frame that is accepted, in bytes.
    pub(crate) fn new(max_payload: usize) -> Self {
        Self { buffer: BytesMut::new(), max_payload }
    }

    /// Of the frames from the next one on.
    pub(crate) fn set_max_payload(&mut self, max_payload: usize) {
        self.max_payload = max_payload;
    }

    pub(crate) fn push(&mut self, data: &[u8]) {
        self.buffer.extend_from_slice(data);
    }

    /// The next whole frame.
    ///
    /// # Errors
    /// [`PeerMisbehaved::IllegalFrameLength`] for a length of zero, [`PeerMisbehaved::FrameTooLarge`]
    /// as soon as a longer one than allowed is announced, [`PeerMisbehaved::InvalidUtf8`].
    pub(crate) fn next_frame(&mut self) -> Result<Option<Frame>, PeerMisbehaved> {
        let Some((binary, header, length)) = self.header() else {
            return Ok(None);
        };
        if length == 0 {
            return Err(PeerMisbehaved::IllegalFrameLength);
        }
        if length > self.max_payload as u64 {
            return Err(PeerMisbehaved::FrameTooLarge);
        }
        let length = length as usize;
        if self.buffer.len() < header + length {
            return Ok(None);
        }
        self.buffer.advance(header);
        let data = self.buffer.split_to(length);
        let frame = if binary {
            Frame::Binary(Bytes::copy_from_slice(&data))
        } else {
            let text = std::str::from_utf8(&data).map_err(|_| PeerMisbehaved::InvalidUtf8)?;
            Frame::Text(Str::copy_from_slice(text))
        };
        drop(data);
        if self.buffer.is_empty() {
            self.buffer = BytesMut::new();
        }
        Ok(Some(frame))
    }

    /// Bytes that have come of a frame that is not whole yet, without its header.
    pub(crate) fn partial_bytes(&self) -> usize {
        self.header().map_or(0, |(_, header, _)| self.buffer.len() - header)
    }

    /// Is the stream in the middle of a frame? (Its end would be a truncation.)
    pub(crate) fn is_partial(&self) -> bool {
        !self.buffer.is_empty()
    }

    /// Binary?, bytes of the header, announced length.
    fn header(&self) -> Option<(bool, usize, u64)> {
        let buffer = &self.buffer;
        let first = *buffer.first()?;
        let binary = first & 0x80 != 0;
        match first & 0x7f {
            126 => {
                let bytes = buffer.get(1..3)?.try_into().expect("the slice has 2 bytes");
                Some((binary, 3, u64::from(u16::from_be_bytes(bytes))))
            }
            127 => {
                let bytes = buffer.get(1..9)?.try_into().expect("the slice has 8 bytes");
                Some((binary, 9, u64::from_be_bytes(bytes)))
            }
            length => Some((binary, 1, u64::from(length))),
        }
    }
}

/// Appends one frame to a polling payload.
pub(crate) fn put_record(frame: &Frame, out: &mut String) {
    if !out.is_empty() {
        out.push(RECORD_SEPARATOR);
    }
    match frame {
        Frame::Text(text) => out.push_str(text),
        Frame::Binary(data) => {
            out.push('b');
            STANDARD.encode_string(data, out);
        }
    }
}

/// The frames of one POST body, cut one at a time: a body of a million separators costs no more memory
/// than the body.
#[derive(Debug, Default)]
pub(crate) struct Records {
    rest: Option<Str>,
}

impl Records {
    pub(crate) fn new(body: Str) -> Self {
        Self { rest: Some(body) }
    }

    /// The next frame, `None` at the end.
    ///
    /// # Errors
    /// [`PeerMisbehaved::InvalidBase64`]. An empty record is an empty text frame, which the packet layer refuses.
    pub(crate) fn next_frame(&mut self) -> Result<Option<Frame>, PeerMisbehaved> {
        let Some(rest) = self.rest.take() else {
            return Ok(None);
        };
        let record = match rest.find(RECORD_SEPARATOR) {
            Some(at) => {
                self.rest = Some(rest.slice(at + 1..));
                rest.slice(..at)
            }
            None => rest,
        };
        if let Some(encoded) = record.strip_prefix('b') {
            let data = BASE64_LENIENT.decode(encoded).map_err(|_| PeerMisbehaved::InvalidBase64)?;
            return Ok(Some(Frame::Binary(data.into())));
        }
        Ok(Some(Frame::Text(record)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn text(content: &str) -> Frame {
        Frame::Text(Str::copy_from_slice(content))
    }

    fn records(body: &str) -> Result<Vec<Frame>, PeerMisbehaved> {
        let mut records = Records::new(Str::copy_from_slice(body));
        let mut frames = Vec::new();
        while let Some(frame) = records.next_frame()? {
            frames.push(frame);
        }
        Ok(frames)
    }

    #[test]
    fn length_prefix_switches_at_126_and_65536() {
        for (length, header) in [
            (1, vec![1]),
            (125, vec![125]),
            (126, vec![126, 0, 126]),
            (65_535, vec![126, 255, 255]),
            (65_536, vec![127, 0, 0, 0, 0, 0, 1, 0, 0]),
        ] {
            let mut out = BytesMut::new();
            put_length_prefixed(&text(&"x".repeat(length)), &mut out);
            assert_eq!(&out[..header.len()], header, "{length}");
            assert_eq!(out.len(), header.len() + length);
            let mut binary = BytesMut::new();
            put_length_prefixed(&Frame::Binary(vec![1; length].into()), &mut binary);
            assert_eq!(binary[0], 0x80 | header[0]);
        }
    }

    #[test]
    fn the_limit_holds_to_the_byte_and_before_the_payload_arrives() {
        let mut at_limit = LengthPrefixed::new(10);
        at_limit.push(b"\x0a4123456789");
        assert_eq!(at_limit.next_frame(), Ok(Some(text("4123456789"))));
        let mut over = LengthPrefixed::new(10);
        over.push(b"\x0b");
        assert_eq!(over.next_frame(), Err(PeerMisbehaved::FrameTooLarge));
        let mut huge = LengthPrefixed::new(10);
        huge.push(&[0xff; 9]);
        assert_eq!(huge.next_frame(), Err(PeerMisbehaved::FrameTooLarge));
        let mut zero = LengthPrefixed::new(10);
        zero.push(&[0x80]);
        assert_eq!(zero.next_frame(), Err(PeerMisbehaved::IllegalFrameLength));
    }

    #[test]
    fn text_must_be_utf8() {
        let mut decoder = LengthPrefixed::new(10);
        decoder.push(b"\x024\xff");
        assert_eq!(decoder.next_frame(), Err(PeerMisbehaved::InvalidUtf8));
    }

    #[test]
    fn a_payload_has_several_packets_and_base64_for_binary() {
        let frames = [text("4hello"), text("2"), Frame::Binary(Bytes::from_static(&[1, 2, 3, 4]))];
        let mut body = String::new();
        for frame in &frames {
            put_record(frame, &mut body);
        }
        assert_eq!(body, "4hello\u{1e}2\u{1e}bAQIDBA==");
        assert_eq!(records(&body), Ok(frames.to_vec()));
        assert_eq!(records("bAQIDBA"), Ok(vec![Frame::Binary(Bytes::from_static(&[1, 2, 3, 4]))]));
        assert_eq!(records("b!!"), Err(PeerMisbehaved::InvalidBase64));
        assert_eq!(records(""), Ok(vec![text("")]));
        assert_eq!(records("4a\u{1e}"), Ok(vec![text("4a"), text("")]));
    }

    fn frame_strategy() -> impl Strategy<Value = Frame> {
        prop_oneof![
            ".{1,300}".prop_map(|content| text(&content)),
            proptest::collection::vec(any::<u8>(), 1..300)
                .prop_map(|data| Frame::Binary(data.into())),
        ]
    }

    proptest! {
        #[test]
        fn frames_survive_any_cut_of_the_stream(
            frames in proptest::collection::vec(frame_strategy(), 0..6),
            cut in 1usize..50,
        ) {
            let mut stream = BytesMut::new();
            for frame in &frames {
                put_length_prefixed(frame, &mut stream);
            }
            let mut decoder = LengthPrefixed::new(1_000_000);
            let mut decoded = Vec::new();
            for chunk in stream.chunks(cut) {
                decoder.push(chunk);
                while let Some(frame) = decoder.next_frame().unwrap() {
                    decoded.push(frame);
                }
            }
            prop_assert_eq!(decoded, frames);
            prop_assert!(!decoder.is_partial());
        }

        #[test]
        fn garbage_never_panics_and_never_passes_the_limit(
            data in proptest::collection::vec(any::<u8>(), 0..200),
        ) {
            let mut decoder = LengthPrefixed::new(64);
            decoder.push(&data);
            while let Ok(Some(frame)) = decoder.next_frame() {
                prop_assert!(frame.len() <= 64);
            }
        }

        #[test]
        fn any_body_decodes_or_is_refused(body in ".{0,200}") {
            let _ = records(&body);
        }
    }
}
