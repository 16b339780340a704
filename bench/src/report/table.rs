//! Tables in Markdown.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::{Outcome, figure};

/// Where and on what it ran.
pub(super) fn of_run(made: &BTreeMap<String, String>) -> String {
    let mut out = "| | |\n|---|---|\n".to_owned();
    for (name, value) in made.iter().filter(|(_, value)| !value.is_empty()) {
        writeln!(out, "| {name} | {value} |").expect("a string takes all");
    }
    out
}

/// Servers by metrics, with the ratios below.
pub(super) fn of_outcome(outcome: &Outcome) -> String {
    let mut out = format!("### {}\n\n{}\n\n|", outcome.title, outcome.about);
    for metric in &outcome.metrics {
        write!(out, " | {} ({})", metric.title, metric.unit).expect("a string takes all");
    }
    out.push_str(" |\n|---");
    out.push_str(&"|---".repeat(outcome.metrics.len()));
    out.push_str("|\n");
    for server in &outcome.servers {
        row(&mut out, outcome, server, |metric| {
            let values = outcome.values(server, metric);
            let median = outcome.median(server, metric)?;
            let least = values.iter().copied().fold(f64::INFINITY, f64::min);
            let most = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            Some(format!("{} ({} to {})", figure(median), figure(least), figure(most)))
        });
    }
    let Some((own, others)) = outcome.servers.split_first() else { return out };
    for other in others {
        row(&mut out, outcome, &format!("*{own} / {other}*"), |metric| {
            outcome.ratio(own, other, metric).map(|ratio| format!("*{ratio:.2}*"))
        });
    }
    writeln!(out, "\n{} deliveries, each checked.", thousands(outcome.checked))
        .expect("a string takes all");
    for fault in &outcome.faults {
        writeln!(out, "\n**Failed**: {fault}.").expect("a string takes all");
    }
    out
}

fn row(out: &mut String, outcome: &Outcome, name: &str, cell: impl Fn(&str) -> Option<String>) {
    write!(out, "| {name}").expect("a string takes all");
    for metric in &outcome.metrics {
        let cell = cell(&metric.id).unwrap_or_else(|| "-".to_owned());
        write!(out, " | {cell}").expect("a string takes all");
    }
    out.push_str(" |\n");
}

fn thousands(count: u64) -> String {
    let digits = count.to_string();
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}
