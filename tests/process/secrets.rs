//! No log has what a client keeps secret, at the most talkative level: wherever the client puts it, on every transport,
//! and whatever goes wrong after that.

use std::fs::File;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use quicket::TransportKind;
use ring::hmac;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use super::support::eventually;
use super::support::socketio::{Client, Received};
use super::{command, get, within};

/// No encoding of JSON or addresses changes it.
const SECRET: &str = "hunter2hunter2hunter2";
const KEY: &str = "0123456789abcdef0123456789abcdef";

/// The server, and the file that has all that it says, on both of its outputs.
struct Talkative {
    child: Child,
    file: PathBuf,
    address: SocketAddr,
}

impl Talkative {
    async fn start(name: &str, environment: &[(&str, &str)]) -> Self {
        let name = format!("quicket-secrets-{name}-{}", std::process::id());
        let file = std::env::temp_dir().join(name);
        let output = File::create(&file).unwrap();
        let mut command = command(&[], environment);
        command.env("PORT", "0").stdout(output.try_clone().unwrap()).stderr(output);
        let child = command.spawn().unwrap();
        let mut this = Self { child, file, address: ([127, 0, 0, 1], 0).into() };
        eventually("the address", || {
            let said = this.said();
            let port = said.split_once("http://localhost:").map(|(_, rest)| rest);
            let port = port.and_then(|rest| rest.split_once('\n')?.0.parse().ok());
            this.address.set_port(port.unwrap_or(0));
            port.is_some()
        })
        .await;
        while get(this.address, "/readyz").await.0 != 200 {
            tokio::task::yield_now().await;
        }
        this
    }

    fn said(&self) -> String {
        std::fs::read_to_string(&self.file).unwrap()
    }

    async fn end(mut self) -> String {
        let id = self.child.id().unwrap().to_string();
        let asked = Command::new("kill").args(["-TERM", &id]).status().await;
        assert!(asked.unwrap().success());
        let ended = within("the end of the process", self.child.wait()).await;
        assert!(ended.unwrap().success());
        self.said()
    }
}

impl Drop for Talkative {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.file);
    }
}

/// The secret as a log may show bytes: as they are, in base64, as numbers.
fn disguises() -> Vec<String> {
    // at each of the three ways in which three bytes may begin, without what neighbours change
    let based = (0..3).map(|skip| {
        let part = &SECRET.as_bytes()[skip..];
        BASE64.encode(&part[..part.len() / 3 * 3])
    });
    let numbers: Vec<_> = SECRET.bytes().take(7).map(|byte| byte.to_string()).collect();
    let hex: String = SECRET.bytes().take(7).map(|byte| format!("{byte:02x}")).collect();
    let plain = [SECRET[..7].to_owned(), numbers.join(", "), hex.to_uppercase(), hex];
    based.chain(plain).collect()
}

/// A token with the secret in its claims, and a signature that must not be seen either.
fn token() -> String {
    let part = |value: Value| BASE64.encode(value.to_string());
    let exp = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let claims = json!({ "sub": SECRET, "exp": exp.as_secs() + 3_600 });
    let message = format!("{}.{}", part(json!({ "alg": "HS256" })), part(claims));
    let key = hmac::Key::new(hmac::HMAC_SHA256, KEY.as_bytes());
    let signature = BASE64.encode(hmac::sign(&key, message.as_bytes()));
    format!("{message}.{signature}")
}

