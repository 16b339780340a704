//! Tokens that are shown with the request which opens a session: the same on every transport, and before there is
//! anything of the session.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::header::AUTHORIZATION;

use super::{Claims, Jwt};
use crate::config::JwtConfig;
use crate::engine::handshake::{Handshake, HandshakeError, Refusal};
use crate::error::TokenError;

/// When to come back while the keys cannot be reached: they are not asked for more often.
const KEYS_RETRY: Duration = Duration::from_secs(10);

/// What a handshake keeps of the token that it came with.
struct Shown {
    claims: Claims,
    jwt: Jwt,
}

impl Jwt {
    /// For [`Builder::admit`](crate::Builder::admit): asks for a token before a session is opened, in
    /// `Authorization: Bearer` ([`JwtConfig::bearer_header`]) or in the query ([`JwtConfig::query`]). Its claims are
    /// then the handshake's ([`Handshake::claims`]) and those of its sockets
    /// ([`Socket::claims`](crate::Socket::claims)), whose identity they are, and the session ends with it
    /// ([`JwtConfig::end_at_expiry`]).
    ///
    /// [`JwtConfig::admission`] does the same without a line of code; this is for a hook that has more to ask.
    ///
    /// ```
    /// use quicket::config::JwtConfig;
    /// use quicket::{Jwt, Refusal, Server, ServeError};
    ///
    /// #[tokio::main]
    /// async fn main() -> Result<(), ServeError> {
    ///     let jwt = Jwt::new(JwtConfig {
    ///         secret: Some("of 32 bytes at least, from a file".to_owned()),
    ///         query: Some("token".to_owned()), // io({ query: { token } })
    ///         ..JwtConfig::default()
    ///     })?;
    ///     let server = Server::builder().admit(move |handshake| {
    ///         let jwt = jwt.clone();
    ///         async move {
    ///             jwt.admit(&handshake).await?;
    ///             match handshake.claims() {
    ///                 Some(claims) if claims.all["role"] == "guest" => Err(Refusal::forbidden("no guests")),
    ///                 _ => Ok(()),
    ///             }
    ///         }
    ///     });
    ///     server.build().await?;
    ///     Ok(())
    /// }
    /// ```
    ///
    /// # Errors
    /// [`HandshakeError::Forbidden`] with [`TokenError::label`] as its text, or [`HandshakeError::Unavailable`]
    /// while the keys cannot be reached.
    pub async fn admit(&self, handshake: &Handshake) -> Result<(), Refusal> {
        self.show(handshake).await.map_err(refusal)
    }

    pub(crate) async fn show(&self, handshake: &Handshake) -> Result<(), TokenError> {
        let config = self.config();
        let in_query = || handshake.query(config.query.as_deref()?);
        let token = bearer(config, handshake).or_else(in_query).ok_or(TokenError::Missing)?;
        let claims = self.verify(token).await?;
        // a hook that asks twice gets the first answer
        let _ = handshake.shown.set(Arc::new(Shown { claims, jwt: self.clone() }));
        Ok(())
    }
}

/// The token in `Authorization: Bearer`, if it is looked for there.
pub(crate) fn bearer<'a>(config: &JwtConfig, handshake: &'a Handshake) -> Option<&'a str> {
    let header = handshake.header(AUTHORIZATION.as_str()).filter(|_| config.bearer_header)?;
    let (scheme, token) = header.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// What a client without a good token gets to see.
pub(crate) fn refusal(error: TokenError) -> Refusal {
    let (kind, retry_after) = match error {
        TokenError::KeysUnavailable => (HandshakeError::Unavailable, Some(KEYS_RETRY)),
        _ => (HandshakeError::Forbidden, None),
    };
    Refusal { error: kind, message: Some(error.label().to_owned()), retry_after }
}

impl Handshake {
    /// What the token says that the client was admitted by ([`Jwt::admit`]); `None` if none was asked for.
    pub fn claims(&self) -> Option<&Claims> {
        Some(&self.shown()?.claims)
    }

    fn shown(&self) -> Option<&Shown> {
        self.shown.get()?.downcast_ref()
    }

    /// When the session is to end.
    pub(crate) fn expires(&self) -> Option<SystemTime> {
        let shown = self.shown()?;
        shown.jwt.config().end_at_expiry.then_some(shown.claims.expires)
    }

    /// For others to see: without the token that the client was admitted by.
    pub(crate) fn without_token(&self) -> Option<Self> {
        let config = self.shown()?.jwt.config();
        let mut public = self.clone();
        if config.bearer_header {
            public.headers.remove(AUTHORIZATION);
        }
        if let Some(name) = &config.query {
            public.query.retain(|(key, _)| key != name);
            let (path, query) = self.url.split_once('?').unwrap_or((&self.url, ""));
            let other = |pair: &&str| {
                let mut pairs = form_urlencoded::parse(pair.as_bytes());
                pairs.next().is_none_or(|(key, _)| key != *name)
            };
            let query: Vec<_> = query.split('&').filter(other).collect();
            public.url = format!("{path}?{}", query.join("&"));
        }
        Some(public)
    }
}
