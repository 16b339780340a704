//! One message, framed at most once for each framing, shared by all its recipients.

use std::sync::OnceLock;

use bytes::{Bytes, BytesMut};

use crate::engine::framing::{put_length_prefixed, put_websocket};
use crate::engine::packet::{Frame, Message, Packet};

/// The frames of one message that must go out together: a text packet and its attachments.
#[derive(Debug)]
pub(crate) struct Encoded {
    frames: Box<[Frame]>,
    /// What the bound of an outbox counts.
    bytes: usize,
    /// May the transport compress it? (The `compress` flag of Socket.IO.)
    compress: bool,
    websocket: OnceLock<Bytes>,
    length_prefixed: OnceLock<Bytes>,
}

impl Encoded {
    pub(crate) fn new(frames: Vec<Frame>, compress: bool) -> Self {
        let bytes = frames.iter().map(Frame::len).sum::<usize>() + size_of::<Self>();
        Self {
            frames: frames.into(),
            bytes,
            compress,
            websocket: OnceLock::new(),
            length_prefixed: OnceLock::new(),
        }
    }

    /// A message of an application on bare Engine.IO.
    pub(crate) fn message(message: Message) -> Self {
        Self::new(vec![Packet::Message(message).encode()], true)
    }

    pub(crate) fn frames(&self) -> &[Frame] {
        &self.frames
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Bytes of its frames, without any framing.
    pub(crate) fn payload_bytes(&self) -> usize {
        self.bytes - size_of::<Self>()
    }

    pub(crate) fn compress(&self) -> bool {
        self.compress
    }

    /// All frames as WebSocket frames.
    pub(crate) fn websocket(&self) -> &Bytes {
        self.websocket.get_or_init(|| self.framed(put_websocket))
    }

    /// All frames as they lie in a WebTransport stream.
    pub(crate) fn length_prefixed(&self) -> &Bytes {
        self.length_prefixed.get_or_init(|| self.framed(put_length_prefixed))
    }

    fn framed(&self, put: impl Fn(&Frame, &mut BytesMut)) -> Bytes {
        const HEADER_MAX: usize = 10;
        let bytes = self.frames.iter().map(|frame| frame.len() + HEADER_MAX).sum();
        let mut out = BytesMut::with_capacity(bytes);
        for frame in &self.frames {
            put(frame, &mut out);
        }
        out.freeze()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recipients_share_the_same_bytes() {
        let encoded =
            Encoded::new(vec![Frame::Text("4hi".into()), Frame::Binary("x".into())], true);
        assert_eq!(&encoded.websocket()[..], b"\x81\x034hi\x82\x01x");
        assert_eq!(&encoded.length_prefixed()[..], b"\x034hi\x81x");
        assert_eq!(encoded.websocket().as_ptr(), encoded.websocket().as_ptr());
    }
}
