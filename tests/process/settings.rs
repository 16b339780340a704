//! How the binary takes its settings, and what it says of those that it cannot take.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;

use serde_json::{Value, json};

use super::{Client, Process, TransportKind, WebSocket, command, output, within};

#[tokio::test]
async fn a_wrong_configuration_names_every_mistake_at_once() {
    let environment = [("PORT", "many"), ("PING_INTERVAL", "never")];
    for check in [&[][..], &["--check-config"]] {
        let mut arguments = check.to_vec();
        arguments.extend(["--max-payload", "-5", "--colour", "red"]);
        let (code, stdout, stderr) = output(&arguments, &environment).await;
        assert_eq!((code, stdout.as_str()), (64, ""), "{stderr}");
        for part in ["port", "many", "ping-interval", "never", "max-payload", "-5", "--colour"] {
            assert!(stderr.contains(part), "{part} is not in\n{stderr}");
        }
    }
}

#[tokio::test]
async fn its_switches_print_and_do_nothing_else() {
    let (code, stdout, stderr) = output(&["--check-config"], &[("PORT", "3000")]).await;
    assert_eq!((code, stderr.as_str()), (0, ""));
    assert!(stdout.contains("good"), "{stdout}");
    let (code, stdout, _) = output(&["--version"], &[]).await;
    assert_eq!((code, stdout.trim()), (0, concat!("quicket ", env!("CARGO_PKG_VERSION"))));
    let (code, help, _) = output(&["--help"], &[]).await;
    assert_eq!(code, 0);
    // the table of the settings is generated from the same source; see config::settings
    let table = include_str!("../../docs/configuration.md");
    let flags = table.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
    let flags: Vec<_> = flags.collect();
    assert!(flags.len() > 20, "{flags:?}");
    for flag in flags {
        assert!(help.contains(&format!("{flag} <")), "{flag} is not in\n{help}");
    }
}

#[tokio::test]
async fn settings_come_from_the_file_too() {
    let file = std::env::temp_dir().join(format!("quicket-{}.toml", std::process::id()));
    std::fs::write(&file, "port = 0\nping_interval = \"7s\"\nping_timeout = \"3s\"\n").unwrap();
    let path = file.to_str().unwrap();
    let flags = ["--config", path, "--ping-timeout", "4s", "--log-format", "json"];
    let mut process = Process::start(&flags, &[("PORT", "0")]).await;
    let client = Client::open(process.address, WebSocket).await;
    assert_eq!(client.open["pingInterval"], 7_000);
    assert_eq!(client.open["pingTimeout"], 4_000, "a flag wins");
    process.signal("TERM").await;
    let line: Value = serde_json::from_str(&process.line("SIGTERM").await).unwrap();
    assert_eq!(line["level"], "INFO");
    std::fs::remove_file(file).unwrap();
}

#[tokio::test]
async fn the_server_id_of_a_balancer_comes_from_either_name() {
    let aws = ("AWS_LBC_QUIC_SERVER_ID", "ASNFZ4mrze8=");
    assert_eq!(output(&["--check-config"], &[aws]).await.0, 0);
    let (code, _, stderr) =
        output(&["--check-config"], &[("AWS_LBC_QUIC_SERVER_ID", "short")]).await;
    assert_eq!(code, 64);
    assert!(stderr.contains("AWS_LBC_QUIC_SERVER_ID"), "{stderr}");
    let process = Process::start(&[], &[aws]).await;
    let mut client = Client::open(process.address, TransportKind::WebTransport).await;
    client.join("/").await;
}

#[tokio::test]
async fn a_variable_that_is_no_text_is_a_mistake_and_not_left_out() {
    let mut command = command(&["--check-config"], &[("PORT", "many")]);
    let secret = OsStr::from_bytes(b"\xff\xfehunter2-hunter2-hunter2-hunter2-hunter2");
    let output = command.env("JWT_SECRET", secret).env("TLS_CERT", secret).output();
    let output = within("the process", output).await.unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(64), &b""[..]), "{stderr}");
    for part in ["port", "many", "JWT_SECRET", "TLS_CERT"] {
        assert!(stderr.contains(part), "{part} is not in\n{stderr}");
    }
    assert_eq!(stderr.matches("the value is not UTF-8").count(), 2, "{stderr}");
    assert!(!stderr.contains("hunter2"), "{stderr}");
}

#[tokio::test]
async fn pages_are_told_the_path_of_the_protocol_with_webtransport_and_without() {
    let offer = async |more: &[(&str, &str)]| {
        let mut environment = vec![("SOCKETIO_PATH", "/live")];
        environment.extend(more);
        let process = Process::start(&[], &environment).await;
        let (status, offer) = process.get("/webtransport.json").await;
        let offer: Value = serde_json::from_str(&offer).unwrap();
        (status, offer, process.address.port())
    };
    let (status, found, port) = offer(&[]).await;
    assert_eq!((status, &found["path"], &found["port"]), (200, &json!("/live/"), &json!(port)));
    assert!(!found["certificateHashes"].as_array().unwrap().is_empty());
    let (status, none, _) = offer(&[("TRANSPORTS", "polling,websocket")]).await;
    // clients take the status for the answer whether there is WebTransport
    assert_eq!((status, none), (404, json!({ "path": "/live/" })));
}

#[tokio::test]
async fn that_the_page_cannot_connect_is_said_at_start() {
    let warnings = async |environment: &[(&str, &str)]| {
        let mut process = Process::start(&[], environment).await;
        let log = process.rest_of_the_log().await.into_iter();
        log.filter(|line| line.contains("WARN")).collect::<Vec<_>>()
    };
    assert_eq!(warnings(&[]).await, [""; 0]);
    let secret = "0123456789abcdef0123456789abcdef";
    let both = warnings(&[("PARSER", "msgpack"), ("JWT_SECRET", secret)]).await;
    assert_eq!(both.len(), 2, "{both:?}");
    for (line, part) in both.iter().zip(["PARSER", "JWT_"]) {
        assert!(line.contains("page cannot connect") && line.contains(part), "{line}");
    }
}
