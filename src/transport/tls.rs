//! The certificate, shared by TCP and QUIC, and replaced without closing a connection.
//!
//! Both listeners' configurations hold one resolver over one [`ArcSwap`]: what
//! [`Certificates::refresh`] stores there, the next handshake uses, on TCP and on QUIC. A
//! connection that is established never looks at it again.
//!
//! | source | replaced when | the page learns |
//! |---|---|---|
//! | files | their contents change | nothing: the browser verifies the chain by its CAs |
//! | self-signed | [`SERVED_FOR`] has passed | its hash and those of the next [`AHEAD`] |
//!
//! # Why a page's hashes stay good across rotations
//!
//! A browser accepts a certificate by hash only while the certificate is valid, and only when it
//! is valid for at most 14 days in total (W3C WebTransport, `serverCertificateHashes`). It does not
//! ask that a certificate be valid already when its hash is announced. So the next certificates are
//! made ahead of time, to be valid around the time at which they will be served, and every page
//! gets their hashes now:
//!
//! ```text
//! served      |------ A ------|------ B ------|------ C ------|------ D ------|
//! published   | A B C         | B C D         | C D E         | D E F         |
//! valid A  |=====================|
//! valid B                  |=====================|
//! ```
//!
//! A page loaded while A is served can connect until C gives way to D: for at least
//! `AHEAD * SERVED_FOR`. The keys are in memory only, so a restart ends all that (and several nodes
//! have different certificates): both want a certificate from files.

use std::collections::VecDeque;
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use ::time::{Date, Month, OffsetDateTime};
use arc_swap::ArcSwap;
use parking_lot::Mutex;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{InconsistentKeys, ServerConfig, version};
use sha2::{Digest, Sha256};

use crate::error::ServeError;

/// The longest validity of a certificate that is accepted by hash.
///
/// W3C WebTransport: "the total length of the validity period MUST NOT exceed two weeks".
const VALID_AT_MOST: Duration = days(14);

/// How long one self-signed certificate is served before the next takes its place.
const SERVED_FOR: Duration = days(12);

/// How long before and after being served a self-signed certificate is valid.
///
/// It bears a client's clock that is wrong by most of a day in either direction, and a rotation
/// that comes late by as much.
const MARGIN: Duration = Duration::from_secs(23 * 3600);

/// How many certificates after the one in use are made and announced ahead.
///
/// Each lengthens the life of a page's hashes by [`SERVED_FOR`], at the price of one hash more in
/// the page. Two give 24 days: more than a tab is expected to live without a reload.
const AHEAD: usize = 2;

const _: () = assert!(SERVED_FOR.as_secs() + 2 * MARGIN.as_secs() < VALID_AT_MOST.as_secs());

/// How often the files are compared. Kubernetes itself takes up to a minute to update a volume.
const FILES_EVERY: Duration = Duration::from_secs(10);

/// The longest wait between two looks at the clock for a self-signed certificate.
///
/// A timer that sleeps for days would be late by the time a laptop was suspended.
const CLOCK_EVERY: Duration = Duration::from_secs(60);

/// The shortest wait, so that a rotation that fails is not a hot loop.
const AT_LEAST: Duration = Duration::from_secs(1);

/// The largest certificate or key file that is read, in bytes. Real ones have some kilobytes.
const FILE_AT_MOST: u64 = 1 << 20;

const fn days(count: u64) -> Duration {
    Duration::from_secs(count * 24 * 3600)
}

/// Where the certificate comes from.
#[derive(Clone, Debug)]
pub(crate) enum Source {
    /// PEM files: the chain, the server's own certificate first, and its unencrypted private key.
    Files {
        /// The certificate chain.
        cert: PathBuf,
        /// The private key: PKCS#8, PKCS#1 or SEC1. It may be the same file.
        key: PathBuf,
    },
    /// Certificates that are made here and accepted by hash.
    SelfSigned,
}

