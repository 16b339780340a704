//! WebSocket and polling clients on one epoll, in one thread.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::SocketAddr;
use std::time::Instant;

use anyhow::Result;
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Registry, Token};

use super::engine::{self, Step};
use super::{Event, Fleet, Handler, Message, Out, Transport, polling, websocket};

/// One read takes at most so much.
const READ_BYTES: usize = 1 << 18;
/// Polling clients have two connections, so tokens are a client's number times two.
const PIPES: usize = 2;

pub(crate) struct TcpFleet {
    transport: Transport,
    poll: Poll,
    events: Events,
    clients: Vec<Option<Client>>,
    buffer: Vec<u8>,
    out: Out,
}

impl TcpFleet {
    pub(crate) fn new(transport: Transport) -> Result<Self> {
        Ok(Self {
            transport,
            poll: Poll::new()?,
            events: Events::with_capacity(1024),
            clients: Vec::new(),
            buffer: vec![0; READ_BYTES],
            out: Out::new(),
        })
    }

    /// Reads all there is on one connection of a client.
    fn read(&mut self, who: usize, pipe: usize, handler: &mut dyn Handler) {
        let Some(client) = self.clients[who].as_mut() else { return };
        let mut seat = Seat { who, handler, out: &mut self.out };
        let Err(why) = client.read(pipe, &mut self.buffer, &mut seat) else { return };
        // a server may close a connection that was unused for a while, here that of the POSTs
        if let Client::Polling(client) = client
            && pipe == 1
            && !client.posting
            && let Ok(server) = client.host.parse()
            && let Ok(post) = Pipe::connect(self.poll.registry(), server, Token(who * PIPES + 1))
        {
            client.post = post;
            return;
        }
        seat.tell(Event::Closed(&why));
        self.clients[who] = None;
    }
}

impl Fleet for TcpFleet {
    fn open(&mut self, server: SocketAddr) -> Result<usize> {
        let who = self.clients.len();
        let host = server.to_string();
        let registry = self.poll.registry();
        let mut main = Pipe::connect(registry, server, Token(who * PIPES))?;
        let client = match self.transport {
            Transport::Polling => {
                main.write(&polling::get(&host, None))?;
                let post = Pipe::connect(registry, server, Token(who * PIPES + 1))?;
                Client::Polling(Polling {
                    host,
                    sid: String::new(),
                    get: main,
                    post,
                    posting: false,
                    queue: Vec::new(),
                })
            }
            _ => {
                main.write(&websocket::request(&host))?;
                Client::Websocket(Websocket { pipe: main, upgraded: false, begun: None })
            }
        };
        self.clients.push(Some(client));
        Ok(who)
    }

    fn send(&mut self, who: usize, message: &Message) -> Result<()> {
        if let Some(client) = &mut self.clients[who] {
            client.send(message)?;
        }
        Ok(())
    }

    fn close(&mut self, who: usize) {
        self.clients[who] = None;
    }

    fn turn(&mut self, until: Instant, handler: &mut dyn Handler) -> Result<()> {
        let timeout = until.saturating_duration_since(Instant::now());
        match self.poll.poll(&mut self.events, Some(timeout)) {
            Err(error) if error.kind() == ErrorKind::Interrupted => return Ok(()),
            other => other?,
        }
        let events = std::mem::replace(&mut self.events, Events::with_capacity(0));
        for event in &events {
            let (who, pipe) = (event.token().0 / PIPES, event.token().0 % PIPES);
            if event.is_writable()
                && let Some(client) = &mut self.clients[who]
                && let Err(error) = client.pipe(pipe).flush()
            {
                handler.handle(who, Event::Closed(&error.to_string()), &mut self.out);
                self.clients[who] = None;
            }
            if event.is_readable() {
                self.read(who, pipe, handler);
            }
            for (who, message) in std::mem::take(&mut self.out) {
                self.send(who, &message)?;
            }
        }
        self.events = events;
        Ok(())
    }
}

/// A client's number and its handler.
struct Seat<'a> {
    who: usize,
    handler: &'a mut dyn Handler,
    out: &'a mut Out,
}

impl Seat<'_> {
    fn tell(&mut self, event: Event<'_>) {
        self.handler.handle(self.who, event, self.out);
    }
}

