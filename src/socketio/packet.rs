//! Socket.IO v5 packets: Engine.IO messages in, Engine.IO frames out, no I/O.
//!
//! Two codecs are spoken, one per server. [`Codec::Json`] is the default of official clients
//! (socket.io-protocol, "Packet encoding"):
//!
//! ```text
//! <packet type>[<# of binary attachments>-][<namespace>,][<acknowledgment id>][JSON payload]
//! + binary attachments
//! ```
//!
//! [`Codec::MsgPack`] is socket.io-msgpack-parser: one binary message per packet, a map of `type`,
//! `data`, `nsp` and `id`.
//!
//! What comes in is checked completely before anything is built on it ([`Decoder`]), because
//! arguments are handed on to other peers without being decoded ([`Args`]): what passes here must
//! not be able to break *their* parser. The measure is Node's socket.io-parser 4.2.7; `tests.rs`
//! has the table.
//!
//! serde_json and rmp-serde do the values. socketioxide's parser crates were tried and left out
//! (parser-common 0.17.3, parser-msgpack 0.17.4): they take attachments in the order of the text
//! instead of by `num`, write `Some(Bytes)` as numbers and a newtype without its event name, and
//! cannot read escaped event names and keys, or notepack's `undefined`, Date and ArrayBuffer.

mod args;
mod de;
mod json;
mod msgpack;
mod spread;
#[cfg(test)]
mod tests;

use bytes::Bytes;
use serde::Serialize;

pub use self::args::{Args, Payload};
pub(crate) use self::de::iso_date;

use self::args::Body;
use crate::config::{MAX_DEPTH, Parser};
use crate::engine::packet::{Frame, Message, Str};
use crate::error::{EmitError, PeerMisbehaved};

/// Event names that Socket.IO keeps for itself (socket.io-parser `RESERVED_EVENTS`).
pub(crate) const RESERVED_EVENTS: [&str; 6] =
    ["connect", "connect_error", "disconnect", "disconnecting", "newListener", "removeListener"];

/// The largest ack id: JavaScript's `Number.MAX_SAFE_INTEGER`.
///
/// Node reads a larger one as the nearest double and answers *that* one, to nobody.
const MAX_ACK_ID: u64 = (1 << 53) - 1;

/// The codec of a server. Clients have no way to choose: both sides are configured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(crate) enum Codec {
    /// JSON text, binary in separate messages (socket.io-parser).
    #[default]
    Json,
    /// MessagePack (socket.io-msgpack-parser).
    MsgPack,
}

/// One decoded packet.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Packet {
    /// The namespace, as the client wrote it; starts with `/` in the JSON codec only.
    pub(crate) nsp: Str,
    pub(crate) kind: Kind,
}

/// What a client can say.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Kind {
    /// `0`: join the namespace; the payload is the client's `auth`, always an object.
    Connect(Option<Payload>),
    /// `1`: leave the namespace.
    Disconnect,
    /// `2` and `5`: an event; [`Args::event`] is always `Some`.
    Event {
        args: Args,
        /// The client wants an answer under this id.
        ack: Option<u64>,
    },
    /// `3` and `6`: the answer to one of our events.
    Ack { id: u64, args: Args },
    /// `4`: well-formed, but no client may send it. Its payload is checked and dropped.
    ConnectError,
}

/// What a server can say.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Outgoing<'a> {
    /// The namespace is joined.
    Connect {
        /// The socket's id.
        sid: &'a str,
        /// The private session id, when connection state recovery is on.
        pid: Option<&'a str>,
    },
    /// The namespace cannot be joined.
    ConnectError {
        message: &'a str,
        /// `data` of a middleware's error.
        data: Option<&'a serde_json::Value>,
    },
    /// The socket was put out of the namespace.
    Disconnect,
    /// An event; `args` must have been made with an event name.
    Event {
        args: &'a Args,
        ack: Option<u64>,
        /// Goes behind the last argument: the position for recovery. Cheaper than
        /// [`Args::with_appended_str`], since nothing is copied twice.
        offset: Option<&'a str>,
    },
    /// The answer to an event.
    Ack { id: u64, args: &'a Args },
}

impl Outgoing<'_> {
    /// The packet type; JSON adds 3 to it when there are attachments.
    fn kind(&self) -> u8 {
        match self {
            Self::Connect { .. } => 0,
            Self::Disconnect => 1,
            Self::Event { .. } => 2,
            Self::Ack { .. } => 3,
            Self::ConnectError { .. } => 4,
        }
    }

    fn id(&self) -> Option<u64> {
        match self {
            Self::Event { ack, .. } => *ack,
            Self::Ack { id, .. } => Some(*id),
            _ => None,
        }
    }
}

