//! Requests and replies: pub/sub messages, all msgpack.

use serde::Serialize;

use super::entry::{PacketOut, opts};
use super::{
    MAX_LEN, Malformed, Names, OptsOut, call, checked_id, kind, load, msgpack, to_msgpack,
};
use crate::cluster::load::Load;
use crate::cluster::message::{Flags, Reply, Request, SocketInfo};
use crate::cluster::session::LetGo;
use crate::engine::packet::Str;
use crate::error::EmitError;
use crate::socketio::packet::{Args, Codec};

/// So many of the acknowledgements that were announced will not come. Node's adapter has no such message, and passes
/// over it (cluster-adapter.ts, "unknown message type").
const NO_MORE: u8 = 103;

/// A message, keys in Node's order.
#[derive(Serialize)]
pub(super) struct EnvelopeOut<'a, T> {
    #[serde(rename = "type")]
    pub(super) kind: u8,
    pub(super) data: T,
    pub(super) uid: &'a str,
    pub(super) nsp: &'a str,
}

impl<T: Serialize> EnvelopeOut<'_, T> {
    pub(super) fn encode(&self) -> Result<Vec<u8>, EmitError> {
        to_msgpack(self)
    }
}

/// Writes a request for the public channel of a namespace.
///
/// Without `request_id` nobody answers: that is how Node sends a server-side event without ack. With
/// [`Request::FetchSockets`] and [`Request::Broadcast`] it makes no sense.
///
/// # Errors
/// As [`super::entry_fields`].
pub(crate) fn request_payload(
    uid: &str,
    nsp: &str,
    request_id: Option<&str>,
    request: &Request,
) -> Result<Vec<u8>, EmitError> {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Broadcast<'a> {
        packet: PacketOut<'a>,
        #[serde(skip_serializing_if = "Option::is_none")]
        request_id: Option<&'a str>,
        opts: OptsOut<'a>,
    }
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Fetch<'a> {
        opts: OptsOut<'a>,
        #[serde(skip_serializing_if = "Option::is_none")]
        request_id: Option<&'a str>,
    }
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct ServerSide<'a> {
        #[serde(skip_serializing_if = "Option::is_none")]
        request_id: Option<&'a str>,
        packet: &'a Args,
    }
    match request {
        Request::Broadcast { args, target, flags, timeout } => {
            let opts = OptsOut::new(target, *flags, *timeout);
            let data = Broadcast { packet: PacketOut::new(args), request_id, opts };
            EnvelopeOut { kind: kind::BROADCAST, data, uid, nsp }.encode()
        }
        Request::FetchSockets { target } => {
            let data = Fetch { opts: OptsOut::new(target, Flags::default(), None), request_id };
            EnvelopeOut { kind: kind::FETCH_SOCKETS, data, uid, nsp }.encode()
        }
        Request::ServerSideEmit { args, .. } => {
            let data = ServerSide { request_id, packet: args };
            EnvelopeOut { kind: kind::SERVER_SIDE_EMIT, data, uid, nsp }.encode()
        }
    }
}

/// Writes a reply for the private channel of whoever asked; `uid` is the answering node's.
///
/// # Errors
/// As [`super::entry_fields`].
pub(crate) fn reply_payload(
    uid: &str,
    nsp: &str,
    request_id: &str,
    reply: &Reply,
) -> Result<Vec<u8>, EmitError> {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Count<'a> {
        request_id: &'a str,
        client_count: usize,
    }
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct NoMore<'a> {
        request_id: &'a str,
        count: usize,
    }
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Sockets<'a> {
        request_id: &'a str,
        sockets: Vec<Socket<'a>>,
    }
    match reply {
        // What a bus says to its own node.
        Reply::Missing(_) => Err(EmitError::Encode("no reply of a node".to_owned())),
        Reply::ClientCount(client_count) => {
            let data = Count { request_id, client_count: *client_count };
            EnvelopeOut { kind: kind::BROADCAST_CLIENT_COUNT, data, uid, nsp }.encode()
        }
        Reply::Ack(args) => answer_payload(kind::BROADCAST_ACK, uid, nsp, request_id, args),
        Reply::NoMore(count) => {
            let data = NoMore { request_id, count: *count };
            EnvelopeOut { kind: NO_MORE, data, uid, nsp }.encode()
        }
        Reply::ServerSideAnswer(args) => {
            answer_payload(kind::SERVER_SIDE_EMIT_RESPONSE, uid, nsp, request_id, args)
        }
        Reply::Sockets(sockets) => {
            let data = Sockets { request_id, sockets: sockets.iter().map(Socket::new).collect() };
            EnvelopeOut { kind: kind::FETCH_SOCKETS_RESPONSE, data, uid, nsp }.encode()
        }
    }
}

