//! The connections of an epoch. Each is to one server and has one life: when it breaks, the epoch ends.

use std::collections::HashMap;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use fred::error::{Error, ErrorKind};
use fred::interfaces::ClientLike;
use fred::types::config::{Config as ClientConfig, ConnectionConfig, Server};
use fred::types::{Builder, ConnectHandle, Message as ChannelMessage};
use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared, join_all, try_join_all};
use tokio::sync::broadcast;
use tokio::task::AbortHandle;

use super::access::Access;
use super::commands::{Channels, Commands, Quit};
use super::servers::Servers;

/// A command that takes longer says that the connection is dead.
pub(super) const COMMAND_TIMEOUT: Duration = Duration::from_secs(4);
/// Until there is a connection.
pub(super) const TCP_TIMEOUT: Duration = Duration::from_secs(5);
/// For the first commands on a new connection, together: four round trips.
pub(super) const SETUP_TIMEOUT: Duration = Duration::from_secs(8);
/// Messages of channels that may wait for us to look at them.
const CHANNEL_CAPACITY: usize = 16 * 1024;
/// How long a connection may take to say goodbye.
const QUIT_TIMEOUT: Duration = Duration::from_millis(100);

/// A connection to one server, gone when it is dropped.
pub(super) struct Connection<C = Commands> {
    client: C,
    /// (Who waits first learns of it first: a simulation comes out the same every time.)
    ended: Shared<BoxFuture<'static, ()>>,
    task: AbortHandle,
}

impl<C> Deref for Connection<C> {
    type Target = C;

    fn deref(&self) -> &C {
        &self.client
    }
}

impl<C> Drop for Connection<C> {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl<C> Connection<C> {
    /// Waits for the answer, but not on a connection that is dead.
    pub(super) async fn ask<T>(
        &self,
        command: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        self.ask_for(COMMAND_TIMEOUT, command).await
    }

    pub(super) async fn ask_for<T>(
        &self,
        time: Duration,
        command: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        tokio::select! {
            biased;
            answer = command => answer,
            error = self.ended() => Err(error),
            () = tokio::time::sleep(time) => {
                Err(Error::new(ErrorKind::Timeout, "Redis does not answer"))
            }
        }
    }

    /// Waits until it is dead. `fred` lets commands wait for ever then.
    pub(super) async fn ended(&self) -> Error {
        self.ended.clone().await;
        Error::new(ErrorKind::IO, "the connection to Redis ended")
    }
}

pub(super) async fn connect_to(config: ClientConfig) -> Result<Connection, Error> {
    #[cfg(test)]
    if let Some(dial) = super::simulated::dial(&config) {
        let (port, task) = dial.await?;
        return Ok(connection(Commands::Simulated(port), task));
    }
    open(builder(config).build()?, Commands::Redis).await
}

/// In a task of its own: who gives up waiting (there is another answer already) lets go of a connection that is
/// only being made, and `fred` would keep that one for ever.
async fn open<C, T>(client: C, as_one: fn(C) -> T) -> Result<Connection<T>, Error>
where
    C: ClientLike + Send + Sync + 'static,
    T: Send + 'static,
{
    let opening = tokio::spawn(async move {
        let task = client.init().await.map_err(explain)?;
        Ok(connection(as_one(client), task))
    });
    opening.await?
}

async fn listen_to(config: ClientConfig) -> Result<Connection<Channels>, Error> {
    #[cfg(test)]
    if let Some(dial) = super::simulated::dial(&config) {
        let (port, task) = dial.await?;
        return Ok(connection(Channels::Simulated(port), task));
    }
    let mut builder = builder(config);
    // `fred` makes room for so many in nine channels at once (12 MiB), so only here
    builder.with_performance_config(|config| {
        config.broadcast_channel_capacity = CHANNEL_CAPACITY;
    });
    open(builder.build_subscriber_client()?, Channels::Redis).await
}

/// `task` ends with the connection.
pub(super) fn connection<C>(client: C, task: ConnectHandle) -> Connection<C> {
    let handle = task.abort_handle();
    // however the task ended, the connection has
    let ended = async move { drop(task.await) }.boxed().shared();
    tokio::spawn(ended.clone());
    Connection { client, ended, task: handle }
}

fn builder(config: ClientConfig) -> Builder {
    let mut builder = Builder::from_config(config);
    builder.with_connection_config(|config: &mut ConnectionConfig| {
        config.connection_timeout = TCP_TIMEOUT;
        config.internal_command_timeout = SETUP_TIMEOUT;
        // A command whose connection broke is not sent again behind our back: that could store it twice.
        config.max_command_attempts = 1;
        config.tcp.nodelay = Some(true);
    });
    builder
}

/// A certificate that is refused comes as an I/O error in Rust's notation.
fn explain(error: Error) -> Error {
    let details = error.details();
    match details.find("InvalidCertificate(") {
        None => error,
        Some(at) => {
            let what = details[at..].trim_end_matches(" }");
            Error::new(ErrorKind::Tls, format!("the certificate of Redis is refused: {what}"))
        }
    }
}

/// The connections that commands go to. The ones that read are apart, since they wait.
pub(super) struct Link {
    pub(super) servers: Servers,
    sharded: bool,
    /// Where all publish and subscribe, unless pub/sub is sharded.
    home: Server,
    /// To the servers without which there is no epoch.
    writers: HashMap<Server, Connection>,
    /// To those of the cluster at which only peers may be.
    others: HashMap<Server, Connection>,
    subscribers: HashMap<Server, Connection<Channels>>,
}

impl Link {
    /// Connects to all that writing to `keys` needs. The other connections follow when these are there, so that
    /// an attempt that fails costs a server one connection.
    pub(super) async fn open(
        access: &Access,
        servers: Servers,
        keys: &[&str],
        sharded: bool,
    ) -> Result<Self, Error> {
        let mut needed = Vec::new();
        for key in keys {
            needed.push(servers.owner(key)?.clone());
        }
        let home = needed.first().ok_or_else(no_server)?.clone();
        if sharded {
            needed.extend(servers.primaries.iter().cloned());
        }
        needed.sort();
        needed.dedup();
        let writers = needed.into_iter().map(|server| async move {
            let connection = connect_to(access.to_server(&server)).await;
            let named = |error: Error| {
                Error::new(error.kind().clone(), format!("{server}: {}", error.details()))
            };
            let connection = connection.map_err(named)?;
            Ok::<_, Error>((server, connection))
        });
        let writers = try_join_all(writers).await?.into_iter().collect();
        let (others, subscribers) = (HashMap::new(), HashMap::new());
        Ok(Self { servers, sharded, home, writers, others, subscribers })
    }

