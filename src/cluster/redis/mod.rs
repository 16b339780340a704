//! The bus over Redis Streams, on the wire of Node's `@socket.io/redis-streams-adapter` 0.3.
//!
//! ```text
//! publish ─▶ Feed (bounded, ordered) ─▶ publisher ─▶ XADD ─▶ stream ─▶ XREAD ─▶ reader ─▶ Feed::read ─▶ deliver
//!                                      (`lane`: a connection of its own for each of the two, without `fred`)
//! request ─▶ PUBLISH ─▶ other nodes ─▶ PUBLISH to our private channel ─▶ Requests ─▶ who asked
//! ```
//!
//! A connection to Redis is an *epoch*: when anything about it breaks, all of it is let go of and made
//! anew, after a pause with jitter. What was under way is in the feeds and is not lost by that. While there
//! is no epoch, or Redis is slow, own messages are delivered on this node without it (G6).

mod access;
mod channels;
mod client;
mod commands;
mod entries;
mod epoch;
mod feed;
mod lane;
mod link;
mod measure;
mod past;
mod position;
mod requests;
mod resp;
mod servers;
mod sessions;
#[cfg(test)]
pub(crate) mod simulated;
mod watched;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use fred::error::{Error, ErrorKind};
use futures_util::future::BoxFuture;
use parking_lot::{Mutex, RwLock};
use tokio::sync::{Notify, mpsc, oneshot, watch};

use self::access::Access;
use self::channels::{Ask, Post};
pub use self::client::Redis;
use self::feed::{Feed, Late, Read};
use self::past::{Delivered, NODE_CHARS, RawFields, remembered, remembered_message};
use self::requests::Requests;
use self::sessions::Sessions;
use super::history::{At, Early, Gap, Offset, Origin, Past, TailLimits, Way};
use super::load::{Load, Loads};
use super::message::{Message, Reply, Request};
use super::wire::{self, Entry, StreamId};
use super::{Bus, Log, Replica, Replies};
use crate::config::RedisConfig;
use crate::engine::packet::Str;
use crate::error::{EmitError, ServeError};
use crate::metrics::Metrics;
use crate::random::random;
use crate::socketio::packet::Codec;

/// How long a node tries to connect before it gives up to start.
const START: Duration = Duration::from_secs(30);

/// How long a node that leaves may take to publish what it has accepted.
const GOODBYE: Duration = Duration::from_secs(2);

/// The bus. Cheap to clone.
#[derive(Clone)]
pub(crate) struct RedisBus(Arc<Shared>);

/// Did the first epoch begin?
#[derive(Clone)]
enum Start {
    /// Not yet; what went wrong last.
    Tried(Option<String>),
    /// It cannot.
    Failed(String),
    /// It has read where each stream ends.
    Done,
}

impl Start {
    fn is_done(&self) -> bool {
        matches!(self, Self::Done)
    }
}

struct Shared {
    config: RedisConfig,
    access: Access,
    codec: Codec,
    metrics: Arc<Metrics>,
    /// The namespaces of this node.
    spaces: RwLock<HashMap<Str, Arc<Space>>>,
    /// The streams, by name: all that any peer writes.
    streams: Vec<Arc<Stream>>,
    requests: Requests,
    sessions: Sessions,
    /// What other nodes say of themselves.
    loads: Mutex<Loads>,
    /// Things to publish on channels, for the epoch that is there; dropped without one.
    channels: Mutex<Option<mpsc::Sender<Post>>>,
    connected: AtomicBool,
    started: watch::Sender<Start>,
    request_ids: AtomicU64,
    /// Begins the uids of this node.
    node: Str,
    /// Turns true when the node is to leave the cluster.
    closing: watch::Sender<bool>,
    /// Turns true when it has left.
    closed: watch::Sender<bool>,
}

/// A namespace of this node, as its peers see it.
struct Space {
    nsp: Str,
    /// Signs what it writes. One for each namespace, as in Node.
    uid: Str,
    channels: wire::Channels,
    stream: Arc<Stream>,
    /// Usually one. A dynamic namespace that was forgotten and made anew may have two for a moment.
    replicas: RwLock<Vec<Attached>>,
}

