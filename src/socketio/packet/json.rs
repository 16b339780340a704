//! The JSON codec: header text, checked payload, placeholders for binary.

use std::io;
use std::ops::Range;

use bytes::Bytes;
use memchr::memchr2;
use serde::Serialize;
use serde::de::{self, DeserializeSeed, Deserializer, IgnoredAny, Visitor};
use serde_json::ser::Formatter;

use super::args::Body;
use super::msgpack::{ATTACHMENT, Head, Reader};
use super::spread::Shape;
use super::{MAX_ACK_ID, Outgoing, Packet, RESERVED_EVENTS, assemble};
use crate::engine::packet::{Frame, Str};
use crate::error::{EmitError, PeerMisbehaved};

/// Reads the text of a packet. Gives the packet and how many attachments it still needs.
pub(super) fn decode(
    text: &Str,
    max_attachments: usize,
    max_depth: usize,
) -> Result<(Packet, usize), PeerMisbehaved> {
    let mut at = 1;
    let kind = match text.as_bytes().first() {
        Some(digit @ b'0'..=b'6') => digit - b'0',
        _ => return Err(PeerMisbehaved::UnknownPacketType),
    };
    let (kind, attachments) = match kind {
        5 | 6 => (kind - 3, read_attachments(text, &mut at, max_attachments)?),
        _ => (kind, 0),
    };
    let nsp = read_namespace(text, &mut at);
    let id = read_id(text, &mut at)?;
    let payload = read_payload(text.slice(at..), kind, attachments, max_depth)?;
    let body = payload.map(|payload| Body::json(payload, Vec::new()));
    Ok((assemble(kind, nsp, id, body)?, attachments))
}

/// Digits from `at` on; moves `at` behind them.
fn digits<'a>(text: &'a str, at: &mut usize) -> &'a str {
    let rest = &text[*at..];
    let len = rest.bytes().take_while(u8::is_ascii_digit).count();
    *at += len;
    &rest[..len]
}

/// "`<# of binary attachments>-`": Node also takes `1.0` or `1e0`, which no client writes.
fn read_attachments(text: &str, at: &mut usize, max: usize) -> Result<usize, PeerMisbehaved> {
    let count = digits(text, at);
    if count.is_empty() || text.as_bytes().get(*at) != Some(&b'-') {
        return Err(PeerMisbehaved::IllegalAttachments);
    }
    *at += 1;
    match count.parse::<usize>() {
        Ok(0) => Err(PeerMisbehaved::IllegalAttachments),
        Ok(count) if count <= max => Ok(count),
        // More than the limit, or more than a usize.
        _ => Err(PeerMisbehaved::TooManyAttachments),
    }
}

/// "`<namespace>,`", where the comma may be missing at the end of the packet.
fn read_namespace(text: &Str, at: &mut usize) -> Str {
    let start = *at;
    if text.as_bytes().get(start) != Some(&b'/') {
        return Str::from("/");
    }
    match text[start..].find(',') {
        Some(len) => {
            *at = start + len + 1;
            text.slice(start..start + len)
        }
        None => {
            *at = text.len();
            text.slice(start..)
        }
    }
}

fn read_id(text: &str, at: &mut usize) -> Result<Option<u64>, PeerMisbehaved> {
    match digits(text, at) {
        "" => Ok(None),
        id => match id.parse() {
            Ok(id) if id <= MAX_ACK_ID => Ok(Some(id)),
            _ => Err(PeerMisbehaved::InvalidAckId),
        },
    }
}