impl From<Parser> for Codec {
    fn from(parser: Parser) -> Self {
        match parser {
            Parser::Json => Self::Json,
            Parser::MsgPack => Self::MsgPack,
        }
    }
}

impl Codec {
    /// Encodes the arguments of an event, or of an ack when `event` is `None`.
    ///
    /// A tuple or `[T; N]` is several arguments, `()` and unit structs are none, a newtype is what
    /// it wraps, everything else is one argument. What serializes itself as *bytes*
    /// (`bytes::Bytes`, `serde_bytes`) travels as binary at any depth; a plain `Vec<u8>` is an
    /// array of numbers.
    ///
    /// # Errors
    /// [`EmitError::ReservedEvent`]; [`EmitError::Encode`] when `data` refuses to be serialized,
    /// nests too deep, or carries an object that receivers would take for a placeholder of an
    /// attachment that is not there (it would end *their* connection).
    pub(crate) fn args<T>(self, event: Option<&str>, data: &T) -> Result<Args, EmitError>
    where
        T: Serialize + ?Sized,
    {
        if let Some(event) = event.filter(|event| RESERVED_EVENTS.contains(event)) {
            return Err(EmitError::ReservedEvent(event.to_owned()));
        }
        let body = match self {
            Self::Json => json::encode_args(event, data)?,
            Self::MsgPack => msgpack::encode_args(event, data)?,
        };
        Ok(Args::new(body, event.map(Str::copy_from_slice)))
    }

    /// Encodes a list that is already `[event, ...args]` (`has_event`) or `[...args]`, as the
    /// cluster carries it. `list` must serialize as a sequence; [`Args`] of the other codec do.
    ///
    /// # Errors
    /// [`EmitError::Encode`], also when the list is none or its first element is no event name.
    pub(crate) fn args_from_list<T>(self, list: &T, has_event: bool) -> Result<Args, EmitError>
    where
        T: Serialize + ?Sized,
    {
        let body = match self {
            Self::Json => json::encode_list(list)?,
            Self::MsgPack => msgpack::encode_list(list)?,
        };
        Args::checked(body, has_event)
            .map_err(|_| EmitError::Encode("not a list of arguments".to_owned()))
    }

    /// Takes a list that is already JSON text without attachments, as the cluster carries it, and checks
    /// it as completely as a client's. [`Codec::Json`] keeps the text as it stands.
    ///
    /// # Errors
    /// The rule that a client would have broken with it.
    pub(crate) fn args_from_text(self, list: Str, has_event: bool) -> Result<Args, PeerMisbehaved> {
        let text =
            json::read_payload(list, 2, 0, MAX_DEPTH)?.ok_or(PeerMisbehaved::InvalidPayload)?;
        let args = Args::checked(Body::json(text, Vec::new()), has_event)?;
        match self {
            Self::Json => Ok(args),
            Self::MsgPack => {
                let args = self.args_from_list(&args, has_event);
                args.map_err(|_| PeerMisbehaved::InvalidPayload)
            }
        }
    }

    /// Writes the Engine.IO frames of one packet: type digits of both layers, header and payload in
    /// one buffer, attachments (shared, not copied) behind it.
    ///
    /// Arguments of the other codec are converted, which costs a decode and an encode.
    pub(crate) fn encode(self, nsp: &str, packet: Outgoing<'_>) -> Vec<Frame> {
        let args = match packet {
            Outgoing::Event { args, .. } | Outgoing::Ack { args, .. } => Some(args),
            _ => None,
        };
        if let Some(args) = args.filter(|args| args.codec() != self) {
            let args = &self.convert(args);
            let packet = match packet {
                Outgoing::Event { ack, offset, .. } => Outgoing::Event { args, ack, offset },
                Outgoing::Ack { id, .. } => Outgoing::Ack { id, args },
                other => other,
            };
            return self.encode(nsp, packet);
        }
        match self {
            Self::Json => json::encode(nsp, packet),
            Self::MsgPack => vec![Frame::Binary(msgpack::encode(nsp, packet).into())],
        }
    }

    fn convert(self, args: &Args) -> Args {
        // Arguments of this process come from its one codec; only a mistake of ours leads here with
        // something that does not convert, and an event without arguments is the harmless answer.
        self.args_from_list(args, args.event().is_some())
            .or_else(|_| self.args(args.event(), &()))
            .expect("an event without arguments always encodes")
    }
}

