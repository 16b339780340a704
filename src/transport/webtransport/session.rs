//! One WebTransport session on one QUIC connection, from the handshake on.
//!
//! What the peer does beside the session's stream (its control and QPACK streams, the CONNECT stream,
//! streams that nobody wants) is followed by futures that live in the [`Session`] and are polled with it:
//! there is no other task, and dropping the session closes the connection.

use std::collections::HashMap;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Instant;

use futures_util::future::BoxFuture;
use http::StatusCode;
use parking_lot::Mutex;
use quinn::{RecvStream, SendStream, VarInt};
use tokio::sync::Notify;
use wtransport_proto::error::ErrorCode;

use super::beside::Beside;
use super::h3::{self, H3Error, Opening, StreamKind};
use super::received::Received;
use super::wake::{Watched, poll_any, watch};

/// WEBTRANSPORT_SESSION_GONE: why streams end whose session has.
const SESSION_GONE: VarInt = VarInt::from_u32(0x170d_7b68);

/// Why there is no session, or none any more.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SessionError {
    /// The QUIC connection ended, or could not begin.
    #[error("the connection ended: {0}")]
    Lost(#[from] quinn::ConnectionError),
    /// The peer broke HTTP/3; the connection is closed with this code.
    #[error("the peer broke a rule of HTTP/3: {0:?}")]
    Broken(ErrorCode),
    /// The peer sends what nobody wants; the connection is closed.
    #[error("a flood of datagrams")]
    Flood,
    /// The request was refused with this status.
    #[error("refused with status {0}")]
    Refused(StatusCode),
    /// The peer closed the session, or a stream of the handshake.
    #[error("the peer closed the session")]
    Closed,
}

impl SessionError {
    /// Was a header section, or what stood before it, too long?
    pub(crate) fn is_excess(&self) -> bool {
        matches!(self, Self::Broken(ErrorCode::ExcessiveLoad))
    }
}

impl From<H3Error> for SessionError {
    fn from(error: H3Error) -> Self {
        match error {
            H3Error::Broken(code) => Self::Broken(code),
            H3Error::Ended => Self::Closed,
        }
    }
}

impl From<quinn::WriteError> for SessionError {
    fn from(error: quinn::WriteError) -> Self {
        match error {
            quinn::WriteError::ConnectionLost(error) => Self::Lost(error),
            _ => Self::Closed,
        }
    }
}

/// A code of HTTP/3, as QUIC wants it.
fn quic(code: ErrorCode) -> VarInt {
    VarInt::from_u64(code.to_code().into_inner()).expect("the same range")
}

/// Is this the code of a stream that was reset since its session is over?
pub(super) fn is_session_gone(code: VarInt) -> bool {
    code == SESSION_GONE
}

/// A session and the connection that it has for itself. Dropping it closes the connection.
pub(crate) struct Session {
    connection: quinn::Connection,
    /// Each ends when the session does, and is polled when there is something new for it. Then there are none.
    watched: Watched<SessionError>,
    peer: Arc<Peer>,
    /// Our control stream, which must stay open.
    control: Option<SendStream>,
    /// Our side of the CONNECT stream.
    connect: Option<SendStream>,
}

impl Drop for Session {
    /// Also half-way through a handshake. A second close is none.
    fn drop(&mut self) {
        self.connection.close(quic(ErrorCode::NoError), b"");
    }
}

impl Session {
    fn new(connection: quinn::Connection) -> Self {
        let (watched, peer) = (Watched::default(), Arc::default());
        Self { connection, watched, peer, control: None, connect: None }
    }

    /// Ready when the session is over: closed by the peer in any way, or broken.
    pub(super) fn poll_over(&mut self, cx: &mut Context<'_>) -> Poll<SessionError> {
        if self.watched.is_empty() {
            return Poll::Ready(SessionError::Closed);
        }
        let error = ready!(self.watched.poll_next(cx));
        self.watched.clear();
        match error {
            SessionError::Broken(code) => self.connection.close(quic(code), b""),
            SessionError::Flood => self.connection.close(quic(ErrorCode::ExcessiveLoad), b""),
            _ => {}
        }
        Poll::Ready(error)
    }

