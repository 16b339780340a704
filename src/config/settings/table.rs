//! The rows, in the order in which they are shown.

use super::{Setting, show_path, some_text, tls};
use crate::config::forms::*;
use crate::config::{Cookie, ResetKey};

/// Every setting, in the order of the help text. `cookie` stands before what it makes a place for.
// A row of a few long lines is easier to read than one of eight short ones.
#[rustfmt::skip]
pub(crate) const SETTINGS: &[Setting] = &[
    setting!("listen-address", listen.address, ADDRESS, "",
        "Address to bind; `::` takes IPv6 and IPv4."
    ),
    setting!("port", listen.port, PORT, "",
        "Port for TCP (HTTP, WebSocket) and UDP (QUIC) alike; 0 lets the system choose."
    ),
    setting!("admin-port", listen.admin_port, OFF_OR_PORT, "",
        "TCP port for /healthz, /readyz, /acceptz and /metrics; off: they are on the main port."
    ),
    Setting {
        name: "tls-cert",
        placeholder: "FILE",
        node: "",
        secret: false,
        about: "Certificate chain (PEM) for HTTPS and QUIC; without it plain HTTP, and a self-signed one for QUIC.",
        read: |config, text| {
            tls(config).cert = text.into();
            Ok(())
        },
        show: |config| config.tls.as_ref().map_or_else(String::new, |tls| show_path(&tls.cert)),
    },
    Setting {
        name: "tls-key",
        placeholder: "FILE",
        node: "",
        secret: false,
        about: "Private key (PEM) of the certificate.",
        read: |config, text| {
            tls(config).key = text.into();
            Ok(())
        },
        show: |config| config.tls.as_ref().map_or_else(String::new, |tls| show_path(&tls.key)),
    },
    setting!("tls-tcp", listen.tls, SWITCH, "",
        "Is TCP HTTPS once there is a certificate? false: a proxy ends TLS, and the certificate is QUIC's alone."
    ),
    setting!("socketio-path", engine.path, URL_PATH, "path", "URL path of the protocol."),
    setting!("transports", engine.transports, TRANSPORTS, "transports",
        "Transports that clients may use."
    ),
    setting!("allow-upgrades", engine.allow_upgrades, SWITCH, "allowUpgrades",
        "May a session move to a better transport?"
    ),
    setting!("ping-interval", engine.ping_interval, DURATION, "pingInterval",
        "Time between two pings."
    ),
    setting!("ping-timeout", engine.ping_timeout, DURATION, "pingTimeout",
        "How long after a ping its pong may take."
    ),
    setting!("upgrade-timeout", engine.upgrade_timeout, DURATION, "upgradeTimeout",
        "How long an upgrade may take, and the first packet of a new WebTransport session."
    ),
    setting!("max-payload", engine.max_payload, SIZE, "maxHttpBufferSize",
        "Largest message, frame or POST body that a client may send."
    ),
    setting!("poll-close-timeout", engine.poll_close_timeout, DURATION, "",
        "How long a closing polling session waits for the poll that takes the close packet."
    ),
    setting!("http-compression", engine.http_compression, COMPRESSION, "httpCompression",
        "Compress polling answers from this size on."
    ),
    setting!("per-message-deflate", engine.per_message_deflate, COMPRESSION, "perMessageDeflate",
        "Compress WebSocket messages from this size on; costs memory for each connection."
    ),
    Setting {
        name: "cookie",
        placeholder: "off or NAME",
        node: "cookie",
        secret: false,
        about: "Name of a cookie with the session id in the first polling answer (Node's usual name: io).",
        read: |config, text| {
            config.engine.cookie =
                (text != "off").then(|| Cookie { name: text.to_owned(), ..Cookie::default() });
            Ok(())
        },
        show: |config| {
            config.engine.cookie.as_ref().map_or("off", |cookie| &cookie.name).to_owned()
        },
    },
    cookie_setting!("cookie-path", path, TEXT, "cookie.path", "Path of the cookie."),
    cookie_setting!(
        "cookie-http-only",
        http_only,
        SWITCH,
        "cookie.httpOnly",
        "Is the cookie hidden from scripts?"
    ),
    cookie_setting!(
        "cookie-same-site",
        same_site,
        SAME_SITE,
        "cookie.sameSite",
        "SameSite of the cookie; none wants cookie-secure."
    ),
    cookie_setting!(
        "cookie-secure",
        secure,
        SWITCH,
        "cookie.secure",
        "Is the cookie for HTTPS only?"
    ),
    cookie_setting!(
        "cookie-max-age",
        max_age,
        OFF_OR_DURATION,
        "cookie.maxAge",
        "Life of the cookie (Node counts seconds); off: until the browser is closed."
    ),
    setting!("sid-header", engine.sid_header, OFF_OR_HEADER, "",
        "Name of a response header with the session id in the first polling answer, for proxies that learn it."
    ),
    setting!("allowed-origins", engine.origins, ORIGINS, "cors.origin",
        "Web pages that may connect, such as https://*.example.com; clients that send no Origin always may."
    ),
    setting!("allowed-hosts", engine.hosts, HOSTS, "",
        "Names by which the server may be called, against DNS rebinding: example.com, a.org:8443, *.b.org."
    ),
    setting!("trust-forwarded-host", engine.trust_forwarded_host, SWITCH, "",
        "Is X-Forwarded-Host the name that the page asked for? For proxies that change Host and always set that field."
    ),
    setting!("cors-credentials", engine.cors_credentials, SWITCH, "cors.credentials",
        "May pages of another origin send cookies along?"
    ),
    setting!("cors-max-age", engine.cors_max_age, OFF_OR_DURATION, "cors.maxAge",
        "How long a browser may keep the answer to a preflight request (Node counts seconds); off: not said."
    ),
    setting!("outbox-bytes", engine.outbox_bytes, SIZE, "",
        "Bytes that may wait for one client that does not read, before it is closed."
    ),
    setting!("connect-timeout", socketio.connect_timeout, DURATION, "connectTimeout",
        "How long a client may stay without a namespace."
    ),
    setting!("parser", socketio.parser, PARSER, "parser",
        "How packets are written; clients have to use the same."
    ),
    setting!("max-attachments", socketio.max_attachments, COUNT, "maxAttachments",
        "Most binary attachments of one packet from a client."
    ),
    setting!("max-depth", socketio.max_depth, COUNT, "",
        "How deep a packet's JSON or msgpack may nest, its array of arguments counted; at most 127."
    ),
    setting!("max-namespaces", socketio.max_namespaces, COUNT, "",
        "Most namespaces that one connection may join."
    ),
    setting!("max-rooms", socketio.max_rooms, COUNT, "",
        "Most rooms that one socket may be in, beside its own."
    ),
    setting!("max-name-bytes", socketio.max_name_bytes, SIZE, "",
        "Longest name of an event or namespace from a client, and of a room."
    ),
    setting!("inbox-events", socketio.inbox_events, COUNT, "",
        "Events that may wait for the handlers of one socket, before we stop reading from its client."
    ),
    setting!("inbox-bytes", socketio.inbox_bytes, SIZE, "",
        "Bytes that may wait likewise; at least max-payload."
    ),
    setting!("max-pending-acks", socketio.max_pending_acks, COUNT, "",
        "Most acknowledgements that one socket may owe."
    ),
    setting!("cleanup-empty-child-namespaces", socketio.cleanup_empty_child_namespaces, SWITCH,
        "cleanupEmptyChildNamespaces",
        "Are child namespaces dropped when their last socket leaves?"
    ),
    setting!("recovery-window", socketio.recovery.window, DURATION, "maxDisconnectionDuration",
        "How long a client may be away and go on with its session; 0s switches recovery off."
    ),
    setting!("recovery-skip-middlewares", socketio.recovery.skip_middlewares, SWITCH, "skipMiddlewares",
        "Are middlewares skipped when a session goes on?"
    ),
    setting!("recovery-max-events", socketio.recovery.max_events, COUNT, "",
        "Most events that are sent again to one client; above it the client gets a fresh session."
    ),
    setting!("recovery-max-bytes", socketio.recovery.max_bytes, SIZE, "",
        "Most bytes that are sent again to one client; at most outbox-bytes."
    ),
    setting!("recovery-history-entries", socketio.recovery.history_entries, COUNT, "",
        "Entries of each log that are remembered for clients that come back."
    ),
    setting!("recovery-history-bytes", socketio.recovery.history_bytes, SIZE, "",
        "Bytes of each log that are remembered likewise."
    ),
    secret_setting!(
        "jwt-secret",
        "TEXT",
        jwt.secret,
        "Asks clients for a token (JWT), signed by HS256 with this secret of at least 32 bytes."
    ),
    file_setting!("jwt-secret-file", jwt.secret_file, "The same, with the secret in a file."),
    secret_setting!(
        "jwt-jwks-url",
        "URL",
        jwt.jwks_url,
        "Asks clients for a token, signed by RS256 or ES256 with a key of the JSON Web Key Set at this address."
    ),
    file_setting!("jwt-jwks-file", jwt.jwks_file, "The same, with the set in a file, read again as well."),
    setting!("jwt-issuer", jwt.issuers, LIST, "", "Issuers (iss) whose tokens are taken."),
    setting!("jwt-audience", jwt.audiences, LIST, "", "Audiences (aud), one of which tokens must name."),
    setting!("jwt-leeway", jwt.leeway, DURATION, "", "How far clocks may be apart."),
    setting!("jwt-bearer-header", jwt.bearer_header, SWITCH, "",
        "Is the token taken from Authorization: Bearer, too, where auth.token is missing?"
    ),
    setting!("jwt-admission", jwt.admission, SWITCH, "",
        "Is the token asked for before a session opens, in Authorization: Bearer or jwt-query, in place of auth.token?"
    ),
    setting!("jwt-query", jwt.query, OFF_OR_TEXT, "",
        "Query parameter with the token for jwt-admission (browsers set no headers on WebSocket and WebTransport)."
    ),
    setting!("jwt-end-at-expiry", jwt.end_at_expiry, SWITCH, "",
        "Is a connection closed when its token expires?"
    ),
    setting!("webtransport-keep-alive", webtransport.keep_alive, DURATION, "",
        "Time without traffic after which a QUIC keep-alive is sent."
    ),
    setting!("webtransport-idle-timeout", webtransport.idle_timeout, DURATION, "",
        "Time without any packet of the peer after which a QUIC connection is dead."
    ),
    setting!("webtransport-segmentation-offload", webtransport.segmentation_offload, SWITCH, "",
        "May several UDP packets go to the system in one call (GSO)? Some virtual networks mangle those."
    ),
    setting!("webtransport-max-pending-handshakes", webtransport.max_pending_handshakes, COUNT, "",
        "QUIC handshakes above which new ones must prove their address; above 16 times as many they are refused."
    ),
    setting!("webtransport-max-pending-handshakes-per-ip",
        webtransport.max_pending_handshakes_per_ip, COUNT, "",
        "Unfinished QUIC handshakes of one address, for those that have proven it and for those that have not."
    ),
    setting!("webtransport-public-host", webtransport.public_host, OFF_OR_TEXT, "",
        "Host that pages are told for WebTransport; off: the one that they come from."
    ),
    setting!("webtransport-public-port", webtransport.public_port, OFF_OR_PORT, "",
        "UDP port that pages are told for WebTransport; off: the one that is bound."
    ),
    setting!("webtransport-server-id", webtransport.server_id, OFF_OR_SERVER_ID, "",
        "8 bytes by which a load balancer finds this process (QUIC-LB): hex digits, base64, or a UUID's first half."
    ),
    Setting {
        name: "webtransport-reset-key",
        placeholder: "TEXT",
        node: "",
        secret: true,
        about: "Secret of 32 characters or more, the same on all nodes: any can tell clients of one that is gone.",
        read: |config, text| {
            config.webtransport.reset_key = some_text(text).map(ResetKey);
            Ok(())
        },
        show: |config| {
            config.webtransport.reset_key.as_ref().map_or_else(String::new, |key| key.0.clone())
        },
    },
    setting!("trusted-proxies", limits.trusted_proxies, NETWORKS, "",
        "Proxies whose X-Forwarded-For says who the client is; nobody else's is believed."
    ),
    setting!("per-ip-exempt", limits.per_ip_exempt, NETWORKS, "",
        "Addresses that limits per address do not hold for: as a rule proxies and tunnels, with many clients behind."
    ),
    setting!("max-sessions", limits.max_sessions, OFF_OR_COUNT, "",
        "Most sessions at a time; above it newcomers get 503."
    ),
    setting!("max-sessions-per-ip", limits.max_sessions_per_ip, OFF_OR_COUNT, "",
        "Most sessions of one address (of one /64 in IPv6); above it newcomers get 429."
    ),
    setting!("max-half-open-sessions", limits.max_half_open_sessions, OFF_OR_COUNT, "",
        "Most sessions that are being opened or have no namespace yet; above it newcomers get 503."
    ),
    setting!("max-connections", limits.max_connections, OFF_OR_COUNT, "",
        "Most connections at a time, TCP and QUIC together; above it 503, and QUIC handshakes are refused."
    ),
    setting!("max-connections-per-ip", limits.max_connections_per_ip, OFF_OR_COUNT, "",
        "Most connections of one address that is no trusted proxy, TCP and QUIC together; more are closed at once."
    ),
    setting!("max-header-bytes", limits.max_header_bytes, SIZE, "",
        "Longest head of an HTTP request; above it the client gets 431."
    ),
    setting!("handshake-rate", limits.handshake_rate, OFF_OR_COUNT, "",
        "New sessions a second; a second's worth is let in at once, those beyond wait their turn."
    ),
    setting!("handshake-wait", limits.handshake_wait, DURATION, "",
        "How long a newcomer may wait for its turn, at most upgrade-timeout; above it, 503 with Retry-After."
    ),
    setting!("handshake-rate-per-ip", limits.handshake_rate_per_ip, OFF_OR_COUNT, "",
        "New sessions a second from one address, five seconds' worth at once; more get 429 with Retry-After."
    ),
    setting!("packet-rate", limits.packet_rate, OFF_OR_COUNT, "",
        "Packets a second that are read from one connection, a second's worth at once; then reading pauses."
    ),
    setting!("byte-rate", limits.byte_rate, OFF_OR_SIZE, "",
        "Bytes of packets a second likewise; at least an eighth of max-payload."
    ),
    setting!("log-filter", log.filter, TEXT, "",
        "What is logged, in the syntax of RUST_LOG: info, or warn,quicket::engine=debug."
    ),
    setting!("log-format", log.format, LOG_FORMAT, "", "Form of the log's lines."),
    setting!("shutdown-grace", shutdown_grace, DURATION, "",
        "How long a shutdown may take before the sessions that are left are cut."
    ),
    setting!("drain-delay", drain_delay, DURATION, "",
        "How long a shutdown still takes newcomers, /acceptz red, in a cluster; a quarter of shutdown-grace at most."
    ),
    setting!("shed", shed, OFF_OR_PERCENT, "",
        "Share of its sessions that a node may close in a minute while it has more than the others; wants recovery."
    ),
    setting!("drain", drain, DURATION, "",
        "How long a shutdown spreads the closing of sessions over, in a cluster; half of shutdown-grace at most."
    ),
    secret_setting!(
        "redis-url",
        "URL",
        redis.url,
        "Redis or Valkey of a cluster: redis://, rediss://, redis-sentinel://, redis-cluster://."
    ),
    secret_setting!(
        "redis-password",
        "TEXT",
        redis.password,
        "Password for Redis; wins over the one in the URL."
    ),
    secret_setting!(
        "redis-sentinel-password",
        "TEXT",
        redis.sentinel_password,
        "Password for the Sentinels; wins over sentinelPassword in the URL."
    ),
    file_setting!(
        "redis-ca",
        redis.ca,
        "PEM file of the authorities that sign the certificates of Redis; without it, the system's."
    ),
    file_setting!(
        "redis-cert",
        redis.cert,
        "PEM file of the certificate for a Redis that asks its clients for one."
    ),
    file_setting!("redis-key", redis.key, "PEM file of the private key of redis-cert."),
    setting!("redis-stream-name", redis.stream_name, TEXT, "streamName",
        "Name of the stream, or of the streams before their number."
    ),
    setting!("redis-stream-count", redis.stream_count, STREAMS, "streamCount",
        "Streams that namespaces are spread over; the same on all nodes."
    ),
    setting!("redis-channel-prefix", redis.channel_prefix, TEXT, "channelPrefix",
        "Begins the names of the pub/sub channels."
    ),
    setting!("redis-session-prefix", redis.session_prefix, TEXT, "sessionKeyPrefix",
        "Begins the names of the keys of sessions, which recovery keeps."
    ),
    setting!("redis-sharded-pubsub", redis.sharded_pubsub, SWITCH, "useShardedPubSub",
        "Use sharded pub/sub (Redis 7 or newer); the same on all nodes."
    ),
    setting!("redis-max-len", redis.max_len, ENTRIES, "maxLen",
        "Entries that a stream keeps, about."
    ),
    setting!("redis-queue-bytes", redis.queue_bytes, SIZE, "",
        "Bytes of events that may wait for Redis; above it emits are refused."
    ),
    setting!("redis-local-deadline", redis.local_deadline, DURATION, "",
        "How long Redis may take to give an own event back before own clients get it all the same."
    ),
];