struct Attached {
    replica: Weak<dyn Replica>,
    /// Of its log. A replica is attached before it is there (`Arc::new_cyclic`), and nobody sees then that it will be.
    log: Weak<()>,
}

struct Stream {
    name: String,
    /// Held while something is delivered, so that deliveries have one order. Before `feed`.
    delivery: Mutex<()>,
    feed: Mutex<Feed>,
    delivered: Delivered,
    /// Something is to be stored.
    to_store: Notify,
    /// Something may become overdue.
    to_watch: Notify,
}

impl Drop for Ask {
    fn drop(&mut self) {
        if let Some(replies) = self.replies.take() {
            let _ = replies.send(Reply::Missing(1));
        }
    }
}

impl RedisBus {
    /// Begins to connect; [`RedisBus::started`] waits for it.
    ///
    /// # Errors
    /// [`ServeError::Bus`] if the address makes no sense.
    pub(crate) fn new(
        config: RedisConfig,
        history: Option<TailLimits>,
        codec: Codec,
        metrics: Arc<Metrics>,
    ) -> Result<Self, ServeError> {
        let access = Access::new(&config).map_err(ServeError::Bus)?;
        let queue_bytes = config.queue_bytes;
        let names = wire::streams_to_read(&config.stream_name, config.stream_count);
        let streams = names
            .into_iter()
            .map(|name| {
                let start = StreamId { ms: 0, seq: 0 };
                Arc::new(Stream {
                    name,
                    delivery: Mutex::new(()),
                    feed: Mutex::new(Feed::new(start, queue_bytes)),
                    delivered: Delivered::new(history),
                    to_store: Notify::new(),
                    to_watch: Notify::new(),
                })
            })
            .collect();
        let shared = Arc::new(Shared {
            sessions: Sessions::new(config.session_prefix.clone()),
            config,
            access,
            codec,
            metrics,
            spaces: RwLock::default(),
            streams,
            requests: Requests::default(),
            loads: Mutex::default(),
            channels: Mutex::new(None),
            connected: AtomicBool::new(false),
            started: watch::Sender::new(Start::Tried(None)),
            request_ids: AtomicU64::new(random()),
            node: format!("{:0NODE_CHARS$x}", random::<u64>()).into(),
            closing: watch::Sender::new(false),
            closed: watch::Sender::new(false),
        });
        for stream in &shared.streams {
            tokio::spawn(watch_overdue(Arc::downgrade(&shared), stream.clone()));
        }
        tokio::spawn(epoch::run(Arc::downgrade(&shared)));
        tokio::spawn(measure::run(Arc::downgrade(&shared)));
        Ok(Self(shared))
    }

    /// Waits until the node knows where the streams end, so that it misses nothing from then on.
    ///
    /// # Errors
    /// What went wrong, once this makes no sense any more or has taken too long.
    pub(crate) async fn started(&self) -> Result<(), ServeError> {
        let mut started = self.0.started.subscribe();
        let over = started.wait_for(|start| !matches!(start, Start::Tried(_)));
        let over = tokio::time::timeout(START, over).await;
        let over = over.map(|start| start.map(|start| start.clone()));
        match over {
            Ok(Ok(Start::Failed(error))) => Err(ServeError::Bus(error)),
            Ok(_) => Ok(()),
            Err(_) => {
                let last = match &*started.borrow() {
                    Start::Tried(Some(error)) => format!(": {error}"),
                    _ => String::new(),
                };
                Err(ServeError::Bus(format!("no connection to Redis for {START:?}{last}")))
            }
        }
    }
}

impl Bus for RedisBus {
    fn attach(&self, nsp: &Str, replica: Weak<dyn Replica>) -> Arc<dyn Log> {
        let gone = self.0.forget_left();
        let mut spaces = self.0.spaces.write();
        let known = spaces.get(nsp).cloned();
        let is_new = known.is_none();
        let space = known.unwrap_or_else(|| Arc::new(self.0.new_space(nsp)));
        let alive = Arc::new(());
        space.replicas.write().push(Attached { replica, log: Arc::downgrade(&alive) });
        spaces.insert(nsp.clone(), space.clone());
        drop(spaces);
        for space in gone {
            self.0.post(Post::Unsubscribe(space));
        }
        if is_new {
            self.0.post(Post::Subscribe(space.clone()));
        }
        Arc::new(RedisLog { shared: self.0.clone(), space, alive: Some(alive) })
    }

