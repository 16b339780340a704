//! Properties: nothing panics on a peer's bytes, and what is written is read as what it was.

use proptest::prelude::*;
use serde::Serializer;
use serde::ser::{SerializeMap, SerializeSeq};

use super::*;

/// JSON in which `{"$bin":[1,2]}` stands for bytes.
pub(super) struct Binary<'a>(pub(super) &'a Value);

impl Serialize for Binary<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Value::Array(list) => {
                let mut seq = serializer.serialize_seq(Some(list.len()))?;
                for value in list {
                    seq.serialize_element(&Binary(value))?;
                }
                seq.end()
            }
            Value::Object(entries) => {
                if let Some(bytes) = entries.get("$bin") {
                    let bytes: Vec<u8> = serde_json::from_value(bytes.clone()).unwrap();
                    return serializer.serialize_bytes(&bytes);
                }
                let mut map = serializer.serialize_map(Some(entries.len()))?;
                for (key, value) in entries {
                    map.serialize_entry(key, &Binary(value))?;
                }
                map.end()
            }
            other => other.serialize(serializer),
        }
    }
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        (-200_i64..70_000).prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
        "[a-z]{0,300}".prop_map(Value::from),
        proptest::collection::vec(any::<u8>(), 0..300).prop_map(|bytes| json!({"$bin": bytes})),
    ];
    leaf.prop_recursive(4, 40, 20, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..20).prop_map(Value::from),
            proptest::collection::vec(("[a-zé]{0,40}", inner), 0..20)
                .prop_map(|entries| Value::Object(entries.into_iter().collect())),
        ]
    })
}

fn list() -> impl Strategy<Value = Value> {
    ("[a-w]{1,40}", proptest::collection::vec(value(), 0..4)).prop_map(|(name, mut args)| {
        args.insert(0, name.into());
        Value::from(args)
    })
}

fn rooms() -> impl Strategy<Value = Vec<Str>> {
    proptest::collection::vec(any::<String>().prop_map(Str::from), 0..3)
}

fn message(codec: Codec) -> impl Strategy<Value = Message> {
    let target = || (rooms(), rooms()).prop_map(|(rooms, except)| Target { rooms, except });
    let flags = any::<(bool, bool)>();
    let flags = flags.prop_map(|(volatile, compress)| Flags { volatile, compress, ack: None });
    let args = move || list().prop_map(move |list| event(codec, &list));
    prop_oneof![
        4 => (args(), target(), flags)
            .prop_map(|(args, target, flags)| Message::Broadcast { args, target, flags }),
        1 => (target(), rooms()).prop_map(|(target, rooms)| Message::Join { target, rooms }),
        1 => (target(), rooms()).prop_map(|(target, rooms)| Message::Leave { target, rooms }),
        1 => (target(), any::<bool>())
            .prop_map(|(target, close)| Message::Disconnect { target, close }),
        1 => args().prop_map(|args| Message::ServerSideEmit { args }),
    ]
}

/// All of a message, the arguments as msgpack.
fn whole(message: &Message) -> (String, Vec<u8>) {
    let args = match message {
        Message::Broadcast { args, .. } | Message::ServerSideEmit { args } => {
            to_msgpack(args).unwrap()
        }
        _ => Vec::new(),
    };
    let shape = match message {
        Message::Broadcast { target, flags, .. } => format!("{target:?} {flags:?}"),
        Message::ServerSideEmit { .. } => String::new(),
        other => format!("{other:?}"),
    };
    (shape, args)
}

fn survives(kind: &'static str, data: Vec<u8>) {
    let fields = [("nsp", b"/".to_vec()), ("type", kind.into()), ("data", data)];
    if let Ok(Some(read)) = Entry::parse(fields) {
        for codec in BOTH {
            if let Ok(message) = read.clone().into_message(codec) {
                let written = entry_fields(UID, "/", &message).unwrap();
                Entry::parse(written).unwrap().unwrap().into_message(codec).unwrap();
            }
        }
    }
}

fn survives_envelope(payload: &[u8]) {
    for codec in BOTH {
        let Ok(Some(read)) = Envelope::parse(payload, "me", codec) else { continue };
        match read.kind {
            Kind::Request { request, request_id } => {
                request_payload(&read.uid, &read.nsp, request_id.as_deref(), &request).unwrap();
            }
            Kind::Reply { reply, request_id } => {
                reply_payload(&read.uid, &read.nsp, &request_id, &reply).unwrap();
            }
            Kind::CallIn { pid, request_id } => {
                let call = CallIn { id: &request_id, pid: &pid };
                call_in_payload(&read.uid, &read.nsp, &call).unwrap();
            }
            Kind::CalledIn { answer, request_id } => {
                let answer = answer.as_ref();
                called_in_payload(&read.uid, &read.nsp, &request_id, answer).unwrap();
            }
            Kind::Load(load) => {
                load_payload(&read.uid, &read.nsp, load).unwrap();
            }
        }
    }
}

