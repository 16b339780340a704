//! Tokens at the front door: without a good one there is no session, on every transport.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use quicket::TransportKind::{self, Polling, WebSocket, WebTransport};
use quicket::config::{Config, JwtConfig, LimitsConfig, RecoveryConfig, SocketIoConfig};
use quicket::{Ack, Event, Jwt, Refusal, Server, Socket};
use serde_json::{Value, json};

use super::tokens::{connect, good, in_millis, jwt, token};
use crate::support::on_every_transport;
use crate::support::socketio::{Client, TestServer, config};

on_every_transport!(
    without_a_good_token_there_is_no_session,
    a_session_ends_with_the_token_that_opened_it,
    a_session_is_recovered_for_its_owner_only,
    a_hook_asks_for_the_token_and_then_for_more,
);

fn admission() -> JwtConfig {
    let query = Some("token".to_owned());
    JwtConfig { admission: true, bearer_header: true, query, ..jwt() }
}

/// Places for two: who was refused and kept one would keep others out.
fn asking() -> Config {
    let limits = LimitsConfig {
        max_sessions: Some(2),
        max_half_open_sessions: Some(2),
        handshake_rate_per_ip: None,
        ..LimitsConfig::default()
    };
    Config { jwt: admission(), limits, ..config() }
}

fn install(server: &Server) {
    server.of("/").on_connect(|socket: Socket| async move {
        socket.on("who", |socket: Socket, _: Event, ack: Ack| async move {
            let claims: Value = socket.claims().unwrap();
            let same = socket.handshake().claims().unwrap().all == claims;
            ack.send(&(claims["sub"].clone(), same, socket.recovered()))
        });
        socket.emit("hello", &1).await
    });
}

