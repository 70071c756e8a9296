//! The items of the table, and their conversion to and from the domain's types.
//!
//! | item | `item` key | holds |
//! |---|---|---|
//! | job | `job` | status, times, options, the unsettled set, both indexes' keys |
//! | chunk | `chunk#07` | path, status, claim, transcription or error |
//! | transcript | `transcript` | the result as served |
//! | recent | `recent#time#job`, under `user#id` | nothing more: it marks a new job for searches |
//! | key | `idempotency`, under `idempotency#..` | the job of an idempotency key, a digest of its request |
//!
//! `dynamo/reports.rs` has the workers' reports.

mod chunk;

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use aws_sdk_dynamodb::types::AttributeValue;
use serde::{Deserialize, Serialize};

pub(super) use chunk::{ChunkItem, claim_id, claim_ids_before, history, live_chunks, new_chunk};

use super::{Created, SearchPosition, StoreError, codes};
use crate::domain::attempt::opaque_worker;
use crate::domain::callback::Callback;
use crate::domain::clock::Timestamp;
use crate::domain::id::{ChunkIndex, JobId, UserId};
use crate::domain::idempotency::{Idempotency, KEPT};
use crate::domain::job::{Job, JobHead, JobState, JobStatus, Metadata, NewJob, TranscribeOptions};
use crate::domain::transcript::{TranscriptResult, is_zero};

pub(super) type Item = std::collections::HashMap<String, AttributeValue>;

pub(super) const JOB: &str = "job";
pub(super) const TRANSCRIPT: &str = "transcript";
pub(super) const CHUNK_PREFIX: &str = "chunk#";
pub(super) const BY_USER: &str = "userId-jobStatus";
pub(super) const OPEN_JOBS: &str = "openJobs";

/// The number of partitions of the index of open jobs, which share the writes of new jobs. It may grow, but not shrink:
/// sweepers would miss the jobs in the partitions that are gone.
pub(super) const OPEN_SHARDS: u8 = 4;

/// The maximum size of a transcript's JSON in its item: 400 KB, less room for the keys. A longer text is not stored
/// again, but stitched from the chunks by each read.
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
    key_in(job.to_string(), item)
}

fn key_in(partition: String, item: impl Into<String>) -> Item {
    Item::from([("jobId".to_owned(), text(partition)), ("item".to_owned(), text(item))])
}

/// Sorts a user's jobs by status, then by time, then by name.
pub(super) fn status_time(status: JobStatus, at: SearchPosition) -> String {
    format!("{status}#{}#{}", at.submitted, at.job)
}

pub(super) fn open_shard(job: JobId) -> String {
    (job.as_u128() % u128::from(OPEN_SHARDS)).to_string()
}

/// The partition that lists a user's recent jobs, since an index is only eventually consistent.
pub(super) fn recent_partition(user: &UserId) -> String {
    format!("user#{user}")
}

pub(super) fn recent_key(submitted: Timestamp, job: Option<JobId>) -> String {
    job.map_or_else(|| format!("recent#{submitted}"), |job| format!("recent#{submitted}#{job}"))
}

/// An entry of the list of a user's recent jobs.
pub(super) fn recent(job: &Job) -> Item {
    let JobHead { id, user, submitted, .. } = &job.head;
    let mut item = key_in(recent_partition(user), recent_key(*submitted, Some(*id)));
    item.insert("ttl".to_owned(), number(submitted.plus(Duration::from_hours(1)).unix()));
    item
}

/// The record of an idempotency key.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct IdempotencyItem {
    pub(super) made_job: JobId,
    digest: String,
    pub(super) ttl: i64,
}

impl IdempotencyItem {
    /// The answer to a later request with the same key.
    pub(super) fn answer(&self, asked: &Idempotency) -> Created {
        if self.digest == asked.digest { Created::Replayed(self.made_job) } else { Created::Mismatch }
    }
}

pub(super) fn idempotency_key(user: &UserId, key: &str) -> Item {
    // The length separates user and key, whatever they contain.
    key_in(format!("idempotency#{}#{user}#{key}", user.as_str().len()), "idempotency")
}

pub(super) fn idempotency(new: &NewJob, asked: &Idempotency) -> Result<Item, StoreError> {
    let ttl = new.submitted.plus(KEPT).unix();
    let mut item = encode(IdempotencyItem { made_job: new.id, digest: asked.digest.clone(), ttl })?;
    item.extend(idempotency_key(&new.user, &asked.key.to_string()));
    Ok(item)
}

/// Whether an item has expired. `DynamoDB` may take two days to remove it.
pub(super) fn is_expired(ttl: Option<i64>) -> bool {
    ttl.is_some_and(|ttl| ttl < Timestamp::now().unix())
}

pub(super) fn corrupt(error: impl fmt::Display) -> StoreError {
    StoreError::Corrupt(error.to_string())
}

pub(super) fn decode<'a, T: Deserialize<'a>>(item: Item) -> Result<T, StoreError> {
    serde_dynamo::from_item(item).map_err(corrupt)
}

pub(super) fn encode<T: Serialize>(value: T) -> Result<Item, StoreError> {
    serde_dynamo::to_item(value).map_err(corrupt)
}

/// The attributes of a job's head. The index by user contains them, except the last retry, the callback and the offset.
/// [`JobItem`] has the others.
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
    /// Not in the index, since it is as large as all others together.
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
    /// The client's idempotency key, whose record is erased with the job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) idempotency_key: Option<String>,
    /// Absent when empty: `DynamoDB` has no empty sets.
    #[serde(default, with = "serde_dynamo::number_set", skip_serializing_if = "BTreeSet::is_empty")]
    unsettled: BTreeSet<u8>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    check_from: Option<Timestamp>,
    /// Identifies the last write that postponed the next check, in case its response was lost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) check_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) ttl: Option<i64>,
}

impl JobItem {
    /// When a job that is retried now expires: its original period starts again.
    pub(super) fn ttl_after_retry(&self, now: Timestamp) -> Option<i64> {
        let since = self.head.retried_time.unwrap_or(self.head.submitted_time);
        self.ttl.map(|ttl| now.unix() + (ttl - since.unix()))
    }
}

impl TryFrom<JobItem> for Job {
    type Error = StoreError;

    fn try_from(item: JobItem) -> Result<Self, StoreError> {
        let index = |number: u8| ChunkIndex::try_from(u64::from(number)).map_err(corrupt);
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
    item.extend([
        ("item".to_owned(), text(JOB)),
        ("jobStatusTime".to_owned(), text(status_time(JobStatus::InProgress, SearchPosition::of(head)))),
        ("openShard".to_owned(), text(open_shard(head.id))),
        ("nextCheckTime".to_owned(), text(next_check.to_string())),
    ]);
    Ok(item)
}

/// The attribute of a job's callback.
pub(super) fn callback(callback: &Callback) -> Result<AttributeValue, StoreError> {
    serde_dynamo::to_attribute_value(callback).map_err(corrupt)
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct TranscriptItem {
    pub(super) job_id: JobId,
    item: String,
    /// The result's JSON.
    result: String,
    /// Whether the text did not fit, so that each read stitches it from the chunks.
    #[serde(default)]
    pub(super) text_in_chunks: bool,
    pub(super) ttl: i64,
}

impl TranscriptItem {
    pub(super) fn new(result: &TranscriptResult, ttl: i64) -> Result<Self, StoreError> {
        let json = |result: &TranscriptResult| codes::to_json(result).map_err(corrupt);
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
