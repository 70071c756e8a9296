//! The store in `DynamoDB`: one table, its calls counted. How items look is in `item.rs`.

use std::collections::HashMap;
use std::error::Error;
use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::config::http::HttpResponse;
use aws_sdk_dynamodb::error::{DisplayErrorContext, ProvideErrorMetadata, SdkError};
use aws_sdk_dynamodb::operation::transact_write_items::TransactWriteItemsError;
use aws_sdk_dynamodb::operation::update_item::UpdateItemError;
use aws_sdk_dynamodb::types::{
    AttributeValue, KeysAndAttributes, Put, ReturnValue, ReturnValuesOnConditionCheckFailure,
    TransactWriteItem, Update,
};
use futures::future::try_join_all;
use rand::RngExt;
use tracing::warn;

use super::item::{
    self, BY_USER, CHUNK_PREFIX, ChunkItem, HeadItem, Item, JOB, JobItem, OPEN_JOBS, OPEN_SHARDS, TRANSCRIPT,
    TranscriptItem, chunk_key, decode, encode, key, number, open_shard, status_time, text,
};
use super::{
    Claim, Detail, DueJob, Finish, JobStore, Search, SearchPage, SearchPosition, Settle, StoreError, Strike,
};
use crate::clock::Timestamp;
use crate::id::{ChunkIndex, ChunkRef, JobId};
use crate::job::{Chunk, Job, JobHead, JobState, JobStatus, NewJob, Verdict};
use crate::transcript::TranscriptResult;

/// `DynamoDB`: the most keys of one `BatchGetItem`.
const MAX_KEYS: usize = 100;

/// How often a step is tried that another transaction on the same item was in the way of, or that
/// left some of a batch undone.
const TRIES: u32 = 6;

/// The store in `DynamoDB`.
#[derive(Clone)]
pub struct DynamoStore {
    client: Client,
    table: String,
    retention: Duration,
}

impl fmt::Debug for DynamoStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DynamoStore").field("table", &self.table).finish_non_exhaustive()
    }
}

impl DynamoStore {
    /// The store in `table`, whose items live for `retention` after the job was submitted.
    pub fn new(client: Client, table: impl Into<String>, retention: Duration) -> Self {
        Self { client, table: table.into(), retention }
    }

    fn ttl(&self, submitted: Timestamp) -> i64 {
        submitted.plus(self.retention).unix()
    }

    fn update(
        &self,
        key: Item,
    ) -> aws_sdk_dynamodb::operation::update_item::builders::UpdateItemFluentBuilder {
        self.client.update_item().table_name(&self.table).set_key(Some(key))
    }

    /// What stood in the way of a conditional update.
    fn refused(error: SdkError<UpdateItemError, HttpResponse>) -> Result<Option<Item>, StoreError> {
        match error.into_service_error() {
            UpdateItemError::ConditionalCheckFailedException(failed) => Ok(failed.item),
            other => Err(failure(&other)),
        }
    }

    async fn batch_get(&self, keys: Vec<Item>) -> Result<Vec<Item>, StoreError> {
        let mut items = Vec::with_capacity(keys.len());
        for batch in keys.chunks(MAX_KEYS) {
            let mut wanted = batch.to_vec();
            let mut turn = 0;
            while !wanted.is_empty() {
                let request = KeysAndAttributes::builder()
                    .set_keys(Some(wanted))
                    .consistent_read(true)
                    .build()
                    .map_err(|error| StoreError::Corrupt(error.to_string()))?;
                let answer = self
                    .client
                    .batch_get_item()
                    .request_items(&self.table, request)
                    .send()
                    .await
                    .map_err(unavailable)?;
                items.extend(answer.responses.unwrap_or_default().remove(&self.table).unwrap_or_default());
                wanted = answer
                    .unprocessed_keys
                    .unwrap_or_default()
                    .remove(&self.table)
                    .map(|left| left.keys)
                    .unwrap_or_default();
                if !wanted.is_empty() {
                    turn += 1;
                    patience(turn, "BatchGetItem left keys unread").await?;
                }
            }
        }
        Ok(items)
    }

