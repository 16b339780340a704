//! Tokens at the door of a namespace: who shows none does not come in, and who comes in is known by it.

use std::sync::{Arc, Weak};
use std::time::SystemTime;

use futures_util::future::BoxFuture;
use serde::de::DeserializeOwned;
use tokio::task::AbortHandle;

use super::handler::{Auth, ConnectError};
use super::namespace::Namespace;
use super::socket::{Inner, Socket};
use crate::error::{CloseReason, DataError, TokenError};
use crate::jwt::{self, Claims, Jwt};

/// What a socket keeps of its token.
#[derive(Default)]
pub(super) struct Shown {
    claims: Option<Arc<Claims>>,
    /// Waits for its end.
    expiry: Option<AbortHandle>,
}

impl Drop for Shown {
    fn drop(&mut self) {
        if let Some(expiry) = &self.expiry {
            expiry.abort();
        }
    }
}

impl Namespace {
    /// Asks every client that wants in for a token, before the middlewares that are registered later: in
    /// `auth.token`, where official clients put it (`io({ auth: { token } })`), or as [`JwtConfig`] says.
    ///
    /// A good one sets the socket's identity ([`Socket::set_identity`]), so that a session goes on for its
    /// owner only, and its claims are there for handlers ([`Socket::claims`]). Who has none gets
    /// `connect_error` with the message `unauthorized` and [`TokenError::label`] as `data.code`.
    ///
    /// [`Config::jwt`](crate::Config::jwt) does the same for all namespaces.
    ///
    /// [`JwtConfig`]: crate::config::JwtConfig
    pub fn require_token(&self, jwt: &Jwt) {
        self.middleware(middleware(jwt.clone()));
    }
}

impl Socket {
    /// The claims of the token that the client has shown: to the namespace, or when it was admitted.
    ///
    /// # Errors
    /// [`DataError`]: there was none, or they are not a `T`.
    pub fn claims<T: DeserializeOwned>(&self) -> Result<T, DataError> {
        let claims = self.0.token.lock().claims.clone();
        let claims = claims.as_deref().or_else(|| self.handshake().claims());
        let claims = claims.ok_or_else(|| DataError("no token was asked for".to_owned()))?;
        T::deserialize(&claims.all).map_err(DataError::of)
    }

    /// `auth` for others to see: without the token.
    pub(super) fn public_auth(&self) -> serde_json::Value {
        let mut auth = self.auth().clone();
        if self.0.token.lock().claims.is_some()
            && let Some(auth) = auth.as_object_mut()
        {
            auth.remove("token");
        }
        auth
    }

    /// It has left: nothing waits for the end of its token any more.
    pub(super) fn forget_expiry(&self) {
        if let Some(expiry) = self.0.token.lock().expiry.take() {
            expiry.abort();
        }
    }
}

pub(super) fn middleware(
    jwt: Jwt,
) -> impl Fn(Socket, Auth) -> BoxFuture<'static, Result<(), ConnectError>> + Send + Sync + 'static {
    move |socket, _| {
        let jwt = jwt.clone();
        Box::pin(async move {
            show(&jwt, &socket).await.map_err(|error| {
                let (nsp, why) = (socket.0.namespace.name.as_str(), error.label());
                tracing::debug!(nsp, why, "a client without a good token was turned away");
                socket.0.namespace.metrics.tokens_refused[error].inc();
                ConnectError::new("unauthorized").with_data(serde_json::json!({ "code": why }))
            })
        })
    }
}

async fn show(jwt: &Jwt, socket: &Socket) -> Result<(), TokenError> {
    let config = jwt.config();
    let token = match socket.auth().get("token") {
        Some(token) => token.as_str().ok_or(TokenError::Invalid)?,
        None => jwt::bearer(config, socket.handshake()).ok_or(TokenError::Missing)?,
    };
    let claims = Arc::new(jwt.verify(token).await?);
    socket.set_identity(claims.identity());
    let expiry = config.end_at_expiry.then(|| {
        let end = end_at(claims.expires, Arc::downgrade(&socket.0));
        tokio::spawn(end).abort_handle()
    });
    *socket.0.token.lock() = Shown { claims: Some(claims), expiry };
    Ok(())
}

/// Closes the connection, not the namespace: official clients come back by themselves, and ask their
/// application for a new token if `auth` is a function.
async fn end_at(expires: SystemTime, socket: Weak<Inner>) {
    jwt::until(expires).await;
    if let Some(socket) = socket.upgrade() {
        // its own end aborts this task, which is over after that
        socket.connection.end(CloseReason::TokenExpired);
    }
}
