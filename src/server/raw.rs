//! Engine.IO without Socket.IO on top: messages in, messages out.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::registry::SessionHandle;
use crate::engine::handshake::Handshake;
use crate::engine::packet::Message;
use crate::engine::{Sid, TransportKind};
use crate::error::{CloseReason, EmitError};
use crate::fanout::{Encoded, SlowReader, Verdict};

/// Messages and bytes that may wait for the application; then the server stops reading from the peer.
const INBOX_MESSAGES: usize = 256;
const INBOX_BYTES: usize = 1024 * 1024;

#[derive(Debug, Default)]
struct Inbox {
    queue: VecDeque<Message>,
    bytes: usize,
    closed: Option<CloseReason>,
}

impl Inbox {
    fn is_full(&self) -> bool {
        self.queue.len() >= INBOX_MESSAGES || self.bytes >= INBOX_BYTES
    }
}

#[derive(Debug, Default)]
struct Shared {
    inbox: Mutex<Inbox>,
    arrived: Notify,
}

/// The session task's end.
pub(crate) struct RawSession(Arc<Shared>);

impl RawSession {
    pub(crate) fn handle_message(&self, message: Message) {
        let mut inbox = self.0.inbox.lock();
        inbox.bytes += bytes(&message);
        inbox.queue.push_back(message);
        drop(inbox);
        self.0.arrived.notify_one();
    }

    pub(crate) fn may_read(&self) -> bool {
        !self.0.inbox.lock().is_full()
    }

    pub(crate) fn close(&self, reason: CloseReason) {
        self.0.inbox.lock().closed.get_or_insert(reason);
        self.0.arrived.notify_one();
    }
}

/// One Engine.IO session, as an application on bare Engine.IO holds it. Dropping it closes the session.
pub struct EngineSocket {
    shared: Arc<Shared>,
    handle: Arc<SessionHandle>,
    handshake: Arc<Handshake>,
}

impl fmt::Debug for EngineSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EngineSocket").field("sid", &self.handle.sid).finish_non_exhaustive()
    }
}

impl EngineSocket {
    pub(crate) fn new(handle: Arc<SessionHandle>, handshake: Arc<Handshake>) -> (Self, RawSession) {
        let shared = Arc::new(Shared::default());
        (Self { shared: shared.clone(), handle, handshake }, RawSession(shared))
    }

    /// The session's id. It is a secret of this client.
    pub fn sid(&self) -> Sid {
        self.handle.sid
    }

    /// The request that opened the session.
    pub fn handshake(&self) -> &Handshake {
        &self.handshake
    }

    /// The transport that carries the session now.
    pub fn transport(&self) -> TransportKind {
        self.handle.kind()
    }

    /// The next message; the reason when the session is over and all its messages were taken.
    ///
    /// Safe to be dropped half-way.
    ///
    /// # Errors
    /// [`CloseReason`]: why the session ended.
    pub async fn recv(&mut self) -> Result<Message, CloseReason> {
        loop {
            {
                let mut inbox = self.shared.inbox.lock();
                let was_full = inbox.is_full();
                if let Some(message) = inbox.queue.pop_front() {
                    inbox.bytes -= bytes(&message);
                    let freed = was_full && !inbox.is_full();
                    drop(inbox);
                    if freed {
                        self.handle.mailbox.wake();
                    }
                    return Ok(message);
                }
                if let Some(reason) = inbox.closed {
                    return Err(reason);
                }
            }
            self.shared.arrived.notified().await;
        }
    }

    /// Queues a message.
    ///
    /// # Errors
    /// [`EmitError::OutboxFull`] has ended the session, [`EmitError::Disconnected`] says that it had ended.
    pub fn send(&self, message: impl Into<Message>) -> Result<(), EmitError> {
        let message = Arc::new(Encoded::message(message.into()));
        match self.handle.mailbox.push(message, false, SlowReader::default()) {
            Verdict::Queued | Verdict::QueuedFor(_) | Verdict::DroppedVolatile => Ok(()),
            Verdict::Overflow => Err(EmitError::OutboxFull),
            Verdict::Closed => Err(EmitError::Disconnected),
        }
    }

    /// Closes the session after what is queued.
    pub fn close(&self) {
        self.handle.mailbox.close(CloseReason::ForcedClose);
    }
}

impl Drop for EngineSocket {
    fn drop(&mut self) {
        self.close();
    }
}

fn bytes(message: &Message) -> usize {
    match message {
        Message::Text(text) => text.len(),
        Message::Binary(data) => data.len(),
    }
}
