//! Engine.IO v4 as a value: one session over any link, without I/O.
//!
//! ```text
//!            open packet            probe link attached, 2probe/3probe
//!  (new) ───────────────▶ Open ◀──────────────────────────────▶ Open + Probe
//!                          │  ▲            upgrade timeout, probe lost │ 5
//!                          │  └───────────────── Switched ◀────────────┘
//!              close()     │ peer's close, ping timeout, bad packet
//!                 ▼        ▼
//!              Closing ─▶ Closed(reason)      exactly one Closed event, whatever happened
//! ```
//!
//! Words: a *session* is what Engine.IO calls a socket; a *link* is one connection of one transport;
//! a *frame* is one Engine.IO packet as a link carries it; *slot* says which of the (at most two) links
//! of a session is meant.

pub(crate) mod allowance;
pub(crate) mod door;
pub(crate) mod framing;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
pub mod handshake;
pub mod packet;
pub(crate) mod session;

use std::fmt;

/// A session's id on the wire: 20 characters of `[A-Za-z0-9_-]` (DESIGN D7).
///
/// Knowing it is what lets a request act for the session, so it is never logged whole: `Debug` shows
/// its first four characters. It holds 96 random bits, and its last four characters name the node
/// that made it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Sid([u8; Self::LEN]);

impl Sid {
    /// Characters in a sid.
    pub const LEN: usize = 20;
    const NODE_CHARS: usize = 4;
    const ALPHABET: &'static [u8; 64] =
        b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

    /// A sid of random bits; 6 bits of each byte of `random` are used.
    pub(crate) fn new(random: [u8; Self::LEN - Self::NODE_CHARS], node: NodeTag) -> Self {
        let mut chars = [0; Self::LEN];
        for (to, from) in chars.iter_mut().zip(random) {
            *to = Self::ALPHABET[usize::from(from & 63)];
        }
        chars[Self::LEN - Self::NODE_CHARS..].copy_from_slice(&node.0);
        Self(chars)
    }

    /// Reads a sid as a client sent it. `None` for anything that cannot be one.
    pub fn parse(text: &str) -> Option<Self> {
        let chars: [u8; Self::LEN] = text.as_bytes().try_into().ok()?;
        // (to look each up in the alphabet took a fifteenth of a poll)
        let is_of_it = |c: &u8| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_');
        chars.iter().all(is_of_it).then_some(Self(chars))
    }

    pub(crate) fn as_bytes(&self) -> &[u8; Self::LEN] {
        &self.0
    }

    /// The sid as text.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("a sid is made of ASCII only")
    }
}

impl fmt::Display for Sid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Sid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}…", &self.as_str()[..4])
    }
}

/// The transports of Engine.IO v4.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TransportKind {
    /// HTTP long-polling.
    Polling,
    /// WebSocket.
    WebSocket,
    /// WebTransport over HTTP/3.
    WebTransport,
}

impl TransportKind {
    /// All of them, in the order of [`TransportKind::index`].
    pub const ALL: [Self; 3] = [Self::Polling, Self::WebSocket, Self::WebTransport];

    /// The name on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Self::Polling => "polling",
            Self::WebSocket => "websocket",
            Self::WebTransport => "webtransport",
        }
    }

    /// Position in [`TransportKind::ALL`].
    pub fn index(self) -> usize {
        self as usize
    }

    /// Reads the `transport` query parameter.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

impl fmt::Display for TransportKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The four characters by which a sid names its node (24 bits).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NodeTag([u8; Sid::NODE_CHARS]);

impl NodeTag {
    pub(crate) fn new(random: [u8; Sid::NODE_CHARS]) -> Self {
        Self(random.map(|byte| Sid::ALPHABET[usize::from(byte & 63)]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sid_is_twenty_url_safe_characters_that_end_in_the_node() {
        let node = NodeTag::new([1, 2, 3, 255]);
        let sid = Sid::new(*b"0123456789abcdef", node);
        assert_eq!(sid.as_str().len(), 20);
        assert!(sid.as_str().ends_with("BCD_"));
        assert_eq!(Sid::parse(sid.as_str()), Some(sid));
    }

    #[test]
    fn what_cannot_be_a_sid_is_not_parsed() {
        for text in [
            "",
            "__proto__",
            "AAAAAAAAAAAAAAAAAAA",
            "AAAAAAAAAAAAAAAAAAAAA",
            "AAAAAAAAAAAAAAAAAAA+",
        ] {
            assert_eq!(Sid::parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn debug_does_not_give_the_secret_away() {
        let sid = Sid::new([7; 16], NodeTag::new([0; 4]));
        assert_eq!(format!("{sid:?}"), "HHHH…");
    }
}
