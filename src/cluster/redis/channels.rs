//! Requests and replies over pub/sub, and the subscriptions by which peers count this node.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use fred::clients::{Client, SubscriberClient};
use fred::error::{Error, ErrorKind};
use fred::interfaces::PubsubInterface;
use fred::types::Message as ChannelMessage;
use tokio::sync::{broadcast, mpsc};

use super::epoch::timed;
use super::{Ask, Post, Shared, Space};
use crate::cluster::message::{Reply, Request};
use crate::cluster::wire::{self, Envelope, Kind};

/// How often a request that waits asks whether its nodes still live.
const CENSUS: Duration = Duration::from_millis(500);

pub(super) async fn subscribe(
    shared: &Shared,
    subscriber: &SubscriberClient,
    space: &Space,
) -> Result<(), Error> {
    let channels = vec![space.channels.public.clone(), space.channels.private.clone()];
    if shared.config.sharded_pubsub {
        for channel in channels {
            timed(subscriber.ssubscribe(channel)).await?;
        }
        Ok(())
    } else {
        timed(subscriber.subscribe(channels)).await
    }
}

/// The channel for all stays while the namespace is there in a newer form.
async fn unsubscribe(
    shared: &Shared,
    subscriber: &SubscriberClient,
    space: &Space,
) -> Result<(), Error> {
    let mut channels = vec![space.channels.private.clone()];
    if shared.space(&space.nsp).is_none() {
        channels.push(space.channels.public.clone());
    }
    if shared.config.sharded_pubsub {
        for channel in channels {
            timed(subscriber.sunsubscribe(channel)).await?;
        }
        Ok(())
    } else {
        timed(subscriber.unsubscribe(channels)).await
    }
}

async fn publish(
    shared: &Shared,
    writer: &Client,
    channel: &str,
    payload: Vec<u8>,
) -> Result<(), Error> {
    let payload = Bytes::from(payload);
    if shared.config.sharded_pubsub {
        timed(writer.spublish::<(), _, _>(channel, payload)).await
    } else {
        timed(writer.publish::<(), _, _>(channel, payload)).await
    }
}

/// Nodes that have the namespace, this one included (Node's `serverCount`).
async fn node_count(shared: &Shared, writer: &Client, channel: &str) -> Result<usize, Error> {
    let counts: HashMap<String, usize> = if shared.config.sharded_pubsub {
        timed(writer.pubsub_shardnumsub(channel)).await?
    } else {
        timed(writer.pubsub_numsub(channel)).await?
    };
    Ok(counts.values().sum())
}

/// Publishes requests and replies.
pub(super) async fn post(
    shared: Weak<Shared>,
    mut posts: mpsc::Receiver<Post>,
    writer: Client,
    subscriber: SubscriberClient,
) -> Result<(), Error> {
    while let Some(post) = posts.recv().await {
        let Some(strong) = shared.upgrade() else { return Ok(()) };
        match post {
            Post::Publish { channel, payload } => {
                publish(&strong, &writer, &channel, payload).await?;
            }
            Post::Subscribe(space) => subscribe(&strong, &subscriber, &space).await?,
            Post::Unsubscribe(space) => unsubscribe(&strong, &subscriber, &space).await?,
            Post::Ask(ask) => begin_request(&strong, &writer, ask).await?,
        }
    }
    Ok(())
}

async fn begin_request(shared: &Arc<Shared>, writer: &Client, mut ask: Ask) -> Result<(), Error> {
    let (space, id) = (ask.space.clone(), ask.id.clone());
    let channel = &space.channels.public;
    let others = node_count(shared, writer, channel).await?.saturating_sub(1);
    // with no other node, dropping `replies` says that nobody will answer
    let Some(replies) = ask.replies.take().filter(|_| others > 0) else { return Ok(()) };
    shared.requests.begin(id.clone(), replies, others, ask.counts_acks);
    publish(shared, writer, channel, std::mem::take(&mut ask.payload)).await?;
    tokio::spawn(census(Arc::downgrade(shared), writer.clone(), space, id));
    Ok(())
}

/// While a request waits: nodes that are gone will not answer.
async fn census(shared: Weak<Shared>, writer: Client, space: Arc<Space>, id: String) {
    loop {
        tokio::time::sleep(CENSUS).await;
        let Some(shared) = shared.upgrade() else { return };
        // an error is the end of the epoch, and of its requests with it
        let channel = &space.channels.public;
        let Ok(count) = node_count(&shared, &writer, channel).await else { return };
        for uid in shared.requests.debtors(&id) {
            let debtor = wire::channels(&shared.config.channel_prefix, &space.nsp, &uid);
            if let Ok(0) = node_count(&shared, &writer, &debtor.private).await {
                shared.requests.forget(&id, &uid);
            }
        }
        if !shared.requests.limit(&id, count.saturating_sub(1)) {
            return;
        }
    }
}

/// Takes requests and replies from the channels.
pub(super) async fn listen(
    shared: Weak<Shared>,
    mut messages: broadcast::Receiver<ChannelMessage>,
    writer: Client,
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
        let Some(space) = space_of(&strong, &message.channel) else { continue };
        let Some(payload) = message.value.into_bytes() else { continue };
        match Envelope::parse(&payload, &space.uid, strong.codec) {
            Ok(Some(envelope)) if envelope.nsp == space.nsp => {
                handle(&strong, &writer, &space, envelope);
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

fn handle(shared: &Arc<Shared>, writer: &Client, space: &Arc<Space>, envelope: Envelope) {
    match envelope.kind {
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
                let (shared, writer, space) = (shared.clone(), writer.clone(), space.clone());
                tokio::spawn(relay(shared, writer, space, receiver, asker.private, id));
            }
        }
    }
}

/// Sends the answers of this node to who asked.
async fn relay(
    shared: Arc<Shared>,
    writer: Client,
    space: Arc<Space>,
    mut replies: mpsc::UnboundedReceiver<Reply>,
    channel: String,
    id: String,
) {
    while let Some(reply) = replies.recv().await {
        let Ok(payload) = wire::reply_payload(&space.uid, &space.nsp, &id, &reply) else {
            continue;
        };
        if publish(&shared, &writer, &channel, payload).await.is_err() {
            return;
        }
    }
}
