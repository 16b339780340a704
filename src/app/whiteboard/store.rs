//! Boards in the Redis of the cluster: what was drawn outlives all nodes.
//!
//! A board is a hash, `<stream name>:whiteboard:{<board>}`: its `epoch`, and under `author/stroke` each stroke as
//! it is now (`encode`). Each event is stored by the node that has published it, after the log has brought it
//! back, so what is stored has the order of the log: a stroke carries its place. Everything may be written
//! twice. `<stream name>:whiteboard:boards` names the boards by the time of their last change (and their size: seconds
//! times 1,024, and KiB), and is what bounds their number and what they take.
//!
//! Nothing here holds up who draws. While Redis is away the boards' ledgers remember what is missing, which costs no
//! more than the boards themselves, and acknowledgements do not wait for it.

mod encode;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use parking_lot::Mutex;
use quicket::{AppCounter, AppGauge, Metrics, Namespace, Redis, RedisError};
use tokio::sync::{Notify, Semaphore, watch};
use tokio::time::Instant;

use super::ROOM;
use super::board::{Batch, Boards, Chunk, Outcome, Snapshot};

/// How long a board is kept that nobody opens or changes.
const EXPIRY: Duration = Duration::from_secs(30 * 24 * 3600);
/// Boards that are stored. Those changed longest ago go first.
const MAX_STORED: usize = 1_000;
/// KiB that all of them may take: a Redis that is full refuses events and sessions, too.
const MAX_STORED_KIB: u64 = 160 * 1024;
/// KiB by which a board grows until its size in the list is written again.
const GROWS: u64 = 64;
/// Until a board's time in the list is written again.
const TOUCH_EVERY: Duration = Duration::from_secs(600);
/// Steps of one write, and their numbers: what Redis does in a moment.
const BATCH_OPS: usize = 500;
const BATCH_NUMBERS: usize = 30_000;
/// Boards written at once, and boards read at once.
const AT_ONCE: usize = 8;
/// How long people wait for what is stored of a board.
const LOAD_TIME: Duration = Duration::from_secs(2);
/// How long an acknowledgement waits for Redis.
const PATIENCE: Duration = Duration::from_secs(1);
/// Until Redis is tried again.
const PAUSE: Duration = Duration::from_millis(500);
/// How often one looks whether Redis is still the same.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// `ARGV`: the epoch that we know, the one that is ours, milliseconds; then field, bytes before, bytes
/// (or field, -1, nothing: it goes).
const PUT: &str = r"
local epoch = redis.call('HGET', KEYS[1], 'epoch')
if not epoch then
  if ARGV[1] ~= '' then return {'lost'} end
  redis.call('HSET', KEYS[1], 'epoch', ARGV[2])
elseif epoch ~= ARGV[1] then
  return {'other', epoch}
