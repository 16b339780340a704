//! Writing to a peer without waking its session's task.

use std::fmt::Debug;
use std::io;

use bytes::Bytes;

use super::{Encoded, Outbox};

/// A connection on which a message goes out by nothing but one `write`, with no place to wait.
pub(crate) trait Line: Debug + Send + Sync {
    /// The message as it goes out here.
    fn framed<'a>(&self, message: &'a Encoded) -> &'a Bytes;

    /// Writes what the connection takes at once, at least one message of up to [`MAX_MESSAGES`]; gives bytes.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`], if it takes nothing now. The session's task meets any other error
    /// again when it writes itself.
    fn try_write(&self, messages: &[&Bytes]) -> io::Result<usize>;

    /// Counts what was taken out of the outbox.
    fn sent(&self, packets: usize, bytes: usize);
}

/// Messages in one `write`.
pub(crate) const MAX_MESSAGES: usize = 32;

/// Writes what is queued, in order.
///
/// # Errors
/// The line took less than there is; the rest of a message of which it took a part is given back, and
/// is to be written first.
pub(super) fn write(line: &dyn Line, outbox: &mut Outbox) -> Result<(), Bytes> {
    let (mut packets, mut bytes) = (0, 0);
    let mut step = || loop {
        let none = Bytes::new();
        let mut messages = [&none; MAX_MESSAGES];
        let mut count = 0;
        for (framed, message) in messages.iter_mut().zip(outbox.iter()) {
            *framed = line.framed(message);
            count += 1;
        }
        if count == 0 {
            return Ok(());
        }
        let mut written = line.try_write(&messages[..count]).map_err(|_| Bytes::new())?;
        for _ in 0..count {
            if written == 0 {
                return Err(Bytes::new());
            }
            let Some(message) = outbox.pop() else { break };
            packets += message.frames().len();
            bytes += message.payload_bytes();
            let frames = line.framed(&message);
            if written < frames.len() {
                return Err(frames.slice(written..));
            }
            written -= frames.len();
        }
    };
    let outcome = step();
    if packets > 0 {
        line.sent(packets, bytes);
    }
    outcome
}
