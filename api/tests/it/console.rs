//! The console: its files, its policy, and what it learns of its caller.

use std::sync::Arc;

use axum::body::Body;
use axum::http::Request;
use longhand_api::AppState;
use longhand_shared::domain::path::AudioSources;
use serde_json::{Value, json};

use crate::issuer::{api_by_secret, claims, token_by_secret};
use crate::support::{Answer, Api};

async fn get(api: &Api, path: &str, headers: &[(&str, &str)]) -> Answer {
    let mut request = Request::get(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    api.send(request.body(Body::empty()).expect("a request")).await
}

fn json(answer: &Answer) -> Value {
    serde_json::from_slice(&answer.body).expect("JSON")
}

#[tokio::test]
async fn the_page_allows_itself_and_places_of_audio() {
    let api = Api::with(|state| {
        let buckets = vec!["audio".to_owned(), "more".to_owned()];
        let hosts = "good.example, *.cdn.example:8443, http://127.0.0.1:9000".parse().expect("hosts");
        let sources = AudioSources { buckets, hosts, root: None };
        AppState { sources: Arc::new(sources), ..state }
    });
    let page = api.get("/console").await;
    assert_eq!((page.status.as_u16(), page.header("content-type")), (200, "text/html; charset=utf-8"));
    let buckets = "https://audio.s3.us-east-1.amazonaws.com https://more.s3.us-east-1.amazonaws.com";
    let expected = format!(
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self' {buckets}; \
         media-src 'self' blob: {buckets} https://good.example https://*.cdn.example:8443 http://127.0.0.1:9000; \
         img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    assert_eq!(page.header("content-security-policy"), expected);
    assert_eq!(page.header("referrer-policy"), "no-referrer");
    // What the policy would refuse.
    for bad in ["<style", "style=", "<script>", "onclick", "://", "=\"/"] {
        assert!(!page.text().contains(bad), "{bad}");
    }
}

#[tokio::test]
async fn every_file_that_the_page_names_is_served() {
    let api = Api::new();
    let page = api.get("/console").await;
    let names: Vec<_> = page.text().split('"').filter(|text| text.starts_with("console/")).collect();
    assert!(names.len() > 10, "{names:?}");
    for name in names {
        let file = api.get(&format!("/{name}")).await;
        assert_eq!(file.status, 200, "{name}");
        assert_eq!(file.header("x-content-type-options"), "nosniff");
        let packed = get(&api, &format!("/{name}"), &[("accept-encoding", "br, gzip")]).await;
        assert_eq!((packed.header("content-encoding"), packed.header("vary")), ("gzip", "accept-encoding"));
        assert_eq!(&packed.body[..2], b"\x1f\x8b");
        let tag = file.header("etag");
        assert_eq!(packed.header("etag"), tag);
        assert_eq!(get(&api, &format!("/{name}"), &[("if-none-match", tag)]).await.status, 304, "{name}");
        // What a module imports exists too.
        for import in file.text().split("from \"./").skip(1).filter_map(|rest| rest.split('"').next()) {
            assert_eq!(api.get(&format!("/console/{import}")).await.status, 200, "{name}: {import}");
        }
    }
    for missing in ["/console/nothing.js", "/console/../Cargo.toml", "/console/vendor"] {
        api.get(missing).await.problem(404, "ROUTE_NOT_FOUND");
    }
    assert_eq!(api.get("/console/").await.header("location"), "../console");
}

#[tokio::test]
async fn the_page_learns_how_to_sign_in() {
    let open = Api::new();
    let config = json(&open.get("/console/config.json").await);
    assert_eq!(
        (&config["auth"], &config["streams"], &config["uploads"]),
        (&json!("none"), &json!(true), &json!(true))
    );
    let session = json(&open.get("/console/session.json").await);
    assert_eq!(session, json!({"userId": null, "operator": true}));
    let gateway = get(&open, "/console/config.json", &[("longhand-gateway", "lambda")]).await;
    assert_eq!(json(&gateway)["streams"], false);

    let api = api_by_secret();
    assert_eq!(json(&api.get("/console/config.json").await)["auth"], "jwt");
    api.get("/console/session.json").await.problem(401, "UNAUTHORIZED");
    let token = token_by_secret(&claims("ana"));
    let session = json(&api.call_as(&token, "GET", "/console/session.json", "").await);
    assert_eq!(session, json!({"userId": "ana", "operator": false}));
}

#[tokio::test]
async fn every_outcome_and_error_of_a_chunk_is_explained() {
    let api = Api::new();
    let description: Value = serde_json::from_slice(&api.get("/openapi.json").await.body).expect("JSON");
    let file = api.get("/console/timeline.js").await;
    for schema in ["ErrorCode", "AttemptOutcome"] {
        let schema = &description["components"]["schemas"][schema];
        let names = schema["enum"].as_array().into_iter().flatten();
        let one = schema["oneOf"].as_array().into_iter().flatten().map(|one| &one["const"]);
        let one = one.chain(schema["oneOf"].as_array().into_iter().flatten().map(|one| &one["enum"][0]));
        let names: Vec<_> = names.chain(one).filter_map(Value::as_str).collect();
        assert!(names.len() > 8, "{schema}");
        for name in names {
            assert!(file.text().contains(&format!("\n  {name}: ")), "{name}");
        }
    }
}
