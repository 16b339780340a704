//! Clients that do not read: what each namespace does about them, and that memory stays flat.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use quicket::config::{Config, EngineConfig, OriginPolicy, RecoveryConfig, SocketIoConfig};
use quicket::{SlowReader, TransportKind};
use serde_json::{Value, json};

use crate::support::socketio::{Client, TestServer, config};
use crate::support::{on_every_transport, within};

on_every_transport!(
    the_newest_volatile_events_wait_for_a_client_that_reads_again,
    a_strict_namespace_gives_up_a_client_that_lags_and_recovery_repairs_it,
    memory_stays_flat_while_many_do_not_read,
    volatile_fan_out_costs_nobody_his_connection,
    what_a_full_connection_took_in_part_is_gone_on_with,
);

const OUTBOX: usize = 256 * 1024;
/// Clients that do not read.
const CROWD: usize = 8;

fn small() -> Config {
    let origins = OriginPolicy::Any;
    let engine = EngineConfig { outbox_bytes: OUTBOX, origins, ..EngineConfig::default() };
    Config { engine, ..config() }
}

fn padded(number: usize) -> Value {
    json!([number, "x".repeat(10_000)])
}

async fn crowd(server: &TestServer, kind: TransportKind) -> Vec<Client> {
    let mut clients = Vec::new();
    for _ in 0..CROWD {
        clients.push(server.joined(kind).await.0);
    }
    clients
}

async fn the_newest_volatile_events_wait_for_a_client_that_reads_again(kind: TransportKind) {
    let server = TestServer::start(small(), |server| {
        server.of("/").slow_reader(SlowReader::KeepNewestVolatile(3));
    })
    .await;
    let (mut client, socket) = server.joined(kind).await;
    let mut number = 0;
    while server.metric("volatile_dropped_total") < 20 {
        number += 1;
        socket.volatile().emit("at", &padded(number)).await.unwrap();
        // the session's task gets its turn to write
        tokio::task::yield_now().await;
    }
    socket.emit("last", &number).await.unwrap();
    let mut seen = Vec::new();
    loop {
        let event = client.event().await;
        if event[0] == "last" {
            break;
        }
        seen.push(usize::try_from(event[1][0].as_u64().unwrap()).unwrap());
    }
    assert!(seen.is_sorted(), "{seen:?}");
    assert!(seen.len() < number, "some were dropped");
    assert_eq!(seen[seen.len() - 3..], [number - 2, number - 1, number]);
}

async fn a_strict_namespace_gives_up_a_client_that_lags_and_recovery_repairs_it(
    kind: TransportKind,
) {
    const STRICT: usize = 64 * 1024;
    let recovery = RecoveryConfig {
        window: Duration::from_secs(60),
        max_events: 10_000,
        max_bytes: 32 << 20,
        history_bytes: 64 << 20,
        history_entries: 100_000,
        ..RecoveryConfig::default()
    };
    let mut config =
        Config { socketio: SocketIoConfig { recovery, ..SocketIoConfig::default() }, ..small() };
    config.engine.outbox_bytes = 32 << 20;
    let server = TestServer::start(config, |server| {
        server.of("/").slow_reader(SlowReader::Disconnect(STRICT));
    })
    .await;
    let mut client = server.client(kind).await;
    client.send("40").await;
    let answer = client.recv_text().await;
    let answer: Value = serde_json::from_str(&answer[2..]).unwrap();
    let nsp = server.server.of("/");
    let mut number = 0;
    let closed = "sessions_closed_total{reason=\"slow_consumer\"}";
    while server.metric(closed) == 0 {
        number += 1;
        assert!(number < 5_000, "nobody gave it up");
        nsp.emit("at", &padded(number)).await.unwrap();
        assert!(server.metric("outbox_bytes") <= STRICT as i64 + 11_000);
        tokio::task::yield_now().await;
    }
    nsp.emit("last", &number).await.unwrap();
    drop(client);
    // it has read nothing: all of it is sent again, in order, and does not count against it
    let mut again = server.client(kind).await;
    again.send(&format!("40{}", json!({ "pid": answer["pid"] }))).await;
    let next: Value = serde_json::from_str(&again.recv_text().await[2..]).unwrap();
    assert_eq!(next["sid"], answer["sid"]);
    for expected in 1..=number {
        assert_eq!(again.event().await[1][0], expected);
    }
    assert_eq!(again.event().await[0], "last");
    assert_eq!(server.metric(closed), 1);
}

