//! The page, embedded in the binary, and the official client's bundles as Node serves them.

use axum::Router;
use axum::body::Body;
use axum::extract::Path;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::{HeaderMap, StatusCode, header};
use quicket::config::{Config, Parser};
use rust_embed::{EmbeddedFile, RustEmbed};

/// `make frontend` builds it. A debug build reads it from disk.
#[derive(RustEmbed)]
#[folder = "frontend/dist"]
#[allow_missing = true]
struct Dist;

/// Nothing inline, nothing from elsewhere; WebTransport counts as `https:`.
const CONTENT_SECURITY_POLICY: &str =
    "default-src 'self'; connect-src 'self' ws: wss: https:; frame-ancestors 'none'";
/// Vite puts a hash of the content into these names.
const HASHED: &str = "assets/";

/// Why the page cannot connect, if so: it speaks the official client's own parser, and shows no token.
pub(crate) fn hindrances(config: &Config) -> Vec<&'static str> {
    let msgpack = config.socketio.parser == Parser::MsgPack;
    let msgpack = msgpack.then_some("it does not speak msgpack (PARSER)");
    let token = config
        .jwt
        .is_on()
        .then_some("it shows no token (JWT_*), unless a proxy does for it (JWT_BEARER_HEADER)");
    [msgpack, token].into_iter().flatten().collect()
}

/// The page at `/` and `/b/<board>`, and the client's bundles under the server's `path` (`/socket.io/socket.io.js`, as
/// Node's `serveClient`).
pub(crate) fn routes(path: &str) -> Router {
    let mut router = Router::new()
        .route("/", get(|headers: HeaderMap| async move { file("index.html", &headers) }))
        .route("/b/{board}", get(|headers: HeaderMap| async move { file("index.html", &headers) }))
        .route(
            "/{*file}",
            get(
                |Path(name): Path<String>, headers: HeaderMap| async move { file(&name, &headers) },
            ),
        );
    for bundle in ["socket.io", "socket.io.min", "socket.io.esm.min", "socket.io.msgpack.min"] {
        for extension in ["js", "js.map"] {
            let name = format!("{bundle}.{extension}");
            let stored = format!("socket.io/{name}");
            let handler = move |headers: HeaderMap| async move { file(&stored, &headers) };
            router = router.route(&format!("{path}{name}"), get(handler));
        }
    }
    router
}

fn file(name: &str, request: &HeaderMap) -> Response {
    let Some(found) = Dist::get(name) else {
        let text = match name {
            "index.html" => "The page is not built into this server: run `make frontend` first.\n",
            _ => "not found\n",
        };
        return (StatusCode::NOT_FOUND, text).into_response();
    };
    respond(name, found, request)
}

fn respond(name: &str, found: EmbeddedFile, request: &HeaderMap) -> Response {
    let hash = found.metadata.sha256_hash();
    let etag: String = hash[..16].iter().map(|byte| format!("{byte:02x}")).collect();
    let etag = format!("\"{etag}\"");
    let cache = match name.starts_with(HASHED) {
        true => "public, max-age=31536000, immutable",
        false => "public, max-age=0",
    };
    let mime = match found.metadata.mimetype() {
        text if text.starts_with("text/") => format!("{text}; charset=utf-8"),
        other => other.to_owned(),
    };
    let headers = [
        (header::CONTENT_TYPE, mime),
        (header::CACHE_CONTROL, cache.to_owned()),
        (header::ETAG, etag.clone()),
        (header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY.to_owned()),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff".to_owned()),
    ];
    let known = request.get(header::IF_NONE_MATCH).and_then(|value| value.to_str().ok());
    if known.is_some_and(|known| known.split(',').any(|tag| tag.trim().ends_with(&etag))) {
        return (StatusCode::NOT_MODIFIED, headers).into_response();
    }
    (headers, Body::from(found.data)).into_response()
}