    /// Connects the subscribers, and to the other servers where peers may be. Gives what is received.
    pub(super) async fn open_channels(
        &mut self,
        access: &Access,
    ) -> Result<Vec<broadcast::Receiver<ChannelMessage>>, Error> {
        let Self { servers, sharded, home, .. } = &*self;
        let others = join_all(self.rest().map(|server| async move {
            Some((server.clone(), connect_to(access.to_server(server)).await.ok()?))
        }));
        let listening = if *sharded { servers.primaries.clone() } else { vec![home.clone()] };
        let subscribers = listening.into_iter().map(|server| async move {
            let subscriber = listen_to(access.to_server(&server)).await?;
            Ok::<_, Error>((server, subscriber))
        });
        let (others, subscribers) = tokio::join!(others, try_join_all(subscribers));
        // one that is gone has no subscribers either
        self.others = others.into_iter().flatten().collect();
        self.subscribers = subscribers?.into_iter().collect();
        Ok(self.subscribers.values().map(|subscriber| subscriber.messages()).collect())
    }

    /// The servers that the bus itself does not need, but peers may have subscribed at.
    fn rest(&self) -> impl Iterator<Item = &Server> {
        let all = self.servers.primaries.iter().chain(&self.servers.replicas);
        all.filter(|server| !self.sharded && !self.writers.contains_key(*server))
    }

    /// Is one of them there again that was gone? Nobody who is there would be counted, and no session be found.
    pub(super) async fn has_more(&self, access: &Access) -> bool {
        let is_gone = |server: &&Server| {
            self.others.get(*server).is_none_or(|other| other.task.is_finished())
        };
        let again = self.rest().filter(is_gone).map(|server| connect_to(access.to_server(server)));
        join_all(again).await.iter().any(Result::is_ok)
    }

    /// The connection to who has this key or channel.
    pub(super) fn writer(&self, key: &str) -> Result<&Connection, Error> {
        self.writers.get(self.servers.owner(key)?).ok_or_else(no_server)
    }

    /// As [`Link::writer`], also for keys of servers that the bus itself does not need.
    pub(super) fn writer_of(&self, key: &str) -> Result<&Connection, Error> {
        if let Ok(writer) = self.writer(key) {
            return Ok(writer);
        }
        let server = self.servers.owner(key)?;
        self.others.get(server).ok_or_else(no_server)
    }

    /// Every connection that writes, with its server.
    pub(super) fn writers(&self) -> impl Iterator<Item = (&Server, &Connection)> {
        self.writers.iter()
    }

