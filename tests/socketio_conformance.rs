//! Socket.IO v5 in bytes, on every transport: the ground of the official suite, and what becomes of
//! clients that break the rules.

#![allow(clippy::unwrap_used, reason = "in a test that is how to fail")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use quicket::config::Config;
use quicket::{Ack, Auth, CloseReason, ConnectError, Event, Namespace, Socket, TransportKind};
use serde_json::{Value, json};
use support::socketio::{Client, End, Received, TestServer, config};
use support::{on_every_transport, within};
use tokio::sync::{Semaphore, mpsc};

/// The application of the official suite, and how its sockets ended.
struct Ground {
    server: TestServer,
    ends: mpsc::UnboundedReceiver<(String, CloseReason)>,
}

impl Ground {
    async fn start(config: Config) -> Self {
        let (sender, ends) = mpsc::unbounded_channel();
        let server = TestServer::start(config, |server| {
            install(&server.of("/"), &sender);
            install(&server.of("/custom"), &sender);
        })
        .await;
        Self { server, ends }
    }

    /// A client of the main namespace.
    async fn joined(&self, kind: TransportKind) -> Client {
        let mut client = self.server.client(kind).await;
        client.join("/").await;
        client.expect(r#"42["auth",{}]"#).await;
        client
    }

    async fn next_end(&mut self) -> (String, CloseReason) {
        within("a disconnect", self.ends.recv()).await.unwrap()
    }
}

fn install(namespace: &Namespace, ends: &mpsc::UnboundedSender<(String, CloseReason)>) {
    let (name, ends) = (namespace.name().to_owned(), ends.clone());
    namespace.on_connect(move |socket| {
        let (name, ends) = (name.clone(), ends.clone());
        async move {
            socket.on("message", |socket: Socket, event: Event| async move {
                let back = event.args().renamed(Some("message-back"))?;
                socket.emit_args(&back).await
            });
            socket.on("message-with-ack", |_: Socket, event: Event, ack: Ack| async move {
                ack.send_args(event.args())
            });
            socket.on("leave", |socket: Socket| async move {
                socket.disconnect(false);
            });
            socket.on_disconnect(move |_, reason| {
                let _ = ends.send((name.clone(), reason));
                async {}
            });
            socket.emit("auth", socket.auth()).await
        }
    });
}

fn with_connect_timeout(millis: u64) -> Config {
    let mut config = config();
    config.socketio.connect_timeout = Duration::from_millis(millis);
    config
}

on_every_transport!(
    a_namespace_is_joined_with_and_without_a_payload,
    an_unknown_namespace_is_refused_and_the_connection_lives,
    a_connection_without_a_namespace_is_closed,
    asking_for_a_namespace_is_not_joining_one,
    leaving_the_main_namespace_leaves_the_connection,
    leaving_one_namespace_leaves_the_others,
    a_namespace_can_be_joined_again,
    events_and_acknowledgements_go_both_ways,
    attachments_go_both_ways,
    two_namespaces_share_one_connection,
    a_broken_rule_closes_that_connection_only,
    packets_out_of_order_close_the_connection,
    what_was_sent_before_the_mistake_still_arrives,
    attachments_that_never_come_end_at_the_deadline,
    attachments_that_come_in_time_have_no_deadline_any_more,
    packets_after_the_servers_disconnect_are_ignored,
    a_middleware_refuses_with_message_and_data,
    an_overtaken_attempt_to_join_does_not_count,
    packets_for_a_namespace_that_is_being_joined_close_the_connection,
    a_client_that_is_gone_joins_nothing,
    the_limit_of_namespaces_is_exact,
    packets_of_the_msgpack_parser_are_read_and_written,
);

async fn a_namespace_is_joined_with_and_without_a_payload(kind: TransportKind) {
    let ground = Ground::start(config()).await;
    for (packet, answer, event) in [
        ("40", "40", r#"42["auth",{}]"#),
        ("40{\"token\":\"123\"}", "40", r#"42["auth",{"token":"123"}]"#),
        ("40/custom,", "40/custom,", r#"42/custom,["auth",{}]"#),
        ("40/custom", "40/custom,", r#"42/custom,["auth",{}]"#),
        ("40/custom,{\"token\":\"abc\"}", "40/custom,", r#"42/custom,["auth",{"token":"abc"}]"#),
    ] {
        let mut client = ground.server.client(kind).await;
        client.send(packet).await;
        let connected = client.recv_text().await;
        let data = connected.strip_prefix(answer).expect(packet);
        let data: Value = serde_json::from_str(data).unwrap();
        assert_eq!(data.as_object().unwrap().len(), 1, "{packet}");
        let sid = data["sid"].as_str().unwrap();
        let fits = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        assert!(sid.len() == 20 && sid.chars().all(fits), "{sid}");
        assert_ne!(sid, client.open["sid"], "the session's id is a secret");
        client.expect(event).await;
    }
}

async fn an_unknown_namespace_is_refused_and_the_connection_lives(kind: TransportKind) {
    let ground = Ground::start(config()).await;
    let mut client = ground.server.client(kind).await;
    for name in ["/random", "/custom/x", "/CUSTOM"] {
        client.send(&format!("40{name}")).await;
        let refusal = format!(r#"44{name},{{"message":"Invalid namespace"}}"#);
        client.expect(&refusal).await;
    }
    client.join("/custom").await;
}

async fn a_connection_without_a_namespace_is_closed(kind: TransportKind) {
    let ground = Ground::start(with_connect_timeout(100)).await;
    let mut idle = ground.server.client(kind).await;
    idle.ends_properly(1000).await;
    let closed = r#"sessions_closed_total{reason="forced_server_close"}"#;
    ground.server.until_metric(closed, 1).await;
}

async fn asking_for_a_namespace_is_not_joining_one(kind: TransportKind) {
    let ground = Ground::start(with_connect_timeout(1_500)).await;
    let mut refused = ground.server.client(kind).await;
    refused.send("40/nowhere").await;
    refused.expect(r#"44/nowhere,{"message":"Invalid namespace"}"#).await;
    refused.ends_properly(1000).await;
}

async fn leaving_the_main_namespace_leaves_the_connection(kind: TransportKind) {
    let mut config = config();
    config.engine.ping_interval = Duration::from_millis(200);
    let mut ground = Ground::start(config).await;
    let mut client = ground.joined(kind).await;
    client.send("41").await;
    let end = ("/".to_owned(), CloseReason::ClientNamespaceDisconnect);
    assert_eq!(ground.next_end().await, end);
    // the first packet that comes is a ping, and no end
    assert_eq!(client.recv_raw().await, Received::Text("2".to_owned()));
    client.send("3").await;
    client.join("/custom").await;
}

async fn leaving_one_namespace_leaves_the_others(kind: TransportKind) {
    let mut ground = Ground::start(config()).await;
    let mut client = ground.joined(kind).await;
    client.join("/custom").await;
    client.expect(r#"42/custom,["auth",{}]"#).await;
    client.send("41/custom").await;
    client.send(r#"42["message","message to main namespace"]"#).await;
    client.expect(r#"42["message-back","message to main namespace"]"#).await;
    let end = ("/custom".to_owned(), CloseReason::ClientNamespaceDisconnect);
    assert_eq!(ground.next_end().await, end);
}

async fn a_namespace_can_be_joined_again(kind: TransportKind) {
    let ground = Ground::start(config()).await;
    let mut client = ground.server.client(kind).await;
    let mut ids = Vec::new();
    for _ in 0..3 {
        ids.push(client.join("/custom").await);
        client.expect(r#"42/custom,["auth",{}]"#).await;
        client.send("41/custom,").await;
    }
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 3, "each time a new socket");
}

async fn events_and_acknowledgements_go_both_ways(kind: TransportKind) {
    let ground = Ground::start(config()).await;
    let mut client = ground.joined(kind).await;
    for (sent, answer) in [
        (r#"42["message",1,"2",{"3":[true]}]"#, r#"42["message-back",1,"2",{"3":[true]}]"#),
        (r#"42["message"]"#, r#"42["message-back"]"#),
        (
            r#"42["message","é\u001e€",1.5e300,null]"#,
            r#"42["message-back","é\u001e€",1.5e300,null]"#,
        ),
        (r#"42456["message-with-ack",1,"2",{"3":[false]}]"#, r#"43456[1,"2",{"3":[false]}]"#),
        (r#"420["message-with-ack"]"#, "430[]"),
    ] {
        client.send(sent).await;
        client.expect(answer).await;
    }
}

async fn attachments_go_both_ways(kind: TransportKind) {
    let ground = Ground::start(config()).await;
    let mut client = ground.joined(kind).await;
    let two = r#"{"_placeholder":true,"num":0},{"_placeholder":true,"num":1}"#;
    for (sent, answer) in [
        (format!(r#"452-["message",{two}]"#), format!(r#"452-["message-back",{two}]"#)),
        (format!(r#"452-789["message-with-ack",{two}]"#), format!("462-789[{two}]")),
    ] {
        client.send(&sent).await;
        client.send_binary(&[1, 2, 3]).await;
        client.send_binary(&[4, 5, 6]).await;
        client.expect(&answer).await;
        client.expect_binary(&[1, 2, 3]).await;
        client.expect_binary(&[4, 5, 6]).await;
    }
    // an empty one, and one larger than any buffer on the way; Engine.IO over WebTransport has no
    // frames of length zero (engine.io-parser refuses them)
    let empty: &[u8] = if kind == TransportKind::WebTransport { &[0] } else { &[] };
    let large = vec![7; 300_000];
    client.send(&format!(r#"452-["message",{two}]"#)).await;
    client.send_binary(empty).await;
    client.send_binary(&large).await;
    client.expect(&format!(r#"452-["message-back",{two}]"#)).await;
    client.expect_binary(empty).await;
    client.expect_binary(&large).await;
}

async fn two_namespaces_share_one_connection(kind: TransportKind) {
    let ground = Ground::start(config()).await;
    let mut client = ground.joined(kind).await;
    client.join("/custom").await;
    client.expect(r#"42/custom,["auth",{}]"#).await;
    client.send(r#"42/custom,1["message-with-ack","custom"]"#).await;
    client.expect(r#"43/custom,1["custom"]"#).await;
    client.send(r#"421["message-with-ack","main"]"#).await;
    client.expect(r#"431["main"]"#).await;
}

/// `packets => rule`, separated by `|`; `<n>` is a binary packet of n bytes.
const BROKEN: &str = r#"
4abc => unknown_packet_type
49 => unknown_packet_type
4 => unknown_packet_type
40[] => invalid_payload
41{} => invalid_payload
42 => invalid_payload
42{} => invalid_payload
42[] => invalid_payload
42[null] => invalid_payload
42["a" => invalid_payload
42abc["message-with-ack",1,"2",{"3":[false]}] => invalid_payload
42["connect"] => invalid_payload
42["disconnecting"] => invalid_payload
4299999999999999999999["a"] => invalid_ack_id
43[1] => invalid_ack_id
45["a"] => illegal_attachments
450-["a"] => illegal_attachments
451-["a",{"_placeholder":true,"num":1}]|<1> => illegal_attachments
4511-["a"] => too_many_attachments
451-["a",{"_placeholder":true,"num":0}]|42["b"] => attachment_out_of_order
451-["a",{"_placeholder":true,"num":0}]|<1>|<1> => attachment_out_of_order
<1> => attachment_out_of_order
"#;

async fn a_broken_rule_closes_that_connection_only(kind: TransportKind) {
    let mut ground = Ground::start(config()).await;
    let mut bystander = ground.joined(kind).await;
    let cases = BROKEN.trim().lines().map(|line| line.split_once(" => ").unwrap());
    for (at, (packets, rule)) in cases.enumerate() {
        let broken = format!(r#"peer_misbehaved_total{{rule="{rule}"}}"#);
        let before = ground.server.metric(&broken);
        let mut client = ground.joined(kind).await;
        send_all(&mut client, packets).await;
        client.ends_properly(1000).await;
        // Node: what its decoder refuses is a "forced close"
        let end = ("/".to_owned(), CloseReason::ForcedClose);
        assert_eq!(ground.next_end().await, end, "{packets}");
        assert_eq!(ground.server.metric(&broken), before + 1, "{packets}");
        let closed = r#"sessions_closed_total{reason="forced_close"}"#;
        ground.server.until_metric(closed, at as i64 + 1).await;
        bystander.send(r#"421["message-with-ack",1]"#).await;
        bystander.expect("431[1]").await;
    }
    ground.server.until_metric("sockets", 1).await;
}

async fn packets_out_of_order_close_the_connection(kind: TransportKind) {
    let mut ground = Ground::start(config()).await;
    let broken = r#"peer_misbehaved_total{rule="packet_out_of_order"}"#;
    // before any CONNECT
    let fresh = [r#"42["a"]"#, "41", "431[]", r#"44{"message":"x"}"#];
    for (at, packet) in fresh.into_iter().enumerate() {
        let mut client = ground.server.client(kind).await;
        client.send(packet).await;
        client.ends_properly(1000).await;
        assert_eq!(ground.server.metric(broken), at as i64 + 1, "{packet}");
    }
    // in the main namespace: a second CONNECT, what only a server sends, and another's namespace
    for (at, packet) in [
        "40",
        r#"44{"message":"x"}"#,
        r#"42/custom,["message"]"#,
        "41/custom,",
        "43/custom,1[]",
        r#"42/random,["message"]"#,
    ]
    .into_iter()
    .enumerate()
    {
        let mut client = ground.joined(kind).await;
        client.send(packet).await;
        client.ends_properly(1000).await;
        // Node: what does not fit the state is a "forced close"
        let end = ("/".to_owned(), CloseReason::ForcedClose);
        assert_eq!(ground.next_end().await, end, "{packet}");
        let count = (fresh.len() + at) as i64 + 1;
        assert_eq!(ground.server.metric(broken), count, "{packet}");
    }
}

async fn what_was_sent_before_the_mistake_still_arrives(kind: TransportKind) {
    let ground = Ground::start(config()).await;
    let mut client = ground.joined(kind).await;
    // the namespace is joined, the application says "auth", and then the connection closes
    client.send("40/custom,").await;
    client.send(r#"42{}"#).await;
    let (before, _) = client.end().await;
    let Some(Received::Text(connected)) = before.first() else { panic!("nothing came") };
    assert!(connected.starts_with("40/custom,"), "{before:?}");
}

async fn attachments_that_never_come_end_at_the_deadline(kind: TransportKind) {
    let mut ground = Ground::start(with_connect_timeout(1_000)).await;
    let mut bystander = ground.joined(kind).await;
    let overdue = r#"peer_misbehaved_total{rule="attachments_overdue"}"#;
    for (at, packets) in [
        r#"451-["message",{"_placeholder":true,"num":0}]"#,
        r#"452-["message",{"_placeholder":true,"num":0}]|<3>"#,
    ]
    .into_iter()
    .enumerate()
    {
        let mut client = ground.joined(kind).await;
        send_all(&mut client, packets).await;
        client.ends_properly(1000).await;
        let end = ("/".to_owned(), CloseReason::ForcedClose);
        assert_eq!(ground.next_end().await, end);
        assert_eq!(ground.server.metric(overdue), at as i64 + 1);
    }
    bystander.send(r#"421["message-with-ack",1]"#).await;
    bystander.expect("431[1]").await;
}

async fn attachments_that_come_in_time_have_no_deadline_any_more(kind: TransportKind) {
    let mut config = with_connect_timeout(1_500);
    config.engine.ping_interval = Duration::from_millis(200);
    let ground = Ground::start(config).await;
    let mut client = ground.joined(kind).await;
    let text = r#"451-["message",{"_placeholder":true,"num":0}]"#;
    send_all(&mut client, &format!("{text}|<3>")).await;
    let echo = r#"451-["message-back",{"_placeholder":true,"num":0}]"#;
    client.expect(echo).await;
    client.expect_binary(&[3; 3]).await;
    // nine pings later the deadline is over
    for _ in 0..9 {
        assert_eq!(client.recv_raw().await, Received::Text("2".to_owned()));
        client.send("3").await;
    }
}

async fn packets_after_the_servers_disconnect_are_ignored(kind: TransportKind) {
    let mut ground = Ground::start(config()).await;
    let mut client = ground.joined(kind).await;
    client.join("/custom").await;
    client.expect(r#"42/custom,["auth",{}]"#).await;
    client.send(r#"42/custom,["leave"]"#).await;
    client.expect("41/custom,").await;
    let end = ("/custom".to_owned(), CloseReason::ServerNamespaceDisconnect);
    assert_eq!(ground.next_end().await, end);
    // they were under way when the server put the client out; Node closes the connection over them
    client.send(r#"42/custom,["message"]"#).await;
    client.send("41/custom,").await;
    client.send(r#"421["message-with-ack"]"#).await;
    client.expect("431[]").await;
    client.join("/custom").await;
}

async fn a_middleware_refuses_with_message_and_data(kind: TransportKind) {
    let ground = Ground::start(config()).await;
    let namespace = ground.server.server.of("/guarded");
    namespace.middleware(|_, auth: Auth| async move {
        let auth: Value = auth.decode().unwrap_or_default();
        match auth["token"].as_str() {
            Some("good") => Ok(()),
            Some(_) => Err(ConnectError::new("bad token").with_data(json!({ "code": 7 }))),
            None => Err(ConnectError::new("no token")),
        }
    });
    let mut client = ground.server.client(kind).await;
    client.send("40/guarded,").await;
    client.expect(r#"44/guarded,{"message":"no token"}"#).await;
    client.send(r#"40/guarded,{"token":"bad"}"#).await;
    client.expect(r#"44/guarded,{"message":"bad token","data":{"code":7}}"#).await;
    client.send(r#"40/guarded,{"token":"good"}"#).await;
    client.joined("/guarded").await;
    ground.server.until_metric("sockets", 1).await;
}

/// A namespace `/slow` whose middleware waits for a permit, and how often it let somebody in.
fn slow_door(server: &TestServer) -> (Arc<Semaphore>, Arc<AtomicUsize>) {
    let (door, entered) = (Arc::new(Semaphore::new(0)), Arc::new(AtomicUsize::new(0)));
    let namespace = server.server.of("/slow");
    let waiting = door.clone();
    namespace.middleware(move |_, _| {
        let waiting = waiting.clone();
        async move {
            waiting.acquire().await.unwrap().forget();
            Ok::<_, ConnectError>(())
        }
    });
    let count = entered.clone();
    namespace.on_connect(move |_| {
        count.fetch_add(1, Ordering::Relaxed);
        async {}
    });
    (door, entered)
}

async fn an_overtaken_attempt_to_join_does_not_count(kind: TransportKind) {
    let ground = Ground::start(config()).await;
    let (door, entered) = slow_door(&ground.server);
    let mut client = ground.joined(kind).await;
    // a client that gave up waiting asks once more
    client.send(r#"40/slow,{"n":1}"#).await;
    client.send(r#"40/slow,{"n":2}"#).await;
    client.send(r#"421["message-with-ack"]"#).await;
    client.expect("431[]").await;
    door.add_permits(2);
    client.joined("/slow").await;
    client.send(r#"422["message-with-ack"]"#).await;
    client.expect("432[]").await;
    ground.server.until_metric("sockets", 2).await;
    assert_eq!(entered.load(Ordering::Relaxed), 1);
    let inside = ground.server.server.of("/slow").local_sockets();
    assert_eq!(inside.len(), 1);
    assert_eq!(inside[0].auth(), &json!({ "n": 2 }));
}

async fn packets_for_a_namespace_that_is_being_joined_close_the_connection(kind: TransportKind) {
    let mut ground = Ground::start(config()).await;
    let (door, entered) = slow_door(&ground.server);
    for packet in [r#"42/slow,["a"]"#, "41/slow,", "43/slow,1[]"] {
        let mut client = ground.joined(kind).await;
        client.send("40/slow,").await;
        client.send(packet).await;
        client.ends_properly(1000).await;
        let end = ("/".to_owned(), CloseReason::ForcedClose);
        assert_eq!(ground.next_end().await, end, "{packet}");
    }
    door.add_permits(3);
    ground.server.until_metric("sockets", 0).await;
    assert_eq!(entered.load(Ordering::Relaxed), 0);
}

async fn a_client_that_is_gone_joins_nothing(kind: TransportKind) {
    let ground = Ground::start(config()).await;
    let (door, entered) = slow_door(&ground.server);
    let mut client = ground.joined(kind).await;
    client.send("40/slow,").await;
    client.send("1").await;
    let closed = r#"sessions_closed_total{reason="transport_close"}"#;
    ground.server.until_metric(closed, 1).await;
    door.add_permits(1);
    // the door lets the next one in only when the first has passed it
    let mut next = ground.joined(kind).await;
    next.send("40/slow,").await;
    door.add_permits(1);
    next.joined("/slow").await;
    let inside = ground.server.server.of("/slow").local_sockets();
    assert_eq!((inside.len(), entered.load(Ordering::Relaxed)), (1, 1));
    ground.server.until_metric("sockets", 2).await;
}

async fn the_limit_of_namespaces_is_exact(kind: TransportKind) {
    let ground = Ground::start(config()).await;
    let server = &ground.server.server;
    server.of_dynamic(|name, _| async move { name.starts_with("/room-") });
    let limit = Config::default().socketio.max_namespaces;
    assert_eq!(limit, 64);
    let mut client = ground.server.client(kind).await;
    // refused ones do not count
    for n in 0..3 {
        client.send(&format!("40/nowhere-{n}")).await;
        assert!(client.recv_text().await.starts_with("44/nowhere-"));
    }
    for n in 0..limit {
        client.join(&format!("/room-{n}")).await;
    }
    // one that was left makes room for another
    client.send("41/room-0,").await;
    client.join("/room-x").await;
    client.send("40/room-y,").await;
    client.ends_properly(1000).await;
    let broken = r#"peer_misbehaved_total{rule="too_many_namespaces"}"#;
    assert_eq!(ground.server.metric(broken), 1);
    ground.server.until_metric("sockets", 0).await;
}

async fn send_all(client: &mut Client, packets: &str) {
    for packet in packets.split('|') {
        match packet.strip_prefix('<').and_then(|len| len.strip_suffix('>')) {
            Some(len) => {
                let len: usize = len.parse().unwrap();
                client.send_binary(&vec![len as u8; len]).await;
            }
            None => client.send(packet).await,
        }
    }
}

// --- the msgpack parser, whose packets are binary on every transport

async fn packets_of_the_msgpack_parser_are_read_and_written(kind: TransportKind) {
    let mut config = config();
    config.socketio.parser = quicket::config::Parser::MsgPack;
    let ground = Ground::start(config).await;
    let mut client = ground.server.client(kind).await;
    // {type: 0, nsp: "/custom"}
    client.send_binary(b"\x82\xa4type\x00\xa3nsp\xa7/custom").await;
    let Received::Binary(connected) = client.recv().await else { panic!("no CONNECT") };
    // {type: 0, data: {sid: <20 characters>, pid: undefined}, nsp: "/custom"}, as notepack writes it
    let head = b"\x83\xa4type\x00\xa4data\x82\xa3sid\xb4";
    let tail = b"\xa3pid\xd4\x00\x00\xa3nsp\xa7/custom";
    assert!(connected.starts_with(head), "{connected:x?}");
    assert_eq!(&connected[head.len() + 20..], tail);
    let auth = b"\x83\xa4type\x02\xa4data\x92\xa4auth\x80\xa3nsp\xa7/custom";
    client.expect_binary(auth).await;
    // {type: 2, data: ["message-with-ack", <binary 1, 2>], id: 7, nsp: "/custom"}
    let event = b"\x84\xa4type\x02\xa4data\x92\xb0message-with-ack\xc4\x02\x01\x02\xa2id\x07\xa3nsp\xa7/custom";
    client.send_binary(event).await;
    let Received::Binary(answer) = client.recv().await else { panic!("no ACK") };
    let ack = b"\x84\xa4type\x03\xa4data\x91\xc4\x02\x01\x02\xa3nsp\xa7/custom\xa2id\x07";
    let also = b"\x84\xa4type\x03\xa4data\x91\xc4\x02\x01\x02\xa2id\x07\xa3nsp\xa7/custom";
    assert!(answer == ack || answer == also, "{answer:x?}");
    // text is no packet of this parser
    client.send(r#"42["message"]"#).await;
    let (_, end) = client.end().await;
    assert!(matches!(end, End::Packet | End::Code(_)), "{end:?}");
}
