//! Tables and golden vectors. "Node" is socket.io-parser 4.2.7 and socket.io-msgpack-parser 3.0.2
//! with notepack.io 2.2.0: the inputs were given to their Decoders, and the packets to their
//! Encoders, by hand.

mod decoding;
mod encoding;
mod msgpack;
mod values;

use bytes::Bytes;
use proptest::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::*;

const MAX_ATTACHMENTS: usize = 10;

fn decode(text: &str) -> Result<Option<Packet>, PeerMisbehaved> {
    Decoder::new(Codec::Json, MAX_ATTACHMENTS).decode(Message::from(text))
}

fn decode_msgpack(bytes: Vec<u8>) -> Result<Packet, PeerMisbehaved> {
    let mut decoder = Decoder::new(Codec::MsgPack, MAX_ATTACHMENTS);
    let packet = decoder.decode(Message::from(bytes))?;
    assert!(!decoder.is_reconstructing());
    Ok(packet.expect("msgpack packets are whole"))
}

/// A packet on one line.
fn show(packet: &Packet) -> String {
    let json = |args: &Args| args.to_json().unwrap().to_string();
    let nsp = &packet.nsp;
    match &packet.kind {
        Kind::Connect(None) => format!("connect {nsp}"),
        Kind::Connect(Some(auth)) => format!("connect {nsp} {}", auth.to_json().unwrap()),
        Kind::Disconnect => format!("disconnect {nsp}"),
        Kind::Event { args, ack } => {
            let id = ack.map_or_else(String::new, |id| format!(" #{id}"));
            format!("event {nsp}{id} {} {}", args.event().unwrap(), json(args))
        }
        Kind::Ack { id, args } => format!("ack {nsp} #{id} {}", json(args)),
        Kind::ConnectError => format!("error {nsp}"),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(|byte| *byte != b' ').collect();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    digits.chunks(2).map(byte).collect()
}

fn event(args: &Args, ack: Option<u64>) -> Outgoing<'_> {
    Outgoing::Event { args, ack, offset: None }
}

/// Feeds frames that we wrote to a decoder, as a peer's Engine.IO layer would.
fn receive(codec: Codec, frames: Vec<Frame>) -> Packet {
    let mut decoder = Decoder::new(codec, 1000);
    let last = frames.len() - 1;
    for (at, frame) in frames.into_iter().enumerate() {
        let message = match frame {
            Frame::Text(text) => {
                assert!(text.starts_with('4'));
                Message::Text(text.slice(1..))
            }
            Frame::Binary(data) => Message::Binary(data),
        };
        let packet = decoder.decode(message).unwrap();
        assert_eq!(decoder.is_reconstructing(), at != last);
        if let Some(packet) = packet {
            assert_eq!(at, last);
            return packet;
        }
    }
    panic!("incomplete");
}

fn received_args(codec: Codec, args: &Args) -> Args {
    match receive(codec, codec.encode("/", event(args, None))).kind {
        Kind::Event { args, .. } => args,
        other => panic!("{other:?}"),
    }
}

const BOTH: [Codec; 2] = [Codec::Json, Codec::MsgPack];
