//! Requests and replies over pub/sub, and the subscriptions by which peers count this node.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use fred::error::{Error, ErrorKind};
use fred::types::Message as ChannelMessage;
use tokio::sync::{broadcast, mpsc, oneshot};

use super::link::{Link, SharedLink};
use super::{Shared, Space};
use crate::cluster::message::{Reply, Request};
use crate::cluster::wire::{self, Envelope, Kind};

/// How often a request that waits asks whether its nodes still live.
const CENSUS: Duration = Duration::from_millis(500);

/// What a request or a reply wants on a channel.
pub(super) enum Post {
    Publish {
        channel: String,
        payload: Vec<u8>,
    },
    /// Ask how many nodes there are, then begin to wait and publish.
    Ask(Ask),
    /// Ask how many nodes there are.
    Count(Arc<Space>, oneshot::Sender<usize>),
    /// A namespace is new: subscribe to its channels.
    Subscribe(Arc<Space>),
    /// A namespace is gone: peers must not count it any more.
    Unsubscribe(Arc<Space>),
    /// Namespaces may be gone.
    Left,
}

/// A request on its way. Wherever it is dropped before it was sent, who asked learns of it.
pub(super) struct Ask {
    pub(super) space: Arc<Space>,
    pub(super) payload: Vec<u8>,
    pub(super) id: String,
    /// Taken when the request begins to wait for its replies.
    pub(super) replies: Option<mpsc::UnboundedSender<Reply>>,
    pub(super) counts_acks: bool,
}

pub(super) async fn subscribe(link: &Link, space: &Space) -> Result<(), Error> {
    link.subscribe(vec![space.channels.public.clone(), space.channels.private.clone()]).await
}

/// The channel for all stays while the namespace is there in a newer form.
async fn unsubscribe(shared: &Shared, link: &Link, space: &Space) -> Result<(), Error> {
    let mut channels = vec![space.channels.private.clone()];
    if shared.space(&space.nsp).is_none() {
        channels.push(space.channels.public.clone());
    }
    link.unsubscribe(channels).await
}

/// Publishes requests and replies. Nobody is counted before this node is itself.
pub(super) async fn post(
    shared: Weak<Shared>,
    mut posts: mpsc::Receiver<Post>,
    link: SharedLink,
) -> Result<(), Error> {
    let mut is_counted = true;
    while let Some(post) = posts.recv().await {
        if !is_counted && matches!(post, Post::Count(..) | Post::Ask(_)) {
            link.subscribed().await?;
            is_counted = true;
        }
        let Some(strong) = shared.upgrade() else { return Ok(()) };
        match post {
            Post::Publish { channel, payload } => {
                link.publish(&channel, payload).await?;
            }
            Post::Count(space, counted) => {
                // who asked may have given up
                let _ = counted.send(link.subscribers(&space.channels.public).await?.all());
            }
            Post::Subscribe(space) => {
                subscribe(&link, &space).await?;
                is_counted = false;
            }
            Post::Unsubscribe(space) => unsubscribe(&strong, &link, &space).await?,
            Post::Left => {
                for space in strong.forget_left() {
                    unsubscribe(&strong, &link, &space).await?;
                }
            }
            Post::Ask(ask) => begin_request(&strong, &link, ask).await?,
        }
    }
    Ok(())
}

async fn begin_request(shared: &Arc<Shared>, link: &SharedLink, mut ask: Ask) -> Result<(), Error> {
    let (space, id) = (ask.space.clone(), ask.id.clone());
    let channel = &space.channels.public;
    let counted = link.subscribers(channel).await?;
    let others = counted.all().saturating_sub(1);
    // with no other node, dropping `replies` says that nobody will answer
    let Some(replies) = ask.replies.take().filter(|_| others > 0) else { return Ok(()) };
    shared.requests.begin(id.clone(), replies, others, ask.counts_acks);
    let received = link.publish(channel, std::mem::take(&mut ask.payload)).await?;
    let reached = (received + counted.elsewhere).saturating_sub(1);
    // More may be nodes that have joined since, or listeners to a pattern, which are no nodes: `NUMSUB` tells. Who
    // has left between the two counts may have received it, and is then waited for or missing.
    let mut known = others;
    if reached > known {
        known = known.max(link.subscribers(channel).await?.all().saturating_sub(1));
    }
    shared.requests.reached(&id, reached, known);
    tokio::spawn(census(Arc::downgrade(shared), link.clone(), space, id));
    Ok(())
}

/// While a request waits: nodes that are gone will not answer.
async fn census(shared: Weak<Shared>, link: SharedLink, space: Arc<Space>, id: String) {
    loop {
        tokio::time::sleep(CENSUS).await;
        let Some(shared) = shared.upgrade() else { return };
        // One count that is refused or comes too late is not the end of the epoch. If it has ended, so have its
        // requests.
        let counted = count_out(&shared, &link, &space, &id).await;
        if !counted.unwrap_or_else(|_| shared.requests.waits(&id)) {
            return;
        }
    }
}

/// Lets off the nodes that are gone. `false`: the request is over.
async fn count_out(shared: &Shared, link: &Link, space: &Space, id: &str) -> Result<bool, Error> {
    let mut silent = link.subscribers(&space.channels.public).await?.all().saturating_sub(1);
    for uid in shared.requests.debtors(id) {
        if is_gone(shared, link, space, &uid).await? {
            shared.requests.forget(id, &uid);
        }
    }
    // who has answered and is still there is none of those that are waited for
    for uid in shared.requests.answered_of_fewer(id, silent) {
        let is_gone = is_gone(shared, link, space, &uid).await?;
        silent = silent.saturating_sub(usize::from(!is_gone));
    }
    Ok(shared.requests.limit(id, silent))
}

