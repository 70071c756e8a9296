//! `DELETE /transcript/{jobId}`.

use axum::extract::State;
use axum::http::{StatusCode, Uri};

use super::path::JobPath;
use crate::auth::caller::Caller;
use crate::error::ApiError;
use crate::error_codes::Code;
use crate::input::Fields;
use crate::openapi::problems::{AUTHENTICATED, COMMON, JOB_PATH, problems};
use crate::state::App;
use crate::uploads;

/// The query in the description.
#[derive(utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "`erase` reads the query field by field, to report every fault")]
struct EraseParams {
    /// `true`: the audio that its user uploaded for it with `POST /uploads` is deleted too, before the job.
    #[param(default = false)]
    audio: Option<bool>,
}

problems!(Problems: COMMON, AUTHENTICATED, JOB_PATH, &[Code::InvalidRequest, Code::UploadsUnavailable]);

/// Erase a job
///
/// Erases the job and all its data; its audio only with `audio=true`. Waiting chunks are dropped; results of in-flight
/// calls of the model are discarded.
#[utoipa::path(
    delete,
    path = "/transcript/{jobId}",
    tag = "Jobs",
    operation_id = "deleteTranscript",
    params(JobPath, EraseParams),
    responses((status = 204, description = "The job is erased."), Problems),
)]
pub(crate) async fn erase(
    State(app): State<App>,
    caller: Caller,
    JobPath(id): JobPath,
    uri: Uri,
) -> Result<StatusCode, ApiError> {
    let mut fields = Fields::of_query(&uri);
    let audio = fields.flag("audio");
    fields.finish(Some(()))?;
    let job = caller.job(app.store(), id).await?;
    // The audio first, so that a client whose call failed can call again.
    if audio {
        let paths = app.store().chunks(id).await?.into_iter().map(|chunk| chunk.path);
        uploads::delete(&app.s3, &app.sources, &job.head.user, paths).await?;
    }
    if app.lifecycle.erase(id).await? { Ok(StatusCode::NO_CONTENT) } else { Err(ApiError::NoSuchJob(id)) }
}
