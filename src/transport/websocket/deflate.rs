//! permessage-deflate (RFC 7692) without context takeover: every message stands for itself.
//!
//! That is why a connection needs no zlib state of its own (some 300 KiB for both directions): one
//! compressor and one decompressor per thread, reset between messages, serve all of them.

use std::cell::RefCell;
use std::io;

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use crate::error::PeerMisbehaved;

/// RFC 7692 7.2.1: the end of the empty block that a sender takes off and a receiver puts back.
const TAIL: [u8; 4] = [0, 0, 0xff, 0xff];

/// The first room for output; it doubles from there, so that a small message costs little and a
/// bomb shows itself before much is reserved.
const FIRST_ROOM: usize = 512;

thread_local! {
    static COMPRESSOR: RefCell<Compress> = RefCell::new(Compress::new(Compression::fast(), false));
    static DECOMPRESSOR: RefCell<Decompress> = RefCell::new(Decompress::new(false));
}

/// Inflates the payload of a message to at most `max_payload` bytes.
///
/// # Errors
/// [`PeerMisbehaved::PayloadTooLarge`] as soon as there is one byte more,
/// [`PeerMisbehaved::IllegalWebSocketFrame`] when the payload is no deflate stream.
pub(super) fn inflate(payload: &[u8], max_payload: usize) -> Result<Vec<u8>, PeerMisbehaved> {
    DECOMPRESSOR.with_borrow_mut(|decompressor| {
        decompressor.reset(false);
        let mut output = Vec::new();
        for input in [payload, &TAIL] {
            // A sender may end its stream with the final bit set (RFC 7692 7.2.3.4): what it
            // appends then is an empty block, as is our tail.
            if inflate_part(decompressor, input, &mut output, max_payload)? == Status::StreamEnd {
                break;
            }
        }
        output.shrink_to_fit();
        Ok(output)
    })
}

/// Feeds one part of the input and takes all output that it gives.
fn inflate_part(
    decompressor: &mut Decompress,
    mut input: &[u8],
    output: &mut Vec<u8>,
    max_payload: usize,
) -> Result<Status, PeerMisbehaved> {
    loop {
        if output.len() == output.capacity() {
            // One byte over the limit is room enough to see that it is passed.
            let most = max_payload.saturating_add(1) - output.len();
            let room = output.len().max(FIRST_ROOM).min(most);
            output.reserve_exact(room);
        }
        let taken_before = decompressor.total_in();
        let status = decompressor
            .decompress_vec(input, output, FlushDecompress::None)
            .map_err(|_| PeerMisbehaved::IllegalWebSocketFrame)?;
        if output.len() > max_payload {
            return Err(PeerMisbehaved::PayloadTooLarge);
        }
        let taken = (decompressor.total_in() - taken_before) as usize;
        input = &input[taken..];
        // Room left over means that everything which can be said after this input has been said.
        let is_drained = output.len() < output.capacity();
        if status == Status::StreamEnd || (is_drained && (input.is_empty() || taken == 0)) {
            return Ok(status);
        }
    }
}

/// Deflates the payload of a message; the result may be longer than the input.
///
/// # Errors
/// An [`io::Error`] when zlib fails, which it does only when out of memory.
pub(super) fn deflate(payload: &[u8]) -> io::Result<Vec<u8>> {
    COMPRESSOR.with_borrow_mut(|compressor| {
        compressor.reset();
        let mut output = Vec::with_capacity(payload.len() / 2 + 64);
        loop {
            let taken = compressor.total_in() as usize;
            compressor
                .compress_vec(&payload[taken..], &mut output, FlushCompress::Sync)
                .map_err(io::Error::other)?;
            // Less than full: zlib had nothing more to write (zlib.h, "deflate").
            let is_drained = output.len() < output.capacity();
            if is_drained && compressor.total_in() as usize == payload.len() {
                break;
            }
            output.reserve(output.capacity().max(64));
        }
        if !output.ends_with(&TAIL) {
            return Err(io::Error::other("deflate did not end on a byte boundary"));
        }
        output.truncate(output.len() - TAIL.len());
        Ok(output)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_examples_of_the_rfc_inflate() {
        let compressed = [0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00];
        let stored = [0x00, 0x05, 0x00, 0xfa, 0xff, 0x48, 0x65, 0x6c, 0x6c, 0x6f, 0x00];
        let with_final_bit = [0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00, 0x00];
        let in_two_blocks =
            [0xf2, 0x48, 0x05, 0x00, 0x00, 0x00, 0xff, 0xff, 0xca, 0xc9, 0xc9, 0x07, 0x00];
        for payload in [&compressed[..], &stored, &with_final_bit, &in_two_blocks] {
            assert_eq!(inflate(payload, 5).unwrap(), b"Hello");
            assert_eq!(inflate(payload, 4), Err(PeerMisbehaved::PayloadTooLarge));
        }
        assert_eq!(inflate(&[0x00], 0).unwrap(), b"");
        assert_eq!(inflate(&[], 0).unwrap(), b"");
    }

    #[test]
    fn what_is_no_deflate_stream_is_refused() {
        let reserved_block_type = [0x07, 0, 0];
        let refusal = Err(PeerMisbehaved::IllegalWebSocketFrame);
        assert_eq!(inflate(&reserved_block_type, 1000), refusal);
        // A thread's decompressor is good again after that.
        assert_eq!(inflate(&deflate(b"again").unwrap(), 5).unwrap(), b"again");
    }

    #[test]
    fn a_bomb_stops_at_the_limit() {
        let bomb = deflate(&vec![0; 50_000_000]).unwrap();
        assert!(bomb.len() < 250_000);
        assert_eq!(inflate(&bomb, 100_000), Err(PeerMisbehaved::PayloadTooLarge));
    }

    #[test]
    fn the_limit_itself_is_allowed() {
        for len in [0, 1, FIRST_ROOM - 1, FIRST_ROOM, FIRST_ROOM + 1, 4096, 100_000] {
            let payload = deflate(&vec![7; len]).unwrap();
            let output = inflate(&payload, len).unwrap();
            assert_eq!((output.len(), output.capacity()), (len, len));
            if len > 0 {
                assert_eq!(inflate(&payload, len - 1), Err(PeerMisbehaved::PayloadTooLarge));
            }
        }
    }

    proptest! {
        #[test]
        fn what_is_deflated_inflates(
            seed in any::<u64>(),
            noise in proptest::collection::vec(any::<u8>(), 0..3000),
            repeats in 1usize..40,
        ) {
            let mut data = noise.repeat(repeats);
            data.extend_from_slice(&seed.to_le_bytes());
            let payload = deflate(&data).unwrap();
            prop_assert_eq!(inflate(&payload, data.len()).unwrap(), data);
        }

        #[test]
        fn no_payload_makes_it_panic_or_pass_the_limit(
            payload in proptest::collection::vec(any::<u8>(), 0..300),
            max_payload in 0usize..2000,
        ) {
            if let Ok(output) = inflate(&payload, max_payload) {
                prop_assert!(output.len() <= max_payload);
            }
        }
    }
}
