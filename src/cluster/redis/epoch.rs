//! One life of the connection to Redis: connect, catch up, run until something breaks, begin again.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use fred::clients::{Client, SubscriberClient};
use fred::error::{Error, ErrorKind};
use fred::interfaces::{
    ClientInterface, ClientLike, EventInterface, PubsubInterface, StreamsInterface,
    TransactionInterface,
};
use fred::types::client::ClientKillFilter;
use fred::types::config::ConnectionConfig;
use fred::types::{Builder, Message as ChannelMessage, Value};
use tokio::sync::{broadcast, mpsc};
use tokio::task::JoinSet;

use super::feed::Fields;
use super::{Post, Shared, Space, Stream};
use crate::cluster::message::Reply;
use crate::cluster::wire::{self, Envelope, Kind, StreamId};

/// Entries stored in one transaction.
const STORE_BATCH: usize = 128;
/// Entries read at a time (Node's adapter: 100).
const READ_COUNT: u64 = 500;
/// How long one read waits at Redis (Node's adapter: 5 s).
const READ_BLOCK: Duration = Duration::from_secs(5);
/// A command that takes longer says that the connection is dead.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(10);
/// Messages of channels that may wait for us to look at them.
const CHANNEL_CAPACITY: usize = 16 * 1024;
/// How often a request that waits asks whether its nodes still live.
const CENSUS: Duration = Duration::from_millis(500);
/// Pauses between attempts to connect.
const BACKOFF_FIRST: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_secs(2);
/// Pause after Redis refused to store something (out of memory).
const REFUSED_PAUSE: Duration = Duration::from_millis(200);

/// Keeps a connection as long as the bus lives.
pub(super) async fn run(shared: Weak<Shared>) {
    let mut backoff = BACKOFF_FIRST;
    let mut writer_ids: Vec<i64> = Vec::new();
    loop {
        let Some(strong) = shared.upgrade() else { return };
        let begun = Instant::now();
        let result = match Epoch::begin(&strong, &mut writer_ids).await {
            Ok(epoch) => {
                tracing::info!("connected to Redis");
                strong.started.send_replace(true);
                let result = epoch.run(&strong, Arc::downgrade(&strong)).await;
                strong.set_connected(false);
                strong.metrics.bus.reconnects.inc();
                result
            }
            Err(error) => Err(error),
        };
        drop(strong);
        if let Err(error) = result {
            tracing::warn!(error = error.details(), "no connection to Redis");
        }
        if begun.elapsed() > BACKOFF_MAX {
            backoff = BACKOFF_FIRST; // it had worked
        }
        // jitter, so that the nodes of a cluster do not come back all at once
        tokio::time::sleep(backoff.mul_f64(rand::random_range(0.5..1.5))).await;
        backoff = (backoff * 2).min(BACKOFF_MAX);
    }
}

/// The connections of one epoch.
struct Epoch {
    writer: Client,
    readers: Vec<(Client, Arc<Stream>)>,
    subscriber: SubscriberClient,
    messages: broadcast::Receiver<ChannelMessage>,
    posts: mpsc::UnboundedReceiver<Post>,
}

impl Epoch {
    /// Connects, makes sure that the last epoch can store nothing more, and reads every stream to its end.
    async fn begin(shared: &Arc<Shared>, writer_ids: &mut Vec<i64>) -> Result<Self, Error> {
        let writer = connect(shared).await?;
        // What the old connection had sent may still lie in Redis' socket. Nothing of it may be stored after
        // we have looked what was stored.
        for id in writer_ids.drain(..) {
            let kill = vec![ClientKillFilter::ID(id.to_string())];
            let _: Result<i64, Error> = timed(writer.client_kill(kill)).await;
        }
        writer_ids.extend(writer.connection_ids().into_values());
        let subscriber = builder(shared).build_subscriber_client()?;
        init(&subscriber).await?;
        let messages = subscriber.message_rx();
        let first = !*shared.started.borrow();
        let mut readers = Vec::new();
        for stream in &shared.streams {
            let reader = connect(shared).await?;
            catch_up(shared, &reader, stream, first).await?;
            readers.push((reader, stream.clone()));
        }
        let (sender, posts) = mpsc::unbounded_channel();
        // from here on new namespaces announce themselves; those that are there are announced now
        *shared.channels.lock() = Some(sender.clone());
        let spaces: Vec<_> = shared.spaces.read().values().cloned().collect();
        for space in spaces {
            subscribe(shared, &subscriber, &space).await?;
        }
        shared.set_connected(true);
        Ok(Self { writer, readers, subscriber, messages, posts })
    }

