//! The job that a path names.

use axum::extract::{FromRequestParts, Path};
use axum::http::request::Parts;
use longhand_shared::JobId;
use longhand_shared::domain::id::InvalidJobId;
use tracing::{Span, field};
use utoipa::openapi::path::{Parameter, ParameterBuilder, ParameterIn};
use utoipa::openapi::{Ref, Required};

use crate::error::ApiError;
use crate::openapi::examples;

/// `jobId` in the path.
pub(crate) struct JobPath(pub(crate) JobId);

impl<S: Send + Sync> FromRequestParts<S> for JobPath {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let text = Path::<String>::from_request_parts(parts, state).await;
        // The rejection is for escapes that are not UTF-8; no id has any.
        let id: JobId = text
            .map_err(|_| InvalidJobId)
            .and_then(|Path(text)| text.parse())
            .map_err(ApiError::InvalidJobId)?;
        Span::current().record("job_id", field::display(id));
        Ok(Self(id))
    }
}

impl utoipa::IntoParams for JobPath {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        let parameter = ParameterBuilder::new()
            .name("jobId")
            .parameter_in(ParameterIn::Path)
            .required(Required::True)
            .description(Some("The job."))
            .schema(Some(Ref::from_schema_name("JobId")))
            .example(Some(examples::JOB.into()));
        vec![parameter.build()]
    }
}
