//! Questions to the other nodes that wait for their answers.

use std::collections::{HashMap, HashSet};

use parking_lot::Mutex;
use tokio::sync::mpsc;

use crate::cluster::message::Reply;

/// Where the answers of one request go, and how many are still to come.
#[derive(Debug)]
struct Waiting {
    replies: mpsc::UnboundedSender<Reply>,
    /// Nodes that were there when it was sent.
    asked: usize,
    /// Nodes that have not answered.
    nodes: usize,
    /// The uids of those that have.
    answered: HashSet<String>,
    /// By the uid of the node: acknowledgements that were announced and are still to come, or, below zero, that
    /// came (or were called off) before their number did. In a Redis Cluster a node's answers go through
    /// whichever server the client takes for each `PUBLISH`, so that they overtake each other.
    acks: HashMap<String, isize>,
    /// Does a node answer with a count first and acknowledgements after it?
    counts_acks: bool,
    /// It is not known yet how many nodes have received it: one that nobody has counted may answer first, and must not
    /// take the place of another.
    held: bool,
}

impl Waiting {
    fn has_answered(&mut self, uid: &str) {
        if self.answered.insert(uid.to_owned()) {
            self.nodes = self.nodes.saturating_sub(1);
        }
    }

    fn is_done(&self) -> bool {
        !self.held && self.nodes == 0 && self.acks.values().all(|owed| *owed <= 0)
    }
}

/// All requests of this node, by their id.
#[derive(Debug, Default)]
pub(super) struct Requests(Mutex<HashMap<String, Waiting>>);

impl Requests {
    /// Begins to wait for so many nodes, at least until [`Requests::reached`].
    pub(super) fn begin(
        &self,
        id: String,
        replies: mpsc::UnboundedSender<Reply>,
        nodes: usize,
        counts_acks: bool,
    ) {
        let (answered, acks) = (HashSet::new(), HashMap::new());
        let held = true;
        let waiting = Waiting { replies, asked: nodes, nodes, answered, acks, counts_acks, held };
        if nodes > 0 {
            self.0.lock().insert(id, waiting);
        }
    }

    /// So many have received the request, of whom no more than `known` are nodes. There may be fewer than were counted
    /// before, since some have left, or more, since some have joined. (Some may have answered already.)
    pub(super) fn reached(&self, id: &str, received: usize, known: usize) {
        let mut requests = self.0.lock();
        let Some(waiting) = requests.get_mut(id) else { return };
        waiting.held = false;
        waiting.asked = received.min(known);
        waiting.nodes = waiting.asked.saturating_sub(waiting.answered.len());
        if waiting.is_done() {
            requests.remove(id);
        }
    }

    /// An answer came; one that nobody waits for is ignored. When it is the last, the channel ends.
    pub(super) fn answer(&self, id: &str, uid: &str, reply: Reply) {
        let mut requests = self.0.lock();
        let Some(waiting) = requests.get_mut(id) else { return };
        match &reply {
            Reply::ClientCount(count) if waiting.counts_acks => {
                waiting.has_answered(uid);
                *waiting.acks.entry(uid.to_owned()).or_default() += count.cast_signed();
            }
            Reply::Ack(_) if waiting.counts_acks => {
                *waiting.acks.entry(uid.to_owned()).or_default() -= 1;
            }
            Reply::NoMore(count) if waiting.counts_acks => {
                *waiting.acks.entry(uid.to_owned()).or_default() -= count.cast_signed();
            }
            Reply::NoMore(_) => return, // nobody has asked for acknowledgements
            _ => waiting.has_answered(uid),
        }
        let gone = waiting.replies.send(reply).is_err();
        if gone || waiting.is_done() {
            requests.remove(id);
        }
    }

    /// Who has answered, if some of the nodes that were asked are gone: `others` are left. Those that have answered
    /// may be among the ones that are gone, or among the ones that are left.
    pub(super) fn answered_of_fewer(&self, id: &str, others: usize) -> Vec<String> {
        let requests = self.0.lock();
        let fewer = requests.get(id).filter(|waiting| others < waiting.asked);
        fewer.map_or_else(Vec::new, |waiting| waiting.answered.iter().cloned().collect())
    }

    /// Is anybody still waiting for answers?
    pub(super) fn waits(&self, id: &str) -> bool {
        let mut requests = self.0.lock();
        let waits = requests.get(id).is_some_and(|waiting| !waiting.replies.is_closed());
        if !waits {
            requests.remove(id);
        }
        waits
    }

    /// So many nodes are left that have not answered: there cannot be more answers than that. `false`: the
    /// request is over.
    pub(super) fn limit(&self, id: &str, nodes: usize) -> bool {
        let mut requests = self.0.lock();
        let Some(waiting) = requests.get_mut(id) else { return false };
        if waiting.replies.is_closed() {
            requests.remove(id);
            return false;
        }
        if waiting.nodes > nodes {
            let _ = waiting.replies.send(Reply::Missing(waiting.nodes - nodes));
            waiting.nodes = nodes;
        }
        if waiting.is_done() {
            requests.remove(id);
            return false;
        }
        true
    }

