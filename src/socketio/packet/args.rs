//! What a packet carries, still encoded.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use serde::de::value::UnitDeserializer;
use serde::de::{self, DeserializeOwned, DeserializeSeed, Deserializer, Visitor};
use serde::ser::{Error as _, Serialize, Serializer};

use super::de::{Flat, Relay};
use super::json::{self, Elements};
use super::msgpack::{self, Head, Reader};
use super::{Codec, RESERVED_EVENTS};
use crate::engine::packet::Str;
use crate::error::{DataError, EmitError, PeerMisbehaved};

/// A checked payload. JSON has no white space behind it; msgpack is one value.
#[derive(Clone, PartialEq)]
pub(super) enum Body {
    Json { text: Str, attachments: Option<Arc<[Bytes]>> },
    MsgPack(Bytes),
}

impl Body {
    pub(super) fn json(text: Str, attachments: Vec<Bytes>) -> Self {
        let attachments = (!attachments.is_empty()).then(|| attachments.into());
        Self::Json { text, attachments }
    }

    fn attachments(&self) -> &[Bytes] {
        match self {
            Self::Json { attachments: Some(attachments), .. } => attachments,
            _ => &[],
        }
    }

    /// The value as msgpack, for [`Flat`] and [`Relay`]; together with [`Body::attachments`].
    fn flat(&self) -> Result<Cow<'_, [u8]>, DataError> {
        match self {
            Self::Json { text, .. } => {
                let flat = json::flatten(text, self.attachments().len())
                    .map_err(|rule| DataError(rule.to_string()))?;
                Ok(flat.into())
            }
            Self::MsgPack(bytes) => Ok(bytes[..].into()),
        }
    }

    fn len_bytes(&self) -> usize {
        match self {
            Self::Json { text, .. } => {
                text.len() + self.attachments().iter().map(Bytes::len).sum::<usize>()
            }
            Self::MsgPack(bytes) => bytes.len(),
        }
    }

    /// JSON with placeholders in the place of binary.
    fn to_json(&self) -> Result<serde_json::Value, DataError> {
        let parse = |text: &str| serde_json::from_str(text).map_err(DataError::of);
        match self {
            Self::Json { text, .. } => parse(text),
            Self::MsgPack(bytes) => {
                let mut reader = Reader::new(bytes);
                match json::encode_list(&Relay::new(&mut reader, &[])) {
                    Ok(Self::Json { text, .. }) => parse(&text),
                    Ok(Self::MsgPack(_)) => unreachable!("the JSON codec writes JSON"),
                    Err(error) => Err(DataError::of(error)),
                }
            }
        }
    }
}

impl Serialize for Body {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let flat = self.flat().map_err(S::Error::custom)?;
        Relay::new(&mut Reader::new(&flat), self.attachments()).serialize(serializer)
    }
}

/// The arguments of an event or of an acknowledgement, as they came from the peer or as they go to
/// it.
///
/// They stay encoded until somebody asks, so an event that is only passed on is never decoded. A
/// clone shares the bytes.
///
/// Binary at any depth is read into `bytes::Bytes`, `serde_bytes` types or `Vec<u8>`, and written
/// from what serializes itself as bytes: `bytes::Bytes` and `serde_bytes` types. (A plain `Vec<u8>`
/// is written as an array of numbers, as everywhere in serde.)
///
/// Serializing `Args` gives the whole list, the event name first, binary as bytes.
#[derive(Clone, PartialEq)]
pub struct Args {
    body: Body,
    /// The first element of the list, when this is an event.
    event: Option<Str>,
}

impl Args {
    /// `event` is the list's first element.
    pub(super) fn new(body: Body, event: Option<Str>) -> Self {
        Self { body, event }
    }

    /// Looks for the event name in a payload that is valid otherwise.
    pub(super) fn checked(body: Body, has_event: bool) -> Result<Self, PeerMisbehaved> {
        let event = match &body {
            Body::Json { text, .. } if !text.starts_with('[') => {
                return Err(PeerMisbehaved::InvalidPayload);
            }
            Body::MsgPack(list) if !matches!(Reader::new(list).head()?, Head::Array(_)) => {
                return Err(PeerMisbehaved::InvalidPayload);
            }
            _ if !has_event => None,
            Body::Json { text, .. } => Some(json::event_name(text)?),
            Body::MsgPack(list) => Some(msgpack::event_name(list)?),
        };
        Ok(Self { body, event })
    }

    /// Puts the attachments to a text that waited for them.
    pub(super) fn attach(&mut self, received: Vec<Bytes>) {
        if let Body::Json { attachments, .. } = &mut self.body {
            *attachments = Some(received.into());
        }
    }

    /// The name of the event; `None` for an acknowledgement.
    ///
    /// Names may be numbers in Socket.IO; here they are their decimal text.
    pub fn event(&self) -> Option<&str> {
        self.event.as_deref()
    }

