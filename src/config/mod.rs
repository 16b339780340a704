//! What can be configured: a tree of final values, defaults applied.
//!
//! The library takes a [`Config`] as it is; an application builds one with struct-update syntax:
//!
//! ```
//! use quicket::config::{Config, EngineConfig};
//! let config = Config {
//!     engine: EngineConfig { max_payload: 10_000, ..EngineConfig::default() },
//!     ..Config::default()
//! };
//! assert!(config.check().is_ok());
//! ```
//!
//! The binary reads the same tree from flags, environment and a file: [`Config::parse`]. Each part
//! is handed to the module it is for, by value; nothing reads configuration from a global.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::path::PathBuf;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderName;

mod check;
mod flags;
mod forms;
mod jwt;
mod limits;
mod origin;
mod parse;
mod recovery;
mod redis;
mod reset_key;
mod settings;

pub use jwt::JwtConfig;
pub(crate) use jwt::MIN_SECRET_BYTES;
pub(crate) use limits::is_in;
pub use limits::{IpNet, LimitsConfig, private_networks};
pub(crate) use origin::Ports;
pub use origin::{HostPolicy, OriginPolicy};
pub use parse::{Command, Strings};
pub use recovery::RecoveryConfig;
pub(crate) use redis::RedisAddress;
pub use redis::RedisConfig;
pub use reset_key::ResetKey;

/// Everything that can be configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Where the server listens.
    pub listen: Listen,
    /// Certificate and key for HTTPS and QUIC. Default: none, which means plain HTTP on TCP, and on
    /// UDP a self-signed certificate of at most 14 days whose hash is served to the page.
    pub tls: Option<TlsFiles>,
    /// Sessions and their transports.
    pub engine: EngineConfig,
    /// Namespaces, sockets and events.
    pub socketio: SocketIoConfig,
    /// Tokens that clients have to show. Default: none are asked for.
    pub jwt: JwtConfig,
    /// QUIC and WebTransport.
    pub webtransport: WebTransportConfig,
    /// What clients may ask for at the door.
    pub limits: LimitsConfig,
    /// The cluster. Default: none, this node is alone.
    pub redis: RedisConfig,
    /// What is logged, and how.
    pub log: LogConfig,
    /// How long a shutdown may take before the sessions that are left are cut. Default: 10 s.
    pub shutdown_grace: Duration,
    /// How long a shutdown goes on taking new sessions before it closes any, while there are other nodes: no
    /// balancer learns from `/acceptz` at once, and whoever it still sends here would have to wait for its
    /// next attempt. At most a quarter of `shutdown_grace`, of which it is a part. Nothing where
    /// a `preStop` hook has waited already. Default: 1 s, or that quarter.
    pub drain_delay: Duration,
    /// The share of its sessions, in percent, that a node of a cluster may close in a minute while it has
    /// more of them than the others; their clients come back to any node, and go on with their sessions, so
    /// that recovery has to be on. Default: none, sessions stay where they are.
    pub shed: Option<u8>,
    /// How long a shutdown spreads the closing of the sessions over, while there are other nodes to take
    /// them; at most half of `shutdown_grace`, of which it is a part. Few sessions take less: one is
    /// closed every 10 ms at least. Default: 5 s, or that half.
    pub drain: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: Listen::default(),
            tls: None,
            engine: EngineConfig::default(),
            socketio: SocketIoConfig::default(),
            jwt: JwtConfig::default(),
            webtransport: WebTransportConfig::default(),
            limits: LimitsConfig::default(),
            redis: RedisConfig::default(),
            log: LogConfig::default(),
            shutdown_grace: Duration::from_secs(10),
            drain_delay: Duration::from_secs(1),
            shed: None,
            drain: Duration::from_secs(5),
        }
    }
}

impl Config {
    /// How long a newcomer may wait for its turn. One over WebTransport has to open its session meanwhile, and would be
    /// closed while it waits.
    pub(crate) fn handshake_wait(&self) -> Duration {
        let most = self.engine.transports.webtransport.then_some(self.engine.upgrade_timeout);
        most.map_or(self.limits.handshake_wait, |most| most.min(self.limits.handshake_wait))
    }

    /// The part of the grace that newcomers may still come in.
    pub(crate) fn longest_drain_delay(&self) -> Duration {
        self.shutdown_grace / 4
    }

    /// The part of the grace that the closing of sessions may be spread over; the last of them want time, too.
    pub(crate) fn longest_drain(&self) -> Duration {
        self.shutdown_grace / 2
    }
}