/// Checks the payload of a packet completely; `None` when there is none.
pub(super) fn read_payload(
    payload: Str,
    kind: u8,
    attachments: usize,
    max_depth: usize,
) -> Result<Option<Str>, PeerMisbehaved> {
    let Some(first) = payload.as_bytes().first() else {
        return Ok(None);
    };
    // White space in front is refused too: Node reads it as ack id 0.
    let fits = match kind {
        0 => *first == b'{',
        2 | 3 => *first == b'[',
        4 => matches!(first, b'{' | b'"'),
        _ => false,
    };
    if !fits {
        return Err(PeerMisbehaved::InvalidPayload);
    }
    // Whoever appends to the list wants its bracket to be the last character.
    let len = payload.trim_end_matches([' ', '\t', '\n', '\r']).len();
    let payload = payload.slice(..len);
    let payload = mend_surrogates(&payload).map_or(payload, Str::from);
    // IgnoredAny is read without recursion, hence the depth beside it.
    if serde_json::from_str::<IgnoredAny>(&payload).is_err() || depth(&payload) > max_depth {
        return Err(PeerMisbehaved::InvalidPayload);
    }
    if attachments > 0 {
        flatten(&payload, attachments)?;
    }
    Ok(Some(payload))
}

/// How deep valid JSON nests.
fn depth(text: &str) -> usize {
    let (mut depth, mut deepest, mut at) = (0_usize, 0, 0);
    let bytes = text.as_bytes();
    while let Some(byte) = bytes.get(at) {
        at += 1;
        match byte {
            b'"' => at = string_end(bytes, at),
            b'[' | b'{' => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

/// The index behind the closing quote of a string whose inside starts at `at`.
fn string_end(bytes: &[u8], mut at: usize) -> usize {
    // a string may be as long as a message
    while let Some(found) = bytes.get(at..).and_then(|rest| memchr2(b'"', b'\\', rest)) {
        at += found + 1;
        if bytes[at - 1] == b'"' {
            return at;
        }
        at += 1;
    }
    bytes.len()
}

/// The elements of an array in valid JSON, as ranges of its text. Reads each byte once, allocates
/// nothing.
#[derive(Clone)]
pub(super) struct Elements<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Elements<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self { text, at: 1 }
    }

    pub(super) fn next_text(&mut self) -> Option<&'a str> {
        let range = self.next()?;
        self.text.get(range)
    }

    fn value_end(&self) -> usize {
        let bytes = self.text.as_bytes();
        let (mut at, mut depth) = (self.at, 0_usize);
        while let Some(byte) = bytes.get(at) {
            match byte {
                b'"' => at = string_end(bytes, at + 1),
                b'[' | b'{' => (at, depth) = (at + 1, depth + 1),
                b']' | b'}' if depth > 0 => (at, depth) = (at + 1, depth - 1),
                b',' | b']' | b'}' | b' ' | b'\t' | b'\n' | b'\r' if depth == 0 => return at,
                // A number or literal goes on, or we are within something.
                _ => {
                    at += 1;
                    continue;
                }
            }
            if depth == 0 {
                return at;
            }
        }
        at.min(bytes.len())
    }
}

impl Iterator for Elements<'_> {
    type Item = Range<usize>;

    fn next(&mut self) -> Option<Range<usize>> {
        let bytes = self.text.as_bytes();
        while matches!(bytes.get(self.at)?, b',' | b' ' | b'\t' | b'\n' | b'\r') {
            self.at += 1;
        }
        if bytes[self.at] == b']' {
            return None;
        }
        let start = self.at;
        self.at = self.value_end();
        Some(start..self.at)
    }
}

/// The event name in front of a checked list of arguments: a string that is not reserved, or a
/// number.
pub(super) fn event_name(text: &Str) -> Result<Str, PeerMisbehaved> {
    let range = Elements::new(text).next().ok_or(PeerMisbehaved::InvalidPayload)?;
    let raw = text.slice(range);
    let name = match raw.as_bytes().first() {
        Some(b'"') if raw.contains('\\') => {
            serde_json::from_str::<String>(&raw).map_err(|_| PeerMisbehaved::InvalidPayload)?.into()
        }
        Some(b'"') => raw.slice(1..raw.len() - 1),
        Some(b'-' | b'0'..=b'9') => number_name(raw.parse().unwrap_or(f64::NAN))?,
        _ => return Err(PeerMisbehaved::InvalidPayload),
    };
    if RESERVED_EVENTS.contains(&name.as_str()) {
        return Err(PeerMisbehaved::InvalidPayload);
    }
    Ok(name)
}

