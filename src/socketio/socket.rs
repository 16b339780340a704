//! One client in one namespace: what an application holds.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures_util::FutureExt as _;
use parking_lot::{Mutex, RwLock};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::ack::{NotPending, Pending, Waiter};
use super::broadcast::Broadcast;
use super::connection::Shared as Connection;
use super::handler::{ConnectError, Event, EventHandler, Outcome};
use super::inbox::{Inbox, Work};
use super::live::Place;
use super::namespace::{Inner as NamespaceInner, Namespace};
use super::packet::{Codec, Outgoing};
use super::recovery::Track;
use super::registered::{AnyFn, CloseFn, Handlers};
use super::room_names::IntoRooms;
use super::token::Shown;
use crate::cluster::StreamId;
use crate::cluster::message::SocketInfo;
use crate::engine::TransportKind;
use crate::engine::door::Limit;
use crate::engine::handshake::Handshake;
use crate::engine::packet::Str;
use crate::error::{CloseReason, DataError, EmitError};
use crate::fanout::{Encoded, SlowReader, Verdict};
use crate::socketio::packet::Args;

/// How much wider an inbox is while the server waits for an answer of its client.
const ACK_SLACK: usize = 4;

/// A log brings back what was appended within less than that, if at all.
const LONGEST_GOODBYE: Duration = Duration::from_secs(5);

/// One client in one namespace. Cheap to clone; all clones are the same socket.
///
/// Handlers registered here run one after the other, in the order in which their events came. One that has
/// to wait for something does so on a task of its own; heartbeats do not wait with it. (What it does
/// before it waits delays its own client only.) A handler that wants concurrency spawns. While a
/// handler is busy, further events queue up to `inbox_events` and `inbox_bytes`; then the server stops
/// reading from this client until there is room.
#[derive(Clone)]
pub struct Socket(pub(crate) Arc<Inner>);

pub(crate) struct Inner {
    pub(crate) id: Str,
    pub(crate) namespace: Arc<NamespaceInner>,
    pub(crate) connection: Arc<Connection>,
    auth: serde_json::Value,
    pub(super) connected: AtomicBool,
    /// Rooms that it joined before it entered the namespace; `None` from then on.
    pub(super) rooms_to_be: Mutex<Option<Vec<Str>>>,
    /// What outlives the connection, while recovery is on.
    pub(super) session: Option<Box<Session>>,
    pub(super) data: Mutex<serde_json::Value>,
    pub(super) handlers: RwLock<Handlers>,
    /// Number of listeners for sent events, so that a broadcast need not take a lock to find none.
    outgoing: AtomicUsize,
    pub(super) inbox: Mutex<Inbox>,
    pending: Mutex<Pending>,
    pub(super) token: Mutex<Shown>,
    /// The rooms at the moment of the disconnect, for `on_disconnecting`.
    pub(super) last_rooms: Mutex<Option<Vec<Str>>>,
}

/// Each client has one: with the counts of its `Arc` it is to fit what allocators have for 448 bytes.
const _: () = assert!(size_of::<Inner>() <= 432);

/// What outlives a socket's connection.
pub(crate) struct Session {
    /// The secret by which the client gets the socket back.
    pub(super) pid: Str,
    pub(super) recovered: bool,
    pub(super) identity: Mutex<Option<Str>>,
    /// In the lock order after the rooms and before outboxes.
    pub(super) track: Mutex<Track>,
    pub(super) generation: AtomicU64,
    /// It goes on elsewhere, or is over: nothing is written any more.
    pub(super) over: AtomicBool,
    /// Is it to be written already?
    pub(super) dirty: AtomicBool,
    /// Has the store refused it?
    pub(super) refused: AtomicBool,
    /// It is to end for good as soon as what was emitted before has been sent.
    pub(super) condemned: AtomicBool,
    /// The number of the last event that was appended to the log for it alone.
    pub(super) appended: AtomicU64,
    /// Where the node was before the socket left. What is delivered from then on it need not have got, whoever asks.
    pub(super) left: OnceLock<Box<Place>>,
}

