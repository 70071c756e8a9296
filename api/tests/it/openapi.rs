//! The description against what it describes.

use std::collections::BTreeSet;

use axum::body::Body;
use axum::http::Request;
use longhand_api::openapi;
use longhand_shared::transcript::TranscriptResult;
use longhand_shared::upload::Uploads;
use serde_json::Value;

use crate::issuer::api_by_secret;
use crate::support::Api;

fn document() -> Value {
    serde_json::from_str(openapi::text()).expect("JSON")
}

/// Every operation, with its path and method.
fn operations(document: &Value) -> Vec<(String, String, Value)> {
    let paths = document["paths"].as_object().expect("paths");
    let of_path = |(path, methods): (&String, &Value)| {
        let methods = methods.as_object().expect("methods").clone();
        let path = path.clone();
        methods.into_iter().map(move |(method, operation)| (path.clone(), method.to_uppercase(), operation))
    };
    paths.iter().flat_map(of_path).collect()
}

#[test]
fn the_committed_description_is_the_code_s() {
    let committed = include_str!("../../openapi.json");
    assert!(
        committed == openapi::text(),
        "api/openapi.json is stale. Renew it: cargo run -p longhand-api -- --openapi > api/openapi.json"
    );
}

#[tokio::test]
async fn description_and_page_are_served_to_all() {
    let api = api_by_secret();
    let description = api.get("/openapi.json").await;
    assert_eq!((description.status.as_u16(), description.text()), (200, openapi::text()));
    assert_eq!(description.header("content-type"), "application/json");
    assert_eq!(description.header("cache-control"), "public, max-age=3600");
    let page = api.get("/docs").await;
    assert_eq!(page.status, 200);
    assert_eq!(page.header("content-type"), "text/html; charset=utf-8");
    // Nothing is loaded from elsewhere, and only what is known by its hash is run.
    let policy = page.header("content-security-policy");
    assert!(policy.starts_with("default-src 'none'; script-src 'sha256-"), "{policy}");
    assert!(!policy.contains("unsafe") && !policy.contains("http"), "{policy}");
    assert!(!page.text().contains("src=") && !page.text().contains("://"));
}

#[tokio::test]
async fn every_route_is_described_and_no_other() {
    let document = document();
    let described: BTreeSet<String> = operations(&document).into_iter().map(|(path, ..)| path).collect();
    let routes = include_str!("../../src/lib.rs").split(".route(\"").skip(1);
    let routes: BTreeSet<String> =
        routes.filter_map(|rest| rest.split_once('"')).map(|(path, _)| path.to_owned()).collect();
    assert_eq!(described, routes);

    let api = Api::new();
    for path in described {
        let methods = document["paths"][&path].as_object().expect("methods").keys();
        let methods: BTreeSet<String> = methods.map(|method| method.to_uppercase()).collect();
        let refused = api.call("BREW", &path.replace("{jobId}", "x")).await;
        refused.problem(405, "METHOD_NOT_ALLOWED");
        let allowed = refused.header("allow").split(',').map(|method| method.trim().to_owned());
        let allowed: BTreeSet<String> = allowed.filter(|method| method != "HEAD").collect();
        assert_eq!(methods, allowed, "{path}");
    }
}

#[tokio::test]
async fn every_example_of_a_request_is_taken() {
    let mut seen = 0;
    for (path, method, operation) in operations(&document()) {
        let content = &operation["requestBody"]["content"]["application/json"];
        for example in content["examples"].as_object().into_iter().flat_map(|examples| examples.values()) {
            let mut request = Request::builder().method(&*method).uri(&path);
            for parameter in operation["parameters"].as_array().into_iter().flatten() {
                // A wait would end with the time, not with the job: nobody works here.
                if parameter["in"] == "header" && parameter["name"] != "Prefer" {
                    let example = parameter["example"].as_str().expect("an example");
                    request = request.header(parameter["name"].as_str().expect("a name"), example);
                }
            }
            let body = Body::from(example["value"].to_string());
            let request = request.header("content-type", "application/json").body(body);
            let answer = Api::new().send(request.expect("a request")).await;
            assert!(answer.status.is_success(), "{method} {path}: {}", answer.text());
            let described = &operation["responses"][answer.status.as_str()];
            let example = &described["content"]["application/json"]["examples"]["example"]["value"];
            let json: Value = serde_json::from_slice(&answer.body).expect("JSON");
            let keys = |value: &Value| {
                value.as_object().expect("an object").keys().cloned().collect::<BTreeSet<_>>()
            };
            assert_eq!(keys(&json), keys(example), "{method} {path}");
            seen += 1;
        }
    }
    assert_eq!(seen, 2);
}

#[test]
fn every_example_of_an_answer_is_one() {
    let mut seen = BTreeSet::new();
    for (path, method, operation) in operations(&document()) {
        for (status, answer) in operation["responses"].as_object().expect("answers") {
            let content = &answer["content"]["application/json"];
            let schema = content["schema"]["$ref"].as_str().unwrap_or_default();
            let example = content["examples"]["example"]["value"].clone();
            let name = schema.rsplit('/').next().unwrap_or_default();
            let read = match name {
                "TranscriptResult" => same(&example, serde_json::from_value::<TranscriptResult>),
                "Uploads" => same(&example, serde_json::from_value::<Uploads>),
                "SearchResults" => {
                    let results = example["results"].as_array().expect("results");
                    results.iter().all(|result| same(result, serde_json::from_value::<TranscriptResult>))
                }
                _ => continue,
            };
            assert!(read, "{method} {path} {status}");
            seen.insert(name.to_owned());
        }
    }
    assert_eq!(seen.len(), 3, "{seen:?}");
}

/// Whether an example is read, and written again as it was.
fn same<T: serde::Serialize>(example: &Value, read: impl Fn(Value) -> serde_json::Result<T>) -> bool {
    let read = read(example.clone()).expect("an example that fits its type");
    serde_json::to_value(read).expect("JSON") == *example
}

#[test]
fn every_error_code_is_listed_with_its_status() {
    let source = include_str!("../../src/error.rs");
    let (_, source) = source.split_once("fn status_and_code").expect("the one place");
    let (source, _) = source.split_once("\n    }\n").expect("its end");
    let mut codes = BTreeSet::new();
    for entry in source.split("(StatusCode::").skip(1) {
        let (status, rest) = entry.split_once(", \"").expect("a status with its code");
        let (code, _) = rest.split_once('"').expect("a code");
        codes.insert((code.to_owned(), status.to_owned()));
    }
    let name = |status: u16| {
        let title =
            axum::http::StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason());
        title.expect("a known status").to_uppercase().replace(' ', "_")
    };
    let listed: BTreeSet<_> =
        openapi::errors::ERRORS.iter().map(|error| (error.code.to_owned(), name(error.status))).collect();
    assert_eq!(listed, codes);
    let readme = include_str!("../../../README.md");
    let table = openapi::errors::table();
    assert!(readme.contains(&table), "the README's table of error codes is stale. It is:\n{table}");
}
