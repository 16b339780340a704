//! Attacks that do not wait: as much of everything as goes.

use std::io::Write as _;
use std::sync::LazyLock;
use std::time::Duration;

use anyhow::Result;
use flate2::Compression;
use flate2::write::{DeflateEncoder, GzEncoder};
use rand::Rng as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};

use crate::client::{
    answer, frame, get, joined, open_polling, post, read_away, short, tcp, text, websocket,
    webtransport,
};
use crate::{Attack, Field};

pub(crate) const ATTACKS: &[Attack] = &[
    Attack {
        name: "connection-flood",
        title: "TCP connections, opened without a pause and held",
        unit: "connections",
        workers: 3000,
        work: |field| Box::pin(async move { connection(&field).await }),
    },
    Attack {
        name: "handshake-flood",
        title: "Sessions by polling, opened and left, one after the other",
        unit: "sessions",
        workers: 32,
        work: |field| Box::pin(async move { handshakes(&field).await }),
    },
    Attack {
        name: "abandoned-polls",
        title: "Polls that are begun, and the connection closed under them",
        unit: "polls",
        workers: 32,
        work: |field| Box::pin(async move { abandoned_poll(&field).await }),
    },
    Attack {
        name: "huge-frames",
        title: "Messages of 1 MB over WebSocket, and frames that announce 2^62 bytes",
        unit: "messages",
        workers: 32,
        work: |field| Box::pin(async move { huge(&field).await }),
    },
    Attack {
        name: "many-names",
        title: "Namespaces, boards (rooms) and event names that nobody knows",
        unit: "packets",
        workers: 32,
        work: |field| Box::pin(async move { names(&field).await }),
    },
    Attack {
        name: "ack-flood",
        title: "Events that want an answer, and answers that nobody asked for",
        unit: "packets",
        workers: 32,
        work: |field| Box::pin(async move { acks(&field).await }),
    },
    Attack {
        name: "packet-flood-websocket",
        title: "Small packets over WebSocket without a pause",
        unit: "packets",
        workers: 32,
        work: |field| Box::pin(async move { packets(&field).await }),
    },
    Attack {
        name: "packet-flood-polling",
        title: "POSTs of a thousand packets without a pause",
        unit: "POSTs",
        workers: 16,
        work: |field| Box::pin(async move { posts(&field).await }),
    },
    Attack {
        name: "packet-flood-webtransport",
        title: "Small packets over WebTransport without a pause",
        unit: "packets",
        workers: 16,
        work: |field| Box::pin(async move { stream_packets(&field).await }),
    },
    Attack {
        name: "compression-bombs",
        title: "gzip bodies and deflated frames that would be 200 times as long",
        unit: "bombs",
        workers: 32,
        work: |field| Box::pin(async move { bombs(&field).await }),
    },
    Attack {
        name: "junk-tcp",
        title: "Random bytes to the port, as bodies and as WebSocket frames",
        unit: "connections",
        workers: 48,
        work: |field| Box::pin(async move { junk(&field).await }),
    },
    Attack {
        name: "junk-webtransport",
        title: "Random bytes on WebTransport streams",
        unit: "streams",
        workers: 16,
        work: |field| Box::pin(async move { junk_stream(&field).await }),
    },
    Attack {
        name: "junk-udp",
        title: "Random datagrams, and ones that look like QUIC",
        unit: "datagrams",
        workers: 4,
        work: |field| Box::pin(async move { datagrams(&field).await }),
    },
];

async fn connection(field: &Field) -> Result<()> {
    let _stream = tcp(field, None).await?;
    field.done();
    // each is held for a moment, so that there are always new ones as well
    tokio::time::sleep(Duration::from_millis(rand::rng().random_range(500..4000))).await;
    Ok(())
}

async fn handshakes(field: &Field) -> Result<()> {
    let mut stream = tcp(field, None).await?;
    while field.is_on() {
        open_polling(&mut stream).await?;
        field.done();
    }
    Ok(())
}

