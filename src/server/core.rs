//! What all requests of one server share, and how a session begins.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use rand::seq::SliceRandom as _;
use tokio::sync::watch;

use super::descriptors;
use super::driver::Driver;
use super::limits::{Limits, Place};
use super::raw::EngineSocket;
use super::registry::{Registry, SessionHandle};
use super::tokens::Expiry;
use super::upper::Upper;
use crate::config::{Config, LimitsConfig, OriginPolicy, Ports};
use crate::engine::handshake::{
    Handshake, HandshakeError, OpenPacket, Refusal, is_secret, origin_of, parse_query,
};
use crate::engine::packet::Packet;
use crate::engine::session::{Session, SessionTimes};
use crate::engine::{NodeTag, Sid, TransportKind};
use crate::error::CloseReason;
use crate::metrics::Metrics;
use crate::socketio::SocketIo;
use crate::socketio::connection::Connection;
use crate::transport::Link;
use crate::transport::tls::Certificates;

/// Says whether a client may open a session.
pub(crate) type AdmitFn =
    dyn Fn(Arc<Handshake>) -> BoxFuture<'static, Result<(), Refusal>> + Send + Sync;
/// Runs an application on bare Engine.IO.
pub(crate) type RawFn =
    dyn Fn(EngineSocket) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync;

/// What the sessions carry.
pub(crate) enum Protocol {
    SocketIo(Arc<SocketIo>),
    Raw(Box<RawFn>),
}

pub(crate) struct Core {
    pub(crate) config: Config,
    pub(crate) registry: Arc<Registry>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) limits: Arc<Limits>,
    pub(crate) certificates: Certificates,
    pub(crate) protocol: Protocol,
    pub(crate) admit: Option<Box<AdmitFn>>,
    pub(crate) node: NodeTag,
    times: Arc<SessionTimes>,
    phase: watch::Sender<Phase>,
    /// When somebody who may be anybody had the sessions counted.
    sampled: Mutex<Option<Instant>>,
    /// Are all listeners bound that the configuration asks for?
    pub(crate) ready: AtomicBool,
}

impl Core {
    pub(crate) fn new(
        config: Config,
        metrics: Arc<Metrics>,
        certificates: Certificates,
        protocol: Protocol,
        admit: Option<Box<AdmitFn>>,
        node: NodeTag,
    ) -> Self {
        let times = Arc::new(SessionTimes {
            ping_interval: config.engine.ping_interval,
            ping_timeout: config.engine.ping_timeout,
            upgrade_timeout: config.engine.upgrade_timeout,
            close_timeout: config.engine.poll_close_timeout,
        });
        let handshake_wait = config.handshake_wait();
        let limits = LimitsConfig { handshake_wait, ..config.limits.clone() };
        let limits = Arc::new(Limits::new(limits, metrics.clone()));
        Self {
            config,
            registry: Arc::default(),
            metrics,
            limits,
            certificates,
            protocol,
            admit,
            node,
            times,
            phase: watch::Sender::new(Phase::Serving),
            sampled: Mutex::default(),
            ready: AtomicBool::new(false),
        }
    }

    pub(crate) fn is_enabled(&self, kind: TransportKind) -> bool {
        let transports = &self.config.engine.transports;
        match kind {
            TransportKind::Polling => transports.polling,
            TransportKind::WebSocket => transports.websocket,
            TransportKind::WebTransport => transports.webtransport,
        }
    }

    /// The same door on every transport (G1): is the process taking sessions, may this page connect, is
    /// there a place, and what does the application say? The place is the session's while it lives.
    pub(crate) async fn admit(&self, handshake: &Arc<Handshake>) -> Result<Place, Refusal> {
        if self.is_stopping() {
            return Err(HandshakeError::Unavailable.into());
        }
        let kind = TransportKind::parse(handshake.transport);
        let is_quic = kind == Some(TransportKind::WebTransport);
        if !self.may_come(&handshake.headers, handshake.header("host"), is_quic) {
            return Err(HandshakeError::Forbidden.into());
        }
        let place = tokio::select! {
            place = self.limits.enter(handshake.address) => place?,
            () = self.stopping() => return Err(HandshakeError::Unavailable.into()),
        };
        if let Some(admit) = &self.admit {
            admit(handshake.clone()).await?;
        }
        if self.is_stopping() {
            return Err(HandshakeError::Unavailable.into()); // the application took its time
        }
        Ok(place)
    }

