//! How much one socket may do at a board. Far above what hands do, pages that bring back a whole board
//! included; what is above it costs the others nothing.

use std::time::{Duration, Instant};

/// Pieces of strokes, and erasures: so many at once, and each second. (A pen makes one for each frame of
/// the screen; a page that redraws a full board, 2,000 at once.)
pub(super) const EVENTS: Rate = Rate { burst: 3_000, per_second: 400 };
/// Numbers of those pieces. (A pen makes up to 750 each second; a full board has 150,000.)
pub(super) const NUMBERS: Rate = Rate { burst: 160_000, per_second: 20_000 };
/// Cursors and round trips. (The page sends 20 each second.)
pub(super) const TRIFLES: Rate = Rate { burst: 100, per_second: 50 };

/// Who is told to come again later comes again with all that waits: until then there is room for some of it.
const PAUSE: Duration = Duration::from_millis(500);

/// A bound on what happens.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rate {
    pub(super) burst: u32,
    pub(super) per_second: u32,
}

/// What is left of a [`Rate`].
#[derive(Debug)]
pub(super) struct Allowance {
    rate: Rate,
    left: f64,
    at: Instant,
}

impl Allowance {
    /// All of it.
    pub(super) fn new(rate: Rate, now: Instant) -> Self {
        Self { rate, left: f64::from(rate.burst), at: now }
    }

    /// Takes so much.
    ///
    /// # Errors
    /// There is not so much, and nothing is taken. There is after this time.
    pub(super) fn take(&mut self, amount: usize, now: Instant) -> Result<(), Duration> {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        let speed = f64::from(self.rate.per_second);
        self.left = (self.left + passed * speed).min(self.rate.burst.into());
        self.at = now;
        // no event is anywhere near 2^52 numbers
        let missing = amount as f64 - self.left;
        if missing > 0.0 {
            return Err(Duration::from_secs_f64(missing / speed));
        }
        self.left -= amount as f64;
        Ok(())
    }
}

/// What one socket may do.
#[derive(Debug)]
pub(super) struct Allowances {
    events: Allowance,
    numbers: Allowance,
    trifles: Allowance,
}

impl Allowances {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            events: Allowance::new(EVENTS, now),
            numbers: Allowance::new(NUMBERS, now),
            trifles: Allowance::new(TRIFLES, now),
        }
    }

    /// A change of the board with so many numbers.
    ///
    /// # Errors
    /// When it may be tried again.
    pub(super) fn change(&mut self, numbers: usize, now: Instant) -> Result<(), Duration> {
        // an event that is refused for its numbers has cost us as much as another
        let taken = self.events.take(1, now).and_then(|()| self.numbers.take(numbers, now));
        taken.map_err(|wait| wait.max(PAUSE))
    }

    /// Something that is worth nothing a moment later.
    pub(super) fn trifle(&mut self, now: Instant) -> bool {
        self.trifles.take(1, now).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: Rate = Rate { burst: 10, per_second: 2 };

    #[test]
    fn a_burst_then_so_much_each_second_and_no_more() {
        let start = Instant::now();
        let after = |milliseconds| start + Duration::from_millis(milliseconds);
        let mut allowance = Allowance::new(RATE, start);
        for _ in 0..10 {
            assert_eq!(allowance.take(1, start), Ok(()));
        }
        assert_eq!(allowance.take(1, start), Err(Duration::from_millis(500)), "the 11th");
        assert_eq!(allowance.take(1, after(250)), Err(Duration::from_millis(250)));
        assert_eq!(allowance.take(1, after(500)), Ok(()), "when it was said");
        assert!(allowance.take(1, after(500)).is_err());
        // it does not grow beyond the burst
        assert_eq!(allowance.take(10, after(3_600_000)), Ok(()));
        assert!(allowance.take(1, after(3_600_000)).is_err());
        // time that goes back gives nothing
        assert!(allowance.take(1, start).is_err());
    }

    #[test]
    fn changes_are_bounded_in_number_and_in_size() {
        let now = Instant::now();
        let mut all = Allowances::new(now);
        for _ in 0..EVENTS.burst {
            assert_eq!(all.change(2, now), Ok(()));
        }
        assert_eq!(all.change(2, now), Err(PAUSE));
        let mut all = Allowances::new(now);
        let numbers = NUMBERS.burst as usize / 8;
        for _ in 0..8 {
            assert_eq!(all.change(numbers, now), Ok(()));
        }
        let wait = Duration::from_secs_f64(numbers as f64 / f64::from(NUMBERS.per_second));
        assert_eq!(all.change(numbers, now), Err(wait));
        for _ in 0..TRIFLES.burst {
            assert!(all.trifle(now), "one does not use up the other");
        }
        assert!(!all.trifle(now));
    }
}
