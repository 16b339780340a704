//! A message that Node's adapter does not have: how many sessions a node of ours has. It goes to the public
//! channel of the main namespace, where Node's adapter looks at the type and passes over what it does not know
//! (cluster-adapter.ts, "unknown message type").

use serde::Serialize;

use super::envelope::EnvelopeOut;
use super::{Malformed, msgpack};
use crate::cluster::load::Load;
use crate::error::EmitError;

pub(super) const LOAD: u8 = 102;

/// Writes the message.
///
/// # Errors
/// [`EmitError::Encode`]; it does not happen.
pub(crate) fn load_payload(uid: &str, nsp: &str, load: Load) -> Result<Vec<u8>, EmitError> {
    #[derive(Serialize)]
    struct Data {
        sessions: u64,
        leaving: bool,
    }
    let data = Data { sessions: load.sessions, leaving: load.leaving };
    EnvelopeOut { kind: LOAD, data, uid, nsp }.encode()
}

pub(super) fn read(data: &msgpack::Map<'_>) -> Result<Load, Malformed> {
    let sessions = data.get("sessions").and_then(msgpack::Value::uint);
    // so that all of them can be added up
    let sessions = sessions.filter(|sessions| u32::try_from(*sessions).is_ok());
    let sessions = sessions.ok_or(Malformed("a load is no number of sessions"))?;
    Ok(Load { sessions, leaving: data.get("leaving").is_some_and(msgpack::Value::is_true) })
}
