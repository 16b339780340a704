//! What the server counts, in the text format of OpenMetrics (which Prometheus reads).
//!
//! One [`Metrics`] for each server, nothing global. Every label is an enum of ours, so that no peer
//! can make new time series. Counting costs one atomic addition: the counter behind each label is
//! looked up once, at the start, which also makes every series visible from zero.

mod bus;
mod descriptors;

use std::fmt;
use std::marker::PhantomData;

use prometheus_client::encoding::text;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

pub(crate) use self::bus::BusMetrics;
pub(crate) use self::descriptors::DescriptorMetrics;
use crate::engine::TransportKind;
use crate::engine::handshake::HandshakeError;
use crate::engine::session::ProbeFailure;
use crate::error::{CloseReason, NotRecovered, PeerMisbehaved};

/// The counters and gauges of one server.
pub struct Metrics {
    registry: Registry,
    /// Sessions that are open now, by the transport that carries them.
    sessions: By<TransportKind, Gauge>,
    sessions_opened: By<TransportKind, Counter>,
    sessions_closed: By<CloseReason, Counter>,
    upgrades: [By<UpgradeOutcome, Counter>; UPGRADES.len()],
    /// Handshakes that were turned away, by the error that the client was told.
    pub(crate) handshakes_refused: By<HandshakeError, Counter>,
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
    /// File descriptors.
    pub(crate) descriptors: DescriptorMetrics,
    /// When the certificate ends, in seconds of Unix time; 0 while there is none.
    pub(crate) certificate_not_after: Gauge,
    /// Clients that went on with their session, and the events that they were sent again.
    pub(crate) recovered: Counter,
    pub(crate) replayed: Counter,
    /// Clients that asked for their session and got a new one.
    pub(crate) not_recovered: By<NotRecovered, Counter>,
    /// Sockets that were cut off because their session had gone on elsewhere without this node's knowing.
    pub(crate) sessions_fenced: Counter,
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
        let certificate_not_after = Gauge::default();
        r.register_with_unit(
            "certificate_not_after",
            "When the certificate ends, in Unix time",
            Unit::Seconds,
            certificate_not_after.clone(),
        );
        Self {
            sessions: By::register(r, "sessions", "Sessions that are open"),
            sessions_opened: By::register(r, "sessions_opened", "Sessions that were opened"),
            sessions_closed: By::register(r, "sessions_closed", "Sessions that ended"),
            upgrades: register_upgrades(r),
            handshakes_refused: By::register(r, "handshakes_refused", "Handshakes turned away"),
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
            descriptors: DescriptorMetrics::register(r),
            certificate_not_after,
            recovered: counter(r, "recoveries", "Clients that went on with their session"),
            replayed: counter(r, "events_replayed", "Events sent again to those clients"),
            not_recovered: By::register(
                r,
                "recoveries_refused",
                "Clients that got a new session instead of theirs",
            ),
            sessions_fenced: counter(
                r,
                "sessions_fenced",
                "Sockets whose session had gone on elsewhere unnoticed",
            ),
            bus: BusMetrics::register(r),
            registry,
        }
    }

    /// All of it as text; see [`Metrics::CONTENT_TYPE`].
    pub fn render(&self) -> String {
        let mut out = String::new();
        text::encode(&mut out, &self.registry).expect("a String takes everything");
        out
    }

    /// A session opened on this transport.
    pub(crate) fn session_opened(&self, on: TransportKind) {
        self.sessions_opened[on].inc();
        self.sessions[on].inc();
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
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    /// A strict reader of OpenMetrics text (1.0, section "Overall Structure"): series by name and
    /// labels.
    fn read(text: &str) -> BTreeMap<String, f64> {
        let body = text.strip_suffix("# EOF\n").expect("the end is marked");
        let (mut families, mut series) = (BTreeMap::new(), BTreeMap::new());
        let mut current = String::new();
        for line in body.lines() {
            if let Some(meta) = line.strip_prefix("# ") {
                let mut words = meta.splitn(3, ' ');
                let (what, name) = (words.next().unwrap(), words.next().unwrap().to_owned());
                let rest = words.next().unwrap();
                match what {
                    "HELP" => assert!(!rest.is_empty() && !families.contains_key(&name), "{line}"),
                    "TYPE" => {
                        assert!(matches!(rest, "counter" | "gauge"), "{line}");
                        families.insert(name.clone(), rest.to_owned());
                    }
                    "UNIT" => assert!(name.ends_with(&format!("_{rest}")), "{line}"),
                    _ => panic!("{line}"),
                }
                current = name;
                continue;
            }
            let (key, value) = line.rsplit_once(' ').expect("a sample has a value");
            let (name, labels) = key.split_once('{').map_or((key, ""), |(name, rest)| {
                (name, rest.strip_suffix('}').expect("labels are closed"))
            });
            let suffix = if families[&current] == "counter" { "_total" } else { "" };
            assert_eq!(name, format!("{current}{suffix}"), "a sample stands under its family");
            assert!(name.bytes().all(|c| c.is_ascii_lowercase() || c == b'_'), "{name}");
            for label in labels.split(',').filter(|label| !label.is_empty()) {
                let (name, value) = label.split_once("=\"").expect("a label has a value");
                assert!(name.bytes().all(|c| c.is_ascii_lowercase()), "{line}");
                assert!(
                    value.strip_suffix('"').is_some_and(|value| !value.contains('"')),
                    "{line}"
                );
            }
            let known = series.insert(key.to_owned(), value.parse().expect("a value is a number"));
            assert_eq!(known, None, "{key} is there twice");
        }
        series
    }

    fn at_start() -> Metrics {
        Metrics::new("1.2.3")
    }

    #[test]
    fn every_name_is_rendered_from_the_start() {
        let series = read(&at_start().render());
        let names: BTreeSet<_> = series.keys().filter_map(|key| key.split('{').next()).collect();
        let expected = "broadcasts_total build_info bus_connected bus_gaps_total bus_lag_ms \
            bus_local_deliveries_total bus_malformed_total bus_published_total bus_queue_bytes \
            bus_queue_messages bus_received_total bus_reconnects_total bus_refusals_total \
            bus_requests_lost_total bus_skipped_total bytes_received_total bytes_sent_total \
            certificate_not_after_seconds connections_refused_total deliveries_total \
            events_replayed_total file_descriptors file_descriptors_hard_limit \
            file_descriptors_soft_limit handler_errors_total handler_panics_total \
            handshakes_refused_total http_requests_refused_total inbox_pauses_total \
            outbox_bytes outbox_overflows_total packets_received_total packets_sent_total peer_misbehaved_total \
            pings_unanswered_total recoveries_refused_total recoveries_total sessions sessions_closed_total \
            sessions_fenced_total sessions_opened_total sockets \
            upgrades_total volatile_dropped_total";
        let expected = expected.split_whitespace().map(|name| format!("quicket_{name}"));
        assert_eq!(
            names.into_iter().map(str::to_owned).collect::<Vec<_>>(),
            expected.collect::<Vec<_>>()
        );
        let other_than_zero = series.iter().filter(|(_, value)| **value != 0.0).map(|(key, _)| key);
        assert!(other_than_zero.eq(["quicket_build_info{version=\"1.2.3\"}"]));
    }

    /// Each label counts on its own series, and only there.
    fn counts<L: Label>(name: &str, of: fn(&Metrics) -> &By<L, Counter>) {
        for label in L::ALL {
            let metrics = at_start();
            of(&metrics)[*label].inc_by(7);
            let series = read(&metrics.render());
            let counted: Vec<_> = series.iter().filter(|(_, value)| **value == 7.0).collect();
            let key = format!("quicket_{name}_total{{{}=\"{}\"}}", L::NAME, label.value());
            assert_eq!(counted, [(&key, &7.0)]);
        }
    }

    #[test]
    fn every_label_counts_on_its_own_series() {
        counts("sessions_closed", |metrics| &metrics.sessions_closed);
        counts("handshakes_refused", |metrics| &metrics.handshakes_refused);
        counts("peer_misbehaved", |metrics| &metrics.peer_misbehaved);
        counts("packets_received", |metrics| &metrics.packets_received);
        counts("packets_sent", |metrics| &metrics.packets_sent);
        counts("bytes_received", |metrics| &metrics.bytes_received);
        counts("bytes_sent", |metrics| &metrics.bytes_sent);
    }

    #[test]
    fn every_plain_counter_counts_under_its_own_name() {
        type Get = fn(&Metrics) -> &Counter;
        let counters: [(&str, Get); 10] = [
            ("connections_refused", |m| &m.descriptors.refused),
            ("http_requests_refused", |m| &m.http_requests_refused),
            ("pings_unanswered", |m| &m.pings_unanswered),
            ("broadcasts", |m| &m.broadcasts),
            ("deliveries", |m| &m.deliveries),
            ("volatile_dropped", |m| &m.volatile_dropped),
            ("outbox_overflows", |m| &m.outbox_overflows),
            ("inbox_pauses", |m| &m.inbox_pauses),
            ("handler_errors", |m| &m.handler_errors),
            ("handler_panics", |m| &m.handler_panics),
        ];
        let metrics = at_start();
        for (at, (_, get)) in (1..).zip(counters) {
            get(&metrics).inc_by(at);
        }
        metrics.sockets.inc();
        metrics.certificate_not_after.set(2_000_000_000);
        let series = read(&metrics.render());
        for (at, (name, _)) in (1_u8..).zip(counters) {
            assert_eq!(series[&format!("quicket_{name}_total")], f64::from(at), "{name}");
        }
        assert_eq!(series["quicket_sockets"], 1.0);
        assert_eq!(series["quicket_certificate_not_after_seconds"], 2e9);
    }

    #[test]
    fn a_session_is_open_on_one_transport_from_open_to_close() {
        use TransportKind::{Polling, WebSocket, WebTransport};
        let metrics = at_start();
        let open = || {
            let series = read(&metrics.render());
            TransportKind::ALL
                .map(|kind| series[&format!("quicket_sessions{{transport=\"{}\"}}", kind.name())])
        };
        metrics.session_opened(Polling);
        metrics.upgraded(Polling, WebSocket, ProbeFailure::Timeout.into());
        assert_eq!(open(), [1.0, 0.0, 0.0]);
        metrics.upgraded(Polling, WebTransport, UpgradeOutcome::Completed);
        assert_eq!(open(), [0.0, 0.0, 1.0]);
        metrics.session_closed(WebTransport, CloseReason::SlowConsumer);
        assert_eq!(open(), [0.0, 0.0, 0.0]);
        let series = read(&metrics.render());
        for key in [
            "quicket_sessions_opened_total{transport=\"polling\"}",
            "quicket_sessions_closed_total{reason=\"slow_consumer\"}",
            "quicket_upgrades_total{from=\"polling\",to=\"websocket\",outcome=\"timeout\"}",
            "quicket_upgrades_total{from=\"polling\",to=\"webtransport\",outcome=\"completed\"}",
        ] {
            assert_eq!(series[key], 1.0, "{key}");
        }
    }

    #[test]
    fn two_servers_in_one_process_count_apart() {
        let (one, other) = (at_start(), at_start());
        one.sockets.inc();
        assert_eq!(read(&other.render())["quicket_sockets"], 0.0);
    }
}
