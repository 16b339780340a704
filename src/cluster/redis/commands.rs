//! The commands of Redis that the bus uses, as they are sent on one connection; those for streams are in
//! [`super::lane`].
//!
//! In tests there is another Redis behind them, which lives in virtual time (`super::simulated`).

use std::collections::HashMap;

use bytes::Bytes;
use fred::clients::{Client, SubscriberClient};
use fred::error::{Error, ErrorKind};
use fred::interfaces::{
    ClientInterface, ClientLike, EventInterface, HashesInterface, KeysInterface, LuaInterface,
    PubsubInterface,
};
use fred::types::client::ClientKillFilter;
use fred::types::{ClusterHash, CustomCommand, Message as ChannelMessage, Value};
use tokio::sync::broadcast;

#[cfg(test)]
use super::simulated::{Command, Port};

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

    /// Gives how many have received it here.
    pub(super) async fn publish(&self, channel: &str, payload: Bytes) -> Result<usize, Error> {
        match self {
            Self::Redis(client) => client.publish(channel, payload).await,
            #[cfg(test)]
            Self::Simulated(port) => {
                port.ask(Command::Publish(channel.to_owned(), payload)).await?.convert()
            }
        }
    }

    /// As [`Commands::publish`].
    pub(super) async fn spublish(&self, channel: &str, payload: Bytes) -> Result<usize, Error> {
        match self {
            Self::Redis(client) => client.spublish(channel, payload).await,
            #[cfg(test)]
            Self::Simulated(port) => port.ask(Command::Unknown).await?.convert(),
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

/// Has Redis said no? Otherwise the connection is in doubt.
pub(super) fn is_answer(error: &Error) -> bool {
    !matches!(error.kind(), ErrorKind::IO | ErrorKind::Timeout | ErrorKind::Canceled)
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

    /// Waits until Redis has done what it was asked to before: `fred` does not wait for the answers to the two below.
    pub(super) async fn settled(&self) -> Result<(), Error> {
        match self {
            Self::Redis(client) => match client.ping::<Value>(None).await {
                // A refusal is an answer in turn, too: of who may not ask, or where nothing can be stored (MISCONF).
                Err(error) if !is_answer(&error) => Err(error),
                _ => Ok(()),
            },
            #[cfg(test)]
            Self::Simulated(_) => Ok(()),
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
