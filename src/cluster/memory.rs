//! The bus of a single process. Delivers inline, so that an emit is in the outboxes when it returns.
//!
//! Several servers of one process may share it (tests do): they are then nodes of one cluster.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime};

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use parking_lot::{Mutex, RwLock};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::history::{At, Early, Gap, Offset, Past, Tail, TailLimits, Way};
use super::message::{Message, Request};
use super::session::{LetGo, Record, Sessions, Unavailable, Written};
use super::{Bus, Log, Replica, Replies, StreamId};
use crate::engine::packet::Str;
use crate::error::EmitError;

/// See the module's documentation.
pub(crate) struct MemoryBus {
    /// What to remember for recovery, if it is on.
    history: Option<TailLimits>,
    logs: Mutex<HashMap<Str, Arc<Shared>>>,
    nodes: AtomicU64,
}

/// The log of one namespace.
struct Shared {
    nsp: Str,
    /// Begins the ids, so that those of an earlier life of the namespace or the process do not look like ours.
    born: u64,
    /// Held while one message is delivered: this is what makes one order of it.
    order: Mutex<()>,
    replicas: RwLock<Vec<(Str, Weak<dyn Replica>)>>,
    /// The last entry that was delivered, and the entries before it.
    past: Mutex<(StreamId, Option<Tail>)>,
    sessions: Mutex<Kept>,
}

/// Records, and when they may be forgotten.
#[derive(Default)]
struct Kept {
    records: HashMap<Str, (Record, Instant)>,
    /// In the order in which they were written, which is that of their ends while all have one window.
    expiry: VecDeque<(Instant, Str)>,
    writes: u64,
}

struct MemoryLog {
    shared: Arc<Shared>,
    name: Str,
    own: Weak<dyn Replica>,
}

impl Default for MemoryBus {
    fn default() -> Self {
        Self::new(None)
    }
}

impl MemoryBus {
    /// `history`: what to remember for recovery.
    pub(crate) fn new(history: Option<TailLimits>) -> Self {
        Self { history, logs: Mutex::default(), nodes: AtomicU64::new(0) }
    }
}

fn now_ms() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    now.as_millis() as u64
}

impl Bus for MemoryBus {
    fn attach(&self, nsp: &Str, replica: Weak<dyn Replica>) -> Arc<dyn Log> {
        let mut logs = self.logs.lock();
        // a namespace that is forgotten for now keeps the sessions of those who may come back
        logs.retain(|_, log| log.is_used());
        let new = || {
            let born = now_ms();
            Arc::new(Shared {
                nsp: nsp.clone(),
                born,
                order: Mutex::new(()),
                replicas: RwLock::default(),
                past: Mutex::new((StreamId { ms: born, seq: 0 }, self.history.map(Tail::new))),
                sessions: Mutex::default(),
            })
        };
        let shared = logs.entry(nsp.clone()).or_insert_with(new).clone();
        drop(logs);
        let name: Str = format!("memory-{}", self.nodes.fetch_add(1, Ordering::Relaxed)).into();
        let mut replicas = shared.replicas.write();
        replicas.retain(|(_, replica)| replica.strong_count() > 0);
        replicas.push((name.clone(), replica.clone()));
        drop(replicas);
        Arc::new(MemoryLog { shared, name, own: replica })
    }

    fn is_degraded(&self) -> bool {
        false
    }

    fn close(&self) -> BoxFuture<'static, ()> {
        Box::pin(std::future::ready(()))
    }
}

impl Shared {
    fn is_used(&self) -> bool {
        self.replicas.read().iter().any(|(_, replica)| replica.strong_count() > 0) || {
            let mut sessions = self.sessions.lock();
            sessions.expire();
            !sessions.records.is_empty()
        }
    }

    fn live(&self) -> Vec<(Str, Arc<dyn Replica>)> {
        let replicas = self.replicas.read();
        let live =
            |(name, replica): &(Str, Weak<dyn Replica>)| Some((name.clone(), replica.upgrade()?));
        replicas.iter().filter_map(live).collect()
    }
}

