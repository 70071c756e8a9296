//! Chunks and their states. The types exclude invalid states.

use serde::{Deserialize, Serialize};
use strum::IntoStaticStr;
use utoipa::ToSchema;

use crate::domain::attempt::{Attempt, AttemptRecord, Holder, mark_lost, opaque_worker};
use crate::domain::clock::Timestamp;
use crate::domain::id::ChunkIndex;
use crate::domain::path::AudioPath;
use crate::domain::verdict::Verdict;

/// A chunk's status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema, IntoStaticStr)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[strum(serialize_all = "SCREAMING_SNAKE_CASE", const_into_str)]
pub enum ChunkStatus {
    /// No worker has a claim on the chunk.
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
        self.into_str()
    }
}

/// A chunk's state, with the data of that state.
#[derive(Clone, Debug, PartialEq)]
pub enum ChunkState {
    /// No worker has a claim on the chunk.
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
    /// How often the chunk was claimed, plus one for each time that a retry of the job reopened it. It only grows, so
    /// it identifies a claim.
    pub attempt: u32,
    /// How much of `attempt` does not count: claims that were released through no fault of the chunk, and all up to the
    /// last time that the chunk was reopened.
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

    /// Applies the verdict of an attempt.
    pub fn settle(&mut self, attempt: &Attempt, verdict: Verdict, at: Timestamp) {
        self.state = ChunkState::Settled { at, verdict };
        self.note(attempt);
    }

    /// Applies the history of an attempt.
    pub fn note(&mut self, attempt: &Attempt) {
        if !attempt.history.is_empty() {
            self.history.clone_from(&attempt.history);
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

    /// How many claims count: the running one, and those that ended with a verdict, took too long, or were lost.
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
