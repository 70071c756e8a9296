//! The page at `/docs`. It is one file, and nothing is loaded from elsewhere.

use std::sync::LazyLock;

use axum::http::HeaderValue;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use sha2::{Digest, Sha256};

pub(super) const HTML: &str = include_str!("docs.html");

/// What the page may do: run its own script, which is known by its hash, and call its own server.
pub(super) fn policy() -> HeaderValue {
    static POLICY: LazyLock<HeaderValue> = LazyLock::new(|| {
        let (script, style) = (hash("script"), hash("style"));
        let policy = format!(
            "default-src 'none'; script-src '{script}'; style-src '{style}'; connect-src 'self'; base-uri 'none'; \
             form-action 'none'; frame-ancestors 'none'"
        );
        HeaderValue::try_from(policy).expect("base64 and our own words are fit for a header")
    });
    POLICY.clone()
}

/// CSP Level 3, section 2.3.1: of what is between the tags, to the byte.
fn hash(element: &str) -> String {
    let (open, close) = (format!("<{element}>"), format!("</{element}>"));
    let inside = HTML.split_once(&open).and_then(|(_, rest)| rest.split_once(&close));
    let (inside, _) = inside.expect("the page has the element");
    format!("sha256-{}", BASE64_STANDARD.encode(Sha256::digest(inside)))
}
