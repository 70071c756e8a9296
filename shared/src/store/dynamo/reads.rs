//! Reads of many items: details, listings, what is due.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::time::Duration;

use aws_sdk_dynamodb::operation::query::builders::QueryFluentBuilder;
use aws_sdk_dynamodb::types::KeysAndAttributes;
use futures::future::try_join_all;
use strum::VariantArray;
use tracing::warn;

use super::retries::{pause, pauses};
use super::{DynamoStore, all_chunks, get, unavailable};
use crate::domain::clock::Timestamp;
use crate::domain::id::{ChunkRef, JobId, UserId};
use crate::domain::idempotency::Idempotency;
use crate::domain::job::{Chunk, ChunkStatus, JobHead, JobState, JobStatus};
use crate::domain::stitch::stitch;
use crate::store::item::{
    BY_USER, CHUNK_PREFIX, HeadItem, IdempotencyItem, Item, JOB, JobItem, OPEN_JOBS, OPEN_SHARDS, TRANSCRIPT,
    TranscriptItem, chunk_key, corrupt, decode, idempotency_key, is_expired, key, recent_key,
    recent_partition, status_time, text,
};
use crate::store::{Created, Detail, DueJob, Search, SearchPage, SearchPosition, StoreError};

/// `DynamoDB`'s maximum number of keys in a `BatchGetItem`.
const MAX_KEYS: usize = 100;

/// The attributes of a [`HeadItem`].
const HEAD: &str =
    "jobId, userId, jobStatus, submittedTime, completedTime, chunkCount, retriedTime, metadata";

/// How many bytes of one status are read for a page, at most. The page then ends where reading stopped.
const MAX_STATUS_BYTES: usize = 900_000;

/// How recent the jobs are that a listing reads from the table. An index usually follows within a second.
const RECENT: Duration = Duration::from_mins(1);

/// A chunk's status and the number of its newest claim.
#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ClaimState {
    pub(super) chunk_status: ChunkStatus,
    pub(super) attempt: u32,
    pub(super) ttl: Option<i64>,
}

impl DynamoStore {
    async fn batch_get(&self, keys: Vec<Item>, only: Option<&str>) -> Result<Vec<Item>, StoreError> {
        let mut items = Vec::with_capacity(keys.len());
        for batch in keys.chunks(MAX_KEYS) {
            let mut wanted = batch.to_vec();
            let mut pauses = pauses();
            while !wanted.is_empty() {
                let request = KeysAndAttributes::builder()
                    .set_keys(Some(wanted))
                    .consistent_read(true)
                    .set_projection_expression(only.map(str::to_owned))
                    .build()
                    .map_err(corrupt)?;
                let request = self.client.batch_get_item().request_items(&self.table, request);
                let answer = request.send().await.map_err(unavailable)?;
                items.extend(answer.responses.unwrap_or_default().remove(&self.table).unwrap_or_default());
                let unread = answer.unprocessed_keys.unwrap_or_default().remove(&self.table);
                wanted = unread.map(|unread| unread.keys).unwrap_or_default();
                if !wanted.is_empty() {
                    pause(&mut pauses, "BatchGetItem left keys unread").await?;
                }
            }
        }
        Ok(items)
    }

    async fn due_of_shard(&self, shard: u8, now: &str, limit: i32) -> Result<Vec<DueJob>, StoreError> {
        let query = self
            .query()
            .index_name(OPEN_JOBS)
            .key_condition_expression("openShard = :shard AND nextCheckTime <= :now")
            .expression_attribute_values(":shard", text(shard.to_string()))
            .expression_attribute_values(":now", text(now))
            .limit(limit);
        let items = query.send().await.map_err(unavailable)?.items.unwrap_or_default();
        // An item that cannot be parsed must not keep the sweeper from the others.
        let parse = |item: Item| {
            let job_id = item.get("jobId").and_then(|id| id.as_s().ok()).cloned();
            decode::<DueJob>(item)
                .inspect_err(|error| warn!(job_id, %error, "skipped an unreadable item of openJobs"))
                .ok()
        };
        Ok(items.into_iter().filter_map(parse).collect())
    }

    pub(super) async fn read_earlier(
        &self,
        user: &UserId,
        asked: &Idempotency,
        now: Timestamp,
    ) -> Result<Option<Created>, StoreError> {
        let record: Option<IdempotencyItem> =
            get(self.get(idempotency_key(user, &asked.key.to_string()))).await?;
        // DynamoDB may take two days to remove an expired item.
        Ok(record.filter(|record| record.ttl >= now.unix()).map(|record| record.answer(asked)))
    }

