//! How values are written: durations, sizes, lists and the like.

use std::num::NonZeroU32;
use std::time::Duration;

use http::HeaderName;

use super::{
    Compression, HostPolicy, IpNet, LogFormat, OriginPolicy, Parser, SameSite, ServerId,
    Transports, private_networks,
};

/// A kind of value: how it is written.
pub(super) struct Form<T> {
    /// What the value is called in the help text.
    pub(super) placeholder: &'static str,
    /// What text must be to be read, after "it must be".
    pub(super) right: &'static str,
    /// Reads it; `None` if the text is not `right`.
    pub(super) read: fn(&str) -> Option<T>,
    /// Writes it, so that it can be read back.
    pub(super) show: fn(&T) -> String,
}

pub(super) const TEXT: Form<String> = Form {
    placeholder: "TEXT",
    right: "text",
    read: |text| Some(text.to_owned()),
    show: String::clone,
};

pub(super) const LIST: Form<Vec<String>> = Form {
    placeholder: "LIST",
    right: "a comma list",
    read: |text| Some(text.split(',').map(|entry| entry.trim().to_owned()).collect()),
    show: |list| list.join(","),
};

pub(super) const SWITCH: Form<bool> = Form {
    placeholder: "true or false",
    right: "true or false",
    read: |text| text.parse().ok(),
    show: bool::to_string,
};

pub(super) const ADDRESS: Form<std::net::IpAddr> = Form {
    placeholder: "ADDRESS",
    right: "an IP address, such as :: or 0.0.0.0",
    read: |text| text.parse().ok(),
    show: std::net::IpAddr::to_string,
};

pub(super) const PORT: Form<u16> = Form {
    placeholder: "PORT",
    right: "a port number from 0 to 65535",
    read: digits,
    show: u16::to_string,
};

pub(super) const OFF_OR_PORT: Form<Option<u16>> = Form {
    placeholder: "off or PORT",
    right: "off or a port number from 0 to 65535",
    read: |text| off_or(text, digits),
    show: |port| show_off_or(port.as_ref(), u16::to_string),
};

pub(super) const OFF_OR_TEXT: Form<Option<String>> = Form {
    placeholder: "off or TEXT",
    right: "off or text",
    read: |text| off_or(text, |text| Some(text.to_owned())),
    show: |text| show_off_or(text.as_ref(), String::clone),
};

pub(super) const OFF_OR_HEADER: Form<Option<HeaderName>> = Form {
    placeholder: "off or NAME",
    right: "off, or the name of a header, such as x-quicket-sid",
    read: |text| off_or(text, |text| text.parse().ok()),
    show: |name| show_off_or(name.as_ref(), HeaderName::to_string),
};

pub(super) const OFF_OR_SERVER_ID: Form<Option<ServerId>> = Form {
    placeholder: "off or ID",
    right: "off, 16 hex digits, the base64 of 8 bytes, or a UUID",
    read: |text| off_or(text, ServerId::parse),
    show: |id| show_off_or(id.as_ref(), ServerId::to_string),
};

pub(super) const OFF_OR_PERCENT: Form<Option<u8>> = Form {
    placeholder: "off or PERCENT",
    right: "off, or a percentage from 1% to 100%",
    read: |text| off_or(text, |text| digits(text.strip_suffix('%').unwrap_or(text))),
    show: |percent| show_off_or(percent.as_ref(), |percent| format!("{percent}%")),
};

pub(super) const COUNT: Form<usize> =
    Form { placeholder: "COUNT", right: "a whole number", read: digits, show: usize::to_string };

/// `None` is off; 0 is read so, too.
pub(super) const OFF_OR_COUNT: Form<Option<usize>> = Form {
    placeholder: "off or COUNT",
    right: "off or a whole number",
    read: |text| off_or(text, digits).map(|count| count.filter(|count| *count > 0)),
    show: |count| show_off_or(count.as_ref(), usize::to_string),
};

/// No network is off.
pub(super) const NETWORKS: Form<Vec<IpNet>> = Form {
    placeholder: "off, private or LIST",
    right: "off, private, or a comma list of addresses and networks such as 10.0.0.0/8",
    read: |text| match text {
        "off" => Some(Vec::new()),
        "private" => Some(private_networks()),
        list => list.split(',').map(|one| read_network(one.trim())).collect(),
    },
    show: |networks| match networks.as_slice() {
        [] => "off".to_owned(),
        list if *list == private_networks() => "private".to_owned(),
        list => list.iter().map(IpNet::to_string).collect::<Vec<_>>().join(","),
    },
};

fn read_network(text: &str) -> Option<IpNet> {
    let address = || text.parse().ok().map(|address: std::net::IpAddr| address.into());
    text.parse().ok().or_else(address)
}

