#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| quicket::fuzzing::run("webtransport_frames", data));
