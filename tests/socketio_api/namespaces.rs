//! Namespaces that are made on demand, and servers inside other applications.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Router;
use axum::routing::get;
use quicket::TransportKind::{self, WebSocket};
use quicket::{Ack, ConnectError, Event, Server, Socket};
use serde_json::json;
use tokio::sync::Semaphore;

use crate::support::socketio::{Client, TestServer, config};
use crate::support::{eventually, within};

#[tokio::test]
async fn a_namespace_is_the_same_with_and_without_the_slash() {
    let server = TestServer::start(config(), |server| {
        server.of("x").on_connect(|socket| async move { socket.emit("hello", &1).await });
    })
    .await;
    assert_eq!(server.server.of("x").name(), "/x");
    assert_eq!(server.server.of("").name(), "/");
    let mut client = server.client(WebSocket).await;
    client.join("/x").await;
    client.expect(r#"42/x,["hello",1]"#).await;
    server.server.of("/x").emit("two", &2).await.unwrap();
    client.expect(r#"42/x,["two",2]"#).await;
}

/// A family `/room-...`, and how often it was asked.
fn family(server: &Server) -> Arc<AtomicUsize> {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let family = server.of_dynamic(move |name, auth| {
        count.fetch_add(1, Ordering::Relaxed);
        async move {
            let auth: serde_json::Value = auth.decode().unwrap();
            name.starts_with("/room-") && auth["denied"].is_null()
        }
    });
    family.middleware(|socket, _| async move {
        match socket.namespace().name() {
            "/room-closed" => Err(ConnectError::new("closed")),
            _ => Ok(()),
        }
    });
    family.on_connect(|socket| async move {
        socket.on("where", |socket: Socket, _: Event, ack: Ack| async move {
            ack.send(socket.namespace().name())
        });
    });
    asked
}

#[tokio::test]
async fn a_family_makes_namespaces_on_demand_that_share_its_handlers() {
    let server = TestServer::start(config(), |_| {}).await;
    let asked = family(&server.server);
    let mut clients = Vec::new();
    for name in ["/room-1", "/room-2", "/room-1"] {
        let mut client = server.client(WebSocket).await;
        client.join(name).await;
        client.send(&format!(r#"42{name},1["where"]"#)).await;
        client.expect(&format!(r#"43{name},1["{name}"]"#)).await;
        clients.push(client);
    }
    assert_eq!(asked.load(Ordering::Relaxed), 2, "once for each namespace");
    for (packet, answer) in [
        ("40/hall,", r#"44/hall,{"message":"Invalid namespace"}"#),
        (r#"40/room-3,{"denied":1}"#, r#"44/room-3,{"message":"Invalid namespace"}"#),
        ("40/room-closed,", r#"44/room-closed,{"message":"closed"}"#),
    ] {
        clients[0].send(packet).await;
        clients[0].expect(answer).await;
    }
    // each is a namespace of its own
    server.server.of("/room-1").emit("hello", &()).await.unwrap();
    server.server.of("/room-2").emit("goodbye", &()).await.unwrap();
    clients[0].expect(r#"42/room-1,["hello"]"#).await;
    clients[1].expect(r#"42/room-2,["goodbye"]"#).await;
    clients[2].expect(r#"42/room-1,["hello"]"#).await;
}

#[tokio::test]
async fn an_empty_namespace_of_a_family_is_forgotten_if_so_configured() {
    for (forget, asked_in_all) in [(true, 2), (false, 1)] {
        let mut config = config();
        config.socketio.cleanup_empty_child_namespaces = forget;
        let server = TestServer::start(config, |_| {}).await;
        let asked = family(&server.server);
        let (mut client, mut other) =
            (server.client(WebSocket).await, server.client(WebSocket).await);
        client.join("/room-1").await;
        other.join("/room-1").await;
        // it stays while somebody is in it
        client.send("41/room-1,").await;
        client.join("/room-1").await;
        assert_eq!(asked.load(Ordering::Relaxed), 1);
        for client in [&mut client, &mut other] {
            client.send("41/room-1,").await;
        }
        server.until_metric("sockets", 0).await;
        client.join("/room-1").await;
        assert_eq!(asked.load(Ordering::Relaxed), asked_in_all);
        // a refused client leaves none behind, and the new one works as the first
        client.send(r#"42/room-1,1["where"]"#).await;
        client.expect(r#"43/room-1,1["/room-1"]"#).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_come_at_once_meet_in_one_namespace() {
    let door = Arc::new(Semaphore::new(0));
    let server = TestServer::start(config(), |server| {
        let door = door.clone();
        server.of_dynamic(move |_, _| {
            let door = door.clone();
            async move {
                door.acquire().await.unwrap().forget();
                true
            }
        });
    })
    .await;
    let mut clients = Vec::new();
    for _ in 0..8 {
        let mut client = server.client(WebSocket).await;
        client.send("40/new,").await;
        clients.push(client);
    }
    door.add_permits(8);
    for client in &mut clients {
        client.joined("/new").await;
    }
    server.until_metric("sockets", 8).await;
    let namespace = server.server.of("/new");
    eventually("all sockets", || namespace.local_sockets().len() == 8).await;
    namespace.emit("hello", &()).await.unwrap();
    for client in &mut clients {
        client.expect(r#"42/new,["hello"]"#).await;
    }
}

/// The last one leaves while another one is on the way in: there are not two of them afterwards.
#[tokio::test]
async fn who_is_on_the_way_into_a_namespace_that_is_forgotten_is_not_alone_there() {
    // with somebody who asks for it before and after the late one is in
    for asked_before in [true, false] {
        let (door, came) = (Arc::new(Semaphore::new(1)), Arc::new(AtomicUsize::new(0)));
        let server = TestServer::start(config(), |server| {
            let (door, came) = (door.clone(), came.clone());
            server.of_dynamic(|_, _| async { true }).middleware(move |_, _| {
                let door = door.clone();
                came.fetch_add(1, Ordering::Relaxed);
                async move {
                    door.acquire().await.unwrap().forget();
                    Ok::<_, ConnectError>(())
                }
            });
        })
        .await;
        let mut first = server.client(WebSocket).await;
        first.join("/room").await;
        let mut late = server.client(WebSocket).await;
        late.send("40/room,").await;
        let mut last = server.client(WebSocket).await;
        eventually("somebody at the door", || came.load(Ordering::Relaxed) == 2).await;
        first.send("41/room,").await;
        server.until_metric("sockets", 0).await;
        if asked_before {
            last.send("40/room,").await;
        }
        door.add_permits(2);
        late.joined("/room").await;
        if !asked_before {
            last.send("40/room,").await;
        }
        last.joined("/room").await;
        let namespace = server.server.of("/room");
        eventually("both", || namespace.local_sockets().len() == 2).await;
        namespace.local().emit("hello", &()).await.unwrap();
        late.expect(r#"42/room,["hello"]"#).await;
        last.expect(r#"42/room,["hello"]"#).await;
    }
}

#[tokio::test]
async fn a_server_lives_inside_an_axum_application() {
    let server = Server::builder().config(config()).build().await.unwrap();
    server.of("/").on_connect(|socket| async move {
        socket.on("who", |socket: Socket, _: Event, ack: Ack| async move {
            ack.send(&socket.handshake().peer.ip().to_string())
        });
    });
    let app = Router::new()
        .route("/hello", get(|| async { "hello" }))
        .merge(server.router())
        .nest("/admin", server.admin_router());
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let service = app.into_make_service_with_connect_info::<SocketAddr>();
    let serving = tokio::spawn(async move { axum::serve(listener, service).await });
    let text = async |path: &str| {
        let answer = reqwest::get(format!("http://{address}{path}")).await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    };
    assert_eq!(text("/hello").await, (200, "hello".to_owned()));
    assert_eq!(text("/admin/healthz").await.0, 200);
    assert_eq!(text("/webtransport.json").await.0, 404, "there is none yet");
    let udp = SocketAddr::from(([127, 0, 0, 1], 0));
    let udp = server.listen_webtransport(udp).await.unwrap();
    let about = text("/webtransport.json").await.1;
    let about: serde_json::Value = serde_json::from_str(&about).unwrap();
    assert_eq!(about["port"], json!(udp.port()));
    for kind in [TransportKind::Polling, WebSocket] {
        let mut client = Client::open(address, kind).await;
        client.join("/").await;
        client.send(r#"421["who"]"#).await;
        client.expect(r#"431["127.0.0.1"]"#).await;
    }
    assert_eq!(server.session_count(), 2);
    serving.abort();
    let _ = within("the end of the server", serving).await;
}
