//! The store in `DynamoDB`: one table. `item.rs` defines the items.

mod claims;
mod reads;
mod reports;
mod retries;
mod transactions;

use std::collections::BTreeSet;
use std::error::Error;
use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::config::http::HttpResponse;
use aws_sdk_dynamodb::error::{DisplayErrorContext, ProvideErrorMetadata, SdkError};
use aws_sdk_dynamodb::operation::get_item::builders::GetItemFluentBuilder;
use aws_sdk_dynamodb::operation::query::builders::QueryFluentBuilder;
use aws_sdk_dynamodb::operation::update_item::UpdateItemError;
use aws_sdk_dynamodb::operation::update_item::builders::UpdateItemFluentBuilder;
use aws_sdk_dynamodb::types::{AttributeValue, ReturnValue, ReturnValuesOnConditionCheckFailure};
use serde::de::DeserializeOwned;

use retries::{pause, pauses};

use super::codes::Stored;
use super::item::{
    self, ChunkItem, Item, JOB, JobItem, chunk_key, decode, encode, history, is_expired, key, number, text,
};
use super::{
    Claim, Created, Detail, DueJob, Finish, JobStore, RemoveUnsettled, Search, SearchPage, Settle, StoreError,
};
use crate::domain::attempt::{Attempt, Claimant};
use crate::domain::callback::Callback;
use crate::domain::clock::Timestamp;
use crate::domain::id::{ChunkIndex, ChunkRef, JobId, UserId};
use crate::domain::idempotency::Idempotency;
use crate::domain::job::{Chunk, ChunkStatus, Job, JobHead, NewJob, Verdict};
use crate::domain::transcript::TranscriptResult;
use crate::domain::worker_state::WorkerState;

/// The store in `DynamoDB`.
#[derive(Clone, Debug)]
pub struct DynamoStore {
    client: Client,
    table: String,
    retention: Duration,
}

impl DynamoStore {
    /// Items expire `retention` after their job was submitted. A retry of a job restarts the job's original period.
    pub fn new(client: Client, table: impl Into<String>, retention: Duration) -> Self {
        Self { client, table: table.into(), retention }
    }

    fn ttl(&self, submitted: Timestamp) -> i64 {
        submitted.plus(self.retention).unix()
    }

    fn update(&self, key: Item) -> UpdateItemFluentBuilder {
        self.client.update_item().table_name(&self.table).set_key(Some(key))
    }

    fn get(&self, key: Item) -> GetItemFluentBuilder {
        self.client.get_item().table_name(&self.table).set_key(Some(key)).consistent_read(true)
    }
}

/// The new item, or the existing one if it does not meet the condition (`None` if it does not exist). The request decides
/// whether the images are returned.
type Applied = Result<Item, Option<Item>>;

/// Sends a conditional update. It is tried again if a concurrent transaction holds the item.
async fn apply(update: UpdateItemFluentBuilder) -> Result<Applied, StoreError> {
    let mut pauses = pauses();
    loop {
        match update.clone().send().await.map_err(SdkError::into_service_error) {
            Ok(answer) => return Ok(Ok(answer.attributes.unwrap_or_default())),
            Err(UpdateItemError::ConditionalCheckFailedException(failed)) => return Ok(Err(failed.item)),
            Err(UpdateItemError::TransactionConflictException(_)) => {
                pause(&mut pauses, "another transaction held the item").await?;
            }
            Err(other) => return Err(failure(&other)),
        }
    }
}

async fn get<T: DeserializeOwned>(request: GetItemFluentBuilder) -> Result<Option<T>, StoreError> {
    request.send().await.map_err(unavailable)?.item.map(decode).transpose()
}

/// Reads all pages of a query for chunks.
async fn all_chunks(query: QueryFluentBuilder) -> Result<Vec<Chunk>, StoreError> {
    let items = query.into_paginator().items().send().collect::<Result<Vec<_>, _>>().await;
    item::live_chunks(items.map_err(unavailable)?)
}

#[expect(clippy::needless_pass_by_value, reason = "for `map_err`")]
fn unavailable<E: Error + ProvideErrorMetadata + Send + Sync + 'static>(
    error: SdkError<E, HttpResponse>,
) -> StoreError {
    failure(&error)
}

/// A rejected request is a bug; any other error may be temporary.
fn failure<E: Error + ProvideErrorMetadata + Send + Sync + 'static>(error: &E) -> StoreError {
    let text = DisplayErrorContext(error).to_string();
    if error.code() == Some("ValidationException") {
        StoreError::Corrupt(text)
    } else {
        StoreError::Unavailable(text)
    }
}