enum Client {
    Websocket(Websocket),
    Polling(Polling),
}

impl Client {
    fn pipe(&mut self, at: usize) -> &mut Pipe {
        match self {
            Self::Websocket(client) => &mut client.pipe,
            Self::Polling(client) => match at {
                0 => &mut client.get,
                _ => &mut client.post,
            },
        }
    }

    fn send(&mut self, message: &Message) -> io::Result<()> {
        match self {
            Self::Websocket(client) => match message {
                Message::Text(text) => client.send(websocket::TEXT, [b"4", text]),
                Message::Binary(bytes) => client.send(websocket::BINARY, [&[], bytes]),
            },
            Self::Polling(client) => {
                polling::put(&mut client.queue, message);
                client.post()
            }
        }
    }

    /// Reads until there is nothing left.
    fn read(&mut self, pipe: usize, buffer: &mut [u8], seat: &mut Seat<'_>) -> Result<(), String> {
        loop {
            let n = match self.pipe(pipe).stream.read(buffer) {
                Ok(0) => return Err("the server closed the connection".to_owned()),
                Ok(n) => n,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(error.to_string()),
            };
            self.received(pipe, &buffer[..n], seat)?;
            // a short read means that the socket is empty: what comes next is a new edge
            if n < buffer.len() {
                return Ok(());
            }
        }
    }

    /// Parses in place what is whole, and keeps the rest.
    fn received(&mut self, pipe: usize, read: &[u8], seat: &mut Seat<'_>) -> Result<(), String> {
        let mut partial = std::mem::take(&mut self.pipe(pipe).partial);
        let input = if partial.is_empty() {
            read
        } else {
            partial.extend_from_slice(read);
            &partial
        };
        let mut done = 0;
        loop {
            let rest = &input[done..];
            let taken = match self {
                Self::Websocket(client) => client.input(rest, seat)?,
                Self::Polling(client) => client.input(pipe, rest, seat)?,
            };
            if taken == 0 {
                break;
            }
            done += taken;
        }
        if done < input.len() {
            if partial.is_empty() {
                partial.extend_from_slice(&read[done..]);
            } else {
                partial.drain(..done);
            }
            self.pipe(pipe).partial = partial;
        }
        Ok(())
    }
}

struct Websocket {
    pipe: Pipe,
    upgraded: bool,
    /// A message that came in several frames: its opcode, and what is there.
    begun: Option<(u8, Vec<u8>)>,
}

impl Websocket {
    fn send(&mut self, opcode: u8, parts: [&[u8]; 2]) -> io::Result<()> {
        let mut frame = Vec::with_capacity(parts[1].len() + 16);
        websocket::put_frame(&mut frame, opcode, parts);
        self.pipe.write(&frame)
    }

    /// Takes one frame; gives its length, or 0 when there is none as a whole.
    fn input(&mut self, input: &[u8], seat: &mut Seat<'_>) -> Result<usize, String> {
        if !self.upgraded {
            let Some(end) = memchr::memmem::find(input, b"\r\n\r\n") else { return Ok(0) };
            if !input.starts_with(b"HTTP/1.1 101") {
                return Err(format!("no upgrade: {}", String::from_utf8_lossy(&input[..end])));
            }
            self.upgraded = true;
            return Ok(end + 4);
        }
        let Some((frame, len)) = websocket::frame(input) else { return Ok(0) };
        match frame.opcode {
            websocket::PING => {
                let payload = frame.payload;
                self.send(websocket::PONG, [&[], payload]).map_err(|error| error.to_string())?;
            }
            websocket::PONG => {}
            websocket::CLOSE => return Err("the server sent a close frame".to_owned()),
            websocket::CONTINUATION => {
                let Some((opcode, mut message)) = self.begun.take() else {
                    return Err("a continuation of nothing".to_owned());
                };
                message.extend_from_slice(frame.payload);
                if frame.fin {
                    self.message(opcode, &message, seat)?;
                } else {
                    self.begun = Some((opcode, message));
                }
            }
            opcode if frame.fin => self.message(opcode, frame.payload, seat)?,
            opcode => self.begun = Some((opcode, frame.payload.to_vec())),
        }
        Ok(len)
    }

