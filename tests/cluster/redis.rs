//! A Redis of one test's own: started on a free port, and treated as badly as the test likes.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

use crate::support::{free_port, within};

/// How one is started.
#[derive(Clone)]
pub(crate) struct Setup {
    pub(crate) binary: PathBuf,
    /// What stands behind the program's name, before the flags.
    pub(crate) mode: Vec<String>,
    /// With it every write is in a file before it is answered.
    pub(crate) keeps_data: bool,
    pub(crate) flags: Vec<String>,
    /// Where it speaks TLS, if it does.
    pub(crate) tls_port: Option<u16>,
    /// For the connections of the test itself.
    pub(crate) password: Option<&'static str>,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            binary: "/usr/bin/redis-server".into(),
            mode: Vec::new(),
            keeps_data: false,
            flags: Vec::new(),
            tls_port: None,
            password: None,
        }
    }
}

impl Setup {
    pub(crate) fn flags(flags: &[&str]) -> Self {
        let flags = flags.iter().map(|flag| (*flag).to_owned()).collect();
        Self { flags, ..Self::default() }
    }
}

/// One Redis. Ends with the test, its directory too.
pub(crate) struct Redis {
    pub(crate) port: u16,
    directory: PathBuf,
    setup: Setup,
    child: Child,
}

/// A directory of a test's own.
pub(crate) fn directory() -> PathBuf {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let name = format!("quicket-cluster-{}-{count}", std::process::id());
    let directory = std::env::temp_dir().join(name);
    std::fs::create_dir_all(&directory).unwrap();
    directory
}

impl Redis {
    /// Without persistence.
    pub(crate) async fn start() -> Self {
        Self::start_as(Setup::default).await
    }

    /// Every write is in a file before it is answered.
    pub(crate) async fn start_with_data() -> Self {
        Self::start_as(|| Setup { keeps_data: true, ..Setup::default() }).await
    }

    /// `setup` may choose ports: it is asked again for each try.
    pub(crate) async fn start_as(setup: impl Fn() -> Setup) -> Self {
        let directory = directory();
        // another process may take a port before Redis does: then Redis ends, and the next one is tried
        for _ in 0..5 {
            let (port, setup) = (free_port(), setup());
            let child = spawn(port, &directory, &setup);
            let mut redis = Self { port, directory: directory.clone(), setup, child };
            if redis.answers().await {
                return redis;
            }
            redis.directory = PathBuf::new(); // the next one uses it
        }
        panic!("{} does not start", setup().binary.display());
    }

    pub(crate) fn setup(&self) -> &Setup {
        &self.setup
    }

