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
    /// The id under which the sending node waits for the one receiver's answer. (`packet.id`; such an event
    /// is in the log to keep its place in the order, and is not recovered.)
    pub(crate) ack: Option<u64>,
}

impl Default for Flags {
    fn default() -> Self {
        Self { volatile: false, compress: true, ack: None }
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

impl Message {
    /// Whom it is for; `None` when it is for applications.
    pub(crate) fn target(&self) -> Option<&Target> {
        match self {
            Self::Broadcast { target, .. }
            | Self::Join { target, .. }
            | Self::Leave { target, .. }
            | Self::Disconnect { target, .. } => Some(target),
            Self::ServerSideEmit { .. } => None,
        }
    }
}

impl Message {
    /// Can it matter to who comes back? Volatile events and those that want an answer do not.
    pub(crate) fn is_recoverable(&self) -> bool {
        match self {
            Self::Broadcast { flags, .. } => !flags.volatile && flags.ack.is_none(),
            Self::Join { .. } | Self::Leave { .. } | Self::Disconnect { .. } => true,
            Self::ServerSideEmit { .. } => false,
        }
    }

    /// About what it takes to remember it.
    pub(crate) fn bytes(&self) -> usize {
        let args = match self {
            Self::Broadcast { args, .. } | Self::ServerSideEmit { args } => args.len_bytes(),
            Self::Join { rooms, .. } | Self::Leave { rooms, .. } => {
                rooms.iter().map(|room| room.len()).sum()
            }
            Self::Disconnect { .. } => 0,
        };
        let names = self.target().map_or(0, |target| {
            target.rooms.iter().chain(&target.except).map(|room| room.len() + 16).sum()
        });
        size_of::<Self>() + args + names
    }
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
    /// So many of them will not: they have disconnected, or took longer than their node waits.
    NoMore(usize),
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