end
local answer = {'kept'}
for i = 4, #ARGV, 3 do
  local field, from, bytes = ARGV[i], tonumber(ARGV[i + 1]), ARGV[i + 2]
  if from < 0 then
    redis.call('HDEL', KEYS[1], field)
  else
    local known = redis.call('HSTRLEN', KEYS[1], field)
    if known < from then
      answer[#answer + 1] = field
    elseif known < from + #bytes then
      local before = redis.call('HGET', KEYS[1], field) or ''
      redis.call('HSET', KEYS[1], field, before .. string.sub(bytes, known - from + 1))
    end
  end
end
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return answer
";

/// `ARGV`: milliseconds.
const LOAD: &str = r"
redis.call('PEXPIRE', KEYS[1], ARGV[1])
return redis.call('HGETALL', KEYS[1])
";

/// `ARGV`: seconds now, the board, how many may stay, seconds before which all have expired, KiB of the board, and of
/// all that may stay. Answers who goes.
const TOUCH: &str = r"
redis.call('ZADD', KEYS[1], ARGV[1] * 1024 + ARGV[5], ARGV[2])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', ARGV[4] * 1024)
local all = redis.call('ZRANGE', KEYS[1], 0, -1, 'WITHSCORES')
local many, size = #all / 2 - ARGV[3], -ARGV[6]
for i = 2, #all, 2 do size = size + all[i] % 1024 end
local gone = {}
for i = 1, #all, 2 do
  if many <= 0 and size <= 0 then break end
  gone[#gone + 1] = all[i]
  many, size = many - 1, size - all[i + 1] % 1024
end
if #gone > 0 then redis.call('ZREMRANGEBYRANK', KEYS[1], 0, #gone - 1) end
return gone
";

const REMOVE: &str = "redis.call('DEL', KEYS[1]) return {}";
const PING: &str = "return {}";

/// The boards' place in Redis.
pub(super) struct Store {
    redis: Redis,
    prefix: String,
    boards: Arc<Mutex<Boards>>,
    namespace: Namespace,
    /// There is something to write.
    due: Notify,
    /// Something was written, or could not be.
    settled: watch::Sender<()>,
    is_available: AtomicBool,
    /// Is it there, but does not store?
    is_refusing: AtomicBool,
    generation: AtomicU64,
    loads: Semaphore,
    /// When, and with how many KiB.
    touched: Mutex<HashMap<String, (Instant, u64)>>,
    errors: AppCounter,
    lost: AppCounter,
    unstored: AppGauge,
}

impl Store {
    /// Starts the task that writes. `stream` tells clusters apart that share a Redis.
    pub(super) fn start(
        redis: Redis,
        stream: &str,
        boards: Arc<Mutex<Boards>>,
        namespace: &Namespace,
        metrics: &Metrics,
    ) -> Arc<Self> {
        let store = Arc::new(Self {
            redis,
            prefix: format!("{stream}:whiteboard:"),
            boards,
            namespace: namespace.clone(),
            due: Notify::new(),
            settled: watch::Sender::new(()),
            is_available: AtomicBool::new(true),
            is_refusing: AtomicBool::new(false),
            generation: AtomicU64::new(0),
            loads: Semaphore::new(AT_ONCE),
            touched: Mutex::default(),
            errors: metrics.counter(
                "whiteboard_store_errors",
                "Reads and writes of boards that Redis did not do",
            ),
            lost: metrics
                .counter("whiteboard_changes_lost", "Changes of boards that will never be stored"),
            unstored: metrics.gauge(
                "whiteboard_changes_unstored",
                "Changes of boards that Redis does not have yet",
            ),
        });
        tokio::spawn(store.clone().run());
        store
    }

    /// There may be something to write.
    pub(super) fn hurry(&self) {
        self.due.notify_one();
    }

    /// What is stored of a board.
    ///
    /// # Errors
    /// Redis has not told in time.
    pub(super) async fn load(&self, name: &str) -> Result<Snapshot, RedisError> {
        let load = async {
            // it is never closed
            let _turn = self.loads.acquire().await;
            self.redis.run(LOAD, &self.key(name), vec![milliseconds(EXPIRY)]).await
        };
        let late = |_| RedisError::Unavailable("no answer in time".to_owned());
        let answer = tokio::time::timeout(LOAD_TIME, load).await.map_err(late).flatten();
        self.note(answer.as_ref().err());
        let stored = encode::snapshot(answer?);
        if !stored.strokes.is_empty() {
            self.touch(name, stored.kib()).await;
        }
        Ok(stored)
    }

    /// Waits until something is stored, but not for long, and not for a Redis that is away.
    pub(super) async fn until(&self, is_stored: impl Fn(&Boards) -> bool) {
        let mut settled = self.settled.subscribe();
        let wait = async {
            while self.is_available() && !is_stored(&self.boards.lock()) {
                if settled.changed().await.is_err() {
                    return;
                }
            }
        };
        // late, and no worse than without Redis
        let _ = tokio::time::timeout(PATIENCE, wait).await;
    }

    /// Writes what there is, for a node that leaves.
    pub(super) async fn finish(&self) {
        self.until(Boards::is_all_stored).await;
        let (unstored, _) = self.boards.lock().unstored();
        if unstored > 0 {
            tracing::warn!(unstored, "changes of boards are not stored, and this node goes");
        }
    }

    fn is_available(&self) -> bool {
        self.is_available.load(Ordering::Acquire)
    }

    fn key(&self, board: &str) -> String {
        format!("{}{{{board}}}", self.prefix)
    }

    async fn run(self: Arc<Self>) {
        let mut look = tokio::time::interval(LOOK_EVERY);
        let mut writing = FuturesUnordered::new();
        let mut pause = None;
        loop {
            while writing.len() < AT_ONCE && pause.is_none() {
                let batch = self.boards.lock().batch(BATCH_OPS, BATCH_NUMBERS);
                let Some(batch) = batch else { break };
                writing.push(self.write(batch));
            }
            tokio::select! {
                Some((batch, outcome)) = writing.next() => {
                    if matches!(outcome, Outcome::Failed) {
                        pause = Some(Instant::now() + PAUSE);
                    }
                    self.settle(batch, outcome);
                }
                () = self.due.notified() => {}
                () = until(pause) => pause = None,
                _ = look.tick() => {
                    self.boards.lock().forgive();
                    self.measure();
                    tokio::spawn(self.clone().look());
                }
            }
        }
    }

    async fn write(&self, batch: Batch) -> (Batch, Outcome) {
        let answer = self.redis.run(PUT, &self.key(&batch.board), encode::arguments(&batch)).await;
        let is_refusing = matches!(answer, Err(RedisError::Refused(_)));
        self.is_refusing.store(is_refusing, Ordering::Release);
        self.note(answer.as_ref().err());
        let outcome = match answer {
            Ok(answer) => encode::outcome(answer),
            Err(RedisError::Refused(_)) => Outcome::Refused,
            Err(_) => Outcome::Failed,
        };
        match outcome {
            Outcome::Kept { .. } => {
                let kib = self.boards.lock().kib(&batch.board);
                self.touch(&batch.board, kib).await;
            }
            // it had to make room, or Redis is empty: what is stored anew counts anew
            Outcome::Lost => drop(self.touched.lock().remove(&batch.board)),
            Outcome::Other(_) | Outcome::Failed | Outcome::Refused => {}
        }
        (batch, outcome)
    }

    fn settle(&self, batch: Batch, outcome: Outcome) {
        self.boards.lock().settle(batch, outcome);
        self.measure();
        self.settled.send_replace(());
    }

    /// Redis has done what it was asked, or has not.
    fn note(&self, error: Option<&RedisError>) {
        if let Some(error) = error {
            self.errors.inc();
            if self.is_available.swap(false, Ordering::AcqRel) {
                tracing::warn!(%error, "boards are not stored");
            }
            return;
        }
        if !self.is_available.swap(true, Ordering::AcqRel) {
            tracing::info!("boards are stored again");
        }
        self.compare();
    }

    /// A Redis that is not the same as before may have lost something.
    fn compare(&self) {
        let generation = self.redis.generation();
        let before = self.generation.swap(generation, Ordering::AcqRel);
        if before != 0 && before != generation {
            self.boards.lock().verify();
            self.hurry();
        }
    }

    fn measure(&self) {
        let (unstored, lost) = self.boards.lock().unstored();
        self.unstored.set(unstored as i64);
        for _ in 0..lost {
            self.lost.inc();
        }
    }

    /// Is Redis there, and the same? Then boards that were opened without it get what it has.
    async fn look(self: Arc<Self>) {
        let answer = self.redis.run(PING, &self.index(), Vec::new()).await;
        match &answer {
            // that it answers does not mean that it stores
            Ok(_) if self.is_refusing.load(Ordering::Acquire) => self.compare(),
            answer => self.note(answer.as_ref().err()),
        }
        if answer.is_err() {
            self.settled.send_replace(());
            return;
        }
        let unloaded = self.boards.lock().unloaded();
        for name in unloaded {
            let Ok(stored) = self.load(&name).await else { return };
            let news = self.boards.lock().load(&name, stored);
            self.hurry();
            for stroke in news {
                let room = format!("{ROOM}{name}");
                // who comes later gets them with the rest
                let _ = self.namespace.local().to(room).emit("draw", &Chunk::from(stroke)).await;
            }
        }
    }

    fn index(&self) -> String {
        format!("{}boards", self.prefix)
    }

    /// Notes that a board is in use, and removes boards that are too many, or too large.
    async fn touch(&self, name: &str, kib: u64) {
        {
            let mut touched = self.touched.lock();
            let is_noted =
                |(at, had): &(Instant, u64)| at.elapsed() < TOUCH_EVERY && kib < had + GROWS;
            if touched.get(name).is_some_and(is_noted) {
                return;
            }
            if touched.len() >= MAX_STORED {
                touched.clear();
            }
            touched.insert(name.to_owned(), (Instant::now(), kib));
        }
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let now = now.unwrap_or_default();
        let old = now.saturating_sub(EXPIRY);
        let number = |number: u64| Bytes::from(number.to_string());
        let arguments = vec![
            number(now.as_secs()),
            Bytes::copy_from_slice(name.as_bytes()),
            number(MAX_STORED as u64),
            number(old.as_secs()),
            number(kib.min(1_023)),
            number(MAX_STORED_KIB),
        ];
        let gone = self.redis.run(TOUCH, &self.index(), arguments).await.unwrap_or_else(|_| {
            // it is not noted
            self.touched.lock().remove(name);
            Vec::new()
        });
        for name in gone.iter().filter_map(|name| std::str::from_utf8(name).ok()) {
            // one that stays for now expires
            let _ = self.redis.run(REMOVE, &self.key(name), Vec::new()).await;
        }
    }
}

async fn until(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}

fn milliseconds(time: Duration) -> Bytes {
    Bytes::from(time.as_millis().to_string())
}