/// What docs/operating.md says that a refused client gets to see.
fn refused(kind: TransportKind, text: &str) -> (u16, String) {
    match kind {
        Polling => (403, format!(r#"{{"code":4,"message":"{text}"}}"#)),
        WebSocket => (400, text.to_owned()),
        WebTransport => (403, String::new()),
    }
}

async fn without_a_good_token_there_is_no_session(kind: TransportKind) {
    let server = TestServer::start(asking(), install).await;
    // what one says, with another's signature
    let (claims, signed) = (good("root"), good("ann"));
    let (claims, signature) =
        (claims.rsplit_once('.').unwrap().0, signed.rsplit_once('.').unwrap().1);
    let bad = format!("{claims}.{signature}");
    let old = token("ann", in_millis(0));
    let bearer = |token: &str| format!("Bearer {token}");
    let (basic, worse) = (format!("Basic {}", good("ann")), bearer(&bad));
    let tries = [
        (String::new(), None, "token_missing"),
        ("&token=".to_owned(), None, "token_invalid"),
        (format!("&jwt={}", good("ann")), None, "token_missing"),
        (String::new(), Some(basic.as_str()), "token_missing"),
        (format!("&token={bad}"), None, "token_invalid"),
        (String::new(), Some(worse.as_str()), "token_invalid"),
        // the second of two is nobody's, and a bad header is not made good by the query
        (format!("&token={bad}&token={}", good("ann")), None, "token_invalid"),
        (format!("&token={}", good("ann")), Some(worse.as_str()), "token_invalid"),
        (format!("&token={old}"), None, "token_expired"),
    ];
    for (query, header, code) in &tries {
        let headers: Vec<_> = header.iter().map(|value| ("authorization", *value)).collect();
        let answer = Client::knock(server.address, kind, query, &headers).await.err();
        assert_eq!(answer, Some(refused(kind, code)), "{code}");
        assert_eq!(server.server.session_count(), 0);
    }
    for (code, count) in [("token_missing", 3), ("token_invalid", 5), ("token_expired", 1)] {
        assert_eq!(server.metric(&format!("tokens_refused_total{{reason=\"{code}\"}}")), count);
    }
    let forbidden = server.metric("handshakes_refused_total{error=\"forbidden\"}");
    assert_eq!(forbidden, tries.len() as i64);
    assert_eq!(server.metric(&format!("sessions_opened_total{{transport=\"{kind}\"}}")), 0);
    // nobody has kept one of the places, and a good one may come either way
    let (good, bearer) = (good("ann"), bearer(&good("ann")));
    let query = format!("&token={good}&board=x");
    let mut in_query = Client::knock(server.address, kind, &query, &[]).await.unwrap();
    let header = [("authorization", bearer.as_str())];
    let mut in_header = Client::knock(server.address, kind, "&board=x", &header).await.unwrap();
    for ann in [&mut in_query, &mut in_header] {
        // the namespace asks for no second one
        assert_eq!(connect(ann, "", json!({})).await["packet"], "40");
        ann.expect(r#"42["hello",1]"#).await;
        ann.send("420[\"who\"]").await;
        ann.expect(r#"430["ann",true,false]"#).await;
    }
    for socket in server.server.of("/").fetch_sockets().await.sockets {
        let shown = socket.handshake().to_string();
        assert!(!shown.contains(&good), "other nodes need no token: {shown}");
        assert!(shown.contains("EIO=4") && shown.contains("&board=x"), "{shown}");
    }
    let hits = server.server.metrics().render();
    let hits: Vec<_> = hits.lines().filter(|line| line.starts_with("quicket_limits_hit")).collect();
    assert!(hits.iter().all(|line| line.ends_with(" 0")), "{hits:?}");
}

async fn knock(server: &TestServer, kind: TransportKind, token: &str) -> Client {
    let query = format!("&token={token}");
    Client::knock(server.address, kind, &query, &[]).await.unwrap()
}

async fn a_session_ends_with_the_token_that_opened_it(kind: TransportKind) {
    let server = TestServer::start(asking(), install).await;
    let mut bob = knock(&server, kind, &good("bob")).await;
    connect(&mut bob, "", json!({})).await;
    bob.event().await;
    let mut ann = knock(&server, kind, &token("ann", in_millis(2_000))).await;
    connect(&mut ann, "", json!({})).await;
    ann.event().await;
    ann.ends_properly(1008).await;
    server.until_metric("sessions_closed_total{reason=\"token_expired\"}", 1).await;
    bob.send("420[\"who\"]").await;
    bob.expect(r#"430["bob",true,false]"#).await;
}

async fn a_session_is_recovered_for_its_owner_only(kind: TransportKind) {
    // middlewares that are not asked again change nothing: the front door is
    let (window, skip_middlewares) = (Duration::from_secs(60), true);
    let recovery = RecoveryConfig { window, skip_middlewares, ..RecoveryConfig::default() };
    let socketio = SocketIoConfig { recovery, ..SocketIoConfig::default() };
    let jwt = Jwt::new(JwtConfig { admission: false, ..admission() }).unwrap();
    let builder = Server::builder().config(Config { socketio, ..config() });
    let builder = builder.admit(move |handshake| {
        let jwt = jwt.clone();
        async move { jwt.admit(&handshake).await }
    });
    let server = TestServer::of(builder, install).await;
    let mut ann = knock(&server, kind, &good("ann")).await;
    let answer = connect(&mut ann, "", json!({})).await;
    let offset = ann.event().await[2].clone();
    for (subject, recovered) in [("bob", false), ("ann", true)] {
        let mut again = knock(&server, kind, &good(subject)).await;
        let auth = json!({ "pid": answer["pid"], "offset": offset });
        let next = connect(&mut again, "", auth).await;
        assert_eq!(next["sid"] == answer["sid"], recovered, "{next}");
        again.event().await;
        again.send("420[\"who\"]").await;
        again.expect(&format!(r#"430["{subject}",true,{recovered}]"#)).await;
    }
}

async fn a_hook_asks_for_the_token_and_then_for_more(kind: TransportKind) {
    let jwt = Jwt::new(JwtConfig { admission: false, ..admission() }).unwrap();
    let builder = Server::builder().config(config()).admit(move |handshake| {
        let jwt = jwt.clone();
        async move {
            jwt.admit(&handshake).await?;
            match handshake.claims() {
                Some(claims) if claims.subject == "ann" => Ok(()),
                _ => Err(Refusal::forbidden("ann alone")),
            }
        }
    });
    let server = TestServer::of(builder, install).await;
    let bob = format!("&token={}", good("bob"));
    for (query, code) in [("", "token_missing"), (bob.as_str(), "ann alone")] {
        let answer = Client::knock(server.address, kind, query, &[]).await.err();
        assert_eq!(answer, Some(refused(kind, code)));
    }
    let mut ann = knock(&server, kind, &good("ann")).await;
    assert_eq!(connect(&mut ann, "", json!({})).await["packet"], "40");
    ann.expect(r#"42["hello",1]"#).await;
    ann.send("420[\"who\"]").await;
    ann.expect(r#"430["ann",true,false]"#).await;
}

#[tokio::test]
async fn a_token_that_expires_may_leave_the_session_alone_that_it_opened() {
    let jwt = JwtConfig { end_at_expiry: false, ..admission() };
    let server = TestServer::start(Config { jwt, ..config() }, install).await;
    let exp = in_millis(2_000);
    let mut ann = knock(&server, WebSocket, &token("ann", exp)).await;
    connect(&mut ann, "", json!({})).await;
    ann.expect(r#"42["hello",1]"#).await;
    let over = UNIX_EPOCH + Duration::from_secs_f64(exp + 0.3);
    tokio::time::sleep(over.duration_since(SystemTime::now()).unwrap_or_default()).await;
    ann.send("420[\"who\"]").await;
    ann.expect(r#"430["ann",true,false]"#).await;
}

/// Nobody can be told from another then: a balancer may try elsewhere, and the client again.
#[tokio::test]
async fn while_the_keys_cannot_be_reached_nobody_is_let_in() {
    let jwt = JwtConfig {
        secret: None,
        // nobody listens there
        jwks_url: Some("http://127.0.0.1:1/keys".to_owned()),
        audiences: vec!["us".to_owned()],
        ..admission()
    };
    let server = TestServer::start(Config { jwt, ..config() }, install).await;
    let header = BASE64.encode(json!({ "alg": "ES256" }).to_string());
    let query = format!("&token={header}.e30.AAAA");
    let answer = Client::knock(server.address, WebSocket, &query, &[]).await.err();
    assert_eq!(answer, Some((503, "keys_unavailable".to_owned())));
    let answer = Client::knock(server.address, Polling, &query, &[]).await.err();
    let body = r#"{"code":6,"message":"keys_unavailable"}"#;
    assert_eq!(answer, Some((503, body.to_owned())));
}
