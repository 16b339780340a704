//! Who may come in: one policy and one admission hook, the same on every transport (guarantee G1).

use std::sync::{Arc, Mutex};

use quicket::config::{Config, EngineConfig, HostPolicy, Listen, OriginPolicy, WebTransportConfig};
use quicket::{Handshake, HandshakeError, Refusal, TransportKind};

use super::support::client::{WebSocketLink, WebTransportLink};
use super::support::http::Request;
use super::support::server::{PATH, echo};
use super::support::{TestServer, engine, eventually, on_every_transport};

on_every_transport!(
    pages_come_in_as_the_origin_policy_says,
    the_server_is_known_by_its_names,
    the_host_that_a_proxy_was_asked_for_counts_if_it_is_trusted,
    a_foreign_page_that_hides_its_origin_stays_outside,
    behind_a_mapped_port_a_page_of_the_same_host_is_at_home,
    the_hook_sees_the_whole_request,
    the_hook_refuses_with_its_own_words,
    the_hook_may_take_its_time,
    the_policy_comes_before_the_hook,
    the_parameters_of_a_query_are_limited,
    nobody_comes_in_while_the_server_stops,
);

/// How a client that tries to come in fares: `Ok`, or the status that it gets and the body, if any.
async fn knock(
    server: &TestServer,
    kind: TransportKind,
    query: &str,
    headers: &[(&str, &str)],
) -> Result<(), (u16, String)> {
    let target = format!("{PATH}?EIO=4&transport={kind}{query}");
    match kind {
        TransportKind::Polling => {
            let mut request = Request::get(target);
            for (name, value) in headers {
                request = request.header(name, value);
            }
            let answer = request.send(server.address).await;
            match answer.status {
                200 => {
                    let open: serde_json::Value =
                        serde_json::from_str(&answer.text()[1..]).unwrap();
                    server.post(open["sid"].as_str().unwrap(), "1").await;
                    Ok(())
                }
                status => Err((status, answer.text().to_owned())),
            }
        }
        TransportKind::WebSocket => {
            let tried = WebSocketLink::connect(server.address, &target, headers).await;
            match tried {
                Ok(_) => Ok(()),
                Err(tokio_tungstenite::tungstenite::Error::Http(answer)) => {
                    let body = answer.body().clone().unwrap_or_default();
                    Err((answer.status().as_u16(), String::from_utf8(body).unwrap()))
                }
                Err(error) => panic!("{error}"),
            }
        }
        TransportKind::WebTransport => {
            match WebTransportLink::session(server, &target, headers).await {
                Ok(_) => Ok(()),
                // wtransport tells no status
                Err(wtransport::error::ConnectingError::SessionRejected) => {
                    Err((403, String::new()))
                }
                Err(error) => panic!("{error}"),
            }
        }
    }
}

