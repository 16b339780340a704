//! One node: the product's server without its transports, its way to Redis, and the application on it.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::time::Instant;

use super::pipe::{Pipe, Up, passable};
use super::world::{Entered, Op, World};
use crate::cluster::history::{Early, TailLimits};
use crate::cluster::redis::RedisBus;
use crate::cluster::redis::simulated::{Watched, Wire};
use crate::config::{RecoveryConfig, RedisConfig, SocketIoConfig};
use crate::engine::handshake::Handshake;
use crate::engine::packet::Message;
use crate::engine::{NodeTag, TransportKind};
use crate::error::CloseReason;
use crate::fanout::Mailbox;
use crate::metrics::Metrics;
use crate::random::random;
use crate::socketio::connection::Connection;
use crate::socketio::packet::Codec;
use crate::socketio::{Auth, ConnectError, Namespace, Socket, SocketIo};

const OUTBOX: usize = 4 << 20;

pub(super) struct Node {
    pub(super) index: usize,
    pub(super) world: Arc<World>,
    pub(super) wire: Arc<Wire>,
    pub(super) metrics: Arc<Metrics>,
    inner: Mutex<Option<Arc<SocketIo>>>,
    /// Of the client's side: nothing passes while it is `true`.
    pub(super) held: Watched<bool>,
    /// It takes no new clients.
    closed: AtomicBool,
    pub(super) dead: Watched<bool>,
    mailboxes: Mutex<Vec<Arc<Mailbox>>>,
    random: Mutex<StdRng>,
    early: Mutex<Vec<Early>>,
}

/// What a client says at the door, besides `pid` and `offset`.
#[derive(serde::Deserialize)]
struct Hello {
    user: String,
    /// How long the middleware is to think, in milliseconds.
    think: u64,
    refuse: bool,
}

