//! What a client shows at the door: the same on every transport (guarantee G1).

use std::any::Any;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use http::HeaderMap;
use serde::Serialize;

use super::Sid;
use super::packet::Str;

/// The six errors of the Engine.IO handshake (engine.io `Server.errors`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HandshakeError {
    /// 0: no such transport, or it is not offered here.
    TransportUnknown,
    /// 1: no such session.
    SessionUnknown,
    /// 2: a session is opened with GET.
    BadHandshakeMethod,
    /// 3: the request contradicts itself or the session.
    BadRequest,
    /// 4: the Origin policy or the admission hook says no.
    Forbidden,
    /// 5: not `EIO=4`.
    UnsupportedProtocolVersion,
    /// 6: the process takes no new sessions, for it is about to end, or full. (Node has no such code: it stops to
    /// listen. A balancer that retries on 503 finds another node.)
    Unavailable,
    /// 7: this address has too many sessions, or opens them too fast. (Node has no such code.)
    TooManyRequests,
}

impl HandshakeError {
    /// All of them, by code.
    pub const ALL: [Self; 8] = [
        Self::TransportUnknown,
        Self::SessionUnknown,
        Self::BadHandshakeMethod,
        Self::BadRequest,
        Self::Forbidden,
        Self::UnsupportedProtocolVersion,
        Self::Unavailable,
        Self::TooManyRequests,
    ];

    /// The code on the wire.
    pub fn code(self) -> u8 {
        self as u8
    }

    /// Node's text for it.
    pub fn message(self) -> &'static str {
        match self {
            Self::TransportUnknown => "Transport unknown",
            Self::SessionUnknown => "Session ID unknown",
            Self::BadHandshakeMethod => "Bad handshake method",
            Self::BadRequest => "Bad request",
            Self::Forbidden => "Forbidden",
            Self::UnsupportedProtocolVersion => "Unsupported protocol version",
            Self::Unavailable => "Server unavailable",
            Self::TooManyRequests => "Too many requests",
        }
    }
}

/// Why a client is turned away, with the text that it gets to see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Which of the errors.
    pub error: HandshakeError,
    /// Replaces the error's own text (as the string of Node's `allowRequest` does).
    pub message: Option<String>,
    /// When the client may come back. It is told so in whole seconds, rounded up (`Retry-After`).
    pub retry_after: Option<Duration>,
}

impl Refusal {
    /// A [`HandshakeError::Forbidden`] with a text of the application's.
    pub fn forbidden(message: impl Into<String>) -> Self {
        Self { message: Some(message.into()), ..HandshakeError::Forbidden.into() }
    }

    /// The text for the client.
    pub fn message(&self) -> &str {
        self.message.as_deref().unwrap_or_else(|| self.error.message())
    }
}

impl From<HandshakeError> for Refusal {
    fn from(error: HandshakeError) -> Self {
        Self { error, message: None, retry_after: None }
    }
}

/// The request that opened a session, whatever the transport: an HTTP request, a WebSocket upgrade or
/// a WebTransport CONNECT.
///
/// Printed with the names of its query parameters and header fields only, since their values may be tokens, or say
/// who somebody is; of a few fields that say neither with the values, too.
#[derive(Clone)]
pub struct Handshake {
    /// The name of the transport that opened the session: `polling`, `websocket` or `webtransport`.
    pub transport: &'static str,
    /// Path and query as requested, `/socket.io/?EIO=4&transport=polling`.
    pub url: String,
    /// Query parameters in order, decoded.
    pub query: Vec<(String, String)>,
    /// Header fields. WebTransport's `:authority` is shown as `host`.
    pub headers: HeaderMap,
    /// Address of the peer: the proxy's, if there is one in between.
    pub peer: SocketAddr,
    /// Address of the client: the peer's, or if that is a trusted proxy
    /// ([`LimitsConfig::trusted_proxies`](crate::config::LimitsConfig::trusted_proxies)) the one that it
    /// names in `X-Forwarded-For`. Over WebTransport, which no proxy forwards, always the peer's. Limits count by it.
    pub address: IpAddr,
    /// Did the request come over TLS or QUIC to this process?
    pub secure: bool,
    /// When it came.
    pub issued: SystemTime,
    /// What the admission keeps of a token.
    pub(crate) shown: OnceLock<Arc<dyn Any + Send + Sync>>,
}

