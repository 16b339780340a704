//! What the server counts, in the text format of OpenMetrics (which Prometheus reads).
//!
//! One [`Metrics`] for each server, nothing global. Every label is an enum of ours, so that no peer
//! can make new time series. Counting costs one atomic addition: the counter behind each label is
//! looked up once, at the start, which also makes every series visible from zero.

mod application;
mod bus;
mod certificates;
mod descriptors;
mod incidents;

use std::fmt;
use std::marker::PhantomData;
use std::net::IpAddr;
use std::time::Instant;

use parking_lot::Mutex;
use prometheus_client::encoding::text;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

pub use self::application::{Counter as AppCounter, Gauge as AppGauge};
pub(crate) use self::bus::BusMetrics;
use self::certificates::CertificateMetrics;
pub(crate) use self::descriptors::DescriptorMetrics;
pub(crate) use self::incidents::{Incident, Incidents};
use self::limits::LimitMetrics;
pub(crate) use self::tokens::KeyMetrics;
use crate::engine::TransportKind;
use crate::engine::door::Limit;
use crate::engine::handshake::HandshakeError;
use crate::engine::session::ProbeFailure;
use crate::error::{CloseReason, NotRecovered, PeerMisbehaved, TokenError};

/// The counters and gauges of one server.
pub struct Metrics {
    registry: Mutex<Registry>,
    /// Sessions that are open now, by the transport that carries them.
    sessions: By<TransportKind, Gauge>,
    sessions_opened: By<TransportKind, Counter>,
    sessions_closed: By<CloseReason, Counter>,
    upgrades: [By<UpgradeOutcome, Counter>; UPGRADES.len()],
    /// Handshakes that were turned away, by the error that the client was told.
    pub(crate) handshakes_refused: By<HandshakeError, Counter>,
    /// QUIC handshakes that were asked to prove their address first, because of load.
    pub(crate) quic_retries: Counter,
    /// HTTP requests that were turned away before they were any session's: no route, bad method,
    /// body too large.
    pub(crate) http_requests_refused: Counter,
    /// Engine.IO packets from clients.
    pub(crate) packets_received: By<TransportKind, Counter>,
    /// Engine.IO packets to clients.
    pub(crate) packets_sent: By<TransportKind, Counter>,
    /// Bytes of those packets, without the framing around them.
    pub(crate) bytes_received: By<TransportKind, Counter>,
    /// Bytes of those packets, without the framing around them.
    pub(crate) bytes_sent: By<TransportKind, Counter>,
    /// Rules that peers broke.
    pub(crate) peer_misbehaved: By<PeerMisbehaved, Counter>,
    /// Pings without a pong in time.
    pub(crate) pings_unanswered: Counter,
    /// Sockets that are connected to a namespace now.
    pub(crate) sockets: Gauge,
    /// Broadcasts, each counted once however many receive it.
    pub(crate) broadcasts: Counter,
    /// Events put into outboxes: one for each recipient.
    pub(crate) deliveries: Counter,
    /// Volatile events dropped because their recipient was not ready for them.
    pub(crate) volatile_dropped: Counter,
    /// Outboxes that ran full; each ends its session as a slow consumer.
    pub(crate) outbox_overflows: Counter,
    /// Bytes that wait for clients to read them; counted when somebody asks.
    pub(crate) outbox_bytes: Gauge,
    /// Times that we stopped reading from a client because its handlers lag behind.
    pub(crate) inbox_pauses: Counter,
    /// Handlers that returned an error.
    pub(crate) handler_errors: Counter,
    /// Handlers that panicked.
    pub(crate) handler_panics: Counter,
    /// Limits that clients met.
    pub(crate) limits: LimitMetrics,
    /// What is logged once in a while.
    pub(crate) incidents: Incidents,
    /// File descriptors.
    pub(crate) descriptors: DescriptorMetrics,
    /// The certificate.
    pub(crate) certificate: CertificateMetrics,
    /// Clients that went on with their session, and the events that they were sent again.
    pub(crate) recovered: Counter,
    pub(crate) replayed: Counter,
    /// Clients that asked for their session and got a new one.
    pub(crate) not_recovered: By<NotRecovered, Counter>,
    pub(crate) tokens_refused: By<TokenError, Counter>,
    /// The public keys of tokens.
    pub(crate) keys: KeyMetrics,
    /// Sockets that were cut off because their session had gone on elsewhere without this node's knowing.
    pub(crate) sessions_fenced: Counter,
    /// Sessions that the node that had them, often with a connection that was dead and not known to be, let go
    /// of for the client that had come back.
    pub(crate) takeovers: Counter,
    /// How far this node is on its way out: 0 serves, 1 sends newcomers elsewhere, 2 closes its sessions, 3 is
    /// closed.
    pub(crate) phase: Gauge,
    /// Sessions closed on the way out.
    pub(crate) sessions_drained: Counter,
    /// The bus.
    pub(crate) bus: BusMetrics,
}

