//! `/openapi.json`: what the API takes and answers, as OpenAPI 3.1, and `/docs`, a page to try it on.
//!
//! The schemas of what is sent come from the types that are sent (`utoipa`). Paths and request bodies are said
//! here, by the limits that the handlers go by: a request is read field by field (`input.rs`), so that every
//! fault can be told, and no type of ours stands for it. Tests hold the description against the router, and
//! schemathesis holds it against a whole stack.

pub mod errors;
mod examples;
mod page;
mod paths;

use std::sync::LazyLock;

use axum::Router;
use axum::http::HeaderValue;
use axum::http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE};
use axum::response::IntoResponse;
use axum::routing::get;
use longhand_shared::attempt::{AttemptOutcome, AttemptRecord};
use longhand_shared::captions::Cue;
use longhand_shared::id::{ChunkIndex, MAX_CHUNKS};
use longhand_shared::job::{
    ChunkError, ChunkStatus, ErrorCode, JobStatus, MAX_METADATA_BYTES, MAX_METADATA_ENTRIES, MAX_PROMPT_CHARS,
};
use longhand_shared::media::{self, MAX_AUDIO_BYTES};
use longhand_shared::transcript::{ChunkResult, TranscriptResult};
use longhand_shared::upload::{Upload, Uploads};
use longhand_shared::webhook::{Callback, CallbackAttempt, CallbackState};
use longhand_shared::{AudioPath, JobId, Timestamp, UserId};
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use crate::error::Problem;
use crate::input::Fault;
use crate::jobs::{Accepted, SearchResults};

/// The description as it is served.
static TEXT: LazyLock<String> = LazyLock::new(|| {
    let text = serde_json::to_string_pretty(&document()).expect("a JSON value with string keys");
    text + "\n"
});

/// A new version may say something else.
const FOR_AN_HOUR: HeaderValue = HeaderValue::from_static("public, max-age=3600");

/// The description, as it is served and committed.
pub fn text() -> &'static str {
    &TEXT
}

/// Both are for all: they tell nothing but what the code does.
pub(crate) fn routes() -> Router {
    let description = || async {
        let headers =
            [(CONTENT_TYPE, HeaderValue::from_static("application/json")), (CACHE_CONTROL, FOR_AN_HOUR)];
        (headers, text()).into_response()
    };
    let page = || async {
        let headers = [
            (CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8")),
            (CACHE_CONTROL, FOR_AN_HOUR),
            (CONTENT_SECURITY_POLICY, page::policy()),
        ];
        (headers, page::HTML).into_response()
    };
    Router::new().route("/openapi.json", get(description)).route("/docs", get(page))
}

fn document() -> Value {
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Longhand",
            "version": env!("CARGO_PKG_VERSION"),
            "summary": "Transcribes audio, durably.",
            "description": "A job is 1 to 24 chunks of audio, in order. `POST /transcribe` takes it, \
                `GET /transcript/{jobId}` tells how it stands and what was said. Once a job is taken it ends.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "security": [{"bearer": []}, {"apiKey": []}],
        "tags": [
            {"name": "Jobs", "description": "Submit, wait, read, list."},
            {"name": "Uploads", "description": "For clients without an account at AWS."},
            {"name": "Service", "description": "For who runs it. Open to all."},
        ],
        "paths": paths::paths(),
        "webhooks": {"jobEnded": {"post": paths::job_ended()}},
        "components": {
            "schemas": schemas(),
            "securitySchemes": {
                "bearer": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "A token of the issuer (`LONGHAND_AUTH=jwt`), or an API key (`apikey`). \
                        A service that runs with `LONGHAND_AUTH=none` asks for neither.",
                },
                "apiKey": {
                    "type": "apiKey",
                    "in": "header",
                    "name": "X-Api-Key",
                    "description": "An API key, where `LONGHAND_AUTH=apikey`.",
                },
            },
        },
    })
}

