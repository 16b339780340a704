//! Sessions go on, seen at the wire: over every transport, and only where they may. (The cases of the field
//! run with the official client, `tests/interop/recovery.test.mjs`; it has no WebTransport outside browsers.)

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use quicket::config::{Config, EngineConfig, RecoveryConfig, SocketIoConfig};
use quicket::{CloseReason, Socket, TransportKind};
use serde_json::{Value, json};

use crate::nodes::{Nodes, on_one_and_two_nodes};
use crate::redis::{Redis, Reply};
use crate::support::socketio::{Client, End, TestServer, config};

on_one_and_two_nodes! { with recovering:
    a_session_goes_on_over_every_transport,
    a_private_id_is_good_for_its_own_namespace_only,
    a_session_that_was_ended_on_purpose_stays_ended,
    one_namespace_that_goes_on_elsewhere_takes_its_neighbours_along,
    an_attempt_that_is_refused_leaves_the_session_as_it_was,
    namespaces_that_miss_too_much_together_do_not_end_their_connection,
    rooms_of_before_and_of_the_door_keep_the_limit_together,
    what_was_emitted_before_a_disconnect_comes_before_it,
    nobody_evades_a_disconnect_that_waits,
}

const MAX_ROOMS: usize = 3;

/// One node or two, with sessions that can go on.
async fn recovering(count: usize) -> Nodes {
    let change = |config: &mut Config| {
        let recovery =
            RecoveryConfig { window: Duration::from_secs(60), ..RecoveryConfig::default() };
        config.socketio =
            SocketIoConfig { recovery, max_rooms: MAX_ROOMS, ..SocketIoConfig::default() };
    };
    match count {
        1 => {
            let mut config = config();
            change(&mut config);
            Nodes::of(TestServer::start(config, |_| {}).await)
        }
        _ => Nodes::on(Redis::start().await, change).await,
    }
}

/// What a client keeps of a session.
#[derive(Clone, Debug)]
struct Kept {
    sid: String,
    pid: String,
    offset: Option<String>,
}

impl Kept {
    /// CONNECT's answer.
    fn of(answer: &str, nsp: &str) -> Self {
        let data = answer.strip_prefix(&packet('0', nsp)).unwrap_or_else(|| panic!("{answer}"));
        let data: Value = serde_json::from_str(data).unwrap();
        let text = |key: &str| data[key].as_str().unwrap().to_owned();
        Self { sid: text("sid"), pid: text("pid"), offset: None }
    }

    fn auth(&self) -> Value {
        json!({ "pid": self.pid, "offset": self.offset })
    }

    /// The next event, whose last argument is its offset.
    async fn event(&mut self, client: &mut Client) -> Value {
        let mut event = client.event().await;
        let offset = event.as_array_mut().unwrap().pop().unwrap();
        self.offset = Some(offset.as_str().unwrap().to_owned());
        event
    }
}

fn packet(kind: char, nsp: &str) -> String {
    match nsp {
        "/" => format!("4{kind}"),
        nsp => format!("4{kind}{nsp},"),
    }
}

async fn connect(client: &mut Client, nsp: &str, auth: Value) -> Kept {
    client.send(&format!("{}{auth}", packet('0', nsp))).await;
    Kept::of(&client.recv_text().await, nsp)
}

async fn a_session_goes_on_over_every_transport(nodes: Nodes) {
    let namespace = nodes.here().server.of("/");
    for from in TransportKind::ALL {
        for to in TransportKind::ALL {
            let mut before = nodes.there().client(from).await;
            let mut kept = connect(&mut before, "/", json!({})).await;
            nodes.there().socket("/", &kept.sid).await.join("kept");
            namespace.emit("seen", &1).await.unwrap();
            assert_eq!(kept.event(&mut before).await, json!(["seen", 1]), "{from}");
            // the server has not noticed that this one is gone, if it went without a word
            drop(before);
            namespace.to("kept").emit("missed", &2).await.unwrap();
            namespace.to("other").emit("foreign", &3).await.unwrap();
            let mut after = nodes.here().client(to).await;
            let back = connect(&mut after, "/", kept.auth()).await;
            assert_eq!((&back.sid, &back.pid), (&kept.sid, &kept.pid), "{from} to {to}");
            namespace.emit("next", &4).await.unwrap();
            assert_eq!(kept.event(&mut after).await, json!(["missed", 2]), "{from} to {to}");
            assert_eq!(kept.event(&mut after).await, json!(["next", 4]), "{from} to {to}");
        }
    }
    // a socket takes part before that is counted
    nodes.here().until_metric("recoveries_total", 9).await;
}

