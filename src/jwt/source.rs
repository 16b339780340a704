//! Where public keys come from, and how they are kept fresh while providers rotate them.

use std::io::Read as _;
use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use jsonwebtoken::Algorithm;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::fetch::{Fetcher, MAX_DOCUMENT_BYTES};
use super::keys::{self, Key};
use crate::metrics::KeyMetrics;
use crate::random::random;

/// How often the place is asked at most, whoever names unknown keys, and how old keys may grow.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    pub(super) at_most_every: Duration,
    pub(super) fresh_for: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self { at_most_every: Duration::from_secs(10), fresh_for: Duration::from_secs(600) }
    }
}

/// The longest pause after failures is this part of the time for which keys are fresh.
const AGAIN_PART: u32 = 10;
/// No pause is shorter.
const MIN_PAUSE: Duration = Duration::from_secs(1);

impl Pace {
    /// How long to wait before the place is asked again. `chance`, from 0 to 1, spreads what nodes that began together
    /// ask for: in good times to the earlier side, as keys are not to grow older than is promised.
    fn pause(self, failures: u32, chance: f64) -> Duration {
        let (whole, part) = match failures.checked_sub(1) {
            None => (self.fresh_for, 0.8 + 0.2 * chance),
            Some(before) => {
                let doubled = self.at_most_every.saturating_mul(1 << before.min(10));
                let longest = self.at_most_every.max(self.fresh_for / AGAIN_PART);
                (doubled.min(longest), 1.0 + 0.2 * chance)
            }
        };
        whole.mul_f64(part).max(MIN_PAUSE)
    }
}

enum Place {
    Url(Fetcher),
    File(PathBuf),
}

/// A moment by both clocks: one does not run while the machine sleeps, the other one can be set.
#[derive(Clone, Copy, Debug)]
struct Moment {
    steady: Instant,
    wall: SystemTime,
}

impl Moment {
    fn now() -> Self {
        Self { steady: Instant::now(), wall: SystemTime::now() }
    }

    /// By the clock that says more.
    fn until(self, now: Self) -> Duration {
        let steady = now.steady.saturating_duration_since(self.steady);
        steady.max(now.wall.duration_since(self.wall).unwrap_or_default())
    }

    fn age(self) -> Duration {
        self.until(Self::now())
    }
}

#[derive(Clone, Default)]
struct Known {
    keys: Arc<[Key]>,
    /// When they were read.
    read: Option<Moment>,
    /// When the place was asked last, whatever it gave.
    asked: Option<Moment>,
    /// Times that it gave nothing since then.
    failures: u32,
}

/// A set of keys that is asked for again.
pub(super) struct Source {
    place: Place,
    pace: Pace,
    known: ArcSwap<Known>,
    /// Held while the place is asked: one request at a time.
    turn: Mutex<()>,
    metrics: KeyMetrics,
}

impl Source {
    pub(super) fn of_url(url: &str, pace: Pace, metrics: KeyMetrics) -> Result<Arc<Self>, String> {
        Ok(Self::new(Place::Url(Fetcher::new(url)?), pace, metrics))
    }

    pub(super) fn of_file(path: PathBuf, pace: Pace, metrics: KeyMetrics) -> Arc<Self> {
        Self::new(Place::File(path), pace, metrics)
    }

    fn new(place: Place, pace: Pace, metrics: KeyMetrics) -> Arc<Self> {
        let (known, turn) = (ArcSwap::default(), Mutex::default());
        Arc::new(Self { place, pace, known, turn, metrics })
    }

    /// Has it never been read?
    pub(super) fn is_unknown(&self) -> bool {
        self.known.load().read.is_none()
    }

    /// Reads the set now, and again and again until nobody has this any more: a key that was taken back must not go
    /// on counting because no token has come that would have made us ask.
    pub(super) async fn keep_fresh(this: Weak<Self>) {
        while let Some(source) = this.upgrade() {
            source.refresh().await;
            let pause = source.pace.pause(source.known.load().failures, random());
            drop(source);
            tokio::time::sleep(pause).await;
        }
    }

    /// The keys that may have signed a token with this header; asks again if none is known.
    pub(super) async fn candidates(
        self: &Arc<Self>,
        id: Option<&str>,
        algorithm: Algorithm,
    ) -> Vec<Key> {
        if self.is_overdue() {
            self.ask().await;
        }
        let found = keys::candidates(&self.known.load().keys, id, algorithm);
        if !found.is_empty() {
            return found;
        }
        self.ask().await;
        keys::candidates(&self.known.load().keys, id, algorithm)
    }

