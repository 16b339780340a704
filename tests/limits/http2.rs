//! HTTP/2 as browsers speak it: over TLS, chosen by ALPN, on the listener that all clients share.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use axum::body::Body;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper::{Response, Version};
use hyper_util::rt::{TokioExecutor, TokioIo};
use quicket::TransportKind::Polling;
use quicket::config::{Config, EngineConfig, LimitsConfig, TlsFiles};
use quicket::{Builder, EngineServer, EngineSocket, ForEngine, Message};
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::files::{Authority, Folder};
use super::support::server::{PATH, config};
use super::support::{Gate, engine, eventually, within};

const HEAD_MAX: usize = 9 * 1024;

/// A server with a certificate; it says `x` so many times when it is asked for that, and else what it hears.
struct Secure {
    server: EngineServer,
    address: SocketAddr,
    authority: Authority,
    _folder: Folder,
}

async fn answer(mut session: EngineSocket) {
    loop {
        let sent = match session.recv().await {
            Ok(Message::Text(text)) => match text.parse() {
                Ok(times) => session.send("x".repeat(times)),
                Err(_) => session.send(Message::Text(text)),
            },
            Ok(message) => session.send(message),
            Err(_) => return,
        };
        if sent.is_err() {
            return; // too slow, and given up
        }
    }
}

impl Secure {
    async fn start(engine: EngineConfig) -> Self {
        Self::with(engine, |builder| builder).await
    }

    async fn with(
        engine: EngineConfig,
        more: impl FnOnce(Builder<ForEngine>) -> Builder<ForEngine>,
    ) -> Self {
        let (authority, folder) = (Authority::new(), Folder::new());
        folder.overwrite(&authority.issue());
        let files = TlsFiles { cert: folder.path("tls.crt"), key: folder.path("tls.key") };
        let limits = LimitsConfig { max_header_bytes: HEAD_MAX, ..LimitsConfig::default() };
        let shutdown_grace = Duration::from_secs(60);
        let config = Config { tls: Some(files), limits, shutdown_grace, ..config(engine) };
        let server = more(EngineServer::builder(answer).config(config)).build().await.unwrap();
        let address = server.bind().await.unwrap();
        let serving = server.clone();
        tokio::spawn(async move { serving.serve().await.unwrap() });
        Self { server, address, authority, _folder: folder }
    }

    /// A client with this window for each answer.
    async fn client(&self, window: Option<u32>) -> Client {
        let connector = TlsConnector::from(self.authority.client(b"h2"));
        let stream = TcpStream::connect(self.address).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let stream = connector.connect(name, stream).await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder.initial_stream_window_size(window);
        let (requests, connection) = builder.handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        Client { requests, authority: format!("localhost:{}", self.address.port()) }
    }

    fn head_bytes(&self) -> bool {
        self.counts_one("limits_hit_total{limit=\"head_bytes\"}")
    }

    fn counts_one(&self, what: &str) -> bool {
        self.server.metrics().render().contains(&format!("quicket_{what} 1\n"))
    }
}

#[derive(Clone)]
struct Client {
    requests: SendRequest<Body>,
    authority: String,
}

impl Client {
    async fn ask(
        &mut self,
        target: &str,
        body: Option<&str>,
        field: usize,
    ) -> hyper::Result<Response<Incoming>> {
        let request = http::Request::builder()
            .method(if body.is_some() { "POST" } else { "GET" })
            .uri(format!("https://{}{target}", self.authority))
            .header("x", "x".repeat(field))
            .body(body.map_or_else(Body::empty, |body| Body::from(body.to_owned())));
        within("an answer", self.requests.send_request(request.unwrap())).await
    }

    async fn text(&mut self, target: &str, body: Option<&str>) -> String {
        let answer = self.ask(target, body, 0).await.unwrap();
        assert_eq!((answer.status().as_u16(), answer.version()), (200, Version::HTTP_2));
        let body = within("a body", answer.into_body().collect()).await.unwrap();
        String::from_utf8(body.to_bytes().into()).unwrap()
    }

    /// Opens a session, and gives the target of its requests.
    async fn open(&mut self) -> String {
        let target = format!("{PATH}?EIO=4&transport={Polling}");
        let open = self.text(&target, None).await;
        let open: serde_json::Value = serde_json::from_str(&open[1..]).unwrap();
        format!("{target}&sid={}", open["sid"].as_str().unwrap())
    }
}

/// Many sessions on one connection, their polls and POSTs at the same time.
#[tokio::test]
async fn polling_works_over_http2() {
    let server = Secure::start(engine()).await;
    let client = server.client(None).await;
    let sessions = (0..20).map(|session| {
        let mut client = client.clone();
        async move {
            let target = client.open().await;
            for n in 0..5 {
                // the poll is there before what it waits for
                let mut polling = client.clone();
                let poll = polling.text(&target, None);
                let text = format!("4{session}.{n}");
                let (polled, posted) = tokio::join!(poll, client.text(&target, Some(&text)));
                assert_eq!((polled, posted.as_str()), (text, "ok"));
            }
            let long = "4300000";
            assert_eq!(client.text(&target, Some(long)).await, "ok");
            let polled = client.text(&target, None).await;
            assert!(polled == format!("4{}", "x".repeat(300_000)), "{} bytes", polled.len());
            assert_eq!(client.text(&target, Some("1")).await, "ok");
        }
    });
    futures_util::future::join_all(sessions).await;
    eventually("the sessions to end", || server.server.session_count() == 0).await;
}

