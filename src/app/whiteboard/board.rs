//! What has been drawn: boards as values, no I/O. Every node folds the same ordered log of events into
//! them, and viewers do the same, so what a latecomer is shown continues without a gap or a repetition.

mod ledger;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use self::ledger::Ledger;
pub(super) use self::ledger::{Batch, Key, Op, Outcome};

/// Boards that one node keeps. Those that nobody looks at go first, the one left longest ago before all.
pub(super) const MAX_BOARDS: usize = 200;
/// Boards in use that people of one address have opened: others are to find room, too.
pub(super) const MAX_OPENED: usize = 25;
/// Strokes of one board. The author who has most loses the oldest, so that nobody wipes what others have drawn.
pub(super) const MAX_STROKES: usize = 2_000;
/// Numbers (coordinates, pressures) of one board, 4 bytes each. The same: it is the author who has most of them.
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

/// Where something stands in the log: the same on every node.
pub(super) type Position = (u64, u64);

/// A change as the log brings it.
#[derive(Clone, Debug)]
pub(super) struct Event {
    pub(super) change: Change,
    pub(super) at: Position,
    /// Did this node broadcast it? Then it is this node that stores it.
    pub(super) is_own: bool,
}

/// A whole stroke, as latecomers and other nodes get it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Stroke {
    pub(super) a: String,
    pub(super) s: String,
    pub(super) style: Style,
    pub(super) p: Vec<i32>,
    /// Where it was begun; strokes lie upon each other in that order.
    #[serde(skip)]
    pub(super) at: Position,
    /// How many of its numbers the store has, as far as this node knows.
    #[serde(skip)]
    stored: usize,
    /// May this node have stored some of it?
    #[serde(skip)]
    is_tried: bool,
    /// May others have?
    #[serde(skip)]
    is_of_others: bool,
}

/// A board as it is now.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Snapshot {
    /// Changes when a board was lost: then authors bring their own strokes again.
    pub(super) epoch: String,
    /// Oldest first.
    pub(super) strokes: Vec<Stroke>,
    /// Of each stroke, for other nodes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) at: Vec<Position>,
    /// For other nodes: is it all that there is, so that the store need not be asked?
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) is_whole: bool,
}

impl Stroke {
    /// One that is begun nowhere yet.
    pub(super) fn new(author: &str, name: &str, style: Style, p: Vec<i32>) -> Self {
        Self { a: author.to_owned(), s: name.to_owned(), style, p, ..Self::default() }
    }

    /// Could it have been drawn?
    pub(super) fn is_fit(&self) -> bool {
        let chunk = Chunk { s: self.s.clone(), p: self.p.clone(), ..Chunk::default() };
        Chunk { style: Some(self.style.clone()), ..chunk }.check().is_ok()
    }
}

impl From<Stroke> for Chunk {
    fn from(Stroke { a, s, style, p, .. }: Stroke) -> Self {
        Self { a, s, i: 0, p, style: Some(style) }
    }
}

impl Snapshot {
    /// What it takes in the store.
    pub(super) fn kib(&self) -> u64 {
        let numbers = self.strokes.iter().map(|stroke| stroke.p.len()).sum();
        ledger::stored_kib(self.strokes.len(), numbers)
    }

