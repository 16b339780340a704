//! What the store is told: in the end it has what the boards have, whatever went wrong on the way.

use std::collections::{BTreeMap, HashMap};

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use super::super::{Change, Chunk, Erasure, Event, Stroke, Version};
use super::*;

fn style() -> Style {
    Style { c: "red".into(), w: 4, k: 2 }
}

fn draw(author: &str, stroke: &str, i: usize, p: &[i32]) -> Change {
    let style = (i == 0).then(style);
    Change::Draw(Chunk { a: author.into(), s: stroke.into(), i, p: p.to_vec(), style })
}

fn erase(author: &str, strokes: &[&str]) -> Change {
    let s = strokes.iter().map(|s| (*s).to_owned()).collect();
    Change::Erase(Erasure { a: author.into(), s })
}

fn key(author: &str, stroke: &str) -> Key {
    (author.to_owned(), stroke.to_owned())
}

/// As the script in `store.rs` does it.
#[derive(Default)]
struct Store {
    epoch: Option<String>,
    strokes: BTreeMap<Key, (Position, Vec<i32>)>,
}

impl Store {
    fn put(&mut self, batch: &Batch) -> Outcome {
        match (&self.epoch, &batch.known) {
            (None, Some(_)) => return Outcome::Lost,
            (None, None) => self.epoch = Some(batch.epoch.clone()),
            (Some(epoch), known) if Some(epoch) != known.as_ref() => {
                return Outcome::Other(epoch.clone());
            }
            _ => {}
        }
        let mut short = Vec::new();
        for (key, op) in &batch.ops {
            match op {
                Op::Remove => drop(self.strokes.remove(key)),
                Op::Put { at, from, p, .. } => {
                    let known = self.strokes.get(key).map_or(0, |(_, known)| known.len());
                    if known < *from {
                        short.push(key.clone());
                    } else if known < from + p.len() {
                        let stroke = self.strokes.entry(key.clone()).or_insert((*at, Vec::new()));
                        stroke.1.extend(&p[known - from..]);
                    }
                }
            }
        }
        Outcome::Kept { short }
    }

    fn snapshot(&self) -> Snapshot {
        let mut strokes: Vec<_> = self.strokes.iter().collect();
        strokes.sort_by_key(|(_, (at, _))| *at);
        let stroke = |((a, s), (_, p)): &(&Key, &(Position, Vec<i32>))| {
            Stroke::new(a, s, style(), p.clone())
        };
        Snapshot {
            epoch: self.epoch.clone().unwrap_or_default(),
            at: strokes.iter().map(|(_, (at, _))| *at).collect(),
            strokes: strokes.iter().map(stroke).collect(),
            is_whole: false,
        }
    }
}

/// One board on one node.
struct Node {
    boards: Boards,
    number: u64,
    states: HashMap<Version, Shows>,
}

type Shows = Vec<(Key, Vec<i32>)>;

impl Node {
    fn open(number: usize, store: Option<&Store>) -> Self {
        let mut boards = Boards::kept();
        let epoch = format!("e{number}");
        boards.enter("b", epoch.clone(), None).unwrap();
        assert_eq!(boards.claim("b").as_ref(), Some(&epoch));
        boards.complete("b", &epoch, Vec::new(), store.map(Store::snapshot));
        Self { boards, number: 0, states: HashMap::new() }
    }

    fn see(&mut self, change: Change, is_own: bool) {
        self.number += 1;
        self.boards.apply("b", Event { change, at: (1, self.number), is_own });
    }

    fn write(&mut self, store: &mut Store) -> usize {
        let mut writes = 0;
        while let Some(batch) = self.boards.batch(3, 100) {
            writes += batch.ops.len();
            let outcome = store.put(&batch);
            self.boards.settle(batch, outcome);
            assert!(writes < 10_000, "it comes to an end");
        }
        writes
    }

    /// A version is of one state only.
    fn check_version(&mut self, seed: u64) {
        let shows = self.shows();
        let known = self.states.entry(self.boards.version("b")).or_insert_with(|| shows.clone());
        assert_eq!(*known, shows, "seed {seed}");
    }

    fn shows(&self) -> Shows {
        let strokes = self.boards.snapshot("b").unwrap().strokes;
        strokes.into_iter().map(|stroke| ((stroke.a, stroke.s), stroke.p)).collect()
    }
}

/// What a node shows that starts when all others are gone.
fn after_a_restart(store: &Store) -> Shows {
    Node::open(9, Some(store)).shows()
}

