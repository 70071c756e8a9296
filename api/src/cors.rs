//! Whose pages may call from a browser. Nobody's, unless a setting names them.

use std::str::FromStr;
use std::time::Duration;

use axum::http::header::{AUTHORIZATION, CONTENT_TYPE, LOCATION, RETRY_AFTER};
use axum::http::{HeaderName, HeaderValue, Method};
use longhand_shared::settings::List;
use reqwest::Url;
use tower_http::cors::{Any, CorsLayer};

/// How long a browser may remember what it was allowed.
const MAX_AGE: Duration = Duration::from_hours(1);

/// Origins, as browsers name them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origins(Vec<HeaderValue>);

impl FromStr for Origins {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let List(origins) = text.parse().unwrap_or_default();
        if origins.len() > 1 && origins.iter().any(|origin| origin == "*") {
            return Err("names * and others: * is all".to_owned());
        }
        let origin = |text: String| {
            let good =
                text == "*" || Url::parse(&text).is_ok_and(|url| url.origin().ascii_serialization() == text);
            let value = HeaderValue::try_from(&text).ok().filter(|_| good);
            value.ok_or_else(|| {
                format!("names {text:?}, which is no origin: expected one like https://app.example.com")
            })
        };
        origins.into_iter().map(origin).collect::<Result<_, _>>().map(Self)
    }
}

impl Origins {
    /// What allows them, where there are any. Cookies and other credentials that a browser adds by itself are
    /// never allowed, which is what makes `*` harmless: a page has to know the token that it sends.
    pub(crate) fn layer(&self) -> Option<CorsLayer> {
        if self.0.is_empty() {
            return None;
        }
        let header = HeaderName::from_static;
        let layer = CorsLayer::new()
            .allow_methods([Method::GET, Method::HEAD, Method::POST, Method::DELETE])
            .allow_headers([
                AUTHORIZATION,
                CONTENT_TYPE,
                header("idempotency-key"),
                header("if-none-match"),
                header("last-event-id"),
                header("prefer"),
                header("traceparent"),
                header("x-api-key"),
                header("x-request-id"),
            ])
            .expose_headers([
                LOCATION,
                RETRY_AFTER,
                header("etag"),
                header("idempotency-replayed"),
                header("preference-applied"),
                header("ratelimit"),
                header("ratelimit-policy"),
                header("x-request-id"),
            ])
            .max_age(MAX_AGE);
        Some(if self.0 == ["*"] { layer.allow_origin(Any) } else { layer.allow_origin(self.0.clone()) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_as_browsers_name_them() {
        let read = |text: &str| text.parse::<Origins>().map(|Origins(origins)| origins.len());
        assert_eq!(read("https://a.example, http://localhost:3000"), Ok(2));
        assert_eq!(read("*"), Ok(1));
        assert_eq!(read(""), Ok(0));
        for bad in [
            "*, https://a.example",
            "https://a.example/",
            "https://A.example",
            "a.example",
            "null",
            "https://a.example:443",
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
