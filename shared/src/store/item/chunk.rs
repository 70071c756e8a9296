//! The item of a chunk, and the ids of its claims.

use aws_sdk_dynamodb::types::AttributeValue;
use serde::{Deserialize, Serialize};

use super::super::StoreError;
use super::super::codes::Stored;
use super::{CHUNK_PREFIX, Item, chunk_key, corrupt, decode, encode, is_expired};
use crate::domain::attempt::{Attempt, AttemptRecord, Holder};
use crate::domain::clock::Timestamp;
use crate::domain::id::{ChunkIndex, JobId};
use crate::domain::job::{Chunk, ChunkError, ChunkState, ChunkStatus, Transcription, Verdict};
use crate::domain::path::AudioPath;

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::store) struct ChunkItem {
    pub(in crate::store) job_id: JobId,
    item: String,
    chunk_status: ChunkStatus,
    path: AudioPath,
    attempt: u32,
    #[serde(default)]
    released: u32,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    history: Vec<Stored<AttemptRecord>>,
    /// Identifies the newest claim, in case its response was lost ([`claim_id`]).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(in crate::store) claim_id: Option<String>,
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
    pub(in crate::store) ttl: Option<i64>,
}

/// The chunks that have not expired.
pub(in crate::store) fn live_chunks(items: Vec<Item>) -> Result<Vec<Chunk>, StoreError> {
    let items: Vec<ChunkItem> = items.into_iter().map(decode).collect::<Result<_, _>>()?;
    items.into_iter().filter(|item| !is_expired(item.ttl)).map(Chunk::try_from).collect()
}

pub(in crate::store) fn new_chunk(job: JobId, chunk: &Chunk, ttl: i64) -> Result<Item, StoreError> {
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

/// The attribute of a chunk's attempts.
pub(in crate::store) fn history(records: &[AttemptRecord]) -> Result<AttributeValue, StoreError> {
    let records: Vec<_> = records.iter().map(Stored).collect();
    serde_dynamo::to_attribute_value(records).map_err(corrupt)
}

/// A new id for a claim for a message of this generation. It begins with the generation, so that comparing strings
/// compares generations. Ids of 0.1.0 begin with a hexadecimal digit and sort before all others.
pub(in crate::store) fn claim_id(generation: u32) -> String {
    format!("g{generation:010}-{}", uuid::Uuid::now_v7())
}

/// A text greater than the id of each claim that a later copy of this generation may take over.
pub(in crate::store) fn claim_ids_before(generation: u32) -> String {
    // Copies of the highest generation may follow each other.
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
    pub(in crate::store) fn attempt(self) -> Attempt {
        Attempt { number: self.attempt, history: restored(self.history) }
    }

    /// Whether this attempt is the newest claim and was released.
    pub(in crate::store) fn was_released(&self, attempt: &Attempt) -> bool {
        self.chunk_status == ChunkStatus::Pending && self.attempt == attempt.number
    }

    pub(in crate::store) fn is_settled(&self) -> bool {
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
            .ok_or_else(|| corrupt("invalid chunk key"))?;
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
