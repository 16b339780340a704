//! The shared whiteboard: boards by name, kept as long as they fit, on every node that shows them.
//!
//! A client names its board in `auth`: `{board, key}`. The key is the client's secret; its hash is the
//! author's name, so that nobody erases what somebody else has drawn.
//!
//! | event | from | to |
//! |---|---|---|
//! | `author name` | the server, first of all | who has just connected |
//! | `board {epoch, strokes}` | the server, then | who has just connected |
//! | `draw` ([`Chunk`]) | a client | everyone else; answered with `{have}` (what is known), `{refused}` or `{later}` |
//! | `erase` ([`Erasure`]) | a client | everyone else; answered with nothing, `{refused}`, or `{later}` |
//! | `cursor [x, y, colour]` or `null` | a client, volatile | all, gathered in `cursors`, volatile |
//! | `people count` | the server | everyone at the board, whenever it changes |
//! | `rtt` | a client | answered at once |
//!
//! `{later}` tells a client that does too much (`limit`) after how many ms to try again; nothing was done.
//!
//! Draws and erasures go through the cluster's ordered log. Every node sees them there
//! ([`Namespace::on_broadcast`]) and folds them into its own copy of the boards, which is what latecomers
//! get. A node to which a board is new asks the others, and Redis if they do not know it (`store`); what is
//! acknowledged is stored there. Cursors and counts do not need that: they take the ephemeral way, at a
//! bounded rate.

mod board;
mod limit;
mod people;
mod store;
mod welcome;

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use parking_lot::Mutex;
use quicket::config::{LimitsConfig, RedisConfig};
use quicket::{
    Ack, AppCounter, Delivery, EmitError, Namespace, Redis, ServeError, Server, ServerAck, Socket,
};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tokio::sync::watch;

use self::board::{Boards, Change, Chunk, Erasure, Event, Position, Snapshot};
use self::limit::{Allowances, Departed};
use self::people::People;
use self::store::Store;
use self::welcome::Welcomes;

/// The board of those who name none.
const LOBBY: &str = "lobby";
const MAX_NAME_BYTES: usize = 64;
const MAX_KEY_BYTES: usize = 64;
/// Bytes of a hash that make an author's name.
const AUTHOR_BYTES: usize = 9;
/// Strokes of one client that may be under way at once: fingers, and what it sends again.
const STROKES_UNDER_WAY: usize = 64;
const ROOM: &str = "board:";
const ASK: &str = "whiteboard:board";
/// How long a node that is asked about a board waits until it knows as much of the log as who asks.
const CATCH_UP: Duration = Duration::from_secs(1);

/// The whiteboard, for the process.
pub(crate) struct Whiteboard(Arc<App>);

/// Puts the whiteboard on the main namespace. With Redis its boards outlive the nodes.
///
/// # Errors
/// [`ServeError::Bus`] if Redis' address, or a file, cannot be used.
pub(crate) fn install(
    server: &Server,
    redis: &RedisConfig,
    limits: &LimitsConfig,
) -> Result<Whiteboard, ServeError> {
    let namespace = server.of("/");
    let client = Redis::new(redis)?;
    let boards = if client.is_some() { Boards::kept() } else { Boards::default() };
    let boards = Arc::new(Mutex::new(boards));
    let start = |client| {
        let metrics = server.metrics();
        Store::start(client, &redis.stream_name, boards.clone(), &namespace, metrics)
    };
    let app = Arc::new(App {
        namespace: namespace.clone(),
        store: client.map(start),
        boards,
        completed: watch::Sender::new(()),
        welcomes: Arc::default(),
        refusals: Refusals::new(server),
        limits: limits.clone(),
        departed: Mutex::default(),
        people: People::start(&namespace),
    });
    namespace.middleware(async |socket: Socket, _| Seat::of(&socket).map(drop));
    let this = app.clone();
    namespace.on_broadcast(move |delivery| this.follow(delivery));
    let this = app.clone();
    namespace.on_server_side(ASK, move |(name, at): (String, Option<Position>), ack: ServerAck| {
        let app = this.clone();
        async move { ack.send(&app.known(&name, at.unwrap_or_default()).await) }
    });
    let this = app.clone();
    namespace.on_connect(move |socket| {
        let app = this.clone();
        async move { app.seat(socket).await }
    });
    Ok(Whiteboard(app))
}

impl Whiteboard {
    /// Stores what is not stored yet; takes no longer than about a second.
    pub(crate) async fn finish(&self) {
        if let Some(store) = &self.0.store {
            store.finish().await;
        }
    }
}

