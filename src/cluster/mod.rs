//! One node's view of the others.
//!
//! Two classes of traffic (DESIGN D3): a *durable, ordered* log for broadcasts, joins, leaves and
//! disconnects, and *ephemeral* requests with replies. Every broadcast goes through the log, the node's
//! own included, and is delivered from there (D2): delivery code exists once, and all nodes see one
//! order (G2).
//!
//! While connection state recovery is on, a log also remembers its end ([`history`]) and keeps the
//! sessions of sockets ([`session`]).
//!
//! ```text
//! namespace ── Log::publish ──▶ the log ──▶ Replica::deliver   on every node, this one included
//!           ── Log::request ──▶ other nodes: Replica::answer ──▶ Replies
//! ```

#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
pub(crate) mod history;
pub(crate) mod load;
pub(crate) mod memory;
pub(crate) mod message;
pub(crate) mod redis;
pub(crate) mod session;
pub(crate) mod wire;

use std::sync::{Arc, Weak};

use futures_util::future::BoxFuture;
use tokio::sync::mpsc;

use self::history::{At, Early, Gap, Offset, Past};
use self::load::Load;
use self::message::{Message, Reply, Request, Target};
use self::session::{LetGo, Sessions};
pub(crate) use self::wire::StreamId;
use crate::engine::packet::Str;
use crate::error::EmitError;

/// What connects the nodes. One for a process; [`memory::MemoryBus`] without a cluster.
pub(crate) trait Bus: Send + Sync {
    /// Joins the log of one namespace. `replica` is delivered to until it is dropped.
    fn attach(&self, nsp: &Str, replica: Weak<dyn Replica>) -> Arc<dyn Log>;

    /// Is the node cut off from the others for now?
    fn is_degraded(&self) -> bool;

    /// Tells the other nodes how many sessions this one has. May be lost.
    fn report(&self, _load: Load) {}

    /// What the other nodes have told of late; nothing of those that tell nothing.
    fn loads(&self) -> Vec<Load> {
        Vec::new()
    }

    /// Publishes what was accepted and leaves the cluster; takes no longer than a few seconds.
    fn close(&self) -> BoxFuture<'static, ()>;
}

/// The log of one namespace, as one node holds it.
pub(crate) trait Log: Send + Sync {
    /// Appends a message. It is delivered to every replica in the order of the log; this call may return
    /// before that. Gives its number for [`Log::delivered`].
    ///
    /// # Errors
    /// [`EmitError::BusFull`] or [`EmitError::Encode`]: nothing was appended.
    fn publish(&self, message: Message) -> Result<u64, EmitError>;

    /// Waits until this node has delivered what it appended as this number; `None`: it has.
    fn delivered(&self, number: u64) -> Option<BoxFuture<'static, ()>>;

    /// Asks every *other* node.
    fn request(&self, request: Request) -> Replies;

    /// How many nodes have the namespace, this one included; `None` when nobody can tell now.
    fn nodes(&self) -> BoxFuture<'static, Option<usize>>;

    /// This node's name in the namespace: names the owner of a session.
    fn name(&self) -> &Str;

    /// Names this node in what it appends ([`history::Origin`]).
    fn node(&self) -> &Str;

    // --- for recovery

    /// What has been delivered here.
    fn mark(&self) -> Offset;

    /// Where this node last may have missed something of the log: it does not know that it has delivered all that was
    /// before.
    fn gap(&self) -> Gap;

    /// Everything behind this is in [`Log::past`].
    fn oldest(&self) -> StreamId;

    /// The entries of the namespace that were delivered here behind `after`; `None` if some may be gone.
    fn past(&self, after: StreamId) -> Option<Vec<Arc<Past>>>;

    /// Waits until this node has delivered the entry `id`, for a client that has seen more of the log
    /// elsewhere. Waits for ever if there is no such entry.
    fn reached(&self, id: StreamId) -> BoxFuture<'static, ()>;

    /// What this node has delivered ahead of the log lately.
    fn early(&self) -> Vec<Early>;

    /// Acts while nothing is delivered. `act` must not publish.
    fn exclusive(&self, act: &mut dyn FnMut());

    /// The sessions of the namespace.
    fn sessions(&self) -> &dyn Sessions;
}

/// A namespace on one node, as the bus sees it. Calls never block and never run user code.
pub(crate) trait Replica: Send + Sync {
    /// Applies the next message of the log to the sockets of this node.
    fn deliver(&self, at: &At, message: &Message);

    /// Could a socket of this node be meant? A cheap look before a payload is decoded.
    fn addresses(&self, target: &Target) -> bool;

    /// Answers a request of another node. The reply may be more than one (acks of a broadcast), so it is
    /// sent, not returned; dropping the sender says that nothing more comes.
    fn answer(&self, request: &Request, replies: mpsc::UnboundedSender<Reply>);

    /// Lets go of the socket of this session, which goes on elsewhere. `None`: nothing is known of it.
    fn let_go(&self, pid: &str) -> Option<LetGo>;
}

/// The bus cannot take more now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BusFull;

/// The answers to a request, as they come. The channel ends when all nodes are done; who waits brings a
/// deadline along.
pub(crate) type Replies = mpsc::UnboundedReceiver<Reply>;
