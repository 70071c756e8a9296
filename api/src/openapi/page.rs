//! The page at `/docs`: Swagger UI, from files in this program. All its addresses are relative, so that it works behind
//! a base path.

use std::borrow::Cow;
use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::Path;
use axum::http::HeaderValue;
use axum::http::header::{CACHE_CONTROL, CONTENT_ENCODING, CONTENT_SECURITY_POLICY, CONTENT_TYPE};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::get;
use utoipa_swagger_ui::Config;

use crate::error::ApiError;

/// A new version may change what is served.
pub(super) const FOR_AN_HOUR: HeaderValue = HeaderValue::from_static("public, max-age=3600");

const HTML: &str = include_str!("docs.html");
const START: &str = include_str!("docs.js");

/// Scripts, styles and calls of this server alone. Swagger UI has its icons in its stylesheet.
const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; \
     base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
);

/// The page, its files, and the way to it from `/`.
pub(super) fn routes() -> Router {
    let page = async || {
        let headers = [
            (CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8")),
            (CACHE_CONTROL, FOR_AN_HOUR),
            (CONTENT_SECURITY_POLICY, POLICY),
        ];
        (headers, HTML)
    };
    Router::new()
        .route("/", get(async || Redirect::temporary("docs")))
        .route("/docs", get(page))
        .route("/docs/{file}", get(async |Path(name): Path<String>| file(&name)))
}

fn file(name: &str) -> Result<Response, ApiError> {
    let cached = [(CACHE_CONTROL, FOR_AN_HOUR)];
    if name == "start.js" {
        return Ok((cached, [(CONTENT_TYPE, "text/javascript")], START).into_response());
    }
    // The crate has more: other builds of the same script, and a page with settings of its own.
    if !["favicon-32x32.png", "swagger-ui.css", "swagger-ui-bundle.js"].contains(&name) {
        return Err(ApiError::NoSuchRoute);
    }
    let file = utoipa_swagger_ui::serve(name, Arc::new(Config::default())).ok().flatten();
    let file = file.ok_or(ApiError::NoSuchRoute)?;
    // Compressed at build time; every browser accepts it.
    let encoding = file.gzpipped.then_some([(CONTENT_ENCODING, "gzip")]);
    let bytes = match file.bytes {
        Cow::Borrowed(bytes) => Bytes::from_static(bytes),
        Cow::Owned(bytes) => Bytes::from(bytes),
    };
    Ok((cached, encoding, [(CONTENT_TYPE, file.content_type)], bytes).into_response())
}
