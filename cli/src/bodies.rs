//! What is sent to the service, and what it answers.

use longhand_shared::domain::job::{JobStatus, Metadata, TranscribeOptions};
use longhand_shared::domain::transcript::TranscriptResult;
use longhand_shared::{JobId, Timestamp, UserId};
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};

/// A job with its segments.
#[derive(Deserialize)]
pub(crate) struct Segments {
    #[serde(flatten)]
    pub(crate) result: TranscriptResult,
    pub(crate) segments: Vec<Segment>,
}

/// A piece of text with its times in seconds from the beginning of the recording.
#[derive(Deserialize)]
pub(crate) struct Segment {
    pub(crate) start: f64,
    pub(crate) end: f64,
    pub(crate) text: String,
    #[serde(default)]
    pub(crate) speaker: Option<String>,
    #[serde(default)]
    pub(crate) words: Vec<Word>,
}

/// A word with its times.
#[derive(Deserialize)]
pub(crate) struct Word {
    pub(crate) start: f64,
    pub(crate) end: f64,
    #[serde(rename = "word")]
    pub(crate) text: String,
}

/// The body of `POST /transcribe`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct NewTranscription<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) user_id: Option<&'a UserId>,
    pub(crate) audio_chunk_paths: &'a [String],
    #[serde(flatten)]
    pub(crate) options: TranscribeOptions,
    #[serde(skip_serializing_if = "Metadata::is_empty")]
    pub(crate) metadata: Metadata,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) callback_url: Option<&'a str>,
    /// `None` instead of zero: 0.1.0 rejects unknown fields.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) start_offset: Option<f64>,
}

/// The body of `POST /uploads`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct NewUploads<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) user_id: Option<&'a UserId>,
    pub(crate) files: Vec<NewUpload>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct NewUpload {
    pub(crate) name: String,
    pub(crate) content_type: &'static str,
    pub(crate) bytes: u64,
}

/// The part of the answer to `POST /transcribe` that this command uses.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Submitted {
    pub(crate) job_id: JobId,
}

/// The parameters of `GET /transcript/search`. Those that are `None` are left out.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Query {
    pub(crate) user_id: Option<UserId>,
    pub(crate) job_status: Option<JobStatus>,
    pub(crate) submitted_after: Option<Timestamp>,
    pub(crate) submitted_before: Option<Timestamp>,
    pub(crate) limit: Option<u32>,
    pub(crate) cursor: Option<String>,
    pub(crate) fields: Option<&'static str>,
}

/// One page of `GET /transcript/search`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Page {
    pub(crate) results: Vec<ListedJob>,
    pub(crate) next_cursor: Option<String>,
}

/// A job in a listing.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ListedJob {
    pub(crate) job_id: JobId,
    pub(crate) job_status: JobStatus,
    pub(crate) submitted_time: Timestamp,
    /// Only summaries have it; a full result has `chunks`.
    chunk_count: Option<usize>,
    #[serde(default)]
    chunks: Vec<IgnoredAny>,
}

impl ListedJob {
    pub(crate) fn chunk_count(&self) -> usize {
        self.chunk_count.unwrap_or(self.chunks.len())
    }
}
