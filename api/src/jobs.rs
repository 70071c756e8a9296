//! The calls that clients make: submit a job, read it, list a user's jobs.

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::http::header::{CONTENT_LOCATION, LOCATION};
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use longhand_shared::id::{InvalidJobId, MAX_CHUNKS};
use longhand_shared::job::{
    InvalidChunkCount, JobStatus, MAX_METADATA_BYTES, MAX_METADATA_ENTRIES, Metadata, NewJob,
    TranscribeOptions,
};
use longhand_shared::path::{AudioSources, InvalidPath};
use longhand_shared::store::{self, Search};
use longhand_shared::transcript::TranscriptResult;
use longhand_shared::{AudioPath, JobId, Timestamp, UserId, lifecycle, trace};
use serde::Serialize;
use serde_json::Value;
use tokio::task::spawn_blocking;
use tokio::time::Instant;
use tracing::{Span, field};

use crate::error::ApiError;
use crate::input::{Fields, kind, text};
use crate::waiting::{Detail, Waited, prefer};
use crate::{AppState, body, conditional, cursor, edge};

/// How many results a page has when the client does not say.
const DEFAULT_LIMIT: usize = 20;

/// The most results of a page.
const MAX_LIMIT: usize = 100;

/// `POST /transcribe`: makes a job of 1 to 24 chunks. Once it is answered with `202` the job will
/// end, whatever happens here: the table has it. With `Prefer: wait=n` it is answered with `200` and the
/// whole result if the job ends in time.
pub(crate) async fn create(State(app): State<AppState>, request: Request) -> Result<Response, ApiError> {
    let (arrived, wait) = (Instant::now(), prefer::wait(request.headers()));
    let traceparent = trace::current().or_else(|| edge::traceparent(request.headers()).map(str::to_owned));
    let fields = Fields::of_body(body::json(request).await?)?;
    let job = new_job(fields, &app.sources, Timestamp::now()).await?;
    Span::current().record("job_id", field::display(job.id));
    lifecycle::submit(&*app.store, &*app.queue, &job, traceparent.as_deref()).await?;
    let location = format!("/transcript/{}", job.id);
    let accepted = |location| (StatusCode::ACCEPTED, [(LOCATION, location)], Json(Accepted::new(&job)));
    let Some(wait) = wait else {
        return Ok(accepted(location).into_response());
    };
    let ended = app.waiting.watch(job.id, Detail::End, true).end(arrived + wait).await;
    let applied = [prefer::applied(wait)];
    Ok(match ended {
        Ok(Waited::Ended(result)) => {
            (applied, [(CONTENT_LOCATION, location)], Json(&*result)).into_response()
        }
        // The job is there, whatever is wrong with the wait.
        Ok(Waited::Over | Waited::Gone) | Err(_) => (applied, accepted(location)).into_response(),
    })
}

/// `GET /transcript/{jobId}`: the job as it stands, with what is known of its text. With `Prefer: wait=n`
/// the answer comes when the job ends, or as it stands when the time is over.
pub(crate) async fn read(
    State(app): State<AppState>,
    id: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let (arrived, wait) = (Instant::now(), prefer::wait(&headers));
    let id = job_id(id)?;
    let missing = ApiError::NoSuchJob(id);
    let Some(wait) = wait else {
        let result = app.waiting.read(id).await?.ok_or(missing)?;
        return conditional::answer(&headers, &result);
    };
    let mut watch = app.waiting.watch(id, Detail::End, false);
    watch.first().await?.ok_or(ApiError::NoSuchJob(id))?;
    let result = match watch.end(arrived + wait).await? {
        Waited::Ended(result) => Some(result),
        Waited::Over => watch.now().await?,
        Waited::Gone => None,
    };
    let result = result.ok_or(missing)?;
    let answer = conditional::answer(&headers, &result)?;
    Ok(([prefer::applied(wait)], answer).into_response())
}

/// The job that a path names.
pub(crate) fn job_id(id: Result<Path<String>, PathRejection>) -> Result<JobId, ApiError> {
    // The rejection is for escapes that are no UTF-8; no id has any.
    let id: JobId =
        id.map_err(|_| InvalidJobId).and_then(|Path(id)| id.parse()).map_err(ApiError::InvalidJobId)?;
    Span::current().record("job_id", field::display(id));
    Ok(id)
}

/// `GET /transcript/search`: a user's jobs of one status, newest first. The listing is an index that
/// follows the table by a moment: a job may be missing right after it was made, and may be
/// listed under its old status right after it ended. `GET /transcript/{jobId}` is always current.
pub(crate) async fn search(State(app): State<AppState>, uri: Uri) -> Result<Json<SearchResults>, ApiError> {
    let search = new_search(&uri)?;
    let (results, next) = store::read_page(&*app.store, &search).await?;
    let next_cursor = next.map(|position| cursor::encode(&search.user, search.status, position));
    Ok(Json(SearchResults { results, next_cursor }))
}

/// The answer to a job that was taken.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Accepted {
    job_id: JobId,
    job_status: JobStatus,
    user_id: UserId,
    submitted_time: Timestamp,
    /// How many chunks it has.
    chunk_count: usize,
}

impl Accepted {
    fn new(job: &NewJob) -> Self {
        Self {
            job_id: job.id,
            job_status: JobStatus::InProgress,
            user_id: job.user.clone(),
            submitted_time: job.submitted,
            chunk_count: job.chunks().len(),
        }
    }
}

