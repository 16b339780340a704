//! Socket.IO on one Engine.IO session: carries out what [`Client`] allows.
//!
//! [`Connection`] belongs to the session's task. [`Shared`] is what sockets and middlewares on other
//! tasks hold of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

use parking_lot::Mutex;

use super::SocketIo;
use super::client::{Attempt, Client, Overdue, Step};
use super::handler::{Auth, ConnectError};
use super::inbox::Work;
use super::namespace::Inner as NamespaceInner;
use super::packet::{Codec, Outgoing};
use super::socket::{Session, Socket};
use crate::cluster::session::Record;
use crate::engine::TransportKind;
use crate::engine::handshake::Handshake;
use crate::engine::packet::{Message, Str};
use crate::error::{CloseReason, PeerMisbehaved};
use crate::fanout::{Encoded, Mailbox, SlowReader, Verdict, turn};
use crate::socketio::packet::Payload;

/// Tasks that a client may keep busy, however few namespaces it may join.
const MIN_TASKS: usize = 8;

/// What the sockets of one connection share.
pub(crate) struct Shared {
    server: Arc<SocketIo>,
    mailbox: Arc<Mailbox>,
    pub(crate) handshake: Arc<Handshake>,
    transport: AtomicUsize,
    state: Mutex<State>,
    /// How many of its sockets have a full inbox: reading goes on when it is zero.
    full_inboxes: AtomicUsize,
    /// Tasks that run user code for this client: at most one for each socket and each attempt to connect.
    tasks: AtomicUsize,
}

struct State {
    client: Client,
    sockets: Vec<Socket>,
    closed: bool,
}

/// The connection, as the session's task owns it.
pub(crate) struct Connection(Arc<Shared>);

impl Connection {
    pub(crate) fn new(
        now: Instant,
        server: Arc<SocketIo>,
        mailbox: Arc<Mailbox>,
        handshake: Arc<Handshake>,
        transport: TransportKind,
    ) -> Self {
        let client = Client::new(now, server.codec, &server.config);
        Self(Arc::new(Shared {
            server,
            mailbox,
            handshake,
            transport: AtomicUsize::new(transport.index()),
            state: Mutex::new(State { client, sockets: Vec::new(), closed: false }),
            full_inboxes: AtomicUsize::new(0),
            tasks: AtomicUsize::new(0),
        }))
    }

    /// Takes one message of the client.
    ///
    /// # Errors
    /// The rule that it broke. The connection is to be closed.
    pub(crate) fn handle_message(
        &self,
        now: Instant,
        message: Message,
    ) -> Result<(), PeerMisbehaved> {
        let step = self.0.state.lock().client.handle_message(now, message)?;
        match step {
            None => {}
            Some(Step::Connect { nsp, auth, attempt }) => self.0.connect(nsp, auth, attempt),
            Some(Step::Event { nsp, args, ack }) => {
                if let Some(socket) = self.0.socket(&nsp).filter(|socket| !socket.is_condemned()) {
                    socket.work_here(Work::Event { args, ack });
                }
            }
            Some(Step::Ack { nsp, id, args }) => {
                if let Some(socket) = self.0.socket(&nsp) {
                    socket.resolve(id, args);
                }
            }
            Some(Step::Disconnect { nsp }) => {
                if let Some(socket) = self.0.take_socket(&nsp) {
                    socket.close(CloseReason::ClientNamespaceDisconnect);
                }
            }
        }
        Ok(())
    }

