//! The fold: same log, same board; bounded whatever comes.

use super::*;

fn style() -> Style {
    Style { c: "red".into(), w: 4, k: 2 }
}

fn chunk(author: &str, stroke: &str, i: usize, p: &[i32]) -> Chunk {
    let style = (i == 0).then(style);
    Chunk { a: author.into(), s: stroke.into(), i, p: p.to_vec(), style }
}

fn draw(author: &str, stroke: &str, i: usize, p: &[i32]) -> Change {
    Change::Draw(chunk(author, stroke, i, p))
}

fn erase(author: &str, strokes: &[&str]) -> Change {
    let s = strokes.iter().map(|s| (*s).to_owned()).collect();
    Change::Erase(Erasure { a: author.into(), s })
}

/// A board that is known whole.
fn opened() -> Boards {
    let mut boards = Boards::default();
    boards.enter("b", "e1".into(), None).unwrap();
    boards.complete("b", "e1", Vec::new(), None);
    boards
}

/// The log of a test: one after the other.
impl Boards {
    fn see(&mut self, name: &str, change: Change) {
        self.see_at(name, 0, change);
    }

    fn see_at(&mut self, name: &str, at: usize, change: Change) {
        self.apply(name, Event { change, at: (1, at as u64), is_own: true });
    }
}

fn strokes(boards: &Boards) -> Vec<(String, Vec<i32>)> {
    let snapshot = boards.snapshot("b").unwrap();
    snapshot.strokes.into_iter().map(|stroke| (stroke.a + "/" + &stroke.s, stroke.p)).collect()
}

#[test]
fn pieces_make_a_stroke_and_repeated_ones_change_nothing() {
    let mut boards = opened();
    boards.see("b", draw("anna", "1", 0, &[1, 2]));
    boards.see("b", draw("ben", "1", 0, &[9, 9]));
    boards.see("b", draw("anna", "1", 2, &[3, 4]));
    boards.see("b", draw("anna", "1", 0, &[1, 2, 3, 4, 5, 6]));
    boards.see("b", draw("anna", "1", 2, &[3, 4]));
    let expected = [("anna/1".to_owned(), vec![1, 2, 3, 4, 5, 6]), ("ben/1".into(), vec![9, 9])];
    assert_eq!(strokes(&boards), expected);
    assert_eq!(boards.len("b", "anna", "1"), (6, 0));
}

#[test]
fn a_gap_is_not_drawn_over() {
    let mut boards = opened();
    boards.see("b", draw("anna", "1", 2, &[3, 4]));
    assert_eq!(strokes(&boards), []);
    boards.see("b", draw("anna", "1", 0, &[1, 2]));
    boards.see("b", draw("anna", "1", 4, &[5, 6]));
    assert_eq!(strokes(&boards), [("anna/1".to_owned(), vec![1, 2])]);
}

#[test]
fn authors_erase_their_own_only() {
    let mut boards = opened();
    for (author, stroke) in [("anna", "1"), ("ben", "1"), ("anna", "2"), ("anna", "3")] {
        boards.see("b", draw(author, stroke, 0, &[1, 2]));
    }
    boards.see("b", erase("anna", &["2", "7"]));
    let names = |boards: &Boards| strokes(boards).into_iter().map(|s| s.0).collect::<Vec<_>>();
    assert_eq!(names(&boards), ["anna/1", "ben/1", "anna/3"]);
    boards.see("b", erase("anna", &["1", "3"]));
    boards.see("b", erase("carl", &["1"]));
    assert_eq!(names(&boards), ["ben/1"]);
    // what was under way when its stroke was erased does not bring it back
    boards.see("b", draw("anna", "1", 2, &[3, 4]));
    assert_eq!(names(&boards), ["ben/1"]);
}

#[test]
fn a_board_is_bounded_and_the_oldest_strokes_go() {
    let mut boards = opened();
    for at in 0..MAX_STROKES + 10 {
        boards.see("b", draw("anna", &at.to_string(), 0, &[1, 2]));
    }
    let kept = strokes(&boards);
    assert_eq!(kept.len(), MAX_STROKES);
    assert_eq!(kept[0].0, "anna/10");
    let long = vec![1; MAX_STROKE_NUMBERS];
    for at in 0..MAX_NUMBERS / MAX_STROKE_NUMBERS + 3 {
        boards.see("b", draw("ben", &at.to_string(), 0, &long));
    }
    let kept = strokes(&boards);
    assert!(kept.iter().map(|(_, p)| p.len()).sum::<usize>() <= MAX_NUMBERS);
    // of ben's, who has most from then on
    let has = |wanted: &str| kept.iter().any(|(name, _)| name == wanted);
    assert!(has("ben/4") && !has("ben/3") && kept[0].0.starts_with("anna/"));
    let numbers = kept.iter().map(|(_, p)| p.len()).sum::<usize>();
    let board = &boards.boards["b"];
    assert_eq!(board.authors.len(), 2, "nothing is kept of forgotten strokes");
    assert_eq!(board.authors["ben"].places.len() + board.authors["anna"].places.len(), kept.len());
    assert_eq!(board.authors["ben"].numbers + board.authors["anna"].numbers, numbers);
    assert_eq!(board.numbers, numbers);
}

