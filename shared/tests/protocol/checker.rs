//! What must be true after every step, whatever was done and whoever died.

use std::collections::BTreeSet;

use longhand_shared::job::{Chunk, ChunkState, ChunkStatus, Job, JobState, JobStatus, NewJob, Verdict};
use longhand_shared::stitch::stitch;
use longhand_shared::transcript::TranscriptResult;
use longhand_shared::{ChunkIndex, ChunkRef};
use proptest::test_runner::TestCaseError;
use proptest::{prop_assert, prop_assert_eq};

use crate::post::Post;
use crate::processes::words;
use crate::table::Table;

/// What was seen of one job so far.
#[derive(Debug)]
pub(crate) struct Checker {
    new: NewJob,
    last: Option<(Job, Vec<Chunk>)>,
    ended: Option<TranscriptResult>,
    erased: bool,
    /// Whether a message is in one hand at a time, and deleted for good.
    orderly: bool,
    /// Chunks that had a message at some time.
    mailed: BTreeSet<ChunkIndex>,
}

type Verified = Result<(), TestCaseError>;

impl Checker {
    pub(crate) fn new(new: NewJob) -> Self {
        Self { new, last: None, ended: None, erased: false, orderly: false, mailed: BTreeSet::new() }
    }

    /// Remembers what is there, and does not look whether it is right: it was when it was there before.
    pub(crate) fn glance(&mut self, post: &Post) {
        let chunks = ChunkIndex::first(self.new.chunks().len());
        let job = self.new.id;
        self.mailed.extend(chunks.filter(|index| post.holds(ChunkRef { job, index: *index })));
    }

    /// What is remembered of the past, and nowhere else.
    pub(crate) fn fingerprint(&self) -> String {
        format!("{:?}", self.mailed)
    }

    /// From now on messages come to one at a time.
    pub(crate) fn orderly(&mut self) {
        self.orderly = true;
    }

    /// From now on the job must not be there.
    pub(crate) fn erased(&mut self) {
        self.erased = true;
    }

    pub(crate) fn is_erased(&self) -> bool {
        self.erased
    }

    /// The result, once the job has ended.
    pub(crate) fn ended(&self) -> Option<&TranscriptResult> {
        self.ended.as_ref()
    }

    /// Whether redelivery alone must end the job: each chunk had a message, and none was taken.
    pub(crate) fn all_mailed(&self, table: &Table, post: &Post) -> bool {
        self.mailed.len() == self.new.chunks().len() && post.is_honest() && self.orphans(table).is_empty()
    }

    /// Chunks that may be without a message, which is then the sweeper's to mend: a message that was
    /// superfluous when one worker saw it came to another too, and was in charge when the first
    /// deleted it.
    fn orphans(&self, table: &Table) -> BTreeSet<ChunkRef> {
        if self.orderly { BTreeSet::new() } else { table.orphans() }
    }

    /// Looks at everything.
    pub(crate) fn look(&mut self, table: &Table, post: &Post) -> Verified {
        if let Some(wrong) = table.wrong() {
            return Err(TestCaseError::fail(wrong));
        }
        prop_assert!(table.finished() <= 1, "the job was finished {} times", table.finished());
        let Some((job, chunks)) = table.peek(self.new.id) else {
            prop_assert!(self.erased || self.last.is_none(), "the job has vanished");
            return Ok(());
        };
        prop_assert!(!self.erased, "the job came back after it was erased");
        self.chunks(&job, &chunks)?;
        self.job(table, &job, &chunks)?;
        self.mail(table, post, &job, &chunks)?;
        self.last = Some((job, chunks));
        Ok(())
    }

    fn chunks(&self, job: &Job, chunks: &[Chunk]) -> Verified {
        prop_assert_eq!(chunks.len(), self.new.chunks().len());
        for chunk in chunks {
            let struck = !job.unsettled.contains(&chunk.index);
            prop_assert!(!struck || chunk.is_settled(), "chunk {} struck off, not settled", chunk.index);
            if let ChunkState::Settled { verdict: Verdict::Completed(heard), .. } = &chunk.state {
                let whose = (1..=chunk.attempt).find(|claim| words(chunk.index, *claim) == heard.text());
                prop_assert!(whose.is_some(), "chunk {} says {:?}", chunk.index, heard.text());
            }
        }
        let Some((_, before)) = &self.last else { return Ok(()) };
        for (before, chunk) in before.iter().zip(chunks) {
            prop_assert!(before.attempt <= chunk.attempt, "claims of chunk {} shrank", chunk.index);
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
        prop_assert!(job.unsettled.is_empty(), "ended with chunks not struck off");
        prop_assert_eq!(table.finished(), 1);
        let Some(result) = transcript else {
            return Err(TestCaseError::fail("ended without a transcript"));
        };
        let all_completed = chunks.iter().all(|chunk| chunk.status() == ChunkStatus::Completed);
        prop_assert_eq!(completely, all_completed);
        prop_assert_eq!(result.job_status == JobStatus::Completed, all_completed);
        prop_assert_eq!(result.completed_time, Some(at));
        prop_assert_eq!(&result.transcription, &stitch(chunks), "not what the chunks say");
        prop_assert_eq!(&result, &TranscriptResult::new(&job.head, chunks));
        match &self.ended {
            Some(before) => prop_assert_eq!(before, &result, "the transcript changed"),
            None => self.ended = Some(result),
        }
        Ok(())
    }

    /// A message is deleted only after everything it asked for is in the table, or while another is in
    /// charge. So a chunk that had a message has one until it is struck off, one that is claimed has
    /// one that may claim it again, and a job that could end has one until it has.
    fn mail(&mut self, table: &Table, post: &Post, job: &Job, chunks: &[Chunk]) -> Verified {
        let holds = |index: ChunkIndex| post.holds(ChunkRef { job: self.new.id, index });
        let held: BTreeSet<_> = chunks.iter().map(|chunk| chunk.index).filter(|i| holds(*i)).collect();
        self.mailed.extend(&held);
        if !post.is_honest() {
            return Ok(());
        }
        let orphans = self.orphans(table);
        let orphan = |index: ChunkIndex| orphans.contains(&ChunkRef { job: self.new.id, index });
        for chunk in chunks.iter().filter(|chunk| self.mailed.contains(&chunk.index) && !orphan(chunk.index))
        {
            if let ChunkState::InProgress { by, .. } = &chunk.state {
                let at = ChunkRef { job: self.new.id, index: chunk.index };
                let index = chunk.index;
                prop_assert!(
                    post.holds_origin(at, by),
                    "chunk {index} is in the charge of {by}, and its message is deleted"
                );
            }
        }
        for index in self.mailed.intersection(&job.unsettled).filter(|index| !orphan(**index)) {
            prop_assert!(held.contains(index), "chunk {index} is not done, and its message is deleted");
        }
        if job.head.state == JobState::Open && job.unsettled.is_empty() && orphans.is_empty() {
            prop_assert!(!held.is_empty(), "the job is not ended, and all its messages are deleted");
        }
        Ok(())
    }
}
