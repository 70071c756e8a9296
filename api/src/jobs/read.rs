//! `GET /transcript/{jobId}`.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderMap, Uri};
use axum::response::Response;
use longhand_shared::JobId;
use longhand_shared::domain::transcript::TranscriptResult;
use tokio::time::Instant;

use super::path::JobPath;
use crate::auth::caller::Caller;
use crate::error::ApiError;
use crate::error_codes::Code;
use crate::forms::{Form, FormParams};
use crate::openapi::examples;
use crate::openapi::problems::{AUTHENTICATED, COMMON, JOB_PATH, problems};
use crate::reads::Reading;
use crate::state::{App, AppState};
use crate::waiting::prefer::{self, PreferWait};
use crate::waiting::{Detail, Waited};

problems!(Problems: COMMON, AUTHENTICATED, JOB_PATH, &[
    Code::AnswerTooLarge,
    Code::InvalidRequest,
    Code::NotAcceptable,
    Code::RateLimited,
    Code::TooManyWaiting,
    Code::TooManyStreams,
    Code::Busy,
]);

/// Read a job
///
/// Returns the job's status, each chunk's status, and the text so far. With `Prefer: wait=n` the answer comes when the
/// job has ended, or after n seconds with the current state.
#[utoipa::path(
    get,
    path = "/transcript/{jobId}",
    tag = "Jobs",
    operation_id = "getTranscript",
    params(
        JobPath,
        FormParams,
        PreferWait,
        (
            "If-None-Match" = Option<String>, Header,
            description = "The `ETag` of the answer that the client has: `304` if it is still current.",
        ),
    ),
    responses(
        (
            status = 200,
            description = "The current state of the job, in the format that `Accept` prefers.",
            headers(
                ("ETag" = String, description = "Identifies this answer, for `If-None-Match`."),
                ("Cache-Control" = String, description = "How long it may be reused."),
                ("Vary" = String, description = "`accept`: formats are cached separately."),
                ("Preference-Applied" = Option<String>, description = "The wait that was applied."),
                ("Longhand-Partial" = Option<String>, description = "With text and captions: `true` if some of the text is missing."),
                ("Longhand-Times-Exact" = Option<String>, description = "With captions: `false` if some times of speech are estimates."),
            ),
            content(
                (TranscriptResult = "application/json", examples(("example" = (value = json!(examples::result()))))),
                (String = "text/plain", example = "He was not an ill-disposed young man."),
                (String = "text/vtt", example = "WEBVTT\n\n00:00:00.000 --> 00:00:02.800\nHe was not an ill-disposed young man.\n"),
                (String = "application/x-subrip", example = "1\n00:00:00,000 --> 00:00:02,800\nHe was not an ill-disposed young man.\n\n"),
            ),
        ),
        (
            status = 304,
            description = "The client's copy is current.",
            headers(("ETag" = String, description = "Identifies this answer.")),
        ),
        Problems,
    ),
)]
pub(crate) async fn read(
    State(app): State<App>,
    caller: Caller,
    JobPath(id): JobPath,
    headers: HeaderMap,
    uri: Uri,
) -> Result<Response, ApiError> {
    let arrived = Instant::now();
    let form = Form::asked(&headers, &uri)?;
    app.limits.read(caller.name())?;
    let reading = app.limits.reads().begin(caller.name()).await?;
    let Some(wait) = prefer::wait(&headers) else {
        let result = caller.visible(id, app.waiting.read(id).await?, |result| &result.user_id)?;
        return Ok(reading.respond(form.respond(&app, &headers, &result).await?));
    };
    let (result, reading) = after_wait(&app, &caller, id, arrived + wait, reading).await?;
    let answer = form.respond(&app, &headers, &result).await?;
    Ok(reading.respond(([prefer::applied(wait)], answer)))
}

/// The job when it has ended, or at `until`. The permit to read is returned during the wait.
async fn after_wait(
    app: &AppState,
    caller: &Caller,
    id: JobId,
    until: Instant,
    reading: Reading,
) -> Result<(Arc<TranscriptResult>, Reading), ApiError> {
    // The watch begins before the read, so that an end after the read is not missed.
    let mut watch = app.waiting.watch(id, Detail::End);
    if let Some(result) = app.waiting.cache().get(id).await {
        return Ok((caller.visible(id, Some(result), |result| &result.user_id)?, reading));
    }
    let (user, has_ended) = caller.visible(id, watch.first().await?, |(user, _)| user)?;
    if has_ended {
        let result = app.waiting.read(id).await?;
        return Ok((result.ok_or(ApiError::NoSuchJob(id))?, reading));
    }
    let _place = app.waiting.place(caller.name().unwrap_or(&user), id)?;
    drop(reading);
    let waited = watch.end(until).await?;
    let reading = app.limits.reads().begin(caller.name()).await?;
    let result = match waited {
        Waited::Ended(result) => Some(result),
        Waited::Over => watch.now().await?,
        Waited::Gone => None,
    };
    Ok((result.ok_or(ApiError::NoSuchJob(id))?, reading))
}
