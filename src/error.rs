//! Everything that can go wrong, sorted by whose fault it is.
//!
//! | type | who | what happens |
//! |---|---|---|
//! | [`PeerMisbehaved`] | the client broke a rule of the protocol | its session ends, a metric counts the rule |
//! | [`LinkError`] | the network, or the peer below the protocol | its link ends; the session may live on another |
//! | [`EmitError`], [`AckError`], [`DataError`] | not now, or the caller asked for nonsense | the caller is told |
//! | [`ConfigError`], [`ServeError`] | the operator | the process does not start, and says every mistake at once |
//!
//! Every end of a session has one [`CloseReason`], the only list of them.

use std::fmt;
use std::io;

/// Why an Engine.IO session, or one Socket.IO socket on it, ended.
///
/// [`CloseReason::as_str`] is the string that a Node server hands to `disconnect` listeners
/// (socket.io `DisconnectReason`); applications that were ported from Node compare those.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CloseReason {
    /// The peer closed the transport, or it ended below us.
    TransportClose,
    /// The transport failed, or the peer broke the rules of Engine.IO.
    TransportError,
    /// No pong came within `ping_interval + ping_timeout`.
    PingTimeout,
    /// A packet could not be decoded by Engine.IO.
    ParseError,
    /// This side closed the Engine.IO session (bare engine applications).
    ForcedClose,
    /// This side closed the connection: `disconnect(true)`, the connect timeout, or bad Socket.IO input.
    ForcedServerClose,
    /// The process is going away.
    ServerShuttingDown,
    /// The client left the namespace with a DISCONNECT packet.
    ClientNamespaceDisconnect,
    /// The application disconnected the socket from its namespace.
    ServerNamespaceDisconnect,
    /// The peer did not read what was sent to it, and its outbox ran full.
    ///
    /// Node has no such limit; listeners see Node's "transport error".
    SlowConsumer,
    /// The application's handlers made no room for the client's events for a whole heartbeat, so that we
    /// could not even see whether the client is still there. Listeners see "transport error".
    HandlersStuck,
    /// The client has come back on another connection, and its session goes on there. Listeners see
    /// "transport close".
    Superseded,
    /// This node had more sessions than its share, and others take them. Listeners see "forced server close".
    Shed,
    /// The client's token has expired. It may come back with a new one. Listeners see "forced server close".
    TokenExpired,
}