    /// Runs until anything breaks.
    async fn run(self, shared: &Arc<Shared>, weak: Weak<Shared>) -> Result<(), Error> {
        let mut tasks: JoinSet<Result<(), Error>> = JoinSet::new();
        for (reader, stream) in self.readers {
            let (writer, storing) = (self.writer.clone(), stream.clone());
            tasks.spawn(store(weak.clone(), writer, storing));
            tasks.spawn(read(weak.clone(), reader, stream));
        }
        tasks.spawn(listen(weak.clone(), self.messages, self.writer.clone()));
        tasks.spawn(post(weak.clone(), self.posts, self.writer.clone(), self.subscriber.clone()));
        tasks.spawn(watch_connection(self.subscriber.clone()));
        tasks.spawn(measure(weak));
        let result = tasks.join_next().await;
        shared.set_connected(false);
        tasks.shutdown().await;
        let _ = tokio::time::timeout(Duration::from_millis(100), self.writer.quit()).await;
        let _ = tokio::time::timeout(Duration::from_millis(100), self.subscriber.quit()).await;
        match result {
            Some(Ok(result)) => result,
            _ => Err(Error::new(ErrorKind::Unknown, "a task of the bus ended")),
        }
    }
}

fn builder(shared: &Shared) -> Builder {
    let mut builder = Builder::from_config(shared.client.clone());
    builder.with_connection_config(|config: &mut ConnectionConfig| {
        config.connection_timeout = Duration::from_secs(5);
        config.internal_command_timeout = Duration::from_secs(5);
        // A command whose connection broke is not sent again behind our back: that could store it twice.
        config.max_command_attempts = 1;
        config.tcp.nodelay = Some(true);
    });
    builder.with_performance_config(|config| {
        config.broadcast_channel_capacity = CHANNEL_CAPACITY;
    });
    builder
}

async fn connect(shared: &Shared) -> Result<Client, Error> {
    let client = builder(shared).build()?;
    init(&client).await?;
    Ok(client)
}

async fn init(client: &impl ClientLike) -> Result<(), Error> {
    timed(async { client.init().await.map(drop) }).await
}

async fn timed<T>(command: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    match tokio::time::timeout(COMMAND_TIMEOUT, command).await {
        Ok(result) => result,
        Err(_) => Err(Error::new(ErrorKind::Timeout, "Redis does not answer")),
    }
}

// --- the streams

/// Where a stream stands.
#[derive(Debug, Default, PartialEq, Eq)]
struct Standing {
    last: StreamId,
    first: Option<StreamId>,
}

async fn standing(client: &Client, name: &str) -> Result<Standing, Error> {
    let info: Result<HashMap<String, Value>, Error> =
        timed(client.xinfo_stream(name, false, None)).await;
    let info = match info {
        Ok(info) => info,
        Err(error) if error.details().contains("no such key") => return Ok(Standing::default()),
        Err(error) => return Err(error),
    };
    let id = |value: &Value| value.as_str().and_then(|text| text.parse::<StreamId>().ok());
    let last = info.get("last-generated-id").and_then(id).unwrap_or_default();
    let first = match info.get("first-entry") {
        Some(Value::Array(entry)) => entry.first().and_then(id),
        _ => None,
    };
    Ok(Standing { last, first })
}

