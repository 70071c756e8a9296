//! `POST /transcribe`.

use axum::Json;
use axum::extract::{Request, State};
use axum::http::header::{CONTENT_LOCATION, LOCATION};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{AppendHeaders, IntoResponse, Response};
use longhand_shared::domain::id::MAX_CHUNKS;
use longhand_shared::domain::idempotency::{Idempotency, IdempotencyKey, InvalidIdempotencyKey};
use longhand_shared::domain::job::{JobHead, JobStatus, NewJob};
use longhand_shared::domain::transcript::TranscriptResult;
use longhand_shared::store::Created;
use longhand_shared::{JobId, Timestamp, UserId, service::trace};
use serde::Serialize;
use sha2::{Digest, Sha256};
use tokio::time::Instant;
use tracing::{Span, field};
use utoipa::ToSchema;

use super::new_job::new_job;
use crate::auth::caller::Caller;
use crate::error::ApiError;
use crate::error_codes::Code;
use crate::fault::Fault;
use crate::input::Fields;
use crate::openapi::examples;
use crate::openapi::problems::{AUTHENTICATED, COMMON, JSON_BODY, problems};
use crate::state::{App, AppState};
use crate::waiting::prefer::{self, PreferWait};
use crate::waiting::{Detail, Waited};
use crate::{body, edge};

const IDEMPOTENCY_KEY: &str = "idempotency-key";
const IDEMPOTENCY_REPLAYED: &str = "idempotency-replayed";

/// The answer to a submitted job.
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

problems!(Problems: COMMON, AUTHENTICATED, JSON_BODY, &[
    Code::Forbidden,
    Code::IdempotencyKeyReused,
    Code::RateLimited,
    Code::TooManyOpenJobs,
    Code::StoreUnavailable,
]);

/// Submit a job
#[utoipa::path(
    post,
    path = "/transcribe",
    description = format!(
        "Creates a job of 1 to {MAX_CHUNKS} chunks. An accepted job always ends, whatever fails."
    ),
    tag = "Jobs",
    operation_id = "transcribe",
    params(
        (
            "Idempotency-Key" = Option<String>, Header,
            description = "A key that the client chooses for the request. The same request with the same key returns the same \
                job. A key is kept for 24 hours, or until its job is erased. 1 to 255 visible ASCII characters, \
                quoted or not.",
            // A key without quotes around it, and with them. The last two alternatives only begin with a quote.
            min_length = 1, max_length = 257,
            pattern = r#"^([!#-~][!-~]{0,254}|"[!-~]{1,255}"|"[!-~]{0,253}[!#-~]|")$"#,
            example = "8e03978e-40d5-43dd-bc93-6894a57f9324",
        ),
        PreferWait,
    ),
    request_body(
        content = ref("#/components/schemas/NewJob"),
        content_type = "application/json",
        examples(("example" = (value = json!(examples::new_job())))),
    ),
    responses(
        (
            status = 200,
            description = "The job ended within `Prefer: wait=n`.",
            body = TranscriptResult,
            headers(
                ("Content-Location" = String, description = "Where the job is."),
                ("Preference-Applied" = String, description = "The wait that was applied."),
                ("Idempotency-Replayed" = Option<String>, description = "`true` if the key is known: this is the earlier job."),
            ),
            examples(("example" = (value = json!(examples::result())))),
        ),
        (
            status = 202,
            description = "The job is accepted, and will end.",
            body = Accepted,
            headers(
                ("Location" = String, description = "Where the job is."),
                ("Preference-Applied" = Option<String>, description = "The wait that was applied."),
                ("Idempotency-Replayed" = Option<String>, description = "`true` if the key is known: this is the earlier job."),
            ),
            examples(("example" = (value = json!(examples::accepted())))),
        ),
        Problems,
    ),
)]
pub(crate) async fn create(
    State(app): State<App>,
    caller: Caller,
    request: Request,
) -> Result<Response, ApiError> {
    let arrived = Instant::now();
    let headers = request.headers().clone();
    let key = idempotency_key(&headers)?;
    let fields = Fields::of_body(body::json(request).await?)?;
    let mut job = new_job(fields, &caller, &app.sources, &app.callback_hosts, Timestamp::now()).await?;
    job.idempotency = key.map(|key| Idempotency { key, digest: digest(&job) });
    Span::current().record("job_id", field::display(job.id));
    let traceparent = trace::current().or_else(|| edge::traceparent(&headers).map(str::to_owned));
    let (accepted, replayed) = submit(&app, &job, traceparent.as_deref()).await?;
    let answer = answer(&app, &caller, accepted, &headers, arrived).await;
    Ok((replayed.then_some(AppendHeaders([(IDEMPOTENCY_REPLAYED, "true")])), answer).into_response())
}

