//! `GET /transcript/{jobId}/events`: a job's changes as they happen, as server-sent events (WHATWG HTML,
//! section 9.2).
//!
//! An event's id holds all that its reader knows at this point: the marks of the job and of each chunk.
//! So any server can go on where another ended, without keeping anything: it compares the marks of
//! `Last-Event-ID` with the current job, and sends what differs. What came and went in between is not sent.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderName, StatusCode};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures::stream::unfold;
use futures::{Stream, TryStreamExt};
use longhand_shared::JobId;
use longhand_shared::domain::attempt::AttemptRecord;
use longhand_shared::domain::job::{ChunkError, ChunkStatus, JobStatus};
use longhand_shared::domain::transcript::{ChunkResult, TranscriptResult};
use parking_lot::Mutex;
use serde::Serialize;
use tokio::time::{Instant, timeout_at};
use utoipa::ToSchema;

use super::in_progress::running;
use super::places::Place;
use crate::auth::caller::Caller;
use crate::edge;
use crate::error::ApiError;
use crate::error_codes::Code;
use crate::jobs::audio::TicketParam;
use crate::jobs::path::JobPath;
use crate::openapi::examples;
use crate::openapi::problems::{AUTHENTICATED, COMMON, JOB_PATH, problems};
use crate::reads::{Charge, Reads, SMALL, charged};
use crate::state::App;
use crate::waiting::{Detail, Watch};

/// The interval between comments while nothing happens: load balancers close silent connections after a minute.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// How long a client should wait before it reconnects.
const RETRY: Duration = Duration::from_secs(2);

/// The longest id that is parsed, in bytes; ours have at most about 200.
const MAX_ID_BYTES: usize = 512;

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// Otherwise nginx buffers some kilobytes of events.
const UNBUFFERED: (HeaderName, &str) = (HeaderName::from_static("x-accel-buffering"), "no");

problems!(Problems: COMMON, AUTHENTICATED, JOB_PATH, &[
    Code::RateLimited,
    Code::TooManyWaiting,
    Code::TooManyStreams,
    Code::Busy,
    Code::StreamsNotSupported,
]);

// OpenAPI 3.1 cannot describe a stream: by convention the schema is that of an event.
#[derive(ToSchema)]
#[expect(dead_code, reason = "events are written by axum's `Event`")]
struct EventSchema {
    id: String,
    #[schema(inline)]
    event: EventName,
    #[schema(content_media_type = "application/json")]
    data: String,
}

#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
#[expect(dead_code, reason = "see `EventSchema`")]
enum EventName {
    Job,
    Chunk,
}

fn example() -> String {
    let job = examples::JOB;
    format!(
        "retry: 2000\n\nid: I;.\nevent: job\ndata: {{\"jobId\":\"{job}\",\"jobStatus\":\"IN_PROGRESS\",\"chunkCount\":2}}\n\n"
    )
}

/// Follow a job
///
/// Sends the job's changes as they happen. A comment every 15 seconds keeps the connection alive. A stream may end
/// before the job does, at the latest after `LONGHAND_STREAM_MINUTES`: reconnect with `Last-Event-ID`.
#[utoipa::path(
    get,
    path = "/transcript/{jobId}/events",
    tag = "Jobs",
    operation_id = "followTranscript",
    params(
        JobPath,
        TicketParam,
        (
            "Last-Event-ID" = Option<String>, Header,
            description = "The id of the last event that was read. The stream resumes after it.",
        ),
    ),
    responses(
        (
            status = 200,
            description = "Server-sent events: `job` while it is in progress (`jobId`, `jobStatus`, \
                `chunkCount`), `chunk` for each change of a chunk (`index`, `chunkStatus`, `attempts`, `error`; `running` \
                after a failed call of the model that is followed by another), and a last `job` with the whole result.",
            content((inline(EventSchema) = "text/event-stream", example = json!(example()))),
        ),
        (status = 204, description = "The client has read the last event. It should not reconnect."),
        Problems,
    ),
)]
pub(crate) async fn follow(
    State(app): State<App>,
    caller: Caller,
    JobPath(id): JobPath,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    if edge::through_gateway(&headers) {
        return Err(ApiError::NoStreams);
    }
    app.limits.read(caller.name())?;
    let reading = app.limits.reads().begin(caller.name()).await?;
    let mut watch = app.waiting.watch(id, Detail::Chunks);
    // Not a moment old: the client may know a newer state from another server.
    let job = caller.visible(id, watch.current().await?, |result| &result.user_id)?;
    let place = app.waiting.place(caller.name().unwrap_or(&job.user_id), id)?;
    let known = headers.get(LAST_EVENT_ID).and_then(|id| id.to_str().ok()).map(Marks::parse);
    let ended = job.job_status != JobStatus::InProgress;
    if ended && known.as_ref() == Some(&Marks::of(&job)) {
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    let ends = Instant::now() + app.waiting.0.stream_age;
    let events = VecDeque::from([Event::default().retry(RETRY)]);
    let (reads, charge) = (app.limits.reads().clone(), Arc::default());
    let known = known.unwrap_or_default();
    let mut following = Following { watch, known, events, ended, ends, reads, charge, place };
    following.queue(&job).await?;
    drop((reading, job));
    let charge = Arc::clone(&following.charge);
    let sse = Sse::new(stream(following)).keep_alive(KeepAlive::new().interval(HEARTBEAT));
    let stream = sse.into_response().into_body().into_data_stream();
    // A proxy that compresses answers would buffer events.
    let headers =
        [(CONTENT_TYPE, "text/event-stream"), (CACHE_CONTROL, "no-cache, no-transform"), UNBUFFERED];
    Ok((headers, Body::from_stream(stream.map_ok(move |bytes| charge_event(bytes, &charge)))).into_response())
}

/// Attaches the charge of a long event to its bytes.
fn charge_event(bytes: Bytes, charge: &Mutex<Option<Charge>>) -> Bytes {
    match charge.lock().take_if(|_| bytes.len() > SMALL) {
        Some(charge) => charged(bytes, charge),
        None => bytes,
    }
}

/// One client that follows a job.
struct Following {
    watch: Watch,
    known: Marks,
    events: VecDeque<Event>,
    ended: bool,
    /// When the stream is old enough.
    ends: Instant,
    reads: Reads,
    /// For the bytes of a long event that is about to be sent.
    charge: Arc<Mutex<Option<Charge>>>,
    place: Place,
}

impl Following {
    /// Queues the events that the client does not know. The last one has the whole result.
    async fn queue(&mut self, job: &TranscriptResult) -> Result<(), ApiError> {
        let bytes = job.weight();
        if self.ended && bytes > SMALL {
            let charge = self.reads.charge(Some(&self.place.user), bytes).await?;
            *self.charge.lock() = Some(charge);
        }
        self.events.extend(self.known.news(job));
        Ok(())
    }
}

/// Ends with the job, with the process, or with age: the client then resumes.
fn stream(following: Following) -> impl Stream<Item = Result<Event, Infallible>> {
    unfold(following, async |mut following| {
        loop {
            if let Some(event) = following.events.pop_front() {
                return Some((Ok(event), following));
            }
            if following.ended {
                return None;
            }
            // Gone, or not readable: the client reconnects and gets the error.
            let job = timeout_at(following.ends, following.watch.next()).await.ok()??.ok().flatten()?;
            following.ended = job.job_status != JobStatus::InProgress;
            // Refused: the client resumes, and waits for a permit again.
            following.queue(&job).await.ok()?;
        }
    })
}

/// What a client knows: a short text for the job and one for each chunk, which differ if their events do. `I;I1.C1.P0`
/// is a job in progress of three chunks, one of which is done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Marks {
    job: String,
    chunks: Vec<String>,
}

