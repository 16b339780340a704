//! What a node tells another of a board.

use quicket::Config;

use super::*;

#[tokio::test(start_paused = true)]
async fn who_knows_less_of_the_log_than_who_asks_says_that_it_may_not_be_all() {
    let server = Server::builder().config(Config::default()).build().await.unwrap();
    let config = Config::default();
    let Whiteboard(app) = install(&server, &config.redis, &config.limits).unwrap();
    {
        let mut boards = app.boards.lock();
        *boards = Boards::kept();
        boards.enter("b", "e".into(), None).unwrap();
        let whole = Snapshot { epoch: "e".into(), is_whole: true, ..Snapshot::default() };
        boards.complete("b", "e", vec![whole], None);
    }
    let position = app.namespace.position();
    assert!(app.known("b", position).await.is_whole);
    let behind = app.known("b", (u64::MAX, 0)).await;
    assert_eq!((behind.epoch.as_str(), behind.is_whole), ("e", false));
    // and it is not waited for without end
    assert!(app.known("b", Position::default()).await.is_whole);
}
