//! The benchmark's application on this server; takes the flags of the `quicket` binary.
//!
//! | event | does |
//! |---|---|
//! | `drawing x` | `drawing x` to everyone else |
//! | `join room` + ack | joins the room, and `say` goes there from now on |
//! | `aim room` + ack | `say` goes there, without joining |
//! | `say x` | `said x` to the others in the room |
//! | `echo ...` + ack | answers what came |

use quicket::config::{Command, Config};
use quicket::{Ack, Event, Namespace, ServeError, Server, Socket};

/// The one that the `quicket` binary ships with.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

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
    server.serve().await?;
    Ok(())
}

fn install(namespace: &Namespace) {
    namespace.on_connect(|socket| async move {
        socket.on("drawing", |socket: Socket, line: Event| async move {
            socket.broadcast().emit_args(line.args()).await
        });
        socket.on("join", |socket: Socket, room: String, ack: Ack| async move {
            socket.set_data(&room).expect("a string is JSON");
            socket.join(room);
            ack.send(&())
        });
        socket.on("aim", |socket: Socket, room: String, ack: Ack| async move {
            socket.set_data(&room).expect("a string is JSON");
            ack.send(&())
        });
        socket.on("say", |socket: Socket, words: Event| async move {
            let room: String = socket.data().unwrap_or_default();
            socket.to(room).emit_args(&words.args().renamed(Some("said"))?).await
        });
        socket.on(
            "echo",
            |_: Socket, echo: Event, ack: Ack| async move { ack.send_args(echo.args()) },
        );
    });
}
