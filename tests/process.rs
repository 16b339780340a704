//! The real binary: how it starts, what it answers, how it ends.

#![allow(clippy::unwrap_used, reason = "in a test that is how to fail")]

#[path = "process/log.rs"]
mod log;
#[path = "process/provider.rs"]
mod provider;
#[path = "process/secrets.rs"]
mod secrets;
#[path = "process/settings.rs"]
mod settings;
mod support;

use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use quicket::TransportKind::{self, Polling, WebSocket};
use serde_json::{Value, json};
use support::socketio::{Client, End, Received};
use support::{eventually, free_port, within};
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStderr, Command};

fn command(arguments: &[&str], environment: &[(&str, &str)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_quicket"));
    command.env_clear().env("LISTEN_ADDRESS", "127.0.0.1");
    command.envs(environment.iter().copied()).args(arguments);
    command.stdin(Stdio::null()).kill_on_drop(true);
    command
}

/// What a run that ends by itself says: its exit code, standard output and standard error.
async fn output(arguments: &[&str], environment: &[(&str, &str)]) -> (i32, String, String) {
    let output = within("the process", command(arguments, environment).output()).await.unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

/// As Linux numbers them.
const SIGINT: u32 = 2;
const SIGTERM: u32 = 15;

/// A process that serves.
struct Process {
    child: Child,
    log: Lines<BufReader<ChildStderr>>,
    address: SocketAddr,
}

impl Process {
    /// Starts it on a free port, which its log names.
    async fn start(arguments: &[&str], environment: &[(&str, &str)]) -> Self {
        let mut command = command(arguments, environment);
        if !environment.iter().any(|(name, _)| *name == "PORT") {
            command.env("PORT", "0");
        }
        Self::wait(command, 0).await
    }

    /// Until it answers, on its port for health if there is one.
    async fn wait(mut command: Command, admin: u16) -> Self {
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let log = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut process = Self { child, log, address: ([127, 0, 0, 1], 0).into() };
        let line = process.line("http://localhost:").await;
        let port = line.split("http://localhost:").nth(1).unwrap();
        let digits = port.find(|c: char| !c.is_ascii_digit()).unwrap_or(port.len());
        process.address.set_port(port[..digits].parse().unwrap());
        let mut health = process.address;
        if admin != 0 {
            health.set_port(admin);
        }
        let readyz = || get(health, "/readyz");
        // bound is not yet serving
        while readyz().await.0 != 200 {
            tokio::task::yield_now().await;
        }
        process
    }

    /// The next line of the log that contains `text`.
    async fn line(&mut self, text: &str) -> String {
        loop {
            let line = within(text, self.log.next_line()).await.unwrap();
            let line = line.unwrap_or_else(|| panic!("the log ended without {text}"));
            if line.contains(text) {
                return line;
            }
        }
    }

    async fn get(&self, path: &str) -> (u16, String) {
        get(self.address, path).await
    }

    /// `kill`, as people and Kubernetes use it.
    async fn signal(&self, name: &str) {
        let id = self.child.id().unwrap().to_string();
        let status = Command::new("kill").args([format!("-{name}"), id]).status().await;
        assert!(status.unwrap().success());
    }

    /// Ends it, and gives what it says until it has.
    async fn rest_of_the_log(&mut self) -> Vec<String> {
        self.signal("TERM").await;
        let mut lines = Vec::new();
        while let Some(line) = within("the end of the log", self.log.next_line()).await.unwrap() {
            lines.push(line);
        }
        assert!(self.ended().await.success());
        lines
    }

    async fn ended(&mut self) -> ExitStatus {
        within("the end of the process", self.child.wait()).await.unwrap()
    }
}

async fn get(address: SocketAddr, path: &str) -> (u16, String) {
    let answer = reqwest::get(format!("http://{address}{path}")).await.unwrap();
    (answer.status().as_u16(), answer.text().await.unwrap())
}

#[tokio::test]
async fn it_serves_the_whiteboard_and_says_how_it_is() {
    let process = Process::start(&[], &[]).await;
    for path in ["/healthz", "/readyz", "/acceptz"] {
        assert_eq!(process.get(path).await, (200, "ok\n".to_owned()), "{path}");
    }
    let (status, metrics) = process.get("/metrics").await;
    assert_eq!(status, 200);
    let version = env!("CARGO_PKG_VERSION");
    assert!(metrics.contains(&format!("quicket_build_info{{version=\"{version}\"}} 1")));
    assert!(metrics.ends_with("# EOF\n"));
    let (status, page) = process.get("/").await;
    let dist = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("frontend/dist/index.html");
    if status == 200 {
        assert!(page.contains("<script"), "{page}");
    } else {
        assert!(!dist.exists() || !cfg!(debug_assertions), "the page is built");
        assert_eq!(status, 404);
        assert!(page.contains("make frontend"), "{page}");
    }
    assert_eq!(process.get("/nothing").await.0, 404);
    // two people at one board, on different transports
    let mut anna = Client::open(process.address, TransportKind::WebTransport).await;
    let mut ben = Client::open(process.address, Polling).await;
    anna.join("/").await;
    ben.join("/").await;
    let author = until(&mut anna, "author").await;
    for client in [&mut anna, &mut ben] {
        let board = until(client, "board").await;
        assert_eq!(board["strokes"], json!([]));
    }
    let style = json!({ "c": "red", "w": 6, "k": 2 });
    anna.emit(json!(["draw", { "s": "1", "i": 0, "p": [0, 0, 10, 10], "style": style }])).await;
    let drawn = until(&mut ben, "draw").await;
    assert_eq!((&drawn["p"], &drawn["style"]), (&json!([0, 0, 10, 10]), &style));
    // whoever comes later, too
    let mut carl = Client::open(process.address, WebSocket).await;
    carl.join("/").await;
    let board = until(&mut carl, "board").await;
    assert_eq!(drawn["a"], author);
    assert_eq!(
        board["strokes"],
        json!([{ "a": author, "s": "1", "p": [0, 0, 10, 10], "style": style }])
    );
}

/// The argument of the next event of that name; counts and cursors come in between.
async fn until(client: &mut Client, name: &str) -> Value {
    loop {
        let mut event = client.event().await;
        if event[0] == name {
            return event[1].take();
        }
    }
}

#[tokio::test]
async fn a_port_in_use_is_a_clear_error() {
    let taken = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let address = taken.local_addr().unwrap();
    let port = address.port().to_string();
    let (code, _, stderr) = output(&[], &[("PORT", &port)]).await;
    assert_eq!(code, 1);
    assert!(stderr.contains(&format!("cannot listen on {address} (tcp)")), "{stderr}");
    drop(taken);
    // the TCP one of the same number stays free
    let mut ports = std::iter::repeat_with(free_port);
    let taken = ports.find_map(|port| UdpSocket::bind(("127.0.0.1", port)).ok()).unwrap();
    let address = taken.local_addr().unwrap();
    let port = address.port().to_string();
    let (code, _, stderr) = output(&[], &[("PORT", &port)]).await;
    assert_eq!(code, 1);
    assert!(stderr.contains(&format!("cannot listen on {address} (udp)")), "{stderr}");
    // without WebTransport nobody needs that port
    let environment = [("PORT", port.as_str()), ("TRANSPORTS", "polling,websocket")];
    let process = Process::start(&[], &environment).await;
    assert_eq!(process.address, address);
}

#[tokio::test]
async fn health_and_metrics_can_have_a_port_of_their_own() {
    let admin = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let mut command = command(&["--admin-port", &admin.port().to_string()], &[("PORT", "0")]);
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    let mut log = BufReader::new(child.stderr.take().unwrap()).lines();
    let line = within("the address", log.next_line()).await.unwrap().unwrap();
    let main = line.rsplit(':').next().unwrap().parse().unwrap();
    let main = SocketAddr::from(([127, 0, 0, 1], main));
    eventually("the admin port", || std::net::TcpStream::connect(admin).is_ok()).await;
    assert_eq!(get(admin, "/healthz").await.0, 200);
    assert_eq!(get(admin, "/metrics").await.0, 200);
    for path in ["/metrics", "/healthz", "/readyz", "/acceptz"] {
        assert_eq!(get(main, path).await.0, 404, "{path}");
    }
    assert_eq!(get(admin, "/socket.io/?EIO=4&transport=polling").await.0, 404);
}

/// A certificate for localhost, as files that are gone at the end.
struct CertificateFiles(std::path::PathBuf);

impl CertificateFiles {
    fn make(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("quicket-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let status = std::process::Command::new("openssl")
            .args([
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:P-256",
                "-nodes",
            ])
            .args([
                "-days",
                "9",
                "-subj",
                "/CN=localhost",
                "-addext",
                "subjectAltName=DNS:localhost",
                "-addext", // an authority's own certificate is no server's
                "basicConstraints=critical,CA:FALSE",
            ])
            .args(["-keyout", "key.pem", "-out", "cert.pem"])
            .current_dir(&folder)
            .output();
        assert!(status.unwrap().status.success());
        Self(folder)
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_owned()
    }
}

impl Drop for CertificateFiles {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[tokio::test]
async fn behind_a_proxy_that_ends_tls_the_certificate_is_for_quic_alone() {
    let files = CertificateFiles::make("behind-a-proxy");
    let (cert, key) = (files.path("cert.pem"), files.path("key.pem"));
    let environment = [
        ("TLS_CERT", cert.as_str()),
        ("TLS_KEY", key.as_str()),
        ("TLS_TCP", "false"),
        ("WEBTRANSPORT_PUBLIC_HOST", "quic.example.org"),
        ("ALLOWED_ORIGINS", "same-origin,https://board.example.org"),
        ("WEBTRANSPORT_PUBLIC_PORT", "443"),
    ];
    // its log says http, and its readiness is asked for without TLS
    let process = Process::start(&[], &environment).await;
    let (status, offer) = process.get("/webtransport.json").await;
    assert_eq!(status, 200);
    let offer: Value = serde_json::from_str(&offer).unwrap();
    let expected = json!({
        "host": "quic.example.org", "port": 443, "certificateHashes": [], "path": "/socket.io/",
    });
    assert_eq!(offer, expected, "the page verifies a chain, and dials where the balancer is");
}

#[tokio::test]
async fn a_proxy_can_learn_the_sid_from_the_first_answer() {
    let start = async |environment: &'static [(&'static str, &'static str)]| {
        let process = Process::start(&[], environment).await;
        let url = format!("http://{}/socket.io/?EIO=4&transport=polling", process.address);
        let open = reqwest::get(&url).await.unwrap();
        let header = |name: &str| Some(open.headers().get(name)?.to_str().unwrap().to_owned());
        let named = header("x-quicket-sid");
        let packet: Value = serde_json::from_str(&open.text().await.unwrap()[1..]).unwrap();
        let sid = packet["sid"].as_str().unwrap().to_owned();
        let next = reqwest::Client::new().post(format!("{url}&sid={sid}")).body("40").send().await;
        assert!(next.unwrap().headers().get("x-quicket-sid").is_none(), "only the first");
        (named, sid)
    };
    let (named, sid) = start(&[("SID_HEADER", "X-Quicket-Sid")]).await;
    assert_eq!(named, Some(sid));
    assert_eq!(start(&[]).await.0, None, "it is off, as in Node");
}

/// A client that has joined by polling, and does not poll; the address at which it would.
async fn poller(process: &Process) -> String {
    let url = format!("http://{}/socket.io/?EIO=4&transport=polling", process.address);
    let open = reqwest::get(&url).await.unwrap().text().await.unwrap();
    let open: Value = serde_json::from_str(&open[1..]).unwrap();
    let url = format!("{url}&sid={}", open["sid"].as_str().unwrap());
    let joined = reqwest::Client::new().post(&url).body("40").send().await.unwrap();
    assert_eq!(joined.status(), 200);
    url
}

#[tokio::test]
async fn bytes_that_wait_for_clients_are_counted_when_somebody_asks() {
    let process = Process::start(&[], &[]).await;
    let waiting = async || {
        let (_, metrics) = process.get("/metrics").await;
        let line = metrics.lines().find_map(|line| line.strip_prefix("quicket_outbox_bytes "));
        line.unwrap().parse::<usize>().unwrap()
    };
    // what is counted is not written yet, and may be for a moment after another client has heard of it
    let nothing = async || within("nothing waits", async { while waiting().await > 0 {} }).await;
    let mut anna = Client::open(process.address, WebSocket).await;
    anna.join("/").await;
    nothing().await;
    // a client that polls, but not now
    let url = poller(&process).await;
    let polled = async |event: &str| loop {
        let packets = reqwest::get(&url).await.unwrap().text().await.unwrap();
        if packets.contains(event) {
            return;
        }
    };
    // the last that the whiteboard has to say of its own accord
    within("both are at the board", polled(r#"["people",2]"#)).await;
    nothing().await;
    let stroke =
        json!({ "s": "s", "i": 0, "p": [1, 1, 2, 2], "style": { "c": "red", "w": 2, "k": 2 } });
    anna.emit(json!(["draw", stroke])).await;
    within("the stroke waits", async { while waiting().await == 0 {} }).await;
    within("the stroke", polled(r#"["draw","#)).await;
    nothing().await;
}

/// Starts it with this many file descriptors, and health on a port of its own.
async fn start_with_descriptors(limit: &str, admin: u16) -> Process {
    let shell = format!("ulimit -n {limit}; exec {}", env!("CARGO_BIN_EXE_quicket"));
    let mut command = Command::new("sh");
    command.args(["-c", &shell]).env_clear().env("LISTEN_ADDRESS", "127.0.0.1");
    command.env("PORT", "0").env("ADMIN_PORT", admin.to_string()).kill_on_drop(true);
    Process::wait(command, admin).await
}

#[tokio::test]
async fn connections_are_refused_in_order_before_file_descriptors_run_out() {
    let admin = free_port();
    let process = start_with_descriptors("96", admin).await;
    let health = SocketAddr::new(process.address.ip(), admin);
    let metric = async |name: &str| {
        let (_, metrics) = get(health, "/metrics").await;
        let line = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap().parse::<u64>().unwrap()
    };
    assert_eq!(metric("quicket_file_descriptors_soft_limit").await, 96);
    assert_eq!(metric("quicket_file_descriptors_hard_limit").await, 96);
    let mut client = Client::open(process.address, TransportKind::WebTransport).await;
    // More than there is room for, that ask nothing; they are accepted before whatever asks after them.
    let mut held = Vec::new();
    for _ in 0..100 {
        held.push(tokio::net::TcpStream::connect(process.address).await.unwrap());
    }
    let answer = within("a refusal", async {
        loop {
            match reqwest::get(format!("http://{}/", process.address)).await {
                Ok(answer) => break answer,
                // Those that were refused and ask nothing may be too many to answer yet another, for a moment.
                Err(_) => tokio::task::yield_now().await,
            }
        }
    })
    .await;
    assert_eq!(answer.status(), 503);
    // 12 of the 96 are kept back
    let open = metric("quicket_file_descriptors").await;
    assert!((84..96).contains(&open), "{open}");
    assert_eq!(answer.headers()["connection"], "close");
    assert!(metric("quicket_connections_refused_total").await >= 1);
    assert_eq!(get(health, "/healthz").await.0, 200, "health comes from the reserve");
    // sessions over QUIC need none
    client.join("/").await;
    drop(held);
    within("room again", async { while process.get("/").await.0 == 503 {} }).await;
}

#[tokio::test]
async fn the_soft_limit_is_raised_to_the_hard_one() {
    let admin = free_port();
    let process = start_with_descriptors("512; ulimit -S -n 128", admin).await;
    let health = SocketAddr::new(process.address.ip(), admin);
    let (_, metrics) = get(health, "/metrics").await;
    assert!(metrics.contains("quicket_file_descriptors_soft_limit 512\n"), "{metrics}");
}

/// Of a page of 2 MiB nothing goes back to the system while a byte of it is in use.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn it_takes_no_huge_pages() {
    let process = Process::start(&[], &[]).await;
    let pid = process.child.id().unwrap();
    let of = |file: &str| std::fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap();
    let status = of("status");
    assert!(status.contains("THP_enabled:\t0\n"), "{status}");
    // flags of a mapping: "hg" is the advice to use them
    let advised = of("smaps").lines().any(|line| {
        line.strip_prefix("VmFlags:").is_some_and(|flags| flags.split(' ').any(|flag| flag == "hg"))
    });
    assert!(!advised);
}

/// A rollout that is taken back ends pods that have just begun.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn signals_are_listened_for_before_anybody_knows_that_it_is_there() {
    let mut command = command(&[], &[("PORT", "0")]);
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    let mut log = BufReader::new(child.stderr.take().unwrap()).lines();
    within("the first line", log.next_line()).await.unwrap().unwrap();
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.id().unwrap())).unwrap();
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap();
    let caught = u64::from_str_radix(caught.trim(), 16).unwrap();
    for signal in [SIGTERM, SIGINT] {
        assert!(caught & (1 << (signal - 1)) != 0, "{signal}: {caught:x}");
    }
    child.kill().await.unwrap();
}

#[tokio::test]
async fn a_signal_ends_every_client_in_the_way_of_its_transport() {
    for signal in ["TERM", "INT"] {
        let mut process = Process::start(&[], &[]).await;
        let mut clients = Vec::new();
        for kind in TransportKind::ALL {
            let mut client = Client::open(process.address, kind).await;
            client.join("/").await;
            clients.push(tokio::spawn(async move {
                let end = client.end().await;
                (kind, end)
            }));
        }
        // the last one waits for its packet when the signal comes
        process.signal(signal).await;
        for client in clients {
            let (kind, (before, end)) = within("a client's end", client).await.unwrap();
            // the whiteboard's own events, as many as have come
            let is_event = |packet: &Received| matches!(packet, Received::Text(text) if text.starts_with("42["));
            let all = before.iter().all(is_event);
            assert!(all, "{kind}: no DISCONNECT, or clients would not come back: {before:?}");
            let expected = match kind {
                Polling => End::Packet,
                WebSocket | TransportKind::WebTransport => End::Code(1001),
            };
            assert_eq!(end, expected, "{kind}");
        }
        assert_eq!(process.ended().await.code(), Some(0));
    }
}

#[tokio::test]
async fn a_server_that_drains_says_so_and_a_second_signal_ends_it_at_once() {
    let mut process = Process::start(&["--shutdown-grace", "60s"], &[]).await;
    // a client that does not fetch its last packet keeps the server waiting
    let mut client = Client::open(process.address, Polling).await;
    client.join("/").await;
    process.signal("TERM").await;
    process.line("SIGTERM").await;
    // no new sessions; but a process that is failed for draining would lose its QUIC traffic
    while process.get("/acceptz").await.0 != 503 {
        tokio::task::yield_now().await;
    }
    // it says so while it still takes some
    let refuses = async || process.get("/metrics").await.1.contains("\nquicket_phase 2\n");
    within("sessions to be refused", async { while !refuses().await {} }).await;
    assert_eq!(process.get("/readyz").await.0, 200);
    assert_eq!(process.get("/healthz").await.0, 200);
    assert_eq!(process.get("/metrics").await.0, 200);
    let (status, _) = process.get("/socket.io/?EIO=4&transport=polling").await;
    assert_eq!(status, 503);
    let asked = Instant::now();
    process.signal("TERM").await;
    assert_eq!(process.ended().await.code(), Some(1));
    assert!(asked.elapsed() < Duration::from_secs(10), "not at once");
}

#[tokio::test]
async fn a_client_that_fetches_its_last_packet_late_ends_properly() {
    let mut process = Process::start(&[], &[]).await;
    let mut client = Client::open(process.address, Polling).await;
    client.join("/").await;
    process.signal("TERM").await;
    process.line("SIGTERM").await;
    client.ends_properly(1001).await;
    assert_eq!(process.ended().await.code(), Some(0));
}

#[tokio::test]
async fn the_grace_period_is_the_longest_that_an_end_can_take() {
    let mut process = Process::start(&["--shutdown-grace", "100ms"], &[]).await;
    let mut client = Client::open(process.address, Polling).await;
    client.join("/").await;
    process.signal("TERM").await;
    process.line("grace period").await;
    assert_eq!(process.ended().await.code(), Some(0), "a client that vanished is no failure");
}
