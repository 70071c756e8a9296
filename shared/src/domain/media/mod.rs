//! Audio: limits, formats, and announced media types.

mod detect;
pub mod ebml;
mod format;
mod frames;

use strum::VariantArray;

pub use detect::{HEAD_BYTES, NotAudio, detect, read_head};
pub use format::Format;

/// The maximum size of a chunk's audio, in bytes: 5 MiB.
pub const MAX_AUDIO_BYTES: u64 = 5 * 1024 * 1024;

/// The maximum length of a chunk's audio: five minutes, and 10 % for recorders that cut late.
pub const MAX_AUDIO_LENGTH: std::time::Duration = std::time::Duration::from_secs(330);

/// The media type of an upload that is not announced as audio.
const UNKNOWN: &str = "application/octet-stream";

/// The maximum length of an announced media type, in bytes. A longer one counts as unknown.
const MAX_TYPE_BYTES: usize = 100;

/// Media types that mean a format but are not [`Format::mime`].
const ALIASES: [(&str, Format); 22] = [
    ("audio/x-wav", Format::Wav),
    ("audio/wave", Format::Wav),
    ("audio/vnd.wave", Format::Wav),
    ("audio/x-pn-wav", Format::Wav),
    ("audio/mp3", Format::Mp3),
    ("audio/x-flac", Format::Flac),
    ("audio/opus", Format::Ogg),
    ("application/ogg", Format::Ogg),
    ("video/ogg", Format::Ogg),
    ("audio/m4a", Format::M4a),
    ("audio/x-m4a", Format::M4a),
    ("audio/mp4a-latm", Format::M4a),
    ("audio/webm", Format::WebM),
    ("audio/x-matroska", Format::Matroska),
    ("audio/x-aac", Format::Aac),
    ("audio/vnd.dlna.adts", Format::Aac),
    ("audio/x-hx-aac-adts", Format::Aac),
    ("audio/3gpp", Format::Amr),
    ("audio/x-aiff", Format::Aiff),
    ("video/quicktime", Format::Mp4),
    ("video/3gpp", Format::Mp4),
    ("video/3gpp2", Format::Mp4),
];

/// The media type to store for an announced `content_type`, and an extension for a file without a name. The
/// announcement is a hint: it never leads to a rejection, and the workers detect the format. A type that is not audio or
/// video is stored as unknown, so that no browser shows an upload as a page.
pub fn announced(content_type: &str) -> (String, &'static str) {
    let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let sound = essence.strip_prefix("audio/").or_else(|| essence.strip_prefix("video/"));
    let is_token = |text: &str| {
        !text.is_empty()
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$&^_.+-".contains(&byte))
    };
    let named = || Format::VARIANTS.iter().copied().find(|format| format.mime() == essence);
    let alias = || ALIASES.into_iter().find(|(alias, _)| *alias == essence).map(|(_, format)| format);
    let extension =
        named().or_else(alias).and_then(|format| format.extensions().first()).copied().unwrap_or("bin");
    let stored = essence.len() <= MAX_TYPE_BYTES && (extension != "bin" || sound.is_some_and(is_token));
    (if stored { essence } else { UNKNOWN.to_owned() }, extension)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn announced_types_are_hints() {
        let expected = [
            ("Audio/WebM;codecs=opus", "audio/webm", "webm"),
            ("audio/wav", "audio/wav", "wav"),
            ("application/ogg", "application/ogg", "ogg"),
            ("audio/vnd.dlna.adts", "audio/vnd.dlna.adts", "aac"),
            ("audio/amr-wb", "audio/amr-wb", "awb"),
            ("video/quicktime", "video/quicktime", "mp4"),
            ("audio/x-new", "audio/x-new", "bin"),
            ("", UNKNOWN, "bin"),
            ("audio", UNKNOWN, "bin"),
            ("audio/", UNKNOWN, "bin"),
            ("text/html", UNKNOWN, "bin"),
            ("application/octet-stream", UNKNOWN, "bin"),
            ("audio/wav,text/html", UNKNOWN, "bin"),
            ("audio/wav\r\nx: y", UNKNOWN, "bin"),
        ];
        for (announcement, stored, extension) in expected {
            assert_eq!(announced(announcement), (stored.to_owned(), extension), "{announcement}");
        }
        assert_eq!(announced(&format!("audio/{}", "x".repeat(200))).0, UNKNOWN);
    }
}
