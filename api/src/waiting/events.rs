//! `GET /transcript/{jobId}/events`: a job's changes as they happen, as server-sent events (WHATWG HTML,
//! section 9.2).
//!
//! An event's id is all that a client knows which has read this far: the job's and each chunk's mark.
//! So any server can go on where another ended, without keeping anything: it compares the marks of
//! `Last-Event-ID` with how the job stands, and sends what differs. What came and went in between is
//! not told.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::fmt::Write;
use std::time::Duration;

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderName, StatusCode};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures::Stream;
use futures::stream::unfold;
use longhand_shared::JobId;
use longhand_shared::job::{ChunkError, ChunkStatus, JobStatus};
use longhand_shared::transcript::{ChunkResult, TranscriptResult};
use serde::Serialize;
use tokio::sync::OwnedSemaphorePermit;

use crate::auth::Caller;
use crate::error::ApiError;
use crate::waiting::{Detail, Watch};
use crate::{AppState, edge, jobs};

/// From one sign of life to the next while nothing happens: load balancers cut silent connections after
/// a minute.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// When a client should come again after its connection was cut.
const RETRY: Duration = Duration::from_secs(2);

/// The longest id that is looked at, in bytes; ours have some 200 at most.
const MAX_ID_BYTES: usize = 512;

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// nginx would keep events back until it has a few kilobytes of them.
const UNBUFFERED: (HeaderName, &str) = (HeaderName::from_static("x-accel-buffering"), "no");

/// `GET /transcript/{jobId}/events`: `chunk` and `job` events until the job has ended; the last one has
/// the result. `204` tells a client that has read the last one not to come again.
pub(crate) async fn follow(
    State(app): State<AppState>,
    caller: Caller,
    id: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let id = jobs::job_id(id)?;
    if edge::through_gateway(&headers) {
        return Err(ApiError::NoStreams);
    }
    let mut watch = app.waiting.watch(id, Detail::Chunks, false);
    // Not as it stood a moment ago: the client may have heard more of it from another server.
    let job = caller.visible(id, watch.current().await?, |result| &result.user_id)?;
    let permit = app.waiting.stream_permit().ok_or(ApiError::TooManyStreams)?;
    let known = headers.get(LAST_EVENT_ID).and_then(|id| id.to_str().ok()).map(Marks::parse);
    let ended = job.job_status != JobStatus::InProgress;
    if ended && known.as_ref() == Some(&Marks::of(&job)) {
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    let mut events = VecDeque::from([Event::default().retry(RETRY)]);
    let mut known = known.unwrap_or_default();
    events.extend(known.news(&job));
    let following = Following { watch, known, events, ended, _permit: permit };
    let sse = Sse::new(stream(following)).keep_alive(KeepAlive::new().interval(HEARTBEAT));
    Ok(([UNBUFFERED], sse).into_response())
}

/// One client that follows a job.
struct Following {
    watch: Watch,
    known: Marks,
    events: VecDeque<Event>,
    ended: bool,
    _permit: OwnedSemaphorePermit,
}

/// Ends with the job, or with the process: the client then comes again, to another.
fn stream(following: Following) -> impl Stream<Item = Result<Event, Infallible>> {
    unfold(following, async |mut following| {
        loop {
            if let Some(event) = following.events.pop_front() {
                return Some((Ok(event), following));
            }
            if following.ended {
                return None;
            }
            // One that is gone or cannot be read: the client comes again and is told so.
            let job = following.watch.next().await?.ok().flatten()?;
            following.ended = job.job_status != JobStatus::InProgress;
            following.events.extend(following.known.news(&job));
        }
    })
}

/// What a client knows: a short text for the job and one for each chunk, which differ when what is told
/// of them does. `I;I1.C1.P0` is a job in progress of three chunks, one of which is done.
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
        let chunk = |chunk: &ChunkResult| format!("{}{}", &chunk.chunk_status.as_str()[..1], chunk.attempts);
        Self { job: mark, chunks: job.chunks.iter().map(chunk).collect() }
    }

    /// What is no id of ours knows nothing: everything will be told.
    fn parse(id: &str) -> Self {
        let id = if id.len() > MAX_ID_BYTES { "" } else { id };
        let (job, chunks) = id.split_once(';').unwrap_or_default();
        Self { job: job.to_owned(), chunks: chunks.split('.').map(str::to_owned).collect() }
    }

    fn id(&self) -> String {
        let mut id = format!("{};", self.job);
        for (index, chunk) in self.chunks.iter().enumerate() {
            let _ = write!(id, "{}{chunk}", if index == 0 { "" } else { "." });
        }
        id
    }

    /// The events of what is not known yet; it is from here on.
    fn news(&mut self, job: &TranscriptResult) -> Vec<Event> {
        let current = Self::of(job);
        if self.chunks.len() != current.chunks.len() {
            *self = Self { job: String::new(), chunks: vec![String::new(); current.chunks.len()] };
        }
        let mut events = Vec::new();
        // That it goes on is said first, that it has ended last.
        if job.job_status == JobStatus::InProgress && self.job != current.job {
            self.job.clone_from(&current.job);
            events.push(self.event("job", &JobEvent::new(job)));
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

/// The data of a `job` event while the job goes on; at its end it is the whole result.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct JobEvent {
    job_id: JobId,
    job_status: JobStatus,
    chunk_count: usize,
}

impl JobEvent {
    fn new(job: &TranscriptResult) -> Self {
        Self { job_id: job.job_id, job_status: job.job_status, chunk_count: job.chunks.len() }
    }
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
}

impl<'a> ChunkEvent<'a> {
    fn new(chunk: &'a ChunkResult) -> Self {
        Self {
            index: chunk.index.get(),
            chunk_status: chunk.chunk_status,
            attempts: chunk.attempts,
            error: chunk.error.as_ref(),
        }
    }
}
