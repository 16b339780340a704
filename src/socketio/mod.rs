//! Socket.IO v5: packets, namespaces, sockets, rooms.
//!
//! ```text
//! session's task ── Connection ── Client (what is allowed) ── Socket.inbox ── handlers
//!                                                                     emits │
//!     outboxes of the sockets ◀── Namespace::fan_out ◀── cluster::Log ◀── Broadcast
//! ```
//!
//! Words are Socket.IO's: a *client* is one connection, a *socket* is a client in one namespace, a
//! *room* is a set of sockets of a namespace, known to the server only.

mod ack;
mod broadcast;
mod client;
pub(crate) mod connection;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod handler;
mod inbox;
mod keeper;
mod live;
mod namespace;
pub(crate) mod packet;
mod prepared;
pub(crate) mod recovery;
mod registered;
mod resume;
mod room_names;
mod rooms;
mod sender;
mod server_side;
mod socket;
mod tap;
mod token;
mod worker;

use std::collections::HashMap;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_util::future::BoxFuture;
use parking_lot::{Mutex, RwLock};
use tokio::runtime::Handle;

pub use self::broadcast::{Answers, Broadcast, Fetched, RemoteSocket};
pub use self::handler::{
    Ack, Auth, ConnectError, Event, EventHandler, FromArgs, HandlerError, HandlerFuture, Outcome,
};
use self::keeper::Keeper;
pub use self::namespace::Namespace;
use self::namespace::{Gate, Inner as NamespaceInner};
use self::packet::Codec;
pub use self::prepared::Prepared;
pub use self::room_names::IntoRooms;
pub use self::sender::Sender;
pub use self::server_side::ServerAck;
pub use self::socket::Socket;
pub use self::tap::Delivery;
use crate::cluster::Bus;
use crate::cluster::load::Load;
use crate::config::SocketIoConfig;
use crate::engine::packet::Str;
use crate::engine::{NodeTag, Sid};
use crate::fanout::SlowReader;
use crate::jwt::Jwt;
use crate::metrics::Metrics;
use crate::random::random;

/// All namespaces of one server.
pub(crate) struct SocketIo {
    pub(crate) config: Arc<SocketIoConfig>,
    pub(crate) codec: Codec,
    pub(crate) metrics: Arc<Metrics>,
    bus: Arc<dyn Bus>,
    /// Writes sessions, while recovery is on.
    keeper: Option<Arc<Keeper>>,
    node: NodeTag,
    /// Tasks that run user code now; a shutdown waits for them.
    pub(crate) tasks: AtomicUsize,
    /// Where they run: emits and disconnects may come from threads that are no tasks.
    runtime: Handle,
    /// What every namespace asks for.
    jwt: Option<Jwt>,
    namespaces: RwLock<HashMap<Str, Arc<NamespaceInner>>>,
    /// Those that were cleaned up while somebody may still have been on the way in. Locked behind the others.
    left: Mutex<HashMap<Str, Weak<NamespaceInner>>>,
    parents: RwLock<Vec<Arc<Parent>>>,
}

/// How long a node that stops may take to write the sessions of its sockets, and how often it looks.
const KEEPER_GOODBYE: Duration = Duration::from_secs(2);
const KEEPER_POLL: Duration = Duration::from_millis(5);

type AcceptFn = dyn Fn(String, Auth) -> BoxFuture<'static, bool> + Send + Sync;

struct Parent {
    accept: Box<AcceptFn>,
    gate: RwLock<Gate>,
}

/// A family of namespaces that come into being when the first client asks for them.
#[derive(Clone)]
pub struct DynamicNamespace(Arc<Parent>);

impl std::fmt::Debug for DynamicNamespace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DynamicNamespace").finish_non_exhaustive()
    }
}

impl DynamicNamespace {
    /// As [`Namespace::middleware`], for every namespace of the family that comes into being later.
    pub fn middleware<F, Fut, E>(&self, middleware: F)
    where
        F: Fn(Socket, Auth) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<ConnectError>,
    {
        self.0.gate.write().add_middleware(middleware);
    }

    /// As [`Namespace::slow_reader`], for every namespace of the family that comes into being later.
    pub fn slow_reader(&self, slow: SlowReader) {
        self.0.gate.write().set_slow_reader(slow);
    }

    /// As [`Namespace::on_connect`], for every namespace of the family that comes into being later.
    pub fn on_connect<F, Fut, O>(&self, handler: F)
    where
        F: Fn(Socket) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = O> + Send + 'static,
        O: Outcome,
    {
        self.0.gate.write().set_connect(handler);
    }
}

impl SocketIo {
    pub(crate) fn new(
        config: SocketIoConfig,
        metrics: Arc<Metrics>,
        bus: Arc<dyn Bus>,
        node: NodeTag,
        jwt: Option<Jwt>,
    ) -> Self {
        let codec = Codec::from(config.parser);
        let keeper = config.recovery.is_on().then(|| {
            let keeper = Arc::new(Keeper::new(config.recovery.window, metrics.clone()));
            tokio::spawn(Keeper::run(Arc::downgrade(&keeper)));
            keeper
        });
        let this = Self {
            config: Arc::new(config),
            codec,
            metrics,
            bus,
            keeper,
            node,
            tasks: AtomicUsize::new(0),
            runtime: Handle::current(),
            jwt,
            namespaces: RwLock::default(),
            left: Mutex::default(),
            parents: RwLock::default(),
        };
        this.of("/"); // Socket.IO always has the main namespace
        this
    }

