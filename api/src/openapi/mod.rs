//! `/openapi.json`: what the API takes and answers, as `OpenAPI` 3.1, and `/docs`, a page to try it on.
//!
//! Operations are described at their handlers (`#[utoipa::path]`), schemas of answers by the types that are sent. What
//! utoipa's types cannot express is added here. Tests compare the description with the router and the error codes, and
//! schemathesis compares it with a running stack.

pub(crate) mod examples;
mod page;
pub(crate) mod problems;
mod schemas;
mod webhook;

use axum::Router;
use axum::body::Bytes;
use axum::http::HeaderValue;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::IntoResponse;
use axum::routing::get;
use longhand_shared::domain::id::MAX_CHUNKS;
use longhand_shared::domain::path::AudioSources;
use serde_json::{Value, json};
use utoipa::openapi::OpenApi;

/// The routes of the description, with examples that a service with these sources accepts, and of its page. Both are
/// open to everybody: they show only what the code does, and where recordings may be.
pub(crate) fn routes(text: &str, sources: &AudioSources) -> Router {
    let samples = match (&sources.root, sources.buckets.first()) {
        (Some(_), _) => "samples/".to_owned(),
        (None, Some(bucket)) => format!("s3://{bucket}/samples/"),
        (None, None) => examples::SAMPLES.to_owned(),
    };
    let text = Bytes::from(text.replace(examples::SAMPLES, &samples));
    let description = async move || {
        let headers = [
            (CONTENT_TYPE, HeaderValue::from_static("application/json")),
            (CACHE_CONTROL, page::FOR_AN_HOUR),
        ];
        (headers, text.clone()).into_response()
    };
    Router::new().route("/openapi.json", get(description)).merge(page::routes())
}

/// The text of the description. `api` has the operations, and the schemas that they use.
pub(crate) fn text(api: &OpenApi) -> String {
    let api = serde_json::to_value(api).expect("a description is JSON");
    let (mut paths, mut schemas) = (api["paths"].clone(), api["components"]["schemas"].clone());
    for (_, operations) in paths.as_object_mut().into_iter().flatten() {
        for (method, operation) in operations.as_object_mut().into_iter().flatten() {
            finish(operation);
            if method == "post" {
                link(operation);
            }
        }
    }
    extend(&mut schemas);
    let document = document(&paths, &schemas);
    let text = serde_json::to_string_pretty(&document).expect("a JSON value with string keys");
    text + "\n"
}

fn document(paths: &Value, schemas: &Value) -> Value {
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Longhand",
            "version": env!("CARGO_PKG_VERSION"),
            "summary": "A durable audio-transcription job service.",
            "description": format!(
                "A job is 1 to {MAX_CHUNKS} chunks of audio, in order. `POST /transcribe` submits it, \
                 `GET /transcript/{{jobId}}` returns its status and its text. Every accepted job ends."
            ),
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "security": [{"bearer": []}, {"apiKey": []}],
        "tags": [
            {"name": "Jobs", "description": "Submit, wait, read, list."},
            {"name": "Uploads", "description": "For clients without an AWS account."},
            {"name": "Operations", "description": "For operators: callers with the scope `longhand:operator`, or with an operator's API key. With `LONGHAND_AUTH=none` every caller is an operator."},
            {"name": "Service", "description": "Health and metrics, for load balancers and monitoring. These calls need no credentials."},
        ],
        "paths": paths,
        "webhooks": {"jobEnded": {"post": webhook::job_ended()}},
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "bearer": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "A token of the issuer (`LONGHAND_AUTH=jwt`), or an API key (`apikey`). \
                        With `LONGHAND_AUTH=none` neither is needed.",
                },
                "apiKey": {
                    "type": "apiKey",
                    "in": "header",
                    "name": "X-Api-Key",
                    "description": "An API key, if `LONGHAND_AUTH=apikey`.",
                },
            },
        },
    })
}

/// Adds the schemas that no type of an answer has.
fn extend(schemas: &mut Value) {
    schemas["NewJob"] = schemas::new_job();
    schemas["NewUploads"] = schemas::new_uploads();
    schemas["NewTicket"] = schemas::new_ticket();
    // `forms.rs` adds these to a result on request.
    let result = &mut schemas["TranscriptResult"]["properties"];
    result["segments"] = json!({
        "type": "array",
        "items": {"$ref": "#/components/schemas/Cue"},
        "description": "The text with its times; with `?segments=true` or `?words=true` only.",
    });
    result["timesExact"] = json!({
        "type": "boolean",
        "description": "`false`: some times of speech are estimates; with `?segments=true` or `?words=true` only.",
    });
}

/// What the attributes of a handler cannot say.
fn finish(operation: &mut Value) {
    // Open to everybody. `security(())` makes a list of one empty entry.
    if operation.get("security") == Some(&json!([{}])) {
        operation["security"] = json!([]);
    }
    if let Some(body) = operation.get_mut("requestBody") {
        body["required"] = true.into();
    }
    let parameters = operation.get_mut("parameters").and_then(Value::as_array_mut);
    for parameter in parameters.into_iter().flatten().filter(|parameter| parameter["in"] == "header") {
        without_null(&mut parameter["schema"]);
    }
    for response in members(operation.get_mut("responses")) {
        for header in members(response.get_mut("headers")) {
            // A header of type `Option<String>` is not in every answer.
            let optional = without_null(&mut header["schema"]);
            header["required"] = (!optional).into();
        }
    }
}

/// Links each answer that has a job with what can be done with it.
fn link(operation: &mut Value) {
    const JOBS: [&str; 2] = ["#/components/schemas/Accepted", "#/components/schemas/TranscriptResult"];
    let link = |id: &str| json!({"operationId": id, "parameters": {"jobId": "$response.body#/jobId"}});
    for response in members(operation.get_mut("responses")) {
        let schema = response.pointer("/content/application~1json/schema/$ref").and_then(Value::as_str);
        if schema.is_some_and(|schema| JOBS.contains(&schema)) {
            response["links"] = json!({
                "read": link("getTranscript"),
                "follow": link("followTranscript"),
                "retry": link("retryTranscript"),
                "erase": link("deleteTranscript"),
            });
        }
    }
}

fn members(object: Option<&mut Value>) -> impl Iterator<Item = &mut Value> {
    object.and_then(Value::as_object_mut).into_iter().flatten().map(|(_, member)| member)
}

/// Takes null, which a header cannot be, out of a schema. Whether it was there.
fn without_null(schema: &mut Value) -> bool {
    let nullable = schema["type"] == json!(["string", "null"]);
    if nullable {
        schema["type"] = "string".into();
    }
    nullable
}
