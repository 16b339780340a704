//! Connection ids that a load balancer can route (draft-ietf-quic-load-balancers-21).
//!
//! A QUIC client may change its address: a NAT forgets a mapping, a phone leaves the wireless network. A
//! balancer that looks at addresses then sends its packets to any process. One that looks at the connection
//! id finds the right one, if that id names it:
//!
//! ```text
//! | 3 bits: config rotation, 0 | 5 bits: bytes behind, 15 | server id, 8 bytes | nonce, 7 bytes |
//! ```
//!
//! in the clear (section 5.1), which is what AWS's Network Load Balancer reads.

use quinn::{ConnectionId, ConnectionIdGenerator};

use crate::config::ServerId;

/// Bytes of randomness in each id. With 8 bytes of server id that makes 16, of the 20 that QUIC allows.
const NONCE: usize = 7;
/// The whole id: the first octet, the server id, the nonce.
const LENGTH: usize = 1 + size_of::<ServerId>() + NONCE;

/// Makes connection ids that begin with the server's id.
#[derive(Clone, Copy, Debug)]
pub(super) struct RoutableIds(pub(super) ServerId);

impl ConnectionIdGenerator for RoutableIds {
    fn generate_cid(&mut self) -> ConnectionId {
        encode(&self.0.0, &rand::random::<[u8; NONCE]>())
    }

    fn cid_len(&self) -> usize {
        LENGTH
    }

    fn cid_lifetime(&self) -> Option<std::time::Duration> {
        None
    }
}

/// Configuration 0, its length in the first octet, no encryption.
fn encode(server_id: &[u8], nonce: &[u8]) -> ConnectionId {
    let length = server_id.len() + nonce.len();
    let first = u8::try_from(length).expect("a connection id has at most 20 bytes");
    ConnectionId::new(&[&[first], server_id, nonce].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_the_test_vector_of_the_draft() {
        // appendix B.1, "cr_bits 0x0": sid c4605e, nonce 4504cc4f
        let cid = encode(&[0xc4, 0x60, 0x5e], &[0x45, 0x04, 0xcc, 0x4f]);
        assert_eq!(&cid[..], [0x07, 0xc4, 0x60, 0x5e, 0x45, 0x04, 0xcc, 0x4f]);
    }

    #[test]
    fn an_id_is_a_length_the_server_and_a_fresh_nonce() {
        let mut ids = RoutableIds(ServerId([1, 2, 3, 4, 5, 6, 7, 8]));
        let (one, other) = (ids.generate_cid(), ids.generate_cid());
        assert_eq!(one.len(), ids.cid_len());
        assert_eq!(&one[..9], [0x0f, 1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(&one[..9], &other[..9]);
        assert_ne!(&one[9..], &other[9..]);
    }
}
