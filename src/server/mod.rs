//! The tasks that own the values of the other layers, and the server that applications build.
//!
//! # Lock order
//! log of a namespace ▶ namespaces ▶ connection state ▶ rooms ▶ pending acks ▶ inbox ▶ registry ▶ mailbox.
//! None is held across an await or a call of user code.

mod accept;
mod core;
mod descriptors;
mod direct;
mod driver;
mod handover;
mod http2;
mod http2_answer;
mod http2_heads;
mod limits;
mod listen;
mod quic;
mod quic_keys;
mod quic_lb;
mod quic_runtime;
mod raw;
mod registry;
mod shed;
mod tokens;
mod upper;

use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::response::IntoResponse;
use axum::routing::{any, get};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{Request, StatusCode, header};
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use self::accept::Peer;
use self::core::{AdmitFn, Core, Protocol, RawFn};
pub use self::descriptors::raise_descriptor_limit;
use self::handover::Handover;
use self::quic::Quic;
pub use self::raw::EngineSocket;
use crate::cluster::Bus;
use crate::cluster::history::TailLimits;
use crate::cluster::memory::MemoryBus;
use crate::cluster::redis::RedisBus;
use crate::config::{Config, RecoveryConfig};
use crate::engine::NodeTag;
use crate::engine::handshake::{Handshake, Refusal};
use crate::error::ServeError;
use crate::jwt::Jwt;
use crate::metrics::Metrics;
use crate::socketio::packet::Codec;
use crate::socketio::{Auth, DynamicNamespace, Namespace, SocketIo};
use crate::transport::tls::{Certificates, Source};

/// What a server is made of before it runs. See [`Server::builder`] and [`EngineServer::builder`].
pub struct Builder<S> {
    config: Config,
    routes: Router,
    admit: Option<Box<AdmitFn>>,
    kind: S,
}

impl<S> fmt::Debug for Builder<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder").field("config", &self.config).finish_non_exhaustive()
    }
}

/// Makes a builder build a [`Server`].
#[derive(Debug)]
pub struct ForSocketIo(());

/// Makes a builder build an [`EngineServer`].
pub struct ForEngine(Box<RawFn>);

impl<S> Builder<S> {
    fn new(kind: S) -> Self {
        Self { config: Config::default(), routes: Router::new(), admit: None, kind }
    }

    /// The configuration. Defaults without.
    #[must_use]
    pub fn config(mut self, config: Config) -> Self {
        self.config = config;
        self
    }

    /// What else is served on the same port: pages, an API. Used by `serve` only.
    #[must_use]
    pub fn routes(mut self, routes: Router) -> Self {
        self.routes = routes;
        self
    }

    /// Asks before a session is opened, the same on every transport (Node's `allowRequest`). Origin
    /// policy and limits come first, and tokens by [`JwtConfig::admission`](crate::config::JwtConfig::admission);
    /// [`Jwt::admit`] is a hook that asks for them.
    #[must_use]
    pub fn admit<F, Fut>(mut self, admit: F) -> Self
    where
        F: Fn(Arc<Handshake>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), Refusal>> + Send + 'static,
    {
        self.admit = Some(Box::new(move |handshake| Box::pin(admit(handshake))));
        self
    }

    fn core(
        self,
        protocol: impl FnOnce(S, &Config, &Arc<Metrics>, NodeTag) -> Result<Protocol, ServeError>,
    ) -> Result<Running, ServeError> {
        self.config.check()?;
        let source = match &self.config.tls {
            Some(files) => Source::Files { cert: files.cert.clone(), key: files.key.clone() },
            None => Source::SelfSigned,
        };
        let certificates = Certificates::load(source, SystemTime::now())?;
        let metrics = Arc::new(Metrics::new(env!("CARGO_PKG_VERSION")));
        let node = NodeTag::new(rand::random());
        let protocol = protocol(self.kind, &self.config, &metrics, node)?;
        let admit = match self.config.jwt.admission {
            false => self.admit,
            true => {
                let jwt = Jwt::measured(self.config.jwt.clone(), metrics.keys.clone())?;
                Some(tokens::admission(jwt, metrics.clone(), self.admit))
            }
        };
        let core = Core::new(self.config, metrics, certificates, protocol, admit, node);
        Ok(Running {
            core: Arc::new(core),
            routes: self.routes,
            bound: Mutex::default(),
            udp_port: Arc::default(),
        })
    }
}

