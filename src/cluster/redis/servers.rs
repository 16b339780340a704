//! Which servers there are, and which of them has a key.
//!
//! We find them ourselves and connect to each as to a single server: then a connection is to one server for
//! all its life, and everything that happens to it (`MOVED`, a failover) ends the epoch instead of being
//! repaired, and repeated, behind our back.

use fred::error::{Error, ErrorKind};
use fred::types::Value;
use fred::types::config::{Server, ServerConfig};
use fred::util::redis_keyslot;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;

use super::access::Access;
use super::link::{Connection, connect_to};

/// The servers of one epoch. Two that are equal serve everything alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Servers {
    /// Of a cluster: the first and the last slot, and who has them.
    slots: Vec<(u16, u16, Server)>,
    /// Those that take writes.
    pub(super) primaries: Vec<Server>,
    /// Of a cluster: those that follow a primary. Peers may have subscribed there.
    pub(super) replicas: Vec<Server>,
}

impl Servers {
    fn one(server: Server) -> Self {
        Self { slots: Vec::new(), primaries: vec![server], replicas: Vec::new() }
    }

    /// Who has this key or channel.
    ///
    /// # Errors
    /// Nobody does: the cluster is not whole.
    pub(super) fn owner(&self, key: &str) -> Result<&Server, Error> {
        if self.slots.is_empty() {
            return self.primaries.first().ok_or_else(|| nobody("there is no server"));
        }
        let slot = redis_keyslot(key.as_bytes());
        let mut ranges = self.slots.iter();
        let range = ranges.find(|(first, last, _)| (*first..=*last).contains(&slot));
        let missing = || nobody(&format!("no server of the cluster has slot {slot} ({key})"));
        range.map(|(.., server)| server).ok_or_else(missing)
    }
}

fn nobody(what: &str) -> Error {
    Error::new(ErrorKind::Cluster, what.to_owned())
}

/// Asks who serves. `known`: servers of the last epoch, which may know although those of the URL are gone.
pub(super) async fn find(access: &Access, known: Option<&Servers>) -> Result<Servers, Error> {
    match access.server() {
        ServerConfig::Centralized { server } => Ok(Servers::one(server.clone())),
        ServerConfig::Sentinel { hosts, service_name, .. } => {
            find_master(access, hosts, service_name).await.map(Servers::one)
        }
        ServerConfig::Clustered { hosts, .. } => {
            let mut hosts = hosts.clone();
            for server in known.iter().flat_map(|known| known.primaries.iter()) {
                if !hosts.contains(server) {
                    hosts.push(server.clone());
                }
            }
            find_cluster(access, &hosts).await
        }
    }
}

/// Watches the servers of an epoch for as long as they stay the same.
pub(super) struct Watch {
    servers: Servers,
    /// Whom we ask; any other when it is gone.
    asked: Option<(Server, Connection)>,
}

impl Watch {
    pub(super) fn new(servers: Servers) -> Self {
        Self { servers, asked: None }
    }

    /// Is there anything that can change?
    pub(super) fn is_needed(access: &Access) -> bool {
        !matches!(access.server(), ServerConfig::Centralized { .. })
    }

    /// Asks once more.
    ///
    /// # Errors
    /// Others serve now. That nobody could be asked is none.
    pub(super) async fn look(&mut self, access: &Access) -> Result<(), Error> {
        let answer = match &self.asked {
            Some((server, connection)) => ask(access, server, connection).await,
            None => {
                self.ask_anyone(access).await;
                return Ok(());
            }
        };
        let Ok(servers) = answer else {
            self.asked = None;
            return Ok(());
        };
        // whom one Sentinel names may be out of date: nothing ends before somebody says that he is it
        if servers != self.servers && find(access, Some(&self.servers)).await? != self.servers {
            return Err(Error::new(ErrorKind::Cluster, "other servers serve now"));
        }
        Ok(())
    }

    async fn ask_anyone(&mut self, access: &Access) {
        let sentinels = matches!(access.server(), ServerConfig::Sentinel { .. });
        let hosts = match sentinels {
            true => access.server().hosts(),
            false => self.servers.primaries.clone(),
        };
        let mut connecting: FuturesUnordered<_> = hosts
            .into_iter()
            .map(|host| async move {
                let config = match sentinels {
                    true => access.to_sentinel(&host),
                    false => access.to_server(&host),
                };
                connect_to(config).await.map(|connection| (host, connection))
            })
            .collect();
        while let Some(result) = connecting.next().await {
            if let Ok(asked) = result {
                self.asked = Some(asked);
                return;
            }
        }
    }
}

