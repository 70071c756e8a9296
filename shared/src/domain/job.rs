//! Jobs and chunks, their states, and their results. The types exclude invalid states.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::domain::attempt::{AttemptRecord, Holder, mark_lost, opaque_worker};
use crate::domain::clock::Timestamp;
use crate::domain::id::{ChunkIndex, JobId, MAX_CHUNKS, UserId};
use crate::domain::idempotency::Idempotency;
use crate::domain::path::AudioPath;
use crate::webhook::Callback;

pub use crate::domain::options::{
    InvalidLanguage, InvalidPrompt, Language, MAX_METADATA_BYTES, MAX_METADATA_ENTRIES, MAX_PROMPT_CHARS,
    MAX_START_OFFSET, MAX_TAG_BYTES, Metadata, Prompt, Timestamps, TranscribeOptions,
};
pub use crate::domain::transcription::{
    MAX_TRANSCRIPTION_BYTES, Segment, TooLarge, Transcription, Warning, WarningCode, Word,
};

/// A job's status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum JobStatus {
    /// At least one chunk is not settled.
    InProgress,
    /// Every chunk was transcribed.
    Completed,
    /// Every chunk is settled, and at least one failed.
    Failed,
}

impl JobStatus {
    /// All statuses, for messages that list them.
    pub const ALL: [Self; 3] = [Self::InProgress, Self::Completed, Self::Failed];

    /// The status in JSON and in the table.
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

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("must be IN_PROGRESS, COMPLETED or FAILED")]
pub struct InvalidJobStatus;

impl FromStr for JobStatus {
    type Err = InvalidJobStatus;

    fn from_str(text: &str) -> Result<Self, InvalidJobStatus> {
        Self::ALL.into_iter().find(|status| status.as_str() == text).ok_or(InvalidJobStatus)
    }
}

/// A chunk's status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ChunkStatus {
    /// No worker has claimed the chunk.
    Pending,
    /// A worker has claimed the chunk.
    InProgress,
    /// The chunk was transcribed.
    Completed,
    /// The chunk failed, and is not tried again.
    Failed,
}

impl ChunkStatus {
    /// The status in JSON and in the table.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "PENDING",
            Self::InProgress => "IN_PROGRESS",
            Self::Completed => "COMPLETED",
            Self::Failed => "FAILED",
        }
    }
}

/// Why a chunk failed. Clients and alarms depend on these names.
///
/// `localstack/documents.py` copies the comments (meaning, then remedy) into `docs/api.md`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[schema(description = "Why a chunk failed. Clients and alarms depend on these names.")]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ErrorCode {
    /// There is no audio at the path. A web address is retried for 15 minutes.
    ///
    /// Upload the audio and submit again. Without the permission `s3:ListBucket`, S3 reports a missing object as forbidden.
    AudioNotFound,
    /// The audio may not be read (S3 is retried for 15 minutes), is archived, or is a link out of the audio root; or
    /// the web address redirects or has no public IP address.
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
    /// The file is not audio: it begins with text, an image, an archive or zeros.
    ///
    /// Submit the recording itself.
    AudioUnsupported,
    /// The model rejected the audio with a 4xx and works otherwise. For 400, 413, 415 and 422 the message quotes the model.
    ///
    /// Do as the message says.
    AsrRejected,
    /// The model failed four times on this chunk while it worked otherwise, or went down three times with it, or was
    /// down for about a day.
    ///
    /// Retry the job. The operator should check the model's log.
    AsrUnavailable,
    /// Four calls of the model took longer than `ASR_TIMEOUT_SECONDS`.
    ///
    /// Submit shorter chunks, or have the operator raise the limit.
    AsrTimeout,
    /// The model answered 2xx without a transcription.
    ///
    /// The operator should check `ASR_BASE_URL`.
    AsrProtocol,
    /// The text of the chunk is larger than 380,000 bytes.
    ///
    /// Submit shorter chunks: the model probably repeats itself.
    TranscriptTooLarge,
    /// Nine workers crashed with the chunk, or three deliveries ended without a result within
    /// `LONGHAND_MAX_CHUNK_SECONDS`.
    ///
    /// The operator should look for the job id in the logs of the workers in `history`.
    DeadLettered,
    /// A bug in Longhand, or the queue refused the chunk's message for five minutes.
    ///
    /// Retry the job. The operator should check the logs and report a bug.
    Internal,
}

impl ErrorCode {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::AudioNotFound => "AUDIO_NOT_FOUND",
            Self::AudioForbidden => "AUDIO_FORBIDDEN",
            Self::AudioTooLarge => "AUDIO_TOO_LARGE",
            Self::AudioTooLong => "AUDIO_TOO_LONG",
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

/// Why a chunk failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ChunkError {
    /// A stable code for programs.
    pub code: ErrorCode,
    /// A message for people, with at most [`ChunkError::MAX_MESSAGE_CHARS`] characters.
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

/// A chunk's state, with the data of that state.
#[derive(Clone, Debug, PartialEq)]
pub enum ChunkState {
    /// No worker has claimed the chunk.
    Pending,
    /// A worker has claimed the chunk.
    InProgress {
        /// When the chunk was claimed.
        claimed: Timestamp,
        /// The message that the chunk was claimed for.
        by: Holder,
    },
    /// The chunk has a final verdict.
    Settled {
        /// When the chunk was settled.
        at: Timestamp,
        verdict: Verdict,
    },
}

/// A chunk as stored.
#[derive(Clone, Debug, PartialEq)]
pub struct Chunk {
    pub index: ChunkIndex,
    pub path: AudioPath,
    /// How often the chunk was claimed. It only grows, so it identifies a claim.
    pub attempt: u32,
    /// How many of the claims do not count: those released through no fault of the chunk, and those before
    /// the last retry of the job.
    pub released: u32,
    /// The last attempts as stored, the newest last.
    pub history: Vec<AttemptRecord>,
    /// When the chunk was last claimed.
    pub last_claim: Option<Timestamp>,
    pub state: ChunkState,
}

impl Chunk {
    /// A pending chunk without attempts.
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

