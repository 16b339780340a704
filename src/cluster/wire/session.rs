//! Sessions for connection state recovery, as Node's adapter keeps them in Redis.
//!
//! Under Node's key lies Node's value: base64 of msgpack, `sid`, `pid`, `rooms`, `data`. Node can restore what
//! is stored here, and what Node has stored is read here. What Node does not know stands beside it, as one
//! text (`quicket`).

use std::collections::VecDeque;

use base64::Engine as _;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{MAX_LEN, Malformed, Names, StreamId, checked_id, entry, msgpack, to_msgpack};
use crate::cluster::history::Early;
use crate::cluster::session::{Record, Sent, Span};
use crate::engine::packet::Str;
use crate::error::EmitError;

/// Where the session of `pid` lies, and who may write it; both in one slot of a cluster. `prefix` is
/// `sio:session:` with Node.
pub(crate) fn session_keys(prefix: &str, pid: &str) -> (String, String) {
    let key = format!("{prefix}{pid}");
    let owner = format!("{{{key}}}:owner");
    (key, owner)
}

/// The order of the fields is Node's.
#[derive(Serialize)]
struct Stored<'a> {
    sid: &'a str,
    pid: &'a str,
    rooms: Vec<&'a str>,
    data: &'a Value,
    quicket: String,
}

/// What Node does not know.
#[derive(Deserialize, Serialize)]
struct Own {
    nsp: String,
    identity: Option<String>,
    start: String,
    at: String,
    rooms: Vec<(String, String, Option<String>)>,
    #[serde(default)]
    forgotten: Option<String>,
    #[serde(default)]
    is_last: bool,
    sent: Option<(String, Vec<String>)>,
    early: Vec<StoredEarly>,
    leftover: Option<String>,
    #[serde(default)]
    unsent: Option<String>,
    by: String,
    #[serde(default)]
    generation: Option<u64>,
}

/// Node, behind which entry, from which number to which. The entry is two for a range that was made of several.
type StoredEarly = (String, String, u64, u64);

/// The value to store.
///
/// # Errors
/// [`EmitError::Encode`], for data that nests beyond what msgpack takes.
pub(crate) fn encode_session(record: &Record) -> Result<String, EmitError> {
    let id = |id: &StreamId| id.to_string();
    let own = Own {
        nsp: record.nsp.to_string(),
        identity: record.identity.as_ref().map(ToString::to_string),
        start: id(&record.start),
        at: record.at.unwrap_or_default().to_string(),
        rooms: record
            .rooms
            .iter()
            .map(|span| (span.room.to_string(), id(&span.since), span.until.as_ref().map(id)))
            .collect(),
        forgotten: Some(record.forgotten).filter(|id| *id > StreamId::default()).as_ref().map(id),
        is_last: record.is_last,
        sent: record
            .sent
            .as_ref()
            .map(|sent| (id(&sent.behind), sent.ids.iter().map(id).collect())),
        early: record
            .early
            .iter()
            .map(|early| (early.node.to_string(), behind(early), early.from, early.to))
            .collect(),
        leftover: record.leftover.as_ref().map(ToString::to_string),
        unsent: record.unsent.as_ref().map(ToString::to_string),
        by: record.by.to_string(),
        generation: Some(record.written.unwrap_or(record.generation)),
    };
    let joined = record.rooms.iter().filter(|span| span.until.is_none());
    let rooms = std::iter::once(&record.sid).chain(joined.map(|span| &span.room));
    let null = Value::Object(serde_json::Map::new());
    let stored = Stored {
        sid: &record.sid,
        pid: &record.pid,
        rooms: rooms.map(Str::as_str).collect(),
        data: if record.data.is_null() { &null } else { &record.data },
        quicket: super::to_json(&own),
    };
    Ok(entry::BASE64.encode(to_msgpack(&stored)?))
}

/// Where a range stands.
fn behind(early: &Early) -> String {
    match early.is_coarse() {
        true => format!("{}..{}", early.since, early.after),
        false => early.after.to_string(),
    }
}

const RULE: Malformed = Malformed("a session is not complete");

/// Reads a stored value; `owner` and `generation` are kept elsewhere. Binary in `data` becomes an array of
/// numbers and a Date its ISO text.
///
/// # Errors
/// [`Malformed`].
pub(crate) fn decode_session(stored: &[u8]) -> Result<Record, Malformed> {
    if stored.len() > MAX_LEN {
        return Err(Malformed("a session is too large"));
    }
    let bytes = entry::BASE64.decode(stored).map_err(|_| Malformed("not base64"))?;
    let session = msgpack::Map::read(&bytes)?;
    let text = |key| -> Result<Str, Malformed> {
        Ok(checked_id(&session.text(key).ok_or(RULE)?)?.to_owned().into())
    };
    let (sid, pid) = (text("sid")?, text("pid")?);
    let rooms = session.get("rooms").ok_or(RULE)?.to_json()?;
    let rooms: Names = serde_json::from_value(rooms).map_err(|_| RULE)?;
    let data = session.get("data").map_or(Ok(Value::Null), msgpack::Value::to_json)?;
    let stay = |room| Span { room, since: StreamId::default(), until: None };
    let rooms = rooms.read().into_iter().filter(|room| *room != sid).map(stay).collect();
    let record = Record {
        nsp: Str::default(),
        sid,
        pid,
        data,
        identity: None,
        start: StreamId::default(),
        at: None,
        rooms,
        forgotten: StreamId::default(),
        is_last: false,
        sent: None,
        early: Vec::new(),
        leftover: None,
        unsent: None,
        by: Str::default(),
        written: None,
        taken: None,
        owner: Str::default(),
        generation: 0,
        stamp: None,
    };
    match session.text("quicket") {
        None => Ok(record),
        Some(own) => own_part(record, serde_json::from_str(&own).map_err(|_| RULE)?),
    }
}

fn own_part(record: Record, own: Own) -> Result<Record, Malformed> {
    let span = |(room, since, until): (String, String, Option<String>)| {
        let until = until.map(|until| until.parse()).transpose()?;
        Ok::<_, Malformed>(Span { room: room.into(), since: since.parse()?, until })
    };
    let sent = |(behind, ids): (String, Vec<String>)| {
        let ids: Result<VecDeque<_>, _> = ids.iter().map(|id| id.parse()).collect();
        Ok::<_, Malformed>(Sent { behind: behind.parse()?, ids: ids? })
    };
    let early = |(node, behind, from, to): StoredEarly| {
        let (since, after) = behind.split_once("..").unwrap_or((&behind, &behind));
        let (since, after): (StreamId, StreamId) = (since.parse()?, after.parse()?);
        let early = Early { node: node.into(), since, after, from, to };
        if since <= after { Ok(early) } else { Err(RULE) }
    };
    Ok(Record {
        nsp: own.nsp.into(),
        identity: own.identity.map(Into::into),
        start: own.start.parse()?,
        at: Some(own.at.parse()?),
        rooms: own.rooms.into_iter().map(span).collect::<Result<_, _>>()?,
        forgotten: own.forgotten.map(|id| id.parse()).transpose()?.unwrap_or_default(),
        is_last: own.is_last,
        sent: own.sent.map(sent).transpose()?,
        early: own.early.into_iter().map(early).collect::<Result<_, _>>()?,
        leftover: own.leftover.map(|offset| offset.parse()).transpose()?,
        unsent: own.unsent.map(|offset| offset.parse()).transpose()?,
        by: own.by.into(),
        written: own.generation,
        ..record
    })
}
