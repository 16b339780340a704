//! The house style as a test: sizes, imports, and words that have no place. All violations come at once.

#![allow(clippy::unwrap_used, reason = "in a test that is how to fail")]

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

const FILE_LINES: usize = 600;
const FUNCTION_LINES: usize = 70;
const LINE_COLUMNS: usize = 100;
/// For lines that a string or an address makes long: rustfmt leaves them alone.
const STRING_LINE_COLUMNS: usize = 120;

/// One file of the project.
struct Source {
    /// From the root of the project, with `/`.
    path: String,
    text: String,
}

impl Source {
    /// Lines with their numbers.
    fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        self.text.lines().enumerate().map(|(at, line)| (at + 1, line))
    }

    /// Is all of it a test?
    fn is_test(&self) -> bool {
        let named = self.path.ends_with("tests.rs") || self.path.contains("/tests/");
        let simulated = ["src/simulation/", "src/cluster/redis/simulated"];
        let simulated = simulated.iter().any(|place| self.path.starts_with(place));
        self.path.starts_with("tests/") || named || simulated
    }

    /// Lines of the product: without tests, which are at the foot of a file, and comments.
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        let until = if self.is_test() { 0 } else { usize::MAX };
        let is_test_module = |line: &str| line.starts_with("mod ") && line.ends_with('{');
        let mut after_cfg_test = false;
        self.lines()
            .take(until)
            .take_while(move |(_, line)| {
                let foot = after_cfg_test && is_test_module(line);
                after_cfg_test = *line == "#[cfg(test)]";
                !foot
            })
            .filter(|(_, line)| !line.trim_start().starts_with("//"))
            .map(|(at, line)| (at, line.split(" // ").next().unwrap_or(line)))
    }

    fn folder(&self) -> &str {
        let below = self.path.strip_prefix("src/").unwrap_or_default();
        below.split(['/', '.']).next().unwrap_or_default()
    }
}

/// What was found, one a line.
#[derive(Default)]
struct Findings(String);

impl Findings {
    fn add(&mut self, source: &Source, line: usize, what: impl std::fmt::Display) {
        writeln!(self.0, "{}:{line}: {what}", source.path).unwrap();
    }

    fn none(self) {
        assert!(self.0.is_empty(), "{} findings:\n{}", self.0.lines().count(), self.0);
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every file below `folder` that is ours, in order.
fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    let mut entries: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let built = ["target", "node_modules", "dist", ".git"].contains(&name.as_str());
        if path.is_dir() && !built {
            files(&path, found);
        } else if path.is_file() {
            found.push(path);
        }
    }
}

/// The text files below these folders (or these files themselves) whose names end so.
fn sources(places: &[&str], ends: &[&str]) -> Vec<Source> {
    let mut found = Vec::new();
    for place in places {
        let place = root().join(place);
        if place.is_file() {
            found.push(place);
        } else {
            files(&place, &mut found);
        }
    }
    let wanted = |path: &PathBuf| {
        let path = path.to_string_lossy();
        ends.iter().any(|end| path.ends_with(end))
    };
    let read = |path: PathBuf| {
        let text = String::from_utf8(fs::read(&path).unwrap()).ok()?;
        let path = path.strip_prefix(root()).unwrap().to_string_lossy().into_owned();
        Some(Source { path, text })
    };
    found.into_iter().filter(wanted).filter_map(read).collect()
}

fn rust() -> Vec<Source> {
    let found = sources(&["src", "tests", "examples", "bench"], &[".rs"]);
    assert!(found.len() > 50, "the files are not where this test looks");
    found
}

#[test]
fn files_functions_and_lines_are_short() {
    let mut findings = Findings::default();
    for source in &rust() {
        let lines = source.text.lines().count();
        if lines > FILE_LINES {
            findings.add(source, lines, format_args!("{lines} lines, {FILE_LINES} are allowed"));
        }
        for (at, line) in source.lines() {
            let columns = line.chars().count();
            // comments are not formatted either: their tables and addresses may be as long as a string
            let comment = line.trim_start().starts_with("//");
            let string = line.contains(['"', '`']) || line.contains("://") || line.ends_with('\\');
            let allowed = if comment || string { STRING_LINE_COLUMNS } else { LINE_COLUMNS };
            if columns > allowed {
                findings.add(source, at, format_args!("{columns} columns, {allowed} are allowed"));
            }
        }
        for (at, name, lines) in functions(&source.text) {
            if lines > FUNCTION_LINES {
                let what = format_args!("`{name}` has {lines} lines, {FUNCTION_LINES} are allowed");
                findings.add(source, at, what);
            }
        }
    }
    findings.none();
}

