//! The table of settings: one name each, how its text is read, and where it goes.

use std::fmt::Write as _;
use std::path::Path;

use super::{Config, TlsFiles};

/// One row of the table.
pub(super) struct Setting {
    /// The name: flag `--ping-interval`, environment `PING_INTERVAL`, file key `ping_interval`.
    pub(super) name: &'static str,
    /// What the value is called in the help text.
    pub(super) placeholder: &'static str,
    /// The name of Node's option; empty if there is none.
    pub(super) node: &'static str,
    /// What it does, in one line.
    pub(super) about: &'static str,
    /// Is the value never to be shown?
    pub(super) secret: bool,
    /// Reads a value into its place, or says what it would have to be.
    pub(super) read: fn(&mut Config, &str) -> Result<(), &'static str>,
    /// The value in its place, so that reading it changes nothing.
    pub(super) show: fn(&Config) -> String,
}

impl Setting {
    /// The name in the environment.
    pub(super) fn variable(&self) -> String {
        self.name.replace('-', "_").to_ascii_uppercase()
    }

    /// The name in the file.
    pub(super) fn key(&self) -> String {
        self.name.replace('-', "_")
    }

    /// The line that tells the operator about a bad value.
    pub(super) fn mistake(&self, origin: Option<&str>, value: &str, right: &str) -> String {
        let mut line = self.name.to_owned();
        if let Some(origin) = origin {
            let _ = write!(line, " ({origin})"); // a String takes everything
        }
        if self.secret {
            let _ = write!(line, ": the value must be {right}");
        } else {
            let shown: String = value.chars().take(SHOWN_CHARS).collect();
            let more = if shown.len() < value.len() { " ..." } else { "" };
            let _ = write!(line, ": {shown:?}{more}, but it must be {right}");
        }
        line
    }
}

/// How much of a bad value is shown.
const SHOWN_CHARS: usize = 120;

/// The row of that name, which must be in the table.
pub(super) fn by_name(name: &str) -> &'static Setting {
    SETTINGS.iter().find(|setting| setting.name == name).expect("names come from the table")
}

/// The setting that is meant by Node's name for it, or by one with other separators.
pub(super) fn similar(name: &str) -> Option<&'static Setting> {
    let plain = |name: &str| name.replace(['-', '_'], "").to_ascii_lowercase();
    let name = plain(name);
    let is_meant = |known: &str| !known.is_empty() && plain(known) == name;
    SETTINGS.iter().find(|setting| is_meant(setting.name) || is_meant(setting.node))
}

impl Config {
    /// The table of settings as Markdown, with the defaults: the body of `docs/configuration.md`.
    pub fn reference_markdown() -> String {
        let default = Self::default();
        let mut table =
            "| Flag | Environment | File | Value | Default | Node's option | Meaning |\n\
                         |---|---|---|---|---|---|---|\n"
                .to_owned();
        let code = |text: &str| match text {
            "" => String::new(),
            text => format!("`{text}`"),
        };
        for setting in SETTINGS {
            let _ = writeln!(
                table,
                "| `--{}` | `{}` | `{}` | {} | {} | {} | {} |",
                setting.name,
                setting.variable(),
                setting.key(),
                setting.placeholder,
                code(&(setting.show)(&default)),
                code(setting.node),
                setting.about,
            );
        }
        table
    }
}

/// A row whose place is a field of the tree.
macro_rules! setting {
    ($name:literal, $($field:ident).+, $form:ident, $node:literal, $about:literal $(,)?) => {
        Setting {
            name: $name,
            placeholder: $form.placeholder,
            node: $node,
            about: $about,
            secret: false,
            read: |config, text| {
                config.$($field).+ = ($form.read)(text).ok_or($form.right)?;
                Ok(())
            },
            show: |config| ($form.show)(&config.$($field).+),
        }
    };
}

/// A row whose place is a field of the cookie, which is there once `cookie` was read.
macro_rules! cookie_setting {
    ($name:literal, $field:ident, $form:ident, $node:literal, $about:literal $(,)?) => {
        Setting {
            name: $name,
            placeholder: $form.placeholder,
            node: $node,
            about: $about,
            secret: false,
            read: |config, text| {
                let value = ($form.read)(text).ok_or($form.right)?;
                let cookie = config.engine.cookie.as_mut().ok_or("set together with cookie")?;
                cookie.$field = value;
                Ok(())
            },
            show: |config| match &config.engine.cookie {
                Some(cookie) => ($form.show)(&cookie.$field),
                None => ($form.show)(&Cookie::default().$field),
            },
        }
    };
}

/// A row of a file.
macro_rules! file_setting {
    ($name:literal, $($field:ident).+, $about:literal $(,)?) => {
        Setting {
            name: $name,
            placeholder: "FILE",
            node: "",
            about: $about,
            secret: false,
            read: |config, text| {
                config.$($field).+ = some_text(text).map(Into::into);
                Ok(())
            },
            show: |config| config.$($field).+.as_deref().map(show_path).unwrap_or_default(),
        }
    };
}

/// A row of a text that may be missing, and is never shown.
macro_rules! secret_setting {
    ($name:literal, $placeholder:literal, $($field:ident).+, $about:literal $(,)?) => {
        Setting {
            name: $name,
            placeholder: $placeholder,
            node: "",
            about: $about,
            secret: true,
            read: |config, text| {
                config.$($field).+ = some_text(text);
                Ok(())
            },
            show: |config| config.$($field).+.clone().unwrap_or_default(),
        }
    };
}

fn some_text(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

// below the macros that it uses
mod table;
pub(super) use self::table::SETTINGS;

fn tls(config: &mut Config) -> &mut TlsFiles {
    config.tls.get_or_insert_with(|| TlsFiles { cert: "".into(), key: "".into() })
}

fn show_path(path: &Path) -> String {
    path.display().to_string()
}

#[cfg(test)]
#[path = "settings_tests.rs"]
mod tests;
