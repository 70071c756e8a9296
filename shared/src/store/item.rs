//! How jobs, chunks and transcripts are written as items: the only file that names attributes.
//!
//! | item | `item` key | holds |
//! |---|---|---|
//! | job | `job` | status, times, options, the unsettled set, both indexes' keys |
//! | chunk | `chunk#07` | path, status, claim, transcription or error |
//! | transcript | `transcript` | the result as served |

use std::collections::BTreeSet;
use std::time::Duration;

use aws_sdk_dynamodb::types::AttributeValue;
use serde::{Deserialize, Serialize};

use super::codes::{self, Stored};
use super::{SearchPosition, StoreError};
use crate::domain::attempt::{Attempt, AttemptRecord, Holder, opaque_worker};
use crate::domain::clock::Timestamp;
use crate::domain::id::{ChunkIndex, JobId, UserId};
use crate::domain::idempotency::{Idempotency, KEPT};
use crate::domain::job::{
    Chunk, ChunkError, ChunkState, ChunkStatus, Job, JobHead, JobState, JobStatus, Metadata, NewJob,
    TranscribeOptions, Transcription, Verdict,
};
use crate::domain::path::AudioPath;
use crate::domain::transcript::{TranscriptResult, is_zero};
use crate::webhook::Callback;

pub(super) type Item = std::collections::HashMap<String, AttributeValue>;

pub(super) const JOB: &str = "job";
pub(super) const TRANSCRIPT: &str = "transcript";
pub(super) const CHUNK_PREFIX: &str = "chunk#";
pub(super) const BY_USER: &str = "userId-jobStatus";
pub(super) const OPEN_JOBS: &str = "openJobs";

/// Partitions of the index of open jobs, so that no one of them takes every new job's write. There may be more of them
/// one day, with jobs open and old workers running; fewer would leave jobs where no sweeper looks.
pub(super) const OPEN_SHARDS: u8 = 4;

/// The most JSON that a transcript's item may hold: 400 KB, less room for its keys. A longer text
/// is not kept twice; it is stitched from the chunks whenever it is read.
const MAX_INLINE_BYTES: usize = 390_000;

pub(super) fn text(value: impl Into<String>) -> AttributeValue {
    AttributeValue::S(value.into())
}

pub(super) fn number(value: impl Into<i128>) -> AttributeValue {
    AttributeValue::N(value.into().to_string())
}

pub(super) fn chunk_key(index: ChunkIndex) -> String {
    format!("{CHUNK_PREFIX}{:02}", index.get())
}

pub(super) fn key(job: JobId, item: impl Into<String>) -> Item {
    Item::from([("jobId".to_owned(), text(job.to_string())), ("item".to_owned(), text(item))])
}

/// Sorts a user's jobs by status, then by time, then by name.
pub(super) fn status_time(status: JobStatus, at: SearchPosition) -> String {
    format!("{status}#{}#{}", at.submitted, at.job)
}

pub(super) fn open_shard(job: JobId) -> String {
    (job.as_u128() % u128::from(OPEN_SHARDS)).to_string()
}

/// Where a user's recent jobs are listed, for reads that an index is too slow for.
pub(super) fn recent_partition(user: &UserId) -> String {
    format!("user#{user}")
}

pub(super) fn recent_key(submitted: Timestamp, job: Option<JobId>) -> String {
    job.map_or_else(|| format!("recent#{submitted}"), |job| format!("recent#{submitted}#{job}"))
}

/// A line of the list of a user's recent jobs.
pub(super) fn recent(job: &Job) -> Item {
    Item::from([
        ("jobId".to_owned(), text(recent_partition(&job.head.user))),
        ("item".to_owned(), text(recent_key(job.head.submitted, Some(job.head.id)))),
        ("ttl".to_owned(), number(job.head.submitted.plus(Duration::from_hours(1)).unix())),
    ])
}

/// Where the record of an idempotency key is.
pub(super) fn idempotency_key(user: &UserId, key: &str) -> Item {
    // The length keeps users and keys apart, whatever is in them.
    let partition = format!("idempotency#{}#{user}#{key}", user.as_str().len());
    Item::from([("jobId".to_owned(), text(partition)), ("item".to_owned(), text("idempotency"))])
}

