//! Fuzz targets of this layer; see `crate::fuzzing`.

use std::time::{Duration, Instant};

use serde::de::IgnoredAny;

use super::client::{Attempt, Client, Overdue, Step};
use super::packet::{Args, Codec, Decoder, Kind, Outgoing, Packet};
use crate::config::SocketIoConfig;
use crate::engine::packet::{Frame, Message, Packet as EnginePacket, Str};

const MAX_ATTACHMENTS: usize = 4;

/// The messages of a connection with the JSON codec, separated by a byte that no text has.
pub(crate) fn json(input: &[u8]) {
    let mut decoder = Decoder::new(Codec::Json, MAX_ATTACHMENTS);
    for message in input.split(|byte| *byte == 0xff) {
        let message = match std::str::from_utf8(message) {
            Ok(text) if !decoder.is_reconstructing() => Message::Text(Str::copy_from_slice(text)),
            _ => Message::Binary(message.to_vec().into()),
        };
        match decoder.decode(message) {
            Ok(Some(packet)) => check(Codec::Json, &packet),
            Ok(None) => assert!(decoder.is_reconstructing()),
            Err(_) => return assert!(!decoder.is_reconstructing(), "something is kept"),
        }
    }
}

/// One message of a connection with the msgpack codec.
pub(crate) fn msgpack(input: &[u8]) {
    let mut decoder = Decoder::new(Codec::MsgPack, MAX_ATTACHMENTS);
    if let Ok(Some(packet)) = decoder.decode(Message::Binary(input.to_vec().into())) {
        check(Codec::MsgPack, &packet);
    }
    assert!(!decoder.is_reconstructing());
}

/// A packet that was let in does not break the receivers' parsers, whichever they have.
fn check(codec: Codec, packet: &Packet) {
    match &packet.kind {
        Kind::Event { args, ack } => {
            let (args, ack) = (args, *ack);
            assert!(args.event().is_some());
            let again = written(codec, &packet.nsp, Outgoing::Event { args, ack, offset: None });
            assert_eq!(again.kind, packet.kind);
            let offset = Some("1-2");
            let longer = written(codec, &packet.nsp, Outgoing::Event { args, ack, offset });
            let Kind::Event { args: longer, .. } = longer.kind else { panic!("not an event") };
            assert_eq!(longer, args.with_appended_str("1-2"));
            assert_eq!(longer.len(), args.len() + 1);
            relayed(codec, args);
        }
        Kind::Ack { id, args } => {
            let again = written(codec, &packet.nsp, Outgoing::Ack { id: *id, args });
            assert_eq!(again.kind, packet.kind);
            relayed(codec, args);
        }
        Kind::Connect(Some(auth)) => {
            let _ = auth.decode::<IgnoredAny>();
            let _ = auth.decode::<serde_json::Value>();
        }
        Kind::Connect(None) | Kind::Disconnect | Kind::ConnectError => {}
    }
}

/// What a receiver reads of what we write.
fn written(codec: Codec, nsp: &str, packet: Outgoing<'_>) -> Packet {
    // a namespace that a msgpack client made up need not be one that JSON could carry
    let nsp = if codec == Codec::Json || nsp.starts_with('/') { nsp } else { "/" };
    let mut decoder = Decoder::new(codec, usize::MAX >> 8);
    let mut whole = None;
    for frame in codec.encode(nsp, packet) {
        assert!(whole.is_none(), "frames behind the packet");
        let message = match frame {
            Frame::Binary(data) => Message::Binary(data),
            text => match EnginePacket::decode(text) {
                Ok(EnginePacket::Message(message)) => message,
                other => panic!("no message: {other:?}"),
            },
        };
        whole = decoder.decode(message).expect("what was let in can be read again");
    }
    let whole = whole.expect("all frames are there");
    assert_eq!(&*whole.nsp, nsp);
    whole
}

/// Arguments that go on to others: decoded, renamed, and in the other codec and back.
fn relayed(codec: Codec, args: &Args) {
    let has_event = args.event().is_some();
    let _ = args.decode::<IgnoredAny>();
    let _ = args.decode::<(Option<String>, Option<serde_json::Value>)>();
    let renamed = args.renamed(Some("other")).expect("the name is free");
    assert_eq!((renamed.event(), renamed.len()), (Some("other"), args.len()));
    let other = if codec == Codec::Json { Codec::MsgPack } else { Codec::Json };
    // there are values that the other codec does not have; those that it has stay what they were
    let Ok(there) = other.args_from_list(args, has_event) else { return };
    assert_eq!((there.len(), there.event()), (args.len(), args.event()));
    let Ok(back) = codec.args_from_list(&there, has_event) else { return };
    let again = other.args_from_list(&back, has_event).expect("it went this way before");
    assert_eq!(again, there, "there and back is not where it began");
    if let (Ok(a), Ok(b)) = (there.to_json(), again.to_json()) {
        assert_eq!(a, b);
    }
}

