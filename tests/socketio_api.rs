//! What the Rust API of Socket.IO promises to applications, seen from both ends of the wire.

#![allow(clippy::unwrap_used, reason = "in a test that is how to fail")]

#[path = "socketio_api/acks.rs"]
mod acks;
#[path = "socketio_api/admission.rs"]
mod admission;
#[path = "socketio_api/broadcasts.rs"]
mod broadcasts;
#[path = "socketio_api/ends.rs"]
mod ends;
#[path = "socketio_api/handlers.rs"]
mod handlers;
#[path = "socketio_api/namespaces.rs"]
mod namespaces;
#[path = "socketio_api/slow.rs"]
mod slow;
mod support;
#[path = "socketio_api/tokens.rs"]
mod tokens;