struct App {
    namespace: Namespace,
    /// Held for moments only, and never while something is emitted: the log is followed under it.
    boards: Arc<Mutex<Boards>>,
    /// Where boards outlive the nodes.
    store: Option<Arc<Store>>,
    /// A board is whole.
    completed: watch::Sender<()>,
    welcomes: Arc<Welcomes>,
    refusals: Refusals,
    limits: LimitsConfig,
    departed: Mutex<Departed>,
    people: People,
}

/// What was not done because a socket does too much.
struct Refusals {
    draws: AppCounter,
    erasures: AppCounter,
    trifles: AppCounter,
}

impl Refusals {
    fn new(server: &Server) -> Self {
        let counter = |name, help| server.metrics().counter(name, help);
        Self {
            draws: counter("whiteboard_draws_refused", "Pieces of strokes above the limit"),
            erasures: counter("whiteboard_erasures_refused", "Erasures above the limit"),
            trifles: counter(
                "whiteboard_trifles_dropped",
                "Cursors and round trips above the limit",
            ),
        }
    }
}

/// Where a client sits.
struct Seat {
    board: String,
    room: String,
    author: String,
    /// Where they came from, and whether that is counted.
    from: IpAddr,
    published: Mutex<VecDeque<Published>>,
    allowances: Mutex<Allowances>,
}

/// How far a stroke under way has been published. The boards learn of it only when the log comes back.
struct Published {
    stroke: String,
    length: usize,
    /// How much of it the boards knew then, and how many strokes had gone because there were too many: it may be among
    /// those that went later.
    seen: usize,
    trimmed: u64,
}

impl Published {
    /// Has it not gone, as far as anybody can tell?
    fn is_there(&self, length: usize, trimmed: u64) -> bool {
        length >= self.seen && (length > 0 || trimmed == self.trimmed)
    }
}

/// What the client says of itself.
#[derive(Deserialize)]
struct Login {
    board: Option<String>,
    key: Option<String>,
}

/// The answer to `draw` and `erase`.
#[derive(Serialize)]
#[serde(rename_all = "lowercase")]
enum Answer {
    Have(usize),
    Refused(&'static str),
    /// Not now: after so many milliseconds.
    Later(u64),
}

impl Seat {
    fn of(socket: &Socket) -> Result<Self, &'static str> {
        let Login { board, key } =
            Login::deserialize(socket.auth()).map_err(|_| "auth is not {board, key}")?;
        let board = board.unwrap_or_else(|| LOBBY.into());
        let letter = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
        if board.is_empty() || board.len() > MAX_NAME_BYTES || !board.bytes().all(letter) {
            return Err("a board's name is 1 to 64 letters, digits, - and _");
        }
        if key.as_ref().is_some_and(|key| key.len() > MAX_KEY_BYTES) {
            return Err("the key is too long");
        }
        let author = match key {
            Some(key) => Sha256::digest(key),
            // The room sees ids (`cursors`), so none may serve as a key: no UTF-8 begins with this byte.
            None => Sha256::new().chain_update([0xff]).chain_update(socket.id()).finalize(),
        };
        let author = URL_SAFE_NO_PAD.encode(&author[..AUTHOR_BYTES]);
        let allowances = Mutex::new(Allowances::new(Instant::now()));
        let (room, from) = (format!("{ROOM}{board}"), socket.handshake().address);
        Ok(Self { room, board, author, from, published: Mutex::default(), allowances })
    }

    /// Is this change one too many? Then what to answer.
    fn is_too_much(&self, numbers: usize, refused: &AppCounter) -> Option<Answer> {
        let wait = self.allowances.lock().change(numbers, Instant::now()).err()?;
        refused.inc();
        // never too early
        Some(Answer::Later(wait.as_millis() as u64 + 1))
    }

    /// How much of a stroke is known, or will be when the log is back.
    fn known(&self, stroke: &str, (length, trimmed): (usize, u64)) -> usize {
        let published = self.published.lock();
        let ahead = published.iter().find(|ahead| ahead.stroke == stroke);
        let ahead = ahead.filter(|ahead| ahead.is_there(length, trimmed));
        ahead.map_or(length, |ahead| length.max(ahead.length))
    }

    /// `length` of it are on the way, where `seen` were there.
    fn publish(&self, stroke: &str, length: usize, (seen, trimmed): (usize, u64)) {
        let mut published = self.published.lock();
        if let Some(ahead) = published.iter_mut().find(|ahead| ahead.stroke == stroke) {
            let before = if ahead.is_there(seen, trimmed) { ahead.length } else { 0 };
            (ahead.length, ahead.seen, ahead.trimmed) = (length.max(before), seen, trimmed);
            return;
        }
        if published.len() == STROKES_UNDER_WAY {
            published.pop_front();
        }
        published.push_back(Published { stroke: stroke.to_owned(), length, seen, trimmed });
    }
}