#[test]
fn nobody_pushes_out_what_others_have_drawn() {
    let mut boards = opened();
    let long = vec![1; MAX_STROKE_NUMBERS];
    boards.see("b", draw("anna", "first", 0, &long));
    for at in 0..3 {
        boards.see("b", draw("ben", &at.to_string(), 0, &[1, 2]));
    }
    // one who fills the board with strokes, then with numbers
    for at in 0..2 * MAX_STROKES {
        boards.see("b", draw("mallory", &at.to_string(), 0, &[1, 2]));
    }
    for at in 0..2 * MAX_NUMBERS / MAX_STROKE_NUMBERS {
        boards.see("b", draw("mallory", &format!("long{at}"), 0, &long));
    }
    for (author, stroke) in [("anna", "first"), ("ben", "0"), ("ben", "2")] {
        assert!(boards.len("b", author, stroke).0 > 0, "{author}'s {stroke} is there");
    }
    // and one under many names has no more than everybody then
    let mut boards = opened();
    boards.see("b", draw("anna", "first", 0, &[1, 2]));
    for at in 0..MAX_STROKES {
        boards.see("b", draw(&format!("mallory{at}"), "1", 0, &[1, 2]));
    }
    assert_eq!(strokes(&boards).len(), MAX_STROKES);
    assert_eq!(boards.len("b", "anna", "first").0, 0, "the oldest of all goes");
}

#[test]
fn what_is_being_drawn_stays_and_who_draws_on_something_else_is_told() {
    let mut boards = opened();
    let long = vec![1; MAX_STROKE_NUMBERS - 2];
    // anna has most, and this one only; two numbers of everybody else's are left
    boards.see("b", draw("anna", "1", 0, &long));
    let others = (MAX_NUMBERS - long.len()) / 5_000;
    for at in 0..others {
        boards.see("b", draw(&format!("other{at}"), "1", 0, &vec![1; 5_000]));
    }
    let rest = MAX_NUMBERS - boards.boards["b"].numbers;
    boards.see("b", draw("ben", "1", 0, &vec![1; rest]));
    let (_, before) = boards.len("b", "anna", "1");
    boards.see("b", draw("anna", "1", long.len(), &[1, 2]));
    let (length, trimmed) = boards.len("b", "anna", "1");
    assert_eq!((length, trimmed), (MAX_STROKE_NUMBERS, before + 1));
    assert_eq!(boards.len("b", "other0", "1").0, 0, "the oldest of those who have most then");
    // somebody else draws: now anna's goes, and it can be seen that something went
    boards.see("b", draw("carl", "1", 0, &vec![1; 5_000]));
    assert_eq!(boards.len("b", "anna", "1"), (0, trimmed + 1));
}

#[test]
fn boards_are_bounded_and_those_in_use_stay() {
    let mut boards = Boards::default();
    for at in 0..MAX_BOARDS {
        boards.enter(&at.to_string(), String::new(), None).unwrap();
    }
    assert!(boards.enter("one more", String::new(), None).is_err());
    boards.leave("7");
    boards.leave("3");
    boards.enter("one more", String::new(), None).unwrap();
    assert!(boards.snapshot("7").is_none());
    assert!(boards.snapshot("3").is_some());
    assert_eq!(boards.viewers("one more"), 1);
    boards.enter("and one", String::new(), None).unwrap();
    assert!(boards.snapshot("3").is_none());
    assert!(boards.enter("too many", String::new(), None).is_err());
}

#[test]
fn people_of_one_address_do_not_take_all_boards() {
    let [here, there] = [[192, 0, 2, 1], [192, 0, 2, 2]].map(|address| Some(IpAddr::from(address)));
    let mut boards = Boards::default();
    for at in 0..MAX_OPENED {
        boards.enter(&at.to_string(), String::new(), here).unwrap();
    }
    assert!(boards.enter("one more", String::new(), here).is_err());
    assert!(boards.snapshot("one more").is_none());
    // to a board that is open they may come
    boards.enter("0", String::new(), here).unwrap();
    boards.enter("of others", String::new(), there).unwrap();
    boards.enter("of others", String::new(), here).unwrap();
    boards.leave("1");
    boards.enter("one more", String::new(), here).unwrap();
    // who came second does not count for who has opened it
    assert!(boards.enter("1", String::new(), here).is_err());
    boards.enter("1", String::new(), there).unwrap();
    boards.enter("not counted", String::new(), None).unwrap();
}