    /// As a viewer gets it.
    pub(super) fn for_viewers(self) -> Self {
        Self { at: Vec::new(), is_whole: false, ..self }
    }
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

/// Where a stroke lies: first by the log, then by its coming here.
type Place = (Position, u64);

/// A state of a board, and of no other: the same version, the same strokes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(test, derive(Hash))]
pub(super) struct Version {
    epoch: String,
    life: u64,
    /// Strokes that ever came, those that are there, and their numbers: what comes changes the first or the last, what
    /// goes the second for good.
    counts: (u64, usize, usize),
}

/// One board.
#[derive(Debug)]
struct Board {
    epoch: String,
    /// Boards of this node that came before it.
    life: u64,
    strokes: BTreeMap<Place, Stroke>,
    authors: HashMap<String, Author>,
    next: u64,
    numbers: usize,
    /// Strokes that went because there were too many.
    trimmed: u64,
    /// What happened since the other nodes were asked; `None` once they have answered.
    waiting: Option<Vec<Event>>,
    /// Is somebody asking?
    is_claimed: bool,
    /// What is to be stored, where there is a store.
    ledger: Option<Ledger>,
    viewers: usize,
    /// Where the first of them came from, if that is counted.
    opener: Option<IpAddr>,
    /// When it was last left, counted in leavings.
    left: u64,
}

/// What one author has on a board.
#[derive(Debug, Default)]
struct Author {
    /// By the strokes' names.
    places: HashMap<String, Place>,
    /// The same, the oldest first.
    order: BTreeSet<Place>,
    numbers: usize,
}

impl Board {
    fn new(epoch: String, life: u64, ledger: Option<Ledger>) -> Self {
        Self {
            epoch,
            life,
            strokes: BTreeMap::new(),
            authors: HashMap::new(),
            next: 0,
            numbers: 0,
            trimmed: 0,
            waiting: Some(Vec::new()),
            is_claimed: false,
            ledger,
            viewers: 0,
            opener: None,
            left: 0,
        }
    }

    fn place(&self, author: &str, stroke: &str) -> Option<Place> {
        self.authors.get(author)?.places.get(stroke).copied()
    }

    fn stroke(&self, author: &str, stroke: &str) -> Option<&Stroke> {
        self.strokes.get(&self.place(author, stroke)?)
    }

    fn len(&self, author: &str, stroke: &str) -> usize {
        self.stroke(author, stroke).map_or(0, |stroke| stroke.p.len())
    }

    fn apply(&mut self, Event { change, at, is_own }: Event) {
        match change {
            Change::Draw(chunk) => self.draw(chunk, at, is_own),
            Change::Erase(Erasure { a, s }) => {
                for stroke in s {
                    let gone = self.place(&a, &stroke).and_then(|place| self.forget(place));
                    if let Some(ledger) = &mut self.ledger {
                        ledger.erased((a.clone(), stroke), gone.as_ref(), is_own);
                    }
                }
            }
        }
    }

    /// What is known already is not drawn again; what leaves a gap is not drawn at all, for its author
    /// sends it again from where we are.
    fn draw(&mut self, chunk: Chunk, at: Position, is_own: bool) {
        let key = (chunk.a.clone(), chunk.s.clone());
        if let Some(place) = self.place(&chunk.a, &chunk.s) {
            let Some(stroke) = self.strokes.get_mut(&place) else { return };
            let Some(known) = stroke.p.len().checked_sub(chunk.i) else { return };
            let more = chunk.p.get(known..).unwrap_or_default();
            self.numbers += more.len();
            if let Some(of) = self.authors.get_mut(&key.0) {
                of.numbers += more.len();
            }
            stroke.p.extend_from_slice(more);
            stroke.is_of_others |= !is_own;
        } else if let (0, Some(style)) = (chunk.i, chunk.style) {
            let stroke = Stroke::new(&chunk.a, &chunk.s, style, chunk.p);
            self.insert(Stroke { at, is_of_others: !is_own, ..stroke });
        } else {
            return;
        }
        if is_own && let Some(ledger) = &mut self.ledger {
            ledger.drawn(key.clone());
        }
        self.trim(Some(&key), is_own);
    }

    fn insert(&mut self, stroke: Stroke) {
        let place = (stroke.at, self.next);
        self.next += 1;
        self.numbers += stroke.p.len();
        let of = self.authors.entry(stroke.a.clone()).or_default();
        of.places.insert(stroke.s.clone(), place);
        of.order.insert(place);
        of.numbers += stroke.p.len();
        self.strokes.insert(place, stroke);
    }

