//! The table or the queue fails: what the answer says, and what it does not.

use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use axum::body::Body;
use axum::http::Request;
use longhand_shared::domain::callback::Callback;
use longhand_shared::domain::id::ChunkRef;
use longhand_shared::domain::idempotency::Idempotency;
use longhand_shared::domain::job::{Chunk, Job, JobHead, NewJob, Verdict};
use longhand_shared::domain::transcript::TranscriptResult;
use longhand_shared::queue::{ChunkQueue, Delivery, Depth, Outgoing, QueueError, Receipt, Standing};
use longhand_shared::store::{
    Claim, Created, Detail, DueJob, Finish, JobStore, RemoveUnsettled, Search, SearchPage, Settle, StoreError,
};
use longhand_shared::{Attempt, ChunkIndex, Claimant, JobId, Timestamp, UserId};
use serde_json::json;

use crate::support::{Api, good_body};

const SECRET: &str = "arn:aws:dynamodb:secret";

const UNKNOWN: &str = "/transcript/0198c1d2-7a3e-7cc0-8000-1c2d3e4f5a6b";

const SEARCH: &str = "/transcript/search?userId=ana&jobStatus=FAILED";

#[derive(Clone, Copy, Debug)]
enum How {
    Down,
    Corrupt,
    Panics,
    Hangs,
    /// After 5 s.
    DownSlowly,
    /// After it has answered one ping.
    DownSoon,
}

/// A store in which every step fails, and which counts the pings.
#[derive(Debug)]
struct BadStore(How, Arc<AtomicU32>);

impl BadStore {
    async fn fail<T>(&self) -> Result<T, StoreError> {
        match self.0 {
            How::Down | How::DownSoon => Err(StoreError::Unavailable(SECRET.to_owned())),
            How::Corrupt => Err(StoreError::Corrupt(SECRET.to_owned())),
            How::Panics => panic!("{SECRET}"),
            How::Hangs => pending().await,
            How::DownSlowly => {
                tokio::time::sleep(Duration::from_secs(5)).await;
                Err(StoreError::Unavailable(SECRET.to_owned()))
            }
        }
    }
}

#[async_trait]
impl JobStore for BadStore {
    async fn create(&self, _: &NewJob, _: Timestamp) -> Result<Created, StoreError> {
        self.fail().await
    }
    async fn earlier(
        &self,
        _: &UserId,
        _: &Idempotency,
        _: Timestamp,
    ) -> Result<Option<Created>, StoreError> {
        self.fail().await
    }
    async fn claim(
        &self,
        _: ChunkRef,
        _: Claimant<'_>,
        _: Timestamp,
        _: Duration,
    ) -> Result<Claim, StoreError> {
        self.fail().await
    }
    async fn release(&self, _: ChunkRef, _: &Attempt) -> Result<bool, StoreError> {
        self.fail().await
    }
    async fn is_claimed_by(&self, _: ChunkRef, _: &Attempt) -> Result<bool, StoreError> {
        self.fail().await
    }
    async fn note(&self, _: ChunkRef, _: &Attempt) -> Result<(), StoreError> {
        self.fail().await
    }
    async fn settle(
        &self,
        _: ChunkRef,
        _: &Attempt,
        _: &Verdict,
        _: Timestamp,
    ) -> Result<Settle, StoreError> {
        self.fail().await
    }
    async fn remove_unsettled(&self, _: JobId, _: &[ChunkIndex]) -> Result<RemoveUnsettled, StoreError> {
        self.fail().await
    }
    async fn finish(&self, _: &JobHead, _: &TranscriptResult) -> Result<Finish, StoreError> {
        self.fail().await
    }
    async fn note_callback(&self, _: JobId, _: Timestamp, _: &Callback) -> Result<bool, StoreError> {
        self.fail().await
    }
    async fn reopen(
        &self,
        _: &JobHead,
        _: &[ChunkIndex],
        _: Timestamp,
        _: Timestamp,
    ) -> Result<bool, StoreError> {
        self.fail().await
    }
    async fn job(&self, _: JobId) -> Result<Option<Job>, StoreError> {
        self.fail().await
    }
    async fn chunks(&self, _: JobId) -> Result<Vec<Chunk>, StoreError> {
        self.fail().await
    }
    async fn details(&self, _: &[JobHead]) -> Result<Vec<Option<Detail>>, StoreError> {
        self.fail().await
    }
    async fn search(&self, _: &Search) -> Result<SearchPage, StoreError> {
        self.fail().await
    }
    async fn due(&self, _: Timestamp, _: usize) -> Result<Vec<DueJob>, StoreError> {
        self.fail().await
    }
    async fn postpone(&self, _: &DueJob, _: Timestamp, _: Option<Timestamp>) -> Result<bool, StoreError> {
        self.fail().await
    }
    async fn erase(&self, _: JobId) -> Result<bool, StoreError> {
        self.fail().await
    }
    async fn ping(&self) -> Result<(), StoreError> {
        let first = self.1.fetch_add(1, Ordering::SeqCst) == 0;
        if first && matches!(self.0, How::DownSoon) { Ok(()) } else { self.fail().await }
    }
}

/// A queue that does not answer, or answers and takes messages as this says.
#[derive(Debug)]
struct BadQueue(Option<Standing>);

impl BadQueue {
    fn down() -> QueueError {
        QueueError::Unavailable(SECRET.to_owned())
    }
}

