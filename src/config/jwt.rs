//! Whose tokens are taken.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use super::Config;
use super::check::Findings;
use super::forms::show_duration;

/// Tokens (JSON Web Tokens, RFC 7519) that every client has to show in `auth.token` when it joins a
/// namespace, or with [`JwtConfig::admission`] when it opens a session. On as soon as one of the four
/// kinds of keys is set.
///
/// A token is signed by RS256 or ES256 (JWKS) or HS256 (a secret); it must have `exp` and `sub`, and `iss`
/// and `aud` as configured; `nbf` is heeded. Without [`JwtConfig::audiences`] a token that is meant for
/// somebody (`aud`) is refused, as RFC 7519 4.1.3 wants it.
#[derive(Clone, PartialEq, Eq)]
pub struct JwtConfig {
    /// The secret of HS256, at least 32 bytes (RFC 7518 3.2).
    pub secret: Option<String>,
    /// A file with that secret; white space at its end is no part of it.
    pub secret_file: Option<PathBuf>,
    /// Where the public keys are (a JSON Web Key Set, RFC 7517): `https://` or `http://`. Asked again every 10
    /// minutes at the latest, and at most every 10 s when a token names an unknown key; while it cannot be reached
    /// the keys that were there last count. Redirects are not followed.
    pub jwks_url: Option<String>,
    /// A file with the public keys, read again in the same way.
    pub jwks_file: Option<PathBuf>,
    /// Who may issue tokens (`iss`). Default: anybody who can sign.
    pub issuers: Vec<String>,
    /// For whom they may be (`aud`), one of these at least.
    pub audiences: Vec<String>,
    /// How far clocks may be apart, for `exp` and `nbf`; at most 5 minutes. Default: 30 s.
    pub leeway: Duration,
    /// Is the token also taken from `Authorization: Bearer` of the handshake, if `auth` has none? (Browsers
    /// cannot set it on WebSocket and WebTransport.) Default: no.
    pub bearer_header: bool,
    /// Is the token asked for when a session is opened, on every transport, in place of when a namespace is
    /// joined? It is then looked for in `Authorization: Bearer` ([`JwtConfig::bearer_header`]), and if that has none
    /// in the query ([`JwtConfig::query`]), one of which has to be allowed. Who has no good one gets
    /// [`HandshakeError::Forbidden`](crate::HandshakeError::Forbidden) with
    /// [`TokenError::label`](crate::TokenError::label) as its text (HTTP 403; 400 on WebSocket, as from Node), and no
    /// session. Default: no.
    ///
    /// ```
    /// use quicket::config::{Config, JwtConfig};
    /// use quicket::{ServeError, Server, Socket};
    ///
    /// #[tokio::main]
    /// async fn main() -> Result<(), ServeError> {
    ///     let jwt = JwtConfig {
    ///         secret: Some("of 32 bytes at least, from a file".to_owned()),
    ///         admission: true,
    ///         bearer_header: true,              // for servers and apps
    ///         query: Some("token".to_owned()), // for browsers: io({ query: { token } })
    ///         ..JwtConfig::default()
    ///     };
    ///     let server = Server::builder().config(Config { jwt, ..Config::default() }).build().await?;
    ///     server.of("/").on_connect(|socket: Socket| async move {
    ///         let claims: serde_json::Value = socket.claims()?;
    ///         socket.join(format!("user:{}", claims["sub"]));
    ///         Ok::<_, quicket::DataError>(())
    ///     });
    ///     Ok(())
    /// }
    /// ```
    pub admission: bool,
    /// The query parameter in which [`JwtConfig::admission`] looks for the token. Proxies write addresses with their
    /// queries into logs, so let these tokens be short-lived ones. Default: none.
    pub query: Option<String>,
    /// Is the connection closed when its token expires? The client comes back with a new one, and goes on
    /// with its session if recovery is on. Default: yes.
    pub end_at_expiry: bool,
}

