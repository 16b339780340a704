//! Certificates over real handshakes (TCP's in memory), and over 60 days of virtual time.

use super::*;
use base64::prelude::{BASE64_STANDARD, Engine as _};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519};
use rustls::client::danger::ServerCertVerifier;
use rustls::pki_types::{ServerName, UnixTime};
use rustls::{ClientConfig, RootCertStore};
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};
use wtransport::tls::Sha256Digest;
use wtransport::tls::client::{NoServerVerification, ServerHashVerification};

const HOUR: Duration = Duration::from_secs(3600);

// --- helpers

/// A folder with a pair of files, removed at the end.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let unique = format!("{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tls-tests").join(unique);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn with(cert: &str, key: &str) -> Self {
        let folder = Self::new();
        folder.write("tls.crt", cert);
        folder.write("tls.key", key);
        folder
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.0.join(name), text).unwrap();
    }

    fn load(&self) -> Result<Certificates, ServeError> {
        let source = Source::Files { cert: self.0.join("tls.crt"), key: self.0.join("tls.key") };
        Certificates::load(source, SystemTime::now())
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A certificate and its key in PEM, and the certificate's DER.
fn pair(key: &KeyPair) -> (String, String, Vec<u8>) {
    let params = rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap();
    let cert = params.self_signed(key).unwrap();
    (cert.pem(), key.serialize_pem(), cert.der().to_vec())
}

fn fresh_pair() -> (String, String, Vec<u8>) {
    pair(&KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap())
}

fn pem(label: &str, der: &[u8]) -> String {
    let text = BASE64_STANDARD.encode(der);
    format!("-----BEGIN {label}-----\n{text}\n-----END {label}-----\n")
}

/// The key inside a PKCS#8 envelope: PKCS#1 for RSA, SEC1 for EC.
fn unwrap_pkcs8(der: &[u8]) -> Vec<u8> {
    let (_, mut fields, _) = element(der).unwrap();
    for _ in 0..2 {
        (_, _, fields) = element(fields).unwrap();
    }
    element(fields).unwrap().1.to_vec()
}

fn client(
    versions: &[&'static rustls::SupportedProtocolVersion],
    alpn: &[u8],
) -> Arc<ClientConfig> {
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    config.dangerous().set_certificate_verifier(Arc::new(NoServerVerification::new()));
    config.alpn_protocols = vec![alpn.to_vec()];
    Arc::new(config)
}

type Client = tokio_rustls::client::TlsStream<DuplexStream>;
type Server = tokio_rustls::server::TlsStream<DuplexStream>;

async fn connect(
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
) -> std::io::Result<(Client, Server)> {
    let (near, far) = tokio::io::duplex(1 << 16);
    let name = ServerName::try_from("localhost").unwrap();
    tokio::try_join!(
        TlsConnector::from(client).connect(name, near),
        TlsAcceptor::from(server).accept(far)
    )
}

async fn connect_tcp(certificates: &Certificates) -> (Client, Server) {
    connect(client(&[&version::TLS13], b"h2"), certificates.tcp_config()).await.unwrap()
}

/// The certificate that the client was shown.
fn shown(client: &Client) -> &[u8] {
    &client.get_ref().1.peer_certificates().unwrap()[0]
}

async fn assert_alive(connection: &mut (Client, Server)) {
    connection.0.write_all(b"ping").await.unwrap();
    connection.0.flush().await.unwrap();
    let mut bytes = [0; 4];
    connection.1.read_exact(&mut bytes).await.unwrap();
    assert_eq!(&bytes, b"ping");
}

fn in_use(certificates: &Certificates) -> CertificateDer<'static> {
    certificates.0.in_use.0.load().key.cert[0].clone()
}

/// What a browser with these `hashes` says to `cert` at `now`: wtransport's reading of the rules.
fn browser_accepts(
    hashes: &[[u8; 32]],
    cert: &CertificateDer<'_>,
    now: SystemTime,
) -> Result<(), rustls::Error> {
    let verifier = ServerHashVerification::new(hashes.iter().map(|hash| Sha256Digest::from(*hash)));
    let now = UnixTime::since_unix_epoch(now.duration_since(SystemTime::UNIX_EPOCH).unwrap());
    let name = ServerName::try_from("localhost").unwrap();
    verifier.verify_server_cert(cert, &[], &name, &[], now).map(drop)
}

fn self_signed_at(now: SystemTime) -> Certificates {
    Certificates::load(Source::SelfSigned, now).unwrap()
}

/// 2026-11-01, with a fraction of a second.
fn noon() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_millis(1_793_534_400_700)
}

