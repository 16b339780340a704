//! The floor: the least that a server can do for a WebSocket fan-out. One thread, one epoll, frames built
//! once, one `send` for each delivery; no limits, no heartbeat, no answer to a wrong peer. It is what the
//! kernel costs, and a yardstick only.

use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};

use base64::Engine as _;
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};
use sha1::{Digest, Sha1};

const LISTENER: Token = Token(usize::MAX);

#[derive(Default)]
struct Peer {
    stream: Option<TcpStream>,
    /// What was read and is no whole frame yet.
    partial: Vec<u8>,
    /// What the socket did not take.
    unsent: Vec<u8>,
    upgraded: bool,
    joined: bool,
    room: Option<Vec<u8>>,
}

type Peers = HashMap<usize, Peer>;
type Rooms = HashMap<Vec<u8>, Vec<usize>>;

fn main() -> anyhow::Result<()> {
    let mut poll = Poll::new()?;
    let mut listener = TcpListener::bind("127.0.0.1:0".parse()?)?;
    println!("listening on {}", listener.local_addr()?);
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
    let (mut peers, mut rooms) = (Peers::new(), Rooms::new());
    let mut events = Events::with_capacity(1024);
    let mut buffer = vec![0; 1 << 20];
    let mut next = 0;
    loop {
        match poll.poll(&mut events, None) {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            other => other?,
        }
        for event in &events {
            if event.token() == LISTENER {
                while let Ok((mut stream, _)) = listener.accept() {
                    stream.set_nodelay(true)?;
                    let interest = Interest::READABLE | Interest::WRITABLE;
                    poll.registry().register(&mut stream, Token(next), interest)?;
                    peers.insert(next, Peer { stream: Some(stream), ..Peer::default() });
                    next += 1;
                }
                continue;
            }
            let at = event.token().0;
            if event.is_writable()
                && let Some(peer) = peers.get_mut(&at)
            {
                peer.write(&[]);
            }
            if event.is_readable() {
                serve(&mut peers, &mut rooms, at, &mut buffer);
            }
        }
    }
}

/// Reads what there is of one peer, and does it.
fn serve(peers: &mut Peers, rooms: &mut Rooms, at: usize, buffer: &mut [u8]) {
    let Some(peer) = peers.get_mut(&at) else { return };
    let Some(stream) = &mut peer.stream else { return };
    loop {
        match stream.read(buffer) {
            Ok(0) => {
                peers.remove(&at);
                return;
            }
            Ok(n) => {
                peer.partial.extend_from_slice(&buffer[..n]);
                if n < buffer.len() {
                    break;
                }
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(_) => {
                peers.remove(&at);
                return;
            }
        }
    }
    if !peer.upgraded && !peer.upgrade() {
        return;
    }
    let mut input = std::mem::take(&mut peer.partial);
    let mut done = 0;
    while let Some((payload, len)) = frame(&mut input[done..]) {
        if let Some(words) = payload.strip_prefix(br#"42["say""#) {
            say(peers, rooms, at, words);
        } else if payload.starts_with(b"42") && payload.get(2).is_some_and(u8::is_ascii_digit) {
            join(peers, rooms, at, payload);
        } else if payload.starts_with(b"42") {
            let out = text(payload);
            let others = peers.iter_mut().filter(|(id, peer)| **id != at && peer.joined);
            others.for_each(|(_, peer)| peer.write(&out));
        } else if payload.starts_with(b"40")
            && let Some(peer) = peers.get_mut(&at)
        {
            peer.joined = true;
            peer.write(&text(format!("40{{\"sid\":\"{at}\"}}").as_bytes()));
        }
        done += len;
    }
    input.drain(..done);
    if let Some(peer) = peers.get_mut(&at)
        && !input.is_empty()
    {
        peer.partial = input;
    }
}

/// `42ID["join","ROOM"]`, answered with `43ID[]`.
fn join(peers: &mut Peers, rooms: &mut Rooms, at: usize, payload: &[u8]) {
    let mut parts = payload[2..].split(|byte| matches!(byte, b'[' | b','));
    let (Some(id), Some(_), Some(room)) = (parts.next(), parts.next(), parts.next()) else {
        return;
    };
    let Some(peer) = peers.get_mut(&at) else { return };
    peer.room = Some(room.to_vec());
    peer.write(&text(&[b"43", id, b"[]"].concat()));
    rooms.entry(room.to_vec()).or_default().push(at);
}

fn say(peers: &mut Peers, rooms: &Rooms, at: usize, words: &[u8]) {
    let room = peers.get(&at).and_then(|peer| peer.room.as_ref());
    let Some(members) = room.and_then(|room| rooms.get(room)) else { return };
    let out = text(&[br#"42["said"#, words].concat());
    for member in members.iter().filter(|member| **member != at) {
        if let Some(peer) = peers.get_mut(member) {
            peer.write(&out);
        }
    }
}

impl Peer {
    /// Answers the request once it is whole.
    fn upgrade(&mut self) -> bool {
        let Some(end) = self.partial.windows(4).position(|four| four == b"\r\n\r\n") else {
            return false;
        };
        let head = String::from_utf8_lossy(&self.partial[..end]).into_owned();
        let key = head.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("sec-websocket-key").then(|| value.trim())
        });
        self.partial.drain(..end + 4);
        let digest = Sha1::digest(format!(
            "{}258EAFA5-E914-47DA-95CA-C5AB0DC85B11",
            key.unwrap_or_default()
        ));
        let accept = base64::engine::general_purpose::STANDARD.encode(digest);
        let mut answer = format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: {accept}\r\n\r\n"
        )
        .into_bytes();
        // heartbeats are so rare that none falls into a run
        answer.extend(text(
            b"0{\"sid\":\"floor\",\"upgrades\":[],\"pingInterval\":3000000,\"pingTimeout\":3000000,\
              \"maxPayload\":4000000}",
        ));
        self.upgraded = true;
        self.write(&answer);
        true
    }

    fn write(&mut self, bytes: &[u8]) {
        let Some(stream) = &mut self.stream else { return };
        if !self.unsent.is_empty() {
            self.unsent.extend_from_slice(bytes);
            let sent = stream.write(&self.unsent).unwrap_or(0);
            self.unsent.drain(..sent);
        } else if !bytes.is_empty() {
            let sent = stream.write(bytes).unwrap_or(0);
            self.unsent.extend_from_slice(&bytes[sent..]);
        }
    }
}

/// One unmasked text frame.
fn text(payload: &[u8]) -> Vec<u8> {
    let mut out = vec![0x81];
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
    out
}

/// The payload of the first frame, unmasked in place, and the length of the whole frame.
fn frame(input: &mut [u8]) -> Option<(&[u8], usize)> {
    let (head, len) = match input.get(1)? & 0x7f {
        126 => (4, u16::from_be_bytes(input.get(2..4)?.try_into().ok()?) as usize),
        127 => (10, u64::from_be_bytes(input.get(2..10)?.try_into().ok()?) as usize),
        len => (2, len as usize),
    };
    let mask: [u8; 4] = input.get(head..head + 4)?.try_into().ok()?;
    let start = head + 4;
    let payload = input.get_mut(start..start + len)?;
    payload.iter_mut().zip(mask.iter().cycle()).for_each(|(byte, mask)| *byte ^= mask);
    Some((payload, start + len))
}
