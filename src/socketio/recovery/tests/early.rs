//! What nodes delivered ahead of the log.

use super::*;
use crate::cluster::history::note_early;

#[test]
fn what_was_had_ahead_of_the_log_is_not_sent_again() {
    let track = Track::new(id(5));
    let mut record = record_of(&track, 9);
    // three own messages of node a were delivered when its log stood at 9; Redis has them as 10, 12, 13
    record.early = vec![Early { node: "a".into(), since: id(9), after: id(9), from: 1, to: 3 }];
    record.at = Some("9-0~3".parse().unwrap());
    let log = [
        by(event(10, to(&[])), "a", 1),
        event(11, to(&[])),
        by(event(12, to(&[])), "a", 2),
        by(event(13, to(&[])), "a", 3),
        by(event(14, to(&[])), "b", 3),
    ];
    let claim = |text: &str| Claim::Offset(text.parse().unwrap());
    assert_eq!(events(&record, claim("9-0"), &log), Ok(vec![10, 11, 12, 13, 14]));
    assert_eq!(events(&record, claim("9-0~2"), &log), Ok(vec![11, 13, 14]));
    assert_eq!(
        events(&record, claim("11-0"), &log),
        Ok(vec![14]),
        "all that came before 11 it has"
    );
}

#[test]
fn what_was_had_ahead_of_the_log_from_a_node_that_cannot_be_asked_is_not_guessed() {
    // written before the node was cut off
    let mut record = record_of(&Track::new(id(5)), 8);
    let log = [by(event(10, to(&[])), "a", 1), event(11, to(&[]))];
    let claim = |text: &str| Claim::Offset(text.parse().unwrap());
    assert_eq!(events(&record, claim("9-0~1"), &log), Err(NotRecovered::Offset));
    assert_eq!(events(&record, claim("9-0"), &log), Ok(vec![10, 11]), "nothing ahead of it");
    assert_eq!(events(&record, claim("11-0"), &log), Ok(vec![]), "the log has shown it since");
    // the client had entered when all of it was delivered: nothing of it is the client's
    record.at = Some("9-0~1".parse().unwrap());
    assert_eq!(events(&record, claim("9-0~1"), &log), Ok(vec![10, 11]));
    // and comes to another node before it has got anything
    let mut replay = Replay::new(&record, claim("9-0~1"), (id(0), id(9).into()), BOUNDS).unwrap();
    assert_eq!(replay.passed(), id(9));
    assert!(replay.step(&event(10, to(&["x"])), Codec::Json).unwrap().is_none());
    let (track, _) = replay.into_track();
    assert_eq!(events(&record_of(&track, 9), claim("9-0~1"), &log), Ok(vec![10, 11]));
}

#[test]
fn numbers_of_two_nodes_are_not_taken_for_each_other() {
    let early = |from, to| Early { node: "b".into(), since: id(9), after: id(9), from, to };
    let log = [by(event(10, to(&[])), "b", 3), event(11, to(&[]))];
    let claim = Claim::Offset("9-0~17".parse().unwrap());
    let came = Early { node: "".into(), since: id(9), after: id(9), from: 17, to: 17 };
    // The client has got the 17th message of a, moved to b, and missed the third of b.
    let mut record = record_of(&Track::new(id(5)), 9);
    record.at = Some("9-0~5".parse().unwrap());
    record.early = vec![came.clone(), early(3, 5)];
    assert_eq!(events(&record, claim, &log), Ok(vec![10, 11]));
    // b has a 17th itself
    record.at = Some("9-0~17".parse().unwrap());
    record.early = vec![came, early(3, 17)];
    assert_eq!(events(&record, claim, &log), Err(NotRecovered::Offset));
}

#[test]
fn a_node_that_died_before_it_said_where_the_client_stood_is_not_guessed_for() {
    let log = [event(10, to(&[])), by(event(11, to(&[])), "a", 18)];
    let mut record = record_of(&Track::new(id(5)), 9);
    record.at = Some("9-0~20".parse().unwrap());
    record.early = vec![Early { node: "a".into(), since: id(9), after: id(9), from: 15, to: 20 }];
    let claim = Claim::Offset(id(10).into());
    assert_eq!(events(&record, claim, &log), Ok(vec![]), "got on the node that wrote it");
    // b has taken the session, and sent the client 10
    record.owner = "b".into();
    assert_eq!(events(&record, claim, &log), Err(NotRecovered::Offset));
    // a may have told b more than it had written
    record.early.clear();
    assert_eq!(events(&record, claim, &log), Err(NotRecovered::Offset));
    // (b may have sent something beside the log, which stood at 9)
    assert_eq!(events(&record, Claim::Offset(id(9).into()), &log), Err(NotRecovered::Offset));
    assert_eq!(events(&record, Claim::Offset(id(8).into()), &log), Ok(vec![10, 11]));
    // the node that wrote it has taken it again
    record.owner.clone_from(&record.by);
    record.written = Some(record.generation);
    assert_eq!(events(&record, claim, &log), Ok(vec![11]));
    record.generation += 1;
    assert_eq!(events(&record, claim, &log), Err(NotRecovered::Offset));
    // and the client has still what it had then
    record.taken = Some("10-0".into());
    assert_eq!(events(&record, claim, &log), Ok(vec![11]));
    // (a number may be another node's)
    record.taken = Some("9-0~17".into());
    let claim = Claim::Offset("9-0~17".parse().unwrap());
    assert_eq!(events(&record, claim, &log), Err(NotRecovered::Offset));
}

