//! How much is on its way through Redis, for the metrics. Also while there is no connection, which is when a queue
//! matters.

use std::sync::Weak;
use std::time::Duration;

use super::Shared;

const EVERY: Duration = Duration::from_secs(1);

/// Keeps the metrics as long as the bus lives.
pub(super) async fn run(shared: Weak<Shared>) {
    while let Some(strong) = shared.upgrade() {
        measure(&strong);
        drop(strong);
        tokio::time::sleep(EVERY).await;
    }
}

fn measure(shared: &Shared) {
    let (mut messages, mut bytes) = (0, 0);
    for stream in &shared.streams {
        let feed = stream.feed.lock();
        messages += feed.len();
        bytes += feed.bytes();
    }
    shared.metrics.bus.queue_messages.set(messages as i64);
    shared.metrics.bus.queue_bytes.set(bytes as i64);
}