impl Builder<ForSocketIo> {
    /// Builds the server; binds nothing yet.
    ///
    /// # Errors
    /// [`ServeError::Config`] with every mistake, [`ServeError::Certificate`], [`ServeError::Jwt`].
    pub async fn build(self) -> Result<Server, ServeError> {
        let mut started = None;
        let running = self.core(|_, config, metrics, node| {
            let bus: Arc<dyn Bus> = match &config.redis.url {
                None => {
                    metrics.bus.connected.set(1);
                    Arc::new(MemoryBus::new(history(&config.socketio.recovery)))
                }
                Some(_) => {
                    let codec = Codec::from(config.socketio.parser);
                    let bus = RedisBus::new(
                        config.redis.clone(),
                        history(&config.socketio.recovery),
                        codec,
                        metrics.clone(),
                    )?;
                    started = Some(bus.clone());
                    Arc::new(bus)
                }
            };
            // else asked for when a session is opened
            let in_namespaces = config.jwt.is_on() && !config.jwt.admission;
            let jwt = || Jwt::measured(config.jwt.clone(), metrics.keys.clone());
            let jwt = in_namespaces.then(jwt).transpose()?;
            let socketio = SocketIo::new(config.socketio.clone(), metrics.clone(), bus, node, jwt);
            let socketio = Arc::new(socketio);
            socketio.keep_sessions();
            Ok(Protocol::SocketIo(socketio))
        })?;
        if let Some(bus) = started {
            // no client is let in before the node knows from where on it has to read
            bus.started().await?;
        }
        Ok(Server(Arc::new(running)))
    }
}

/// What logs have to remember.
fn history(recovery: &RecoveryConfig) -> Option<TailLimits> {
    let (entries, bytes) = (recovery.history_entries, recovery.history_bytes);
    recovery.is_on().then_some(TailLimits { entries, bytes })
}

impl Builder<ForEngine> {
    /// Builds the server; binds nothing yet.
    ///
    /// # Errors
    /// [`ServeError::Config`] with every mistake, [`ServeError::Certificate`], [`ServeError::Jwt`].
    pub async fn build(self) -> Result<EngineServer, ServeError> {
        let running = self.core(|kind, _, _, _| Ok(Protocol::Raw(kind.0)))?;
        Ok(EngineServer(Arc::new(running)))
    }
}

struct Running {
    core: Arc<Core>,
    routes: Router,
    bound: Mutex<Option<Bound>>,
    /// The UDP port in use, for the page's configuration.
    udp_port: Arc<Mutex<Option<u16>>>,
}

struct Bound {
    address: SocketAddr,
    listener: std::net::TcpListener,
    admin: Option<std::net::TcpListener>,
    quic: Option<Arc<Quic>>,
}

/// A Socket.IO server. Cheap to clone.
#[derive(Clone)]
pub struct Server(Arc<Running>);

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").finish_non_exhaustive()
    }
}

/// A bare Engine.IO server, for protocols of one's own. Cheap to clone.
#[derive(Clone)]
pub struct EngineServer(Arc<Running>);

impl fmt::Debug for EngineServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EngineServer").finish_non_exhaustive()
    }
}

impl EngineServer {
    /// Starts to build one. `run` has each session from its first message to its last; when it returns,
    /// the session is closed.
    pub fn builder<F, Fut>(run: F) -> Builder<ForEngine>
    where
        F: Fn(EngineSocket) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        Builder::new(ForEngine(Box::new(move |socket| Box::pin(run(socket)))))
    }
}

