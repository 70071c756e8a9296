//! The token for the service. There is no option for it, since other users of the machine can read those.

use std::path::Path;

use longhand_shared::service::secret::Secret;

use crate::error::Failure;

/// The token or API key from the file, else from `LONGHAND_TOKEN`.
pub(crate) fn read(file: Option<&Path>) -> Result<Option<Secret>, Failure> {
    let (place, token) = match file {
        Some(path) => {
            let text = std::fs::read_to_string(path)
                .map_err(|error| Failure::usage(format!("--token-file {}: {error}", path.display())))?;
            (path.display().to_string(), text)
        }
        None => match std::env::var("LONGHAND_TOKEN") {
            Ok(token) if !token.trim().is_empty() => ("LONGHAND_TOKEN".to_owned(), token),
            _ => return Ok(None),
        },
    };
    let token = token.trim();
    if token.is_empty() || !token.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(Failure::usage(format!("{place} holds no token: expected one word of visible ASCII")));
    }
    Ok(Some(Secret::from(token.to_owned())))
}
