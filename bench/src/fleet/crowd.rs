//! A few clients whose latency is taken, and a crowd that only has to be there.
//!
//! Clients come with processors of their own; here they share two cores with the server, and a thousand
//! deliveries of an event would wait for each other in the generator. So the crowd has a thread with
//! the lowest priority, and every so many-th client is a probe on the caller's thread, which checks
//! what all of them get.

use std::net::SocketAddr;
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use super::{Event, Fleet, Handler, Message, Out, Transport};

/// How long either thread may not hear of the other.
const TICK: Duration = Duration::from_millis(2);

enum Command {
    Open(SocketAddr),
    Send(usize, Message),
    Close(usize),
}

enum Told {
    Ready,
    Text(Vec<u8>),
    Binary(Vec<u8>),
    Closed(String),
}

/// What has happened in the crowd since the last time.
type Batch = Vec<(usize, Told)>;

pub(crate) struct Crowd {
    numbers: Numbers,
    opened: usize,
    /// There may be more to hear of the crowd.
    is_behind: bool,
    probes: Box<dyn Fleet>,
    /// Gone when the crowd is to end.
    commands: Option<Sender<Command>>,
    told: Receiver<Batch>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Crowd {
    /// Clients 0, `probe_every` and so on are the probes.
    pub(crate) fn new(transport: Transport, probe_every: usize) -> Result<Self> {
        let (commands, orders) = channel();
        let (tell, told) = channel();
        let numbers = Numbers { probe_every };
        let thread = std::thread::spawn(move || crowd(transport, numbers, &orders, &tell));
        let (probes, commands) = (transport.fleet()?, Some(commands));
        let thread = Some(thread);
        Ok(Self { numbers, opened: 0, is_behind: false, probes, commands, told, thread })
    }

    fn order(&self, command: Command) -> Result<()> {
        let commands = self.commands.as_ref().context("the crowd goes home")?;
        commands.send(command).ok().context("the crowd's thread has ended")
    }
}

/// By what numbers clients are known outside and in the two fleets.
#[derive(Clone, Copy)]
struct Numbers {
    probe_every: usize,
}

impl Numbers {
    /// Is it a probe, and its number among its like.
    fn inside(self, who: usize) -> (bool, usize) {
        let (row, rest) = (who / self.probe_every, who % self.probe_every);
        if rest == 0 { (true, row) } else { (false, row * (self.probe_every - 1) + rest - 1) }
    }

    fn of_probe(self, probe: usize) -> usize {
        probe * self.probe_every
    }

    fn of_crowd(self, who: usize) -> usize {
        let in_row = self.probe_every - 1;
        self.of_probe(who / in_row) + who % in_row + 1
    }
}

fn crowd(
    transport: Transport,
    numbers: Numbers,
    orders: &Receiver<Command>,
    tell: &Sender<Batch>,
) -> Result<()> {
    // on Linux a thread's own; who may not do even that is as nice as he can
    let _ = rustix::process::nice(19);
    let mut fleet = transport.fleet()?;
    let mut batch = Gathered { numbers, batch: Batch::new() };
    loop {
        loop {
            match orders.try_recv() {
                Ok(Command::Open(server)) => drop(fleet.open(server)?),
                Ok(Command::Send(who, message)) => fleet.send(who, &message)?,
                Ok(Command::Close(who)) => fleet.close(who),
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => return Ok(()),
            }
        }
        fleet.turn(Instant::now() + TICK, &mut batch)?;
        let batch = std::mem::take(&mut batch.batch);
        if !batch.is_empty() && tell.send(batch).is_err() {
            return Ok(());
        }
    }
}

struct Gathered {
    numbers: Numbers,
    batch: Batch,
}

impl Handler for Gathered {
    fn handle(&mut self, who: usize, event: Event<'_>, _: &mut Out) {
        let told = match event {
            Event::Ready => Told::Ready,
            Event::Text(text) => Told::Text(text.to_vec()),
            Event::Binary(bytes) => Told::Binary(bytes.to_vec()),
            Event::Closed(why) => Told::Closed(why.to_owned()),
        };
        self.batch.push((self.numbers.of_crowd(who), told));
    }
}

/// Gives the probes the numbers that everyone else knows them by, and keeps what they say.
struct Probes<'a> {
    numbers: Numbers,
    inner: &'a mut dyn Handler,
    out: Out,
    heard: bool,
}

impl Handler for Probes<'_> {
    fn handle(&mut self, who: usize, event: Event<'_>, _: &mut Out) {
        self.heard = true;
        self.inner.handle(self.numbers.of_probe(who), event, &mut self.out);
    }
}

impl Fleet for Crowd {
    fn open(&mut self, server: SocketAddr) -> Result<usize> {
        let who = self.opened;
        match self.numbers.inside(who) {
            (true, _) => drop(self.probes.open(server)?),
            (false, _) => self.order(Command::Open(server))?,
        }
        self.opened += 1;
        Ok(who)
    }

    fn send(&mut self, who: usize, message: &Message) -> Result<()> {
        match self.numbers.inside(who) {
            (true, probe) => self.probes.send(probe, message),
            (false, who) => self.order(Command::Send(who, message.clone())),
        }
    }

    fn close(&mut self, who: usize) {
        match self.numbers.inside(who) {
            (true, probe) => self.probes.close(probe),
            // a crowd that has ended is told by `turn`
            (false, who) => drop(self.order(Command::Close(who))),
        }
    }

    fn turn(&mut self, until: Instant, handler: &mut dyn Handler) -> Result<()> {
        loop {
            let numbers = self.numbers;
            let mut probes = Probes { numbers, inner: handler, out: Out::new(), heard: false };
            let wait = if self.is_behind { Duration::ZERO } else { TICK };
            self.probes.turn(until.min(Instant::now() + wait), &mut probes)?;
            let (mut out, mut heard) = (probes.out, probes.heard);
            // one batch at a time: the probes' time is taken in between
            let batch = match self.told.try_recv() {
                Ok(batch) => batch,
                Err(TryRecvError::Empty) => Batch::new(),
                Err(TryRecvError::Disconnected) => {
                    let thread = self.thread.take().context("the crowd has ended")?;
                    let outcome = thread.join().ok().context("the crowd panicked")?;
                    return outcome.context("the crowd has ended");
                }
            };
            self.is_behind = !batch.is_empty();
            heard |= self.is_behind;
            for (who, told) in batch {
                let event = match &told {
                    Told::Ready => Event::Ready,
                    Told::Text(text) => Event::Text(text),
                    Told::Binary(bytes) => Event::Binary(bytes),
                    Told::Closed(why) => Event::Closed(why),
                };
                handler.handle(who, event, &mut out);
            }
            out.into_iter().try_for_each(|(who, message)| self.send(who, &message))?;
            if heard || Instant::now() >= until {
                return Ok(());
            }
        }
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        self.commands = None;
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_client_has_one_number_inside_and_one_outside() {
        for probe_every in [1, 2, 20] {
            let numbers = Numbers { probe_every };
            let (mut probes, mut crowd) = (0, 0);
            for who in 0..200 {
                let (is_probe, inner) = numbers.inside(who);
                let next = if is_probe { &mut probes } else { &mut crowd };
                assert_eq!(inner, *next);
                *next += 1;
                let outside =
                    if is_probe { numbers.of_probe(inner) } else { numbers.of_crowd(inner) };
                assert_eq!(outside, who);
            }
            assert_eq!(probes, 200 / probe_every);
        }
    }
}
