//! Values that can be read, but cannot be meant.

use std::time::Duration;

use tracing_subscriber::EnvFilter;

use super::forms::{show_duration, show_size};
use super::settings;
use super::{
    Config, Cookie, HostPolicy, Listen, MAX_DEPTH, OriginPolicy, RedisAddress, ResetKey, SameSite,
    Transports, origin,
};
use crate::error::ConfigError;

/// The longest wait. Browsers keep timers in 31 bits of milliseconds (24.8 days; longer ones fire
/// at once), and adding a wait to a time must never overflow.
const MAX_WAIT: Duration = Duration::from_secs(24 * 86_400);

/// The most bytes for any one buffer of one client.
const MAX_BYTES: usize = i32::MAX as usize;

/// Seconds that the largest message may take at the byte rate: a pong has 20, and waits behind it.
const LONGEST_MESSAGE: usize = 8;

/// The most of anything that is counted: channels have a largest capacity, and panic above it.
const MAX_COUNT: usize = 1_000_000;

/// hyper reads no less than this at once.
const MIN_HEADER_BYTES: usize = 8 * 1024;
const MAX_HEADER_BYTES: usize = 1024 * 1024;

/// A value that cannot be meant.
pub(super) struct Finding {
    /// The name of its setting.
    pub(super) setting: &'static str,
    /// What it must be.
    pub(super) right: String,
}

impl Config {
    /// Looks for values that cannot work, alone or together.
    ///
    /// [`Config::parse`] has done it already; a server does it with what it is given.
    ///
    /// # Errors
    /// Every mistake, by the name of the setting (`ping-timeout` for `engine.ping_timeout`).
    pub fn check(&self) -> Result<(), ConfigError> {
        let findings = self.findings();
        if findings.is_empty() {
            return Ok(());
        }
        let mistakes = findings.iter().map(|finding| {
            let setting = settings::by_name(finding.setting);
            setting.mistake(None, &(setting.show)(self), &finding.right)
        });
        Err(ConfigError { mistakes: mistakes.collect() })
    }

    pub(super) fn findings(&self) -> Vec<Finding> {
        let mut found = Findings(Vec::new());
        self.check_process(&mut found);
        self.check_shed(&mut found);
        self.check_waits(&mut found);
        self.check_limits(&mut found);
        self.check_door(&mut found);
        self.check_engine(&mut found);
        self.check_jwt(&mut found);
        self.check_redis(&mut found);
        if let Some(cookie) = &self.engine.cookie {
            check_cookie(cookie, &mut found);
        }
        found.0
    }

    fn check_process(&self, found: &mut Findings) {
        let Listen { port, admin_port, .. } = self.listen;
        found.unless(port == 0 || admin_port != Some(port), "admin-port", || {
            format!("another port than port ({port})")
        });
        if let Some(tls) = &self.tls {
            let given = |path: &std::path::Path| !path.as_os_str().is_empty();
            found.unless(given(&tls.cert), "tls-cert", || "set together with tls-key".to_owned());
            found.unless(given(&tls.key), "tls-key", || "set together with tls-cert".to_owned());
        }
        let filter = EnvFilter::builder().parse(&self.log.filter);
        found.unless(filter.is_ok(), "log-filter", || {
            "directives such as info or warn,quicket::engine=debug".to_owned()
        });
        found.unless(self.socketio.recovery.window <= MAX_WAIT, "recovery-window", || {
            format!("at most {}", show_duration(&MAX_WAIT))
        });
        found.unless(self.shutdown_grace <= MAX_WAIT, "shutdown-grace", || {
            format!("at most {}", show_duration(&MAX_WAIT))
        });
    }

    fn check_shed(&self, found: &mut Findings) {
        found.unless(self.shed.is_none_or(|share| (1..=100).contains(&share)), "shed", || {
            "off, or from 1% to 100%".to_owned()
        });
        // without it every client that is moved would lose what it missed
        found.unless(self.shed.is_none() || self.socketio.recovery.is_on(), "shed", || {
            "off, or recovery-window has to be set".to_owned()
        });
    }

