//! Applications of the binary. They see the library's public face only.

pub(crate) mod page;
pub(crate) mod whiteboard;
