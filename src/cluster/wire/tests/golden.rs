//! The vectors.

use super::*;

/// `emit("bin2", {...}, [[[Buffer.alloc(0)]]])` with every kind of value.
pub(super) const EVERY_VALUE: &str = "\
     gqZwYWNrZXSCpHR5cGUCpGRhdGGTpGJpbjKLoXXAoWTX/zfKOgAAAAABoWbHDP87i4fA//////////+jZmFyxwz/\
     AAAAAAAAAAQAAAAAonRhxAIBAqFu3AAXAH/MgMz/zQEAzf//zgABAADO/////88AAAABAAAAAM8AH//////////g\
     0N/QgNH/f9GAANL//3//0oAAAADT/////3/////LP/gAAAAAAAAAy3435DyIAHWcy3/4AAAAAAAAoXOmw6nwn5iA\
     pGxvbmWj7aC9oXTDo251bMCjYmln2Sh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4kZGR\
     xACkb3B0c4Olcm9vbXOQpmV4Y2VwdJClZmxhZ3OA";

/// `emit("bin", Buffer.from([1, 2, 3]), new Date(0))`
pub(super) const WITH_DATE: &str = "\
     gqZwYWNrZXSCpHR5cGUCpGRhdGGTo2JpbsQDAQID1v8AAAAApG9wdHODpXJvb21zkKZleGNlcHSQpWZsYWdzgA==";

/// The emitter's `emit("bin", Buffer.from([8]))`
pub(super) const EMITTER_BINARY: &str = "\
     gqZwYWNrZXSDpHR5cGUCpGRhdGGSo2JpbsQBCKNuc3ChL6RvcHRzg6Vyb29tc5ClZmxhZ3OApmV4Y2VwdJA=";

/// `emit("uni", "\ud83d", "é😀\u2028")`
pub(super) const HALF_A_CHARACTER: &str = concat!(
    r#"{"packet":{"type":2,"data":["uni","\ud83d","é😀 "]},"#,
    r#""opts":{"rooms":[],"except":[],"flags":{}}}"#,
);

/// `emit(7, "number")`
pub(super) const NUMBER_AS_NAME: &str = concat!(
    r#"{"packet":{"type":2,"data":[7,"number"]},"#,
    r#""opts":{"rooms":[],"except":[],"flags":{}}}"#,
);

/// `emit("raw", Buffer.from([1, 2, 3]), {a: [Buffer.alloc(0), 1.5, -1, 4294967296, "é", null,
/// true]})`
pub(super) const RAW: &str = "\
     gqZwYWNrZXSCpHR5cGUCpGRhdGGTo3Jhd8QDAQIDgaFhl8QAyz/4AAAAAAAA/88AAAABAAAAAKLDqcDDpG9wdHOD\
     pXJvb21zkKZleGNlcHSQpWZsYWdzgA==";

/// `serverSideEmit("ev", 1, "x")`
pub(super) const SERVER_SIDE: &str = "\
     84a47479706509a46461746181a67061636b657493a2657601a178a3756964b0343236353233623934636439\
     30343835a36e7370a12f";

/// `serverSideEmit("evbin", Buffer.from([1]))`
pub(super) const SERVER_SIDE_BINARY: &str = "\
     84a47479706509a46461746181a67061636b657492a5657662696ec40101a3756964b0343236353233623934\
     63643930343835a36e7370a12f";

/// `timeout(2000).to("r1").emitWithAck("ask", 5)`
pub(super) const ASK: &str = "\
     84a47479706503a46461746183a67061636b657482a47479706502a46461746192a361736b05a97265717565\
     73744964b066316564323766343662316639663665a46f70747383a5726f6f6d7391a27231a6657863657074\
     90a5666c61677381a774696d656f7574cd07d0a3756964b034323635323362393463643930343835a36e7370\
     a12f";

/// The answer: one client.
pub(super) const COUNT: &str = "\
     84a4747970650ba46461746182a9726571756573744964b066316564323766343662316639663665ab636c69\
     656e74436f756e7401a3756964b031616436663639373934396632323738a36e7370a12f";