impl Node {
    pub(super) async fn start(world: &Arc<World>, index: usize) -> Arc<Self> {
        let host = format!("node-{index}.simulated");
        let seed = world.seed ^ (index as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let wire = world.redis.wire(&host, seed);
        let metrics = Arc::new(Metrics::new("0"));
        let plan = &world.plan;
        let config =
            RedisConfig { url: Some(format!("redis://{host}:1")), ..RedisConfig::default() };
        let history = Some(TailLimits { entries: plan.history, bytes: 64 << 20 });
        let bus = RedisBus::new(config, history, Codec::Json, metrics.clone()).expect("a URL");
        let node = Arc::new(Self {
            index,
            world: world.clone(),
            wire,
            metrics: metrics.clone(),
            inner: Mutex::new(None),
            held: Watched::new(false),
            closed: AtomicBool::new(true),
            dead: Watched::new(false),
            mailboxes: Mutex::default(),
            random: Mutex::new(StdRng::seed_from_u64(seed ^ 7)),
            early: Mutex::default(),
        });
        // a node that cannot start is started again by whoever runs it
        while bus.started().await.is_err() {}
        let recovery = RecoveryConfig {
            window: plan.window,
            max_events: plan.max_events,
            ..RecoveryConfig::default()
        };
        let config = SocketIoConfig { recovery, ..SocketIoConfig::default() };
        let tag = NodeTag::new(random());
        let socketio = Arc::new(SocketIo::new(config, metrics, Arc::new(bus), tag, None));
        node.application(&socketio.of("/"));
        socketio.keep_sessions();
        *node.inner.lock() = Some(socketio);
        node.closed.store(false, Ordering::Release);
        node
    }

    fn application(self: &Arc<Self>, nsp: &Namespace) {
        nsp.middleware(|socket: Socket, auth: Auth| async move {
            let hello: Hello =
                auth.decode().map_err(|error| ConnectError::new(error.to_string()))?;
            tokio::time::sleep(Duration::from_millis(hello.think)).await;
            if hello.refuse {
                return Err(ConnectError::new("not now"));
            }
            socket.join(format!("user-{}", hello.user));
            socket.set_identity(hello.user);
            Ok(())
        });
        let node = Arc::downgrade(self);
        nsp.on_connect(move |socket: Socket| {
            let node = node.clone();
            async move {
                if let Some(node) = node.upgrade() {
                    node.welcome(&socket);
                }
            }
        });
    }

    fn welcome(self: &Arc<Self>, socket: &Socket) {
        let (id, rooms, recovered) = (socket.id(), socket.rooms(), socket.recovered());
        let mark = socket.0.namespace.log.mark();
        let index = self.index;
        self.world.say(|| format!("node {index} at {mark}: {id} {recovered} {rooms:?}"));
        let (pid, start) = socket.session_start().expect("recovery is on");
        self.world.trace(|trace| {
            trace.entered.push(Entered {
                at: Instant::now(),
                node: self.index,
                sid: socket.id().to_owned(),
                pid: pid.to_string(),
                recovered: socket.recovered(),
                rooms: socket.rooms().iter().skip(1).map(ToString::to_string).collect(),
                data: socket.data().expect("an object"),
                mark: socket.0.namespace.log.mark().id,
                start,
                connected: socket.is_connected(),
            });
        });
        let node = Arc::downgrade(self);
        socket.on("cmd", move |socket: Socket, (what, value): (String, String)| {
            let node = node.clone();
            async move {
                if let Some(node) = node.upgrade() {
                    node.command(&socket, &what, value).await;
                }
            }
        });
    }

    async fn command(&self, socket: &Socket, what: &str, value: String) {
        if self.dead.value() || !socket.is_connected() {
            return;
        }
        match what {
            "join" => socket.join(value.clone()),
            "leave" => socket.leave(value.clone()),
            "data" => socket.set_data(serde_json::json!({ "value": value })).expect("JSON"),
            "shout" => {
                let number = self.world.number();
                let _ = socket.broadcast().emit("e", &(number, "text")).await;
                return;
            }
            _ => {
                let number = self.world.number();
                let _ = socket.emit("e", &(number, value)).await;
                return;
            }
        }
        let (id, mark, index) = (socket.id(), socket.0.namespace.log.mark(), self.index);
        self.world.say(|| format!("node {index} at {mark}: {id} {what} {value}"));
        self.world.trace(|trace| {
            trace.ops.push(Op {
                at: Instant::now(),
                node: self.index,
                sid: socket.id().to_owned(),
                what: what.to_owned(),
                value,
                mark: socket.0.namespace.log.mark().id,
            });
        });
    }

    pub(super) fn namespace(&self) -> Option<Namespace> {
        Some(self.inner.lock().as_ref()?.of("/"))
    }

    pub(super) fn takes_clients(&self) -> bool {
        !self.closed.load(Ordering::Acquire)
    }

    /// What it has delivered ahead of the log in its life.
    pub(super) fn early(&self) -> Vec<Early> {
        match self.namespace() {
            Some(nsp) => nsp.0.log.early(),
            None => self.early.lock().clone(),
        }
    }

    /// Is it cut off from Redis, or behind with it?
    pub(super) fn is_degraded(&self) -> bool {
        self.inner.lock().as_ref().is_some_and(|inner| inner.is_degraded())
    }

    /// A client has opened a connection.
    pub(super) fn accept(self: &Arc<Self>, pipe: Arc<Pipe>) {
        let Some(socketio) = self.inner.lock().clone() else { return };
        let mailbox = Arc::new(Mailbox::new(OUTBOX));
        self.mailboxes.lock().push(mailbox.clone());
        let handshake = Arc::new(Handshake {
            transport: "websocket",
            url: "/socket.io/".to_owned(),
            query: Vec::new(),
            headers: http::HeaderMap::new(),
            peer: ([127, 0, 0, 1], 1).into(),
            address: [127, 0, 0, 1].into(),
            secure: false,
            issued: SystemTime::UNIX_EPOCH,
            shown: std::sync::OnceLock::new(),
        });
        let (now, kind) = (Instant::now().into_std(), TransportKind::WebSocket);
        let connection = Connection::new(now, socketio, mailbox.clone(), handshake, kind);
        let connection = Arc::new(connection);
        self.world.keep(connection.clone());
        tokio::spawn(drive(self.clone(), connection, mailbox, pipe));
    }

    /// It is killed; `silently`: the machine is gone, and says nothing to anyone.
    pub(super) fn crash(&self, silently: bool) {
        *self.early.lock() = self.early();
        self.closed.store(true, Ordering::Release);
        self.wire.die(silently);
        self.dead.set(true);
        self.mailboxes.lock().clear();
        self.inner.lock().take();
    }

    /// SIGSTOP and SIGCONT.
    pub(super) fn freeze(&self, frozen: bool) {
        self.held.set(frozen);
        self.wire.hold(frozen);
    }

    /// As at SIGTERM.
    pub(super) async fn drain(self: &Arc<Self>) {
        self.closed.store(true, Ordering::Release);
        let mut mailboxes = std::mem::take(&mut *self.mailboxes.lock());
        while !mailboxes.is_empty() {
            let (next, pause) = {
                let mut random = self.random.lock();
                (random.random_range(0..mailboxes.len()), random.random_range(0..60))
            };
            mailboxes.swap_remove(next).close(CloseReason::ServerShuttingDown);
            tokio::time::sleep(Duration::from_millis(pause)).await;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
        *self.early.lock() = self.early();
        let socketio = self.inner.lock().take();
        if let Some(socketio) = socketio {
            socketio.close_bus().await;
        }
        self.wire.die(false);
        self.dead.set(true);
    }
}

/// The session's task: what [`crate::server`] does, with a pipe as its link.
async fn drive(
    node: Arc<Node>,
    connection: Arc<Connection>,
    mailbox: Arc<Mailbox>,
    pipe: Arc<Pipe>,
) {
    let reason = tokio::select! {
        biased;
        _ = node.dead.wait_for(|dead| *dead) => {
            pipe.server_gone();
            // nothing of it has any effect any more, not even its end
            return;
        }
        reason = converse(&node, &connection, &mailbox, &pipe) => reason,
    };
    mailbox.shut();
    connection.close(reason);
    node.mailboxes.lock().retain(|other| !Arc::ptr_eq(other, &mailbox));
}

async fn converse(
    node: &Node,
    connection: &Connection,
    mailbox: &Mailbox,
    pipe: &Pipe,
) -> CloseReason {
    let mut batch = Vec::new();
    loop {
        let asked = poll_fn(|cx| {
            let asked = mailbox.watch(cx);
            let idle = asked.abort.is_none() && asked.close.is_none() && mailbox.is_empty();
            if idle { Poll::Pending } else { Poll::Ready(asked) }
        });
        tokio::select! {
            biased;
            up = pipe.server_next(&node.held) => match up {
                Up::Message(text) => {
                    let now = Instant::now().into_std();
                    let message = Message::Text(text.into());
                    if let Err(rule) = connection.handle_message(now, message) {
                        panic!("a client of the simulation broke a rule: {rule:?}");
                    }
                }
                Up::Closed(reason) => return reason,
            },
            asked = asked => {
                if let Some(reason) = asked.abort {
                    pipe.server_gone();
                    return reason;
                }
                passable(&node.held).await;
                mailbox.take(usize::MAX, &mut batch);
                for message in batch.drain(..) {
                    pipe.to_client(&message);
                }
                if let Some(reason) = asked.close {
                    pipe.server_gone();
                    // the link takes a moment to close
                    tokio::time::sleep(pipe.moment()).await;
                    return reason;
                }
            }
        }
    }
}
