//! The server application that the tests in `tests/interop` drive with the official client. It takes the
//! flags of the `quicket` binary. `tests/interop/lib/node-twin.mjs` is the same application on Node's
//! server: what one does, the other has to do.
//!
//! | event | what the server does |
//! |---|---|
//! | `echo ...args` | sends `echo ...args` back |
//! | `echo-ack ...args` | acknowledges with the same arguments |
//! | `twice` | two handlers, the first of which acknowledges |
//! | `do {op, ...}` | one call of the API, see [`Spec`]; acknowledges with what it gave |
//! | `blocked` | refused by a per-packet middleware |
//!
//! What happens to a socket is written to a log under `auth.tag`; `log` in `/control` reads it.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use parking_lot::Mutex;
use quicket::config::{Command, Config};
use quicket::{
    Ack, Answers, Auth, Broadcast, CloseReason, ConnectError, EmitError, Event, Namespace,
    RemoteSocket, ServeError, Server, Socket, Str,
};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;

#[path = "interop/any.rs"]
mod any;
use any::{Any, Spread};

#[tokio::main]
async fn main() -> Result<(), ServeError> {
    let environment = |name: &str| std::env::var_os(name);
    let config = match Config::parse(std::env::args_os(), &environment)? {
        Command::Run(config) => config,
        other => panic!("these flags start no server: {other:?}"),
    };
    let server = Server::builder().config(config).build().await?;
    install(&server);
    println!("listening on {}", server.bind().await?);
    let stop = server.clone();
    tokio::spawn(async move {
        let mut term = signal(SignalKind::terminate()).expect("a process may have signal handlers");
        term.recv().await;
        stop.shutdown();
    });
    server.serve().await?;
    // what the tests cannot ask for any more
    println!("log {}", json!(&*LOG.entries.lock()));
    Ok(())
}

fn install(server: &Server) {
    for name in ["/", "/custom"] {
        server.of(name).on_connect(connected);
    }
    let lab = server.of_dynamic(|name, _| async move { name.starts_with("/lab-") });
    lab.on_connect(connected);
    let invited = server.of_dynamic(|name, auth: Auth| async move {
        let auth: Value = auth.decode().unwrap_or_default();
        name.starts_with("/invited-") && auth["invited"] == true
    });
    invited.middleware(|socket, _| async move {
        socket.join("guests");
        Ok::<_, ConnectError>(())
    });
    invited.on_connect(connected);

    let guarded = server.of("/guarded");
    guarded.middleware(|_, auth: Auth| async move {
        let auth: Value = auth.decode().unwrap_or_default();
        match auth["token"].as_str() {
            Some("secret") => Ok(()),
            Some(_) => Err(ConnectError::new("wrong token")),
            None => Err(ConnectError::new("no token")
                .with_data(json!({ "code": 401, "accepts": ["token", { "deep": [1.5, null] }] }))),
        }
    });
    guarded.middleware(|socket, auth: Auth| async move {
        let auth: Value = auth.decode().unwrap_or_default();
        let _ = socket.set_data(json!({ "user": auth["user"] }));
        socket.join(["members", "first"]);
        Ok::<_, ConnectError>(())
    });
    guarded.on_connect(connected);

    let slow = server.of("/slow");
    slow.middleware(|_, _| async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        Ok::<_, ConnectError>(())
    });
    slow.on_connect(connected);

    server.of("/control").on_connect(|socket| async move {
        socket.on("log", |_: Socket, (tag, count), ack: Ack| async move {
            // others ask meanwhile, so this must not hold up the socket's queue
            tokio::spawn(async move { ack.send(&LOG.wait(tag, count).await) });
        });
    });
}

// --- the log

#[derive(Default)]
struct Log {
    entries: Mutex<HashMap<String, Vec<Value>>>,
    changed: Notify,
}

static LOG: LazyLock<Arc<Log>> = LazyLock::new(Arc::default);

impl Log {
    fn write(&self, socket: &Socket, entry: Value) {
        if let Some(tag) = socket.auth()["tag"].as_str() {
            let mut entries = self.entries.lock();
            entries.entry(tag.to_owned()).or_default().push(entry);
            self.changed.notify_waiters();
        }
    }

