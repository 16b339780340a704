//! The commands of Redis that the bus uses, as they are sent on one connection.
//!
//! In tests there is another Redis behind them, which lives in virtual time (`super::simulated`).

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use fred::clients::{Client, SubscriberClient};
use fred::error::Error;
use fred::interfaces::{
    ClientInterface, ClientLike, EventInterface, HashesInterface, KeysInterface, LuaInterface,
    PubsubInterface, StreamsInterface, TransactionInterface,
};
use fred::types::client::ClientKillFilter;
use fred::types::{ClusterHash, CustomCommand, Message as ChannelMessage, Value};
use tokio::sync::broadcast;

use super::feed::Fields;
#[cfg(test)]
use super::simulated::{Command, Port};

/// The longest that a stream may become, about.
const TRIM: &str = "~";

/// What a connection for commands is made of.
#[derive(Clone)]
pub(super) enum Commands {
    Redis(Client),
    #[cfg(test)]
    Simulated(Port),
}

/// What a connection that listens to channels is made of.
#[derive(Clone)]
pub(super) enum Channels {
    Redis(SubscriberClient),
    #[cfg(test)]
    Simulated(Port),
}

/// What can be said goodbye to.
pub(super) trait Quit {
    fn quit(&self) -> impl Future<Output = Result<(), Error>> + Send;
}

impl Quit for Commands {
    async fn quit(&self) -> Result<(), Error> {
        match self {
            Self::Redis(client) => client.quit().await,
            #[cfg(test)]
            Self::Simulated(port) => port.quit().await,
        }
    }
}

impl Quit for Channels {
    async fn quit(&self) -> Result<(), Error> {
        match self {
            Self::Redis(client) => client.quit().await,
            #[cfg(test)]
            Self::Simulated(port) => port.quit().await,
        }
    }
}

impl Commands {
    /// A command that has no form of its own here.
    pub(super) async fn custom(&self, words: &[&str]) -> Result<Value, Error> {
        match self {
            Self::Redis(client) => {
                let name = words.first().copied().unwrap_or_default();
                let command = CustomCommand::new(name.to_owned(), ClusterHash::FirstKey, false);
                let args = words.iter().skip(1).map(|word| (*word).to_owned());
                client.custom(command, args.collect::<Vec<String>>()).await
            }
            #[cfg(test)]
            Self::Simulated(port) => port.ask(Command::Unknown).await,
        }
    }

    // --- connections

    pub(super) async fn client_info(&self) -> Result<String, Error> {
        match self {
            Self::Redis(client) => client.client_info().await,
            #[cfg(test)]
            Self::Simulated(port) => port.ask(Command::ClientInfo).await?.convert(),
        }
    }

    pub(super) async fn client_kill(&self, filters: Vec<ClientKillFilter>) -> Result<(), Error> {
        match self {
            Self::Redis(client) => client.client_kill::<Value>(filters).await.map(drop),
            #[cfg(test)]
            Self::Simulated(port) => port.ask(Command::ClientKill(filters)).await.map(drop),
        }
    }

    // --- streams

    pub(super) async fn xinfo(&self, key: &str) -> Result<HashMap<String, Value>, Error> {
        match self {
            Self::Redis(client) => client.xinfo_stream(key, false, None).await,
            #[cfg(test)]
            Self::Simulated(port) => port.ask(Command::XInfo(key.to_owned())).await?.convert(),
        }
    }

    /// Entries from `start` to `end`, written as Redis wants it.
    pub(super) async fn xrange(
        &self,
        key: &str,
        start: String,
        end: String,
        count: u64,
    ) -> Result<Value, Error> {
        match self {
            Self::Redis(client) => client.xrange(key, start, end, Some(count)).await,
            #[cfg(test)]
            Self::Simulated(port) => {
                port.ask(Command::XRange { key: key.to_owned(), start, end, count }).await
            }
        }
    }

    /// Entries behind `after`; `block`: how long Redis may wait for the first.
    pub(super) async fn xread(
        &self,
        key: &str,
        after: String,
        count: u64,
        block: Option<Duration>,
    ) -> Result<Value, Error> {
        match self {
            Self::Redis(client) => {
                let block = block.map(|block| block.as_millis() as u64);
                client.xread(Some(count), block, key, after).await
            }
            #[cfg(test)]
            Self::Simulated(port) => {
                port.ask(Command::XRead { key: key.to_owned(), after, count, block }).await
            }
        }
    }

    /// Appends one entry.
    pub(super) async fn xadd(&self, key: &str, fields: Fields) -> Result<(), Error> {
        match self {
            Self::Redis(client) => client
                .xadd::<Value, _, _, _, _>(key, false, None::<()>, "*", fields)
                .await
                .map(drop),
            #[cfg(test)]
            Self::Simulated(port) => {
                let entries = vec![fields];
                port.ask(Command::XAdd { key: key.to_owned(), max: None, entries }).await.map(drop)
            }
        }
    }

