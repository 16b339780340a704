//! One task for each session: the only place where bytes, timers and the protocol meet.
//!
//! ```text
//! loop: commands and asks ▶ read the links ▶ deadlines ▶ events ▶ write ▶ sleep
//! ```
//!
//! Work per turn is bounded, so that a busy peer does not starve others on its thread. Whether a
//! deadline has passed is asked of the clock, not of which wake-up came.

use std::future::Future;
use std::net::IpAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::time::Sleep;

use super::direct;
use super::limits::Place;
use super::registry::{Command, Registry, SessionHandle};
use super::tokens::Expiry;
use super::upper::Upper;
use crate::engine::allowance::Allowance;
use crate::engine::packet::{Frame, Packet};
use crate::engine::session::{Event, Session, Slot};
use crate::error::{CloseReason, LinkError, PeerMisbehaved};
use crate::fanout::{Encoded, turn};
use crate::metrics::{Incident, Metrics};
use crate::transport::Link;
use crate::transport::polling::PollRequest;

mod reading;

/// Bytes taken from the outbox at a time.
const WRITE_BATCH: usize = 64 * 1024;
/// Messages that an idle session keeps room for.
const KEPT_BATCH: usize = 16;
/// Rounds before the task yields its thread.
const ROUNDS: usize = 2;

/// The future of a session's task. It ends when the session does.
pub(crate) struct Driver {
    session: Session,
    link: Link,
    probe: Option<Link>,
    /// Frames on the probe that began no packet.
    probe_others: usize,
    upper: Upper,
    handle: Arc<SessionHandle>,
    registry: Arc<Registry>,
    metrics: Arc<Metrics>,
    timer: Pin<Box<Sleep>>,
    armed: Option<Instant>,
    batch: Vec<Arc<Encoded>>,
    /// What the mailbox was told last: does the link take nothing?
    stalled: bool,
    ending: Ending,
    /// The reason that was counted; a task that panicked has none.
    closed: Option<CloseReason>,
    /// Its place among the sessions, given back at the end.
    place: Option<Place>,
    /// The end of the token that it was opened with.
    _expiry: Option<Expiry>,
    allowance: Allowance,
    /// Bytes of the frame that is being read that are charged already.
    charged: usize,
}

/// How far an orderly close has come.
#[derive(Debug, PartialEq, Eq)]
enum Ending {
    No,
    /// What is queued is going out.
    Flushing,
    /// The link was told to close.
    Closing,
    /// The session is over, but a poll may be under way that the client's close packet has overtaken
    /// (they come on two connections): it is answered as if it had come first.
    Lingering,
}

/// How long a poll may be behind the close packet that was sent after it.
const LINGER: Duration = Duration::from_secs(1);

impl Driver {
    /// A session that `link` has just opened. `open` is the OPEN packet.
    pub(crate) fn new(
        session: Session,
        mut link: Link,
        open: &Packet,
        upper: Upper,
        handle: Arc<SessionHandle>,
        registry: Arc<Registry>,
        metrics: Arc<Metrics>,
    ) -> Self {
        metrics.session_opened(session.kind());
        registry.insert(handle.clone());
        // a fresh link takes one small frame; if not, the first flush tells
        let _ = link.queue_frame(&open.encode());
        let this = Self {
            session,
            link,
            probe: None,
            probe_others: 0,
            upper,
            handle,
            registry,
            metrics,
            timer: Box::pin(tokio::time::sleep_until(tokio::time::Instant::now())),
            armed: None,
            batch: Vec::new(),
            stalled: false,
            ending: Ending::No,
            closed: None,
            place: None,
            _expiry: None,
            allowance: Allowance::default(),
            charged: 0,
        };
        this.share();
        this
    }

    /// Keeps the place, and what waits for the end of a token, while the session lives.
    pub(crate) fn holding(mut self, place: Place, expiry: Option<Expiry>) -> Self {
        self._expiry = expiry;
        self.allowance = place.allowance();
        self.place = Some(place);
        self
    }

    fn settle(&mut self) {
        if let Some(place) = self.place.as_mut().filter(|place| place.is_half_open())
            && self.upper.is_settled()
        {
            place.settle();
        }
    }

