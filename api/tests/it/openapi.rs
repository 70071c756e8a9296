//! The description against what it describes.

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::body::Body;
use axum::http::Request;
use longhand_api::AppState;
use longhand_shared::domain::idempotency::IdempotencyKey;
use longhand_shared::domain::path::AudioSources;
use longhand_shared::domain::transcript::TranscriptResult;
use longhand_shared::domain::upload::Uploads;
use regex_lite::Regex;
use serde_json::Value;

use crate::issuer::api_by_secret;
use crate::support::Api;

fn document() -> Value {
    serde_json::from_str(longhand_api::description()).expect("JSON")
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
fn the_committed_description_is_current() {
    let committed = include_str!("../../openapi.json");
    assert!(
        committed == longhand_api::description(),
        "api/openapi.json is stale. Renew it: cargo run -p longhand-api -- --openapi > api/openapi.json"
    );
}

#[tokio::test]
async fn the_description_is_served_without_credentials() {
    let api = api_by_secret();
    let description = api.get("/openapi.json").await;
    let text = longhand_api::description().replace("s3://audio/samples/", "samples/");
    assert_eq!((description.status.as_u16(), description.text()), (200, text.as_str()));
    assert_eq!(description.header("content-type"), "application/json");
    assert_eq!(description.header("cache-control"), "public, max-age=3600");
}

#[tokio::test]
async fn the_docs_page_has_its_files_and_a_strict_policy() {
    let api = api_by_secret();
    let root = api.get("/").await;
    assert_eq!((root.status.as_u16(), root.header("location")), (307, "docs"));
    let page = api.get("/docs").await;
    assert_eq!((page.status.as_u16(), page.header("content-type")), (200, "text/html; charset=utf-8"));
    let policy = page.header("content-security-policy");
    assert!(policy.starts_with("default-src 'none'; script-src 'self'; style-src 'self';"), "{policy}");
    assert!(!policy.contains("unsafe") && !policy.contains("http"), "{policy}");
    assert!(!page.text().contains("://") && !page.text().contains("=\"/"), "only relative addresses");
    let addresses = page.text().split('"').filter(|text| text.starts_with("docs/"));
    let types = addresses.map(async |address| {
        let file = api.get(&format!("/{address}")).await;
        assert_eq!(file.status, 200, "{address}");
        // A load balancer passes on no more to a function's client.
        assert!((1..700_000).contains(&file.body.len()), "{address}");
        assert_eq!(file.header("cache-control"), "public, max-age=3600");
        file.header("content-type").to_owned()
    });
    let types = futures::future::join_all(types).await;
    assert_eq!(types, ["text/css", "image/png", "text/javascript", "text/javascript"]);
}

#[tokio::test]
async fn the_first_example_is_of_audio_that_this_service_may_read() {
    for (root, buckets, path) in [
        (true, &["mine"][..], "samples/lv_0870.wav"),
        (false, &["mine", "other"], "s3://mine/samples/lv_0870.wav"),
    ] {
        let api = Api::with(|state| {
            let buckets = buckets.iter().map(|name| (*name).to_owned()).collect();
            let root = state.sources.root.clone().filter(|_| root);
            AppState { sources: Arc::new(AudioSources { buckets, root, ..AudioSources::default() }), ..state }
        });
        let description = api.get("/openapi.json").await;
        let description: Value = serde_json::from_str(description.text()).expect("JSON");
        let body = &description["paths"]["/transcribe"]["post"]["requestBody"]["content"]["application/json"];
        let example = &body["examples"]["example"]["value"];
        assert_eq!(example["audioChunkPaths"][0], path);
        api.transcribe(example).await.json(202);
    }
}

#[tokio::test]
async fn every_path_is_described_with_all_its_methods() {
    let document = document();
    let described: BTreeSet<String> = operations(&document).into_iter().map(|(path, ..)| path).collect();
    assert_eq!(described.len(), 14);

    let api = Api::new();
    for path in described {
        let methods = document["paths"][&path].as_object().expect("methods").keys();
        let methods: BTreeSet<String> = methods.map(|method| method.to_uppercase()).collect();
        let refused = api.call("BREW", &path.replace("{jobId}", "x").replace("{index}", "0")).await;
        refused.problem(405, "METHOD_NOT_ALLOWED");
        let allowed = refused.header("allow").split(',').map(|method| method.trim().to_owned());
        let allowed: BTreeSet<String> = allowed.filter(|method| method != "HEAD").collect();
        assert_eq!(methods, allowed, "{path}");
    }
}

#[tokio::test]
async fn every_example_of_a_request_is_accepted() {
    let mut seen = 0;
    // Those of a job need one, and have tests of their own.
    let document = document();
    let alone = operations(&document).into_iter().filter(|(path, ..)| !path.contains('{'));
    for (path, method, operation) in alone {
        let content = &operation["requestBody"]["content"]["application/json"];
        for example in content["examples"].as_object().into_iter().flat_map(|examples| examples.values()) {
            let mut request = Request::builder().method(&*method).uri(&path);
            for parameter in operation["parameters"].as_array().into_iter().flatten() {
                // A wait would end by its time, not with the job: there are no workers here.
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
fn every_request_body_excludes_unknown_fields() {
    let document = document();
    let mut objects = 0;
    for (path, method, operation) in operations(&document) {
        let mut schemas = vec![&operation["requestBody"]["content"]["application/json"]["schema"]];
        while let Some(mut schema) = schemas.pop() {
            if let Some(reference) = schema["$ref"].as_str() {
                schema = document.pointer(&reference[1..]).expect("a schema of the document");
            }
            if let Some(properties) = schema["properties"].as_object() {
                assert_eq!(schema["additionalProperties"], false, "{method} {path}: {schema}");
                schemas.extend(properties.values());
                objects += 1;
            }
            schemas.extend(schema.get("items"));
        }
    }
    assert_eq!(objects, 4);
}

#[test]
fn an_idempotency_key_is_described_as_it_is_read() {
    let document = document();
    let parameters = document["paths"]["/transcribe"]["post"]["parameters"].as_array().expect("parameters");
    let key =
        parameters.iter().find(|parameter| parameter["name"] == "Idempotency-Key").expect("a parameter");
    let limit = |name: &str| key["schema"][name].as_u64().and_then(|limit| usize::try_from(limit).ok());
    let lengths = limit("minLength").expect("a number")..=limit("maxLength").expect("a number");
    let pattern = Regex::new(key["schema"]["pattern"].as_str().expect("a text")).expect("a pattern");

    let mut texts = vec![String::new()];
    for _ in 0..4 {
        let longer = texts.iter().flat_map(|text| ["\"", "a", " ", "é"].map(|next| text.clone() + next));
        texts = [String::new()].into_iter().chain(longer).collect();
    }
    let long = (252..=258).map(|length| "a".repeat(length));
    texts.extend(
        long.flat_map(|text| [format!("\"{text}\""), format!("\"{text}"), format!("{text}\""), text]),
    );
    for text in texts {
        let described = lengths.contains(&text.len()) && pattern.is_match(&text);
        assert_eq!(described, IdempotencyKey::try_from(text.clone()).is_ok(), "{text:?}");
    }
}

#[test]
fn every_example_of_an_answer_is_one() {
    let mut seen = BTreeSet::new();
    for (path, method, operation) in operations(&document()) {
        for (status, answer) in operation["responses"].as_object().expect("answers") {
            let content = &answer["content"]["application/json"];
            let schema = &content["schema"];
            let schema = schema["$ref"].as_str().or(schema["anyOf"][0]["$ref"].as_str()).unwrap_or_default();
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
