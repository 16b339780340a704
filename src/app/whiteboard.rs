//! The shared whiteboard: Socket.IO's own example, with the colour kept on the server.
//!
//! | event | from | to |
//! |---|---|---|
//! | `drawing {x0,y0,x1,y1,color?}` | a client | everyone else, with the sender's colour if it brought none |
//! | `colorUpdate {color}` | a client | kept in `socket.data` |

use quicket::{DataError, EmitError, Namespace, Socket};
use serde::{Deserialize, Serialize};
use serde_json::Number;

/// One stroke; coordinates are fractions of the board.
#[derive(Debug, Serialize, Deserialize)]
struct Line {
    x0: Number,
    y0: Number,
    x1: Number,
    y1: Number,
    color: Option<Color>,
}

/// A CSS colour. Longer ones than any that CSS knows are refused, for every stroke carries it on.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(try_from = "String")]
struct Color(String);

const COLOR_MAX_BYTES: usize = 64;

impl TryFrom<String> for Color {
    type Error = &'static str;

    fn try_from(color: String) -> Result<Self, Self::Error> {
        match color.len() {
            ..=COLOR_MAX_BYTES => Ok(Self(color)),
            _ => Err("the colour is too long"),
        }
    }
}

/// What is kept of each socket, and the body of `colorUpdate`.
#[derive(Debug, Serialize, Deserialize)]
struct Pen {
    color: Color,
}

/// Puts the whiteboard on a namespace.
pub(crate) fn install(board: &Namespace) {
    board.on_connect(|socket| async move {
        socket.on("drawing", draw);
        socket.on("colorUpdate", pick);
        socket.set_data(Pen { color: Color("black".into()) })
    });
}

async fn draw(socket: Socket, mut line: Line) -> Result<(), Failure> {
    if line.color.is_none() {
        line.color = Some(socket.data::<Pen>()?.color);
    }
    Ok(socket.broadcast().emit("drawing", &line).await?)
}

async fn pick(socket: Socket, pen: Pen) -> Result<(), DataError> {
    socket.set_data(pen)
}

#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Data(#[from] DataError),
    #[error(transparent)]
    Emit(#[from] EmitError),
}
