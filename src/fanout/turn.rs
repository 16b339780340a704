//! What one turn of a task pushes goes out when the turn is over: each peer gets one `write` for all of it,
//! outside the locks that order deliveries.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::runtime::Handle;

use super::Mailbox;

/// Peers that are written to at a stretch. More are written to by tasks of their own, so that all cores take
/// part, and nobody waits for a thousand of them.
const STRETCH: usize = 128;

/// How long such a task writes before it lets others have the thread, those among them whose packets come
/// meanwhile.
const SLICE: Duration = Duration::from_micros(250);

#[derive(Default)]
struct Turn {
    depth: usize,
    ready: Vec<Arc<Mailbox>>,
}

thread_local! {
    static TURN: RefCell<Turn> = RefCell::default();
}

/// Does one piece of work (without waiting), then writes what it has pushed. A turn within a turn is part of
/// it.
pub(crate) fn turn<T>(act: impl FnOnce() -> T) -> T {
    TURN.with_borrow_mut(|turn| turn.depth += 1);
    let _end = End;
    act()
}

/// Also when the turn panicked: what is listed is listed nowhere else.
struct End;

impl Drop for End {
    fn drop(&mut self) {
        let ready = TURN.with_borrow_mut(|turn| {
            turn.depth -= 1;
            if turn.depth == 0 { std::mem::take(&mut turn.ready) } else { Vec::new() }
        });
        flush(ready);
    }
}

/// To be written at the end of the turn; `false`: there is none.
pub(super) fn list(mailbox: &Arc<Mailbox>) -> bool {
    TURN.with_borrow_mut(|turn| {
        if turn.depth > 0 {
            turn.ready.push(mailbox.clone());
        }
        turn.depth > 0
    })
}

/// A write to WebTransport encrypts, and costs five times that to WebSocket.
async fn stretch(mailboxes: Vec<Arc<Mailbox>>) {
    let mut begun = Instant::now();
    for mailbox in &mailboxes {
        mailbox.flush();
        if begun.elapsed() >= SLICE {
            tokio::task::yield_now().await;
            begun = Instant::now();
        }
    }
}

fn flush(mut ready: Vec<Arc<Mailbox>>) {
    if ready.len() > STRETCH
        && let Ok(runtime) = Handle::try_current()
    {
        while ready.len() > STRETCH {
            let some = ready.split_off(ready.len() - STRETCH);
            runtime.spawn(stretch(some));
        }
    }
    ready.iter().for_each(|mailbox| mailbox.flush());
}
