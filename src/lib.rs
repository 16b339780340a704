//! Quicket: a realtime server that speaks Socket.IO to unmodified official clients over WebTransport,
//! WebSocket and HTTP long-polling.
//!
//! ```no_run
//! use quicket::{Server, Socket};
//!
//! #[tokio::main]
//! async fn main() -> Result<(), quicket::ServeError> {
//!     let server = Server::builder().build().await?;
//!     server.of("/").on_connect(|socket| async move {
//!         socket.on("chat", |socket: Socket, text: String| async move {
//!             socket.broadcast().emit("chat", &text).await
//!         });
//!     });
//!     server.serve().await?;
//!     Ok(())
//! }
//! ```
//!
//! # The path of a byte
//!
//! | | step | where |
//! |---|---|---|
//! | 1 | bytes arrive on a stream, a socket, in a POST and are cut into frames | `transport`, `engine::framing` |
//! | 2 | first frame or query: a new session or a known one? | `engine::handshake`, `server::accept`, `server::quic` |
//! | 3 | the session's task takes the frame | `server::driver` |
//! | 4 | heartbeat, upgrade, close rules | `engine::session` |
//! | 5 | text and attachments become a packet | `socketio::packet` |
//! | 6 | which namespace, and is that allowed now? | `socketio::client` |
//! | 7 | user code, in order: at once, on a task once it waits | `socketio::inbox`, `socketio::socket` |
//! | 8 | "to this room, except me" | `socketio::broadcast` |
//! | 9 | the log that gives all nodes one order | `cluster` |
//! | 10 | who is here? | `socketio::rooms` |
//! | 11 | encoded once per framing, pushed into bounded queues | `fanout` |
//! | 12 | whoever pushed, or the recipient's task, drains the queue; bytes leave | `server::driver`, `transport` |
//!
//! Steps 10 to 12 are the same for local and remote broadcasts. Only `transport` and `server` touch the
//! network (and `cluster::redis`, `jwt`, towards servers of ours).

#![forbid(unsafe_code)]

mod cluster;
pub mod engine;
mod fanout;
mod jwt;
mod server;
mod socketio;
mod transport;

pub mod config;
mod error;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
mod metrics;
mod random;
mod time;

#[cfg(test)]
mod simulation;

pub use self::cluster::redis::Redis;
pub use self::config::Config;
pub use self::engine::TransportKind;
pub use self::engine::handshake::{Handshake, HandshakeError, Refusal};
pub use self::engine::packet::{Message, Str};
pub use self::error::{
    AckError, CloseReason, ConfigError, DataError, EmitError, LinkError, PeerMisbehaved,
    RedisError, ServeError, TokenError,
};
pub use self::fanout::SlowReader;
pub use self::jwt::{Claims, Jwt};
pub use self::metrics::{AppCounter, AppGauge, Metrics};
pub use self::server::{
    Builder, EngineServer, EngineSocket, ForEngine, ForSocketIo, Server, raise_descriptor_limit,
};
pub use self::socketio::packet::{Args, Payload};
pub use self::socketio::{
    Ack, Answers, Auth, Broadcast, ConnectError, Delivery, DynamicNamespace, Event, EventHandler,
    Fetched, FromArgs, HandlerError, HandlerFuture, IntoRooms, Namespace, Outcome, Prepared,
    RemoteSocket, Sender, ServerAck, Socket,
};

/// The README's application compiles.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
