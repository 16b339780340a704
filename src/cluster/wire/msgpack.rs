//! Reads what `@msgpack/msgpack` 2.8.0 writes. (notepack, which *clients* speak, means other things by
//! its extensions: `socketio::packet::msgpack`.)
//!
//! `undefined` is nil, a Date is the standard timestamp extension, binary is bin. Strings may hold half
//! a surrogate pair as three bytes that are no UTF-8; it becomes U+FFFD.
//!
//! What is written needs nothing of its own: rmp-serde chooses the same lengths.

use std::borrow::Cow;
use std::cell::RefCell;

use bytes::Bytes;
use serde::ser::{Error as _, Serialize, SerializeMap, SerializeSeq, Serializer};

use super::{MAX_ATTACHMENTS, Malformed};
use crate::socketio::packet::iso_date;

/// Arrays and maps within each other in an event's list, as `socketio::packet` counts them.
const MAX_DEPTH: usize = 127;

/// The maps around such a list: `data` and `packet`.
const MAPS_AROUND: usize = 2;

/// Keys of a map that means something to us. Nobody writes more than 9.
const MAX_FIELDS: u32 = 64;

const CUT_OFF: Malformed = Malformed("msgpack is cut off");

/// The head of a value: all of it, or how many values follow.
enum Head<'a> {
    Nil,
    Bool(bool),
    Uint(u64),
    Int(i64),
    Float(f64),
    /// Nearly always UTF-8.
    Str(&'a [u8]),
    Bin(&'a [u8]),
    Array(u32),
    Map(u32),
    /// Milliseconds since 1970.
    Date(i64),
}

struct Reader<'a> {
    rest: &'a [u8],
    /// Binary values that were read so far.
    binaries: usize,
}

impl<'a> Reader<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes, binaries: 0 }
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.rest.split_at_checked(len).ok_or(CUT_OFF)?;
        self.rest = rest;
        Ok(taken)
    }

    fn number<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (taken, rest) = self.rest.split_first_chunk().ok_or(CUT_OFF)?;
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

    /// An extension of `len` bytes: a timestamp, for no other is ever written.
    fn ext(&mut self, len: u32) -> Result<Head<'a>, Malformed> {
        let [kind] = self.number()?;
        let content = self.take(len as usize)?;
        let parts = match (kind, content) {
            (0xff, &[a, b, c, d]) => Some((u32::from_be_bytes([a, b, c, d]).into(), 0)),
            (0xff, &[a, b, c, d, e, f, g, h]) => {
                let both = u64::from_be_bytes([a, b, c, d, e, f, g, h]);
                // 30 bits of nanoseconds, 34 of seconds.
                Some(((both & 0x3_ffff_ffff) as i64, (both >> 34) as u32))
            }
            (0xff, &[a, b, c, d, e, f, g, h, i, j, k, l]) => {
                let seconds = i64::from_be_bytes([e, f, g, h, i, j, k, l]);
                Some((seconds, u32::from_be_bytes([a, b, c, d])))
            }
            _ => None,
        };
        let (seconds, nanos) = parts.ok_or(Malformed("an unknown msgpack extension"))?;
        let millis = seconds.saturating_mul(1000).saturating_add((nanos / 1_000_000).into());
        Ok(Head::Date(millis))
    }

    fn head(&mut self) -> Result<Head<'a>, Malformed> {
        let [marker] = self.number()?;
        let int = |value: i64| u64::try_from(value).map_or(Head::Int(value), Head::Uint);
        Ok(match marker {
            0x00..=0x7f => Head::Uint(marker.into()),
            0x80..=0x8f => Head::Map((marker & 0x0f).into()),
            0x90..=0x9f => Head::Array((marker & 0x0f).into()),
            0xa0..=0xbf => Head::Str(self.take((marker & 0x1f).into())?),
            0xc0 => Head::Nil,
            0xc1 => return Err(Malformed("an unknown msgpack marker")),
            0xc2 => Head::Bool(false),
            0xc3 => Head::Bool(true),
            0xc4..=0xc6 => {
                let len = self.len(marker - 0xc4)?;
                self.binaries += 1;
                Head::Bin(self.take(len as usize)?)
            }
            0xc7..=0xc9 => {
                let len = self.len(marker - 0xc7)?;
                self.ext(len)?
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
            0xd4..=0xd8 => self.ext(1 << (marker - 0xd4))?,
            0xd9..=0xdb => {
                let len = self.len(marker - 0xd9)?;
                Head::Str(self.take(len as usize)?)
            }
            0xdc | 0xdd => Head::Array(self.len(marker - 0xdc + 1)?),
            0xde | 0xdf => Head::Map(self.len(marker - 0xde + 1)?),
            0xe0..=0xff => Head::Int(i8::from_be_bytes([marker]).into()),
        })
    }

    fn key(&mut self) -> Result<&'a [u8], Malformed> {
        match self.head()? {
            Head::Str(key) => Ok(key),
            _ => Err(Malformed("a key that is no string")),
        }
    }

    /// Reads over one value that may nest `depth` deep, and checks it.
    ///
    /// A length that the bytes do not back ends at their end, so the work is bounded by the bytes.
    fn skip(&mut self, depth: usize) -> Result<(), Malformed> {
        let (len, is_map) = match self.head()? {
            Head::Array(len) => (len, false),
            Head::Map(len) => (len, true),
            _ => return Ok(()),
        };
        let depth = depth.checked_sub(1).ok_or(Malformed("msgpack nests too deep"))?;
        for _ in 0..len {
            if is_map {
                self.key()?;
            }
            self.skip(depth)?;
        }
        Ok(())
    }

    fn value(&mut self, depth: usize) -> Result<Value<'a>, Malformed> {
        let start = self.rest;
        let before = self.binaries;
        self.skip(depth)?;
        if self.binaries - before > MAX_ATTACHMENTS {
            return Err(Malformed("too many attachments"));
        }
        Ok(Value(&start[..start.len() - self.rest.len()]))
    }
}

