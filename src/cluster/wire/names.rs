//! Names of streams and channels, and positions in a stream.

use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;

use super::Malformed;

/// Java's `String.hashCode` over UTF-16 units (util.ts `hashCode`).
fn hash_code(text: &str) -> i32 {
    text.encode_utf16().fold(0_i32, |hash, unit| hash.wrapping_mul(31).wrapping_add(unit.into()))
}

/// The stream that a namespace is written to: `base` itself when there is one stream only.
///
/// JavaScript's `%` keeps the sign, so half of all namespaces go to names like `socket.io--3`. No Node
/// peer reads those; we write them all the same, because all writers of a namespace have to share one
/// stream for there to be one order.
pub(crate) fn stream_name(base: &str, count: NonZeroU32, nsp: &str) -> String {
    if count.get() == 1 {
        return base.to_owned();
    }
    let index = i64::from(hash_code(nsp)) % i64::from(count.get());
    format!("{base}-{index}")
}

/// Every stream that anybody may write to: those of [`stream_name`] for any namespace, and `base`, which
/// is the only one that the official emitter knows.
pub(crate) fn streams_to_read(base: &str, count: NonZeroU32) -> Vec<String> {
    let mut names = vec![base.to_owned()];
    if count.get() > 1 {
        names.extend((0..count.get()).map(|index| format!("{base}-{index}")));
        names.extend((1..count.get()).map(|index| format!("{base}--{index}")));
    }
    names
}

/// The pub/sub channels of a namespace on one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Channels {
    /// Requests, for every node. Each node subscribes exactly once: peers count the subscriptions to
    /// know how many replies to wait for.
    pub(crate) public: String,
    /// Replies, for the node with this uid.
    pub(crate) private: String,
}

/// The channels of `nsp` (adapter.ts:292). `uid` is that of the namespace on one node; replies to a
/// request go to the private channel with *its* uid.
pub(crate) fn channels(prefix: &str, nsp: &str, uid: &str) -> Channels {
    let public = format!("{prefix}#{nsp}#");
    let private = format!("{public}{uid}#");
    Channels { public, private }
}

/// The position of an entry: milliseconds of Redis' clock and a number within them. As text it is the
/// offset that clients keep for recovery.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct StreamId {
    pub(crate) ms: u64,
    pub(crate) seq: u64,
}

impl StreamId {
    /// The last possible position before this one.
    pub(crate) fn before(self) -> Self {
        match self {
            Self { ms: 0, seq: 0 } => self,
            Self { ms, seq: 0 } => Self { ms: ms - 1, seq: u64::MAX },
            Self { ms, seq } => Self { ms, seq: seq - 1 },
        }
    }

    /// The first possible position behind this one.
    pub(crate) fn after(self) -> Self {
        match self.seq.checked_add(1) {
            Some(seq) => Self { seq, ..self },
            None => Self { ms: self.ms.saturating_add(1), seq: 0 },
        }
    }
}

impl fmt::Display for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.ms, self.seq)
    }
}

impl FromStr for StreamId {
    type Err = Malformed;

    /// Takes `^[0-9]+-[0-9]+$`, as `restoreSession` does; never Redis' `-`, `+`, `$` or `(`.
    fn from_str(text: &str) -> Result<Self, Malformed> {
        let number = |digits: &str| match digits.bytes().all(|byte| byte.is_ascii_digit()) {
            true => digits.parse().ok(),
            false => None,
        };
        let parts = text.split_once('-');
        parts
            .and_then(|(ms, seq)| Some(Self { ms: number(ms)?, seq: number(seq)? }))
            .ok_or(Malformed::OFFSET)
    }
}