/// Line, name and length of every function. In code that rustfmt has formatted, a body ends with the first
/// `}` that is indented as its function.
fn functions(text: &str) -> Vec<(usize, String, usize)> {
    let mut found = Vec::new();
    let lines: Vec<&str> = text.lines().collect();
    for (at, line) in lines.iter().enumerate() {
        let code = line.trim_start();
        let indent = line.len() - code.len();
        let words = ["pub ", "pub(crate) ", "pub(super) ", "const ", "async ", "unsafe "];
        let mut rest = code;
        while let Some(word) = words.iter().find(|word| rest.starts_with(**word)) {
            rest = &rest[word.len()..];
        }
        let Some(rest) = rest.strip_prefix("fn ") else { continue };
        let name = rest.split(['(', '<']).next().unwrap_or_default().to_owned();
        let closing = format!("{}}}", " ".repeat(indent));
        let body = lines[at..].iter().position(|line| *line == closing);
        // a declaration, or a body on the same line, has no end of its own
        let one_line = code.ends_with(';') || code.ends_with('}');
        if let Some(length) = body.filter(|_| !one_line) {
            found.push((at + 1, name, length + 1));
        }
    }
    found
}

#[test]
fn the_measure_of_functions_measures() {
    let text = "impl A {\n    pub(crate) async fn a(\n        b: u8,\n    ) {\n        {\n        }\n    }\n}\n\
         fn c() {}\nfn d();\nconst fn e() {\n}\n";
    let expected = [(2, "a".to_owned(), 6), (11, "e".to_owned(), 2)];
    assert_eq!(functions(text), expected);
}

/// Who may import whom (`crate::...`); DESIGN, "The path of a byte".
const IMPORTS: &[(&str, &[&str])] = &[
    ("error", &[]),
    ("time", &[]),
    ("random", &[]),
    ("config", &["error"]),
    ("metrics", &["engine", "error"]),
    ("engine", &["error", "time", "config"]),
    ("transport", &["engine", "error", "config", "fanout", "time"]),
    ("fanout", &["engine", "error"]),
    (
        "cluster",
        &[
            "engine::packet",
            "engine::NodeTag",
            "socketio::packet",
            "fanout::turn",
            "error",
            "config",
            "metrics",
            "random",
        ],
    ),
    ("jwt", &["config", "engine", "error", "metrics", "random"]),
    ("socketio", &["cluster", "fanout", "engine", "jwt", "config", "error", "metrics", "random"]),
    ("simulation", &[]),
    (
        "server",
        &[
            "transport",
            "engine",
            "socketio",
            "cluster",
            "fanout",
            "jwt",
            "config",
            "error",
            "metrics",
            "time",
        ],
    ),
    ("fuzzing", &["cluster", "engine", "socketio", "transport"]),
    ("lib", &["engine"]),
    ("app", &[]),
    ("allocator", &[]),
    ("main", &[]),
];

#[test]
fn imports_form_a_tree() {
    let mut findings = Findings::default();
    for source in &sources(&["src"], &[".rs"]) {
        let Some((_, allowed)) = IMPORTS.iter().find(|(folder, _)| *folder == source.folder())
        else {
            findings.add(source, 1, "this test does not know the folder; add it to the table");
            continue;
        };
        for (at, line) in source.code() {
            for (start, _) in line.match_indices("crate::") {
                let path = &line[start + "crate::".len()..];
                let own = path.starts_with(&format!("{}::", source.folder()));
                // a list of a folder's own names: `crate::engine::{...}`
                let known = allowed.iter().any(|allowed| {
                    let rest = path.strip_prefix(allowed);
                    rest.is_some_and(|rest| !rest.starts_with(|c: char| c.is_alphanumeric()))
                });
                if !own && !known {
                    let what = format_args!("{} may not import crate::{path}", source.folder());
                    findings.add(source, at, what);
                }
            }
            let application = ["allocator", "app", "main"].contains(&source.folder());
            if !application && line.contains("quicket::") && !line.contains('"') {
                findings.add(source, at, "the library names itself crate");
            }
        }
    }
    findings.none();
}