impl Session {
    pub(super) fn new(pid: Str, start: StreamId, recovered: bool) -> Self {
        Self {
            pid,
            recovered,
            identity: Mutex::new(None),
            track: Mutex::new(Track::new(start)),
            generation: AtomicU64::new(1),
            over: AtomicBool::new(false),
            dirty: AtomicBool::new(false),
            refused: AtomicBool::new(false),
            condemned: AtomicBool::new(false),
            appended: AtomicU64::new(0),
            left: OnceLock::new(),
        }
    }

    /// An event for it is on its way through the log.
    pub(super) fn appended(&self, number: u64) {
        self.appended.fetch_max(number, Ordering::AcqRel);
    }

    pub(super) fn set_generation(&self, generation: u64) {
        self.generation.store(generation, Ordering::Release);
    }
}

impl fmt::Debug for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nsp = &self.0.namespace.name;
        f.debug_struct("Socket").field("nsp", &nsp.as_str()).field("id", &self.id()).finish()
    }
}

impl Socket {
    pub(crate) fn new(
        id: Str,
        namespace: Arc<NamespaceInner>,
        connection: Arc<Connection>,
        auth: serde_json::Value,
        data: serde_json::Value,
        session: Option<Session>,
    ) -> Self {
        Self(Arc::new(Inner {
            id,
            namespace,
            connection,
            auth,
            connected: AtomicBool::new(false),
            rooms_to_be: Mutex::new(Some(Vec::new())),
            session: session.map(Box::new),
            data: Mutex::new(data),
            handlers: RwLock::default(),
            outgoing: AtomicUsize::new(0),
            inbox: Mutex::default(),
            pending: Mutex::default(),
            token: Mutex::default(),
            last_rooms: Mutex::new(None),
        }))
    }

    // --- who it is

    /// The socket's id: public, one for each namespace a client is in, and a room that only it is in.
    pub fn id(&self) -> &str {
        &self.0.id
    }

    /// The namespace.
    pub fn namespace(&self) -> Namespace {
        Namespace(self.0.namespace.clone())
    }

    /// The request that opened the connection.
    pub fn handshake(&self) -> &Handshake {
        &self.0.connection.handshake
    }

    /// The `auth` payload of this namespace's CONNECT, `{}` if there was none.
    pub fn auth(&self) -> &serde_json::Value {
        &self.0.auth
    }

    /// The transport that carries the connection now.
    pub fn transport(&self) -> TransportKind {
        self.0.connection.transport()
    }

    /// Is it connected to its namespace?
    pub fn is_connected(&self) -> bool {
        self.0.connected.load(Ordering::Acquire)
    }

    /// Did the client get this socket back after it had lost its connection? Its id, rooms and data are then
    /// as they were, and what it had missed was sent again. In middlewares: is it about to?
    ///
    /// Always `false` while connection state recovery is off.
    pub fn recovered(&self) -> bool {
        self.0.session.as_ref().is_some_and(|session| session.recovered)
    }

    /// Says whose socket this is; for middlewares. A session goes on only for the identity that it began
    /// with: when a client comes back and the middlewares say something else (or nothing where they said
    /// something before), it gets a new session, and nothing of the old one.
    pub fn set_identity(&self, identity: impl Into<String>) {
        if let Some(session) = &self.0.session {
            *session.identity.lock() = Some(identity.into().into());
            self.changed();
        }
    }

    // --- data

    /// The application's data of this socket (`socket.data` in Node), `{}` at first.
    ///
    /// # Errors
    /// [`DataError`], if what is kept is not a `T`.
    pub fn data<T: DeserializeOwned>(&self) -> Result<T, DataError> {
        let data = match &*self.0.data.lock() {
            serde_json::Value::Null => serde_json::Value::Object(serde_json::Map::new()),
            data => data.clone(),
        };
        serde_json::from_value(data).map_err(DataError::of)
    }

    /// Replaces the data. Other nodes see it in [`Namespace::fetch_sockets`]; it should be an object.
    ///
    /// # Errors
    /// [`DataError`], if it cannot be serialized.
    pub fn set_data<T: Serialize>(&self, data: T) -> Result<(), DataError> {
        let data = serde_json::to_value(data).map_err(DataError::of)?;
        *self.0.data.lock() = data;
        self.changed();
        Ok(())
    }

    // --- rooms