    /// The nodes that have announced acknowledgements which have not all come.
    pub(super) fn debtors(&self, id: &str) -> Vec<String> {
        let requests = self.0.lock();
        let owing = |waiting: &Waiting| {
            let owing = waiting.acks.iter().filter(|(_, owed)| **owed > 0);
            owing.map(|(uid, _)| uid.clone()).collect()
        };
        requests.get(id).map_or_else(Vec::new, owing)
    }

    /// This node is gone with the acknowledgements that it had announced.
    pub(super) fn forget(&self, id: &str, uid: &str) {
        let mut requests = self.0.lock();
        let Some(waiting) = requests.get_mut(id) else { return };
        if waiting.acks.remove(uid).is_some_and(|owed| owed > 0) {
            // how many are missing is known already
            let _ = waiting.replies.send(Reply::Missing(0));
        }
        if waiting.is_done() {
            requests.remove(id);
        }
    }

    /// No answers will come: the connection is gone.
    pub(super) fn fail_all(&self) {
        for (_, waiting) in self.0.lock().drain() {
            let _ = waiting.replies.send(Reply::Missing(waiting.nodes.max(1)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A request that is still being sent.
    fn hold(requests: &Requests, nodes: usize, acks: bool) -> mpsc::UnboundedReceiver<Reply> {
        let (sender, receiver) = mpsc::unbounded_channel();
        requests.begin("r".into(), sender, nodes, acks);
        receiver
    }

    /// A request that has reached all that were counted.
    fn begin(requests: &Requests, nodes: usize, acks: bool) -> mpsc::UnboundedReceiver<Reply> {
        let receiver = hold(requests, nodes, acks);
        requests.reached("r", nodes, nodes);
        receiver
    }

    fn is_over(receiver: &mut mpsc::UnboundedReceiver<Reply>) -> bool {
        loop {
            match receiver.try_recv() {
                Ok(_) => {}
                Err(error) => return error == mpsc::error::TryRecvError::Disconnected,
            }
        }
    }

    #[test]
    fn a_request_ends_with_the_last_node() {
        let requests = Requests::default();
        let mut receiver = begin(&requests, 2, false);
        requests.answer("r", "a", Reply::Sockets(Vec::new()));
        requests.answer("unknown", "a", Reply::Sockets(Vec::new()));
        assert!(!is_over(&mut receiver));
        requests.answer("r", "b", Reply::Sockets(Vec::new()));
        assert!(is_over(&mut receiver));
    }

    #[test]
    fn a_broadcast_ends_with_the_last_acknowledgement_that_was_announced() {
        let requests = Requests::default();
        let mut receiver = begin(&requests, 2, true);
        requests.answer("r", "a", Reply::ClientCount(1));
        requests.answer("r", "b", Reply::ClientCount(0));
        assert!(!is_over(&mut receiver));
        let args = crate::socketio::packet::Codec::Json.args(None, &1).unwrap();
        requests.answer("r", "a", Reply::Ack(args));
        assert!(is_over(&mut receiver));
    }

    #[test]
    fn an_acknowledgement_that_overtakes_its_number_counts() {
        let requests = Requests::default();
        let mut receiver = begin(&requests, 2, true);
        let args = crate::socketio::packet::Codec::Json.args(None, &1).unwrap();
        requests.answer("r", "a", Reply::Ack(args.clone()));
        assert_eq!(requests.debtors("r"), [""; 0]);
        requests.answer("r", "b", Reply::ClientCount(0));
        requests.answer("r", "a", Reply::ClientCount(2));
        assert_eq!(requests.debtors("r"), ["a"]);
        assert!(!is_over(&mut receiver));
        requests.answer("r", "a", Reply::Ack(args));
        assert!(is_over(&mut receiver));
    }

    #[test]
    fn a_node_that_is_gone_with_its_acknowledgements_is_not_waited_for() {
        let requests = Requests::default();
        let mut receiver = begin(&requests, 1, true);
        requests.answer("r", "a", Reply::ClientCount(2));
        assert_eq!(requests.debtors("r"), ["a"]);
        requests.forget("r", "unknown");
        assert!(matches!(receiver.try_recv(), Ok(Reply::ClientCount(2))));
        requests.forget("r", "a");
        assert!(matches!(receiver.try_recv(), Ok(Reply::Missing(0))));
        assert!(is_over(&mut receiver));
    }

    #[test]
    fn a_node_that_is_gone_is_not_waited_for_and_named() {
        let requests = Requests::default();
        let mut receiver = begin(&requests, 2, false);
        requests.answer("r", "a", Reply::Sockets(Vec::new()));
        assert!(!requests.limit("r", 0));
        assert!(matches!(receiver.try_recv(), Ok(Reply::Sockets(_))));
        assert!(matches!(receiver.try_recv(), Ok(Reply::Missing(1))));
        assert!(is_over(&mut receiver));
    }

    #[test]
    fn a_node_that_left_before_the_request_was_sent_is_not_missing() {
        let requests = Requests::default();
        let mut receiver = hold(&requests, 3, false);
        requests.answer("r", "a", Reply::Sockets(Vec::new()));
        requests.reached("r", 2, 3);
        assert!(requests.limit("r", 1), "one has not answered");
        requests.answer("r", "b", Reply::Sockets(Vec::new()));
        assert!(matches!(receiver.try_recv(), Ok(Reply::Sockets(_))));
        assert!(matches!(receiver.try_recv(), Ok(Reply::Sockets(_))));
        assert!(is_over(&mut receiver));
        let mut receiver = hold(&requests, 1, false);
        requests.reached("r", 0, 1);
        assert!(matches!(receiver.try_recv(), Err(mpsc::error::TryRecvError::Disconnected)));
    }

    #[test]
    fn what_more_have_received_the_request_are_no_nodes() {
        let requests = Requests::default();
        let mut receiver = hold(&requests, 1, false);
        requests.reached("r", 2, 1);
        assert!(!is_over(&mut receiver));
        requests.answer("r", "a", Reply::Sockets(Vec::new()));
        assert!(is_over(&mut receiver));
    }

    #[test]
    fn a_node_that_joins_while_the_request_is_sent_takes_nobodys_place() {
        let requests = Requests::default();
        let mut receiver = hold(&requests, 1, false);
        requests.answer("r", "new", Reply::Sockets(Vec::new()));
        assert!(matches!(receiver.try_recv(), Ok(Reply::Sockets(_))));
        requests.reached("r", 2, 2);
        assert!(!is_over(&mut receiver));
        requests.answer("r", "old", Reply::Sockets(Vec::new()));
        assert!(matches!(receiver.try_recv(), Ok(Reply::Sockets(_))));
        assert!(is_over(&mut receiver));
        // all have answered before it is known that they are all
        let mut receiver = hold(&requests, 1, false);
        requests.answer("r", "old", Reply::Sockets(Vec::new()));
        assert!(!is_over(&mut receiver));
        requests.reached("r", 1, 1);
        assert!(is_over(&mut receiver));
    }

    #[test]
    fn a_node_that_answers_twice_is_one() {
        let requests = Requests::default();
        let mut receiver = begin(&requests, 2, false);
        requests.answer("r", "a", Reply::Sockets(Vec::new()));
        requests.answer("r", "a", Reply::Sockets(Vec::new()));
        assert!(!is_over(&mut receiver));
        requests.answer("r", "b", Reply::Sockets(Vec::new()));
        assert!(is_over(&mut receiver));
    }

    #[test]
    fn acknowledgements_that_are_called_off_are_not_waited_for() {
        let requests = Requests::default();
        let args = crate::socketio::packet::Codec::Json.args(None, &1).unwrap();
        let mut receiver = begin(&requests, 1, true);
        requests.answer("r", "a", Reply::ClientCount(3));
        requests.answer("r", "a", Reply::Ack(args.clone()));
        assert!(!is_over(&mut receiver));
        requests.answer("r", "a", Reply::NoMore(2));
        assert!(is_over(&mut receiver));
        // before the number, and before the acknowledgement that did come
        let mut receiver = begin(&requests, 1, true);
        requests.answer("r", "a", Reply::NoMore(1));
        assert!(!is_over(&mut receiver));
        requests.answer("r", "a", Reply::ClientCount(2));
        assert_eq!(requests.debtors("r"), ["a"]);
        assert!(!is_over(&mut receiver));
        requests.answer("r", "a", Reply::Ack(args));
        assert!(is_over(&mut receiver));
        // it is no answer to anything else
        let mut receiver = begin(&requests, 1, false);
        requests.answer("r", "a", Reply::NoMore(1));
        assert!(!is_over(&mut receiver));
    }

    #[test]
    fn a_request_is_waited_for_until_it_is_over_or_who_asked_has_given_up() {
        let requests = Requests::default();
        let receiver = begin(&requests, 1, false);
        assert!(requests.waits("r"));
        drop(receiver);
        assert!(!requests.waits("r"));
        let mut receiver = hold(&requests, 1, false);
        assert!(requests.waits("r"));
        requests.fail_all();
        assert!(!requests.waits("r"));
        assert!(is_over(&mut receiver));
    }

    #[test]
    fn who_has_answered_matters_when_there_are_fewer_nodes_than_were_asked() {
        let requests = Requests::default();
        let _receiver = begin(&requests, 3, false);
        requests.answer("r", "a", Reply::Sockets(Vec::new()));
        assert_eq!(requests.answered_of_fewer("r", 3), [""; 0]);
        assert_eq!(requests.answered_of_fewer("r", 2), ["a"]);
        assert_eq!(requests.answered_of_fewer("unknown", 0), [""; 0]);
    }

    #[test]
    fn no_nodes_no_waiting_and_a_lost_connection_ends_all() {
        let requests = Requests::default();
        assert!(is_over(&mut begin(&requests, 0, false)));
        let mut receiver = begin(&requests, 3, false);
        requests.fail_all();
        assert!(matches!(receiver.try_recv(), Ok(Reply::Missing(3))));
        assert!(is_over(&mut receiver));
    }
}
