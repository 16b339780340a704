//! How fast one client may talk, as a value: packets and bytes a second.
//!
//! Whoever talks faster is read from more slowly: its transport then holds back what it sends. Nothing
//! is lost, and nobody is closed for it.

use std::time::{Duration, Instant};

use super::door::Limit;
use crate::config::LimitsConfig;

/// Packets that may come at once: this long's worth of the rate.
const PACKET_BURST: Duration = Duration::from_secs(1);
/// Bytes likewise. Less, for whoever has many connections would keep the processors busy with nothing but bursts.
const BYTE_BURST: Duration = Duration::from_millis(250);
/// What of it a newcomer has: as much as who comes from a pause. The rest it earns by sending nothing, for one that
/// is thrown out can come again at once.
const FIRST_BYTES: Duration = STRIDE;
/// How much of that a pause gives back, so that reading does not stutter.
const STRIDE: Duration = Duration::from_millis(50);

/// What one client has used of its rates. The default has none.
#[derive(Debug, Default)]
pub(crate) struct Allowance {
    packets: Option<Rate>,
    bytes: Option<Rate>,
    paused_until: Option<Instant>,
}

/// When what came would have come at an even pace; see [`super::door`].
#[derive(Debug)]
struct Rate {
    per_second: u64,
    burst: Duration,
    due: Instant,
}

impl Rate {
    /// `first`: what of the burst may come before there was time to earn it.
    fn new(
        per_second: Option<usize>,
        burst: Duration,
        first: Duration,
        now: Instant,
    ) -> Option<Self> {
        let per_second = per_second?.max(1) as u64;
        Some(Self { per_second, burst, due: now + (burst - first) })
    }

    /// The end of the pause that is needed after this.
    fn take(&mut self, now: Instant, amount: usize) -> Option<Instant> {
        let nanos = (amount as u64).saturating_mul(1_000_000_000) / self.per_second;
        self.due = self.due.max(now) + Duration::from_nanos(nanos);
        (self.due > now + self.burst).then(|| self.due - self.burst + STRIDE)
    }
}

impl Allowance {
    pub(crate) fn new(limits: &LimitsConfig, now: Instant) -> Self {
        Self {
            packets: Rate::new(limits.packet_rate, PACKET_BURST, PACKET_BURST, now),
            bytes: Rate::new(limits.byte_rate, BYTE_BURST, FIRST_BYTES, now),
            paused_until: None,
        }
    }

    /// Forgets a pause that is over. What is left of it would be a deadline that has passed for ever.
    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        self.paused_until = self.paused_until.filter(|until| *until > now);
    }

    /// May the client be read from?
    pub(crate) fn may_read(&mut self, now: Instant) -> bool {
        self.handle_timeout(now);
        self.paused_until.is_none()
    }

    /// Counts what came. Gives the limit if a pause begins with it.
    pub(crate) fn take(&mut self, now: Instant, packets: usize, bytes: usize) -> Option<Limit> {
        let was_paused = self.paused_until.is_some();
        let mut met = None;
        for (rate, amount, limit) in [
            (&mut self.packets, packets, Limit::PacketRate),
            (&mut self.bytes, bytes, Limit::ByteRate),
        ] {
            let until = rate.as_mut().and_then(|rate| rate.take(now, amount));
            if until.is_some() {
                self.paused_until = self.paused_until.max(until);
                met = met.or(Some(limit));
            }
        }
        met.filter(|_| !was_paused)
    }

    /// The end of the pause.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.paused_until
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn limits(packets: Option<usize>, bytes: Option<usize>) -> LimitsConfig {
        LimitsConfig { packet_rate: packets, byte_rate: bytes, ..LimitsConfig::default() }
    }

    #[test]
    fn a_seconds_worth_may_come_at_once_and_not_one_more() {
        let now = Instant::now();
        let mut allowance = Allowance::new(&limits(Some(10), None), now);
        for _ in 0..10 {
            assert!(allowance.may_read(now));
            assert_eq!(allowance.take(now, 1, 1_000_000), None);
        }
        assert_eq!(allowance.take(now, 1, 0), Some(Limit::PacketRate));
        assert_eq!(allowance.take(now, 1, 0), None, "one pause, however much was read ahead");
        let until = allowance.poll_timeout().unwrap();
        assert_eq!(until, now + Duration::from_millis(200) + STRIDE);
        assert!(!allowance.may_read(until - Duration::from_nanos(1)));
        assert!(allowance.may_read(until));
        assert_eq!(allowance.poll_timeout(), None);
    }

    #[test]
    fn bytes_count_beside_packets_and_one_message_may_be_of_any_size() {
        let now = Instant::now();
        let mut allowance = Allowance::new(&limits(Some(1_000), Some(4_000)), now);
        let now = now + BYTE_BURST;
        assert_eq!(allowance.take(now, 1, 1_000), None, "a quarter of a second's worth");
        assert_eq!(allowance.take(now, 1, 1), Some(Limit::ByteRate));
        let mut large = Allowance::new(&limits(None, Some(1_000)), now - BYTE_BURST);
        assert_eq!(large.take(now, 1, 3_000), Some(Limit::ByteRate));
        assert_eq!(large.poll_timeout(), Some(now + Duration::from_millis(2_750) + STRIDE));
    }

    #[test]
    fn a_newcomer_may_send_a_twentieth_of_a_second_and_earns_the_rest() {
        let start = Instant::now();
        let newcomer = || Allowance::new(&limits(None, Some(4_000)), start);
        assert_eq!(newcomer().take(start, 1, 200), None);
        assert_eq!(newcomer().take(start, 1, 201), Some(Limit::ByteRate));
        let later = start + Duration::from_millis(100);
        assert_eq!(newcomer().take(later, 1, 600), None, "100 ms more");
        assert_eq!(newcomer().take(later, 1, 601), Some(Limit::ByteRate));
        let in_an_hour = start + Duration::from_secs(3_600);
        assert_eq!(newcomer().take(in_an_hour, 1, 1_000), None);
        assert_eq!(newcomer().take(in_an_hour, 1, 1_001), Some(Limit::ByteRate), "not more");
    }

    #[test]
    fn without_a_limit_nobody_waits() {
        let now = Instant::now();
        for mut allowance in [Allowance::default(), Allowance::new(&limits(None, None), now)] {
            assert_eq!(allowance.take(now, usize::MAX, usize::MAX), None);
            assert!(allowance.may_read(now) && allowance.poll_timeout().is_none());
        }
    }

    proptest! {
        /// However it talks: in all, a client gets its rate and a second's worth more.
        #[test]
        fn in_the_long_run_it_is_the_rate(
            steps in proptest::collection::vec((0_u64..300, 1_usize..20), 1..300),
        ) {
            let start = Instant::now();
            let (mut now, mut taken) = (start, 0);
            let mut allowance = Allowance::new(&limits(Some(100), None), start);
            for (pause, packets) in steps {
                now += Duration::from_millis(pause);
                if !allowance.may_read(now) {
                    now = allowance.poll_timeout().unwrap();
                    prop_assert!(allowance.may_read(now));
                }
                taken += packets;
                allowance.take(now, packets, 0);
                let most = 100.0 * ((now - start).as_secs_f64() + 1.0) + 20.0;
                prop_assert!(taken as f64 <= most, "{taken} after {:?}", now - start);
            }
        }
    }
}
