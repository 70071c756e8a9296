//! What a job and a chunk can be, and nothing that they cannot.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::attempt::{AttemptRecord, mark_lost};
use crate::clock::Timestamp;
use crate::id::{ChunkIndex, JobId, MAX_CHUNKS, UserId};
use crate::idempotency::Idempotency;
use crate::path::AudioPath;
use crate::webhook::Callback;

pub use crate::options::{
    InvalidLanguage, InvalidPrompt, Language, MAX_METADATA_BYTES, MAX_METADATA_ENTRIES, MAX_PROMPT_CHARS,
    Metadata, Prompt, TranscribeOptions,
};

/// What one chunk's transcription may weigh in the table, in bytes of JSON: `DynamoDB`'s 400 KB for
/// an item, less room for the rest of it. Five minutes of speech weigh about a tenth of this.
pub const MAX_TRANSCRIPTION_BYTES: usize = 380_000;

/// Where a job stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum JobStatus {
    /// Some chunk is not settled yet.
    InProgress,
    /// Every chunk was transcribed.
    Completed,
    /// Every chunk is settled, and at least one of them failed.
    Failed,
}

impl JobStatus {
    /// All of them, for messages that list the choices.
    pub const ALL: [Self; 3] = [Self::InProgress, Self::Completed, Self::Failed];

    /// As it stands in JSON and in the table.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::InProgress => "IN_PROGRESS",
            Self::Completed => "COMPLETED",
            Self::Failed => "FAILED",
        }
    }
}

impl fmt::Display for JobStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A text that is no [`JobStatus`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("must be IN_PROGRESS, COMPLETED or FAILED")]
pub struct InvalidJobStatus;

impl FromStr for JobStatus {
    type Err = InvalidJobStatus;

    fn from_str(text: &str) -> Result<Self, InvalidJobStatus> {
        Self::ALL.into_iter().find(|status| status.as_str() == text).ok_or(InvalidJobStatus)
    }
}

/// Where a chunk stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ChunkStatus {
    /// No worker has it.
    Pending,
    /// A worker has claimed it.
    InProgress,
    /// It was transcribed.
    Completed,
    /// It could not be transcribed, and will not be.
    Failed,
}

impl ChunkStatus {
    /// As it stands in JSON and in the table.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "PENDING",
            Self::InProgress => "IN_PROGRESS",
            Self::Completed => "COMPLETED",
            Self::Failed => "FAILED",
        }
    }
}

/// Why a chunk failed. Stable: clients and alarms match on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ErrorCode {
    /// There is no audio at the path.
    AudioNotFound,
    /// The audio may not be read.
    AudioForbidden,
    /// The audio is over 5 MB.
    AudioTooLarge,
    /// The audio has no bytes.
    AudioEmpty,
    /// The bytes are of no audio format that is known here.
    AudioUnsupported,
    /// The model refused the audio: a 4xx that trying again would not change.
    AsrRejected,
    /// The model answered every try with an error of its own.
    AsrUnavailable,
    /// The model did not answer in time, at every try.
    AsrTimeout,
    /// The model answered, but not with a transcription.
    AsrProtocol,
    /// The transcription does not fit in the table.
    TranscriptTooLarge,
    /// The chunk was handed out again and again and never finished.
    DeadLettered,
    /// A fault of Longhand's own.
    Internal,
}

impl ErrorCode {
    /// As it stands in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::AudioNotFound => "AUDIO_NOT_FOUND",
            Self::AudioForbidden => "AUDIO_FORBIDDEN",
            Self::AudioTooLarge => "AUDIO_TOO_LARGE",
            Self::AudioEmpty => "AUDIO_EMPTY",
            Self::AudioUnsupported => "AUDIO_UNSUPPORTED",
            Self::AsrRejected => "ASR_REJECTED",
            Self::AsrUnavailable => "ASR_UNAVAILABLE",
            Self::AsrTimeout => "ASR_TIMEOUT",
            Self::AsrProtocol => "ASR_PROTOCOL",
            Self::TranscriptTooLarge => "TRANSCRIPT_TOO_LARGE",
            Self::DeadLettered => "DEAD_LETTERED",
            Self::Internal => "INTERNAL",
        }
    }
}

/// Why a chunk failed, for a program and for a person.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ChunkError {
    /// For a program.
    pub code: ErrorCode,
    /// For a person: at most [`ChunkError::MAX_MESSAGE_CHARS`] characters.
    pub message: String,
}

impl ChunkError {
    /// The longest message, in characters; the rest is cut off.
    pub const MAX_MESSAGE_CHARS: usize = 300;

    /// A failure with its reason in words.
    pub fn new(code: ErrorCode, message: impl AsRef<str>) -> Self {
        let clean = |c: char| if c.is_control() { ' ' } else { c };
        let message = message.as_ref();
        Self { code, message: message.chars().map(clean).take(Self::MAX_MESSAGE_CHARS).collect() }
    }
}

