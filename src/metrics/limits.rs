//! What is known of limits that clients met.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::{By, Label, gauge};
use crate::engine::door::Limit;

/// Metrics of limits.
pub(crate) struct LimitMetrics {
    /// Times that a limit was met.
    pub(crate) hit: By<Limit, Counter>,
    /// Newcomers that wait for their turn.
    pub(crate) waiting: Gauge,
}

impl LimitMetrics {
    pub(super) fn register(r: &mut Registry) -> Self {
        Self {
            hit: By::register(r, "limits_hit", "Times that a client met a limit"),
            waiting: gauge(r, "handshakes_waiting", "Newcomers that wait for their turn"),
        }
    }
}

label!(
    Limit,
    "limit",
    Self::label,
    [
        Sessions,
        SessionsPerIp,
        HalfOpenSessions,
        Connections,
        ConnectionsPerIp,
        HandshakeRate,
        HandshakeRatePerIp,
        PacketRate,
        ByteRate,
        Rooms,
        PendingAcks,
        HeadBytes,
        QuicHandshakes,
        QuicHandshakesPerIp,
    ]
);
