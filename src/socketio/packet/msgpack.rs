//! The msgpack codec (socket.io-msgpack-parser 3.0.2 on notepack 2.2.0), and the reader of msgpack
//! that both codecs use to decode arguments.
//!
//! notepack's dialect: `undefined` is `d4 00 xx`, a Date is `d7 00` and the milliseconds as an
//! int64, an ArrayBuffer or typed array is extension 0 of any other length, a Buffer is bin.

use bytes::Bytes;
use serde::Serialize;

use super::args::Body;
use super::json::number_name;
use super::spread::Shape;
use super::{MAX_ACK_ID, Outgoing, Packet, RESERVED_EVENTS, assemble};
use crate::engine::packet::Str;
use crate::error::{EmitError, PeerMisbehaved};

/// A marker that msgpack does not use. Ours, and never on the wire: a reference to an attachment,
/// followed by its index in 4 bytes (see `json::flatten`).
pub(super) const ATTACHMENT: u8 = 0xc1;

/// notepack's `undefined`.
const UNDEFINED: [u8; 3] = [0xd4, 0, 0];

/// The bytes are no msgpack, are cut off, or nest too deep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Malformed;

impl From<Malformed> for PeerMisbehaved {
    fn from(_: Malformed) -> Self {
        Self::InvalidPayload
    }
}

/// The head of a value: all of it, or how many values follow.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Head<'a> {
    Nil,
    Undefined,
    Bool(bool),
    Uint(u64),
    /// Always negative.
    Int(i64),
    Float(f64),
    Str(&'a str),
    Bin(&'a [u8]),
    /// Elements.
    Array(u32),
    /// Entries.
    Map(u32),
    /// Milliseconds since 1970.
    Date(i64),
    /// An extension that notepack gives no meaning to.
    Ext,
    /// See [`ATTACHMENT`].
    Attachment(u32),
}

/// Reads msgpack from the front. Never looks past its buffer, never allocates.
#[derive(Clone, Debug)]
pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.rest.split_at_checked(len).ok_or(Malformed)?;
        self.rest = rest;
        Ok(taken)
    }

    fn number<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (taken, rest) = self.rest.split_first_chunk().ok_or(Malformed)?;
        self.rest = rest;
        Ok(*taken)
    }

    /// A length of `1 << log` bytes.
    fn len(&mut self, log: u8) -> Result<u32, Malformed> {
        Ok(match log {
            0 => u8::from_be_bytes(self.number()?).into(),
            1 => u16::from_be_bytes(self.number()?).into(),
            _ => u32::from_be_bytes(self.number()?),
        })
    }

    fn str(&mut self, len: u32) -> Result<Head<'a>, Malformed> {
        let bytes = self.take(len as usize)?;
        Ok(Head::Str(std::str::from_utf8(bytes).map_err(|_| Malformed)?))
    }

    /// An extension whose content is `len` bytes; `fixed` ones of type 0 mean something else to
    /// notepack.
    fn ext(&mut self, len: u32, fixed: bool) -> Result<Head<'a>, Malformed> {
        let [kind] = self.number()?;
        let content = self.take(len as usize)?;
        Ok(match (kind, fixed, content) {
            (0, false, _) => Head::Bin(content),
            (0, true, [_]) => Head::Undefined,
            (0, true, [a, b, c, d, e, f, g, h]) => {
                Head::Date(i64::from_be_bytes([*a, *b, *c, *d, *e, *f, *g, *h]))
            }
            _ => Head::Ext,
        })
    }

    /// Reads one head; the values in an array or map are still to be read.
    pub(super) fn head(&mut self) -> Result<Head<'a>, Malformed> {
        let [marker] = self.number()?;
        let int = |value: i64| u64::try_from(value).map_or(Head::Int(value), Head::Uint);
        Ok(match marker {
            0x00..=0x7f => Head::Uint(marker.into()),
            0x80..=0x8f => Head::Map((marker & 0x0f).into()),
            0x90..=0x9f => Head::Array((marker & 0x0f).into()),
            0xa0..=0xbf => self.str((marker & 0x1f).into())?,
            0xc0 => Head::Nil,
            ATTACHMENT => Head::Attachment(u32::from_be_bytes(self.number()?)),
            0xc2 => Head::Bool(false),
            0xc3 => Head::Bool(true),
            0xc4..=0xc6 => {
                let len = self.len(marker - 0xc4)?;
                Head::Bin(self.take(len as usize)?)
            }
            0xc7..=0xc9 => {
                let len = self.len(marker - 0xc7)?;
                self.ext(len, false)?
            }
            0xca => Head::Float(f32::from_be_bytes(self.number()?).into()),
            0xcb => Head::Float(f64::from_be_bytes(self.number()?)),
            0xcc => Head::Uint(u8::from_be_bytes(self.number()?).into()),
            0xcd => Head::Uint(u16::from_be_bytes(self.number()?).into()),
            0xce => Head::Uint(u32::from_be_bytes(self.number()?).into()),
            0xcf => Head::Uint(u64::from_be_bytes(self.number()?)),
            0xd0 => int(i8::from_be_bytes(self.number()?).into()),
            0xd1 => int(i16::from_be_bytes(self.number()?).into()),
            0xd2 => int(i32::from_be_bytes(self.number()?).into()),
            0xd3 => int(i64::from_be_bytes(self.number()?)),
            0xd4..=0xd8 => self.ext(1 << (marker - 0xd4), true)?,
            0xd9..=0xdb => {
                let len = self.len(marker - 0xd9)?;
                self.str(len)?
            }
            0xdc | 0xdd => Head::Array(self.len(marker - 0xdc + 1)?),
            0xde | 0xdf => Head::Map(self.len(marker - 0xde + 1)?),
            0xe0..=0xff => Head::Int(i8::from_be_bytes([marker]).into()),
        })
    }

    /// Reads over one value that may nest `depth` deep, and checks it.
    ///
    /// A length that the bytes do not back ends at their end, so the work is bounded by the bytes.
    pub(super) fn skip(&mut self, depth: usize) -> Result<(), Malformed> {
        let values = match self.head()? {
            Head::Array(len) => u64::from(len),
            Head::Map(len) => 2 * u64::from(len),
            Head::Attachment(_) => return Err(Malformed),
            _ => return Ok(()),
        };
        let depth = depth.checked_sub(1).ok_or(Malformed)?;
        for _ in 0..values {
            self.skip(depth)?;
        }
        Ok(())
    }
}

