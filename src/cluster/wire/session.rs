//! Sessions for connection state recovery, as Node's adapter keeps them in Redis.

use base64::Engine as _;
use serde::Serialize;
use serde_json::Value;

use super::{MAX_LEN, Malformed, Names, checked_id, entry, msgpack, to_msgpack};
use crate::engine::packet::Str;
use crate::error::EmitError;

/// Where the session of `pid` lies; `prefix` is `sio:session:` unless configured otherwise.
pub(crate) fn session_key(prefix: &str, pid: &str) -> String {
    format!("{prefix}{pid}")
}

/// What is kept of a socket that lost its connection. The order of the fields is Node's.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Session {
    /// The socket's id.
    pub(crate) sid: Str,
    /// The secret that the client brings to get it back.
    pub(crate) pid: Str,
    /// The rooms at the time of the disconnect, the socket's own among them.
    pub(crate) rooms: Vec<Str>,
    /// `socket.data`.
    pub(crate) data: Value,
}

impl Session {
    /// The value to store: base64 of msgpack.
    ///
    /// # Errors
    /// [`EmitError::Encode`], for data that nests beyond what msgpack takes.
    pub(crate) fn encode(&self) -> Result<String, EmitError> {
        Ok(entry::BASE64.encode(to_msgpack(self)?))
    }

    /// Reads a stored value. Binary in `data` becomes an array of numbers and a Date its ISO text.
    ///
    /// # Errors
    /// [`Malformed`].
    pub(crate) fn decode(stored: &[u8]) -> Result<Self, Malformed> {
        const RULE: Malformed = Malformed("a session is not complete");
        if stored.len() > MAX_LEN {
            return Err(Malformed("a session is too large"));
        }
        let bytes = entry::BASE64.decode(stored).map_err(|_| Malformed("not base64"))?;
        let session = msgpack::Map::read(&bytes)?;
        let id = |key| -> Result<Str, Malformed> {
            Ok(checked_id(&session.text(key).ok_or(RULE)?)?.to_owned().into())
        };
        let rooms = session.get("rooms").ok_or(RULE)?.to_json()?;
        let rooms: Names = serde_json::from_value(rooms).map_err(|_| RULE)?;
        let data = session.get("data").map_or(Ok(Value::Null), msgpack::Value::to_json)?;
        Ok(Self { sid: id("sid")?, pid: id("pid")?, rooms: rooms.read(), data })
    }
}
