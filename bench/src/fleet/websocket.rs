//! WebSocket frames, by hand: headers are all there is to read in a server's frames.

/// The request that opens the connection. The key is the RFC's example: nothing here depends on it.
pub(super) fn request(host: &str) -> Vec<u8> {
    format!(
        "GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\n\
         Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
         Sec-WebSocket-Version: 13\r\n\r\n"
    )
    .into_bytes()
}

/// Appends a client's frame. The mask is zero, which the protocol allows and costs us nothing; the server
/// has its work all the same.
pub(super) fn put_frame(out: &mut Vec<u8>, opcode: u8, parts: [&[u8]; 2]) {
    const MASKED: u8 = 0x80;
    out.push(0x80 | opcode);
    match parts[0].len() + parts[1].len() {
        len @ ..126 => out.push(MASKED | len as u8),
        len @ ..65_536 => {
            out.push(MASKED | 126);
            out.extend((len as u16).to_be_bytes());
        }
        len => {
            out.push(MASKED | 127);
            out.extend((len as u64).to_be_bytes());
        }
    }
    out.extend([0; 4]);
    out.extend_from_slice(parts[0]);
    out.extend_from_slice(parts[1]);
}

pub(super) const CONTINUATION: u8 = 0;
pub(super) const TEXT: u8 = 1;
pub(super) const BINARY: u8 = 2;
pub(super) const CLOSE: u8 = 8;
pub(super) const PING: u8 = 9;
pub(super) const PONG: u8 = 10;

/// One frame of a server.
pub(super) struct Frame<'a> {
    pub(super) fin: bool,
    pub(super) opcode: u8,
    pub(super) payload: &'a [u8],
}

/// The first frame of `input` and its length, when it is there as a whole.
pub(super) fn frame(input: &[u8]) -> Option<(Frame<'_>, usize)> {
    let (start, len) = match *input.get(1)? {
        126 => (4, u16::from_be_bytes(input.get(2..4)?.try_into().ok()?) as usize),
        127 => (10, u64::from_be_bytes(input.get(2..10)?.try_into().ok()?) as usize),
        len => (2, len as usize),
    };
    let payload = input.get(start..start + len)?;
    Some((Frame { fin: input[0] & 0x80 != 0, opcode: input[0] & 0x0f, payload }, start + len))
}