#[test]
fn a_node_that_comes_later_ends_with_the_same_board() {
    let log = [
        draw("anna", "1", 0, &[1, 2]),
        draw("ben", "1", 0, &[7, 7]),
        draw("anna", "1", 2, &[3, 4]),
        erase("ben", &["1"]),
        draw("anna", "1", 4, &[5, 6]),
        draw("anna", "2", 0, &[8, 8]),
    ];
    // whenever the other is asked, and whenever it answers
    for asked in 0..log.len() {
        for told in asked..log.len() {
            for answered in told..=log.len() {
                let (mut first, mut second) = (opened(), Boards::default());
                let mut snapshot = None;
                for (at, change) in log.iter().enumerate() {
                    if at == asked {
                        second.enter("b", "e2".into(), None).unwrap();
                    }
                    if at == told {
                        snapshot = first.snapshot("b");
                    }
                    if at == answered {
                        second.complete("b", "e2", vec![snapshot.clone().unwrap()], None);
                    }
                    first.see_at("b", at, change.clone());
                    second.see_at("b", at, change.clone());
                }
                if answered == log.len() {
                    second.complete("b", "e2", vec![snapshot.unwrap()], None);
                }
                assert_eq!(strokes(&second), strokes(&first), "{asked} {told} {answered}");
                assert!(!second.is_incomplete("b"));
            }
        }
    }
}

#[test]
fn an_epoch_is_taken_over_with_the_strokes_and_only_then() {
    let mut boards = Boards::default();
    boards.enter("b", "mine".into(), None).unwrap();
    boards.complete("b", "mine", vec![Snapshot::default()], None);
    assert_eq!(boards.snapshot("b").unwrap().epoch, "mine");
    let mut boards = Boards::default();
    boards.enter("b", "mine".into(), None).unwrap();
    let theirs = Snapshot { epoch: "theirs".into(), ..Snapshot::default() };
    boards.complete("b", "mine", vec![theirs], None);
    assert_eq!(boards.snapshot("b").unwrap().epoch, "theirs");
}

#[test]
fn a_board_does_not_wait_for_ever_for_other_nodes() {
    let mut boards = Boards::default();
    boards.enter("b", String::new(), None).unwrap();
    for at in 0..=MAX_WAITING {
        boards.see("b", draw("anna", "1", 2 * at, &[1, 2]));
    }
    assert!(!boards.is_incomplete("b"));
    assert!(boards.len("b", "anna", "1").0 > 0);
}

#[test]
fn a_board_that_comes_back_is_in_no_state_that_it_was_in_before() {
    let mut boards = opened();
    boards.see("b", draw("anna", "1", 0, &[1, 2]));
    let version = boards.version("b");
    boards.see("b", draw("anna", "1", 0, &[1, 2]));
    assert_eq!(boards.version("b"), version, "nothing new was drawn");
    boards.leave("b");
    for number in 0..MAX_BOARDS {
        boards.enter(&number.to_string(), "e".into(), None).unwrap();
    }
    assert_eq!(boards.version("b"), Version::default());
    boards.leave("0");
    boards.enter("b", "e1".into(), None).unwrap();
    boards.complete("b", "e1", Vec::new(), None);
    boards.see("b", draw("anna", "1", 0, &[9, 9]));
    assert_ne!(boards.version("b"), version);
}

#[test]
fn what_no_page_sends_is_refused() {
    let good = chunk("", "k3.1", 0, &[1, 2]);
    assert_eq!(good.check(), Ok(()));
    let with = |change: &dyn Fn(&mut Chunk)| {
        let mut chunk = good.clone();
        change(&mut chunk);
        chunk.check()
    };
    assert!(with(&|c| c.s = String::new()).is_err());
    assert!(with(&|c| c.s = "<b>".into()).is_err());
    assert!(with(&|c| c.s = "a".repeat(25)).is_err());
    assert!(with(&|c| c.p.clear()).is_err());
    assert!(with(&|c| c.p = vec![i32::MIN, 0]).is_err());
    assert!(with(&|c| c.p = vec![0; MAX_STROKE_NUMBERS + 1]).is_err());
    assert!(with(&|c| c.i = usize::MAX).is_err());
    assert!(with(&|c| c.style = None).is_err());
    for (color, width, numbers) in
        [("", 4, 2), ("url(x)", 4, 2), ("Red", 4, 2), ("red", 0, 2), ("red", 65, 2), ("red", 4, 4)]
    {
        let style = Style { c: color.into(), w: width, k: numbers };
        assert!(with(&|c| c.style = Some(style.clone())).is_err(), "{style:?}");
    }
    let many = Erasure { a: String::new(), s: vec!["a".into(); MAX_ERASED + 1] };
    assert!(many.check().is_err());
    assert_eq!(Erasure::default().check(), Ok(()));
}
