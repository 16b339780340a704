//! One life of the connection to Redis: connect, catch up, run until something breaks, begin again.

use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime};

use fred::error::{Error, ErrorKind};
use fred::types::client::ClientKillFilter;
use fred::types::config::Server;
use fred::types::{Message as ChannelMessage, Value};
use futures_util::future::try_join_all;
use tokio::sync::{broadcast, mpsc};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::access::Access;
use super::channels::{Post, listen, post, subscribe};
use super::commands::is_answer;
use super::entries::{RawEntry, ReadCount, entry_id, malformed, parse_entry, parse_read};
use super::feed::Fields;
use super::lane::Lane;
use super::link::{Connection, Link, SharedLink, connect_to};
use super::position::Standing;
use super::servers::{self, Servers, Watch};
use super::{Shared, Start, Stream};
use crate::cluster::wire::StreamId;
use crate::fanout::turn;
use crate::random::random;

/// Entries stored in one transaction. There is one at a time, so this is what a slow Redis takes in a round trip.
const STORE_BATCH: usize = 1024;
/// How long one read waits at Redis (Node's adapter: 5 s).
const READ_BLOCK: Duration = Duration::from_secs(5);
/// Requests and replies that may wait to be published.
const POSTS: usize = 16 * 1024;
/// How often Redis is asked how many entries there were.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// How often Sentinel, or the cluster, is asked who serves.
const WATCH_EVERY: Duration = Duration::from_millis(500);
/// How long a server that serves no more may take to end a connection of ours.
const END_ELSEWHERE: Duration = Duration::from_millis(500);
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
    let mut before = Before::default();
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
        let mut worked = false;
        let result = match Epoch::begin(&strong, &mut before).await {
            Ok(epoch) => {
                worked = true;
                tracing::info!("connected to Redis");
                strong.started.send_replace(Start::Done);
                drop(strong); // the bus ends when nobody else holds it
                epoch.run(&shared).await
            }
            Err(error) => {
                strong.tell_of_start(&error);
                Err(error)
            }
        };
        if let Err(error) = result
            && !*closing.borrow()
        {
            tracing::warn!(error = error.details(), "no connection to Redis");
        }
        // What worked for longer than the pause that would follow is no attempt that failed. Otherwise a Redis that
        // is restarted three times keeps its nodes away for seconds, though it is there.
        let least = if worked { backoff } else { BACKOFF_MAX };
        if begun.elapsed() > least {
            backoff = BACKOFF_FIRST;
        }
        let _ = tokio::time::timeout(jittered(backoff), closing.wait_for(|closing| *closing)).await;
        backoff = (backoff * 2).min(BACKOFF_MAX);
    }
}

/// Half of the time to one and a half of it, so that the nodes of a cluster do not come back all at once.
fn jittered(backoff: Duration) -> Duration {
    backoff.mul_f64(0.5 + random::<f64>())
}

/// A connection that wrote, as its server knows it.
type OldWriter = (Server, Vec<ClientKillFilter>);

/// What an epoch has to know of the one before it.
#[derive(Default)]
struct Before {
    writers: Vec<OldWriter>,
    servers: Option<Servers>,
}

/// The connections for one stream.
struct Lanes {
    stream: Arc<Stream>,
    server: Server,
    reader: Lane,
    writer: Lane,
}

/// The connections of one epoch.
struct Epoch {
    link: SharedLink,
    lanes: Vec<Lanes>,
    messages: Vec<broadcast::Receiver<ChannelMessage>>,
    posts: mpsc::Receiver<Post>,
}

