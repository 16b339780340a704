//! What is HTTP's alone: status codes and bodies, header fields, CORS, compression, JSONP, cookies.

use std::io::Read as _;
use std::time::Duration;

use flate2::read::{GzDecoder, ZlibDecoder};
use quicket::TransportKind::{self, Polling, WebSocket};
use quicket::config::{Compression, Cookie, EngineConfig, OriginPolicy, SameSite, Transports};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use super::support::client::websocket_frame;
use super::support::http::{Request, Response};
use super::support::server::PATH;
use super::support::{TestServer, engine, within};

const TRANSPORT_UNKNOWN: &str = r#"{"code":0,"message":"Transport unknown"}"#;
const SESSION_UNKNOWN: &str = r#"{"code":1,"message":"Session ID unknown"}"#;
const BAD_METHOD: &str = r#"{"code":2,"message":"Bad handshake method"}"#;
const BAD_REQUEST: &str = r#"{"code":3,"message":"Bad request"}"#;
const UNSUPPORTED: &str = r#"{"code":5,"message":"Unsupported protocol version"}"#;

fn with_query(query: &str) -> String {
    format!("{PATH}?{query}")
}

#[tokio::test]
async fn a_wrong_polling_request_gets_nodes_error() {
    let server = TestServer::echo(engine()).await;
    let websocket = server.connect(WebSocket).await;
    let polling = server.connect(Polling).await;
    let with_sid = |query: &str, sid: &str| format!("{query}&sid={sid}");
    let (p, w) = (&polling.sid, &websocket.sid);
    for (method, query, body) in [
        ("GET", "EIO=4".to_owned(), TRANSPORT_UNKNOWN),
        ("GET", "EIO=4&transport=abc".into(), TRANSPORT_UNKNOWN),
        ("GET", "EIO=4&transport=Polling".into(), TRANSPORT_UNKNOWN),
        ("GET", "EIO=4&transport=webtransport".into(), TRANSPORT_UNKNOWN),
        ("GET", String::new(), TRANSPORT_UNKNOWN),
        ("GET", "EIO=4&transport=polling&sid=abc".into(), SESSION_UNKNOWN),
        ("GET", "EIO=4&transport=polling&sid=__proto__".into(), SESSION_UNKNOWN),
        ("POST", "EIO=4&transport=polling&sid=abc".into(), SESSION_UNKNOWN),
        ("POST", "EIO=4&transport=polling".into(), BAD_METHOD),
        ("PUT", "EIO=4&transport=polling".into(), BAD_METHOD),
        ("OPTIONS", "EIO=4&transport=polling".into(), BAD_METHOD),
        ("GET", "EIO=4&transport=websocket".into(), BAD_REQUEST),
        ("GET", with_sid("EIO=4&transport=websocket", p), BAD_REQUEST),
        ("GET", with_sid("EIO=4&transport=polling", w), BAD_REQUEST),
        ("POST", with_sid("EIO=4&transport=polling", w), BAD_REQUEST),
        ("GET", with_sid("EIO=3&transport=polling", p), BAD_REQUEST),
        ("GET", with_sid("transport=polling", p), BAD_REQUEST),
        ("GET", "transport=polling".into(), UNSUPPORTED),
        ("GET", "EIO=abc&transport=polling".into(), UNSUPPORTED),
        ("GET", "EIO=3&transport=polling".into(), UNSUPPORTED),
    ] {
        let request = Request::new(method, with_query(&query));
        let answer = request.send(server.address).await;
        assert_eq!(answer.summary(), (400, body), "{method} {query}");
        let content_type = answer.header("content-type");
        assert_eq!(content_type.as_deref(), Some("application/json"), "{query}");
    }
    assert_eq!(server.server.session_count(), 2, "nobody was harmed");
    for (error, count) in [("transport_unknown", 5), ("session_unknown", 3), ("bad_request", 6)] {
        let series = format!("quicket_handshakes_refused_total{{error=\"{error}\"}}");
        assert_eq!(server.metric(&series), count, "{error}");
    }
    drop((websocket, polling));
    server.end().await;
}