    pub(super) async fn read_details(&self, heads: &[JobHead]) -> Result<Vec<Option<Detail>>, StoreError> {
        let ended = heads.iter().filter(|head| matches!(head.state, JobState::Ended { .. }));
        let mut transcripts: HashMap<JobId, TranscriptItem> = HashMap::new();
        for item in self.batch_get(ended.map(|head| key(head.id, TRANSCRIPT)).collect(), None).await? {
            let transcript: TranscriptItem = decode(item)?;
            if !is_expired(Some(transcript.ttl)) {
                transcripts.insert(transcript.job_id, transcript);
            }
        }
        let mut details = Vec::with_capacity(heads.len());
        for head in heads {
            details.push(match (head.state, transcripts.remove(&head.id)) {
                (JobState::Ended { .. }, None) => None,
                (JobState::Ended { .. }, Some(transcript)) => {
                    let from_chunks = transcript.text_in_chunks;
                    let mut result = transcript.into_result()?;
                    if from_chunks {
                        result.transcription = stitch(&self.shown_chunks(head.id).await?);
                    }
                    Some(Detail::Ended(Box::new(result)))
                }
                (JobState::Open, _) => {
                    let chunks = self.shown_chunks(head.id).await?;
                    (!chunks.is_empty()).then_some(Detail::Chunks(chunks))
                }
            });
        }
        Ok(details)
    }

    /// A job's chunks without their segments, which are the larger part.
    async fn shown_chunks(&self, id: JobId) -> Result<Vec<Chunk>, StoreError> {
        let query = self
            .query_chunks(id)
            .projection_expression(
                "jobId, #item, chunkStatus, #path, attempt, released, #history, claimedTime, claimedBy, \
                 claimedMessage, settledTime, #error, transcription.#text, transcription.durationSeconds, \
                 transcription.#language, transcription.confidence, transcription.speakers, \
                 transcription.warnings, #ttl",
            )
            .expression_attribute_names("#ttl", "ttl")
            .expression_attribute_names("#path", "path")
            .expression_attribute_names("#history", "history")
            .expression_attribute_names("#error", "error")
            .expression_attribute_names("#text", "text")
            .expression_attribute_names("#language", "language");
        all_chunks(query).await
    }

    fn query(&self) -> QueryFluentBuilder {
        self.client.query().table_name(&self.table)
    }

    pub(super) fn query_chunks(&self, id: JobId) -> QueryFluentBuilder {
        self.query()
            .key_condition_expression("jobId = :job AND begins_with(#item, :chunk)")
            .expression_attribute_names("#item", "item")
            .expression_attribute_values(":job", text(id.to_string()))
            .expression_attribute_values(":chunk", text(CHUNK_PREFIX))
            .consistent_read(true)
    }

    pub(super) async fn read_job(&self, id: JobId) -> Result<Option<JobItem>, StoreError> {
        get(self.get(key(id, JOB))).await
    }

    pub(super) async fn read_claim(&self, at: ChunkRef) -> Result<Option<ClaimState>, StoreError> {
        let request = self
            .get(key(at.job, chunk_key(at.index)))
            .projection_expression("chunkStatus, attempt, #ttl")
            .expression_attribute_names("#ttl", "ttl");
        get(request).await
    }

    /// A page of a listing. Reads on if none of the jobs read so far belongs to the listing.
    pub(super) async fn read_page(&self, search: &Search) -> Result<SearchPage, StoreError> {
        let mut search = search.clone();
        loop {
            let page = self.part_of_listing(&search).await?;
            match page.next {
                Some(next) if page.jobs.is_empty() => search.after = Some(next),
                _ => return Ok(page),
            }
        }
    }

    async fn part_of_listing(&self, search: &Search) -> Result<SearchPage, StoreError> {
        let statuses = search.status.map_or(JobStatus::VARIANTS.to_vec(), |status| vec![status]);
        let listed = try_join_all(statuses.into_iter().map(|status| self.list(search, status)));
        let (listed, recent) = tokio::try_join!(listed, self.recent(search))?;
        // Below this position at least one status was not read.
        let read_to = listed.iter().filter_map(|(_, read_to)| *read_to).max();
        // The table is newer than the index.
        let known: HashSet<JobId> = recent.iter().map(|head| head.id).collect();
        let listed = listed.into_iter().flat_map(|(heads, _)| heads);
        let mut jobs: Vec<JobHead> = listed.filter(|head| !known.contains(&head.id)).chain(recent).collect();
        jobs.retain(|head| search.wants(head));
        // The index contains neither a job's expiry nor its last retry.
        let expired = |head: &mut JobHead| is_expired(Some(self.ttl(head.since())));
        let old: Vec<JobId> = jobs.extract_if(.., expired).map(|head| head.id).collect();
        jobs.extend(self.heads(old).await?);
        jobs.retain_mut(|head| search.wants(head) && !expired(head));
        jobs.sort_by_key(|head| Reverse(SearchPosition::of(head)));
        // A job whose status has just changed may be in two lists.
        jobs.dedup_by_key(|head| head.id);
        Ok(SearchPage::cut(jobs, search.limit, read_to))
    }