/// Reads until the last event, and tells how many came, in order.
fn reader(mut client: Client, seen: Arc<AtomicUsize>) -> tokio::task::JoinHandle<usize> {
    tokio::spawn(async move {
        let mut count = 0;
        loop {
            let event = client.event().await;
            if event[0] == "last" {
                return count;
            }
            count += 1;
            assert_eq!(event[1][0], count, "in order, and each of them");
            seen.store(count, Ordering::Relaxed);
        }
    })
}

async fn memory_stays_flat_while_many_do_not_read(kind: TransportKind) {
    let server = TestServer::start(small(), |_| {}).await;
    let crowd = crowd(&server, kind).await;
    let (client, _) = server.joined(TransportKind::WebSocket).await;
    let seen = Arc::new(AtomicUsize::new(0));
    let mut reading = reader(client, seen.clone());
    let nsp = server.server.of("/");
    let (mut number, mut peak) = (0, 0);
    let closed = "sessions_closed_total{reason=\"slow_consumer\"}";
    while server.metric(closed) < CROWD as i64 {
        number += 1;
        nsp.emit("at", &padded(number)).await.unwrap();
        peak = peak.max(server.metric("outbox_bytes"));
        // the one that reads is let keep up
        while seen.load(Ordering::Relaxed) + 10 < number {
            tokio::task::yield_now().await;
        }
    }
    let bound = ((CROWD + 1) * OUTBOX) as i64;
    assert!(peak <= bound, "{peak} bytes of {bound}");
    assert_eq!(server.metric("sockets"), 1, "only the one that reads is left");
    nsp.emit("last", &()).await.unwrap();
    let count = within("the reader", &mut reading).await.unwrap();
    assert_eq!(count, number);
    server.until_metric("outbox_bytes", 0).await;
    drop(crowd);
}

async fn volatile_fan_out_costs_nobody_his_connection(kind: TransportKind) {
    let server = TestServer::start(small(), |_| {}).await;
    let crowd = crowd(&server, kind).await;
    let nsp = server.server.of("/");
    let mut peak = 0;
    let dropped = || server.metric("volatile_dropped_total");
    let mut number = 0;
    while dropped() < 200 * CROWD as i64 {
        number += 1;
        nsp.volatile().emit("at", &padded(number)).await.unwrap();
        peak = peak.max(server.metric("outbox_bytes"));
        tokio::task::yield_now().await;
    }
    let bound = (CROWD * OUTBOX) as i64;
    assert!(peak <= bound, "{peak} bytes of {bound}");
    assert_eq!(server.metric("sockets"), CROWD as i64);
    assert_eq!(server.metric("outbox_overflows_total"), 0);
    drop(crowd);
}

/// Frames of odd sizes against a connection that fills up again and again: the client, which takes a while
/// before it reads each few of them, gets every byte in its place.
async fn what_a_full_connection_took_in_part_is_gone_on_with(kind: TransportKind) {
    const EVENTS: usize = 1_500;
    let mut config = small();
    config.engine.outbox_bytes = 64 << 20;
    let server = TestServer::start(config, |_| {}).await;
    let (mut client, _socket) = server.joined(kind).await;
    let nsp = server.server.of("/");
    let size = |number: usize| 1 + number * 7_919 % 20_011;
    let mut next = 0;
    for number in 0..EVENTS {
        let text = "x".repeat(size(number));
        nsp.emit("at", &json!([number, text])).await.unwrap();
        tokio::task::yield_now().await;
        // behind by more and more, which no buffer of the system takes
        if number % 3 == 0 {
            assert_eq!(client.event().await[1], json!([next, "x".repeat(size(next))]));
            next += 1;
        }
    }
    for next in next..EVENTS {
        assert_eq!(client.event().await[1], json!([next, "x".repeat(size(next))]));
    }
}
