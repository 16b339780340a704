//! What the bus counts.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::{counter, gauge};

/// Metrics of the bus between nodes, named `quicket_bus_...`.
#[derive(Debug)]
pub(crate) struct BusMetrics {
    /// Is there a connection to Redis? (1 without a cluster).
    pub(crate) connected: Gauge,
    /// Connections to Redis that broke.
    pub(crate) reconnects: Counter,
    /// Own messages that Redis stored.
    pub(crate) published: Counter,
    /// Messages of other nodes.
    pub(crate) received: Counter,
    /// Messages of other nodes that nobody here was meant by.
    pub(crate) skipped: Counter,
    /// Own messages delivered here without Redis.
    pub(crate) local_deliveries: Counter,
    /// Times that messages of other nodes may have been lost.
    pub(crate) gaps: Counter,
    /// Batches that Redis refused to store.
    pub(crate) refusals: Counter,
    /// Messages of other nodes that could not be read.
    pub(crate) malformed: Counter,
    /// Requests and replies dropped unread.
    pub(crate) requests_lost: Counter,
    /// Own messages on their way through Redis.
    pub(crate) queue_messages: Gauge,
    /// Bytes of own messages on their way through Redis.
    pub(crate) queue_bytes: Gauge,
    /// Age of the newest message of the bus when it was read, in milliseconds.
    pub(crate) lag_ms: Gauge,
}

impl BusMetrics {
    pub(super) fn register(r: &mut Registry) -> Self {
        Self {
            connected: gauge(
                r,
                "bus_connected",
                "Is there a connection to Redis? (1 without a cluster)",
            ),
            reconnects: counter(r, "bus_reconnects", "Connections to Redis that broke"),
            published: counter(r, "bus_published", "Own messages that Redis stored"),
            received: counter(r, "bus_received", "Messages of other nodes"),
            skipped: counter(
                r,
                "bus_skipped",
                "Messages of other nodes that nobody here was meant by",
            ),
            local_deliveries: counter(
                r,
                "bus_local_deliveries",
                "Own messages delivered here without Redis",
            ),
            gaps: counter(r, "bus_gaps", "Times that messages of other nodes may have been lost"),
            refusals: counter(r, "bus_refusals", "Batches that Redis refused to store"),
            malformed: counter(
                r,
                "bus_malformed",
                "Messages of other nodes that could not be read",
            ),
            requests_lost: counter(r, "bus_requests_lost", "Requests and replies dropped unread"),
            queue_messages: gauge(
                r,
                "bus_queue_messages",
                "Own messages on their way through Redis",
            ),
            queue_bytes: gauge(
                r,
                "bus_queue_bytes",
                "Bytes of own messages on their way through Redis",
            ),
            lag_ms: gauge(
                r,
                "bus_lag_ms",
                "Age of the newest message of the bus when it was read, in milliseconds",
            ),
        }
    }
}
