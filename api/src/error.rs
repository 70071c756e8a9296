//! Errors as clients see them: RFC 9457 `application/problem+json`, with three members of our own:
//!
//! - `code`, stable, for programs to match on: a row of [`crate::error_codes`];
//! - `errors`, for invalid input: every [`Fault`];
//! - `requestId`, the `x-request-id` of the answer, for a report to the operator.

use std::any::Any;
use std::fmt::Display;
use std::time::Duration;

use axum::http::header::{CONTENT_RANGE, CONTENT_TYPE, RETRY_AFTER, VARY, WWW_AUTHENTICATE};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use longhand_shared::domain::id::{InvalidJobId, JobId};
use longhand_shared::store::StoreError;
use serde::Serialize;
use tracing::error;
use utoipa::ToSchema;

use crate::auth::refusal::Refusal;
use crate::error_codes::{self, Code};
use crate::fault::Fault;
use crate::request_id;

/// How long a client should wait before it retries a 503.
const RETRY: Duration = Duration::from_secs(2);

/// Every way in which a request can fail. The client gets its text; its source, and a field called `cause`, are for
/// the log alone.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApiError {
    /// There is at least one fault.
    #[error("{}", summary(.0))]
    Invalid(Vec<Fault>),
    #[error("the body is missing: send a JSON object")]
    NoBody,
    /// Not JSON, or JSON that repeats a key.
    #[error("the body cannot be read as JSON: {0}")]
    NotJson(serde_json::Error),
    #[error("the body begins with {0}: send JSON in UTF-8 without one")]
    ByteOrderMark(String),
    #[error("the body ended before it was complete: send it again")]
    BodyBroken,
    #[error("the body did not arrive within {} seconds: send it again", limit.as_secs())]
    BodyTimeout { limit: Duration },
    #[error("the body has more than {limit} bytes: send paths of audio, not audio")]
    BodyTooLarge { limit: usize },
    #[error("{0}: send plain JSON with Content-Type: application/json")]
    NotJsonType(String),
    #[error("the job id {0}")]
    InvalidJobId(InvalidJobId),
    #[error("the job {0} does not exist")]
    NoSuchJob(JobId),
    #[error("no available format matches the Accept header: use one of {}", offers.join(", "))]
    NotAcceptable { offers: &'static [&'static str] },
    #[error("the job {0} is in progress: retry it when it has ended")]
    InProgress(JobId),
    #[error("the job {0} has no failed chunk")]
    NothingFailed(JobId),
    #[error("the Idempotency-Key was used for a different request: use a new key")]
    KeyReused,
    #[error("{0}")]
    Unauthorized(Refusal),
    /// The request names somebody else as its user.
    #[error("{} {}", .0.pointer, .0.detail)]
    Forbidden(Fault),
    /// `excess` says what there is too much of, such as "reads more than 6 times"; `retry_after` is in whole seconds.
    #[error("the user {excess} a minute: try again in {} s", retry_after.as_secs())]
    RateLimited { excess: String, retry_after: Duration },
    #[error("the user has {most} jobs or more in progress: submit again after some have ended")]
    TooManyOpenJobs { most: usize, retry_after: Duration },
    /// The caller is not an operator.
    #[error("this call is for operators: use an operator's API key or token")]
    OperatorsOnly,
    #[error("the audio of this chunk cannot be played: {reason}")]
    NoAudio { reason: String },
    #[error("the range begins after the end of the file, which has {length} bytes")]
    RangeNotSatisfiable { length: u64 },
    #[error("the dead-letter queue cannot be reached at the moment: try again")]
    NoDeadLetters { cause: String },
    #[error("this server has no dead-letter queue: its operator must set LONGHAND_DLQ_URL")]
    NoDeadLetterQueue,
    #[error("uploads are disabled on this server: it has no bucket (LONGHAND_AUDIO_BUCKETS)")]
    NoUploads,
    #[error("URLs of audio cannot be signed at the moment: try again")]
    CannotSign { cause: String },
    #[error("not all of the audio can be deleted at the moment, so the job was not erased: try again")]
    CannotDelete { cause: String },
    #[error("this path does not exist: see /openapi.json")]
    NoSuchRoute,
    #[error("the path does not support this method; the Allow header lists those that it does")]
    MethodNotAllowed,
    #[error("{}", match .0 {
        StoreError::Unavailable(_) => "the table cannot be reached at the moment: try again",
        StoreError::Corrupt(_) => INTERNAL,
    })]
    Store(#[from] StoreError),
    /// `health.rs` has logged the causes.
    #[error("not ready: {0}")]
    NotReady(String),
    #[error(
        "this server has reached its limit of waits and event streams: try again, or read the job without waiting"
    )]
    TooManyStreams,
    #[error(
        "the limit of waits and event streams of one user, or of one job, is reached at this server: close some, or try again"
    )]
    TooManyWaiting,
    #[error(
        "this server, or this user, has reached the limit of results read or sent at the same time: try again"
    )]
    Busy,
    #[error(
        "event streams are not available through API Gateway or from a Lambda function: poll the job with \
         Prefer: wait=25"
    )]
    NoStreams,
    /// The answer is too large for the gateway in front of this server.
    #[error(
        "the request was carried out, but its answer of {bytes} bytes is over the {longest} that can be returned here: \
         to read the result, use a lower limit, omit segments, or send Accept: text/plain"
    )]
    AnswerTooLarge { bytes: u64, longest: usize },
    #[error("the request was not finished within {} seconds; it may still be carried out: look for its result, or repeat it with the same Idempotency-Key", limit.as_secs())]
    Timeout { limit: Duration },
    #[error("{INTERNAL}")]
    Internal { cause: String },
}

