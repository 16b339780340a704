//! A chat with rooms, the application of the README:
//! `cargo run --example chat`, then from any page or program with the official client
//!
//! ```js
//! const socket = io("http://localhost:3000", { auth: { name: "Ada" } });
//! socket.on("said", (name, text) => console.log(`${name}: ${text}`));
//! socket.emit("join", "tea");
//! socket.emit("say", "tea", "Hello!");
//! ```

use quicket::config::{Config, Listen};
use quicket::{Server, Socket};

#[tokio::main]
async fn main() -> Result<(), quicket::ServeError> {
    let server = Server::builder().config(config()).build().await?;
    let chat = server.of("/");
    // who gives no name does not come in
    chat.middleware(|socket, auth| async move {
        let login: Login = auth.decode().map_err(|_| "who are you?".to_owned())?;
        socket.set_data(login).map_err(|error| error.to_string())
    });
    chat.on_connect(|socket| async move {
        socket.on("join", |socket: Socket, room: String| async move { socket.join(room) });
        socket.on("leave", |socket: Socket, room: String| async move { socket.leave(room) });
        socket.on("say", |socket: Socket, (room, text): (String, String)| async move {
            let name = socket.data::<Login>().map_or_else(|_| "?".into(), |login| login.name);
            socket.to(room).emit("said", &(name, text)).await
        });
    });
    println!("listening on {}", server.bind().await?);
    server.serve().await.map(drop)
}

#[derive(serde::Serialize, serde::Deserialize)]
struct Login {
    name: String,
}

/// Port 3000, or what `PORT` says; everything else is as it comes.
fn config() -> Config {
    let port = std::env::var("PORT").ok().and_then(|port| port.parse().ok()).unwrap_or(3000);
    Config { listen: Listen { port, ..Listen::default() }, ..Config::default() }
}
