//! Which web pages may connect.

/// Which web pages may connect: the rule for the `Origin` header, the same on every transport.
///
/// A browser says the page's origin on WebSocket and WebTransport, and on every request by script
/// to another origin; a request without `Origin` comes from the page's own origin or from no
/// browser, and is always allowed. (The exception is a foreign `<script>`, which is how JSONP
/// polling works: whoever serves JSONP has to look at `Sec-Fetch-Site` as well.) This guards users
/// of browsers against foreign pages; it is no authentication.
///
/// Node sends no CORS header by default, so that foreign pages cannot poll, but takes their
/// WebSockets. Here the default is the same refusal on all three.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum OriginPolicy {
    /// Pages from the host and port that they connect to.
    #[default]
    SameOrigin,
    /// Every page.
    Any,
    /// Pages of these origins, each as a browser writes it (`https://example.com`,
    /// `http://localhost:8080`, `null`), and of no other, the server's own included.
    List(Vec<String>),
}

impl OriginPolicy {
    /// May a request with this `Origin` header come in, which was sent to this authority (the
    /// `Host` header or `:authority`)?
    ///
    /// For [`OriginPolicy::SameOrigin`] host and port are compared but not the scheme: behind a
    /// proxy that ends TLS we do not know the page's scheme, and a page on plain HTTP reaches
    /// WebTransport on the same port by `https`.
    pub fn allows(&self, origin: Option<&str>, authority: Option<&str>) -> bool {
        let Some(origin) = origin else {
            return true;
        };
        match self {
            Self::Any => true,
            Self::List(list) => list.iter().any(|allowed| allowed == origin),
            Self::SameOrigin => authority.is_some_and(|authority| same_host(origin, authority)),
        }
    }
}

fn same_host(origin: &str, authority: &str) -> bool {
    let Some((scheme, origin)) = origin.split_once("://") else {
        return false;
    };
    let (host, port) = split_port(origin);
    let (asked_host, asked_port) = split_port(authority);
    let default = default_port(scheme);
    let same_port = match asked_port {
        Some(asked) => port.or(default) == Some(asked),
        // The scheme of the request is not known here; no port means the default of whatever it is.
        None => port.is_none() || port == default,
    };
    !host.is_empty() && host.eq_ignore_ascii_case(asked_host) && same_port
}

fn split_port(authority: &str) -> (&str, Option<&str>) {
    match authority.rsplit_once(':') {
        // In `[::1]` the last colon is none of a port.
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (authority, None),
    }
}

fn default_port(scheme: &str) -> Option<&'static str> {
    match scheme {
        "http" => Some("80"),
        "https" => Some("443"),
        _ => None,
    }
}

/// Is this an origin exactly as a browser writes it (RFC 6454 6.2)? Anything else would never
/// match.
pub(super) fn is_origin(text: &str) -> bool {
    if text == "null" {
        return true;
    }
    let Some((scheme, authority)) = text.split_once("://") else {
        return false;
    };
    let (host, port) = split_port(authority);
    let plain = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || b"-._+".contains(&c);
    let host_is_fine = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(v6) => v6.parse::<std::net::Ipv6Addr>().is_ok_and(|address| address.to_string() == v6),
        None => host.bytes().all(plain) && (!host.is_empty() || scheme == "file"),
    };
    let port_is_fine = port.is_none_or(|port| {
        let number = port.parse::<u16>();
        number.is_ok_and(|number| number.to_string() == port) && default_port(scheme) != Some(port)
    });
    !scheme.is_empty() && scheme.bytes().all(plain) && host_is_fine && port_is_fine
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn same_origin_compares_host_and_port() {
        for (origin, authority, allowed) in [
            ("https://a.org", "a.org", true),
            ("https://a.org", "A.org:443", true),
            ("http://a.org", "a.org:80", true),
            ("http://localhost:3000", "localhost:3000", true), // page on HTTP, WebTransport beside it
            ("http://[::1]:3000", "[::1]:3000", true),
            ("https://[::1]", "[::1]", true),
            ("https://a.org", "a.org:80", false),
            ("https://a.org", "b.org", false),
            ("https://a.org:8443", "a.org", false),
            ("https://a.org", "a.org:8443", false),
            ("https://a.org.evil.org", "a.org", false),
            ("https://evil.org/a.org", "a.org", false),
            ("null", "a.org", false),
            ("null", "null", false),
            ("", "", false),
            ("file://", "", false),
        ] {
            let allows = OriginPolicy::SameOrigin.allows(Some(origin), Some(authority));
            assert_eq!(allows, allowed, "{origin} at {authority}");
        }
        assert!(!OriginPolicy::SameOrigin.allows(Some("https://a.org"), None));
    }

    #[test]
    fn a_request_without_origin_is_always_allowed() {
        for policy in [OriginPolicy::SameOrigin, OriginPolicy::Any, OriginPolicy::List(vec![])] {
            assert!(policy.allows(None, Some("a.org")), "{policy:?}");
        }
    }

    #[test]
    fn a_list_matches_whole_origins_only() {
        let policy = OriginPolicy::List(vec!["https://a.org".to_owned()]);
        assert!(policy.allows(Some("https://a.org"), Some("b.org")));
        for other in ["http://a.org", "https://a.org:8443", "https://a.org.evil.org", "null"] {
            assert!(!policy.allows(Some(other), Some("a.org")), "{other}");
        }
        assert!(OriginPolicy::Any.allows(Some("null"), None));
    }

    #[test]
    fn an_origin_that_no_browser_writes_is_found() {
        for good in [
            "https://a.org",
            "http://localhost:8080",
            "null",
            "file://",
            "http://[::1]:1",
            "app://x",
        ] {
            assert!(is_origin(good), "{good}");
        }
        for bad in [
            "",
            "*",
            "a.org",
            "https://a.org/",
            "https://A.org",
            "https://a.org:443",
            "http://a.org:80",
            "https://",
            "https://a.org:99999",
            "https://a.org:080",
            "https://u@a.org",
            "https://[::0]",
            "same-origin",
            "://a",
        ] {
            assert!(!is_origin(bad), "{bad}");
        }
    }
}