    /// Joins rooms: those that fit. Above [`max_rooms`](crate::config::SocketIoConfig::max_rooms), and where
    /// a name is longer than `max_name_bytes`, it does not join, which is counted and logged.
    pub fn join<R: IntoRooms>(&self, rooms: R) {
        let rooms = rooms.into_rooms();
        if let Some(waiting) = &mut *self.0.rooms_to_be.lock() {
            waiting.extend(self.fitting(&rooms, waiting));
            return;
        }
        let at = self.0.session.as_ref().map(|_| self.0.namespace.log.mark().id);
        self.join_at(&rooms, at);
    }

    /// Leaves rooms. The room of its own id it cannot leave.
    pub fn leave<R: IntoRooms>(&self, rooms: R) {
        let rooms = rooms.into_rooms();
        if let Some(waiting) = &mut *self.0.rooms_to_be.lock() {
            waiting.retain(|room| !rooms.contains(room));
            return;
        }
        let at = self.0.session.as_ref().map(|_| self.0.namespace.log.mark().id);
        self.leave_at(&rooms, at);
    }

    /// The rooms that it is in, its own id first. In `on_disconnecting` those that it was in.
    pub fn rooms(&self) -> Vec<Str> {
        if let Some(rooms) = &*self.0.last_rooms.lock() {
            return rooms.clone();
        }
        if let Some(waiting) = &*self.0.rooms_to_be.lock() {
            return std::iter::once(&self.0.id).chain(waiting).cloned().collect();
        }
        self.0.namespace.rooms.lock().rooms_of(&self.0.id)
    }

    // --- handlers

    /// Handles an event. Several handlers of one event run in the order of their registration.
    pub fn on<M, H: EventHandler<M>>(&self, event: impl Into<String>, handler: H) {
        let handler = move |socket, args: &Args, ack| handler.call(socket, args, ack);
        self.0.handlers.write().add(event.into().into(), Arc::new(handler));
    }

    /// Forgets the handlers of an event.
    pub fn off(&self, event: &str) {
        let mut forgotten = Vec::new();
        let mut handlers = self.0.handlers.write();
        let events = std::mem::take(&mut handlers.events);
        for handler in events {
            let list =
                if handler.0.as_str() == event { &mut forgotten } else { &mut handlers.events };
            list.push(handler);
        }
        drop(handlers);
        drop(forgotten); // the application's values, outside the lock
    }

    /// Sees every event of the client before its handlers do (Node's `onAny`).
    pub fn on_any<F, Fut, O>(&self, listener: F)
    where
        F: Fn(Self, Event) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = O> + Send + 'static,
        O: Outcome,
    {
        self.0.handlers.write().rare().any.push(any_fn(listener));
    }

    /// Sees every event that is sent to the client, broadcasts among them (Node's `onAnyOutgoing`).
    pub fn on_any_outgoing<F, Fut, O>(&self, listener: F)
    where
        F: Fn(Self, Event) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = O> + Send + 'static,
        O: Outcome,
    {
        self.0.handlers.write().rare().any_outgoing.push(any_fn(listener));
        self.0.outgoing.fetch_add(1, Ordering::Release);
    }

    /// Looks at every event of the client before its handlers do (and after [`Self::on_any`]); an
    /// `Err` drops the event (Node's `socket.use`). The error is logged.
    pub fn middleware<F, Fut, E>(&self, middleware: F)
    where
        F: Fn(Self, Event) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<ConnectError>,
    {
        let middleware = move |socket, event| {
            let future = middleware(socket, event);
            async move { future.await.map_err(Into::into) }.boxed()
        };
        self.0.handlers.write().rare().middlewares.push(Arc::new(middleware));
    }

    /// Runs when the socket disconnects, with its rooms still to be seen.
    pub fn on_disconnecting<F, Fut, O>(&self, handler: F)
    where
        F: Fn(Self, CloseReason) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = O> + Send + 'static,
        O: Outcome,
    {
        self.0.handlers.write().rare().disconnecting.push(close_fn(handler));
    }

    /// Runs when the socket has disconnected, after everything that came before.
    pub fn on_disconnect<F, Fut, O>(&self, handler: F)
    where
        F: Fn(Self, CloseReason) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = O> + Send + 'static,
        O: Outcome,
    {
        self.0.handlers.write().rare().disconnect.push(close_fn(handler));
    }

    // --- sending to others

    /// Everyone in the namespace but this socket.
    pub fn broadcast(&self) -> Broadcast {
        Broadcast::new(self.0.namespace.clone()).except(self.id())
    }