impl Log for MemoryLog {
    fn publish(&self, message: Message) -> Result<u64, EmitError> {
        let _order = self.shared.order.lock();
        let last = self.shared.past.lock().0;
        let id = StreamId { ms: self.shared.born, seq: last.seq + 1 };
        // copied: a delivery may end a namespace, and another may be attached meanwhile
        for (name, replica) in self.shared.live() {
            let way = if name == self.name { Way::Own } else { Way::Foreign };
            replica.deliver(&At { offset: id.into(), origin: None, way }, &message);
        }
        let mut past = self.shared.past.lock();
        past.0 = id;
        if let Some(tail) = past.1.as_mut().filter(|_| message.is_recoverable()) {
            let bytes = message.bytes();
            tail.push(Past::message(id, self.shared.nsp.clone(), None, message, bytes));
        }
        Ok(0)
    }

    fn delivered(&self, _: u64) -> Option<BoxFuture<'static, ()>> {
        None // that is done when it is appended
    }

    fn request(&self, request: Request) -> Replies {
        let (sender, receiver) = mpsc::unbounded_channel();
        let replicas = self.shared.replicas.read();
        let others = replicas.iter().filter(|(_, replica)| !Weak::ptr_eq(replica, &self.own));
        let others: Vec<_> = others.filter_map(|(_, replica)| replica.upgrade()).collect();
        drop(replicas);
        for replica in &others {
            replica.answer(&request, sender.clone());
        }
        receiver
    }

    fn nodes(&self) -> BoxFuture<'static, Option<usize>> {
        std::future::ready(Some(self.shared.live().len())).boxed()
    }

    fn name(&self) -> &Str {
        &self.name
    }

    fn node(&self) -> &Str {
        &self.name
    }

    fn mark(&self) -> Offset {
        self.shared.past.lock().0.into()
    }

    fn gap(&self) -> Gap {
        Gap::default()
    }

    fn oldest(&self) -> StreamId {
        self.shared.past.lock().1.as_ref().map_or_else(StreamId::default, Tail::start)
    }

    fn past(&self, after: StreamId) -> Option<Vec<Arc<Past>>> {
        let past = self.shared.past.lock();
        past.1.as_ref()?.behind(after, &self.shared.nsp)
    }

    fn reached(&self, id: StreamId) -> BoxFuture<'static, ()> {
        match id <= self.shared.past.lock().0 {
            true => std::future::ready(()).boxed(),
            // entries are delivered when they are appended: that one has never been
            false => std::future::pending().boxed(),
        }
    }

    fn early(&self) -> Vec<Early> {
        Vec::new()
    }

    fn exclusive(&self, act: &mut dyn FnMut()) {
        let _order = self.shared.order.lock();
        act();
    }

    fn sessions(&self) -> &dyn Sessions {
        &*self.shared
    }
}

impl Kept {
    fn expire(&mut self) {
        let now = Instant::now();
        while let Some((at, pid)) = self.expiry.front() {
            if *at > now {
                return;
            }
            // written again since: a later line speaks for it
            if self.records.get(pid).is_some_and(|(_, until)| *until <= now) {
                self.records.remove(pid);
            }
            self.expiry.pop_front();
        }
    }

    /// Has nobody newer than `record` written?
    fn may_write(&self, record: &Record) -> bool {
        self.records.get(&record.pid).is_none_or(|(kept, _)| {
            let same = kept.generation == record.generation && kept.owner == record.owner;
            kept.generation < record.generation || same
        })
    }

    fn write(&mut self, record: Record, ttl: Duration) -> Written {
        self.expire();
        if !self.may_write(&record) {
            return Written::Fenced;
        }
        let until = Instant::now() + ttl;
        self.writes += 1;
        let record = Record { stamp: Some(self.writes.to_string().into()), ..record };
        self.expiry.push_back((until, record.pid.clone()));
        self.records.insert(record.pid.clone(), (record, until));
        Written::Done
    }

    fn take(&mut self, record: &Record, owner: &Str, claim: Str) -> Written {
        let Some((kept, _)) = self.records.get_mut(&record.pid) else { return Written::Done };
        let is_other = record.stamp.is_some() && record.stamp != kept.stamp;
        if kept.generation != record.generation || kept.owner != record.owner || is_other {
            return Written::Fenced;
        }
        kept.generation += 1;
        kept.owner = owner.clone();
        kept.taken.get_or_insert(claim);
        Written::Done
    }
}

