//! The one message that Node's adapter does not have: "let go of this socket, its client is here". It goes to
//! the private channel of a node of ours only.

use serde::Serialize;

use super::envelope::EnvelopeOut;
use super::{Malformed, checked_id, decode_session, encode_session, msgpack};
use crate::cluster::session::{LetGo, Record};
use crate::engine::packet::Str;
use crate::error::EmitError;

pub(super) const CALL_IN: u8 = 100;
pub(super) const CALLED_IN: u8 = 101;

/// Asks the owner of a session for it.
pub(crate) struct CallIn<'a> {
    pub(crate) id: &'a str,
    pub(crate) pid: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Call<'a> {
    request_id: &'a str,
    pid: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Called<'a> {
    request_id: &'a str,
    ended: bool,
    session: Option<String>,
    generation: u64,
    owner: &'a str,
}

/// Writes the call.
///
/// # Errors
/// [`EmitError::Encode`]; it does not happen.
pub(crate) fn call_in_payload(
    uid: &str,
    nsp: &str,
    call: &CallIn<'_>,
) -> Result<Vec<u8>, EmitError> {
    let data = Call { request_id: call.id, pid: call.pid };
    EnvelopeOut { kind: CALL_IN, data, uid, nsp }.encode()
}

/// Writes the answer.
///
/// # Errors
/// [`EmitError::Encode`], for data that nests beyond what msgpack takes.
pub(crate) fn called_in_payload(
    uid: &str,
    nsp: &str,
    id: &str,
    answer: Option<&LetGo>,
) -> Result<Vec<u8>, EmitError> {
    let record = match answer {
        Some(LetGo::Record(record)) => Some(&**record),
        Some(LetGo::Ended) | None => None,
    };
    let ended = matches!(answer, Some(LetGo::Ended));
    let session = record.map(encode_session).transpose()?;
    let generation = record.map_or(0, |record| record.generation);
    let owner = record.map_or("", |record| record.owner.as_str());
    let data = Called { request_id: id, ended, session, generation, owner };
    EnvelopeOut { kind: CALLED_IN, data, uid, nsp }.encode()
}

pub(super) fn pid(data: &msgpack::Map<'_>) -> Result<Str, Malformed> {
    let pid = data.text("pid").ok_or(Malformed("a call names no session"))?;
    Ok(checked_id(&pid)?.to_owned().into())
}

pub(super) fn answer(data: &msgpack::Map<'_>) -> Result<Option<LetGo>, Malformed> {
    if data.get("ended").is_some_and(msgpack::Value::is_true) {
        return Ok(Some(LetGo::Ended));
    }
    let Some(session) = data.text("session") else { return Ok(None) };
    let record = decode_session(session.as_bytes())?;
    let generation = data.get("generation").and_then(msgpack::Value::uint).unwrap_or(0);
    let owner = data.text("owner").unwrap_or_default();
    let owner: Str = checked_id(&owner)?.to_owned().into();
    Ok(Some(LetGo::Record(Box::new(Record { generation, owner, ..record }))))
}
