//! Fuzz targets of this layer; see `crate::fuzzing`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::history::Offset;
use super::message::Message;
use super::wire::{
    CallIn, Entry, Envelope, Kind, StreamId, call_in_payload, called_in_payload, decode_session,
    encode_session, entry_fields, load_payload, reply_payload, request_payload,
};
use crate::socketio::packet::{Args, Codec};

const BOTH: [Codec; 2] = [Codec::Json, Codec::MsgPack];

/// An entry of the stream, behind a byte for its type: what our clients would get of it survives the stream.
/// What is no JSON stands for the msgpack that a peer writes in base64, so that a change of a byte is one.
pub(crate) fn entry(input: &[u8]) {
    let Some((how, data)) = input.split_first() else { return };
    let kind = (how % 14).to_string().into_bytes();
    let is_text = data.starts_with(b"{") || how & 0x80 != 0;
    let data = if is_text { data.to_vec() } else { BASE64.encode(data).into_bytes() };
    let fields = [("nsp", b"/n".to_vec()), ("type", kind), ("data", data.clone())];
    let Ok(Some(read)) = Entry::parse(fields) else { return };
    for codec in BOTH {
        let Ok(message) = read.clone().into_message(codec) else { continue };
        assert!(message.bytes() <= (1 << 12) + 64 * data.len(), "an entry that grows");
        let Ok(fields) = entry_fields("uid", "/n", &message) else { continue };
        let is_json = fields.iter().any(|(name, value)| *name == "data" && value.starts_with('{'));
        let again = Entry::parse(fields).expect("what we write is well-formed");
        let again = again.expect("what we write is ours to read");
        let again = again.into_message(codec).expect("what we write can be delivered");
        let ((shape, args), (shape_again, args_again)) = (whole(&message), whole(&again));
        assert_eq!(shape_again, shape);
        if args_again != args {
            // JSON has no number that is not finite: it becomes null, as from Node
            let spelled = |args: Option<&Args>| args.map(|args| args.to_json().ok());
            assert!(is_json, "{args_again:?} was {args:?}");
            assert_eq!(spelled(args_again), spelled(args));
        }
    }
}

/// All of a message, the arguments as they are for clients.
fn whole(message: &Message) -> (String, Option<&Args>) {
    match message {
        Message::Broadcast { args, target, flags } => (format!("{target:?} {flags:?}"), Some(args)),
        Message::ServerSideEmit { args } => (String::new(), Some(args)),
        other => (format!("{other:?}"), None),
    }
}

/// A message of pub/sub: read, written and read again.
pub(crate) fn message(payload: &[u8]) {
    for codec in BOTH {
        let Ok(Some(read)) = Envelope::parse(payload, "me", codec) else { continue };
        let (uid, nsp, shape) = (read.uid.clone(), read.nsp.clone(), discriminant(&read.kind));
        let written = match read.kind {
            Kind::Request { request, request_id } => {
                request_payload(&uid, &nsp, request_id.as_deref(), &request)
            }
            Kind::Reply { reply, request_id } => reply_payload(&uid, &nsp, &request_id, &reply),
            Kind::CallIn { pid, request_id } => {
                let call = CallIn { id: &request_id, pid: &pid };
                call_in_payload(&uid, &nsp, &call)
            }
            Kind::CalledIn { answer, request_id } => {
                called_in_payload(&uid, &nsp, &request_id, answer.as_ref())
            }
            Kind::Load(load) => load_payload(&uid, &nsp, load),
        };
        let Ok(written) = written else { continue };
        let again = Envelope::parse(&written, "me", codec).expect("what we write is well-formed");
        let again = again.expect("what we write is ours to read");
        assert_eq!((again.uid, again.nsp, discriminant(&again.kind)), (uid, nsp, shape));
    }
}

fn discriminant(kind: &Kind) -> std::mem::Discriminant<Kind> {
    std::mem::discriminant(kind)
}

/// The session that somebody stored, without the base64 around it.
pub(crate) fn stored_session(msgpack: &[u8]) {
    let _ = decode_session(msgpack);
    let Ok(record) = decode_session(BASE64.encode(msgpack).as_bytes()) else { return };
    let Ok(written) = encode_session(&record) else { return };
    let again = decode_session(written.as_bytes()).expect("what we write is well-formed");
    assert_eq!((&again.sid, &again.pid), (&record.sid, &record.pid));
    assert_eq!(
        (&again.nsp, &again.identity, again.start),
        (&record.nsp, &record.identity, record.start)
    );
    assert_eq!(
        (&again.rooms, &again.sent, &again.early),
        (&record.rooms, &record.sent, &record.early)
    );
    assert_eq!(again.at, Some(record.at.unwrap_or_default()));
}

/// The offset that a client brings to recovery.
pub(crate) fn offset(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    if let Ok(id) = text.parse::<StreamId>() {
        assert_eq!(id.to_string().parse(), Ok(id));
        assert!(id.before() <= id);
    }
    if let Ok(offset) = text.parse::<Offset>() {
        assert_eq!(offset.to_string().parse(), Ok(offset));
    }
}
