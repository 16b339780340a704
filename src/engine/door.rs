//! Who may come in now, who waits, and who is turned away, as a value.
//!
//! A [`Door`] counts sessions and connections, in all and by address, and spaces newcomers out. Time and
//! addresses come in as arguments; the owner waits, counts and logs. Its memory is bounded by what it
//! counts and by [`REMEMBERED`].

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use http::HeaderMap;

use crate::config::{IpNet, LimitsConfig, is_in};

/// A limit that somebody met.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Limit {
    /// `max-sessions`.
    Sessions,
    /// `max-sessions-per-ip`.
    SessionsPerIp,
    /// `max-half-open-sessions`.
    HalfOpenSessions,
    /// `max-connections`.
    Connections,
    /// `max-connections-per-ip`.
    ConnectionsPerIp,
    /// `handshake-rate`, with nobody let wait any more.
    HandshakeRate,
    /// `handshake-rate-per-ip`.
    HandshakeRatePerIp,
    /// `packet-rate`.
    PacketRate,
    /// `byte-rate`.
    ByteRate,
    /// `max-rooms`, or `max-name-bytes` for the name of a room.
    Rooms,
    /// `max-pending-acks`.
    PendingAcks,
    /// `max-header-bytes`.
    HeadBytes,
    /// `webtransport-max-pending-handshakes`, far above it.
    QuicHandshakes,
    /// `webtransport-max-pending-handshakes-per-ip`, with a proven address.
    QuicHandshakesPerIp,
}

impl Limit {
    /// The value of the `limit` label in metrics, and of the field in logs.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Sessions => "sessions",
            Self::SessionsPerIp => "sessions_per_ip",
            Self::HalfOpenSessions => "half_open_sessions",
            Self::Connections => "connections",
            Self::ConnectionsPerIp => "connections_per_ip",
            Self::HandshakeRate => "handshake_rate",
            Self::HandshakeRatePerIp => "handshake_rate_per_ip",
            Self::PacketRate => "packet_rate",
            Self::ByteRate => "byte_rate",
            Self::Rooms => "rooms",
            Self::PendingAcks => "pending_acks",
            Self::HeadBytes => "head_bytes",
            Self::QuicHandshakes => "quic_handshakes",
            Self::QuicHandshakesPerIp => "quic_handshakes_per_ip",
        }
    }
}

/// A newcomer is turned away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Refused {
    pub(crate) limit: Limit,
    /// When it may come back.
    pub(crate) retry_after: Duration,
}

/// Addresses whose rate is remembered. One that is forgotten starts with a full allowance, so whoever
/// has so many addresses gains nothing by this that they did not have.
pub(crate) const REMEMBERED: usize = 100_000;

/// What may come at once, of all and of one address: this long's worth of the rate.
const BURST: Duration = Duration::from_secs(1);
const BURST_PER_IP: Duration = Duration::from_secs(5);

/// When to come back to a server that is full: nobody knows when there will be room.
const FULL: Duration = Duration::from_secs(5);
/// Nobody is sent away for longer.
const LONGEST_RETRY: Duration = Duration::from_secs(60);

/// Events in even steps, of which a burst may come early (the generic cell rate algorithm). Its whole
/// state is the time at which the next one is due.
#[derive(Clone, Copy, Debug)]
struct Pace {
    step: Duration,
    /// How far ahead of its time an event may come.
    early: Duration,
}

impl Pace {
    fn new(per_second: usize, burst: Duration) -> Self {
        let step = Duration::from_secs(1) / u32::try_from(per_second.max(1)).unwrap_or(u32::MAX);
        Self { step, early: burst.saturating_sub(step) }
    }

    /// How long the next event has to wait, and when the one behind it is due.
    fn next(self, due: Option<Instant>, now: Instant) -> (Duration, Instant) {
        let due = due.map_or(now, |due| due.max(now));
        ((due - now).saturating_sub(self.early), due + self.step)
    }
}

/// When the next newcomer of each address is due. Two generations: when the young one has half of the
/// places, the old one, which nobody has asked for since, is forgotten.
#[derive(Debug, Default)]
struct Remembered {
    young: HashMap<IpAddr, Instant>,
    old: HashMap<IpAddr, Instant>,
}

impl Remembered {
    fn get(&self, address: IpAddr) -> Option<Instant> {
        self.young.get(&address).or_else(|| self.old.get(&address)).copied()
    }

    fn set(&mut self, address: IpAddr, due: Instant, places: usize) {
        if self.young.len() >= places / 2 && !self.young.contains_key(&address) {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(address, due);
    }
}

/// The value. `address` is one of [`LimitsConfig::subscriber`], or `None` for whom no limit per address holds.
#[derive(Debug)]
pub(crate) struct Door {
    limits: LimitsConfig,
    sessions: usize,
    half_open: usize,
    connections: usize,
    sessions_of: HashMap<IpAddr, usize>,
    connections_of: HashMap<IpAddr, usize>,
    due: Option<Instant>,
    /// When the last one who was sent away comes back.
    back: Option<Instant>,
    due_of: Remembered,
    remembered: usize,
}

impl Door {
    pub(crate) fn new(limits: LimitsConfig) -> Self {
        Self::remembering(limits, REMEMBERED)
    }

    fn remembering(limits: LimitsConfig, remembered: usize) -> Self {
        Self {
            limits,
            sessions: 0,
            half_open: 0,
            connections: 0,
            sessions_of: HashMap::new(),
            connections_of: HashMap::new(),
            due: None,
            back: None,
            due_of: Remembered::default(),
            remembered,
        }
    }

