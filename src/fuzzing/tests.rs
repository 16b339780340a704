//! Every seed and every input that once broke something, and some thousand small changes of them: what a
//! short run of the fuzzers would find, without building anything twice.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};

use super::*;

const CHANGES: usize = 4000;

/// The files of a target, with their names, in order.
fn seeds(target: &str) -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds").join(target);
    let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{folder:?}: {error}"));
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let read = |path: &std::path::PathBuf| (path.display().to_string(), fs::read(path).unwrap());
    paths.iter().map(read).collect()
}

/// Runs a target; says with which input it broke.
fn try_out(name: &str, target: Target, what: &str, input: &[u8]) {
    if catch_unwind(AssertUnwindSafe(|| target(input))).is_err() {
        let file = std::env::temp_dir().join(format!("quicket-fuzz-{name}"));
        fs::write(&file, input).unwrap();
        panic!("{name} broke with {what}; the input is in {}", file.display());
    }
}

/// What libFuzzer does to an input, in small.
fn change(random: &mut StdRng, all: &[(String, Vec<u8>)], input: &mut Vec<u8>) {
    let at = random.random_range(0..=input.len());
    match random.random_range(0..8) {
        0 if at < input.len() => input[at] = random.random(),
        1 if at < input.len() => input[at] ^= 1 << random.random_range(0..8),
        2 => input.insert(at, random.random()),
        3 => input.truncate(at),
        4 => drop(input.drain(at..input.len().min(at + random.random_range(1..9)))),
        5 => {
            let piece = input[at..input.len().min(at + random.random_range(1..40))].to_vec();
            let to = random.random_range(0..=input.len());
            input.splice(to..to, piece);
        }
        6 => {
            let other = &all.choose(random).unwrap().1;
            let from = random.random_range(0..=other.len());
            input.truncate(at);
            input.extend_from_slice(&other[from..]);
        }
        _ => {
            const BYTES: &[u8] =
                b"\0\x01\x7f\x80\xff\x1e\"\\[]{},:-0123456789/\xc1\xc7\xd9\xdd\xdf";
            input.insert(at, *BYTES.choose(random).unwrap());
        }
    }
}

#[test]
fn seeds_and_regressions_break_no_target_nor_do_some_thousand_changes_of_them() {
    for (name, target) in TARGETS {
        let all = seeds(name);
        assert!(!all.is_empty(), "{name} has no seeds");
        for (file, input) in &all {
            try_out(name, *target, file, input);
        }
        let number: u64 = rand::random();
        let mut random = StdRng::seed_from_u64(number);
        for round in 0..CHANGES {
            let mut input = all.choose(&mut random).unwrap().1.clone();
            for _ in 0..random.random_range(1..6) {
                change(&mut random, &all, &mut input);
            }
            try_out(name, *target, &format!("seed {number}, round {round}"), &input);
        }
    }
}

fn sorted(names: impl Iterator<Item = String>) -> Vec<String> {
    let mut names: Vec<_> = names.collect();
    names.sort();
    names
}

/// The fuzzers are a package of its own, which the tests do not build: so nobody may forget one, and each is the one
/// line that `fuzzing::run` is called by. (That this compiles outside of tests as well is `make check`'s.)
#[test]
fn every_target_has_a_fuzzer_and_seeds_and_nothing_else_has() {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    let targets = sorted(TARGETS.iter().map(|(name, _)| (*name).to_owned()));
    let files = |folder: &str| {
        let entries = fs::read_dir(fuzz.join(folder)).unwrap();
        sorted(entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()))
    };
    assert_eq!(files("seeds"), targets);
    assert_eq!(files("fuzz_targets"), sorted(targets.iter().map(|name| format!("{name}.rs"))));
    let manifest = fs::read_to_string(fuzz.join("Cargo.toml")).unwrap();
    let programs = manifest.split("[[bin]]").skip(1).map(|program| program.trim().to_owned());
    let program = |name: &String| {
        let path = format!("path = \"fuzz_targets/{name}.rs\"");
        format!("name = \"{name}\"\n{path}\ntest = false\ndoc = false\nbench = false")
    };
    assert_eq!(sorted(programs), sorted(targets.iter().map(program)));
    for name in &targets {
        let source = fs::read_to_string(fuzz.join(format!("fuzz_targets/{name}.rs"))).unwrap();
        let call = format!("quicket::fuzzing::run(\"{name}\", data)");
        let whole = format!("#![no_main]\nlibfuzzer_sys::fuzz_target!(|data: &[u8]| {call});\n");
        assert_eq!(source, whole, "{name}");
    }
}
