//! The whiteboard over a real Redis: what was drawn outlives all nodes, and drawing does not wait for Redis.

#![allow(clippy::unwrap_used, reason = "in a test that is how to fail")]

#[path = "whiteboard/authors.rs"]
mod authors;
#[path = "whiteboard/hostile.rs"]
mod hostile;
#[path = "whiteboard/newcomers.rs"]
mod newcomers;
#[path = "cluster/redis.rs"]
#[allow(dead_code, reason = "shared with the tests of the cluster")]
mod redis;
#[path = "cluster/servers.rs"]
#[allow(dead_code, reason = "shared with the tests of the cluster")]
mod servers;
mod support;

use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;

use quicket::TransportKind::WebSocket;
use redis::{Redis, Reply};
use serde_json::{Value, json};
use servers::Cluster;
use support::socketio::Client;
use support::{free_port, within};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

/// As in the product.
const MAX_STROKES: usize = 2_000;
const MAX_STORED: usize = 1_000;
const MAX_EVENTS: usize = 3_000;
const MAX_TRIFLES: usize = 100;

/// A process that serves. It dies as by a power cut when it is dropped.
struct Node {
    _child: Option<Child>,
    address: SocketAddr,
}

impl Node {
    async fn start(url: &str) -> Self {
        Self::start_with(&[("REDIS_URL", url)]).await
    }

    async fn start_with(settings: &[(&str, &str)]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_quicket"));
        command.env_clear().envs([("LISTEN_ADDRESS", "127.0.0.1"), ("PORT", "0")]);
        command.envs(settings.iter().copied()).stdin(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.kill_on_drop(true).spawn().unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap()).lines();
        let address = within("a node's address", async {
            loop {
                let line = log.next_line().await.unwrap().expect("it says where it is");
                if let Some((_, port)) = line.split_once("http://localhost:") {
                    let digits: String = port.chars().take_while(char::is_ascii_digit).collect();
                    return SocketAddr::from(([127, 0, 0, 1], digits.parse().unwrap()));
                }
            }
        })
        .await;
        // a pipe that nobody reads would hold it up
        tokio::spawn(async move { while let Ok(Some(_)) = log.next_line().await {} });
        let node = Self { _child: Some(child), address };
        within("a node to serve", async {
            while node.get("/readyz").await.is_none() {
                tokio::task::yield_now().await;
            }
        })
        .await;
        node
    }

    /// One that somebody else has started.
    fn at(port: u16) -> Self {
        Self { _child: None, address: SocketAddr::from(([127, 0, 0, 1], port)) }
    }

    async fn get(&self, path: &str) -> Option<String> {
        let answer = reqwest::get(format!("http://{}{path}", self.address)).await.ok()?;
        answer.error_for_status().ok()?.text().await.ok()
    }

    async fn metric(&self, name: &str) -> i64 {
        let text = self.get("/metrics").await.unwrap();
        let prefix = format!("quicket_{name} ");
        let line = text.lines().find_map(|line| line.strip_prefix(&prefix));
        line.unwrap_or_else(|| panic!("no {name} in\n{text}")).parse().unwrap()
    }