const INTERNAL: &str = "the service failed on this request: report the requestId to its operator";

impl ApiError {
    /// The one place that gives an error its row of the table of codes.
    fn code(&self) -> Code {
        match self {
            Self::Invalid(_) => Code::InvalidRequest,
            Self::NoBody => Code::NoBody,
            Self::NotJson(_) | Self::ByteOrderMark(_) => Code::InvalidJson,
            Self::BodyBroken => Code::BodyIncomplete,
            Self::BodyTimeout { .. } => Code::BodyTimeout,
            Self::BodyTooLarge { .. } => Code::BodyTooLarge,
            Self::NotJsonType(_) => Code::UnsupportedMediaType,
            Self::InvalidJobId(_) => Code::InvalidJobId,
            Self::NoSuchJob(_) => Code::JobNotFound,
            Self::NotAcceptable { .. } => Code::NotAcceptable,
            Self::InProgress(_) => Code::JobInProgress,
            Self::NothingFailed(_) => Code::NothingFailed,
            Self::KeyReused => Code::IdempotencyKeyReused,
            Self::Unauthorized(Refusal::Unavailable) => Code::AuthUnavailable,
            Self::Unauthorized(_) => Code::Unauthorized,
            Self::Forbidden(_) => Code::Forbidden,
            Self::RateLimited { .. } => Code::RateLimited,
            Self::TooManyOpenJobs { .. } => Code::TooManyOpenJobs,
            Self::OperatorsOnly => Code::OperatorsOnly,
            Self::NoAudio { .. } => Code::AudioUnavailable,
            Self::RangeNotSatisfiable { .. } => Code::RangeNotSatisfiable,
            Self::NoDeadLetters { .. } => Code::QueueUnavailable,
            Self::NoDeadLetterQueue => Code::NoDeadLetterQueue,
            Self::NoUploads => Code::NoUploads,
            Self::CannotSign { .. } | Self::CannotDelete { .. } => Code::UploadsUnavailable,
            Self::NoSuchRoute => Code::RouteNotFound,
            Self::MethodNotAllowed => Code::MethodNotAllowed,
            Self::Store(StoreError::Unavailable(_)) => Code::StoreUnavailable,
            Self::NotReady(_) => Code::NotReady,
            Self::TooManyStreams => Code::TooManyStreams,
            Self::TooManyWaiting => Code::TooManyWaiting,
            Self::Busy => Code::Busy,
            Self::NoStreams => Code::StreamsNotSupported,
            Self::AnswerTooLarge { .. } => Code::AnswerTooLarge,
            Self::Timeout { .. } => Code::Timeout,
            Self::Store(StoreError::Corrupt(_)) | Self::Internal { .. } => Code::Internal,
        }
    }

