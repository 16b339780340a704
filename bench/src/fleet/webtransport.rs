//! WebTransport clients: a task for each, on one thread; certificates are not checked.
//!
//! Few of them share a socket. A thousand behind one lose a third of a fan-out in its receive buffer, and
//! what is measured then is how QUIC repeats what the generator dropped.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinHandle;
use wtransport::endpoint::endpoint_side::Client;
use wtransport::{ClientConfig, Connection, Endpoint, SendStream};

use super::engine::{self, Step};
use super::{Event, Fleet, Handler, Message, Out};

/// What a task tells the fleet.
enum Told {
    Ready,
    Text(Vec<u8>),
    Binary(Vec<u8>),
    Closed(String),
}

type Line = UnboundedSender<(usize, Told)>;

struct Session {
    frames: UnboundedSender<Vec<u8>>,
    task: JoinHandle<()>,
}

pub(crate) struct QuicFleet {
    runtime: Runtime,
    /// The last one takes the next clients.
    endpoints: Vec<Arc<Endpoint<Client>>>,
    line: Line,
    told: UnboundedReceiver<(usize, Told)>,
    clients: Vec<Option<Session>>,
    batch: Vec<(usize, Told)>,
}

/// Taken from the tasks in one turn.
const BATCH: usize = 1024;

/// Clients of one socket: several fan-outs fit into a receive buffer of Linux' default size.
const SHARING: usize = 16;

impl QuicFleet {
    pub(crate) fn new() -> Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let (line, told) = unbounded_channel();
        let (endpoints, clients, batch) = (Vec::new(), Vec::new(), Vec::new());
        Ok(Self { runtime, endpoints, line, told, clients, batch })
    }

    /// The socket of the next client; called inside the runtime.
    fn endpoint(&mut self) -> Result<Arc<Endpoint<Client>>> {
        if self.clients.len() == self.endpoints.len() * SHARING {
            let config = ClientConfig::builder()
                .with_bind_address("127.0.0.1:0".parse()?)
                .with_no_cert_validation()
                .keep_alive_interval(Some(Duration::from_secs(10)))
                .build();
            self.endpoints.push(Arc::new(Endpoint::client(config)?));
        }
        Ok(self.endpoints[self.clients.len() / SHARING].clone())
    }
}

impl Fleet for QuicFleet {
    fn open(&mut self, server: SocketAddr) -> Result<usize> {
        let who = self.clients.len();
        let (frames, to_send) = unbounded_channel();
        let (line, answers) = (self.line.clone(), frames.clone());
        let url = format!("https://{server}/socket.io/?EIO=4&transport=webtransport");
        let handle = self.runtime.handle().clone();
        let _inside = handle.enter();
        let endpoint = self.endpoint()?;
        let task = self.runtime.spawn(async move {
            let live = async {
                let connection = endpoint.connect(url).await?;
                run(connection, who, &line, &answers, to_send).await
            };
            let why = match live.await {
                Ok(()) => "the server ended the stream".to_owned(),
                Err(error) => format!("{error:#}"),
            };
            line.send((who, Told::Closed(why))).ok();
        });
        self.clients.push(Some(Session { frames, task }));
        Ok(who)
    }

    fn send(&mut self, who: usize, message: &Message) -> Result<()> {
        if let Some(client) = &self.clients[who] {
            let frame = match message {
                Message::Text(text) => framed(0, [b"4", text]),
                Message::Binary(bytes) => framed(BINARY, [&[], bytes]),
            };
            client.frames.send(frame).context("the client's task has ended")?;
        }
        Ok(())
    }

    fn close(&mut self, who: usize) {
        if let Some(client) = self.clients[who].take() {
            // it drops the connection, which says goodbye
            client.task.abort();
        }
    }