    /// Is the server called by one of its names, and by a page that may connect?
    pub(crate) fn may_come(
        &self,
        headers: &http::HeaderMap,
        authority: Option<&str>,
        is_quic: bool,
    ) -> bool {
        let engine = &self.config.engine;
        // no proxy forwards WebTransport
        let forwarded =
            (engine.trust_forwarded_host && !is_quic).then(|| forwarded_host(headers)).flatten();
        let authority = forwarded.or(authority);
        let ports = match is_quic && self.config.webtransport.public_port.is_some() {
            true => Ports::Mapped,
            false => Ports::Compared,
        };
        let origin = origin_of(headers);
        engine.hosts.allows(authority)
            && engine.origins.allows_at(origin, authority, ports)
            && (origin.is_some() || engine.origins == OriginPolicy::Any || !is_foreign(headers))
    }

    /// The metrics, with what is counted only when somebody asks.
    pub(crate) fn sampled_metrics(&self) -> &Metrics {
        // a counter that every push and every write changes would be the one thing all cores fight for
        let waiting = self.registry.outbox_bytes();
        self.metrics.outbox_bytes.set(i64::try_from(waiting).unwrap_or(i64::MAX));
        descriptors::sample(&self.metrics);
        &self.metrics
    }

    /// The same, for whoever asks: what costs the more the more sessions there are is counted once in a while.
    pub(crate) fn recent_metrics(&self, now: Instant) -> &Metrics {
        // who finds it taken asks while another one counts
        if let Some(mut sampled) = self.sampled.try_lock()
            && sampled.is_none_or(|at| now.saturating_duration_since(at) >= SAMPLE_EVERY)
        {
            self.sampled_metrics();
            *sampled = Some(now);
        }
        &self.metrics
    }

    /// Counts and logs a client that was turned away.
    pub(crate) fn refused(&self, refusal: &Refusal, peer: std::net::SocketAddr) {
        self.metrics.handshakes_refused[refusal.error].inc();
        tracing::debug!(%peer, error = refusal.error.message(), "a client was turned away");
    }

    /// Begins a session on a link that a client has just opened, on a task of its own.
    pub(crate) fn open(
        &self,
        link: Link,
        handshake: Arc<Handshake>,
        place: Place,
    ) -> Arc<SessionHandle> {
        let (handle, driver) = self.begin(link, handshake, place);
        tokio::spawn(driver);
        handle
    }

    /// As [`Core::open`], for a task that becomes the session's.
    pub(crate) fn begin(
        &self,
        link: Link,
        handshake: Arc<Handshake>,
        place: Place,
    ) -> (Arc<SessionHandle>, Driver) {
        let kind = link.kind();
        let sid = Sid::new(rand::random(), self.node);
        let handle = Arc::new(SessionHandle::new(sid, kind, self.config.engine.outbox_bytes));
        let now = tokio::time::Instant::now().into_std();
        let upgrades = self.upgrades(kind);
        let session = Session::open(now, sid, kind, !upgrades.is_empty(), self.times.clone());
        let open = Packet::Open(
            OpenPacket {
                sid: sid.as_str(),
                upgrades: &upgrades,
                ping_interval: self.times.ping_interval.as_millis() as u64,
                ping_timeout: self.times.ping_timeout.as_millis() as u64,
                max_payload: self.config.engine.max_payload,
            }
            .to_json(),
        );
        tracing::debug!(?sid, transport = %kind, client = %handshake.address, "session opened");
        let expiry = handshake.expires().map(|expires| Expiry::at(expires, &handle));
        let upper = match &self.protocol {
            Protocol::SocketIo(socketio) => {
                let (mailbox, socketio) = (handle.mailbox.clone(), socketio.clone());
                Upper::SocketIo(Connection::new(now, socketio, mailbox, handshake, kind))
            }
            Protocol::Raw(run) => {
                let (socket, session) = EngineSocket::new(handle.clone(), handshake);
                tokio::spawn(run(socket));
                Upper::Raw(session)
            }
        };
        let (registry, metrics) = (self.registry.clone(), self.metrics.clone());
        let driver = Driver::new(session, link, &open, upper, handle.clone(), registry, metrics);
        if self.is_stopping() {
            // admitted before the stop, and too late to be among those that were told
            handle.mailbox.close(CloseReason::ServerShuttingDown);
        }
        (handle, driver.holding(place, expiry))
    }

