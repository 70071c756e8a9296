//! What is written all or nothing: a new job, its end, and its opening again.

use std::collections::HashMap;

use aws_sdk_dynamodb::config::http::HttpResponse;
use aws_sdk_dynamodb::error::{BuildError, SdkError};
use aws_sdk_dynamodb::operation::transact_write_items::TransactWriteItemsError;
use aws_sdk_dynamodb::types::builders::PutBuilder;
use aws_sdk_dynamodb::types::{
    AttributeValue, Delete, Put, ReturnValuesOnConditionCheckFailure, TransactWriteItem, Update,
};

use futures::future::try_join_all;

use super::{DynamoStore, back_off, unavailable};
use crate::domain::clock::Timestamp;
use crate::domain::id::{ChunkIndex, JobId};
use crate::domain::job::{ChunkStatus, Job, JobHead, JobState, JobStatus, NewJob};
use crate::domain::transcript::TranscriptResult;
use crate::lifecycle::FIRST_CHECK;
use crate::store::item::{
    self, JOB, TRANSCRIPT, TranscriptItem, chunk_key, decode, encode, key, number, open_shard, status_time,
    text,
};
use crate::store::{Created, Finish, SearchPosition, StoreError};
use crate::webhook::Callback;

impl DynamoStore {
    pub(super) async fn create_all(
        &self,
        new: &NewJob,
        next_check: Timestamp,
    ) -> Result<Created, StoreError> {
        let ttl = self.ttl(new.submitted);
        let put = || Put::builder().table_name(&self.table);
        let mut puts = vec![
            put()
                .set_item(Some(item::new_job(new, next_check, ttl)?))
                .condition_expression("attribute_not_exists(jobId)"),
        ];
        if let Some(asked) = &new.idempotency {
            // DynamoDB may take two days to remove what has expired.
            let record = put()
                .set_item(Some(item::idempotency(new, asked)))
                .condition_expression("attribute_not_exists(jobId) OR #ttl < :now")
                .expression_attribute_names("#ttl", "ttl")
                .expression_attribute_values(":now", number(new.submitted.unix()))
                .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld);
            puts.push(record);
        }
        puts.push(put().set_item(Some(item::recent(&new.job()))));
        for chunk in new.chunks() {
            puts.push(put().set_item(Some(item::new_chunk(new.id, &chunk, ttl)?)));
        }
        let write =
            |put: PutBuilder| Ok(TransactWriteItem::builder().put(put.build().map_err(wrong)?).build());
        let writes: Vec<_> = puts.into_iter().map(write).collect::<Result<_, StoreError>>()?;
        let mut turn = 0;
        loop {
            let answer = self
                .client
                .transact_write_items()
                .set_transact_items(Some(writes.clone()))
                .client_request_token(new.id.to_string())
                .send()
                .await;
            match answer {
                Ok(_) => return Ok(Created::New),
                Err(error) if cancelled_by(&error, "ConditionalCheckFailed") => {
                    return made_before(new, error);
                }
                // The same key at the same moment: one of the two is made.
                Err(error) if is_worth_a_retry(&error) => {
                    turn += 1;
                    back_off(turn, "the transaction to create the job was cancelled").await?;
                }
                Err(error) => return Err(unavailable(error)),
            }
        }
    }

    /// Erases all items of a job.
    pub(super) async fn erase_all(&self, id: JobId) -> Result<bool, StoreError> {
        let Some(job) = self.read_job(id).await? else {
            return Ok(false);
        };
        let key_of_request = job.idempotency_key.clone();
        let head = Job::try_from(job)?.head;
        let mut keys = vec![key(id, JOB), key(id, TRANSCRIPT)];
        keys.extend(ChunkIndex::first(head.chunk_count).map(|index| key(id, chunk_key(index))));
        keys.extend(key_of_request.map(|asked| item::idempotency_key(&head.user, &asked)));
        let delete =
            |key| Delete::builder().table_name(&self.table).set_key(Some(key)).build().map_err(wrong);
        let write = |key| Ok(TransactWriteItem::builder().delete(delete(key)?).build());
        let writes: Vec<_> = keys.into_iter().map(write).collect::<Result<_, StoreError>>()?;
        self.write_all(&writes).await
    }

    pub(super) async fn end(&self, head: &JobHead, result: &TranscriptResult) -> Result<Finish, StoreError> {
        let Some(completed) = result.completed_time else {
            return Ok(Finish::NotOpen);
        };
        let item = encode(TranscriptItem::new(result, self.ttl(head.since()))?)?;
        let put = Put::builder().table_name(&self.table).set_item(Some(item)).build().map_err(wrong)?;
        let position = SearchPosition { submitted: result.submitted_time, job: result.job_id };
        // A result from before a retry of the job must not end it.
        let (same, retried) = match head.retried {
            None => ("attribute_not_exists(retriedTime)", None),
            Some(at) => ("retriedTime = :retried", Some(text(at.to_string()))),
        };
        // A job with a callback stays on the sweeper's list until the webhook is delivered or given up.
        let (list, next_check) = match head.callback {
            None => (" REMOVE openShard, nextCheckTime", None),
            Some(_) => (", nextCheckTime = :next", Some(text(completed.plus(FIRST_CHECK).to_string()))),
        };
        let values = [(":retried", retried), (":next", next_check)];
        let values = values.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
        let end = Update::builder()
            .table_name(&self.table)
            .set_key(Some(key(result.job_id, JOB)))
            .update_expression(format!(
                "SET jobStatus = :status, jobStatusTime = :statusTime, completedTime = :completed{list}"
            ))
            .condition_expression(format!("attribute_exists(jobId) AND jobStatus = :open AND {same}"))
            .set_expression_attribute_values(Some(values.collect()))
            .expression_attribute_values(":status", text(result.job_status.as_str()))
            .expression_attribute_values(":statusTime", text(status_time(result.job_status, position)))
            .expression_attribute_values(":completed", text(completed.to_string()))
            .expression_attribute_values(":open", text(JobStatus::InProgress.as_str()))
            .build()
            .map_err(wrong)?;
        let writes =
            [TransactWriteItem::builder().put(put).build(), TransactWriteItem::builder().update(end).build()];
        Ok(if self.write_all(&writes).await? { Finish::Finished } else { Finish::NotOpen })
    }

    /// A failed job and its failed chunks as if they had just been made; the result goes.
    pub(super) async fn open_again(
        &self,
        head: &JobHead,
        failed: &[ChunkIndex],
        now: Timestamp,
        next_check: Timestamp,
    ) -> Result<bool, StoreError> {
        let JobState::Ended { completely: false, at } = head.state else {
            return Ok(false);
        };
        let Some(ttl) = self.read_job(head.id).await?.map(|job| job.ttl_after_retry(now)) else {
            return Ok(false);
        };
        // Not in the transaction: these chunks may be larger than one may be, and it costs double. A crash after this
        // leaves chunks that are kept longer than their job.
        if let Some(ttl) = ttl
            && !self.keep_until(ttl, head, failed).await?
        {
            return Ok(false);
        }
        let (kept, ttl_name, ttl_value) = match ttl {
            None => ("", None, None),
            Some(ttl) => (
                ", #ttl = :ttl",
                Some(("#ttl".to_owned(), "ttl".to_owned())),
                Some((":ttl".to_owned(), number(ttl))),
            ),
        };
        let position = SearchPosition { submitted: head.submitted, job: head.id };
        let unsettled = failed.iter().map(ToString::to_string).collect();
        let reset = head.callback.as_ref().map(Callback::reset);
        let (set_callback, names, values) = match reset.as_ref().map(item::callback).transpose()? {
            None => ("", None, None),
            Some(callback) => (
                ", #callback = :callback",
                Some(("#callback".to_owned(), "callback".to_owned())),
                Some((":callback".to_owned(), callback)),
            ),
        };
        let job = Update::builder()
            .table_name(&self.table)
            .set_key(Some(key(head.id, JOB)))
            .update_expression(format!(
                "SET jobStatus = :open, jobStatusTime = :statusTime, retriedTime = :now, unsettled = :failed, \
                 openShard = :shard, nextCheckTime = :next{set_callback}{kept} REMOVE completedTime, checkFrom"
            ))
            .set_expression_attribute_names(some_of([names, ttl_name.clone()]))
            .set_expression_attribute_values(some_of([values, ttl_value.clone()]))
            .condition_expression("jobStatus = :ended AND completedTime = :seen")
            .expression_attribute_values(":open", text(JobStatus::InProgress.as_str()))
            .expression_attribute_values(":statusTime", text(status_time(JobStatus::InProgress, position)))
            .expression_attribute_values(":now", text(now.to_string()))
            .expression_attribute_values(":failed", AttributeValue::Ns(unsettled))
            .expression_attribute_values(":shard", text(open_shard(head.id)))
            .expression_attribute_values(":next", text(next_check.to_string()))
            .expression_attribute_values(":ended", text(JobStatus::Failed.as_str()))
            .expression_attribute_values(":seen", text(at.to_string()))
            .build()
            .map_err(wrong)?;
        let transcript = Delete::builder().table_name(&self.table).set_key(Some(key(head.id, TRANSCRIPT)));
        let mut writes = vec![
            TransactWriteItem::builder().update(job).build(),
            TransactWriteItem::builder().delete(transcript.build().map_err(wrong)?).build(),
        ];
        for index in failed {
            // The attempt moves on, so that a late word of an earlier one is not taken for this one's.
            let chunk = Update::builder()
                .table_name(&self.table)
                .set_key(Some(key(head.id, chunk_key(*index))))
                .update_expression(format!(
                    "SET chunkStatus = :pending, released = attempt + :one, attempt = attempt + :one{kept} \
                     REMOVE settledTime, claimedTime, #error"
                ))
                .condition_expression("chunkStatus = :failed")
                .set_expression_attribute_names(some_of([ttl_name.clone()]))
                .set_expression_attribute_values(some_of([ttl_value.clone()]))
                .expression_attribute_names("#error", "error")
                .expression_attribute_values(":pending", text(ChunkStatus::Pending.as_str()))
                .expression_attribute_values(":failed", text(ChunkStatus::Failed.as_str()))
                .expression_attribute_values(":one", number(1))
                .build()
                .map_err(wrong)?;
            writes.push(TransactWriteItem::builder().update(chunk).build());
        }
        self.write_all(&writes).await
    }

    /// Keeps the chunks of a job that are not `failed` until then. `false` when one is gone.
    async fn keep_until(&self, ttl: i64, head: &JobHead, failed: &[ChunkIndex]) -> Result<bool, StoreError> {
        let others = ChunkIndex::first(head.chunk_count).filter(|index| !failed.contains(index));
        let keep = async |index| {
            let update = self
                .update(key(head.id, chunk_key(index)))
                .update_expression("SET #ttl = :ttl")
                .condition_expression("attribute_exists(jobId)")
                .expression_attribute_names("#ttl", "ttl")
                .expression_attribute_values(":ttl", number(ttl));
            match update.send().await {
                Ok(_) => Ok(true),
                Err(error) => Self::refused(error).map(|_| false),
            }
        };
        Ok(try_join_all(others.map(keep)).await?.into_iter().all(|kept| kept))
    }

    /// Whether all were written: `false` when a condition does not hold.
    async fn write_all(&self, writes: &[TransactWriteItem]) -> Result<bool, StoreError> {
        let mut turn = 0;
        loop {
            let answer =
                self.client.transact_write_items().set_transact_items(Some(writes.to_vec())).send().await;
            match answer {
                Ok(_) => return Ok(true),
                Err(error) if cancelled_by(&error, "ConditionalCheckFailed") => return Ok(false),
                Err(error) if is_worth_a_retry(&error) => {
                    turn += 1;
                    back_off(turn, "the transaction was cancelled").await?;
                }
                Err(error) => return Err(unavailable(error)),
            }
        }
    }
}

