//! Bare Engine.IO: sends every message back. The official v4 suite can be pointed at it:
//! `cargo run --example engine_echo -- --port 3000`.

use std::time::Duration;

use quicket::config::{Config, EngineConfig, Listen, OriginPolicy, Transports};
use quicket::{EngineServer, ServeError};

#[tokio::main]
async fn main() -> Result<(), ServeError> {
    let (port, webtransport) = arguments();
    let config = Config {
        listen: Listen { port, ..Listen::default() },
        engine: EngineConfig {
            path: "/engine.io/".into(),
            ping_interval: Duration::from_millis(300),
            ping_timeout: Duration::from_millis(200),
            max_payload: 1_000_000,
            origins: OriginPolicy::Any,
            transports: Transports { webtransport, ..Transports::default() },
            ..EngineConfig::default()
        },
        ..Config::default()
    };
    let server = EngineServer::builder(|mut session| async move {
        while let Ok(message) = session.recv().await {
            if session.send(message).is_err() {
                break;
            }
        }
    });
    let server = server.config(config).build().await?;
    println!("listening on {}", server.bind().await?);
    server.serve().await?;
    Ok(())
}

/// `--port N` (3000), and `--webtransport` to offer that, too: the suite expects it not to be offered.
fn arguments() -> (u16, bool) {
    let arguments: Vec<String> = std::env::args().collect();
    let port = arguments.iter().position(|argument| argument == "--port");
    let port = port.and_then(|at| arguments.get(at + 1)).and_then(|port| port.parse().ok());
    (port.unwrap_or(3000), arguments.iter().any(|argument| argument == "--webtransport"))
}
