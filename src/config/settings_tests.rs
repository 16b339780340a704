//! The table of settings, row by row.

use super::*;
use crate::config::Cookie;
use proptest::prelude::*;

#[test]
fn every_default_is_read_back_as_itself() {
    for setting in SETTINGS {
        let mut config = Config::default();
        config.engine.cookie = Some(Cookie::default());
        let before = config.clone();
        let shown = (setting.show)(&config);
        if !shown.is_empty() {
            assert_eq!((setting.read)(&mut config, &shown), Ok(()), "{}", setting.name);
        }
        assert_eq!(config, before, "{}", setting.name);
    }
}

#[test]
fn every_setting_changes_its_own_place() {
    let other = |setting: &Setting| match (setting.show)(&Config::default()).as_str() {
        "true" => "false",
        "false" => "true",
        "::" => "127.0.0.1",
        "same-origin" => "*",
        "json" => "msgpack",
        "text" => "json",
        "lax" => "strict",
        "info" => "debug",
        "polling,websocket,webtransport" => "polling",
        "/" | "/socket.io/" => "/x/",
        "" => "/etc/file.pem",
        "off" | "private" if setting.placeholder.contains("private") => "10.0.0.0/8",
        "off" if setting.name == "webtransport-server-id" => "0123456789abcdef",
        _ => "77",
    };
    let start = Config {
        engine: super::super::EngineConfig {
            cookie: Some(Cookie::default()),
            ..Default::default()
        },
        ..Config::default()
    };
    for setting in SETTINGS {
        let mut config = start.clone();
        assert_eq!((setting.read)(&mut config, other(setting)), Ok(()), "{}", setting.name);
        let changed: Vec<_> = SETTINGS
            .iter()
            .filter(|each| (each.show)(&config) != (each.show)(&start))
            .map(|each| each.name)
            .collect();
        assert_eq!(changed, [setting.name]);
    }
}

#[test]
fn a_server_id_is_read_in_every_form_it_is_given_in() {
    let read = |text| by_name("webtransport-server-id").read_server_id(text);
    for text in [
        "0123456789abcdef",
        "0123456789ABCDEF",
        "0x0123456789abcdef",
        "01234567-89ab-cdef-0011-223344556677", // a pod's uid
        "ASNFZ4mrze8=",                         // as AWS's controller injects it
    ] {
        assert_eq!(read(text).as_deref(), Some("0123456789abcdef"), "{text}");
    }
    for text in [
        "0123456789abcde",
        "0123456789abcdeg",
        "+123456789abcdef",
        "0123456789abcdef01",
        "0123456789ab-cdef-0011-223344556677-",
        "01234567-89ab-cdef-0011-22334455667é",
        "ASNFZ4mrze8",
        "ASNFZ4mrzQ==",
    ] {
        assert_eq!(read(text), None, "{text}");
    }
}

impl Setting {
    fn read_server_id(&self, text: &str) -> Option<String> {
        let mut config = Config::default();
        (self.read)(&mut config, text).ok().map(|()| (self.show)(&config))
    }
}

#[test]
fn no_name_is_taken_twice_or_by_the_system() {
    let mut names: Vec<_> = SETTINGS.iter().map(Setting::variable).collect();
    for taken in
        ["PATH", "HOME", "HOSTNAME", "USER", "SHELL", "TERM", "LANG", "TZ", "PWD", "TMPDIR"]
    {
        assert!(!names.iter().any(|name| name == taken), "{taken}");
    }
    names.sort();
    names.dedup();
    assert_eq!(names.len(), SETTINGS.len());
}

#[test]
fn a_secret_is_never_shown() {
    let setting = Setting { secret: true, ..*by_name("log-filter") };
    let line = setting.mistake(Some("environment LOG_FILTER"), "hunter2", "text");
    assert_eq!(line, "log-filter (environment LOG_FILTER): the value must be text");
}

#[test]
fn a_long_value_is_cut_in_messages() {
    let line = by_name("port").mistake(None, &"é".repeat(1000), "a port");
    assert!(line.len() < 400, "{line}");
}

const INTRODUCTION: &str = "# Configuration\n\n\
    Every setting has one name, written as a flag, in the environment and as a key of the TOML file \
    that `--config FILE` names; a flag wins over the environment, that over the file, and that over \
    the default.\n\
    Durations are `25s`, `300ms`, `2m`, `1h` or plain milliseconds, sizes are bytes with an optional \
    `k`, `M`, `Ki` or `Mi`, an empty variable counts as not set, and `--check-config` reports every \
    mistake without starting.\n\n\
    Pages learn `SOCKETIO_PATH` from `/webtransport.json` (`path`, also where that is a 404 for want of \
    WebTransport). The whiteboard's own page cannot connect with `PARSER=msgpack`, nor with a key in \
    `JWT_*` unless a proxy adds the token (`JWT_BEARER_HEADER`); a warning at start says so.\n\n\
    This table is generated from `src/config/settings.rs`: `UPDATE_DOCS=1 cargo test config`.\n\n";

#[test]
fn the_reference_in_docs_is_up_to_date() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/configuration.md");
    let wanted = format!("{INTRODUCTION}{}", Config::reference_markdown());
    if option_env!("UPDATE_DOCS").is_some() {
        std::fs::write(path, &wanted).unwrap();
    }
    let written = std::fs::read_to_string(path).unwrap_or_default();
    assert_eq!(written, wanted, "run UPDATE_DOCS=1 cargo test config");
}

proptest! {
    #[test]
    fn no_text_makes_a_reader_panic(text in "\\PC{0,24}") {
        for setting in SETTINGS {
            let _ = (setting.read)(&mut Config::default(), &text);
        }
    }
}