    /// The entries of a tag, as soon as there are that many.
    async fn wait(&self, tag: String, count: usize) -> Vec<Value> {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if let Some(entries) = self.entries.lock().get(&tag)
                && entries.len() >= count
            {
                return entries.clone();
            }
            changed.await;
        }
    }
}

// --- a socket

async fn connected(socket: Socket) {
    let nsp = socket.namespace().name().to_owned();
    LOG.write(&socket, json!({ "connection": nsp, "rooms": rooms(&socket) }));
    socket.on("echo", |socket: Socket, event: Event| async move {
        socket.emit_args(event.args()).await
    });
    socket.on("echo-ack", |_: Socket, event: Event, ack: Ack| async move {
        ack.send_args(event.args())
    });
    socket.on("twice", |_: Socket, (): (), ack: Ack| async move { ack.send("first") });
    socket.on("twice", |socket: Socket| async move { LOG.write(&socket, json!("second")) });
    socket.on("do", |socket: Socket, spec: Spec, ack: Ack| async move {
        let wait = matches!(spec.op.as_str(), "ask");
        let run = async move {
            let result = perform(&socket, spec).await;
            ack.send(&result.unwrap_or_else(|error| json!({ "failed": error.to_string() }).into()))
        };
        // a handler that waits for its own client's answers must not hold up its events
        if wait {
            tokio::spawn(run);
            return Ok(());
        }
        run.await
    });
    socket.middleware(|_, event| async move {
        match event.name() {
            "blocked" => Err("not this one"),
            _ => Ok(()),
        }
    });
    socket.on("blocked", |socket: Socket| async move {
        LOG.write(&socket, json!("the handler of blocked"))
    });
    if socket.auth()["watch"] == true {
        watch(&socket);
    }
    socket.on_disconnecting(|socket, reason| async move { leaving(&socket, reason).await });
    socket.on_disconnect(|socket, reason| async move {
        let entry = json!({ "disconnect": reason.as_str(), "rooms": rooms(&socket) });
        LOG.write(&socket, entry);
    });
    if let Some(greeting) = socket.auth().get("greeting") {
        let _ = socket.emit("greeting", greeting).await;
    }
}

fn watch(socket: &Socket) {
    let entry =
        |kind: &str, event: &Event| json!({ kind: event.name(), "args": event.args().len() });
    socket.on_any(move |socket, event| async move { LOG.write(&socket, entry("in", &event)) });
    socket.on_any_outgoing(
        move |socket, event| async move { LOG.write(&socket, entry("out", &event)) },
    );
}

async fn leaving(socket: &Socket, reason: CloseReason) -> Result<(), EmitError> {
    let entry = json!({ "disconnecting": reason.as_str(), "rooms": rooms(socket) });
    LOG.write(socket, entry);
    if let Some(name) = socket.auth()["farewell"].as_str() {
        let rooms = socket.rooms();
        return socket.to(rooms).emit("farewell", name).await;
    }
    Ok(())
}

/// The rooms but its own, in alphabetical order.
fn rooms(socket: &Socket) -> Vec<String> {
    named(&socket.rooms(), socket.id())
}

fn named(rooms: &[Str], id: &str) -> Vec<String> {
    let named = rooms.iter().map(|room| room.to_string()).filter(|room| room != id);
    let mut named: Vec<_> = named.collect();
    named.sort();
    named
}

// --- calls of the API

/// What `do` is told.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Spec {
    op: String,
    /// Who does it: `self` (to the client itself), `socket` (to the others) or `namespace`.
    by: String,
    to: Vec<String>,
    except: Vec<String>,
    rooms: Vec<String>,
    volatile: bool,
    local: bool,
    compress: Option<bool>,
    /// Milliseconds.
    timeout: Option<u64>,
    event: String,
    args: Vec<Any>,
    data: Value,
    close: bool,
}

impl Spec {
    fn broadcast(&self, socket: &Socket) -> Broadcast {
        let namespace: Namespace = socket.namespace();
        let mut broadcast = match self.by.as_str() {
            "socket" => socket.to(&*self.to),
            _ => namespace.to(&*self.to),
        };
        broadcast = broadcast.except(&*self.except);
        if self.volatile {
            broadcast = broadcast.volatile();
        }
        if self.local {
            broadcast = broadcast.local();
        }
        if let Some(compress) = self.compress {
            broadcast = broadcast.compress(compress);
        }
        if let Some(timeout) = self.timeout {
            broadcast = broadcast.timeout(Duration::from_millis(timeout));
        }
        broadcast
    }
}

