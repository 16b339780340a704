//! Golden vectors: what Node wrote, byte for byte, and that we read and write the same.
//!
//! Recorded on 2026-11-22 from two `Server`s of socket.io 4.8.4 with `@socket.io/redis-streams-adapter`
//! 0.3.1 (socket.io-adapter 2.5.8, @msgpack/msgpack 2.8.0, redis 7) on one Redis: `PSUBSCRIBE
//! socket.io#*` for pub/sub, `XRANGE socket.io - +` for the stream, `GET sio:session:*`. The comment at
//! each vector is the call that made it. Those of the emitter are from its test run in
//! `reference/wire.md` 4.8. [`NAMES`] was printed by the adapter's own `util.hashCode`.

mod golden;
mod random;

use std::num::NonZeroU32;
use std::time::Duration;

use base64::Engine as _;
use serde_json::{Value, json};

use super::*;
use crate::cluster::history::{Early, Offset};
use crate::cluster::load::Load;
use crate::cluster::message::{Message, Reply, Request, SocketInfo};
use crate::cluster::session::{LetGo, Record, Sent, Span};

const BOTH: [Codec; 2] = [Codec::Json, Codec::MsgPack];
const UID: &str = "426523b94cd90485";
const PEER: &str = "1ad6f697949f2278";

/// A list that starts with the event's name, binary where the JSON has `{"$bin":[...]}`.
fn event(codec: Codec, list: &Value) -> Args {
    codec.args_from_list(&random::Binary(list), true).unwrap()
}

fn names(names: &[&str]) -> Vec<Str> {
    names.iter().map(|name| Str::copy_from_slice(name)).collect()
}

fn target(rooms: &[&str], except: &[&str]) -> Target {
    Target { rooms: names(rooms), except: names(except) }
}

fn hex(text: &str) -> Vec<u8> {
    let digits = text.as_bytes().chunks(2);
    digits.map(|two| u8::from_str_radix(std::str::from_utf8(two).unwrap(), 16).unwrap()).collect()
}

fn entry(kind: &'static str, data: &str) -> [(&'static str, Str); 4] {
    let data = Str::copy_from_slice(data);
    [("uid", UID.into()), ("nsp", "/".into()), ("type", kind.into()), ("data", data)]
}

fn parse(kind: &'static str, data: &str) -> Result<Entry, Malformed> {
    Ok(Entry::parse(entry(kind, data))?.expect("a type that is read"))
}

fn args(message: Message) -> Args {
    match message {
        Message::Broadcast { args, .. } | Message::ServerSideEmit { args } => args,
        other => panic!("{other:?}"),
    }
}

#[test]
fn our_entries_are_nodes_entries_byte_for_byte_both_ways() {
    for codec in BOTH {
        for (message, kind, data) in golden::entries(codec) {
            let written = entry_fields(UID, "/", &message).unwrap();
            assert_eq!(written, entry(kind, data), "{codec:?}");
            let read = parse(kind, data).unwrap();
            assert_eq!((read.uid.as_str(), read.nsp.as_str()), (UID, "/"));
            let again = read.into_message(codec).unwrap();
            // Bodies are the same in every detail, arguments included.
            assert_eq!(entry_fields(UID, "/", &again).unwrap(), entry(kind, data), "{codec:?}");
            assert_eq!(format!("{message:?}"), format!("{again:?}"), "{codec:?}");
        }
    }
}

