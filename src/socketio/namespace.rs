//! One namespace on this node: who is in it, who may come in, and where broadcasts enter and arrive.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use parking_lot::{Mutex, RwLock};
use serde::Serialize;
use tokio::sync::mpsc;

use super::ack::Waiter;
use super::broadcast::{Broadcast, Fetched};
use super::handler::{Auth, ConnectError, FromArgs, HandlerFuture, Outcome};
use super::keeper::Keeper;
use super::packet::{Codec, Outgoing};
use super::prepared::Prepared;
use super::room_names::IntoRooms;
use super::rooms::Rooms;
use super::server_side::ServerSide;
use super::socket::Socket;
use super::tap::Tap;
use crate::cluster::history::{At, Offset, Way};
use crate::cluster::message::{Flags, Message, Reply, Request, Target};
use crate::cluster::session::{LetGo, Record};
use crate::cluster::{Bus, Log, Replica};
use crate::config::SocketIoConfig;
use crate::engine::packet::Str;
use crate::error::{AckError, EmitError};
use crate::fanout::{Encoded, SlowReader};
use crate::metrics::Metrics;
use crate::socketio::packet::Args;

/// A namespace. Cheap to clone; all clones are the same namespace.
#[derive(Clone)]
pub struct Namespace(pub(crate) Arc<Inner>);

pub(crate) struct Inner {
    pub(crate) name: Str,
    pub(crate) codec: Codec,
    pub(crate) config: Arc<SocketIoConfig>,
    pub(crate) metrics: Arc<Metrics>,
    /// In the lock order after the log's and before outboxes; no user code runs under it.
    pub(crate) rooms: Mutex<Rooms<Socket>>,
    pub(crate) log: Arc<dyn Log>,
    /// While recovery is on: who writes sessions, and the sockets of this node by their private ids.
    pub(super) keeper: Option<Arc<Keeper>>,
    pub(super) sessions: Mutex<HashMap<Str, Socket>>,
    this: Weak<Self>,
    gate: RwLock<Gate>,
    pub(super) server_side: ServerSide,
    pub(super) tap: Tap,
    /// Did a client's wish make it? Then it may go when the last socket has left.
    pub(crate) is_child: bool,
    /// Ack ids are counted for the whole namespace, as in Node, so that a broadcast has one for all.
    ack_ids: AtomicU64,
}

type Middleware =
    dyn Fn(Socket, Auth) -> BoxFuture<'static, Result<(), ConnectError>> + Send + Sync;
type ConnectFn = dyn Fn(Socket) -> HandlerFuture + Send + Sync;

/// What a client meets at the door. A dynamic namespace shares its parent's.
#[derive(Clone, Default)]
pub(crate) struct Gate {
    middlewares: Vec<Arc<Middleware>>,
    connect: Option<Arc<ConnectFn>>,
    slow_reader: SlowReader,
    /// Is it a dynamic namespace's?
    is_of_family: bool,
}

impl Gate {
    pub(crate) fn of_family(self) -> Self {
        Self { is_of_family: true, ..self }
    }

    pub(crate) fn add_middleware<F, Fut, E>(&mut self, middleware: F)
    where
        F: Fn(Socket, Auth) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<ConnectError>,
    {
        self.middlewares.push(Arc::new(move |socket, auth| {
            let future = middleware(socket, auth);
            async move { future.await.map_err(Into::into) }.boxed()
        }));
    }

    pub(crate) fn set_slow_reader(&mut self, slow: SlowReader) {
        self.slow_reader = slow;
    }

    pub(crate) fn set_connect<F, Fut, O>(&mut self, handler: F)
    where
        F: Fn(Socket) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = O> + Send + 'static,
        O: Outcome,
    {
        self.connect = Some(Arc::new(move |socket| {
            let future = handler(socket);
            Box::pin(async move { future.await.into_result() })
        }));
    }
}

impl fmt::Debug for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Namespace").field(&self.name()).finish()
    }
}