/// One well-formed value, within the bounds; still encoded.
///
/// Serializes into anything: binary as bytes, a Date as `JSON.stringify` writes it.
#[derive(Clone, Copy)]
pub(super) struct Value<'a>(&'a [u8]);

impl<'a> Value<'a> {
    /// Takes bytes that are one value and nothing else, and no deeper than an event's list may be.
    pub(super) fn read(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(bytes);
        let value = reader.value(MAX_DEPTH)?;
        if reader.rest.is_empty() { Ok(value) } else { Err(Malformed("more than one value")) }
    }

    /// The first element of an array; nil when there is none, as in JavaScript.
    pub(super) fn first(self) -> Result<Self, Malformed> {
        let mut reader = Reader::new(self.0);
        match reader.head()? {
            Head::Array(0) => Ok(Value(&[0xc0])),
            Head::Array(_) => reader.value(MAX_DEPTH),
            _ => Err(Malformed("not a list")),
        }
    }

    /// The value, if it is no deeper than an event's list may be. (As part of a message it may have been
    /// by a little.)
    pub(super) fn shallow(self) -> Result<Self, Malformed> {
        Self::read(self.0)
    }

    /// The value as part of what it was read from, which is shared.
    pub(super) fn within(self, bytes: &Bytes) -> Bytes {
        bytes.slice_ref(self.0)
    }

    pub(super) fn uint(self) -> Option<u64> {
        match Reader::new(self.0).head().ok()? {
            Head::Uint(value) => Some(value),
            _ => None,
        }
    }

    pub(super) fn text(self) -> Option<Cow<'a, str>> {
        match Reader::new(self.0).head().ok()? {
            Head::Str(text) => Some(String::from_utf8_lossy(text)),
            _ => None,
        }
    }

    /// JavaScript's truth, of a flag.
    pub(super) fn is_true(self) -> bool {
        self.0 == [0xc3]
    }

    /// Is this `undefined`, or null?
    pub(super) fn is_nil(self) -> bool {
        self.0 == [0xc0]
    }

    /// Binary becomes an array of numbers.
    pub(super) fn to_json(self) -> Result<serde_json::Value, Malformed> {
        serde_json::to_value(self).map_err(|_| Malformed("a value that is no JSON"))
    }
}

impl Serialize for Value<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Next(RefCell::new(&mut Reader::new(self.0))).serialize(serializer)
    }
}

/// The next value of a reader. A cell, because serde serializes through `&self`; serializers look at
/// each value once.
struct Next<'r, 'a>(RefCell<&'r mut Reader<'a>>);

impl Serialize for Next<'_, '_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut reader = self.0.borrow_mut();
        let reader: &mut Reader<'_> = &mut reader;
        match reader.head().map_err(S::Error::custom)? {
            Head::Nil => serializer.serialize_unit(),
            Head::Bool(value) => serializer.serialize_bool(value),
            Head::Uint(value) => serializer.serialize_u64(value),
            Head::Int(value) => serializer.serialize_i64(value),
            Head::Float(value) => serializer.serialize_f64(value),
            Head::Str(text) => serializer.serialize_str(&String::from_utf8_lossy(text)),
            Head::Bin(value) => serializer.serialize_bytes(value),
            Head::Date(millis) => iso_date(millis).serialize(serializer),
            Head::Array(len) => {
                let mut list = serializer.serialize_seq(Some(len as usize))?;
                for _ in 0..len {
                    list.serialize_element(&Next(RefCell::new(reader)))?;
                }
                list.end()
            }
            Head::Map(len) => {
                let mut map = serializer.serialize_map(Some(len as usize))?;
                for _ in 0..len {
                    let key = reader.key().map_err(S::Error::custom)?;
                    map.serialize_key(&*String::from_utf8_lossy(key))?;
                    map.serialize_value(&Next(RefCell::new(reader)))?;
                }
                map.end()
            }
        }
    }
}

/// A map whose keys mean something to us; the values are read over, not decoded.
pub(super) struct Map<'a>(Vec<(&'a [u8], Value<'a>)>);

impl<'a> Map<'a> {
    pub(super) fn read(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(bytes);
        let len = match reader.head()? {
            Head::Map(len) if len <= MAX_FIELDS => len,
            _ => return Err(Malformed("not a map of a few fields")),
        };
        let field = |_| Ok((reader.key()?, reader.value(MAX_DEPTH + MAPS_AROUND)?));
        let fields = (0..len).map(field).collect::<Result<_, Malformed>>()?;
        if reader.rest.is_empty() {
            Ok(Self(fields))
        } else {
            Err(Malformed("more than one value"))
        }
    }

    /// As in JavaScript, the last of several equal keys counts.
    pub(super) fn get(&self, key: &str) -> Option<Value<'a>> {
        let found = self.0.iter().rev().find(|(name, _)| *name == key.as_bytes());
        found.map(|(_, value)| *value)
    }

    /// The map under a key.
    pub(super) fn map(&self, key: &str) -> Result<Self, Malformed> {
        let value = self.get(key).ok_or(Malformed("a map is missing"))?;
        Self::read(value.0)
    }

    pub(super) fn text(&self, key: &str) -> Option<Cow<'a, str>> {
        self.get(key)?.text()
    }
}
