//! What is known of the certificate.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

use super::counter;

/// Metrics of the certificate.
#[derive(Debug)]
pub(crate) struct CertificateMetrics {
    /// When the one in use ends, in seconds of Unix time; 0 while there is none.
    pub(crate) not_after: Gauge,
    /// Times that another one was taken into use.
    pub(crate) renewals: Counter,
    /// Times that files had changed to what cannot be used, or that none could be made.
    pub(crate) failures: Counter,
}

impl CertificateMetrics {
    pub(super) fn register(r: &mut Registry) -> Self {
        let not_after = Gauge::default();
        r.register_with_unit(
            "certificate_not_after",
            "When the certificate ends, in Unix time",
            Unit::Seconds,
            not_after.clone(),
        );
        let failures = "New certificates that could not be used; the old one stays";
        Self {
            not_after,
            renewals: counter(r, "certificate_renewals", "New certificates taken into use"),
            failures: counter(r, "certificate_failures", failures),
        }
    }
}
