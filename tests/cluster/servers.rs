//! Redis in its other forms: Sentinel, Cluster, TLS, Valkey, and behind a bad network.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::redis::{Redis, Reply, Setup, directory};
use crate::support::{free_port, within};

/// How often something is asked that nobody announces.
const POLL: Duration = Duration::from_millis(20);

/// `scripts/valkey` puts it there.
pub(crate) fn valkey() -> Setup {
    let binary = concat!(env!("CARGO_MANIFEST_DIR"), "/target/tools/valkey/valkey-server");
    Setup { binary: binary.into(), ..Setup::default() }
}

// --- TLS

/// A certificate authority, and what it has signed: PEM files.
pub(crate) struct Authority {
    directory: PathBuf,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // or OpenSSL takes what it signs for its own
        params.distinguished_name.push(DnType::CommonName, "authority of a test");
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let directory = directory();
        std::fs::write(directory.join("ca.pem"), certificate.pem()).unwrap();
        Self { directory, issuer: Issuer::new(params, key) }
    }

    pub(crate) fn ca(&self) -> PathBuf {
        self.directory.join("ca.pem")
    }

    /// The certificate and its key.
    pub(crate) fn sign(&self, name: &str) -> (PathBuf, PathBuf) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let (cert, key_file) = self.paths(name);
        std::fs::write(&cert, certificate.pem()).unwrap();
        std::fs::write(&key_file, key.serialize_pem()).unwrap();
        (cert, key_file)
    }

    /// Where they are.
    pub(crate) fn paths(&self, name: &str) -> (PathBuf, PathBuf) {
        let file = |kind: &str| self.directory.join(format!("{name}.{kind}.pem"));
        (file("cert"), file("key"))
    }

    /// Flags for a Redis with this certificate, and the port of TLS.
    pub(crate) fn flags(&self, name: &str, asks_clients: &str) -> (Vec<String>, u16) {
        let (cert, key) = self.sign(name);
        let port = free_port();
        let text = |path: &Path| path.to_str().unwrap().to_owned();
        let flags = [
            ("--tls-port", port.to_string()),
            ("--tls-cert-file", text(&cert)),
            ("--tls-key-file", text(&key)),
            ("--tls-ca-cert-file", text(&self.ca())),
            ("--tls-auth-clients", asks_clients.to_owned()),
        ];
        (flags.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]).collect(), port)
    }
}

impl Setup {
    /// Also on a port of TLS, over which it reaches other servers, too.
    fn with_tls(mut self, authority: Option<&Authority>) -> Self {
        if let Some(authority) = authority {
            let (flags, port) = authority.flags("127.0.0.1", "no");
            self.flags.extend(flags);
            let among_servers = ["--tls-replication", "yes", "--tls-cluster", "yes"];
            self.flags.extend(among_servers.map(str::to_owned));
            self.tls_port = Some(port);
        }
        self
    }
}

impl Drop for Authority {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

// --- Sentinel

/// A master, its replica, and a Sentinel that knows both.
pub(crate) struct Sentinel {
    pub(crate) data: [Redis; 2],
    pub(crate) sentinel: Redis,
}

impl Sentinel {
    pub(crate) const PASSWORD: &str = "of-the-data";
    pub(crate) const SENTINEL_PASSWORD: &str = "of-the-sentinel";

    pub(crate) async fn start() -> Self {
        Self::start_with(None).await
    }

    /// With an authority all of them speak TLS to each other and to nodes.
    pub(crate) async fn start_with(authority: Option<&Authority>) -> Self {
        let flags = ["--requirepass", Self::PASSWORD, "--masterauth", Self::PASSWORD];
        let fast = ["--repl-diskless-sync-delay", "0", "--repl-ping-replica-period", "1"];
        let data = || Setup {
            password: Some(Self::PASSWORD),
            keeps_data: true,
            ..Setup::flags(&[flags.as_slice(), &fast].concat()).with_tls(authority)
        };
        let one = Redis::start_as(&data).await;
        let two = Redis::start_as(&data).await;
        let port = one.public_port().to_string();
        assert_eq!(two.call(&["REPLICAOF", "127.0.0.1", &port]).await, Reply::text("OK"));
        let config = directory().join("sentinel.conf");
        let lines = format!(
            "sentinel monitor main 127.0.0.1 {port} 1\n\
             sentinel auth-pass main {password}\n\
             sentinel down-after-milliseconds main 700\n\
             sentinel failover-timeout main 3000\n\
             requirepass {own}\n",
            password = Self::PASSWORD,
            own = Self::SENTINEL_PASSWORD,
        );
        std::fs::write(&config, lines).unwrap();
        let setup = || Setup {
            binary: "/usr/bin/redis-sentinel".into(),
            mode: vec![config.to_str().unwrap().to_owned()],
            password: Some(Self::SENTINEL_PASSWORD),
            ..Setup::default().with_tls(authority)
        };
        let sentinel = Redis::start_as(setup).await;
        let all = Self { data: [one, two], sentinel };
        within("the Sentinel to know the replica", async {
            while !all.has_good_replica().await {
                tokio::time::sleep(POLL).await;
            }
        })
        .await;
        all
    }

