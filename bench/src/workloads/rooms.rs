//! Many small rooms: what finding and waking a few receivers costs, when most of the server is quiet.

use std::time::Duration;

use anyhow::Result;

use super::fanout::AT_ONCE;
use super::{Sample, Workload, micros_each};
use crate::fleet::{Transport, open_all};
use crate::lab::{Lab, Peer};
use crate::report::Metric;
use crate::traffic::{Shape, Traffic, enter, paced};

const ROOM_SIZE: usize = 5;
/// Each client sends once in so many seconds.
const EVERY: f64 = 2.0;

pub(crate) fn workloads(lab: &Lab) -> Vec<Workload> {
    let clients = lab.mode.pick(2_000, 10_000);
    let peers = vec![Peer::Quicket, Peer::Floor, Peer::FloorTwo, Peer::Socketioxide, Peer::Node];
    let rooms = Workload {
        id: "ws-rooms",
        title: format!("Small rooms: {clients} WebSocket clients in rooms of {ROOM_SIZE}"),
        about: format!("Every client sends 150 bytes to its room once in {EVERY} s."),
        metrics: vec![
            Metric::new("cpu", "CPU for each delivery", "µs"),
            Metric::new("p50", "latency, median", "ms"),
            Metric::new("p99", "p99", "ms"),
        ],
        peers,
        run: Box::new(move |lab, peer| run(lab, peer, clients)),
    };
    let memory = Workload {
        id: "ws-room-memory",
        title: format!("Rooms: what {} of them take", OWN_ROOMS * MEMBERS),
        about: format!(
            "{MEMBERS} WebSocket clients join {OWN_ROOMS} rooms each, in which nobody else is."
        ),
        metrics: vec![Metric::new("room", "resident for each room", "KiB")],
        peers: vec![Peer::Quicket, Peer::Socketioxide],
        run: Box::new(memory),
    };
    vec![rooms, memory]
}

/// So many that the resident set shows them: a few hundred fit into what the clients have left free.
const OWN_ROOMS: usize = 100;
const MEMBERS: usize = 500;

fn memory(lab: &Lab, peer: Peer) -> Result<(Sample, u64)> {
    let server = lab.start(peer, None)?;
    let mut fleet = Transport::Websocket.fleet()?;
    let mut traffic = Traffic::new(Shape::SAY);
    let clients = open_all(&mut *fleet, &[server.address], MEMBERS, AT_ONCE, &mut traffic)?;
    let before = server.usage()?;
    for room in 0..OWN_ROOMS {
        let rooms = clients.iter().map(|who| (*who, format!("room {room} of {who}")));
        enter(&mut *fleet, &mut traffic, "join", &rooms.collect::<Vec<_>>())?;
    }
    let count = clients.len() * OWN_ROOMS;
    let resident = server.usage()?.resident.saturating_sub(before.resident);
    let each = resident as f64 / 1024.0 / count as f64;
    Ok((Sample::from([("room".into(), each)]), count as u64))
}

fn run(lab: &Lab, peer: Peer, clients: usize) -> Result<(Sample, u64)> {
    let server = lab.start(peer, None)?;
    let mut fleet = Transport::Websocket.fleet()?;
    let mut traffic = Traffic::new(Shape::SAY);
    let clients = open_all(&mut *fleet, &[server.address], clients, AT_ONCE, &mut traffic)?;
    let rooms = clients.iter().map(|who| (*who, format!("room {}", who / ROOM_SIZE)));
    enter(&mut *fleet, &mut traffic, "join", &rooms.collect::<Vec<_>>())?;
    let groups: Vec<usize> = clients.chunks(ROOM_SIZE).map(|room| traffic.group(room)).collect();
    // one of each room after the other, so that a room's events are spread over time
    for seat in 0..ROOM_SIZE {
        for (room, group) in clients.chunks(ROOM_SIZE).zip(&groups) {
            traffic.lane(room[seat], *group);
        }
    }
    let rate = clients.len() as f64 / EVERY;
    paced(&mut *fleet, &mut traffic, rate, Duration::from_secs(2))?;
    traffic.start_measuring();
    let before = server.usage()?;
    paced(&mut *fleet, &mut traffic, rate, lab.mode.seconds(3, 8))?;
    let cpu = server.usage()?.cpu_since(&before);
    let sample = Sample::from([
        ("cpu".into(), micros_each(cpu, traffic.delivered)),
        ("p50".into(), traffic.latency(0.5)),
        ("p99".into(), traffic.latency(0.99)),
    ]);
    Ok((sample, traffic.delivered))
}
