//! Which session is where: sid to handle, sharded.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use parking_lot::Mutex;

use crate::engine::{Sid, TransportKind};
use crate::error::PeerMisbehaved;
use crate::fanout::Mailbox;
use crate::transport::Link;
use crate::transport::polling::{PollRequest, PostRequest};

/// What requests bring to a session's task.
#[derive(Debug)]
pub(crate) enum Command {
    /// A GET of the polling transport.
    Poll(PollRequest),
    /// A POST of the polling transport.
    Post(PostRequest),
    /// A link that wants to take the session over.
    Attach(Link),
    /// A POST ended before its body did.
    PostLost,
    /// A request broke a rule.
    Misbehaved(PeerMisbehaved),
}

/// A session, as the rest of the server sees it.
#[derive(Debug)]
pub(crate) struct SessionHandle {
    pub(crate) sid: Sid,
    pub(crate) mailbox: Arc<Mailbox>,
    commands: Mutex<Commands>,
    /// The transport that carries it now.
    kind: AtomicUsize,
    /// Is a POST being read?
    posting: AtomicBool,
}

#[derive(Debug, Default)]
struct Commands {
    queue: Vec<Command>,
    /// The session's task has ended.
    gone: bool,
}

impl SessionHandle {
    pub(crate) fn new(sid: Sid, kind: TransportKind, outbox_bytes: usize) -> Self {
        Self {
            sid,
            mailbox: Arc::new(Mailbox::new(outbox_bytes)),
            commands: Mutex::default(),
            kind: AtomicUsize::new(kind.index()),
            posting: AtomicBool::new(false),
        }
    }

    pub(crate) fn kind(&self) -> TransportKind {
        TransportKind::ALL[self.kind.load(Ordering::Acquire)]
    }

    pub(crate) fn set_kind(&self, kind: TransportKind) {
        self.kind.store(kind.index(), Ordering::Release);
    }

    /// Hands a command to the session's task. If that has ended, the command is dropped, which its
    /// sender sees.
    pub(crate) fn send(&self, command: Command) {
        let mut commands = self.commands.lock();
        if commands.gone {
            return;
        }
        commands.queue.push(command);
        drop(commands);
        self.mailbox.wake();
    }

    /// Takes what came, for the session's task.
    pub(crate) fn take_commands(&self) -> Vec<Command> {
        std::mem::take(&mut self.commands.lock().queue)
    }

    /// The session's task ends: nothing is taken any more.
    pub(crate) fn shut(&self) {
        let mut commands = self.commands.lock();
        commands.gone = true;
        let dropped = std::mem::take(&mut commands.queue);
        drop(commands);
        drop(dropped);
        self.mailbox.shut();
    }

    /// Begins a POST; `None` if one is being read already.
    pub(crate) fn begin_post(self: &Arc<Self>) -> Option<Posting> {
        let overlap = self.posting.swap(true, Ordering::AcqRel);
        (!overlap).then(|| Posting { session: self.clone(), arrived: false })
    }
}

/// A POST that is being read or worked on; the next may begin when this is dropped.
#[derive(Debug)]
pub(crate) struct Posting {
    session: Arc<SessionHandle>,
    arrived: bool,
}

impl Posting {
    /// The body is here, or was refused: either way the client is told what became of it.
    pub(crate) fn arrived(&mut self) {
        self.arrived = true;
    }
}

impl Drop for Posting {
    fn drop(&mut self) {
        self.session.posting.store(false, Ordering::Release);
        if !self.arrived {
            // engine.io polling.ts: "data request connection closed prematurely"
            self.session.send(Command::PostLost);
        }
    }
}

/// Shards of the registry, so that connects and polls of different sessions seldom meet on a lock.
const SHARDS: usize = 64;

type Handles = HashMap<Sid, Arc<SessionHandle>>;
type Shard = Mutex<Handles>;

/// Room that a shard keeps. After a flood 64 tables of its size would stay, and what lies among them with them.
const KEPT_ROOM: usize = 8;

/// Gives back the room of those who are gone, when they were most.
fn give_back(handles: &mut Handles) {
    if handles.capacity() > KEPT_ROOM && handles.len() * 4 <= handles.capacity() {
        handles.shrink_to(handles.len() * 2);
    }
}

/// All sessions of this node.
#[derive(Debug)]
pub(crate) struct Registry {
    shards: Box<[Shard]>,
    len: AtomicUsize,
}

impl Default for Registry {
    fn default() -> Self {
        let shards = (0..SHARDS).map(|_| Mutex::default()).collect();
        Self { shards, len: AtomicUsize::new(0) }
    }
}

impl Registry {
    fn shard(&self, sid: &Sid) -> &Shard {
        // the first characters are random; two of them, for letters alone do not fill 64 shards
        let [first, second, ..] = sid.as_bytes();
        &self.shards[(usize::from(*first) * 31 + usize::from(*second)) % SHARDS]
    }

    pub(crate) fn insert(&self, handle: Arc<SessionHandle>) {
        let before = self.shard(&handle.sid).lock().insert(handle.sid, handle);
        assert!(before.is_none(), "96 random bits do not collide");
        self.len.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn remove(&self, sid: &Sid) {
        let mut shard = self.shard(sid).lock();
        if shard.remove(sid).is_some() {
            give_back(&mut shard);
            self.len.fetch_sub(1, Ordering::Relaxed);
        }
    }

    pub(crate) fn find(&self, sid: &Sid) -> Option<Arc<SessionHandle>> {
        self.shard(sid).lock().get(sid).cloned()
    }

    pub(crate) fn len(&self) -> usize {
        self.len.load(Ordering::Relaxed)
    }

    /// Bytes that wait for all clients.
    pub(crate) fn outbox_bytes(&self) -> usize {
        let of = |shard: &Shard| -> usize {
            shard.lock().values().map(|handle| handle.mailbox.outbox_bytes()).sum()
        };
        self.shards.iter().map(of).sum()
    }

    /// All sessions, in no order.
    pub(crate) fn all(&self) -> Vec<Arc<SessionHandle>> {
        self.shards
            .iter()
            .flat_map(|shard| shard.lock().values().cloned().collect::<Vec<_>>())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_gone_leaves_no_room_behind() {
        let registry = Registry::default();
        let handle = |number: usize| {
            let sid = Sid::parse(&format!("{:02}{number:018}", number % 100)).unwrap();
            Arc::new(SessionHandle::new(sid, TransportKind::Polling, 1_000))
        };
        let all: Vec<_> = (0..3_030).map(handle).collect();
        all.iter().for_each(|handle| registry.insert(handle.clone()));
        let (stay, go) = all.split_at(30);
        let room = || registry.shards.iter().map(|shard| shard.lock().capacity()).sum::<usize>();
        assert!(room() >= 3_030);
        go.iter().for_each(|handle| registry.remove(&handle.sid));
        assert_eq!(registry.len(), 30);
        assert!(stay.iter().all(|handle| registry.find(&handle.sid).is_some()));
        assert!(room() <= SHARDS * KEPT_ROOM, "{} places for 30", room());
    }
}