/// What a client sends when all goes well: in CONNECT, an event, an acknowledgement, a binary event.
async fn talk(client: &mut Client, token: &str) {
    let auth = json!({ "token": token, "board": SECRET, "key": SECRET, "pid": SECRET });
    client.send(&format!("40{auth}")).await;
    assert_eq!(&client.recv_text().await[..2], "40");
    let style = json!({ "c": SECRET, "w": 6, "k": 2 });
    let chunk = json!({ "s": SECRET, "i": 0, "p": [0, 0], "style": style });
    client.emit(json!([SECRET, { SECRET: SECRET }])).await;
    client.emit(json!(["draw", chunk])).await;
    client.emit(json!(["erase", { "s": SECRET }])).await;
    client.send(&format!(r#"431["{SECRET}"]"#)).await;
    client.send(&format!(r#"451-["{SECRET}",{{"_placeholder":true,"num":0}}]"#)).await;
    client.send_binary(SECRET.as_bytes()).await;
    // an answer: all of it has been looked at
    client.send(&format!(r#"42907["erase",{{"s":["{SECRET}"]}}]"#)).await;
    loop {
        match client.recv().await {
            Received::Text(text) if text.starts_with("43907") => break,
            Received::Text(_) | Received::Binary(_) => {}
            Received::End(end) => panic!("{end:?}"),
        }
    }
}

/// Packets that break a rule, each with the secret in or behind it.
fn broken() -> Vec<String> {
    let mut broken: Vec<_> =
        ["9", "47", "4", "42[", "42{\"", "40{\"token\":\"", "451-[\"", "43x[\"", "42/"]
            .map(|start| format!("{start}{SECRET}"))
            .to_vec();
    broken.push(format!(r#"42["{SECRET}",{}"#, "[".repeat(1_000)));
    broken.push(format!(r#"42["{SECRET}{}"]"#, "x".repeat(2_000)));
    broken.push(format!(r#"40/{SECRET},{{"token":"{SECRET}"}}"#));
    broken.push(format!(r#"41/{SECRET},"#));
    broken.push(format!("4{}{SECRET}", "5".repeat(30)));
    broken
}

async fn everywhere(address: SocketAddr, kind: TransportKind, token: &str) {
    let (bearer, cookie) = (format!("Bearer {token}"), format!("session={SECRET}; other={token}"));
    let own = format!("http://{address}");
    let home = [
        ("authorization", bearer.as_str()),
        ("cookie", &cookie),
        ("x-secret", SECRET),
        ("origin", &own),
    ];
    let query = format!("&token={token}&jwt={SECRET}&{SECRET}=1");
    let mut client = Client::knock(address, kind, &query, &home).await.unwrap();
    talk(&mut client, token).await;
    // tokens that are none, or have the wrong signature, at both doors
    let wrong = format!("{}AAAA", &token[..token.len() - 4]);
    for bad in [SECRET, wrong.as_str(), &format!("{SECRET}.{SECRET}.{SECRET}"), ""] {
        let bearer = format!("Bearer {bad}");
        let headers = [("authorization", bearer.as_str()), ("cookie", &cookie), ("origin", &own)];
        let query = format!("&token={bad}&{SECRET}={SECRET}");
        if let Ok(mut client) = Client::knock(address, kind, &query, &headers).await {
            client.send(&format!("40{}", json!({ "token": bad }))).await;
            assert_eq!(&client.recv_text().await[..2], "44", "{kind} {bad}");
        }
    }
    // a page of somewhere else, with a secret in its name as well
    let foreign = format!("https://{SECRET}.example");
    let headers = [("authorization", bearer.as_str()), ("cookie", &cookie), ("origin", &foreign)];
    assert!(Client::knock(address, kind, &query, &headers).await.is_err(), "{kind}");
    for packet in broken() {
        for joined in [false, true] {
            let mut client = Client::knock(address, kind, &query, &home).await.unwrap();
            if joined {
                client.send(&format!("40{}", json!({ "token": token, "board": "x" }))).await;
                assert_eq!(&client.recv_text().await[..2], "40");
            }
            client.send(&packet).await;
            client.send("1").await;
            client.end().await;
        }
    }
}

/// Requests that are no Engine.IO, or hardly HTTP.
async fn raw(address: SocketAddr) {
    let path = format!("/socket.io/?EIO=4&transport=polling&token={SECRET}");
    for request in [
        format!("GET {path}&sid={SECRET} HTTP/1.1\r\nhost: x\r\n\r\n"),
        format!("POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n{SECRET}"),
        format!("GET /{SECRET}?{SECRET} HTTP/1.1\r\nhost: {SECRET}\r\n\r\n"),
        format!("GET {path} HTTP/1.1\r\nhost: x\r\n{SECRET}\x01: {SECRET}\r\n\r\n"),
        format!("{SECRET} {path} HTTP/1.1\r\n\r\n"),
        format!("\x16\x03\x01{SECRET}\r\n\r\n"),
        format!("GET {path}&j=0 HTTP/1.1\r\nhost: x\r\nauthorization: {SECRET}\r\n\r\n"),
        format!(
            "GET /socket.io/?EIO=4&transport=websocket&token={SECRET} HTTP/1.1\r\nhost: x\r\n\
             upgrade: websocket\r\nsec-websocket-key: {SECRET}\r\n\r\n"
        ),
    ] {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
        let _ = within("an answer", stream.read_to_end(&mut Vec::new())).await;
    }
}

async fn check(name: &str, more: &[(&str, &str)]) {
    let mut environment = vec![
        ("JWT_SECRET", KEY),
        ("JWT_BEARER_HEADER", "true"),
        ("LOG_FILTER", "trace"),
        ("HANDSHAKE_RATE_PER_IP", "off"),
        ("ALLOWED_ORIGINS", "same-origin"),
        ("RECOVERY_WINDOW", "1m"),
        ("SHUTDOWN_GRACE", "1s"),
    ];
    environment.extend(more);
    let server = Talkative::start(name, &environment).await;
    let token = token();
    for kind in TransportKind::ALL {
        everywhere(server.address, kind, &token).await;
    }
    raw(server.address).await;
    let said = server.end().await;
    let mut secrets = disguises();
    secrets.extend(token.split('.').map(|part| part[..part.len().min(20)].to_owned()));
    let tells = |line: &&str| secrets.iter().any(|secret| line.contains(secret.as_str()));
    let telling: Vec<_> = said.lines().filter(tells).collect();
    assert!(telling.is_empty(), "{} lines:\n{}", telling.len(), telling.join("\n"));
    let ours = said.lines().filter(|line| line.contains("DEBUG") && line.contains("quicket::"));
    assert!(ours.count() > 100 && said.contains("TRACE"), "a log that shows everything");
}

#[tokio::test]
async fn no_log_has_what_clients_keep_secret() {
    check("namespaces", &[]).await;
}

#[tokio::test]
async fn no_log_has_it_when_tokens_are_asked_for_at_the_front_door() {
    check("admission", &[("JWT_ADMISSION", "true"), ("JWT_QUERY", "token")]).await;
}
