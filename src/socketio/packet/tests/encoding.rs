//! Packets that must be Node's, byte for byte.

use std::collections::BTreeMap;

use super::*;

/// Written by Node's Encoders from packets like `{type: 2, data: ["ping"], nsp: "/"}` (keys in the
/// order type, data, nsp, id, as its adapter sets them), with `Buffer.from([1, 2, 3])` as binary.
/// The text has the type digit of Engine.IO in front.
const GOLDEN: [(&str, &str); 13] = [
    (
        r#"42["hello",1,"two",{"a":[true,null,1.5]}]"#,
        "83a47479706502a46461746194a568656c6c6f01a374776f81a16193c3c0cb3ff8000000000000 \
         a36e7370a12f",
    ),
    (
        r#"42/chat,12["é\n\"€",-1,-33,300,70000,5000000000]"#,
        "84a47479706502a46461746196a7c3a90a22e282acffd0dfcd012cce00011170cf000000012a05f200 \
         a36e7370a52f63686174a269640c",
    ),
    (r#"42["ping"]"#, "83a47479706502a46461746191a470696e67a36e7370a12f"),
    (
        r#"452-7["bin",{"_placeholder":true,"num":0},{"x":[{"_placeholder":true,"num":1}]},"s"]"#,
        "84a47479706502a46461746194a362696ec40301020381a17891c403010203a173a36e7370a12fa2696407",
    ),
    ("430[]", "84a47479706503a46461746190a36e7370a12fa2696400"),
    (
        r#"461-/a,3[{"_placeholder":true,"num":0}]"#,
        "84a47479706503a46461746191c403010203a36e7370a22f61a2696403",
    ),
    (
        r#"42["l","xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",0,1,2,3,4,5,6,7,8,9,10,11,12,13]"#,
        "83a47479706502a464617461dc0010a16cd9287878787878787878787878787878787878787878787878 \
         7878787878787878787878787878787878000102030405060708090a0b0c0da36e7370a12f",
    ),
    (
        r#"40{"sid":"AAAAAAAAAAAAAAAAAAAA"}"#,
        "83a47479706500a46461746182a3736964b44141414141414141414141414141414141414141 \
         a3706964d40000a36e7370a12f",
    ),
    (
        r#"40/chat,{"sid":"s1","pid":"p1"}"#,
        "83a47479706500a46461746182a3736964a27331a3706964a27031a36e7370a52f63686174",
    ),
    ("41", "82a47479706501a36e7370a12f"),
    ("41/a,", "82a47479706501a36e7370a22f61"),
    (
        r#"44/ns,{"message":"Invalid namespace"}"#,
        "83a47479706504a46461746181a76d657373616765b1496e76616c6964206e616d657370616365 \
         a36e7370a32f6e73",
    ),
    (
        r#"44{"message":"no","data":{"code":401}}"#,
        "83a47479706504a46461746182a76d657373616765a26e6fa46461746181a4636f6465cd0191a36e7370a12f",
    ),
];

#[test]
fn packets_are_nodes_byte_for_byte() {
    let bin = Bytes::from_static(&[1, 2, 3]);
    let nested = BTreeMap::from([("x", vec![Some(bin.clone())])]);
    let long: Vec<Value> =
        [json!("l"), json!("x".repeat(40))].into_iter().chain((0..14).map(Value::from)).collect();
    let error = |message, data| Outgoing::ConnectError { message, data };
    let data = json!({"code": 401});
    for codec in BOTH {
        let hello = (1, "two", json!({"a": [true, null, 1.5]}));
        let hello = codec.args(Some("hello"), &hello).unwrap();
        let numbers = (-1, -33, 300, 70_000, 5_000_000_000_u64);
        let numbers = codec.args(Some("é\n\"€"), &numbers).unwrap();
        let ping = codec.args(Some("ping"), &()).unwrap();
        let binary = codec.args(Some("bin"), &(&bin, &nested, "s")).unwrap();
        let nothing = codec.args(None, &()).unwrap();
        let answer = codec.args(None, &bin).unwrap();
        let long = codec.args_from_list(&long, true).unwrap();
        let packets = [
            ("/", event(&hello, None)),
            ("/chat", event(&numbers, Some(12))),
            ("/", event(&ping, None)),
            ("/", event(&binary, Some(7))),
            ("/", Outgoing::Ack { id: 0, args: &nothing }),
            ("/a", Outgoing::Ack { id: 3, args: &answer }),
            ("/", event(&long, None)),
            ("/", Outgoing::Connect { sid: "AAAAAAAAAAAAAAAAAAAA", pid: None }),
            ("/chat", Outgoing::Connect { sid: "s1", pid: Some("p1") }),
            ("/", Outgoing::Disconnect),
            ("/a", Outgoing::Disconnect),
            ("/ns", error("Invalid namespace", None)),
            ("/", error("no", Some(&data))),
        ];
        for ((nsp, packet), (text, msgpack)) in packets.into_iter().zip(GOLDEN) {
            check(&codec.encode(nsp, packet), text, msgpack);
        }
    }
}

fn check(frames: &[Frame], text: &str, msgpack: &str) {
    match frames {
        [Frame::Text(written), attachments @ ..] => {
            assert_eq!(written.as_str(), text);
            let bin = Frame::Binary(Bytes::from_static(&[1, 2, 3]));
            assert_eq!(attachments, vec![bin; text.matches("_placeholder").count()]);
        }
        [Frame::Binary(written)] => assert_eq!(hex(written), hex(&unhex(msgpack)), "{text}"),
        other => panic!("{other:?}"),
    }
}
