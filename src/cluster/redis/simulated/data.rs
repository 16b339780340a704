//! What the simulated Redis stores, and the commands that concern nothing else.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use bytes::Bytes;
use fred::error::{Error, ErrorKind};
use fred::types::Value;
use tokio::time::Instant;

use super::super::feed::Fields;
use super::super::sessions::{CHECK, REMOVE, STORE, TAKE};
use super::{Answer, Command};
use crate::cluster::wire::StreamId;
use crate::engine::packet::Str;

/// The wall clock when the simulation begins.
const BORN_MS: u64 = 1_700_000_000_000;

/// An entry that was appended once.
#[derive(Clone, Debug)]
pub(crate) struct Stored {
    pub(crate) id: StreamId,
    pub(crate) fields: HashMap<String, Bytes>,
    /// Redis has forgotten it again.
    pub(crate) lost: bool,
}

#[derive(Clone)]
pub(super) struct Data {
    born: Instant,
    streams: BTreeMap<String, Stream>,
    strings: BTreeMap<String, (Bytes, Instant)>,
    hashes: BTreeMap<String, (BTreeMap<String, String>, Instant)>,
    /// These are of the world, not of Redis: they survive a loss.
    history: Vec<Stored>,
    writes: Vec<(Instant, String, String)>,
}

#[derive(Clone, Default)]
struct Stream {
    entries: Vec<(StreamId, Fields)>,
    last: StreamId,
    added: u64,
}

fn unreadable() -> Error {
    Error::new(ErrorKind::InvalidArgument, "ERR not understood")
}

fn text(id: StreamId) -> Value {
    Value::from(id.to_string())
}

fn entry(id: StreamId, fields: &Fields) -> Value {
    let fields =
        fields.iter().flat_map(|(name, value)| [Value::from(*name), value.as_str().into()]);
    Value::Array(vec![text(id), Value::Array(fields.collect())])
}

impl Data {
    pub(super) fn new() -> Self {
        Self {
            born: Instant::now(),
            streams: BTreeMap::new(),
            strings: BTreeMap::new(),
            hashes: BTreeMap::new(),
            history: Vec::new(),
            writes: Vec::new(),
        }
    }

    pub(super) fn history(&self) -> &[Stored] {
        &self.history
    }

    /// Has what `saved` had.
    pub(super) fn go_back(&mut self, saved: Self) {
        let (born, mut history) = (self.born, std::mem::take(&mut self.history));
        let writes = std::mem::take(&mut self.writes);
        *self = saved;
        for stored in &mut history {
            let known = |stream: &Stream| stream.entries.iter().any(|(id, _)| *id == stored.id);
            stored.lost |= !self.streams.values().any(known);
        }
        (self.born, self.history, self.writes) = (born, history, writes);
    }

    /// When and what was stored under a key.
    pub(super) fn writes(&self, key: &str) -> Vec<(Instant, Bytes)> {
        let mine = self.writes.iter().filter(|(_, of, _)| of == key);
        mine.map(|(at, _, body)| (*at, body.clone().into())).collect()
    }

    pub(super) fn append(
        &mut self,
        key: &str,
        max: Option<u64>,
        entries: Vec<Fields>,
    ) -> Vec<Value> {
        let ms = BORN_MS + (Instant::now() - self.born).as_millis() as u64;
        let stream = self.streams.entry(key.to_owned()).or_default();
        let mut ids = Vec::new();
        for fields in entries {
            let id = match stream.last {
                last if last.ms >= ms => StreamId { ms: last.ms, seq: last.seq + 1 },
                _ => StreamId { ms, seq: 0 },
            };
            stream.last = id;
            stream.added += 1;
            ids.push(text(id));
            let shown = |(name, value): &(&str, Str)| {
                ((*name).to_owned(), Bytes::copy_from_slice(value.as_bytes()))
            };
            let shown = fields.iter().map(shown).collect();
            self.history.push(Stored { id, fields: shown, lost: false });
            stream.entries.push((id, fields));
            if max.is_some_and(|max| stream.entries.len() as u64 > max) {
                stream.entries.remove(0);
            }
        }
        ids
    }

    pub(super) fn read(&self, key: &str, after: &str, count: u64) -> Answer {
        let after: StreamId = after.parse().map_err(|_| unreadable())?;
        let Some(stream) = self.streams.get(key) else { return Ok(Value::Null) };
        let first = stream.entries.partition_point(|(id, _)| *id <= after);
        let found = stream.entries[first..].iter().take(count as usize);
        let found: Vec<_> = found.map(|(id, fields)| entry(*id, fields)).collect();
        if found.is_empty() {
            return Ok(Value::Null);
        }
        Ok(Value::Array(vec![Value::Array(vec![key.into(), Value::Array(found)])]))
    }

    pub(super) fn get(&self, key: &str) -> Option<Bytes> {
        let now = Instant::now();
        self.strings.get(key).filter(|(_, until)| *until > now).map(|(value, _)| value.clone())
    }

    fn hash(&self, key: &str, field: &str) -> Option<String> {
        let (hash, until) = self.hashes.get(key)?;
        hash.get(field).filter(|_| *until > Instant::now()).cloned()
    }

