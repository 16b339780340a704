//! What the store has still to be told, and what it says. Values, as the boards are: the store itself is in
//! `store.rs`.
//!
//! A ledger names strokes, not events: what is written is how a stroke is when its turn comes. So it is bounded
//! however long the store is away, many events become one write, and writing twice changes nothing.

use std::collections::{HashMap, HashSet};

use super::{Board, Boards, MAX_STROKES, Position, Snapshot, Stroke, Style};

/// Names in one ledger. Only names of strokes that are gone can be more than there are strokes.
const MAX_DUE: usize = 3 * MAX_STROKES;

/// Author and name of a stroke.
pub(in super::super) type Key = (String, String);

/// What one board owes the store.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    /// What is to be written. `true`: what is stored under that name goes first.
    due: HashMap<Key, bool>,
    /// What is being written. One batch at a time.
    under_way: HashSet<Key>,
    /// Under which the store has the board; `None`: nothing is known of it there.
    epoch: Option<String>,
    /// Is everything here that was stored when the board was opened?
    pub(super) is_loaded: bool,
    /// When its last batch was made, counted in batches.
    turn: u64,
    /// It was refused; not before the next [`Boards::forgive`].
    is_refused: bool,
    /// Changes that were given up.
    given_up: u64,
}

impl Ledger {
    pub(super) fn drawn(&mut self, key: Key) {
        self.due.entry(key).or_default();
    }

    /// It is removed by the node that has broadcast that, and by who may have written it. While it is not
    /// known what is stored everybody removes it: the store may bring it only now.
    pub(super) fn erased(&mut self, key: Key, gone: Option<&Stroke>, is_own: bool) {
        let may_be_stored = match gone {
            Some(gone) => gone.stored > 0 || gone.is_tried || (is_own && gone.is_of_others),
            // Its author takes it back once more: the node that was told first may have died before it had removed it.
            None => is_own,
        };
        let is_loose = !self.is_loaded || self.under_way.contains(&key);
        if !may_be_stored && !is_loose && self.due.get(&key) != Some(&true) {
            self.due.remove(&key);
        } else if gone.is_none() && !is_loose && self.due.len() >= MAX_STROKES {
            // anybody can make up names, and they are not to take the places of others
        } else if self.due.len() < MAX_DUE || self.due.get(&key) == Some(&true) {
            self.due.insert(key, true);
        } else {
            self.due.remove(&key);
            self.given_up += 1;
        }
    }

    pub(super) fn is_erased(&self, author: &str, stroke: &str) -> bool {
        self.due.get(&(author.to_owned(), stroke.to_owned())) == Some(&true)
    }
}

/// What is to be written of one board at once.
#[derive(Debug)]
pub(in super::super) struct Batch {
    pub(in super::super) board: String,
    /// Under which the store is believed to have the board.
    pub(in super::super) known: Option<String>,
    /// Under which it is to have it if it has nothing.
    pub(in super::super) epoch: String,
    pub(in super::super) ops: Vec<(Key, Op)>,
    /// Names, whether they were erased, and how many numbers the store has afterwards.
    keys: Vec<(Key, bool, usize)>,
}

/// One step of a batch.
#[derive(Debug, PartialEq)]
pub(in super::super) enum Op {
    Remove,
    /// Numbers of a stroke from the `from`th on. None at all: are there as many as that?
    Put {
        at: Position,
        style: Style,
        from: usize,
        p: Vec<i32>,
    },
}

/// What became of a batch.
#[derive(Debug)]
pub(in super::super) enum Outcome {
    /// All is written but these, of which the store has less than we thought.
    Kept { short: Vec<Key> },
    /// The board is not there any more. Nothing is written.
    Lost,
    /// Others have stored it under this epoch. Nothing is written.
    Other(String),
    /// Nobody knows whether it is written.
    Failed,
    /// As [`Outcome::Failed`], and it will be the same for a while.
    Refused,
}

impl Board {
    /// How many changes are not stored yet.
    pub(super) fn unstored(&self) -> usize {
        self.ledger.as_ref().map_or(0, |ledger| ledger.due.len() + ledger.under_way.len())
    }

    /// The store has answered what it has.
    pub(super) fn load(&mut self, stored: Snapshot) -> Vec<Stroke> {
        if let Some(ledger) = &mut self.ledger {
            ledger.is_loaded = true;
            ledger.epoch = Some(stored.epoch.clone()).filter(|epoch| !epoch.is_empty());
        }
        self.adopt(stored, true)
    }

