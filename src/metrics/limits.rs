//! What is known of limits that clients met.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
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
    log: Mutex<[Sample; Limit::ALL.len()]>,
}

impl LimitMetrics {
    pub(super) fn register(r: &mut Registry) -> Self {
        Self {
            hit: By::register(r, "limits_hit", "Times that a client met a limit"),
            waiting: gauge(r, "handshakes_waiting", "Newcomers that wait for their turn"),
            log: Mutex::default(),
        }
    }

    /// Counts, and says who it was: the first of a kind, and then one in a while.
    pub(crate) fn met(&self, limit: Limit, client: IpAddr, now: Instant) {
        self.hit[limit].inc();
        let said = self.log.lock()[limit.index()].says(now);
        if let Some(left_out) = said {
            let limit = limit.label();
            tracing::warn!(limit, %client, left_out, "a client met a limit");
        }
    }
}

/// How often one kind of line is logged at most: an attack must not fill the disk.
const LOG_EVERY: Duration = Duration::from_secs(10);

/// Which lines of a kind are logged.
#[derive(Clone, Copy, Debug, Default)]
struct Sample {
    last: Option<Instant>,
    left_out: u64,
}

impl Sample {
    /// Another one: log it, with the number of those that were left out before it?
    fn says(&mut self, now: Instant) -> Option<u64> {
        if self.last.is_some_and(|last| now < last + LOG_EVERY) {
            self.left_out += 1;
            return None;
        }
        self.last = Some(now);
        Some(std::mem::take(&mut self.left_out))
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
        ConnectionsPerIp,
        HandshakeRate,
        HandshakeRatePerIp,
        PacketRate,
        ByteRate,
        Rooms,
        PendingAcks,
        HeadBytes,
    ]
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_a_kind_is_logged_and_then_one_in_ten_seconds() {
        let start = Instant::now();
        let mut sample = Sample::default();
        assert_eq!(sample.says(start), Some(0));
        for n in 0..100 {
            assert_eq!(sample.says(start + Duration::from_millis(99 * n)), None);
        }
        assert_eq!(sample.says(start + LOG_EVERY), Some(100));
        assert_eq!(sample.says(start + LOG_EVERY), None);
        assert_eq!(sample.says(start + LOG_EVERY * 5), Some(1));
    }
}
