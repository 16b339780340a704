//! How much one socket may do at a board. Far above what hands do, pages that bring back a whole board
//! included; what is above it costs the others nothing.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// Pieces of strokes, and erasures: so many at once, and each second. (A pen makes one for each frame of
/// the screen; a page that redraws a full board, 2,000 at once.)
pub(super) const EVENTS: Rate = Rate { burst: 3_000, per_second: 400 };
/// Numbers of those pieces. (A pen makes up to 750 each second; a full board has 150,000.)
pub(super) const NUMBERS: Rate = Rate { burst: 160_000, per_second: 20_000 };
/// Cursors and round trips. (The page sends 20 each second.)
pub(super) const TRIFLES: Rate = Rate { burst: 100, per_second: 50 };

/// Comings to boards: each costs us, and the one who comes, the whole board. (Many who come from one address, each when
/// the one before has left, are taken for one who comes again and again.)
pub(super) const ARRIVALS: Rate = Rate { burst: 60, per_second: 5 };

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

    /// Is it as a new one?
    fn is_whole(&self, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.left + passed * f64::from(self.rate.per_second) >= self.rate.burst.into()
    }
}

/// What one socket may do.
#[derive(Debug)]
pub(super) struct Allowances {
    events: Allowance,
    numbers: Allowance,
    trifles: Allowance,
    arrivals: Allowance,
}

impl Allowances {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            events: Allowance::new(EVENTS, now),
            numbers: Allowance::new(NUMBERS, now),
            trifles: Allowance::new(TRIFLES, now),
            arrivals: Allowance::new(ARRIVALS, now),
        }
    }

    fn is_whole(&self, now: Instant) -> bool {
        let Self { events, numbers, trifles, arrivals } = self;
        [events, numbers, trifles, arrivals].iter().all(|allowance| allowance.is_whole(now))
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

/// What those who have left had not used, by their addresses: who comes from there next goes on with it. So to leave
/// and to come again gives nobody more, and nobody who stays has less for what others of the address do.
#[derive(Debug, Default)]
pub(super) struct Departed(HashMap<IpAddr, Vec<Allowances>>);

/// Addresses that are remembered, and how many of each.
const MAX_ADDRESSES: usize = 10_000;
const MAX_OF_ADDRESS: usize = 64;

impl Departed {
    /// Somebody comes.
    ///
    /// # Errors
    /// Too often.
    pub(super) fn come(&mut self, from: IpAddr, now: Instant) -> Result<Allowances, &'static str> {
        // the one that is best for whoever comes: among them may be one who comes again and again
        let left = self.0.get_mut(&from).and_then(|left| {
            let arrivals = |at: &usize| left[*at].arrivals.left;
            let best = (0..left.len()).max_by(|a, b| arrivals(a).total_cmp(&arrivals(b)))?;
            Some(left.swap_remove(best))
        });
        let mut allowances = left.unwrap_or_else(|| Allowances::new(now));
        if allowances.arrivals.take(1, now).is_err() {
            self.leave(from, allowances, now);
            return Err("too often");
        }
        Ok(allowances)
    }

    /// Somebody leaves.
    pub(super) fn leave(&mut self, from: IpAddr, allowances: Allowances, now: Instant) {
        if self.0.len() >= MAX_ADDRESSES && !self.0.contains_key(&from) {
            self.forget(now);
            if self.0.len() >= MAX_ADDRESSES {
                return;
            }
        }
        let left = self.0.entry(from).or_default();
        left.retain(|allowances| !allowances.is_whole(now));
        if left.len() < MAX_OF_ADDRESS && !allowances.is_whole(now) {
            left.push(allowances);
        }
        if left.is_empty() {
            self.0.remove(&from);
        }
    }

    /// Forgets those who have nothing less than somebody new.
    pub(super) fn forget(&mut self, now: Instant) {
        self.0.retain(|_, left| {
            left.retain(|allowances| !allowances.is_whole(now));
            !left.is_empty()
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));
    const THERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 2));

    #[test]
    fn who_leaves_and_comes_again_has_no_more_than_who_stays() {
        let start = Instant::now();
        let mut departed = Departed::default();
        let mut all = departed.come(HERE, start).unwrap();
        let other = departed.come(HERE, start).unwrap();
        for _ in 0..EVENTS.burst {
            all.change(2, start).unwrap();
        }
        departed.leave(HERE, all, start);
        assert!(departed.come(THERE, start).unwrap().change(2, start).is_ok(), "another address");
        let mut all = departed.come(HERE, start).unwrap();
        assert_eq!(all.change(2, start), Err(PAUSE));
        departed.leave(HERE, all, start);
        departed.leave(HERE, other, start);
        assert_eq!(departed.0[&HERE].len(), 2);
        // after a while nothing is to be remembered
        departed.forget(start + Duration::from_secs(3_600));
        assert_eq!(departed.0.len(), 0);
    }

    #[test]
    fn arrivals_are_bounded_and_there_is_an_end_to_it() {
        let start = Instant::now();
        let mut departed = Departed::default();
        for _ in 0..ARRIVALS.burst {
            let all = departed.come(HERE, start).unwrap();
            departed.leave(HERE, all, start);
        }
        assert!(departed.come(HERE, start).is_err(), "one too many");
        assert!(departed.come(HERE, start).is_err(), "a refusal gives nothing");
        assert!(departed.come(THERE, start).is_ok());
        assert!(departed.come(HERE, start + Duration::from_secs(1)).is_ok());
    }

    #[test]
    fn what_is_remembered_of_those_who_left_is_bounded() {
        let start = Instant::now();
        let mut departed = Departed::default();
        let used = || {
            let mut all = Allowances::new(start);
            all.change(2, start).unwrap();
            all
        };
        for _ in 0..2 * MAX_OF_ADDRESS {
            departed.leave(HERE, used(), start);
        }
        assert_eq!(departed.0[&HERE].len(), MAX_OF_ADDRESS);
        for number in 0..2 * MAX_ADDRESSES as u32 {
            departed.leave(std::net::Ipv4Addr::from_bits(number).into(), used(), start);
        }
        assert_eq!(departed.0.len(), MAX_ADDRESSES);
    }

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