/// Where the server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen {
    /// The address to bind. Default: `::`, which takes IPv6 and IPv4.
    pub address: IpAddr,
    /// The port, the same for TCP (HTTP, WebSocket) and UDP (QUIC); 0 lets the system choose one.
    /// Default: 3000.
    pub port: u16,
    /// A second TCP port for `/healthz`, `/readyz`, `/acceptz` and `/metrics`. Default: none, which
    /// means that they are served on the main port.
    pub admin_port: Option<u16>,
    /// Does TCP speak HTTPS once there is a certificate ([`Config::tls`])? `false` is for a proxy
    /// in front that ends TLS: the certificate is then for QUIC, which no proxy ends. Default: yes.
    pub tls: bool,
}

impl Default for Listen {
    fn default() -> Self {
        Self { address: IpAddr::V6(Ipv6Addr::UNSPECIFIED), port: 3000, admin_port: None, tls: true }
    }
}

/// A certificate and its key, as PEM files. Both are read again when they change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate chain, the server's own certificate first.
    pub cert: PathBuf,
    /// The private key.
    pub key: PathBuf,
}

/// Engine.IO: sessions and their transports. Node's names are those of its `ServerOptions`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineConfig {
    /// The URL path of the protocol, with a slash at both ends (Node: `path`). Default:
    /// `/socket.io/`.
    pub path: String,
    /// The transports that clients may use (Node: `transports`, without WebTransport). Default:
    /// all.
    pub transports: Transports,
    /// May a session move to a better transport (Node: `allowUpgrades`)? Default: yes.
    pub allow_upgrades: bool,
    /// Time between two pings (Node: `pingInterval`). Default: 25 s.
    pub ping_interval: Duration,
    /// How long after a ping its pong may take (Node: `pingTimeout`). Default: 20 s.
    pub ping_timeout: Duration,
    /// How long an upgrade may take, and how long a new WebTransport session may take to open its
    /// stream and send its first packet (Node: `upgradeTimeout`). Default: 10 s.
    pub upgrade_timeout: Duration,
    /// The largest message, frame or POST body that a client may send, in bytes (Node:
    /// `maxHttpBufferSize`). Default: 1,000,000.
    pub max_payload: usize,
    /// How long a polling session that is being closed waits for the poll that takes the close
    /// packet (Node: fixed). Default: 30 s.
    pub poll_close_timeout: Duration,
    /// Compression of polling answers, for clients that accept it (Node: `httpCompression`).
    /// Default: from 1024 bytes.
    pub http_compression: Option<Compression>,
    /// Compression of WebSocket messages, for clients that offer it (Node: `perMessageDeflate`). It
    /// costs memory for each connection. Default: none.
    pub per_message_deflate: Option<Compression>,
    /// A cookie with the session id in the first polling answer, for load balancers that route by
    /// it (Node: `cookie`). Default: none.
    pub cookie: Option<Cookie>,
    /// Name of a response header that carries the session id in the first polling answer, in lower
    /// case, for load balancers that learn it from there; no cookie is needed then. Default: none.
    pub sid_header: Option<HeaderName>,
    /// Which web pages may connect, on every transport alike (Node: `cors.origin`, which does not
    /// bind WebSocket and WebTransport). Default: same origin.
    pub origins: OriginPolicy,
    /// The names under which the server may be addressed, on every transport alike; against DNS
    /// rebinding (Node: none). Default: every name.
    pub hosts: HostPolicy,
    /// Is `X-Forwarded-Host` taken for the name that a page has asked for, on polling and WebSocket?
    /// For proxies that change `Host` and always set that field themselves: whoever can reach the
    /// server without them could say any name. Default: no.
    pub trust_forwarded_host: bool,
    /// May pages of another origin send cookies along (Node: `cors.credentials`)? Default: no.
    pub cors_credentials: bool,
    /// How long a browser may keep the answer to a preflight request (Node: `cors.maxAge`, there in
    /// seconds). Default: not said, which browsers take as 5 s.
    pub cors_max_age: Option<Duration>,
    /// Bytes that may wait for one client that does not read; above it the session is closed as a
    /// slow consumer (Node: no limit). Default: 4 MiB.
    pub outbox_bytes: usize,
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self {
            path: "/socket.io/".to_owned(),
            transports: Transports::default(),
            allow_upgrades: true,
            ping_interval: Duration::from_secs(25),
            ping_timeout: Duration::from_secs(20),
            upgrade_timeout: Duration::from_secs(10),
            max_payload: 1_000_000,
            poll_close_timeout: Duration::from_secs(30),
            http_compression: Some(Compression::default()),
            per_message_deflate: None,
            cookie: None,
            sid_header: None,
            origins: OriginPolicy::default(),
            hosts: HostPolicy::default(),
            trust_forwarded_host: false,
            cors_credentials: false,
            cors_max_age: None,
            outbox_bytes: 4 << 20,
        }
    }
}