    /// What was read beside the session's stream since the last call: streams and frames, and bytes. Of either
    /// only so much is read until the next call.
    pub(super) fn take_beside(&self) -> (usize, usize) {
        self.peer.beside.take(|| self.watched.tell())
    }

    /// See [`Received`]. Of our packets those count that have something of a stream: others acknowledge the peer's own,
    /// which is no reason for more.
    pub(super) fn is_flooded(&self, now: Instant, most_a_second: u64) -> bool {
        self.peer.received.lock().is_flood(now, most_a_second, || {
            let stats = self.connection.stats();
            (stats.udp_rx.datagrams, stats.frame_tx.stream)
        })
    }

    /// Does a step of the handshake while the session is alive.
    async fn step<T>(
        &mut self,
        step: impl Future<Output = Result<T, SessionError>>,
    ) -> Result<T, SessionError> {
        let mut step = pin!(step);
        let result = poll_fn(|cx| match self.poll_over(cx) {
            Poll::Ready(error) => Poll::Ready(Err(error)),
            Poll::Pending => step.as_mut().poll(cx),
        });
        let result = result.await;
        if let Err(SessionError::Broken(code)) = result {
            self.connection.close(quic(code), b"");
        }
        // a stream ends for many reasons; the connection knows
        match (result, self.connection.close_reason()) {
            (Err(SessionError::Closed), Some(error)) => Err(error.into()),
            (result, _) => result,
        }
    }

    /// Ends the session in order: `stream` first, and only when the peer has all of it the session, since
    /// closing discards what it has not. Ready when the peer knows.
    pub(super) fn end(&mut self, mut stream: SendStream, code: u16) -> BoxFuture<'static, ()> {
        let (connection, connect) = (self.connection.clone(), self.connect.take());
        Box::pin(async move {
            // errors mean that there is nobody to tell any more
            if stream.finish().is_ok() {
                let _ = stream.stopped().await;
            }
            if let Some(mut connect) = connect
                && connect.write_all(&h3::close_session(code.into())).await.is_ok()
                && connect.finish().is_ok()
            {
                let _ = connect.stopped().await;
            }
            connection.close(quic(ErrorCode::NoError), b"");
        })
    }
}

/// A request for a session, which waits for an answer.
pub(crate) struct Request {
    session: Session,
    stream: (SendStream, RecvStream),
    authority: String,
    path: String,
    headers: HashMap<String, String>,
}

impl Request {
    /// Goes through the HTTP/3 handshake on a fresh connection. Has no deadline: whoever drops the future
    /// closes the connection. `max_head`: longest header section, in bytes.
    ///
    /// # Errors
    /// [`SessionError`]; the connection is closed.
    pub(crate) async fn read(
        connection: quinn::Connection,
        max_head: usize,
    ) -> Result<Self, SessionError> {
        let max_head = max_head as u64;
        let mut session = Session::new(connection.clone());
        let peer = session.peer.clone();
        session.watched.push(unidirectional(connection.clone(), peer.clone()));
        let handshake = async {
            let mut control = connection.open_uni().await?;
            control.write_all(&h3::control_preface(max_head)).await?;
            // "a server MUST NOT process any incoming WebTransport requests until the client's SETTINGS have
            // been received"
            peer.settings.notified().await;
            let (send, mut receive) = connection.accept_bi().await?;
            let section = h3::request(&mut receive, max_head).await?;
            let fields = h3::parse_request(&section).map_err(SessionError::Broken)?;
            Ok((control, (send, receive), fields))
        };
        let (control, stream, fields) = session.step(handshake).await?;
        session.control = Some(control);
        match fields {
            Ok(h3::RequestFields { authority, path, headers }) => {
                Ok(Self { session, stream, authority, path, headers })
            }
            Err(status) => Err(refuse(session, stream, status, None).await),
        }
    }