/// The name of an event whose name is a number, which in JavaScript is a double: the same one in both codecs,
/// or a large integer would name one event here and another behind the cluster.
pub(super) fn number_name(number: f64) -> Result<Str, PeerMisbehaved> {
    if !number.is_finite() {
        return Err(PeerMisbehaved::InvalidPayload);
    }
    // The addition turns -0 into 0, as JavaScript prints it.
    Ok((number + 0.0).to_string().into())
}

/// Replaces escapes of lone surrogates by U+FFFD; `None` when there are none, which is nearly
/// always.
///
/// JavaScript strings may hold half a character and `JSON.stringify` writes it as `\ud83d`. Node
/// takes that; Rust strings cannot hold it, so it becomes what JavaScript itself makes of it when
/// it writes UTF-8.
fn mend_surrogates(text: &str) -> Option<String> {
    if !text.contains("\\u") {
        return None;
    }
    let unit = |at: usize| match text.as_bytes().get(at..at + 2) {
        Some(b"\\u") => text.get(at + 2..at + 6).and_then(|hex| u16::from_str_radix(hex, 16).ok()),
        _ => None,
    };
    let (mut mended, mut copied, mut at) = (String::new(), 0, 0);
    while let Some(found) = text.as_bytes()[at..].iter().position(|byte| *byte == b'\\') {
        at += found;
        at += match (unit(at), unit(at + 6)) {
            (Some(0xd800..=0xdbff), Some(0xdc00..=0xdfff)) => 12,
            (Some(0xd800..=0xdfff), _) => {
                mended.push_str(&text[copied..at]);
                mended.push_str("\\ufffd");
                copied = at + 6;
                6
            }
            // Over the escaped character, which may be another backslash.
            _ => 2,
        };
        at = at.min(text.len());
    }
    (copied > 0).then(|| mended + &text[copied..])
}

/// Rewrites checked JSON with placeholders as msgpack in which [`ATTACHMENT`] refers to
/// attachments, so that one deserializer serves both codecs. Also the check of the placeholders.
///
/// Node: an object whose `_placeholder` is `true` stands for attachment `num`, but in binary
/// packets only; where there are no attachments it is an object like any other.
pub(super) fn flatten(text: &str, attachments: usize) -> Result<Vec<u8>, PeerMisbehaved> {
    let mut flat = Flatten { out: Vec::with_capacity(text.len()), attachments, illegal: false };
    match (&mut flat).deserialize(&mut serde_json::Deserializer::from_str(text)) {
        Ok(()) => Ok(flat.out),
        Err(_) if flat.illegal => Err(PeerMisbehaved::IllegalAttachments),
        Err(_) => Err(PeerMisbehaved::InvalidPayload),
    }
}

struct Flatten {
    out: Vec<u8>,
    /// How many attachments there are.
    attachments: usize,
    /// Was it a placeholder that failed?
    illegal: bool,
}

impl Flatten {
    /// Starts an array or map whose length is not known yet.
    fn open(&mut self, marker: u8) -> usize {
        self.out.push(marker);
        self.out.extend([0; 4]);
        self.out.len()
    }

    fn close<E: de::Error>(&mut self, inside: usize, len: usize) -> Result<(), E> {
        let len = u32::try_from(len).map_err(E::custom)?;
        self.out[inside - 4..inside].copy_from_slice(&len.to_be_bytes());
        Ok(())
    }

    fn write<T: Serialize + ?Sized, E: de::Error>(&mut self, value: &T) -> Result<(), E> {
        rmp_serde::encode::write(&mut self.out, value).map_err(E::custom)
    }

