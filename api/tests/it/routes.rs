//! What holds for every route: unknown paths, methods, request ids, probes.

use axum::body::Body;
use axum::http::Request;
use serde_json::json;

use crate::support::{Api, good_body};

#[tokio::test]
async fn unknown_routes() {
    let api = Api::new();
    for (method, path) in [
        ("GET", "/docs/"),
        ("GET", "/docs/swagger-ui.js"),
        ("GET", "/docs/..%2Fswagger-ui.css"),
        ("GET", "/transcript"),
        ("GET", "/transcript/"),
        ("GET", "/transcript/search/x"),
        ("POST", "/transcribe/"),
        ("DELETE", "/nothing"),
        ("GET", "//healthz"),
        ("GET", "/%ff%00%zz"),
        ("OPTIONS", "*"),
    ] {
        let problem = api.call(method, path).await.problem(404, "ROUTE_NOT_FOUND");
        assert_eq!(problem["detail"], "this path does not exist: see /openapi.json", "{path}");
    }
}

#[tokio::test]
async fn wrong_methods() {
    let api = Api::new();
    for (path, right, allow) in [
        ("/transcribe", &["POST"][..], "POST"),
        ("/transcript/search", &["GET", "HEAD"], "GET,HEAD"),
        ("/transcript/0198c1d2-7a3e-7cc0-8000-1c2d3e4f5a6b", &["GET", "HEAD", "DELETE"], "GET,HEAD,DELETE"),
        ("/transcript/0198c1d2-7a3e-7cc0-8000-1c2d3e4f5a6b/retry", &["POST"], "POST"),
        ("/healthz", &["GET", "HEAD"], "GET,HEAD"),
        ("/readyz", &["GET", "HEAD"], "GET,HEAD"),
        ("/serving", &["GET", "HEAD"], "GET,HEAD"),
    ] {
        for method in ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "BREW"] {
            if right.contains(&method) {
                continue;
            }
            let answer = api.call(method, path).await;
            let problem = answer.problem(405, "METHOD_NOT_ALLOWED");
            assert_eq!(answer.header("allow"), allow, "{method} {path}");
            let detail = "the path does not support this method; the Allow header lists those that it does";
            assert_eq!(problem["detail"], detail);
        }
    }
    let answer = api.call("HEAD", "/transcribe").await;
    assert_eq!((answer.status.as_u16(), answer.header("allow")), (405, "POST"));
}

#[tokio::test]
async fn head_is_get_without_its_body() {
    let api = Api::new();
    let job = api.transcribe(&good_body()).await.json(202);
    let path = format!("/transcript/{}", job["jobId"].as_str().expect("an id"));
    for path in
        [&path, "/healthz", "/readyz", "/transcript/search?userId=a&jobStatus=FAILED", "/transcript/x"]
    {
        let (get, head) = (api.get(path).await, api.call("HEAD", path).await);
        assert_eq!(head.status, get.status, "{path}");
        assert!(head.body.is_empty(), "{path}");
        // A problem holds the id of its request, always of one length when it is made here.
        for name in ["content-type", "content-length", "cache-control"] {
            assert_eq!(head.header(name), get.header(name), "{path}");
        }
        assert_eq!(get.header("content-length"), get.body.len().to_string());
    }
}

#[tokio::test]
async fn request_ids_are_kept_or_created() {
    let api = Api::new();
    let send = async |id: &str| {
        let request = Request::get("/nothing").header("x-request-id", id).body(Body::empty());
        api.send(request.expect("a request")).await
    };
    let kept = send("Root=1-67890abc/7").await;
    assert_eq!(kept.problem(404, "ROUTE_NOT_FOUND")["requestId"], "Root=1-67890abc/7");
    for bad in ["", "a b", "{}", &"x".repeat(200)] {
        let made = send(bad).await;
        assert_eq!(made.header("x-request-id").len(), 36, "{bad}");
        made.problem(404, "ROUTE_NOT_FOUND");
    }
    assert_ne!(
        api.get("/healthz").await.header("x-request-id"),
        api.get("/healthz").await.header("x-request-id")
    );
}

#[tokio::test]
async fn probes() {
    let api = Api::new();
    assert_eq!(api.get("/healthz").await.json(200), json!({"status": "ok"}));
    assert_eq!(api.get("/readyz").await.json(200), json!({"status": "ready", "missing": []}));
}
