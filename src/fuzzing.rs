//! What the fuzzers call: one function for each decoder, and for each state machine that peers drive.
//!
//! Compiled for tests and with `--cfg fuzzing` only, so it is no part of the public API. Each function takes
//! any bytes at all; what must not happen is a panic, and each says in its own words what else must hold. The
//! functions stand beside what they reach into (`fuzz.rs`). docs/fuzzing.md tells how they are run.

use std::time::Instant;

use crate::cluster::fuzz as cluster;
use crate::engine::fuzz as engine;
use crate::socketio::fuzz as socketio;
use crate::transport::{websocket, webtransport};

/// A target: takes any bytes, panics when a promise is broken.
pub type Target = fn(&[u8]);

/// All targets; `fuzz/seeds` has a folder for each name.
pub const TARGETS: &[(&str, Target)] = &[
    ("polling", engine::polling),
    ("webtransport_frames", engine::webtransport_frames),
    ("session", session),
    ("websocket", websocket::fuzz::messages),
    ("http3", webtransport::fuzz::streams),
    ("socketio_json", socketio::json),
    ("socketio_msgpack", socketio::msgpack),
    ("namespaces", namespaces),
    ("cluster_entry", cluster::entry),
    ("cluster_message", cluster::message),
    ("stored_session", cluster::stored_session),
    ("offset", cluster::offset),
];

/// Hands `input` to the target of that name.
pub fn run(name: &str, input: &[u8]) {
    let found = TARGETS.iter().find(|(own, _)| *own == name);
    found.expect("fuzz/Cargo.toml names targets that there are").1(input);
}

fn session(operations: &[u8]) {
    engine::session(Instant::now(), operations);
}

fn namespaces(operations: &[u8]) {
    socketio::namespaces(Instant::now(), operations);
}

#[cfg(test)]
mod tests;
