//! How to reach Redis: its address, the credentials, and whom to trust.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use fred::error::{Error, ErrorKind};
use fred::types::config::{
    Config as ClientConfig, CredentialProvider, Server, ServerConfig, TlsConfig, TlsConnector,
    TlsHostMapping,
};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig as TlsClient, RootCertStore};

use crate::config::{RedisAddress, RedisConfig};

/// What connections are made from.
pub(super) struct Access {
    client: ClientConfig,
    config: RedisConfig,
    /// Read again for each epoch: certificates are renewed while we run. `None` without TLS.
    tls: Option<Mutex<TlsConfig>>,
}

impl Access {
    /// # Errors
    /// The URL, or a file, cannot be used.
    pub(super) fn new(config: &RedisConfig) -> Result<Self, String> {
        let url = config.url.as_deref().unwrap_or_default();
        let address =
            RedisAddress::parse(url).map_err(|right| format!("redis-url must be {right}"))?;
        let mut client = address.client;
        client.fail_fast = true;
        if let Some(password) = &config.password {
            client.password = Some(password.clone());
        }
        if let ServerConfig::Sentinel { password, .. } = &mut client.server
            && let Some(own) = &config.sentinel_password
        {
            *password = Some(own.clone());
        }
        let tls = address.tls.then(|| tls_config(config)).transpose()?;
        Ok(Self { client, config: config.clone(), tls: tls.map(Mutex::new) })
    }

    /// Which servers are told of in the URL, and in what form.
    pub(super) fn server(&self) -> &ServerConfig {
        &self.client.server
    }

    /// Reads the files again.
    pub(super) fn refresh(&self) -> Result<(), Error> {
        if let Some(tls) = &self.tls {
            let fresh =
                tls_config(&self.config).map_err(|what| Error::new(ErrorKind::Tls, what))?;
            *tls.lock() = fresh;
        }
        Ok(())
    }

    /// For one server that has data.
    pub(super) fn to_server(&self, server: &Server) -> ClientConfig {
        let mut server = server.clone();
        // a URL has IPv6 addresses in brackets
        let bare = server.host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        if let Some(bare) = bare.map(str::to_owned) {
            server.host = bare.into();
        }
        let mut client = self.client.clone();
        client.server = ServerConfig::Centralized { server };
        client.tls = self.tls.as_ref().map(|tls| tls.lock().clone());
        without_ping(client)
    }

    /// For a Sentinel, which has credentials of its own.
    pub(super) fn to_sentinel(&self, server: &Server) -> ClientConfig {
        let mut client = self.to_server(server);
        client.database = None;
        if let ServerConfig::Sentinel { username, password, .. } = &self.client.server {
            client.username = username.clone();
            client.password = password.clone();
        }
        without_ping(client)
    }
}

/// Without a password fred begins a connection with PING, which a Redis that stores nothing refuses (`MISCONF`). It is
/// asked all the same: nodes have to be able to start then. Where there is a password fred sends that.
fn without_ping(mut client: ClientConfig) -> ClientConfig {
    let nobody = client.password.is_none().then(|| Arc::new(Nobody) as Arc<dyn CredentialProvider>);
    client.credential_provider = nobody;
    client
}

/// Who needs no credentials.
#[derive(Debug)]
struct Nobody;

type Credentials = (Option<String>, Option<String>);

impl CredentialProvider for Nobody {
    fn fetch<'a, 'b, 'c>(
        &'a self,
        _server: Option<&'b Server>,
    ) -> BoxFuture<'c, Result<Credentials, Error>>
    where
        'a: 'c,
        'b: 'c,
        Self: 'c,
    {
        std::future::ready(Ok((None, None))).boxed()
    }
}