async fn is_gone(shared: &Shared, link: &Link, space: &Space, uid: &str) -> Result<bool, Error> {
    let node = wire::channels(&shared.config.channel_prefix, &space.nsp, uid);
    Ok(link.subscribers(&node.private).await?.all() == 0)
}

/// Takes requests and replies from the channels.
pub(super) async fn listen(
    shared: Weak<Shared>,
    mut messages: broadcast::Receiver<ChannelMessage>,
    link: SharedLink,
) -> Result<(), Error> {
    loop {
        let message = match messages.recv().await {
            Ok(message) => message,
            Err(broadcast::error::RecvError::Lagged(lost)) => {
                if let Some(shared) = shared.upgrade() {
                    shared.metrics.bus.requests_lost.inc_by(lost);
                }
                continue;
            }
            Err(broadcast::error::RecvError::Closed) => {
                return Err(Error::new(ErrorKind::IO, "the subscriber is gone"));
            }
        };
        let Some(strong) = shared.upgrade() else { return Ok(()) };
        let known = space_of(&strong, &message.channel);
        let has_left = known.is_none();
        let Some(space) = known.or_else(|| left(&strong, &message.channel)) else { continue };
        let Some(payload) = message.value.into_bytes() else { continue };
        match Envelope::parse(&payload, &space.uid, strong.codec) {
            Ok(Some(envelope)) if envelope.nsp == space.nsp => {
                if !has_left || is_question_of_another(&envelope, &strong.node) {
                    handle(&strong, &link, &space, envelope);
                }
            }
            Ok(_) => {} // our own, or not for this namespace
            Err(error) => {
                strong.metrics.bus.malformed.inc();
                tracing::warn!(%error, "a message of a channel cannot be read");
            }
        }
    }
}

fn space_of(shared: &Shared, channel: &str) -> Option<Arc<Space>> {
    let spaces = shared.spaces.read();
    let mine =
        |space: &&Arc<Space>| space.channels.public == channel || space.channels.private == channel;
    spaces.values().find(mine).cloned()
}

/// A namespace that is gone here, on whose channel something came all the same: before Redis heard that we left, or
/// before whoever asks did. Nobody is in it.
fn left(shared: &Shared, channel: &str) -> Option<Arc<Space>> {
    let nsp = channel.strip_prefix(shared.config.channel_prefix.as_str())?;
    let nsp = nsp.strip_prefix('#')?.strip_suffix('#')?;
    Some(Arc::new(shared.new_space(&nsp.to_owned().into())))
}

fn is_question_of_another(envelope: &Envelope, node: &str) -> bool {
    matches!(envelope.kind, Kind::Request { .. }) && !envelope.uid.starts_with(node)
}

fn handle(shared: &Arc<Shared>, link: &SharedLink, space: &Arc<Space>, envelope: Envelope) {
    match envelope.kind {
        Kind::CallIn { pid, request_id } => {
            let answer = space.live().iter().find_map(|replica| replica.let_go(&pid));
            let asker = wire::channels(&shared.config.channel_prefix, &space.nsp, &envelope.uid);
            let (link, space) = (link.clone(), space.clone());
            tokio::spawn(async move {
                let answer = answer.as_ref();
                let answer = wire::called_in_payload(&space.uid, &space.nsp, &request_id, answer);
                if let Ok(answer) = answer {
                    let _ = link.publish(&asker.private, answer).await;
                }
            });
        }
        Kind::Load(load) => shared.loads.lock().heard(Instant::now(), envelope.uid, load),
        Kind::CalledIn { answer, request_id } => {
            shared.sessions.answer(&request_id, answer);
        }
        Kind::Reply { reply, request_id } => {
            shared.requests.answer(&request_id, &envelope.uid, reply);
        }
        Kind::Request { request, request_id } => {
            let (replies, receiver) = mpsc::unbounded_channel();
            let replicas = space.live();
            for replica in &replicas {
                replica.answer(&request, replies.clone());
            }
            // the namespace is gone here, but we are still counted
            let nobody = match &request {
                Request::FetchSockets { .. } => Some(Reply::Sockets(Vec::new())),
                Request::Broadcast { .. } => Some(Reply::ClientCount(0)),
                Request::ServerSideEmit { .. } => None,
            };
            if let Some(nobody) = nobody.filter(|_| replicas.is_empty()) {
                let _ = replies.send(nobody);
            }
            drop(replies);
            if let Some(id) = request_id {
                let asker =
                    wire::channels(&shared.config.channel_prefix, &space.nsp, &envelope.uid);
                tokio::spawn(relay(link.clone(), space.clone(), receiver, asker.private, id));
            }
        }
    }
}

/// Sends the answers of this node to who asked.
async fn relay(
    link: SharedLink,
    space: Arc<Space>,
    mut replies: mpsc::UnboundedReceiver<Reply>,
    channel: String,
    id: String,
) {
    while let Some(reply) = replies.recv().await {
        let write = |reply: &Reply| wire::reply_payload(&space.uid, &space.nsp, &id, reply);
        let payload = write(&reply).or_else(|error| match reply {
            // one that cannot be written will not come, and was announced
            Reply::Ack(_) => write(&Reply::NoMore(1)),
            _ => Err(error),
        });
        let Ok(payload) = payload else { continue };
        if link.publish(&channel, payload).await.is_err() {
            return;
        }
    }
}
