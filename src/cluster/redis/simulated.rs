//! A Redis for tests that lives in one thread and in virtual time: streams, keys that expire, the scripts of
//! [`super::sessions`], channels; and the wires by which nodes reach it, which are slow, are held up, lose
//! replies and break.
//!
//! What is like the real one matters as much as what is like a bad network: commands of one connection are
//! carried out in order; what a client had sent before its connection broke may be carried out after that;
//! a subscriber that is gone is counted until its connection ends.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use fred::error::{Error, ErrorKind};
use fred::types::client::ClientKillFilter;
use fred::types::config::{Config as ClientConfig, Server};
use fred::types::{ConnectHandle, Message as ChannelMessage, MessageKind, Value};
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::sync::{broadcast, mpsc, oneshot};
use tokio::time::{Instant, sleep_until, timeout};

use super::feed::Fields;
pub(crate) use super::watched::Watched;

mod data;
#[cfg(test)]
mod tests;

use self::data::Data;
pub(crate) use self::data::Stored;

/// How long connecting to nobody takes.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a connection whose peer is gone without a word lives on.
const LINGER: Duration = Duration::from_secs(20);
const CHANNEL: usize = 4096;

thread_local! {
    static HOSTS: RefCell<HashMap<String, Arc<Wire>>> = RefCell::new(HashMap::new());
}

/// A command as it travels.
#[derive(Clone, Debug)]
pub(super) enum Command {
    ClientInfo,
    ClientKill(Vec<ClientKillFilter>),
    XInfo(String),
    XRange { key: String, start: String, end: String, count: u64 },
    XRead { key: String, after: String, count: u64, block: Option<Duration> },
    XAdd { key: String, max: Option<u64>, entries: Vec<Fields> },
    Get(String),
    HmGet(String, &'static [&'static str]),
    Eval { script: String, keys: Vec<String>, arguments: Vec<String> },
    Publish(String, Bytes),
    NumSub(String),
    Subscribe(Vec<String>),
    Unsubscribe(Vec<String>),
    Unknown,
}

type Answer = Result<Value, Error>;

/// The server.
pub(crate) struct Redis {
    data: Mutex<Data>,
    /// Counts what was appended, to wake those who wait for it.
    appended: Watched<u64>,
    serving: Watched<Serving>,
    connections: Mutex<BTreeMap<u64, Arc<Connection>>>,
    ids: AtomicU64,
    /// What a restart may come back with.
    saved: Mutex<Option<Data>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Serving {
    Yes,
    /// It hangs: connections stay, nothing is answered.
    Paused,
    /// The process is gone.
    Stopped,
}

/// What a restart loses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Loss {
    Nothing,
    /// What came after [`Redis::save`].
    Unsaved,
    Everything,
}

