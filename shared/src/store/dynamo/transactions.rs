//! What is written all or nothing: a new job, its end, and its opening again.

use aws_sdk_dynamodb::config::http::HttpResponse;
use aws_sdk_dynamodb::error::{BuildError, SdkError};
use aws_sdk_dynamodb::operation::transact_write_items::TransactWriteItemsError;
use aws_sdk_dynamodb::types::{AttributeValue, Delete, Put, TransactWriteItem, Update};

use super::{DynamoStore, patience, unavailable};
use crate::clock::Timestamp;
use crate::id::ChunkIndex;
use crate::job::{ChunkStatus, JobHead, JobState, JobStatus, NewJob};
use crate::store::item::{
    self, Item, JOB, TRANSCRIPT, TranscriptItem, chunk_key, encode, key, number, open_shard, status_time,
    text,
};
use crate::store::{Finish, SearchPosition, StoreError};
use crate::transcript::TranscriptResult;

impl DynamoStore {
    pub(super) async fn create_all(&self, new: &NewJob, next_check: Timestamp) -> Result<(), StoreError> {
        let ttl = self.ttl(new.submitted);
        let put = |item: Item, condition: Option<&str>| {
            let put = Put::builder()
                .table_name(&self.table)
                .set_item(Some(item))
                .set_condition_expression(condition.map(str::to_owned))
                .build()
                .map_err(wrong)?;
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

    pub(super) async fn end(&self, head: &JobHead, result: &TranscriptResult) -> Result<Finish, StoreError> {
        let Some(completed) = result.completed_time else {
            return Ok(Finish::NotOpen);
        };
        let item = encode(TranscriptItem::new(result, self.ttl(result.submitted_time))?)?;
        let put = Put::builder().table_name(&self.table).set_item(Some(item)).build().map_err(wrong)?;
        let position = SearchPosition { submitted: result.submitted_time, job: result.job_id };
        // A result of the time before the job was given another try must not end it.
        let (same, retried) = match head.retried {
            None => ("attribute_not_exists(retriedTime)", None),
            Some(at) => ("retriedTime = :retried", Some(text(at.to_string()))),
        };
        let end = Update::builder()
            .table_name(&self.table)
            .set_key(Some(key(result.job_id, JOB)))
            .update_expression(
                "SET jobStatus = :status, jobStatusTime = :statusTime, completedTime = :completed \
                 REMOVE openShard, nextCheckTime",
            )
            .condition_expression(format!("attribute_exists(jobId) AND jobStatus = :open AND {same}"))
            .set_expression_attribute_values(retried.map(|at| Item::from([(":retried".to_owned(), at)])))
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
        let position = SearchPosition { submitted: head.submitted, job: head.id };
        let unsettled = failed.iter().map(ToString::to_string).collect();
        let job = Update::builder()
            .table_name(&self.table)
            .set_key(Some(key(head.id, JOB)))
            .update_expression(
                "SET jobStatus = :open, jobStatusTime = :statusTime, retriedTime = :now, unsettled = :failed, \
                 openShard = :shard, nextCheckTime = :next REMOVE completedTime",
            )
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
                .update_expression(
                    "SET chunkStatus = :pending, released = attempt + :one, attempt = attempt + :one \
                     REMOVE settledTime, claimedTime, #error",
                )
                .condition_expression("chunkStatus = :failed")
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

    /// Whether all were written: `false` when a condition does not hold.
    async fn write_all(&self, writes: &[TransactWriteItem]) -> Result<bool, StoreError> {
        let mut turn = 0;
        loop {
            let answer =
                self.client.transact_write_items().set_transact_items(Some(writes.to_vec())).send().await;
            match answer {
                Ok(_) => return Ok(true),
                Err(error) if cancelled_by(&error, "ConditionalCheckFailed") => return Ok(false),
                Err(error) if cancelled_by(&error, "TransactionConflict") => {
                    turn += 1;
                    patience(turn, "another transaction held the job").await?;
                }
                Err(error) => return Err(unavailable(error)),
            }
        }
    }
}

#[expect(clippy::needless_pass_by_value, reason = "it is what `map_err` hands over")]
fn wrong(error: BuildError) -> StoreError {
    StoreError::Corrupt(error.to_string())
}

/// Whether a transaction was called off, with this reason among those given.
fn cancelled_by(error: &SdkError<TransactWriteItemsError, HttpResponse>, reason: &str) -> bool {
    let Some(TransactWriteItemsError::TransactionCanceledException(cancelled)) = error.as_service_error()
    else {
        return false;
    };
    cancelled.cancellation_reasons().iter().any(|given| given.code() == Some(reason))
}