/// The record of an idempotency key.
pub(super) fn idempotency(new: &NewJob, asked: &Idempotency) -> Item {
    let mut item = idempotency_key(&new.user, &asked.key.to_string());
    item.extend([
        ("madeJob".to_owned(), text(new.id.to_string())),
        ("digest".to_owned(), text(&asked.digest)),
        ("ttl".to_owned(), number(new.submitted.plus(KEPT).unix())),
    ]);
    item
}

/// Whether an item is gone for its readers. `DynamoDB` may take two days to remove it.
pub(super) fn is_expired(ttl: Option<i64>) -> bool {
    ttl.is_some_and(|ttl| ttl < Timestamp::now().unix())
}

pub(super) fn decode<'a, T: Deserialize<'a>>(item: Item) -> Result<T, StoreError> {
    serde_dynamo::from_item(item).map_err(|error| StoreError::Corrupt(error.to_string()))
}

pub(super) fn encode<T: Serialize>(value: T) -> Result<Item, StoreError> {
    serde_dynamo::to_item(value).map_err(|error| StoreError::Corrupt(error.to_string()))
}

/// What the index by user shows of a job; the rest of its item is in [`JobItem`].
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct HeadItem {
    job_id: JobId,
    user_id: UserId,
    job_status: JobStatus,
    submitted_time: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    completed_time: Option<Timestamp>,
    chunk_count: usize,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    retried_time: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Metadata::is_empty")]
    metadata: Metadata,
    /// Not in the index: it is as large as the rest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    callback: Option<Callback>,
    /// Not in the index: listings show no times.
    #[serde(default, skip_serializing_if = "is_zero")]
    start_offset: f64,
}

