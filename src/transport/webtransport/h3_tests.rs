use std::pin::pin;
use std::sync::atomic::{AtomicU32, Ordering};

use futures_util::FutureExt as _;
use proptest::prelude::*;
use tokio::io::{AsyncWriteExt as _, DuplexStream};
use wtransport_proto::headers::Headers;

use super::super::fuzz::paid;
use super::*;

/// Longest header section here.
const MAX: u64 = 16 * 1024;

/// Reads `bytes` cut in two at every place, each time with a pause at the cut: the results are equal.
fn at_every_cut<T: PartialEq + std::fmt::Debug>(
    bytes: &[u8],
    read: impl AsyncFn(&mut (dyn AsyncRead + Unpin)) -> T,
) -> T {
    let whole = read(&mut &*bytes).now_or_never().expect("all is there");
    for cut in 0..bytes.len() {
        let (mut writer, mut reader) = tokio::io::duplex(bytes.len() + 1);
        let mut reading = pin!(read(&mut reader));
        send(&mut writer, &bytes[..cut]);
        let cut_result = reading.as_mut().now_or_never().unwrap_or_else(|| {
            send(&mut writer, &bytes[cut..]);
            drop(writer);
            reading.now_or_never().expect("the end is there")
        });
        assert_eq!(cut_result, whole, "cut at {cut}");
    }
    whole
}

fn send(writer: &mut DuplexStream, bytes: &[u8]) {
    writer.write_all(bytes).now_or_never().expect("it has room").unwrap();
}

fn frames(parts: &[(u64, &[u8])]) -> Vec<u8> {
    let mut out = Vec::new();
    for (kind, payload) in parts {
        put_frame(&mut out, *kind, payload);
    }
    out
}

fn control_of(bytes: &[u8]) -> (ErrorCode, u32) {
    let settings = AtomicU32::new(0);
    let code = at_every_cut(bytes, async |mut stream| {
        control(&mut stream, &Beside::default(), || {
            settings.fetch_add(1, Ordering::Relaxed);
        })
        .await
    });
    (code, settings.into_inner() / (bytes.len() as u32 + 1))
}

#[test]
fn integers_have_four_lengths_and_nothing_behind_them_is_read() {
    // RFC 9000 A.1
    for (bytes, value) in [
        (&[0x25][..], 37),
        (&[0x7b, 0xbd], 15_293),
        (&[0x9d, 0x7f, 0x3e, 0x7d], 494_878_333),
        (&[0xc2, 0x19, 0x7c, 0x5e, 0xff, 0x14, 0xe8, 0x8c], 151_288_809_941_952_652),
    ] {
        let long = [bytes, b"rest"].concat();
        let mut stream = &long[..];
        let read = varint(&mut stream).now_or_never().expect("all is there");
        assert_eq!((read.unwrap(), stream), (Some(value), &b"rest"[..]));
        for cut in 1..bytes.len() {
            assert!(varint(&mut &bytes[..cut]).now_or_never().expect("ends").is_err());
        }
    }
    assert_eq!(varint(&mut &b""[..]).now_or_never().expect("ends").unwrap(), None);
}

#[test]
fn a_control_stream_begins_with_settings_and_lives_as_long_as_the_connection() {
    let ours = control_preface(MAX);
    assert_eq!(ours[0], 0);
    // it ended
    assert_eq!(control_of(&ours[1..]), (ErrorCode::ClosedCriticalStream, 1));
    let browser = frames(&[
        (frame::SETTINGS, &[0x33, 1, 0x21, 7]),
        (frame::MAX_PUSH_ID, &[3]),
        (0x21, b"grease"),
        (0x0f_0700, b"priority update"),
        (frame::GOAWAY, &[0x40, 0]),
        (frame::DATA, b""),
    ]);
    // all was read up to what must not be
    assert_eq!(control_of(&browser), (ErrorCode::FrameUnexpected, 1));
}

