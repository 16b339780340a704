//! The task that works a socket's inbox off: the only place where user code runs.

use std::pin::Pin;
use std::sync::Arc;
use std::task::Context;

use futures_util::FutureExt as _;
use futures_util::task::noop_waker_ref;

use super::handler::{Ack, Event, HandlerError, HandlerFuture};
use super::inbox::Work;
use super::registered::AnyFn;
use super::socket::Socket;
use crate::error::CloseReason;
use crate::metrics::Incident;
use crate::socketio::packet::Args;

/// Pieces of work before others on the thread get their turn.
const TURN: usize = 32;

impl Socket {
    /// Leaves the work to a task.
    pub(crate) fn work(&self, work: Work) {
        if self.queue(work) {
            self.start();
        }
    }

    /// Does the work at once, up to where it waits for something; a task does the rest. For callers that hold
    /// no locks, which user code may want.
    ///
    /// Most handlers wait for nothing, and a task for each event would cost more than they do.
    pub(crate) fn work_here(&self, work: Work) {
        if self.queue(work) {
            self.start_here();
        }
    }

    /// A task works the inbox off, which nobody does yet.
    pub(crate) fn start(&self) {
        self.0.connection.spawn(self.clone().run());
    }

    /// The same, and the caller begins with it.
    pub(crate) fn start_here(&self) {
        let mut run: Pin<Box<dyn Future<Output = ()> + Send>> = Box::pin(self.clone().run());
        // The task polls it again at once, so nobody has to be woken before.
        let nobody = &mut Context::from_waker(noop_waker_ref());
        if run.as_mut().poll(nobody).is_pending() {
            self.0.connection.spawn(run);
        }
    }

    /// Runs the handlers of the end, behind what is left to do. Where there are neither, a task would find
    /// nothing to run.
    pub(super) fn say_goodbye(&self, reason: CloseReason) {
        let is_unheard = {
            let handlers = self.0.handlers.read();
            handlers
                .rare
                .as_ref()
                .is_none_or(|rare| rare.disconnecting.is_empty() && rare.disconnect.is_empty())
        };
        if is_unheard && self.0.inbox.lock().is_idle() {
            *self.0.last_rooms.lock() = None;
            self.forget_handlers();
        } else {
            self.work(Work::Disconnected(reason));
        }
    }

    /// `true`: nobody works the inbox off.
    pub(super) fn queue(&self, work: Work) -> bool {
        let (max_events, max_bytes) = self.inbox_bounds();
        let mut inbox = self.0.inbox.lock();
        if inbox.is_full() && matches!(work, Work::Sent { .. }) {
            // who watches what is sent must not cost more memory than who handles what comes
            return false;
        }
        let pushed = inbox.push(work, max_events, max_bytes);
        if pushed.filled {
            // under the lock, so that it is counted before the task can take it back
            self.0.connection.inbox_filled();
        }
        pushed.start
    }

    /// Works the inbox off; ends when it is empty.
    async fn run(self) {
        let config = self.0.namespace.config.clone();
        let mut turn = 0;
        loop {
            if turn == TURN {
                // a handler that never waits would keep the thread for a whole inbox
                tokio::task::yield_now().await;
                turn = 0;
            }
            turn += 1;
            let (work, freed) = self.0.inbox.lock().next(config.inbox_events, config.inbox_bytes);
            if freed {
                self.0.connection.inbox_freed();
            }
            match work {
                Some(Work::Connected) => self.run_connected().await,
                Some(Work::Event { args, ack }) => self.run_event(args, ack).await,
                Some(Work::Sent { args }) => {
                    let listeners = self.0.handlers.read().listed(|rare| &rare.any_outgoing);
                    self.run_any(listeners, &args).await;
                }
                Some(Work::Disconnected(reason)) => self.run_disconnected(reason).await,
                None => return,
            }
        }
    }

    async fn run_connected(&self) {
        if let Some(handler) = self.0.namespace.connect_handler() {
            self.guard("connection", || handler(self.clone())).await;
        }
    }

    async fn run_event(&self, args: Args, ack: Option<u64>) {
        let event = Event { args };
        let (middlewares, any) = {
            let handlers = self.0.handlers.read();
            (handlers.listed(|rare| &rare.middlewares), handlers.listed(|rare| &rare.any))
        };
        // catch-all listeners see refused events, too, as in Node
        self.run_any(any, &event.args).await;
        for middleware in middlewares {
            let verdict = async { middleware(self.clone(), event.clone()).await };
            match std::panic::AssertUnwindSafe(verdict).catch_unwind().await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    let nsp = self.0.namespace.name.as_str();
                    tracing::debug!(nsp, event = event.name(), error.message, "event refused");
                    return;
                }
                Err(_) => return self.panicked(event.name()),
            }
        }
        let matching: Vec<_> = {
            let handlers = self.0.handlers.read();
            let named = handlers.events.iter().filter(|(name, _)| name.as_str() == event.name());
            named.map(|(_, handler)| handler.clone()).collect()
        };
        // several handlers share the right to the one answer: the first that is given is sent
        let answered = (matching.len() > 1).then(Arc::default);
        for handler in matching {
            let wanted = ack.map(|id| (self.clone(), id));
            let ack = Ack { wanted, answered: answered.clone() };
            self.guard(event.name(), || handler(self.clone(), &event.args, ack)).await;
        }
    }

    async fn run_any(&self, listeners: Vec<Arc<AnyFn>>, args: &Args) {
        for listener in listeners {
            let event = Event { args: args.clone() };
            let name = args.event().unwrap_or_default();
            self.guard(name, || listener(self.clone(), event)).await;
        }
    }

    async fn run_disconnected(&self, reason: CloseReason) {
        let disconnecting = self.0.handlers.read().listed(|rare| &rare.disconnecting);
        for handler in disconnecting {
            self.guard("disconnecting", || handler(self.clone(), reason)).await;
        }
        *self.0.last_rooms.lock() = None;
        let disconnect = self.0.handlers.read().listed(|rare| &rare.disconnect);
        for handler in disconnect {
            self.guard("disconnect", || handler(self.clone(), reason)).await;
        }
        self.forget_handlers();
    }

    /// Runs user code: its errors are logged and counted, its panics end nothing but itself.
    async fn guard(&self, event: &str, start: impl FnOnce() -> HandlerFuture) {
        let future = async { start().await };
        let result = std::panic::AssertUnwindSafe(future).catch_unwind().await;
        let metrics = &self.0.namespace.metrics;
        let nsp = self.0.namespace.name.as_str();
        match result {
            Ok(Ok(())) => {}
            Ok(Err(HandlerError::Arguments(error))) => {
                metrics.handler_errors.inc();
                tracing::debug!(nsp, event, %error, "an event's arguments do not fit its handler");
            }
            Ok(Err(error)) => {
                metrics.handler_errors.inc();
                let client = self.handshake().address;
                let now = tokio::time::Instant::now().into_std();
                let said = metrics.incidents.says(Incident::Handler, Some(client), now);
                if let Some(left_out) = said {
                    tracing::warn!(nsp, event, %error, %client, left_out, "a handler failed");
                }
            }
            Err(_) => self.panicked(event),
        }
    }

    fn panicked(&self, event: &str) {
        self.0.namespace.metrics.handler_panics.inc();
        tracing::error!(nsp = self.0.namespace.name.as_str(), event, "a handler panicked");
    }
}
