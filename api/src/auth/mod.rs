//! Who is calling. `authenticate` stands before every route that is not open to all and leaves a
//! `Caller` for the handler, who is asked there what they may do.

mod caller;
mod jwks;
mod jwt;
mod keys;
pub mod settings;

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header::AUTHORIZATION;
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use longhand_shared::api_key;

pub(crate) use self::caller::Caller;
use self::jwt::Jwt;
use self::keys::KnownKeys;
use self::settings::AuthSettings;
use crate::error::ApiError;

/// The longest credential that is looked at, in bytes.
const MAX_CREDENTIAL_BYTES: usize = 8 * 1024;

const X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// How callers are told apart.
#[derive(Debug)]
pub struct Auth(Kind);

#[derive(Debug)]
enum Kind {
    Nobody,
    ApiKeys(KnownKeys),
    Jwt(Box<Jwt>),
}

/// Why a request is not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    /// It says nothing of who is calling.
    #[error("who is calling is not said: send {0}")]
    Missing(&'static str),
    /// What it says is not accepted.
    #[error("{0}")]
    Invalid(&'static str),
    /// Nobody can be let in yet: the issuer's keys have never been read.
    #[error("the keys of the issuer of tokens cannot be read just now: try again")]
    Unavailable,
}

impl Refusal {
    /// What `WWW-Authenticate` says (RFC 6750 section 3): nothing of an error to whom has said nothing.
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

impl Auth {
    /// As the settings have it, or what is wrong with them.
    pub fn new(settings: AuthSettings) -> Result<Self, String> {
        Ok(Self(match settings {
            AuthSettings::None => Kind::Nobody,
            AuthSettings::ApiKeys(source) => Kind::ApiKeys(KnownKeys::read(source)?),
            AuthSettings::Jwt(settings) => Kind::Jwt(Box::new(Jwt::new(settings)?)),
        }))
    }

    /// Without: whoever reaches the service may do everything, in everybody's name.
    pub fn none() -> Self {
        Self(Kind::Nobody)
    }

    async fn caller(&self, headers: &HeaderMap) -> Result<Caller, Refusal> {
        match &self.0 {
            Kind::Nobody => Ok(Caller::anybody()),
            Kind::ApiKeys(keys) => {
                let key = credential(headers, true)?;
                keys.caller(key.ok_or(Refusal::Missing("an API key as a bearer token or as X-Api-Key"))?)
                    .await
            }
            Kind::Jwt(jwt) => {
                let token = credential(headers, false)?;
                jwt.caller(token.ok_or(Refusal::Missing("Authorization: Bearer with a token"))?).await
            }
        }
    }
}

/// The layer before all routes that need to know who is calling.
pub(crate) async fn authenticate(
    State(auth): State<Arc<Auth>>,
    mut request: Request,
    next: Next,
) -> Result<Response, Response> {
    let caller = auth.caller(request.headers()).await;
    let caller = caller.map_err(|refusal| ApiError::Unauthorized(refusal).into_response())?;
    request.extensions_mut().insert(caller);
    Ok(next.run(request).await)
}

/// The one credential of a request. Two are refused, not chosen among: whoever looked at the request
/// before us may have chosen the other.
fn credential(headers: &HeaderMap, keys: bool) -> Result<Option<&str>, Refusal> {
    let mut found = headers.get_all(AUTHORIZATION).iter().map(|value| (value, true)).collect::<Vec<_>>();
    if keys {
        found.extend(headers.get_all(X_API_KEY).iter().map(|value| (value, false)));
    }
    let (value, bearer) = match found[..] {
        [] => return Ok(None),
        [one] => one,
        _ => return Err(Refusal::Invalid("there is more than one credential: send one")),
    };
    let text = value.to_str().map_err(|_| Refusal::Invalid("the credential is no visible ASCII"))?;
    if text.len() > MAX_CREDENTIAL_BYTES {
        return Err(Refusal::Invalid("the credential is over 8 KB"));
    }
    if !bearer {
        return Ok(Some(text.trim()));
    }
    let (scheme, token) = text.split_once(' ').unwrap_or((text, ""));
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Err(Refusal::Invalid("the scheme of Authorization is not Bearer"));
    }
    Ok(Some(token.trim()))
}

/// Whether a credential is meant to be a key.
fn is_key(credential: &str) -> bool {
    credential.starts_with(api_key::PREFIX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(given: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in given {
            headers.append(*name, HeaderValue::from_str(value).expect("a header's value"));
        }
        headers
    }

    #[test]
    fn there_is_one_credential_or_none() {
        let found = |given: &[(&'static str, &str)]| {
            credential(&headers(given), true).map(|found| found.map(str::to_owned))
        };
        assert_eq!(found(&[]), Ok(None));
        assert_eq!(found(&[("authorization", "Bearer  a.b.c ")]), Ok(Some("a.b.c".to_owned())));
        assert_eq!(found(&[("authorization", "bEARER x")]), Ok(Some("x".to_owned())));
        assert_eq!(found(&[("authorization", "Bearer")]), Ok(Some(String::new())));
        assert_eq!(found(&[("x-api-key", "lh_x")]), Ok(Some("lh_x".to_owned())));
        for bad in [
            &[("authorization", "Basic YTpi")][..],
            &[("authorization", "")],
            &[("authorization", "Bearer é")],
            &[("authorization", "Bearer x"), ("x-api-key", "x")],
            &[("authorization", "Bearer x"), ("authorization", "Bearer x")],
            &[("x-api-key", &"x".repeat(8193))],
        ] {
            assert!(found(bad).is_err(), "{bad:?}");
        }
    }
}