impl Namespace {
    /// The name, `/` for the main one.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Looks at every client that wants in, in the order of registration. The first error is the client's
    /// `connect_error`. The socket is not connected yet; data and rooms that it is given stay.
    pub fn middleware<F, Fut, E>(&self, middleware: F)
    where
        F: Fn(Socket, Auth) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<ConnectError>,
    {
        self.0.gate.write().add_middleware(middleware);
    }

    /// Runs for every socket that connects, before any of its events; register its handlers here.
    /// The last one set counts.
    pub fn on_connect<F, Fut, O>(&self, handler: F)
    where
        F: Fn(Socket) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = O> + Send + 'static,
        O: Outcome,
    {
        self.0.gate.write().set_connect(handler);
    }

    /// What becomes of clients of this namespace that read too slowly; [`SlowReader::DropVolatile`] without.
    pub fn slow_reader(&self, slow: SlowReader) {
        self.0.gate.write().set_slow_reader(slow);
    }

    /// The sockets of this node.
    pub fn local_sockets(&self) -> Vec<Socket> {
        self.0.connected(&Target::default())
    }

    /// The socket of that id, if it is connected to this node.
    pub fn local_socket(&self, id: &str) -> Option<Socket> {
        let socket = self.0.rooms.lock().value(id).cloned();
        socket.filter(Socket::is_connected)
    }

    fn all(&self) -> Broadcast {
        Broadcast::new(self.0.clone())
    }

    /// Everyone in these rooms.
    pub fn to<R: IntoRooms>(&self, rooms: R) -> Broadcast {
        self.all().to(rooms)
    }

    /// The same as [`Namespace::to`].
    pub fn in_room<R: IntoRooms>(&self, rooms: R) -> Broadcast {
        self.all().to(rooms)
    }

    /// Everyone but those in these rooms.
    pub fn except<R: IntoRooms>(&self, rooms: R) -> Broadcast {
        self.all().except(rooms)
    }

    /// Everyone, dropping the event where the connection takes nothing right now.
    pub fn volatile(&self) -> Broadcast {
        self.all().volatile()
    }

    /// Everyone, with or without compression by the transport.
    pub fn compress(&self, compress: bool) -> Broadcast {
        self.all().compress(compress)
    }

    /// Everyone connected to this node.
    pub fn local(&self) -> Broadcast {
        self.all().local()
    }

    /// Everyone, waiting so long for answers.
    pub fn timeout(&self, timeout: Duration) -> Broadcast {
        self.all().timeout(timeout)
    }

    /// Sends an event to everyone.
    ///
    /// # Errors
    /// [`EmitError`].
    pub async fn emit<T: Serialize + ?Sized>(
        &self,
        event: &str,
        data: &T,
    ) -> Result<(), EmitError> {
        self.all().emit(event, data).await
    }

    /// Encodes an event that many sockets are to get, each at a time of its own; see
    /// [`Socket::emit_prepared`]. A tuple is several arguments, everything else one.
    ///
    /// # Errors
    /// [`EmitError::Encode`].
    pub fn prepare<T: Serialize + ?Sized>(
        &self,
        event: &str,
        data: &T,
    ) -> Result<Prepared, EmitError> {
        let args = self.0.codec.args(Some(event), data)?;
        Ok(Prepared::new(&self.0, args))
    }

    /// Sends an event to everyone and collects the answers; see [`Broadcast::emit_with_ack`].
    ///
    /// # Errors
    /// [`AckError`].
    pub async fn emit_with_ack<T, R>(&self, event: &str, data: &T) -> Result<Vec<R>, AckError>
    where
        T: Serialize + ?Sized,
        R: FromArgs,
    {
        self.all().emit_with_ack(event, data).await.into_complete()
    }

    /// Everyone's sockets, on all nodes.
    pub async fn fetch_sockets(&self) -> Fetched {
        self.all().fetch_sockets().await
    }

    /// Puts everyone into rooms.
    ///
    /// # Errors
    /// [`EmitError::BusFull`].
    pub fn sockets_join<R: IntoRooms>(&self, rooms: R) -> Result<(), EmitError> {
        self.all().sockets_join(rooms)
    }

