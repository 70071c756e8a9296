//! CORS: the origins whose pages may call from a browser. None, unless a setting names them.

use std::str::FromStr;
use std::time::Duration;

use axum::http::header::{LOCATION, RETRY_AFTER};
use axum::http::{HeaderName, HeaderValue, Method};
use longhand_shared::service::settings::List;
use reqwest::Url;
use tower_http::cors::{AllowHeaders, Any, CorsLayer};

/// How long a browser may cache a preflight.
const MAX_AGE: Duration = Duration::from_hours(1);

/// Origins, as browsers send them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origins(Vec<HeaderValue>);

impl FromStr for Origins {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let List(origins) = text.parse().unwrap_or_default();
        if origins.len() > 1 && origins.iter().any(|origin| origin == "*") {
            return Err("contains * and other origins: use * alone".to_owned());
        }
        let origin = |text: String| {
            let good =
                text == "*" || Url::parse(&text).is_ok_and(|url| url.origin().ascii_serialization() == text);
            let value = HeaderValue::try_from(&text).ok().filter(|_| good);
            value.ok_or_else(|| {
                format!("contains {text:?}, which is not an origin such as https://app.example.com")
            })
        };
        origins.into_iter().map(origin).collect::<Result<_, _>>().map(Self)
    }
}

impl Origins {
    /// `None` without origins. Cookies and other credentials that a browser adds by itself are never allowed, so `*` is
    /// harmless: a page must know the token that it sends.
    pub(crate) fn layer(&self) -> Option<CorsLayer> {
        if self.0.is_empty() {
            return None;
        }
        let header = HeaderName::from_static;
        let layer = CorsLayer::new()
            .allow_methods([Method::GET, Method::HEAD, Method::POST, Method::DELETE])
            // Browsers and libraries in pages add headers such as `baggage`. Unknown headers are not read.
            .allow_headers(AllowHeaders::mirror_request())
            .expose_headers([
                LOCATION,
                RETRY_AFTER,
                header("etag"),
                header("idempotency-replayed"),
                header("longhand-partial"),
                header("longhand-times-exact"),
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
    fn origins_are_as_browsers_send_them() {
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