    fn turn(&mut self, until: Instant, handler: &mut dyn Handler) -> Result<()> {
        let (told, batch) = (&mut self.told, &mut self.batch);
        self.runtime.block_on(async {
            let until = tokio::time::Instant::from_std(until);
            tokio::time::timeout_at(until, told.recv_many(batch, BATCH)).await.ok();
        });
        let mut out = Out::new();
        for (who, told) in std::mem::take(&mut self.batch) {
            let event = match &told {
                Told::Ready => Event::Ready,
                Told::Text(text) => Event::Text(text),
                Told::Binary(bytes) => Event::Binary(bytes),
                Told::Closed(why) => Event::Closed(why),
            };
            handler.handle(who, event, &mut out);
        }
        for (who, message) in out {
            self.send(who, &message)?;
        }
        Ok(())
    }
}

impl Drop for QuicFleet {
    fn drop(&mut self) {
        let endpoints = &self.endpoints;
        self.runtime.block_on(async {
            endpoints.iter().for_each(|endpoint| endpoint.close(0u32.into(), b""));
            // so that the servers hear of it
            tokio::time::sleep(Duration::from_millis(50)).await;
        });
    }
}

async fn run(
    connection: Connection,
    who: usize,
    line: &Line,
    answers: &UnboundedSender<Vec<u8>>,
    mut to_send: UnboundedReceiver<Vec<u8>>,
) -> Result<()> {
    let (mut send, mut recv) = connection.open_bi().await?.await?;
    send.write_all(&framed(0, [b"0", b""])).await?;
    let mut partial: Vec<u8> = Vec::new();
    let mut buffer = vec![0; 4096];
    loop {
        tokio::select! {
            read = recv.read(&mut buffer) => {
                let Some(n) = read? else { return Ok(()) };
                partial.extend_from_slice(&buffer[..n]);
                let mut done = 0;
                while let Some((binary, payload, len)) = frame(&partial[done..]) {
                    received(binary, payload, who, line, answers)?;
                    done += len;
                }
                partial.drain(..done);
            }
            frame = to_send.recv() => {
                let Some(frame) = frame else { return Ok(()) };
                write(&mut send, &frame).await?;
            }
        }
    }
}

async fn write(send: &mut SendStream, frame: &[u8]) -> Result<()> {
    Ok(send.write_all(frame).await?)
}

fn received(
    binary: bool,
    payload: &[u8],
    who: usize,
    line: &Line,
    answers: &UnboundedSender<Vec<u8>>,
) -> Result<()> {
    if binary {
        line.send((who, Told::Binary(payload.to_vec()))).ok();
        return Ok(());
    }
    match engine::text(payload) {
        Step::Answer(packet) => answers.send(framed(0, [packet.as_bytes(), b""]))?,
        Step::Tell(Event::Ready) => drop(line.send((who, Told::Ready))),
        Step::Tell(Event::Text(text)) => drop(line.send((who, Told::Text(text.to_vec())))),
        Step::Tell(Event::Closed(why)) => bail!("{why}"),
        Step::Tell(Event::Binary(_)) | Step::Nothing => {}
    }
    Ok(())
}

const BINARY: u8 = 0x80;

/// Engine.IO's framing on a stream: a length, as in WebSocket.
fn framed(kind: u8, parts: [&[u8]; 2]) -> Vec<u8> {
    let len = parts[0].len() + parts[1].len();
    let mut out = Vec::with_capacity(len + 9);
    match len {
        ..126 => out.push(kind | len as u8),
        126..65_536 => {
            out.push(kind | 126);
            out.extend((len as u16).to_be_bytes());
        }
        _ => {
            out.push(kind | 127);
            out.extend((len as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(parts[0]);
    out.extend_from_slice(parts[1]);
    out
}

/// Is it binary, what is in it, and how long is the first frame?
fn frame(input: &[u8]) -> Option<(bool, &[u8], usize)> {
    let first = *input.first()?;
    let (start, len) = match first & 0x7f {
        126 => (3, u16::from_be_bytes(input.get(1..3)?.try_into().ok()?) as usize),
        127 => (9, u64::from_be_bytes(input.get(1..9)?.try_into().ok()?) as usize),
        len => (1, len as usize),
    };
    Some((first & BINARY != 0, input.get(start..start + len)?, start + len))
}
