//! What applications send and change from outside of handlers, on every node.

use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::time::{Instant, sleep};

use super::node::Node;
use super::world::World;
use crate::socketio::Namespace;

/// Publishes until the world is calm or the node gone.
pub(super) async fn run(world: Arc<World>, node: Arc<Node>) {
    let mut random = StdRng::seed_from_u64(world.seed ^ (node.index as u64 + 77) << 8);
    loop {
        let most = world.plan.publish_every;
        // now and then several at once
        if random.random_bool(0.8) {
            sleep(Duration::from_millis(random.random_range(1..most))).await;
        }
        if world.is_calm() || node.dead.value() {
            return;
        }
        if node.held.value() {
            sleep(Duration::from_millis(50)).await;
            continue;
        }
        let Some(nsp) = node.namespace() else { return };
        once(&world, &node, &nsp, &mut random).await;
    }
}

fn room(random: &mut StdRng) -> String {
    let letter = if random.random_bool(0.6) { 'h' } else { 'o' };
    format!("{letter}{}", random.random_range(0..3))
}

async fn once(world: &Arc<World>, node: &Arc<Node>, nsp: &Namespace, random: &mut StdRng) {
    let number = world.number();
    let sids = world.sids();
    let sid = match sids.len() {
        0 => "nobody".to_owned(),
        count => sids[random.random_range(0..count)].clone(),
    };
    let (a, b, c) = (room(random), room(random), room(random));
    let text = "not an offset";
    let accepted = match random.random_range(0..100) {
        0..=29 => nsp.emit("e", &(number, text)).await,
        30..=49 => nsp.to(a).emit("e", &number).await,
        50..=57 => nsp.to([a, b]).except(c).emit("e", &(number, text)).await,
        58..=63 => nsp.except([a, b]).emit("e", &number).await,
        64..=71 => nsp.to(sid).emit("e", &number).await,
        72..=73 => nsp.to(format!("user-{}", &a[1..])).emit("e", &number).await,
        74..=77 => {
            let _ = nsp.volatile().emit("e", &(number, text)).await;
            return;
        }
        78..=81 => {
            let _ = nsp.local().emit("e", &(number, text)).await;
            return;
        }
        82..=84 => {
            if let Some(socket) = nsp.local_socket(&sid) {
                let asked = async move {
                    let sender = socket.timeout(Duration::from_secs(2));
                    let _ = sender.emit_with_ack::<_, u64>("e", &number).await;
                };
                tokio::spawn(asked);
            }
            return;
        }
        85..=86 => {
            world.trace(|trace| {
                trace.asked.insert(number);
            });
            let asked = nsp.timeout(Duration::from_secs(2));
            tokio::spawn(async move { asked.emit_with_ack::<_, u64>("e", &number).await });
            return;
        }
        kind @ 87..=98 => return change(nsp, kind, sid, a, random),
        _ => match nsp.local_socket(&sid) {
            Some(socket) => socket.emit("e", &(number, text)).await,
            None => return,
        },
    };
    if accepted.is_ok() {
        let index = node.index;
        world.trace(|trace| {
            trace.accepted.insert(number, (index, Instant::now()));
        });
    }
}

/// Moves sockets, wherever they are.
fn change(nsp: &Namespace, kind: u32, sid: String, room: String, random: &mut StdRng) {
    let outside = format!("o{}", random.random_range(0..3));
    // an error says that the node is full of what Redis has not taken yet: then nothing changes
    let _ = match kind {
        87..=92 => nsp.to(sid).sockets_join(outside),
        93..=95 => nsp.to(sid).sockets_leave(outside),
        96 => nsp.to(room).sockets_join(outside),
        97 => nsp.sockets_leave(outside),
        _ if random.random_bool(0.3) => nsp.to(sid).disconnect_sockets(false),
        _ => return,
    };
}

/// Something for everyone, by which it shows who has all.
pub(super) async fn last_word(nodes: &[Arc<Node>]) {
    for node in nodes {
        if let Some(nsp) = node.namespace() {
            let number = node.world.number();
            let _ = nsp.emit("e", &number).await;
        }
    }
}
