//! What can be read, and cannot be meant.

use super::*;
use crate::config::{
    EngineConfig, LimitsConfig, RecoveryConfig, SocketIoConfig, TlsFiles, WebTransportConfig,
};

/// The settings that `change` makes wrong.
fn wrong(change: impl FnOnce(&mut Config)) -> Vec<&'static str> {
    let mut config = Config::default();
    change(&mut config);
    let found: Vec<_> = config.findings().into_iter().map(|finding| finding.setting).collect();
    let told = config.check().err().map_or(0, |error| error.mistakes.len());
    assert_eq!(told, found.len());
    found
}

#[test]
fn the_default_is_fine() {
    assert!(wrong(|_| ()).is_empty());
}

#[test]
fn zero_is_refused_wherever_it_would_mean_never_or_nothing() {
    let zero = Duration::ZERO;
    let found = wrong(|c| {
        c.engine = EngineConfig {
            ping_interval: zero,
            ping_timeout: Duration::from_micros(999),
            upgrade_timeout: zero,
            poll_close_timeout: zero,
            max_payload: 0,
            outbox_bytes: 0,
            transports: Transports { polling: false, websocket: false, webtransport: false },
            ..EngineConfig::default()
        };
        c.socketio = SocketIoConfig {
            connect_timeout: zero,
            max_namespaces: 0,
            max_rooms: 0,
            max_name_bytes: 0,
            inbox_events: 0,
            inbox_bytes: 0,
            max_pending_acks: 0,
            max_attachments: 0,
            max_depth: 0,
            recovery: RecoveryConfig {
                window: Duration::from_secs(1),
                max_events: 0,
                max_bytes: 0,
                history_entries: 0,
                history_bytes: 0,
                ..RecoveryConfig::default()
            },
            ..SocketIoConfig::default()
        };
        c.webtransport = WebTransportConfig {
            keep_alive: zero,
            max_pending_handshakes: 0,
            max_pending_handshakes_per_ip: 0,
            ..WebTransportConfig::default()
        };
        c.shutdown_grace = zero;
    });
    let expected = "ping-interval ping-timeout upgrade-timeout poll-close-timeout connect-timeout \
         webtransport-keep-alive max-payload outbox-bytes inbox-bytes max-name-bytes \
         recovery-history-bytes max-namespaces max-rooms \
         inbox-events max-pending-acks recovery-max-events recovery-history-entries \
         webtransport-max-pending-handshakes webtransport-max-pending-handshakes-per-ip max-depth \
         recovery-max-bytes transports";
    assert_eq!(found, expected.split_whitespace().collect::<Vec<_>>());
}

#[test]
fn nothing_is_so_large_that_it_overflows() {
    let found = wrong(|c| {
        c.engine.ping_interval = Duration::MAX;
        c.engine.max_payload = usize::MAX;
        c.socketio.inbox_events = usize::MAX;
        c.socketio.max_depth = MAX_DEPTH + 1;
        c.limits.max_header_bytes = MAX_HEADER_BYTES + 1;
        c.webtransport.max_pending_handshakes = usize::MAX;
        c.webtransport.max_pending_handshakes_per_ip = MAX_COUNT + 1;
        c.shutdown_grace = Duration::MAX;
        c.socketio.recovery.window = Duration::MAX;
    });
    let expected = "recovery-window shutdown-grace ping-interval max-payload inbox-events \
         webtransport-max-pending-handshakes webtransport-max-pending-handshakes-per-ip max-depth \
         max-header-bytes";
    assert_eq!(found, expected.split_whitespace().collect::<Vec<_>>());
}

