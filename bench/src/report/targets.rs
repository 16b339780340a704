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

const fn absolute(
    what: &'static str,
    workload: &'static str,
    metric: &'static str,
    at_most: f64,
    unit: &'static str,
) -> Target {
    Target { what, who: OWN, workload, metric, against: None, at_most, unit }
}

const OWN: &str = "Quicket";
const FLOOR_TWO: &str = "floor, two threads";
const OXIDE: &str = "socketioxide";
const NODE: &str = "Node socket.io";
const PLAIN: &str = "plain wtransport";

const TARGETS: &[Target] = &[
    ratio("WebSocket fan-out at 20 events/s, CPU", "ws-fanout-20", "cpu", "floor", 1.2),
    ratio("WebSocket fan-out at 150 events/s, CPU", "ws-fanout-150", "cpu", "floor", 1.15),
    ratio("WebSocket fan-out at 150 events/s, p99", "ws-fanout-150", "p99", OXIDE, 1.0),
    Target {
        who: "Quicket, recovery",
        ..ratio("recovery on, WebSocket fan-out, CPU", "ws-fanout-20", "cpu", OWN, 1.1)
    },
    ratio("small rooms, CPU for each delivery", "ws-rooms", "cpu", OXIDE, 0.6),
    ratio("the same, and its floor on as many cores", "ws-rooms", "cpu", FLOOR_TWO, 1.2),
    ratio("WebSocket handshake, CPU", "ws-storm", "cpu", OXIDE, 0.7),
    absolute("WebSocket, idle memory of a connection", "ws-idle", "memory", 8.0, "KiB"),
    ratio("WebTransport fan-out, CPU", "wt-fanout-20", "cpu", PLAIN, 0.67),
    ratio("the same, and its floor", "wt-fanout-20", "cpu", "floor", 1.2),
    absolute("WebTransport, idle memory of a session", "wt-idle", "memory", 40.0, "KiB"),
    ratio("two nodes over Redis, CPU for each event", "cluster-cost", "both", NODE, 0.5),
];

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
    out.push_str(&webtransport_latency(results));
    out
}

/// The one target between two workloads: p99 over WebTransport, in multiples of WebSocket's.
fn webtransport_latency(results: &Results) -> String {
    let p99 = |id: &str| {
        let outcome = results.outcomes.iter().find(|outcome| outcome.id == id);
        outcome.and_then(|outcome| outcome.median(OWN, "p99"))
    };
    let (Some(quic), Some(tcp)) = (p99("wt-fanout-20"), p99("ws-fanout-20")) else {
        return String::new();
    };
    let ratio = quic / tcp;
    let verdict = if ratio <= 2.0 { "met" } else { "**not met**" };
    let value = figure(ratio);
    format!("| WebTransport fan-out, p99 | 2 x WebSocket | {value} x | {verdict} |\n")
}