async fn ask(access: &Access, server: &Server, connection: &Connection) -> Result<Servers, Error> {
    match access.server() {
        ServerConfig::Sentinel { service_name, .. } => {
            master_of(connection, service_name).await.map(Servers::one)
        }
        _ => slots_of(connection, server).await,
    }
}

async fn command(connection: &Connection, words: &[&str]) -> Result<Value, Error> {
    connection.ask(connection.custom(words)).await
}

// --- Sentinel

/// The first master that a Sentinel names and that says itself that it is one.
async fn find_master(access: &Access, hosts: &[Server], service: &str) -> Result<Server, Error> {
    let mut asking: FuturesUnordered<_> = hosts
        .iter()
        .map(|host| async move {
            let asked = async {
                let sentinel = connect_to(access.to_sentinel(host)).await?;
                master_of(&sentinel, service).await
            };
            (host, asked.await)
        })
        .collect();
    let (mut found, mut errors, mut kind) = (Vec::new(), Vec::new(), ErrorKind::Sentinel);
    while let Some((sentinel, answer)) = asking.next().await {
        match answer {
            Ok(server) if found.contains(&server) => {}
            Ok(server) => match is_master(access, &server).await {
                Ok(()) => return Ok(server),
                Err(error) => {
                    worse(&mut kind, &error);
                    errors.push(format!("{server}: {}", error.details()));
                    found.push(server);
                }
            },
            Err(error) => {
                worse(&mut kind, &error);
                errors.push(format!("Sentinel {sentinel}: {}", error.details()));
            }
        }
    }
    Err(Error::new(kind, errors.join("; ")))
}

/// What all failed for: a refusal says more than that another one is not there.
fn worse(kind: &mut ErrorKind, error: &Error) {
    if matches!(error.kind(), ErrorKind::Auth | ErrorKind::Tls) {
        *kind = error.kind().clone();
    }
}

async fn master_of(sentinel: &Connection, service: &str) -> Result<Server, Error> {
    let answer = command(sentinel, &["SENTINEL", "GET-MASTER-ADDR-BY-NAME", service]).await?;
    match answer {
        Value::Array(parts) => match <[Value; 2]>::try_from(parts) {
            Ok([host, port]) => server(&host, &port),
            Err(_) => None,
        }
        .ok_or_else(|| nobody("it names no address")),
        _ => Err(nobody(&format!("it knows no master {service:?}"))),
    }
}

fn server(host: &Value, port: &Value) -> Option<Server> {
    let port = port.as_string()?.parse().ok()?;
    Some(Server::new(host.as_string()?, port))
}

async fn is_master(access: &Access, server: &Server) -> Result<(), Error> {
    let connection = connect_to(access.to_server(server)).await?;
    let Value::Array(parts) = command(&connection, &["ROLE"]).await? else {
        return Err(nobody("it does not tell its role"));
    };
    match parts.first().and_then(Value::as_str).as_deref() {
        Some("master") => Ok(()),
        role => Err(nobody(&format!("it is no master but {}", role.unwrap_or("nothing")))),
    }
}

// --- Cluster

/// What the first one says that answers.
async fn find_cluster(access: &Access, hosts: &[Server]) -> Result<Servers, Error> {
    let mut asking: FuturesUnordered<_> = hosts
        .iter()
        .map(|host| async move {
            let asked = async {
                let connection = connect_to(access.to_server(host)).await?;
                slots_of(&connection, host).await
            };
            (host, asked.await)
        })
        .collect();
    let (mut kind, mut errors) = (ErrorKind::Cluster, Vec::new());
    while let Some((host, answer)) = asking.next().await {
        match answer {
            Ok(servers) => return Ok(servers),
            Err(error) => {
                worse(&mut kind, &error);
                errors.push(format!("{host}: {}", error.details()));
            }
        }
    }
    Err(Error::new(kind, errors.join("; ")))
}

async fn slots_of(connection: &Connection, asked: &Server) -> Result<Servers, Error> {
    let answer = command(connection, &["CLUSTER", "SLOTS"]).await?;
    parse_slots(answer, asked).ok_or_else(|| nobody("not the answer of CLUSTER SLOTS"))
}