/// engine.io server.ts `abortUpgrade`: always 400, and the bare text.
#[tokio::test]
async fn a_wrong_websocket_request_gets_nodes_error() {
    let server = TestServer::echo(engine()).await;
    let polling = server.connect(Polling).await;
    let sid = &polling.sid;
    for (query, text) in [
        ("EIO=4", "Transport unknown"),
        ("EIO=4&transport=abc", "Transport unknown"),
        ("EIO=4&transport=websocket&sid=abc", "Session ID unknown"),
        (&format!("EIO=3&transport=websocket&sid={sid}"), "Bad request"),
        ("transport=websocket", "Unsupported protocol version"),
        ("EIO=abc&transport=websocket", "Unsupported protocol version"),
    ] {
        let request = Request::websocket(with_query(query));
        let answer = request.send(server.address).await;
        assert_eq!(answer.summary(), (400, text), "{query}");
        for (name, value) in [("content-type", "text/html"), ("connection", "close")] {
            assert_eq!(answer.header(name).as_deref(), Some(value), "{query}");
        }
    }
    assert_eq!(server.server.session_count(), 1);
    server.end().await;
}

#[tokio::test]
async fn a_transport_that_is_switched_off_is_unknown() {
    let server = TestServer::echo(EngineConfig {
        transports: Transports { polling: false, websocket: false, webtransport: true },
        ..engine()
    })
    .await;
    let polling = Request::get(TestServer::target(Polling, None));
    let answer = polling.send(server.address).await;
    assert_eq!(answer.summary(), (400, TRANSPORT_UNKNOWN));
    let websocket = Request::websocket(TestServer::target(WebSocket, None));
    let answer = websocket.send(server.address).await;
    assert_eq!(answer.summary(), (400, "Transport unknown"));
    server.connect(TransportKind::WebTransport).await.echoes("x").await;
    server.end().await;
}

