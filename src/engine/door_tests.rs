//! The door in virtual time.

use super::*;
use http::HeaderValue;
use proptest::prelude::*;

fn address(last: u8) -> IpAddr {
    IpAddr::from([203, 0, 113, last])
}

fn off() -> LimitsConfig {
    LimitsConfig {
        max_sessions: None,
        max_sessions_per_ip: None,
        max_half_open_sessions: None,
        max_connections: None,
        max_connections_per_ip: None,
        handshake_rate: None,
        handshake_rate_per_ip: None,
        ..LimitsConfig::default()
    }
}

fn limit(result: Result<Duration, Refused>) -> Option<Limit> {
    result.err().map(|refused| refused.limit)
}

#[test]
fn counts_are_exact_and_given_back() {
    let now = Instant::now();
    let mut door =
        Door::new(LimitsConfig { max_sessions: Some(5), max_sessions_per_ip: Some(2), ..off() });
    let (a, b) = (Some(address(1)), Some(address(2)));
    for _ in 0..2 {
        assert_eq!(door.enter(now, a), Ok(Duration::ZERO));
    }
    assert_eq!(limit(door.enter(now, a)), Some(Limit::SessionsPerIp));
    assert!(door.enter(now, b).is_ok(), "others are not concerned");
    for _ in 0..2 {
        assert!(door.enter(now, None).is_ok(), "nor is who is exempt");
    }
    assert_eq!(limit(door.enter(now, b)), Some(Limit::Sessions));
    door.leave(a);
    assert!(door.enter(now, a).is_ok());
    for address in [a, a, b, None, None] {
        door.leave(address);
    }
    assert!(door.sessions_of.is_empty() && door.sessions == 0, "nothing is left behind");
}

#[test]
fn half_open_sessions_and_connections_are_counted_likewise() {
    let limits =
        LimitsConfig { max_half_open_sessions: Some(1), max_connections_per_ip: Some(1), ..off() };
    let mut door = Door::new(limits);
    assert_eq!(door.begin(), Ok(()));
    assert_eq!(door.begin().map_err(|refused| refused.limit), Err(Limit::HalfOpenSessions));
    door.settle();
    assert_eq!(door.begin(), Ok(()));
    let (a, b) = (Some(address(1)), Some(address(2)));
    assert_eq!((door.connect(a), door.connect(b)), (Ok(()), Ok(())));
    assert_eq!(door.connect(a), Err(Limit::ConnectionsPerIp));
    door.disconnect(a);
    assert_eq!(door.connect(a), Ok(()));
    door.disconnect(a);
    door.disconnect(b);
    assert!(door.connections_of.is_empty() && door.connections == 0);
}

#[test]
fn connections_in_all_are_counted_whoever_has_them() {
    let limits =
        LimitsConfig { max_connections: Some(3), max_connections_per_ip: Some(2), ..off() };
    let mut door = Door::new(limits);
    let (a, b) = (Some(address(1)), Some(address(2)));
    for address in [a, a, None] {
        assert_eq!(door.connect(address), Ok(()));
    }
    assert_eq!(door.connect(a), Err(Limit::ConnectionsPerIp), "what is cheaper to refuse");
    for address in [b, None] {
        assert_eq!(door.connect(address), Err(Limit::Connections));
    }
    door.disconnect(None);
    assert_eq!(door.connect(b), Ok(()));
    assert_eq!(door.connect(None), Err(Limit::Connections));
    for address in [a, a, b] {
        door.disconnect(address);
    }
    assert!(door.connections_of.is_empty() && door.connections == 0, "nothing is left behind");
}

#[test]
fn an_address_has_five_seconds_worth_at_once_and_then_its_rate() {
    let start = Instant::now();
    let mut door = Door::new(LimitsConfig { handshake_rate_per_ip: Some(2), ..off() });
    for _ in 0..10 {
        assert!(door.enter(start, Some(address(1))).is_ok());
    }
    let refused = door.enter(start, Some(address(1))).unwrap_err();
    assert_eq!(refused.limit, Limit::HandshakeRatePerIp);
    assert_eq!(refused.retry_after, Duration::from_millis(500));
    assert!(door.enter(start, Some(address(2))).is_ok());
    let later = start + refused.retry_after;
    assert!(door.enter(later, Some(address(1))).is_ok());
    assert!(door.enter(later, Some(address(1))).is_err());
}

#[test]
fn a_burst_waits_in_order_and_the_rest_is_told_when_to_come_back() {
    let now = Instant::now();
    let millis = Duration::from_millis;
    let limits =
        LimitsConfig { handshake_rate: Some(10), handshake_wait: Duration::from_secs(2), ..off() };
    let mut door = Door::new(limits);
    let pauses: Vec<_> = (0..30).map(|_| door.enter(now, None).unwrap()).collect();
    assert_eq!(pauses[..10], [Duration::ZERO; 10], "a second's worth comes in at once");
    let steps: Vec<_> = (1..=20).map(|n| millis(100 * n)).collect();
    assert_eq!(pauses[10..], steps, "then one every 100 ms, for 2 s");
    for n in 0..5 {
        let refused = door.enter(now, None).unwrap_err();
        assert_eq!(refused.limit, Limit::HandshakeRate);
        assert_eq!(refused.retry_after, millis(2_100 + 100 * n), "the next turns, one for each");
    }
    assert_eq!(door.sessions, 30);
    // who comes when it was told to waits less than the bound
    assert!(door.enter(now + millis(2_100), None).unwrap() <= millis(100));
    for _ in 0..100_000 {
        let refused = door.enter(now, None).err();
        assert!(refused.is_none_or(|refused| refused.retry_after <= LONGEST_RETRY));
    }
}