    async fn until_metric(&self, name: &str, is_it: impl Fn(i64) -> bool) {
        within(name, async {
            while !is_it(self.metric(name).await) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await;
    }

    async fn enter(&self, board: &str, key: &str) -> Person {
        let mut client = Client::open(self.address, WebSocket).await;
        client.send(&format!("40{}", json!({ "board": board, "key": key }))).await;
        let mut person = Person { client, welcome: Value::Null, acks: 0 };
        person.welcome = person.until("board").await;
        person
    }

    /// What somebody is shown who comes now.
    async fn shows(&self, board: &str) -> Value {
        self.enter(board, "a stranger").await.welcome["strokes"].take()
    }

    /// The same, once it is these: an author's answer comes from his node, and others hear of it in their time.
    async fn until_shows(&self, board: &str, expected: &[(&str, usize)]) -> Value {
        within("the strokes", async {
            loop {
                let strokes = self.shows(board).await;
                let named = names(&strokes);
                let named = named.iter().map(|(name, length)| (name.as_str(), *length));
                if named.eq(expected.iter().copied()) {
                    return strokes;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await
    }
}

/// Somebody at a board.
struct Person {
    client: Client,
    welcome: Value,
    acks: u64,
}

impl Person {
    /// The argument of the next event of that name.
    async fn until(&mut self, name: &str) -> Value {
        loop {
            let packet = self.client.recv_text().await;
            let Some(event) = packet.strip_prefix("42") else { continue };
            let mut event: Value = serde_json::from_str(event).unwrap();
            if event[0] == name {
                return event[1].take();
            }
        }
    }

    async fn ask(&mut self, event: Value) {
        self.acks += 1;
        self.client.send(&format!("42{}{event}", self.acks)).await;
    }

    /// The answer to the last question.
    async fn answer(&mut self) -> Value {
        self.answer_to(self.acks).await
    }

    async fn answer_to(&mut self, question: u64) -> Value {
        let prefix = format!("43{question}[");
        loop {
            let packet = self.client.recv_text().await;
            if packet.starts_with(&prefix) {
                return serde_json::from_str(&packet[prefix.len() - 1..]).unwrap();
            }
        }
    }

    /// Draws on, and waits until the server says that it has it.
    async fn draw(&mut self, stroke: &str, i: usize, p: &[i32]) {
        self.ask(draw(stroke, i, p)).await;
        assert_eq!(self.answer().await, json!([{ "have": i + p.len() }]));
    }

    async fn erase(&mut self, strokes: &[&str]) {
        self.ask(json!(["erase", { "s": strokes }])).await;
        assert_eq!(self.answer().await, json!([]));
    }
}

fn draw(stroke: &str, i: usize, p: &[i32]) -> Value {
    let mut chunk = json!({ "s": stroke, "i": i, "p": p });
    if i == 0 {
        chunk["style"] = json!({ "c": "red", "w": 6, "k": 2 });
    }
    json!(["draw", chunk])
}

/// Names and lengths, in order.
fn names(strokes: &Value) -> Vec<(String, usize)> {
    let strokes = strokes.as_array().unwrap().iter();
    let name = |stroke: &Value| {
        (stroke["s"].as_str().unwrap().to_owned(), stroke["p"].as_array().unwrap().len())
    };
    strokes.map(name).collect()
}

/// Until Redis has so many strokes of the board, and its epoch.
async fn until_stored(redis: &Redis, strokes: i64) {
    let fields = Reply::Integer(strokes + 1);
    within("the board to be stored", async {
        while redis.call(&["HLEN", "socket.io:whiteboard:{b}"]).await != fields {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_two_nodes_drew_is_there_when_both_were_killed() {
    let redis = Redis::start().await;
    over_a_restart_of_all_nodes(&redis.url()).await;
    let Reply::Integer(left) = redis.call(&["PTTL", "socket.io:whiteboard:{b}"]).await else {
        panic!("no time")
    };
    assert!(left > 29 * 24 * 3_600_000, "a board that nobody opens expires: {left}");
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_the_same_in_a_redis_cluster() {
    let cluster = Cluster::start(None).await;
    over_a_restart_of_all_nodes(&cluster.url()).await;
}

async fn over_a_restart_of_all_nodes(url: &str) {
    let (one, two) = tokio::join!(Node::start(url), Node::start(url));
    let mut anna = one.enter("b", "anna").await;
    let mut ben = two.enter("b", "ben").await;
    let mut elsewhere = two.enter("another", "ben").await;
    // they draw upon each other, in turns
    for (round, name) in ["1", "2", "3", "4", "5", "6", "7"].into_iter().enumerate() {
        let x = round as i32;
        anna.draw(name, 0, &[x, 0]).await;
        ben.draw(name, 0, &[-x, 0]).await;
        anna.draw(name, 2, &[x, 1, x, 2]).await;
    }
    // one takes back a stroke, the other all of them but one
    anna.erase(&["3"]).await;
    ben.erase(&["1", "2", "3", "4", "6", "7"]).await;
    elsewhere.draw("1", 0, &[9, 9]).await;
    let epoch = anna.welcome["epoch"].take();
    let expected = [("1", 6), ("2", 6), ("4", 6), ("5", 6), ("5", 2), ("6", 6), ("7", 6)];
    let before = one.until_shows("b", &expected).await;
    assert_eq!(two.until_shows("b", &expected).await, before, "both nodes show the same");
    drop((one, two));
    let (one, two) = tokio::join!(Node::start(url), Node::start(url));
    for node in [&one, &two] {
        assert_eq!(node.shows("b").await, before, "as before");
        assert_eq!(names(&node.shows("another").await), [("1".to_owned(), 2)]);
    }
    // it is the same board: pages need not bring their strokes again, and go on with them
    let mut anna = one.enter("b", "anna").await;
    assert_eq!(anna.welcome["epoch"], epoch);
    anna.draw("7", 6, &[7, 7]).await;
    anna.erase(&["1"]).await;
    let expected = [("2", 6), ("4", 6), ("5", 6), ("5", 2), ("6", 6), ("7", 8)];
    let before = two.until_shows("b", &expected).await;
    drop((one, two));
    let one = Node::start(url).await;
    assert_eq!(one.shows("b").await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_board_that_is_full_stays_within_its_bound_and_keeps_the_newest() {
    let redis = Redis::start().await;
    let node = Node::start(&redis.url()).await;
    let mut anna = node.enter("b", "anna").await;
    let last = MAX_STROKES + 50;
    for at in 0..last {
        anna.client.emit(draw(&at.to_string(), 0, &[1, 2])).await;
    }
    anna.draw(&last.to_string(), 0, &[1, 2]).await;
    node.until_metric("whiteboard_changes_unstored", |unstored| unstored == 0).await;
    let key = "socket.io:whiteboard:{b}";
    let fields = MAX_STROKES as i64 + 1; // and the epoch
    assert_eq!(redis.call(&["HLEN", key]).await, Reply::Integer(fields));
    drop(node);
    let node = Node::start(&redis.url()).await;
    let names = names(&node.shows("b").await);
    assert_eq!((names.len(), names[0].0.as_str()), (MAX_STROKES, "51"));
}

#[tokio::test(flavor = "multi_thread")]
async fn there_are_so_many_boards_and_those_left_longest_ago_go() {
    // how many there are, of how many KiB, and how many go: 160 MiB may stay
    for (many, kib, gone) in [(MAX_STORED as u64, 0, 1), (300, 700, 66)] {
        let redis = Redis::start().await;
        let node = Node::start(&redis.url()).await;
        let list = "socket.io:whiteboard:boards";
        let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs();
        for at in 0..many {
            let (score, name) = ((1_024 * (now - 5_000 + at) + kib).to_string(), format!("b{at}"));
            redis.call(&["ZADD", list, &score, &name]).await;
        }
        let key = |at: u64| format!("socket.io:whiteboard:{{b{at}}}");
        for at in [gone - 1, gone] {
            redis.call(&["HSET", &key(at), "epoch", "e"]).await;
        }
        node.enter("one-more", "anna").await.draw("1", 0, &[1, 2]).await;
        within("the oldest to go", async {
            while redis.call(&["EXISTS", &key(gone - 1)]).await == Reply::Integer(1) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
        assert_eq!(redis.call(&["EXISTS", &key(gone)]).await, Reply::Integer(1));
        let left = Reply::Integer((many - gone + 1) as i64);
        assert_eq!(redis.call(&["ZCARD", list]).await, left);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_redis_drawing_goes_on_and_is_stored_when_it_is_back() {
    let mut redis = Redis::start_with_data().await;
    let node = Node::start(&redis.url()).await;
    let mut anna = node.enter("b", "anna").await;
    let mut ben = node.enter("b", "ben").await;
    anna.draw("1", 0, &[1, 2]).await;
    anna.draw("2", 0, &[1, 2]).await;
    redis.kill();
    node.until_metric("bus_connected", |connected| connected == 0).await;
    // begun before, taken back, and new; on a board of its own, too
    anna.draw("1", 2, &[3, 4]).await;
    anna.erase(&["2"]).await;
    anna.draw("3", 0, &[5, 6]).await;
    let mut carl = node.enter("new", "carl").await;
    carl.draw("1", 0, &[7, 8]).await;
    while ben.until("draw").await["s"] != "3" {}
    assert!(node.metric("whiteboard_store_errors_total").await > 0, "it is counted");
    let (before, new) = (node.shows("b").await, node.shows("new").await);
    redis.restart().await;
    node.until_metric("whiteboard_changes_unstored", |unstored| unstored == 0).await;
    drop(node);
    let node = Node::start(&redis.url()).await;
    assert_eq!(node.shows("b").await, before);
    assert_eq!(names(&before), [("1".to_owned(), 4), ("3".to_owned(), 2)]);
    assert_eq!(node.shows("new").await, new);
    assert_eq!(names(&new).len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_comes_back_empty_gets_what_the_nodes_have() {
    let mut redis = Redis::start().await;
    let node = Node::start(&redis.url()).await;
    let mut anna = node.enter("b", "anna").await;
    anna.draw("1", 0, &[1, 2]).await;
    let before = node.shows("b").await;
    redis.kill();
    redis.restart().await;
    // nobody draws
    until_stored(&redis, 1).await;
    drop(node);
    let node = Node::start(&redis.url()).await;
    assert_eq!(node.shows("b").await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_board_opened_while_redis_hangs_is_shown_and_gets_its_strokes_later() {
    let redis = Redis::start().await;
    let node = Node::start(&redis.url()).await;
    node.enter("b", "anna").await.draw("1", 0, &[1, 2]).await;
    drop(node);
    let node = Node::start(&redis.url()).await;
    redis.signal("STOP");
    let mut ben = node.enter("b", "ben").await;
    assert_eq!(ben.welcome["strokes"], json!([]), "Redis has not answered");
    ben.draw("1", 0, &[3, 4]).await;
    redis.signal("CONT");
    let late = ben.until("draw").await;
    assert_eq!((&late["s"], &late["p"]), (&json!("1"), &json!([1, 2])));
    assert_eq!(names(&node.shows("b").await).len(), 2);
    until_stored(&redis, 2).await;
    drop(node);
    let node = Node::start(&redis.url()).await;
    assert_eq!(names(&node.shows("b").await).len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_refuses_boards_does_not_hold_up_drawing() {
    let redis = Redis::start().await;
    let node = Node::start(&redis.url()).await;
    let mut anna = node.enter("b", "anna").await;
    redis.call(&["ACL", "SETUSER", "default", "-hset"]).await;
    // together in the time for one: none of them waits for Redis
    within("drawing", async {
        for at in 0..40 {
            anna.draw("1", 2 * at, &[1, at as i32]).await;
        }
    })
    .await;
    assert!(node.metric("whiteboard_store_errors_total").await > 0);
    redis.call(&["ACL", "SETUSER", "default", "+hset"]).await;
    node.until_metric("whiteboard_changes_unstored", |unstored| unstored == 0).await;
    let before = node.shows("b").await;
    drop(node);
    assert_eq!(Node::start(&redis.url()).await.shows("b").await, before);
}

/// What docs/cluster.md says to grant for the whiteboard is enough, and each word of it is used.
#[tokio::test(flavor = "multi_thread")]
async fn an_acl_user_with_what_the_docs_say_for_boards() {
    let redis = Redis::start().await;
    let docs = include_str!("../docs/cluster.md");
    let lines = docs.lines().filter_map(|line| line.trim().strip_prefix("ACL SETUSER quicket "));
    let lines: Vec<Vec<&str>> = lines.map(|line| line.split_whitespace().collect()).collect();
    let (base, boards) = (&lines[0], lines.iter().find(|line| line.contains(&"+hgetall")).unwrap());
    for rules in [base, boards] {
        let command = [&["ACL", "SETUSER", "quicket"], &rules[..]].concat();
        assert_eq!(redis.call(&command).await, Reply::text("OK"));
    }
    redis.call(&["CONFIG", "RESETSTAT"]).await;
    let url = format!("redis://quicket:password@127.0.0.1:{}", redis.port);
    let node = Node::start(&url).await;
    let list = "socket.io:whiteboard:boards";
    let now = (1_024 * std::time::UNIX_EPOCH.elapsed().unwrap().as_secs()).to_string();
    for at in 0..MAX_STORED {
        redis.call(&["ZADD", list, &now, &format!("a{at}")]).await;
    }
    let mut anna = node.enter("b", "anna").await;
    for (i, p) in [(0, [1, 2]), (2, [3, 4])] {
        anna.draw("1", i, &p).await;
    }
    anna.draw("2", 0, &[1, 2]).await;
    anna.erase(&["2"]).await;
    drop(node);
    let node = Node::start(&url).await;
    assert_eq!(names(&node.shows("b").await), [("1".to_owned(), 4)]);
    assert_eq!(redis.call(&["ACL", "LOG"]).await, Reply::List(Vec::new()));
    let Reply::Bytes(stats) = redis.call(&["INFO", "commandstats"]).await else { panic!() };
    let stats = String::from_utf8(stats).unwrap();
    let granted = boards.iter().filter_map(|rule| rule.strip_prefix('+'));
    let unused: Vec<_> =
        granted.filter(|name| !stats.contains(&format!("cmdstat_{name}:"))).collect();
    assert!(unused.is_empty(), "{unused:?}");
}

// --- how much one may do

/// A flood of events, which needs as long as it needs: meanwhile more is allowed. So many of `count` may
/// be refused at the most.
fn is_bounded(refused: i64, count: usize) -> bool {
    refused > 0 && refused <= count as i64
}

#[tokio::test(flavor = "multi_thread")]
async fn who_draws_too_much_is_told_to_wait_and_nothing_is_lost() {
    let node = Node::start_with(&[]).await;
    let mut anna = node.enter("b", "anna").await;
    let mut ben = node.enter("b", "ben").await;
    let count = 3 * MAX_EVENTS;
    for at in 0..count {
        anna.ask(draw(&at.to_string(), 0, &[1, 2])).await;
    }
    let (mut accepted, mut wait) = (Vec::new(), 0);
    for at in 0..count {
        let answer = anna.answer_to(at as u64 + 1).await;
        match answer[0]["later"].as_u64() {
            Some(later) => wait = later,
            None => {
                assert_eq!(answer, json!([{ "have": 2 }]));
                accepted.push(at.to_string());
            }
        }
    }
    assert!((0..MAX_EVENTS).all(|at| accepted[at] == at.to_string()), "up to the limit");
    let refused = node.metric("whiteboard_draws_refused_total").await;
    assert!(refused > 0);
    assert_eq!(refused, (count - accepted.len()) as i64);
    // nobody else is refused, and what was accepted is there
    ben.draw("by.ben", 0, &[1, 2]).await;
    accepted.push("by.ben".to_owned());
    let shown: Vec<_> = names(&node.shows("b").await).into_iter().map(|name| name.0).collect();
    assert_eq!(shown, accepted[accepted.len() - MAX_STROKES..]);
    // after the time that was named it is taken
    tokio::time::sleep(Duration::from_millis(wait)).await;
    anna.draw("again", 0, &[1, 2]).await;
    for _ in 0..MAX_EVENTS {
        anna.client.emit(json!(["erase", { "s": ["again"] }])).await;
    }
    anna.ask(json!(["erase", { "s": ["again"] }])).await;
    anna.answer().await;
    assert!(is_bounded(node.metric("whiteboard_erasures_refused_total").await, MAX_EVENTS + 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn cursors_above_the_limit_are_dropped_and_counted() {
    let node = Node::start_with(&[]).await;
    let mut anna = node.enter("b", "anna").await;
    for at in 0..MAX_TRIFLES {
        anna.client.emit(json!(["cursor", [at, 0, "red"]])).await;
    }
    anna.draw("1", 0, &[1, 2]).await; // behind all of them
    assert_eq!(node.metric("whiteboard_trifles_dropped_total").await, 0);
    for at in 0..20 * MAX_TRIFLES {
        anna.client.emit(json!(["cursor", [at, 0, "red"]])).await;
    }
    anna.draw("1", 2, &[1, 2]).await;
    assert!(is_bounded(node.metric("whiteboard_trifles_dropped_total").await, 20 * MAX_TRIFLES));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_erasure_that_makes_no_sense_is_answered() {
    let node = Node::start_with(&[]).await;
    let mut anna = node.enter("b", "anna").await;
    anna.ask(json!(["erase", { "s": ["<b>"] }])).await;
    assert!(anna.answer().await[0]["refused"].is_string());
}

/// What `make cluster` runs.
struct Script {
    child: Child,
    /// Of the two servers, and of Redis.
    ports: [u16; 3],
}

impl Script {
    async fn start() -> Self {
        // another process may take a port before the script does: then it ends, and others are tried
        for _ in 0..5 {
            let (first, redis) = (free_port(), free_port());
            let mut command = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/cluster"));
            command
                .env("QUICKET", env!("CARGO_BIN_EXE_quicket"))
                .env("LISTEN_ADDRESS", "127.0.0.1");
            command.env("PORT", first.to_string()).env("REDIS_PORT", redis.to_string());
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            let child = command.spawn().unwrap();
            let mut script = Self { child, ports: [first, first + 1, redis] };
            if script.serves().await {
                return script;
            }
        }
        panic!("scripts/cluster does not start");
    }

    /// Waits until both answer; `false` if it ended.
    async fn serves(&mut self) -> bool {
        let [first, second, _] = self.ports;
        within("both servers", async {
            while Node::at(first).get("/readyz").await.is_none()
                || Node::at(second).get("/readyz").await.is_none()
            {
                if self.child.try_wait().unwrap().is_some() {
                    return false;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            true
        })
        .await
    }

    fn signal(&self, signal: &str) {
        // it may have ended
        let Some(pid) = self.child.id() else { return };
        let _ = std::process::Command::new("kill").args([signal, &pid.to_string()]).status();
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        self.signal("-TERM"); // on which it ends what it has started
    }
}

/// As the README says.
#[tokio::test(flavor = "multi_thread")]
async fn make_cluster_starts_two_servers_that_draw_together_and_ends_all_of_them() {
    let mut script = Script::start().await;
    let mut anna = Node::at(script.ports[0]).enter("lobby", "anna").await;
    let mut ben = Node::at(script.ports[1]).enter("lobby", "ben").await;
    anna.draw("1", 0, &[1, 2, 3, 4]).await;
    assert_eq!(ben.until("draw").await["p"], json!([1, 2, 3, 4]));
    ben.draw("2", 0, &[5, 6]).await;
    assert_eq!(anna.until("draw").await["p"], json!([5, 6]));
    drop((anna, ben));
    // Not Ctrl-C, which it treats alike: a shell that was started with SIGINT ignored, as tests in the background
    // are, cannot trap it.
    script.signal("-TERM");
    let ended = within("the script to end", script.child.wait()).await.unwrap();
    assert_eq!(ended.code(), Some(143));
    for port in script.ports {
        let refused = tokio::net::TcpStream::connect(("127.0.0.1", port)).await;
        assert!(refused.is_err(), "something still listens on {port}");
    }
}
