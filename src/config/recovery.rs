//! Connection state recovery.

use std::time::Duration;

/// Connection state recovery (Node: `connectionStateRecovery`): a client that comes back in time goes on with
/// its session, and gets what it has missed.
///
/// While it is on, every event that is sent carries one more argument, a string, which is how clients know
/// where they are: handlers of clients see it, as with Node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecoveryConfig {
    /// How long a client may be away (Node: `maxDisconnectionDuration`); zero switches recovery off.
    /// Default: off, as in Node.
    pub window: Duration,
    /// Are middlewares skipped when a session goes on (Node: `skipMiddlewares`, on there)? Default: no, they
    /// run, and before anything is sent.
    pub skip_middlewares: bool,
    /// The most events that are sent again to one client; above it the client gets a fresh session.
    /// Default: 10,000.
    pub max_events: usize,
    /// The most bytes that are sent again to one client, as they count in its outbox (some 150 for each
    /// event beside its content), with the same consequence; at most
    /// [`crate::config::EngineConfig::outbox_bytes`]. Default: 2 MiB.
    pub max_bytes: usize,
    /// Entries of each log that are remembered for those who come back. Default: 50,000.
    pub history_entries: usize,
    /// Bytes of each log that are remembered. Default: 64 MiB.
    pub history_bytes: usize,
}

impl RecoveryConfig {
    /// Is it on?
    pub fn is_on(&self) -> bool {
        !self.window.is_zero()
    }
}

impl Default for RecoveryConfig {
    fn default() -> Self {
        Self {
            window: Duration::ZERO,
            skip_middlewares: false,
            max_events: 10_000,
            max_bytes: 2 << 20,
            history_entries: 50_000,
            history_bytes: 64 * 1024 * 1024,
        }
    }
}
