//! The store of sessions in Redis, and the call by which a node gets a socket back from its owner.
//!
//! The value lies where Node's adapter looks for it. Beside it lies who may write it: a generation, the
//! owner, and a digest of what the owner wrote last, by which a value that a Node peer has taken or written
//! since is told. Each change is one script, so that nobody can come in between.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use fred::error::Error;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::RedisLog;
use super::link::SharedLink;
use super::watched::Watched;
use crate::cluster::session::{self, LetGo, Record, Unavailable, Written};
use crate::cluster::wire::{self, CallIn, session_keys};
use crate::engine::packet::Str;

/// How long an owner may take to let go of a socket. One that is stopped or cut off never answers.
const CALL_TIMEOUT: Duration = Duration::from_millis(400);
/// How long Redis may be silent while a client waits for its session.
const SILENCE: Duration = Duration::from_millis(800);
/// How long a client waits in all.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often a record is read again that was written while it was read.
const TORN: usize = 3;
/// How long to wait for a connection.
const LINK_TIMEOUT: Duration = Duration::from_millis(600);

/// `KEYS`: value, owner. `ARGV`: generation, owner. Leaves when somebody else may write, or has written.
pub(super) const CHECK: &str = r"
local held = redis.call('HMGET', KEYS[2], 'generation', 'owner', 'digest')
if held[1] then
  local theirs, ours = tonumber(held[1]), tonumber(ARGV[1])
  if theirs > ours or (theirs == ours and held[2] ~= ARGV[2]) then return 0 end
  local value = redis.call('GET', KEYS[1])
  if theirs == ours and (not value or redis.sha1hex(value) ~= held[3]) then return 0 end
end
";

/// `ARGV`: and the value, and milliseconds.
pub(super) const STORE: &str = r"
redis.call('SET', KEYS[1], ARGV[3], 'PX', ARGV[4])
redis.call('HSET', KEYS[2], 'generation', ARGV[1], 'owner', ARGV[2])
redis.call('HSET', KEYS[2], 'digest', redis.sha1hex(ARGV[3]))
redis.call('HDEL', KEYS[2], 'claim')
redis.call('PEXPIRE', KEYS[2], ARGV[4])
return 1
";

/// `ARGV`: and milliseconds, for which the generation stays: a node that was stopped must not bring it back, and
/// (without a digest) who has read the value before does not get it.
pub(super) const REMOVE: &str = r"
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[2], 'generation', ARGV[1], 'owner', ARGV[2])
redis.call('PEXPIRE', KEYS[2], ARGV[3])
redis.call('HDEL', KEYS[2], 'digest')
return 1
";

/// `ARGV`: generation and owner as they were read, the new owner, the digest as it was read, or `*`, and what the
/// client claims. Of several claims since the value was written the first stays.
pub(super) const TAKE: &str = r"
local held = redis.call('HMGET', KEYS[2], 'generation', 'owner', 'digest', 'claim')
if (held[1] or '0') ~= ARGV[1] or (held[2] or '') ~= ARGV[2] then return 0 end
if ARGV[4] ~= '*' and (held[3] or '') ~= ARGV[4] then return 0 end
local value = redis.call('GET', KEYS[1])
if not value then return 1 end
redis.call('HSET', KEYS[2], 'generation', tonumber(ARGV[1]) + 1, 'owner', ARGV[3])
redis.call('HSET', KEYS[2], 'digest', redis.sha1hex(value))
if not held[4] then redis.call('HSET', KEYS[2], 'claim', ARGV[5]) end
local left = redis.call('PTTL', KEYS[1])
if left > 0 then redis.call('PEXPIRE', KEYS[2], left) end
return 1
";

/// What is read of the owner.
const FIELDS: [&str; 4] = ["generation", "owner", "digest", "claim"];

/// What the store of one node holds.
pub(super) struct Sessions {
    /// What the keys begin with.
    prefix: String,
    /// The connections of the epoch, if there is one.
    link: Arc<Watched<Option<SharedLink>>>,
    /// Calls that wait for the owner's answer, by their id.
    calls: Mutex<HashMap<String, oneshot::Sender<Option<LetGo>>>>,
    /// Answers of Redis to any of these commands.
    answers: AtomicU64,
}

