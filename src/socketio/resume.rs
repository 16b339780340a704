//! How a client comes into a namespace while recovery is on: as the session that it was, or as a new one.
//!
//! Every way in goes the same path: a [`Replay`] runs from where the client stands to where the node is;
//! its end and the socket's entry are one step in the order of the log, so that no event is between them.
//! A new session stands where it began.

use std::sync::Arc;
use std::time::Duration;

use super::client::Attempt;
use super::connection::Shared;
use super::handler::{Auth, ConnectError};
use super::namespace::Inner as NamespaceInner;
use super::packet::Outgoing;
use super::recovery::{Bounds, Claim, Missed, Replay, step_all};
use super::socket::{Session, Socket};
use crate::cluster::history::Offset;
use crate::cluster::session::{LetGo, Record, Written};
use crate::cluster::{Log, StreamId};
use crate::engine::packet::Str;
use crate::error::{CloseReason, NotRecovered};
use crate::fanout::{Encoded, SlowReader};
use crate::random::random;
use crate::socketio::packet::Payload;

/// How long a new session may wait to be stored before its client hears of it.
const STORE_TIMEOUT: Duration = Duration::from_millis(800);
/// How long a client that has seen more of the log than we have waits for us, while we do not come nearer.
const CATCH_UP_TIMEOUT: Duration = Duration::from_millis(800);
const CATCH_UP_ROUNDS: usize = 10;
/// Tries, while others want the same session, or its owner still writes it.
const ATTEMPTS: usize = 8;
/// The pause before the next one, at least; up to twice as long, so that two do not stay in step.
const ATTEMPT_PAUSE: Duration = Duration::from_millis(20);
/// The longest private id that is looked up. Node's have 24 characters at most, ours 20.
const MAX_PID_LEN: usize = 128;

/// What a client says of the session that it had.
#[derive(Debug, PartialEq)]
struct Wish {
    pid: Str,
    claim: Claim,
}

impl Wish {
    /// `pid` and `offset` of CONNECT's payload, where the application's `auth` lies, too.
    fn of(auth: Option<&Payload>) -> Option<Self> {
        let auth: serde_json::Value = auth?.decode().ok()?;
        let pid = auth.get("pid")?.as_str().filter(|pid| pid.len() <= MAX_PID_LEN)?;
        let claim = match auth.get("offset") {
            None | Some(serde_json::Value::Null) => Claim::Nothing,
            Some(offset) => offset
                .as_str()
                .and_then(|offset| offset.parse().ok())
                .map_or(Claim::Unreadable, Claim::Offset),
        };
        Some(Self { pid: Str::copy_from_slice(pid), claim })
    }
}

/// What a client enters with.
pub(super) struct Entrance {
    replay: Replay,
    missed: Vec<(Missed, Arc<Encoded>)>,
    /// A new session begins later rather than not at all.
    fresh: bool,
}

/// What became of an attempt to enter.
#[derive(Debug, PartialEq)]
enum Entered {
    Yes,
    /// The client changed its mind or is gone.
    Gone,
    No(NotRecovered),
}

impl Shared {
    /// Lets a client in, or refuses it.
    pub(super) async fn admit(
        self: &Arc<Self>,
        namespace: Arc<NamespaceInner>,
        auth: Auth,
        attempt: Attempt,
    ) {
        let mut stored = true;
        let wish = Wish::of(auth.payload.as_ref());
        let leftover = wish.as_ref().and_then(|wish| wish.claim.offset());
        if let Some(wish) = wish {
            match self.resume(&namespace, &wish, &auth, attempt).await {
                Ok(replayed) => {
                    namespace.metrics.recovered.inc();
                    namespace.metrics.replayed.inc_by(replayed as u64);
                    return;
                }
                Err(End::Refused(why)) => {
                    tracing::debug!(
                        nsp = namespace.name.as_str(),
                        why = why.label(),
                        "not recovered"
                    );
                    namespace.metrics.not_recovered[why].inc();
                    stored = why != NotRecovered::Unavailable; // waiting once is enough
                }
                Err(End::Turned(error)) => return self.refuse(&namespace.name, attempt, &error),
                Err(End::Gone) => return,
            }
        }
        let socket = self.new_socket(namespace, auth.payload.as_ref());
        match socket.0.namespace.admit(&socket, &auth).await {
            Ok(()) => self.enter_fresh(&socket, attempt, leftover, stored).await,
            Err(error) => {
                socket.close(CloseReason::ServerNamespaceDisconnect);
                self.refuse(&socket.0.namespace.name, attempt, &error);
            }
        }
    }