/// Where words have no place: folder or file (`!` before it: everywhere else), and the words.
const FORBIDDEN: &[(&[&str], &[&str])] = &[
    (
        &[
            "src/engine/",
            "src/time.rs",
            "src/socketio/client.rs",
            "src/socketio/rooms.rs",
            "src/socketio/inbox.rs",
            "src/socketio/packet",
            "src/fanout/outbox.rs",
            "src/fanout/encoded.rs",
            "src/cluster/message.rs",
        ],
        &[
            "Instant::now",
            "SystemTime::now",
            "tokio",
            ".await",
            "async ",
            "std::net::Tcp",
            "std::net::Udp",
            "thread::",
            "Mutex",
            "rand::",
        ],
    ),
    (
        &["!src/transport/webtransport", "!src/server/quic", "!src/transport/tls"],
        &["quinn::", "wtransport::"],
    ),
    (&["!src/transport/websocket"], &["soketto"]),
    (&["!src/cluster/redis", "!src/config/"], &[" redis::", "(redis::", "<redis::"]),
    (&["!src/main.rs", "!src/config/"], &["std::env", "env::var"]),
    (&["src/config/"], &["std::env", "env::var("]),
    (&["src/"], &["todo!", "dbg!", "unimplemented!", ".unwrap()", "println!", "process::exit"]),
];

/// What `main` may do and nobody else.
const MAIN_MAY: &[&str] = &["println!", "process::exit"];

#[test]
fn words_stay_where_they_belong() {
    let mut findings = Findings::default();
    for source in &sources(&["src"], &[".rs"]) {
        for (places, words) in FORBIDDEN {
            let is_in = |place: &&str| source.path.starts_with(place.trim_start_matches('!'));
            let elsewhere = places.iter().all(|place| place.starts_with('!'));
            if elsewhere == places.iter().any(is_in) {
                continue;
            }
            for (at, line) in source.code() {
                for word in words.iter().filter(|word| line.contains(**word)) {
                    if source.path != "src/main.rs" || !MAIN_MAY.contains(word) {
                        findings.add(source, at, format_args!("{word} has no place here"));
                    }
                }
            }
        }
    }
    findings.none();
}

#[test]
fn nothing_is_left_over() {
    // put together here, so that this file has none of them
    let marks =
        ["FIX", "XX"].map(|word| format!("{word}{}", if word == "XX" { "X" } else { "ME" }));
    let skipped = format!("#[{}", "ignore");
    let mut findings = Findings::default();
    for source in &rust() {
        for (at, line) in source.lines() {
            for mark in marks.iter().filter(|mark| line.contains(mark.as_str())) {
                findings.add(source, at, format_args!("{mark} is left"));
            }
            if line.trim_start().starts_with(&skipped) {
                findings.add(source, at, "a test that does not run is no test");
            }
        }
    }
    findings.none();
}

#[test]
fn no_file_knows_the_machine_it_was_written_on() {
    let slash = "/";
    let paths = ["work", "root", "tmp/w"].map(|path| format!("{slash}{path}{slash}"));
    let registry = format!("\"{}\": \"http", "resolved");
    let places = [
        "src",
        "tests",
        "examples",
        "bench",
        "docs",
        "scripts",
        ".ci",
        "frontend",
        "manifests",
        "certs",
        "Cargo.toml",
        "Makefile",
        "README.md",
        "CONTRIBUTING.md",
        "CHANGELOG.md",
        "Dockerfile",
    ];
    let ends = [
        ".rs",
        ".toml",
        ".md",
        ".js",
        ".mjs",
        ".ts",
        ".json",
        ".yml",
        ".yaml",
        ".html",
        ".css",
        ".npmrc",
        "Makefile",
        "Dockerfile",
        "run",
        "debian-packages",
        "cargo-deny",
        ".sh",
    ];
    let mut findings = Findings::default();
    for source in &sources(&places, &ends) {
        for (at, line) in source.lines() {
            for path in paths.iter().filter(|path| line.contains(path.as_str())) {
                findings.add(source, at, format_args!("{path} is on this machine only"));
            }
            if line.contains(&registry) {
                findings.add(source, at, "the address of a registry");
            }
        }
    }
    findings.none();
}
