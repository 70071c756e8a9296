//! Every way in which a call can fail, for people: what it means and what mends it. The README's table and the
//! description's problems are this one; a test compares them with `error.rs`.

/// One `code` of a problem.
pub struct ErrorCode {
    /// For programs.
    pub code: &'static str,
    /// The HTTP status that it comes with.
    pub status: u16,
    /// What it means.
    pub meaning: &'static str,
    /// What to do about it.
    pub mend: &'static str,
}

/// All of them, by status.
pub const ERRORS: &[ErrorCode] = &[
    row(
        "INVALID_REQUEST",
        400,
        "fields, parameters or headers have faults; `errors` lists all of them",
        "correct them",
    ),
    row("NO_BODY", 400, "there is no body", "send a JSON object"),
    row("INVALID_JSON", 400, "the body is no JSON, or has a key twice", "correct it where `errors` says"),
    row("BODY_INCOMPLETE", 400, "the body ended before its end", "send it again"),
    row("INVALID_JOB_ID", 400, "the job id in the path is none", "take `jobId` as it was answered"),
    row(
        "UNAUTHORIZED",
        401,
        "no credential, or one that is not accepted; `detail` and `WWW-Authenticate` say why",
        "get a new token; send one credential, not two",
    ),
    row("FORBIDDEN", 403, "`userId` is not the caller", "leave it out"),
    row(
        "JOB_NOT_FOUND",
        404,
        "there is no such job, or it is another's",
        "look for it by `GET /transcript/search`",
    ),
    row(
        "NO_UPLOADS",
        404,
        "the service has no bucket to upload into",
        "put the audio where the service reads it; its operator may set `LONGHAND_AUDIO_BUCKETS`",
    ),
    row("ROUTE_NOT_FOUND", 404, "there is nothing at this path", "see `/openapi.json` for the paths"),
    row("METHOD_NOT_ALLOWED", 405, "the path does not take this method", "take one that `Allow` lists"),
    row(
        "NOT_ACCEPTABLE",
        406,
        "`Accept` takes none of the forms that there are",
        "take one that `detail` lists",
    ),
    row("BODY_TIMEOUT", 408, "the body did not arrive within 10 seconds", "send it again"),
    row("JOB_IN_PROGRESS", 409, "a job that runs cannot be tried again", "wait for its end"),
    row("NOTHING_FAILED", 409, "no chunk of the job failed", "nothing"),
    row("BODY_TOO_LARGE", 413, "the body has more than 65,536 bytes", "shorten it; audio goes by its path"),
    row(
        "UNSUPPORTED_MEDIA_TYPE",
        415,
        "the body is said to be no JSON, or is compressed",
        "send it as it is, with `Content-Type: application/json`",
    ),
    row(
        "IDEMPOTENCY_KEY_REUSED",
        422,
        "the `Idempotency-Key` was used for a request that asked for something else",
        "use a new key for a new request",
    ),
    row("RATE_LIMITED", 429, "too many submits in a minute", "wait for `Retry-After`"),
    row("TOO_MANY_OPEN_JOBS", 429, "too many jobs in progress", "submit again when some have ended"),
    row("INTERNAL", 500, "a fault of Longhand's own", "tell its operator the `requestId`"),
    row(
        "STREAMS_NOT_SUPPORTED",
        501,
        "API Gateway passes on no event streams",
        "read the job again and again, with `Prefer: wait=25`",
    ),
    row(
        "ANSWER_TOO_LARGE",
        501,
        "the answer has more than the 4,700,000 bytes that go through API Gateway; what was asked for is done",
        "ask for less: a lower `limit`, no segments, or the text alone (`Accept: text/plain`)",
    ),
    row(
        "AUTH_UNAVAILABLE",
        503,
        "the issuer's keys have never been read",
        "try again; the operator looks at the api's log, and at `LONGHAND_JWT_JWKS_URL`",
    ),
    row(
        "UPLOADS_UNAVAILABLE",
        503,
        "no address can be signed: the service has no credentials just now",
        "try again after `Retry-After`",
    ),
    row(
        "STORE_UNAVAILABLE",
        503,
        "the table cannot be reached",
        "try again after `Retry-After`, a submit under the same `Idempotency-Key`",
    ),
    row(
        "NOT_READY",
        503,
        "something that the service needs does not answer",
        "send requests to another server",
    ),
    row(
        "TOO_MANY_STREAMS",
        503,
        "this server has as many event streams as it may",
        "try again, or read the job with `Prefer: wait=25`",
    ),
    row(
        "TIMEOUT",
        504,
        "the request was not done within 28 seconds; it may be done later",
        "look, or ask again under the same `Idempotency-Key`",
    ),
];

const fn row(code: &'static str, status: u16, meaning: &'static str, mend: &'static str) -> ErrorCode {
    ErrorCode { code, status, meaning, mend }
}

/// The table of the README.
pub fn table() -> String {
    let head = "| `code` | status | meaning | what to do |\n|---|---|---|---|\n";
    let rows = ERRORS.iter().map(|ErrorCode { code, status, meaning, mend }| {
        format!("| `{code}` | {status} | {meaning} | {mend} |\n")
    });
    rows.fold(head.to_owned(), |table, row| table + &row)
}
