//! The msgpack codec against Node's.

use super::*;

/// `message => what is read, or the rule`; `-` is an empty message. Node agrees.
const AS_NODE: &str = r#"
83a47479706500a464617461d40000a36e7370a12f => connect /
82a47479706500a36e7370a12f => connect /
83a47479706500a46461746181a16101a36e7370a12f => connect / {"a":1}
83a47479706500a464617461c0a36e7370a12f => InvalidPayload
83a47479706500a46461746190a36e7370a12f => InvalidPayload
85a47479706502a46461746192a16101a76f7074696f6e7380a2696403a36e7370a22f61 => event /a #3 a ["a",1]
84a47479706502a46461746191a161a26964d40000a36e7370a12f => event / a ["a"]
83a474797065cb4000000000000000a46461746191a161a36e7370a12f => event / a ["a"]
83a47479706502a4646174619105a36e7370a12f => event / 5 [5]
84a47479706502a46461746191a161a26964c0a36e7370a12f => InvalidAckId
84a47479706502a46461746191a161a26964a131a36e7370a12f => InvalidAckId
84a47479706502a46461746191a161a26964cb3ff8000000000000a36e7370a12f => InvalidAckId
82a47479706502a36e7370a12f => InvalidPayload
83a47479706502a46461746180a36e7370a12f => InvalidPayload
82a47479706501a36e7370a12f => disconnect /
83a47479706501a464617461d40000a36e7370a12f => disconnect /
83a47479706501a464617461c0a36e7370a12f => InvalidPayload
84a47479706503a4646174619101a2696401a36e7370a12f => ack / #1 [1]
84a47479706503a46461746180a2696401a36e7370a12f => InvalidPayload
83a47479706504a464617461a178a36e7370a12f => error /
83a47479706504a46461746190a36e7370a12f => InvalidPayload
83a47479706505a46461746191a161a36e7370a12f => UnknownPacketType
83a474797065ffa46461746191a161a36e7370a12f => UnknownPacketType
83a474797065a132a46461746191a161a36e7370a12f => UnknownPacketType
82a46461746191a161a36e7370a12f => UnknownPacketType
82a47479706502a46461746191a161 => InvalidPayload
83a47479706502a46461746191a161a36e737001 => InvalidPayload
83a47479706502a46461746191a161a36e7370a12f00 => InvalidPayload
83a47479706502a464617461 => InvalidPayload
- => InvalidPayload
c0 => InvalidPayload
83a47479706502a46461746192a161c1a36e7370a12f => InvalidPayload
83a47479706502a46461746192a161c100000000a36e7370a12f => InvalidPayload
"#;

/// Node accepts these: no event name, a reserved one, ids that are negative, inexact or missing for
/// an ack, text that is not UTF-8 (it reads U+FFFD).
const STRICTER: &str = r#"
83a47479706502a46461746190a36e7370a12f => InvalidPayload
83a47479706502a46461746191a7636f6e6e656374a36e7370a12f => InvalidPayload
84a47479706502a46461746191a161a26964ffa36e7370a12f => InvalidAckId
84a47479706502a46461746191a161a26964cf0020000000000000a36e7370a12f => InvalidAckId
83a47479706503a4646174619101a36e7370a12f => InvalidAckId
83a47479706502a46461746192a161a1ffa36e7370a12f => InvalidPayload
"#;

#[test]
fn msgpack_is_held_to_nodes_rules() {
    for line in AS_NODE.trim().lines().chain(STRICTER.trim().lines()) {
        let (bytes, expected) = line.split_once(" => ").unwrap();
        let packet = decode_msgpack(unhex(bytes.trim_start_matches('-')));
        let seen = packet.map_or_else(|rule| format!("{rule:?}"), |packet| show(&packet));
        assert_eq!(seen, expected, "{bytes}");
    }
}

#[test]
fn lengths_that_no_bytes_back_are_refused_at_once() {
    for bytes in ["83a47479706502a464617461ddffffffffa36e7370a12f", "dfffffffff", "c6ffffffff"] {
        assert_eq!(decode_msgpack(unhex(bytes)), Err(PeerMisbehaved::InvalidPayload), "{bytes}");
    }
}

#[test]
fn text_is_no_msgpack() {
    for text in ["0", "", "2[\"a\"]"] {
        let mut decoder = Decoder::new(Codec::MsgPack, 1);
        let refused = Err(PeerMisbehaved::UnknownPacketType);
        assert_eq!(decoder.decode(Message::from(text)), refused);
    }
}

#[test]
fn notepacks_own_types_are_read() {
    // ["a", undefined, new Date(1700000000123), new Uint8Array([1,2]), Buffer.from([3])]
    let bytes =
        "83a47479706502a46461746195a161d40000d7000000018bcfe5687bc702000102c40103a36e7370a12f";
    let Kind::Event { args, .. } = decode_msgpack(unhex(bytes)).unwrap().kind else { panic!() };
    let data: (Option<u8>, String, Bytes, Vec<u8>) = args.decode().unwrap();
    let date = "2023-11-14T22:13:20.123Z".to_owned();
    assert_eq!(data, (None, date, Bytes::from_static(&[1, 2]), vec![3]));
    let Frame::Binary(again) = &Codec::MsgPack.encode("/", event(&args, None))[0] else { panic!() };
    assert_eq!(hex(again), bytes, "passed on untouched");
    // An extension of somebody else's passes through as well; only decoding it fails.
    let bytes = "83a47479706502a46461746192a161d40501a36e7370a12f";
    let Kind::Event { args, .. } = decode_msgpack(unhex(bytes)).unwrap().kind else { panic!() };
    assert!(args.decode::<Value>().is_err());
}