async fn perform(socket: &Socket, spec: Spec) -> Result<Any, EmitError> {
    let done = Ok(Any::from("done"));
    match (spec.op.as_str(), spec.by.as_str()) {
        ("join", _) => socket.join(spec.rooms),
        ("leave", _) => socket.leave(spec.rooms),
        ("rooms", _) => return Ok(json!(rooms(socket)).into()),
        ("emit", "self") => return send_to_itself(socket, &spec).await.map(|()| "done".into()),
        ("emit", _) => {
            let args = Spread(&spec.args);
            spec.broadcast(socket).emit(&spec.event, &args).await?;
        }
        ("ask", "self") => return Ok(ask_itself(socket, &spec).await),
        ("ask", _) => {
            let args = Spread(&spec.args);
            let answers: Answers<Any> =
                spec.broadcast(socket).emit_with_ack(&spec.event, &args).await;
            let error = answers.error.map_or(Any::Null, |error| error.to_string().into());
            let answers = Any::List(answers.received);
            return Ok(Any::map([("error", error), ("answers", answers)]));
        }
        ("fetch", _) => {
            let sockets = spec.broadcast(socket).fetch_sockets().await.sockets;
            return Ok(Value::from_iter(sockets.iter().map(remote)).into());
        }
        ("sockets-join", _) => spec.broadcast(socket).sockets_join(spec.rooms)?,
        ("sockets-leave", _) => spec.broadcast(socket).sockets_leave(spec.rooms)?,
        ("disconnect-sockets", _) => spec.broadcast(socket).disconnect_sockets(spec.close)?,
        ("remote", _) => {
            for remote in spec.broadcast(socket).fetch_sockets().await.sockets {
                remote.join("remotely")?;
                remote.emit(&spec.event, &Spread(&spec.args)).await?;
                remote.leave("left")?;
                if spec.close {
                    remote.disconnect(false)?;
                }
            }
        }
        ("set-data", _) => socket.set_data(&spec.data).expect("JSON stays JSON"),
        ("data", _) => return Ok(socket.data::<Value>().expect("JSON stays JSON").into()),
        ("handshake", _) => return Ok(handshake(socket).await.into()),
        ("who", _) => return Ok(who(socket).into()),
        ("disconnect", _) => socket.disconnect(spec.close),
        (unknown, _) => panic!("no such op: {unknown}"),
    }
    done
}

async fn send_to_itself(socket: &Socket, spec: &Spec) -> Result<(), EmitError> {
    let args = Spread(&spec.args);
    if spec.volatile {
        return socket.volatile().emit(&spec.event, &args).await;
    }
    match spec.compress {
        Some(compress) => socket.compress(compress).emit(&spec.event, &args).await,
        None => socket.emit(&spec.event, &args).await,
    }
}

async fn ask_itself(socket: &Socket, spec: &Spec) -> Any {
    let args = Spread(&spec.args);
    let answer = match spec.timeout {
        Some(timeout) => {
            let sender = socket.timeout(Duration::from_millis(timeout));
            sender.emit_with_ack(&spec.event, &args).await
        }
        None => socket.emit_with_ack(&spec.event, &args).await,
    };
    match answer {
        Ok(answer) => Any::map([("error", Any::Null), ("answer", answer)]),
        Err(error) => Any::map([("error", error.to_string().into())]),
    }
}

fn who(socket: &Socket) -> Value {
    json!({
        "id": socket.id(),
        "nsp": socket.namespace().name(),
        "transport": socket.transport().name(),
        "auth": socket.auth(),
        "connected": socket.is_connected(),
    })
}

/// As other nodes see it, which is Node's shape of it.
async fn handshake(socket: &Socket) -> Value {
    let itself = socket.namespace().to(socket.id()).fetch_sockets().await.sockets;
    itself.first().map_or(Value::Null, |itself| itself.handshake().clone())
}

fn remote(socket: &RemoteSocket) -> Value {
    json!({
        "id": socket.id(),
        "rooms": named(socket.rooms(), socket.id()),
        "data": socket.data::<Value>().unwrap_or_default(),
        "query": socket.handshake()["query"]["who"],
        "auth": socket.handshake()["auth"],
    })
}
