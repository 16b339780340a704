//! File descriptors: how many there may be, and what happens before they run out.
//!
//! Every TCP connection takes one; a WebTransport session takes none, since all share one UDP socket. A process
//! without any left cannot accept, read its renewed certificate or find Redis again, so some are kept back: a
//! connection that would take one of those is answered with 503 and closed.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;

use axum::Router;
use axum::response::IntoResponse as _;
use http::{StatusCode, header};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::metrics::Metrics;

/// Descriptors that no client gets, where there are enough.
const RESERVE: u64 = 64;
/// The reserve is at most one of so many.
const RESERVE_SHARE: u64 = 8;

/// Raises the process's soft limit of open files to the hard one, which needs no privilege. Container runtimes
/// start processes with a soft limit of 1024, which is kept for programs that use `select`.
///
/// Gives the limit that holds now; `None` is none at all. A library must not change its process unasked:
/// call this early in `main`.
///
/// # Errors
/// What the system says (`setrlimit`); the limit is then what it was.
pub fn raise_descriptor_limit() -> io::Result<Option<u64>> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum {
        setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })?;
    }
    Ok(maximum)
}

/// Says whether a connection may stay.
#[derive(Debug)]
pub(super) struct Gate {
    /// The first descriptor of the reserve.
    ceiling: u64,
    /// Refusals take descriptors of the reserve while they last. So many at once are also enough where it is
    /// `max-connections` that was met.
    refusals: Arc<Semaphore>,
}

/// What becomes of a connection.
#[derive(Debug)]
pub(super) enum Pass {
    Serve,
    /// Answer with 503; the permit is dropped afterwards.
    Refuse(OwnedSemaphorePermit),
    /// Too many are being refused already.
    Drop,
}

impl Gate {
    /// For the limit that the process has now.
    pub(super) fn new() -> Self {
        Self::below(getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX))
    }

    fn below(limit: u64) -> Self {
        let reserve = RESERVE.min(limit / RESERVE_SHARE);
        let refusals = usize::try_from(reserve / 2).unwrap_or_default();
        Self { ceiling: limit - reserve, refusals: Arc::new(Semaphore::new(refusals)) }
    }

    /// Systems give the lowest number that is free: a number in the reserve says that all below are taken.
    pub(super) fn pass(&self, connection: &impl AsRawFd) -> Pass {
        let number = u64::try_from(connection.as_raw_fd()).unwrap_or_default();
        if number < self.ceiling {
            return Pass::Serve;
        }
        self.refuse()
    }

    /// For one that may not stay.
    pub(super) fn refuse(&self) -> Pass {
        match self.refusals.clone().try_acquire_owned() {
            Ok(permit) => Pass::Refuse(permit),
            Err(_) => Pass::Drop,
        }
    }
}

/// Answers everything with 503, except for what `health` has: a full process is not to be restarted for it.
pub(super) fn refusing(health: Option<Router>) -> Router {
    let full = || async {
        let headers = [(header::CONNECTION, "close"), (header::RETRY_AFTER, "1")];
        (StatusCode::SERVICE_UNAVAILABLE, headers, "no room for another connection\n")
            .into_response()
    };
    health.unwrap_or_default().fallback(full)
}

/// Fills in what the system knows.
pub(super) fn sample(metrics: &Metrics) {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let number = |limit: Option<u64>| limit.and_then(|n| n.try_into().ok()).unwrap_or(i64::MAX);
    metrics.descriptors.soft_limit.set(number(current));
    metrics.descriptors.hard_limit.set(number(maximum));
    metrics.descriptors.open.set(number(open().ok()));
}

/// How many are open. Linux 6.2 and newer say it as the size of the folder that lists them.
fn open() -> io::Result<u64> {
    const LISTED: &str = "/proc/self/fd";
    match std::fs::metadata(LISTED)?.len() {
        0 => Ok(std::fs::read_dir(LISTED)?.count() as u64),
        known => Ok(known),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Number(i32);

    impl AsRawFd for Number {
        fn as_raw_fd(&self) -> i32 {
            self.0
        }
    }

    #[test]
    fn numbers_in_the_reserve_are_refused_and_then_dropped() {
        let gate = Gate::below(1024);
        assert!(matches!(gate.pass(&Number(959)), Pass::Serve));
        let refused: Vec<_> = (0..32).map(|_| gate.pass(&Number(960))).collect();
        assert!(refused.iter().all(|pass| matches!(pass, Pass::Refuse(_))));
        assert!(matches!(gate.pass(&Number(960)), Pass::Drop));
        drop(refused);
        assert!(matches!(gate.pass(&Number(1023)), Pass::Refuse(_)));
    }

    #[test]
    fn a_small_limit_keeps_a_small_reserve() {
        assert!(matches!(Gate::below(64).pass(&Number(55)), Pass::Serve));
        assert!(matches!(Gate::below(64).pass(&Number(56)), Pass::Refuse(_)));
        assert!(matches!(Gate::below(u64::MAX).pass(&Number(i32::MAX)), Pass::Serve));
    }

    #[test]
    fn what_is_open_is_counted() {
        let before = open().unwrap();
        let files: Vec<_> = (0..50).map(|_| std::fs::File::open("/dev/null").unwrap()).collect();
        let more = open().unwrap();
        assert!(more >= before.saturating_sub(20) + 50, "{before}, {more}"); // other tests run, too
        drop(files);
    }
}
