//! The server's half of the WebSocket handshake (RFC 6455 4.2), as a function of the request.

use base64::Engine as _;
use http::header::{
    CONNECTION, HeaderName, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_EXTENSIONS, SEC_WEBSOCKET_KEY,
    SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::{HeaderMap, HeaderValue, Method};
use sha1::{Digest, Sha1};

/// RFC 6455 1.3: the string that makes an answer to a WebSocket key.
const KEY_SUFFIX: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// Characters of a key before its padding: 16 bytes in base64.
const KEY_DIGITS: usize = 22;

/// Offers of extensions that are looked at; a client sends one or two.
const MAX_OFFERS: usize = 16;

/// The answer that accepts permessage-deflate (RFC 7692 7.1.1).
///
/// Neither side keeps a window between messages, so that an idle connection holds no zlib state.
/// *"A server may include the client_no_context_takeover extension parameter in an extension
/// negotiation response"* whether or not the client offered it.
const DEFLATE_ANSWER: &str =
    "permessage-deflate; server_no_context_takeover; client_no_context_takeover";

/// How this server uses permessage-deflate, where the client offers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Deflate {
    /// Messages with fewer bytes than this are sent as they are.
    pub(crate) threshold: usize,
}

/// An accepted handshake.
#[derive(Clone, Debug)]
pub(crate) struct Handshake {
    accept: HeaderValue,
    /// Set when permessage-deflate was negotiated: goes to `WebSocket::new`.
    pub(crate) deflate: Option<Deflate>,
}

impl Handshake {
    /// Every header of the 101 answer that belongs to the WebSocket.
    pub(crate) fn headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::with_capacity(4);
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(SEC_WEBSOCKET_ACCEPT, self.accept.clone());
        if self.deflate.is_some() {
            let answer = HeaderValue::from_static(DEFLATE_ANSWER);
            headers.insert(SEC_WEBSOCKET_EXTENSIONS, answer);
        }
        headers
    }
}

/// What is wrong with a request for a WebSocket; it is answered with 400.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum HandshakeError {
    /// RFC 6455 4.2.1: the request is a GET.
    #[error("a WebSocket request is a GET")]
    Method,
    /// `Upgrade` does not ask for `websocket`.
    #[error("missing or invalid header `Upgrade`")]
    Upgrade,
    /// `Connection` has no `upgrade` token.
    #[error("missing or invalid header `Connection`")]
    Connection,
    /// `Sec-WebSocket-Version` is not 13.
    #[error("missing or invalid header `Sec-WebSocket-Version`")]
    Version,
    /// `Sec-WebSocket-Key` is not one value of 16 bytes in base64.
    #[error("missing or invalid header `Sec-WebSocket-Key`")]
    Key,
}

/// Reads a request for a WebSocket and says how to answer it.
///
/// `deflate` is this server's wish to compress; it comes back in the [`Handshake`] when the client
/// offered permessage-deflate in a way that we can accept.
///
/// # Errors
/// [`HandshakeError`] names the part of the request that RFC 6455 4.2.1 does not allow.
pub(crate) fn negotiate(
    method: &Method,
    headers: &HeaderMap,
    deflate: Option<Deflate>,
) -> Result<Handshake, HandshakeError> {
    if method != Method::GET {
        return Err(HandshakeError::Method);
    }
    if !has_token(headers, &UPGRADE, "websocket") {
        return Err(HandshakeError::Upgrade);
    }
    if !has_token(headers, &CONNECTION, "upgrade") {
        return Err(HandshakeError::Connection);
    }
    if single(headers, &SEC_WEBSOCKET_VERSION) != Some(b"13") {
        return Err(HandshakeError::Version);
    }
    let key =
        single(headers, &SEC_WEBSOCKET_KEY).filter(|key| is_key(key)).ok_or(HandshakeError::Key)?;
    Ok(Handshake { accept: accept(key), deflate: deflate.filter(|_| offers_deflate(headers)) })
}

/// RFC 6455 4.2.2: SHA-1 of the key and a fixed string, in base64.
fn accept(key: &[u8]) -> HeaderValue {
    let digest = Sha1::new().chain_update(key).chain_update(KEY_SUFFIX).finalize();
    let text = base64::engine::general_purpose::STANDARD.encode(digest);
    HeaderValue::try_from(text).expect("base64 is made of visible characters")
}