#[test]
fn json_arguments_stand_in_the_entry_and_come_out_of_it_as_the_text_they_are() {
    // White space, escapes, key order, digits: nothing that decoding and encoding would keep.
    let list = r#"["x" , {"b":1.10, "a":"\u00e9\/","b":12345678901234567890e1}]"#;
    let args_in = Codec::Json.args_from_text(list.into(), true).unwrap();
    let message =
        Message::Broadcast { args: args_in, target: Target::default(), flags: Flags::default() };
    let fields = entry_fields(UID, "/", &message).unwrap();
    let opts = r#""opts":{"rooms":[],"except":[],"flags":{}}"#;
    assert_eq!(fields[3].1, format!(r#"{{"packet":{{"type":2,"data":{list}}},{opts}}}"#).as_str());
    let read = Entry::parse(fields).unwrap().unwrap().into_message(Codec::Json).unwrap();
    assert_eq!(args(read).text(), list);
}

#[test]
fn every_kind_of_value_that_node_writes_is_read_as_its_clients_would_get_it() {
    let expected = json!(["bin2", {
        "u": null, "d": "1970-01-01T00:00:01.234Z", "f": "1969-12-31T23:59:59.999Z",
        "far": "2514-05-30T01:53:04.000Z", "ta": {"_placeholder": true, "num": 0},
        "n": [0, 127, 128, 255, 256, 65535, 65536, 4294967295_u64, 4294967296_u64,
            9007199254740991_u64, -1, -32, -33, -128, -129, -32768, -32769, -2147483648_i64,
            -2147483649_i64, 1.5, 0, 1e300, null],
        "s": "é😀", "lone": "\u{fffd}\u{fffd}\u{fffd}", "t": true, "nul": null, "big": "x".repeat(40),
    }, [[[{"_placeholder": true, "num": 1}]]]]);
    let read = args(parse("3", golden::EVERY_VALUE).unwrap().into_message(Codec::Json).unwrap());
    assert_eq!(read.to_json().unwrap(), expected);
    assert_eq!(read.attachments(), [&[1, 2][..], &[]]);
    assert!(read.text().starts_with(r#"["bin2",{"u":null,"d":"1970-"#), "order of keys is kept");
    let read = args(parse("3", golden::EVERY_VALUE).unwrap().into_message(Codec::MsgPack).unwrap());
    assert_eq!(read.event(), Some("bin2"));

    let read = args(parse("3", golden::WITH_DATE).unwrap().into_message(Codec::Json).unwrap());
    let text = r#"["bin",{"_placeholder":true,"num":0},"1970-01-01T00:00:00.000Z"]"#;
    assert_eq!((read.text(), read.attachments()), (text, &[vec![1, 2, 3].into()][..]));

    let read = args(parse("3", golden::EMITTER_BINARY).unwrap().into_message(Codec::Json).unwrap());
    assert_eq!(read.text(), r#"["bin",{"_placeholder":true,"num":0}]"#);
    assert_eq!(read.attachments(), [&[8][..]]);

    // emit("uni", "\ud83d", ...): half a character, which JSON.stringify escapes.
    let read =
        args(parse("3", golden::HALF_A_CHARACTER).unwrap().into_message(Codec::Json).unwrap());
    assert_eq!(read.to_json().unwrap(), json!(["uni", "\u{fffd}", "é😀\u{2028}"]));

    let read = args(parse("3", golden::NUMBER_AS_NAME).unwrap().into_message(Codec::Json).unwrap());
    assert_eq!((read.event(), read.text()), (Some("7"), r#"[7,"number"]"#));
}

#[test]
fn whom_an_entry_is_for_is_known_before_its_arguments_are_looked_at() {
    // Arguments that no client would accept.
    let data = r#"{"packet":{"type":2,"data":["disconnect"],"id":3},
        "opts":{"rooms":["r1",7,null],"except":[null],"flags":{"compress":false,"volatile":true}}}"#;
    let read = parse("3", data).unwrap();
    assert_eq!(read.target(), Some(&target(&["r1", "7"], &[])));
    let entry::Body::Broadcast { flags, wants_ack, .. } = &read.body else { panic!("{read:?}") };
    assert_eq!((*flags, *wants_ack), (Flags { volatile: true, compress: false, ack: None }, true));
    let refused = read.into_message(Codec::Json).unwrap_err();
    assert_eq!(refused, Malformed("an event that no client would accept"));
}

#[test]
fn an_event_to_a_room_without_a_name_is_not_an_event_to_everyone() {
    let data =
        r#"{"packet":{"type":2,"data":["x"]},"opts":{"rooms":[null],"except":[],"flags":{}}}"#;
    assert_eq!(parse("3", data), Err(Malformed("no room has a name")));
    let data = r#"{"packet":{"type":2,"data":["x"]},"opts":{"except":[],"flags":{}}}"#;
    assert!(parse("3", data).is_err());
}

#[test]
fn what_is_not_ours_to_read_is_skipped() {
    for kind in ["1", "2", "7", "8", "10", "11", "12", "13", "0", "99", "300", "-3", "x", ""] {
        assert_eq!(Entry::parse(entry(kind, "{}")), Ok(None), "{kind}");
    }
    let without_nsp = entry("3", "{}").into_iter().filter(|(key, _)| *key != "nsp");
    assert_eq!(Entry::parse(without_nsp), Ok(None));
    assert_eq!(Entry::parse([("nsp", "/"), ("type", "1"), ("uid", "x")]), Ok(None));
    assert_eq!(Entry::parse::<&str, &'static str, _>([]), Ok(None));
}

#[test]
fn what_breaks_a_rule_is_refused() {
    let opts = r#""opts":{"rooms":[],"except":[],"flags":{}}"#;
    let deep = "[".repeat(200) + &"]".repeat(200);
    let list =
        [r#"[]"#, r#"["connect"]"#, r#"{"a":1}"#, r#"[null]"#, r#"["x",01]"#, r#""x""#, &deep];
    for list in list {
        let data = format!(r#"{{"packet":{{"type":2,"data":{list}}},{opts}}}"#);
        let read = parse("3", &data).and_then(|read| read.into_message(Codec::Json));
        assert!(read.is_err(), "{list}");
    }
    for data in ["", "{", "{}", "[]", "!", "gq", "gA==", r#"{"packet":{"type":2,"data":["x"]}}"#] {
        for kind in ["3", "4", "5", "6", "9"] {
            let read = parse(kind, data).and_then(|read| read.into_message(Codec::Json));
            assert!(read.is_err(), "{kind} {data}");
        }
    }
    let wrong_type = format!(r#"{{"packet":{{"type":1,"data":["x"]}},{opts}}}"#);
    assert_eq!(parse("3", &wrong_type), Err(Malformed("a broadcast packet is no event")));
    assert!(Entry::parse([("nsp", "/"), ("type", "3")]).is_err());
    let fields = [("nsp", &b"/\xff"[..]), ("type", b"4"), ("data", b"{}")];
    assert!(Entry::parse(fields).is_err());
    let long = "x".repeat(MAX_ID_LEN + 1);
    let mut signed = entry("3", "{}");
    signed[0].1 = long.into();
    assert_eq!(Entry::parse(signed), Err(Malformed("an id is too long")));
}

#[test]
fn what_a_client_sent_and_no_node_peer_could_read_is_an_error_and_no_panic() {
    use crate::engine::packet::Message as Received;
    use crate::socketio::packet::{Decoder, Kind as PacketKind};
    // {type: 2, data: ["x", <extension 5>], nsp: "/"}
    let packet = hex("83a47479706502a46461746192a178d40501a36e7370a12f");
    let packet = Decoder::new(Codec::MsgPack, 10).decode(Received::Binary(packet.into()));
    let PacketKind::Event { args, .. } = packet.unwrap().unwrap().kind else { panic!("no event") };
    assert!(entry_fields(UID, "/", &Message::ServerSideEmit { args: args.clone() }).is_err());
    assert!(reply_payload(UID, "/", "r", &Reply::Ack(args)).is_err());
}

#[test]
fn binary_nests_and_multiplies_within_bounds_only() {
    let broadcast = |list: &[u8]| {
        let mut data = hex("82a67061636b657482a47479706502a464617461");
        data.extend_from_slice(list);
        data.extend(hex("a46f70747383a5726f6f6d7390a665786365707490a5666c61677380"));
        let data = entry::BASE64.encode(data);
        parse("3", &data).and_then(|read| read.into_message(Codec::Json))
    };
    let nested = |depth: usize| {
        let mut list = hex("92a178");
        list.extend(vec![0x91; depth - 1]);
        list.push(0xc0);
        broadcast(&list)
    };
    nested(127).unwrap();
    assert_eq!(nested(128).unwrap_err(), Malformed("msgpack nests too deep"));
    let binaries = |count: u16| {
        let mut list = hex("92a178dc");
        list.extend(count.to_be_bytes());
        list.extend([0xc4, 0].repeat(count.into()));
        broadcast(&list)
    };
    assert_eq!(args(binaries(1024).unwrap()).attachments().len(), 1024);
    assert_eq!(binaries(1025).unwrap_err(), Malformed("too many attachments"));
    // A length that nothing backs.
    assert_eq!(broadcast(&hex("ddffffffff")).unwrap_err(), Malformed("msgpack is cut off"));
    // A placeholder that was in the data, next to binary: it would name an attachment.
    assert!(broadcast(&hex("93a178c4010182ac5f706c616365686f6c646572c3a36e756d05")).is_err());
    // An extension that is no timestamp; a key that is no string.
    assert!(broadcast(&hex("92a178d40501")).is_err());
    assert!(broadcast(&hex("92a17881c0c0")).is_err());
}

#[test]
fn our_requests_are_nodes_requests_byte_for_byte_both_ways() {
    for codec in BOTH {
        for (request_id, request, payload) in golden::requests(codec) {
            let payload = hex(payload);
            assert_eq!(request_payload(UID, "/", request_id, &request).unwrap(), payload);
            let read = Envelope::parse(&payload, PEER, codec).unwrap().unwrap();
            assert_eq!((read.uid.as_str(), read.nsp.as_str()), (UID, "/"));
            let Kind::Request { request: again, request_id: id } = read.kind else {
                panic!("{read:?}")
            };
            assert_eq!(id.as_deref(), request_id);
            assert_eq!(format!("{request:?}"), format!("{again:?}"));
            assert_eq!(request_payload(UID, "/", request_id, &again).unwrap(), payload);
            let own = Envelope::parse(&payload, UID, codec).unwrap();
            assert!(own.is_none(), "everyone hears himself");
        }
    }
}

#[test]
fn our_replies_are_nodes_replies_byte_for_byte_both_ways() {
    for codec in BOTH {
        for (request_id, reply, payload) in golden::replies(codec) {
            let payload = hex(payload);
            assert_eq!(reply_payload(PEER, "/", request_id, &reply).unwrap(), payload);
            let read = Envelope::parse(&payload, UID, codec).unwrap().unwrap();
            let Kind::Reply { reply: again, request_id: id } = read.kind else {
                panic!("{read:?}")
            };
            assert_eq!(id, request_id);
            assert_eq!(reply_payload(PEER, "/", request_id, &again).unwrap(), payload);
        }
    }
}

#[test]
fn an_answer_is_its_first_argument_and_nothing_is_undefined() {
    for codec in BOTH {
        let many = codec.args(None, &("yes", 2)).unwrap();
        let payload = reply_payload(PEER, "/", "f1ed27f46b1f9f6e", &Reply::Ack(many)).unwrap();
        assert_eq!(payload, hex(golden::ACK_YES));
        let read = Envelope::parse(&hex(golden::ACK_YES), UID, codec).unwrap().unwrap();
        let Kind::Reply { reply: Reply::Ack(args), .. } = read.kind else { panic!("{read:?}") };
        assert_eq!(args.to_json().unwrap(), json!(["yes"]));

        let none = codec.args(None, &()).unwrap();
        let payload = reply_payload(PEER, "/", "3bb08027f5b8adbe", &Reply::Ack(none)).unwrap();
        assert_eq!(payload, hex(golden::ACK_NOTHING));

        let read = Envelope::parse(&hex(golden::SERVER_SIDE_ANSWER), UID, codec).unwrap().unwrap();
        let Kind::Reply { reply: Reply::ServerSideAnswer(args), .. } = read.kind else {
            panic!("{read:?}")
        };
        let at = "1970-01-01T00:00:01.234Z";
        let bin = json!({"_placeholder": true, "num": 0});
        assert_eq!(args.to_json().unwrap(), json!([{"ok": 4, "at": at, "bin": bin}]));
    }
}

#[test]
fn sockets_of_node_peers_are_read_with_handshake_rooms_and_data() {
    let read = Envelope::parse(&hex(golden::SOCKETS), UID, Codec::Json).unwrap().unwrap();
    let Kind::Reply { reply: Reply::Sockets(sockets), request_id } = read.kind else {
        panic!("{read:?}")
    };
    assert_eq!((request_id.as_str(), sockets.len()), ("58561da9d4eac65e", 1));
    let SocketInfo { id, handshake, rooms, data } = &sockets[0];
    assert_eq!(id.as_str(), "8YxJ1jpk02gZqgEOAAAA");
    assert_eq!(*rooms, names(&["8YxJ1jpk02gZqgEOAAAA", "r1", "r4"]));
    let at = "1970-01-01T00:00:00.005Z";
    assert_eq!(*data, json!({"foo": 1, "at": at, "raw": [7], "un": null}));
    assert_eq!(handshake["headers"]["host"], "localhost:45603");
    assert_eq!(handshake["issued"], 1_795_337_804_372_u64);
    assert_eq!(handshake["auth"], json!({"token": "t"}));
    let keys: Vec<_> = handshake.as_object().unwrap().keys().map(String::as_str).collect();
    let mut expected =
        ["headers", "time", "address", "xdomain", "secure", "issued", "url", "query", "auth"];
    expected.sort_unstable();
    assert_eq!(keys, expected);
    let payload = reply_payload(PEER, "/", &request_id, &Reply::Sockets(sockets)).unwrap();
    // The same but for the order of keys within handshake and data.
    assert_eq!(payload[..74], hex(golden::SOCKETS)[..74]);
}

#[test]
fn flags_that_only_the_asking_node_needs_are_read_over() {
    // in("r1").timeout(1500).fetchSockets(): the timeout is the caller's.
    let read = Envelope::parse(&hex(golden::FETCH), PEER, Codec::Json).unwrap().unwrap();
    let Kind::Request { request: Request::FetchSockets { target: of }, .. } = read.kind else {
        panic!("{read:?}")
    };
    assert_eq!(of, target(&["r1"], &[]));
    // remoteSocket.timeout(1000).emit("ask", 1, cb): expectSingleResponse.
    let read = Envelope::parse(&hex(golden::ASK_REMOTE), PEER, Codec::Json).unwrap().unwrap();
    let Kind::Request { request: Request::Broadcast { args, timeout, flags, .. }, .. } = read.kind
    else {
        panic!("{read:?}")
    };
    assert_eq!((args.text(), timeout), (r#"["ask",1]"#, Some(Duration::from_secs(1))));
    assert_eq!(flags, Flags::default());
}

#[test]
fn messages_that_do_not_belong_on_the_channels_are_skipped_and_broken_ones_refused() {
    // {type, data: {}, uid: "p", nsp: "/"}
    let message = |kind: &str, data: &str| {
        let head = format!("84a474797065{kind}a464617461{data}a3756964a170a36e7370a12f");
        Envelope::parse(&hex(&head), UID, Codec::Json)
    };
    for kind in ["00", "01", "02", "04", "05", "06", "0d", "cd0103", "c0"] {
        assert!(message(kind, "80").unwrap().is_none(), "{kind}");
    }
    for kind in ["03", "07", "08", "09", "0a", "0b", "0c", "67"] {
        assert!(message(kind, "80").is_err(), "{kind}");
        assert!(message(kind, "c0").is_err(), "{kind}");
    }
    // {requestId: "r", clientCount: 2 ** 32}: counts are added up.
    let data = "82a9726571756573744964a172ab636c69656e74436f756e74cf0000000100000000";
    assert!(message("0b", data).is_err());
    assert!(Envelope::parse(&[], UID, Codec::Json).is_err());
}

#[test]
fn sessions_are_nodes_sessions() {
    let session = decode_session(golden::SESSION.as_bytes()).unwrap();
    let stay =
        |room: &'static str| Span { room: room.into(), since: StreamId::default(), until: None };
    let expected = Record {
        nsp: "".into(),
        sid: "eoPQzDirDNoe-DEyAAAA".into(),
        pid: "oH0PClgo7QEr4agOAAAB".into(),
        data: json!({"foo": 1, "at": "1970-01-01T00:00:00.005Z", "raw": [7], "un": null}),
        identity: None,
        start: StreamId::default(),
        at: None,
        rooms: vec![stay("r1"), stay("r4")],
        sent: None,
        early: Vec::new(),
        leftover: None,
        unsent: None,
        forgotten: StreamId::default(),
        is_last: false,
        by: "".into(),
        written: None,
        taken: None,
        owner: "".into(),
        generation: 0,
        stamp: None,
    };
    assert_eq!(session, expected);
    // What is written is the same up to `data`, which had a Date and binary in it, but for the number of
    // fields.
    let written = encode_session(&session).unwrap();
    assert_eq!(written[4..110], golden::SESSION[4..110]);
    let (key, owner) = session_keys("sio:session:", &session.pid);
    assert_eq!(key, "sio:session:oH0PClgo7QEr4agOAAAB");
    assert_eq!(owner, format!("{{{key}}}:owner"), "the same slot of a cluster");
    for broken in ["", "!", "gA==", "gaNzaWSheA=="] {
        assert!(decode_session(broken.as_bytes()).is_err(), "{broken}");
    }
}

#[test]
fn a_session_of_ours_comes_back_whole() {
    let id = |ms| StreamId { ms, seq: 3 };
    let record = Record {
        nsp: "/chat".into(),
        sid: "s".into(),
        pid: "p".into(),
        data: json!({"deep": [1, {"a": null}]}),
        identity: Some("alice".into()),
        start: id(1),
        at: Some(Offset { id: id(9), early: 9 }),
        rooms: vec![
            Span { room: "a".into(), since: id(1), until: Some(id(4)) },
            Span { room: "b".into(), since: id(2), until: None },
        ],
        sent: Some(Sent { behind: id(1), ids: [id(2), id(3)].into() }),
        early: vec![
            Early { node: "n".into(), since: id(2), after: id(4), from: 3, to: 6 },
            Early { node: "n".into(), since: id(5), after: id(5), from: 7, to: 9 },
        ],
        leftover: Some(Offset { id: id(3), early: 0 }),
        unsent: Some(Offset { id: id(4), early: 2 }),
        forgotten: id(2),
        is_last: true,
        by: "node".into(),
        written: Some(0),
        taken: None,
        owner: "".into(),
        generation: 0,
        stamp: None,
    };
    let read = decode_session(encode_session(&record).unwrap().as_bytes());
    assert_eq!(read.unwrap(), record);
    // owner and generation travel apart
    let record = Record { owner: "node".into(), generation: 4, ..record };
    let answer = LetGo::Record(Box::new(record));
    let payload = called_in_payload("a", "/", "r", Some(&answer)).unwrap();
    let read = Envelope::parse(&payload, UID, Codec::Json).unwrap().unwrap();
    let Kind::CalledIn { answer: Some(read), request_id } = read.kind else { panic!("{read:?}") };
    assert_eq!((read, request_id.as_str()), (answer, "r"));
    let payload = called_in_payload("a", "/", "r", Some(&LetGo::Ended)).unwrap();
    let read = Envelope::parse(&payload, UID, Codec::Json).unwrap().unwrap();
    assert!(matches!(read.kind, Kind::CalledIn { answer: Some(LetGo::Ended), .. }));
}

#[test]
fn acknowledgements_that_will_not_come_are_read_as_they_were_written_and_bounded() {
    let read = |count| {
        let payload = reply_payload(PEER, "/n", "r", &Reply::NoMore(count)).unwrap();
        Envelope::parse(&payload, UID, Codec::Json)
    };
    for count in [0, 1, u32::MAX as usize] {
        let read = read(count).unwrap().unwrap();
        assert_eq!((read.uid.as_str(), read.nsp.as_str()), (PEER, "/n"));
        let Kind::Reply { reply: Reply::NoMore(again), request_id } = read.kind else {
            panic!("{count}")
        };
        assert_eq!((again, request_id.as_str()), (count, "r"));
    }
    // all of them are added up
    assert!(read(u32::MAX as usize + 1).is_err());
}

#[test]
fn a_load_is_read_as_it_was_written_and_bounded() {
    let read = |sessions| {
        let load = Load { sessions, leaving: sessions == 7 };
        Envelope::parse(&load_payload("a", "/", load).unwrap(), UID, Codec::Json)
    };
    for (sessions, leaving) in [(0, false), (7, true), (u32::MAX.into(), false)] {
        let Kind::Load(load) = read(sessions).unwrap().unwrap().kind else { panic!("{sessions}") };
        assert_eq!(load, Load { sessions, leaving });
    }
    // all of them are added up
    assert!(read(u64::from(u32::MAX) + 1).is_err());
}

/// Namespace, `hashCode` and the index for 2, 3, 4, 7, 16 and 1000 streams, as Node computes them.
const NAMES: [(&str, [i64; 6]); 17] = [
    ("/", [1, 2, 3, 5, 15, 47]),
    ("/chat", [1, 1, 3, 4, 7, 863]),
    ("/admin", [0, 1, 0, 4, 0, 848]),
    ("/notifications", [-1, -2, -3, -1, -7, -871]),
    ("", [0, 0, 0, 0, 0, 0]),
    ("/é", [0, 1, 2, 3, 10, 690]),
    ("/😀", [0, 0, 2, 5, 2, 66]),
    ("/a/b/c", [1, 0, 1, 4, 9, 545]),
    // A hash of -1879275729, and one that wrapped many times.
    (
        "/zzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzz",
        [-1, 0, -1, -2, -1, -729],
    ),
    ("/orders", [0, 2, 0, 2, 4, 12]),
    ("/polygenelubricants", [1, 1, 3, 6, 15, 375]),
    ("/日本語", [0, 1, 0, 0, 8, 120]),
    ("/x y", [0, 2, 2, 4, 2, 610]),
    ("/0", [1, 2, 1, 0, 1, 505]),
    ("/1", [0, 0, 2, 1, 2, 506]),
    ("/2", [1, 1, 3, 2, 3, 507]),
    ("/3", [0, 2, 0, 3, 4, 508]),
];

#[test]
fn a_namespace_is_written_to_nodes_stream_and_every_such_stream_is_read() {
    for (nsp, indices) in NAMES {
        for (count, index) in [2, 3, 4, 7, 16, 1000].into_iter().zip(indices) {
            let count = NonZeroU32::new(count).unwrap();
            let name = stream_name("s", count, nsp);
            assert_eq!(name, format!("s-{index}"), "{nsp}");
            assert!(streams_to_read("s", count).contains(&name));
        }
        assert_eq!(stream_name("s", NonZeroU32::MIN, nsp), "s");
        assert_eq!(stream_name("s", NonZeroU32::MAX, nsp).contains("--"), indices[0] < 0);
    }
    assert_eq!(streams_to_read("s", NonZeroU32::MIN), ["s"]);
    let three = streams_to_read("s", NonZeroU32::new(3).unwrap());
    assert_eq!(three, ["s", "s-0", "s-1", "s-2", "s--1", "s--2"]);
}

#[test]
fn channels_are_nodes_channels() {
    let Channels { public, private } = channels("socket.io", "/chat", UID);
    assert_eq!((&*public, &*private), ("socket.io#/chat#", "socket.io#/chat#426523b94cd90485#"));
}

#[test]
fn positions_are_two_numbers_and_sort_by_time() {
    let id: StreamId = "1795330607590-12".parse().unwrap();
    assert_eq!(id, StreamId { ms: 1_795_330_607_590, seq: 12 });
    assert_eq!(id.to_string(), "1795330607590-12");
    assert!(StreamId { ms: 9, seq: 10 } > StreamId { ms: 9, seq: 9 });
    assert!(StreamId { ms: 10, seq: 0 } > StreamId { ms: 9, seq: 9 });
    let refused =
        ["", "-", "1-", "-1", "1", "1-2-3", "+1-2", "1-+2", " 1-2", "1-2 ", "1-2\n", "$", "(1-2"];
    for text in refused.into_iter().chain(["1-*", "a-b", "１-2", "18446744073709551616-0"]) {
        assert!(text.parse::<StreamId>().is_err(), "{text:?}");
    }
}