    /// Everyone in these rooms but this socket.
    pub fn to<R: IntoRooms>(&self, rooms: R) -> Broadcast {
        self.broadcast().to(rooms)
    }

    /// The same as [`Socket::to`].
    pub fn in_room<R: IntoRooms>(&self, rooms: R) -> Broadcast {
        self.to(rooms)
    }

    /// Everyone in the namespace but those in these rooms and this socket.
    pub fn except<R: IntoRooms>(&self, rooms: R) -> Broadcast {
        self.broadcast().except(rooms)
    }

    /// Everyone connected to this node but this socket.
    pub fn local(&self) -> Broadcast {
        self.broadcast().local()
    }

    // --- ending

    /// Puts the client out of the namespace; with `close`, ends its whole connection. What was emitted to it
    /// before is sent first: with recovery over Redis, that is on its way through the log, and the end waits for it.
    ///
    /// Official clients do not come back by themselves after this.
    pub fn disconnect(&self, close: bool) {
        let appended =
            self.0.session.as_ref().map(|session| session.appended.load(Ordering::Acquire));
        let on_its_way = appended.and_then(|number| self.0.namespace.log.delivered(number));
        let Some(on_its_way) = on_its_way else { return self.disconnect_now(close) };
        // From here on the client is not heard any more, and does not come back as this, whatever becomes of its link.
        match close {
            true => self.0.connection.sockets().iter().for_each(Self::condemn),
            false => self.condemn(),
        }
        let socket = self.clone();
        self.0.connection.spawn(async move {
            let _ = tokio::time::timeout(LONGEST_GOODBYE, on_its_way).await;
            socket.disconnect_now(close);
        });
    }

    fn condemn(&self) {
        if let Some(session) = &self.0.session {
            session.condemned.store(true, Ordering::Release);
        }
    }

    /// Is it about to be put out?
    pub(super) fn is_condemned(&self) -> bool {
        let session = self.0.session.as_ref();
        session.is_some_and(|session| session.condemned.load(Ordering::Acquire))
    }

    /// The same, whatever is on its way.
    pub(super) fn disconnect_now(&self, close: bool) {
        if close {
            self.0.connection.disconnect();
        } else {
            self.disconnect_from_namespace();
        }
    }

    // --- inside

    pub(crate) fn disconnect_from_namespace(&self) {
        if self.0.connection.leave(self) {
            self.put_out();
        }
    }

    /// Tells the client, and ends. The connection has forgotten the socket already, so that nobody else does
    /// the same, and an answer of the client finds the namespace left.
    pub(crate) fn put_out(&self) {
        let frames = self.codec().encode(&self.0.namespace.name, Outgoing::Disconnect);
        let _ = self.push(Arc::new(Encoded::new(frames, true)), false);
        let reason = CloseReason::ServerNamespaceDisconnect;
        if self.leave_namespace(reason) {
            // by a task, though nobody may listen: who puts sockets out may hold the lock that orders deliveries,
            // and what the application's handlers hold may want it when they are dropped
            self.work(Work::Disconnected(reason));
        }
    }

    pub(crate) fn codec(&self) -> Codec {
        self.0.namespace.codec
    }

    /// From now on it takes part in the namespace. Its inbox waits for its start.
    pub(crate) fn open(&self) {
        // first: as soon as it counts as connected, others may have work for it
        let is_first = self.queue(Work::Connected);
        debug_assert!(is_first, "nothing comes before a socket is in its namespace");
        self.0.connected.store(true, Ordering::Release);
        self.0.namespace.metrics.sockets.inc();
    }

    /// Takes it out of the namespace. Does nothing the second time. For callers that hold no locks.
    pub(crate) fn close(&self, reason: CloseReason) {
        if self.leave_namespace(reason) {
            self.say_goodbye(reason);
        }
    }

    /// `true`: it was in.
    fn leave_namespace(&self, reason: CloseReason) -> bool {
        self.marks_place();
        let was_connected = self.0.connected.swap(false, Ordering::AcqRel);
        // a successor may have the same id: only who is in goes out
        let rooms = was_connected.then(|| self.0.namespace.remove(&self.0.id)).flatten();
        self.end_session(reason);
        self.0.connection.clean_up(&self.0.namespace);
        self.0.pending.lock().close();
        self.forget_expiry();
        if was_connected {
            *self.0.last_rooms.lock() = rooms;
            self.0.namespace.metrics.sockets.dec();
        } else if self.0.inbox.lock().is_idle() {
            // never connected: what a middleware registered would hold the socket for ever
            self.forget_handlers();
        }
        was_connected
    }

