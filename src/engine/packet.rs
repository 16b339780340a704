//! Engine.IO packets and the frames that carry them.
//!
//! Engine.IO v4, "Packet encoding": *"\<packet type\>\[\<data\>\]"*, where the type is one ASCII digit and
//! a binary message has no type of its own: on WebSocket and WebTransport it is a binary frame, in a
//! polling payload it is `b` and base64.

use bytes::Bytes;
pub use engineioxide_core::Str;

use crate::error::PeerMisbehaved;

/// One whole Engine.IO packet as a transport carries it.
///
/// A text frame starts with the packet type; a binary frame is always a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// Type digit and data.
    Text(Str),
    /// The data of a binary message.
    Binary(Bytes),
}

impl Frame {
    /// Bytes of the frame without any framing around it.
    pub fn len(&self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::Binary(data) => data.len(),
        }
    }

    /// Is there nothing in it? (Legal for a binary message.)
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// What an application on Engine.IO sends and receives: a message without its type digit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// A text message.
    Text(Str),
    /// A binary message.
    Binary(Bytes),
}

impl From<&str> for Message {
    fn from(text: &str) -> Self {
        Self::Text(Str::copy_from_slice(text))
    }
}

impl From<String> for Message {
    fn from(text: String) -> Self {
        Self::Text(text.into())
    }
}

impl From<Vec<u8>> for Message {
    fn from(data: Vec<u8>) -> Self {
        Self::Binary(data.into())
    }
}

impl From<Bytes> for Message {
    fn from(data: Bytes) -> Self {
        Self::Binary(data)
    }
}

/// An Engine.IO packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Packet {
    /// `0`: the handshake; from a client only as the first packet on WebTransport.
    Open(Str),
    /// `1`: the transport is going to be closed.
    Close,
    /// `2`: heartbeat, or `2probe` of an upgrade.
    Ping(Str),
    /// `3`: the answer to a ping.
    Pong(Str),
    /// `4`, or a binary frame.
    Message(Message),
    /// `5`: the client moves to the transport that this came on.
    Upgrade,
    /// `6`: nothing; ends a waiting poll.
    Noop,
}

impl Packet {
    /// Reads one frame.
    ///
    /// # Errors
    /// [`PeerMisbehaved::UnknownEnginePacket`] for an empty text frame or a type other than `0` to `6`
    /// (engine.io-parser answers those with its error packet, which closes the session with "parse error").
    pub fn decode(frame: Frame) -> Result<Self, PeerMisbehaved> {
        let text = match frame {
            Frame::Binary(data) => return Ok(Self::Message(Message::Binary(data))),
            Frame::Text(text) => text,
        };
        let Some(kind) = text.as_bytes().first().copied() else {
            return Err(PeerMisbehaved::UnknownEnginePacket);
        };
        if !kind.is_ascii_digit() {
            return Err(PeerMisbehaved::UnknownEnginePacket);
        }
        let data = text.slice(1..);
        Ok(match kind {
            b'0' => Self::Open(data),
            b'1' => Self::Close,
            b'2' => Self::Ping(data),
            b'3' => Self::Pong(data),
            b'4' => Self::Message(Message::Text(data)),
            b'5' => Self::Upgrade,
            b'6' => Self::Noop,
            _ => return Err(PeerMisbehaved::UnknownEnginePacket),
        })
    }

    /// Writes one frame. Text messages are copied behind their type digit.
    pub fn encode(&self) -> Frame {
        match self {
            Self::Open(data) => typed('0', data),
            Self::Close => Frame::Text(Str::from("1")),
            Self::Ping(data) => typed('2', data),
            Self::Pong(data) => typed('3', data),
            Self::Message(Message::Text(text)) => typed('4', text),
            Self::Message(Message::Binary(data)) => Frame::Binary(data.clone()),
            Self::Upgrade => Frame::Text(Str::from("5")),
            Self::Noop => Frame::Text(Str::from("6")),
        }
    }
}

fn typed(kind: char, data: &str) -> Frame {
    let mut text = String::with_capacity(1 + data.len());
    text.push(kind);
    text.push_str(data);
    Frame::Text(text.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_packet_survives_the_wire() {
        for (packet, wire) in [
            (Packet::Open("{}".into()), "0{}"),
            (Packet::Close, "1"),
            (Packet::Ping("probe".into()), "2probe"),
            (Packet::Pong("".into()), "3"),
            (Packet::Message("hi €".into()), "4hi €"),
            (Packet::Upgrade, "5"),
            (Packet::Noop, "6"),
        ] {
            assert_eq!(packet.encode(), Frame::Text(wire.into()));
            assert_eq!(Packet::decode(Frame::Text(wire.into())), Ok(packet));
        }
        let binary = Packet::Message(Message::Binary(Bytes::from_static(&[0, 255])));
        assert_eq!(Packet::decode(binary.encode()), Ok(binary));
    }

    #[test]
    fn unknown_types_are_refused() {
        for wire in ["", "7", "9", "a", "\u{0}", "é", " 4"] {
            assert_eq!(
                Packet::decode(Frame::Text(wire.into())),
                Err(PeerMisbehaved::UnknownEnginePacket),
                "{wire:?}"
            );
        }
    }

    proptest! {
        #[test]
        fn decoding_never_panics_and_what_decodes_encodes(text in ".{0,40}") {
            if let Ok(packet) = Packet::decode(Frame::Text(text.clone().into())) {
                let again = Packet::decode(packet.encode());
                prop_assert_eq!(again, Ok(packet));
            }
        }
    }
}
