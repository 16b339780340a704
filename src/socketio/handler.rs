//! What an application hands in: plain async closures, and how they are called.

use std::fmt::Display;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::socket::Socket;
use crate::error::{DataError, EmitError};
use crate::socketio::packet::{Args, Payload};

/// The future of a handler.
pub type HandlerFuture = Pin<Box<dyn Future<Output = Result<(), HandlerError>> + Send>>;

/// Why a handler did not do its work. It is logged and counted; the peer is not told.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HandlerError {
    /// The client's arguments are not of the handler's type.
    #[error("bad arguments: {0}")]
    Arguments(#[from] DataError),
    /// The handler returned an error.
    #[error("{0}")]
    Application(String),
}

/// What a handler may return: nothing, or a `Result` whose error can be shown in the log.
pub trait Outcome {
    /// The result, its error as text.
    fn into_result(self) -> Result<(), HandlerError>;
}

impl Outcome for () {
    fn into_result(self) -> Result<(), HandlerError> {
        Ok(())
    }
}

impl<E: Display> Outcome for Result<(), E> {
    fn into_result(self) -> Result<(), HandlerError> {
        self.map_err(|error| HandlerError::Application(error.to_string()))
    }
}

/// One event of a client, as catch-all listeners and per-packet middlewares see it.
#[derive(Clone, Debug)]
pub struct Event {
    pub(crate) args: Args,
}

impl Event {
    /// The event's name.
    pub fn name(&self) -> &str {
        self.args.event().unwrap_or_default()
    }

    /// Its arguments, without the name.
    pub fn args(&self) -> &Args {
        &self.args
    }
}

/// The answer that a client waits for.
///
/// Hand it out of the handler at will; the answer may come later. The second and later answers, and
/// answers to a client that waits for none, do nothing.
#[derive(Debug)]
pub struct Ack {
    pub(crate) wanted: Option<(Socket, u64)>,
    /// Shared by the handlers of one event, where there are several: has one of them answered?
    pub(crate) answered: Option<Arc<AtomicBool>>,
}

impl Ack {
    /// Does the client wait for an answer?
    pub fn is_wanted(&self) -> bool {
        self.wanted.is_some()
    }

    /// Whom to answer, unless another handler has.
    fn claim(self) -> Option<(Socket, u64)> {
        let answered = self.answered;
        self.wanted.filter(|_| answered.is_none_or(|flag| !flag.swap(true, Ordering::Relaxed)))
    }

    /// Answers. A tuple is several arguments, everything else one.
    ///
    /// # Errors
    /// [`EmitError`], if the data cannot be encoded or the socket is gone.
    pub fn send<T: Serialize + ?Sized>(self, data: &T) -> Result<(), EmitError> {
        match self.claim() {
            Some((socket, id)) => {
                let args = socket.codec().args(None, data)?;
                socket.answer(id, &args)
            }
            None => Ok(()),
        }
    }

    /// Answers with arguments that are encoded already, an echo's for instance. The name of an event among
    /// them is left out.
    ///
    /// # Errors
    /// [`EmitError::Disconnected`].
    pub fn send_args(self, args: &Args) -> Result<(), EmitError> {
        match self.claim() {
            Some((socket, id)) if args.event().is_some() => socket.answer(id, &args.renamed(None)?),
            Some((socket, id)) => socket.answer(id, args),
            None => Ok(()),
        }
    }
}

/// A closure that handles an event: `async |Socket|`, `|Socket, T|` or `|Socket, T, Ack|`.
///
/// `T` is deserialized from the event's arguments: a tuple takes all of them in order, any other type the
/// first. [`Args`] takes them as they are. `M` tells the three shapes apart and is always inferred.
pub trait EventHandler<M>: Send + Sync + 'static {
    /// Decodes the arguments and starts the handler.
    fn call(&self, socket: Socket, args: &Args, ack: Ack) -> HandlerFuture;
}

impl<F, Fut, O> EventHandler<(Socket,)> for F
where
    F: Fn(Socket) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = O> + Send + 'static,
    O: Outcome,
{
    fn call(&self, socket: Socket, _: &Args, _: Ack) -> HandlerFuture {
        let future = self(socket);
        Box::pin(async move { future.await.into_result() })
    }
}

impl<F, Fut, O, T> EventHandler<(Socket, T)> for F
where
    F: Fn(Socket, T) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = O> + Send + 'static,
    O: Outcome,
    T: FromArgs,
{
    fn call(&self, socket: Socket, args: &Args, _: Ack) -> HandlerFuture {
        match T::from_args(args) {
            Ok(data) => {
                let future = self(socket, data);
                Box::pin(async move { future.await.into_result() })
            }
            Err(error) => Box::pin(async move { Err(error.into()) }),
        }
    }
}

impl<F, Fut, O, T> EventHandler<(Socket, T, Ack)> for F
where
    F: Fn(Socket, T, Ack) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = O> + Send + 'static,
    O: Outcome,
    T: FromArgs,
{
    fn call(&self, socket: Socket, args: &Args, ack: Ack) -> HandlerFuture {
        match T::from_args(args) {
            Ok(data) => {
                let future = self(socket, data, ack);
                Box::pin(async move { future.await.into_result() })
            }
            Err(error) => Box::pin(async move { Err(error.into()) }),
        }
    }
}

/// What the arguments of an event or an acknowledgement can be read as: anything that `serde` can
/// deserialize, or [`Event`], which takes them undecoded.
pub trait FromArgs: Sized + Send + 'static {
    /// Reads the arguments.
    ///
    /// # Errors
    /// [`DataError`], if they are of another shape.
    fn from_args(args: &Args) -> Result<Self, DataError>;
}

impl<T: DeserializeOwned + Send + 'static> FromArgs for T {
    fn from_args(args: &Args) -> Result<Self, DataError> {
        args.decode()
    }
}

impl FromArgs for Event {
    fn from_args(args: &Args) -> Result<Self, DataError> {
        Ok(Self { args: args.clone() })
    }
}

/// A handler with its argument types forgotten.
pub(crate) type EventFn = dyn Fn(Socket, &Args, Ack) -> HandlerFuture + Send + Sync;

/// Why a client is not let into a namespace. It gets to see both parts, as its `connect_error`.
#[derive(Clone, Debug, PartialEq)]
pub struct ConnectError {
    /// `err.message` at the client.
    pub message: String,
    /// `err.data` at the client.
    pub data: Option<serde_json::Value>,
}

impl ConnectError {
    /// An error with a message only.
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), data: None }
    }

    /// Adds details for the client.
    ///
    /// Data that cannot be serialized is left out.
    #[must_use]
    pub fn with_data<T: Serialize>(mut self, data: T) -> Self {
        self.data = serde_json::to_value(data).ok();
        self
    }
}

impl<S: Into<String>> From<S> for ConnectError {
    fn from(message: S) -> Self {
        Self::new(message)
    }
}

/// The `auth` payload of a client, always an object.
#[derive(Clone, Debug, Default)]
pub struct Auth {
    pub(crate) payload: Option<Payload>,
}

impl Auth {
    /// Reads the payload.
    ///
    /// # Errors
    /// [`DataError`], if it is of another shape. Without a payload `{}` is read.
    pub fn decode<T: DeserializeOwned>(&self) -> Result<T, DataError> {
        match &self.payload {
            Some(payload) => payload.decode(),
            None => serde_json::from_str("{}").map_err(DataError::of),
        }
    }
}