    /// A new session. Its record is written before the client hears of it, if it is to be `stored` first.
    async fn enter_fresh(
        self: &Arc<Self>,
        socket: &Socket,
        attempt: Attempt,
        leftover: Option<Offset>,
        stored: bool,
    ) {
        let namespace = &socket.0.namespace;
        let Some(session) = &socket.0.session else { return };
        let start = namespace.log.mark().id;
        {
            let mut track = session.track.lock();
            track.join(&socket.rooms_to_be(), start);
            track.enter(delivered_early(namespace)); // nothing until now is for it
            track.left_over(leftover);
        }
        let sessions = namespace.log.sessions();
        if stored
            && sessions.outlive_the_node()
            && let Some(record) = socket.record()
        {
            let stored = sessions.store(record, namespace.keeper_ttl());
            // else the keeper goes on trying
            let _ = tokio::time::timeout(STORE_TIMEOUT, stored).await;
        }
        self.enter_new(socket, attempt);
    }

    /// As [`Self::enter_fresh`], where records need not be written yet.
    pub(super) fn enter_new(&self, socket: &Socket, attempt: Attempt) {
        let namespace = &socket.0.namespace;
        let Some(session) = &socket.0.session else { return };
        let start = session.track.lock().start();
        let replay = Replay::fresh(socket.0.id.clone(), start, bounds(namespace));
        let entrance = Entrance { replay, missed: Vec::new(), fresh: true };
        if self.enter_at(socket, attempt, entrance) != Entered::Yes {
            socket.close(CloseReason::ServerNamespaceDisconnect);
            // nobody knows of it
            socket.forget_session();
        }
    }

    /// Goes on with a session. Gives the number of events that were sent again.
    async fn resume(
        self: &Arc<Self>,
        namespace: &Arc<NamespaceInner>,
        wish: &Wish,
        auth: &Auth,
        attempt: Attempt,
    ) -> Result<usize, End> {
        let record = look_up(namespace, &wish.pid).await?;
        let payload = auth.payload.as_ref();
        let socket = self.old_socket(namespace.clone(), payload, &record);
        let Some(session) = &socket.0.session else { return Err(NotRecovered::Unknown.into()) };
        let before = socket.data_value();
        // what Node stored may be of any namespace: the door of this one decides
        if namespace.config.recovery.skip_middlewares && record.at.is_some() {
            // who was admitted by a token is who that says
            if socket.handshake().claims().is_none() {
                session.identity.lock().clone_from(&record.identity);
            }
        } else if let Err(error) = namespace.admit(&socket, auth).await {
            socket.close(CloseReason::ServerNamespaceDisconnect);
            return Err(End::Turned(error));
        }
        let result = self.take_over(&socket, wish, before, attempt).await;
        if result.is_err() {
            socket.close(CloseReason::ServerNamespaceDisconnect);
        }
        result
    }