impl Default for JwtConfig {
    fn default() -> Self {
        Self {
            secret: None,
            secret_file: None,
            jwks_url: None,
            jwks_file: None,
            issuers: Vec::new(),
            audiences: Vec::new(),
            leeway: Duration::from_secs(30),
            bearer_header: false,
            admission: false,
            query: None,
            end_at_expiry: true,
        }
    }
}

impl fmt::Debug for JwtConfig {
    /// Without the secret, and what a URL may hold of one.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JwtConfig")
            .field("is_on", &self.is_on())
            .field("issuers", &self.issuers)
            .field("audiences", &self.audiences)
            .finish_non_exhaustive()
    }
}

/// The shortest secret: as long as the hash (RFC 7518 3.2).
pub(crate) const MIN_SECRET_BYTES: usize = 32;
/// More than clocks are apart.
const MAX_LEEWAY: Duration = Duration::from_secs(300);

/// Parameters of the query that mean something to Engine.IO.
const OWN_PARAMETERS: [&str; 6] = ["EIO", "transport", "sid", "t", "j", "b64"];

impl JwtConfig {
    /// Are tokens asked for?
    pub fn is_on(&self) -> bool {
        self.keys().iter().any(|(_, set)| *set)
    }

    fn has_public_keys(&self) -> bool {
        self.jwks_url.is_some() || self.jwks_file.is_some()
    }

