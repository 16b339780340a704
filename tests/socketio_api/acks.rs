//! Acknowledgements in both directions.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Duration;

use quicket::TransportKind::WebSocket;
use quicket::{Ack, AckError, Answers, EmitError, Socket};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::support::socketio::{Client, TestServer, config};
use crate::support::{eventually, within};

/// The next event of the client and the id that its acknowledgement must have.
async fn question(client: &mut Client) -> (String, Value) {
    let packet = client.recv_text().await;
    let rest = packet.strip_prefix("42").unwrap();
    let (id, event) = rest.split_at(rest.find('[').unwrap());
    (id.to_owned(), serde_json::from_str(event).unwrap())
}

#[tokio::test]
async fn an_acknowledgement_comes_back_as_the_wanted_type() {
    let server = TestServer::start(config(), |_| {}).await;
    let (mut client, socket) = server.joined(WebSocket).await;
    let asking = tokio::spawn({
        let socket = socket.clone();
        async move { socket.emit_with_ack::<_, (u8, String)>("ask", &(1, "two")).await }
    });
    let (id, event) = question(&mut client).await;
    assert_eq!(event, json!(["ask", 1, "two"]));
    // answers that nobody waits for are no mistake
    client.send("43999999[0]").await;
    client.send(&format!(r#"43{id}[7,"seven"]"#)).await;
    client.send(&format!(r#"43{id}[8,"eight"]"#)).await;
    assert_eq!(asking.await.unwrap().unwrap(), (7, "seven".to_owned()));
    let asking = tokio::spawn(async move { socket.emit_with_ack::<_, u8>("ask", &()).await });
    let (id, _) = question(&mut client).await;
    client.send(&format!(r#"43{id}["no number"]"#)).await;
    assert!(matches!(asking.await.unwrap(), Err(AckError::Decode(_))));
}

#[tokio::test]
async fn an_acknowledgement_that_does_not_come_is_a_timeout_or_the_disconnect() {
    let server = TestServer::start(config(), |_| {}).await;
    let (mut client, socket) = server.joined(WebSocket).await;
    let short = socket.timeout(Duration::from_millis(20));
    let answer = short.emit_with_ack::<_, u8>("ask", &()).await;
    assert!(matches!(answer, Err(AckError::Timeout)), "{answer:?}");
    // the late answer harms nobody
    let (id, _) = question(&mut client).await;
    client.send(&format!("43{id}[1]")).await;
    for leave in ["41", "1"] {
        let asking = tokio::spawn({
            let socket = socket.clone();
            async move { socket.emit_with_ack::<_, u8>("ask", &()).await }
        });
        if leave == "41" {
            question(&mut client).await;
        }
        client.send(leave).await;
        let answer = asking.await.unwrap();
        let gone =
            matches!(answer, Err(AckError::Disconnected | AckError::Emit(EmitError::Disconnected)));
        assert!(gone, "{answer:?}");
    }
}

/// Polls once.
async fn is_pending<F: Future>(mut future: Pin<&mut F>) -> bool {
    poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx).is_pending())).await
}

#[tokio::test]
async fn the_number_of_pending_acknowledgements_is_bounded_and_nothing_leaks() {
    let mut config = config();
    config.socketio.max_pending_acks = 3;
    let server = TestServer::start(config, |_| {}).await;
    let (mut client, socket) = server.joined(WebSocket).await;
    let ask = |n: u8| {
        let socket = socket.clone();
        async move { socket.emit_with_ack::<_, u8>("ask", &n).await }
    };
    let mut first = Box::pin(ask(1));
    let (mut second, mut third) = (pin!(ask(2)), pin!(ask(3)));
    assert!(is_pending(first.as_mut()).await);
    assert!(is_pending(second.as_mut()).await);
    assert!(is_pending(third.as_mut()).await);
    // one over the limit is refused, and not sent
    let over = ask(4).await;
    assert!(matches!(over, Err(AckError::Emit(EmitError::OutboxFull))), "{over:?}");
    assert_eq!(server.metric(r#"limits_hit_total{limit="pending_acks"}"#), 1);
    // a future that is dropped waits for nothing any more
    drop(first);
    let mut fourth = pin!(ask(5));
    assert!(is_pending(fourth.as_mut()).await);
    assert!(ask(6).await.is_err());
    // nor does one that ran out of time
    for _ in 0..4 {
        let (id, event) = question(&mut client).await;
        if event[1] == 2 {
            client.send(&format!("43{id}[20]")).await;
        }
    }
    assert_eq!(within("the answer", second).await.unwrap(), 20);
    for _ in 0..10 {
        let short = socket.timeout(Duration::from_millis(1));
        let answer = short.emit_with_ack::<_, u8>("ask", &()).await;
        assert!(matches!(answer, Err(AckError::Timeout)), "{answer:?}");
    }
    // broadcasts count, too: a socket that owes too much is not asked
    let mut fifth = pin!(ask(7));
    assert!(is_pending(fifth.as_mut()).await);
    let all = server.server.of("/").timeout(Duration::from_secs(20));
    let answers: Answers<u8> = within("no answers", all.emit_with_ack("all", &())).await;
    assert_eq!((answers.received.len(), answers.missing), (0, 0));
}

#[tokio::test]
async fn the_answers_to_a_broadcast_are_partial_on_timeout() {
    let server = TestServer::start(config(), |_| {}).await;
    let mut clients = Vec::new();
    for _ in 0..3 {
        clients.push(server.joined(WebSocket).await.0);
    }
    let namespace = server.server.of("/");
    let ask = {
        let all = namespace.timeout(Duration::from_millis(1_500));
        tokio::spawn(async move { all.emit_with_ack::<_, u32>("ask", "?").await })
    };
    for (n, client) in clients.iter_mut().enumerate() {
        let (id, event) = question(client).await;
        assert_eq!(event, json!(["ask", "?"]));
        if n > 0 {
            client.send(&format!("43{id}[{n}]")).await;
        }
    }
    let mut answers = ask.await.unwrap();
    answers.received.sort_unstable();
    assert_eq!(answers.received, [1, 2]);
    assert_eq!(answers.missing, 1);
    assert!(matches!(answers.into_complete(), Err(AckError::Timeout)));
}

#[tokio::test]
async fn a_receiver_that_goes_owes_no_answer() {
    let server = TestServer::start(config(), |_| {}).await;
    let (mut stays, _socket) = server.joined(WebSocket).await;
    let (mut goes, _socket) = server.joined(WebSocket).await;
    let namespace = server.server.of("/");
    let ask = tokio::spawn(async move { namespace.emit_with_ack::<_, u32>("ask", &()).await });
    let (id, _) = question(&mut stays).await;
    stays.send(&format!("43{id}[1]")).await;
    question(&mut goes).await;
    goes.send("41").await;
    let answers = within("the answers", ask).await.unwrap();
    assert_eq!(answers.unwrap(), [1]);
}

#[tokio::test]
async fn an_answer_may_be_given_later_or_not_at_all() {
    let server = TestServer::start(config(), |_| {}).await;
    let (mut client, socket) = server.joined(WebSocket).await;
    let (sender, mut asked) = mpsc::unbounded_channel::<Ack>();
    socket.on("ask", move |_: Socket, (): (), ack: Ack| {
        sender.send(ack).unwrap();
        async {}
    });
    client.send(r#"421["ask"]"#).await;
    client.send(r#"422["ask"]"#).await;
    client.send(r#"42["ask"]"#).await;
    let first = within("the first", asked.recv()).await.unwrap();
    let second = within("the second", asked.recv()).await.unwrap();
    let third = within("the third", asked.recv()).await.unwrap();
    assert!(first.is_wanted() && second.is_wanted() && !third.is_wanted());
    third.send(&3).unwrap();
    second.send(&(2, "two")).unwrap();
    client.expect(r#"432[2,"two"]"#).await;
    client.send("1").await;
    eventually("the disconnect", || !socket.is_connected()).await;
    assert!(matches!(first.send(&1), Err(EmitError::Disconnected)));
}

/// Ids are the client's affair: nothing is kept of one, so using it again costs nobody anything.
#[tokio::test]
async fn an_id_that_a_client_uses_again_is_answered_each_time() {
    let server = TestServer::start(config(), |_| {}).await;
    let (mut client, socket) = server.joined(WebSocket).await;
    let (sender, mut asked) = mpsc::unbounded_channel::<Ack>();
    socket.on("ask", move |_: Socket, (): (), ack: Ack| {
        sender.send(ack).unwrap();
        async {}
    });
    for _ in 0..3 {
        client.send(r#"427["ask"]"#).await;
    }
    let mut acks = Vec::new();
    for _ in 0..3 {
        acks.push(within("the event", asked.recv()).await.unwrap());
    }
    for (answer, ack) in acks.into_iter().enumerate() {
        ack.send(&answer).unwrap();
        client.expect(&format!("437[{answer}]")).await;
    }
}
