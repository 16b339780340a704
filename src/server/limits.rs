//! The door as all transports share it: waits for and counts what [`Door`] decides.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;

use crate::config::LimitsConfig;
use crate::engine::allowance::Allowance;
use crate::engine::door::{Door, Limit, Refused};
use crate::engine::handshake::{HandshakeError, Refusal};
use crate::error::PeerMisbehaved;
use crate::metrics::{Incident, Metrics};

/// The limits at the door of one server.
pub(crate) struct Limits {
    config: LimitsConfig,
    metrics: Arc<Metrics>,
    door: Mutex<Door>,
}

impl Limits {
    pub(crate) fn new(config: LimitsConfig, metrics: Arc<Metrics>) -> Self {
        let door = Mutex::new(Door::new(config.clone()));
        Self { config, metrics, door }
    }

    /// Gives a newcomer a place, when it is its turn.
    ///
    /// # Errors
    /// What to tell one that finds none.
    pub(crate) async fn enter(self: &Arc<Self>, client: IpAddr) -> Result<Place, Refusal> {
        let address = self.config.subscriber(client);
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

    /// Places that are taken: sessions that are open, are being opened, or wait for their turn.
    pub(crate) fn sessions(&self) -> usize {
        self.door.lock().sessions()
    }

    /// Counts a connection, TCP or QUIC, while what this gives is kept.
    ///
    /// # Errors
    /// The limit that it met: there are too many, or too many of that address.
    pub(super) fn connect(self: &Arc<Self>, peer: IpAddr) -> Result<Connected, Limit> {
        let trusted = crate::config::is_in(&self.config.trusted_proxies, peer);
        let address = self.config.subscriber(peer).filter(|_| !trusted);
        let counted = self.door.lock().connect(address);
        counted.inspect_err(|limit| self.hit(*limit, peer))?;
        Ok(Connected { limits: self.clone(), address })
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
        self.metrics.met(limit, client, now());
    }

    /// As [`Limits::hit`], for what is counted elsewhere.
    pub(super) fn note(&self, incident: Incident, client: IpAddr) {
        self.metrics.incidents.note(incident, Some(client), now());
    }

    /// As [`Limits::hit`], for a rule that was broken.
    pub(super) fn misbehaved(&self, rule: PeerMisbehaved, client: IpAddr) {
        self.metrics.misbehaved(rule, Some(client), now());
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

    /// See [`LimitsConfig::udp_packet_rate`].
    pub(crate) fn udp_packet_rate(&self) -> Option<u64> {
        self.limits.config.udp_packet_rate()
    }

    /// See [`Limits::hit`].
    pub(crate) fn hit(&self, limit: Limit) {
        self.limits.hit(limit, self.client);
    }

    /// Whose it is.
    pub(super) fn client(&self) -> IpAddr {
        self.client
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

/// A connection, counted until this is dropped.
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
        self.limits.door.lock().disconnect(self.address);
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

/// Tokio's clock, so that tests can pause it.
fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}
