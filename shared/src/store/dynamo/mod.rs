//! The store in `DynamoDB`: one table, its calls counted. How items look is in `item.rs`.

mod reads;
mod transactions;

use std::error::Error;
use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::config::http::HttpResponse;
use aws_sdk_dynamodb::error::{DisplayErrorContext, ProvideErrorMetadata, SdkError};
use aws_sdk_dynamodb::operation::update_item::UpdateItemError;
use aws_sdk_dynamodb::operation::update_item::builders::UpdateItemFluentBuilder;
use aws_sdk_dynamodb::types::{AttributeValue, ReturnValue, ReturnValuesOnConditionCheckFailure};
use rand::RngExt;

use super::codes::Stored;
use super::item::{
    self, ChunkItem, Item, JOB, JobItem, chunk_key, decode, encode, history, is_expired, key, number, text,
};
use super::{
    Claim, Created, Detail, DueJob, Finish, JobStore, RemoveUnsettled, Search, SearchPage, Settle, StoreError,
};
use crate::domain::attempt::{Attempt, AttemptRecord, Claimant};
use crate::domain::clock::Timestamp;
use crate::domain::id::{ChunkIndex, ChunkRef, JobId, UserId};
use crate::domain::idempotency::Idempotency;
use crate::domain::job::{Chunk, ChunkStatus, Job, JobHead, JobState, NewJob, Verdict};
use crate::domain::transcript::TranscriptResult;
use crate::webhook::Callback;

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
    /// The store in `table`, whose items live for `retention` after the job was submitted. One that is tried again is
    /// kept as long again, whatever `retention` is.
    pub fn new(client: Client, table: impl Into<String>, retention: Duration) -> Self {
        Self { client, table: table.into(), retention }
    }

    fn ttl(&self, submitted: Timestamp) -> i64 {
        submitted.plus(self.retention).unix()
    }

    fn update(&self, key: Item) -> UpdateItemFluentBuilder {
        self.client.update_item().table_name(&self.table).set_key(Some(key))
    }

    /// What stood in the way of a conditional update.
    fn refused(error: SdkError<UpdateItemError, HttpResponse>) -> Result<Option<Item>, StoreError> {
        match error.into_service_error() {
            UpdateItemError::ConditionalCheckFailedException(failed) => Ok(failed.item),
            other => Err(failure(&other)),
        }
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

/// Waits before the `turn`-th retry (from 1): 20 ms, doubled with each turn, with a jitter of one half.
async fn back_off(turn: u32, why: &str) -> Result<(), StoreError> {
    if turn >= TRIES {
        return Err(StoreError::Unavailable(format!("{why}, {turn} times")));
    }
    let longest = 20 * (1 << turn);
    let wait = rand::rng().random_range(longest / 2..=longest);
    tokio::time::sleep(Duration::from_millis(wait)).await;
    Ok(())
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
        self.create_all(new, next_check).await
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
        // A conditional write costs by the size of the item, even one whose condition fails, and a settled chunk holds
        // its text. A read costs a fraction of it.
        match self.read_status(at).await? {
            None => return Ok(Claim::Gone),
            Some(ChunkStatus::Completed | ChunkStatus::Failed) => return Ok(Claim::Settled),
            Some(ChunkStatus::Pending | ChunkStatus::InProgress) => {}
        }
        let claim_id = item::claim_id(by.generation);
        let answer = self
            .update(key(at.job, chunk_key(at.index)))
            .update_expression(
                "SET chunkStatus = :inProgress, claimedTime = :now, claimedBy = :by, claimedMessage = :message, \
                 claimId = :claimId, history = list_append(if_not_exists(history, :none), :begun) \
                 ADD attempt :one",
            )
            .condition_expression(
                "attribute_exists(jobId) AND (\
                 (chunkStatus = :pending AND (attribute_not_exists(claimedBy) OR claimedBy <> :by \
                 OR claimedMessage = :message OR claimId < :generation)) \
                 OR (chunkStatus = :inProgress AND (claimedTime <= :silent \
                 OR (claimedBy = :by AND claimedMessage = :message AND claimId <> :claimId) \
                 OR (claimedBy = :by AND claimId < :generation))))",
            )
            .expression_attribute_values(":pending", text("PENDING"))
            .expression_attribute_values(":inProgress", text("IN_PROGRESS"))
            .expression_attribute_values(":now", text(now.to_string()))
            .expression_attribute_values(":by", text(by.origin))
            .expression_attribute_values(":message", text(by.message))
            .expression_attribute_values(":none", AttributeValue::L(vec![]))
            .expression_attribute_values(":begun", history(&[AttemptRecord::begun(by, now)])?)
            .expression_attribute_values(":silent", text(now.minus(claim_timeout).to_string()))
            .expression_attribute_values(":claimId", text(&claim_id))
            .expression_attribute_values(":generation", text(item::claim_ids_before(by.generation)))
            .expression_attribute_values(":one", number(1))
            .return_values(ReturnValue::AllNew)
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld)
            .send()
            .await;
        let error = match answer {
            Ok(answer) => {
                let item: ChunkItem = decode(answer.attributes.unwrap_or_default())?;
                return Ok(Claim::Claimed(item.attempt()));
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
            return Ok(Claim::Claimed(standing.attempt()));
        }
        Ok(Claim::Busy)
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
        let answer =
            with_history(update, "SET chunkStatus = :pending", " ADD released :one", attempt)?.send().await;
        let Err(error) = answer else {
            return Ok(true);
        };
        let Some(standing) = Self::refused(error)? else {
            return Ok(false);
        };
        // The SDK tried again after the answer to the first try was lost.
        Ok(decode::<ChunkItem>(standing)?.was_released(attempt))
    }

    async fn is_claimed_by(&self, at: ChunkRef, attempt: &Attempt) -> Result<bool, StoreError> {
        self.read_claim(at, attempt).await
    }

    async fn note(&self, at: ChunkRef, attempt: &Attempt) -> Result<(), StoreError> {
        let update = self
            .update(key(at.job, chunk_key(at.index)))
            .condition_expression("chunkStatus = :inProgress AND attempt = :attempt")
            .expression_attribute_values(":inProgress", text("IN_PROGRESS"))
            .expression_attribute_values(":attempt", number(attempt.number))
            .expression_attribute_values(":history", history(&attempt.history)?)
            .update_expression("SET history = :history");
        match update.send().await {
            Ok(_) => Ok(()),
            Err(error) => Self::refused(error).map(|_| ()),
        }
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
        let Err(error) = update.send().await else {
            return Ok(Settle::Settled);
        };
        let Some(standing) = Self::refused(error)? else {
            return Ok(Settle::Gone);
        };
        let standing: ChunkItem = decode(standing)?;
        Ok(if standing.is_settled() { Settle::AlreadySettled } else { Settle::Superseded })
    }

    async fn remove_unsettled(&self, at: ChunkRef) -> Result<RemoveUnsettled, StoreError> {
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
                    back_off(turn, "another transaction held the job").await?;
                }
                Err(error) => return Self::refused(error).map(|_| RemoveUnsettled::Gone),
            }
        };
        let job = Job::try_from(decode::<JobItem>(image)?)?;
        Ok(match (job.head.state, job.unsettled.is_empty()) {
            (JobState::Ended { .. }, _) => RemoveUnsettled::Ended,
            (JobState::Open, true) => RemoveUnsettled::AllSettled(Box::new(job.head)),
            (JobState::Open, false) => RemoveUnsettled::Remaining,
        })
    }

    async fn finish(&self, head: &JobHead, result: &TranscriptResult) -> Result<Finish, StoreError> {
        self.end(head, result).await
    }

    async fn reopen(
        &self,
        head: &JobHead,
        failed: &[ChunkIndex],
        now: Timestamp,
        next_check: Timestamp,
    ) -> Result<bool, StoreError> {
        self.open_again(head, failed, now, next_check).await
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
        match update.send().await {
            Ok(_) => Ok(true),
            Err(error) => Self::refused(error).map(|_| false),
        }
    }

    async fn job(&self, id: JobId) -> Result<Option<Job>, StoreError> {
        self.read_job(id).await?.filter(|job| !is_expired(job.ttl)).map(Job::try_from).transpose()
    }

    async fn chunks(&self, id: JobId) -> Result<Vec<Chunk>, StoreError> {
        let pages = self
            .query_chunks(id)
            .into_paginator()
            .items()
            .send()
            .collect::<Result<Vec<_>, _>>()
            .await
            .map_err(unavailable)?;
        item::live_chunks(pages)
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
            // In whichever shard: there were fewer of them, maybe, when the job was made.
            .condition_expression("attribute_exists(openShard) AND nextCheckTime = :seen")
            .expression_attribute_values(":seen", text(due.next_check.to_string()))
            .expression_attribute_values(":next", text(next_check.to_string()))
            .expression_attribute_values(":id", text(&check_id))
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld);
        if let Some(from) = check_from {
            update = update.expression_attribute_values(":from", text(from.to_string()));
        }
        let answer = update.send().await;
        let Err(error) = answer else {
            return Ok(true);
        };
        // The SDK tried again after the answer to the first try was lost.
        let standing = Self::refused(error)?;
        Ok(standing.is_some_and(|item| item.get("checkId") == Some(&text(&check_id))))
    }

    async fn erase(&self, id: JobId) -> Result<bool, StoreError> {
        self.erase_all(id).await
    }

    async fn ping(&self) -> Result<(), StoreError> {
        let nothing = self.client.get_item().table_name(&self.table).set_key(Some(key(JobId::random(), JOB)));
        nothing.send().await.map(|_| ()).map_err(unavailable)
    }
}
