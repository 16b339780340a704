//! What an application sees is the same on one node and across nodes.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use quicket::{AckError, Answers, Event, Socket};
use serde_json::{Value, json};

use crate::nodes::{Nodes, expect, joined, on_one_and_two_nodes};
use crate::requests::subscribers;
use crate::support::socketio::Client;
use crate::support::within;

on_one_and_two_nodes!(
    rooms_and_exceptions_choose_who_gets_an_event,
    sockets_are_put_into_rooms_and_taken_out,
    sockets_are_disconnected,
    sockets_are_fetched_with_what_is_known_of_them,
    a_fetched_socket_can_be_acted_on,
    everyone_answers_a_broadcast,
    a_broadcast_says_who_did_not_answer,
    who_disconnects_owes_a_broadcast_no_answer,
    binary_arrives_as_it_was_sent,
    a_local_broadcast_stays_on_its_node,
    servers_are_counted_in_each_namespace,
    namespaces_are_apart,
    who_follows_sees_what_is_broadcast_before_its_sockets_do,
);

async fn rooms_and_exceptions_choose_who_gets_an_event(nodes: Nodes) {
    let (mut one, a) = joined(nodes.here()).await;
    let (mut two, b) = joined(nodes.there()).await;
    let (mut three, c) = joined(nodes.there()).await;
    a.join(["x", "y"]);
    b.join("x");
    c.join("y");
    let all = nodes.here().server.of("/");
    all.to("x").emit("to x", &()).await.unwrap();
    all.to(["x", "y"]).emit("to x and y", &()).await.unwrap();
    all.to("x").except("y").emit("to x but not y", &()).await.unwrap();
    a.broadcast().emit("all but a", &()).await.unwrap();
    all.to(c.id()).emit("to c", &()).await.unwrap();
    all.except([a.id(), b.id()]).emit("only c", &()).await.unwrap();
    all.to("nobody").emit("to nobody", &()).await.unwrap();
    all.emit("end", &(1, "two", [3])).await.unwrap();
    let end = json!(["end", 1, "two", [3]]);
    expect(&mut one, &[json!(["to x"]), json!(["to x and y"]), end.clone()]).await;
    let to_two = ["to x", "to x and y", "to x but not y", "all but a"].map(|name| json!([name]));
    expect(&mut two, &to_two).await;
    expect(&mut two, std::slice::from_ref(&end)).await;
    let to_three = ["to x and y", "all but a", "to c", "only c"].map(|name| json!([name]));
    expect(&mut three, &to_three).await;
    expect(&mut three, &[end]).await;
}

async fn sockets_are_put_into_rooms_and_taken_out(nodes: Nodes) {
    let (mut one, _a) = joined(nodes.here()).await;
    let (mut two, b) = joined(nodes.there()).await;
    let all = nodes.here().server.of("/");
    all.sockets_join(["everyone", "all"]).unwrap();
    all.to(b.id()).sockets_join("special").unwrap();
    all.to("special").emit("special", &()).await.unwrap();
    all.to("everyone").except("special").emit("not special", &()).await.unwrap();
    all.to("special").sockets_leave(["everyone", "nothing"]).unwrap();
    all.to("everyone").emit("everyone", &()).await.unwrap();
    all.to("all").emit("all", &()).await.unwrap();
    expect(&mut one, &[json!(["not special"]), json!(["everyone"]), json!(["all"])]).await;
    expect(&mut two, &[json!(["special"]), json!(["all"])]).await;
    assert!(b.rooms().iter().any(|room| *room == "special"));
    assert!(!b.rooms().iter().any(|room| *room == "everyone"));
}

