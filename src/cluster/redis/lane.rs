//! Connections for streams: one that appends, one that reads, each of one task.
//!
//! Every event passes them, so they have no task of their own as `fred`'s have, through which each command and
//! each answer would have to go: who asks writes to the socket itself, a transaction with one call, and reads the
//! answer. That is about half of what an event costs a node.

use std::collections::HashMap;
use std::io;
use std::pin::Pin;
use std::time::Duration;

use bytes::BytesMut;
use fred::error::{Error, ErrorKind};
use fred::types::Value;
use fred::types::config::{Config as ClientConfig, Server, TlsConnector};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep_until, timeout};

use super::feed::Fields;
use super::link::{COMMAND_TIMEOUT, SETUP_TIMEOUT, TCP_TIMEOUT};
#[cfg(test)]
use super::link::{Connection, connection};
use super::resp::{self, Scan};
#[cfg(test)]
use super::simulated::{Command, Port};
use crate::cluster::wire::StreamId;

/// Room for what the next read brings. (Less than that shows that there is no more for now.)
const READ_ROOM: usize = 16 << 10;
/// A buffer that has grown larger for one large batch is not kept.
const KEEP_ROOM: usize = 256 << 10;

/// A connection for streams, gone when it is dropped. After an error it is of no use any more, unless Redis
/// answered with it.
pub(super) enum Lane {
    Redis(Box<Direct>),
    #[cfg(test)]
    Simulated(Connection<Port>),
}

/// An entry for a stream, as the words of a command that follow the key.
fn entry(output: &mut Vec<u8>, fields: &Fields) {
    resp::word(output, "*");
    for (name, value) in fields {
        resp::word(output, name);
        resp::word(output, value.as_str());
    }
}

impl Lane {
    pub(super) async fn open(config: ClientConfig) -> Result<Self, Error> {
        #[cfg(test)]
        if let Some(dial) = super::simulated::dial(&config) {
            let (port, task) = dial.await?;
            return Ok(Self::Simulated(connection(port, task)));
        }
        Ok(Self::Redis(Box::new(Direct::open(&config).await?)))
    }

    pub(super) async fn client_info(&mut self) -> Result<String, Error> {
        let info = match self {
            Self::Redis(direct) => direct.ask(&["CLIENT", "INFO"]).await,
            #[cfg(test)]
            Self::Simulated(lane) => lane.ask(lane.ask_port(Command::ClientInfo)).await,
        };
        info?.convert()
    }

    pub(super) async fn xinfo(&mut self, key: &str) -> Result<HashMap<String, Value>, Error> {
        let info = match self {
            Self::Redis(direct) => direct.ask(&["XINFO", "STREAM", key]).await,
            #[cfg(test)]
            Self::Simulated(lane) => lane.ask(lane.ask_port(Command::XInfo(key.to_owned()))).await,
        };
        info?.convert()
    }

    /// Entries from `start` to `end`, written as Redis wants it.
    pub(super) async fn xrange(
        &mut self,
        key: &str,
        start: String,
        end: String,
        count: u64,
    ) -> Result<Value, Error> {
        match self {
            Self::Redis(direct) => {
                direct.ask(&["XRANGE", key, &start, &end, "COUNT", &count.to_string()]).await
            }
            #[cfg(test)]
            Self::Simulated(lane) => {
                let command = Command::XRange { key: key.to_owned(), start, end, count };
                lane.ask(lane.ask_port(command)).await
            }
        }
    }

    /// Entries behind `after`; `block`: how long Redis may wait for the first.
    pub(super) async fn xread(
        &mut self,
        key: &str,
        after: StreamId,
        count: u64,
        block: Option<Duration>,
    ) -> Result<Value, Error> {
        let (after, time) = (after.to_string(), COMMAND_TIMEOUT + block.unwrap_or_default());
        match self {
            Self::Redis(direct) => {
                let count = count.to_string();
                let block = block.map(|block| block.as_millis().to_string());
                let mut words = vec!["XREAD", "COUNT", &count];
                if let Some(block) = &block {
                    words.extend(["BLOCK", block]);
                }
                words.extend(["STREAMS", key, &after]);
                direct.ask_for(time, &words).await
            }
            #[cfg(test)]
            Self::Simulated(lane) => {
                let command = Command::XRead { key: key.to_owned(), after, count, block };
                lane.ask_for(time, lane.ask_port(command)).await
            }
        }
    }

