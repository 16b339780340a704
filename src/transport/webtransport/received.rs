//! How many UDP packets a peer sends, whatever is in them.
//!
//! Each is decrypted, and most are acknowledged, whether it says anything or not: a PING, or what has come before,
//! reaches nobody who would charge for it. Nor is there a window for them.

use std::time::{Duration, Instant};

/// Time between two looks, in which anybody may be fast for a moment.
const LOOK: Duration = Duration::from_secs(1);

/// What the connection has counted at the last look, the first of which is at the session's begin.
#[derive(Debug, Default)]
pub(super) struct Received(Option<Look>);

#[derive(Debug)]
struct Look {
    at: Instant,
    packets: u64,
    /// What we have sent that a peer acknowledges, perhaps each in a packet of its own.
    ours: u64,
}

impl Received {
    /// Were there, since the last look, more packets than so many a second, beside those that answer ours? `count`
    /// gives the numbers of both so far, if it is time for a look.
    pub(super) fn is_flood(
        &mut self,
        now: Instant,
        most_a_second: u64,
        count: impl FnOnce() -> (u64, u64),
    ) -> bool {
        let time = self.0.as_ref().map(|last| now.saturating_duration_since(last.at));
        if time.is_some_and(|time| time < LOOK) {
            return false;
        }
        let (packets, ours) = count();
        let Some((time, last)) = time.zip(self.0.replace(Look { at: now, packets, ours })) else {
            return false;
        };
        let answers = ours.saturating_sub(last.ours);
        let unasked = packets.saturating_sub(last.packets).saturating_sub(answers);
        unasked as f64 > time.as_secs_f64() * most_a_second as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How looks at these seconds, which find these numbers, end.
    fn looks<const N: usize>(numbers: [(u64, (u64, u64)); N]) -> [bool; N] {
        let (mut received, begun) = (Received::default(), Instant::now());
        numbers.map(|(second, numbers)| {
            received.is_flood(begun + Duration::from_secs(second), 4_096, || numbers)
        })
    }

    #[test]
    fn udp_packets_above_the_rate_are_a_flood_unless_they_answer_ours() {
        let first = (0, (100_000, 0)); // who knows for how long
        let at_limit = (1, (104_096, 0));
        assert_eq!(looks([first, at_limit, (2, (108_192, 0))]), [false; 3]);
        assert_eq!(looks([first, at_limit, (2, (108_193, 0))]), [false, false, true]);
        // nobody looked while the session slept
        assert_eq!(looks([first, (25, (202_400, 0))]), [false; 2]);
        assert_eq!(looks([first, (25, (202_401, 0))]), [false, true]);
        assert_eq!(looks([first, (1, (204_096, 100_000))]), [false; 2]);
        assert_eq!(looks([first, (1, (204_097, 100_000))]), [false, true]);
    }

    #[test]
    fn a_moment_is_not_looked_at() {
        let (mut received, now) = (Received::default(), Instant::now());
        assert!(!received.is_flood(now, 1, || (0, 0)));
        let soon = now + Duration::from_millis(999);
        assert!(!received.is_flood(soon, 1, || panic!("it is not time")));
        assert!(received.is_flood(now + LOOK, 1, || (2, 0)));
    }
}