    /// The header of an error, if it has one.
    fn header(&self, status: StatusCode) -> Option<(HeaderName, HeaderValue)> {
        let retry = |after: Duration| (RETRY_AFTER, after.as_secs().into());
        match self {
            Self::Unauthorized(refusal) if *refusal != Refusal::Unavailable => {
                Some((WWW_AUTHENTICATE, refusal.challenge()))
            }
            Self::NotAcceptable { .. } => Some((VARY, HeaderValue::from_static("accept"))),
            // RFC 9110 section 14.4.
            Self::RangeNotSatisfiable { length } => {
                let range = HeaderValue::try_from(format!("bytes */{length}"));
                Some((CONTENT_RANGE, range.expect("ASCII")))
            }
            // When a retry is useful, where that is known.
            Self::RateLimited { retry_after, .. } | Self::TooManyOpenJobs { retry_after, .. } => {
                Some(retry(*retry_after))
            }
            Self::TooManyWaiting => Some(retry(RETRY)),
            _ => (status == StatusCode::SERVICE_UNAVAILABLE).then(|| retry(RETRY)),
        }
    }

    /// The error for a fault of this service.
    pub(crate) fn internal(cause: impl Display) -> Self {
        Self::Internal { cause: cause.to_string() }
    }

    /// The error for audio that cannot be played.
    pub(crate) fn no_audio(reason: impl Display) -> Self {
        Self::NoAudio { reason: reason.to_string() }
    }

    /// What the log says about an error that is ours.
    fn cause(&self) -> Option<String> {
        match self {
            Self::Store(error) => Some(error.to_string()),
            Self::Internal { cause }
            | Self::CannotSign { cause }
            | Self::CannotDelete { cause }
            | Self::NoDeadLetters { cause } => Some(cause.clone()),
            Self::Timeout { .. } => Some(self.to_string()),
            _ => None,
        }
    }

    fn faults(self) -> Vec<Fault> {
        match self {
            Self::Invalid(faults) => faults,
            Self::Forbidden(fault) => vec![fault],
            Self::NoBody => vec![Fault::new("#", "is missing")],
            Self::NotJson(error) => vec![Fault::new("#", error)],
            Self::ByteOrderMark(mark) => {
                vec![Fault::new("#", format_args!("begins with {mark}: send JSON in UTF-8 without one"))]
            }
            Self::InvalidJobId(error) => vec![Fault::new("/{jobId}", error)],
            _ => Vec::new(),
        }
    }
}

/// The first fault, and how many more there are.
fn summary(faults: &[Fault]) -> String {
    let first =
        faults.first().map(|Fault { pointer, detail }| format!("{pointer} {detail}")).unwrap_or_default();
    match faults.len() {
        0 | 1 => first,
        2 => first + " (and 1 more fault)",
        count => format!("{first} (and {} more faults)", count - 1),
    }
}

/// RFC 9457 section 3.1. The type is `about:blank`: `code` identifies the problem.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Problem {
    r#type: &'static str,
    title: &'static str,
    status: u16,
    #[schema(schema_with = error_codes::schema)]
    code: &'static str,
    detail: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    errors: Vec<Fault>,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<String>,
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let row = self.code().row();
        let (status, code) = (row.status, row.code);
        if let Some(cause) = self.cause() {
            error!(code, cause, "request failed");
        }
        let header = self.header(status).map(|header| [header]);
        let problem = Problem {
            r#type: "about:blank",
            title: row.title(),
            status: status.as_u16(),
            code,
            detail: self.to_string(),
            errors: self.faults(),
            request_id: request_id::current(),
        };
        let content_type = [(CONTENT_TYPE, "application/problem+json")];
        // The row is for the log.
        (status, header, content_type, Extension(row), Json(problem)).into_response()
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