#[async_trait]
impl ChunkQueue for BadQueue {
    async fn send(&self, messages: &[Outgoing]) -> Vec<Result<(), QueueError>> {
        vec![Err(Self::down()); messages.len()]
    }
    async fn receive(&self, _: usize, _: Duration, _: Duration) -> Result<Vec<Delivery>, QueueError> {
        Err(Self::down())
    }
    async fn delete(&self, receipts: &[Receipt]) -> Vec<Result<(), QueueError>> {
        vec![Err(Self::down()); receipts.len()]
    }
    async fn change_visibility(&self, changes: &[(Receipt, Duration)]) -> Vec<Result<(), QueueError>> {
        vec![Err(Self::down()); changes.len()]
    }
    async fn depth(&self) -> Result<Depth, QueueError> {
        if self.0.is_some() { Ok(Depth::default()) } else { Err(Self::down()) }
    }
    fn standing(&self) -> Standing {
        self.0.clone().unwrap_or_default()
    }
}

/// Every call that needs the store ends like this, and nothing leaks.
async fn assert_all(how: How, status: u16, code: &str) {
    let api = Api::with_store(BadStore(how, Arc::default()));
    for answer in [api.transcribe(&good_body()).await, api.get(UNKNOWN).await, api.get(SEARCH).await] {
        let problem = answer.problem(status, code);
        assert!(problem.get("errors").is_none());
        assert!(!answer.text().contains("secret"), "{}", answer.text());
        assert_eq!(answer.headers.contains_key("retry-after"), status == 503);
    }
    assert_eq!(api.get("/healthz").await.status, 200);
}

#[tokio::test]
async fn the_store_is_down() {
    assert_all(How::Down, 503, "STORE_UNAVAILABLE").await;
}

#[tokio::test]
async fn the_store_holds_nonsense() {
    assert_all(How::Corrupt, 500, "INTERNAL").await;
}

#[tokio::test]
async fn the_store_panics() {
    assert_all(How::Panics, 500, "INTERNAL").await;
}

#[tokio::test(start_paused = true)]
async fn the_store_hangs() {
    assert_all(How::Hangs, 504, "TIMEOUT").await;
}

#[tokio::test(start_paused = true)]
async fn waits_for_one_job_fail_together() {
    let api = Api::with_store(BadStore(How::DownSlowly, Arc::default()));
    let begin = tokio::time::Instant::now();
    for again in 1..=2 {
        let wait =
            || Request::get(UNKNOWN).header("prefer", "wait=20").body(Body::empty()).expect("a request");
        for answer in futures::future::join_all((0..4).map(|_| api.send(wait()))).await {
            answer.problem(503, "STORE_UNAVAILABLE");
        }
        assert_eq!(begin.elapsed().as_secs(), 5 * again, "one read for all, and another one later");
    }
}

#[tokio::test]
async fn a_job_is_accepted_while_the_queue_is_down() {
    let api = Api::with_queue(BadQueue(None));
    let answer = api.transcribe(&good_body()).await;
    answer.json(202);
    let read = api.get(answer.header("location")).await.json(200);
    assert_eq!(read["jobStatus"], "IN_PROGRESS");
}

#[tokio::test]
async fn readiness_names_what_is_not_ready() {
    let api = Api::with_queue(BadQueue(None));
    let answer = api.get("/readyz").await;
    // Jobs are taken and read without the queue.
    let reasons = ["the queue does not answer"];
    assert_eq!(answer.json(200), json!({"status": "degraded", "missing": ["queue"], "reasons": reasons}));
    assert!(!answer.text().contains("secret"));
    let api = Api::with_store(BadStore(How::Down, Arc::default()));
    assert_eq!(
        api.get("/readyz").await.problem(503, "NOT_READY")["detail"],
        "not ready: no answer from table"
    );
}

#[tokio::test]
async fn a_queue_that_refuses_messages_degrades_the_service() {
    let ready = async |standing: Standing| {
        let api = Api::with_queue(BadQueue(Some(standing)));
        api.get("/readyz").await.json(200)
    };
    let refused = Standing { refused: Some("AccessDenied".to_owned()), ..Standing::default() };
    let reasons = ["the queue refuses messages: AccessDenied"];
    assert_eq!(ready(refused).await, json!({"status": "degraded", "missing": [], "reasons": reasons}));
    let groups = Standing { groups_refused: true, refused: None };
    assert_eq!(ready(groups).await, json!({"status": "ready", "missing": [], "messageGroups": false}));
}

#[tokio::test(start_paused = true)]
async fn serving_waits_for_the_table_once() {
    let api = Api::with_store(BadStore(How::Down, Arc::default()));
    assert_eq!(
        api.get("/serving").await.problem(503, "NOT_READY")["detail"],
        "not ready: no answer from table"
    );

    let api = Api::with_store(BadStore(How::DownSoon, Arc::default()));
    assert_eq!(api.get("/serving").await.json(200), json!({"status": "ok"}));
    tokio::time::advance(Duration::from_secs(2)).await;
    api.get("/readyz").await.problem(503, "NOT_READY");
    assert_eq!(api.get("/serving").await.status, 200);
}

#[tokio::test(start_paused = true)]
async fn many_probes_cost_as_little_as_one() {
    let pings = Arc::new(AtomicU32::new(0));
    let api = Api::with_store(BadStore(How::Hangs, pings.clone()));
    let begin = tokio::time::Instant::now();
    let probes = (0..50).map(|_| api.get("/readyz"));
    for answer in futures::future::join_all(probes).await {
        answer.problem(503, "NOT_READY");
    }
    assert_eq!(begin.elapsed().as_secs(), 2, "the limit of one check");
    assert_eq!(pings.load(Ordering::SeqCst), 1);
    tokio::time::advance(Duration::from_secs(1)).await;
    api.get("/readyz").await.problem(503, "NOT_READY");
    assert_eq!(pings.load(Ordering::SeqCst), 2);
}
