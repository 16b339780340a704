//! What is known of file descriptors.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::{counter, gauge};

/// Metrics of file descriptors.
#[derive(Debug)]
pub(crate) struct DescriptorMetrics {
    /// TCP connections that were turned away because file descriptors run out.
    pub(crate) refused: Counter,
    /// Those that are open; counted when somebody asks.
    pub(crate) open: Gauge,
    /// How many may be open.
    pub(crate) soft_limit: Gauge,
    /// How far the process may raise that.
    pub(crate) hard_limit: Gauge,
}

impl DescriptorMetrics {
    pub(super) fn register(r: &mut Registry) -> Self {
        let refused = "TCP connections turned away for want of file descriptors";
        let soft = "File descriptors that may be open";
        let hard = "How far the process may raise the soft limit";
        Self {
            refused: counter(r, "connections_refused", refused),
            open: gauge(r, "file_descriptors", "File descriptors that are open"),
            soft_limit: gauge(r, "file_descriptors_soft_limit", soft),
            hard_limit: gauge(r, "file_descriptors_hard_limit", hard),
        }
    }
}
