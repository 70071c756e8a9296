//! `GET /operations`: the state of the whole service, for operators, and `POST /operations/redrive`.
//!
//! The queues are asked; what workers do is in the reports that they write to the table (`worker/src/report.rs`).

use std::collections::BTreeMap;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::Uri;
use longhand_shared::domain::id::ChunkIndex;
use longhand_shared::domain::worker_state::{MINUTES, Minute, WorkerState};
use longhand_shared::queue::{ChunkMessage, ChunkQueue, Delivery, Depth, MAX_BATCH, QueueError, Receipt};
use longhand_shared::{JobId, Timestamp};
use serde::Serialize;
use tokio::time::timeout;
use utoipa::ToSchema;

use crate::auth::caller::Caller;
use crate::error::ApiError;
use crate::error_codes::Code;
use crate::input::Fields;
use crate::openapi::problems::{AUTHENTICATED, COMMON, problems};
use crate::state::{App, AppState};

/// How long a queue may take to answer.
const QUEUE_TIMEOUT: Duration = Duration::from_secs(3);

/// How long listed dead letters are hidden from workers, unless they are released before.
const HOLD: Duration = Duration::from_secs(20);

/// How many batches of dead letters are listed or redriven by one call.
const BATCHES: usize = 5;

/// The state of the service.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Operations {
    time: Timestamp,
    /// The queue of chunks; null if it does not answer.
    #[schema(required)]
    queue: Option<QueueDepth>,
    /// Null if the queue does not answer or is not configured (`LONGHAND_DLQ_URL`).
    #[schema(required)]
    dead_letters: Option<DeadLetters>,
    /// How long the messages that were received within the last two minutes had waited, on average. Null without
    /// messages.
    #[schema(required)]
    wait_seconds: Option<f64>,
    /// The workers that reported within the last minute.
    workers: Vec<WorkerRow>,
    /// The last 30 minutes of all workers, the oldest first.
    minutes: Vec<MinuteRow>,
    /// How many chunks failed in these minutes, by error code.
    failures: BTreeMap<String, u64>,
}

