//! Chance from one place, so that a test can have it come again.

use rand::distr::{Distribution, StandardUniform};

/// A random value, as hard to guess as the system's.
pub(crate) fn random<T>() -> T
where
    StandardUniform: Distribution<T>,
{
    #[cfg(test)]
    if let Some(value) = repeatable::next() {
        return value;
    }
    rand::random()
}

/// Chance that depends on a seed only, for all that this thread does.
#[cfg(test)]
pub(crate) mod repeatable {
    use std::cell::RefCell;

    use rand::distr::{Distribution, StandardUniform};
    use rand::rngs::StdRng;
    use rand::{Rng as _, SeedableRng as _};

    thread_local! {
        static SOURCE: RefCell<Option<StdRng>> = const { RefCell::new(None) };
    }

    /// From now on, on this thread.
    pub(crate) fn begin(seed: u64) {
        SOURCE.set(Some(StdRng::seed_from_u64(seed)));
    }

    pub(super) fn next<T>() -> Option<T>
    where
        StandardUniform: Distribution<T>,
    {
        SOURCE.with_borrow_mut(|source| source.as_mut().map(|source| source.random()))
    }
}
