//! `Prefer: wait=n` (RFC 7240, section 4.3).

use std::time::Duration;

use axum::http::header::HeaderName;
use axum::http::{HeaderMap, HeaderValue};

/// The longest wait, from the arrival of the request. What the request takes besides still fits into its
/// time limit (`edge.rs`), and all of it into the 29 s of the function and the 30 s of API Gateway
/// (`infra/gateway.yaml`).
const MAX_WAIT: Duration = Duration::from_secs(25);

const PREFER: HeaderName = HeaderName::from_static("prefer");

/// What was done about the preference.
pub(crate) const PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");

/// The header in the description.
#[derive(utoipa::IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "`wait` reads the header")]
pub(crate) struct PreferWait {
    /// `wait=n` (RFC 7240): answer when the job has ended, or after n seconds, at most 25. Other preferences are ignored.
    #[param(rename = "Prefer", example = "wait=15")]
    prefer: Option<String>,
}

/// How long the client wants to wait for the job's end, capped at [`MAX_WAIT`]. `None` without the preference, or with
/// an invalid one (section 2: it is ignored).
pub(crate) fn wait(headers: &HeaderMap) -> Option<Duration> {
    // The first one counts (section 2).
    let values = headers.get_all(PREFER).iter().filter_map(|value| value.to_str().ok());
    let seconds = values.flat_map(preferences).find_map(|preference| {
        // Parameters of the preference come after a semicolon; none is known here.
        let preference = preference.split(';').next()?;
        let (name, value) = preference.split_once('=')?;
        name.trim().eq_ignore_ascii_case("wait").then_some(value.trim())
    })?;
    let seconds = seconds.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(seconds);
    // Not `parse` alone: it would accept a sign.
    if seconds.is_empty() || !seconds.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    // Too many digits for a number mean a long time.
    Some(Duration::from_secs(seconds.parse().unwrap_or(u64::MAX)).min(MAX_WAIT))
}

/// The header of an answer after a wait.
pub(crate) fn applied(wait: Duration) -> (HeaderName, HeaderValue) {
    let value = format!("wait={}", wait.as_secs());
    (PREFERENCE_APPLIED, HeaderValue::try_from(value).expect("digits are fit for a header"))
}

/// The preferences of one header, separated by commas outside of quotes.
fn preferences(header: &str) -> impl Iterator<Item = &str> {
    let (mut quoted, mut escaped) = (false, false);
    header.split(move |c| {
        let ends = c == ',' && !quoted;
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            _ => {}
        }
        ends
    })
}

#[cfg(test)]
mod tests {
    use utoipa::IntoParams;

    use super::*;

    #[test]
    fn the_description_names_the_longest_wait() {
        let parameters = PreferWait::into_params(|| None);
        let description = parameters[0].description.as_deref().expect("a description");
        let longest = format!("at most {}.", MAX_WAIT.as_secs());
        assert!(description.contains(&longest), "{description}");
    }

    fn seconds(values: &[&'static str]) -> Option<u64> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(PREFER, HeaderValue::from_static(value));
        }
        wait(&headers).map(|wait| wait.as_secs())
    }

    #[test]
    fn waits_are_parsed() {
        assert_eq!(seconds(&["wait=10"]), Some(10));
        assert_eq!(seconds(&["respond-async, WAIT = 7 ; hint=x"]), Some(7));
        assert_eq!(seconds(&["respond-async", "wait=3"]), Some(3));
        assert_eq!(seconds(&["wait=\"5\""]), Some(5));
        assert_eq!(seconds(&["note=\"a\\\", wait=9\", wait=2"]), Some(2));
        assert_eq!(seconds(&["wait=4, wait=8"]), Some(4));
        assert_eq!(seconds(&["wait=0"]), Some(0));
    }

    #[test]
    fn long_waits_are_capped_and_invalid_ones_ignored() {
        for long in ["wait=26", "wait=3600", "wait=99999999999999999999999"] {
            assert_eq!(seconds(&[long]), Some(25), "{long}");
        }
        for none in ["", "wait", "wait=", "wait=-1", "wait=+1", "wait=1.5", "wait=soon", "waits=1", "=1"] {
            assert_eq!(seconds(&[none]), None, "{none}");
        }
        assert_eq!(seconds(&[]), None);
    }
}