#[test]
fn limits_at_the_door_are_off_or_numbers_that_can_be_counted_to() {
    for none in [Some(0), Some(MAX_COUNT + 1)] {
        let limits = LimitsConfig {
            max_sessions: none,
            max_sessions_per_ip: none,
            max_half_open_sessions: none,
            max_connections: none,
            max_connections_per_ip: none,
            max_header_bytes: 8 * 1024 - 1,
            handshake_rate: none,
            handshake_wait: Duration::MAX,
            handshake_rate_per_ip: none,
            packet_rate: none,
            byte_rate: Some(124_999),
            ..LimitsConfig::default()
        };
        let expected = "max-header-bytes max-sessions max-sessions-per-ip max-half-open-sessions \
             max-connections max-connections-per-ip handshake-rate handshake-rate-per-ip \
             packet-rate byte-rate handshake-wait";
        assert_eq!(wrong(|c| c.limits = limits), expected.split_whitespace().collect::<Vec<_>>());
    }
    assert!(wrong(|c| c.limits.max_sessions = None).is_empty());
}

#[test]
fn values_that_contradict_each_other_are_found() {
    let days = |days: u64| Duration::from_secs(days * 86_400);
    assert_eq!(wrong(|c| c.engine.max_payload = 4_000_001), ["inbox-bytes"]);
    assert_eq!(wrong(|c| c.engine.ping_interval = days(24)), ["ping-timeout"]);
    assert_eq!(wrong(|c| c.listen.admin_port = Some(3000)), ["admin-port"]);
    assert!(wrong(|c| c.listen = Listen { port: 0, admin_port: Some(0), ..c.listen }).is_empty());
    assert_eq!(
        wrong(|c| c.webtransport.keep_alive = c.webtransport.idle_timeout),
        ["webtransport-keep-alive"]
    );
    let only_cert = TlsFiles { cert: "a.pem".into(), key: "".into() };
    assert_eq!(wrong(|c| c.tls = Some(only_cert)), ["tls-key"]);
    let any = |c: &mut Config| {
        c.engine.origins = OriginPolicy::Any;
        c.engine.cors_credentials = true;
    };
    assert_eq!(wrong(any), ["cors-credentials"]);
    let age = Some(Duration::from_millis(600));
    assert_eq!(wrong(|c| c.engine.cors_max_age = age), ["cors-max-age"]);
    let cookie = Cookie { same_site: SameSite::None, ..Cookie::default() };
    assert_eq!(wrong(|c| c.engine.cookie = Some(cookie)), ["cookie-secure"]);
}

#[test]
fn a_drain_that_would_not_fit_into_the_grace_is_refused_and_not_cut() {
    let seconds = Duration::from_secs;
    let end = |grace, delay, drain| {
        move |c: &mut Config| {
            (c.shutdown_grace, c.drain_delay, c.drain) = (grace, delay, drain);
        }
    };
    assert_eq!(wrong(end(seconds(10), seconds(3), seconds(6))), ["drain-delay", "drain"]);
    assert!(wrong(end(seconds(60), seconds(15), seconds(30))).is_empty());
    // the defaults adapt
    assert!(wrong(|c| c.shutdown_grace = Duration::ZERO).is_empty());
    let mut config = Config::default();
    end(seconds(8), seconds(1), seconds(60))(&mut config);
    let right = "drain: \"60s\", but it must be at most half of shutdown-grace (8s), which is 4s";
    assert_eq!(config.check().unwrap_err().mistakes, [right]);
}

#[test]
fn nobody_waits_at_the_door_for_longer_than_a_session_has_to_open() {
    let seconds = Duration::from_secs;
    assert_eq!(wrong(|c| c.limits.handshake_wait = seconds(11)), ["handshake-wait"]);
    // the default becomes shorter with it
    assert!(wrong(|c| c.engine.upgrade_timeout = seconds(4)).is_empty());
    let mut config = Config::default();
    config.engine.upgrade_timeout = seconds(4);
    assert_eq!(config.handshake_wait(), seconds(4));
    config.engine.transports.webtransport = false;
    assert_eq!(config.handshake_wait(), LimitsConfig::default().handshake_wait);
    assert!(wrong(|c| c.limits.handshake_wait = seconds(10)).is_empty());
    let no_rate = |c: &mut Config| {
        c.limits.handshake_wait = seconds(11);
        c.limits.handshake_rate = None;
    };
    assert!(wrong(no_rate).is_empty());
    let others = |c: &mut Config| {
        c.limits.handshake_wait = seconds(11);
        c.engine.transports.webtransport = false;
    };
    assert!(wrong(others).is_empty());
}

