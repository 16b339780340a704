//! From flags, environment and file to a [`Config`], with every mistake reported at once.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::path::Path;

use clap::ArgMatches;

use super::Config;
use super::flags::{CHECK, CONFIG, HELP, VERSION, command, read_flags, single};
use super::settings::{self, SETTINGS, similar};
use crate::error::ConfigError;

/// Where the environment comes from: the process's own, or what a test says it is.
///
/// Any closure will do. `main` wraps the process's own, [`std::env::var_os`], and nobody else touches that. (Not
/// `var(..).ok()`, for which a variable that is no text is as good as not set: a secret would switch nothing on.)
pub trait Strings {
    /// The value of that name, if there is one.
    fn string(&self, name: &str) -> Option<OsString>;
}

impl<F: Fn(&str) -> Option<OsString>> Strings for F {
    fn string(&self, name: &str) -> Option<OsString> {
        self(name)
    }
}

/// What the command line asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Run with this configuration.
    Run(Config),
    /// `--check-config`: it is fine, and that is all.
    CheckConfig(Config),
    /// `--help` or `--version`: print this.
    Print(String),
}

impl Config {
    /// Reads the configuration: a flag wins over the environment, that over the file of `--config`,
    /// and that over the default. Everything that is given is read, also where another source wins.
    /// A variable that is empty counts as not set.
    ///
    /// `args` starts with the name of the program, as the process's own do.
    ///
    /// # Errors
    /// Every mistake at once: values that cannot be read or cannot be meant, unknown flags, and
    /// unknown keys of the file. The values of unknown flags and keys are not shown, as they may be
    /// secrets.
    pub fn parse(
        args: impl Iterator<Item = OsString>,
        env: &dyn Strings,
    ) -> Result<Command, ConfigError> {
        parse(args, env, &|path| std::fs::read_to_string(path))
    }
}

/// Reads a whole file; a test has them in memory.
type ReadFile<'a> = &'a dyn Fn(&Path) -> io::Result<String>;

fn parse(
    args: impl Iterator<Item = OsString>,
    env: &dyn Strings,
    read: ReadFile<'_>,
) -> Result<Command, ConfigError> {
    let mut mistakes = Vec::new();
    let flags = read_flags(args.collect(), &mut mistakes);
    if flags.get_flag(HELP) {
        return Ok(Command::Print(command().render_help().to_string()));
    }
    if flags.get_flag(VERSION) {
        return Ok(Command::Print(command().render_version()));
    }
    let file = match single(&flags, CONFIG, &mut mistakes) {
        Some(path) => read_file(Path::new(&path), read, &mut mistakes),
        None => BTreeMap::new(),
    };
    let config = assemble(&flags, env, &file, &mut mistakes);
    match config {
        _ if !mistakes.is_empty() => Err(ConfigError { mistakes }),
        config if flags.get_flag(CHECK) => Ok(Command::CheckConfig(config)),
        config => Ok(Command::Run(config)),
    }
}

/// Names that something else gives to a setting's variable, and cannot be taught otherwise by whoever
/// writes the manifest: AWS's load balancer controller puts its server id into the pod this way
/// (`pkg/inject/quic`).
const INJECTED: [(&str, &str); 1] = [("webtransport-server-id", "AWS_LBC_QUIC_SERVER_ID")];

fn assemble(
    flags: &ArgMatches,
    env: &dyn Strings,
    file: &BTreeMap<&'static str, Result<String, String>>,
    mistakes: &mut Vec<String>,
) -> Config {
    let mut config = Config::default();
    let mut origins = BTreeMap::new();
    let mut unreadable = Vec::new();
    for setting in SETTINGS {
        // The weakest first: what is read later stays.
        let mut given = Vec::with_capacity(3);
        match file.get(setting.name) {
            Some(Ok(text)) => given.push((format!("file, key {}", setting.key()), text.clone())),
            Some(Err(mistake)) => {
                mistakes.push(mistake.clone());
                unreadable.push(setting.name);
            }
            None => {}
        }
        let variable = setting.variable();
        // the weaker name first
        let injected = INJECTED.iter().filter(|(name, _)| *name == setting.name);
        for variable in injected.map(|(_, name)| *name).chain([variable.as_str()]) {
            let origin = format!("environment {variable}");
            match env.string(variable).map(OsString::into_string) {
                Some(Ok(text)) if !text.is_empty() => given.push((origin, text)),
                Some(Err(_)) => {
                    mistakes.push(format!("{} ({origin}): the value is not UTF-8", setting.name));
                    unreadable.push(setting.name);
                }
                _ => {}
            }
        }
        if let Some(text) = single(flags, setting.name, mistakes) {
            given.push((format!("flag --{}", setting.name), text));
        }
        for (origin, text) in given {
            if let Err(right) = (setting.read)(&mut config, &text) {
                mistakes.push(setting.mistake(Some(&origin), &text, right));
                unreadable.push(setting.name);
            }
            origins.insert(setting.name, origin);
        }
    }
    for finding in config.findings_of(&|name| origins.contains_key(name)) {
        // What could not be read has its default here, about which there is nothing to say.
        if !unreadable.contains(&finding.setting) {
            let setting = settings::by_name(finding.setting);
            let origin = origins.get(setting.name).map_or("not set", String::as_str);
            mistakes.push(setting.mistake(Some(origin), &(setting.show)(&config), &finding.right));
        }
    }
    config
}

