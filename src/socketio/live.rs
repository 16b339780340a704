//! The part of a socket that recovery needs.

use std::sync::atomic::Ordering;

use super::socket::Socket;
use crate::cluster::StreamId;
use crate::cluster::history::{At, Early, Gap, Offset, Way};
use crate::cluster::message::Flags;
use crate::cluster::session::Record;
use crate::config::SocketIoConfig;
use crate::engine::door::Limit;
use crate::engine::packet::Str;
use crate::error::CloseReason;

/// Where a node is.
#[derive(Clone, Debug, Default)]
pub(super) struct Place {
    /// The last entry that it delivered.
    pub(super) at: Offset,
    /// What it delivered ahead of the log.
    pub(super) early: Vec<Early>,
    /// Where it last may have missed something.
    pub(super) gap: Gap,
}

impl Socket {
    /// Joins rooms; `at`: where this node is, while recovery is on.
    pub(super) fn join_at(&self, rooms: &[Str], at: Option<StreamId>) {
        let mut index = self.0.namespace.rooms.lock();
        let fitting = self.fitting(rooms, index.joined(&self.0.id));
        index.join(&self.0.id, &fitting);
        if let (Some(session), Some(at)) = (&self.0.session, at) {
            session.track.lock().join(&fitting, at);
            drop(index);
            self.changed();
        }
    }

    /// Those of the rooms that it may join and is not among the `joined` ones yet.
    pub(super) fn fitting(&self, rooms: &[Str], joined: &[Str]) -> Vec<Str> {
        let namespace = &self.0.namespace;
        let SocketIoConfig { max_rooms, max_name_bytes, .. } = *namespace.config;
        let mut fitting: Vec<Str> = Vec::new();
        let mut met = false;
        for room in rooms {
            if joined.contains(room) || fitting.contains(room) {
                continue;
            }
            if joined.len() + fitting.len() < max_rooms && room.len() <= max_name_bytes {
                fitting.push(room.clone());
            } else {
                met = true;
            }
        }
        if met {
            self.met(Limit::Rooms);
        }
        fitting
    }

    /// Counts a limit that it met.
    pub(super) fn met(&self, limit: Limit) {
        let now = tokio::time::Instant::now().into_std();
        self.0.namespace.metrics.met(limit, self.handshake().address, now);
    }

    pub(super) fn leave_at(&self, rooms: &[Str], at: Option<StreamId>) {
        let mut index = self.0.namespace.rooms.lock();
        index.leave(&self.0.id, rooms);
        if let (Some(session), Some(at)) = (&self.0.session, at) {
            session.track.lock().leave(rooms, at);
            drop(index);
            self.changed();
        }
    }

    /// The rooms that it joined before it entered the namespace.
    pub(super) fn rooms_to_be(&self) -> Vec<Str> {
        self.0.rooms_to_be.lock().clone().unwrap_or_default()
    }

    /// It enters its namespace, with `rooms` that it had, those that fit, and those that it joined at the door, if
    /// they fit, too. `at`: where the node is, while recovery is on.
    pub(super) fn enter(&self, rooms: &[Str], at: Option<StreamId>) {
        // held all the time: what is joined meanwhile is joined before or after
        let mut to_be = self.0.rooms_to_be.lock();
        let kept = self.fitting(rooms, &[]);
        let joined = self.fitting(&to_be.take().unwrap_or_default(), &kept);
        self.0.namespace.insert(self, &kept, &joined);
        if let (Some(session), Some(at)) = (&self.0.session, at) {
            let mut track = session.track.lock();
            if kept.len() < rooms.len() {
                let surplus: Vec<Str> =
                    rooms.iter().filter(|room| !kept.contains(room)).cloned().collect();
                track.leave(&surplus, at);
            }
            track.join(&joined, at);
        }
    }

    pub(super) fn data_value(&self) -> serde_json::Value {
        self.0.data.lock().clone()
    }

    /// Takes the data as it was at last, unless a middleware has changed it since it was `before`.
    pub(super) fn restore_data(&self, before: &serde_json::Value, last: serde_json::Value) {
        let mut data = self.0.data.lock();
        if *data == *before {
            *data = last;
        }
    }

    /// Is the message for this socket now? Remembers what it was sent.
    pub(super) fn takes(&self, at: &At, flags: Flags) -> bool {
        let Some(session) = &self.0.session else { return true };
        let mut track = session.track.lock();
        let takes = match (at.way, &at.origin) {
            (Way::Foreign, Some(origin)) => !track.has(origin),
            (Way::Echo, Some(origin)) => track.is_echo_new(origin),
            (Way::Own, _) | (Way::Foreign, None) => true,
            (Way::Early, _) => return true,
            (Way::Echo, None) => return false,
        };
        if !flags.volatile && flags.ack.is_none() {
            track.sent(at.offset.id);
        }
        takes
    }

    /// It is about to leave: what is delivered from now on it does not get, so that must not count as passed.
    pub(super) fn marks_place(&self) {
        if let Some(session) = &self.0.session {
            session.left.get_or_init(|| Box::new(self.place()));
        }
    }

    /// Where the node is now.
    fn place(&self) -> Place {
        let log = &self.0.namespace.log;
        // in this order: it may miss something just now
        let at = log.mark();
        let early = log.early().into_iter().filter(|early| early.node == *log.node()).collect();
        Place { at, early, gap: log.gap() }
    }

