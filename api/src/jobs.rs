//! The calls that clients make: submit a job, read it, list a user's jobs.

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::http::header::{CONTENT_LOCATION, LOCATION};
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::{AppendHeaders, IntoResponse, Response};
use longhand_shared::id::{InvalidJobId, MAX_CHUNKS};
use longhand_shared::idempotency::{Idempotency, IdempotencyKey, InvalidIdempotencyKey};
use longhand_shared::job::{
    InvalidChunkCount, JobHead, JobStatus, MAX_METADATA_BYTES, MAX_METADATA_ENTRIES, Metadata, NewJob,
    TranscribeOptions,
};
use longhand_shared::lifecycle::Retry;
use longhand_shared::outbound::{AllowedHosts, PublicUrl};
use longhand_shared::path::{AudioSources, InvalidPath};
use longhand_shared::store::{self, Created, Search};
use longhand_shared::transcript::TranscriptResult;
use longhand_shared::{AudioPath, JobId, Timestamp, UserId, lifecycle, trace};
use serde::Serialize;
use serde_json::Value;
use sha2::{Digest, Sha256};
use tokio::task::spawn_blocking;
use tokio::time::Instant;
use tracing::{Span, field};
use utoipa::ToSchema;

use crate::auth::Caller;
use crate::error::ApiError;
use crate::forms::Form;
use crate::input::{Fault, Fields, kind, text};
use crate::waiting::{Detail, Waited, prefer};
use crate::{AppState, body, cursor, edge, uploads};

const IDEMPOTENCY_KEY: &str = "idempotency-key";
const IDEMPOTENCY_REPLAYED: &str = "idempotency-replayed";

/// How many results a page has when the client does not say.
const DEFAULT_LIMIT: usize = 20;

/// The most results of a page.
const MAX_LIMIT: usize = 100;

/// `POST /transcribe`: makes a job of 1 to 24 chunks. Once it is answered with `202` the job will
/// end, whatever happens here: the table has it. With `Prefer: wait=n` it is answered with `200` and the
/// whole result if the job ends in time, unless that is longer than the way back takes.
pub(crate) async fn create(
    State(app): State<AppState>,
    caller: Caller,
    request: Request,
) -> Result<Response, ApiError> {
    let (arrived, wait) = (Instant::now(), prefer::wait(request.headers()));
    let gateway = edge::through_gateway(request.headers());
    let traceparent = trace::current().or_else(|| edge::traceparent(request.headers()).map(str::to_owned));
    let key = idempotency_key(request.headers())?;
    let fields = Fields::of_body(body::json(request).await?)?;
    let mut job = new_job(fields, &caller, &app.sources, &app.callback_hosts, Timestamp::now()).await?;
    job.idempotency = key.map(|key| Idempotency { key, digest: digest(&job) });
    app.limits.submit(&*app.store, &job.user).await?;
    Span::current().record("job_id", field::display(job.id));
    let (accepted, replayed) =
        match lifecycle::submit(&*app.store, &*app.queue, &job, traceparent.as_deref()).await? {
            Created::New => (Accepted::new(&job.job().head), None),
            Created::Replayed(id) => {
                let earlier = app.store.job(id).await?.ok_or(ApiError::NoSuchJob(id))?;
                (Accepted::new(&earlier.head), Some([(IDEMPOTENCY_REPLAYED, "true")]))
            }
            Created::Mismatch => return Err(ApiError::KeyReused),
        };
    let id = accepted.job_id;
    let location = format!("/transcript/{id}");
    let replayed = replayed.map(AppendHeaders);
    let accepted = |location| (StatusCode::ACCEPTED, [(LOCATION, location)], Json(accepted));
    let Some(wait) = wait else {
        return Ok((replayed, accepted(location)).into_response());
    };
    let applied = [prefer::applied(wait)];
    let ended = app.waiting.watch(id, Detail::End, true).end(arrived + wait).await;
    if let Ok(Waited::Ended(result)) = ended {
        let location = [(CONTENT_LOCATION, location.clone())];
        let answer = (replayed, applied.clone(), location, Json(&*result)).into_response();
        if !gateway || edge::too_long(&answer).is_none() {
            return Ok(answer);
        }
    }
    // The job is there, whatever is wrong with the wait or its answer.
    Ok((replayed, applied, accepted(location)).into_response())
}

