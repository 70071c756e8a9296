//! The invariants that hold after every step, with any crashes and faults.

use std::collections::BTreeSet;

use longhand_shared::domain::job::{
    Chunk, ChunkState, ChunkStatus, Job, JobState, JobStatus, NewJob, Verdict,
};
use longhand_shared::domain::stitch::stitch;
use longhand_shared::domain::transcript::TranscriptResult;
use longhand_shared::{ChunkIndex, ChunkRef};
use proptest::test_runner::TestCaseError;
use proptest::{prop_assert, prop_assert_eq};

use crate::processes::words;
use crate::queue::Queue;
use crate::table::Table;

/// The history of one job that the checks need.
#[derive(Debug)]
pub(crate) struct Checker {
    new: NewJob,
    last: Option<(Job, Vec<Chunk>)>,
    ended: Option<TranscriptResult>,
    erased: bool,
    /// Whether a message is delivered to one process at a time, and never after its deletion.
    orderly: bool,
    /// Chunks that have or had a message.
    sent: BTreeSet<ChunkIndex>,
}

type Verified = Result<(), TestCaseError>;

impl Checker {
    pub(crate) fn new(new: NewJob) -> Self {
        Self { new, last: None, ended: None, erased: false, orderly: false, sent: BTreeSet::new() }
    }

    /// Updates the history without checks, for a replayed state that was checked before.
    pub(crate) fn update(&mut self, queue: &Queue) {
        let chunks = ChunkIndex::first(self.new.chunks().len());
        let job = self.new.id;
        self.sent.extend(chunks.filter(|index| queue.holds(ChunkRef { job, index: *index })));
    }

    /// The part of the history that neither the table nor the queue has.
    pub(crate) fn fingerprint(&self) -> String {
        format!("{:?}", self.sent)
    }

    /// Assumes orderly deliveries from now on.
    pub(crate) fn orderly(&mut self) {
        self.orderly = true;
    }

    /// Requires that the job does not exist from now on.
    pub(crate) fn erased(&mut self) {
        self.erased = true;
    }

    pub(crate) fn is_erased(&self) -> bool {
        self.erased
    }

    /// The result of the job, after its end.
    pub(crate) fn ended(&self) -> Option<&TranscriptResult> {
        self.ended.as_ref()
    }

    /// Whether redelivery alone must end the job: each chunk had a message, and none was lost.
    pub(crate) fn all_sent(&self, table: &Table, queue: &Queue) -> bool {
        self.sent.len() == self.new.chunks().len() && queue.is_reliable() && self.orphans(table).is_empty()
    }

    /// Chunks that may have no message, so that only the sweeper can repair them. Two workers received the same
    /// message. It was superfluous for the first one. The second one claimed the chunk for it, and then the first
    /// one deleted it.
    fn orphans(&self, table: &Table) -> BTreeSet<ChunkRef> {
        if self.orderly { BTreeSet::new() } else { table.orphans() }
    }

    /// Checks all invariants.
    pub(crate) fn check(&mut self, table: &Table, queue: &Queue) -> Verified {
        if let Some(violation) = table.violation() {
            return Err(TestCaseError::fail(violation));
        }
        prop_assert!(table.finished() <= 1, "the job was finished {} times", table.finished());
        let Some((job, chunks)) = table.peek(self.new.id) else {
            prop_assert!(self.erased || self.last.is_none(), "the job disappeared");
            return Ok(());
        };
        prop_assert!(!self.erased, "the job reappeared after it was erased");
        self.chunks(&job, &chunks)?;
        self.job(table, &job, &chunks)?;
        self.messages(table, queue, &job, &chunks)?;
        self.last = Some((job, chunks));
        Ok(())
    }