async fn a_private_id_is_good_for_its_own_namespace_only(nodes: Nodes) {
    for node in [nodes.here(), nodes.there()] {
        node.server.of("/other");
    }
    let mut client = nodes.there().client(TransportKind::WebSocket).await;
    let kept = connect(&mut client, "/", json!({})).await;
    let mut thief = nodes.here().client(TransportKind::WebSocket).await;
    let other = connect(&mut thief, "/other", kept.auth()).await;
    assert_ne!(other.sid, kept.sid);
    assert_ne!(other.pid, kept.pid);
    // and the session is where it was
    nodes.here().server.of("/").emit("still", &()).await.unwrap();
    assert_eq!(client.event().await[0], "still");
    drop(client);
    let mut client = nodes.here().client(TransportKind::WebSocket).await;
    assert_eq!(connect(&mut client, "/", kept.auth()).await.sid, kept.sid);
}

async fn a_session_that_was_ended_on_purpose_stays_ended(nodes: Nodes) {
    let is_one = nodes.here().address == nodes.there().address;
    // those who came afterwards stay, so that it is known who is counted
    let mut stay = Vec::new();
    // by the client, and by the server
    for by_client in [true, false] {
        let others = if is_one { stay.len() as i64 } else { 0 };
        let mut client = nodes.there().client(TransportKind::WebSocket).await;
        let kept = connect(&mut client, "/", json!({})).await;
        let socket = nodes.there().socket("/", &kept.sid).await;
        nodes.there().until_metric("sockets", others + 1).await;
        // a change that is about to be stored does not bring it back
        socket.join("late");
        match by_client {
            true => client.send("41").await,
            false => socket.disconnect(false),
        }
        // the last that is done about a socket
        nodes.there().until_metric("sockets", others).await;
        let mut again = nodes.here().client(TransportKind::WebSocket).await;
        let back = connect(&mut again, "/", kept.auth()).await;
        assert_ne!(back.sid, kept.sid, "by the client: {by_client}");
        stay.push(again);
    }
    let refused = nodes.here().metric(r#"recoveries_refused_total{reason="unknown_session"}"#);
    assert_eq!(refused, 2);
}

async fn one_namespace_that_goes_on_elsewhere_takes_its_neighbours_along(nodes: Nodes) {
    for node in [nodes.here(), nodes.there()] {
        node.server.of("/other");
    }
    let mut old = nodes.there().client(TransportKind::WebSocket).await;
    let main = connect(&mut old, "/", json!({})).await;
    let other = connect(&mut old, "/other", json!({})).await;
    let mut new = nodes.here().client(TransportKind::WebSocket).await;
    assert_eq!(connect(&mut new, "/", main.auth()).await.sid, main.sid);
    // nobody is at the other end of the old connection any more
    let (_, end) = old.end().await;
    assert!(matches!(end, End::Code(_)), "{end:?}");
    nodes.here().server.of("/other").emit("missed", &()).await.unwrap();
    assert_eq!(connect(&mut new, "/other", other.auth()).await.sid, other.sid);
    assert!(new.recv_text().await.starts_with(r#"42/other,["missed","#));
    let superseded = CloseReason::Superseded.label();
    let series = format!("sessions_closed_total{{reason=\"{superseded}\"}}");
    nodes.there().until_metric(&series, 1).await;
}

async fn an_attempt_that_is_refused_leaves_the_session_as_it_was(nodes: Nodes) {
    for node in [nodes.here(), nodes.there()] {
        node.server.of("/").middleware(|socket, auth: quicket::Auth| async move {
            let auth: Value = auth.decode().unwrap_or_default();
            socket.set_identity(auth["user"].as_str().unwrap_or("anna"));
            match auth["refuse"].as_bool() {
                Some(true) => Err(quicket::ConnectError::new("no")),
                _ => Ok(()),
            }
        });
    }
    let mut client = nodes.there().client(TransportKind::WebSocket).await;
    let mut kept = connect(&mut client, "/", json!({})).await;
    nodes.here().server.of("/").emit("seen", &()).await.unwrap();
    kept.event(&mut client).await;
    let mut auth = kept.auth();
    auth["user"] = "mallory".into();
    let mut thief = nodes.here().client(TransportKind::WebSocket).await;
    assert_ne!(connect(&mut thief, "/", auth).await.sid, kept.sid);
    let mut auth = kept.auth();
    auth["refuse"] = true.into();
    let mut refused = nodes.here().client(TransportKind::WebSocket).await;
    refused.send(&format!("40{auth}")).await;
    refused.expect(r#"44{"message":"no"}"#).await;
    // its owner is connected all the time, and misses nothing
    nodes.here().server.of("/").emit("on", &()).await.unwrap();
    assert_eq!(kept.event(&mut client).await, json!(["on"]));
    drop(client);
    let mut client = nodes.here().client(TransportKind::WebSocket).await;
    assert_eq!(connect(&mut client, "/", kept.auth()).await.sid, kept.sid);
}

async fn namespaces_that_miss_too_much_together_do_not_end_their_connection(nodes: Nodes) {
    const NAMESPACES: [&str; 3] = ["/a", "/b", "/c"];
    // each may bring so much, and two of them fit into the outbox
    let bytes = RecoveryConfig::default().max_bytes * 3 / 4;
    let outbox = EngineConfig::default().outbox_bytes;
    assert!(2 * bytes < outbox && 3 * bytes > outbox);
    let mut old = nodes.there().client(TransportKind::WebSocket).await;
    let mut kept = Vec::new();
    for nsp in NAMESPACES {
        for node in [nodes.here(), nodes.there()] {
            node.server.of(nsp);
        }
        kept.push(connect(&mut old, nsp, json!({})).await);
    }
    drop(old);
    let text = "x".repeat(bytes / 4);
    for nsp in NAMESPACES {
        for _ in 0..4 {
            nodes.here().server.of(nsp).emit("missed", &text).await.unwrap();
        }
    }
    // nothing leaves the outbox before it polls
    let mut new = nodes.here().client(TransportKind::Polling).await;
    for (nsp, kept) in NAMESPACES.iter().zip(&kept) {
        new.send(&format!("{}{}", packet('0', nsp), kept.auth())).await;
    }
    nodes.here().until_metric("recoveries_total", 2).await;
    let refused = r#"recoveries_refused_total{reason="too_much_missed"}"#;
    nodes.here().until_metric(refused, 1).await;
    let (mut went_on, mut began) = (0, 0);
    while went_on + began < NAMESPACES.len() {
        let answer = new.recv_text().await;
        let is_of = |nsp: &&str| answer.starts_with(&packet('0', nsp));
        let Some(at) = NAMESPACES.iter().position(is_of) else { continue };
        match Kept::of(&answer, NAMESPACES[at]).sid == kept[at].sid {
            true => went_on += 1,
            false => began += 1,
        }
    }
    assert_eq!((went_on, began), (2, 1));
}

async fn rooms_of_before_and_of_the_door_keep_the_limit_together(nodes: Nodes) {
    for node in [nodes.here(), nodes.there()] {
        node.server.of("/").middleware(|socket, auth: quicket::Auth| async move {
            let auth: Value = auth.decode().unwrap_or_default();
            let rooms = auth["rooms"].as_array().into_iter().flatten();
            for room in rooms.filter_map(Value::as_str) {
                socket.join(room);
            }
            Ok::<(), quicket::ConnectError>(())
        });
    }
    let mut old = nodes.there().client(TransportKind::WebSocket).await;
    let kept = connect(&mut old, "/", json!({ "rooms": ["a", "b"] })).await;
    drop(old);
    let mut auth = kept.auth();
    auth["rooms"] = json!(["b", "c", "d"]);
    let mut new = nodes.here().client(TransportKind::WebSocket).await;
    assert_eq!(connect(&mut new, "/", auth).await.sid, kept.sid);
    assert_eq!(rooms_of(nodes.here(), &kept).await, ["a", "b", "c"]);
    assert_eq!(nodes.here().metric(r#"limits_hit_total{limit="rooms"}"#), 1);
    // and it is so where it goes on next
    drop(new);
    let mut last = nodes.there().client(TransportKind::WebSocket).await;
    assert_eq!(connect(&mut last, "/", kept.auth()).await.sid, kept.sid);
    assert_eq!(rooms_of(nodes.there(), &kept).await, ["a", "b", "c"]);
}

async fn rooms_of(node: &TestServer, kept: &Kept) -> Vec<String> {
    let rooms = node.socket("/", &kept.sid).await.rooms();
    let mut rooms: Vec<_> = rooms.iter().skip(1).map(ToString::to_string).collect();
    rooms.sort();
    rooms
}

async fn what_was_emitted_before_a_disconnect_comes_before_it(nodes: Nodes) {
    for close in [false, true] {
        let mut client = nodes.there().client(TransportKind::WebSocket).await;
        let mut kept = connect(&mut client, "/", json!({})).await;
        let socket = nodes.there().socket("/", &kept.sid).await;
        for number in 0..5 {
            socket.emit("why", &number).await.unwrap();
        }
        socket.disconnect(close);
        for number in 0..5 {
            assert_eq!(kept.event(&mut client).await, json!(["why", number]), "close: {close}");
        }
        assert_eq!(client.recv_text().await, "41");
    }
}

async fn nobody_evades_a_disconnect_that_waits(mut nodes: Nodes) {
    let mut client = nodes.there().client(TransportKind::WebSocket).await;
    let kept = connect(&mut client, "/", json!({})).await;
    let socket = nodes.there().socket("/", &kept.sid).await;
    let heard = Arc::new(AtomicBool::new(false));
    let late = heard.clone();
    socket.on("late", move |_: Socket, (): ()| {
        late.store(true, Ordering::Relaxed);
        async {}
    });
    if nodes.redis.is_some() {
        // what is on its way stays there
        nodes.redis().call(&["CLIENT", "PAUSE", "400", "WRITE"]).await;
    }
    socket.emit("why", &()).await.unwrap();
    socket.disconnect(true);
    client.send(r#"42["late"]"#).await;
    drop(client);
    let mut client = nodes.there().client(TransportKind::WebSocket).await;
    assert_ne!(connect(&mut client, "/", kept.auth()).await.sid, kept.sid);
    assert!(!heard.load(Ordering::Relaxed));
}

/// Two clusters that share a Redis: with a prefix each, a session is of one of them.
#[tokio::test(flavor = "multi_thread")]
async fn sessions_are_of_those_who_share_their_prefix() {
    let redis = Redis::start().await;
    let start = async |name: &str| {
        let mut config = config();
        config.socketio.recovery.window = Duration::from_secs(60);
        config.redis.url = Some(redis.url());
        config.redis.stream_name = name.to_owned();
        config.redis.channel_prefix = name.to_owned();
        config.redis.session_prefix = format!("{name}:session:");
        TestServer::start(config, |_| {}).await
    };
    let [first, other, second] = [start("one").await, start("two").await, start("one").await];
    let mut client = first.client(TransportKind::WebSocket).await;
    let kept = connect(&mut client, "/", json!({})).await;
    drop(client);
    first.until_metric("sockets", 0).await;
    let mut client = other.client(TransportKind::WebSocket).await;
    assert_ne!(connect(&mut client, "/", kept.auth()).await.sid, kept.sid);
    let mut client = second.client(TransportKind::WebSocket).await;
    assert_eq!(connect(&mut client, "/", kept.auth()).await.sid, kept.sid);
    let key = format!("one:session:{}", kept.pid);
    assert_eq!(redis.call(&["EXISTS", &key]).await, Reply::Integer(1));
}
