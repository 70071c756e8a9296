//! The result of a chunk: its transcription, or an error with its code.

use serde::{Deserialize, Serialize};
use strum::IntoStaticStr;
use utoipa::ToSchema;

use crate::domain::transcription::Transcription;

/// Why a chunk failed. Clients and alarms depend on these names.
///
/// `localstack/documents.py` copies the comments (meaning, then remedy) into `docs/api.md`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema, IntoStaticStr)]
#[strum(serialize_all = "SCREAMING_SNAKE_CASE", const_into_str)]
#[schema(description = "Why a chunk failed. The codes are stable.")]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ErrorCode {
    /// There is no audio at the path. An `https://` URL is retried for 15 minutes.
    ///
    /// Upload the audio and submit again. Without the permission `s3:ListBucket`, S3 reports a missing object as forbidden.
    AudioNotFound,
    /// Longhand has no permission to read the audio (S3 is retried for 15 minutes), or the audio is archived, or a
    /// symbolic link leads out of the audio root, or the URL redirects, or its host has no public IP address.
    ///
    /// Grant `s3:GetObject` to the worker, or do as the message says.
    AudioForbidden,
    /// The audio is larger than 5 MB.
    ///
    /// Split it into more chunks.
    AudioTooLarge,
    /// The file states a duration over 330 seconds.
    ///
    /// Split the recording into chunks of up to five minutes.
    AudioTooLong,
    /// The file is empty.
    ///
    /// Check the recording.
    AudioEmpty,
    /// The file is not audio: it begins with text, an image or an archive, or contains only zeros.
    ///
    /// Submit the recording itself.
    AudioUnsupported,
    /// The model rejected this audio with a 4xx or a redirect. For 400, 413, 415 and 422 the message quotes the model.
    ///
    /// Do as the message says.
    AsrRejected,
    /// The model failed `ASR_MAX_RETRIES` + 1 times on this chunk but worked for others, or it went down three times while
    /// it transcribed this chunk, or the chunk went back to the queue 300 times (in about a day) because the model or the
    /// audio's host was unavailable.
    ///
    /// Retry the job. The operator should check what `error.message` names.
    AsrUnavailable,
    /// The model failed `ASR_MAX_RETRIES` + 1 times on this chunk, the last time by a timeout (`ASR_TIMEOUT_SECONDS`).
    ///
    /// Submit shorter chunks, or have the operator raise the limit.
    AsrTimeout,
    /// The model answered 2xx without a transcription.
    ///
    /// The operator should check `ASR_BASE_URL`.
    AsrProtocol,
    /// The transcription of the chunk (text, segments and words) is larger than 380,000 bytes.
    ///
    /// Submit shorter chunks: the model probably repeats itself.
    TranscriptTooLarge,
    /// Nine attempts were lost with their workers, or three deliveries gave no result and at least one took longer than
    /// `LONGHAND_MAX_CHUNK_SECONDS`.
    ///
    /// The operator should look for the job id in the workers' logs.
    DeadLettered,
    /// A bug in Longhand, or the queue refused the chunk's message for five minutes.
    ///
    /// Retry the job. The operator should check the logs and report a bug.
    Internal,
}

impl ErrorCode {
    pub const fn as_str(self) -> &'static str {
        self.into_str()
    }

    /// The code that programs of 0.1.0 read in place of this one. They cannot read newer codes than theirs.
    pub(crate) const fn known_to_0_1_0(self) -> Self {
        match self {
            Self::AudioTooLong => Self::AudioTooLarge,
            Self::AudioNotFound
            | Self::AudioForbidden
            | Self::AudioTooLarge
            | Self::AudioEmpty
            | Self::AudioUnsupported
            | Self::AsrRejected
            | Self::AsrUnavailable
            | Self::AsrTimeout
            | Self::AsrProtocol
            | Self::TranscriptTooLarge
            | Self::DeadLettered
            | Self::Internal => self,
        }
    }
}

/// Why a chunk failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ChunkError {
    /// A stable code for programs.
    pub code: ErrorCode,
    /// A message for people, at most 300 characters.
    pub message: String,
}

impl ChunkError {
    /// The maximum length of a message, in characters. The rest is cut off.
    pub const MAX_MESSAGE_CHARS: usize = 300;

    /// Replaces control characters in the message, and truncates it.
    pub fn new(code: ErrorCode, message: impl AsRef<str>) -> Self {
        let clean = |c: char| if c.is_control() { ' ' } else { c };
        let message = message.as_ref();
        Self { code, message: message.chars().map(clean).take(Self::MAX_MESSAGE_CHARS).collect() }
    }
}

/// The result of a settled chunk.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    Completed(Transcription),
    Failed(ChunkError),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_messages_are_one_bounded_line() {
        let error = ChunkError::new(ErrorCode::AsrRejected, format!("a\r\nb{}", "x".repeat(5000)));
        assert!(error.message.starts_with("a  b"));
        assert_eq!(error.message.chars().count(), ChunkError::MAX_MESSAGE_CHARS);
    }
}
