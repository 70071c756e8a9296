//! Jobs and their states. The types exclude invalid states.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use strum::{Display, EnumString, IntoStaticStr, VariantArray};
use utoipa::ToSchema;

use crate::domain::callback::{Callback, CallbackState};
use crate::domain::clock::Timestamp;
use crate::domain::id::{ChunkIndex, JobId, MAX_CHUNKS, UserId};
use crate::domain::idempotency::Idempotency;
use crate::domain::path::AudioPath;

pub use crate::domain::chunk::{Chunk, ChunkState, ChunkStatus};
pub use crate::domain::options::{
    InvalidLanguage, InvalidPrompt, Language, MAX_METADATA_BYTES, MAX_METADATA_ENTRIES, MAX_PROMPT_CHARS,
    MAX_START_OFFSET, MAX_TAG_BYTES, Metadata, Prompt, Timestamps, TranscribeOptions,
};
pub use crate::domain::transcription::{
    MAX_TRANSCRIPTION_BYTES, Segment, TooLarge, Transcription, Warning, WarningCode, Word,
};
pub use crate::domain::verdict::{ChunkError, ErrorCode, Verdict};

/// A job's status.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    Hash,
    Serialize,
    Deserialize,
    ToSchema,
    Display,
    EnumString,
    IntoStaticStr,
    VariantArray,
)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[strum(serialize_all = "SCREAMING_SNAKE_CASE", const_into_str)]
#[strum(parse_err_ty = InvalidJobStatus, parse_err_fn = InvalidJobStatus::new)]
pub enum JobStatus {
    /// At least one chunk is not settled.
    InProgress,
    /// Every chunk was transcribed.
    Completed,
    /// Every chunk is settled, and at least one failed.
    Failed,
}

impl JobStatus {
    /// The status in JSON and in the table.
    pub const fn as_str(self) -> &'static str {
        self.into_str()
    }
}

/// What changed about a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, EnumString, IntoStaticStr)]
#[strum(serialize_all = "lowercase")]
pub enum Change {
    /// A chunk was claimed, released or settled, or a call of the model for it failed.
    Chunk,
    /// The job ended, was reopened or was erased.
    Job,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("must be IN_PROGRESS, COMPLETED or FAILED")]
pub struct InvalidJobStatus;

impl InvalidJobStatus {
    fn new(_: &str) -> Self {
        Self
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
    /// 1 to [`MAX_CHUNKS`].
    pub chunk_count: usize,
    /// When the failed chunks were last retried. The index of searches does not contain it.
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

    /// When the job ended, and its callback, if the job has ended and the callback is in this state.
    pub fn ended_with(&self, state: CallbackState) -> Option<(Timestamp, &Callback)> {
        match (self.state, &self.callback) {
            (JobState::Ended { at, .. }, Some(callback)) if callback.state == state => Some((at, callback)),
            _ => None,
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
    fn the_number_of_chunks_is_bounded() {
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
        assert_eq!(job(MAX_CHUNKS + 1), Err(InvalidChunkCount(MAX_CHUNKS + 1)));
        let full = job(MAX_CHUNKS).expect("not too many");
        assert_eq!(full.chunks().len(), MAX_CHUNKS);
        assert_eq!(full.job().unsettled.len(), MAX_CHUNKS);
    }
}
