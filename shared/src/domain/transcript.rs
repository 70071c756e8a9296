//! `TranscriptResult`: a job's result as served and as stored.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::domain::attempt::AttemptRecord;
use crate::domain::callback::Callback;
use crate::domain::clock::Timestamp;
use crate::domain::id::{ChunkIndex, JobId, UserId};
use crate::domain::job::{
    Chunk, ChunkError, ChunkState, ChunkStatus, JobHead, JobState, JobStatus, Metadata, Transcription,
    Verdict, Warning, metadata_weight,
};
use crate::domain::path::AudioPath;
use crate::domain::stitch::{stitch, text_or_mark};

/// A job with its chunks and its transcript.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct TranscriptResult {
    pub job_id: JobId,
    pub user_id: UserId,
    pub job_status: JobStatus,
    /// When the job was submitted.
    pub submitted_time: Timestamp,
    /// When the job ended; null while it is in progress.
    #[schema(required)]
    pub completed_time: Option<Timestamp>,
    /// The text in order of the chunks. A chunk without a text becomes a mark, `[chunk 3 failed]` or `[chunk 3 pending]`,
    /// with the chunk's `index`. Null until a chunk has a text.
    #[schema(required)]
    pub transcription: Option<String>,
    /// Whether some of the text is missing: the job is in progress, or a chunk failed.
    pub partial: bool,
    /// The language of most of the text, as a language tag, if the model detects it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub language: Option<String>,
    /// Where the first chunk begins in a longer recording, in seconds, as submitted. Times of segments, words and captions
    /// include it. A search returns it only for jobs that have ended.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub start_offset: f64,
    /// The client's metadata, unchanged.
    #[serde(default, skip_serializing_if = "Metadata::is_empty")]
    #[schema(value_type = std::collections::BTreeMap<String, String>)]
    pub metadata: Metadata,
    /// The webhook and its delivery state. Search results do not have this field.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub callback: Option<Callback>,
    /// The chunks, in order.
    pub chunks: Vec<ChunkResult>,
}

/// One chunk of a job's result.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ChunkResult {
    pub index: ChunkIndex,
    /// The audio's path, as submitted.
    pub audio_chunk_path: AudioPath,
    pub chunk_status: ChunkStatus,
    /// The number of attempts: the running one and those that ended with `COMPLETED`, `FAILED`, `OVERDUE` or `LOST`. It
    /// begins at 0 again when a failed chunk is retried.
    pub attempts: u32,
    /// The last ten attempts, including those that do not count, the newest last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub history: Vec<AttemptRecord>,
    /// When the chunk was completed or failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completed_time: Option<Timestamp>,
    /// The length of the audio in seconds, if the model measured it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration_seconds: Option<f64>,
    /// The detected language, as a language tag, if the model detects it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub language: Option<String>,
    /// How sure the model is of the text, from 0 to 1, if it says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confidence: Option<f64>,
    /// The speakers in order of appearance, as the model names them in this chunk, if it separates them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub speakers: Vec<String>,
    /// What may be wrong with the text or the audio of a completed chunk.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<Warning>,
    /// Why the chunk failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<ChunkError>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature is serde's")]
pub(crate) fn is_zero(seconds: &f64) -> bool {
    *seconds == 0.0
}

impl TranscriptResult {
    /// The current result of a job and its chunks (in order of index).
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
            language: main_language(chunks),
            start_offset: head.start_offset,
            metadata: head.metadata.clone(),
            callback: None,
            chunks: chunks.iter().map(ChunkResult::new).collect(),
        }
    }

    /// The approximate size in memory and as JSON, in bytes.
    pub fn weight(&self) -> usize {
        let text = self.transcription.as_ref().map_or(0, String::len);
        // An attempt has about 200 bytes, an error's message at most four bytes per character.
        let chunk = |chunk: &ChunkResult| {
            let error = chunk.error.as_ref().map_or(0, |error| error.message.len());
            let warnings: usize = chunk.warnings.iter().map(|warning| warning.message.len() + 60).sum();
            400 + warnings + chunk.audio_chunk_path.to_string().len() + 200 * chunk.history.len() + error
        };
        text + metadata_weight(&self.metadata) + self.chunks.iter().map(chunk).sum::<usize>() + 500
    }

    /// The final result of a job that ends at `now`. `None` unless all chunks are settled.
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
        let words = text_or_mark(chunk).ok();
        let (completed_time, error) = match &chunk.state {
            ChunkState::Settled { at, verdict: Verdict::Failed(error) } => (Some(*at), Some(error.clone())),
            ChunkState::Settled { at, verdict: Verdict::Completed(_) } => (Some(*at), None),
            ChunkState::Pending | ChunkState::InProgress { .. } => (None, None),
        };
        Self {
            index: chunk.index,
            audio_chunk_path: chunk.path.clone(),
            chunk_status: chunk.status(),
            attempts: chunk.attempts(),
            history: chunk.visible_history(),
            completed_time,
            duration_seconds: words.and_then(Transcription::duration_seconds),
            language: words.and_then(|words| words.language.clone()),
            confidence: words.and_then(|words| words.confidence),
            speakers: words.map(|words| words.speakers().to_vec()).unwrap_or_default(),
            warnings: words.map(|words| words.warnings.clone()).unwrap_or_default(),
            error,
        }
    }
}

/// The language with the most text.
fn main_language(chunks: &[Chunk]) -> Option<String> {
    let mut bytes = BTreeMap::<&str, usize>::new();
    for words in chunks.iter().filter_map(|chunk| text_or_mark(chunk).ok()) {
        if let Some(language) = &words.language {
            *bytes.entry(language).or_default() += words.text().len();
        }
    }
    bytes.into_iter().max_by_key(|(_, bytes)| *bytes).map(|(language, _)| language.to_owned())
}
