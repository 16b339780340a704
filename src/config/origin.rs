//! Which web pages may connect, and under which names.

/// Which web pages may connect: the rule for the `Origin` header, the same on every transport.
///
/// A browser says the page's origin on WebSocket and WebTransport, and on every request by script
/// to another origin; a request without `Origin` comes from the page's own origin or from no
/// browser, and is allowed. (What a foreign page can do without it, such as `<img>` and `<script>`,
/// browsers mark by `Sec-Fetch-Site`, and is refused unless any page may connect.) This guards users
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
    /// Pages of these origins and of no other, each as a browser writes it (`https://example.com`,
    /// `http://localhost:8080`, `null`). `https://*.example.com` means all names below
    /// `example.com`, and not that name itself; `same-origin` means [`OriginPolicy::SameOrigin`].
    List(Vec<String>),
}

/// Is the port part of "the same origin"?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ports {
    Compared,
    /// A balancer maps the port (WebTransport with a public port): the page's is another.
    Mapped,
}

/// The entry of a list that means [`OriginPolicy::SameOrigin`].
const SAME_ORIGIN: &str = "same-origin";

impl OriginPolicy {
    /// May a request with this `Origin` header come in, which was sent to this authority (the
    /// `Host` header or `:authority`)?
    ///
    /// For [`OriginPolicy::SameOrigin`] host and port are compared but not the scheme: behind a
    /// proxy that ends TLS we do not know the page's scheme, and a page on plain HTTP reaches
    /// WebTransport on the same port by `https`.
    pub fn allows(&self, origin: Option<&str>, authority: Option<&str>) -> bool {
        self.allows_at(origin, authority, Ports::Compared)
    }

    pub(crate) fn allows_at(
        &self,
        origin: Option<&str>,
        authority: Option<&str>,
        ports: Ports,
    ) -> bool {
        let Some(origin) = origin else {
            return true;
        };
        let is_own = || authority.is_some_and(|authority| same_host(origin, authority, ports));
        match self {
            Self::Any => true,
            Self::List(list) => list.iter().any(|allowed| match allowed.as_str() {
                SAME_ORIGIN => is_own(),
                allowed => matches_origin(allowed, origin),
            }),
            Self::SameOrigin => is_own(),
        }
    }
}

/// Names under which the server may be addressed (the `Host` header or `:authority`), the same on
/// every transport. A page that has its own name point to the server's address (DNS rebinding) is
/// of the same origin for its browser, and for [`OriginPolicy::SameOrigin`]; here it is told by its
/// name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum HostPolicy {
    /// Every name.
    #[default]
    Any,
    /// These names: `example.com` on any port, `example.com:8443` on that port, `*.example.com` for
    /// all names below. In lower case; IPv6 addresses in brackets.
    List(Vec<String>),
}

impl HostPolicy {
    /// May a request come in that was sent to this authority?
    pub fn allows(&self, authority: Option<&str>) -> bool {
        let Self::List(list) = self else { return true };
        let Some(authority) = authority else { return false };
        let (host, port) = split_port(authority);
        let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
        list.iter().any(|allowed| {
            let (name, wanted) = split_port(allowed);
            wanted.is_none_or(|wanted| port == Some(wanted)) && matches_name(name, &host)
        })
    }
}

/// `https://*.example.com` matches every name below, on the same port.
fn matches_origin(allowed: &str, origin: &str) -> bool {
    if allowed == origin {
        return true;
    }
    let (Some((scheme, pattern)), Some((of, authority))) =
        (allowed.split_once("://"), origin.split_once("://"))
    else {
        return false;
    };
    let ((name, port), (host, of_port)) = (split_port(pattern), split_port(authority));
    scheme == of && port == of_port && name.starts_with("*.") && matches_name(name, host)
}

fn matches_name(allowed: &str, host: &str) -> bool {
    let below = |parent: &str| {
        let child = host.strip_suffix(parent).and_then(|host| host.strip_suffix('.'));
        // nothing that a browser would not write into an origin may slip in before the dot
        child.is_some_and(|child| !child.is_empty() && child.bytes().all(is_name_byte))
    };
    allowed == host || allowed.strip_prefix("*.").is_some_and(below)
}

fn is_name_byte(c: u8) -> bool {
    c.is_ascii_lowercase() || c.is_ascii_digit() || b"-._".contains(&c)
}