// --- files

#[tokio::test]
async fn swapped_files_are_used_by_the_next_handshake_while_an_old_connection_lives_on() {
    let (cert_a, key_a, der_a) = fresh_pair();
    let (cert_b, key_b, der_b) = fresh_pair();
    let folder = Folder::with(&cert_a, &key_a);
    let certificates = folder.load().unwrap();
    let mut old = connect_tcp(&certificates).await;
    assert_eq!(shown(&old.0), der_a);

    assert!(!certificates.refresh(SystemTime::now()).unwrap());
    folder.write("tls.crt", &cert_b);
    folder.write("tls.key", &key_b);
    assert!(certificates.refresh(SystemTime::now()).unwrap());
    let mut new = connect_tcp(&certificates).await;
    assert_eq!(shown(&new.0), der_b);
    assert_alive(&mut old).await;
    assert_alive(&mut new).await;
    assert!(certificates.hashes().is_empty());
    assert_eq!(certificates.next_refresh(SystemTime::now()), FILES_EVERY);
}

/// Something done to the files, and what must be said about it.
type Step<'a> = (&'a dyn Fn(&Folder), &'a str);

#[tokio::test]
async fn a_broken_pair_keeps_the_old_certificate_and_is_reported_once_per_change() {
    let (cert_a, key_a, der_a) = fresh_pair();
    let (cert_b, key_b, der_b) = fresh_pair();
    let folder = Folder::with(&cert_a, &key_a);
    let certificates = folder.load().unwrap();
    let now = SystemTime::now();
    let write = |text| move |folder: &Folder| folder.write("tls.crt", text);
    let remove = |folder: &Folder| std::fs::remove_file(folder.0.join("tls.crt")).unwrap();
    let steps: [Step<'_>; 4] = [
        (&write(&cert_b), "is not the key of"),
        (&write(&cert_b[..200]), "is not valid PEM"),
        (&write(""), "has no certificate"),
        (&remove, "cannot read"),
    ];
    for (break_it, sentence) in steps {
        break_it(&folder);
        let error = certificates.refresh(now).unwrap_err().to_string();
        assert!(error.contains(sentence), "{error}");
        assert!(!certificates.refresh(now).unwrap(), "reported twice");
        assert_eq!(shown(&connect_tcp(&certificates).await.0), der_a);
    }
    folder.write("tls.crt", &cert_a);
    assert!(!certificates.refresh(now).unwrap(), "the old pair again");
    folder.write("tls.crt", &cert_b);
    folder.write("tls.key", &key_b);
    assert!(certificates.refresh(now).unwrap());
    assert_eq!(shown(&connect_tcp(&certificates).await.0), der_b);
}

#[test]
fn a_kubernetes_volume_that_swaps_a_symlink_is_seen() {
    let (cert_a, key_a, _) = fresh_pair();
    let (cert_b, key_b, der_b) = fresh_pair();
    let folder = Folder::new();
    for (version, cert, key) in [("1", &cert_a, &key_a), ("2", &cert_b, &key_b)] {
        std::fs::create_dir(folder.0.join(version)).unwrap();
        folder.write(&format!("{version}/tls.crt"), cert);
        folder.write(&format!("{version}/tls.key"), key);
    }
    std::os::unix::fs::symlink("1", folder.0.join("..data")).unwrap();
    std::os::unix::fs::symlink("..data/tls.crt", folder.0.join("tls.crt")).unwrap();
    std::os::unix::fs::symlink("..data/tls.key", folder.0.join("tls.key")).unwrap();
    let certificates = folder.load().unwrap();
    std::os::unix::fs::symlink("2", folder.0.join("..tmp")).unwrap();
    std::fs::rename(folder.0.join("..tmp"), folder.0.join("..data")).unwrap();
    assert!(certificates.refresh(SystemTime::now()).unwrap());
    assert_eq!(*in_use(&certificates), *der_b);
}

