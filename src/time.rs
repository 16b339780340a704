//! Deadlines as data: a fixed table of named timers, asked for the next one and for those that passed.
//!
//! Nothing here reads a clock. Whoever owns a table keeps one real timer for [`Timers::next`].

use std::time::Instant;

/// A closed list of timers. The index is the slot in the table.
pub(crate) trait TimerName: Copy + 'static {
    /// All names, in slot order.
    const ALL: &'static [Self];
    /// The slot of this name.
    fn slot(self) -> usize;
}

/// At most one deadline for each name.
#[derive(Debug)]
pub(crate) struct Timers<const N: usize> {
    deadlines: [Option<Instant>; N],
}

impl<const N: usize> Timers<N> {
    pub(crate) const fn new() -> Self {
        Self { deadlines: [None; N] }
    }

    /// Arms a timer, replacing its earlier deadline.
    pub(crate) fn set<K: TimerName>(&mut self, name: K, at: Instant) {
        self.deadlines[name.slot()] = Some(at);
    }

    pub(crate) fn stop<K: TimerName>(&mut self, name: K) {
        self.deadlines[name.slot()] = None;
    }

    /// The earliest deadline.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.deadlines.iter().flatten().min().copied()
    }

    /// Takes one timer that is due at `now`, in the order of the list, and when it was due.
    pub(crate) fn expired<K: TimerName>(&mut self, now: Instant) -> Option<(K, Instant)> {
        for name in K::ALL {
            let slot = &mut self.deadlines[name.slot()];
            if let Some(at) = slot.take_if(|at| *at <= now) {
                return Some((*name, at));
            }
        }
        None
    }
}