/// How one node reaches Redis.
pub(crate) struct Wire {
    redis: Arc<Redis>,
    host: String,
    random: Mutex<StdRng>,
    state: Watched<Passes>,
    delay: Mutex<(Duration, Duration)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Passes {
    All,
    /// Nothing gets through now.
    Nothing,
    /// The node is gone.
    Never,
}

struct Connection {
    id: u64,
    wire: Arc<Wire>,
    /// The server has ended it.
    closed: Watched<bool>,
    /// The client knows that it ended.
    ended: Watched<bool>,
    channels: Mutex<BTreeSet<String>>,
    back: mpsc::UnboundedSender<(Instant, Back)>,
    last_back: Mutex<Instant>,
}

enum Back {
    Answer(Answer, oneshot::Sender<Answer>),
    Message(ChannelMessage),
}

enum Request {
    Command(Instant, Command, oneshot::Sender<Answer>),
    End(Instant),
}

/// The client's end of a connection.
#[derive(Clone)]
pub(super) struct Port {
    connection: Arc<Connection>,
    requests: mpsc::UnboundedSender<Request>,
    last: Arc<Mutex<Instant>>,
    messages: broadcast::Sender<ChannelMessage>,
}

fn broken(what: &'static str) -> Error {
    Error::new(ErrorKind::IO, what)
}

/// Connects, if that server is a simulated one.
pub(super) fn dial(
    config: &ClientConfig,
) -> Option<impl Future<Output = Result<(Port, ConnectHandle), Error>> + Send + use<>> {
    let host = config.server.hosts().first()?.host.to_string();
    let wire = HOSTS.with_borrow(|hosts| hosts.get(&host).cloned())?;
    Some(async move { wire.connect().await })
}

impl Redis {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            data: Mutex::new(Data::new()),
            appended: Watched::new(0),
            serving: Watched::new(Serving::Yes),
            connections: Mutex::default(),
            ids: AtomicU64::new(1),
            saved: Mutex::default(),
        })
    }

    /// A way to here for the node that connects to `host`.
    pub(crate) fn wire(self: &Arc<Self>, host: &str, seed: u64) -> Arc<Wire> {
        let wire = Arc::new(Wire {
            redis: self.clone(),
            host: host.to_owned(),
            random: Mutex::new(StdRng::seed_from_u64(seed)),
            state: Watched::new(Passes::All),
            delay: Mutex::new((Duration::from_micros(200), Duration::from_millis(3))),
        });
        HOSTS.with_borrow_mut(|hosts| hosts.insert(host.to_owned(), wire.clone()));
        wire
    }

    /// Nobody reaches it any more, nor remembers it.
    pub(crate) fn dismantle(&self) {
        HOSTS.with_borrow_mut(|hosts| hosts.retain(|_, wire| !std::ptr::eq(&*wire.redis, self)));
        self.connections.lock().clear();
    }

    /// Every entry that was ever appended, in order.
    pub(crate) fn history(&self) -> Vec<Stored> {
        self.data.lock().history().to_vec()
    }

    /// When and what was stored under a key.
    pub(crate) fn writes(&self, key: &str) -> Vec<(Instant, Bytes)> {
        self.data.lock().writes(key)
    }

    pub(crate) fn pause(&self, paused: bool) {
        self.serving.set(if paused { Serving::Paused } else { Serving::Yes });
    }

    /// Writes to the disk.
    pub(crate) fn save(&self) {
        *self.saved.lock() = Some(self.data.lock().clone());
    }

    pub(crate) fn stop(&self) {
        self.serving.set(Serving::Stopped);
        let all: Vec<_> = self.connections.lock().values().cloned().collect();
        for connection in all {
            connection.closed.set(true);
            let told = connection.clone();
            tokio::spawn(async move {
                told.wire.delay().await;
                told.wire.passable().await;
                told.ended.set(true);
            });
        }
    }

    pub(crate) fn start(&self, loss: Loss) {
        let mut data = self.data.lock();
        match loss {
            Loss::Nothing => {}
            Loss::Unsaved => data.go_back(self.saved.lock().take().unwrap_or_else(Data::new)),
            Loss::Everything => data.go_back(Data::new()),
        }
        drop(data);
        self.serving.set(Serving::Yes);
    }

    async fn execute(&self, connection: &Connection, command: Command) -> Answer {
        match command {
            Command::ClientInfo => {
                let (id, host) = (connection.id, &connection.wire.host);
                Ok(Value::from(format!("id={id} addr={host}:{id} name=")))
            }
            Command::ClientKill(filters) => {
                self.kill(&filters);
                Ok(Value::Integer(1))
            }
            Command::XRead { key, after, count, block } => {
                let read = async {
                    loop {
                        let before = self.appended.value();
                        let found = self.data.lock().read(&key, &after, count)?;
                        if !found.is_null() || block.is_none() {
                            return Ok(found);
                        }
                        self.appended.wait_for(|now| *now != before).await;
                    }
                };
                let wait = block.unwrap_or(Duration::from_secs(1));
                timeout(wait, read).await.unwrap_or(Ok(Value::Null))
            }
            Command::XAdd { key, max, entries } => {
                let ids = self.data.lock().append(&key, max, entries);
                self.appended.set(self.appended.value() + 1);
                Ok(Value::Array(ids))
            }
            Command::Publish(channel, payload) => {
                let mut all: Vec<_> = self.connections.lock().values().cloned().collect();
                all.retain(|connection| connection.channels.lock().contains(&channel));
                all.iter().for_each(|connection| connection.push(&channel, &payload));
                Ok(Value::Integer(all.len() as i64))
            }
            Command::NumSub(channel) => {
                let all = self.connections.lock();
                let has = |one: &&Arc<Connection>| one.channels.lock().contains(&channel);
                let count = all.values().filter(has).count() as i64;
                Ok(Value::Array(vec![channel.as_str().into(), Value::Integer(count)]))
            }
            Command::Subscribe(channels) => {
                connection.channels.lock().extend(channels);
                Ok(Value::Null)
            }
            Command::Unsubscribe(channels) => {
                connection.channels.lock().retain(|channel| !channels.contains(channel));
                Ok(Value::Null)
            }
            other => self.data.lock().execute(other),
        }
    }

    fn kill(&self, filters: &[ClientKillFilter]) {
        let id = filters.iter().find_map(|filter| match filter {
            ClientKillFilter::ID(id) => id.parse::<u64>().ok(),
            _ => None,
        });
        let found = id.and_then(|id| self.connections.lock().get(&id).cloned());
        if let Some(connection) = found {
            connection.closed.set(true);
            connection.ended.set(true);
        }
    }
}

