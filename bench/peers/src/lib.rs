//! What both yardsticks for WebTransport speak. (The servers that are compared with them share nothing.)

use bytes::Bytes;

/// Engine.IO's framing on a WebTransport stream: a length, as in WebSocket.
pub fn framed(payload: &[u8]) -> Bytes {
    let mut out = Vec::with_capacity(payload.len() + 9);
    match payload.len() {
        len @ ..126 => out.push(len as u8),
        len @ ..65_536 => {
            out.push(126);
            out.extend((len as u16).to_be_bytes());
        }
        len => {
            out.push(127);
            out.extend((len as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(payload);
    out.into()
}

/// The payload of the first frame, and the length of the whole frame.
pub fn frame(input: &[u8]) -> Option<(&[u8], usize)> {
    let (start, len) = match input.first()? & 0x7f {
        126 => (3, u16::from_be_bytes(input.get(1..3)?.try_into().ok()?) as usize),
        127 => (9, u64::from_be_bytes(input.get(1..9)?.try_into().ok()?) as usize),
        len => (1, len as usize),
    };
    Some((input.get(start..start + len)?, start + len))
}
