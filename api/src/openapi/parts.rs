//! What the calls of `paths.rs` have in common.

use serde_json::{Map, Value, json};

use super::errors::ERRORS;
use super::examples;
use crate::waiting::prefer::MAX_WAIT;

pub(super) fn schema(name: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{name}")})
}

pub(super) fn header(description: &str, required: bool) -> Value {
    json!({"description": description, "required": required, "schema": {"type": "string"}})
}

pub(super) fn prefer() -> Value {
    json!({
        "name": "Prefer",
        "in": "header",
        "description": format!(
            "`wait=n` (RFC 7240): answer when the job has ended, after n seconds at the latest, {} at most. What is \
             no such preference is ignored.",
            MAX_WAIT.as_secs()
        ),
        "schema": {"type": "string"},
        "example": "wait=15",
    })
}

pub(super) fn job_id() -> Value {
    json!({
        "name": "jobId",
        "in": "path",
        "required": true,
        "description": "The job.",
        "schema": schema("JobId"),
        "example": examples::JOB,
    })
}

pub(super) fn body(name: &str, example: &Value) -> Value {
    json!({"required": true, "content": content(&schema(name), example)})
}

pub(super) fn content(schema: &Value, example: &Value) -> Value {
    json!({"application/json": {"schema": schema, "examples": {"example": {"value": example}}}})
}

pub(super) fn answer(description: &str, schema: &Value, example: &Value) -> Value {
    json!({"description": description, "content": content(schema, example)})
}

/// What can be done with the job that an answer names.
pub(super) fn links(id: &str) -> Value {
    let link = |operation: &str| json!({"operationId": operation, "parameters": {"jobId": id}});
    json!({
        "read": link("getTranscript"),
        "follow": link("followTranscript"),
        "retry": link("retryTranscript"),
        "erase": link("deleteTranscript"),
    })
}

/// Those that are good, and a problem for each status of the codes.
pub(super) fn responses(mut good: Value, codes: &[&[&str]]) -> Value {
    for code in codes.iter().copied().flatten() {
        let error = ERRORS.iter().find(|error| error.code == *code).expect("every code is in the table");
        let response = &mut good[error.status.to_string()];
        if response.is_null() {
            *response = json!({
                "description": "",
                "headers": {"X-Request-Id": header("To be quoted to who runs the service.", true)},
                "content": {"application/problem+json": {"schema": schema("Problem"), "examples": {}}},
            });
            let told = &mut response["headers"];
            match error.status {
                401 => told["WWW-Authenticate"] = header("Which credentials are taken (RFC 6750).", true),
                405 => told["Allow"] = header("The methods that the path takes.", true),
                429 | 503 => told["Retry-After"] = header("Seconds until it is worth trying again.", true),
                _ => {}
            }
        }
        let (code, meaning) = (error.code, error.meaning);
        let before = response["description"].as_str().unwrap_or_default();
        let and = if before.is_empty() { "" } else { " " };
        response["description"] = format!("{before}{and}`{code}`: {meaning}.").into();
        let title = axum::http::StatusCode::from_u16(error.status).ok().and_then(|s| s.canonical_reason());
        response["content"]["application/problem+json"]["examples"][code] = json!({
            "summary": error.mend,
            "value": {
                "type": "about:blank",
                "title": title,
                "status": error.status,
                "code": code,
                "detail": meaning,
                "requestId": "01a20675-b257-704e-82ef-c8afeeeddbef",
            },
        });
    }
    let by_status: Map<String, Value> = match good {
        Value::Object(responses) => responses,
        _ => Map::new(),
    };
    by_status.into()
}
