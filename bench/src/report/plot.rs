//! Plots: for each metric of a workload one bar a server, its median, and a line from its least to its most.

use std::fmt::Write as _;

use super::{Metric, Outcome, figure};

const WIDTH: f64 = 760.0;
/// Left of the bars.
const NAMES: f64 = 150.0;
/// Right of them.
const FIGURES: f64 = 90.0;
const BAR: f64 = 16.0;
const STEP: f64 = 22.0;
const TITLE: f64 = 26.0;

/// Ours first; the others are told apart by their names.
fn colour(at: usize) -> &'static str {
    ["#c2410c", "#64748b", "#94a3b8", "#a8b5a2", "#b7a99a"][at.min(4)]
}

pub(super) fn draw(outcome: &Outcome) -> String {
    let block = TITLE + STEP * outcome.servers.len() as f64 + 10.0;
    let height = 40.0 + block * outcome.metrics.len() as f64;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" \
         font-family=\"sans-serif\" font-size=\"13\">\n\
         <rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#ffffff\"/>\n\
         <text x=\"10\" y=\"24\" font-size=\"16\" font-weight=\"bold\">{}</text>\n",
        escaped(&outcome.title)
    );
    for (at, metric) in outcome.metrics.iter().enumerate() {
        bars(&mut out, outcome, metric, 40.0 + block * at as f64);
    }
    out.push_str("</svg>\n");
    out
}

fn bars(out: &mut String, outcome: &Outcome, metric: &Metric, top: f64) {
    let all = outcome.servers.iter().flat_map(|server| outcome.values(server, &metric.id));
    let most = all.fold(f64::MIN_POSITIVE, f64::max);
    let scale = (WIDTH - NAMES - FIGURES) / most;
    let better = if metric.higher_is_better { "more" } else { "less" };
    let title = escaped(&format!("{} ({}; {better} is better)", metric.title, metric.unit));
    let y = top + 16.0;
    line(out, &format!("<text x=\"10\" y=\"{y}\" fill=\"#334155\">{title}</text>"));
    for (at, server) in outcome.servers.iter().enumerate() {
        let Some(median) = outcome.median(server, &metric.id) else { continue };
        let values = outcome.values(server, &metric.id);
        let least = values.iter().copied().fold(f64::INFINITY, f64::min).max(0.0);
        let most = values.iter().copied().fold(0.0, f64::max);
        let y = top + TITLE + STEP * at as f64;
        let (middle, text) = (y + BAR / 2.0, y + BAR - 3.0);
        let width = median.max(0.0) * scale;
        let (from, to) = (NAMES + least * scale, NAMES + most * scale);
        let name = escaped(server);
        line(out, &format!("<text x=\"20\" y=\"{text}\">{name}</text>"));
        line(
            out,
            &format!(
                "<rect x=\"{NAMES}\" y=\"{y}\" width=\"{width:.1}\" height=\"{BAR}\" fill=\"{}\"/>",
                colour(at)
            ),
        );
        line(
            out,
            &format!(
                "<path d=\"M{from:.1} {middle}H{to:.1}\" stroke=\"#0f172a\" stroke-width=\"2\"/>"
            ),
        );
        let x = width.max(to - NAMES) + NAMES + 6.0;
        line(out, &format!("<text x=\"{x:.1}\" y=\"{text}\">{}</text>", figure(median)));
    }
}

fn line(out: &mut String, text: &str) {
    writeln!(out, "{text}").expect("a string takes all");
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}
