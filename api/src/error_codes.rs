//! The error codes: status, meaning and remedy of each. The description's problems and the table in docs/api.md
//! are made from this one table, and `error.rs` answers with its rows.

use axum::http::StatusCode;
use serde_json::Value;
use utoipa::openapi::schema::{ObjectBuilder, Type};

/// A row of the table.
#[derive(Debug)]
pub struct ErrorCode {
    /// For programs: the `code` of a problem.
    pub code: &'static str,
    /// The HTTP status.
    pub status: StatusCode,
    /// What it means.
    pub meaning: &'static str,
    /// What to do about it.
    pub remedy: &'static str,
}

macro_rules! error_codes {
    ($($variant:ident = $status:ident, $code:literal, $meaning:literal, $remedy:literal;)*) => {
        /// Names a row of [`ERROR_CODES`].
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Code { $($variant),* }

        /// All of them, by status.
        pub const ERROR_CODES: &[ErrorCode] = &[$(ErrorCode {
            code: $code,
            status: StatusCode::$status,
            meaning: $meaning,
            remedy: $remedy,
        }),*];
    };
}

error_codes! {
    InvalidRequest = BAD_REQUEST, "INVALID_REQUEST",
        "fields, parameters or headers are invalid; `errors` lists the faults",
        "correct them";
    NoBody = BAD_REQUEST, "NO_BODY",
        "the body is missing",
        "send a JSON object";
    InvalidJson = BAD_REQUEST, "INVALID_JSON",
        "the body is not valid JSON, or repeats a key",
        "correct it where `errors` says";
    BodyIncomplete = BAD_REQUEST, "BODY_INCOMPLETE",
        "the connection closed before the whole body arrived",
        "send it again";
    InvalidJobId = BAD_REQUEST, "INVALID_JOB_ID",
        "the job id in the path is not valid",
        "use `jobId` from an earlier answer";
    Unauthorized = UNAUTHORIZED, "UNAUTHORIZED",
        "the credentials are missing or not accepted; `detail` and `WWW-Authenticate` say why",
        "get a new token; send one credential, not two";
    Forbidden = FORBIDDEN, "FORBIDDEN",
        "`userId` is not the caller's id",
        "leave it out";
    OperatorsOnly = FORBIDDEN, "OPERATORS_ONLY",
        "the call is for operators",
        "use a key or a token of an operator";
    JobNotFound = NOT_FOUND, "JOB_NOT_FOUND",
        "the job does not exist, has expired, or belongs to another user",
        "list your jobs with `GET /transcript/search`";
    AudioUnavailable = NOT_FOUND, "AUDIO_UNAVAILABLE",
        "the job has no such chunk, its local audio does not exist, or this server is not allowed to read it",
        "read the reason in `detail`; use an index of `chunks`, or have the operator allow or restore the audio";
    NoDeadLetterQueue = NOT_FOUND, "NO_DEAD_LETTER_QUEUE",
        "this server has no dead-letter queue",
        "the operator sets `LONGHAND_DLQ_URL`";
    NoUploads = NOT_FOUND, "NO_UPLOADS",
        "this server has no bucket for uploads",
        "put the audio where the service reads it; its operator may set `LONGHAND_AUDIO_BUCKETS`";
    RouteNotFound = NOT_FOUND, "ROUTE_NOT_FOUND",
        "the path does not exist",
        "see `/openapi.json` for the paths";
    MethodNotAllowed = METHOD_NOT_ALLOWED, "METHOD_NOT_ALLOWED",
        "the path does not support this method",
        "use a method that `Allow` lists";
    NotAcceptable = NOT_ACCEPTABLE, "NOT_ACCEPTABLE",
        "no available format matches `Accept`",
        "use a format that `detail` lists";
    StreamsNotSupported = NOT_ACCEPTABLE, "STREAMS_NOT_SUPPORTED",
        "event streams are not available through API Gateway or from a Lambda function",
        "poll the job with `Prefer: wait=25`";
    AnswerTooLarge = NOT_ACCEPTABLE, "ANSWER_TOO_LARGE",
        "the answer exceeds the limit of API Gateway (4,700,000 bytes) or of a load balancer in front of a function (700,000 bytes); the request was carried out",
        "ask for less: a lower `limit`, no segments, or the text alone (`Accept: text/plain`)";
    BodyTimeout = REQUEST_TIMEOUT, "BODY_TIMEOUT",
        "the body did not arrive within 10 seconds",
        "send it again";
    JobInProgress = CONFLICT, "JOB_IN_PROGRESS",
        "a job in progress cannot be retried",
        "wait until it ends";
    NothingFailed = CONFLICT, "NOTHING_FAILED",
        "the job has no failed chunk",
        "no action is needed";
    BodyTooLarge = PAYLOAD_TOO_LARGE, "BODY_TOO_LARGE",
        "the body has more than 65,536 bytes",
        "shorten it; send paths of audio, not audio";
    UnsupportedMediaType = UNSUPPORTED_MEDIA_TYPE, "UNSUPPORTED_MEDIA_TYPE",
        "`Content-Type` is not JSON, or the body is compressed",
        "send plain JSON with `Content-Type: application/json`";
    RangeNotSatisfiable = RANGE_NOT_SATISFIABLE, "RANGE_NOT_SATISFIABLE",
        "the range begins after the end of the file; `Content-Range` has its length",
        "ask for bytes that exist";
    IdempotencyKeyReused = UNPROCESSABLE_ENTITY, "IDEMPOTENCY_KEY_REUSED",
        "the `Idempotency-Key` was used for a different request",
        "use a new key for a new request";
    RateLimited = TOO_MANY_REQUESTS, "RATE_LIMITED",
        "too many submits, uploads and retries, or too many reads, in a minute",
        "try again after the seconds in `Retry-After`";
    TooManyOpenJobs = TOO_MANY_REQUESTS, "TOO_MANY_OPEN_JOBS",
        "too many jobs in progress",
        "submit again after some have ended";
    TooManyWaiting = TOO_MANY_REQUESTS, "TOO_MANY_WAITING",
        "the limit of waits and event streams of one user, or of one job, is reached at this server",
        "close some, or try again after `Retry-After`";
    Internal = INTERNAL_SERVER_ERROR, "INTERNAL",
        "a fault in Longhand",
        "report the `requestId` to its operator";
    AuthUnavailable = SERVICE_UNAVAILABLE, "AUTH_UNAVAILABLE",
        "this server has not yet been able to read the issuer's keys",
        "try again; the operator should check the api's log and `LONGHAND_JWT_JWKS_URL`";
    UploadsUnavailable = SERVICE_UNAVAILABLE, "UPLOADS_UNAVAILABLE",
        "URLs of audio cannot be signed, or uploads cannot be deleted, at the moment",
        "try again after `Retry-After`";
    QueueUnavailable = SERVICE_UNAVAILABLE, "QUEUE_UNAVAILABLE",
        "the dead-letter queue cannot be reached",
        "try again after `Retry-After`";
    StoreUnavailable = SERVICE_UNAVAILABLE, "STORE_UNAVAILABLE",
        "the table cannot be reached",
        "try again after `Retry-After`; repeat a submit with the same `Idempotency-Key`";
    NotReady = SERVICE_UNAVAILABLE, "NOT_READY",
        "a required dependency does not answer, or the server is stopping",
        "send requests to another server";
    TooManyStreams = SERVICE_UNAVAILABLE, "TOO_MANY_STREAMS",
        "this server has reached its limit of waits and event streams",
        "try again, or read the job without `Prefer`";
    Busy = SERVICE_UNAVAILABLE, "BUSY",
        "this server, or this user, has reached the limit of results read or sent at the same time",
        "try again after `Retry-After`";
    Timeout = GATEWAY_TIMEOUT, "TIMEOUT",
        "the request was not finished within 28 seconds; it may still be carried out",
        "check the result, or send it again with the same `Idempotency-Key`";
}

impl Code {
    pub(crate) fn row(self) -> &'static ErrorCode {
        &ERROR_CODES[self as usize]
    }
}

impl ErrorCode {
    /// The `title` of a problem (RFC 9457 section 4.2.1).
    pub fn title(&self) -> &'static str {
        self.status.canonical_reason().unwrap_or_default()
    }
}

/// The schema of `code` in a problem.
pub(crate) fn schema() -> ObjectBuilder {
    let codes = ERROR_CODES.iter().map(|row| Value::from(row.code));
    ObjectBuilder::new().schema_type(Type::String).enum_values(Some(codes))
}
