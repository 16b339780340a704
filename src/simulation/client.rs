//! A client as the official one behaves, with a bad network.

use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, sleep_until};

use super::pipe::{Down, Pipe};
use super::world::World;

/// An event that came.
#[derive(Clone, Debug)]
pub(super) struct Received {
    /// The application's number of it.
    pub(super) number: u64,
    /// Its last argument, where that is a text.
    pub(super) offset: Option<String>,
}

/// All that a client knew of one session.
#[derive(Clone, Debug)]
pub(super) struct Life {
    pub(super) client: usize,
    pub(super) user: String,
    pub(super) sid: String,
    pub(super) pid: String,
    pub(super) received: Vec<Received>,
    /// When it was told that it was connected, first and again.
    pub(super) connected: Vec<Instant>,
    /// The server has ended it.
    pub(super) put_out: bool,
    /// And it went on all the same.
    pub(super) came_back: bool,
}

/// A session that a client asked for and did not get.
#[derive(Clone, Debug)]
pub(super) struct Refused {
    pub(super) at: Instant,
    /// When the connection before was lost.
    pub(super) lost: Instant,
    pub(super) pid: String,
    pub(super) other_user: bool,
    /// Who refused.
    pub(super) node: usize,
}

pub(super) struct Client {
    index: usize,
    world: Arc<World>,
    random: StdRng,
    user: String,
    pid: Option<String>,
    offset: Option<String>,
    connected: bool,
    buffer: Vec<(u64, Option<String>)>,
    lives: Vec<Life>,
    lost: Instant,
    other_user: bool,
    attempts: u64,
    /// Where it is connected, or tries to be.
    node: usize,
}

/// How a connection ended, for the client.
#[derive(Debug, PartialEq)]
enum End {
    /// The server closed it, or it broke.
    Lost,
    /// This client is out of the namespace, and comes back when it likes.
    PutOut,
    /// All is over.
    Over,
}

impl Client {
    pub(super) fn new(world: &Arc<World>, index: usize) -> Self {
        let seed = world.seed.wrapping_mul(31) ^ (0xc11e_0000 + index as u64);
        Self {
            index,
            world: world.clone(),
            random: StdRng::seed_from_u64(seed),
            user: format!("u{index}"),
            pid: None,
            offset: None,
            connected: false,
            buffer: Vec::new(),
            lives: Vec::new(),
            lost: Instant::now(),
            other_user: false,
            attempts: 0,
            node: 0,
        }
    }

    /// Connects again and again. Gives all its sessions, and is connected at the end or says so.
    pub(super) async fn run(mut self) -> (Vec<Life>, bool) {
        loop {
            let end = self.connection().await;
            let was_connected = std::mem::replace(&mut self.connected, false);
            if end == End::Over {
                return (self.lives, was_connected);
            }
            let client = self.index;
            self.world.say(|| format!("client {client} {end:?}"));
            if was_connected {
                self.lost = Instant::now();
            }
            let pause = match self.random.random_range(0..10) {
                0..=3 => self.random.random_range(0..20),
                4..=8 => self.random.random_range(20..400),
                _ => self.random.random_range(400..1_500),
            };
            let long =
                self.random.random_bool(self.world.plan.long_absence) && !self.world.is_calm();
            let pause = if long { 4_000 + pause } else { pause };
            sleep(Duration::from_millis(pause)).await;
            if self.random.random_bool(self.world.plan.other_user) && !self.world.is_calm() {
                self.user = format!("u{}-{}", self.index, self.attempts);
                self.other_user = true;
            }
        }
    }

    async fn connection(&mut self) -> End {
        let Some(node) = self.world.some_node(&mut self.random) else { return self.idle().await };
        self.attempts += 1;
        self.node = node.index;
        let (client, to) = (self.index, node.index);
        let (pid, offset) = (&self.pid, &self.offset);
        self.world.say(|| format!("client {client} to {to}: {pid:?} {offset:?}"));
        let pipe = Pipe::new(self.random.random(), self.world.plan.delay);
        sleep(pipe.moment()).await;
        if !node.takes_clients() {
            return self.idle().await;
        }
        node.accept(pipe.clone());
        drop(node);
        pipe.to_server(format!("0{}", self.hello()));
        let patience =
            Instant::now() + Duration::from_millis(self.random.random_range(2_500..4_000));
        // it may die in the middle of an attempt
        let cut = self.next_cut();
        let mut send = Instant::now() + Duration::from_millis(self.random.random_range(1..300));
        let mut stall = Instant::now() + Duration::from_millis(self.random.random_range(1..4_000));
        let over = self.world.clone();
        loop {
            tokio::select! {
                biased;
                down = pipe.client_next() => match down {
                    Down::Closed => return End::Lost,
                    Down::Message(text) => {
                        if let Some(end) = self.handle(&text, &pipe) {
                            pipe.close();
                            return end;
                        }
                    }
                },
                () = sleep_until(cut), if !over.is_calm() => {
                    self.cut(&pipe);
                    return End::Lost;
                }
                () = sleep_until(patience), if !self.connected => {
                    pipe.close();
                    return End::Lost;
                }
                () = sleep_until(send), if !over.is_calm() => {
                    if self.connected {
                        let command = self.command();
                        pipe.to_server(command);
                    }
                    let pause = self.random.random_range(20..500);
                    send = Instant::now() + Duration::from_millis(pause);
                }
                () = sleep_until(stall), if !over.is_calm() => {
                    let (pipe, held) = (pipe.clone(), self.random.random_range(1..1_000));
                    pipe.hold(true);
                    tokio::spawn(async move {
                        sleep(Duration::from_millis(held)).await;
                        pipe.hold(false);
                    });
                    let next = self.random.random_range(1_000..9_000);
                    stall = Instant::now() + Duration::from_millis(next);
                }
                () = over.over() => return End::Over,
            }
        }
    }