impl Server {
    /// Starts to build one.
    pub fn builder() -> Builder<ForSocketIo> {
        Builder::new(ForSocketIo(()))
    }

    fn socketio(&self) -> &SocketIo {
        match &self.0.core.protocol {
            Protocol::SocketIo(socketio) => socketio,
            Protocol::Raw(_) => unreachable!("only the builder of Socket.IO makes a Server"),
        }
    }

    /// The namespace of that name, made if it is new.
    pub fn of(&self, name: &str) -> Namespace {
        self.socketio().of(name)
    }

    /// Namespaces that come into being when a client asks for one that `accept` agrees to.
    pub fn of_dynamic<F, Fut>(&self, accept: F) -> DynamicNamespace
    where
        F: Fn(String, Auth) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = bool> + Send + 'static,
    {
        self.socketio().of_dynamic(accept)
    }
}

macro_rules! running {
    ($server:ident) => {
        impl $server {
            /// The routes of the protocol, for an axum application that has a listener of its own:
            /// `Router::new().merge(server.router())`. WebTransport then needs
            /// [`Self::listen_webtransport`] beside it.
            ///
            /// The peer's address is known if the application is served with
            /// `into_make_service_with_connect_info::<SocketAddr>()`.
            pub fn router(&self) -> Router {
                // the listener is the application's, as is what it waits for before it listens
                self.0.core.set_ready();
                self.0.router()
            }

            /// `/healthz` (the process runs), `/readyz` (its listeners are bound, or an application with a
            /// listener of its own has taken [`Self::router`]), `/acceptz` (new sessions are welcome) and
            /// `/metrics` (OpenMetrics; what has to be counted for it is, once a second at most).
            pub fn admin_router(&self) -> Router {
                self.0.admin_router(false)
            }

            /// Binds the configured address, TCP and UDP. Gives the address, with the port that port 0
            /// became.
            ///
            /// # Errors
            /// [`ServeError::Bind`].
            pub async fn bind(&self) -> Result<SocketAddr, ServeError> {
                self.0.bind()
            }

            /// Serves until [`Self::shutdown`] is called, then closes what is open and returns the number
            /// of sessions that did not end within the grace period. Binds first if nobody has.
            ///
            /// # Errors
            /// [`ServeError::Bind`].
            pub async fn serve(&self) -> Result<usize, ServeError> {
                self.0.serve().await
            }

            /// Listens for WebTransport only, on this UDP address: for an application that serves HTTP
            /// itself. Gives the bound address; the task ends with [`Self::shutdown`].
            ///
            /// # Errors
            /// [`ServeError::Bind`].
            pub async fn listen_webtransport(
                &self,
                address: SocketAddr,
            ) -> Result<SocketAddr, ServeError> {
                self.0.listen_webtransport(address)
            }

            /// Ends [`Self::serve`]. New sessions are refused from now on.
            pub fn shutdown(&self) {
                self.0.core.stop();
            }

            /// Closes all sessions in order, for an application that has a listener of its own (which has
            /// to go on answering until this returns). Gives the number of sessions that had not ended
            /// within the grace period. [`Self::serve`] does this by itself.
            pub async fn close(&self) -> usize {
                self.0.core.close().await
            }

            /// Sessions that are open now.
            pub fn session_count(&self) -> usize {
                self.0.core.registry.len()
            }

            /// The metrics, as `/metrics` shows them.
            pub fn metrics(&self) -> &Metrics {
                self.0.core.sampled_metrics()
            }
        }
    };
}

running!(Server);
running!(EngineServer);

impl Running {
    fn router(&self) -> Router {
        let core = self.core.clone();
        let handler = move |mut request: Request<Body>| {
            let peer = peer_of(&request);
            let handover = request.extensions_mut().remove::<Arc<Handover>>();
            accept::handle(core.clone(), peer, handover, request)
        };
        let path = self.core.config.engine.path.as_str();
        let mut router = Router::new()
            .route(path, any(handler.clone()))
            .route(&format!("{path}{{*rest}}"), any(handler.clone()));
        let bare = path.trim_end_matches('/');
        if !bare.is_empty() {
            // Node matches by prefix; a proxy may have taken the slash away
            router = router.route(bare, any(handler));
        }
        router.merge(self.webtransport_router())
    }