fn some_of<T, const N: usize>(entries: [Option<(String, T)>; N]) -> Option<HashMap<String, T>> {
    let entries: HashMap<_, _> = entries.into_iter().flatten().collect();
    (!entries.is_empty()).then_some(entries)
}

/// Why a job could not be made: it is there, or one that was asked for under the same key is.
fn made_before(
    new: &NewJob,
    error: SdkError<TransactWriteItemsError, HttpResponse>,
) -> Result<Created, StoreError> {
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Record {
        made_job: JobId,
        digest: String,
    }
    let Some(asked) = &new.idempotency else {
        return Ok(Created::New);
    };
    let Some(TransactWriteItemsError::TransactionCanceledException(cancelled)) = error.as_service_error()
    else {
        return Err(unavailable(error));
    };
    let record = cancelled.cancellation_reasons().iter().find_map(|reason| {
        let item = reason.item.clone().filter(|item| item.contains_key("digest"))?;
        Some(decode::<Record>(item))
    });
    match record.transpose()? {
        Some(record) if record.made_job == new.id => Ok(Created::New),
        Some(record) if record.digest == asked.digest => Ok(Created::Replayed(record.made_job)),
        Some(_) => Ok(Created::Mismatch),
        None => Ok(Created::New),
    }
}

#[expect(clippy::needless_pass_by_value, reason = "it is what `map_err` hands over")]
fn wrong(error: BuildError) -> StoreError {
    StoreError::Corrupt(error.to_string())
}

/// Whether a transaction was cancelled because another one was in the way, or because the table is busy. The SDK does
/// not retry these: to it a cancelled transaction is an answer.
fn is_worth_a_retry(error: &SdkError<TransactWriteItemsError, HttpResponse>) -> bool {
    ["TransactionConflict", "ThrottlingError", "ProvisionedThroughputExceeded"]
        .iter()
        .any(|reason| cancelled_by(error, reason))
}

/// Whether a transaction was cancelled, with this reason among those given.
fn cancelled_by(error: &SdkError<TransactWriteItemsError, HttpResponse>, reason: &str) -> bool {
    let Some(TransactWriteItemsError::TransactionCanceledException(cancelled)) = error.as_service_error()
    else {
        return false;
    };
    cancelled.cancellation_reasons().iter().any(|given| given.code() == Some(reason))
}
