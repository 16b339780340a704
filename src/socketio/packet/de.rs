//! Values out of msgpack, for serde: the arguments of the msgpack codec, and of JSON with
//! attachments after `json::flatten`.

use std::borrow::Cow;
use std::cell::RefCell;
use std::fmt;

use bytes::Bytes;
use serde::de::value::{MapAccessDeserializer, SeqDeserializer};
use serde::de::{self, DeserializeSeed, Deserializer, IntoDeserializer, Visitor};
use serde::forward_to_deserialize_any;
use serde::ser::{self, Serialize, SerializeMap, SerializeSeq, Serializer};
use time::OffsetDateTime;

use super::MAX_DEPTH;
use super::msgpack::{Head, Malformed, Reader};
use crate::error::DataError;

impl de::Error for DataError {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::of(message)
    }
}

impl From<Malformed> for DataError {
    fn from(_: Malformed) -> Self {
        Self("malformed msgpack".to_owned())
    }
}

/// How JavaScript's `JSON.stringify` writes a Date; `None` for dates outside of years 0 to 9999.
pub(crate) fn iso_date(millis: i64) -> Option<String> {
    let date = OffsetDateTime::from_unix_timestamp_nanos(i128::from(millis) * 1_000_000).ok()?;
    let (hour, minute, second, milli) = date.time().as_hms_milli();
    (date.year() >= 0).then(|| {
        format!(
            "{:04}-{:02}-{:02}T{hour:02}:{minute:02}:{second:02}.{milli:03}Z",
            date.year(),
            u8::from(date.month()),
            date.day(),
        )
    })
}

/// Deserializes the next value of a reader. `undefined` is null and a Date is its ISO text, as if
/// they had come through JSON.
pub(super) struct Flat<'r, 'de> {
    reader: &'r mut Reader<'de>,
    attachments: &'de [Bytes],
    depth: usize,
}

impl<'r, 'de> Flat<'r, 'de> {
    pub(super) fn new(reader: &'r mut Reader<'de>, attachments: &'de [Bytes]) -> Self {
        Self { reader, attachments, depth: MAX_DEPTH }
    }

    fn enter(self, len: u32) -> Result<Access<'r, 'de>, DataError> {
        let depth =
            self.depth.checked_sub(1).ok_or_else(|| DataError("nested too deep".to_owned()))?;
        Ok(Access { reader: self.reader, attachments: self.attachments, depth, left: len })
    }

    fn attachment(&self, index: u32) -> Result<&'de [u8], DataError> {
        let data = self.attachments.get(index as usize);
        data.map(|data| &data[..]).ok_or_else(|| DataError("no such attachment".to_owned()))
    }

    fn sequence<V: Visitor<'de>>(self, len: u32, visitor: V) -> Result<V::Value, DataError> {
        let mut access = self.enter(len)?;
        let value = visitor.visit_seq(&mut access)?;
        access.finish(value)
    }
}

