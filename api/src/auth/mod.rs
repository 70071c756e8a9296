//! Authentication. `authenticate` is the layer before every route that is not open to everybody, except those that
//! accept a ticket: they have the layer of `tickets.rs`. Both leave a `Caller` for the handler. `caller.rs` decides
//! what the caller may do.

pub(crate) mod caller;
mod jwks;
mod jwt;
mod keys;
pub(crate) mod refusal;
pub mod settings;

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header::AUTHORIZATION;
use axum::http::{HeaderMap, HeaderName};
use axum::middleware::Next;
use axum::response::Response;

use self::caller::Caller;
use self::jwt::Jwt;
use self::keys::KnownKeys;
use self::refusal::Refusal;
use self::settings::AuthSettings;
use crate::error::ApiError;

/// The longest credential that is read, in bytes.
const MAX_CREDENTIAL_BYTES: usize = 8 * 1024;

pub(crate) const X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// Identifies callers.
#[derive(Debug)]
pub struct Auth(Kind);

#[derive(Debug)]
enum Kind {
    Disabled,
    ApiKeys(KnownKeys),
    Jwt(Box<Jwt>),
}

impl Auth {
    /// An error says what is wrong with the settings.
    pub fn new(settings: AuthSettings) -> Result<Self, String> {
        Ok(Self(match settings {
            AuthSettings::None => Kind::Disabled,
            AuthSettings::ApiKeys(source) => Kind::ApiKeys(KnownKeys::read(source)?),
            AuthSettings::Jwt(settings) => Kind::Jwt(Box::new(Jwt::new(settings)?)),
        }))
    }

    /// Disabled: every caller may act for every user.
    pub fn none() -> Self {
        Self(Kind::Disabled)
    }

    /// The value of `LONGHAND_AUTH`.
    pub(crate) fn mode(&self) -> &'static str {
        match &self.0 {
            Kind::Disabled => "none",
            Kind::ApiKeys(_) => "apikey",
            Kind::Jwt(_) => "jwt",
        }
    }

    pub(crate) async fn caller(&self, headers: &HeaderMap) -> Result<Caller, Refusal> {
        match &self.0 {
            Kind::Disabled => Ok(Caller::unidentified()),
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

/// The layer before all routes that need a [`Caller`].
pub(crate) async fn authenticate(
    State(auth): State<Arc<Auth>>,
    mut request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let caller = auth.caller(request.headers()).await.map_err(ApiError::Unauthorized)?;
    request.extensions_mut().insert(caller);
    Ok(next.run(request).await)
}

/// The one credential of a request. Two are refused: what handled the request before us may have used the other.
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
    let text = value
        .to_str()
        .map_err(|_| Refusal::Invalid("the credential has characters other than visible ASCII"))?;
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

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn headers(given: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in given {
            headers.append(*name, HeaderValue::from_str(value).expect("a header's value"));
        }
        headers
    }

    #[test]
    fn a_request_has_at_most_one_credential() {
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
