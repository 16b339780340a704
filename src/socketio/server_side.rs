//! Events between the servers of a cluster (Node's `serverSideEmit`).

use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;
use serde::Serialize;
use tokio::sync::mpsc;

use super::broadcast::Answers;
use super::handler::{FromArgs, HandlerFuture, Outcome};
use super::namespace::{Inner as NamespaceInner, Namespace};
use super::packet::Codec;
use crate::cluster::message::{Reply, Request};
use crate::engine::packet::Str;
use crate::error::{AckError, EmitError};
use crate::metrics::Incident;
use crate::socketio::packet::Args;

/// How long the other servers may take to answer (Node's adapter: 5 s).
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// The answer that another server waits for, or does not.
#[derive(Debug)]
pub struct ServerAck {
    codec: Codec,
    wanted: Option<mpsc::UnboundedSender<Reply>>,
}

impl ServerAck {
    /// Does the other server wait for an answer?
    pub fn is_wanted(&self) -> bool {
        self.wanted.is_some()
    }

    /// Answers with one value.
    ///
    /// # Errors
    /// [`EmitError::Encode`].
    pub fn send<T: Serialize + ?Sized>(self, data: &T) -> Result<(), EmitError> {
        if let Some(replies) = self.wanted {
            // one value, also if it is a tuple: Node's answers have one argument
            let args = self.codec.args(None, &(data,))?;
            let _ = replies.send(Reply::ServerSideAnswer(args));
        }
        Ok(())
    }
}

type ServerSideFn = dyn Fn(&Args, ServerAck) -> HandlerFuture + Send + Sync;

/// The handlers of one namespace.
#[derive(Default)]
pub(super) struct ServerSide(RwLock<Vec<(Str, Arc<ServerSideFn>)>>);

impl ServerSide {
    /// Runs the handlers of an event that another server has emitted.
    pub(super) fn deliver(
        &self,
        namespace: &NamespaceInner,
        args: &Args,
        replies: Option<mpsc::UnboundedSender<Reply>>,
    ) {
        let name = args.event().unwrap_or_default();
        let handlers: Vec<_> = {
            let handlers = self.0.read();
            let named = handlers.iter().filter(|(event, _)| event.as_str() == name);
            named.map(|(_, handler)| handler.clone()).collect()
        };
        let mut replies = replies;
        for handler in handlers {
            let ack = ServerAck { codec: namespace.codec, wanted: replies.take() };
            let future = handler(args, ack);
            let (metrics, event) = (namespace.metrics.clone(), name.to_owned());
            tokio::spawn(async move {
                if let Err(error) = future.await {
                    metrics.handler_errors.inc();
                    let now = tokio::time::Instant::now().into_std();
                    let said = metrics.incidents.says(Incident::ServerSideHandler, None, now);
                    if let Some(left_out) = said {
                        tracing::warn!(event, %error, left_out, "a server-side handler failed");
                    }
                }
            });
        }
    }
}

impl Namespace {
    /// How many servers of the cluster have this namespace, this one included (Node's `serverCount`). `None`
    /// while Redis does not answer: then nobody can tell.
    pub async fn server_count(&self) -> Option<usize> {
        self.0.log.nodes().await
    }

    /// Handles an event that another server of the cluster emits with [`Namespace::server_side_emit`].
    pub fn on_server_side<T, F, Fut, O>(&self, event: impl Into<String>, handler: F)
    where
        T: FromArgs,
        F: Fn(T, ServerAck) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = O> + Send + 'static,
        O: Outcome,
    {
        let handler = move |args: &Args, ack| -> HandlerFuture {
            match T::from_args(args) {
                Ok(data) => {
                    let future = handler(data, ack);
                    Box::pin(async move { future.await.into_result() })
                }
                Err(error) => Box::pin(async move { Err(error.into()) }),
            }
        };
        self.0.server_side.0.write().push((event.into().into(), Arc::new(handler)));
    }

    /// Emits an event to the other servers of the cluster, not to clients.
    ///
    /// # Errors
    /// [`EmitError`].
    pub async fn server_side_emit<T: Serialize + ?Sized>(
        &self,
        event: &str,
        data: &T,
    ) -> Result<(), EmitError> {
        let args = self.0.codec.args(Some(event), data)?;
        drop(self.0.log.request(Request::ServerSideEmit { args, wanted: false }));
        Ok(())
    }

    /// Emits an event to the other servers and collects one answer of each, for at most 5 s.
    pub async fn server_side_emit_with_ack<T, R>(&self, event: &str, data: &T) -> Answers<R>
    where
        T: Serialize + ?Sized,
        R: FromArgs,
    {
        let mut answers = Answers { received: Vec::new(), missing: 0, error: None };
        let args = match self.0.codec.args(Some(event), data) {
            Ok(args) => args,
            Err(error) => {
                answers.error = Some(error.into());
                return answers;
            }
        };
        let mut replies = self.0.log.request(Request::ServerSideEmit { args, wanted: true });
        let collect = async {
            while let Some(reply) = replies.recv().await {
                match reply {
                    Reply::ServerSideAnswer(answer) => answers.take(&answer),
                    Reply::Missing(nodes) => {
                        answers.missing += nodes;
                        answers.error = Some(AckError::Incomplete);
                    }
                    _ => {}
                }
            }
        };
        if tokio::time::timeout(ANSWER_TIMEOUT, collect).await.is_err() {
            answers.error = Some(AckError::Timeout);
        }
        answers
    }
}