impl Wire {
    /// How long each way takes.
    pub(crate) fn set_delay(&self, least: Duration, most: Duration) {
        *self.delay.lock() = (least, most);
    }

    /// Nothing passes for now, and nothing is lost.
    pub(crate) fn hold(&self, held: bool) {
        if self.state.value() != Passes::Never {
            self.state.set(if held { Passes::Nothing } else { Passes::All });
        }
    }

    /// Every connection breaks. What was sent may still arrive.
    pub(crate) fn reset(&self) {
        for connection in self.connections() {
            connection.ended.set(true);
            let late = self.random.lock().random_range(0..2_000);
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_millis(late)).await;
                connection.closed.set(true);
            });
        }
    }

    /// The node is gone: its process only, or the machine, without a word.
    pub(crate) fn die(&self, silently: bool) {
        self.state.set(Passes::Never);
        for connection in self.connections() {
            connection.ended.set(true);
            let linger = if silently { LINGER } else { Duration::from_millis(5) };
            tokio::spawn(async move {
                tokio::time::sleep(linger).await;
                connection.closed.set(true);
            });
        }
    }

    fn connections(&self) -> Vec<Arc<Connection>> {
        let all = self.redis.connections.lock();
        all.values().filter(|one| one.wire.host == self.host).cloned().collect()
    }

    fn draw(&self) -> Duration {
        let (least, most) = *self.delay.lock();
        self.random.lock().random_range(least..=most)
    }

    async fn delay(&self) {
        let delay = self.draw();
        tokio::time::sleep(delay).await;
    }

    async fn passable(&self) {
        self.state.wait_for(|state| *state == Passes::All).await;
    }

    async fn connect(self: Arc<Self>) -> Result<(Port, ConnectHandle), Error> {
        let redis = self.redis.clone();
        let there = async {
            self.delay().await;
            self.passable().await;
            self.delay().await;
        };
        if timeout(CONNECT_TIMEOUT, there).await.is_err() {
            return Err(Error::new(ErrorKind::Timeout, "nobody is there"));
        }
        if redis.serving.value() == Serving::Stopped {
            return Err(broken("refused"));
        }
        let id = redis.ids.fetch_add(1, Ordering::Relaxed);
        let (back, backs) = mpsc::unbounded_channel();
        let (requests, received) = mpsc::unbounded_channel();
        let (messages, _) = broadcast::channel(CHANNEL);
        let connection = Arc::new(Connection {
            id,
            wire: self.clone(),
            closed: Watched::new(false),
            ended: Watched::new(false),
            channels: Mutex::default(),
            back,
            last_back: Mutex::new(Instant::now()),
        });
        redis.connections.lock().insert(id, connection.clone());
        tokio::spawn(serve(connection.clone(), received));
        tokio::spawn(carry_back(connection.clone(), backs, messages.clone()));
        let last = Arc::new(Mutex::new(Instant::now()));
        let port = Port { connection, requests, last, messages };
        let goodbye = Goodbye(port.clone());
        let task = tokio::spawn(async move {
            goodbye.0.connection.ended.wait_for(|ended| *ended).await;
            Ok(())
        });
        Ok((port, task))
    }
}

