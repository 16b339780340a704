//! JSON Web Tokens: is this one good, and who is it? `jsonwebtoken` reads and checks them, ring their
//! signatures; what is here is where keys come from ([`source`]) and what we ask of a token.

mod admission;
mod crypto;
mod fetch;
mod keys;
mod source;

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde_json::Value;

pub(crate) use self::admission::{bearer, refusal};
use self::keys::Key;
use self::source::{Pace, Source};
use crate::config::{JwtConfig, MIN_SECRET_BYTES};
use crate::error::{ServeError, TokenError};
use crate::metrics::KeyMetrics;

/// The longest token that is looked at.
const MAX_TOKEN_BYTES: usize = 8 * 1024;

/// Checks tokens (RFC 7519); see [`JwtConfig`]. Cheap to clone.
///
/// For all namespaces of a server, set [`Config::jwt`](crate::Config::jwt); for some,
/// [`Namespace::require_token`](crate::Namespace::require_token). Before there is a session,
/// [`JwtConfig::admission`] or [`Jwt::admit`].
#[derive(Clone)]
pub struct Jwt(Arc<Inner>);

struct Inner {
    keys: Keys,
    validation: Validation,
    pub(crate) config: JwtConfig,
}

enum Keys {
    Secret(Key),
    Public(Arc<Source>),
}

/// What a good token says.
#[derive(Clone, Debug, PartialEq)]
pub struct Claims {
    /// `sub`: whose token it is.
    pub subject: String,
    /// `iss`: who says so.
    pub issuer: Option<String>,
    /// `exp`, and the leeway: when it is good no more.
    pub expires: SystemTime,
    /// All of it.
    pub all: Value,
}

impl Claims {
    /// One name for issuer and subject, which a session is tied to.
    pub(crate) fn identity(&self) -> String {
        serde_json::json!([self.issuer, self.subject]).to_string()
    }
}

impl fmt::Debug for Jwt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Jwt").field(&self.0.config).finish()
    }
}

impl Jwt {
    /// Reads the secret, or starts to read the public keys: within a Tokio runtime. That the keys cannot be
    /// reached yet is no error; clients are refused until they are.
    ///
    /// `jsonwebtoken` has one choice of cryptography for the whole process. An application that signs by
    /// that crate itself makes it before (`CryptoProvider::install_default`).
    ///
    /// # Errors
    /// [`ServeError::Jwt`]: no keys are configured, or what is there cannot be used.
    pub fn new(config: JwtConfig) -> Result<Self, ServeError> {
        Self::measured(config, KeyMetrics::default())
    }

    /// As [`Jwt::new`]; the metrics tell how old public keys are.
    pub(crate) fn measured(config: JwtConfig, metrics: KeyMetrics) -> Result<Self, ServeError> {
        Self::with_pace(config, Pace::default(), metrics)
    }

    fn with_pace(config: JwtConfig, pace: Pace, metrics: KeyMetrics) -> Result<Self, ServeError> {
        crypto::install();
        let keys = Keys::new(&config, pace, metrics).map_err(ServeError::Jwt)?;
        if let Keys::Public(source) = &keys {
            tokio::spawn(Source::keep_fresh(Arc::downgrade(source)));
        }
        let validation = validation(&config, keys.algorithms());
        Ok(Self(Arc::new(Inner { keys, validation, config })))
    }

