//! A value that is waited for. As `tokio::sync::watch`, but who waits first goes first: what comes next must
//! not depend on chance, or a simulation would not come out the same again.

use parking_lot::Mutex;
use tokio::sync::Notify;

pub(crate) struct Watched<T> {
    value: Mutex<T>,
    changed: Notify,
}

impl<T: Clone> Watched<T> {
    pub(crate) fn new(value: T) -> Self {
        Self { value: Mutex::new(value), changed: Notify::new() }
    }

    pub(crate) fn value(&self) -> T {
        self.value.lock().clone()
    }

    pub(crate) fn set(&self, value: T) {
        *self.value.lock() = value;
        self.changed.notify_waiters();
    }

    pub(crate) async fn wait_for(&self, wanted: impl Fn(&T) -> bool) -> T {
        loop {
            let changed = self.changed.notified();
            let value = self.value();
            if wanted(&value) {
                return value;
            }
            // (a `Notified` is woken by all that happens after it was made)
            changed.await;
        }
    }
}
