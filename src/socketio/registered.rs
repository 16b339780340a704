//! What an application has registered with one socket.

use std::sync::Arc;

use futures_util::future::BoxFuture;

use super::handler::{ConnectError, Event, EventFn, HandlerFuture};
use super::socket::Socket;
use crate::engine::packet::Str;
use crate::error::CloseReason;

pub(super) type Admission = BoxFuture<'static, Result<(), ConnectError>>;
pub(super) type PacketMiddleware = dyn Fn(Socket, Event) -> Admission + Send + Sync;
pub(super) type CloseFn = dyn Fn(Socket, CloseReason) -> HandlerFuture + Send + Sync;
pub(super) type AnyFn = dyn Fn(Socket, Event) -> HandlerFuture + Send + Sync;

/// What the application registered. Lists, for there are few of each.
#[derive(Default)]
pub(super) struct Handlers {
    pub(super) events: Vec<(Str, Arc<EventFn>)>,
    /// Most sockets have none of these.
    pub(super) rare: Option<Box<RareHandlers>>,
}

#[derive(Default)]
pub(super) struct RareHandlers {
    pub(super) any: Vec<Arc<AnyFn>>,
    pub(super) any_outgoing: Vec<Arc<AnyFn>>,
    pub(super) middlewares: Vec<Arc<PacketMiddleware>>,
    pub(super) disconnecting: Vec<Arc<CloseFn>>,
    pub(super) disconnect: Vec<Arc<CloseFn>>,
}

impl Handlers {
    /// Without room for more: that would be kept for each client.
    pub(super) fn add(&mut self, event: Str, handler: Arc<EventFn>) {
        self.events.reserve_exact(1);
        self.events.push((event, handler));
    }

    pub(super) fn rare(&mut self) -> &mut RareHandlers {
        self.rare.get_or_insert_default()
    }

    /// A copy of one of the lists.
    pub(super) fn listed<T: ?Sized>(
        &self,
        list: impl FnOnce(&RareHandlers) -> &Vec<Arc<T>>,
    ) -> Vec<Arc<T>> {
        self.rare.as_deref().map_or_else(Vec::new, |rare| list(rare).clone())
    }
}
