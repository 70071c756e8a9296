//! Errors as clients see them: RFC 9457 `application/problem+json`, with two members of our own:
//!
//! - `code`, stable, for programs to match on;
//! - `errors`, for invalid input: every fault as `{pointer, detail}`. A pointer is a JSON pointer
//!   into the body as a URI fragment (RFC 6901 section 6: `#/audioChunkPaths/3`, `#` for the body
//!   itself), `?name` for a query parameter, `/{name}` for a part of the path, or a header's name;
//! - `requestId`, the `x-request-id` of the answer, to be quoted to whoever runs the service.

use std::any::Any;
use std::fmt::Write;
use std::time::Duration;

use axum::Json;
use axum::http::header::{CONTENT_TYPE, RETRY_AFTER, VARY, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use longhand_shared::id::{InvalidJobId, JobId};
use longhand_shared::store::StoreError;
use serde::Serialize;
use tracing::error;
use utoipa::ToSchema;

use crate::auth::Refusal;
use crate::body::{BODY_TIMEOUT, MAX_BODY_BYTES};
use crate::edge::{self, MAX_GATEWAY_ANSWER, REQUEST_TIMEOUT};
use crate::forms::MEDIA_TYPES;
use crate::input::Fault;
use crate::limits::RECOUNT;

/// How long a client should wait before it tries a 503 again.
const RETRY: Duration = Duration::from_secs(2);

/// Every way in which a request can fail. Its text is what the client is told; its source, and a
/// field called `cause`, are for the log alone.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApiError {
    /// The body or the query has faults; there is at least one.
    #[error("{}", summary(.0))]
    Invalid(Vec<Fault>),
    /// There is no body.
    #[error("there is no body: send a JSON object")]
    NoBody,
    /// The body is no JSON, or has a key twice.
    #[error("the body cannot be read as JSON: {0}")]
    NotJson(serde_json::Error),
    /// The body did not arrive.
    #[error("the body ended before it was complete")]
    BodyBroken,
    /// The body did not arrive in time.
    #[error("the body did not arrive within {} seconds", BODY_TIMEOUT.as_secs())]
    BodyTimeout,
    /// The body is over [`MAX_BODY_BYTES`].
    #[error("the body has more than {MAX_BODY_BYTES} bytes")]
    BodyTooLarge,
    /// The body is said to be something else than JSON.
    #[error("{0}: send the body as it is, with Content-Type: application/json")]
    NotJsonType(String),
    /// The job id in the path is none.
    #[error("the job id {0}")]
    InvalidJobId(InvalidJobId),
    /// There is no such job.
    #[error("there is no job {0}")]
    NoSuchJob(JobId),
    /// The transcript is in none of the forms that the client takes.
    #[error("the Accept header takes none of the forms that there are: {}", MEDIA_TYPES.join(", "))]
    NotAcceptable,
    /// The job cannot be tried again: it runs.
    #[error("the job {0} is in progress")]
    InProgress(JobId),
    /// The job cannot be tried again: no chunk of it failed.
    #[error("no chunk of the job {0} failed")]
    NothingFailed(JobId),
    /// The idempotency key was used for another request.
    #[error("the Idempotency-Key was used for a request that asked for something else")]
    KeyReused,
    /// Nobody knows who is calling.
    #[error("{0}")]
    Unauthorized(Refusal),
    /// The request names somebody else as its user.
    #[error("{} {}", .0.pointer, .0.detail)]
    Forbidden(Fault),
    /// The user submits too fast.
    #[error("the user submits more than {per_minute} jobs a minute: try again in {} s", retry_after.as_secs())]
    RateLimited {
        /// How many there may be.
        per_minute: u32,
        /// When there is room for one more, in whole seconds.
        retry_after: Duration,
    },
    /// The user has as many open jobs as there may be.
    #[error("the user has {most} jobs or more in progress: submit again when some have ended")]
    TooManyOpenJobs {
        /// How many there may be.
        most: usize,
    },
    /// There is no bucket to upload into.
    #[error("this service takes no uploads, since it has no bucket (LONGHAND_AUDIO_BUCKETS)")]
    NoUploads,
    /// No address can be signed: there are no credentials.
    #[error("uploads cannot be signed just now: try again")]
    CannotSign {
        /// What happened.
        cause: String,
    },
    /// The uploaded audio could not be deleted.
    #[error("the audio cannot be deleted just now, so nothing was erased: try again")]
    CannotDelete {
        /// What happened.
        cause: String,
    },
    /// There is no such route.
    #[error("there is nothing at this path")]
    NoSuchRoute,
    /// The route knows other methods; `Allow` lists them.
    #[error("the path does not take this method; the Allow header lists those that it takes")]
    MethodNotAllowed,
    /// The table failed.
    #[error("{}", match .0 {
        StoreError::Unavailable(_) => "the job store cannot be reached just now: try again",
        StoreError::Corrupt(_) => INTERNAL,
    })]
    Store(#[from] StoreError),
    /// Something that the service needs does not answer. `health.rs` has logged why.
    #[error("not ready: {}", .0.join(" and "))]
    NotReady(Vec<&'static str>),
    /// There are as many event streams as one process may have.
    #[error("this server has as many event streams as it may: try again, or read the job")]
    TooManyStreams,
    /// API Gateway passes on no streams.
    #[error(
        "there are no event streams through API Gateway: read the job again and again, with Prefer: wait=25"
    )]
    NoStreams,
    /// API Gateway passes on no answer as long as this one.
    #[error(
        "the answer has {bytes} bytes, and API Gateway passes on {MAX_GATEWAY_ANSWER}: ask for less, \
         with a lower limit or without segments, or take the text alone (Accept: text/plain)"
    )]
    AnswerTooLarge {
        /// How many it has.
        bytes: u64,
    },
    /// The handler took too long.
    #[error("the request was not done within {} seconds; it may be done later", REQUEST_TIMEOUT.as_secs())]
    Timeout,
    /// A fault of our own.
    #[error("{INTERNAL}")]
    Internal {
        /// What happened.
        cause: String,
    },
}