/// The client's name for the request, where it gives one.
fn idempotency_key(headers: &HeaderMap) -> Result<Option<IdempotencyKey>, ApiError> {
    if !headers.contains_key(IDEMPOTENCY_KEY) {
        return Ok(None);
    }
    let key = edge::only(headers, IDEMPOTENCY_KEY).ok_or(InvalidIdempotencyKey);
    let fault = |error| ApiError::Invalid(vec![Fault::new("Idempotency-Key", error)]);
    key.and_then(|key| key.to_owned().try_into()).map(Some).map_err(fault)
}

/// The same for two requests that ask for the same, however they write it.
fn digest(job: &NewJob) -> String {
    let asked = (&job.user, job.paths(), &job.options, &job.metadata, &job.callback_url);
    let json = serde_json::to_vec(&asked).expect("only strings and lists, and string keys");
    Sha256::digest(json).iter().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"))
}

/// `GET /transcript/{jobId}`: the job as it stands, with what is known of its text. With `Prefer: wait=n`
/// the answer comes when the job ends, or as it stands when the time is over.
pub(crate) async fn read(
    State(app): State<AppState>,
    caller: Caller,
    id: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
    uri: Uri,
) -> Result<Response, ApiError> {
    let (arrived, wait) = (Instant::now(), prefer::wait(&headers));
    let id = job_id(id)?;
    let form = Form::asked(&headers, &uri)?;
    let Some(wait) = wait else {
        let result = caller.visible(id, app.waiting.read(id).await?, |result| &result.user_id)?;
        return form.respond(&app, &headers, &result).await;
    };
    let mut watch = app.waiting.watch(id, Detail::End, false);
    caller.visible(id, watch.first().await?, |result| &result.user_id)?;
    let result = match watch.end(arrived + wait).await? {
        Waited::Ended(result) => Some(result),
        Waited::Over => watch.now().await?,
        Waited::Gone => None,
    };
    let result = result.ok_or(ApiError::NoSuchJob(id))?;
    let answer = form.respond(&app, &headers, &result).await?;
    Ok(([prefer::applied(wait)], answer).into_response())
}

/// `POST /transcript/{jobId}/retry`: the failed chunks of a job that has ended, only those, are tried
/// anew; the job is in progress again.
pub(crate) async fn retry(
    State(app): State<AppState>,
    caller: Caller,
    id: Result<Path<String>, PathRejection>,
) -> Result<impl IntoResponse, ApiError> {
    let id = job_id(id)?;
    let job = caller.job(&*app.store, id).await?;
    app.limits.submit(&*app.store, &job.head.user).await?;
    match lifecycle::retry(&*app.store, &*app.queue, id, Timestamp::now()).await? {
        Retry::Retried(_) => {}
        Retry::InProgress => return Err(ApiError::InProgress(id)),
        Retry::NothingFailed => return Err(ApiError::NothingFailed(id)),
        Retry::Gone => return Err(ApiError::NoSuchJob(id)),
    }
    let result = store::read(&*app.store, id).await?.ok_or(ApiError::NoSuchJob(id))?;
    Ok((StatusCode::ACCEPTED, Json(result)))
}

/// `DELETE /transcript/{jobId}`: the job with all that belongs to it is erased. What waits of it is not
/// begun; what the model is at, nobody hears of. With `audio=true` what its user uploaded for it goes
/// first, so that a client whose call failed can call again.
pub(crate) async fn erase(
    State(app): State<AppState>,
    caller: Caller,
    id: Result<Path<String>, PathRejection>,
    uri: Uri,
) -> Result<StatusCode, ApiError> {
    let id = job_id(id)?;
    let mut fields = Fields::of_query(&uri);
    let audio = fields.flag("audio");
    let audio = fields.finish(audio)?;
    let job = caller.job(&*app.store, id).await?;
    if audio {
        let paths = app.store.chunks(id).await?.into_iter().map(|chunk| chunk.path);
        uploads::delete(&app.s3, &app.sources, &job.head.user, paths).await?;
    }
    if app.store.erase(id).await? { Ok(StatusCode::NO_CONTENT) } else { Err(ApiError::NoSuchJob(id)) }
}

/// The job that a path names.
pub(crate) fn job_id(id: Result<Path<String>, PathRejection>) -> Result<JobId, ApiError> {
    // The rejection is for escapes that are no UTF-8; no id has any.
    let id: JobId =
        id.map_err(|_| InvalidJobId).and_then(|Path(id)| id.parse()).map_err(ApiError::InvalidJobId)?;
    Span::current().record("job_id", field::display(id));
    Ok(id)
}