    async fn due_of_shard(&self, shard: u8, now: &str, limit: i32) -> Result<Vec<DueJob>, StoreError> {
        let answer = self
            .client
            .query()
            .table_name(&self.table)
            .index_name(OPEN_JOBS)
            .key_condition_expression("openShard = :shard AND nextCheckTime <= :now")
            .expression_attribute_values(":shard", text(shard.to_string()))
            .expression_attribute_values(":now", text(now))
            .limit(limit)
            .send()
            .await
            .map_err(unavailable)?;
        let due = |item: Item| {
            #[derive(serde::Deserialize)]
            #[serde(rename_all = "camelCase")]
            struct Due {
                job_id: JobId,
                next_check_time: Timestamp,
            }
            decode(item)
                .map(|Due { job_id, next_check_time }| DueJob { job: job_id, next_check: next_check_time })
        };
        // One item that cannot be read must not keep the sweeper from the others.
        let log = |due: &Result<DueJob, StoreError>| {
            due.as_ref().inspect_err(|error| warn!(%error, "passed over")).is_ok()
        };
        answer.items.unwrap_or_default().into_iter().map(due).filter(log).collect()
    }
}

#[expect(clippy::needless_pass_by_value, reason = "it is what `map_err` hands over")]
fn unavailable<E: Error + ProvideErrorMetadata + Send + Sync + 'static>(
    error: SdkError<E, HttpResponse>,
) -> StoreError {
    failure(&error)
}

/// What was refused for what it is will be refused again; all else may go better later.
fn failure<E: Error + ProvideErrorMetadata + Send + Sync + 'static>(error: &E) -> StoreError {
    let text = DisplayErrorContext(error).to_string();
    if error.code() == Some("ValidationException") {
        StoreError::Corrupt(text)
    } else {
        StoreError::Unavailable(text)
    }
}

/// Waits before the `turn`-th repetition (from 1): 20 ms doubled each turn, half of it at random.
async fn patience(turn: u32, why: &str) -> Result<(), StoreError> {
    if turn >= TRIES {
        return Err(StoreError::Unavailable(format!("{why}, {turn} times")));
    }
    let longest = 20 * (1 << turn);
    let wait = rand::rng().random_range(longest / 2..=longest);
    tokio::time::sleep(Duration::from_millis(wait)).await;
    Ok(())
}

#[async_trait]
impl JobStore for DynamoStore {
    async fn create(&self, new: &NewJob, next_check: Timestamp) -> Result<(), StoreError> {
        let ttl = self.ttl(new.submitted);
        let put = |item: Item, condition: Option<&str>| {
            let put = Put::builder()
                .table_name(&self.table)
                .set_item(Some(item))
                .set_condition_expression(condition.map(str::to_owned))
                .build()
                .map_err(|error| StoreError::Corrupt(error.to_string()))?;
            Ok(TransactWriteItem::builder().put(put).build())
        };
        let mut writes =
            vec![put(item::new_job(&new.job(), next_check, ttl)?, Some("attribute_not_exists(jobId)"))?];
        for chunk in new.chunks() {
            writes.push(put(item::new_chunk(new.id, &chunk, ttl)?, None)?);
        }
        let answer = self
            .client
            .transact_write_items()
            .set_transact_items(Some(writes))
            .client_request_token(new.id.to_string())
            .send()
            .await;
        match answer {
            Ok(_) => Ok(()),
            Err(error) if cancelled_by(&error, "ConditionalCheckFailed") => Ok(()),
            Err(error) => Err(unavailable(error)),
        }
    }

