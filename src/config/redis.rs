//! How nodes find each other.

use std::fmt;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use fred::types::config::Config as ClientConfig;

/// The cluster over Redis Streams (`@socket.io/redis-streams-adapter` 0.3). All nodes, Node peers among
/// them, must agree on names and counts.
#[derive(Clone, PartialEq, Eq)]
pub struct RedisConfig {
    /// Redis or Valkey: `redis://user:password@host:6379/0`,
    /// `redis-sentinel://host:26379?sentinelServiceName=mymaster&node=...`,
    /// `redis-cluster://host:6379?node=...`; with TLS `rediss://`, `rediss-sentinel://`, `rediss-cluster://`.
    /// Default: none, which means no cluster.
    pub url: Option<String>,
    /// The password; wins over the one in the URL.
    pub password: Option<String>,
    /// The password of the Sentinels, which have their own; wins over `sentinelPassword` in the URL.
    pub sentinel_password: Option<String>,
    /// The authorities (PEM) that may sign the certificates of Redis, with TLS. Default: those of the system.
    pub ca: Option<PathBuf>,
    /// The certificate chain (PEM) that this node shows to a Redis that asks for one, with TLS.
    pub cert: Option<PathBuf>,
    /// The private key (PEM) of [`RedisConfig::cert`].
    pub key: Option<PathBuf>,
    /// The stream, or what the streams' names begin with (`streamName`). Default: `socket.io`.
    pub stream_name: String,
    /// How many streams namespaces are spread over (`streamCount`). Default: 1.
    pub stream_count: NonZeroU32,
    /// What the channels' names begin with (`channelPrefix`). Default: `socket.io`.
    pub channel_prefix: String,
    /// What the keys of sessions begin with, with connection state recovery (`sessionKeyPrefix`). Default:
    /// `sio:session:`.
    pub session_prefix: String,
    /// Sharded pub/sub of Redis 7 (`useShardedPubSub`). Default: no.
    pub sharded_pubsub: bool,
    /// Entries that a stream keeps, about (`maxLen`). Default: 10,000.
    pub max_len: u64,
    /// Bytes of events that may wait for Redis, for each stream; above it emits are refused. Default:
    /// 64 MiB.
    pub queue_bytes: usize,
    /// How long Redis may take to give an own event back before clients of this node get it all the same. A
    /// longer time keeps one order on all nodes with a slower Redis (G2); a shorter one delays own clients
    /// less while Redis hangs (G6). Default: 500 ms.
    pub local_deadline: Duration,
}

impl Default for RedisConfig {
    fn default() -> Self {
        Self {
            url: None,
            password: None,
            sentinel_password: None,
            ca: None,
            cert: None,
            key: None,
            stream_name: "socket.io".to_owned(),
            stream_count: NonZeroU32::MIN,
            channel_prefix: "socket.io".to_owned(),
            session_prefix: "sio:session:".to_owned(),
            sharded_pubsub: false,
            max_len: 10_000,
            queue_bytes: 64 * 1024 * 1024,
            local_deadline: Duration::from_millis(500),
        }
    }
}

impl fmt::Debug for RedisConfig {
    /// Without the URL and the password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisConfig")
            .field("url", &self.url.as_ref().map(|_| "..."))
            .field("stream_name", &self.stream_name)
            .field("stream_count", &self.stream_count)
            .field("channel_prefix", &self.channel_prefix)
            .field("session_prefix", &self.session_prefix)
            .finish_non_exhaustive()
    }
}

/// A `redis-url` that was read.
#[derive(Debug)]
pub(crate) struct RedisAddress {
    pub(crate) client: ClientConfig,
    pub(crate) tls: bool,
}

impl RedisAddress {
    /// # Errors
    /// What the value must be.
    pub(crate) fn parse(url: &str) -> Result<Self, String> {
        let (scheme, rest) = url.split_once("://").unwrap_or_default();
        // `fred` would load the system's authorities here, and fail for one that it cannot read.
        let (plain, tls) = match scheme {
            "redis" | "valkey" => ("redis", false),
            "rediss" | "valkeys" => ("redis", true),
            "redis-sentinel" | "valkey-sentinel" => ("redis-sentinel", false),
            "rediss-sentinel" | "valkeys-sentinel" => ("redis-sentinel", true),
            "redis-cluster" | "valkey-cluster" => ("redis-cluster", false),
            "rediss-cluster" | "valkeys-cluster" => ("redis-cluster", true),
            _ => {
                return Err("a URL that begins with redis://, redis-sentinel:// or \
                            redis-cluster://; with rediss for TLS"
                    .to_owned());
            }
        };
        let client = ClientConfig::from_url(&format!("{plain}://{rest}"))
            .map_err(|error| format!("a {scheme}:// URL that can be read: {}", error.details()))?;
        Ok(Self { client, tls })
    }

    /// Is the connection to be encrypted?
    pub(crate) fn is_tls(&self) -> bool {
        self.tls
    }
}