    async fn take_over(
        &self,
        socket: &Socket,
        wish: &Wish,
        before: serde_json::Value,
        attempt: Attempt,
    ) -> Result<usize, End> {
        let namespace = &socket.0.namespace;
        let Some(session) = &socket.0.session else { return Err(NotRecovered::Unknown.into()) };
        for _ in 0..ATTEMPTS {
            // again: between the middlewares and now it may have moved
            let stored = look_up(namespace, &wish.pid).await?;
            if *session.identity.lock() != stored.identity {
                return Err(NotRecovered::Identity.into());
            }
            let sessions = namespace.log.sessions();
            // (a session of Node's has no owner to call)
            let live = match stored.at {
                Some(_) => sessions.call_in(&stored.owner, &wish.pid).await,
                None => None,
            };
            let mut record = match live {
                Some(LetGo::Record(record)) => {
                    namespace.metrics.takeovers.inc();
                    *record
                }
                Some(LetGo::Ended) => return Err(NotRecovered::Unknown.into()),
                None => stored,
            };
            // what the owner says may be newer than what was looked at
            let is_it = record.pid == wish.pid && is_of(namespace, &record);
            if !is_it || *session.identity.lock() != record.identity {
                return Err(NotRecovered::Identity.into());
            }
            let entrance = self.prepare(namespace, &record, wish.claim).await?;
            match sessions.take(&record, namespace.log.name(), wish.claim.text()).await {
                Ok(Written::Done) => {}
                Ok(Written::Fenced) => {
                    // it is somewhere else: what we had of it is old
                    namespace.session_taken(&record);
                    tokio::time::sleep(ATTEMPT_PAUSE.mul_f64(1.0 + random::<f64>())).await;
                    continue;
                }
                Err(_) => return Err(NotRecovered::Unavailable.into()),
            }
            namespace.session_taken(&record);
            record.generation += 1;
            record.owner.clone_from(namespace.log.name());
            session.set_generation(record.generation);
            socket.restore_data(&before, record.data.clone());
            let replayed = entrance.missed.len();
            match self.enter_at(socket, attempt, entrance) {
                Entered::Yes => {
                    namespace.changed(socket);
                    return Ok(replayed);
                }
                // the client may try again, and got nothing here
                Entered::Gone => {
                    record.by.clone_from(&record.owner);
                    (record.written, record.taken) = (None, None);
                    namespace.session_ended(record, true);
                    return Err(End::Gone);
                }
                Entered::No(NotRecovered::Contended) => {}
                Entered::No(why) => return Err(why.into()),
            }
        }
        Err(NotRecovered::Contended.into())
    }

    /// What the client has missed until now.
    async fn prepare(
        &self,
        namespace: &Arc<NamespaceInner>,
        record: &Record,
        claim: Claim,
    ) -> Result<Entrance, NotRecovered> {
        let log = &namespace.log;
        let seen = match claim {
            Claim::Offset(offset) => offset.id,
            Claim::Nothing | Claim::Unreadable => record.start,
        };
        let needed = seen.max(record.at.unwrap_or_default().id);
        if !reach(&**log, needed).await {
            let nobody_sent_that = seen >= needed;
            return Err(match nobody_sent_that {
                true => NotRecovered::Offset,
                false => NotRecovered::History,
            });
        }
        let mut replay = Replay::new(record, claim, (log.oldest(), log.mark()), bounds(namespace))?;
        let past = log.past(replay.passed());
        let missed = step_all(&mut replay, past, namespace.codec)?;
        let missed: Vec<_> = missed.into_iter().map(|missed| encoded(namespace, missed)).collect();
        self.fits(namespace, &missed)?;
        Ok(Entrance { replay, missed, fresh: false })
    }

    /// Would it pass the outbox? Other namespaces of the connection may have filled that: they come back at once.
    fn fits(
        &self,
        namespace: &NamespaceInner,
        missed: &[(Missed, Arc<Encoded>)],
    ) -> Result<(), NotRecovered> {
        let bytes: usize = missed.iter().map(|(_, message)| message.bytes()).sum();
        let most = namespace.config.recovery.max_bytes.min(self.room());
        if bytes > most { Err(NotRecovered::TooMuch) } else { Ok(()) }
    }

    /// The end of the replay, and the entry, in one step.
    fn enter_at(&self, socket: &Socket, attempt: Attempt, entrance: Entrance) -> Entered {
        let mut entrance = Some(entrance);
        let mut entered = Entered::Gone;
        socket.0.namespace.log.exclusive(&mut || {
            if let Some(entrance) = entrance.take() {
                entered = self.enter_now(socket, attempt, entrance);
            }
        });
        entered
    }

