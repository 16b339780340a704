//! A hundred nodes and a million clients, simulated: each event passes the queues of the node that publishes it,
//! of the Redis that has its stream, and of the nodes that read it, each of which takes what was measured.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

use super::Costs;

pub(super) const NODES: usize = 100;
pub(super) const CLIENTS: usize = 1_000_000;
/// Cores of each node. Redis has one: it works in one thread.
pub(super) const CORES: f64 = 4.0;
/// Simulated seconds, the first of which is not looked at.
const SECONDS: f64 = 3.0;
/// More queued work than this at the end, in seconds: it does not keep up.
const BACKLOG: f64 = 0.5;

/// Who says how much to whom.
#[derive(Clone, Copy)]
pub(super) struct Load {
    pub(super) name: &'static str,
    /// Members of each room; 1: an event for one client, from a node that need not be its own.
    pub(super) room: usize,
    /// Events a second, in all.
    pub(super) rate: f64,
}

/// How events find their readers.
#[derive(Clone, Copy)]
pub(super) enum Way {
    /// So many streams, by namespace; every node reads all of them.
    Streams(usize),
    /// So many streams, by room; a node reads those in which it has a room.
    Rooms(usize),
    /// One stream for each node; an event goes to those of the nodes that have members.
    Nodes,
}

/// A way of running it.
#[derive(Clone, Copy)]
pub(super) struct Design {
    pub(super) name: &'static str,
    pub(super) way: Way,
    /// Servers of a Redis Cluster, over which the streams are spread.
    pub(super) shards: usize,
    /// Are the members of a room on one node, because the balancer knows the room?
    pub(super) together: bool,
}

/// What came of it.
pub(super) struct Outcome {
    /// Entries that a node reads each second, on average.
    pub(super) read: f64,
    /// How much of its time the busiest node, and the busiest Redis, would have to work.
    pub(super) node: f64,
    pub(super) redis: f64,
    /// From an event to its last receiver on a node, in milliseconds: median and 99th percentile. None: the
    /// queues only grow.
    pub(super) delay: Option<(f64, f64)>,
}

/// SplitMix64: the same run every time.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((u128::from(z ^ (z >> 31)) * bound as u128) >> 64).unwrap_or(0)
    }

    /// The time to the next of `rate` events a second, which know nothing of each other.
    fn wait(&mut self, rate: f64) -> f64 {
        let unit = (self.below(1 << 53) as f64 + 1.0) / (1_u64 << 53) as f64;
        -unit.ln() / rate
    }
}

/// Who works one thing after the other.
#[derive(Clone, Copy, Default)]
struct Queue {
    free_at: f64,
    worked: f64,
}

impl Queue {
    /// When work that arrives then and takes so long is done, all in seconds.
    fn take(&mut self, at: f64, work: f64) -> f64 {
        self.free_at = self.free_at.max(at) + work;
        self.worked += work;
        self.free_at
    }
}

/// Where clients are: for each room its nodes, and how many members each of them has.
struct Places {
    rooms: Vec<Vec<(usize, usize)>>,
    /// For each stream of [`Way::Rooms`] the nodes that read it, a bit for each.
    readers: HashMap<usize, u128>,
}

impl Places {
    fn new(load: &Load, design: &Design, random: &mut Random) -> Self {
        let rooms = (0..CLIENTS / load.room).map(|_| {
            if design.together {
                return vec![(random.below(NODES), load.room)];
            }
            let mut members = [0_usize; NODES];
            (0..load.room).for_each(|_| members[random.below(NODES)] += 1);
            members.into_iter().enumerate().filter(|(_, count)| *count > 0).collect()
        });
        let rooms: Vec<Vec<(usize, usize)>> = rooms.collect();
        let mut readers = HashMap::new();
        if let Way::Rooms(streams) = design.way {
            for (room, members) in rooms.iter().enumerate() {
                let bits = members.iter().fold(0, |bits, (node, _)| bits | 1_u128 << node);
                *readers.entry(room % streams).or_default() |= bits;
            }
        }
        Self { rooms, readers }
    }
}

/// What is under way; the next in time comes out of the heap first.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Step {
    /// Nanoseconds.
    at: Reverse<u64>,
    begun: u64,
    room: usize,
    stage: Stage,
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    /// A client of the node sends it.
    Publish(usize),
    /// It comes to this Redis, for these nodes.
    Store(usize, u128),
    Read(u128),
}

const SECOND: f64 = 1e9;

fn nanoseconds(time: f64) -> u64 {
    (time * SECOND) as u64
}

/// A run under way.
struct Run<'a> {
    costs: Costs,
    design: &'a Design,
    places: Places,
    nodes: [Queue; NODES],
    shards: Vec<Queue>,
    /// Reads of all nodes.
    entries: u64,
    /// Milliseconds.
    delays: Vec<f32>,
    steps: BinaryHeap<Step>,
}

