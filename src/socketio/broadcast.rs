//! "To this room, except me": who gets an event, and how.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::Instant;

use super::handler::FromArgs;
use super::namespace::{Inner as NamespaceInner, Namespace};
use super::room_names::IntoRooms;
use super::socket::Socket;
use crate::cluster::Replies;
use crate::cluster::message::{Flags, Message, Reply, Request, SocketInfo, Target};
use crate::engine::packet::Str;
use crate::error::{AckError, DataError, EmitError};
use crate::fanout::turn;
use crate::socketio::packet::Args;

/// How long the other nodes have to answer [`Broadcast::fetch_sockets`] (Node's adapter: 5 s).
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// A choice of sockets, on all nodes unless [`Broadcast::local`], and what to do with them.
#[derive(Clone)]
#[must_use = "nothing happens before `emit` or another last call"]
pub struct Broadcast {
    namespace: Arc<NamespaceInner>,
    target: Target,
    flags: Flags,
    local: bool,
    timeout: Option<Duration>,
}

impl std::fmt::Debug for Broadcast {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Broadcast").field("target", &self.target).finish_non_exhaustive()
    }
}

impl Broadcast {
    pub(crate) fn new(namespace: Arc<NamespaceInner>) -> Self {
        Self {
            namespace,
            target: Target::default(),
            flags: Flags::default(),
            local: false,
            timeout: None,
        }
    }

    /// Adds rooms: a socket in any of them is meant, once.
    pub fn to<R: IntoRooms>(mut self, rooms: R) -> Self {
        self.target.rooms.extend(rooms.into_rooms());
        self
    }

    /// The same as [`Broadcast::to`].
    pub fn in_room<R: IntoRooms>(self, rooms: R) -> Self {
        self.to(rooms)
    }

    /// Excludes the sockets in these rooms. A socket's id is a room.
    pub fn except<R: IntoRooms>(mut self, rooms: R) -> Self {
        self.target.except.extend(rooms.into_rooms());
        self
    }

    /// Drops the event where the connection takes nothing right now.
    pub fn volatile(mut self) -> Self {
        self.flags.volatile = true;
        self
    }

    /// With or without compression by the transport. It is on where the transport has it.
    pub fn compress(mut self, compress: bool) -> Self {
        self.flags.compress = compress;
        self
    }

    /// Only sockets of this node.
    pub fn local(mut self) -> Self {
        self.local = true;
        self
    }

    /// Waits so long for the answers of [`Broadcast::emit_with_ack`].
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Sends an event. A tuple is several arguments, everything else one.
    ///
    /// # Errors
    /// [`EmitError`]; that a receiver is gone or too slow is none.
    pub async fn emit<T: Serialize + ?Sized>(self, event: &str, data: &T) -> Result<(), EmitError> {
        let args = self.namespace.codec.args(Some(event), data)?;
        self.emit_args(&args).await
    }

    /// Sends an event that is encoded already: a relay need not decode.
    ///
    /// # Errors
    /// [`EmitError`].
    pub async fn emit_args(self, args: &Args) -> Result<(), EmitError> {
        if args.event().is_none() {
            return Err(EmitError::Encode("the arguments of an event start with its name".into()));
        }
        if self.local {
            turn(|| self.namespace.fan_out_here(args, &self.target, self.flags));
            return Ok(());
        }
        let args = args.clone();
        self.publish(|this| Message::Broadcast { args, target: this.target, flags: this.flags })
    }

    /// Sends an event and collects everyone's answers, until all came or [`Broadcast::timeout`] passed.
    ///
    /// A receiver that disconnects owes no answer any more.
    pub async fn emit_with_ack<T, R>(self, event: &str, data: &T) -> Answers<R>
    where
        T: Serialize + ?Sized,
        R: FromArgs,
    {
        let mut answers = Answers { received: Vec::new(), missing: 0, error: None };
        let args = match self.namespace.codec.args(Some(event), data) {
            Ok(args) => args,
            Err(error) => {
                answers.error = Some(error.into());
                return answers;
            }
        };
        let deadline = self.timeout.map(|timeout| Instant::now() + timeout);
        let collect = self.collect(&args, &mut answers);
        if let Some(deadline) = deadline {
            // what came before the deadline is in `answers` already
            if tokio::time::timeout_at(deadline, collect).await.is_err() {
                answers.error = Some(AckError::Timeout);
            }
        } else {
            collect.await;
        }
        answers
    }