    /// `/webtransport.json`: where a page finds WebTransport, and which certificates it may meet there; 404 while there
    /// is none. Either way it says the protocol's path, which a page cannot know otherwise.
    fn webtransport_router(&self) -> Router {
        let (core, port) = (self.core.clone(), self.udp_port.clone());
        let handler = move || {
            let (core, port) = (core.clone(), *port.lock());
            async move {
                let mut body = serde_json::json!({ "path": core.config.engine.path });
                if let Some(port) = port {
                    let hashes = core.certificates.hashes();
                    let hashes: Vec<_> = hashes.iter().map(|hash| STANDARD.encode(hash)).collect();
                    let settings = &core.config.webtransport;
                    body["port"] = settings.public_port.unwrap_or(port).into();
                    body["certificateHashes"] = hashes.into();
                    if let Some(host) = &settings.public_host {
                        body["host"] = host.as_str().into();
                    }
                }
                let found = port.map_or(StatusCode::NOT_FOUND, |_| StatusCode::OK);
                let headers = [
                    (header::CONTENT_TYPE, "application/json"),
                    (header::CACHE_CONTROL, "no-store"),
                ];
                (found, headers, body.to_string()).into_response()
            }
        };
        Router::new().route("/webtransport.json", get(handler))
    }

    /// What only those may ask who run the server is `private`.
    fn admin_router(&self, private: bool) -> Router {
        let status = |ok: bool| match ok {
            true => (StatusCode::OK, "ok\n"),
            false => (StatusCode::SERVICE_UNAVAILABLE, "no\n"),
        };
        let (ready, accept, metrics) = (self.core.clone(), self.core.clone(), self.core.clone());
        Router::new()
            .route("/healthz", get(move || async move { status(true) }))
            .route("/readyz", get(move || async move { ready.readiness() }))
            .route("/acceptz", get(move || async move { status(accept.is_welcoming()) }))
            .route(
                "/metrics",
                get(move || async move {
                    let metrics = match private {
                        true => metrics.sampled_metrics(),
                        false => metrics.recent_metrics(Instant::now()),
                    };
                    ([(header::CONTENT_TYPE, Metrics::CONTENT_TYPE)], metrics.render())
                }),
            )
    }

    fn bind(&self) -> Result<SocketAddr, ServeError> {
        let mut bound = self.bound.lock();
        if let Some(bound) = &*bound {
            return Ok(bound.address);
        }
        let config = &self.core.config;
        let wanted = SocketAddr::new(config.listen.address, config.listen.port);
        let (listener, udp) = listen::bind(wanted, config.engine.transports.webtransport)?;
        let address = listener.local_addr().map_err(|source| ServeError::Bind {
            address: wanted,
            protocol: "tcp",
            source,
        })?;
        let admin = config.listen.admin_port.map(|port| {
            listen::bind(SocketAddr::new(config.listen.address, port), false).map(|(tcp, _)| tcp)
        });
        let quic = udp.map(|socket| Quic::new(&self.core, socket)).transpose()?.map(Arc::new);
        if quic.is_some() {
            *self.udp_port.lock() = Some(address.port());
        }
        *bound = Some(Bound { address, listener, admin: admin.transpose()?, quic });
        Ok(address)
    }