/// Makes the job, unless the same key made it before: a replay (`true`) makes no work, and is not limited.
async fn submit(
    app: &AppState,
    job: &NewJob,
    traceparent: Option<&str>,
) -> Result<(Accepted, bool), ApiError> {
    let earlier = match &job.idempotency {
        Some(asked) => app.store().earlier(&job.user, asked, job.submitted).await?,
        None => None,
    };
    let created = if let Some(earlier) = earlier {
        earlier
    } else {
        app.limits.submit(app.store(), &job.user).await?;
        app.lifecycle.submit(job, traceparent).await?
    };
    match created {
        Created::New => Ok((Accepted::new(&job.job().head), false)),
        Created::Replayed(id) => {
            let earlier = app.store().job(id).await?.ok_or(ApiError::NoSuchJob(id))?;
            Ok((Accepted::new(&earlier.head), true))
        }
        Created::Mismatch => Err(ApiError::KeyReused),
    }
}

/// `202`, or `200` with the result if the client waits for it. The job exists: whatever fails in the wait, or in
/// sending the result, is not an error.
async fn answer(
    app: &AppState,
    caller: &Caller,
    accepted: Accepted,
    headers: &HeaderMap,
    arrived: Instant,
) -> Response {
    let user = caller.name().unwrap_or(&accepted.user_id).clone();
    let place =
        prefer::wait(headers).and_then(|wait| Some((wait, app.waiting.place(&user, accepted.job_id).ok()?)));
    let Some((wait, _place)) = place else {
        return accepted.into_response();
    };
    let longest = edge::longest_answer(headers);
    let result = ended(app, &user, accepted.job_id, arrived + wait, longest).await;
    ([prefer::applied(wait)], result.unwrap_or_else(|| accepted.into_response())).into_response()
}

/// The answer with the result, if the job ends by `until` and the way back takes an answer of that size.
async fn ended(
    app: &AppState,
    user: &UserId,
    job: JobId,
    until: Instant,
    longest: Option<usize>,
) -> Option<Response> {
    let Ok(Waited::Ended(result)) = app.waiting.watch(job, Detail::End).end(until).await else {
        return None;
    };
    let reading = app.limits.reads().begin(Some(user)).await.ok()?;
    let answer = ([(CONTENT_LOCATION, location(job))], Json(&*result)).into_response();
    let fits = longest.is_none_or(|longest| edge::too_long(&answer, longest).is_none());
    if fits { reading.charge(app.limits.reads(), answer).await.ok() } else { None }
}

fn location(job: JobId) -> String {
    format!("/transcript/{job}")
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

impl IntoResponse for Accepted {
    fn into_response(self) -> Response {
        (StatusCode::ACCEPTED, [(LOCATION, location(self.job_id))], Json(self)).into_response()
    }
}

/// The client's `Idempotency-Key`.
fn idempotency_key(headers: &HeaderMap) -> Result<Option<IdempotencyKey>, ApiError> {
    if !headers.contains_key(IDEMPOTENCY_KEY) {
        return Ok(None);
    }
    let key = edge::only(headers, IDEMPOTENCY_KEY).ok_or(InvalidIdempotencyKey);
    let fault = |error| ApiError::Invalid(vec![Fault::new("Idempotency-Key", error)]);
    key.and_then(|key| key.to_owned().try_into()).map(Some).map_err(fault)
}

/// Equal for two requests for the same job, however they are written.
fn digest(job: &NewJob) -> String {
    let asked = (&job.user, job.paths(), &job.options, &job.metadata, &job.callback_url);
    // Without an offset as 0.1.0 makes it: a request may be repeated across an update.
    let json = match job.start_offset {
        0.0 => serde_json::to_vec(&asked),
        offset => serde_json::to_vec(&(asked, offset)),
    };
    let json = json.expect("only finite numbers, strings and lists, and string keys");
    hex::encode(Sha256::digest(json))
}