async fn abandoned_poll(field: &Field) -> Result<()> {
    let mut stream = tcp(field, None).await?;
    let sid = open_polling(&mut stream).await?;
    stream.write_all(get(&format!("polling&sid={sid}")).as_bytes()).await?;
    field.done();
    Ok(())
}

async fn huge(field: &Field) -> Result<()> {
    let mut stream = joined(field, None).await?;
    let message = text(&format!("42[\"draw\",\"{}\"]", "x".repeat(999_000)));
    for _ in 0..8 {
        stream.write_all(&message).await?;
        field.done();
    }
    let endless = [&[0x82, 0xff][..], &(1u64 << 62).to_be_bytes(), &[0; 4]].concat();
    stream.write_all(&endless).await?;
    field.done();
    read_away(&mut stream).await.or(Ok(()))
}

/// Writes batches of packets, and reads what comes of them.
async fn pour(
    field: &Field,
    stream: TcpStream,
    mut batch: impl FnMut() -> (u64, Vec<u8>),
) -> Result<()> {
    let (mut read, mut write) = stream.into_split();
    let reading = read_away(&mut read);
    let writing = async {
        while field.is_on() {
            let (packets, bytes) = batch();
            write.write_all(&bytes).await?;
            field.done.fetch_add(packets, std::sync::atomic::Ordering::Relaxed);
            tokio::task::yield_now().await;
        }
        Ok(())
    };
    tokio::select! {
        result = reading => result,
        result = writing => result,
    }
}

const BATCH: u64 = 50;

async fn names(field: &Field) -> Result<()> {
    let stream = joined(field, None).await?;
    let name = || rand::rng().random_range(0..u64::MAX);
    pour(field, stream, move || {
        let mut bytes = Vec::new();
        for _ in 0..BATCH / 2 {
            bytes.extend(text(&format!("40/n{},{{\"board\":\"b{}\"}}", name(), name())));
            bytes.extend(text(&format!("42[\"event{}\",{{}}]", name())));
        }
        (BATCH, bytes)
    })
    .await
}

async fn acks(field: &Field) -> Result<()> {
    let stream = joined(field, None).await?;
    let mut id = 0;
    pour(field, stream, move || {
        let mut bytes = Vec::new();
        for _ in 0..BATCH / 2 {
            id += 1;
            // every other one with an id that was used before
            bytes.extend(text(&format!("42{}[\"rtt\"]", id / 2)));
            bytes.extend(text(&format!("43{id}[1]")));
        }
        (BATCH, bytes)
    })
    .await
}

async fn packets(field: &Field) -> Result<()> {
    let stream = joined(field, None).await?;
    let batch = text("42[\"cursor\",[1,2,\"red\"]]").repeat(BATCH as usize);
    pour(field, stream, move || (BATCH, batch.clone())).await
}

async fn posts(field: &Field) -> Result<()> {
    let mut stream = tcp(field, None).await?;
    let sid = open_polling(&mut stream).await?;
    stream.write_all(post(&sid, "40").as_bytes()).await?;
    answer(&mut stream).await?;
    let body = vec!["42[\"cursor\",[1,2,\"red\"]]"; 1000].join("\x1e");
    let request = post(&sid, &body);
    while field.is_on() {
        stream.write_all(request.as_bytes()).await?;
        if answer(&mut stream).await?.0 != 200 {
            anyhow::bail!("the session is gone");
        }
        field.done();
    }
    Ok(())
}

async fn stream_packets(field: &Field) -> Result<()> {
    let session = webtransport(field, None).await?;
    let (mut send, mut recv) = (session.send, session.recv);
    send.write_all(&[short("0"), short("40")].concat()).await?;
    let mut answers = Vec::new();
    // who talks before he is let in is put out
    while !answers.windows(3).any(|three| three == b"40{") {
        if answers.len() > 4096 || recv.read_buf(&mut answers).await? == 0 {
            anyhow::bail!("not let in");
        }
    }
    let batch = short("42[\"cursor\",[1,2,\"red\"]]").repeat(BATCH as usize);
    let reading = read_away(&mut recv);
    let writing = async {
        while field.is_on() {
            send.write_all(&batch).await?;
            field.done.fetch_add(BATCH, std::sync::atomic::Ordering::Relaxed);
            tokio::task::yield_now().await;
        }
        Ok(())
    };
    tokio::select! {
        result = reading => result,
        result = writing => result,
    }
}

