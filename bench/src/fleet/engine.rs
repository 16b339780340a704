//! Engine.IO v4 as a client sees it, one packet at a time.

use super::Event;

/// What one packet means to the client.
pub(super) enum Step<'a> {
    /// Answer with this packet.
    Answer(&'static str),
    /// Tell the handler.
    Tell(Event<'a>),
    Nothing,
}

/// Reads one packet of text.
pub(super) fn text(packet: &[u8]) -> Step<'_> {
    match packet {
        // OPEN: join the default namespace
        [b'0', ..] => Step::Answer("40"),
        [b'2', ..] => Step::Answer("3"),
        [b'4', b'0', ..] => Step::Tell(Event::Ready),
        [b'4', b'1', ..] => Step::Tell(Event::Closed("the server left the namespace")),
        [b'4', b'4', ..] => Step::Tell(Event::Closed("the namespace refused the client")),
        [b'4', rest @ ..] => Step::Tell(Event::Text(rest)),
        [b'1', ..] => Step::Tell(Event::Closed("the server closed the session")),
        [b'6', ..] => Step::Nothing,
        _ => Step::Tell(Event::Closed("a packet that no server sends")),
    }
}
