//! Web addresses that clients supply, and the hosts that may be called.

use std::fmt;
use std::str::FromStr;

use reqwest::Url;

/// The maximum length of an address, in bytes. A presigned one with a session token has about 1,800.
pub const MAX_URL_BYTES: usize = 2048;

/// The hosts that may be called, separated by commas. Without a port, an entry allows only port 443:
///
/// | entry | allows |
/// |---|---|
/// | `files.example.com` | `https://files.example.com/..` |
/// | `files.example.com:8443` | the same with this port, which must be over 1024 |
/// | `*.example.com` | every subdomain, but not `example.com` itself |
/// | `*` | every host that has a public address |
/// | `http://127.0.0.1:9000` | for development: this host and port, without TLS and at any IP address |
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AllowedHosts(Vec<Rule>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Rule {
    host: Host,
    port: u16,
    /// Without TLS, at any IP address.
    plain: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Host {
    Any,
    Is(String),
    /// Starts with a dot.
    Under(String),
}

impl AllowedHosts {
    /// Every host that has a public address.
    pub fn any() -> Self {
        Self(vec![Rule { host: Host::Any, port: 443, plain: false }])
    }

    /// The origins of the allowed hosts, as a Content Security Policy writes them.
    pub fn origins(&self) -> Vec<String> {
        let origin = |rule: &Rule| {
            let scheme = if rule.plain { "http" } else { "https" };
            let port =
                if rule.port == 443 && !rule.plain { String::new() } else { format!(":{}", rule.port) };
            match &rule.host {
                Host::Any => format!("{scheme}:"),
                Host::Is(host) => format!("{scheme}://{host}{port}"),
                Host::Under(parent) => format!("{scheme}://*{parent}{port}"),
            }
        };
        self.0.iter().map(origin).collect()
    }

    /// Whether no host may be called.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromStr for AllowedHosts {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let entries = text.split(',').map(str::trim).filter(|entry| !entry.is_empty());
        let rules = entries.map(|entry| rule(entry).map_err(|what| format!("{entry:?} {what}")));
        rules.collect::<Result<_, _>>().map(Self)
    }
}

fn rule(entry: &str) -> Result<Rule, &'static str> {
    const EXPECTED: &str = "is not a host: expected host, host:port, *.host, * or http://host:port";
    if entry == "*" {
        return Ok(Rule { host: Host::Any, port: 443, plain: false });
    }
    let (plain, rest) = entry.strip_prefix("http://").map_or((false, entry), |rest| (true, rest));
    let (under, rest) = rest.strip_prefix("*.").filter(|_| !plain).map_or((false, rest), |rest| (true, rest));
    if rest.contains(['/', '?', '#', '@', '\\', '*', '%']) || rest.contains(char::is_whitespace) {
        return Err(EXPECTED);
    }
    let scheme = if plain { "http" } else { "https" };
    let url = Url::parse(&format!("{scheme}://{rest}/")).map_err(|_| EXPECTED)?;
    let host = host(&url).ok_or(EXPECTED)?.to_owned();
    let port = url.port_or_known_default().ok_or(EXPECTED)?;
    if plain {
        let named = rest.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
        return if named {
            Ok(Rule { host: Host::Is(host), port, plain })
        } else {
            Err("must include a port")
        };
    }
    if url.domain().is_none() {
        return Err("is an IP address: use a host name");
    }
    if port != 443 && port <= 1024 {
        return Err("has an invalid port: use 443 or a port over 1024");
    }
    let host = if under { Host::Under(format!(".{host}")) } else { Host::Is(host) };
    Ok(Rule { host, port, plain })
}

/// Why an address may not be called.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidUrl {
    #[error("must have at most {MAX_URL_BYTES} bytes, has {0}")]
    TooLong(usize),
    /// Characters that are not valid in a URL, or that parsers interpret differently.
    #[error("must not contain spaces, backslashes or control characters: escape them")]
    Character,
    #[error("is not a valid URL: {0}")]
    Malformed(String),
    #[error("must begin with https://")]
    NotHttps,
    #[error("must not contain a user name or a password")]
    UserInfo,
    #[error("must not have a fragment (#)")]
    Fragment,
    /// The host is an IP address, in any notation.
    #[error("must have a host name, not an IP address")]
    Address,
    #[error("has the host \"{0}\", which this service is not configured to call")]
    Host(String),
}

/// An address with an allowed host. Only `net::outbound::Outbound` can call it, which checks the IP addresses of
/// the host when it connects. `Display` and `Debug` omit the query, which may contain a signature.
#[derive(Clone, PartialEq, Eq)]
pub struct PublicUrl {
    url: Url,
    plain: bool,
}