    /// Takes what others have brought; polls are given back, to be attached when the deadlines have been
    /// looked at.
    fn commands(&mut self, now: Instant) -> Vec<PollRequest> {
        let mut polls = Vec::new();
        let asked = self.handle.mailbox.attend();
        if asked.blocked {
            self.stalled = true;
            self.link.go_on(asked.rest);
        }
        if let Some(reason) = asked.abort {
            self.session.abort(reason);
        }
        if let Some(reason) = asked.close {
            self.session.close(now, reason);
        }
        for command in self.handle.take_commands() {
            match command {
                Command::Poll(request) => polls.push(request),
                Command::Post(request) => {
                    if let Err(bytes) = request.body {
                        self.pay(now, 1, bytes);
                    }
                    if let Link::Polling(link) = &mut self.link
                        && let Err(rule) = link.attach_post(request)
                    {
                        self.misbehaved(Slot::Current, rule);
                    }
                }
                Command::Attach(link) => self.attach_probe(link, now),
                Command::PostLost => {
                    if let Link::Polling(_) = &self.link {
                        self.session.handle_link_lost(Slot::Current, CloseReason::TransportError);
                    }
                }
                Command::Misbehaved(rule) => self.misbehaved(Slot::Current, rule),
            }
        }
        polls
    }

    /// Lets polls wait. One for a session that is over, or has moved on, is dropped, which tells its sender;
    /// one that came along with the client's own close packet is answered.
    fn attach(&mut self, polls: Vec<PollRequest>) {
        for request in polls {
            let over = self.closed.is_some_and(|reason| reason != CloseReason::TransportClose);
            if let Link::Polling(link) = &mut self.link
                && !over
                && let Err(rule) = link.attach_poll(request)
            {
                self.misbehaved(Slot::Current, rule);
            }
        }
    }

    fn attach_probe(&mut self, link: Link, now: Instant) {
        match self.session.handle_probe_attached(now, link.kind()) {
            Ok(()) => {
                self.probe = Some(link);
                self.probe_others = 0;
            }
            Err(why) => {
                let (sid, transport) = (self.session.sid(), link.kind());
                tracing::debug!(?sid, %transport, ?why, "an upgrade was refused");
                let_go(link, CloseReason::ForcedClose);
            }
        }
    }

    fn received(&mut self, slot: Slot, result: Result<Option<Frame>, LinkError>, now: Instant) {
        let kind = match slot {
            Slot::Current => self.session.kind(),
            Slot::Probe => self.probe.as_ref().map_or_else(|| self.session.kind(), Link::kind),
        };
        match result {
            Ok(Some(frame)) => {
                self.metrics.packets_received[kind].inc();
                self.metrics.bytes_received[kind].inc_by(frame.len() as u64);
                let handled = Packet::decode(frame).inspect_err(|rule| {
                    self.session.handle_misbehaved(slot, *rule);
                });
                let handled =
                    handled.and_then(|packet| self.session.handle_packet(now, slot, packet));
                if let Err(rule) = handled {
                    self.count(rule);
                }
            }
            Ok(None) => self.session.handle_link_lost(slot, CloseReason::TransportClose),
            Err(LinkError::Peer(rule)) => self.misbehaved(slot, rule),
            Err(LinkError::Io(error)) => {
                tracing::debug!(sid = ?self.session.sid(), %kind, %error, "a link broke");
                self.session.handle_link_lost(slot, CloseReason::TransportError);
            }
        }
    }

    fn misbehaved(&mut self, slot: Slot, rule: PeerMisbehaved) {
        self.count(rule);
        self.session.handle_misbehaved(slot, rule);
    }

    fn count(&self, rule: PeerMisbehaved) {
        self.metrics.misbehaved(rule, self.client(), now());
        let peer_error = rule.label();
        tracing::debug!(sid = ?self.session.sid(), peer_error, "the peer broke a rule");
    }

    /// Whose session it is.
    fn client(&self) -> Option<IpAddr> {
        self.place.as_ref().map(Place::client)
    }

    fn deadlines(&mut self, now: Instant) {
        self.session.handle_timeout(now);
        if let Some(reason) = self.upper.handle_timeout(now) {
            self.upper.close(reason);
            self.session.close(now, reason);
        }
    }

