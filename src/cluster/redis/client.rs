//! The cluster's Redis, for what an application keeps there itself.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use fred::error::{Error, ErrorKind};
use fred::types::Value;
use tokio::sync::Mutex;

use super::access::Access;
use super::link::{Link, SharedLink};
use super::servers::{self, Servers, Watch};
use crate::config::RedisConfig;
use crate::error::{RedisError, ServeError};

/// After an attempt to connect that failed, until the next.
const PAUSE: Duration = Duration::from_millis(250);
/// How often Sentinel, or the cluster, is asked who serves.
const WATCH_EVERY: Duration = Duration::from_millis(500);
/// What the wrong server answers, or one that cannot serve now.
const ELSEWHERE: [&str; 6] = ["MOVED", "ASK", "READONLY", "CLUSTERDOWN", "LOADING", "MASTERDOWN"];

/// Runs scripts on the Redis that connects the nodes, over connections of its own: what an application
/// stores there does not hold up what nodes tell each other. Every form of Redis that a cluster may use
/// will do, with the same settings.
///
/// Connections are made when they are needed, and made anew when they break. Cheap to clone.
#[derive(Clone)]
pub struct Redis(Arc<Inner>);

struct Inner {
    access: Access,
    state: Mutex<State>,
    generation: AtomicU64,
}

#[derive(Default)]
struct State {
    link: Option<SharedLink>,
    /// Servers that were known last.
    known: Option<Servers>,
    failed: Option<(Instant, RedisError)>,
}

impl Redis {
    /// Connects to nothing yet. `None`: there is no Redis in the configuration.
    ///
    /// # Errors
    /// [`ServeError::Bus`] if the address, or a file, cannot be used.
    pub fn new(config: &RedisConfig) -> Result<Option<Self>, ServeError> {
        if config.url.is_none() {
            return Ok(None);
        }
        let access = Access::new(config).map_err(ServeError::Bus)?;
        let state = Mutex::default();
        Ok(Some(Self(Arc::new(Inner { access, state, generation: AtomicU64::new(0) }))))
    }

    /// Runs a Lua script where `key` lies, which is the script's only key, and gives the list of strings that
    /// it answers with.
    ///
    /// When Redis breaks off, the script may have run or not: it should change nothing when it runs again.
    ///
    /// # Errors
    /// [`RedisError`].
    pub async fn run(
        &self,
        script: &'static str,
        key: &str,
        arguments: Vec<Bytes>,
    ) -> Result<Vec<Bytes>, RedisError> {
        let link = self.0.link(key).await?;
        let asked = async {
            let writer = link.writer(key)?;
            writer.ask(writer.run(script, key, arguments)).await
        };
        match asked.await.and_then(strings) {
            Ok(answer) => Ok(answer),
            Err(error) if is_refusal(&error) => {
                Err(RedisError::Refused(error.details().to_owned()))
            }
            Err(error) => {
                self.0.lose(&link).await;
                Err(unavailable(&error))
            }
        }
    }

    /// How often a connection was made. When it has changed, what was stored before may be lost: Redis may
    /// have been started without its data, or another server may have taken over.
    pub fn generation(&self) -> u64 {
        self.0.generation.load(Ordering::Acquire)
    }
}

impl std::fmt::Debug for Redis {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Redis").finish_non_exhaustive()
    }
}

impl Inner {
    async fn link(self: &Arc<Self>, key: &str) -> Result<SharedLink, RedisError> {
        let mut state = self.state.lock().await;
        if let Some(link) = &state.link {
            return Ok(link.clone());
        }
        if let Some((at, error)) = &state.failed
            && at.elapsed() < PAUSE
        {
            return Err(error.clone());
        }
        match self.connect(key, state.known.as_ref()).await {
            Ok(link) => {
                let link = Arc::new(link);
                state.known = Some(link.servers.clone());
                state.link = Some(link.clone());
                state.failed = None;
                self.generation.fetch_add(1, Ordering::AcqRel);
                tokio::spawn(watch(Arc::downgrade(self), link.clone()));
                Ok(link)
            }
            Err(error) => {
                let error = unavailable(&error);
                state.failed = Some((Instant::now(), error.clone()));
                Err(error)
            }
        }
    }

    async fn connect(&self, key: &str, known: Option<&Servers>) -> Result<Link, Error> {
        self.access.refresh()?;
        let servers = servers::find(&self.access, known).await?;
        // as for sharded channels: to every server that takes writes
        Link::open(&self.access, servers, &[key], true).await
    }

    /// This link is of no use any more.
    async fn lose(&self, link: &SharedLink) {
        let mut state = self.state.lock().await;
        if state.link.as_ref().is_some_and(|current| Arc::ptr_eq(current, link)) {
            state.link = None;
        }
    }
}

/// Lets go of a link when it breaks, when others serve, and when nobody wants it any more.
async fn watch(inner: Weak<Inner>, link: SharedLink) {
    let mut watch = Watch::new(link.servers.clone());
    loop {
        let ended = tokio::time::timeout(WATCH_EVERY, link.ended()).await;
        let Some(inner) = inner.upgrade() else { break };
        let is_over = match ended {
            Ok(_) => true,
            Err(_) if Watch::is_needed(&inner.access) => watch.look(&inner.access).await.is_err(),
            Err(_) => false,
        };
        if is_over {
            inner.lose(&link).await;
        }
        let current = inner.state.lock().await.link.clone();
        if !current.is_some_and(|current| Arc::ptr_eq(&current, &link)) {
            break;
        }
    }
    link.close().await;
}

/// Redis said no, and would say the same again.
fn is_refusal(error: &Error) -> bool {
    let kinds = [ErrorKind::IO, ErrorKind::Timeout, ErrorKind::Canceled, ErrorKind::Cluster];
    let is_elsewhere = ELSEWHERE.iter().any(|code| error.details().starts_with(code));
    !is_elsewhere && !kinds.contains(error.kind())
}

fn unavailable(error: &Error) -> RedisError {
    RedisError::Unavailable(error.details().to_owned())
}

fn strings(answer: Value) -> Result<Vec<Bytes>, Error> {
    let Value::Array(parts) = answer else { return Err(no_strings()) };
    parts.into_iter().map(|part| part.into_bytes().ok_or_else(no_strings)).collect()
}

fn no_strings() -> Error {
    Error::new(ErrorKind::Parse, "a script answered with something else than strings")
}