    fn is_degraded(&self) -> bool {
        let late = |stream: &Arc<Stream>| stream.feed.lock().is_late();
        !self.0.connected.load(Ordering::Acquire) || self.0.streams.iter().any(late)
    }

    fn report(&self, load: Load) {
        // every node has the main namespace, or has no clients yet
        let Some(space) = self.0.space(&"/".into()) else { return };
        if let Ok(payload) = wire::load_payload(&space.uid, &space.nsp, load) {
            self.0.post(Post::Publish { channel: space.channels.public.clone(), payload });
        }
    }

    fn loads(&self) -> Vec<Load> {
        self.0.loads.lock().of_others(Instant::now())
    }

    fn close(&self) -> BoxFuture<'static, ()> {
        let mut closed = self.0.closed.subscribe();
        self.0.closing.send_replace(true);
        Box::pin(async move {
            let _ = tokio::time::timeout(GOODBYE, closed.wait_for(|closed| *closed)).await;
        })
    }
}

struct RedisLog {
    shared: Arc<Shared>,
    space: Arc<Space>,
    alive: Option<Arc<()>>,
}

/// Its namespace ends with it; that is looked at elsewhere, since here any lock may be held.
impl Drop for RedisLog {
    fn drop(&mut self) {
        self.alive = None;
        self.shared.post(Post::Left);
    }
}

impl Log for RedisLog {
    fn publish(&self, message: Message) -> Result<u64, EmitError> {
        let space = &self.space;
        let fields = wire::entry_fields(&space.uid, &space.nsp, &message)?;
        let connected = self.shared.connected.load(Ordering::Acquire);
        // without Redis it is due at once
        let wait = if connected { self.shared.config.local_deadline } else { Duration::ZERO };
        let due = now() + wait;
        let mut feed = space.stream.feed.lock();
        let number = feed
            .push(due, space.nsp.clone(), message, fields.into())
            .map_err(|_| EmitError::BusFull)?;
        let watch = feed.is_unwatched();
        drop(feed);
        space.stream.to_store.notify_one();
        if watch {
            space.stream.to_watch.notify_one();
        }
        Ok(number)
    }

    fn delivered(&self, number: u64) -> Option<BoxFuture<'static, ()>> {
        self.space.stream.delivered.own(number)
    }

    fn request(&self, request: Request) -> Replies {
        let (replies, receiver) = mpsc::unbounded_channel();
        let id = format!("{:016x}", self.shared.request_ids.fetch_add(1, Ordering::Relaxed));
        let wants_replies = !matches!(request, Request::ServerSideEmit { wanted: false, .. });
        let request_id = wants_replies.then_some(id.as_str());
        let space = &self.space;
        let Ok(payload) = wire::request_payload(&space.uid, &space.nsp, request_id, &request)
        else {
            return receiver; // it could not be encoded: nobody will answer
        };
        let post = if wants_replies {
            let counts_acks = matches!(request, Request::Broadcast { .. });
            let replies = Some(replies);
            Post::Ask(Ask { space: space.clone(), payload, id, replies, counts_acks })
        } else {
            Post::Publish { channel: space.channels.public.clone(), payload }
        };
        self.shared.post(post);
        receiver
    }

    fn nodes(&self) -> BoxFuture<'static, Option<usize>> {
        let (counted, count) = oneshot::channel();
        self.shared.post(Post::Count(self.space.clone(), counted));
        Box::pin(async move { count.await.ok() })
    }

    fn name(&self) -> &Str {
        &self.space.uid
    }

    fn node(&self) -> &Str {
        &self.shared.node
    }

    fn mark(&self) -> Offset {
        self.space.stream.delivered.mark()
    }

    fn gap(&self) -> Gap {
        self.space.stream.delivered.gap()
    }

    fn oldest(&self) -> StreamId {
        self.space.stream.delivered.oldest()
    }

    fn past(&self, after: StreamId) -> Option<Vec<Arc<Past>>> {
        self.space.stream.delivered.past(after, &self.space.nsp)
    }

    fn reached(&self, id: StreamId) -> BoxFuture<'static, ()> {
        Box::pin(self.space.stream.delivered.reached(id))
    }

    fn early(&self) -> Vec<Early> {
        self.space.stream.delivered.early()
    }

    fn exclusive(&self, act: &mut dyn FnMut()) {
        let _delivery = self.space.stream.delivery.lock();
        act();
    }

    fn sessions(&self) -> &dyn super::session::Sessions {
        self
    }
}