impl CloseReason {
    /// Node's string for this reason.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::TransportClose | Self::Superseded => "transport close",
            Self::TransportError | Self::SlowConsumer | Self::HandlersStuck => "transport error",
            Self::PingTimeout => "ping timeout",
            Self::ParseError => "parse error",
            Self::ForcedClose => "forced close",
            Self::ForcedServerClose | Self::Shed | Self::TokenExpired => "forced server close",
            Self::ServerShuttingDown => "server shutting down",
            Self::ClientNamespaceDisconnect => "client namespace disconnect",
            Self::ServerNamespaceDisconnect => "server namespace disconnect",
        }
    }

    /// The value of the `reason` label in metrics.
    pub fn label(self) -> &'static str {
        match self {
            Self::TransportClose => "transport_close",
            Self::TransportError => "transport_error",
            Self::PingTimeout => "ping_timeout",
            Self::ParseError => "parse_error",
            Self::ForcedClose => "forced_close",
            Self::ForcedServerClose => "forced_server_close",
            Self::ServerShuttingDown => "server_shutting_down",
            Self::ClientNamespaceDisconnect => "client_namespace_disconnect",
            Self::ServerNamespaceDisconnect => "server_namespace_disconnect",
            Self::SlowConsumer => "slow_consumer",
            Self::HandlersStuck => "handlers_stuck",
            Self::Superseded => "superseded",
            Self::Shed => "shed",
            Self::TokenExpired => "token_expired",
        }
    }

    /// May the client come back and go on with its session (Node: `RECOVERABLE_DISCONNECT_REASONS`)? Not
    /// when somebody ended it on purpose.
    pub(crate) fn is_recoverable(self) -> bool {
        match self {
            Self::TransportClose
            | Self::TransportError
            | Self::PingTimeout
            | Self::ForcedClose
            | Self::ForcedServerClose
            | Self::ServerShuttingDown
            | Self::SlowConsumer
            | Self::HandlersStuck
            | Self::Shed
            | Self::TokenExpired
            // the other namespaces of that connection: their clients come back, too
            | Self::Superseded => true,
            Self::ParseError
            | Self::ClientNamespaceDisconnect
            | Self::ServerNamespaceDisconnect => false,
        }
    }

    /// The code of the WebSocket close frame and of the WebTransport session's end (RFC 6455 7.4.1).
    ///
    /// Stock clients look at neither; people who read a packet capture do.
    pub fn close_code(self) -> u16 {
        match self {
            Self::ServerShuttingDown | Self::Shed => 1001,
            Self::ParseError | Self::TransportError => 1002,
            Self::PingTimeout | Self::SlowConsumer | Self::TokenExpired => 1008,
            _ => 1000,
        }
    }
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A rule of the protocol that the peer broke. One variant per rule; none carries the peer's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum PeerMisbehaved {
    // --- framing
    /// A frame, message or body over `max_payload`.
    #[error("payload over the limit")]
    PayloadTooLarge,
    /// A WebTransport frame over `max_payload`, which engine.io-parser calls an error packet.
    #[error("frame over the limit")]
    FrameTooLarge,
    /// A WebTransport frame of length zero, or a length that cannot be (engine.io-parser).
    #[error("illegal frame length")]
    IllegalFrameLength,
    /// Text that is not UTF-8.
    #[error("text is not UTF-8")]
    InvalidUtf8,
    /// A WebSocket frame that RFC 6455 forbids (unmasked, bad opcode, bad continuation, ...).
    #[error("illegal WebSocket frame")]
    IllegalWebSocketFrame,
    /// More unanswered WebSocket pings than we keep pongs for.
    #[error("flood of WebSocket control frames")]
    ControlFrameFlood,
    /// More datagrams in a WebTransport session than a mistake explains: Engine.IO has no use for any.
    #[error("too many datagrams")]
    DatagramFlood,
    // --- Engine.IO
    /// An Engine.IO packet with an unknown type, or none.
    #[error("unknown Engine.IO packet type")]
    UnknownEnginePacket,
    /// Base64 in a polling payload that is none.
    #[error("illegal base64")]
    InvalidBase64,
    /// A ping from the client: in Engine.IO v4 the server pings.
    #[error("invalid heartbeat direction")]
    HeartbeatDirection,
    /// A packet of an upgrade that does not belong to its step.
    #[error("packet out of the upgrade's order")]
    UpgradeOutOfOrder,
    /// A second GET while one waits.
    #[error("overlapping poll")]
    OverlappingPoll,
    /// A second POST while one is being read.
    #[error("overlapping POST")]
    OverlappingPost,
    /// A POST with `application/octet-stream`, which Engine.IO v4 does not have.
    #[error("binary POST")]
    BinaryPost,
    // --- Socket.IO
    /// An unknown Socket.IO packet type.
    #[error("unknown Socket.IO packet type")]
    UnknownPacketType,
    /// An attachment count that is no positive integer, or a placeholder that names none of them.
    #[error("illegal attachments")]
    IllegalAttachments,
    /// More attachments than `max_attachments`.
    #[error("too many attachments")]
    TooManyAttachments,
    /// Attachments that were announced and did not come in time.
    #[error("attachments are overdue")]
    AttachmentsOverdue,
    /// Text while attachments were due, or binary while none were.
    #[error("attachment out of order")]
    AttachmentOutOfOrder,
    /// A payload that is not what its packet type wants.
    #[error("invalid payload")]
    InvalidPayload,
    /// An ack id that is no integer we can hold.
    #[error("invalid ack id")]
    InvalidAckId,
    /// A packet for a namespace that is not joined, a second CONNECT, or a CONNECT_ERROR.
    #[error("packet out of the connection's order")]
    PacketOutOfOrder,
    /// More namespaces on one connection than allowed.
    #[error("too many namespaces")]
    TooManyNamespaces,
    /// The name of an event or a namespace that is longer than allowed.
    #[error("name too long")]
    NameTooLong,
}

