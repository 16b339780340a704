//! The wire format of Node's `@socket.io/redis-streams-adapter` 0.3.1 (on socket.io-adapter 2.5),
//! as values: no client, no I/O.
//!
//! | what | where it travels | here |
//! |---|---|---|
//! | broadcasts, joins, leaves, disconnects | entries of a stream | [`entry_fields`], [`Entry`] |
//! | requests and replies | pub/sub | [`request_payload`], [`reply_payload`], [`Envelope`] |
//! | sessions for recovery | keys | [`encode_session`] |
//! | names of streams and channels, positions | | [`stream_name`], [`channels`], [`StreamId`] |
//!
//! Two encodings: JSON text, and `@msgpack/msgpack` 2.8 (see [`msgpack`]) for all of pub/sub and for
//! entries with binary in them. What comes in was written by peers that hold the password of Redis, but
//! carries what *their* clients sent and goes on to ours: it is checked as completely as a client's
//! packets are, and a mistake is a [`Malformed`], never a panic.

mod call;
mod entry;
mod envelope;
mod load;
mod msgpack;
mod names;
mod session;
#[cfg(test)]
mod tests;

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

pub(crate) use self::call::{CallIn, call_in_payload, called_in_payload};
pub(crate) use self::entry::{Entry, entry_fields};
pub(crate) use self::envelope::{Envelope, Kind, reply_payload, request_payload};
pub(crate) use self::load::load_payload;
pub(crate) use self::names::{Channels, StreamId, channels, stream_name, streams_to_read};
pub(crate) use self::session::{decode_session, encode_session, session_keys};

use super::message::{Flags, Target};
use crate::engine::packet::Str;
use crate::error::EmitError;
use crate::socketio::packet::{Args, Codec};

/// The longest data of an entry, payload of a message or session that is read at all, in bytes.
///
/// Node has no limit but Redis' 512 MiB. What clients send is held to `maxHttpBufferSize` (1 MB).
pub(crate) const MAX_LEN: usize = 64 << 20;

/// Binary values in one event. An empty one is 2 bytes in msgpack and 30 as an attachment with its
/// placeholder, so it is their number that has to be bounded.
const MAX_ATTACHMENTS: usize = 1024;

/// The longest id of a node or a request, in bytes. Node's have 16.
const MAX_ID_LEN: usize = 256;

/// `MessageType` of socket.io-adapter (cluster-adapter.ts), those that anybody writes in 0.3.
mod kind {
    pub(super) const BROADCAST: u8 = 3;
    pub(super) const SOCKETS_JOIN: u8 = 4;
    pub(super) const SOCKETS_LEAVE: u8 = 5;
    pub(super) const DISCONNECT_SOCKETS: u8 = 6;
    pub(super) const FETCH_SOCKETS: u8 = 7;
    pub(super) const FETCH_SOCKETS_RESPONSE: u8 = 8;
    pub(super) const SERVER_SIDE_EMIT: u8 = 9;
    pub(super) const SERVER_SIDE_EMIT_RESPONSE: u8 = 10;
    pub(super) const BROADCAST_CLIENT_COUNT: u8 = 11;
    pub(super) const BROADCAST_ACK: u8 = 12;
}

/// A packet type of Socket.IO: EVENT. BINARY_EVENT is a matter of the JSON codec only.
const EVENT: u8 = 2;

/// What a peer wrote cannot be read. Names the rule, and none of the data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed cluster message: {0}")]
pub(crate) struct Malformed(&'static str);

impl Malformed {
    /// What a client brought is no offset.
    pub(crate) const OFFSET: Self = Self("no position in a stream");
}

/// `opts` of a message, as it is written.
#[derive(Serialize)]
struct OptsOut<'a> {
    rooms: &'a [Str],
    except: &'a [Str],
    flags: FlagsOut,
}

#[derive(Serialize)]
struct FlagsOut {
    /// Milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    timeout: Option<u64>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    volatile: bool,
    /// Written when it is `false`, as by `io.compress(false)`.
    #[serde(skip_serializing_if = "Clone::clone")]
    compress: bool,
}

