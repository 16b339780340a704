//! The floor: the least that a server can do for a WebSocket fan-out. One thread, one epoll, frames built
//! once, one `send` for each delivery; no limits, no heartbeat, no answer to a wrong peer. It is what the
//! kernel costs, and a yardstick only.
//!
//! With an argument, as many threads as that: each reads those whom it was given, and writes to everyone.

use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use base64::Engine as _;
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token, Waker};
use sha1::{Digest, Sha1};

const LISTENER: Token = Token(usize::MAX);
/// Somebody was accepted for this thread.
const NEWCOMER: Token = Token(usize::MAX - 1);

/// Where a peer is written to, by any thread.
struct Out {
    stream: TcpStream,
    /// What the socket did not take.
    unsent: Mutex<Vec<u8>>,
}

type Members = Mutex<Vec<(usize, Arc<Out>)>>;

/// What all threads know.
#[derive(Default)]
struct Hall {
    joined: Mutex<HashMap<usize, Arc<Out>>>,
    rooms: Mutex<HashMap<Vec<u8>, Arc<Members>>>,
}

/// A peer, as the thread that reads it has it.
struct Peer {
    out: Arc<Out>,
    /// What was read and is no whole frame yet.
    partial: Vec<u8>,
    upgraded: bool,
    room: Option<Arc<Members>>,
}

type Peers = HashMap<usize, Peer>;

/// One of the threads, to those who have somebody for it.
struct Door {
    newcomers: Sender<(usize, TcpStream)>,
    waker: Waker,
}

fn main() -> anyhow::Result<()> {
    let threads = std::env::args().nth(1).map_or(Ok(1), |threads| threads.parse())?;
    let mut listener = TcpListener::bind("127.0.0.1:0".parse()?)?;
    println!("listening on {}", listener.local_addr()?);
    let hall = Arc::new(Hall::default());
    let (first, own) = Worker::new(hall.clone())?;
    first.poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
    let mut doors = vec![own];
    for _ in 1..threads {
        let (worker, door) = Worker::new(hall.clone())?;
        doors.push(door);
        thread::spawn(move || worker.run(None));
    }
    first.run(Some((listener, doors)))
}

struct Worker {
    poll: Poll,
    newcomers: Receiver<(usize, TcpStream)>,
    peers: Peers,
    hall: Arc<Hall>,
}

impl Worker {
    fn new(hall: Arc<Hall>) -> anyhow::Result<(Self, Door)> {
        let poll = Poll::new()?;
        let waker = Waker::new(poll.registry(), NEWCOMER)?;
        let (sender, newcomers) = mpsc::channel();
        let worker = Self { poll, newcomers, peers: Peers::new(), hall };
        Ok((worker, Door { newcomers: sender, waker }))
    }