    fn check_waits(&self, found: &mut Findings) {
        let engine = &self.engine;
        for (setting, wait) in [
            ("ping-interval", engine.ping_interval),
            ("ping-timeout", engine.ping_timeout),
            ("upgrade-timeout", engine.upgrade_timeout),
            ("poll-close-timeout", engine.poll_close_timeout),
            ("connect-timeout", self.socketio.connect_timeout),
            ("webtransport-keep-alive", self.webtransport.keep_alive),
            ("webtransport-idle-timeout", self.webtransport.idle_timeout),
        ] {
            // Less than a millisecond would be 0 where the handshake tells the client.
            found.unless((Duration::from_millis(1)..=MAX_WAIT).contains(&wait), setting, || {
                format!("from 1ms to {}", show_duration(&MAX_WAIT))
            });
        }
        let together = engine.ping_interval.saturating_add(engine.ping_timeout);
        let one_is_wrong = engine.ping_interval.max(engine.ping_timeout) > MAX_WAIT;
        found.unless(together <= MAX_WAIT || one_is_wrong, "ping-timeout", || {
            format!("at most {} together with ping-interval", show_duration(&MAX_WAIT))
        });
        let key = self.webtransport.reset_key.as_ref();
        let fits = key.is_none_or(|key| key.0.len() >= ResetKey::LENGTH_MIN);
        found.unless(fits, "webtransport-reset-key", || {
            format!("at least {} characters, such as openssl rand -hex 32", ResetKey::LENGTH_MIN)
        });
        let idle = self.webtransport.idle_timeout;
        found.unless(self.webtransport.keep_alive < idle, "webtransport-keep-alive", || {
            format!("less than webtransport-idle-timeout ({})", show_duration(&idle))
        });
    }

    fn check_limits(&self, found: &mut Findings) {
        let (engine, socketio) = (&self.engine, &self.socketio);
        for (setting, bytes) in [
            ("max-payload", engine.max_payload),
            ("outbox-bytes", engine.outbox_bytes),
            ("inbox-bytes", socketio.inbox_bytes),
            ("max-name-bytes", socketio.max_name_bytes),
            ("recovery-history-bytes", socketio.recovery.history_bytes),
        ] {
            found.unless((1..=MAX_BYTES).contains(&bytes), setting, || {
                format!("from 1 to {MAX_BYTES} bytes")
            });
        }
        for (setting, least, count) in [
            ("max-attachments", 0, socketio.max_attachments),
            ("max-namespaces", 1, socketio.max_namespaces),
            ("max-rooms", 1, socketio.max_rooms),
            ("inbox-events", 1, socketio.inbox_events),
            ("max-pending-acks", 1, socketio.max_pending_acks),
            ("recovery-max-events", 1, socketio.recovery.max_events),
            ("recovery-history-entries", 1, socketio.recovery.history_entries),
            ("webtransport-max-pending-handshakes", 1, self.webtransport.max_pending_handshakes),
            (
                "webtransport-max-pending-handshakes-per-ip",
                1,
                self.webtransport.max_pending_handshakes_per_ip,
            ),
        ] {
            found.unless((least..=MAX_COUNT).contains(&count), setting, || {
                format!("from {least} to {MAX_COUNT}")
            });
        }
        found.unless((1..=MAX_DEPTH).contains(&socketio.max_depth), "max-depth", || {
            format!("from 1 to {MAX_DEPTH}")
        });
        let heads = MIN_HEADER_BYTES..=MAX_HEADER_BYTES;
        found.unless(heads.contains(&self.limits.max_header_bytes), "max-header-bytes", || {
            format!("from {MIN_HEADER_BYTES} to {MAX_HEADER_BYTES} bytes")
        });
        // What is sent again has to pass the outbox, or the client would be cut off over it again and again.
        found.unless(
            !socketio.recovery.is_on()
                || (1..=engine.outbox_bytes).contains(&socketio.recovery.max_bytes),
            "recovery-max-bytes",
            || format!("from 1 to outbox-bytes ({})", show_size(&engine.outbox_bytes)),
        );
        // Otherwise a message that the engine takes would never fit, and its client would hang.
        found.unless(
            socketio.inbox_bytes >= engine.max_payload || engine.max_payload > MAX_BYTES,
            "inbox-bytes",
            || format!("at least max-payload ({})", show_size(&engine.max_payload)),
        );
    }

    fn check_door(&self, found: &mut Findings) {
        let limits = &self.limits;
        for (setting, count) in [
            ("max-sessions", limits.max_sessions),
            ("max-sessions-per-ip", limits.max_sessions_per_ip),
            ("max-half-open-sessions", limits.max_half_open_sessions),
            ("max-connections", limits.max_connections),
            ("max-connections-per-ip", limits.max_connections_per_ip),
            ("handshake-rate", limits.handshake_rate),
            ("handshake-rate-per-ip", limits.handshake_rate_per_ip),
            ("packet-rate", limits.packet_rate),
        ] {
            let fine = count.is_none_or(|count| (1..=MAX_COUNT).contains(&count));
            found.unless(fine, setting, || format!("off, or from 1 to {MAX_COUNT}"));
        }
        // one message must not cost its sender the time that its pong has
        let largest = Some(self.engine.max_payload).filter(|max| *max <= MAX_BYTES);
        let least = largest.map_or(1, |max| max.div_ceil(LONGEST_MESSAGE));
        let fine = limits.byte_rate.is_none_or(|rate| (least..=MAX_BYTES).contains(&rate));
        found.unless(fine, "byte-rate", || {
            let least = show_size(&least);
            format!("off, or from an eighth of max-payload ({least}) to {MAX_BYTES} bytes")
        });
        found.unless(limits.handshake_wait <= MAX_WAIT, "handshake-wait", || {
            format!("at most {}", show_duration(&MAX_WAIT))
        });
    }

