//! Fuzz targets of this layer; see `crate::fuzzing`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;

use super::framing::{LengthPrefixed, Records, put_length_prefixed, put_record};
use super::packet::{Frame, Packet, Str};
use super::session::{Event, Session, SessionTimes, Slot};
use super::{NodeTag, Sid, TransportKind};
use crate::error::{CloseReason, PeerMisbehaved};

/// A frame that is a packet is that packet after it was written, too.
fn survives(frame: &Frame) {
    if let Ok(packet) = Packet::decode(frame.clone()) {
        assert_eq!(Packet::decode(packet.encode()), Ok(packet));
    }
}

/// The body of a POST: cut into records without end and without loss.
pub(crate) fn polling(body: &[u8]) {
    let Ok(text) = std::str::from_utf8(body) else { return };
    let mut records = Records::new(Str::copy_from_slice(text));
    let mut frames = Vec::new();
    let outcome = loop {
        match records.next_frame() {
            Ok(Some(frame)) => frames.push(frame),
            Ok(None) => break Ok(()),
            Err(rule) => break Err(rule),
        }
    };
    assert!(frames.len() <= text.matches('\x1e').count() + 1, "more frames than records");
    assert!(frames.iter().map(Frame::len).sum::<usize>() <= text.len(), "a body that grows");
    frames.iter().for_each(survives);
    // an empty text frame is no packet, so nobody writes one
    if outcome.is_ok() && frames.iter().all(|frame| *frame != Frame::Text("".into())) {
        let mut again = String::new();
        frames.iter().for_each(|frame| put_record(frame, &mut again));
        let mut records = Records::new(again.into());
        for frame in frames {
            assert_eq!(records.next_frame(), Ok(Some(frame)));
        }
        assert_eq!(records.next_frame(), Ok(None));
    }
}

type Frames = (Vec<Frame>, Option<PeerMisbehaved>);

fn frames(max_payload: usize, pieces: std::slice::Chunks<'_, u8>) -> Frames {
    let mut decoder = LengthPrefixed::new(max_payload);
    let mut frames = Vec::new();
    for piece in pieces {
        decoder.push(piece);
        loop {
            match decoder.next_frame() {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(rule) => return (frames, Some(rule)),
            }
        }
    }
    (frames, None)
}

/// The bytes of a WebTransport stream, behind a byte that says how they are cut: it does not matter where,
/// no frame is longer than allowed, and what is written is read.
pub(crate) fn webtransport_frames(input: &[u8]) {
    const MAX_PAYLOAD: usize = 300;
    let Some((piece, stream)) = input.split_first() else { return };
    let whole = frames(MAX_PAYLOAD, stream.chunks(stream.len().max(1)));
    let cut = frames(MAX_PAYLOAD, stream.chunks(usize::from(*piece).max(1)));
    assert_eq!(whole, cut);
    let mut out = BytesMut::new();
    for frame in &whole.0 {
        assert!((1..=MAX_PAYLOAD).contains(&frame.len()));
        survives(frame);
        put_length_prefixed(frame, &mut out);
    }
    assert!(out.len() <= stream.len(), "we write longer than we read");
    assert_eq!(frames(MAX_PAYLOAD, out.chunks(out.len().max(1))), (whole.0, None));
}

/// The life of a session as a list of operations, two bytes each: `Closed` comes once and last, an open
/// session has a timer and a closed one has none, and what waits to be sent stays little.
pub(crate) fn session(start: Instant, operations: &[u8]) {
    let times = Arc::new(SessionTimes {
        ping_interval: Duration::from_millis(250),
        ping_timeout: Duration::from_millis(200),
        upgrade_timeout: Duration::from_millis(100),
        close_timeout: Duration::from_millis(300),
    });
    let Some((first, operations)) = operations.split_first() else { return };
    let kind = TransportKind::ALL[usize::from(first % 3)];
    let sid = Sid::new([7; 16], NodeTag::new([0; 4]));
    let mut session = Session::open(start, sid, kind, first & 0x80 == 0, times);
    let mut life = Life { now: start, closed: 0 };
    for operation in operations.chunks_exact(2) {
        life.apply(&mut session, operation[0], operation[1]);
        life.check(&mut session);
    }
}

struct Life {
    now: Instant,
    closed: usize,
}

impl Life {
    fn apply(&mut self, session: &mut Session, operation: u8, value: u8) {
        let slot = if value & 0x80 == 0 { Slot::Current } else { Slot::Probe };
        match operation % 10 {
            0 | 1 => {
                let texts = ["0", "1", "2", "2probe", "3", "4m", "5", "6", "3probe", "2x"];
                let text = texts[usize::from(value & 0x7f) % texts.len()];
                let packet = Packet::decode(Frame::Text(text.into()));
                let packet = packet.expect("these are packets");
                let _ = session.handle_packet(self.now, slot, packet);
            }
            2 => {
                let kind = TransportKind::ALL[usize::from(value % 3)];
                let _ = session.handle_probe_attached(self.now, kind);
            }
            3 => session.handle_link_lost(slot, CloseReason::TransportClose),
            4 => session.handle_misbehaved(slot, PeerMisbehaved::InvalidUtf8),
            5 if value & 2 == 2 => session.handle_slowed(self.now),
            5 => session.handle_deaf(self.now, value & 1 == 1),
            6 | 7 => {
                self.now += Duration::from_millis(u64::from(value) * 3);
                session.handle_timeout(self.now);
            }
            8 => session.close(self.now, CloseReason::ForcedClose),
            _ if value & 1 == 0 => session.finished(),
            _ => session.abort(CloseReason::SlowConsumer),
        }
    }

    fn check(&mut self, session: &mut Session) {
        let mut transmits = 0;
        for slot in [Slot::Current, Slot::Probe] {
            while session.poll_transmit(slot).is_some() {
                transmits += 1;
            }
        }
        assert!(transmits <= 4, "{transmits} packets of its own at once");
        while let Some(event) = session.poll_event() {
            assert_eq!(self.closed, 0, "{event:?} after Closed");
            self.closed += usize::from(matches!(event, Event::Closed(_)));
        }
        assert_eq!(session.poll_timeout().is_none(), self.closed == 1);
        assert!(self.closed == 0 || !session.is_open());
        let overdue = session.poll_timeout().is_some_and(|at| at <= self.now);
        assert!(!overdue || self.closed == 0, "a timer of a session that is over");
    }
}
