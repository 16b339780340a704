use proptest::prelude::*;

use super::*;
use crate::cluster::history::Gap;
use crate::cluster::message::Flags;

mod early;

const BOUNDS: Bounds = Bounds { events: 100, bytes: 10_000 };

fn id(ms: u64) -> StreamId {
    StreamId { ms, seq: 0 }
}

fn to(rooms: &[&'static str]) -> Target {
    Target { rooms: rooms.iter().map(|room| (*room).into()).collect(), except: Vec::new() }
}

fn event(at: u64, target: Target) -> Past {
    let args = Codec::Json.args(Some("e"), &at).unwrap();
    let message = Message::Broadcast { args, target, flags: Flags::default() };
    Past::message(id(at), "/".into(), None, message, 10)
}

fn by(mut past: Past, node: &'static str, number: u64) -> Past {
    past.origin = Some(Origin { node: node.into(), number });
    past
}

fn change(at: u64, message: Message) -> Past {
    Past::message(id(at), "/".into(), None, message, 10)
}

fn record_of(track: &Track, at: u64) -> Record {
    let mut record = Record {
        nsp: "/".into(),
        sid: "me".into(),
        pid: "p".into(),
        data: serde_json::Value::Null,
        identity: None,
        start: StreamId::default(),
        at: None,
        rooms: Vec::new(),
        sent: None,
        early: Vec::new(),
        leftover: None,
        unsent: None,
        forgotten: StreamId::default(),
        is_last: false,
        by: "n".into(),
        written: None,
        taken: None,
        owner: "n".into(),
        generation: 1,
        stamp: None,
    };
    track.record(&mut record, Place { at: id(at).into(), ..Place::default() });
    record
}

fn offset(ms: u64) -> Claim {
    Claim::Offset(id(ms).into())
}

/// What a client is sent again, over this log.
fn replay(
    record: &Record,
    claim: Claim,
    log: &[Past],
) -> Result<(Vec<u64>, Vec<String>), NotRecovered> {
    let head = log.last().map_or_else(|| id(1_000), |past| past.id);
    let mut replay = Replay::new(record, claim, (id(0), head.into()), BOUNDS)?;
    let mut missed = Vec::new();
    for past in log.iter().filter(|past| past.id > replay.passed()).collect::<Vec<_>>() {
        missed.extend(replay.step(past, Codec::Json)?.map(|missed| missed.id.ms));
    }
    let (_, rooms) = replay.into_track();
    Ok((missed, rooms.iter().map(ToString::to_string).collect()))
}

fn events(record: &Record, claim: Claim, log: &[Past]) -> Result<Vec<u64>, NotRecovered> {
    replay(record, claim, log).map(|(events, _)| events)
}

#[test]
fn r1_nothing_received_yet_is_from_the_session_s_start() {
    let track = Track::new(id(5));
    let log =
        [event(4, to(&[])), event(6, to(&[])), event(7, to(&["other"])), event(8, to(&["me"]))];
    // as it was at connect, and as it was when the connection was lost
    assert_eq!(events(&record_of(&track, 5), Claim::Nothing, &log), Ok(vec![6, 8]));
    let mut track = track;
    track.sent(id(6));
    track.sent(id(8));
    assert_eq!(events(&record_of(&track, 8), Claim::Nothing, &log), Ok(vec![6, 8]));
}

#[test]
fn r2_r3_a_client_that_has_all_it_was_sent_stands_where_its_node_stood() {
    let mut track = Track::new(id(5));
    track.sent(id(6));
    let sent = record_of(&track, 900);
    let replay = Replay::new(&sent, offset(6), (id(0), id(950).into()), BOUNDS).unwrap();
    assert_eq!(replay.from, id(900), "6 may be long forgotten");
    let never_sent = record_of(&Track::new(id(5)), 900);
    let replay = Replay::new(&never_sent, Claim::Nothing, (id(0), id(950).into()), BOUNDS).unwrap();
    assert_eq!(replay.from, id(900));
}

#[test]
fn what_was_sent_and_lost_on_the_way_is_sent_again() {
    let mut track = Track::new(id(5));
    for ms in [10, 20, 30] {
        track.sent(id(ms));
    }
    let record = record_of(&track, 900);
    let from = |claim| Replay::new(&record, claim, (id(0), id(950).into()), BOUNDS).unwrap().from;
    assert_eq!(from(offset(10)), id(20).before());
    assert_eq!(from(offset(15)), id(20).before(), "the offset of a volatile event");
    assert_eq!(from(offset(30)), id(900));
    assert_eq!(from(offset(901)), id(901), "more than the record knows of");
    assert_eq!(from(Claim::Nothing), id(10).before());
}

#[test]
fn more_was_sent_than_is_remembered() {
    let mut track = Track::new(id(5));
    for ms in 10..30 {
        track.sent(id(ms));
    }
    let record = record_of(&track, 900);
    let from = |claim| Replay::new(&record, claim, (id(0), id(950).into()), BOUNDS).unwrap().from;
    assert_eq!(
        from(offset(12)),
        id(12),
        "what came behind is not known: all of it is gone through"
    );
    assert_eq!(from(Claim::Nothing), id(5));
    assert_eq!(from(offset(25)), id(26).before());
}

#[test]
fn what_is_forgotten_is_not_recovered_over() {
    let mut track = Track::new(id(5));
    track.sent(id(10));
    track.sent(id(20));
    let record = record_of(&track, 100);
    let with = |claim, oldest| Replay::new(&record, claim, (id(oldest), id(950).into()), BOUNDS);
    assert_eq!(with(offset(10), 20).unwrap_err(), NotRecovered::History);
    assert!(with(offset(10), 19).is_ok());
    assert!(with(offset(20), 100).is_ok());
    assert_eq!(with(offset(20), 101).unwrap_err(), NotRecovered::History);
    let later = with(offset(200), 150).unwrap();
    assert_eq!(
        (later.passed(), later.from),
        (id(150), id(200)),
        "the record is older: as far as we can see"
    );
}

#[test]
fn s7_an_offset_of_an_earlier_session_counts_as_none() {
    let track = Track::new(id(50));
    let log = [event(45, to(&[])), event(55, to(&[]))];
    assert_eq!(events(&record_of(&track, 50), offset(40), &log), Ok(vec![55]));
}

#[test]
fn offsets_that_nobody_gave_out_are_refused() {
    let mut track = Track::new(id(5));
    let log = [event(6, to(&[]))];
    let untouched = record_of(&track, 5);
    assert_eq!(events(&untouched, offset(7), &log), Err(NotRecovered::Offset));
    assert_eq!(
        events(&untouched, Claim::Unreadable, &log),
        Err(NotRecovered::Offset),
        "it may have got something since: that is not written each time"
    );
    let last = Record { is_last: true, ..untouched };
    assert_eq!(events(&last, Claim::Unreadable, &log), Ok(vec![6]), "it can have got nothing");
    let taken = Record { owner: "b".into(), ..last };
    assert_eq!(events(&taken, Claim::Unreadable, &log), Err(NotRecovered::Offset));
    track.sent(id(6));
    let touched = Record { is_last: true, ..record_of(&track, 6) };
    assert_eq!(events(&touched, Claim::Unreadable, &log), Err(NotRecovered::Offset));
}

#[test]
fn s5_s6_volatile_events_and_those_that_want_an_answer_are_not_sent_again() {
    let with = |at, flags| {
        let args = Codec::Json.args(Some("e"), &at).unwrap();
        change(at, Message::Broadcast { args, target: to(&[]), flags })
    };
    let log = [
        with(6, Flags { volatile: true, ..Flags::default() }),
        with(7, Flags { ack: Some(1), ..Flags::default() }),
        with(8, Flags::default()),
    ];
    assert_eq!(events(&record_of(&Track::new(id(5)), 5), Claim::Nothing, &log), Ok(vec![8]));
}

#[test]
fn a_room_is_a_span_of_the_log() {
    let mut track = Track::new(id(5));
    track.join(&["a".into()], id(10));
    track.join(&["a".into()], id(12)); // again: nothing new
    track.leave(&["a".into()], id(20));
    track.join(&["a".into()], id(30));
    let log: Vec<_> = [9, 10, 11, 20, 21, 30, 31].map(|at| event(at, to(&["a"]))).into();
    track.sent(id(11));
    let (missed, rooms) = replay(&record_of(&track, 40), offset(5), &log).unwrap();
    assert_eq!(missed, [11, 20, 31]);
    assert_eq!(rooms, ["a"]);
}

#[test]
fn s10_what_was_done_to_it_while_it_was_away_holds() {
    let mut track = Track::new(id(5));
    track.join(&["old".into()], id(5));
    let join = |at, rooms: &[&'static str]| {
        change(at, Message::Join { target: to(&["me"]), rooms: to(rooms).rooms })
    };
    let leave = |at, rooms: &[&'static str]| {
        change(at, Message::Leave { target: to(&["old"]), rooms: to(rooms).rooms })
    };
    let log = vec![
        join(6, &["known"]), // before the record: in it, or taken back since
        event(11, to(&["new"])),
        join(12, &["new", "me"]),
        event(13, to(&["new"])),
        leave(14, &["old"]),
        event(15, to(&["old"])),
        leave(16, &["new"]), // not meant: it is in old no more
        event(17, to(&["new"])),
    ];
    let (missed, rooms) = replay(&record_of(&track, 10), offset(5), &log).unwrap();
    assert_eq!(missed, [13, 17]);
    assert_eq!(rooms, ["new"]);
    let mut log = log;
    log.push(change(18, Message::Disconnect { target: to(&["new"]), close: false }));
    assert_eq!(replay(&record_of(&track, 10), offset(5), &log), Err(NotRecovered::Disconnected));
    assert!(replay(&record_of(&track, 18), offset(5), &log).is_ok(), "it came back after that");
}

#[test]
fn exceptions_count() {
    let mut track = Track::new(id(5));
    track.join(&["a".into()], id(5));
    let except = |at, except: &[&'static str]| {
        event(at, Target { rooms: Vec::new(), except: to(except).rooms })
    };
    let log = [except(6, &["a"]), except(7, &["b"]), except(8, &["me"])];
    assert_eq!(events(&record_of(&track, 5), offset(5), &log), Ok(vec![7]));
}

#[test]
fn what_was_missed_is_bounded() {
    let log: Vec<_> = (6..=106).map(|at| event(at, to(&[]))).collect();
    let record = record_of(&Track::new(id(5)), 5);
    assert_eq!(events(&record, Claim::Nothing, &log), Err(NotRecovered::TooMuch));
    assert_eq!(events(&record, Claim::Nothing, &log[..100]).unwrap().len(), 100);
    let big = "x".repeat(6_000);
    let args = Codec::Json.args(Some("e"), &big).unwrap();
    let broadcast = |at| {
        change(
            at,
            Message::Broadcast { args: args.clone(), target: to(&[]), flags: Flags::default() },
        )
    };
    let log = [broadcast(6), broadcast(7)];
    assert_eq!(events(&record, Claim::Nothing, &log), Err(NotRecovered::TooMuch));
}

#[test]
fn a_session_of_node_is_restored_from_the_client_s_offset() {
    let mut record = record_of(&Track::new(id(0)), 0);
    record.at = None;
    record.sent = None;
    record.rooms = vec![Span { room: "a".into(), since: id(0), until: None }];
    let log = [event(6, to(&["a"])), event(8, to(&["a"])), event(9, to(&["b"]))];
    assert_eq!(events(&record, offset(7), &log), Ok(vec![8]));
    assert_eq!(events(&record, Claim::Nothing, &log), Err(NotRecovered::Offset));
}

#[test]
fn ended_stays_are_bounded_and_current_ones_are_not() {
    let mut track = Track::new(id(0));
    track.join(&["stays".into()], id(1));
    for at in 0..100 {
        let room: Str = format!("r{at}").into();
        track.join(std::slice::from_ref(&room), id(at));
        track.leave(&[room], id(at + 1));
    }
    let rooms = record_of(&track, 100).rooms;
    assert_eq!(rooms.len(), ENDED_SPANS + 1);
    assert_eq!(rooms.last().unwrap().room.as_str(), "r99");
    assert!(rooms.iter().any(|span| span.room.as_str() == "stays"));
}

#[test]
fn the_stays_that_ended_first_are_forgotten_and_it_is_known_until_when() {
    let mut track = Track::new(id(0));
    track.join(&["first".into()], id(1));
    for at in 2..2 + ENDED_SPANS as u64 {
        let room: Str = format!("r{at}").into();
        track.join(std::slice::from_ref(&room), id(at));
        track.leave(&[room], id(at + 1));
    }
    assert_eq!(record_of(&track, 100).forgotten, StreamId::default());
    for sent in [2, 3, 80] {
        track.sent(id(sent));
    }
    track.leave(&["first".into()], id(90));
    let record = record_of(&track, 100);
    assert_eq!(record.rooms.len(), ENDED_SPANS);
    // the one that began first ended last: what was for it then, and got lost on the way, comes again
    let log = [event(80, to(&["first"])), event(95, to(&["first"]))];
    assert_eq!(events(&record, offset(70), &log), Ok(vec![80]));
    // the first to end was r2, at 3
    assert_eq!(record.forgotten, id(3));
    assert_eq!(events(&record, offset(3), &log), Ok(vec![80]));
    assert_eq!(events(&record, offset(2), &log), Err(NotRecovered::History));
}

#[test]
fn what_its_node_has_missed_a_client_has_not_got_either() {
    let mut track = Track::new(id(0));
    track.sent(id(10));
    let with = |track: &Track, gap, claim, oldest| {
        let mut record = record_of(track, 30);
        track.record(
            &mut record,
            Place {
                at: id(30).into(),
                gap: Gap { up_to: id(gap), ..Gap::default() },
                ..Place::default()
            },
        );
        let replay = Replay::new(&record, claim, (id(oldest), id(950).into()), BOUNDS);
        replay.map(|replay| replay.from)
    };
    assert_eq!(with(&track, 0, offset(10), 20), Ok(id(30)), "it has all that it was sent");
    assert_eq!(with(&track, 20, offset(10), 20), Err(NotRecovered::History));
    // a node that has missed nothing sends it
    assert_eq!(with(&track, 20, offset(10), 5), Ok(id(10)));
    assert_eq!(with(&track, 20, Claim::Nothing, 20), Err(NotRecovered::History));
    track.sent(id(25));
    assert_eq!(with(&track, 20, offset(10), 20), Err(NotRecovered::History));
    assert_eq!(with(&track, 20, offset(25), 20), Ok(id(30)));
    // it was not here yet
    let mut track = track;
    track.goes_on(id(20).into());
    assert_eq!(with(&track, 20, offset(10), 20), Ok(id(25).before()));
}

#[test]
fn a_last_record_is_as_good_as_the_log_behind_it() {
    let track = Track::new(id(0));
    let with = |is_last, oldest| {
        let record = Record { is_last, ..record_of(&track, 30) };
        Replay::new(&record, offset(40), (id(oldest), id(950).into()), BOUNDS).map(drop)
    };
    assert_eq!(with(true, 30), Ok(()));
    // a disconnect may have been there
    assert_eq!(with(true, 31), Err(NotRecovered::History));
    assert_eq!(with(false, 31), Ok(()), "one that was about to be written again");
}

/// What can happen to a socket, in the order of the log.
#[derive(Clone, Debug)]
enum Step {
    Event(u8),
    LogJoin(u8),
    LogLeave(u8),
    Join(u8),
    Leave(u8),
    Snapshot,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let room = 0..3_u8;
    let step = prop_oneof![
        4 => room.clone().prop_map(Step::Event),
        1 => room.clone().prop_map(Step::LogJoin),
        1 => room.clone().prop_map(Step::LogLeave),
        1 => room.clone().prop_map(Step::Join),
        1 => room.prop_map(Step::Leave),
        1 => Just(Step::Snapshot),
    ];
    prop::collection::vec(step, 0..60)
}

fn room(number: u8) -> Str {
    format!("r{number}").into()
}

proptest! {
    /// A socket lives through all of it; its client has got the events up to a point, and the record is of
    /// another (its node may have been killed at once after). What is sent again is what it was sent behind
    /// that point. Changes by handlers after the record was written are not made in this test: nobody could
    /// know of them.
    #[test]
    fn a_client_gets_exactly_what_it_has_not_got(
        steps in steps(),
        got in 0..60_usize,
    ) {
        let mut track = Track::new(id(0));
        let mut log = Vec::new();
        let mut sent = Vec::new();
        let mut joined: Vec<Str> = Vec::new();
        let mut snapshot = record_of(&track, 0);
        let mut dirty = false;
        for step in steps {
            let at = log.len() as u64 + 1;
            match step {
                Step::Event(number) => {
                    let target = Target { rooms: vec![room(number)], except: Vec::new() };
                    log.push(event(at, target));
                    if joined.contains(&room(number)) {
                        track.sent(id(at));
                        sent.push(at);
                    }
                }
                Step::LogJoin(number) => {
                    let rooms = vec![room(number)];
                    track.join(&rooms, id(at));
                    if !joined.contains(&rooms[0]) { joined.push(rooms[0].clone()); }
                    log.push(change(at, Message::Join { target: to(&["me"]), rooms }));
                }
                Step::LogLeave(number) => {
                    let rooms = vec![room(number)];
                    track.leave(&rooms, id(at));
                    joined.retain(|joined| *joined != rooms[0]);
                    log.push(change(at, Message::Leave { target: to(&["me"]), rooms }));
                }
                Step::Join(number) => {
                    let rooms = vec![room(number)];
                    track.join(&rooms, id(at - 1));
                    if !joined.contains(&rooms[0]) { joined.push(rooms[0].clone()); }
                    dirty = true;
                }
                Step::Leave(number) => {
                    let rooms = vec![room(number)];
                    track.leave(&rooms, id(at - 1));
                    joined.retain(|joined| *joined != rooms[0]);
                    dirty = true;
                }
                Step::Snapshot => dirty = true,
            }
            if std::mem::take(&mut dirty) {
                snapshot = record_of(&track, log.len() as u64);
            }
        }
        let claim = match sent.get(..got).map(<[u64]>::last).unwrap_or_else(|| sent.last()) {
            Some(last) => offset(*last),
            None => Claim::Nothing,
        };
        let expected: Vec<u64> = sent.iter().skip(got.min(sent.len())).copied().collect();
        let (missed, rooms) = replay(&snapshot, claim, &log).unwrap();
        prop_assert_eq!(missed, expected);
        let mut rooms = rooms;
        let mut joined: Vec<_> = joined.iter().map(ToString::to_string).collect();
        rooms.sort();
        joined.sort();
        prop_assert_eq!(rooms, joined);
    }
}

#[test]
fn an_offset_that_is_left_over_from_an_earlier_session_says_nothing_of_this_one() {
    let log = [event(7, to(&[])), event(9, to(&[])), event(11, to(&[]))];
    let claim = |text: &str| Claim::Offset(text.parse().unwrap());
    // the session began at 5, on a node that was behind the one where its client had got 9
    let mut track = Track::new(id(5));
    track.left_over(Some(id(9).into()));
    let record = record_of(&track, 5);
    assert_eq!(events(&record, claim("9-0"), &log), Err(NotRecovered::Offset));
    assert_eq!(events(&record, claim("7-0"), &log), Ok(vec![9, 11]), "got in this session");
    assert_eq!(events(&record, claim("11-0"), &log), Ok(vec![]));
    // nothing in this session has it, so whoever shows it has got nothing
    let mut track = Track::new(id(5));
    track.unsent(Some(id(9).into()));
    track.sent(id(7));
    track.sent(id(12));
    let record = record_of(&track, 12);
    let seen = [event(7, to(&[])), event(12, to(&[]))];
    assert_eq!(events(&record, claim("9-0"), &seen), Ok(vec![7, 12]));
    // on a node that was not behind it is of no importance
    let mut track = Track::new(id(9));
    track.left_over(Some(id(9).into()));
    assert_eq!(events(&record_of(&track, 9), claim("9-0"), &log), Ok(vec![11]));
}