impl Run<'_> {
    /// Where an event for a room is written, and who reads it there.
    fn writes(&self, room: usize) -> Vec<(usize, u128)> {
        let shards = self.design.shards;
        match self.design.way {
            Way::Streams(streams) => vec![(room % streams % shards, (1 << NODES) - 1)],
            Way::Rooms(streams) => {
                vec![(room % streams % shards, self.places.readers[&(room % streams)])]
            }
            Way::Nodes => {
                let members = self.places.rooms[room].iter();
                members.map(|(node, _)| (node % shards, 1_u128 << node)).collect()
            }
        }
    }

    fn step(&mut self, step: Step) {
        let Step { at: Reverse(at), begun, room, stage } = step;
        let now = at as f64 / SECOND;
        let Costs { publish, skip, deliver, append, reader, hop, .. } = self.costs;
        let next = |done: f64, stage| Step { at: Reverse(nanoseconds(done)), begun, room, stage };
        match stage {
            Stage::Publish(node) => {
                let writes = self.writes(room);
                let work = publish / 1e6 * writes.len() as f64 / CORES;
                let done = self.nodes[node].take(now, work);
                for (shard, readers) in writes {
                    self.steps.push(next(done, Stage::Store(shard, readers)));
                }
            }
            Stage::Store(shard, readers) => {
                let work = append + reader * f64::from(readers.count_ones());
                let done = self.shards[shard].take(now, work / 1e6) + hop / 1e3;
                self.steps.push(next(done, Stage::Read(readers)));
            }
            Stage::Read(readers) => {
                self.entries += u64::from(readers.count_ones());
                let mut members = self.places.rooms[room].iter().peekable();
                for node in (0..NODES).filter(|node| readers >> node & 1 == 1) {
                    while members.next_if(|(member, _)| *member < node).is_some() {}
                    let here = members.next_if(|(member, _)| *member == node);
                    let count = here.map_or(0, |(_, count)| *count);
                    let work = (skip + deliver * count as f64) / 1e6 / CORES;
                    let done = self.nodes[node].take(now, work);
                    if count > 0 && begun as f64 > SECOND {
                        self.delays.push((done * 1e3 - begun as f64 / 1e6) as f32);
                    }
                }
            }
        }
    }
}

/// Runs it.
pub(super) fn run(costs: &Costs, load: &Load, design: &Design) -> Outcome {
    let mut random = Random(1);
    let mut run = Run {
        costs: *costs,
        design,
        places: Places::new(load, design, &mut random),
        nodes: [Queue::default(); NODES],
        shards: vec![Queue::default(); design.shards],
        entries: 0,
        delays: Vec::new(),
        steps: BinaryHeap::new(),
    };
    let (mut event, end) = (0.0, nanoseconds(SECONDS));
    while event < SECONDS {
        event += random.wait(load.rate);
        let room = random.below(run.places.rooms.len());
        let members = &run.places.rooms[room];
        let from = match load.room {
            1 => random.below(NODES),
            _ => members[random.below(members.len())].0,
        };
        let at = nanoseconds(event);
        let stage = Stage::Publish(from);
        run.steps.push(Step { at: Reverse(at), begun: at, room, stage });
        while run.steps.peek().is_some_and(|step| step.at.0 <= at.min(end)) {
            let Some(step) = run.steps.pop() else { break };
            run.step(step);
        }
    }
    let Run { nodes, shards, entries, mut delays, .. } = run;
    let busiest = |queues: &[Queue]| queues.iter().map(|q| q.worked).fold(0.0, f64::max) / SECONDS;
    let keeps_up = nodes.iter().chain(&shards).all(|queue| queue.free_at - SECONDS < BACKLOG);
    delays.sort_by(f32::total_cmp);
    let at = |share: f64| f64::from(delays[((delays.len() - 1) as f64 * share) as usize]);
    Outcome {
        read: entries as f64 / SECONDS / NODES as f64,
        node: busiest(&nodes),
        redis: busiest(&shards),
        delay: (keeps_up && !delays.is_empty()).then(|| (at(0.5), at(0.99))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COSTS: Costs = Costs {
        publish: 10.0,
        skip: 1.0,
        deliver: 5.0,
        append: 2.0,
        reader: 0.5,
        hop: 0.1,
        client: 6.0,
        handshake: 50.0,
        room: 1.0,
    };
    const PLAIN: Design = Design { name: "", way: Way::Streams(1), shards: 1, together: false };

    fn load(room: usize, rate: f64) -> Load {
        Load { name: "", room, rate }
    }

    #[test]
    fn work_is_what_the_costs_say() {
        let outcome = run(&COSTS, &load(5, 1_000.0), &PLAIN);
        assert!((outcome.read - 1_000.0).abs() < 50.0, "{}", outcome.read);
        // an event: 2 µs to store it and 0.5 for each of 100 readers
        assert!((outcome.redis - 0.052).abs() < 0.003, "{}", outcome.redis);
        // 1 µs for each event, a hundredth of the publishing, and of five deliveries, on four cores
        assert!((outcome.node - 0.00034).abs() < 0.0001, "{}", outcome.node);
        let (median, _) = outcome.delay.unwrap();
        assert!((0.1..0.3).contains(&median), "{median}");
    }

    #[test]
    fn what_cannot_keep_up_has_no_delay() {
        let outcome = run(&COSTS, &load(5, 50_000.0), &PLAIN);
        assert!(outcome.redis > 1.0 && outcome.delay.is_none());
    }

    #[test]
    fn only_who_has_members_reads_a_nodes_stream_or_a_rooms() {
        let alone = Design { way: Way::Nodes, shards: 4, ..PLAIN };
        let outcome = run(&COSTS, &load(1, 10_000.0), &alone);
        assert!((outcome.read - 100.0).abs() < 10.0, "{}", outcome.read);
        let rooms = Design { way: Way::Rooms(1 << 20), together: true, shards: 4, ..PLAIN };
        let outcome = run(&COSTS, &load(5, 10_000.0), &rooms);
        assert!((outcome.read - 100.0).abs() < 10.0, "{}", outcome.read);
    }
}