    pub(super) fn execute(&mut self, command: Command) -> Answer {
        match command {
            Command::XInfo(key) => self.info(&key),
            Command::XRange { key, start, end, count } => {
                let start: StreamId =
                    start.trim_start_matches('(').parse().map_err(|_| unreadable())?;
                let end: StreamId = end.parse().map_err(|_| unreadable())?;
                let stream = self.streams.get(&key).map_or(&[][..], |stream| &stream.entries);
                let range = stream.iter().filter(|(id, _)| *id > start && *id <= end);
                let range = range.take(count as usize).map(|(id, fields)| entry(*id, fields));
                Ok(Value::Array(range.collect()))
            }
            Command::Get(key) => Ok(self.get(&key).map_or(Value::Null, Value::Bytes)),
            Command::HmGet(key, fields) => {
                let of = |field: &&str| self.hash(&key, field).map_or(Value::Null, Value::from);
                Ok(Value::Array(fields.iter().map(of).collect()))
            }
            Command::Eval { script, keys, arguments } => self.eval(&script, &keys, &arguments),
            _ => Err(unreadable()),
        }
    }

    fn info(&self, key: &str) -> Answer {
        let Some(stream) = self.streams.get(key) else {
            return Err(Error::new(ErrorKind::NotFound, "ERR no such key"));
        };
        let first = stream.entries.first();
        Ok(Value::Array(vec![
            "last-generated-id".into(),
            text(stream.last),
            "first-entry".into(),
            first.map_or(Value::Null, |(id, fields)| entry(*id, fields)),
            "entries-added".into(),
            Value::Integer(stream.added as i64),
        ]))
    }

    fn eval(&mut self, script: &str, keys: &[String], arguments: &[String]) -> Answer {
        let [value, owner] = keys else { return Err(unreadable()) };
        let allowed = if script == [CHECK, STORE].concat() {
            let [generation, name, body, ttl] = arguments else { return Err(unreadable()) };
            let allowed = self.may_write(value, owner, generation, name)?;
            if allowed {
                let ttl = ttl.parse().map_err(|_| unreadable())?;
                let until = Instant::now() + Duration::from_millis(ttl);
                self.strings.insert(value.clone(), (body.clone().into(), until));
                self.writes.push((Instant::now(), value.clone(), body.clone()));
                self.own(owner, generation.clone(), name, Some(body), until);
            }
            allowed
        } else if script == [CHECK, REMOVE].concat() {
            let [generation, name, ttl] = arguments else { return Err(unreadable()) };
            let allowed = self.may_write(value, owner, generation, name)?;
            if allowed {
                let ttl = ttl.parse().map_err(|_| unreadable())?;
                let until = Instant::now() + Duration::from_millis(ttl);
                self.strings.remove(value);
                self.own(owner, generation.clone(), name, None, until);
            }
            allowed
        } else if script == TAKE {
            let [generation, name, taker, stamp, claim] = arguments else {
                return Err(unreadable());
            };
            let held = self.hash(owner, "generation").unwrap_or_else(|| "0".to_owned());
            let digest = self.hash(owner, "digest").unwrap_or_default();
            let allowed = held == *generation
                && self.hash(owner, "owner").unwrap_or_default() == *name
                && (stamp == "*" || *stamp == digest);
            if let Some((body, until)) = self.strings.get(value).cloned()
                && allowed
                && until > Instant::now()
            {
                let next = generation.parse::<u64>().map_err(|_| unreadable())? + 1;
                let body = String::from_utf8_lossy(&body).into_owned();
                let claim = self.hash(owner, "claim").unwrap_or_else(|| claim.clone());
                self.own(owner, next.to_string(), taker, Some(&body), until);
                if let Some((fields, _)) = self.hashes.get_mut(owner) {
                    fields.insert("claim".to_owned(), claim);
                }
            }
            allowed
        } else {
            return Err(unreadable());
        };
        Ok(Value::Integer(allowed.into()))
    }

    /// The body stands for its digest.
    fn own(
        &mut self,
        key: &str,
        generation: String,
        name: &str,
        body: Option<&String>,
        until: Instant,
    ) {
        let mut fields = vec![("generation", generation), ("owner", name.to_owned())];
        fields.extend(body.map(|body| ("digest", body.clone())));
        let fields = fields.into_iter().map(|(field, value)| (field.to_owned(), value));
        self.hashes.insert(key.to_owned(), (fields.collect(), until));
    }

    /// [`CHECK`].
    fn may_write(
        &self,
        value: &str,
        owner: &str,
        generation: &str,
        name: &str,
    ) -> Result<bool, Error> {
        let Some(theirs) = self.hash(owner, "generation") else { return Ok(true) };
        let theirs: u64 = theirs.parse().map_err(|_| unreadable())?;
        let ours: u64 = generation.parse().map_err(|_| unreadable())?;
        if theirs > ours || (theirs == ours && self.hash(owner, "owner").as_deref() != Some(name)) {
            return Ok(false);
        }
        let body = self.get(value).map(|body| String::from_utf8_lossy(&body).into_owned());
        Ok(theirs != ours || (body.is_some() && body == self.hash(owner, "digest")))
    }
}
