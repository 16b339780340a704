//! How many sessions the other nodes have, for a node that would give some of its own away.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::engine::packet::Str;

/// What a node says of itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Load {
    /// Sessions that it has, or has let go of so lately that they may be on their way anywhere.
    pub(crate) sessions: u64,
    /// It stops: its sessions are about to come to the others.
    pub(crate) leaving: bool,
}

/// How often a node says it.
pub(crate) const REPORT_EVERY: Duration = Duration::from_secs(5);

/// After this time without a word a node does not count any more: three reports.
const HEARD_FOR: Duration = Duration::from_secs(15);

/// The most nodes that are known of. Who can write to Redis can invent them.
const NODES_MAX: usize = 4096;

/// What the other nodes said last.
#[derive(Debug, Default)]
pub(crate) struct Loads(HashMap<Str, (Instant, Load)>);

impl Loads {
    /// A node has said it.
    pub(crate) fn heard(&mut self, now: Instant, node: Str, load: Load) {
        if self.0.len() >= NODES_MAX && !self.0.contains_key(&node) {
            self.forget(now);
            if self.0.len() >= NODES_MAX {
                return;
            }
        }
        self.0.insert(node, (now, load));
    }

    /// Those of the nodes that are there.
    pub(crate) fn of_others(&mut self, now: Instant) -> Vec<Load> {
        self.forget(now);
        self.0.values().map(|(_, load)| *load).collect()
    }

    fn forget(&mut self, now: Instant) {
        self.0.retain(|_, (heard, _)| now.saturating_duration_since(*heard) < HEARD_FOR);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(sessions: u64) -> Load {
        Load { sessions, leaving: false }
    }

    #[test]
    fn a_node_counts_with_what_it_said_last_until_it_is_silent_for_too_long() {
        let (start, mut loads) = (Instant::now(), Loads::default());
        let at = |seconds| start + Duration::from_secs(seconds);
        loads.heard(at(0), "a".into(), load(1));
        loads.heard(at(5), "b".into(), load(2));
        loads.heard(at(6), "b".into(), load(3));
        let sorted = |mut found: Vec<Load>| {
            found.sort_by_key(|load| load.sessions);
            found
        };
        assert_eq!(sorted(loads.of_others(at(14))), [load(1), load(3)]);
        assert_eq!(loads.of_others(at(15)), [load(3)]);
        assert_eq!(loads.of_others(at(21)), []);
    }

    #[test]
    fn invented_nodes_fill_no_memory_and_make_way_when_they_are_old() {
        let (start, mut loads) = (Instant::now(), Loads::default());
        for n in 0..NODES_MAX + 100 {
            loads.heard(start, n.to_string().into(), load(0));
        }
        assert_eq!(loads.of_others(start).len(), NODES_MAX);
        loads.heard(start + HEARD_FOR, "real".into(), load(7));
        assert_eq!(loads.of_others(start + HEARD_FOR), [load(7)]);
    }
}