/// `GET /transcript/search`: a user's jobs, newest first. The listing is an index that follows the table
/// by a moment; what was submitted within the last minute is read from the table itself on the first page.
pub(crate) async fn search(
    State(app): State<AppState>,
    caller: Caller,
    uri: Uri,
) -> Result<Json<SearchResults>, ApiError> {
    let search = new_search(&uri, &caller, Timestamp::now())?;
    let (results, next) = store::read_page(&*app.store, &search).await?;
    let next_cursor = next.map(|position| cursor::encode(&search, position));
    Ok(Json(SearchResults { results, next_cursor }))
}

/// The answer to a job that was taken.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Accepted {
    job_id: JobId,
    job_status: JobStatus,
    user_id: UserId,
    submitted_time: Timestamp,
    /// How many chunks it has.
    chunk_count: usize,
}

impl Accepted {
    fn new(job: &JobHead) -> Self {
        Self {
            job_id: job.id,
            job_status: job.status(),
            user_id: job.user.clone(),
            submitted_time: job.submitted,
            chunk_count: job.chunk_count,
        }
    }
}

/// A page of a listing.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct SearchResults {
    results: Vec<TranscriptResult>,
    /// What gets the next page; null at the end.
    #[schema(required)]
    next_cursor: Option<String>,
}

async fn new_job(
    mut fields: Fields,
    caller: &Caller,
    sources: &AudioSources,
    callback_hosts: &AllowedHosts,
    now: Timestamp,
) -> Result<NewJob, ApiError> {
    let user = caller.user(&mut fields)?;
    let paths = audio_paths(&mut fields, sources).await?;
    let language = fields.optional_text("language");
    let prompt = fields.optional_text("prompt");
    let metadata = metadata(&mut fields);
    let callback_url = callback_url(&mut fields, callback_hosts);
    let (user, paths) = fields.finish(user.zip(paths))?;
    let others = paths.iter().enumerate().filter(|(_, path)| !caller.may_hear(path));
    let others: Vec<_> = others
        .map(|(index, _)| Fault::new(format!("#/audioChunkPaths/{index}"), "is in another user's uploads"))
        .collect();
    if !others.is_empty() {
        return Err(ApiError::Invalid(others));
    }
    let count = paths.len();
    let mut job = NewJob::new(user, paths, TranscribeOptions { language, prompt }, metadata, now)
        .map_err(|_| ApiError::Internal { cause: format!("{count} paths were let through") })?;
    job.callback_url = callback_url;
    Ok(job)
}

/// Who is to be told of the job's end. What the name means is looked at again whenever it is called.
fn callback_url(fields: &mut Fields, hosts: &AllowedHosts) -> Option<String> {
    const FIELD: &str = "callbackUrl";
    let url = fields.optional_text::<String>(FIELD)?;
    if hosts.is_empty() {
        fields.fault(FIELD, "is not taken: this service tells nobody (LONGHAND_CALLBACK_HOSTS)");
        return None;
    }
    fields.check(FIELD, PublicUrl::parse(&url, hosts)).map(|_| url)
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

fn new_search(uri: &Uri, caller: &Caller, now: Timestamp) -> Result<Search, ApiError> {
    let mut fields = Fields::of_query(uri);
    let user = caller.user(&mut fields)?;
    let status = fields.optional_text::<String>("jobStatus");
    let status = status.and_then(|status| fields.check("jobStatus", status.parse::<JobStatus>()));
    let mut time = |name: &'static str| {
        let text = fields.optional_text::<String>(name);
        text.and_then(|text| fields.check(name, text.parse::<Timestamp>()))
    };
    let (from, until) = (time("submittedAfter"), time("submittedBefore"));
    let limit = fields.optional_text::<String>("limit");
    let limit = limit.map_or(Some(DEFAULT_LIMIT), |limit| fields.check("limit", page_size(&limit)));
    let cursor = fields.optional_text::<String>("cursor");
    let search =
        user.zip(limit).map(|(user, limit)| Search { status, from, until, ..Search::all(user, limit, now) });
    // Without a good query there is none that the cursor could belong to.
    let after = match (cursor, &search) {
        (Some(text), Some(search)) => fields.check("cursor", cursor::decode(&text, search)),
        _ => None,
    };
    let search = fields.finish(search)?;
    Ok(Search { after, ..search })
}

fn page_size(text: &str) -> Result<usize, String> {
    let size = text.parse().ok().filter(|size| (1..=MAX_LIMIT).contains(size));
    size.ok_or_else(|| format!("must be a number from 1 to {MAX_LIMIT}"))
}
