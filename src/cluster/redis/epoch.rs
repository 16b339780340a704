//! One life of the connection to Redis: connect, catch up, run until something breaks, begin again.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use fred::clients::{Client, SubscriberClient};
use fred::error::{Error, ErrorKind};
use fred::interfaces::{
    ClientInterface, ClientLike, EventInterface, StreamsInterface, TransactionInterface,
};
use fred::types::client::ClientKillFilter;
use fred::types::config::ConnectionConfig;
use fred::types::{Builder, Message as ChannelMessage, Value};
use tokio::sync::{broadcast, mpsc};
use tokio::task::JoinSet;

use super::channels::{listen, post, subscribe};
use super::feed::Fields;
use super::{Post, Shared, Stream};
use crate::cluster::wire::StreamId;

/// Entries stored in one transaction.
const STORE_BATCH: usize = 128;
/// Entries read at a time (Node's adapter: 100).
const READ_COUNT: u64 = 500;
/// How long one read waits at Redis (Node's adapter: 5 s).
const READ_BLOCK: Duration = Duration::from_secs(5);
/// A command that takes longer says that the connection is dead.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(4);
/// The same for a new connection. `fred` does not notice when one is cut during its first commands.
const INIT_TIMEOUT: Duration = Duration::from_secs(2);
/// Messages of channels that may wait for us to look at them.
const CHANNEL_CAPACITY: usize = 16 * 1024;
/// How often a node that leaves looks whether everything is published.
const LEAVE_POLL: Duration = Duration::from_millis(5);
/// Pauses between attempts to connect.
const BACKOFF_FIRST: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_secs(2);
/// Pause after Redis refused to store something (out of memory).
const REFUSED_PAUSE: Duration = Duration::from_millis(200);

/// Keeps a connection as long as the bus lives.
pub(super) async fn run(shared: Weak<Shared>) {
    let mut backoff = BACKOFF_FIRST;
    let mut old_writer = None;
    let Some(mut closing) = shared.upgrade().map(|shared| shared.closing.subscribe()) else {
        return;
    };
    loop {
        let Some(strong) = shared.upgrade() else { return };
        if *closing.borrow() {
            strong.closed.send_replace(true);
            return;
        }
        let begun = Instant::now();
        let result = match Epoch::begin(&strong, &mut old_writer).await {
            Ok(epoch) => {
                tracing::info!("connected to Redis");
                strong.started.send_replace(true);
                drop(strong); // the bus ends when nobody else holds it
                epoch.run(&shared).await
            }
            Err(error) => Err(error),
        };
        if let Err(error) = result
            && !*closing.borrow()
        {
            tracing::warn!(error = error.details(), "no connection to Redis");
        }
        if begun.elapsed() > BACKOFF_MAX {
            backoff = BACKOFF_FIRST; // it had worked
        }
        // jitter, so that the nodes of a cluster do not come back all at once
        let pause = backoff.mul_f64(rand::random_range(0.5..1.5));
        let _ = tokio::time::timeout(pause, closing.wait_for(|closing| *closing)).await;
        backoff = (backoff * 2).min(BACKOFF_MAX);
    }
}

/// The connections of one epoch.
struct Epoch {
    writer: Client,
    readers: Vec<(Client, Arc<Stream>)>,
    subscriber: SubscriberClient,
    messages: broadcast::Receiver<ChannelMessage>,
    posts: mpsc::Receiver<Post>,
}

impl Epoch {
    /// Connects, makes sure that the last epoch can store nothing more, and reads every stream to its end.
    async fn begin(
        shared: &Arc<Shared>,
        old_writer: &mut Option<Vec<ClientKillFilter>>,
    ) -> Result<Self, Error> {
        let writer = connect(shared).await?;
        // What the old connection had sent may still lie in Redis' socket. Nothing of it may be stored after
        // we have looked what was stored.
        if let Some(old) = old_writer.clone() {
            end_writer(&writer, old).await?;
        }
        *old_writer = filters_of(&writer).await?;
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
        let (sender, posts) = mpsc::channel(CHANNEL_CAPACITY);
        // from here on new namespaces announce themselves; those that are there are announced now
        *shared.channels.lock() = Some(sender.clone());
        let spaces: Vec<_> = shared.spaces.read().values().cloned().collect();
        for space in spaces {
            subscribe(shared, &subscriber, &space).await?;
        }
        shared.set_connected(true);
        Ok(Self { writer, readers, subscriber, messages, posts })
    }

