//! What a decoder takes and what it refuses.

use super::*;

/// `packet => what is read`.
const ACCEPTED: &str = r##"
0 => connect /
0{} => connect / {}
0{"a":1} => connect / {"a":1}
0/a => connect /a
0/a, => connect /a
0/a,{"t":1} => connect /a {"t":1}
0/a?x=1, => connect /a?x=1
01 => connect /
1 => disconnect /
1/a, => disconnect /a
2["a"] => event / a ["a"]
2["a",1,{"b":[null]}] => event / a ["a",1,{"b":[null]}]
2/a,["a"] => event /a a ["a"]
212["a"] => event / #12 a ["a"]
2/a,12["a"] => event /a #12 a ["a"]
20["a"] => event / #0 a ["a"]
2007["a"] => event / #7 a ["a"]
29007199254740991["a"] => event / #9007199254740991 a ["a"]
2[1] => event / 1 [1]
2[-1.5] => event / -1.5 [-1.5]
2[-0] => event / 0 [-0.0]
2[ "a" , 1 ] => event / a ["a",1]
2["é\"\u20ac"] => event / é"€ ["é\"€"]
2[""] => event /  [""]
2["Connect"] => event / Connect ["Connect"]
31[] => ack / #1 []
31[1,2] => ack / #1 [1,2]
3/a,1[] => ack /a #1 []
31 => ack / #1 []
4 => error /
4"x" => error /
4{} => error /
2["a",{"_placeholder":true,"num":9}] => event / a ["a",{"_placeholder":true,"num":9}]
2["a","x\ud83d","\ud83d\ude00"] => event / a ["a","x�","😀"]
2["\udc00\\ud800"] => event / �\ud800 ["�\\ud800"]
"##;

