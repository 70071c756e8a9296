//! Every call: its parameters, its body, its answers.

use serde_json::{Value, json};

use super::examples;
use super::parts::{answer, body, content, header, job_id, links, prefer, responses, schema};

/// What every call may be answered with.
const ALWAYS: [&str; 3] = ["METHOD_NOT_ALLOWED", "INTERNAL", "TIMEOUT"];

/// And every call by somebody.
const ASKS_WHO: [&str; 2] = ["UNAUTHORIZED", "AUTH_UNAVAILABLE"];

/// And every call with a body.
const READS: [&str; 7] = [
    "INVALID_REQUEST",
    "NO_BODY",
    "INVALID_JSON",
    "BODY_INCOMPLETE",
    "BODY_TIMEOUT",
    "BODY_TOO_LARGE",
    "UNSUPPORTED_MEDIA_TYPE",
];

/// And every call that names a job.
const NAMES: [&str; 3] = ["INVALID_JOB_ID", "JOB_NOT_FOUND", "STORE_UNAVAILABLE"];

/// And every call that is answered with transcripts.
const LONG: [&str; 1] = ["ANSWER_TOO_LARGE"];

pub(super) fn paths() -> Value {
    json!({
        "/transcribe": {"post": transcribe()},
        "/transcript/search": {"get": search()},
        "/transcript/{jobId}": {"get": read(), "delete": erase()},
        "/transcript/{jobId}/retry": {"post": retry()},
        "/transcript/{jobId}/events": {"get": events()},
        "/uploads": {"post": uploads()},
        "/healthz": {"get": healthz()},
        "/readyz": {"get": readyz()},
        "/metrics": {"get": metrics()},
    })
}

fn transcribe() -> Value {
    let (result, accepted) = (schema("TranscriptResult"), schema("Accepted"));
    let mut ended = answer("The job has ended within `Prefer: wait=n`.", &result, &examples::result());
    ended["headers"] = json!({
        "Content-Location": header("Where the job is.", true),
        "Preference-Applied": header("The wait, as it was done.", true),
        "Idempotency-Replayed": header("`true` where the key is known: the job is the one of then.", false),
    });
    ended["links"] = links("$response.body#/jobId");
    let mut taken = answer("The job is taken, and will end.", &accepted, &examples::accepted());
    taken["headers"] = json!({
        "Location": header("Where the job is.", true),
        "Preference-Applied": header("The wait, as it was done.", false),
        "Idempotency-Replayed": header("`true` where the key is known: the job is the one of then.", false),
    });
    taken["links"] = links("$response.body#/jobId");
    let codes = [
        &ALWAYS[..],
        &ASKS_WHO,
        &READS,
        &["FORBIDDEN", "IDEMPOTENCY_KEY_REUSED", "RATE_LIMITED", "TOO_MANY_OPEN_JOBS", "STORE_UNAVAILABLE"],
    ];
    json!({
        "tags": ["Jobs"],
        "operationId": "transcribe",
        "summary": "Submit a job",
        "description": "Makes a job of 1 to 24 chunks. Once it is answered the job will end, whatever happens.",
        "parameters": [
            {
                "name": "Idempotency-Key",
                "in": "header",
                "description": "The client's own name for the request, kept for 24 hours: the same request under \
                    the same key gives the same job. Visible ASCII characters, in quotes or without.",
                "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!#-~]+$"},
                "example": "8e03978e-40d5-43dd-bc93-6894a57f9324",
            },
            prefer(),
        ],
        "requestBody": body("NewJob", &examples::new_job()),
        "responses": responses(json!({"200": ended, "202": taken}), &codes),
    })
}

fn search() -> Value {
    // No links: a page may be empty, and a link from nothing leads nowhere.
    let page = answer("A page, the newest first.", &schema("SearchResults"), &examples::page());
    let query = |name: &str, description: &str, schema: &Value| json!({"name": name, "in": "query", "description": description, "schema": schema});
    let codes = [&ALWAYS[..], &ASKS_WHO, &LONG, &["INVALID_REQUEST", "FORBIDDEN", "STORE_UNAVAILABLE"]];
    json!({
        "tags": ["Jobs"],
        "operationId": "search",
        "summary": "List a user's jobs",
        "description": "Newest first, in pages. What was submitted within the last minute is there at once; a later \
            change of status follows within a moment.",
        "parameters": [
            query("userId", "Whose jobs: the caller's by default. An operator must say it.", &schema("UserId")),
            query("jobStatus", "Only those that stand so.", &schema("JobStatus")),
            query("submittedAfter", "Only those submitted then or later.", &schema("Timestamp")),
            query("submittedBefore", "Only those submitted earlier.", &schema("Timestamp")),
            query(
                "limit",
                "How many a page has at most.",
                &json!({"type": "integer", "minimum": 1, "maximum": 100, "default": 20}),
            ),
            query(
                "cursor",
                "`nextCursor` of the page before, as it is, with that page's other parameters.",
                &json!({"type": "string", "maxLength": 512}),
            ),
        ],
        "responses": responses(json!({"200": page}), &codes),
    })
}

