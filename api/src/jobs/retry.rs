//! `POST /transcript/{jobId}/retry`.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use longhand_shared::domain::transcript::TranscriptResult;
use longhand_shared::lifecycle::Retry;
use longhand_shared::{Timestamp, store};

use super::path::JobPath;
use crate::auth::caller::Caller;
use crate::error::ApiError;
use crate::error_codes::Code;
use crate::openapi::examples;
use crate::openapi::problems::{AUTHENTICATED, COMMON, JOB_PATH, problems};
use crate::state::App;

problems!(Problems: COMMON, AUTHENTICATED, JOB_PATH, &[
    Code::AnswerTooLarge,
    Code::JobInProgress,
    Code::NothingFailed,
    Code::RateLimited,
    Code::TooManyOpenJobs,
    Code::Busy,
]);

/// Retry a job's failed chunks
///
/// Retries only the failed chunks of a finished job.
#[utoipa::path(
    post,
    path = "/transcript/{jobId}/retry",
    tag = "Jobs",
    operation_id = "retryTranscript",
    params(JobPath),
    responses(
        (
            status = 202,
            description = "The job is in progress again.",
            body = TranscriptResult,
            examples(("example" = (value = json!(examples::retried())))),
        ),
        Problems,
    ),
)]
pub(crate) async fn retry(
    State(app): State<App>,
    caller: Caller,
    JobPath(id): JobPath,
) -> Result<impl IntoResponse, ApiError> {
    let job = caller.job(app.store(), id).await?;
    app.limits.submit(app.store(), &job.head.user).await?;
    // Before the retry: a refused request has no effect.
    let reading = app.limits.reads().begin(caller.name()).await?;
    match app.lifecycle.retry(id, Timestamp::now()).await? {
        Retry::Retried(_) => {}
        Retry::InProgress => return Err(ApiError::InProgress(id)),
        Retry::NothingFailed => return Err(ApiError::NothingFailed(id)),
        Retry::Gone => return Err(ApiError::NoSuchJob(id)),
    }
    let result = store::read(app.store(), id).await?.ok_or(ApiError::NoSuchJob(id))?;
    Ok(reading.respond((StatusCode::ACCEPTED, Json(result))))
}