/// Does one of the comma-separated values of this header equal the token, in any case?
fn has_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    headers
        .get_all(name)
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .any(|value| value.trim_ascii().eq_ignore_ascii_case(token.as_bytes()))
}

/// The value of a header that may stand only once (RFC 6455 11.3).
fn single<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a [u8]> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?;
    values.next().is_none().then(|| value.as_bytes().trim_ascii())
}

/// The last character before the padding may have bits set that decode to nothing: `ws` takes such
/// keys.
fn is_key(key: &[u8]) -> bool {
    let digits = key.strip_suffix(b"==").unwrap_or_default();
    let is_digit = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/');
    digits.len() == KEY_DIGITS && digits.iter().all(is_digit)
}

/// Is there an offer of permessage-deflate that [`DEFLATE_ANSWER`] accepts?
fn offers_deflate(headers: &HeaderMap) -> bool {
    headers
        .get_all(SEC_WEBSOCKET_EXTENSIONS)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .take(MAX_OFFERS)
        .any(is_acceptable)
}

/// RFC 7692 7.1: *"A server MUST decline an extension negotiation offer for this extension if"* it
/// has unknown parameters, invalid values, the same parameter twice, or asks for what we do not
/// support.
fn is_acceptable(offer: &str) -> bool {
    let mut parts = offer.split(';').map(str::trim);
    if parts.next() != Some("permessage-deflate") {
        return false;
    }
    let mut seen = [false; 4];
    parts.all(|part| {
        let (name, value) = match part.split_once('=') {
            Some((name, value)) => (name.trim_end(), Some(unquoted(value.trim_start()))),
            None => (part, None),
        };
        let (index, is_valid) = match name {
            "server_no_context_takeover" => (0, value.is_none()),
            "client_no_context_takeover" => (1, value.is_none()),
            // A smaller window of the server needs a zlib that not every build has: only the full
            // one, which is what no parameter means.
            "server_max_window_bits" => (2, value == Some("15")),
            // The client may use any window: we inflate with the full one and need not answer.
            "client_max_window_bits" => (3, value.is_none_or(is_window_bits)),
            _ => return false,
        };
        is_valid && !std::mem::replace(&mut seen[index], true)
    })
}

fn unquoted(value: &str) -> &str {
    value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap_or(value)
}

