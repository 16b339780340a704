//! Tokens at the door: who shows none stays outside, and a session is its owner's.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use quicket::TransportKind::{self, Polling, WebSocket};
use quicket::config::{Config, JwtConfig, RecoveryConfig, SocketIoConfig};
use quicket::{Ack, CloseReason, Event, Jwt, Server, Socket};
use ring::hmac;
use serde_json::{Value, json};

use crate::support::on_every_transport;
use crate::support::socketio::{Client, TestServer, config};

on_every_transport!(
    who_shows_no_good_token_stays_outside,
    a_session_goes_on_for_its_owner_only,
    a_connection_ends_with_its_token_and_the_session_goes_on_with_the_next,
);

const SECRET: &str = "0123456789abcdef0123456789abcdef";

pub(super) fn in_millis(millis: u64) -> f64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    (now + Duration::from_millis(millis)).as_secs_f64()
}

pub(super) fn token(subject: &str, exp: f64) -> String {
    let part = |value: Value| BASE64.encode(value.to_string());
    let claims = json!({ "sub": subject, "exp": exp, "role": "painter" });
    let message = format!("{}.{}", part(json!({ "alg": "HS256" })), part(claims));
    let key = hmac::Key::new(hmac::HMAC_SHA256, SECRET.as_bytes());
    let signature = BASE64.encode(hmac::sign(&key, message.as_bytes()));
    format!("{message}.{signature}")
}

pub(super) fn good(subject: &str) -> String {
    token(subject, in_millis(60_000))
}

pub(super) fn jwt() -> JwtConfig {
    let leeway = Duration::ZERO;
    JwtConfig { secret: Some(SECRET.to_owned()), leeway, ..JwtConfig::default() }
}

fn asking() -> Config {
    Config { jwt: jwt(), ..config() }
}

fn recovering() -> Config {
    let recovery = RecoveryConfig { window: Duration::from_secs(60), ..RecoveryConfig::default() };
    Config { socketio: SocketIoConfig { recovery, ..SocketIoConfig::default() }, ..asking() }
}

/// Tells a client who it is.
fn install(server: &Server) {
    for nsp in ["/", "/other"] {
        server.of(nsp).on_connect(|socket: Socket| async move {
            let claims: Value = socket.claims().unwrap();
            socket.on("who", |socket: Socket, _: Event, ack: Ack| async move {
                let claims: Value = socket.claims().unwrap();
                ack.send(&(claims["sub"].clone(), socket.recovered()))
            });
            socket.emit("role", &claims["role"]).await
        });
    }
    server.of_dynamic(|name, _| async move { name == "/dynamic" });
}

/// The answer to a CONNECT.
pub(super) async fn connect(client: &mut Client, nsp: &str, auth: Value) -> Value {
    client.send(&format!("40{nsp}{auth}")).await;
    let answer = client.recv_text().await;
    let (kind, data) = answer.split_at(2 + nsp.len());
    let mut data: Value = serde_json::from_str(data).unwrap();
    data["packet"] = kind[..2].into();
    data
}