pub(super) const STREAMS: Form<NonZeroU32> = Form {
    placeholder: "COUNT",
    right: "a number from 1 to 1000",
    read: |text| text.parse().ok().filter(|count: &NonZeroU32| count.get() <= 1000),
    show: |count| count.to_string(),
};

pub(super) const ENTRIES: Form<u64> = Form {
    placeholder: "COUNT",
    right: "a number of entries, at least 1",
    read: |text| text.parse().ok().filter(|count| *count > 0),
    show: |count| count.to_string(),
};

pub(super) const SIZE: Form<usize> = Form {
    placeholder: "SIZE",
    right: "bytes as a whole number, or with k, M (1M = 1000000), Ki or Mi (1Mi = 1048576)",
    read: read_size,
    show: show_size,
};

pub(super) const OFF_OR_SIZE: Form<Option<usize>> = Form {
    placeholder: "off or SIZE",
    right: "off, or bytes as a whole number, or with k, M, Ki or Mi",
    read: |text| off_or(text, read_size).map(|size| size.filter(|size| *size > 0)),
    show: |size| show_off_or(size.as_ref(), show_size),
};

pub(super) const COMPRESSION: Form<Option<Compression>> = Form {
    placeholder: "off or SIZE",
    right: "off, or the bytes from which to compress, such as 1024 or 16Ki",
    read: |text| off_or(text, |text| Some(Compression { threshold: read_size(text)? })),
    show: |value| show_off_or(value.as_ref(), |value| show_size(&value.threshold)),
};

pub(super) const DURATION: Form<Duration> = Form {
    placeholder: "DURATION",
    right: "a duration such as 25s, 300ms, 2m or 1h; a plain number is milliseconds",
    read: read_duration,
    show: show_duration,
};

pub(super) const OFF_OR_DURATION: Form<Option<Duration>> = Form {
    placeholder: "off or DURATION",
    right: "off, or a duration such as 25s, 300ms, 2m or 1h; a plain number is milliseconds",
    read: |text| off_or(text, read_duration),
    show: |value| show_off_or(value.as_ref(), show_duration),
};

pub(super) const URL_PATH: Form<String> = Form {
    placeholder: "PATH",
    right: "a URL path, such as /socket.io/",
    read: |text| {
        let inner = text.strip_prefix('/').unwrap_or(text);
        Some(format!("/{}/", inner.strip_suffix('/').unwrap_or(inner)))
    },
    show: String::clone,
};

pub(super) const TRANSPORTS: Form<Transports> = Form {
    placeholder: "LIST",
    right: "a comma list of polling, websocket and webtransport",
    read: |text| {
        let mut transports = Transports { polling: false, websocket: false, webtransport: false };
        for name in text.split(',').map(str::trim) {
            match name {
                "polling" => transports.polling = true,
                "websocket" => transports.websocket = true,
                "webtransport" => transports.webtransport = true,
                _ => return None,
            }
        }
        Some(transports)
    },
    show: |&Transports { polling, websocket, webtransport }| {
        let all = [(polling, "polling"), (websocket, "websocket"), (webtransport, "webtransport")];
        let names: Vec<_> = all.into_iter().filter(|(on, _)| *on).map(|(_, name)| name).collect();
        names.join(",")
    },
};

pub(super) const ORIGINS: Form<OriginPolicy> = Form {
    placeholder: "same-origin, * or LIST",
    right: "same-origin, *, or a comma list of origins",
    read: |text| {
        Some(match text {
            "same-origin" => OriginPolicy::SameOrigin,
            "*" => OriginPolicy::Any,
            list => OriginPolicy::List(list.split(',').map(|s| s.trim().to_owned()).collect()),
        })
    },
    show: |policy| match policy {
        OriginPolicy::SameOrigin => "same-origin".to_owned(),
        OriginPolicy::Any => "*".to_owned(),
        OriginPolicy::List(list) => list.join(","),
    },
};

pub(super) const HOSTS: Form<HostPolicy> = Form {
    placeholder: "* or LIST",
    right: "*, or a comma list of names",
    read: |text| {
        Some(match text {
            "*" => HostPolicy::Any,
            list => HostPolicy::List(list.split(',').map(|s| s.trim().to_owned()).collect()),
        })
    },
    show: |policy| match policy {
        HostPolicy::Any => "*".to_owned(),
        HostPolicy::List(list) => list.join(","),
    },
};

pub(super) const SAME_SITE: Form<SameSite> = Form {
    placeholder: "strict, lax or none",
    right: "strict, lax or none",
    read: |text| match text {
        "strict" => Some(SameSite::Strict),
        "lax" => Some(SameSite::Lax),
        "none" => Some(SameSite::None),
        _ => None,
    },
    show: |value| format!("{value:?}").to_lowercase(),
};

