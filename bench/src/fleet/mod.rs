//! Many Socket.IO clients in one thread. Knows the protocol as far as an honest client needs it, and
//! nothing of any server: it is pointed at an address.
//!
//! A [`Fleet`] moves bytes; what a client says and checks is a [`Handler`]'s. TCP transports share one
//! epoll ([`tcp`]), so that a delivery costs the generator little more than one `recv`; WebTransport
//! ([`webtransport`]) costs it what QUIC costs a client.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use clap::ValueEnum;

mod crowd;
mod engine;
mod polling;
mod tcp;
mod websocket;
mod webtransport;

pub(crate) use crowd::Crowd;
pub(crate) use tcp::TcpFleet;
pub(crate) use webtransport::QuicFleet;

/// How the clients of a fleet connect; they do not upgrade.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Transport {
    Websocket,
    Polling,
    Webtransport,
}

impl Transport {
    pub(crate) fn fleet(self) -> Result<Box<dyn Fleet>> {
        Ok(match self {
            Self::Websocket | Self::Polling => Box::new(TcpFleet::new(self)?),
            Self::Webtransport => Box::new(QuicFleet::new()?),
        })
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Websocket => "WebSocket",
            Self::Polling => "polling",
            Self::Webtransport => "WebTransport",
        }
    }
}

/// What happens to a client.
pub(crate) enum Event<'a> {
    /// It is in the namespace.
    Ready,
    /// The text of a Socket.IO packet.
    Text(&'a [u8]),
    /// An attachment.
    Binary(&'a [u8]),
    /// The connection is gone, and why.
    Closed(&'a str),
}

/// One Engine.IO message.
#[derive(Clone)]
pub(crate) enum Message {
    /// The text of a Socket.IO packet.
    Text(Vec<u8>),
    Binary(Vec<u8>),
}

/// What a handler wants sent: the client's number, and the message.
pub(crate) type Out = Vec<(usize, Message)>;

/// Whose the clients' words are.
pub(crate) trait Handler {
    /// Something happened to client `who`; what is to be sent goes into `out`.
    fn handle(&mut self, who: usize, event: Event<'_>, out: &mut Out);
}

/// Clients of one transport, numbered from 0.
pub(crate) trait Fleet {
    /// Starts a client; [`Event::Ready`] comes when it is in the default namespace.
    fn open(&mut self, server: SocketAddr) -> Result<usize>;

    fn send(&mut self, who: usize, message: &Message) -> Result<()>;

    /// Ends a client without a word; its number is not used again.
    fn close(&mut self, who: usize);

    /// Works until `until`, or until something was handled.
    fn turn(&mut self, until: Instant, handler: &mut dyn Handler) -> Result<()>;
}

/// Opens `count` clients, each at one of `servers` in turn, `at_once` handshakes at a time, and works until
/// all of them are ready.
pub(crate) fn open_all(
    fleet: &mut dyn Fleet,
    servers: &[SocketAddr],
    count: usize,
    at_once: usize,
    handler: &mut dyn Handler,
) -> Result<Vec<usize>> {
    let mut opening = Opening { ready: 0, inner: handler, failed: None };
    let mut opened = Vec::with_capacity(count);
    let mut progress = Instant::now();
    while opening.ready < count {
        while opened.len() < count && opened.len() - opening.ready < at_once {
            opened.push(fleet.open(servers[opened.len() % servers.len()])?);
        }
        let before = opening.ready;
        fleet.turn(Instant::now() + Duration::from_millis(100), &mut opening)?;
        if let Some(why) = opening.failed {
            bail!("a client was not let in: {why}");
        }
        if opening.ready > before {
            progress = Instant::now();
        } else if progress.elapsed() > Duration::from_secs(20) {
            bail!("no client came in for 20 s; {} of {count} are", opening.ready);
        }
    }
    Ok(opened)
}

/// Counts who is in.
struct Opening<'a> {
    ready: usize,
    inner: &'a mut dyn Handler,
    failed: Option<String>,
}

impl Handler for Opening<'_> {
    fn handle(&mut self, who: usize, event: Event<'_>, out: &mut Out) {
        match &event {
            Event::Ready => self.ready += 1,
            Event::Closed(why) => self.failed = Some((*why).to_owned()),
            _ => {}
        }
        self.inner.handle(who, event, out);
    }
}