impl Shared {
    fn new_space(&self, nsp: &Str) -> Space {
        let uid: Str = format!("{}{:016x}", self.node, random::<u64>()).into();
        let name = wire::stream_name(&self.config.stream_name, self.config.stream_count, nsp);
        let stream = self.streams.iter().find(|stream| stream.name == name);
        Space {
            nsp: nsp.clone(),
            channels: wire::channels(&self.config.channel_prefix, nsp, &uid),
            uid,
            stream: stream.expect("every stream that is written is read").clone(),
            replicas: RwLock::default(),
        }
    }

    fn post(&self, post: Post) {
        let mut channels = self.channels.lock();
        // Without an epoch it is dropped: the next one subscribes to what there is when it begins.
        let Some(sender) = &*channels else { return };
        if let Err(full) = sender.try_send(post) {
            self.metrics.bus.requests_lost.inc();
            if let Post::Subscribe(_) = full.into_inner() {
                *channels = None; // not to be lost: this ends the epoch
            }
        }
    }

    /// Takes out the namespaces of which no replica is left.
    fn forget_left(&self) -> Vec<Arc<Space>> {
        let is_left = |_: &Str, space: &mut Arc<Space>| !space.is_alive();
        self.spaces.write().extract_if(is_left).map(|(_, space)| space).collect()
    }

    fn space(&self, nsp: &Str) -> Option<Arc<Space>> {
        self.spaces.read().get(nsp).cloned()
    }

    /// Applies one entry of a stream.
    fn apply(&self, stream: &Stream, id: StreamId, fields: RawFields) {
        let uid = fields.text("uid").unwrap_or_default();
        let number = fields.text("q").and_then(|number| number.parse().ok());
        let _delivery = stream.delivery.lock();
        let own = uid.starts_with(self.node.as_str());
        let (read, offset) = {
            let mut feed = stream.feed.lock();
            let read = feed.read(id, uid, own, number);
            if feed.position().has_gap() {
                // before anybody is recovered over it
                stream.delivered.restart(id.before(), feed.ahead());
            }
            let offset = Offset { id, early: feed.ahead() };
            let lost = feed.take_lost();
            drop(feed);
            self.deliver_late(stream, lost);
            (read, offset)
        };
        let past = match read {
            Read::Known => None,
            Read::Own(late) => self.apply_own(stream, offset, Way::Own, late),
            Read::Echo(late) => self.apply_own(stream, offset, Way::Echo, late),
            Read::Foreign => self.apply_foreign(offset, fields),
        };
        stream.delivered.entry(offset, past);
    }

    fn apply_own(&self, stream: &Stream, offset: Offset, way: Way, late: Late) -> Option<Past> {
        let origin = Some(Origin { node: self.node.clone(), number: late.number });
        let at = At { offset, origin: origin.clone(), way };
        self.deliver(&late.nsp, &at, &late.message);
        stream.delivered.note_own(late.number);
        remembered_message(offset.id, origin, &late.nsp, &late.message)
    }