/// The approximate number of messages.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct QueueDepth {
    /// Messages that wait.
    visible: u64,
    /// Messages that workers have received and not yet deleted.
    in_flight: u64,
    /// Messages whose delay has not passed.
    delayed: u64,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct DeadLetters {
    visible: u64,
    /// Hidden: a worker processes them, or they are invalid. Workers hide invalid ones for 15 minutes at a time.
    hidden: u64,
    /// With `deadLetters=true` only: some of the visible ones.
    messages: Vec<DeadLetter>,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct DeadLetter {
    message_id: String,
    /// Null if it is not a chunk's message.
    #[schema(required)]
    job_id: Option<JobId>,
    #[schema(required)]
    chunk_index: Option<ChunkIndex>,
    /// When the message was sent.
    #[schema(required)]
    sent_time: Option<Timestamp>,
    receives: u32,
    /// Why a worker sent it here.
    #[schema(required)]
    reason: Option<String>,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct WorkerRow {
    name: String,
    started_time: Timestamp,
    reported_time: Timestamp,
    /// The number of chunks that the worker may process at the same time now; 0 while the circuit breaker is open.
    slots: usize,
    /// The most slots that the worker may have (`LONGHAND_CONCURRENCY`).
    limit: usize,
    /// The number of chunks that the worker has in hand. Some wait, for a retry or for other chunks of their job, and
    /// need no slot.
    in_hand: usize,
    /// Whether the circuit breaker is open: the model is down.
    circuit_open: bool,
    /// Why the circuit breaker is open.
    #[schema(required)]
    problem: Option<String>,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct MinuteRow {
    time: Timestamp,
    /// The number of chunks that were completed in this minute.
    completed: u64,
    /// The number of chunks that failed in this minute.
    failed: u64,
    /// The number of model calls in this minute.
    model_calls: u64,
    /// The average duration of a model call; null without calls.
    #[schema(required)]
    model_seconds: Option<f64>,
    /// How long received messages had waited, on average; null without messages.
    #[schema(required)]
    wait_seconds: Option<f64>,
}

/// The query in the description.
#[derive(utoipa::IntoParams)]
#[into_params(parameter_in = Query, rename_all = "camelCase")]
#[expect(dead_code, reason = "`read` reads the query field by field, to report every fault")]
struct OperationsParams {
    /// `true`: lists up to 50 dead letters. This hides them from workers for a moment.
    #[param(default = false)]
    dead_letters: Option<bool>,
}

problems!(Problems: COMMON, AUTHENTICATED, &[
    Code::InvalidRequest,
    Code::OperatorsOnly,
    Code::RateLimited,
    Code::StoreUnavailable,
]);

/// See the state of the service
///
/// Queues, workers, the model and failures. For operators. The figures of workers are up to 15 seconds old.
#[utoipa::path(
    get,
    path = "/operations",
    tag = "Operations",
    operation_id = "getOperations",
    params(OperationsParams),
    responses((status = 200, description = "The state of the service.", body = Operations), Problems),
)]
pub(crate) async fn read(
    State(app): State<App>,
    caller: Caller,
    uri: Uri,
) -> Result<Json<Operations>, ApiError> {
    caller.operator()?;
    let mut fields = Fields::of_query(&uri);
    let list = fields.flag("deadLetters");
    fields.finish(Some(()))?;
    app.limits.read(caller.name())?;
    let now = Timestamp::now();
    let (queue, dead_letters, reports) = tokio::join!(
        depth(app.lifecycle.queue().as_ref()),
        dead_letters(&app, list),
        app.store().reports(now)
    );
    let queue = queue.map(|Depth { visible, in_flight, delayed }| QueueDepth { visible, in_flight, delayed });
    Ok(Json(summary(now, queue, dead_letters, &reports?)))
}

async fn depth(queue: &dyn ChunkQueue) -> Option<Depth> {
    timeout(QUEUE_TIMEOUT, queue.depth()).await.ok()?.ok()
}

async fn dead_letters(app: &AppState, list: bool) -> Option<DeadLetters> {
    let queue = app.dead_letters.as_deref()?;
    let Depth { visible, in_flight, delayed } = depth(queue).await?;
    let messages = if list && visible > 0 { browse(queue).await } else { Vec::new() };
    Some(DeadLetters { visible, hidden: in_flight + delayed, messages })
}

/// Some of the dead letters. SQS shows messages only by receiving them; they are released at once.
async fn browse(queue: &dyn ChunkQueue) -> Vec<DeadLetter> {
    let (deliveries, _) = receive(queue).await;
    release(queue, deliveries.iter().map(|delivery| delivery.receipt.clone())).await;
    deliveries.into_iter().map(DeadLetter::new).collect()
}

/// Up to [`BATCHES`] batches, and the error that ended them early.
async fn receive(queue: &dyn ChunkQueue) -> (Vec<Delivery>, Option<QueueError>) {
    let mut all: Vec<Delivery> = Vec::new();
    for _ in 0..BATCHES {
        match queue.receive(MAX_BATCH, Duration::ZERO, HOLD).await {
            Ok(batch) if batch.is_empty() => break,
            Ok(batch) => all.extend(batch),
            Err(error) => return (all, Some(error)),
        }
    }
    (all, None)
}

/// What is not released becomes visible again after [`HOLD`].
async fn release(queue: &dyn ChunkQueue, receipts: impl Iterator<Item = Receipt>) {
    let changes: Vec<_> = receipts.map(|receipt| (receipt, Duration::ZERO)).collect();
    if !changes.is_empty() {
        queue.change_visibility(&changes).await;
    }
}

impl DeadLetter {
    fn new(delivery: Delivery) -> Self {
        let chunk = ChunkMessage::parse(&delivery.body).ok().map(|message| message.chunk());
        Self {
            job_id: chunk.map(|chunk| chunk.job),
            chunk_index: chunk.map(|chunk| chunk.index),
            message_id: delivery.message_id,
            sent_time: delivery.sent,
            receives: delivery.receive_count,
            reason: delivery.envelope.reason,
        }
    }
}

fn summary(
    now: Timestamp,
    queue: Option<QueueDepth>,
    dead_letters: Option<DeadLetters>,
    reports: &[WorkerState],
) -> Operations {
    let this_minute = now.unix() / 60;
    let first = this_minute - i64::try_from(MINUTES).unwrap_or_default() + 1;
    let mut minutes = [Minute::default(); MINUTES];
    let mut failures = BTreeMap::new();
    for report in reports {
        for (age, minute) in report.minutes.iter().rev().enumerate() {
            let place = report.last_minute - i64::try_from(age).unwrap_or(i64::MAX) - first;
            if let Some(sum) = usize::try_from(place).ok().and_then(|place| minutes.get_mut(place)) {
                sum.add(*minute);
            }
        }
        for (code, count) in &report.failures {
            *failures.entry(code.clone()).or_default() += count;
        }
    }
    let mut recent = minutes[MINUTES - 1];
    recent.add(minutes[MINUTES - 2]);
    let begin = now.minus(Duration::from_secs(now.unix().unsigned_abs() % 60));
    let row = |(place, minute): (usize, &Minute)| MinuteRow {
        time: begin.minus(Duration::from_mins((MINUTES - 1 - place) as u64)),
        completed: minute.completed,
        failed: minute.failed,
        model_calls: minute.calls,
        model_seconds: average(minute.call_ms, minute.calls),
        wait_seconds: average(minute.wait_ms, minute.received),
    };
    Operations {
        time: now,
        queue,
        dead_letters,
        wait_seconds: average(recent.wait_ms, recent.received),
        workers: reports.iter().map(WorkerRow::new).collect(),
        minutes: minutes.iter().enumerate().map(row).collect(),
        failures,
    }
}

impl WorkerRow {
    fn new(report: &WorkerState) -> Self {
        Self {
            name: report.name.clone(),
            started_time: report.started,
            reported_time: report.reported,
            slots: report.slots,
            limit: report.ceiling,
            in_hand: report.in_hand,
            circuit_open: report.circuit_open,
            problem: report.problem.clone(),
        }
    }
}

/// In seconds.
#[expect(clippy::cast_precision_loss, reason = "milliseconds of an hour are far below 2^52")]
fn average(ms: u64, count: u64) -> Option<f64> {
    (count > 0).then(|| (ms as f64 / count as f64).round() / 1000.0)
}

/// What a redrive did.
#[derive(Serialize, ToSchema)]
pub(crate) struct Redriven {
    /// Messages that were sent to the queue of chunks again.
    redriven: usize,
    /// Messages that stay: they are not messages of chunks, or could not be sent.
    kept: usize,
}

problems!(RedriveProblems: COMMON, AUTHENTICATED, &[
    Code::NoDeadLetterQueue,
    Code::OperatorsOnly,
    Code::QueueUnavailable,
    Code::RateLimited,
]);

/// Redrive dead letters
///
/// Sends up to 50 visible dead letters to the queue of chunks again. For operators. Workers do this by themselves for
/// chunks that may be tried again. To retry a failed chunk, retry its job: `POST /transcript/{jobId}/retry`.
#[utoipa::path(
    post,
    path = "/operations/redrive",
    tag = "Operations",
    operation_id = "redrive",
    responses((status = 200, description = "What was done.", body = Redriven), RedriveProblems),
)]
pub(crate) async fn redrive(State(app): State<App>, caller: Caller) -> Result<Json<Redriven>, ApiError> {
    caller.operator()?;
    app.limits.read(caller.name())?;
    let queue = app.dead_letters.as_deref().ok_or(ApiError::NoDeadLetterQueue)?;
    let (deliveries, error) = receive(queue).await;
    if let Some(error) = error.filter(|_| deliveries.is_empty()) {
        return Err(ApiError::NoDeadLetters { cause: error.to_string() });
    }
    let (ours, mut kept): (Vec<_>, Vec<_>) =
        deliveries.into_iter().partition(|delivery| ChunkMessage::parse(&delivery.body).is_ok());
    let copies: Vec<_> = ours.iter().map(|delivery| delivery.requeued(Duration::ZERO)).collect();
    let sent = app.lifecycle.queue().send(&copies).await;
    let mut done = Vec::new();
    for (delivery, sent) in ours.into_iter().zip(sent) {
        // Deleted only after its copy is in the queue.
        if sent.is_ok() { done.push(delivery.receipt) } else { kept.push(delivery) }
    }
    // One that is not deleted is redriven again: its copy finds the chunk claimed or settled.
    queue.delete(&done).await;
    release(queue, kept.iter().map(|delivery| delivery.receipt.clone())).await;
    Ok(Json(Redriven { redriven: done.len(), kept: kept.len() }))
}
