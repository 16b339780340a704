//! The connection of a client to a node: what is under way in both directions, late and in order, and how it
//! ends for either side.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use crate::cluster::redis::simulated::Watched;
use crate::engine::packet::Frame;
use crate::error::CloseReason;
use crate::fanout::Encoded;

pub(super) enum Up {
    Message(String),
    Closed(CloseReason),
}

pub(super) enum Down {
    Message(String),
    Closed,
}

pub(super) struct Pipe {
    random: Mutex<StdRng>,
    most: u64,
    up: Lane<Up>,
    down: Lane<Down>,
    /// Nothing passes.
    held: Watched<bool>,
    /// The server notices by itself then that nobody is there.
    silent: Watched<Option<Instant>>,
}

impl Pipe {
    pub(super) fn new(seed: u64, most: u64) -> Arc<Self> {
        Arc::new(Self {
            random: Mutex::new(StdRng::seed_from_u64(seed)),
            most,
            up: Lane::new(),
            down: Lane::new(),
            held: Watched::new(false),
            silent: Watched::new(None),
        })
    }

    pub(super) fn moment(&self) -> Duration {
        Duration::from_micros(self.random.lock().random_range(100..=self.most * 1_000))
    }

    pub(super) fn hold(&self, held: bool) {
        if self.silent.value().is_none() {
            self.held.set(held);
        }
    }

    /// Cut, without a word to anyone: the server notices after `later`.
    pub(super) fn cut(&self, later: Duration) {
        self.silent.set(Some(Instant::now() + later));
        self.held.set(true);
    }

    // --- the client's side

    pub(super) fn to_server(&self, text: String) {
        self.up.send(self.moment(), Up::Message(text));
    }

    pub(super) fn close(&self) {
        self.up.send(self.moment(), Up::Closed(CloseReason::TransportClose));
    }

    pub(super) async fn client_next(&self) -> Down {
        self.down.next(&self.held, None).await
    }

    // --- the server's side

    pub(super) fn to_client(&self, message: &Encoded) {
        for frame in message.frames() {
            let Frame::Text(text) = frame else { panic!("no binary data is sent here") };
            let text = text.as_str().strip_prefix('4').expect("a message");
            self.down.send(self.moment(), Down::Message(text.to_owned()));
        }
    }

    pub(super) fn server_gone(&self) {
        self.down.send(self.moment(), Down::Closed);
    }

    pub(super) async fn server_next(&self, node: &Watched<bool>) -> Up {
        let noticed = async {
            if let Some(at) = self.silent.wait_for(|at| at.is_some()).await {
                sleep_until(at).await;
            }
            passable(node).await;
        };
        tokio::select! {
            biased;
            () = noticed => Up::Closed(CloseReason::PingTimeout),
            up = self.up.next(&self.held, Some(node)) => up,
        }
    }
}

pub(super) async fn passable(held: &Watched<bool>) {
    held.wait_for(|held| !*held).await;
}

/// One direction.
struct Lane<T> {
    queue: Mutex<VecDeque<(Instant, T)>>,
    added: Notify,
}

impl<T> Lane<T> {
    fn new() -> Self {
        Self { queue: Mutex::default(), added: Notify::new() }
    }

    fn send(&self, delay: Duration, what: T) {
        let mut queue = self.queue.lock();
        let at = Instant::now() + delay;
        let at = queue.back().map_or(at, |(last, _)| at.max(*last));
        queue.push_back((at, what));
        drop(queue);
        self.added.notify_one();
    }

    /// Safe to drop half-way: what is next stays in the queue until it has arrived.
    async fn next(&self, held: &Watched<bool>, node: Option<&Watched<bool>>) -> T {
        loop {
            let Some(at) = self.queue.lock().front().map(|(at, _)| *at) else {
                self.added.notified().await;
                continue;
            };
            sleep_until(at).await;
            passable(held).await;
            if let Some(node) = node {
                passable(node).await;
            }
            if let Some((_, what)) = self.queue.lock().pop_front() {
                return what;
            }
        }
    }
}
