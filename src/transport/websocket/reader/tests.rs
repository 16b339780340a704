//! Tests of the reader: bytes in pieces -> events, and every limit at its edge.

use super::*;
use crate::transport::websocket::tests::client_frame;
use proptest::prelude::*;

const MAX_PAYLOAD: usize = 70_000;

/// Everything that comes of these bytes when they arrive in these pieces.
fn events(
    reader: &mut Reader,
    pieces: impl IntoIterator<Item = impl AsRef<[u8]>>,
) -> (Vec<Event>, Option<PeerMisbehaved>) {
    let mut events = Vec::new();
    for piece in pieces {
        let input = [reader.held(), piece.as_ref()].concat();
        let mut next = reader.take_in(&input);
        while let Ok(Some(event)) = next {
            events.push(event);
            next = reader.next_held();
        }
        if let Err(rule) = next {
            return (events, Some(rule));
        }
        assert!(reader.held().len() <= MAX_PARTIAL_HEADER);
        assert!(reader.message.capacity() <= reader.max_payload);
        assert!(reader.control.capacity() <= 125);
    }
    (events, None)
}

fn whole(bytes: &[u8]) -> (Vec<Event>, Option<PeerMisbehaved>) {
    events(&mut Reader::new(false, MAX_PAYLOAD), [bytes])
}

fn text(text: &str) -> Event {
    Event::Message(Frame::Text(text.to_owned().into()))
}

fn binary(data: impl Into<Bytes>) -> Event {
    Event::Message(Frame::Binary(data.into()))
}

fn owns_nothing(reader: &Reader) -> bool {
    reader.held.is_empty() && reader.message.capacity() == 0 && reader.control.capacity() == 0
}

/// One of everything that is legal, and what comes of it.
fn conversation() -> (Vec<u8>, Vec<Event>) {
    let long = vec![3; 300];
    let bytes = [
        client_frame(0x81, "4hé€".as_bytes()),
        client_frame(0x82, b""),
        client_frame(0x01, b"4\xe2"),
        client_frame(0x89, b"ping"),
        client_frame(0x00, b"\x82"),
        client_frame(0x8a, b"pong"),
        client_frame(0x00, b""),
        client_frame(0x80, b"\xac"),
        client_frame(0x82, &long),
        client_frame(0x88, b"\x03\xe9bye"),
        client_frame(0x81, b"4ignored"),
    ];
    let events = vec![
        text("4hé€"),
        binary(""),
        Event::Ping(b"ping".to_vec()),
        text("4€"),
        binary(long),
        Event::Close(Some(1001)),
    ];
    (bytes.concat(), events)
}

#[test]
fn it_does_not_matter_where_the_stream_is_cut() {
    let (bytes, mut expected) = conversation();
    for cut in 0..=bytes.len() {
        let (head, tail) = bytes.split_at(cut);
        let mut reader = Reader::new(false, MAX_PAYLOAD);
        assert_eq!(events(&mut reader, [head, tail]), (expected, None), "cut at {cut}");
        assert!(owns_nothing(&reader));
        expected = conversation().1;
    }
    let mut reader = Reader::new(false, MAX_PAYLOAD);
    assert_eq!(events(&mut reader, bytes.chunks(1)), (expected, None));
}

#[test]
fn every_form_of_length_is_read() {
    for len in [0, 1, 125, 126, 127, 65_535, 65_536, MAX_PAYLOAD] {
        let data = vec![9; len];
        let bytes = client_frame(0x82, &data);
        assert_eq!(whole(&bytes), (vec![binary(data)], None), "{len}");
    }
}

#[test]
fn a_reader_between_messages_owns_no_memory() {
    let mut reader = Reader::new(false, MAX_PAYLOAD);
    for first in [0x81, 0x82, 0x89, 0x8a] {
        events(&mut reader, [client_frame(first, &[b'x'; 100])]);
        assert!(owns_nothing(&reader), "{first:x}");
    }
}