fn schemas() -> Value {
    let mut schemas = Map::new();
    add::<AttemptOutcome>(&mut schemas);
    add::<AttemptRecord>(&mut schemas);
    add::<AudioPath>(&mut schemas);
    add::<Callback>(&mut schemas);
    add::<CallbackAttempt>(&mut schemas);
    add::<CallbackState>(&mut schemas);
    add::<ChunkError>(&mut schemas);
    add::<ChunkIndex>(&mut schemas);
    add::<ChunkResult>(&mut schemas);
    add::<ChunkStatus>(&mut schemas);
    add::<Cue>(&mut schemas);
    add::<ErrorCode>(&mut schemas);
    add::<Fault>(&mut schemas);
    add::<JobId>(&mut schemas);
    add::<JobStatus>(&mut schemas);
    add::<Accepted>(&mut schemas);
    add::<Problem>(&mut schemas);
    add::<SearchResults>(&mut schemas);
    add::<Timestamp>(&mut schemas);
    add::<TranscriptResult>(&mut schemas);
    add::<Upload>(&mut schemas);
    add::<Uploads>(&mut schemas);
    add::<UserId>(&mut schemas);
    // `forms.rs` adds these to a result where they are asked for.
    let result = &mut schemas["TranscriptResult"]["properties"];
    result["segments"] = json!({
        "type": "array",
        "items": {"$ref": "#/components/schemas/Cue"},
        "description": "What is said when; with `?segments=true` only.",
    });
    result["timesExact"] = json!({
        "type": "boolean",
        "description": "Whether the time of every word rests on measured lengths; with `?segments=true` only.",
    });
    let codes: Vec<&str> = errors::ERRORS.iter().map(|error| error.code).collect();
    schemas["Problem"]["properties"]["code"]["enum"] = json!(codes);
    schemas.insert("NewJob".to_owned(), new_job());
    schemas.insert("NewUploads".to_owned(), new_uploads());
    schemas.into()
}

fn add<T: ToSchema>(schemas: &mut Map<String, Value>) {
    let schema = serde_json::to_value(T::schema()).expect("a schema is JSON");
    schemas.insert(T::name().into_owned(), schema);
}

fn user() -> Value {
    json!({
        "anyOf": [{"$ref": "#/components/schemas/UserId"}, {"type": "null"}],
        "description": "Whose it is: the caller's by default. An operator, and everybody where \
            `LONGHAND_AUTH=none`, must say it.",
    })
}

/// What `jobs::create` reads.
fn new_job() -> Value {
    json!({
        "type": "object",
        "description": "At most 65,536 bytes of JSON.",
        "required": ["audioChunkPaths"],
        "additionalProperties": false,
        "properties": {
            "userId": user(),
            "audioChunkPaths": {
                "type": "array",
                "minItems": 1,
                "maxItems": MAX_CHUNKS,
                "items": {"$ref": "#/components/schemas/AudioPath"},
                "description": "The chunks, in order, each up to 5 MB.",
            },
            "language": {
                "type": ["string", "null"],
                "pattern": "^[A-Za-z]{2,3}(-[A-Za-z0-9]{2,4})?$",
                "description": "The language spoken: `en`, `pt-BR`. The model guesses without it.",
            },
            "prompt": {
                "type": ["string", "null"],
                "minLength": 1,
                "maxLength": MAX_PROMPT_CHARS,
                "description": "What helps the model: names, spellings, what was said before.",
            },
            "metadata": {
                "type": ["object", "null"],
                "maxProperties": MAX_METADATA_ENTRIES,
                "propertyNames": {"minLength": 1, "maxLength": MAX_METADATA_BYTES},
                "additionalProperties": {"type": "string", "maxLength": MAX_METADATA_BYTES},
                "description": "Notes, given back as they came. Lengths are in bytes of UTF-8.",
            },
            "callbackUrl": {
                "type": ["string", "null"],
                "format": "uri",
                "description": "Who is told of the job's end: a web address of a host that this service tells.",
            },
        },
    })
}

/// What `uploads::create` reads.
fn new_uploads() -> Value {
    json!({
        "type": "object",
        "description": "At most 65,536 bytes of JSON.",
        "required": ["files"],
        "additionalProperties": false,
        "properties": {
            "userId": user(),
            "files": {
                "type": "array",
                "minItems": 1,
                "maxItems": MAX_CHUNKS,
                "items": {
                    "title": "NewUpload",
                    "type": "object",
                    "required": ["contentType", "bytes"],
                    "additionalProperties": false,
                    "properties": {
                        "name": {
                            "type": ["string", "null"],
                            "minLength": 1,
                            "maxLength": 255,
                            "description": "All but ASCII letters, digits, `.`, `_` and `-` become `_`.",
                        },
                        "contentType": {
                            "type": "string",
                            "enum": media::MEDIA_TYPES.map(|(name, _)| name),
                            "description": "In either case; parameters are dropped.",
                        },
                        "bytes": {"type": "integer", "minimum": 1, "maximum": MAX_AUDIO_BYTES},
                    },
                },
            },
        },
    })
}
