//! A node of a cluster for the tests of connection state recovery (`tests/interop/recovery.test.mjs`) and
//! for the deploys under load (`make rollout`), which drive it with the official client. It takes the
//! flags of the `quicket` binary. `tests/interop/lib/rollout-node.mjs` is the same application on Node's
//! server and `@socket.io/redis-streams-adapter`.
//!
//! The middleware does what a client's `auth` says: `delay` waits so many milliseconds, `refuse` refuses
//! with that message, `user` is the identity. `do {op, ...}` is one call of the API, see [`perform`].

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use quicket::config::{Command, Config};
use quicket::{
    Ack, Answers, Auth, Broadcast, ConnectError, EmitError, Namespace, ServeError, Server, Socket,
    Str,
};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::MissedTickBehavior;

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
    install(&server.of("/"));
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
    namespace.middleware(|socket, auth: Auth| async move {
        let auth: Value = auth.decode().unwrap_or_default();
        if let Some(delay) = auth["delay"].as_u64() {
            tokio::time::sleep(Duration::from_millis(delay)).await;
        }
        if let Some(user) = auth["user"].as_str() {
            socket.set_identity(user);
        }
        match auth["refuse"].as_str() {
            Some(message) => Err(ConnectError::new(message)),
            None => Ok(()),
        }
    });
    namespace.on_connect(|socket| async move {
        socket.on("do", |socket: Socket, spec: Spec, ack: Ack| async move {
            // a handler that waits or publishes must not hold up the client's next events
            tokio::spawn(async move {
                let result = perform(&socket, spec).await;
                let result = result.unwrap_or_else(|error| json!(error.to_string()).into());
                ack.send(&result)
            });
        });
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
    volatile: bool,
    local: bool,
    event: String,
    args: Vec<Any>,
    data: Value,
    close: bool,
    /// Who publishes, which is the first argument of its events.
    name: String,
    /// How many events.
    count: u64,
    /// How many at once.
    batch: u64,
    /// Milliseconds between two batches.
    every: u64,
}

impl Spec {
    fn broadcast(&self, socket: &Socket) -> Broadcast {
        let mut broadcast = socket.namespace().to(&*self.to).except(&*self.except);
        if self.volatile {
            broadcast = broadcast.volatile();
        }
        if self.local {
            broadcast = broadcast.local();
        }
        broadcast.timeout(Duration::from_secs(1))
    }
}

async fn perform(socket: &Socket, spec: Spec) -> Result<Any, EmitError> {
    match spec.op.as_str() {
        "emit" => spec.broadcast(socket).emit(&spec.event, &Spread(&spec.args)).await?,
        "send" => {
            for peer in peers(socket, &spec) {
                let args = Spread(&spec.args);
                match spec.volatile {
                    true => peer.volatile().emit(&spec.event, &args).await?,
                    false => peer.emit(&spec.event, &args).await?,
                }
            }
        }
        "ask" => {
            let args = Spread(&spec.args);
            let answers: Answers<Any> =
                spec.broadcast(socket).emit_with_ack(&spec.event, &args).await;
            return Ok(Any::List(answers.received));
        }
        "ask-one" => {
            for peer in peers(socket, &spec) {
                let peer = peer.timeout(Duration::from_secs(1));
                // nobody may be there to answer
                let _ = peer.emit_with_ack::<_, Value>(&spec.event, &Spread(&spec.args)).await;
            }
        }
        "publish" => return Ok(publish(&socket.namespace(), &spec).await),
        "hush" => HUSHED.store(true, Ordering::Relaxed),
        "sockets-join" => spec.broadcast(socket).sockets_join(spec.rooms)?,
        "sockets-leave" => spec.broadcast(socket).sockets_leave(spec.rooms)?,
        "disconnect-sockets" => spec.broadcast(socket).disconnect_sockets(spec.close)?,
        "join" => socket.join(spec.rooms),
        "leave" => socket.leave(spec.rooms),
        "set-data" => socket.set_data(&spec.data).expect("JSON stays JSON"),
        "disconnect" => socket.disconnect(spec.close),
        "state" => return Ok(state(socket).into()),
        "here" => {
            let here = socket.namespace().local_sockets();
            return Ok(Value::from_iter(here.iter().map(Socket::id)).into());
        }
        unknown => panic!("no such op: {unknown}"),
    }
    Ok("done".into())
}

/// The sockets of this node that are meant by `to`, or the socket itself.
fn peers(socket: &Socket, spec: &Spec) -> Vec<Socket> {
    if spec.to.is_empty() {
        return vec![socket.clone()];
    }
    spec.to.iter().filter_map(|id| socket.namespace().local_socket(id)).collect()
}

/// Ends all publishers of this process.
static HUSHED: AtomicBool = AtomicBool::new(false);

/// Emits `count` numbered events; gives how many the server took.
async fn publish(namespace: &Namespace, spec: &Spec) -> Any {
    let mut clock = tokio::time::interval(Duration::from_millis(spec.every.max(1)));
    clock.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut published = 0;
    while published < spec.count && !HUSHED.load(Ordering::Relaxed) {
        clock.tick().await;
        for _ in 0..spec.batch.clamp(1, spec.count - published) {
            let event = (&spec.name, published);
            if let Err(error) = namespace.to(&*spec.to).emit(&spec.event, &event).await {
                let error = error.to_string().into();
                return Any::map([("published", json!(published).into()), ("error", error)]);
            }
            published += 1;
        }
    }
    Any::map([("published", json!(published).into())])
}

fn state(socket: &Socket) -> Value {
    let rooms = socket.rooms();
    let mut rooms: Vec<_> = rooms.iter().map(Str::to_string).collect();
    rooms.retain(|room| room != socket.id());
    rooms.sort();
    json!({
        "id": socket.id(),
        "rooms": rooms,
        "data": socket.data::<Value>().unwrap_or_default(),
        "recovered": socket.recovered(),
        "transport": socket.transport().name(),
    })
}