#[test]
fn what_the_rfc_forbids_is_refused() {
    let mut unmasked = client_frame(0x81, b"");
    unmasked[1] &= 0x7f;
    for (bytes, why) in [
        (unmasked, "unmasked"),
        (client_frame(0xc1, b"x"), "reserved bit 1 without deflate"),
        (client_frame(0xa1, b"x"), "reserved bit 2"),
        (client_frame(0x91, b"x"), "reserved bit 3"),
        (client_frame(0x83, b"x"), "reserved opcode 3"),
        (client_frame(0x8b, b"x"), "reserved opcode 11"),
        (client_frame(0x09, b"x"), "fragmented ping"),
        (client_frame(0x89, &[0; 126]), "ping of 126 bytes"),
        (client_frame(0x80, b"x"), "continuation of nothing"),
        ([client_frame(0x01, b"x"), client_frame(0x81, b"y")].concat(), "message in a message"),
        (client_frame(0x88, b"x"), "close frame with half a code"),
    ] {
        assert_eq!(whole(&bytes), (vec![], Some(PeerMisbehaved::IllegalWebSocketFrame)), "{why}");
    }
    let longest_ping = client_frame(0x89, &[0; 125]);
    assert_eq!(whole(&longest_ping), (vec![Event::Ping(vec![0; 125])], None));
}

#[test]
fn nothing_is_read_behind_a_broken_rule() {
    let mut reader = Reader::new(false, MAX_PAYLOAD);
    let bytes = [client_frame(0x83, b"x"), client_frame(0x81, b"4good")].concat();
    assert!(events(&mut reader, [&bytes]).1.is_some());
    assert_eq!(events(&mut reader, [&client_frame(0x81, b"4good")]), (vec![], None));
    assert!(reader.is_over() && !reader.is_ended() && owns_nothing(&reader));
}

#[test]
fn text_is_utf8_as_a_whole() {
    let refusal = (vec![], Some(PeerMisbehaved::InvalidUtf8));
    assert_eq!(whole(&client_frame(0x81, b"4\xff")), refusal);
    assert_eq!(whole(&client_frame(0x88, b"\x03\xe8\xff")), refusal);
    let halves = [client_frame(0x01, b"\xc3"), client_frame(0x80, b"\xa9")].concat();
    assert_eq!(whole(&halves), (vec![text("é")], None));
}

#[test]
fn a_payload_over_the_limit_is_refused_by_its_header() {
    let max = MAX_PAYLOAD;
    for announced in [max as u64 + 1, u64::from(u32::MAX), u64::MAX >> 1, u64::MAX] {
        let mut header = vec![0x82, 0xff];
        header.extend_from_slice(&announced.to_be_bytes());
        header.extend_from_slice(&[0; 4]);
        assert_eq!(whole(&header), (vec![], Some(PeerMisbehaved::PayloadTooLarge)));
    }
    let first = client_frame(0x02, &vec![1; max - 10]);
    let last = [first.clone(), client_frame(0x80, &[1; 10])].concat();
    assert_eq!(whole(&last), (vec![binary(vec![1; max])], None));
    let header_of_last = [first, client_frame(0x80, &[1; 11])[..6].to_vec()].concat();
    assert_eq!(whole(&header_of_last), (vec![], Some(PeerMisbehaved::PayloadTooLarge)));
}

#[test]
fn memory_follows_what_came_not_what_was_announced() {
    let mut reader = Reader::new(false, 1 << 30);
    let mut announced = vec![0x82, 0xff];
    announced.extend_from_slice(&(1u64 << 30).to_be_bytes());
    announced.extend_from_slice(&[0; 4 + 10]);
    reader.take_in(&announced).unwrap();
    assert_eq!(reader.message.len(), 10);
    for _ in 0..100 {
        reader.take_in(&[0; 1000]).unwrap();
        assert!(reader.message.capacity() <= 2 * reader.message.len());
    }
}

#[test]
fn fragments_are_limited_and_counted_per_message() {
    let mut reader = Reader::new(false, MAX_PAYLOAD);
    for _ in 0..2 {
        let mut bytes = client_frame(0x02, b"");
        for _ in 2..MAX_FRAGMENTS {
            bytes.extend(client_frame(0x00, b""));
        }
        bytes.extend(client_frame(0x80, b"x"));
        assert_eq!(events(&mut reader, [bytes]), (vec![binary("x")], None));
    }
    let mut bytes = client_frame(0x02, b"");
    for _ in 1..MAX_FRAGMENTS {
        bytes.extend(client_frame(0x00, b""));
    }
    assert_eq!(events(&mut reader, [bytes]), (vec![], None));
    let one_more = events(&mut reader, [client_frame(0x80, b"")]);
    assert_eq!(one_more, (vec![], Some(PeerMisbehaved::IllegalWebSocketFrame)));
}

