//! What a large cluster would do: docs/scale.md, from what the benchmark has measured.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result};

use self::model::{CLIENTS, CORES, Design, Load, NODES, Way};
use crate::report::{Results, figure, fill};

mod model;

/// What things take: microseconds, but for `hop` (milliseconds) and memory (KiB).
#[derive(Clone, Copy, Debug)]
struct Costs {
    /// A node takes an event from its client, writes it to Redis, and delivers it to one client.
    publish: f64,
    /// A node reads an event that is for nobody here.
    skip: f64,
    /// It sends an event to one more client.
    deliver: f64,
    /// Redis takes an event.
    append: f64,
    /// Redis hands it to one more node.
    reader: f64,
    /// What the way over Redis takes when nothing is busy.
    hop: f64,
    client: f64,
    handshake: f64,
    room: f64,
}

impl Costs {
    fn of(results: &Results) -> Result<Self> {
        let get = |workload: &str, metric: &str| {
            let found = results.own(workload, metric);
            found.with_context(|| format!("the results have no {metric} of {workload}"))
        };
        let skip = get("cluster-readers", "bystander")?;
        Ok(Self {
            // the publishing node reads the event, too
            publish: get("cluster-readers", "node")? - skip,
            skip,
            deliver: get("ws-fanout-20", "cpu")?,
            append: get("cluster-readers", "append")?,
            reader: get("cluster-readers", "reader")?,
            hop: get("cluster-delay", "added_p50")?.max(0.0),
            client: get("ws-idle", "memory")?,
            handshake: get("ws-storm", "cpu")?,
            room: get("ws-room-memory", "room")?,
        })
    }
}

const LOADS: &[Load] = &[
    Load { name: "whiteboards of 5, each client draws once a minute", room: 5, rate: 16_667.0 },
    Load { name: "the same, every 10 s", room: 5, rate: 100_000.0 },
    Load { name: "the same, every 2 s", room: 5, rate: 500_000.0 },
    Load { name: "lectures of 1,000, one event a second in each", room: 1_000, rate: 1_000.0 },
    Load { name: "notices to one client, 100,000 a second", room: 1, rate: 100_000.0 },
];

const DESIGNS: &[Design] = &[
    Design { name: "one stream", way: Way::Streams(1), shards: 1, together: false },
    Design {
        name: "16 streams on 16 Redis servers, by namespace",
        way: Way::Streams(16),
        shards: 16,
        together: false,
    },
    Design {
        name: "4,096 streams on 16, by room, read where wanted (not built)",
        way: Way::Rooms(4_096),
        shards: 16,
        together: false,
    },
    Design {
        name: "a stream for each node, on 16 (not built)",
        way: Way::Nodes,
        shards: 16,
        together: false,
    },
    Design {
        name: "the same, and a room's clients on one node (not built)",
        way: Way::Nodes,
        shards: 16,
        together: true,
    },
];

/// Prints the tables, and writes them into the page if there is one.
pub(crate) fn report(results: &Results, page: Option<&Path>) -> Result<()> {
    let costs = Costs::of(results)?;
    let commit = results.made.get("commit").map_or("?", String::as_str);
    let mut out = format!("Figures of the benchmark at {commit}.\n\n");
    more_of_one(&mut out, &costs)?;
    ends(&mut out, &costs)?;
    simulated(&mut out, &costs)?;
    println!("{out}");
    page.map_or(Ok(()), |page| fill(page, "scale: written by `bench scale`", &out))
}

fn more_of_one(out: &mut String, costs: &Costs) -> Result<()> {
    let Costs { publish, skip, deliver, append, reader, client, handshake, room, .. } = *costs;
    writeln!(out, "| one more | takes |\n|---|---|")?;
    let [publish, skip, deliver, append, reader, handshake] =
        [publish, skip, deliver, append, reader, handshake].map(figure);
    let [client, room] = [client, room].map(figure);
    writeln!(out, "| client (WebSocket) | {client} KiB of its node, {handshake} µs once |")?;
    writeln!(out, "| room of one more | {room} KiB of the node that has its member |")?;
    writeln!(out, "| receiver of an event | {deliver} µs of its node |")?;
    writeln!(
        out,
        "| event | {publish} µs of the node it comes from, a client there with it, {append} µs of Redis |"
    )?;
    writeln!(
        out,
        "| node | for each event of the cluster {reader} µs of Redis and {skip} µs of its own, members \
         or not |"
    )?;
    Ok(())
}

/// Where one of each is full.
fn ends(out: &mut String, costs: &Costs) -> Result<()> {
    let thousands = |value: f64| format!("{:.0},000", (value / 1e3).floor());
    writeln!(out, "\n| ends at | events a second |\n|---|---|")?;
    writeln!(
        out,
        "| one core of a node, reading what is for others | {} |",
        thousands(1e6 / costs.skip)
    )?;
    for nodes in [2, 10, 30, 100] {
        let each = costs.append + costs.reader * f64::from(nodes);
        writeln!(
            out,
            "| one stream, or one Redis, with {nodes} nodes | {} |",
            thousands(1e6 / each)
        )?;
    }
    Ok(())
}

fn simulated(out: &mut String, costs: &Costs) -> Result<()> {
    let clients = CLIENTS / 1_000_000;
    writeln!(out, "\n{NODES} nodes of {CORES} cores, {clients} million clients:\n")?;
    writeln!(
        out,
        "| load | way | entries a node reads, 1/s | busiest node | busiest Redis | delay: median, p99 |"
    )?;
    writeln!(out, "|---|---|---|---|---|---|")?;
    for load in LOADS {
        for design in DESIGNS {
            let outcome = model::run(costs, load, design);
            let percent = |share: f64| format!("{:.0} %", share * 100.0);
            let delay = match outcome.delay {
                Some((median, p99)) => format!("{} ms, {} ms", figure(median), figure(p99)),
                None => "**does not keep up**".to_owned(),
            };
            let (node, redis) = (percent(outcome.node), percent(outcome.redis));
            let Load { name, .. } = load;
            let way = design.name;
            writeln!(out, "| {name} | {way} | {:.0} | {node} | {redis} | {delay} |", outcome.read)?;
        }
    }
    Ok(())
}
