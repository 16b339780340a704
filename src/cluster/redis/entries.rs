//! Entries of a stream as Redis gives them, and how many to ask for.

use bytes::Bytes;
use fred::error::{Error, ErrorKind};
use fred::types::Value;

use super::past::RawFields;
use crate::cluster::wire::StreamId;

/// Bytes that one read is to bring, and the entries that it may (Node's adapter: 100).
const READ_BYTES: usize = 4 << 20;
const READ_COUNTS: std::ops::RangeInclusive<usize> = 16..=4096;

pub(super) type RawEntry = (StreamId, RawFields);

/// How many entries to ask for. Redis bounds a read by their number only, and they may be large.
pub(super) struct ReadCount(pub(super) usize);

impl Default for ReadCount {
    /// Not many, since nothing is known yet of how large they are.
    fn default() -> Self {
        Self(64)
    }
}

impl ReadCount {
    /// The next entries will be like these.
    pub(super) fn learn(&mut self, entries: &[RawEntry]) {
        let all: usize = entries.iter().map(|(_, fields)| fields.bytes()).sum();
        if let Some(each) = all.checked_div(entries.len()) {
            let fitting = READ_BYTES / each.max(1);
            self.0 = fitting.min(2 * self.0).clamp(*READ_COUNTS.start(), *READ_COUNTS.end());
        }
    }
}

/// `[[name, [[id, [field, value, ...]], ...]]]`, or a map of the same, or nil.
pub(super) fn parse_read(reply: Value) -> Result<Vec<RawEntry>, Error> {
    let entries = match reply {
        Value::Null => return Ok(Vec::new()),
        Value::Array(mut streams) => match streams.pop() {
            None => return Ok(Vec::new()),
            Some(Value::Array(mut stream)) => stream.pop().unwrap_or(Value::Null),
            Some(other) => other,
        },
        Value::Map(map) => map.inner().into_values().next().unwrap_or(Value::Null),
        _ => return Err(malformed()),
    };
    let Value::Array(entries) = entries else { return Err(malformed()) };
    entries.into_iter().map(parse_entry).collect()
}

/// Whatever a peer has written as fields: what is no text is not ours, and no reason to stop.
pub(super) fn parse_entry(entry: Value) -> Result<RawEntry, Error> {
    let Value::Array(parts) = entry else { return Err(malformed()) };
    let mut parts = parts.into_iter();
    let id = parts.next().as_ref().and_then(entry_id);
    let id: StreamId = id.ok_or_else(malformed)?;
    let mut fields = Vec::new();
    let mut field = |name: Option<Bytes>, value: Value| fields.extend(name.zip(value.into_bytes()));
    match parts.next() {
        Some(Value::Array(list)) => {
            let mut list = list.into_iter();
            while let (Some(name), Some(value)) = (list.next(), list.next()) {
                field(name.into_bytes(), value);
            }
        }
        Some(Value::Map(map)) => {
            for (name, value) in map.inner() {
                field(Some(name.into_bytes()), value);
            }
        }
        _ => {} // deleted meanwhile
    }
    Ok((id, RawFields(fields)))
}

pub(super) fn entry_id(value: &Value) -> Option<StreamId> {
    value.as_str()?.parse().ok()
}

pub(super) fn malformed() -> Error {
    Error::new(ErrorKind::Protocol, "not the answer of XREAD")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(count: usize, bytes: usize) -> Vec<RawEntry> {
        let fields = RawFields(vec![("data".into(), Bytes::from(vec![0; bytes]))]);
        vec![(StreamId::default(), fields); count]
    }

    #[test]
    fn a_read_asks_for_many_small_entries_or_a_few_large_ones() {
        let mut count = ReadCount::default();
        for _ in 0..6 {
            count.learn(&entries(count.0, 100));
        }
        assert_eq!(count.0, *READ_COUNTS.end());
        count.learn(&entries(3, 100_000));
        assert_eq!(count.0, READ_BYTES / 100_000);
        count.learn(&entries(1, 10_000_000));
        assert_eq!(count.0, *READ_COUNTS.start());
        count.learn(&[]);
        assert_eq!(count.0, *READ_COUNTS.start());
        count.learn(&entries(16, 0));
        assert_eq!(count.0, 32, "not at once");
    }
}