    /// Runs until anything breaks, or the bus is closed and everything published.
    async fn run(self, weak: &Weak<Shared>) -> Result<(), Error> {
        let mut tasks: JoinSet<Result<(), Error>> = JoinSet::new();
        for (reader, stream) in self.readers {
            let (writer, storing) = (self.writer.clone(), stream.clone());
            tasks.spawn(store(weak.clone(), writer, storing));
            tasks.spawn(read(weak.clone(), reader, stream));
        }
        tasks.spawn(listen(weak.clone(), self.messages, self.writer.clone()));
        tasks.spawn(post(weak.clone(), self.posts, self.writer.clone(), self.subscriber.clone()));
        tasks.spawn(watch_connection(self.subscriber.clone()));
        tasks.spawn(measure(weak.clone()));
        tasks.spawn(leave(weak.clone()));
        let result = tasks.join_next().await;
        if let Some(shared) = weak.upgrade() {
            shared.set_connected(false);
        }
        tasks.shutdown().await;
        if let Some(shared) = weak.upgrade() {
            shared.requests.fail_all(); // those that began while the tasks ended
            if !*shared.closing.borrow() {
                shared.metrics.bus.reconnects.inc();
            }
        }
        let _ = tokio::time::timeout(Duration::from_millis(100), self.writer.quit()).await;
        let _ = tokio::time::timeout(Duration::from_millis(100), self.subscriber.quit()).await;
        match result {
            Some(Ok(result)) => result,
            _ => Err(Error::new(ErrorKind::Unknown, "a task of the bus ended")),
        }
    }
}

/// What names a connection beyond doubt. A number alone does not: after a restart Redis gives it to another
/// node. `None` if Redis does not tell.
async fn filters_of(writer: &Client) -> Result<Option<Vec<ClientKillFilter>>, Error> {
    let info: String = match timed(writer.client_info()).await {
        Ok(info) => info,
        Err(error) if is_answer(&error) => return Ok(None),
        Err(error) => return Err(error),
    };
    let field = |name: &str| {
        let mut fields = info.split_whitespace().filter_map(|field| field.split_once('='));
        fields.find(|(key, _)| *key == name).map(|(_, value)| value.to_owned())
    };
    Ok(field("id")
        .zip(field("addr"))
        .map(|(id, address)| vec![ClientKillFilter::ID(id), ClientKillFilter::Addr(address)]))
}

async fn end_writer(writer: &Client, old: Vec<ClientKillFilter>) -> Result<(), Error> {
    match timed(writer.client_kill::<Value>(old)).await {
        Err(error) if is_answer(&error) => {
            tracing::warn!(error = error.details(), "cannot end the old connection to Redis");
            Ok(())
        }
        result => result.map(drop),
    }
}

/// Has Redis said no? Otherwise the connection is in doubt.
fn is_answer(error: &Error) -> bool {
    !matches!(error.kind(), ErrorKind::IO | ErrorKind::Timeout | ErrorKind::Canceled)
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
    timed_for(INIT_TIMEOUT, async { client.init().await.map(drop) }).await
}

pub(super) async fn timed<T>(command: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    timed_for(COMMAND_TIMEOUT, command).await
}

async fn timed_for<T>(
    time: Duration,
    command: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    match tokio::time::timeout(time, command).await {
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
    } else if cursor != StreamId::default() && standing.first.is_some_and(|first| first > cursor) {
        // The oldest entry is newer than the last that we have read: what was between may be gone. (Nothing
        // was read of a stream that was empty.)
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
    let time = COMMAND_TIMEOUT + block.unwrap_or_default();
    let block = block.map(|block| block.as_millis() as u64);
    let reply = reader.xread::<Value, _, _>(Some(READ_COUNT), block, &stream.name, cursor);
    let reply = timed_for(time, reply);
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

/// Ends when the subscriber's connection does, which no command of ours would notice.
async fn watch_connection(subscriber: SubscriberClient) -> Result<(), Error> {
    let mut errors = subscriber.error_rx();
    match errors.recv().await {
        Ok((error, _)) => Err(error),
        Err(_) => Err(Error::new(ErrorKind::IO, "the subscriber is gone")),
    }
}

/// Ends when the bus is closed and all that it accepted is published.
async fn leave(shared: Weak<Shared>) -> Result<(), Error> {
    let Some(mut closing) = shared.upgrade().map(|shared| shared.closing.subscribe()) else {
        return Ok(());
    };
    // an error says that the bus is gone
    let _ = closing.wait_for(|closing| *closing).await;
    while shared.upgrade().is_some_and(|shared| !shared.is_idle()) {
        tokio::time::sleep(LEAVE_POLL).await;
    }
    Ok(())
}

async fn measure(shared: Weak<Shared>) -> Result<(), Error> {
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let Some(shared) = shared.upgrade() else { return Ok(()) };
        shared.measure();
    }
}
