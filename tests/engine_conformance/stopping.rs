//! A node that stops has sessions to end yet; newcomers are sent away for good, not to ask it again.

use std::time::Duration;

use quicket::TransportKind;
use quicket::config::Config;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use wtransport::error::{ConnectingError, ConnectionError};

use super::support::client::WebTransportLink;
use super::support::http::{Exchange, Request, Response};
use super::support::server::{PATH, config, echo};
use super::support::{Gate, TestServer, engine, eventually, within};

/// A server that can be stopped, and then does not end until it is let go: somebody's admission takes its time.
struct Draining {
    server: TestServer,
    gate: Gate,
}

impl Draining {
    async fn start() -> Self {
        let gate = Gate::new();
        let wait = gate.clone();
        let server = TestServer::start(engine(), echo, |builder| {
            let config = Config { shutdown_grace: Duration::from_secs(60), ..config(engine()) };
            builder.config(config).admit(move |_| {
                let gate = wait.clone();
                async move {
                    gate.pass().await;
                    Ok(())
                }
            })
        })
        .await;
        let target = TestServer::target(TransportKind::Polling, None);
        let waiting = Request::get(target).start(server.address).await;
        tokio::spawn(waiting.response());
        gate.asked().await;
        Self { server, gate }
    }

    async fn stop(&self) {
        self.server.server.shutdown();
        eventually("the server to stop", || self.server.metric("quicket_phase") == 2).await;
    }

    async fn end(self) {
        self.gate.open();
        self.server.end().await;
    }
}

/// One more request on a connection.
async fn ask(server: &TestServer, mut stream: TcpStream, target: &str) -> (Response, TcpStream) {
    let request = Request::get(target).header("Connection", "keep-alive");
    stream.write_all(request.head(server.address).as_bytes()).await.unwrap();
    let answer = within("an answer", Exchange { stream }.upgrade()).await;
    let (mut answer, mut stream) = answer.unwrap();
    let length: usize = answer.header("content-length").unwrap().parse().unwrap();
    let mut rest = vec![0; length - answer.body.len()];
    within("its body", stream.read_exact(&mut rest)).await.unwrap();
    answer.body.extend(rest);
    (answer, stream)
}

#[tokio::test]
async fn a_connection_on_which_a_stopping_server_refuses_a_session_is_closed() {
    let draining = Draining::start().await;
    let server = &draining.server;
    let stream = TcpStream::connect(server.address).await.unwrap();
    let (answer, stream) = ask(server, stream, "/healthz").await;
    assert_eq!(answer.status, 200);
    draining.stop().await;
    let (answer, stream) = ask(server, stream, "/healthz").await;
    assert_eq!(answer.status, 200, "what is no session is answered as before");
    let target = TestServer::target(TransportKind::Polling, None);
    let (answer, mut stream) = ask(server, stream, &target).await;
    assert_eq!(answer.status, 503);
    assert_eq!(answer.header("connection").as_deref(), Some("close"));
    let more = within("its end", stream.read(&mut [0])).await;
    assert_eq!(more.unwrap(), 0);
    draining.end().await;
}

#[tokio::test]
async fn over_quic_a_stopping_server_refuses_newcomers_at_once() {
    let draining = Draining::start().await;
    draining.stop().await;
    let target = format!("{PATH}?EIO=4&transport=webtransport");
    let refused = WebTransportLink::session(&draining.server, &target, &[]).await.unwrap_err();
    let ConnectingError::ConnectionError(ConnectionError::ConnectionClosed(close)) = refused else {
        panic!("{refused}");
    };
    assert!(close.to_string().contains("refused"), "{close}");
    draining.end().await;
}
