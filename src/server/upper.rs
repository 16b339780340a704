//! What a session carries, as its task sees it.

use std::time::Instant;

use super::raw::RawSession;
use crate::engine::packet::Message;
use crate::error::{CloseReason, PeerMisbehaved};
use crate::socketio::connection::Connection;

/// What rides on the session.
pub(crate) enum Upper {
    SocketIo(Connection),
    Raw(RawSession),
}

impl Upper {
    pub(super) fn handle_message(
        &mut self,
        now: Instant,
        message: Message,
    ) -> Result<(), PeerMisbehaved> {
        match self {
            Self::SocketIo(connection) => connection.handle_message(now, message),
            Self::Raw(session) => {
                session.handle_message(message);
                Ok(())
            }
        }
    }

    pub(super) fn may_read(&self) -> bool {
        match self {
            Self::SocketIo(connection) => connection.may_read(),
            Self::Raw(session) => session.may_read(),
        }
    }

    /// Has the client got where it wanted to, or does it only sit there?
    pub(super) fn is_settled(&self) -> bool {
        match self {
            Self::SocketIo(connection) => connection.has_joined(),
            Self::Raw(_) => true,
        }
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        match self {
            Self::SocketIo(connection) => connection.poll_timeout(),
            Self::Raw(_) => None,
        }
    }

    pub(super) fn handle_timeout(&self, now: Instant) -> Option<CloseReason> {
        match self {
            Self::SocketIo(connection) => connection.handle_timeout(now),
            Self::Raw(_) => None,
        }
    }

    pub(super) fn close(&mut self, reason: CloseReason) {
        match self {
            Self::SocketIo(connection) => connection.close(reason),
            Self::Raw(session) => session.close(reason),
        }
    }
}
