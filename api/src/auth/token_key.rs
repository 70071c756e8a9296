//! A key that tokens are verified with.

use jsonwebtoken::{Algorithm, DecodingKey};

/// A key, and the algorithms that it may be used with.
#[derive(Clone, Debug)]
pub(super) struct TokenKey {
    pub(super) key: DecodingKey,
    pub(super) algorithms: Vec<Algorithm>,
}