#[test]
fn a_control_stream_that_breaks_a_rule_has_its_code() {
    let settings = (frame::SETTINGS, &[][..]);
    let long = vec![0; MAX_SETTINGS as usize + 1];
    for (parts, code, ready) in [
        (vec![(frame::GOAWAY, &[0][..])], ErrorCode::MissingSettings, 0),
        (vec![(0x21, b"")], ErrorCode::MissingSettings, 0),
        (vec![(frame::SETTINGS, &long)], ErrorCode::ExcessiveLoad, 0),
        (vec![(frame::SETTINGS, &[0x33])], ErrorCode::Frame, 0),
        (vec![(frame::SETTINGS, &[0x02, 0])], ErrorCode::Settings, 0),
        (vec![(frame::SETTINGS, &[0x33, 1, 0x33, 1])], ErrorCode::Settings, 0),
        (vec![settings, settings], ErrorCode::FrameUnexpected, 1),
        (vec![settings, (frame::HEADERS, b"")], ErrorCode::FrameUnexpected, 1),
        (vec![settings, (0x06, b"")], ErrorCode::FrameUnexpected, 1),
        (vec![settings, (frame::GOAWAY, b"")], ErrorCode::Frame, 1),
        (vec![settings, (frame::GOAWAY, &[0x40])], ErrorCode::Frame, 1),
        (vec![settings, (frame::GOAWAY, &[0, 0])], ErrorCode::Frame, 1),
        (vec![settings, (frame::MAX_PUSH_ID, &[0; 9])], ErrorCode::Frame, 1),
    ] {
        assert_eq!(control_of(&frames(&parts)), (code, ready), "{parts:?}");
    }
}

fn section(fields: &[(&str, &str)]) -> Vec<u8> {
    Encoder::encode(fields.iter().copied()).into_vec()
}

const CONNECT: [(&str, &str); 5] = [
    (":method", "CONNECT"),
    (":scheme", "https"),
    (":protocol", "webtransport"),
    (":authority", "example.org:4433"),
    (":path", "/engine.io/?EIO=4&transport=webtransport"),
];

#[test]
fn a_request_is_read_at_every_cut_and_grease_before_it_is_skipped() {
    let wanted = section(&CONNECT);
    let mut bytes = frames(&[(0x21, b"grease"), (0x40, b""), (frame::HEADERS, &wanted)]);
    bytes.extend(b"behind");
    let read = at_every_cut(&bytes, async |mut stream| request(&mut stream, MAX).await);
    assert_eq!(read, Ok(wanted));
}

#[test]
fn a_request_stream_that_breaks_a_rule_has_its_code() {
    let long = vec![0; MAX as usize + 1];
    let longest = frames(&[(0x21, &long[2..]), (frame::HEADERS, &long[1..])]);
    let read = request(&mut &longest[..], MAX).now_or_never().expect("all is there");
    assert_eq!(read.map(|section| section.len()), Ok(MAX as usize));
    let empty_ones = vec![(0x21, &[][..]); MAX as usize + 1];
    for (parts, code) in [
        (vec![(frame::DATA, &b"x"[..])], ErrorCode::FrameUnexpected),
        (vec![(frame::SETTINGS, b"")], ErrorCode::FrameUnexpected),
        (vec![(0x08, b"")], ErrorCode::FrameUnexpected),
        (vec![(frame::WEBTRANSPORT, b"")], ErrorCode::Id),
        (vec![(frame::HEADERS, &long)], ErrorCode::ExcessiveLoad),
        (vec![(0x21, &long)], ErrorCode::ExcessiveLoad),
        (empty_ones, ErrorCode::ExcessiveLoad),
    ] {
        let bytes = frames(&parts);
        let read = request(&mut &bytes[..], MAX).now_or_never().expect("all is there");
        assert_eq!(read, Err(H3Error::Broken(code)));
    }
    assert_eq!(request(&mut &b"\x01\x05abc"[..], MAX).now_or_never(), Some(Err(H3Error::Ended)));
}

