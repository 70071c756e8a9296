//! Audio formats: their names, media types and extensions.

use strum::VariantArray;

/// A container or a stream of audio.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, VariantArray)]
pub enum Format {
    Wav,
    W64,
    Aiff,
    Caf,
    Au,
    Mp3,
    Mp2,
    Aac,
    Ac3,
    Flac,
    Ogg,
    M4a,
    Mp4,
    WebM,
    Matroska,
    Amr,
    AmrWb,
    Asf,
    Avi,
    MpegTs,
    MpegPs,
    Flv,
    WavPack,
    Unknown,
}

impl Format {
    /// The display name, the media type, and the matching extensions. Hosted models go by the extension and accept
    /// few, so the most widely accepted one is first. `QuickTime` and 3GP have the structure of MP4 and are sent as MP4.
    #[rustfmt::skip] // one format a line
    const fn row(self) -> (&'static str, &'static str, &'static [&'static str]) {
        match self {
            Self::Wav      => ("WAV",         "audio/wav",                &["wav"]),
            Self::W64      => ("Wave64",      "audio/x-w64",              &["w64"]),
            Self::Aiff     => ("AIFF",        "audio/aiff",               &["aiff", "aif", "aifc"]),
            Self::Caf      => ("CAF",         "audio/x-caf",              &["caf"]),
            Self::Au       => ("AU",          "audio/basic",              &["au", "snd"]),
            Self::Mp3      => ("MP3",         "audio/mpeg",               &["mp3", "mpga", "mpeg"]),
            Self::Mp2      => ("MP2",         "audio/mpeg",               &["mpga", "mp2", "mpeg"]),
            Self::Aac      => ("AAC (ADTS)",  "audio/aac",                &["aac"]),
            Self::Ac3      => ("AC-3",        "audio/ac3",                &["ac3", "eac3"]),
            Self::Flac     => ("FLAC",        "audio/flac",               &["flac"]),
            Self::Ogg      => ("Ogg",         "audio/ogg",                &["ogg", "oga"]),
            Self::M4a      => ("M4A",         "audio/mp4",                &["m4a", "mp4"]),
            Self::Mp4      => ("MP4",         "video/mp4",                &["mp4", "m4a"]),
            Self::WebM     => ("WebM",        "video/webm",               &["webm"]),
            Self::Matroska => ("Matroska",    "video/x-matroska",         &["mkv", "mka"]),
            Self::Amr      => ("AMR",         "audio/amr",                &["amr"]),
            Self::AmrWb    => ("AMR-WB",      "audio/amr-wb",             &["awb"]),
            Self::Asf      => ("ASF (WMA)",   "audio/x-ms-wma",           &["wma", "asf", "wmv"]),
            Self::Avi      => ("AVI",         "video/x-msvideo",          &["avi"]),
            Self::MpegTs   => ("MPEG-TS",     "video/mp2t",               &["ts", "m2ts", "mts"]),
            Self::MpegPs   => ("MPEG-PS",     "video/mpeg",               &["mpeg", "mpg", "vob"]),
            Self::Flv      => ("FLV",         "video/x-flv",              &["flv"]),
            Self::WavPack  => ("WavPack",     "audio/x-wavpack",          &["wv"]),
            Self::Unknown  => ("unknown",     "application/octet-stream", &[]),
        }
    }

    /// The display name.
    pub const fn name(self) -> &'static str {
        self.row().0
    }

    /// The media type.
    pub const fn mime(self) -> &'static str {
        self.row().1
    }

    /// The matching extensions, the most widely accepted one first. Empty for an unknown format.
    pub const fn extensions(self) -> &'static [&'static str] {
        self.row().2
    }

    /// `name` with a matching extension. An extension of another format is replaced; anything else is kept.
    pub fn file_name(self, name: &str) -> String {
        let Some(best) = self.extensions().first() else { return name.to_owned() };
        let Some((stem, extension)) = name.rsplit_once('.').filter(|(stem, _)| !stem.is_empty()) else {
            return format!("{name}.{best}");
        };
        let extension = extension.to_ascii_lowercase();
        if self.extensions().contains(&&*extension) {
            name.to_owned()
        } else if is_known_extension(&extension) {
            format!("{stem}.{best}")
        } else {
            format!("{name}.{best}")
        }
    }
}

/// Whether `extension` belongs to a known format. The text after a dot in a name need not be an extension.
fn is_known_extension(extension: &str) -> bool {
    const OTHERS: [&str; 14] =
        ["wave", "rf64", "opus", "ogv", "spx", "mov", "qt", "m4b", "m4p", "m4v", "f4a", "3gp", "3g2", "adts"];
    OTHERS.contains(&extension)
        || Format::VARIANTS.iter().any(|format| format.extensions().contains(&extension))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documented_table_lists_these_formats() {
        let document = include_str!("../../../../docs/compatibility.md");
        let table = document.lines().skip_while(|line| !line.starts_with("| format |")).skip(2);
        let rows: Vec<String> = table
            .take_while(|line| line.starts_with('|'))
            .map(|line| line.split('|').take(4).collect::<Vec<_>>().join("|"))
            .collect();
        let known = Format::VARIANTS.iter().copied().filter(|format| *format != Format::Unknown);
        let expected: Vec<String> = known
            .map(|format| {
                format!("| {} | `{}` | `.{}` ", format.name(), format.mime(), format.extensions()[0])
            })
            .collect();
        assert_eq!(rows, expected);
    }
}
