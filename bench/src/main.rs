//! The benchmark: servers side by side on one machine in one run. `make bench` runs it.
//!
//! ```text
//! fleet ▶ many clients, and nothing of any server     traffic ▶ what they say, and that it arrived
//! process ▶ servers started, /proc read               workloads ▶ what is compared     report ▶ results
//! scale ▶ what many nodes would do, simulated with what was measured
//! ```

mod fleet;
mod lab;
mod process;
mod report;
mod scale;
mod traffic;
mod workloads;

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::lab::{Lab, Mode, Peer, folder};
use crate::report::Results;

#[derive(Parser)]
#[command(about = "Socket.IO servers side by side", version)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs workloads and writes the results
    Run {
        #[arg(long, value_enum, default_value = "quick")]
        mode: Mode,
        /// Only workloads whose names start so; all by default
        #[arg(long, value_delimiter = ',')]
        only: Vec<String>,
        /// How often each pair is measured
        #[arg(long)]
        rounds: Option<usize>,
        /// Servers keep sessions for recovery
        #[arg(long)]
        recovery: bool,
        /// Only these servers
        #[arg(long, value_enum, value_delimiter = ',')]
        peers: Vec<Peer>,
        /// Another build of peer-quicket, measured beside this one
        #[arg(long)]
        baseline: Option<PathBuf>,
        /// A server that runs already (not a cluster): only that one is measured
        #[arg(long)]
        server: Option<SocketAddr>,
        /// The process of `--server`, for its CPU time and memory
        #[arg(long, requires = "server")]
        pid: Option<u32>,
        /// Where results.json and the plots go; what is there of other workloads stays
        #[arg(long, default_value = "target/results")]
        out: PathBuf,
        /// Writes the results into docs/benchmark.md, too
        #[arg(long)]
        document: bool,
    },
    /// Prints the results of a run, and with `--document` writes them into docs/benchmark.md
    Report {
        #[arg(long, default_value = "target/results")]
        out: PathBuf,
        #[arg(long)]
        document: bool,
    },
    /// What a large cluster would do with the costs of a run, simulated
    Scale {
        #[arg(long, default_value = "target/results")]
        out: PathBuf,
        /// Writes it into docs/scale.md, too
        #[arg(long)]
        document: bool,
    },
    /// Lists the workloads
    List,
}

fn main() -> Result<()> {
    match Args::parse().command {
        Command::Run {
            mode,
            only,
            rounds,
            recovery,
            peers,
            baseline,
            server,
            pid,
            out,
            document,
        } => {
            let mut lab = Lab::new(mode, rounds)?;
            (lab.recovery, lab.peers, lab.baseline) = (recovery, peers, baseline);
            lab.given = server.map(|address| (address, pid));
            let name = mode.pick("quick", "full");
            let mut results = Results::new(name, lab.rounds);
            if let Ok(before) = Results::read(&out)
                && results.continues(&before)
            {
                results = before;
            }
            for workload in workloads::all(&lab) {
                let chosen = only.iter().any(|name| workload.id.starts_with(name.as_str()));
                if chosen || only.is_empty() {
                    results.add(workloads::run(&lab, &workload)?);
                    results.write(&out)?;
                }
            }
            finish(&results, document, &out)
        }
        Command::Report { out, document } => finish(&Results::read(&out)?, document, &out),
        Command::Scale { out, document } => {
            let page = folder().join("../docs/scale.md");
            scale::report(&Results::read(&out)?, document.then_some(&*page))
        }
        Command::List => {
            let lab = Lab::new(Mode::Quick, None)?;
            for workload in workloads::all(&lab) {
                println!("{:20} {}", workload.id, workload.title);
            }
            Ok(())
        }
    }
}

fn finish(results: &Results, document: bool, out: &std::path::Path) -> Result<()> {
    println!("{}", results.text());
    println!("results and plots are in {}", out.display());
    if document {
        let docs = folder().join("../docs");
        results.write(&docs.join("benchmark"))?;
        results.document(&docs.join("benchmark.md"), "benchmark")?;
    }
    Ok(())
}