impl Sessions {
    pub(super) fn new(prefix: String) -> Self {
        let link = Arc::new(Watched::new(None));
        Self { prefix, link, calls: Mutex::default(), answers: AtomicU64::new(0) }
    }

    pub(super) fn set_link(&self, link: Option<SharedLink>) {
        self.link.set(link);
    }

    /// The owner has answered.
    pub(super) fn answer(&self, id: &str, answer: Option<LetGo>) {
        if let Some(waiting) = self.calls.lock().remove(id) {
            let _ = waiting.send(answer);
        }
    }

    /// Waits for an answer of Redis, but not when it answers nobody.
    async fn heard<T>(
        &self,
        command: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Unavailable> {
        let begun = tokio::time::Instant::now();
        let mut command = std::pin::pin!(command);
        loop {
            let answers = self.answers.load(Ordering::Acquire);
            match tokio::time::timeout(SILENCE, &mut command).await {
                Ok(answer) => {
                    self.answers.fetch_add(1, Ordering::AcqRel);
                    return answer.map_err(|error| unavailable(&error));
                }
                Err(_) if self.answers.load(Ordering::Acquire) == answers => {
                    return Err(Unavailable);
                }
                Err(_) if begun.elapsed() > PATIENCE => return Err(Unavailable),
                Err(_) => {}
            }
        }
    }

    fn link(&self) -> impl Future<Output = Result<SharedLink, Unavailable>> + Send + 'static {
        let link = self.link.clone();
        async move {
            let there = link.wait_for(Option::is_some);
            tokio::time::timeout(LINK_TIMEOUT, there).await.ok().flatten().ok_or(Unavailable)
        }
    }
}

async fn script(
    sessions: &Sessions,
    link: &SharedLink,
    script: String,
    pid: &str,
    arguments: Vec<String>,
) -> Result<Written, Unavailable> {
    let (value, owner) = session_keys(&sessions.prefix, pid);
    let command = async {
        let writer = link.writer_of(&value)?;
        let done = writer.eval(script, vec![value.clone(), owner], arguments);
        writer.ask(done).await
    };
    match sessions.heard(command).await? {
        1 => Ok(Written::Done),
        _ => Ok(Written::Fenced),
    }
}

fn unavailable(error: &Error) -> Unavailable {
    tracing::debug!(error = error.details(), "a session cannot be read or written");
    Unavailable
}

/// Owner and value are read one after the other: when it is written in between, they are read again. (Who still gets
/// a value that does not fit takes it for an old one.)
async fn load(
    sessions: &Sessions,
    link: SharedLink,
    pid: String,
) -> Result<Option<Record>, Unavailable> {
    let mut record = read(sessions, &link, &pid).await?;
    for _ in 0..TORN {
        let is_torn = |record: &Record| record.written.is_some_and(|it| it > record.generation);
        if !record.as_ref().is_some_and(is_torn) {
            break;
        }
        record = read(sessions, &link, &pid).await?;
    }
    Ok(record)
}

async fn read(
    sessions: &Sessions,
    link: &SharedLink,
    pid: &str,
) -> Result<Option<Record>, Unavailable> {
    let (value, owner) = session_keys(&sessions.prefix, pid);
    let command = async {
        let writer = link.writer_of(&value)?;
        // in this order: a value that is newer than its digest is not taken
        let held = writer.ask(writer.hmget(&owner, &FIELDS)).await?;
        let stored = writer.ask(writer.get(&value)).await?;
        Ok((stored, held))
    };
    let (stored, held) = sessions.heard(command).await?;
    let Some(stored) = stored else { return Ok(None) };
    let record = match wire::decode_session(&stored) {
        Ok(record) if *record.pid == *pid => record,
        Ok(_) => return Ok(None),
        Err(error) => {
            tracing::warn!(%error, "a stored session cannot be read");
            return Ok(None);
        }
    };
    let mut held = held.into_iter();
    let generation = held.next().flatten().and_then(|number| number.parse().ok());
    let owner = held.next().flatten().unwrap_or_default();
    let stamp = Some(held.next().flatten().unwrap_or_default().into());
    let taken = held.next().flatten().map(Into::into);
    let generation = generation.unwrap_or(0);
    Ok(Some(Record { generation, owner: owner.into(), stamp, taken, ..record }))
}

