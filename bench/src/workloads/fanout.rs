//! The whiteboard: one room of many clients, a few of whom draw.

use std::time::Duration;

use anyhow::Result;

use super::{Sample, Workload, micros_each};
use crate::fleet::{Crowd, Fleet, Transport, open_all};
use crate::lab::{Lab, Peer};
use crate::report::Metric;
use crate::traffic::{Shape, Traffic, paced, warm_up};

/// Who draws, of all.
const SENDERS: usize = 10;
/// Whose latency is taken, the senders among them.
const PROBES: usize = 50;
/// Handshakes at a time, where they are not what is measured.
pub(super) const AT_ONCE: usize = 64;

/// One fan-out.
#[derive(Clone)]
struct Plan {
    transport: Transport,
    clients: usize,
    rate: f64,
    shape: Shape,
    /// Measured seconds, quick and full.
    seconds: (u64, u64),
}

impl Plan {
    fn drawing(transport: Transport, clients: usize, rate: f64) -> Self {
        // at 20 events a second a second has few events
        let seconds = if rate < 50.0 { (4, 10) } else { (3, 6) };
        Self { transport, clients, rate, shape: Shape::DRAWING, seconds }
    }
}

/// All fan-outs: id, and what it is.
fn plans() -> Vec<(&'static str, Plan)> {
    use Transport::{Polling, Websocket, Webtransport};
    let payload = |transport, clients, rate, bytes, binary| Plan {
        shape: Shape { bytes, binary, ..Shape::DRAWING },
        ..Plan::drawing(transport, clients, rate)
    };
    vec![
        ("ws-fanout-20", Plan::drawing(Websocket, 1_000, 20.0)),
        ("ws-fanout-60", Plan::drawing(Websocket, 1_000, 60.0)),
        ("ws-fanout-150", Plan::drawing(Websocket, 1_000, 150.0)),
        ("ws-binary", payload(Websocket, 1_000, 20.0, 150, true)),
        ("ws-64k", payload(Websocket, 100, 20.0, 64 << 10, false)),
        ("ws-1m", payload(Websocket, 20, 5.0, 900_000, false)),
        ("polling-fanout-5", Plan::drawing(Polling, 500, 5.0)),
        ("wt-fanout-20", Plan::drawing(Webtransport, 1_000, 20.0)),
        ("wt-fanout-60", Plan::drawing(Webtransport, 500, 60.0)),
    ]
}

pub(crate) fn workloads(_: &Lab) -> Vec<Workload> {
    let plans = plans().into_iter();
    plans.map(|(id, plan)| workload(id, plan)).collect()
}

fn workload(id: &'static str, plan: Plan) -> Workload {
    let Plan { transport, clients, rate, ref shape, .. } = plan;
    let size = match shape.bytes {
        bytes @ 10_000.. => format!("{} KiB", bytes >> 10),
        bytes => format!("{bytes} bytes"),
    };
    let kind = if shape.binary { " as a binary attachment" } else { "" };
    let wanted = [
        Peer::Quicket,
        Peer::Floor,
        Peer::FloorQuic,
        Peer::Wtransport,
        Peer::Socketioxide,
        Peer::Node,
    ];
    // the floors relay text only, and the plain fan-out is their like
    let fits = |peer: &Peer| {
        peer.speaks(transport)
            && !(shape.binary && matches!(peer, Peer::Floor | Peer::FloorQuic | Peer::Wtransport))
    };
    let mut peers: Vec<Peer> = wanted.into_iter().filter(fits).collect();
    if transport == Transport::Websocket && shape.bytes == Shape::DRAWING.bytes {
        peers.push(Peer::Recovering);
    }
    let name = transport.name();
    Workload {
        id,
        title: format!("{name} fan-out: {clients} clients, {rate} events/s of {size}{kind}"),
        about: format!(
            "{SENDERS} of the clients send in turn, everyone else gets it. Latency is that of {} clients.",
            PROBES.min(clients)
        ),
        metrics: vec![
            Metric::new("cpu", "CPU for each delivery", "µs"),
            Metric::new("p50", "latency, median", "ms"),
            Metric::new("p99", "p99", "ms"),
        ],
        peers,
        run: Box::new(move |lab, peer| run(lab, peer, &plan)),
    }
}

fn run(lab: &Lab, peer: Peer, plan: &Plan) -> Result<(Sample, u64)> {
    let server = lab.start(peer, None)?;
    let probe_every = (plan.clients / PROBES).max(1);
    let mut fleet: Box<dyn Fleet> = Box::new(Crowd::new(plan.transport, probe_every)?);
    let mut traffic = Traffic::new(plan.shape.clone()).timed_at_every(probe_every);
    let servers = [server.address];
    let clients = open_all(&mut *fleet, &servers, plan.clients, AT_ONCE, &mut traffic)?;
    let group = traffic.group(&clients);
    let step = clients.len() / SENDERS;
    for &sender in clients.iter().step_by(step) {
        traffic.lane(sender, group);
    }
    warm_up(&mut *fleet, &mut traffic)?;
    paced(&mut *fleet, &mut traffic, plan.rate, Duration::from_secs(1))?;
    traffic.start_measuring();
    let before = server.usage()?;
    let time = lab.mode.seconds(plan.seconds.0, plan.seconds.1);
    paced(&mut *fleet, &mut traffic, plan.rate, time)?;
    let cpu = server.usage()?.cpu_since(&before);
    let sample = Sample::from([
        ("cpu".into(), micros_each(cpu, traffic.delivered)),
        ("p50".into(), traffic.latency(0.5)),
        ("p99".into(), traffic.latency(0.99)),
    ]);
    Ok((sample, traffic.delivered))
}
