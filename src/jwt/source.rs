//! Where public keys come from, and how they are kept fresh while providers rotate them.

use std::io::Read as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use jsonwebtoken::Algorithm;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::fetch::{Fetcher, MAX_DOCUMENT_BYTES};
use super::keys::{self, Key};

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

enum Place {
    Url(Fetcher),
    File(PathBuf),
}

#[derive(Default)]
struct Known {
    keys: Vec<Key>,
    read: Option<Instant>,
}

/// A set of keys that is asked for again.
pub(super) struct Source {
    place: Place,
    pace: Pace,
    known: ArcSwap<Known>,
    /// When the place was asked last. Held while it is asked: one request at a time.
    asked: Mutex<Option<Instant>>,
}

impl Source {
    pub(super) fn of_url(url: &str, pace: Pace) -> Result<Arc<Self>, String> {
        Ok(Self::new(Place::Url(Fetcher::new(url)?), pace))
    }

    pub(super) fn of_file(path: PathBuf, pace: Pace) -> Arc<Self> {
        Self::new(Place::File(path), pace)
    }

    fn new(place: Place, pace: Pace) -> Arc<Self> {
        let (known, asked) = (ArcSwap::default(), Mutex::default());
        Arc::new(Self { place, pace, known, asked })
    }

    /// Has it ever had keys?
    pub(super) fn is_empty(&self) -> bool {
        self.known.load().keys.is_empty()
    }

    /// The keys that may have signed a token with this header; asks again if none is known.
    pub(super) async fn candidates(
        self: &Arc<Self>,
        id: Option<&str>,
        algorithm: Algorithm,
    ) -> Vec<Key> {
        let known = self.known.load_full();
        let found = keys::candidates(&known.keys, id, algorithm);
        if found.is_empty() {
            self.refresh().await;
            return keys::candidates(&self.known.load().keys, id, algorithm);
        }
        let is_old = known.read.is_none_or(|read| read.elapsed() >= self.pace.fresh_for);
        if is_old && self.asked.try_lock().is_ok() {
            // nobody waits for it: what is known counts until then
            let this = self.clone();
            tokio::spawn(async move { this.refresh().await });
        }
        found
    }

    /// Asks the place, unless that was done just now. What is known stays if it gives nothing.
    pub(super) async fn refresh(&self) {
        let mut asked = self.asked.lock().await;
        if asked.is_some_and(|at| at.elapsed() < self.pace.at_most_every) {
            return;
        }
        match self.read().await.and_then(|document| keys::read(&document)) {
            Ok(keys) => {
                tracing::debug!(keys = keys.len(), "read the keys of tokens");
                self.known.store(Arc::new(Known { keys, read: Some(Instant::now()) }));
            }
            Err(error) => tracing::warn!(%error, "cannot read the keys of tokens"),
        }
        *asked = Some(Instant::now());
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