impl Epoch {
    /// Connects, makes sure that the last epoch can store nothing more, and reads every stream to its end.
    async fn begin(shared: &Arc<Shared>, before: &mut Before) -> Result<Self, Error> {
        let access = &shared.access;
        access.refresh()?;
        let servers = servers::find(access, before.servers.as_ref()).await?;
        let keys: Vec<_> = shared.streams.iter().map(|stream| stream.name.as_str()).collect();
        let sharded = shared.config.sharded_pubsub;
        let mut link = Link::open(access, servers.clone(), &keys, sharded).await?;
        let lanes = shared.streams.iter().map(|stream| async {
            let server = servers.owner(&stream.name)?.clone();
            let open = || Lane::open(access.to_server(&server));
            let (reader, writer) = tokio::try_join!(open(), open())?;
            Ok::<_, Error>(Lanes { stream: stream.clone(), server, reader, writer })
        });
        // all at once: a new epoch has to begin soon where Redis is slow, too
        let (messages, mut lanes) =
            tokio::try_join!(link.open_channels(access), try_join_all(lanes))?;
        // What the old connections had sent may still lie in Redis' socket. Nothing of it may be stored after
        // we have looked what was stored.
        let ending = end_writers(access, &link, &before.writers);
        let ((), writers) = tokio::try_join!(ending, writers_of(&link, &mut lanes))?;
        before.writers = writers;
        let elsewhere = before.servers.as_ref().is_some_and(|old| *old != servers);
        let first = !shared.started.borrow().is_done();
        try_join_all(
            lanes
                .iter_mut()
                .map(|lanes| catch_up(shared, &mut lanes.reader, &lanes.stream, first, elsewhere)),
        )
        .await?;
        before.servers = Some(servers);
        let (sender, posts) = mpsc::channel(POSTS);
        // from here on namespaces come and go by posts; those that are there are announced now
        *shared.channels.lock() = Some(sender.clone());
        shared.post(Post::Left); // whoever is gone by then
        let spaces: Vec<_> = shared.spaces.read().values().cloned().collect();
        for space in spaces {
            subscribe(&link, &space).await?;
        }
        link.subscribed().await?;
        let link = Arc::new(link);
        shared.sessions.set_link(Some(link.clone()));
        shared.set_connected(true);
        Ok(Self { link, lanes, messages, posts })
    }

    /// Runs until anything breaks, or the bus is closed and everything published.
    async fn run(self, weak: &Weak<Shared>) -> Result<(), Error> {
        let mut tasks: JoinSet<Result<(), Error>> = JoinSet::new();
        let link = self.link;
        for Lanes { stream, reader, writer, .. } in self.lanes {
            tasks.spawn(store(weak.clone(), writer, stream.clone()));
            tasks.spawn(read(weak.clone(), reader, stream));
        }
        for messages in self.messages {
            tasks.spawn(listen(weak.clone(), messages, link.clone()));
        }
        tasks.spawn(post(weak.clone(), self.posts, link.clone()));
        let watched = link.clone();
        tasks.spawn(async move { Err(watched.ended().await) });
        tasks.spawn(watch_servers(weak.clone(), link.servers.clone()));
        tasks.spawn(watch_others(weak.clone(), link.clone()));
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
        link.close().await;
        match result {
            Some(Ok(result)) => result,
            _ => Err(Error::new(ErrorKind::Unknown, "a task of the bus ended")),
        }
    }
}

async fn writers_of(link: &Link, lanes: &mut [Lanes]) -> Result<Vec<OldWriter>, Error> {
    let mut writers = Vec::new();
    for lanes in lanes {
        if let Some(filters) = filters_of(lanes.writer.client_info().await)? {
            writers.push((lanes.server.clone(), filters));
        }
    }
    for (server, writer) in link.writers() {
        if let Some(filters) = filters_of(writer.ask(writer.client_info()).await)? {
            writers.push((server.clone(), filters));
        }
    }
    Ok(writers)
}

/// Ends the connections of the last epoch, each on its server.
async fn end_writers(access: &Access, link: &Link, old: &[OldWriter]) -> Result<(), Error> {
    for (server, filters) in old {
        if let Some((_, writer)) = link.writers().find(|(known, _)| *known == server) {
            end_writer(writer, filters.clone()).await?;
            continue;
        }
        // It serves no more, and what it still stores is thrown away when it learns of that. Where keys were
        // moved away from it in peace, it does not take them any more. So this is only to be tidy.
        let ending = async {
            let writer = connect_to(access.to_server(server)).await?;
            end_writer(&writer, filters.clone()).await
        };
        let _ = tokio::time::timeout(END_ELSEWHERE, ending).await;
    }
    Ok(())
}