    /// Is there room for more events, and for more user code to run on behalf of this client?
    pub(crate) fn may_read(&self) -> bool {
        self.0.full_inboxes.load(Ordering::Acquire) == 0
            && self.0.tasks.load(Ordering::Acquire) < self.0.max_tasks()
    }

    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        let state = self.0.state.lock();
        if state.closed { None } else { state.client.poll_timeout() }
    }

    /// The reason to close for, if a deadline passed.
    pub(crate) fn handle_timeout(&self, now: Instant) -> Option<CloseReason> {
        let state = self.0.state.lock();
        if state.closed {
            return None; // once is enough: a closing session waits for its client, not for this
        }
        match state.client.overdue(now)? {
            Overdue::Namespace => Some(CloseReason::ForcedServerClose),
            Overdue::Attachments => {
                let rule = PeerMisbehaved::AttachmentsOverdue;
                let client = Some(self.0.handshake.address);
                self.0.server.metrics.misbehaved(rule, client, now);
                Some(rule.close_reason())
            }
        }
    }

    /// Has the client ever been in a namespace?
    pub(crate) fn has_joined(&self) -> bool {
        self.0.state.lock().client.has_joined()
    }

    pub(crate) fn switched(&self, to: TransportKind) {
        self.0.transport.store(to.index(), Ordering::Release);
    }

    /// The session is over, or is closing and hears its client no more.
    pub(crate) fn close(&self, reason: CloseReason) {
        for socket in self.0.shut() {
            socket.close(reason);
        }
    }
}

/// A task that runs user code for a client, counted while it lives. Without a bound a client could start
/// any number of them by asking again and again while a middleware thinks.
pub(crate) struct Working(pub(crate) Arc<Shared>);

impl Working {
    pub(crate) fn new(shared: &Arc<Shared>) -> Self {
        shared.tasks.fetch_add(1, Ordering::AcqRel);
        shared.server.tasks.fetch_add(1, Ordering::AcqRel);
        Self(shared.clone())
    }
}