#[derive(Serialize)]
struct Socket<'a> {
    id: &'a str,
    handshake: &'a serde_json::Value,
    rooms: &'a [Str],
    data: &'a serde_json::Value,
}

impl<'a> Socket<'a> {
    fn new(socket: &'a SocketInfo) -> Self {
        let SocketInfo { id, handshake, rooms, data } = socket;
        Self { id, handshake, rooms, data }
    }
}

/// Node's callbacks take one argument and its messages carry that one, not a list; what else the client
/// sent is dropped (cluster-adapter.ts, "only one argument is expected"). None at all is `undefined`.
fn answer_payload(
    kind: u8,
    uid: &str,
    nsp: &str,
    request_id: &str,
    args: &Args,
) -> Result<Vec<u8>, EmitError> {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Answer<'a> {
        request_id: &'a str,
        packet: msgpack::Value<'a>,
    }
    let list = to_msgpack(args)?;
    let packet = msgpack::Value::read(&list)
        .and_then(msgpack::Value::first)
        .map_err(|rule| EmitError::Encode(rule.to_string()))?;
    EnvelopeOut { kind, data: Answer { request_id, packet }, uid, nsp }.encode()
}

/// A pub/sub message that was read.
#[derive(Debug)]
pub(crate) struct Envelope {
    /// Who sent it.
    pub(crate) uid: Str,
    pub(crate) nsp: Str,
    pub(crate) kind: Kind,
}

/// A question or an answer.
#[derive(Debug)]
pub(crate) enum Kind {
    Request {
        request: Request,
        /// Goes into the replies; `None` when nobody waits for any.
        request_id: Option<String>,
    },
    Reply {
        reply: Reply,
        request_id: String,
    },
    /// A session goes on at another node of ours.
    CallIn {
        pid: Str,
        request_id: String,
    },
    CalledIn {
        answer: Option<LetGo>,
        request_id: String,
    },
    /// How many sessions another node of ours has.
    Load(Load),
}

const INCOMPLETE: Malformed = Malformed("a message is not of the form of its type");

impl Envelope {
    /// Reads a message. Arguments are decoded for clients (or applications) that speak `codec`.
    ///
    /// `None` for messages of `own_uid`, since everyone hears himself on the public channel, and for
    /// types that do not belong on these channels.
    ///
    /// # Errors
    /// [`Malformed`]. The message is to be dropped and counted.
    pub(crate) fn parse(
        payload: &[u8],
        own_uid: &str,
        codec: Codec,
    ) -> Result<Option<Self>, Malformed> {
        if payload.len() > MAX_LEN {
            return Err(Malformed("a message is too large"));
        }
        let message = msgpack::Map::read(payload)?;
        let uid = message.text("uid").unwrap_or_default();
        checked_id(&uid)?;
        let kind = message.get("type").and_then(msgpack::Value::uint);
        let kind = kind.and_then(|kind| u8::try_from(kind).ok()).unwrap_or_default();
        if uid == own_uid {
            return Ok(None);
        }
        let kind = match kind {
            kind::BROADCAST | kind::FETCH_SOCKETS | kind::SERVER_SIDE_EMIT => {
                request(kind, &message.map("data")?, codec)?
            }
            kind::FETCH_SOCKETS_RESPONSE
            | kind::SERVER_SIDE_EMIT_RESPONSE
            | kind::BROADCAST_CLIENT_COUNT
            | kind::BROADCAST_ACK
            | NO_MORE => reply(kind, &message.map("data")?, codec)?,
            call::CALL_IN => {
                let data = message.map("data")?;
                let request_id = request_id(&data)?.ok_or(INCOMPLETE)?;
                Kind::CallIn { pid: call::pid(&data)?, request_id }
            }
            call::CALLED_IN => {
                let data = message.map("data")?;
                let request_id = request_id(&data)?.ok_or(INCOMPLETE)?;
                Kind::CalledIn { answer: call::answer(&data)?, request_id }
            }
            load::LOAD => Kind::Load(load::read(&message.map("data")?)?),
            _ => return Ok(None),
        };
        let nsp = message.text("nsp").ok_or(INCOMPLETE)?;
        Ok(Some(Self { uid: uid.into_owned().into(), nsp: nsp.into_owned().into(), kind }))
    }
}

