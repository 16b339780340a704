//! The door as all transports share it: waits, counts and logs what [`Door`] decides.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::config::LimitsConfig;
use crate::engine::allowance::Allowance;
use crate::engine::door::{Door, Limit, Refused, counted};
use crate::engine::handshake::{HandshakeError, Refusal};
use crate::metrics::{Label as _, Metrics};

/// The limits at the door of one server.
pub(crate) struct Limits {
    config: LimitsConfig,
    metrics: Arc<Metrics>,
    door: Mutex<Door>,
    log: Mutex<[Sample; Limit::ALL.len()]>,
}

impl Limits {
    pub(crate) fn new(config: LimitsConfig, metrics: Arc<Metrics>) -> Self {
        let door = Mutex::new(Door::new(config.clone()));
        Self { config, metrics, door, log: Mutex::default() }
    }

    /// Gives a newcomer a place, when it is its turn.
    ///
    /// # Errors
    /// What to tell one that finds none.
    pub(crate) async fn enter(self: &Arc<Self>, client: IpAddr) -> Result<Place, Refusal> {
        let address = counted(&self.config, client);
        let entered = self.door.lock().enter(now(), address);
        let pause = entered.map_err(|refused| self.refuse(client, refused))?;
        let mut place = Place { limits: self.clone(), client, address, half_open: false };
        if !pause.is_zero() {
            let _waiting = Waiting::new(&self.metrics);
            tokio::time::sleep(pause).await;
        }
        let begun = self.door.lock().begin();
        begun.map_err(|refused| self.refuse(client, refused))?;
        place.half_open = true;
        Ok(place)
    }

    /// Counts a TCP connection while what this gives is kept; `None`: there are too many of that address.
    pub(crate) fn connect(self: &Arc<Self>, peer: IpAddr) -> Option<Connected> {
        let trusted = crate::config::is_in(&self.config.trusted_proxies, peer);
        let address = counted(&self.config, peer).filter(|_| !trusted);
        if let Some(address) = address
            && !self.door.lock().connect(address)
        {
            self.hit(Limit::ConnectionsPerIp, peer);
            return None;
        }
        Some(Connected { limits: self.clone(), address })
    }

    fn refuse(&self, client: IpAddr, Refused { limit, retry_after }: Refused) -> Refusal {
        self.hit(limit, client);
        let error = match limit {
            Limit::SessionsPerIp | Limit::HandshakeRatePerIp => HandshakeError::TooManyRequests,
            _ => HandshakeError::Unavailable,
        };
        Refusal { error, message: None, retry_after: Some(retry_after) }
    }

    /// Counts, and says who it was: the first of a kind, and then one in a while.
    pub(crate) fn hit(&self, limit: Limit, client: IpAddr) {
        self.metrics.limits.hit[limit].inc();
        let said = self.log.lock()[limit.index()].says(now());
        if let Some(left_out) = said {
            let limit = limit.label();
            tracing::warn!(limit, %client, left_out, "a client met a limit");
        }
    }
}

/// A session's place, given back when this is dropped.
pub(crate) struct Place {
    limits: Arc<Limits>,
    client: IpAddr,
    address: Option<IpAddr>,
    half_open: bool,
}

impl Place {
    /// The session is no half-open one any more.
    pub(crate) fn settle(&mut self) {
        if std::mem::take(&mut self.half_open) {
            self.limits.door.lock().settle();
        }
    }

    /// How fast its client may talk.
    pub(crate) fn allowance(&self) -> Allowance {
        Allowance::new(&self.limits.config, now())
    }

    /// See [`Limits::hit`].
    pub(crate) fn hit(&self, limit: Limit) {
        self.limits.hit(limit, self.client);
    }

    pub(crate) fn is_half_open(&self) -> bool {
        self.half_open
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.settle();
        self.limits.door.lock().leave(self.address);
    }
}

/// A TCP connection, counted until this is dropped.
pub(crate) struct Connected {
    limits: Arc<Limits>,
    address: Option<IpAddr>,
}

impl Connected {
    /// See [`Limits::hit`].
    pub(super) fn hit(&self, limit: Limit, peer: IpAddr) {
        self.limits.hit(limit, peer);
    }
}

impl Drop for Connected {
    fn drop(&mut self) {
        if let Some(address) = self.address {
            self.limits.door.lock().disconnect(address);
        }
    }
}

/// One that waits for its turn, counted until this is dropped.
struct Waiting<'a>(&'a Metrics);

impl<'a> Waiting<'a> {
    fn new(metrics: &'a Metrics) -> Self {
        metrics.limits.waiting.inc();
        Self(metrics)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.limits.waiting.dec();
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

/// Tokio's clock, so that tests can pause it.
fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

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
