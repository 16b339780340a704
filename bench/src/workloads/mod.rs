//! What is measured. Each workload runs its servers in turn, round after round, so that what else the
//! machine does falls on all of them.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};

use crate::lab::{Lab, Peer};
use crate::report::{Metric, Outcome};

mod cluster;

/// Metrics of one run of one server.
pub(crate) type Sample = BTreeMap<String, f64>;

/// One comparison.
pub(crate) struct Workload {
    pub(crate) id: &'static str,
    pub(crate) title: &'static str,
    pub(crate) about: String,
    pub(crate) metrics: Vec<Metric>,
    pub(crate) peers: Vec<Peer>,
    /// Measures one server once; gives the deliveries that were checked, too.
    pub(crate) run: fn(&Lab, Peer) -> Result<(Sample, u64)>,
}

/// All workloads, in the order of the report.
pub(crate) fn all(lab: &Lab) -> Vec<Workload> {
    let mut all = Vec::new();
    all.extend(cluster::workloads(lab));
    all
}

/// Runs one workload, pairs interleaved.
pub(crate) fn run(lab: &Lab, workload: &Workload) -> Result<Outcome> {
    let mut outcome = Outcome::new(workload);
    for round in 0..lab.rounds {
        let mut peers = workload.peers.clone();
        // who goes first finds another machine than who goes last
        peers.rotate_left(round % workload.peers.len());
        let mut samples = BTreeMap::new();
        for peer in peers {
            let (sample, checked) = (workload.run)(lab, peer)
                .with_context(|| format!("{}: {}", workload.id, peer.name()))?;
            eprintln!(
                "{} [{}/{}] {}: {sample:.2?}",
                workload.id,
                round + 1,
                lab.rounds,
                peer.name()
            );
            samples.insert(peer.name().to_owned(), sample);
            outcome.checked += checked;
        }
        outcome.rounds.push(samples);
    }
    Ok(outcome)
}

/// Microseconds of `time` for each of `count`.
pub(crate) fn micros_each(time: std::time::Duration, count: u64) -> f64 {
    time.as_secs_f64() * 1e6 / count.max(1) as f64
}