impl PeerMisbehaved {
    /// The value of the `rule` label in metrics.
    pub fn label(self) -> &'static str {
        match self {
            Self::PayloadTooLarge => "payload_too_large",
            Self::FrameTooLarge => "frame_too_large",
            Self::IllegalFrameLength => "illegal_frame_length",
            Self::InvalidUtf8 => "invalid_utf8",
            Self::IllegalWebSocketFrame => "illegal_websocket_frame",
            Self::ControlFrameFlood => "control_frame_flood",
            Self::DatagramFlood => "datagram_flood",
            Self::UnknownEnginePacket => "unknown_engine_packet",
            Self::InvalidBase64 => "invalid_base64",
            Self::HeartbeatDirection => "heartbeat_direction",
            Self::UpgradeOutOfOrder => "upgrade_out_of_order",
            Self::OverlappingPoll => "overlapping_poll",
            Self::OverlappingPost => "overlapping_post",
            Self::BinaryPost => "binary_post",
            Self::UnknownPacketType => "unknown_packet_type",
            Self::IllegalAttachments => "illegal_attachments",
            Self::TooManyAttachments => "too_many_attachments",
            Self::AttachmentsOverdue => "attachments_overdue",
            Self::AttachmentOutOfOrder => "attachment_out_of_order",
            Self::InvalidPayload => "invalid_payload",
            Self::InvalidAckId => "invalid_ack_id",
            Self::PacketOutOfOrder => "packet_out_of_order",
            Self::TooManyNamespaces => "too_many_namespaces",
            Self::NameTooLong => "name_too_long",
        }
    }

    /// The reason with which a session ends over this.
    ///
    /// As in Node: what the Engine.IO decoder refuses is a "parse error", what breaks Engine.IO's
    /// order a "transport error", and what the Socket.IO layer refuses a "forced close".
    pub fn close_reason(self) -> CloseReason {
        match self {
            Self::IllegalFrameLength
            | Self::FrameTooLarge
            | Self::UnknownEnginePacket
            | Self::InvalidBase64
            | Self::InvalidUtf8 => CloseReason::ParseError,
            Self::PayloadTooLarge
            | Self::IllegalWebSocketFrame
            | Self::ControlFrameFlood
            | Self::DatagramFlood
            | Self::HeartbeatDirection
            | Self::UpgradeOutOfOrder
            | Self::OverlappingPoll
            | Self::OverlappingPost
            | Self::BinaryPost => CloseReason::TransportError,
            Self::UnknownPacketType
            | Self::IllegalAttachments
            | Self::TooManyAttachments
            | Self::AttachmentsOverdue
            | Self::AttachmentOutOfOrder
            | Self::InvalidPayload
            | Self::InvalidAckId
            | Self::PacketOutOfOrder
            | Self::TooManyNamespaces
            | Self::NameTooLong => CloseReason::ForcedClose,
        }
    }
}

