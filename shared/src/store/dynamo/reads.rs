//! Reads of many items: details, listings, what is due.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::time::Duration;

use aws_sdk_dynamodb::types::KeysAndAttributes;
use futures::future::try_join_all;
use tracing::warn;

use super::{DynamoStore, patience, unavailable};
use crate::clock::Timestamp;
use crate::id::{ChunkIndex, JobId};
use crate::job::{Chunk, JobHead, JobState, JobStatus};
use crate::store::item::{
    BY_USER, ChunkItem, HeadItem, Item, JOB, JobItem, OPEN_JOBS, OPEN_SHARDS, TRANSCRIPT, TranscriptItem,
    chunk_key, decode, key, recent_key, recent_partition, status_time, text,
};
use crate::store::{Detail, DueJob, JobStore, Search, SearchPage, SearchPosition, StoreError};

/// `DynamoDB`: the most keys of one `BatchGetItem`.
const MAX_KEYS: usize = 100;

/// How far back a listing looks into the table itself: indexes follow within a second, as a rule.
const RECENT: Duration = Duration::from_mins(1);

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

    pub(super) async fn read_job(&self, id: JobId) -> Result<Option<JobItem>, StoreError> {
        let answer = self
            .client
            .get_item()
            .table_name(&self.table)
            .set_key(Some(key(id, JOB)))
            .consistent_read(true)
            .send()
            .await
            .map_err(unavailable)?;
        answer.item.map(decode).transpose()
    }

    pub(super) async fn read_page(&self, search: &Search) -> Result<SearchPage, StoreError> {
        let statuses = search.status.map_or(JobStatus::ALL.to_vec(), |status| vec![status]);
        let listed = try_join_all(statuses.into_iter().map(|status| self.list(search, status)));
        let (listed, recent) = tokio::try_join!(listed, self.recent(search))?;
        // What the table itself says of a recent job is truer than what an index says.
        let known: HashSet<JobId> = recent.iter().map(|head| head.id).collect();
        let mut jobs: Vec<JobHead> =
            listed.into_iter().flatten().filter(|head| !known.contains(&head.id)).chain(recent).collect();
        let position = |head: &JobHead| SearchPosition { submitted: head.submitted, job: head.id };
        jobs.retain(|head| search.wants(head));
        jobs.sort_by_key(|head| Reverse(position(head)));
        // A job that changes its status may be in two lists at once.
        jobs.dedup_by_key(|head| head.id);
        let more = jobs.len() > search.limit;
        jobs.truncate(search.limit);
        let next = jobs.last().filter(|_| more).map(position);
        Ok(SearchPage { jobs, next })
    }

    /// One status' part of a page, from the index: one more than asked for, to tell whether there are more.
    async fn list(&self, search: &Search, status: JobStatus) -> Result<Vec<JobHead>, StoreError> {
        let low = search.from.map_or_else(|| format!("{status}#"), |from| format!("{status}#{from}"));
        let high = match (search.after, search.until) {
            (Some(after), Some(until)) if after.submitted >= until => format!("{status}#{until}"),
            (Some(after), _) => status_time(status, after),
            (None, Some(until)) => format!("{status}#{until}"),
            // Times begin with a digit, which is before a tilde.
            (None, None) => format!("{status}#~"),
        };
        if low > high {
            return Ok(Vec::new());
        }
        let answer = self
            .client
            .query()
            .table_name(&self.table)
            .index_name(BY_USER)
            .key_condition_expression("userId = :user AND jobStatusTime BETWEEN :low AND :high")
            .expression_attribute_values(":user", text(search.user.as_str()))
            .expression_attribute_values(":low", text(low))
            .expression_attribute_values(":high", text(high))
            .scan_index_forward(false)
            // BETWEEN takes the place where the last page ended too.
            .limit(i32::try_from(search.limit).unwrap_or(i32::MAX - 2) + 2)
            .send()
            .await
            .map_err(unavailable)?;
        let head = |item| decode::<HeadItem>(item).map(JobHead::from);
        answer.items.unwrap_or_default().into_iter().map(head).collect()
    }

    /// The jobs that were submitted in the minute before, as the table itself has them: indexes follow.
    async fn recent(&self, search: &Search) -> Result<Vec<JobHead>, StoreError> {
        let since = search.now.minus(RECENT);
        if search.after.is_some_and(|after| after.submitted < since)
            || search.until.is_some_and(|u| u < since)
        {
            return Ok(Vec::new());
        }
        let answer = self
            .client
            .query()
            .table_name(&self.table)
            .key_condition_expression("jobId = :user AND #item > :since")
            .expression_attribute_names("#item", "item")
            .expression_attribute_values(":user", text(recent_partition(&search.user)))
            .expression_attribute_values(":since", text(recent_key(since, None)))
            .scan_index_forward(false)
            .limit(100)
            .consistent_read(true)
            .send()
            .await
            .map_err(unavailable)?;
        let jobs = answer.items.unwrap_or_default().into_iter().filter_map(|item| {
            let name = item.get("item")?.as_s().ok()?;
            name.rsplit('#').next()?.parse::<JobId>().ok()
        });
        let keys = jobs.map(|job| key(job, JOB)).collect();
        let head = |item| decode::<HeadItem>(item).map(JobHead::from);
        self.batch_get(keys).await?.into_iter().map(head).collect()
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