    fn forget(&mut self, place: Place) -> Option<Stroke> {
        let stroke = self.strokes.remove(&place)?;
        self.numbers -= stroke.p.len();
        if let Some(of) = self.authors.get_mut(&stroke.a) {
            of.places.remove(&stroke.s);
            of.order.remove(&place);
            of.numbers -= stroke.p.len();
            if of.places.is_empty() {
                self.authors.remove(&stroke.a);
            }
        }
        Some(stroke)
    }

    /// `is_own`: this node removes from the store what goes. `drawn`: just now, so that it stays.
    fn trim(&mut self, drawn: Option<&Key>, is_own: bool) {
        while self.strokes.len() > MAX_STROKES || self.numbers > MAX_NUMBERS {
            let Some(surplus) = self.surplus(drawn) else { return };
            self.trimmed += 1;
            let gone = self.forget(surplus);
            if let (Some(ledger), Some(gone)) = (&mut self.ledger, gone) {
                ledger.erased((gone.a.clone(), gone.s.clone()), Some(&gone), is_own);
            }
        }
    }

    /// What goes when there is too much: the oldest stroke of the author who has most, the one with the older stroke of
    /// two who have as much.
    fn surplus(&self, drawn: Option<&Key>) -> Option<Place> {
        let weight = |of: &Author| match self.strokes.len() > MAX_STROKES {
            true => of.places.len(),
            false => of.numbers,
        };
        let drawn = drawn.and_then(|(author, name)| self.place(author, name));
        let candidates = self.authors.values().filter_map(|of| {
            let oldest = of.order.iter().find(|place| Some(**place) != drawn)?;
            Some((weight(of), Reverse(*oldest)))
        });
        candidates.max().map(|(_, Reverse(place))| place)
    }

    /// Takes over what another node, or the store, has; the longer of two equal strokes is the newer one. Gives
    /// what was new here.
    fn adopt(&mut self, snapshot: Snapshot, is_stored: bool) -> Vec<Stroke> {
        if self.strokes.is_empty() && !snapshot.epoch.is_empty() {
            self.epoch = snapshot.epoch;
        }
        let mut adopted = Vec::new();
        let places = snapshot.at.into_iter().chain(std::iter::repeat((0, 0)));
        for (stroke, at) in snapshot.strokes.into_iter().zip(places) {
            let is_erased = self.ledger.as_ref().is_some_and(|l| l.is_erased(&stroke.a, &stroke.s));
            if is_erased || self.len(&stroke.a, &stroke.s) >= stroke.p.len() {
                continue;
            }
            if let Some(place) = self.place(&stroke.a, &stroke.s) {
                self.forget(place);
            }
            let stored = if is_stored { stroke.p.len() } else { 0 };
            adopted.push(stroke.clone());
            self.insert(Stroke { at, stored, is_of_others: true, ..stroke });
        }
        self.trim(None, is_stored);
        adopted
    }
}

/// The boards of one node.
#[derive(Debug, Default)]
pub(super) struct Boards {
    boards: HashMap<String, Board>,
    lives: u64,
    leavings: u64,
    /// Is there a store?
    is_kept: bool,
    /// Batches made so far.
    turn: u64,
    /// Changes that the store will never be told of: it was away for too long.
    unstored: u64,
}

impl Boards {
    /// Boards that are to be stored.
    pub(super) fn kept() -> Self {
        Self { is_kept: true, ..Self::default() }
    }

    /// Somebody comes to a board. `epoch` is for one that is new here; `from` is their address, if it counts.
    ///
    /// # Errors
    /// There are [`MAX_BOARDS`] with people at them, or [`MAX_OPENED`] that people of that address have opened.
    pub(super) fn enter(
        &mut self,
        name: &str,
        epoch: String,
        from: Option<IpAddr>,
    ) -> Result<(), &'static str> {
        if from.is_some() && self.viewers(name) == 0 {
            let opened = |board: &&Board| board.viewers > 0 && board.opener == from;
            if self.boards.values().filter(opened).count() >= MAX_OPENED {
                return Err("there are too many boards in use by one address");
            }
        }
        if !self.boards.contains_key(name) {
            self.make_room()?;
            let ledger = self.is_kept.then(Ledger::default);
            self.boards.insert(name.to_owned(), Board::new(epoch, self.lives, ledger));
            self.lives += 1;
        }
        if let Some(board) = self.boards.get_mut(name) {
            if board.viewers == 0 {
                board.opener = from;
            }
            board.viewers += 1;
        }
        Ok(())
    }

