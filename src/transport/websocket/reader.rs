//! Client bytes -> whole messages and control frames (RFC 6455 5), without I/O.

use bytes::{Buf, Bytes};
use soketto::Parsing;
use soketto::base::{self, Codec, Header, OpCode};

use super::deflate;
use crate::engine::packet::{Frame, Str};
use crate::error::PeerMisbehaved;

/// Bytes of the longest frame header, less one: more than that is never kept as "not yet a header".
pub(super) const MAX_PARTIAL_HEADER: usize = 13;

/// Frames that one message may be cut into.
///
/// Browsers cut large messages into pieces of 16 KiB and more; whoever needs this many sends frames
/// with (almost) nothing in them.
pub(super) const MAX_FRAGMENTS: u32 = 4096;

/// Bytes beyond a whole message that may come before the close frame, when only that matters any more.
///
/// Who was in the middle of a large message has to get it out before it can answer.
const SKIPPED_BEYOND: usize = 64 * 1024;

/// What a client sent.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// A whole message, reassembled, inflated and, if text, valid UTF-8.
    Message(Frame),
    /// A ping with this payload.
    Ping(Vec<u8>),
    /// A close frame with this code; nothing comes after it.
    Close(Option<u16>),
}

/// What becomes of the bytes that arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Messages are read.
    Open,
    /// Only the close frame matters any more: payloads of messages are dropped.
    Skipping,
    /// The framing is broken: no byte can be understood any more.
    Lost,
    /// The close frame came.
    Ended,
    /// The stream ended, without a close frame or behind it.
    Cut,
}

/// Takes in bytes as they come and gives out events.
///
/// Order of calls: [`Reader::next_held`] until it gives nothing, then [`Reader::take_in`] with
/// bytes from the network, behind those of [`Reader::held`]. An idle reader owns no heap memory.
#[derive(Debug)]
pub(super) struct Reader {
    /// Bytes that were read but not taken in yet: frames behind the one that was just given out, or
    /// a part of a header.
    held: Bytes,
    /// The frame whose payload is due.
    head: Option<Head>,
    /// What the current message is, from its first frame to its last.
    kind: Option<Kind>,
    /// Payload of the current message. Grows with what arrived, not with what was announced.
    message: Vec<u8>,
    /// Payload of a control frame, which may stand between the frames of a message.
    control: Vec<u8>,
    /// Frames of the current message so far.
    fragments: u32,
    /// See [`Reader::take_other_frames`].
    other_frames: usize,
    /// Bytes that came when only the close frame mattered.
    skipped: usize,
    phase: Phase,
    is_deflate: bool,
    /// Bytes of a message, before and after inflating.
    max_payload: usize,
}

/// What is still to be known of a frame header while its payload arrives.
#[derive(Clone, Copy, Debug)]
struct Head {
    opcode: OpCode,
    is_fin: bool,
    remaining: usize,
    /// Rotated so that the first byte is for the next byte of the payload.
    mask: [u8; 4],
}

#[derive(Clone, Copy, Debug)]
struct Kind {
    is_text: bool,
    is_compressed: bool,
}

impl Reader {
    pub(super) fn new(is_deflate: bool, max_payload: usize) -> Self {
        Self {
            held: Bytes::new(),
            head: None,
            kind: None,
            message: Vec::new(),
            control: Vec::new(),
            fragments: 0,
            other_frames: 0,
            skipped: 0,
            phase: Phase::Open,
            is_deflate,
            max_payload,
        }
    }

    /// Will no event come any more?
    pub(super) fn is_over(&self) -> bool {
        matches!(self.phase, Phase::Lost | Phase::Ended | Phase::Cut)
    }

    /// Did the peer end its side?
    pub(super) fn is_ended(&self) -> bool {
        matches!(self.phase, Phase::Ended | Phase::Cut)
    }

    /// Did the stream itself end?
    pub(super) fn is_cut(&self) -> bool {
        self.phase == Phase::Cut
    }

    /// The stream ended, inside a frame or not: below the framing that is the same.
    pub(super) fn end(&mut self) {
        self.forget(Phase::Cut);
    }

    /// From now on only the close frame matters.
    pub(super) fn skip_messages(&mut self) {
        if self.phase == Phase::Open {
            self.phase = Phase::Skipping;
            self.message = Vec::new();
        }
    }

    /// Has more come without a close frame than could be under way when the peer was told to close?
    pub(super) fn talks_on(&self) -> bool {
        self.skipped > self.max_payload.saturating_add(SKIPPED_BEYOND)
    }

    /// Bytes to put before the next ones from the network: at most [`MAX_PARTIAL_HEADER`] once
    /// [`Reader::next_held`] gave nothing.
    pub(super) fn held(&self) -> &[u8] {
        &self.held
    }