/// The certificate in use, and what is needed to replace it. A clone is another handle to the same.
#[derive(Clone)]
pub(crate) struct Certificates(Arc<Shared>);

struct Shared {
    in_use: Arc<Resolver>,
    /// Locked by `refresh` and `next_refresh` only: handshakes and pages never wait for it.
    origin: Mutex<Origin>,
    tcp: Arc<ServerConfig>,
}

enum Origin {
    Files(Files),
    SelfSigned(Chain),
}

impl Certificates {
    /// Loads or makes the first certificate.
    ///
    /// # Errors
    ///
    /// [`ServeError::Certificate`] with a sentence that names the file and what is wrong with it.
    /// A certificate that has expired is no error: see [`Certificates::not_after`].
    pub(crate) fn load(source: Source, now: SystemTime) -> Result<Self, ServeError> {
        let (origin, first) = match source {
            Source::Files { cert, key } => {
                let (files, first) = Files::load(cert, key)?;
                (Origin::Files(files), first)
            }
            Source::SelfSigned => {
                let chain = Chain::start(now, names())?;
                let first = chain.in_use();
                (Origin::SelfSigned(chain), first)
            }
        };
        let in_use = Arc::new(Resolver(ArcSwap::from_pointee(first)));
        let tcp = Arc::new(tcp_config(Arc::clone(&in_use))?);
        Ok(Self(Arc::new(Shared { in_use, origin: Mutex::new(origin), tcp })))
    }

    /// The configuration for TCP: TLS 1.2 and 1.3, ALPN `h2` and `http/1.1`.
    pub(crate) fn tcp_config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.0.tcp)
    }

    /// The configuration for QUIC: TLS 1.3 only, ALPN `h3`, no early data (0-RTT).
    pub(crate) fn quic_config(&self) -> ServerConfig {
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&version::TLS13])
            .expect("ring supports TLS 1.3")
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(&self.0.in_use) as Arc<dyn ResolvesServerCert>);
        config.alpn_protocols = vec![b"h3".to_vec()];
        // A replayed handshake request would open a session twice.
        config.max_early_data_size = 0;
        // Every WebTransport session has a connection of its own and lives long: tickets would be
        // sent and kept for connections that do not come back.
        config.send_tls13_tickets = 0;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config
    }

    /// SHA-256 of the DER of each certificate that a page may meet: the one in use, then the next.
    ///
    /// Empty when the certificate comes from files: a page with hashes would refuse the next one,
    /// which its CAs would accept.
    pub(crate) fn hashes(&self) -> Vec<[u8; 32]> {
        self.0.in_use.0.load().hashes.clone()
    }

    /// When the certificate in use ends (`notAfter`; of a chain, the server's own).
    pub(crate) fn not_after(&self) -> SystemTime {
        self.0.in_use.0.load().not_after
    }

    /// How long to wait before [`Certificates::refresh`].
    pub(crate) fn next_refresh(&self, now: SystemTime) -> Duration {
        match &*self.0.origin.lock() {
            Origin::Files(_) => FILES_EVERY,
            Origin::SelfSigned(chain) => chain.due_in(now).clamp(AT_LEAST, CLOCK_EVERY),
        }
    }

    /// Reads the files again, or rotates the self-signed certificate when its time has come.
    ///
    /// Returns whether the certificate in use changed. Reads files, hence blocks for a moment.
    ///
    /// # Errors
    ///
    /// [`ServeError::Certificate`] when files changed to something that cannot be used, once for
    /// each change, or when no key could be made. The server goes on with what it has.
    pub(crate) fn refresh(&self, now: SystemTime) -> Result<bool, ServeError> {
        let mut origin = self.0.origin.lock();
        let (next, outcome) = match &mut *origin {
            Origin::Files(files) => match files.reload()? {
                Some(next) => (next, Ok(())),
                None => return Ok(false),
            },
            Origin::SelfSigned(chain) => {
                // Publish before the outcome is looked at: the switch may have been made although
                // no further certificate could be.
                let outcome = chain.advance(now);
                (chain.in_use(), outcome)
            }
        };
        let before = self.0.in_use.0.swap(Arc::new(next));
        outcome.map(|()| before.key.cert != self.0.in_use.0.load().key.cert)
    }
}

