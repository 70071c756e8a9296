//! The page's Content Security Policy: this server, and the places where audio is.

use std::collections::BTreeSet;

use axum::http::HeaderValue;
use reqwest::Url;

use crate::state::AppState;

/// For the page of a server with these sources of audio.
pub(super) async fn of(app: &AppState) -> HeaderValue {
    let buckets = buckets(app).await.into_iter().fold(String::new(), |all, origin| all + " " + &origin);
    let hosts =
        app.sources.hosts.origins().into_iter().fold(String::new(), |all, origin| all + " " + &origin);
    let policy = format!(
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'{buckets}; \
         media-src 'self' blob:{buckets}{hosts}; img-src 'self' data:; base-uri 'none'; form-action 'none'; \
         frame-ancestors 'none'"
    );
    HeaderValue::try_from(policy).expect("origins are ASCII")
}

/// The origins of the buckets, as signed addresses name them. Empty without credentials: then no audio in a bucket
/// can be sent or played either.
async fn buckets(app: &AppState) -> BTreeSet<String> {
    let Ok(signing) = app.upload_signer.begin().await else {
        return BTreeSet::new();
    };
    let mut origins = BTreeSet::new();
    for bucket in &app.sources.buckets {
        let signed =
            signing.s3.get_object().bucket(bucket).key("audio").presigned(signing.presigning.clone()).await;
        let url = signed.ok().and_then(|signed| Url::parse(signed.uri()).ok());
        origins.extend(url.map(|url| url.origin().ascii_serialization()));
    }
    origins
}