    async fn collect<R: FromArgs>(&self, args: &Args, answers: &mut Answers<R>) {
        let namespace = &self.namespace;
        let mut remote = (!self.local).then(|| {
            namespace.log.request(Request::Broadcast {
                args: args.clone(),
                target: self.target.clone(),
                flags: self.flags,
                timeout: self.timeout,
            })
        });
        let (round, mut local) = namespace.fan_out_with_ack(args, &self.target, self.flags);
        // an answer of another node can overtake the number of those that it will send
        let (mut announced, mut came) = (round.len(), 0);
        // Each channel ends when nobody owes an answer any more. Both are read at once, so that a slow
        // socket here does not hide what has come from other nodes.
        let (mut local_open, mut remote_open) = (true, remote.is_some());
        while local_open || remote_open {
            answers.missing = usize::saturating_sub(announced, came);
            tokio::select! {
                biased; // there is an end to both
                answer = local.recv(), if local_open => match answer {
                    Some(answer) => {
                        came += 1;
                        answers.take(&answer);
                    }
                    None => local_open = false,
                },
                reply = receive(&mut remote), if remote_open => match reply {
                    Some(Reply::ClientCount(count)) => announced += count,
                    Some(Reply::Ack(answer)) => {
                        came += 1;
                        answers.take(&answer);
                    }
                    Some(Reply::Missing(nodes)) => {
                        announced += nodes;
                        answers.error = Some(AckError::Incomplete);
                    }
                    // who does not answer is missing already
                    Some(Reply::NoMore(_) | Reply::Sockets(_) | Reply::ServerSideAnswer(_)) => {}
                    None => remote_open = false,
                },
            }
        }
        answers.missing = announced.saturating_sub(came);
    }

    /// The sockets that are meant. Nodes that do not answer within 5 s (or [`Broadcast::timeout`]) are
    /// left out, and the result says so.
    pub async fn fetch_sockets(self) -> Fetched {
        let local = self.namespace.connected(&self.target);
        let mut found: Vec<SocketInfo> = local.iter().map(Socket::info).collect();
        let mut missing = 0;
        if !self.local {
            let request = Request::FetchSockets { target: self.target.clone() };
            let mut replies = self.namespace.log.request(request);
            let collect = async {
                while let Some(reply) = replies.recv().await {
                    match reply {
                        Reply::Sockets(sockets) => found.extend(sockets),
                        Reply::Missing(nodes) => missing += nodes,
                        _ => {}
                    }
                }
            };
            let timeout = self.timeout.unwrap_or(REQUEST_TIMEOUT);
            let in_time = tokio::time::timeout(timeout, collect).await.is_ok();
            missing += usize::from(!in_time);
        }
        let namespace = Namespace(self.namespace);
        let socket = |info| RemoteSocket { namespace: namespace.clone(), info };
        Fetched { sockets: found.into_iter().map(socket).collect(), complete: missing == 0 }
    }

    /// Puts the sockets into rooms.
    ///
    /// # Errors
    /// [`EmitError::BusFull`].
    pub fn sockets_join<R: IntoRooms>(self, rooms: R) -> Result<(), EmitError> {
        self.publish(|this| Message::Join { target: this.target, rooms: rooms.into_rooms() })
    }

    /// Takes the sockets out of rooms.
    ///
    /// # Errors
    /// [`EmitError::BusFull`].
    pub fn sockets_leave<R: IntoRooms>(self, rooms: R) -> Result<(), EmitError> {
        self.publish(|this| Message::Leave { target: this.target, rooms: rooms.into_rooms() })
    }