    /// Appends entries, all or none, and gives their ids. The stream keeps about `max` entries.
    pub(super) async fn append(
        &self,
        key: &str,
        max: u64,
        mut entries: Vec<Fields>,
    ) -> Result<Vec<String>, Error> {
        match self {
            Self::Redis(client) => {
                let cap = ("MAXLEN", TRIM, max as i64);
                // One command is all or nothing by itself. `fred` writes each command of a transaction to the
                // socket alone, so that one event would be three packets and twice the work.
                if entries.len() == 1
                    && let Some(fields) = entries.pop()
                {
                    return Ok(vec![client.xadd(key, false, cap, "*", fields).await?]);
                }
                let transaction = client.multi();
                for fields in entries {
                    let _: Value = transaction.xadd(key, false, cap, "*", fields).await?;
                }
                transaction.exec(true).await
            }
            #[cfg(test)]
            Self::Simulated(port) => {
                let key = key.to_owned();
                port.ask(Command::XAdd { key, max: Some(max), entries }).await?.convert()
            }
        }
    }

    // --- keys

    pub(super) async fn get(&self, key: &str) -> Result<Option<Bytes>, Error> {
        match self {
            Self::Redis(client) => client.get(key).await,
            #[cfg(test)]
            Self::Simulated(port) => port.ask(Command::Get(key.to_owned())).await?.convert(),
        }
    }

    pub(super) async fn hmget(
        &self,
        key: &str,
        fields: &'static [&'static str],
    ) -> Result<Vec<Option<String>>, Error> {
        match self {
            Self::Redis(client) => client.hmget(key, fields.to_vec()).await,
            #[cfg(test)]
            Self::Simulated(port) => {
                port.ask(Command::HmGet(key.to_owned(), fields)).await?.convert()
            }
        }
    }

    pub(super) async fn eval(
        &self,
        script: String,
        keys: Vec<String>,
        arguments: Vec<String>,
    ) -> Result<i64, Error> {
        match self {
            Self::Redis(client) => client.eval(script, keys, arguments).await,
            #[cfg(test)]
            Self::Simulated(port) => {
                port.ask(Command::Eval { script, keys, arguments }).await?.convert()
            }
        }
    }

    /// A script of the application's, whatever it answers.
    pub(super) async fn run(
        &self,
        script: &str,
        key: &str,
        arguments: Vec<Bytes>,
    ) -> Result<Value, Error> {
        match self {
            Self::Redis(client) => client.eval(script, key, arguments).await,
            #[cfg(test)]
            Self::Simulated(port) => port.ask(Command::Unknown).await,
        }
    }

    // --- channels

    pub(super) async fn publish(&self, channel: &str, payload: Bytes) -> Result<(), Error> {
        match self {
            Self::Redis(client) => client.publish(channel, payload).await,
            #[cfg(test)]
            Self::Simulated(port) => {
                port.ask(Command::Publish(channel.to_owned(), payload)).await.map(drop)
            }
        }
    }

    pub(super) async fn spublish(&self, channel: &str, payload: Bytes) -> Result<(), Error> {
        match self {
            Self::Redis(client) => client.spublish(channel, payload).await,
            #[cfg(test)]
            Self::Simulated(port) => port.ask(Command::Unknown).await.map(drop),
        }
    }

    /// How many have subscribed to it here.
    pub(super) async fn numsub(&self, channel: &str) -> Result<HashMap<String, usize>, Error> {
        match self {
            Self::Redis(client) => client.pubsub_numsub(channel.to_owned()).await,
            #[cfg(test)]
            Self::Simulated(port) => port.ask(Command::NumSub(channel.to_owned())).await?.convert(),
        }
    }

    pub(super) async fn shardnumsub(&self, channel: &str) -> Result<HashMap<String, usize>, Error> {
        match self {
            Self::Redis(client) => client.pubsub_shardnumsub(channel.to_owned()).await,
            #[cfg(test)]
            Self::Simulated(port) => port.ask(Command::Unknown).await?.convert(),
        }
    }
}

impl Channels {
    /// What comes on the channels.
    pub(super) fn messages(&self) -> broadcast::Receiver<ChannelMessage> {
        match self {
            Self::Redis(client) => client.message_rx(),
            #[cfg(test)]
            Self::Simulated(port) => port.messages(),
        }
    }

    pub(super) async fn subscribe(&self, channels: Vec<String>) -> Result<(), Error> {
        match self {
            Self::Redis(client) => client.subscribe(channels).await,
            #[cfg(test)]
            Self::Simulated(port) => port.ask(Command::Subscribe(channels)).await.map(drop),
        }
    }

    pub(super) async fn unsubscribe(&self, channels: Vec<String>) -> Result<(), Error> {
        match self {
            Self::Redis(client) => client.unsubscribe(channels).await,
            #[cfg(test)]
            Self::Simulated(port) => port.ask(Command::Unsubscribe(channels)).await.map(drop),
        }
    }

    pub(super) async fn ssubscribe(&self, channel: String) -> Result<(), Error> {
        match self {
            Self::Redis(client) => client.ssubscribe(channel).await,
            #[cfg(test)]
            Self::Simulated(port) => port.ask(Command::Unknown).await.map(drop),
        }
    }

    pub(super) async fn sunsubscribe(&self, channel: String) -> Result<(), Error> {
        match self {
            Self::Redis(client) => client.sunsubscribe(channel).await,
            #[cfg(test)]
            Self::Simulated(port) => port.ask(Command::Unknown).await.map(drop),
        }
    }
}