    fn run(mut self, listener: Option<(TcpListener, Vec<Door>)>) -> anyhow::Result<()> {
        let mut events = Events::with_capacity(1024);
        let mut buffer = vec![0; 1 << 20];
        let mut next = 0;
        loop {
            match self.poll.poll(&mut events, None) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                other => other?,
            }
            for event in &events {
                match (event.token(), &listener) {
                    (LISTENER, Some((listener, doors))) => accept(listener, doors, &mut next)?,
                    (NEWCOMER, _) => self.let_in()?,
                    (Token(at), _) => {
                        if event.is_writable()
                            && let Some(peer) = self.peers.get(&at)
                        {
                            peer.out.write(&[]);
                        }
                        if event.is_readable() {
                            self.serve(at, &mut buffer);
                        }
                    }
                }
            }
        }
    }

    fn let_in(&mut self) -> anyhow::Result<()> {
        for (at, mut stream) in self.newcomers.try_iter() {
            let interest = Interest::READABLE | Interest::WRITABLE;
            self.poll.registry().register(&mut stream, Token(at), interest)?;
            let out = Arc::new(Out { stream, unsent: Mutex::default() });
            self.peers.insert(at, Peer { out, partial: Vec::new(), upgraded: false, room: None });
        }
        Ok(())
    }

    /// Reads what there is of one peer, and does it.
    fn serve(&mut self, at: usize, buffer: &mut [u8]) {
        let Some(peer) = self.peers.get_mut(&at) else { return };
        if !peer.read(buffer) {
            let room = peer.room.take();
            self.peers.remove(&at);
            lock(&self.hall.joined).remove(&at);
            if let Some(room) = room {
                lock(&room).retain(|(member, _)| *member != at);
            }
            return;
        }
        if !peer.upgraded && !peer.upgrade() {
            return;
        }
        let mut input = std::mem::take(&mut peer.partial);
        let mut done = 0;
        while let Some((payload, len)) = frame(&mut input[done..]) {
            if let Some(words) = payload.strip_prefix(br#"42["say""#) {
                peer.say(at, words);
            } else if payload.starts_with(b"42") && payload.get(2).is_some_and(u8::is_ascii_digit) {
                peer.join(&self.hall, at, payload);
            } else if payload.starts_with(b"42") {
                let out = text(payload);
                let joined = lock(&self.hall.joined);
                joined.iter().filter(|(id, _)| **id != at).for_each(|(_, peer)| peer.write(&out));
            } else if payload.starts_with(b"40") {
                lock(&self.hall.joined).insert(at, peer.out.clone());
                peer.out.write(&text(format!("40{{\"sid\":\"{at}\"}}").as_bytes()));
            }
            done += len;
        }
        input.drain(..done);
        if !input.is_empty() {
            peer.partial = input;
        }
    }
}

/// One after the other gets a newcomer.
fn accept(listener: &TcpListener, doors: &[Door], next: &mut usize) -> anyhow::Result<()> {
    while let Ok((stream, _)) = listener.accept() {
        stream.set_nodelay(true)?;
        let door = &doors[*next % doors.len()];
        door.newcomers.send((*next, stream))?;
        door.waker.wake()?;
        *next += 1;
    }
    Ok(())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Peer {
    /// `false`: it is gone.
    fn read(&mut self, buffer: &mut [u8]) -> bool {
        loop {
            match (&self.out.stream).read(buffer) {
                Ok(0) => return false,
                Ok(n) => {
                    self.partial.extend_from_slice(&buffer[..n]);
                    if n < buffer.len() {
                        return true;
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return true,
                Err(_) => return false,
            }
        }
    }

    /// `42ID["join","ROOM"]`, answered with `43ID[]`.
    fn join(&mut self, hall: &Hall, at: usize, payload: &[u8]) {
        let mut parts = payload[2..].split(|byte| matches!(byte, b'[' | b','));
        let (Some(id), Some(_), Some(room)) = (parts.next(), parts.next(), parts.next()) else {
            return;
        };
        let room = lock(&hall.rooms).entry(room.to_vec()).or_default().clone();
        lock(&room).push((at, self.out.clone()));
        self.room = Some(room);
        self.out.write(&text(&[b"43", id, b"[]"].concat()));
    }

    fn say(&self, at: usize, words: &[u8]) {
        let Some(room) = &self.room else { return };
        let out = text(&[br#"42["said"#, words].concat());
        for (_, member) in lock(room).iter().filter(|(member, _)| *member != at) {
            member.write(&out);
        }
    }

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
        self.out.write(&answer);
        true
    }
}

impl Out {
    fn write(&self, bytes: &[u8]) {
        let mut unsent = lock(&self.unsent);
        if !unsent.is_empty() {
            unsent.extend_from_slice(bytes);
            let sent = (&self.stream).write(&unsent).unwrap_or(0);
            unsent.drain(..sent);
        } else if !bytes.is_empty() {
            let sent = (&self.stream).write(bytes).unwrap_or(0);
            unsent.extend_from_slice(&bytes[sent..]);
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