/// Its client's `cb("yes", 2)`.
pub(super) const ACK_YES: &str = "\
     84a4747970650ca46461746182a9726571756573744964b066316564323766343662316639663665a6706163\
     6b6574a3796573a3756964b031616436663639373934396632323738a36e7370a12f";

/// `timeout(2000).emitWithAck("askbin", Buffer.from([3]))`
pub(super) const ASK_BINARY: &str = "\
     84a47479706503a46461746183a67061636b657482a47479706502a46461746192a661736b62696ec40103a9\
     726571756573744964b064376436386230633261366566336438a46f70747383a5726f6f6d7390a665786365\
     707490a5666c61677381a774696d656f7574cd07d0a3756964b034323635323362393463643930343835a36e\
     7370a12f";

/// Its client's `cb(Buffer.from([1, 2]))`.
pub(super) const ACK_BINARY: &str = "\
     84a4747970650ca46461746182a9726571756573744964b064376436386230633261366566336438a6706163\
     6b6574c4020102a3756964b031616436663639373934396632323738a36e7370a12f";

/// `timeout(2000).volatile.emitWithAck("asknothing")`
pub(super) const ASK_VOLATILE: &str = "\
     84a47479706503a46461746183a67061636b657482a47479706502a46461746191aa61736b6e6f7468696e67\
     a9726571756573744964b033626230383032376635623861646265a46f70747383a5726f6f6d7390a6657863\
     65707490a5666c61677382a774696d656f7574cd07d0a8766f6c6174696c65c3a3756964b034323635323362\
     393463643930343835a36e7370a12f";

/// Its client's `cb()`.
pub(super) const ACK_NOTHING: &str = "\
     84a4747970650ca46461746182a9726571756573744964b033626230383032376635623861646265a6706163\
     6b6574c0a3756964b031616436663639373934396632323738a36e7370a12f";

/// `serverSideEmitWithAck("question", 4)`
pub(super) const SERVER_SIDE_ASK: &str = "\
     84a47479706509a46461746182a9726571756573744964b066363637363766356131626632393361a6706163\
     6b657492a87175657374696f6e04a3756964b034323635323362393463643930343835a36e7370a12f";

/// Its answer `cb({ok: 4, at: new Date(1234), bin: Buffer.from([9])})`.
pub(super) const SERVER_SIDE_ANSWER: &str = "\
     84a4747970650aa46461746182a9726571756573744964b066363637363766356131626632393361a6706163\
     6b657483a26f6b04a26174d7ff37ca3a0000000001a362696ec40109a3756964b03161643666363937393439\
     6632323738a36e7370a12f";

/// `in("r1").timeout(1500).fetchSockets()`
pub(super) const FETCH: &str = "\
     84a47479706507a46461746182a46f70747383a5726f6f6d7391a27231a665786365707490a5666c61677381\
     a774696d656f7574cd05dca9726571756573744964b035383536316461396434656163363565a3756964b034\
     323635323362393463643930343835a36e7370a12f";

/// Its answer; `socket.data = {foo: 1, at: new Date(5), raw: Buffer.from([7]), un: undefined}`.
pub(super) const SOCKETS: &str = "\
     84a47479706508a46461746182a9726571756573744964b035383536316461396434656163363565a7736f63\
     6b6574739184a26964b43859784a316a706b3032675a7167454f41414141a968616e647368616b6589a76865\
     616465727386b57365632d776562736f636b65742d76657273696f6ea23133b17365632d776562736f636b65\
     742d6b6579b87051453150775833345874626a72666d512f484a37413d3daa636f6e6e656374696f6ea75570\
     6772616465a775706772616465a9776562736f636b6574b87365632d776562736f636b65742d657874656e73\
     696f6e73d92a7065726d6573736167652d6465666c6174653b20636c69656e745f6d61785f77696e646f775f\
     62697473a4686f7374af6c6f63616c686f73743a3435363033a474696d65d93e53756e204e6f762032322032\
     3032362030383a35363a343420474d542b303030302028436f6f7264696e6174656420556e6976657273616c\
     2054696d6529a761646472657373b03a3a666666663a3132372e302e302e31a778646f6d61696ec2a6736563\
     757265c2a6697373756564cf000001a20278da54a375726cd9292f736f636b65742e696f2f3f713d31264549\
     4f3d34267472616e73706f72743d776562736f636b6574a5717565727983a171a131a345494fa134a9747261\
     6e73706f7274a9776562736f636b6574a46175746881a5746f6b656ea174a5726f6f6d7393b43859784a316a\
     706b3032675a7167454f41414141a27231a27234a46461746184a3666f6f01a26174d7ff01312d0000000000\
     a3726177c40107a2756ec0a3756964b031616436663639373934396632323738a36e7370a12f";

