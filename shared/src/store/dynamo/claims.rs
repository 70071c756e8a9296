//! Claims of chunks.

use std::time::Duration;

use aws_sdk_dynamodb::types::{AttributeValue, ReturnValue, ReturnValuesOnConditionCheckFailure};

use super::{DynamoStore, apply};
use crate::domain::attempt::{AttemptRecord, Claimant};
use crate::domain::clock::Timestamp;
use crate::domain::id::ChunkRef;
use crate::domain::job::ChunkStatus;
use crate::store::item::{self, ChunkItem, chunk_key, decode, history, is_expired, key, number, text};
use crate::store::{Claim, StoreError};

/// Claims a chunk.
const CLAIM: &str = "SET chunkStatus = :inProgress, claimedTime = :now, claimedBy = :by, claimedMessage = :message, \
     claimId = :claimId, history = list_append(if_not_exists(history, :none), :begun) ADD attempt :one";

/// The rules of [`JobStore::claim`].
const MAY_CLAIM: &str = "attribute_exists(jobId) AND (attribute_not_exists(#ttl) OR #ttl >= :unix) AND (\
     (chunkStatus = :pending AND (attribute_not_exists(claimedBy) OR claimedBy <> :by \
     OR claimedMessage = :message OR claimId < :generation)) \
     OR (chunkStatus = :inProgress AND (claimedTime <= :silent \
     OR (claimedBy = :by AND claimedMessage = :message AND claimId <> :claimId) \
     OR (claimedBy = :by AND claimId < :generation))))";

impl DynamoStore {
    pub(super) async fn claim_chunk(
        &self,
        at: ChunkRef,
        by: Claimant<'_>,
        now: Timestamp,
        claim_timeout: Duration,
    ) -> Result<Claim, StoreError> {
        // A conditional write costs by the size of the item, even one whose condition fails, and a settled chunk holds
        // its text. A read costs a fraction of it.
        if by.redelivered {
            let live = self.read_claim(at).await?.filter(|chunk| !is_expired(chunk.ttl));
            match live.map(|chunk| chunk.chunk_status) {
                None => return Ok(Claim::Gone),
                Some(ChunkStatus::Completed | ChunkStatus::Failed) => return Ok(Claim::Settled),
                Some(ChunkStatus::Pending | ChunkStatus::InProgress) => {}
            }
        }
        let claim_id = item::claim_id(by.generation);
        let update = self
            .update(key(at.job, chunk_key(at.index)))
            .update_expression(CLAIM)
            .condition_expression(MAY_CLAIM)
            .expression_attribute_names("#ttl", "ttl")
            .expression_attribute_values(":unix", number(Timestamp::now().unix()))
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
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld);
        let existing: ChunkItem = match apply(update).await? {
            Ok(claimed) => return Ok(Claim::Claimed(decode::<ChunkItem>(claimed)?.attempt())),
            Err(None) => return Ok(Claim::Gone),
            Err(Some(existing)) => decode(existing)?,
        };
        Ok(if is_expired(existing.ttl) {
            Claim::Gone
        } else if existing.is_settled() {
            Claim::Settled
        } else if existing.claim_id.as_deref() == Some(&claim_id) {
            // The SDK repeated the request after a lost response.
            Claim::Claimed(existing.attempt())
        } else {
            Claim::Busy
        })
    }
}