impl Sessions for Shared {
    fn outlive_the_node(&self) -> bool {
        // several servers of one process are nodes to each other
        self.replicas.read().len() > 1
    }

    fn load(&self, pid: &str) -> BoxFuture<'static, Result<Option<Record>, Unavailable>> {
        let mut kept = self.sessions.lock();
        kept.expire();
        let record = kept.records.get(pid).map(|(record, _)| record.clone());
        std::future::ready(Ok(record)).boxed()
    }

    fn take(
        &self,
        record: &Record,
        owner: &Str,
        claim: Str,
    ) -> BoxFuture<'static, Result<Written, Unavailable>> {
        std::future::ready(Ok(self.sessions.lock().take(record, owner, claim))).boxed()
    }

    fn store(
        &self,
        record: Record,
        ttl: Duration,
    ) -> BoxFuture<'static, Result<Written, Unavailable>> {
        std::future::ready(Ok(self.sessions.lock().write(record, ttl))).boxed()
    }

    fn remove(
        &self,
        record: Record,
        _: Duration,
    ) -> BoxFuture<'static, Result<Written, Unavailable>> {
        let mut kept = self.sessions.lock();
        if kept.may_write(&record) {
            kept.records.remove(&record.pid);
        }
        std::future::ready(Ok(Written::Done)).boxed()
    }

    fn call_in(&self, owner: &str, pid: &str) -> BoxFuture<'static, Option<LetGo>> {
        let live = self.live();
        let owner = live.iter().find(|(name, _)| name.as_str() == owner);
        std::future::ready(owner.and_then(|(_, replica)| replica.let_go(pid))).boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::message::{Reply, Target};

    #[derive(Default)]
    struct Recorder(Mutex<Vec<String>>);

    impl Replica for Recorder {
        fn deliver(&self, _: &At, message: &Message) {
            if let Message::Join { rooms, .. } = message {
                self.0.lock().push(rooms[0].to_string());
            }
        }

        fn addresses(&self, _: &Target) -> bool {
            true
        }

        fn answer(&self, _: &Request, replies: mpsc::UnboundedSender<Reply>) {
            let _ = replies.send(Reply::ClientCount(1));
        }

        fn let_go(&self, _: &str) -> Option<LetGo> {
            None
        }
    }

    fn node(bus: &MemoryBus, nsp: &'static str) -> (Arc<Recorder>, Arc<dyn Log>) {
        let recorder = Arc::new(Recorder::default());
        let replica: Weak<Recorder> = Arc::downgrade(&recorder);
        (recorder, bus.attach(&nsp.into(), replica))
    }

    fn join(room: String) -> Message {
        Message::Join { target: Target::default(), rooms: vec![room.into()] }
    }

    #[test]
    fn every_node_sees_one_order_and_namespaces_are_apart() {
        let bus = MemoryBus::default();
        let (a, log_a) = node(&bus, "/");
        let (b, log_b) = node(&bus, "/");
        let (other, _log) = node(&bus, "/other");
        std::thread::scope(|scope| {
            for (name, log) in [("a", &log_a), ("b", &log_b)] {
                scope.spawn(move || {
                    for i in 0..500 {
                        log.publish(join(format!("{name}{i}"))).unwrap();
                    }
                });
            }
        });
        assert_eq!(a.0.lock().len(), 1_000);
        assert_eq!(*a.0.lock(), *b.0.lock());
        assert_eq!(*other.0.lock(), Vec::<String>::new());
    }

    #[test]
    fn a_request_asks_the_others_only_and_ends() {
        let bus = MemoryBus::default();
        let (_a, log_a) = node(&bus, "/");
        let (_b, _log_b) = node(&bus, "/");
        let (c, log_c) = node(&bus, "/");
        drop((c, log_c));
        let mut replies = log_a.request(Request::FetchSockets { target: Target::default() });
        assert!(replies.try_recv().is_ok());
        let end = replies.try_recv().unwrap_err();
        assert_eq!(end, mpsc::error::TryRecvError::Disconnected);
    }
}
