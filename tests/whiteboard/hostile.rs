//! One client, or one address, is not to spoil it for the others.

use quicket::TransportKind::WebSocket;
use serde_json::json;

use super::Node;
use super::redis::{Redis, Reply};
use super::support::socketio::Client;

/// As in the product.
const MAX_OPENED: usize = 25;
const MAX_ARRIVALS: usize = 60;

async fn node() -> Node {
    // loopback is exempt by default
    Node::start_with(&[("PER_IP_EXEMPT", "off")]).await
}

/// Is the client welcome at that board? Otherwise it is put out of the namespace.
async fn is_welcome(client: &mut Client, board: &str) -> bool {
    client.send(&format!("40{}", json!({ "board": board, "key": "mallory" }))).await;
    loop {
        let packet = client.recv_text().await;
        if packet == "41" {
            return false;
        }
        if packet.starts_with(r#"42["board""#) {
            return true;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_address_has_so_many_boards_in_use_and_others_have_room() {
    let node = node().await;
    let mut clients = Vec::new();
    for at in 0..MAX_OPENED {
        let mut client = Client::open(node.address, WebSocket).await;
        assert!(is_welcome(&mut client, &format!("mine{at}")).await, "{at}");
        clients.push(client);
    }
    let mut one_more = Client::open(node.address, WebSocket).await;
    assert!(!is_welcome(&mut one_more, "one-more").await);
    // at a board that is open there is room, for the same client as well
    assert!(is_welcome(&mut one_more, "mine3").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_comes_again_and_again_is_put_out_until_later() {
    let node = node().await;
    let mut client = Client::open(node.address, WebSocket).await;
    let mut welcomes = 0;
    while is_welcome(&mut client, "b").await {
        welcomes += 1;
        client.send("41").await;
        assert!(welcomes < 1_000);
    }
    // (five a second come to it)
    assert!(welcomes >= MAX_ARRIVALS, "{welcomes}");
    // somebody else who has been there all the time has nothing of it, and whoever comes later is welcome
    let mut is_back = false;
    while !is_back {
        is_back = is_welcome(&mut client, "b").await;
    }
}

/// Others may not take what Redis has for boards by being pushed out and stored again, unseen.
#[tokio::test(flavor = "multi_thread")]
async fn a_board_that_made_room_for_others_counts_again_when_it_is_back() {
    let redis = Redis::start().await;
    let node = Node::start(&redis.url()).await;
    let mut anna = node.enter("b", "anna").await;
    anna.draw("1", 0, &[1, 2]).await;
    let list = "socket.io:whiteboard:boards";
    assert_eq!(redis.call(&["ZCARD", list]).await, Reply::Integer(1));
    // what a node does that needs the room
    redis.call(&["ZREM", list, "b"]).await;
    redis.call(&["DEL", "socket.io:whiteboard:{b}"]).await;
    anna.draw("2", 0, &[1, 2]).await;
    assert_eq!(redis.call(&["HLEN", "socket.io:whiteboard:{b}"]).await, Reply::Integer(3));
    assert_eq!(redis.call(&["ZCARD", list]).await, Reply::Integer(1));
}
