//! A provider of keys over HTTPS, as the service meets it, and what its log says of tokens with a public key's
//! signature (of all else that is secret, see `secrets`).

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::{CertificateFiles, Client, Process, TransportKind, Value, WebSocket, json};

async fn metric(process: &Process, name: &str) -> u64 {
    let (_, metrics) = process.get("/metrics").await;
    let line = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap().parse().unwrap()
}

/// A provider over HTTPS with its keys, and a token of its.
async fn provider(files: &CertificateFiles) -> (String, String) {
    let random = SystemRandom::new();
    let algorithm = &ECDSA_P256_SHA256_FIXED_SIGNING;
    let key = EcdsaKeyPair::generate_pkcs8(algorithm, &random).unwrap();
    let key = EcdsaKeyPair::from_pkcs8(algorithm, key.as_ref(), &random).unwrap();
    let (x, y) = key.public_key().as_ref()[1..].split_at(32);
    let jwk = json!({ "kty": "EC", "crv": "P-256", "kid": "1",
        "x": BASE64.encode(x), "y": BASE64.encode(y) });
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let claims = json!({ "sub": "ann", "iss": "us", "exp": now.as_secs() + 60 });
    let part = |value: Value| BASE64.encode(value.to_string());
    let message = format!("{}.{}", part(json!({ "alg": "ES256", "kid": "1" })), part(claims));
    let signature = BASE64.encode(key.sign(&random, message.as_bytes()).unwrap());

    let chain = CertificateDer::pem_file_iter(files.path("cert.pem")).unwrap();
    let private = PrivateKeyDer::from_pem_file(files.path("key.pem")).unwrap();
    let ring = Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ServerConfig::builder_with_provider(ring)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain.map(Result::unwrap).collect(), private)
        .unwrap();
    let tls = TlsAcceptor::from(Arc::new(tls));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://localhost:{}/keys", listener.local_addr().unwrap().port());
    let body = json!({ "keys": [jwk] }).to_string();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(mut stream) = tls.accept(stream).await else { continue };
            let _ = stream.read(&mut [0; 4096]).await;
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
            let _ = stream.write_all(format!("{head}{body}").as_bytes()).await;
            let _ = stream.shutdown().await;
        }
    });
    (url, format!("{message}.{signature}"))
}

#[tokio::test]
async fn a_provider_over_https_is_trusted_with_tokens_and_no_log_has_one() {
    let files = CertificateFiles::make("provider");
    let (url, token) = provider(&files).await;
    let cert = files.path("cert.pem");
    let environment = [
        ("JWT_JWKS_URL", url.as_str()),
        ("JWT_ISSUER", "us"),
        ("JWT_BEARER_HEADER", "true"),
        ("SSL_CERT_FILE", cert.as_str()),
        ("LOG_FILTER", "trace"),
    ];
    let mut process = Process::start(&[], &environment).await;
    let bad = format!("{}AAAA", &token[..token.len() - 4]);
    for kind in TransportKind::ALL {
        let mut client = Client::open(process.address, kind).await;
        for (token, answer) in [(&bad, "44"), (&token, "40")] {
            client.send(&format!("40{}", json!({ "token": token, "board": "x" }))).await;
            assert_eq!(&client.recv_text().await[..2], answer, "{kind}");
        }
    }
    assert!(metric(&process, "quicket_jwt_keys_read_seconds").await > 0);
    assert_eq!(metric(&process, "quicket_jwt_keys_failures_total").await, 0);
    let polling = format!("http://{}/socket.io/?EIO=4&transport=polling", process.address);
    let http = reqwest::Client::new();
    http.get(&polling).bearer_auth(&token).send().await.unwrap();
    let signature = token.rsplit('.').next().unwrap();
    let log = process.rest_of_the_log().await;
    for line in &log {
        // the messages, of which a log may show parts, begin with the header
        let secret = [signature, "eyJhbGciOi"].into_iter().find(|part| line.contains(part));
        assert_eq!(secret, None, "{line}");
    }
    assert!(log.len() > 100, "a log of {} lines shows everything", log.len());
}

#[tokio::test]
async fn a_provider_that_cannot_be_trusted_gives_no_keys() {
    let files = CertificateFiles::make("stranger");
    let (url, token) = provider(&files).await;
    let environment = [("JWT_JWKS_URL", url.as_str()), ("JWT_ISSUER", "us")];
    let process = Process::start(&[], &environment).await;
    let mut client = Client::open(process.address, WebSocket).await;
    client.send(&format!("40{}", json!({ "token": token }))).await;
    let answer = client.recv_text().await;
    assert_eq!(answer, r#"44{"message":"unauthorized","data":{"code":"keys_unavailable"}}"#);
    assert_eq!(metric(&process, "quicket_jwt_keys_read_seconds").await, 0);
    assert!(metric(&process, "quicket_jwt_keys_failures_total").await > 0);
}