impl Marks {
    fn of(job: &TranscriptResult) -> Self {
        let mark = match (job.job_status, job.completed_time) {
            (JobStatus::InProgress, _) => "I".to_owned(),
            // A job that failed twice, a retry between, ended twice.
            (status, Some(at)) => format!("{}{at}", &status.as_str()[..1]),
            (status, None) => status.as_str()[..1].to_owned(),
        };
        let chunk = |chunk: &ChunkResult| {
            let failed = running(chunk).and_then(|running| running.asr_calls);
            let failed = failed.map(|calls| format!("~{calls}")).unwrap_or_default();
            format!("{}{}{failed}", &chunk.chunk_status.as_str()[..1], chunk.attempts)
        };
        Self { job: mark, chunks: job.chunks.iter().map(chunk).collect() }
    }

    /// An unknown id knows nothing: every event is sent.
    fn parse(id: &str) -> Self {
        let id = if id.len() > MAX_ID_BYTES { "" } else { id };
        let (job, chunks) = id.split_once(';').unwrap_or_default();
        Self { job: job.to_owned(), chunks: chunks.split('.').map(str::to_owned).collect() }
    }

    fn id(&self) -> String {
        format!("{};{}", self.job, self.chunks.join("."))
    }

    /// The events that are not known yet; they are from here on.
    fn news(&mut self, job: &TranscriptResult) -> Vec<Event> {
        let current = Self::of(job);
        if self.chunks.len() != current.chunks.len() {
            *self = Self { job: String::new(), chunks: vec![String::new(); current.chunks.len()] };
        }
        let mut events = Vec::new();
        // The job's event comes first while it is in progress, last at its end.
        if job.job_status == JobStatus::InProgress && self.job != current.job {
            self.job.clone_from(&current.job);
            let (job_id, job_status, chunk_count) = (job.job_id, job.job_status, job.chunks.len());
            events.push(self.event("job", &JobEvent { job_id, job_status, chunk_count }));
        }
        for (index, chunk) in job.chunks.iter().enumerate() {
            if self.chunks[index] != current.chunks[index] {
                self.chunks[index].clone_from(&current.chunks[index]);
                events.push(self.event("chunk", &ChunkEvent::new(chunk)));
            }
        }
        if self.job != current.job {
            self.job = current.job;
            events.push(self.event("job", job));
        }
        events
    }

    fn event(&self, name: &str, data: &impl Serialize) -> Event {
        let data = serde_json::to_string(data).unwrap_or_default();
        Event::default().id(self.id()).event(name).data(data)
    }
}

/// The data of a `job` event while the job is in progress; at its end it is the whole result.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct JobEvent {
    job_id: JobId,
    job_status: JobStatus,
    chunk_count: usize,
}

/// The data of a `chunk` event.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ChunkEvent<'a> {
    index: u8,
    chunk_status: ChunkStatus,
    attempts: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a ChunkError>,
    /// The running attempt, after failed calls of the model.
    #[serde(skip_serializing_if = "Option::is_none")]
    running: Option<&'a AttemptRecord>,
}

impl<'a> ChunkEvent<'a> {
    fn new(chunk: &'a ChunkResult) -> Self {
        Self {
            index: chunk.index.get(),
            chunk_status: chunk.chunk_status,
            attempts: chunk.attempts,
            error: chunk.error.as_ref(),
            running: running(chunk),
        }
    }
}