/// `[[first, last, primary, replica...]...]`, each server `[host, port, id, metadata]`.
fn parse_slots(answer: Value, asked: &Server) -> Option<Servers> {
    let Value::Array(ranges) = answer else { return None };
    let mut servers = Servers { slots: Vec::new(), primaries: Vec::new(), replicas: Vec::new() };
    for range in ranges {
        let Value::Array(parts) = range else { return None };
        let [first, last, primary, replicas @ ..] = parts.as_slice() else { return None };
        let slot = |value: &Value| value.as_u64().and_then(|slot| u16::try_from(slot).ok());
        let primary = parse_server(primary, asked)?;
        servers.slots.push((slot(first)?, slot(last)?, primary.clone()));
        servers.primaries.push(primary);
        for replica in replicas {
            servers.replicas.push(parse_server(replica, asked)?);
        }
    }
    servers.slots.sort();
    for list in [&mut servers.primaries, &mut servers.replicas] {
        list.sort();
        list.dedup();
    }
    (!servers.slots.is_empty()).then_some(servers)
}

/// Without a host it is the one that we have reached it by. Where addresses are preferred, the name for TLS is
/// in the metadata.
fn parse_server(value: &Value, asked: &Server) -> Option<Server> {
    let Value::Array(parts) = value else { return None };
    let host = parts.first()?.as_string().filter(|host| !host.is_empty());
    if host.as_deref() == Some("?") {
        return None; // names are preferred, and it has none
    }
    let port = u16::try_from(parts.get(1)?.as_u64()?).ok()?;
    let mut server = Server::new(host.unwrap_or_else(|| asked.host.to_string()), port);
    if let Some(Value::Array(metadata)) = parts.get(3) {
        let mut pairs = metadata.chunks_exact(2);
        let name = pairs.find(|pair| pair[0].as_str().as_deref() == Some("hostname"));
        server.tls_server_name = name.and_then(|pair| pair[1].as_string()).map(Into::into);
    }
    Some(server)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(parts: Vec<Value>) -> Value {
        Value::Array(parts)
    }

    fn node(host: Value, port: i64) -> Value {
        list(vec![host, port.into(), "id".into(), list(Vec::new())])
    }

    fn asked() -> Server {
        Server::new("seed", 1)
    }

    #[test]
    fn slots_have_owners_and_a_server_without_a_host_is_the_one_that_was_asked() {
        let answer = list(vec![
            list(vec![8000.into(), 16383.into(), node("b".into(), 2)]),
            list(vec![0.into(), 7999.into(), node(Value::Null, 3), node("c".into(), 4)]),
        ]);
        let servers = parse_slots(answer, &asked()).unwrap();
        assert_eq!(redis_keyslot(b"{socket.io}x"), redis_keyslot(b"socket.io"), "hash tags");
        let slot = redis_keyslot(b"socket.io");
        let expected = if slot < 8000 { "seed:3" } else { "b:2" };
        assert_eq!(servers.owner("socket.io").unwrap().to_string(), expected);
        let names = |list: &[Server]| list.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(names(&servers.primaries), ["b:2", "seed:3"]);
        assert_eq!(names(&servers.replicas), ["c:4"]);
    }

    #[test]
    fn a_cluster_that_is_not_whole_says_which_slot_it_lacks() {
        let slot = i64::from(redis_keyslot(b"socket.io"));
        let others = list(vec![(slot + 1).into(), 16383.into(), node("b".into(), 2)]);
        let servers = parse_slots(list(vec![others]), &asked()).unwrap();
        let error = servers.owner("socket.io").unwrap_err();
        assert!(error.details().contains(&slot.to_string()), "{error}");
    }

    #[test]
    fn the_name_for_tls_is_taken_from_the_metadata() {
        let metadata = list(vec!["hostname".into(), "redis-0.example".into()]);
        let node = list(vec!["10.0.0.1".into(), 7.into(), "id".into(), metadata]);
        let server = parse_server(&node, &asked()).unwrap();
        assert_eq!(server.tls_server_name.as_deref(), Some("redis-0.example"));
    }

    #[test]
    fn nonsense_is_no_cluster() {
        for wrong in [Value::Null, list(Vec::new()), list(vec![1.into()]), list(vec![list(vec![])])]
        {
            assert!(parse_slots(wrong, &asked()).is_none());
        }
    }
}