    /// Appends one entry.
    pub(super) async fn xadd(&mut self, key: &str, fields: Fields) -> Result<(), Error> {
        match self {
            Self::Redis(direct) => {
                resp::begin(&mut direct.output, 3 + 2 * fields.len());
                resp::word(&mut direct.output, "XADD");
                resp::word(&mut direct.output, key);
                entry(&mut direct.output, &fields);
                direct.exchange(COMMAND_TIMEOUT, 1).await.map(drop)
            }
            #[cfg(test)]
            Self::Simulated(lane) => {
                let entries = vec![fields];
                let command = Command::XAdd { key: key.to_owned(), max: None, entries };
                lane.ask(lane.ask_port(command)).await.map(drop)
            }
        }
    }

    /// Appends entries, all or none, and gives their ids. The stream keeps about `max` entries.
    pub(super) async fn append(
        &mut self,
        key: &str,
        max: u64,
        entries: Vec<Fields>,
    ) -> Result<Value, Error> {
        match self {
            Self::Redis(direct) => direct.append(key, max, &entries).await,
            #[cfg(test)]
            Self::Simulated(lane) => {
                let command = Command::XAdd { key: key.to_owned(), max: Some(max), entries };
                lane.ask(lane.ask_port(command)).await
            }
        }
    }

    /// Waits until the connection is dead, while nothing is asked.
    pub(super) async fn ended(&mut self) -> Error {
        match self {
            Self::Redis(direct) => direct.ended().await,
            #[cfg(test)]
            Self::Simulated(lane) => lane.ended().await,
        }
    }
}

#[cfg(test)]
impl Connection<Port> {
    fn ask_port(&self, command: Command) -> impl Future<Output = Result<Value, Error>> + '_ {
        (**self).ask(command)
    }
}

/// What carries bytes: TCP, or TLS over it.
trait Carrier: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Carrier for T {}

pub(super) struct Direct {
    carrier: Box<dyn Carrier>,
    input: BytesMut,
    scan: Scan,
    output: Vec<u8>,
    /// Goes off at a deadline that may have been put off since: a timer for each command would cost more.
    alarm: Pin<Box<Sleep>>,
}

impl Direct {
    async fn open(config: &ClientConfig) -> Result<Self, Error> {
        let server = config.server.hosts().into_iter().next().ok_or_else(no_server)?;
        let carrier = timeout(TCP_TIMEOUT, carrier(&server, config)).await;
        let carrier = carrier.map_err(|_| late("Redis cannot be reached"))??;
        let mut direct = Self {
            carrier,
            input: BytesMut::new(),
            scan: Scan::default(),
            output: Vec::new(),
            alarm: Box::pin(sleep_until(Instant::now())),
        };
        if let Some(password) = &config.password {
            let mut words = vec!["AUTH"];
            words.extend(config.username.as_deref());
            words.push(password);
            direct.ask_for(SETUP_TIMEOUT, &words).await?;
        }
        if let Some(database) = config.database.filter(|database| *database != 0) {
            direct.ask_for(SETUP_TIMEOUT, &["SELECT", &database.to_string()]).await?;
        }
        Ok(direct)
    }

    async fn ask(&mut self, words: &[&str]) -> Result<Value, Error> {
        self.ask_for(COMMAND_TIMEOUT, words).await
    }

    async fn ask_for(&mut self, time: Duration, words: &[&str]) -> Result<Value, Error> {
        resp::command(&mut self.output, words);
        self.exchange(time, 1).await
    }