/// Reads a stream to its end. The first time there is nothing to read: the end is where we begin (D2: `$` is
/// resolved once, before clients are accepted).
async fn catch_up(
    shared: &Arc<Shared>,
    reader: &Client,
    stream: &Arc<Stream>,
    first: bool,
) -> Result<(), Error> {
    let standing = standing(reader, &stream.name).await?;
    let cursor = stream.feed.lock().cursor();
    if first {
        stream.feed.lock().move_to(standing.last);
        return Ok(());
    }
    if standing.last < cursor {
        // Redis has lost data and its clock is behind: what it stores next would be hidden from us.
        gap(shared, stream, "the stream is older than what was read of it");
        stream.feed.lock().move_to(standing.last);
    } else if standing.first.is_some_and(|first| first > cursor) && standing.last > cursor {
        // The oldest entry is newer than the last that we have read: what was between may be gone.
        gap(shared, stream, "the stream was trimmed or lost data past what was read of it");
    }
    loop {
        let entries = fetch(reader, stream, None).await?;
        if entries.is_empty() {
            break;
        }
        for (id, fields) in entries {
            shared.apply(stream, id, fields);
        }
    }
    let _delivery = stream.delivery.lock();
    let mut feed = stream.feed.lock();
    feed.caught_up();
    let lost = feed.take_lost();
    drop(feed);
    shared.deliver_late(lost);
    Ok(())
}

fn gap(shared: &Shared, stream: &Stream, what: &str) {
    shared.metrics.bus.gaps.inc();
    tracing::error!(stream = stream.name, what, "events of other nodes may be lost");
}

type RawEntry = (StreamId, HashMap<String, Bytes>);

async fn fetch(
    reader: &Client,
    stream: &Stream,
    block: Option<Duration>,
) -> Result<Vec<RawEntry>, Error> {
    let cursor = stream.feed.lock().cursor().to_string();
    let block = block.map(|block| block.as_millis() as u64);
    let reply = timed(reader.xread::<Value, _, _>(Some(READ_COUNT), block, &stream.name, cursor));
    parse_read(reply.await?)
}

/// `[[name, [[id, [field, value, ...]], ...]]]`, or a map of the same, or nil.
fn parse_read(reply: Value) -> Result<Vec<RawEntry>, Error> {
    let entries = match reply {
        Value::Null => return Ok(Vec::new()),
        Value::Array(mut streams) => match streams.pop() {
            None => return Ok(Vec::new()),
            Some(Value::Array(mut stream)) => stream.pop().unwrap_or(Value::Null),
            Some(other) => other,
        },
        Value::Map(map) => map.inner().into_values().next().unwrap_or(Value::Null),
        _ => return Err(malformed()),
    };
    let Value::Array(entries) = entries else { return Err(malformed()) };
    entries.into_iter().map(parse_entry).collect()
}

fn parse_entry(entry: Value) -> Result<RawEntry, Error> {
    let Value::Array(parts) = entry else { return Err(malformed()) };
    let mut parts = parts.into_iter();
    let id = parts.next().and_then(|id| id.as_str().and_then(|id| id.parse().ok()));
    let id: StreamId = id.ok_or_else(malformed)?;
    let mut fields = HashMap::with_capacity(5);
    match parts.next() {
        Some(Value::Array(list)) => {
            let mut list = list.into_iter();
            while let (Some(name), Some(value)) = (list.next(), list.next()) {
                let name = name.as_string().ok_or_else(malformed)?;
                fields.insert(name, value.into_bytes().ok_or_else(malformed)?);
            }
        }
        Some(Value::Map(map)) => {
            for (name, value) in map.inner() {
                let name = name.into_string().ok_or_else(malformed)?;
                fields.insert(name, value.into_bytes().ok_or_else(malformed)?);
            }
        }
        _ => {} // deleted meanwhile
    }
    Ok((id, fields))
}

fn malformed() -> Error {
    Error::new(ErrorKind::Protocol, "not the answer of XREAD")
}

/// Delivers what comes.
async fn read(shared: Weak<Shared>, reader: Client, stream: Arc<Stream>) -> Result<(), Error> {
    loop {
        let entries = fetch(&reader, &stream, Some(READ_BLOCK)).await?;
        let Some(shared) = shared.upgrade() else { return Ok(()) };
        if let Some((last, _)) = entries.last() {
            let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            let lag = (now.as_millis() as u64).saturating_sub(last.ms);
            shared.metrics.bus.lag_ms.set(lag as i64);
        }
        for (id, fields) in entries {
            shared.apply(&stream, id, fields);
        }
    }
}

