//! The fuzz target of this layer; see `crate::fuzzing`.

use super::reader::{Event, MAX_PARTIAL_HEADER, Reader};
use crate::error::PeerMisbehaved;

const MAX_PAYLOAD: usize = 300;

fn events(
    is_deflate: bool,
    pieces: std::slice::Chunks<'_, u8>,
) -> (Vec<Event>, Option<PeerMisbehaved>) {
    let mut reader = Reader::new(is_deflate, MAX_PAYLOAD);
    let mut events = Vec::new();
    for piece in pieces {
        let input = [reader.held(), piece].concat();
        let mut next = reader.take_in(&input);
        while let Ok(Some(event)) = next {
            events.push(event);
            next = reader.next_held();
        }
        if let Err(rule) = next {
            assert!(reader.is_over());
            return (events, Some(rule));
        }
        assert!(reader.held().len() <= MAX_PARTIAL_HEADER, "bytes are kept that could be read");
        assert!(reader.buffered() <= MAX_PAYLOAD + 125, "more is kept than one message");
    }
    (events, None)
}

/// What a client sends behind the handshake, behind a byte that says how it is cut and whether it may be
/// deflated: it does not matter where it is cut, and no message is longer than allowed, inflated or not.
pub(crate) fn messages(input: &[u8]) {
    let Some((how, stream)) = input.split_first() else { return };
    let is_deflate = how & 0x80 != 0;
    let whole = events(is_deflate, stream.chunks(stream.len().max(1)));
    let cut = events(is_deflate, stream.chunks(usize::from(how & 0x7f).max(1)));
    assert_eq!(whole, cut);
    for event in whole.0 {
        match event {
            Event::Message(frame) => assert!(frame.len() <= MAX_PAYLOAD),
            Event::Ping(payload) => assert!(payload.len() <= 125),
            Event::Close(_) => {}
        }
    }
}
