//! A server for one test.

use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use quicket::config::{Config, EngineConfig, Listen, OriginPolicy};
use quicket::{
    Builder, CloseReason, EngineServer, EngineSocket, ForEngine, ServeError, TransportKind,
};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use wtransport::endpoint::endpoint_side;
use wtransport::tls::Sha256Digest;
use wtransport::{ClientConfig, Endpoint};

use super::client::Client;
use super::http::{Request, Response};
use super::{eventually, within};

/// The path of Engine.IO here.
pub(crate) const PATH: &str = "/engine.io/";

/// Sessions that nothing disturbs: the first ping is far away.
pub(crate) fn engine() -> EngineConfig {
    EngineConfig {
        path: PATH.to_owned(),
        origins: OriginPolicy::Any,
        poll_close_timeout: Duration::from_millis(500),
        ..EngineConfig::default()
    }
}

/// The loopback, a free port, and this.
pub(crate) fn config(engine: EngineConfig) -> Config {
    Config {
        listen: Listen { address: Ipv4Addr::LOCALHOST.into(), port: 0, ..Listen::default() },
        engine,
        shutdown_grace: Duration::from_secs(5),
        ..Config::default()
    }
}

/// A server that runs.
pub(crate) struct TestServer {
    pub(crate) server: EngineServer,
    pub(crate) address: SocketAddr,
    pub(crate) endpoint: Endpoint<endpoint_side::Client>,
    serving: JoinHandle<Result<usize, ServeError>>,
    ends: mpsc::UnboundedReceiver<CloseReason>,
}

impl TestServer {
    /// Sends every message back. `bye` closes the session after a last message.
    pub(crate) async fn echo(engine: EngineConfig) -> Self {
        Self::start(engine, echo, |builder| builder).await
    }

    /// Runs `app` for each session; when it returns a reason, [`TestServer::session_end`] gives it.
    pub(crate) async fn start<F, Fut>(
        engine: EngineConfig,
        app: F,
        more: impl FnOnce(Builder<ForEngine>) -> Builder<ForEngine>,
    ) -> Self
    where
        F: Fn(EngineSocket) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Option<CloseReason>> + Send + 'static,
    {
        Self::start_on(&Handle::current(), engine, app, more).await
    }

    /// The same with the server in a runtime of its own.
    pub(crate) async fn start_on<F, Fut>(
        runtime: &Handle,
        engine: EngineConfig,
        app: F,
        more: impl FnOnce(Builder<ForEngine>) -> Builder<ForEngine>,
    ) -> Self
    where
        F: Fn(EngineSocket) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Option<CloseReason>> + Send + 'static,
    {
        let (sender, ends) = mpsc::unbounded_channel();
        let builder = EngineServer::builder(move |socket| {
            let (run, sender) = (app(socket), sender.clone());
            async move {
                if let Some(reason) = run.await {
                    let _ = sender.send(reason); // the test may be over
                }
            }
        });
        let builder = more(builder.config(config(engine)));
        let bind = async {
            let server = builder.build().await.unwrap();
            let address = server.bind().await.unwrap();
            (server, address)
        };
        let (server, address) = runtime.spawn(bind).await.unwrap();
        let serving = runtime.spawn({
            let server = server.clone();
            async move { server.serve().await }
        });
        Self { endpoint: endpoint(address).await, server, address, serving, ends }
    }

    pub(crate) async fn connect(&self, kind: TransportKind) -> Client {
        Client::connect(self, kind).await
    }

    /// The target of requests of a transport that goes over HTTP.
    pub(crate) fn target(kind: TransportKind, sid: Option<&str>) -> String {
        let sid = sid.map_or_else(String::new, |sid| format!("&sid={sid}"));
        format!("{PATH}?EIO=4&transport={kind}{sid}")
    }

    /// One poll.
    pub(crate) async fn poll(&self, sid: &str) -> Response {
        let target = Self::target(TransportKind::Polling, Some(sid));
        Request::get(target).send(self.address).await
    }

    /// One POST.
    pub(crate) async fn post(&self, sid: &str, body: &str) -> Response {
        let target = Self::target(TransportKind::Polling, Some(sid));
        Request::post(target, body).send(self.address).await
    }