    /// Takes everyone out of rooms.
    ///
    /// # Errors
    /// [`EmitError::BusFull`].
    pub fn sockets_leave<R: IntoRooms>(&self, rooms: R) -> Result<(), EmitError> {
        self.all().sockets_leave(rooms)
    }

    /// Disconnects everyone, on all nodes.
    ///
    /// # Errors
    /// [`EmitError::BusFull`].
    pub fn disconnect_sockets(&self, close: bool) -> Result<(), EmitError> {
        self.all().disconnect_sockets(close)
    }
}

impl Inner {
    pub(crate) fn new(
        name: Str,
        codec: Codec,
        config: Arc<SocketIoConfig>,
        metrics: Arc<Metrics>,
        bus: &dyn Bus,
        keeper: Option<Arc<Keeper>>,
        gate: Gate,
    ) -> Arc<Self> {
        Arc::new_cyclic(|weak: &Weak<Self>| Self {
            log: bus.attach(&name, weak.clone()),
            name,
            codec,
            config,
            metrics,
            rooms: Mutex::default(),
            keeper,
            sessions: Mutex::default(),
            this: weak.clone(),
            server_side: ServerSide::default(),
            tap: Tap::default(),
            is_child: gate.is_of_family,
            gate: RwLock::new(gate),
            ack_ids: AtomicU64::new(0),
        })
    }

    pub(crate) fn next_ack_id(&self) -> u64 {
        self.ack_ids.fetch_add(1, Ordering::Relaxed)
    }

    pub(crate) fn connect_handler(&self) -> Option<Arc<ConnectFn>> {
        self.gate.read().connect.clone()
    }

    pub(super) fn slow_reader(&self) -> SlowReader {
        self.gate.read().slow_reader
    }

    /// Is there nothing to ask before a client is let in?
    pub(crate) fn is_open_door(&self) -> bool {
        self.gate.read().middlewares.is_empty()
    }

    /// Asks the middlewares, one after the other. A panic in one turns the client away.
    pub(crate) async fn admit(&self, socket: &Socket, auth: &Auth) -> Result<(), ConnectError> {
        let middlewares = self.gate.read().middlewares.clone();
        for middleware in middlewares {
            let verdict = async { middleware(socket.clone(), auth.clone()).await };
            match std::panic::AssertUnwindSafe(verdict).catch_unwind().await {
                Ok(verdict) => verdict?,
                Err(_) => {
                    self.metrics.handler_panics.inc();
                    tracing::error!(nsp = self.name.as_str(), "a middleware panicked");
                    return Err(ConnectError::new("Internal error"));
                }
            }
        }
        Ok(())
    }

    /// Takes a socket in, with the rooms that it had, and those that it has joined since.
    pub(crate) fn insert(&self, socket: &Socket, kept: &[Str], joined: &[Str]) {
        let mut index = self.rooms.lock();
        index.insert(socket.0.id.clone(), socket.clone());
        index.join(&socket.0.id, kept);
        index.join(&socket.0.id, joined);
    }

    pub(crate) fn remove(&self, id: &Str) -> Option<Vec<Str>> {
        self.rooms.lock().remove(id)
    }

    /// The connected sockets of this node that a target means.
    pub(crate) fn connected(&self, target: &Target) -> Vec<Socket> {
        let mut sockets = self.rooms.lock().select(target);
        sockets.retain(Socket::is_connected);
        sockets
    }

    /// Sends one event to the sockets of this node: selected once, encoded once.
    fn fan_out(&self, at: &At, args: &Args, target: &Target, flags: Flags) {
        if flags.ack.is_some() && matches!(at.way, Way::Foreign | Way::Echo) {
            // Somebody else's question, or one that was asked already: its answer would not find the way. (It
            // bears no offset: whether a client that came back has got it is not known.)
            return;
        }
        let mut sockets = self.connected(target);
        if self.keeper.is_some() {
            sockets.retain(|socket| socket.takes(at, flags));
        }
        self.metrics.broadcasts.inc();
        self.send(&sockets, args, flags, self.keeper.as_ref().map(|_| at.offset));
    }

