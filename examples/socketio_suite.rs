//! What the official Socket.IO v5 suite expects of a server:
//! `cargo run --example socketio_suite -- --port 3000`.

use std::time::Duration;

use quicket::config::{Config, EngineConfig, Listen, OriginPolicy, SocketIoConfig, Transports};
use quicket::{Ack, Event, Namespace, ServeError, Server, Socket};

#[tokio::main]
async fn main() -> Result<(), ServeError> {
    let (port, webtransport) = arguments();
    let config = Config {
        listen: Listen { port, ..Listen::default() },
        engine: EngineConfig {
            ping_interval: Duration::from_millis(300),
            ping_timeout: Duration::from_millis(200),
            max_payload: 1_000_000,
            origins: OriginPolicy::Any,
            transports: Transports { webtransport, ..Transports::default() },
            ..EngineConfig::default()
        },
        socketio: SocketIoConfig {
            connect_timeout: Duration::from_secs(1),
            ..SocketIoConfig::default()
        },
        ..Config::default()
    };
    let server = Server::builder().config(config).build().await?;
    install(&server.of("/"));
    install(&server.of("/custom"));
    println!("listening on {}", server.bind().await?);
    server.serve().await?;
    Ok(())
}

fn install(namespace: &Namespace) {
    namespace.on_connect(|socket| async move {
        socket.on("message", |socket: Socket, event: Event| async move {
            socket.emit_args(&event.args().renamed(Some("message-back"))?).await
        });
        socket.on("message-with-ack", |_: Socket, event: Event, ack: Ack| async move {
            ack.send_args(event.args())
        });
        socket.emit("auth", socket.auth()).await
    });
}

/// `--port N` (3000), and `--webtransport` to offer that, too: the suite expects it not to be offered.
fn arguments() -> (u16, bool) {
    let arguments: Vec<String> = std::env::args().collect();
    let port = arguments.iter().position(|argument| argument == "--port");
    let port = port.and_then(|at| arguments.get(at + 1)).and_then(|port| port.parse().ok());
    (port.unwrap_or(3000), arguments.iter().any(|argument| argument == "--webtransport"))
}