    /// The first Sentinel that it names is not there.
    pub(crate) fn url(&self) -> String {
        format!(
            "redis-sentinel://:{}@127.0.0.1:1?sentinelServiceName=main&sentinelPassword={}&node=127.0.0.1:{}",
            Self::PASSWORD,
            Self::SENTINEL_PASSWORD,
            self.sentinel.public_port()
        )
    }

    async fn has_good_replica(&self) -> bool {
        let Reply::List(replicas) = self.sentinel.call(&["SENTINEL", "REPLICAS", "main"]).await
        else {
            return false;
        };
        replicas.iter().any(|replica| {
            let Reply::List(fields) = replica else { return false };
            let field = |name: &str| {
                let at = fields.iter().position(|field| *field == Reply::text(name));
                at.map(|at| fields[at + 1].clone())
            };
            field("flags") == Some(Reply::text("slave"))
                && field("master-link-status") == Some(Reply::text("ok"))
        })
    }

    /// The one that serves, of [`Sentinel::data`].
    pub(crate) async fn master(&self) -> usize {
        let command = ["SENTINEL", "GET-MASTER-ADDR-BY-NAME", "main"];
        let Reply::List(address) = self.sentinel.call(&command).await else { panic!("no master") };
        let is_it = |redis: &Redis| Reply::text(&redis.port.to_string()) == address[1];
        self.data.iter().position(is_it).unwrap()
    }

    pub(crate) async fn until_master(&self, wanted: usize) {
        within("the failover", async {
            while self.master().await != wanted {
                tokio::time::sleep(POLL).await;
            }
        })
        .await;
    }
}

impl Drop for Sentinel {
    fn drop(&mut self) {
        let config = Path::new(&self.sentinel.setup().mode[0]).parent().unwrap();
        let _ = std::fs::remove_dir_all(config);
    }
}

// --- Cluster

/// Three masters, each with a third of the slots, and a replica of the one that has `replicated`.
pub(crate) struct Cluster {
    pub(crate) servers: Vec<Redis>,
    pub(crate) replica: Option<Redis>,
}

const SLOTS: [(u16, u16); 3] = [(0, 5460), (5461, 10922), (10923, 16383)];

impl Cluster {
    pub(crate) async fn start(replicated: Option<&str>) -> Self {
        Self::start_with(replicated, None).await
    }

    /// With an authority all of them speak TLS to each other and to nodes.
    pub(crate) async fn start_with(
        replicated: Option<&str>,
        authority: Option<&Authority>,
    ) -> Self {
        let mut servers = Vec::new();
        for _ in 0..3 {
            servers.push(start_member(authority).await);
        }
        for (server, (first, last)) in servers.iter().zip(SLOTS) {
            let slots = ["CLUSTER", "ADDSLOTSRANGE", &first.to_string(), &last.to_string()];
            assert_eq!(server.call(&slots).await, Reply::text("OK"));
        }
        // who meets, and not later: nodes with the same epoch would have to agree on new ones first
        for (at, server) in servers.iter().enumerate() {
            let epoch = (at + 1).to_string();
            server.call(&["CLUSTER", "SET-CONFIG-EPOCH", &epoch]).await;
        }
        let mut cluster = Self { servers, replica: None };
        if replicated.is_some() {
            cluster.replica = Some(start_member(authority).await);
        }
        for server in cluster.servers[1..].iter().chain(&cluster.replica) {
            meet(&cluster.servers[0], server).await;
        }
        for server in cluster.servers.iter().chain(&cluster.replica) {
            until_whole(server, 3 + usize::from(replicated.is_some())).await;
        }
        if let Some(key) = replicated {
            let owner = &cluster.servers[cluster.owner(key).await];
            let Reply::Bytes(id) = owner.call(&["CLUSTER", "MYID"]).await else { panic!("no id") };
            let id = String::from_utf8(id).unwrap();
            let replica = cluster.replica.as_ref().unwrap();
            assert_eq!(replica.call(&["CLUSTER", "REPLICATE", &id]).await, Reply::text("OK"));
            within("the replica to follow", async {
                while !info(replica).await.contains("master_link_status:up") {
                    tokio::time::sleep(POLL).await;
                }
            })
            .await;
        }
        cluster
    }