/// RFC 7692 7.1.2.2: *"a decimal integer value without leading zeroes between 8 to 15 inclusive"*.
fn is_window_bits(value: &str) -> bool {
    matches!(value, "8" | "9" | "10" | "11" | "12" | "13" | "14" | "15")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const THRESHOLD: Deflate = Deflate { threshold: 1024 };

    /// The request of RFC 6455 1.3, with changes: `""` takes a header out.
    fn request(changes: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("upgrade", "websocket"),
            ("connection", "Upgrade"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        for (name, value) in changes {
            headers.remove(*name);
            if !value.is_empty() {
                headers.insert(*name, HeaderValue::from_static(value));
            }
        }
        headers
    }

    fn refusal(changes: &[(&'static str, &'static str)]) -> Option<HandshakeError> {
        negotiate(&Method::GET, &request(changes), None).err()
    }

    #[test]
    fn the_example_of_the_rfc_is_accepted() {
        let handshake = negotiate(&Method::GET, &request(&[]), Some(THRESHOLD)).unwrap();
        assert_eq!(handshake.deflate, None);
        let headers = handshake.headers();
        assert_eq!(headers["sec-websocket-accept"], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert_eq!(headers["upgrade"], "websocket");
        assert_eq!(headers["connection"], "Upgrade");
        assert_eq!(headers.len(), 3);
    }

    #[test]
    fn tokens_may_be_in_lists_and_in_any_case() {
        for changes in [
            [("connection", "keep-alive, Upgrade"), ("upgrade", "WebSocket")],
            [("connection", "UPGRADE,x"), ("upgrade", "h2c, websocket")],
        ] {
            assert_eq!(refusal(&changes), None, "{changes:?}");
        }
        let mut two_lines = request(&[("connection", "keep-alive")]);
        two_lines.append(CONNECTION, HeaderValue::from_static("upgrade"));
        assert!(negotiate(&Method::GET, &two_lines, None).is_ok());
    }

    #[test]
    fn every_wrong_part_of_a_request_is_named() {
        let post = negotiate(&Method::POST, &request(&[]), None);
        assert_eq!(post.err(), Some(HandshakeError::Method));
        for (name, values, error) in [
            ("upgrade", ["", "h2c", "websocket2"], HandshakeError::Upgrade),
            ("connection", ["", "close", "upgraded"], HandshakeError::Connection),
            ("sec-websocket-version", ["", "8", "13, 8"], HandshakeError::Version),
            (
                "sec-websocket-key",
                ["", "dGhlIHNhbXBsZSBub25jZQ", "dGhlIHNhbXBsZSBub25jZQ=A"],
                HandshakeError::Key,
            ),
            (
                "sec-websocket-key",
                [
                    "dGhlIHNhbXBsZSBub25jZ===",
                    "dGhlIHNhbXBsZSBub25jZQAA==",
                    "dGhlIHNhbXBsZSBub2-jZQ==",
                ],
                HandshakeError::Key,
            ),
        ] {
            for value in values {
                assert_eq!(refusal(&[(name, value)]), Some(error), "{name}: {value}");
            }
        }
        let mut two_keys = request(&[]);
        two_keys.append(SEC_WEBSOCKET_KEY, two_keys[SEC_WEBSOCKET_KEY].clone());
        assert_eq!(negotiate(&Method::GET, &two_keys, None).err(), Some(HandshakeError::Key));
    }

    #[test]
    fn deflate_is_accepted_as_browsers_and_ws_offer_it_and_only_if_wanted() {
        for (offer, accepted) in [
            ("permessage-deflate", true),
            ("permessage-deflate; client_max_window_bits", true),
            ("x-webkit-deflate-frame, permessage-deflate;client_max_window_bits=15", true),
            ("permessage-deflate; server_max_window_bits=10, permessage-deflate", true),
            (
                "permessage-deflate; server_no_context_takeover; client_no_context_takeover; \
                 server_max_window_bits=15; client_max_window_bits=\"8\"",
                true,
            ),
            ("permessage-deflate; server_max_window_bits=10", false),
            ("permessage-deflate; server_max_window_bits", false),
            ("permessage-deflate; client_max_window_bits=7", false),
            ("permessage-deflate; client_max_window_bits=08", false),
            ("permessage-deflate; client_max_window_bits; client_max_window_bits", false),
            ("permessage-deflate; server_no_context_takeover=1", false),
            ("permessage-deflate; unknown", false),
            ("permessage-deflate;", false),
            ("permessage-deflater", false),
        ] {
            let request = request(&[("sec-websocket-extensions", offer)]);
            let wanted = negotiate(&Method::GET, &request, Some(THRESHOLD)).unwrap();
            assert_eq!(wanted.deflate, accepted.then_some(THRESHOLD), "{offer}");
            let answer = wanted.headers().remove(SEC_WEBSOCKET_EXTENSIONS);
            assert_eq!(answer.is_some_and(|answer| answer == DEFLATE_ANSWER), accepted);
            let unwanted = negotiate(&Method::GET, &request, None).unwrap();
            assert_eq!(unwanted.deflate, None);
        }
    }

    proptest! {
        #[test]
        fn no_header_value_makes_it_panic(
            key in proptest::collection::vec(any::<u8>(), 0..40),
            offer in "(permessage-deflate|[a-z]{0,3})([;,= \"]|[a-z0-9_]{0,9}){0,12}",
        ) {
            let mut headers = request(&[]);
            if let Ok(key) = HeaderValue::from_bytes(&key) {
                headers.insert(SEC_WEBSOCKET_KEY, key);
            }
            headers.insert(SEC_WEBSOCKET_EXTENSIONS, HeaderValue::from_str(&offer).unwrap());
            let _ = negotiate(&Method::GET, &headers, Some(THRESHOLD));
        }
    }
}