/// The transports that clients may use. Default: all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transports {
    /// HTTP long-polling.
    pub polling: bool,
    /// WebSocket.
    pub websocket: bool,
    /// WebTransport, over QUIC.
    pub webtransport: bool,
}

impl Default for Transports {
    fn default() -> Self {
        Self { polling: true, websocket: true, webtransport: true }
    }
}

/// When to compress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compression {
    /// The smallest body or message that is compressed, in bytes (Node: `threshold`). Default:
    /// 1024.
    pub threshold: usize,
}

impl Default for Compression {
    fn default() -> Self {
        Self { threshold: 1024 }
    }
}

/// The cookie that carries the session id. The defaults are those that Node takes for `cookie:
/// true`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cookie {
    /// Its name. Default: `io`.
    pub name: String,
    /// Its `Path`. Default: `/`.
    pub path: String,
    /// `HttpOnly`: hidden from scripts. Default: yes.
    pub http_only: bool,
    /// `SameSite`. Default: lax.
    pub same_site: SameSite,
    /// `Secure`: over HTTPS only. Default: no.
    pub secure: bool,
    /// `Max-Age`, in whole seconds. Default: none, which means until the browser is closed.
    pub max_age: Option<Duration>,
}

impl Default for Cookie {
    fn default() -> Self {
        Self {
            name: "io".to_owned(),
            path: "/".to_owned(),
            http_only: true,
            same_site: SameSite::default(),
            secure: false,
            max_age: None,
        }
    }
}

/// `SameSite` of a cookie (RFC 6265bis 4.1.2.7).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SameSite {
    /// Sent with requests of the same site only.
    Strict,
    /// Also sent when a link leads to the site.
    #[default]
    Lax,
    /// Always sent; browsers want [`Cookie::secure`] with it.
    None,
}

/// The deepest that arrays and objects within each other may be set to, the array of arguments counted.
///
/// One less than serde_json's own limit, so that what is accepted can be decoded by every path.
/// Node has no limit but its stack; no client comes near.
pub(crate) const MAX_DEPTH: usize = 127;

/// Socket.IO: namespaces, sockets and events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SocketIoConfig {
    /// How long a client may stay without a namespace (Node: `connectTimeout`). Default: 45 s.
    pub connect_timeout: Duration,
    /// How packets are written (Node: `parser`). Clients have to use the same. Default: JSON.
    pub parser: Parser,
    /// The most binary attachments of one packet from a client (Node: `maxAttachments` of the
    /// decoder). Default: 10.
    pub max_attachments: usize,
    /// How deep the JSON or msgpack of a packet may nest, the array of arguments counted (Node: no limit
    /// but its stack). At most 127, what every reader on the way can take. Default: 127.
    pub max_depth: usize,
    /// The most namespaces that one connection may join (Node: no limit). Default: 64.
    pub max_namespaces: usize,
    /// The most rooms that one socket may be in, beside its own; it does not join more (Node: no
    /// limit). Default: 1,000.
    pub max_rooms: usize,
    /// The longest name in bytes: of an event or a namespace that a client names, which is closed over a
    /// longer one, and of a room, which is not joined (Node: no limit). Default: 1,024.
    pub max_name_bytes: usize,
    /// Events that may wait for the handlers of one socket; above it we stop reading from that
    /// client (Node: no limit). Default: 256.
    pub inbox_events: usize,
    /// Bytes that may wait for the handlers of one socket, with the same consequence; at least
    /// [`EngineConfig::max_payload`] (Node: no limit). Default: 4,000,000.
    pub inbox_bytes: usize,
    /// The most acknowledgements that one socket may owe us (Node: no limit). Default: 10,000.
    pub max_pending_acks: usize,
    /// Are child namespaces dropped when their last socket leaves (Node:
    /// `cleanupEmptyChildNamespaces`, off there)? Default: yes, or clients could make the server
    /// remember names without end.
    pub cleanup_empty_child_namespaces: bool,
    /// Connection state recovery. Default: off.
    pub recovery: RecoveryConfig,
}

