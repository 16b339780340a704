//! The command line: one flag for each row of the table of settings.

use std::ffi::OsString;

use clap::builder::OsStringValueParser;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, ArgAction, ArgMatches};

use super::Config;
use super::settings::{SETTINGS, similar};

pub(super) const CONFIG: &str = "config";
pub(super) const CHECK: &str = "check-config";
pub(super) const HELP: &str = "help";
pub(super) const VERSION: &str = "version";

/// The value of a flag, which must be there once and be text.
pub(super) fn single(flags: &ArgMatches, name: &str, mistakes: &mut Vec<String>) -> Option<String> {
    let mut values = flags.get_many::<OsString>(name)?;
    let value = values.next()?;
    if values.next().is_some() {
        mistakes.push(format!("{name} (flag --{name}): given more than once"));
    }
    let text = value.to_str().map(str::to_owned);
    if text.is_none() {
        mistakes.push(format!("{name} (flag --{name}): the value is not UTF-8"));
    }
    text
}

/// The command line: one flag for each row of the table, and four that are no settings.
pub(super) fn command() -> clap::Command {
    let default = Config::default();
    let settings = SETTINGS.iter().map(|setting| {
        let about = setting.about.replace('`', "");
        let default = match (setting.show)(&default) {
            none if none.is_empty() => String::new(),
            default => format!("[default: {default}] "),
        };
        value(setting.name, setting.placeholder)
            .help(format!("{about} {default}[env: {}]", setting.variable()))
    });
    let switch = |name: &'static str| Arg::new(name).long(name).action(ArgAction::SetTrue);
    clap::Command::new("quicket")
        .version(env!("CARGO_PKG_VERSION"))
        .about(env!("CARGO_PKG_DESCRIPTION"))
        .disable_help_flag(true)
        .disable_version_flag(true)
        .args_override_self(true)
        .arg(value(CONFIG, "FILE").help("TOML file with settings (ping_interval = \"25s\")"))
        .arg(switch(CHECK).help("Read the configuration, report every mistake, and exit"))
        .arg(switch(HELP).short('h').help("Print this and exit"))
        .arg(switch(VERSION).short('V').help("Print the version and exit"))
        .args(settings)
        .after_help(
            "A flag wins over the environment, that over the file. A key of the file is the name with \
             _ for -. Durations: 25s, 300ms, 2m, 1h, or milliseconds. Sizes: bytes, or with k, M, Ki, Mi.",
        )
}

fn value(name: &'static str, placeholder: &'static str) -> Arg {
    Arg::new(name)
        .long(name)
        .value_name(placeholder)
        .value_parser(OsStringValueParser::new())
        // Not `Set`, whose complaint would end the parsing; see `single`.
        .action(ArgAction::Append)
        .allow_negative_numbers(true)
}

/// Clap stops at the first mistake. So each is noted and taken away, until nothing is wrong any
/// more.
pub(super) fn read_flags(mut args: Vec<OsString>, mistakes: &mut Vec<String>) -> ArgMatches {
    loop {
        match command().try_get_matches_from(&args) {
            Ok(matches) => return matches,
            Err(error) => {
                let before = args.len();
                mistakes.push(take_away(&mut args, &error));
                if args.len() == before {
                    args.truncate(1); // cannot be told apart from the rest; at least we end
                }
            }
        }
    }
}

