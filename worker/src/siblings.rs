//! The chunks of one job that this worker has in hand.
//!
//! A settled chunk is removed from its job's unsettled set. The job cannot end while a sibling is still being
//! transcribed here, so the removal waits for it: one write then removes all of them. If they are all chunks of the
//! job and all completed, the job usually ends without a removal. The message of a chunk whose removal waits stays in
//! hand, without a slot.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use longhand_shared::{ChunkIndex, ChunkRef, JobId};
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::time::timeout;

/// How long a removal waits. If the worker crashes, the messages of such chunks are delivered again.
const LONGEST_WAIT: Duration = Duration::from_secs(10);

#[derive(Debug, Default)]
pub struct Siblings(Arc<Mutex<HashMap<JobId, Group>>>);

#[derive(Debug, Default)]
struct Group {
    /// Chunks that are claimed and not settled. A chunk whose message was delivered twice may be here twice.
    busy: Vec<ChunkIndex>,
    /// Settled chunks whose handlers wait for their turn.
    waiting: Vec<(ChunkIndex, oneshot::Sender<Turn>)>,
}

/// What follows for a settled chunk.
#[derive(Debug)]
pub(crate) enum Turn {
    /// Its handler removes these chunks.
    Remove(Removal),
    /// A sibling's handler has removed it.
    Removed,
}

/// Chunks to remove from the unsettled set of their job. If it is dropped without [`Removal::done`], the other handlers
/// remove their own.
#[derive(Debug)]
pub(crate) struct Removal {
    pub(crate) chunks: Vec<ChunkIndex>,
    others: Vec<oneshot::Sender<Turn>>,
}

/// A claimed chunk. Dropped when its attempt ends without a verdict.
#[derive(Debug)]
pub(crate) struct Member {
    jobs: Arc<Mutex<HashMap<JobId, Group>>>,
    chunk: ChunkRef,
    /// The number of the job's chunks, if it is known.
    of: Option<usize>,
    is_busy: bool,
}

impl Siblings {
    /// Adds a chunk that has just been claimed.
    pub(crate) fn join(&self, chunk: ChunkRef, of: Option<usize>) -> Member {
        self.0.lock().entry(chunk.job).or_default().busy.push(chunk.index);
        Member { jobs: Arc::clone(&self.0), chunk, of, is_busy: true }
    }
}

impl Member {
    pub(crate) fn chunk(&self) -> ChunkRef {
        self.chunk
    }

    /// Whether all other chunks of the job are settled here and wait for this one.
    pub(crate) fn is_last(&self) -> bool {
        let jobs = self.jobs.lock();
        let Some(group) = jobs.get(&self.chunk.job) else { return false };
        let others = group.waiting.iter().map(|(index, _)| *index).filter(|index| *index != self.chunk.index);
        group.busy.iter().all(|busy| *busy == self.chunk.index)
            && self.of.is_some_and(|count| others.collect::<BTreeSet<_>>().len() + 1 == count)
    }

    /// Called when the chunk is settled. Waits for the siblings that are not, for a bounded time.
    pub(crate) async fn settled(mut self) -> Turn {
        let waiting = {
            let mut jobs = self.jobs.lock();
            self.is_busy = false;
            let Some(group) = jobs.get_mut(&self.chunk.job) else { return self.alone() };
            // The chunk is settled, whatever another message of it does.
            group.busy.retain(|busy| *busy != self.chunk.index);
            let (turn, waiting) = oneshot::channel();
            group.waiting.push((self.chunk.index, turn));
            if group.busy.is_empty() {
                let group = jobs.remove(&self.chunk.job).unwrap_or_default();
                return Turn::Remove(Removal::of(group.waiting));
            }
            waiting
        };
        match timeout(LONGEST_WAIT, waiting).await {
            Ok(Ok(turn)) => turn,
            // The sibling's handler failed to remove it.
            Ok(Err(_)) => self.alone(),
            Err(_) => {
                if let Some(group) = self.jobs.lock().get_mut(&self.chunk.job) {
                    group.waiting.retain(|(index, _)| *index != self.chunk.index);
                }
                self.alone()
            }
        }
    }

    fn alone(&self) -> Turn {
        Turn::Remove(Removal { chunks: vec![self.chunk.index], others: vec![] })
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        if !self.is_busy {
            return;
        }
        let mut jobs = self.jobs.lock();
        let Some(group) = jobs.get_mut(&self.chunk.job) else { return };
        let Some(place) = group.busy.iter().position(|busy| *busy == self.chunk.index) else { return };
        group.busy.swap_remove(place);
        if !group.busy.is_empty() {
            return;
        }
        let mut waiting = jobs.remove(&self.chunk.job).unwrap_or_default().waiting;
        if let Some((index, turn)) = waiting.pop() {
            let mut removal = Removal::of(waiting);
            removal.chunks.push(index);
            // If its handler has just given up waiting, the removal is dropped, and the others remove their own.
            let _ = turn.send(Turn::Remove(removal));
        }
    }
}