impl PublicUrl {
    /// Parses an address and checks its host against `allowed`.
    pub fn parse(text: &str, allowed: &AllowedHosts) -> Result<Self, InvalidUrl> {
        let url = well_formed(text)?;
        let (host, port) = host(&url).zip(url.port_or_known_default()).ok_or(InvalidUrl::NotHttps)?;
        let plain = url.scheme() == "http";
        let covered = |rule: &Rule| {
            rule.plain == plain
                && rule.port == port
                && match &rule.host {
                    Host::Any => true,
                    Host::Is(name) => name == host,
                    Host::Under(suffix) => host.len() > suffix.len() && host.ends_with(suffix.as_str()),
                }
        };
        // DNS never resolves an IP address, so it must be rejected here.
        if !plain && url.domain().is_none() {
            return Err(InvalidUrl::Address);
        }
        if !allowed.0.iter().any(covered) {
            return Err(match url.port() {
                _ if plain => InvalidUrl::NotHttps,
                Some(port) => InvalidUrl::Host(format!("{host}:{port}")),
                None => InvalidUrl::Host(host.to_owned()),
            });
        }
        Ok(Self { url, plain })
    }

    pub(crate) fn as_url(&self) -> &Url {
        &self.url
    }

    pub(crate) fn is_plain(&self) -> bool {
        self.plain
    }
}

impl fmt::Display for PublicUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(shown(self.url.as_str()))
    }
}

impl fmt::Debug for PublicUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicUrl({self})")
    }
}

/// A URL without its query.
pub(crate) fn shown(text: &str) -> &str {
    text.split_once('?').map_or(text, |(before, _)| before)
}

/// Parses a URL with any host. The host is normalized: lower case, IDNs in ASCII, IP addresses in any notation
/// recognized, no dot at the end.
pub(crate) fn well_formed(text: &str) -> Result<Url, InvalidUrl> {
    if text.len() > MAX_URL_BYTES {
        return Err(InvalidUrl::TooLong(text.len()));
    }
    // The URL parser drops or reinterprets these characters; other parsers may not.
    if text.chars().any(|c| c == '\\' || c.is_whitespace() || c.is_control()) {
        return Err(InvalidUrl::Character);
    }
    let mut url = Url::parse(text).map_err(|error| InvalidUrl::Malformed(error.to_string()))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(InvalidUrl::NotHttps);
    }
    let authority = text.split(['/', '?', '#']).nth(2).unwrap_or_default();
    if authority.contains('@') || !url.username().is_empty() || url.password().is_some() {
        return Err(InvalidUrl::UserInfo);
    }
    if authority.is_empty() {
        return Err(InvalidUrl::Malformed("no host after two slashes".to_owned()));
    }
    if url.fragment().is_some() {
        return Err(InvalidUrl::Fragment);
    }
    if url.host_str().is_some_and(|host| host.ends_with('.')) {
        let host = host(&url).unwrap_or_default().to_owned();
        url.set_host(Some(&host)).map_err(|error| InvalidUrl::Malformed(error.to_string()))?;
    }
    Ok(url)
}