/// What a refused client gets to see.
fn refusal(kind: TransportKind, text: &str) -> Result<(), (u16, String)> {
    Err(match kind {
        TransportKind::Polling => (403, format!(r#"{{"code":4,"message":"{text}"}}"#)),
        // engine.io server.ts `abortUpgrade`: 400 even for this
        TransportKind::WebSocket => (400, text.to_owned()),
        TransportKind::WebTransport => (403, String::new()),
    })
}

/// Counted as they stand, empty ones too, before the policy is asked.
async fn the_parameters_of_a_query_are_limited(kind: TransportKind) {
    const MOST: usize = 64;
    let server = TestServer::echo(engine()).await;
    for parameter in ["&a", "&"] {
        // EIO and transport stand before them
        let more = |count: usize| parameter.repeat(count - 2);
        assert_eq!(knock(&server, kind, &more(MOST), &[]).await, Ok(()), "{parameter}");
        let one_above = knock(&server, kind, &more(MOST + 1), &[]).await;
        let told = match kind {
            TransportKind::Polling => (400, r#"{"code":3,"message":"Bad request"}"#.to_owned()),
            TransportKind::WebSocket => (400, "Bad request".to_owned()),
            TransportKind::WebTransport => (403, String::new()), // `knock` cannot see which
        };
        assert_eq!(one_above, Err(told), "{parameter}");
    }
    assert_eq!(server.metric("quicket_handshakes_refused_total{error=\"bad_request\"}"), 2);
    let (encoded, joined) = ("&a=%26".repeat(10), "&a=b".repeat(30));
    assert_eq!(knock(&server, kind, &(encoded + &joined), &[]).await, Ok(()));
    server.end().await;
}

async fn pages_come_in_as_the_origin_policy_says(kind: TransportKind) {
    let list = || {
        let list = ["https://page.example", "https://*.pages.example"];
        OriginPolicy::List(list.map(str::to_owned).to_vec())
    };
    for (policy, origin, comes_in) in [
        (OriginPolicy::Any, Some("https://anyone.example"), true),
        (OriginPolicy::Any, None, true),
        (list(), Some("https://page.example"), true),
        (list(), Some("https://one.pages.example"), true),
        (list(), Some("https://pages.example"), false),
        (list(), Some("http://page.example"), false),
        (list(), Some("https://page.example:8443"), false),
        (list(), Some("null"), false),
        (list(), None, true),
        (OriginPolicy::SameOrigin, Some("SELF"), true),
        (OriginPolicy::SameOrigin, Some("http://127.0.0.1:1"), false),
        (OriginPolicy::SameOrigin, Some("https://page.example"), false),
        (OriginPolicy::SameOrigin, None, true),
    ] {
        let case = format!("{policy:?} {origin:?}");
        let origins = policy;
        let server = TestServer::echo(EngineConfig { origins, ..engine() }).await;
        let own = format!("http://{}", server.address);
        let origin = origin.map(|origin| if origin == "SELF" { &own } else { origin });
        let headers: Vec<_> = origin.iter().map(|origin| ("origin", *origin)).collect();
        let result = knock(&server, kind, "", &headers).await;
        let expected = if comes_in { Ok(()) } else { refusal(kind, "Forbidden") };
        assert_eq!(result, expected, "{case}");
        let refused = server.metric("quicket_handshakes_refused_total{error=\"forbidden\"}");
        assert_eq!(refused, u64::from(!comes_in), "{case}");
        server.end().await;
    }
}

fn outcome(kind: TransportKind, comes_in: bool) -> Result<(), (u16, String)> {
    if comes_in { Ok(()) } else { refusal(kind, "Forbidden") }
}

/// Against DNS rebinding: the page is of the same origin for its browser, under a name of its own.
async fn the_server_is_known_by_its_names(kind: TransportKind) {
    for (names, comes_in) in [
        (&["127.0.0.1"][..], true),
        (&["a.example", "*.b.example"], false),
        (&["127.0.0.1:1"], false),
    ] {
        let hosts = HostPolicy::List(names.iter().map(|name| (*name).to_owned()).collect());
        let server = TestServer::echo(EngineConfig { hosts, ..engine() }).await;
        let own = format!("http://{}", server.address);
        for headers in [&[][..], &[("origin", own.as_str())]] {
            let result = knock(&server, kind, "", headers).await;
            assert_eq!(result, outcome(kind, comes_in), "{names:?} {headers:?}");
        }
        server.end().await;
    }
}

async fn the_host_that_a_proxy_was_asked_for_counts_if_it_is_trusted(kind: TransportKind) {
    // no proxy forwards WebTransport: there the field is anybody's
    let believed = kind != TransportKind::WebTransport;
    for (trusted, forwarded, comes_in) in [
        (true, "a.example", believed),
        (true, "evil.example, a.example", believed),
        (true, "a.example, evil.example", false),
        (false, "a.example", false),
    ] {
        let server = TestServer::echo(EngineConfig {
            origins: OriginPolicy::SameOrigin,
            trust_forwarded_host: trusted,
            ..engine()
        })
        .await;
        let headers = [("origin", "https://a.example"), ("x-forwarded-host", forwarded)];
        let result = knock(&server, kind, "", &headers).await;
        assert_eq!(result, outcome(kind, comes_in), "{trusted} {forwarded}");
        server.end().await;
    }
}

/// `<img>`, `<script>` and `fetch` without CORS send no `Origin`; browsers say where they are all the same.
async fn a_foreign_page_that_hides_its_origin_stays_outside(kind: TransportKind) {
    for (policy, site, comes_in) in [
        (OriginPolicy::SameOrigin, "cross-site", false),
        (OriginPolicy::SameOrigin, "same-site", false),
        (OriginPolicy::SameOrigin, "same-origin", true),
        (OriginPolicy::SameOrigin, "none", true),
        (OriginPolicy::Any, "cross-site", true),
    ] {
        let case = format!("{policy:?} {site}");
        let server = TestServer::echo(EngineConfig { origins: policy, ..engine() }).await;
        let result = knock(&server, kind, "", &[("sec-fetch-site", site)]).await;
        assert_eq!(result, outcome(kind, comes_in), "{case}");
        server.end().await;
    }
}

/// `compose.yaml`: the page is at port 3000, WebTransport at 3001, and the server binds another.
async fn behind_a_mapped_port_a_page_of_the_same_host_is_at_home(kind: TransportKind) {
    for (public_port, origin, comes_in) in [
        (None, "http://127.0.0.1:1", false),
        (Some(4433), "http://127.0.0.1:1", kind == TransportKind::WebTransport),
        (Some(4433), "http://evil.example:1", false),
    ] {
        let config = Config {
            listen: Listen { address: [127, 0, 0, 1].into(), port: 0, ..Listen::default() },
            engine: EngineConfig { origins: OriginPolicy::SameOrigin, ..engine() },
            webtransport: WebTransportConfig { public_port, ..WebTransportConfig::default() },
            ..Config::default()
        };
        let server = TestServer::start(engine(), echo, |builder| builder.config(config)).await;
        let result = knock(&server, kind, "", &[("origin", origin)]).await;
        assert_eq!(result, outcome(kind, comes_in), "{public_port:?} {origin}");
        server.end().await;
    }
}

async fn the_hook_sees_the_whole_request(kind: TransportKind) {
    let seen: Arc<Mutex<Vec<Arc<Handshake>>>> = Arc::default();
    let sink = seen.clone();
    let server = TestServer::start(engine(), echo, |builder| {
        builder.admit(move |handshake| {
            sink.lock().unwrap().push(handshake);
            async { Ok(()) }
        })
    })
    .await;
    let headers = [("origin", "https://page.example"), ("x-token", "secret")];
    knock(&server, kind, "&user=J%C3%BC+rg&user=2", &headers).await.unwrap();
    let seen = seen.lock().unwrap().clone();
    let [handshake] = seen.as_slice() else {
        panic!("asked {} times", seen.len());
    };
    let url = format!("{PATH}?EIO=4&transport={kind}&user=J%C3%BC+rg&user=2");
    assert_eq!(handshake.url, url);
    assert_eq!(handshake.path(), PATH);
    assert_eq!(handshake.transport, kind.name());
    let query = [("EIO", "4"), ("transport", kind.name()), ("user", "Jü rg"), ("user", "2")];
    assert_eq!(handshake.query, query.map(|(k, v)| (k.to_owned(), v.to_owned())));
    assert_eq!(handshake.origin(), Some("https://page.example"));
    assert_eq!(handshake.header("x-token"), Some("secret"));
    assert_eq!(handshake.header("host"), Some(server.address.to_string().as_str()));
    assert_eq!(handshake.peer.ip(), server.address.ip());
    assert_ne!(handshake.peer.port(), server.address.port());
    assert_eq!(handshake.secure, kind == TransportKind::WebTransport);
    assert!(handshake.issued.elapsed().unwrap().as_secs() < 20);
    server.end().await;
}

async fn the_hook_refuses_with_its_own_words(kind: TransportKind) {
    let server = TestServer::start(engine(), echo, |builder| {
        builder.admit(|handshake| async move {
            match handshake.query("token") {
                Some("good") => Ok(()),
                Some(_) => Err(Refusal::forbidden("bad token")),
                None => Err(HandshakeError::Forbidden.into()),
            }
        })
    })
    .await;
    assert_eq!(knock(&server, kind, "", &[]).await, refusal(kind, "Forbidden"));
    let bad = knock(&server, kind, "&token=bad", &[]).await;
    assert_eq!(bad, refusal(kind, "bad token"));
    assert_eq!(server.server.session_count(), 0);
    assert_eq!(knock(&server, kind, "&token=good", &[]).await, Ok(()));
    server.end().await;
}

async fn the_hook_may_take_its_time(kind: TransportKind) {
    let gate = Arc::new(tokio::sync::Semaphore::new(0));
    let asked = gate.clone();
    let server = TestServer::start(engine(), echo, |builder| {
        builder.admit(move |_| {
            let asked = asked.clone();
            async move {
                asked.acquire().await.unwrap().forget();
                Ok(())
            }
        })
    })
    .await;
    let (slow, ()) = tokio::join!(server.connect(kind), async {
        // the server is not held up by it
        let answer = Request::get("/readyz").send(server.address).await;
        assert_eq!(answer.status, 200);
        assert_eq!(server.server.session_count(), 0);
        gate.add_permits(1);
    });
    let mut client = slow;
    client.echoes("in at last").await;
    client.send("1").await;
    server.end().await;
}

async fn the_policy_comes_before_the_hook(kind: TransportKind) {
    let asked = Arc::new(Mutex::new(0));
    let count = asked.clone();
    let config = EngineConfig { origins: OriginPolicy::SameOrigin, ..engine() };
    let server = TestServer::start(config, echo, |builder| {
        builder.admit(move |_| {
            *count.lock().unwrap() += 1;
            async { Ok(()) }
        })
    })
    .await;
    let foreign = [("origin", "https://page.example")];
    let result = knock(&server, kind, "", &foreign).await;
    assert_eq!(result, refusal(kind, "Forbidden"));
    assert_eq!(*asked.lock().unwrap(), 0);
    server.end().await;
}

/// The connection that was there before is closed as soon as it idles, so a newcomer finds none open.
async fn nobody_comes_in_while_the_server_stops(kind: TransportKind) {
    // an admission that is under way when the server stops is the one way in that is left
    let gate = Arc::new(tokio::sync::Semaphore::new(0));
    let (asked, waiting) = (gate.clone(), Arc::new(Mutex::new(0)));
    let count = waiting.clone();
    let server = TestServer::start(engine(), echo, |builder| {
        builder.admit(move |_| {
            *count.lock().unwrap() += 1;
            let asked = asked.clone();
            async move {
                asked.acquire().await.unwrap().forget();
                Ok(())
            }
        })
    })
    .await;
    let quicket = server.server.clone();
    let knocking = async {
        let target = format!("{PATH}?EIO=4&transport={kind}");
        match kind {
            TransportKind::WebTransport => {
                let _ = WebTransportLink::session(&server, &target, &[]).await;
            }
            TransportKind::WebSocket => {
                let _ = WebSocketLink::connect(server.address, &target, &[]).await;
            }
            TransportKind::Polling => {
                let _ = Request::get(target).start(server.address).await.response().await;
            }
        }
    };
    let stopping = async {
        eventually("the hook to be asked", || *waiting.lock().unwrap() == 1).await;
        quicket.shutdown();
        gate.add_permits(1);
    };
    tokio::join!(knocking, stopping);
    server.end().await;
}
