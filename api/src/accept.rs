//! `Accept` (RFC 9110 section 12.5.1): the format that a client prefers.

use axum::http::HeaderMap;
use axum::http::header::ACCEPT;

/// The index in `offers` (media types without parameters, our preferred one first) of the one that the client prefers;
/// the first without a preference. `None` if it accepts none of them.
///
/// Each offer has the quality of its most specific range. Of equal ones, the more specific range wins: `text/vtt, */*`
/// asks for captions. Parameters are ignored, and so is what cannot be parsed.
pub(crate) fn choose(headers: &HeaderMap, offers: &[&str]) -> Option<usize> {
    let values = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let ranges: Vec<Range> = values.flat_map(|value| value.split(',')).filter_map(Range::parse).collect();
    if ranges.is_empty() {
        return Some(0);
    }
    let accepted = offers.iter().enumerate().filter_map(|(place, offer)| {
        let matching = ranges.iter().filter_map(|range| Some((range.specificity(offer)?, range.quality)));
        let (specificity, quality) = matching.max()?;
        (quality > 0).then_some((quality, specificity, place))
    });
    // The first of equals; `max` would return the last.
    accepted
        .reduce(|best, next| if (next.0, next.1) > (best.0, best.1) { next } else { best })
        .map(|(.., p)| p)
}

/// One media range with its weight.
struct Range {
    kind: String,
    subtype: String,
    /// In thousandths.
    quality: u16,
}

impl Range {
    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split(';').map(str::trim);
        let (kind, subtype) = parts.next()?.split_once('/')?;
        let is_token = |text: &str| !text.is_empty() && !text.contains([' ', '\t', '"', '/']);
        if !is_token(kind) || !is_token(subtype) || (kind == "*" && subtype != "*") {
            return None;
        }
        let weight = parts.find_map(|part| {
            let (name, value) = part.split_once('=')?;
            name.eq_ignore_ascii_case("q").then_some(value)
        });
        let quality = weight.map_or(Some(1000), thousandths)?;
        Some(Self { kind: kind.to_ascii_lowercase(), subtype: subtype.to_ascii_lowercase(), quality })
    }

    /// How specific a matching range is.
    fn specificity(&self, offer: &str) -> Option<u8> {
        let (kind, subtype) = offer.split_once('/')?;
        match (self.kind.as_str(), self.subtype.as_str()) {
            ("*", "*") => Some(0),
            (of, "*") if of == kind => Some(1),
            (of, exact) if of == kind && exact == subtype => Some(2),
            _ => None,
        }
    }
}

/// A weight: from 0 to 1, with three decimals at most.
fn thousandths(text: &str) -> Option<u16> {
    let (whole, decimals) = text.split_once('.').unwrap_or((text, ""));
    let digits = decimals.len() <= 3 && decimals.bytes().all(|byte| byte.is_ascii_digit());
    let decimals: u16 = format!("{decimals:0<3}").parse().ok().filter(|_| digits)?;
    match (whole, decimals) {
        ("0", decimals) => Some(decimals),
        ("1", 0) => Some(1000),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    const OFFERS: [&str; 4] = ["application/json", "text/plain", "text/vtt", "application/x-subrip"];

    #[track_caller]
    fn assert_chosen(accept: &[&str], expected: Option<&str>) {
        let mut headers = HeaderMap::new();
        for value in accept {
            headers.append(ACCEPT, HeaderValue::from_str(value).expect("a header's value"));
        }
        assert_eq!(choose(&headers, &OFFERS).map(|place| OFFERS[place]), expected, "{accept:?}");
    }

    #[test]
    fn the_preferred_format_is_chosen() {
        let rows = [
            ("application/json", Some("application/json")),
            ("TEXT/Vtt", Some("text/vtt")),
            ("text/plain; charset=utf-8", Some("text/plain")),
            ("application/x-subrip;q=0.001", Some("application/x-subrip")),
            ("*/*", Some("application/json")),
            ("text/*", Some("text/plain")),
            ("text/*, text/plain;q=0", Some("text/vtt")),
            ("text/*;q=0.5, text/vtt;Q=0.6", Some("text/vtt")),
            ("text/*;q=0.9, text/vtt;q=0.2, */*;q=0.1", Some("text/plain")),
            ("application/json;q=0.5, text/vtt;q=0.7", Some("text/vtt")),
            ("application/json;q=0.70, text/vtt;q=0.7", Some("application/json")),
            ("text/vtt, */*", Some("text/vtt")),
            ("*/*, application/json;q=0", Some("text/plain")),
            ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", Some("application/json")),
            ("text/html", None),
            ("text/html, */*;q=0", None),
            ("application/json;q=0", None),
            ("image/*, text/html", None),
            // What cannot be parsed is ignored.
            ("", Some("application/json")),
            ("nonsense, */vtt, text/, text/vtt;q=2, text/vtt;q=nan, text/vtt;q=", Some("application/json")),
            (
                "text/vtt;q=1.001, text/plain;q=0.1234, application/x-subrip;q=0.1",
                Some("application/x-subrip"),
            ),
            ("text/plain;a=\"x, text/vtt\"", Some("text/plain")),
        ];
        for (accept, expected) in rows {
            assert_chosen(&[accept], expected);
        }
    }

    #[test]
    fn several_headers_count_as_one_and_the_default_is_json() {
        assert_chosen(&[], Some("application/json"));
        assert_chosen(&["text/html", "text/vtt;q=0.5, text/plain;q=0.4"], Some("text/vtt"));
    }
}