    /// The namespace of that name, made if it is new. A missing slash in front is added, as in Node.
    pub(crate) fn of(&self, name: &str) -> Namespace {
        let name = if name.starts_with('/') { name.to_owned() } else { format!("/{name}") };
        Namespace(self.get_or_make(&name.into(), || None))
    }

    /// A family of namespaces. The first family that accepts a name gets it.
    pub(crate) fn of_dynamic<F, Fut>(&self, accept: F) -> DynamicNamespace
    where
        F: Fn(String, Auth) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = bool> + Send + 'static,
    {
        let accept: Box<AcceptFn> = Box::new(move |name, auth| Box::pin(accept(name, auth)));
        let parent = Arc::new(Parent { accept, gate: RwLock::new(self.gate().of_family()) });
        self.parents.write().push(parent.clone());
        DynamicNamespace(parent)
    }

    /// What all namespaces begin with.
    fn gate(&self) -> Gate {
        let mut gate = Gate::default();
        if let Some(jwt) = &self.jwt {
            gate.add_middleware(token::middleware(jwt.clone()));
        }
        gate
    }

    pub(crate) fn is_degraded(&self) -> bool {
        self.bus.is_degraded()
    }

    /// See [`Bus::report`].
    pub(crate) fn report(&self, load: Load) {
        self.bus.report(load);
    }

    /// See [`Bus::loads`].
    pub(crate) fn loads(&self) -> Vec<Load> {
        self.bus.loads()
    }

    /// Leaves the cluster, after what was accepted is published.
    pub(crate) async fn close_bus(&self) {
        if let Some(keeper) = &self.keeper {
            let written = async {
                while !keeper.is_idle() {
                    tokio::time::sleep(KEEPER_POLL).await;
                }
            };
            let _ = tokio::time::timeout(KEEPER_GOODBYE, written).await;
        }
        self.bus.close().await;
    }

    /// Keeps the sessions of the sockets that live from expiring, as long as the server does.
    pub(crate) fn keep_sessions(self: &Arc<Self>) {
        if let Some(keeper) = &self.keeper {
            let this = Arc::downgrade(self);
            tokio::spawn(Keeper::refresh(Arc::downgrade(keeper), move || {
                let this = this.upgrade()?;
                let namespaces: Vec<_> = this.namespaces.read().values().cloned().collect();
                let live = |nsp: &Arc<NamespaceInner>| {
                    nsp.sessions.lock().values().cloned().collect::<Vec<_>>()
                };
                Some(namespaces.iter().flat_map(live).collect())
            }));
        }
    }

    pub(crate) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.runtime.spawn(work);
    }

    pub(crate) fn namespace(&self, name: &Str) -> Option<Arc<NamespaceInner>> {
        self.namespaces.read().get(name).cloned()
    }

    /// The namespace a client asks for, made by the family that accepts it.
    pub(crate) async fn resolve(&self, name: &Str, auth: &Auth) -> Option<Arc<NamespaceInner>> {
        if let Some(namespace) = self.namespace(name) {
            return Some(namespace);
        }
        let parents = self.parents.read().clone();
        for parent in parents {
            if (parent.accept)(name.to_string(), auth.clone()).await {
                return Some(self.get_or_make(name, || Some(parent.gate.read().clone())));
            }
        }
        None
    }

    /// Forgets a namespace that a client's wish has made, when nobody is left in it. Whoever is on the way in just
    /// then brings it back, and whoever asks meanwhile gets the same one.
    pub(crate) fn clean_up(&self, namespace: &Arc<NamespaceInner>) {
        if !namespace.is_child || !self.config.cleanup_empty_child_namespaces {
            return;
        }
        let mut namespaces = self.namespaces.write();
        let current = namespaces.get(&namespace.name);
        if current.is_some_and(|current| Arc::ptr_eq(current, namespace))
            && namespace.rooms.lock().is_empty()
        {
            namespaces.remove(&namespace.name);
            let mut left = self.left.lock();
            left.retain(|_, namespace| namespace.strong_count() > 0);
            left.insert(namespace.name.clone(), Arc::downgrade(namespace));
        }
    }

    /// Somebody has entered, who may have been on the way when the namespace was cleaned up.
    pub(crate) fn bring_back(&self, namespace: &Arc<NamespaceInner>) {
        if namespace.is_child && self.namespace(&namespace.name).is_none() {
            // there is no other: whoever asks for the name gets the one that is left
            let mut namespaces = self.namespaces.write();
            namespaces.entry(namespace.name.clone()).or_insert_with(|| namespace.clone());
        }
    }

    pub(crate) fn new_socket_id(&self) -> Str {
        Str::copy_from_slice(Sid::new(random(), self.node).as_str())
    }

    fn get_or_make(
        &self,
        name: &Str,
        parent: impl FnOnce() -> Option<Gate>,
    ) -> Arc<NamespaceInner> {
        let mut namespaces = self.namespaces.write();
        if let Some(namespace) = namespaces.get(name) {
            return namespace.clone();
        }
        let left = self.left.lock().remove(name).and_then(|left| left.upgrade());
        if let Some(namespace) = left {
            namespaces.insert(name.clone(), namespace.clone());
            return namespace;
        }
        let namespace = NamespaceInner::new(
            name.clone(),
            self.codec,
            self.config.clone(),
            self.metrics.clone(),
            &*self.bus,
            self.keeper.clone(),
            parent().unwrap_or_else(|| self.gate()),
        );
        namespaces.insert(name.clone(), namespace.clone());
        namespace
    }
}
