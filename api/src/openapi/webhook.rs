//! The webhook in the description.

use serde_json::{Value, json};

/// The delivery to a job's `callbackUrl`.
pub(super) fn job_ended() -> Value {
    let schema = |name: &str| json!({"$ref": format!("#/components/schemas/{name}")});
    let header = |name: &str, description: &str| {
        let text = json!({"type": "string"});
        json!({"name": name, "in": "header", "required": true, "description": description, "schema": text})
    };
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
        "summary": "A job has ended",
        "description": "A webhook delivery to the job's `callbackUrl`, signed by the Standard Webhooks scheme. \
            Delivery is at-least-once and retried for 24 hours.",
        "security": [],
        "parameters": [
            header("webhook-id", "The id of the event, the same in every attempt."),
            header("webhook-timestamp", "The time of this attempt, in seconds since 1970."),
            header("webhook-signature", "`v1,` and the base64 of the HMAC-SHA256 of `id.timestamp.body`; two during a rotation of the secret, separated by a space."),
        ],
        "requestBody": {"required": true, "content": {"application/json": {"schema": message}}},
        "responses": {
            "2XX": {"description": "Delivered."},
            "410": {"description": "Delivery ends; there are no more attempts."},
            "default": {"description": "The delivery is retried later."},
        },
    })
}