const MAX_NAMESPACES: usize = 3;

/// The namespaces of a connection as a list of operations, two bytes each, against a model of what is allowed.
pub(crate) fn namespaces(start: Instant, operations: &[u8]) {
    let timeout = Duration::from_millis(500);
    let config = SocketIoConfig {
        max_attachments: 2,
        max_namespaces: MAX_NAMESPACES,
        connect_timeout: timeout,
        ..SocketIoConfig::default()
    };
    let client = Client::new(start, Codec::Json, &config);
    let mut life = Life { client, now: start, deadline: Some(start + timeout), spaces: Vec::new() };
    for operation in operations.chunks_exact(2) {
        let name = usize::from(operation[1] % 5);
        match operation[0] % 8 {
            0..=3 => {
                if !life.say(name, usize::from(operation[0] / 8)) {
                    return; // the connection is closed over it
                }
            }
            4 => life.verdict(name, true),
            5 => life.verdict(name, false),
            6 => life.leave(name),
            _ => life.now += Duration::from_millis(operation[1].into()),
        }
        life.check();
    }
}

#[derive(Clone, Copy, PartialEq)]
enum State {
    Connecting(Attempt),
    Joined,
    Left,
}

struct Life {
    client: Client,
    now: Instant,
    /// By when a namespace has to be joined.
    deadline: Option<Instant>,
    spaces: Vec<(usize, State)>,
}

const NAMES: [&str; 5] = ["/", "/a", "/b", "/c", "/d"];

impl Life {
    /// A message of the client's. `false`: it broke a rule.
    fn say(&mut self, name: usize, what: usize) -> bool {
        let nsp = if name == 0 { String::new() } else { format!("{},", NAMES[name]) };
        let placeholder = r#"["e",{"_placeholder":true,"num":0}]"#;
        let text = match what % 8 {
            0 | 1 => format!("0{nsp}"),
            2 => format!("0{nsp}{{\"pid\":\"p\",\"offset\":\"1-2\"}}"),
            3 => format!("1{nsp}"),
            4 => format!("2{nsp}7[\"e\",1]"),
            5 => format!("3{nsp}7[]"),
            6 => format!("51-{nsp}{placeholder}"),
            _ => String::new(),
        };
        let message = match text.is_empty() {
            true => Message::Binary(vec![1].into()),
            false => Message::from(text),
        };
        let step = match self.client.handle_message(self.now, message) {
            Ok(Some(step)) => step,
            outcome => return outcome.is_ok(),
        };
        match step {
            Step::Connect { nsp, attempt, .. } => {
                let name = number(&nsp);
                assert!(self.state(name) != Some(State::Joined), "joined twice");
                self.set(name, Some(State::Connecting(attempt)));
            }
            Step::Event { nsp, .. } | Step::Ack { nsp, .. } => {
                assert!(self.state(number(&nsp)) == Some(State::Joined), "said outside");
            }
            Step::Disconnect { nsp } => {
                assert!(self.state(number(&nsp)) == Some(State::Joined), "left from outside");
                self.set(number(&nsp), None);
            }
        }
        true
    }

    /// The owner decides on a try.
    fn verdict(&mut self, name: usize, yes: bool) {
        let Some(State::Connecting(attempt)) = self.state(name) else { return };
        let nsp = Str::from(NAMES[name]);
        if yes {
            assert!(self.client.joined(&nsp, attempt));
            assert!(!self.client.joined(&nsp, attempt), "let in twice");
            self.deadline = None;
            self.set(name, Some(State::Joined));
        } else {
            assert!(self.client.refused(&nsp, attempt));
            self.set(name, None);
        }
    }

    fn leave(&mut self, name: usize) {
        self.client.left(&Str::from(NAMES[name]));
        if self.state(name).is_some() {
            self.set(name, Some(State::Left));
        }
    }

    fn check(&self) {
        let taken = self.spaces.iter().filter(|(_, state)| *state != State::Left);
        assert!(taken.count() <= MAX_NAMESPACES, "more namespaces than allowed");
        let overdue = self.client.overdue(self.now);
        let namespace = self.deadline.is_some_and(|at| at <= self.now);
        assert_eq!(overdue == Some(Overdue::Namespace), namespace);
        let passed = self.client.poll_timeout().is_some_and(|at| at <= self.now);
        assert_eq!(overdue.is_some(), passed, "a deadline without a timer, or the other way round");
    }

    fn state(&self, name: usize) -> Option<State> {
        self.spaces.iter().find(|(own, _)| *own == name).map(|(_, state)| *state)
    }

    fn set(&mut self, name: usize, state: Option<State>) {
        self.spaces.retain(|(own, _)| *own != name);
        self.spaces.extend(state.map(|state| (name, state)));
    }
}

fn number(nsp: &str) -> usize {
    NAMES.iter().position(|name| *name == nsp).expect("we named it")
}