impl Default for SocketIoConfig {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(45),
            parser: Parser::default(),
            max_attachments: 10,
            max_depth: MAX_DEPTH,
            max_namespaces: 64,
            max_rooms: 1_000,
            max_name_bytes: 1_024,
            inbox_events: 256,
            inbox_bytes: 4_000_000,
            max_pending_acks: 10_000,
            cleanup_empty_child_namespaces: true,
            recovery: RecoveryConfig::default(),
        }
    }
}

/// How Socket.IO packets are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Parser {
    /// Text, with binary attachments behind it (socket.io-parser).
    #[default]
    Json,
    /// One binary message for each packet (socket.io-msgpack-parser).
    MsgPack,
}

/// QUIC and WebTransport. Node has none of these options.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebTransportConfig {
    /// Time without traffic after which a QUIC keep-alive is sent. Default: 12 s.
    pub keep_alive: Duration,
    /// Time without any packet of the peer after which a QUIC connection is dead. Default: 30 s.
    pub idle_timeout: Duration,
    /// May several UDP packets go to the system in one call (GSO)? Some virtual networks lose or
    /// mangle those. Default: yes.
    pub segmentation_offload: bool,
    /// QUIC handshakes under way above which a new one must first prove its address (a retry costs
    /// it one round trip); above sixteen times as many, new ones are refused. Default: 256.
    pub max_pending_handshakes: usize,
    /// Those of one address, for clients that have proven it and for those that have not; loopback is exempt.
    /// Whoever leaves them unfinished holds each for `upgrade_timeout`, and must not take all places. A large
    /// office behind one address stays below: a handshake takes two round trips, and a browser has one at a
    /// time. Default: 64.
    pub max_pending_handshakes_per_ip: usize,
    /// The host that pages are told to dial, where UDP has an address of its own. Default: none,
    /// which means the page's own host.
    pub public_host: Option<String>,
    /// The UDP port that pages are told to dial, where a balancer maps it. Default: none, which
    /// means the port that is bound.
    pub public_port: Option<u16>,
    /// What connection ids begin with, so that a load balancer can route a client whose address
    /// changes to the process that has its connection. Default: none, connection ids are random.
    pub server_id: Option<ServerId>,
    /// What all processes behind one address share, so that one of them ends connections that another has
    /// lost, and takes addresses for proven that another has seen proven. Default: none, each for itself.
    pub reset_key: Option<ResetKey>,
}

impl Default for WebTransportConfig {
    fn default() -> Self {
        Self {
            keep_alive: Duration::from_secs(12),
            idle_timeout: Duration::from_secs(30),
            segmentation_offload: true,
            max_pending_handshakes: 256,
            max_pending_handshakes_per_ip: 64,
            public_host: None,
            public_port: None,
            server_id: None,
            reset_key: None,
        }
    }
}

/// The server id of QUIC-LB (draft-ietf-quic-load-balancers-21, section 3), in the clear and of the
/// 8 bytes that AWS's Network Load Balancer wants. It is no secret, and must differ between the
/// processes behind one balancer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerId(pub [u8; 8]);

impl ServerId {
    /// Reads 16 hex digits (`0x` may stand in front), the base64 of 8 bytes (as AWS's controller
    /// injects it), or a UUID (such as a pod's `metadata.uid`), of which the first half counts.
    pub fn parse(text: &str) -> Option<Self> {
        let digits = match text.len() {
            36 if uuid_dashes(text) => text.replace('-', ""),
            18 => text.strip_prefix("0x")?.to_owned(),
            16 => text.to_owned(),
            _ => return STANDARD.decode(text).ok()?.try_into().ok().map(Self),
        };
        let plain = digits.bytes().all(|c| c.is_ascii_hexdigit());
        let half = digits.get(..16).filter(|_| plain)?;
        u64::from_str_radix(half, 16).ok().map(|id| Self(id.to_be_bytes()))
    }
}

impl fmt::Display for ServerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", u64::from_be_bytes(self.0))
    }
}

/// Are the dashes, and only they, where a UUID has them?
fn uuid_dashes(text: &str) -> bool {
    text.bytes().enumerate().all(|(at, c)| (c == b'-') == matches!(at, 8 | 13 | 18 | 23))
}

/// What is logged, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// Directives as in `RUST_LOG`: `info`, `warn,quicket::engine=debug`, ... Default: `info`.
    pub filter: String,
    /// The form of a line.
    pub format: LogFormat,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self { filter: "info".to_owned(), format: LogFormat::default() }
    }
}

/// The form of a log line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}