/// Adds an update expression that begins with `set`, ends with `rest`, and stores the attempt's history.
fn with_history(
    update: UpdateItemFluentBuilder,
    set: &str,
    rest: &str,
    attempt: &Attempt,
) -> Result<UpdateItemFluentBuilder, StoreError> {
    if attempt.history.is_empty() {
        return Ok(update.update_expression(format!("{set}{rest}")));
    }
    let update = update.expression_attribute_values(":history", history(&attempt.history)?);
    Ok(update.update_expression(format!("{set}, history = :history{rest}")))
}

#[async_trait]
impl JobStore for DynamoStore {
    async fn create(&self, new: &NewJob, next_check: Timestamp) -> Result<Created, StoreError> {
        self.create_job(new, next_check).await
    }

    async fn earlier(
        &self,
        user: &UserId,
        asked: &Idempotency,
        now: Timestamp,
    ) -> Result<Option<Created>, StoreError> {
        self.read_earlier(user, asked, now).await
    }

    async fn claim(
        &self,
        at: ChunkRef,
        by: Claimant<'_>,
        now: Timestamp,
        claim_timeout: Duration,
    ) -> Result<Claim, StoreError> {
        self.claim_chunk(at, by, now, claim_timeout).await
    }

    async fn release(&self, at: ChunkRef, attempt: &Attempt) -> Result<bool, StoreError> {
        let update = self
            .update(key(at.job, chunk_key(at.index)))
            .condition_expression("chunkStatus = :inProgress AND attempt = :attempt")
            .expression_attribute_values(":pending", text("PENDING"))
            .expression_attribute_values(":inProgress", text("IN_PROGRESS"))
            .expression_attribute_values(":attempt", number(attempt.number))
            .expression_attribute_values(":one", number(u32::from(!attempt.counts())))
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld);
        let update = with_history(update, "SET chunkStatus = :pending", " ADD released :one", attempt)?;
        match apply(update).await? {
            Ok(_) => Ok(true),
            Err(None) => Ok(false),
            // Released already if the SDK repeated the request after a lost response.
            Err(Some(existing)) => Ok(decode::<ChunkItem>(existing)?.was_released(attempt)),
        }
    }

    async fn is_claimed_by(&self, at: ChunkRef, attempt: &Attempt) -> Result<bool, StoreError> {
        Ok(self.read_claim(at).await?.is_some_and(|chunk| {
            chunk.chunk_status == ChunkStatus::InProgress && chunk.attempt == attempt.number
        }))
    }

    async fn note(&self, at: ChunkRef, attempt: &Attempt) -> Result<(), StoreError> {
        let update = self
            .update(key(at.job, chunk_key(at.index)))
            .condition_expression("chunkStatus = :inProgress AND attempt = :attempt")
            .expression_attribute_values(":inProgress", text("IN_PROGRESS"))
            .expression_attribute_values(":attempt", number(attempt.number))
            .expression_attribute_values(":history", history(&attempt.history)?)
            .update_expression("SET history = :history");
        apply(update).await.map(drop)
    }

    async fn settle(
        &self,
        at: ChunkRef,
        attempt: &Attempt,
        verdict: &Verdict,
        now: Timestamp,
    ) -> Result<Settle, StoreError> {
        let (status, name, value) = match verdict {
            Verdict::Completed(words) => ("COMPLETED", "transcription", AttributeValue::M(encode(words)?)),
            Verdict::Failed(error) => ("FAILED", "error", AttributeValue::M(encode(Stored(error))?)),
        };
        let mut condition = "attribute_exists(jobId) AND chunkStatus IN (:pending, :inProgress)".to_owned();
        let mut update = self
            .update(key(at.job, chunk_key(at.index)))
            .expression_attribute_names("#value", name)
            .expression_attribute_values(":status", text(status))
            .expression_attribute_values(":now", text(now.to_string()))
            .expression_attribute_values(":value", value)
            .expression_attribute_values(":pending", text("PENDING"))
            .expression_attribute_values(":inProgress", text("IN_PROGRESS"))
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld);
        if matches!(verdict, Verdict::Failed(_)) {
            condition.push_str(" AND attempt = :attempt");
            update = update.expression_attribute_values(":attempt", number(attempt.number));
        }
        let set = "SET chunkStatus = :status, settledTime = :now, #value = :value";
        let update = with_history(update.condition_expression(condition), set, "", attempt)?;
        Ok(match apply(update).await? {
            Ok(_) => Settle::Settled,
            Err(None) => Settle::Gone,
            Err(Some(existing)) => {
                let existing: ChunkItem = decode(existing)?;
                if existing.is_settled() { Settle::AlreadySettled } else { Settle::Superseded }
            }
        })
    }

    async fn remove_unsettled(
        &self,
        job: JobId,
        settled: &[ChunkIndex],
    ) -> Result<RemoveUnsettled, StoreError> {
        // DynamoDB rejects a set with duplicates.
        let settled: BTreeSet<String> = settled.iter().map(ToString::to_string).collect();
        let update = self
            .update(key(job, JOB))
            .update_expression("DELETE unsettled :settled")
            .condition_expression("attribute_exists(jobId)")
            .expression_attribute_values(":settled", AttributeValue::Ns(settled.into_iter().collect()))
            .return_values(ReturnValue::AllNew);
        match apply(update).await? {
            Ok(job) => Ok(RemoveUnsettled::of(&Job::try_from(decode::<JobItem>(job)?)?)),
            Err(_) => Ok(RemoveUnsettled::Gone),
        }
    }

    async fn finish(&self, head: &JobHead, result: &TranscriptResult) -> Result<Finish, StoreError> {
        self.finish_job(head, result).await
    }

    async fn reopen(
        &self,
        head: &JobHead,
        failed: &[ChunkIndex],
        now: Timestamp,
        next_check: Timestamp,
    ) -> Result<bool, StoreError> {
        self.reopen_job(head, failed, now, next_check).await
    }

    async fn note_callback(
        &self,
        id: JobId,
        ended: Timestamp,
        callback: &Callback,
    ) -> Result<bool, StoreError> {
        let mut update = self
            .update(key(id, JOB))
            .condition_expression("completedTime = :ended AND #callback.tries = :before")
            .expression_attribute_names("#callback", "callback")
            .expression_attribute_values(":callback", item::callback(callback)?)
            .expression_attribute_values(":ended", text(ended.to_string()))
            .expression_attribute_values(":before", number(callback.tries.saturating_sub(1)));
        update = match callback.next_check() {
            Some(next) => update
                .update_expression("SET #callback = :callback, nextCheckTime = :next")
                .expression_attribute_values(":next", text(next.to_string())),
            None => update.update_expression("SET #callback = :callback REMOVE openShard, nextCheckTime"),
        };
        Ok(apply(update).await?.is_ok())
    }

    async fn job(&self, id: JobId) -> Result<Option<Job>, StoreError> {
        self.read_job(id).await?.filter(|job| !is_expired(job.ttl)).map(Job::try_from).transpose()
    }

    async fn chunks(&self, id: JobId) -> Result<Vec<Chunk>, StoreError> {
        all_chunks(self.query_chunks(id)).await
    }

    async fn details(&self, heads: &[JobHead]) -> Result<Vec<Option<Detail>>, StoreError> {
        self.read_details(heads).await
    }

    async fn search(&self, search: &Search) -> Result<SearchPage, StoreError> {
        self.read_page(search).await
    }

    async fn due(&self, now: Timestamp, limit: usize) -> Result<Vec<DueJob>, StoreError> {
        self.read_due(now, limit).await
    }

    async fn postpone(
        &self,
        due: &DueJob,
        next_check: Timestamp,
        check_from: Option<Timestamp>,
    ) -> Result<bool, StoreError> {
        let check_id = uuid::Uuid::now_v7().to_string();
        let note = match check_from {
            Some(_) => ", checkFrom = :from",
            None => " REMOVE checkFrom",
        };
        let mut update = self
            .update(key(due.job, JOB))
            .update_expression(format!("SET nextCheckTime = :next, checkId = :id{note}"))
            // Any shard: an earlier version may have chosen from fewer.
            .condition_expression("attribute_exists(openShard) AND nextCheckTime = :seen")
            .expression_attribute_values(":seen", text(due.next_check.to_string()))
            .expression_attribute_values(":next", text(next_check.to_string()))
            .expression_attribute_values(":id", text(&check_id))
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld);
        if let Some(from) = check_from {
            update = update.expression_attribute_values(":from", text(from.to_string()));
        }
        Ok(match apply(update).await? {
            Ok(_) => true,
            // Postponed already if the SDK repeated the request after a lost response.
            Err(existing) => existing.is_some_and(|item| item.get("checkId") == Some(&text(&check_id))),
        })
    }

    async fn erase(&self, id: JobId) -> Result<bool, StoreError> {
        self.erase_job(id).await
    }

    async fn report(&self, state: &WorkerState) -> Result<(), StoreError> {
        self.write_report(state).await
    }

    async fn reports(&self, now: Timestamp) -> Result<Vec<WorkerState>, StoreError> {
        self.read_reports(now).await
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.get(key(JobId::random(), JOB)).send().await.map(drop).map_err(unavailable)
    }
}
