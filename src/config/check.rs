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

/// Less would be 0 where the handshake tells the client.
const MIN_WAIT: Duration = Duration::from_millis(1);

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

    /// What is other than by default counts as set by whoever made this.
    pub(super) fn findings(&self) -> Vec<Finding> {
        let default = Self::default();
        self.findings_of(&|name| {
            let show = settings::by_name(name).show;
            show(self) != show(&default)
        })
    }

    /// Settings that `is_set` says are the operator's own have to be possible as they are; some defaults adapt.
    pub(super) fn findings_of(&self, is_set: &dyn Fn(&str) -> bool) -> Vec<Finding> {
        let mut found = Findings(Vec::new());
        self.check_process(&mut found);
        self.check_end(is_set, &mut found);
        self.check_shed(&mut found);
        self.check_waits(&mut found);
        self.check_limits(&mut found);
        self.check_door(is_set, &mut found);
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

    /// What a shutdown spends its grace on. The defaults become shorter with it.
    fn check_end(&self, is_set: &dyn Fn(&str) -> bool, found: &mut Findings) {
        let grace = self.shutdown_grace;
        for (setting, wait, longest, share) in [
            ("drain-delay", self.drain_delay, self.longest_drain_delay(), "a quarter"),
            ("drain", self.drain, self.longest_drain(), "half"),
        ] {
            found.unless(wait <= longest || !is_set(setting), setting, || {
                let (grace, longest) = (show_duration(&grace), show_duration(&longest));
                format!("at most {share} of shutdown-grace ({grace}), which is {longest}")
            });
        }
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
            found.unless((MIN_WAIT..=MAX_WAIT).contains(&wait), setting, || {
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

    fn check_door(&self, is_set: &dyn Fn(&str) -> bool, found: &mut Findings) {
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
        let upgrade = self.engine.upgrade_timeout;
        let waits = is_set("handshake-wait") && limits.handshake_rate.is_some();
        let one_is_wrong = upgrade < MIN_WAIT || limits.handshake_wait > MAX_WAIT;
        let fine = !waits || one_is_wrong || limits.handshake_wait == self.handshake_wait();
        found.unless(fine, "handshake-wait", || {
            format!("at most upgrade-timeout ({})", show_duration(&upgrade))
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
            (MIN_WAIT..=MAX_WAIT).contains(&redis.local_deadline),
            "redis-local-deadline",
            || format!("from 1ms to {}", show_duration(&MAX_WAIT)),
        );
        found.unless(!redis.session_prefix.contains(['{', '}']), "redis-session-prefix", || {
            "without braces, by which Redis Cluster would choose other servers".to_owned()
        });
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
#[path = "check_tests.rs"]
mod tests;