    fn check_engine(&self, found: &mut Findings) {
        let engine = &self.engine;
        found.unless(is_path(&engine.path), "socketio-path", || {
            "a URL path with a slash at both ends, such as /socket.io/".to_owned()
        });
        let Transports { polling, websocket, webtransport } = engine.transports;
        found.unless(polling || websocket || webtransport, "transports", || {
            "at least one of polling, websocket, webtransport".to_owned()
        });
        if let OriginPolicy::List(list) = &engine.origins {
            let fine = !list.is_empty() && list.iter().all(|entry| origin::is_origin(entry));
            found.unless(fine, "allowed-origins", || {
                "same-origin, *, or origins as browsers write them, such as https://example.com or \
                 https://*.example.com (lower case, no path, no default port)"
                    .to_owned()
            });
        }
        if let HostPolicy::List(list) = &engine.hosts {
            let fine = !list.is_empty() && list.iter().all(|entry| origin::is_host(entry));
            found.unless(fine, "allowed-hosts", || {
                "*, or names such as example.com, example.com:8443, *.example.com".to_owned()
            });
        }
        // The page's host is then another than WebTransport's, and all of its sessions would be refused.
        let apart = engine.transports.webtransport && self.webtransport.public_host.is_some();
        found.unless(
            !apart || engine.origins != OriginPolicy::SameOrigin,
            "allowed-origins",
            || "the pages' origins, as webtransport-public-host is a host of its own".to_owned(),
        );
        found.unless(lasts(engine.cors_max_age), "cors-max-age", || {
            "off, or at least 1s".to_owned()
        });
        // Fetch ("CORS protocol and credentials") forbids `*` with credentials, and to mirror any
        // origin instead would let every page act with its visitors' cookies.
        let open = engine.cors_credentials && engine.origins == OriginPolicy::Any;
        found.unless(!open, "cors-credentials", || {
            "false while allowed-origins is *: name the origins".to_owned()
        });
    }
}

impl Config {
    fn check_redis(&self, found: &mut Findings) {
        let redis = &self.redis;
        found.unless(
            (Duration::from_millis(1)..=MAX_WAIT).contains(&redis.local_deadline),
            "redis-local-deadline",
            || format!("from 1ms to {}", show_duration(&MAX_WAIT)),
        );
        found.unless(redis.cert.is_some() || redis.key.is_none(), "redis-cert", || {
            "set together with redis-key".to_owned()
        });
        found.unless(redis.key.is_some() || redis.cert.is_none(), "redis-key", || {
            "set together with redis-cert".to_owned()
        });
        let Some(url) = &redis.url else { return };
        match RedisAddress::parse(url) {
            Err(right) => found.unless(false, "redis-url", || right),
            Ok(address) => {
                found.unless(address.is_tls() || redis.ca.is_none(), "redis-ca", || {
                    "left out, or redis-url has to say rediss:// (TLS)".to_owned()
                });
                found.unless(address.is_tls() || redis.cert.is_none(), "redis-cert", || {
                    "left out, or redis-url has to say rediss:// (TLS)".to_owned()
                });
            }
        }
    }
}

fn check_cookie(cookie: &Cookie, found: &mut Findings) {
    let token = |c: u8| c.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&c);
    found.unless(!cookie.name.is_empty() && cookie.name.bytes().all(token), "cookie", || {
        "off, or a name of letters, digits, - and _".to_owned()
    });
    let plain = |c: u8| (0x20..0x7f).contains(&c) && c != b';';
    let path_is_fine = cookie.path.starts_with('/') && cookie.path.bytes().all(plain);
    found.unless(path_is_fine, "cookie-path", || "a URL path, such as /".to_owned());
    found.unless(cookie.same_site != SameSite::None || cookie.secure, "cookie-secure", || {
        "true while cookie-same-site is none: browsers drop such a cookie".to_owned()
    });
    let lasts = cookie.max_age.is_none_or(|age| age >= Duration::from_secs(1));
    found.unless(lasts, "cookie-max-age", || "off, or at least 1s".to_owned());
}