    fn apply_foreign(&self, offset: Offset, fields: RawFields) -> Option<Past> {
        let (origin, bytes) = (fields.origin(), fields.footprint());
        let entry = match Entry::parse(fields.0) {
            Ok(Some(entry)) => entry,
            Ok(None) => return None,
            Err(error) => {
                self.metrics.bus.malformed.inc();
                tracing::warn!(%error, "an entry of the stream cannot be read");
                return None;
            }
        };
        self.metrics.bus.received.inc();
        let past = remembered(offset.id, origin.clone(), &entry, bytes);
        let Some(space) = self.space(&entry.nsp) else { return past };
        // nobody here is meant: the payload need not be looked at
        if entry
            .target()
            .is_some_and(|target| !space.live().iter().any(|replica| replica.addresses(target)))
        {
            self.metrics.bus.skipped.inc();
            return past;
        }
        match entry.into_message(self.codec) {
            Ok(message) => {
                space.deliver(&At { offset, origin, way: Way::Foreign }, &message);
                past
            }
            Err(error) => {
                self.metrics.bus.malformed.inc();
                tracing::warn!(%error, "an entry of the stream cannot be read");
                None
            }
        }
    }

    fn deliver(&self, nsp: &Str, at: &At, message: &Message) {
        if let Some(space) = self.space(nsp) {
            space.deliver(at, message);
        }
    }

    /// Own messages that Redis did not bring back.
    fn deliver_late(&self, stream: &Stream, messages: Vec<Late>) {
        for Late { number, nsp, message } in messages {
            self.metrics.bus.local_deliveries.inc();
            let offset = stream.delivered.ahead(&self.node, number);
            let origin = Some(Origin { node: self.node.clone(), number });
            self.deliver(&nsp, &At { offset, origin, way: Way::Early }, &message);
            stream.delivered.went_ahead(offset);
            stream.delivered.note_own(number);
        }
    }

    /// Nobody is recovered over what was until now.
    fn forget_past(&self, stream: &Stream) {
        let _delivery = stream.delivery.lock();
        let feed = stream.feed.lock();
        stream.delivered.restart(feed.cursor(), feed.ahead());
    }

    /// Was something lost of what others have written? Then nobody can be told what was before.
    fn count_gap(&self, stream: &Stream) {
        let gap = stream.feed.lock().position().take_gap();
        if let Some(what) = gap {
            self.forget_past(stream);
            self.metrics.bus.gaps.inc();
            tracing::error!(stream = stream.name, what, "events of other nodes may be lost");
        }
    }

    /// An attempt to connect has failed. While the node starts, one that will always fail ends it.
    fn tell_of_start(&self, error: &Error) {
        self.started.send_if_modified(|start| {
            let Start::Tried(last) = start else { return false };
            let details = error.details().to_owned();
            match error.kind() {
                ErrorKind::Auth | ErrorKind::Tls => *start = Start::Failed(details),
                _ => *last = Some(details),
            }
            true
        });
    }

    fn set_connected(&self, connected: bool) {
        self.connected.store(connected, Ordering::Release);
        self.metrics.bus.connected.set(connected.into());
        if !connected {
            self.sessions.set_link(None);
            *self.channels.lock() = None;
            self.requests.fail_all();
            for stream in &self.streams {
                stream.feed.lock().hurry(now());
                stream.to_watch.notify_one();
            }
        }
    }

    /// Is nothing to be published any more?
    fn is_idle(&self) -> bool {
        self.streams.iter().all(|stream| stream.feed.lock().len() == 0)
    }
}

impl Space {
    fn is_alive(&self) -> bool {
        let mut replicas = self.replicas.write();
        replicas.retain(|attached| attached.log.strong_count() > 0);
        !replicas.is_empty()
    }

    fn live(&self) -> Vec<Arc<dyn Replica>> {
        self.replicas.read().iter().filter_map(|attached| attached.replica.upgrade()).collect()
    }

    fn deliver(&self, at: &At, message: &Message) {
        for replica in self.live() {
            replica.deliver(at, message);
        }
    }
}

/// Tokio's clock, so that tests can pause it.
fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// Delivers own messages on this node that Redis does not bring back in time.
async fn watch_overdue(shared: Weak<Shared>, stream: Arc<Stream>) {
    loop {
        let due = stream.feed.lock().next_due();
        match due {
            // when Redis goes away the time may come sooner
            Some(due) => {
                drop(tokio::time::timeout_at(due.into(), stream.to_watch.notified()).await)
            }
            None => stream.to_watch.notified().await,
        }
        let Some(shared) = shared.upgrade() else { return };
        let _delivery = stream.delivery.lock();
        let late = stream.feed.lock().overdue(now());
        shared.deliver_late(&stream, late);
    }
}
