//! How applications name rooms.

use std::borrow::Borrow;

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

// `Borrow`, for that is what a `Str` has: `socket.to(socket.rooms())` is common
impl<S: Borrow<str>> IntoRooms for Vec<S> {
    fn into_rooms(self) -> Vec<Str> {
        self.iter().map(|room| Str::copy_from_slice(room.borrow())).collect()
    }
}

impl<S: Borrow<str>> IntoRooms for &[S] {
    fn into_rooms(self) -> Vec<Str> {
        self.iter().map(|room| Str::copy_from_slice(room.borrow())).collect()
    }
}

impl<S: Borrow<str>, const N: usize> IntoRooms for [S; N] {
    fn into_rooms(self) -> Vec<Str> {
        self.as_slice().into_rooms()
    }
}