impl App {
    /// The next event of the log, on its way to the clients of this node.
    fn follow(&self, delivery: &Delivery<'_>) {
        let Some(name) = delivery.rooms().first().and_then(|room| room.strip_prefix(ROOM)) else {
            return;
        };
        let change = match delivery.event() {
            "draw" => delivery.args().decode().map(Change::Draw),
            "erase" => delivery.args().decode().map(Change::Erase),
            _ => return,
        };
        match change {
            Ok(change) => {
                let (at, is_own) = (delivery.position(), delivery.is_own());
                self.boards.lock().apply(name, Event { change, at, is_own });
                if let Some(store) = &self.store {
                    store.hurry();
                }
            }
            Err(error) => tracing::warn!(%error, "another node sent a stroke that cannot be read"),
        }
    }

    /// What another node may be told of a board; nothing while we are asking ourselves. `at` is where that node is:
    /// what is before, it has not kept, and relies on us.
    async fn known(&self, name: &str, at: Position) -> Snapshot {
        let is_there = tokio::time::timeout(CATCH_UP, self.namespace.reached(at)).await.is_ok();
        let boards = self.boards.lock();
        let known = (!boards.is_incomplete(name)).then(|| boards.snapshot(name)).flatten();
        let known = known.unwrap_or_default();
        Snapshot { is_whole: known.is_whole && is_there, ..known }
    }

