//! Why tokens were not taken.

use super::Label;
use crate::error::TokenError;

label!(
    TokenError,
    "reason",
    Self::label,
    [Missing, Invalid, Expired, NotYetValid, UnknownKey, KeysUnavailable,]
);
