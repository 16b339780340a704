//! What a run has at hand: the servers' programs, Redis, and how long and how large things are.

use std::cell::OnceCell;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;

use crate::fleet::Transport;
use crate::process::{Redis, Server};

/// Who is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Peer {
    Quicket,
    /// The same with recovery of missed events.
    Recovering,
    /// Another build of it, named on the command line.
    Baseline,
    /// One that runs already, named on the command line.
    Given,
    Socketioxide,
    Node,
    Floor,
    /// The same with a thread for each of two cores, as every server here has them.
    FloorTwo,
    /// The floor of WebTransport.
    FloorQuic,
    Wtransport,
}

impl Peer {
    /// As tables name it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Quicket => "Quicket",
            Self::Recovering => "Quicket, recovery",
            Self::Baseline => "Quicket, baseline",
            Self::Given => "given server",
            Self::Socketioxide => "socketioxide",
            Self::Node => "Node socket.io",
            Self::Floor | Self::FloorQuic => "floor",
            Self::FloorTwo => "floor, two threads",
            Self::Wtransport => "plain wtransport",
        }
    }

    pub(crate) fn is_ours(self) -> bool {
        matches!(self, Self::Quicket | Self::Recovering | Self::Baseline)
    }

    pub(crate) fn speaks(self, transport: Transport) -> bool {
        match self {
            Self::Quicket | Self::Recovering | Self::Baseline | Self::Given => true,
            Self::Socketioxide | Self::Node => transport != Transport::Webtransport,
            Self::Floor | Self::FloorTwo => transport == Transport::Websocket,
            Self::FloorQuic | Self::Wtransport => transport == Transport::Webtransport,
        }
    }
}

/// How thorough a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Mode {
    /// A few minutes, for a look; the figures are rough.
    Quick,
    /// What the docs show.
    Full,
}

impl Mode {
    /// Takes the first in a quick run and the second in a full one.
    pub(crate) fn pick<T>(self, quick: T, full: T) -> T {
        match self {
            Self::Quick => quick,
            Self::Full => full,
        }
    }

    pub(crate) fn seconds(self, quick: u64, full: u64) -> Duration {
        Duration::from_secs(self.pick(quick, full))
    }
}

pub(crate) struct Lab {
    pub(crate) mode: Mode,
    /// How often each pair is measured.
    pub(crate) rounds: usize,
    /// Do all servers that can keep sessions for recovery?
    pub(crate) recovery: bool,
    /// Another build of `peer-quicket`, to be compared with this one.
    pub(crate) baseline: Option<PathBuf>,
    /// A server that runs already, which is then the only one, and its process.
    pub(crate) given: Option<(SocketAddr, Option<u32>)>,
    /// Only these; empty: all.
    pub(crate) peers: Vec<Peer>,
    /// Where the servers' programs are.
    programs: PathBuf,
    redis: OnceCell<Redis>,
}

impl Lab {
    pub(crate) fn new(mode: Mode, rounds: Option<usize>) -> Result<Self> {
        let own = std::env::current_exe()?;
        let programs = own.parent().context("a program is in a folder")?.to_owned();
        let rounds = rounds.unwrap_or_else(|| mode.pick(2, 5));
        Ok(Self {
            mode,
            rounds,
            recovery: false,
            baseline: None,
            given: None,
            peers: Vec::new(),
            programs,
            redis: OnceCell::new(),
        })
    }

    /// Who of `peers` is wanted, the baseline with it.
    pub(crate) fn chosen(&self, peers: &[Peer]) -> Vec<Peer> {
        if self.given.is_some() {
            return vec![Peer::Given];
        }
        let mut all = peers.to_vec();
        all.extend(self.baseline.as_ref().map(|_| Peer::Baseline));
        all.retain(|peer| self.peers.is_empty() || self.peers.contains(peer));
        all
    }

    pub(crate) fn start(&self, peer: Peer, redis_url: Option<&str>) -> Result<Server> {
        if let Some((address, pid)) = self.given {
            if redis_url.is_some() {
                bail!("a cluster is not one server");
            }
            return Ok(Server::given(address, pid));
        }
        let mut args: Vec<String> = Vec::new();
        let mut program = self.programs.clone();
        match peer {
            Peer::Quicket | Peer::Recovering | Peer::Baseline => {
                match &self.baseline {
                    Some(baseline) if peer == Peer::Baseline => program = baseline.clone(),
                    _ => program.push("peer-quicket"),
                }
                // a load generator is no hostile peer: the others have no rates, and no bounds, either
                let fixed = "--port 0 --listen-address 127.0.0.1 --log-filter warn --max-payload 4M \
                    --inbox-bytes 8M --outbox-bytes 64M --packet-rate off --byte-rate off \
                    --handshake-rate off";
                args.extend(fixed.split_whitespace().map(str::to_owned));
                if self.recovery || peer == Peer::Recovering {
                    args.extend(["--recovery-window".to_owned(), "2m".to_owned()]);
                }
            }
            Peer::Node => {
                program = PathBuf::from("node");
                args.push(folder().join("node/server.mjs").display().to_string());
                args.extend(self.recovery.then(|| "--recovery".to_owned()));
            }
            Peer::Socketioxide => program.push("peer-socketioxide"),
            Peer::Given => bail!("no server was given"),
            Peer::Floor => program.push("peer-floor"),
            Peer::FloorTwo => {
                program.push("peer-floor");
                args.push("2".to_owned());
            }
            Peer::FloorQuic => program.push("peer-floor-quic"),
            Peer::Wtransport => program.push("peer-wtransport"),
        }
        if let Some(url) = redis_url {
            args.extend(["--redis-url".to_owned(), url.to_owned()]);
        }
        Server::start(&program, &args)
    }

    /// The Redis of this run, started when it is first wanted.
    pub(crate) fn redis(&self) -> Result<&Redis> {
        if let Some(redis) = self.redis.get() {
            return Ok(redis);
        }
        let redis = Redis::start()?;
        Ok(self.redis.get_or_init(|| redis))
    }
}

/// `bench/` of the project.
pub(crate) fn folder() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
