//! The plain WebTransport fan-out: what one writes with `wtransport` in an afternoon. For each session a
//! task, a channel and a `write`; no limits, no heartbeat. A yardstick only.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use quicket_bench_peers::{frame, framed};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use wtransport::endpoint::IncomingSession;
use wtransport::{Endpoint, Identity, RecvStream, SendStream, ServerConfig};

type Peers = Arc<Mutex<HashMap<usize, UnboundedSender<Bytes>>>>;

static NEXT: AtomicUsize = AtomicUsize::new(0);

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let config = ServerConfig::builder()
        .with_bind_address("127.0.0.1:0".parse()?)
        .with_identity(Identity::self_signed(["localhost", "127.0.0.1"])?)
        .build();
    let endpoint = Endpoint::server(config)?;
    println!("listening on {}", endpoint.local_addr()?);
    let peers = Peers::default();
    loop {
        tokio::spawn(serve(endpoint.accept().await, peers.clone()));
    }
}

async fn serve(incoming: IncomingSession, peers: Peers) -> anyhow::Result<()> {
    let connection = incoming.await?.accept().await?;
    let (send, recv) = connection.accept_bi().await?;
    let at = NEXT.fetch_add(1, Ordering::Relaxed);
    let (sender, receiver) = unbounded_channel();
    tokio::spawn(write(send, receiver));
    let result = read(recv, at, &sender, &peers).await;
    peers.lock().expect("nobody panics with the lock").remove(&at);
    drop(connection);
    result
}

async fn write(mut send: SendStream, mut receiver: UnboundedReceiver<Bytes>) -> anyhow::Result<()> {
    while let Some(frame) = receiver.recv().await {
        send.write_all(&frame).await?;
    }
    Ok(())
}

async fn read(
    mut recv: RecvStream,
    at: usize,
    own: &UnboundedSender<Bytes>,
    peers: &Peers,
) -> anyhow::Result<()> {
    let mut partial = Vec::new();
    let mut buffer = vec![0; 64 * 1024];
    while let Some(n) = recv.read(&mut buffer).await? {
        partial.extend_from_slice(&buffer[..n]);
        let mut done = 0;
        while let Some((payload, len)) = frame(&partial[done..]) {
            done += len;
            match payload {
                [b'0'] => own.send(framed(
                    b"0{\"sid\":\"plain\",\"upgrades\":[],\"pingInterval\":3000000,\
                      \"pingTimeout\":3000000,\"maxPayload\":4000000}",
                ))?,
                [b'4', b'0', ..] => {
                    own.send(framed(format!("40{{\"sid\":\"{at}\"}}").as_bytes()))?;
                    let mut peers = peers.lock().expect("nobody panics with the lock");
                    peers.insert(at, own.clone());
                }
                [b'4', b'2', ..] => {
                    let out = framed(payload);
                    let peers = peers.lock().expect("nobody panics with the lock");
                    for peer in peers.iter().filter(|(id, _)| **id != at) {
                        peer.1.send(out.clone()).ok();
                    }
                }
                _ => {}
            }
        }
        partial.drain(..done);
    }
    Ok(())
}
