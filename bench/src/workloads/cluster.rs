//! Two nodes over one real Redis.
//!
//! Few clients, so that what the cluster costs is not lost in what the fan-out costs: senders speak to a
//! room without being in it, and one client on each node is.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Result;

use super::{Sample, Workload, micros_each};
use crate::fleet::{Fleet, Transport, open_all};
use crate::lab::{Lab, Peer};
use crate::process::Server;
use crate::report::Metric;
use crate::traffic::{Shape, Traffic, enter, paced, saturated, warm_up};

/// Events a second of the runs at a fixed rate.
const RATE: f64 = 1_000.0;
/// Events a second where the delay is measured: low, so that nothing queues.
const QUIET_RATE: f64 = 100.0;
/// Events that each sender may have under way when it is about the most that goes through.
const WINDOW: u32 = 200;
const ROOM: &str = "board";

pub(crate) fn workloads(_: &Lab) -> Vec<Workload> {
    let peers = vec![Peer::Quicket, Peer::Node];
    vec![
        Workload {
            id: "cluster-cost",
            title: "Two nodes over Redis: CPU for each event".to_owned(),
            about: format!(
                "{RATE} events a second of 150 bytes, from 4 clients of one node to a room with one client \
                 on each node; then to a room of which the second node has nobody. Node: socket.io with \
                 @socket.io/redis-streams-adapter. One Redis for all."
            ),
            metrics: vec![
                Metric::new("publisher", "publishing node", "µs"),
                Metric::new("receiver", "receiving node", "µs"),
                Metric::new("both", "both together", "µs"),
                Metric::new("bystander", "node that has nobody in the room", "µs"),
                Metric::new("redis", "Redis itself", "µs"),
            ],
            peers: [peers.clone(), vec![Peer::Recovering]].concat(),
            run: Box::new(cost),
        },
        Workload {
            id: "cluster-throughput",
            title: "Two nodes over Redis: events a second".to_owned(),
            about: format!(
                "2 clients on each node send to a room with one client on each, {WINDOW} events each under way \
                 at a time (a closed loop). Generator, both nodes and Redis share the machine."
            ),
            metrics: vec![Metric::new("events", "events through both nodes", "events/s").higher()],
            peers: peers.clone(),
            run: Box::new(throughput),
        },
        Workload {
            id: "cluster-delay",
            title: "Two nodes over Redis: added delay".to_owned(),
            about: format!(
                "{QUIET_RATE} events a second from one client to one other: both on a node without Redis, on \
                 two nodes, and both on one of two nodes (where Quicket's events come back from the stream, \
                 for one order everywhere; Node waits for Redis to take the event, and delivers then)."
            ),
            metrics: vec![
                Metric::new("single_p50", "single node, median", "ms"),
                Metric::new("single_p99", "p99", "ms"),
                Metric::new("far_p50", "to the other node, median", "ms"),
                Metric::new("far_p99", "p99", "ms"),
                Metric::new("near_p50", "same node of a cluster, median", "ms"),
                Metric::new("near_p99", "p99", "ms"),
                Metric::new("added_p50", "added by the cluster, median", "ms"),
                Metric::new("added_p99", "p99", "ms"),
            ],
            peers,
            run: Box::new(delay),
        },
        more_readers(),
    ]
}

fn more_readers() -> Workload {
    Workload {
        id: "cluster-readers",
        title: "More nodes over one Redis: what each costs".to_owned(),
        about: format!(
            "4 clients of one node send to a room that only one client of that node is in, {WINDOW} \
             events each under way at a time: with one other node, and with {MANY} others, all of \
             which read each event. What a reader costs Redis is the difference between the two."
        ),
        metrics: vec![
            Metric::new("events", "events, one other node", "events/s").higher(),
            Metric::new("node", "publishing node, each event", "µs"),
            Metric::new("bystander", "node that has nobody in the room, each event", "µs"),
            Metric::new("append", "Redis, each event", "µs"),
            Metric::new("reader", "Redis, each event and reading node", "µs"),
        ],
        peers: vec![Peer::Quicket],
        run: Box::new(readers),
    }
}