/// Stores own messages, in order.
async fn store(shared: Weak<Shared>, writer: Client, stream: Arc<Stream>) -> Result<(), Error> {
    loop {
        let batch = stream.feed.lock().take_batch(STORE_BATCH);
        if batch.is_empty() {
            stream.to_store.notified().await;
            continue;
        }
        let Some(strong) = shared.upgrade() else { return Ok(()) };
        let max_len = strong.config.max_len;
        let metrics = strong.metrics.clone();
        drop(strong);
        let numbers: Vec<u64> = batch.iter().map(|(number, _)| *number).collect();
        match timed(append(&writer, &stream.name, max_len, batch)).await {
            Ok(ids) => {
                let mut feed = stream.feed.lock();
                for (number, id) in numbers.iter().zip(ids) {
                    feed.stored(*number, id);
                }
                metrics.bus.published.inc_by(numbers.len() as u64);
            }
            Err(error) if is_refusal(&error) => {
                stream.feed.lock().refused(&numbers);
                metrics.bus.refusals.inc();
                tracing::warn!(error = error.details(), "Redis refuses to store events");
                tokio::time::sleep(REFUSED_PAUSE).await;
            }
            Err(error) => return Err(error),
        }
    }
}

/// All or nothing, so that what is stored has no holes when Redis refuses a part.
async fn append(
    writer: &Client,
    stream: &str,
    max_len: u64,
    batch: Vec<(u64, Fields)>,
) -> Result<Vec<StreamId>, Error> {
    let transaction = writer.multi();
    for (_, fields) in batch {
        let cap = ("MAXLEN", "~", max_len as i64);
        let _: Value = transaction.xadd(stream, false, cap, "*", fields).await?;
    }
    let ids: Vec<String> = transaction.exec(true).await?;
    ids.iter().map(|id| id.parse().map_err(|_| malformed())).collect()
}

/// Did Redis say no, while the connection is fine? (A replica that refuses writes is the wrong server.)
fn is_refusal(error: &Error) -> bool {
    let details = error.details();
    ["OOM", "EXECABORT", "MISCONF", "BUSY"].iter().any(|code| details.starts_with(code))
}

// --- the channels

async fn subscribe(
    shared: &Shared,
    subscriber: &SubscriberClient,
    space: &Space,
) -> Result<(), Error> {
    let channels = vec![space.channels.public.clone(), space.channels.private.clone()];
    if shared.config.sharded_pubsub {
        for channel in channels {
            timed(subscriber.ssubscribe(channel)).await?;
        }
        Ok(())
    } else {
        timed(subscriber.subscribe(channels)).await
    }
}

async fn publish(
    shared: &Shared,
    writer: &Client,
    channel: &str,
    payload: Vec<u8>,
) -> Result<(), Error> {
    let payload = Bytes::from(payload);
    if shared.config.sharded_pubsub {
        timed(writer.spublish::<(), _, _>(channel, payload)).await
    } else {
        timed(writer.publish::<(), _, _>(channel, payload)).await
    }
}

/// Nodes that have the namespace, this one included (Node's `serverCount`).
async fn node_count(shared: &Shared, writer: &Client, channel: &str) -> Result<usize, Error> {
    let counts: HashMap<String, usize> = if shared.config.sharded_pubsub {
        timed(writer.pubsub_shardnumsub(channel)).await?
    } else {
        timed(writer.pubsub_numsub(channel)).await?
    };
    Ok(counts.values().sum())
}

/// Publishes requests and replies.
async fn post(
    shared: Weak<Shared>,
    mut posts: mpsc::UnboundedReceiver<Post>,
    writer: Client,
    subscriber: SubscriberClient,
) -> Result<(), Error> {
    while let Some(post) = posts.recv().await {
        let Some(strong) = shared.upgrade() else { return Ok(()) };
        match post {
            Post::Publish { channel, payload } => {
                publish(&strong, &writer, &channel, payload).await?;
            }
            Post::Subscribe(space) => subscribe(&strong, &subscriber, &space).await?,
            Post::Ask { space, payload, id, replies, counts_acks } => {
                let channel = &space.channels.public;
                let others = node_count(&strong, &writer, channel).await?.saturating_sub(1);
                if others == 0 {
                    continue; // dropping `replies` says so
                }
                strong.requests.begin(id.clone(), replies, others, counts_acks);
                publish(&strong, &writer, channel, payload).await?;
                tokio::spawn(census(shared.clone(), writer.clone(), channel.clone(), id));
            }
        }
    }
    Ok(())
}

