//! The job that a path names.

use axum::extract::{FromRequestParts, RawPathParams};
use axum::http::request::Parts;
use longhand_shared::JobId;
use longhand_shared::domain::id::InvalidJobId;
use tracing::{Span, field};

use crate::error::ApiError;
use crate::openapi::examples;

/// `jobId` in the path.
#[derive(utoipa::IntoParams)]
#[into_params(names("jobId"), parameter_in = Path)]
pub(crate) struct JobPath(
    /// The job.
    #[param(example = json!(examples::JOB))]
    pub(crate) JobId,
);

impl<S: Send + Sync> FromRequestParts<S> for JobPath {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        // The rejection is for escapes that are not UTF-8; no id has any.
        let params = RawPathParams::from_request_parts(parts, state).await.ok();
        let text = params.iter().flatten().find(|(name, _)| *name == "jobId").map(|(_, text)| text);
        let id: JobId = text.ok_or(InvalidJobId).and_then(str::parse).map_err(ApiError::InvalidJobId)?;
        Span::current().record("job_id", field::display(id));
        Ok(Self(id))
    }
}
