//! How applications name rooms.

use crate::engine::packet::Str;

/// One room or several: `"a"`, `String`, `["a", "b"]`, `vec![...]`.
pub trait IntoRooms {
    /// The names.
    fn into_rooms(self) -> Vec<Str>;
}

impl IntoRooms for &str {
    fn into_rooms(self) -> Vec<Str> {
        vec![Str::copy_from_slice(self)]
    }
}

impl IntoRooms for String {
    fn into_rooms(self) -> Vec<Str> {
        vec![self.into()]
    }
}

impl IntoRooms for &String {
    fn into_rooms(self) -> Vec<Str> {
        self.as_str().into_rooms()
    }
}

impl<S: AsRef<str>> IntoRooms for Vec<S> {
    fn into_rooms(self) -> Vec<Str> {
        self.iter().map(|room| Str::copy_from_slice(room.as_ref())).collect()
    }
}

impl<S: AsRef<str>> IntoRooms for &[S] {
    fn into_rooms(self) -> Vec<Str> {
        self.iter().map(|room| Str::copy_from_slice(room.as_ref())).collect()
    }
}

impl<S: AsRef<str>, const N: usize> IntoRooms for [S; N] {
    fn into_rooms(self) -> Vec<Str> {
        self.as_slice().into_rooms()
    }
}