    /// Lets somebody sit down, with what they may do.
    fn come(&self, seat: &Seat) -> Result<(), &'static str> {
        let from = self.limits.subscriber(seat.from);
        let now = Instant::now();
        if let Some(from) = from {
            *seat.allowances.lock() = self.departed.lock().come(from, now)?;
        }
        let epoch = URL_SAFE_NO_PAD.encode(rand::random::<[u8; AUTHOR_BYTES]>());
        let entered = self.boards.lock().enter(&seat.board, epoch, from);
        if entered.is_err() {
            self.go(seat);
        }
        entered
    }

    /// Keeps what somebody who leaves had not used.
    fn go(&self, seat: &Seat) {
        if let Some(from) = self.limits.subscriber(seat.from) {
            let now = Instant::now();
            let left = std::mem::replace(&mut *seat.allowances.lock(), Allowances::new(now));
            self.departed.lock().leave(from, left, now);
        }
    }

    async fn seat(self: Arc<Self>, socket: Socket) -> Result<(), Failure> {
        let seat = Arc::new(Seat::of(&socket).map_err(Failure::Refused)?);
        if let Err(why) = self.come(&seat) {
            socket.disconnect(false);
            return Err(Failure::Refused(why));
        }
        let (this, left) = (self.clone(), seat.clone());
        socket.on_disconnect(move |socket, _| {
            this.go(&left);
            this.boards.lock().leave(&left.board);
            this.people.leave(&left.board, socket.id(), || this.viewers(&left.board));
            async {}
        });
        self.listen(&socket, &seat);
        // Joined first, asked then: what comes in between is in both, and viewers can tell.
        socket.join(seat.room.as_str());
        self.complete(&seat.board).await;
        socket.transient().emit("author", &seat.author).await?;
        let picture = self.welcomes.picture(&self.namespace, &self.boards, &seat.board)?;
        // every connection begins with it, that of a session that goes on as well
        socket.transient().emit_prepared(&picture).await?;
        if let Some(store) = &self.store {
            self.boards.lock().verify_author(&seat.board, &seat.author);
            store.hurry();
        }
        self.people.enter(&seat.board, || self.viewers(&seat.board));
        Ok(())
    }

    fn listen(self: &Arc<Self>, socket: &Socket, seat: &Arc<Seat>) {
        let (app, at) = (self.clone(), seat.clone());
        socket.on("draw", move |socket: Socket, chunk: Chunk, ack: Ack| {
            let (app, seat) = (app.clone(), at.clone());
            async move { app.draw(socket, &seat, chunk, ack).await }
        });
        let (app, at) = (self.clone(), seat.clone());
        socket.on("erase", move |socket: Socket, erasure: Erasure, ack: Ack| {
            let (app, seat) = (app.clone(), at.clone());
            async move { app.erase(socket, &seat, erasure, ack).await }
        });
        let (app, at) = (self.clone(), seat.clone());
        socket.on("cursor", move |socket: Socket, cursor: Option<people::Cursor>| {
            if app.may_trifle(&at) {
                app.people.point(&at.board, socket.id(), cursor);
            }
            async {}
        });
        let (app, at) = (self.clone(), seat.clone());
        socket.on("rtt", move |_: Socket, (): (), ack: Ack| {
            let is_answered = app.may_trifle(&at);
            async move { if is_answered { ack.send(&()) } else { Ok(()) } }
        });
    }

    fn may_trifle(&self, seat: &Seat) -> bool {
        let may = seat.allowances.lock().trifle(Instant::now());
        if !may {
            self.refusals.trifles.inc();
        }
        may
    }

    fn viewers(&self, board: &str) -> usize {
        self.boards.lock().viewers(board)
    }

    /// Asks about a board that is new here, once for all who come to it.
    async fn complete(self: &Arc<Self>, name: &str) {
        let mut completed = self.completed.subscribe();
        if let Some(claim) = self.boards.lock().claim(name) {
            // a task of its own: who came first may be gone before the answer is there
            tokio::spawn(self.clone().ask(name.to_owned(), claim));
        }
        // it is never closed
        let _ = completed.wait_for(|()| !self.boards.lock().is_incomplete(name)).await;
    }

    /// The other nodes first: they know what is not stored yet.
    async fn ask(self: Arc<Self>, name: String, claim: String) {
        // from here on what comes is kept for it
        let at = self.namespace.position();
        let answers = self.namespace.server_side_emit_with_ack(ASK, &(&name, at)).await;
        // Whoever did not answer has less to say than the people who wait.
        let known: Vec<Snapshot> = answers.received;
        let is_whole = known.iter().any(|snapshot| snapshot.is_whole);
        let stored = match &self.store {
            // a board that Redis does not tell of now gets it later
            Some(store) if !is_whole => store.load(&name).await.ok(),
            _ => None,
        };
        self.boards.lock().complete(&name, &claim, known, stored);
        self.completed.send_replace(());
    }

    async fn draw(
        &self,
        socket: Socket,
        seat: &Seat,
        chunk: Chunk,
        ack: Ack,
    ) -> Result<(), EmitError> {
        if let Err(why) = chunk.check() {
            return ack.send(&Answer::Refused(why));
        }
        if let Some(later) = seat.is_too_much(chunk.p.len(), &self.refusals.draws) {
            return ack.send(&later);
        }
        let known_here = self.boards.lock().len(&seat.board, &seat.author, &chunk.s);
        let known = seat.known(&chunk.s, known_here);
        if chunk.i > known {
            // Its beginning was lost with a node, or is too old for a full board; the client sends it again.
            return ack.send(&Answer::Have(known));
        }
        let chunk = Chunk { a: seat.author.clone(), ..chunk };
        let length = chunk.i + chunk.p.len();
        socket.to(seat.room.as_str()).emit("draw", &chunk).await?;
        seat.publish(&chunk.s, length, known_here);
        let (board, key) = (seat.board.clone(), (chunk.a, chunk.s));
        let is_stored = move |boards: &Boards| boards.is_drawing_kept(&board, &key, length);
        self.answer(ack, is_stored, Answer::Have(length.max(known)))
    }

    async fn erase(
        &self,
        socket: Socket,
        seat: &Seat,
        erasure: Erasure,
        ack: Ack,
    ) -> Result<(), EmitError> {
        if let Err(why) = erasure.check() {
            return ack.send(&Answer::Refused(why));
        }
        if let Some(later) = seat.is_too_much(erasure.s.len(), &self.refusals.erasures) {
            return ack.send(&later);
        }
        let erasure = Erasure { a: seat.author.clone(), ..erasure };
        socket.to(seat.room.as_str()).emit("erase", &erasure).await?;
        let Erasure { a, s } = erasure;
        let board = seat.board.clone();
        let keys: Vec<_> = s.into_iter().map(|name| (a.clone(), name)).collect();
        self.boards.lock().erase_again(&board, &keys);
        let is_stored = move |boards: &Boards| boards.is_erasure_kept(&board, &keys);
        self.answer(ack, is_stored, ())
    }

    /// Answers when what was asked for is stored, while the next event is handled already.
    fn answer<T: Serialize + Send + 'static>(
        &self,
        ack: Ack,
        is_stored: impl Fn(&Boards) -> bool + Send + Sync + 'static,
        answer: T,
    ) -> Result<(), EmitError> {
        match &self.store {
            Some(store) if ack.is_wanted() => {
                let store = store.clone();
                tokio::spawn(async move {
                    store.until(is_stored).await;
                    // who has left wants no answer
                    let _ = ack.send(&answer);
                });
                Ok(())
            }
            _ => ack.send(&answer),
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("{0}")]
    Refused(&'static str),
    #[error(transparent)]
    Emit(#[from] EmitError),
}

#[cfg(test)]
#[path = "whiteboard/ask_tests.rs"]
mod ask_tests;
