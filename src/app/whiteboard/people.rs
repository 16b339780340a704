//! Who is here: counts and cursors, over all nodes. None of it is kept or repeated; what is lost is
//! replaced by what comes next.
//!
//! Everything is gathered for a moment, so that a board costs each node a bounded number of events a
//! second, however many people move at it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use quicket::{Namespace, ServerAck};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::ROOM;

/// Cursors and counts are gathered for so long.
const TICK: Duration = Duration::from_millis(50);
/// How often a node says again how many it has.
const REPEAT: Duration = Duration::from_secs(10);
/// A node that was not heard of for so long counts no more.
const LEASE: Duration = Duration::from_secs(25);
/// Cursors of one board in one event; others wait for the next.
const MAX_CURSORS: usize = 100;
/// Other nodes that are counted for one board.
const MAX_NODES: usize = 100;
const MAX_COLOR_BYTES: usize = 24;
const CURSORS: &str = "whiteboard:cursors";
const HERE: &str = "whiteboard:here";

/// Where a client points: tenths of a point from the board's middle, and the pen's colour.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Cursor(i32, i32, String);

/// Socket id, and where it points if it still does.
type Moves = HashMap<String, Option<Cursor>>;

/// How many are at a board on one node.
#[derive(Serialize, Deserialize)]
struct Here {
    node: String,
    board: String,
    count: usize,
    /// Shall the others say it too? A node that has just come to a board knows nobody.
    ask: bool,
}

#[derive(Default)]
struct Board {
    here: usize,
    elsewhere: HashMap<String, (usize, Instant)>,
    moves: Moves,
    /// What has changed since the last tick.
    say: bool,
    ask: bool,
    show: bool,
}

impl Board {
    fn count(&self) -> usize {
        self.here + self.elsewhere.values().map(|(count, _)| count).sum::<usize>()
    }
}

#[derive(Default)]
struct State {
    boards: HashMap<String, Board>,
}

struct Shared {
    namespace: Namespace,
    node: String,
    state: Mutex<State>,
    changed: Notify,
}

/// The people at the boards.
pub(super) struct People(Arc<Shared>);

impl People {
    /// Starts the task that tells about them.
    pub(super) fn start(namespace: &Namespace) -> Self {
        let shared = Arc::new(Shared {
            namespace: namespace.clone(),
            node: format!("{:016x}", rand::random::<u64>()),
            state: Mutex::default(),
            changed: Notify::new(),
        });
        let this = shared.clone();
        namespace.on_server_side(HERE, move |here: Here, _: ServerAck| {
            this.hear(here);
            async {}
        });
        let this = namespace.clone();
        namespace.on_server_side(
            CURSORS,
            move |(board, moves): (String, serde_json::Value), _: ServerAck| {
                let namespace = this.clone();
                async move { show(&namespace, &board, &moves).await }
            },
        );
        tokio::spawn(shared.clone().run());
        Self(shared)
    }

    /// Somebody came to a board. `count` tells how many are here now; it is asked under the lock, since of two who
    /// count the one who is told later is to be the one who has counted later.
    pub(super) fn enter(&self, board: &str, count: impl FnOnce() -> usize) {
        self.0.change(board, |board| {
            board.ask |= board.here == 0;
            (board.here, board.say, board.show) = (count(), true, true);
        });
    }

    /// Somebody left. `count` as above.
    pub(super) fn leave(&self, board: &str, socket: &str, count: impl FnOnce() -> usize) {
        self.0.change(board, |board| {
            (board.here, board.say, board.show) = (count(), true, true);
            board.moves.insert(socket.to_owned(), None);
        });
    }

    /// Somebody points somewhere, or nowhere any more.
    pub(super) fn point(&self, board: &str, socket: &str, cursor: Option<Cursor>) {
        if cursor.as_ref().is_some_and(|cursor| cursor.2.len() > MAX_COLOR_BYTES) {
            return;
        }
        self.0.change(board, |board| {
            if board.moves.len() < MAX_CURSORS || board.moves.contains_key(socket) {
                board.moves.insert(socket.to_owned(), cursor);
            }
        });
    }
}

/// What one tick has to tell about one board.
struct News {
    board: String,
    moves: Moves,
    say: Option<Here>,
    show: Option<usize>,
}

impl Shared {
    fn change(&self, name: &str, change: impl FnOnce(&mut Board)) {
        change(self.state.lock().boards.entry(name.to_owned()).or_default());
        self.changed.notify_one();
    }

    fn hear(&self, here: Here) {
        let mut state = self.state.lock();
        // a board that is of interest here only
        let Some(board) = state.boards.get_mut(&here.board) else { return };
        if here.count == 0 {
            board.elsewhere.remove(&here.node);
        } else if board.elsewhere.len() < MAX_NODES || board.elsewhere.contains_key(&here.node) {
            board.elsewhere.insert(here.node, (here.count, Instant::now()));
        }
        board.say |= here.ask && board.here > 0;
        board.show = true;
        drop(state);
        self.changed.notify_one();
    }

    async fn run(self: Arc<Self>) {
        let mut repeat = tokio::time::interval(REPEAT);
        loop {
            tokio::select! {
                () = self.changed.notified() => tokio::time::sleep(TICK).await,
                _ = repeat.tick() => self.repeat(),
            }
            for news in self.gather() {
                // volatile, counted again soon: not worth more than the library's own log line
                let _ = self.tell(news).await;
            }
        }
    }

    /// Says all counts again, and forgets nodes that do not.
    fn repeat(&self) {
        let now = Instant::now();
        for board in self.state.lock().boards.values_mut() {
            let before = board.elsewhere.len();
            board.elsewhere.retain(|_, (_, heard)| now.duration_since(*heard) < LEASE);
            board.show |= board.elsewhere.len() != before;
            board.say |= board.here > 0;
        }
    }

    fn gather(&self) -> Vec<News> {
        let mut state = self.state.lock();
        let mut news = Vec::new();
        for (name, board) in &mut state.boards {
            let say = std::mem::take(&mut board.say).then(|| Here {
                node: self.node.clone(),
                board: name.clone(),
                count: board.here,
                ask: std::mem::take(&mut board.ask),
            });
            let show = std::mem::take(&mut board.show).then(|| board.count());
            let moves = std::mem::take(&mut board.moves);
            if say.is_some() || show.is_some() || !moves.is_empty() {
                news.push(News { board: name.clone(), moves, say, show });
            }
        }
        state.boards.retain(|_, board| board.here > 0);
        news
    }

    async fn tell(&self, news: News) -> Result<(), quicket::EmitError> {
        let room = format!("{ROOM}{}", news.board);
        if let Some(count) = news.show {
            self.namespace.local().to(&room).emit("people", &count).await?;
        }
        if let Some(here) = news.say {
            self.namespace.server_side_emit(HERE, &here).await?;
        }
        if !news.moves.is_empty() {
            show(&self.namespace, &news.board, &news.moves).await?;
            self.namespace.server_side_emit(CURSORS, &(&news.board, &news.moves)).await?;
        }
        Ok(())
    }
}

/// To the people of this node.
async fn show(
    namespace: &Namespace,
    board: &str,
    moves: &impl Serialize,
) -> Result<(), quicket::EmitError> {
    let room = format!("{ROOM}{board}");
    namespace.local().to(&room).volatile().emit("cursors", moves).await
}
