//! `callbackUrl`: which addresses are accepted, and what is shown of deliveries.

use std::sync::Arc;

use axum::body::Body;
use axum::http::Request;
use longhand_api::AppState;
use longhand_shared::JobId;
use longhand_shared::store::JobStore;
use serde_json::json;

use crate::support::{Api, body_with, good_body};

const URL: &str = "https://receiver.example/hooks/7?token=abc";

#[tokio::test]
async fn the_callback_is_kept_and_shown_to_the_jobs_owner() {
    let api = Api::new();
    for url in [URL, "http://127.0.0.1:9099/hook"] {
        let accepted = api.transcribe(&body_with("callbackUrl", json!(url))).await.json(202);
        let id = accepted["jobId"].as_str().expect("an id");
        let result = api.get(&format!("/transcript/{id}")).await.json(200);
        let expected = json!({"url": url, "state": "PENDING", "tries": 0, "attempts": []});
        assert_eq!(result["callback"], expected);
        let id: JobId = id.parse().expect("an id");
        assert!(api.store.job(id).await.expect("memory").is_some_and(|job| job.head.callback.is_some()));
    }
    let accepted = api.transcribe(&good_body()).await.json(202);
    let result = api.get(&format!("/transcript/{}", accepted["jobId"].as_str().expect("an id"))).await;
    assert_eq!(result.json(200).get("callback"), None);
    // A listing says nothing of it.
    let page = api.get("/transcript/search?userId=ana").await.json(200);
    assert!(
        page["results"].as_array().expect("results").iter().all(|result| result.get("callback").is_none())
    );
}

#[tokio::test]
async fn callback_addresses_that_are_refused() {
    let api = Api::new();
    for (url, why) in [
        (json!(7), "must be a string"),
        (json!(""), "is not a valid URL"),
        (json!("receiver.example/hook"), "is not a valid URL"),
        (json!("http://receiver.example/hook"), "must begin with https://"),
        (json!("ftp://receiver.example/hook"), "must begin with https://"),
        (
            json!("https://other.example/hook"),
            "has the host \"other.example\", which this service is not configured to call",
        ),
        (json!("https://receiver.example:8443/"), "has the host \"receiver.example:8443\""),
        (json!("https://receiver.example.evil.example/"), "has the host"),
        (json!("https://user:pass@receiver.example/"), "must not contain a user name"),
        (json!("https://receiver.example@169.254.169.254/"), "must not contain a user name"),
        (json!("https://receiver.example/#x"), "must not have a fragment"),
        (json!("https://receiver.example/a\r\nhost: x"), "must not contain spaces"),
        (json!("https://127.0.0.1/"), "must have a host name, not an IP address"),
        (json!("https://2130706433/"), "must have a host name, not an IP address"),
        (json!("https://0177.0.0.1/"), "must have a host name, not an IP address"),
        (json!("https://[::ffff:10.0.0.1]/"), "must have a host name, not an IP address"),
        (json!("http://127.0.0.1:9098/"), "must begin with https://"),
        (json!("http://localhost:9099/"), "must begin with https://"),
        (json!(format!("https://receiver.example/{}", "x".repeat(2048))), "must have at most 2048 bytes"),
    ] {
        api.transcribe(&body_with("callbackUrl", url)).await.assert_fault("#/callbackUrl", why);
    }
}

#[tokio::test]
async fn without_hosts_callbacks_are_refused() {
    let api = Api::with(|state| AppState { callback_hosts: Arc::default(), ..state });
    let detail = "is not accepted: webhooks are disabled on this server (LONGHAND_CALLBACK_HOSTS)";
    api.transcribe(&body_with("callbackUrl", json!(URL))).await.assert_fault("#/callbackUrl", detail);
}

#[tokio::test]
async fn another_address_is_another_request_under_an_idempotency_key() {
    let api = Api::new();
    let submit = async |url: &str| {
        let request = Request::post("/transcribe").header("idempotency-key", "k");
        let body = body_with("callbackUrl", json!(url)).to_string();
        api.send(request.body(Body::from(body)).expect("a request")).await
    };
    let first = submit(URL).await.json(202);
    assert_eq!(submit(URL).await.json(202), first);
    submit("https://receiver.example/other").await.problem(422, "IDEMPOTENCY_KEY_REUSED");
}