fn read() -> Value {
    let mut content = content(&schema("TranscriptResult"), &examples::result());
    for (media_type, example) in [
        ("text/plain", "He was not an ill-disposed young man."),
        ("text/vtt", "WEBVTT\n\n00:00:00.000 --> 00:00:02.800\nHe was not an ill-disposed young man.\n"),
        (
            "application/x-subrip",
            "1\n00:00:00,000 --> 00:00:02,800\nHe was not an ill-disposed young man.\n\n",
        ),
    ] {
        content[media_type] = json!({"schema": {"type": "string"}, "example": example});
    }
    let headers = json!({
        "ETag": header("Names this answer, for `If-None-Match`.", true),
        "Cache-Control": header("How long it is good.", true),
        "Vary": header("`accept`: the forms are kept apart.", true),
        "Preference-Applied": header("The wait, as it was done.", false),
        "Longhand-Partial": header("Of text and captions: `true` when some of the text is missing.", false),
        "Longhand-Times-Exact": header("Of captions: `false` when times rest on an estimate.", false),
    });
    let parameters = json!([
        job_id(),
        {
            "name": "segments",
            "in": "query",
            "description": "Whether JSON says what is said when.",
            "schema": {"type": "boolean", "default": false},
        },
        prefer(),
        {
            "name": "If-None-Match",
            "in": "header",
            "description": "The `ETag` of the answer that the client has: `304` if it is still good.",
            "schema": {"type": "string"},
        },
    ]);
    let ok = json!({
        "description": "The job as it stands, in the form that `Accept` likes best.",
        "headers": headers,
        "content": content,
    });
    let known = json!({
        "description": "The client has it.",
        "headers": {"ETag": header("Names this answer.", true)},
    });
    let codes = [&ALWAYS[..], &ASKS_WHO, &NAMES, &LONG, &["INVALID_REQUEST", "NOT_ACCEPTABLE"]];
    json!({
        "tags": ["Jobs"],
        "operationId": "getTranscript",
        "summary": "Read a job",
        "description": "Its status, each chunk's status, the text so far. With `Prefer: wait=n` when it has ended, or \
            as it stands when the time is over.",
        "parameters": parameters,
        "responses": responses(json!({"200": ok, "304": known}), &codes),
    })
}

fn erase() -> Value {
    json!({
        "tags": ["Jobs"],
        "operationId": "deleteTranscript",
        "summary": "Erase a job",
        "description": "With all that belongs to it. What waits of it is not begun; a call of the model that is under \
            way ends unheard.",
        "parameters": [job_id(), {
            "name": "audio",
            "in": "query",
            "description": "`true`: what its user uploaded for it by `POST /uploads` is deleted too, and first.",
            "schema": {"type": "boolean", "default": false},
        }],
        "responses": responses(
            json!({"204": {"description": "It is gone."}}),
            &[&ALWAYS, &ASKS_WHO, &NAMES, &["INVALID_REQUEST", "UPLOADS_UNAVAILABLE"]]
        ),
    })
}

fn retry() -> Value {
    let mut taken =
        answer("The job is in progress again.", &schema("TranscriptResult"), &examples::retried());
    taken["links"] = links("$response.body#/jobId");
    let codes = [
        &ALWAYS[..],
        &ASKS_WHO,
        &NAMES,
        &LONG,
        &["JOB_IN_PROGRESS", "NOTHING_FAILED", "RATE_LIMITED", "TOO_MANY_OPEN_JOBS"],
    ];
    json!({
        "tags": ["Jobs"],
        "operationId": "retryTranscript",
        "summary": "Try a job's failed chunks again",
        "description": "Only those, and only when the job has ended.",
        "parameters": [job_id()],
        "responses": responses(json!({"202": taken}), &codes),
    })
}