fn same_host(origin: &str, authority: &str, ports: Ports) -> bool {
    let Some((scheme, origin)) = origin.split_once("://") else {
        return false;
    };
    let (host, port) = split_port(origin);
    let (asked_host, asked_port) = split_port(authority);
    let default = default_port(scheme);
    let same_port = match asked_port {
        _ if ports == Ports::Mapped => true,
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
    if text == "null" || text == SAME_ORIGIN {
        return true;
    }
    let Some((scheme, authority)) = text.split_once("://") else {
        return false;
    };
    let (host, port) = split_port(authority);
    let host = parent_of(host);
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

/// `*.example.com` without its star, if what is left has a dot: `*.com` is nobody's.
fn parent_of(name: &str) -> &str {
    name.strip_prefix("*.").filter(|parent| parent.contains('.')).unwrap_or(name)
}

/// Is this a name that [`HostPolicy::List`] can match?
pub(super) fn is_host(text: &str) -> bool {
    let (host, port) = split_port(text);
    let host = parent_of(host);
    let fine = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(v6) => v6.parse::<std::net::Ipv6Addr>().is_ok_and(|address| address.to_string() == v6),
        None => !host.is_empty() && host.bytes().all(is_name_byte) && !host.ends_with('.'),
    };
    let number = |port: &str| port.parse::<u16>().is_ok_and(|number| number.to_string() == port);
    fine && port.is_none_or(number)
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
    fn a_star_stands_for_names_below_and_nothing_else() {
        let policy = OriginPolicy::List(vec![
            "https://*.a.org".to_owned(),
            "http://*.b.org:8080".to_owned(),
        ]);
        for (origin, allowed) in [
            ("https://x.a.org", true),
            ("https://x.y.a.org", true),
            ("http://x.b.org:8080", true),
            ("https://a.org", false),
            ("https://.a.org", false),
            ("https://xa.org", false),
            ("http://x.a.org", false),
            ("https://x.a.org:8443", false),
            ("http://x.b.org", false),
            ("https://x.a.org.evil.org", false),
            ("https://evil.org/.a.org", false),
            ("https://evil.org\\.a.org", false),
            ("https://evil@x.a.org", false),
            ("https://*.a.org.", false),
            ("null", false),
        ] {
            assert_eq!(policy.allows(Some(origin), Some("c.org")), allowed, "{origin}");
        }
    }

    #[test]
    fn a_list_may_hold_the_same_origin() {
        let list = ["same-origin", "https://b.org"].map(str::to_owned);
        let policy = OriginPolicy::List(list.to_vec());
        for (origin, allowed) in
            [("https://a.org", true), ("https://b.org", true), ("https://c.org", false)]
        {
            assert_eq!(policy.allows(Some(origin), Some("a.org")), allowed, "{origin}");
        }
    }

    #[test]
    fn where_a_port_is_mapped_the_host_alone_is_compared() {
        for (origin, authority, allowed) in [
            ("http://localhost:3000", "localhost:3001", true),
            ("https://a.org", "a.org:4433", true),
            ("https://b.org", "a.org:4433", false),
        ] {
            let allows =
                OriginPolicy::SameOrigin.allows_at(Some(origin), Some(authority), Ports::Mapped);
            assert_eq!(allows, allowed, "{origin} at {authority}");
        }
    }

    #[test]
    fn hosts_are_known_by_name_and_port() {
        let list = ["a.org", "b.org:8443", "*.c.org", "[::1]"].map(str::to_owned);
        let policy = HostPolicy::List(list.to_vec());
        for (authority, allowed) in [
            ("a.org", true),
            ("A.org:3000", true),
            ("a.org.", true),
            ("b.org:8443", true),
            ("x.c.org:1", true),
            ("[::1]:3000", true),
            ("b.org", false),
            ("b.org:443", false),
            ("c.org", false),
            ("evil.org", false),
            ("a.org.evil.org", false),
            ("a.org@evil.org", false),
            ("", false),
        ] {
            assert_eq!(policy.allows(Some(authority)), allowed, "{authority}");
        }
        assert!(!policy.allows(None));
        assert!(HostPolicy::Any.allows(None) && HostPolicy::Any.allows(Some("evil.org")));
    }

    #[test]
    fn a_host_that_can_never_match_is_found() {
        for good in ["a.org", "localhost", "10.0.0.1:3000", "[::1]:80", "*.a.org", "x_y.a.org"] {
            assert!(is_host(good), "{good}");
        }
        for bad in
            ["", "*", "*.org", "A.org", "https://a.org", "a.org/", "a.org:", "a.*.org", "[::0]"]
        {
            assert!(!is_host(bad), "{bad}");
        }
    }

    #[test]
    fn an_origin_that_no_browser_writes_is_found() {
        for good in [
            "https://*.a.org",
            "http://*.a.org:8080",
            "same-origin",
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
            "https://*",
            "https://*.org",
            "https://a.*.org",
            "https://*a.org",
            "://a",
        ] {
            assert!(!is_origin(bad), "{bad}");
        }
    }
}
