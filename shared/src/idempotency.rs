//! `Idempotency-Key`: the name that a client gives to a request, so that asking again is not asking for more.
//!
//! After the IETF's draft (draft-ietf-httpapi-idempotency-key-header). The record is made in the same
//! transaction as the job, so there is no moment in which a request is known and its job is not.

use std::fmt;
use std::time::Duration;

/// How long a key is kept.
pub const KEPT: Duration = Duration::from_hours(24);

/// A client's name for one request: 1 to 255 visible ASCII characters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdempotencyKey(String);

/// A text that is no [`IdempotencyKey`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("must be 1 to 255 visible ASCII characters")]
pub struct InvalidIdempotencyKey;

impl TryFrom<String> for IdempotencyKey {
    type Error = InvalidIdempotencyKey;

    /// The draft's form has quotes around it; most clients leave them out.
    fn try_from(text: String) -> Result<Self, InvalidIdempotencyKey> {
        let bare = text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(&text);
        let visible = bare.bytes().all(|byte| byte.is_ascii_graphic());
        if (1..=255).contains(&bare.len()) && visible {
            Ok(Self(bare.to_owned()))
        } else {
            Err(InvalidIdempotencyKey)
        }
    }
}

impl fmt::Display for IdempotencyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A request's key, and what it asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Idempotency {
    /// The client's name for the request.
    pub key: IdempotencyKey,
    /// The same for two requests that ask for the same.
    pub digest: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_read_with_quotes_and_without() {
        let key = |text: &str| IdempotencyKey::try_from(text.to_owned());
        assert_eq!(key("\"8e03978e\""), key("8e03978e"));
        assert!(key("8e03978e").is_ok() && key("\"").is_ok());
        for bad in ["", "\"\"", "a b", "é", "a\u{7f}", &"x".repeat(256)] {
            assert_eq!(key(bad), Err(InvalidIdempotencyKey), "{bad:?}");
        }
    }
}