impl<'a> OptsOut<'a> {
    fn new(target: &'a Target, flags: Flags, timeout: Option<Duration>) -> Self {
        let timeout = timeout.map(|timeout| u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX));
        let flags = FlagsOut { timeout, volatile: flags.volatile, compress: flags.compress };
        Self { rooms: &target.rooms, except: &target.except, flags }
    }

    /// For what only selects sockets.
    fn of(target: &'a Target) -> Self {
        Self::new(target, Flags::default(), None)
    }
}

/// `opts` of a message, as it is read.
///
/// `rooms` may not be missing, although Node reads that as "to everyone": nobody writes it.
#[derive(Deserialize)]
struct OptsIn {
    rooms: Names,
    except: Option<Names>,
    flags: Option<FlagsIn>,
}

#[derive(Deserialize, Default)]
struct FlagsIn {
    /// Values, because applications hand anything to `io.compress(...)`.
    #[serde(default)]
    volatile: Value,
    #[serde(default)]
    compress: Value,
    #[serde(default)]
    timeout: Value,
}

impl OptsIn {
    fn read(self) -> Result<(Target, FlagsIn), Malformed> {
        let (some, rooms) = (!self.rooms.0.is_empty(), self.rooms.read());
        // No rooms at all means everyone; `io.to(undefined)` means no one.
        if some && rooms.is_empty() {
            return Err(Malformed("no room has a name"));
        }
        let except = self.except.map(Names::read).unwrap_or_default();
        Ok((Target { rooms, except }, self.flags.unwrap_or_default()))
    }
}

impl FlagsIn {
    fn flags(&self) -> Flags {
        // Only `false` switches compression off in Node (engine.io, Socket.sendPacket).
        Flags { volatile: self.volatile == true, compress: self.compress != false, ack: None }
    }

    fn timeout(&self) -> Option<Duration> {
        Duration::try_from_secs_f64(self.timeout.as_f64()? / 1000.0).ok()
    }
}

/// Names of rooms. JavaScript does not insist on strings.
#[derive(Deserialize)]
struct Names(Vec<Value>);

impl Names {
    /// Numbers become their text; what cannot name one of our rooms is left out.
    fn read(self) -> Vec<Str> {
        let name = |value| match value {
            Value::String(name) => Some(name.into()),
            Value::Number(number) => Some(number.to_string().into()),
            _ => None,
        };
        self.0.into_iter().filter_map(name).collect()
    }
}

/// A list of arguments that is still encoded as a peer wrote it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum List {
    /// JSON text.
    Json(Str),
    /// One value, read over and found to be well-formed.
    MsgPack(bytes::Bytes),
}

impl List {
    /// The list for our clients (or application). JSON is taken as it stands when that is our codec.
    fn args(self, codec: Codec) -> Result<Args, Malformed> {
        const RULE: Malformed = Malformed("an event that no client would accept");
        match self {
            Self::Json(text) => codec.args_from_text(text, true).map_err(|_| RULE),
            Self::MsgPack(list) => {
                let list = msgpack::Value::read(&list)?;
                codec.args_from_list(&list, true).map_err(|_| RULE)
            }
        }
    }
}

fn to_msgpack<T: Serialize + ?Sized>(value: &T) -> Result<Vec<u8>, EmitError> {
    let mut out = Vec::with_capacity(256);
    value
        .serialize(&mut rmp_serde::Serializer::new(&mut out).with_struct_map())
        .map_err(|error| EmitError::Encode(error.to_string()))?;
    Ok(out)
}

fn to_json<T: Serialize + ?Sized>(value: &T) -> String {
    serde_json::to_string(value).expect("names and flags always serialize")
}

/// An id that came from a peer, and that we keep or send back.
fn checked_id(id: &str) -> Result<&str, Malformed> {
    if id.len() > MAX_ID_LEN { Err(Malformed("an id is too long")) } else { Ok(id) }
}
