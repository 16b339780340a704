//! What a client can make happen as often as it likes, logged once in a while.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::engine::door::Limit;
use crate::error::PeerMisbehaved;

/// A kind of line. None carries what a client has sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Incident {
    /// A limit that `quicket_limits_hit_total` counts.
    Limit(Limit),
    /// `outbox-bytes`.
    Outbox,
    /// There are no file descriptors left for clients.
    Descriptors,
    /// A QUIC address has to be proven, because of load or of its number of handshakes.
    Unproven,
    /// A rule of the protocol.
    Rule(PeerMisbehaved),
    /// A handler that failed: a client can make it fail with each of its packets.
    Handler,
    /// Likewise, for an event of another server.
    ServerSideHandler,
}

impl Incident {
    fn log(self, client: Option<IpAddr>, left_out: u64) {
        let client = client.map(tracing::field::display);
        match self {
            Self::Limit(limit) => {
                tracing::warn!(limit = limit.label(), client, left_out, "a client met a limit");
            }
            Self::Outbox => {
                tracing::warn!(limit = "outbox_bytes", client, left_out, "a client met a limit");
            }
            Self::Descriptors => {
                tracing::warn!(limit = "descriptors", client, left_out, "a client met a limit");
            }
            Self::Unproven => {
                tracing::warn!(client, left_out, "a client has to prove its QUIC address");
            }
            Self::Rule(rule) => {
                tracing::warn!(rule = rule.label(), client, left_out, "a client broke a rule");
            }
            Self::Handler => tracing::warn!(client, left_out, "handlers failed"),
            Self::ServerSideHandler => tracing::warn!(left_out, "server-side handlers failed"),
        }
    }
}

/// How often one kind of line is logged at most: an attack must not fill the disk.
const LOG_EVERY: Duration = Duration::from_secs(10);

/// Says which lines are logged: the first of a kind at once, and how many were left out when the 10 s behind it
/// are over. An attack may be shorter than that, and nothing may come after it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Incidents(Arc<Mutex<HashMap<Incident, Sample>>>);

impl Incidents {
    /// Logs it, or counts it as left out.
    pub(crate) fn note(&self, incident: Incident, client: Option<IpAddr>, now: Instant) {
        if let Some(left_out) = self.says(incident, client, now) {
            incident.log(client, left_out);
        }
    }

    /// Is this one to be logged, by the caller who knows more, and with how many that were left out before it?
    pub(crate) fn says(
        &self,
        incident: Incident,
        client: Option<IpAddr>,
        now: Instant,
    ) -> Option<u64> {
        let mut samples = self.0.lock();
        let sample = samples.entry(incident).or_default();
        let said = sample.says(client, now);
        let due = sample.first_left_out();
        drop(samples);
        if let (Some(due), Ok(runtime)) = (due, tokio::runtime::Handle::try_current()) {
            let this = self.clone();
            runtime.spawn(async move {
                tokio::time::sleep_until(due.into()).await;
                this.report(|kind, sample| kind == incident && sample.is_over(due));
            });
        }
        said
    }

    /// Says at the end what was left out until now.
    pub(crate) fn flush(&self) {
        self.report(|_, _| true);
    }

    fn report(&self, which: impl Fn(Incident, &Sample) -> bool) {
        let mut samples = self.0.lock();
        let due = samples.iter_mut().filter(|(kind, sample)| which(**kind, sample));
        let due: Vec<_> = due
            .filter_map(|(kind, sample)| Some((*kind, sample.client, sample.report()?)))
            .collect();
        drop(samples);
        for (kind, client, left_out) in due {
            kind.log(client, left_out);
        }
    }
}

/// Which lines of a kind are logged.
#[derive(Clone, Copy, Debug, Default)]
struct Sample {
    /// When the next one is logged.
    next: Option<Instant>,
    left_out: u64,
    /// Who was left out last.
    client: Option<IpAddr>,
}

impl Sample {
    /// Another one: log it, with the number of those that were left out before it?
    fn says(&mut self, client: Option<IpAddr>, now: Instant) -> Option<u64> {
        if self.next.is_some_and(|next| now < next) {
            self.left_out += 1;
            self.client = client;
            return None;
        }
        self.next = Some(now + LOG_EVERY);
        Some(std::mem::take(&mut self.left_out))
    }

    /// When to report, if the first one has just been left out.
    fn first_left_out(&self) -> Option<Instant> {
        self.next.filter(|_| self.left_out == 1)
    }

    /// Is this still the time that ends at `due`?
    fn is_over(&self, due: Instant) -> bool {
        self.next == Some(due)
    }

    /// How many were left out, if any. That is a line, too: the next one has to wait for its time.
    fn report(&mut self) -> Option<u64> {
        if self.left_out == 0 {
            return None;
        }
        self.next = self.next.map(|next| next + LOG_EVERY);
        Some(std::mem::take(&mut self.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_a_kind_is_logged_and_then_one_in_ten_seconds() {
        let start = Instant::now();
        let mut sample = Sample::default();
        assert_eq!(sample.says(None, start), Some(0));
        for n in 0..100 {
            assert_eq!(sample.says(None, start + Duration::from_millis(99 * n)), None);
        }
        assert_eq!(sample.says(None, start + LOG_EVERY), Some(100));
        assert_eq!(sample.says(None, start + LOG_EVERY), None);
        assert_eq!(sample.says(None, start + LOG_EVERY * 5), Some(1));
    }

    #[test]
    fn what_was_left_out_is_reported_at_its_time_and_is_a_line_as_well() {
        let (start, client) = (Instant::now(), IpAddr::from([192, 0, 2, 1]));
        let mut sample = Sample::default();
        assert_eq!(sample.says(None, start), Some(0));
        assert_eq!(sample.first_left_out(), None);
        assert_eq!(sample.says(Some(client), start), None);
        assert_eq!(sample.first_left_out(), Some(start + LOG_EVERY));
        assert_eq!(sample.says(Some(client), start), None);
        assert_eq!(sample.first_left_out(), None, "one timer is enough");
        assert!(sample.is_over(start + LOG_EVERY));
        assert_eq!((sample.report(), sample.client), (Some(2), Some(client)));
        assert_eq!(sample.report(), None);
        assert_eq!(sample.says(None, start + LOG_EVERY), None);
        assert_eq!(sample.first_left_out(), Some(start + LOG_EVERY * 2));
        // who comes late, and before the timer, says it himself
        assert_eq!(sample.says(None, start + LOG_EVERY * 3), Some(1));
        assert!(!sample.is_over(start + LOG_EVERY * 2));
    }
}
