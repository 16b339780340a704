//! One attack on a server, for some seconds: `siege-attack NAME --server ADDRESS --seconds N`.
//!
//! Attackers speak byte by byte, and only as far as it hurts. When the time is over the process ends and
//! closes nothing in order, as an attacker would. `siege-attack list` names the attacks as JSON, `siege-attack
//! visitors` means no harm.

mod beside;
mod client;
mod early;
mod floods;
mod slow;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;
use clap::Parser;
use futures_util::future::LocalBoxFuture;
use tokio::task::LocalSet;

#[derive(Parser)]
#[command(about = "One attack on a server")]
struct Args {
    /// Name of the attack, or `list`
    attack: String,
    #[arg(long, default_value = "127.0.0.1:3000")]
    server: SocketAddr,
    #[arg(long, default_value_t = 8)]
    seconds: u64,
    /// Where the attackers come from; all of 127.0.0.0/8 is this machine
    #[arg(long, default_value = "127.0.0.2")]
    source: Ipv4Addr,
    /// From so many addresses, that one and those behind it
    #[arg(long, default_value_t = 1)]
    addresses: u32,
}

/// What all workers of an attack share.
pub(crate) struct Field {
    pub(crate) server: SocketAddr,
    /// The first of `addresses`.
    source: Ipv4Addr,
    addresses: u32,
    /// How often one of them was taken.
    taken: AtomicU32,
    pub(crate) until: Instant,
    /// What the attack counts: connections, requests, packets.
    pub(crate) done: AtomicU64,
    /// How often the server did not go along.
    pub(crate) refused: AtomicU64,
}

impl Field {
    pub(crate) fn is_on(&self) -> bool {
        Instant::now() < self.until
    }

    /// Where a connection comes from: from each address in turn.
    pub(crate) fn source(&self) -> SocketAddr {
        let which = self.taken.fetch_add(1, Ordering::Relaxed) % self.addresses;
        SocketAddr::new(Ipv4Addr::from_bits(self.source.to_bits() + which).into(), 0)
    }

    pub(crate) fn done(&self) {
        self.done.fetch_add(1, Ordering::Relaxed);
    }

    /// Holds on to what the caller has until the end.
    pub(crate) async fn hold(&self) {
        tokio::time::sleep_until(self.until.into()).await;
    }
}

pub(crate) type Worker = fn(Arc<Field>) -> LocalBoxFuture<'static, Result<()>>;

/// An attack: so many workers that begin again when they fail.
pub(crate) struct Attack {
    pub(crate) name: &'static str,
    pub(crate) title: &'static str,
    /// What `done` counts.
    pub(crate) unit: &'static str,
    pub(crate) workers: usize,
    pub(crate) work: Worker,
}

/// Who comes before an attack, a hundred at once, so that what any server has in memory once it was in use is not taken
/// for what the attack leaves behind: code that runs for the first time, and the pages that an allocator keeps, one for
/// each size of object.
static VISITORS: Attack = Attack {
    name: "visitors",
    title: "Visitors over all transports",
    unit: "visits",
    workers: 100,
    work: |field| Box::pin(async move { slow::visit(&field).await }),
};

fn attacks() -> impl Iterator<Item = &'static Attack> {
    floods::ATTACKS.iter().chain(early::ATTACKS).chain(beside::ATTACKS).chain(slow::ATTACKS)
}

async fn run(attack: &'static Attack, field: &Arc<Field>) {
    let local = LocalSet::new();
    let workers = (0..attack.workers).map(|number| {
        let field = field.clone();
        local.spawn_local(async move {
            // not all in one moment: a thousand handshakes at once are an attack of their own
            tokio::time::sleep(Duration::from_micros(number as u64 * 700)).await;
            while field.is_on() {
                if (attack.work)(field.clone()).await.is_err() {
                    field.refused.fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
        })
    });
    let workers: Vec<_> = workers.collect();
    local.run_until(field.hold()).await;
    if attack.name == VISITORS.name {
        // they say goodbye
        local.run_until(futures_util::future::join_all(workers)).await;
    }
}

fn main() -> Result<()> {
    let args = Args::parse();
    if args.attack == "list" {
        let list: Vec<_> = attacks()
            .map(|attack| {
                serde_json::json!({
                    "name": attack.name,
                    "title": attack.title,
                    "unit": attack.unit,
                })
            })
            .collect();
        println!("{}", serde_json::to_string(&list)?);
        return Ok(());
    }
    let found = attacks().chain([&VISITORS]).find(|attack| attack.name == args.attack);
    let attack = found.ok_or_else(|| anyhow::anyhow!("no such attack: {}", args.attack))?;
    let field = Arc::new(Field {
        server: args.server,
        source: args.source,
        addresses: args.addresses.max(1),
        taken: AtomicU32::new(0),
        until: Instant::now() + Duration::from_secs(args.seconds),
        done: AtomicU64::new(0),
        refused: AtomicU64::new(0),
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(run(attack, &field));
    let (done, refused) =
        (field.done.load(Ordering::Relaxed), field.refused.load(Ordering::Relaxed));
    println!("{}", serde_json::json!({ "done": done, "refused": refused }));
    // at once: nothing is closed in order, no goodbye on QUIC
    std::process::exit(0)
}