#[test]
fn addresses_are_forgotten_by_age_and_their_number_is_bounded() {
    let now = Instant::now();
    let places = 100;
    let limits = LimitsConfig { handshake_rate_per_ip: Some(1), ..off() };
    let mut door = Door::remembering(limits, places);
    let busy = Some(address(1));
    for _ in 0..5 {
        assert!(door.enter(now, busy).is_ok());
    }
    for n in 0..10_000_u32 {
        assert!(door.enter(now, Some(IpAddr::from(n.to_be_bytes()))).is_ok());
        let (young, old) = (door.due_of.young.len(), door.due_of.old.len());
        assert!(young + old <= places, "{young} + {old}");
        if n < 40 {
            assert!(door.enter(now, busy).is_err(), "forgotten after {n} others");
        }
    }
}

#[test]
fn ipv6_counts_by_the_subscriber() {
    let limits = LimitsConfig::default();
    let read = |text: &str| limits.subscriber(text.parse().unwrap()).map(|ip| ip.to_string());
    assert_eq!(read("2001:db8:1:2:3:4:5:6").as_deref(), Some("2001:db8:1:2::"));
    assert_eq!(read("2001:db8:1:2::").as_deref(), Some("2001:db8:1:2::"));
    assert_eq!(read("2001:db8:1:3::1").as_deref(), Some("2001:db8:1:3::"));
    assert_eq!(read("203.0.113.7").as_deref(), Some("203.0.113.7"));
    for exempt in ["127.0.0.1", "::1", "10.1.2.3", "100.100.0.1", "fd00::1", "fe80::1"] {
        assert_eq!(read(exempt), None, "{exempt}");
    }
}

#[test]
fn the_client_is_the_rightmost_address_that_no_trusted_proxy_has() {
    let trusted: Vec<IpNet> =
        ["10.0.0.0/8", "2001:db8::/32"].map(|net| net.parse().unwrap()).into();
    for (peer, fields, client) in [
        ("203.0.113.9", &["198.51.100.1"][..], "203.0.113.9"), // nobody trusts that peer
        ("10.0.0.1", &[], "10.0.0.1"),
        ("10.0.0.1", &["198.51.100.1"], "198.51.100.1"),
        ("10.0.0.1", &["6.6.6.6, 198.51.100.1"], "198.51.100.1"),
        ("10.0.0.1", &["6.6.6.6, 198.51.100.1,10.2.2.2"], "198.51.100.1"),
        ("10.0.0.1", &["6.6.6.6", "198.51.100.1", "10.2.2.2"], "198.51.100.1"),
        ("10.0.0.1", &["10.3.3.3, 10.2.2.2"], "10.3.3.3"),
        ("10.0.0.1", &["198.51.100.1:4711"], "198.51.100.1"),
        ("10.0.0.1", &["[2001:470::1]:4711"], "2001:470::1"),
        ("10.0.0.1", &["2001:470::1"], "2001:470::1"),
        ("2001:db8::1", &["::ffff:198.51.100.1"], "198.51.100.1"),
        ("::ffff:10.0.0.1", &["198.51.100.1"], "198.51.100.1"),
        ("10.0.0.1", &["198.51.100.1, unknown"], "10.0.0.1"),
        ("10.0.0.1", &["198.51.100.1, "], "10.0.0.1"),
        ("10.0.0.1", &["198.51.100.1, unknown, 10.2.2.2"], "10.2.2.2"),
    ] {
        let mut headers = HeaderMap::new();
        for field in fields {
            headers.append("x-forwarded-for", HeaderValue::from_static(field));
        }
        let peer = peer.parse().unwrap();
        let expected: IpAddr = client.parse().unwrap();
        assert_eq!(client_address(&trusted, peer, &headers), expected, "{peer} {fields:?}");
        assert_eq!(client_address(&[], peer, &headers), peer.to_canonical());
    }
}

proptest! {
    #[test]
    fn no_field_makes_it_panic(field in proptest::collection::vec(32_u8..=255, 0..60)) {
        let mut headers = HeaderMap::new();
        if let Ok(value) = HeaderValue::from_bytes(&field) {
            headers.append("x-forwarded-for", value);
        }
        client_address(&["0.0.0.0/0".parse().unwrap()], address(1), &headers);
    }

    /// Whatever comes when: nobody waits longer than allowed, turns are in order, and in any second
    /// there are at most two seconds' worth.
    #[test]
    fn turns_are_in_order_and_bounded(gaps in proptest::collection::vec(0_u64..120, 1..400)) {
        let (rate, wait) = (20, Duration::from_millis(700));
        let limits = LimitsConfig { handshake_rate: Some(rate), handshake_wait: wait, ..off() };
        let mut door = Door::new(limits);
        let mut now = Instant::now();
        let mut turns: Vec<Instant> = Vec::new();
        for gap in gaps {
            now += Duration::from_millis(gap);
            if let Ok(pause) = door.enter(now, None) {
                prop_assert!(pause <= wait);
                turns.push(now + pause);
            }
        }
        prop_assert!(turns.is_sorted());
        for (at, first) in turns.iter().enumerate() {
            let second = Duration::from_secs(1);
            let within = turns[at..].iter().filter(|turn| **turn - *first < second).count();
            prop_assert!(within <= 2 * rate, "{within} in one second");
        }
    }
}