#[tokio::test]
async fn keys_of_every_kind_load() {
    let rsa_pkcs8 = BASE64_STANDARD.decode(RSA_PKCS8.concat()).unwrap();
    let rsa = KeyPair::from_pem(&pem("PRIVATE KEY", &rsa_pkcs8)).unwrap();
    let p256 = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    let p384 = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap();
    let ed25519 = KeyPair::generate_for(&PKCS_ED25519).unwrap();
    let (pkcs1, sec1) = (unwrap_pkcs8(&rsa_pkcs8), unwrap_pkcs8(&p256.serialize_der()));
    let cases = [
        (&rsa, pem("PRIVATE KEY", &rsa_pkcs8)),
        (&rsa, pem("RSA PRIVATE KEY", &pkcs1)),
        (&p256, p256.serialize_pem()),
        (&p256, pem("EC PRIVATE KEY", &sec1)),
        // As `openssl ecparam -genkey` writes it.
        (&p384, pem("EC PARAMETERS", b"") + &p384.serialize_pem()),
        (&ed25519, ed25519.serialize_pem()),
    ];
    for (key, text) in cases {
        let (cert, _, der) = pair(key);
        let certificates = Folder::with(&cert, &text).load().unwrap();
        assert_eq!(shown(&connect_tcp(&certificates).await.0), der);
    }
}

#[test]
fn what_is_wrong_with_the_files_is_said() {
    let (cert, key, _) = fresh_pair();
    let other = fresh_pair().1;
    let both = key.clone() + &cert;
    let garbage = pem("PRIVATE KEY", b"no key");
    let no_cert = pem("CERTIFICATE", b"no certificate");
    let cases: [(&str, &str, &str); 6] = [
        (&cert, &other, "tls.key is not the key of the first"),
        (&key, &key, "tls.crt has no certificate in it"),
        (&cert, &cert, "tls.key has no private key in it"),
        (&cert, "", "tls.key has no private key in it"),
        (&cert, &garbage, "tls.key has an unsupported key"),
        (&no_cert, &key, "tls.crt has a first certificate without"),
    ];
    for (cert, key, sentence) in cases {
        let error = Folder::with(cert, key).load().unwrap_err().to_string();
        assert!(error.starts_with("certificate: "), "{error}");
        assert!(error.contains(sentence), "{error}");
    }
    let error = Folder::new().load().unwrap_err().to_string();
    assert!(error.contains("tls.crt: No such file"), "{error}");
    let large = "x".repeat(FILE_AT_MOST as usize + 1);
    let error = Folder::with(&large, &key).load().unwrap_err().to_string();
    assert!(error.contains("is larger than"), "{error}");
    Folder::with(&both, &both).load().expect("one file may hold both");
}

// --- handshakes

#[tokio::test]
async fn tcp_speaks_tls_1_2_and_1_3_and_both_http_versions() {
    let certificates = self_signed_at(SystemTime::now());
    for (version, wanted) in [
        (&version::TLS12, rustls::ProtocolVersion::TLSv1_2),
        (&version::TLS13, rustls::ProtocolVersion::TLSv1_3),
    ] {
        for alpn in [&b"h2"[..], b"http/1.1"] {
            let (client, _server) =
                connect(client(&[version], alpn), certificates.tcp_config()).await.unwrap();
            assert_eq!(client.get_ref().1.protocol_version(), Some(wanted));
            assert_eq!(client.get_ref().1.alpn_protocol(), Some(alpn));
        }
    }
    let h3 = connect(client(&[&version::TLS13], b"h3"), certificates.tcp_config()).await;
    assert!(h3.is_err(), "h3 is not for TCP");
}

#[tokio::test]
async fn a_client_that_comes_back_over_tcp_is_resumed() {
    let certificates = self_signed_at(SystemTime::now());
    // The server remembers nothing.
    assert!(certificates.tcp_config().ticketer.enabled());
    let config = client(&[&version::TLS13], b"h2");
    for wanted in [rustls::HandshakeKind::Full, rustls::HandshakeKind::Resumed] {
        let (mut client, mut server) =
            connect(Arc::clone(&config), certificates.tcp_config()).await.unwrap();
        assert_eq!(client.get_ref().1.handshake_kind(), Some(wanted));
        // Tickets come after the handshake: read something to get them.
        server.write_all(b"x").await.unwrap();
        server.flush().await.unwrap();
        client.read_u8().await.unwrap();
    }
}

#[tokio::test]
async fn quic_speaks_h3_over_tls_1_3_alone_without_early_data() {
    let certificates = self_signed_at(SystemTime::now());
    let config = certificates.quic_config();
    assert_eq!(config.alpn_protocols, [b"h3"]);
    assert_eq!(config.max_early_data_size, 0);
    let config = Arc::new(config);
    for (version, accepted) in [(&version::TLS12, false), (&version::TLS13, true)] {
        let result = connect(client(&[version], b"h3"), Arc::clone(&config)).await;
        assert_eq!(result.is_ok(), accepted);
    }
}