    /// `:authority`: host and port that the client meant.
    pub(crate) fn authority(&self) -> &str {
        &self.authority
    }

    /// `:path`, with the query. Begins with a slash.
    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    /// Header fields, and pseudo-header fields that have no meaning here.
    pub(crate) fn headers(&self) -> &HashMap<String, String> {
        &self.headers
    }

    /// Opens the session, with a header field more if wanted, and waits for the client's stream.
    ///
    /// # Errors
    /// [`SessionError`]; the connection is closed.
    pub(crate) async fn accept(
        self,
        extra: Option<(&str, &str)>,
    ) -> Result<(Session, (SendStream, RecvStream)), SessionError> {
        let Self { mut session, stream: (mut send, mut receive), .. } = self;
        let id = VarInt::from(send.id()).into_inner();
        let response = h3::response(StatusCode::OK, extra);
        session.step(async { Ok(send.write_all(&response).await?) }).await?;
        session.connect = Some(send);
        let peer = session.peer.clone();
        session.watched.push(async move {
            match h3::connect(&mut receive, &peer.beside).await {
                Ok(()) => SessionError::Closed,
                Err(code) => SessionError::Broken(code),
            }
        });
        let (connection, peer) = (session.connection.clone(), session.peer.clone());
        let stream = session.step(first_stream(&connection, &peer, id)).await?;
        session.watched.push(refuse_the_rest(connection, peer));
        Ok((session, stream))
    }

    /// Answers with this status, and when to come back in seconds, and closes the connection. Ready when the
    /// client has the answer.
    pub(crate) async fn refuse(self, status: StatusCode, retry_after: Option<u64>) -> SessionError {
        refuse(self.session, self.stream, status, retry_after).await
    }
}

async fn refuse(
    mut session: Session,
    (mut send, mut receive): (SendStream, RecvStream),
    status: StatusCode,
    retry_after: Option<u64>,
) -> SessionError {
    let seconds = retry_after.map(|seconds| seconds.to_string());
    let extra = seconds.as_ref().map(|seconds| ("retry-after", seconds.as_str()));
    let response = h3::response(status, extra);
    let answer = async {
        // "the server [...] MAY request that the client stop sending" (RFC 9114 4.1)
        let _ = receive.stop(quic(ErrorCode::NoError));
        send.write_all(&response).await?;
        if send.finish().is_ok() {
            let _ = send.stopped().await;
        }
        Ok(())
    };
    // an error means that nobody wants to know
    let _ = session.step(answer).await;
    SessionError::Refused(status)
}

/// The first stream that the client opens in the session with this id.
async fn first_stream(
    connection: &quinn::Connection,
    peer: &Peer,
    id: u64,
) -> Result<(SendStream, RecvStream), SessionError> {
    loop {
        let (send, mut receive) = connection.accept_bi().await?;
        match h3::opening(&mut receive).await {
            Ok(Opening::WebTransport(session)) if session == id => return Ok((send, receive)),
            // a session id is the id of a bidirectional stream of the client's
            Ok(Opening::WebTransport(session)) if session % 4 != 0 => {
                return Err(SessionError::Broken(ErrorCode::Id));
            }
            Ok(Opening::WebTransport(_)) => {
                reject(send, receive, ErrorCode::BufferedStreamRejected);
            }
            Ok(Opening::Other) | Err(H3Error::Ended) => {
                reject(send, receive, ErrorCode::RequestRejected);
            }
            Err(H3Error::Broken(code)) => return Err(SessionError::Broken(code)),
        }
        // nobody asks before there is a session: with too many of them there will be none
        peer.beside.stream().await;
    }
}

/// Datagrams of a session, of which no client of Engine.IO sends one. QUIC holds none of them back: what is not taken
/// is decrypted, acknowledged and thrown away all the same, in front of everybody else's packets.
const DATAGRAMS: usize = 64;