impl session::Sessions for RedisLog {
    fn outlive_the_node(&self) -> bool {
        true
    }

    fn load(&self, pid: &str) -> BoxFuture<'static, Result<Option<Record>, Unavailable>> {
        let (shared, pid) = (self.shared.clone(), pid.to_owned());
        async move { load(&shared.sessions, shared.sessions.link().await?, pid).await }.boxed()
    }

    fn take(
        &self,
        record: &Record,
        owner: &Str,
        claim: Str,
    ) -> BoxFuture<'static, Result<Written, Unavailable>> {
        let shared = self.shared.clone();
        let pid = record.pid.clone();
        let stamp = record.stamp.as_ref().map_or("*", Str::as_str).to_owned();
        let (generation, before) = (record.generation.to_string(), record.owner.to_string());
        let arguments = vec![generation, before, owner.to_string(), stamp, claim.to_string()];
        async move {
            let link = shared.sessions.link().await?;
            script(&shared.sessions, &link, TAKE.to_owned(), &pid, arguments).await
        }
        .boxed()
    }

    fn store(
        &self,
        record: Record,
        ttl: Duration,
    ) -> BoxFuture<'static, Result<Written, Unavailable>> {
        let shared = self.shared.clone();
        let Ok(value) = wire::encode_session(&record) else {
            tracing::warn!("the data of a socket is nested too deep to be stored");
            return std::future::ready(Ok(Written::Done)).boxed();
        };
        let ttl = (ttl.as_millis() as u64).max(1);
        let (generation, owner) = (record.generation.to_string(), record.owner.to_string());
        let arguments = vec![generation, owner, value, ttl.to_string()];
        async move {
            let link = shared.sessions.link().await?;
            let both = [CHECK, STORE].concat();
            script(&shared.sessions, &link, both, &record.pid, arguments).await
        }
        .boxed()
    }

    fn remove(
        &self,
        record: Record,
        ttl: Duration,
    ) -> BoxFuture<'static, Result<Written, Unavailable>> {
        let shared = self.shared.clone();
        let ttl = (ttl.as_millis() as u64).max(1);
        let arguments =
            vec![record.generation.to_string(), record.owner.to_string(), ttl.to_string()];
        async move {
            let link = shared.sessions.link().await?;
            let both = [CHECK, REMOVE].concat();
            script(&shared.sessions, &link, both, &record.pid, arguments).await
        }
        .boxed()
    }

    fn call_in(&self, owner: &str, pid: &str) -> BoxFuture<'static, Option<LetGo>> {
        let (shared, space) = (self.shared.clone(), self.space.clone());
        if owner == space.uid.as_str() {
            let answer = space.live().iter().find_map(|replica| replica.let_go(pid));
            return std::future::ready(answer).boxed();
        }
        let id = format!("{:016x}", shared.request_ids.fetch_add(1, Ordering::Relaxed));
        let call = CallIn { id: &id, pid };
        let payload = wire::call_in_payload(&space.uid, &space.nsp, &call);
        let channel = wire::channels(&shared.config.channel_prefix, &space.nsp, owner).private;
        async move {
            let link = shared.sessions.link().await.ok()?;
            if link.subscribers(&channel).await.ok()?.all() == 0 {
                return None; // it is gone
            }
            let (sender, receiver) = oneshot::channel();
            shared.sessions.calls.lock().insert(id.clone(), sender);
            let answer = async {
                link.publish(&channel, payload.ok()?).await.ok()?;
                receiver.await.ok()?
            };
            let answer = tokio::time::timeout(CALL_TIMEOUT, answer).await;
            shared.sessions.calls.lock().remove(&id);
            answer.ok().flatten()
        }
        .boxed()
    }
}