#[tokio::test]
async fn the_first_hash_is_that_of_the_certificate_a_client_is_shown() {
    let certificates = self_signed_at(SystemTime::now());
    let (client, _server) = connect_tcp(&certificates).await;
    let hashes = certificates.hashes();
    assert_eq!(hashes.len(), 1 + AHEAD);
    assert_eq!(hashes[0], <[u8; 32]>::from(Sha256::digest(shown(&client))));
}

#[tokio::test]
async fn a_page_loaded_before_a_rotation_connects_over_webtransport_after_it() {
    // Long enough ago that the certificate in use is rotated half a day from now, when the next one
    // is valid already: the handshakes below go by the real clock.
    let real = SystemTime::now();
    let certificates = self_signed_at(real - SERVED_FOR + 12 * HOUR);
    let page = certificates.hashes();
    let server = wtransport::ServerConfig::builder()
        .with_bind_address("127.0.0.1:0".parse().unwrap())
        .with_custom_tls(certificates.quic_config())
        .build();
    let server = Arc::new(wtransport::Endpoint::server(server).unwrap());
    let url = format!("https://127.0.0.1:{}/", server.local_addr().unwrap().port());
    let accept = async || {
        let request = server.accept().await.await.unwrap();
        request.accept().await.unwrap()
    };
    let open = async |hashes: &[[u8; 32]]| {
        let config = wtransport::ClientConfig::builder()
            .with_bind_address("127.0.0.1:0".parse().unwrap())
            .with_server_certificate_hashes(hashes.iter().map(|hash| Sha256Digest::from(*hash)))
            .build();
        let client = wtransport::Endpoint::client(config).unwrap();
        client.connect(&url).await.unwrap()
    };
    let (old, old_server) = tokio::join!(open(&page), accept());
    assert!(!certificates.refresh(real).unwrap());
    assert!(certificates.refresh(real + 12 * HOUR).unwrap());
    let (new, _new_server) = tokio::join!(open(&page), accept());
    let seen = |connection: &wtransport::Connection| {
        let chain = connection.peer_identity().unwrap();
        <[u8; 32]>::from(Sha256::digest(chain.as_slice()[0].der()))
    };
    assert_eq!((seen(&old), seen(&new)), (page[0], page[1]));

    let mut stream = old.open_uni().await.unwrap().await.unwrap();
    stream.write_all(b"still here").await.unwrap();
    stream.finish().await.unwrap();
    let mut stream = old_server.accept_uni().await.unwrap();
    let mut received = [0; 10];
    stream.read_exact(&mut received).await.unwrap();
    assert_eq!(&received, b"still here");
}

// --- rotation

#[test]
fn in_60_days_every_page_of_the_last_24_days_connects_and_no_certificate_is_out_of_date() {
    let page_life = SERVED_FOR * AHEAD as u32;
    assert_eq!(page_life, days(24));
    let start = noon();
    let certificates = self_signed_at(start);
    let mut pages: VecDeque<(SystemTime, Vec<[u8; 32]>)> = VecDeque::new();
    let mut rotations = 0;
    for hour in 0..=60 * 24 {
        let now = start + hour * HOUR;
        rotations += u32::from(certificates.refresh(now).unwrap());
        pages.push_back((now, certificates.hashes()));
        while pages[0].0 + page_life < now {
            pages.pop_front();
        }
        let cert = in_use(&certificates);
        // Whatever a client's clock says within the margin; the refresh may be an hour late.
        for now in [now, now - MARGIN, now + (MARGIN - HOUR)] {
            browser_accepts(&certificates.hashes(), &cert, now).unwrap();
        }
        let hash = <[u8; 32]>::from(Sha256::digest(&cert));
        for (loaded, page) in &pages {
            assert!(page.contains(&hash), "hour {hour}, page of {loaded:?}");
        }
        let (not_before, not_after) = validity(&cert).unwrap();
        assert!(not_after.duration_since(not_before).unwrap() <= VALID_AT_MOST);
        assert_eq!(not_after, certificates.not_after());
    }
    assert_eq!(rotations, 5, "every 12 days and never on the way");
}

