//! A node of a cluster for `tests/interop/cluster.test.mjs`, which drives it with the official client. It
//! takes the flags of the `quicket` binary. `tests/interop/lib/cluster-node.mjs` is the same application
//! on Node's server and `@socket.io/redis-streams-adapter`.
//!
//! A client sends `do {op, ...}` and gets the result as acknowledgement; see [`perform`]. What another
//! node emits to the servers is shown to the clients of this one as `server-side`.

use std::time::Duration;

use quicket::config::{Command, Config};
use quicket::{
    Ack, Answers, Broadcast, EmitError, Namespace, RemoteSocket, ServeError, Server, ServerAck,
    Socket,
};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};

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
    for name in ["/", "/notifications"] {
        install(&server.of(name));
    }
    println!("listening on {}", server.bind().await?);
    let stop = server.clone();
    tokio::spawn(async move {
        let mut term = signal(SignalKind::terminate()).expect("a process may have signal handlers");
        term.recv().await;
        stop.shutdown();
    });
    server.serve().await?;
    Ok(())
}

fn install(namespace: &Namespace) {
    namespace.on_connect(|socket| async move {
        socket.on("do", |socket: Socket, spec: Spec, ack: Ack| async move {
            // a handler that waits for clients' answers must not hold up their events
            tokio::spawn(async move {
                let result = perform(&socket, spec).await;
                let result = result.unwrap_or_else(|error| json!(error.to_string()).into());
                ack.send(&result)
            });
        });
    });
    let local = namespace.clone();
    namespace.on_server_side("tell", move |value: Any, _: ServerAck| {
        let local = local.local();
        async move { local.emit("server-side", &value).await }
    });
    namespace.on_server_side("ask", |value: Any, ack: ServerAck| async move {
        ack.send(&Any::map([("asked", value), ("by", "rust".into())]))
    });
}

/// What `do` is told.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Spec {
    op: String,
    to: Vec<String>,
    except: Vec<String>,
    rooms: Vec<String>,
    event: String,
    args: Vec<Any>,
    data: Value,
    close: bool,
    /// In seconds; 5 is the default.
    timeout: Option<u64>,
}

impl Spec {
    fn broadcast(&self, socket: &Socket) -> Broadcast {
        let broadcast = socket.namespace().to(&*self.to).except(&*self.except);
        broadcast.timeout(Duration::from_secs(self.timeout.unwrap_or(5)))
    }
}

async fn perform(socket: &Socket, mut spec: Spec) -> Result<Any, EmitError> {
    let namespace = socket.namespace();
    match spec.op.as_str() {
        "emit" => spec.broadcast(socket).emit(&spec.event, &Spread(&spec.args)).await?,
        "ask" => {
            let args = Spread(&spec.args);
            let answers = spec.broadcast(socket).emit_with_ack(&spec.event, &args).await;
            return Ok(answered(answers));
        }
        "fetch" => {
            let sockets = spec.broadcast(socket).fetch_sockets().await.sockets;
            return Ok(Value::from_iter(sockets.iter().map(remote)).into());
        }
        "sockets-join" => spec.broadcast(socket).sockets_join(spec.rooms)?,
        "sockets-leave" => spec.broadcast(socket).sockets_leave(spec.rooms)?,
        "disconnect-sockets" => spec.broadcast(socket).disconnect_sockets(spec.close)?,
        "server-side-emit" => namespace.server_side_emit("tell", &spec.args.remove(0)).await?,
        "server-side-ask" => {
            let args = spec.args.remove(0);
            return Ok(answered(namespace.server_side_emit_with_ack("ask", &args).await));
        }
        "server-count" => return Ok(json!(namespace.server_count().await).into()),
        "fetches-all" => {
            return Ok(Value::from(spec.broadcast(socket).fetch_sockets().await.complete).into());
        }
        "join" => socket.join(spec.rooms),
        "set-data" => socket.set_data(&spec.data).expect("JSON stays JSON"),
        unknown => panic!("no such op: {unknown}"),
    }
    Ok("done".into())
}

fn answered(answers: Answers<Any>) -> Any {
    let error = answers.error.map_or(Any::Null, |error| error.to_string().into());
    Any::map([("error", error), ("answers", Any::List(answers.received))])
}

fn remote(socket: &RemoteSocket) -> Value {
    let rooms = socket.rooms().iter().map(|room| room.to_string());
    let mut rooms: Vec<_> = rooms.filter(|room| room != socket.id()).collect();
    rooms.sort();
    json!({
        "id": socket.id(),
        "rooms": rooms,
        "data": socket.data::<Value>().unwrap_or_default(),
        "query": socket.handshake()["query"]["who"],
        "auth": socket.handshake()["auth"],
    })
}
