//! What a socket's handlers still have to do, in order and bounded.
//!
//! One task at a time works through an inbox; it exists only while there is work, so an idle socket has
//! none. A full inbox makes the session stop reading from its peer (DESIGN D5).

use std::collections::VecDeque;

use crate::error::CloseReason;
use crate::socketio::packet::Args;

/// One piece of work.
#[derive(Debug)]
pub(crate) enum Work {
    /// The socket is connected: run `on_connect`.
    Connected,
    /// The client sent an event.
    Event { args: Args, ack: Option<u64> },
    /// We sent an event, and somebody listens to that.
    Sent { args: Args },
    /// The socket is disconnected: run `on_disconnecting`, then `on_disconnect`.
    Disconnected(CloseReason),
}

impl Work {
    fn bytes(&self) -> usize {
        match self {
            Self::Event { args, .. } | Self::Sent { args } => args.len_bytes(),
            Self::Connected | Self::Disconnected(_) => 0,
        }
    }
}

/// What the caller has to do after a push.
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub(crate) struct Pushed {
    /// Start a task that works the inbox off.
    pub(crate) start: bool,
    /// The inbox has just become full.
    pub(crate) filled: bool,
}

#[derive(Debug, Default)]
pub(crate) struct Inbox {
    queue: VecDeque<Work>,
    bytes: usize,
    running: bool,
    full: bool,
}

impl Inbox {
    /// Adds work. The bound is looked at after the push: what was read already is never lost.
    pub(crate) fn push(&mut self, work: Work, max_events: usize, max_bytes: usize) -> Pushed {
        self.bytes += work.bytes();
        self.queue.push_back(work);
        let full = self.queue.len() >= max_events || self.bytes >= max_bytes;
        let filled = full && !self.full;
        self.full |= full;
        Pushed { start: !std::mem::replace(&mut self.running, true), filled }
    }

    /// Is no task at work?
    pub(crate) fn is_idle(&self) -> bool {
        !self.running
    }

    /// Is it full, by the bounds of the last push?
    pub(crate) fn is_full(&self) -> bool {
        self.full
    }

    /// Wider bounds hold from now on; `true` if a full inbox has room thereby.
    pub(crate) fn relax(&mut self, max_events: usize, max_bytes: usize) -> bool {
        let freed = self.full && self.queue.len() < max_events && self.bytes < max_bytes;
        if freed {
            self.full = false;
        }
        freed
    }

    /// The next piece of work for the task; `None` ends it. The flag tells that a full inbox has room
    /// again, half of it, so that reading does not stutter.
    pub(crate) fn next(&mut self, max_events: usize, max_bytes: usize) -> (Option<Work>, bool) {
        let work = self.queue.pop_front();
        match &work {
            Some(work) => self.bytes -= work.bytes(),
            None => {
                self.running = false;
                self.queue = VecDeque::new();
            }
        }
        let room = self.queue.len() <= max_events / 2 && self.bytes <= max_bytes / 2;
        let freed = self.full && room;
        if freed {
            self.full = false;
        }
        (work, freed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::socketio::packet::Codec;

    fn event() -> Work {
        Work::Disconnected(CloseReason::TransportClose)
    }

    #[test]
    fn one_task_at_a_time() {
        let mut inbox = Inbox::default();
        assert_eq!(inbox.push(event(), 10, 10), Pushed { start: true, filled: false });
        assert_eq!(inbox.push(event(), 10, 10), Pushed { start: false, filled: false });
        assert!(inbox.next(10, 10).0.is_some());
        assert!(inbox.next(10, 10).0.is_some());
        assert_eq!(inbox.push(event(), 10, 10), Pushed { start: false, filled: false });
        assert!(inbox.next(10, 10).0.is_some());
        assert!(inbox.next(10, 10).0.is_none());
        assert_eq!(inbox.push(event(), 10, 10), Pushed { start: true, filled: false });
    }

    #[test]
    fn full_is_told_once_and_room_at_half() {
        let mut inbox = Inbox::default();
        let filled: Vec<bool> = (0..5).map(|_| inbox.push(event(), 4, 10).filled).collect();
        assert_eq!(filled, [false, false, false, true, false]);
        let freed: Vec<bool> = (0..5).map(|_| inbox.next(4, 10).1).collect();
        assert_eq!(freed, [false, false, true, false, false]);
    }
    #[test]
    fn bytes_fill_it_too() {
        let args = Codec::Json.args(Some("a"), "0123456789").unwrap();
        let max = 3 * args.len_bytes();
        let mut inbox = Inbox::default();
        let mut push = || inbox.push(Work::Event { args: args.clone(), ack: None }, 100, max);
        let filled: Vec<bool> = (0..4).map(|_| push().filled).collect();
        assert_eq!(filled, [false, false, true, false]);
        let freed: Vec<bool> = (0..4).map(|_| inbox.next(100, max).1).collect();
        assert_eq!(freed, [false, false, true, false], "room at half");
    }
}