    /// Waits until a connection is dead that the epoch needs.
    pub(super) async fn ended(&self) -> Error {
        let writers = self.writers.values().map(|writer| Box::pin(writer.ended()) as Ended<'_>);
        let subscribers = self.subscribers.values();
        let subscribers = subscribers.map(|one| Box::pin(one.ended()) as Ended<'_>);
        futures_util::future::select_all(writers.chain(subscribers)).await.0
    }

    /// Says goodbye. Tasks that still hold the link find it dead.
    pub(super) async fn close(&self) {
        let writers = self.writers.values().map(end);
        let subscribers = self.subscribers.values().map(end);
        tokio::join!(join_all(writers), join_all(subscribers));
        self.others.values().for_each(|other| other.task.abort());
    }

    /// Gives how many have received it at the server that published it, listeners to patterns among them.
    pub(super) async fn publish(&self, channel: &str, payload: Vec<u8>) -> Result<usize, Error> {
        let payload = Bytes::from(payload);
        if self.sharded {
            let writer = self.writer(channel)?;
            writer.ask(writer.spublish(channel, payload)).await
        } else {
            let writer = self.at_home()?;
            writer.ask(writer.publish(channel, payload)).await
        }
    }

    /// How many have subscribed to it, on all servers of the cluster (`PUBSUB NUMSUB` is about one).
    pub(super) async fn subscribers(&self, channel: &str) -> Result<Subscribers, Error> {
        if self.sharded {
            let owner = self.writer(channel)?;
            let counts = owner.ask(owner.shardnumsub(channel)).await?;
            return Ok(Subscribers { here: counts.values().sum(), elsewhere: 0 });
        }
        let count = |server: &Server, connection: &Connection| {
            let (client, is_here) = ((**connection).clone(), *server == self.home);
            async move {
                let counts = client.numsub(channel).await?;
                Ok::<_, Error>((is_here, counts.values().sum::<usize>()))
            }
        };
        let needed = self.writers.iter().map(|(server, writer)| writer.ask(count(server, writer)));
        let others = self.others.iter().map(|(server, other)| other.ask(count(server, other)));
        let (needed, others) = tokio::join!(try_join_all(needed), join_all(others));
        let mut all = Subscribers::default();
        for (is_here, count) in needed?.into_iter().chain(others.into_iter().flatten()) {
            *(if is_here { &mut all.here } else { &mut all.elsewhere }) += count;
        }
        Ok(all)
    }

    /// Redis need not have done it yet: see [`Link::subscribed`].
    pub(super) async fn subscribe(&self, channels: Vec<String>) -> Result<(), Error> {
        if !self.sharded {
            let subscriber = self.subscriber(&self.home)?;
            return subscriber.ask(subscriber.subscribe(channels)).await;
        }
        for channel in channels {
            let subscriber = self.subscriber(self.servers.owner(&channel)?)?;
            subscriber.ask(subscriber.ssubscribe(channel)).await?;
        }
        Ok(())
    }

    /// Waits until all that was subscribed to is counted.
    pub(super) async fn subscribed(&self) -> Result<(), Error> {
        let settled = self.subscribers.values().map(|one| one.ask(one.settled()));
        try_join_all(settled).await.map(drop)
    }

    pub(super) async fn unsubscribe(&self, channels: Vec<String>) -> Result<(), Error> {
        if !self.sharded {
            let subscriber = self.subscriber(&self.home)?;
            return subscriber.ask(subscriber.unsubscribe(channels)).await;
        }
        for channel in channels {
            let subscriber = self.subscriber(self.servers.owner(&channel)?)?;
            subscriber.ask(subscriber.sunsubscribe(channel)).await?;
        }
        Ok(())
    }

    fn at_home(&self) -> Result<&Connection, Error> {
        self.writers.get(&self.home).ok_or_else(no_server)
    }

    fn subscriber(&self, server: &Server) -> Result<&Connection<Channels>, Error> {
        self.subscribers.get(server).ok_or_else(no_server)
    }
}

/// Who has subscribed to a channel.
#[derive(Clone, Copy, Default)]
pub(super) struct Subscribers {
    /// At the server that [`Link::publish`] goes to.
    pub(super) here: usize,
    /// At the other servers of a cluster.
    pub(super) elsewhere: usize,
}

impl Subscribers {
    pub(super) fn all(self) -> usize {
        self.here + self.elsewhere
    }
}

type Ended<'a> = std::pin::Pin<Box<dyn Future<Output = Error> + Send + 'a>>;

async fn end<C: Quit>(connection: &Connection<C>) {
    let _ = tokio::time::timeout(QUIT_TIMEOUT, connection.quit()).await;
    connection.task.abort();
}

fn no_server() -> Error {
    Error::new(ErrorKind::Cluster, "not connected to that server")
}

/// The link of an epoch, for tasks that may outlive it.
pub(super) type SharedLink = Arc<Link>;
