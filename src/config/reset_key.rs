//! The secret that processes behind one address share for QUIC.

use std::fmt;

/// A secret from which all processes behind one address derive the same keys for QUIC: those of stateless
/// resets (RFC 9000 10.3) and of address validation by retry (RFC 9000 8.1).
///
/// A client whose process is gone sends on to whichever process its packets now reach. With a shared key that
/// one answers with a reset, and the client connects again at once instead of waiting for its idle timeout.
#[derive(Clone, PartialEq, Eq)]
pub struct ResetKey(pub String);

impl ResetKey {
    /// The shortest that is taken, in bytes: what 32 of base64 hold cannot be guessed.
    pub const LENGTH_MIN: usize = 32;
}

impl fmt::Debug for ResetKey {
    /// Without the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ResetKey(...)")
    }
}