    /// Everything is written, or looked at, again. `stored`: is it believed to be there?
    fn renew(&mut self, author: Option<&str>, is_stored: bool) {
        let Some(ledger) = &mut self.ledger else { return };
        for stroke in self.strokes.values_mut() {
            if author.is_none_or(|author| author == stroke.a) {
                stroke.stored = if is_stored { stroke.p.len() } else { 0 };
                ledger.due.entry((stroke.a.clone(), stroke.s.clone())).or_default();
            }
        }
    }

    /// `None`: nothing is to be written, or not now. Otherwise when something was last.
    fn ready(&self) -> Option<u64> {
        let ledger = self.ledger.as_ref()?;
        let is_idle = ledger.under_way.is_empty() && self.waiting.is_none() && !ledger.is_refused;
        (is_idle && !ledger.due.is_empty()).then_some(ledger.turn)
    }

    fn batch(&mut self, name: &str, max_ops: usize, max_numbers: usize) -> Option<Batch> {
        let ledger = self.ledger.as_ref()?;
        let (mut ops, mut keys, mut numbers) = (Vec::new(), Vec::new(), 0);
        let names: Vec<Key> = ledger.due.keys().take(max_ops).cloned().collect();
        for key in names {
            if numbers >= max_numbers {
                break;
            }
            let ledger = self.ledger.as_mut()?;
            let is_erased = ledger.due.remove(&key).unwrap_or_default();
            ledger.under_way.insert(key.clone());
            let place = self.place(&key.0, &key.1);
            let stroke = place.and_then(|place| self.strokes.get_mut(&place));
            if is_erased {
                ops.push((key.clone(), Op::Remove));
            }
            let after = stroke.as_ref().map_or(0, |stroke| stroke.p.len());
            let put = stroke.map(|stroke| {
                stroke.is_tried = true;
                let from = if is_erased { 0 } else { stroke.stored.min(stroke.p.len()) };
                let p = stroke.p.get(from..).unwrap_or_default().to_vec();
                Op::Put { at: stroke.at, style: stroke.style.clone(), from, p }
            });
            if let Some(Op::Put { p, .. }) = &put {
                numbers += p.len();
            }
            ops.extend(put.map(|put| (key.clone(), put)));
            keys.push((key, is_erased, after));
        }
        let known = self.ledger.as_ref()?.epoch.clone();
        Some(Batch { board: name.to_owned(), known, epoch: self.epoch.clone(), ops, keys })
    }

    fn settle(&mut self, batch: Batch, outcome: Outcome) {
        let Some(ledger) = &mut self.ledger else { return };
        ledger.under_way.clear();
        let is_kept = matches!(outcome, Outcome::Kept { .. });
        ledger.is_refused = matches!(outcome, Outcome::Refused);
        if is_kept {
            ledger.epoch = Some(batch.known.unwrap_or(batch.epoch));
        }
        for ((author, name), is_erased, after) in batch.keys {
            let place = self.authors.get(&author).and_then(|of| of.places.get(&name));
            let stroke = place.and_then(|place| self.strokes.get_mut(place));
            let key = (author, name);
            if !is_kept {
                *ledger.due.entry(key).or_default() |= is_erased;
            } else if let Some(stroke) = stroke
                && ledger.due.get(&key) != Some(&true)
            {
                stroke.stored = after.max(stroke.stored);
            }
        }
        match outcome {
            Outcome::Kept { short } => {
                for (author, name) in short {
                    let place = self.authors.get(&author).and_then(|of| of.places.get(&name));
                    if let Some(stroke) = place.and_then(|place| self.strokes.get_mut(place)) {
                        stroke.stored = 0;
                        ledger.due.entry((author, name)).or_default();
                    }
                }
            }
            Outcome::Lost => {
                ledger.epoch = None;
                // nothing is left to be removed
                ledger.due.clear();
                self.renew(None, false);
            }
            Outcome::Other(epoch) => {
                ledger.epoch = Some(epoch);
                self.renew(None, true);
            }
            Outcome::Failed | Outcome::Refused => {}
        }
    }
}

/// About what strokes take in the store, with so many numbers.
pub(super) fn stored_kib(strokes: usize, numbers: usize) -> u64 {
    const STROKE_BYTES: usize = 120;
    const NUMBER_BYTES: usize = 4;
    ((strokes * STROKE_BYTES + numbers * NUMBER_BYTES) / 1024) as u64
}