/// The host without a trailing dot.
fn host(url: &Url) -> Option<&str> {
    let host = url.host_str()?;
    Some(host.strip_suffix('.').unwrap_or(host)).filter(|host| !host.is_empty() && !host.ends_with('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALLOWED: &str =
        "good.example, *.cdn.example, other.example:8443, münchen.example, http://127.0.0.1:9000";

    fn parse(text: &str) -> Result<String, InvalidUrl> {
        let allowed = ALLOWED.parse().expect("hosts");
        PublicUrl::parse(text, &allowed).map(|url| url.as_url().to_string())
    }

    #[test]
    fn allowed_hosts_pass() {
        for (text, read) in [
            ("https://good.example/a.wav", "https://good.example/a.wav"),
            ("HTTPS://GOOD.Example:443/A.wav?sig=x%2By", "https://good.example/A.wav?sig=x%2By"),
            ("https://good.example./a", "https://good.example/a"),
            ("https://good.example", "https://good.example/"),
            ("https://a.cdn.example/x", "https://a.cdn.example/x"),
            ("https://a.b.cdn.example/x", "https://a.b.cdn.example/x"),
            ("https://other.example:8443/x", "https://other.example:8443/x"),
            ("https://münchen.example/x", "https://xn--mnchen-3ya.example/x"),
            ("https://XN--mnchen-3ya.example/x", "https://xn--mnchen-3ya.example/x"),
            // Wide letters are the same host, and are sent as such.
            ("https://ｇｏｏｄ.example/x", "https://good.example/x"),
            ("http://127.0.0.1:9000/x", "http://127.0.0.1:9000/x"),
        ] {
            assert_eq!(parse(text).as_deref(), Ok(read), "{text}");
        }
        assert!(PublicUrl::parse("https://anything.example/x", &AllowedHosts::any()).is_ok());
    }

    #[test]
    fn ip_addresses_in_any_notation_are_rejected() {
        for host in [
            "127.0.0.1",
            "169.254.169.254",
            "2130706433",
            "0177.0.0.1",
            "0x7f.1",
            "0x7f000001",
            "127.1",
            "0",
            "017700000001",
            "127.0.0.1.",
            "①②⑦.0.0.1",
            "127。0。0。1",
            "127%2e0.0.1",
            "%31%32%37.0.0.1",
            "[::1]",
            "[::ffff:127.0.0.1]",
            "[::ffff:7f00:1]",
            "[0:0:0:0:0:ffff:a9fe:a9fe]",
            "[64:ff9b::7f00:1]",
            "8.8.8.8",
            "[2606:4700::1111]",
        ] {
            for text in [format!("https://{host}/a.wav"), format!("https://{host}:443/")] {
                let any = PublicUrl::parse(&text, &AllowedHosts::any());
                assert_eq!(any, Err(InvalidUrl::Address), "{text}");
                assert_eq!(parse(&text), Err(InvalidUrl::Address), "{text}");
            }
        }
        // An allowed IP address allows no other port.
        assert_eq!(parse("http://127.0.0.1:9001/"), Err(InvalidUrl::NotHttps));
        assert_eq!(parse("http://2130706433/"), Err(InvalidUrl::NotHttps));
    }

    #[test]
    fn invalid_addresses_name_the_fault() {
        let host = |host: &str| InvalidUrl::Host(host.to_owned());
        for (text, why) in [
            ("http://good.example/a", InvalidUrl::NotHttps),
            ("ftp://good.example/a", InvalidUrl::NotHttps),
            ("file:///etc/passwd", InvalidUrl::NotHttps),
            ("https://evil.example/", host("evil.example")),
            ("https://cdn.example/", host("cdn.example")),
            ("https://evilcdn.example/", host("evilcdn.example")),
            ("https://.cdn.example/", host(".cdn.example")),
            ("https://good.example.evil.example/", host("good.example.evil.example")),
            ("https://good.example%2eevil.example/", host("good.example.evil.example")),
            ("https://evil.example/?https://good.example/", host("evil.example")),
            ("https://good.example:8443/", host("good.example:8443")),
            ("https://good.example:80/", host("good.example:80")),
            ("https://other.example/", host("other.example")),
            ("https://localhost/", host("localhost")),
            // Cyrillic о.
            ("https://g\u{43e}od.example/", host("xn--god-sed.example")),
            ("https://good.example@127.0.0.1/", InvalidUrl::UserInfo),
            ("https://good.example:x@evil.example/", InvalidUrl::UserInfo),
            ("https://@good.example/", InvalidUrl::UserInfo),
            ("https://user:secret@good.example/", InvalidUrl::UserInfo),
            ("https://good.example\\@evil.example/", InvalidUrl::Character),
            ("https:\\\\good.example/", InvalidUrl::Character),
            ("https://evil.example\t.good.example/", InvalidUrl::Character),
            ("https://good.example/a\r\nhost: evil", InvalidUrl::Character),
            (" https://good.example/", InvalidUrl::Character),
            ("https://good.example/a b", InvalidUrl::Character),
            ("https://good.example/#x", InvalidUrl::Fragment),
            ("https://evil.example#@good.example/", InvalidUrl::Fragment),
            ("https://good\0.example/", InvalidUrl::Character),
            (&format!("https://good.example/{}", "x".repeat(2048)), InvalidUrl::TooLong(2069)),
        ] {
            assert_eq!(parse(text), Err(why), "{text}");
        }
        for text in [
            "https://good.example%40evil.example/",
            "https:///good.example/",
            "https:good.example",
            "https://",
            "https://good.example:99999/",
            "https://good%00.example/",
            "https://good.example../",
        ] {
            assert!(matches!(parse(text), Err(InvalidUrl::Malformed(_))), "{text}: {:?}", parse(text));
        }
        let none = PublicUrl::parse("https://good.example/", &AllowedHosts::default());
        assert_eq!(none, Err(host("good.example")));
    }

    #[test]
    fn invalid_host_entries_name_the_fault() {
        for (entry, why) in [
            ("10.0.0.1", "is an IP address"),
            ("[::1]:8443", "is an IP address"),
            ("2130706433", "is an IP address"),
            ("good.example:80", "use 443 or a port over 1024"),
            ("good.example/audio", "is not a host"),
            ("https://good.example", "is not a host"),
            ("user@good.example", "is not a host"),
            ("*.*.example", "is not a host"),
            ("http://*.example:9000", "is not a host"),
            ("http://localhost", "must include a port"),
        ] {
            let error = format!("fine.example, {entry}").parse::<AllowedHosts>().expect_err(entry);
            assert!(error.starts_with(&format!("{entry:?} ")) && error.contains(why), "{error}");
        }
        assert!(" , ".parse::<AllowedHosts>().expect("no hosts").is_empty());
    }

    #[test]
    fn signatures_are_not_shown() {
        let allowed = "good.example".parse().expect("a host");
        let url = PublicUrl::parse("https://good.example/a.wav?sig=secret", &allowed).expect("allowed");
        assert_eq!(
            format!("{url} {url:?}"),
            "https://good.example/a.wav PublicUrl(https://good.example/a.wav)"
        );
    }
}
