//! Conditional requests (RFC 9110, section 13) and caching by clients (RFC 9111).

use axum::body::Bytes;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, IF_NONE_MATCH};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use longhand_shared::domain::job::JobStatus;
use sha2::{Digest, Sha256};

/// A completed job does not change, but may be erased.
const COMPLETED: HeaderValue = HeaderValue::from_static("private, max-age=10");

/// A job in progress changes, and a failed one may be retried.
const MAY_CHANGE: HeaderValue = HeaderValue::from_static("private, no-cache");

/// The bytes of an answer, and their `ETag`.
#[derive(Clone, Debug)]
pub(crate) struct Body {
    pub(crate) bytes: Bytes,
    tag: HeaderValue,
}

impl Body {
    pub(crate) fn new(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        // 128 bits of the digest suffice here.
        let tag = format!("\"{}\"", URL_SAFE_NO_PAD.encode(&Sha256::digest(&bytes)[..16]));
        Self { bytes, tag: HeaderValue::try_from(tag).expect("base64 and quotes are fit for a header") }
    }
}

/// A job in one format, with its `ETag` and how long it may be reused; `304` if the client has it.
pub(crate) fn representation(
    request: &HeaderMap,
    status: JobStatus,
    content_type: HeaderValue,
    Body { bytes, tag }: Body,
) -> Response {
    let cache_control = if status == JobStatus::Completed { COMPLETED } else { MAY_CHANGE };
    let known = tag.to_str().is_ok_and(|tag| has(request, tag));
    let headers = [(ETAG, tag), (CACHE_CONTROL, cache_control)];
    if known {
        return (StatusCode::NOT_MODIFIED, headers).into_response();
    }
    (headers, [(CONTENT_TYPE, content_type)], bytes).into_response()
}

/// Whether `If-None-Match` has the tag or `*`, by weak comparison (section 13.1.2).
pub(crate) fn has(request: &HeaderMap, tag: &str) -> bool {
    let values = request.get_all(IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    // Our tags have no commas.
    let mut tags = values.flat_map(|value| value.split(',')).map(str::trim);
    tags.any(|given| given == "*" || given.strip_prefix("W/").unwrap_or(given) == tag)
}
