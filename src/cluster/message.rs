//! What travels between nodes. A broadcast is always a cluster message; the local node is simply one of
//! its receivers.

use std::time::Duration;

use crate::engine::packet::Str;
use crate::socketio::packet::Args;

/// Whom a message is for: everyone in one of `rooms` (everyone at all if there are none) who is in none
/// of `except`. A socket's id is a room that only it is in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) rooms: Vec<Str>,
    pub(crate) except: Vec<Str>,
}

/// How an event is to be sent (`opts.flags` of Node's adapter).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Flags {
    /// Drop it for peers whose connection takes nothing right now.
    pub(crate) volatile: bool,
    /// May the transport compress it?
    pub(crate) compress: bool,
}

impl Default for Flags {
    fn default() -> Self {
        Self { volatile: false, compress: true }
    }
}

/// An entry of the log.
#[derive(Clone, Debug)]
pub(crate) enum Message {
    Broadcast {
        args: Args,
        target: Target,
        flags: Flags,
    },
    Join {
        target: Target,
        rooms: Vec<Str>,
    },
    Leave {
        target: Target,
        rooms: Vec<Str>,
    },
    /// `close`: the whole connection, not only this namespace.
    Disconnect {
        target: Target,
        close: bool,
    },
    /// An event for the applications, not for clients. Nodes send a request instead; the emitter of
    /// Node's adapter writes these into the log.
    ServerSideEmit {
        args: Args,
    },
}

/// A question to the other nodes.
#[derive(Clone, Debug)]
pub(crate) enum Request {
    /// A broadcast that every receiver acknowledges, within this time.
    Broadcast {
        args: Args,
        target: Target,
        flags: Flags,
        timeout: Option<Duration>,
    },
    FetchSockets {
        target: Target,
    },
    /// An event for the applications of the other nodes, which each answer once if that is wanted.
    ServerSideEmit {
        args: Args,
        wanted: bool,
    },
}

/// An answer of one node.
#[derive(Debug)]
pub(crate) enum Reply {
    /// So many sockets will acknowledge.
    ClientCount(usize),
    /// One of them did.
    Ack(Args),
    /// The sockets that were asked for.
    Sockets(Vec<SocketInfo>),
    /// What the application of one node said to a server-side event.
    ServerSideAnswer(Args),
    /// So many nodes are gone and will not answer.
    Missing(usize),
}

/// A socket as other nodes see it (Node's `fetchSockets`).
#[derive(Clone, Debug)]
pub(crate) struct SocketInfo {
    pub(crate) id: Str,
    /// In Node's shape: `headers`, `time`, `address`, `xdomain`, `secure`, `issued`, `url`, `query`, `auth`.
    pub(crate) handshake: serde_json::Value,
    pub(crate) rooms: Vec<Str>,
    pub(crate) data: serde_json::Value,
}