/// The settings in a file, each as text or as what is wrong with it.
fn read_file(
    path: &Path,
    read: ReadFile<'_>,
    mistakes: &mut Vec<String>,
) -> BTreeMap<&'static str, Result<String, String>> {
    let mut values = BTreeMap::new();
    let shown = path.display();
    let text = match read(path) {
        Ok(text) => text,
        Err(error) => {
            mistakes.push(format!("config (flag --config): cannot read {shown}: {error}"));
            return values;
        }
    };
    let table = match text.parse::<toml::Table>() {
        Ok(table) => table,
        Err(error) => {
            // Without the source line, which may be that of a secret.
            let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
            let line = before.matches('\n').count() + 1;
            mistakes.push(format!("file {shown}, line {line}: {}", error.message()));
            return values;
        }
    };
    for (key, value) in table {
        match SETTINGS.iter().find(|setting| setting.key() == key) {
            Some(setting) => {
                let right = format!(
                    "{} (file, key {key}): it must be a string, number, boolean or list of strings",
                    setting.name
                );
                values.insert(setting.name, as_text(value).ok_or(right));
            }
            None => {
                let hint = similar(&key).map(|meant| format!("; it is called {}", meant.key()));
                let key = key.escape_debug();
                mistakes.push(format!("unknown key {key} in {shown}{}", hint.unwrap_or_default()));
            }
        }
    }
    values
}

