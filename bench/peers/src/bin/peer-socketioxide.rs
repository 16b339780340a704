//! The benchmark's application (`peer-quicket.rs`) on `socketioxide`, which has no WebTransport; values as in its own
//! whiteboard example.

use rmpv::Value;
use socketioxide::SocketIo;
use socketioxide::extract::{AckSender, Data, SocketRef};

/// Where `say` goes.
#[derive(Clone)]
struct Room(String);

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    // its own limits are lower than what the workload of large events sends
    let (layer, io) =
        SocketIo::builder().max_payload(4_000_000).max_buffer_size(4096).build_layer();
    io.ns("/", async |socket: SocketRef| {
        socket.on("drawing", async |socket: SocketRef, Data::<Value>(line)| {
            socket.broadcast().emit("drawing", &line).await.ok();
        });
        socket.on("join", async |socket: SocketRef, Data::<String>(room), ack: AckSender| {
            socket.join(room.clone());
            socket.extensions.insert(Room(room));
            ack.send(&()).ok();
        });
        socket.on("aim", async |socket: SocketRef, Data::<String>(room), ack: AckSender| {
            socket.extensions.insert(Room(room));
            ack.send(&()).ok();
        });
        socket.on("say", async |socket: SocketRef, Data::<Value>(words)| {
            if let Some(Room(room)) = socket.extensions.get::<Room>() {
                socket.to(room).emit("said", &words).await.ok();
            }
        });
        socket.on("echo", async |Data::<Value>(value), ack: AckSender| {
            ack.send(&value).ok();
        });
    });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    println!("listening on {}", listener.local_addr()?);
    axum::serve(listener, axum::Router::new().layer(layer)).await?;
    Ok(())
}