/// A stretch of speech with its place in the audio, in seconds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Segment {
    /// Seconds from the beginning of the chunk.
    pub start: f64,
    /// Seconds from the beginning of the chunk.
    pub end: f64,
    /// What is said.
    pub text: String,
}

/// What the model heard in one chunk. Known to fit in the table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Transcription {
    text: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    duration_seconds: Option<f64>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    segments: Vec<Segment>,
}

/// A transcription over [`MAX_TRANSCRIPTION_BYTES`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the transcription has {0} bytes, more than the {MAX_TRANSCRIPTION_BYTES} that can be kept")]
pub struct TooLarge(usize);

impl Transcription {
    /// An empty `text` is silence, and is as good as any other.
    pub fn new(
        text: impl Into<String>,
        duration_seconds: Option<f64>,
        segments: Vec<Segment>,
    ) -> Result<Self, TooLarge> {
        let text = text.into();
        // A segment costs its text and about 60 bytes of names and numbers.
        let weight = text.len() + segments.iter().map(|s| s.text.len() + 60).sum::<usize>();
        if weight > MAX_TRANSCRIPTION_BYTES {
            return Err(TooLarge(weight));
        }
        Ok(Self { text, duration_seconds, segments })
    }

    /// What is said.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The measured length of the audio, in seconds, where the model gave it.
    pub fn duration_seconds(&self) -> Option<f64> {
        self.duration_seconds
    }

    /// Where in the audio it is said; empty when the model does not tell.
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }
}

/// How a chunk ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// With a transcription.
    Completed(Transcription),
    /// With a reason.
    Failed(ChunkError),
}

/// Where a chunk stands, with what is known there.
#[derive(Clone, Debug, PartialEq)]
pub enum ChunkState {
    /// No worker has it.
    Pending,
    /// A worker has it.
    InProgress {
        /// Since when.
        claimed: Timestamp,
        /// The origin of the message that it was claimed for ([`crate::queue::Delivery::origin`]).
        by: String,
        /// That message's own id.
        message: String,
    },
    /// It is over, and stays so.
    Settled {
        /// Since when.
        at: Timestamp,
        /// How.
        verdict: Verdict,
    },
}

/// One chunk as the table has it.
#[derive(Clone, Debug, PartialEq)]
pub struct Chunk {
    /// Its place in the job.
    pub index: ChunkIndex,
    /// Its audio.
    pub path: AudioPath,
    /// How often it was claimed. Only ever grows: it tells one claim from the next.
    pub attempt: u32,
    /// How many of those claims do not count: given back through no fault of the chunk, or made before
    /// it was tried anew.
    pub released: u32,
    /// The last claims, the newest last, as they were told.
    pub history: Vec<AttemptRecord>,
    /// When it was last claimed.
    pub last_claim: Option<Timestamp>,
    /// Where it stands.
    pub state: ChunkState,
}

impl Chunk {
    /// A chunk that nobody has touched.
    pub fn new(index: ChunkIndex, path: AudioPath) -> Self {
        Self {
            index,
            path,
            attempt: 0,
            released: 0,
            history: vec![],
            last_claim: None,
            state: ChunkState::Pending,
        }
    }

    /// The state's name.
    pub fn status(&self) -> ChunkStatus {
        match &self.state {
            ChunkState::Pending => ChunkStatus::Pending,
            ChunkState::InProgress { .. } => ChunkStatus::InProgress,
            ChunkState::Settled { verdict: Verdict::Completed(_), .. } => ChunkStatus::Completed,
            ChunkState::Settled { verdict: Verdict::Failed(_), .. } => ChunkStatus::Failed,
        }
    }

    /// Whether it is over.
    pub fn is_settled(&self) -> bool {
        matches!(self.state, ChunkState::Settled { .. })
    }

    /// How many of its claims count: those that ended in a verdict, took too long, or were lost.
    pub fn attempts(&self) -> u32 {
        self.attempt.saturating_sub(self.released)
    }

    /// The last claims, with what is known of each by now.
    pub fn told(&self) -> Vec<AttemptRecord> {
        let mut history = self.history.clone();
        mark_lost(&mut history, matches!(self.state, ChunkState::InProgress { .. }));
        history
    }
}

/// A job that is about to be.
#[derive(Clone, Debug, PartialEq)]
pub struct NewJob {
    /// Its name.
    pub id: JobId,
    /// Whose it is.
    pub user: UserId,
    /// When it was asked for.
    pub submitted: Timestamp,
    /// What the model is told.
    pub options: TranscribeOptions,
    /// The client's notes.
    pub metadata: Metadata,
    /// The client's name for the request.
    pub idempotency: Option<Idempotency>,
    /// The address that is told of its end.
    pub callback_url: Option<String>,
    paths: Vec<AudioPath>,
}

