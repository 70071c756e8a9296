//! `POST /transcript/{jobId}/tickets`.

use axum::Json;
use axum::extract::{Request, State};
use longhand_shared::Timestamp;
use serde::Serialize;
use utoipa::ToSchema;

use super::path::JobPath;
use crate::auth::caller::Caller;
use crate::body;
use crate::error::ApiError;
use crate::error_codes::Code;
use crate::input::{Fields, text};
use crate::openapi::problems::{AUTHENTICATED, COMMON, JOB_PATH, JSON_BODY, problems};
use crate::state::App;
use crate::tickets::{LIFETIME, Purpose};

/// A ticket, and until when it is valid.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Ticket {
    /// For the parameter `ticket`. A secret until it expires.
    ticket: String,
    expires_time: Timestamp,
}

problems!(Problems: COMMON, AUTHENTICATED, JOB_PATH, JSON_BODY, &[Code::RateLimited]);

/// Get a ticket
///
/// For clients that cannot send headers: `EventSource` and `<audio>`. It permits one purpose for one job, for one hour.
#[utoipa::path(
    post,
    path = "/transcript/{jobId}/tickets",
    tag = "Jobs",
    operation_id = "createTicket",
    params(JobPath),
    request_body(
        content = ref("#/components/schemas/NewTicket"),
        content_type = "application/json",
        examples(("example" = (value = json!({"purpose": "audio"})))),
    ),
    responses(
        (
            status = 200,
            description = "The ticket, for the parameter `ticket` of the call that it is for.",
            body = Ticket,
            examples(("example" = (value = json!({
                "ticket": "1795401110.YW5h.Hn1q0pSkFK6dZ8eJ5b1yL7cUuV2oWmXrGtAaPiQsEfM",
                "expiresTime": "2026-11-23T02:31:50.000Z",
            })))),
        ),
        Problems,
    ),
)]
pub(crate) async fn create(
    State(app): State<App>,
    caller: Caller,
    JobPath(id): JobPath,
    request: Request,
) -> Result<Json<Ticket>, ApiError> {
    let job = caller.job(app.store(), id).await?;
    let purpose = purpose(Fields::of_body(body::json(request).await?)?)?;
    app.limits.read(caller.name())?;
    let expires_time = Timestamp::now().plus(LIFETIME);
    let ticket = app.tickets.issue(id, purpose, &job.head.user, expires_time.unix());
    Ok(Json(Ticket { ticket, expires_time }))
}

fn purpose(mut fields: Fields) -> Result<Purpose, ApiError> {
    const FIELD: &str = "purpose";
    let purpose = fields.required(FIELD).and_then(|value| fields.check(FIELD, text::<Purpose>(value)));
    fields.finish(purpose)
}