    /// The kinds of keys, by setting, and whether they are there.
    fn keys(&self) -> [(&'static str, bool); 4] {
        [
            ("jwt-secret", self.secret.is_some()),
            ("jwt-secret-file", self.secret_file.is_some()),
            ("jwt-jwks-url", self.jwks_url.is_some()),
            ("jwt-jwks-file", self.jwks_file.is_some()),
        ]
    }
}

impl Config {
    pub(super) fn check_jwt(&self, found: &mut Findings) {
        let jwt = &self.jwt;
        let mut first = None;
        for (setting, _) in jwt.keys().into_iter().filter(|(_, set)| *set) {
            match first {
                None => first = Some(setting),
                // two kinds of keys would let the weaker one in
                Some(first) => {
                    found.unless(false, setting, || format!("left out, as {first} is set"));
                }
            }
        }
        let names = !jwt.issuers.is_empty()
            || !jwt.audiences.is_empty()
            || jwt.bearer_header
            || jwt.admission;
        found.unless(jwt.is_on() || !names, "jwt-jwks-url", || {
            "set (or jwt-jwks-file, jwt-secret, jwt-secret-file): no token is asked for without keys"
                .to_owned()
        });
        let somewhere = jwt.bearer_header || jwt.query.is_some();
        found.unless(!jwt.admission || somewhere, "jwt-admission", || {
            "set with jwt-query or jwt-bearer-header: where the token is".to_owned()
        });
        if let Some(name) = &jwt.query {
            found.unless(jwt.admission, "jwt-query", || "set with jwt-admission only".to_owned());
            let free = !name.is_empty() && !OWN_PARAMETERS.contains(&name.as_str());
            found.unless(free, "jwt-query", || {
                "the name of a parameter that the protocol does not use itself".to_owned()
            });
        }
        if let Some(secret) = &jwt.secret {
            found.unless(secret.len() >= MIN_SECRET_BYTES, "jwt-secret", || {
                format!("of at least {MIN_SECRET_BYTES} bytes")
            });
        }
        if let Some(url) = &jwt.jwks_url {
            found.unless(is_url(url), "jwt-jwks-url", || {
                "an address that begins with https:// or http://, without user and password"
                    .to_owned()
            });
        }
        // a provider's keys sign tokens for everybody it serves
        let bound = !jwt.issuers.is_empty() || !jwt.audiences.is_empty();
        found.unless(!jwt.has_public_keys() || bound, "jwt-issuer", || {
            "set, or jwt-audience, with public keys".to_owned()
        });
        for (setting, list) in [("jwt-issuer", &jwt.issuers), ("jwt-audience", &jwt.audiences)] {
            found.unless(list.iter().all(|entry| !entry.is_empty()), setting, || {
                "a comma list without gaps".to_owned()
            });
        }
        found.unless(jwt.leeway <= MAX_LEEWAY, "jwt-leeway", || {
            format!("at most {}", show_duration(&MAX_LEEWAY))
        });
        let recovery = &self.socketio.recovery;
        let skipped = jwt.is_on() && recovery.is_on() && recovery.skip_middlewares;
        found.unless(!skipped, "recovery-skip-middlewares", || {
            "false while tokens are asked for: a session would outlive its token".to_owned()
        });
    }
}

fn is_url(text: &str) -> bool {
    let Ok(url) = text.parse::<http::Uri>() else { return false };
    let scheme = matches!(url.scheme_str(), Some("https" | "http"));
    let plain = url.authority().is_some_and(|authority| !authority.as_str().contains('@'));
    scheme && plain && url.host().is_some_and(|host| !host.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong(change: impl FnOnce(&mut Config)) -> Vec<&'static str> {
        let mut config = Config::default();
        change(&mut config);
        config.findings().iter().map(|finding| finding.setting).collect()
    }

    const SECRET: &str = "0123456789abcdef0123456789abcdef";

    #[test]
    fn tokens_that_cannot_be_checked_are_found_and_all_of_it_at_once() {
        assert!(wrong(|c| c.jwt.secret = Some(SECRET.to_owned())).is_empty());
        assert_eq!(wrong(|c| c.jwt.secret = Some(SECRET[1..].to_owned())), ["jwt-secret"]);
        let keys = |url: &str| {
            let url = url.to_owned();
            move |c: &mut Config| {
                c.jwt.jwks_url = Some(url);
                c.jwt.audiences = vec!["us".to_owned()];
            }
        };
        assert!(wrong(keys("https://id.example/keys?a=b")).is_empty());
        for bad in ["id.example/keys", "ftp://id.example/", "https://u:p@id.example/", "https:///"]
        {
            assert_eq!(wrong(keys(bad)), ["jwt-jwks-url"], "{bad}");
        }
        let all = wrong(|c| {
            c.jwt.secret = Some("short".to_owned());
            c.jwt.jwks_url = Some("nowhere".to_owned());
            c.jwt.leeway = Duration::from_secs(301);
            c.socketio.recovery.window = Duration::from_secs(60);
            c.socketio.recovery.skip_middlewares = true;
        });
        let expected = "jwt-jwks-url jwt-secret jwt-jwks-url jwt-issuer jwt-leeway \
             recovery-skip-middlewares";
        assert_eq!(all.join(" "), expected);
        assert_eq!(wrong(|c| c.jwt.issuers = vec!["us".to_owned()]), ["jwt-jwks-url"]);
        assert_eq!(wrong(|c| c.jwt.admission = true), ["jwt-jwks-url", "jwt-admission"]);
        for (admission, name, setting) in [
            (true, "token", ""),
            (false, "token", "jwt-query"),
            (true, "sid", "jwt-query"),
            (true, "", "jwt-query"),
        ] {
            let wrong = wrong(|c| {
                c.jwt.secret = Some(SECRET.to_owned());
                (c.jwt.admission, c.jwt.query) = (admission, Some(name.to_owned()));
            });
            assert_eq!(wrong.join(" "), setting, "{admission} {name:?}");
        }
        assert_eq!(wrong(|c| c.jwt.jwks_file = Some("/keys".into())), ["jwt-issuer"]);
    }

    #[test]
    fn a_printed_configuration_has_no_secret() {
        let jwt = JwtConfig { secret: Some(SECRET.to_owned()), ..JwtConfig::default() };
        assert!(!format!("{:?}", Config { jwt, ..Config::default() }).contains(SECRET));
    }
}