    /// The same for an event that only the sockets of this node get: it is not in the log.
    pub(crate) fn fan_out_here(&self, args: &Args, target: &Target, flags: Flags) {
        self.metrics.broadcasts.inc();
        self.in_place(|offset| self.send(&self.connected(target), args, flags, offset));
    }

    /// Acts between two deliveries, with the offset of what is sent there; without recovery simply acts.
    pub(super) fn in_place(&self, mut act: impl FnMut(Option<Offset>)) {
        match self.keeper {
            Some(_) => self.log.exclusive(&mut || act(Some(self.log.mark()))),
            None => act(None),
        }
    }

    /// Applies what is for this node only.
    pub(crate) fn apply_here(&self, message: &Message) {
        self.in_place(|offset| {
            let offset = offset.unwrap_or_default();
            self.deliver(&At { offset, origin: None, way: Way::Own }, message);
        });
    }

    fn send(&self, sockets: &[Socket], args: &Args, flags: Flags, offset: Option<Offset>) {
        if sockets.is_empty() {
            return;
        }
        let offset = offset.map(|offset| offset.to_string());
        let packet = Outgoing::Event { args, ack: flags.ack, offset: offset.as_deref() };
        let frames = self.codec.encode(&self.name, packet);
        let message = Arc::new(Encoded::new(frames, flags.compress));
        let slow = self.slow_reader();
        for socket in sockets {
            socket.notify_sent(args);
            // a full outbox has ended that session; the others are not concerned
            let _ = socket.push_as(message.clone(), flags.volatile, slow);
        }
        self.metrics.deliveries.inc_by(sockets.len() as u64);
    }

    /// Sends an event that every socket answers. Gives their number; the answers come by the channel,
    /// which ends when all came or their sockets are gone.
    pub(crate) fn fan_out_with_ack(
        &self,
        args: &Args,
        target: &Target,
        flags: Flags,
    ) -> (AckRound, mpsc::UnboundedReceiver<Args>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        let id = self.next_ack_id();
        let mut sockets = self.connected(target);
        sockets.retain(|socket| socket.expect_ack(id, Waiter::Many(sender.clone())).is_ok());
        self.metrics.broadcasts.inc();
        let flags = Flags { ack: Some(id), ..flags };
        self.in_place(|offset| self.send(&sockets, args, flags, offset));
        (AckRound { id, sockets }, receiver)
    }
}

/// What recovery needs of a namespace.
impl Inner {
    /// The sockets that a join, a leave or a disconnect means.
    fn touched(&self, at: &At, target: &Target) -> Vec<Socket> {
        const NO_EVENT: Flags = Flags { volatile: true, compress: false, ack: None };
        let mut sockets = self.connected(target);
        if self.keeper.is_some() {
            sockets.retain(|socket| socket.takes(at, NO_EVENT));
        }
        sockets
    }

    /// The session as it is, if its socket is or was on this node.
    pub(super) fn peek(&self, pid: &str) -> Option<LetGo> {
        let keeper = self.keeper.as_ref()?;
        let socket = self.sessions.lock().get(pid).cloned();
        if socket.as_ref().is_some_and(Socket::is_condemned) {
            return Some(LetGo::Ended);
        }
        let record = socket.and_then(|socket| socket.record());
        record.map(|record| LetGo::Record(Box::new(record))).or_else(|| keeper.last(pid))
    }

    pub(super) fn changed(&self, socket: &Socket) {
        if let Some(keeper) = &self.keeper
            && self.log.sessions().outlive_the_node()
        {
            keeper.changed(socket);
        }
    }

    pub(super) fn keeper_ttl(&self) -> Duration {
        self.keeper.as_ref().map_or(Duration::ZERO, |keeper| keeper.live_ttl())
    }

    /// `false`: it was not among those that live.
    pub(super) fn forget_live(&self, socket: &Socket) -> bool {
        let Some(session) = &socket.0.session else { return false };
        let mut sessions = self.sessions.lock();
        let is_it = sessions.get(&session.pid).is_some_and(|live| Arc::ptr_eq(&live.0, &socket.0));
        is_it && sessions.remove(&session.pid).is_some()
    }