    /// Handlers often hold a clone of the socket, which holds them: this breaks the circle.
    pub(super) fn forget_handlers(&self) {
        let handlers = std::mem::take(&mut *self.0.handlers.write());
        drop(handlers); // the application's values, outside the lock
    }

    pub(crate) fn resolve(&self, id: u64, args: Args) {
        self.0.pending.lock().resolve(id, args);
    }

    pub(crate) fn answer(&self, id: u64, args: &Args) -> Result<(), EmitError> {
        let packet = Outgoing::Ack { id, args };
        let frames = self.codec().encode(&self.0.namespace.name, packet);
        self.push(Arc::new(Encoded::new(frames, true)), false)
    }

    /// Hands an encoded packet to the connection.
    pub(crate) fn push(&self, message: Arc<Encoded>, volatile: bool) -> Result<(), EmitError> {
        self.push_as(message, volatile, self.0.namespace.slow_reader())
    }

    /// The same, for many sockets of one namespace, whose rule is looked up once.
    pub(super) fn push_as(
        &self,
        message: Arc<Encoded>,
        volatile: bool,
        slow: SlowReader,
    ) -> Result<(), EmitError> {
        match self.0.connection.push(message, volatile, slow) {
            Verdict::Queued | Verdict::QueuedFor(_) | Verdict::DroppedVolatile => Ok(()),
            Verdict::Overflow => Err(EmitError::OutboxFull),
            Verdict::Closed => Err(EmitError::Disconnected),
        }
    }

    pub(crate) fn expect_ack(&self, id: u64, waiter: Waiter) -> Result<(), NotPending> {
        let max = self.0.namespace.config.max_pending_acks;
        let inserted = self.0.pending.lock().insert(id, waiter, max);
        if inserted == Err(NotPending::Full) {
            self.met(Limit::PendingAcks);
        }
        inserted?;
        // A handler that waits for an answer must not keep us from reading it.
        let config = &self.0.namespace.config;
        let bounds = (config.inbox_events * ACK_SLACK, config.inbox_bytes * ACK_SLACK);
        if self.0.inbox.lock().relax(bounds.0, bounds.1) {
            self.0.connection.inbox_freed();
        }
        Ok(())
    }

    /// The inbox's bounds: wider while we wait for an answer of the client, which comes behind its events.
    pub(super) fn inbox_bounds(&self) -> (usize, usize) {
        let config = &self.0.namespace.config;
        let slack = if self.0.pending.lock().is_empty() { 1 } else { ACK_SLACK };
        (config.inbox_events * slack, config.inbox_bytes * slack)
    }

    pub(crate) fn forget_ack(&self, id: u64) {
        self.0.pending.lock().remove(id);
    }

    /// Tells the listeners for sent events, if there are any.
    pub(crate) fn notify_sent(&self, args: &Args) {
        if self.0.outgoing.load(Ordering::Acquire) > 0 {
            self.work(Work::Sent { args: args.clone() });
        }
    }

    pub(crate) fn info(&self) -> SocketInfo {
        let data = self.0.data.lock().clone();
        SocketInfo {
            id: self.0.id.clone(),
            handshake: self.0.connection.handshake_json(&self.public_auth()),
            rooms: self.rooms(),
            data: if data.is_null() { serde_json::json!({}) } else { data },
        }
    }
}

fn any_fn<F, Fut, O>(listener: F) -> Arc<AnyFn>
where
    F: Fn(Socket, Event) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = O> + Send + 'static,
    O: Outcome,
{
    Arc::new(move |socket, event| {
        let future = listener(socket, event);
        Box::pin(async move { future.await.into_result() })
    })
}

fn close_fn<F, Fut, O>(handler: F) -> Arc<CloseFn>
where
    F: Fn(Socket, CloseReason) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = O> + Send + 'static,
    O: Outcome,
{
    Arc::new(move |socket, reason| {
        let future = handler(socket, reason);
        Box::pin(async move { future.await.into_result() })
    })
}
