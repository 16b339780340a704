//! How one event goes to one client, and its answer comes back.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use tokio::sync::oneshot;

use super::ack::{NotPending, Waiter};
use super::handler::FromArgs;
use super::packet::Outgoing;
use super::prepared::Prepared;
use super::socket::Socket;
use crate::cluster::message::{Flags, Message, Target};
use crate::error::{AckError, EmitError};
use crate::fanout::Encoded;
use crate::socketio::packet::Args;

/// How one event is sent to one client.
#[derive(Debug)]
#[must_use = "nothing is sent before `emit`"]
pub struct Sender<'a> {
    socket: &'a Socket,
    volatile: bool,
    compress: bool,
    transient: bool,
    timeout: Option<Duration>,
}

impl<'a> Sender<'a> {
    pub(super) fn new(socket: &'a Socket) -> Self {
        Self { socket, volatile: false, compress: true, transient: false, timeout: None }
    }
}

impl Sender<'_> {
    /// Drops the event if the connection takes nothing right now.
    pub fn volatile(mut self) -> Self {
        self.volatile = true;
        self
    }

    /// With or without compression by the transport.
    pub fn compress(mut self, compress: bool) -> Self {
        self.compress = compress;
        self
    }

    /// Does not remember the event for connection state recovery: a client that comes back gets it only if
    /// it is sent again. It is not dropped, and keeps its place among what this node sends, but no
    /// other node hears of it, and no Redis carries it. For what is sent on every connect anyway, recovered or not:
    /// a snapshot, say. Without recovery there is no difference.
    ///
    /// One that ends with a string (or might: msgpack) still has an offset behind it, since official
    /// clients take a string there for one; then a [`Prepared`] event is encoded for each socket.
    pub fn transient(mut self) -> Self {
        self.transient = true;
        self
    }

    /// Waits so long for the answer of [`Sender::emit_with_ack`].
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// See [`Socket::emit`].
    ///
    /// # Errors
    /// [`EmitError`].
    pub async fn emit<T: Serialize + ?Sized>(self, event: &str, data: &T) -> Result<(), EmitError> {
        let args = self.socket.codec().args(Some(event), data)?;
        self.emit_args(&args)
    }

    /// See [`Socket::emit_prepared`].
    ///
    /// # Errors
    /// [`EmitError`].
    pub async fn emit_prepared(self, event: &Prepared) -> Result<(), EmitError> {
        self.send(event.args(), None, Some(event))
    }

    /// See [`Socket::emit_with_ack`].
    ///
    /// # Errors
    /// [`AckError`].
    pub async fn emit_with_ack<T, R>(self, event: &str, data: &T) -> Result<R, AckError>
    where
        T: Serialize + ?Sized,
        R: FromArgs,
    {
        let socket = self.socket;
        let args = socket.codec().args(Some(event), data)?;
        let id = socket.0.namespace.next_ack_id();
        let (sender, receiver) = oneshot::channel();
        socket.expect_ack(id, Waiter::One(sender)).map_err(|error| match error {
            NotPending::Closed => AckError::Disconnected,
            NotPending::Full => AckError::Emit(EmitError::OutboxFull),
        })?;
        // also when this future is dropped half-way
        let _forget = Forget { socket, id };
        let timeout = self.timeout;
        self.send(&args, Some(id), None)?;
        let answer = match timeout {
            Some(timeout) => {
                tokio::time::timeout(timeout, receiver).await.map_err(|_| AckError::Timeout)?
            }
            None => receiver.await,
        };
        let args = answer.map_err(|_| AckError::Disconnected)?;
        R::from_args(&args).map_err(|error| AckError::Decode(error.to_string()))
    }

    pub(super) fn emit_args(self, args: &Args) -> Result<(), EmitError> {
        self.send(args, None, None)
    }

    fn send(
        &self,
        args: &Args,
        ack: Option<u64>,
        prepared: Option<&Prepared>,
    ) -> Result<(), EmitError> {
        if args.event().is_none() {
            return Err(EmitError::Encode("the arguments of an event start with its name".into()));
        }
        if !self.socket.is_connected() {
            return Err(EmitError::Disconnected);
        }
        let namespace = &self.socket.0.namespace;
        let session = self.socket.0.session.as_ref();
        if let Some(session) = session.filter(|_| !self.volatile && !self.transient) {
            // through the log, which gives it its place in the order, and remembers it
            let rooms = vec![self.socket.0.id.clone()];
            let flags = Flags { volatile: false, compress: self.compress, ack };
            let target = Target { rooms, except: Vec::new() };
            let message = Message::Broadcast { args: args.clone(), target, flags };
            return namespace.log.publish(message).map(|number| session.appended(number));
        }
        self.socket.notify_sent(args);
        let mut result = Ok(());
        // official clients take a string at the end for the offset, so that then it has to be one
        let is_bare = self.transient && !args.may_end_with_string();
        namespace.in_place(|offset| {
            let offset = offset.filter(|_| !is_bare);
            let is_shared = offset.is_none() && self.compress;
            let shared = prepared.filter(|_| is_shared).and_then(|event| event.message(namespace));
            let message = shared.unwrap_or_else(|| {
                let offset = offset.map(|offset| offset.to_string());
                let packet = Outgoing::Event { args, ack, offset: offset.as_deref() };
                let frames = self.socket.codec().encode(&namespace.name, packet);
                Arc::new(Encoded::new(frames, self.compress))
            });
            result = self.socket.push(message, self.volatile);
        });
        result
    }
}

