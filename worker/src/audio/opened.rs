//! Opened audio, or why it cannot be opened.

use longhand_shared::domain::job::{ChunkError, ErrorCode};
use tokio::fs::File;

/// Why there is no audio.
#[derive(Clone, Debug, PartialEq)]
pub enum AudioError {
    /// A retry would not help.
    Bad(ChunkError),
    /// The audio is missing or forbidden. If this does not change, the chunk fails with this error.
    NotYet(ChunkError),
    /// The audio cannot be read now: its host does not answer, fails or throttles.
    Unavailable(String),
}

impl AudioError {
    pub(super) fn bad(code: ErrorCode, message: impl AsRef<str>) -> Self {
        Self::Bad(ChunkError::new(code, message))
    }

    pub(super) fn not_yet(code: ErrorCode, message: impl AsRef<str>) -> Self {
        Self::NotYet(ChunkError::new(code, message))
    }
}

/// A file with the audio, at its beginning, and its size.
pub(super) struct Opened {
    pub(super) bytes: u64,
    pub(super) file: File,
}
