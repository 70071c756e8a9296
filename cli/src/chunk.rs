//! How a chunk is shown.

use longhand_shared::domain::attempt::AttemptOutcome;
use longhand_shared::domain::job::{ChunkStatus, ErrorCode};
use longhand_shared::domain::transcript::{ChunkResult, TranscriptResult};

/// `chunk 1 of 6`: counted from 1.
pub(crate) fn label(index: u8, chunks: usize) -> String {
    format!("chunk {} of {chunks}", u32::from(index) + 1)
}

/// One line about a chunk: its status, its name and its failed calls.
pub(crate) fn line(chunk: &ChunkResult, name: &str, chunks: usize) -> String {
    let failure = running_failure(chunk).map(|failure| format!(": {failure}")).unwrap_or_default();
    format!("{} {}  {name}{failure}", label(chunk.index.get(), chunks), chunk.chunk_status.as_str())
}

/// The name of a chunk's file, without the prefix that this command adds to files under uploads/.
pub(crate) fn own_name(chunk: &ChunkResult) -> String {
    let name = chunk.audio_chunk_path.file_name();
    let uploaded = chunk.audio_chunk_path.shown().contains("/uploads/");
    let original = name.strip_prefix(&*format!("{:02}-", chunk.index.get())).filter(|name| !name.is_empty());
    original.filter(|_| uploaded).unwrap_or(name).to_owned()
}

/// The names of a job's chunks.
pub(crate) fn own_names(result: &TranscriptResult) -> Vec<String> {
    result.chunks.iter().map(own_name).collect()
}

/// The failed calls of a running attempt: `model timed out, call 2 of at most 4`.
pub(crate) fn running_failure(chunk: &ChunkResult) -> Option<String> {
    let running = chunk.history.last().filter(|last| last.outcome == AttemptOutcome::Running)?;
    let (code, calls, most) = (running.code?, running.asr_calls?, running.most_calls?);
    let what = match code {
        ErrorCode::AsrTimeout => "timed out",
        ErrorCode::AsrRejected => "rejected the call",
        ErrorCode::AsrProtocol => "returned no transcription",
        _ => "failed",
    };
    Some(format!("model {what}, call {calls} of at most {most}"))
}

/// Whether a chunk is completed or failed.
pub(crate) fn is_settled(status: ChunkStatus) -> bool {
    matches!(status, ChunkStatus::Completed | ChunkStatus::Failed)
}

/// The number of completed and failed chunks.
pub(crate) fn settled(chunks: &[ChunkResult]) -> usize {
    chunks.iter().filter(|chunk| is_settled(chunk.chunk_status)).count()
}