/// Puts the packets of one connection together.
///
/// # Contract
/// Feed every message of the connection, in order. After an error the connection is to be closed;
/// the decoder holds nothing then. Memory: at most one incomplete packet, that is `max_attachments
/// + 1` messages, each under the transport's `max_payload`. Time is the caller's: see
/// [`Decoder::is_reconstructing`].
#[derive(Debug)]
pub(crate) struct Decoder {
    codec: Codec,
    max_attachments: usize,
    max_depth: usize,
    /// A binary packet that waits for attachments. Always `None` with [`Codec::MsgPack`].
    pending: Option<Pending>,
}

#[derive(Debug)]
struct Pending {
    /// Complete but for its attachments.
    packet: Packet,
    expected: usize,
    attachments: Vec<Bytes>,
}

impl Decoder {
    /// `max_attachments`: socket.io-parser's option of that name, 10 by default there.
    pub(crate) fn new(codec: Codec, max_attachments: usize) -> Self {
        Self { codec, max_attachments, max_depth: MAX_DEPTH, pending: None }
    }

    /// Takes only packets that nest no deeper than this, and than [`MAX_DEPTH`].
    pub(crate) fn nested(self, max_depth: usize) -> Self {
        Self { max_depth: max_depth.min(MAX_DEPTH), ..self }
    }

    /// Are attachments of a packet outstanding?
    ///
    /// Node waits for them for ever; the session may put a deadline on it.
    pub(crate) fn is_reconstructing(&self) -> bool {
        self.pending.is_some()
    }

    /// Takes one message; gives a packet when it is complete.
    ///
    /// # Errors
    /// The rule that the peer broke. The payload of a binary packet is judged when its text comes,
    /// not after its attachments as in Node.
    pub(crate) fn decode(&mut self, message: Message) -> Result<Option<Packet>, PeerMisbehaved> {
        match (self.codec, message) {
            (Codec::Json, Message::Text(text)) => self.decode_text(&text),
            (Codec::Json, Message::Binary(data)) => self.decode_attachment(data),
            (Codec::MsgPack, Message::Binary(data)) => {
                msgpack::decode(&data, self.max_depth).map(Some)
            }
            // A client with the JSON parser on a msgpack server; Node reads the first character as
            // an integer and refuses its type.
            (Codec::MsgPack, Message::Text(_)) => Err(PeerMisbehaved::UnknownPacketType),
        }
    }

    fn decode_text(&mut self, text: &Str) -> Result<Option<Packet>, PeerMisbehaved> {
        if self.pending.take().is_some() {
            return Err(PeerMisbehaved::AttachmentOutOfOrder);
        }
        let (packet, expected) = json::decode(text, self.max_attachments, self.max_depth)?;
        if expected == 0 {
            return Ok(Some(packet));
        }
        let attachments = Vec::with_capacity(expected);
        self.pending = Some(Pending { packet, expected, attachments });
        Ok(None)
    }

    fn decode_attachment(&mut self, data: Bytes) -> Result<Option<Packet>, PeerMisbehaved> {
        let mut pending = self.pending.take().ok_or(PeerMisbehaved::AttachmentOutOfOrder)?;
        pending.attachments.push(data);
        if pending.attachments.len() < pending.expected {
            self.pending = Some(pending);
            return Ok(None);
        }
        if let Kind::Event { args, .. } | Kind::Ack { args, .. } = &mut pending.packet.kind {
            args.attach(pending.attachments);
        }
        Ok(Some(pending.packet))
    }
}

/// Builds a packet from checked parts; both codecs end here.
///
/// `body` is `None` when the packet had no payload.
fn assemble(
    kind: u8,
    nsp: Str,
    id: Option<u64>,
    body: Option<Body>,
) -> Result<Packet, PeerMisbehaved> {
    let kind = match kind {
        0 => Kind::Connect(body.map(Payload::new)),
        1 => Kind::Disconnect,
        2 => {
            // Node lets an EVENT without payload through, with `undefined` as its name.
            let body = body.ok_or(PeerMisbehaved::InvalidPayload)?;
            Kind::Event { args: Args::checked(body, true)?, ack: id }
        }
        3 => {
            // Node drops an ACK without id ("bad ack"); there is nothing it could ever mean.
            let id = id.ok_or(PeerMisbehaved::InvalidAckId)?;
            // And calls back without arguments when the payload is missing.
            let body = body.unwrap_or_else(|| Body::json(Str::from("[]"), Vec::new()));
            Kind::Ack { id, args: Args::checked(body, false)? }
        }
        4 => Kind::ConnectError,
        _ => return Err(PeerMisbehaved::UnknownPacketType),
    };
    Ok(Packet { nsp, kind })
}
