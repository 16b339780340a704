//! Socket.IO inside an axum application that has its own listener, its own routes and its own way to stop;
//! WebTransport listens beside it, on the same port number.
//!
//! `cargo run --example embed`, then `curl localhost:3000/hello`, and `io("http://localhost:3000")`.

use std::net::SocketAddr;

use axum::Router;
use axum::extract::State;
use axum::routing::{get, post};
use quicket::{Server, Socket};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

type Failure = Box<dyn std::error::Error>;

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let server = Server::builder().build().await?;
    server.of("/").on_connect(|socket| async move {
        socket.on("ask", |socket: Socket, (): (), ack: quicket::Ack| async move {
            let peer = socket.handshake().peer.ip();
            ack.send(&(peer, socket.transport().name()))
        });
    });

    let app = Router::new()
        .route("/hello", get(|| async { "the application's own route\n" }))
        .route("/announce", post(announce))
        .with_state(server.clone())
        .merge(server.router())
        .nest("/internal", server.admin_router());

    let port = std::env::var("PORT").ok().and_then(|port| port.parse().ok()).unwrap_or(3000);
    let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], port))).await?;
    let address = listener.local_addr()?;
    server.listen_webtransport(address).await?;
    println!("listening on {address}");

    // connect info is how the handshake learns the address of the peer
    let service = app.into_make_service_with_connect_info::<SocketAddr>();
    axum::serve(listener, service).with_graceful_shutdown(stopped(server)).await?;
    Ok(())
}

/// An HTTP request becomes an event for everyone.
async fn announce(State(server): State<Server>, text: String) -> String {
    match server.of("/").emit("announcement", &text).await {
        Ok(()) => format!("told {} sessions\n", server.session_count()),
        Err(error) => format!("not told: {error}\n"),
    }
}

/// Waits for SIGTERM, then closes the sessions while axum still answers: polling clients need that.
async fn stopped(server: Server) {
    signal(SignalKind::terminate()).expect("a process may have signal handlers").recv().await;
    server.close().await;
}