/// What names a connection beyond doubt. A number alone does not: after a restart Redis gives it to another
/// node. `None` if Redis does not tell.
fn filters_of(info: Result<String, Error>) -> Result<Option<Vec<ClientKillFilter>>, Error> {
    let info = match info {
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

async fn end_writer(writer: &Connection, old: Vec<ClientKillFilter>) -> Result<(), Error> {
    match writer.ask(writer.client_kill(old)).await {
        Err(error) if is_answer(&error) => {
            tracing::warn!(error = error.details(), "cannot end the old connection to Redis");
            Ok(())
        }
        result => result.map(drop),
    }
}

// --- the streams

async fn standing(reader: &mut Lane, name: &str) -> Result<Standing, Error> {
    let info = match reader.xinfo(name).await {
        Ok(info) => info,
        Err(error) if error.details().contains("no such key") => {
            return Ok(Standing { added: Some(0), ..Standing::default() });
        }
        Err(error) => return Err(error),
    };
    let last = info.get("last-generated-id").and_then(entry_id).unwrap_or_default();
    let first = match info.get("first-entry") {
        Some(Value::Array(entry)) => entry.first().and_then(entry_id),
        _ => None,
    };
    let added = info.get("entries-added").and_then(Value::as_u64);
    Ok(Standing { last, first, added })
}

/// Reads a stream to its end. The first time there is nothing to read: the end is where we begin (D2: `$` is
/// resolved once, before clients are accepted).
async fn catch_up(
    shared: &Arc<Shared>,
    reader: &mut Lane,
    stream: &Arc<Stream>,
    first: bool,
    elsewhere: bool,
) -> Result<(), Error> {
    let mut standing = standing(reader, &stream.name).await?;
    if first {
        if stream.delivered.remembers() && standing.last == StreamId::default() {
            standing = found(shared, reader, stream).await?;
        }
        if stream.delivered.remembers() {
            fill(reader, stream, standing).await?;
        }
        stream.feed.lock().position().begin(standing);
        stream.delivered.begin(standing.last);
        return Ok(());
    }
    stream.feed.lock().resume(standing, elsewhere);
    let mut count = ReadCount::default();
    // nothing of ours can come after that
    while stream.feed.lock().cursor() < standing.last {
        let entries = fetch(reader, stream, &mut count, None).await?;
        if entries.is_empty() {
            break; // the last one was deleted
        }
        for (id, fields) in entries {
            shared.apply(stream, id, fields);
        }
    }
    let delivery = stream.delivery.lock();
    let mut feed = stream.feed.lock();
    feed.position().at_end();
    feed.caught_up(standing);
    let lost = feed.take_lost();
    drop(feed);
    shared.deliver_late(stream, lost);
    drop(delivery);
    if elsewhere {
        // two servers may have taken entries: what is in the stream is not what was delivered
        shared.forget_past(stream);
    }
    shared.count_gap(stream);
    Ok(())
}

/// Makes the stream, so that there is a position in it for sessions to begin at. The entry has no namespace,
/// which every reader skips.
async fn found(shared: &Shared, reader: &mut Lane, stream: &Stream) -> Result<Standing, Error> {
    let fields = vec![("uid", shared.node.clone()), ("type", "0".into())];
    reader.xadd(&stream.name, fields).await?;
    standing(reader, &stream.name).await
}

/// Reads what is in the stream, for clients that come from other nodes. No more of it is in memory at a time than what
/// is remembered, and one read.
async fn fill(reader: &mut Lane, stream: &Stream, standing: Standing) -> Result<(), Error> {
    let start = standing.first.map_or(standing.last, StreamId::before);
    let mut filling = stream.delivered.fill(start);
    let (mut from, mut count) = (start, ReadCount::default());
    while from < standing.last {
        let range = (format!("({from}"), standing.last.to_string());
        let reply = reader.xrange(&stream.name, range.0, range.1, count.0 as u64);
        let Value::Array(read) = reply.await? else { break };
        let entries: Vec<_> = read.into_iter().map(parse_entry).collect::<Result<_, _>>()?;
        let Some((last, _)) = entries.last() else { break };
        from = *last;
        count.learn(&entries);
        for (id, fields) in entries {
            filling.add(id, fields);
        }
    }
    // what was dropped between two reads; what is there now was there all the time
    let now = self::standing(reader, &stream.name).await?;
    filling.end(now.first.map_or(now.last, StreamId::before));
    Ok(())
}

/// Entries whose deliveries are written together: enough that a peer which gets them all gets one `write`, and
/// few enough that the first does not wait for long.
const TURN: usize = 16;

async fn fetch(
    reader: &mut Lane,
    stream: &Stream,
    count: &mut ReadCount,
    block: Option<Duration>,
) -> Result<Vec<RawEntry>, Error> {
    let cursor = stream.feed.lock().cursor();
    let reply = reader.xread(&stream.name, cursor, count.0 as u64, block).await?;
    let entries = parse_read(reply)?;
    count.learn(&entries);
    Ok(entries)
}

/// Delivers what comes.
async fn read(shared: Weak<Shared>, mut reader: Lane, stream: Arc<Stream>) -> Result<(), Error> {
    let (mut looked, mut count) = (Instant::now(), ReadCount::default());
    loop {
        if looked.elapsed() > LOOK_EVERY {
            // on the connection that reads, so that the reader is never ahead of what it says
            let standing = standing(&mut reader, &stream.name).await?;
            stream.feed.lock().position().expect(standing);
            looked = Instant::now();
        }
        let entries = fetch(&mut reader, &stream, &mut count, Some(READ_BLOCK)).await?;
        let Some(shared) = shared.upgrade() else { return Ok(()) };
        if let Some((last, _)) = entries.last() {
            let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            let lag = (now.as_millis() as u64).saturating_sub(last.ms);
            shared.metrics.bus.lag_ms.set(lag as i64);
        } else {
            stream.feed.lock().position().at_end();
        }
        let mut entries = entries.into_iter().peekable();
        while entries.peek().is_some() {
            turn(|| {
                for (id, fields) in entries.by_ref().take(TURN) {
                    shared.apply(&stream, id, fields);
                }
            });
        }
        shared.count_gap(&stream);
    }
}

/// Stores own messages, in order.
async fn store(shared: Weak<Shared>, mut writer: Lane, stream: Arc<Stream>) -> Result<(), Error> {
    loop {
        let batch = stream.feed.lock().take_batch(STORE_BATCH);
        if batch.is_empty() {
            tokio::select! {
                biased;
                () = stream.to_store.notified() => continue,
                error = writer.ended() => return Err(error),
            }
        }
        let Some(strong) = shared.upgrade() else { return Ok(()) };
        let max_len = strong.config.max_len;
        let metrics = strong.metrics.clone();
        drop(strong);
        let numbers: Vec<u64> = batch.iter().map(|(number, _)| *number).collect();
        match append(&mut writer, &stream.name, max_len, batch).await {
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
    writer: &mut Lane,
    stream: &str,
    max_len: u64,
    batch: Vec<(u64, Fields)>,
) -> Result<Vec<StreamId>, Error> {
    let entries = batch.into_iter().map(|(_, fields)| fields).collect();
    let Value::Array(ids) = writer.append(stream, max_len, entries).await? else {
        return Err(malformed());
    };
    ids.iter().map(|id| entry_id(id).ok_or_else(malformed)).collect()
}

/// Did Redis say no, while the connection is fine? (A replica that refuses writes is the wrong server.)
fn is_refusal(error: &Error) -> bool {
    let details = error.details();
    let codes = ["OOM", "EXECABORT", "MISCONF", "BUSY", "NOREPLICAS", "NOPERM"];
    codes.iter().any(|code| details.starts_with(code))
}

/// Ends when other servers serve, which connections to the old ones need not notice: a master that was replaced
/// on purpose goes on taking writes for some seconds, and all of them are lost.
async fn watch_servers(shared: Weak<Shared>, servers: Servers) -> Result<(), Error> {
    let mut watch = Watch::new(servers);
    loop {
        tokio::time::sleep(WATCH_EVERY).await;
        let Some(shared) = shared.upgrade() else { return Ok(()) };
        if !Watch::is_needed(&shared.access) {
            return std::future::pending().await;
        }
        watch.look(&shared.access).await?;
    }
}

/// Ends when a server of a cluster is back that this epoch goes without. While it is gone it is not waited for.
async fn watch_others(shared: Weak<Shared>, link: SharedLink) -> Result<(), Error> {
    loop {
        tokio::time::sleep(WATCH_EVERY).await;
        let Some(shared) = shared.upgrade() else { return Ok(()) };
        if link.has_more(&shared.access).await {
            return Err(Error::new(ErrorKind::Cluster, "another server is back"));
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_differ_within_half_of_the_backoff_to_one_and_a_half_of_it() {
        let pauses: Vec<_> = (0..1_000).map(|_| jittered(BACKOFF_MAX)).collect();
        let (least, most) = (pauses.iter().min().unwrap(), pauses.iter().max().unwrap());
        assert!(*least >= BACKOFF_MAX / 2 && *most <= BACKOFF_MAX * 3 / 2, "{least:?} {most:?}");
        assert!(*most - *least > BACKOFF_MAX / 2, "no jitter: {least:?} to {most:?}");
    }
}
