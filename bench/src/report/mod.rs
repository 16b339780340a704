//! Results: as JSON, as tables, as plots, and in docs/benchmark.md.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use crate::lab::Peer;
use crate::workloads::{Sample, Workload};

mod doc;
mod plot;
mod table;
mod targets;

pub(crate) use doc::fill;

/// One figure of a workload.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Metric {
    pub(crate) id: String,
    pub(crate) title: String,
    pub(crate) unit: String,
    pub(crate) higher_is_better: bool,
}

impl Metric {
    /// One of which less is better.
    pub(crate) fn new(id: &str, title: &str, unit: &str) -> Self {
        Self { id: id.into(), title: title.into(), unit: unit.into(), higher_is_better: false }
    }

    pub(crate) fn higher(mut self) -> Self {
        self.higher_is_better = true;
        self
    }
}

/// What one workload gave.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Outcome {
    pub(crate) id: String,
    pub(crate) title: String,
    pub(crate) about: String,
    pub(crate) metrics: Vec<Metric>,
    pub(crate) servers: Vec<String>,
    /// For each round, each server's figures.
    pub(crate) rounds: Vec<BTreeMap<String, Sample>>,
    /// Deliveries (or answers) of all rounds, each of which was checked.
    pub(crate) checked: u64,
    /// Who did not do it right, and what happened: those runs have no figures.
    #[serde(default)]
    pub(crate) faults: Vec<String>,
}

impl Outcome {
    pub(crate) fn new(workload: &Workload, peers: &[Peer]) -> Self {
        Self {
            id: workload.id.to_owned(),
            title: workload.title.clone(),
            about: workload.about.clone(),
            metrics: workload.metrics.clone(),
            servers: peers.iter().map(|peer| peer.name().to_owned()).collect(),
            rounds: Vec::new(),
            checked: 0,
            faults: Vec::new(),
        }
    }

    fn values(&self, server: &str, metric: &str) -> Vec<f64> {
        let rounds = self.rounds.iter();
        rounds.filter_map(|round| round.get(server)?.get(metric).copied()).collect()
    }

    /// The middle of all rounds.
    fn median(&self, server: &str, metric: &str) -> Option<f64> {
        median(self.values(server, metric))
    }

    /// The middle of the rounds' ratios: both sides of each were measured one after the other.
    fn ratio(&self, server: &str, other: &str, metric: &str) -> Option<f64> {
        let rounds = self.rounds.iter();
        median(
            rounds
                .filter_map(|round| {
                    Some(round.get(server)?.get(metric)? / round.get(other)?.get(metric)?)
                })
                .filter(|ratio| ratio.is_finite() && *ratio > 0.0)
                .collect(),
        )
    }
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => None,
        len if len % 2 == 1 => Some(values[len / 2]),
        len => Some(f64::midpoint(values[len / 2 - 1], values[len / 2])),
    }
}

/// One run of the benchmark.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Results {
    /// What was measured, and where.
    pub(crate) made: BTreeMap<String, String>,
    pub(crate) outcomes: Vec<Outcome>,
}

impl Results {
    pub(crate) fn new(mode: &str, rounds: usize) -> Self {
        let cpus = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = cpus.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        let cores = std::thread::available_parallelism().map_or(0, usize::from);
        let model = model.map_or("unknown CPU", |(_, name)| name);
        let versions = said("node", &["--version"]);
        let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
        let made = [
            ("commit", commit()),
            ("date", said("date", &["-u", "+%Y-%m-%d"])),
            ("mode", format!("{mode}, {rounds} rounds")),
            ("machine", format!("{cores} cores, {model}")),
            ("kernel", said("uname", &["-sr"])),
            (
                "redis",
                said("redis-server", &["--version"]).split(" sha").next().unwrap_or("").into(),
            ),
            ("node", versions),
            // of one minute, before the first server started: what else the machine was doing
            ("load before", load.split(' ').next().unwrap_or_default().to_owned()),
        ];
        let made = made.map(|(name, value)| (name.to_owned(), value)).into();
        Self { made, outcomes: Vec::new() }
    }

    /// Was the other run made of the same commit, in the same way, on the same machine?
    pub(crate) fn continues(&self, other: &Self) -> bool {
        let same = |name| self.made.get(name) == other.made.get(name);
        ["commit", "mode", "machine", "kernel"].into_iter().all(same)
    }

    /// Puts in what is new, in the place of what was there.
    pub(crate) fn add(&mut self, outcome: Outcome) {
        match self.outcomes.iter_mut().find(|old| old.id == outcome.id) {
            Some(old) => *old = outcome,
            None => self.outcomes.push(outcome),
        }
    }

    /// Reads what [`Results::write`] wrote.
    pub(crate) fn read(folder: &Path) -> Result<Self> {
        let path = folder.join("results.json");
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        Ok(serde_json::from_str(&text)?)
    }

    /// Writes `results.json` and a plot for each workload.
    pub(crate) fn write(&self, folder: &Path) -> Result<()> {
        fs::create_dir_all(folder)?;
        fs::write(folder.join("results.json"), serde_json::to_string_pretty(self)? + "\n")?;
        for outcome in &self.outcomes {
            fs::write(folder.join(format!("{}.svg", outcome.id)), plot::draw(outcome))?;
        }
        Ok(())
    }

    /// Our own figure, the middle of all rounds.
    pub(crate) fn own(&self, workload: &str, metric: &str) -> Option<f64> {
        let outcome = self.outcomes.iter().find(|outcome| outcome.id == workload)?;
        outcome.median(Peer::Quicket.name(), metric)
    }

    /// For the terminal.
    pub(crate) fn text(&self) -> String {
        let tables = self.outcomes.iter().map(table::of_outcome).collect::<Vec<_>>().join("\n");
        format!("{}\n{tables}\n{}", table::of_run(&self.made), targets::table(self))
    }

    /// Puts the results into the page, between its marks.
    pub(crate) fn document(&self, page: &Path, plots: &str) -> Result<()> {
        doc::results(self, page, plots)
    }
}

/// The commit, and whether files differ from it.
fn commit() -> String {
    let commit = said("git", &["rev-parse", "--short=12", "HEAD"]);
    // what the run itself writes does not count
    let changes = said("git", &["status", "--porcelain", "--", ":/", ":!/docs/benchmark*"]);
    if changes.is_empty() { commit } else { format!("{commit} with changes") }
}

/// What a program says, or nothing if it cannot.
fn said(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).current_dir(crate::lab::folder()).output();
    output.map_or_else(
        |_| String::new(),
        |output| String::from_utf8_lossy(&output.stdout).trim().to_owned(),
    )
}

/// A figure with as many digits as it is worth.
pub(crate) fn figure(value: f64) -> String {
    match value.abs() {
        100.0.. => format!("{value:.0}"),
        10.0.. => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}
