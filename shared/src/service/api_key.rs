//! API keys: creation and storage.
//!
//! A key is 32 random bytes. The file that the api reads holds plain SHA-256 digests of keys. A slow
//! password hash would add nothing: 256 random bits cannot be guessed.

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

use crate::UserId;
use crate::service::secret::Secret;

/// The prefix of every key. People and secret scanners recognise a key by it.
pub const PREFIX: &str = "lh_";

/// The maximum length of a key's `id`, in bytes.
pub const MAX_ID_BYTES: usize = 64;

/// An entry of the key file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyEntry {
    /// The key's name in logs, unique in its file.
    pub id: String,
    pub sha256: KeyDigest,
    /// The user that requests with this key act for.
    pub user: UserId,
    /// Whether requests with this key may act for all users.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub operator: bool,
}

/// The SHA-256 of a key, in JSON as 64 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct KeyDigest([u8; 32]);

/// The text is not a valid [`KeyDigest`]. The message does not show the text: it may be a key by mistake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("sha256 must be the 64 hexadecimal digits of a key's SHA-256")]
pub struct InvalidDigest;

impl KeyDigest {
    pub fn of(key: &str) -> Self {
        let digest = digest(&SHA256, key.as_bytes());
        Self(digest.as_ref().try_into().expect("SHA-256 has 32 bytes"))
    }
}

impl TryFrom<String> for KeyDigest {
    type Error = InvalidDigest;

    fn try_from(text: String) -> Result<Self, InvalidDigest> {
        let mut digest = [0; 32];
        hex::decode_to_slice(text, &mut digest).map_err(|_| InvalidDigest)?;
        Ok(Self(digest))
    }
}

impl From<KeyDigest> for String {
    fn from(KeyDigest(digest): KeyDigest) -> Self {
        hex::encode(digest)
    }
}

/// Generates a key: the prefix and 43 characters of base64url.
pub fn new_key() -> Secret {
    let mut bytes = [0_u8; 32];
    aws_lc_rs::rand::fill(&mut bytes).expect("the system's random generator works");
    Secret::from(format!("{PREFIX}{}", BASE64_URL_SAFE_NO_PAD.encode(bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_sha_256_in_hex() {
        let hex = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(String::from(KeyDigest::of("abc")), hex);
        assert_eq!(KeyDigest::try_from(hex.to_uppercase()), Ok(KeyDigest::of("abc")));
        for bad in ["", "ba78", &"é".repeat(32), &"g".repeat(64), &"+1".repeat(32)] {
            assert_eq!(KeyDigest::try_from(bad.to_owned()), Err(InvalidDigest), "{bad}");
        }
    }

    #[test]
    fn keys_are_new_long_and_recognizable() {
        let (one, other) = (new_key(), new_key());
        assert_ne!(one.reveal(), other.reveal());
        let random = one.reveal().strip_prefix(PREFIX).expect("the prefix");
        assert_eq!(BASE64_URL_SAFE_NO_PAD.decode(random).map(|bytes| bytes.len()), Ok(32));
    }
}
