//! Boards as bytes. A stroke: version, place in the log (two `u64`), width, numbers for each point, length of the
//! colour, colour, then its numbers (`i32`), everything big-endian. So more of it is bytes to be appended.

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};

use super::super::board::{Batch, Op, Outcome, Position, Snapshot, Stroke, Style};
use super::{EXPIRY, milliseconds};

const VERSION: u8 = 1;
/// Without the colour.
const HEADER_BYTES: usize = 20;
const NUMBER_BYTES: usize = 4;
const EPOCH: &[u8] = b"epoch";

/// For `PUT`.
pub(super) fn arguments(batch: &Batch) -> Vec<Bytes> {
    let known = batch.known.clone().unwrap_or_default();
    let mut arguments =
        vec![Bytes::from(known), Bytes::from(batch.epoch.clone()), milliseconds(EXPIRY)];
    for ((author, stroke), op) in &batch.ops {
        arguments.push(Bytes::from(format!("{author}/{stroke}")));
        let (from, bytes) = match op {
            Op::Remove => (Bytes::from_static(b"-1"), Bytes::new()),
            Op::Put { at, style, from, p } => {
                let (from, bytes) = encode(*at, style, *from, p);
                (Bytes::from(from.to_string()), bytes)
            }
        };
        arguments.extend([from, bytes]);
    }
    arguments
}

/// Bytes before, and bytes.
fn encode(at: Position, style: &Style, from: usize, p: &[i32]) -> (usize, Bytes) {
    let mut bytes = BytesMut::with_capacity(HEADER_BYTES + style.c.len() + NUMBER_BYTES * p.len());
    let mut before = 0;
    if from == 0 {
        bytes.put_u8(VERSION);
        bytes.put_u64(at.0);
        bytes.put_u64(at.1);
        bytes.put_slice(&[style.w, style.k, style.c.len() as u8]);
        bytes.put_slice(style.c.as_bytes());
    } else {
        before = HEADER_BYTES + style.c.len() + NUMBER_BYTES * from;
    }
    for number in p {
        bytes.put_i32(*number);
    }
    (before, bytes.freeze())
}

/// The answer of `PUT`.
pub(super) fn outcome(answer: Vec<Bytes>) -> Outcome {
    let mut answer = answer.iter().filter_map(|part| std::str::from_utf8(part).ok());
    match answer.next() {
        Some("kept") => {
            let name = |field: &str| {
                let (author, stroke) = field.split_once('/')?;
                Some((author.to_owned(), stroke.to_owned()))
            };
            Outcome::Kept { short: answer.filter_map(name).collect() }
        }
        Some("lost") => Outcome::Lost,
        Some("other") => Outcome::Other(answer.next().unwrap_or_default().to_owned()),
        _ => Outcome::Refused,
    }
}

/// The answer of `LOAD`: names and values in turns.
pub(super) fn snapshot(answer: Vec<Bytes>) -> Snapshot {
    let mut stored = Snapshot::default();
    let mut strokes = Vec::new();
    let mut answer = answer.into_iter();
    while let (Some(field), Some(value)) = (answer.next(), answer.next()) {
        if field == EPOCH {
            stored.epoch = String::from_utf8_lossy(&value).into_owned();
        } else if let Some(stroke) = decode(&field, value) {
            strokes.push(stroke);
        } else {
            tracing::warn!("a stored stroke cannot be read");
        }
    }
    strokes.sort_by(|(a, one), (b, other)| (a, &one.a, &one.s).cmp(&(b, &other.a, &other.s)));
    (stored.at, stored.strokes) = strokes.into_iter().unzip();
    stored
}

fn decode(field: &[u8], mut value: Bytes) -> Option<(Position, Stroke)> {
    let (author, name) = std::str::from_utf8(field).ok()?.split_once('/')?;
    if value.len() < HEADER_BYTES || value.get_u8() != VERSION {
        return None;
    }
    let at = (value.get_u64(), value.get_u64());
    let (w, k, length) = (value.get_u8(), value.get_u8(), usize::from(value.get_u8()));
    if value.len() < length {
        return None;
    }
    let c = String::from_utf8(value.split_to(length).to_vec()).ok()?;
    let is_whole = value.len().is_multiple_of(NUMBER_BYTES);
    let p: Vec<_> = value.chunks_exact(NUMBER_BYTES).map(|mut number| number.get_i32()).collect();
    let stroke = Stroke::new(author, name, Style { c, w, k }, p);
    (is_whole && stroke.is_fit()).then_some((at, stroke))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn style() -> Style {
        Style { c: "#12ab".into(), w: 6, k: 2 }
    }

    #[test]
    fn a_stroke_is_read_as_it_was_written_in_whatever_pieces() {
        let p = [0, -1, 1_000_000, -1_000_000, 7, 8];
        let whole = Stroke::new("anna", "k3.1", style(), p.to_vec());
        for cut in 1..=p.len() {
            let (none, first) = encode((17, 4), &style(), 0, &p[..cut]);
            let (before, second) = encode((17, 4), &style(), cut, &p[cut..]);
            assert_eq!((none, before), (0, first.len()), "they fit together");
            let value = Bytes::from([first, second].concat());
            let field = Bytes::from_static(b"anna/k3.1");
            let epoch = (Bytes::from_static(EPOCH), Bytes::from_static(b"e"));
            let read = snapshot(vec![field, value, epoch.0, epoch.1]);
            assert_eq!((read.epoch.as_str(), &read.at[..]), ("e", &[(17, 4)][..]));
            assert_eq!(read.strokes, std::slice::from_ref(&whole));
        }
    }

    #[test]
    fn strokes_come_in_the_order_of_the_log() {
        let pair = |name: &'static str, at: Position| {
            let value = encode(at, &style(), 0, &[1, 2]).1;
            [Bytes::from_static(name.as_bytes()), value]
        };
        let answer = [pair("a/3", (5, 9)), pair("a/1", (6, 0)), pair("b/2", (5, 10))].concat();
        let names: Vec<_> = snapshot(answer).strokes.into_iter().map(|stroke| stroke.s).collect();
        assert_eq!(names, ["3", "2", "1"]);
    }

    #[test]
    fn what_is_no_stroke_is_left_out() {
        let good = encode((1, 2), &style(), 0, &[1, 2]).1;
        let with = |at: usize, byte: u8| {
            let mut bytes = good.to_vec();
            bytes[at] = byte;
            Bytes::from(bytes)
        };
        let values = [
            Bytes::new(),
            good.slice(..19),
            good.slice(..22),
            good.slice(..good.len() - 1),
            good.slice(..good.len() - 8),
            with(0, 2),
            with(17, 0),
            with(18, 9),
            with(19, 255),
            with(20, b'('),
        ];
        for value in values {
            let pair = vec![Bytes::from_static(b"a/1"), value.clone()];
            assert_eq!(snapshot(pair).strokes, [], "{value:?}");
        }
        let pair = vec![Bytes::from_static(b"no name"), good];
        assert_eq!(snapshot(pair).strokes, []);
    }
}
