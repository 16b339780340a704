//! Redis' protocol (RESP2), as far as the connections for streams need it. Values without I/O.

use bytes::Bytes;
use fred::error::{Error, ErrorKind};
use fred::types::Value;

/// Lists in lists: `XREAD` answers with four.
const MAX_DEPTH: usize = 8;
/// Redis' own bound for a text (`proto-max-bulk-len`).
const MAX_TEXT: usize = 512 << 20;

/// Begins a command of so many words.
pub(super) fn begin(output: &mut Vec<u8>, words: usize) {
    header(output, b'*', words);
}

pub(super) fn word(output: &mut Vec<u8>, word: impl AsRef<[u8]>) {
    let word = word.as_ref();
    header(output, b'$', word.len());
    output.extend_from_slice(word);
    output.extend_from_slice(b"\r\n");
}

pub(super) fn command(output: &mut Vec<u8>, words: &[&str]) {
    begin(output, words.len());
    words.iter().for_each(|one| word(output, one));
}

fn header(output: &mut Vec<u8>, kind: u8, mut number: usize) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    output.push(kind);
    output.extend_from_slice(&digits[at..]);
    output.extend_from_slice(b"\r\n");
}

/// Looks for the end of a reply that comes in parts, and at no part twice.
#[derive(Debug, Default)]
pub(super) struct Scan {
    at: usize,
    /// Values that the lists which have begun still need.
    open: usize,
}

impl Scan {
    /// How long the first reply of `input` is, once it is whole.
    ///
    /// # Errors
    /// It is none: the connection is of no use any more.
    pub(super) fn end(&mut self, input: &[u8]) -> Result<Option<usize>, Error> {
        if self.at == 0 {
            self.open = 1;
        }
        while self.open > 0 {
            let Some((kind, rest, next)) = line(input, self.at)? else { return Ok(None) };
            let (mut end, mut more) = (next, 0);
            match kind {
                b'$' => {
                    end = text_end(rest, next)?;
                    if input.len() < end {
                        return Ok(None);
                    }
                }
                b'*' => more = length(rest)?.unwrap_or(0),
                _ => {}
            }
            self.at = end;
            self.open = (self.open - 1).checked_add(more).ok_or_else(malformed)?;
        }
        Ok(Some(std::mem::take(&mut self.at)))
    }
}

/// The value of a whole reply, sharing its memory.
///
/// # Errors
/// What Redis says is an error, wherever it stands in the reply.
pub(super) fn value(reply: &Bytes) -> Result<Value, Error> {
    read(reply, &mut 0, MAX_DEPTH)
}

fn read(reply: &Bytes, at: &mut usize, depth: usize) -> Result<Value, Error> {
    let (kind, rest, next) = line(reply, *at)?.ok_or_else(malformed)?;
    let start = std::mem::replace(at, next);
    match kind {
        b'+' => Ok(Value::Bytes(reply.slice(start + 1..next - 2))),
        b'-' => Err(refusal(rest)),
        b':' => Ok(Value::Integer(number(rest)?)),
        b'$' => {
            if length(rest)?.is_none() {
                return Ok(Value::Null);
            }
            *at = text_end(rest, next)?;
            (*at <= reply.len())
                .then(|| Value::Bytes(reply.slice(next..*at - 2)))
                .ok_or_else(malformed)
        }
        _ => {
            let Some(count) = length(rest)? else { return Ok(Value::Null) };
            let deeper = depth.checked_sub(1).ok_or_else(malformed)?;
            // (not as long as it says that it is, before it has been seen)
            let mut list = Vec::with_capacity(count.min(reply.len() - next));
            for _ in 0..count {
                list.push(read(reply, at, deeper)?);
            }
            Ok(Value::Array(list))
        }
    }
}

/// The first byte of a line, the others, and where the next line begins.
type Line<'a> = (u8, &'a [u8], usize);

/// The line that begins at `at`, if it has ended.
fn line(input: &[u8], at: usize) -> Result<Option<Line<'_>>, Error> {
    let Some((kind, rest)) = input.get(at..).and_then(<[u8]>::split_first) else { return Ok(None) };
    if !b"+-:$*".contains(kind) {
        return Err(malformed());
    }
    let Some(end) = rest.iter().position(|byte| *byte == b'\n') else { return Ok(None) };
    let text = rest[..end].strip_suffix(b"\r").ok_or_else(malformed)?;
    Ok(Some((*kind, text, at + 1 + end + 1)))
}

fn number(text: &[u8]) -> Result<i64, Error> {
    std::str::from_utf8(text).ok().and_then(|text| text.parse().ok()).ok_or_else(malformed)
}

/// `None` for what is not there (-1).
fn length(text: &[u8]) -> Result<Option<usize>, Error> {
    Ok(usize::try_from(number(text)?).ok())
}