impl fmt::Debug for Certificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.in_use.fmt(f)
    }
}

/// What handshakes and pages see. Replaced as a whole, so that the parts always fit each other.
struct InUse {
    key: Arc<CertifiedKey>,
    hashes: Vec<[u8; 32]>,
    not_after: SystemTime,
}

struct Resolver(ArcSwap<InUse>);

impl ResolvesServerCert for Resolver {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0.load().key))
    }
}

// By hand, to be sure that no key is ever printed.
impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resolver").field("not_after", &self.0.load().not_after).finish()
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

fn tcp_config(resolver: Arc<Resolver>) -> Result<ServerConfig, ServeError> {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&version::TLS13, &version::TLS12])
        .expect("ring supports TLS 1.2 and 1.3")
        .with_no_client_auth()
        .with_cert_resolver(resolver);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    // Tickets that the client keeps: when everyone reconnects at once, most handshakes are resumed
    // without a signature, where rustls' default remembers 256 sessions.
    config.ticketer = ring::Ticketer::new().map_err(|error| wrong(format!("tickets: {error}")))?;
    Ok(config)
}

fn wrong(sentence: impl Into<String>) -> ServeError {
    ServeError::Certificate(sentence.into())
}

// --- files

/// A certificate and its key in two files, compared by content.
///
/// Not by modification time or by a watch: a volume of Kubernetes swaps a symlink two levels up.
struct Files {
    cert: PathBuf,
    key: PathBuf,
    /// Digest of what was last read, good or bad: each state is tried, and complained of, once.
    seen: [u8; 32],
}

/// What the certificate's file and the key's hold, or why that cannot be read.
type Contents = [Result<Vec<u8>, String>; 2];

impl Files {
    fn load(cert: PathBuf, key: PathBuf) -> Result<(Self, InUse), ServeError> {
        let contents = [read(&cert), read(&key)];
        let seen = digest(&contents);
        let files = Self { cert, key, seen };
        let first = files.parse(contents)?;
        Ok((files, first))
    }

    /// `None` when nothing changed.
    fn reload(&mut self) -> Result<Option<InUse>, ServeError> {
        let contents = [read(&self.cert), read(&self.key)];
        let digest = digest(&contents);
        if digest == self.seen {
            return Ok(None);
        }
        self.seen = digest;
        self.parse(contents).map(Some)
    }

    fn parse(&self, [cert, key]: Contents) -> Result<InUse, ServeError> {
        let (cert_path, key_path) = (self.cert.display(), self.key.display());
        let chain = CertificateDer::pem_slice_iter(&cert.map_err(wrong)?)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| wrong(format!("{cert_path} is not valid PEM: {error}")))?;
        let first = chain
            .first()
            .ok_or_else(|| wrong(format!("{cert_path} has no certificate in it (as PEM)")))?;
        let (_, not_after) = validity(first)
            .ok_or_else(|| wrong(format!("{cert_path} has a first certificate without dates")))?;
        let key = PrivateKeyDer::from_pem_slice(&key.map_err(wrong)?).map_err(|error| match error {
            pem::Error::NoItemsFound => wrong(format!(
                "{key_path} has no private key in it (as PEM: PKCS#8, PKCS#1 or SEC1, unencrypted)"
            )),
            error => wrong(format!("{key_path} is not valid PEM: {error}")),
        })?;
        let key = ring::sign::any_supported_type(&key)
            .map_err(|error| wrong(format!("{key_path} has an unsupported key: {error}")))?;
        let key = Arc::new(CertifiedKey::new(chain, key));
        key.keys_match().map_err(|error| match error {
            rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
                wrong(format!("{key_path} is not the key of the first certificate in {cert_path}"))
            }
            error => wrong(format!("{cert_path} cannot be used: {error}")),
        })?;
        let hashes = Vec::new();
        Ok(InUse { key, hashes, not_after })
    }
}

