//! Sessions for connection state recovery: what is kept of a socket, and who keeps it.

use std::collections::VecDeque;
use std::time::Duration;

use futures_util::future::BoxFuture;
use serde_json::Value;

use super::history::{Early, Offset};
use super::wire::StreamId;
use crate::engine::packet::Str;

/// A stay in a room: for entries behind `since`, up to `until`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) room: Str,
    pub(crate) since: StreamId,
    /// `None` while it lasts.
    pub(crate) until: Option<StreamId>,
}

/// The last entries that a socket was sent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sent {
    /// What was sent behind this is in `ids`, all of it.
    pub(crate) behind: StreamId,
    pub(crate) ids: VecDeque<StreamId>,
}

/// All that is known of a session: enough to go on with it anywhere.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Record {
    /// The namespace; empty for a session that Node stored, which does not say.
    pub(crate) nsp: Str,
    /// The socket's id.
    pub(crate) sid: Str,
    /// The secret by which the client gets it back.
    pub(crate) pid: Str,
    /// `socket.data`.
    pub(crate) data: Value,
    /// Whose it is, as the application said.
    pub(crate) identity: Option<Str>,
    /// Nothing before is the session's.
    pub(crate) start: StreamId,
    /// The record tells how things were when everything up to here had been delivered. `None` for a session
    /// that Node stored: as of the client's offset.
    pub(crate) at: Option<Offset>,
    /// The rooms, without its own.
    pub(crate) rooms: Vec<Span>,
    /// Stays that ended up to here are not all among them.
    pub(crate) forgotten: StreamId,
    /// Nothing is written of the socket any more: what is done to it from now on is in the log alone.
    pub(crate) is_last: bool,
    pub(crate) sent: Option<Sent>,
    pub(crate) early: Vec<Early>,
    /// With this offset the client came when the session was new. It is from an earlier one (official clients
    /// keep it), and behind the start of this one: the node that began it was behind another.
    pub(crate) leftover: Option<Offset>,
    /// The same, of an offset that nothing in this session has: a client that shows it has got nothing here.
    pub(crate) unsent: Option<Offset>,
    /// The node that wrote this; as [`Self::owner`], which may have taken it since without saying more.
    pub(crate) by: Str,
    /// The generation in which it did; `None` if it does not say, or if this comes from the owner itself.
    pub(crate) written: Option<u64>,
    /// What the client claimed to have (an offset, or nothing) when the session was first taken since; `None` if it
    /// was not.
    pub(crate) taken: Option<Str>,
    /// The node that has the socket, or had it last: its name for this namespace ([`super::Log::name`]).
    pub(crate) owner: Str,
    /// Rises with every change of the owner. Who holds an older one may not write any more.
    pub(crate) generation: u64,
    /// What the store knows this value by: its owner may write another one any time. `None` for one that does
    /// not come from the store.
    pub(crate) stamp: Option<Str>,
}

impl Record {
    /// Has the session been taken since this was written, be it by the same node?
    pub(crate) fn is_taken(&self) -> bool {
        self.by != self.owner || self.written.is_some_and(|written| written != self.generation)
    }

    /// The same, and the client may have got something since of which this says nothing: it has no longer what it
    /// had then, or something ahead of the log, whose number another node may give as well.
    pub(crate) fn is_old(&self, offset: Offset) -> bool {
        let has_the_same = self.taken.as_ref().is_some_and(|taken| **taken == *offset.to_string());
        self.is_taken() && !(has_the_same && offset.early == 0)
    }
}

/// The store cannot be reached, or takes too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unavailable;

/// What became of an attempt to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Written {
    Done,
    /// The session belongs to another node meanwhile.
    Fenced,
}

/// What an owner says when a client has come back elsewhere.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum LetGo {
    /// The session as it was at last. The owner has let go of it.
    Record(Box<Record>),
    /// It ended for good; that may not be stored yet.
    Ended,
}

/// Keeps the records of one namespace, for all nodes. A call waits as long as the store answers others, so that
/// a thousand clients that come back at once are served one after the other; it ends within a second once the
/// store is silent.
pub(crate) trait Sessions: Send + Sync {
    /// Do records outlive this process? Otherwise they need to be written only when a socket closes.
    fn outlive_the_node(&self) -> bool;

    /// The record of a private id.
    fn load(&self, pid: &str) -> BoxFuture<'static, Result<Option<Record>, Unavailable>>;

    /// Makes `owner` the owner, if nobody else has become that since the record was loaded, and nobody has
    /// written another one. `Done` means that the generation is now the record's plus one. `claim`: see
    /// [`Record::taken`].
    fn take(
        &self,
        record: &Record,
        owner: &Str,
        claim: Str,
    ) -> BoxFuture<'static, Result<Written, Unavailable>>;

    /// Writes the record, to be kept for `ttl`, unless a newer generation exists.
    fn store(
        &self,
        record: Record,
        ttl: Duration,
    ) -> BoxFuture<'static, Result<Written, Unavailable>>;

    /// Forgets the record, unless a newer generation exists. For `ttl` nobody with an older one can bring it
    /// back.
    fn remove(
        &self,
        record: Record,
        ttl: Duration,
    ) -> BoxFuture<'static, Result<Written, Unavailable>>;

    /// Asks the owner to let go of a socket that still looks alive there. `None`: it knows nothing, or is
    /// gone; what is stored counts.
    fn call_in(&self, owner: &str, pid: &str) -> BoxFuture<'static, Option<LetGo>>;
}