/// Removes what `error` is about, and says what was wrong with it.
fn take_away(args: &mut Vec<OsString>, error: &clap::Error) -> String {
    let Some(ContextValue::String(culprit)) = error.get(ContextKind::InvalidArg) else {
        return "the command line cannot be read".to_owned();
    };
    // `--port <PORT>` for a known flag, `--prot` for an unknown one.
    let culprit = culprit.split([' ', '=']).next().unwrap_or_default();
    let is_flag = culprit.len() > 1 && culprit.starts_with('-');
    let is_short = is_flag && !culprit.starts_with("--");
    let found = args.iter().skip(1).position(|arg| {
        let arg = arg.to_string_lossy();
        let name = if is_flag { arg.split('=').next().unwrap_or_default() } else { &arg };
        name == culprit
            || !is_flag && name.starts_with(culprit)
            || is_short && arg.starts_with(culprit)
    });
    let unknown = error.kind() == ErrorKind::UnknownArgument;
    if let Some(at) = found.map(|at| at + 1) {
        let removed = args.remove(at);
        let whole = removed.to_string_lossy().contains('=');
        let next_is_value =
            args.get(at).is_some_and(|next| !next.to_string_lossy().starts_with('-'));
        if unknown && is_flag && !whole && next_is_value {
            args.remove(at);
        }
    }
    match error.kind() {
        ErrorKind::UnknownArgument if is_flag => {
            let hint = similar(culprit).map(|setting| format!("; it is called --{}", setting.name));
            format!("unknown flag {culprit}{}", hint.unwrap_or_default())
        }
        // Not shown: it may be the value of a secret whose flag was mistyped.
        ErrorKind::UnknownArgument => {
            "an argument belongs to no flag: settings are given as --name value".to_owned()
        }
        ErrorKind::InvalidValue => format!("flag {culprit}: its value is missing"),
        ErrorKind::TooManyValues => format!("flag {culprit}: it takes no value"),
        _ => format!("flag {culprit} cannot be read"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Command;
    use crate::error::ConfigError;

    fn parse(args: &[&str]) -> Result<Command, ConfigError> {
        let args = std::iter::once("quicket").chain(args.iter().copied()).map(OsString::from);
        Config::parse(args, &|_: &str| None)
    }

    fn mistakes(args: &[&str]) -> Vec<String> {
        parse(args).unwrap_err().mistakes
    }

    #[test]
    fn every_bad_flag_is_found_and_no_stray_value_is_shown() {
        let found = mistakes(&[
            "--redis-pasword",
            "hunter2",
            "--api-key=hunter2",
            "--pingInterval",
            "1",
            "hunter2",
            "-x",
            "--port",
            "-1",
            "--check-config=hunter2",
            "--parser",
            "xml",
            "--admin-port",
        ]);
        assert_eq!(
            found,
            [
                "unknown flag --redis-pasword",
                "unknown flag --api-key",
                "unknown flag --pingInterval; it is called --ping-interval",
                "an argument belongs to no flag: settings are given as --name value",
                "unknown flag -x",
                "flag --check-config: it takes no value",
                "flag --admin-port: its value is missing",
                "port (flag --port): \"-1\", but it must be a port number from 0 to 65535",
                "parser (flag --parser): \"xml\", but it must be json or msgpack",
            ]
        );
    }

    #[test]
    fn a_flag_without_value_does_not_eat_the_next_flag() {
        let found = mistakes(&["--port", "--check-config", "--parser="]);
        assert_eq!(
            found,
            [
                "flag --port: its value is missing",
                "parser (flag --parser): \"\", but it must be json or msgpack",
            ]
        );
        let twice = mistakes(&["--port", "1", "--port", "2"]);
        assert_eq!(twice, ["port (flag --port): given more than once"]);
    }

    #[test]
    fn help_lists_every_setting_with_default_and_variable_whatever_else_is_wrong() {
        let Ok(Command::Print(help)) = parse(&["--prot", "-h", "--port=x"]) else {
            panic!("no help");
        };
        for setting in SETTINGS {
            assert!(help.contains(&format!("--{} <", setting.name)), "{}", setting.name);
            assert!(help.contains(&format!("[env: {}]", setting.variable())), "{}", setting.name);
        }
        for part in ["[default: 25s] [env: PING_INTERVAL]", "--config <FILE>", "--check-config"] {
            assert!(help.contains(part), "{part} is not in\n{help}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_value_that_is_no_text_is_a_mistake() {
        use std::os::unix::ffi::OsStringExt as _;
        let args = ["quicket".into(), "--cookie".into(), OsString::from_vec(vec![0xff])];
        let error = Config::parse(args.into_iter(), &|_: &str| None).unwrap_err();
        assert_eq!(error.mistakes, ["cookie (flag --cookie): the value is not UTF-8"]);
    }
}