impl Drop for Working {
    fn drop(&mut self) {
        let before = self.0.tasks.fetch_sub(1, Ordering::AcqRel);
        if before == self.0.max_tasks() {
            self.0.mailbox.wake();
        }
        self.0.server.tasks.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Shared {
    fn max_tasks(&self) -> usize {
        self.server.config.max_namespaces.max(MIN_TASKS)
    }

    /// Runs user code for this client.
    pub(crate) fn spawn(self: &Arc<Self>, work: impl Future<Output = ()> + Send + 'static) {
        let working = Working::new(self);
        self.server.spawn(async move {
            let mut work = std::pin::pin!(work);
            std::future::poll_fn(|cx| turn(|| work.as_mut().poll(cx))).await;
            drop(working);
        });
    }

    pub(crate) fn transport(&self) -> TransportKind {
        TransportKind::ALL[self.transport.load(Ordering::Acquire)]
    }

    pub(crate) fn push(&self, message: Arc<Encoded>, volatile: bool, slow: SlowReader) -> Verdict {
        let verdict = self.mailbox.push(message, volatile, slow);
        let metrics = &self.server.metrics;
        match verdict {
            Verdict::DroppedVolatile => {
                metrics.volatile_dropped.inc();
            }
            Verdict::QueuedFor(dropped) => {
                metrics.volatile_dropped.inc_by(dropped as u64);
            }
            // an overflow is counted where the session ends over it
            Verdict::Queued | Verdict::Overflow | Verdict::Closed => {}
        }
        verdict
    }

    pub(crate) fn inbox_filled(&self) {
        self.full_inboxes.fetch_add(1, Ordering::AcqRel);
        self.server.metrics.inbox_pauses.inc();
    }

    pub(crate) fn inbox_freed(&self) {
        if self.full_inboxes.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.mailbox.wake();
        }
    }

    /// The application ends the connection (Node's `Client._disconnect`): DISCONNECT for every namespace,
    /// then the transport.
    pub(crate) fn disconnect(&self) {
        for socket in self.shut() {
            socket.put_out();
        }
        self.mailbox.close(CloseReason::ForcedServerClose);
    }

    /// Ends the connection in order, and hears the client no more. It may come back.
    pub(super) fn end(&self, reason: CloseReason) {
        for socket in self.shut() {
            socket.close(reason);
        }
        self.mailbox.close(reason);
    }

    /// The application takes a socket out of its namespace. `false`: it is out already; the client may even
    /// have come back as another socket.
    pub(crate) fn leave(&self, socket: &Socket) -> bool {
        let mut state = self.state.lock();
        let at = state.sockets.iter().position(|other| Arc::ptr_eq(&other.0, &socket.0));
        let Some(at) = at else { return false };
        state.sockets.swap_remove(at);
        state.client.left(&socket.0.namespace.name);
        true
    }

    pub(crate) fn clean_up(&self, namespace: &Arc<NamespaceInner>) {
        self.server.clean_up(namespace);
    }

    /// The handshake as Node's `socket.handshake` serializes.
    pub(crate) fn handshake_json(&self, auth: &serde_json::Value) -> serde_json::Value {
        let public = self.handshake.without_token();
        let handshake = public.as_ref().unwrap_or(&self.handshake);
        let headers: serde_json::Map<_, _> = handshake
            .headers
            .iter()
            .map(|(name, value)| {
                (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into())
            })
            .collect();
        let query: serde_json::Map<_, _> = handshake
            .query
            .iter()
            .map(|(key, value)| (key.clone(), value.clone().into()))
            .collect();
        let issued =
            handshake.issued.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
        serde_json::json!({
            "headers": headers,
            "time": javascript_date(handshake.issued),
            "address": handshake.address.to_string(),
            "xdomain": handshake.origin().is_some(),
            "secure": handshake.secure,
            "issued": issued.as_millis() as u64,
            "url": handshake.url,
            "query": query,
            "auth": auth,
        })
    }

    fn socket(&self, nsp: &Str) -> Option<Socket> {
        let state = self.state.lock();
        state.sockets.iter().find(|socket| socket.0.namespace.name == *nsp).cloned()
    }

    pub(super) fn sockets(&self) -> Vec<Socket> {
        self.state.lock().sockets.clone()
    }

    fn take_socket(&self, nsp: &Str) -> Option<Socket> {
        let mut state = self.state.lock();
        let at = state.sockets.iter().position(|socket| socket.0.namespace.name == *nsp)?;
        Some(state.sockets.swap_remove(at))
    }

    /// Lets no socket in any more and gives those that are.
    fn shut(&self) -> Vec<Socket> {
        let mut state = self.state.lock();
        state.closed = true;
        std::mem::take(&mut state.sockets)
    }

    fn connect(self: &Arc<Self>, nsp: Str, auth: Option<Payload>, attempt: Attempt) {
        // the common case needs no task
        if let Some(namespace) = self.server.namespace(&nsp).filter(|nsp| nsp.is_open_door()) {
            if namespace.keeper.is_none() {
                let socket = self.new_socket(namespace, auth.as_ref());
                self.enter(&socket, attempt);
                return;
            }
            if auth.is_none() && !namespace.log.sessions().outlive_the_node() {
                let socket = self.new_socket(namespace, None);
                self.enter_new(&socket, attempt);
                return;
            }
        }
        let working = Working::new(self);
        self.server.spawn(async move {
            let shared = &working.0;
            let auth = Auth { payload: auth };
            let Some(namespace) = shared.server.resolve(&nsp, &auth).await else {
                // socket.io client.ts: "creation of namespace %s was denied"
                shared.refuse(&nsp, attempt, &ConnectError::new("Invalid namespace"));
                return;
            };
            if namespace.keeper.is_some() {
                shared.admit(namespace, auth, attempt).await;
                return;
            }
            let socket = shared.new_socket(namespace, auth.payload.as_ref());
            match socket.0.namespace.admit(&socket, &auth).await {
                Ok(()) => shared.enter(&socket, attempt),
                Err(error) => {
                    socket.close(CloseReason::ServerNamespaceDisconnect);
                    shared.refuse(&nsp, attempt, &error);
                }
            }
        });
    }

    pub(super) fn new_socket(
        self: &Arc<Self>,
        namespace: Arc<NamespaceInner>,
        auth: Option<&Payload>,
    ) -> Socket {
        let session = namespace.keeper.as_ref().map(|_| {
            // as hard to guess as a session's id, and never shown to other clients
            Session::new(self.server.new_socket_id(), namespace.log.mark().id, false)
        });
        let id = self.server.new_socket_id();
        let data = serde_json::Value::Null;
        let session = session.map(|session| self.tied(session));
        Socket::new(id, namespace, self.clone(), auth_value(auth), data, session)
    }

    /// A session of whoever was admitted by a token is theirs.
    fn tied(&self, session: Session) -> Session {
        let identity = self.handshake.claims().map(|claims| claims.identity().into());
        Session { identity: Mutex::new(identity), ..session }
    }

    /// A socket that goes on with a session.
    pub(super) fn old_socket(
        self: &Arc<Self>,
        namespace: Arc<NamespaceInner>,
        auth: Option<&Payload>,
        record: &Record,
    ) -> Socket {
        let session = Some(self.tied(Session::of_record(record)));
        let (id, data) = (record.sid.clone(), record.data.clone());
        Socket::new(id, namespace, self.clone(), auth_value(auth), data, session)
    }

    /// Lets the client in, unless it changed its mind or is gone.
    fn enter(&self, socket: &Socket, attempt: Attempt) {
        match self.let_in(socket, attempt, None, &[], || {}) {
            true => socket.start_here(),
            false => socket.close(CloseReason::ServerNamespaceDisconnect),
        }
    }

    /// The entry itself. `first` may push what comes right behind the reply. `false`: the client changed its
    /// mind or is gone. Else the socket is to be started.
    pub(super) fn let_in(
        &self,
        socket: &Socket,
        attempt: Attempt,
        pid: Option<&Str>,
        rooms: &[Str],
        first: impl FnOnce(),
    ) -> bool {
        let namespace = &socket.0.namespace;
        let mut state = self.state.lock();
        if state.closed || !state.client.joined(&namespace.name, attempt) {
            return false;
        }
        state.sockets.push(socket.clone());
        // All under the lock: no event, neither ours nor the client's, can come before the reply and
        // `on_connect`, and a connection that ends finds the socket open.
        let pid = pid.map(Str::as_str);
        self.reply(&namespace.name, Outgoing::Connect { sid: socket.id(), pid });
        socket.enter(rooms, socket.0.session.as_ref().map(|_| namespace.log.mark().id));
        first();
        self.server.bring_back(namespace);
        socket.open();
        true
    }

    /// Bytes that may be pushed before its client is too slow.
    pub(super) fn room(&self) -> usize {
        self.mailbox.room()
    }

    pub(super) fn abort(&self, reason: CloseReason) {
        self.mailbox.abort(reason);
    }

    pub(super) fn refuse(&self, nsp: &Str, attempt: Attempt, error: &ConnectError) {
        if self.state.lock().client.refused(nsp, attempt) {
            let (message, data) = (error.message.as_str(), error.data.as_ref());
            self.reply(nsp, Outgoing::ConnectError { message, data });
        }
    }

    fn reply(&self, nsp: &Str, packet: Outgoing<'_>) {
        let codec: Codec = self.server.codec;
        let frames = codec.encode(nsp, packet);
        let message = Arc::new(Encoded::new(frames, true));
        let _ = self.push(message, false, SlowReader::default());
    }
}

fn auth_value(auth: Option<&Payload>) -> serde_json::Value {
    let auth = auth.and_then(|payload| payload.decode().ok());
    auth.unwrap_or_else(|| serde_json::json!({}))
}

/// As JavaScript's `new Date() + ""` in UTC: `Sun Nov 22 2026 08:30:00 GMT+0000 (Coordinated Universal Time)`.
fn javascript_date(at: SystemTime) -> String {
    let date = time::OffsetDateTime::from(at);
    let (weekday, month) = (date.weekday().to_string(), date.month().to_string());
    format!(
        "{} {} {:02} {} {:02}:{:02}:{:02} GMT+0000 (Coordinated Universal Time)",
        &weekday[..3],
        &month[..3],
        date.day(),
        date.year(),
        date.hour(),
        date.minute(),
        date.second(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_look_as_in_javascript() {
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_336_205);
        let expected = "Sun Nov 22 2026 08:30:05 GMT+0000 (Coordinated Universal Time)";
        assert_eq!(javascript_date(at), expected);
    }
}
