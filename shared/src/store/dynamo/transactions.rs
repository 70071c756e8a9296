//! Transactions: creation, end, retry and erasure of a job.

use std::collections::HashMap;

use aws_sdk_dynamodb::operation::transact_write_items::TransactWriteItemsError;
use aws_sdk_dynamodb::types::builders::{PutBuilder, UpdateBuilder};
use aws_sdk_dynamodb::types::error::TransactionCanceledException;
use aws_sdk_dynamodb::types::{
    AttributeValue, Delete, Put, ReturnValuesOnConditionCheckFailure, TransactWriteItem, Update,
};
use futures::future::try_join_all;

use super::retries::{pause, pauses};
use super::{DynamoStore, apply, unavailable};
use crate::domain::callback::Callback;
use crate::domain::clock::Timestamp;
use crate::domain::id::{ChunkIndex, JobId, MAX_CHUNKS};
use crate::domain::job::{ChunkStatus, Job, JobHead, JobState, JobStatus, NewJob};
use crate::domain::transcript::TranscriptResult;
use crate::store::item::{
    self, IdempotencyItem, Item, JOB, TRANSCRIPT, TranscriptItem, chunk_key, corrupt, decode, encode, key,
    number, open_shard, status_time, text,
};
use crate::store::{Created, FIRST_CHECK, Finish, SearchPosition, StoreError};

/// Reasons for which a transaction is tried again: a concurrent one, or throttling. The SDK does not retry them.
const TEMPORARY: [&str; 3] = ["TransactionConflict", "ThrottlingError", "ProvisionedThroughputExceeded"];

/// `DynamoDB`'s maximum number of writes in a transaction. A job is written with its idempotency key and its entry in the
/// list of recent jobs.
const _: () = assert!(MAX_CHUNKS + 3 <= 100, "a job does not fit in a transaction");