#[test]
fn pages_connect_in_the_second_before_and_after_a_rotation() {
    let start = noon();
    let certificates = self_signed_at(start);
    let whole = start - Duration::from_millis(700);
    let second = Duration::from_secs(1);
    assert_eq!(certificates.next_refresh(start), CLOCK_EVERY);
    let rotation = whole + SERVED_FOR;
    assert_eq!(certificates.next_refresh(rotation - 5 * second), 5 * second);
    assert_eq!(certificates.next_refresh(rotation + HOUR), AT_LEAST);
    assert!(!certificates.refresh(rotation - second).unwrap());
    let page = certificates.hashes();
    assert!(certificates.refresh(rotation).unwrap());
    browser_accepts(&page, &in_use(&certificates), rotation).unwrap();
    assert_eq!(certificates.hashes()[..AHEAD], page[1..]);
}

#[test]
fn a_clock_that_jumps_gets_a_valid_certificate() {
    let start = noon();
    let day = 24 * HOUR;
    for (now, known) in [
        (start + 20 * day, true),
        (start + 36 * day, false),
        (start + 300 * day, false),
        (start - HOUR, true),
        (start - 3 * day, false),
        (SystemTime::UNIX_EPOCH, false),
    ] {
        let certificates = self_signed_at(start);
        let page = certificates.hashes();
        certificates.refresh(now).unwrap();
        let hashes = certificates.hashes();
        assert_eq!(hashes.len(), 1 + AHEAD);
        browser_accepts(&hashes, &in_use(&certificates), now).unwrap();
        assert_eq!(page.contains(&hashes[0]), known, "{now:?}");
    }
}

#[test]
fn a_self_signed_certificate_names_this_machine() {
    let names = names();
    assert_eq!(names[..3], ["localhost", "127.0.0.1", "::1"]);
    let certificates = self_signed_at(noon());
    let cert = in_use(&certificates);
    let parsed = rustls::server::ParsedCertificate::try_from(&cert).unwrap();
    for name in names {
        let name = ServerName::try_from(name).unwrap();
        rustls::client::verify_server_name(&parsed, &name).unwrap();
    }
    assert!(!format!("{certificates:?}").contains("key"));
}

// --- dates

#[test]
fn dates_are_read_in_both_forms() {
    let unix = |seconds| OffsetDateTime::from_unix_timestamp(seconds).unwrap();
    let at = |seconds| Some(SystemTime::from(unix(seconds)));
    let cases: [(u8, &[u8], Option<SystemTime>); 14] = [
        (UTC_TIME, b"700101000000Z", at(0)),
        (UTC_TIME, b"261101000000Z", at(1_793_491_200)),
        (UTC_TIME, b"491231235959Z", at(2_524_607_999)),
        (UTC_TIME, b"500101000000Z", at(-631_152_000)),
        (GENERALIZED_TIME, b"20500101000000Z", at(2_524_608_000)),
        (GENERALIZED_TIME, b"99991231235959Z", at(253_402_300_799)),
        (UTC_TIME, b"20500101000000Z", None),
        (GENERALIZED_TIME, b"700101000000Z", None),
        (UTC_TIME, b"700101000000", None),
        (UTC_TIME, b"700101000000+0100", None),
        (UTC_TIME, b"701301000000Z", None),
        (UTC_TIME, b"700230000000Z", None),
        (UTC_TIME, b"70010100000xZ", None),
        (0x04, b"700101000000Z", None),
    ];
    for (tag, text, wanted) in cases {
        assert_eq!(date(tag, text), wanted, "{}", String::from_utf8_lossy(text));
    }
}

#[test]
fn a_certificate_that_is_cut_off_anywhere_or_has_a_bad_byte_is_no_panic() {
    let (_, _, der) = fresh_pair();
    assert!(validity(&der).is_some());
    for end in 0..der.len() {
        assert_eq!(validity(&der[..end]), None);
    }
    for at in 0..der.len() {
        for byte in [0, 0x30, 0x80, 0x84, 0x89, 0xff] {
            let mut bad = der.clone();
            bad[at] = byte;
            let _ = validity(&bad);
        }
    }
}

#[test]
fn the_end_of_a_certificate_from_a_file_is_known() {
    let key = KeyPair::generate().unwrap();
    for year in [2031, 2071] {
        let mut params = rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap();
        let end = rcgen::date_time_ymd(year, 2, 3);
        params.not_after = end;
        let cert = params.self_signed(&key).unwrap().pem();
        let certificates = Folder::with(&cert, &key.serialize_pem()).load().unwrap();
        assert_eq!(certificates.not_after(), SystemTime::from(end));
    }
}