    /// Follows what the session decided.
    fn events(&mut self) {
        while let Some(event) = self.session.poll_event() {
            match event {
                Event::Message(message) => {
                    if let Err(rule) = self.upper.handle_message(now(), message) {
                        self.count(rule);
                        // Node closes in order here: the client gets what was sent before
                        let reason = rule.close_reason();
                        self.upper.close(reason);
                        self.session.close(now(), reason);
                    }
                }
                Event::Switched { from, to } => {
                    self.metrics.upgraded(from, to, crate::metrics::UpgradeOutcome::Completed);
                    let probe = self.probe.take().expect("only an attached probe can take over");
                    let old = std::mem::replace(&mut self.link, probe);
                    self.handle.set_kind(to);
                    self.share();
                    if let Upper::SocketIo(connection) = &self.upper {
                        connection.switched(to);
                    }
                    // the client has paused polling; should a poll be there all the same, end it
                    if let Link::Polling(mut polling) = old {
                        polling.release(&Packet::Noop);
                    }
                }
                Event::ProbeDropped(why) => {
                    if let Some(probe) = self.probe.take() {
                        let (from, to) = (self.session.kind(), probe.kind());
                        self.metrics.upgraded(from, to, why.into());
                        let_go(probe, CloseReason::ForcedClose);
                    }
                }
                Event::Closing => {
                    self.ending = Ending::Flushing;
                    if let Link::Polling(polling) = &mut self.link {
                        polling.stop_reading();
                    }
                }
                Event::Closed(reason) => self.closed = Some(reason),
            }
        }
    }

    /// Sends what there is as far as the links take it.
    fn write(&mut self, cx: &mut Context<'_>) {
        if let Err(error) = self.write_probe(cx) {
            self.received(Slot::Probe, Err(error), now());
        }
        let stalled = match self.write_current(cx) {
            Ok(stalled) => stalled,
            Err(error) => {
                self.received(Slot::Current, Err(error), now());
                true
            }
        };
        if stalled != self.stalled {
            self.stalled = stalled;
            self.handle.mailbox.set_stalled(stalled);
        }
    }

    fn write_probe(&mut self, cx: &mut Context<'_>) -> Result<(), LinkError> {
        let Some(probe) = &mut self.probe else {
            return Ok(());
        };
        while let Some(packet) = self.session.poll_transmit(Slot::Probe) {
            probe.queue_frame(&packet.encode())?;
        }
        match probe.poll_flush(cx) {
            Poll::Ready(result) => result,
            Poll::Pending => Ok(()),
        }
    }

    /// `true`: the link takes no more for now.
    fn write_current(&mut self, cx: &mut Context<'_>) -> Result<bool, LinkError> {
        if self.ending == Ending::Closing {
            return Ok(true);
        }
        let kind = self.session.kind();
        loop {
            while self.link.is_writable() {
                let Some(packet) = self.session.poll_transmit(Slot::Current) else {
                    break;
                };
                let frame = packet.encode();
                self.metrics.sent(kind, 1, frame.len());
                self.link.queue_frame(&frame)?;
            }
            // what is pushed from now on wakes the task again
            let mut more = true;
            while more && self.link.is_writable() {
                more = self.handle.mailbox.take(WRITE_BATCH, &mut self.batch);
                for message in self.batch.drain(..) {
                    self.metrics.sent(kind, message.frames().len(), message.payload_bytes());
                    self.link.queue(&message)?;
                }
            }
            if let Link::Polling(polling) = &mut self.link
                && polling.is_idle()
                && self.session.ends_idle_polls()
            {
                polling.queue(&Packet::Noop.encode(), false);
            }
            match self.link.poll_flush(cx) {
                Poll::Pending => return Ok(true),
                Poll::Ready(result) => result?,
            }
            if !self.link.is_writable() {
                return Ok(true);
            }
            if !more {
                if self.batch.capacity() > KEPT_BATCH {
                    self.batch = Vec::new(); // a burst must not cost an idle session memory
                }
                return Ok(false);
            }
        }
    }

    /// Ends the link once all is sent.
    fn end(&mut self, cx: &mut Context<'_>, stalled_writes: bool) {
        if self.ending == Ending::Flushing && !stalled_writes && self.handle.mailbox.is_empty() {
            self.link.close(self.session.closing_reason());
            self.ending = Ending::Closing;
        }
        if self.ending == Ending::Closing && self.link.poll_closed(cx).is_ready() {
            self.session.finished();
            self.events();
        }
    }

    fn linger(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let now = now();
        let polls = self.commands(now);
        self.attach(polls);
        if let Link::Polling(polling) = &mut self.link
            && polling.release(&Packet::Noop)
        {
            return Poll::Ready(());
        }
        if !self.handle.mailbox.sleep(cx, false) {
            cx.waker().wake_by_ref();
        }
        self.timer.as_mut().poll(cx)
    }

    /// `false`: something has come.
    fn sleep(&self, cx: &Context<'_>) -> bool {
        let is_idle = !self.stalled && self.ending == Ending::No && self.probe.is_none();
        self.handle.mailbox.sleep(cx, is_idle && self.link.is_drained())
    }