/// Rejects all further requests and streams of the session, unread, and ends it for a flood of datagrams.
async fn refuse_the_rest(connection: quinn::Connection, peer: Arc<Peer>) -> SessionError {
    let mut datagrams = 0;
    loop {
        tokio::select! {
            stream = connection.accept_bi() => match stream {
                Ok((send, receive)) => {
                    reject(send, receive, ErrorCode::RequestRejected);
                    peer.beside.stream().await;
                }
                Err(error) => return error.into(),
            },
            datagram = connection.read_datagram() => match datagram {
                Ok(_) if datagrams < DATAGRAMS => datagrams += 1,
                Ok(_) => return SessionError::Flood,
                Err(error) => return error.into(),
            },
        }
    }
}

fn reject(mut send: SendStream, mut receive: RecvStream, code: ErrorCode) {
    // errors mean that the peer was faster
    let _ = send.reset(quic(code));
    let _ = receive.stop(quic(code));
}

/// What the peer has said beside its session's stream.
#[derive(Debug, Default)]
struct Peer {
    /// Streams of which there may be one: a bit each.
    taken: AtomicU8,
    settings: Notify,
    beside: Beside,
    received: Mutex<Received>,
}

impl Peer {
    /// "Only one ... stream per peer is permitted; receipt of a second stream claiming to be one MUST be
    /// treated as a connection error" (RFC 9114 6.2.1, RFC 9204 4.2).
    fn take(&self, kind: StreamKind) -> Result<(), ErrorCode> {
        let bit = 1 << kind as u8;
        match self.taken.fetch_or(bit, Ordering::Relaxed) & bit {
            0 => Ok(()),
            _ => Err(ErrorCode::StreamCreation),
        }
    }
}

/// Follows all unidirectional streams of the peer's, of which the transport parameters allow a few.
async fn unidirectional(connection: quinn::Connection, peer: Arc<Peer>) -> SessionError {
    let mut streams = Vec::new();
    loop {
        tokio::select! {
            stream = connection.accept_uni() => match stream {
                Ok(stream) => watch(&mut streams, follow(stream, peer.clone())),
                Err(error) => return error.into(),
            },
            ended = poll_fn(|cx| poll_any(&mut streams, cx)) => {
                if let Err(code) = ended {
                    // the streams of a lost connection end, too
                    return match connection.close_reason() {
                        Some(error) => error.into(),
                        None => SessionError::Broken(code),
                    };
                }
            }
        }
    }
}

async fn follow(mut stream: RecvStream, peer: Arc<Peer>) -> Result<(), ErrorCode> {
    let kind = match h3::stream_kind(&mut stream).await {
        Ok(kind) => kind,
        Err(H3Error::Broken(code)) => return Err(code),
        // "a receiver MUST tolerate unidirectional streams being closed [...] prior to the reception of the
        // unidirectional stream header" (RFC 9114 6.2)
        Err(H3Error::Ended) => {
            peer.beside.stream().await;
            return Ok(());
        }
    };
    // there is one of each that HTTP/3 needs; of others the peer has no more open than wait here
    if matches!(kind, StreamKind::WebTransport | StreamKind::Unknown) {
        peer.beside.stream().await;
    }
    match kind {
        StreamKind::Control => {
            peer.take(kind)?;
            Err(h3::control(&mut stream, &peer.beside, || peer.settings.notify_one()).await)
        }
        StreamKind::QpackEncoder | StreamKind::QpackDecoder => {
            peer.take(kind)?;
            // without a dynamic table there is nothing to say on it
            h3::drain(&mut stream, &peer.beside).await;
            Err(ErrorCode::ClosedCriticalStream)
        }
        StreamKind::WebTransport => {
            let _ = stream.stop(quic(ErrorCode::BufferedStreamRejected));
            Ok(())
        }
        StreamKind::Unknown => {
            let _ = stream.stop(quic(ErrorCode::StreamCreation));
            Ok(())
        }
    }
}