    /// What a session on `kind` may be upgraded to (engine.io `getAvailableUpgrades`).
    fn upgrades(&self, kind: TransportKind) -> Vec<&'static str> {
        if kind != TransportKind::Polling || !self.config.engine.allow_upgrades {
            return Vec::new();
        }
        let better = [TransportKind::WebSocket, TransportKind::WebTransport];
        better.into_iter().filter(|kind| self.is_enabled(*kind)).map(TransportKind::name).collect()
    }

    // --- stopping

    /// May a balancer send new sessions here?
    pub(crate) fn is_welcoming(&self) -> bool {
        self.is_ready() && *self.phase.borrow() == Phase::Serving
    }

    pub(crate) fn is_stopping(&self) -> bool {
        *self.phase.borrow() >= Phase::Stopping
    }

    pub(crate) fn stop(&self) {
        self.advance(Phase::Leaving);
    }

    /// Waits for [`Core::stop`].
    pub(crate) fn stopped(&self) -> impl Future<Output = ()> + Send + 'static {
        self.reached(Phase::Leaving)
    }

    /// Waits until no new sessions are taken.
    pub(crate) fn stopping(&self) -> impl Future<Output = ()> + Send + 'static {
        self.reached(Phase::Stopping)
    }

    /// Waits until the listeners may go, too.
    pub(crate) fn closed(&self) -> impl Future<Output = ()> + Send + 'static {
        self.reached(Phase::Closed)
    }

    /// Phases only go forward.
    pub(super) fn advance(&self, phase: Phase) {
        self.phase.send_if_modified(|current| {
            let later = phase > *current;
            if later {
                *current = phase;
                self.metrics.phase.set(phase as i64);
            }
            later
        });
    }

    fn reached(&self, phase: Phase) -> impl Future<Output = ()> + Send + 'static {
        let mut phases = self.phase.subscribe();
        async move {
            // an error means that the server itself is gone
            let _ = phases.wait_for(|current| *current >= phase).await;
        }
    }

    /// Degraded is ready: failing the probe over Redis would take all nodes away at once.
    pub(crate) fn readiness(&self) -> (http::StatusCode, &'static str) {
        if !self.is_ready() {
            return (http::StatusCode::SERVICE_UNAVAILABLE, "no\n");
        }
        match &self.protocol {
            Protocol::SocketIo(socketio) if socketio.is_degraded() => {
                (http::StatusCode::OK, "degraded: Redis is away, slow, or refuses\n")
            }
            _ => (http::StatusCode::OK, "ok\n"),
        }
    }

    /// From now on probes are told so.
    pub(crate) fn set_ready(&self) {
        self.ready.store(true, Ordering::Release);
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Acquire)
    }

    /// Ends in order: new sessions go elsewhere and then nowhere, all sessions are asked to close while the
    /// listeners still answer (a polling client has to fetch its last packet), the application's handlers
    /// awaited, then the listeners released. Gives the number of sessions that had not ended within the grace
    /// period.
    pub(crate) async fn close(&self) -> usize {
        self.stop();
        let grace = self.config.shutdown_grace;
        let deadline = tokio::time::Instant::now() + grace;
        if !self.is_alone() {
            // the defaults may be longer
            let delay = self.config.drain_delay.min(self.config.longest_drain_delay());
            tokio::time::sleep(delay).await;
        }
        self.advance(Phase::Stopping);
        self.drain().await;
        while self.is_busy() && tokio::time::Instant::now() < deadline {
            tokio::time::sleep(POLL_SHUTDOWN).await;
        }
        if let Protocol::SocketIo(socketio) = &self.protocol {
            socketio.close_bus().await;
        }
        self.advance(Phase::Closed);
        self.metrics.incidents.flush();
        self.registry.len()
    }

    /// Closes the sessions, in random order and spread over `drain`, so that the other nodes do not get all of
    /// their clients in one second. The transport is closed, never the namespace: official clients stay away
    /// after a DISCONNECT. Without other nodes there is nobody to spare, and all end at once.
    async fn drain(&self) {
        let mut handles = self.registry.all();
        handles.shuffle(&mut rand::rng());
        let alone = self.is_alone();
        let drain = self.config.drain.min(self.config.longest_drain());
        let ticks = if alone { 1 } else { drain.as_millis() / DRAIN_TICK.as_millis() };
        let share = handles.len().div_ceil(usize::try_from(ticks).unwrap_or(usize::MAX).max(1));
        for some in handles.chunks(share.max(1)) {
            for handle in some {
                handle.mailbox.close(CloseReason::ServerShuttingDown);
                self.metrics.sessions_drained.inc();
            }
            if !alone {
                tokio::time::sleep(DRAIN_TICK).await;
            }
        }
    }

    fn is_alone(&self) -> bool {
        self.config.redis.url.is_none()
    }

    fn is_busy(&self) -> bool {
        let handlers = match &self.protocol {
            Protocol::SocketIo(socketio) => socketio.tasks.load(Ordering::Acquire),
            Protocol::Raw(_) => 0,
        };
        // also those that were let in and are not open yet: they are told to close when they are
        self.limits.sessions() + handlers > 0
    }
}

