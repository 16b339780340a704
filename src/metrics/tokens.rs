//! Why tokens were not taken, and how old the keys are that say so.

use std::time::SystemTime;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

use super::{Label, counter};
use crate::error::TokenError;

/// Metrics of public keys. Clones are the same metrics.
#[derive(Clone, Debug, Default)]
pub(crate) struct KeyMetrics {
    /// When they were read last, in seconds of Unix time; 0 while they never were.
    pub(crate) read: Gauge,
    /// Times that they could not be.
    pub(crate) failures: Counter,
}

impl KeyMetrics {
    pub(super) fn register(r: &mut Registry) -> Self {
        let read = Gauge::default();
        let help = "When the public keys of tokens were read last, in Unix time";
        r.register_with_unit("jwt_keys_read", help, Unit::Seconds, read.clone());
        let failures = "Times that the public keys of tokens could not be read";
        Self { read, failures: counter(r, "jwt_keys_failures", failures) }
    }

    pub(crate) fn has_read(&self, now: SystemTime) {
        let now = now.duration_since(SystemTime::UNIX_EPOCH);
        self.read.set(now.map_or(0, |now| now.as_secs() as i64));
    }
}

label!(
    TokenError,
    "reason",
    Self::label,
    [Missing, Invalid, Expired, NotYetValid, UnknownKey, KeysUnavailable,]
);
