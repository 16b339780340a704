//! What a client costs that only comes, or only stays.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::fanout::AT_ONCE;
use super::{Sample, Workload, micros_each};
use crate::fleet::{Event, Fleet, Handler, Out, Transport, open_all};
use crate::lab::{Lab, Mode, Peer};
use crate::report::Metric;

const WANTED: [Peer; 6] =
    [Peer::Quicket, Peer::Floor, Peer::FloorQuic, Peer::Wtransport, Peer::Socketioxide, Peer::Node];

fn speakers(transport: Transport) -> Vec<Peer> {
    WANTED.into_iter().filter(|peer| peer.speaks(transport)).collect()
}

pub(crate) fn workloads(lab: &Lab) -> Vec<Workload> {
    use Transport::{Polling, Websocket, Webtransport};
    let pick = |quick, full| lab.mode.pick(quick, full);
    let storms = [
        ("ws-storm", Websocket, pick(2_000, 10_000)),
        ("wt-storm", Webtransport, pick(500, 2_000)),
        ("polling-storm", Polling, pick(1_000, 4_000)),
    ];
    let idles = [
        ("ws-idle", Websocket, pick(2_000, 8_000)),
        ("wt-idle", Webtransport, pick(1_000, 5_000)),
        ("polling-idle", Polling, pick(1_000, 2_000)),
    ];
    let storms = storms.map(|(id, transport, count)| Workload {
        id,
        title: format!("{} handshakes: {count}, {AT_ONCE} at a time", transport.name()),
        about: "From the first byte of the transport to the default namespace, then the client leaves. \
                The generator shares the machine, so handshakes a second are also its own."
            .to_owned(),
        metrics: vec![
            Metric::new("cpu", "CPU for each handshake", "µs"),
            Metric::new("rate", "handshakes", "1/s").higher(),
        ],
        peers: speakers(transport),
        run: Box::new(move |lab, peer| storm(lab, peer, transport, count)),
    });
    let idles = idles.map(|(id, transport, count)| Workload {
        id,
        title: format!("{} idle memory: {count} connections", transport.name()),
        about:
            "Resident memory of the server's process for each client that is in a namespace and \
                quiet for some seconds, what it had after a first visitor taken off."
                .to_owned(),
        metrics: vec![Metric::new("memory", "resident for each connection", "KiB")],
        peers: speakers(transport),
        run: Box::new(move |lab, peer| idle(lab, peer, transport, count)),
    });
    storms.into_iter().chain(idles).collect()
}

/// Clients who come and go.
struct Visits {
    ready: Vec<usize>,
    lost: Option<String>,
}

impl Handler for Visits {
    fn handle(&mut self, who: usize, event: Event<'_>, _: &mut Out) {
        match event {
            Event::Ready => self.ready.push(who),
            Event::Closed(why) => self.lost = Some(why.to_owned()),
            Event::Text(_) | Event::Binary(_) => {}
        }
    }
}

/// Lets `count` clients come and go.
fn visit(fleet: &mut dyn Fleet, server: std::net::SocketAddr, count: usize) -> Result<()> {
    let mut visits = Visits { ready: Vec::new(), lost: None };
    let (mut opened, mut done) = (0, 0);
    let mut progress = Instant::now();
    while done < count {
        while opened < count && opened - done < AT_ONCE {
            fleet.open(server)?;
            opened += 1;
        }
        fleet.turn(Instant::now() + Duration::from_millis(100), &mut visits)?;
        if let Some(why) = &visits.lost {
            bail!("a client was not let in: {why}");
        }
        if !visits.ready.is_empty() {
            progress = Instant::now();
        } else if progress.elapsed() > Duration::from_secs(20) {
            bail!("no client came in for 20 s; {done} of {count} did");
        }
        for who in visits.ready.drain(..) {
            fleet.close(who);
            done += 1;
        }
    }
    Ok(())
}

fn storm(lab: &Lab, peer: Peer, transport: Transport, count: usize) -> Result<(Sample, u64)> {
    let server = lab.start(peer, None)?;
    let mut fleet = transport.fleet()?;
    visit(&mut *fleet, server.address, count / 10)?;
    let (before, begun) = (server.usage()?, Instant::now());
    visit(&mut *fleet, server.address, count)?;
    let took = begun.elapsed();
    // what the server does for those who left belongs to it
    std::thread::sleep(Duration::from_millis(500));
    let cpu = server.usage()?.cpu_since(&before);
    let sample = Sample::from([
        ("cpu".into(), micros_each(cpu, count as u64)),
        ("rate".into(), count as f64 / took.as_secs_f64()),
    ]);
    Ok((sample, count as u64))
}

fn idle(lab: &Lab, peer: Peer, transport: Transport, count: usize) -> Result<(Sample, u64)> {
    let server = lab.start(peer, None)?;
    let mut fleet = transport.fleet()?;
    let mut visits = Visits { ready: Vec::new(), lost: None };
    // Code that runs for the first time is read in, and is no client's memory.
    let visitor = open_all(&mut *fleet, &[server.address], 1, 1, &mut visits)?;
    visitor.into_iter().for_each(|who| fleet.close(who));
    let settled = Instant::now() + Duration::from_secs(1);
    while Instant::now() < settled {
        fleet.turn(settled, &mut visits)?;
    }
    let before = server.usage()?;
    open_all(&mut *fleet, &[server.address], count, AT_ONCE, &mut visits)?;
    let until = Instant::now() + lab.mode.seconds(3, if lab.mode == Mode::Full { 8 } else { 3 });
    while Instant::now() < until {
        fleet.turn(until, &mut visits)?;
    }
    if let Some(why) = visits.lost {
        bail!("an idle client was lost: {why}");
    }
    let resident = server.usage()?.resident.saturating_sub(before.resident);
    let each = resident as f64 / 1024.0 / count as f64;
    Ok((Sample::from([("memory".into(), each)]), count as u64))
}