    pub fn status(&self) -> ChunkStatus {
        match &self.state {
            ChunkState::Pending => ChunkStatus::Pending,
            ChunkState::InProgress { .. } => ChunkStatus::InProgress,
            ChunkState::Settled { verdict: Verdict::Completed(_), .. } => ChunkStatus::Completed,
            ChunkState::Settled { verdict: Verdict::Failed(_), .. } => ChunkStatus::Failed,
        }
    }

    /// The same chunk without the segments of its transcription.
    #[must_use]
    pub fn without_segments(mut self) -> Self {
        if let ChunkState::Settled { verdict: Verdict::Completed(words), .. } = &mut self.state {
            words.drop_segments();
        }
        self
    }

    pub fn is_settled(&self) -> bool {
        matches!(self.state, ChunkState::Settled { .. })
    }

    /// How many claims count: those that ended with a verdict, took too long, or were lost.
    pub fn attempts(&self) -> u32 {
        self.attempt.saturating_sub(self.released)
    }

    /// The last attempts as shown to clients: lost attempts are marked, and worker names are opaque.
    pub fn visible_history(&self) -> Vec<AttemptRecord> {
        let mut history = self.history.clone();
        mark_lost(&mut history, matches!(self.state, ChunkState::InProgress { .. }));
        for record in &mut history {
            record.worker = opaque_worker(&record.worker);
        }
        history
    }
}

/// A job to be created.
#[derive(Clone, Debug, PartialEq)]
pub struct NewJob {
    pub id: JobId,
    pub user: UserId,
    pub submitted: Timestamp,
    pub options: TranscribeOptions,
    pub metadata: Metadata,
    pub idempotency: Option<Idempotency>,
    /// The address that receives a webhook when the job ends.
    pub callback_url: Option<String>,
    /// Where the first chunk begins in a longer recording, in seconds.
    pub start_offset: f64,
    paths: Vec<AudioPath>,
}

/// The number of chunks is out of range.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("must have 1 to {MAX_CHUNKS} entries, has {0}")]
pub struct InvalidChunkCount(pub usize);

impl NewJob {
    /// A job with a new id.
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
            start_offset: 0.0,
            paths,
        })
    }

    /// The paths in order of chunk index.
    pub fn paths(&self) -> &[AudioPath] {
        &self.paths
    }

    /// The job's pending chunks in order of index.
    pub fn chunks(&self) -> Vec<Chunk> {
        ChunkIndex::first(self.paths.len())
            .zip(&self.paths)
            .map(|(index, path)| Chunk::new(index, path.clone()))
            .collect()
    }

    /// The job right after its creation.
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
                start_offset: self.start_offset,
                state: JobState::Open,
            },
            options: self.options.clone(),
            unsettled,
            check_from: None,
        }
    }
}

/// Whether a job has ended, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JobState {
    Open,
    Ended {
        /// Whether every chunk was transcribed.
        completely: bool,
        /// When the job ended.
        at: Timestamp,
    },
}

/// The part of a job that searches return.
#[derive(Clone, Debug, PartialEq)]
pub struct JobHead {
    pub id: JobId,
    pub user: UserId,
    pub submitted: Timestamp,
    pub metadata: Metadata,
    /// 1 to 24.
    pub chunk_count: usize,
    /// When the failed chunks were last retried.
    pub retried: Option<Timestamp>,
    /// The webhook and its delivery state. Searches do not load it.
    pub callback: Option<Callback>,
    /// Where the first chunk begins in a longer recording, in seconds. Searches do not load it.
    pub start_offset: f64,
    pub state: JobState,
}

impl JobHead {
    /// When the job was last retried, or else submitted. The job's age counts from here.
    pub fn since(&self) -> Timestamp {
        self.retried.unwrap_or(self.submitted)
    }

    /// The approximate size in a search result, in bytes.
    pub fn weight(&self) -> usize {
        metadata_weight(&self.metadata) + 300
    }

    pub fn status(&self) -> JobStatus {
        match self.state {
            JobState::Open => JobStatus::InProgress,
            JobState::Ended { completely: true, .. } => JobStatus::Completed,
            JobState::Ended { completely: false, .. } => JobStatus::Failed,
        }
    }
}

/// The approximate size of a job's metadata as JSON, in bytes.
pub(crate) fn metadata_weight(metadata: &Metadata) -> usize {
    metadata.iter().map(|(key, value)| key.len() + value.len() + 6).sum()
}

/// A job as stored.
#[derive(Clone, Debug, PartialEq)]
pub struct Job {
    pub head: JobHead,
    pub options: TranscribeOptions,
    /// The chunks that count as unsettled. The job can end when the set is empty.
    pub unsettled: BTreeSet<ChunkIndex>,
    /// When the sweeper's current check of the job was due, if that check is not complete.
    pub check_from: Option<Timestamp>,
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
}
