//! Keys, and how they are found in a JSON Web Key Set (RFC 7517).

use jsonwebtoken::jwk::{
    AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, KeyOperations, PublicKeyUse,
};
use jsonwebtoken::{Algorithm, DecodingKey};
use serde::Deserialize;

/// Keys of one set that are looked at; providers have two or three.
const MAX_KEYS: usize = 64;
/// Keys that a token which names none is tried with.
const MAX_TRIES: usize = 4;

/// What is wrong with a set from which nothing is left.
pub(super) const NONE: &str = "no key for RS256 or ES256 in the set";

/// A key, and the one algorithm that it is for.
#[derive(Clone, Debug)]
pub(super) struct Key {
    pub(super) id: Option<String>,
    pub(super) algorithm: Algorithm,
    pub(super) key: DecodingKey,
}

/// Reads a set. A key that is not for us (of encryption, of an algorithm that we do not take, or symmetric,
/// which has no place in a public document) is left out. None may be left: a provider that takes its last key back
/// means it.
///
/// # Errors
/// It is no set.
pub(super) fn read(document: &[u8]) -> Result<Vec<Key>, String> {
    #[derive(Deserialize)]
    struct Set {
        keys: Vec<serde_json::Value>,
    }
    let set: Set = serde_json::from_slice(document)
        .map_err(|error| format!("no JSON Web Key Set: {error}"))?;
    let keys = set.keys.into_iter().take(MAX_KEYS);
    Ok(keys.filter_map(|key| usable(&serde_json::from_value(key).ok()?)).collect())
}

fn usable(jwk: &Jwk) -> Option<Key> {
    let (algorithm, name) = match &jwk.algorithm {
        AlgorithmParameters::RSA(_) => (Algorithm::RS256, KeyAlgorithm::RS256),
        AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P256 => {
            (Algorithm::ES256, KeyAlgorithm::ES256)
        }
        _ => return None,
    };
    let common = &jwk.common;
    let signs = common.public_key_use.as_ref().is_none_or(|of| *of == PublicKeyUse::Signature);
    let verifies = common.key_operations.as_ref();
    let verifies = verifies.is_none_or(|list| list.contains(&KeyOperations::Verify));
    let fits = common.key_algorithm.is_none_or(|of| of == name);
    let key = DecodingKey::from_jwk(jwk).ok()?;
    (signs && verifies && fits).then(|| Key { id: common.key_id.clone(), algorithm, key })
}

/// The keys that may have signed a token with this header.
pub(super) fn candidates(keys: &[Key], id: Option<&str>, algorithm: Algorithm) -> Vec<Key> {
    let fits = |key: &&Key| {
        key.algorithm == algorithm && id.is_none_or(|id| key.id.as_deref() == Some(id))
    };
    keys.iter().filter(fits).take(MAX_TRIES).cloned().collect()
}