/// A number of chunks that no job can have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("must have 1 to {MAX_CHUNKS} entries, has {0}")]
pub struct InvalidChunkCount(pub usize);

impl NewJob {
    /// A job under a new name.
    pub fn new(
        user: UserId,
        paths: Vec<AudioPath>,
        options: TranscribeOptions,
        metadata: Metadata,
        now: Timestamp,
    ) -> Result<Self, InvalidChunkCount> {
        if !(1..=MAX_CHUNKS).contains(&paths.len()) {
            return Err(InvalidChunkCount(paths.len()));
        }
        Ok(Self {
            id: JobId::random(),
            user,
            submitted: now,
            options,
            metadata,
            idempotency: None,
            callback_url: None,
            paths,
        })
    }

    /// The paths of its audio, in order.
    pub fn paths(&self) -> &[AudioPath] {
        &self.paths
    }

    /// Its chunks, untouched, in order.
    pub fn chunks(&self) -> Vec<Chunk> {
        ChunkIndex::first(self.paths.len())
            .zip(&self.paths)
            .map(|(index, path)| Chunk::new(index, path.clone()))
            .collect()
    }

    /// The job as it is right after it was made.
    pub fn job(&self) -> Job {
        let unsettled: BTreeSet<_> = ChunkIndex::first(self.paths.len()).collect();
        Job {
            head: JobHead {
                id: self.id,
                user: self.user.clone(),
                submitted: self.submitted,
                metadata: self.metadata.clone(),
                chunk_count: unsettled.len(),
                retried: None,
                callback: self.callback_url.as_ref().map(Callback::new),
                state: JobState::Open,
            },
            options: self.options.clone(),
            unsettled,
        }
    }
}

/// Whether a job is over, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JobState {
    /// It is not.
    Open,
    /// It is.
    Ended {
        /// Whether every chunk was transcribed.
        completely: bool,
        /// Since when.
        at: Timestamp,
    },
}

/// What a listing shows of a job.
#[derive(Clone, Debug, PartialEq)]
pub struct JobHead {
    /// Its name.
    pub id: JobId,
    /// Whose it is.
    pub user: UserId,
    /// When it was asked for.
    pub submitted: Timestamp,
    /// The client's notes.
    pub metadata: Metadata,
    /// How many chunks it has: 1 to 24.
    pub chunk_count: usize,
    /// When its failed chunks were last given another try.
    pub retried: Option<Timestamp>,
    /// Who is told of its end, and how far that has come. A listing does not say.
    pub callback: Option<Callback>,
    /// Whether it is over.
    pub state: JobState,
}

impl JobHead {
    /// Since when it is waited for.
    pub fn since(&self) -> Timestamp {
        self.retried.unwrap_or(self.submitted)
    }

    /// The state's name.
    pub fn status(&self) -> JobStatus {
        match self.state {
            JobState::Open => JobStatus::InProgress,
            JobState::Ended { completely: true, .. } => JobStatus::Completed,
            JobState::Ended { completely: false, .. } => JobStatus::Failed,
        }
    }
}

/// A job as the table has it.
#[derive(Clone, Debug, PartialEq)]
pub struct Job {
    /// What a listing shows.
    pub head: JobHead,
    /// What the model is told.
    pub options: TranscribeOptions,
    /// The chunks that have not been struck off. The job can end when it is empty.
    pub unsettled: BTreeSet<ChunkIndex>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_has_1_to_24_chunks() {
        let job = |count: usize| {
            NewJob::new(
                "ana".parse().expect("a user"),
                vec!["a.wav".parse().expect("a path"); count],
                TranscribeOptions::default(),
                Metadata::new(),
                Timestamp::from_unix(0),
            )
        };
        assert_eq!(job(0), Err(InvalidChunkCount(0)));
        assert_eq!(job(25), Err(InvalidChunkCount(25)));
        let full = job(24).expect("24 chunks");
        assert_eq!(full.chunks().len(), 24);
        assert_eq!(full.job().unsettled.len(), 24);
    }

    #[test]
    fn error_messages_are_one_bounded_line() {
        let error = ChunkError::new(ErrorCode::AsrRejected, format!("a\r\nb{}", "x".repeat(5000)));
        assert!(error.message.starts_with("a  b"));
        assert_eq!(error.message.chars().count(), ChunkError::MAX_MESSAGE_CHARS);
    }

    #[test]
    fn a_transcription_knows_that_it_fits() {
        assert!(Transcription::new("", None, vec![]).is_ok());
        assert!(Transcription::new("x".repeat(MAX_TRANSCRIPTION_BYTES + 1), None, vec![]).is_err());
    }
}