const INTERNAL: &str = "the service failed on this request; the fault is ours";

impl ApiError {
    /// The one place that turns an error into a status and a code.
    fn status_and_code(&self) -> (StatusCode, &'static str) {
        match self {
            Self::Invalid(_) => (StatusCode::BAD_REQUEST, "INVALID_REQUEST"),
            Self::NoBody => (StatusCode::BAD_REQUEST, "NO_BODY"),
            Self::NotJson(_) => (StatusCode::BAD_REQUEST, "INVALID_JSON"),
            Self::BodyBroken => (StatusCode::BAD_REQUEST, "BODY_INCOMPLETE"),
            Self::BodyTimeout => (StatusCode::REQUEST_TIMEOUT, "BODY_TIMEOUT"),
            Self::BodyTooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "BODY_TOO_LARGE"),
            Self::NotJsonType(_) => (StatusCode::UNSUPPORTED_MEDIA_TYPE, "UNSUPPORTED_MEDIA_TYPE"),
            Self::InvalidJobId(_) => (StatusCode::BAD_REQUEST, "INVALID_JOB_ID"),
            Self::NoSuchJob(_) => (StatusCode::NOT_FOUND, "JOB_NOT_FOUND"),
            Self::NotAcceptable => (StatusCode::NOT_ACCEPTABLE, "NOT_ACCEPTABLE"),
            Self::InProgress(_) => (StatusCode::CONFLICT, "JOB_IN_PROGRESS"),
            Self::NothingFailed(_) => (StatusCode::CONFLICT, "NOTHING_FAILED"),
            Self::KeyReused => (StatusCode::UNPROCESSABLE_ENTITY, "IDEMPOTENCY_KEY_REUSED"),
            Self::Unauthorized(Refusal::Unavailable) => (StatusCode::SERVICE_UNAVAILABLE, "AUTH_UNAVAILABLE"),
            Self::Unauthorized(_) => (StatusCode::UNAUTHORIZED, "UNAUTHORIZED"),
            Self::Forbidden(_) => (StatusCode::FORBIDDEN, "FORBIDDEN"),
            Self::RateLimited { .. } => (StatusCode::TOO_MANY_REQUESTS, "RATE_LIMITED"),
            Self::TooManyOpenJobs { .. } => (StatusCode::TOO_MANY_REQUESTS, "TOO_MANY_OPEN_JOBS"),
            Self::NoUploads => (StatusCode::NOT_FOUND, "NO_UPLOADS"),
            Self::CannotSign { .. } | Self::CannotDelete { .. } => {
                (StatusCode::SERVICE_UNAVAILABLE, "UPLOADS_UNAVAILABLE")
            }
            Self::NoSuchRoute => (StatusCode::NOT_FOUND, "ROUTE_NOT_FOUND"),
            Self::MethodNotAllowed => (StatusCode::METHOD_NOT_ALLOWED, "METHOD_NOT_ALLOWED"),
            Self::Store(StoreError::Unavailable(_)) => (StatusCode::SERVICE_UNAVAILABLE, "STORE_UNAVAILABLE"),
            Self::NotReady(_) => (StatusCode::SERVICE_UNAVAILABLE, "NOT_READY"),
            Self::TooManyStreams => (StatusCode::SERVICE_UNAVAILABLE, "TOO_MANY_STREAMS"),
            Self::NoStreams => (StatusCode::NOT_IMPLEMENTED, "STREAMS_NOT_SUPPORTED"),
            Self::AnswerTooLarge { .. } => (StatusCode::NOT_IMPLEMENTED, "ANSWER_TOO_LARGE"),
            Self::Timeout => (StatusCode::GATEWAY_TIMEOUT, "TIMEOUT"),
            Self::Store(StoreError::Corrupt(_)) | Self::Internal { .. } => {
                (StatusCode::INTERNAL_SERVER_ERROR, "INTERNAL")
            }
        }
    }

    /// When it is worth trying again, where that can be said.
    fn retry_after(&self, status: StatusCode) -> Option<Duration> {
        match self {
            Self::RateLimited { retry_after, .. } => Some(*retry_after),
            Self::TooManyOpenJobs { .. } => Some(RECOUNT),
            _ => (status == StatusCode::SERVICE_UNAVAILABLE).then_some(RETRY),
        }
    }

    /// What `WWW-Authenticate` says, where who is calling is what is wrong.
    fn challenge(&self) -> Option<HeaderValue> {
        match self {
            Self::Unauthorized(refusal) if *refusal != Refusal::Unavailable => Some(refusal.challenge()),
            _ => None,
        }
    }

    /// What the log says of an error that is ours.
    fn cause(&self) -> Option<String> {
        match self {
            Self::Store(error) => Some(error.to_string()),
            Self::Internal { cause } | Self::CannotSign { cause } | Self::CannotDelete { cause } => {
                Some(cause.clone())
            }
            Self::Timeout => Some(self.to_string()),
            _ => None,
        }
    }

    fn faults(self) -> Vec<Fault> {
        match self {
            Self::Invalid(faults) => faults,
            Self::Forbidden(fault) => vec![fault],
            Self::NoBody => vec![Fault::new("#", "is missing")],
            Self::NotJson(error) => vec![Fault::new("#", error)],
            Self::InvalidJobId(error) => vec![Fault::new("/{jobId}", error)],
            _ => Vec::new(),
        }
    }
}