    /// Frames since the last call that were not the first of a message: control frames, and all
    /// further pieces of messages.
    pub(super) fn take_other_frames(&mut self) -> usize {
        std::mem::take(&mut self.other_frames)
    }

    /// Bytes of the message that is under way.
    pub(super) fn partial_bytes(&self) -> usize {
        self.message.len()
    }

    /// Bytes of a message and a control frame that wait for the rest of them.
    #[cfg(any(test, fuzzing))]
    pub(super) fn buffered(&self) -> usize {
        self.message.capacity() + self.control.capacity()
    }

    /// The next event from the bytes that are held.
    ///
    /// # Errors
    /// As [`Reader::take_in`].
    pub(super) fn next_held(&mut self) -> Result<Option<Event>, PeerMisbehaved> {
        let mut held = std::mem::take(&mut self.held);
        let mut input = &held[..];
        let event = self.step(&mut input);
        held.advance(held.len() - input.len());
        if !held.is_empty() && !self.is_over() {
            self.held = held;
        }
        event
    }

    /// The next event from what was held and what came behind it; holds what it does not need yet.
    ///
    /// # Errors
    /// The rule that the peer broke; afterwards the reader is over.
    pub(super) fn take_in(&mut self, mut input: &[u8]) -> Result<Option<Event>, PeerMisbehaved> {
        if self.phase != Phase::Open {
            let new = input.len().saturating_sub(self.held.len());
            self.skipped = self.skipped.saturating_add(new);
        }
        let event = self.step(&mut input);
        self.held = if self.is_over() { Bytes::new() } else { Bytes::copy_from_slice(input) };
        event
    }

    fn step(&mut self, input: &mut &[u8]) -> Result<Option<Event>, PeerMisbehaved> {
        let outcome = self.advance(input);
        match outcome {
            Err(_) => self.forget(Phase::Lost),
            Ok(Some(Event::Close(_))) => self.forget(Phase::Ended),
            Ok(_) => {}
        }
        outcome
    }

    fn forget(&mut self, phase: Phase) {
        self.phase = phase;
        self.held = Bytes::new();
        self.head = None;
        self.kind = None;
        self.message = Vec::new();
        self.control = Vec::new();
    }

    /// Goes on to the next event. Without one, at most a part of a header is left in the input.
    fn advance(&mut self, input: &mut &[u8]) -> Result<Option<Event>, PeerMisbehaved> {
        while !self.is_over() {
            if self.head.is_none() {
                match self.header_codec().decode_header(input).map_err(refusal)? {
                    Parsing::NeedMore(_) => return Ok(None),
                    Parsing::Done { value, offset } => {
                        *input = &input[offset..];
                        self.head = Some(self.begin_frame(&value)?);
                    }
                }
            }
            let head = self.take_payload(input);
            if head.remaining > 0 {
                self.head = Some(head);
                return Ok(None);
            }
            if let Some(event) = self.end_frame(head)? {
                return Ok(Some(event));
            }
        }
        *input = &[];
        Ok(None)
    }

    fn header_codec(&self) -> Codec {
        let mut codec = Codec::new();
        // The limit is on the whole message: see `begin_frame`.
        codec.set_max_data_size(usize::MAX);
        codec.add_reserved_bits((self.is_deflate, false, false));
        codec
    }

    /// Checks a header before a byte of its payload is kept.
    fn begin_frame(&mut self, header: &Header) -> Result<Head, PeerMisbehaved> {
        // RFC 6455 5.1: "The server MUST close the connection upon receiving a frame that is not
        // masked."
        if !header.is_masked() {
            return Err(PeerMisbehaved::IllegalWebSocketFrame);
        }
        if header.opcode().is_control() || header.opcode() == OpCode::Continue {
            self.other_frames = self.other_frames.saturating_add(1);
        }
        if !header.opcode().is_control() {
            self.begin_data_frame(header)?;
        } else if header.is_rsv1() {
            // RFC 7692 6.1: the bit is not for control frames.
            return Err(PeerMisbehaved::IllegalWebSocketFrame);
        }
        Ok(Head {
            opcode: header.opcode(),
            is_fin: header.is_fin(),
            remaining: header.payload_len(),
            mask: header.mask().to_be_bytes(),
        })
    }

    fn begin_data_frame(&mut self, header: &Header) -> Result<(), PeerMisbehaved> {
        let is_continuation = header.opcode() == OpCode::Continue;
        // RFC 6455 5.4: no continuation of nothing, no message inside another; RFC 7692 6.1: the
        // bit is on the first frame of a message.
        if is_continuation != self.kind.is_some() || (is_continuation && header.is_rsv1()) {
            return Err(PeerMisbehaved::IllegalWebSocketFrame);
        }
        if !is_continuation {
            let is_text = header.opcode() == OpCode::Text;
            self.kind = Some(Kind { is_text, is_compressed: header.is_rsv1() });
        }
        self.fragments += 1;
        if self.phase == Phase::Skipping {
            self.fragments = 0;
            return Ok(());
        }
        if self.fragments > MAX_FRAGMENTS {
            return Err(PeerMisbehaved::IllegalWebSocketFrame);
        }
        // `message` is never longer than the limit.
        if header.payload_len() > self.max_payload - self.message.len() {
            return Err(PeerMisbehaved::PayloadTooLarge);
        }
        Ok(())
    }

