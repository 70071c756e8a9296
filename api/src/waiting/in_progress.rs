//! What clients see of a job in progress.

use std::sync::Arc;

use longhand_shared::domain::attempt::{AttemptOutcome, AttemptRecord};
use longhand_shared::domain::job::JobStatus;
use longhand_shared::domain::transcript::{ChunkResult, TranscriptResult};

/// What is kept of a job in progress while clients wait: its text may be long, and is read when it is sent.
pub(super) fn without_text(job: Arc<TranscriptResult>) -> Arc<TranscriptResult> {
    if job.job_status != JobStatus::InProgress {
        return job;
    }
    let mut job = Arc::unwrap_or_clone(job);
    job.transcription = None;
    for chunk in &mut job.chunks {
        chunk.history = running(chunk).cloned().into_iter().collect();
    }
    Arc::new(job)
}

/// The running attempt, after failed calls of the model.
pub(super) fn running(chunk: &ChunkResult) -> Option<&AttemptRecord> {
    chunk.history.last().filter(|last| last.outcome == AttemptOutcome::Running && last.code.is_some())
}