fn events() -> Value {
    let example = format!(
        "retry: 2000\n\nid: I;.\nevent: job\ndata: {{\"jobId\":\"{}\",\"jobStatus\":\"IN_PROGRESS\",\"chunkCount\":2}}\n\n",
        examples::JOB
    );
    // `OpenAPI` 3.1 has no word for a stream: the schema is that of each event, as is the custom.
    let event = json!({
        "type": "object",
        "required": ["id", "event", "data"],
        "properties": {
            "id": {"type": "string"},
            "event": {"enum": ["job", "chunk"]},
            "data": {"type": "string", "contentMediaType": "application/json"},
        },
    });
    let ok = json!({
        "description": "Server-sent events until the job has ended: `job` when it goes on (`jobId`, `jobStatus`, \
            `chunkCount`), `chunk` for each change of a chunk (`index`, `chunkStatus`, `attempts`, `error`), and at \
            last `job` with the whole result.",
        "content": {"text/event-stream": {"schema": event, "example": example}},
    });
    let codes = [&ALWAYS[..], &ASKS_WHO, &NAMES, &["TOO_MANY_STREAMS", "STREAMS_NOT_SUPPORTED"]];
    let read = json!({"description": "The client has read the last event: it need not come again."});
    json!({
        "tags": ["Jobs"],
        "operationId": "followTranscript",
        "summary": "Follow a job",
        "description": "Its changes as they happen. A comment every 15 seconds shows that the connection lives.",
        "parameters": [
            job_id(),
            {
                "name": "Last-Event-ID",
                "in": "header",
                "description": "The id of the last event that was read: what is known by it is not told again.",
                "schema": {"type": "string"},
            },
        ],
        "responses": responses(json!({"200": ok, "204": read}), &codes),
    })
}

fn uploads() -> Value {
    let signed = answer(
        "One entry for each file, in their order. An address is good for 15 minutes, and a secret until then.",
        &schema("Uploads"),
        &examples::uploads(),
    );
    let codes =
        [&ALWAYS[..], &ASKS_WHO, &READS, &["FORBIDDEN", "NO_UPLOADS", "RATE_LIMITED", "UPLOADS_UNAVAILABLE"]];
    json!({
        "tags": ["Uploads"],
        "operationId": "createUploads",
        "summary": "Get addresses to upload audio to",
        "description": "Send each file to its address, as it says there, then submit the paths.",
        "requestBody": body("NewUploads", &examples::new_uploads()),
        "responses": responses(json!({"200": signed}), &codes),
    })
}

fn healthz() -> Value {
    let schema = json!({
        "type": "object", "required": ["status"], "properties": {"status": {"const": "ok"}},
    });
    let alive = answer("The process answers.", &schema, &json!({"status": "ok"}));
    open("healthz", "Is it alive?", json!({"200": alive}), &[])
}

fn readyz() -> Value {
    let schema = json!({
        "type": "object",
        "required": ["status", "missing"],
        "properties": {
            "status": {"enum": ["ready", "degraded"]},
            "missing": {"type": "array", "items": {"enum": ["queue", "redis"]}},
        },
    });
    let ready = answer("The table answers.", &schema, &json!({"status": "ready", "missing": []}));
    open("readyz", "Should it get requests?", json!({"200": ready}), &["NOT_READY"])
}

fn metrics() -> Value {
    let figures = json!({
        "description": "What has happened, in Prometheus' text form. Not through API Gateway.",
        "content": {"text/plain": {"schema": {"type": "string"}}},
    });
    open("metrics", "Figures", json!({"200": figures}), &["ROUTE_NOT_FOUND"])
}

/// What the receiver at a job's `callbackUrl` is called with.
pub(super) fn job_ended() -> Value {
    let id = |name: &str, description: &str| json!({"name": name, "in": "header", "required": true, "description": description, "schema": {"type": "string"}});
    let message = json!({
        "type": "object",
        "required": ["type", "timestamp", "data"],
        "properties": {
            "type": {"enum": ["transcript.completed", "transcript.failed"]},
            "timestamp": schema("Timestamp"),
            "data": {
                "type": "object",
                "required": ["jobId", "userId", "jobStatus", "submittedTime", "completedTime", "transcriptPath"],
                "properties": {
                    "jobId": schema("JobId"),
                    "userId": schema("UserId"),
                    "jobStatus": schema("JobStatus"),
                    "submittedTime": schema("Timestamp"),
                    "completedTime": schema("Timestamp"),
                    "metadata": {"type": "object", "additionalProperties": {"type": "string"}},
                    "transcriptPath": {"type": "string"},
                },
            },
        },
    });
    json!({
        "tags": ["Jobs"],
        "operationId": "jobEnded",
        "summary": "The end of a job is told",
        "description": "By the Standard Webhooks scheme, to the job's `callbackUrl`. It may be told twice, never not at \
            all within a day.",
        "security": [],
        "parameters": [
            id("webhook-id", "The same at every try."),
            id("webhook-timestamp", "Seconds since 1970, of this try."),
            id("webhook-signature", "`v1,` and base64 of HMAC-SHA256 over `id.timestamp.body`."),
        ],
        "requestBody": {"required": true, "content": {"application/json": {"schema": message}}},
        "responses": {
            "2XX": {"description": "It is heard."},
            "410": {"description": "Nobody is to be told again."},
            "default": {"description": "It is told again later."},
        },
    })
}

/// A call that asks nobody who they are.
fn open(id: &str, summary: &str, good: Value, codes: &[&str]) -> Value {
    json!({
        "tags": ["Service"],
        "operationId": id,
        "summary": summary,
        "security": [],
        "responses": responses(good, &[&ALWAYS, codes]),
    })
}