impl DynamoStore {
    pub(super) async fn create_job(
        &self,
        new: &NewJob,
        next_check: Timestamp,
    ) -> Result<Created, StoreError> {
        let ttl = self.ttl(new.submitted);
        let put = |item| Put::builder().table_name(&self.table).set_item(Some(item));
        let mut puts = vec![
            put(item::new_job(new, next_check, ttl)?).condition_expression("attribute_not_exists(jobId)"),
        ];
        if let Some(asked) = &new.idempotency {
            // DynamoDB may take two days to remove an expired item.
            let record = put(item::idempotency(new, asked)?)
                .condition_expression("attribute_not_exists(jobId) OR #ttl < :now")
                .expression_attribute_names("#ttl", "ttl")
                .expression_attribute_values(":now", number(new.submitted.unix()))
                .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld);
            puts.push(record);
        }
        puts.push(put(item::recent(&new.job())));
        for chunk in new.chunks() {
            puts.push(put(item::new_chunk(new.id, &chunk, ttl)?));
        }
        let writes = puts.into_iter().map(write_put).collect::<Result<_, _>>()?;
        match self.transact(writes, Some(new.id.to_string())).await? {
            Ok(()) => Ok(Created::New),
            Err(cancelled) => existing(new, &cancelled),
        }
    }

    /// Erases all items of a job.
    pub(super) async fn erase_job(&self, id: JobId) -> Result<bool, StoreError> {
        let Some(job) = self.read_job(id).await? else {
            return Ok(false);
        };
        let idempotency_key = job.idempotency_key.clone();
        let head = Job::try_from(job)?.head;
        let mut keys = vec![key(id, JOB), key(id, TRANSCRIPT)];
        keys.extend(ChunkIndex::first(head.chunk_count).map(|index| key(id, chunk_key(index))));
        keys.extend(idempotency_key.map(|asked| item::idempotency_key(&head.user, &asked)));
        let writes = keys.into_iter().map(|key| self.write_delete(key)).collect::<Result<_, _>>()?;
        Ok(self.transact(writes, None).await?.is_ok())
    }

    pub(super) async fn finish_job(
        &self,
        head: &JobHead,
        result: &TranscriptResult,
    ) -> Result<Finish, StoreError> {
        let Some(completed) = result.completed_time else {
            return Ok(Finish::NotOpen);
        };
        let item = encode(TranscriptItem::new(result, self.ttl(head.since()))?)?;
        let transcript = Put::builder().table_name(&self.table).set_item(Some(item));
        let position = SearchPosition { submitted: result.submitted_time, job: result.job_id };
        // A result from before a retry of the job must not end it.
        let same = match head.retried {
            None => "attribute_not_exists(retriedTime)",
            Some(_) => "retriedTime = :retried",
        };
        // A job with a callback stays on the sweeper's list until the webhook is delivered or given up.
        let list = match head.callback {
            None => " REMOVE unsettled, openShard, nextCheckTime",
            Some(_) => ", nextCheckTime = :next REMOVE unsettled",
        };
        let next_check = head.callback.as_ref().map(|_| completed.plus(FIRST_CHECK));
        let job = self
            .update_in(key(result.job_id, JOB))
            .update_expression(format!(
                "SET jobStatus = :status, jobStatusTime = :statusTime, completedTime = :completed{list}"
            ))
            .condition_expression(format!("attribute_exists(jobId) AND jobStatus = :open AND {same}"))
            .set_expression_attribute_values(present([
                (":status", Some(text(result.job_status.as_str()))),
                (":statusTime", Some(text(status_time(result.job_status, position)))),
                (":completed", Some(text(completed.to_string()))),
                (":open", Some(text(JobStatus::InProgress.as_str()))),
                (":retried", head.retried.map(|at| text(at.to_string()))),
                (":next", next_check.map(|at| text(at.to_string()))),
            ]));
        let writes = vec![write_put(transcript)?, write_update(job)?];
        Ok(if self.transact(writes, None).await?.is_ok() { Finish::Finished } else { Finish::NotOpen })
    }

    /// Reopens a failed job and its failed chunks, and deletes its result.
    pub(super) async fn reopen_job(
        &self,
        head: &JobHead,
        failed: &[ChunkIndex],
        now: Timestamp,
        next_check: Timestamp,
    ) -> Result<bool, StoreError> {
        let JobState::Ended { completely: false, at: ended } = head.state else {
            return Ok(false);
        };
        let Some(job) = self.read_job(head.id).await? else {
            return Ok(false);
        };
        let ttl = job.ttl_after_retry(now);
        // Not in the transaction: the chunks may exceed its size limit, and it costs twice as much. A crash after this
        // leaves chunks that expire later than their job.
        if let Some(ttl) = ttl
            && !self.keep_until(ttl, head, failed).await?
        {
            return Ok(false);
        }
        let mut writes = vec![
            self.reopen_head(head, failed, ended, [now, next_check], ttl)?,
            self.write_delete(key(head.id, TRANSCRIPT))?,
        ];
        for index in failed {
            writes.push(self.reopen_chunk(head.id, *index, ttl)?);
        }
        Ok(self.transact(writes, None).await?.is_ok())
    }

    fn reopen_head(
        &self,
        head: &JobHead,
        failed: &[ChunkIndex],
        ended: Timestamp,
        [now, next_check]: [Timestamp; 2],
        ttl: Option<i64>,
    ) -> Result<TransactWriteItem, StoreError> {
        let reset = head.callback.as_ref().map(Callback::reset);
        let set_callback = if reset.is_some() { ", #callback = :callback" } else { "" };
        let set_ttl = if ttl.is_some() { ", #ttl = :ttl" } else { "" };
        let position = SearchPosition::of(head);
        let unsettled = failed.iter().map(ToString::to_string).collect();
        write_update(
            self.update_in(key(head.id, JOB))
                .update_expression(format!(
                    "SET jobStatus = :open, jobStatusTime = :statusTime, retriedTime = :now, unsettled = :failed, \
                     openShard = :shard, nextCheckTime = :next{set_callback}{set_ttl} REMOVE completedTime, checkFrom"
                ))
                .condition_expression("jobStatus = :ended AND completedTime = :seen")
                .set_expression_attribute_names(present([
                    ("#callback", reset.as_ref().map(|_| "callback".to_owned())),
                    ("#ttl", ttl.map(|_| "ttl".to_owned())),
                ]))
                .set_expression_attribute_values(present([
                    (":open", Some(text(JobStatus::InProgress.as_str()))),
                    (":statusTime", Some(text(status_time(JobStatus::InProgress, position)))),
                    (":now", Some(text(now.to_string()))),
                    (":failed", Some(AttributeValue::Ns(unsettled))),
                    (":shard", Some(text(open_shard(head.id)))),
                    (":next", Some(text(next_check.to_string()))),
                    (":ended", Some(text(JobStatus::Failed.as_str()))),
                    (":seen", Some(text(ended.to_string()))),
                    (":callback", reset.as_ref().map(item::callback).transpose()?),
                    (":ttl", ttl.map(number)),
                ])),
        )
    }

    /// The attempt's number grows, so that no outcome of an earlier attempt counts.
    fn reopen_chunk(
        &self,
        job: JobId,
        index: ChunkIndex,
        ttl: Option<i64>,
    ) -> Result<TransactWriteItem, StoreError> {
        let set_ttl = if ttl.is_some() { ", #ttl = :ttl" } else { "" };
        write_update(
            self.update_in(key(job, chunk_key(index)))
                .update_expression(format!(
                    "SET chunkStatus = :pending, released = attempt + :one, attempt = attempt + :one{set_ttl} \
                     REMOVE settledTime, claimedTime, #error"
                ))
                .condition_expression("chunkStatus = :failed")
                .set_expression_attribute_names(present([
                    ("#error", Some("error".to_owned())),
                    ("#ttl", ttl.map(|_| "ttl".to_owned())),
                ]))
                .set_expression_attribute_values(present([
                    (":pending", Some(text(ChunkStatus::Pending.as_str()))),
                    (":failed", Some(text(ChunkStatus::Failed.as_str()))),
                    (":one", Some(number(1))),
                    (":ttl", ttl.map(number)),
                ])),
        )
    }

    /// Extends the life of the chunks that are not in `failed`. `false` if one is gone.
    async fn keep_until(&self, ttl: i64, head: &JobHead, failed: &[ChunkIndex]) -> Result<bool, StoreError> {
        let others = ChunkIndex::first(head.chunk_count).filter(|index| !failed.contains(index));
        let keep = |index| {
            apply(
                self.update(key(head.id, chunk_key(index)))
                    .update_expression("SET #ttl = :ttl")
                    .condition_expression("attribute_exists(jobId)")
                    .expression_attribute_names("#ttl", "ttl")
                    .expression_attribute_values(":ttl", number(ttl)),
            )
        };
        Ok(try_join_all(others.map(keep)).await?.iter().all(Result::is_ok))
    }

    fn update_in(&self, key: Item) -> UpdateBuilder {
        Update::builder().table_name(&self.table).set_key(Some(key))
    }

    fn write_delete(&self, key: Item) -> Result<TransactWriteItem, StoreError> {
        let delete = Delete::builder().table_name(&self.table).set_key(Some(key)).build();
        Ok(TransactWriteItem::builder().delete(delete.map_err(corrupt)?).build())
    }

    /// Writes all or nothing. The inner error means that a condition does not hold.
    async fn transact(
        &self,
        writes: Vec<TransactWriteItem>,
        token: Option<String>,
    ) -> Result<Result<(), TransactionCanceledException>, StoreError> {
        let request = self.client.transact_write_items().set_transact_items(Some(writes));
        let request = request.set_client_request_token(token);
        let mut pauses = pauses();
        loop {
            let Err(error) = request.clone().send().await else { return Ok(Ok(())) };
            let Some(TransactWriteItemsError::TransactionCanceledException(cancelled)) =
                error.as_service_error()
            else {
                return Err(unavailable(error));
            };
            if has(cancelled, "ConditionalCheckFailed") {
                return Ok(Err(cancelled.clone()));
            }
            if !TEMPORARY.iter().any(|reason| has(cancelled, reason)) {
                return Err(unavailable(error));
            }
            pause(&mut pauses, "the transaction was cancelled").await?;
        }
    }
}