/// `rule packet`; Node refuses all of them.
const REFUSED: &str = r#"
UnknownPacketType 7
UnknownPacketType 8["a"]
UnknownPacketType a
UnknownPacketType -1
UnknownPacketType é
InvalidPayload 0null
InvalidPayload 0[]
InvalidPayload 0"x"
InvalidPayload 0abc
InvalidPayload 1{}
InvalidPayload 1null
InvalidPayload 1[]
InvalidPayload 2[]
InvalidPayload 2{}
InvalidPayload 2"a"
InvalidPayload 2[null]
InvalidPayload 2[true]
InvalidPayload 2[["a"]]
InvalidPayload 2["a"
InvalidPayload 2["a"]x
InvalidPayload 2["a",01]
InvalidPayload 2["a", 1]
InvalidPayload 2["a","	"]
InvalidPayload 2-1["a"]
InvalidPayload 21.5["a"]
InvalidPayload 2["connect"]
InvalidPayload 2["connect_error"]
InvalidPayload 2["disconnect"]
InvalidPayload 2["disconnecting"]
InvalidPayload 2["newListener"]
InvalidPayload 2["removeListener"]
InvalidPayload 2["\u0063onnect"]
InvalidPayload 31{}
InvalidPayload 31"x"
InvalidPayload 4[]
InvalidPayload 4null
IllegalAttachments 5["a"]
IllegalAttachments 50-["a"]
IllegalAttachments 50["a"]
IllegalAttachments 5-["a"]
IllegalAttachments 5-1-["a"]
IllegalAttachments 51
IllegalAttachments 60-1[]
TooManyAttachments 511-["a"]
TooManyAttachments 599999999999999999999999-["a"]
InvalidPayload 51-{}
InvalidPayload 51-["connect"]
IllegalAttachments 51-["a",{"_placeholder":true,"num":1}]
IllegalAttachments 51-["a",{"_placeholder":true,"num":-1}]
IllegalAttachments 51-["a",{"_placeholder":true,"num":"0"}]
IllegalAttachments 51-["a",{"_placeholder":true}]
IllegalAttachments 51-["a",{"b":[{"_placeholder":true,"num":2}]}]
IllegalAttachments 51-["a",{"_placeh\u006flder":true,"num":3}]
"#;

#[test]
fn what_node_accepts_is_read_the_same() {
    for line in ACCEPTED.trim().lines() {
        let (text, expected) = line.split_once(" => ").unwrap();
        let packet = decode(text).map(|packet| packet.map(|packet| show(&packet)));
        assert_eq!(packet, Ok(Some(expected.to_owned())), "{text}");
    }
    let packet = decode("2[\"a\"] \r\n\t").unwrap().unwrap();
    assert_eq!(show(&packet), r#"event / a ["a"]"#);
}

#[test]
fn what_node_refuses_is_refused() {
    for line in REFUSED.trim().lines() {
        let (rule, text) = line.split_once(' ').unwrap();
        let refused = decode(text).map_err(|rule| format!("{rule:?}"));
        assert_eq!(refused, Err(rule.to_owned()), "{text}");
    }
}

#[test]
fn what_only_node_accepts_is_refused_too() {
    use PeerMisbehaved::*;
    for (text, rule) in [
        // Node: a CONNECT, since Number("") is 0.
        ("", UnknownPacketType),
        (" ", UnknownPacketType),
        // Node: an event whose name is undefined.
        ("2", InvalidPayload),
        ("2/a,", InvalidPayload),
        ("51-", InvalidPayload),
        (r#"2/a["a"]"#, InvalidPayload),
        // Node: ids 0 and 1.
        (r#"2 ["a"]"#, InvalidPayload),
        (r#"21 ["a"]"#, InvalidPayload),
        // Node: 1, by way of Number().
        (r#"51.0-["a"]"#, IllegalAttachments),
        (r#"51e0-["a"]"#, IllegalAttachments),
        // Node: undefined in the place of the attachment.
        (r#"51-["a",{"_placeholder":true,"num":0.5}]"#, IllegalAttachments),
        // Node: ids that are not the ones that were sent.
        (r#"29007199254740992["a"]"#, InvalidAckId),
        (r#"299999999999999999999["a"]"#, InvalidAckId),
        // Node: an ack for nothing, which it drops.
        ("3[]", InvalidAckId),
        (r#"61-[{"_placeholder":true,"num":0}]"#, InvalidAckId),
        // Node: an event named Infinity.
        ("2[1e999]", InvalidPayload),
    ] {
        assert_eq!(decode(text), Err(rule), "{text}");
    }
}

#[test]
fn attachments_come_right_behind_their_text_and_nowhere_else() {
    let mut decoder = Decoder::new(Codec::Json, 2);
    let out_of_order = Err(PeerMisbehaved::AttachmentOutOfOrder);
    assert_eq!(decoder.decode(Message::from(vec![1])), out_of_order);
    let text = r#"52-/a,7["a",{"_placeholder":true,"num":1},{"_placeholder":true,"num":0}]"#;
    assert_eq!(decoder.decode(Message::from(text)), Ok(None));
    assert!(decoder.is_reconstructing());
    assert_eq!(decoder.decode(Message::from(vec![1])), Ok(None));
    let packet = decoder.decode(Message::from(vec![2, 2])).unwrap().unwrap();
    assert!(!decoder.is_reconstructing());
    let Kind::Event { args, ack: Some(7) } = packet.kind else { panic!("{packet:?}") };
    // By number, not by order.
    let data: (Bytes, Bytes) = args.decode().unwrap();
    assert_eq!(data, (Bytes::from_static(&[2, 2]), Bytes::from_static(&[1])));
    assert_eq!(decoder.decode(Message::from(vec![1])), out_of_order);

    assert_eq!(decoder.decode(Message::from(text)), Ok(None));
    assert_eq!(decoder.decode(Message::from(r#"2["a"]"#)), out_of_order);
    assert!(!decoder.is_reconstructing());
}

#[test]
fn an_attachment_may_be_used_twice_or_never() {
    for text in [
        r#"51-["a",{"_placeholder":true,"num":0},{"num":0.0,"x":1,"_placeholder":true}]"#,
        r#"51-["a"]"#,
        r#"51-["a",{"_placeholder":false,"num":9},{"_placeholder":1,"num":9}]"#,
    ] {
        let mut decoder = Decoder::new(Codec::Json, 1);
        assert_eq!(decoder.decode(Message::from(text)), Ok(None), "{text}");
        assert!(decoder.decode(Message::from(vec![])).unwrap().is_some(), "{text}");
    }
}

#[test]
fn the_limit_of_attachments_is_exact() {
    for max in [0, 1, 10, 300] {
        let mut decoder = Decoder::new(Codec::Json, max);
        let over = format!(r#"5{}-["a"]"#, max + 1);
        let refused = Err(PeerMisbehaved::TooManyAttachments);
        assert_eq!(decoder.decode(Message::from(over)), refused, "{max}");
        if max > 0 {
            let fits = format!(r#"5{max}-["a"]"#);
            assert_eq!(decoder.decode(Message::from(fits)), Ok(None), "{max}");
            for at in 1..=max {
                let packet = decoder.decode(Message::from(vec![0])).unwrap();
                assert_eq!(packet.is_some(), at == max);
            }
        }
    }
}

#[test]
fn depth_is_bounded_and_never_overflows_the_stack() {
    let json = |depth: usize| {
        let inner = depth - 1;
        decode(&format!("2[\"a\",{}1{}]", "[".repeat(inner), "]".repeat(inner)))
    };
    let msgpack = |depth: usize| {
        let mut bytes = unhex("83 a474797065 02 a36e7370 a12f a464617461 92 a161");
        bytes.extend(std::iter::repeat_n(0x91, depth - 1));
        bytes.push(1);
        decode_msgpack(bytes)
    };
    for packet in [json(MAX_DEPTH).unwrap().unwrap(), msgpack(MAX_DEPTH).unwrap()] {
        let Kind::Event { args, .. } = packet.kind else { panic!() };
        args.decode::<Value>().unwrap();
        args.to_json().unwrap();
        args.with_appended_str("x").to_json().unwrap();
        for codec in BOTH {
            received_args(codec, &codec.args_from_list(&args, true).unwrap());
        }
    }
    for depth in [MAX_DEPTH + 1, 1_000_000] {
        assert_eq!(json(depth), Err(PeerMisbehaved::InvalidPayload));
        assert_eq!(msgpack(depth), Err(PeerMisbehaved::InvalidPayload));
    }
    let mut shallow = Decoder::new(Codec::Json, 0).nested(3);
    assert!(shallow.decode(Message::from("2[\"a\",[[1]]]")).is_ok());
    let deeper = shallow.decode(Message::from("2[\"a\",[[[1]]]]"));
    assert_eq!(deeper, Err(PeerMisbehaved::InvalidPayload));
    let mut shallow = Decoder::new(Codec::MsgPack, 0).nested(3);
    let msgpack = |depth: usize| {
        let mut bytes = unhex("83 a474797065 02 a36e7370 a12f a464617461 92 a161");
        bytes.extend(std::iter::repeat_n(0x91, depth - 1));
        bytes.push(1);
        Message::Binary(bytes.into())
    };
    assert!(shallow.decode(msgpack(3)).is_ok());
    assert_eq!(shallow.decode(msgpack(4)), Err(PeerMisbehaved::InvalidPayload));
    let binary = format!("51-[\"a\",{}", "[".repeat(1_000_000));
    assert_eq!(decode(&binary), Err(PeerMisbehaved::InvalidPayload));
}