    /// Why the next session ended.
    pub(crate) async fn session_end(&mut self) -> CloseReason {
        let reason = within("the end of a session", self.ends.recv()).await;
        reason.expect("the server holds the sender")
    }

    /// The value of a series, as `/metrics` shows it.
    pub(crate) fn metric(&self, series: &str) -> u64 {
        let text = self.server.metrics().render();
        let line = text.lines().find_map(|line| line.strip_prefix(series));
        let value = line.unwrap_or_else(|| panic!("no series {series}"));
        value.trim().parse().unwrap()
    }

    /// How often this rule was broken.
    pub(crate) fn misbehaved(&self, rule: &str) -> u64 {
        self.metric(&format!("quicket_peer_misbehaved_total{{rule=\"{rule}\"}}"))
    }

    /// How many sessions ended for this reason.
    pub(crate) fn ended(&self, reason: CloseReason) -> u64 {
        let reason = reason.label();
        self.metric(&format!("quicket_sessions_closed_total{{reason=\"{reason}\"}}"))
    }

    /// How many upgrades ended so.
    pub(crate) fn upgrades(&self, to: TransportKind, outcome: &str) -> u64 {
        let labels = format!("from=\"polling\",to=\"{to}\",outcome=\"{outcome}\"");
        self.metric(&format!("quicket_upgrades_total{{{labels}}}"))
    }

    pub(crate) async fn no_sessions_left(&self) {
        let server = &self.server;
        eventually("all sessions to be gone", || server.session_count() == 0).await;
    }

    /// Shuts down: nothing may be left over.
    pub(crate) async fn end(self) {
        self.server.shutdown();
        let left = within("serve() to return", self.serving).await.unwrap();
        assert_eq!(left.unwrap(), 0, "sessions outlived the server");
        let server = &self.server;
        assert_eq!(server.session_count(), 0);
        for kind in TransportKind::ALL {
            let open = format!("quicket_sessions{{transport=\"{kind}\"}}");
            let text = server.metrics().render();
            assert!(text.contains(&format!("{open} 0\n")), "{open} in\n{text}");
        }
    }
}

pub(crate) async fn echo(mut session: EngineSocket) -> Option<CloseReason> {
    loop {
        match session.recv().await {
            Ok(message) => {
                let bye = message == "bye".into();
                // the next recv() says why it did not go
                let _ = session.send(message);
                if bye {
                    session.close();
                }
            }
            Err(reason) => return Some(reason),
        }
    }
}

/// An application that only keeps the sessions: [`Sessions::take`] gives the next one to the test.
#[derive(Clone, Default)]
pub(crate) struct Sessions(Arc<Mutex<Vec<EngineSocket>>>);

impl Sessions {
    pub(crate) fn keep(&self, session: EngineSocket) {
        self.0.lock().unwrap().push(session);
    }

    pub(crate) async fn take(&self) -> EngineSocket {
        let mut taken = None;
        eventually("a session to reach the application", || {
            taken = self.0.lock().unwrap().pop();
            taken.is_some()
        })
        .await;
        taken.unwrap()
    }
}

/// A QUIC endpoint that trusts exactly the certificates that the server's page is told of.
pub(crate) async fn endpoint(address: SocketAddr) -> Endpoint<endpoint_side::Client> {
    endpoint_at(Ipv4Addr::LOCALHOST, address).await
}

/// The same at another address of this machine's.
pub(crate) async fn endpoint_at(
    own: Ipv4Addr,
    address: SocketAddr,
) -> Endpoint<endpoint_side::Client> {
    let answer = Request::get("/webtransport.json").send(address).await;
    let hashes = if answer.status == 200 {
        let page: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
        assert!(page["port"].is_u64(), "{page}");
        let hashes = page["certificateHashes"].as_array().unwrap();
        let hashes = hashes.iter().map(|hash| {
            let hash = STANDARD.decode(hash.as_str().unwrap()).unwrap();
            Sha256Digest::new(hash.try_into().unwrap())
        });
        hashes.collect()
    } else {
        Vec::new() // WebTransport is switched off
    };
    let config = ClientConfig::builder()
        .with_bind_address((own, 0).into())
        .with_server_certificate_hashes(hashes)
        .build();
    Endpoint::client(config).unwrap()
}