    /// How many arguments there are, the event name not counted.
    ///
    /// Reads over the text once with the JSON codec.
    pub fn len(&self) -> usize {
        let all = match &self.body {
            Body::Json { text, .. } => Elements::new(text).count(),
            Body::MsgPack(list) => match Reader::new(list).head() {
                Ok(Head::Array(len)) => len as usize,
                _ => 0,
            },
        };
        all.saturating_sub(self.event.is_some().into())
    }

    /// Are there no arguments, beside the event name?
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes that the arguments keep: encoded text and attachments, without any packet header.
    pub fn len_bytes(&self) -> usize {
        self.body.len_bytes()
    }

    /// Decodes the arguments behind the event name.
    ///
    /// A tuple, tuple struct or `[T; N]` takes one argument per element; a newtype is what it
    /// wraps; `()` takes whatever there is; every other type is the first argument. A missing
    /// argument reads as null, so it is `None` for an `Option` and an error for most other types.
    /// Surplus arguments are ignored.
    ///
    /// # Errors
    /// [`DataError`] when an argument is not what the type wants.
    pub fn decode<T: DeserializeOwned>(&self) -> Result<T, DataError> {
        if let (Body::Json { text, .. }, []) = (&self.body, self.body.attachments()) {
            let mut elements = Elements::new(text);
            if self.event.is_some() {
                elements.next();
            }
            return T::deserialize(List::Json(elements));
        }
        let flat = self.body.flat()?;
        let mut reader = Reader::new(&flat);
        let Head::Array(mut left) = reader.head()? else {
            return Err(DataError("not a list of arguments".to_owned()));
        };
        if self.event.is_some() && left > 0 {
            left -= 1;
            reader.head()?;
        }
        T::deserialize(List::Flat { reader, left, attachments: self.body.attachments() })
    }

    /// The whole list as JSON, the event name first; for logs and tests.
    ///
    /// Binary stands as `{"_placeholder":true,"num":n}`, its bytes are left out.
    ///
    /// # Errors
    /// [`DataError`] when the value does not fit into a [`serde_json::Value`] (a number over
    /// 1.8e308).
    pub fn to_json(&self) -> Result<serde_json::Value, DataError> {
        self.body.to_json()
    }

    /// Is the last of them a string, the event's name too, or might it be one?
    pub(crate) fn may_end_with_string(&self) -> bool {
        match &self.body {
            Body::Json { text, .. } => {
                text.strip_suffix(']').is_none_or(|list| list.trim_end().ends_with('"'))
            }
            Body::MsgPack(_) => true, // its end does not tell
        }
    }

    /// The same arguments and one more string behind them: how recovery hands out positions.
    pub fn with_appended_str(&self, last: &str) -> Self {
        let body = match &self.body {
            Body::Json { text, attachments } => {
                let mut longer = String::with_capacity(text.len() + last.len() + 3);
                json::push_appended(&mut longer, text, last);
                Body::Json { text: longer.into(), attachments: attachments.clone() }
            }
            Body::MsgPack(list) => {
                let mut longer = Vec::with_capacity(list.len() + last.len() + 9);
                msgpack::write_appended(&mut longer, list, last);
                Body::MsgPack(longer.into())
            }
        };
        Self { body, event: self.event.clone() }
    }

    /// The same arguments under another event name, or as an acknowledgement's with `None`: how an
    /// event is passed on or echoed without being decoded.
    ///
    /// # Errors
    /// [`EmitError::ReservedEvent`].
    pub fn renamed(&self, event: Option<&str>) -> Result<Self, EmitError> {
        if let Some(event) = event.filter(|event| RESERVED_EVENTS.contains(event)) {
            return Err(EmitError::ReservedEvent(event.to_owned()));
        }
        let had_event = self.event.is_some();
        let body = match &self.body {
            Body::Json { text, attachments } => Body::Json {
                text: json::renamed(text, had_event, event).into(),
                attachments: attachments.clone(),
            },
            Body::MsgPack(list) => Body::MsgPack(msgpack::renamed(list, had_event, event).into()),
        };
        Ok(Self { body, event: event.map(Str::copy_from_slice) })
    }

    pub(crate) fn codec(&self) -> Codec {
        match self.body {
            Body::Json { .. } => Codec::Json,
            Body::MsgPack(_) => Codec::MsgPack,
        }
    }

    /// The list as JSON text, when that is how it is encoded; with [`Args::attachments`].
    pub(crate) fn text(&self) -> &str {
        match &self.body {
            Body::Json { text, .. } => text,
            Body::MsgPack(_) => "[]",
        }
    }

    /// The attachments that placeholders in the text name. Empty for msgpack.
    pub(crate) fn attachments(&self) -> &[Bytes] {
        self.body.attachments()
    }

    pub(super) fn msgpack(&self) -> &[u8] {
        match &self.body {
            Body::MsgPack(list) => list,
            Body::Json { .. } => &[0x90],
        }
    }
}

impl Serialize for Args {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.body.serialize(serializer)
    }
}

