//! The store of sessions as several nodes use it. (The scripts themselves run in tests with a real Redis.)

use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::mpsc;

use super::Redis;
use crate::cluster::history::At;
use crate::cluster::message::{Message, Reply, Request, Target};
use crate::cluster::redis::RedisBus;
use crate::cluster::session::{LetGo, Record, Written};
use crate::cluster::{Bus as _, Log, Replica, StreamId};
use crate::config::RedisConfig;
use crate::metrics::Metrics;
use crate::socketio::packet::Codec;

const TTL: Duration = Duration::from_secs(60);

/// A namespace without sockets.
struct Nobody;

impl Replica for Nobody {
    fn deliver(&self, _: &At, _: &Message) {}

    fn addresses(&self, _: &Target) -> bool {
        false
    }

    fn answer(&self, _: &Request, _: mpsc::UnboundedSender<Reply>) {}

    fn let_go(&self, _: &str) -> Option<LetGo> {
        None
    }
}

async fn node(redis: &Arc<Redis>, host: &str) -> (RedisBus, Arc<Nobody>, Arc<dyn Log>) {
    redis.wire(host, 1);
    let config = RedisConfig { url: Some(format!("redis://{host}:1")), ..RedisConfig::default() };
    let metrics = Arc::new(Metrics::new("0"));
    let bus = RedisBus::new(config, None, Codec::Json, metrics).unwrap();
    bus.started().await.unwrap();
    let replica = Arc::new(Nobody);
    let weak: Weak<Nobody> = Arc::downgrade(&replica);
    let log = bus.attach(&"/".into(), weak);
    (bus, replica, log)
}

fn record(log: &Arc<dyn Log>, room: &str) -> Record {
    let since = StreamId { ms: 1, seq: 0 };
    let span = crate::cluster::session::Span { room: room.to_owned().into(), since, until: None };
    Record {
        nsp: "/".into(),
        sid: "s".into(),
        pid: "p".into(),
        data: serde_json::json!({}),
        identity: None,
        start: StreamId::default(),
        at: Some(since.into()),
        rooms: vec![span],
        sent: None,
        early: Vec::new(),
        leftover: None,
        unsent: None,
        forgotten: StreamId::default(),
        is_last: false,
        by: log.name().clone(),
        written: None,
        taken: None,
        owner: log.name().clone(),
        generation: 1,
        stamp: None,
    }
}

#[tokio::test(start_paused = true)]
async fn a_record_that_was_written_since_is_not_taken() {
    let redis = Redis::new();
    let (_bus, _replica, owner) = node(&redis, "owner").await;
    let (_other_bus, _other_replica, other) = node(&redis, "other").await;
    let store = |room: &str| owner.sessions().store(record(&owner, room), TTL);
    assert_eq!(store("a").await, Ok(Written::Done));
    let old = other.sessions().load("p").await.unwrap().unwrap();
    assert_eq!(store("b").await, Ok(Written::Done));
    assert_eq!(other.sessions().take(&old, other.name(), "5-0".into()).await, Ok(Written::Fenced));
    let new = other.sessions().load("p").await.unwrap().unwrap();
    assert_eq!(*new.rooms[0].room, *"b");
    assert_eq!(other.sessions().take(&new, other.name(), "5-0".into()).await, Ok(Written::Done));
    assert_eq!(store("c").await, Ok(Written::Fenced), "it is the other's now");
    // what the client had when it was first taken since it was written
    let taken = owner.sessions().load("p").await.unwrap().unwrap();
    assert_eq!(
        (taken.taken.as_deref(), taken.written, taken.generation),
        (Some("5-0"), Some(1), 2)
    );
    assert_eq!(owner.sessions().take(&taken, owner.name(), "7-0".into()).await, Ok(Written::Done));
    let again = other.sessions().load("p").await.unwrap().unwrap();
    assert_eq!((again.taken.as_deref(), again.generation), (Some("5-0"), 3));
    assert_eq!(
        owner.sessions().store(Record { generation: 3, ..record(&owner, "c") }, TTL).await,
        Ok(Written::Done)
    );
    assert_eq!(other.sessions().load("p").await.unwrap().unwrap().taken, None);
}

#[tokio::test(start_paused = true)]
async fn who_does_not_know_that_a_session_ended_does_not_bring_it_back() {
    let redis = Redis::new();
    let (_bus, _replica, old) = node(&redis, "old").await;
    let (_other_bus, _other_replica, new) = node(&redis, "new").await;
    assert_eq!(old.sessions().store(record(&old, "a"), TTL).await, Ok(Written::Done));
    let loaded = new.sessions().load("p").await.unwrap().unwrap();
    assert_eq!(new.sessions().take(&loaded, new.name(), "5-0".into()).await, Ok(Written::Done));
    let taken = Record { generation: 2, ..record(&new, "a") };
    assert_eq!(new.sessions().remove(taken.clone(), TTL).await, Ok(Written::Done));
    assert_eq!(old.sessions().store(record(&old, "a"), TTL).await, Ok(Written::Fenced));
    assert_eq!(new.sessions().store(taken, TTL).await, Ok(Written::Fenced));
    assert_eq!(old.sessions().load("p").await, Ok(None));
    assert_eq!(old.sessions().take(&loaded, old.name(), "5-0".into()).await, Ok(Written::Fenced));
    tokio::time::sleep(TTL).await;
    let later = old.sessions().store(record(&old, "a"), TTL).await;
    assert_eq!(later, Ok(Written::Done), "nothing is kept for ever");
}

#[tokio::test(start_paused = true)]
async fn a_namespace_that_is_being_made_is_not_forgotten() {
    let redis = Redis::new();
    let (bus, _replica, _log) = node(&redis, "node").await;
    // as in `Arc::new_cyclic`: nobody can have it yet
    let log = bus.attach(&"/new".into(), Weak::<Nobody>::new());
    assert!(bus.0.forget_left().is_empty());
    drop(log);
    assert_eq!(bus.0.forget_left().len(), 1);
}
