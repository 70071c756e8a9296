//! Why a request is not authenticated.

use axum::http::HeaderValue;

/// Why a request is not authenticated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    /// It has no credentials. The text names those that are accepted.
    #[error("missing credentials: send {0}")]
    Missing(&'static str),
    #[error("{0}")]
    Invalid(&'static str),
    /// The issuer's keys have never been read, so no token can be verified yet.
    #[error("the token issuer's keys cannot be read at the moment: try again")]
    Unavailable,
}

impl Refusal {
    /// `WWW-Authenticate` (RFC 6750 section 3): without an error for a request without credentials.
    pub(crate) fn challenge(self) -> HeaderValue {
        let challenge = match self {
            Self::Invalid(what) => {
                format!("Bearer realm=\"longhand\", error=\"invalid_token\", error_description=\"{what}\"")
            }
            Self::Missing(_) | Self::Unavailable => "Bearer realm=\"longhand\"".to_owned(),
        };
        HeaderValue::try_from(challenge).expect("only our own words, in ASCII and without quotes")
    }
}