impl Removal {
    fn of(waiting: Vec<(ChunkIndex, oneshot::Sender<Turn>)>) -> Self {
        let (chunks, others) = waiting.into_iter().unzip();
        Self { chunks, others }
    }

    /// Called when the chunks are removed, and the job has ended if these were the last ones.
    pub(crate) fn done(self) {
        for other in self.others {
            // The handler may have been cancelled.
            let _ = other.send(Turn::Removed);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    fn chunk(number: u64) -> ChunkRef {
        let job = "0198c1d2-7a3e-7cc0-8000-1c2d3e4f5a6b".parse().expect("an id");
        ChunkRef { job, index: ChunkIndex::try_from(number).expect("an index") }
    }

    fn removal(turn: Option<Turn>) -> Removal {
        match turn {
            Some(Turn::Remove(removal)) => removal,
            other => panic!("{other:?}"),
        }
    }

    fn numbers(removal: &Removal) -> Vec<u8> {
        let mut numbers: Vec<_> = removal.chunks.iter().map(|index| index.get()).collect();
        numbers.sort_unstable();
        numbers
    }

    #[tokio::test(start_paused = true)]
    async fn a_settled_chunk_does_not_wait_for_its_other_message() {
        let siblings = Siblings::default();
        let [a, again, b] = [0, 0, 1].map(|number| siblings.join(chunk(number), Some(4)));
        let mut a = Box::pin(a.settled());
        assert!(a.as_mut().now_or_never().is_none());
        let last = removal(b.settled().now_or_never());
        assert_eq!(numbers(&last), [0, 1]);
        last.done();
        assert!(matches!(a.now_or_never(), Some(Turn::Removed)));
        assert_eq!(numbers(&removal(again.settled().now_or_never())), [0]);
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_of_the_siblings_removes_all() {
        let siblings = Siblings::default();
        let [a, b, c] = [0, 1, 2].map(|number| siblings.join(chunk(number), Some(4)));
        let (mut a, mut b) = (Box::pin(a.settled()), Box::pin(b.settled()));
        assert!(a.as_mut().now_or_never().is_none() && b.as_mut().now_or_never().is_none());
        let last = removal(c.settled().now_or_never());
        assert_eq!(numbers(&last), [0, 1, 2]);
        assert!(a.as_mut().now_or_never().is_none(), "not removed yet");
        last.done();
        assert!(matches!(a.await, Turn::Removed) && matches!(b.await, Turn::Removed));
        assert!(siblings.0.lock().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_of_all_chunks_knows_it() {
        let siblings = Siblings::default();
        let [a, b, again, c] = [0, 1, 1, 2].map(|number| siblings.join(chunk(number), Some(3)));
        let unknown = siblings.join(chunk(2), None);
        let mut a = Box::pin(a.settled());
        assert!(a.as_mut().now_or_never().is_none());
        assert!(!c.is_last(), "chunk 1 is not settled");
        let [mut b, mut again] = [b, again].map(|member| Box::pin(member.settled()));
        assert!(b.as_mut().now_or_never().is_none() && again.as_mut().now_or_never().is_none());
        assert!(c.is_last() && !unknown.is_last());
        let mut all = numbers(&removal(c.settled().now_or_never()));
        all.dedup();
        assert_eq!(all, [0, 1, 2]);
        assert_eq!(numbers(&removal(unknown.settled().now_or_never())), [2]);
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_failed_removal_each_handler_removes_its_own() {
        let siblings = Siblings::default();
        let [a, b] = [0, 1].map(|number| siblings.join(chunk(number), Some(4)));
        let mut a = Box::pin(a.settled());
        assert!(a.as_mut().now_or_never().is_none());
        drop(removal(b.settled().now_or_never()));
        assert_eq!(numbers(&removal(Some(a.await))), [0]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_sibling_without_a_verdict_does_not_keep_the_others_waiting() {
        let siblings = Siblings::default();
        let [a, b, c] = [0, 1, 2].map(|number| siblings.join(chunk(number), Some(4)));
        let (mut a, mut b) = (Box::pin(a.settled()), Box::pin(b.settled()));
        assert!(a.as_mut().now_or_never().is_none() && b.as_mut().now_or_never().is_none());
        drop(c);
        let both = removal(Some(b.await));
        assert_eq!(numbers(&both), [0, 1]);
        both.done();
        assert!(matches!(a.await, Turn::Removed));
        assert!(siblings.0.lock().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_sibling_is_not_waited_for() {
        let siblings = Siblings::default();
        let [a, b] = [0, 1].map(|number| siblings.join(chunk(number), Some(4)));
        let began = tokio::time::Instant::now();
        assert_eq!(numbers(&removal(Some(a.settled().await))), [0]);
        assert_eq!(began.elapsed(), LONGEST_WAIT);
        assert_eq!(numbers(&removal(b.settled().now_or_never())), [1]);
        assert!(siblings.0.lock().is_empty());
    }
}
