//! What has been drawn: boards as values, no I/O. Every node folds the same ordered log of events into
//! them, and viewers do the same, so what a latecomer is shown continues without a gap or a repetition.

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};

/// Boards that one node keeps. Those that nobody looks at go first, the one left longest ago before all.
pub(super) const MAX_BOARDS: usize = 200;
/// Strokes of one board; the oldest go first.
pub(super) const MAX_STROKES: usize = 2_000;
/// Numbers (coordinates, pressures) of one board, 4 bytes each; the oldest strokes go first.
pub(super) const MAX_NUMBERS: usize = 150_000;
/// Numbers of one stroke. The page goes on with another stroke before that.
pub(super) const MAX_STROKE_NUMBERS: usize = 6_000;
/// Events kept for a board while the other nodes are asked about it.
const MAX_WAITING: usize = 5_000;
/// Erased strokes named in one event.
pub(super) const MAX_ERASED: usize = 500;
const MAX_ID_BYTES: usize = 24;
const MAX_COLOR_BYTES: usize = 24;
/// Tenths of a point of the board, either way from its middle.
const MAX_COORDINATE: u32 = 1_000_000;

/// Some more of a stroke: event `draw`, and the same to everyone else with its author in `a`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Chunk {
    /// Who draws; what a client says here counts for nothing.
    #[serde(default)]
    pub(super) a: String,
    /// The stroke, unique for its author.
    pub(super) s: String,
    /// How many numbers of the stroke come before these.
    pub(super) i: usize,
    /// `x, y` of each point, or `x, y, pressure`; in tenths of a point, pressure 0 to 255.
    pub(super) p: Vec<i32>,
    /// How it is drawn; with the first piece only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) style: Option<Style>,
}

/// How a stroke is drawn.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Style {
    /// A CSS colour's name, or `#` and digits.
    pub(super) c: String,
    /// Width, in points of the board.
    pub(super) w: u8,
    /// Numbers for each point: 2, or 3 with pressure.
    pub(super) k: u8,
}

/// Strokes that their author takes back: event `erase`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Erasure {
    /// Whose; what a client says here counts for nothing.
    #[serde(default)]
    pub(super) a: String,
    /// Which strokes.
    pub(super) s: Vec<String>,
}

/// What changes a board.
#[derive(Clone, Debug)]
pub(super) enum Change {
    Draw(Chunk),
    Erase(Erasure),
}

/// A whole stroke, as latecomers and other nodes get it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Stroke {
    a: String,
    s: String,
    style: Style,
    p: Vec<i32>,
}

/// A board as it is now.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Snapshot {
    /// Changes when a board was lost: then authors bring their own strokes again.
    pub(super) epoch: String,
    /// Oldest first.
    pub(super) strokes: Vec<Stroke>,
}

impl Chunk {
    /// Is it what the page would send?
    ///
    /// # Errors
    /// What is wrong with it, for the client.
    pub(super) fn check(&self) -> Result<(), &'static str> {
        check_id(&self.s)?;
        if self.i.saturating_add(self.p.len()) > MAX_STROKE_NUMBERS {
            return Err("the stroke is too long");
        }
        if self.p.is_empty() || self.p.iter().any(|number| number.unsigned_abs() > MAX_COORDINATE) {
            return Err("not on the board");
        }
        match &self.style {
            Some(style) => style.check(),
            None if self.i == 0 => Err("a stroke begins with its style"),
            None => Ok(()),
        }
    }
}

impl Style {
    fn check(&self) -> Result<(), &'static str> {
        let letter = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'#';
        if self.c.is_empty() || self.c.len() > MAX_COLOR_BYTES || !self.c.bytes().all(letter) {
            return Err("not a colour");
        }
        match (self.w, self.k) {
            (1..=64, 2 | 3) => Ok(()),
            _ => Err("not a pen"),
        }
    }
}

impl Erasure {
    /// # Errors
    /// What is wrong with it, for the client.
    pub(super) fn check(&self) -> Result<(), &'static str> {
        if self.s.len() > MAX_ERASED {
            return Err("too many at once");
        }
        self.s.iter().try_for_each(|id| check_id(id))
    }
}

fn check_id(id: &str) -> Result<(), &'static str> {
    let letter = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'.';
    if id.is_empty() || id.len() > MAX_ID_BYTES || !id.bytes().all(letter) {
        return Err("not a stroke's name");
    }
    Ok(())
}

/// One board.
#[derive(Debug)]
struct Board {
    epoch: String,
    /// In the order in which they were begun.
    strokes: BTreeMap<u64, Stroke>,
    /// Author, then name: the key in `strokes`.
    places: HashMap<String, HashMap<String, u64>>,
    next: u64,
    numbers: usize,
    /// What happened since the other nodes were asked; `None` once they have answered.
    waiting: Option<Vec<Change>>,
    viewers: usize,
    /// When it was last left, counted in leavings.
    left: u64,
}

impl Board {
    fn new(epoch: String) -> Self {
        Self {
            epoch,
            strokes: BTreeMap::new(),
            places: HashMap::new(),
            next: 0,
            numbers: 0,
            waiting: Some(Vec::new()),
            viewers: 0,
            left: 0,
        }
    }

    fn place(&self, author: &str, stroke: &str) -> Option<u64> {
        self.places.get(author)?.get(stroke).copied()
    }

    fn len(&self, author: &str, stroke: &str) -> usize {
        let place = self.place(author, stroke);
        place.and_then(|place| self.strokes.get(&place)).map_or(0, |stroke| stroke.p.len())
    }

    fn apply(&mut self, change: Change) {
        match change {
            Change::Draw(chunk) => self.draw(chunk),
            Change::Erase(Erasure { a, s }) => {
                for stroke in s {
                    if let Some(place) = self.place(&a, &stroke) {
                        self.forget(place);
                    }
                }
            }
        }
    }

