//! Callers by signed tokens (RFC 7519), checked as RFC 8725 advises: the key decides which algorithms may be used, never
//! the token.

use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, DecodingKey, Header, Validation, decode, decode_header};
use longhand_shared::UserId;
use serde::Deserialize;

use super::caller::Caller;
use super::jwks::{KeySet, TokenKey};
use super::refusal::Refusal;
use super::settings::{JwtKeys, JwtSettings};

/// The scope that makes an operator.
const OPERATOR: &str = "longhand:operator";

/// Checks tokens.
#[derive(Debug)]
pub(super) struct Jwt {
    keys: Keys,
    /// All but the algorithm, which is the token's.
    validation: Validation,
}

#[derive(Debug)]
enum Keys {
    Secret(TokenKey),
    Set(KeySet),
}

/// The claims that are read here. `iss`, `aud`, `exp` and `nbf` are checked before.
#[derive(Deserialize)]
struct Claims {
    sub: UserId,
    /// RFC 8693 section 4.2.
    scope: Option<Scopes>,
    /// The same, as some issuers name it.
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
        let mut validation = Validation::default();
        validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
        // Some issuers write their name with a final slash in one place and without it in another.
        let bare = issuer.trim_end_matches('/');
        validation.set_issuer(&[bare, &format!("{bare}/")]);
        validation.set_audience(&[&audience]);
        validation.leeway = leeway.as_secs();
        validation.validate_nbf = true;
        Ok(Self { keys, validation })
    }

    /// The caller that a token identifies.
    pub(super) async fn caller(&self, token: &str) -> Result<Caller, Refusal> {
        // `alg: none` fails here: `decode_header` does not know it.
        let header: Header = decode_header(token).map_err(|_| Refusal::Invalid("not a signed token"))?;
        // RFC 7515 section 4.1.11: extensions that must be understood.
        if header.crit.is_some() {
            return Err(Refusal::Invalid("the token's header has crit, which is not supported"));
        }
        let key = match &self.keys {
            Keys::Secret(key) => key.clone(),
            Keys::Set(set) => set.key(header.kid.as_deref(), header.alg).await?,
        };
        if !key.algorithms.contains(&header.alg) {
            return Err(Refusal::Invalid("the token's algorithm does not fit its key"));
        }
        let validation = Validation { algorithms: vec![header.alg], ..self.validation.clone() };
        let claims = decode::<Claims>(token, &key.key, &validation).map_err(|error| {
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
}
