//! The servers as processes: started, measured through `/proc`, stopped.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

/// A server under measurement; ends with its owner if that started it.
pub(crate) struct Server {
    child: Option<Child>,
    /// Whose CPU time and memory are read, if known.
    pid: Option<u32>,
    pub(crate) address: SocketAddr,
}

impl Server {
    /// Starts a program that prints `listening on ADDRESS` when it does.
    pub(crate) fn start(program: &Path, args: &[String]) -> Result<Self> {
        let mut command = Command::new(program);
        // what this shell has set must not configure a server
        for name in ["PORT", "REDIS_URL", "REDIS_PASSWORD", "LOG_FILTER"] {
            command.env_remove(name);
        }
        let child = command.args(args).stdout(Stdio::piped()).spawn();
        let mut child = child.with_context(|| format!("cannot start {}", program.display()))?;
        let stdout = child.stdout.take().context("stdout was piped")?;
        let (pid, nowhere) = (Some(child.id()), SocketAddr::from(([0, 0, 0, 0], 0)));
        let mut server = Self { child: Some(child), pid, address: nowhere };
        for line in BufReader::new(stdout).lines() {
            if let Some(address) = line?.strip_prefix("listening on ") {
                let port = address.rsplit(':').next().unwrap_or_default().parse()?;
                server.address = SocketAddr::from(([127, 0, 0, 1], port));
                return Ok(server);
            }
        }
        bail!("{} has ended before it listened", program.display())
    }

    /// One that somebody else has started.
    pub(crate) fn given(address: SocketAddr, pid: Option<u32>) -> Self {
        Self { child: None, pid, address }
    }

    /// Nothing at all of a server whose process is not known.
    pub(crate) fn usage(&self) -> Result<Usage> {
        self.pid.map_or_else(|| Ok(Usage::default()), usage)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            child.kill().ok();
            child.wait().ok();
        }
    }
}

/// What a process has used.
#[derive(Clone, Debug, Default)]
pub(crate) struct Usage {
    /// CPU time by the process's own account, which knows threads that have ended, in 10 ms.
    ticks: Duration,
    /// CPU time of each thread, exact: number and nanoseconds.
    threads: Vec<(u32, u64)>,
    /// Resident memory, in bytes.
    pub(crate) resident: u64,
}

impl Usage {
    /// CPU time since `before`.
    pub(crate) fn cpu_since(&self, before: &Self) -> Duration {
        let ended = before.threads.iter().any(|(id, _)| !self.threads.iter().any(|(t, _)| t == id));
        if ended {
            return self.ticks.saturating_sub(before.ticks);
        }
        let sum = |usage: &Self| usage.threads.iter().map(|(_, ns)| ns).sum::<u64>();
        Duration::from_nanos(sum(self).saturating_sub(sum(before)))
    }
}

/// Reads what process `pid` has used.
pub(crate) fn usage(pid: u32) -> Result<Usage> {
    let root = PathBuf::from(format!("/proc/{pid}"));
    let stat = fs::read_to_string(root.join("stat")).context("the server has ended")?;
    // behind the name, which may hold anything: utime and stime are fields 14 and 15
    let fields: Vec<&str> = stat[stat.rfind(')').unwrap_or(0)..].split(' ').collect();
    let ticks: u64 = fields[12].parse::<u64>()? + fields[13].parse::<u64>()?;
    let mut threads = Vec::new();
    for entry in fs::read_dir(root.join("task"))? {
        let path = entry?.path();
        let id = path.file_name().and_then(|name| name.to_str()?.parse().ok());
        // a thread may end under our hands
        let Ok(schedstat) = fs::read_to_string(path.join("schedstat")) else { continue };
        let ns = schedstat.split(' ').next().unwrap_or_default().parse()?;
        threads.push((id.unwrap_or(0), ns));
    }
    let status = fs::read_to_string(root.join("status"))?;
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let resident = resident.and_then(|rest| rest.trim().split(' ').next()?.parse::<u64>().ok());
    const TICK: Duration = Duration::from_millis(10);
    Ok(Usage {
        ticks: TICK * u32::try_from(ticks)?,
        threads,
        resident: resident.unwrap_or(0) * 1024,
    })
}

/// A Redis of our own on a free port, which keeps nothing on disk.
pub(crate) struct Redis {
    child: Child,
    port: u16,
}

impl Redis {
    pub(crate) fn start() -> Result<Self> {
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let child = Command::new("redis-server")
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", ""])
            .args(["--appendonly", "no", "--logfile", "/dev/null", "--dir", "/tmp"])
            .stdout(Stdio::null())
            .spawn()
            .context("redis-server is missing: install Debian's package")?;
        let redis = Self { child, port };
        let deadline = Instant::now() + Duration::from_secs(10);
        while redis.command("PING").is_err() {
            if Instant::now() > deadline {
                bail!("Redis does not answer on port {port}");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(redis)
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    pub(crate) fn usage(&self) -> Result<Usage> {
        usage(self.child.id())
    }

    /// Forgets everything.
    pub(crate) fn flush(&self) -> Result<()> {
        self.command("FLUSHALL").map(drop)
    }

    /// The first line of the answer to an inline command.
    pub(crate) fn command(&self, command: &str) -> Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        write!(stream, "{command}\r\n")?;
        let mut answer = [0; 512];
        let n = stream.read(&mut answer)?;
        let answer = String::from_utf8_lossy(&answer[..n]).into_owned();
        if answer.starts_with('-') {
            bail!("Redis: {answer}");
        }
        Ok(answer)
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