/// Reads one message.
pub(super) fn decode(message: &Bytes, max_depth: usize) -> Result<Packet, PeerMisbehaved> {
    let mut reader = Reader::new(message);
    let Head::Map(entries) = reader.head()? else {
        return Err(PeerMisbehaved::InvalidPayload);
    };
    let (mut kind, mut nsp, mut id, mut data) = (None, None, None, None);
    for _ in 0..entries {
        let Head::Str(key) = reader.head()? else {
            return Err(PeerMisbehaved::InvalidPayload);
        };
        match key {
            "type" => kind = Some(packet_type(reader.head()?)?),
            "nsp" => match reader.head()? {
                Head::Str(name) => nsp = Some(Str::copy_from_slice(name)),
                _ => return Err(PeerMisbehaved::InvalidPayload),
            },
            "id" => id = ack_id(reader.head()?)?,
            "data" => {
                let start = message.len() - reader.rest.len();
                reader.skip(max_depth)?;
                data = Some(message.slice(start..message.len() - reader.rest.len()));
            }
            // The official client sends its `options` along.
            _ => reader.skip(max_depth)?,
        }
    }
    let kind = kind.ok_or(PeerMisbehaved::UnknownPacketType)?;
    let nsp = nsp.ok_or(PeerMisbehaved::InvalidPayload)?;
    if !reader.is_empty() || !data_fits(kind, data.as_deref())? {
        return Err(PeerMisbehaved::InvalidPayload);
    }
    let data = data.filter(|data| data[..] != UNDEFINED);
    assemble(kind, nsp, id, data.map(Body::MsgPack))
}

