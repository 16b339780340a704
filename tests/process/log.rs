//! What the log says of attacks: who, what, how often; sampled, and nothing that the client said.

use std::net::SocketAddr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use quicket::TransportKind::WebSocket;
use serde_json::json;
use wtransport::tls::Sha256Digest;

use super::support::socketio::Client;
use super::support::{free_port, within};
use super::{Process, get, poller, start_with_descriptors, until};

/// A server for one client, at which five more have been.
async fn overrun() -> Process {
    let process = Process::start(&["--max-sessions", "1", "--shutdown-grace", "1s"], &[]).await;
    let poll = "/socket.io/?EIO=4&transport=polling&token=hunter2";
    assert_eq!(process.get(poll).await.0, 200);
    for _ in 0..5 {
        assert_eq!(process.get(poll).await.0, 503);
    }
    process
}

/// Who, what limit, how often; sampled, and nothing that the client said.
#[tokio::test]
async fn a_limit_that_is_met_is_logged_once_in_a_while() {
    let mut process = overrun().await;
    let line = process.line("met a limit").await;
    for part in ["WARN", "limit=\"sessions\"", "client=127.0.0.1", "left_out=0"] {
        assert!(line.contains(part), "{part} in {line}");
    }
    let rest = process.rest_of_the_log().await;
    let hits: Vec<_> = rest.iter().filter(|line| line.contains("met a limit")).collect();
    let left_out = "limit=\"sessions\" client=127.0.0.1 left_out=4";
    assert!(hits.len() == 1 && hits[0].contains(left_out), "{rest:?}");
    assert!(!rest.iter().any(|line| line.contains("hunter2")), "{rest:?}");
}

/// An attack that is over within the 10 s in which its lines are left out is reported all the same, once.
#[tokio::test]
async fn what_was_left_out_of_the_log_is_reported_when_nothing_comes_after_it() {
    let mut process = overrun().await;
    assert!(process.line("met a limit").await.contains("left_out=0"));
    assert!(process.line("met a limit").await.contains("left_out=4"));
    let rest = process.rest_of_the_log().await;
    assert!(!rest.iter().any(|line| line.contains("met a limit")), "{rest:?}");
}