impl Metrics {
    /// The `Content-Type` of what [`Metrics::render`] gives.
    pub const CONTENT_TYPE: &'static str =
        "application/openmetrics-text; version=1.0.0; charset=utf-8";

    /// Everything at zero. `version` is what `quicket_build_info` says.
    pub(crate) fn new(version: &'static str) -> Self {
        let mut registry = Registry::with_prefix("quicket");
        let r = &mut registry;
        let build = Family::<[(&str, &str); 1], Gauge>::default();
        build.get_or_create(&[("version", version)]).set(1);
        r.register("build_info", "The version that runs", build);
        Self {
            sessions: By::register(r, "sessions", "Sessions that are open"),
            sessions_opened: By::register(r, "sessions_opened", "Sessions that were opened"),
            sessions_closed: By::register(r, "sessions_closed", "Sessions that ended"),
            upgrades: register_upgrades(r),
            handshakes_refused: By::register(r, "handshakes_refused", "Handshakes turned away"),
            quic_retries: counter(r, "quic_retries", "QUIC addresses to be proven, under load"),
            http_requests_refused: counter(r, "http_requests_refused", "HTTP requests turned away"),
            packets_received: By::register(r, "packets_received", "Engine.IO packets from clients"),
            packets_sent: By::register(r, "packets_sent", "Engine.IO packets to clients"),
            bytes_received: By::register(r, "bytes_received", "Bytes of packets from clients"),
            bytes_sent: By::register(r, "bytes_sent", "Bytes of packets to clients"),
            peer_misbehaved: By::register(r, "peer_misbehaved", "Rules that peers broke"),
            pings_unanswered: counter(r, "pings_unanswered", "Pings without a pong in time"),
            sockets: gauge(r, "sockets", "Sockets that are connected to a namespace"),
            broadcasts: counter(r, "broadcasts", "Broadcasts, however many receive them"),
            deliveries: counter(r, "deliveries", "Events queued, one for each recipient"),
            volatile_dropped: counter(r, "volatile_dropped", "Volatile events dropped"),
            outbox_overflows: counter(r, "outbox_overflows", "Outboxes that ran full"),
            outbox_bytes: gauge(r, "outbox_bytes", "Bytes that wait for clients to read them"),
            inbox_pauses: counter(r, "inbox_pauses", "Pauses in reading, for lagging handlers"),
            handler_errors: counter(r, "handler_errors", "Handlers that returned an error"),
            handler_panics: counter(r, "handler_panics", "Handlers that panicked"),
            limits: LimitMetrics::register(r),
            incidents: Incidents::default(),
            descriptors: DescriptorMetrics::register(r),
            certificate: CertificateMetrics::register(r),
            recovered: counter(r, "recoveries", "Clients that went on with their session"),
            replayed: counter(r, "events_replayed", "Events sent again to those clients"),
            not_recovered: By::register(
                r,
                "recoveries_refused",
                "Clients that got a new session instead of theirs",
            ),
            tokens_refused: By::register(r, "tokens_refused", "Tokens not taken"),
            keys: KeyMetrics::register(r),
            sessions_fenced: counter(
                r,
                "sessions_fenced",
                "Sockets whose session had gone on elsewhere unnoticed",
            ),
            takeovers: counter(r, "takeovers", "Sessions handed over by the node that had them"),
            phase: gauge(r, "phase", "0 serves, 1 unwelcoming, 2 closes its sessions, 3 closed"),
            sessions_drained: counter(r, "sessions_drained", "Sessions closed by the shutdown"),
            bus: BusMetrics::register(r),
            registry: Mutex::new(registry),
        }
    }

    /// All of it as text; see [`Metrics::CONTENT_TYPE`].
    pub fn render(&self) -> String {
        let mut out = String::new();
        text::encode(&mut out, &self.registry.lock()).expect("a String takes everything");
        out
    }

    /// A session opened on this transport.
    pub(crate) fn session_opened(&self, on: TransportKind) {
        self.sessions_opened[on].inc();
        self.sessions[on].inc();
    }