impl<'de> Deserializer<'de> for Flat<'_, 'de> {
    type Error = DataError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DataError> {
        match self.reader.head()? {
            Head::Nil | Head::Undefined => visitor.visit_unit(),
            Head::Bool(value) => visitor.visit_bool(value),
            Head::Uint(value) => visitor.visit_u64(value),
            Head::Int(value) => visitor.visit_i64(value),
            Head::Float(value) => visitor.visit_f64(value),
            Head::Str(value) => visitor.visit_borrowed_str(value),
            Head::Bin(value) => visitor.visit_borrowed_bytes(value),
            Head::Attachment(index) => visitor.visit_borrowed_bytes(self.attachment(index)?),
            Head::Array(len) => self.sequence(len, visitor),
            Head::Map(len) => {
                let mut access = self.enter(len)?;
                let value = visitor.visit_map(&mut access)?;
                access.finish(value)
            }
            Head::Date(millis) => match iso_date(millis) {
                Some(date) => visitor.visit_string(date),
                None => visitor.visit_unit(),
            },
            Head::Ext => Err(DataError("an unknown msgpack extension".to_owned())),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DataError> {
        let mut ahead = self.reader.clone();
        match ahead.head()? {
            Head::Nil | Head::Undefined => {
                *self.reader = ahead;
                visitor.visit_none()
            }
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, DataError> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DataError> {
        // A Vec<u8> may be filled from binary.
        let bytes = match self.reader.clone().head()? {
            Head::Bin(bytes) => bytes,
            Head::Attachment(index) => self.attachment(index)?,
            _ => return self.deserialize_any(visitor),
        };
        self.reader.head()?;
        visitor.visit_seq(SeqDeserializer::new(bytes.iter().copied()))
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, DataError> {
        match self.reader.head()? {
            Head::Str(variant) => visitor.visit_enum(variant.into_deserializer()),
            Head::Map(len) => {
                let mut access = self.enter(len)?;
                let value = MapAccessDeserializer::new(&mut access)
                    .deserialize_enum(name, variants, visitor)?;
                access.finish(value)
            }
            _ => Err(DataError(format!("expected a variant of {name}"))),
        }
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DataError> {
        let value = self.deserialize_any(de::IgnoredAny);
        value.and_then(|_| visitor.visit_unit())
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf
        unit unit_struct tuple tuple_struct map struct identifier
    }
}

/// The inside of an array or map.
struct Access<'r, 'de> {
    reader: &'r mut Reader<'de>,
    attachments: &'de [Bytes],
    depth: usize,
    /// Elements or entries that were not read yet.
    left: u32,
}

impl<'de> Access<'_, 'de> {
    fn value(&mut self) -> Flat<'_, 'de> {
        Flat { reader: self.reader, attachments: self.attachments, depth: self.depth }
    }

    /// As in serde_json, what the type had no place for is an error; the reader would be out of
    /// step.
    fn finish<T>(self, value: T) -> Result<T, DataError> {
        if self.left == 0 {
            Ok(value)
        } else {
            Err(DataError("more elements than expected".to_owned()))
        }
    }
}

impl<'de> de::SeqAccess<'de> for Access<'_, 'de> {
    type Error = DataError;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, DataError> {
        if self.left == 0 {
            return Ok(None);
        }
        self.left -= 1;
        seed.deserialize(self.value()).map(Some)
    }
}

impl<'de> de::MapAccess<'de> for Access<'_, 'de> {
    type Error = DataError;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, DataError> {
        if self.left == 0 {
            return Ok(None);
        }
        self.left -= 1;
        let key = match self.reader.head()? {
            Head::Str(key) => Key(key.into()),
            // JavaScript makes text of numbers, and so do we.
            Head::Uint(key) => Key(key.to_string().into()),
            Head::Int(key) => Key(key.to_string().into()),
            _ => return Err(DataError("a key that is no string".to_owned())),
        };
        seed.deserialize(key).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, DataError> {
        seed.deserialize(self.value())
    }
}

/// A key; numbers may be read from it, as serde_json allows.
struct Key<'de>(Cow<'de, str>);

macro_rules! numeric_keys {
    ($($method:ident $visit:ident)*) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DataError> {
            match self.0.parse() {
                Ok(number) => visitor.$visit(number),
                Err(_) => self.deserialize_any(visitor),
            }
        })*
    };
}

impl<'de> Deserializer<'de> for Key<'de> {
    type Error = DataError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DataError> {
        match self.0 {
            Cow::Borrowed(key) => visitor.visit_borrowed_str(key),
            Cow::Owned(key) => visitor.visit_string(key),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, DataError> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DataError> {
        visitor.visit_some(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, DataError> {
        self.0.into_deserializer().deserialize_enum(name, variants, visitor)
    }

    numeric_keys! {
        deserialize_i8 visit_i8 deserialize_i16 visit_i16 deserialize_i32 visit_i32
        deserialize_i64 visit_i64 deserialize_u8 visit_u8 deserialize_u16 visit_u16
        deserialize_u32 visit_u32 deserialize_u64 visit_u64 deserialize_bool visit_bool
    }

    forward_to_deserialize_any! {
        i128 u128 f32 f64 char str string bytes byte_buf unit unit_struct seq tuple tuple_struct
        map struct identifier ignored_any
    }
}

/// Serializes the next value of a reader into anything; binary as bytes.
///
/// A cell, because serde serializes through `&self`. Serializers look at each value once.
pub(super) struct Relay<'r, 'de> {
    reader: RefCell<&'r mut Reader<'de>>,
    attachments: &'de [Bytes],
    depth: usize,
}

impl<'r, 'de> Relay<'r, 'de> {
    pub(super) fn new(reader: &'r mut Reader<'de>, attachments: &'de [Bytes]) -> Self {
        // A value within the innermost array counts as well.
        Self::within(reader, attachments, MAX_DEPTH + 1)
    }

    fn within(reader: &'r mut Reader<'de>, attachments: &'de [Bytes], depth: usize) -> Self {
        Self { reader: RefCell::new(reader), attachments, depth }
    }
}

impl Serialize for Relay<'_, '_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut reader = self.reader.borrow_mut();
        let reader: &mut Reader<'_> = &mut reader;
        let head = reader.head().map_err(|_| ser::Error::custom("malformed msgpack"))?;
        let Some(depth) = self.depth.checked_sub(1) else {
            return Err(ser::Error::custom("nested too deep"));
        };
        match head {
            Head::Nil | Head::Undefined => serializer.serialize_unit(),
            Head::Bool(value) => serializer.serialize_bool(value),
            Head::Uint(value) => serializer.serialize_u64(value),
            Head::Int(value) => serializer.serialize_i64(value),
            Head::Float(value) => serializer.serialize_f64(value),
            Head::Str(value) => serializer.serialize_str(value),
            Head::Bin(value) => serializer.serialize_bytes(value),
            Head::Date(millis) => iso_date(millis).serialize(serializer),
            Head::Ext => Err(ser::Error::custom("an unknown msgpack extension")),
            Head::Attachment(index) => match self.attachments.get(index as usize) {
                Some(data) => serializer.serialize_bytes(data),
                None => Err(ser::Error::custom("no such attachment")),
            },
            Head::Array(len) => {
                let mut list = serializer.serialize_seq(Some(len as usize))?;
                for _ in 0..len {
                    list.serialize_element(&Relay::within(reader, self.attachments, depth))?;
                }
                list.end()
            }
            Head::Map(len) => {
                let mut map = serializer.serialize_map(Some(len as usize))?;
                for _ in 0..len {
                    map.serialize_key(&Relay::within(reader, self.attachments, depth))?;
                    map.serialize_value(&Relay::within(reader, self.attachments, depth))?;
                }
                map.end()
            }
        }
    }
}
