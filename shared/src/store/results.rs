//! Reads of jobs in the form that clients receive.

use super::{Detail, JobStore, MAX_PAGE_BYTES, Search, SearchPosition, StoreError};
use crate::domain::id::JobId;
use crate::domain::job::{Job, JobHead, JobState};
use crate::domain::transcript::TranscriptResult;

/// How many results of ended jobs one call reads. Each can have almost 400 KB.
const RESULTS_AT_ONCE: usize = 10;

/// How many times [`read`] tries to read a job that changes during the read.
const READS: usize = 5;

/// Reads one job in the form that clients receive.
pub async fn read(store: &dyn JobStore, id: JobId) -> Result<Option<TranscriptResult>, StoreError> {
    for _ in 0..READS {
        let Some(job) = store.job(id).await? else {
            return Ok(None);
        };
        // The job may have been retried, erased or ended between the two reads.
        if let Some(result) = read_job(store, &job).await? {
            return Ok(Some(result));
        }
    }
    Err(StoreError::Unavailable(format!("job {id} changed {READS} times while it was read")))
}

/// One try of [`read`], for a job that was already read. `None` if it has changed since.
pub async fn read_job(store: &dyn JobStore, job: &Job) -> Result<Option<TranscriptResult>, StoreError> {
    let details = store.details(std::slice::from_ref(&job.head)).await?;
    let detail = details.into_iter().flatten().next();
    // The stored result has the callback from the end of the job. The head has the current one.
    Ok(detail
        .map(|detail| TranscriptResult { callback: job.head.callback.clone(), ..result(&job.head, detail) }))
}

/// Reads a page of a listing in the form that clients receive, of at most [`MAX_PAGE_BYTES`]. Reads the results
/// in small groups, and only until the page is full.
pub async fn read_page(
    store: &dyn JobStore,
    search: &Search,
) -> Result<(Vec<TranscriptResult>, Option<SearchPosition>), StoreError> {
    let page = store.search(search).await?;
    let (mut results, mut bytes, mut last) = (Vec::new(), 0, None);
    for group in groups(&page.jobs) {
        for (head, detail) in group.iter().zip(store.details(group).await?) {
            let found = match detail {
                Some(detail) => Some(result(head, detail)),
                None => changed(store, search, head.id).await?,
            };
            let weight = found.as_ref().map_or(0, TranscriptResult::weight);
            if !results.is_empty() && bytes + weight > MAX_PAGE_BYTES {
                return Ok((results, last));
            }
            bytes += weight;
            results.extend(found);
            last = Some(SearchPosition::of(head));
        }
    }
    Ok((results, page.next))
}

/// Splits jobs, in order, into groups whose details one call reads. An open job is a group by itself, because its
/// chunks can be large.
fn groups(jobs: &[JobHead]) -> impl Iterator<Item = &[JobHead]> {
    let ended = |head: &JobHead| matches!(head.state, JobState::Ended { .. });
    jobs.chunk_by(move |a, b| ended(a) && ended(b)).flat_map(|group| group.chunks(RESULTS_AT_ONCE))
}

/// Reads a job again that has changed since it was listed. `None` if it is gone or no longer matches the search.
async fn changed(
    store: &dyn JobStore,
    search: &Search,
    id: JobId,
) -> Result<Option<TranscriptResult>, StoreError> {
    let result = read(store, id).await?;
    Ok(result
        .filter(|result| search.status.is_none_or(|status| status == result.job_status))
        .map(|result| TranscriptResult { callback: None, ..result }))
}

fn result(head: &JobHead, detail: Detail) -> TranscriptResult {
    match detail {
        Detail::Ended(result) => *result,
        Detail::Chunks(chunks) => TranscriptResult::new(head, &chunks),
    }
}
