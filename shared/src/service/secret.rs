//! Values that must not be shown: tokens, keys, shared secrets.

use std::convert::Infallible;
use std::fmt;
use std::str::FromStr;

/// A text that `Debug` hides, so that it appears in no log and no error.
#[derive(Clone)]
pub struct Secret(String);

impl Secret {
    /// The text itself. Call this only where it is sent or compared.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl FromStr for Secret {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}