    /// All that is to be known of it elsewhere; `None` while recovery is off, or when it goes on elsewhere.
    pub(super) fn record(&self) -> Option<Record> {
        let session = self.0.session.as_ref()?;
        if session.over.load(Ordering::Acquire) {
            return None;
        }
        // Asked before the track: what is delivered in between is then in both, and not in neither. And before it
        // is asked whether the socket has left: until then it was among those that are delivered to, or longer.
        let now = self.place();
        let place = session.left.get().map_or(now, |left| (**left).clone());
        let log = &self.0.namespace.log;
        let mut record = Record {
            nsp: self.0.namespace.name.clone(),
            sid: self.0.id.clone(),
            pid: session.pid.clone(),
            data: self.data_value(),
            identity: session.identity.lock().clone(),
            start: StreamId::default(),
            at: None,
            rooms: Vec::new(),
            forgotten: StreamId::default(),
            is_last: false,
            sent: None,
            early: Vec::new(),
            leftover: None,
            unsent: None,
            by: log.name().clone(),
            written: None,
            taken: None,
            owner: log.name().clone(),
            generation: session.generation.load(Ordering::Acquire),
            stamp: None,
        };
        session.track.lock().record(&mut record, place);
        Some(record)
    }

    /// The secret by which the client gets the socket back, and where its session began.
    #[cfg(test)]
    pub(crate) fn session_start(&self) -> Option<(Str, StreamId)> {
        let session = self.0.session.as_ref()?;
        Some((session.pid.clone(), session.track.lock().start()))
    }

    /// What is written of it is to be written again.
    pub(super) fn changed(&self) {
        if self.0.session.is_some() && self.is_connected() {
            self.0.namespace.changed(self);
        }
    }

    /// The connection ended: the session waits, or is over.
    pub(super) fn end_session(&self, reason: CloseReason) {
        let Some(session) = &self.0.session else { return };
        let Some(mut record) = self.record() else { return };
        record.is_last = true;
        if session.over.swap(true, Ordering::AcqRel) {
            return;
        }
        // a socket that never entered has nothing of its own to say
        if self.0.namespace.forget_live(self) {
            let keep = reason.is_recoverable() && !self.is_condemned();
            self.0.namespace.session_ended(record, keep);
        }
    }

    /// Nothing is written of it any more.
    pub(super) fn forget_session(&self) {
        if let Some(session) = &self.0.session {
            session.over.store(true, Ordering::Release);
        }
    }

    /// Its session goes on elsewhere: the connection that is still there is of no use to its client.
    pub(super) fn supersede(&self) -> Option<Record> {
        let session = self.0.session.as_ref()?;
        let mut record = self.record()?;
        record.is_last = true;
        if session.over.swap(true, Ordering::AcqRel) {
            return None;
        }
        self.0.namespace.forget_live(self);
        self.0.connection.leave(self);
        self.close(CloseReason::Superseded);
        self.0.connection.abort(CloseReason::Superseded);
        Some(record)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, OnceLock};
    use std::time::{Duration, Instant, SystemTime};

    use super::*;
    use crate::cluster::history::TailLimits;
    use crate::cluster::memory::MemoryBus;
    use crate::cluster::session::LetGo;
    use crate::config::RecoveryConfig;
    use crate::engine::handshake::Handshake;
    use crate::engine::packet::Message;
    use crate::engine::{NodeTag, TransportKind};
    use crate::fanout::Mailbox;
    use crate::metrics::Metrics;
    use crate::socketio::SocketIo;
    use crate::socketio::connection::Connection;

    fn server() -> Arc<SocketIo> {
        let window = Duration::from_secs(60);
        let recovery = RecoveryConfig { window, ..RecoveryConfig::default() };
        let config = SocketIoConfig { recovery, ..SocketIoConfig::default() };
        let bus = MemoryBus::new(Some(TailLimits { entries: 100, bytes: 1 << 20 }));
        let metrics = Arc::new(Metrics::new("0"));
        Arc::new(SocketIo::new(config, metrics, Arc::new(bus), NodeTag::new(*b"test"), None))
    }

    fn connected(server: &Arc<SocketIo>) -> (Connection, Socket) {
        let handshake = Arc::new(Handshake {
            transport: "websocket",
            url: "/socket.io/".to_owned(),
            query: Vec::new(),
            headers: http::HeaderMap::new(),
            peer: ([127, 0, 0, 1], 1).into(),
            address: [127, 0, 0, 1].into(),
            secure: false,
            issued: SystemTime::UNIX_EPOCH,
            shown: OnceLock::new(),
        });
        let mailbox = Arc::new(Mailbox::new(1 << 20));
        let kind = TransportKind::WebSocket;
        let connection = Connection::new(Instant::now(), server.clone(), mailbox, handshake, kind);
        connection.handle_message(Instant::now(), Message::Text("0".into())).unwrap();
        let socket = server.of("/").local_sockets().pop().expect("it is in");
        (connection, socket)
    }

    #[tokio::test]
    async fn what_comes_while_a_socket_leaves_has_not_passed_whoever_asks_then() {
        for by_another in [false, true] {
            let server = server();
            let (connection, socket) = connected(&server);
            let namespace = &socket.0.namespace;
            server.of("/").emit("got", &()).await.unwrap();
            let got = namespace.log.mark();
            // the first steps of leaving: here another thread may come in between
            socket.marks_place();
            socket.0.connected.store(false, Ordering::Release);
            server.of("/").emit("missed", &()).await.unwrap();
            assert!(namespace.log.mark() > got);
            let (pid, _) = socket.session_start().unwrap();
            let record = match by_another {
                true => match crate::cluster::Replica::let_go(&**namespace, &pid) {
                    Some(LetGo::Record(record)) => *record,
                    other => panic!("{other:?}"),
                },
                false => match namespace.peek(&pid) {
                    Some(LetGo::Record(record)) => *record,
                    other => panic!("{other:?}"),
                },
            };
            assert_eq!(record.at, Some(got), "called in by another node: {by_another}");
            drop(connection);
        }
    }
}
