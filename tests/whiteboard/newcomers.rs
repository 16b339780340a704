//! What those who come to a board cost Redis.

use super::redis::{Redis, Reply};
use super::support::within;
use super::{Node, names};

/// All entries of all streams that Redis has, each as the bytes of its fields.
async fn entries(redis: &Redis) -> Vec<Vec<u8>> {
    fn add(reply: &Reply, bytes: &mut Vec<u8>) {
        match reply {
            Reply::Bytes(more) => bytes.extend(more),
            Reply::List(parts) => parts.iter().for_each(|part| add(part, bytes)),
            _ => {}
        }
    }
    let Reply::List(keys) = redis.call(&["KEYS", "*"]).await else { panic!("no keys") };
    let mut all = Vec::new();
    for key in keys {
        let Reply::Bytes(key) = key else { panic!("{key:?}") };
        let key = String::from_utf8(key).unwrap();
        if redis.call(&["TYPE", &key]).await != Reply::text("stream") {
            continue;
        }
        let Reply::List(found) = redis.call(&["XRANGE", &key, "-", "+"]).await else {
            panic!("{key}")
        };
        assert_eq!(redis.call(&["XLEN", &key]).await, Reply::Integer(found.len() as i64));
        for entry in &found {
            let mut bytes = Vec::new();
            add(entry, &mut bytes);
            all.push(bytes);
        }
    }
    all
}

fn has(entry: &[u8], text: &str) -> bool {
    entry.windows(text.len()).any(|part| part == text.as_bytes())
}

/// The same, once there is one with this text.
async fn entries_with(redis: &Redis, text: &str) -> Vec<Vec<u8>> {
    within(text, async {
        loop {
            let all = entries(redis).await;
            if all.iter().any(|entry| has(entry, text)) {
                return all;
            }
        }
    })
    .await
}

/// With recovery, what a socket is sent goes through the log; a picture for each newcomer would be all of its traffic.
#[tokio::test(flavor = "multi_thread")]
async fn newcomers_are_shown_the_board_without_a_copy_in_redis_for_each() {
    let redis = Redis::start().await;
    let url = redis.url();
    let settings = [("REDIS_URL", url.as_str()), ("RECOVERY_WINDOW", "1m")];
    let (one, two) = tokio::join!(Node::start_with(&settings), Node::start_with(&settings));
    let mut anna = one.enter("b", "anna").await;
    let points: Vec<i32> = (1_000..1_200).collect();
    for at in 0..40 {
        anna.draw(&format!("Stroke{at}x"), 0, &points).await;
    }
    let before = entries(&redis).await;
    let has =
        |entry: &[u8], text: &str| entry.windows(text.len()).any(|part| part == text.as_bytes());
    for name in ["Stroke0x", "Stroke39x"] {
        assert!(before.iter().any(|entry| has(entry, name)), "{name} went through the log");
    }
    let mut newcomers = Vec::new();
    for at in 0..12 {
        let node = if at % 2 == 0 { &one } else { &two };
        newcomers.push(node.enter("b", &format!("newcomer {at}")).await);
    }
    let board = newcomers.iter().map(|newcomer| {
        assert_eq!(names(&newcomer.welcome["strokes"]).len(), 40);
        newcomer.welcome.to_string().len()
    });
    let board = board.min().unwrap();
    // behind whatever they made the nodes send
    anna.draw("TheLast", 0, &[1, 2]).await;
    let after = entries_with(&redis, "TheLast").await;
    let new: usize = after.iter().skip(before.len()).map(Vec::len).sum();
    assert!(board > 40_000 && new < board, "{new} bytes for 12 who are shown {board} each");
    let boards = after.iter().filter(|entry| has(entry, "Stroke0x") && has(entry, "Stroke39x"));
    assert_eq!(boards.count(), 0, "of {} entries", after.len());
}