    /// For nodes and other servers. (The test itself speaks no TLS.)
    pub(crate) fn public_port(&self) -> u16 {
        self.setup.tls_port.unwrap_or(self.port)
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Waits until it answers, not another that has the port; `false` if it ended.
    async fn answers(&mut self) -> bool {
        let own = format!("process_id:{}\r\n", self.child.id());
        within("Redis to answer", async {
            loop {
                if let Some(mut connection) = self.open().await
                    && connection.try_call(&["PING"]).await == Some(Reply::text("PONG"))
                    && let Some(Reply::Bytes(info)) = connection.try_call(&["INFO", "server"]).await
                    && String::from_utf8_lossy(&info).contains(&own)
                {
                    return true;
                }
                if self.child.try_wait().unwrap().is_some() {
                    return false;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await
    }

    pub(crate) async fn connect(&self) -> Connection {
        self.open().await.expect("Redis is there")
    }

    async fn open(&self) -> Option<Connection> {
        let mut connection = Connection::open(self.port).await?;
        if let Some(password) = self.setup.password {
            connection.try_call(&["AUTH", password]).await?;
        }
        Some(connection)
    }

    /// One command on a connection of its own.
    pub(crate) async fn call(&self, command: &[&str]) -> Reply {
        self.connect().await.call(command).await
    }

    /// Ends it as a power cut would.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// After [`Redis::kill`]: on the same port, with its data if it keeps any.
    pub(crate) async fn restart(&mut self) {
        self.child = spawn(self.port, &self.directory, &self.setup);
        assert!(self.answers().await, "Redis does not come back");
    }

    /// `STOP` makes it hang, `CONT` goes on.
    pub(crate) fn signal(&self, signal: &str) {
        let pid = self.child.id().to_string();
        let status = Command::new("kill").args([&format!("-{signal}"), &pid]).status();
        assert!(status.unwrap().success());
    }

    /// Connections, this one not counted.
    pub(crate) async fn connections(&self) -> usize {
        let Reply::Bytes(list) = self.call(&["CLIENT", "LIST"]).await else { panic!("no list") };
        String::from_utf8(list).unwrap().lines().count() - 1
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        // it may have ended already
        let _ = self.child.kill();
        let _ = self.child.wait();
        if !self.directory.as_os_str().is_empty() {
            let _ = std::fs::remove_dir_all(&self.directory);
        }
    }
}

fn spawn(port: u16, directory: &PathBuf, setup: &Setup) -> Child {
    let appendonly = if setup.keeps_data { "yes" } else { "no" };
    let mut command = Command::new(&setup.binary);
    command.args(&setup.mode).args(["--port", &port.to_string(), "--bind", "127.0.0.1"]);
    if setup.mode.is_empty() {
        command.args(["--save", "", "--appendonly", appendonly, "--appendfsync", "always"]);
    }
    let spawned = command.args(&setup.flags).current_dir(directory).stdout(Stdio::null()).spawn();
    spawned.unwrap_or_else(|error| {
        let binary = setup.binary.display();
        panic!("{binary}: {error}; `make setup` installs what these tests need")
    })
}

/// What Redis says.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Reply {
    Nil,
    Integer(i64),
    Bytes(Vec<u8>),
    Error(String),
    List(Vec<Self>),
}

impl Reply {
    pub(crate) fn text(text: &str) -> Self {
        Self::Bytes(text.as_bytes().to_vec())
    }
}

/// A connection that speaks RESP by hand.
pub(crate) struct Connection(BufReader<TcpStream>);

impl Connection {
    async fn open(port: u16) -> Option<Self> {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.ok()?;
        Some(Self(BufReader::new(stream)))
    }

    pub(crate) async fn call(&mut self, command: &[&str]) -> Reply {
        let parts: Vec<_> = command.iter().map(|part| part.as_bytes()).collect();
        self.call_bytes(&parts).await
    }

    pub(crate) async fn call_bytes(&mut self, command: &[&[u8]]) -> Reply {
        self.send(command).await.unwrap();
        self.next().await
    }

    async fn try_call(&mut self, command: &[&str]) -> Option<Reply> {
        let parts: Vec<_> = command.iter().map(|part| part.as_bytes()).collect();
        self.send(&parts).await.ok()?;
        self.read().await.ok()
    }

    async fn send(&mut self, command: &[&[u8]]) -> std::io::Result<()> {
        let mut bytes = format!("*{}\r\n", command.len()).into_bytes();
        for part in command {
            bytes.extend(format!("${}\r\n", part.len()).into_bytes());
            bytes.extend_from_slice(part);
            bytes.extend_from_slice(b"\r\n");
        }
        self.0.get_mut().write_all(&bytes).await
    }

    /// The next reply, or the next message of a subscription.
    pub(crate) async fn next(&mut self) -> Reply {
        within("a reply of Redis", self.read()).await.unwrap()
    }

    async fn read(&mut self) -> std::io::Result<Reply> {
        let mut line = String::new();
        if self.0.read_line(&mut line).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        let (kind, rest) = line.trim_end().split_at(1);
        let number = || rest.parse::<i64>().unwrap();
        Ok(match kind {
            "+" => Reply::text(rest),
            "-" => Reply::Error(rest.to_owned()),
            ":" => Reply::Integer(number()),
            "$" if number() < 0 => Reply::Nil,
            "$" => {
                let mut bytes = vec![0; number() as usize + 2];
                self.0.read_exact(&mut bytes).await?;
                bytes.truncate(bytes.len() - 2);
                Reply::Bytes(bytes)
            }
            "*" if number() < 0 => Reply::Nil,
            "*" => {
                let mut list = Vec::new();
                for _ in 0..number() {
                    list.push(Box::pin(self.read()).await?);
                }
                Reply::List(list)
            }
            other => panic!("no reply of Redis: {other}{rest}"),
        })
    }
}