    async fn claim(
        &self,
        at: ChunkRef,
        by: &str,
        now: Timestamp,
        silence: Duration,
    ) -> Result<Claim, StoreError> {
        let claim_id = uuid::Uuid::now_v7().to_string();
        let answer = self
            .update(key(at.job, chunk_key(at.index)))
            .update_expression(
                "SET chunkStatus = :inProgress, claimedTime = :now, claimedBy = :by, claimId = :claimId \
                 ADD attempt :one",
            )
            .condition_expression(
                "attribute_exists(jobId) AND (chunkStatus = :pending \
                 OR (chunkStatus = :inProgress AND ((claimedBy = :by AND claimId <> :claimId) OR claimedTime <= :silent)))",
            )
            .expression_attribute_values(":pending", text("PENDING"))
            .expression_attribute_values(":inProgress", text("IN_PROGRESS"))
            .expression_attribute_values(":now", text(now.to_string()))
            .expression_attribute_values(":by", text(by))
            .expression_attribute_values(":silent", text(now.minus(silence).to_string()))
            .expression_attribute_values(":claimId", text(&claim_id))
            .expression_attribute_values(":one", number(1))
            .return_values(ReturnValue::UpdatedNew)
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld)
            .send()
            .await;
        let error = match answer {
            Ok(answer) => {
                let attempt = answer.attributes().and_then(|item| item.get("attempt"));
                return attempt
                    .and_then(|value| value.as_n().ok()?.parse().ok())
                    .map(|attempt| Claim::Claimed { attempt })
                    .ok_or_else(|| StoreError::Corrupt(format!("no attempt in the answer for {at}")));
            }
            Err(error) => error,
        };
        let Some(standing) = Self::refused(error)? else {
            return Ok(Claim::Gone);
        };
        let standing: ChunkItem = decode(standing)?;
        if standing.is_settled() {
            return Ok(Claim::Settled);
        }
        // The SDK tried again after the answer to the first try was lost.
        if standing.claim_id.as_deref() == Some(&claim_id) {
            return Ok(Claim::Claimed { attempt: standing.attempt });
        }
        Ok(Claim::Busy)
    }

    async fn release(&self, at: ChunkRef, attempt: u32) -> Result<(), StoreError> {
        let answer = self
            .update(key(at.job, chunk_key(at.index)))
            .update_expression("SET chunkStatus = :pending ADD released :one")
            .condition_expression("chunkStatus = :inProgress AND attempt = :attempt")
            .expression_attribute_values(":pending", text("PENDING"))
            .expression_attribute_values(":inProgress", text("IN_PROGRESS"))
            .expression_attribute_values(":attempt", number(u64::from(attempt)))
            .expression_attribute_values(":one", number(1))
            .send()
            .await;
        match answer {
            Ok(_) => Ok(()),
            Err(error) => Self::refused(error).map(|_| ()),
        }
    }

    async fn settle(
        &self,
        at: ChunkRef,
        attempt: u32,
        verdict: &Verdict,
        now: Timestamp,
    ) -> Result<Settle, StoreError> {
        let (status, name, value) = match verdict {
            Verdict::Completed(words) => ("COMPLETED", "transcription", AttributeValue::M(encode(words)?)),
            Verdict::Failed(error) => ("FAILED", "error", AttributeValue::M(encode(error)?)),
        };
        let mut condition = "attribute_exists(jobId) AND chunkStatus IN (:pending, :inProgress)".to_owned();
        let mut update = self
            .update(key(at.job, chunk_key(at.index)))
            .update_expression("SET chunkStatus = :status, settledTime = :now, #value = :value")
            .expression_attribute_names("#value", name)
            .expression_attribute_values(":status", text(status))
            .expression_attribute_values(":now", text(now.to_string()))
            .expression_attribute_values(":value", value)
            .expression_attribute_values(":pending", text("PENDING"))
            .expression_attribute_values(":inProgress", text("IN_PROGRESS"))
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld);
        if matches!(verdict, Verdict::Failed(_)) {
            condition.push_str(" AND attempt = :attempt");
            update = update.expression_attribute_values(":attempt", number(u64::from(attempt)));
        }
        let Err(error) = update.condition_expression(condition).send().await else {
            return Ok(Settle::Settled);
        };
        let Some(standing) = Self::refused(error)? else {
            return Ok(Settle::Gone);
        };
        let standing: ChunkItem = decode(standing)?;
        Ok(if standing.is_settled() { Settle::AlreadySettled } else { Settle::Superseded })
    }

    async fn strike(&self, at: ChunkRef) -> Result<Strike, StoreError> {
        let index = AttributeValue::Ns(vec![at.index.to_string()]);
        let mut turn = 0;
        let image = loop {
            let answer = self
                .update(key(at.job, JOB))
                .update_expression("DELETE unsettled :index")
                .condition_expression("attribute_exists(jobId)")
                .expression_attribute_values(":index", index.clone())
                .return_values(ReturnValue::AllNew)
                .send()
                .await;
            match answer {
                Ok(answer) => break answer.attributes.unwrap_or_default(),
                Err(error) if error.code() == Some("TransactionConflictException") => {
                    turn += 1;
                    patience(turn, "another transaction held the job").await?;
                }
                Err(error) => return Self::refused(error).map(|_| Strike::Gone),
            }
        };
        let job = Job::try_from(decode::<JobItem>(image)?)?;
        Ok(match (job.head.state, job.unsettled.is_empty()) {
            (JobState::Ended { .. }, _) => Strike::Ended,
            (JobState::Open, true) => Strike::AllSettled(Box::new(job.head)),
            (JobState::Open, false) => Strike::Remaining,
        })
    }

    async fn finish(&self, result: &TranscriptResult) -> Result<Finish, StoreError> {
        let Some(completed) = result.completed_time else {
            return Ok(Finish::NotOpen);
        };
        let wrong = |error: aws_sdk_dynamodb::error::BuildError| StoreError::Corrupt(error.to_string());
        let item = encode(TranscriptItem::new(result, self.ttl(result.submitted_time))?)?;
        let put = Put::builder().table_name(&self.table).set_item(Some(item)).build().map_err(wrong)?;
        let position = SearchPosition { submitted: result.submitted_time, job: result.job_id };
        let end = Update::builder()
            .table_name(&self.table)
            .set_key(Some(key(result.job_id, JOB)))
            .update_expression(
                "SET jobStatus = :status, jobStatusTime = :statusTime, completedTime = :completed \
                 REMOVE openShard, nextCheckTime",
            )
            .condition_expression("attribute_exists(jobId) AND jobStatus = :open")
            .expression_attribute_values(":status", text(result.job_status.as_str()))
            .expression_attribute_values(":statusTime", text(status_time(result.job_status, position)))
            .expression_attribute_values(":completed", text(completed.to_string()))
            .expression_attribute_values(":open", text(JobStatus::InProgress.as_str()))
            .build()
            .map_err(wrong)?;
        let mut turn = 0;
        loop {
            let answer = self
                .client
                .transact_write_items()
                .transact_items(TransactWriteItem::builder().put(put.clone()).build())
                .transact_items(TransactWriteItem::builder().update(end.clone()).build())
                .send()
                .await;
            match answer {
                Ok(_) => return Ok(Finish::Finished),
                Err(error) if cancelled_by(&error, "ConditionalCheckFailed") => return Ok(Finish::NotOpen),
                Err(error) if cancelled_by(&error, "TransactionConflict") => {
                    turn += 1;
                    patience(turn, "another transaction held the job").await?;
                }
                Err(error) => return Err(unavailable(error)),
            }
        }
    }

    async fn job(&self, id: JobId) -> Result<Option<Job>, StoreError> {
        let answer = self
            .client
            .get_item()
            .table_name(&self.table)
            .set_key(Some(key(id, JOB)))
            .consistent_read(true)
            .send()
            .await
            .map_err(unavailable)?;
        answer.item.map(|item| Job::try_from(decode::<JobItem>(item)?)).transpose()
    }

    async fn chunks(&self, id: JobId) -> Result<Vec<Chunk>, StoreError> {
        let pages = self
            .client
            .query()
            .table_name(&self.table)
            .key_condition_expression("jobId = :job AND begins_with(#item, :chunk)")
            .expression_attribute_names("#item", "item")
            .expression_attribute_values(":job", text(id.to_string()))
            .expression_attribute_values(":chunk", text(CHUNK_PREFIX))
            .consistent_read(true)
            .into_paginator()
            .items()
            .send()
            .collect::<Result<Vec<_>, _>>()
            .await
            .map_err(unavailable)?;
        pages.into_iter().map(|item| Chunk::try_from(decode::<ChunkItem>(item)?)).collect()
    }

    async fn details(&self, heads: &[JobHead]) -> Result<Vec<Option<Detail>>, StoreError> {
        let keys = heads.iter().flat_map(|head| match head.state {
            JobState::Ended { .. } => vec![key(head.id, TRANSCRIPT)],
            JobState::Open => {
                ChunkIndex::first(head.chunk_count).map(|index| key(head.id, chunk_key(index))).collect()
            }
        });
        let mut transcripts: HashMap<JobId, TranscriptItem> = HashMap::new();
        let mut chunks: HashMap<JobId, Vec<Chunk>> = HashMap::new();
        for item in self.batch_get(keys.collect()).await? {
            if item.get("item").and_then(|value| value.as_s().ok()).is_some_and(|name| name == TRANSCRIPT) {
                let transcript: TranscriptItem = decode(item)?;
                transcripts.insert(transcript.job_id, transcript);
            } else {
                let chunk: ChunkItem = decode(item)?;
                chunks.entry(chunk.job_id).or_default().push(chunk.try_into()?);
            }
        }
        let mut details = Vec::with_capacity(heads.len());
        for head in heads {
            if let Some(transcript) = transcripts.remove(&head.id) {
                let from_chunks = transcript.text_in_chunks;
                let mut result = transcript.into_result()?;
                if from_chunks {
                    result.transcription = crate::stitch::stitch(&self.chunks(head.id).await?);
                }
                details.push(Some(Detail::Ended(Box::new(result))));
            } else {
                details.push(chunks.remove(&head.id).map(|mut chunks| {
                    chunks.sort_by_key(|chunk| chunk.index);
                    Detail::Chunks(chunks)
                }));
            }
        }
        Ok(details)
    }

    async fn search(&self, search: &Search) -> Result<SearchPage, StoreError> {
        let start = search.after.map(|position| {
            let mut start = key(position.job, JOB);
            start.insert("userId".to_owned(), text(search.user.as_str()));
            start.insert("jobStatusTime".to_owned(), text(status_time(search.status, position)));
            start
        });
        let answer = self
            .client
            .query()
            .table_name(&self.table)
            .index_name(BY_USER)
            .key_condition_expression("userId = :user AND begins_with(jobStatusTime, :status)")
            .expression_attribute_values(":user", text(search.user.as_str()))
            .expression_attribute_values(":status", text(format!("{}#", search.status)))
            .scan_index_forward(false)
            // One more than asked for tells whether there is a next page.
            .limit(i32::try_from(search.limit).unwrap_or(i32::MAX - 1) + 1)
            .set_exclusive_start_key(start)
            .send()
            .await
            .map_err(unavailable)?;
        let mut jobs: Vec<JobHead> = answer
            .items
            .unwrap_or_default()
            .into_iter()
            .map(|item| decode::<HeadItem>(item).map(JobHead::from))
            .collect::<Result<_, _>>()?;
        let more = jobs.len() > search.limit || answer.last_evaluated_key.is_some();
        jobs.truncate(search.limit);
        let next = jobs
            .last()
            .filter(|_| more)
            .map(|head| SearchPosition { submitted: head.submitted, job: head.id });
        Ok(SearchPage { jobs, next })
    }

    async fn due(&self, now: Timestamp, limit: usize) -> Result<Vec<DueJob>, StoreError> {
        let now = now.to_string();
        let limit_each = i32::try_from(limit).unwrap_or(i32::MAX);
        let shards = (0..OPEN_SHARDS).map(|shard| self.due_of_shard(shard, &now, limit_each));
        let mut due = try_join_all(shards).await?.concat();
        due.sort_by_key(|due| due.next_check);
        due.truncate(limit);
        Ok(due)
    }

    async fn postpone(&self, due: &DueJob, next_check: Timestamp) -> Result<bool, StoreError> {
        let answer = self
            .update(key(due.job, JOB))
            .update_expression("SET nextCheckTime = :next")
            .condition_expression("openShard = :shard AND nextCheckTime = :seen")
            .expression_attribute_values(":shard", text(open_shard(due.job)))
            .expression_attribute_values(":seen", text(due.next_check.to_string()))
            .expression_attribute_values(":next", text(next_check.to_string()))
            .send()
            .await;
        match answer {
            Ok(_) => Ok(true),
            Err(error) => Self::refused(error).map(|_| false),
        }
    }

    async fn ping(&self) -> Result<(), StoreError> {
        let nothing = self.client.get_item().table_name(&self.table).set_key(Some(key(JobId::random(), JOB)));
        nothing.send().await.map(|_| ()).map_err(unavailable)
    }
}

/// Whether a transaction was called off, with this reason among those given.
fn cancelled_by(error: &SdkError<TransactWriteItemsError, HttpResponse>, reason: &str) -> bool {
    let Some(TransactWriteItemsError::TransactionCanceledException(cancelled)) = error.as_service_error()
    else {
        return false;
    };
    cancelled.cancellation_reasons().iter().any(|given| given.code() == Some(reason))
}