    /// Lets others write to the link.
    fn share(&self) {
        self.handle.mailbox.set_line(direct::line(&self.link, &self.metrics));
    }

    fn arm(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let allowed = self.allowance.poll_timeout();
        let next = [self.session.poll_timeout(), self.upper.poll_timeout(), allowed];
        let Some(next) = next.into_iter().flatten().min() else {
            return Poll::Pending;
        };
        if self.armed != Some(next) {
            self.armed = Some(next);
            self.timer.as_mut().reset(next.into());
        }
        let passed = self.timer.as_mut().poll(cx);
        if passed.is_ready() {
            self.armed = None;
        }
        passed
    }

    /// The session is over: everyone who waits is told.
    fn finish(&mut self, reason: CloseReason) {
        tracing::debug!(sid = ?self.session.sid(), %reason, "session closed");
        self.upper.close(reason);
        self.metrics.session_closed(self.session.kind(), reason);
        match reason {
            CloseReason::PingTimeout => self.metrics.pings_unanswered.inc(),
            CloseReason::SlowConsumer => {
                self.metrics.incidents.note(Incident::Outbox, self.client(), now());
                self.metrics.outbox_overflows.inc()
            }
            _ => 0,
        };
        match &mut self.link {
            Link::Polling(polling) => {
                // the client's own close is answered with a NOOP (engine.io polling.ts `onClose`)
                let by_client = reason == CloseReason::TransportClose;
                let last = if by_client { Packet::Noop } else { Packet::Close };
                let told = polling.release(&last);
                if by_client && !told {
                    self.ending = Ending::Lingering;
                    self.timer.as_mut().reset(tokio::time::Instant::now() + LINGER);
                }
            }
            link if self.ending != Ending::Closing => {
                link.close(reason);
                let waker = futures_util::task::noop_waker_ref();
                // a last try; who does not take it now is told by the end of the connection
                let _ = link.poll_flush(&mut Context::from_waker(waker));
            }
            _ => {}
        }
    }
}

/// How a round ended.
enum Round {
    /// There is more to do.
    More,
    /// The task may sleep.
    Idle,
    /// The session is over.
    Over,
}

impl Driver {
    fn round(&mut self, cx: &mut Context<'_>) -> Round {
        let now = now();
        // The probe first: a request that the client sent after it had upgraded must not be taken for one
        // of before, though it comes on another connection.
        let switched = self.read_probe(cx, now);
        let polls = self.commands(now);
        let more = self.read(cx, now) | self.read_probe(cx, now) | switched;
        self.watch(now);
        // What has come may be the pong that was due, however late we look. A poll says nothing.
        self.deadlines(now);
        self.events();
        self.attach(polls);
        self.events();
        self.settle();
        self.write(cx);
        self.events();
        let stalled = !self.link.is_writable() && !matches!(self.link, Link::Polling(_));
        self.end(cx, stalled);
        if let Some(reason) = self.closed {
            self.finish(reason);
            let lingers = self.ending == Ending::Lingering && self.linger(cx).is_pending();
            return if lingers { Round::Idle } else { Round::Over };
        }
        match !more && self.arm(cx).is_pending() && self.sleep(cx) {
            true => Round::Idle,
            false => Round::More,
        }
    }
}

impl Future for Driver {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        if this.ending == Ending::Lingering {
            return this.linger(cx);
        }
        for _ in 0..ROUNDS {
            match turn(|| this.round(cx)) {
                Round::Over => return Poll::Ready(()),
                Round::Idle => return Poll::Pending,
                Round::More => {}
            }
        }
        // Behind all others and after a look at what the system has for them. A task that only wakes itself
        // comes again up to 60 times before that.
        let _ = pin!(tokio::task::yield_now()).poll(cx);
        Poll::Pending
    }
}

impl Drop for Driver {
    /// Also when the task panicked or the runtime is going away: no session is left in the registry
    /// without a task.
    fn drop(&mut self) {
        if self.closed.is_none() {
            self.upper.close(CloseReason::TransportError);
            self.metrics.session_closed(self.session.kind(), CloseReason::TransportError);
        }
        self.registry.remove(&self.handle.sid);
        self.handle.shut();
    }
}

/// Closes a link that is no session's; it gets one try to say so.
fn let_go(mut link: Link, reason: CloseReason) {
    link.close(reason);
    let waker = futures_util::task::noop_waker_ref();
    let _ = link.poll_closed(&mut Context::from_waker(waker));
}

/// Tokio's clock, so that tests can pause it.
fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

#[cfg(test)]
mod tests;
