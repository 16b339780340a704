//! One connection's namespaces as a value: which packet is allowed when.
//!
//! Socket.IO v5: *"Connection to a namespace"*, *"Disconnection from a namespace"*; Node's
//! `Client.ondecoded`. No I/O: messages and the time come in, a [`Step`] for the owner comes out.

use std::time::{Duration, Instant};

use super::packet::{Codec, Decoder, Kind};
use crate::config::SocketIoConfig;
use crate::engine::packet::{Message, Str};
use crate::error::PeerMisbehaved;
use crate::socketio::packet::{Args, Payload};

/// What the client wants, once it is known to be allowed.
#[derive(Debug, PartialEq)]
pub(crate) enum Step {
    /// Join a namespace. The owner answers with [`Client::joined`] or [`Client::refused`], naming the attempt.
    Connect {
        nsp: Str,
        auth: Option<Payload>,
        attempt: Attempt,
    },
    Event {
        nsp: Str,
        args: Args,
        ack: Option<u64>,
    },
    Ack {
        nsp: Str,
        id: u64,
        args: Args,
    },
    Disconnect {
        nsp: Str,
    },
}

/// One try to join a namespace. A client may give up and try again before the first try was decided;
/// the verdict on the first then means nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Attempt(u32);

#[derive(Debug, PartialEq, Eq)]
enum Space {
    Connecting(Attempt),
    Joined,
    /// The server put the socket out; packets that were under way are ignored. (Node closes the whole
    /// connection over them.)
    Left,
}

#[derive(Debug)]
pub(crate) struct Client {
    decoder: Decoder,
    /// Few: a list beats a map.
    spaces: Vec<(Str, Space)>,
    max_namespaces: usize,
    max_name_bytes: usize,
    attempts: u32,
    /// Without a namespace by then, the connection is closed (Node's `connectTimeout`).
    connect_deadline: Option<Instant>,
    /// How long each attachment of a packet may take. (Node waits for ever.)
    attachment_timeout: Duration,
    attachment_deadline: Option<Instant>,
}

/// A deadline of the connection that passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Overdue {
    /// No namespace was joined in time.
    Namespace,
    /// Attachments were announced and did not come.
    Attachments,
}

impl Client {
    /// A connection that was opened now.
    pub(crate) fn new(now: Instant, codec: Codec, config: &SocketIoConfig) -> Self {
        Self {
            decoder: Decoder::new(codec, config.max_attachments).nested(config.max_depth),
            spaces: Vec::new(),
            max_namespaces: config.max_namespaces,
            max_name_bytes: config.max_name_bytes,
            attempts: 0,
            connect_deadline: Some(now + config.connect_timeout),
            attachment_timeout: config.connect_timeout,
            attachment_deadline: None,
        }
    }

    /// Takes one Engine.IO message.
    ///
    /// # Errors
    /// The rule that the peer broke; the connection is to be closed.
    pub(crate) fn handle_message(
        &mut self,
        now: Instant,
        message: Message,
    ) -> Result<Option<Step>, PeerMisbehaved> {
        let packet = self.decoder.decode(message)?;
        let waiting = self.decoder.is_reconstructing();
        self.attachment_deadline = waiting.then(|| now + self.attachment_timeout);
        let Some(packet) = packet else {
            return Ok(None);
        };
        let nsp = packet.nsp;
        let name = match &packet.kind {
            Kind::Event { args, .. } => args.event().unwrap_or_default(),
            _ => "",
        };
        if nsp.len().max(name.len()) > self.max_name_bytes {
            return Err(PeerMisbehaved::NameTooLong);
        }
        let at = self.spaces.iter().position(|(name, _)| *name == nsp);
        let full = at.is_none() && self.spaces.len() >= self.max_namespaces && !self.forget_left();
        let at = self.spaces.iter().position(|(name, _)| *name == nsp);
        let space = at.map(|at| &mut self.spaces[at].1);
        match (packet.kind, space) {
            (Kind::Connect(_), Some(Space::Joined)) => Err(PeerMisbehaved::PacketOutOfOrder),
            (Kind::Connect(auth), space) => {
                self.attempts = self.attempts.wrapping_add(1);
                let attempt = Attempt(self.attempts);
                match space {
                    Some(space) => *space = Space::Connecting(attempt),
                    None if full => return Err(PeerMisbehaved::TooManyNamespaces),
                    None => {
                        self.spaces.reserve_exact(1); // most clients are in one namespace
                        self.spaces.push((nsp.clone(), Space::Connecting(attempt)));
                    }
                }
                Ok(Some(Step::Connect { nsp, auth, attempt }))
            }
            (Kind::ConnectError, _) => Err(PeerMisbehaved::PacketOutOfOrder),
            (_, Some(Space::Left)) => Ok(None),
            (Kind::Event { args, ack }, Some(Space::Joined)) => {
                Ok(Some(Step::Event { nsp, args, ack }))
            }
            (Kind::Ack { id, args }, Some(Space::Joined)) => Ok(Some(Step::Ack { nsp, id, args })),
            (Kind::Disconnect, Some(Space::Joined)) => {
                self.forget(&nsp);
                Ok(Some(Step::Disconnect { nsp }))
            }
            (_, Some(Space::Connecting(_)) | None) => Err(PeerMisbehaved::PacketOutOfOrder),
        }
    }