/// A page of a listing.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct SearchResults {
    results: Vec<TranscriptResult>,
    /// What gets the next page; null at the end.
    next_cursor: Option<String>,
}

async fn new_job(mut fields: Fields, sources: &AudioSources, now: Timestamp) -> Result<NewJob, ApiError> {
    let user = fields.required_text::<UserId>("userId");
    let paths = audio_paths(&mut fields, sources).await?;
    let language = fields.optional_text("language");
    let prompt = fields.optional_text("prompt");
    let metadata = metadata(&mut fields);
    let (user, paths) = fields.finish(user.zip(paths))?;
    let count = paths.len();
    NewJob::new(user, paths, TranscribeOptions { language, prompt }, metadata, now)
        .map_err(|_| ApiError::Internal { cause: format!("{count} paths were let through") })
}

async fn audio_paths(
    fields: &mut Fields,
    sources: &AudioSources,
) -> Result<Option<Vec<AudioPath>>, ApiError> {
    const FIELD: &str = "audioChunkPaths";
    let entries = match fields.required(FIELD) {
        Some(Value::Array(entries)) => entries,
        Some(other) => {
            fields.fault(FIELD, format_args!("must be an array of strings, is {}", kind(&other)));
            return Ok(None);
        }
        None => return Ok(None),
    };
    if !(1..=MAX_CHUNKS).contains(&entries.len()) {
        fields.fault(FIELD, InvalidChunkCount(entries.len()));
    }
    // Those that are too many are not looked at: they have their fault.
    let entries: Vec<Result<AudioPath, String>> = entries.into_iter().take(MAX_CHUNKS).map(text).collect();
    let mut paths = Vec::with_capacity(entries.len());
    for (index, path) in check_sources(entries, sources).await?.into_iter().enumerate() {
        match path {
            Ok(path) => paths.push(path),
            Err(detail) => fields.fault_inside(FIELD, index, detail),
        }
    }
    Ok(Some(paths))
}

/// Faults the paths that may not be read here. Local ones are looked at on disk, off the threads
/// that answer requests.
async fn check_sources(
    paths: Vec<Result<AudioPath, String>>,
    sources: &AudioSources,
) -> Result<Vec<Result<AudioPath, String>>, ApiError> {
    let any_local = paths.iter().any(|path| matches!(path, Ok(AudioPath::Local(_))));
    let sources = sources.clone();
    let check = move || {
        let check = |path: AudioPath| {
            let verdict = sources.check(&path);
            verdict.map(|()| path).map_err(|error: InvalidPath| error.to_string())
        };
        paths.into_iter().map(|path| path.and_then(check)).collect()
    };
    if !any_local {
        return Ok(check());
    }
    spawn_blocking(check).await.map_err(|error| ApiError::Internal { cause: error.to_string() })
}

fn metadata(fields: &mut Fields) -> Metadata {
    const FIELD: &str = "metadata";
    let entries = match fields.optional(FIELD) {
        Some(Value::Object(entries)) => entries,
        Some(other) => {
            fields.fault(FIELD, format_args!("must be an object of strings, is {}", kind(&other)));
            return Metadata::new();
        }
        None => return Metadata::new(),
    };
    if entries.len() > MAX_METADATA_ENTRIES {
        let count = entries.len();
        fields.fault(FIELD, format_args!("must have at most {MAX_METADATA_ENTRIES} entries, has {count}"));
    }
    let mut metadata = Metadata::new();
    for (key, value) in entries {
        let text = match value {
            Value::String(text) => text,
            other => {
                fields.fault_inside(FIELD, key, format_args!("must be a string, is {}", kind(&other)));
                continue;
            }
        };
        if key.is_empty() || key.len() > MAX_METADATA_BYTES {
            let bytes = key.len();
            let detail = format!("must have a key of 1 to {MAX_METADATA_BYTES} bytes, has one of {bytes}");
            fields.fault_inside(FIELD, key, detail);
        } else if text.len() > MAX_METADATA_BYTES {
            let bytes = text.len();
            let detail = format!("must have at most {MAX_METADATA_BYTES} bytes, has {bytes}");
            fields.fault_inside(FIELD, key, detail);
        } else {
            metadata.insert(key, text);
        }
    }
    metadata
}

fn new_search(uri: &Uri) -> Result<Search, ApiError> {
    let mut fields = Fields::of_query(uri);
    let user = fields.required_text::<UserId>("userId");
    let status = fields.required_text::<String>("jobStatus");
    let status = status.and_then(|status| fields.check("jobStatus", status.parse::<JobStatus>()));
    let limit = fields.optional_text::<String>("limit");
    let limit = limit.map_or(Some(DEFAULT_LIMIT), |limit| fields.check("limit", page_size(&limit)));
    let query = user.zip(status);
    // Without a good query there is none that the cursor could belong to.
    let after = match (fields.optional_text::<String>("cursor"), &query) {
        (Some(text), Some((user, status))) => fields.check("cursor", cursor::decode(&text, user, *status)),
        _ => None,
    };
    let ((user, status), limit) = fields.finish(query.zip(limit))?;
    Ok(Search { user, status, limit, after })
}

fn page_size(text: &str) -> Result<usize, String> {
    let size = text.parse().ok().filter(|size| (1..=MAX_LIMIT).contains(size));
    size.ok_or_else(|| format!("must be a number from 1 to {MAX_LIMIT}"))
}