/// What would be 20 MB, in gzip and as a deflate stream.
fn bomb_of(encoded: impl FnOnce(&[u8]) -> std::io::Result<Vec<u8>>) -> Vec<u8> {
    encoded(&vec![b'4'; 20 << 20]).expect("a Vec takes it all")
}

static GZIP: LazyLock<Vec<u8>> = LazyLock::new(|| {
    bomb_of(|bytes| {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(bytes)?;
        encoder.finish()
    })
});

static DEFLATED: LazyLock<Vec<u8>> = LazyLock::new(|| {
    bomb_of(|bytes| {
        let mut encoder = DeflateEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(bytes)?;
        encoder.finish()
    })
});

async fn bombs(field: &Field) -> Result<()> {
    while field.is_on() {
        let mut stream = tcp(field, None).await?;
        let sid = open_polling(&mut stream).await?;
        let length = GZIP.len();
        let head = post(&sid, "").replace(
            "Content-Length: 0",
            &format!("Content-Encoding: gzip\r\nContent-Length: {length}"),
        );
        stream.write_all(&[head.as_bytes(), GZIP.as_slice()].concat()).await?;
        answer(&mut stream).await?;
        field.done();
        let extension = "Sec-WebSocket-Extensions: permessage-deflate\r\n";
        let mut stream = websocket(field, None, None, extension).await?;
        stream.write_all(&frame(0xc1, &DEFLATED)).await?;
        field.done();
        let _ = read_away(&mut stream).await;
    }
    Ok(())
}

fn random_bytes(most: usize) -> Vec<u8> {
    let mut random = rand::rng();
    let length = random.random_range(1..most);
    (0..length).map(|_| random.random()).collect()
}

async fn junk(field: &Field) -> Result<()> {
    let which = rand::rng().random_range(0..3);
    field.done();
    let mut stream = match which {
        0 => tcp(field, None).await?,
        1 => joined(field, None).await?,
        _ => {
            let mut stream = tcp(field, None).await?;
            let sid = open_polling(&mut stream).await?;
            let head = post(&sid, "").replace("Content-Length: 0", "Content-Length: 400");
            stream.write_all(head.as_bytes()).await?;
            stream
        }
    };
    stream.write_all(&random_bytes(800)).await?;
    let reading = read_away(&mut stream);
    let _ = tokio::time::timeout(Duration::from_millis(100), reading).await;
    Ok(())
}

async fn junk_stream(field: &Field) -> Result<()> {
    let session = webtransport(field, None).await?;
    let (mut send, mut recv) = (session.send, session.recv);
    if rand::rng().random() {
        send.write_all(&short("0")).await?;
    }
    send.write_all(&random_bytes(800)).await?;
    field.done();
    let reading = read_away(&mut recv);
    let _ = tokio::time::timeout(Duration::from_millis(100), reading).await;
    Ok(())
}

async fn datagrams(field: &Field) -> Result<()> {
    let socket = UdpSocket::bind(field.source()).await?;
    socket.connect(field.server).await?;
    while field.is_on() {
        for _ in 0..20 {
            let mut bytes = random_bytes(1300);
            match rand::rng().random_range(0..4) {
                // an Initial of version 1 that is none
                0 => {
                    bytes.resize(1200, 0);
                    bytes[..6].copy_from_slice(&[0xc3, 0, 0, 0, 1, 8]);
                }
                // a version that nobody knows
                1 => {
                    bytes.resize(1200, 0);
                    bytes[..6].copy_from_slice(&[0xc3, 0x1a, 0x2a, 0x3a, 0x4a, 8]);
                }
                // a packet of a connection that there is not
                2 => bytes[0] = 0x41,
                _ => {}
            }
            // a closed port says so; nothing else can go wrong that matters
            let _ = socket.send(&bytes).await;
            field.done();
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    Ok(())
}