    /// One command is all or nothing by itself; several are a transaction, written at once.
    async fn append(&mut self, key: &str, max: u64, entries: &[Fields]) -> Result<Value, Error> {
        let (max, output) = (max.to_string(), &mut self.output);
        let is_one = entries.len() == 1;
        if !is_one {
            resp::command(output, &["MULTI"]);
        }
        for fields in entries {
            resp::begin(output, 6 + 2 * fields.len());
            for word in ["XADD", key, "MAXLEN", "~", &max] {
                resp::word(output, word);
            }
            entry(output, fields);
        }
        if is_one {
            return Ok(Value::Array(vec![self.exchange(COMMAND_TIMEOUT, 1).await?]));
        }
        resp::command(output, &["EXEC"]);
        self.exchange(COMMAND_TIMEOUT, entries.len() + 2).await
    }

    /// Sends what was written and waits for so many replies. Gives the last, or the first that is an error.
    async fn exchange(&mut self, time: Duration, replies: usize) -> Result<Value, Error> {
        let deadline = Instant::now() + time;
        let Self { carrier, input, scan, output, alarm } = self;
        let exchange = async {
            carrier.write_all(output).await?;
            carrier.flush().await?;
            output.clear();
            output.shrink_to(KEEP_ROOM);
            let mut result = Ok(Value::Null);
            for at in 0..replies {
                let reply = resp::value(&reply(carrier, input, scan).await?);
                if at == 0 && replies > 1 {
                    reply.as_ref().map_err(no_transaction)?;
                }
                // all of them are read, so that the next answer is that of the next question
                result = result.and(reply);
            }
            result
        };
        tokio::select! {
            biased;
            result = exchange => result,
            () = over(alarm, deadline) => Err(late("Redis does not answer")),
        }
    }

    async fn ended(&mut self) -> Error {
        match self.carrier.read_buf(&mut self.input).await {
            Ok(0) => ended(),
            Ok(_) => Error::new(ErrorKind::Protocol, "Redis answers what was not asked"),
            Err(error) => error.into(),
        }
    }
}

async fn reply(
    carrier: &mut Box<dyn Carrier>,
    input: &mut BytesMut,
    scan: &mut Scan,
) -> Result<bytes::Bytes, Error> {
    loop {
        if let Some(end) = scan.end(input)? {
            let reply = input.split_to(end).freeze();
            if input.is_empty() && input.capacity() > KEEP_ROOM {
                *input = BytesMut::new();
            }
            return Ok(reply);
        }
        input.reserve(READ_ROOM);
        if carrier.read_buf(input).await? == 0 {
            return Err(ended());
        }
    }
}

/// Waits until `deadline`.
async fn over(alarm: &mut Pin<Box<Sleep>>, deadline: Instant) {
    if alarm.deadline() > deadline {
        alarm.as_mut().reset(deadline);
    }
    loop {
        alarm.as_mut().await;
        if alarm.deadline() >= deadline {
            return;
        }
        alarm.as_mut().reset(deadline);
    }
}

async fn carrier(server: &Server, config: &ClientConfig) -> Result<Box<dyn Carrier>, Error> {
    let socket = TcpStream::connect((&*server.host, server.port)).await?;
    socket.set_nodelay(true)?;
    let Some(tls) = &config.tls else { return Ok(Box::new(socket)) };
    let TlsConnector::Rustls(connector) = &tls.connector;
    // a server of which only the address is known may have a certificate for its name, as `fred` has it, too
    let name = server.tls_server_name.as_deref().unwrap_or(&server.host);
    let name = ServerName::try_from(name.to_owned())?;
    Ok(Box::new(connector.connect(name, socket).await?))
}

/// What followed was carried out for itself, or not: only the stream tells, on another connection.
fn no_transaction(error: &Error) -> Error {
    Error::new(ErrorKind::Protocol, format!("no transaction has begun: {}", error.details()))
}