    fn enter_now(&self, socket: &Socket, attempt: Attempt, entrance: Entrance) -> Entered {
        let Entrance { mut replay, mut missed, fresh } = entrance;
        let (namespace, log) = (&socket.0.namespace, &socket.0.namespace.log);
        let Some(session) = &socket.0.session else { return Entered::Gone };
        let past = log.past(replay.passed());
        let more = step_all(&mut replay, past, namespace.codec).and_then(|more| {
            missed.extend(more.into_iter().map(|missed| encoded(namespace, missed)));
            self.fits(namespace, &missed)
        });
        match more {
            Ok(()) => {}
            Err(_) if fresh => {
                missed.clear();
                replay = Replay::fresh(socket.0.id.clone(), log.mark().id, bounds(namespace));
            }
            Err(why) => return Entered::No(why),
        }
        if namespace.rooms.lock().value(socket.id()).is_some() {
            // the same session has come in by another door
            return Entered::No(NotRecovered::Contended);
        }
        let (mut track, rooms) = replay.into_track();
        track.enter(delivered_early(namespace));
        match fresh {
            // What it is sent from now on has no earlier offset than where the node is; what it has missed may have.
            true => {
                let leftover = session.track.lock().leftover();
                let is_sent =
                    |offset: &Offset| missed.iter().any(|(one, _)| *offset == one.id.into());
                let counts = |offset: &Offset| *offset >= log.mark() || is_sent(offset);
                track.left_over(leftover.filter(counts));
                track.unsent(leftover.filter(|offset| !missed.is_empty() && !counts(offset)));
            }
            false => track.goes_on(log.mark()),
        }
        for (missed, _) in &missed {
            track.sent(missed.id);
        }
        *session.track.lock() = track;
        let entered = self.let_in(socket, attempt, Some(&session.pid), &rooms, || {
            for (_, message) in missed {
                let _ = socket.push_as(message, false, SlowReader::default());
            }
            namespace.sessions.lock().insert(session.pid.clone(), socket.clone());
        });
        if entered {
            socket.start();
            Entered::Yes
        } else {
            Entered::Gone
        }
    }
}

/// How an attempt to go on with a session ended.
enum End {
    Refused(NotRecovered),
    /// A middleware said no.
    Turned(ConnectError),
    Gone,
}

impl From<NotRecovered> for End {
    fn from(why: NotRecovered) -> Self {
        Self::Refused(why)
    }
}

/// What is known of a session, wherever it is.
async fn look_up(namespace: &Arc<NamespaceInner>, pid: &Str) -> Result<Record, NotRecovered> {
    match namespace.peek(pid) {
        Some(LetGo::Record(record)) => return Ok(*record),
        Some(LetGo::Ended) => return Err(NotRecovered::Unknown),
        None => {}
    }
    match namespace.log.sessions().load(pid).await {
        Ok(Some(record)) if is_of(namespace, &record) => Ok(record),
        Ok(_) => Err(NotRecovered::Unknown),
        Err(_) => Err(NotRecovered::Unavailable),
    }
}

/// A private id is good for one namespace. (Node's records do not name theirs.)
fn is_of(namespace: &NamespaceInner, record: &Record) -> bool {
    record.nsp.is_empty() || record.nsp == namespace.name
}

/// Waits until this node has delivered the entry `id`, as long as it comes nearer. `false`: it does not.
async fn reach(log: &dyn Log, id: StreamId) -> bool {
    for _ in 0..CATCH_UP_ROUNDS {
        let before = log.mark();
        if tokio::time::timeout(CATCH_UP_TIMEOUT, log.reached(id)).await.is_ok() {
            return true;
        }
        if log.mark() == before {
            return false;
        }
    }
    false
}

fn bounds(namespace: &NamespaceInner) -> Bounds {
    let recovery = &namespace.config.recovery;
    Bounds { events: recovery.max_events, bytes: recovery.max_bytes }
}

/// The last message that this node has delivered ahead of the log.
fn delivered_early(namespace: &NamespaceInner) -> u64 {
    let log = &namespace.log;
    let early = log.early().into_iter().filter(|early| early.node == *log.node());
    early.map(|early| early.to).max().unwrap_or(0)
}

fn encoded(namespace: &NamespaceInner, missed: Missed) -> (Missed, Arc<Encoded>) {
    let offset = missed.id.to_string();
    let packet = Outgoing::Event { args: &missed.args, ack: None, offset: Some(&offset) };
    let frames = namespace.codec.encode(&namespace.name, packet);
    let encoded = Arc::new(Encoded::new(frames, missed.compress));
    (missed, encoded)
}

impl Session {
    /// For a socket that is not in yet.
    pub(super) fn of_record(record: &Record) -> Self {
        let session = Self::new(record.pid.clone(), record.start, true);
        session.set_generation(record.generation);
        session
    }
}