/// How far the end has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Phase {
    Serving,
    /// New sessions are taken and not wanted: balancers are to send them elsewhere.
    Leaving,
    /// No new sessions; those that are there end.
    Stopping,
    /// The listeners end.
    Closed,
}

/// The name that a proxy was asked for. Of several the last one, which the nearest proxy has written.
fn forwarded_host(headers: &http::HeaderMap) -> Option<&str> {
    let all = headers.get_all("x-forwarded-host").iter();
    let last = all.filter_map(|value| value.to_str().ok()).next_back()?;
    last.rsplit(',').next().map(str::trim)
}

/// Does the browser say that a page of elsewhere made it ask (Fetch Metadata)? It then names no `Origin`
/// where the page could not read the answer: `<img>`, `<script>`, `fetch` without CORS.
fn is_foreign(headers: &http::HeaderMap) -> bool {
    let site = headers.get("sec-fetch-site").map(http::HeaderValue::as_bytes);
    matches!(site, Some(b"cross-site" | b"same-site"))
}

/// How old what strangers are told may be of what has to be counted for it.
const SAMPLE_EVERY: Duration = Duration::from_secs(1);

/// How often a few sessions are closed while the node drains.
const DRAIN_TICK: Duration = Duration::from_millis(10);

/// How often a shutdown looks whether all sessions have ended.
const POLL_SHUTDOWN: Duration = Duration::from_millis(20);

/// The handshake value of a WebTransport CONNECT.
///
/// # Errors
/// Those of [`parse_query`].
pub(crate) fn webtransport_handshake(
    path: &str,
    authority: &str,
    fields: &HashMap<String, String>,
    peer: std::net::SocketAddr,
) -> Result<Handshake, HandshakeError> {
    let query = parse_query(path.split_once('?').map_or("", |(_, query)| query))?;
    // kept as long as the session, and most clients have few
    let mut headers = http::HeaderMap::with_capacity(fields.len() + 1);
    for (name, value) in fields {
        // pseudo-header fields are no header fields; what else cannot be one is left out
        let name = http::HeaderName::try_from(name.as_str());
        if let (Ok(name), Ok(mut value)) = (name, http::HeaderValue::try_from(value.as_str())) {
            value.set_sensitive(is_secret(&name));
            headers.append(name, value);
        }
    }
    if let Ok(host) = http::HeaderValue::try_from(authority) {
        headers.insert(http::header::HOST, host);
    }
    Ok(Handshake {
        transport: TransportKind::WebTransport.name(),
        url: path.to_owned(),
        query,
        // no proxy forwards WebTransport, so nobody may say that it is somebody else
        address: peer.ip(),
        headers,
        peer,
        secure: true,
        issued: SystemTime::now(),
        shown: OnceLock::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::packet::Frame;
    use crate::fanout::{Encoded, SlowReader, Verdict};

    #[tokio::test]
    async fn sessions_are_not_counted_again_for_each_stranger_who_asks() {
        let server = crate::server::EngineServer::builder(|_| async {}).build().await.unwrap();
        let core = &server.0.core;
        let sid = Sid::new(rand::random(), core.node);
        let handle = Arc::new(SessionHandle::new(sid, TransportKind::Polling, 1_000));
        core.registry.insert(handle.clone());
        let bytes = |metrics: &Metrics| metrics.outbox_bytes.get();
        let start = Instant::now();
        assert_eq!(bytes(core.recent_metrics(start)), 0);
        let message = Arc::new(Encoded::new(vec![Frame::Text("42[]".into())], true));
        let queued = handle.mailbox.push(message, false, SlowReader::default());
        assert!(matches!(queued, Verdict::Queued), "{queued:?}");
        let almost = SAMPLE_EVERY - Duration::from_millis(1);
        assert_eq!(bytes(core.recent_metrics(start + almost)), 0);
        let waiting = bytes(core.recent_metrics(start + SAMPLE_EVERY));
        assert!(waiting > 0);
        core.registry.remove(&sid);
        assert_eq!(bytes(core.recent_metrics(start + SAMPLE_EVERY)), waiting);
        assert_eq!(bytes(server.metrics()), 0, "who runs the server is told what is");
    }
}