    /// Looks at a token.
    ///
    /// # Errors
    /// Why it is not taken.
    pub async fn verify(&self, token: &str) -> Result<Claims, TokenError> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(TokenError::Invalid);
        }
        // `none`, and whatever nobody knows, fails here
        let header = jsonwebtoken::decode_header(token).map_err(|_| TokenError::Invalid)?;
        // RFC 7515 4.1.11: extensions that must be understood, and there are none that we do
        if header.crit.is_some() || !self.0.validation.algorithms.contains(&header.alg) {
            return Err(TokenError::Invalid);
        }
        let keys = match &self.0.keys {
            Keys::Secret(key) => vec![key.clone()],
            Keys::Public(source) => {
                let keys = source.candidates(header.kid.as_deref(), header.alg).await;
                if keys.is_empty() {
                    return Err(if source.is_unknown() {
                        TokenError::KeysUnavailable
                    } else {
                        TokenError::UnknownKey
                    });
                }
                keys
            }
        };
        let mut result = Err(TokenError::Invalid);
        for key in keys {
            result = self.check(token, &key);
            if result != Err(TokenError::Invalid) {
                break;
            }
        }
        result
    }

    fn check(&self, token: &str, key: &Key) -> Result<Claims, TokenError> {
        let validation =
            Validation { algorithms: vec![key.algorithm], ..self.0.validation.clone() };
        let all: Value = match jsonwebtoken::decode(token, &key.key, &validation) {
            Ok(token) => token.claims,
            Err(error) => {
                return Err(match error.kind() {
                    ErrorKind::ExpiredSignature => TokenError::Expired,
                    ErrorKind::ImmatureSignature => TokenError::NotYetValid,
                    _ => TokenError::Invalid,
                });
            }
        };
        let text = |name: &str| all.get(name).and_then(Value::as_str).map(str::to_owned);
        let subject = text("sub").filter(|subject| !subject.is_empty());
        let expires = all.get("exp").and_then(Value::as_f64).and_then(|exp| {
            let leeway = self.0.config.leeway;
            let exp = Duration::try_from_secs_f64(exp).ok()?.checked_add(leeway)?;
            SystemTime::UNIX_EPOCH.checked_add(exp)
        });
        let expires = expires.ok_or(TokenError::Invalid)?;
        // checked above in whole seconds; a connection that has just ended over it must not come back
        if expires <= SystemTime::now() {
            return Err(TokenError::Expired);
        }
        let (subject, issuer) = (subject.ok_or(TokenError::Invalid)?, text("iss"));
        Ok(Claims { subject, issuer, expires, all })
    }

    pub(crate) fn config(&self) -> &JwtConfig {
        &self.0.config
    }
}

impl Keys {
    fn new(config: &JwtConfig, pace: Pace, metrics: KeyMetrics) -> Result<Self, String> {
        let secret = match (&config.secret, &config.secret_file) {
            (Some(secret), _) => Some(secret.clone().into_bytes()),
            (None, Some(path)) => {
                let bytes = source::read_file(path).map_err(|e| format!("jwt-secret-file: {e}"))?;
                Some(bytes.trim_ascii_end().to_owned())
            }
            (None, None) => None,
        };
        if let Some(secret) = secret {
            if secret.len() < MIN_SECRET_BYTES {
                return Err(format!("the secret is shorter than {MIN_SECRET_BYTES} bytes"));
            }
            let key = DecodingKey::from_secret(&secret);
            return Ok(Self::Secret(Key { id: None, algorithm: Algorithm::HS256, key }));
        }
        if let Some(path) = &config.jwks_file {
            // a mistake of the operator's, which is told at once; later ones are only logged
            let keys = source::read_file(path).and_then(|document| keys::read(&document));
            let keys = keys.map_err(|error| format!("jwt-jwks-file: {error}"))?;
            if keys.is_empty() {
                return Err(format!("jwt-jwks-file: {}", keys::NONE));
            }
            return Ok(Self::Public(Source::of_file(path.clone(), pace, metrics)));
        }
        match &config.jwks_url {
            Some(url) => Ok(Self::Public(Source::of_url(url, pace, metrics)?)),
            None => Err("no keys are configured".to_owned()),
        }
    }

    fn algorithms(&self) -> Vec<Algorithm> {
        match self {
            Self::Secret(key) => vec![key.algorithm],
            Self::Public(_) => vec![Algorithm::RS256, Algorithm::ES256],
        }
    }
}

/// Waits until then, by the system's clock.
pub(crate) async fn until(expires: SystemTime) {
    // again: the system's clock may have been set, and sleeps do not follow it
    while let Ok(left) = expires.duration_since(SystemTime::now())
        && !left.is_zero()
    {
        tokio::time::sleep(left).await;
    }
}

fn validation(config: &JwtConfig, algorithms: Vec<Algorithm>) -> Validation {
    let mut validation = Validation::new(Algorithm::HS256);
    validation.algorithms = algorithms;
    validation.leeway = config.leeway.as_secs();
    validation.validate_nbf = true;
    let mut required = vec!["exp", "sub"];
    if !config.issuers.is_empty() {
        validation.set_issuer(&config.issuers);
        required.push("iss");
    }
    if !config.audiences.is_empty() {
        validation.set_audience(&config.audiences);
        required.push("aud");
    }
    validation.set_required_spec_claims(&required);
    validation
}

#[cfg(test)]
mod tests;