    /// A client met a limit.
    pub(crate) fn met(&self, limit: Limit, client: IpAddr, now: Instant) {
        self.limits.hit[limit].inc();
        self.incidents.note(Incident::Limit(limit), Some(client), now);
    }

    /// A client broke a rule.
    pub(crate) fn misbehaved(&self, rule: PeerMisbehaved, client: Option<IpAddr>, now: Instant) {
        self.peer_misbehaved[rule].inc();
        self.incidents.note(Incident::Rule(rule), client, now);
    }

    /// So many packets went out on this transport, with so many bytes in all.
    pub(crate) fn sent(&self, on: TransportKind, packets: usize, bytes: usize) {
        self.packets_sent[on].inc_by(packets as u64);
        self.bytes_sent[on].inc_by(bytes as u64);
    }

    /// An open session, now on this transport, ended.
    pub(crate) fn session_closed(&self, on: TransportKind, reason: CloseReason) {
        self.sessions_closed[reason].inc();
        self.sessions[on].dec();
    }

    /// An attempt of an open session to move ended. After [`UpgradeOutcome::Completed`] the session
    /// counts as one of the new transport.
    pub(crate) fn upgraded(&self, from: TransportKind, to: TransportKind, outcome: UpgradeOutcome) {
        // Engine.IO has no other upgrades; such an attempt is refused, and its session counted
        // nowhere.
        if let Some(at) = UPGRADES.iter().position(|pair| *pair == (from, to)) {
            self.upgrades[at][outcome].inc();
        }
        if outcome == UpgradeOutcome::Completed {
            self.sessions[from].dec();
            self.sessions[to].inc();
        }
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

/// How an upgrade ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum UpgradeOutcome {
    /// The session moved.
    Completed,
    /// The session took no upgrade, or not this one, or not now.
    Refused,
    /// It was not finished within `upgrade_timeout`.
    Timeout,
    /// The client broke the rules of the upgrade.
    Misbehaved,
    /// The new link ended.
    Lost,
    /// The session closed under it.
    SessionClosed,
}

impl UpgradeOutcome {
    fn label(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Refused => "refused",
            Self::Timeout => "timeout",
            Self::Misbehaved => "misbehaved",
            Self::Lost => "lost",
            Self::SessionClosed => "session_closed",
        }
    }
}

impl From<ProbeFailure> for UpgradeOutcome {
    fn from(failure: ProbeFailure) -> Self {
        match failure {
            ProbeFailure::Timeout => Self::Timeout,
            ProbeFailure::Misbehaved => Self::Misbehaved,
            ProbeFailure::Lost => Self::Lost,
            ProbeFailure::SessionClosed => Self::SessionClosed,
        }
    }
}

/// The upgrades that Engine.IO has (engine.io `upgradesTo`).
const UPGRADES: [(TransportKind, TransportKind); 2] = [
    (TransportKind::Polling, TransportKind::WebSocket),
    (TransportKind::Polling, TransportKind::WebTransport),
];

/// One metric for each value of a label.
pub(crate) struct By<L, M> {
    metrics: Box<[M]>,
    label: PhantomData<fn(L)>,
}

impl<L: Label, M: Countable> By<L, M> {
    fn register(registry: &mut Registry, name: &str, help: &str) -> Self {
        let family = Family::<[(&'static str, &'static str); 1], M>::default();
        let metrics =
            L::ALL.iter().map(|label| family.get_or_create_owned(&[(L::NAME, label.value())]));
        let by = Self { metrics: metrics.collect(), label: PhantomData };
        registry.register(name, help, family);
        by
    }
}

impl<L: Label, M> std::ops::Index<L> for By<L, M> {
    type Output = M;

    fn index(&self, label: L) -> &M {
        &self.metrics[label.index()]
    }
}

/// What [`By`] can hold.
pub(crate) trait Countable:
    prometheus_client::encoding::EncodeMetric
    + prometheus_client::metrics::TypedMetric
    + Clone
    + Default
    + fmt::Debug
    + Send
    + Sync
    + 'static
{
}

impl Countable for Counter {}
impl Countable for Gauge {}

/// An enum that is a label.
pub(crate) trait Label: Copy + 'static {
    /// The label's name.
    const NAME: &'static str;
    /// All its values, by [`Label::index`].
    const ALL: &'static [Self];
    /// The position in [`Label::ALL`].
    fn index(self) -> usize;
    /// The label's value.
    fn value(self) -> &'static str;
}