    pub(crate) fn url(&self) -> String {
        // the first one is not there
        let port = self.servers[2].public_port();
        format!("redis-cluster://127.0.0.1:1?node=127.0.0.1:{port}")
    }

    /// Nodes reach each server through a proxy from now on, which the cluster announces.
    pub(crate) async fn behind_proxies(&self) -> Vec<Proxy> {
        let mut proxies = Vec::new();
        for server in &self.servers {
            let proxy = Proxy::start(server.port).await;
            let port = proxy.address.port().to_string();
            let announced = server.call(&["CONFIG", "SET", "cluster-announce-port", &port]).await;
            assert_eq!(announced, Reply::text("OK"));
            proxies.push(proxy);
        }
        let announced = |slots: &Reply| {
            let slots = format!("{slots:?}");
            let port = |proxy: &Proxy| format!("Integer({})", proxy.address.port());
            proxies.iter().all(|proxy| slots.contains(&port(proxy)))
        };
        for server in &self.servers {
            within("the proxies to be announced", async {
                while !announced(&server.call(&["CLUSTER", "SLOTS"]).await) {
                    tokio::time::sleep(POLL).await;
                }
            })
            .await;
        }
        proxies
    }

    /// Which of the three has it.
    pub(crate) async fn owner(&self, key: &str) -> usize {
        let slot = self.servers[0].call(&["CLUSTER", "KEYSLOT", key]).await;
        let Reply::Integer(slot) = slot else { panic!("no slot") };
        SLOTS.iter().position(|(first, last)| (*first..=*last).contains(&(slot as u16))).unwrap()
    }
}

async fn start_member(authority: Option<&Authority>) -> Redis {
    let setup = || {
        let bus = free_port().to_string();
        let flags = ["--cluster-enabled", "yes", "--cluster-port", &bus];
        let fast = ["--cluster-node-timeout", "1500", "--repl-diskless-sync-delay", "0"];
        Setup::flags(&[flags.as_slice(), &fast].concat()).with_tls(authority)
    };
    Redis::start_as(setup).await
}

async fn meet(one: &Redis, other: &Redis) {
    let bus = other.setup().flags[3].clone();
    let command = ["CLUSTER", "MEET", "127.0.0.1", &other.public_port().to_string(), &bus];
    assert_eq!(one.call(&command).await, Reply::text("OK"));
}

async fn until_whole(server: &Redis, members: usize) {
    let known = format!("cluster_known_nodes:{members}");
    within("the cluster to be whole", async {
        loop {
            let Reply::Bytes(info) = server.call(&["CLUSTER", "INFO"]).await else { panic!() };
            let info = String::from_utf8(info).unwrap();
            if info.contains("cluster_state:ok") && info.contains(&known) {
                return;
            }
            tokio::time::sleep(POLL).await;
        }
    })
    .await;
}

async fn info(server: &Redis) -> String {
    let Reply::Bytes(info) = server.call(&["INFO", "replication"]).await else { panic!() };
    String::from_utf8(info).unwrap()
}

// --- a bad network

/// Between the nodes and Redis.
pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    state: Arc<State>,
    _tasks: JoinSet<()>,
}

struct State {
    /// Of each direction, in milliseconds.
    delay: AtomicU64,
    /// What clients say on connections before this one comes so much later, in milliseconds.
    held: (AtomicU64, AtomicU64),
    /// What subscribes comes so much later, in milliseconds.
    subscribes: AtomicU64,
    accepted: AtomicU64,
    /// The oldest of those that are open.
    open: watch::Sender<BTreeSet<u64>>,
    /// Connections of another generation are cut.
    generation: watch::Sender<u64>,
    /// Nothing passes, and nobody is told.
    stalled: watch::Sender<bool>,
}