/// While a request waits: nodes that are gone will not answer.
async fn census(shared: Weak<Shared>, writer: Client, channel: String, id: String) {
    loop {
        tokio::time::sleep(CENSUS).await;
        let Some(shared) = shared.upgrade() else { return };
        let Ok(count) = node_count(&shared, &writer, &channel).await else { return };
        if !shared.requests.limit(&id, count.saturating_sub(1)) {
            return;
        }
    }
}

/// Takes requests and replies from the channels.
async fn listen(
    shared: Weak<Shared>,
    mut messages: broadcast::Receiver<ChannelMessage>,
    writer: Client,
) -> Result<(), Error> {
    loop {
        let message = match messages.recv().await {
            Ok(message) => message,
            Err(broadcast::error::RecvError::Lagged(lost)) => {
                if let Some(shared) = shared.upgrade() {
                    shared.metrics.bus.requests_lost.inc_by(lost);
                }
                continue;
            }
            Err(broadcast::error::RecvError::Closed) => {
                return Err(Error::new(ErrorKind::IO, "the subscriber is gone"));
            }
        };
        let Some(strong) = shared.upgrade() else { return Ok(()) };
        let Some(space) = space_of(&strong, &message.channel) else { continue };
        let Some(payload) = message.value.into_bytes() else { continue };
        match Envelope::parse(&payload, &space.uid, strong.codec) {
            Ok(Some(envelope)) if envelope.nsp == space.nsp => {
                handle(&strong, &writer, &space, envelope);
            }
            Ok(_) => {} // our own, or not for this namespace
            Err(error) => {
                strong.metrics.bus.malformed.inc();
                tracing::warn!(%error, "a message of a channel cannot be read");
            }
        }
    }
}

fn space_of(shared: &Shared, channel: &str) -> Option<Arc<Space>> {
    let spaces = shared.spaces.read();
    let mine =
        |space: &&Arc<Space>| space.channels.public == channel || space.channels.private == channel;
    spaces.values().find(mine).cloned()
}

fn handle(shared: &Arc<Shared>, writer: &Client, space: &Arc<Space>, envelope: Envelope) {
    match envelope.kind {
        Kind::Reply { reply, request_id } => shared.requests.answer(&request_id, reply),
        Kind::Request { request, request_id } => {
            let (replies, receiver) = mpsc::unbounded_channel();
            for replica in space.live() {
                replica.answer(&request, replies.clone());
            }
            drop(replies);
            if let Some(id) = request_id {
                let asker =
                    wire::channels(&shared.config.channel_prefix, &space.nsp, &envelope.uid);
                let (shared, writer, space) = (shared.clone(), writer.clone(), space.clone());
                tokio::spawn(relay(shared, writer, space, receiver, asker.private, id));
            }
        }
    }
}

/// Sends the answers of this node to who asked.
async fn relay(
    shared: Arc<Shared>,
    writer: Client,
    space: Arc<Space>,
    mut replies: mpsc::UnboundedReceiver<Reply>,
    channel: String,
    id: String,
) {
    while let Some(reply) = replies.recv().await {
        let Ok(payload) = wire::reply_payload(&space.uid, &space.nsp, &id, &reply) else {
            continue;
        };
        if publish(&shared, &writer, &channel, payload).await.is_err() {
            return;
        }
    }
}

/// Ends when the subscriber's connection does, which no command of ours would notice.
async fn watch_connection(subscriber: SubscriberClient) -> Result<(), Error> {
    let mut errors = subscriber.error_rx();
    match errors.recv().await {
        Ok((error, _)) => Err(error),
        Err(_) => Err(Error::new(ErrorKind::IO, "the subscriber is gone")),
    }
}

async fn measure(shared: Weak<Shared>) -> Result<(), Error> {
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let Some(shared) = shared.upgrade() else { return Ok(()) };
        shared.measure();
    }
}