    fn message(&mut self, opcode: u8, payload: &[u8], seat: &mut Seat<'_>) -> Result<(), String> {
        if opcode == websocket::BINARY {
            seat.tell(Event::Binary(payload));
            return Ok(());
        }
        match engine::text(payload) {
            Step::Answer(packet) => self
                .send(websocket::TEXT, [&[], packet.as_bytes()])
                .map_err(|error| error.to_string())?,
            Step::Tell(Event::Closed(why)) => return Err(why.to_owned()),
            Step::Tell(event) => seat.tell(event),
            Step::Nothing => {}
        }
        Ok(())
    }
}

struct Polling {
    host: String,
    /// Empty before the handshake.
    sid: String,
    get: Pipe,
    post: Pipe,
    /// Is an answer to a POST awaited? One at a time, as the protocol has it.
    posting: bool,
    /// The payload that goes next.
    queue: Vec<u8>,
}

impl Polling {
    fn post(&mut self) -> io::Result<()> {
        if self.posting || self.queue.is_empty() {
            return Ok(());
        }
        self.posting = true;
        let payload = std::mem::take(&mut self.queue);
        self.post.write(&polling::post(&self.host, &self.sid, &payload))
    }

    /// Takes one answer; gives its length, or 0 when it is not there as a whole.
    fn input(&mut self, pipe: usize, input: &[u8], seat: &mut Seat<'_>) -> Result<usize, String> {
        let Some(answer) = polling::answer(input) else { return Ok(0) };
        let (status, body, len) = answer?;
        if status != 200 {
            return Err(format!("status {status}: {}", String::from_utf8_lossy(body)));
        }
        if pipe == 1 {
            self.posting = false;
        } else {
            for packet in polling::packets(body) {
                self.packet(packet, seat)?;
            }
            let get = polling::get(&self.host, Some(&self.sid));
            self.get.write(&get).map_err(|error| error.to_string())?;
        }
        self.post().map_err(|error| error.to_string())?;
        Ok(len)
    }

    fn packet(&mut self, packet: &[u8], seat: &mut Seat<'_>) -> Result<(), String> {
        if packet[0] == b'b' {
            let bytes = polling::binary(packet).ok_or("bad base64")?;
            seat.tell(Event::Binary(&bytes));
            return Ok(());
        }
        if packet[0] == b'0' {
            self.sid = polling::sid(packet).ok_or("an OPEN packet without a sid")?;
        }
        match engine::text(packet) {
            Step::Answer(answer) => polling::put_text(&mut self.queue, [&[], answer.as_bytes()]),
            Step::Tell(Event::Closed(why)) => return Err(why.to_owned()),
            Step::Tell(event) => seat.tell(event),
            Step::Nothing => {}
        }
        Ok(())
    }
}

/// One TCP connection.
struct Pipe {
    stream: TcpStream,
    /// What was read and is nothing whole yet.
    partial: Vec<u8>,
    /// What the socket did not take.
    unsent: Vec<u8>,
}

impl Pipe {
    fn connect(registry: &Registry, server: SocketAddr, token: Token) -> io::Result<Self> {
        let mut stream = TcpStream::connect(server)?;
        stream.set_nodelay(true)?;
        registry.register(&mut stream, token, Interest::READABLE | Interest::WRITABLE)?;
        Ok(Self { stream, partial: Vec::new(), unsent: Vec::new() })
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.unsent.is_empty() {
            let sent = self.try_write(bytes)?;
            self.unsent.extend_from_slice(&bytes[sent..]);
            return Ok(());
        }
        self.unsent.extend_from_slice(bytes);
        self.flush()
    }

    fn flush(&mut self) -> io::Result<()> {
        if !self.unsent.is_empty() {
            let unsent = std::mem::take(&mut self.unsent);
            let sent = self.try_write(&unsent)?;
            self.unsent.extend_from_slice(&unsent[sent..]);
        }
        Ok(())
    }

    fn try_write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut sent = 0;
        while sent < bytes.len() {
            match self.stream.write(&bytes[sent..]) {
                Ok(n) => sent += n,
                // not connected yet is the same: an edge will tell
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected) =>
                {
                    break;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(sent)
    }
}