#[test]
fn the_bit_for_deflate_is_for_the_first_frame_of_a_message() {
    let deflated = deflate::deflate(b"4hello hello hello").unwrap();
    let (head, tail) = deflated.split_at(3);
    let deflating = |bytes: Vec<u8>| events(&mut Reader::new(true, MAX_PAYLOAD), [bytes]);
    let hello = || (vec![text("4hello hello hello")], None);
    assert_eq!(deflating(client_frame(0xc1, &deflated)), hello());
    let with_ping =
        [client_frame(0x41, head), client_frame(0x8a, b"pong"), client_frame(0x80, tail)];
    assert_eq!(deflating(with_ping.concat()), hello());
    assert_eq!(deflating(client_frame(0x81, b"4plain")), (vec![text("4plain")], None));
    let illegal = (vec![], Some(PeerMisbehaved::IllegalWebSocketFrame));
    let on_last = [client_frame(0x41, head), client_frame(0xc0, tail)].concat();
    assert_eq!(deflating(on_last), illegal);
    assert_eq!(deflating(client_frame(0xc9, b"ping")), illegal);
}

#[test]
fn a_small_frame_does_not_inflate_over_the_limit() {
    let mut reader = Reader::new(true, MAX_PAYLOAD);
    let at_limit = deflate::deflate(&vec![0; MAX_PAYLOAD]).unwrap();
    let message = (vec![binary(vec![0; MAX_PAYLOAD])], None);
    assert_eq!(events(&mut reader, [client_frame(0xc2, &at_limit)]), message);
    let bomb = deflate::deflate(&vec![0; MAX_PAYLOAD + 1]).unwrap();
    let refusal = (vec![], Some(PeerMisbehaved::PayloadTooLarge));
    assert_eq!(events(&mut reader, [client_frame(0xc2, &bomb)]), refusal);
}

#[test]
fn while_skipping_only_the_close_frame_matters() {
    let mut reader = Reader::new(false, 10);
    reader.take_in(&client_frame(0x01, b"4begun")).unwrap();
    reader.skip_messages();
    let rest = [
        client_frame(0x80, &[0xff; 1000]),
        client_frame(0x82, &[0; 1000]),
        client_frame(0x88, b"\x03\xe8"),
    ];
    assert_eq!(events(&mut reader, rest), (vec![Event::Close(Some(1000))], None));
    assert!(reader.is_ended());
}

proptest! {
    #[test]
    fn random_fragments_make_the_message_again(
        fragments in proptest::collection::vec(
            proptest::collection::vec(any::<u8>(), 0..200), 1..10),
        piece in 1usize..50,
    ) {
        let mut bytes = Vec::new();
        for (index, fragment) in fragments.iter().enumerate() {
            let opcode = if index == 0 { 2 } else { 0 };
            let fin = if index + 1 == fragments.len() { 0x80 } else { 0 };
            bytes.extend(client_frame(fin | opcode, fragment));
        }
        let mut reader = Reader::new(false, MAX_PAYLOAD);
        let expected = (vec![binary(fragments.concat())], None);
        prop_assert_eq!(events(&mut reader, bytes.chunks(piece)), expected);
        prop_assert!(owns_nothing(&reader));
    }

    #[test]
    fn arbitrary_bytes_do_the_same_in_any_pieces_and_never_panic(
        bytes in proptest::collection::vec(
            prop_oneof![any::<u8>(), Just(0x81), Just(0x80), Just(0xc2), 0x80u8..0x90], 0..400),
        piece in 1usize..50,
        is_deflate in any::<bool>(),
    ) {
        let in_pieces = events(&mut Reader::new(is_deflate, 100), bytes.chunks(piece));
        let at_once = events(&mut Reader::new(is_deflate, 100), [&bytes]);
        prop_assert_eq!(in_pieces, at_once);
    }
}