#[tokio::test]
async fn upgrades_are_offered_as_far_as_there_are_any() {
    let transports =
        |websocket, webtransport| Transports { polling: true, websocket, webtransport };
    for (transports, allow_upgrades, offered) in [
        (transports(true, true), true, r#"["websocket","webtransport"]"#),
        (transports(true, false), true, r#"["websocket"]"#),
        (transports(false, true), true, r#"["webtransport"]"#),
        (transports(false, false), true, "[]"),
        (transports(true, true), false, "[]"),
    ] {
        let config = EngineConfig { transports, allow_upgrades, ..engine() };
        let server = TestServer::echo(config).await;
        let mut client = server.connect(Polling).await;
        let upgrades = format!(r#""upgrades":{offered},"#);
        assert!(client.open.contains(&upgrades), "{}", client.open);
        client.send("1").await;
        server.end().await;
    }
}

/// The official suite's payloads, byte by byte.
#[tokio::test]
async fn payloads_are_as_the_protocol_has_them() {
    let server = TestServer::echo(engine()).await;
    let mut client = server.connect(Polling).await;
    for payload in [
        "4hello",
        "4test1\u{1e}4test2\u{1e}4test3",
        "4hello\u{1e}bAQIDBA==",
        "bAQ==\u{1e}bAQI=\u{1e}bAQID\u{1e}4\u{1e}b",
    ] {
        let posted = server.post(&client.sid, payload).await;
        assert_eq!(posted.summary(), (200, "ok"));
        assert_eq!(server.poll(&client.sid).await.summary(), (200, payload));
    }
    // Node's Buffer does not ask for the padding
    server.post(&client.sid, "bAQI").await;
    assert_eq!(server.poll(&client.sid).await.text(), "bAQI=");
    client.send("1").await;
    server.end().await;
}

#[tokio::test]
async fn answers_have_nodes_header_fields() {
    let server = TestServer::echo(engine()).await;
    let mut client = server.connect(Polling).await;
    let target = TestServer::target(Polling, Some(&client.sid));
    let ie = "Mozilla/5.0 (Windows NT 10.0; Trident/7.0; rv:11.0) like Gecko";
    for (agent, xss) in [("Mozilla/5.0 Firefox/140.0", None), (ie, Some("0"))] {
        let post = Request::post(&target, "4x").header("User-Agent", agent);
        let post = post.send(server.address).await;
        let poll = Request::get(&target).header("User-Agent", agent);
        let poll = poll.send(server.address).await;
        for (answer, content_type, length) in
            [(post, "text/html", "2"), (poll, "text/plain; charset=UTF-8", "2")]
        {
            assert_eq!(answer.header("content-type").as_deref(), Some(content_type));
            assert_eq!(answer.header("content-length").as_deref(), Some(length));
            assert_eq!(answer.header("cache-control").as_deref(), Some("no-store"));
            assert_eq!(answer.header("x-xss-protection").as_deref(), xss, "{agent}");
        }
    }
    let put = Request::new("PUT", &target).send(server.address).await;
    assert_eq!(put.status, 500);
    client.echoes("still there").await;
    client.send("1").await;
    server.end().await;
}

#[tokio::test]
async fn any_path_below_ours_is_ours_and_no_other() {
    let server = TestServer::echo(engine()).await;
    for (path, status) in [
        ("/engine.io/", 200),
        ("/engine.io", 200),
        ("/engine.io/x", 200),
        ("/engine.iox", 404),
        ("/", 404),
        ("/socket.io/", 404),
    ] {
        let target = format!("{path}?EIO=4&transport=polling");
        let answer = Request::get(target).send(server.address).await;
        assert_eq!(answer.status, status, "{path}");
    }
    server.end().await;
}

#[tokio::test]
async fn the_cookie_carries_the_sid_in_the_first_polling_answer_only() {
    let custom = Cookie {
        name: "route".to_owned(),
        path: "/engine.io".to_owned(),
        http_only: false,
        same_site: SameSite::None,
        secure: true,
        max_age: Some(Duration::from_secs(86_400)),
    };
    let none = "Max-Age=86400; Path=/engine.io; Secure; SameSite=None";
    for (cookie, name, attributes) in
        [(Cookie::default(), "io", "Path=/; HttpOnly; SameSite=Lax"), (custom, "route", none)]
    {
        let server = TestServer::echo(EngineConfig { cookie: Some(cookie), ..engine() }).await;
        let open = Request::get(TestServer::target(Polling, None));
        let open = open.send(server.address).await;
        let body: serde_json::Value = serde_json::from_str(&open.text()[1..]).unwrap();
        let sid = body["sid"].as_str().unwrap();
        let expected = format!("{name}={sid}; {attributes}");
        assert_eq!(open.header("set-cookie"), Some(expected));
        let post = server.post(sid, "4x").await;
        let poll = server.poll(sid).await;
        assert_eq!(post.header("set-cookie"), None);
        assert_eq!(poll.header("set-cookie"), None);
        server.post(sid, "1").await;
        server.end().await;
    }
}

const PAGE: &str = "https://page.example";

async fn cors(config: EngineConfig, method: &str, origin: Option<&str>) -> Response {
    let server = TestServer::echo(EngineConfig {
        poll_close_timeout: Duration::from_millis(20), // nobody comes for the end of the session
        ..config
    })
    .await;
    let mut request = Request::new(method, TestServer::target(Polling, None));
    if let Some(origin) = origin {
        request = request.header("Origin", origin);
    }
    if method == "OPTIONS" {
        request = request
            .header("Access-Control-Request-Method", "POST")
            .header("Access-Control-Request-Headers", "x-one,x-two");
    }
    let answer = request.send(server.address).await;
    server.end().await;
    answer
}

fn list(credentials: bool) -> EngineConfig {
    EngineConfig {
        origins: OriginPolicy::List(vec![PAGE.to_owned()]),
        cors_credentials: credentials,
        cors_max_age: Some(Duration::from_secs(600)),
        ..engine()
    }
}

#[tokio::test]
async fn cors_lets_allowed_pages_read_the_answer() {
    let allow = |answer: &Response| {
        ["origin", "credentials"].map(|what| answer.header(&format!("access-control-allow-{what}")))
    };
    let some = |text: &str| Some(text.to_owned());
    let any = cors(engine(), "GET", Some(PAGE)).await;
    assert_eq!((any.status, allow(&any)), (200, [some("*"), None]));
    assert_eq!(any.header("vary"), None);
    let none = cors(engine(), "GET", None).await;
    assert_eq!((none.status, allow(&none)), (200, [None, None]));
    let listed = cors(list(false), "GET", Some(PAGE)).await;
    assert_eq!((listed.status, allow(&listed)), (200, [some(PAGE), None]));
    assert_eq!(listed.header("vary"), some("Origin"), "caches must tell pages apart");
    let trusted = cors(list(true), "GET", Some(PAGE)).await;
    assert_eq!(allow(&trusted), [some(PAGE), some("true")]);
    let foreign = cors(list(true), "GET", Some("https://evil.example")).await;
    assert_eq!(foreign.summary(), (403, r#"{"code":4,"message":"Forbidden"}"#));
    assert_eq!(allow(&foreign), [None, None]);
    assert_eq!(foreign.header("vary"), some("Origin"), "nor may they keep the refusal for others");
    let unnamed = cors(list(true), "GET", None).await;
    assert_eq!((unnamed.status, allow(&unnamed)), (200, [None, None]));
    assert_eq!(unnamed.header("vary"), some("Origin"));
}

#[tokio::test]
async fn a_preflight_is_answered_for_allowed_pages() {
    let some = |text: &str| Some(text.to_owned());
    let answer = cors(list(true), "OPTIONS", Some(PAGE)).await;
    assert_eq!(answer.summary(), (204, ""));
    for (name, value) in [
        ("access-control-allow-origin", some(PAGE)),
        ("access-control-allow-credentials", some("true")),
        ("access-control-allow-methods", some("GET,POST")),
        ("access-control-allow-headers", some("x-one,x-two")),
        ("access-control-max-age", some("600")),
        ("vary", some("Origin, Access-Control-Request-Headers")),
    ] {
        assert_eq!(answer.header(name), value, "{name}");
    }
    let any = cors(engine(), "OPTIONS", Some(PAGE)).await;
    assert_eq!(any.status, 204);
    assert_eq!(any.header("access-control-allow-origin"), some("*"));
    assert_eq!(any.header("access-control-max-age"), None);
    let foreign = cors(list(true), "OPTIONS", Some("https://evil.example")).await;
    assert_eq!(foreign.status, 403);
    assert_eq!(foreign.header("access-control-allow-origin"), None);
}

/// A poll of a message of that many bytes, with the type digit.
async fn polled(server: &TestServer, bytes: usize, accept: Option<&str>) -> Response {
    let client = server.connect(Polling).await;
    server.post(&client.sid, &format!("4{}", "x".repeat(bytes - 1))).await;
    let mut poll = Request::get(TestServer::target(Polling, Some(&client.sid)));
    if let Some(accept) = accept {
        poll = poll.header("Accept-Encoding", accept);
    }
    let answer = poll.send(server.address).await;
    server.post(&client.sid, "1").await;
    answer
}

#[tokio::test]
async fn large_polling_answers_are_compressed_as_the_client_accepts() {
    let server = TestServer::echo(engine()).await;
    for (bytes, accept, coding) in [
        (1024, Some("gzip, deflate"), Some("gzip")),
        (1023, Some("gzip, deflate"), None),
        (1024, Some("deflate"), Some("deflate")),
        (1024, Some("gzip;q=0.5, deflate"), Some("deflate")),
        (1024, Some("gzip;q=0, deflate;q=0"), None),
        (1024, Some("*"), Some("gzip")),
        (1024, Some("br"), None),
        (1024, Some("identity"), None),
        (1024, None, None),
        (200_000, Some("gzip, deflate, br"), Some("gzip")),
    ] {
        let answer = polled(&server, bytes, accept).await;
        let case = format!("{bytes} {accept:?}");
        assert_eq!(answer.header("content-encoding").as_deref(), coding, "{case}");
        let mut body = Vec::new();
        match coding {
            Some("gzip") => GzDecoder::new(&answer.body[..]).read_to_end(&mut body),
            Some(_) => ZlibDecoder::new(&answer.body[..]).read_to_end(&mut body),
            None => (&answer.body[..]).read_to_end(&mut body),
        }
        .unwrap();
        assert_eq!(body.len(), bytes, "{case}");
        assert!(body.starts_with(b"4xxx"));
        assert_eq!(coding.is_some(), answer.body.len() < bytes, "{case}");
    }
    server.end().await;
}

#[tokio::test]
async fn compression_follows_its_configuration() {
    for (http_compression, coding) in [
        (None, None),
        (Some(Compression { threshold: 10 }), Some("gzip")),
        (Some(Compression { threshold: 51 }), None),
    ] {
        let server = TestServer::echo(EngineConfig { http_compression, ..engine() }).await;
        let answer = polled(&server, 50, Some("gzip")).await;
        assert_eq!(answer.header("content-encoding").as_deref(), coding);
        server.end().await;
    }
}

/// What a hasty client has sent along with its request is read, and nothing comes before the answer.
#[tokio::test]
async fn frames_behind_the_upgrade_request_are_read_and_answered_in_order() {
    let server = TestServer::echo(engine()).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let head = Request::websocket(TestServer::target(WebSocket, None)).head(server.address);
    let mut bytes = head.into_bytes();
    bytes.extend(websocket_frame(0x81, b"4one"));
    let second = websocket_frame(0x81, b"4two");
    let (begin, end) = second.split_at(3);
    bytes.extend(begin);
    stream.write_all(&bytes).await.unwrap();
    let mut received = Vec::new();
    let until = async |stream: &mut TcpStream, received: &mut Vec<u8>, what: &[u8]| {
        while !received.ends_with(what) {
            let read = tokio::io::AsyncReadExt::read_buf(stream, received).await.unwrap();
            assert_ne!(read, 0, "{received:?}");
        }
    };
    within("the first echo", until(&mut stream, &mut received, b"\x81\x044one")).await;
    let text = String::from_utf8_lossy(&received);
    assert!(text.starts_with("HTTP/1.1 101 Switching Protocols\r\n"), "{text}");
    let open = text.split_once("\r\n\r\n").unwrap().1;
    assert!(open.contains(r#"0{"sid":"#) && open.ends_with("4one"), "{text}");
    stream.write_all(end).await.unwrap();
    within("the second echo", until(&mut stream, &mut received, b"\x81\x044two")).await;
    drop(stream);
    server.end().await;
}

#[tokio::test]
async fn jsonp_wraps_polls_and_reads_forms() {
    let server = TestServer::echo(engine()).await;
    let open = Request::get(format!("{}&j=12x", TestServer::target(Polling, None)));
    let open = open.send(server.address).await;
    let script = "text/javascript; charset=UTF-8";
    assert_eq!(open.header("content-type").as_deref(), Some(script));
    let json = open.text().strip_prefix("___eio[12](").unwrap();
    let packet: String = serde_json::from_str(json.strip_suffix(");").unwrap()).unwrap();
    let body: serde_json::Value = serde_json::from_str(&packet[1..]).unwrap();
    let target =
        format!("{}&j=0", TestServer::target(Polling, Some(body["sid"].as_str().unwrap())));
    // what stock clients of old did: the form turns \n into \r\n, so they escaped their own
    for (form, answer) in [
        ("d=4a%20b", r#"___eio[0]("4a b");"#),
        ("x=1&d=4one%5Cntwo", r#"___eio[0]("4one\ntwo");"#),
        ("d=4one%5C%5Cntwo", r#"___eio[0]("4one\\ntwo");"#),
        ("d=4%22%E2%80%A8", r#"___eio[0]("4\"\u2028");"#),
        ("d=bAQI%3D", r#"___eio[0]("bAQI=");"#),
    ] {
        let post = Request::post(&target, form)
            .header("Content-Type", "application/x-www-form-urlencoded");
        assert_eq!(post.send(server.address).await.summary(), (200, "ok"));
        let poll = Request::get(&target).send(server.address).await;
        assert_eq!(poll.summary(), (200, answer), "{form}");
    }
    server.end().await;
}

/// A script tag of a foreign page carries no Origin: the policy could not be kept.
#[tokio::test]
async fn jsonp_is_for_servers_that_are_open_to_every_page() {
    let server = TestServer::echo(list(false)).await;
    let open = Request::get(format!("{}&j=0", TestServer::target(Polling, None)));
    let answer = open.send(server.address).await;
    assert_eq!(answer.summary(), (400, BAD_REQUEST));
    server.end().await;
}