async fn sockets_are_disconnected(nodes: Nodes) {
    let (mut one, _a) = joined(nodes.here()).await;
    let (mut two, b) = joined(nodes.there()).await;
    let (mut three, c) = joined(nodes.there()).await;
    b.join("leaving");
    c.join("closing");
    let all = nodes.here().server.of("/");
    all.to("leaving").disconnect_sockets(false).unwrap();
    all.to("closing").disconnect_sockets(true).unwrap();
    all.emit("still here", &()).await.unwrap();
    two.expect("41").await;
    three.ends_properly(1000).await;
    expect(&mut one, &[json!(["still here"])]).await;
    // its connection stays: it may join again
    two.join("/").await;
}

async fn sockets_are_fetched_with_what_is_known_of_them(nodes: Nodes) {
    let (_one, a) = joined(nodes.here()).await;
    let mut two = nodes.there().client(quicket::TransportKind::WebSocket).await;
    two.send(r#"40{"token":"t","deep":{"n":[1,null]}}"#).await;
    let id = two.joined("/").await;
    let b = nodes.there().socket("/", &id).await;
    b.join("guests");
    b.set_data(json!({ "name": "b", "n": 1.5, "list": [true, null] })).unwrap();
    let all = nodes.here().server.of("/");
    let everyone = all.fetch_sockets().await;
    assert!(everyone.complete);
    let mut ids: Vec<_> = everyone.sockets.iter().map(|socket| socket.id().to_owned()).collect();
    ids.sort();
    let mut expected = [a.id().to_owned(), id.clone()];
    expected.sort();
    assert_eq!(ids, expected);
    let guests = all.to("guests").fetch_sockets().await;
    assert!(guests.complete);
    let [guest] = guests.sockets.as_slice() else { panic!("{guests:?}") };
    assert_eq!(guest.id(), id);
    let mut rooms: Vec<_> = guest.rooms().iter().map(ToString::to_string).collect();
    rooms.retain(|room| *room != id);
    assert_eq!(rooms, ["guests"]);
    let data: Value = guest.data().unwrap();
    assert_eq!(data, json!({ "name": "b", "n": 1.5, "list": [true, null] }));
    assert_eq!(guest.handshake()["auth"], json!({ "token": "t", "deep": { "n": [1, null] } }));
    assert_eq!(guest.handshake()["query"]["EIO"], "4");
    assert_eq!(guest.handshake()["secure"], false);
    assert!(guest.handshake()["headers"]["host"].is_string());
    let nobody = all.to("guests").except("guests").fetch_sockets().await;
    assert!(nobody.complete && nobody.sockets.is_empty());
    let local = all.local().except(a.id()).fetch_sockets().await;
    assert!(local.complete);
}

async fn a_fetched_socket_can_be_acted_on(nodes: Nodes) {
    let (mut two, b) = joined(nodes.there()).await;
    b.join("old");
    let fetched = nodes.here().server.of("/").to("old").fetch_sockets().await;
    let remote = &fetched.sockets[0];
    remote.join("new").unwrap();
    remote.leave("old").unwrap();
    remote.emit("for you", &7).await.unwrap();
    expect(&mut two, &[json!(["for you", 7])]).await;
    let rooms = b.rooms();
    assert!(rooms.iter().any(|room| *room == "new") && !rooms.iter().any(|room| *room == "old"));
    remote.disconnect(false).unwrap();
    two.expect("41").await;
}

/// Answers the next event that wants an answer.
async fn answer(client: &mut Client, args: &str) -> Value {
    let packet = client.recv_text().await;
    let rest = packet.strip_prefix("42").unwrap();
    let (id, event) = rest.split_at(rest.find('[').unwrap());
    client.send(&format!("43{id}{args}")).await;
    serde_json::from_str(event).unwrap()
}

async fn everyone_answers_a_broadcast(nodes: Nodes) {
    let (mut one, _a) = joined(nodes.here()).await;
    let (mut two, _b) = joined(nodes.there()).await;
    let (mut three, _c) = joined(nodes.there()).await;
    let all = nodes.here().server.of("/");
    let asking = tokio::spawn(async move {
        let asked = all.timeout(Duration::from_secs(10));
        asked.emit_with_ack::<_, Value>("who", &"?").await
    });
    for (client, name) in [(&mut one, "1"), (&mut two, "2"), (&mut three, "3")] {
        assert_eq!(answer(client, &format!(r#"[{{"name":{name}}}]"#)).await, json!(["who", "?"]));
    }
    let answers = within("the answers", asking).await.unwrap();
    assert_eq!(answers.missing, 0);
    assert!(answers.error.is_none());
    let mut names: Vec<_> = answers.received.iter().map(|a| a["name"].as_i64().unwrap()).collect();
    names.sort_unstable();
    assert_eq!(names, [1, 2, 3]);
}

async fn a_broadcast_says_who_did_not_answer(nodes: Nodes) {
    let (mut one, _a) = joined(nodes.here()).await;
    let (_two, _b) = joined(nodes.there()).await;
    let all = nodes.here().server.of("/");
    let asking = tokio::spawn(async move {
        all.timeout(Duration::from_millis(1_500)).emit_with_ack::<_, u8>("who", &()).await
    });
    answer(&mut one, "[1]").await;
    let answers: Answers<u8> = within("the answers", asking).await.unwrap();
    assert_eq!((answers.received, answers.missing), (vec![1], 1));
    assert!(matches!(answers.error, Some(AckError::Timeout)), "{:?}", answers.error);
    // nobody is there at all: no answers, at once
    let nowhere = nodes.here().server.of("/").to("nowhere");
    let answers: Answers<u8> = nowhere.emit_with_ack("who", &()).await;
    assert!(answers.error.is_none() && answers.received.is_empty());
}

async fn who_disconnects_owes_a_broadcast_no_answer(nodes: Nodes) {
    let (mut one, _a) = joined(nodes.here()).await;
    let (mut two, _b) = joined(nodes.there()).await;
    let (mut three, _c) = joined(nodes.there()).await;
    // nobody has set a time
    let all = nodes.here().server.of("/").except("nobody");
    let asking = tokio::spawn(async move { all.emit_with_ack::<_, u8>("who", &()).await });
    answer(&mut one, "[1]").await;
    answer(&mut two, "[1]").await;
    three.recv_text().await;
    three.send("41").await;
    let answers: Answers<u8> = within("the answers", asking).await.unwrap();
    assert_eq!((answers.received, answers.missing), (vec![1, 1], 1));
    assert!(answers.error.is_none(), "{:?}", answers.error);
}

async fn binary_arrives_as_it_was_sent(nodes: Nodes) {
    let (mut one, a) = joined(nodes.here()).await;
    let (mut two, b) = joined(nodes.there()).await;
    for socket in [&a, &b] {
        socket.on("say", |socket: Socket, event: Event| async move {
            let args = event.args().renamed(Some("said"))?;
            socket.broadcast().emit_args(&args).await
        });
    }
    let text =
        r#"452-["say",{"a":{"_placeholder":true,"num":0}},1.5,{"_placeholder":true,"num":1}]"#;
    one.send(text).await;
    one.send_binary(b"\x00\xffbytes").await;
    one.send_binary(b"").await;
    two.expect(&text.replace("say", "said")).await;
    two.expect_binary(b"\x00\xffbytes").await;
    two.expect_binary(b"").await;
    two.send(r#"451-["say",{"_placeholder":true,"num":0}]"#).await;
    two.send_binary(&[7; 100_000]).await;
    one.expect(r#"451-["said",{"_placeholder":true,"num":0}]"#).await;
    one.expect_binary(&[7; 100_000]).await;
    // and in answers
    let all = nodes.here().server.of("/");
    let ids = [b.id().to_owned()];
    let asking = tokio::spawn(async move {
        let asked = all.to(&ids[..]).timeout(Duration::from_secs(10));
        asked.emit_with_ack::<_, Bytes>("give", &Bytes::from_static(b"take")).await
    });
    let packet = two.recv_text().await;
    two.expect_binary(b"take").await;
    let id = packet.strip_prefix("451-").unwrap().split('[').next().unwrap().to_owned();
    two.send(&format!(r#"461-{id}[{{"_placeholder":true,"num":0}}]"#)).await;
    two.send_binary(b"given").await;
    let answers = within("the answers", asking).await.unwrap().into_complete().unwrap();
    assert_eq!(answers, [Bytes::from_static(b"given")]);
}

async fn a_local_broadcast_stays_on_its_node(nodes: Nodes) {
    let (mut two, b) = joined(nodes.there()).await;
    let (mut one, a) = joined(nodes.here()).await;
    nodes.here().server.of("/").local().emit("local", &()).await.unwrap();
    nodes.here().server.of("/").emit("end", &()).await.unwrap();
    expect(&mut one, &[json!(["local"]), json!(["end"])]).await;
    let same = nodes.there().server.of("/").local_socket(a.id()).is_some();
    if same {
        expect(&mut two, &[json!(["local"])]).await;
    }
    expect(&mut two, &[json!(["end"])]).await;
    assert!(b.is_connected());
}

async fn servers_are_counted_in_each_namespace(nodes: Nodes) {
    let here = &nodes.here().server;
    let same = nodes.here().address == nodes.there().address;
    assert_eq!(here.of("/").server_count().await, Some(if same { 1 } else { 2 }));
    assert_eq!(here.of("/only-here").server_count().await, Some(1));
}

async fn namespaces_are_apart(nodes: Nodes) {
    let (mut main, _socket) = joined(nodes.there()).await;
    nodes.here().server.of("/other");
    nodes.there().server.of("/other");
    let mut other = nodes.there().client(quicket::TransportKind::WebSocket).await;
    nodes.there().join(&mut other, "/other").await;
    nodes.here().server.of("/other").emit("other", &()).await.unwrap();
    nodes.here().server.of("/").emit("main", &()).await.unwrap();
    other.expect(r#"42/other,["other"]"#).await;
    main.expect(r#"42["main"]"#).await;
    if let Some(redis) = &nodes.redis {
        // a node is asked from when Redis has its subscription
        subscribers(redis, "socket.io#/other#", 2).await;
    }
    assert_eq!(nodes.here().server.of("/other").fetch_sockets().await.sockets.len(), 1);
}

async fn who_follows_sees_what_is_broadcast_before_its_sockets_do(nodes: Nodes) {
    let (mut client, socket) = joined(nodes.there()).await;
    socket.join("x");
    let seen = Arc::new(Mutex::new(Vec::new()));
    let keep = seen.clone();
    nodes.there().server.of("/").on_broadcast(move |delivery| {
        let n: u32 = delivery.args().decode().unwrap();
        keep.lock().unwrap().push((delivery.rooms().to_vec(), delivery.event().to_owned(), n));
    });
    // also what no socket there is meant by, and what its own socket says
    let here = nodes.here().server.of("/");
    here.to("nobody").emit("a", &1).await.unwrap();
    here.to(["x", "y"]).emit("b", &2).await.unwrap();
    let _ = client.event().await;
    socket.to("x").emit("c", &3).await.unwrap();
    // neither of these is a broadcast of the cluster
    nodes.there().server.of("/").local().emit("local", &4).await.unwrap();
    socket.emit("one", &5).await.unwrap();
    // by the node that has said `c`: between two nodes nobody knows who comes first
    nodes.there().server.of("/").emit("end", &6).await.unwrap();
    while client.event().await[0] != "end" {}
    let seen = seen.lock().unwrap();
    let seen: Vec<_> = seen
        .iter()
        .map(|(rooms, event, n)| {
            let rooms: Vec<&str> = rooms.iter().map(|room| room.as_str()).collect();
            (rooms.join(" "), event.as_str(), *n)
        })
        .collect();
    let expected = [("nobody", "a", 1), ("x y", "b", 2), ("x", "c", 3), ("", "end", 6)];
    assert_eq!(seen, expected.map(|(rooms, event, n)| (rooms.to_owned(), event, n)));
}