fn digest(contents: &Contents) -> [u8; 32] {
    let mut digest = Sha256::new();
    for file in contents {
        let bytes = match file {
            Ok(bytes) => bytes.as_slice(),
            Err(sentence) => sentence.as_bytes(),
        };
        digest.update([u8::from(file.is_ok())]);
        digest.update(bytes.len().to_be_bytes());
        digest.update(bytes);
    }
    digest.finalize().into()
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(FILE_AT_MOST + 1).read_to_end(&mut bytes))
        .map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    if bytes.len() as u64 > FILE_AT_MOST {
        let path = path.display();
        return Err(format!("{path} is larger than {FILE_AT_MOST} bytes"));
    }
    Ok(bytes)
}

// --- self-signed

/// Self-signed certificates that follow each other without a gap: the one in use, then the next.
struct Chain {
    names: Vec<String>,
    /// Never empty.
    links: VecDeque<Link>,
}

struct Link {
    key: Arc<CertifiedKey>,
    hash: [u8; 32],
    /// When it is to be served. Valid [`MARGIN`] longer, at both ends.
    from: SystemTime,
    until: SystemTime,
}

impl Chain {
    fn start(now: SystemTime, names: Vec<String>) -> Result<Self, ServeError> {
        let links = VecDeque::from([Link::new(now, &names)?]);
        let mut chain = Self { names, links };
        chain.advance(now)?;
        Ok(chain)
    }

    /// Makes the certificate of `now` the first, and the next ones.
    fn advance(&mut self, now: SystemTime) -> Result<(), ServeError> {
        if now < self.first().from - MARGIN || self.last().until <= now {
            // The clock was set, or stood still for weeks: none of them is valid.
            self.links = VecDeque::from([Link::new(now, &self.names)?]);
        }
        while self.first().until <= now {
            // The last one stays: it ends after `now`.
            self.links.pop_front();
        }
        while self.links.len() <= AHEAD {
            let next = Link::new(self.last().until, &self.names)?;
            self.links.push_back(next);
        }
        Ok(())
    }

    fn due_in(&self, now: SystemTime) -> Duration {
        self.first().until.duration_since(now).unwrap_or_default()
    }

    fn in_use(&self) -> InUse {
        InUse {
            key: Arc::clone(&self.first().key),
            hashes: self.links.iter().map(|link| link.hash).collect(),
            not_after: self.first().until + MARGIN,
        }
    }

    fn first(&self) -> &Link {
        self.links.front().expect("a chain has a first link")
    }

    fn last(&self) -> &Link {
        self.links.back().expect("a chain has a last link")
    }
}

impl Link {
    fn new(from: SystemTime, names: &[String]) -> Result<Self, ServeError> {
        // Certificates count whole seconds.
        let since_epoch = from.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let from = SystemTime::UNIX_EPOCH + Duration::from_secs(since_epoch.as_secs());
        let until = from + SERVED_FOR;
        let (cert, key) = self_signed(names, from - MARGIN, until + MARGIN)
            .map_err(|error| wrong(format!("cannot make a self-signed certificate: {error}")))?;
        let hash = Sha256::digest(&cert).into();
        let key = CertifiedKey::from_der(vec![cert], key, &provider())
            .map_err(|error| wrong(format!("cannot use a self-signed certificate: {error}")))?;
        Ok(Self { key: Arc::new(key), hash, from, until })
    }
}

