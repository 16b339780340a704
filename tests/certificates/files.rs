//! Certificates of an authority, and the files they are put into.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::client::Resumption;
use rustls::pki_types::CertificateDer;
use rustls::{ClientConfig, RootCertStore};

/// A certificate and its key.
#[derive(Clone)]
pub(crate) struct Pair {
    /// PEM.
    pub(crate) cert: String,
    /// PEM.
    pub(crate) key: String,
    pub(crate) der: Vec<u8>,
    /// In Unix time.
    pub(crate) not_after: i64,
}

/// Signs the server's certificates; clients trust nobody else.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    root: CertificateDer<'static>,
    issued: AtomicUsize,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let root = params.self_signed(&key).unwrap().der().clone();
        Self { issuer: Issuer::new(params, key), root, issued: AtomicUsize::new(0) }
    }

    /// The next certificate, which ends a year after the one before.
    pub(crate) fn issue(&self) -> Pair {
        let key = KeyPair::generate().unwrap();
        let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
        let mut params = CertificateParams::new(names).unwrap();
        let year = 2040 + self.issued.fetch_add(1, Ordering::Relaxed);
        params.not_after = rcgen::date_time_ymd(i32::try_from(year).unwrap(), 1, 1);
        let not_after = params.not_after.unix_timestamp();
        let cert = params.signed_by(&key, &self.issuer).unwrap();
        let der = cert.der().to_vec();
        Pair { cert: cert.pem(), key: key.serialize_pem(), der, not_after }
    }

    /// A client that verifies chain and name, and never resumes: it is shown a certificate each time.
    pub(crate) fn client(&self, alpn: &[u8]) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(self.root.clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.resumption = Resumption::disabled();
        config.alpn_protocols = vec![alpn.to_vec()];
        Arc::new(config)
    }
}

/// Where a server's certificate lies; removed at the end.
pub(crate) struct Folder {
    path: PathBuf,
    swaps: AtomicUsize,
}

impl Folder {
    pub(crate) fn new() -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let unique = format!("{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("certificates").join(unique);
        fs::create_dir_all(&path).unwrap();
        Self { path, swaps: AtomicUsize::new(0) }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// As people and certbot's hooks do it.
    pub(crate) fn overwrite(&self, pair: &Pair) {
        fs::write(self.path("tls.crt"), &pair.cert).unwrap();
        fs::write(self.path("tls.key"), &pair.key).unwrap();
    }

    /// As the kubelet updates a Secret's volume (kubernetes `pkg/volume/util/atomic_writer.go`): a folder
    /// with a new name, `..data` turned to it in one step, and the folder from before removed. What a
    /// container opens, `tls.crt`, is a symlink that never changes.
    pub(crate) fn swap_secret(&self, pair: &Pair) {
        let now = self.swaps.fetch_add(1, Ordering::Relaxed);
        let name = |n: usize| format!("..2026_11_22_00_00_00.{n}");
        fs::create_dir(self.path(&name(now))).unwrap();
        for (file, text) in [("tls.crt", &pair.cert), ("tls.key", &pair.key)] {
            fs::write(self.path(&name(now)).join(file), text).unwrap();
        }
        symlink(name(now), self.path("..data_tmp")).unwrap();
        fs::rename(self.path("..data_tmp"), self.path("..data")).unwrap();
        match now {
            0 => {
                for file in ["tls.crt", "tls.key"] {
                    symlink(format!("..data/{file}"), self.path(file)).unwrap();
                }
            }
            now => fs::remove_dir_all(self.path(&name(now - 1))).unwrap(),
        }
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}
