//! What a session's task reads from its client in one round, and what the client pays for it.

use std::task::{Context, Poll};
use std::time::Instant;

use super::Driver;
use crate::engine::packet::Frame;
use crate::engine::session::Slot;
use crate::error::{LinkError, PeerMisbehaved};
use crate::server::limits::Place;
use crate::transport::Link;

/// Frames read before other work gets its turn.
const READ_BATCH: usize = 16;
/// Bytes likewise.
const READ_BYTES: usize = 64 * 1024;
/// Frames beside its two packets that a probe may send: pings, pongs and pieces.
const PROBE_OTHERS: usize = 64;
/// Bytes that may have come of a packet of a probe that is not whole yet; the longest is `2probe`.
const PROBE_BYTES: usize = 1024;

impl Driver {
    /// Reads a bounded number of frames; `true` if there may be more.
    pub(super) fn read(&mut self, cx: &mut Context<'_>, now: Instant) -> bool {
        // First of all, for a pause that is over would keep the task awake while nothing is read anyway.
        self.allowance.handle_timeout(now);
        let deaf = !self.upper.may_read();
        self.session.handle_deaf(now, deaf);
        let mut bytes = 0;
        for _ in 0..READ_BATCH {
            if bytes >= READ_BYTES {
                break;
            }
            if !self.upper.may_read() {
                // The task is woken when there is room. What is buffered in the link stays there.
                self.session.handle_deaf(now, true);
                return false;
            }
            // What comes meanwhile waits in the link or, when that is full, with the client.
            if !self.session.is_open() {
                return false;
            }
            if !self.allowance.may_read(now) {
                self.session.handle_slowed(now);
                return false;
            }
            let read = self.link.poll_read(cx);
            bytes += self.charge(now, &read);
            let Poll::Ready(result) = read else {
                return false;
            };
            self.received(Slot::Current, result, now);
            self.events();
            if self.closed.is_some() {
                return false;
            }
        }
        true
    }

    /// Reads the two packets that a probe has to say; `true` if it has become the current link, which is
    /// to be read next: nothing else would wake the task for what it holds already.
    ///
    /// No pause holds it up, so that a busy client can upgrade. It is given up when it says much more.
    pub(super) fn read_probe(&mut self, cx: &mut Context<'_>, now: Instant) -> bool {
        let before = self.session.kind();
        while let Some(probe) = &mut self.probe {
            let read = probe.poll_read(cx);
            // Behind a whole packet may be messages, which are for the session to read, and to pay for, later.
            let partial = if read.is_pending() { probe.partial_bytes() } else { 0 };
            // WebTransport itself reads no further when too much waits to be taken.
            let is_counted = matches!(probe, Link::WebSocket(_));
            let others = if is_counted { probe.take_others().0 } else { 0 };
            let (packets, bytes) = match &read {
                Poll::Ready(Ok(Some(frame))) => (others + 1, frame.len()),
                _ => (others, partial),
            };
            if packets > 0 || bytes > 0 {
                self.pay(now, packets, bytes);
            }
            self.probe_others += others;
            if self.probe_others > PROBE_OTHERS || partial > PROBE_BYTES {
                self.misbehaved(Slot::Probe, PeerMisbehaved::UpgradeOutOfOrder);
                self.events();
                break;
            }
            let Poll::Ready(result) = read else {
                break;
            };
            self.received(Slot::Probe, result, now);
            self.events();
        }
        self.session.kind() != before
    }

    /// Counts what was read against what the client may say; gives its bytes.
    fn charge(&mut self, now: Instant, read: &Poll<Result<Option<Frame>, LinkError>>) -> usize {
        let (mut packets, other_bytes) = self.link.take_others();
        let partial = self.link.partial_bytes();
        let bytes = if let Poll::Ready(Ok(Some(frame))) = read {
            packets += 1;
            frame.len().saturating_sub(std::mem::take(&mut self.charged))
        } else {
            // a large frame is paid for as it comes: at its end it would be too late to read more slowly
            partial.saturating_sub(std::mem::replace(&mut self.charged, partial))
        };
        let bytes = bytes + other_bytes;
        if packets > 0 || bytes > 0 {
            self.pay(now, packets, bytes);
        }
        bytes
    }

    /// Ends the session of a peer that sends packets of QUIC without end. Looks when something else has woken the task,
    /// which the heartbeat does in the end.
    pub(super) fn watch(&mut self, now: Instant) {
        if let Link::WebTransport(link) = &mut self.link
            && let Some(most) = self.place.as_ref().and_then(Place::udp_packet_rate)
            && link.is_flooded(now, most)
        {
            self.misbehaved(Slot::Current, PeerMisbehaved::DatagramFlood);
        }
    }

    /// Counts what has come. Above a rate, the next read waits.
    pub(super) fn pay(&mut self, now: Instant, packets: usize, bytes: usize) {
        if let Some(limit) = self.allowance.take(now, packets, bytes)
            && let Some(place) = &self.place
        {
            place.hit(limit);
        }
    }
}