impl Handshake {
    /// The first query parameter of that name.
    pub fn query(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The header field of that name, if it is text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The `Origin` of the page; `None` for clients that are no browsers. One that is no text is shown as
    /// U+FFFD, which no policy knows.
    pub fn origin(&self) -> Option<&str> {
        origin_of(&self.headers)
    }

    /// Path without the query.
    pub fn path(&self) -> &str {
        self.url.split('?').next().unwrap_or_default()
    }
}

impl fmt::Debug for Handshake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // without a rest: a field that is added is to be thought about here
        let Self { transport, url: _, query, headers, peer, address, secure, issued, shown: _ } =
            self;
        let names: Vec<_> = query.iter().map(|(name, _)| name).collect();
        f.debug_struct("Handshake")
            .field("transport", transport)
            .field("path", &self.path())
            .field("query", &names)
            .field("headers", &Printed(headers))
            .field("peer", peer)
            .field("address", address)
            .field("secure", secure)
            .field("issued", issued)
            .finish()
    }
}

/// Fields whose values are printed: whom the client meant, which page sent it, what program it is.
const HARMLESS: [http::HeaderName; 3] =
    [http::header::HOST, http::header::ORIGIN, http::header::USER_AGENT];

/// Names of header fields; the values of [`HARMLESS`] ones.
struct Printed<'a>(&'a HeaderMap);

impl fmt::Debug for Printed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |name| if HARMLESS.contains(name) { self.0.get(name) } else { None };
        f.debug_map().entries(self.0.keys().map(|name| (name, shown(name)))).finish()
    }
}

/// The `Origin` field, with a text that is none replaced by one that no policy allows.
pub(crate) fn origin_of(headers: &HeaderMap) -> Option<&str> {
    headers.get(http::header::ORIGIN).map(|value| value.to_str().unwrap_or("\u{fffd}"))
}

/// Are the values of this field the client's secrets? Whoever prints a [`Handshake`] does not see them.
pub(crate) fn is_secret(name: &http::HeaderName) -> bool {
    [http::header::AUTHORIZATION, http::header::PROXY_AUTHORIZATION, http::header::COOKIE]
        .contains(name)
}

/// Parameters of a query, empty ones among them. Each is two strings that are kept as long as the session, 24 times
/// what its client has paid for with `a&`; official clients send five, beside the application's own.
const MAX_PARAMETERS: usize = 64;

/// Parses a query string (`a=b&c=d`).
///
/// # Errors
/// There are too many parameters; nothing was decoded.
pub(crate) fn parse_query(query: &str) -> Result<Vec<(String, String)>, HandshakeError> {
    if query.bytes().filter(|byte| *byte == b'&').count() >= MAX_PARAMETERS {
        return Err(HandshakeError::BadRequest);
    }
    // The queries of official clients have nothing to be decoded, and each poll has one.
    let mut query: Vec<_> = match query.bytes().any(|byte| matches!(byte, b'%' | b'+')) {
        true => form_urlencoded::parse(query.as_bytes()).into_owned().collect(),
        false => plain(query).collect(),
    };
    query.shrink_to_fit();
    Ok(query)
}

fn plain(query: &str) -> impl Iterator<Item = (String, String)> {
    let parts = query.split('&').filter(|part| !part.is_empty());
    parts.map(|part| {
        let (name, value) = part.split_once('=').unwrap_or((part, ""));
        (name.to_owned(), value.to_owned())
    })
}

/// The OPEN packet's JSON, keys in Node's order (engine.io socket.ts `onOpen`).
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct OpenPacket<'a> {
    pub(crate) sid: &'a str,
    pub(crate) upgrades: &'a [&'static str],
    pub(crate) ping_interval: u64,
    pub(crate) ping_timeout: u64,
    pub(crate) max_payload: usize,
}

impl OpenPacket<'_> {
    pub(crate) fn to_json(&self) -> Str {
        serde_json::to_string(self).expect("strings and numbers always serialize").into()
    }
}

/// The first packet on a WebTransport stream.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum FirstPacket {
    /// `0`: open a session.
    Open,
    /// `0{"sid":"..."}`: move an existing session here.
    Attach(Sid),
    /// Anything else; the session is closed without a word, as Node does.
    Illegal,
}