/// `remoteSocket.timeout(1000).emit("ask", 1, cb)`
pub(super) const ASK_REMOTE: &str = "\
     84a47479706503a46461746183a67061636b657482a47479706502a46461746192a361736b01a97265717565\
     73744964b037663832393630386563303133636331a46f70747383a5726f6f6d7391b43859784a316a706b30\
     32675a7167454f41414141a665786365707490a5666c61677382b465787065637453696e676c65526573706f\
     6e7365c3a774696d656f7574cd03e8a3756964b034323635323362393463643930343835a36e7370a12f";

/// `persistSession` of the socket in [`SOCKETS`], with its id of that run.
pub(super) const SESSION: &str = "\
     hKNzaWS0ZW9QUXpEaXJETm9lLURFeUFBQUGjcGlktG9IMFBDbGdvN1FFcjRhZ09BQUFCpXJvb21zk7Rlb1BRekRp\
     ckROb2UtREV5QUFBQaJyMaJyNKRkYXRhhKNmb28BomF01/8BMS0AAAAAAKNyYXfEAQeidW7A";

/// `fetchSockets()`: wire.md 4.8, with the ids of this run.
const FETCH_ALL: &str = "\
     84a47479706507a46461746182a46f70747383a5726f6f6d7390a665786365707490a5666c61677380a97265\
     71756573744964b035383536316461396434656163363565a3756964b0343236353233623934636439303438\
     35a36e7370a12f";

const HELLO: &str = concat!(
    r#"{"packet":{"type":2,"data":["hello",1,"two",{"a":[true,null,1.5]}]},"#,
    r#""opts":{"rooms":[],"except":[],"flags":{}}}"#,
);
const TO_ROOM: &str = concat!(
    r#"{"packet":{"type":2,"data":["x"]},"#,
    r#""opts":{"rooms":["r1"],"except":["r2"],"flags":{"compress":false}}}"#,
);
const WITH_FLAGS: &str = concat!(
    r#"{"packet":{"type":2,"data":["y"]},"#,
    r#""opts":{"rooms":["r1"],"except":[],"flags":{"volatile":true,"compress":false}}}"#,
);
const JOIN: &str = r#"{"opts":{"rooms":["r1"],"except":[],"flags":{}},"rooms":["r3","r4"]}"#;
const LEAVE: &str = r#"{"opts":{"rooms":["r1"],"except":[],"flags":{}},"rooms":["r3"]}"#;
const DISCONNECT: &str = r#"{"opts":{"rooms":["a","b"],"except":["c"],"flags":{}},"close":false}"#;
const DISCONNECT_ALL: &str = r#"{"opts":{"rooms":["r3"],"except":[],"flags":{}},"close":true}"#;
/// Of the emitter, by its source: `JSON.stringify({packet: args})`.
const SERVER_SIDE_TEXT: &str = r#"{"packet":["ev",1,"x"]}"#;
/// Of the emitter, by its source: `encode({packet: ["evbin", Buffer.from([1])]})`.
const SERVER_SIDE_RAW: &str = "gaZwYWNrZXSSpWV2YmluxAEB";