    async fn serve(&self) -> Result<usize, ServeError> {
        self.bind()?;
        let bound = self.bound.lock().take().ok_or(ServeError::AlreadyServing)?;
        let core = &self.core;
        let tls = core.config.tls.is_some() && core.config.listen.tls;
        let tls = tls.then(|| TlsAcceptor::from(core.certificates.tcp_config()));
        let mut app = self.router().merge(self.routes.clone());
        let mut listeners: Vec<JoinHandle<()>> = Vec::new();
        let health = match bound.admin {
            Some(admin) => {
                let admin = to_tokio(admin, bound.address)?;
                let app = self.admin_router(true);
                let admin = listen::Served { listener: admin, tls: None, app, full: None };
                listeners.push(tokio::spawn(listen::run(core.clone(), admin)));
                None
            }
            None => {
                app = app.merge(self.admin_router(false));
                Some(self.admin_router(false))
            }
        };
        let listener = to_tokio(bound.listener, bound.address)?;
        let full = Some(descriptors::refusing(health));
        let main = listen::Served { listener, tls, app, full };
        listeners.push(tokio::spawn(listen::run(core.clone(), main)));
        if let Some(quic) = bound.quic.clone() {
            let core = core.clone();
            tokio::spawn(async move { quic.run(core).await });
        }
        tokio::spawn(keep_certificates(core.clone()));
        if let Some(percent) = core.config.shed {
            tokio::spawn(shed::run(core.clone(), percent));
        }
        core.set_ready();
        core.stopped().await;
        let left = core.close().await;
        if let Some(quic) = &bound.quic {
            let _ = tokio::time::timeout(QUIC_GOODBYE, quic.close()).await;
        }
        for task in listeners {
            // each ends by itself, soon after the core is closed
            let _ = task.await;
        }
        Ok(left)
    }

    fn listen_webtransport(&self, address: SocketAddr) -> Result<SocketAddr, ServeError> {
        let fail = |source| ServeError::Bind { address, protocol: "udp", source };
        let socket = listen::bind_udp(address)?;
        let quic = Quic::new(&self.core, socket)?;
        let bound = quic.local_addr().map_err(fail)?;
        *self.udp_port.lock() = Some(bound.port());
        let core = self.core.clone();
        tokio::spawn(keep_certificates(core.clone()));
        tokio::spawn(async move {
            let closed = core.closed();
            quic.run(core).await;
            closed.await;
            quic.close().await;
        });
        Ok(bound)
    }
}

/// How long peers may take to hear that QUIC ends here.
const QUIC_GOODBYE: std::time::Duration = std::time::Duration::from_secs(1);

fn to_tokio(
    listener: std::net::TcpListener,
    address: SocketAddr,
) -> Result<TcpListener, ServeError> {
    TcpListener::from_std(listener).map_err(|source| ServeError::Bind {
        address,
        protocol: "tcp",
        source,
    })
}

/// Our own listener says who the peer is; axum's says it if it was asked to.
fn peer_of(request: &Request<Body>) -> Peer {
    if let Some(peer) = request.extensions().get::<Peer>() {
        return *peer;
    }
    let address = request.extensions().get::<ConnectInfo<SocketAddr>>();
    let address = address.map_or_else(|| ([0, 0, 0, 0], 0).into(), |info| info.0);
    Peer { address: quic::to_canonical(address), secure: false }
}

/// Rotates or reloads the certificate, for both TCP and QUIC.
async fn keep_certificates(core: Arc<Core>) {
    loop {
        let ends = core.certificates.not_after().duration_since(SystemTime::UNIX_EPOCH);
        core.metrics.certificate.not_after.set(ends.map_or(0, |ends| ends.as_secs() as i64));
        let pause = core.certificates.next_refresh(SystemTime::now());
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = core.stopped() => return,
        }
        let certificates = core.certificates.clone();
        let refreshed =
            tokio::task::spawn_blocking(move || certificates.refresh(SystemTime::now()));
        match refreshed.await {
            Ok(Ok(true)) => {
                core.metrics.certificate.renewals.inc();
                tracing::info!("a new certificate is in use");
            }
            Ok(Ok(false)) | Err(_) => {}
            Ok(Err(error)) => {
                core.metrics.certificate.failures.inc();
                tracing::error!(%error, "no new certificate; the old one stays in use");
            }
        }
    }
}