pub(super) const PARSER: Form<Parser> = Form {
    placeholder: "json or msgpack",
    right: "json or msgpack",
    read: |text| match text {
        "json" => Some(Parser::Json),
        "msgpack" => Some(Parser::MsgPack),
        _ => None,
    },
    show: |value| format!("{value:?}").to_lowercase(),
};

pub(super) const LOG_FORMAT: Form<LogFormat> = Form {
    placeholder: "text or json",
    right: "text or json",
    read: |text| match text {
        "text" => Some(LogFormat::Text),
        "json" => Some(LogFormat::Json),
        _ => None,
    },
    show: |value| format!("{value:?}").to_lowercase(),
};

/// Digits and nothing else: `FromStr` of integers takes a sign too.
fn digits<T: std::str::FromStr>(text: &str) -> Option<T> {
    text.bytes().all(|c| c.is_ascii_digit()).then(|| text.parse().ok())?
}

fn off_or<T>(text: &str, read: impl FnOnce(&str) -> Option<T>) -> Option<Option<T>> {
    if text == "off" { Some(None) } else { read(text).map(Some) }
}

fn show_off_or<T>(value: Option<&T>, show: impl FnOnce(&T) -> String) -> String {
    value.map_or_else(|| "off".to_owned(), show)
}

/// Splits `25s` into 25 and the factor of `s`. No unit is the factor of "".
fn with_unit<T: std::str::FromStr>(text: &str, units: &[(&str, T)]) -> Option<(T, usize)> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let at = units.iter().position(|(name, _)| *name == unit)?;
    Some((number.parse().ok()?, at))
}

fn read_size(text: &str) -> Option<usize> {
    const UNITS: [(&str, usize); 5] =
        [("", 1), ("k", 1000), ("M", 1_000_000), ("Ki", 1 << 10), ("Mi", 1 << 20)];
    let (number, unit) = with_unit(text, &UNITS)?;
    number.checked_mul(UNITS[unit].1)
}

pub(super) fn show_size(size: &usize) -> String {
    match *size {
        size if size > 0 && size.is_multiple_of(1 << 20) => format!("{}Mi", size >> 20),
        size if size > 0 && size.is_multiple_of(1_000_000) => format!("{}M", size / 1_000_000),
        size => size.to_string(),
    }
}

fn read_duration(text: &str) -> Option<Duration> {
    const UNITS: [(&str, u64); 5] =
        [("", 1), ("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000)];
    let (number, unit) = with_unit(text, &UNITS)?;
    number.checked_mul(UNITS[unit].1).map(Duration::from_millis)
}

/// Whole seconds or milliseconds.
pub(super) fn show_duration(duration: &Duration) -> String {
    match duration.subsec_nanos() {
        0 => format!("{}s", duration.as_secs()),
        _ => format!("{}ms", duration.as_millis()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn durations_are_read_as_documented() {
        for (text, millis) in [
            ("25s", Some(25_000)),
            ("300ms", Some(300)),
            ("2m", Some(120_000)),
            ("1h", Some(3_600_000)),
            ("25000", Some(25_000)), // Node users write milliseconds
            ("0", Some(0)),
            ("", None),
            ("s", None),
            ("-1s", None),
            ("+1s", None),
            ("1.5s", None),
            ("25 s", None),
            ("25S", None),
            ("25d", None),
            ("18446744073709551615h", None),
            ("99999999999999999999", None),
        ] {
            assert_eq!(read_duration(text), millis.map(Duration::from_millis), "{text:?}");
        }
    }

    #[test]
    fn sizes_are_read_as_documented() {
        for (text, bytes) in [
            ("0", Some(0)),
            ("1000000", Some(1_000_000)),
            ("1M", Some(1_000_000)),
            ("1Mi", Some(1_048_576)),
            ("2k", Some(2000)),
            ("2Ki", Some(2048)),
            ("", None),
            ("M", None),
            ("1m", None),
            ("-1", None),
            ("1e6", None),
            ("99999999999999999999", None),
            ("18446744073709551615M", None),
        ] {
            assert_eq!(read_size(text), bytes, "{text:?}");
        }
    }

    #[test]
    fn a_path_gets_its_slashes() {
        for text in ["socket.io", "/socket.io", "socket.io/", "/socket.io/"] {
            assert_eq!((URL_PATH.read)(text).as_deref(), Some("/socket.io/"));
        }
    }

    proptest! {
        #[test]
        fn what_is_shown_is_what_was_read(millis: u32, bytes: u32) {
            let duration = Duration::from_millis(millis.into());
            prop_assert_eq!(read_duration(&show_duration(&duration)), Some(duration));
            let size = bytes as usize;
            prop_assert_eq!(read_size(&show_size(&size)), Some(size));
        }
    }
}