/// Ends the connection when the client lets go of it.
struct Goodbye(Port);

impl Drop for Goodbye {
    fn drop(&mut self) {
        let _ = self.0.requests.send(Request::End(self.0.arrival()));
    }
}

impl Port {
    fn arrival(&self) -> Instant {
        let mut last = self.last.lock();
        *last = (*last).max(Instant::now() + self.connection.wire.draw());
        *last
    }

    pub(super) async fn ask(&self, command: Command) -> Answer {
        let (sender, answer) = oneshot::channel();
        if self.connection.wire.state.value() == Passes::Never {
            return std::future::pending().await;
        }
        let request = Request::Command(self.arrival(), command, sender);
        let _ = self.requests.send(request);
        match answer.await {
            Ok(answer) => answer,
            // as `fred`, which leaves it to us to notice
            Err(_) => std::future::pending().await,
        }
    }

    pub(super) fn messages(&self) -> broadcast::Receiver<ChannelMessage> {
        self.messages.subscribe()
    }

    pub(super) async fn quit(&self) -> Result<(), Error> {
        let _ = self.requests.send(Request::End(self.arrival()));
        self.connection.closed.wait_for(|closed| *closed).await;
        Ok(())
    }
}

impl Connection {
    fn send_back(&self, back: Back) {
        let mut last = self.last_back.lock();
        *last = (*last).max(Instant::now() + self.wire.draw());
        let _ = self.back.send((*last, back));
    }

    fn push(&self, channel: &str, payload: &Bytes) {
        self.send_back(Back::Message(ChannelMessage {
            channel: channel.into(),
            value: Value::Bytes(payload.clone()),
            kind: MessageKind::Message,
            server: Server::new(self.wire.host.as_str(), 1),
        }));
    }
}

/// The server's side of a connection.
async fn serve(connection: Arc<Connection>, mut requests: mpsc::UnboundedReceiver<Request>) {
    let redis = connection.wire.redis.clone();
    let work = async {
        while let Some(request) = requests.recv().await {
            let (Request::Command(arrival, ..) | Request::End(arrival)) = &request;
            sleep_until(*arrival).await;
            connection.wire.passable().await;
            redis.serving.wait_for(|serving| *serving == Serving::Yes).await;
            let Request::Command(_, command, sender) = request else { return };
            let answer = redis.execute(&connection, command).await;
            connection.send_back(Back::Answer(answer, sender));
        }
    };
    tokio::select! {
        biased;
        _ = connection.closed.wait_for(|closed| *closed) => {}
        () = work => {}
    }
    redis.connections.lock().remove(&connection.id);
    connection.closed.set(true);
    connection.wire.delay().await;
    connection.wire.passable().await;
    connection.ended.set(true);
}

/// What goes back to the client, in order.
async fn carry_back(
    connection: Arc<Connection>,
    mut backs: mpsc::UnboundedReceiver<(Instant, Back)>,
    messages: broadcast::Sender<ChannelMessage>,
) {
    let carry = async {
        while let Some((arrival, back)) = backs.recv().await {
            sleep_until(arrival).await;
            connection.wire.passable().await;
            match back {
                Back::Answer(answer, sender) => drop(sender.send(answer)),
                Back::Message(message) => drop(messages.send(message)),
            }
        }
    };
    tokio::select! {
        biased;
        _ = connection.ended.wait_for(|ended| *ended) => {}
        () = carry => {}
    }
}