impl From<HeadItem> for JobHead {
    fn from(item: HeadItem) -> Self {
        let state = match (item.job_status, item.completed_time) {
            (JobStatus::InProgress, _) | (_, None) => JobState::Open,
            (status, Some(at)) => JobState::Ended { completely: status == JobStatus::Completed, at },
        };
        Self {
            id: item.job_id,
            user: item.user_id,
            submitted: item.submitted_time,
            metadata: item.metadata,
            chunk_count: item.chunk_count,
            retried: item.retried_time,
            callback: item.callback,
            start_offset: item.start_offset,
            state,
        }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct JobItem {
    #[serde(flatten)]
    head: HeadItem,
    #[serde(default)]
    options: TranscribeOptions,
    /// The key under which the client asked for it, so that erasing it erases that record too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) idempotency_key: Option<String>,
    /// Absent when empty: `DynamoDB` has no empty sets.
    #[serde(default, with = "serde_dynamo::number_set", skip_serializing_if = "BTreeSet::is_empty")]
    unsettled: BTreeSet<u8>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    check_from: Option<Timestamp>,
    /// Names the write that put the next check off last, so that one whose answer was lost is known again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) check_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) ttl: Option<i64>,
}

impl JobItem {
    /// When a job ends to be kept that is tried again now: as long after that as it was kept before.
    pub(super) fn ttl_after_retry(&self, now: Timestamp) -> Option<i64> {
        let since = self.head.retried_time.unwrap_or(self.head.submitted_time);
        self.ttl.map(|ttl| now.unix() + (ttl - since.unix()))
    }
}

impl TryFrom<JobItem> for Job {
    type Error = StoreError;

    fn try_from(item: JobItem) -> Result<Self, StoreError> {
        let index = |number: u8| {
            ChunkIndex::try_from(u64::from(number)).map_err(|error| StoreError::Corrupt(error.to_string()))
        };
        Ok(Self {
            head: item.head.into(),
            options: item.options,
            unsettled: item.unsettled.into_iter().map(index).collect::<Result<_, _>>()?,
            check_from: item.check_from,
        })
    }
}

/// A new job's item, with its places in both indexes.
pub(super) fn new_job(new: &NewJob, next_check: Timestamp, ttl: i64) -> Result<Item, StoreError> {
    let job = new.job();
    let head = &job.head;
    let mut item = encode(JobItem {
        head: HeadItem {
            job_id: head.id,
            user_id: head.user.clone(),
            job_status: JobStatus::InProgress,
            submitted_time: head.submitted,
            completed_time: None,
            chunk_count: head.chunk_count,
            retried_time: None,
            metadata: head.metadata.clone(),
            callback: head.callback.clone(),
            start_offset: head.start_offset,
        },
        options: job.options.clone(),
        idempotency_key: new.idempotency.as_ref().map(|asked| asked.key.to_string()),
        unsettled: job.unsettled.iter().map(|index| index.get()).collect(),
        check_from: None,
        check_id: None,
        ttl: Some(ttl),
    })?;
    let position = SearchPosition { submitted: head.submitted, job: head.id };
    item.extend([
        ("item".to_owned(), text(JOB)),
        ("jobStatusTime".to_owned(), text(status_time(JobStatus::InProgress, position))),
        ("openShard".to_owned(), text(open_shard(head.id))),
        ("nextCheckTime".to_owned(), text(next_check.to_string())),
    ]);
    Ok(item)
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ChunkItem {
    pub(super) job_id: JobId,
    item: String,
    chunk_status: ChunkStatus,
    path: AudioPath,
    attempt: u32,
    #[serde(default)]
    released: u32,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    history: Vec<Stored<AttemptRecord>>,
    /// Names the newest claim ([`claim_id`]), so that one whose answer was lost is known again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) claim_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    claimed_time: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    claimed_by: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    claimed_message: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    settled_time: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    transcription: Option<Transcription>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    error: Option<Stored<ChunkError>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) ttl: Option<i64>,
}

/// The chunks that are still kept.
pub(super) fn live_chunks(items: Vec<Item>) -> Result<Vec<Chunk>, StoreError> {
    let items = items.into_iter().map(decode::<ChunkItem>);
    let live =
        |item: &Result<ChunkItem, StoreError>| item.as_ref().map_or(true, |item| !is_expired(item.ttl));
    items.filter(live).map(|item| Chunk::try_from(item?)).collect()
}

pub(super) fn new_chunk(job: JobId, chunk: &Chunk, ttl: i64) -> Result<Item, StoreError> {
    encode(ChunkItem {
        job_id: job,
        item: chunk_key(chunk.index),
        chunk_status: ChunkStatus::Pending,
        path: chunk.path.clone(),
        attempt: 0,
        released: 0,
        history: vec![],
        claim_id: None,
        claimed_time: None,
        claimed_by: None,
        claimed_message: None,
        settled_time: None,
        transcription: None,
        error: None,
        ttl: Some(ttl),
    })
}

/// The attribute of a job's callback.
pub(super) fn callback(callback: &Callback) -> Result<AttributeValue, StoreError> {
    serde_dynamo::to_attribute_value(callback).map_err(|error| StoreError::Corrupt(error.to_string()))
}

/// A chunk's attempts, as they are kept.
pub(super) fn history(records: &[AttemptRecord]) -> Result<AttributeValue, StoreError> {
    let records: Vec<_> = records.iter().cloned().map(Stored).collect();
    serde_dynamo::to_attribute_value(records).map_err(|error| StoreError::Corrupt(error.to_string()))
}

/// A new name for a claim for a message of this generation. It begins with the generation, so that one comparison of
/// strings tells whether a claim was made for an earlier one. The names that 0.1.0 gives begin with a hexadecimal digit
/// and count as earlier than all.
pub(super) fn claim_id(generation: u32) -> String {
    format!("g{generation:010}-{}", uuid::Uuid::now_v7())
}

/// What is greater than the name of each claim that a message of this generation may take over as a later copy.
pub(super) fn claim_ids_before(generation: u32) -> String {
    // The highest generation follows itself.
    let end = u64::from(generation) + u64::from(generation == u32::MAX);
    format!("g{end:010}")
}

fn generation_of(claim_id: &str) -> u32 {
    let generation = claim_id.strip_prefix('g').and_then(|rest| rest.split_once('-'));
    generation.and_then(|(generation, _)| generation.parse().ok()).unwrap_or(0)
}

fn restored(history: Vec<Stored<AttemptRecord>>) -> Vec<AttemptRecord> {
    history.into_iter().map(|Stored(record)| record).collect()
}

impl ChunkItem {
    /// The newest claim.
    pub(super) fn attempt(self) -> Attempt {
        Attempt { number: self.attempt, history: restored(self.history) }
    }

    /// Whether this attempt is the newest claim and was given back.
    pub(super) fn was_released(&self, attempt: &Attempt) -> bool {
        self.chunk_status == ChunkStatus::Pending && self.attempt == attempt.number
    }

    pub(super) fn is_settled(&self) -> bool {
        matches!(self.chunk_status, ChunkStatus::Completed | ChunkStatus::Failed)
    }
}

impl TryFrom<ChunkItem> for Chunk {
    type Error = StoreError;

    fn try_from(item: ChunkItem) -> Result<Self, StoreError> {
        let corrupt =
            |what: &str| StoreError::Corrupt(format!("{} of job {}: {what}", item.item, item.job_id));
        let index = item
            .item
            .strip_prefix(CHUNK_PREFIX)
            .and_then(|number| number.parse().ok())
            .and_then(|number: u64| ChunkIndex::try_from(number).ok())
            .ok_or_else(|| corrupt("no chunk's key"))?;
        let settled = |verdict| {
            let at = item.settled_time.ok_or_else(|| corrupt("settled without a time"))?;
            Ok(ChunkState::Settled { at, verdict })
        };
        let state = match item.chunk_status {
            ChunkStatus::Pending => ChunkState::Pending,
            ChunkStatus::InProgress => ChunkState::InProgress {
                claimed: item.claimed_time.ok_or_else(|| corrupt("in progress without a time"))?,
                by: Holder {
                    origin: item.claimed_by.clone().unwrap_or_default(),
                    message: item.claimed_message.clone().unwrap_or_default(),
                    generation: item.claim_id.as_deref().map_or(0, generation_of),
                },
            },
            ChunkStatus::Completed => settled(Verdict::Completed(
                item.transcription.clone().ok_or_else(|| corrupt("completed without a transcription"))?,
            ))?,
            ChunkStatus::Failed => settled(Verdict::Failed(
                item.error.as_ref().ok_or_else(|| corrupt("failed without an error"))?.0.clone(),
            ))?,
        };
        Ok(Self {
            index,
            attempt: item.attempt,
            released: item.released,
            history: restored(item.history),
            last_claim: item.claimed_time,
            state,
            path: item.path,
        })
    }
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct TranscriptItem {
    pub(super) job_id: JobId,
    item: String,
    /// The result as JSON, as it is served.
    result: String,
    /// Whether the text did not fit, and is stitched from the chunks at each read.
    #[serde(default)]
    pub(super) text_in_chunks: bool,
    pub(super) ttl: i64,
}

impl TranscriptItem {
    pub(super) fn new(result: &TranscriptResult, ttl: i64) -> Result<Self, StoreError> {
        let json = |result: &TranscriptResult| {
            codes::to_json(result).map_err(|error| StoreError::Corrupt(error.to_string()))
        };
        let mut kept = json(result)?;
        let text_in_chunks = kept.len() > MAX_INLINE_BYTES;
        if text_in_chunks {
            kept = json(&TranscriptResult { transcription: None, ..result.clone() })?;
        }
        Ok(Self { job_id: result.job_id, item: TRANSCRIPT.to_owned(), result: kept, text_in_chunks, ttl })
    }

    pub(super) fn into_result(self) -> Result<TranscriptResult, StoreError> {
        let mut result = codes::from_json(&self.result)
            .map_err(|error| StoreError::Corrupt(format!("transcript of job {}: {error}", self.job_id)))?;
        // Version 0.1.0 wrote workers' host names.
        for record in result.chunks.iter_mut().flat_map(|chunk| &mut chunk.history) {
            record.worker = opaque_worker(&record.worker);
        }
        Ok(result)
    }
}