    /// Disconnects the sockets from the namespace; with `close`, their whole connections.
    ///
    /// # Errors
    /// [`EmitError::BusFull`].
    pub fn disconnect_sockets(self, close: bool) -> Result<(), EmitError> {
        self.publish(|this| Message::Disconnect { target: this.target, close })
    }

    fn publish(self, message: impl FnOnce(Self) -> Message) -> Result<(), EmitError> {
        let namespace = self.namespace.clone();
        let local = self.local;
        let message = message(self);
        if local {
            namespace.apply_here(&message);
            return Ok(());
        }
        turn(|| namespace.log.publish(message)).map(drop)
    }
}

async fn receive(replies: &mut Option<Replies>) -> Option<Reply> {
    replies.as_mut()?.recv().await
}

/// The answers to a broadcast, and whether they are all.
#[derive(Debug)]
pub struct Answers<R> {
    /// What came, in the order in which it came.
    pub received: Vec<R>,
    /// How many did not answer.
    pub missing: usize,
    /// Why it is not complete, or what went wrong.
    pub error: Option<AckError>,
}

impl<R: FromArgs> Answers<R> {
    pub(super) fn take(&mut self, answer: &Args) {
        match R::from_args(answer) {
            Ok(answer) => self.received.push(answer),
            Err(error) => self.error = Some(AckError::Decode(error.to_string())),
        }
    }

    /// All answers, or the error.
    ///
    /// # Errors
    /// [`AckError::Timeout`] if somebody did not answer in time; see [`AckError`] for the others.
    pub fn into_complete(self) -> Result<Vec<R>, AckError> {
        match self.error {
            Some(error) => Err(error),
            None => Ok(self.received),
        }
    }
}

/// The sockets that were found.
#[derive(Debug)]
pub struct Fetched {
    /// The sockets, this node's first.
    pub sockets: Vec<RemoteSocket>,
    /// Did every node answer?
    pub complete: bool,
}

/// A socket of any node, as it was when it was fetched.
#[derive(Clone, Debug)]
pub struct RemoteSocket {
    namespace: Namespace,
    info: SocketInfo,
}

impl RemoteSocket {
    /// The socket's id.
    pub fn id(&self) -> &str {
        &self.info.id
    }

    /// The request that opened it, in Node's shape (`headers`, `address`, `query`, `auth`, ...).
    pub fn handshake(&self) -> &serde_json::Value {
        &self.info.handshake
    }

    /// The rooms that it was in.
    pub fn rooms(&self) -> &[Str] {
        &self.info.rooms
    }

    /// The application's data.
    ///
    /// # Errors
    /// [`DataError`], if it is not a `T`.
    pub fn data<T: DeserializeOwned>(&self) -> Result<T, DataError> {
        T::deserialize(&self.info.data).map_err(DataError::of)
    }

    fn only(&self) -> Broadcast {
        self.namespace.to(self.id())
    }

    /// Sends it an event.
    ///
    /// # Errors
    /// [`EmitError`].
    pub async fn emit<T: Serialize + ?Sized>(
        &self,
        event: &str,
        data: &T,
    ) -> Result<(), EmitError> {
        self.only().emit(event, data).await
    }

    /// Puts it into rooms.
    ///
    /// # Errors
    /// [`EmitError::BusFull`].
    pub fn join<R: IntoRooms>(&self, rooms: R) -> Result<(), EmitError> {
        self.only().sockets_join(rooms)
    }

    /// Takes it out of rooms.
    ///
    /// # Errors
    /// [`EmitError::BusFull`].
    pub fn leave<R: IntoRooms>(&self, rooms: R) -> Result<(), EmitError> {
        self.only().sockets_leave(rooms)
    }

    /// Disconnects it from the namespace; with `close`, its whole connection.
    ///
    /// # Errors
    /// [`EmitError::BusFull`].
    pub fn disconnect(&self, close: bool) -> Result<(), EmitError> {
        self.only().disconnect_sockets(close)
    }
}