    /// The jobs of one status for a page, from the index, and the position where reading stopped if there are more.
    /// Reads one job more than the page needs. `DynamoDB` may end a response early, at 1 MB at the latest.
    async fn list(
        &self,
        search: &Search,
        status: JobStatus,
    ) -> Result<(Vec<JobHead>, Option<SearchPosition>), StoreError> {
        let low = search.from.map_or_else(|| format!("{status}#"), |from| format!("{status}#{from}"));
        let high = match (search.after, search.until) {
            (Some(after), Some(until)) if after.submitted >= until => format!("{status}#{until}"),
            (Some(after), _) => status_time(status, after),
            (None, Some(until)) => format!("{status}#{until}"),
            // Times begin with a digit, which is before a tilde.
            (None, None) => format!("{status}#~"),
        };
        let mut heads: Vec<JobHead> = Vec::new();
        if low > high {
            return Ok((heads, None));
        }
        // BETWEEN includes the last job of the previous page.
        let wanted = search.limit + 2;
        let query = self
            .query()
            .index_name(BY_USER)
            .key_condition_expression("userId = :user AND jobStatusTime BETWEEN :low AND :high")
            .expression_attribute_values(":user", text(search.user.as_str()))
            .expression_attribute_values(":low", text(low))
            .expression_attribute_values(":high", text(high))
            .scan_index_forward(false);
        let mut start = None;
        loop {
            let left = i32::try_from(wanted - heads.len()).unwrap_or(i32::MAX);
            let answer = query.clone().limit(left).set_exclusive_start_key(start).send().await;
            let answer = answer.map_err(unavailable)?;
            for item in answer.items.unwrap_or_default() {
                heads.push(decode::<HeadItem>(item)?.into());
            }
            start = answer.last_evaluated_key.filter(|key| !key.is_empty());
            let bytes: usize = heads.iter().map(JobHead::weight).sum();
            if start.is_none() || heads.len() >= wanted || bytes >= MAX_STATUS_BYTES {
                let read_to = start.and(heads.last().map(SearchPosition::of));
                return Ok((heads, read_to));
            }
        }
    }

    /// The jobs submitted in the last minute, from the table, since the index is eventually consistent. At most the
    /// newest 100 that may belong to this page.
    async fn recent(&self, search: &Search) -> Result<Vec<JobHead>, StoreError> {
        let since = search.now.minus(RECENT);
        if search.after.is_some_and(|after| after.submitted < since)
            || search.until.is_some_and(|u| u < since)
        {
            return Ok(Vec::new());
        }
        let before = search.after.map_or_else(
            // Times begin with a digit, which is before a tilde.
            || "recent#~".to_owned(),
            |after| recent_key(after.submitted, Some(after.job)),
        );
        let query = self
            .query()
            .key_condition_expression("jobId = :user AND #item BETWEEN :since AND :before")
            .expression_attribute_names("#item", "item")
            .expression_attribute_values(":user", text(recent_partition(&search.user)))
            .expression_attribute_values(":since", text(recent_key(since, None)))
            .expression_attribute_values(":before", text(before))
            .scan_index_forward(false)
            .limit(100)
            .consistent_read(true);
        let items = query.send().await.map_err(unavailable)?.items.unwrap_or_default();
        let jobs = items.into_iter().filter_map(|item| {
            let name = item.get("item")?.as_s().ok()?;
            name.rsplit('#').next()?.parse::<JobId>().ok()
        });
        self.heads(jobs).await
    }

    async fn heads(&self, jobs: impl IntoIterator<Item = JobId>) -> Result<Vec<JobHead>, StoreError> {
        let keys = jobs.into_iter().map(|job| key(job, JOB)).collect();
        let head = |item| decode::<HeadItem>(item).map(JobHead::from);
        self.batch_get(keys, Some(HEAD)).await?.into_iter().map(head).collect()
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
