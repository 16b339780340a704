//! HTTP long-polling: requests, answers and payloads.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::Message;

/// A GET that waits for packets; without `sid`, the handshake.
pub(super) fn get(host: &str, sid: Option<&str>) -> Vec<u8> {
    let sid = sid.map_or_else(String::new, |sid| format!("&sid={sid}"));
    format!("GET /socket.io/?EIO=4&transport=polling{sid} HTTP/1.1\r\nHost: {host}\r\n\r\n").into()
}

/// A POST with a payload.
pub(super) fn post(host: &str, sid: &str, payload: &[u8]) -> Vec<u8> {
    let mut out = format!(
        "POST /socket.io/?EIO=4&transport=polling&sid={sid} HTTP/1.1\r\nHost: {host}\r\n\
         Content-Type: text/plain;charset=UTF-8\r\nContent-Length: {}\r\n\r\n",
        payload.len()
    )
    .into_bytes();
    out.extend_from_slice(payload);
    out
}

/// Between two packets of a payload.
const SEPARATOR: u8 = 0x1e;

/// Appends a packet of text.
pub(super) fn put_text(payload: &mut Vec<u8>, parts: [&[u8]; 2]) {
    if !payload.is_empty() {
        payload.push(SEPARATOR);
    }
    payload.extend_from_slice(parts[0]);
    payload.extend_from_slice(parts[1]);
}

/// Appends a message.
pub(super) fn put(payload: &mut Vec<u8>, message: &Message) {
    match message {
        Message::Text(text) => put_text(payload, [b"4", text]),
        Message::Binary(bytes) => put_text(payload, [b"b", STANDARD.encode(bytes).as_bytes()]),
    }
}

/// The packets of a payload.
pub(super) fn packets(payload: &[u8]) -> impl Iterator<Item = &[u8]> {
    payload.split(|byte| *byte == SEPARATOR).filter(|packet| !packet.is_empty())
}

/// The bytes of a packet that starts with `b`.
pub(super) fn binary(packet: &[u8]) -> Option<Vec<u8>> {
    STANDARD.decode(packet.strip_prefix(b"b")?).ok()
}

/// The `sid` in an OPEN packet.
pub(super) fn sid(open: &[u8]) -> Option<String> {
    let open: serde_json::Value = serde_json::from_slice(open.strip_prefix(b"0")?).ok()?;
    Some(open["sid"].as_str()?.to_owned())
}

/// Its status, its body, and how long it is.
type Answer<'a> = (u16, &'a [u8], usize);

/// An answer's status and body, and its whole length; `None` until it is whole.
pub(super) fn answer(input: &[u8]) -> Option<Result<Answer<'_>, String>> {
    let end = memchr::memmem::find(input, b"\r\n\r\n")?;
    let head = String::from_utf8_lossy(&input[..end]);
    let mut lines = head.lines();
    let status = lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok());
    let length = lines.find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
    });
    let (Some(status), Some(length)) = (status, length) else {
        return Some(Err(format!("an answer without status or length: {head}")));
    };
    let start = end + 4;
    let body = input.get(start..start + length)?;
    Some(Ok((status, body, start + length)))
}