    /// Lets the client into a namespace. `false`: the attempt was overtaken or the namespace left since.
    pub(crate) fn joined(&mut self, nsp: &Str, attempt: Attempt) -> bool {
        let Some(space) = self.space(nsp).filter(|space| **space == Space::Connecting(attempt))
        else {
            return false;
        };
        *space = Space::Joined;
        self.connect_deadline = None;
        true
    }

    /// Turns the client away. `false` as for [`Client::joined`].
    pub(crate) fn refused(&mut self, nsp: &Str, attempt: Attempt) -> bool {
        let valid = self.space(nsp).is_some_and(|space| *space == Space::Connecting(attempt));
        if valid {
            self.forget(nsp);
        }
        valid
    }

    /// The server took the socket out of the namespace.
    pub(crate) fn left(&mut self, nsp: &Str) {
        if let Some(space) = self.space(nsp) {
            *space = Space::Left;
        }
    }

    /// Has it ever been in a namespace?
    pub(crate) fn has_joined(&self) -> bool {
        self.connect_deadline.is_none()
    }

    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        [self.connect_deadline, self.attachment_deadline].into_iter().flatten().min()
    }

    /// The deadline that passed; the connection is to be closed over it.
    pub(crate) fn overdue(&self, now: Instant) -> Option<Overdue> {
        let passed = |deadline: Option<Instant>| deadline.is_some_and(|at| at <= now);
        if passed(self.connect_deadline) {
            return Some(Overdue::Namespace);
        }
        passed(self.attachment_deadline).then_some(Overdue::Attachments)
    }

    fn space(&mut self, nsp: &Str) -> Option<&mut Space> {
        self.spaces.iter_mut().find(|(name, _)| name == nsp).map(|(_, space)| space)
    }

    /// Makes room by forgetting the namespace that the server closed first. `false`: there is none.
    fn forget_left(&mut self) -> bool {
        let left = self.spaces.iter().position(|(_, space)| *space == Space::Left);
        left.map(|at| self.spaces.remove(at)).is_some()
    }

    fn forget(&mut self, nsp: &Str) {
        self.spaces.retain(|(name, _)| name != nsp);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn client() -> Client {
        let config = SocketIoConfig {
            max_namespaces: 2,
            max_name_bytes: 10,
            connect_timeout: Duration::from_secs(10),
            ..SocketIoConfig::default()
        };
        Client::new(Instant::now(), Codec::Json, &config)
    }

    fn handle(client: &mut Client, wire: &'static str) -> Result<Option<Step>, PeerMisbehaved> {
        client.handle_message(Instant::now(), wire.into())
    }

    fn connect(client: &mut Client, wire: &'static str) -> Attempt {
        match handle(client, wire) {
            Ok(Some(Step::Connect { attempt, .. })) => attempt,
            other => panic!("{wire}: {other:?}"),
        }
    }

    fn joined() -> Client {
        let mut client = client();
        let attempt = connect(&mut client, "0");
        assert!(client.joined(&"/".into(), attempt));
        client
    }

    #[test]
    fn what_each_state_allows() {
        use PeerMisbehaved::PacketOutOfOrder as OutOfOrder;
        // packet, before connect, while connecting, joined, after the server's disconnect
        let table: [(&str, [Result<bool, PeerMisbehaved>; 4]); 5] = [
            ("0", [Ok(true), Ok(true), Err(OutOfOrder), Ok(true)]),
            (r#"2["a"]"#, [Err(OutOfOrder), Err(OutOfOrder), Ok(true), Ok(false)]),
            ("31[]", [Err(OutOfOrder), Err(OutOfOrder), Ok(true), Ok(false)]),
            ("1", [Err(OutOfOrder), Err(OutOfOrder), Ok(true), Ok(false)]),
            (r#"4{"message":"x"}"#, [Err(OutOfOrder); 4]),
        ];
        for (wire, expected) in table {
            let mut connecting = client();
            connect(&mut connecting, "0");
            let mut left = joined();
            left.left(&"/".into());
            for (state, (mut client, expected)) in
                [client(), connecting, joined(), left].into_iter().zip(expected).enumerate()
            {
                let result = handle(&mut client, wire).map(|step| step.is_some());
                assert_eq!(result, expected, "{wire} in state {state}");
            }
        }
    }

    #[test]
    fn a_verdict_on_an_overtaken_attempt_means_nothing() {
        let mut client = client();
        let first = connect(&mut client, "0");
        let second = connect(&mut client, "0");
        assert!(!client.joined(&"/".into(), first));
        assert!(!client.refused(&"/".into(), first));
        assert!(client.joined(&"/".into(), second));
    }

    #[test]
    fn a_namespace_can_be_left_and_joined_again() {
        let mut client = joined();
        assert!(matches!(handle(&mut client, "1"), Ok(Some(Step::Disconnect { .. }))));
        let again = connect(&mut client, "0");
        assert!(client.joined(&"/".into(), again));
    }

    #[test]
    fn the_number_of_namespaces_is_bounded() {
        let mut client = client();
        connect(&mut client, "0/a,");
        let b = connect(&mut client, "0/b,");
        let third = handle(&mut client, "0/c,");
        assert_eq!(third, Err(PeerMisbehaved::TooManyNamespaces));
        assert!(client.refused(&"/b".into(), b));
        let c = connect(&mut client, "0/c,");
        assert!(client.joined(&"/c".into(), c));
        client.left(&"/c".into());
        connect(&mut client, "0/d,"); // what the server has closed does not count
    }

    #[test]
    fn names_have_a_longest_length() {
        let mut client = joined();
        for (fits, too_long) in [
            (r#"2["aaaaaaaaaa"]"#, r#"2["aaaaaaaaaaa"]"#),
            (r#"2["\u00e9\u00e9\u00e9\u00e9\u00e9"]"#, r#"2["\u00e9\u00e9\u00e9\u00e9\u00e9a"]"#),
            ("0/aaaaaaaaa,", "0/aaaaaaaaaa,"),
        ] {
            assert!(matches!(handle(&mut client, fits), Ok(Some(_))), "{fits}");
            let result = handle(&mut client, too_long);
            assert_eq!(result, Err(PeerMisbehaved::NameTooLong), "{too_long}");
        }
    }

    #[test]
    fn the_connect_deadline_ends_with_the_first_namespace() {
        let mut client = client();
        let later = Instant::now() + Duration::from_secs(11);
        assert_eq!(client.overdue(later), Some(Overdue::Namespace));
        let attempt = connect(&mut client, "0");
        let overdue = client.overdue(later);
        assert_eq!(overdue, Some(Overdue::Namespace), "asking is not joining");
        client.joined(&"/".into(), attempt);
        assert_eq!(client.overdue(later), None);
        assert_eq!(client.poll_timeout(), None);
    }

    #[test]
    fn announced_attachments_have_a_deadline_each() {
        let mut client = joined();
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let binary = || Message::Binary(vec![1].into());
        let announce = r#"52-["a",{"_placeholder":true,"num":0},{"_placeholder":true,"num":1}]"#;
        assert_eq!(client.handle_message(start, announce.into()), Ok(None));
        assert_eq!(client.handle_message(after(9), binary()), Ok(None));
        assert_eq!(client.overdue(after(18)), None);
        assert_eq!(client.overdue(after(19)), Some(Overdue::Attachments));
        assert!(matches!(client.handle_message(after(18), binary()), Ok(Some(Step::Event { .. }))));
        assert_eq!(client.poll_timeout(), None);
    }
}
