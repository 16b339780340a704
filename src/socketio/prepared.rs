//! An event that many sockets get, each at a time of its own.

use std::fmt;
use std::sync::{Arc, OnceLock, Weak};

use super::namespace::Inner;
use super::packet::{Args, Outgoing};
use crate::fanout::Encoded;

/// An event that is encoded once for all sockets of its namespace, whenever they get it, and shared by those that
/// have not read it yet. Cheap to clone; see [`Namespace::prepare`].
///
/// For what every newcomer is sent, say a snapshot. (A broadcast's bytes are shared anyway.) Not shared, only
/// sent: what has [`compress(false)`](super::Sender::compress), or an offset, which with connection
/// state recovery all events have but [transient](super::Sender::transient) ones.
///
/// [`Namespace::prepare`]: super::Namespace::prepare
#[derive(Clone)]
pub struct Prepared(Arc<Event>);

struct Event {
    /// Its handlers may well hold the event.
    namespace: Weak<Inner>,
    args: Args,
    message: OnceLock<Arc<Encoded>>,
}

impl fmt::Debug for Prepared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Prepared").field("args", &self.0.args).finish_non_exhaustive()
    }
}

impl Prepared {
    pub(super) fn new(namespace: &Arc<Inner>, args: Args) -> Self {
        let namespace = Arc::downgrade(namespace);
        Self(Arc::new(Event { namespace, args, message: OnceLock::new() }))
    }

    /// Is it the same one, not only the same event?
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    pub(super) fn args(&self) -> &Args {
        &self.0.args
    }

    /// As the sockets of `namespace` get it, if it was prepared for that.
    pub(super) fn message(&self, namespace: &Arc<Inner>) -> Option<Arc<Encoded>> {
        let Event { namespace: own, args, message } = &*self.0;
        let encode = || {
            let packet = Outgoing::Event { args, ack: None, offset: None };
            Arc::new(Encoded::new(namespace.codec.encode(&namespace.name, packet), true))
        };
        let is_own = std::ptr::eq(own.as_ptr(), Arc::as_ptr(namespace));
        is_own.then(|| message.get_or_init(encode).clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Server;

    #[tokio::test]
    async fn all_sockets_of_its_namespace_share_one_message() {
        let server = Server::builder().build().await.unwrap();
        let (here, there) = (server.of("/"), server.of("/there"));
        let event = here.prepare("picture", &1).unwrap();
        let [one, two] = [0; 2].map(|_| event.message(&here.0).unwrap());
        assert!(Arc::ptr_eq(&one, &two));
        assert!(event.message(&there.0).is_none(), "its name is in the packet");
    }
}
