//! An event that many sockets get, each at a time of its own.

use std::sync::{Arc, OnceLock};

use super::namespace::Inner;
use super::packet::{Args, Outgoing};
use crate::fanout::Encoded;

/// An event that is encoded once, however many sockets of its namespace get it, and whenever.
///
/// For what every newcomer is sent, say a snapshot: its bytes are in memory once, for all clients that have
/// not read them yet. (Those of a broadcast are anyway.) See [`Namespace::prepare`].
///
/// With connection state recovery each socket's copy carries an offset, so that only the arguments are
/// shared.
///
/// [`Namespace::prepare`]: super::Namespace::prepare
pub struct Prepared {
    namespace: Arc<Inner>,
    args: Args,
    message: OnceLock<Arc<Encoded>>,
}

impl std::fmt::Debug for Prepared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Prepared").field("args", &self.args).finish_non_exhaustive()
    }
}

impl Prepared {
    pub(super) fn new(namespace: Arc<Inner>, args: Args) -> Self {
        Self { namespace, args, message: OnceLock::new() }
    }

    pub(super) fn args(&self) -> &Args {
        &self.args
    }

    /// As the sockets of `namespace` get it, if it was prepared for that.
    pub(super) fn message(&self, namespace: &Arc<Inner>) -> Option<Arc<Encoded>> {
        let encode = || {
            let packet = Outgoing::Event { args: &self.args, ack: None, offset: None };
            Arc::new(Encoded::new(namespace.codec.encode(&namespace.name, packet), true))
        };
        Arc::ptr_eq(namespace, &self.namespace).then(|| self.message.get_or_init(encode).clone())
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