#[test]
fn what_another_connection_of_the_client_was_sent_ahead_of_the_log_is_not_guessed() {
    let log = [by(event(10, to(&[])), "n", 17), event(12, to(&[]))];
    let claim = |text: &str| Claim::Offset(text.parse().unwrap());
    // The client got the 17th message of n ahead of the log. Then an older attempt of its own, which it had
    // given up, took the session, at 9, with the 20th as the last that n had delivered.
    let mut track = Track::new(id(5));
    track.enter(20);
    track.goes_on("9-0~20".parse().unwrap());
    track.sent(id(10));
    track.sent(id(12));
    let record = record_of(&track, 12);
    assert_eq!(events(&record, claim("8-0~17"), &log), Err(NotRecovered::Offset));
    assert_eq!(events(&record, claim("9-0~20"), &log), Err(NotRecovered::Offset));
    // what it gets from there on says so, and what it got before from the log alone does, too
    assert_eq!(events(&record, claim("9-0~21"), &log), Ok(vec![10, 12]));
    assert_eq!(events(&record, claim("8-0"), &log), Ok(vec![10, 12]));
    assert_eq!(events(&record, claim("10-0"), &log), Ok(vec![12]));
    // an offset that it came with has been looked into
    let came = Early { node: "".into(), since: id(8), after: id(8), from: 17, to: 17 };
    let mut record = record_of(&track, 12);
    record.early.push(came);
    assert_eq!(events(&record, claim("8-0~17"), &log), Ok(vec![10, 12]));
}

#[test]
fn of_many_ranges_ahead_of_the_log_the_old_ones_become_one() {
    // Redis was slow: between the own messages 1 to 40 of node a entries of others came back, and none of these
    let ranges = (1..=40).map(|number| {
        let at = id(100 + number);
        Early { node: "a".into(), since: at, after: at, from: number, to: number }
    });
    let mut track = Track::new(id(5));
    track.enter(1);
    let mut record = record_of(&track, 141);
    let at = "141-0~40".parse().unwrap();
    let place = Place { at, early: ranges.collect(), ..Place::default() };
    track.record(&mut record, place);
    assert_eq!(record.early.len(), EARLY);
    assert_eq!(record.early[0].from, 2, "the first was before the socket");
    let log = [1, 2, 39, 40].map(|number| by(event(200 + number, to(&[])), "a", number));
    let events_of = |text: &str| events(&record, Claim::Offset(text.parse().unwrap()), &log);
    assert_eq!(events_of("141-0~40"), Ok(vec![201]));
    assert_eq!(events_of("140-0~39"), Ok(vec![201, 240]));
    assert_eq!(events_of("102-0~2"), Ok(vec![201, 239, 240]));
    assert_eq!(events_of("101-0"), Ok(vec![201, 202, 239, 240]));
    // a number that the server gives is there; without one nobody knows
    assert_eq!(events_of("110-0"), Err(NotRecovered::Offset));
    // but when the log had shown them all, and the client has all until then
    record.at = Some(id(300).into());
    let claim = Claim::Offset(id(110).into());
    assert_eq!(events(&record, claim, &[event(301, to(&[]))]), Ok(vec![301]));
}

#[test]
fn what_was_ahead_of_a_log_that_went_back_is_not_guessed() {
    // n delivered 1 to 3 behind 9; then its log stood at 7, and 4 came
    let mut early = Vec::new();
    for (at, number) in [(9, 1), (9, 2), (9, 3), (7, 4)] {
        note_early(&mut early, &"n".into(), Offset { id: id(at), early: number });
    }
    let void = id(9).after();
    let place = Place { at: "7-0~4".parse().unwrap(), early, gap: Gap { up_to: void, void } };
    let mut record = record_of(&Track::new(id(5)), 7);
    Track::new(id(5)).record(&mut record, place.clone());
    let log = [by(event(20, to(&[])), "n", 3), by(event(21, to(&[])), "n", 4)];
    for claim in ["7-0~4", "9-0~2", "9-0"] {
        let claim = Claim::Offset(claim.parse().unwrap());
        assert_eq!(events(&record, claim, &log), Err(NotRecovered::History), "{claim:?}");
    }
    // who came afterwards is not touched by that
    let mut record = record_of(&Track::new(id(12)), 12);
    Track::new(id(12)).record(&mut record, Place { at: id(12).into(), ..place });
    assert_eq!(events(&record, Claim::Offset(id(13).into()), &[event(14, to(&[]))]), Ok(vec![14]));
}

#[test]
fn what_was_had_ahead_of_the_log_on_too_many_nodes_is_not_remembered() {
    let mut record = record_of(&Track::new(id(5)), 9);
    let settled = |number| Early {
        node: "a".into(),
        since: StreamId::default(),
        after: StreamId::default(),
        from: number,
        to: number,
    };
    let log = [event(10, to(&[]))];
    let claim = Claim::Offset(id(9).into());
    record.early = (1..=1_000).map(settled).collect();
    assert_eq!(events(&record, claim, &log), Ok(vec![10]), "one range, in pieces");
    record.early = (1..=INHERITED as u64).map(|number| settled(2 * number)).collect();
    assert_eq!(events(&record, claim, &log), Ok(vec![10]));
    record.early.push(settled(1_000));
    assert_eq!(events(&record, claim, &log), Err(NotRecovered::History));
}