    async fn idle(&self) -> End {
        tokio::select! {
            () = sleep(Duration::from_millis(50)) => End::Lost,
            () = self.world.over() => End::Over,
        }
    }

    fn next_cut(&mut self) -> Instant {
        let most = self.world.plan.cut_every;
        let after = match self.random.random_range(0..8) {
            0 => self.random.random_range(0..60),
            _ => self.random.random_range(most / 5..most),
        };
        Instant::now() + Duration::from_millis(after)
    }

    fn cut(&mut self, pipe: &Pipe) {
        if self.random.random_bool(self.world.plan.half_open) {
            pipe.cut(Duration::from_millis(self.random.random_range(300..6_000)));
        } else {
            pipe.close();
        }
    }

    fn hello(&mut self) -> Value {
        let slow = self.random.random_bool(0.3);
        let think = if slow { self.random.random_range(0..150) } else { 0 };
        let refuse = self.random.random_bool(0.03) && !self.world.is_calm();
        let mut hello = json!({ "user": self.user, "think": think, "refuse": refuse });
        if let Some(pid) = &self.pid {
            hello["pid"] = json!(pid);
            if let Some(offset) = &self.offset {
                hello["offset"] = json!(offset);
            }
        }
        hello
    }

    fn command(&mut self) -> String {
        let room = format!("h{}", self.random.random_range(0..3));
        let (what, value) = match self.random.random_range(0..10) {
            0..=2 => ("join", room),
            3..=4 => ("leave", room),
            5 => ("data", format!("d{}", self.random.random_range(0..1_000))),
            6..=7 => ("shout", String::new()),
            _ => ("echo", "mine".to_owned()),
        };
        format!("2{}", json!(["cmd", what, value]))
    }

    fn handle(&mut self, text: &str, pipe: &Pipe) -> Option<End> {
        let body = text[1..].find(['[', '{']).map_or("", |at| &text[1 + at..]);
        let value: Value = serde_json::from_str(body).unwrap_or(Value::Null);
        match text.as_bytes()[0] {
            b'0' => self.welcome(&value),
            b'1' => {
                if let Some(life) = self.lives.last_mut() {
                    life.put_out = true;
                }
                return Some(End::PutOut);
            }
            b'2' => {
                let id = &text[1..text.len() - body.len()];
                self.event(&value, id, pipe);
            }
            b'4' => return Some(End::PutOut),
            _ => {}
        }
        None
    }

    fn welcome(&mut self, value: &Value) {
        let text = |name: &str| value[name].as_str().expect("a text").to_owned();
        let (sid, pid) = (text("sid"), text("pid"));
        let now = Instant::now();
        let recovered = self.pid.as_ref() == Some(&pid);
        let (index, offset) = (self.index, &self.offset);
        self.world
            .say(|| format!("client {index} in: {sid} {pid} recovered {recovered} {offset:?}"));
        if let Some(old) = self.pid.replace(pid.clone()).filter(|_| !recovered) {
            let other_user = self.other_user;
            let (lost, node) = (self.lost, self.node);
            let refused = Refused { at: now, lost, pid: old, other_user, node };
            self.world.trace(|trace| trace.refused.push(refused));
        }
        self.other_user = false;
        self.connected = true;
        if recovered {
            let life = self.lives.last_mut().expect("it had a session");
            assert_eq!(life.sid, sid, "a session that goes on keeps its id");
            assert_eq!(life.user, self.user, "a session does not go to another identity");
            life.came_back |= life.put_out;
            life.connected.push(now);
        } else {
            self.lives.push(Life {
                client: self.index,
                user: self.user.clone(),
                sid: sid.clone(),
                pid,
                received: Vec::new(),
                connected: vec![now],
                put_out: false,
                came_back: false,
            });
            self.world.set_sid(self.index, sid);
        }
        for (number, offset) in std::mem::take(&mut self.buffer) {
            self.emit(number, offset);
        }
    }

    fn event(&mut self, value: &Value, id: &str, pipe: &Pipe) {
        let number = value[1].as_u64().expect("events of the simulation have a number");
        let last = value.as_array().and_then(|args| args.last());
        // an event that wants an answer has a function behind its arguments
        let offset = last.and_then(Value::as_str).map(str::to_owned).filter(|_| id.is_empty());
        if !id.is_empty() {
            pipe.to_server(format!("3{id}[{number}]"));
        }
        if self.connected {
            self.emit(number, offset);
        } else {
            self.buffer.push((number, offset));
        }
    }

    fn emit(&mut self, number: u64, offset: Option<String>) {
        let client = self.index;
        self.world.say(|| format!("client {client} got {number} {offset:?}"));
        if let Some(offset) = &offset {
            self.offset = Some(offset.clone());
        }
        let life = self.lives.last_mut().expect("connected");
        life.received.push(Received { number, offset });
    }
}