/// Makes an enum a label. Does not compile unless every variant is listed, in order.
macro_rules! label {
    ($type:ident, $name:literal, $value:expr, [$($variant:ident),+ $(,)?]) => {
        impl Label for $type {
            const NAME: &'static str = $name;
            const ALL: &'static [Self] = &[$(Self::$variant),+];

            fn index(self) -> usize {
                const _: () = {
                    let mut at = 0;
                    while at < <$type as Label>::ALL.len() {
                        assert!(<$type as Label>::ALL[at] as usize == at, "listed in another order");
                        at += 1;
                    }
                };
                match self {
                    $(Self::$variant => Self::$variant as usize),+
                }
            }

            fn value(self) -> &'static str {
                $value(self)
            }
        }
    };
}

// below the macro that it uses
mod limits;
mod tokens;

label!(TransportKind, "transport", Self::name, [Polling, WebSocket, WebTransport]);

label!(
    UpgradeOutcome,
    "outcome",
    Self::label,
    [Completed, Refused, Timeout, Misbehaved, Lost, SessionClosed,]
);

label!(
    NotRecovered,
    "reason",
    Self::label,
    [Unknown, Offset, History, TooMuch, Identity, Disconnected, Unavailable, Contended,]
);

label!(
    CloseReason,
    "reason",
    Self::label,
    [
        TransportClose,
        TransportError,
        PingTimeout,
        ParseError,
        ForcedClose,
        ForcedServerClose,
        ServerShuttingDown,
        ClientNamespaceDisconnect,
        ServerNamespaceDisconnect,
        SlowConsumer,
        HandlersStuck,
        Superseded,
        Shed,
        TokenExpired,
    ]
);

label!(
    PeerMisbehaved,
    "rule",
    Self::label,
    [
        PayloadTooLarge,
        FrameTooLarge,
        IllegalFrameLength,
        InvalidUtf8,
        IllegalWebSocketFrame,
        ControlFrameFlood,
        DatagramFlood,
        UnknownEnginePacket,
        InvalidBase64,
        HeartbeatDirection,
        UpgradeOutOfOrder,
        OverlappingPoll,
        OverlappingPost,
        BinaryPost,
        UnknownPacketType,
        IllegalAttachments,
        TooManyAttachments,
        AttachmentsOverdue,
        AttachmentOutOfOrder,
        InvalidPayload,
        InvalidAckId,
        PacketOutOfOrder,
        TooManyNamespaces,
        NameTooLong,
    ]
);

label!(
    HandshakeError,
    "error",
    handshake_error,
    [
        TransportUnknown,
        SessionUnknown,
        BadHandshakeMethod,
        BadRequest,
        Forbidden,
        UnsupportedProtocolVersion,
        Unavailable,
        TooManyRequests,
    ]
);

fn handshake_error(error: HandshakeError) -> &'static str {
    match error {
        HandshakeError::TransportUnknown => "transport_unknown",
        HandshakeError::SessionUnknown => "session_unknown",
        HandshakeError::BadHandshakeMethod => "bad_handshake_method",
        HandshakeError::BadRequest => "bad_request",
        HandshakeError::Forbidden => "forbidden",
        HandshakeError::UnsupportedProtocolVersion => "unsupported_protocol_version",
        HandshakeError::Unavailable => "unavailable",
        HandshakeError::TooManyRequests => "too_many_requests",
    }
}

fn register_upgrades(registry: &mut Registry) -> [By<UpgradeOutcome, Counter>; UPGRADES.len()] {
    let family = Family::<[(&'static str, &'static str); 3], Counter>::default();
    let upgrades = UPGRADES.map(|(from, to)| {
        let counters = UpgradeOutcome::ALL.iter().map(|outcome| {
            let labels = [("from", from.name()), ("to", to.name()), ("outcome", outcome.label())];
            family.get_or_create_owned(&labels)
        });
        By { metrics: counters.collect(), label: PhantomData }
    });
    registry.register("upgrades", "Attempts to move to a better transport", family);
    upgrades
}

fn counter(registry: &mut Registry, name: &str, help: &str) -> Counter {
    let counter = Counter::default();
    registry.register(name, help, counter.clone());
    counter
}

fn gauge(registry: &mut Registry, name: &str, help: &str) -> Gauge {
    let gauge = Gauge::default();
    registry.register(name, help, gauge.clone());
    gauge
}

#[cfg(test)]
mod tests;