/// Where a text ends, with its line end, whose length `rest` tells.
fn text_end(rest: &[u8], start: usize) -> Result<usize, Error> {
    match length(rest)? {
        None => Ok(start),
        Some(length) if length <= MAX_TEXT => Ok(start + length + 2),
        Some(_) => Err(malformed()),
    }
}

/// As `fred` tells them apart.
fn refusal(text: &[u8]) -> Error {
    let text = String::from_utf8_lossy(text).into_owned();
    let kind = match text.split_whitespace().next().unwrap_or_default() {
        "WRONGTYPE" => ErrorKind::InvalidArgument,
        "NOAUTH" | "WRONGPASS" => ErrorKind::Auth,
        "MOVED" | "ASK" | "CLUSTERDOWN" => ErrorKind::Cluster,
        _ => ErrorKind::Unknown,
    };
    Error::new(kind, text)
}

fn malformed() -> Error {
    Error::new(ErrorKind::Protocol, "Redis answers something else than RESP")
}

#[cfg(test)]
mod tests {
    use super::*;

    const READ: &[u8] =
        b"*1\r\n*2\r\n$1\r\ns\r\n*2\r\n*2\r\n$3\r\n5-0\r\n*2\r\n$1\r\nq\r\n$4\r\n1\r\n2\r\n\
        *2\r\n$3\r\n6-0\r\n*-1\r\n";

    fn text(text: &'static str) -> Value {
        Value::Bytes(Bytes::from_static(text.as_bytes()))
    }

    #[test]
    fn a_command_is_a_list_of_texts() {
        let mut output = Vec::new();
        command(&mut output, &["XADD", "", "0123456789\r\n"]);
        assert_eq!(output, b"*3\r\n$4\r\nXADD\r\n$0\r\n\r\n$12\r\n0123456789\r\n\r\n");
    }

    #[test]
    fn a_reply_is_found_however_it_is_cut_and_the_next_one_is_left() {
        for cut in 0..READ.len() {
            let mut scan = Scan::default();
            assert_eq!(scan.end(&READ[..cut]).unwrap(), None, "{cut}");
            let both = [READ, b"+OK\r\n"].concat();
            assert_eq!(scan.end(&both).unwrap(), Some(READ.len()), "{cut}");
            assert_eq!(scan.end(&both[READ.len()..]).unwrap(), Some(5));
        }
    }

    #[test]
    fn values_are_what_redis_says() {
        let entry = |id, fields| Value::Array(vec![text(id), fields]);
        let fields = Value::Array(vec![text("q"), text("1\r\n2")]);
        let entries = Value::Array(vec![entry("5-0", fields), entry("6-0", Value::Null)]);
        let expected = Value::Array(vec![Value::Array(vec![text("s"), entries])]);
        assert_eq!(value(&Bytes::from_static(READ)).unwrap(), expected);
        let of = |reply: &'static str| value(&Bytes::from_static(reply.as_bytes()));
        assert_eq!(of("+QUEUED\r\n").unwrap(), text("QUEUED"));
        assert_eq!(of(":-12\r\n").unwrap(), Value::Integer(-12));
        assert_eq!(of("$-1\r\n").unwrap(), Value::Null);
        assert_eq!(of("*0\r\n").unwrap(), Value::Array(Vec::new()));
    }

    #[test]
    fn an_error_is_one_also_within_a_list() {
        let of = |reply: &'static str| value(&Bytes::from_static(reply.as_bytes())).unwrap_err();
        assert_eq!(of("-OOM no\r\n").details(), "OOM no");
        assert_eq!(of("*2\r\n:1\r\n-ERR no\r\n").details(), "ERR no");
        assert_eq!(*of("-WRONGPASS x\r\n").kind(), ErrorKind::Auth);
        assert_eq!(*of("-MOVED 1 a:1\r\n").kind(), ErrorKind::Cluster);
    }

    #[test]
    fn what_is_no_reply_ends_the_connection_and_nothing_else() {
        let all =
            ["HTTP/1.1 400\r\n", "$x\r\n", "*9x\r\n", "$999999999999\r\n", "+no\n", "*1\r\n?\r\n"];
        for wrong in all {
            let error = Scan::default().end(wrong.as_bytes()).unwrap_err();
            assert_eq!(*error.kind(), ErrorKind::Protocol, "{wrong}");
        }
        let deep = Bytes::from("*1\r\n".repeat(100) + ":1\r\n");
        assert_eq!(Scan::default().end(&deep).unwrap(), Some(deep.len()));
        assert!(value(&deep).is_err());
        // more than fits is only waited for, and takes no memory
        assert_eq!(Scan::default().end(b"*9000000000\r\n:1\r\n").unwrap(), None);
        for cut in 0..READ.len() {
            assert!(value(&Bytes::from_static(&READ[..cut])).is_err(), "{cut}");
        }
    }
}