/// One fault is told in full, several by the first of them.
fn summary(faults: &[Fault]) -> String {
    let mut text = String::new();
    if let Some(Fault { pointer, detail }) = faults.first() {
        let _ = write!(text, "{pointer} {detail}");
    }
    match faults.len() {
        0 | 1 => {}
        2 => text.push_str(" (and 1 more fault)"),
        count => {
            let _ = write!(text, " (and {} more faults)", count - 1);
        }
    }
    text
}

/// RFC 9457 section 3.1. The type is `about:blank`: `code` says more than a URI that leads nowhere.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Problem {
    r#type: &'static str,
    title: &'static str,
    status: u16,
    code: &'static str,
    detail: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    errors: Vec<Fault>,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<String>,
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let (status, code) = self.status_and_code();
        if let Some(cause) = self.cause() {
            error!(code, cause, "request failed");
        }
        let (retry_after, challenge) = (self.retry_after(status), self.challenge());
        let problem = Problem {
            r#type: "about:blank",
            title: status.canonical_reason().unwrap_or_default(),
            status: status.as_u16(),
            code,
            detail: self.to_string(),
            errors: self.faults(),
            request_id: edge::current_request_id(),
        };
        let mut response = (status, Json(problem)).into_response();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if status == StatusCode::NOT_ACCEPTABLE {
            headers.insert(VARY, HeaderValue::from_static("accept"));
        }
        if let Some(retry_after) = retry_after {
            headers.insert(RETRY_AFTER, retry_after.as_secs().into());
        }
        if let Some(challenge) = challenge {
            headers.insert(WWW_AUTHENTICATE, challenge);
        }
        response
    }
}

/// The answer to a request whose handler panicked.
#[expect(clippy::needless_pass_by_value, reason = "the signature is CatchPanicLayer's")]
pub(crate) fn panicked(payload: Box<dyn Any + Send + 'static>) -> Response {
    let message = payload
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".to_owned());
    ApiError::Internal { cause: format!("panicked: {message}") }.into_response()
}