#[test]
fn what_is_no_request_for_a_session_is_answered_with_400() {
    let with = |name: &str, value: Option<&'static str>| {
        let mut fields: Vec<_> = CONNECT.into_iter().filter(|field| field.0 != name).collect();
        fields.extend(value.map(|value| (":path", value)).filter(|_| name == ":path"));
        if name != ":path" {
            fields.extend(value.map(|value| {
                (CONNECT.iter().find(|field| field.0 == name).expect("one of them").0, value)
            }));
        }
        fields
    };
    for (name, value) in [
        (":method", Some("GET")),
        (":method", None),
        (":scheme", Some("http")),
        (":protocol", Some("websocket")),
        (":protocol", None),
        (":authority", None),
        (":path", Some("*")),
        (":path", None),
    ] {
        let parsed = parse_request(&section(&with(name, value)));
        assert_eq!(parsed, Ok(Err(StatusCode::BAD_REQUEST)), "{name} {value:?}");
    }
    let newer = parse_request(&section(&with(":protocol", Some("webtransport-h3"))));
    assert!(newer.unwrap().is_ok());
    let fields = [&CONNECT[..], &[("origin", "https://example.org")]].concat();
    let RequestFields { authority, path, headers } =
        parse_request(&section(&fields)).unwrap().unwrap();
    assert_eq!((&*authority, &*path), (CONNECT[3].1, CONNECT[4].1));
    assert_eq!(headers["origin"], "https://example.org");
}

#[test]
fn overlong_integers_and_the_dynamic_table_do_not_reach_the_decoder() {
    for bad in [
        &b""[..],
        b"\0",
        // Required Insert Count
        b"\x02\0\x80",
        // dynamic: indexed, post-base, name reference
        b"\0\0\x80",
        b"\0\0\x10",
        b"\0\0\x40\0",
        // string longer than the section
        b"\0\0\x51\x05abcd",
        // integer without an end
        &[0, 0, 0xff, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0],
    ] {
        assert_eq!(parse_request(bad), Err(ErrorCode::Decompression), "{bad:?}");
    }
}

#[test]
fn a_request_of_more_fields_than_can_be_kept_is_an_excess() {
    let of = |count: usize| {
        let names: Vec<_> = (CONNECT.len()..count).map(|field| format!("x{field}")).collect();
        let others = names.iter().map(|name| (name.as_str(), ""));
        parse_request(&section(&CONNECT.into_iter().chain(others).collect::<Vec<_>>()))
    };
    let most = of(MAX_FIELDS).unwrap().unwrap();
    // without the authority and the path, and what is looked at before them
    assert_eq!(most.headers.len(), MAX_FIELDS - CONNECT.len());
    for count in [MAX_FIELDS + 1, 24_577] {
        assert_eq!(of(count), Err(ErrorCode::ExcessiveLoad), "{count}");
    }
}

proptest! {
    #[test]
    fn no_bytes_make_the_header_decoder_panic(
        mut bytes in proptest::collection::vec(any::<u8>(), 0..200),
        prefixed in any::<bool>(),
    ) {
        if prefixed {
            bytes.splice(0..0, [0, 0]);
        }
        let _ = parse_request(&bytes);
    }

    #[test]
    fn no_bytes_make_a_stream_reader_panic(
        bytes in proptest::collection::vec(any::<u8>(), 0..300),
    ) {
        let beside = &Beside::default();
        let _ = paid(beside, control(&mut &bytes[..], beside, || {}));
        let _ = paid(beside, connect(&mut &bytes[..], beside));
        let _ = request(&mut &bytes[..], MAX).now_or_never();
        let _ = opening(&mut &bytes[..]).now_or_never();
    }

    #[test]
    fn what_the_encoder_writes_is_plain(fields in proptest::collection::hash_map("[a-z-]{1,200}", ".{0,200}", 0..20)) {
        let fields: Vec<_> = fields.iter().map(|(name, value)| (&**name, &**value)).collect();
        let section = section(&fields);
        prop_assert_eq!(check_section(&section), Some(fields.len()));
        prop_assert_eq!(Decoder::decode(&section).unwrap().len(), fields.len());
    }
}