impl fmt::Debug for Args {
    /// Says the size, not the content: arguments are users' data and may be large.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Args")
            .field("event", &self.event())
            .field("bytes", &self.len_bytes())
            .finish_non_exhaustive()
    }
}

/// What a client sends along when it joins a namespace (`auth`), still encoded. Always an object.
#[derive(Clone, PartialEq)]
pub struct Payload(Body);

impl Payload {
    pub(super) fn new(body: Body) -> Self {
        Self(body)
    }

    /// Decodes the object.
    ///
    /// # Errors
    /// [`DataError`] when it is not what `T` wants.
    pub fn decode<T: DeserializeOwned>(&self) -> Result<T, DataError> {
        if let Body::Json { text, .. } = &self.0 {
            return serde_json::from_str(text).map_err(DataError::of);
        }
        let flat = self.0.flat()?;
        T::deserialize(Flat::new(&mut Reader::new(&flat), &[]))
    }

    /// The object as JSON; binary (msgpack only) as in [`Args::to_json`].
    ///
    /// # Errors
    /// As [`Args::to_json`].
    pub fn to_json(&self) -> Result<serde_json::Value, DataError> {
        self.0.to_json()
    }

    /// Bytes that the object keeps.
    pub fn len_bytes(&self) -> usize {
        self.0.len_bytes()
    }
}

impl Default for Payload {
    /// `{}`: what a client means that sends no `auth`.
    fn default() -> Self {
        Self(Body::json(Str::from("{}"), Vec::new()))
    }
}

impl Serialize for Payload {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl fmt::Debug for Payload {
    /// Says the size, not the content: it carries credentials.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Payload").field("bytes", &self.len_bytes()).finish_non_exhaustive()
    }
}

/// The arguments behind the event name, as a deserializer: tuples take all, the rest takes the
/// first.
enum List<'de> {
    Json(Elements<'de>),
    Flat { reader: Reader<'de>, left: u32, attachments: &'de [Bytes] },
}

impl<'de> List<'de> {
    /// The next argument; null when there is none.
    fn next<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, DataError> {
        match self {
            Self::Json(elements) => {
                if let Some(text) = elements.next_text() {
                    let mut deserializer = serde_json::Deserializer::from_str(text);
                    return seed.deserialize(&mut deserializer).map_err(DataError::of);
                }
            }
            Self::Flat { reader, left, attachments } if *left > 0 => {
                *left -= 1;
                return seed.deserialize(Flat::new(reader, attachments));
            }
            Self::Flat { .. } => {}
        }
        seed.deserialize(UnitDeserializer::new())
    }
}

macro_rules! first_argument {
    ($($method:ident($($name:ident: $kind:ty),*))*) => {
        $(fn $method<V: Visitor<'de>>(
            mut self,
            $($name: $kind,)*
            visitor: V,
        ) -> Result<V::Value, DataError> {
            struct Seed<V>($($kind,)* V);
            impl<'de, V: Visitor<'de>> DeserializeSeed<'de> for Seed<V> {
                type Value = V::Value;
                fn deserialize<D: Deserializer<'de>>(self, inner: D) -> Result<V::Value, D::Error> {
                    let Self($($name,)* visitor) = self;
                    inner.$method($($name,)* visitor)
                }
            }
            self.next(Seed($($name,)* visitor))
        })*
    };
}

impl<'de> Deserializer<'de> for List<'de> {
    type Error = DataError;

    first_argument! {
        deserialize_any() deserialize_bool() deserialize_i8() deserialize_i16() deserialize_i32()
        deserialize_i64() deserialize_i128() deserialize_u8() deserialize_u16()
        deserialize_u32() deserialize_u64() deserialize_u128() deserialize_f32()
        deserialize_f64() deserialize_char() deserialize_str() deserialize_string()
        deserialize_bytes() deserialize_byte_buf() deserialize_option() deserialize_seq()
        deserialize_map() deserialize_identifier() deserialize_ignored_any()
        deserialize_struct(name: &'static str, fields: &'static [&'static str])
        deserialize_enum(name: &'static str, variants: &'static [&'static str])
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DataError> {
        visitor.visit_unit()
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, DataError> {
        visitor.visit_unit()
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, DataError> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_tuple<V: Visitor<'de>>(
        self,
        len: usize,
        visitor: V,
    ) -> Result<V::Value, DataError> {
        visitor.visit_seq(Each { list: self, left: len })
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        len: usize,
        visitor: V,
    ) -> Result<V::Value, DataError> {
        self.deserialize_tuple(len, visitor)
    }
}

struct Each<'de> {
    list: List<'de>,
    /// Elements that the tuple still wants.
    left: usize,
}

impl<'de> de::SeqAccess<'de> for Each<'de> {
    type Error = DataError;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, DataError> {
        if self.left == 0 {
            return Ok(None);
        }
        self.left -= 1;
        self.list.next(seed).map(Some)
    }
}