impl Proxy {
    pub(crate) async fn start(port: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State {
            delay: AtomicU64::new(0),
            held: (AtomicU64::new(0), AtomicU64::new(0)),
            subscribes: AtomicU64::new(0),
            open: watch::Sender::new(BTreeSet::new()),
            accepted: AtomicU64::new(0),
            generation: watch::Sender::new(0),
            stalled: watch::Sender::new(false),
        });
        let mut tasks = JoinSet::new();
        let shared = state.clone();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (client, _) = listener.accept().await.unwrap();
                let number = shared.accepted.fetch_add(1, Ordering::Relaxed);
                connections.spawn(pass(client, port, shared.clone(), number));
                while connections.try_join_next().is_some() {}
            }
        });
        Self { address, state, _tasks: tasks }
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://{}", self.address)
    }

    /// Of each direction.
    pub(crate) fn delay(&self, delay: Duration) {
        self.state.delay.store(delay.as_millis() as u64, Ordering::Relaxed);
    }

    /// What comes on the connections that there are is passed on so much later, also when they are closed;
    /// those that follow are fast. As a server that does not get to read an old connection.
    pub(crate) fn hold(&self, time: Duration) {
        self.state.held.1.store(time.as_millis() as u64, Ordering::Relaxed);
        self.state.held.0.store(self.accepted(), Ordering::Relaxed);
    }

    /// Who subscribes is late with that, and with what follows on the same connection.
    pub(crate) fn hold_subscriptions(&self, time: Duration) {
        self.state.subscribes.store(time.as_millis() as u64, Ordering::Relaxed);
    }

    /// Until those connections are closed and all that was on them has arrived.
    pub(crate) async fn until_released(&self) {
        let first = self.state.held.0.load(Ordering::Relaxed);
        let mut open = self.state.open.subscribe();
        let released = open.wait_for(|open| open.first().is_none_or(|number| *number >= first));
        within("the old connections to end", released).await.unwrap();
    }

    /// Ends all connections, with what is on its way.
    pub(crate) fn cut(&self) {
        self.state.generation.send_modify(|generation| *generation += 1);
    }

    /// Swallows everything from now on, or goes on.
    pub(crate) fn stall(&self, stalled: bool) {
        self.state.stalled.send_replace(stalled);
    }

    /// Connections that were ever made.
    pub(crate) fn accepted(&self) -> u64 {
        self.state.accepted.load(Ordering::Relaxed)
    }
}

async fn pass(client: TcpStream, port: u16, state: Arc<State>, number: u64) {
    let Ok(server) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await else { return };
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let mut generation = state.generation.subscribe();
    state.open.send_modify(|open| _ = open.insert(number));
    tokio::select! {
        () = one_way(from_client, to_server, &state, Some(number)) => {}
        () = one_way(from_server, to_client, &state, None) => {}
        _ = generation.changed() => {}
    }
    state.open.send_modify(|open| _ = open.remove(&number));
}

fn is_subscription(command: &[u8]) -> bool {
    command.windows(11).any(|word| word == b"\r\nSUBSCRIBE")
}

/// What is read is passed on after the delay, however much follows it. `held`: the connection's number.
async fn one_way(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    state: &State,
    held: Option<u64>,
) {
    let (sender, mut receiver) = mpsc::channel(1024);
    let reading = async move {
        let mut stalled = state.stalled.subscribe();
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(count @ 1..) = from.read(&mut buffer).await {
            if *stalled.borrow_and_update() {
                continue; // these bytes are gone
            }
            let is_held = held.is_some_and(|number| number < state.held.0.load(Ordering::Relaxed));
            let subscribes = held.is_some() && is_subscription(&buffer[..count]);
            let delay = match (is_held, subscribes) {
                (true, _) => &state.held.1,
                (_, true) => &state.subscribes,
                _ => &state.delay,
            };
            let delay = Duration::from_millis(delay.load(Ordering::Relaxed));
            let due = tokio::time::Instant::now() + delay;
            if sender.send((due, buffer[..count].to_vec())).await.is_err() {
                return;
            }
        }
    };
    let writing = async move {
        while let Some((due, bytes)) = receiver.recv().await {
            tokio::time::sleep_until(due).await;
            if to.write_all(&bytes).await.is_err() {
                return;
            }
        }
    };
    tokio::join!(reading, writing);
}
