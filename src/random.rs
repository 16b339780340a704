//! Chance from one place, so that a test can have it come again.

use rand::distr::{Distribution, StandardUniform};

/// A random value, as hard to guess as the system's.
pub(crate) fn random<T>() -> T
where
    StandardUniform: Distribution<T>,
{
    rand::random()
}
