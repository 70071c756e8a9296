//! `Idempotency-Key`: a client's key for a request, so that repeating the request creates no second job.
//!
//! It follows the IETF draft (draft-ietf-httpapi-idempotency-key-header). One transaction writes the key's record
//! and the job, so a stored key always has its job.

use std::fmt;
use std::time::Duration;

/// How long a key is stored.
pub const KEPT: Duration = Duration::from_hours(24);

/// 1 to 255 visible ASCII characters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdempotencyKey(String);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("must be 1 to 255 visible ASCII characters")]
pub struct InvalidIdempotencyKey;

impl TryFrom<String> for IdempotencyKey {
    type Error = InvalidIdempotencyKey;

    /// Accepts the key with quotes, as in the draft, and without, as most clients send it.
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

/// A request's key and content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Idempotency {
    pub key: IdempotencyKey,
    /// Equal for requests with the same content.
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
