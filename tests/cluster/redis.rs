//! A Redis of one test's own: started on a free port, and treated as badly as the test likes.

use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

use crate::support::within;

const BINARY: &str = "/usr/bin/redis-server";

/// One Redis. Ends with the test, its directory too.
pub(crate) struct Redis {
    port: u16,
    directory: PathBuf,
    keeps_data: bool,
    child: Child,
}

impl Redis {
    /// Without persistence.
    pub(crate) async fn start() -> Self {
        Self::start_with(false).await
    }

    /// With `keeps_data`, every write is in a file before it is answered.
    pub(crate) async fn start_with(keeps_data: bool) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!(
            "quicket-cluster-{}-{}",
            std::process::id(),
            COUNT.fetch_add(1, Ordering::Relaxed)
        );
        let directory = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&directory).unwrap();
        // another process may take the port before Redis does: then Redis ends, and the next one is tried
        for _ in 0..5 {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            let port = listener.local_addr().unwrap().port();
            drop(listener);
            let child = spawn(port, &directory, keeps_data);
            let mut redis = Self { port, directory: directory.clone(), keeps_data, child };
            if redis.answers().await {
                return redis;
            }
            redis.directory = PathBuf::new(); // the next one uses it
        }
        panic!("redis-server does not start");
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Waits until it answers; `false` if it ended.
    async fn answers(&mut self) -> bool {
        within("Redis to answer", async {
            loop {
                if let Some(mut connection) = Connection::open(self.port).await
                    && connection.try_call(&["PING"]).await == Some(Reply::text("PONG"))
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
        Connection::open(self.port).await.expect("Redis is there")
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
        self.child = spawn(self.port, &self.directory, self.keeps_data);
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

fn spawn(port: u16, directory: &PathBuf, keeps_data: bool) -> Child {
    let appendonly = if keeps_data { "yes" } else { "no" };
    Command::new(BINARY)
        .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", ""])
        .args(["--appendonly", appendonly, "--appendfsync", "always"])
        .current_dir(directory)
        .stdout(Stdio::null())
        .spawn()
        .unwrap_or_else(|error| {
            panic!("{BINARY}: {error}; these tests need Debian's package `redis-server`")
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
