//! What is measured. Each workload runs its servers in turn, round after round, so that what else the
//! machine does falls on all of them.

use std::collections::BTreeMap;

use anyhow::{Result, bail};

use crate::lab::{Lab, Peer};
use crate::report::{Metric, Outcome};

mod cluster;
mod connections;
mod echo;
mod fanout;
mod rooms;

/// Metrics of one run of one server.
pub(crate) type Sample = BTreeMap<String, f64>;

/// Measures one server once.
pub(crate) type Run = Box<dyn Fn(&Lab, Peer) -> Result<(Sample, u64)>>;

/// One comparison.
pub(crate) struct Workload {
    pub(crate) id: &'static str,
    pub(crate) title: String,
    pub(crate) about: String,
    pub(crate) metrics: Vec<Metric>,
    pub(crate) peers: Vec<Peer>,
    /// Measures one server once; gives the deliveries that were checked, too.
    pub(crate) run: Run,
}

/// All workloads, in the order of the report.
pub(crate) fn all(lab: &Lab) -> Vec<Workload> {
    let mut all = Vec::new();
    all.extend(fanout::workloads(lab));
    all.extend(rooms::workloads(lab));
    all.extend(echo::workloads(lab));
    all.extend(connections::workloads(lab));
    all.extend(cluster::workloads(lab));
    all
}

/// Runs one workload, pairs interleaved.
pub(crate) fn run(lab: &Lab, workload: &Workload) -> Result<Outcome> {
    let chosen = lab.chosen(&workload.peers);
    let mut outcome = Outcome::new(workload, &chosen);
    if chosen.is_empty() {
        return Ok(outcome);
    }
    for round in 0..lab.rounds {
        let mut peers = chosen.clone();
        // who goes first finds another machine than who goes last
        peers.rotate_left(round % chosen.len());
        let mut samples = BTreeMap::new();
        for peer in peers {
            let (sample, checked) = match (workload.run)(lab, peer) {
                Ok(done) => done,
                // others may lose events when there are too many; we may not
                Err(error) if !peer.is_ours() => {
                    let fault = format!("{}, round {}: {error:#}", peer.name(), round + 1);
                    eprintln!("{}: {fault}", workload.id);
                    outcome.faults.push(fault);
                    continue;
                }
                Err(error) => bail!("{}: {}: {error:#}", workload.id, peer.name()),
            };
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