/// Why a link gave out. The session decides what that means for it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LinkError {
    /// The network, or the peer's network stack.
    #[error("i/o: {0}")]
    Io(#[from] io::Error),
    /// The peer broke the rules of the framing.
    #[error(transparent)]
    Peer(#[from] PeerMisbehaved),
}

/// Why an emit was not accepted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EmitError {
    /// The socket is no longer connected to its namespace.
    #[error("the socket is disconnected")]
    Disconnected,
    /// The recipient's outbox is full; its session is being closed as a slow consumer.
    #[error("the outbox is full")]
    OutboxFull,
    /// The data cannot be serialized, or is over what the parser can carry.
    #[error("cannot encode the event: {0}")]
    Encode(String),
    /// The name is one that Socket.IO keeps for itself (`connect`, `disconnect`, ...).
    #[error("{0:?} is a reserved event name")]
    ReservedEvent(String),
    /// The bus cannot take more; try again later.
    #[error("the bus is overloaded")]
    BusFull,
}

/// Why a client gets a fresh session instead of its old one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum NotRecovered {
    /// No such session: the window has passed, or it was ended on purpose.
    Unknown,
    /// What the client brought as its offset is none of ours.
    Offset,
    /// What it has missed is no longer remembered.
    History,
    /// It has missed more than may be sent again.
    TooMuch,
    /// The session belongs to somebody else.
    Identity,
    /// It was disconnected while it was away.
    Disconnected,
    /// The store of sessions did not answer.
    Unavailable,
    /// Others wanted it at the same time, again and again.
    Contended,
}

impl NotRecovered {
    /// The value of the `reason` label in metrics.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Unknown => "unknown_session",
            Self::Offset => "bad_offset",
            Self::History => "history_gone",
            Self::TooMuch => "too_much_missed",
            Self::Identity => "other_identity",
            Self::Disconnected => "disconnected_meanwhile",
            Self::Unavailable => "store_unavailable",
            Self::Contended => "contended",
        }
    }
}

/// Why a token is not taken. The client gets the label, as `data.code` of its `connect_error`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum TokenError {
    /// There is none.
    #[error("no token")]
    Missing,
    /// It is none, is signed by nobody we trust, or says what we do not take.
    #[error("the token is not valid")]
    Invalid,
    /// Its time is over.
    #[error("the token has expired")]
    Expired,
    /// Its time has not come.
    #[error("the token is not valid yet")]
    NotYetValid,
    /// It is signed by a key that its issuer does not publish.
    #[error("the token's key is not known")]
    UnknownKey,
    /// The issuer's keys could not be read yet.
    #[error("the keys of tokens cannot be reached")]
    KeysUnavailable,
}

impl TokenError {
    /// The value of the `reason` label in metrics.
    pub fn label(self) -> &'static str {
        match self {
            Self::Missing => "token_missing",
            Self::Invalid => "token_invalid",
            Self::Expired => "token_expired",
            Self::NotYetValid => "token_not_yet_valid",
            Self::UnknownKey => "token_key_unknown",
            Self::KeysUnavailable => "keys_unavailable",
        }
    }
}

/// Why an acknowledgement did not come.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AckError {
    /// The deadline passed.
    #[error("operation has timed out")]
    Timeout,
    /// A node of the cluster is gone, or did not answer; what came is there.
    #[error("a node of the cluster did not answer")]
    Incomplete,
    /// The socket disconnected before it answered.
    #[error("socket has been disconnected")]
    Disconnected,
    /// The event could not be sent at all.
    #[error(transparent)]
    Emit(#[from] EmitError),
    /// An answer came, but not of the type that was asked for.
    #[error("cannot decode the acknowledgement: {0}")]
    Decode(String),
}

/// Application data (`socket.data`, arguments of an event) is not of the type that was asked for.
#[derive(Debug, thiserror::Error)]
#[error("cannot convert the data: {0}")]
pub struct DataError(pub(crate) String);