#[test]
fn each_piece_is_written_once_and_by_its_own_node() {
    let (mut store, mut one, mut two) =
        (Store::default(), Node::open(1, None), Node::open(2, None));
    for (i, is_own) in [(0, true), (2, true), (4, false)] {
        one.see(draw("anna", "1", i, &[1, 2]), is_own);
        two.see(draw("anna", "1", i, &[1, 2]), !is_own);
        assert_eq!(one.write(&mut store), usize::from(is_own));
    }
    assert_eq!(store.strokes[&key("anna", "1")].1.len(), 4);
    // the second finds that the store has the board under another name, and looks at all of it
    two.write(&mut store);
    assert_eq!(after_a_restart(&store), one.shows());
    assert_eq!((one.write(&mut store), two.write(&mut store)), (0, 0));
}

#[test]
fn many_events_that_wait_become_one_write() {
    let (mut store, mut node) = (Store::default(), Node::open(1, None));
    for i in 0..50 {
        node.see(draw("anna", "1", 2 * i, &[1, 2]), true);
    }
    node.see(draw("anna", "2", 0, &[1, 2]), true);
    node.see(erase("anna", &["2"]), true);
    assert_eq!(node.write(&mut store), 2, "the stroke, and what is gone");
    assert_eq!(after_a_restart(&store), node.shows());
}

#[test]
fn what_is_owed_is_bounded_while_the_store_is_away() {
    let mut node = Node::open(1, None);
    for at in 0..4 * MAX_DUE {
        node.see(draw("anna", &at.to_string(), 0, &[1, 2]), true);
    }
    let (owed, given_up) = node.boards.unstored();
    assert!(owed <= MAX_DUE + MAX_STROKES, "{owed}");
    assert!(given_up > 0, "and it is said");
    assert_eq!(node.boards.unstored().1, 0, "once");
}

#[test]
fn what_is_acknowledged_is_stored() {
    let (mut store, mut node) = (Store::default(), Node::open(1, None));
    let one = key("anna", "1");
    assert!(!node.boards.is_drawing_kept("b", &one, 2), "the log has not brought it");
    node.see(draw("anna", "1", 0, &[1, 2]), true);
    assert!(!node.boards.is_drawing_kept("b", &one, 2));
    let batch = node.boards.batch(10, 10).unwrap();
    assert!(!node.boards.is_drawing_kept("b", &one, 2), "it is under way");
    let outcome = store.put(&batch);
    node.boards.settle(batch, outcome);
    assert!(node.boards.is_drawing_kept("b", &one, 2));
    assert!(!node.boards.is_drawing_kept("b", &one, 4));
    assert!(!node.boards.is_erasure_kept("b", std::slice::from_ref(&one)));
    node.see(erase("anna", &["1"]), true);
    assert!(!node.boards.is_erasure_kept("b", std::slice::from_ref(&one)));
    node.write(&mut store);
    assert!(node.boards.is_erasure_kept("b", &[one]));
    assert!(node.boards.is_all_stored());
}

#[test]
fn what_was_erased_before_the_store_answered_does_not_come_back() {
    let mut store = Store::default();
    let mut first = Node::open(1, None);
    first.see(draw("anna", "1", 0, &[1, 2]), true);
    first.see(draw("anna", "2", 0, &[3, 4]), true);
    first.write(&mut store);
    let mut second = Node::open(2, None);
    assert_eq!(second.boards.unloaded(), ["b"]);
    // of another node: that one may not know the stroke either
    second.see(erase("anna", &["1"]), false);
    second.see(draw("ben", "1", 0, &[5, 6]), true);
    let news = second.boards.load("b", store.snapshot());
    assert_eq!(news.iter().map(|stroke| stroke.s.as_str()).collect::<Vec<_>>(), ["2"]);
    assert!(second.boards.unloaded().is_empty());
    second.write(&mut store);
    assert_eq!(after_a_restart(&store).len(), 2);
}

#[test]
fn an_author_brings_what_a_dead_node_has_not_stored() {
    let (mut store, mut two) = (Store::default(), Node::open(2, None));
    two.see(draw("anna", "1", 0, &[1, 2]), false);
    two.see(draw("ben", "1", 0, &[1, 2]), false);
    assert_eq!(two.write(&mut store), 0);
    two.boards.verify_author("b", "anna");
    two.write(&mut store);
    assert_eq!(after_a_restart(&store), [(key("anna", "1"), vec![1, 2])]);
}

#[test]
fn a_board_with_changes_to_store_is_forgotten_last() {
    let mut boards = Node::open(1, None).boards;
    boards.apply("b", Event { change: draw("anna", "1", 0, &[1, 2]), at: (1, 1), is_own: true });
    boards.leave("b");
    for at in 1..super::super::MAX_BOARDS {
        boards.enter(&at.to_string(), String::new(), None).unwrap();
    }
    boards.leave("7");
    boards.enter("one more", String::new(), None).unwrap();
    assert!(boards.snapshot("b").is_some() && boards.snapshot("7").is_none());
    boards.enter("and one", String::new(), None).unwrap();
    assert!(boards.snapshot("b").is_none());
    assert_eq!(boards.unstored().1, 1, "and that is said");
}