    /// Somebody goes on with this session.
    pub(super) fn session_taken(&self, record: &Record) {
        if let Some(keeper) = &self.keeper {
            keeper.taken(&record.pid, record.generation);
        }
    }

    pub(super) fn session_ended(&self, record: Record, keep: bool) {
        if let (Some(keeper), Some(this)) = (&self.keeper, self.this.upgrade()) {
            keeper.ended(&this, record, keep);
        }
    }
}

/// The sockets that owe an answer to one broadcast; they are let off when it is dropped.
pub(crate) struct AckRound {
    id: u64,
    sockets: Vec<Socket>,
}

impl AckRound {
    pub(crate) fn len(&self) -> usize {
        self.sockets.len()
    }
}

impl Drop for AckRound {
    fn drop(&mut self) {
        for socket in &self.sockets {
            socket.forget_ack(self.id);
        }
    }
}

impl Replica for Inner {
    fn deliver(&self, at: &At, message: &Message) {
        if at.way == Way::Echo && self.keeper.is_none() {
            return; // everyone who is here was here when it was delivered, or has come too late
        }
        let id = self.keeper.as_ref().map(|_| at.offset.id);
        match message {
            Message::Broadcast { args, target, flags } => {
                if at.way != Way::Echo {
                    self.tap.tell(at, args, target);
                }
                self.fan_out(at, args, target, *flags);
            }
            Message::Join { target, rooms } => {
                for socket in self.touched(at, target) {
                    socket.join_at(rooms, id);
                }
            }
            Message::Leave { target, rooms } => {
                for socket in self.touched(at, target) {
                    socket.leave_at(rooms, id);
                }
            }
            Message::Disconnect { target, close } => {
                for socket in self.touched(at, target) {
                    socket.disconnect_now(*close);
                }
            }
            Message::ServerSideEmit { args } if at.way != Way::Echo => {
                self.server_side.deliver(self, args, None);
            }
            Message::ServerSideEmit { .. } => {}
        }
    }

    fn let_go(&self, pid: &str) -> Option<LetGo> {
        let keeper = self.keeper.as_ref()?;
        let socket = self.sessions.lock().get(pid).cloned();
        match socket {
            Some(socket) if socket.is_condemned() => Some(LetGo::Ended),
            Some(socket) => socket.supersede().map(|record| {
                // kept until somebody has taken it: who asks may fail on the way
                self.session_ended(record.clone(), true);
                LetGo::Record(Box::new(record))
            }),
            None => keeper.last(pid),
        }
    }

    fn addresses(&self, target: &Target) -> bool {
        self.tap.is_used() || self.rooms.lock().may_have(target)
    }

    fn answer(&self, request: &Request, replies: mpsc::UnboundedSender<Reply>) {
        match request {
            Request::ServerSideEmit { args, wanted } => {
                self.server_side.deliver(self, args, wanted.then_some(replies));
            }
            Request::FetchSockets { target } => {
                let sockets = self.connected(target).iter().map(Socket::info).collect();
                let _ = replies.send(Reply::Sockets(sockets));
            }
            Request::Broadcast { args, target, flags, timeout } => {
                let (round, mut answers) = self.fan_out_with_ack(args, target, *flags);
                let _ = replies.send(Reply::ClientCount(round.len()));
                let named = *timeout;
                tokio::spawn(async move {
                    let mut owed = round.len();
                    let relay = async {
                        while let Some(answer) = answers.recv().await {
                            if replies.send(Reply::Ack(answer)).is_err() {
                                break;
                            }
                            owed -= 1;
                        }
                    };
                    let timeout = named.unwrap_or(LONGEST_ACK_ROUND);
                    let in_time = tokio::time::timeout(timeout, relay).await.is_ok();
                    drop(round);
                    // A time that the other node named is over there too, and there it has to be a timeout, which
                    // this must not forestall.
                    if owed > 0 && (in_time || named.is_none()) {
                        let _ = replies.send(Reply::NoMore(owed));
                    }
                });
            }
        }
    }
}

/// How long another node's broadcast is answered to, if it named no time itself.
const LONGEST_ACK_ROUND: Duration = Duration::from_secs(60);