/// W3C WebTransport: an X.509v3 certificate, with ECDSA on secp256r1 (browsers refuse RSA here).
fn self_signed(
    names: &[String],
    not_before: SystemTime,
    not_after: SystemTime,
) -> Result<(CertificateDer<'static>, PrivateKeyDer<'static>), rcgen::Error> {
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
    let mut params = rcgen::CertificateParams::new(names)?;
    params.not_before = OffsetDateTime::from(not_before);
    params.not_after = OffsetDateTime::from(not_after);
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(rcgen::DnType::CommonName, "quicket, self-signed");
    params.key_usages = vec![rcgen::KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
    let cert = params.self_signed(&key)?.der().clone();
    let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
    Ok((cert, key))
}

/// The names in a self-signed certificate. Browsers that go by the hash ignore them; others do not.
fn names() -> Vec<String> {
    let mut names = vec!["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()];
    names.extend(host_name());
    names
}

/// The machine's name, where Linux tells it and it can stand in a certificate.
fn host_name() -> Option<String> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").ok()?;
    let name = name.trim();
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"-.".contains(&byte);
    let fits = !name.is_empty() && name.len() <= 253 && name.bytes().all(legal);
    (fits && name != "localhost").then(|| name.to_owned())
}

// --- dates in a certificate (neither rustls nor rcgen reads them)

/// `notBefore` and `notAfter` of a certificate in DER (RFC 5280 4.1). `None` when it is none.
fn validity(cert: &[u8]) -> Option<(SystemTime, SystemTime)> {
    let (_, certificate, _) = element(cert)?;
    let (_, mut fields, _) = element(certificate)?;
    if fields.first() == Some(&VERSION) {
        (_, _, fields) = element(fields)?;
    }
    // serialNumber, signature, issuer
    for _ in 0..3 {
        (_, _, fields) = element(fields)?;
    }
    let (_, validity, _) = element(fields)?;
    let (not_before_tag, not_before, rest) = element(validity)?;
    let (not_after_tag, not_after, _) = element(rest)?;
    Some((date(not_before_tag, not_before)?, date(not_after_tag, not_after)?))
}

/// Of the optional first field.
const VERSION: u8 = 0xa0;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

/// The first element of `der`: its tag, its content, and what comes after it.
fn element(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&[tag, length], rest) = der.split_first_chunk()?;
    let (length, rest) = match length {
        0..=0x7f => (usize::from(length), rest),
        0x81..=0x84 => {
            let (bytes, rest) = rest.split_at_checked(usize::from(length - 0x80))?;
            (bytes.iter().fold(0, |sum, &byte| sum << 8 | usize::from(byte)), rest)
        }
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((tag, content, rest))
}

/// RFC 5280 4.1.2.5: `YYMMDDHHMMSSZ` with years 1950 to 2049, or `YYYYMMDDHHMMSSZ`.
fn date(tag: u8, text: &[u8]) -> Option<SystemTime> {
    let digits = text.strip_suffix(b"Z")?;
    let number = |part: &[u8]| {
        part.iter().try_fold(0, |sum: u16, byte| {
            byte.is_ascii_digit().then(|| sum * 10 + u16::from(byte - b'0'))
        })
    };
    let (year, digits) = match (tag, digits.len()) {
        (UTC_TIME, 12) => {
            let year = number(&digits[..2])?;
            (if year < 50 { 2000 + year } else { 1900 + year }, &digits[2..])
        }
        (GENERALIZED_TIME, 14) => (number(&digits[..4])?, &digits[4..]),
        _ => return None,
    };
    let mut parts = [0_u8; 5];
    for (part, two) in parts.iter_mut().zip(digits.chunks_exact(2)) {
        *part = u8::try_from(number(two)?).ok()?;
    }
    let [month, day, hour, minute, second] = parts;
    let month = Month::try_from(month).ok()?;
    let day = Date::from_calendar_date(i32::from(year), month, day).ok()?;
    Some(day.with_hms(hour, minute, second).ok()?.assume_utc().into())
}

#[cfg(test)]
#[path = "tls_tests.rs"]
mod tests;
