//! One GET over HTTP/1.1, with hyper, which serves us, too: a client with pools, proxies and redirects
//! would be the largest part of the binary for one small document.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, CONNECTION, HOST, USER_AGENT};
use http::{Request, StatusCode, Uri};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::crypto::ring;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;

/// The largest document; those of large providers have 10 KiB.
pub(super) const MAX_DOCUMENT_BYTES: usize = 256 * 1024;
/// How long all of it may take: clients wait for it.
const DEADLINE: Duration = Duration::from_secs(5);

/// Gets one document.
pub(super) struct Fetcher {
    url: Uri,
    tls: Option<(TlsConnector, ServerName<'static>)>,
}

impl Fetcher {
    /// # Errors
    /// The address cannot be used.
    pub(super) fn new(url: &str) -> Result<Self, String> {
        let url: Uri = url.parse().map_err(|error| format!("jwt-jwks-url: {error}"))?;
        let host = url.host().ok_or("jwt-jwks-url: there is no host in it")?;
        let tls = (url.scheme_str() == Some("https")).then(|| {
            let name = ServerName::try_from(bare(host).to_owned());
            let name = name.map_err(|error| format!("jwt-jwks-url: {error}"))?;
            Ok::<_, String>((connector()?, name))
        });
        Ok(Self { tls: tls.transpose()?, url })
    }

    /// # Errors
    /// What went wrong, without the query of the address, which may hold a secret.
    pub(super) async fn get(&self) -> Result<Vec<u8>, String> {
        let host = self.url.host().unwrap_or_default();
        match tokio::time::timeout(DEADLINE, self.exchange(host)).await {
            Ok(Ok(document)) => Ok(document),
            Ok(Err(error)) => Err(format!("{host}: {error}")),
            Err(_) => Err(format!("{host}: no answer within {} s", DEADLINE.as_secs())),
        }
    }

    async fn exchange(&self, host: &str) -> Result<Vec<u8>, String> {
        let default = if self.tls.is_some() { 443 } else { 80 };
        let port = self.url.port_u16().unwrap_or(default);
        let stream = TcpStream::connect((bare(host), port)).await.map_err(|e| e.to_string())?;
        match &self.tls {
            None => self.ask(stream).await,
            Some((connector, name)) => {
                let stream = connector.connect(name.clone(), stream).await;
                self.ask(stream.map_err(|e| e.to_string())?).await
            }
        }
    }

    async fn ask<S>(&self, stream: S) -> Result<Vec<u8>, String>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let handshake = http1::Builder::new().handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = handshake.map_err(|error| error.to_string())?;
        // ends with this future
        let mut tasks = JoinSet::new();
        tasks.spawn(connection);
        let path = self.url.path_and_query().map_or("/", |path| path.as_str());
        let authority = self.url.authority().map_or("", |authority| authority.as_str());
        let request = Request::get(path)
            .header(HOST, authority)
            .header(ACCEPT, "application/jwk-set+json, application/json")
            .header(USER_AGENT, concat!("quicket/", env!("CARGO_PKG_VERSION")))
            .header(CONNECTION, "close")
            .body(Empty::<Bytes>::new())
            .map_err(|error| error.to_string())?;
        let response = sender.send_request(request).await.map_err(|error| error.to_string())?;
        if response.status() != StatusCode::OK {
            return Err(format!("HTTP {}", response.status()));
        }
        let body = Limited::new(response.into_body(), MAX_DOCUMENT_BYTES).collect().await;
        Ok(body.map_err(|error| error.to_string())?.to_bytes().into())
    }
}

/// A URL has IPv6 addresses in brackets.
fn bare(host: &str) -> &str {
    host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host)
}

fn connector() -> Result<TlsConnector, String> {
    let mut roots = RootCertStore::empty();
    // one that cannot be read is no reason to do without the others; SSL_CERT_FILE names others
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}
