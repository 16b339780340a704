//! Entries of a stream: broadcasts, joins, leaves, disconnects, and the emitter's server-side events.

use std::borrow::Cow;

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use bytes::Bytes;
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{
    EVENT, List, MAX_LEN, Malformed, Names, OptsIn, OptsOut, checked_id, kind, msgpack, to_json,
    to_msgpack,
};
use crate::cluster::message::{Flags, Message, Target};
use crate::engine::packet::Str;
use crate::error::EmitError;
use crate::socketio::packet::{Args, Codec};

/// Written with padding; read as Node's `Buffer.from(..., "base64")` does, which asks for none.
pub(super) const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// The fields and values of an entry, in Node's order: `uid`, `nsp`, `type`, `data`.
pub(crate) type Fields = [(&'static str, Str); 4];

/// Writes an entry for `XADD`.
///
/// `data` is JSON in which the arguments stand as they are, or base64 of msgpack when there is binary
/// among them: what Node does (adapter.ts:348).
///
/// # Errors
/// [`EmitError::Encode`], when arguments of the msgpack codec hold an extension that has no JSON form. A
/// client can send such.
pub(crate) fn entry_fields(uid: &str, nsp: &str, message: &Message) -> Result<Fields, EmitError> {
    let (kind, data) = match message {
        Message::Broadcast { args, target, flags } => {
            let data = broadcast_data(args, flags.ack, &OptsOut::new(target, *flags, None))?;
            (kind::BROADCAST, data)
        }
        Message::Join { target, rooms } => (kind::SOCKETS_JOIN, rooms_data(target, rooms)),
        Message::Leave { target, rooms } => (kind::SOCKETS_LEAVE, rooms_data(target, rooms)),
        Message::Disconnect { target, close } => {
            let opts = to_json(&OptsOut::of(target));
            (kind::DISCONNECT_SOCKETS, format!(r#"{{"opts":{opts},"close":{close}}}"#))
        }
        Message::ServerSideEmit { args } => (kind::SERVER_SIDE_EMIT, server_side_data(args)?),
    };
    Ok([
        ("uid", Str::copy_from_slice(uid)),
        ("nsp", Str::copy_from_slice(nsp)),
        ("type", kind.to_string().into()),
        ("data", data.into()),
    ])
}

fn broadcast_data(args: &Args, ack: Option<u64>, opts: &OptsOut<'_>) -> Result<String, EmitError> {
    #[derive(Serialize)]
    struct Data<'a> {
        packet: PacketOut<'a>,
        opts: &'a OptsOut<'a>,
    }
    if let Some(args) = without_binary(args) {
        let (list, opts) = (args.text(), to_json(opts));
        let id = ack.map(|id| format!(r#","id":{id}"#)).unwrap_or_default();
        return Ok(format!(r#"{{"packet":{{"type":2,"data":{list}{id}}},"opts":{opts}}}"#));
    }
    let data = Data { packet: PacketOut { id: ack, ..PacketOut::new(args) }, opts };
    Ok(BASE64.encode(to_msgpack(&data)?))
}

fn rooms_data(target: &Target, rooms: &[Str]) -> String {
    let (opts, rooms) = (to_json(&OptsOut::of(target)), to_json(rooms));
    format!(r#"{{"opts":{opts},"rooms":{rooms}}}"#)
}

fn server_side_data(args: &Args) -> Result<String, EmitError> {
    #[derive(Serialize)]
    struct Data<'a> {
        packet: &'a Args,
    }
    match without_binary(args) {
        Some(args) => Ok(format!(r#"{{"packet":{}}}"#, args.text())),
        None => Ok(BASE64.encode(to_msgpack(&Data { packet: args })?)),
    }
}

/// The arguments as JSON text, which they are already with that codec; `None` when there is binary
/// among them.
fn without_binary(args: &Args) -> Option<Cow<'_, Args>> {
    let args = match args.codec() {
        Codec::Json => Cow::Borrowed(args),
        Codec::MsgPack => {
            Cow::Owned(Codec::Json.args_from_list(args, args.event().is_some()).ok()?)
        }
    };
    args.attachments().is_empty().then_some(args)
}

/// A packet of Socket.IO, as it stands in messages.
#[derive(Serialize)]
pub(super) struct PacketOut<'a> {
    #[serde(rename = "type")]
    kind: u8,
    data: &'a Args,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<u64>,
}

impl<'a> PacketOut<'a> {
    pub(super) fn new(args: &'a Args) -> Self {
        Self { kind: EVENT, data: args, id: None }
    }
}

/// An entry that was read. Whom it is for is known; its arguments are still encoded.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Entry {
    /// The namespace of one node (each has its own), or `emitter`; empty if nobody signed.
    pub(crate) uid: Str,
    pub(crate) nsp: Str,
    pub(crate) body: Body,
}

/// What an entry says.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Body {
    Broadcast {
        list: List,
        target: Target,
        flags: Flags,
        /// The sender waits for an answer, on its own node: not to be recovered (`packet.id` in Node).
        wants_ack: bool,
    },
    Join {
        target: Target,
        rooms: Vec<Str>,
    },
    Leave {
        target: Target,
        rooms: Vec<Str>,
    },
    Disconnect {
        target: Target,
        close: bool,
    },
    ServerSideEmit {
        list: List,
    },
}

impl Entry {
    /// Reads the fields of an entry; their order does not matter.
    ///
    /// `None` for what is not ours to read: entries without namespace, heartbeats and requests of 0.2.x
    /// (types 1, 2, 7, 8, 10 to 13), types that nobody knows.
    ///
    /// # Errors
    /// [`Malformed`]. The entry is to be skipped and counted.
    pub(crate) fn parse<K, V, I>(fields: I) -> Result<Option<Self>, Malformed>
    where
        K: AsRef<[u8]>,
        V: Into<Bytes>,
        I: IntoIterator<Item = (K, V)>,
    {
        let (mut uid, mut nsp, mut kind, mut data) =
            (Bytes::new(), Bytes::new(), Bytes::new(), None);
        for (key, value) in fields {
            match key.as_ref() {
                b"uid" => uid = value.into(),
                b"nsp" => nsp = value.into(),
                b"type" => kind = value.into(),
                b"data" => data = Some(value.into()),
                _ => {}
            }
        }
        let (Ok(Ok(kind)), false) = (std::str::from_utf8(&kind).map(str::parse), nsp.is_empty())
        else {
            return Ok(None);
        };
        let known = kind::BROADCAST..=kind::DISCONNECT_SOCKETS;
        if !known.contains(&kind) && kind != kind::SERVER_SIDE_EMIT {
            return Ok(None);
        }
        let (uid, nsp) = (text(&uid)?, text(&nsp)?);
        checked_id(&uid)?;
        let data = data.ok_or(Malformed("an entry has no data"))?;
        if data.len() > MAX_LEN {
            return Err(Malformed("an entry is too large"));
        }
        let body = if data.starts_with(b"{") {
            Body::from_json(kind, &text(&data)?)?
        } else {
            let data = BASE64.decode(data).map_err(|_| Malformed("neither JSON nor base64"))?;
            Body::from_msgpack(kind, &data.into())?
        };
        Ok(Some(Self { uid, nsp, body }))
    }

    /// Whose sockets it is for; `None` when it is for applications.
    pub(crate) fn target(&self) -> Option<&Target> {
        match &self.body {
            Body::Broadcast { target, .. }
            | Body::Join { target, .. }
            | Body::Leave { target, .. }
            | Body::Disconnect { target, .. } => Some(target),
            Body::ServerSideEmit { .. } => None,
        }
    }

    /// As [`Message::is_recoverable`].
    pub(crate) fn is_recoverable(&self) -> bool {
        match &self.body {
            Body::Broadcast { flags, wants_ack, .. } => !flags.volatile && !wants_ack,
            Body::Join { .. } | Body::Leave { .. } | Body::Disconnect { .. } => true,
            Body::ServerSideEmit { .. } => false,
        }
    }

    /// Decodes the arguments for clients that speak `codec`.
    ///
    /// # Errors
    /// [`Malformed`], when they are nothing that a client would accept.
    pub(crate) fn into_message(self, codec: Codec) -> Result<Message, Malformed> {
        Ok(match self.body {
            Body::Broadcast { list, target, flags, wants_ack } => {
                // which number it has is the sender's affair
                let flags = Flags { ack: wants_ack.then_some(0), ..flags };
                Message::Broadcast { args: list.args(codec)?, target, flags }
            }
            Body::Join { target, rooms } => Message::Join { target, rooms },
            Body::Leave { target, rooms } => Message::Leave { target, rooms },
            Body::Disconnect { target, close } => Message::Disconnect { target, close },
            Body::ServerSideEmit { list } => Message::ServerSideEmit { args: list.args(codec)? },
        })
    }
}

fn text(bytes: &Bytes) -> Result<Str, Malformed> {
    // copied, since it may be kept, and the whole answer of Redis must not be kept with it
    let text = std::str::from_utf8(bytes).map_err(|_| Malformed("text is no UTF-8"))?;
    Ok(Str::copy_from_slice(text))
}

#[derive(Deserialize)]
struct BroadcastIn<'a> {
    #[serde(borrow)]
    packet: PacketIn<'a>,
    opts: OptsIn,
}

#[derive(Deserialize)]
struct PacketIn<'a> {
    #[serde(rename = "type")]
    kind: u8,
    #[serde(borrow)]
    data: &'a RawValue,
    id: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct RoomsIn {
    opts: OptsIn,
    rooms: Names,
}

#[derive(Deserialize)]
struct DisconnectIn {
    opts: OptsIn,
    #[serde(default)]
    close: serde_json::Value,
}

#[derive(Deserialize)]
struct ServerSideIn<'a> {
    #[serde(borrow)]
    packet: &'a RawValue,
}

const INCOMPLETE: Malformed = Malformed("an entry is not of the form of its type");

impl Body {
    fn from_json(kind: u8, text: &Str) -> Result<Self, Malformed> {
        fn parse<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T, Malformed> {
            serde_json::from_str(text).map_err(|_| INCOMPLETE)
        }
        Ok(match kind {
            kind::BROADCAST => {
                let BroadcastIn { packet, opts } = parse(text)?;
                let list = List::Json(part(text, packet.data));
                Self::broadcast(packet.kind.into(), list, packet.id.is_some(), opts)?
            }
            kind::SOCKETS_JOIN | kind::SOCKETS_LEAVE => {
                let RoomsIn { opts, rooms } = parse(text)?;
                Self::rooms(kind, opts, rooms)?
            }
            kind::DISCONNECT_SOCKETS => {
                let DisconnectIn { opts, close } = parse(text)?;
                Self::Disconnect { target: opts.read()?.0, close: close == true }
            }
            _ => {
                let ServerSideIn { packet } = parse(text)?;
                Self::ServerSideEmit { list: List::Json(part(text, packet)) }
            }
        })
    }

    fn from_msgpack(kind: u8, bytes: &Bytes) -> Result<Self, Malformed> {
        let data = msgpack::Map::read(bytes)?;
        Ok(match kind {
            kind::BROADCAST => {
                let packet = data.map("packet")?;
                let list = packet.get("data").ok_or(INCOMPLETE)?.within(bytes);
                let wants_ack = packet.get("id").is_some_and(|id| !id.is_nil());
                let kind = packet.get("type").and_then(msgpack::Value::uint);
                let kind = kind.ok_or(INCOMPLETE)?;
                Self::broadcast(kind, List::MsgPack(list), wants_ack, opts(&data)?)?
            }
            kind::SOCKETS_JOIN | kind::SOCKETS_LEAVE => {
                let rooms = data.get("rooms").ok_or(INCOMPLETE)?.to_json()?;
                let rooms = serde_json::from_value(rooms).map_err(|_| INCOMPLETE)?;
                Self::rooms(kind, opts(&data)?, rooms)?
            }
            kind::DISCONNECT_SOCKETS => {
                let close = data.get("close").is_some_and(msgpack::Value::is_true);
                Self::Disconnect { target: opts(&data)?.read()?.0, close }
            }
            _ => {
                let packet = data.get("packet").ok_or(INCOMPLETE)?;
                Self::ServerSideEmit { list: List::MsgPack(packet.within(bytes)) }
            }
        })
    }

    fn broadcast(kind: u64, list: List, wants_ack: bool, opts: OptsIn) -> Result<Self, Malformed> {
        if kind != u64::from(EVENT) {
            return Err(Malformed("a broadcast packet is no event"));
        }
        let (target, flags) = opts.read()?;
        Ok(Self::Broadcast { list, target, flags: flags.flags(), wants_ack })
    }

    fn rooms(kind: u8, opts: OptsIn, rooms: Names) -> Result<Self, Malformed> {
        let (target, rooms) = (opts.read()?.0, rooms.read());
        Ok(match kind {
            kind::SOCKETS_JOIN => Self::Join { target, rooms },
            _ => Self::Leave { target, rooms },
        })
    }
}

/// `opts` of a message in msgpack.
pub(super) fn opts(data: &msgpack::Map<'_>) -> Result<OptsIn, Malformed> {
    let opts = data.get("opts").ok_or(INCOMPLETE)?.to_json()?;
    serde_json::from_value(opts).map_err(|_| INCOMPLETE)
}

/// A part of a text, sharing its memory.
fn part(text: &Str, part: &RawValue) -> Str {
    let part = part.get();
    let start = part.as_ptr().addr() - text.as_ptr().addr();
    text.slice(start..start + part.len())
}
