//! The bus of a single process. Delivers inline, so that an emit is in the outboxes when it returns.
//!
//! Several servers of one process may share it (tests do): they are then nodes of one cluster.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use futures_util::future::BoxFuture;
use parking_lot::{Mutex, RwLock};
use tokio::sync::mpsc;

use super::message::{Message, Request};
use super::{Bus, Log, Replica, Replies};
use crate::engine::packet::Str;
use crate::error::EmitError;

/// See the module's documentation.
#[derive(Default)]
pub(crate) struct MemoryBus {
    logs: Mutex<HashMap<Str, Weak<Shared>>>,
}

/// The log of one namespace. It stores nothing yet; recovery will keep its tail here.
#[derive(Default)]
struct Shared {
    /// Held while one message is delivered: this is what makes one order of it.
    order: Mutex<()>,
    replicas: RwLock<Vec<Weak<dyn Replica>>>,
}

struct MemoryLog {
    shared: Arc<Shared>,
    own: Weak<dyn Replica>,
}

impl Bus for MemoryBus {
    fn attach(&self, nsp: &Str, replica: Weak<dyn Replica>) -> Arc<dyn Log> {
        let mut logs = self.logs.lock();
        logs.retain(|_, log| log.strong_count() > 0);
        let shared = logs.get(nsp).and_then(Weak::upgrade).unwrap_or_default();
        logs.insert(nsp.clone(), Arc::downgrade(&shared));
        drop(logs);
        let mut replicas = shared.replicas.write();
        replicas.retain(|replica| replica.strong_count() > 0);
        replicas.push(replica.clone());
        drop(replicas);
        Arc::new(MemoryLog { shared, own: replica })
    }

    fn is_degraded(&self) -> bool {
        false
    }

    fn close(&self) -> BoxFuture<'static, ()> {
        Box::pin(std::future::ready(()))
    }
}

impl Log for MemoryLog {
    fn publish(&self, message: Message) -> Result<(), EmitError> {
        let _order = self.shared.order.lock();
        // copied: a delivery may end a namespace, and another may be attached meanwhile
        let replicas: Vec<_> =
            self.shared.replicas.read().iter().filter_map(Weak::upgrade).collect();
        for replica in replicas {
            replica.deliver(&message);
        }
        Ok(())
    }

    fn request(&self, request: Request) -> Replies {
        let (sender, receiver) = mpsc::unbounded_channel();
        let replicas = self.shared.replicas.read();
        let others = replicas.iter().filter(|replica| !Weak::ptr_eq(replica, &self.own));
        let others: Vec<_> = others.filter_map(Weak::upgrade).collect();
        drop(replicas);
        for replica in &others {
            replica.answer(&request, sender.clone());
        }
        receiver
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::message::{Reply, Target};

    #[derive(Default)]
    struct Recorder(Mutex<Vec<String>>);

    impl Replica for Recorder {
        fn deliver(&self, message: &Message) {
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