/// Most writes succeed, and are heard of.
fn outcome(random: &mut StdRng, store: &mut Store, batch: &Batch) -> Outcome {
    match random.random_range(0..6) {
        0 => Outcome::Failed,
        1 => {
            store.put(batch);
            Outcome::Failed
        }
        2 => Outcome::Refused,
        _ => store.put(batch),
    }
}

#[test]
fn an_erasure_that_is_sent_again_is_done_by_who_gets_it() {
    let mut store = Store::default();
    let (mut one, mut two) = (Node::open(1, Some(&store)), Node::open(2, Some(&store)));
    one.see(draw("anna", "1", 0, &[1, 2]), true);
    two.see(draw("anna", "1", 0, &[1, 2]), false);
    one.write(&mut store);
    two.write(&mut store);
    // the first node dies before it has removed it, and has told nobody that it was asked to
    two.see(erase("anna", &["1"]), false);
    assert_eq!(two.write(&mut store), 0, "it was for the first to do");
    let one = key("anna", "1");
    two.boards.erase_again("b", std::slice::from_ref(&one));
    assert!(!two.boards.is_erasure_kept("b", std::slice::from_ref(&one)));
    two.see(erase("anna", &["1"]), true);
    two.write(&mut store);
    assert!(two.boards.is_erasure_kept("b", &[one]));
    assert_eq!(after_a_restart(&store), []);
}

/// Two nodes see one log, each at its own pace; writes are lost, take long, or are done and not heard of; the
/// store loses everything.
fn random_life(seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    let mut store = Store::default();
    let mut nodes = [Node::open(1, Some(&store)), Node::open(2, Some(&store))];
    let mut log: Vec<(Change, usize)> = Vec::new();
    let mut names: [[u16; 4]; 3] = random.random();
    let mut seen = [0, 0];
    let mut under_way: [Option<Batch>; 2] = [None, None];
    for _ in 0..400 {
        nodes.iter_mut().for_each(|node| node.check_version(seed));
        let node = random.random_range(0..2);
        match random.random_range(0..10) {
            0..=3 => {
                // an author is at one node; now and then at another
                let author = random.random_range(0..3);
                let at = if random.random_bool(0.9) { author % 2 } else { node };
                // a name is never used again
                let names = &mut names[author];
                let which = random.random_range(0..names.len());
                let (name, author) = (names[which].to_string(), format!("a{author}"));
                let (known, _) = nodes[at].boards.len("b", &author, &name);
                if random.random_bool(0.2) {
                    log.push((erase(&author, &[&name]), at));
                    let again = random.random_bool(0.3);
                    log.extend(again.then(|| (erase(&author, &[&name]), 1 - at)));
                    names[which] = random.random();
                } else {
                    log.push((draw(&author, &name, known, &[known as i32, 7]), at));
                }
            }
            4..=6 => {
                if let Some((change, from)) = log.get(seen[node]) {
                    nodes[node].see(change.clone(), *from == node);
                    seen[node] += 1;
                }
            }
            7 if under_way[node].is_none() => {
                under_way[node] = nodes[node].boards.batch(3, 20);
            }
            8 => {
                if let Some(batch) = under_way[node].take() {
                    let outcome = outcome(&mut random, &mut store, &batch);
                    nodes[node].boards.settle(batch, outcome);
                    nodes[node].boards.forgive();
                }
            }
            _ if random.random_bool(0.05) => {
                store = Store::default();
                nodes.iter_mut().for_each(|node| node.boards.verify());
            }
            _ => {}
        }
    }
    for (at, node) in nodes.iter_mut().enumerate() {
        for (change, from) in &log[seen[at]..] {
            node.see(change.clone(), *from == at);
        }
        if let Some(batch) = under_way[at].take() {
            node.boards.settle(batch, Outcome::Failed);
        }
        node.boards.verify();
    }
    for _ in 0..3 {
        for node in &mut nodes {
            node.write(&mut store);
        }
    }
    let [one, two] = nodes.map(|node| node.shows());
    assert_eq!((&one, &after_a_restart(&store)), (&two, &one), "seed {seed}");
}

#[test]
fn whatever_happens_the_store_has_in_the_end_what_the_boards_have() {
    let first = rand::random::<u64>();
    for seed in 0..300 {
        random_life(first.wrapping_add(seed));
    }
}