/// Broken rules and slow clients, too: who breaks them again and again is to be found by the log.
#[tokio::test]
async fn a_broken_rule_and_a_slow_client_are_logged_with_their_address() {
    let limits = ["--outbox-bytes", "65536", "--handshake-rate-per-ip", "off"];
    let mut process = Process::start(&limits, &[]).await;
    let too_long = format!(r#"42["hunter2{}"]"#, "x".repeat(1024));
    let attachments = r#"4511-["hunter2"]"#;
    for (packet, rule) in [(attachments, "too_many_attachments"), (&too_long, "name_too_long")] {
        for _ in 0..3 {
            let mut client = Client::open(process.address, WebSocket).await;
            client.join("/").await;
            client.send(packet).await;
            client.end().await;
        }
        let line = process.line("broke a rule").await;
        for part in ["WARN", &format!("rule={rule:?}"), "client=127.0.0.1", "left_out=0"] {
            assert!(line.contains(part), "{part} in {line}");
        }
    }
    // two that join, of whom one draws and the other does not poll
    let mut anna = Client::open(process.address, WebSocket).await;
    anna.join("/").await;
    poller(&process).await;
    let points: Vec<u32> = (0..200).collect();
    let style = json!({ "c": "red", "w": 2, "k": 2 });
    for stroke in 0..400 {
        let name = format!("hunter2.{stroke}");
        let chunk = json!({ "s": name, "i": 0, "p": points, "style": style });
        anna.emit(json!(["draw", chunk])).await;
    }
    let line = process.line("outbox_bytes").await;
    for part in ["WARN", "met a limit", "client=127.0.0.1", "left_out=0"] {
        assert!(line.contains(part), "{part} in {line}");
    }
    let rest = process.rest_of_the_log().await;
    for rule in ["too_many_attachments", "name_too_long"] {
        let left_out = format!("rule={rule:?} client=127.0.0.1 left_out=2");
        assert_eq!(rest.iter().filter(|line| line.contains(&left_out)).count(), 1, "{rest:?}");
    }
    assert!(!rest.iter().any(|line| line.contains("hunter2")), "{rest:?}");
}

/// A body that is too large is refused before it is anybody's packet.
#[tokio::test]
async fn a_refused_post_is_logged_with_its_address_and_without_what_it_says() {
    let mut process = Process::start(&["--max-payload", "10000"], &[]).await;
    let url = poller(&process).await;
    for _ in 0..4 {
        let body = format!("4hunter2{}", "x".repeat(10_000));
        let answer = reqwest::Client::new().post(&url).body(body).send().await.unwrap();
        assert_eq!(answer.status(), 413);
    }
    let line = process.line("broke a rule").await;
    for part in ["WARN", "rule=\"payload_too_large\"", "client=127.0.0.1", "left_out=0"] {
        assert!(line.contains(part), "{part} in {line}");
    }
    let rest = process.rest_of_the_log().await;
    let rules: Vec<_> = rest.iter().filter(|line| line.contains("broke a rule")).collect();
    let left_out = "rule=\"payload_too_large\" client=127.0.0.1 left_out=3";
    assert!(rules.len() == 1 && rules[0].contains(left_out), "{rest:?}");
    assert!(!rest.iter().any(|line| line.contains("hunter2")), "{rest:?}");
}

#[tokio::test]
async fn a_process_without_descriptors_says_who_came() {
    let admin = free_port();
    let mut process = start_with_descriptors("96", admin).await;
    let mut held = Vec::new();
    for _ in 0..100 {
        held.push(tokio::net::TcpStream::connect(process.address).await.unwrap());
    }
    let line = process.line("met a limit").await;
    for part in ["WARN", "limit=\"descriptors\"", "client=127.0.0.1", "left_out=0"] {
        assert!(line.contains(part), "{part} in {line}");
    }
    // what is refused without a word is closed, and the last one is the last to be
    let mut closed = held.pop().unwrap();
    within("an end", tokio::io::AsyncReadExt::read(&mut closed, &mut [0])).await.ok();
    let health = SocketAddr::new(process.address.ip(), admin);
    let (_, metrics) = get(health, "/metrics").await;
    let name = "quicket_connections_refused_total ";
    let refused = metrics.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    let left_out: u64 = refused.parse::<u64>().unwrap() - 1;
    let rest = process.rest_of_the_log().await;
    let hits: Vec<_> = rest.iter().filter(|line| line.contains("met a limit")).collect();
    let expected = format!("limit=\"descriptors\" client=127.0.0.1 left_out={left_out}");
    assert!(left_out > 0 && hits.len() == 1 && hits[0].contains(&expected), "{expected}: {rest:?}");
}

/// A client of bare QUIC, with its handshake done and nothing asked for.
async fn half_open(address: SocketAddr) -> (quinn::Endpoint, quinn::Connection) {
    let (_, offer) = get(address, "/webtransport.json").await;
    let offer: serde_json::Value = serde_json::from_str(&offer).unwrap();
    let hash = STANDARD.decode(offer["certificateHashes"][0].as_str().unwrap()).unwrap();
    let hash = Sha256Digest::new(hash.try_into().unwrap());
    let config = wtransport::ClientConfig::builder()
        .with_bind_address(([127, 0, 0, 1], 0).into())
        .with_server_certificate_hashes([hash])
        .build();
    let mut endpoint = quinn::Endpoint::client(([127, 0, 0, 1], 0).into()).unwrap();
    endpoint.set_default_client_config(config.quic_config().clone());
    let connecting = endpoint.connect(address, "localhost").unwrap();
    let connection = within("a QUIC handshake", connecting).await.unwrap();
    (endpoint, connection)
}

#[tokio::test]
async fn that_quic_addresses_must_be_proven_is_logged_once_in_a_while() {
    let few = ["--webtransport-max-pending-handshakes", "1", "--shutdown-grace", "1s"];
    let mut process = Process::start(&few, &[]).await;
    let mut clients = Vec::new();
    for _ in 0..4 {
        clients.push(half_open(process.address).await);
    }
    let line = process.line("prove its QUIC address").await;
    for part in ["WARN", "client=127.0.0.1", "left_out=0"] {
        assert!(line.contains(part), "{part} in {line}");
    }
    let (_, metrics) = process.get("/metrics").await;
    let name = "quicket_quic_retries_total ";
    let retries = metrics.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    // whoever is slow asks more than once
    let left_out = retries.parse::<u64>().unwrap() - 1;
    let rest = process.rest_of_the_log().await;
    let more: Vec<_> = rest.iter().filter(|line| line.contains("QUIC address")).collect();
    let expected = format!("client=127.0.0.1 left_out={left_out}");
    assert!(left_out >= 2 && more.len() == 1 && more[0].ends_with(&expected), "{rest:?}");
}

/// A client can make a handler fail with each of its packets.
#[tokio::test]
async fn handlers_that_fail_are_logged_once_in_a_while() {
    let mut process = Process::start(&["--shutdown-grace", "1s"], &[]).await;
    // as many boards as there may be in use
    let mut clients = Vec::new();
    for number in 0..200 {
        let mut client = Client::open(process.address, WebSocket).await;
        client.send(&format!(r#"40{{"board":"{number}"}}"#)).await;
        client.joined("/").await;
        until(&mut client, "author").await;
        clients.push(client);
    }
    let mut client = Client::open(process.address, WebSocket).await;
    for _ in 0..20 {
        client.send(r#"40{"board":"hunter2"}"#).await;
        client.joined("/").await;
        client.expect("41").await;
    }
    let line = process.line("handler").await;
    for part in ["WARN", "a handler failed", "client=127.0.0.1", "left_out=0", "boards"] {
        assert!(line.contains(part), "{part} in {line}");
    }
    let rest = process.rest_of_the_log().await;
    let more: Vec<_> = rest.iter().filter(|line| line.contains("handler")).collect();
    let left_out = "handlers failed client=127.0.0.1 left_out=19";
    assert!(more.len() == 1 && more[0].contains(left_out), "{rest:?}");
}