#[tokio::test]
async fn over_http2_the_head_of_a_request_is_limited() {
    for (bytes, status) in [(HEAD_MAX - 1, Some(200)), (HEAD_MAX, Some(431)), (HEAD_MAX * 5, None)]
    {
        let server = Secure::start(engine()).await;
        let mut client = server.client(None).await;
        // as RFC 9113 6.5.2 counts: :method, :scheme, :authority, :path, and "x", with 32 for each
        let fields = [":method", "GET", ":scheme", "https", ":authority", &client.authority];
        let path = "/healthz";
        let others: usize = fields.iter().map(|part| part.len()).sum();
        let field = bytes - others - ":path".len() - path.len() - "x".len() - 5 * 32;
        let answer = client.ask(path, None, field).await;
        assert_eq!(answer.ok().map(|answer| answer.status().as_u16()), status, "{bytes} bytes");
        if status == Some(200) {
            assert!(!server.head_bytes());
        } else {
            eventually("it to be counted", || server.head_bytes()).await;
            let mut other = server.client(None).await;
            assert_eq!(other.text("/healthz", None).await, "ok\n", "others go on");
        }
    }
}

/// The client reads all that comes, and answers pings; only its windows for answers stay shut.
#[tokio::test]
async fn an_answer_over_http2_whose_window_stays_shut_is_given_up() {
    let stall = Duration::from_secs(2);
    let times = EngineConfig { ping_interval: stall * 3 / 4, ping_timeout: stall / 4, ..engine() };
    let server = Secure::start(times).await;
    let (mut open, mut shut) = (server.client(None).await, server.client(Some(0)).await);
    let target = open.open().await;
    assert_eq!(open.text(&target, Some("4300000")).await, "ok");
    let begun = Instant::now();
    let mut answer = shut.ask(&target, None, 0).await.unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.headers()["content-length"], "300001");
    let first = within("the end of the answer", answer.frame()).await;
    assert!(first.is_some_and(|frame| frame.is_err()), "it is reset, and nothing of it came");
    assert!(begun.elapsed() >= stall, "{:?}", begun.elapsed());
    let other = shut.ask("/healthz", None, 0).await.unwrap();
    assert_eq!(other.status(), 200, "the connection lives");
}

/// Answers that a client asks for and does not take are out of the outbox, and held all the same.
#[tokio::test]
async fn answers_over_http2_that_are_not_taken_fill_the_outbox() {
    const ONE: &str = "4300000";
    const MOST: usize = 1024 * 1024 + 300_000 + 10;
    let server = Secure::start(engine()).await;
    let (mut open, mut shut) = (server.client(None).await, server.client(Some(0)).await);
    // who takes them may have any number
    let reader = open.open().await;
    for _ in 0..20 {
        assert_eq!(open.text(&reader, Some(ONE)).await, "ok");
        assert_eq!(open.text(&reader, None).await.len(), 300_001);
    }
    let target = open.open().await;
    let polls = async {
        let mut answers = Vec::new();
        loop {
            let answer = shut.ask(&target, None, 0).await.unwrap();
            if answer.status() != 200 {
                return answers;
            }
            answers.push(answer);
        }
    };
    let mut poster = open.clone();
    let posts = async {
        for _ in 0..60 {
            if poster.ask(&target, Some(ONE), 0).await.unwrap().status() != 200 {
                return;
            }
        }
        panic!("18 MB went somewhere");
    };
    let (untaken, ()) = tokio::join!(polls, posts);
    let bytes = untaken.iter().map(|answer| answer.headers()["content-length"].to_str().unwrap());
    let bytes: usize = bytes.map(|bytes| bytes.parse::<usize>().unwrap()).sum();
    assert!((300_001..=MOST).contains(&bytes), "{bytes} bytes wait");
    eventually("it to be given up", || server.counts_one("outbox_overflows_total")).await;
    // others go on
    assert_eq!(open.text(&reader, Some(ONE)).await, "ok");
    assert_eq!(open.text(&reader, None).await.len(), 300_001);
}

/// As over HTTP/1: whoever asks again may find another node. What is under way is answered for all that.
#[tokio::test]
async fn a_connection_of_http2_on_which_a_stopping_server_refuses_a_session_ends() {
    let gate = Gate::new();
    let wait = gate.clone();
    let server = Secure::with(engine(), |builder| {
        builder.admit(move |_| {
            let gate = wait.clone();
            async move {
                gate.pass().await;
                Ok(())
            }
        })
    })
    .await;
    let mut client = server.client(None).await;
    let target = format!("{PATH}?EIO=4&transport={Polling}");
    let (mut other, held) = (client.clone(), target.clone());
    let held = tokio::spawn(async move { other.ask(&held, None, 0).await });
    gate.asked().await;
    server.server.shutdown();
    eventually("the server to stop", || {
        server.server.metrics().render().contains("quicket_phase 2\n")
    })
    .await;
    assert_eq!(client.text("/healthz", None).await, "ok\n", "what is no session is answered");
    within("the end of the connection", async {
        // more than one until the client has heard of it
        while let Ok(answer) = client.ask(&target, None, 0).await {
            assert_eq!(answer.status(), 503);
            let _ = answer.into_body().collect().await;
        }
    })
    .await;
    gate.open();
    let answer = held.await.unwrap().unwrap();
    assert_eq!(answer.status(), 503);
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(body, r#"{"code":6,"message":"Server unavailable"}"#);
}
