//! A certificate that is renewed under live sessions on every transport: nobody is disconnected, and who
//! connects from then on is shown the new one, on TCP and on QUIC.
//!
//! The server compares its files every 10 s, so each renewal here takes up to that long.

#![allow(clippy::unwrap_used, reason = "in a test that is how to fail")]

#[path = "certificates/clients.rs"]
mod clients;
#[path = "certificates/files.rs"]
mod files;
mod support;

use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use clients::{Session, shown_on_quic, shown_on_tcp};
use files::{Authority, Folder, Pair};
use quicket::config::{Config, TlsFiles};
use quicket::{Ack, Socket, TransportKind};
use support::socketio::{TestServer, config};
use support::within;

/// A server, a session on each transport, and how far they have counted.
struct Scene {
    authority: Authority,
    server: TestServer,
    sessions: Vec<Session>,
    count: u64,
}

impl Scene {
    async fn start(authority: Authority, folder: &Folder) -> Self {
        let files = TlsFiles { cert: folder.path("tls.crt"), key: folder.path("tls.key") };
        let config = Config { tls: Some(files), ..config() };
        let server = TestServer::start(config, |server| {
            server.of("/").on_connect(|socket: Socket| async move {
                socket.on("echo", |_: Socket, n: u64, ack: Ack| async move { ack.send(&n) });
            });
        })
        .await;
        let mut scene = Self { authority, server, sessions: Vec::new(), count: 0 };
        scene.join_on_every_transport().await;
        scene
    }

    async fn join_on_every_transport(&mut self) {
        for kind in TransportKind::ALL {
            let session = Session::open(self.server.address, &self.authority, kind).await;
            self.sessions.push(session);
        }
    }

    /// An event from each client, acknowledged, and one from the server to all: exactly these arrive.
    async fn exchange(&mut self) {
        self.count += 1;
        let n = self.count;
        for session in &mut self.sessions {
            session.send(&format!("42{n}[\"echo\",{n}]")).await;
            session.expect(&format!("43{n}[{n}]")).await;
        }
        self.server.server.of("/").emit("news", &n).await.unwrap();
        for session in &mut self.sessions {
            session.expect(&format!("42[\"news\",{n}]")).await;
        }
    }

    /// What a client that comes now is shown, on TCP and on QUIC.
    async fn shown(&self) -> [Vec<u8>; 2] {
        let (address, authority) = (self.server.address, &self.authority);
        [shown_on_tcp(address, authority).await, shown_on_quic(address, authority).await]
    }

    /// Goes on with all sessions until a counter of the server's says 1.
    async fn until_counted(&mut self, name: &str) {
        let what = format!("{name} to be 1, while all sessions go on");
        within(&what, async {
            while self.server.metric(name) != 1 {
                self.exchange().await;
                // an application's pace, and time for others on this machine
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await;
    }

    /// Goes on with all sessions until newcomers are shown `new`.
    async fn until_renewed(&mut self, new: &Pair) {
        self.until_counted("certificate_renewals_total").await;
        assert_eq!(self.shown().await, [new.der.clone(), new.der.clone()]);
    }

    /// None of the sessions was closed, and all are of use.
    async fn all_go_on(&mut self) {
        self.exchange().await;
        assert_eq!(self.server.server.session_count(), self.sessions.len());
        for session in &mut self.sessions {
            session.still_on_its_connection().await;
        }
    }
}

#[tokio::test]
async fn a_secret_that_kubernetes_renews_disconnects_nobody() {
    let authority = Authority::new();
    let [old, new] = [authority.issue(), authority.issue()];
    let folder = Folder::new();
    folder.swap_secret(&old);
    let mut scene = Scene::start(authority, &folder).await;
    assert_eq!(scene.shown().await, [old.der.clone(), old.der.clone()]);
    scene.exchange().await;

    folder.swap_secret(&new);
    scene.until_renewed(&new).await;
    scene.all_go_on().await;
    assert!(scene.sessions.iter().all(|session| session.shown.as_ref() == Some(&old.der)));
    // a polling client's next connection is one more to the same session
    scene.sessions[0].reconnect_polls(scene.server.address, &scene.authority).await;
    assert_eq!(scene.sessions[0].shown.as_ref(), Some(&new.der));
    scene.join_on_every_transport().await;
    scene.all_go_on().await;
    assert!(scene.sessions[3..].iter().all(|session| session.shown.as_ref() == Some(&new.der)));
    assert_eq!(scene.server.metric("certificate_failures_total"), 0);
    let ends = scene.server.metric("certificate_not_after_seconds");
    assert_eq!(ends, new.not_after);
}

#[tokio::test]
async fn files_that_are_overwritten_in_place_disconnect_nobody() {
    let authority = Authority::new();
    let [old, new] = [authority.issue(), authority.issue()];
    let folder = Folder::new();
    folder.overwrite(&old);
    let mut scene = Scene::start(authority, &folder).await;
    scene.exchange().await;
    folder.overwrite(&new);
    scene.until_renewed(&new).await;
    scene.all_go_on().await;
}

#[tokio::test]
async fn a_broken_certificate_is_logged_and_counted_and_the_old_one_stays_until_a_good_one_comes() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt().with_writer(move || writer.clone()).finish();
    // everything of this test runs on its one thread
    let _guard = tracing::subscriber::set_default(subscriber);
    let authority = Authority::new();
    let [old, other, new] = [authority.issue(), authority.issue(), authority.issue()];
    let folder = Folder::new();
    folder.swap_secret(&old);
    let mut scene = Scene::start(authority, &folder).await;

    folder.swap_secret(&Pair { key: other.key, ..new.clone() });
    scene.until_counted("certificate_failures_total").await;
    assert_eq!(scene.shown().await, [old.der.clone(), old.der.clone()]);
    scene.join_on_every_transport().await;
    scene.all_go_on().await;
    let said = log.text();
    assert!(said.contains("no new certificate; the old one stays in use"), "{said}");
    assert!(said.contains("tls.key is not the key of the first certificate"), "{said}");

    folder.swap_secret(&new);
    scene.until_renewed(&new).await;
    scene.all_go_on().await;
    assert_eq!(scene.server.metric("certificate_failures_total"), 1, "once for each change");
}

/// The lines that were logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