    /// The index that a `num` names, written at `at`.
    fn index(&self, at: usize) -> Option<usize> {
        let index = match Reader::new(self.out.get(at..)?).head().ok()? {
            Head::Uint(number) => usize::try_from(number).ok()?,
            // JavaScript knows one kind of number: 0.0 is 0.
            Head::Float(number) if number >= 0.0 && number.fract() == 0.0 => number as usize,
            _ => return None,
        };
        (index < self.attachments).then_some(index)
    }
}

impl<'de> DeserializeSeed<'de> for &mut Flatten {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for &mut Flatten {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E: de::Error>(self) -> Result<(), E> {
        self.write(&())
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<(), E> {
        self.write(&value)
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<(), E> {
        self.write(&value)
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<(), E> {
        self.write(&value)
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<(), E> {
        self.write(&value)
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<(), E> {
        self.write(value)
    }

    fn visit_seq<A: de::SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let inside = self.open(0xdd);
        let mut len = 0;
        while seq.next_element_seed(&mut *self)?.is_some() {
            len += 1;
        }
        self.close(inside, len)
    }

    fn visit_map<A: de::MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let inside = self.open(0xdf);
        let (mut len, mut is_placeholder, mut index) = (0, false, None);
        while let Some(key) = map.next_key::<String>()? {
            self.write(&key)?;
            let at = self.out.len();
            map.next_value_seed(&mut *self)?;
            match key.as_str() {
                "_placeholder" => is_placeholder = self.out[at..] == [0xc3],
                "num" => index = self.index(at),
                _ => {}
            }
            len += 1;
        }
        if !is_placeholder || self.attachments == 0 {
            return self.close(inside, len);
        }
        let Some(index) = index else {
            self.illegal = true;
            return Err(de::Error::custom("illegal attachments"));
        };
        self.out.truncate(inside - 5);
        self.out.push(ATTACHMENT);
        self.out.extend((index as u32).to_be_bytes());
        Ok(())
    }
}

/// serde_json's compact form, but bytes become placeholders of attachments.
struct Placeholders<'a> {
    attachments: &'a mut Vec<Bytes>,
}

impl Formatter for Placeholders<'_> {
    fn write_byte_array<W: io::Write + ?Sized>(
        &mut self,
        writer: &mut W,
        value: &[u8],
    ) -> io::Result<()> {
        write!(writer, r#"{{"_placeholder":true,"num":{}}}"#, self.attachments.len())?;
        self.attachments.push(Bytes::copy_from_slice(value));
        Ok(())
    }
}

fn append<T: Serialize + ?Sized>(
    text: &mut Vec<u8>,
    attachments: &mut Vec<Bytes>,
    data: &T,
) -> Result<(), EmitError> {
    data.serialize(&mut serde_json::Serializer::with_formatter(text, Placeholders { attachments }))
        .map_err(|error| EmitError::Encode(error.to_string()))
}

/// See [`super::Codec::args`]; the event name is known not to be reserved.
pub(super) fn encode_args<T: Serialize + ?Sized>(
    event: Option<&str>,
    data: &T,
) -> Result<Body, EmitError> {
    let (mut text, mut attachments) = (Vec::with_capacity(128), Vec::new());
    text.push(b'[');
    if let Some(event) = event {
        append(&mut text, &mut attachments, event)?;
    }
    let start = text.len();
    let separator = event.map(|_| b',');
    match Shape::of(data) {
        Shape::Nothing => text.push(b']'),
        Shape::One => {
            text.extend(separator);
            append(&mut text, &mut attachments, data)?;
            text.push(b']');
        }
        Shape::Spread => {
            append(&mut text, &mut attachments, data)?;
            // The tuple wrote an array of its own: its bracket closes ours, and opens the
            // arguments.
            match separator {
                _ if text.len() == start + 2 => drop(text.drain(start..=start)),
                Some(comma) => text[start] = comma,
                None => drop(text.drain(start..=start)),
            }
        }
    }
    finish(text, attachments)
}

/// See [`super::Codec::args_from_list`].
pub(super) fn encode_list<T: Serialize + ?Sized>(list: &T) -> Result<Body, EmitError> {
    let (mut text, mut attachments) = (Vec::with_capacity(128), Vec::new());
    append(&mut text, &mut attachments, list)?;
    finish(text, attachments)
}

fn finish(text: Vec<u8>, attachments: Vec<Bytes>) -> Result<Body, EmitError> {
    let text = String::from_utf8(text).expect("serde_json writes UTF-8");
    if !attachments.is_empty() {
        flatten(&text, attachments.len())
            .map_err(|_| EmitError::Encode("an object looks like a placeholder".to_owned()))?;
    }
    Ok(Body::json(text.into(), attachments))
}

/// The frames of one packet.
pub(super) fn encode(nsp: &str, packet: Outgoing<'_>) -> Vec<Frame> {
    let (payload, attachments, offset) = match packet {
        Outgoing::Event { args, offset, .. } => (args.text(), args.attachments(), offset),
        Outgoing::Ack { args, .. } => (args.text(), args.attachments(), None),
        _ => ("", &[][..], None),
    };
    // Room for the digits, separators and a long id.
    let room = 40 + nsp.len() + payload.len() + offset.map_or(0, str::len);
    let mut text = String::with_capacity(room);
    text.push('4');
    let kind = packet.kind() + if attachments.is_empty() { 0 } else { 3 };
    text.push(char::from(b'0' + kind));
    if !attachments.is_empty() {
        push_number(&mut text, attachments.len() as u64);
        text.push('-');
    }
    if !matches!(nsp, "" | "/") {
        text.push_str(nsp);
        text.push(',');
    }
    if let Some(id) = packet.id() {
        push_number(&mut text, id);
    }
    match packet {
        Outgoing::Connect { sid, pid } => {
            push_field(&mut text, "{\"sid\":", sid);
            if let Some(pid) = pid {
                push_field(&mut text, ",\"pid\":", pid);
            }
            text.push('}');
        }
        Outgoing::ConnectError { message, data } => {
            push_field(&mut text, "{\"message\":", message);
            if let Some(data) = data {
                text.push_str(",\"data\":");
                text.push_str(&data.to_string());
            }
            text.push('}');
        }
        Outgoing::Disconnect => {}
        Outgoing::Event { .. } | Outgoing::Ack { .. } => match offset {
            Some(offset) => push_appended(&mut text, payload, offset),
            None => text.push_str(payload),
        },
    }
    let mut frames = Vec::with_capacity(1 + attachments.len());
    frames.push(Frame::Text(text.into()));
    frames.extend(attachments.iter().cloned().map(Frame::Binary));
    frames
}

/// Writes `list` with one more string at its end.
pub(super) fn push_appended(text: &mut String, list: &str, last: &str) {
    let open = list.strip_suffix(']').unwrap_or(list);
    text.push_str(open);
    let empty = open[1..].bytes().all(|byte| byte.is_ascii_whitespace());
    push_field(text, if empty { "" } else { "," }, last);
    text.push(']');
}

/// `list` with another event name in front, or with none.
pub(super) fn renamed(list: &str, had_event: bool, event: Option<&str>) -> String {
    let mut elements = Elements::new(list);
    if had_event {
        elements.next();
    }
    let rest = elements.next().map_or("]", |first| &list[first.start..]);
    let mut text = String::with_capacity(list.len() + event.map_or(0, str::len) + 4);
    text.push('[');
    if let Some(event) = event {
        push_field(&mut text, "", event);
        text.push_str(if rest == "]" { "" } else { "," });
    }
    text.push_str(rest);
    text
}

fn push_field(text: &mut String, before: &str, value: &str) {
    text.push_str(before);
    if value.bytes().all(|byte| byte >= 0x20 && byte != b'"' && byte != b'\\') {
        text.push('"');
        text.push_str(value);
        text.push('"');
    } else {
        text.push_str(&serde_json::Value::from(value).to_string());
    }
}

fn push_number(text: &mut String, number: u64) {
    use std::fmt::Write;
    write!(text, "{number}").expect("a String takes everything");
}