fn any_kind() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["1", "3", "4", "5", "6", "7", "9", "12"])
}

/// Something that was right before some bytes were changed, or its end was cut off.
fn damaged(good: Vec<u8>) -> impl Strategy<Value = Vec<u8>> {
    let len = good.len();
    let changes = proptest::collection::vec((0..len, any::<u8>()), 0..4);
    (changes, len / 2..=len).prop_map(move |(changes, len)| {
        let mut bad = good.clone();
        changes.into_iter().for_each(|(at, byte)| bad[at] = byte);
        bad.truncate(len);
        bad
    })
}

fn good_msgpack() -> impl Strategy<Value = Vec<u8>> {
    let entries = [golden::EVERY_VALUE, golden::WITH_DATE, golden::RAW];
    let mut all: Vec<_> = entries.iter().map(|data| entry::BASE64.decode(data).unwrap()).collect();
    let payloads = [golden::ASK, golden::ACK_BINARY, golden::FETCH, golden::SOCKETS, golden::COUNT];
    all.extend(payloads.into_iter().map(hex));
    all.push(entry::BASE64.decode(golden::SESSION).unwrap());
    prop::sample::select(all)
}

proptest! {
    #[test]
    fn a_message_is_what_it_was_after_the_stream_with_json(message in message(Codec::Json)) {
        there_and_back(Codec::Json, &message);
    }

    #[test]
    fn a_message_is_what_it_was_after_the_stream_with_msgpack(message in message(Codec::MsgPack)) {
        there_and_back(Codec::MsgPack, &message);
    }

    #[test]
    fn arguments_are_what_they_were_after_a_request_and_an_answer(list in list()) {
        for codec in BOTH {
            let args = event(codec, &list);
            let before = to_msgpack(&args).unwrap();
            let request = Request::ServerSideEmit { args, wanted: false };
            let payload = request_payload(UID, "/", Some("r"), &request).unwrap();
            let read = Envelope::parse(&payload, PEER, codec).unwrap().unwrap();
            let Kind::Request { request, .. } = read.kind else { panic!("{read:?}") };
            let Request::ServerSideEmit { args, .. } = request else { panic!("{request:?}") };
            prop_assert_eq!(to_msgpack(&args).unwrap(), before);

            let answer = codec.args_from_list(&[Binary(&list)][..], false).unwrap();
            let before = to_msgpack(&answer).unwrap();
            let payload = reply_payload(UID, "/", "r", &Reply::ServerSideAnswer(answer)).unwrap();
            let read = Envelope::parse(&payload, PEER, codec).unwrap().unwrap();
            let Kind::Reply { reply: Reply::ServerSideAnswer(answer), .. } = read.kind else {
                panic!("{read:?}")
            };
            prop_assert_eq!(to_msgpack(&answer).unwrap(), before);
        }
    }

    #[test]
    fn no_bytes_in_an_entry_make_us_panic(kind in any_kind(), data: Vec<u8>, text: String) {
        survives(kind, entry::BASE64.encode(&data).into());
        survives(kind, data);
        survives(kind, format!("{{{text}").into());
    }

    #[test]
    fn no_damage_to_an_entry_makes_us_panic(
        kind in any_kind(),
        msgpack in good_msgpack().prop_flat_map(damaged),
        json in damaged(golden::HALF_A_CHARACTER.into()),
    ) {
        survives(kind, entry::BASE64.encode(&msgpack).into());
        survives(kind, json);
        survives_envelope(&msgpack);
        let _ = decode_session(entry::BASE64.encode(&msgpack).as_bytes());
    }

    #[test]
    fn no_bytes_in_a_message_make_us_panic(payload: Vec<u8>) {
        survives_envelope(&payload);
        let _ = decode_session(&payload);
    }

    #[test]
    fn a_position_is_what_it_was_after_its_text(ms: u64, seq: u64, text: String) {
        let id = StreamId { ms, seq };
        prop_assert_eq!(id.to_string().parse(), Ok(id));
        let _ = text.parse::<StreamId>();
    }

    #[test]
    fn any_namespace_is_written_to_a_stream_that_is_read(nsp: String, count in 1..50_u32) {
        let count = NonZeroU32::new(count).unwrap();
        prop_assert!(streams_to_read("s", count).contains(&stream_name("s", count, &nsp)));
    }
}

fn there_and_back(codec: Codec, message: &Message) {
    let fields = entry_fields(UID, "/", message).unwrap();
    let read = Entry::parse(fields).unwrap().unwrap();
    match (read.target(), message) {
        (Some(read), Message::Broadcast { target, .. }) => assert_eq!(read, target),
        (None, other) => assert!(matches!(other, Message::ServerSideEmit { .. })),
        _ => {}
    }
    let again = read.into_message(codec).unwrap();
    assert_eq!(whole(&again), whole(message));
}