fn as_text(value: toml::Value) -> Option<String> {
    match value {
        toml::Value::String(text) => Some(text),
        toml::Value::Integer(number) => Some(number.to_string()),
        toml::Value::Float(number) => Some(number.to_string()),
        toml::Value::Boolean(truth) => Some(truth.to_string()),
        toml::Value::Array(list) => {
            let texts: Option<Vec<_>> = list.iter().map(toml::Value::as_str).collect();
            Some(texts?.join(","))
        }
        toml::Value::Datetime(_) | toml::Value::Table(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::{Cookie, OriginPolicy, SameSite, TlsFiles, Transports};

    /// With the file `c.toml` in memory.
    fn parse_with(file: &str, args: &[&str], env: &[(&str, &str)]) -> Result<Command, ConfigError> {
        let args = std::iter::once("quicket").chain(args.iter().copied()).map(OsString::from);
        let env: BTreeMap<_, _> = env.iter().copied().collect();
        let env = |name: &str| env.get(name).map(OsString::from);
        super::parse(args, &env, &|path| match path.to_str() {
            Some("c.toml") => Ok(file.to_owned()),
            _ => Err(io::ErrorKind::NotFound.into()),
        })
    }

    fn parse(args: &[&str], env: &[(&str, &str)]) -> Result<Command, ConfigError> {
        parse_with("", args, env)
    }

    fn run(file: &str, args: &[&str], env: &[(&str, &str)]) -> Config {
        match parse_with(file, args, env) {
            Ok(Command::Run(config)) => config,
            other => panic!("{other:?}"),
        }
    }

    fn mistakes(file: &str, args: &[&str], env: &[(&str, &str)]) -> Vec<String> {
        parse_with(file, args, env).unwrap_err().mistakes
    }

    #[test]
    fn nothing_given_means_the_defaults() {
        assert_eq!(run("", &[], &[]), Config::default());
        assert_eq!(run("", &[], &[("PORT", ""), ("COOKIE", "")]), Config::default());
    }

    #[test]
    fn a_flag_wins_over_the_environment_over_the_file_over_the_default() {
        let file = "port = 1\nping_interval = 1000\nping_timeout = '1s'\nmax_payload = '1k'";
        let config = run(
            file,
            &["--config", "c.toml", "--port", "3", "--ping-interval=3s"],
            &[("PORT", "2"), ("PING_TIMEOUT", "2s")],
        );
        assert_eq!(config.listen.port, 3);
        assert_eq!(config.engine.ping_interval, Duration::from_secs(3));
        assert_eq!(config.engine.ping_timeout, Duration::from_secs(2));
        assert_eq!(config.engine.max_payload, 1000);
        assert_eq!(config.engine.upgrade_timeout, Duration::from_secs(10));
    }

    #[test]
    fn every_kind_of_toml_value_is_read() {
        let file = r#"
            transports = ["polling", "webtransport"]
            allow_upgrades = false
            max_payload = 5000
            cookie = "io"
            cookie_same_site = "none"
            cookie_secure = true
            cookie_max_age = "1h"
            allowed_origins = ["https://a.org", "https://b.org"]
            http_compression = "off"
            per_message_deflate = 2048
            tls_cert = "/c.pem"
            tls_key = "/k.pem"
            "#;
        let Config { tls, engine, .. } = run(file, &["--config", "c.toml"], &[]);
        let transports = Transports { polling: true, websocket: false, webtransport: true };
        assert_eq!(engine.transports, transports);
        assert!(!engine.allow_upgrades);
        assert_eq!(engine.max_payload, 5000);
        let cookie = Cookie {
            same_site: SameSite::None,
            secure: true,
            max_age: Some(Duration::from_secs(3600)),
            ..Cookie::default()
        };
        assert_eq!(engine.cookie, Some(cookie));
        let list = ["https://a.org", "https://b.org"].map(str::to_owned).to_vec();
        assert_eq!(engine.origins, OriginPolicy::List(list));
        assert_eq!(engine.http_compression, None);
        assert_eq!(engine.per_message_deflate.unwrap().threshold, 2048);
        assert_eq!(tls, Some(TlsFiles { cert: "/c.pem".into(), key: "/k.pem".into() }));
    }

    #[test]
    fn all_mistakes_are_reported_at_once() {
        let file = "ping_timeout = 0\nmaxHttpBufferSize = 5\nredis_pasword = 'hunter2'\n\
             upgrade_timeout = 2020-01-01\nconnect_timeout = 'soon'\n[engine]\nport = 1\n";
        let found = mistakes(
            file,
            &[
                "--prot",
                "1",
                "--config",
                "c.toml",
                "--ping-interval",
                "25x",
                "--connect-timeout",
                "1s",
            ],
            &[
                ("TRANSPORTS", "polling,carrier-pigeon"),
                ("TLS_CERT", "/c.pem"),
                ("COOKIE_PATH", "/"),
            ],
        );
        let path = "c.toml";
        assert_eq!(
            found,
            [
                "unknown flag --prot".to_owned(),
                format!("unknown key engine in {path}"),
                format!("unknown key maxHttpBufferSize in {path}; it is called max_payload"),
                format!("unknown key redis_pasword in {path}"),
                "transports (environment TRANSPORTS): \"polling,carrier-pigeon\", but it must be a \
                 comma list of polling, websocket and webtransport"
                    .to_owned(),
                "ping-interval (flag --ping-interval): \"25x\", but it must be a duration such as 25s, \
                 300ms, 2m or 1h; a plain number is milliseconds"
                    .to_owned(),
                "upgrade-timeout (file, key upgrade_timeout): it must be a string, number, boolean or \
                 list of strings"
                    .to_owned(),
                "cookie-path (environment COOKIE_PATH): \"/\", but it must be set together with cookie"
                    .to_owned(),
                "connect-timeout (file, key connect_timeout): \"soon\", but it must be a duration such \
                 as 25s, 300ms, 2m or 1h; a plain number is milliseconds"
                    .to_owned(),
                "tls-key (not set): \"\", but it must be set together with tls-cert".to_owned(),
                "ping-timeout (file, key ping_timeout): \"0s\", but it must be from 1ms to 2073600s"
                    .to_owned(),
            ]
        );
        assert!(!found.concat().contains("hunter2"));
    }

    #[test]
    fn what_could_not_be_read_is_no_second_mistake() {
        let found = mistakes("", &["--inbox-bytes", "lots", "--max-payload", "10M"], &[]);
        assert_eq!(found.len(), 1, "{found:?}");
        let found = mistakes("", &["--max-payload", "10M"], &[]);
        assert_eq!(
            found,
            ["inbox-bytes (not set): \"4M\", but it must be at least max-payload (10M)"]
        );
    }

    #[test]
    fn what_was_set_to_its_default_was_set() {
        let found = mistakes("", &["--drain", "5s"], &[("SHUTDOWN_GRACE", "8s")]);
        let right = "at most half of shutdown-grace (8s), which is 4s";
        assert_eq!(found, [format!("drain (flag --drain): \"5s\", but it must be {right}")]);
        assert_eq!(run("", &[], &[("SHUTDOWN_GRACE", "8s")]).drain, Duration::from_secs(5));
    }

    #[test]
    fn a_broken_or_missing_file_is_a_mistake_that_shows_no_line_of_it() {
        let file = "port = 1\nredis_password = \"hunter2\nparser = 'json'\n";
        let found = mistakes(file, &["--config", "c.toml", "--port", "x"], &[]);
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].starts_with("file c.toml, line 2: "), "{found:?}");
        assert!(!found[0].contains("hunter2"), "{found:?}");
        let found = mistakes("", &["--config", "/nonexistent/quicket.toml"], &[]);
        assert!(
            found[0].starts_with("config (flag --config): cannot read /nonexistent"),
            "{found:?}"
        );
    }

    #[test]
    fn the_switches_do_what_they_say() {
        assert_eq!(parse(&["--check-config"], &[]), Ok(Command::CheckConfig(Config::default())));
        let version = format!("quicket {}\n", env!("CARGO_PKG_VERSION"));
        assert_eq!(parse(&["-V"], &[]), Ok(Command::Print(version)));
        assert!(parse(&["--check-config"], &[("PORT", "x")]).is_err());
    }

    #[test]
    fn no_arguments_at_all_is_no_mistake() {
        let command = Config::parse(std::iter::empty(), &|_: &str| None);
        assert_eq!(command, Ok(Command::Run(Config::default())));
    }
}