fn no_server() -> Error {
    Error::new(ErrorKind::Config, "no server to connect to")
}

fn late(what: &'static str) -> Error {
    Error::new(ErrorKind::Timeout, what)
}

fn ended() -> Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "the connection to Redis ended").into()
}

#[cfg(test)]
mod tests {
    use fred::types::config::ServerConfig;
    use tokio::net::TcpListener;

    use super::*;

    /// A lane to a server that answers each piece that it is sent with the next of `answers`, and then ends.
    async fn lane(answers: &'static [&'static str]) -> Lane {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            let (mut socket, _) = listener.accept().await.unwrap();
            for answer in answers {
                assert_ne!(socket.read(&mut [0; 4096]).await.unwrap(), 0);
                socket.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        let server = ServerConfig::Centralized { server: Server::new("127.0.0.1", port) };
        Lane::open(ClientConfig { server, ..ClientConfig::default() }).await.unwrap()
    }

    fn entries(count: usize) -> Vec<Fields> {
        vec![vec![("q", "1".into())]; count]
    }

    #[tokio::test]
    async fn a_batch_is_one_piece_and_gives_the_ids() {
        let mut lane = lane(&[
            "$3\r\n5-0\r\n",
            "+OK\r\n+QUEUED\r\n+QUEUED\r\n*2\r\n$3\r\n6-0\r\n$3\r\n6-1\r\n",
        ])
        .await;
        for ids in [vec!["5-0"], vec!["6-0", "6-1"]] {
            let stored = lane.append("s", 10, entries(ids.len())).await.unwrap();
            assert_eq!(stored.convert::<Vec<String>>().unwrap(), ids);
        }
    }

    #[tokio::test]
    async fn a_refusal_says_why_and_the_next_answer_is_that_of_the_next_question() {
        let mut lane = lane(&[
            "+OK\r\n-OOM no\r\n+QUEUED\r\n-EXECABORT no\r\n",
            "-OOM no\r\n",
            "$3\r\n5-0\r\n",
        ])
        .await;
        for count in [2, 1] {
            let error = lane.append("s", 10, entries(count)).await.unwrap_err();
            assert_eq!(error.details(), "OOM no");
        }
        assert!(lane.append("s", 10, entries(1)).await.is_ok());
    }

    /// Then the entries may stand in the stream, and must not be taken for refused.
    #[tokio::test]
    async fn a_transaction_that_has_not_begun_is_no_refusal() {
        let mut lane = lane(&["-NOPERM no\r\n$3\r\n5-0\r\n$3\r\n5-1\r\n-ERR no\r\n"]).await;
        let error = lane.append("s", 10, entries(2)).await.unwrap_err();
        assert_eq!(error.details(), "no transaction has begun: NOPERM no");
    }

    #[tokio::test]
    async fn a_connection_that_ends_is_noticed_while_nothing_is_asked() {
        let mut idle = lane(&[]).await;
        assert_eq!(*idle.ended().await.kind(), ErrorKind::IO);
        let mut asked = lane(&["+OK\r\n"]).await;
        assert_eq!(*asked.append("s", 10, entries(2)).await.unwrap_err().kind(), ErrorKind::IO);
    }

    #[tokio::test(start_paused = true)]
    async fn a_redis_that_does_not_answer_is_given_up_in_time_each_time() {
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = silent.local_addr().unwrap().port();
        let socket = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        let mut direct = Direct {
            carrier: Box::new(socket),
            input: BytesMut::new(),
            scan: Scan::default(),
            output: Vec::new(),
            alarm: Box::pin(sleep_until(Instant::now())),
        };
        for seconds in [9, 4, 9] {
            let begun = Instant::now();
            let time = Duration::from_secs(seconds);
            let error = direct.ask_for(time, &["PING"]).await.unwrap_err();
            assert_eq!(*error.kind(), ErrorKind::Timeout);
            assert_eq!(begun.elapsed().as_secs(), seconds);
        }
    }
}