/// Nodes that only read, in the larger of two clusters.
const MANY: usize = 4;

/// Two nodes, the second of which may have its clients elsewhere.
struct Pair {
    nodes: [Server; 2],
}

impl Pair {
    fn start(lab: &Lab, peer: Peer) -> Result<Self> {
        let redis = lab.redis()?;
        redis.flush()?;
        let start = || lab.start(peer, Some(&redis.url()));
        Ok(Self { nodes: [start()?, start()?] })
    }

    fn addresses(&self) -> [SocketAddr; 2] {
        [self.nodes[0].address, self.nodes[1].address]
    }
}

/// Clients in their places: who sends, and who receives.
struct Scene {
    fleet: Box<dyn Fleet>,
    traffic: Traffic,
}

impl Scene {
    /// One sender for each address of `senders`, one receiver for each of `receivers`; `elsewhere` gets a
    /// client in another room.
    fn set(
        senders: &[SocketAddr],
        receivers: &[SocketAddr],
        elsewhere: Option<SocketAddr>,
    ) -> Result<Self> {
        let mut fleet = Transport::Websocket.fleet()?;
        let mut traffic = Traffic::new(Shape::SAY);
        let mut open = |servers: &[SocketAddr], traffic: &mut Traffic| {
            open_all(&mut *fleet, servers, servers.len(), servers.len(), traffic)
        };
        let senders = open(senders, &mut traffic)?;
        let receivers = open(receivers, &mut traffic)?;
        let bystanders = match elsewhere {
            Some(address) => open(&[address], &mut traffic)?,
            None => Vec::new(),
        };
        let rooms = |who: &[usize], room: &str| -> Vec<(usize, String)> {
            who.iter().map(|who| (*who, room.to_owned())).collect()
        };
        enter(&mut *fleet, &mut traffic, "join", &rooms(&receivers, ROOM))?;
        enter(&mut *fleet, &mut traffic, "join", &rooms(&bystanders, "elsewhere"))?;
        enter(&mut *fleet, &mut traffic, "aim", &rooms(&senders, ROOM))?;
        let group = traffic.group(&receivers);
        for sender in senders {
            traffic.lane(sender, group);
        }
        warm_up(&mut *fleet, &mut traffic)?;
        Ok(Self { fleet, traffic })
    }

    /// A second unmeasured, then measured ones.
    fn paced(&mut self, rate: f64, time: Duration, mut started: impl FnMut()) -> Result<()> {
        paced(&mut *self.fleet, &mut self.traffic, rate, Duration::from_secs(1))?;
        self.traffic.start_measuring();
        started();
        paced(&mut *self.fleet, &mut self.traffic, rate, time)
    }
}

fn cost(lab: &Lab, peer: Peer) -> Result<(Sample, u64)> {
    let time = lab.mode.seconds(3, 8);
    let redis = lab.redis()?;
    let pair = Pair::start(lab, peer)?;
    let [first, second] = pair.addresses();
    let mut sample = Sample::new();
    let usage =
        || -> Result<_> { Ok([pair.nodes[0].usage()?, pair.nodes[1].usage()?, redis.usage()?]) };

    let mut scene = Scene::set(&[first; 4], &[first, second], None)?;
    let mut before = usage();
    scene.paced(RATE, time, || before = usage())?;
    let (before, after) = (before?, usage()?);
    let events = scene.traffic.events;
    let mut checked = scene.traffic.delivered;
    let each = |at: usize| micros_each(after[at].cpu_since(&before[at]), events);
    sample.insert("publisher".into(), each(0));
    sample.insert("receiver".into(), each(1));
    sample.insert("both".into(), each(0) + each(1));
    sample.insert("redis".into(), each(2));
    drop(scene);

    let mut scene = Scene::set(&[first; 4], &[first], Some(second))?;
    let mut before = usage();
    scene.paced(RATE, time, || before = usage())?;
    let (before, after) = (before?, usage()?);
    let cpu = after[1].cpu_since(&before[1]);
    sample.insert("bystander".into(), micros_each(cpu, scene.traffic.events));
    checked += scene.traffic.delivered;
    Ok((sample, checked))
}