async fn who_shows_no_good_token_stays_outside(kind: TransportKind) {
    let server = TestServer::start(asking(), install).await;
    let mut client = server.client(kind).await;
    let expired = token("ann", in_millis(0));
    for (auth, code) in [
        (json!({}), "token_missing"),
        (json!({ "token": null }), "token_invalid"),
        (json!({ "token": 7 }), "token_invalid"),
        (json!({ "token": "x.y.z" }), "token_invalid"),
        (json!({ "token": expired }), "token_expired"),
    ] {
        for nsp in ["", "/other,", "/dynamic,"] {
            let answer = connect(&mut client, nsp, auth.clone()).await;
            let refused =
                json!({ "packet": "44", "message": "unauthorized", "data": { "code": code } });
            assert_eq!(answer, refused, "{nsp} {auth}");
        }
    }
    assert_eq!(server.metric("tokens_refused_total{reason=\"token_invalid\"}"), 9);
    assert_eq!(server.metric("sockets"), 0);
    for nsp in ["", "/other,"] {
        let answer = connect(&mut client, nsp, json!({ "token": good("ann") })).await;
        assert_eq!(answer["packet"], "40", "{answer}");
        client.expect(&format!("42{nsp}[\"role\",\"painter\"]")).await;
    }
    client.send("421[\"who\"]").await;
    client.expect(r#"431["ann",false]"#).await;
    let others = server.server.of("/").fetch_sockets().await;
    let shown = serde_json::to_string(&others.sockets[0].handshake()).unwrap();
    assert!(shown.contains("\"auth\":{}"), "other nodes need no token: {shown}");
}

async fn a_session_goes_on_for_its_owner_only(kind: TransportKind) {
    let server = TestServer::start(recovering(), install).await;
    let mut ann = server.client(kind).await;
    let answer = connect(&mut ann, "", json!({ "token": good("ann") })).await;
    let pid = answer["pid"].clone();
    let Value::Array(event) = ann.event().await else { panic!("no event") };
    let offset = event.last().unwrap().clone();
    for (subject, recovered) in [("bob", false), ("ann", true)] {
        let mut again = server.client(kind).await;
        let auth = json!({ "token": good(subject), "pid": pid, "offset": offset });
        let next = connect(&mut again, "", auth).await;
        assert_eq!(next["sid"] == answer["sid"], recovered, "{next}");
        again.event().await;
        again.send("421[\"who\"]").await;
        again.expect(&format!(r#"431["{subject}",{recovered}]"#)).await;
    }
    // and without a token for nobody
    let mut thief = server.client(kind).await;
    let refused = connect(&mut thief, "", json!({ "pid": pid, "offset": offset })).await;
    assert_eq!(refused["data"]["code"], "token_missing");
}

async fn a_connection_ends_with_its_token_and_the_session_goes_on_with_the_next(
    kind: TransportKind,
) {
    let server = TestServer::start(recovering(), |server| {
        install(server);
        server.of("/").middleware(async |socket: Socket, _| {
            socket.on_disconnect(|socket: Socket, reason| async move {
                assert_eq!(reason, CloseReason::TokenExpired);
                let _ = socket.namespace().emit("gone", &reason.as_str()).await;
            });
            Ok::<_, String>(())
        });
    })
    .await;
    let (mut watcher, _) = (server.client(kind).await, ());
    connect(&mut watcher, "", json!({ "token": good("watcher") })).await;
    watcher.event().await;
    let mut ann = server.client(kind).await;
    let short = token("ann", in_millis(2_000));
    let answer = connect(&mut ann, "", json!({ "token": short })).await;
    assert_eq!(answer["packet"], "40", "{answer}");
    let Value::Array(event) = ann.event().await else { panic!("no event") };
    ann.ends_properly(1008).await;
    let gone = watcher.event().await;
    assert_eq!(gone[1], "forced server close");
    assert_eq!(server.metric("sockets"), 1, "the watcher's token is good for longer");
    let closed = "sessions_closed_total{reason=\"token_expired\"}";
    server.until_metric(closed, 1).await;
    let mut again = server.client(kind).await;
    let auth = json!({ "token": good("ann"), "pid": answer["pid"], "offset": event[2] });
    let next = connect(&mut again, "", auth).await;
    assert_eq!(next["sid"], answer["sid"], "the session goes on");
    assert_eq!(again.event().await[0], "gone", "what it has missed");
}

#[tokio::test]
async fn a_token_that_expires_may_leave_its_connection_alone() {
    let jwt = JwtConfig { end_at_expiry: false, ..jwt() };
    let server = TestServer::start(Config { jwt, ..config() }, install).await;
    let mut client = server.client(WebSocket).await;
    let exp = in_millis(2_000);
    connect(&mut client, "", json!({ "token": token("ann", exp) })).await;
    client.event().await;
    let over = UNIX_EPOCH + Duration::from_secs_f64(exp + 0.3);
    tokio::time::sleep(over.duration_since(SystemTime::now()).unwrap_or_default()).await;
    client.send("421[\"who\"]").await;
    client.expect(r#"431["ann",false]"#).await;
}

#[tokio::test]
async fn one_namespace_alone_may_ask_for_tokens() {
    let server = TestServer::start(config(), |server| {
        server.of("/members").require_token(&Jwt::new(jwt()).unwrap());
    })
    .await;
    let mut client = server.client(Polling).await;
    assert_eq!(connect(&mut client, "", json!({})).await["packet"], "40");
    assert_eq!(connect(&mut client, "/members,", json!({})).await["packet"], "44");
    let member = connect(&mut client, "/members,", json!({ "token": good("ann") })).await;
    assert_eq!(member["packet"], "40");
    let socket = server.server.of("/").local_sockets().remove(0);
    assert!(socket.claims::<Value>().is_err(), "nobody asked");
}

#[tokio::test]
async fn a_bearer_header_counts_only_where_it_is_asked_for() {
    for (bearer_header, packet) in [(true, "40"), (false, "44")] {
        let jwt = JwtConfig { bearer_header, ..jwt() };
        let server = TestServer::start(Config { jwt, ..config() }, install).await;
        let url = format!("http://{}/socket.io/?EIO=4&transport=polling", server.address);
        let http = reqwest::Client::new();
        let bearer = format!("Bearer {}", good("ann"));
        let open = http.get(&url).header("authorization", bearer).send().await.unwrap();
        let open: Value = serde_json::from_str(&open.text().await.unwrap()[1..]).unwrap();
        let url = format!("{url}&sid={}", open["sid"].as_str().unwrap());
        http.post(&url).body("40").send().await.unwrap();
        let answer = http.get(&url).send().await.unwrap().text().await.unwrap();
        assert_eq!(&answer[..2], packet, "{answer}");
    }
}
