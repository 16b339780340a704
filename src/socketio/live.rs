//! The part of a socket that recovery needs.

use std::sync::atomic::Ordering;

use super::socket::Socket;
use crate::cluster::StreamId;
use crate::cluster::history::{At, Early, Offset, Way};
use crate::cluster::message::Flags;
use crate::cluster::session::Record;
use crate::config::SocketIoConfig;
use crate::engine::door::Limit;
use crate::engine::packet::Str;
use crate::error::CloseReason;

/// Where a node is: the last entry that it delivered, and what it delivered ahead of the log.
pub(super) type Place = (Offset, Vec<Early>);

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

    /// All that is to be known of it elsewhere; `None` while recovery is off, or when it goes on elsewhere.
    pub(super) fn record(&self) -> Option<Record> {
        // asked before the track: what is delivered in between is then in both, and not in neither
        self.record_at(self.place()?)
    }

    /// Where the node is now; `None` while recovery is off.
    pub(super) fn place(&self) -> Option<Place> {
        let log = &self.0.namespace.log;
        self.0.session.is_some().then(|| (log.mark(), log.early()))
    }

    /// As [`Self::record`]. The socket must have been among those that are delivered to until `place` was
    /// asked, or longer: what came behind that is looked for in the log when the client is back.
    fn record_at(&self, (at, early): Place) -> Option<Record> {
        let session = self.0.session.as_ref()?;
        if session.over.load(Ordering::Acquire) {
            return None;
        }
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
            sent: None,
            early: Vec::new(),
            leftover: None,
            by: log.name().clone(),
            owner: log.name().clone(),
            generation: session.generation.load(Ordering::Acquire),
            stamp: None,
        };
        let early = early.into_iter().filter(|early| early.node == *log.node()).collect();
        session.track.lock().record(&mut record, at, early);
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

    /// The connection ended: the session waits, or is over. `place`: from before the socket left.
    pub(super) fn end_session(&self, reason: CloseReason, place: Option<Place>) {
        let Some(session) = &self.0.session else { return };
        let Some(record) = place.and_then(|place| self.record_at(place)) else { return };
        if session.over.swap(true, Ordering::AcqRel) {
            return;
        }
        // a socket that never entered has nothing of its own to say
        if self.0.namespace.forget_live(self) {
            self.0.namespace.session_ended(record, reason.is_recoverable());
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
        let record = self.record()?;
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