/// A key that protects nothing, made for these tests: ring does not make RSA keys.
const RSA_PKCS8: [&str; 19] = [
    "MIIEvgIBADANBgkqhkiG9w0BAQEFAASCBKgwggSkAgEAAoIBAQCyRnUVJgbg4hUJnaUFEI8xDCXTTyOuFSebt0zt",
    "m2XrcQLS2psDCdHMJPM5XXkzOqLYodhGcMedMJBae0ZtjNwU04Ha0+QwA1WZ9Nc68eTFEt1xLsuIZsYZxRMFQ6Dt",
    "R9emTX0pusg3Xyo/3xHI8ibqJh97+iojDwXn93IK/yF+4iam2BoIkD5brJmn436M0EWQRqktrCa+ug6Qg+xdj+kt",
    "w6m+pyEs6wYqVz7tDEJD+HKytWeV18NgPuZtibOhmIcptSqQ2xqM8b8E31PNfrMFrj6aBT1l2B47aaMBEzz46Qod",
    "PxdGMr38hF4ZPpilSZ5t78jKzSStv7nb1k/wwQ7PAgMBAAECggEACznyn41Qe5LhHkTmImaDjeQk8aSXK5w7bUvi",
    "tUfG6EeqlNqdTlis9H0TL/aZ7kbwAFJYyz7I4zYusPP4YGexaEJVeBFF2lwrZNGNSDH5ZQumFD2NJZ7LNM47P2ad",
    "2LNgeiGBE0Km3w3IHFOQzCWrm60g6G69fo2wooXrkZO1aUb7VX7DysDu1c6yPFY8WCJzgX9xUwfO3aohMwkzcrCb",
    "KjXjXjx5i3x8NUhhgHAD+KDcWelDQRo3j8OUWCbjQPCUJW7iR4EelQSThpIUorL/bJAZrzPUmasdduMFjhGd0c+P",
    "R7u4UT+dLvDQIcbnMjwL8XVyFSpSWPemXNfhbhLEaQKBgQD3AJRjFGcoJJ8eQFZX+INhyhJx4mht/fyh3yXSpFfT",
    "7Dp5QBzf75T7Q4ET0WcP04rVcYJ+t4+Mi7Rj5QJOGe1ehOOvULXVzxuupPFtxRf9Su3CnuS8Yu2UInEAF4bpaQkR",
    "luh/SfyWFOgZcNOnl1Er2QPXZ3aU4kxXFhJCb1Y4PQKBgQC4xPanqX4n+M2WgoFielJ+qunqGUJ8zVUZAN2q0deC",
    "sHF1N2aZ0lTiCbkmxvEI9nyQnVaRImylnjGNKD48yV6LtLI8Y7nzSXUDth03Du/p7Kdom9DuVxv4M5087bGNOVGa",
    "5ws5NFp6nnoF2KzhuXhIDzjD4bs0l4gFgpJZbwtH+wKBgQDaRpXbFP2wOOSwfBSRexjHgyZXo8e7Y9csSSGIixje",
    "O4TU/7ZEotkaTmYz2Dpmfv/SbZPvXVGq1w6btJYb5MeiXndCx2VZQ8PnyvVblvADM4L3GSlz3UysOt93QFNF0z9j",
    "XuOpEP34txMA4Hb6RDtEL2w4n8LoAS+LSgLq2K7t1QKBgFb0w0xWtTukmUS7OJ8bCFX6o8l7h9HqZKE2yhvJVA56",
    "cXsDzrKXzUDv6IY6XFemgSsiEQqO0+kB0ToodVnwPyGqsbNAD9RSftJ3U7qEuh4yNPtDUYnJzyz5RYfWKZhYIHKx",
    "R5PtcqOAj9bOiVZWDiiDmWh+hLcUlXxaXfvfCcUfAoGBAIEXgmoJ1TgfanEHwR1BYOiz/UiPm80cotGTiIsy3xWM",
    "990v+RQvrwAmIZ/FzowH62mx1WLOZ3jfzexkNyE+fDaMng/IShKnw7MFcnTH6/JHqmTwbb4NqK+v7LFaWtZsREbc",
    "WevPluAtsCUGC+Or/afIZKb/44BJPxkYuD5ia5Um",
];
