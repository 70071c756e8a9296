//! Callers by signed tokens (RFC 7519), checked as RFC 8725 advises: which algorithms may be used is said by
//! the key, never by the token.

use std::time::Duration;

use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, DecodingKey, Header, Validation, decode, decode_header};
use longhand_shared::UserId;
use serde::Deserialize;

use super::jwks::KeySet;
use super::settings::{JwtKeys, JwtSettings};
use super::{Caller, Refusal};

/// The scope that makes an operator.
const OPERATOR: &str = "longhand:operator";

/// Checks tokens.
#[derive(Debug)]
pub(super) struct Jwt {
    keys: Keys,
    issuer: String,
    audience: String,
    leeway: Duration,
}

#[derive(Debug)]
enum Keys {
    Secret(TokenKey),
    Set(KeySet),
}

/// A key, and the algorithms that it is for.
#[derive(Clone, Debug)]
pub(super) struct TokenKey {
    pub(super) key: DecodingKey,
    pub(super) algorithms: Vec<Algorithm>,
}

/// What is looked at here. `iss`, `aud`, `exp` and `nbf` have been by then.
#[derive(Deserialize)]
struct Claims {
    sub: UserId,
    /// RFC 8693 section 4.2.
    scope: Option<Scopes>,
    /// The same, as some issuers have it.
    scp: Option<Scopes>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Scopes {
    Text(String),
    List(Vec<String>),
}

impl Scopes {
    fn has(&self, scope: &str) -> bool {
        match self {
            Self::Text(text) => text.split(' ').any(|one| one == scope),
            Self::List(list) => list.iter().any(|one| one == scope),
        }
    }
}

impl Jwt {
    pub(super) fn new(settings: JwtSettings) -> Result<Self, String> {
        let JwtSettings { keys, issuer, audience, leeway } = settings;
        let keys = match keys {
            JwtKeys::Secret(secret) => Keys::Secret(TokenKey {
                key: DecodingKey::from_secret(secret.reveal().as_bytes()),
                algorithms: vec![Algorithm::HS256],
            }),
            JwtKeys::Set(url) => Keys::Set(KeySet::new(url)?),
        };
        Ok(Self { keys, issuer, audience, leeway })
    }

    /// Whom a token speaks for.
    pub(super) async fn caller(&self, token: &str) -> Result<Caller, Refusal> {
        // `alg: none` ends here: it is no algorithm that the header's reader knows.
        let header: Header =
            decode_header(token).map_err(|_| Refusal::Invalid("it is not a signed token"))?;
        // RFC 7515 section 4.1.11: what must be understood and is not.
        if header.crit.is_some() {
            return Err(Refusal::Invalid("the token's header has crit, of which nothing is known here"));
        }
        let key = match &self.keys {
            Keys::Secret(key) => key.clone(),
            Keys::Set(set) => set.key(header.kid.as_deref()).await?,
        };
        if !key.algorithms.contains(&header.alg) {
            return Err(Refusal::Invalid("the token's algorithm is not that of its key"));
        }
        let claims = decode::<Claims>(token, &key.key, &self.validation(header.alg)).map_err(|error| {
            Refusal::Invalid(match error.kind() {
                ErrorKind::ExpiredSignature => "the token has expired",
                ErrorKind::ImmatureSignature => "the token is not valid yet",
                ErrorKind::InvalidIssuer => "the token is from another issuer",
                ErrorKind::InvalidAudience => "the token is for another audience",
                ErrorKind::MissingRequiredClaim(_) => "the token must have exp, iss, aud and sub",
                ErrorKind::InvalidSignature => "the token's signature is wrong",
                _ => "the token cannot be read: sub must be 1 to 128 visible ASCII characters, exp a number",
            })
        })?;
        let Claims { sub, scope, scp } = claims.claims;
        let operator = [scope, scp].iter().flatten().any(|scopes| scopes.has(OPERATOR));
        Ok(Caller::new(sub, operator))
    }

    fn validation(&self, algorithm: Algorithm) -> Validation {
        let mut validation = Validation::new(algorithm);
        validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
        validation.set_issuer(&[&self.issuer]);
        validation.set_audience(&[&self.audience]);
        validation.leeway = self.leeway.as_secs();
        validation.validate_nbf = true;
        validation
    }
}