fn throughput(lab: &Lab, peer: Peer) -> Result<(Sample, u64)> {
    let time = lab.mode.seconds(3, 8);
    let pair = Pair::start(lab, peer)?;
    let [first, second] = pair.addresses();
    let mut scene = Scene::set(&[first, first, second, second], &[first, second], None)?;
    let Scene { fleet, traffic } = &mut scene;
    saturated(&mut **fleet, traffic, WINDOW, Duration::from_secs(1))?;
    traffic.start_measuring();
    let rate = saturated(&mut **fleet, traffic, WINDOW, time)?;
    Ok((Sample::from([("events".into(), rate)]), traffic.delivered))
}

fn readers(lab: &Lab, peer: Peer) -> Result<(Sample, u64)> {
    let time = lab.mode.seconds(3, 8);
    let redis = lab.redis()?;
    let mut sample = Sample::new();
    let mut checked = 0;
    let mut of_redis = Vec::new();
    for others in [1, MANY] {
        let Pair { nodes: [first, second] } = Pair::start(lab, peer)?;
        let more = (1..others).map(|_| lab.start(peer, Some(&redis.url())));
        let more = more.collect::<Result<Vec<_>>>()?;
        let mut scene = Scene::set(&[first.address; 4], &[first.address], Some(second.address))?;
        let Scene { fleet, traffic } = &mut scene;
        saturated(&mut **fleet, traffic, WINDOW, Duration::from_secs(1))?;
        traffic.start_measuring();
        let usage = || -> Result<_> { Ok([first.usage()?, second.usage()?, redis.usage()?]) };
        let before = usage()?;
        let rate = saturated(&mut **fleet, traffic, WINDOW, time)?;
        let after = usage()?;
        let each = |at: usize| micros_each(after[at].cpu_since(&before[at]), traffic.events);
        of_redis.push(each(2));
        checked += traffic.delivered;
        if others == 1 {
            sample.extend([
                ("events".into(), rate),
                ("node".into(), each(0)),
                ("bystander".into(), each(1)),
            ]);
        }
        drop(more);
    }
    let reader = (of_redis[1] - of_redis[0]) / (MANY - 1) as f64;
    sample.insert("reader".into(), reader);
    // the publishing node reads, too
    sample.insert("append".into(), of_redis[0] - 2.0 * reader);
    Ok((sample, checked))
}

fn delay(lab: &Lab, peer: Peer) -> Result<(Sample, u64)> {
    let time = lab.mode.seconds(3, 8);
    let mut sample = Sample::new();
    let mut checked = 0;
    let mut measure = |name: &str, from: SocketAddr, to: SocketAddr| -> Result<()> {
        let mut scene = Scene::set(&[from], &[to], None)?;
        scene.paced(QUIET_RATE, time, || {})?;
        sample.insert(format!("{name}_p50"), scene.traffic.latency(0.5));
        sample.insert(format!("{name}_p99"), scene.traffic.latency(0.99));
        checked += scene.traffic.delivered;
        Ok(())
    };
    {
        let single = lab.start(peer, None)?;
        measure("single", single.address, single.address)?;
    }
    let pair = Pair::start(lab, peer)?;
    let [first, second] = pair.addresses();
    measure("far", first, second)?;
    measure("near", first, first)?;
    for share in ["p50", "p99"] {
        let added = sample[&format!("far_{share}")] - sample[&format!("single_{share}")];
        sample.insert(format!("added_{share}"), added);
    }
    Ok((sample, checked))
}
