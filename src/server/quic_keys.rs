//! Keys of QUIC that every process derives alike from one secret.
//!
//! What quinn takes are ring's types, hence ring here and nowhere else.

use std::sync::Arc;

use quinn::{EndpointConfig, ServerConfig};
use ring::{hkdf, hmac};

use crate::config::ResetKey;

/// The purpose of each key, so that none says anything of another (RFC 5869 3.2).
const RESET: &[u8] = b"quicket quic stateless reset";
const TOKEN: &[u8] = b"quicket quic retry token";

/// How long after a reset the next may go out. quinn's 20 ms are for strays; here a whole node's clients may
/// come at once, and each packet of theirs gets one that is shorter.
const RESET_INTERVAL: std::time::Duration = std::time::Duration::from_millis(1);

/// The keys of one process.
pub(super) struct SharedKeys(hkdf::Prk);

impl SharedKeys {
    pub(super) fn new(secret: &ResetKey) -> Self {
        Self(hkdf::Salt::new(hkdf::HKDF_SHA256, b"quicket").extract(secret.0.as_bytes()))
    }

    /// For an endpoint: resets that the clients of all others believe, too.
    pub(super) fn set_endpoint(&self, config: &mut EndpointConfig) {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &self.derive(RESET));
        config.reset_key(Arc::new(key)).min_reset_interval(RESET_INTERVAL);
    }

    /// For a server: an address that was proven to one process is proven to all.
    pub(super) fn set_server(&self, config: &mut ServerConfig) {
        let salt = hkdf::Salt::new(hkdf::HKDF_SHA256, &[]);
        config.token_key(Arc::new(salt.extract(&self.derive(TOKEN))));
    }

    fn derive(&self, purpose: &[u8]) -> [u8; 32] {
        let mut key = [0; 32];
        self.0
            .expand(&[purpose], hkdf::HKDF_SHA256)
            .and_then(|okm| okm.fill(&mut key))
            .expect("HKDF gives as many bytes as its hash has");
        key
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_alike_for_one_secret_and_differ_by_secret_and_purpose() {
        let [one, same, other] =
            ["a".repeat(32), "a".repeat(32), "b".repeat(32)].map(|s| SharedKeys::new(&ResetKey(s)));
        assert_eq!(one.derive(RESET), same.derive(RESET));
        assert_eq!(one.derive(TOKEN), same.derive(TOKEN));
        assert_ne!(one.derive(RESET), other.derive(RESET));
        assert_ne!(one.derive(RESET), one.derive(TOKEN));
    }

    #[test]
    fn a_secret_is_not_printed() {
        assert_eq!(format!("{:?}", ResetKey("hunter2".to_owned())), "ResetKey(...)");
    }
}