/// The entries that have a value. `None` without any, since `DynamoDB` refuses an empty map.
fn present<T, const N: usize>(entries: [(&str, Option<T>); N]) -> Option<HashMap<String, T>> {
    let present = entries.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
    Some(present.collect()).filter(|entries: &HashMap<_, _>| !entries.is_empty())
}

fn write_put(put: PutBuilder) -> Result<TransactWriteItem, StoreError> {
    Ok(TransactWriteItem::builder().put(put.build().map_err(corrupt)?).build())
}

fn write_update(update: UpdateBuilder) -> Result<TransactWriteItem, StoreError> {
    Ok(TransactWriteItem::builder().update(update.build().map_err(corrupt)?).build())
}

/// Why a job was not created: it exists, or its idempotency key is in use.
fn existing(new: &NewJob, cancelled: &TransactionCanceledException) -> Result<Created, StoreError> {
    let record = cancelled.cancellation_reasons().iter().find_map(|reason| {
        let item = reason.item.clone().filter(|item| item.contains_key("digest"))?;
        Some(decode::<IdempotencyItem>(item))
    });
    match (&new.idempotency, record.transpose()?) {
        (Some(asked), Some(record)) if record.made_job != new.id => Ok(record.answer(asked)),
        _ => Ok(Created::New),
    }
}

fn has(cancelled: &TransactionCanceledException, reason: &str) -> bool {
    cancelled.cancellation_reasons().iter().any(|given| given.code() == Some(reason))
}