#[test]
fn a_session_is_over_with_its_capsule_however_it_is_cut_or_with_its_stream() {
    let mut capsules = Vec::new();
    put_frame(&mut capsules, 0x40_0001, &[1; 700]);
    put_frame(&mut capsules, 0x78ae, b"");
    put_frame(&mut capsules, CLOSE_SESSION, b"\0\0\0\0bye");
    for part in [1, 2, 3, 7, 100, 1000] {
        let parts: Vec<_> = capsules.chunks(part).map(|chunk| (frame::DATA, chunk)).collect();
        let mut bytes = frames(&parts);
        // would break a rule, were it still read
        put_frame(&mut bytes, frame::HEADERS, b"");
        let beside = Beside::default();
        let ended = paid(&beside, connect(&mut &bytes[..], &beside));
        assert_eq!(ended, Some(Ok(())), "{part}");
    }
    let before = capsules.len() - 9;
    let mut open = frames(&[(0x21, b"grease"), (frame::DATA, &capsules[..before])]);
    let (mut writer, mut reader) = tokio::io::duplex(4096);
    let beside = Beside::default();
    send(&mut writer, &open);
    let mut reading = pin!(connect(&mut reader, &beside));
    assert_eq!(reading.as_mut().now_or_never(), None, "nothing has closed it");
    drop(writer);
    assert_eq!(reading.now_or_never(), Some(Ok(())), "its stream has ended");
    put_frame(&mut open, frame::HEADERS, b"");
    let trailers = connect(&mut &open[..], &Beside::default()).now_or_never();
    assert_eq!(trailers, Some(Err(ErrorCode::FrameUnexpected)));
    let ours = close_session(1001);
    assert_eq!(ours, b"\x00\x07\x68\x43\x04\0\0\x03\xe9");
    assert_eq!(
        at_every_cut(&ours, async |mut stream| { connect(&mut stream, &Beside::default()).await }),
        Ok(())
    );
}

#[test]
fn streams_are_told_apart() {
    let kind =
        |bytes: &[u8]| at_every_cut(bytes, async |mut stream| stream_kind(&mut stream).await);
    assert_eq!(kind(b"\0"), Ok(StreamKind::Control));
    assert_eq!(kind(b"\x40\x54"), Ok(StreamKind::WebTransport));
    assert_eq!(kind(b"\x21"), Ok(StreamKind::Unknown));
    assert_eq!(kind(b"\x01"), Err(H3Error::Broken(ErrorCode::StreamCreation)));
    assert_eq!(kind(b"\x40"), Err(H3Error::Ended));
    let opens = |bytes: &[u8]| at_every_cut(bytes, async |mut stream| opening(&mut stream).await);
    assert_eq!(opens(b"\x40\x41\x04"), Ok(Opening::WebTransport(4)));
    assert_eq!(opens(b"\x01\x04"), Ok(Opening::Other));
    assert_eq!(opens(b"\x40\x41"), Err(H3Error::Ended));
}

#[test]
fn our_response_is_a_header_frame_with_the_status_first() {
    let bytes = response(StatusCode::OK, Some(("sec-webtransport-http3-draft", "draft02")));
    let section = request(&mut &bytes[..], MAX).now_or_never().expect("all is there").unwrap();
    // the name is entry 24 of the static table
    assert_eq!(section[..4], [0, 0, 0x5f, 24 - 15]);
    let frame = Frame::new_headers(Cow::Borrowed(&section));
    let fields = Headers::with_frame(&frame).unwrap();
    assert_eq!(fields.get(":status"), Some("200"));
    assert_eq!(fields.get("sec-webtransport-http3-draft"), Some("draft02"));
}

/// Bytes of `parts` that a reader takes before it waits for what it has counted to be taken.
fn read_before_it_waits(parts: &[(u64, &[u8])]) -> (usize, (usize, usize)) {
    let bytes = frames(parts);
    let mut rest = &bytes[..];
    let beside = Beside::default();
    assert_eq!(connect(&mut rest, &beside).now_or_never(), None);
    (bytes.len() - rest.len(), beside.take(|| {}))
}

#[test]
fn what_says_nothing_is_counted_and_no_more_is_read_until_that_is_paid_for() {
    let grease = [(0x21, &[][..]); 200];
    assert_eq!(read_before_it_waits(&grease), (64 * 2, (64, 0)));
    let data = vec![0x21; 200 * 1024];
    let (read, counted) = read_before_it_waits(&[(frame::DATA, &data)]);
    assert_eq!(counted, (1, 64 * 1024));
    assert_eq!(read, 64 * 1024 + 5);
}