fn request_id(data: &msgpack::Map<'_>) -> Result<Option<String>, Malformed> {
    match data.get("requestId") {
        None => Ok(None),
        Some(id) if id.is_nil() => Ok(None),
        Some(id) => Ok(Some(checked_id(&id.text().ok_or(INCOMPLETE)?)?.to_owned())),
    }
}

fn request(kind: u8, data: &msgpack::Map<'_>, codec: Codec) -> Result<Kind, Malformed> {
    let event = |list: Option<msgpack::Value<'_>>| {
        let list = list.ok_or(INCOMPLETE)?.shallow()?;
        let args = codec.args_from_list(&list, true);
        args.map_err(|_| Malformed("an event that no client would accept"))
    };
    let request_id = request_id(data)?;
    let request = match kind {
        kind::BROADCAST => {
            let (target, flags) = opts(data)?.read()?;
            let args = event(data.map("packet")?.get("data"))?;
            Request::Broadcast { args, target, flags: flags.flags(), timeout: flags.timeout() }
        }
        kind::FETCH_SOCKETS => Request::FetchSockets { target: opts(data)?.read()?.0 },
        _ => Request::ServerSideEmit {
            args: event(data.get("packet"))?,
            wanted: request_id.is_some(),
        },
    };
    Ok(Kind::Request { request, request_id })
}

fn reply(kind: u8, data: &msgpack::Map<'_>, codec: Codec) -> Result<Kind, Malformed> {
    let answer = || {
        // A missing key would be `undefined` as well.
        let answer = [data.get("packet").map(msgpack::Value::shallow).transpose()?];
        let args = codec.args_from_list(&answer[..], false);
        args.map_err(|_| Malformed("an answer that cannot be read"))
    };
    let count = |name| {
        let count = data.get(name).and_then(msgpack::Value::uint);
        // Such counts are added up.
        let count = count.and_then(|count| u32::try_from(count).ok()).ok_or(INCOMPLETE)?;
        Ok::<_, Malformed>(count as usize)
    };
    let reply = match kind {
        kind::BROADCAST_CLIENT_COUNT => Reply::ClientCount(count("clientCount")?),
        NO_MORE => Reply::NoMore(count("count")?),
        kind::BROADCAST_ACK => Reply::Ack(answer()?),
        kind::SERVER_SIDE_EMIT_RESPONSE => Reply::ServerSideAnswer(answer()?),
        _ => Reply::Sockets(sockets(data)?),
    };
    Ok(Kind::Reply { reply, request_id: request_id(data)?.ok_or(INCOMPLETE)? })
}

fn sockets(data: &msgpack::Map<'_>) -> Result<Vec<SocketInfo>, Malformed> {
    #[derive(serde::Deserialize)]
    struct SocketIn {
        id: Str,
        handshake: serde_json::Value,
        rooms: Names,
        #[serde(default)]
        data: serde_json::Value,
    }
    let sockets = data.get("sockets").ok_or(INCOMPLETE)?.to_json()?;
    let sockets: Vec<SocketIn> = serde_json::from_value(sockets).map_err(|_| INCOMPLETE)?;
    let info = |SocketIn { id, handshake, rooms, data }| SocketInfo {
        id,
        handshake,
        rooms: rooms.read(),
        data,
    };
    Ok(sockets.into_iter().map(info).collect())
}
