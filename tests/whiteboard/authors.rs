//! Who may erase what.

use quicket::TransportKind::WebSocket;
use serde_json::{Value, json};

use super::support::socketio::Client;
use super::{Node, Person, names};

/// Somebody who has connected with this, the id that the room sees, and the author's name.
async fn connect(node: &Node, auth: Value) -> (Person, String, Value) {
    let mut client = Client::open(node.address, WebSocket).await;
    client.send(&format!("40{auth}")).await;
    let connected = client.recv_text().await;
    let connected: Value = serde_json::from_str(connected.strip_prefix("40").unwrap()).unwrap();
    let id = connected["sid"].as_str().unwrap().to_owned();
    let mut person = Person { client, welcome: Value::Null, acks: 0 };
    let author = person.until("author").await;
    (person, id, author)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_id_of_who_has_no_key_is_nobodys_key() {
    let node = Node::start_with(&[]).await;
    let (mut anna, id, author) = connect(&node, json!({ "board": "b" })).await;
    anna.draw("1", 0, &[1, 2]).await;
    let (mut ben, _, other) = connect(&node, json!({ "board": "b", "key": id })).await;
    assert_ne!(author, other);
    ben.erase(&["1"]).await;
    assert_eq!(names(&node.shows("b").await), [("1".to_owned(), 2)]);
    // her own id is enough for herself
    anna.erase(&["1"]).await;
    node.until_shows("b", &[]).await;
}