/// What a number means to JavaScript, which has no integers.
fn integer(head: Head<'_>) -> Option<u64> {
    match head {
        Head::Uint(number) => Some(number),
        Head::Float(number) if number >= 0.0 && number.fract() == 0.0 => Some(number as u64),
        _ => None,
    }
}

fn packet_type(head: Head<'_>) -> Result<u8, PeerMisbehaved> {
    // 5 and 6 are of the JSON codec only.
    match integer(head) {
        Some(kind @ 0..=4) => Ok(kind as u8),
        _ => Err(PeerMisbehaved::UnknownPacketType),
    }
}

fn ack_id(head: Head<'_>) -> Result<Option<u64>, PeerMisbehaved> {
    match integer(head) {
        _ if head == Head::Undefined => Ok(None),
        Some(id) if id <= MAX_ACK_ID => Ok(Some(id)),
        _ => Err(PeerMisbehaved::InvalidAckId),
    }
}

fn data_fits(kind: u8, data: Option<&[u8]>) -> Result<bool, Malformed> {
    let head = match data {
        Some(data) => Reader::new(data).head()?,
        None => Head::Undefined,
    };
    Ok(match kind {
        0 => matches!(head, Head::Undefined | Head::Map(_)),
        1 => head == Head::Undefined,
        2 | 3 => matches!(head, Head::Array(_)),
        _ => matches!(head, Head::Str(_) | Head::Map(_)),
    })
}

/// The event name in front of a checked list of arguments: a string that is not reserved, or a
/// number.
///
/// Node's msgpack parser lets reserved names pass and so lets a client fire `disconnect` listeners;
/// this does not.
pub(super) fn event_name(list: &[u8]) -> Result<Str, PeerMisbehaved> {
    let mut reader = Reader::new(list);
    match (reader.head()?, reader.head()?) {
        (Head::Array(1..), Head::Str(name)) if !RESERVED_EVENTS.contains(&name) => {
            Ok(Str::copy_from_slice(name))
        }
        (Head::Array(1..), Head::Uint(number)) => number_name(number as f64),
        (Head::Array(1..), Head::Int(number)) => number_name(number as f64),
        (Head::Array(1..), Head::Float(number)) => number_name(number),
        _ => Err(PeerMisbehaved::InvalidPayload),
    }
}

fn to_vec<T: Serialize + ?Sized>(data: &T) -> Result<Vec<u8>, EmitError> {
    let mut out = Vec::with_capacity(128);
    // Human readable, so that a type looks the same to clients of both codecs.
    let mut serializer =
        rmp_serde::Serializer::new(&mut out).with_struct_map().with_human_readable();
    data.serialize(&mut serializer).map_err(|error| EmitError::Encode(error.to_string()))?;
    Ok(out)
}

/// See [`super::Codec::args`]; the event name is known not to be reserved.
pub(super) fn encode_args<T: Serialize + ?Sized>(
    event: Option<&str>,
    data: &T,
) -> Result<Body, EmitError> {
    let shape = Shape::of(data);
    let value = if shape == Shape::Nothing { Vec::new() } else { to_vec(data)? };
    let mut reader = Reader::new(&value);
    let count = match shape {
        Shape::Nothing => 0,
        Shape::One => 1,
        Shape::Spread => match reader.head() {
            Ok(Head::Array(count)) => count,
            _ => return Err(EmitError::Encode("a tuple that is no array".to_owned())),
        },
    };
    let mut out = Vec::with_capacity(10 + event.map_or(0, str::len) + value.len());
    write_array_len(&mut out, count.saturating_add(event.is_some().into()));
    if let Some(event) = event {
        write_str(&mut out, event);
    }
    out.extend_from_slice(reader.rest);
    Ok(Body::MsgPack(out.into()))
}

