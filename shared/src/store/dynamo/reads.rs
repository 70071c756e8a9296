//! Reads of many items: details, listings, what is due.

use std::collections::HashMap;

use aws_sdk_dynamodb::types::KeysAndAttributes;
use futures::future::try_join_all;
use tracing::warn;

use super::{DynamoStore, patience, unavailable};
use crate::clock::Timestamp;
use crate::id::{ChunkIndex, JobId};
use crate::job::{Chunk, JobHead, JobState};
use crate::store::item::{
    BY_USER, ChunkItem, HeadItem, Item, JOB, OPEN_JOBS, OPEN_SHARDS, TRANSCRIPT, TranscriptItem, chunk_key,
    decode, key, status_time, text,
};
use crate::store::{Detail, DueJob, JobStore, Search, SearchPage, SearchPosition, StoreError};

/// `DynamoDB`: the most keys of one `BatchGetItem`.
const MAX_KEYS: usize = 100;

impl DynamoStore {
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

    pub(super) async fn read_details(&self, heads: &[JobHead]) -> Result<Vec<Option<Detail>>, StoreError> {
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

    pub(super) async fn read_page(&self, search: &Search) -> Result<SearchPage, StoreError> {
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

    pub(super) async fn read_due(&self, now: Timestamp, limit: usize) -> Result<Vec<DueJob>, StoreError> {
        let now = now.to_string();
        let limit_each = i32::try_from(limit).unwrap_or(i32::MAX);
        let shards = (0..OPEN_SHARDS).map(|shard| self.due_of_shard(shard, &now, limit_each));
        let mut due = try_join_all(shards).await?.concat();
        due.sort_by_key(|due| due.next_check);
        due.truncate(limit);
        Ok(due)
    }
}
