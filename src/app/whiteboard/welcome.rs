//! What everyone who comes to a board is shown: encoded once for each state of the board, and in memory once for all
//! who have not read it yet. A thousand who come back at once after a deploy would make it a thousand times.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use quicket::{EmitError, Namespace, Prepared};

use super::board::{Boards, Version};

/// How long a picture is kept for whoever comes next; then, those who have not read it keep it.
const KEPT: Duration = Duration::from_secs(1);

/// The pictures that are in use.
#[derive(Debug, Default)]
pub(super) struct Welcomes(Mutex<HashMap<String, (Version, Weak<Prepared>)>>);

impl Welcomes {
    /// A board as it is now.
    ///
    /// # Errors
    /// [`EmitError::Encode`].
    pub(super) fn picture(
        &self,
        namespace: &Namespace,
        boards: &Mutex<Boards>,
        name: &str,
    ) -> Result<Arc<Prepared>, EmitError> {
        let version = boards.lock().version(name);
        if let Some((made, picture)) = self.0.lock().get(name)
            && *made == version
            && let Some(picture) = picture.upgrade()
        {
            return Ok(picture);
        }
        let (version, snapshot) = {
            let boards = boards.lock();
            (boards.version(name), boards.snapshot(name).unwrap_or_default())
        };
        // not under a lock: two may make the same one
        let picture = Arc::new(namespace.prepare("board", &snapshot.for_viewers())?);
        let mut pictures = self.0.lock();
        pictures.retain(|_, (_, picture)| picture.strong_count() > 0);
        pictures.insert(name.to_owned(), (version, Arc::downgrade(&picture)));
        let kept = picture.clone();
        tokio::spawn(async move {
            tokio::time::sleep(KEPT).await;
            drop(kept);
        });
        Ok(picture)
    }
}
