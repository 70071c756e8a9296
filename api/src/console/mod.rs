//! The page at `/console`, from files in this program (`www/`). All its addresses are relative, so that it works behind
//! a base path. It calls the API as any other client does.

mod policy;

use std::io::Write;
use std::sync::LazyLock;

use axum::Json;
use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::header::{
    ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, VARY,
};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::get;
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::auth::caller::Caller;
use crate::error::ApiError;
use crate::state::App;
use crate::{conditional, edge};

const PAGE: &str = "index.html";

/// A browser asks each time whether its copy is current. So the files of one version never mix with another's.
const REVALIDATE: HeaderValue = HeaderValue::from_static("no-cache");

macro_rules! files {
    ($($name:literal),* $(,)?) => { [$(($name, include_bytes!(concat!("www/", $name)))),*] };
}

/// A file, compressed once.
struct File {
    name: &'static str,
    bytes: &'static [u8],
    compressed: Bytes,
    tag: String,
}

static FILES: LazyLock<Vec<File>> = LazyLock::new(|| {
    let files: [(&str, &[u8]); _] = files![
        "index.html",
        "style.css",
        "icon.svg",
        "main.js",
        "api.js",
        "audio.js",
        "charts.js",
        "events.js",
        "format.js",
        "job.js",
        "jobs.js",
        "new.js",
        "operations.js",
        "parts.js",
        "session.js",
        "timeline.js",
        "transcript.js",
        "vendor/htm.js",
        "vendor/preact.js",
        "vendor/hooks.js",
    ];
    files.into_iter().map(|(name, bytes)| File::new(name, bytes)).collect()
});

impl File {
    fn new(name: &'static str, bytes: &'static [u8]) -> Self {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(bytes).expect("memory can be written");
        let compressed = encoder.finish().expect("memory can be written").into();
        // Weak: both encodings have it.
        let tag = format!("W/\"{}\"", BASE64_URL_SAFE_NO_PAD.encode(&Sha256::digest(bytes)[..16]));
        Self { name, bytes, compressed, tag }
    }

    fn content_type(&self) -> &'static str {
        match self.name.rsplit('.').next() {
            Some("html") => "text/html; charset=utf-8",
            Some("css") => "text/css; charset=utf-8",
            Some("svg") => "image/svg+xml",
            _ => "text/javascript; charset=utf-8",
        }
    }

    fn respond(&self, request: &HeaderMap) -> Response {
        let headers = [
            (ETAG, HeaderValue::try_from(&self.tag).expect("base64 and quotes")),
            (CACHE_CONTROL, REVALIDATE),
            (VARY, HeaderValue::from_static("accept-encoding")),
        ];
        if conditional::has(request, self.tag.trim_start_matches("W/")) {
            return (StatusCode::NOT_MODIFIED, headers).into_response();
        }
        let content_type = [(CONTENT_TYPE, self.content_type())];
        if accepts_gzip(request) {
            let encoding = [(CONTENT_ENCODING, "gzip")];
            (headers, content_type, encoding, self.compressed.clone()).into_response()
        } else {
            (headers, content_type, self.bytes).into_response()
        }
    }
}

fn accepts_gzip(request: &HeaderMap) -> bool {
    let values = request.get_all(ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|coding| {
        let mut parts = coding.split(';').map(str::trim);
        let gzip = parts.next().is_some_and(|name| name.eq_ignore_ascii_case("gzip"));
        gzip && !parts.any(|weight| weight.replace(' ', "").trim_end_matches(['0', '.']) == "q=")
    })
}

/// The page and its files. Open to everybody: they contain no data.
pub(crate) fn routes() -> Router<App> {
    Router::new()
        .route("/console", get(page))
        .route("/console/", get(async || Redirect::permanent("../console")))
        .route("/console/config.json", get(config))
        .route("/console/{*name}", get(file))
}

/// Who the caller is, for the page. Behind authentication.
pub(crate) fn session() -> Router<App> {
    let session = async |caller: Caller| -> Json<Value> {
        Json(json!({"userId": caller.name(), "operator": caller.is_operator()}))
    };
    Router::new().route("/console/session.json", get(session))
}

async fn page(State(app): State<App>, headers: HeaderMap) -> Result<Response, ApiError> {
    let mut response = named(PAGE)?.respond(&headers);
    response.headers_mut().insert(CONTENT_SECURITY_POLICY, policy::of(&app).await);
    Ok(response)
}

async fn file(Path(name): Path<String>, headers: HeaderMap) -> Result<Response, ApiError> {
    Ok(named(&name)?.respond(&headers))
}

fn named(name: &str) -> Result<&'static File, ApiError> {
    FILES.iter().find(|file| file.name == name).ok_or(ApiError::NoSuchRoute)
}

/// What the page must know before its user signs in.
async fn config(State(app): State<App>, headers: HeaderMap) -> Json<Value> {
    Json(json!({
        "auth": app.auth.mode(),
        "streams": !edge::through_gateway(&headers),
        "uploads": !app.sources.buckets.is_empty(),
        "version": env!("CARGO_PKG_VERSION"),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_view_is_small() {
        let bytes: usize = FILES.iter().map(|file| file.compressed.len()).sum();
        assert!(bytes < 100 * 1024, "{bytes} bytes compressed");
        for file in FILES.iter().filter(|file| !file.name.starts_with("vendor/")) {
            assert!(file.bytes.split(|byte| *byte == b'\n').count() <= 400, "{}", file.name);
        }
    }

    #[test]
    fn gzip_is_sent_to_those_who_accept_it() {
        let accepts = |value: &'static str| {
            accepts_gzip(&HeaderMap::from_iter([(ACCEPT_ENCODING, HeaderValue::from_static(value))]))
        };
        for good in ["gzip", "br, GZIP;q=0.5", "deflate, gzip"] {
            assert!(accepts(good), "{good}");
        }
        for bad in ["", "br", "gzip;q=0", "gzip; q=0.0", "identity"] {
            assert!(!accepts(bad), "{bad}");
        }
    }
}