impl DataError {
    /// Of a deserializer. Its words may quote the data, which is the client's: that is left out, for what a handler
    /// fails with ends in the log.
    pub(crate) fn of(error: impl fmt::Display) -> Self {
        const KINDS: [&str; 4] =
            ["invalid type", "invalid value", "unknown field", "unknown variant"];
        let text = error.to_string();
        // of a name that the application's type has
        if text.starts_with("missing field") || text.starts_with("duplicate field") {
            return Self(text);
        }
        let kind = KINDS.iter().find(|kind| text.starts_with(**kind));
        Self(match (kind, text.rsplit_once(", expected ")) {
            (Some(kind), Some((_, expected))) => format!("{kind}, expected {expected}"),
            (Some(kind), None) => (*kind).to_owned(),
            (None, _) => text.split(['"', '`']).next().unwrap_or_default().trim_end().to_owned(),
        })
    }
}

/// Every mistake in a configuration, one a line.
#[derive(Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// The mistakes, each naming its setting.
    pub mistakes: Vec<String>,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the configuration has {} mistake(s):", self.mistakes.len())?;
        for mistake in &self.mistakes {
            write!(f, "\n  - {mistake}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}

/// Why a server could not start or go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// The configuration is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A listener could not be bound.
    #[error("cannot listen on {address} ({protocol}): {source}")]
    Bind {
        /// What was to be bound.
        address: std::net::SocketAddr,
        /// `tcp` or `udp`.
        protocol: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// Tokens cannot be checked.
    #[error("jwt: {0}")]
    Jwt(String),
    /// The cluster cannot be joined.
    #[error("cluster: {0}")]
    Bus(String),
    /// `serve` was called before, and a server serves once.
    #[error("the server serves already, or has done so")]
    AlreadyServing,
    /// The certificate or its key cannot be used.
    #[error("certificate: {0}")]
    Certificate(String),
}

/// Why [`Redis`](crate::Redis) did not do something.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RedisError {
    /// It is not there, or does not answer. Whether it has done it is not known.
    #[error("Redis: {0}")]
    Unavailable(String),
    /// It said no: out of memory, no permission, an error of the script.
    #[error("Redis refuses: {0}")]
    Refused(String),
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::net::IpAddr;

    use super::*;

    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "read only")]
    struct Wanted {
        user: String,
        age: Option<u8>,
        way: Option<Way>,
        ip: Option<IpAddr>,
    }

    #[derive(Debug, serde::Deserialize)]
    enum Way {
        Left,
        Right,
    }

    #[test]
    fn what_does_not_fit_is_told_without_the_data() {
        let one = "invalid type, expected";
        for (json, told) in [
            (r#"{"user":["hunter2"]}"#, format!("{one} a string at line 1 column 8")),
            (r#"{"user":1234567}"#, format!("{one} a string at line 1 column 15")),
            (r#""hunter2""#, format!("{one} struct Wanted at line 1 column 9")),
            (r#""hunter2, expected \"x""#, format!("{one} struct Wanted at line 1 column 23")),
            (
                r#"{"user":"","age":1234567}"#,
                "invalid value, expected u8 at line 1 column 24".into(),
            ),
            (r#"{"age":1}"#, "missing field `user` at line 1 column 9".into()),
            (r#"{"age":1,"age":1}"#, "duplicate field `age` at line 1 column 14".into()),
            (
                r#"{"hunter2":1}"#,
                "unknown field, expected one of `user`, `age`, `way`, `ip` at line 1 column 10"
                    .into(),
            ),
            (
                r#"{"way":"hunter2"}"#,
                "unknown variant, expected `Left` or `Right` at line 1 column 16".into(),
            ),
            (r#"{"ip":"hunter2"}"#, "invalid IP address syntax at line 1 column 15".into()),
            ("hunter2", "expected value at line 1 column 1".into()),
        ] {
            let error = serde_json::from_str::<Wanted>(json).unwrap_err();
            assert_eq!(DataError::of(error).0, told, "{json}");
        }
        let error = serde_json::from_str::<BTreeMap<u8, u8>>(r#"{"hunter2":1}"#).unwrap_err();
        assert!(!DataError::of(error).0.contains("hunter2"));
        let quoted = DataError::of("no colour: \"hunter2\"");
        assert_eq!(quoted.0, "no colour:");
    }
}