impl Boards {
    /// The next writes, of one board. They are settled before the next ones of that board.
    pub(in super::super) fn batch(&mut self, max_ops: usize, max_numbers: usize) -> Option<Batch> {
        let ready = self.boards.iter_mut().filter_map(|(name, board)| {
            let turn = board.ready()?;
            Some((turn, name, board))
        });
        // who has waited longest
        let (_, name, board) = ready.min_by_key(|(turn, ..)| *turn)?;
        self.turn += 1;
        if let Some(ledger) = &mut board.ledger {
            ledger.turn = self.turn;
        }
        board.batch(name, max_ops, max_numbers)
    }

    /// What a board takes in the store.
    pub(in super::super) fn kib(&self, name: &str) -> u64 {
        self.boards.get(name).map_or(0, |board| stored_kib(board.strokes.len(), board.numbers))
    }

    /// The store has answered, or has not.
    pub(in super::super) fn settle(&mut self, batch: Batch, outcome: Outcome) {
        if let Some(board) = self.boards.get_mut(&batch.board) {
            board.settle(batch, outcome);
        }
    }

    /// What was refused may be tried again.
    pub(in super::super) fn forgive(&mut self) {
        for ledger in self.boards.values_mut().filter_map(|board| board.ledger.as_mut()) {
            ledger.is_refused = false;
        }
    }

    /// The store may have lost something: is all there that we think?
    pub(in super::super) fn verify(&mut self) {
        for board in self.boards.values_mut() {
            if board.ledger.as_ref().is_some_and(|ledger| ledger.epoch.is_some()) {
                board.renew(None, true);
            }
        }
    }

    /// An author comes, perhaps from a node that died before it had stored what it had acknowledged.
    pub(in super::super) fn verify_author(&mut self, name: &str, author: &str) {
        if let Some(board) = self.boards.get_mut(name) {
            board.renew(Some(author), true);
        }
    }

    /// Boards of which it is not known what the store has.
    pub(in super::super) fn unloaded(&self) -> Vec<String> {
        let is_unloaded = |board: &Board| {
            board.waiting.is_none() && board.ledger.as_ref().is_some_and(|l| !l.is_loaded)
        };
        let unloaded = self.boards.iter().filter(|(_, board)| is_unloaded(board));
        unloaded.map(|(name, _)| name.clone()).collect()
    }

    /// What the store has of a board that was opened without it. Gives what nobody here has seen yet.
    pub(in super::super) fn load(&mut self, name: &str, stored: Snapshot) -> Vec<Stroke> {
        self.boards.get_mut(name).map(|board| board.load(stored)).unwrap_or_default()
    }

    /// Is so much of a stroke stored?
    pub(in super::super) fn is_drawing_kept(&self, name: &str, key: &Key, length: usize) -> bool {
        let Some(board) = self.boards.get(name) else { return true };
        let stroke = board.stroke(&key.0, &key.1);
        board.is_settled(key) && stroke.is_some_and(|stroke| stroke.stored >= length)
    }

    /// Are these strokes gone from the store?
    pub(in super::super) fn is_erasure_kept(&self, name: &str, keys: &[Key]) -> bool {
        let Some(board) = self.boards.get(name) else { return true };
        keys.iter().all(|key| board.is_settled(key) && board.stroke(&key.0, &key.1).is_none())
    }

    /// Their author takes these back. What is not here has been taken back before, by way of a node that may have died
    /// before it had removed it from the store: it is removed once more.
    pub(in super::super) fn erase_again(&mut self, name: &str, keys: &[Key]) {
        let Some(board) = self.boards.get_mut(name) else { return };
        for key in keys {
            if board.place(&key.0, &key.1).is_none()
                && let Some(ledger) = &mut board.ledger
            {
                ledger.erased(key.clone(), None, true);
            }
        }
    }

    /// Does the store have everything?
    pub(in super::super) fn is_all_stored(&self) -> bool {
        self.boards.values().all(|board| board.unstored() == 0)
    }

    /// Changes that are not stored yet, and those since the last time that never will be.
    pub(in super::super) fn unstored(&mut self) -> (usize, u64) {
        let mut given_up = std::mem::take(&mut self.unstored);
        for ledger in self.boards.values_mut().filter_map(|board| board.ledger.as_mut()) {
            given_up += std::mem::take(&mut ledger.given_up);
        }
        (self.boards.values().map(Board::unstored).sum(), given_up)
    }
}

impl Board {
    fn is_settled(&self, key: &Key) -> bool {
        let is_due =
            |ledger: &Ledger| ledger.due.contains_key(key) || ledger.under_way.contains(key);
        !self.ledger.as_ref().is_some_and(is_due)
    }
}

#[cfg(test)]
#[path = "ledger_tests.rs"]
mod tests;
