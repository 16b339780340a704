//! Writing to a peer without waking its session's task.

use std::fmt::Debug;
use std::io::{self, IoSlice};

use bytes::Bytes;

use super::Outbox;

/// A connection on which a message goes out as WebSocket frames, by nothing but one `write`: no encryption,
/// no compression, no place to wait.
pub(crate) trait Line: Debug + Send + Sync {
    /// Writes what the connection takes at once.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`], if it takes nothing now. The session's task meets any other error
    /// again when it writes itself.
    fn try_write(&self, frames: &[IoSlice<'_>]) -> io::Result<usize>;

    /// Counts what was taken out of the outbox.
    fn sent(&self, packets: usize, bytes: usize);
}

/// Buffers in one `write`.
const MAX_SLICES: usize = 32;

/// Writes what is queued, in order.
///
/// # Errors
/// The line took less than there is; the rest of a message of which it took a part is given back, and
/// is to be written first.
pub(super) fn write(line: &dyn Line, outbox: &mut Outbox) -> Result<(), Bytes> {
    let (mut packets, mut bytes) = (0, 0);
    let mut step = || loop {
        let mut slices = [IoSlice::new(&[]); MAX_SLICES];
        let mut count = 0;
        for (slice, message) in slices.iter_mut().zip(outbox.iter()) {
            *slice = IoSlice::new(message.websocket());
            count += 1;
        }
        if count == 0 {
            return Ok(());
        }
        let mut written = line.try_write(&slices[..count]).map_err(|_| Bytes::new())?;
        for _ in 0..count {
            if written == 0 {
                return Err(Bytes::new());
            }
            let Some(message) = outbox.pop() else { break };
            packets += message.frames().len();
            bytes += message.payload_bytes();
            let frames = message.websocket();
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
