//! The answer that a client reads: `TranscriptResult`, as served and as kept.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::attempt::AttemptRecord;
use crate::clock::Timestamp;
use crate::id::{ChunkIndex, JobId, UserId};
use crate::job::{
    Chunk, ChunkError, ChunkState, ChunkStatus, JobHead, JobState, JobStatus, Metadata, Verdict,
};
use crate::path::AudioPath;
use crate::stitch::stitch;
use crate::webhook::Callback;

/// A job and all that is known of its transcript.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct TranscriptResult {
    /// The job.
    pub job_id: JobId,
    /// Whose it is.
    pub user_id: UserId,
    /// Where it stands.
    pub job_status: JobStatus,
    /// When it was asked for.
    pub submitted_time: Timestamp,
    /// When it ended; null while it is in progress.
    #[schema(required)]
    pub completed_time: Option<Timestamp>,
    /// The text, in order of the chunks, gaps marked; null while no chunk has one.
    #[schema(required)]
    pub transcription: Option<String>,
    /// Whether some of the text is missing: the job is in progress, or a chunk failed.
    pub partial: bool,
    /// The client's notes, as they came.
    #[serde(default, skip_serializing_if = "Metadata::is_empty")]
    #[schema(value_type = std::collections::BTreeMap<String, String>)]
    pub metadata: Metadata,
    /// Who is told of the job's end, and how far that has come. A listing does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub callback: Option<Callback>,
    /// The chunks, in order.
    pub chunks: Vec<ChunkResult>,
}

/// One chunk of a [`TranscriptResult`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ChunkResult {
    /// Its place, from 0.
    pub index: ChunkIndex,
    /// Its audio, as the client gave it.
    pub audio_chunk_path: AudioPath,
    /// Where it stands.
    pub chunk_status: ChunkStatus,
    /// How often a worker has tried it. Tries given back through no fault of the chunk (the model
    /// was down, a worker was stopped) do not count.
    pub attempts: u32,
    /// The last ten tries, those that do not count too, the newest last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub history: Vec<AttemptRecord>,
    /// When it was completed or failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completed_time: Option<Timestamp>,
    /// The length of its audio in seconds, where the model measured it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration_seconds: Option<f64>,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<ChunkError>,
}

impl TranscriptResult {
    /// A job and its chunks (in order of index) as they stand.
    pub fn new(head: &JobHead, chunks: &[Chunk]) -> Self {
        let completed_time = match head.state {
            JobState::Open => None,
            JobState::Ended { at, .. } => Some(at),
        };
        Self {
            job_id: head.id,
            user_id: head.user.clone(),
            job_status: head.status(),
            submitted_time: head.submitted,
            completed_time,
            transcription: stitch(chunks),
            partial: head.status() != JobStatus::Completed,
            metadata: head.metadata.clone(),
            callback: None,
            chunks: chunks.iter().map(ChunkResult::new).collect(),
        }
    }

    /// The result of a job whose chunks are all settled, as of `now`. `None` when one is not.
    pub fn ended(head: &JobHead, chunks: &[Chunk], now: Timestamp) -> Option<Self> {
        if chunks.len() != head.chunk_count || !chunks.iter().all(Chunk::is_settled) {
            return None;
        }
        let completely = chunks.iter().all(|chunk| chunk.status() == ChunkStatus::Completed);
        let ended = JobHead { state: JobState::Ended { completely, at: now }, ..head.clone() };
        Some(Self::new(&ended, chunks))
    }
}

impl ChunkResult {
    fn new(chunk: &Chunk) -> Self {
        let mut result = Self {
            index: chunk.index,
            audio_chunk_path: chunk.path.clone(),
            chunk_status: chunk.status(),
            attempts: chunk.attempts(),
            history: chunk.told(),
            completed_time: None,
            duration_seconds: None,
            error: None,
        };
        if let ChunkState::Settled { at, verdict } = &chunk.state {
            result.completed_time = Some(*at);
            match verdict {
                Verdict::Completed(words) => result.duration_seconds = words.duration_seconds(),
                Verdict::Failed(error) => result.error = Some(error.clone()),
            }
        }
        result
    }
}