    fn make_room(&mut self) -> Result<(), &'static str> {
        if self.boards.len() < MAX_BOARDS {
            return Ok(());
        }
        let unused = self.boards.iter().filter(|(_, board)| board.viewers == 0);
        let oldest = unused.min_by_key(|(_, board)| (board.unstored() > 0, board.left));
        let oldest = oldest.map(|(name, _)| name.clone());
        let oldest = oldest.ok_or("there are too many boards in use")?;
        self.unstored += self.boards.remove(&oldest).map_or(0, |board| board.unstored() as u64);
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
    pub(super) fn apply(&mut self, name: &str, event: Event) {
        let Some(board) = self.boards.get_mut(name) else { return };
        match &mut board.waiting {
            Some(waiting) if waiting.len() < MAX_WAITING => waiting.push(event),
            // so long a wait means that nobody answers
            Some(_) => {
                let claim = board.epoch.clone();
                self.complete(name, &claim, Vec::new(), None);
                self.apply(name, event);
            }
            None => board.apply(event),
        }
    }

    /// Do the other nodes have to be asked?
    pub(super) fn is_incomplete(&self, name: &str) -> bool {
        self.boards.get(name).is_some_and(|board| board.waiting.is_some())
    }

    /// Gives a board to whoever is to ask about it, once. What is given has to come back to
    /// [`Boards::complete`]: it names this life of the board.
    pub(super) fn claim(&mut self, name: &str) -> Option<String> {
        let board = self.boards.get_mut(name)?;
        let is_free = board.waiting.is_some() && !std::mem::replace(&mut board.is_claimed, true);
        is_free.then(|| board.epoch.clone())
    }

    /// The other nodes have answered, or did not; `stored` is what the store has, if it was asked and
    /// answered.
    pub(super) fn complete(
        &mut self,
        name: &str,
        claim: &str,
        snapshots: Vec<Snapshot>,
        stored: Option<Snapshot>,
    ) {
        let Some(board) = self.boards.get_mut(name).filter(|board| board.epoch == claim) else {
            return;
        };
        let Some(waiting) = board.waiting.take() else { return };
        if let Some(ledger) = &mut board.ledger {
            ledger.is_loaded = snapshots.iter().any(|snapshot| snapshot.is_whole);
        }
        for snapshot in snapshots {
            board.adopt(snapshot, false);
        }
        if let Some(stored) = stored {
            board.load(stored);
        }
        for event in waiting {
            board.apply(event);
        }
    }

    /// How much of a stroke is known, and how many strokes of the board went because there were too many.
    pub(super) fn len(&self, name: &str, author: &str, stroke: &str) -> (usize, u64) {
        let board = self.boards.get(name);
        board.map_or((0, 0), |board| (board.len(author, stroke), board.trimmed))
    }

    /// The board as it is now, `None` if it is not known here.
    pub(super) fn snapshot(&self, name: &str) -> Option<Snapshot> {
        let board = self.boards.get(name)?;
        let strokes = board.strokes.values().cloned().collect();
        let at = board.strokes.values().map(|stroke| stroke.at).collect();
        let is_whole = board.ledger.as_ref().is_some_and(|ledger| ledger.is_loaded);
        Some(Snapshot { epoch: board.epoch.clone(), strokes, at, is_whole })
    }

    /// Which state of a board is this?
    pub(super) fn version(&self, name: &str) -> Version {
        let Some(board) = self.boards.get(name) else { return Version::default() };
        let counts = (board.next, board.strokes.len(), board.numbers);
        Version { epoch: board.epoch.clone(), life: board.life, counts }
    }
}

#[cfg(test)]
#[path = "board_tests.rs"]
mod tests;