    fn chunks(&self, job: &Job, chunks: &[Chunk]) -> Verified {
        prop_assert_eq!(chunks.len(), self.new.chunks().len());
        for chunk in chunks {
            let removed = !job.unsettled.contains(&chunk.index);
            prop_assert!(
                !removed || chunk.is_settled(),
                "chunk {} is not in the set and not settled",
                chunk.index
            );
            if let ChunkState::Settled { verdict: Verdict::Completed(transcription), .. } = &chunk.state {
                let claim =
                    (1..=chunk.attempt).find(|claim| words(chunk.index, *claim) == transcription.text());
                prop_assert!(
                    claim.is_some(),
                    "chunk {} has the text {:?}",
                    chunk.index,
                    transcription.text()
                );
            }
        }
        let Some((_, before)) = &self.last else { return Ok(()) };
        for (before, chunk) in before.iter().zip(chunks) {
            prop_assert!(
                before.attempt <= chunk.attempt,
                "the attempt number of chunk {} decreased",
                chunk.index
            );
            prop_assert!(before.released <= chunk.released);
            prop_assert!(chunk.released <= chunk.attempt);
            if before.is_settled() {
                prop_assert_eq!(before, chunk, "a settled chunk changed");
            }
        }
        Ok(())
    }

    fn job(&mut self, table: &Table, job: &Job, chunks: &[Chunk]) -> Verified {
        if let Some((before, _)) = &self.last {
            prop_assert!(job.unsettled.is_subset(&before.unsettled), "the unsettled set grew");
            prop_assert!(before.head.state == JobState::Open || before == job, "an ended job changed");
        }
        let transcript = table.peek_transcript(&job.head);
        let JobState::Ended { completely, at } = job.head.state else {
            prop_assert_eq!(transcript, None, "a transcript before the end");
            return Ok(());
        };
        prop_assert!(chunks.iter().all(Chunk::is_settled), "ended while a chunk is unsettled");
        prop_assert!(job.unsettled.is_empty(), "ended with a non-empty unsettled set");
        prop_assert_eq!(table.finished(), 1);
        let Some(result) = transcript else {
            return Err(TestCaseError::fail("ended without a transcript"));
        };
        let all_completed = chunks.iter().all(|chunk| chunk.status() == ChunkStatus::Completed);
        prop_assert_eq!(completely, all_completed);
        prop_assert_eq!(result.job_status == JobStatus::Completed, all_completed);
        prop_assert_eq!(result.completed_time, Some(at));
        prop_assert_eq!(&result.transcription, &stitch(chunks), "differs from the chunks' texts");
        let mut expected = TranscriptResult::new(&job.head, chunks);
        for (chunk, result) in expected.chunks.iter_mut().zip(&result.chunks) {
            // Claims of other workers while the last chunk was settled may not be counted.
            if chunk.chunk_status == ChunkStatus::Completed && result.attempts > 0 {
                chunk.attempts = chunk.attempts.min(result.attempts);
            }
        }
        prop_assert_eq!(&result, &expected);
        match &self.ended {
            Some(before) => prop_assert_eq!(before, &result, "the transcript changed"),
            None => self.ended = Some(result),
        }
        Ok(())
    }

    /// A message is deleted only after its work is in the table, or while the chunk is claimed for another message.
    /// So a chunk that had a message has one until it leaves the unsettled set. A claimed chunk has a message that may
    /// claim it again. A job with an empty unsettled set has a message until it ends.
    fn messages(&mut self, table: &Table, queue: &Queue, job: &Job, chunks: &[Chunk]) -> Verified {
        let holds = |index: ChunkIndex| queue.holds(ChunkRef { job: self.new.id, index });
        let held: BTreeSet<_> = chunks.iter().map(|chunk| chunk.index).filter(|i| holds(*i)).collect();
        self.sent.extend(&held);
        if !queue.is_reliable() {
            return Ok(());
        }
        let orphans = self.orphans(table);
        let orphan = |index: ChunkIndex| orphans.contains(&ChunkRef { job: self.new.id, index });
        for chunk in chunks.iter().filter(|chunk| self.sent.contains(&chunk.index) && !orphan(chunk.index)) {
            if let ChunkState::InProgress { by, .. } = &chunk.state {
                let at = ChunkRef { job: self.new.id, index: chunk.index };
                let index = chunk.index;
                prop_assert!(
                    queue.holds_origin(at, &by.origin),
                    "chunk {index} is claimed for {by:?}, and its message is deleted"
                );
            }
        }
        for index in self.sent.intersection(&job.unsettled).filter(|index| !orphan(**index)) {
            prop_assert!(held.contains(index), "chunk {index} is not done, and its message is deleted");
        }
        if job.head.state == JobState::Open && job.unsettled.is_empty() && orphans.is_empty() {
            prop_assert!(!held.is_empty(), "the job has not ended, and all its messages are deleted");
        }
        Ok(())
    }
}