    /// What is known already is not drawn again; what leaves a gap is not drawn at all, for its author
    /// sends it again from where we are.
    fn draw(&mut self, chunk: Chunk) {
        if let Some(place) = self.place(&chunk.a, &chunk.s) {
            let Some(stroke) = self.strokes.get_mut(&place) else { return };
            let Some(known) = stroke.p.len().checked_sub(chunk.i) else { return };
            let more = chunk.p.get(known..).unwrap_or_default();
            self.numbers += more.len();
            stroke.p.extend_from_slice(more);
        } else if let (0, Some(style)) = (chunk.i, chunk.style) {
            self.insert(Stroke { a: chunk.a, s: chunk.s, style, p: chunk.p });
        }
        self.trim();
    }

    fn insert(&mut self, stroke: Stroke) {
        let place = self.next;
        self.next += 1;
        self.numbers += stroke.p.len();
        let of_author = self.places.entry(stroke.a.clone()).or_default();
        of_author.insert(stroke.s.clone(), place);
        self.strokes.insert(place, stroke);
    }

    fn forget(&mut self, place: u64) {
        let Some(stroke) = self.strokes.remove(&place) else { return };
        self.numbers -= stroke.p.len();
        if let Some(of_author) = self.places.get_mut(&stroke.a) {
            of_author.remove(&stroke.s);
            if of_author.is_empty() {
                self.places.remove(&stroke.a);
            }
        }
    }

    fn trim(&mut self) {
        while self.strokes.len() > MAX_STROKES || self.numbers > MAX_NUMBERS {
            let Some((&oldest, _)) = self.strokes.first_key_value() else { return };
            self.forget(oldest);
        }
    }

    /// Takes over what another node has; the longer of two equal strokes is the newer one.
    fn adopt(&mut self, snapshot: Snapshot) {
        if self.strokes.is_empty() && !snapshot.epoch.is_empty() {
            self.epoch = snapshot.epoch;
        }
        for stroke in snapshot.strokes {
            if self.len(&stroke.a, &stroke.s) >= stroke.p.len() {
                continue;
            }
            if let Some(place) = self.place(&stroke.a, &stroke.s) {
                self.forget(place);
            }
            self.insert(stroke);
        }
        self.trim();
    }
}

/// The boards of one node.
#[derive(Debug, Default)]
pub(super) struct Boards {
    boards: HashMap<String, Board>,
    leavings: u64,
}

impl Boards {
    /// Somebody comes to a board. `epoch` is for one that is new here.
    ///
    /// # Errors
    /// There are [`MAX_BOARDS`] with people at them.
    pub(super) fn enter(&mut self, name: &str, epoch: String) -> Result<(), &'static str> {
        if !self.boards.contains_key(name) {
            self.make_room()?;
            self.boards.insert(name.to_owned(), Board::new(epoch));
        }
        if let Some(board) = self.boards.get_mut(name) {
            board.viewers += 1;
        }
        Ok(())
    }

    fn make_room(&mut self) -> Result<(), &'static str> {
        if self.boards.len() < MAX_BOARDS {
            return Ok(());
        }
        let unused = self.boards.iter().filter(|(_, board)| board.viewers == 0);
        let oldest = unused.min_by_key(|(_, board)| board.left).map(|(name, _)| name.clone());
        let oldest = oldest.ok_or("there are too many boards in use")?;
        self.boards.remove(&oldest);
        Ok(())
    }

    /// Somebody leaves.
    pub(super) fn leave(&mut self, name: &str) {
        self.leavings += 1;
        if let Some(board) = self.boards.get_mut(name) {
            board.viewers = board.viewers.saturating_sub(1);
            board.left = self.leavings;
        }
    }

    /// How many are at a board here.
    pub(super) fn viewers(&self, name: &str) -> usize {
        self.boards.get(name).map_or(0, |board| board.viewers)
    }

    /// Applies the next event of the log. Boards that nobody has opened here are not followed: the first
    /// to open one asks the other nodes.
    pub(super) fn apply(&mut self, name: &str, change: Change) {
        let Some(board) = self.boards.get_mut(name) else { return };
        match &mut board.waiting {
            Some(waiting) if waiting.len() < MAX_WAITING => waiting.push(change),
            // so long a wait means that nobody answers
            Some(_) => {
                self.complete(name, Vec::new());
                self.apply(name, change);
            }
            None => board.apply(change),
        }
    }

    /// Do the other nodes have to be asked?
    pub(super) fn is_incomplete(&self, name: &str) -> bool {
        self.boards.get(name).is_some_and(|board| board.waiting.is_some())
    }

    /// The other nodes have answered, or did not.
    pub(super) fn complete(&mut self, name: &str, snapshots: Vec<Snapshot>) {
        let Some(board) = self.boards.get_mut(name) else { return };
        for snapshot in snapshots {
            board.adopt(snapshot);
        }
        for change in board.waiting.take().unwrap_or_default() {
            board.apply(change);
        }
    }

    /// How much of a stroke is known.
    pub(super) fn len(&self, name: &str, author: &str, stroke: &str) -> usize {
        self.boards.get(name).map_or(0, |board| board.len(author, stroke))
    }

    /// The board as it is now, `None` if it is not known here.
    pub(super) fn snapshot(&self, name: &str) -> Option<Snapshot> {
        let board = self.boards.get(name)?;
        let strokes = board.strokes.values().cloned().collect();
        Some(Snapshot { epoch: board.epoch.clone(), strokes })
    }
}

#[cfg(test)]
#[path = "board_tests.rs"]
mod tests;