    /// Moves what has come of the payload to where it belongs; gives the header as it stands then.
    fn take_payload(&mut self, input: &mut &[u8]) -> Head {
        let mut head = self.head.take().expect("a header was read before its payload");
        let (payload, rest) = input.split_at(head.remaining.min(input.len()));
        *input = rest;
        let is_control = head.opcode.is_control();
        if is_control || self.phase == Phase::Open {
            let target = if is_control { &mut self.control } else { &mut self.message };
            // What more can come decides how much room is worth having beyond what is needed now.
            let end = target.len() + head.remaining;
            let most = if head.is_fin { end } else { self.max_payload };
            grow(target, payload.len(), most);
            let start = target.len();
            target.extend_from_slice(payload);
            unmask(&mut target[start..], head.mask);
        }
        head.remaining -= payload.len();
        head.mask.rotate_left(payload.len() % 4);
        head
    }

    fn end_frame(&mut self, head: Head) -> Result<Option<Event>, PeerMisbehaved> {
        match head.opcode {
            OpCode::Ping => Ok(Some(Event::Ping(std::mem::take(&mut self.control)))),
            OpCode::Close => {
                close_code(&std::mem::take(&mut self.control)).map(|code| Some(Event::Close(code)))
            }
            OpCode::Continue | OpCode::Text | OpCode::Binary => {
                if head.is_fin {
                    self.end_message()
                } else {
                    Ok(None)
                }
            }
            // A pong; the codec lets no reserved opcode pass.
            _ => {
                self.control = Vec::new();
                Ok(None)
            }
        }
    }

    fn end_message(&mut self) -> Result<Option<Event>, PeerMisbehaved> {
        let kind = self.kind.take().expect("begin_data_frame has set it");
        self.fragments = 0;
        if self.phase == Phase::Skipping {
            return Ok(None);
        }
        let mut payload = std::mem::take(&mut self.message);
        if kind.is_compressed {
            payload = deflate::inflate(&payload, self.max_payload)?;
        }
        let frame = if kind.is_text {
            let text = String::from_utf8(payload).map_err(|_| PeerMisbehaved::InvalidUtf8)?;
            Frame::Text(Str::from(text))
        } else {
            Frame::Binary(payload.into())
        };
        Ok(Some(Event::Message(frame)))
    }
}

fn refusal(error: base::Error) -> PeerMisbehaved {
    match error {
        base::Error::PayloadTooLarge { .. } => PeerMisbehaved::PayloadTooLarge,
        _ => PeerMisbehaved::IllegalWebSocketFrame,
    }
}

/// Makes room for `additional` bytes, doubling as a `Vec` does but never beyond `most`.
fn grow(target: &mut Vec<u8>, additional: usize, most: usize) {
    let needed = target.len() + additional;
    if needed > target.capacity() {
        let capacity = (target.capacity() * 2).min(most).max(needed);
        target.reserve_exact(capacity - target.len());
    }
}

/// RFC 6455 5.3, eight bytes at a time.
fn unmask(data: &mut [u8], mask: [u8; 4]) {
    let [a, b, c, d] = mask;
    let wide = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let mut chunks = data.chunks_exact_mut(8);
    for chunk in &mut chunks {
        let bytes: [u8; 8] = (&*chunk).try_into().expect("chunks_exact gives eight bytes");
        chunk.copy_from_slice(&(u64::from_ne_bytes(bytes) ^ wide).to_ne_bytes());
    }
    for (byte, key) in chunks.into_remainder().iter_mut().zip(mask.iter().cycle()) {
        *byte ^= key;
    }
}

/// RFC 6455 5.5.1: *"If there is a body, the first two bytes of the body MUST be a 2-byte unsigned
/// integer"*, and a reason in UTF-8 may follow.
fn close_code(body: &[u8]) -> Result<Option<u16>, PeerMisbehaved> {
    match body {
        [] => Ok(None),
        [_] => Err(PeerMisbehaved::IllegalWebSocketFrame),
        [high, low, reason @ ..] => match std::str::from_utf8(reason) {
            Ok(_) => Ok(Some(u16::from_be_bytes([*high, *low]))),
            Err(_) => Err(PeerMisbehaved::InvalidUtf8),
        },
    }
}

#[cfg(test)]
mod tests;
