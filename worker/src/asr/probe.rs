//! The probe's recording.

use std::path::Path;

use bytes::Bytes;
use longhand_shared::domain::media::{self, Format, MAX_AUDIO_BYTES};

/// Three seconds of speech in English (`LibriVox`, public domain): "He was not an ill-disposed young man,".
const BUILT_IN: &[u8] = include_bytes!("../../assets/probe.wav");

/// A short recording that the model can transcribe when it works.
#[derive(Clone, PartialEq, Eq)]
pub struct Recording {
    pub(super) name: String,
    pub(super) mime: &'static str,
    pub(super) bytes: Bytes,
}

impl std::fmt::Debug for Recording {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Recording").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Recording {
    pub fn built_in() -> Self {
        Self { name: "longhand-probe.wav".to_owned(), mime: "audio/wav", bytes: Bytes::from_static(BUILT_IN) }
    }

    /// Reads the value of `ASR_PROBE`: `built-in`, `off`, or a file.
    pub fn read(setting: &str) -> Result<Option<Self>, String> {
        match setting {
            "built-in" => Ok(Some(Self::built_in())),
            "off" => Ok(None),
            path => Self::file(Path::new(path)).map(Some),
        }
    }

    fn file(path: &Path) -> Result<Self, String> {
        let bytes = std::fs::read(path).map_err(|error| format!("cannot be read: {error}"))?;
        if bytes.is_empty() || bytes.len() as u64 > MAX_AUDIO_BYTES {
            return Err(format!("has {} bytes: must have 1 to {MAX_AUDIO_BYTES}", bytes.len()));
        }
        let format = media::detect(&bytes).map_err(|error| error.to_string())?;
        if format == Format::Unknown {
            return Err("is not of a known audio format".to_owned());
        }
        Ok(Self { name: format.file_name("longhand-probe"), mime: format.mime(), bytes: bytes.into() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_setting_names_the_built_in_recording_none_or_a_file() {
        assert_eq!(Recording::read("built-in"), Ok(Some(Recording::built_in())));
        assert_eq!(Recording::read("off"), Ok(None));
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("speech");
        let path = file.to_str().expect("a path");
        assert!(Recording::read(path).is_err(), "there is no such file");
        std::fs::write(&file, "text").expect("written");
        assert!(Recording::read(path).expect_err("text").contains("is not audio: it is text"));
        std::fs::write(&file, BUILT_IN).expect("written");
        assert_eq!(Recording::read(path), Ok(Some(Recording::built_in())));
    }
}