    /// Has nobody asked for much longer than it should have been? Then this process, or its machine, has slept, and
    /// who knows which keys still count. A place that has been asked, and gives nothing, is no reason to
    /// make clients wait.
    fn is_overdue(&self) -> bool {
        let known = self.known.load();
        let older = |moment: Option<Moment>, than| moment.is_some_and(|at| at.age() >= than);
        older(known.read, self.pace.fresh_for * 2) && older(known.asked, self.pace.fresh_for)
    }

    /// As [`Self::refresh`]. A client that leaves takes its request along, but not this: others would have to begin
    /// again, and nobody would know that the place was asked.
    async fn ask(self: &Arc<Self>) {
        let this = self.clone();
        let _ = tokio::spawn(async move { this.refresh().await }).await;
    }

    /// Asks the place, unless that was done just now. What is known stays if it gives nothing.
    async fn refresh(&self) {
        let _turn = self.turn.lock().await;
        let known = self.known.load_full();
        if known.asked.is_some_and(|at| at.age() < self.pace.at_most_every) {
            return;
        }
        let result = self.read().await.and_then(|document| keys::read(&document));
        let asked = Some(Moment::now());
        let known = match result {
            Ok(keys) => {
                match keys.len() {
                    0 => tracing::warn!("{}: no token is taken", keys::NONE),
                    keys => tracing::debug!(keys, "read the keys of tokens"),
                }
                self.metrics.has_read(SystemTime::now());
                Known { keys: keys.into(), read: asked, asked, failures: 0 }
            }
            Err(error) => {
                let age = known.read.map(|read| read.age().as_secs());
                tracing::warn!(%error, age, "cannot read the keys of tokens; those that are known count");
                self.metrics.failures.inc();
                let failures = known.failures.saturating_add(1);
                Known { asked, failures, ..Known::clone(&known) }
            }
        };
        self.known.store(Arc::new(known));
    }

    async fn read(&self) -> Result<Vec<u8>, String> {
        match &self.place {
            Place::Url(fetcher) => fetcher.get().await,
            Place::File(path) => {
                let path = path.clone();
                let reading = tokio::task::spawn_blocking(move || read_file(&path));
                reading.await.map_err(|error| error.to_string())?
            }
        }
    }
}

/// Reads a small file.
pub(super) fn read_file(path: &std::path::Path) -> Result<Vec<u8>, String> {
    let named = |error: std::io::Error| format!("{}: {error}", path.display());
    let file = std::fs::File::open(path).map_err(named)?;
    let mut bytes = Vec::new();
    file.take(MAX_DOCUMENT_BYTES as u64 + 1).read_to_end(&mut bytes).map_err(named)?;
    if bytes.len() > MAX_DOCUMENT_BYTES {
        return Err(format!("{}: over {MAX_DOCUMENT_BYTES} bytes", path.display()));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_that_slept_has_grown_older_by_the_wall() {
        let (start, second) = (Moment::now(), Duration::from_secs(1));
        let slept = Moment { steady: start.steady + second, wall: start.wall + second * 3_600 };
        assert_eq!(start.until(slept), second * 3_600);
        let set_back = Moment { steady: start.steady + second, wall: start.wall - second * 3_600 };
        assert_eq!(start.until(set_back), second);
    }

    #[test]
    fn pauses_are_spread_out_and_never_a_storm() {
        let (pace, seconds) = (Pace::default(), Duration::from_secs);
        assert_eq!((pace.pause(0, 0.0), pace.pause(0, 1.0)), (seconds(480), seconds(600)));
        let after = [1, 2, 3, 4, 5, u32::MAX].map(|failures| pace.pause(failures, 0.0).as_secs());
        assert_eq!(after, [10, 20, 40, 60, 60, 60]);
        assert_eq!(pace.pause(1, 1.0), seconds(12));
        let eager = Pace { at_most_every: Duration::ZERO, fresh_for: Duration::ZERO };
        assert_eq!((eager.pause(0, 0.0), eager.pause(1, 0.0)), (MIN_PAUSE, MIN_PAUSE));
    }
}
