//! What the project has set itself, and how far it is.

use std::fmt::Write as _;

use super::{Results, figure};

/// A bound on one of our figures.
struct Target {
    what: &'static str,
    /// Whose figure it is.
    who: &'static str,
    workload: &'static str,
    metric: &'static str,
    /// With whom the figure is compared; none: it is the figure itself.
    against: Option<&'static str>,
    at_most: f64,
    unit: &'static str,
}

const fn ratio(
    what: &'static str,
    workload: &'static str,
    metric: &'static str,
    against: &'static str,
    at_most: f64,
) -> Target {
    Target { what, who: OWN, workload, metric, against: Some(against), at_most, unit: "x" }
}

const TARGETS: &[Target] = &[ratio(
    "two nodes over Redis, CPU for each event",
    "cluster-cost",
    "both",
    "Node socket.io",
    0.5,
)];

/// Each target that this run says something about.
pub(super) fn table(results: &Results) -> String {
    let mut out = "| target | at most | measured | |\n|---|---|---|---|\n".to_owned();
    for target in TARGETS {
        let Some(outcome) = results.outcomes.iter().find(|outcome| outcome.id == target.workload)
        else {
            continue;
        };
        let value = match target.against {
            Some(other) => outcome.ratio(target.who, other, target.metric),
            None => outcome.median(target.who, target.metric),
        };
        let Some(value) = value else { continue };
        let against = target.against.map_or_else(String::new, |other| format!(" {other}"));
        let verdict = if value <= target.at_most { "met" } else { "**not met**" };
        let Target { what, at_most, unit, .. } = target;
        let value = figure(value);
        writeln!(out, "| {what} | {at_most} {unit}{against} | {value} {unit} | {verdict} |")
            .expect("a string takes all");
    }
    out
}