    /// Lets a newcomer in after this pause, in which its place is kept: [`Door::leave`] gives it back.
    ///
    /// # Errors
    /// The limit that it met; it has no place.
    pub(crate) fn enter(
        &mut self,
        now: Instant,
        address: Option<IpAddr>,
    ) -> Result<Duration, Refused> {
        if let Some(address) = address {
            self.check_address(now, address)?;
        }
        if self.limits.max_sessions.is_some_and(|max| self.sessions >= max) {
            return Err(Refused { limit: Limit::Sessions, retry_after: FULL });
        }
        let pause = self.turn(now)?;
        self.sessions += 1;
        if let Some(address) = address {
            *self.sessions_of.entry(address).or_default() += 1;
        }
        Ok(pause)
    }

    fn check_address(&mut self, now: Instant, address: IpAddr) -> Result<(), Refused> {
        if let Some(rate) = self.limits.handshake_rate_per_ip {
            let pace = Pace::new(rate, BURST_PER_IP);
            let (pause, due) = pace.next(self.due_of.get(address), now);
            if !pause.is_zero() {
                return Err(Refused { limit: Limit::HandshakeRatePerIp, retry_after: pause });
            }
            self.due_of.set(address, due, self.remembered);
        }
        let of = self.sessions_of.get(&address).copied().unwrap_or_default();
        if self.limits.max_sessions_per_ip.is_some_and(|max| of >= max) {
            return Err(Refused { limit: Limit::SessionsPerIp, retry_after: FULL });
        }
        Ok(())
    }

    /// The pause until the newcomer's turn. Those who would have to wait too long are told to come back
    /// one after the other, in the same steps.
    fn turn(&mut self, now: Instant) -> Result<Duration, Refused> {
        let Some(rate) = self.limits.handshake_rate else { return Ok(Duration::ZERO) };
        let pace = Pace::new(rate, BURST);
        let (pause, due) = pace.next(self.due, now);
        if pause <= self.limits.handshake_wait {
            self.due = Some(due);
            return Ok(pause);
        }
        let back = self.back.map_or(now + pause, |back| back.max(now + pause));
        self.back = Some((back + pace.step).min(now + LONGEST_RETRY));
        let retry_after = (back - now).min(LONGEST_RETRY);
        Err(Refused { limit: Limit::HandshakeRate, retry_after })
    }

    /// A session ended, or never began.
    pub(crate) fn leave(&mut self, address: Option<IpAddr>) {
        self.sessions -= 1;
        if let Some(address) = address {
            take_one(&mut self.sessions_of, address);
        }
    }

    /// Places that are taken.
    pub(crate) fn sessions(&self) -> usize {
        self.sessions
    }

    /// One who has entered begins to open its session: [`Door::settle`] takes that back.
    ///
    /// # Errors
    /// Too many are at it.
    pub(crate) fn begin(&mut self) -> Result<(), Refused> {
        if self.limits.max_half_open_sessions.is_some_and(|max| self.half_open >= max) {
            return Err(Refused { limit: Limit::HalfOpenSessions, retry_after: FULL });
        }
        self.half_open += 1;
        Ok(())
    }

    /// The session has joined a namespace, or is gone.
    pub(crate) fn settle(&mut self) {
        self.half_open -= 1;
    }

    /// Counts a connection: [`Door::disconnect`] takes that back.
    ///
    /// # Errors
    /// The limit that it met; it is not counted.
    pub(crate) fn connect(&mut self, address: Option<IpAddr>) -> Result<(), Limit> {
        let of = address.and_then(|address| self.connections_of.get(&address).copied());
        let of = of.unwrap_or_default();
        if self.limits.max_connections_per_ip.is_some_and(|max| of >= max) {
            return Err(Limit::ConnectionsPerIp);
        }
        if self.limits.max_connections.is_some_and(|max| self.connections >= max) {
            return Err(Limit::Connections);
        }
        self.connections += 1;
        if let Some(address) = address {
            self.connections_of.insert(address, of + 1);
        }
        Ok(())
    }

    pub(crate) fn disconnect(&mut self, address: Option<IpAddr>) {
        self.connections -= 1;
        if let Some(address) = address {
            take_one(&mut self.connections_of, address);
        }
    }
}

/// Who the client is: the peer, or if that is a trusted proxy the rightmost address in `X-Forwarded-For`
/// that is none. What stands left of that anybody may have written.
pub(crate) fn client_address(trusted: &[IpNet], peer: IpAddr, headers: &HeaderMap) -> IpAddr {
    let mut client = peer.to_canonical();
    if trusted.is_empty() || !is_in(trusted, client) {
        return client;
    }
    // several fields are one list (RFC 9110 5.3)
    let fields: Vec<_> = headers.get_all("x-forwarded-for").iter().collect();
    let hops = fields.into_iter().rev().flat_map(|field| field.as_bytes().rsplit(|c| *c == b','));
    for hop in hops {
        // a trusted proxy that says nothing sensible is itself the client
        let Some(address) = std::str::from_utf8(hop).ok().and_then(|hop| read_hop(hop.trim()))
        else {
            break;
        };
        client = address;
        if !is_in(trusted, client) {
            break;
        }
    }
    client
}

/// An address, as proxies write it: some add the port.
fn read_hop(text: &str) -> Option<IpAddr> {
    let bare = text.strip_prefix('[').and_then(|rest| rest.split_once(']'));
    let address = match bare {
        Some((v6, _)) => v6.parse().ok(),
        None => text.parse().ok().or_else(|| text.rsplit_once(':')?.0.parse().ok()),
    };
    address.map(|address: IpAddr| address.to_canonical())
}

fn take_one(counts: &mut HashMap<IpAddr, usize>, address: IpAddr) {
    if let Entry::Occupied(mut count) = counts.entry(address) {
        *count.get_mut() -= 1;
        if *count.get() == 0 {
            count.remove();
        }
    }
}

#[cfg(test)]
#[path = "door_tests.rs"]
mod tests;
