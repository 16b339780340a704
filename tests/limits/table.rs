//! `docs/limits.md` says what is so.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use quicket::Server;
use quicket::config::Config;

use super::support::socketio::config;

struct Row {
    setting: String,
    default: String,
    metrics: Vec<String>,
    tests: Vec<String>,
}

/// What stands in backticks.
fn code(cell: &str) -> Vec<String> {
    cell.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

fn rows() -> Vec<Row> {
    let text = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/limits.md")).unwrap();
    let cells = text.lines().filter_map(|line| line.strip_prefix("| ")?.strip_suffix(" |"));
    let cells = cells.map(|line| line.split(" | ").collect::<Vec<_>>());
    let rows = cells.filter(|cells| cells[0] != "limit").map(|cells| {
        let [_, setting, default, _, metrics, tests] = cells[..] else { panic!("{cells:?}") };
        let (setting, default) = (setting.replace('`', ""), default.replace('`', ""));
        Row { setting, default, metrics: code(metrics), tests: code(tests) }
    });
    rows.collect()
}

/// Names and defaults of all settings.
fn settings() -> Vec<(String, String)> {
    let reference = Config::reference_markdown();
    let rows = reference.lines().filter_map(|line| line.strip_prefix("| `--"));
    let cells = rows.map(|line| line.split(" | ").map(|cell| cell.replace('`', "")));
    cells.map(|mut cells| (cells.next().unwrap(), cells.nth(3).unwrap())).collect()
}

fn read_all(folder: &Path, text: &mut String) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.ends_with("node_modules") {
            read_all(&path, text);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            text.push_str(&fs::read_to_string(path).unwrap());
        }
    }
}

#[tokio::test]
async fn every_limit_in_the_docs_has_its_setting_its_metric_and_its_test() {
    let (rows, settings) = (rows(), settings());
    assert!(rows.len() > 20 && settings.len() > 50, "the tables are not where this looks");
    let server = Server::builder().config(config()).build().await.unwrap();
    let metrics = server.metrics().render();
    let mut sources = String::new();
    for folder in ["src", "tests"] {
        read_all(&Path::new(env!("CARGO_MANIFEST_DIR")).join(folder), &mut sources);
    }
    for row in &rows {
        if row.setting != "fixed" && row.setting != "file descriptors" {
            let known = settings.contains(&(row.setting.clone(), row.default.clone()));
            assert!(known, "no setting {} with default {}", row.setting, row.default);
        }
        for metric in &row.metrics {
            assert!(metrics.contains(&format!("{metric} 0\n")), "no metric {metric}");
        }
        assert!(!row.tests.is_empty(), "{} has no test", row.setting);
        for test in &row.tests {
            assert!(sources.contains(&format!("fn {test}(")), "no test {test}");
        }
    }
}

#[tokio::test]
async fn every_limit_is_in_the_docs() {
    let rows = rows();
    let documented: BTreeSet<_> = rows.iter().map(|row| row.setting.clone()).collect();
    let limits = settings().into_iter().map(|(name, _)| name).filter(|name| {
        let is_limit = name.starts_with("max-") || name.ends_with("-rate");
        is_limit || name.contains("-rate-") || name.starts_with("inbox-")
    });
    let missing: Vec<_> = limits.filter(|name| !documented.contains(name)).collect();
    assert!(missing.is_empty(), "{missing:?}");
    let server = Server::builder().config(config()).build().await.unwrap();
    let metrics = server.metrics().render();
    let series = metrics.lines().filter(|line| line.starts_with("quicket_limits_hit_total"));
    let documented: BTreeSet<_> = rows.iter().flat_map(|row| row.metrics.clone()).collect();
    let missing: Vec<_> =
        series.filter(|line| !documented.contains(line.trim_end_matches(" 0"))).collect();
    assert!(missing.is_empty(), "{missing:?}");
}