fn tls_config(config: &RedisConfig) -> Result<TlsConfig, String> {
    let mut roots = RootCertStore::empty();
    match &config.ca {
        Some(path) => {
            for certificate in certificates("redis-ca", path)? {
                roots.add(certificate).map_err(|error| format!("redis-ca: {error}"))?;
            }
        }
        None => {
            // one that cannot be read is no reason to do without the others
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    let builder = TlsClient::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots);
    let client = match config.cert.as_deref().zip(config.key.as_deref()) {
        None => builder.with_no_client_auth(),
        Some((cert, key)) => {
            let chain = certificates("redis-cert", cert)?;
            let key = PrivateKeyDer::from_pem_slice(&read("redis-key", key)?)
                .map_err(|error| format!("redis-key: no private key in PEM: {error}"))?;
            builder
                .with_client_auth_cert(chain, key)
                .map_err(|error| format!("redis-cert and redis-key: {error}"))?
        }
    };
    Ok(TlsConfig { connector: TlsConnector::from(client), hostnames: TlsHostMapping::None })
}

fn certificates(setting: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let pem = read(setting, path)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        _ => Err(format!("{setting}: no certificate in PEM in {}", path.display())),
    }
}

fn read(setting: &str, path: &Path) -> Result<Vec<u8>, String> {
    fs::read(path).map_err(|error| format!("{setting}: {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access(url: &str, change: impl FnOnce(&mut RedisConfig)) -> Result<Access, String> {
        let mut config = RedisConfig { url: Some(url.to_owned()), ..RedisConfig::default() };
        change(&mut config);
        Access::new(&config)
    }

    #[test]
    fn every_form_of_a_url_is_read() {
        let hosts = |url: &str| {
            let hosts = access(url, |_| {}).unwrap().server().hosts();
            let mut hosts: Vec<_> = hosts.iter().map(ToString::to_string).collect();
            hosts.sort();
            hosts.join(" ")
        };
        assert_eq!(hosts("redis://a"), "a:6379");
        assert_eq!(hosts("rediss://user:p%40ss@a:1/2"), "a:1");
        assert_eq!(hosts("valkey://a"), "a:6379");
        assert_eq!(hosts("redis-cluster://a?node=b:2"), "a:6379 b:2");
        let sentinel = "rediss-sentinel://a?sentinelServiceName=m&node=b:2";
        assert_eq!(hosts(sentinel), "a:26379 b:2");
        for wrong in ["", "a:6379", "http://a", "redis-sentinel://a", "redis://a/x", "redis://"] {
            assert!(RedisAddress::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn passwords_have_their_own_settings_which_win() {
        let sentinel = "redis-sentinel://:one@a?sentinelServiceName=m&sentinelPassword=two";
        let server = Server::new("x", 1);
        let of = |access: Access| {
            let password = |config: ClientConfig| config.password.unwrap();
            (password(access.to_server(&server)), password(access.to_sentinel(&server)))
        };
        let plain = access(sentinel, |_| {}).unwrap();
        assert_eq!(of(plain), ("one".to_owned(), "two".to_owned()));
        let set = access(sentinel, |config| {
            config.password = Some("three".to_owned());
            config.sentinel_password = Some("four".to_owned());
        });
        assert_eq!(of(set.unwrap()), ("three".to_owned(), "four".to_owned()));
    }

    #[test]
    fn an_address_in_brackets_is_one() {
        let server = access("redis://[::1]:7", |_| {}).unwrap();
        let host = server.server().hosts().remove(0);
        assert_eq!(server.to_server(&host).server.hosts()[0].host, "::1");
    }

    #[test]
    fn a_file_that_cannot_be_used_is_named() {
        let missing = access("rediss://a", |config| config.ca = Some("/nonexistent".into()));
        let error = missing.err().unwrap();
        assert!(error.starts_with("redis-ca: /nonexistent: "), "{error}");
        let empty = access("rediss://a", |config| config.ca = Some("/dev/null".into()));
        assert_eq!(empty.err().unwrap(), "redis-ca: no certificate in PEM in /dev/null");
    }
}