#[test]
fn sessions_are_shed_only_where_they_can_go_on() {
    assert_eq!(wrong(|c| c.shed = Some(5)), ["shed"]);
    let with_recovery = |share| {
        move |c: &mut Config| {
            c.shed = Some(share);
            c.socketio.recovery.window = Duration::from_secs(120);
        }
    };
    assert_eq!(wrong(with_recovery(0)), ["shed"]);
    assert_eq!(wrong(with_recovery(101)), ["shed"]);
    assert!(wrong(with_recovery(100)).is_empty());
}

#[test]
fn a_reset_key_that_can_be_guessed_is_refused() {
    let key = |length| {
        move |c: &mut Config| {
            c.webtransport.reset_key = Some(ResetKey("k".repeat(length)));
        }
    };
    assert_eq!(wrong(key(31)), ["webtransport-reset-key"]);
    assert!(wrong(key(32)).is_empty());
}

#[test]
fn a_cookie_that_would_break_its_header_is_refused() {
    let cookie = |name: &str, path: &str| Cookie {
        name: name.to_owned(),
        path: path.to_owned(),
        max_age: Some(Duration::from_millis(999)),
        ..Cookie::default()
    };
    for (name, path) in [("", ""), ("a=b", "x"), ("a;b", "/;"), ("a\r\n", "/\r\n"), ("é", "/é")] {
        let found = wrong(|c| c.engine.cookie = Some(cookie(name, path)));
        assert_eq!(found, ["cookie", "cookie-path", "cookie-max-age"], "{name:?} {path:?}");
    }
}

#[test]
fn paths_filters_and_origins_that_can_never_match_are_refused() {
    for path in [
        "", "/", "//", "/a", "a/", "/a//b/", "/a/../b/", "/a?b/", "/a b/", "/:a/", "/*a/", "/%2e/",
        "/é/",
    ] {
        assert_eq!(wrong(|c| c.engine.path = path.to_owned()), ["socketio-path"], "{path}");
    }
    assert!(wrong(|c| c.engine.path = "/a/b.c/".to_owned()).is_empty());
    assert_eq!(wrong(|c| c.log.filter = "info,quicket=loud".to_owned()), ["log-filter"]);
    assert_eq!(wrong(|c| c.engine.origins = OriginPolicy::List(vec![])), ["allowed-origins"]);
    let hosts = |list: &[&str]| HostPolicy::List(list.iter().map(|s| (*s).to_owned()).collect());
    assert_eq!(wrong(|c| c.engine.hosts = hosts(&[])), ["allowed-hosts"]);
    assert_eq!(wrong(|c| c.engine.hosts = hosts(&["a.org", "B.org"])), ["allowed-hosts"]);
    assert!(wrong(|c| c.engine.hosts = hosts(&["a.org", "*.b.org:80"])).is_empty());
    let apart = |c: &mut Config| c.webtransport.public_host = Some("quic.a.org".to_owned());
    assert_eq!(wrong(apart), ["allowed-origins"]);
    let list = OriginPolicy::List(vec!["https://a.org".to_owned(), "https://a.org/".to_owned()]);
    assert_eq!(wrong(|c| c.engine.origins = list), ["allowed-origins"]);
}

#[test]
fn a_mistake_in_code_names_setting_value_and_remedy() {
    let mut config = Config::default();
    config.engine.ping_timeout = Duration::ZERO;
    let error = config.check().unwrap_err();
    assert_eq!(error.mistakes, ["ping-timeout: \"0s\", but it must be from 1ms to 2073600s"]);
}