/// Is this at least a second? On the wire it is whole seconds, as in Node, whose users may have
/// written just the number.
fn lasts(age: Option<Duration>) -> bool {
    age.is_none_or(|age| age >= Duration::from_secs(1))
}

/// Can this be the path of a request? (RFC 3986 3.3, without escapes, and as browsers normalise
/// it.)
fn is_path(path: &str) -> bool {
    let plain = |c: u8| c.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@".contains(&c);
    let segment = |s: &str| !s.is_empty() && s != "." && s != ".." && s.bytes().all(plain);
    // the router takes a segment that begins with these for a pattern
    let segment = |s: &str| segment(s) && !s.starts_with([':', '*']);
    let inner = path.strip_prefix('/').and_then(|path| path.strip_suffix('/'));
    inner.is_some_and(|inner| inner.split('/').all(segment))
}

pub(super) struct Findings(Vec<Finding>);

impl Findings {
    pub(super) fn unless(
        &mut self,
        fine: bool,
        setting: &'static str,
        right: impl FnOnce() -> String,
    ) {
        if !fine {
            self.0.push(Finding { setting, right: right() });
        }
    }
}

#[cfg(test)]
mod tests {
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
            assert_eq!(
                wrong(|c| c.limits = limits),
                expected.split_whitespace().collect::<Vec<_>>()
            );
        }
        assert!(wrong(|c| c.limits.max_sessions = None).is_empty());
    }

    #[test]
    fn values_that_contradict_each_other_are_found() {
        let days = |days: u64| Duration::from_secs(days * 86_400);
        assert_eq!(wrong(|c| c.engine.max_payload = 4_000_001), ["inbox-bytes"]);
        assert_eq!(wrong(|c| c.engine.ping_interval = days(24)), ["ping-timeout"]);
        assert_eq!(wrong(|c| c.listen.admin_port = Some(3000)), ["admin-port"]);
        assert!(
            wrong(|c| c.listen = Listen { port: 0, admin_port: Some(0), ..c.listen }).is_empty()
        );
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
        for (name, path) in [("", ""), ("a=b", "x"), ("a;b", "/;"), ("a\r\n", "/\r\n"), ("é", "/é")]
        {
            let found = wrong(|c| c.engine.cookie = Some(cookie(name, path)));
            assert_eq!(found, ["cookie", "cookie-path", "cookie-max-age"], "{name:?} {path:?}");
        }
    }

    #[test]
    fn paths_filters_and_origins_that_can_never_match_are_refused() {
        for path in [
            "", "/", "//", "/a", "a/", "/a//b/", "/a/../b/", "/a?b/", "/a b/", "/:a/", "/*a/",
            "/%2e/", "/é/",
        ] {
            assert_eq!(wrong(|c| c.engine.path = path.to_owned()), ["socketio-path"], "{path}");
        }
        assert!(wrong(|c| c.engine.path = "/a/b.c/".to_owned()).is_empty());
        assert_eq!(wrong(|c| c.log.filter = "info,quicket=loud".to_owned()), ["log-filter"]);
        assert_eq!(wrong(|c| c.engine.origins = OriginPolicy::List(vec![])), ["allowed-origins"]);
        let hosts =
            |list: &[&str]| HostPolicy::List(list.iter().map(|s| (*s).to_owned()).collect());
        assert_eq!(wrong(|c| c.engine.hosts = hosts(&[])), ["allowed-hosts"]);
        assert_eq!(wrong(|c| c.engine.hosts = hosts(&["a.org", "B.org"])), ["allowed-hosts"]);
        assert!(wrong(|c| c.engine.hosts = hosts(&["a.org", "*.b.org:80"])).is_empty());
        let apart = |c: &mut Config| c.webtransport.public_host = Some("quic.a.org".to_owned());
        assert_eq!(wrong(apart), ["allowed-origins"]);
        let list =
            OriginPolicy::List(vec!["https://a.org".to_owned(), "https://a.org/".to_owned()]);
        assert_eq!(wrong(|c| c.engine.origins = list), ["allowed-origins"]);
    }

    #[test]
    fn a_mistake_in_code_names_setting_value_and_remedy() {
        let mut config = Config::default();
        config.engine.ping_timeout = Duration::ZERO;
        let error = config.check().unwrap_err();
        assert_eq!(error.mistakes, ["ping-timeout: \"0s\", but it must be from 1ms to 2073600s"]);
    }
}
