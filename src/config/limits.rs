//! How much clients may ask for at the door, one by one and together.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

pub use ipnet::IpNet;
use ipnet::{Ipv4Net, Ipv6Net};

/// Limits at the door and on the road (guarantee G5). Node has none of these options.
///
/// Where a limit is `None`, there is none. *Per address* means the client's: that of the connection, or
/// the one that a trusted proxy names. IPv6 clients count by their /64, which is what one subscriber has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LimitsConfig {
    /// Proxies whose `X-Forwarded-For` says who the client is. Default: none, nobody is believed.
    pub trusted_proxies: Vec<IpNet>,
    /// Addresses that the limits per address do not hold for. Default: [`private_networks`], since behind
    /// one of those are all clients of a proxy or a tunnel.
    pub per_ip_exempt: Vec<IpNet>,
    /// Most sessions at a time; above it newcomers get 503. Default: 100,000.
    pub max_sessions: Option<usize>,
    /// Most sessions of one address; above it newcomers get 429. Default: 1,000.
    pub max_sessions_per_ip: Option<usize>,
    /// Most sessions that are being opened or have not joined a namespace yet; above it newcomers get
    /// 503. Default: 10,000.
    pub max_half_open_sessions: Option<usize>,
    /// Most connections at a time, TCP of the listener and QUIC together: room for two for each session, as polling
    /// has them. Above it a TCP connection is answered with 503 and closed, and a QUIC handshake is refused. The
    /// process's file descriptors may allow fewer. Default: 200,000.
    pub max_connections: Option<usize>,
    /// Most connections of one address, TCP and QUIC together (trusted proxies have no limit); more are closed or
    /// refused at once. A page that comes has up to four for a moment: for what it is made of, for each transport of
    /// its race, and one that QUIC has not forgotten.
    /// Default: 4,000.
    pub max_connections_per_ip: Option<usize>,
    /// New sessions a second. A second's worth is let in at once; those beyond wait their turn, in order.
    /// Default: 2,000.
    pub handshake_rate: Option<usize>,
    /// How long a newcomer may wait for its turn; who would have to wait longer gets 503 and is told
    /// when to come back. Default: 5 s.
    pub handshake_wait: Duration,
    /// New sessions a second from one address, of which five seconds' worth may come at once; more get
    /// 429. Default: 100.
    pub handshake_rate_per_ip: Option<usize>,
    /// Longest head of an HTTP request, in bytes; above it the client gets 431. From 8 KiB on. Default: 32 KiB.
    pub max_header_bytes: usize,
    /// Engine.IO packets a second that are read from one connection, WebSocket control frames included.
    /// A second's worth may come at once; then reading pauses, until the client is within its rate.
    /// Default: 2,000.
    pub packet_rate: Option<usize>,
    /// Bytes of packets a second likewise, of which a quarter of a second's worth may come at once; a newcomer
    /// has a twentieth, and earns the rest by silence. At least an eighth of
    /// [`EngineConfig::max_payload`](super::EngineConfig::max_payload), so that no message takes longer than
    /// 8 s of the time that a pong has. Default: 2 MiB.
    pub byte_rate: Option<usize>,
}

/// UDP packets that a client within its rates may need, for each that would do: some are lost, and some half empty.
const UDP_PACKETS: u64 = 8;
/// Nobody is held to fewer a second.
const FEW_UDP_PACKETS: u64 = 4_096;
/// What a UDP packet carries at least, where there is more than that to say.
const UDP_PACKET: u64 = 1_200;

impl LimitsConfig {
    /// UDP packets a second that no client within its rates comes near to, whatever is in them; without those rates,
    /// nobody knows.
    pub(crate) fn udp_packet_rate(&self) -> Option<u64> {
        let (packets, bytes) = (self.packet_rate? as u64, self.byte_rate? as u64);
        let needed = packets.max(bytes / UDP_PACKET);
        Some(needed.saturating_mul(UDP_PACKETS).max(FEW_UDP_PACKETS))
    }
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self {
            trusted_proxies: Vec::new(),
            per_ip_exempt: private_networks(),
            max_sessions: Some(100_000),
            max_sessions_per_ip: Some(1_000),
            max_half_open_sessions: Some(10_000),
            max_connections: Some(200_000),
            max_connections_per_ip: Some(4_000),
            handshake_rate: Some(2_000),
            handshake_wait: Duration::from_secs(5),
            handshake_rate_per_ip: Some(100),
            max_header_bytes: 32 * 1024,
            packet_rate: Some(2_000),
            byte_rate: Some(2 << 20),
        }
    }
}

impl LimitsConfig {
    /// Whom the limits per address count for what comes from this address; `None`: they do not hold for it
    /// ([`Self::per_ip_exempt`]). That is the address, or of IPv6 the /64, of which a subscriber has all (RFC 6177);
    /// its addresses within change with privacy extensions, and at will.
    pub fn subscriber(&self, address: IpAddr) -> Option<IpAddr> {
        let subscriber = match address.to_canonical() {
            IpAddr::V6(v6) if !v6.is_loopback() => {
                Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64).into()
            }
            other => other,
        };
        (!is_in(&self.per_ip_exempt, address)).then_some(subscriber)
    }
}

/// Networks that the open internet does not reach: loopback, private (RFC 1918), shared (RFC 6598),
/// link-local, and unique local (RFC 4193). In settings: `private`.
pub fn private_networks() -> Vec<IpNet> {
    let v4 = |a, b, length| {
        let net = Ipv4Net::new(Ipv4Addr::new(a, b, 0, 0), length);
        IpNet::V4(net.expect("a prefix of at most 32 bits"))
    };
    let v6 = |first, length| {
        let net = Ipv6Net::new(Ipv6Addr::new(first, 0, 0, 0, 0, 0, 0, 0), length);
        IpNet::V6(net.expect("a prefix of at most 128 bits"))
    };
    let loopback = Ipv6Net::new(Ipv6Addr::LOCALHOST, 128).expect("a prefix of 128 bits");
    vec![
        v4(127, 0, 8),
        v4(10, 0, 8),
        v4(172, 16, 12),
        v4(192, 168, 16),
        v4(100, 64, 10),
        v4(169, 254, 16),
        loopback.into(),
        v6(0xfc00, 7),
        v6(0xfe80, 10),
    ]
}

/// Is the address in one of the networks?
pub(crate) fn is_in(networks: &[IpNet], address: IpAddr) -> bool {
    networks.iter().any(|network| network.contains(&address))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn udp_packets_are_bounded_far_above_what_the_rates_need() {
        let rate = |packet_rate, byte_rate| {
            LimitsConfig { packet_rate, byte_rate, ..LimitsConfig::default() }.udp_packet_rate()
        };
        assert_eq!(LimitsConfig::default().udp_packet_rate(), Some(16_000));
        assert_eq!(rate(Some(512), Some(1_200)), Some(4_096));
        assert_eq!(rate(Some(513), Some(1_200)), Some(4_104));
        assert_eq!(rate(Some(1), Some(1_200 * 5_000)), Some(40_000));
        assert_eq!((rate(None, Some(1)), rate(Some(1), None)), (None, None));
    }
}