/// See [`super::Codec::args_from_list`].
pub(super) fn encode_list<T: Serialize + ?Sized>(list: &T) -> Result<Body, EmitError> {
    Ok(Body::MsgPack(to_vec(list)?.into()))
}

/// The message of one packet. Key order as Node's adapter writes it: type, data, nsp, id.
pub(super) fn encode(nsp: &str, packet: Outgoing<'_>) -> Vec<u8> {
    let payload = match packet {
        Outgoing::Event { args, .. } | Outgoing::Ack { args, .. } => args.msgpack(),
        _ => &[],
    };
    let mut out = Vec::with_capacity(128 + nsp.len() + payload.len());
    let has_data = !matches!(packet, Outgoing::Disconnect);
    out.push(0x82 + u8::from(has_data) + u8::from(packet.id().is_some()));
    write_str(&mut out, "type");
    out.push(packet.kind());
    if has_data {
        write_str(&mut out, "data");
    }
    match packet {
        Outgoing::Connect { sid, pid } => {
            out.push(0x82);
            write_field(&mut out, "sid", sid);
            match pid {
                Some(pid) => write_field(&mut out, "pid", pid),
                None => {
                    write_str(&mut out, "pid");
                    out.extend(UNDEFINED);
                }
            }
        }
        Outgoing::ConnectError { message, data } => {
            out.push(0x81 + u8::from(data.is_some()));
            write_field(&mut out, "message", message);
            if let Some(data) = data {
                write_str(&mut out, "data");
                out.extend(to_vec(data).expect("a JSON value always serializes"));
            }
        }
        Outgoing::Disconnect => {}
        Outgoing::Event { offset: Some(offset), .. } => write_appended(&mut out, payload, offset),
        Outgoing::Event { .. } | Outgoing::Ack { .. } => out.extend_from_slice(payload),
    }
    write_field(&mut out, "nsp", if nsp.is_empty() { "/" } else { nsp });
    if let Some(id) = packet.id() {
        write_str(&mut out, "id");
        rmp_serde::encode::write(&mut out, &id).expect("an integer always serializes");
    }
    out
}

/// Writes `list` with one more string at its end.
pub(super) fn write_appended(out: &mut Vec<u8>, list: &[u8], last: &str) {
    let mut reader = Reader::new(list);
    let Ok(Head::Array(len)) = reader.head() else {
        unreachable!("arguments are an array");
    };
    write_array_len(out, len.saturating_add(1));
    out.extend_from_slice(reader.rest);
    write_str(out, last);
}

/// `list` with another event name in front, or with none.
pub(super) fn renamed(list: &[u8], had_event: bool, event: Option<&str>) -> Vec<u8> {
    let mut reader = Reader::new(list);
    let Ok(Head::Array(len)) = reader.head() else {
        unreachable!("arguments are an array");
    };
    if had_event {
        reader.head().expect("the name was read before");
    }
    let mut out = Vec::with_capacity(list.len() + event.map_or(0, str::len) + 5);
    let len = len - u32::from(had_event) + u32::from(event.is_some());
    write_array_len(&mut out, len);
    if let Some(event) = event {
        write_str(&mut out, event);
    }
    out.extend_from_slice(reader.rest);
    out
}

fn write_field(out: &mut Vec<u8>, key: &str, value: &str) {
    write_str(out, key);
    write_str(out, value);
}

fn write_str(out: &mut Vec<u8>, text: &str) {
    rmp_serde::encode::write(out, text).expect("a string always serializes");
}

fn write_array_len(out: &mut Vec<u8>, len: u32) {
    match (u8::try_from(len), u16::try_from(len)) {
        (Ok(len @ 0..16), _) => out.push(0x90 | len),
        (_, Ok(len)) => {
            out.push(0xdc);
            out.extend(len.to_be_bytes());
        }
        _ => {
            out.push(0xdd);
            out.extend(len.to_be_bytes());
        }
    }
}
