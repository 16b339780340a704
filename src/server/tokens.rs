//! Tokens at the front door, by configuration.

use std::sync::{Arc, Weak};
use std::time::SystemTime;

use tokio::task::AbortHandle;

use super::core::AdmitFn;
use super::registry::SessionHandle;
use crate::error::CloseReason;
use crate::jwt::{self, Jwt};
use crate::metrics::Metrics;

/// Asks for a token, and after that the application.
pub(super) fn admission(
    jwt: Jwt,
    metrics: Arc<Metrics>,
    then: Option<Box<AdmitFn>>,
) -> Box<AdmitFn> {
    let then: Option<Arc<AdmitFn>> = then.map(Arc::from);
    Box::new(move |handshake| {
        let (jwt, metrics, then) = (jwt.clone(), metrics.clone(), then.clone());
        Box::pin(async move {
            if let Err(error) = jwt.show(&handshake).await {
                metrics.tokens_refused[error].inc();
                tracing::debug!(why = error.label(), "a session was refused for its token");
                return Err(jwt::refusal(error));
            }
            match then {
                Some(then) => then(handshake).await,
                None => Ok(()),
            }
        })
    })
}

/// Ends a session when its token does; for nothing once this is dropped.
pub(crate) struct Expiry(AbortHandle);

impl Expiry {
    pub(super) fn at(expires: SystemTime, session: &Arc<SessionHandle>) -> Self {
        let session = Arc::downgrade(session);
        let end = async move {
            jwt::until(expires).await;
            if let Some(session) = Weak::upgrade(&session) {
                session.mailbox.close(CloseReason::TokenExpired);
            }
        };
        Self(tokio::spawn(end).abort_handle())
    }
}

impl Drop for Expiry {
    fn drop(&mut self) {
        self.0.abort();
    }
}
