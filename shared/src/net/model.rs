//! The address of the speech-to-text model.

/// The path of a call.
pub const TRANSCRIPTIONS: &str = "/v1/audio/transcriptions";

/// The server's address in `ASR_BASE_URL`, which may be the server, its `/v1`, or the URL of a call.
pub fn server(base: &str) -> &str {
    let base = base.trim_end_matches('/');
    base.strip_suffix(TRANSCRIPTIONS).or_else(|| base.strip_suffix("/v1")).unwrap_or(base)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_may_end_anywhere_in_the_path() {
        for path in ["", "/", "/v1", "/v1/", TRANSCRIPTIONS] {
            assert_eq!(
                server(&format!("http://model:8000/openai{path}")),
                "http://model:8000/openai",
                "{path}"
            );
        }
    }
}
