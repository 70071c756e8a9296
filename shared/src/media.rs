//! What audio may be: its size, and the media types that a client may announce.

/// The largest audio, in bytes: 5 MB, counted generously.
pub const MAX_AUDIO_BYTES: u64 = 5 * 1024 * 1024;

/// The media types under which audio is uploaded, with the extension of each, the usual name of a format first.
/// They decide nothing: the workers go by the first bytes, and take what is announced as something else.
pub const MEDIA_TYPES: [(&str, &str); 23] = [
    ("audio/wav", "wav"),
    ("audio/x-wav", "wav"),
    ("audio/wave", "wav"),
    ("audio/vnd.wave", "wav"),
    ("audio/mpeg", "mp3"),
    ("audio/mp3", "mp3"),
    ("audio/flac", "flac"),
    ("audio/x-flac", "flac"),
    ("audio/ogg", "ogg"),
    ("audio/opus", "ogg"),
    ("application/ogg", "ogg"),
    ("audio/mp4", "m4a"),
    ("audio/m4a", "m4a"),
    ("audio/x-m4a", "m4a"),
    ("video/mp4", "mp4"),
    ("audio/webm", "webm"),
    ("video/webm", "webm"),
    ("audio/aac", "aac"),
    ("audio/x-aac", "aac"),
    ("audio/amr", "amr"),
    ("audio/3gpp", "amr"),
    ("video/ogg", "ogg"),
    // For a client that cannot tell.
    ("application/octet-stream", "bin"),
];

/// The extension that goes with a media type (`audio/webm; codecs=opus`, in either case), and the
/// type without its parameters, when audio may be of it.
pub fn known_type(text: &str) -> Option<(&'static str, &'static str)> {
    let essence = text.split(';').next().unwrap_or_default().trim();
    MEDIA_TYPES.into_iter().find(|(name, _)| name.eq_ignore_ascii_case(essence))
}

/// The media type that goes with a file's extension, for announcing it.
pub fn type_of_extension(extension: &str) -> &'static str {
    let extension = match &*extension.to_ascii_lowercase() {
        "oga" | "opus" => "ogg".to_owned(),
        "mpga" | "mpeg" => "mp3".to_owned(),
        other => other.to_owned(),
    };
    let found = MEDIA_TYPES.into_iter().find(|(_, end)| *end == extension);
    found.map_or("application/octet-stream", |(name, _)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_known_with_parameters_and_in_either_case() {
        assert_eq!(known_type("Audio/WebM;codecs=opus"), Some(("audio/webm", "webm")));
        for unknown in ["", "audio", "audio/", "text/html", "audio/wav,text/html", "audio/wav\r\nx: y"] {
            assert_eq!(known_type(unknown), None, "{unknown}");
        }
        assert_eq!(type_of_extension("WAV"), "audio/wav");
        assert_eq!(type_of_extension("opus"), "audio/ogg");
        assert_eq!(type_of_extension("mp4"), "video/mp4");
        assert_eq!(type_of_extension("html"), "application/octet-stream");
    }
}