impl FirstPacket {
    /// Reads the data of an OPEN packet (the text behind `0`).
    pub(crate) fn read(data: &str) -> Self {
        #[derive(serde::Deserialize)]
        struct Body {
            sid: String,
        }
        if data.is_empty() {
            return Self::Open;
        }
        // a sid that cannot be one is an unknown one: same end, no second path
        serde_json::from_str::<Body>(data)
            .ok()
            .and_then(|body| Sid::parse(&body.sid))
            .map_or(Self::Illegal, Self::Attach)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn codes_and_texts_are_nodes() {
        let table: Vec<_> = HandshakeError::ALL.map(|e| (e.code(), e.message())).to_vec();
        assert_eq!(
            table,
            [
                (0, "Transport unknown"),
                (1, "Session ID unknown"),
                (2, "Bad handshake method"),
                (3, "Bad request"),
                (4, "Forbidden"),
                (5, "Unsupported protocol version"),
                (6, "Server unavailable"), // ours
                (7, "Too many requests"),  // ours
            ]
        );
    }

    #[test]
    fn the_open_packet_has_nodes_key_order() {
        let open = OpenPacket {
            sid: "abc",
            upgrades: &["websocket"],
            ping_interval: 25_000,
            ping_timeout: 20_000,
            max_payload: 1_000_000,
        };
        assert_eq!(
            open.to_json().as_str(),
            r#"{"sid":"abc","upgrades":["websocket"],"pingInterval":25000,"pingTimeout":20000,"maxPayload":1000000}"#
        );
    }

    #[test]
    fn first_packets_of_webtransport() {
        let sid = "AAAAAAAAAAAAAAAAAAAA";
        assert_eq!(FirstPacket::read(""), FirstPacket::Open);
        let attach = format!(r#"{{"sid":"{sid}"}}"#);
        assert_eq!(FirstPacket::read(&attach), FirstPacket::Attach(Sid::parse(sid).unwrap()));
        for bad in ["{}", "null", "x", r#"{"sid":1}"#, r#"{"sid":"__proto__"}"#, "[", "{\"sid\""] {
            assert_eq!(FirstPacket::read(bad), FirstPacket::Illegal, "{bad}");
        }
    }

    #[test]
    fn queries_are_decoded_and_the_first_of_a_name_wins() {
        let query = parse_query("EIO=4&t=a%20b&transport=polling&t=2").unwrap();
        let handshake = Handshake {
            transport: "polling",
            url: "/socket.io/?EIO=4".into(),
            query,
            headers: HeaderMap::new(),
            peer: ([127, 0, 0, 1], 1).into(),
            address: [127, 0, 0, 1].into(),
            secure: false,
            issued: SystemTime::UNIX_EPOCH,
            shown: OnceLock::new(),
        };
        assert_eq!(handshake.query("t"), Some("a b"));
        assert_eq!(handshake.query("j"), None);
        assert_eq!(handshake.path(), "/socket.io/");
    }

    proptest! {
        #[test]
        fn queries_without_anything_to_decode_are_read_as_the_others(query in "[aé=&;/%+]{0,20}") {
            let decoded: Vec<_> = form_urlencoded::parse(query.as_bytes()).into_owned().collect();
            prop_assert_eq!(parse_query(&query).unwrap(), decoded);
            let query = query.replace(['%', '+'], "");
            let decoded: Vec<_> = form_urlencoded::parse(query.as_bytes()).into_owned().collect();
            prop_assert_eq!(parse_query(&query).unwrap(), decoded);
        }
    }

    #[test]
    fn a_sid_is_made_of_its_alphabet() {
        for byte in 0..128 {
            let text = String::from_utf8(vec![byte; Sid::LEN]).unwrap();
            assert_eq!(Sid::parse(&text).is_some(), Sid::ALPHABET.contains(&byte), "{text:?}");
        }
    }

    #[test]
    fn a_handshake_is_printed_without_what_may_be_the_clients_secret() {
        let query = "EIO=4&token=hunter2";
        let fields = [
            ("host", "example.org"),
            ("origin", "https://board.example.org"),
            ("user-agent", "engine/1"),
            ("referer", "https://board.example.org/?token=hunter2"),
            ("x-forwarded-for", "hunter2"),
            ("x-session", "hunter2"),
            ("authorization", "Bearer hunter2"),
            ("cookie", "io=hunter2"),
            ("accept-language", "hunter2"),
        ];
        let fields = fields.map(|(name, value)| {
            (http::HeaderName::from_static(name), http::HeaderValue::from_static(value))
        });
        let handshake = Handshake {
            transport: "polling",
            url: format!("/socket.io/?{query}"),
            query: parse_query(query).unwrap(),
            headers: fields.into_iter().collect(),
            peer: ([127, 0, 0, 1], 1).into(),
            address: [127, 0, 0, 1].into(),
            secure: false,
            issued: SystemTime::UNIX_EPOCH,
            shown: OnceLock::new(),
        };
        let printed = format!("{handshake:?}");
        assert!(!printed.contains("hunter2"), "{printed}");
        for part in [
            r#"path: "/socket.io/", query: ["EIO", "token"]"#,
            r#""host": Some("example.org")"#,
            r#""origin": Some("https://board.example.org")"#,
            r#""user-agent": Some("engine/1")"#,
            r#""referer": None"#,
            r#""x-session": None"#,
        ] {
            assert!(printed.contains(part), "{part} in {printed}");
        }
    }
}