/// What each call writes: message, `type`, `data`.
pub(super) fn entries(codec: Codec) -> Vec<(Message, &'static str, &'static str)> {
    let event = |list: Value| event(codec, &list);
    let broadcast = |list, target, volatile, compress| Message::Broadcast {
        args: event(list),
        target,
        flags: Flags { volatile, compress, ack: None },
    };
    let all = Target::default;
    let raw = json!(["raw", {"$bin": [1, 2, 3]},
        {"a": [{"$bin": []}, 1.5, -1, 4_294_967_296_u64, "é", null, true]}]);
    let r1 = || target(&["r1"], &[]);
    vec![
        // emit("hello", 1, "two", {a: [true, null, 1.5]})
        (
            broadcast(json!(["hello", 1, "two", {"a": [true, null, 1.5]}]), all(), false, true),
            "3",
            HELLO,
        ),
        // to("r1").except("r2").compress(false).emit("x")
        (broadcast(json!(["x"]), target(&["r1"], &["r2"]), false, false), "3", TO_ROOM),
        // to("r1").volatile.compress(false).emit("y")
        (broadcast(json!(["y"]), r1(), true, false), "3", WITH_FLAGS),
        (broadcast(raw, all(), false, true), "3", RAW),
        // in("r1").socketsJoin(["r3", "r4"])
        (Message::Join { target: r1(), rooms: names(&["r3", "r4"]) }, "4", JOIN),
        // in("r1").socketsLeave("r3")
        (Message::Leave { target: r1(), rooms: names(&["r3"]) }, "5", LEAVE),
        // of("/chat").in(["a", "b"]).except(["c"]).disconnectSockets()
        (
            Message::Disconnect { target: target(&["a", "b"], &["c"]), close: false },
            "6",
            DISCONNECT,
        ),
        // in("r3").disconnectSockets(true)
        (Message::Disconnect { target: target(&["r3"], &[]), close: true }, "6", DISCONNECT_ALL),
        (Message::ServerSideEmit { args: event(json!(["ev", 1, "x"])) }, "9", SERVER_SIDE_TEXT),
        (
            Message::ServerSideEmit { args: event(json!(["evbin", {"$bin": [1]}])) },
            "9",
            SERVER_SIDE_RAW,
        ),
    ]
}

/// What each call writes: request id, request, payload in hex.
pub(super) fn requests(codec: Codec) -> Vec<(Option<&'static str>, Request, &'static str)> {
    let event = |list: Value| event(codec, &list);
    let ask = |list, target, volatile| Request::Broadcast {
        args: event(list),
        target,
        flags: Flags { volatile, compress: true, ack: None },
        timeout: Some(Duration::from_secs(2)),
    };
    let bin = json!(["askbin", {"$bin": [3]}]);
    let server_side = |list, wanted| Request::ServerSideEmit { args: event(list), wanted };
    vec![
        (Some("f1ed27f46b1f9f6e"), ask(json!(["ask", 5]), target(&["r1"], &[]), false), ASK),
        (Some("d7d68b0c2a6ef3d8"), ask(bin, Target::default(), false), ASK_BINARY),
        (
            Some("3bb08027f5b8adbe"),
            ask(json!(["asknothing"]), Target::default(), true),
            ASK_VOLATILE,
        ),
        (Some("58561da9d4eac65e"), Request::FetchSockets { target: Target::default() }, FETCH_ALL),
        (Some("f66767f5a1bf293a"), server_side(json!(["question", 4]), true), SERVER_SIDE_ASK),
        (None, server_side(json!(["ev", 1, "x"]), false), SERVER_SIDE),
        (None, server_side(json!(["evbin", {"$bin": [1]}]), false), SERVER_SIDE_BINARY),
    ]
}

/// What each answer writes: request id, reply, payload in hex.
pub(super) fn replies(codec: Codec) -> Vec<(&'static str, Reply, &'static str)> {
    let answer =
        |value: Value| codec.args_from_list(&random::Binary(&json!([value])), false).unwrap();
    vec![
        ("f1ed27f46b1f9f6e", Reply::ClientCount(1), COUNT),
        ("f1ed27f46b1f9f6e", Reply::Ack(answer(json!("yes"))), ACK_YES),
        ("d7d68b0c2a6ef3d8", Reply::Ack(answer(json!({"$bin": [1, 2]}))), ACK_BINARY),
        ("3bb08027f5b8adbe", Reply::Ack(answer(json!(null))), ACK_NOTHING),
    ]
}
