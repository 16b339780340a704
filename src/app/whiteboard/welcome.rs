//! What everyone who comes to a board is shown: encoded once for each state of the board, and shared by those who come
//! within a second. A thousand who come back at once after a deploy would make it a thousand times.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use quicket::{EmitError, Namespace, Prepared};

use super::board::{Boards, Version};

/// How long a picture is kept for whoever comes next.
const KEPT: Duration = Duration::from_secs(1);

/// The last picture of each board.
#[derive(Debug, Default)]
pub(super) struct Welcomes(Mutex<HashMap<String, (Version, Prepared)>>);

impl Welcomes {
    /// A board as it is now.
    ///
    /// # Errors
    /// [`EmitError::Encode`].
    pub(super) fn picture(
        self: &Arc<Self>,
        namespace: &Namespace,
        boards: &Mutex<Boards>,
        name: &str,
    ) -> Result<Prepared, EmitError> {
        let version = boards.lock().version(name);
        if let Some((of, picture)) = self.0.lock().get(name)
            && *of == version
        {
            return Ok(picture.clone());
        }
        let (version, snapshot) = {
            let boards = boards.lock();
            (boards.version(name), boards.snapshot(name).unwrap_or_default())
        };
        // not under a lock: two may make the same one
        let picture = namespace.prepare("board", &snapshot.for_viewers())?;
        self.0.lock().insert(name.to_owned(), (version.clone(), picture.clone()));
        let (this, name) = (self.clone(), name.to_owned());
        tokio::spawn(async move {
            tokio::time::sleep(KEPT).await;
            let mut pictures = this.0.lock();
            if pictures.get(&name).is_some_and(|(of, _)| *of == version) {
                pictures.remove(&name);
            }
        });
        Ok(picture)
    }
}

#[cfg(test)]
mod tests {
    use quicket::Server;

    use super::super::board::{Change, Chunk, Event, Style};
    use super::*;

    fn draw(boards: &Mutex<Boards>, stroke: &str) {
        let style = Some(Style { c: "red".into(), w: 4, k: 2 });
        let chunk = Chunk { s: stroke.into(), p: vec![1, 2], style, ..Chunk::default() };
        let event = Event { change: Change::Draw(chunk), at: (1, 1), is_own: true };
        boards.lock().apply("b", event);
    }

    #[tokio::test(start_paused = true)]
    async fn a_picture_is_made_once_for_each_state_and_kept_for_a_moment() {
        let server = Server::builder().build().await.unwrap();
        let namespace = server.of("/");
        let boards = Mutex::new(Boards::default());
        boards.lock().enter("b", "e".into(), None).unwrap();
        boards.lock().complete("b", "e", Vec::new(), None);
        let welcomes = Arc::new(Welcomes::default());
        let picture = || welcomes.picture(&namespace, &boards, "b").unwrap();
        draw(&boards, "1");
        let first = picture();
        assert!(first.is_same(&picture()));
        draw(&boards, "2");
        let second = picture();
        assert!(!second.is_same(&first));
        assert_eq!(welcomes.0.lock().len(), 1, "an old one is kept for nobody");
        tokio::time::sleep(KEPT / 2).await;
        assert!(second.is_same(&picture()));
        tokio::time::sleep(KEPT).await;
        assert_eq!(welcomes.0.lock().len(), 0);
        assert!(!second.is_same(&picture()));
    }
}