/// Sending to this client.
impl Socket {
    /// Sends an event to this client. A tuple is several arguments, everything else one.
    ///
    /// Returns when the event is queued; it is sent in the order of the calls.
    ///
    /// # Errors
    /// [`EmitError`].
    pub async fn emit<T: Serialize + ?Sized>(
        &self,
        event: &str,
        data: &T,
    ) -> Result<(), EmitError> {
        self.sender().emit(event, data).await
    }

    /// Sends an event that is encoded already: an echo or a relay need not decode. See
    /// [`Args::renamed`].
    ///
    /// # Errors
    /// [`EmitError`].
    pub async fn emit_args(&self, args: &Args) -> Result<(), EmitError> {
        self.sender().emit_args(args)
    }

    /// Sends an event that is encoded once for all who get it; see [`Prepared`]. One of another namespace is
    /// encoded for this one.
    ///
    /// # Errors
    /// [`EmitError`].
    pub async fn emit_prepared(&self, event: &Prepared) -> Result<(), EmitError> {
        self.sender().emit_prepared(event).await
    }

    /// Sends an event and waits for the client's answer, until it disconnects. See
    /// [`Sender::timeout`] for a deadline.
    ///
    /// # Errors
    /// [`AckError`].
    pub async fn emit_with_ack<T, R>(&self, event: &str, data: &T) -> Result<R, AckError>
    where
        T: Serialize + ?Sized,
        R: FromArgs,
    {
        self.sender().emit_with_ack(event, data).await
    }

    /// Sends to this client, dropping the event if its connection takes nothing right now.
    pub fn volatile(&self) -> Sender<'_> {
        self.sender().volatile()
    }

    /// Sends to this client what connection state recovery need not remember; see [`Sender::transient`].
    pub fn transient(&self) -> Sender<'_> {
        self.sender().transient()
    }

    /// Sends to this client, with or without compression by the transport.
    pub fn compress(&self, compress: bool) -> Sender<'_> {
        self.sender().compress(compress)
    }

    /// Sends to this client, waiting so long for the answer.
    pub fn timeout(&self, timeout: Duration) -> Sender<'_> {
        self.sender().timeout(timeout)
    }

    fn sender(&self) -> Sender<'_> {
        Sender::new(self)
    }
}

struct Forget<'a> {
    socket: &'a Socket,
    id: u64,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.socket.forget_ack(self.id);
    }
}
